//! When the `running` hook stops a VM.

use super::*;
use alloc::format;
use alloc::string::String;

fn judged(observation: Observation) -> String {
    let gate = Gate { patience: Patience::Exhausted, ..gate() };
    match Running::judge(&gate, &[observation]) {
        Running::Leave => "leave".into(),
        Running::MakeUp(_) => "make up".into(),
        Running::Stop(refusal) => format!("stop: {refusal}"),
    }
}

#[test]
fn a_vm_under_its_own_token_is_stopped_only_where_a_copy_that_answers_outranks_it() {
    let own = || primary("3:site-a:open").booted("3:site-a:2");
    let denied = There::Denied(denial());
    let denied_user = PeerVm::Denied(denial());
    for there in [
        There::NotAsked,
        There::Unreachable,
        denied,
        There::Absent,
        There::Apart(Apart { token: seen("9:site-b:open"), forced: None }),
    ] {
        for vm in [PeerVm::Silent, PeerVm::None, active(), letting_go(), denied_user.clone()] {
            let observation = seen_as(Here::Mirrored(own()), there.clone(), vm);
            let observation = Observation { in_touch_since_reboot: false, ..observation };
            assert_eq!(judged(observation), "leave", "{there:?}");
        }
    }
    // who outranks whom only an operator can tell
    for there in [primary("3:site-a:open"), primary("3:site-b:open"), primary("?"), non_primary("3:site-b:x")]
    {
        assert_eq!(judged(pair(own(), there, active())), "leave");
    }
    for there in [primary("1003:site-b:open"), non_primary("4:site-b:x")] {
        assert!(judged(pair(own(), there, inactive())).starts_with("stop: one-0-2-0 is stale here"));
    }
    // a force that no VM followed outranks nobody, and nobody is stopped for it
    for vm in [PeerVm::Silent, PeerVm::Denied(denial()), PeerVm::NotAsked, active(), letting_go()] {
        assert_eq!(judged(pair(own(), never_booted(), vm.clone())), "leave", "{vm:?}");
    }
    for vm in [PeerVm::None, inactive()] {
        assert_eq!(judged(pair(own(), never_booted(), vm)), "make up");
    }
    let apart = seen_as(
        Here::Mirrored(own()),
        There::Apart(Apart { token: seen("1003:site-b:open"), forced: None }),
        PeerVm::None,
    );
    assert!(judged(apart).starts_with("stop: one-0-2-0 is stale here"));
}

#[test]
fn what_no_gate_has_let_through_is_made_up_for_or_stopped() {
    let silent = |here| seen_as(Here::Mirrored(here), There::Unreachable, PeerVm::Silent);
    let rebooted = |here| Observation { in_touch_since_reboot: false, ..silent(here) };
    assert_eq!(judged(silent(primary(""))), "make up");
    assert_eq!(judged(silent(primary("3:site-a:open").booted("3:site-a:9"))), "make up");
    assert!(judged(rebooted(primary("3:site-a:open"))).starts_with("stop: one-0-2-0 may run on site-b"));
    assert!(judged(silent(non_primary("3:site-b:open"))).starts_with("stop: one-0-2-0 is not primary here"));
    let taken = pair(non_primary("3:site-b:open"), primary("3:site-b:open"), active());
    assert!(judged(taken).starts_with("stop: one-0-2-0 is in use on site-b"));
    let none = seen_as(Here::NotMirrored, There::NotAsked, PeerVm::NotAsked);
    assert_eq!(judged(none), "leave");
}
