//! Failover of one VM: start it here, by its gate alone or, where an operator typed it, by force.

use super::activity::saved_memory;
use super::cluster::Cluster;
use super::drive::{self, Subject, observations};
use super::error::RunError;
use super::gate::next_standing;
use super::images::VmImages;
use super::journal::{self, Attempt, Ground};
use super::observe::{self, Seen};
use super::site::Sites;
use super::start::{Start, start_of};
use crate::audit::Outcome;
use crate::ceph::{CephError, Promotion};
use crate::opennebula::{Vm, VmState};
use jiff::Timestamp;
use onemirror_protocol::advice::Place;
use onemirror_protocol::{
    Decision, Depth, ImageSpec, Locks, Mark, Patience, Refusal, Run, SITE_IS_OFF, There, Unfit, Verdict,
    written_for,
};

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

/// What an operator typed with `--force`.
#[derive(Clone, Copy, Debug)]
pub struct ForceOrder<'a> {
    /// Why.
    pub reason: &'a str,
    /// The other site is off, whatever its front-end says.
    pub site_is_off: bool,
}

impl ForceOrder<'_> {
    pub(super) fn in_words(&self) -> String {
        match self.site_is_off {
            true => format!("{SITE_IS_OFF}: {}", self.reason),
            false => self.reason.to_owned(),
        }
    }
}

