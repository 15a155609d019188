//! The cluster of one site of the simulated world.

use super::unasked::{no_images_and_no_pools, no_way};
use super::world::{GLOBAL_ID, Holder, NAMES, Shared, Sim};
use async_trait::async_trait;
use onemirror::ceph::{
    Ceph, CephError, DaemonState, Expiry, ImageInfo, ImageStatus, JournalStatus, LockHolder, Locking,
    MirrorMode, MirrorState, Mirroring, PoolInfo, PoolStatus, Promotion, ReplayState, Snapshots,
    StatusReport,
};
use onemirror_model::storage::Site;
use onemirror_protocol::ImageSpec;
use std::collections::BTreeMap;
use tokio::time::Instant;

pub(crate) struct SimulatedCeph {
    pub(crate) site: Site,
    pub(crate) sim: Shared,
}

impl SimulatedCeph {
    async fn called<T>(&self, call: &str, work: impl FnOnce(&mut Sim) -> T) -> T {
        self.sim.called(format!("{}: {call}", NAMES[self.site]), work).await
    }

    /// The same of a change, which is noted where it succeeds.
    async fn change<T>(
        &self,
        call: &str,
        work: impl FnOnce(&mut Sim) -> Result<T, CephError>,
    ) -> Result<T, CephError> {
        let change = format!("{}: {call}", NAMES[self.site]);
        self.called(call, |sim| {
            let result = work(sim);
            if result.is_ok() {
                sim.changes.push(change);
            }
            result
        })
        .await
    }
}

#[async_trait(?Send)]
impl Ceph for SimulatedCeph {
    fn site(&self) -> &str {
        NAMES[self.site]
    }

    async fn info(&self, _: &ImageSpec) -> Result<Option<ImageInfo>, CephError> {
        let copy = self.called("info", |sim| sim.world.images[0].seen(self.site)).await;
        let mirroring = Mirroring {
            mode: MirrorMode::Journal,
            global_id: GLOBAL_ID.into(),
            primary: copy.primary,
            state: MirrorState::Enabled,
        };
        Ok(copy.exists.then(|| ImageInfo {
            id: format!("id-of-{}", NAMES[self.site]),
            size: 1 << 24,
            mirroring: Some(mirroring),
            parent: None,
            has_journal: true,
            is_read_only: copy.torn,
        }))
    }

