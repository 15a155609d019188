//! RBD images and their mirroring, as typed operations on one cluster.
//!
//! [`Ceph`] names what onemirror needs of a cluster and nothing of how it is done. [`RbdCommand`] does it with
//! the `rbd` and `rados` commands.

mod bridge;
mod classify;
mod command;
mod library;
mod monitors;
pub mod parse;
mod peer;

#[cfg(test)]
mod real_tests;

pub use command::{
    Connection, DEFAULT_DEADLINE, FORCED_PROMOTE_DEADLINE, PoolRoom, Programs, RbdCommand, RunOn,
    is_committed_by,
};
pub(crate) use library::COMMAND as LIBRARY_COMMAND;
pub(crate) use library::share;
pub use library::{LibraryUse, Librbd, SharedProcesses};
pub use peer::{PeerConnection, connection_to_peer, is_fsid};

use async_trait::async_trait;
use jiff::civil::DateTime;
use onemirror_protocol::advice::Place;
use onemirror_protocol::{Fullness, ImageSpec};
use std::collections::BTreeMap;
use std::time::Duration;

/// How an image is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorMode {
    /// Every write goes through the image's journal, which the other site replays.
    Journal,
    /// Mirror snapshots, taken by schedule or by hand, are copied to the other site.
    Snapshot,
}

/// The live mirroring state of one copy, from `rbd info`; never from a status report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirroring {
    /// Journal or snapshot.
    pub mode: MirrorMode,
    /// The same for both copies.
    pub global_id: String,
    /// Whether this copy is the primary one.
    pub primary: bool,
    /// Whether mirroring is on, or being switched.
    pub state: MirrorState,
}

/// How the mirroring of a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorState {
    /// It is on.
    Enabled,
    /// It is being switched on: the copy is just being made.
    Creating,
    /// It is being switched off: a copy that is not primary goes away with it.
    Disabling,
}

/// What `rbd info` tells of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Changes when a resync deletes the copy and makes a new one; the name stays.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Absent where mirroring is off.
    pub mirroring: Option<Mirroring>,
    /// `pool/image@snap` of the image that this one is a clone of.
    pub parent: Option<String>,
    /// Whether it has the feature `journaling`.
    pub has_journal: bool,
    /// Snapshot mode: the image takes no writes. On a copy that is called primary this tells of a demotion or promotion
    /// that was killed half-way (seen on 16.2); a demotion ends that, a promotion is refused.
    pub is_read_only: bool,
}

/// Whether the daemon that would update a copy runs, as last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DaemonState {
    /// `up+…`.
    Up,
    /// `down+…`: no daemon holds the report.
    Down,
}

/// What a daemon last reported of its work on one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayState {
    /// `stopped`, "local image is primary".
    LocalPrimary,
    /// `replaying`; the numbers are progress, never a proof.
    Replaying(Progress),
    /// `syncing` or `starting_replay`: the copy is not complete.
    Syncing {
        /// 0 to 100, where reported.
        percent: Option<u8>,
    },
    /// `error`, "split-brain detected": only a resync clears it.
    SplitBrain,
    /// "remote image is not primary", "remote image demoted": nobody to follow.
    RemoteNotPrimary,
    /// Stopped for another reason than being primary.
    Stopped,
    /// Another error; the daemon's own words.
    Error(String),
    /// "status not found", or a state this version does not know.
    Unknown(String),
}

/// How far a copy is behind; absent where the mode does not report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Journal mode: entries not replayed yet.
    pub entries_behind_primary: Option<u64>,
    /// Seconds.
    pub seconds_until_synced: Option<u64>,
    /// Snapshot mode: `idle` or `syncing`.
    pub replay_state: Option<String>,
    /// Snapshot mode: percent of the snapshot that is being copied.
    pub syncing_percent: Option<u8>,
    /// Snapshot mode: Unix time of the newest snapshot here.
    pub local_snapshot_timestamp: Option<i64>,
    /// Snapshot mode: Unix time of the newest snapshot there.
    pub remote_snapshot_timestamp: Option<i64>,
}

/// A report on one copy: up to 30 s and more old, good for progress and for naming a trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// Whether the daemon runs.
    pub daemon: DaemonState,
    /// What it does.
    pub replay: ReplayState,
    /// The description as reported, up to its JSON part.
    pub description: String,
    /// When it was written, by the OSD's clock, in the local time of whoever asked; whole seconds. `None`: never. Tells one
    /// report from another, and nothing beside.
    pub last_update: Option<DateTime>,
}

