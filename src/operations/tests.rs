//! The sites between two clusters that are folders: what is done where something changes under a run.

use super::{FailoverOutcome, boot, failover, protection, rehome};
use crate::audit::AuditLog;
use crate::ceph::{CephCalls, Connection, PeerConnection, Programs, RbdCommand, RunOn};
use crate::config::Config;
use crate::opennebula::{ClientOptions, Datastore, OneError, OpenNebula, Vm};
use crate::sites::steps::{Cause, HeldLocks};
use crate::sites::{
    Cluster, Connector, Environment, ForceOrder, Sites, VmImage, VmImages, look, reach, set_aside, steps,
};
use onemirror_protocol::{BootKind, Carried, Depth, Here, Run, Side, Standing, Step, There};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// An image is two files, what `info` and what `image-meta list` say. One with a file `NAME.next` comes after it was
/// looked for. What changes something works, and is written down; of what it sets, only a note of what is set aside is read again.
const RBD: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
shift 3
for word; do case $word in --image=*) name=${word#*=} ;; esac; done
echo "$*" >> asked
case "$1 $2" in
  info*)
    [ -e "$name" ] && exec cat "$name"
    [ ! -e "$name.next" ] || mv "$name.next" "$name"
    echo "rbd: error opening image $name: (2) No such file or directory" >&2
    exit 2 ;;
  ls*) echo '[]'; exit ;;
  "image-meta list") exec cat "$name.metadata" ;;
  "mirror image"|"image-meta set"|rename*)
    [ "$3" != status ] || exit 1
    echo "rbd $*" >> calls
    case "$*" in *onemirror.lost*)
      for value; do :; done
      sed "s|^{|{\"onemirror.lost\":\"$(printf %s "$value" | sed 's/"/\\\\\\"/g')\",|" "$name.metadata" > "$name.noted"
      mv "$name.noted" "$name.metadata" ;;
    esac
    [ ! -e steal-next ] || mv steal-next stolen ;;
esac
"#;

/// A lock is a file with its cookie. Where there is a file `stolen` somebody else has it by now; `steal-next` becomes that
/// with the next change.
const RADOS: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
for word; do case $word in --lock-cookie=*) cookie=${word#*=} ;; esac; done
verb=$5
case $4 in getomapval) echo 'error getting omap value x: (2) No such file or directory' >&2; exit 1 ;; esac
while [ "$1" != -- ]; do shift; done
lock="lock.$2.$3"
case $verb in
  get) echo "lock $2" >> calls; printf %s "$cookie" > "$lock" ;;
  break) rm -f "$lock" ;;
  info)
    [ ! -e stolen ] || echo somebody > "$lock"
    [ ! -e "$lock" ] || printf '{"lockers":[{"name":"client.1","cookie":"%s"}]}' "$(cat "$lock")"
    [ -e "$lock" ] || printf '{"lockers":[]}' ;;
  list) printf '{"locks":[]}' ;;
esac
"#;

const CONFIG: &str = include_str!("../../tests/fixtures/config/two-sites.conf");

/// A cluster that is a folder.
struct Folder {
    folder: PathBuf,
    calls: Rc<dyn CephCalls>,
}

