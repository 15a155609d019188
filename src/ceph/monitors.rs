//! Whether a cluster's monitors answer. Ceph's own programs wait for silent ones as long as they are let; whether anybody
//! is there is known in seconds.

use super::command::Connection;
use ini::{Ini, ParseOption};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long they have to greet. A lost packet is sent again after a second; and who was just being restarted is back.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// Between two attempts at one address.
const PAUSE: Duration = Duration::from_millis(200);

/// How long an answer, or silence, is believed without another question.
const HOLDS: Duration = Duration::from_secs(10);

/// What a monitor says first: `ceph v027` (messenger 1, port 6789) or `ceph v2` (messenger 2, port 3300). See
/// `CEPH_BANNER` and `CEPH_BANNER_V2_PREFIX` in Ceph's include/msgr.h.
const GREETING: &[u8; 6] = b"ceph v";

/// The ports of a monitor whose address names none.
const PORTS: [u16; 2] = [3300, 6789];

/// The monitors of one cluster.
#[derive(Debug)]
pub(super) struct Monitors {
    /// `None`: where they are is not known here, so Ceph's programs have to find out.
    addresses: Option<Vec<Address>>,
    last: Cell<Option<Instant>>,
    /// Why they were silent then, if they were.
    silence: RefCell<Option<String>>,
    asking: tokio::sync::Mutex<()>,
}

/// Where a monitor may listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address(SocketAddr);

impl Monitors {
    /// Those that the connection leads to.
    pub(super) fn of(connection: &Connection) -> Self {
        let addresses = match &connection.mon_host {
            Some(mon_host) => addresses(mon_host),
            None => connection.conf.as_deref().and_then(|conf| in_conf(conf, connection.user.as_deref())),
        };
        let (last, silence) = (Cell::default(), RefCell::default());
        Self { addresses, last, silence, asking: tokio::sync::Mutex::default() }
    }

    /// Whether one of them answers, or may; the error says why not. Nothing is concluded from what is not understood.
    pub(super) async fn answer(&self) -> Result<(), String> {
        let Some(addresses) = self.addresses.as_deref().filter(|addresses| !addresses.is_empty()) else {
            return Ok(());
        };
        // those who come meanwhile want the same answer
        let _asking = self.asking.lock().await;
        if self.last.get().is_none_or(|last| last.elapsed() >= HOLDS) {
            let silence = self.ask(addresses).await.err();
            self.last.set(Some(Instant::now()));
            *self.silence.borrow_mut() = silence;
        }
        self.silence.borrow().clone().map_or(Ok(()), Err)
    }

    async fn ask(&self, addresses: &[Address]) -> Result<(), String> {
        let troubles: Vec<RefCell<Unheard>> = addresses.iter().map(|_| RefCell::default()).collect();
        let greetings =
            addresses.iter().zip(&troubles).map(|(address, trouble)| Box::pin(address.greets(trouble)));
        let outcome = timeout(PATIENCE, futures::future::select_all(greetings)).await;
        if outcome.is_ok() {
            return Ok(());
        }
        let reasons = addresses.iter().zip(&troubles).map(|(at, why)| format!("{at}: {}", why.borrow()));
        Err(format!("none of its monitors answers ({})", reasons.collect::<Vec<_>>().join("; ")))
    }
}

