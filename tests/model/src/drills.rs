//! The bounds that are explored: small ones in every test run, larger ones by a command.

use crate::Drill;
use crate::mutation::Mutation;
use crate::storage::Mirroring::{self, Journal, Snapshot};
use crate::world::Budget;

/// A drill with a name.
pub type Named = (&'static str, Drill);

fn drill(modes: &[Mirroring], tokens: u16, budget: Budget) -> Drill {
    Drill {
        modes: modes.to_vec(),
        home: 0,
        is_clone: false,
        budget,
        at_once: 2,
        tokens,
        liveness: true,
        mutation: Mutation::None,
        only: None,
    }
}

const J: &[Mirroring] = &[Journal];
const S: &[Mirroring] = &[Snapshot];
const BOTH: &[Mirroring] = &[Journal, Snapshot];

fn boots(boots: u8) -> Budget {
    Budget { boots, writes: 1, ..Budget::default() }
}

/// Explored to the end in some seconds each.
pub fn small() -> Vec<Named> {
    vec![
        ("journal: a run is killed", drill(J, 5, Budget { crashes: 1, ..boots(2) })),
        ("snapshot: a run is killed", drill(S, 5, Budget { crashes: 1, ..boots(2) })),
        ("journal: suspended", drill(J, 5, Budget { suspends: 1, ..boots(2) })),
        ("snapshot: suspended", drill(S, 5, Budget { suspends: 1, ..boots(2) })),
        ("journal: a run sleeps until its lock is gone", drill(J, 5, Budget { pauses: 1, ..boots(2) })),
        ("snapshot: the link breaks", drill(S, 5, Budget { cuts: 1, ..boots(2) })),
        (
            "journal: reconcile, a run is killed",
            drill(J, 5, Budget { reconciles: 1, crashes: 1, ..boots(1) }),
        ),
        ("snapshot: a late hook, a run is killed", drill(S, 5, Budget { hooks: 1, crashes: 1, ..boots(1) })),
        ("journal: lost site, force", drill(J, 3, Budget { losses: 1, forces: 1, ..boots(1) })),
        (
            "snapshot: a demotion or promotion is killed half-way",
            drill(S, 5, Budget { tears: 1, ..boots(2) }),
        ),
        ("snapshot: a front-end is restarted", drill(S, 4, Budget { restarts: 1, ..boots(2) })),
        ("journal: a resync by hand", drill(J, 4, Budget { hand_resyncs: 1, ..boots(2) })),
        ("two disks", drill(BOTH, 5, boots(1))),
        ("journal: three boots", drill(J, 3, boots(3))),
        (
            "journal: home is site-b, terminated at home, a run is killed",
            Drill { home: 1, ..drill(J, 5, Budget { home_ends: 1, crashes: 1, ..boots(2) }) },
        ),
        ("journal: recreated, a late hook", drill(J, 5, Budget { recreates: 1, hooks: 1, ..boots(1) })),
        ("snapshot: two VMs have the disk, a late hook", {
            drill(S, 4, Budget { shares: 1, hooks: 1, ..boots(1) })
        }),
        ("journal: home's cluster alone is cut off, force", {
            drill(J, 3, Budget { cluster_cuts: 1, forces: 1, ..boots(1) })
        }),
        ("journal: home's front-end alone is cut off, force", {
            drill(J, 3, Budget { front_end_cuts: 1, forces: 1, ..boots(1) })
        }),
        ("journal: a clone with the marks of another image, home is site-b", {
            let budget = Budget { home_ends: 1, reconciles: 1, ..boots(1) };
            Drill { home: 1, is_clone: true, ..drill(J, 5, budget) }
        }),
    ]
}

/// Explored with patience, some minutes each.
pub fn large() -> Vec<Named> {
    [boots_and_hands(), faults(), forces(), places_and_sharers(), two_disks()].concat()
}

/// Users boot and write more, and operators act by hand.
fn boots_and_hands() -> Vec<Named> {
    vec![
        ("journal: three boots, two writes", drill(J, 6, Budget { writes: 2, ..boots(3) })),
        ("snapshot: three boots, two writes", drill(S, 6, Budget { writes: 2, ..boots(3) })),
        ("journal: demoted by hand", drill(J, 5, Budget { hand_demotions: 1, ..boots(2) })),
        ("snapshot: demoted by hand", drill(S, 5, Budget { hand_demotions: 1, ..boots(2) })),
        ("snapshot: a resync by hand", drill(S, 5, Budget { hand_resyncs: 1, ..boots(2) })),
        ("journal: a resync by hand, reconcile", {
            drill(J, 4, Budget { hand_resyncs: 1, reconciles: 1, ..boots(2) })
        }),
    ]
}

/// Runs are killed or sleep, a front-end or the link fails, and others are at work as well.
fn faults() -> Vec<Named> {
    vec![
        ("journal: two runs are killed", drill(J, 5, Budget { crashes: 2, ..boots(2) })),
        ("snapshot: two runs are killed", drill(S, 5, Budget { crashes: 2, ..boots(2) })),
        ("journal: one run sleeps, one is killed", drill(J, 5, Budget { pauses: 1, crashes: 1, ..boots(2) })),
        ("snapshot: a run sleeps until its lock is gone", drill(S, 5, Budget { pauses: 1, ..boots(2) })),
        ("journal: a front-end is restarted, a run is killed", {
            drill(J, 4, Budget { restarts: 1, crashes: 1, ..boots(2) })
        }),
        ("journal: a front-end is restarted", drill(J, 5, Budget { restarts: 1, ..boots(2) })),
        ("snapshot: a front-end is restarted, five tokens", drill(S, 5, Budget { restarts: 1, ..boots(2) })),
        ("snapshot: a front-end is restarted, suspended", {
            drill(S, 4, Budget { restarts: 1, suspends: 1, ..boots(2) })
        }),
        ("journal: the link breaks", drill(J, 5, Budget { cuts: 1, ..boots(2) })),
        ("journal: reconcile", drill(J, 4, Budget { reconciles: 1, ..boots(2) })),
        ("snapshot: reconcile", drill(S, 4, Budget { reconciles: 1, ..boots(2) })),
        ("journal: a late hook", drill(J, 5, Budget { hooks: 1, ..boots(2) })),
        ("snapshot: a late hook", drill(S, 5, Budget { hooks: 1, ..boots(2) })),
    ]
}

/// Operators force, and changes of roles end half-way.
fn forces() -> Vec<Named> {
    vec![
        ("journal: force", drill(J, 4, Budget { forces: 1, ..boots(2) })),
        ("snapshot: force", drill(S, 4, Budget { forces: 1, ..boots(2) })),
        (
            "snapshot: lost site, force, broken link",
            drill(S, 3, Budget { losses: 1, forces: 1, cuts: 1, ..boots(1) }),
        ),
        ("journal: force, broken link", drill(J, 4, Budget { forces: 1, cuts: 1, ..boots(1) })),
        ("snapshot: force, broken link", drill(S, 4, Budget { forces: 1, cuts: 1, ..boots(1) })),
        ("journal: one run at a time, force that is killed, broken link, a late hook", {
            let budget = Budget { forces: 1, crashes: 1, cuts: 1, hooks: 1, ..boots(1) };
            Drill { at_once: 1, ..drill(J, 3, budget) }
        }),
        ("journal: lost site, force, two boots", drill(J, 3, Budget { losses: 1, forces: 1, ..boots(2) })),
        ("snapshot: lost site, force, a run is killed", {
            drill(S, 4, Budget { losses: 1, forces: 1, crashes: 1, ..boots(1) })
        }),
        ("snapshot: a change of roles half-way, a run is killed", {
            drill(S, 5, Budget { tears: 1, crashes: 1, ..boots(2) })
        }),
        ("snapshot: a change of roles half-way, reconcile", {
            drill(S, 4, Budget { tears: 1, reconciles: 1, ..boots(2) })
        }),
        ("journal: one run at a time, lost site, force, a run is killed, reconcile", {
            let budget = Budget { losses: 1, forces: 1, crashes: 1, reconciles: 1, ..boots(1) };
            Drill { at_once: 1, ..drill(J, 3, budget) }
        }),
        ("snapshot: lost site, force, a change of roles half-way", {
            drill(S, 3, Budget { losses: 1, forces: 1, tears: 1, ..boots(1) })
        }),
    ]
}

/// Home is elsewhere or cut off in part, VMs are recreated or share the disk, and an image is a clone.
fn places_and_sharers() -> Vec<Named> {
    vec![
        ("snapshot: home is site-b, terminated at home, a run is killed", {
            Drill { home: 1, ..drill(S, 5, Budget { home_ends: 1, crashes: 1, ..boots(2) }) }
        }),
        ("snapshot: home is site-b, lost site, force", {
            Drill { home: 1, ..drill(S, 3, Budget { losses: 1, forces: 1, ..boots(1) }) }
        }),
        ("snapshot: recreated, a front-end is restarted", {
            drill(S, 4, Budget { recreates: 1, restarts: 1, ..boots(1) })
        }),
        ("journal: recreated, two boots", drill(J, 5, Budget { recreates: 1, ..boots(2) })),
        ("journal: two VMs have the disk, a late hook, two boots", {
            drill(J, 4, Budget { shares: 1, hooks: 1, ..boots(2) })
        }),
        ("journal: home's cluster alone is cut off, force, two boots", {
            drill(J, 4, Budget { cluster_cuts: 1, forces: 1, ..boots(2) })
        }),
        ("snapshot: home's front-end alone is cut off, force", {
            drill(S, 3, Budget { front_end_cuts: 1, forces: 1, ..boots(1) })
        }),
        ("snapshot: a clone with the marks of another image, a run is killed", {
            let budget = Budget { reconciles: 1, home_ends: 1, crashes: 1, ..boots(1) };
            Drill { is_clone: true, ..drill(S, 5, budget) }
        }),
    ]
}

/// The VM has two disks.
fn two_disks() -> Vec<Named> {
    vec![
        ("two disks, a run is killed", drill(BOTH, 4, Budget { crashes: 1, ..boots(1) })),
        ("two disks in one pool, two boots", drill(&[Journal, Journal], 2, boots(2))),
        ("two disks, two boots", drill(BOTH, 3, boots(2))),
    ]
}
