//! The gate before a boot: may the VM start on the copies here, and what has to be done first?

use super::force::PassOver;
use crate::advice::{Advice, Place};
use crate::decision::{Decision, Finding, Judgement, Refusal, Rule, Side, Step, WaitFor};
use crate::home::{Residence, SiteRole};
use crate::image::ImageSpec;
use crate::sight::{
    Apart, Copy, Denial, Domain, Here, Keeping, Mode, Observation, PeerVm, Positions, Report, Resync, Role,
    SetAside, There, TokenSeen,
};
use crate::token::{Mark, Token};
use crate::whole_copy::WholeCopy;
use crate::{Locks, Patience};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// What a VM does with its disks when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootKind {
    /// The guest reads its disks afresh.
    Cold,
    /// Saved memory is loaded (BOOT_SUSPENDED, BOOT_STOPPED): the disks must be as they were.
    Restore,
}

/// What a boot on a primary copy does while the peer cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerUnreachable {
    /// Boots.
    Allow,
    /// Refuses.
    Refuse,
    /// Refuses while this front-end has not seen the peer's copy of the image once since its host was booted: a site
    /// that returns must not start the second copy.
    #[default]
    RefuseAfterReboot,
}

/// All that the gate needs to know beside the observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate<'a> {
    /// This site's name.
    pub here: &'a str,
    /// The peer's name.
    pub there: &'a str,
    /// What this site is to images that say nothing of a home.
    pub role: SiteRole,
    /// The VM that is about to boot.
    pub vm: i32,
    /// Cold or from saved memory.
    pub boot: BootKind,
    /// The policy.
    pub peer_unreachable: PeerUnreachable,
    /// What of the peer's front-end an operator's force passes over.
    pub pass_over: PassOver,
    /// Nothing makes a disk between this gate and the boot.
    pub disks_made: bool,
    /// Whether there is time left to wait.
    pub patience: Patience,
    /// The locks held while the observations were made.
    pub locks: Locks,
    /// The random part of a closed token.
    pub closing_id: &'a str,
}

/// Why an image is refused; the rule that does is told beside it.
struct Why {
    image: ImageSpec,
    cause: String,
    advice: Advice,
}

impl Why {
    fn by(self, rule: Rule) -> Refusal {
        let Self { image, cause, advice } = self;
        Refusal { image, cause, advice, rule }
    }
}

/// What the gate says of one image, in the order in which a VM's images have to get there.
enum GateRuling {
    /// Nothing can be done here and now.
    Refuse(Why),
    /// The copy here is stale: put it right, and refuse meanwhile.
    CleanUp(Vec<Step>, Why),
    /// Something that has to be put right before an image changes hands.
    PutRight(Vec<Step>),
    /// The copy here must follow before the image may be taken.
    WaitToTakeOver(WaitFor, Why),
    /// The image is taken from the other site.
    TakeOver(Vec<Step>),
    /// Given up there; the rest has to arrive.
    WaitToPromote(WaitFor, Why),
    /// Everything is here.
    Promote(Vec<Step>),
    /// Primary here; the token says so.
    Open(Vec<Step>),
    /// Ready.
    Pass,
}

