//! Every row of the tables in the design, and what must hold in every situation.

#![allow(clippy::too_many_lines, reason = "a table is as long as it is")]

mod advice;
mod force;
mod refusals;
mod rehome;
mod run;
mod running;
mod words;

use super::*;
use crate::advice::{Act, Advice, Place};
use crate::image::ImageSpec;
use crate::room::{Fullness, QuotaOf};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeSet;
use strum::IntoEnumIterator;

const A: &str = "site-a";
const B: &str = "site-b";

fn spec(name: &str) -> ImageSpec {
    name.parse().unwrap()
}

fn seen(text: &str) -> TokenSeen {
    match text {
        "" => TokenSeen::None,
        "(newer)" => TokenSeen::Newer,
        text => match text.strip_prefix("(another's) ") {
            Some(text) => TokenSeen::OfAnother(text.parse().unwrap()),
            None => text.parse().map_or(TokenSeen::Unreadable, TokenSeen::Some),
        },
    }
}

fn copy(role: Role, token: &str) -> Copy {
    Copy {
        role,
        mode: Mode::Journal,
        token: seen(token),
        is_unbound: false,
        booted: None,
        release: None,
        forced: None,
        other_site_is_off: false,
        home: at(B),
        report: Report::Other,
        resync: Resync::None,
        positions: Positions::Unknown,
    }
}

fn at(site: &str) -> Home {
    Home::At { site: site.into(), is_former: false }
}

fn primary(token: &str) -> Copy {
    copy(Role::Primary, token)
}

fn non_primary(token: &str) -> Copy {
    copy(Role::NonPrimary, token)
}

fn half_demoted(token: &str) -> Copy {
    copy(Role::HalfDemoted, token).by_snapshot()
}

impl Copy {
    fn reports(self, report: Report) -> Self {
        Self { report, ..self }
    }
    fn at(self, positions: Positions) -> Self {
        Self { positions, ..self }
    }
    fn by_snapshot(self) -> Self {
        Self { mode: Mode::Snapshot, ..self }
    }
    fn booted(self, mark: &str) -> Self {
        Self { booted: Some(mark.parse().unwrap()), ..self }
    }
    fn release(self, mark: &str) -> Self {
        Self { release: Some(mark.parse().unwrap()), ..self }
    }
}

fn seen_as(here: Here, there: There, vm_there: PeerVm) -> Observation {
    Observation {
        here,
        there,
        vm_there,
        in_touch_since_reboot: true,
        keeping: Keeping::Possible,
        ..Observation::unseen(spec("one/one-0-2-0"))
    }
}

fn pair(here: Copy, there: Copy, vm_there: PeerVm) -> Observation {
    seen_as(Here::Mirrored(here), There::Mirrored(there), vm_there)
}

/// The copy there has everything that the one here has.
fn sent(observation: Observation) -> Observation {
    Observation { keeping: Keeping::Needless, ..observation }
}

/// It is not here, and of the other site nothing is known.
fn gone() -> Observation {
    seen_as(Here::Absent, There::Unreachable, PeerVm::Silent)
}

const NOT_HERE: &str = "refuse: one-0-2-0 is not here and site-b does not answer; bring site-b back, or make sure that the image exists";

/// A clone or a volatile disk.
fn to_be_made(observation: Observation) -> Observation {
    Observation { made_here: true, ..observation }
}

/// A copy of it was outranked here, and is kept.
fn set_aside(observation: Observation) -> Observation {
    let copy = spec("one/one-0-2-0.lost-20261126T164500Z");
    let set_aside = SetAside { copy, disk: 1, since: 1_795_711_500, apart_from: None };
    Observation { set_aside: Some(set_aside), ..observation }
}

/// The copy here came by mirror snapshots of a clone.
fn not_whole(observation: Observation) -> Observation {
    Observation { lacks_its_base: true, ..observation }
}

fn at_b() -> Home {
    Home::At { site: B.into(), is_former: false }
}

/// There is no room here for one more copy.
fn crowded(observation: Observation) -> Observation {
    Observation { keeping: Keeping::NoRoom, ..observation }
}

/// Promoted by force, and no VM was booted on it.
fn never_booted() -> Copy {
    Copy { forced: Some("1003:site-b:5".parse().unwrap()), ..primary("1003:site-b:open") }
}

/// Given up by site A before a force there, without all of its writes there.
fn given_up() -> Copy {
    non_primary("4:site-a:x").reports(Report::SplitBrain)
}

/// The same, after site B was primary.
fn forced_later() -> Copy {
    Copy { forced: Some("1005:site-b:5".parse().unwrap()), ..primary("1005:site-b:open") }
}

/// The image of this name there is not the other copy of the one here.
fn apart(here: Copy, there: &str) -> Observation {
    seen_as(Here::Mirrored(here), There::Apart(Apart { token: seen(there), forced: None }), PeerVm::NotAsked)
}

fn inactive() -> PeerVm {
    PeerVm::Inactive { vm: 0, state: "POWEROFF".into() }
}
fn active() -> PeerVm {
    PeerVm::Active { vm: 0, state: "RUNNING".into(), domain: Domain::MayLive, way_out: WayOut::PowerOff }
}
fn suspended() -> PeerVm {
    PeerVm::Active { vm: 0, state: "SUSPENDED".into(), domain: Domain::Gone, way_out: WayOut::ResumeFirst }
}
/// Its host does not report.
fn lost() -> PeerVm {
    PeerVm::Active { vm: 0, state: "UNKNOWN".into(), domain: Domain::Lost, way_out: WayOut::HostOff }
}
fn denial() -> Denial {
    Denial { cause: DenialCause::Access, detail: "info: permission denied: why".into() }
}
fn letting_go() -> PeerVm {
    PeerVm::LettingGo { vm: 0, state: "EPILOG".into() }
}

/// The gate of VM 2 on site A, with both locks and all the time.
fn gate() -> Gate<'static> {
    Gate {
        here: A,
        there: B,
        role: SiteRole::Home,
        vm: 2,
        boot: BootKind::Cold,
        peer_unreachable: PeerUnreachable::RefuseAfterReboot,
        pass_over: PassOver::Nothing,
        disks_made: true,
        patience: Patience::Fresh,
        locks: Locks::Both,
        closing_id: "c1",
    }
}

/// The same while another VM of site A uses the copy there.
fn used(observation: Observation) -> Observation {
    Observation { used_here_by: Some(7), ..observation }
}

/// The release of VM 7 on site A.
fn release() -> Release<'static> {
    Release {
        here: A,
        there: B,
        role: SiteRole::Recovery,
        vm: 7,
        patience: Patience::Fresh,
        locks: Locks::Here,
        closing_id: "c1",
    }
}

fn upkeep() -> Upkeep<'static> {
    Upkeep {
        here: A,
        there: B,
        role: SiteRole::Recovery,
        in_use_here: false,
        has_user_here: false,
        running_here: None,
        ended_here: None,
    }
}

fn step_text(step: &Step) -> String {
    let at = if step.side() == Side::Here { "here" } else { "there" };
    match step {
        Step::WriteToken { token, .. } => format!("write {token} {at}"),
        Step::MarkBooted { mark, .. } => format!("booted {mark}"),
        Step::MarkRelease { mark, .. } => format!("release {mark}"),
        Step::WriteHome { site, .. } => format!("home {site}"),
        step => format!("{} {at}", step.name()),
    }
}

fn steps_text(steps: &[Step]) -> String {
    steps.iter().map(step_text).collect::<Vec<_>>().join(", ")
}

fn decision_text(decision: &Decision) -> String {
    match decision {
        Decision::Done => "done".into(),
        Decision::LockThere => "lock there".into(),
        Decision::Act(steps) => steps_text(steps),
        Decision::Wait { what, .. } => format!("wait for {what}"),
        Decision::Refuse { refusal, then } if then.is_empty() => format!("refuse: {refusal}"),
        Decision::Refuse { refusal, then } => format!("{}; refuse: {refusal}", steps_text(then)),
    }
}

fn task_text(task: &Task) -> String {
    match task {
        Task::Nothing => "nothing".into(),
        Task::Act(steps) => steps_text(steps),
        Task::Release { vm } => format!("release of VM {vm}"),
        Task::PassOn => "pass on".into(),
        Task::Undecided => "undecided".into(),
    }
}

/// One situation: the rule that has to decide, and what it has to say.
struct Row {
    rule: Rule,
    says: &'static str,
    judged: (Rule, String),
    advice: Option<Advice>,
}

fn advice_of(decision: &Decision) -> Option<Advice> {
    match decision {
        Decision::Refuse { refusal, .. } => Some(refusal.advice.clone()),
        _ => None,
    }
}

fn boots(gate: Gate<'_>, observation: Observation, rule: Rule, says: &'static str) -> Row {
    boots_all_by(gate, &[observation], rule, says)
}

/// The rule is that of the last image.
fn boots_all(observations: &[Observation], rule: Rule, says: &'static str) -> Row {
    boots_all_by(gate(), observations, rule, says)
}

fn boots_all_by(gate: Gate<'_>, observations: &[Observation], rule: Rule, says: &'static str) -> Row {
    let judgement = gate.judge(observations);
    let last = judgement.findings.last().unwrap();
    let advice = advice_of(&judgement.decision);
    Row { rule, says, judged: (last.rule, decision_text(&judgement.decision)), advice }
}

fn releases(release: Release<'_>, observation: Observation, rule: Rule, says: &'static str) -> Row {
    let ReleaseJudgement { judgement, pending } = release.judge(&[observation]);
    let mut text = decision_text(&judgement.decision);
    for pending in pending {
        text = format!("{text}; pending: {}", pending.cause);
    }
    Row { rule, says, judged: (judgement.findings[0].rule, text), advice: None }
}

fn keeps_up(upkeep: Upkeep<'_>, observation: Observation, rule: Rule, says: &'static str) -> Row {
    let judgement = upkeep.judge(&observation);
    let decided_by = judgement.finding.rule;
    let user = UserHere {
        vm: 2,
        in_use: upkeep.in_use_here,
        running: upkeep.running_here.is_some(),
        way_out: WayOut::PowerOff,
    };
    let users = if upkeep.in_use_here || upkeep.has_user_here { vec![user] } else { Vec::new() };
    let text = match &judgement.task {
        Task::Undecided => {
            let Undecided { cause, advice } = upkeep.undecided(decided_by, &observation, &users);
            format!("undecided: {cause}; {advice}")
        }
        task => task_text(task),
    };
    Row { rule, says, judged: (decided_by, text), advice: None }
}

fn full() -> Report {
    Report::NoRoom(Box::new(Fullness::Quota { of: QuotaOf::Bytes, limit: 1000, stored: 900 }))
}

