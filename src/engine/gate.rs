//! The gate before a boot, carried out: look, decide, act, look again, until the VM may boot or may not.

use super::activity::{Activity, has_its_disks};
use super::error::EngineError;
use super::images::{User, VmImage, VmImages};
use super::locks::Owner;
use super::observe::{Purpose, Seen};
use super::sites::Engine;
use super::steps::{Carried, Cause, HeldLocks};
use crate::audit::Outcome;
use crate::config;
use crate::opennebula::Vm;
use onemirror_protocol::ImageSpec;
use onemirror_protocol::{
    BootKind, Decision, Gate, Here, Judgement, Locks, PassOver, Patience, PeerUnreachable, Refusal, Rule,
    Running, Side, Step,
};
use std::time::{Duration, Instant};

/// How long to wait between two looks while something is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(700);
/// The longest pause between two looks.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(4);
/// How long what moves may be expected to arrive by itself.
pub(super) const FRESH: Duration = Duration::from_secs(20);

/// Which disks a boot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateScope {
    /// All disks of the VM.
    All,
    /// One disk that is attached.
    Disk(i32),
}

/// Whether another gate stands between this one and the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// `ln` and `clone` of this disk, of a VM whose `context` follows: a disk that may be written to here needs no
    /// further look yet.
    Outer(i32),
    /// `ln` and `clone` with no gate after them (a VM without CONTEXT, a disk that is attached): its verdict is given
    /// under the locks, and the stock driver may still have to make disks.
    Making,
    /// The last one before the boot: its verdict is given under the locks.
    Last,
    /// None before a boot: an operator's force takes over what the other site still has.
    Forced(PassOver),
}

impl Standing {
    /// How the last gate before the next start of this VM stands.
    pub(super) fn of(vm: &Vm) -> Self {
        match has_its_disks(vm) {
            true => Self::Last,
            false => Self::Making,
        }
    }
}

/// What the gate did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateOutcome {
    /// How many of the images are mirrored.
    pub mirrored: usize,
    /// The changes made, in order.
    pub steps: Vec<Step>,
}

/// Time as the rules see it.
pub(super) struct Clock {
    started: Instant,
    progressed: Instant,
    looked: Instant,
    limit: Duration,
    waned: bool,
}

impl Clock {
    pub(super) fn start(limit: Duration) -> Self {
        let now = Instant::now();
        Self { started: now, progressed: now, looked: now, limit, waned: false }
    }

    /// Something was changed: what follows from it needs its time, also when the limit is near.
    pub(super) fn progress(&mut self) {
        self.progressed = Instant::now();
    }

    /// For a judgement. None of the three is left out, however long a busy machine's looks take: some steps are taken
    /// only while patience wanes, and without them no later try would get further.
    pub(super) fn patience(&mut self) -> Patience {
        match self.by_time() {
            Patience::Exhausted if !self.waned => {
                self.waned = true;
                Patience::Waning
            }
            patience => {
                self.waned |= patience == Patience::Waning;
                patience
            }
        }
    }