/// What one look at an image tells.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageLook {
    /// The image.
    pub info: ImageInfo,
    /// Of one that is mirrored.
    pub metadata: BTreeMap<String, String>,
    /// The daemons' reports on a copy that is not primary, where they come without another question.
    pub status: Option<ImageStatus>,
}

/// The reports on one image: of this cluster's copy and of the peers' copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStatus {
    /// Image name within the pool.
    pub name: String,
    /// The same for both copies.
    pub global_id: String,
    /// This cluster's copy. `None`: "status not found".
    pub local: Option<StatusReport>,
    /// By site name; each is there once. No map: a cluster tells this of tens of thousands of images.
    pub peers: Vec<(String, StatusReport)>,
}

impl ImageStatus {
    /// The report on the copy of that site.
    pub fn of_peer(&self, site: &str) -> Option<&StatusReport> {
        self.peers.iter().find(|(name, _)| name == site).map(|(_, report)| report)
    }
}

/// All images of a pool at once, and the daemons that serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Whether at least one `rbd-mirror` of this cluster serves the pool. A user with `profile rbd` is not shown them; then 1
    /// if one of them holds a report on an image, else 0, which proves nothing.
    pub daemons_up: usize,
    /// One per mirrored image.
    pub images: Vec<ImageStatus>,
}

impl PoolStatus {
    /// Of a pool that does not tell its status now: these are all its images, mirrored or not.
    pub fn untold(names: Vec<String>) -> Self {
        let untold = |name| ImageStatus { name, global_id: String::new(), local: None, peers: Vec::new() };
        Self { daemons_up: 0, images: names.into_iter().map(untold).collect() }
    }
}

/// A position in an image's journal: the newest entry per tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPosition {
    /// `(object number, tag, entry)`, newest first as reported.
    pub objects: Vec<(u64, u64, u64)>,
}

/// `rbd journal status`: who has committed what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalStatus {
    /// By client id; the image itself is `""`, a mirroring peer its mirror uuid.
    pub clients: BTreeMap<String, JournalPosition>,
}

/// The state of a mirror snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorSnapshotState {
    /// Taken on a primary.
    Primary,
    /// Copied from a primary.
    NonPrimary,
    /// Taken by a demotion on the copy that was primary (`primary_snap_id` absent), or copied from such a one.
    Demoted,
}

/// One mirror snapshot of `rbd snap ls --all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSnapshot {
    /// Grows with time.
    pub id: u64,
    /// Its state.
    pub state: MirrorSnapshotState,
    /// Whether all of its data is here.
    pub complete: bool,
    /// For a copied one: the mirror uuid of the cluster it came from.
    pub primary_mirror_uuid: Option<String>,
    /// For a copied one: the id of its original there.
    pub primary_snap_id: Option<u64>,
}

/// The snapshots of an image that onemirror cares about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Oldest first.
    pub mirror: Vec<MirrorSnapshot>,
    /// Names of user snapshots (OpenNebula's `snap` among them).
    pub user: Vec<String>,
    /// Names of all others: of a group, or waiting in the trash for their clones to go.
    pub other: Vec<String>,
}

impl Snapshots {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.mirror.is_empty() && self.user.is_empty() && self.other.is_empty()
    }
}

/// A schedule of mirror snapshots; what it does not name it holds for all of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSchedule {
    /// The pool.
    pub pool: Option<String>,
    /// The namespace; empty: the default one.
    pub namespace: Option<String>,
    /// The image.
    pub image: Option<String>,
    /// The time between two snapshots.
    pub every: Duration,
}

impl SnapshotSchedule {
    /// How closely it names the image; `None`: it is not about that one. Ceph goes by the closest one.
    fn closeness(&self, image: &ImageSpec) -> Option<usize> {
        let named = [
            (self.pool.as_deref(), image.pool()),
            (self.namespace.as_deref(), image.namespace().unwrap_or_default()),
            (self.image.as_deref(), image.image()),
        ];
        let fits = named.iter().all(|(name, wanted)| name.is_none_or(|name| name == *wanted));
        fits.then(|| named.iter().filter(|(name, _)| name.is_some()).count())
    }