fn gate_rows() -> Vec<Row> {
    use Rule::*;
    let alone = |here| seen_as(Here::Mirrored(here), There::Unreachable, PeerVm::Silent);
    let denied = |here| seen_as(Here::Mirrored(here), There::Denied(denial()), PeerVm::Silent);
    let out_of_touch = |here| Observation { in_touch_since_reboot: false, ..alone(here) };
    vec![
        boots(
            gate(),
            pair(non_primary("2:site-b:y").reports(full()), primary("3:site-b:open"), inactive()),
            NoRoomHere,
            "refuse: one-0-2-0 waits: pool one is full here (quota of 1000 bytes); ceph osd pool set-quota one max_bytes 2000",
        ),
        boots(gate(), seen_as(Here::NotMirrored, There::NotAsked, PeerVm::NotAsked), NotMirrored, "done"),
        boots(gate(), seen_as(Here::Absent, There::Absent, PeerVm::None), AbsentLeftToStockDriver, "done"),
        boots(Gate { disks_made: false, ..gate() }, to_be_made(gone()), AbsentLeftToStockDriver, "done"),
        boots(gate(), to_be_made(gone()), AbsentPeerUnreachable, NOT_HERE),
        // what a VM is given is made by nobody
        boots(Gate { disks_made: false, ..gate() }, gone(), AbsentPeerUnreachable, NOT_HERE),
        boots(gate(), gone(), AbsentPeerUnreachable, NOT_HERE),
        boots(
            gate(),
            set_aside(gone()),
            AbsentPeerUnreachable,
            "refuse: one-0-2-0 is not here and site-b does not answer; bring site-b back, or make sure that the image exists; if site-b is lost for good: onemirror lost restore one/one-0-2-0.lost-20261126T164500Z && onevm disk-detach 2 1, and once the VM is POWEROFF: onevm disk-attach 2 --image one-0-2-0.lost-20261126T164500Z, and once the VM is POWEROFF: onevm resume 2",
        ),
        boots(
            gate(),
            seen_as(Here::Absent, There::Mirrored(primary("")), PeerVm::None),
            NotYetCopied,
            "wait for the other copy to follow",
        ),
        boots(
            gate(),
            seen_as(Here::Absent, There::Mirrored(non_primary("")), PeerVm::None),
            NotCopied,
            "refuse: one-0-2-0 is not here, and not primary on site-b, so it is not copied; on site-b: rbd mirror image promote one/one-0-2-0",
        ),
        boots(
            gate(),
            seen_as(Here::Absent, There::Mirrored(half_demoted("")), PeerVm::None),
            NotCopied,
            "refuse: one-0-2-0 is not here, and half demoted on site-b, so it is not copied; on site-b: rbd mirror image demote one/one-0-2-0 && rbd mirror image promote one/one-0-2-0",
        ),
        boots(
            gate(),
            pair(half_demoted("4:site-a:x"), non_primary("4:site-a:x"), inactive()),
            HalfDemotedHere,
            "demote here",
        ),
        boots(
            gate(),
            seen_as(Here::Mirrored(half_demoted("4:site-a:x")), There::Unreachable, PeerVm::Silent),
            HalfDemotedPeerUnreachable,
            "refuse: one-0-2-0 is half demoted here and site-b does not answer; bring site-b back; if it is lost for good: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(non_primary("4:site-b:x"), half_demoted("4:site-b:x"), inactive()),
            HalfDemotedThere,
            "demote there",
        ),
        boots(
            gate(),
            pair(primary("1004:site-a:open"), half_demoted("4:site-b:x"), inactive()),
            HalfDemotedThere,
            "demote there",
        ),
        boots(
            gate(),
            pair(non_primary("4:site-b:x"), half_demoted("4:site-b:x"), active()),
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0",
        ),
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(
                non_primary("2:site-a:x").by_snapshot().at(Positions::Behind).reports(Report::Stopped),
                non_primary("2:site-a:x").by_snapshot().at(Positions::Complete),
                inactive(),
            ),
            StrandedLastWriterThere,
            "promote there, write 3:site-b:open there, mirror-snapshot there",
        ),
        boots(
            Gate { patience: Patience::Exhausted, ..gate() },
            seen_as(Here::Absent, There::Mirrored(primary("")), PeerVm::None),
            NotYetCopied,
            "refuse: one-0-2-0 is mirrored on site-b and not yet copied here; try again when the copy is complete (onemirror list)",
        ),
        boots(
            gate(),
            Observation {
                owned_by_both: true,
                ..pair(non_primary("1:site-b:open"), primary("1:site-b:open"), inactive())
            },
            TwoVmsOwnTheImage,
            "refuse: one-0-2-0 is a disk of another VM, on site-b, by the same name; the two sites need images with different names",
        ),
        boots(
            gate(),
            pair(primary("what?"), non_primary(""), PeerVm::None),
            TokenUnreadable,
            "refuse: one-0-2-0 has an unreadable handoff token on site-a; if no onemirror wrote it: rbd image-meta remove one/one-0-2-0 onemirror.handoff",
        ),
        boots(
            gate(),
            pair(non_primary("1:site-b:open"), primary("1:site-b:open:x"), PeerVm::None),
            TokenUnreadable,
            "refuse: one-0-2-0 has an unreadable handoff token on site-b; if no onemirror wrote it, on site-b: rbd image-meta remove one/one-0-2-0 onemirror.handoff",
        ),
        // primary here
        boots(
            gate(),
            pair(primary("3:site-a:open").booted("3:site-a:2"), non_primary("3:site-a:open"), inactive()),
            PrimaryHere,
            "done",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open"), non_primary("3:site-a:open"), inactive()),
            PrimaryHere,
            "booted 3:site-a:2",
        ),
        // killed after the token and before it was sent
        boots(
            gate(),
            pair(primary("3:site-a:open").by_snapshot(), non_primary("2:site-b:open"), inactive()),
            PrimaryHere,
            "mirror-snapshot here, booted 3:site-a:2",
        ),
        boots(
            gate(),
            seen_as(Here::Mirrored(primary("")), There::Absent, PeerVm::None),
            OpenTokenHere,
            "write 1:site-a:open here, booted 1:site-a:2",
        ),
        boots(
            gate(),
            pair(primary("").by_snapshot(), non_primary(""), PeerVm::None),
            OpenTokenHere,
            "write 1:site-a:open here, mirror-snapshot here, booted 1:site-a:2",
        ),
        // interrupted between token and demotion: the VM boots here after all
        boots(
            gate(),
            pair(primary("4:site-a:x"), non_primary("4:site-a:x"), inactive()),
            OpenTokenHere,
            "write 5:site-a:open here, booted 5:site-a:2",
        ),
        // interrupted between promotion and token
        boots(
            gate(),
            pair(primary("4:site-b:x"), non_primary("4:site-b:x"), inactive()),
            OpenTokenHere,
            "write 5:site-a:open here, booted 5:site-a:2",
        ),
        // promoted by force and by hand: the image is ours from now on
        boots(
            gate(),
            pair(primary("4:site-b:open"), non_primary("4:site-b:open"), inactive()),
            OpenTokenHere,
            "write 5:site-a:open here, booted 5:site-a:2",
        ),
        // a pending release is void once the VM boots again
        boots(
            gate(),
            pair(
                primary("4:site-a:open").release("4:site-a:2").booted("4:site-a:2"),
                non_primary("4:site-a:open"),
                inactive(),
            ),
            OpenTokenHere,
            "write 5:site-a:open here, booted 5:site-a:2",
        ),
        boots(
            gate(),
            alone(primary("3:site-a:open").booted("3:site-a:2")),
            PrimaryHerePeerUnreachableAllowed,
            "done",
        ),
        boots(
            Gate { peer_unreachable: PeerUnreachable::Allow, ..gate() },
            out_of_touch(primary("3:site-a:open").booted("3:site-a:2")),
            PrimaryHerePeerUnreachableAllowed,
            "done",
        ),
        boots(
            Gate { peer_unreachable: PeerUnreachable::Refuse, ..gate() },
            alone(primary("3:site-a:open")),
            PrimaryHerePeerUnreachableRefused,
            "refuse: one-0-2-0 may run on site-b, which does not answer; bring site-b back; if it is off for certain: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            out_of_touch(primary("3:site-a:open")),
            PrimaryHereNotInTouchSinceReboot,
            "refuse: one-0-2-0 may run on site-b, not reached since this host booted; bring site-b back; if it is off for certain: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            out_of_touch(Copy {
                forced: Some("1003:site-a:2".parse().unwrap()),
                ..primary("1003:site-a:open").booted("1003:site-a:2")
            }),
            PrimaryHereByForce,
            "done",
        ),
        // its cluster is silent, its front-end is not
        boots(
            Gate { peer_unreachable: PeerUnreachable::Allow, ..gate() },
            Observation { vm_there: active(), ..alone(primary("3:site-a:open").booted("3:site-a:2")) },
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0; if that site is off for good, here: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        boots(
            gate(),
            Observation { vm_there: lost(), ..alone(primary("3:site-a:open").booted("3:site-a:2")) },
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is UNKNOWN; when its host is off for certain, on site-b: onevm recover --recreate 0, and once it runs: onevm poweroff 0; if that site is off for good, here: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        boots(
            gate(),
            Observation { vm_there: letting_go(), ..alone(primary("3:site-a:open")) },
            LettingGoThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is EPILOG; try again when it is done",
        ),
        // memory that was saved there is of an earlier token
        boots(
            gate(),
            Observation { vm_there: suspended(), ..alone(primary("3:site-a:open").booted("3:site-a:2")) },
            PrimaryHerePeerUnreachableAllowed,
            "done",
        ),
        // a force alone does not pass by a VM that its front-end tells of later
        boots(
            gate(),
            Observation {
                vm_there: active(),
                ..alone(Copy {
                    forced: Some("1003:site-a:2".parse().unwrap()),
                    ..primary("1003:site-a:open").booted("1003:site-a:2")
                })
            },
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0; if that site is off for good, here: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        boots(
            gate(),
            Observation {
                vm_there: active(),
                ..alone(Copy {
                    forced: Some("1003:site-a:2".parse().unwrap()),
                    other_site_is_off: true,
                    ..primary("1003:site-a:open").booted("1003:site-a:2")
                })
            },
            PrimaryHereByForce,
            "done",
        ),
        // who answers and tells nothing is met as silence is, by its own name
        boots(
            gate(),
            denied(primary("3:site-a:open").booted("3:site-a:2")),
            PrimaryHerePeerUnreachableAllowed,
            "done",
        ),
        boots(
            gate(),
            Observation { in_touch_since_reboot: false, ..denied(primary("3:site-a:open")) },
            PrimaryHereNotInTouchSinceReboot,
            "refuse: one-0-2-0 may run on site-b, which denies access; put that right, and see onemirror doctor (info: permission denied: why)",
        ),
        boots(
            Gate { peer_unreachable: PeerUnreachable::Refuse, ..gate() },
            denied(primary("3:site-a:open")),
            PrimaryHerePeerUnreachableRefused,
            "refuse: one-0-2-0 may run on site-b, which denies access; put that right, and see onemirror doctor (info: permission denied: why)",
        ),
        boots(
            gate(),
            denied(non_primary("3:site-b:open")),
            PeerDenied,
            "refuse: one-0-2-0 is not primary here and site-b denies access; put that right, and see onemirror doctor (info: permission denied: why)",
        ),
        boots(
            gate(),
            denied(half_demoted("3:site-a:open")),
            PeerDenied,
            "refuse: one-0-2-0 is half demoted here and site-b denies access; put that right, and see onemirror doctor (info: permission denied: why)",
        ),
        boots(
            gate(),
            seen_as(Here::Absent, There::Denied(denial()), PeerVm::Silent),
            PeerDenied,
            "refuse: one-0-2-0 is not here and site-b denies access; put that right, and see onemirror doctor (info: permission denied: why)",
        ),
        boots(
            gate(),
            pair(non_primary("3:site-b:open"), primary("3:site-b:open"), PeerVm::Denied(denial())),
            PeerFrontEndDenied,
            "refuse: one-0-2-0 is primary on site-b, whose front-end denies access; put that right, and see onemirror doctor (info: permission denied: why)",
        ),
        boots(
            gate(),
            Observation { vm_there: PeerVm::Denied(denial()), ..alone(non_primary("3:site-b:open")) },
            PeerFrontEndDenied,
            "refuse: one-0-2-0 is not primary here; site-b's front-end denies access; put that right, and see onemirror doctor (info: permission denied: why)",
        ),
        boots(
            gate(),
            Observation { vm_there: active(), ..alone(non_primary("3:site-b:open")) },
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0; if that site is off for good, here: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        // outranked there, and used all the same
        boots(
            gate(),
            pair(primary("1003:site-a:open").booted("1003:site-a:2"), primary("3:site-b:open"), active()),
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0; if that site is off for good, here: onemirror failover 2 --force --site-is-off --reason TEXT",
        ),
        boots_all(
            &[
                alone(Copy { forced: Some("1003:site-a:2".parse().unwrap()), ..primary("1003:site-a:open") }),
                Observation { image: spec("one/one-0-2-1"), ..alone(non_primary("3:site-b:open")) },
            ],
            ForcedInPart,
            "refuse: one-0-2-1 is not primary here, and one-0-2-0 was forced; to force the others too: onemirror failover 2 --force --reason TEXT",
        ),
        boots_all(
            &[
                pair(
                    Copy { forced: Some("1003:site-a:2".parse().unwrap()), ..primary("1003:site-a:open") },
                    primary("3:site-b:open"),
                    inactive(),
                ),
                Observation {
                    image: spec("one/one-0-2-1"),
                    ..pair(non_primary("3:site-b:open"), primary("3:site-b:open"), inactive())
                },
            ],
            ForcedInPart,
            "refuse: one-0-2-1 is not primary here, and one-0-2-0 was forced; site-b answers again; if nothing ran on the forced one, give it up: rbd mirror image demote one/one-0-2-0 && rbd mirror image resync one/one-0-2-0",
        ),
        // beside one that cannot be kept
        boots_all(
            &[
                alone(Copy { forced: Some("1003:site-a:2".parse().unwrap()), ..primary("1003:site-a:open") }),
                Observation {
                    image: spec("one/one-0-2-2"),
                    ..crowded(pair(primary("3:site-a:open"), primary("1003:site-b:open"), active()))
                },
                Observation { image: spec("one/one-0-2-1"), ..alone(non_primary("3:site-b:open")) },
            ],
            ForcedInPart,
            "refuse: one-0-2-1 is not primary here, and one-0-2-0 was forced; to force the others too: onemirror failover 2 --force --reason TEXT",
        ),
        // one disk came back after a force there, the other one did not, and now site-b is silent
        boots_all(
            &[
                Observation { image: spec("one/one-0-2-1"), ..alone(non_primary("1001:site-b:open")) },
                alone(Copy { booted: Some("1:site-a:2".parse().unwrap()), ..primary("1:site-a:open") }),
            ],
            OfTwoAges,
            "refuse: one-0-2-0 is older than one-0-2-1, with which site-b went on; bring site-b back, and both are judged; if it is lost for good, which of them to go on with: onemirror lost list may have one-0-2-1 as it was when site-b took over; or detach one (onevm disk-detach)",
        ),
        boots_all(
            &[
                Observation { image: spec("one/one-0-2-1"), ..alone(non_primary("1002:site-b:x")) },
                alone(Copy { booted: Some("1:site-a:2".parse().unwrap()), ..primary("1:site-a:open") }),
            ],
            OfTwoAges,
            "refuse: one-0-2-0 is older than one-0-2-1, with which site-b went on; bring site-b back, and both are judged; if it is lost for good, which of them to go on with: onemirror lost list may have one-0-2-1 as it was when site-b took over; or detach one (onevm disk-detach)",
        ),
        // a boot that was killed after the first of two disks
        boots_all(
            &[
                alone(Copy { booted: Some("3:site-a:2".parse().unwrap()), ..primary("3:site-a:open") }),
                Observation { image: spec("one/one-0-2-1"), ..alone(non_primary("2:site-b:x")) },
            ],
            NonPrimaryPeerUnreachable,
            "refuse: one-0-2-1 is not primary here and site-b does not answer; if site-b is lost for good: onemirror failover 2 --force --reason TEXT",
        ),
        // promoted by force, and the token was never written: what site-b wrote since is not known
        boots(
            gate(),
            alone(primary("3:site-b:open")),
            OpenTokenHere,
            "write 1003:site-a:open here, booted 1003:site-a:2",
        ),
        // the force was of another token
        boots(
            gate(),
            out_of_touch(Copy {
                forced: Some("1003:site-a:2".parse().unwrap()),
                ..primary("1005:site-a:open")
            }),
            PrimaryHereNotInTouchSinceReboot,
            "refuse: one-0-2-0 may run on site-b, not reached since this host booted; bring site-b back; if it is off for certain: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open"), non_primary("1004:site-b:x"), inactive()),
            StaleLeftoverHere,
            "demote here; refuse: one-0-2-0 is stale here: site-b wrote to it last; it was demoted; try again when it is copied back",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:x"), non_primary("3:site-a:y"), inactive()),
            TokenConflict,
            "refuse: one-0-2-0 has tokens that contradict each other, here and on site-b; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a, here: onemirror failover 2 --force --reason TEXT; to go on with that of site-b, on site-b: onemirror failover 0 --force --reason TEXT",
        ),
        // primary on both sites
        boots(
            gate(),
            pair(primary("3:site-a:open"), primary("1003:site-b:open"), active()),
            SplitBrainStaleHere,
            "set-aside here; refuse: one-0-2-0 is stale here: site-b took it over by force; it is being copied back, what only it has is kept (onemirror lost list); when you want the VM here, on site-b: onevm poweroff 0",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open").reports(Report::Down), primary("1003:site-b:open"), PeerVm::Silent),
            SplitBrainStaleHere,
            "set-aside here; refuse: one-0-2-0 is stale here: site-b took it over by force; it is being copied back, what only it has is kept (onemirror lost list)",
        ),
        boots(
            Gate { locks: Locks::Here, ..gate() },
            pair(primary("3:site-a:open"), primary("1003:site-b:open"), active()),
            SplitBrainStaleHere,
            "lock there",
        ),
        // another VM here has the same disk
        boots(
            gate(),
            used(pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())),
            SplitBrainStaleHere,
            "refuse: one-0-2-0 is stale here: site-b took it over by force; it is copied back once VM 7 here does not use it either",
        ),
        boots(
            gate(),
            used(pair(primary("3:site-a:open"), non_primary("1004:site-b:x"), inactive())),
            StaleLeftoverHere,
            "refuse: one-0-2-0 is stale here: site-b wrote to it last; it is copied back once VM 7 here does not use it either",
        ),
        // everything it has is there, or there is no room to keep it
        boots(
            gate(),
            sent(pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())),
            SplitBrainStaleHere,
            "demote here, resync here; refuse: one-0-2-0 is stale here: site-b took it over by force; it is being copied back; when you want the VM here, on site-b: onevm poweroff 0",
        ),
        boots(
            gate(),
            sent(pair(
                primary("3:site-a:open").reports(Report::Down),
                primary("1003:site-b:open"),
                PeerVm::Silent,
            )),
            SplitBrainStaleHere,
            "demote here; refuse: one-0-2-0 is stale here: site-b took it over by force; it is being copied back",
        ),
        boots(
            gate(),
            crowded(pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())),
            NoRoomToKeep,
            "refuse: one-0-2-0 is stale here: site-b took it over by force; make room in pool one for one more copy, so that this one can be kept",
        ),
        // the VM's other disk could be set aside, and stays with the one that cannot
        boots_all(
            &[
                Observation {
                    image: spec("one/one-0-2-1"),
                    ..pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())
                },
                crowded(pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())),
            ],
            NoRoomToKeep,
            "refuse: one-0-2-0 is stale here: site-b took it over by force; make room in pool one for one more copy, so that this one can be kept",
        ),
        boots(
            gate(),
            Observation {
                keeping: Keeping::Unknown,
                ..pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())
            },
            NoRoomToKeep,
            "refuse: one-0-2-0 is stale here: site-b took it over by force; whether pool one has room to keep this one is not known; try again when its cluster answers",
        ),
        // forced there, and nobody booted on it: the first to boot holds the image
        boots(
            gate(),
            pair(primary("3:site-a:open"), never_booted(), inactive()),
            ForcedAndNeverBootedThere,
            "write 1004:site-a:open here, booted 1004:site-a:2",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open").by_snapshot(), never_booted(), PeerVm::None),
            ForcedAndNeverBootedThere,
            "write 1004:site-a:open here, mirror-snapshot here, booted 1004:site-a:2",
        ),
        boots(
            Gate { locks: Locks::Here, ..gate() },
            pair(primary("3:site-a:open"), never_booted(), inactive()),
            ForcedAndNeverBootedThere,
            "lock there",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open"), never_booted(), active()),
            ForcedAndNeverBootedThere,
            "refuse: one-0-2-0 was taken over by force on site-b, where VM 0 is RUNNING; to start it here, on site-b: onevm poweroff 0",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open"), never_booted(), PeerVm::Silent),
            ForcedAndNeverBootedThere,
            "refuse: one-0-2-0 was taken over by force on site-b, whose front-end tells nothing; whether a VM uses it there is unknown; try again when the front-end tells it",
        ),
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(primary("3:site-a:open").booted("3:site-a:2"), never_booted(), inactive()),
            ForcedAndNeverBootedThere,
            "write 1004:site-a:open here, booted 1004:site-a:2",
        ),
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(primary("3:site-a:open"), never_booted(), inactive()),
            RestoreOnChangedDisk,
            "refuse: one-0-2-0 changed since this VM was suspended; its saved memory no longer fits; to start it without, on its disks as they are: onevm recover --recreate 2",
        ),
        // given up to that force before its last writes had arrived there
        boots(
            gate(),
            pair(given_up(), never_booted(), inactive()),
            ForcedAndNeverBootedThere,
            "promote here, write 1004:site-a:open here, booted 1004:site-a:2",
        ),
        boots(
            Gate { locks: Locks::Here, ..gate() },
            pair(given_up().by_snapshot(), never_booted().by_snapshot(), PeerVm::None),
            ForcedAndNeverBootedThere,
            "lock there",
        ),
        boots(
            gate(),
            pair(given_up().by_snapshot(), never_booted().by_snapshot(), PeerVm::None),
            ForcedAndNeverBootedThere,
            "promote here, write 1004:site-a:open here, mirror-snapshot here, booted 1004:site-a:2",
        ),
        // a VM ran there before the force, or since, or may run now
        boots(
            gate(),
            pair(given_up(), forced_later(), inactive()),
            SplitBrainedCopyHere,
            "promote-stale here, set-aside here",
        ),
        boots(
            gate(),
            pair(given_up(), never_booted().booted("1003:site-b:5"), inactive()),
            SplitBrainedCopyHere,
            "promote-stale here, set-aside here",
        ),
        boots(
            Gate { pass_over: PassOver::Doubts, ..gate() },
            pair(given_up(), never_booted(), PeerVm::Silent),
            SplitBrainedCopyHere,
            "promote-stale here, set-aside here",
        ),
        // it follows the force: nothing is missing there
        boots(
            gate(),
            pair(given_up().reports(Report::Replaying), never_booted(), inactive()),
            NotFollowingYet,
            "wait for the other copy to follow",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open"), never_booted().booted("1003:site-b:5"), inactive()),
            SplitBrainStaleHere,
            "set-aside here; refuse: one-0-2-0 is stale here: site-b took it over by force; it is being copied back, what only it has is kept (onemirror lost list)",
        ),
        boots(
            gate(),
            pair(primary("1003:site-a:open").booted("1003:site-a:2"), primary("3:site-b:open"), lost()),
            SplitBrainStaleThere,
            "done",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open"), primary("3:site-a:open"), active()),
            SplitBrainUndecided,
            "refuse: one-0-2-0 is primary on site-a and on site-b (split brain); compare both copies; the one that is not taken is kept (onemirror lost list); first, on site-b: onevm poweroff 0; to go on with the copy of site-a, here: onemirror failover 2 --force --reason TEXT",
        ),
        // a force there that was killed before its token; and one here
        boots(
            gate(),
            pair(primary("3:site-a:open"), primary("3:site-a:open"), inactive()),
            SplitBrainUndecided,
            "refuse: one-0-2-0 is primary on site-a and on site-b (split brain); no boot on site-b went through its gate; if nobody else wrote there, on site-b: rbd mirror image demote one/one-0-2-0 && rbd mirror image resync one/one-0-2-0",
        ),
        boots(
            gate(),
            pair(primary("3:site-b:open"), primary("3:site-b:open"), inactive()),
            SplitBrainUndecided,
            "refuse: one-0-2-0 is primary on site-a and on site-b (split brain); no boot on site-a went through its gate; if nobody else wrote there: rbd mirror image demote one/one-0-2-0 && rbd mirror image resync one/one-0-2-0",
        ),
        boots(
            gate(),
            pair(primary("4:site-a:x"), primary("4:site-a:x"), inactive()),
            SplitBrainUndecided,
            "refuse: one-0-2-0 is primary on site-a and on site-b (split brain); compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a, here: onemirror failover 2 --force --reason TEXT; to go on with that of site-b, on site-b: onemirror failover 0 --force --reason TEXT",
        ),
        // saved memory
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(primary("3:site-a:open").booted("3:site-a:2"), non_primary("3:site-a:open"), inactive()),
            PrimaryHere,
            "done",
        ),
        // it shares the disk with VM 9, which was booted later, or is booted later than that one
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(primary("3:site-a:open").booted("3:site-a:9+2"), non_primary("3:site-a:open"), inactive()),
            PrimaryHere,
            "done",
        ),
        boots(
            gate(),
            pair(primary("3:site-a:open").booted("3:site-a:9"), non_primary("3:site-a:open"), inactive()),
            PrimaryHere,
            "booted 3:site-a:2+9",
        ),
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(primary("3:site-a:open").booted("3:site-a:9"), non_primary("3:site-a:open"), inactive()),
            RestoreOnChangedDisk,
            "refuse: one-0-2-0 changed since this VM was suspended; its saved memory no longer fits; to start it without, on its disks as they are: onevm recover --recreate 2",
        ),
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(primary("5:site-a:open").booted("3:site-a:2"), non_primary("5:site-a:open"), inactive()),
            RestoreOnChangedDisk,
            "refuse: one-0-2-0 changed since this VM was suspended; its saved memory no longer fits; to start it without, on its disks as they are: onevm recover --recreate 2",
        ),
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(non_primary("5:site-b:open"), primary("5:site-b:open"), inactive()),
            RestoreOnChangedDisk,
            "refuse: one-0-2-0 changed since this VM was suspended; its saved memory no longer fits; to start it without, on its disks as they are: onevm recover --recreate 2",
        ),
        // not primary here
        boots(
            gate(),
            alone(non_primary("3:site-b:open")),
            NonPrimaryPeerUnreachable,
            "refuse: one-0-2-0 is not primary here and site-b does not answer; if site-b is lost for good: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            seen_as(Here::Mirrored(non_primary("3:site-b:open")), There::Absent, PeerVm::None),
            NonPrimaryWithoutOtherCopy,
            "refuse: one-0-2-0 is not primary here and has no copy on site-b; if this copy is the one to keep: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(non_primary("3:site-b:open"), primary("3:site-b:open"), active()),
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0",
        ),
        boots(
            gate(),
            pair(non_primary("4:site-b:x"), non_primary("4:site-b:x"), active()),
            BootingThere,
            "refuse: one-0-2-0 is claimed on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0",
        ),
        boots(
            gate(),
            pair(non_primary("3:site-b:open"), primary("3:site-b:open"), letting_go()),
            LettingGoThere,
            "wait for the other VM to let go",
        ),
        boots(
            gate(),
            pair(non_primary("3:site-b:open"), primary("3:site-b:open"), PeerVm::Silent),
            PeerFrontEndUnknown,
            "refuse: one-0-2-0 is primary on site-b, whose front-end does not answer; whether a VM uses it there is unknown; try again when the front-end is back; if it stays away: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(non_primary("2:site-a:x"), primary("3:site-b:open"), inactive()),
            NotFollowingYet,
            "wait for the other copy to follow",
        ),
        boots(
            Gate { patience: Patience::Exhausted, ..gate() },
            pair(non_primary("2:site-a:x").reports(Report::Down), primary("3:site-b:open"), inactive()),
            NotFollowingYet,
            "refuse: one-0-2-0 lacks the handoff of site-b: this copy does not follow it; where rbd-mirror runs: systemctl start ceph-rbd-mirror.target; then try again",
        ),
        boots(
            Gate { patience: Patience::Exhausted, ..gate() },
            pair(non_primary("").reports(Report::Syncing(Some(42))), primary("3:site-b:open"), inactive()),
            NotFollowingYet,
            "refuse: one-0-2-0 is still being copied from site-b: 42 %; try again when the copy is complete (onemirror list)",
        ),
        boots(
            gate(),
            pair(non_primary("2:site-a:x").reports(Report::SplitBrain), primary("3:site-b:open"), inactive()),
            SplitBrainedCopyHere,
            "resync here",
        ),
        boots(
            gate(),
            pair(
                Copy { resync: Resync::Asked, ..non_primary("2:site-a:x").reports(Report::SplitBrain) },
                primary("3:site-b:open"),
                inactive(),
            ),
            NotFollowingYet,
            "wait for the other copy to follow",
        ),
        // a copy that is going to be thrown away is not taken, whatever it shows
        boots(
            gate(),
            pair(
                Copy { resync: Resync::Asked, ..non_primary("3:site-b:open").reports(Report::Replaying) },
                primary("3:site-b:open"),
                inactive(),
            ),
            NotFollowingYet,
            "wait for the other copy to follow",
        ),
        // nothing came of it: who noted it may have been killed before he asked
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(
                Copy { resync: Resync::Noted, ..non_primary("3:site-b:open").reports(Report::Replaying) },
                primary("3:site-b:open"),
                inactive(),
            ),
            SplitBrainedCopyHere,
            "resync here",
        ),
        // Ceph knows: a second request could only meet the next copy
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(
                Copy { resync: Resync::Asked, ..non_primary("2:site-a:x").reports(Report::SplitBrain) },
                primary("3:site-b:open"),
                inactive(),
            ),
            NotFollowingYet,
            "wait for the other copy to follow",
        ),
        boots(
            gate(),
            pair(
                non_primary("1003:site-b:open"),
                Copy { resync: Resync::Asked, ..primary("1003:site-b:open") },
                inactive(),
            ),
            ResyncAskedThere,
            "refuse: one-0-2-0 cannot be taken from site-b: a resync of it was asked for there; have it copied here anew, on site-b: rbd mirror image disable one/one-0-2-0 && rbd mirror image enable one/one-0-2-0 journal; or in a pool that mirrors every image, on site-b: rbd feature disable one/one-0-2-0 journaling && rbd feature enable one/one-0-2-0 journaling",
        ),
        boots(
            gate(),
            pair(
                non_primary("1003:site-b:open").by_snapshot(),
                Copy { resync: Resync::Asked, ..primary("1003:site-b:open") }.by_snapshot(),
                inactive(),
            ),
            ResyncAskedThere,
            "refuse: one-0-2-0 cannot be taken from site-b: a resync of it was asked for there; have it copied here anew, on site-b: rbd mirror image disable one/one-0-2-0 && rbd mirror image enable one/one-0-2-0 snapshot",
        ),
        // mirrored anew too early, the copy here would stay in the way: it has to follow first
        boots(
            gate(),
            pair(
                non_primary("7:site-a:open").reports(Report::SplitBrain),
                Copy { resync: Resync::Asked, ..primary("1003:site-b:open") },
                inactive(),
            ),
            SplitBrainedCopyHere,
            "promote-stale here, set-aside here",
        ),
        boots(
            gate(),
            sent(pair(
                non_primary("7:site-a:open").reports(Report::SplitBrain),
                primary("1003:site-b:open"),
                inactive(),
            )),
            SplitBrainedCopyHere,
            "resync here",
        ),
        boots(
            gate(),
            crowded(pair(
                non_primary("7:site-a:x").reports(Report::SplitBrain),
                primary("1003:site-b:open"),
                inactive(),
            )),
            NoRoomToKeep,
            "refuse: one-0-2-0 went its own way here, and site-b outranks it; make room in pool one for one more copy, so that this one can be kept",
        ),
        // neither outranks the other
        boots(
            gate(),
            pair(non_primary("3:site-a:x").reports(Report::SplitBrain), primary("3:site-b:open"), inactive()),
            TokenConflict,
            "refuse: one-0-2-0 has tokens that contradict each other, here and on site-b; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a, here: onemirror failover 2 --force --reason TEXT; to go on with that of site-b, on site-b: onemirror failover 0 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(
                non_primary("7:site-a:open").reports(Report::Down),
                Copy { resync: Resync::Asked, ..primary("1003:site-b:open") },
                inactive(),
            ),
            NotFollowingYet,
            "wait for the other copy to follow",
        ),
        boots(
            gate(),
            pair(
                Copy { resync: Resync::Asked, ..non_primary("1003:site-b:open") },
                Copy { resync: Resync::Asked, ..primary("1003:site-b:open") },
                inactive(),
            ),
            NotFollowingYet,
            "wait for the other copy to follow",
        ),
        // ... and while it is being mirrored anew there
        boots(
            gate(),
            apart(non_primary("1003:site-b:open"), "1003:site-b:open"),
            NonPrimaryApart,
            "refuse: one-0-2-0 is not a copy of the image of this name on site-b; to keep that one, here: rbd mirror image promote one/one-0-2-0 --force && rbd mv one/one-0-2-0 one/one-0-2-0.aside; to keep this one, on site-b: rbd mv one/one-0-2-0 one/one-0-2-0.aside",
        ),
        // a clone that mirror snapshots bring: only by an operator's force, and only where the whole of it is lost
        boots(
            gate(),
            not_whole(pair(
                non_primary("3:site-b:open").by_snapshot(),
                Copy { home: at_b(), ..primary("3:site-b:open").by_snapshot() },
                inactive(),
            )),
            NotWhole,
            "refuse: one-0-2-0 is not whole here: a clone, mirrored by snapshots; on site-b: rbd mirror image disable one/one-0-2-0 && rbd flatten one/one-0-2-0 && rbd mirror image enable one/one-0-2-0 snapshot && onemirror rehome 0",
        ),
        boots(
            gate(),
            not_whole(pair(
                non_primary("4:site-b:x").by_snapshot().at(Positions::Complete),
                Copy { home: at_b(), ..non_primary("4:site-b:x").by_snapshot() },
                inactive(),
            )),
            NotWhole,
            "refuse: one-0-2-0 is not whole here: a clone, mirrored by snapshots; on site-b: rbd mirror image promote one/one-0-2-0; then, on site-b: rbd mirror image disable one/one-0-2-0 && rbd flatten one/one-0-2-0 && rbd mirror image enable one/one-0-2-0 snapshot && onemirror rehome 0",
        ),
        // the last writer's own copy is whole, and what may have more than the other one is not to be thrown away
        boots(
            gate(),
            not_whole(pair(
                non_primary("4:site-a:x").by_snapshot().at(Positions::Complete),
                non_primary("4:site-a:x").by_snapshot(),
                inactive(),
            )),
            HandoffProven,
            "promote here, write 5:site-a:open here, mirror-snapshot here, booted 5:site-a:2",
        ),
        boots(
            gate(),
            not_whole(pair(
                non_primary("4:site-a:x").by_snapshot(),
                primary("3:site-b:open").by_snapshot(),
                PeerVm::None,
            )),
            TokenConflict,
            "refuse: one-0-2-0 has tokens that contradict each other, here and on site-b; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            Gate { patience: Patience::Exhausted, ..gate() },
            not_whole(pair(
                non_primary("3:site-a:open").by_snapshot().reports(Report::Down),
                primary("1003:site-b:open").by_snapshot(),
                inactive(),
            )),
            NotFollowingYet,
            "refuse: one-0-2-0 lacks the handoff of site-b: this copy does not follow it; where rbd-mirror runs: systemctl start ceph-rbd-mirror.target; then try again",
        ),
        boots(
            gate(),
            not_whole(pair(
                non_primary("").by_snapshot().at(Positions::Complete),
                non_primary("").by_snapshot(),
                PeerVm::None,
            )),
            NotWhole,
            "refuse: one-0-2-0 is not whole here: a clone, mirrored by snapshots; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            not_whole(alone(non_primary("4:site-a:x").by_snapshot())),
            NonPrimaryPeerUnreachable,
            "refuse: one-0-2-0 is not primary here and site-b does not answer; if site-b is lost for good: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            not_whole(alone(non_primary("3:site-b:open").by_snapshot())),
            NotWhole,
            "refuse: one-0-2-0 is not whole here: a clone, mirrored by snapshots; if site-b is lost for good, and what its base holds is not missed or can be put in again: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            not_whole(pair(
                non_primary("3:site-b:open").by_snapshot(),
                primary("3:site-b:open").by_snapshot(),
                active(),
            )),
            RunningThere,
            "refuse: one-0-2-0 is in use on site-b: VM 0 is RUNNING; on site-b: onevm poweroff 0",
        ),
        boots(
            gate(),
            apart(primary("7:site-a:open"), "1003:site-b:open"),
            ForcedApart,
            "refuse: one-0-2-0 is stale here: site-b took it over by force; it is mirrored anew there, so set this copy aside, to have that one copied here: rbd mv one/one-0-2-0 one/one-0-2-0.aside",
        ),
        boots(
            Gate { peer_unreachable: PeerUnreachable::Allow, ..gate() },
            apart(primary(""), "1003:site-b:open"),
            ForcedApart,
            "refuse: one-0-2-0 is stale here: site-b took it over by force; it is mirrored anew there, so set this copy aside, to have that one copied here: rbd mv one/one-0-2-0 one/one-0-2-0.aside",
        ),
        boots(
            gate(),
            apart(primary("3:site-a:open"), "?"),
            TokenUnreadable,
            "refuse: one-0-2-0 has an unreadable handoff token on site-b; who wrote it, and which copy counts (rbd image-meta list)",
        ),
        // two images that share a name, each with a history of its own
        boots(gate(), apart(primary("3:site-a:open"), "19:site-b:open"), PrimaryHere, "booted 3:site-a:2"),
        boots(
            gate(),
            apart(primary("1003:site-a:open"), "19:site-b:open"),
            PrimaryHere,
            "booted 1003:site-a:2",
        ),
        boots(gate(), apart(primary("3:site-a:open"), ""), PrimaryHere, "booted 3:site-a:2"),
        // a token without the snapshot that carries it
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(non_primary("2:site-a:x").by_snapshot(), primary("3:site-b:open").by_snapshot(), inactive()),
            CarryTokenHere,
            "mirror-snapshot there",
        ),
        // promoted there by hand, without what was written here last
        boots(
            gate(),
            pair(non_primary("4:site-a:x").reports(Report::SplitBrain), primary("3:site-a:open"), inactive()),
            TokenConflict,
            "refuse: one-0-2-0 has tokens that contradict each other, here and on site-b; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a, here: onemirror failover 2 --force --reason TEXT; to go on with that of site-b, on site-b: onemirror failover 0 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(non_primary("4:site-b:x"), primary("4:site-b:x"), inactive()),
            OpenTokenThere,
            "write 5:site-b:open there",
        ),
        boots(
            gate(),
            pair(non_primary("").by_snapshot(), primary("").by_snapshot(), PeerVm::None),
            OpenTokenThere,
            "write 1:site-b:open there, mirror-snapshot there",
        ),
        boots(
            gate(),
            pair(non_primary("3:site-b:open"), primary("3:site-b:open"), inactive()),
            TakeOver,
            "write 4:site-b:c1 there, demote there",
        ),
        boots(
            Gate { locks: Locks::Here, ..gate() },
            pair(non_primary("3:site-b:open"), primary("3:site-b:open"), inactive()),
            TakeOver,
            "lock there",
        ),
        // primary nowhere
        boots(
            gate(),
            pair(non_primary("4:site-b:x"), non_primary("4:site-b:x"), letting_go()),
            HandoffProven,
            "promote here, write 5:site-a:open here, booted 5:site-a:2",
        ),
        boots(
            Gate { locks: Locks::Here, ..gate() },
            pair(non_primary("4:site-b:x"), non_primary("4:site-b:x"), PeerVm::None),
            HandoffProven,
            "lock there",
        ),
        boots(
            gate(),
            pair(
                non_primary("4:site-b:x").by_snapshot().at(Positions::Complete),
                non_primary("4:site-b:x").by_snapshot(),
                PeerVm::None,
            ),
            HandoffProven,
            "promote here, write 5:site-a:open here, mirror-snapshot here, booted 5:site-a:2",
        ),
        boots(
            gate(),
            pair(
                non_primary("4:site-b:x").by_snapshot().at(Positions::Behind),
                non_primary("4:site-b:x").by_snapshot(),
                PeerVm::None,
            ),
            HandoffSnapshotIncomplete,
            "wait for the last writes to arrive",
        ),
        boots(
            Gate { patience: Patience::Exhausted, ..gate() },
            pair(
                non_primary("4:site-b:x").by_snapshot().reports(Report::Replaying),
                non_primary("4:site-b:x").by_snapshot(),
                PeerVm::None,
            ),
            HandoffSnapshotIncomplete,
            "refuse: one-0-2-0 lacks the last snapshot of site-b; see that rbd-mirror runs on site-a and try again",
        ),
        // the token came with a snapshot of an earlier one, and the daemon does not go on
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(
                non_primary("4:site-b:x").by_snapshot().at(Positions::Behind).reports(Report::Stopped),
                non_primary("4:site-b:x").by_snapshot(),
                PeerVm::None,
            ),
            StrandedLastWriterThere,
            "promote there, write 5:site-b:open there, mirror-snapshot there",
        ),
        boots(
            gate(),
            pair(
                Copy { resync: Resync::Asked, ..non_primary("4:site-b:x") },
                non_primary("4:site-b:x"),
                PeerVm::None,
            ),
            StrandedLastWriterThere,
            "promote there, write 5:site-b:open there",
        ),
        boots(
            gate(),
            pair(
                Copy { resync: Resync::Asked, ..non_primary("5:site-a:x") },
                non_primary("4:site-b:x"),
                PeerVm::None,
            ),
            TokenConflict,
            "refuse: one-0-2-0 has tokens that contradict each other, here and on site-b; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a: onemirror failover 2 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(non_primary("4:site-a:x"), non_primary("3:site-a:open"), inactive()),
            LastWriterHere,
            "promote here, write 5:site-a:open here, booted 5:site-a:2",
        ),
        boots(
            gate(),
            pair(non_primary("3:site-b:open"), non_primary("4:site-b:x"), inactive()),
            WritesOnTheirWay,
            "wait for the last writes to arrive",
        ),
        boots(
            Gate { patience: Patience::Exhausted, ..gate() },
            pair(non_primary("3:site-b:open").reports(Report::Down), non_primary("4:site-b:x"), inactive()),
            WritesOnTheirWay,
            "refuse: one-0-2-0 lacks the handoff of site-b: its last writes are not here; where rbd-mirror runs: systemctl start ceph-rbd-mirror.target; then try again",
        ),
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(
                non_primary("2:site-a:x").reports(Report::Stopped),
                non_primary("3:site-b:open"),
                inactive(),
            ),
            StrandedLastWriterThere,
            "promote there, write 4:site-b:open there",
        ),
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(
                non_primary("2:site-a:x").by_snapshot(),
                non_primary("3:site-b:open").by_snapshot(),
                inactive(),
            ),
            StrandedLastWriterThere,
            "promote there, write 4:site-b:open there, mirror-snapshot there",
        ),
        boots(
            gate(),
            pair(
                non_primary("3:site-b:open").at(Positions::Complete),
                non_primary("3:site-b:open"),
                inactive(),
            ),
            PositionsProveHere,
            "promote here, write 4:site-a:open here, booted 4:site-a:2",
        ),
        boots(
            Gate { patience: Patience::Waning, ..gate() },
            pair(non_primary("").at(Positions::Behind), non_primary("").at(Positions::Complete), inactive()),
            PositionsProveThere,
            "promote there, write 1:site-b:open there",
        ),
        boots(
            gate(),
            pair(non_primary("").at(Positions::Behind), non_primary("").at(Positions::Complete), inactive()),
            NoProof,
            "wait for the last writes to arrive",
        ),
        boots(
            Gate { patience: Patience::Exhausted, ..gate() },
            pair(non_primary(""), non_primary(""), inactive()),
            NoProof,
            "refuse: one-0-2-0 was demoted on both sites without a handoff; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a, here: onemirror failover 2 --force --reason TEXT; to go on with that of site-b, on site-b: onemirror failover 0 --force --reason TEXT",
        ),
        boots(
            gate(),
            pair(non_primary("4:site-b:x"), non_primary("4:site-b:y"), inactive()),
            TokenConflict,
            "refuse: one-0-2-0 has tokens that contradict each other, here and on site-b; compare both copies; the one that is not taken is kept (onemirror lost list); to go on with the copy of site-a, here: onemirror failover 2 --force --reason TEXT; to go on with that of site-b, on site-b: onemirror failover 0 --force --reason TEXT",
        ),
    ]
}

