//! The order of a run: every sequence of answers to what it asks for, as far as it goes.

use super::*;
use std::collections::HashSet;
use std::vec::Vec;

const LATENESS: [Lateness; 3] = [Lateness::InTime, Lateness::Over, Lateness::LongOver];

fn setting(closing_id: &str) -> Setting<'_> {
    Setting {
        here: A,
        there: B,
        role: SiteRole::Home,
        peer_unreachable: PeerUnreachable::RefuseAfterReboot,
        vm: Some(2),
        closing_id,
    }
}

fn alone(here: Copy) -> Observation {
    seen_as(Here::Mirrored(here), There::Unreachable, PeerVm::Silent)
}

/// What a look may show, of one image.
fn sights() -> Vec<[Observation; 1]> {
    let closed = "3:site-b:1";
    vec![
        [alone(primary("3:site-a:open").booted("3:site-a:2"))],
        [alone(non_primary("3:site-b:open"))],
        [Observation { here: Here::NotMirrored, ..alone(primary("")) }],
        [pair(non_primary(closed), non_primary(closed), PeerVm::None)],
        [pair(non_primary("3:site-b:open"), primary("3:site-b:open"), PeerVm::None)],
        [pair(non_primary("3:site-b:open"), primary("3:site-b:open"), active())],
        [pair(primary("3:site-a:open"), primary("1003:site-b:open"), PeerVm::None)],
        [pair(primary("3:site-a:open"), non_primary("3:site-a:open"), PeerVm::None)],
        [pair(primary("3:site-b:open"), non_primary("3:site-b:open"), PeerVm::None)],
        [crowded(pair(primary("3:site-a:open"), primary("1003:site-b:open"), PeerVm::None))],
    ]
}

fn runs() -> [Run; 8] {
    [
        Run::boot(BootKind::Cold, Standing::Last),
        Run::boot(BootKind::Restore, Standing::Making),
        Run::boot(BootKind::Cold, Standing::Outer),
        Run::give_up(LetGo::ByEndingVm),
        Run::take_up(),
        Run::tidy(),
        Run::force(false, Standing::Last),
        Run::force(true, Standing::Making),
    ]
}

/// What has happened so far, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Past {
    here: bool,
    there: bool,
    /// Since the last lock was taken, or the last change was made.
    looked: bool,
}

