//! What was seen of an image on both sites, in the terms that decisions need.

use super::home::Home;
use super::token::{FORCED_STRIDE, Mark, Token};
use crate::advice::{Advice, Place};
use crate::image::ImageSpec;
use crate::room::Fullness;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// One image of a VM, as seen on both sites.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// Its name, the same on both sites.
    pub image: ImageSpec,
    /// The copy in this site's cluster.
    pub here: Here,
    /// The copy in the peer's cluster.
    pub there: There,
    /// The VM of the peer's front-end that uses the image.
    pub vm_there: PeerVm,
    /// A VM of this site may be using the copy here, or its saved memory belongs to it: for a release any VM but the one that
    /// lets it go, for a boot any but the one that boots. Only looked up where something depends on it.
    pub used_here_by: Option<i32>,
    /// What VMs of this site do with it. Only looked up for reconcile.
    pub uses_here: UsesHere,
    /// Somebody has the copy there open for writing. Only looked up where an operator says that the site is off.
    pub is_open_there: bool,
    /// Both front-ends have a VM that made this image as its own clone or volatile disk: two VMs that share a
    /// name by accident.
    pub owned_by_both: bool,
    /// It is the clone or volatile disk of a VM of this site.
    pub made_here: bool,
    /// The copy there was seen since this host was booted, and did not contradict the one here. Only looked up while
    /// the peer cannot be asked.
    pub in_touch_since_reboot: bool,
    /// The copy here is a clone that comes by mirror snapshots, and Ceph leaves out of these what its base holds.
    pub lacks_its_base: bool,
    /// What may become of the copy here, if the other one outranks it.
    pub keeping: Keeping,
    /// What was set aside of the image on this site, the newest. Only looked up where the image itself is not here.
    pub set_aside: Option<SetAside>,
}

impl Observation {
    /// An image of which nothing is known yet.
    pub fn unseen(image: ImageSpec) -> Self {
        Self {
            image,
            here: Here::NotMirrored,
            there: There::NotAsked,
            vm_there: PeerVm::NotAsked,
            used_here_by: None,
            uses_here: UsesHere::default(),
            is_open_there: false,
            owned_by_both: false,
            made_here: false,
            in_touch_since_reboot: false,
            lacks_its_base: false,
            keeping: Keeping::Unknown,
            set_aside: None,
        }
    }
}

/// What VMs of this site do with an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UsesHere {
    /// One has it, in whatever state.
    pub by_any: bool,
    /// One may be using it, or its saved memory belongs to it.
    pub in_use: bool,
    /// The one that runs on it (RUNNING, not only booting).
    pub running: Option<i32>,
    /// The one that was last booted on it, if that one is gone for good and the image is to be handed over then. Its end
    /// may have come where nothing could be noted in the image.
    pub ended: Option<i32>,
}

/// A copy that was outranked on this site, and is kept here under another name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetAside {
    /// How it is called.
    pub copy: ImageSpec,
    /// The VM's disk that it was a copy of.
    pub disk: i32,
    /// When: in seconds since 1970, the same for all disks of a VM that were lost together.
    pub since: i64,
    /// Another disk of the VM that is of another time: the two together are no VM. Filled in by [`tell_sets_apart`].
    pub apart_from: Option<ImageSpec>,
}

/// Tells of each of a VM's disks that was set aside whether another disk is of another time.
pub fn tell_sets_apart(here: &str, observations: &mut [&mut Observation]) {
    let taken: Vec<_> = observations.iter().map(|seen| (seen.image.clone(), seen.age(here))).collect();
    for seen in observations {
        let Some(set_aside) = &mut seen.set_aside else { continue };
        let others = taken.iter().filter(|(image, _)| *image != seen.image);
        let mut apart = others.filter(|(_, time)| match time {
            DiskAge::SetAside(since) => *since != set_aside.since,
            DiskAge::TheOthers => true,
            DiskAge::NotTold => false,
        });
        set_aside.apart_from = apart.next().map(|(image, _)| image.clone());
    }
}

