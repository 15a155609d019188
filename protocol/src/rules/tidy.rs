//! Upkeep: a host, a front-end or the timer came round; put right what events left undone.

use super::boot::{begin_term, carried, give_way, opening_token, room_advice, term_past};
use super::take_up::{is_primary_nowhere, take_up_advice};
use crate::advice::{Advice, Place};
use crate::decision::{Finding, Rule, Side, Step};
use crate::home::{Belongs, Home, Residence, SiteRole};
use crate::sight::{Copy, Domain, Here, Observation, PeerVm, Report, Resync, Role, There};
use crate::token::Mark;
use crate::users::UserHere;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// All that upkeep needs to know beside the observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upkeep<'a> {
    /// This site's name.
    pub here: &'a str,
    /// The peer's name.
    pub there: &'a str,
    /// What this site is to images that say nothing of a home.
    pub role: SiteRole,
    /// A VM of this site may be using the image, or its saved memory belongs to it.
    pub in_use_here: bool,
    /// A VM of this site has it, in whatever state.
    pub has_user_here: bool,
    /// The VM of this site that runs on it (RUNNING, not only booting).
    pub running_here: Option<i32>,
    /// The VM of this site that was last booted on it, if that one is gone for good and the image is to be handed over
    /// then. Its end may have come where nothing could be noted in the image.
    pub ended_here: Option<i32>,
}

/// What to do about one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing.
    Nothing,
    /// Carry these out, under both locks.
    Act(Vec<Step>),
    /// Go on with the release that this VM's end asked for.
    Release {
        /// The VM, by its id here.
        vm: i32,
    },
    /// The image is given up: have the VM there started, whatever state it was left in.
    PassOn,
    /// Only an operator can tell; shown, never done.
    Undecided,
}

/// The decision about one image and the rule that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpkeepJudgement {
    /// What to do.
    pub task: Task,
    /// Why.
    pub finding: Finding,
}

/// What is wrong where only an operator can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// What is so.
    pub cause: String,
    /// What to do about it.
    pub advice: Advice,
}