fn release_rows() -> Vec<Row> {
    use Rule::*;
    let follows = || non_primary("3:site-a:open");
    let holds_it = || primary("3:site-a:open").release("3:site-a:7");
    vec![
        releases(
            release(),
            seen_as(Here::NotMirrored, There::NotAsked, PeerVm::NotAsked),
            ReleaseNotMirrored,
            "done",
        ),
        releases(
            release(),
            pair(non_primary("4:site-a:x"), non_primary("4:site-a:x"), inactive()),
            ReleaseAlreadyDone,
            "done",
        ),
        releases(
            release(),
            used(pair(holds_it(), follows(), inactive())),
            ReleaseInUseHere,
            "done; pending: VM 7 here uses it",
        ),
        releases(
            release(),
            pair(half_demoted("4:site-a:x"), follows(), inactive()),
            ReleaseHalfDemoted,
            "demote here",
        ),
        releases(
            release(),
            pair(holds_it(), half_demoted("3:site-a:open"), inactive()),
            ReleasePending,
            "done; pending: the copy on site-b is half demoted",
        ),
        releases(
            release(),
            pair(primary("3:site-a:open"), non_primary("1004:site-b:x"), inactive()),
            ReleaseStaleHere,
            "done; pending: it is stale here: site-b wrote to it last",
        ),
        releases(
            release(),
            pair(holds_it(), primary("1003:site-b:open"), active()),
            ReleaseSplitBrain,
            "done; pending: it is primary on site-b too (split brain)",
        ),
        releases(
            release(),
            seen_as(Here::Mirrored(holds_it()), There::Unreachable, PeerVm::Silent),
            ReleasePeerUnreachable,
            "done; pending: site-b does not answer",
        ),
        releases(
            release(),
            seen_as(Here::Mirrored(primary("3:site-b:open")), There::Unreachable, PeerVm::Silent),
            ReleaseNeverBooted,
            "done; pending: site-b does not answer, and no boot here went through its gate",
        ),
        releases(
            release(),
            seen_as(Here::Mirrored(primary("3:site-b:x")), There::Unreachable, PeerVm::Silent),
            ReleaseOpenToken,
            "write 4:site-a:open here",
        ),
        releases(
            release(),
            seen_as(Here::Mirrored(primary("")), There::Unreachable, PeerVm::Silent),
            ReleaseOpenToken,
            "write 1:site-a:open here",
        ),
        releases(
            release(),
            seen_as(Here::Mirrored(primary("3:site-a:open")), There::Absent, PeerVm::None),
            ReleaseMark,
            "release 3:site-a:7",
        ),
        releases(
            release(),
            seen_as(Here::Mirrored(holds_it()), There::Absent, PeerVm::None),
            ReleasePeerHasNoCopy,
            "done; pending: site-b has no copy yet",
        ),
        releases(
            release(),
            pair(primary("3:site-a:open"), follows(), inactive()),
            ReleaseHandOver,
            "release 3:site-a:7, write 4:site-a:c1 here, demote here",
        ),
        releases(
            release(),
            pair(primary("3:site-a:open"), Copy { resync: Resync::Asked, ..follows() }, inactive()),
            ReleaseMark,
            "release 3:site-a:7",
        ),
        releases(
            release(),
            pair(primary("3:site-a:open"), non_primary("2:site-b:y"), inactive()),
            ReleaseMark,
            "release 3:site-a:7",
        ),
        releases(
            release(),
            pair(primary("").by_snapshot(), non_primary("").by_snapshot(), inactive()),
            ReleaseOpenToken,
            "write 1:site-a:open here, mirror-snapshot here",
        ),
        releases(
            release(),
            pair(holds_it(), follows(), inactive()),
            ReleaseHandOver,
            "write 4:site-a:c1 here, demote here",
        ),
        // interrupted between token and demotion
        releases(release(), pair(primary("4:site-a:x"), follows(), inactive()), ReleaseFinish, "demote here"),
        releases(
            release(),
            pair(primary("4:site-a:x"), non_primary("4:site-a:x"), inactive()),
            ReleaseFinish,
            "demote here",
        ),
        // a closed token after an open one that the other copy never followed proves nothing
        releases(
            release(),
            pair(primary("4:site-a:x"), non_primary("2:site-b:y"), inactive()),
            ReleaseOpenToken,
            "write 5:site-a:open here",
        ),
        releases(
            release(),
            pair(holds_it(), non_primary("2:site-b:y").reports(Report::Replaying), inactive()),
            ReleaseWaitForFollower,
            "wait for the other copy to follow",
        ),
        releases(
            Release { patience: Patience::Waning, ..release() },
            pair(holds_it().by_snapshot(), non_primary("2:site-b:y").by_snapshot(), inactive()),
            ReleaseCarryToken,
            "mirror-snapshot here",
        ),
        // a copy that is going to be thrown away there, whatever it shows
        releases(
            release(),
            pair(holds_it(), Copy { resync: Resync::Asked, ..follows() }, inactive()),
            ReleaseWaitForFollower,
            "wait for the other copy to follow",
        ),
        releases(
            release(),
            pair(Copy { resync: Resync::Asked, ..holds_it() }, follows(), inactive()),
            ReleaseResyncAsked,
            "done; pending: a resync of it was asked for before it became primary here",
        ),
        releases(
            Release { patience: Patience::Exhausted, ..release() },
            pair(holds_it(), non_primary("2:site-b:y"), inactive()),
            ReleasePending,
            "done; pending: the copy on site-b does not follow yet",
        ),
        releases(
            release(),
            pair(holds_it(), non_primary("2:site-b:y").reports(Report::Down), inactive()),
            ReleasePending,
            "done; pending: rbd-mirror on site-b is down",
        ),
        releases(
            release(),
            pair(holds_it(), non_primary("").reports(Report::Syncing(Some(7))), inactive()),
            ReleasePending,
            "done; pending: site-b is still copying it: 7 %",
        ),
        releases(
            release(),
            pair(holds_it(), non_primary("2:site-b:y").reports(full()), inactive()),
            ReleaseNoRoomThere,
            "done; pending: pool one of site-b is full (quota of 1000 bytes); on site-b: ceph osd pool set-quota one max_bytes 2000",
        ),
    ]
}

