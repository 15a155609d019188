//! The front-end as a whole, with drivers that only write down that they were called.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::front_end::{FrontEnd, Settings, lay_out};
use crate::methods;
use crate::xml::{self, Element, shape};
use crate::xmlrpc::{Answer, Call, Value};

const WRITER: &str = "import json, os, signal, sys\nd = json.load(open(sys.argv[1]))\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nopen(d['pid_file'], 'w').write(str(os.getpid()))\nopen(d['ready_file'], 'w').close()\nwhile True: signal.pause()\n";
/// Notes the call; fails with the text of `var/fail.<action>` while that file is there.
const DRIVER: &str = "#!/bin/sh\naction=$(basename \"$0\")\necho \"$action $*\" >> calls\nif [ -f \"fail.$action\" ]; then cat \"fail.$action\" >&2; exit 1; fi\n";

struct Site {
    location: tempfile::TempDir,
    front_end: Arc<FrontEnd>,
}

impl Drop for Site {
    fn drop(&mut self) {
        // domains outlive the front-end, so a test has to end them
        for entry in std::fs::read_dir(self.var("vms")).into_iter().flatten().flatten() {
            let pid = std::fs::read_to_string(entry.path().join("domain.pid")).unwrap_or_default();
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// A front-end that looks at its domains often.
pub fn open(location: &Path) -> Arc<FrontEnd> {
    let settings = Settings {
        location: location.to_owned(),
        name: "vm".into(),
        writer: location.join("writer"),
        rate: 20.0,
        monitor_interval: Duration::from_millis(10),
        first_monitoring: Duration::ZERO,
        settle_delay: Duration::from_millis(20),
    };
    let front_end = FrontEnd::open(settings, "oneadmin:secret".into()).unwrap();
    tokio::spawn(Arc::clone(&front_end).monitor());
    front_end
}

impl Site {
    async fn new() -> Self {
        let location = tempfile::tempdir().unwrap();
        lay_out(location.path(), None).unwrap();
        std::fs::write(location.path().join("writer"), WRITER).unwrap();
        let drivers = location.path().join("var/remotes/tm/ceph");
        std::fs::create_dir_all(&drivers).unwrap();
        for action in ["ln", "clone", "context", "mvds", "delete", "mv", "mkimage"] {
            std::fs::write(drivers.join(action), DRIVER).unwrap();
            std::fs::set_permissions(drivers.join(action), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let site = Self { front_end: open(location.path()), location };
        let ceph = "CEPH_CONF=\"/etc/ceph/site-a.conf\"\nCEPH_USER=libvirt\nPOOL_NAME=one\nBRIDGE_LIST=hosta\nCEPH_HOST=\"127.0.0.1:6790\"\nCEPH_SECRET=x\nTM_MAD=ceph\n";
        let system = format!("NAME=ceph_sys\nTYPE=SYSTEM_DS\n{ceph}");
        let image = format!("NAME=ceph_img\nTYPE=IMAGE_DS\nDS_MAD=ceph\n{ceph}");
        assert_eq!(site.number("one.datastore.allocate", &[text(&system), Value::Number(-1)]).await, 100);
        assert_eq!(site.number("one.datastore.allocate", &[text(&image), Value::Number(-1)]).await, 101);
        let host = [text("hosta"), text("qemu"), text("qemu"), Value::Number(-1)];
        assert_eq!(site.number("one.host.allocate", &host).await, 0);
        for template in [
            "NAME=db\nSOURCE=\"one/one-0-2-0\"\nSIZE=64\nPERSISTENT=YES",
            "NAME=alpine\nDRIVER=raw\nSOURCE=\"one/one-1\"\nSIZE=64",
        ] {
            site.number("one.image.allocate", &[text(template), Value::Number(101)]).await;
        }
        site
    }

    fn var(&self, name: &str) -> PathBuf {
        self.location.path().join("var").join(name)
    }

    async fn call(&self, method: &str, arguments: &[Value]) -> Answer {
        let mut all = vec![text("oneadmin:secret")];
        all.extend_from_slice(arguments);
        methods::answer(&self.front_end, &Call { method: method.into(), arguments: all }).await
    }

    async fn number(&self, method: &str, arguments: &[Value]) -> i64 {
        match self.call(method, arguments).await {
            Answer::Success(Value::Number(number)) => number,
            other => panic!("{method}: {other:?}"),
        }
    }

    async fn document(&self, method: &str, arguments: &[Value]) -> Element {
        match self.call(method, arguments).await {
            Answer::Success(Value::Text(document)) => xml::parse(&document).unwrap(),
            other => panic!("{method}: {other:?}"),
        }
    }

    async fn refusal(&self, method: &str, arguments: &[Value]) -> (String, i64) {
        match self.call(method, arguments).await {
            Answer::Failure { message, code, .. } => (message, code as i64),
            other => panic!("{method}: {other:?}"),
        }
    }

    async fn create(&self, disks: &str) -> i64 {
        let template = format!("NAME=vm\nMEMORY=96\n{disks}");
        self.number("one.vm.allocate", &[text(&template), Value::Truth(false)]).await
    }

    async fn act(&self, vm: i64, action: &str) {
        self.number("one.vm.action", &[text(action), Value::Number(vm)]).await;
    }

    async fn vm(&self, vm: i64) -> Element {
        self.document("one.vm.info", &[Value::Number(vm), Value::Truth(false)]).await
    }

    async fn reaches(&self, vm: i64, state: &str, lcm_state: &str) {
        let mut last = String::new();
        for _ in 0..1500 {
            let document = self.vm(vm).await;
            let member = |name| document.child(name).unwrap().value().to_owned();
            last = format!("{} {}", member("STATE"), member("LCM_STATE"));
            if last == format!("{state} {lcm_state}") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("VM {vm} is in {last} and not in {state} {lcm_state}");
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.var("calls")).unwrap_or_default();
        let place = self.location.path().display().to_string();
        text.lines().map(|line| line.replace(&place, "LOC")).collect()
    }
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

const DISKS: &str = "DISK=[IMAGE_ID=0]\nCONTEXT=[FOO=bar,NETWORK=YES]";

#[tokio::test]
async fn a_vm_goes_up_and_down_with_the_captured_driver_calls() {
    let site = Site::new().await;
    let vm = site.create(DISKS).await;
    site.reaches(vm, "3", "3").await;
    site.act(vm, "poweroff").await;
    site.reaches(vm, "8", "0").await;
    site.act(vm, "resume").await;
    site.reaches(vm, "3", "3").await;
    let image = site.document("one.image.info", &[Value::Number(0)]).await;
    assert_eq!(image.child("STATE").unwrap().value(), "8");
    let (message, code) =
        site.refusal("one.vm.allocate", &[text("DISK=[IMAGE_ID=0]"), Value::Truth(false)]).await;
    assert!(message.ends_with("DISK 0: Cannot acquire image 0, it is persistent and already in use"));
    assert_eq!(code, 0x4000);
    site.act(vm, "terminate").await;
    site.reaches(vm, "6", "0").await;
    let image = site.document("one.image.info", &[Value::Number(0)]).await;
    assert_eq!(image.child("STATE").unwrap().value(), "1");
    assert_eq!(
        site.calls(),
        [
            "ln vm:one/one-0-2-0 hosta:LOC/var//datastores/100/0/disk.0 0 101",
            "context LOC/var/vms/0/context.sh hosta:LOC/var//datastores/100/0/disk.1 0 100",
            "context LOC/var/vms/0/context.sh hosta:LOC/var//datastores/100/0/disk.1 0 100",
            "mvds hosta:LOC/var//datastores/100/0/disk.0 one/one-0-2-0 0 101",
            "delete hosta:LOC/var//datastores/100/0 0 100",
        ]
    );
    assert!(site.var("vms/0/transfer.0.prolog").exists());
    assert!(site.var("vms/0/transfer.1.epilog").exists());
}

#[tokio::test]
async fn failures_are_shown_and_retried_whole() {
    let site = Site::new().await;
    std::fs::write(
        site.var("fail.context"),
        "ERROR: onemirror: detail\none-0-2-0 is primary on site-b; not booting\n",
    )
    .unwrap();
    let vm = site.create(DISKS).await;
    site.reaches(vm, "3", "36").await;
    let error = |document: Element| {
        document.child("USER_TEMPLATE").unwrap().child("ERROR").unwrap().value()[26..].to_owned()
    };
    assert_eq!(error(site.vm(vm).await), "DEPLOY: one-0-2-0 is primary on site-b; not booting");
    std::fs::remove_file(site.var("fail.context")).unwrap();
    site.number("one.vm.recover", &[Value::Number(vm), Value::Number(2)]).await;
    site.reaches(vm, "3", "3").await;
    site.act(vm, "poweroff-hard").await;
    site.reaches(vm, "8", "0").await;
    std::fs::write(site.var("fail.context"), "not now\n").unwrap();
    site.act(vm, "resume").await;
    loop {
        if error(site.vm(vm).await) == "DEPLOY: not now" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    site.reaches(vm, "8", "0").await;
    std::fs::write(site.var("fail.delete"), "busy\n").unwrap();
    site.act(vm, "terminate").await;
    site.reaches(vm, "3", "40").await;
    assert_eq!(error(site.vm(vm).await), "Error executing image transfer script: busy");
    std::fs::remove_file(site.var("fail.delete")).unwrap();
    site.number("one.vm.recover", &[Value::Number(vm), Value::Number(2)]).await;
    site.reaches(vm, "6", "0").await;
    let calls = site.calls();
    let mvds = calls.iter().filter(|call| call.starts_with("mvds ")).count();
    assert_eq!(mvds, 2, "a retry runs the whole script: {calls:?}");
}

/// The records that the domains of the tests write nothing for, but that must know which disks they have.
fn reloading_writer() -> String {
    let reload = "def reload(*_):\n    w = json.load(open(d['reload_file']))\n    json.dump({'generation': w['generation']}, open(d['reloaded_file'] + '.new', 'w'))\n    os.rename(d['reloaded_file'] + '.new', d['reloaded_file'])\nsignal.signal(signal.SIGUSR1, reload)\n";
    WRITER.replace("open(d['pid_file']", &format!("{reload}open(d['pid_file']"))
}

#[tokio::test]
async fn a_disk_that_the_drivers_refuse_is_not_attached_and_stays_where_it_cannot_be_detached() {
    let site = Site::new().await;
    std::fs::write(site.var("../writer"), reloading_writer()).unwrap();
    let vm = site.create("DISK=[IMAGE_ID=1]").await;
    site.reaches(vm, "3", "3").await;
    let attach = [Value::Number(vm), text("DISK=[IMAGE_ID=0]")];
    let image_state = async || {
        let image = site.document("one.image.info", &[Value::Number(0)]).await;
        image.child("STATE").unwrap().value().to_owned()
    };
    let rested = async |wanted: &str| loop {
        let document = site.vm(vm).await;
        let error = document.child("USER_TEMPLATE").unwrap().child("ERROR").map(|error| error.value());
        if document.child("LCM_STATE").unwrap().value() == "3"
            && error.is_some_and(|error| error.ends_with(wanted))
        {
            return document.compact().matches("<DISK>").count();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    std::fs::write(site.var("fail.ln"), "one-0-2-0 is primary on site-b\n").unwrap();
    site.number("one.vm.attach", &attach).await;
    assert_eq!(rested("ATTACHDISK: one-0-2-0 is primary on site-b").await, 1);
    assert_eq!(image_state().await, "1");
    std::fs::remove_file(site.var("fail.ln")).unwrap();
    site.number("one.vm.attach", &attach).await;
    site.reaches(vm, "3", "3").await;
    assert_eq!(image_state().await, "8");
    std::fs::write(site.var("fail.mvds"), "not now\n").unwrap();
    site.number("one.vm.detach", &[Value::Number(vm), Value::Number(1)]).await;
    assert_eq!(rested("DETACHDISK: not now").await, 2, "the domain has lost it, the VM still has it");
    assert_eq!(image_state().await, "8");
    let revert = [Value::Number(vm), Value::Number(0), Value::Number(0)];
    let (message, code) = site.refusal("one.vm.disksnapshotrevert", &revert).await;
    assert!(message.ends_with("Disk id (0) or snapshot id (0) is not valid."), "{message}");
    assert_eq!(code, 0x800);
    let calls: Vec<String> =
        site.calls().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(calls, ["clone", "ln", "ln", "mvds"]);
}

#[tokio::test]
async fn oneimage_delete_runs_the_driver_and_shows_that_it_failed() {
    let site = Site::new().await;
    site.number("one.image.delete", &[Value::Number(0)]).await;
    let error = async || loop {
        let image = site.document("one.image.info", &[Value::Number(0)]).await;
        if image.child("STATE").unwrap().value() == "5" {
            return image.child("TEMPLATE").unwrap().child("ERROR").unwrap().value()[24..].to_owned();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let wanted =
        " : Error removing image from datastore. Retry the operation or manually remove image source  and";
    assert!(error().await.starts_with(wanted), "no such driver: {}", error().await);
    let folder = site.var("remotes/datastore/ceph");
    std::fs::create_dir_all(&folder).unwrap();
    let driver = "#!/bin/sh\necho \"rm $*\" >> calls\nbase64 -d > document\nexit 1\n";
    std::fs::write(folder.join("rm"), driver).unwrap();
    std::fs::set_permissions(folder.join("rm"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // the driver fails again, but now the image is forgotten all the same
    site.number("one.image.delete", &[Value::Number(0), Value::Truth(true)]).await;
    while matches!(site.call("one.image.info", &[Value::Number(0)]).await, Answer::Success(_)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(site.calls(), ["rm 0"]);
    let document = std::fs::read_to_string(site.var("document")).unwrap();
    let document = xml::parse(&document).unwrap();
    assert_eq!(document.name, "DS_DRIVER_ACTION_DATA");
    let image = document.child("IMAGE").unwrap();
    assert_eq!(image.child("SOURCE").unwrap().value(), "one/one-0-2-0");
    assert_eq!(document.child("DATASTORE").unwrap().child("DS_MAD").unwrap().value(), "ceph");
}

#[tokio::test]
async fn undeploy_moves_and_resume_moves_back() {
    let site = Site::new().await;
    let vm = site.create("DISK=[IMAGE_ID=1]\nDISK=[TYPE=fs,SIZE=10]").await;
    site.reaches(vm, "3", "3").await;
    site.act(vm, "undeploy").await;
    site.reaches(vm, "9", "0").await;
    site.act(vm, "resume").await;
    site.reaches(vm, "3", "3").await;
    site.act(vm, "undeploy-hard").await;
    site.reaches(vm, "9", "0").await;
    site.act(vm, "terminate").await;
    site.reaches(vm, "6", "0").await;
    let words: Vec<String> = site
        .calls()
        .iter()
        .map(|call| {
            call.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
                .replace("LOC/var//datastores/100/", "")
        })
        .collect();
    assert_eq!(
        words,
        [
            "clone vm:one/one-1",
            "mkimage 10",
            "mv hosta:0/disk.0",
            "mv hosta:0/disk.1",
            "mv hosta:0",
            "mv vm:0/disk.0",
            "mv vm:0/disk.1",
            "mv vm:0",
            "mv hosta:0/disk.0",
            "mv hosta:0/disk.1",
            "mv hosta:0",
            "delete vm:0/disk.0",
            "delete vm:0/disk.1",
            "delete vm:0",
        ],
        "no context: this VM has no such section"
    );
}

#[tokio::test]
async fn a_dead_domain_is_noticed_also_after_a_restart() {
    let site = Site::new().await;
    let hook = "NAME=off\nTYPE=state\nRESOURCE=VM\nON=CUSTOM\nSTATE=POWEROFF\nLCM_STATE=LCM_INIT\nCOMMAND=\"/bin/true\"";
    site.number("one.hook.allocate", &[text(hook)]).await;
    let hook = "NAME=host\nTYPE=state\nRESOURCE=HOST\nSTATE=MONITORED\nCOMMAND=\"/bin/true\"";
    site.number("one.hook.allocate", &[text(hook)]).await;
    let (one, two) = (site.create("DISK=[IMAGE_ID=1]").await, site.create("DISK=[IMAGE_ID=1]").await);
    site.reaches(one, "3", "3").await;
    site.reaches(two, "3", "3").await;
    site.call("lab.control", &[text("domain-crash"), text("0")]).await;
    site.reaches(one, "8", "0").await;

    // what was stored is all that a second front-end on the same files has
    let again = open(site.location.path());
    let restarted = Call {
        method: "one.vm.info".into(),
        arguments: vec![text("oneadmin:secret"), Value::Number(two), Value::Truth(false)],
    };
    let Answer::Success(Value::Text(document)) = methods::answer(&again, &restarted).await else { panic!() };
    assert!(document.contains("<LCM_STATE>3</LCM_STATE>"));
    for _ in 0..1500 {
        let log = std::fs::read_to_string(site.var("hooks.log")).unwrap_or_default();
        if log.contains("HOST/MONITORED/") && log.contains("VM/POWEROFF/LCM_INIT") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the hooks did not run");
}

#[tokio::test]
async fn what_is_forgotten_is_gone_and_its_number_is_not_given_again() {
    let site = Site::new().await;
    let vm = site.create("DISK=[IMAGE_ID=1]").await;
    site.reaches(vm, "3", "3").await;
    site.call("lab.control", &[text("forget"), text("")]).await;
    site.refusal("one.vm.info", &[Value::Number(vm), Value::Truth(false)]).await;
    site.refusal("one.image.info", &[Value::Number(1), Value::Truth(false)]).await;
    assert_eq!(site.front_end.hypervisor().pid(vm), None);
    assert_eq!(site.create("").await, vm + 1);
}

#[tokio::test]
async fn documents_have_the_members_of_the_captured_ones() {
    let site = Site::new().await;
    let (first, second) = (site.create(DISKS).await, site.create("DISK=[IMAGE_ID=1]\nCONTEXT=[FOO=bar,NETWORK=YES]\nOS=[ARCH=x,INITRD=x,KERNEL=x,KERNEL_CMD=x,MACHINE=q35]\nRAW=[DATA=x,TYPE=kvm]\nTEMPLATE_ID=0").await);
    for vm in [first, second] {
        site.reaches(vm, "3", "3").await;
    }
    let same = |ours: &Element, capture: &str| {
        let theirs = xml::parse(capture).unwrap();
        assert_eq!(shape::of(ours), shape::of(&theirs));
    };
    // SHARED, CEPH_* and the rest as they were given when the captured ones were made
    let number = [Value::Number(101)];
    same(
        &site.document("one.datastore.info", &number).await,
        &without_second_image(include_str!("../../../tests/fixtures/opennebula/datastore.image.site-a.xml")),
    );
    same(
        &site.document("one.datastore.info", &[Value::Number(100)]).await,
        include_str!("../../../tests/fixtures/opennebula/datastore.system.site-a.xml"),
    );
    same(
        &site.document("one.image.info", &[Value::Number(1)]).await,
        include_str!("../../../tests/fixtures/opennebula/image.nonpersistent.site-a.xml"),
    );
    site.act(first, "terminate-hard").await;
    site.reaches(first, "6", "0").await;
    same(
        &site.document("one.image.info", &[Value::Number(0)]).await,
        include_str!("../../../tests/fixtures/opennebula/image.persistent.site-b.xml"),
    );
    loop {
        let host = site.document("one.host.info", &[Value::Number(0)]).await;
        if host.child("MONITORING").is_some_and(|monitoring| !monitoring.children().is_empty()) {
            same(&host, include_str!("../../../tests/fixtures/opennebula/host.site-a.xml"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut ours = site.vm(second).await;
    while ours.child("LAST_POLL").unwrap().value() == "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
        ours = site.vm(second).await;
    }
    site.number("one.vm.update", &[Value::Number(second), text("ERROR=\"x\""), Value::Number(1)]).await;
    for action in ["poweroff", "resume", "poweroff", "resume", "poweroff", "resume"] {
        site.act(second, action).await;
        let state = if action == "resume" { ("3", "3") } else { ("8", "0") };
        site.reaches(second, state.0, state.1).await;
    }
    same(&site.vm(second).await, include_str!("../../../tests/fixtures/opennebula/vm.running.site-a.xml"));
    let page = [Value::Number(-2), Value::Number(-1), Value::Number(-1), Value::Number(-1), text("")];
    same(
        &site.document("one.vmpool.infoextended", &page).await,
        &answer_of(include_str!("../../../tests/fixtures/opennebula/rpc.vmpool.infoextended.xml")),
    );
}

/// Two images live in the test's datastore, one in the captured one.
fn without_second_image(document: &str) -> String {
    document.replace("<IMAGES>\n    <ID>0</ID>", "<IMAGES>\n    <ID>1</ID>\n    <ID>0</ID>")
}

/// The document inside a captured answer.
fn answer_of(capture: &str) -> String {
    fn find(element: &Element) -> Option<String> {
        if element.name == "string" {
            return Some(element.value().to_owned());
        }
        element.children().iter().find_map(find)
    }
    find(&xml::parse(capture).unwrap()).unwrap()
}

#[tokio::test]
async fn refusals_and_pages_are_those_of_oned() {
    let site = Site::new().await;
    let vm = site.create("DISK=[IMAGE_ID=1]").await;
    site.create("DISK=[IMAGE_ID=1]").await;
    site.create("DISK=[IMAGE_ID=1]").await;
    site.reaches(vm, "3", "3").await;
    assert_eq!(
        site.refusal("one.vm.action", &[text("resume"), Value::Number(vm)]).await,
        (
            "[one.vm.action] Error performing action \"resume\": This action is not available for state RUNNING".into(),
            2048
        )
    );
    assert_eq!(
        site.refusal("one.vm.info", &[Value::Number(999), Value::Truth(false)]).await,
        ("[one.vm.info] Error getting virtual machine [999].".into(), 1024)
    );
    assert_eq!(site.call("one.nope", &[]).await, Answer::unknown_method("one.nope"));
    let wrong = Call { method: "one.vm.info".into(), arguments: vec![text("o:x"), Value::Number(0)] };
    assert_eq!(
        methods::answer(&site.front_end, &wrong).await.body(),
        include_str!("../../../tests/fixtures/opennebula/rpc.vm.info.badauth.xml")
    );
    for (start, end, wanted) in [(-1, -1, "210"), (1, -1, "21"), (1, 1, "1"), (0, -2, "21"), (1, -5, "10")] {
        let page = [Value::Number(-2), Value::Number(start), Value::Number(end), Value::Number(-2), text("")];
        let document = site.document("one.vmpool.infoextended", &page).await;
        let ids: String =
            document.children().iter().map(|vm| vm.child("ID").unwrap().value().to_owned()).collect();
        assert_eq!(ids, wanted, "{start} {end}");
    }
    let set = site.document("one.vmpool.infoset", &[text("0,2"), Value::Truth(true)]).await;
    assert_eq!(set.children().len(), 2);
}
