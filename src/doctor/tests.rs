use super::*;
use crate::doctor::facts::{Images, PoolMirroring};
use onemirror_protocol::advice::Advice;
use onemirror_protocol::{Fullness, QuotaOf};
use std::collections::BTreeMap;

fn side(own: &str, other: &str) -> PoolOnCluster {
    let reports = [("one-7", ReplayState::LocalPrimary), ("one-5", ReplayState::LocalPrimary)];
    PoolOnCluster {
        user: "client.libvirt".into(),
        mirroring: Ok(PoolMirroring {
            enabled: true,
            site_name: Some(own.into()),
            mirror_uuid: Some(format!("uuid of {own}")),
            peers: vec![(other.into(), "rx-tx".into())],
        }),
        lock: Ok(()),
        images: Ok(Images {
            daemon: Daemon::Up,
            reports: reports.into_iter().map(|(name, report)| (name.to_owned(), report)).collect(),
        }),
        delete_delay: Some(86_400),
        poll_age: Some(1.0),
    }
}

fn front_end() -> ExaminedFrontEnd {
    ExaminedFrontEnd {
        version: "7.4.0".into(),
        user: "oneadmin".into(),
        sees_everything: true,
        servers: vec![],
    }
}

fn disk(id: i32, image: &str, base: Option<&str>) -> ExaminedDisk {
    ExaminedDisk { id, image: image.parse().unwrap(), base: base.map(|base| base.parse().unwrap()) }
}

fn healthy() -> Examined {
    Examined {
        configuration: Ok(Configuration {
            here: "site-a".into(),
            there: "site-b".into(),
            is_home: true,
            peer_endpoint: "https://one-b.example.org:2633/RPC2".into(),
            credentials: vec![],
        }),
        switched_off: None,
        setup: Ok(vec![]),
        reconciled: Some(Duration::from_secs(70)),
        failed_hooks: vec![],
        front_end_here: Ok(front_end()),
        front_end_there: Some(Ok(front_end())),
        clock_difference: Some(-1),
        pools: vec![ExaminedPool {
            name: "one".into(),
            here: side("site-a", "site-b"),
            there: side("site-b", "site-a"),
        }],
        shared_pools: BTreeSet::new(),
        vms: vec![
            ExaminedVm {
                id: 3,
                has_context: true,
                disks: vec![disk(0, "one/one-7", Some("one/one-5"))],
                matches: Some(1),
                ..ExaminedVm::default()
            },
            // not mirrored at all: nobody wants it to move
            ExaminedVm {
                id: 4,
                disks: vec![disk(0, "one/one-9", None)],
                elsewhere: [1].into(),
                matches: Some(0),
                ..ExaminedVm::default()
            },
        ],
        concerns: Some(vec![]),
    }
}

#[test]
fn a_healthy_pair_of_sites_has_one_ok_per_check() {
    let found = examine(&healthy());
    assert!(found.iter().all(|finding| finding.level == Level::Ok), "{found:?}");
    let checks: Vec<Check> = found.iter().map(|finding| finding.check).collect();
    assert_eq!(checks, Check::iter().collect::<Vec<_>>());
    assert_eq!(exit_status(&found), 0);
}

#[test]
fn a_site_without_a_name_is_known_by_its_number() {
    let mut facts = healthy();
    mirroring(here(&mut facts)).peers[0].0 = "3f1c3a2e-8f2b-4c1b-9a57-0d9b6a3c1a10".into();
    assert_eq!(exit_status(&examine(&facts)), 0);
}

#[test]
fn an_advice_for_a_site_is_given_once_however_many_pools_it_has() {
    let mut facts = healthy();
    let mut two = facts.pools[0].clone();
    two.name = "two".into();
    facts.pools.push(two);
    for pool in &mut facts.pools {
        for side in [&mut pool.here, &mut pool.there] {
            side.poll_age = Some(5.0);
            side.delete_delay = Some(0);
        }
    }
    let advice: Vec<_> =
        examine(&facts).into_iter().filter(|finding| finding.level == Level::Advice).collect();
    assert_eq!(advice.len(), 4, "{advice:?}");
    let delay = advice.iter().find(|finding| finding.check == Check::DeleteDelay).unwrap();
    let fix = delay.fix.as_deref().unwrap();
    for pool in ["one", "two"] {
        assert!(
            fix.contains(&format!("rbd config pool set {pool} rbd_mirroring_delete_delay 86400")),
            "{fix}"
        );
    }
}

