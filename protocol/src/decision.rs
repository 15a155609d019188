//! Decisions as data: what to do next, what to wait for, or why not.

use super::token::{Mark, Token};
use crate::advice::Advice;
use crate::image::ImageSpec;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

/// One change to one copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Writes the handoff token on a primary copy.
    WriteToken {
        /// Whose copy.
        at: Side,
        /// The image.
        image: ImageSpec,
        /// The token.
        token: Token,
    },
    /// Notes on the primary copy here that the VM was booted under this token.
    MarkBooted {
        /// The image.
        image: ImageSpec,
        /// The token and the VM.
        mark: Mark,
    },
    /// Notes on the primary copy here that it is to be handed over.
    MarkRelease {
        /// The image.
        image: ImageSpec,
        /// The token and the VM.
        mark: Mark,
    },
    /// Writes down on the primary copy here where the image belongs.
    WriteHome {
        /// The image.
        image: ImageSpec,
        /// The site.
        site: String,
    },
    /// Takes a mirror snapshot, which carries metadata over (snapshot mode).
    MirrorSnapshot {
        /// Whose copy.
        at: Side,
        /// The image.
        image: ImageSpec,
    },
    /// Takes the copy there away from whoever writes to it, for good.
    Fence {
        /// The image.
        image: ImageSpec,
    },
    /// Makes a copy non-primary.
    Demote {
        /// Whose copy.
        at: Side,
        /// The image.
        image: ImageSpec,
    },
    /// Makes a copy primary, by Ceph's own check: never by force.
    Promote {
        /// Whose copy.
        at: Side,
        /// The image.
        image: ImageSpec,
    },
    /// Makes the copy here primary because an operator says so: what has not arrived is lost.
    PromoteByForce {
        /// The image.
        image: ImageSpec,
    },
    /// Notes on the copy here, which was promoted by force or is primary, who forced it and why.
    MarkForced {
        /// The image.
        image: ImageSpec,
        /// The term that the force opens, and the VM.
        mark: Mark,
    },
    /// Writes the token of the term that a force opens on the copy here.
    OpenByForce {
        /// The image.
        image: ImageSpec,
        /// The token.
        token: Token,
    },
    /// Has the copy here thrown away and copied again from there.
    Resync {
        /// The image.
        image: ImageSpec,
    },
    /// Makes the outranked copy here primary, by force, so that it can be set aside.
    PromoteStale {
        /// The image.
        image: ImageSpec,
    },
    /// Keeps the outranked copy here under another name, no longer mirrored, and so has a new one copied from there.
    SetAside {
        /// The image.
        image: ImageSpec,
    },
}

impl Step {
    /// The image it changes.
    pub fn image(&self) -> &ImageSpec {
        match self {
            Self::WriteToken { image, .. }
            | Self::MarkBooted { image, .. }
            | Self::MarkRelease { image, .. }
            | Self::WriteHome { image, .. }
            | Self::MirrorSnapshot { image, .. }
            | Self::Fence { image }
            | Self::Demote { image, .. }
            | Self::Promote { image, .. }
            | Self::PromoteByForce { image }
            | Self::MarkForced { image, .. }
            | Self::OpenByForce { image, .. }
            | Self::Resync { image }
            | Self::PromoteStale { image }
            | Self::SetAside { image } => image,
        }
    }

    /// The copy it changes.
    pub fn side(&self) -> Side {
        match self {
            Self::WriteToken { at, .. }
            | Self::MirrorSnapshot { at, .. }
            | Self::Demote { at, .. }
            | Self::Promote { at, .. } => *at,
            Self::Fence { .. } => Side::There,
            Self::MarkBooted { .. }
            | Self::MarkRelease { .. }
            | Self::WriteHome { .. }
            | Self::PromoteByForce { .. }
            | Self::MarkForced { .. }
            | Self::OpenByForce { .. }
            | Self::Resync { .. }
            | Self::PromoteStale { .. }
            | Self::SetAside { .. } => Side::Here,
        }
    }

    /// The step's name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WriteToken { token, .. } if token.is_closed() => "close-token",
            Self::WriteToken { .. } => "open-token",
            Self::MarkBooted { .. } => "mark-booted",
            Self::MarkRelease { .. } => "mark-release",
            Self::WriteHome { .. } => "write-home",
            Self::MirrorSnapshot { .. } => "mirror-snapshot",
            Self::Fence { .. } => "fence",
            Self::Demote { .. } => "demote",
            Self::Promote { .. } => "promote",
            Self::PromoteByForce { .. } => "promote-force",
            Self::MarkForced { .. } => "mark-forced",
            Self::OpenByForce { .. } => "open-token",
            Self::Resync { .. } => "resync",
            Self::PromoteStale { .. } => "promote-stale",
            Self::SetAside { .. } => "set-aside",
        }
    }
}

/// One of the two sites, seen from this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// This site.
    Here,
    /// The peer.
    There,
}

impl Side {
    /// `here` or `there`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::There => "there",
        }
    }
}