/// Why an address has not greeted.
#[derive(Debug, Default, thiserror::Error)]
enum Unheard {
    #[default]
    #[error("no connection")]
    NoConnection,
    #[error("connected, but Ceph does not greet")]
    NoGreeting,
    #[error("{0}")]
    Failed(#[from] std::io::Error),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Address {
    /// Ends once a monitor greets.
    async fn greets(&self, trouble: &RefCell<Unheard>) {
        while let Err(why) = self.greeting(trouble).await {
            *trouble.borrow_mut() = why;
            sleep(PAUSE).await;
        }
    }

    async fn greeting(&self, trouble: &RefCell<Unheard>) -> Result<(), Unheard> {
        let mut stream = TcpStream::connect(self.0).await?;
        *trouble.borrow_mut() = Unheard::NoGreeting;
        let mut said = [0; GREETING.len()];
        stream.read_exact(&mut said).await?;
        if said == *GREETING { Ok(()) } else { Err(Unheard::NoGreeting) }
    }
}

/// The monitors of a configuration file, by the most special section that names any. `None`: the file does not tell, or not
/// in a way that is understood.
fn in_conf(path: &Path, user: Option<&str>) -> Option<Vec<Address>> {
    let user = user.map_or("admin", |user| user.strip_prefix("client.").unwrap_or(user));
    let option = ParseOption { enabled_quote: true, enabled_escape: false, ..ParseOption::default() };
    let conf = Ini::load_from_file_opt(path, option).ok()?;
    let mon_host = ["global", "client", &format!("client.{user}")].into_iter().rev().find_map(|section| {
        // Ceph reads sections of one name as one, and in its names a blank is an underscore
        let mut all = conf.section_all(Some(section)).flat_map(|properties| properties.iter());
        all.rfind(|(key, _)| key.replace([' ', '-'], "_") == "mon_host").map(|(_, value)| value)
    })?;
    addresses(mon_host.split(['#', ';']).next().unwrap_or_default())
}

/// A list as `mon host` has it: `192.0.2.1`, `192.0.2.1:6789`, `[v2:192.0.2.1:3300/0,v1:192.0.2.1:6789/0]`, and IPv6 numbers
/// in brackets of their own. `None`: one of them is of no such form.
fn addresses(mon_host: &str) -> Option<Vec<Address>> {
    let mut found = Vec::new();
    for word in mon_host.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
        let word = ["[v1:", "[v2:"].iter().find_map(|group| word.strip_prefix(group)).unwrap_or(word);
        let word = ["v1:", "v2:", "any:"].iter().find_map(|kind| word.strip_prefix(kind)).unwrap_or(word);
        let (word, _nonce) = word.split_once('/').unwrap_or((word, ""));
        // what ends a group of one that has no nonce
        let word = if word.contains('[') { word } else { word.trim_end_matches(']') };
        found.extend(host_and_ports(word)?);
    }
    Some(found)
}