fn upkeep_rows() -> Vec<Row> {
    use Rule::*;
    let in_use = || Upkeep { in_use_here: true, ..upkeep() };
    let running = || Upkeep { in_use_here: true, running_here: Some(2), ..upkeep() };
    let with_user = || Upkeep { has_user_here: true, ..upkeep() };
    let resting = |home: Home, vm_there| {
        let copy = || Copy { home: home.clone(), ..non_primary("4:site-b:x") };
        pair(copy(), copy(), vm_there)
    };
    let mut rows = vec![
        keeps_up(
            upkeep(),
            seen_as(Here::NotMirrored, There::NotAsked, PeerVm::NotAsked),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            upkeep(),
            pair(primary("3:site-a:open"), non_primary("3:site-a:open"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        // its VM ended where nothing could be noted
        keeps_up(
            Upkeep { ended_here: Some(7), ..upkeep() },
            pair(primary("3:site-a:open").booted("3:site-a:7"), non_primary("3:site-a:open"), inactive()),
            UpkeepRelease,
            "release of VM 7",
        ),
        // another one was booted on it since, or it has changed hands since
        keeps_up(
            Upkeep { ended_here: Some(7), ..upkeep() },
            pair(primary("3:site-a:open").booted("3:site-a:8"), non_primary("3:site-a:open"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            Upkeep { ended_here: Some(7), ..upkeep() },
            pair(primary("3:site-a:open").booted("1:site-a:7"), non_primary("3:site-a:open"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            Upkeep { ended_here: Some(7), in_use_here: true, ..upkeep() },
            pair(primary("3:site-a:open").booted("3:site-a:7"), non_primary("3:site-a:open"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            upkeep(),
            pair(primary("3:site-a:open"), primary("1003:site-b:open"), active()),
            UpkeepSplitBrainStaleHere,
            "set-aside here",
        ),
        keeps_up(
            upkeep(),
            sent(pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())),
            UpkeepSplitBrainStaleHere,
            "demote here, resync here",
        ),
        keeps_up(
            upkeep(),
            crowded(pair(primary("3:site-a:open"), primary("1003:site-b:open"), active())),
            UpkeepNoRoomToKeep,
            "undecided: stale here, and it may hold writes of its own; make room in pool one for one more copy, so that this one can be kept",
        ),
        // forced there, and nobody booted on it
        keeps_up(
            upkeep(),
            pair(primary("3:site-a:open"), never_booted(), inactive()),
            UpkeepForcedAndNeverBootedThere,
            "undecided: taken over by force on site-b, and no VM was booted there; start the VM on the site where it belongs now",
        ),
        keeps_up(
            upkeep(),
            pair(given_up(), never_booted(), inactive()),
            UpkeepForcedAndNeverBootedThere,
            "undecided: taken over by force on site-b, and no VM was booted there; start the VM on the site where it belongs now",
        ),
        keeps_up(
            upkeep(),
            pair(given_up(), forced_later(), inactive()),
            UpkeepSplitBrainedCopyHere,
            "promote-stale here, set-aside here",
        ),
        keeps_up(
            in_use(),
            pair(primary("3:site-a:open"), never_booted(), inactive()),
            UpkeepForcedAndNeverBootedThere,
            "undecided: taken over by force on site-b, and no VM was booted there; start the VM on the site where it belongs now",
        ),
        keeps_up(
            running(),
            pair(primary("3:site-a:open"), never_booted(), active()),
            UpkeepForcedAndNeverBootedThere,
            "undecided: taken over by force on site-b, and no VM was booted there; start the VM on the site where it belongs now",
        ),
        keeps_up(
            running(),
            pair(primary("3:site-a:open"), never_booted(), PeerVm::None),
            UpkeepForcedAndNeverBootedThere,
            "write 1004:site-a:open here, booted 1004:site-a:2",
        ),
        keeps_up(
            in_use(),
            pair(primary("3:site-a:open"), primary("1003:site-b:open"), active()),
            UpkeepInUseHere,
            "undecided: stale here, and VM 2 uses it, so it cannot be copied back; onevm poweroff 2",
        ),
        keeps_up(
            upkeep(),
            pair(half_demoted("4:site-a:x"), non_primary("4:site-a:x"), inactive()),
            UpkeepHalfDemoted,
            "demote here",
        ),
        keeps_up(
            in_use(),
            pair(half_demoted("4:site-a:x"), non_primary("4:site-a:x"), inactive()),
            UpkeepInUseHere,
            "undecided: stale here, and VM 2 uses it, so it cannot be copied back; onevm poweroff 2",
        ),
        keeps_up(
            upkeep(),
            pair(primary("1003:site-a:open"), primary("3:site-a:open"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            running(),
            pair(primary("1003:site-a:open"), primary("3:site-a:open"), active()),
            UpkeepStaleInUseThere,
            "undecided: stale on site-b, and VM 0 there uses it, so two VMs may write; on site-b: onevm poweroff 0",
        ),
        keeps_up(
            upkeep(),
            pair(primary("3:site-a:open"), primary("3:site-a:open"), active()),
            UpkeepSplitBrainUndecided,
            "undecided: split brain: primary on both sites; which copy to keep; no VM here has it: make one on hold (onevm create --hold), then onemirror plan tells what to type",
        ),
        keeps_up(
            upkeep(),
            pair(primary("3:site-a:open"), non_primary("1004:site-b:x"), inactive()),
            UpkeepStaleLeftoverHere,
            "demote here",
        ),
        keeps_up(
            in_use(),
            pair(primary("3:site-a:open"), non_primary("1004:site-b:x"), inactive()),
            UpkeepInUseHere,
            "undecided: stale here, and VM 2 uses it, so it cannot be copied back; onevm poweroff 2",
        ),
        keeps_up(
            upkeep(),
            pair(
                non_primary("3:site-a:open").reports(Report::SplitBrain),
                primary("1003:site-b:open"),
                active(),
            ),
            UpkeepSplitBrainedCopyHere,
            "promote-stale here, set-aside here",
        ),
        // asked for before
        keeps_up(
            upkeep(),
            pair(
                Copy { resync: Resync::Asked, ..non_primary("3:site-a:open").reports(Report::SplitBrain) },
                primary("1003:site-b:open"),
                active(),
            ),
            UpkeepNothing,
            "nothing",
        ),
        // noted by somebody who may not have lived to ask
        keeps_up(
            upkeep(),
            pair(
                Copy { resync: Resync::Noted, ..non_primary("3:site-a:open").reports(Report::SplitBrain) },
                primary("1003:site-b:open"),
                active(),
            ),
            UpkeepSplitBrainedCopyHere,
            "promote-stale here, set-aside here",
        ),
        // never thrown away for an older token, nor while it is copied, nor when it follows by now
        keeps_up(
            upkeep(),
            pair(
                non_primary("1003:site-a:x").reports(Report::SplitBrain),
                primary("3:site-b:open"),
                active(),
            ),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            upkeep(),
            pair(
                non_primary("3:site-b:open").reports(Report::SplitBrain),
                primary("3:site-b:open"),
                active(),
            ),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            running(),
            pair(primary("").by_snapshot(), non_primary(""), PeerVm::None),
            UpkeepOpenToken,
            "write 1:site-a:open here, mirror-snapshot here, booted 1:site-a:2",
        ),
        keeps_up(
            upkeep(),
            pair(primary("3:site-a:open").release("3:site-a:7"), non_primary("2:site-b:x"), inactive()),
            UpkeepRelease,
            "release of VM 7",
        ),
        keeps_up(
            upkeep(),
            pair(primary("4:site-a:x").release("3:site-a:7"), non_primary("3:site-a:open"), inactive()),
            UpkeepRelease,
            "release of VM 7",
        ),
        // void: the VM was booted again since
        keeps_up(
            upkeep(),
            pair(primary("4:site-a:open").release("3:site-a:7"), non_primary("4:site-a:open"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            in_use(),
            pair(primary("3:site-a:open").release("3:site-a:7"), non_primary("3:site-a:open"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            upkeep(),
            pair(non_primary("4:site-a:x").release("3:site-a:7"), non_primary("4:site-a:x"), inactive()),
            UpkeepPassOn,
            "pass on",
        ),
        // whatever state its VM was left in there, SUSPENDED and UNKNOWN too, and also while nobody can say
        keeps_up(
            upkeep(),
            pair(non_primary("4:site-a:x").release("3:site-a:7"), non_primary("4:site-a:x"), active()),
            UpkeepPassOn,
            "pass on",
        ),
        keeps_up(
            upkeep(),
            pair(non_primary("4:site-a:x").release("3:site-a:7"), non_primary("4:site-a:x"), PeerVm::Silent),
            UpkeepPassOn,
            "pass on",
        ),
        keeps_up(
            upkeep(),
            pair(non_primary("4:site-a:x").release("3:site-a:7"), non_primary("4:site-a:x"), PeerVm::None),
            UpkeepPrimaryNowhere,
            "undecided: primary on neither site, and no VM of site-b waits for it; on site-b: onemirror rehome --image one/one-0-2-0",
        ),
        keeps_up(
            in_use(),
            pair(non_primary("4:site-a:x").release("3:site-a:7"), non_primary("4:site-a:x"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
        // taken over by the other site, not released by this one
        keeps_up(
            upkeep(),
            pair(non_primary("4:site-a:x"), non_primary("4:site-a:x"), inactive()),
            UpkeepNothing,
            "nothing",
        ),
    ];
    let there = "undecided: primary on neither site, and no VM of site-b waits for it; on site-b: onemirror rehome --image one/one-0-2-0";
    let here = "undecided: primary on neither site, and no VM here waits for it; onemirror rehome --image one/one-0-2-0";
    let unknown = "undecided: primary on neither site, and where it belongs is not known; to have it on site-a, here: onemirror rehome --image one/one-0-2-0; to have it on site-b, on site-b: onemirror rehome --image one/one-0-2-0";
    // primary nowhere, and no VM waits for it where it belongs
    for (home, rules, vm_there, says) in [
        (at(B), upkeep(), PeerVm::None, there),
        (at(B), with_user(), PeerVm::None, there),
        (at(B), in_use(), PeerVm::None, "nothing"),
        (at(B), upkeep(), inactive(), "nothing"),
        (at(B), upkeep(), active(), "nothing"),
        (at(B), upkeep(), PeerVm::Silent, "nothing"),
        (at(A), upkeep(), PeerVm::None, here),
        (at(A), upkeep(), inactive(), here),
        (at(A), upkeep(), active(), "nothing"),
        (at(A), upkeep(), PeerVm::Silent, "nothing"),
        (at(A), with_user(), PeerVm::None, "nothing"),
        (Home::OfAnother, upkeep(), PeerVm::None, unknown),
        (Home::OfAnother, upkeep(), inactive(), "nothing"),
        (Home::OfAnother, with_user(), PeerVm::None, "nothing"),
    ] {
        let rule = if says == "nothing" { UpkeepNothing } else { UpkeepPrimaryNowhere };
        rows.push(keeps_up(rules, resting(home, vm_there), rule, says));
    }
    rows
}

/// What was written for another image, by an earlier release, or by a later one.
fn binding_rows() -> Vec<Row> {
    use Rule::*;
    let inherited = || copy(Role::Primary, "(another's) 1006:site-b:open");
    let follows = || copy(Role::NonPrimary, "(another's) 1006:site-b:open");
    let earlier = || Copy { is_unbound: true, ..primary("3:site-a:open").booted("3:site-a:2") };
    let running = Upkeep { in_use_here: true, running_here: Some(2), ..upkeep() };
    let forced_apart = |token| Apart { token: seen(token), forced: Some("1003:site-b:5".parse().unwrap()) };
    let beside =
        |there| seen_as(Here::Mirrored(primary("7:site-a:open")), There::Apart(there), PeerVm::NotAsked);
    let newer = "refuse: one-0-2-0 was handed over by a later onemirror than that of site-a; upgrade onemirror on site-a and try again";
    vec![
        // a clone of an image that was forced on site-b
        boots(
            gate(),
            pair(inherited(), follows(), PeerVm::None),
            OpenTokenHere,
            "write 1:site-a:open here, booted 1:site-a:2",
        ),
        boots(
            gate(),
            pair(inherited(), non_primary(""), PeerVm::None),
            OpenTokenHere,
            "write 1:site-a:open here, booted 1:site-a:2",
        ),
        boots(
            Gate { peer_unreachable: PeerUnreachable::Allow, ..gate() },
            seen_as(Here::Mirrored(inherited()), There::Unreachable, PeerVm::Silent),
            OpenTokenHere,
            "write 1007:site-a:open here, booted 1007:site-a:2",
        ),
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(inherited(), follows(), PeerVm::None),
            RestoreOnChangedDisk,
            "refuse: one-0-2-0 changed since this VM was suspended; its saved memory no longer fits; to start it without, on its disks as they are: onevm recover --recreate 2",
        ),
        keeps_up(
            upkeep(),
            pair(inherited().release("1006:site-b:2"), follows(), PeerVm::None),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            running.clone(),
            pair(inherited(), follows(), PeerVm::None),
            UpkeepOpenToken,
            "write 1:site-a:open here, booted 1:site-a:2",
        ),
        // reverted, or mirrored anew, with the older image still beside it
        boots(
            gate(),
            apart(earlier(), "3:site-a:open"),
            PrimaryHere,
            "write 3:site-a:open here, booted 3:site-a:2",
        ),
        keeps_up(
            running.clone(),
            apart(earlier(), "3:site-a:open"),
            UpkeepOpenToken,
            "write 3:site-a:open here, booted 3:site-a:2",
        ),
        keeps_up(
            running.clone(),
            apart(earlier().by_snapshot(), "3:site-a:open"),
            UpkeepOpenToken,
            "write 3:site-a:open here, mirror-snapshot here, booted 3:site-a:2",
        ),
        // booted by another one, or by none
        keeps_up(
            Upkeep { running_here: Some(5), ..running.clone() },
            apart(earlier(), "3:site-a:open"),
            UpkeepNothing,
            "nothing",
        ),
        keeps_up(
            Upkeep { running_here: None, ..running.clone() },
            apart(earlier(), "3:site-a:open"),
            UpkeepNothing,
            "nothing",
        ),
        // mirrored anew: the note of the force is about the image that the stale site still has
        boots(
            gate(),
            beside(forced_apart("1:site-b:open")),
            ForcedApart,
            "refuse: one-0-2-0 is stale here: site-b took it over by force; it is mirrored anew there, so set this copy aside, to have that one copied here: rbd mv one/one-0-2-0 one/one-0-2-0.aside",
        ),
        boots(
            gate(),
            apart(primary("7:site-a:open"), "(another's) 1003:site-b:open"),
            PrimaryHere,
            "booted 7:site-a:2",
        ),
        // the same token, now with the name of its image
        boots(
            gate(),
            pair(earlier(), non_primary("3:site-a:open"), inactive()),
            PrimaryHere,
            "write 3:site-a:open here, booted 3:site-a:2",
        ),
        boots(
            gate(),
            Observation {
                in_touch_since_reboot: false,
                ..seen_as(
                    Here::Mirrored(Copy {
                        forced: Some("3:site-a:2".parse().unwrap()),
                        ..earlier().by_snapshot()
                    }),
                    There::Unreachable,
                    PeerVm::Silent,
                )
            },
            PrimaryHereByForce,
            "write 3:site-a:open here, mirror-snapshot here, booted 3:site-a:2",
        ),
        boots(
            Gate { boot: BootKind::Restore, ..gate() },
            pair(earlier(), non_primary("3:site-a:open"), inactive()),
            PrimaryHere,
            "write 3:site-a:open here, booted 3:site-a:2",
        ),
        // sites of two releases
        boots(gate(), pair(primary("(newer)"), non_primary("3:site-a:open"), inactive()), TokenNewer, newer),
        boots(gate(), pair(primary("3:site-a:open"), non_primary("(newer)"), inactive()), TokenNewer, newer),
        boots(gate(), pair(non_primary("3:site-b:open"), primary("(newer)"), inactive()), TokenNewer, newer),
        boots(gate(), apart(primary("3:site-a:open"), "(newer)"), TokenNewer, newer),
        releases(
            release(),
            pair(primary("3:site-a:open"), non_primary("(newer)"), inactive()),
            ReleaseTokenUnread,
            "done; pending: its handoff token is not understood; see: onemirror plan",
        ),
        releases(
            release(),
            pair(primary("(newer)"), non_primary("(newer)"), inactive()),
            ReleaseTokenUnread,
            "done; pending: its handoff token is not understood; see: onemirror plan",
        ),
        keeps_up(
            upkeep(),
            pair(primary("(newer)"), primary("1003:site-b:open"), inactive()),
            UpkeepTokenUnread,
            "undecided: its handoff token is not understood; whose it is; no VM here has it: make one on hold (onevm create --hold), then onemirror plan tells what to type",
        ),
        keeps_up(
            running,
            pair(primary("?"), non_primary("3:site-a:open"), inactive()),
            UpkeepTokenUnread,
            "undecided: its handoff token is not understood; whose it is; see onemirror plan 2",
        ),
    ]
}

/// Whose an image is decides what a terminate does with it.
fn home_rows() -> Vec<Row> {
    use Rule::*;
    let at_home = || Gate { role: SiteRole::Home, ..gate() };
    let away = || Gate { role: SiteRole::Recovery, ..gate() };
    let of = |home: Home, copy: Copy| Copy { home, ..copy };
    let local = || Home::At { site: A.into(), is_former: true };
    let made = |observation| Observation { made_here: true, ..observation };
    let term = || primary("3:site-a:open").booted("3:site-a:2").release("3:site-a:7");
    let follows = || of(Home::Unset, non_primary("3:site-a:open"));
    let of_home = |role| Release { role, ..release() };
    let (home, recovery) = (SiteRole::Home, SiteRole::Recovery);
    let new = |home: Home, token: &str| {
        pair(of(home.clone(), primary(token)), of(home, non_primary("")), PeerVm::None)
    };
    let pending = "done; pending: where it belongs is not known; decide: onemirror rehome 7";
    let mut rows = vec![
        // the first boot of an image that says nothing
        boots(
            at_home(),
            new(Home::Unset, ""),
            OpenTokenHere,
            "home site-a, write 1:site-a:open here, booted 1:site-a:2",
        ),
        boots(away(), new(Home::Unset, ""), OpenTokenHere, "write 1:site-a:open here, booted 1:site-a:2"),
        boots(
            away(),
            made(new(Home::Unset, "")),
            OpenTokenHere,
            "home site-a, write 1:site-a:open here, booted 1:site-a:2",
        ),
        // a clone of an image that has a home of its own
        boots(
            away(),
            made(new(Home::OfAnother, "(another's) 9:site-b:open")),
            OpenTokenHere,
            "home site-a, write 1:site-a:open here, booted 1:site-a:2",
        ),
        boots(
            at_home(),
            new(Home::OfAnother, ""),
            OpenTokenHere,
            "write 1:site-a:open here, booted 1:site-a:2",
        ),
        boots(
            away(),
            made(new(Home::OfAnother, "4:site-b:x")),
            OpenTokenHere,
            "write 5:site-a:open here, booted 5:site-a:2",
        ),
        // taken home, and nobody had written down yet that it is its home
        boots(
            at_home(),
            pair(
                of(Home::Unset, non_primary("4:site-b:x")),
                of(Home::Unset, non_primary("4:site-b:x")),
                inactive(),
            ),
            HandoffProven,
            "promote here, home site-a, write 5:site-a:open here, booted 5:site-a:2",
        ),
        boots(
            away(),
            pair(of(local(), term()), follows(), inactive()),
            OpenTokenHere,
            "home site-a, write 4:site-a:open here, booted 4:site-a:2",
        ),
        boots(
            at_home(),
            pair(
                of(Home::Unset, primary("3:site-a:open").booted("3:site-a:2").by_snapshot()),
                follows(),
                inactive(),
            ),
            HomeHere,
            "home site-a, mirror-snapshot here, booted 3:site-a:2",
        ),
        keeps_up(
            upkeep(),
            pair(of(local(), primary("3:site-a:open").by_snapshot()), follows(), inactive()),
            UpkeepHome,
            "home site-a, mirror-snapshot here",
        ),
        // an end elsewhere hands over, whatever the site is to others; at home it is an end
        releases(
            of_home(home),
            pair(of(at(B), term()), follows(), inactive()),
            ReleaseHandOver,
            "write 4:site-a:c1 here, demote here",
        ),
        keeps_up(
            Upkeep { role: home, ..upkeep() },
            pair(of(at(B), term()), follows(), inactive()),
            UpkeepRelease,
            "release of VM 7",
        ),
        keeps_up(upkeep(), pair(of(at(A), term()), follows(), inactive()), UpkeepNothing, "nothing"),
        releases(
            of_home(recovery),
            pair(of(Home::Unset, term()), follows(), inactive()),
            ReleaseHandOver,
            "write 4:site-a:c1 here, demote here",
        ),
        releases(
            of_home(recovery),
            made(pair(of(Home::Unset, term()), follows(), inactive())),
            ReleaseHandOver,
            "write 4:site-a:c1 here, demote here",
        ),
        releases(of_home(home), pair(of(Home::Unset, term()), follows(), inactive()), ReleaseAtHome, "done"),
        releases(
            of_home(recovery),
            made(pair(of(Home::Unset, primary("1:site-a:open")), follows(), inactive())),
            ReleaseAtHome,
            "done",
        ),
    ];
    for role in [home, recovery] {
        for made_here in [false, true] {
            let row = |home, rule, says| {
                let seen = pair(of(home, term()), follows(), inactive());
                releases(of_home(role), Observation { made_here, ..seen }, rule, says)
            };
            rows.push(row(at(A), ReleaseAtHome, "done"));
            rows.push(row(local(), ReleaseAtHome, "done"));
            rows.push(row(at("site-c"), ReleaseHomeUnknown, pending));
            rows.push(row(Home::OfAnother, ReleaseHomeUnknown, pending));
            rows.push(row(Home::Unread, ReleaseHomeUnknown, pending));
        }
    }
    rows
}

#[test]
fn every_row_decides_as_designed_and_every_rule_fires() {
    let mut fired = BTreeSet::new();
    for row in gate_rows()
        .into_iter()
        .chain(release_rows())
        .chain(upkeep_rows())
        .chain(binding_rows())
        .chain(home_rows())
        .chain(force::force_rows())
        .chain(rehome::rehome_rows())
    {
        assert_eq!(row.judged, (row.rule, row.says.to_string()));
        fired.insert(row.rule);
    }
    let silent: Vec<_> = Rule::iter().filter(|rule| !fired.contains(rule)).collect();
    assert!(silent.is_empty(), "rules that no row fires: {silent:?}");
}

#[test]
fn a_vm_that_is_recreated_keeps_every_mirrored_disk_that_a_vm_was_booted_on() {
    let kept = |here, made_anew| kept_at_recreate(&here, made_anew);
    for made_anew in [false, true] {
        assert!(!kept(Here::Absent, made_anew));
        assert!(!kept(Here::NotMirrored, made_anew));
        for used in [
            primary("1:site-a:open").booted("1:site-a:7"),
            primary("1:site-a:open"),
            primary("what?"),
            non_primary(""),
            half_demoted(""),
            non_primary("1:site-b:open").booted("1:site-b:7"),
        ] {
            assert!(kept(Here::Mirrored(used.clone()), made_anew), "{used:?}");
        }
    }
    assert!(kept(Here::Mirrored(primary("")), false));
    assert!(!kept(Here::Mirrored(primary("")), true));
}

#[test]
fn a_refusal_shows_image_and_cause_in_its_first_60_characters() {
    for row in gate_rows() {
        let Some(at) = row.says.find("refuse: ") else { continue };
        let sentence = &row.says[at + "refuse: ".len()..];
        assert!(!sentence.starts_with('-'));
        let cause_ends = sentence.find(';').unwrap();
        // the words before the first colon or the site's name say it all
        assert!(cause_ends <= 82, "{cause_ends}: {sentence}");
    }
}

#[test]
fn disks_share_their_fate() {
    let image = |name: &str, observation: Observation| Observation { image: spec(name), ..observation };
    let proven = image("one/a", pair(non_primary("4:site-b:x"), non_primary("4:site-b:x"), inactive()));
    let to_take = image("one/b", pair(non_primary("3:site-b:open"), primary("3:site-b:open"), inactive()));
    let on_its_way =
        image("one/c", pair(non_primary("3:site-b:open"), non_primary("4:site-b:x"), inactive()));
    let not_following = image("one/d", pair(non_primary("2:site-a:x"), primary("3:site-b:open"), inactive()));
    let refused = image("one/e", pair(non_primary("3:site-b:open"), primary("3:site-b:open"), active()));
    let decide = |observations: &[&Observation]| {
        let observations: Vec<_> = observations.iter().map(|o| (*o).clone()).collect();
        decision_text(&gate().judge(&observations).decision)
    };
    // one refused disk keeps all others untouched
    assert!(decide(&[&proven, &to_take, &refused]).starts_with("refuse: e is in use"));
    // nothing is taken while one disk does not follow yet
    assert_eq!(decide(&[&to_take, &not_following]), "wait for the other copy to follow");
    // nothing is promoted while one disk is still there
    assert_eq!(decide(&[&proven, &to_take]), "write 4:site-b:c1 there, demote there");
    assert_eq!(decide(&[&proven, &on_its_way]), "wait for the last writes to arrive");
    // then all together
    let both = [proven.clone(), image("one/f", proven.clone())];
    let Decision::Act(steps) = gate().judge(&both).decision else { panic!() };
    assert_eq!(steps.iter().filter(|step| step.name() == "promote").count(), 2);
}

/// Every combination of roles, tokens, reports, positions and VMs, for what must hold in all of them.
fn every_pair() -> impl Iterator<Item = Observation> {
    let tokens = [
        "",
        "?",
        "(newer)",
        "(another's) 4:site-b:open",
        "1:site-a:open",
        "1:site-b:open",
        "2:site-a:x",
        "2:site-b:y",
        "3:site-a:open",
        "3:site-b:open",
    ];
    let reports =
        [Report::Replaying, Report::Syncing(None), Report::SplitBrain, Report::Stopped, Report::Down];
    let positions = [Positions::Unknown, Positions::Complete, Positions::Behind];
    let roles = [Role::Primary, Role::HalfDemoted, Role::NonPrimary];
    let vms = [PeerVm::NotAsked, PeerVm::Silent, PeerVm::None, inactive(), letting_go(), active()];
    let mut all = Vec::new();
    for mode in [Mode::Journal, Mode::Snapshot] {
        for (role_here, role_there) in roles.iter().flat_map(|a| roles.iter().map(move |b| (*a, *b))) {
            for (token_here, token_there) in tokens.iter().flat_map(|a| tokens.iter().map(move |b| (*a, *b)))
            {
                for report in &reports {
                    for (at_here, at_there) in
                        positions.iter().flat_map(|a| positions.iter().map(move |b| (*a, *b)))
                    {
                        for vm in &vms {
                            let here = copy(role_here, token_here).reports(report.clone()).at(at_here);
                            let there = copy(role_there, token_there).reports(report.clone()).at(at_there);
                            all.push(pair(Copy { mode, ..here }, Copy { mode, ..there }, vm.clone()));
                        }
                    }
                }
            }
        }
    }
    all.into_iter()
}

fn copies(observation: &Observation) -> (&Copy, &Copy) {
    let (Here::Mirrored(here), There::Mirrored(there)) = (&observation.here, &observation.there) else {
        panic!()
    };
    (here, there)
}

#[test]
fn no_situation_breaks_what_the_gate_promises() {
    let mut judged = 0_u64;
    for observation in every_pair() {
        let (here, there) = copies(&observation);
        let (token_here, token_there) = (here.token.token(), there.token.token());
        let in_use_there = matches!(observation.vm_there, PeerVm::Active { .. });
        for patience in [Patience::Fresh, Patience::Waning, Patience::Exhausted] {
            for (locks, boot) in [
                (Locks::Here, BootKind::Cold),
                (Locks::Both, BootKind::Cold),
                (Locks::Both, BootKind::Restore),
            ] {
                let gate = Gate { patience, locks, boot, ..gate() };
                let decision = gate.judge(core::slice::from_ref(&observation)).decision;
                judged += 1;
                let steps = match &decision {
                    Decision::Done => {
                        assert_eq!(
                            here.role,
                            Role::Primary,
                            "boots on a copy that is not primary: {observation:?}"
                        );
                        assert!(token_here.is_some_and(|token| token.is_open_by(A)), "{observation:?}");
                        assert!(
                            there.token.sequence() <= here.token.sequence(),
                            "boots on a stale copy: {observation:?}"
                        );
                        continue;
                    }
                    Decision::LockThere => {
                        assert_eq!(locks, Locks::Here);
                        continue;
                    }
                    Decision::Wait { .. } => {
                        assert_ne!(patience, Patience::Exhausted, "waits for ever: {observation:?}");
                        continue;
                    }
                    Decision::Act(steps) => {
                        assert!(!steps.is_empty());
                        steps
                    }
                    Decision::Refuse { then, .. } => then,
                };
                for step in steps {
                    let why = format!("{}: {observation:?}", step_text(step));
                    let alone = matches!(
                        step,
                        Step::WriteToken { at: Side::Here, .. }
                            | Step::MarkBooted { .. }
                            | Step::WriteHome { .. }
                            | Step::MirrorSnapshot { at: Side::Here, .. }
                    );
                    assert!(alone || locks == Locks::Both, "without the lock there: {why}");
                    match step {
                        Step::Promote { at: Side::Here, .. } => {
                            assert_eq!(
                                (here.role, there.role),
                                (Role::NonPrimary, Role::NonPrimary),
                                "{why}"
                            );
                            assert!(!in_use_there, "{why}");
                            let proven =
                                token_here == token_there && token_here.is_some_and(Token::is_closed);
                            let last_writer = here.token.sequence() > there.token.sequence();
                            let complete = here.positions == Positions::Complete && token_here == token_there;
                            assert!(proven || last_writer || complete, "promotes without proof: {why}");
                        }
                        Step::PromoteByForce { .. } | Step::MarkForced { .. } | Step::OpenByForce { .. } => {
                            unreachable!("a gate forces nothing: {why}")
                        }
                        Step::Promote { at: Side::There, .. } => {
                            assert_eq!(
                                (here.role, there.role),
                                (Role::NonPrimary, Role::NonPrimary),
                                "{why}"
                            );
                            let last_writer = there.token.sequence() > here.token.sequence();
                            let complete =
                                there.positions == Positions::Complete && token_here == token_there;
                            let gave_it_up = token_there
                                .is_some_and(|token| token.is_closed() && token.site == B)
                                && token_here == token_there;
                            assert!(!in_use_there && (last_writer || complete || gave_it_up), "{why}");
                        }
                        // writable for nobody
                        Step::Demote { at: Side::There, .. } if there.role == Role::HalfDemoted => {}
                        Step::Demote { at: Side::Here, .. } if here.role == Role::HalfDemoted => {}
                        Step::Demote { at: Side::There, .. } => {
                            assert_eq!((here.role, there.role), (Role::NonPrimary, Role::Primary), "{why}");
                            assert!(token_there.is_some_and(|token| token.is_open_by(B)), "{why}");
                            assert_eq!(token_here, token_there, "demotes what nobody follows: {why}");
                            assert!(
                                matches!(observation.vm_there, PeerVm::None | PeerVm::Inactive { .. }),
                                "{why}"
                            );
                        }
                        Step::Demote { at: Side::Here, .. } => {
                            assert_eq!(here.role, Role::Primary, "{why}");
                            assert!(
                                there.token.sequence() > here.token.sequence(),
                                "demotes the newest copy: {why}"
                            );
                        }
                        Step::Resync { .. } => {
                            assert_eq!(there.role, Role::Primary, "nothing to copy from: {why}");
                            assert!(
                                there.token.sequence() >= here.token.sequence(),
                                "throws the newest copy away: {why}"
                            );
                            assert_ne!(here.report, Report::Down, "{why}");
                        }
                        Step::PromoteStale { .. } | Step::SetAside { .. } => {
                            assert_eq!(there.role, Role::Primary, "nothing to copy from: {why}");
                            assert!(
                                there.token.sequence() > here.token.sequence(),
                                "sets the newest copy aside: {why}"
                            );
                        }
                        Step::WriteToken { at, token, .. } => {
                            let written_to = if *at == Side::Here { here } else { there };
                            assert!(token.sequence > written_to.token.sequence(), "{why}");
                        }
                        Step::MarkBooted { .. } | Step::WriteHome { .. } | Step::MirrorSnapshot { .. } => {}
                        Step::Fence { .. } | Step::MarkRelease { .. } => panic!("{why}"),
                    }
                }
            }
        }
    }
    assert!(judged > 1_000_000, "{judged}");
}

#[test]
fn an_image_is_deleted_only_where_it_belongs_and_nobody_waits_for_it() {
    let site = |role| Residence { here: A, there: B, role };
    let at_home = Removal { residence: site(SiteRole::Home), made_here: false, registered: None };
    let elsewhere = || Removal { residence: site(SiteRole::Recovery), ..at_home.clone() };
    let twice = || Removal { registered: Some(12), ..at_home.clone() };
    let unsaid = |copy: Copy| Here::Mirrored(Copy { home: Home::Unset, ..copy });
    let home_of = |site: &str| Home::At { site: site.into(), is_former: false };
    for (rules, here, expected) in [
        (at_home.clone(), Here::NotMirrored, None),
        (elsewhere(), Here::NotMirrored, None),
        (at_home.clone(), Here::Absent, Some(Kept::Absent)),
        (at_home.clone(), unsaid(primary("")), None),
        (at_home.clone(), unsaid(primary("3:site-a:open").booted("3:site-a:2")), None),
        (elsewhere(), unsaid(primary("")), Some(Kept::Elsewhere)),
        (elsewhere(), unsaid(primary("3:site-a:open")), Some(Kept::Elsewhere)),
        // what it says itself counts for more than what the site is
        (elsewhere(), Here::Mirrored(Copy { home: home_of(A), ..primary("3:site-a:open") }), None),
        (
            at_home.clone(),
            Here::Mirrored(Copy { home: home_of(B), ..primary("3:site-a:open") }),
            Some(Kept::Elsewhere),
        ),
        (
            at_home.clone(),
            Here::Mirrored(Copy { home: Home::OfAnother, ..primary("3:site-a:open") }),
            Some(Kept::Homeless),
        ),
        (twice(), unsaid(primary("3:site-a:open")), Some(Kept::Registered(12))),
        (at_home.clone(), unsaid(non_primary("3:site-b:open")), Some(Kept::NotPrimary)),
        (at_home.clone(), unsaid(half_demoted("4:site-a:x")), Some(Kept::HalfDemoted)),
        // a handoff that is pending, and one that was interrupted between token and demotion
        (at_home.clone(), unsaid(primary("3:site-a:open").release("3:site-a:7")), Some(Kept::Pending)),
        (at_home.clone(), unsaid(primary("4:site-a:x")), Some(Kept::Pending)),
        // of an earlier token
        (at_home.clone(), unsaid(primary("5:site-a:open").release("3:site-a:7")), None),
        (at_home.clone(), unsaid(primary("?")), Some(Kept::Unreadable)),
    ] {
        assert_eq!(rules.judge(&here), expected, "{here:?}");
    }
}

/// What a kept image's sentence says, and what it ends with.
#[test]
fn what_is_kept_is_kept_for_a_true_reason_and_can_be_deleted() {
    let site = |role| Residence { here: A, there: B, role };
    let at_home = Removal { residence: site(SiteRole::Home), made_here: false, registered: None };
    let image = spec("one/one-7");
    let mirrored = |role, home: Home| Copy { home, ..copy(role, "4:site-b:x") };
    let there = |role| There::Mirrored(copy(role, "4:site-b:x"));
    let delete = "onemirror rehome --image one/one-7 && rbd rm one/one-7";
    let over_there = "on site-b: onemirror rehome --image one/one-7 && rbd rm one/one-7";
    for (home, other, kept, way_out) in [
        (at(A), there(Role::Primary), Kept::PrimaryThere, None),
        (at(A), there(Role::HalfDemoted), Kept::PrimaryThere, None),
        (at(A), there(Role::NonPrimary), Kept::PrimaryNowhere, Some(delete)),
        (at(B), there(Role::NonPrimary), Kept::PrimaryNowhere, Some(over_there)),
        (Home::OfAnother, there(Role::NonPrimary), Kept::PrimaryNowhere, Some(delete)),
        (at(A), There::Unreachable, Kept::NotPrimary, None),
        (at(A), There::Absent, Kept::NotPrimary, None),
    ] {
        let here = Here::Mirrored(mirrored(Role::NonPrimary, home));
        let judged = at_home.judge(&here).map(|kept| at_home.beside(kept, &other));
        assert_eq!(judged, Some(kept), "{here:?} {other:?}");
        assert_eq!(at_home.way_out(&image, &here, kept).as_deref(), way_out, "{here:?} {other:?}");
    }
    for (home, kept) in [(at(B), Kept::Elsewhere), (Home::Unread, Kept::Homeless)] {
        let here = Here::Mirrored(Copy { home, ..primary("3:site-a:open") });
        assert_eq!(at_home.judge(&here), Some(kept));
        assert_eq!(at_home.beside(kept, &there(Role::NonPrimary)), kept);
        assert_eq!(at_home.way_out(&image, &here, kept).as_deref(), Some(delete));
    }
}

/// Taking an image up is a boot without a VM, where a boot would be proven and nobody is there.
#[test]
fn an_image_is_taken_up_only_where_it_is_primary_nowhere_and_the_copy_here_has_everything() {
    let (mut taken, mut judged) = (0, 0);
    for observation in every_pair() {
        let (here, there) = copies(&observation);
        for patience in [Patience::Fresh, Patience::Waning, Patience::Exhausted] {
            for in_use_here in [false, true] {
                let gate = Gate { patience, ..gate() };
                let used_here_by = in_use_here.then_some(7);
                let observation = Observation { used_here_by, ..observation.clone() };
                judged += 1;
                let steps = match gate.judge_take_up(&observation).decision {
                    Decision::Act(steps) => steps,
                    Decision::Refuse { then, refusal } => {
                        assert!(then.is_empty());
                        let typed =
                            refusal.advice.ways().iter().any(|way| matches!(way.act, Act::Type { .. }));
                        assert!(!typed, "names a VM that there is not: {refusal}");
                        continue;
                    }
                    Decision::Wait { .. } => {
                        assert_ne!(patience, Patience::Exhausted);
                        continue;
                    }
                    decision => panic!("{decision:?} in {observation:?}"),
                };
                taken += 1;
                assert!(
                    !in_use_here && !matches!(observation.vm_there, PeerVm::Active { .. }),
                    "{observation:?}"
                );
                assert_eq!((here.role, there.role), (Role::NonPrimary, Role::NonPrimary));
                let same = here.token.token() == there.token.token();
                let proven = same && here.token.token().is_some_and(Token::is_closed);
                let last_writer = here.token.sequence() > there.token.sequence();
                let complete = here.positions == Positions::Complete && same;
                assert!(proven || last_writer || complete, "without proof: {observation:?}");
                let said: Vec<String> = steps.iter().map(step_text).collect();
                assert_eq!(said[..2], ["promote here", "home site-a"], "{observation:?}");
                assert!(said[2].starts_with("write ") && said[2].ends_with(":site-a:open here"), "{said:?}");
                assert!(steps.iter().all(|step| !matches!(step, Step::MarkBooted { .. })), "{said:?}");
            }
        }
    }
    assert!(taken > 100 && judged > 100_000, "{taken} {judged}");
}

#[test]
fn no_situation_breaks_what_release_and_upkeep_promise() {
    for observation in every_pair() {
        let (here, there) = copies(&observation);
        for patience in [Patience::Fresh, Patience::Exhausted] {
            for in_use_here in [false, true] {
                let release = Release { patience, ..release() };
                let used_here_by = in_use_here.then_some(7);
                let judged = release.judge(&[Observation { used_here_by, ..observation.clone() }]);
                if let Decision::Act(steps) = &judged.judgement.decision {
                    assert!(!in_use_here, "{observation:?}");
                    if here.role == Role::HalfDemoted {
                        assert!(matches!(steps[..], [Step::Demote { at: Side::Here, .. }]), "{steps:?}");
                        continue;
                    }
                    assert_eq!((here.role, there.role), (Role::Primary, Role::NonPrimary));
                    for step in steps {
                        assert_eq!(step.side(), Side::Here);
                        if matches!(step, Step::Demote { .. }) {
                            let follows = there.token.token().is_some_and(|token| token.site == A);
                            assert!(follows, "demotes what nobody follows: {observation:?}");
                        }
                        assert!(!matches!(step, Step::Promote { .. } | Step::Resync { .. }));
                    }
                }
                if patience == Patience::Exhausted {
                    assert!(!matches!(judged.judgement.decision, Decision::Wait { .. }));
                }
            }
        }
        for (in_use_here, running_here) in [(false, None), (true, None), (true, Some(2))] {
            let Task::Act(steps) =
                (Upkeep { in_use_here, running_here, ..upkeep() }).judge(&observation).task
            else {
                continue;
            };
            for step in steps {
                match step {
                    Step::Demote { at: Side::Here, .. }
                    | Step::Resync { .. }
                    | Step::PromoteStale { .. }
                    | Step::SetAside { .. } => {
                        assert!(!in_use_here, "takes a disk from a VM: {observation:?}");
                        // writable for nobody
                        let half = here.role == Role::HalfDemoted && matches!(step, Step::Demote { .. });
                        assert!(half || there.token.sequence() > here.token.sequence(), "{observation:?}");
                    }
                    Step::WriteToken { at: Side::Here, .. }
                    | Step::MarkBooted { .. }
                    | Step::MirrorSnapshot { at: Side::Here, .. } => {
                        assert!(running_here.is_some() && here.role == Role::Primary, "{observation:?}");
                    }
                    other => panic!("{other:?} in {observation:?}"),
                }
            }
        }
    }
}
