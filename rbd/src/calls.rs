//! Calls and their answers, as they go from process to process: a line of JSON each.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a cluster is reached. Holds no secret, only the path of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectOptions {
    /// Its configuration file. `None`: where Ceph looks by itself; none at all where `mon_host` is given.
    pub conf: Option<String>,
    /// The Ceph user, without `client.`.
    pub user: String,
    /// A file with the user's key. `None`: the keyring that the configuration names.
    pub keyfile: Option<String>,
    /// Monitor addresses, instead of the configuration's.
    pub mon_host: Option<String>,
    /// How long to look for a monitor, in seconds.
    pub mount_timeout: u64,
}

/// A pool, and the namespace within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PoolPlace {
    /// Its name.
    pub pool: String,
    /// `None`: the default one.
    pub namespace: Option<String>,
}

/// One call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LibraryRequest {
    /// Comes back with the answer.
    pub number: u64,
    /// Where.
    pub place: PoolPlace,
    /// What.
    pub call: Call,
}

/// What is asked for. Strings with a NUL byte are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// [`LibraryAnswer::Info`] of an image, as `rbd info` tells it.
    Info(String),
    /// [`LibraryAnswer::Metadata`] of an image.
    Metadata(String),
    /// [`LibraryAnswer::Look`]: both; of an image that is not mirrored without its metadata. Where a copy that is not primary
    /// had to be opened, what the daemons have reported comes with it.
    Look(String),
    /// Sets one metadata value.
    SetMetadata {
        /// The image.
        image: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Makes the copy primary.
    Promote {
        /// The image.
        image: String,
        /// Without Ceph's own check.
        force: bool,
    },
    /// Makes the copy non-primary.
    Demote(String),
    /// Asks the daemon to throw the copy away.
    Resync(String),
    /// Takes a mirror snapshot.
    MirrorSnapshot(String),
    /// [`LibraryAnswer::Status`]: what the daemons have reported of an image.
    Status(String),
    /// [`LibraryAnswer::Snapshots`] of an image.
    Snapshots(String),
    /// [`LibraryAnswer::Value`] of an object's key.
    OmapValue {
        /// The object.
        object: String,
        /// The key.
        key: String,
    },
    /// Takes an advisory lock.
    Lock {
        /// The object.
        object: String,
        /// The lock.
        name: String,
        /// Its owner, in his own words.
        cookie: String,
        /// How long; `None`: for ever.
        seconds: Option<u64>,
    },
    /// [`LibraryAnswer::Locked`]: who holds it.
    LockHolders {
        /// The object.
        object: String,
        /// The lock.
        name: String,
    },
    /// Ends a lock.
    Unlock {
        /// The object.
        object: String,
        /// The lock.
        name: String,
        /// Who holds it.
        holder: LockedBy,
    },
}

impl Call {
    /// Whether nothing changes by it, not even a watch.
    pub fn only_asks(&self) -> bool {
        match self {
            Self::Info(_)
            | Self::Metadata(_)
            | Self::Look(_)
            | Self::Status(_)
            | Self::Snapshots(_)
            | Self::OmapValue { .. }
            | Self::LockHolders { .. } => true,
            Self::SetMetadata { .. }
            | Self::Promote { .. }
            | Self::Demote(_)
            | Self::Resync(_)
            | Self::MirrorSnapshot(_)
            | Self::Lock { .. }
            | Self::Unlock { .. } => false,
        }
    }
}

/// What came of a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LibraryResponse {
    /// That of its request.
    pub number: u64,
    /// It.
    pub outcome: Result<LibraryAnswer, Failure>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LibraryAnswer {
    /// It is done.
    Done,
    /// An image.
    Info(ImageTold),
    /// Keys and values. What is no UTF-8 is replaced.
    Metadata(BTreeMap<String, String>),
    /// All of them, as far as they are told.
    Look(ImageTold, BTreeMap<String, String>, Option<StatusTold>),
    /// The reports.
    Status(StatusTold),
    /// All of them.
    Snapshots(Vec<Snapshot>),
    /// `None`: no such object or key.
    Value(Option<Vec<u8>>),
    /// Who holds the lock.
    Locked(Vec<LockedBy>),
}

/// Where it went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// No way to the cluster.
    Connect,
    /// The pool, or its namespace.
    Pool,
    /// To open the image.
    Image,
    /// Mirroring is off, which Ceph's command calls EINVAL.
    NotMirrored,
    /// The call itself.
    Call,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// The positive error number.
    pub errno: i32,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTold {
    /// Its id.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Whether it has the feature `journaling`.
    pub has_journal: bool,
    /// Whether it takes no writes (the feature `non-primary`).
    pub is_read_only: bool,
    /// What it is a clone of.
    pub parent: Option<ParentTold>,
    /// `None`: off.
    pub mirroring: Option<MirroringTold>,
}

/// A snapshot that has clones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentTold {
    /// The pool.
    pub pool: String,
    /// Empty: the default one.
    pub namespace: String,
    /// The image.
    pub image: String,
    /// The snapshot.
    pub snapshot: String,
}

/// How an image is mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirroringTold {
    /// By snapshots; else by its journal.
    pub by_snapshots: bool,
    /// The same for both copies.
    pub global_id: String,
    /// Whether this copy is the primary one.
    pub primary: bool,
    /// As librbd.h numbers them; 1: on, 0: being switched off, others than these and 2: being switched on.
    pub state: u32,
}

/// What the daemons have reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusTold {
    /// The same for both copies.
    pub global_id: String,
    /// By mirror uuid; this cluster's own is empty.
    pub sites: Vec<SiteStatus>,
}

/// What a daemon has reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Of whose copy; empty: this cluster's own.
    pub mirror_uuid: String,
    /// The name of that site, where a peer has that uuid.
    pub site_name: Option<String>,
    /// As the command prints it, such as `up+replaying`.
    pub state: String,
    /// In the daemon's words.
    pub description: String,
    /// Unix time; 0: never.
    pub last_update: i64,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Grows with time.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// As `rbd snap ls` calls it: `user`, `group`, `trash`, `mirror`; empty: unknown.
    pub kind: String,
    /// Of one of mirroring: its state as `rbd snap ls` calls it, and whether all of its data is here.
    pub mirror: Option<(String, bool)>,
    /// The mirror uuid of the cluster that it came from; empty: this one.
    pub primary_mirror_uuid: String,
    /// The id of its original there.
    pub primary_snap_id: u64,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedBy {
    /// The client instance that took it, such as `client.4242`.
    pub client: String,
    /// Its owner, in his own words.
    pub cookie: String,
    /// From where.
    pub address: String,
}