/// What is broken, and what is to be found then.
type Case = (&'static str, fn(&mut Examined), Check, Level);

fn configuration(facts: &mut Examined) -> &mut Configuration {
    facts.configuration.as_mut().unwrap()
}

fn here(facts: &mut Examined) -> &mut PoolOnCluster {
    &mut facts.pools[0].here
}

fn there(facts: &mut Examined) -> &mut PoolOnCluster {
    &mut facts.pools[0].there
}

fn mirroring(side: &mut PoolOnCluster) -> &mut PoolMirroring {
    side.mirroring.as_mut().unwrap()
}

fn reports(side: &mut PoolOnCluster) -> &mut BTreeMap<String, ReplayState> {
    &mut side.images.as_mut().unwrap().reports
}

const CASES: &[Case] = &[
    ("no copy", |f| _ = reports(there(f)).remove("one-7"), Check::Replication, Level::Warning),
    ("no configuration", |f| f.configuration = Err("line 3".into()), Check::Configuration, Level::Failure),
    (
        "an open file",
        |f| configuration(f).credentials.push("chmod 600".into()),
        Check::Credentials,
        Level::Failure,
    ),
    (
        "plain http",
        |f| configuration(f).peer_endpoint = "http://b:2633/RPC2".into(),
        Check::Encryption,
        Level::Warning,
    ),
    ("off", |f| f.switched_off = Some("ticket 812".into()), Check::Switch, Level::Failure),
    ("no wrapper", |f| f.setup = Ok(vec!["write ln".into()]), Check::Setup, Level::Failure),
    ("no front-end", |f| f.setup = Err("no remotes".into()), Check::Setup, Level::Failure),
    (
        "a hook fails",
        |f| f.failed_hooks.push(("onemirror-done".into(), "3".into())),
        Check::Hooks,
        Level::Warning,
    ),
    ("a dead timer", |f| f.reconciled = Some(Duration::from_secs(601)), Check::Reconcile, Level::Failure),
    ("no timer", |f| f.reconciled = None, Check::Reconcile, Level::Failure),
    ("oned is down", |f| f.front_end_here = Err("refused".into()), Check::FrontEndHere, Level::Failure),
    (
        "oned is old",
        |f| f.front_end_here.as_mut().unwrap().version = "6.8.0".into(),
        Check::FrontEndHere,
        Level::Warning,
    ),
    (
        "oned is new there",
        |f| f.front_end_there.as_mut().unwrap().as_mut().unwrap().version = "8.0.0".into(),
        Check::FrontEndThere,
        Level::Warning,
    ),
    (
        "a small user",
        |f| f.front_end_there.as_mut().unwrap().as_mut().unwrap().sees_everything = false,
        Check::FrontEndThere,
        Level::Failure,
    ),
    (
        "oned is down there",
        |f| f.front_end_there = Some(Err("refused".into())),
        Check::FrontEndThere,
        Level::Failure,
    ),
    (
        "several servers",
        |f| f.front_end_here.as_mut().unwrap().servers = vec!["a".into(), "b".into()],
        Check::Servers,
        Level::Advice,
    ),
    ("a clock ahead", |f| f.clock_difference = Some(6), Check::Clock, Level::Warning),
    ("a clock behind", |f| f.clock_difference = Some(-6), Check::Clock, Level::Warning),
    (
        "no rights",
        |f| here(f).mirroring = Err(NoAnswer::Permission("(13)".into())),
        Check::ClusterHere,
        Level::Failure,
    ),
    (
        "read only",
        |f| there(f).lock = Err(NoAnswer::Permission("(1)".into())),
        Check::ClusterThere,
        Level::Failure,
    ),
    ("no such pool", |f| there(f).mirroring = Err(NoAnswer::Missing), Check::ClusterThere, Level::Failure),
    (
        "silent",
        |f| there(f).images = Err(NoAnswer::Other("no answer".into())),
        Check::ClusterThere,
        Level::Failure,
    ),
    ("not mirrored", |f| mirroring(here(f)).enabled = false, Check::Mirroring, Level::Failure),
    (
        "other name",
        |f| mirroring(there(f)).site_name = Some("site-c".into()),
        Check::Mirroring,
        Level::Failure,
    ),
    (
        "itself",
        |f| mirroring(there(f)).mirror_uuid = Some("uuid of site-a".into()),
        Check::ClusterThere,
        Level::Failure,
    ),
    (
        "no room",
        |f| {
            here(f).lock =
                Err(NoAnswer::Full(Fullness::Quota { of: QuotaOf::Bytes, limit: 1000, stored: 900 }))
        },
        Check::ClusterHere,
        Level::Failure,
    ),
    ("one way", |f| mirroring(there(f)).peers[0].1 = "rx-only".into(), Check::Mirroring, Level::Failure),
    ("no peer", |f| mirroring(here(f)).peers.clear(), Check::Mirroring, Level::Failure),
    ("other peer", |f| mirroring(here(f)).peers[0].0 = "site-c".into(), Check::Mirroring, Level::Failure),
    (
        "no daemon",
        |f| here(f).images.as_mut().unwrap().daemon = Daemon::Down,
        Check::DaemonHere,
        Level::Failure,
    ),
    (
        "no daemon there",
        |f| there(f).images.as_mut().unwrap().daemon = Daemon::Down,
        Check::DaemonThere,
        Level::Failure,
    ),
    ("slow daemons", |f| there(f).poll_age = Some(5.0), Check::PollInterval, Level::Advice),
    ("deletes at once", |f| here(f).delete_delay = Some(0), Check::DeleteDelay, Level::Advice),
    ("no CONTEXT", |f| f.vms[0].has_context = false, Check::Context, Level::Warning),
    ("half a VM", |f| concern(f, Kind::NotMirrored), Check::Disks, Level::Warning),
    ("an older image", |f| concern(f, Kind::OlderImageThere), Check::Protection, Level::Failure),
    ("a clone by snapshots", |f| concern(f, Kind::CloneBySnapshots), Check::Protection, Level::Failure),
    ("no schedule", |f| concern(f, Kind::NoSchedule), Check::Protection, Level::Warning),
    ("late snapshots", |f| concern(f, Kind::SnapshotsLate), Check::Protection, Level::Warning),
    ("another size", |f| concern(f, Kind::OtherSize), Check::Protection, Level::Warning),
    ("a disk elsewhere", |f| _ = f.vms[0].elsewhere.insert(2), Check::Disks, Level::Warning),
    ("an unclear VM", |f| f.vms[0].error = Some("VM 3 disk 0".into()), Check::Disks, Level::Failure),
    (
        "a clone alone",
        |f| f.vms[0].disks[0].base = Some("one/one-6".parse().unwrap()),
        Check::Parents,
        Level::Failure,
    ),
    ("one pool for both", |f| _ = f.shared_pools.insert("one".into()), Check::Names, Level::Warning),
    ("nobody there", |f| f.vms[0].matches = Some(0), Check::Counterparts, Level::Warning),
    ("too many there", |f| f.vms[0].matches = Some(2), Check::Counterparts, Level::Warning),
    (
        "split brain",
        |f| _ = reports(there(f)).insert("one-7".into(), ReplayState::SplitBrain),
        Check::SplitBrain,
        Level::Failure,
    ),
    (
        "stuck",
        |f| _ = reports(there(f)).insert("one-7".into(), ReplayState::Error("bootstrap".into())),
        Check::Replication,
        Level::Failure,
    ),
];

fn concern(facts: &mut Examined, kind: Kind) {
    let (what, advice) = ("is wrong".to_owned(), Advice::command(Place::Here, "type this"));
    facts.concerns = Some(vec![Concern { kind, vm: Some(3), image: "one/one-7".into(), what, advice }]);
}

#[test]
fn each_condition_is_found_when_it_is_broken_and_nothing_else_is_blamed() {
    for (what, break_it, check, level) in CASES {
        let mut facts = healthy();
        break_it(&mut facts);
        let found = examine(&facts);
        let finding = found.iter().find(|finding| finding.check == *check && finding.level != Level::Ok);
        let finding = finding.unwrap_or_else(|| panic!("{what} is not found: {found:?}"));
        assert_eq!(finding.level, *level, "{what}");
        assert!(finding.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{what}: nothing to do");
        assert!(!finding.text.contains('\n') && !finding.fix.as_ref().unwrap().contains('\n'));
        let blamed = found.iter().filter(|other| other.level != Level::Ok && other.check != *check);
        // what could not be looked at has no fix of its own
        assert!(blamed.clone().all(|other| other.fix.is_none()), "{what}: {:?}", blamed.collect::<Vec<_>>());
        assert_eq!(
            exit_status(&found),
            match level {
                Level::Failure => 3,
                Level::Warning => 1,
                _ => 0,
            },
            "{what}"
        );
    }
}

#[test]
fn every_check_can_fail() {
    let covered: BTreeSet<Check> = CASES.iter().map(|(_, _, check, _)| *check).collect();
    assert_eq!(covered, Check::iter().collect());
}

#[test]
fn what_could_not_be_looked_at_is_not_called_ok() {
    let mut facts = healthy();
    facts.configuration = Err("missing".into());
    facts.front_end_here = Err("refused".into());
    (facts.front_end_there, facts.clock_difference) = (None, None);
    facts.pools.clear();
    facts.vms.clear();
    facts.concerns = None;
    let ok: Vec<Check> = examine(&facts)
        .into_iter()
        .filter(|finding| finding.level == Level::Ok)
        .map(|finding| finding.check)
        .collect();
    assert_eq!(ok, [Check::Switch, Check::Setup, Check::Reconcile, Check::Servers]);
}

#[test]
fn only_what_nobody_can_listen_to_is_private() {
    for endpoint in
        ["https://b/RPC2", "http://localhost:2633/RPC2", "http://127.0.0.1:1/", "http://[::1]:2633/RPC2"]
    {
        assert!(is_private(endpoint), "{endpoint}");
    }
    for endpoint in
        ["http://b/RPC2", "http://10.0.0.1/", "http://[2001:db8::1]/", "http://localhost.example.org/"]
    {
        assert!(!is_private(endpoint), "{endpoint}");
    }
}

#[test]
fn the_versions_that_were_looked_at_are_known() {
    for version in ["6.10.0", "7.4.0", "7.0.1", "6.10"] {
        assert!(is_known_version(version), "{version}");
    }
    for version in ["6.8.3", "7.5.80", "8.0.0", "", "seven"] {
        assert!(!is_known_version(version), "{version}");
    }
}
