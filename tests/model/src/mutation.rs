//! The protocol with one of its rules left out: the model has to find out what the rule is for.

use crate::decide::{Rules, SECOND_VM, Step, View, forced_without_stride};
use crate::storage::Site;
use onemirror_protocol::{
    Activity, Copy, Here, Home, ImageUser, Mark, Observation, PeerVm, Positions, Resync, Role, Seal, There,
    Token, TokenSeen,
};

/// What is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Nothing.
    #[default]
    None,
    /// Both copies are non-primary: promote whatever the tokens say.
    PromoteWithoutToken,
    /// Demote although the other copy does not follow.
    DemoteWithoutFollower,
    /// A VM is booted under a token that is closed.
    BootWithoutOpening,
    /// The copy here is not locked.
    NoLockHere,
    /// The copy there is not locked.
    NoLockThere,
    /// The peer's VM is not asked for.
    NoLookAtPeerVm,
    /// What was seen before a lock counts under it.
    NoLookUnderLocks,
    /// Whether a lock is still held is not asked before a step.
    NoLockCheck,
    /// Snapshot mode: the token alone proves the handoff.
    TokenWithoutSnapshot,
    /// A higher sequence of a non-primary copy there is overlooked.
    OverlookLeftover,
    /// A primary copy there is overlooked.
    OverlookSplitBrain,
    /// A forced promotion does not outrank what it has not seen.
    ForceWithoutStride,
    /// A front-end that has just come back believes what it was.
    NoTouchNeeded,
    /// Saved memory is loaded on whatever is there.
    RestoreAnyway,
    /// Who uses the image here is not looked at under the lock.
    ReleaseWhileInUse,
    /// A terminate believes that its VM is at its end, whatever its front-end has done since.
    TrustTerminate,
    /// Whether a copy is going to be thrown away is not looked at.
    OverlookResync,
    /// A copy that was half demoted is taken for a primary one.
    OverlookHalfDemoted,
    /// A release opens a token on a copy that was promoted by force and never booted on, while the other site is silent.
    TermWithoutBoot,
    /// A copy that is outranked is thrown away, whatever only it has.
    ThrowAway,
    /// A force outranks the other site whether a VM was booted after it or not.
    ForceWithoutBoot,
    /// Who lives there is not asked where the cluster there is silent.
    ForceAsksNobody,
    /// Marks that `rbd clone` brought along count as the image's own.
    CountForeignMarks,
    /// Of the VMs that have an image only the run's own one counts.
    CountOwnVmOnly,
    /// The role of the site says where an image belongs.
    RoleIsHome,
    /// A VM that OpenNebula is about to start again uses nothing.
    PendingIsFree,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::PromoteWithoutToken,
        Self::DemoteWithoutFollower,
        Self::BootWithoutOpening,
        Self::NoLockHere,
        Self::NoLockThere,
        Self::NoLookAtPeerVm,
        Self::NoLookUnderLocks,
        Self::NoLockCheck,
        Self::TokenWithoutSnapshot,
        Self::OverlookLeftover,
        Self::OverlookSplitBrain,
        Self::ForceWithoutStride,
        Self::NoTouchNeeded,
        Self::RestoreAnyway,
        Self::ReleaseWhileInUse,
        Self::TrustTerminate,
        Self::OverlookResync,
        Self::OverlookHalfDemoted,
        Self::TermWithoutBoot,
        Self::ThrowAway,
        Self::ForceWithoutBoot,
        Self::ForceAsksNobody,
        Self::CountForeignMarks,
        Self::CountOwnVmOnly,
        Self::RoleIsHome,
        Self::PendingIsFree,
    ];

    /// Whether the copies on this side are locked.
    pub fn locks(self, here: bool) -> bool {
        self != if here { Self::NoLockHere } else { Self::NoLockThere }
    }

    /// Whether one looks again under the lock there.
    pub fn looks_under_locks(self) -> bool {
        self != Self::NoLookUnderLocks
    }

    /// Whether a lock is checked before each step.
    pub fn checks_locks(self) -> bool {
        self != Self::NoLockCheck
    }

    /// Takes away those users that the rule is about.
    pub fn users(self, rules: Rules, mut users: Vec<ImageUser>) -> Vec<ImageUser> {
        let ends = rules == (Rules::Release { at_its_end: true });
        match self {
            Self::ReleaseWhileInUse => users.clear(),
            Self::TrustTerminate if ends => users.retain(|user| user.vm == SECOND_VM),
            Self::CountOwnVmOnly => users.retain(|user| user.vm != SECOND_VM),
            Self::PendingIsFree => users.retain(|user| user.activity != Activity::ToBeStarted),
            _ => {}
        }
        users
    }

    /// Takes away what an image says of its home.
    pub fn blur_home(self, copy: &mut Copy) {
        if self == Self::RoleIsHome {
            copy.home = Home::Unset;
        }
    }

    /// Takes away what the rule looks at.
    pub fn blur(self, rules: Rules, site: Site, observation: &mut Observation) {
        if self == Self::RoleIsHome {
            for copy in copies(observation) {
                self.blur_home(copy);
            }
        }
        if self == Self::ForceAsksNobody && observation.there == There::Unreachable {
            observation.vm_there = PeerVm::Silent;
        }
        // what a force is judged by is not what these rules are about
        if rules == Rules::Force {
            return;
        }
        if self == Self::NoLookAtPeerVm {
            observation.vm_there = PeerVm::None;
        }
        observation.in_touch_since_reboot |= self == Self::NoTouchNeeded;
        if self == Self::TermWithoutBoot && matches!(rules, Rules::Release { .. }) {
            close_in_silence(site, observation);
        }
        if let (Here::Mirrored(here), There::Mirrored(there)) =
            (&mut observation.here, &mut observation.there)
        {
            self.blur_pair(rules, site, here, there);
        }
    }

    /// Takes away what the rule compares of the two copies.
    fn blur_pair(self, rules: Rules, site: Site, here: &mut Copy, there: &mut Copy) {
        for copy in [&mut *here, &mut *there] {
            if self == Self::OverlookHalfDemoted && copy.role == Role::HalfDemoted {
                copy.role = Role::Primary;
            }
        }
        let gate = matches!(rules, Rules::Gate { .. });
        let name = crate::decide::NAMES[site];
        let neither = here.role == Role::NonPrimary && there.role == Role::NonPrimary;
        match self {
            Self::PromoteWithoutToken if gate && neither => {
                let token = Token::close_after(here.token.token().max(there.token.token()), name, "1");
                here.token = TokenSeen::Some(token.clone());
                there.token = TokenSeen::Some(token);
                here.positions = Positions::Complete;
            }
            Self::DemoteWithoutFollower if gate && there.role == Role::Primary => {
                here.token = there.token.clone();
            }
            Self::DemoteWithoutFollower if !gate => there.token = here.token.clone(),
            Self::ForceWithoutBoot => there.forced = None,
            Self::OverlookResync => {
                (here.resync, there.resync) = (Resync::None, Resync::None);
            }
            Self::TokenWithoutSnapshot => here.positions = Positions::Complete,
            Self::OverlookLeftover if here.role == Role::Primary && there.role == Role::NonPrimary => {
                there.token = here.token.clone();
            }
            Self::OverlookSplitBrain if here.role == Role::Primary && there.role == Role::Primary => {
                there.role = Role::NonPrimary;
                there.token = here.token.clone();
            }
            Self::BootWithoutOpening if gate && here.role == Role::Primary => count_as_opened(site, here),
            _ => {}
        }
    }

    /// Leaves out what the rule does.
    pub fn damage(self, steps: &mut Vec<Step>, site: Site, views: &[View]) {
        let is_forced = steps.iter().any(|step| matches!(step, Step::Forced(..)));
        if self == Self::ForceWithoutStride && is_forced {
            for step in &mut *steps {
                let Some(view) = views.iter().find(|view| view.image == step.image()) else { continue };
                let weak = forced_without_stride(site, view);
                match step {
                    Step::Token(_, _, token) => *token = weak,
                    Step::Forced(_, _, mark) => mark.sequence = weak.sequence,
                    _ => {}
                }
            }
        }
        if self == Self::BootWithoutOpening && steps.iter().any(|step| matches!(step, Step::Promote(..))) {
            steps.retain(|step| !matches!(step, Step::Token(..) | Step::Booted(..)));
        }
        if self == Self::ThrowAway {
            *steps = steps.iter().flat_map(|step| thrown_away(*step)).collect();
        }
    }
}

