//! The words of what no rule refuses: an action of OpenNebula, or a command, that cannot be done, or not to its end.

use crate::advice::Advice;
use crate::decision::Code;
use crate::image::ImageSpec;
use alloc::string::String;
use alloc::vec::Vec;

/// Why it cannot be done, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::EnumDiscriminants)]
#[strum_discriminants(name(UnfitKind), derive(strum::EnumIter, strum::IntoStaticStr))]
#[strum_discriminants(strum(serialize_all = "kebab-case"))]
#[strum_discriminants(doc = "Which of them.")]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum Unfit {
    // what OpenNebula's driver is called for
    #[error("{} is mirrored, and onemirror.conf is missing or broken: {error}", image.image())]
    NoConfiguration { image: ImageSpec, error: String },
    #[error("VM {vm}: cannot tell its disks: {error}")]
    DisksUnknown { vm: i32, error: String },
    #[error("VM {vm}: cannot tell whether its disks are mirrored: {error}")]
    MirroringUnknown { vm: i32, error: String },
    #[error("{image}: cannot tell whether it is mirrored: {error}")]
    ImageMirroringUnknown { image: ImageSpec, error: String },
    #[error("{action} does not run: {error}; onemirror setup --repair")]
    StockActionGone { action: String, error: String },
    #[error("cannot read what {action} is about: {error}")]
    CallNotRead { action: String, error: String },
    #[error("{error}")]
    CallNotUnderstood { error: String },
    #[error("{action} is no action of onemirror")]
    NoSuchAction { action: String },
    #[error("{} is not primary here, so it takes no change; do that on {there}", image.image())]
    NotWritable { image: ImageSpec, there: String },
    #[error("{why}; this would put another image in its place")]
    AnotherImage { why: String },
    #[error("{} is not primary here and has no @snap yet; instantiate once on the other site first", base.image())]
    NoSnapshotYet { base: ImageSpec },
    #[error("{} is registered here as image {id}, so it is not this VM's own; instantiate again for another name", image.image())]
    RegisteredHere { image: ImageSpec, id: i32 },
    #[error("{} is there already, and no clone of {}; instantiate again for another name", image.image(), base.image())]
    NoCloneOf { image: ImageSpec, base: ImageSpec },
    #[error("{} is a disk of VM {vm} on {there} ({state}); instantiate again for another name", image.image())]
    DiskOfAnother { image: ImageSpec, vm: i32, there: String, state: String },
    #[error("{} is a copy of a disk of {there}; instantiate again for another name", image.image())]
    CopyOfAnother { image: ImageSpec, there: String },
    // failover
    #[error("VM {vm} is {state} here; there is nothing to fail over")]
    NothingToFailOver { vm: i32, state: String },
    #[error("VM {vm} is {state} here, which nothing starts")]
    NeverStarts { vm: i32, state: String },
    #[error("VM {vm} is {state} here; {advice}")]
    StartedByHand { vm: i32, state: String, advice: Advice },
    #[error("{there} answers again; see: onemirror show {vm}")]
    AnswersAgain { there: String, vm: i32 },
    #[error("{image} has changed meanwhile; repeat the command")]
    ChangedMeanwhile { image: ImageSpec },
    // rehome
    #[error("{image} is in two clusters of this site; name a VM that uses the one you mean")]
    InTwoClusters { image: ImageSpec },
    #[error("{image} is no mirrored image of a Ceph datastore here; see: onemirror list")]
    NoMirroredImage { image: ImageSpec },
    #[error("none of its images is mirrored; an image is at home where it is made")]
    NoneMirrored,
    #[error(
        "{image} is primary here now and belongs here; but the copy on {there} does not follow yet: see that rbd-mirror runs there before the image is deleted"
    )]
    NotFollowed { image: ImageSpec, there: String },
    // lost, and what reconcile does about copies that were set aside
    #[error("{image} is no copy that was set aside; see: onemirror lost list")]
    NotSetAside { image: ImageSpec },
    #[error(
        "{image} is mirrored still; first: onemirror reconcile; or if {there} is lost for good: {command}"
    )]
    MirroredStill { image: ImageSpec, there: String, command: String },
    #[error("{image} may be registered: this user does not see every image; type it as oneadmin")]
    MayBeRegistered { image: ImageSpec },
    #[error("{image} is image {id} now, and like any other; to delete it: oneimage delete {id}")]
    RestoredBefore { image: ImageSpec, id: i32 },
    #[error("{image} is registered as image {id}; oneimage delete {id}")]
    RegisteredAgain { image: ImageSpec, id: i32 },
    #[error("{image} has a clone, which needs it: {clone}")]
    HasClone { image: ImageSpec, clone: String },
    #[error("no Ceph datastore here has the pool of {image}")]
    NoDatastore { image: ImageSpec },
    #[error("{image}: its note names no image")]
    NoteNamesNoImage { image: ImageSpec },
    #[error("{image}: nothing leads to {there}")]
    NothingLeadsThere { image: ImageSpec, there: String },
    #[error("{image} is set aside and mirrored still, since {original} is not primary on {there}")]
    HalfSetAside { image: ImageSpec, original: ImageSpec, there: String },
    #[error("{image}: too slow, so its lock ran out; type again: onemirror reconcile")]
    SetAsideTooSlow { image: ImageSpec },
    #[error(
        "stale here; it waits for another disk of its VM that cannot be kept yet, so that what is copied back is of one age"
    )]
    WaitsForAnotherDisk,
    // any of them
    #[error(
        "too slow, so its lock ran out before: {steps}; try again when this machine and both clusters are less busy"
    )]
    LockRanOut { steps: String },
    #[error("Ceph does not accept it yet: {steps}; see that rbd-mirror runs on both sites and try again")]
    NotAccepted { steps: String },
    #[error("no host of the datastore's BRIDGE_LIST ({}) is usable; enable one: onehost enable HOST", hosts.join(" "))]
    NoBridge { hosts: Vec<String> },
    #[error(
        "[peer.ceph] in onemirror.conf leads to the cluster of {here} itself; put in the file and user of the cluster of {there}"
    )]
    PeerIsOwnCluster { here: String, there: String },
    #[error("VM {vm} is DONE, so nothing boots or terminates it")]
    VmIsDone { vm: i32 },
    #[error("VM {vm} runs without a token, and there was no time to write one; reconcile does it")]
    NoTimeForToken { vm: i32 },
    #[error("{image} is the name of disk {one} and of disk {other}, in two clusters; detach one of them")]
    NameOfTwoDisks { image: ImageSpec, one: i32, other: i32 },
    #[error("{why}")]
    ClusterSilent { why: String },
    #[error("onemirror has a bug: a run lost its way")]
    Bug,
}