impl Gate<'_> {
    /// What puts a stale copy here right, unless another VM here still uses it.
    fn clean_up(&self, observation: &Observation, steps: Vec<Step>, mut why: Why) -> GateRuling {
        let Some(user) = observation.used_here_by else { return GateRuling::CleanUp(steps, why) };
        why.advice = Advice::wait(format!("it is copied back once VM {user} here does not use it either"));
        GateRuling::Refuse(why)
    }

    /// Judges all images of a VM together: none is touched before every one was looked at, and images that have
    /// to change hands do so side by side, so that a VM's disks share their fate.
    pub fn judge(&self, observations: &[Observation]) -> Judgement {
        let mut findings = Vec::new();
        let mut verdicts = Vec::new();
        let forced = observations.iter().any(|seen| match &seen.here {
            Here::Mirrored(copy) => {
                let for_it = copy.forced.as_ref().is_some_and(|mark| mark.names(self.vm));
                copy.role == Role::Primary && for_it && self.is_forced_here(copy)
            }
            Here::Absent | Here::NotMirrored => false,
        });
        for observation in observations {
            let (rule, verdict) = match (self.judge_image(observation), &observation.here) {
                // the operator's word is for the VM: what was made for it here since has no mark of it
                (
                    (Rule::PrimaryHereNotInTouchSinceReboot | Rule::PrimaryHerePeerUnreachableRefused, _),
                    Here::Mirrored(copy),
                ) if forced && observation.made_here && self.never_left(copy) => {
                    self.boot(observation, copy, Rule::PrimaryHereByForce)
                }
                (judged, _) => judged,
            };
            findings.push(Finding { image: observation.image.clone(), rule });
            verdicts.push((rule, observation.image.clone(), verdict));
        }
        // one that cannot be kept stays, and the others stay with it: what is copied back has to be of one age
        if let Some(place) = findings.iter().position(|finding| finding.rule == Rule::NoRoomToKeep) {
            verdicts = verdicts.drain(..).skip(place).take(1).collect();
        }
        let decision = match self.of_different_ages(observations) {
            Some((place, refusal)) => {
                if let Some(finding) = findings.get_mut(place) {
                    finding.rule = refusal.rule;
                }
                Decision::Refuse { refusal, then: Vec::new() }
            }
            None => self.combine(verdicts),
        };
        Judgement { decision, findings }
    }

    /// Images that together would be a VM's disks at two different times.
    pub(super) fn of_different_ages(&self, observations: &[Observation]) -> Option<(usize, Refusal)> {
        let by = |rule| move |(place, why): (usize, Why)| (place, why.by(rule));
        let forced = self.forced_in_part(observations).map(by(Rule::ForcedInPart));
        forced.or_else(|| self.of_two_ages(observations).map(by(Rule::OfTwoAges)))
    }

    /// One image was copied back here after the other site had gone on with it. The VM had been booted here on another one
    /// before that, and it was not copied back; how far the other site went on with it is not seen.
    fn of_two_ages(&self, observations: &[Observation]) -> Option<(usize, Why)> {
        let copied_back = |seen: &&Observation| match &seen.here {
            Here::Mirrored(copy) if copy.role == Role::NonPrimary => {
                copy.token.token().is_some_and(|token| token.site == self.there)
            }
            Here::Mirrored(_) | Here::Absent | Here::NotMirrored => false,
        };
        let sequence = |seen: &Observation| match &seen.here {
            Here::Mirrored(copy) => copy.token.sequence(),
            Here::Absent | Here::NotMirrored => 0,
        };
        let newer = observations.iter().filter(copied_back).max_by_key(|seen| sequence(seen))?;
        let is_left = |seen: &Observation| match &seen.here {
            Here::Mirrored(copy) => {
                copy.role == Role::Primary
                    && was_booted(copy)
                    && copy.token.token().is_some_and(|token| token.is_open_by(self.here))
                    && sequence(seen) < sequence(newer)
            }
            Here::Absent | Here::NotMirrored => false,
        };
        let place = observations.iter().position(|seen| seen.there.is_unseen() && is_left(seen))?;
        let (newer, there) = (newer.image.image(), self.there);
        let advice = Advice::wait(format!("bring {there} back, and both are judged")).and(Advice::decide(format!(
            "if it is lost for good, which of them to go on with: onemirror lost list may have {newer} as it was when {there} took over; or detach one (onevm disk-detach)"
        )));
        let cause = format!("is older than {newer}, with which {there} went on");
        Some((place, self.why(observations.get(place)?, cause, advice)))
    }

    /// One image was forced here, and the VM not booted since; another one of its images was not.
    fn forced_in_part(&self, observations: &[Observation]) -> Option<(usize, Why)> {
        let is = |observation: &Observation, what: &dyn Fn(&Copy) -> bool| match &observation.here {
            Here::Mirrored(copy) => what(copy),
            Here::Absent | Here::NotMirrored => false,
        };
        let forced = observations
            .iter()
            .find(|seen| is(seen, &|copy| self.is_forced_here(copy) && !was_booted(copy)))?;
        let place = observations.iter().position(|seen| is(seen, &|copy| copy.role != Role::Primary))?;
        let left = observations.get(place)?;
        let cause = format!("is not primary here, and {} was forced", forced.image.image());
        let (cause, advice) = match left.there.is_unseen() {
            true => (cause, self.force().when("to force the others too")),
            false => (
                format!("{cause}; {} answers again", self.there),
                give_up(&forced.image, Place::Here).when("if nothing ran on the forced one, give it up"),
            ),
        };
        Some((place, self.why(left, cause, advice)))
    }

    /// Whether this copy was only ever used here, as far as its token tells: never, or under its first token.
    fn never_left(&self, here: &Copy) -> bool {
        match &here.token {
            TokenSeen::None | TokenSeen::OfAnother(_) => true,
            TokenSeen::Some(token) => token.is_open_by(self.here) && token.sequence == 1,
            TokenSeen::Newer | TokenSeen::Unreadable => false,
        }
    }

    /// Whether the token of this copy was opened by an operator's force here.
    fn is_forced_here(&self, here: &Copy) -> bool {
        match (here.token.token(), &here.forced) {
            (Some(token), Some(mark)) => token.site == self.here && mark.holds_in(token),
            _ => false,
        }
    }

    fn combine(&self, verdicts: Vec<(Rule, ImageSpec, GateRuling)>) -> Decision {
        let (mut clean_up, mut refusal) = (Vec::new(), None);
        let (mut put_right, mut take_over, mut promote, mut open) = (vec![], vec![], vec![], vec![]);
        let (mut wait_to_take_over, mut wait_to_promote) = (None, None);
        for (rule, image, verdict) in verdicts {
            match verdict {
                GateRuling::Refuse(why) => refusal = refusal.or(Some(why.by(rule))),
                GateRuling::CleanUp(steps, why) => {
                    clean_up.extend(steps);
                    refusal = refusal.or(Some(why.by(rule)));
                }
                GateRuling::PutRight(steps) => put_right.extend(steps),
                GateRuling::WaitToTakeOver(what, why) => {
                    wait_to_take_over = wait_to_take_over.or(Some((what, image, why.by(rule))))
                }
                GateRuling::TakeOver(steps) => take_over.extend(steps),
                GateRuling::WaitToPromote(what, why) => {
                    wait_to_promote = wait_to_promote.or(Some((what, image, why.by(rule))))
                }
                GateRuling::Promote(steps) => promote.extend(steps),
                GateRuling::Open(steps) => open.extend(steps),
                GateRuling::Pass => {}
            }
        }
        if let Some(refusal) = refusal {
            return match self.locks {
                // a clean-up relies on the other copy staying primary
                Locks::Here if !clean_up.is_empty() => Decision::LockThere,
                _ => Decision::Refuse { refusal, then: clean_up },
            };
        }
        if !put_right.is_empty() {
            return self.with_both_locks(put_right);
        }
        if let Some(wait) = wait_to_take_over {
            return self.wait(wait);
        }
        if !take_over.is_empty() {
            return self.with_both_locks(take_over);
        }
        if let Some(wait) = wait_to_promote {
            return self.wait(wait);
        }
        if !promote.is_empty() {
            return self.with_both_locks(promote);
        }
        if open.is_empty() { Decision::Done } else { Decision::Act(open) }
    }

    fn with_both_locks(&self, steps: Vec<Step>) -> Decision {
        match self.locks {
            Locks::Here => Decision::LockThere,
            Locks::Both => Decision::Act(steps),
        }
    }

    fn wait(&self, (what, image, refusal): (WaitFor, ImageSpec, Refusal)) -> Decision {
        match self.patience {
            Patience::Exhausted => Decision::Refuse { refusal, then: Vec::new() },
            Patience::Fresh | Patience::Waning => Decision::Wait { what, image },
        }
    }

    fn judge_image(&self, observation: &Observation) -> (Rule, GateRuling) {
        match &observation.here {
            Here::NotMirrored => (Rule::NotMirrored, GateRuling::Pass),
            Here::Absent => self.judge_absent(observation),
            Here::Mirrored(_) if observation.owned_by_both => (
                Rule::TwoVmsOwnTheImage,
                self.refuse(
                    observation,
                    format!("is a disk of another VM, on {}, by the same name", self.there),
                    Advice::decide("the two sites need images with different names"),
                ),
            ),
            Here::Mirrored(copy) if copy.token.is_unread() => {
                self.unread(observation, &copy.token, Side::Here)
            }
            Here::Mirrored(Copy { report: Report::NoRoom(fullness), .. }) => {
                let pool = observation.image.pool();
                let cause = format!("waits: pool {pool} is full here ({fullness})");
                (Rule::NoRoomHere, self.refuse(observation, cause, fullness.advice(pool, Place::Here)))
            }
            Here::Mirrored(copy) => match copy.role {
                Role::Primary => self.judge_primary(observation, copy),
                Role::HalfDemoted => self.judge_half_demoted(observation),
                Role::NonPrimary => self.judge_non_primary(observation, copy),
            },
        }
    }

    /// The image is not here.
    fn judge_absent(&self, observation: &Observation) -> (Rule, GateRuling) {
        match &observation.there {
            There::Mirrored(there) if there.role == Role::Primary => {
                let why = self.why(
                    observation,
                    format!("is mirrored on {} and not yet copied here", self.there),
                    Advice::wait("try again when the copy is complete (onemirror list)"),
                );
                (Rule::NotYetCopied, GateRuling::WaitToTakeOver(WaitFor::Follow, why))
            }
            There::Mirrored(there) if there.role == Role::HalfDemoted => (
                Rule::NotCopied,
                self.refuse(
                    observation,
                    format!("is not here, and half demoted on {}, so it is not copied", self.there),
                    Advice::commands(
                        self.over_there(),
                        ["demote", "promote"].map(|verb| mirror_image(verb, &observation.image)),
                    ),
                ),
            ),
            There::Mirrored(_) => (
                Rule::NotCopied,
                self.refuse(
                    observation,
                    format!("is not here, and not primary on {}, so it is not copied", self.there),
                    Advice::command(self.over_there(), mirror_image("promote", &observation.image)),
                ),
            ),
            // it may come back at any moment, not primary: a resync deletes a copy for a while
            There::Denied(denial) if !self.is_to_be_made(observation) => {
                (Rule::PeerDenied, self.denied(observation, "is not here", denial))
            }
            There::Unreachable | There::NotAsked if !self.is_to_be_made(observation) => {
                let cause = format!("is not here and {} does not answer", self.there);
                let back = format!("bring {} back, or make sure that the image exists", self.there);
                let lost = format!("if {} is lost for good", self.there);
                let kept = self.from_set_aside(observation).map(|advice| advice.when(lost));
                let advice = kept.into_iter().fold(Advice::wait(back), Advice::and);
                (Rule::AbsentPeerUnreachable, self.refuse(observation, cause, advice))
            }
            _ => (Rule::AbsentLeftToStockDriver, GateRuling::Pass),
        }
    }

    /// Whether the stock driver may make the image that is not here before the boot: a clone or a volatile disk of a VM that
    /// is made. An image that the VM was given is made by nobody.
    pub(super) fn is_to_be_made(&self, observation: &Observation) -> bool {
        observation.made_here && !self.disks_made
    }

    /// Has the VM go on with what was set aside here of a disk that is gone. Under its own name it would keep rbd-mirror from
    /// copying the image anew, once the other site is back; so it becomes an image of its own, and the VM's disk.
    pub fn from_set_aside(&self, observation: &Observation) -> Option<Advice> {
        let SetAside { copy, disk, apart_from, .. } = observation.set_aside.as_ref()?;
        let vm = self.vm;
        if let Some(other) = apart_from {
            let (copy, other) = (copy.image(), other.image());
            return Some(Advice::decide(format!(
                "{copy} was set aside here, and {other} is of another time, so that the two are no VM (onemirror lost list tells what belongs together)"
            )));
        }
        let first = [format!("onemirror lost restore {copy}"), format!("onevm disk-detach {vm} {disk}")];
        Some(
            Advice::commands(Place::Here, first)
                .once_it_is_off(format!("onevm disk-attach {vm} --image {}", copy.image()))
                .once_it_is_off(format!("onevm resume {vm}")),
        )
    }

    /// Nobody can write to the copy here, so nothing is lost by an end of its demotion; what it is then decides.
    fn judge_half_demoted(&self, observation: &Observation) -> (Rule, GateRuling) {
        match &observation.there {
            There::Denied(denial) => {
                (Rule::PeerDenied, self.denied(observation, "is half demoted here", denial))
            }
            There::Unreachable | There::NotAsked => (
                Rule::HalfDemotedPeerUnreachable,
                self.refuse(
                    observation,
                    format!("is half demoted here and {} does not answer", self.there),
                    self.bring_back().and(self.force().when("if it is lost for good")),
                ),
            ),
            _ => (Rule::HalfDemotedHere, GateRuling::PutRight(vec![demote(observation, Side::Here)])),
        }
    }

    fn judge_primary(&self, observation: &Observation, here: &Copy) -> (Rule, GateRuling) {
        let there = match &observation.there {
            There::NotAsked | There::Absent => return self.boot(observation, here, Rule::PrimaryHere),
            There::Apart(there) => return self.judge_primary_beside_another(observation, here, there),
            There::Unreachable | There::Denied(_) => return self.judge_alone(observation, here),
            There::Mirrored(there) => there,
        };
        if there.token.is_unread() {
            return self.unread(observation, &there.token, Side::There);
        }
        if there.role == Role::HalfDemoted {
            return (Rule::HalfDemotedThere, GateRuling::PutRight(vec![demote(observation, Side::There)]));
        }
        let (sequence_here, sequence_there) = (here.token.sequence(), there.token.sequence());
        if there.role == Role::NonPrimary {
            return if sequence_there > sequence_here {
                (
                    Rule::StaleLeftoverHere,
                    self.clean_up(
                        observation,
                        vec![demote(observation, Side::Here)],
                        self.why(
                            observation,
                            format!("is stale here: {} wrote to it last", self.there),
                            Advice::wait("it was demoted; try again when it is copied back"),
                        ),
                    ),
                )
            } else if sequence_there == sequence_here && here.token.token() != there.token.token() {
                (Rule::TokenConflict, self.conflict(observation))
            } else {
                self.boot(observation, here, Rule::PrimaryHere)
            };
        }
        match sequence_here.cmp(&sequence_there) {
            core::cmp::Ordering::Less if there.is_forced_and_never_booted() => {
                self.judge_never_booted_there(observation, here, there)
            }
            core::cmp::Ordering::Less => self.judge_stale_here(observation, here, there),
            core::cmp::Ordering::Greater => match self.lives_there(observation, Domain::MayLive) {
                Some(refused) => refused,
                None => self.boot(observation, here, Rule::SplitBrainStaleThere),
            },
            core::cmp::Ordering::Equal => {
                (Rule::SplitBrainUndecided, self.split_brain(observation, here, there))
            }
        }
    }

    /// Both are primary, and the tokens say that the one there outranks the one here.
    fn judge_stale_here(&self, observation: &Observation, here: &Copy, there: &Copy) -> (Rule, GateRuling) {
        let cause = format!("is stale here: {} took it over by force", self.there);
        match give_way(observation, here, there) {
            Some(steps) => {
                let kept = steps.iter().any(|step| matches!(step, Step::SetAside { .. }));
                let kept = if kept { ", what only it has is kept (onemirror lost list)" } else { "" };
                let mut advice = Advice::wait(format!("it is being copied back{kept}"));
                if let PeerVm::Active { vm, way_out, .. } = &observation.vm_there {
                    let off = way_out.advice(*vm, self.over_there());
                    advice = advice.and(off.when("when you want the VM here"));
                }
                let why = self.why(observation, cause, advice);
                (Rule::SplitBrainStaleHere, self.clean_up(observation, steps, why))
            }
            None => (Rule::NoRoomToKeep, self.refuse(observation, cause, room_advice(observation))),
        }
    }

    /// Both are primary, the one there by force, and no VM was ever booted on it: the first to boot holds the image.
    fn judge_never_booted_there(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
    ) -> (Rule, GateRuling) {
        let verdict = match &observation.vm_there {
            PeerVm::Active { vm, state, way_out, .. } => self.refuse(
                observation,
                format!("was taken over by force on {}, where VM {vm} is {state}", self.there),
                way_out.advice(*vm, self.over_there()).when("to start it here"),
            ),
            PeerVm::LettingGo { vm, state } => self.refuse(
                observation,
                format!("was taken over by force on {}, where VM {vm} is {state}", self.there),
                Advice::wait("try again when it is done"),
            ),
            PeerVm::NotAsked | PeerVm::Silent | PeerVm::Denied(_) => self.refuse(
                observation,
                format!("was taken over by force on {}, whose front-end tells nothing", self.there),
                Advice::wait("whether a VM uses it there is unknown; try again when the front-end tells it"),
            ),
            PeerVm::None | PeerVm::Inactive { .. } if !self.fits_saved_memory(here) => {
                return (Rule::RestoreOnChangedDisk, self.restore_refused(observation));
            }
            PeerVm::None | PeerVm::Inactive { .. } => {
                GateRuling::PutRight(term_past(there, here, &observation.image, self.here, self.vm))
            }
        };
        (Rule::ForcedAndNeverBootedThere, verdict)
    }

    /// Primary here, and the image of this name there is not its other copy. Names may be the same by accident; but it
    /// may also have been forced there and mirrored anew while this site was away.
    fn judge_primary_beside_another(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Apart,
    ) -> (Rule, GateRuling) {
        match there {
            Apart { token, .. } if token.is_unread() => self.unread(observation, token, Side::There),
            there if there.is_forced_past(&here.token) => (
                Rule::ForcedApart,
                self.refuse(
                    observation,
                    format!("is stale here: {} took it over by force", self.there),
                    Advice::command(Place::Here, aside(&observation.image)).when(
                        "it is mirrored anew there, so set this copy aside, to have that one copied here",
                    ),
                ),
            ),
            _ => self.boot(observation, here, Rule::PrimaryHere),
        }
    }

    /// Primary here, and the peer's cluster cannot be asked. Its front-end may know more.
    fn judge_alone(&self, observation: &Observation, here: &Copy) -> (Rule, GateRuling) {
        let silence = observation.there.why_unseen();
        let refused = |rule, cause: String| {
            let advice = match &observation.there {
                There::Denied(denial) => put_right(denial),
                _ => self.bring_back().and(self.force().when("if it is off for certain")),
            };
            (rule, self.refuse(observation, cause, advice))
        };
        // an operator said that the other site is lost, and that holds as long as the token that this opened
        let by_force = self.is_forced_here(here);
        if let Some(refused) = self.lives_there(observation, Domain::Lost)
            && !(by_force && here.other_site_is_off)
        {
            return refused;
        }
        match self.peer_unreachable {
            _ if by_force => self.boot(observation, here, Rule::PrimaryHereByForce),
            PeerUnreachable::Refuse => refused(
                Rule::PrimaryHerePeerUnreachableRefused,
                format!("may run on {}, which {silence}", self.there),
            ),
            PeerUnreachable::RefuseAfterReboot if !observation.in_touch_since_reboot => refused(
                Rule::PrimaryHereNotInTouchSinceReboot,
                match &observation.there {
                    There::Denied(_) => format!("may run on {}, which {silence}", self.there),
                    _ => format!("may run on {}, not reached since this host booted", self.there),
                },
            ),
            PeerUnreachable::RefuseAfterReboot | PeerUnreachable::Allow => {
                self.boot(observation, here, Rule::PrimaryHerePeerUnreachableAllowed)
            }
        }
    }

    /// The front-end there says that a VM may use the disk, and the roles of the copies do not keep it from writing.
    /// `least`: the domain that is enough for a refusal.
    fn lives_there(&self, observation: &Observation, least: Domain) -> Option<(Rule, GateRuling)> {
        let (rule, cause, advice) = match &observation.vm_there {
            PeerVm::Active { vm, state, domain, way_out } if *domain >= least => (
                Rule::RunningThere,
                format!("is in use on {}: VM {vm} is {state}", self.there),
                way_out
                    .advice(*vm, self.over_there())
                    .and(self.force_past_all().when("if that site is off for good")),
            ),
            PeerVm::LettingGo { vm, state } => (
                Rule::LettingGoThere,
                format!("is in use on {}: VM {vm} is {state}", self.there),
                Advice::wait("try again when it is done"),
            ),
            _ => return None,
        };
        Some((rule, self.refuse(observation, cause, advice)))
    }

    /// The copy here may be booted on; the token has to say that this site holds it before the boot goes on.
    fn boot(&self, observation: &Observation, here: &Copy, rule: Rule) -> (Rule, GateRuling) {
        let image = &observation.image;
        let term = here.token.token().filter(|token| token.is_open_by(self.here));
        if !self.fits_saved_memory(here) {
            return (Rule::RestoreOnChangedDisk, self.restore_refused(observation));
        }
        let released = |token: &Token| here.release.as_ref().is_some_and(|mark| mark.holds_in(token));
        if let Some(term) = term.filter(|token| !released(token)) {
            // others that share the disk stay named: what one of them has saved goes with this token
            let booted = here.booted.as_ref().filter(|mark| mark.holds_in(term));
            let mark = booted.map_or_else(|| Mark::of(term, self.vm), |mark| mark.joined_by(self.vm));
            let mut steps: Vec<Step> = self.home_step(observation, here).into_iter().collect();
            let rule = if steps.is_empty() { rule } else { Rule::HomeHere };
            if here.is_unbound {
                // the same token, with the name of this image
                steps.push(Step::WriteToken { at: Side::Here, image: image.clone(), token: term.clone() });
            } else if steps.is_empty() && here.booted.as_ref() == Some(&mark) {
                return (rule, GateRuling::Pass);
            }
            // a run that was killed may have written the token and sent it nowhere
            steps.extend(carried(here, image));
            steps.push(Step::MarkBooted { image: image.clone(), mark });
            return (rule, GateRuling::Open(steps));
        }
        (Rule::OpenTokenHere, GateRuling::Open(self.opening_steps(observation, here)))
    }

    /// Whether the copy here is as it was when this VM's memory was saved, if that is what the VM starts from.
    fn fits_saved_memory(&self, here: &Copy) -> bool {
        let term = here.token.token().filter(|token| token.is_open_by(self.here));
        match (term, &here.booted) {
            _ if self.boot == BootKind::Cold => true,
            (Some(term), Some(booted)) => booted.holds_in(term) && booted.names(self.vm),
            // never handed over since onemirror came
            (None, _) => here.token == TokenSeen::None,
            (Some(_), None) => false,
        }
    }

    /// The steps that open a token of this site with a boot.
    fn opening_steps(&self, observation: &Observation, here: &Copy) -> Vec<Step> {
        let image = &observation.image;
        let token = opening_token(here, &observation.there, self.here);
        let mark = Mark::of(&token, self.vm);
        let mut steps: Vec<Step> = self.home_step(observation, here).into_iter().collect();
        steps.extend(begin_term(here, image, token, mark));
        steps
    }

    fn home_step(&self, observation: &Observation, here: &Copy) -> Option<Step> {
        Residence { here: self.here, there: self.there, role: self.role }.step(observation, here)
    }

    fn judge_non_primary(&self, observation: &Observation, here: &Copy) -> (Rule, GateRuling) {
        if observation.there.is_unseen()
            && let Some(refused) = self.lives_there(observation, Domain::Lost)
        {
            return refused;
        }
        if matches!(observation.there, There::NotAsked | There::Unreachable)
            && let PeerVm::Denied(denial) = &observation.vm_there
        {
            // its front-end answers and tells nothing: that is no lost site, so no force is advised
            let cause =
                format!("is not primary here; {}'s front-end {}", self.there, denial.cause.in_words());
            return (Rule::PeerFrontEndDenied, self.refuse(observation, cause, put_right(denial)));
        }
        let there = match &observation.there {
            There::Mirrored(there) => there,
            there => return self.judge_without_other_copy(observation, here, there),
        };
        if there.token.is_unread() {
            return self.unread(observation, &there.token, Side::There);
        }
        if let PeerVm::Active { vm, state, domain, way_out } = &observation.vm_there
            && !self.passes_over(*domain)
        {
            let (rule, cause) = match there.role {
                Role::Primary | Role::HalfDemoted => {
                    (Rule::RunningThere, format!("is in use on {}: VM {vm} is {state}", self.there))
                }
                Role::NonPrimary => {
                    (Rule::BootingThere, format!("is claimed on {}: VM {vm} is {state}", self.there))
                }
            };
            return (rule, self.refuse(observation, cause, way_out.advice(*vm, self.over_there())));
        }
        if self.boot == BootKind::Restore {
            return (Rule::RestoreOnChangedDisk, self.restore_refused(observation));
        }
        let judged = match there.role {
            Role::Primary => self.judge_primary_there(observation, here, there),
            Role::HalfDemoted => {
                (Rule::HalfDemotedThere, GateRuling::PutRight(vec![demote(observation, Side::There)]))
            }
            Role::NonPrimary => self.judge_both_non_primary(observation, here, there),
        };
        match observation.lacks_its_base {
            true => self.judge_whole(observation, here, there, judged),
            false => judged,
        }
    }

    /// The copy here is not primary, and the other one cannot be looked at, or is none.
    fn judge_without_other_copy(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &There,
    ) -> (Rule, GateRuling) {
        let (rule, cause, advice) = match there {
            There::Denied(denial) => {
                return (Rule::PeerDenied, self.denied(observation, "is not primary here", denial));
            }
            There::Apart(_) => (
                Rule::NonPrimaryApart,
                format!("is not a copy of the image of this name on {}", self.there),
                self.keep_one_of_two(&observation.image),
            ),
            There::Absent => (
                Rule::NonPrimaryWithoutOtherCopy,
                format!("is not primary here and has no copy on {}", self.there),
                self.force().when("if this copy is the one to keep"),
            ),
            _ if observation.lacks_its_base && !self.wrote_last(here) => {
                return (Rule::NotWhole, self.not_whole(observation, self.force_what_is_there()));
            }
            There::NotAsked | There::Unreachable | There::Mirrored(_) => (
                Rule::NonPrimaryPeerUnreachable,
                format!("is not primary here and {} does not answer", self.there),
                self.force().when(format!("if {} is lost for good", self.there)),
            ),
        };
        (rule, self.refuse(observation, cause, advice))
    }

    /// A boot would follow on a copy that Ceph may have left holes in. What has it mirrored anew throws this copy away, so that
    /// is only told where this one shows the other site's own last token: then it has followed, and holds nothing of its own.
    fn judge_whole(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
        judged: (Rule, GateRuling),
    ) -> (Rule, GateRuling) {
        let advice = match judged.0 {
            Rule::TakeOver => self.mirrored_whole(observation, there),
            // the last writer's own copy has no holes
            Rule::HandoffProven | Rule::PositionsProveHere if self.wrote_last(here) => return judged,
            Rule::HandoffProven | Rule::PositionsProveHere if here.token.token().is_some() => {
                let promote = mirror_image("promote", &observation.image);
                let anew = self.mirrored_whole(observation, there).when("then");
                Advice::command(self.over_there(), promote).and(anew)
            }
            // nobody knows who wrote last
            Rule::PositionsProveHere => self.keep_one(observation),
            _ => return judged,
        };
        (Rule::NotWhole, self.not_whole(observation, advice))
    }

    fn not_whole(&self, observation: &Observation, advice: Advice) -> GateRuling {
        self.refuse(observation, "is not whole here: a clone, mirrored by snapshots".into(), advice)
    }

    /// Whether the newest token that the copy here shows is this site's.
    fn wrote_last(&self, here: &Copy) -> bool {
        here.token.token().is_some_and(|token| token.site == self.here)
    }

    fn mirrored_whole(&self, observation: &Observation, there: &Copy) -> Advice {
        let vm = match observation.vm_there {
            PeerVm::Inactive { vm, .. } => Some(vm),
            _ => None,
        };
        let whole = WholeCopy { image: &observation.image, at: self.there, vm };
        Advice::commands(self.over_there(), whole.mirrored_anew(there.home.site()))
    }

    fn force_what_is_there(&self) -> Advice {
        let lost = format!("if {} is lost for good", self.there);
        self.force().when(format!("{lost}, and what its base holds is not missed or can be put in again"))
    }

    fn judge_primary_there(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
    ) -> (Rule, GateRuling) {
        if let Some(hindered) = self.hindered_by_vm_there(observation) {
            return hindered;
        }
        if here.token.sequence() > there.token.sequence() {
            // promoted there by hand, without the newest writes: nothing here may be thrown away for it
            return (Rule::TokenConflict, self.conflict(observation));
        }
        let image = &observation.image;
        let Some(term) = there.token.token().filter(|token| token.is_open_by(self.there)) else {
            return self.open_there(image, here, there);
        };
        if here.token.token() == Some(term) && !here.resync.is_pending() {
            return self.take_over(observation, there, term);
        }
        if here.resync == Resync::None && here.report == Report::SplitBrain {
            return self.judge_split_brained_here(observation, here, there);
        }
        let ask = match here.resync {
            // nothing came of it: who was about to ask may have been killed before
            Resync::Noted => {
                self.patience == Patience::Waning && !matches!(here.report, Report::Syncing(_) | Report::Down)
            }
            // to ask again could only meet the next copy
            Resync::None | Resync::Asked => false,
        };
        if ask {
            return (
                Rule::SplitBrainedCopyHere,
                GateRuling::PutRight(vec![Step::Resync { image: image.clone() }]),
            );
        }
        if there.mode == Mode::Snapshot && self.patience == Patience::Waning {
            // who opened the token may have been killed before the snapshot that carries it
            let carry = vec![Step::MirrorSnapshot { at: Side::There, image: image.clone() }];
            return (Rule::CarryTokenHere, GateRuling::PutRight(carry));
        }
        let why = self.why(observation, self.not_following(here), self.follow_advice(here));
        (Rule::NotFollowingYet, GateRuling::WaitToTakeOver(WaitFor::Follow, why))
    }

    /// What is known, or is not, of a VM that may use the image there.
    fn hindered_by_vm_there(&self, observation: &Observation) -> Option<(Rule, GateRuling)> {
        match &observation.vm_there {
            PeerVm::LettingGo { vm, state } if self.pass_over < PassOver::Everything => {
                let cause = format!("is in use on {}: VM {vm} is {state}", self.there);
                let why = self.why(observation, cause, Advice::wait("try again when it is done"));
                Some((Rule::LettingGoThere, GateRuling::WaitToTakeOver(WaitFor::PeerVm, why)))
            }
            PeerVm::Denied(denial) if self.pass_over < PassOver::Everything => {
                let said = denial.cause.in_words();
                let cause = format!("is primary on {}, whose front-end {said}", self.there);
                Some((Rule::PeerFrontEndDenied, self.refuse(observation, cause, put_right(denial))))
            }
            PeerVm::NotAsked | PeerVm::Silent if self.pass_over < PassOver::Doubts => {
                let cause = format!("is primary on {}, whose front-end does not answer", self.there);
                let unknown = "whether a VM uses it there is unknown; try again when the front-end is back";
                let advice = Advice::wait(unknown).and(self.force().when("if it stays away"));
                Some((Rule::PeerFrontEndUnknown, self.refuse(observation, cause, advice)))
            }
            _ => None,
        }
    }

    /// A token of that site is written first: what follows it has followed the copy there.
    fn open_there(&self, image: &ImageSpec, here: &Copy, there: &Copy) -> (Rule, GateRuling) {
        let token = Token::open_after(there.token.token().max(here.token.token()), self.there);
        let mut steps = vec![Step::WriteToken { at: Side::There, image: image.clone(), token }];
        if there.mode == Mode::Snapshot {
            steps.push(Step::MirrorSnapshot { at: Side::There, image: image.clone() });
        }
        (Rule::OpenTokenThere, GateRuling::PutRight(steps))
    }

    /// The copy here follows the one there.
    fn take_over(&self, observation: &Observation, there: &Copy, term: &Token) -> (Rule, GateRuling) {
        let image = &observation.image;
        if there.resync.is_pending() {
            // only a copy that follows goes away with what it follows, and makes room for the new one
            let why = self.why(
                observation,
                format!("cannot be taken from {}: a resync of it was asked for there", self.there),
                self.mirrored_anew(image, there.mode),
            );
            return (Rule::ResyncAskedThere, GateRuling::Refuse(why));
        }
        let closed = Token::close_after(Some(term), self.there, self.closing_id);
        let mut steps = self.cut_off(observation, there);
        steps.push(Step::WriteToken { at: Side::There, image: image.clone(), token: closed });
        steps.push(demote(observation, Side::There));
        (Rule::TakeOver, GateRuling::TakeOver(steps))
    }

    /// The daemon here follows no more, and never will: the copy here has to give way.
    fn judge_split_brained_here(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
    ) -> (Rule, GateRuling) {
        if here.token.sequence() == there.token.sequence() {
            return (Rule::TokenConflict, self.conflict(observation));
        }
        if here.is_given_up_to_a_vain_force(self.here, there)
            && matches!(observation.vm_there, PeerVm::None | PeerVm::Inactive { .. })
        {
            // the first to boot holds the image
            let mut steps = vec![Step::Promote { at: Side::Here, image: observation.image.clone() }];
            steps.extend(term_past(there, here, &observation.image, self.here, self.vm));
            return (Rule::ForcedAndNeverBootedThere, GateRuling::PutRight(steps));
        }
        match give_way(observation, here, there) {
            Some(steps) => (Rule::SplitBrainedCopyHere, GateRuling::PutRight(steps)),
            None => {
                let cause = format!("went its own way here, and {} outranks it", self.there);
                (Rule::NoRoomToKeep, self.refuse(observation, cause, room_advice(observation)))
            }
        }
    }

    fn judge_both_non_primary(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
    ) -> (Rule, GateRuling) {
        let (token_here, token_there) = (here.token.token(), there.token.token());
        if here.resync.is_pending() {
            // the daemon is going to throw this copy away: let it have something to copy
            return if token_there.is_some_and(|token| token.site == self.there)
                && there.token.sequence() >= here.token.sequence()
            {
                (Rule::StrandedLastWriterThere, self.re_promote_there(observation, there))
            } else {
                (Rule::TokenConflict, self.conflict(observation))
            };
        }
        // what moves would have moved by now, and a daemon that follows would say so
        let stuck = self.patience != Patience::Fresh
            && matches!(here.report, Report::Stopped | Report::SplitBrain | Report::Other);
        match here.token.sequence().cmp(&there.token.sequence()) {
            core::cmp::Ordering::Greater => match token_here {
                Some(token) if token.is_closed() || token.site == self.here => {
                    (Rule::LastWriterHere, self.promote_here(observation, here))
                }
                _ => (Rule::TokenConflict, self.conflict(observation)),
            },
            core::cmp::Ordering::Less
                if !token_there.is_some_and(|token| token.is_closed() || token.site == self.there) =>
            {
                (Rule::TokenConflict, self.conflict(observation))
            }
            core::cmp::Ordering::Less => {
                if stuck {
                    return (Rule::StrandedLastWriterThere, self.re_promote_there(observation, there));
                }
                let why = self.why(
                    observation,
                    format!("lacks the handoff of {}: its last writes are not here", self.there),
                    self.follow_advice(here),
                );
                (Rule::WritesOnTheirWay, GateRuling::WaitToPromote(WaitFor::Arrival, why))
            }
            core::cmp::Ordering::Equal if token_here != token_there => {
                (Rule::TokenConflict, self.conflict(observation))
            }
            core::cmp::Ordering::Equal if token_here.is_some_and(Token::is_closed) => {
                self.judge_handed_over(observation, here, there, stuck)
            }
            core::cmp::Ordering::Equal => self.judge_without_handoff(observation, here, there),
        }
    }

    /// Both copies show the same closed token. In snapshot mode that is no proof yet: metadata is read when a snapshot is
    /// copied, so a token may be here before its writes.
    fn judge_handed_over(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
        stuck: bool,
    ) -> (Rule, GateRuling) {
        if here.mode == Mode::Journal || here.positions == Positions::Complete {
            return (Rule::HandoffProven, self.promote_here(observation, here));
        }
        // or it was promoted there and demoted again, half-way, and nobody could write in between
        let is_there = there.token.token().is_some_and(|token| token.site == self.there)
            || there.positions == Positions::Complete;
        if stuck && is_there {
            return (Rule::StrandedLastWriterThere, self.re_promote_there(observation, there));
        }
        let cause = format!("lacks the last snapshot of {}", self.there);
        let why = self.why(observation, cause, self.follow_advice(here));
        (Rule::HandoffSnapshotIncomplete, GateRuling::WaitToPromote(WaitFor::Arrival, why))
    }

    /// Demoted by hand, or before onemirror came.
    fn judge_without_handoff(
        &self,
        observation: &Observation,
        here: &Copy,
        there: &Copy,
    ) -> (Rule, GateRuling) {
        match (here.positions, there.positions) {
            (Positions::Complete, _) => (Rule::PositionsProveHere, self.promote_here(observation, here)),
            (_, Positions::Complete) if self.patience != Patience::Fresh => {
                (Rule::PositionsProveThere, self.re_promote_there(observation, there))
            }
            _ => {
                let why = self.why(
                    observation,
                    "was demoted on both sites without a handoff".into(),
                    self.keep_one(observation),
                );
                (Rule::NoProof, GateRuling::WaitToPromote(WaitFor::Arrival, why))
            }
        }
    }

    fn promote_here(&self, observation: &Observation, here: &Copy) -> GateRuling {
        let mut steps = vec![Step::Promote { at: Side::Here, image: observation.image.clone() }];
        steps.extend(self.opening_steps(observation, here));
        GateRuling::Promote(steps)
    }

    /// The last writer's own demotion is its newest role event, so no force is needed.
    fn re_promote_there(&self, observation: &Observation, there: &Copy) -> GateRuling {
        let image = &observation.image;
        let mut steps = vec![
            Step::Promote { at: Side::There, image: image.clone() },
            Step::WriteToken {
                at: Side::There,
                image: image.clone(),
                token: Token::open_after(there.token.token(), self.there),
            },
        ];
        if there.mode == Mode::Snapshot {
            steps.push(Step::MirrorSnapshot { at: Side::There, image: image.clone() });
        }
        GateRuling::PutRight(steps)
    }

    /// What comes before a demotion under a VM that may live. In snapshot mode a write that is under way just then is
    /// acknowledged after the demotion's snapshot, and lost (seen on 20.2); the journal refuses such a one.
    fn cut_off(&self, observation: &Observation, there: &Copy) -> Vec<Step> {
        let nobody = matches!(observation.vm_there, PeerVm::None | PeerVm::Inactive { .. });
        match there.mode {
            Mode::Snapshot if !nobody => vec![Step::Fence { image: observation.image.clone() }],
            Mode::Snapshot | Mode::Journal => vec![],
        }
    }

    /// Whether a VM there whose domain may be so does not count.
    fn passes_over(&self, domain: Domain) -> bool {
        match self.pass_over {
            PassOver::Nothing => false,
            PassOver::Doubts => domain != Domain::MayLive,
            PassOver::Everything => true,
        }
    }

    fn not_following(&self, here: &Copy) -> String {
        match here.report {
            Report::Syncing(Some(percent)) => {
                format!("is still being copied from {}: {percent} %", self.there)
            }
            Report::Syncing(None) | Report::SplitBrain => {
                format!("is still being copied from {}", self.there)
            }
            _ => format!("lacks the handoff of {}: this copy does not follow it", self.there),
        }
    }

    fn follow_advice(&self, here: &Copy) -> Advice {
        match here.report {
            Report::Syncing(_) | Report::SplitBrain => {
                Advice::wait("try again when the copy is complete (onemirror list)")
            }
            Report::Down => Advice::command(Place::Here, "systemctl start ceph-rbd-mirror.target")
                .when("where rbd-mirror runs")
                .and(Advice::wait("then try again")),
            _ => Advice::wait(format!("see that rbd-mirror runs on {} and try again", self.here)),
        }
    }

    fn over_there(&self) -> Place {
        Place::There(self.there.to_owned())
    }

    fn bring_back(&self) -> Advice {
        Advice::wait(format!("bring {} back", self.there))
    }

    pub(super) fn force(&self) -> Advice {
        Advice::command(Place::Here, failover_by_force(self.vm))
    }

    /// The operator knows that the site is off, whatever its front-end goes on to say.
    pub(super) fn force_past_all(&self) -> Advice {
        let command = format!("onemirror failover {} --force --site-is-off --reason TEXT", self.vm);
        Advice::command(Place::Here, command)
    }

    /// Nobody but an operator can tell which copy counts. The force makes the one that he takes outrank the other one, and
    /// that is kept: no copy is thrown away for it.
    fn keep_one(&self, observation: &Observation) -> Advice {
        let advice =
            Advice::decide("compare both copies; the one that is not taken is kept (onemirror lost list)");
        let here = self.force().when(format!("to go on with the copy of {}", self.here));
        let on_that = format!("to go on with that of {}", self.there);
        match &observation.vm_there {
            PeerVm::Active { vm, way_out, .. } => {
                advice.and(way_out.advice(*vm, self.over_there()).when("first")).and(here)
            }
            PeerVm::Inactive { vm, .. } => {
                let there = Advice::command(self.over_there(), failover_by_force(*vm)).when(on_that);
                advice.and(here).and(there)
            }
            PeerVm::LettingGo { .. } => Advice::wait("try again when the VM there is done"),
            // the command asks who lives there in any case
            PeerVm::None | PeerVm::NotAsked => advice.and(here),
            PeerVm::Silent | PeerVm::Denied(_) => {
                Advice::wait(format!("try again when the front-end of {} answers", self.there))
            }
        }
    }

    /// Two images of one name, none of which is a copy of the other.
    fn keep_one_of_two(&self, image: &ImageSpec) -> Advice {
        let promote = format!("{} --force", mirror_image("promote", image));
        Advice::commands(Place::Here, [promote, aside(image)])
            .when("to keep that one")
            .and(Advice::command(self.over_there(), aside(image)).when("to keep this one"))
    }

    /// What an operator types on the site of a primary copy to have it mirrored as another image, which nobody has asked
    /// anything of. Ceph refuses to disable a single image of a pool that mirrors all that have a journal.
    fn mirrored_anew(&self, image: &ImageSpec, mode: Mode) -> Advice {
        let name = match mode {
            Mode::Journal => "journal",
            Mode::Snapshot => "snapshot",
        };
        let enable = format!("{} {name}", mirror_image("enable", image));
        let advice = Advice::commands(self.over_there(), [mirror_image("disable", image), enable])
            .when("have it copied here anew");
        match mode {
            Mode::Journal => {
                let again =
                    ["disable", "enable"].map(|verb| format!("rbd feature {verb} {image} journaling"));
                let whole_pool = Advice::commands(self.over_there(), again);
                advice.and(whole_pool.when("or in a pool that mirrors every image"))
            }
            Mode::Snapshot => advice,
        }
    }

    fn why(&self, observation: &Observation, cause: String, advice: Advice) -> Why {
        Why { image: observation.image.clone(), cause, advice }
    }

    fn refuse(&self, observation: &Observation, cause: String, advice: Advice) -> GateRuling {
        GateRuling::Refuse(self.why(observation, cause, advice))
    }

    /// Who answers and tells nothing is not silent: the real cause has to be put right, and no force is advised.
    fn denied(&self, observation: &Observation, what: &str, denial: &Denial) -> GateRuling {
        let cause = format!("{what} and {} {}", self.there, denial.cause.in_words());
        self.refuse(observation, cause, put_right(denial))
    }

    /// A token that is not understood. What a later release wrote is no fault of the image.
    fn unread(&self, observation: &Observation, token: &TokenSeen, at: Side) -> (Rule, GateRuling) {
        let site = if at == Side::Here { self.here } else { self.there };
        if *token == TokenSeen::Newer {
            let cause = format!("was handed over by a later onemirror than that of {}", self.here);
            let advice = Advice::wait(format!("upgrade onemirror on {} and try again", self.here));
            return (Rule::TokenNewer, self.refuse(observation, cause, advice));
        }
        let cause = format!("has an unreadable handoff token on {site}");
        (Rule::TokenUnreadable, self.refuse(observation, cause, self.without_token(observation, at)))
    }

    fn conflict(&self, observation: &Observation) -> GateRuling {
        let cause = format!("has tokens that contradict each other, here and on {}", self.there);
        self.refuse(observation, cause, self.keep_one(observation))
    }

    /// Only a primary copy takes a change of its metadata, and passes it on.
    pub(super) fn without_token(&self, observation: &Observation, at: Side) -> Advice {
        let image = &observation.image;
        let remove = format!("rbd image-meta remove {image} {}", crate::token::TOKEN_KEY);
        let is_primary = |copy: &Copy| copy.role == Role::Primary;
        let place = match (at, &observation.here, &observation.there) {
            (Side::Here, Here::Mirrored(here), _) if is_primary(here) => Place::Here,
            (_, _, There::Mirrored(there)) if is_primary(there) => self.over_there(),
            _ => return Advice::decide("who wrote it, and which copy counts (rbd image-meta list)"),
        };
        Advice::command(place, remove).when("if no onemirror wrote it")
    }

    fn split_brain(&self, observation: &Observation, here: &Copy, there: &Copy) -> GateRuling {
        // promoted under the other site's open token: a force that was killed before its own, or somebody's by hand
        let term =
            here.token.token().filter(|token| there.token.token() == Some(token) && !token.is_closed());
        let intruder = match term {
            // a VM that is active there may run without a gate
            Some(_) if matches!(observation.vm_there, PeerVm::Active { .. }) => None,
            Some(token) if token.site == self.here => Some(self.there),
            Some(token) if token.site == self.there => Some(self.here),
            Some(_) | None => None,
        };
        let cause = format!("is primary on {} and on {} (split brain)", self.here, self.there);
        let Some(site) = intruder else {
            return self.refuse(observation, cause, self.keep_one(observation));
        };
        let place = if site == self.here { Place::Here } else { self.over_there() };
        let advice = give_up(&observation.image, place).when("if nobody else wrote there");
        self.refuse(observation, format!("{cause}; no boot on {site} went through its gate"), advice)
    }

    fn restore_refused(&self, observation: &Observation) -> GateRuling {
        self.refuse(
            observation,
            "changed since this VM was suspended".into(),
            Advice::command(Place::Here, format!("onevm recover --recreate {}", self.vm))
                .when("its saved memory no longer fits; to start it without, on its disks as they are"),
        )
    }
}

