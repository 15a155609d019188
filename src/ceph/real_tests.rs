//! What only real clusters can show. Run against two clusters that are mirrored both ways (pool `one` in pool mode,
//! pool `two` in image mode):
//!
//! `ONEMIRROR_TEST_CEPH_A=site-a/ceph.conf ONEMIRROR_TEST_CEPH_B=site-b/ceph.conf cargo test ceph::real -- --ignored`

#![allow(clippy::too_many_lines, reason = "one story is told from its beginning to its end")]

use super::*;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(120);

fn connection(variable: &str) -> Connection {
    let conf = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names no ceph.conf"));
    Connection {
        site: variable.into(),
        conf: Some(PathBuf::from(conf)),
        user: Some("admin".into()),
        keyfile: None,
        mon_host: None,
        run_on: RunOn::Local,
        librbd: LibraryUse::Never,
        deadline: DEFAULT_DEADLINE,
    }
}

/// What reaches a cluster.
type Reaching = fn(Connection) -> Rc<dyn CephCalls>;

/// All ways to a cluster: whatever is asked, they answer the same.
const WAYS: [(&str, Reaching); 3] = [
    ("commands", |connection| Rc::new(RbdCommand::new(connection))),
    ("librbd", |connection| Rc::new(by_library(connection))),
    ("librbd, shared", |connection| {
        let folder = std::env::temp_dir().join(format!("onemirror-test-{}", std::process::id()));
        let shared = SharedProcesses {
            folder,
            idle: Duration::from_secs(60),
            sign_of_life: crate::state::RunsSign::default(),
        };
        Rc::new(by_library(Connection { librbd: LibraryUse::Shared(shared), ..connection }))
    }),
];

fn by_library(connection: Connection) -> Librbd {
    // target/debug/deps/onemirror-… is a test, target/debug/onemirror the program
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("onemirror");
    let hello =
        std::process::Command::new(&program).arg(LIBRARY_COMMAND).stdin(std::process::Stdio::null()).output();
    assert_eq!(hello.expect("build the program first").stdout, b"\n", "there are no libraries");
    let command = RbdCommand::new(connection.clone());
    Librbd::new(&connection, command).with_program(program)
}

fn clusters() -> Vec<[Rc<dyn CephCalls>; 2]> {
    let sites = ["ONEMIRROR_TEST_CEPH_A", "ONEMIRROR_TEST_CEPH_B"];
    WAYS.iter()
        .map(|(name, way)| {
            eprintln!("by {name}");
            sites.map(|site| way(connection(site)))
        })
        .collect()
}

