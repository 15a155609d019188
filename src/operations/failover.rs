//! Failover of one VM: start it here, by its gate alone or, where an operator typed it, by force.

use super::boot;
use crate::audit::Outcome;
use crate::opennebula::{Vm, VmState};
use crate::sites::drive::Subject;
use crate::sites::journal::Attempt;
use crate::sites::look::Seen;
use crate::sites::{ForceOrder, RunError, Sites, Start, VmImages, drive, journal, look, start};
use onemirror_protocol::advice::Place;
use onemirror_protocol::{Decision, Depth, Patience, Refusal, Run, Unfit, Verdict};

/// What a failover did.
#[derive(Debug, Default, serde::Serialize)]
pub struct FailoverOutcome {
    /// The VM, by its id here.
    pub vm: i32,
    /// What the gate would have refused, and the force passed over.
    pub overridden: Option<String>,
    /// Images promoted by force, as `pool[/namespace]/image`.
    pub forced: Vec<String>,
    /// Images that were demoted on the other site and taken over with everything they had.
    pub taken_over: Vec<String>,
    /// How the VM was started: `resume`, `release`, `recover --retry`; nothing if it starts by itself.
    pub started_by: Option<&'static str>,
}

/// Starts the VM here. Without `force` everything is left to the gate, which the start goes through. With
/// `force`, images that the gate would refuse are taken over from a cluster that answers, or else promoted by force
/// first: then writes that have not arrived are lost, and the reason is recorded in the audit log and in the images.
pub async fn failover(
    sites: &Sites,
    vm: VmImages,
    force: Option<ForceOrder<'_>>,
) -> Result<FailoverOutcome, RunError> {
    let (id, started) = (vm.vm.id, sites.time().now());
    let result = try_failover(sites, vm, force).await;
    if let Err(error) = &result {
        let outcome = if error.is_refusal() { Outcome::Refused } else { Outcome::Failed };
        let attempt = Attempt { vm: Some(id), ..Attempt::of_operator("failover", started) };
        journal::note(sites, &attempt, outcome, Some(error.to_string()));
    }
    result
}

async fn try_failover(
    sites: &Sites,
    vm: VmImages,
    force: Option<ForceOrder<'_>>,
) -> Result<FailoverOutcome, RunError> {
    let id = vm.vm.id;
    check_startable(&vm.vm)?;
    let mut outcome = FailoverOutcome { vm: id, ..FailoverOutcome::default() };
    let seen = look::observe(sites, &vm.images, Depth::Boot).await?;
    let refusal = would_refuse(sites, &vm.vm, &seen);
    match (refusal, force) {
        (None, _) => {}
        (Some(refusal), None) => return Err(RunError::Refused(refusal)),
        (Some(refusal), Some(order)) => {
            let code = refusal.rule.code().map(|code| format!("{code} ")).unwrap_or_default();
            outcome.overridden = Some(format!("{code}{} {}", refusal.image.image(), refusal.cause));
            promote_all(sites, &vm, &order, &mut outcome).await?;
        }
    }
    outcome.started_by = start(sites, &vm.vm).await?;
    Ok(outcome)
}

/// What the gate would refuse now, if anything; what it would wait for counts too, since the other site may be
/// lost for good.
pub(crate) fn would_refuse(sites: &Sites, vm: &Vm, seen: &[Seen]) -> Option<Refusal> {
    let judge = |patience| boot::would_judge(sites, vm, seen, patience).decision;
    let decision = match judge(Patience::Fresh) {
        Decision::Wait { .. } => judge(Patience::Exhausted),
        decision => decision,
    };
    match decision {
        Decision::Refuse { refusal, .. } => Some(refusal),
        _ => None,
    }
}

/// Has all images primary here. If that fails half-way, the error says which are.
pub(crate) async fn promote_all(
    sites: &Sites,
    vm: &VmImages,
    order: &ForceOrder<'_>,
    outcome: &mut FailoverOutcome,
) -> Result<(), RunError> {
    let run = Run::force(order.site_is_off, boot::next_standing(&vm.vm));
    let subject = Subject { order: Some(order), ..drive::boot_of(sites, vm.vm.id, &vm.images) };
    let driven = drive::drive(sites, run, &subject).await;
    outcome.taken_over.extend(driven.taken_over.iter().map(ToString::to_string));
    match &driven.verdict {
        Verdict::Forced => {
            outcome.forced.extend(driven.changed().iter().map(ToString::to_string));
            Ok(())
        }
        Verdict::AnswersAgain => {
            let there = sites.there.name().to_owned();
            Err(RunError::Unfit(Unfit::AnswersAgain { there, vm: vm.vm.id }))
        }
        Verdict::ChangedMeanwhile(image) => {
            Err(RunError::Unfit(Unfit::ChangedMeanwhile { image: image.clone() }))
        }
        _ => Err(driven.error()),
    }
}

/// Starts the VM by what its state takes.
async fn start(sites: &Sites, vm: &Vm) -> Result<Option<&'static str>, RunError> {
    let (how, started) = (start::start_of(vm), sites.time().now());
    let front_end = sites.here.reached()?;
    let result = start::ask(&**front_end, vm.id, how).await;
    let name = how.command().unwrap_or_default();
    let (outcome, reason) = match &result {
        Ok(()) => (Outcome::Done, None),
        Err(error) => (Outcome::Failed, Some(error.to_string())),
    };
    let attempt = Attempt { vm: Some(vm.id), ..Attempt::of_operator(name, started) };
    journal::note(sites, &attempt, outcome, reason);
    result.map_err(|error| sites.here.error(error))?;
    Ok(how.command())
}

/// Whether there is anything to fail over: a VM that nothing is at work for, or that waits for OpenNebula to place it.
fn check_startable(vm: &Vm) -> Result<(), RunError> {
    let (id, state) = (vm.id, vm.state_name().to_string());
    match start::start_of(vm) {
        Start::Resume | Start::Release | Start::Retry => Ok(()),
        Start::UnderWay if vm.state == VmState::Pending => Ok(()),
        Start::UnderWay | Start::LettingGo => {
            Err(RunError::Unfit(Unfit::NothingToFailOver { vm: id, state }))
        }
        Start::ByHand(why) => {
            Err(RunError::Unfit(Unfit::StartedByHand { vm: id, state, advice: why.advice(id, Place::Here) }))
        }
        Start::Never => Err(RunError::Unfit(Unfit::NeverStarts { vm: id, state })),
    }
}
