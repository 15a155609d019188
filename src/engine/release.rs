//! A release carried out: the images that a VM let go of are given up, or stay pending.

use super::activity::Activity;
use super::error::EngineError;
use super::gate::{Clock, closing_id, not_carried_out, observations};
use super::images::{User, VmImage};
use super::locks::Owner;
use super::observe::{Belonging, Purpose, Seen};
use super::sites::Engine;
use super::steps::{Carried, Cause, HeldLocks};
use crate::audit::Outcome;
use crate::ceph::CephError;
use crate::config::ReleaseOn;
use onemirror_protocol::ImageSpec;
use onemirror_protocol::{
    Belongs, Decision, Here, Locks, Pending, Release, ReleaseJudgement, Role, Side, Step,
};
use std::time::{Duration, Instant};

/// Whether the VM that let go of the images is still there. Who uses them, oned is asked under the lock at every look: a
/// VM is ACTIVE before its gate asks for the lock, so one that is seen inactive cannot have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// It is at its end, and oned waits for the answer; unless oned was restarted and has forgotten that it asked. So it
    /// is no user as long as it neither boots, nor runs, nor has saved memory.
    ByEndingVm,
    /// It is at rest, or gone; whoever uses the images took them since.
    Earlier,
}

/// What became of the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseOutcome {
    /// Non-primary here now, and given up.
    pub released: Vec<ImageSpec>,
    /// Still primary here.
    pub pending: Vec<Pending>,
    /// Not mirrored, or not there: none of our business.
    pub not_mirrored: Vec<ImageSpec>,
    /// The changes made, in order.
    pub steps: Vec<Step>,
}

impl Engine {
    /// Gives up the images of a VM that is at its end, those of them that belong to the other site. Which ones these are
    /// this site's own cluster tells: what belongs here does not wait for a site that is silent.
    pub async fn release_at_end(&self, vm: i32, images: &[VmImage]) -> Result<Vec<Pending>, EngineError> {
        if !self.config.releases_on(ReleaseOn::Terminate) {
            return Ok(Vec::new());
        }
        let away: Vec<VmImage> = std::iter::zip(images, self.belongings(images).await?)
            .filter(|(_, belonging)| {
                matches!(belonging, Belonging::Primary(Belongs::There | Belongs::Unknown))
            })
            .map(|(image, _)| image.clone())
            .collect();
        if away.is_empty() {
            return Ok(Vec::new());
        }
        let limit = self.config.policy.release_timeout;
        Ok(self.release(vm, &away, LetGo::ByEndingVm, limit).await?.pending)
    }

    /// Gives up the images that `vm` let go of, waiting up to `limit` for the other copies to follow. Images that bear
    /// the name of its clone by accident are in no part of the outcome.
    pub async fn release(
        &self,
        vm: i32,
        images: &[VmImage],
        let_go: LetGo,
        limit: Duration,
    ) -> Result<ReleaseOutcome, EngineError> {
        let started = Instant::now();
        let strangers = self.registered_here(images.iter()).await?;
        for (image, id) in &strangers {
            tracing::warn!("{image} is registered here as image {id}, not VM {vm}'s own: left as it is");
        }
        let images: Vec<VmImage> =
            images.iter().filter(|image| !strangers.contains_key(image.spec())).cloned().collect();
        let result = self.release_loop(vm, &images, let_go, limit).await;
        match &result {
            Ok(outcome) => {
                for pending in &outcome.pending {
                    let cause = Some(pending.cause.clone());
                    self.note(
                        Some(vm),
                        Some(&pending.image),
                        "release-pending",
                        "release",
                        Outcome::Pending,
                        cause,
                        started,
                    );
                }
            }
            Err(error) => {
                self.note(Some(vm), None, "", "release", Outcome::Failed, Some(error.to_string()), started);
            }
        }
        result
    }

    /// Notes which of the images a VM of this site uses, as `counts` has it. Only under the lock of the copies here is that
    /// so for longer than a moment.
    pub(super) async fn observe_users_here(
        &self,
        seen: &mut [Seen],
        counts: impl Fn(&User) -> bool,
    ) -> Result<(), EngineError> {
        let specs = seen.iter().map(|seen| seen.spec().clone()).collect();
        let users = self.users_here(&specs).await.map_err(|error| self.error_here(error))?;
        for seen in seen {
            let users = users.get(seen.spec()).map_or(&[][..], Vec::as_slice);
            seen.observation.used_here_by = users.iter().find(|user| counts(user)).map(|user| user.vm);
        }
        Ok(())
    }

