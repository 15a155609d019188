//! Every property holds in every state within the small bounds, and every rule that is left out is missed.

use onemirror_model::mutation::Mutation;
use onemirror_model::promise::Promise::{
    self, Complete, Home, Kept, Memory, OneWriter, Primary, Stays, There,
};
use onemirror_model::storage::Mirroring::{self, Journal, Snapshot};
use onemirror_model::world::Budget;
use onemirror_model::{Drill, drills, explore};

/// Explores every `of`-th small drill to its end; several tests share the work, so that they use all cores.
fn holds(share: usize, of: usize) {
    for (name, drill) in drills::small().into_iter().skip(share).step_by(of) {
        let outcome = explore(&drill, 1, None);
        println!("{name}: {} states, {} transitions", outcome.states, outcome.transitions);
        assert_eq!(outcome.found, None, "{name}");
        assert!(outcome.exhaustive && outcome.states > 10_000, "{name}: {} states", outcome.states);
    }
}

#[test]
fn everything_holds_in_the_first_half_of_the_small_drills() {
    holds(0, 2);
}

#[test]
fn everything_holds_in_the_second_half_of_the_small_drills() {
    holds(1, 2);
}

/// Leaves one rule out and finds the property that it is about broken; what else breaks on the way there is passed over.
fn breaks(mutation: Mutation, mode: Mirroring, budget: Budget, promise: Promise) {
    breaks_in(Drill { modes: vec![mode], budget, ..plain() }, mutation, promise);
}

/// The same with one run at a time: where nothing has to meet to break it, and the way there is long.
fn alone(mutation: Mutation, budget: Budget, promise: Promise) {
    breaks_in(Drill { budget, at_once: 1, ..plain() }, mutation, promise);
}

fn plain() -> Drill {
    Drill {
        modes: vec![Journal],
        home: 0,
        is_clone: false,
        budget: two_boots(),
        at_once: 2,
        tokens: 5,
        liveness: false,
        mutation: Mutation::None,
        only: None,
    }
}

fn breaks_in(drill: Drill, mutation: Mutation, promise: Promise) {
    // what is about safety has to be found as a lack of safety
    let drill = Drill { liveness: promise == Home, mutation, only: Some(promise), ..drill };
    let limit = 20_000_000;
    let outcome = explore(&drill, 1, Some(limit));
    let found = outcome.found.as_ref().map(|(promise, path)| (*promise, path.len()));
    println!("without {mutation:?}: {found:?} after {} states, {:?}", outcome.states, outcome.took);
    assert_eq!(found.map(|found| found.0), Some(promise), "without {mutation:?}");
    // and it is that rule which keeps the promise so far
    let kept = explore(&Drill { mutation: Mutation::None, ..drill }, 1, Some(outcome.states));
    assert!(kept.found.is_none(), "{promise:?} is broken without {mutation:?} and with it");
}

fn two_boots() -> Budget {
    Budget { boots: 2, writes: 1, ..Budget::default() }
}

#[test]
fn no_rule_of_the_locks_can_be_left_out() {
    breaks(Mutation::NoLockHere, Journal, two_boots(), Primary);
    breaks(Mutation::NoLockThere, Journal, two_boots(), Primary);
    // the second boot of a VM under one token changes nothing, so nothing but its look can stop it
    breaks(Mutation::NoLookUnderLocks, Journal, Budget { boots: 3, ..two_boots() }, Primary);
    breaks(Mutation::NoLockCheck, Journal, Budget { pauses: 2, ..two_boots() }, Primary);
    breaks(Mutation::ReleaseWhileInUse, Journal, Budget { hooks: 1, ..two_boots() }, Primary);
    breaks(Mutation::TrustTerminate, Journal, Budget { restarts: 1, ..two_boots() }, Primary);
}

#[test]
fn no_rule_of_the_handoff_can_be_left_out() {
    breaks(Mutation::NoLookAtPeerVm, Journal, two_boots(), Primary);
    breaks(Mutation::PromoteWithoutToken, Journal, Budget { hand_demotions: 1, ..two_boots() }, Complete);
    breaks(Mutation::TokenWithoutSnapshot, Snapshot, two_boots(), Complete);
    breaks(Mutation::OverlookResync, Journal, Budget { hand_resyncs: 1, ..two_boots() }, There);
    breaks(Mutation::OverlookHalfDemoted, Snapshot, Budget { tears: 1, ..two_boots() }, Home);
    breaks(Mutation::DemoteWithoutFollower, Journal, two_boots(), Home);
    breaks(Mutation::BootWithoutOpening, Journal, Budget { hand_demotions: 1, ..two_boots() }, Home);
}

#[test]
fn no_rule_about_force_can_be_left_out() {
    let lost = Budget { losses: 1, forces: 1, ..two_boots() };
    alone(Mutation::OverlookSplitBrain, lost, OneWriter);
    alone(Mutation::ForceWithoutStride, lost, Home);
    alone(Mutation::ThrowAway, lost, Kept);
    alone(Mutation::ForceWithoutBoot, Budget { boots: 1, crashes: 1, ..lost }, Home);
    let killed = Budget { forces: 1, crashes: 1, cuts: 1, hooks: 1, ..Budget::default() };
    alone(Mutation::TermWithoutBoot, Budget { boots: 1, writes: 1, ..killed }, Home);
    alone(Mutation::OverlookLeftover, Budget { hand_demotions: 1, ..lost }, Home);
}

#[test]
fn whoever_lives_there_is_asked_about_a_force() {
    let budget = Budget { cluster_cuts: 1, forces: 1, ..two_boots() };
    breaks(Mutation::ForceAsksNobody, Journal, budget, OneWriter);
}

#[test]
fn all_vms_that_have_an_image_count() {
    breaks(Mutation::CountOwnVmOnly, Journal, Budget { shares: 1, hooks: 1, ..two_boots() }, Primary);
    breaks(Mutation::PendingIsFree, Journal, Budget { recreates: 1, hooks: 1, ..two_boots() }, Primary);
}

#[test]
fn no_home_can_be_told_by_the_site_or_by_another_images_marks() {
    let at_b = Drill { home: 1, budget: Budget { boots: 1, home_ends: 1, ..Budget::default() }, ..plain() };
    breaks_in(at_b.clone(), Mutation::RoleIsHome, Stays);
    breaks_in(Drill { is_clone: true, ..at_b }, Mutation::CountForeignMarks, Stays);
}

#[test]
fn nothing_that_a_host_remembers_can_be_left_out() {
    let lost = Budget { losses: 1, forces: 1, ..two_boots() };
    alone(Mutation::NoTouchNeeded, Budget { cuts: 1, ..lost }, OneWriter);
}

#[test]
fn the_term_in_which_memory_was_saved_cannot_be_left_out() {
    alone(Mutation::RestoreAnyway, Budget { suspends: 1, forces: 1, ..two_boots() }, Memory);
}

#[test]
fn every_rule_that_can_be_left_out_is_in_a_test() {
    let text: String = include_str!("properties.rs").split_whitespace().collect();
    for mutation in Mutation::ALL {
        assert!(text.contains(&format!("Mutation::{mutation:?},")), "{mutation:?}");
    }
}