/// What has to happen before the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitFor {
    /// The copy that is to take over shows the other's open token: its daemon follows.
    Follow,
    /// The last writes, and the demotion after them, arrive here.
    Arrival,
    /// The VM there, on its way out, is gone.
    PeerVm,
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follow => "the other copy to follow",
            Self::Arrival => "the last writes to arrive",
            Self::PeerVm => "the other VM to let go",
        })
    }
}

/// A refusal: one plain sentence that begins with the image and the cause, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Refusal {
    /// The image.
    #[serde(serialize_with = "as_text")]
    pub image: ImageSpec,
    /// `is primary on site-b, where VM 0 is RUNNING`.
    pub cause: String,
    /// What to do: `on site-b: onevm poweroff 0`.
    pub advice: Advice,
    /// The rule that refused.
    pub rule: Rule,
}

fn as_text<T: fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // oned cuts after about 60 characters: the image's own name and the cause come first
        write!(f, "{} {}; {}", self.image.image(), self.cause, self.advice)
    }
}

/// The rule that decided about an image. Every rule has fired in a test.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    strum::EnumIter,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it; the functions that return them say why")]
pub enum Rule {
    // before a boot
    NotMirrored,
    AbsentLeftToStockDriver,
    AbsentPeerUnreachable,
    NotYetCopied,
    NotCopied,
    TwoVmsOwnTheImage,
    TokenUnreadable,
    TokenNewer,
    NoRoomHere,
    PrimaryHere,
    HomeHere,
    OpenTokenHere,
    PrimaryHerePeerUnreachableAllowed,
    PrimaryHerePeerUnreachableRefused,
    PrimaryHereNotInTouchSinceReboot,
    PrimaryHereByForce,
    HalfDemotedHere,
    HalfDemotedThere,
    HalfDemotedPeerUnreachable,
    StaleLeftoverHere,
    SplitBrainStaleHere,
    SplitBrainStaleThere,
    SplitBrainUndecided,
    ForcedAndNeverBootedThere,
    NoRoomToKeep,
    ForcedApart,
    RestoreOnChangedDisk,
    NonPrimaryPeerUnreachable,
    PeerDenied,
    ForcedInPart,
    OfTwoAges,
    NonPrimaryWithoutOtherCopy,
    NonPrimaryApart,
    NotWhole,
    RunningThere,
    LettingGoThere,
    PeerFrontEndUnknown,
    PeerFrontEndDenied,
    SplitBrainedCopyHere,
    OpenTokenThere,
    CarryTokenHere,
    NotFollowingYet,
    ResyncAskedThere,
    TakeOver,
    BootingThere,
    HandoffProven,
    HandoffSnapshotIncomplete,
    LastWriterHere,
    WritesOnTheirWay,
    StrandedLastWriterThere,
    PositionsProveHere,
    PositionsProveThere,
    NoProof,
    TokenConflict,
    // after a VM let go
    ReleaseNotMirrored,
    ReleaseAlreadyDone,
    ReleaseTokenUnread,
    ReleaseAtHome,
    ReleaseHomeUnknown,
    ReleaseInUseHere,
    ReleaseHalfDemoted,
    ReleaseStaleHere,
    ReleaseSplitBrain,
    ReleasePeerUnreachable,
    ReleaseNeverBooted,
    ReleasePeerHasNoCopy,
    ReleaseOpenToken,
    ReleaseMark,
    ReleaseResyncAsked,
    ReleaseNoRoomThere,
    ReleaseCarryToken,
    ReleaseWaitForFollower,
    ReleasePending,
    ReleaseFinish,
    ReleaseHandOver,
    // when a site, a host or a timer comes round
    UpkeepNothing,
    UpkeepTokenUnread,
    UpkeepHome,
    UpkeepInUseHere,
    UpkeepHalfDemoted,
    UpkeepSplitBrainStaleHere,
    UpkeepStaleLeftoverHere,
    UpkeepSplitBrainUndecided,
    UpkeepStaleInUseThere,
    UpkeepForcedAndNeverBootedThere,
    UpkeepNoRoomToKeep,
    UpkeepSplitBrainedCopyHere,
    UpkeepOpenToken,
    UpkeepRelease,
    UpkeepPassOn,
    UpkeepPrimaryNowhere,
    // of an operator's force
    ForceNothingHere,
    ForceApart,
    ForceHalfCopied,
    ForceOpenThere,
    ForceInUseThere,
    ForceMayBeInUseThere,
    ForcePeerDenied,
    ForcePeerFrontEndDenied,
    // when an operator says where an image belongs
    RehomePrimaryNowhere,
    RehomeNotPrimary,
    RehomeTokenUnread,
    RehomeChanged,
    RehomeInUse,
    RehomeNoProof,
}