    async fn release_loop(
        &self,
        vm: i32,
        images: &[VmImage],
        let_go: LetGo,
        limit: Duration,
    ) -> Result<ReleaseOutcome, EngineError> {
        let mut clock = Clock::start(limit);
        let owner = Owner::this_process(self.here(), &self.state_dir);
        let mut steps = Vec::new();
        let mut seen = self.observe(images, Purpose::Release).await?;
        loop {
            let mut locks = HeldLocks::default();
            let round = self
                .release_round(vm, images, let_go, &mut clock, &owner, &mut locks, &mut seen, &mut steps)
                .await;
            locks.release().await;
            match round {
                Ok(Some(judged)) => return Ok(outcome_of(&seen, judged.pending, steps)),
                Ok(None) => {}
                Err(error) if error.is_passing() && !clock.is_over() => tracing::info!("{error}"),
                // nothing can be noted there; reconcile finishes it when there is room
                Err(EngineError::Ceph { error: error @ CephError::PoolFull { .. }, .. }) => {
                    let pending = still_primary(&seen, &error);
                    return Ok(outcome_of(&seen, pending, steps));
                }
                Err(error) => return Err(error),
            }
            clock.wait_a_moment().await;
            seen = self.observe(images, Purpose::Release).await?;
        }
    }

    /// Takes the locks, looks again, and acts as long as there is something to do. `Some`: nothing more can be done now,
    /// and this stays pending.
    #[expect(clippy::too_many_arguments, reason = "the state of one loop, split for reading")]
    async fn release_round(
        &self,
        vm: i32,
        images: &[VmImage],
        let_go: LetGo,
        clock: &mut Clock,
        owner: &Owner,
        locks: &mut HeldLocks,
        seen: &mut Vec<Seen>,
        steps_taken: &mut Vec<Step>,
    ) -> Result<Option<ReleaseJudgement>, EngineError> {
        self.lock(locks, Side::Here, seen, owner).await?;
        loop {
            *seen = self.observe_locked(images, Purpose::Release, locks).await?;
            let counts = |user: &User| match let_go {
                LetGo::ByEndingVm if user.vm == vm => user.keeps,
                _ => user.activity != Activity::Inactive,
            };
            self.observe_users_here(seen, counts).await?;
            let id = closing_id();
            let rules = Release {
                here: self.here(),
                there: self.there(),
                role: self.residence().role,
                vm,
                patience: clock.patience(),
                locks: Locks::Here,
                closing_id: &id,
            };
            let judged = rules.judge(&observations(seen));
            let judgement = &judged.judgement;
            tracing::debug!("{:?} by {:?}", judgement.decision, judgement.findings);
            match &judgement.decision {
                Decision::Act(steps) => {
                    let cause = Cause { vm: Some(vm), findings: &judgement.findings };
                    match self.carry_out(steps, seen, locks, &cause).await? {
                        Carried::Out => {
                            clock.progress();
                            steps_taken.extend(steps.iter().cloned());
                        }
                        left if clock.gives_up(left) => return Err(not_carried_out(steps, left)),
                        Carried::Halted | Carried::LockRanOut => return Ok(None),
                    }
                }
                Decision::Wait { what, image } => {
                    tracing::info!("waiting for {what} ({image})");
                    return Ok(None);
                }
                Decision::Done | Decision::LockThere | Decision::Refuse { .. } => return Ok(Some(judged)),
            }
        }
    }
}

/// What stays primary here, all for this one cause.
fn still_primary(seen: &[Seen], cause: &CephError) -> Vec<Pending> {
    let is_primary = |seen: &&Seen| match &seen.observation.here {
        Here::Mirrored(copy) => copy.role != Role::NonPrimary,
        Here::Absent | Here::NotMirrored => false,
    };
    let pending = |seen: &Seen| Pending { image: seen.spec().clone(), cause: cause.to_string() };
    seen.iter().filter(is_primary).map(pending).collect()
}

fn outcome_of(seen: &[Seen], pending: Vec<Pending>, steps: Vec<Step>) -> ReleaseOutcome {
    let mut outcome = ReleaseOutcome { pending, steps, ..ReleaseOutcome::default() };
    for seen in seen {
        let spec = seen.spec().clone();
        match &seen.observation.here {
            Here::Mirrored(copy) if copy.role == Role::NonPrimary => outcome.released.push(spec),
            Here::Mirrored(_) => {}
            Here::Absent | Here::NotMirrored => outcome.not_mirrored.push(spec),
        }
    }
    outcome
}
