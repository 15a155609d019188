//! The calls, on a library that gives out memory as Ceph's does, watched by valgrind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::too_many_lines, reason = "a test")]

mod common;

use onemirror_rbd::{
    Call, ConnectOptions, Failure, LibraryAnswer, LibraryRequest, LibraryResponse, LockedBy, PoolPlace,
    Stage, StatusTold,
};
use std::io::Write as _;
use std::process::{Command, Stdio};

const ENOENT: i32 = 2;

/// What becomes of these calls, in their order.
fn called(place: &PoolPlace, calls: &[Call], times: usize) -> Vec<Result<LibraryAnswer, Failure>> {
    let folder = tempfile::tempdir().unwrap();
    common::build_library(folder.path());
    let log = folder.path().join("valgrind");
    let mut child = Command::new("valgrind")
        .args([
            "--quiet",
            "--leak-check=full",
            "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite",
        ])
        .args(["--error-exitcode=9", &format!("--log-file={}", log.display())])
        .arg(common::program())
        .env("LD_LIBRARY_PATH", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("apt install valgrind");
    let mut input = child.stdin.take().unwrap();
    let mut line = |value: String| writeln!(input, "{value}").unwrap();
    line(
        serde_json::to_string(&ConnectOptions {
            user: "libvirt".into(),
            mount_timeout: 5,
            ..ConnectOptions::default()
        })
        .unwrap(),
    );
    let all = calls.iter().cycle().take(calls.len() * times).cloned().enumerate();
    for (number, call) in all {
        let request = LibraryRequest { number: number as u64, place: place.clone(), call };
        line(serde_json::to_string(&request).unwrap());
    }
    // the process ends with its input, whatever is under way: so the input ends after the last answer
    let mut output = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(output.next().unwrap().unwrap(), "");
    let mut outcomes: Vec<Option<Result<LibraryAnswer, Failure>>> = vec![None; calls.len() * times];
    for line in output.by_ref().take(calls.len() * times) {
        let LibraryResponse { number, outcome } = serde_json::from_str(&line.unwrap()).unwrap();
        outcomes[number as usize] = Some(outcome);
    }
    drop(input);
    let status = child.wait().unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(log).unwrap());
    outcomes.into_iter().map(Option::unwrap).collect()
}

fn place(pool: &str, namespace: Option<&str>) -> PoolPlace {
    PoolPlace { pool: pool.into(), namespace: namespace.map(Into::into) }
}

#[test]
fn what_is_given_out_is_read_to_its_end_and_given_back() {
    let object = |name: &str| (name.to_owned(), "lock".to_owned());
    let holder = || LockedBy { client: "client.4".into(), cookie: "c".into(), address: String::new() };
    let mut calls = Vec::new();
    for image in
        ["plain", "journal", "snapshot", "clone", "many", "many-snapshot", "alone", "read-only", "busy"]
    {
        let image = || image.to_owned();
        calls.extend([
            Call::Info(image()),
            Call::Metadata(image()),
            Call::Look(image()),
            Call::Status(image()),
            Call::Snapshots(image()),
            Call::SetMetadata { image: image(), key: "k".into(), value: "v".into() },
            Call::Promote { image: image(), force: false },
            Call::Demote(image()),
            Call::Resync(image()),
            Call::MirrorSnapshot(image()),
        ]);
    }
    for name in ["lock", "lock-many", "absent"] {
        let ((object, name), (other, same)) = (object(name), object(name));
        calls.extend([
            Call::LockHolders { object: object.clone(), name: name.clone() },
            Call::Lock { object: object.clone(), name: name.clone(), cookie: "c".into(), seconds: Some(5) },
            Call::Lock { object, name, cookie: "late".into(), seconds: None },
            Call::Unlock { object: other, name: same, holder: holder() },
            Call::OmapValue { object: "object".into(), key: "key".into() },
            Call::OmapValue { object: "object".into(), key: "other".into() },
            Call::OmapValue { object: "absent".into(), key: "key".into() },
        ]);
    }
    let outcomes = called(&place("one", Some("space")), &calls, 3);
    let of = |call: Call| outcomes[calls.iter().position(|other| *other == call).unwrap()].clone();
    let Ok(LibraryAnswer::Metadata(all)) = of(Call::Metadata("many".into())) else { panic!("no metadata") };
    assert_eq!((all.len(), all["key-000"].len(), all["key-599"].as_str()), (600, 400, ""));
    let Ok(LibraryAnswer::Snapshots(all)) = of(Call::Snapshots("many-snapshot".into())) else {
        panic!("no snapshots")
    };
    assert_eq!((all.len(), all[0].mirror.clone()), (40, Some(("non-primary".to_owned(), true))));
    let Ok(LibraryAnswer::Status(StatusTold { sites, .. })) = of(Call::Status("journal".into())) else {
        panic!("no status")
    };
    let names: Vec<_> = sites.iter().map(|site| site.site_name.as_deref()).collect();
    assert_eq!((names, sites[0].state.as_str()), (vec![None, Some("site-b")], "up+replaying"));
    let Ok(LibraryAnswer::Info(info)) = of(Call::Info("clone".into())) else { panic!("no info") };
    assert_eq!(info.parent.unwrap().image, "base");
    let Ok(LibraryAnswer::Locked(holders)) =
        of(Call::LockHolders { object: "lock-many".into(), name: "lock".into() })
    else {
        panic!("no holder")
    };
    assert_eq!((holders.len(), holders[0].cookie.len()), (1, 5999));
    let value = of(Call::OmapValue { object: "object".into(), key: "key".into() });
    assert_eq!(value, Ok(LibraryAnswer::Value(Some(b"a\0b".to_vec()))));
    assert_eq!(
        of(Call::OmapValue { object: "object".into(), key: "other".into() }),
        Ok(LibraryAnswer::Value(None))
    );
    assert_eq!(
        of(Call::OmapValue { object: "absent".into(), key: "key".into() }),
        Ok(LibraryAnswer::Value(None))
    );
    assert_eq!(
        of(Call::Demote("plain".into())),
        Err(Failure { stage: Stage::NotMirrored, errno: 22 }),
        "as Ceph's command says it"
    );
    assert_eq!(
        of(Call::Promote { image: "busy".into(), force: false }),
        Err(Failure { stage: Stage::Call, errno: 16 })
    );
}