    fn by_time(&self) -> Patience {
        let (total, idle) = (self.started.elapsed(), self.progressed.elapsed());
        let fresh = FRESH.min(self.limit / 2);
        if total >= self.limit && (idle >= fresh || total >= self.limit + FRESH * 2) {
            Patience::Exhausted
        } else if idle >= fresh {
            Patience::Waning
        } else {
            Patience::Fresh
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.by_time() == Patience::Exhausted
    }

    /// Whether the run gives up because of this. One whose lock ran out was slow, not wrong: it begins again with a new
    /// lock, made longer by the look that was too long, and a new look, as long as a run may take at all.
    pub(super) fn gives_up(&self, left: Carried) -> bool {
        match left {
            Carried::LockRanOut => self.started.elapsed() >= self.limit + FRESH * 2,
            Carried::Halted | Carried::Out => self.is_over(),
        }
    }

    /// Waits before the next look.
    pub(super) async fn wait_a_moment(&mut self) {
        // some disorder, so that two gates that got in each other's way do not do so again
        let disorder = Duration::from_millis(rand::random_range(0..300));
        tokio::time::sleep(pause(self.looked.elapsed(), self.progressed.elapsed()) + disorder).await;
        self.looked = Instant::now();
    }
}

/// How long to wait before the next look: as long as the last one took, since a front-end that boots many VMs at once is
/// busy enough, and longer where nothing has come of looking for long.
fn pause(look: Duration, idle: Duration) -> Duration {
    look.max(idle / 8).clamp(LOOK_AGAIN, LOOK_AGAIN_AT_LAST)
}

pub(super) fn closing_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

pub(super) fn observations(seen: &[Seen]) -> Vec<onemirror_protocol::Observation> {
    seen.iter().map(|seen| seen.observation.clone()).collect()
}

/// The steps could not be carried out until the time was over.
pub(super) fn not_carried_out(steps: &[Step], why: Carried) -> EngineError {
    let names: Vec<String> = steps.iter().map(|step| format!("{} {}", step.name(), step.image())).collect();
    let names = names.join(", ");
    EngineError::Unfit(match why {
        Carried::LockRanOut => {
            format!(
                "too slow, so its lock ran out before: {names}; try again when this machine and both clusters are less busy"
            )
        }
        Carried::Out | Carried::Halted => {
            format!(
                "Ceph does not accept it yet: {names}; see that rbd-mirror runs on both sites and try again"
            )
        }
    })
}

impl Engine {
    pub(super) fn gate_rules<'a>(
        &'a self,
        vm: i32,
        boot: BootKind,
        standing: Standing,
        patience: Patience,
        locks: Locks,
        closing_id: &'a str,
    ) -> Gate<'a> {
        Gate {
            here: self.here(),
            there: self.there(),
            role: self.residence().role,
            vm,
            boot,
            peer_unreachable: match self.config.policy.peer_unreachable {
                config::PeerUnreachable::Allow => PeerUnreachable::Allow,
                config::PeerUnreachable::Refuse => PeerUnreachable::Refuse,
                config::PeerUnreachable::RefuseAfterReboot => PeerUnreachable::RefuseAfterReboot,
            },
            pass_over: match standing {
                Standing::Forced(pass_over) => pass_over,
                Standing::Outer(_) | Standing::Making | Standing::Last => PassOver::Nothing,
            },
            disks_made: standing == Standing::Last,
            patience,
            locks,
            closing_id,
        }
    }

    /// Makes the VM's images ready to boot on, or says why the VM must not boot. Takes up to the policy's
    /// `sync_timeout`, and a few milliseconds per image that is not mirrored.
    pub async fn gate(
        &self,
        vm: &VmImages,
        scope: GateScope,
        boot: BootKind,
        standing: Standing,
    ) -> Result<GateOutcome, EngineError> {
        let images: Vec<VmImage> = match scope {
            GateScope::All => vm.images.clone(),
            GateScope::Disk(id) => {
                vm.images.iter().filter(|image| image.disk.disk_id == id).cloned().collect()
            }
        };
        if let Standing::Outer(disk) = standing
            && let Some(image) = images.iter().find(|image| image.disk.disk_id == disk)
            && self.is_writable_here(image).await?
        {
            return Ok(GateOutcome::default());
        }
        let started = Instant::now();
        let result = self.gate_loop(vm.vm.id, &images, boot, standing).await;
        if let Err(error) = &result {
            let (image, rule) = match error {
                EngineError::Refused(refusal) => (Some(&refusal.image), refusal.rule.map_or("", Rule::name)),
                _ => (None, ""),
            };
            let outcome = if error.is_refusal() { Outcome::Refused } else { Outcome::Failed };
            self.note(Some(vm.vm.id), image, rule, "boot", outcome, Some(error.to_string()), started);
        }
        result
    }

    /// What the `running` hook has to do about a VM that runs; nothing is changed.
    pub async fn judge_running(&self, vm: &VmImages) -> Result<Running, EngineError> {
        let seen = self.observe(&vm.images, Purpose::Boot).await?;
        let (boot, standing, id) = (BootKind::Cold, Standing::Last, closing_id());
        let gate = self.gate_rules(vm.vm.id, boot, standing, Patience::Exhausted, Locks::Both, &id);
        Ok(Running::judge(&gate, &observations(&seen)))
    }

    /// The gate on some images of a VM that runs, to make up for one that it never went through.
    pub async fn make_up(&self, vm: &VmImages, images: &[ImageSpec]) -> Result<GateOutcome, EngineError> {
        let left: Vec<VmImage> =
            vm.images.iter().filter(|image| images.contains(image.spec())).cloned().collect();
        self.gate_loop(vm.vm.id, &left, BootKind::Cold, Standing::Last).await
    }

    pub(super) async fn gate_loop(
        &self,
        vm: i32,
        images: &[VmImage],
        boot: BootKind,
        standing: Standing,
    ) -> Result<GateOutcome, EngineError> {
        let mut clock = Clock::start(self.config.policy.sync_timeout);
        let owner = Owner::this_process(self.here(), &self.state_dir);
        let mut outcome = GateOutcome::default();
        let mut seen = self.observe(images, Purpose::Boot).await?;
        if !matches!(standing, Standing::Outer(_)) {
            futures::future::join_all(seen.iter().map(|seen| self.remember_home(seen))).await;
        }
        outcome.mirrored =
            seen.iter().filter(|seen| matches!(seen.observation.here, Here::Mirrored(_))).count();
        let mirrored = seen.iter().filter(|seen| seen.global_id.is_some()).map(|seen| &seen.image);
        if let Some((image, id)) = self.registered_here(mirrored).await?.into_iter().next() {
            return Err(EngineError::Unfit(format!(
                "{} is registered here as image {id}, so it is not this VM's own; instantiate again for another name",
                image.image()
            )));
        }
        loop {
            // a look without locks is enough to wait, to refuse, and to see that nothing is mirrored
            let id = closing_id();
            let patience = clock.patience();
            let judgement =
                self.gate_rules(vm, boot, standing, patience, Locks::Both, &id).judge(&observations(&seen));
            let outer = matches!(standing, Standing::Outer(_));
            let nothing_mirrored = seen.iter().all(|seen| seen.global_id.is_none());
            match judgement.decision {
                Decision::Done if nothing_mirrored || outer => return Ok(outcome),
                Decision::Refuse { refusal, then } if then.is_empty() => {
                    return Err(self.refused(refusal, &seen));
                }
                Decision::Wait { what, image } => {
                    tracing::info!("waiting for {what} ({image})");
                    clock.wait_a_moment().await;
                    seen = self.observe(images, Purpose::Boot).await?;
                    continue;
                }
                _ => {}
            }
            let mut locks = HeldLocks::default();
            let round = self
                .locked_round(
                    vm,
                    images,
                    boot,
                    standing,
                    patience,
                    &mut clock,
                    &owner,
                    &mut locks,
                    &seen,
                    &mut outcome,
                )
                .await;
            locks.release().await;
            match round {
                Ok(true) => return Ok(outcome),
                Ok(false) => {}
                Err(error) if error.is_passing() && !clock.is_over() => tracing::info!("{error}"),
                Err(error) => return Err(error),
            }
            clock.wait_a_moment().await;
            seen = self.observe(images, Purpose::Boot).await?;
        }
    }

    /// Takes the locks, looks again, and acts as long as there is something to do. `true`: the VM may boot.
    #[expect(clippy::too_many_arguments, reason = "the state of one loop, split for reading")]
    async fn locked_round(
        &self,
        vm: i32,
        images: &[VmImage],
        boot: BootKind,
        standing: Standing,
        // of the look before: what was due then is due under the locks, though to take them took long
        mut patience: Patience,
        clock: &mut Clock,
        owner: &Owner,
        locks: &mut HeldLocks,
        seen: &[Seen],
        outcome: &mut GateOutcome,
    ) -> Result<bool, EngineError> {
        self.lock(locks, Side::Here, seen, owner).await?;
        let mut held = Locks::Here;
        loop {
            let mut seen = self.observe_locked(images, Purpose::Boot, locks).await?;
            let id = closing_id();
            let rules = self.gate_rules(vm, boot, standing, patience, held, &id);
            let mut judgement = rules.judge(&observations(&seen));
            if matches!(&judgement.decision, Decision::Refuse { then, .. } if !then.is_empty()) {
                // a copy is to be thrown away: nobody else here may be using it
                let counts = |user: &User| user.vm != vm && user.activity != Activity::Inactive;
                self.observe_users_here(&mut seen, counts).await?;
                judgement = rules.judge(&observations(&seen));
            }
            let Judgement { decision, findings } = judgement;
            tracing::debug!("{decision:?} by {findings:?}");
            let cause = Cause { vm: Some(vm), findings: &findings };
            match decision {
                Decision::Done => return Ok(true),
                Decision::LockThere => {
                    self.lock(locks, Side::There, &seen, owner).await?;
                    held = Locks::Both;
                }
                Decision::Act(steps) => match self.carry_out(&steps, &seen, locks, &cause).await? {
                    Carried::Out => {
                        clock.progress();
                        patience = clock.patience();
                        outcome.steps.extend(steps);
                    }
                    left if clock.gives_up(left) => return Err(not_carried_out(&steps, left)),
                    Carried::Halted | Carried::LockRanOut => return Ok(false),
                },
                Decision::Wait { .. } => return Ok(false),
                Decision::Refuse { refusal, then } => {
                    self.carry_out(&then, &seen, locks, &cause).await?;
                    return Err(self.refused(refusal, &seen));
                }
            }
        }
    }

    fn refused(&self, refusal: Refusal, seen: &[Seen]) -> EngineError {
        for trouble in seen.iter().filter_map(|seen| seen.trouble.as_ref()) {
            tracing::info!("{trouble}");
        }
        EngineError::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_done_is_named_with_its_cause() {
        let steps = [Step::Promote { at: Side::Here, image: "one/one-7".parse().unwrap() }];
        let said = |why| not_carried_out(&steps, why).to_string();
        assert!(
            said(Carried::Halted)
                .starts_with("Ceph does not accept it yet: promote one/one-7; see that rbd-mirror")
        );
        assert!(
            said(Carried::LockRanOut)
                .starts_with("too slow, so its lock ran out before: promote one/one-7; try again")
        );
    }

    #[test]
    fn patience_wanes_before_it_is_exhausted_however_long_a_look_took() {
        let mut clock = Clock::start(Duration::ZERO);
        assert!(clock.is_over());
        assert_eq!(clock.patience(), Patience::Waning);
        assert_eq!(clock.patience(), Patience::Exhausted);
    }

    #[test]
    fn a_run_whose_lock_ran_out_begins_again() {
        let clock = Clock::start(Duration::ZERO);
        assert!(clock.is_over() && clock.gives_up(Carried::Halted));
        assert!(!clock.gives_up(Carried::LockRanOut));
    }

    #[test]
    fn looks_get_rarer_where_they_cost_much_or_bring_nothing() {
        let seconds = Duration::from_secs;
        assert_eq!(pause(Duration::ZERO, Duration::ZERO), LOOK_AGAIN);
        assert_eq!(pause(seconds(2), seconds(3)), seconds(2));
        assert_eq!(pause(Duration::ZERO, seconds(16)), seconds(2));
        assert_eq!(pause(seconds(9), seconds(99)), LOOK_AGAIN_AT_LAST);
    }
}