/// What a disk holds, beside one that was set aside.
enum DiskAge {
    /// What was set aside then.
    SetAside(i64),
    /// What the other site had.
    TheOthers,
    /// Nothing tells.
    NotTold,
}

impl Observation {
    fn age(&self, here: &str) -> DiskAge {
        match (&self.here, &self.set_aside) {
            (Here::Absent, Some(set_aside)) => DiskAge::SetAside(set_aside.since),
            (Here::Mirrored(copy), _) if copy.token.token().is_some_and(|token| token.site != here) => {
                DiskAge::TheOthers
            }
            (Here::Absent | Here::NotMirrored | Here::Mirrored(_), _) => DiskAge::NotTold,
        }
    }
}

/// Whether a copy that is outranked has to be kept, and can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keeping {
    /// Not asked, or not known.
    #[default]
    Unknown,
    /// The other copy has everything that was ever written to it.
    Needless,
    /// It may hold writes of its own, and there is room for one more copy.
    Possible,
    /// It may hold writes of its own, and there is no room for one more copy.
    NoRoom,
}

/// The copy in this site's cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "a handful of them, and nearly all hold a copy")]
pub enum Here {
    /// There is no such image.
    Absent,
    /// It exists and is not mirrored.
    NotMirrored,
    /// It is one of two copies.
    Mirrored(Copy),
}

/// The copy in the peer's cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum There {
    /// Not looked at, because nothing depends on it.
    NotAsked,
    /// The cluster does not answer.
    Unreachable,
    /// The cluster answers, and tells nothing.
    Denied(Denial),
    /// There is no such image.
    Absent,
    /// There is one of this name, and it is not the other copy of the one here: it is mirrored as another image, or not
    /// at all.
    Apart(Apart),
    /// It is one of two copies.
    Mirrored(Copy),
}

/// An image of the same name that is not the other copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Apart {
    /// The handoff token that it shows.
    pub token: TokenSeen,
    /// The token that an operator opened on it by force.
    pub forced: Option<Mark>,
}

impl Apart {
    /// Whether an operator forced a promotion there since `previous`, however far that has got unseen. The note of it
    /// stays when the image is mirrored anew and begins to count anew.
    pub fn is_forced_past(&self, previous: &TokenSeen) -> bool {
        let forced = self.forced.as_ref().map_or(0, |mark| mark.sequence);
        is_a_force_later(self.token.sequence().max(forced), previous)
    }
}

impl There {
    /// Whether nothing is known of the copy there.
    pub fn is_unseen(&self) -> bool {
        matches!(self, Self::NotAsked | Self::Unreachable | Self::Denied(_))
    }

    /// What a site does instead of telling of its copy, to stand behind its name.
    pub(super) fn why_unseen(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.cause.in_words(),
            _ => "does not answer",
        }
    }
}

/// The answer of somebody who tells nothing. That is no silence: the site may be well, and its VMs run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denial {
    /// Why.
    pub cause: DenialCause,
    /// The same in the words of whoever was asked.
    pub detail: String,
}

/// Why somebody who answers tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialCause {
    /// The key or the password is wrong, or has too few rights.
    Access,
    /// There is no connection that can be trusted: a certificate.
    Certificate,
    /// The answer is not understood, or an error that says nothing of the site.
    Unintelligible,
    /// A front-end of several servers that have no leader.
    NoLeader,
    /// It was not asked: this site's own files do not tell how.
    NoWay,
}

impl DenialCause {
    /// To stand behind the name of a site.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Access => "denies access",
            Self::Certificate => "shows a bad certificate",
            Self::Unintelligible => "gives no usable answer",
            Self::NoLeader => "has no leader now",
            Self::NoWay => "cannot be asked from here",
        }
    }
}

/// Whether this sequence was reached by a force since `previous`.
fn is_a_force_later(sequence: u64, previous: &TokenSeen) -> bool {
    sequence >= previous.sequence().saturating_add(FORCED_STRIDE / 2)
}

