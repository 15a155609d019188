//! Failover of one VM: start it here, by its gate alone or, where an operator typed it, by force.

use super::activity::saved_memory;
use super::drive::{closing_id, observations};
use super::error::{EngineError, ForcedInPart};
use super::gate::next_standing;
use super::images::{VmImage, VmImages};
use super::locks::Owner;
use super::observe::Seen;
use super::sites::Engine;
use super::start::{Start, start_of};
use super::steps::HeldLocks;
use crate::audit::Outcome;
use crate::ceph::{Ceph, CephError, Promotion, RbdCommand};
use crate::opennebula::{Vm, VmState};
use onemirror_protocol::Depth;
use onemirror_protocol::ImageSpec;
use onemirror_protocol::advice::Place;
use onemirror_protocol::{
    BootKind, Copy, Decision, FORCED_KEY, Force, Forcing, Here, Locks, Mark, Mode, PassOver, Patience,
    Refusal, Role, Run, SITE_IS_OFF, Side, Standing, TOKEN_KEY, There, Token, written_for,
};
use std::collections::BTreeSet;
use std::time::Instant;

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
    /// How the VM was started: `resume`, `release`, `recover --retry`; empty if it starts by itself.
    pub started_by: String,
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
    fn in_words(&self) -> String {
        match self.site_is_off {
            true => format!("{SITE_IS_OFF}: {}", self.reason),
            false => self.reason.to_owned(),
        }
    }
}

impl Engine {
    /// Starts the VM here. Without `force` everything is left to the gate, which the start goes through. With
    /// `force`, images that the gate would refuse are taken over from a cluster that answers, or else promoted by force
    /// first: then writes that have not arrived are lost, and the reason is recorded in the audit log and in the images.
    pub async fn failover(
        &self,
        vm: VmImages,
        force: Option<ForceOrder<'_>>,
    ) -> Result<FailoverOutcome, EngineError> {
        let (id, started) = (vm.vm.id, Instant::now());
        let result = self.try_failover(vm, force).await;
        if let Err(error) = &result {
            let outcome = if error.is_refusal() { Outcome::Refused } else { Outcome::Failed };
            self.note(Some(id), None, "operator", "failover", outcome, Some(error.to_string()), started);
        }
        result
    }

    async fn try_failover(
        &self,
        vm: VmImages,
        force: Option<ForceOrder<'_>>,
    ) -> Result<FailoverOutcome, EngineError> {
        let id = vm.vm.id;
        check_startable(&vm.vm)?;
        let mut outcome = FailoverOutcome { vm: id, ..FailoverOutcome::default() };
        let seen = self.observe(&vm.images, Depth::Boot).await?;
        let refusal = self.would_refuse(&vm.vm, &seen);
        match (refusal, force) {
            (None, _) => {}
            (Some(refusal), None) => return Err(EngineError::Refused(refusal)),
            (Some(refusal), Some(order)) => {
                outcome.overridden = Some(format!("{} {}", refusal.image.image(), refusal.cause));
                self.force(&vm, &order, &mut outcome).await?;
            }
        }
        outcome.started_by = self.start(&vm.vm).await?;
        Ok(outcome)
    }