impl Folder {
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
            librbd: crate::ceph::LibraryUse::Never,
            deadline: Duration::from_secs(20),
        };
        Self { folder, calls: Rc::new(RbdCommand::new(connection).with_programs(programs)) }
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

    /// The same with a token.
    fn put_with(&self, name: &str, id: &str, primary: bool, token: &str) {
        self.put(name, id, "77aa");
        if !primary {
            let text = std::fs::read_to_string(self.folder.join(name)).unwrap();
            self.write(name, &text.replace(r#""primary":true"#, r#""primary":false"#));
        }
        self.write(&format!("{name}.metadata"), &format!(r#"{{"onemirror.handoff":"{token}:77aa"}}"#));
    }

    fn take_away(&self, name: &str) {
        std::fs::remove_file(self.folder.join(name)).unwrap();
    }

    /// What was asked for, locks and changes.
    fn calls(&self) -> String {
        std::fs::read_to_string(self.folder.join("calls")).unwrap_or_default()
    }

    /// What `rbd` was asked, questions and changes.
    fn asked(&self) -> String {
        std::fs::read_to_string(self.folder.join("asked")).unwrap_or_default()
    }

    /// The changes, by their first words, in their order.
    fn changes(&self) -> Vec<String> {
        let words = |call: &str| {
            let words = call.split(' ').skip(1).take_while(|word| !word.starts_with('-'));
            words.collect::<Vec<_>>().join(" ")
        };
        self.calls().lines().filter(|call| call.starts_with("rbd")).map(words).collect()
    }
}

/// What leads to two such clusters; front-ends are as they are.
struct FolderConnector {
    here: Rc<dyn CephCalls>,
    there: Rc<dyn CephCalls>,
    others: Rc<dyn Connector>,
}

impl Connector for FolderConnector {
    fn front_end(&self, options: ClientOptions) -> Result<Rc<dyn OpenNebula>, OneError> {
        self.others.front_end(options)
    }

    fn cluster(&self, connection: Connection) -> Rc<dyn CephCalls> {
        if connection.site == "site-a" { self.here.clone() } else { self.there.clone() }
    }

    fn peer_cluster(&self, peer: PeerConnection) -> Rc<dyn CephCalls> {
        self.cluster(peer.connection)
    }
}

/// A run on site-a, between two clusters in this folder.
struct TestRun {
    sites: Sites,
    here: Folder,
    there: Folder,
    /// As the run reaches it.
    cluster: Cluster,
}

impl TestRun {
    async fn in_folder(folder: &Path) -> Self {
        let auth = folder.join("auth");
        std::fs::write(&auth, "oneadmin:secret").unwrap();
        std::fs::set_permissions(&auth, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text =
            CONFIG.replace("AUTH", auth.to_str().unwrap()).replace("ENDPOINT", "http://127.0.0.1:1/RPC2");
        let config = Config::parse(&text, Path::new("onemirror.conf")).unwrap();
        let here = Folder::new("site-a", folder.join("here"));
        let there = Folder::new("site-b", folder.join("there"));
        let real = Environment::real();
        let connector = FolderConnector {
            here: here.calls.clone(),
            there: there.calls.clone(),
            others: real.connector.clone(),
        };
        let environment = Environment {
            connector: Rc::new(connector),
            audit: Rc::new(AuditLog::open(&folder.join("log"))),
            state_dir: folder.join("state"),
            ..real
        };
        let sites = Sites::within(config, "test", environment).unwrap();
        let cluster = reach::cluster_here(&sites, &Datastore::default()).await.unwrap();
        Self { sites, here, there, cluster }
    }

    fn image(&self, disk_id: impl Into<Option<i32>>, name: &str) -> VmImage {
        let image = format!("one/{name}").parse().unwrap();
        VmImage { disk_id: disk_id.into(), ..VmImage::unused(image, 1, self.cluster.clone()) }
    }
}

#[tokio::test]
async fn a_copy_that_comes_between_two_looks_is_locked_before_it_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let TestRun { sites, here, .. } = &run;
    for (file, name, id) in [("one-7", "one-7", "77aa"), ("one-8.next", "one-8", "88bb")] {
        here.put(file, "1633551d7564", id);
        let metadata = format!(
            r#"{{"onemirror.handoff":"1:site-a:open:{id}","onemirror.booted":"1:site-a:3:{id}","onemirror.home":"site-a:{id}"}}"#
        );
        here.write(&format!("{name}.metadata"), &metadata);
    }
    let images = [run.image(0, "one-7"), run.image(1, "one-8")];
    let outcome =
        boot::ready_to_boot(sites, 3, &images, Run::boot(BootKind::Cold, Standing::Last)).await.unwrap();
    assert!(outcome.steps.is_empty(), "{:?}", outcome.steps);
    // in two rounds; those of one round are taken side by side
    let calls = here.calls();
    let (first, mut second) = (calls.lines().next(), calls.lines().skip(1).collect::<Vec<_>>());
    second.sort_unstable();
    assert_eq!(
        (first, second),
        (Some("lock onemirror.77aa"), vec!["lock onemirror.77aa", "lock onemirror.88bb"])
    );
}

#[tokio::test]
async fn what_a_killed_run_began_to_set_aside_is_ended_under_locks_that_hold() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let TestRun { sites, here, there, .. } = &run;
    let kept = "one-7.lost-20261126T164500Z";
    here.put(kept, "10365947de3a", "77aa");
    there.put("one-7", "1633551d7564", "77aa");
    let note = r#"{"copy":"10365947de3a","site":"site-a","image":"one/one-7","vm":3,"since":"2026-11-26T16:45:00Z","why":"x"}"#;
    here.write(&format!("{kept}.metadata"), &serde_json::json!({ "onemirror.lost": note }).to_string());
    let kept = run.image(None, kept);
    for cluster in [here, there] {
        cluster.write("stolen", "");
        let error = set_aside::finish_set_aside(sites, &kept).await.unwrap_err();
        assert!(error.to_string().contains("its lock ran out"), "{error}");
        assert!(here.changes().is_empty(), "{:?}", here.changes());
        cluster.take_away("stolen");
    }
    assert!(set_aside::is_being_set_aside(&kept).await);
    set_aside::finish_set_aside(sites, &kept).await.unwrap();
    assert_eq!(here.changes(), ["mirror image disable"]);
    // it is looked at again where a full pool tells no more than the names of its images
    here.write(kept.spec().image(), r#"{"name":"x","id":"10365947de3a","size":16777216,"features":[]}"#);
    assert!(!set_aside::is_being_set_aside(&kept).await);
}

#[tokio::test]
async fn a_copy_is_noted_then_renamed_then_mirrored_no_more_and_only_under_locks_that_hold() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let TestRun { sites, here, there, .. } = &run;
    here.put_with("one-7", "10365947de3a", true, "3:site-a:open");
    there.put_with("one-7", "1633551d7564", true, "1003:site-b:open");
    sites.there.front_end_silence.note(String::new());
    let images = [run.image(0, "one-7")];
    let set_aside = async || {
        let owner = sites.owner();
        let mut locks = HeldLocks::default();
        let seen = look::observe(sites, &images, Depth::Tidy).await.unwrap();
        steps::lock(sites, &mut locks, Side::Here, &seen, &owner).await.unwrap();
        steps::lock(sites, &mut locks, Side::There, &seen, &owner).await.unwrap();
        let steps = [Step::SetAside { image: images[0].spec().clone() }];
        let cause = Cause { vm: None, findings: &[], order: None };
        let carried = steps::carry_out(sites, &steps, &seen, &locks, &cause).await.unwrap();
        locks.release().await;
        carried
    };
    there.write("stolen", "");
    assert_eq!(set_aside().await, Carried::LockRanOut);
    assert!(here.changes().is_empty(), "{:?}", here.changes());
    there.take_away("stolen");
    here.write("steal-next", "");
    assert_eq!(set_aside().await, Carried::LockRanOut);
    assert_eq!(here.changes(), ["image-meta set"]);
    here.take_away("stolen");
    assert_eq!(set_aside().await, Carried::Out);
    assert_eq!(here.changes(), ["image-meta set", "rename", "mirror image disable"]);
    let renamed = here.calls().lines().find(|call| call.contains(" rename ")).unwrap().to_owned();
    let note = std::fs::read_to_string(here.folder.join("one-7.metadata")).unwrap();
    let date = renamed.rsplit_once(".lost-").unwrap().1;
    let hour = format!("{}-{}-{}T{}", &date[..4], &date[4..6], &date[6..8], &date[9..11]);
    assert!(note.contains(&hour), "{renamed}: {note}");
}

#[tokio::test]
async fn a_resync_is_asked_of_no_copy_but_the_one_that_was_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let TestRun { sites, here, there, .. } = &run;
    here.put_with("one-7", "10365947de3a", false, "3:site-a:open");
    there.put_with("one-7", "1633551d7564", true, "5:site-b:open");
    sites.there.front_end_silence.note(String::new());
    let images = [run.image(0, "one-7")];
    let seen = look::observe(sites, &images, Depth::GiveUp).await.unwrap();
    let steps = [Step::Resync { image: images[0].spec().clone() }];
    let cause = Cause { vm: None, findings: &[], order: None };
    // the daemon was faster: this is the next copy
    here.put_with("one-7", "20365947de3a", false, "3:site-a:open");
    let carried = steps::carry_out(sites, &steps, &seen, &HeldLocks::default(), &cause).await.unwrap();
    assert_eq!((carried, here.calls().as_str()), (Carried::Halted, ""));
}

#[tokio::test]
async fn no_more_is_asked_than_the_next_step_depends_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let TestRun { sites, here, there, .. } = &run;
    sites.there.front_end_silence.note(String::new());
    let images = [run.image(0, "one-7")];
    let asks = async |token_there: &str, depth| {
        here.put_with("one-7", "10365947de3a", false, "3:site-b:1");
        there.put_with("one-7", "1633551d7564", false, token_there);
        let before = [here.asked().len(), there.asked().len()];
        let seen = look::observe(sites, &images, depth).await.unwrap();
        let asked = [here.asked()[before[0]..].to_owned(), there.asked()[before[1]..].to_owned()];
        (seen.into_iter().next().unwrap(), asked)
    };
    for (token_there, depth, expected) in [
        // on its way
        ("4:site-b:1", Depth::Boot, true),
        // all is here
        ("3:site-b:1", Depth::Boot, false),
        ("3:site-b:1", Depth::Tidy, true),
    ] {
        let (_, [asked, _]) = asks(token_there, depth).await;
        assert_eq!(asked.contains("mirror image status"), expected, "{token_there} {depth:?}: {asked}");
    }
    let (seen, [_, asked_there]) = asks("3:site-b:1", Depth::ToLock).await;
    assert_eq!(asked_there, "");
    assert!(seen.global_id.is_some() && seen.cluster_there.is_some());
    assert!(matches!(seen.observation.here, Here::Mirrored(_)));
    assert!(matches!(seen.observation.there, There::NotAsked));
}

