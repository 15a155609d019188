//! Force: may an operator's `--force` go on, and how does it get the images with the least loss?

use super::boot::{BootKind, Gate, aside};
use crate::advice::{Advice, Place};
use crate::decision::{Decision, Refusal, Rule, Side, Step};
use crate::image::ImageSpec;
use crate::sight::{Copy, Denial, Domain, Here, Mode, Observation, PeerVm, Role, There, TokenSeen};
use crate::token::{Mark, Token};
use crate::{Locks, Patience};
use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What of the peer's front-end does not hinder a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PassOver {
    /// All of it counts: no operator forces.
    Nothing,
    /// `--force`: that it does not answer, or that nobody knows whether its VM lives. Who writes there is cut off by
    /// the demotion of the copy there.
    Doubts,
    /// `--site-is-off`: an operator knows better than whatever it says.
    Everything,
}

/// All that a force needs to know beside the observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Force<'a> {
    /// The gate that the VM would go through, as without force.
    pub gate: Gate<'a>,
    /// The operator said that the other site is off.
    pub site_is_off: bool,
    /// Images whose copy there somebody has open for writing. Only looked up where the operator said that the site is off.
    pub open_there: &'a BTreeSet<ImageSpec>,
}

/// How one image is had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HowForced {
    /// The gate lets it pass.
    Nothing,
    /// The copy there answers: it is demoted there, and what it has arrives first.
    TakeOver,
    /// By a forced promotion. What has not arrived is lost.
    Promote {
        /// The copy there is demoted before, so that nobody writes to both.
        fence: bool,
    },
    /// Not at all.
    Refuse(Refusal),
}

/// What comes of a force, of all images of a VM together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forced {
    /// One is refused, so none is touched.
    Refuse(Refusal),
    /// These answer, and are taken over first.
    TakeOver(Vec<ImageSpec>),
    /// These steps, one image after the other.
    Act(Vec<Step>),
}