/// The open token that `site` writes next. A copy that is primary under the other site's token was promoted by force, or
/// by hand, by somebody who did not live to write his own: what the other site has written since is not known here
/// while it does not answer, and has to be outranked as a force would.
pub(super) fn opening_token(here: &Copy, there: &There, site: &str) -> Token {
    let previous = previous_token(here, there);
    let others = here.token.token().is_some_and(|token| token.site != site);
    match here.role == Role::Primary && there.is_unseen() && others {
        true => Token::forced_after(previous, site),
        false => Token::open_after(previous, site),
    }
}

/// The token that the next one has to follow. Where the other site is silent, one of another image counts on as well: an
/// image that was mirrored anew is not told from a clone then, and the other site may still have the old one.
pub(super) fn previous_token<'a>(here: &'a Copy, there: &There) -> Option<&'a Token> {
    match there {
        There::Unreachable | There::Denied(_) | There::NotAsked => here.token.last(),
        There::Absent | There::Apart(_) | There::Mirrored(_) => here.token.token(),
    }
}

/// Whether a VM was booted under the present token.
pub(super) fn was_booted(here: &Copy) -> bool {
    match (here.token.token(), &here.booted) {
        (Some(token), Some(mark)) => mark.holds_in(token),
        _ => false,
    }
}