    /// What the gate would refuse now, if anything; what it would wait for counts too, since the other site may be
    /// lost for good.
    pub(super) fn would_refuse(&self, vm: &Vm, seen: &[Seen]) -> Option<Refusal> {
        let (sights, id, kind) = (observations(seen), closing_id(), saved_memory(vm));
        let judge = |patience| {
            let gate = self.setting(Some(vm.id), &id).gate(kind, next_standing(vm), patience, Locks::Both);
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

    /// First what the copies there still have is taken over, if they answer; what can only be had by force is forced
    /// then. Every image is judged before the first one is touched.
    async fn force(
        &self,
        vm: &VmImages,
        order: &ForceOrder<'_>,
        outcome: &mut FailoverOutcome,
    ) -> Result<(), EngineError> {
        let answering = self.force_round(vm, order, Patience::Fresh, outcome).await?;
        if answering.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let pass_over = if order.site_is_off { PassOver::Everything } else { PassOver::Doubts };
        let run = Run::boot(BootKind::Cold, Standing::Forced(pass_over));
        let taken = self.ready_to_boot(vm.vm.id, &answering, run).await;
        match taken {
            Ok(_) => {
                for image in &answering {
                    let (who, reason) = ("operator-force", Some(order.in_words()));
                    self.note(
                        Some(vm.vm.id),
                        Some(image.spec()),
                        who,
                        "take-over",
                        Outcome::Done,
                        reason,
                        started,
                    );
                    outcome.taken_over.push(image.spec().to_string());
                }
            }
            // the copies here cannot follow; whether they are to be had all the same is judged next
            Err(EngineError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        match self.force_round(vm, order, Patience::Exhausted, outcome).await?.first() {
            None => Ok(()),
            Some(image) => {
                Err(EngineError::Unfit(format!("{} has changed meanwhile; repeat the command", image.spec())))
            }
        }
    }

    /// Judges all images under the locks of every copy that can be reached, and forces those that take it. Where some can
    /// be taken over, those are the answer, and nothing is forced yet.
    pub(super) async fn force_round(
        &self,
        vm: &VmImages,
        order: &ForceOrder<'_>,
        patience: Patience,
        outcome: &mut FailoverOutcome,
    ) -> Result<Vec<VmImage>, EngineError> {
        let owner = Owner::this_process(self.here(), &self.state_dir);
        let mut locks = HeldLocks::default();
        let result = async {
            let seen = self.look_under_locks(vm, &owner, &mut locks).await?;
            let forcings = self.judge_force(&vm.vm, order, patience, &seen).await?;
            let taken = |(seen, forcing): (&Seen, &Forcing)| {
                (*forcing == Forcing::TakeOver).then(|| seen.image.clone())
            };
            let answering: Vec<VmImage> = seen.iter().zip(&forcings).filter_map(taken).collect();
            if answering.is_empty() {
                let judged = seen.iter().zip(&forcings).collect();
                self.force_images(vm.vm.id, order, judged, &locks, outcome).await?;
            }
            Ok(answering)
        }
        .await;
        locks.release().await;
        result
    }

    async fn look_under_locks(
        &self,
        vm: &VmImages,
        owner: &Owner,
        locks: &mut HeldLocks,
    ) -> Result<Vec<Seen>, EngineError> {
        let answers =
            |seen: &[Seen]| seen.iter().any(|seen| matches!(seen.observation.there, There::Mirrored(_)));
        let seen = self.observe(&vm.images, Depth::Force).await?;
        self.lock(locks, Side::Here, &seen, owner).await?;
        let answered = answers(&seen);
        if answered {
            self.lock(locks, Side::There, &seen, owner).await?;
        }
        let seen = self.observe_locked(&vm.images, Depth::Force, locks).await?;
        if answers(&seen) && !answered {
            // a VM may be booting there, unseen without the lock
            let there = self.there();
            return Err(EngineError::Unfit(format!(
                "{there} answers again; see: onemirror show {}",
                vm.vm.id
            )));
        }
        Ok(seen)
    }

    async fn judge_force(
        &self,
        vm: &Vm,
        order: &ForceOrder<'_>,
        patience: Patience,
        seen: &[Seen],
    ) -> Result<Vec<Forcing>, EngineError> {
        let open_there = match order.site_is_off {
            true => self.open_there(seen).await?,
            false => BTreeSet::new(),
        };
        let id = closing_id();
        let rules = Force {
            gate: self.setting(Some(vm.id), &id).gate(
                BootKind::Cold,
                next_standing(vm),
                patience,
                Locks::Both,
            ),
            site_is_off: order.site_is_off,
            open_there: &open_there,
        };
        let forcings = rules.judge(&observations(seen));
        match forcings.iter().find_map(|forcing| match forcing {
            Forcing::Refuse(refusal) => Some(refusal.clone()),
            _ => None,
        }) {
            Some(refusal) => Err(EngineError::Refused(refusal)),
            None => Ok(forcings),
        }
    }

    /// The images whose copy there somebody has open for writing.
    async fn open_there(&self, seen: &[Seen]) -> Result<BTreeSet<ImageSpec>, EngineError> {
        let mut open = BTreeSet::new();
        for seen in seen.iter().filter(|seen| matches!(seen.observation.there, There::Mirrored(_))) {
            let (Some(cluster), image) = (&seen.cluster_there, seen.spec().clone()) else { continue };
            match cluster.is_open_for_writing(&image).await {
                Ok(false) => {}
                Ok(true) => drop(open.insert(image)),
                Err(error) => {
                    return Err(EngineError::Ceph { image, site: self.there().to_owned(), error });
                }
            }
        }
        Ok(open)
    }

    /// Forces one image after the other; the first failure ends it, and tells of all.
    async fn force_images(
        &self,
        vm: i32,
        order: &ForceOrder<'_>,
        judged: Vec<(&Seen, &Forcing)>,
        locks: &HeldLocks,
        outcome: &mut FailoverOutcome,
    ) -> Result<(), EngineError> {
        let fences = judged.into_iter().filter_map(|(seen, forcing)| match forcing {
            Forcing::Promote { fence } => Some((seen, *fence)),
            _ => None,
        });
        let all: Vec<(&Seen, bool)> = fences.collect();
        for (place, (seen, fence)) in all.iter().enumerate() {
            // a process that was paused finds its lock gone, and may have been overtaken
            let forced = match self.still_hold(locks, seen.spec()).await {
                true => self.force_image(vm, order, seen, *fence).await,
                false => Err(CephError::Busy {
                    what: seen.spec().to_string(),
                    detail: "too slow, so its lock ran out".into(),
                }),
            };
            if let Err(error) = forced {
                let names =
                    |some: &[(&Seen, bool)]| some.iter().map(|(seen, _)| seen.spec().clone()).collect();
                return Err(EngineError::ForcedInPart(ForcedInPart {
                    failed: seen.spec().clone(),
                    error,
                    forced: names(all.get(..place).unwrap_or_default()),
                    left: names(all.get(place + 1..).unwrap_or_default()),
                }));
            }
            outcome.forced.push(seen.spec().to_string());
        }
        Ok(())
    }

    /// Promotes one copy by force, if it is not primary, and opens a reign that outranks what never arrived.
    async fn force_image(
        &self,
        vm: i32,
        order: &ForceOrder<'_>,
        seen: &Seen,
        fence: bool,
    ) -> Result<(), CephError> {
        let (Here::Mirrored(copy), Some(global_id)) = (&seen.observation.here, &seen.global_id) else {
            return Ok(());
        };
        let (spec, started) = (seen.spec(), Instant::now());
        let newest = match &seen.observation.there {
            There::Mirrored(there) => there.token.last().max(copy.token.last()),
            _ => copy.token.last(),
        };
        let token = Token::forced_after(newest, self.here());
        let forced = async {
            if fence && let Some(there) = &seen.cluster_there {
                there.demote(spec).await?;
            }
            self.promote_and_note(seen, copy, &token, &forced_note(&Mark::of(&token, vm), global_id, order))
                .await
        }
        .await;
        let (outcome, words) = match &forced {
            Ok(()) => (Outcome::Done, order.in_words()),
            Err(error) => (Outcome::Failed, format!("{}: {error}", order.in_words())),
        };
        self.note(Some(vm), Some(spec), "operator-force", "promote-force", outcome, Some(words), started);
        forced
    }

    async fn promote_and_note(
        &self,
        seen: &Seen,
        copy: &Copy,
        token: &Token,
        note: &str,
    ) -> Result<(), CephError> {
        let (cluster, spec, global_id) = (&seen.image.cluster, seen.spec(), seen.global_id.as_deref());
        if copy.role == Role::HalfDemoted {
            // Ceph takes it for promoted already
            cluster.demote(spec).await?;
        }
        if copy.role != Role::Primary {
            self.promote_by_force(cluster, spec).await?;
        }
        // the note first: a repeat of a run that was killed after the token finds nothing to force any more
        self.write_after_force(cluster, spec, FORCED_KEY, note).await?;
        let token = written_for(token, global_id.unwrap_or_default());
        self.write_after_force(cluster, spec, TOKEN_KEY, &token).await?;
        if copy.mode == Mode::Snapshot {
            cluster.mirror_snapshot(spec).await?;
        }
        Ok(())
    }

    /// First the daemon here is fenced: it may be in the middle of a replay that waits for the lost site, for ever,
    /// and in snapshot mode the promotion would then wait for the daemon (seen on Ceph 16.2). It comes back by
    /// itself once the site answers again.
    async fn promote_by_force(&self, cluster: &RbdCommand, spec: &ImageSpec) -> Result<(), CephError> {
        self.fence(cluster, spec).await?;
        match cluster.promote(spec, true).await {
            Ok(Promotion::Promoted) => Ok(()),
            Ok(Promotion::NotYet) => Err(CephError::Busy {
                what: spec.to_string(),
                detail:
                    "the forced promotion is not accepted; restart rbd-mirror here and repeat the command"
                        .into(),
            }),
            // a repeat of a run that was killed after the promotion
            Err(CephError::NotPossible { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes to a copy that was promoted by force; a daemon that took the image again in between is fenced once more.
    async fn write_after_force(
        &self,
        cluster: &RbdCommand,
        spec: &ImageSpec,
        key: &str,
        value: &str,
    ) -> Result<(), CephError> {
        match cluster.set_metadata(spec, key, value).await {
            Err(CephError::ReadOnly { .. }) => {}
            other => return other,
        }
        self.fence(cluster, spec).await?;
        cluster.set_metadata(spec, key, value).await
    }

    async fn fence(&self, cluster: &RbdCommand, spec: &ImageSpec) -> Result<(), CephError> {
        let started = Instant::now();
        if cluster.fence(spec).await? {
            tracing::info!("{spec}: rbd-mirror here did not let go of it and was fenced");
            self.note(None, Some(spec), "operator-force", "fence", Outcome::Done, None, started);
        }
        Ok(())
    }

    /// Starts the VM by what its state takes.
    async fn start(&self, vm: &Vm) -> Result<String, EngineError> {
        let (how, started) = (start_of(vm), Instant::now());
        let result = super::start::ask(self.front_end_here(), vm.id, how).await;
        let name = how.command().unwrap_or_default();
        let (outcome, reason) = match &result {
            Ok(()) => (Outcome::Done, None),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        self.note(Some(vm.id), None, "operator", name, outcome, reason, started);
        result.map_err(|error| self.error_here(error))?;
        Ok(name.to_owned())
    }
}

/// Whether there is anything to fail over: a VM that nothing is at work for, or that waits for OpenNebula to place it.
fn check_startable(vm: &Vm) -> Result<(), EngineError> {
    let (id, state) = (vm.id, vm.state_name());
    match start_of(vm) {
        Start::Resume | Start::Release | Start::Retry => Ok(()),
        Start::UnderWay if vm.state == VmState::Pending => Ok(()),
        Start::UnderWay | Start::LettingGo => {
            Err(EngineError::Unfit(format!("VM {id} is {state} here; there is nothing to fail over")))
        }
        Start::ByHand(why) => {
            Err(EngineError::Unfit(format!("VM {id} is {state} here; {}", why.advice(id, Place::Here))))
        }
        Start::Never => Err(EngineError::Unfit(format!("VM {id} is {state} here, which nothing starts"))),
    }
}

/// Who forced it, when, and why, for whoever finds the image later.
fn forced_note(mark: &Mark, global_id: &str, order: &ForceOrder<'_>) -> String {
    let reason: String = order.reason.chars().filter(|c| !c.is_control()).take(200).collect();
    let off = if order.site_is_off { format!(" {SITE_IS_OFF}") } else { String::new() };
    format!(
        "{}{off} {} {}: {reason}",
        written_for(mark, global_id),
        jiff::Timestamp::now(),
        crate::state::operator()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemirror_protocol::{Written, forced_mark, forced_with_site_off};

    #[test]
    fn the_note_says_that_the_other_site_is_off_only_where_it_was_typed() {
        let mark = Mark::of(&Token::forced_after(None, "site-b"), 7);
        for site_is_off in [false, true] {
            let order = ForceOrder { reason: "site-is-off, they say", site_is_off };
            let note = forced_note(&mark, "77aa", &order);
            assert_eq!(forced_mark(&note), Some(Written::For(mark.clone(), "77aa".into())), "{note}");
            assert_eq!(forced_with_site_off(&note), site_is_off, "{note}");
            assert_eq!(order.in_words().starts_with("site-is-off: "), site_is_off);
        }
    }
}