/// "shown" is looked at without being opened; an image that cannot be is opened, and shows what an open one does.
#[test]
fn what_is_told_without_opening_is_what_is_so() {
    let names = ["shown", "shown-snapshot", "shown-plain", "shown-clone", "shown-gone"];
    let calls: Vec<Call> = names.into_iter().map(|name| Call::Look(name.into())).collect();
    let told: Vec<_> = called(&place("one", None), &calls, 1)
        .into_iter()
        .map(|outcome| match outcome {
            Ok(LibraryAnswer::Look(info, metadata, None)) => (info, metadata),
            other => panic!("{other:?}"),
        })
        .collect();
    let (shown, metadata) = &told[0];
    assert_eq!((shown.id.as_str(), shown.size, shown.has_journal), ("shown", 8 << 20, true));
    assert!(!shown.is_read_only && shown.parent.is_none());
    let mirroring = shown.mirroring.as_ref().unwrap();
    assert!(mirroring.primary && !mirroring.by_snapshots && mirroring.global_id == "77aa");
    assert_eq!(metadata.iter().collect::<Vec<_>>().len(), 2);
    assert_eq!((metadata["onemirror.handoff"].as_str(), metadata["empty"].as_str()), ("1:site-a:open", ""));
    let alone = called(&place("one", None), &[Call::Metadata("shown".into())], 1);
    assert!(matches!(&alone[..], [Ok(LibraryAnswer::Metadata(alone))] if alone == metadata), "{alone:?}");
    assert!(told[1].0.mirroring.as_ref().unwrap().by_snapshots);
    assert!(told[2].0.mirroring.is_none() && told[2].1.is_empty());
    for (opened, _) in &told[3..] {
        assert_ne!(opened.id, "shown-clone");
        assert_ne!(opened.id, "shown-gone", "the list told of another image");
    }
}

#[test]
fn what_is_missing_is_told_apart() {
    let look = |pool: &str, namespace: Option<&str>, image: &str| {
        called(&place(pool, namespace), &[Call::Look(image.into())], 1).remove(0).unwrap_err()
    };
    for (pool, namespace, image, stage) in [
        ("none", None, "journal", Stage::Pool),
        ("one", Some("none"), "absent", Stage::Pool),
        ("one", None, "absent", Stage::Image),
        // there, but not what it is a clone of
        ("one", None, "broken", Stage::Call),
    ] {
        assert_eq!(
            look(pool, namespace, image),
            Failure { stage, errno: ENOENT },
            "{pool} {namespace:?} {image}"
        );
    }
    let nul = look("one", None, "a\0b");
    assert_eq!(nul, Failure { stage: Stage::Image, errno: 22 });
}