impl Force<'_> {
    /// Decides about all images of a VM.
    pub fn decide(&self, observations: &[Observation]) -> Forced {
        let forcings = self.judge(observations);
        let (mut answering, mut steps) = (Vec::new(), Vec::new());
        for (observation, forcing) in observations.iter().zip(forcings) {
            match forcing {
                HowForced::Refuse(refusal) => return Forced::Refuse(refusal),
                HowForced::TakeOver => answering.push(observation.image.clone()),
                HowForced::Promote { fence } => steps.extend(self.steps(observation, fence)),
                HowForced::Nothing => {}
            }
        }
        if answering.is_empty() { Forced::Act(steps) } else { Forced::TakeOver(answering) }
    }

    /// Makes the copy here primary, if it is not, and opens a term that outranks what never arrived.
    fn steps(&self, observation: &Observation, fence: bool) -> Vec<Step> {
        let Here::Mirrored(copy) = &observation.here else { return Vec::new() };
        let newest = match &observation.there {
            There::Mirrored(there) => there.token.last().max(copy.token.last()),
            _ => copy.token.last(),
        };
        let token = Token::forced_after(newest, self.gate.here);
        let image = || observation.image.clone();
        let mut steps = Vec::new();
        if fence {
            steps.push(Step::Demote { at: Side::There, image: image() });
        }
        if copy.role == Role::HalfDemoted {
            // Ceph takes it for promoted already
            steps.push(Step::Demote { at: Side::Here, image: image() });
        }
        if copy.role != Role::Primary {
            steps.push(Step::PromoteByForce { image: image() });
        }
        // the note first: a repeat of a run that was killed after the token finds nothing to force any more
        steps.push(Step::MarkForced { image: image(), mark: Mark::of(&token, self.gate.vm) });
        steps.push(Step::OpenByForce { image: image(), token });
        if copy.mode == Mode::Snapshot {
            steps.push(Step::MirrorSnapshot { at: Side::Here, image: image() });
        }
        steps
    }

    /// Judges all images of a VM, in their order. If one is refused none may be touched.
    pub fn judge(&self, observations: &[Observation]) -> Vec<HowForced> {
        let mut all: Vec<_> = observations.iter().map(|observation| self.judge_image(observation)).collect();
        // what is taken over as it is now and what was forced earlier are no VM
        if let Some((place, refusal)) = self.gate.of_different_ages(observations)
            && let Some(forcing) = all.get_mut(place)
        {
            match (refusal.rule, &forcing) {
                // what the other site's copy has since is not there to be had
                (Rule::OfTwoAges, _) => *forcing = HowForced::Refuse(refusal),
                (_, HowForced::TakeOver) if self.site_is_off => *forcing = HowForced::Promote { fence: true },
                (_, HowForced::TakeOver) => *forcing = HowForced::Refuse(refusal),
                (_, HowForced::Nothing | HowForced::Promote { .. } | HowForced::Refuse(_)) => {}
            }
        }
        all
    }

    fn judge_image(&self, observation: &Observation) -> HowForced {
        let copy = match &observation.here {
            Here::NotMirrored => return HowForced::Nothing,
            Here::Absent => match self.refused_by_gate(observation, PassOver::Nothing, Patience::Exhausted) {
                None if self.gate.is_to_be_made(observation) => return HowForced::Nothing,
                // a copy that answers may still arrive
                Some(refusal) if matches!(observation.there, There::Mirrored(_)) && !self.site_is_off => {
                    return HowForced::Refuse(refusal);
                }
                _ => {
                    let advice = self.instead_of(observation);
                    let refusal = refusal(observation, Rule::ForceNothingHere, "has no copy here", advice);
                    return HowForced::Refuse(refusal);
                }
            },
            Here::Mirrored(copy) => copy,
        };
        let Some(refusal) = self.refused_by_gate(observation, PassOver::Nothing, Patience::Exhausted) else {
            return HowForced::Nothing;
        };
        if let Some(refusal) = self.unfit(observation, copy).or_else(|| self.hindered_there(observation)) {
            return HowForced::Refuse(refusal);
        }
        match &observation.there {
            // who was not asked could answer anything
            There::NotAsked => HowForced::Refuse(refusal),
            _ if observation.vm_there == PeerVm::NotAsked => HowForced::Refuse(refusal),
            There::Mirrored(there) => self.judge_answered(observation, there),
            There::Unreachable | There::Denied(_) | There::Absent | There::Apart(_) => {
                HowForced::Promote { fence: false }
            }
        }
    }

    /// What to do about an image that is not here.
    fn instead_of(&self, observation: &Observation) -> Advice {
        match self.gate.from_set_aside(observation) {
            Some(advice) => advice.when("there is nothing to promote; what there is to go on with"),
            None => Advice::decide("there is nothing to promote; restore it from a backup"),
        }
    }

    /// The copy there answers, and no VM there hinders.
    fn judge_answered(&self, observation: &Observation, there: &Copy) -> HowForced {
        let pass_over = if self.site_is_off { PassOver::Everything } else { PassOver::Doubts };
        let Some(refusal) = self.refused_by_gate(observation, pass_over, self.gate.patience) else {
            return HowForced::TakeOver;
        };
        // nobody but an operator can tell which copy counts
        let undecided = matches!(
            refusal.rule,
            Rule::SplitBrainUndecided | Rule::TokenConflict | Rule::NoProof | Rule::TokenUnreadable
        );
        match &observation.vm_there {
            PeerVm::None | PeerVm::Inactive { .. } if undecided => HowForced::Promote { fence: false },
            _ if self.site_is_off => HowForced::Promote { fence: there.role != Role::NonPrimary },
            _ => HowForced::Refuse(self.cannot_follow(refusal)),
        }
    }

    /// The copy there answers, so nothing that it has is given up for a mere `--force`.
    fn cannot_follow(&self, refusal: Refusal) -> Refusal {
        let advice = match refusal.rule {
            Rule::StaleLeftoverHere | Rule::SplitBrainStaleHere => {
                self.without_force().when("to have it copied back")
            }
            _ => refusal.advice,
        };
        let off = format!("if {} is off and what it has may be lost", self.gate.there);
        Refusal { advice: advice.and(self.gate.force_past_all().when(off)), ..refusal }
    }

    /// What the gate would refuse, if anything.
    fn refused_by_gate(
        &self,
        observation: &Observation,
        pass_over: PassOver,
        patience: Patience,
    ) -> Option<Refusal> {
        let gate =
            Gate { pass_over, patience, boot: BootKind::Cold, locks: Locks::Both, ..self.gate.clone() };
        match gate.judge(core::slice::from_ref(observation)).decision {
            Decision::Refuse { refusal, .. } => Some(refusal),
            Decision::Done | Decision::LockThere | Decision::Act(_) | Decision::Wait { .. } => None,
        }
    }

    /// What no force makes good.
    fn unfit(&self, observation: &Observation, copy: &Copy) -> Option<Refusal> {
        let (image, there) = (&observation.image, self.gate.there);
        if observation.owned_by_both {
            return Some(refusal(
                observation,
                Rule::TwoVmsOwnTheImage,
                format!("is a disk of another VM, on {there}, by the same name"),
                Advice::decide("the two sites need images with different names"),
            ));
        }
        if let There::Apart(other) = &observation.there
            && (copy.role != Role::Primary || other.is_forced_past(&copy.token))
        {
            // a VM may run on that one
            return Some(refusal(
                observation,
                Rule::ForceApart,
                format!("is on {there}, which answers, another image than the one here"),
                Advice::command(self.over_there(), aside(image)).when("to keep the one here"),
            ));
        }
        if copy.token == TokenSeen::Newer {
            let cause = format!("was handed over by a later onemirror than that of {}", self.gate.here);
            let advice = Advice::wait(format!("upgrade onemirror on {} and try again", self.gate.here));
            return Some(refusal(observation, Rule::TokenNewer, cause, advice));
        }
        if copy.token == TokenSeen::Unreadable {
            let advice = self.gate.without_token(observation, Side::Here);
            return Some(refusal(
                observation,
                Rule::TokenUnreadable,
                "has an unreadable handoff token here",
                advice,
            ));
        }
        may_be_half_copied(copy).then(|| {
            let promote = format!("rbd mirror image promote {image} --force");
            let when = format!("if it was complete all the same (rbd mirror image status {image})");
            let advice = Advice::command(Place::Here, promote).when(when);
            refusal(
                observation,
                Rule::ForceHalfCopied,
                "may be half copied: it has no handoff token yet",
                advice,
            )
        })
    }

    /// A VM there that may use the disk, or an answer that hides whether one does.
    fn hindered_there(&self, observation: &Observation) -> Option<Refusal> {
        let there = self.gate.there;
        if self.site_is_off {
            return self.open_there.contains(&observation.image).then(|| {
                refusal(
                    observation,
                    Rule::ForceOpenThere,
                    format!("is open for writing on {there}, whose cluster answers, so it is not off"),
                    Advice::wait(format!(
                        "close it there; who has it open is told by: rbd status {}",
                        observation.image
                    )),
                )
            });
        }
        let answers = matches!(observation.there, There::Mirrored(_));
        let off = self.gate.force_past_all().when(format!("if {there} is off for good"));
        match (&observation.vm_there, &observation.there) {
            (PeerVm::Active { vm, state, domain: Domain::MayLive, way_out }, _) => Some(refusal(
                observation,
                Rule::ForceInUseThere,
                format!("is in use on {there}: VM {vm} is {state}"),
                way_out.advice(*vm, self.over_there()).and(self.without_force().when("then")).and(off),
            )),
            (PeerVm::LettingGo { vm, state }, _) => Some(refusal(
                observation,
                Rule::ForceInUseThere,
                format!("is in use on {there}: VM {vm} is {state}"),
                Advice::wait("it is on its way out, try again").and(off),
            )),
            // its demotion there would cut off who may live
            (PeerVm::Active { vm, state, domain: Domain::Lost, .. }, _) if !answers => Some(refusal(
                observation,
                Rule::ForceMayBeInUseThere,
                format!("may be in use on {there}: VM {vm} is {state}"),
                self.gate
                    .force_past_all()
                    .when("its host does not report, so nobody knows; once that host is off for certain"),
            )),
            (_, There::Denied(denial)) => Some(self.denied(observation, Rule::ForcePeerDenied, denial)),
            (PeerVm::Denied(denial), _) => {
                Some(self.denied(observation, Rule::ForcePeerFrontEndDenied, denial))
            }
            _ => None,
        }
    }

    fn denied(&self, observation: &Observation, rule: Rule, denial: &Denial) -> Refusal {
        let there = self.gate.there;
        let who = match rule {
            Rule::ForcePeerFrontEndDenied => format!("the front-end of {there}"),
            _ => there.to_owned(),
        };
        let cause = format!("cannot be forced: {who} {}", denial.cause.in_words());
        let put_right = Advice::wait(format!("put that right ({})", denial.detail));
        let off = self.gate.force_past_all().when(format!("if {there} is off for good"));
        refusal(observation, rule, cause, put_right.and(off))
    }

    fn over_there(&self) -> Place {
        Place::There(self.gate.there.to_owned())
    }

    fn without_force(&self) -> Advice {
        Advice::command(Place::Here, format!("onemirror failover {}", self.gate.vm))
    }
}

fn refusal(observation: &Observation, rule: Rule, cause: impl Into<String>, advice: Advice) -> Refusal {
    Refusal { image: observation.image.clone(), cause: cause.into(), advice, rule }
}

/// In journal mode Ceph promotes by force what is not even copied whole. It copies metadata last (seen on Ceph 16.2), and
/// every VM that was started has left a token.
fn may_be_half_copied(copy: &Copy) -> bool {
    copy.role == Role::NonPrimary && copy.mode == Mode::Journal && copy.token == TokenSeen::None
}
