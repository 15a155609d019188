//! What was found, before anybody judges it.

use crate::ceph::ReplayState;
use crate::protection::Concern;
use onemirror_protocol::{Fullness, ImageSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Everything that failback depends on, as it was found.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The configuration; `Err`: why there is none.
    pub configuration: Result<Configuration, String>,
    /// Why onemirror is switched off, if it is.
    pub switched_off: Option<String>,
    /// What `onemirror setup` would change, and what stands in its way; `Err`: why it is not known.
    pub setup: Result<Vec<String>, String>,
    /// How long ago reconcile ended for the last time; `None`: never.
    pub reconciled: Option<Duration>,
    /// The hooks of onemirror whose last run failed, with what it said.
    pub failed_hooks: Vec<(String, String)>,
    /// The own front-end.
    pub front_end_here: Result<ExaminedFrontEnd, String>,
    /// The other one; `None`: nothing tells where it is.
    pub front_end_there: Option<Result<ExaminedFrontEnd, String>>,
    /// How far the other front-end's clock is ahead, in seconds.
    pub clock_difference: Option<i64>,
    /// The pools of the own front-end's Ceph datastores.
    pub pools: Vec<ExaminedPool>,
    /// The own front-end's VMs.
    pub vms: Vec<ExaminedVm>,
    /// What is wrong with the protection of disks; `None`: not known.
    pub concerns: Option<Vec<Concern>>,
    /// The pools in which both front-ends make disks for their VMs.
    pub shared_pools: BTreeSet<String>,
}

/// What matters of the configuration.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The own site's name.
    pub here: String,
    /// The other site's.
    pub there: String,
    /// Whether VMs belong here.
    pub is_home: bool,
    /// The other front-end's address.
    pub peer_endpoint: String,
    /// What is wrong with the files of credentials.
    pub credentials: Vec<String>,
}

/// One front-end.
#[derive(Clone, Debug)]
pub struct ExaminedFrontEnd {
    /// OpenNebula's version.
    pub version: String,
    /// Who asks.
    pub user: String,
    /// Whether lists show everything to that user.
    pub sees_everything: bool,
    /// The servers of its zone, if there are several.
    pub servers: Vec<String>,
}

/// One pool, on both clusters.
#[derive(Clone, Debug)]
pub struct ExaminedPool {
    /// `pool[/namespace]`.
    pub name: String,
    /// Here.
    pub here: PoolOnCluster,
    /// On the other cluster.
    pub there: PoolOnCluster,
}

/// A pool on one cluster.
#[derive(Clone, Debug)]
pub struct PoolOnCluster {
    /// The user who asks, with `client.`.
    pub user: String,
    /// What the pool says of itself.
    pub mirroring: Result<PoolMirroring, NoAnswer>,
    /// Whether the user may change something: take a lock of ours and give it back.
    pub lock: Result<(), NoAnswer>,
    /// The daemon, and the images that are mirrored.
    pub images: Result<Images, NoAnswer>,
    /// `rbd_mirroring_delete_delay` in seconds, where it is known.
    pub delete_delay: Option<u64>,
    /// `rbd_mirror_journal_poll_age` in seconds, where it is known.
    pub poll_age: Option<f64>,
}

/// What a pool says of itself.
#[derive(Clone, Debug, Default)]
pub struct PoolMirroring {
    /// Whether it is mirrored.
    pub enabled: bool,
    /// This cluster's site name, where the user may read it.
    pub site_name: Option<String>,
    /// Names the pool in its cluster and no other; `None`: not known.
    pub mirror_uuid: Option<String>,
    /// The other clusters by site name, and in which direction.
    pub peers: Vec<(String, String)>,
}

/// Whether an `rbd-mirror` serves a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// One does.
    Up,
    /// None does.
    Down,
    /// The user may not see it, and there is no image to tell by.
    Unknown,
}

/// What the daemons of one cluster report on a pool.
#[derive(Clone, Debug)]
pub struct Images {
    /// Whether a daemon serves the pool.
    pub daemon: Daemon,
    /// By name: what is reported of this cluster's copy.
    pub reports: BTreeMap<String, ReplayState>,
}

/// Why a cluster did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The user may not.
    Permission(String),
    /// There is no such pool.
    Missing,
    /// It takes no writes.
    Full(Fullness),
    /// Anything else.
    Other(String),
}

/// One VM.
#[derive(Clone, Debug, Default)]
pub struct ExaminedVm {
    /// Its id.
    pub id: i32,
    /// Whether a boot passes the gate also where no disk is made.
    pub has_context: bool,
    /// Why its disks are not clear.
    pub error: Option<String>,
    /// Its images on Ceph.
    pub disks: Vec<ExaminedDisk>,
    /// Its disks elsewhere.
    pub elsewhere: BTreeSet<i32>,
    /// How many VMs of the other front-end use the same images; `None`: not known.
    pub matches: Option<usize>,
}

/// One disk on Ceph.
#[derive(Clone, Debug)]
pub struct ExaminedDisk {
    /// Its number in the VM.
    pub id: i32,
    /// The image.
    pub image: ImageSpec,
    /// The image that it was cloned from.
    pub base: Option<ImageSpec>,
}