/// What to do about somebody who answers and tells nothing.
fn put_right(denial: &Denial) -> Advice {
    Advice::wait(format!("put that right, and see onemirror doctor ({})", denial.detail))
}

fn failover_by_force(vm: i32) -> String {
    format!("onemirror failover {vm} --force --reason TEXT")
}

fn mirror_image(verb: &str, image: &ImageSpec) -> String {
    format!("rbd mirror image {verb} {image}")
}

/// What has a copy of which nobody wants anything replaced by one of the other site's.
fn give_up(image: &ImageSpec, place: Place) -> Advice {
    Advice::commands(place, ["demote", "resync"].map(|verb| mirror_image(verb, image)))
}

pub(super) fn aside(image: &ImageSpec) -> String {
    format!("rbd mv {image} {image}.aside")
}

/// What opens a token of `site` on its copy that outranks the other one, with a boot of this VM.
pub(super) fn term_past(other: &Copy, own: &Copy, image: &ImageSpec, site: &str, vm: i32) -> Vec<Step> {
    let token = Token::open_after(other.token.token(), site);
    let mark = Mark::of(&token, vm);
    begin_term(own, image, token, mark)
}

/// What opens a token of this site. The mark comes last: where it stands, the token has been sent.
pub(super) fn begin_term(here: &Copy, image: &ImageSpec, token: Token, mark: Mark) -> Vec<Step> {
    let mut steps = vec![Step::WriteToken { at: Side::Here, image: image.clone(), token }];
    steps.extend(carried(here, image));
    steps.push(Step::MarkBooted { image: image.clone(), mark });
    steps
}

