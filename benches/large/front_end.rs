//! A front-end of a large cloud, as far as `list` and `reconcile` ask it.

use crate::{DISKS, VMS, disks_of};
use quick_xml::escape::escape;
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

const VM: &str = include_str!("../../tests/fixtures/opennebula/vm.running.site-a.xml");
const IMAGE: &str = include_str!("../../tests/fixtures/opennebula/image.persistent.site-b.xml");
const DATASTORE: &str = include_str!("../../tests/fixtures/opennebula/datastore.image.site-a.xml");
const USER: &str = "<USER><ID>0</ID><GID>0</GID><GROUPS><ID>0</ID></GROUPS><NAME>oneadmin</NAME></USER>";

/// What is between two marks, marks included.
fn between(text: &'static str, from: &str, to: &str) -> &'static str {
    let start = text.find(from).unwrap();
    &text[start..start + text[start..].find(to).unwrap() + to.len()]
}

fn vm(id: usize) -> String {
    let disk = between(VM, "<DISK>", "</DISK>");
    let disks = disks_of(id).enumerate().map(|(place, image)| {
        disk.replace("<![CDATA[one/one-0]]>", &format!("<![CDATA[one/one-{image}]]>"))
            .replace("<CLONE><![CDATA[YES]]>", "<CLONE><![CDATA[NO]]>")
            .replace("<SAVE><![CDATA[NO]]>", "<SAVE><![CDATA[YES]]><PERSISTENT><![CDATA[YES]]></PERSISTENT>")
            .replace("<IMAGE_ID><![CDATA[0]]>", &format!("<IMAGE_ID><![CDATA[{image}]]>"))
            .replace("<DISK_ID><![CDATA[0]]>", &format!("<DISK_ID><![CDATA[{place}]]>"))
    });
    VM.replacen("<ID>2</ID>", &format!("<ID>{id}</ID>"), 1)
        .replace(disk, &disks.collect::<String>())
        .replace(between(VM, "<ERROR>", "</ERROR>"), "")
}

fn image(id: usize) -> String {
    IMAGE
        .replacen("<ID>0</ID>", &format!("<ID>{id}</ID>"), 1)
        .replace("one/one-0-2-0", &format!("one/one-{id}"))
        .replace("<VMS/>", &format!("<VMS><ID>{}</ID></VMS>", (id * VMS) / DISKS))
}

/// Answers until its input ends; the address comes first.
pub(crate) fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let all = |name: &str, members: Vec<String>| {
        escape(format!("<{name}>{}</{name}>", members.concat())).into_owned()
    };
    let escaped = |document: String| escape(document).into_owned();
    let pools = HashMap::from([
        ("one.vmpool.infoextended", ("VM_POOL", (0..VMS).map(vm).map(escaped).collect())),
        ("one.imagepool.info", ("IMAGE_POOL", (0..DISKS).map(image).map(escaped).collect())),
    ]);
    let fixed = HashMap::from([
        ("one.datastorepool.info", all("DATASTORE_POOL", vec![DATASTORE.to_owned()])),
        ("one.datastore.info", escape(DATASTORE).into_owned()),
        ("one.user.info", escape(USER).into_owned()),
        ("one.hostpool.info", all("HOST_POOL", vec![])),
    ]);
    let answers = Arc::new((pools, fixed));
    println!("http://{}/RPC2", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let answers = answers.clone();
        std::thread::spawn(move || answer_all(&stream.unwrap(), &answers.0, &answers.1));
    }
}

type Pools = HashMap<&'static str, (&'static str, Vec<String>)>;

fn answer_all(stream: &TcpStream, pools: &Pools, fixed: &HashMap<&str, String>) {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or_default() == 0 {
                return;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        let answer = answer(&body, pools, fixed);
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n", answer.len());
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(answer.as_bytes())).is_err() {
            return;
        }
    }
}

fn answer(body: &str, pools: &Pools, fixed: &HashMap<&str, String>) -> String {
    let method = body.split_once("<methodName>").unwrap().1.split_once('<').unwrap().0;
    let numbers: Vec<i64> =
        body.split("<i4>").skip(1).map(|rest| rest.split_once('<').unwrap().0.parse().unwrap()).collect();
    let text = match (method, pools.get(method)) {
        (_, Some((name, members))) => {
            let (start, count) = (numbers[1] as usize, numbers[2].unsigned_abs() as usize);
            let page = members.iter().skip(start).take(count).map(String::as_str);
            let [head, tail] = [format!("<{name}>"), format!("</{name}>")];
            format!("{}{}{}", escape(head), page.collect::<String>(), escape(tail))
        }
        ("one.vm.info", _) => pools["one.vmpool.infoextended"].1[numbers[0] as usize].clone(),
        _ => fixed.get(method).unwrap_or_else(|| panic!("{method} is not answered")).clone(),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<methodResponse><params><param><value><array><data>\
         <value><boolean>1</boolean></value><value><string>{text}</string></value><value><i4>0</i4></value>\
         </data></array></value></param></params></methodResponse>"
    )
}
