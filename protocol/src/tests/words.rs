//! One of each of what cannot be done whatever the rules say, for the test of docs/refusals.md.

use super::*;
use crate::words::UnfitKind;
use alloc::borrow::ToOwned as _;
use alloc::vec::Vec;

pub(super) fn one_of_each() -> Vec<Unfit> {
    let image = || spec("one/one-7");
    let kept = || spec("one/one-7.lost-20261127T120000Z");
    let error = || "why".to_owned();
    let there = || B.to_owned();
    let state = |name: &str| name.to_owned();
    let steps = || "promote one/one-7".to_owned();
    let ln = || "/var/lib/one/remotes/tm/ceph.stock/ln".to_owned();
    vec![
        Unfit::NoConfiguration { image: image(), error: error() },
        Unfit::DisksUnknown { vm: 3, error: error() },
        Unfit::MirroringUnknown { vm: 3, error: error() },
        Unfit::ImageMirroringUnknown { image: image(), error: error() },
        Unfit::StockActionGone { action: ln(), error: error() },
        Unfit::CallNotRead { action: "rm".into(), error: error() },
        Unfit::CallNotUnderstood { error: "what the driver is told is not understood: why".into() },
        Unfit::NoSuchAction { action: "rm".into() },
        Unfit::NotWritable { image: image(), there: there() },
        Unfit::AnotherImage { why: "one/one-7 stays".into() },
        Unfit::NoSnapshotYet { base: image() },
        Unfit::RegisteredHere { image: image(), id: 12 },
        Unfit::NoCloneOf { image: spec("one/one-5-9-0"), base: spec("one/one-5") },
        Unfit::DiskOfAnother { image: image(), vm: 5, there: there(), state: state("RUNNING") },
        Unfit::CopyOfAnother { image: image(), there: there() },
        Unfit::NothingToFailOver { vm: 3, state: state("RUNNING") },
        Unfit::NeverStarts { vm: 3, state: state("CLEANUP_RESUBMIT") },
        Unfit::StartedByHand { vm: 3, state: state("SUSPENDED"), advice: Advice::wait("try again") },
        Unfit::AnswersAgain { there: there(), vm: 3 },
        Unfit::ChangedMeanwhile { image: image() },
        Unfit::InTwoClusters { image: image() },
        Unfit::NoMirroredImage { image: image() },
        Unfit::NoneMirrored,
        Unfit::NotFollowed { image: image(), there: there() },
        Unfit::NotSetAside { image: kept() },
        Unfit::MirroredStill { image: kept(), there: there(), command: "rbd x".into() },
        Unfit::MayBeRegistered { image: kept() },
        Unfit::RestoredBefore { image: kept(), id: 12 },
        Unfit::RegisteredAgain { image: kept(), id: 12 },
        Unfit::HasClone { image: kept(), clone: "one/one-9".into() },
        Unfit::NoDatastore { image: kept() },
        Unfit::NoteNamesNoImage { image: kept() },
        Unfit::NothingLeadsThere { image: kept(), there: there() },
        Unfit::HalfSetAside { image: kept(), original: image(), there: there() },
        Unfit::SetAsideTooSlow { image: kept() },
        Unfit::WaitsForAnotherDisk,
        Unfit::LockRanOut { steps: steps() },
        Unfit::NotAccepted { steps: steps() },
        Unfit::NoBridge { hosts: vec!["host1".into()] },
        Unfit::PeerIsOwnCluster { here: A.into(), there: there() },
        Unfit::VmIsDone { vm: 3 },
        Unfit::NoTimeForToken { vm: 3 },
        Unfit::NameOfTwoDisks { image: image(), one: 0, other: 1 },
        Unfit::ClusterSilent { why: "Ceph on site-a: why".into() },
        Unfit::Bug,
    ]
}

#[test]
fn each_has_a_code_of_its_own_that_no_rule_has() {
    let kinds: Vec<UnfitKind> = one_of_each().iter().map(UnfitKind::from).collect();
    assert_eq!(kinds, UnfitKind::iter().collect::<Vec<_>>());
    let rules = Rule::iter().filter_map(Rule::code);
    let all: Vec<_> = kinds.iter().map(|kind| kind.code()).chain(rules).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
}

#[test]
fn a_text_begins_with_a_code_or_it_does_not() {
    for unfit in one_of_each() {
        assert_eq!(crate::Code::begins(&format!("{} {unfit}", unfit.code())), Some(unfit.code()));
    }
    for other in ["OM3 x", "OM312 x", "OM031 x", "OM+1 x", "OM1000 x", "OM101"] {
        assert_eq!(crate::Code::begins(other), None, "{other}");
    }
}
