//! A release carried out: the images that a VM let go of are given up, or stay pending.

use super::error::EngineError;
use super::gate::{Clock, closing_id, not_accepted, observations, wait_a_moment};
use super::images::VmImage;
use super::locks::Owner;
use super::observe::Purpose;
use super::sites::Engine;
use super::steps::{Carried, Cause, HeldLocks};
use crate::audit::Outcome;
use crate::handoff::{Decision, Here, Locks, Pending, Release, ReleaseJudgement, Role, Side, Step};
use crate::image_spec::ImageSpec;
use std::time::{Duration, Instant};

/// Which disks are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseScope {
    /// All disks: the VM is gone.
    All,
    /// One disk that was detached.
    Disk(i32),
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
    /// Gives up the images that `vm` let go of, waiting up to `limit` for the other copies to follow. Images that bear
    /// the name of its clone by accident are in no part of the outcome.
    pub async fn release(
        &self,
        vm: i32,
        images: &[VmImage],
        in_use_here: bool,
        limit: Duration,
    ) -> Result<ReleaseOutcome, EngineError> {
        let started = Instant::now();
        let strangers = self.registered_here(images.iter()).await?;
        for (image, id) in &strangers {
            tracing::warn!("{image} is registered here as image {id}, not VM {vm}'s own: left as it is");
        }
        let images: Vec<VmImage> =
            images.iter().filter(|image| !strangers.contains_key(image.spec())).cloned().collect();
        let result = self.release_loop(vm, &images, in_use_here, limit).await;
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

    async fn release_loop(
        &self,
        vm: i32,
        images: &[VmImage],
        in_use_here: bool,
        limit: Duration,
    ) -> Result<ReleaseOutcome, EngineError> {
        let mut clock = Clock::start(limit);
        let owner = Owner::this_process(self.here());
        let mut steps_taken = Vec::new();
        let mut seen = self.observe(images, Purpose::Release).await?;
        loop {
            let mut locks = HeldLocks::default();
            let mut last_word = None;
            match self.lock(&mut locks, Side::Here, &seen, &owner).await {
                Ok(()) => loop {
                    seen = self.observe(images, Purpose::Release).await?;
                    let id = closing_id();
                    let rules = Release {
                        here: self.here(),
                        there: self.there(),
                        vm,
                        in_use_here,
                        patience: clock.patience(),
                        locks: Locks::Here,
                        closing_id: &id,
                    };
                    let ReleaseJudgement { judgement, pending } = rules.judge(&observations(&seen));
                    tracing::debug!("{:?} by {:?}", judgement.decision, judgement.findings);
                    let Decision::Act(steps) = &judgement.decision else {
                        last_word = Some((judgement.decision, pending));
                        break;
                    };
                    let cause = Cause { vm: Some(vm), findings: &judgement.findings };
                    let carried = self.carry_out(steps, &seen, &locks, &cause).await;
                    match carried {
                        Ok(Carried::Out) => {
                            clock.progress();
                            steps_taken.extend(steps.iter().cloned());
                        }
                        Ok(Carried::Halted) if !clock.is_over() => break,
                        Ok(Carried::Halted) => {
                            locks.release().await;
                            return Err(not_accepted(steps));
                        }
                        Err(error) => {
                            locks.release().await;
                            return Err(error);
                        }
                    }
                },
                Err(EngineError::Locked { image, holder }) if !clock.is_over() => {
                    tracing::info!("{image} is locked by {holder}");
                }
                Err(error) => {
                    locks.release().await;
                    return Err(error);
                }
            }
            locks.release().await;
            match last_word {
                Some((Decision::Wait { what, image }, _)) => tracing::info!("waiting for {what} ({image})"),
                Some((_, pending)) => {
                    let mut outcome =
                        ReleaseOutcome { pending, steps: steps_taken, ..ReleaseOutcome::default() };
                    for seen in &seen {
                        let spec = seen.spec().clone();
                        match &seen.observation.here {
                            Here::Mirrored(copy) if copy.role == Role::NonPrimary => {
                                outcome.released.push(spec)
                            }
                            Here::Mirrored(_) => {}
                            Here::Absent | Here::NotMirrored => outcome.not_mirrored.push(spec),
                        }
                    }
                    return Ok(outcome);
                }
                None => {}
            }
            wait_a_moment().await;
            seen = self.observe(images, Purpose::Release).await?;
        }
    }
}