    async fn metadata(&self, _: &ImageSpec) -> Result<BTreeMap<String, String>, CephError> {
        Ok(self.called("metadata", |sim| sim.metadata(self.site)).await)
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<(), CephError> {
        let read_only = || CephError::ReadOnly { what: image.to_string() };
        self.change(key, |sim| sim.set_metadata(self.site, key, value).then_some(()).ok_or_else(read_only))
            .await
    }

    async fn promote(&self, image: &ImageSpec, force: bool) -> Result<Promotion, CephError> {
        self.change("promote", |sim| match sim.world.promote(0, self.site, force) {
            true => Ok(Promotion::Promoted),
            // what the product is told as NotYet, so that only what succeeded is noted
            false => Err(CephError::Busy { what: image.to_string(), detail: "not yet".into() }),
        })
        .await
        .or_else(|error| match error {
            CephError::Busy { .. } => Ok(Promotion::NotYet),
            error => Err(error),
        })
    }

    async fn demote(&self, image: &ImageSpec) -> Result<(), CephError> {
        let (what, detail) = (image.to_string(), String::new());
        self.change("demote", |sim| match sim.refuses_demotion {
            true => Err(CephError::PermissionDenied { what, detail }),
            false if sim.world.images[0].demote(self.site) => Ok(()),
            false => Err(CephError::NotPossible { what, detail }),
        })
        .await
    }

    async fn fence(&self, _: &ImageSpec) -> Result<bool, CephError> {
        no_way("fence")
    }

    async fn is_open_for_writing(&self, _: &ImageSpec) -> Result<bool, CephError> {
        no_way("status")
    }

    async fn resync(&self, _: &ImageSpec) -> Result<(), CephError> {
        no_way("resync")
    }

    async fn mirror_snapshot(&self, _: &ImageSpec) -> Result<(), CephError> {
        no_way("snapshot")
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<ImageStatus, CephError> {
        let [copy, source] = self
            .called("status", |sim| [self.site, 1 - self.site].map(|site| sim.world.images[0].seen(site)))
            .await;
        let replay = match (copy.primary, source.primary) {
            (true, _) => ReplayState::LocalPrimary,
            (false, true) => ReplayState::Replaying(Default::default()),
            (false, false) => ReplayState::RemoteNotPrimary,
        };
        let description = String::new();
        let local = StatusReport { daemon: DaemonState::Up, replay, description, last_update: None };
        Ok(ImageStatus {
            name: image.image().into(),
            global_id: GLOBAL_ID.into(),
            local: Some(local),
            peers: Vec::new(),
        })
    }

    async fn pool_status(&self, _: &str) -> Result<PoolStatus, CephError> {
        no_way("pool status")
    }

    async fn journal_status(&self, _: &ImageSpec) -> Result<JournalStatus, CephError> {
        no_way("journal status")
    }

    async fn snapshots(&self, _: &ImageSpec) -> Result<Snapshots, CephError> {
        no_way("snapshots")
    }

    async fn pool_info(&self, _: &str) -> Result<PoolInfo, CephError> {
        no_way("pool info")
    }

    async fn mirror_uuid(&self, _: &str) -> Result<Option<String>, CephError> {
        no_way("mirror uuid")
    }

    async fn stored_metadata(
        &self,
        image: &ImageSpec,
        _: &str,
        key: &str,
    ) -> Result<Option<String>, CephError> {
        self.metadata(image).await.map(|mut metadata| metadata.remove(key))
    }

    async fn journal_resync(&self, _: &ImageSpec, _: &str) -> Result<Option<bool>, CephError> {
        Ok(Some(self.called("journal", |sim| sim.world.images[0].seen(self.site).resync).await))
    }

    async fn lock(
        &self,
        _: &ImageSpec,
        _: &str,
        name: &str,
        cookie: &str,
        expiry: Expiry,
    ) -> Result<Locking, CephError> {
        let until = match expiry {
            Expiry::After(duration) => Some(Instant::now() + duration),
            Expiry::Never => None,
        };
        let key = (self.site, name.to_owned());
        Ok(self
            .called("lock", |sim| match sim.locks.contains_key(&key) {
                true => Locking::Held,
                false => {
                    sim.locks.insert(key, Holder { cookie: cookie.to_owned(), until });
                    Locking::Acquired
                }
            })
            .await)
    }

    async fn locks_among(
        &self,
        _: &ImageSpec,
        _: &str,
        names: &[&'static str],
    ) -> Result<Vec<&'static str>, CephError> {
        let held = |sim: &mut Sim| {
            let is_held = |name: &&str| sim.locks.contains_key(&(self.site, (*name).to_owned()));
            names.iter().copied().filter(is_held).collect()
        };
        Ok(self.called("lock names", held).await)
    }

    async fn lock_holder(&self, _: &ImageSpec, _: &str, name: &str) -> Result<Option<LockHolder>, CephError> {
        let key = (self.site, name.to_owned());
        let cookie = self.called("lock holder", |sim| sim.locks.get(&key).map(|it| it.cookie.clone())).await;
        let (client, address) = ("client.1".to_owned(), String::new());
        Ok(cookie.map(|cookie| LockHolder { client, cookie, address }))
    }

    async fn unlock(&self, _: &ImageSpec, _: &str, name: &str, _: &LockHolder) -> Result<(), CephError> {
        let key = (self.site, name.to_owned());
        self.called("unlock", |sim| drop(sim.locks.remove(&key))).await;
        Ok(())
    }
}

no_images_and_no_pools!(SimulatedCeph);