/// Starts the VM here. Without `force` everything is left to the gate, which the start goes through. With
/// `force`, images that the gate would refuse are taken over from a cluster that answers, or else promoted by force
/// first: then writes that have not arrived are lost, and the reason is recorded in the audit log and in the images.
pub async fn failover(
    sites: &Sites,
    vm: VmImages,
    force: Option<ForceOrder<'_>>,
) -> Result<FailoverOutcome, RunError> {
    let (id, started) = (vm.vm.id, sites.now());
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
    let seen = observe::observe(sites, &vm.images, Depth::Boot).await?;
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
pub(super) fn would_refuse(sites: &Sites, vm: &Vm, seen: &[Seen]) -> Option<Refusal> {
    let (sights, id, kind) = (observations(seen), sites.closing_id(), saved_memory(vm));
    let judge = |patience| {
        let gate =
            drive::setting(sites, Some(vm.id), &id).gate(kind, next_standing(vm), patience, Locks::Both);
        gate.judge(&sights).decision
    };
    let decision = match judge(Patience::Fresh) {
        Decision::Wait { .. } => judge(Patience::Exhausted),
        decision => decision,
    };
    match decision {
        Decision::Refuse { refusal, .. } => Some(refusal),
        _ => None,
    }
}

/// Has all images primary here, or none.
pub(super) async fn promote_all(
    sites: &Sites,
    vm: &VmImages,
    order: &ForceOrder<'_>,
    outcome: &mut FailoverOutcome,
) -> Result<(), RunError> {
    let run = Run::force(order.site_is_off, next_standing(&vm.vm));
    let subject = Subject { order: Some(order), ..drive::boot_of(sites, vm.vm.id, &vm.images) };
    let driven = drive::drive(sites, run, &subject).await;
    outcome.taken_over.extend(driven.taken_over.iter().map(ToString::to_string));
    match &driven.verdict {
        Verdict::Forced => {
            outcome.forced.extend(driven.changed().iter().map(ToString::to_string));
            Ok(())
        }
        Verdict::AnswersAgain => {
            let there = sites.there().to_owned();
            Err(RunError::Unfit(Unfit::AnswersAgain { there, vm: vm.vm.id }))
        }
        Verdict::ChangedMeanwhile(image) => {
            Err(RunError::Unfit(Unfit::ChangedMeanwhile { image: image.clone() }))
        }
        _ => Err(driven.error()),
    }
}

/// Notes which copies there somebody has open for writing.
pub(super) async fn observe_writers_there(sites: &Sites, seen: &mut [Seen]) -> Result<(), RunError> {
    for seen in seen.iter_mut().filter(|seen| matches!(seen.observation.there, There::Mirrored(_))) {
        let Some(cluster) = &seen.cluster_there else { continue };
        let image = seen.spec();
        seen.observation.is_open_there = cluster.is_open_for_writing(image).await.map_err(|error| {
            RunError::Ceph { image: image.clone(), site: sites.there().to_owned(), error }
        })?;
    }
    Ok(())
}

/// First the daemon here is fenced: it may be in the middle of a replay that waits for the lost site, for ever,
/// and in snapshot mode the promotion would then wait for the daemon (seen on Ceph 16.2). It comes back by
/// itself once the site answers again.
pub(super) async fn promote_by_force(
    sites: &Sites,
    cluster: &Cluster,
    spec: &ImageSpec,
) -> Result<(), CephError> {
    fence(sites, cluster, spec).await?;
    match cluster.promote(spec, true).await {
        Ok(Promotion::Promoted) => Ok(()),
        Ok(Promotion::NotYet) => Err(CephError::Busy {
            what: spec.to_string(),
            detail: "the forced promotion is not accepted; restart rbd-mirror here and repeat the command"
                .into(),
        }),
        // a repeat of a run that was killed after the promotion
        Err(CephError::NotPossible { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes to a copy that was promoted by force; a daemon that took the image again in between is fenced once more.
pub(super) async fn write_after_force(
    sites: &Sites,
    cluster: &Cluster,
    spec: &ImageSpec,
    key: &str,
    value: &str,
) -> Result<(), CephError> {
    match cluster.set_metadata(spec, key, value).await {
        Err(CephError::ReadOnly { .. }) => {}
        other => return other,
    }
    fence(sites, cluster, spec).await?;
    cluster.set_metadata(spec, key, value).await
}

async fn fence(sites: &Sites, cluster: &Cluster, spec: &ImageSpec) -> Result<(), CephError> {
    let started = sites.now();
    if cluster.fence(spec).await? {
        tracing::info!("{spec}: rbd-mirror here did not let go of it and was fenced");
        let ground = Some(Ground::OperatorForce);
        let attempt = Attempt { image: Some(spec), ground, ..Attempt::at("fence", started) };
        journal::note(sites, &attempt, Outcome::Done, None);
    }
    Ok(())
}

/// Starts the VM by what its state takes.
async fn start(sites: &Sites, vm: &Vm) -> Result<Option<&'static str>, RunError> {
    let (how, started) = (start_of(vm), sites.now());
    let result = super::start::ask(&**sites.front_end_here(), vm.id, how).await;
    let name = how.command().unwrap_or_default();
    let (outcome, reason) = match &result {
        Ok(()) => (Outcome::Done, None),
        Err(error) => (Outcome::Failed, Some(error.to_string())),
    };
    let attempt = Attempt { vm: Some(vm.id), ..Attempt::of_operator(name, started) };
    journal::note(sites, &attempt, outcome, reason);
    result.map_err(|error| sites.error_here(error))?;
    Ok(how.command())
}

/// Whether there is anything to fail over: a VM that nothing is at work for, or that waits for OpenNebula to place it.
fn check_startable(vm: &Vm) -> Result<(), RunError> {
    let (id, state) = (vm.id, vm.state_name().to_string());
    match start_of(vm) {
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

/// Who forced it, when, and why, for whoever finds the image later.
pub(super) fn forced_note(
    mark: &Mark,
    global_id: &str,
    order: Option<&ForceOrder<'_>>,
    date: Timestamp,
) -> String {
    let reason = order.map_or("", |order| order.reason);
    let is_off = order.is_some_and(|order| order.site_is_off);
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
    let off = if is_off { format!(" {SITE_IS_OFF}") } else { String::new() };
    format!("{}{off} {date} {}: {reason}", written_for(mark, global_id), crate::state::operator())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemirror_protocol::{Token, Written, forced_mark, forced_with_site_off};

    #[test]
    fn the_note_says_that_the_other_site_is_off_only_where_it_was_typed() {
        let mark = Mark::of(&Token::forced_after(None, "site-b"), 7);
        for site_is_off in [false, true] {
            let order = ForceOrder { reason: "site-is-off, they say", site_is_off };
            let note = forced_note(&mark, "77aa", Some(&order), Timestamp::UNIX_EPOCH);
            assert_eq!(forced_mark(&note), Some(Written::For(mark.clone(), "77aa".into())), "{note}");
            assert_eq!(forced_with_site_off(&note), site_is_off, "{note}");
            assert_eq!(order.in_words().starts_with("site-is-off: "), site_is_off);
        }
    }
}
