//! Carries out the requests of a [`Run`], and tells it what came of them. It decides nothing about what comes next.

use super::Sites;
use super::clock::Clock;
use super::error::RunError;
use super::force::{self, ForceOrder};
use super::images::{self, VmImage};
use super::journal::{self, Attempt, Ground};
use super::locks::Owner;
use super::look::{self, Seen};
use super::steps::{self, Cause, HeldLocks};
use super::users;
use crate::audit::Outcome;
use crate::ceph::CephError;
use crate::config;
use onemirror_protocol::{
    Carried, Depth, Event, Finding, Here, ImageSpec, Observation, Patience, PeerUnreachable, Request, Rule,
    Run, Setting, Side, Step, Time, Trouble, Unfit, UserHere, Users, UsesHere, Verdict, WaitFor,
};
use std::time::Duration;

/// What a run is about, on this site.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The VM, if it is about one's images.
    pub vm: Option<i32>,
    pub images: &'a [VmImage],
    /// For each image the VMs that use it as far as is known; what the front-end lists may lack one.
    pub known: &'a [Vec<UserHere>],
    /// What an operator typed.
    pub order: Option<&'a ForceOrder<'a>>,
    /// How long it may take.
    pub limit: Duration,
}

/// What a run did, and how it ended.
pub(crate) struct Driven {
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen last.
    pub seen: Vec<Seen>,
    /// The changes made, in order.
    pub steps: Vec<Step>,
    /// How many of the images were mirrored when it began.
    pub mirrored: usize,
    /// What was to be done last, and why.
    pub due: Vec<Step>,
    pub findings: Vec<Finding>,
    /// The images that a force took over with all that they have.
    pub taken_over: Vec<ImageSpec>,
    /// The last thing that went wrong.
    pub trouble: Option<RunError>,
}

impl Driven {
    /// The images that were changed at the end, in order.
    pub(crate) fn changed(&self) -> Vec<&ImageSpec> {
        let mut images: Vec<&ImageSpec> = self.due.iter().map(Step::image).collect();
        images.dedup();
        images
    }

    /// By which rule what was done at the end with the image, or is to be done by the next run.
    pub(crate) fn told_of(&self, image: &ImageSpec) -> Option<(Rule, String)> {
        let rule = self.findings.iter().find(|finding| finding.image == *image)?.rule;
        let due: Vec<&Step> = self.due.iter().filter(|step| step.image() == image).collect();
        let names = due.iter().map(|step| step.name()).collect::<Vec<_>>().join(", ");
        let is_done = due.iter().all(|step| self.steps.contains(step));
        Some((
            rule,
            match due[..] {
                [] => "settled meanwhile".to_owned(),
                _ if is_done => names,
                _ => format!("not done yet: {names}"),
            },
        ))
    }

    /// What made it fail.
    pub(crate) fn error(self) -> RunError {
        match self.verdict {
            Verdict::Refused(refusal) => {
                for trouble in self.seen.iter().filter_map(|seen| seen.trouble.as_ref()) {
                    tracing::info!("{trouble}");
                }
                RunError::Refused(refusal)
            }
            Verdict::NotCarriedOut(why) => not_carried_out(&self.due, why),
            _ => self.trouble.unwrap_or(RunError::Unfit(Unfit::Bug)),
        }
    }
}

/// The steps could not be carried out until the time was over.
pub(crate) fn not_carried_out(steps: &[Step], why: Carried) -> RunError {
    let names: Vec<String> = steps.iter().map(|step| format!("{} {}", step.name(), step.image())).collect();
    let steps = names.join(", ");
    RunError::Unfit(match why {
        Carried::LockRanOut => Unfit::LockRanOut { steps },
        Carried::Out | Carried::Halted => Unfit::NotAccepted { steps },
    })
}

pub(crate) fn observations(seen: &[Seen]) -> Vec<Observation> {
    seen.iter().map(|seen| seen.observation.clone()).collect()
}