/// One of the two copies of a mirrored image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Live, from `rbd info`.
    pub role: Role,
    /// Journal or snapshot.
    pub mode: Mode,
    /// The handoff token that this copy shows.
    pub token: TokenSeen,
    /// The token or the mark of the boot counts, and does not name this image.
    pub is_unbound: bool,
    /// The token under which the VM was last booted cold.
    pub booted: Option<Mark>,
    /// A release that was asked for.
    pub release: Option<Mark>,
    /// The token that an operator opened by force.
    pub forced: Option<Mark>,
    /// Who forced it said that the other site is off, whatever its front-end says.
    pub other_site_is_off: bool,
    /// Where the image belongs.
    pub home: Home,
    /// What the daemon of this copy's own site last reported; up to 30 s and more old.
    pub report: Report,
    /// Whether its daemon is going to throw this copy away, whatever it shows until then.
    pub resync: Resync,
    /// Whether this copy has everything the other one has, by journal positions or mirror snapshots.
    pub positions: Positions,
}

/// Whether a resync of a copy was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resync {
    /// It was not.
    #[default]
    None,
    /// Somebody was about to ask, or says that he has; whether Ceph heard it is not known.
    Noted,
    /// Ceph keeps the request until the copy is another one.
    Asked,
}

impl Resync {
    /// Whether the copy may be thrown away at any moment.
    pub fn is_pending(self) -> bool {
        self != Self::None
    }
}

/// Primary or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Writable.
    Primary,
    /// Called primary by Ceph, and writable for nobody: its demotion or promotion was killed half-way (snapshot mode).
    /// Only a demotion leads out of that.
    HalfDemoted,
    /// Follows, or waits.
    NonPrimary,
}

/// How the image is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By journal.
    Journal,
    /// By mirror snapshots.
    Snapshot,
}

/// The token found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenSeen {
    /// None: no VM was booted on this image since onemirror came.
    None,
    /// A token.
    Some(Token),
    /// One that was written for another image, of which this one is a clone or a copy. It counts for nothing.
    OfAnother(Token),
    /// Something that a later release wrote; nothing may be concluded from it.
    Newer,
    /// Something that onemirror did not write.
    Unreadable,
}

impl Copy {
    /// Whether an operator promoted it by force, and no VM was booted on it since through its gate. That proves nothing
    /// about what was written to it.
    pub fn is_forced_and_never_booted(&self) -> bool {
        let holds = |mark: &Option<Mark>| {
            self.token.token().is_some_and(|token| mark.as_ref().is_some_and(|mark| mark.holds_in(token)))
        };
        self.role == Role::Primary && holds(&self.forced) && !holds(&self.booted)
    }

    /// Whether `site` gave this copy of its own up with all of its writes, and the other one was forced before they had
    /// arrived, and never booted on: it opened no token of its own in between, or it would count from a later one.
    pub fn is_given_up_to_a_vain_force(&self, site: &str, other: &Copy) -> bool {
        let closed = self.token.token().filter(|token| token.is_closed() && token.site == site);
        closed.is_some_and(|token| {
            self.role == Role::NonPrimary
                && other.is_forced_and_never_booted()
                && other.token.sequence() <= token.sequence.saturating_add(FORCED_STRIDE)
        })
    }
}

impl TokenSeen {
    /// The token, if there is a readable one.
    pub fn token(&self) -> Option<&Token> {
        match self {
            Self::Some(token) => Some(token),
            Self::None | Self::OfAnother(_) | Self::Newer | Self::Unreadable => None,
        }
    }

    /// The token found, also where it is another image's: an image that was mirrored anew while the other site is silent
    /// cannot be told from a clone, and has to go on counting.
    pub fn last(&self) -> Option<&Token> {
        match self {
            Self::Some(token) | Self::OfAnother(token) => Some(token),
            Self::None | Self::Newer | Self::Unreadable => None,
        }
    }

