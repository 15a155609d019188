//! A cluster, and what a run remembers of it.

use super::outside::TimeSource;
use crate::ceph::{CephCalls, CephError};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a cluster or front-end that did not answer counts as silent within a run.
const SILENCE: Duration = Duration::from_secs(15);

/// Silence, as last noted.
#[derive(Default)]
pub(super) struct Silence(RefCell<Option<(Instant, String)>>);

impl Silence {
    pub(super) fn note(&self, time: &dyn TimeSource, why: String) {
        *self.0.borrow_mut() = Some((time.now(), why));
    }

    /// Why nobody is asked, if that was a moment ago. One deadline is waited for then, not one per image and look.
    pub(super) fn lasts(&self, time: &dyn TimeSource) -> Option<String> {
        let noted = self.0.borrow();
        let (since, why) = noted.as_ref()?;
        (time.since(*since) < SILENCE).then(|| why.clone())
    }
}

/// A cluster, by one way that leads to it.
#[derive(Clone)]
pub struct Cluster(Rc<Reached>);

struct Reached {
    calls: Rc<dyn CephCalls>,
    number: u64,
    /// By pool.
    mirror_uuids: RefCell<BTreeMap<String, Option<String>>>,
    /// Bytes that new copies will need in place of those that this run has set aside, by pool.
    room_taken: RefCell<BTreeMap<String, u64>>,
    silence: Silence,
}

impl Deref for Cluster {
    type Target = dyn CephCalls;

    fn deref(&self) -> &Self::Target {
        &*self.0.calls
    }
}

impl Cluster {
    pub(super) fn new(calls: Rc<dyn CephCalls>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self(Rc::new(Reached {
            calls,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            mirror_uuids: RefCell::default(),
            room_taken: RefCell::default(),
            silence: Silence::default(),
        }))
    }

    /// Tells this way to a cluster from all others of the process.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// The mirror uuid of a pool, asked for once.
    pub(super) async fn uuid_of_pool(&self, pool: &str) -> Result<Option<String>, CephError> {
        let known = self.0.mirror_uuids.borrow().get(pool).cloned();
        if let Some(uuid) = known {
            return Ok(uuid);
        }
        let uuid = self.mirror_uuid(pool).await?;
        self.0.mirror_uuids.borrow_mut().insert(pool.to_owned(), uuid.clone());
        Ok(uuid)
    }

    pub(super) fn has_told_uuid_of(&self, pool: &str) -> bool {
        self.0.mirror_uuids.borrow().contains_key(pool)
    }

    pub(super) fn take_room(&self, pool: &str, bytes: u64) {
        *self.0.room_taken.borrow_mut().entry(pool.to_owned()).or_default() += bytes;
    }

    pub(super) fn room_taken(&self, pool: &str) -> u64 {
        self.0.room_taken.borrow().get(pool).copied().unwrap_or_default()
    }

    pub(super) fn silence(&self) -> &Silence {
        &self.0.silence
    }
}