    /// How often a mirror snapshot of the image is taken; `None`: never.
    pub fn every_of(schedules: &[Self], image: &ImageSpec) -> Option<Duration> {
        let closest = schedules.iter().filter_map(|schedule| schedule.closeness(image)).max()?;
        let counts = schedules.iter().filter(|schedule| schedule.closeness(image) == Some(closest));
        counts.map(|schedule| schedule.every).min()
    }
}

/// A peer as `rbd mirror pool info --all` names it.
#[derive(Clone, PartialEq, Eq)]
pub struct Peer {
    /// The other cluster's site name.
    pub site_name: String,
    /// The other cluster's mirror uuid, once known.
    pub mirror_uuid: Option<String>,
    /// `client.rbd-mirror-peer`, without `client.`.
    pub client_name: String,
    /// Monitor addresses; absent unless the user may read them.
    pub mon_host: Option<String>,
    /// Secret; absent unless the user may read it. Never logged.
    pub key: Option<String>,
    /// `rx-tx`, `rx-only`, `tx-only`.
    pub direction: String,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("site_name", &self.site_name)
            .field("mirror_uuid", &self.mirror_uuid)
            .field("client_name", &self.client_name)
            .field("mon_host", &self.mon_host)
            .field("key", &self.key.as_ref().map(|_| "(secret)"))
            .field("direction", &self.direction)
            .finish()
    }
}

/// A pool's own mirroring settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Whether mirroring is on.
    pub enabled: bool,
    /// `true`: every journaled image is mirrored; `false`: those enabled one by one.
    pub pool_mode: bool,
    /// This cluster's site name; its fsid for a user who may not read the name (`profile rbd`); empty where mirroring is off.
    pub site_name: String,
    /// The clusters it is mirrored with.
    pub peers: Vec<Peer>,
}

/// The outcome of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// The copy is primary now.
    Promoted,
    /// EBUSY: primary elsewhere, or the demotion there has not arrived yet; EROFS, snapshot mode: it has, but the
    /// daemon here still holds the copy. Nothing has changed. Ask again.
    NotYet,
}

/// A lock held by somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// The client instance that took it, such as `client.4242`; needed to break it.
    pub client: String,
    /// Who owns it, in the owner's words.
    pub cookie: String,
    /// The address it was taken from, as reported.
    pub address: String,
}

/// When a lock ends without being given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// By itself, after that time.
    After(Duration),
    /// Never.
    Never,
}

/// Whether a lock was had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locking {
    /// It is ours.
    Acquired,
    /// Somebody has it.
    Held,
}

/// Why an operation failed, in classes that tell what can be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CephError {
    /// No such image, pool or namespace (ENOENT 2) where one was needed.
    #[error("{what}: no such image or pool")]
    NotFound {
        /// The image, and the operation.
        what: String,
    },
    /// The user or key is wrong or its capabilities do not suffice (EACCES 13, EPERM 1).
    #[error("{what}: permission denied: {detail}")]
    PermissionDenied {
        /// The image, and the operation.
        what: String,
        /// The command's own last line.
        detail: String,
    },
    /// EINVAL 22: not possible in the image's present role or mode.
    #[error("{what}: not possible now: {detail}")]
    NotPossible {
        /// The image, and the operation.
        what: String,
        /// The command's own last line.
        detail: String,
    },
    /// EROFS 30: the copy is not primary.
    #[error("{what}: the copy is read-only (not primary)")]
    ReadOnly {
        /// The image, and the operation.
        what: String,
    },
    /// EBUSY 16 where it is not an expected answer.
    #[error("{what}: busy: {detail}")]
    Busy {
        /// The image, and the operation.
        what: String,
        /// The command's own last line.
        detail: String,
    },
    /// No answer within the deadline (ETIMEDOUT 110, or ours), or no monitor or bridge host to ask.
    #[error("{what}: no answer from {cluster}: {detail}")]
    Unreachable {
        /// The image, and the operation.
        what: String,
        /// The cluster, by its site name.
        cluster: String,
        /// What happened.
        detail: String,
    },
    /// There is no way to ask, or no command to do it with. That says nothing of the cluster.
    #[error("{what}: cannot be asked: {detail}")]
    NoWay {
        /// The image, and the operation.
        what: String,
        /// What is missing.
        detail: String,
    },
    /// It waits for room in the pool; nothing has happened.
    #[error("pool {pool} of {cluster} is full ({fullness}); {}", fullness.advice(pool, Place::There(cluster.clone())))]
    PoolFull {
        /// The image, and the operation.
        what: String,
        /// The cluster, by its site name.
        cluster: String,
        /// The pool.
        pool: String,
        /// Why it is.
        fullness: Fullness,
    },
    /// The answer is not what this version understands; nothing is concluded from it.
    #[error("{what}: answer not understood: {detail}")]
    BadAnswer {
        /// The image, and the operation.
        what: String,
        /// Where it broke.
        detail: String,
    },
    /// Anything else, with the exit status and the last line.
    #[error("{what}: failed with exit status {status}: {detail}")]
    Failed {
        /// The image, and the operation.
        what: String,
        /// The command's exit status; 128 and more if a signal ended it.
        status: i32,
        /// The command's own last line.
        detail: String,
    },
}