/// What sends this copy's metadata to the other one, where that does not happen by itself.
pub(super) fn carried(here: &Copy, image: &ImageSpec) -> Vec<Step> {
    match here.mode {
        Mode::Journal => vec![],
        Mode::Snapshot => vec![Step::MirrorSnapshot { at: Side::Here, image: image.clone() }],
    }
}

fn demote(observation: &Observation, at: Side) -> Step {
    Step::Demote { at, image: observation.image.clone() }
}

/// What makes the outranked copy here follow the other one, from the beginning. One that may hold writes that never
/// arrived there is kept under another name. `None`: there is no room for one more copy, so it stays as it is.
pub(super) fn give_way(observation: &Observation, here: &Copy, there: &Copy) -> Option<Vec<Step>> {
    let image = &observation.image;
    let mut steps = Vec::new();
    if observation.keeping == Keeping::Needless || only_followed(here, there) {
        if here.role == Role::Primary {
            steps.push(demote(observation, Side::Here));
        }
        // without a daemon the request would only lie about
        if here.report != Report::Down {
            steps.push(Step::Resync { image: image.clone() });
        }
        return Some(steps);
    }
    if observation.keeping != Keeping::Possible {
        return None;
    }
    if here.role == Role::NonPrimary {
        steps.push(Step::PromoteStale { image: image.clone() });
    }
    steps.push(Step::SetAside { image: image.clone() });
    Some(steps)
}

/// Whether the copy here, which is not primary, can hold nothing of its own by the tokens: its last token was closed, or
/// was the other site's, and nobody has forced anything since.
fn only_followed(here: &Copy, there: &Copy) -> bool {
    let other = |token: &Token| there.token.token().is_some_and(|there| there.site == token.site);
    here.role == Role::NonPrimary
        && !there.token.is_forced_past(&here.token)
        && here.token.token().is_some_and(|token| token.is_closed() || other(token))
}

/// What to do where a copy cannot be kept.
pub fn room_advice(observation: &Observation) -> Advice {
    let pool = observation.image.pool();
    if observation.keeping != Keeping::NoRoom {
        return Advice::wait(format!(
            "whether pool {pool} has room to keep this one is not known; try again when its cluster answers"
        ));
    }
    Advice::decide(format!("make room in pool {pool} for one more copy, so that this one can be kept"))
}