/// What came of a request.
enum RequestAnswer {
    Go,
    Came,
    Saw,
    Locked,
    Acted(Carried),
    Failed(Trouble),
}

/// A run on its way.
struct Drive<'a> {
    sites: &'a Sites,
    subject: Subject<'a>,
    /// Those that it is about now.
    images: Vec<VmImage>,
    clock: Clock,
    owner: Owner,
    /// Those that it has taken. There may be nothing to lock: then a copy that shows itself is one that is not locked.
    locks: Option<HeldLocks>,
    /// What VMs here were found to do with each image.
    users: Vec<Vec<UserHere>>,
    sights: Vec<Observation>,
    /// As of the last look without locks, or of the last change: what was due then is due under the locks, though to
    /// take them took long.
    patience: Patience,
    driven: Driven,
}

/// What the rules need to know beside what is seen.
pub(crate) fn setting<'a>(sites: &'a Sites, vm: Option<i32>, closing_id: &'a str) -> Setting<'a> {
    Setting {
        here: sites.here.name(),
        there: sites.there.name(),
        role: sites.residence().role,
        peer_unreachable: match sites.config.policy.peer_unreachable {
            config::PeerUnreachablePolicy::Allow => PeerUnreachable::Allow,
            config::PeerUnreachablePolicy::Refuse => PeerUnreachable::Refuse,
            config::PeerUnreachablePolicy::RefuseAfterReboot => PeerUnreachable::RefuseAfterReboot,
        },
        vm,
        closing_id,
    }
}

/// What a boot is about.
pub(crate) fn boot_of<'a>(sites: &Sites, vm: i32, images: &'a [VmImage]) -> Subject<'a> {
    Subject { vm: Some(vm), images, known: &[], order: None, limit: sites.config.policy.sync_timeout }
}

/// Drives a run to its end.
pub(crate) async fn drive(sites: &Sites, mut run: Run, subject: &Subject<'_>) -> Driven {
    let mut drive = Drive::new(sites, *subject);
    let mut answer = RequestAnswer::Go;
    loop {
        let id = sites.closing_id();
        let request = run.next(&setting(sites, subject.vm, &id), drive.event(&answer));
        tracing::debug!("{request:?}");
        answer = match request {
            Request::Look(depth) => drive.look(depth).await,
            Request::Claim { note_home } => drive.claim(note_home).await,
            Request::Lock(side) => drive.lock(side).await,
            Request::AskUsers(users) => drive.ask_users(users).await,
            Request::AskWriters => drive.ask_writers().await,
            Request::Narrow(images) => drive.narrow(&images).await,
            Request::Widen { taken_over } => drive.widen(taken_over).await,
            Request::Act { steps, findings } => drive.act(steps, findings).await,
            Request::Unlock => drive.unlock().await,
            Request::Wait(what) => drive.wait(what).await,
            Request::End { steps, findings, verdict } => match drive.act(steps, findings).await {
                RequestAnswer::Acted(_) => return drive.end(verdict).await,
                failed => failed,
            },
            Request::ForceAndEnd(steps) => match drive.force(steps).await {
                RequestAnswer::Acted(_) => return drive.end(Verdict::Forced).await,
                failed => failed,
            },
        };
    }
}

impl<'a> Drive<'a> {
    fn new(sites: &'a Sites, subject: Subject<'a>) -> Self {
        let driven = Driven {
            verdict: Verdict::Failed,
            seen: Vec::new(),
            steps: Vec::new(),
            mirrored: 0,
            due: Vec::new(),
            findings: Vec::new(),
            taken_over: Vec::new(),
            trouble: None,
        };
        Self {
            sites,
            subject,
            images: subject.images.to_vec(),
            clock: Clock::start(subject.limit, sites.environment.time.clone()),
            owner: sites.owner(),
            locks: None,
            users: Vec::new(),
            sights: Vec::new(),
            patience: Patience::Fresh,
            driven,
        }
    }