#[tokio::test]
async fn nothing_is_forced_once_a_lock_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let TestRun { sites, here, .. } = &run;
    here.put_with("one-7", "10365947de3a", false, "3:site-b:open");
    sites.there.silence.note(String::new());
    sites.there.front_end_silence.note(String::new());
    let vm = VmImages { vm: Vm { id: 3, ..Vm::default() }, images: vec![run.image(0, "one-7")] };
    let order = ForceOrder { reason: "burnt down", site_is_off: false };
    let mut outcome = FailoverOutcome::default();
    here.write("stolen", "");
    let error = failover::promote_all(sites, &vm, &order, &mut outcome).await.err().unwrap();
    assert!(error.to_string().contains("its lock ran out"), "{error}");
    assert!(here.changes().is_empty(), "{:?}", here.changes());
    here.take_away("stolen");
    assert!(failover::promote_all(sites, &vm, &order, &mut outcome).await.is_ok());
    assert_eq!(here.changes(), ["mirror image promote", "image-meta set", "image-meta set"]);
    assert_eq!(outcome.forced, ["one/one-7"]);
}

#[tokio::test]
async fn a_daemon_that_is_down_does_not_tell_which_copy_is_primary() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let here = &run.here;
    here.put_with("one-7", "10365947de3a", true, "1001:site-b:open");
    here.put_with("one-8", "10365947de3b", false, "3:site-b:open");
    let is_primary = async |name: &str, state: &str, description: &str| {
        let status = format!(
            r#"{{"name":"{name}","global_id":"77aa","state":"{state}","description":"{description}","last_update":"2026-11-27 05:42:00"}}"#
        );
        let status = crate::ceph::parse::image_status(status.as_bytes()).unwrap();
        protection::is_primary(&status, run.image(0, name).spec(), &run.cluster).await
    };
    // promoted by force since the last report
    assert!(is_primary("one-7", "down+replaying", "replaying, ").await);
    assert!(!is_primary("one-8", "down+replaying", "replaying, ").await);
    assert!(is_primary("one-7", "down+stopped", "local image is primary").await);
    assert!(!is_primary("one-8", "up+replaying", "replaying, ").await);
}

#[tokio::test]
async fn a_home_that_is_written_down_is_sent_again_by_mirror_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let run = TestRun::in_folder(folder.path()).await;
    let TestRun { sites, here, .. } = &run;
    sites.there.silence.note(String::new());
    sites.there.front_end_silence.note(String::new());
    for (mode, expected) in [("snapshot", &["mirror image snapshot"][..]), ("journal", &[])] {
        let _ = std::fs::remove_file(here.folder.join("calls"));
        here.put_with("one-7", "10365947de3a", true, "1:site-a:open");
        let info = std::fs::read_to_string(here.folder.join("one-7")).unwrap();
        here.write("one-7", &info.replace(r#""mode":"journal""#, &format!(r#""mode":"{mode}""#)));
        here.write(
            "one-7.metadata",
            r#"{"onemirror.handoff":"1:site-a:open:77aa","onemirror.home":"site-b:77aa"}"#,
        );
        rehome::rehome(sites, Some(3), &[run.image(0, "one-7")], "site-b").await.unwrap();
        assert_eq!(here.changes(), expected, "{mode}");
    }
}
