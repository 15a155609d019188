//! `list` and `reconcile` in a cloud of 10,000 VMs with 25,000 mirrored disks: what they cost onemirror itself.
//!
//! Another process stands for the front-ends, and answers with the documents of real ones. The clusters are in this process, and
//! answer at once, but for the images that are said to be stuck. `cargo bench --bench large -- list|reconcile|stuck`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a bench that cannot go on ends"
)]

mod cluster;
mod front_end;
#[path = "../../tests/simulated/unasked.rs"]
mod unasked;

use cluster::FakeCluster;
use onemirror::audit::Entry;
use onemirror::ceph::{CephCalls, Connection, PeerConnection};
use onemirror::config::Config;
use onemirror::opennebula::{Client, ClientOptions, OneError, OpenNebula};
use onemirror::operations::{overview, reconcile};
use onemirror::sites::{Audit, Connector, Environment, RealTime, Sites};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use tokio::time::Instant;

const VMS: usize = 10_000;
const DISKS: usize = 25_000;
/// One of so many images is stuck.
const STUCK: usize = 100;
const CONFIG: &str = include_str!("../../tests/fixtures/config/two-sites.conf");

/// The disks of a VM: two or three.
fn disks_of(vm: usize) -> std::ops::Range<usize> {
    let first = |vm: usize| vm * DISKS / VMS;
    first(vm)..first(vm + 1)
}

struct Outside {
    endpoint: String,
    stuck: bool,
}

impl Connector for Outside {
    fn front_end(&self, options: ClientOptions) -> Result<Rc<dyn OpenNebula>, OneError> {
        Ok(Rc::new(Client::new(ClientOptions { endpoint: self.endpoint.clone(), ..options })?))
    }

    fn cluster(&self, connection: Connection) -> Rc<dyn CephCalls> {
        Rc::new(FakeCluster { site: connection.site, stuck: self.stuck })
    }

    fn peer_cluster(&self, peer: PeerConnection) -> Rc<dyn CephCalls> {
        self.cluster(peer.connection)
    }
}

struct NoAudit;

impl Audit for NoAudit {
    fn note(&self, _: &Entry) {}
}

fn sites(endpoint: &str, stuck: bool, folder: &Path) -> Sites {
    let auth = folder.join("auth");
    std::fs::write(&auth, "oneadmin:secret").unwrap();
    std::fs::set_permissions(&auth, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = CONFIG.replace("AUTH", auth.to_str().unwrap()).replace("ENDPOINT", endpoint);
    let environment = Environment {
        connector: Rc::new(Outside { endpoint: endpoint.to_owned(), stuck }),
        time: Rc::new(RealTime),
        audit: Rc::new(NoAudit),
        state_dir: folder.join("state"),
    };
    let config = Config::parse(&text, Path::new("onemirror.conf")).unwrap();
    Sites::within(config, "benches", environment).unwrap()
}

/// The most memory that this process has had, in megabytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

async fn measure(what: &str) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .arg("front-end")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut endpoint = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for time in ["for the first time after a boot of this machine", "again"] {
        let sites = sites(endpoint.trim(), what == "stuck", folder.path());
        let started = Instant::now();
        let found = match what {
            "list" => {
                let overview = overview::overview(&sites).await.unwrap();
                format!("{} VMs, {} concerns", overview.vms.len(), overview.concerns.len())
            }
            _ => format!("{} items", reconcile::reconcile(&sites).await.unwrap().items.len()),
        };
        let seconds = started.elapsed().as_secs_f64();
        println!("{what:<10} {seconds:7.1} s {:5} MB  ({found}; {time})", peak());
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    match words.first().map(String::as_str) {
        Some("front-end") => front_end::serve(),
        Some(what @ ("list" | "reconcile" | "stuck")) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(measure(what));
        }
        // each in a process of its own, for its own peak of memory
        _ => {
            for what in ["list", "reconcile", "stuck"] {
                assert!(Command::new(std::env::current_exe().unwrap()).arg(what).status().unwrap().success());
            }
        }
    }
}