    /// Whether it says something that is not understood here.
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::Newer | Self::Unreadable)
    }

    /// Whether an operator forced a promotion since `previous`, however far that has got unseen.
    pub fn is_forced_past(&self, previous: &TokenSeen) -> bool {
        is_a_force_later(self.sequence(), previous)
    }

    /// Its place in the history; 0 where there is none.
    pub fn sequence(&self) -> u64 {
        self.token().map_or(0, |token| token.sequence)
    }
}

/// What a daemon reported of its copy. A report is stale by up to 30 s: it may delay or explain, never permit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// Follows the other copy.
    Replaying,
    /// Is being copied for the first time or again, so many percent done where known.
    Syncing(Option<u8>),
    /// "split-brain detected": only a resync clears it.
    SplitBrain,
    /// "remote image is not primary" or another stop: it does not follow now.
    Stopped,
    /// The daemon is down, or has not reported.
    Down,
    /// The copy's pool takes no writes, so it follows nothing and cannot change hands.
    NoRoom(Box<Fullness>),
    /// The local image is primary, or nothing is known.
    Other,
}

/// Whether a copy has everything that the other one has. Only asked for where no token tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Positions {
    /// Not asked, or not known.
    Unknown,
    /// It has everything, the other's demotion included.
    Complete,
    /// It has not.
    Behind,
}

/// The VM of the peer's front-end that uses the image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerVm {
    /// Not asked, because nothing depends on it.
    NotAsked,
    /// The front-end does not answer.
    Silent,
    /// The front-end answers, and tells nothing.
    Denied(Denial),
    /// None.
    None,
    /// It cannot be using the disk: POWEROFF, UNDEPLOYED, HOLD, a failed boot …
    Inactive {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words.
        state: String,
    },
    /// It is on its way out: SHUTDOWN, EPILOG …
    LettingGo {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words.
        state: String,
    },
    /// Its domain may use the disk, or its saved memory belongs to the disk as it is.
    Active {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words.
        state: String,
        /// Whether it may write.
        domain: Domain,
        /// How it is brought to let its disks go.
        way_out: WayOut,
    },
}

/// How a VM is brought to let its disks go, by its state, without the loss of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WayOut {
    /// It runs, or is worked on.
    PowerOff,
    /// It waits for a host.
    Hold,
    /// Only its memory is left, which belongs to its disks.
    ResumeFirst,
    /// A step of its end failed.
    Retry,
    /// Its host died, or is not reached.
    HostOff,
}

impl WayOut {
    /// What to type on its own site, which is there.
    pub fn advice(self, vm: i32, place: Place) -> Advice {
        let off = format!("onevm poweroff {vm}");
        let first = |command: String| Advice::command(place.clone(), command).once_it_runs(off.clone());
        match self {
            Self::PowerOff => Advice::command(place, off),
            Self::Hold => Advice::command(place, format!("onevm hold {vm}")),
            Self::ResumeFirst => first(format!("onevm resume {vm}")),
            Self::Retry => Advice::command(place, format!("onevm recover --retry {vm}")),
            Self::HostOff => {
                first(format!("onevm recover --recreate {vm}")).when("when its host is off for certain")
            }
        }
    }

    /// The same where the disk is stale: memory that was saved on it is worth nothing any more.
    pub fn stale_advice(self, vm: i32, place: Place) -> Advice {
        match self {
            Self::ResumeFirst => without_saved_memory(vm, place),
            other => other.advice(vm, place),
        }
    }
}

/// Starts a VM whose saved memory belongs to its disks as they were.
pub fn without_saved_memory(vm: i32, place: Place) -> Advice {
    Advice::command(place, format!("onevm recover --recreate {vm}"))
        .when("to start it without its saved memory, on its disks as they are")
}

/// Whether the domain of a VM may be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// Only its memory is left, or a step failed after its end.
    Gone,
    /// Its host does not answer, so nobody knows.
    Lost,
    /// It runs, boots, or is worked on.
    MayLive,
}