/// Of a number, with or without a port. A name is not understood: how long it takes to look it up says nothing of the cluster.
fn host_and_ports(word: &str) -> Option<Vec<Address>> {
    if let Ok(at) = word.parse::<SocketAddr>() {
        return Some(vec![Address(at)]);
    }
    let number = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
    let host: IpAddr = number.parse().ok()?;
    Some(PORTS.map(|port| Address(SocketAddr::new(host, port))).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::TcpListener;
    use tempfile::TempDir;

    fn read(mon_host: &str) -> Option<String> {
        let found = addresses(mon_host)?;
        Some(found.iter().map(Address::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn monitors_are_listed_as_ceph_lists_them() {
        let both = "192.0.2.1:3300 192.0.2.1:6789";
        for (mon_host, expected) in [
            ("192.0.2.1", both),
            ("192.0.2.1:6789", "192.0.2.1:6789"),
            ("[v2:192.0.2.1:3300/0,v1:192.0.2.1:6789/0]", both),
            ("[v2:192.0.2.1:3300,v1:192.0.2.1:6789]", both),
            ("v1:192.0.2.1:6789/0", "192.0.2.1:6789"),
            ("192.0.2.1:6789/0, 192.0.2.2:1", "192.0.2.1:6789 192.0.2.2:1"),
            ("[v2:[2001:db8::1]:3300/0,v1:[2001:db8::1]:6789/0]", "[2001:db8::1]:3300 [2001:db8::1]:6789"),
            ("[2001:db8::1]:6789", "[2001:db8::1]:6789"),
            (
                "[2001:db8::1] 2001:db8::2",
                "[2001:db8::1]:3300 [2001:db8::1]:6789 [2001:db8::2]:3300 [2001:db8::2]:6789",
            ),
            ("", ""),
        ] {
            assert_eq!(read(mon_host).as_deref(), Some(expected), "{mon_host}");
        }
        for mon_host in [
            "192.0.2.1:port",
            "192.0.2.1:70000",
            "mon-2.example.org",
            "mon-2:6789",
            "a_b",
            "[x]",
            "$(id)",
            "[v2:]",
            "mon:",
        ] {
            assert_eq!(read(mon_host), None, "{mon_host}");
        }
    }

    #[test]
    fn the_configuration_file_names_them() {
        let folder = TempDir::new().unwrap();
        let in_conf = |text: &str, user| {
            let path = folder.path().join("ceph.conf");
            std::fs::write(&path, text).unwrap();
            in_conf(&path, user)
                .map(|found| found.iter().map(Address::to_string).collect::<Vec<_>>().join(" "))
        };
        let line = "[global]\nfsid = 1\nmon host = [v2:192.0.2.1:3300/0] # all\n[mon]\nmon data = /x\n";
        assert_eq!(in_conf(line, None).unwrap(), "192.0.2.1:3300");
        let special =
            format!("{line}[client]\nmon_host = 192.0.2.2:1\n[client.libvirt]\nmon-host=192.0.2.3:1\n");
        for (user, expected) in
            [(Some("libvirt"), "192.0.2.3:1"), (Some("client.libvirt"), "192.0.2.3:1"), (None, "192.0.2.2:1")]
        {
            assert_eq!(in_conf(&special, user).unwrap(), expected);
        }
        let twice = format!("{line}[global]\nmon_host = 192.0.2.4:1\n");
        assert_eq!(in_conf(&twice, None).unwrap(), "192.0.2.4:1");
        assert_eq!(in_conf("[global]\nfsid = 1\n", None), None);
        assert_eq!(in_conf("no = section\n[broken\n", None), None);
        assert_eq!(super::in_conf(&folder.path().join("none"), None), None);
    }

    fn monitors(at: &[SocketAddr]) -> Monitors {
        let mon_host = at.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        Monitors::of(&Connection {
            site: "site-a".into(),
            conf: None,
            user: None,
            keyfile: None,
            mon_host: Some(mon_host),
            run_on: super::super::RunOn::Local,
            librbd: super::super::LibraryUse::Never,
            deadline: Duration::from_secs(30),
        })
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    /// One that says this to everybody who comes.
    fn that_says(greeting: &'static [u8]) -> SocketAddr {
        let (listener, at) = listener();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let _ = stream.write_all(greeting);
                open.push(stream);
            }
        });
        at
    }

    fn that_refuses() -> SocketAddr {
        listener().1
    }

    #[tokio::test]
    async fn one_that_greets_is_enough() {
        let (_hangs, hung) = listener();
        for greeting in [&b"ceph v027"[..], b"ceph v2\n"] {
            let all = monitors(&[that_refuses(), hung, that_says(greeting)]);
            assert_eq!(all.answer().await, Ok(()));
        }
        // nobody knows where they are
        let nowhere = Monitors { addresses: None, ..monitors(&[]) };
        assert_eq!(nowhere.answer().await, Ok(()));
    }

    #[tokio::test]
    async fn who_refuses_hangs_or_is_somebody_else_is_silent() {
        let (_hangs, hung) = listener();
        let all = monitors(&[that_refuses(), hung, that_says(b"SSH-2.0-x")]);
        let why = all.answer().await.unwrap_err();
        assert!(
            why.starts_with("none of its monitors answers (127.0.0.1:") && why.contains("refused"),
            "{why}"
        );
        assert_eq!(why.matches("does not greet").count(), 2, "{why}");
        // the next question is answered at once, with the same words
        assert_eq!(all.answer().await, Err(why));
    }

    #[tokio::test]
    async fn who_answers_again_is_heard() {
        let at = that_refuses();
        let all = monitors(&[at]);
        all.answer().await.unwrap_err();
        let listener = TcpListener::bind(at).unwrap();
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"ceph v2\n")))
        });
        assert_eq!(monitors(&[at]).answer().await, Ok(()));
    }
}
