//! One of the two sites, and what a run remembers of it.

use super::cluster::Cluster;
use super::error::{FrontEndError, RunError};
use super::front_end::FrontEnd;
use super::outside::TimeSource;
use super::silence::Silence;
use crate::ceph::CephError;
use crate::opennebula::{OneError, StorageCredentials, User};
use onemirror_protocol::ImageSpec;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long what its front-end has told of our user is believed without another question.
const USER_HOLDS: Duration = Duration::from_secs(10);

/// How a front-end is reached.
type Reach = Box<dyn Fn() -> Result<FrontEnd, FrontEndError>>;

/// What leads to a cluster.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum ClusterWay {
    /// A datastore.
    Datastore(StorageCredentials),
    /// The configuration.
    Configured,
    /// What a pool of the other site's cluster says of its peer: that cluster by its number, and the pool.
    Peer(u64, String),
}

/// A site: a front-end, and the clusters of its datastores.
pub struct Site {
    name: String,
    reach: Reach,
    front_end: OnceCell<FrontEnd>,
    clusters: RefCell<HashMap<ClusterWay, Cluster>>,
    /// Of its clusters, where one counts for all.
    pub(crate) silence: Silence,
    /// Of its front-end.
    pub(crate) front_end_silence: Silence,
    /// Our user there, and when it was asked for.
    user: Mutex<Option<(Instant, User)>>,
    time: Rc<dyn TimeSource>,
}

impl Site {
    pub(super) fn new(name: String, reach: Reach, time: &Rc<dyn TimeSource>) -> Self {
        Self {
            name,
            reach,
            front_end: OnceCell::new(),
            clusters: RefCell::default(),
            silence: Silence::none(time.clone()),
            front_end_silence: Silence::none(time.clone()),
            user: Mutex::default(),
            time: time.clone(),
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its front-end; nothing is asked yet.
    pub fn front_end(&self) -> Result<&FrontEnd, FrontEndError> {
        if let Some(front_end) = self.front_end.get() {
            return Ok(front_end);
        }
        let front_end = (self.reach)()?;
        Ok(self.front_end.get_or_init(|| front_end))
    }

    /// The same for a run, which ends where there is no way to it.
    pub(crate) fn reached(&self) -> Result<&FrontEnd, RunError> {
        self.front_end().map_err(|error| self.error(error))
    }

    /// Asks its front-end.
    pub(crate) async fn ask<T>(
        &self,
        call: impl AsyncFnOnce(&FrontEnd) -> Result<T, OneError>,
    ) -> Result<T, RunError> {
        call(self.reached()?).await.map_err(|error| self.error(error))
    }

    /// Our user on its front-end, as [`FrontEnd::greeted`] asks for it. One that was silent a moment ago is not asked again, and
    /// who comes meanwhile wants the same answer.
    pub(crate) async fn greeted(&self, memory: &Path) -> Result<User, FrontEndError> {
        let client = self.front_end()?;
        let mut known = self.user.lock().await;
        if let Some(why) = self.front_end_silence.lasts() {
            return Err(FrontEndError::Silent(why));
        }
        if let Some((since, user)) = &*known
            && self.time.since(*since) < USER_HOLDS
        {
            return Ok(user.clone());
        }
        let answer = client.greeted(memory).await;
        let user = answer.inspect_err(|error| self.note_silence(error))?;
        *known = Some((self.time.now(), user.clone()));
        Ok(user)
    }

    /// Notes that its front-end did not answer, if this error says so.
    pub(crate) fn note_silence(&self, error: &OneError) {
        if error.is_unreachable() {
            self.front_end_silence.note(error.to_string());
        }
    }

    /// An error of its front-end.
    pub(crate) fn error(&self, error: impl Into<FrontEndError>) -> RunError {
        RunError::OpenNebula { site: self.name.clone(), error: error.into() }
    }

    /// An error of its cluster.
    pub(crate) fn ceph_error(&self, image: &ImageSpec, error: CephError) -> RunError {
        RunError::Ceph { image: image.clone(), site: self.name.clone(), error }
    }

    pub(super) fn known_cluster(&self, way: &ClusterWay) -> Option<Cluster> {
        self.clusters.borrow().get(way).cloned()
    }

    pub(super) fn remember_cluster(&self, way: ClusterWay, cluster: Cluster) -> Cluster {
        self.clusters.borrow_mut().insert(way, cluster.clone());
        cluster
    }
}