impl CephError {
    /// Whether the program that asks crashed.
    pub(crate) fn is_crash(&self) -> bool {
        matches!(self, Self::Failed { status, .. } if classify::CRASHED.contains(status))
    }

    /// Whether the cluster could not be asked at all (so nothing is known of it).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// One cluster. Every call has a deadline; none retries by itself; repeating any of them is harmless.
#[async_trait(?Send)]
pub trait Ceph {
    /// The cluster's name for messages: its site name.
    fn site(&self) -> &str;
    /// `None`: no such image.
    async fn info(&self, image: &ImageSpec) -> Result<Option<ImageInfo>, CephError>;
    /// What one look at an image tells. `None`: no such image.
    async fn look(&self, image: &ImageSpec) -> Result<Option<ImageLook>, CephError> {
        let Some(info) = self.info(image).await? else { return Ok(None) };
        if info.mirroring.is_none() {
            return Ok(Some(ImageLook { info, metadata: BTreeMap::new(), status: None }));
        }
        match self.metadata(image).await {
            Ok(metadata) => Ok(Some(ImageLook { info, metadata, status: None })),
            // a resync deletes the copy and makes a new one
            Err(CephError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
    /// All metadata of the image. An absent image is an error.
    async fn metadata(&self, image: &ImageSpec) -> Result<BTreeMap<String, String>, CephError>;
    /// Sets one metadata value; [`CephError::ReadOnly`] on a non-primary copy.
    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<(), CephError>;
    /// Makes this copy primary. `force` skips Ceph's own check and may destroy writes. Already primary is
    /// [`CephError::NotPossible`]. A forced one may take long: it has a deadline of its own.
    async fn promote(&self, image: &ImageSpec, force: bool) -> Result<Promotion, CephError>;
    /// Makes this copy non-primary. Not primary is [`CephError::NotPossible`].
    async fn demote(&self, image: &ImageSpec) -> Result<(), CephError>;
    /// Takes the image away from whoever holds it open for writing and keeps that client out of the cluster, as Ceph
    /// does when it breaks an exclusive lock. `false`: nobody held it. Only for a copy that was just promoted by
    /// force, whose daemon, waiting for the lost site, would not let it go, and for one that is demoted by force under
    /// whoever may write to it.
    async fn fence(&self, image: &ImageSpec) -> Result<bool, CephError>;
    /// Whether somebody has the image open for writing: a client that only reads sets no watch.
    async fn is_open_for_writing(&self, image: &ImageSpec) -> Result<bool, CephError>;
    /// Asks this cluster's daemon to throw the copy away and copy again. Destroys what only this copy has.
    async fn resync(&self, image: &ImageSpec) -> Result<(), CephError>;
    /// Takes a mirror snapshot (snapshot mode), which carries data and metadata over.
    async fn mirror_snapshot(&self, image: &ImageSpec) -> Result<(), CephError>;
    /// The reports on one image. `None` inside: no report yet.
    async fn image_status(&self, image: &ImageSpec) -> Result<ImageStatus, CephError>;
    /// The reports on all images of `pool[/namespace]`, in one call.
    async fn pool_status(&self, pool: &str) -> Result<PoolStatus, CephError>;
    /// Who has committed what of the image's journal (journal mode only).
    async fn journal_status(&self, image: &ImageSpec) -> Result<JournalStatus, CephError>;
    /// The image's snapshots, mirror snapshots included.
    async fn snapshots(&self, image: &ImageSpec) -> Result<Snapshots, CephError>;
    /// Mirroring settings and peers of `pool[/namespace]`; with their secrets if the user may read them.
    async fn pool_info(&self, pool: &str) -> Result<PoolInfo, CephError>;
    /// This cluster's mirror uuid for the pool, under which the other cluster's journals know it.
    /// `None` where the pool does not tell.
    async fn mirror_uuid(&self, pool: &str) -> Result<Option<String>, CephError>;
    /// One value of the metadata of the image with this id, as its header holds it. It costs far less than to open the image.
    /// `None`: it is not there, or no such image is.
    async fn stored_metadata(
        &self,
        image: &ImageSpec,
        id: &str,
        key: &str,
    ) -> Result<Option<String>, CephError>;
    /// Whether somebody asked for a resync of this copy, with this image id, that has not happened (journal mode). `None`:
    /// it has no journal; it is being thrown away, or is gone.
    async fn journal_resync(&self, image: &ImageSpec, id: &str) -> Result<Option<bool>, CephError>;
    /// Takes the advisory lock `name` on the pool's object `object`, owned by `cookie`.
    /// `image` only names the pool and namespace.
    async fn lock(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
        cookie: &str,
        expiry: Expiry,
    ) -> Result<Locking, CephError>;
    /// Which of these locks the object has, asked for in this order. Some that are free again may be among them.
    async fn locks_among(
        &self,
        image: &ImageSpec,
        object: &str,
        names: &[&'static str],
    ) -> Result<Vec<&'static str>, CephError>;
    /// Who holds the lock now, if anybody.
    async fn lock_holder(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
    ) -> Result<Option<LockHolder>, CephError>;
    /// Ends the lock of `holder`. That nobody holds it any more is success.
    async fn unlock(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
        holder: &LockHolder,
    ) -> Result<(), CephError>;
}

/// What it takes to set an image aside, to look after it, and to remove it.
#[async_trait(?Send)]
pub trait CephImages {
    /// Gives the image another name in its pool; snapshots and clones stay with it.
    async fn rename(&self, image: &ImageSpec, name: &ImageSpec) -> Result<(), CephError>;
    /// Ends the mirroring of a primary image. In a pool that mirrors every journaled image Ceph refuses that for one of
    /// them; there the journal has to go.
    async fn stop_mirroring(&self, image: &ImageSpec, mode: MirrorMode) -> Result<(), CephError>;
    /// Removes one metadata value; one that is not there is no error.
    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<(), CephError>;
    /// Whether somebody holds the image's exclusive lock, or died with it: what he wrote last may be in the journal only.
    async fn is_held(&self, image: &ImageSpec) -> Result<bool, CephError>;
    /// The names of the images of `pool[/namespace]`.
    async fn image_names(&self, pool: &str) -> Result<Vec<String>, CephError>;
    /// The bytes that the image takes up, snapshots included.
    async fn used(&self, image: &ImageSpec) -> Result<u64, CephError>;
    /// The room in a pool.
    async fn room(&self, pool: &str) -> Result<PoolRoom, CephError>;
    /// Removes the image with its snapshots; Ceph refuses where it has clones or is in use. That it is gone is success.
    async fn remove(&self, image: &ImageSpec) -> Result<(), CephError>;
    /// What was cloned from any snapshot of the image, and what was cloned from that in turn.
    async fn descendants(&self, image: &ImageSpec) -> Result<Vec<ImageSpec>, CephError>;
}

/// What a cluster says of itself and of its pools.
#[async_trait(?Send)]
pub trait CephPools {
    /// Who asks, as `ceph auth` names it.
    fn user(&self) -> String;
    /// Settings of the pool's images, with Ceph's own where the pool has none: name, value.
    async fn pool_settings(&self, pool: &str) -> Result<BTreeMap<String, String>, CephError>;
    /// Settings that the cluster gives to all of its clients, as far as there are any: name, value.
    async fn client_settings(&self) -> Result<BTreeMap<String, String>, CephError>;
    /// All schedules of mirror snapshots that this cluster has. Each cluster has its own.
    async fn snapshot_schedules(&self) -> Result<Vec<SnapshotSchedule>, CephError>;
    /// Why there is no room in a pool; `None`: there is, or nobody tells.
    async fn lacks_room(&self, pool: &str) -> Option<Fullness>;
    /// The same of a pool that a call has found without room; of any other nobody is asked.
    async fn lacks_room_still(&self, pool: &str) -> Option<Fullness>;
}

/// All that a cluster is asked.
pub trait CephCalls: Ceph + CephImages + CephPools {}

impl<T: Ceph + CephImages + CephPools> CephCalls for T {}