/// The other site's open token on the copy here counts as closed while that site is silent.
fn close_in_silence(site: Site, observation: &mut Observation) {
    if observation.there == There::Unreachable
        && let Here::Mirrored(here) = &mut observation.here
        && let TokenSeen::Some(token) = &mut here.token
        && token.site != crate::decide::NAMES[site]
        && !token.is_closed()
    {
        token.seal = Seal::Closed("1".to_owned());
    }
}

/// A token that is closed counts as the site's own open one, under which it has booted.
fn count_as_opened(site: Site, copy: &mut Copy) {
    if let TokenSeen::Some(token) = &mut copy.token
        && token.is_closed()
    {
        *token = Token { site: crate::decide::NAMES[site].into(), seal: Seal::Open, ..token.clone() };
        copy.booted = Some(Mark::of(token, i32::from(site != 0)));
    }
}

fn copies(observation: &mut Observation) -> impl Iterator<Item = &mut Copy> {
    let here = match &mut observation.here {
        Here::Mirrored(copy) => Some(copy),
        _ => None,
    };
    let there = match &mut observation.there {
        There::Mirrored(copy) => Some(copy),
        _ => None,
    };
    here.into_iter().chain(there)
}

/// What would be done instead of keeping a copy.
fn thrown_away(step: Step) -> Vec<Step> {
    match step {
        Step::PromoteStale(..) => vec![],
        Step::NoteLost(site, image) => vec![Step::Demote(site, image), Step::Resync(site, image)],
        Step::Rename(..) | Step::StopMirroring(..) => vec![],
        other => vec![other],
    }
}
