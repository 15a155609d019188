//! The release: a VM let go of its disks; give the images up, so that the other site can take them.

use super::boot::previous_token;
use crate::advice::Place;
use crate::decision::{Decision, Finding, Judgement, Rule, Side, Step, WaitFor};
use crate::home::{Belongs, Residence, SiteRole};
use crate::image::ImageSpec;
use crate::sight::{Copy, Here, Mode, Observation, Report, Role, There, TokenSeen};
use crate::token::{Mark, Token};
use crate::{Locks, Patience};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// All that a release needs to know beside the observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release<'a> {
    /// This site's name.
    pub here: &'a str,
    /// The peer's name.
    pub there: &'a str,
    /// What this site is to images that say nothing of a home.
    pub role: SiteRole,
    /// The VM that let go.
    pub vm: i32,
    /// Whether there is time left to wait for the other copy.
    pub patience: Patience,
    /// The locks held while the observations were made.
    pub locks: Locks,
    /// The random part of the closed token.
    pub closing_id: &'a str,
}

/// Why an image stays primary here for now. Reconcile finishes the handoff.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pending {
    /// The image.
    #[serde(serialize_with = "as_text")]
    pub image: ImageSpec,
    /// Such as `rbd-mirror on site-a is down`.
    pub cause: String,
}

fn as_text<T: core::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A release's judgement: the decision, and what stays pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseJudgement {
    /// The decision and the rules.
    pub judgement: Judgement,
    /// Images that stay primary here.
    pub pending: Vec<Pending>,
}

enum ReleaseRuling {
    Settled,
    Pending(Pending),
    Act(Vec<Step>),
    Wait,
}