impl Upkeep<'_> {
    /// Why an image is left to somebody, by the rule that did not decide. `users` are the VMs here that have it.
    pub fn undecided(&self, rule: Rule, observation: &Observation, users: &[UserHere]) -> Undecided {
        let there = self.there;
        let undecided = |cause: String, advice| Undecided { cause, advice };
        match (rule, users.iter().find(|user| user.in_use)) {
            (Rule::UpkeepInUseHere, Some(UserHere { vm, way_out, .. })) => undecided(
                format!("stale here, and VM {vm} uses it, so it cannot be copied back"),
                way_out.stale_advice(*vm, Place::Here),
            ),
            (Rule::UpkeepStaleInUseThere, _) => self.stale_in_use_there(&observation.vm_there),
            (Rule::UpkeepTokenUnread, _) => undecided(
                "its handoff token is not understood".into(),
                Advice::decide(format!("whose it is; {}", told_by_plan(users))),
            ),
            (Rule::UpkeepNoRoomToKeep, _) => {
                undecided("stale here, and it may hold writes of its own".into(), room_advice(observation))
            }
            (Rule::UpkeepForcedAndNeverBootedThere, _) => undecided(
                format!("taken over by force on {there}, and no VM was booted there"),
                Advice::decide("start the VM on the site where it belongs now"),
            ),
            (Rule::UpkeepPrimaryNowhere, _) => self.primary_nowhere(observation),
            _ => undecided(
                "split brain: primary on both sites".into(),
                Advice::decide(format!("which copy to keep; {}", told_by_plan(users))),
            ),
        }
    }

    /// Outranked by the copy here, and a VM of the other site writes on to it.
    fn stale_in_use_there(&self, vm_there: &PeerVm) -> Undecided {
        let there = self.there;
        match vm_there {
            PeerVm::Active { vm, way_out, .. } => Undecided {
                cause: format!("stale on {there}, and VM {vm} there uses it, so two VMs may write"),
                advice: way_out.advice(*vm, Place::There(there.into())),
            },
            _ => Undecided {
                cause: format!("stale on {there}, and a VM there uses it"),
                advice: Advice::decide(format!("which one; see onemirror list on {there}")),
            },
        }
    }

    /// An image that nobody would ever take.
    fn primary_nowhere(&self, observation: &Observation) -> Undecided {
        let (here, there) = (self.here, self.there);
        let belongs = match &observation.here {
            Here::Mirrored(copy) => {
                Residence { here, there, role: self.role }.of(copy, observation.made_here)
            }
            Here::Absent | Here::NotMirrored => Belongs::Unknown,
        };
        let waits = match belongs {
            Belongs::Here => "no VM here waits for it".into(),
            Belongs::There => format!("no VM of {there} waits for it"),
            Belongs::Unknown => "where it belongs is not known".into(),
        };
        Undecided {
            cause: format!("primary on neither site, and {waits}"),
            advice: take_up_advice(&observation.image, belongs, here, there),
        }
    }

    /// Judges one image.
    pub fn judge(&self, observation: &Observation) -> UpkeepJudgement {
        let (rule, task) = self.judge_image(observation);
        UpkeepJudgement { task, finding: Finding { image: observation.image.clone(), rule } }
    }

    fn judge_image(&self, observation: &Observation) -> (Rule, Task) {
        let nothing = (Rule::UpkeepNothing, Task::Nothing);
        let Here::Mirrored(here) = &observation.here else { return nothing };
        let is_unread_there = match &observation.there {
            There::Mirrored(there) => there.token.is_unread(),
            There::NotAsked | There::Unreachable | There::Denied(_) | There::Absent | There::Apart(_) => {
                false
            }
        };
        if here.token.is_unread() || is_unread_there {
            return (Rule::UpkeepTokenUnread, Task::Undecided);
        }
        match (here.role, &observation.there) {
            (Role::HalfDemoted, _) if self.in_use_here => (Rule::UpkeepInUseHere, Task::Undecided),
            (Role::HalfDemoted, _) => {
                let demote = Step::Demote { at: Side::Here, image: observation.image.clone() };
                (Rule::UpkeepHalfDemoted, Task::Act(vec![demote]))
            }
            // the other site's own upkeep ends that
            (Role::Primary, There::Mirrored(there)) if there.role == Role::HalfDemoted => nothing,
            (Role::Primary, There::Mirrored(there)) if there.role == Role::Primary => {
                self.judge_split_brain(observation, here, there)
            }
            (Role::Primary, There::Mirrored(there)) if there.token.sequence() > here.token.sequence() => {
                if self.in_use_here {
                    return (Rule::UpkeepInUseHere, Task::Undecided);
                }
                let demote = Step::Demote { at: Side::Here, image: observation.image.clone() };
                (Rule::UpkeepStaleLeftoverHere, Task::Act(vec![demote]))
            }
            (Role::Primary, _) => self.judge_primary(observation, here),
            (Role::NonPrimary, There::Mirrored(there)) if there.role == Role::Primary => {
                let following = there.token.token().is_some() && here.token == there.token;
                let newer_there = there.token.sequence() > here.token.sequence();
                let asked = here.resync == Resync::Asked;
                if here.report == Report::SplitBrain
                    && newer_there
                    && !following
                    && !asked
                    && !self.in_use_here
                {
                    if here.is_given_up_to_a_vain_force(self.here, there) {
                        return (Rule::UpkeepForcedAndNeverBootedThere, Task::Undecided);
                    }
                    return give_way_or_tell(observation, here, there, Rule::UpkeepSplitBrainedCopyHere);
                }
                nothing
            }
            (Role::NonPrimary, There::Mirrored(_)) if self.is_nobodys(observation, here) => {
                (Rule::UpkeepPrimaryNowhere, Task::Undecided)
            }
            (Role::NonPrimary, There::Mirrored(_)) => {
                let given_up = released_by(here, self.here);
                match observation.vm_there {
                    PeerVm::None => nothing,
                    _ if given_up && !self.in_use_here => (Rule::UpkeepPassOn, Task::PassOn),
                    _ => nothing,
                }
            }
            (Role::NonPrimary, _) => nothing,
        }
    }

    /// Primary nowhere, and no VM of the site that it belongs to waits for it: nobody would ever take it.
    fn is_nobodys(&self, observation: &Observation, here: &Copy) -> bool {
        let residence = Residence { here: self.here, there: self.there, role: self.role };
        let belongs = residence.of(here, observation.made_here);
        let nobody_waits = match (belongs, &observation.vm_there) {
            (Belongs::There, PeerVm::None) => true,
            (Belongs::Unknown, PeerVm::None) => !self.has_user_here,
            (Belongs::Here, PeerVm::None | PeerVm::Inactive { .. }) => !self.has_user_here,
            _ => false,
        };
        nobody_waits && !self.in_use_here && is_primary_nowhere(observation)
    }

    fn judge_split_brain(&self, observation: &Observation, here: &Copy, there: &Copy) -> (Rule, Task) {
        match here.token.sequence().cmp(&there.token.sequence()) {
            core::cmp::Ordering::Less if there.is_forced_and_never_booted() => (
                Rule::UpkeepForcedAndNeverBootedThere,
                self.judge_never_booted_there(observation, here, there),
            ),
            core::cmp::Ordering::Less if self.in_use_here => (Rule::UpkeepInUseHere, Task::Undecided),
            core::cmp::Ordering::Less => {
                give_way_or_tell(observation, here, there, Rule::UpkeepSplitBrainStaleHere)
            }
            // the other site's own upkeep cleans up, once no VM uses the copy there
            core::cmp::Ordering::Greater => match observation.vm_there {
                PeerVm::Active { domain: Domain::MayLive, .. } => {
                    (Rule::UpkeepStaleInUseThere, Task::Undecided)
                }
                _ => (Rule::UpkeepNothing, Task::Nothing),
            },
            core::cmp::Ordering::Equal => (Rule::UpkeepSplitBrainUndecided, Task::Undecided),
        }
    }

    /// Nobody followed the force there: a VM that runs here goes on, and outranks it. While nobody runs, nobody holds the image.
    fn judge_never_booted_there(&self, observation: &Observation, here: &Copy, there: &Copy) -> Task {
        match (self.running_here, &observation.vm_there) {
            (Some(vm), PeerVm::None | PeerVm::Inactive { .. }) => {
                Task::Act(term_past(there, here, &observation.image, self.here, vm))
            }
            _ => Task::Undecided,
        }
    }

    /// Primary here, and not there.
    fn judge_primary(&self, observation: &Observation, here: &Copy) -> (Rule, Task) {
        let term = here.token.token().filter(|token| token.is_open_by(self.here));
        let residence = Residence { here: self.here, there: self.there, role: self.role };
        // written for what the image was before; by now the other site has to know it as well
        if matches!(here.home, Home::At { is_former: true, .. })
            && let Some(step) = residence.step(observation, here)
        {
            let mut steps = vec![step];
            steps.extend(carried(here, &observation.image));
            return (Rule::UpkeepHome, Task::Act(steps));
        }
        if !self.in_use_here {
            let is_away = residence.of(here, observation.made_here) == Belongs::There;
            let asked = here.release.as_ref().filter(|mark| match term {
                Some(term) => mark.holds_in(term),
                // interrupted between token and demotion
                None => released_by(here, self.here),
            });
            let ended = here.booted.as_ref().filter(|mark| {
                term.is_some_and(|term| mark.holds_in(term)) && self.ended_here == Some(mark.vm)
            });
            return match asked.or(ended).filter(|_| is_away) {
                Some(mark) => (Rule::UpkeepRelease, Task::Release { vm: mark.vm }),
                None => (Rule::UpkeepNothing, Task::Nothing),
            };
        }
        if here.is_unbound
            && let (Some(token), Some(mark)) = (term, &here.booted)
            && mark.holds_in(token)
            && self.running_here.is_some_and(|vm| mark.names(vm))
        {
            // mirrored anew under a VM: what names the image it was counts only as long as that one is beside it
            let steps = begin_term(here, &observation.image, token.clone(), mark.clone());
            return (Rule::UpkeepOpenToken, Task::Act(steps));
        }
        if let Some(vm) = self.running_here
            && term.is_none()
        {
            // booted without a gate: there was no CONTEXT section, or onemirror came later
            let image = &observation.image;
            let token = opening_token(here, &observation.there, self.here);
            let mark = Mark::of(&token, vm);
            let mut steps: Vec<Step> = residence.step(observation, here).into_iter().collect();
            steps.extend(begin_term(here, image, token, mark));
            return (Rule::UpkeepOpenToken, Task::Act(steps));
        }
        (Rule::UpkeepNothing, Task::Nothing)
    }
}

fn give_way_or_tell(observation: &Observation, here: &Copy, there: &Copy, rule: Rule) -> (Rule, Task) {
    match give_way(observation, here, there) {
        Some(steps) => (rule, Task::Act(steps)),
        None => (Rule::UpkeepNoRoomToKeep, Task::Undecided),
    }
}

/// Whether `site` closed its token in a release that was asked for there; a site that takes an image over leaves no
/// such mark.
pub fn released_by(copy: &Copy, site: &str) -> bool {
    let (Some(token), Some(mark)) = (copy.token.token(), &copy.release) else { return false };
    token.is_closed()
        && token.site == site
        && mark.site == site
        && mark.sequence.checked_add(1) == Some(token.sequence)
}

/// Where the gate says what to type: it judges for a VM.
fn told_by_plan(users: &[UserHere]) -> String {
    match users {
        [] => "no VM here has it: make one on hold (onevm create --hold), then onemirror plan tells what to type".into(),
        [first, ..] => {
            let vm = users.iter().find(|user| user.in_use).unwrap_or(first).vm;
            format!("see onemirror plan {vm}")
        }
    }
}
