//! A front-end, and what a run remembers of it.

use crate::opennebula::{Datastore, OneError, OpenNebula, User};
use crate::state::{MayBeLost, SharedAnswer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How long a front-end that may be lost has for its first answer. Who its user is oned tells without looking far.
const PATIENCE: Duration = Duration::from_secs(4);

/// An image of a front-end.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct ImageWithVms {
    /// `pool/image` on Ceph.
    pub source: String,
    /// The VMs that use it.
    pub vms: Vec<i32>,
}

/// A front-end.
#[derive(Clone)]
pub struct FrontEnd(Rc<Asked>);

struct Asked {
    calls: Rc<dyn OpenNebula>,
    datastores: RefCell<BTreeMap<i32, Datastore>>,
    /// Hosts that are off, in error or disabled.
    unusable_hosts: RefCell<Option<Vec<String>>>,
}

impl Deref for FrontEnd {
    type Target = dyn OpenNebula;

    fn deref(&self) -> &Self::Target {
        &*self.0.calls
    }
}

impl FrontEnd {
    pub(crate) fn new(calls: Rc<dyn OpenNebula>) -> Self {
        Self(Rc::new(Asked { calls, datastores: RefCell::default(), unusable_hosts: RefCell::default() }))
    }

    /// Whether it was silent a moment ago.
    pub(crate) fn may_be_lost(&self, memory: &Path) -> MayBeLost {
        MayBeLost::new(memory, self.endpoint())
    }

    /// Its user, which is asked for before all else of a front-end that may be lost: so that it is lost is known in seconds,
    /// however long an answer may take. `memory`: where this front-end remembers that it was silent.
    pub(crate) async fn greeted(&self, memory: &Path) -> Result<User, OneError> {
        let memory = self.may_be_lost(memory);
        let answer = tokio::time::timeout(PATIENCE, self.own_user()).await.unwrap_or_else(|_| {
            Err(OneError::Timeout { endpoint: self.endpoint().to_owned(), deadline: PATIENCE })
        });
        match &answer {
            Err(error) if error.is_unreachable() => memory.note_silence(),
            _ => memory.note_answer(),
        }
        answer
    }

    /// The images by their source, with the VMs that use them, as they are now; runs that want them at the same time ask once.
    /// `memory`: where this front-end keeps what its runs share.
    pub(crate) async fn images_with_users(&self, memory: &Path) -> Result<Vec<ImageWithVms>, OneError> {
        let (endpoint, user) = (self.endpoint(), self.user_name());
        let shared = SharedAnswer::new(memory, endpoint, format!("images of {endpoint} as {user}"));
        let images = shared.asked_now(async {
            let images = self.image_pool().await?.into_iter();
            Ok(images.map(|image| ImageWithVms { source: image.source, vms: image.vms }).collect())
        });
        images.await
    }

    /// These datastores, looked up once a run.
    pub(crate) async fn datastores(
        &self,
        ids: impl IntoIterator<Item = i32>,
    ) -> Result<BTreeMap<i32, Datastore>, OneError> {
        let mut found = BTreeMap::new();
        for id in ids {
            let known = self.0.datastores.borrow().get(&id).cloned();
            let datastore = match known {
                Some(datastore) => datastore,
                None => {
                    let datastore = self.datastore(id).await?;
                    self.0.datastores.borrow_mut().insert(id, datastore.clone());
                    datastore
                }
            };
            found.insert(id, datastore);
        }
        Ok(found)
    }

    /// The hosts that are off, in error or disabled, looked up once a run.
    pub(crate) async fn unusable_hosts(&self) -> Result<Vec<String>, OneError> {
        let known = self.0.unusable_hosts.borrow().clone();
        if let Some(unusable) = known {
            return Ok(unusable);
        }
        let hosts = self.host_pool().await?;
        let unusable: Vec<String> =
            hosts.into_iter().filter(|host| !host.state.is_usable()).map(|host| host.name).collect();
        *self.0.unusable_hosts.borrow_mut() = Some(unusable.clone());
        Ok(unusable)
    }
}