impl Unfit {
    /// What it is known by in OpenNebula and in docs/refusals.md.
    pub fn code(&self) -> Code {
        UnfitKind::from(self).code()
    }

    /// Whether nothing was changed: the others are told when a run could not finish what it had begun, or could not look.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::NotFollowed { .. }
                | Self::SetAsideTooSlow { .. }
                | Self::LockRanOut { .. }
                | Self::NotAccepted { .. }
                | Self::ClusterSilent { .. }
                | Self::Bug
        )
    }
}

impl UnfitKind {
    /// Its name in docs/refusals.md.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// A number that was given once stays.
    pub fn code(self) -> Code {
        Code::of(match self {
            Self::NoConfiguration => 101,
            Self::DisksUnknown => 102,
            Self::MirroringUnknown => 103,
            Self::ImageMirroringUnknown => 104,
            Self::StockActionGone => 105,
            Self::CallNotRead => 106,
            Self::CallNotUnderstood => 107,
            Self::NoSuchAction => 108,
            Self::NotWritable => 109,
            Self::AnotherImage => 110,
            Self::NoSnapshotYet => 111,
            Self::RegisteredHere => 112,
            Self::NoCloneOf => 113,
            Self::DiskOfAnother => 114,
            Self::CopyOfAnother => 115,
            Self::NothingToFailOver => 121,
            Self::NeverStarts => 122,
            Self::StartedByHand => 123,
            Self::AnswersAgain => 124,
            Self::ChangedMeanwhile => 125,
            Self::InTwoClusters => 131,
            Self::NoMirroredImage => 132,
            Self::NoneMirrored => 133,
            Self::NotFollowed => 134,
            Self::NotSetAside => 141,
            Self::MirroredStill => 142,
            Self::MayBeRegistered => 143,
            Self::RestoredBefore => 144,
            Self::RegisteredAgain => 145,
            Self::HasClone => 146,
            Self::NoDatastore => 147,
            Self::NoteNamesNoImage => 148,
            Self::NothingLeadsThere => 149,
            Self::HalfSetAside => 150,
            Self::SetAsideTooSlow => 151,
            Self::WaitsForAnotherDisk => 152,
            Self::LockRanOut => 161,
            Self::NotAccepted => 162,
            Self::NoBridge => 163,
            Self::PeerIsOwnCluster => 164,
            Self::VmIsDone => 165,
            Self::NoTimeForToken => 166,
            Self::NameOfTwoDisks => 167,
            Self::ClusterSilent => 168,
            Self::Bug => 169,
        })
    }
}
