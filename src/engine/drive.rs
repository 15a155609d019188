//! Carries out the requests of a [`Run`], and tells it what came of them. It decides nothing about what comes next.

use super::activity::Activity;
use super::clock::Clock;
use super::error::EngineError;
use super::images::{User, VmImage};
use super::locks::Owner;
use super::observe::Seen;
use super::sites::Engine;
use super::steps::{Cause, HeldLocks};
use crate::ceph::CephError;
use crate::config;
use onemirror_protocol::{
    Carried, Depth, Event, Finding, Here, LetGo, Observation, Patience, PeerUnreachable, Request, Run,
    Setting, Side, Step, Time, Trouble, Users, Verdict,
};
use std::time::Duration;

/// What a run did, and how it ended.
pub(super) struct Driven {
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen last.
    pub seen: Vec<Seen>,
    /// The changes made, in order.
    pub steps: Vec<Step>,
    /// How many of the images were mirrored when it began.
    pub mirrored: usize,
    /// What was to be done last.
    due: Vec<Step>,
    /// The last thing that went wrong.
    pub trouble: Option<EngineError>,
}

impl Driven {
    /// What made it fail.
    pub(super) fn error(self) -> EngineError {
        match self.verdict {
            Verdict::Refused(refusal) => {
                for trouble in self.seen.iter().filter_map(|seen| seen.trouble.as_ref()) {
                    tracing::info!("{trouble}");
                }
                EngineError::Refused(refusal)
            }
            Verdict::NotCarriedOut(why) => not_carried_out(&self.due, why),
            Verdict::MayBoot
            | Verdict::TakenUp
            | Verdict::NotFollowed
            | Verdict::GivenUp(_)
            | Verdict::NoRoom
            | Verdict::Failed => self
                .trouble
                .unwrap_or_else(|| EngineError::Unfit("onemirror has a bug: a run lost its way".into())),
        }
    }
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

pub(super) fn closing_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

pub(super) fn observations(seen: &[Seen]) -> Vec<Observation> {
    seen.iter().map(|seen| seen.observation.clone()).collect()
}

/// What came of a request.
enum Answer {
    Go,
    Saw,
    Locked,
    Acted(Carried),
    Failed(Trouble),
}

/// A run on its way.
struct Drive<'a> {
    engine: &'a Engine,
    vm: Option<i32>,
    images: &'a [VmImage],
    clock: Clock,
    owner: Owner,
    /// Those that it has taken. There may be nothing to lock: then a copy that shows itself is one that is not locked.
    locks: Option<HeldLocks>,
    sights: Vec<Observation>,
    /// As of the last look without locks, or of the last change: what was due then is due under the locks, though to
    /// take them took long.
    patience: Patience,
    driven: Driven,
}

impl Engine {
    /// What the rules need to know beside what is seen.
    pub(super) fn setting<'a>(&'a self, vm: Option<i32>, closing_id: &'a str) -> Setting<'a> {
        Setting {
            here: self.here(),
            there: self.there(),
            role: self.residence().role,
            peer_unreachable: match self.config.policy.peer_unreachable {
                config::PeerUnreachable::Allow => PeerUnreachable::Allow,
                config::PeerUnreachable::Refuse => PeerUnreachable::Refuse,
                config::PeerUnreachable::RefuseAfterReboot => PeerUnreachable::RefuseAfterReboot,
            },
            vm,
            closing_id,
        }
    }

    /// Drives a run about these images to its end.
    pub(super) async fn drive(
        &self,
        mut run: Run,
        vm: Option<i32>,
        images: &[VmImage],
        limit: Duration,
    ) -> Driven {
        let mut drive = Drive::new(self, vm, images, limit);
        let mut answer = Answer::Go;
        loop {
            let id = closing_id();
            let request = run.next(&self.setting(vm, &id), drive.event(&answer));
            tracing::debug!("{request:?}");
            answer = match request {
                Request::Look(depth) => drive.look(depth).await,
                Request::Claim { note_home } => drive.claim(note_home).await,
                Request::Lock(side) => drive.lock(side).await,
                Request::AskUsers(users) => drive.ask_users(users).await,
                Request::Act { steps, findings } => drive.act(steps, &findings).await,
                Request::Unlock => drive.unlock().await,
                Request::Wait(what) => {
                    if let Some((what, image)) = what {
                        tracing::info!("waiting for {what} ({image})");
                    }
                    drive.wait().await
                }
                Request::End { steps, findings, verdict } => match drive.carry_out(&steps, &findings).await {
                    Ok(_) => return drive.end(verdict).await,
                    Err(error) => drive.failed(error),
                },
            };
        }
    }
}