    fn event(&self, answer: &RequestAnswer) -> Event<'_> {
        let time = Time { patience: self.patience, lateness: self.clock.lateness() };
        match answer {
            RequestAnswer::Go => Event::Go,
            RequestAnswer::Came => Event::Came,
            RequestAnswer::Saw => Event::Saw(&self.sights, time),
            RequestAnswer::Locked => Event::Locked,
            RequestAnswer::Acted(carried) => Event::Acted(*carried, time),
            RequestAnswer::Failed(trouble) => Event::Failed(*trouble, time),
        }
    }

    fn saw(&mut self) -> RequestAnswer {
        self.sights = observations(&self.driven.seen);
        for (sight, users) in self.sights.iter_mut().zip(&self.users) {
            sight.uses_here = UsesHere::of(users, None);
        }
        RequestAnswer::Saw
    }

    fn failed(&mut self, error: RunError) -> RequestAnswer {
        let trouble = match &error {
            RunError::Ceph { error: CephError::PoolFull { .. }, .. } => Trouble::NoRoom,
            error if error.is_passing() => Trouble::Passing,
            _ => Trouble::Lasting,
        };
        tracing::info!("{error}");
        self.driven.trouble = Some(error);
        RequestAnswer::Failed(trouble)
    }

    async fn look(&mut self, depth: Depth) -> RequestAnswer {
        let seen = match &self.locks {
            None if matches!(depth, Depth::ToLock | Depth::Tidy) => {
                look::look(self.sites, &self.images, depth).await
            }
            None => look::observe(self.sites, &self.images, depth).await,
            Some(locks) => steps::observe_locked(self.sites, &self.images, depth, locks).await,
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

    async fn claim(&mut self, note_home: bool) -> RequestAnswer {
        let Driven { seen, mirrored, .. } = &mut self.driven;
        if note_home {
            futures::future::join_all(seen.iter().map(|seen| look::remember_home(self.sites, seen))).await;
        }
        *mirrored = seen.iter().filter(|seen| matches!(seen.observation.here, Here::Mirrored(_))).count();
        let of_mirrored = seen.iter().filter(|seen| seen.global_id.is_some()).map(|seen| &seen.image);
        match images::registered_here(self.sites, of_mirrored).await {
            Ok(found) => match found.into_iter().next() {
                None => self.saw(),
                Some((image, id)) => self.failed(RunError::Unfit(Unfit::RegisteredHere { image, id })),
            },
            Err(error) => self.failed(error),
        }
    }

    async fn lock(&mut self, side: Side) -> RequestAnswer {
        let locks = self.locks.get_or_insert_default();
        match steps::lock(self.sites, locks, side, &self.driven.seen, &self.owner).await {
            Ok(()) => RequestAnswer::Locked,
            Err(error) => self.failed(error),
        }
    }

    async fn ask_users(&mut self, users: Users) -> RequestAnswer {
        let vm = self.subject.vm;
        let seen = &mut self.driven.seen;
        let asked = match users {
            Users::Uses => users::users_of_each(self.sites, &self.images, self.subject.known)
                .await
                .map(|users| self.users = users),
            users => users::observe_users_here(self.sites, seen, users, vm).await,
        };
        if let Err(error) = asked {
            return self.failed(error);
        }
        if matches!(users, Users::Since(_)) {
            self.patience = self.clock.patience();
        }
        self.saw()
    }

    async fn ask_writers(&mut self) -> RequestAnswer {
        match force::observe_writers_there(&mut self.driven.seen).await {
            Ok(()) => self.saw(),
            Err(error) => self.failed(error),
        }
    }

    async fn narrow(&mut self, images: &[ImageSpec]) -> RequestAnswer {
        self.images.retain(|image| images.contains(image.spec()));
        self.clock = Clock::start(self.subject.limit, self.sites.environment.time.clone());
        self.unlock().await
    }

    async fn widen(&mut self, taken_over: bool) -> RequestAnswer {
        let Subject { vm, images, order, .. } = self.subject;
        if taken_over {
            for image in self.images.iter().map(VmImage::spec) {
                let attempt = Attempt {
                    vm,
                    image: Some(image),
                    ground: Some(Ground::OperatorForce),
                    ..Attempt::at("take-over", self.clock.started())
                };
                journal::note(self.sites, &attempt, Outcome::Done, order.map(ForceOrder::in_words));
                self.driven.taken_over.push(image.clone());
            }
        }
        self.images = images.to_vec();
        self.unlock().await
    }

    /// On whose behalf it acts: for the VM that it is about, or the first that uses an image.
    fn cause(&self) -> Cause<'_> {
        let user = || self.users.iter().flatten().next().map(|user| user.vm);
        Cause { vm: self.subject.vm.or_else(user), findings: &self.driven.findings, order: None }
    }

    async fn act(&mut self, steps: Vec<Step>, findings: Vec<Finding>) -> RequestAnswer {
        self.driven.findings = findings;
        if steps.is_empty() {
            return RequestAnswer::Acted(Carried::Out);
        }
        self.driven.due = steps;
        let Some(locks) = &self.locks else { return RequestAnswer::Acted(Carried::Halted) };
        let due = &self.driven.due;
        match steps::carry_out(self.sites, due, &self.driven.seen, locks, &self.cause()).await {
            Ok(Carried::Out) => {
                self.clock.progress();
                self.patience = self.clock.patience();
                self.driven.steps.extend(self.driven.due.iter().cloned());
                RequestAnswer::Acted(Carried::Out)
            }
            Ok(left) => RequestAnswer::Acted(left),
            Err(error) => self.failed(error),
        }
    }

    async fn force(&mut self, steps: Vec<Step>) -> RequestAnswer {
        self.driven.due = steps;
        let Some(locks) = &self.locks else { return RequestAnswer::Failed(Trouble::Lasting) };
        let cause = Cause { order: self.subject.order, ..self.cause() };
        match steps::force_in_turn(self.sites, &self.driven.due, &self.driven.seen, locks, &cause).await {
            Ok(()) => RequestAnswer::Acted(Carried::Out),
            Err(error) => self.failed(error),
        }
    }

    async fn wait(&mut self, what: Option<(WaitFor, ImageSpec)>) -> RequestAnswer {
        if let Some((what, image)) = &what {
            tracing::info!("waiting for {what} ({image})");
        }
        self.unlock().await;
        // while its token is on its way, nothing but that needs to be asked for
        let awaited = match &what {
            Some((WaitFor::Arrival, image)) => self.driven.seen.iter().find(|seen| seen.spec() == image),
            _ => None,
        };
        match awaited.and_then(|seen| Some((seen, seen.token_behind.as_ref()?))) {
            Some((seen, token)) => {
                match self.clock.wait_for(async || seen.has_new_token(token).await).await {
                    true => RequestAnswer::Came,
                    false => RequestAnswer::Go,
                }
            }
            None => {
                self.clock.wait_a_moment().await;
                RequestAnswer::Go
            }
        }
    }

    async fn unlock(&mut self) -> RequestAnswer {
        if let Some(locks) = self.locks.take() {
            locks.release().await;
        }
        RequestAnswer::Go
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
    fn what_was_not_carried_out_is_not_told_as_done() {
        let image: ImageSpec = "one/one-7".parse().unwrap();
        let due = vec![Step::Resync { image: image.clone() }];
        let findings = vec![Finding { image: image.clone(), rule: Rule::UpkeepSplitBrainedCopyHere }];
        let told = |due: &[Step], steps: &[Step]| {
            let driven = Driven {
                verdict: Verdict::Tidied,
                seen: Vec::new(),
                steps: steps.to_vec(),
                mirrored: 0,
                due: due.to_vec(),
                findings: findings.clone(),
                taken_over: Vec::new(),
                trouble: None,
            };
            driven.told_of(&image).unwrap().1
        };
        assert_eq!(told(&due, &due), "resync");
        assert_eq!(told(&due, &[]), "not done yet: resync");
        assert_eq!(told(&[], &[]), "settled meanwhile");
    }

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