impl Rule {
    /// The rule's name in logs and tables.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// What a refusal by this rule is known by, in OpenNebula and in docs/refusals.md; none where the rule never refuses. A
    /// number that was given once stays.
    pub fn code(self) -> Option<Code> {
        Some(Code(match self {
            Self::AbsentPeerUnreachable => 11,
            Self::NotYetCopied => 12,
            Self::NotCopied => 13,
            Self::TwoVmsOwnTheImage => 14,
            Self::NonPrimaryWithoutOtherCopy => 15,
            Self::NonPrimaryApart => 16,
            Self::NotWhole => 17,
            Self::NonPrimaryPeerUnreachable => 21,
            Self::PrimaryHerePeerUnreachableRefused => 22,
            Self::PrimaryHereNotInTouchSinceReboot => 23,
            Self::PeerFrontEndUnknown => 24,
            Self::HalfDemotedPeerUnreachable => 25,
            Self::PeerDenied => 26,
            Self::PeerFrontEndDenied => 27,
            Self::RunningThere => 31,
            Self::LettingGoThere => 32,
            Self::BootingThere => 33,
            Self::NotFollowingYet => 41,
            Self::ResyncAskedThere => 42,
            Self::HandoffSnapshotIncomplete => 43,
            Self::WritesOnTheirWay => 44,
            Self::NoProof => 45,
            Self::NoRoomHere => 46,
            Self::StaleLeftoverHere => 51,
            Self::SplitBrainStaleHere => 52,
            Self::SplitBrainUndecided => 53,
            Self::ForcedApart => 54,
            Self::TokenConflict => 55,
            Self::TokenUnreadable => 56,
            Self::TokenNewer => 57,
            Self::ForcedInPart => 58,
            Self::ForcedAndNeverBootedThere => 59,
            Self::OfTwoAges => 60,
            Self::RestoreOnChangedDisk => 61,
            Self::NoRoomToKeep => 62,
            Self::UpkeepTokenUnread => 63,
            Self::UpkeepInUseHere => 64,
            Self::UpkeepStaleInUseThere => 65,
            Self::UpkeepSplitBrainUndecided => 66,
            Self::UpkeepForcedAndNeverBootedThere => 67,
            Self::UpkeepNoRoomToKeep => 68,
            Self::UpkeepPrimaryNowhere => 69,
            Self::ForceNothingHere => 71,
            Self::ForceApart => 72,
            Self::ForceHalfCopied => 73,
            Self::ForceOpenThere => 74,
            Self::ForceInUseThere => 75,
            Self::ForceMayBeInUseThere => 76,
            Self::ForcePeerDenied => 77,
            Self::ForcePeerFrontEndDenied => 78,
            Self::RehomePrimaryNowhere => 81,
            Self::RehomeNotPrimary => 82,
            Self::RehomeTokenUnread => 83,
            Self::RehomeChanged => 84,
            Self::RehomeInUse => 85,
            Self::RehomeNoProof => 86,
            _ => return None,
        }))
    }
}

/// A short name for a refusal, `OM31`: it fits into the little that OpenNebula shows of a sentence, and the documentation
/// goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u16);

impl Code {
    /// No rule refused: what is wrong stands in the sentence.
    pub const NO_RULE: Self = Self(90);
    /// Another run works at the image, or it has just changed.
    pub const BUSY: Self = Self(91);
    /// A front-end does not answer as it should.
    pub const OPENNEBULA: Self = Self(92);
    /// A cluster does not answer as it should.
    pub const CEPH: Self = Self(93);
    /// A disk of the VM is not to be understood.
    pub const DISK: Self = Self(94);
    /// onemirror.conf is not as it should be.
    pub const CONFIGURATION: Self = Self(95);
    /// A force ended before all images were forced.
    pub const FORCED_IN_PART: Self = Self(96);

    pub(crate) const fn of(number: u16) -> Self {
        Self(number)
    }

    /// The code that a text begins with, if it does.
    pub fn begins(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(CODE_PREFIX)?.split_once(' ')?.0;
        let code = Self(digits.parse().ok()?);
        // two digits, or three with which no other text of ours begins
        (code.0 < 200 && code.to_string().strip_prefix(CODE_PREFIX) == Some(digits)).then_some(code)
    }
}

const CODE_PREFIX: &str = "OM";

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CODE_PREFIX}{:02}", self.0)
    }
}

/// What a rule says of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The image.
    pub image: ImageSpec,
    /// The rule.
    pub rule: Rule,
}

/// What to do about a VM's images now. After [`Decision::Act`] and [`Decision::Wait`] one looks again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing (more) to do: the VM may boot, the release is complete.
    Done,
    /// Take the lock of the copies there too, look again, decide again.
    LockThere,
    /// Carry these out in this order, then look again.
    Act(Vec<Step>),
    /// Let the locks go, wait a moment, look again.
    Wait {
        /// For what.
        what: WaitFor,
        /// Of which image.
        image: ImageSpec,
    },
    /// Carry out the steps, if any, and refuse.
    Refuse {
        /// Why.
        refusal: Refusal,
        /// What is safe and useful to do meanwhile.
        then: Vec<Step>,
    },
}

/// A decision and the rules that led to it, one per image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What to do.
    pub decision: Decision,
    /// Why.
    pub findings: Vec<Finding>,
}