/// Explores every answer to every request, from every run; `check` is called with what had happened before each request.
fn explore(check: impl Fn(Run, Past, &Request)) {
    let sights = sights();
    let mut known = HashSet::new();
    // with the sight that is asked about, where something is asked about one
    let mut open: Vec<(Run, Past, Option<usize>)> = Vec::new();
    let nothing = Past { here: false, there: false, looked: false };
    for run in runs() {
        let mut begun = run;
        let request = begun.next(&setting("1"), Event::Go);
        check(run, nothing, &request);
        assert!(matches!(request, Request::Look(_)), "{request:?}");
        open.push((begun, nothing, None));
    }
    // where a run stands tells what it waits for: every answer is tried, and one that does not fit ends it
    while let Some((run, past, seen)) = open.pop() {
        if !known.insert((run, past, seen)) {
            continue;
        }
        let mut events: Vec<(Event<'_>, Option<usize>)> =
            vec![(Event::Go, None), (Event::Came, None), (Event::Locked, None)];
        for lateness in LATENESS {
            for patience in [Patience::Fresh, Patience::Waning, Patience::Exhausted] {
                let time = Time { patience, lateness };
                let shown = sights.iter().enumerate().filter(|(at, _)| seen.is_none_or(|seen| seen == *at));
                events.extend(shown.map(|(at, sight)| (Event::Saw(sight, time), Some(at))));
            }
            let time = Time { patience: Patience::Fresh, lateness };
            for carried in [Carried::Out, Carried::Halted, Carried::LockRanOut] {
                events.push((Event::Acted(carried, time), None));
            }
            for trouble in [Trouble::Passing, Trouble::NoRoom, Trouble::Lasting] {
                events.push((Event::Failed(trouble, time), None));
            }
        }
        for (event, seen) in events {
            let mut next = run;
            let request = next.next(&setting("1"), event);
            let mut past = past;
            match event {
                Event::Saw(..) => past.looked = true,
                Event::Acted(..) => past.looked = false,
                Event::Go | Event::Came | Event::Locked | Event::Failed(..) => {}
            }
            check(run, past, &request);
            match &request {
                Request::End { .. } | Request::ForceAndEnd(_) => continue,
                Request::Lock(Side::Here) => past = Past { here: true, looked: false, ..past },
                Request::Lock(Side::There) => past = Past { there: true, looked: false, ..past },
                Request::Wait(_) | Request::Unlock | Request::Narrow(_) | Request::Widen { .. } => {
                    past = nothing;
                }
                Request::Look(_)
                | Request::Claim { .. }
                | Request::AskUsers(_)
                | Request::AskWriters
                | Request::Act { .. } => {}
            }
            let asks = matches!(request, Request::Claim { .. } | Request::AskUsers(_) | Request::AskWriters);
            open.push((next, past, seen.filter(|_| asks)));
        }
    }
    assert!(known.len() > 100, "{}", known.len());
}

#[test]
fn nothing_is_changed_but_under_locks_and_after_a_look_under_them() {
    explore(|run, past, request| {
        let steps: &[Step] = match request {
            Request::Act { steps, .. } | Request::End { steps, .. } | Request::ForceAndEnd(steps) => steps,
            _ => &[],
        };
        for step in steps {
            let why = format!("{run:?} {step:?}");
            assert!(past.here && past.looked, "{why}");
            assert!(past.there || step.side() == Side::Here, "{why}");
        }
    });
}

#[test]
fn the_lock_there_comes_after_the_lock_here() {
    explore(|run, past, request| {
        if matches!(request, Request::Lock(Side::There)) {
            assert!(past.here, "{run:?}");
        }
    });
}

#[test]
fn what_locks_are_taken_by_is_looked_at_before_them_only() {
    let asked = std::cell::Cell::new(0);
    explore(|run, past, request| {
        if *request == Request::Look(Depth::ToLock) {
            asked.set(asked.get() + 1);
            assert!(!past.here && !past.there, "{run:?}");
        }
    });
    assert!(asked.get() > 3, "{}", asked.get());
}

#[test]
fn who_uses_what_is_given_up_already_is_not_asked() {
    let given_up = pair(non_primary("3:site-b:1"), non_primary("3:site-b:1"), PeerVm::None);
    let primary = pair(primary("3:site-b:open"), non_primary("3:site-b:open"), PeerVm::None);
    for (seen, asks) in [(vec![given_up.clone()], false), (vec![given_up, primary], true)] {
        let mut run = at_the_lock(Run::give_up(LetGo::ByEndingVm), &seen);
        assert_eq!(run.next(&setting("1"), Event::Locked), Request::Look(Depth::GiveUp));
        let request = run.next(&setting("1"), Event::Saw(&seen, time(Lateness::InTime)));
        let given_up =
            Request::End { steps: Vec::new(), findings: Vec::new(), verdict: Verdict::GivenUp(Vec::new()) };
        let expected = if asks { Request::AskUsers(Users::Since(LetGo::ByEndingVm)) } else { given_up };
        assert_eq!(request, expected);
    }
}

#[test]
fn what_has_come_is_looked_at_under_the_locks_at_once() {
    let on_its_way = [pair(non_primary("2:site-a:1"), non_primary("3:site-b:1"), PeerVm::None)];
    let here = [pair(non_primary("3:site-b:1"), non_primary("3:site-b:1"), PeerVm::None)];
    let mut run = Run::boot(BootKind::Cold, Standing::Last);
    let mut request = run.next(&setting("1"), Event::Go);
    while !matches!(request, Request::Wait(Some((WaitFor::Arrival, _)))) {
        request = run.next(&setting("1"), Event::Saw(&on_its_way, time(Lateness::InTime)));
    }
    assert_eq!(run.next(&setting("1"), Event::Came), Request::Lock(Side::Here));
    assert_eq!(run.next(&setting("1"), Event::Locked), Request::Lock(Side::There));
    assert_eq!(run.next(&setting("1"), Event::Locked), Request::Look(Depth::Boot));
    // it was another one
    let request = run.clone().next(&setting("1"), Event::Saw(&on_its_way, time(Lateness::InTime)));
    assert_eq!(request, Request::Wait(None));
    let request = run.next(&setting("1"), Event::Saw(&here, time(Lateness::InTime)));
    assert!(matches!(request, Request::Act { .. }), "{request:?}");
}

fn time(lateness: Lateness) -> Time {
    Time { patience: Patience::Fresh, lateness }
}

/// Up to where the run has asked for the lock here.
fn at_the_lock(mut run: Run, sight: &[Observation]) -> Run {
    let mut request = run.next(&setting("1"), Event::Go);
    while request != Request::Lock(Side::Here) {
        assert!(matches!(request, Request::Look(_) | Request::Claim { .. }), "{request:?}");
        request = run.next(&setting("1"), Event::Saw(sight, time(Lateness::InTime)));
    }
    run
}

#[test]
fn who_meets_a_lock_waits_but_for_a_force_and_reconcile() {
    let sight = [pair(non_primary("3:site-b:open"), primary("3:site-b:open"), PeerVm::None)];
    for (run, waits) in [
        (Run::boot(BootKind::Cold, Standing::Last), true),
        (Run::give_up(LetGo::Earlier), true),
        (Run::take_up(), true),
        (Run::tidy(), false),
        (Run::force(false, Standing::Last), false),
    ] {
        let met = |lateness| {
            at_the_lock(run, &sight).next(&setting("1"), Event::Failed(Trouble::Passing, time(lateness)))
        };
        assert_eq!(met(Lateness::InTime) == Request::Wait(None), waits, "{run:?}");
        let over = met(Lateness::Over);
        assert!(matches!(over, Request::End { verdict: Verdict::Failed, .. }), "{run:?} {over:?}");
    }
}

#[test]
fn a_run_whose_lock_ran_out_begins_again_for_longer() {
    let sight = [pair(non_primary("3:site-b:1"), non_primary("3:site-b:1"), PeerVm::None)];
    let acted = |carried, lateness| {
        let mut run = at_the_lock(Run::boot(BootKind::Cold, Standing::Last), &sight);
        let mut request = run.next(&setting("1"), Event::Locked);
        while !matches!(request, Request::Act { .. }) {
            let event = match request {
                Request::Look(_) => Event::Saw(&sight, time(Lateness::InTime)),
                Request::Lock(_) => Event::Locked,
                other => panic!("{other:?}"),
            };
            request = run.next(&setting("1"), event);
        }
        run.next(&setting("1"), Event::Acted(carried, time(lateness)))
    };
    for (carried, lateness, goes_on) in [
        (Carried::Halted, Lateness::InTime, true),
        (Carried::Halted, Lateness::Over, false),
        (Carried::LockRanOut, Lateness::Over, true),
        (Carried::LockRanOut, Lateness::LongOver, false),
    ] {
        let request = acted(carried, lateness);
        assert_eq!(request == Request::Wait(None), goes_on, "{carried:?} {lateness:?} {request:?}");
    }
    assert_eq!(acted(Carried::Out, Lateness::LongOver), Request::Look(Depth::Boot));
}

#[test]
fn a_force_takes_over_what_answers_and_judges_again() {
    let sight = [pair(non_primary("3:site-b:open"), primary("3:site-b:open"), PeerVm::Silent)];
    let mut run = at_the_lock(Run::force(false, Standing::Last), &sight);
    let saw = Event::Saw(&sight, time(Lateness::InTime));
    assert_eq!(run.next(&setting("1"), Event::Locked), Request::Lock(Side::There));
    assert_eq!(run.next(&setting("1"), Event::Locked), Request::Look(Depth::Force));
    assert_eq!(run.next(&setting("1"), saw), Request::Narrow(vec![sight[0].image.clone()]));
    assert_eq!(run.next(&setting("1"), Event::Go), Request::Look(Depth::Boot));
    let taken =
        [pair(primary("4:site-a:open").booted("4:site-a:2"), non_primary("4:site-a:open"), PeerVm::None)];
    let saw = Event::Saw(&taken, time(Lateness::InTime));
    let mut request = run.next(&setting("1"), saw);
    while request != (Request::Widen { taken_over: true }) {
        let event = if matches!(request, Request::Lock(_)) { Event::Locked } else { saw };
        request = run.next(&setting("1"), event);
    }
    assert_eq!(run.next(&setting("1"), Event::Go), Request::Look(Depth::Force));
}

#[test]
fn a_force_does_nothing_where_the_other_site_answers_once_its_lock_is_taken() {
    let silent = [alone(non_primary("3:site-b:open"))];
    let answering = [pair(non_primary("3:site-b:open"), primary("3:site-b:open"), PeerVm::None)];
    let mut run = at_the_lock(Run::force(false, Standing::Last), &silent);
    assert_eq!(run.next(&setting("1"), Event::Locked), Request::Look(Depth::Force));
    let request = run.next(&setting("1"), Event::Saw(&answering, time(Lateness::InTime)));
    assert!(matches!(request, Request::End { verdict: Verdict::AnswersAgain, .. }), "{request:?}");
}

#[test]
fn a_run_is_a_few_bytes() {
    assert!(size_of::<Run>() <= 16, "{}", size_of::<Run>());
}
