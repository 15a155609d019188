//! The engine between two clusters that are folders: what is done where something changes under a run.

use super::gate::Standing;
use super::images::VmImage;
use super::sites::Engine;
use crate::audit::AuditLog;
use crate::ceph::{Connection, Programs, RbdCommand, RunOn};
use crate::config::Config;
use crate::handoff::BootKind;
use crate::opennebula::{DiskImage, DiskKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// An image is two files, what `info` and what `image-meta list` say. One with a file `NAME.next` comes after it was
/// looked for. All other commands work, and are written down.
const RBD: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
shift 3
for word; do case $word in --image=*) name=${word#*=} ;; esac; done
case "$1 $2" in
  info*)
    [ -e "$name" ] && exec cat "$name"
    [ ! -e "$name.next" ] || mv "$name.next" "$name"
    echo "rbd: error opening image $name: (2) No such file or directory" >&2
    exit 2 ;;
  "image-meta list") exec cat "$name.metadata" ;;
  *) echo "rbd $*" >> calls ;;
esac
"#;

/// A lock is a file with its cookie. Where there is a file `stolen` everybody else has it by now.
const RADOS: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
for word; do case $word in --lock-cookie=*) cookie=${word#*=} ;; esac; done
verb=$5
while [ "$1" != -- ]; do shift; done
lock="lock.$2.$3"
case $verb in
  get) echo "lock $2" >> calls; printf %s "$cookie" > "$lock" ;;
  break) rm -f "$lock" ;;
  info)
    [ ! -e stolen ] || echo somebody > "$lock"
    [ ! -e "$lock" ] || printf '{"lockers":[{"name":"client.1","cookie":"%s"}]}' "$(cat "$lock")"
    [ -e "$lock" ] || printf '{"lockers":[]}' ;;
esac
"#;

const CONFIG: &str = r#"
[site]
name = "site-a"
role = "home"
auth = "AUTH"
[peer]
name = "site-b"
endpoint = "http://127.0.0.1:1/RPC2"
auth = "AUTH"
[peer.ceph]
conf = "/dev/null"
user = "libvirt"
"#;

/// A cluster that is a folder.
struct Cluster {
    folder: PathBuf,
    command: Rc<RbdCommand>,
}

impl Cluster {
    fn new(site: &str, folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let program = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (rbd, rados) = (program("rbd", RBD), program("rados", RADOS));
        let programs = Programs { rbd, rados, ceph: "false".into(), ssh: "false".into() };
        let connection = Connection {
            site: site.into(),
            conf: Some("/dev/null".into()),
            user: Some("libvirt".into()),
            keyfile: None,
            mon_host: None,
            run_on: RunOn::Local,
            deadline: Duration::from_secs(20),
        };
        Self { folder, command: Rc::new(RbdCommand::new(connection).with_programs(programs)) }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    /// Puts a primary image there: what is said of it in `file`.
    fn put(&self, file: &str, id: &str, global_id: &str) {
        self.write(
            file,
            &format!(
                r#"{{"name":"x","id":"{id}","size":16777216,"features":["exclusive-lock","journaling"],"mirroring":{{"mode":"journal","state":"enabled","global_id":"{global_id}","primary":true}}}}"#
            ),
        );
    }

    /// What was asked for that changes something.
    fn calls(&self) -> String {
        std::fs::read_to_string(self.folder.join("calls")).unwrap_or_default()
    }
}

/// A run on site-a, between two clusters in this folder.
fn run(folder: &Path) -> (Engine, Cluster, Cluster) {
    let auth = folder.join("auth");
    std::fs::write(&auth, "oneadmin:secret").unwrap();
    std::fs::set_permissions(&auth, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = CONFIG.replace("AUTH", auth.to_str().unwrap());
    let config = Config::parse(&text, Path::new("onemirror.conf")).unwrap();
    let mut engine = Engine::new(config, "test").unwrap();
    engine.state_dir = folder.join("state");
    engine.audit = AuditLog::open(&folder.join("log"));
    let (here, there) =
        (Cluster::new("site-a", folder.join("here")), Cluster::new("site-b", folder.join("there")));
    engine.cluster_there.borrow_mut().insert(None, there.command.clone());
    (engine, here, there)
}

fn image(cluster: &Cluster, disk_id: i32, name: &str) -> VmImage {
    let image = format!("one/{name}").parse().unwrap();
    let disk = DiskImage { disk_id, image, kind: DiskKind::Persistent, datastore_id: 1, base: None };
    VmImage { disk, cluster: cluster.command.clone() }
}

#[tokio::test]
async fn a_copy_that_comes_between_two_looks_is_locked_before_it_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, here, _there) = run(folder.path());
    for (file, name, id) in [("one-7", "one-7", "77aa"), ("one-8.next", "one-8", "88bb")] {
        here.put(file, "1633551d7564", id);
        let metadata = format!(
            r#"{{"onemirror.handoff":"1:site-a:open:{id}","onemirror.booted":"1:site-a:3:{id}","onemirror.home":"site-a:{id}"}}"#
        );
        here.write(&format!("{name}.metadata"), &metadata);
    }
    let images = [image(&here, 0, "one-7"), image(&here, 1, "one-8")];
    let outcome = engine.gate_loop(3, &images, BootKind::Cold, Standing::Last).await.unwrap();
    assert!(outcome.steps.is_empty(), "{:?}", outcome.steps);
    assert_eq!(here.calls(), "lock onemirror.77aa\nlock onemirror.77aa\nlock onemirror.88bb\n");
}

#[tokio::test]
async fn what_a_killed_run_began_to_set_aside_is_ended_under_locks_that_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, here, there) = run(folder.path());
    let kept = "one-7.lost-20261126T164500Z";
    here.put(kept, "10365947de3a", "77aa");
    there.put("one-7", "1633551d7564", "77aa");
    let note = r#"{"copy":"10365947de3a","site":"site-a","image":"one/one-7","vm":3,"since":"2026-11-26T16:45:00Z","why":"x"}"#;
    here.write(&format!("{kept}.metadata"), &serde_json::json!({ "onemirror.lost": note }).to_string());
    let kept = image(&here, -1, kept);
    for cluster in [&here, &there] {
        cluster.write("stolen", "");
        let error = engine.finish_set_aside(&kept).await.unwrap_err();
        assert!(error.to_string().contains("its lock ran out"), "{error}");
        assert!(!here.calls().contains("rbd"), "{}", here.calls());
        std::fs::remove_file(cluster.folder.join("stolen")).unwrap();
    }
    engine.finish_set_aside(&kept).await.unwrap();
    let calls = here.calls();
    let changes: Vec<&str> = calls.lines().filter(|call| call.starts_with("rbd")).collect();
    assert_eq!(changes.len(), 1, "{calls}");
    assert!(changes.iter().all(|call| call.starts_with("rbd mirror image disable")), "{calls}");
}