impl<'a> Drive<'a> {
    fn new(engine: &'a Engine, vm: Option<i32>, images: &'a [VmImage], limit: Duration) -> Self {
        let driven = Driven {
            verdict: Verdict::Failed,
            seen: Vec::new(),
            steps: Vec::new(),
            mirrored: 0,
            due: Vec::new(),
            trouble: None,
        };
        Self {
            engine,
            vm,
            images,
            clock: Clock::start(limit),
            owner: Owner::this_process(engine.here(), &engine.state_dir),
            locks: None,
            sights: Vec::new(),
            patience: Patience::Fresh,
            driven,
        }
    }

    fn event(&self, answer: &Answer) -> Event<'_> {
        let time = Time { patience: self.patience, lateness: self.clock.lateness() };
        match answer {
            Answer::Go => Event::Go,
            Answer::Saw => Event::Saw(&self.sights, time),
            Answer::Locked => Event::Locked,
            Answer::Acted(carried) => Event::Acted(*carried, time),
            Answer::Failed(trouble) => Event::Failed(*trouble, time),
        }
    }

    fn saw(&mut self) -> Answer {
        self.sights = observations(&self.driven.seen);
        Answer::Saw
    }

    fn failed(&mut self, error: EngineError) -> Answer {
        let trouble = match &error {
            EngineError::Ceph { error: CephError::PoolFull { .. }, .. } => Trouble::NoRoom,
            error if error.is_passing() => Trouble::Passing,
            _ => Trouble::Lasting,
        };
        tracing::info!("{error}");
        self.driven.trouble = Some(error);
        Answer::Failed(trouble)
    }

    async fn look(&mut self, depth: Depth) -> Answer {
        let seen = match &self.locks {
            None => self.engine.observe(self.images, depth).await,
            Some(locks) => self.engine.observe_locked(self.images, depth, locks).await,
        };
        match seen {
            Ok(seen) => {
                self.driven.seen = seen;
                if self.locks.is_none() && depth != Depth::GiveUp {
                    self.patience = self.clock.patience();
                }
                self.saw()
            }
            Err(error) => self.failed(error),
        }
    }

    async fn claim(&mut self, note_home: bool) -> Answer {
        let Driven { seen, mirrored, .. } = &mut self.driven;
        if note_home {
            futures::future::join_all(seen.iter().map(|seen| self.engine.remember_home(seen))).await;
        }
        *mirrored = seen.iter().filter(|seen| matches!(seen.observation.here, Here::Mirrored(_))).count();
        let of_mirrored = seen.iter().filter(|seen| seen.global_id.is_some()).map(|seen| &seen.image);
        match self.engine.registered_here(of_mirrored).await {
            Ok(found) => match found.into_iter().next() {
                None => self.saw(),
                Some((image, id)) => self.failed(EngineError::Unfit(format!(
                    "{} is registered here as image {id}, so it is not this VM's own; instantiate again for another name",
                    image.image()
                ))),
            },
            Err(error) => self.failed(error),
        }
    }

    async fn lock(&mut self, side: Side) -> Answer {
        let locks = self.locks.get_or_insert_default();
        match self.engine.lock(locks, side, &self.driven.seen, &self.owner).await {
            Ok(()) => Answer::Locked,
            Err(error) => self.failed(error),
        }
    }

    async fn ask_users(&mut self, users: Users) -> Answer {
        let vm = self.vm;
        let counts = |user: &User| match users {
            Users::Others => Some(user.vm) != vm && user.activity != Activity::Inactive,
            Users::Since(LetGo::ByEndingVm) if Some(user.vm) == vm => user.keeps,
            Users::Since(_) | Users::All => user.activity != Activity::Inactive,
        };
        if let Err(error) = self.engine.observe_users_here(&mut self.driven.seen, counts).await {
            return self.failed(error);
        }
        if matches!(users, Users::Since(_)) {
            self.patience = self.clock.patience();
        }
        self.saw()
    }

    async fn carry_out(&self, steps: &[Step], findings: &[Finding]) -> Result<Carried, EngineError> {
        let Some(locks) = &self.locks else {
            return Ok(if steps.is_empty() { Carried::Out } else { Carried::Halted });
        };
        let cause = Cause { vm: self.vm, findings };
        self.engine.carry_out(steps, &self.driven.seen, locks, &cause).await
    }

    async fn act(&mut self, steps: Vec<Step>, findings: &[Finding]) -> Answer {
        match self.carry_out(&steps, findings).await {
            Ok(Carried::Out) => {
                self.clock.progress();
                self.patience = self.clock.patience();
                self.driven.steps.extend(steps);
                Answer::Acted(Carried::Out)
            }
            Ok(left) => {
                self.driven.due = steps;
                Answer::Acted(left)
            }
            Err(error) => self.failed(error),
        }
    }

    async fn wait(&mut self) -> Answer {
        self.unlock().await;
        self.clock.wait_a_moment().await;
        Answer::Go
    }

    async fn unlock(&mut self) -> Answer {
        if let Some(locks) = self.locks.take() {
            locks.release().await;
        }
        Answer::Go
    }

    async fn end(mut self, verdict: Verdict) -> Driven {
        self.unlock().await;
        Driven { verdict, ..self.driven }
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
}
