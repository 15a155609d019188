//! A pool that takes no writes.

use crate::advice::{Advice, Place};
use alloc::format;

/// Bytes and objects: what a pool may hold, or what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolLoad {
    /// Bytes; as a quota 0 means any number.
    pub bytes: u64,
    /// Objects; as a quota 0 means any number.
    pub objects: u64,
}

/// What a quota of a pool counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaOf {
    /// The bytes that are stored.
    Bytes,
    /// The RADOS objects.
    Objects,
}

/// Why a pool takes no writes: Ceph lets them wait until there is room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fullness {
    /// Its quota is reached.
    Quota {
        /// What it counts.
        of: QuotaOf,
        /// The most that it allows.
        limit: u64,
        /// What the pool holds. That may be more than the quota: Ceph looks at it every few seconds only.
        stored: u64,
    },
    /// Its cluster has no more room for it.
    Cluster,
}

impl core::fmt::Display for Fullness {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Quota { of: QuotaOf::Bytes, limit, .. } => write!(f, "quota of {limit} bytes"),
            Self::Quota { of: QuotaOf::Objects, limit, .. } => write!(f, "quota of {limit} objects"),
            Self::Cluster => write!(f, "its cluster has no room left"),
        }
    }
}

impl Fullness {
    /// Which of a pool's two quotas is reached; that of the bytes where neither seems to be.
    pub fn by_quota(quota: PoolLoad, stored: PoolLoad) -> Self {
        let reached = |limit: u64, stored: u64| limit > 0 && stored >= limit;
        if quota.bytes == 0 || (reached(quota.objects, stored.objects) && !reached(quota.bytes, stored.bytes))
        {
            Self::Quota { of: QuotaOf::Objects, limit: quota.objects, stored: stored.objects }
        } else {
            Self::Quota { of: QuotaOf::Bytes, limit: quota.bytes, stored: stored.bytes }
        }
    }

    /// What makes room, where the pool is.
    pub fn advice(&self, pool: &str, place: Place) -> Advice {
        let (what, limit, stored) = match *self {
            Self::Quota { of: QuotaOf::Bytes, limit, stored } => ("max_bytes", limit, stored),
            Self::Quota { of: QuotaOf::Objects, limit, stored } => ("max_objects", limit, stored),
            Self::Cluster => return Advice::decide("delete what is not needed or add OSDs, see: ceph df"),
        };
        let enough = limit.max(stored).saturating_mul(2);
        Advice::command(place, format!("ceph osd pool set-quota {pool} {what} {enough}"))
    }
}