fn rbd(site: &str, arguments: &[&str]) {
    let connection = connection(site);
    let output = std::process::Command::new("rbd")
        .args(["--id", "admin", "--conf"])
        .arg(connection.conf.unwrap())
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A new image on A, removed at the end by whoever is primary then.
struct TestImage(ImageSpec);

impl TestImage {
    fn new(pool: &str, features: &str) -> Self {
        let spec: ImageSpec = format!("{pool}/test-{:016x}", rand::random::<u64>()).parse().unwrap();
        let text = spec.to_string();
        rbd("ONEMIRROR_TEST_CEPH_A", &["create", &text, "--size", "8M", "--image-feature", features]);
        if pool == "two" {
            rbd("ONEMIRROR_TEST_CEPH_A", &["mirror", "image", "enable", &text, "snapshot"]);
        }
        Self(spec)
    }
}

impl Drop for TestImage {
    fn drop(&mut self) {
        for site in ["ONEMIRROR_TEST_CEPH_A", "ONEMIRROR_TEST_CEPH_B"] {
            let connection = connection(site);
            let _ = std::process::Command::new("rbd")
                .args(["--id", "admin", "--conf"])
                .arg(connection.conf.unwrap())
                .args(["rm", "--no-progress"])
                .arg(self.0.to_string())
                .output();
        }
    }
}

/// Asks until the answer is there; the condition is in another process's hands, so this can only look again.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
#[ignore = "needs two Ceph clusters"]
async fn what_is_not_there_is_told_apart() {
    for [a, _] in clusters() {
        let nothing: ImageSpec = "one/no-such-image".parse().unwrap();
        assert_eq!(a.info(&nothing).await.unwrap(), None);
        assert_eq!(a.look(&nothing).await.unwrap(), None);
        assert!(matches!(a.metadata(&nothing).await, Err(CephError::NotFound { .. })));
        assert!(matches!(a.promote(&nothing, false).await, Err(CephError::NotFound { .. })));
        assert!(matches!(a.demote(&nothing).await, Err(CephError::NotFound { .. })));
        assert!(matches!(a.image_status(&nothing).await, Err(CephError::NotFound { .. })));
        for text in ["nopool/x", "one/no-such-namespace/x"] {
            let image = text.parse().unwrap();
            assert!(matches!(a.info(&image).await, Err(CephError::NotFound { .. })), "{text}");
        }
        assert!(matches!(a.pool_status("nopool").await, Err(CephError::NotFound { .. })));
        let image = TestImage::new("one", "layering");
        assert_eq!(a.info(&image.0).await.unwrap().unwrap().mirroring, None);
        assert!(matches!(a.demote(&image.0).await, Err(CephError::NotPossible { .. })));
        assert!(matches!(a.journal_status(&image.0).await, Err(CephError::NotPossible { .. })));
        let without_rights = RbdCommand::new(Connection { user: Some("nobody".into()), ..a_connection() });
        assert!(matches!(without_rights.info(&image.0).await, Err(CephError::PermissionDenied { .. })));
        let holder = without_rights.lock_holder(&image.0, "o", "l").await;
        assert!(matches!(holder, Err(CephError::PermissionDenied { .. })), "{holder:?}");
    }
}

fn a_connection() -> Connection {
    connection("ONEMIRROR_TEST_CEPH_A")
}

#[tokio::test]
#[ignore = "needs two Ceph clusters"]
async fn a_silent_monitor_is_unreachable_within_the_deadline() {
    // a listener that never answers
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for deadline in [Duration::from_secs(1), Duration::from_secs(4)] {
        let cluster = RbdCommand::new(Connection {
            conf: None,
            mon_host: Some(format!("v1:{}", silent.local_addr().unwrap())),
            deadline,
            ..a_connection()
        });
        let image: ImageSpec = "one/x".parse().unwrap();
        let began = Instant::now();
        for error in [
            cluster.info(&image).await.unwrap_err(),
            cluster.lock_holder(&image, "o", "l").await.unwrap_err(),
            cluster.mirror_uuid("one").await.unwrap_err(),
        ] {
            assert!(error.is_unreachable(), "{error}");
        }
        assert!(began.elapsed() < 3 * deadline + Duration::from_secs(2));
    }
}

#[tokio::test]
#[ignore = "needs two Ceph clusters"]
async fn metadata_is_taken_as_it_is() {
    for [a, _] in clusters() {
        let image = TestImage::new("one", "layering");
        assert!(a.metadata(&image.0).await.unwrap().is_empty());
        for value in ["1:site-a:abc", "--id=nobody", "-c", "a b \"c\" $(id) 'd' \\ é\n"] {
            a.set_metadata(&image.0, "onemirror.handoff", value).await.unwrap();
            a.set_metadata(&image.0, "other", "x").await.unwrap();
            let all = a.metadata(&image.0).await.unwrap();
            let expected = [("onemirror.handoff".into(), value.into()), ("other".into(), "x".into())];
            assert_eq!(all, BTreeMap::from(expected));
        }
        a.set_metadata(&image.0, "--force", "x").await.unwrap();
        assert_eq!(a.metadata(&image.0).await.unwrap()["--force"], "x");
    }
}

#[tokio::test]
#[ignore = "needs two Ceph clusters"]
async fn locks_exclude_expire_and_break() {
    for [a, _] in clusters() {
        let image: ImageSpec = "one/x".parse().unwrap();
        let object = format!("onemirror.test-{:016x}", rand::random::<u64>());
        let (long, short) = (Duration::from_secs(300), Duration::from_millis(1500));
        assert_eq!(a.lock_holder(&image, &object, "l").await.unwrap(), None);
        assert_eq!(a.locks_among(&image, &object, &["l", "m"]).await.unwrap(), [""; 0]);
        assert_eq!(
            a.lock(&image, &object, "l", "-a \"1\"", Expiry::After(long)).await.unwrap(),
            Locking::Acquired
        );
        assert_eq!(a.lock(&image, &object, "l", "b", Expiry::After(long)).await.unwrap(), Locking::Held);
        assert_eq!(
            a.lock(&image, &object, "l", "-a \"1\"", Expiry::After(long)).await.unwrap(),
            Locking::Held
        );
        let holder = a.lock_holder(&image, &object, "l").await.unwrap().unwrap();
        assert_eq!(a.locks_among(&image, &object, &["m", "l"]).await.unwrap(), ["l"]);
        assert!(holder.cookie == "-a \"1\"" && holder.client.starts_with("client."), "{holder:?}");
        let other = LockHolder { cookie: "b".into(), ..holder.clone() };
        a.unlock(&image, &object, "l", &other).await.unwrap();
        assert_eq!(a.lock_holder(&image, &object, "l").await.unwrap().as_ref(), Some(&holder));
        a.unlock(&image, &object, "l", &holder).await.unwrap();
        a.unlock(&image, &object, "l", &holder).await.unwrap();
        assert_eq!(a.lock_holder(&image, &object, "l").await.unwrap(), None);
        let began = Instant::now();
        assert_eq!(a.lock(&image, &object, "l", "c", Expiry::After(short)).await.unwrap(), Locking::Acquired);
        let a = &*a;
        until("the lock's expiry", || async {
            (a.lock(&image, &object, "l", "d", Expiry::After(long)).await.unwrap() == Locking::Acquired)
                .then_some(())
        })
        .await;
        assert!(began.elapsed() >= short);
        let holder = a.lock_holder(&image, &object, "l").await.unwrap().unwrap();
        assert_eq!(holder.cookie, "d");
        a.unlock(&image, &object, "l", &holder).await.unwrap();
        let nowhere: ImageSpec = "nopool/x".parse().unwrap();
        for error in [
            a.lock(&nowhere, &object, "l", "c", Expiry::After(long)).await.unwrap_err(),
            a.lock_holder(&nowhere, &object, "l").await.unwrap_err(),
            a.locks_among(&nowhere, &object, &["l"]).await.unwrap_err(),
            a.unlock(&nowhere, &object, "l", &holder).await.unwrap_err(),
        ] {
            assert!(matches!(error, CephError::NotFound { .. }), "{error}");
        }
        remove_object(&object);
    }
}

fn remove_object(object: &str) {
    let mut command = std::process::Command::new("rados");
    command.args(["--id", "admin", "--conf"]).arg(a_connection().conf.unwrap());
    assert!(command.args(["--pool", "one", "rm", object]).status().unwrap().success());
}

#[tokio::test]
#[ignore = "needs two Ceph clusters"]
async fn the_clusters_know_each_other() {
    for [a, b] in clusters() {
        for pool in ["one", "two"] {
            let (from_a, from_b) = (a.pool_info(pool).await.unwrap(), b.pool_info(pool).await.unwrap());
            assert!(from_a.enabled && from_b.enabled);
            assert_eq!(from_a.pool_mode, pool == "one");
            let uuid = a.mirror_uuid(pool).await.unwrap();
            let seen = from_b.peers.iter().find(|peer| peer.site_name == from_a.site_name).unwrap();
            assert!(uuid.is_some() && seen.mirror_uuid == uuid, "{uuid:?} {seen:?}");
            // by what A's pool tells, B is reached without any configuration of its own
            let way = connection_to_peer(&from_a, &from_b.site_name).unwrap().unwrap();
            let keyfile = way.connection.keyfile.clone().unwrap();
            let b_by_a = RbdCommand::to_peer(way);
            assert_eq!(b_by_a.mirror_uuid(pool).await.unwrap(), b.mirror_uuid(pool).await.unwrap());
            assert_eq!(b_by_a.pool_info(pool).await.unwrap().peers.len(), 1);
            drop(b_by_a);
            assert!(!keyfile.exists());
        }
    }
}

async fn followed(pool: &str, features: &str) {
    for [a, b] in clusters() {
        let (a, b) = (&*a, &*b);
        let image = TestImage::new(pool, features);
        let image = &image.0;
        let here = a.info(image).await.unwrap().unwrap().mirroring.unwrap();
        assert!(here.primary && here.state == MirrorState::Enabled);
        let ImageLook { info, metadata, status } = a.look(image).await.unwrap().unwrap();
        assert_eq!((Some(info), metadata), (a.info(image).await.unwrap(), a.metadata(image).await.unwrap()));
        assert_eq!(status, None, "it is primary");
        let there = until("the copy", || async { b.info(image).await.ok().flatten()?.mirroring }).await;
        assert!(!there.primary && there.global_id == here.global_id && there.mode == here.mode);
        until("replay", || async {
            let status = b.image_status(image).await.ok()?;
            // what comes with a look, if it does, is the same
            let seen = b.look(image).await.ok()??.status;
            let is_told = seen.is_none_or(|seen| seen.global_id == there.global_id && seen.local.is_some());
            (matches!(status.local?.replay, ReplayState::Replaying(_)) && is_told).then_some(())
        })
        .await;
        let pool_status = b.pool_status(pool).await.unwrap();
        assert!(pool_status.daemons_up > 0);
        assert!(pool_status.images.iter().any(|it| it.global_id == here.global_id && it.peers.len() == 1));

        // roles and what they refuse
        assert!(matches!(a.promote(image, false).await, Err(CephError::NotPossible { .. })));
        assert!(matches!(a.resync(image).await, Err(CephError::NotPossible { .. })));
        assert!(matches!(b.demote(image).await, Err(CephError::NotPossible { .. })));
        assert!(matches!(b.set_metadata(image, "k", "v").await, Err(CephError::ReadOnly { .. })));
        assert_eq!(b.promote(image, false).await.unwrap(), Promotion::NotYet);

        // metadata arrives, and what proves it
        a.set_metadata(image, "onemirror.handoff", "1:site-a:x").await.unwrap();
        let (id, key) = (&a.info(image).await.unwrap().unwrap().id, "onemirror.handoff");
        assert_eq!(a.stored_metadata(image, id, key).await.unwrap().as_deref(), Some("1:site-a:x"));
        assert_eq!(a.stored_metadata(image, id, "onemirror.none").await.unwrap(), None);
        assert_eq!(a.stored_metadata(image, "0", key).await.unwrap(), None);
        if here.mode == MirrorMode::Snapshot {
            a.mirror_snapshot(image).await.unwrap();
            let taken = a.snapshots(image).await.unwrap().mirror;
            assert!(
                taken
                    .iter()
                    .all(|it| it.state == MirrorSnapshotState::Primary && it.primary_snap_id.is_none())
            );
            let newest = taken.last().unwrap().id;
            let copied = until("the snapshot's copy", || async {
                let copies = b.snapshots(image).await.ok()?.mirror;
                copies.into_iter().find(|it| it.complete && it.primary_snap_id == Some(newest))
            })
            .await;
            assert_eq!(copied.state, MirrorSnapshotState::NonPrimary);
            assert_eq!(copied.primary_mirror_uuid, a.mirror_uuid(pool).await.unwrap());
            assert!(matches!(a.journal_status(image).await, Err(CephError::NotPossible { .. })));
        } else {
            let uuid = b.mirror_uuid(pool).await.unwrap().unwrap();
            until("the commit position", || async {
                let clients = a.journal_status(image).await.unwrap().clients;
                (!clients[""].objects.is_empty() && clients.get(&uuid) == clients.get("")).then_some(())
            })
            .await;
            assert!(matches!(a.mirror_snapshot(image).await, Err(CephError::NotPossible { .. })));
        }
        until("the token", || async {
            let values = b.metadata(image).await.ok()?;
            (values.get("onemirror.handoff")? == "1:site-a:x").then_some(())
        })
        .await;

        // over, and forced back: a split brain, cleared by a resync
        a.demote(image).await.unwrap();
        if here.mode == MirrorMode::Snapshot {
            let newest = a.snapshots(image).await.unwrap().mirror.pop().unwrap();
            assert!(newest.state == MirrorSnapshotState::Demoted && newest.primary_snap_id.is_none());
        }
        until("the promotion", || async {
            (b.promote(image, false).await.unwrap() == Promotion::Promoted).then_some(())
        })
        .await;
        assert!(b.info(image).await.unwrap().unwrap().mirroring.unwrap().primary);
        b.set_metadata(image, "onemirror.handoff", "2:site-b:open").await.unwrap();
        if here.mode == MirrorMode::Snapshot {
            b.mirror_snapshot(image).await.unwrap();
        }
        until("the forced promotion", || async {
            (a.promote(image, true).await.unwrap() == Promotion::Promoted).then_some(())
        })
        .await;
        a.set_metadata(image, "onemirror.forced", "test").await.unwrap();
        a.demote(image).await.unwrap();
        until("split brain", || async {
            let status = a.image_status(image).await.ok()?.local?;
            (status.replay == ReplayState::SplitBrain).then_some(())
        })
        .await;
        let old = a.info(image).await.unwrap().unwrap();
        assert!(!resync_asked(a, image).await && !resync_asked(b, image).await);
        a.resync(image).await.unwrap();
        // either it still waits, or the copy is gone already
        let waits = resync_asked(a, image).await;
        assert!(waits || a.info(image).await.unwrap().is_none_or(|now| now.id != old.id));
        until("the resync", || async {
            let new = a.info(image).await.ok()??;
            let values = a.metadata(image).await.ok()?;
            let complete = values.get("onemirror.handoff")? == "2:site-b:open"
                && !values.contains_key("onemirror.forced");
            (new.id != old.id && complete).then_some(())
        })
        .await;
    }
}

/// Whether Ceph keeps a request for a resync of this copy.
async fn resync_asked(cluster: &dyn CephCalls, image: &ImageSpec) -> bool {
    let Ok(Some(info)) = cluster.info(image).await else { return true };
    match info.mirroring.unwrap().mode {
        MirrorMode::Journal => cluster.journal_resync(image, &info.id).await.unwrap().unwrap_or(true),
        MirrorMode::Snapshot => {
            let uuid = cluster.mirror_uuid(&image.pool_spec()).await.unwrap();
            let Ok(metadata) = cluster.metadata(image).await else { return true };
            super::parse::metadata_resync(&metadata, uuid.as_deref())
        }
    }
}

#[tokio::test]
#[ignore = "needs two Ceph clusters"]
async fn a_journal_image_goes_over_and_comes_back() {
    followed("one", "layering,exclusive-lock,journaling").await;
}

#[tokio::test]
#[ignore = "needs two Ceph clusters"]
async fn a_snapshot_image_goes_over_and_comes_back() {
    followed("two", "layering,exclusive-lock").await;
}