impl Release<'_> {
    /// Judges the images that a VM let go of, each by itself: one that cannot be given up yet does not keep the
    /// others here.
    pub fn judge(&self, observations: &[Observation]) -> ReleaseJudgement {
        let (mut findings, mut pending, mut steps, mut waiting) = (vec![], vec![], vec![], None);
        for observation in observations {
            let (rule, verdict) = self.judge_image(observation);
            findings.push(Finding { image: observation.image.clone(), rule });
            match verdict {
                ReleaseRuling::Settled => {}
                ReleaseRuling::Pending(why) => pending.push(why),
                ReleaseRuling::Act(more) => steps.extend(more),
                ReleaseRuling::Wait => waiting = waiting.or(Some(observation.image.clone())),
            }
        }
        let decision = match waiting {
            _ if !steps.is_empty() => Decision::Act(steps),
            Some(image) => Decision::Wait { what: WaitFor::Follow, image },
            None => Decision::Done,
        };
        ReleaseJudgement { judgement: Judgement { decision, findings }, pending }
    }

    fn judge_image(&self, observation: &Observation) -> (Rule, ReleaseRuling) {
        let here = match self.judge_here(observation) {
            Ok(here) => here,
            Err(judged) => return judged,
        };
        let there = match self.judge_there(observation, here) {
            Ok(there) => there,
            Err(judged) => return judged,
        };
        let Some(term) = here.token.token().filter(|token| token.is_open_by(self.here)) else {
            return self.judge_without_term(observation, here, there);
        };
        let is_marked = here.release.as_ref().is_some_and(|mark| mark.holds_in(term));
        // should the rest not be done, the mark has reconcile finish it
        let mut steps = match is_marked {
            true => Vec::new(),
            false => {
                let mark = Mark::of(term, self.vm);
                vec![Step::MarkRelease { image: observation.image.clone(), mark }]
            }
        };
        if there.token.token() == Some(term) && !there.resync.is_pending() {
            let token = Token::close_after(Some(term), self.here, self.closing_id);
            steps.push(Step::WriteToken { at: Side::Here, image: observation.image.clone(), token });
            steps.push(self.demote(observation));
            return (Rule::ReleaseHandOver, ReleaseRuling::Act(steps));
        }
        if !is_marked {
            return (Rule::ReleaseMark, ReleaseRuling::Act(steps));
        }
        self.judge_not_followed(observation, here, there)
    }

    /// The copy here, if it is to be given up at all.
    fn judge_here<'a>(&self, observation: &'a Observation) -> Result<&'a Copy, (Rule, ReleaseRuling)> {
        let here = match &observation.here {
            Here::Absent | Here::NotMirrored => {
                return Err((Rule::ReleaseNotMirrored, ReleaseRuling::Settled));
            }
            Here::Mirrored(copy) if copy.role == Role::NonPrimary => {
                return Err((Rule::ReleaseAlreadyDone, ReleaseRuling::Settled));
            }
            Here::Mirrored(copy) => copy,
        };
        let is_unread_there = matches!(&observation.there, There::Mirrored(there) if there.token.is_unread());
        if here.token.is_unread() || is_unread_there {
            let cause = "its handoff token is not understood; see: onemirror plan".to_owned();
            return Err((Rule::ReleaseTokenUnread, self.pending(observation, cause)));
        }
        let residence = Residence { here: self.here, there: self.there, role: self.role };
        match residence.of(here, observation.made_here) {
            Belongs::Here => return Err((Rule::ReleaseAtHome, ReleaseRuling::Settled)),
            Belongs::Unknown => {
                let cause = format!("where it belongs is not known; decide: onemirror rehome {}", self.vm);
                return Err((Rule::ReleaseHomeUnknown, self.pending(observation, cause)));
            }
            Belongs::There => {}
        }
        if let Some(user) = observation.used_here_by {
            return Err((
                Rule::ReleaseInUseHere,
                self.pending(observation, format!("VM {user} here uses it")),
            ));
        }
        if here.role == Role::HalfDemoted {
            return Err((Rule::ReleaseHalfDemoted, ReleaseRuling::Act(vec![self.demote(observation)])));
        }
        Ok(here)
    }

    /// The copy there, if the one here can be handed over to it.
    fn judge_there<'a>(
        &self,
        observation: &'a Observation,
        here: &Copy,
    ) -> Result<&'a Copy, (Rule, ReleaseRuling)> {
        let there = match &observation.there {
            // promoted by force, or by hand, and never booted on: a token of its own would have the other site's writes
            // thrown away
            There::NotAsked | There::Unreachable | There::Denied(_)
                if here.token.token().is_some_and(|token| token.is_open_by(self.there)) =>
            {
                let cause = format!(
                    "{} {}, and no boot here went through its gate",
                    self.there,
                    observation.there.why_unseen()
                );
                return Err((Rule::ReleaseNeverBooted, self.pending(observation, cause)));
            }
            There::NotAsked | There::Unreachable | There::Denied(_) => {
                let cause = format!("{} {}", self.there, observation.there.why_unseen());
                return Err(self.keep(observation, here, Rule::ReleasePeerUnreachable, cause));
            }
            There::Absent | There::Apart(_) => {
                let cause = format!("{} has no copy yet", self.there);
                return Err(self.keep(observation, here, Rule::ReleasePeerHasNoCopy, cause));
            }
            There::Mirrored(copy) if copy.role == Role::Primary => {
                let cause = format!("it is primary on {} too (split brain)", self.there);
                return Err((Rule::ReleaseSplitBrain, self.pending(observation, cause)));
            }
            There::Mirrored(copy) if copy.role == Role::HalfDemoted => {
                let cause = format!("the copy on {} is half demoted", self.there);
                return Err((Rule::ReleasePending, self.pending(observation, cause)));
            }
            There::Mirrored(copy) => copy,
        };
        if here.resync.is_pending() {
            let cause = "a resync of it was asked for before it became primary here".to_owned();
            return Err((Rule::ReleaseResyncAsked, self.pending(observation, cause)));
        }
        if there.token.sequence() > here.token.sequence() {
            let cause = format!("it is stale here: {} wrote to it last", self.there);
            return Err((Rule::ReleaseStaleHere, self.pending(observation, cause)));
        }
        Ok(there)
    }

    /// No token says yet that this site holds the image.
    fn judge_without_term(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
    ) -> (Rule, ReleaseRuling) {
        match (here.token.token(), there.token.token()) {
            // a release that was interrupted between token and demotion, of a token that the other copy follows
            (Some(closed), Some(seen))
                if closed.is_closed()
                    && closed.site == self.here
                    && !there.resync.is_pending()
                    && (seen == closed
                        || seen.is_open_by(self.here)
                            && seen.sequence.checked_add(1) == Some(closed.sequence)) =>
            {
                (Rule::ReleaseFinish, ReleaseRuling::Act(vec![self.demote(observation)]))
            }
            _ => (Rule::ReleaseOpenToken, ReleaseRuling::Act(self.open_steps(observation, here))),
        }
    }

    /// The other copy does not show this site's token yet.
    fn judge_not_followed(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
    ) -> (Rule, ReleaseRuling) {
        let cause = match &there.report {
            Report::Syncing(Some(percent)) => format!("{} is still copying it: {percent} %", self.there),
            Report::Syncing(None) => format!("{} is still copying it", self.there),
            Report::SplitBrain => {
                format!("the copy on {} is split-brained and has to be copied again", self.there)
            }
            Report::Down => format!("rbd-mirror on {} is down", self.there),
            Report::NoRoom(fullness) => {
                let pool = observation.image.pool();
                let cause = format!(
                    "pool {pool} of {} is full ({fullness}); {}",
                    self.there,
                    fullness.advice(pool, Place::There(self.there.to_owned()))
                );
                return (Rule::ReleaseNoRoomThere, self.pending(observation, cause));
            }
            Report::Replaying | Report::Stopped | Report::Other => {
                format!("the copy on {} does not follow yet", self.there)
            }
        };
        match there.report {
            // who opened the token may have been killed before the snapshot that carries it
            Report::Replaying | Report::Stopped | Report::Other
                if here.mode == Mode::Snapshot && self.patience == Patience::Waning =>
            {
                let carry = vec![Step::MirrorSnapshot { at: Side::Here, image: observation.image.clone() }];
                (Rule::ReleaseCarryToken, ReleaseRuling::Act(carry))
            }
            Report::Replaying | Report::Stopped | Report::Other if self.patience != Patience::Exhausted => {
                (Rule::ReleaseWaitForFollower, ReleaseRuling::Wait)
            }
            _ => (Rule::ReleasePending, self.pending(observation, cause)),
        }
    }

    /// Stays primary; the mark tells reconcile to go on.
    fn keep(
        &self,
        observation: &Observation,
        here: &Copy,
        rule: Rule,
        cause: String,
    ) -> (Rule, ReleaseRuling) {
        let Some(term) = here.token.token().filter(|token| token.is_open_by(self.here)) else {
            return (Rule::ReleaseOpenToken, ReleaseRuling::Act(self.open_steps(observation, here)));
        };
        if here.release.as_ref().is_some_and(|mark| mark.holds_in(term)) {
            return (rule, self.pending(observation, cause));
        }
        let mark = Mark::of(term, self.vm);
        (
            Rule::ReleaseMark,
            ReleaseRuling::Act(vec![Step::MarkRelease { image: observation.image.clone(), mark }]),
        )
    }

    fn open_steps(&self, observation: &Observation, here: &Copy) -> Vec<Step> {
        let image = &observation.image;
        let token = Token::open_after(previous_token(here, &observation.there), self.here);
        let mut steps = vec![Step::WriteToken { at: Side::Here, image: image.clone(), token }];
        if here.mode == Mode::Snapshot {
            steps.push(Step::MirrorSnapshot { at: Side::Here, image: image.clone() });
        }
        steps
    }

    fn demote(&self, observation: &Observation) -> Step {
        Step::Demote { at: Side::Here, image: observation.image.clone() }
    }

    fn pending(&self, observation: &Observation, cause: String) -> ReleaseRuling {
        ReleaseRuling::Pending(Pending { image: observation.image.clone(), cause })
    }
}

/// Whether a disk that is deleted only so that its VM starts anew (`recover --recreate`) is kept. A mirrored one is, but for
/// a volatile one (`made_anew`) that no VM was ever booted on: it holds nothing, and would be in the way of the new one.
pub fn kept_at_recreate(here: &Here, made_anew: bool) -> bool {
    match here {
        Here::Absent | Here::NotMirrored => false,
        Here::Mirrored(copy) => {
            let unused = copy.role == Role::Primary && copy.token == TokenSeen::None && copy.booted.is_none();
            !made_anew || !unused
        }
    }
}
