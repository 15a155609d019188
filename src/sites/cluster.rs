//! A cluster, and what a run remembers of it.

use super::error::RunError;
use super::silence::Silence;
use crate::ceph::{CephCalls, CephError};
use onemirror_protocol::ImageSpec;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    pub(crate) fn new(calls: Rc<dyn CephCalls>, silence: Silence) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self(Rc::new(Reached {
            calls,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            mirror_uuids: RefCell::default(),
            room_taken: RefCell::default(),
            silence,
        }))
    }

    /// An error of it, by the name of its site.
    pub(crate) fn error(&self, image: &ImageSpec, error: CephError) -> RunError {
        RunError::Ceph { image: image.clone(), site: self.site().to_owned(), error }
    }

    /// Tells this way to a cluster from all others of the process.
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    /// The mirror uuid of a pool, asked for once.
    pub(crate) async fn uuid_of_pool(&self, pool: &str) -> Result<Option<String>, CephError> {
        let known = self.0.mirror_uuids.borrow().get(pool).cloned();
        if let Some(uuid) = known {
            return Ok(uuid);
        }
        let uuid = self.mirror_uuid(pool).await?;
        self.0.mirror_uuids.borrow_mut().insert(pool.to_owned(), uuid.clone());
        Ok(uuid)
    }

    pub(crate) fn has_told_uuid_of(&self, pool: &str) -> bool {
        self.0.mirror_uuids.borrow().contains_key(pool)
    }

    pub(crate) fn take_room(&self, pool: &str, bytes: u64) {
        *self.0.room_taken.borrow_mut().entry(pool.to_owned()).or_default() += bytes;
    }

    pub(crate) fn room_taken(&self, pool: &str) -> u64 {
        self.0.room_taken.borrow().get(pool).copied().unwrap_or_default()
    }

    /// What it answered when it did not, a moment ago.
    pub(crate) fn silence(&self) -> Option<String> {
        self.0.silence.lasts()
    }

    /// Notes that it has answered.
    pub(crate) fn note_answer(&self) {
        self.0.silence.note_answer();
    }

    /// Notes that it did not answer, if this error says so.
    pub(crate) fn note_silence(&self, error: &CephError) {
        if error.is_unreachable() {
            self.0.silence.note(format!("Ceph on {}: {error}", self.site()));
        }
    }
}
