//! What an operator's force may do, for every state of a VM there, every answer of its cluster and its front-end, and
//! every role here.

use super::*;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

/// What the front-end there may say.
fn users() -> [(&'static str, PeerVm); 9] {
    [
        ("not asked", PeerVm::NotAsked),
        ("silent", PeerVm::Silent),
        ("denied", PeerVm::Denied(denial())),
        ("none", PeerVm::None),
        ("poweroff", inactive()),
        ("epilog", letting_go()),
        ("suspended", suspended()),
        ("unknown", lost()),
        ("running", active()),
    ]
}

/// What the cluster there may say of its copy.
fn clusters() -> [(&'static str, There); 7] {
    let there = |copy: Copy| There::Mirrored(copy);
    [
        ("silent", There::Unreachable),
        ("denied", There::Denied(denial())),
        ("absent", There::Absent),
        ("primary, followed", there(primary("3:site-b:open"))),
        ("primary, not followed", there(primary("5:site-b:open"))),
        ("open for writing", there(primary("5:site-b:open"))),
        ("demoted, all here", there(non_primary("3:site-b:open"))),
    ]
}

fn letter(forcing: &HowForced) -> char {
    match forcing {
        HowForced::Nothing => '-',
        HowForced::TakeOver => 'T',
        HowForced::Promote { fence: false } => 'P',
        HowForced::Promote { fence: true } => 'F',
        HowForced::Refuse(_) => 'x',
    }
}

/// One letter per answer of the cluster there.
fn line(here: &Copy, vm: &PeerVm, site_is_off: bool, patience: Patience) -> String {
    let open_there = BTreeSet::from([spec("one/one-0-2-0")]);
    let none = BTreeSet::new();
    let judge = |(name, there): (&str, There)| {
        let open_there = if name == "open for writing" { &open_there } else { &none };
        let force = Force { gate: Gate { patience, ..gate() }, site_is_off, open_there };
        let observation = seen_as(Here::Mirrored(here.clone()), there, vm.clone());
        letter(&force.judge(&[observation])[0])
    };
    clusters().into_iter().map(judge).collect()
}

/// `-` nothing to force, `T` demoted there and taken over, `P` promoted by force, `F` demoted there and then promoted by
/// force, `x` refused. Columns: `clusters()`.
#[test]
fn force_does_what_the_table_says() {
    let copy = non_primary("3:site-b:open");
    // with --force, with --site-is-off, and both once the copy could not follow in time
    let followers = [
        ("not asked", "xxxxxxx", "xxxxxxx", "xxxxxxx", "xxxxxxx"),
        ("silent", "PxPTTTT", "PPPTTxT", "PxPTxxx", "PPPTFxP"),
        ("denied", "xxxxxxx", "PPPTTxT", "xxxxxxx", "PPPTFxP"),
        ("none", "PxP-TTT", "PPP-TxT", "PxP-xxP", "PPP-FxP"),
        ("poweroff", "PxP-TTT", "PPP-TxT", "PxP-xxP", "PPP-FxP"),
        ("epilog", "xxxxxxx", "PPPTTxT", "xxxxxxx", "PPPTFxP"),
        ("suspended", "PxPTTTT", "PPPTTxT", "PxPTxxx", "PPPTFxP"),
        ("unknown", "xxxTTTT", "PPPTTxT", "xxxTxxx", "PPPTFxP"),
        ("running", "xxxxxxx", "PPPTTxT", "xxxxxxx", "PPPTFxP"),
    ];
    let mut wrong = Vec::new();
    for ((name, vm), (row, force, off, late, off_late)) in users().into_iter().zip(followers) {
        assert_eq!(name, row);
        for (expected, site_is_off, patience) in [
            (force, false, Patience::Fresh),
            (off, true, Patience::Fresh),
            (late, false, Patience::Exhausted),
            (off_late, true, Patience::Exhausted),
        ] {
            let found = line(&copy, &vm, site_is_off, patience);
            if found != expected {
                wrong.push(format!("{name}, off: {site_is_off}, {patience:?}: {found}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Of a copy that is primary here only a site that cannot be asked, and whose VM may live, keeps a VM from booting.
#[test]
fn a_primary_copy_is_forced_only_past_a_vm_that_may_live() {
    let copy = primary("9:site-a:open").booted("9:site-a:2");
    let rows = [
        ("not asked", "-------", "-------"),
        ("silent", "-------", "-------"),
        ("denied", "-------", "-------"),
        ("none", "-------", "-------"),
        ("poweroff", "-------", "-------"),
        ("epilog", "xx-xxx-", "PP-FFx-"),
        ("suspended", "-------", "-------"),
        ("unknown", "xx-----", "PP-----"),
        ("running", "xx-xxx-", "PP-FFx-"),
    ];
    for ((name, vm), (row, force, off)) in users().into_iter().zip(rows) {
        assert_eq!(name, row);
        assert_eq!(line(&copy, &vm, false, Patience::Fresh), force, "{name}");
        assert_eq!(line(&copy, &vm, true, Patience::Fresh), off, "{name}, off");
    }
}

/// Whatever role and token the copies have: a VM there that may live, an answer that hides one, and a copy that somebody
/// writes to are never passed by.
#[test]
fn no_situation_forces_past_a_vm_that_may_live() {
    let none = BTreeSet::new();
    let open_there = BTreeSet::from([spec("one/one-0-2-0")]);
    // who lives there is put in below
    for observation in every_pair().filter(|seen| seen.vm_there == PeerVm::NotAsked) {
        for patience in [Patience::Fresh, Patience::Exhausted] {
            let judge = |vm: PeerVm, site_is_off, open_there| {
                let gate = Gate { patience, ..gate() };
                let observation = Observation { vm_there: vm, ..observation.clone() };
                letter(&Force { gate, site_is_off, open_there }.judge(&[observation])[0])
            };
            for vm in [active(), letting_go(), PeerVm::Denied(denial())] {
                assert!(matches!(judge(vm, false, &none), '-' | 'x'), "{observation:?}");
            }
            assert!(matches!(judge(active(), true, &open_there), '-' | 'x'), "{observation:?}");
        }
    }
}

fn image(name: &str, observation: Observation) -> Observation {
    Observation { image: spec(name), ..observation }
}

/// Forced here and never booted on.
fn forced_copy() -> Copy {
    Copy { forced: Some("1003:site-a:2".parse().unwrap()), ..primary("1003:site-a:open") }
}

#[test]
fn a_vm_of_which_one_disk_was_forced_is_no_mix_of_ages() {
    let silent =
        |name, here: Copy| image(name, seen_as(Here::Mirrored(here), There::Unreachable, PeerVm::Silent));
    let told = |observations: &[Observation]| {
        let judgement = gate().judge(observations);
        (judgement.findings[1].rule, decision_text(&judgement.decision))
    };
    let left = non_primary("3:site-b:open");
    let half = [silent("one/a", forced_copy()), silent("one/b", left.clone())];
    assert_eq!(
        told(&half),
        (
            Rule::ForcedInPart,
            "refuse: b is not primary here, and a was forced; to force the others too: onemirror failover 2 --force --reason TEXT".into()
        )
    );
    let none = BTreeSet::new();
    let force = |observations: &[Observation], site_is_off| {
        let all = Force { gate: gate(), site_is_off, open_there: &none }.judge(observations);
        all.iter().map(letter).collect::<String>()
    };
    // the same command again
    assert_eq!(force(&half, false), "-P");
    // meanwhile the other site answers: what it has is newer than what was forced
    let back = [
        image("one/a", pair(forced_copy(), primary("3:site-b:open"), inactive())),
        image("one/b", pair(left, primary("3:site-b:open"), inactive())),
    ];
    let (rule, text) = told(&back);
    assert_eq!(rule, Rule::ForcedInPart);
    assert!(text.contains("rbd mirror image demote one/a && rbd mirror image resync one/a"), "{text}");
    // once the VM was booted on the forced disk, another one is a new disk of it
    let booted = forced_copy().booted("1003:site-a:2");
    let later = [image("one/a", pair(booted, primary("3:site-b:open"), inactive())), back[1].clone()];
    assert_eq!(decision_text(&gate().judge(&later).decision), "write 4:site-b:c1 there, demote there");
}

#[test]
fn in_snapshot_mode_who_may_write_there_is_cut_off_before_the_demotion() {
    let gate = Gate { pass_over: PassOver::Doubts, ..gate() };
    let said = |copy: fn(&str) -> Copy, mode: Mode, vm| {
        let of = |copy: Copy| Copy { mode, ..copy };
        let observation = pair(of(non_primary("3:site-b:open")), of(copy("3:site-b:open")), vm);
        decision_text(&gate.judge(&[observation]).decision)
    };
    let (cut, plain) =
        ("fence there, write 4:site-b:c1 there, demote there", "write 4:site-b:c1 there, demote there");
    for vm in [PeerVm::Silent, lost(), suspended()] {
        assert_eq!(said(primary, Mode::Snapshot, vm.clone()), cut);
        assert_eq!(said(primary, Mode::Journal, vm), plain);
    }
    for vm in [PeerVm::None, inactive()] {
        assert_eq!(said(primary, Mode::Snapshot, vm), plain);
    }
}

#[test]
fn one_image_that_cannot_be_forced_is_told_before_any_is_touched() {
    let none = BTreeSet::new();
    let unreachable = |here| seen_as(here, There::Unreachable, PeerVm::Silent);
    let images = [
        image("one/a", unreachable(Here::Mirrored(non_primary("3:site-b:open")))),
        image("one/b", unreachable(Here::Absent)),
        image("one/c", unreachable(Here::Mirrored(non_primary("")))),
        image("one/d", unreachable(Here::Mirrored(non_primary("?")))),
        image(
            "one/e",
            Observation { owned_by_both: true, ..unreachable(Here::Mirrored(non_primary("3:site-b:open"))) },
        ),
        image("one/f", unreachable(Here::NotMirrored)),
    ];
    let all = Force { gate: gate(), site_is_off: true, open_there: &none }.judge(&images);
    assert_eq!(all.iter().map(letter).collect::<String>(), "Pxxxx-");
}

fn forces(
    site_is_off: bool,
    open_there: bool,
    observation: Observation,
    rule: Rule,
    says: &'static str,
) -> Row {
    let open_there = BTreeSet::from_iter(open_there.then(|| observation.image.clone()));
    let force = Force { gate: gate(), site_is_off, open_there: &open_there };
    let HowForced::Refuse(refusal) = force.judge(&[observation]).remove(0) else {
        panic!("not refused: {says}")
    };
    let judged = (refusal.rule, format!("refuse: {refusal}"));
    Row { rule, says, judged, advice: Some(refusal.advice) }
}

pub(super) fn force_rows() -> Vec<Row> {
    use Rule::*;
    let copy = || Here::Mirrored(non_primary("3:site-b:open"));
    let silent = |here| seen_as(here, There::Unreachable, PeerVm::Silent);
    let answers = || There::Mirrored(primary("5:site-b:open"));
    vec![
        forces(
            true,
            false,
            silent(Here::Absent),
            ForceNothingHere,
            "refuse: one-0-2-0 has no copy here; there is nothing to promote; restore it from a backup",
        ),
        forces(
            true,
            false,
            seen_as(copy(), There::Apart(Apart { token: seen("5:site-b:open"), forced: None }), PeerVm::None),
            ForceApart,
            "refuse: one-0-2-0 is on site-b, which answers, another image than the one here; to keep the one here, on site-b: rbd mv one/one-0-2-0 one/one-0-2-0.aside",
        ),
        forces(
            true,
            false,
            silent(Here::Mirrored(non_primary(""))),
            ForceHalfCopied,
            "refuse: one-0-2-0 may be half copied: it has no handoff token yet; if it was complete all the same (rbd mirror image status one/one-0-2-0): rbd mirror image promote one/one-0-2-0 --force",
        ),
        forces(
            true,
            false,
            silent(Here::Mirrored(non_primary("?"))),
            TokenUnreadable,
            "refuse: one-0-2-0 has an unreadable handoff token here; who wrote it, and which copy counts (rbd image-meta list)",
        ),
        forces(
            true,
            true,
            seen_as(copy(), answers(), active()),
            ForceOpenThere,
            "refuse: one-0-2-0 is open for writing on site-b, whose cluster answers, so it is not off; close it there; who has it open is told by: rbd status one/one-0-2-0",
        ),
        forces(
            false,
            false,
            seen_as(copy(), There::Unreachable, active()),
            ForceInUseThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0; then, here: onemirror failover 2; if site-b is off for good, here: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        forces(
            false,
            false,
            seen_as(copy(), There::Unreachable, letting_go()),
            ForceInUseThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is EPILOG; it is on its way out, try again; if site-b is off for good: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        forces(
            false,
            false,
            seen_as(copy(), There::Unreachable, lost()),
            ForceMayBeInUseThere,
            "refuse: one-0-2-0 may be in use on site-b: VM 0 is UNKNOWN; its host does not report, so nobody knows; once that host is off for certain: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        forces(
            false,
            false,
            seen_as(copy(), There::Denied(denial()), PeerVm::Silent),
            ForcePeerDenied,
            "refuse: one-0-2-0 cannot be forced: site-b denies access; put that right (info: permission denied: why); if site-b is off for good: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        forces(
            false,
            false,
            seen_as(copy(), There::Unreachable, PeerVm::Denied(denial())),
            ForcePeerFrontEndDenied,
            "refuse: one-0-2-0 cannot be forced: the front-end of site-b denies access; put that right (info: permission denied: why); if site-b is off for good: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
    ]
}

#[test]
fn no_force_makes_one_vm_of_disks_of_two_ages() {
    let none = BTreeSet::new();
    let silent = |here| seen_as(Here::Mirrored(here), There::Unreachable, PeerVm::Silent);
    let left = Copy { booted: Some("1:site-a:2".parse().unwrap()), ..primary("1:site-a:open") };
    let letters = |disks: [Observation; 2], site_is_off| {
        let rules = Force { gate: gate(), site_is_off, open_there: &none };
        rules.judge(&disks).iter().map(letter).collect::<String>()
    };
    let back = non_primary("1001:site-b:open");
    for site_is_off in [false, true] {
        assert_eq!(letters([silent(back.clone()), silent(left.clone())], site_is_off), "Px");
        assert_eq!(letters([silent(left.clone()), silent(back.clone())], site_is_off), "xP");
    }
    // both came back, or neither
    assert_eq!(letters([silent(back.clone()), silent(back)], true), "PP");
    assert!(!letters([silent(left.clone()), silent(left)], true).contains('x'));
}

#[test]
fn a_disk_that_the_stock_driver_makes_hinders_no_force() {
    let none = BTreeSet::new();
    let letters = |disks_made, there: &There, vm: PeerVm| {
        let rules = Force { gate: Gate { disks_made, ..gate() }, site_is_off: false, open_there: &none };
        let image = seen_as(Here::Mirrored(non_primary("3:site-b:open")), There::Unreachable, PeerVm::Silent);
        let volatile = to_be_made(seen_as(Here::Absent, there.clone(), vm));
        rules.judge(&[image, volatile]).iter().map(letter).collect::<String>()
    };
    assert_eq!(letters(false, &There::Unreachable, PeerVm::Silent), "P-");
    assert_eq!(letters(false, &There::Absent, PeerVm::None), "P-");
    // it was made, and is gone
    assert_eq!(letters(true, &There::Unreachable, PeerVm::Silent), "Px");
    // that of the other site's VM by the same name would be written over
    assert_eq!(letters(false, &There::Mirrored(primary("3:site-b:open")), PeerVm::None), "Px");
}

#[test]
fn a_disk_that_may_still_arrive_is_not_called_lost() {
    let none = BTreeSet::new();
    let arriving = seen_as(Here::Absent, There::Mirrored(primary("3:site-b:open")), PeerVm::None);
    let said = |site_is_off| {
        let rules = Force { gate: gate(), site_is_off, open_there: &none };
        match rules.judge(core::slice::from_ref(&arriving)).remove(0) {
            HowForced::Refuse(refusal) => refusal.to_string(),
            other => panic!("{other:?}"),
        }
    };
    insta::assert_snapshot!(said(false), @"one-0-2-0 is mirrored on site-b and not yet copied here; try again when the copy is complete (onemirror list)");
    insta::assert_snapshot!(said(true), @"one-0-2-0 has no copy here; there is nothing to promote; restore it from a backup");
}

#[test]
fn of_a_disk_that_is_gone_a_force_names_what_was_set_aside() {
    let none = BTreeSet::new();
    let said = |observation| {
        let rules = Force { gate: gate(), site_is_off: true, open_there: &none };
        match rules.judge(&[observation]).remove(0) {
            HowForced::Refuse(refusal) => refusal.to_string(),
            other => panic!("{other:?}"),
        }
    };
    insta::assert_snapshot!(said(gone()), @"one-0-2-0 has no copy here; there is nothing to promote; restore it from a backup");
    insta::assert_snapshot!(said(set_aside(gone())), @"one-0-2-0 has no copy here; there is nothing to promote; what there is to go on with: onemirror lost restore one/one-0-2-0.lost-20261126T164500Z && onevm disk-detach 2 1, and once the VM is POWEROFF: onevm disk-attach 2 --image one-0-2-0.lost-20261126T164500Z, and once the VM is POWEROFF: onevm resume 2");
}

#[test]
fn what_was_set_aside_is_not_offered_beside_a_disk_of_another_time() {
    let none = BTreeSet::new();
    let named = |name: &str, observation| Observation { image: spec(name), ..observation };
    let alone = |here| seen_as(Here::Mirrored(here), There::Unreachable, PeerVm::Silent);
    let mut earlier = named("one/one-3", set_aside(gone()));
    earlier.set_aside.as_mut().unwrap().since -= 3600;
    let besides = [
        ("copied back", named("one/one-3", alone(non_primary("1001:site-b:open"))), false),
        ("as it was", named("one/one-3", alone(primary("1:site-a:open"))), true),
        ("lost with it", named("one/one-3", set_aside(gone())), true),
        ("lost before", earlier, false),
        (
            "not mirrored",
            named("one/one-3", seen_as(Here::NotMirrored, There::NotAsked, PeerVm::NotAsked)),
            true,
        ),
    ];
    for (beside, other, offered) in besides {
        let (mut lost, mut other) = (set_aside(gone()), other);
        tell_sets_apart("site-a", &mut [&mut other, &mut lost]);
        let disks = [lost, other];
        let rules = Force { gate: gate(), site_is_off: true, open_there: &none };
        let HowForced::Refuse(by_force) = rules.judge(&disks).remove(0) else { panic!("{beside}") };
        let Decision::Refuse { refusal, .. } = gate().judge(&disks).decision else { panic!("{beside}") };
        for said in [by_force.to_string(), refusal.to_string()] {
            assert_eq!(said.contains("onemirror lost restore one/"), offered, "{beside}: {said}");
        }
    }
}

#[test]
fn what_is_made_for_a_forced_vm_is_not_forced_once_more() {
    let alone = |here| Observation {
        in_touch_since_reboot: false,
        ..seen_as(Here::Mirrored(here), There::Unreachable, PeerVm::Silent)
    };
    let second = |here| Observation { image: spec("one/one-1-2-1"), ..alone(here) };
    let forced = Copy {
        forced: Some("1003:site-a:2".parse().unwrap()),
        ..primary("1003:site-a:open").booted("1003:site-a:2")
    };
    let boots = |disks: &[Observation]| match gate().judge(disks).decision {
        Decision::Refuse { refusal, .. } => panic!("{refusal}"),
        decision => !matches!(decision, Decision::Wait { .. }),
    };
    let refused = |disks: &[Observation]| match gate().judge(disks).decision {
        Decision::Refuse { refusal, .. } => Some(refusal.rule),
        _ => None,
    };
    for made in [primary(""), primary("1:site-a:open").booted("1:site-a:2")] {
        assert!(boots(&[alone(forced.clone()), to_be_made(second(made.clone()))]));
        let rule = Some(Rule::PrimaryHereNotInTouchSinceReboot);
        // it was given to the VM, and may have been elsewhere
        assert_eq!(refused(&[alone(forced.clone()), second(made.clone())]), rule);
        // nobody forced anything
        let judged = gate().judge(&[alone(primary("3:site-a:open")), to_be_made(second(made))]);
        assert!(judged.findings.iter().all(|finding| Some(finding.rule) == rule), "{judged:?}");
    }
    // the other site had it, or may have had it
    for left in ["3:site-b:closed", "3:site-a:open"] {
        assert!(refused(&[alone(forced.clone()), to_be_made(second(primary(left)))]).is_some(), "{left}");
    }
    // it was for another VM that an operator forced the first one
    let for_another = Copy { forced: Some("1003:site-a:7".parse().unwrap()), ..forced };
    assert!(refused(&[alone(for_another), to_be_made(second(primary("")))]).is_some());
}
