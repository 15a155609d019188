//! A cluster whose 25,000 images are all settled: primary on site-a, and followed on site-b.

use crate::unasked::{no_images_and_no_pools, no_way};
use crate::{DISKS, STUCK, VMS};
use async_trait::async_trait;
use onemirror::ceph::{
    Ceph, CephError, DaemonState, Expiry, ImageInfo, ImageStatus, JournalStatus, LockHolder, Locking,
    MirrorMode, MirrorState, Mirroring, PoolInfo, PoolStatus, Progress, Promotion, ReplayState, Snapshots,
    StatusReport,
};
use onemirror_protocol::{
    BOOTED_KEY, HOME_KEY, ImageSpec, Mark, Named, TOKEN_KEY, Token, home_written, written_for,
};
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) struct FakeCluster {
    pub(crate) site: String,
    /// Whether one of a hundred images does not answer.
    pub(crate) stuck: bool,
}

fn number(image: &ImageSpec) -> usize {
    image.image().trim_start_matches("one-").parse().unwrap()
}

impl FakeCluster {
    fn is_home(&self) -> bool {
        self.site == "site-a"
    }

    async fn answers(&self, image: &ImageSpec) -> Result<(), CephError> {
        if self.stuck && number(image) % STUCK == 0 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let (what, cluster) = (image.to_string(), self.site.clone());
            return Err(CephError::Unreachable { what, cluster, detail: "no answer within 30 s".into() });
        }
        Ok(())
    }

    fn status(&self, number: usize) -> ImageStatus {
        let report = |replay, description: &str| StatusReport {
            daemon: DaemonState::Up,
            replay,
            description: description.into(),
            last_update: None,
        };
        let primary = report(ReplayState::LocalPrimary, "local image is primary");
        let following = report(ReplayState::Replaying(Progress::default()), "replaying");
        let (local, peer) = if self.is_home() { (primary, following) } else { (following, primary) };
        let name_there = if self.is_home() { "site-b" } else { "site-a" };
        ImageStatus {
            name: format!("one-{number}"),
            global_id: format!("g{number}"),
            local: Some(local),
            peers: vec![(name_there.to_owned(), peer)],
        }
    }
}

#[async_trait(?Send)]
impl Ceph for FakeCluster {
    fn site(&self) -> &str {
        &self.site
    }

    async fn info(&self, image: &ImageSpec) -> Result<Option<ImageInfo>, CephError> {
        self.answers(image).await?;
        let number = number(image);
        Ok(Some(ImageInfo {
            id: format!("{}-{number}", self.site),
            size: 64 << 20, // as the documents of the front-end say
            mirroring: Some(Mirroring {
                mode: MirrorMode::Journal,
                global_id: format!("g{number}"),
                primary: self.is_home(),
                state: MirrorState::Enabled,
            }),
            parent: None,
            has_journal: true,
            is_read_only: false,
        }))
    }

    async fn metadata(&self, image: &ImageSpec) -> Result<BTreeMap<String, String>, CephError> {
        let number = number(image);
        let (global_id, vm) = (format!("g{number}"), i32::try_from(number * VMS / DISKS).unwrap());
        let token = Token::open_after(None, "site-a");
        let booted = Mark::of(&token, vm);
        Ok(BTreeMap::from([
            (TOKEN_KEY.to_owned(), written_for(&token, &global_id)),
            (BOOTED_KEY.to_owned(), written_for(&booted, &global_id)),
            (HOME_KEY.to_owned(), home_written("site-a", Named::Global(&global_id))),
        ]))
    }

    async fn set_metadata(&self, _: &ImageSpec, _: &str, _: &str) -> Result<(), CephError> {
        no_way("set metadata")
    }

    async fn promote(&self, _: &ImageSpec, _: bool) -> Result<Promotion, CephError> {
        no_way("promote")
    }

    async fn demote(&self, _: &ImageSpec) -> Result<(), CephError> {
        no_way("demote")
    }

    async fn fence(&self, _: &ImageSpec) -> Result<bool, CephError> {
        no_way("fence")
    }

    async fn is_open_for_writing(&self, _: &ImageSpec) -> Result<bool, CephError> {
        no_way("watchers")
    }

    async fn resync(&self, _: &ImageSpec) -> Result<(), CephError> {
        no_way("resync")
    }

    async fn mirror_snapshot(&self, _: &ImageSpec) -> Result<(), CephError> {
        no_way("mirror snapshot")
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<ImageStatus, CephError> {
        self.answers(image).await?;
        Ok(self.status(number(image)))
    }

    async fn pool_status(&self, _: &str) -> Result<PoolStatus, CephError> {
        Ok(PoolStatus { daemons_up: 1, images: (0..DISKS).map(|number| self.status(number)).collect() })
    }

    async fn journal_status(&self, _: &ImageSpec) -> Result<JournalStatus, CephError> {
        no_way("journal status")
    }

    async fn snapshots(&self, _: &ImageSpec) -> Result<Snapshots, CephError> {
        Ok(Snapshots::default())
    }

    async fn pool_info(&self, _: &str) -> Result<PoolInfo, CephError> {
        Ok(PoolInfo { enabled: true, pool_mode: true, site_name: self.site.clone(), peers: Vec::new() })
    }

    async fn mirror_uuid(&self, _: &str) -> Result<Option<String>, CephError> {
        Ok(Some(format!("uuid-of-{}", self.site)))
    }

    async fn stored_metadata(
        &self,
        image: &ImageSpec,
        _: &str,
        key: &str,
    ) -> Result<Option<String>, CephError> {
        Ok(self.metadata(image).await?.remove(key))
    }

    async fn journal_resync(&self, _: &ImageSpec, _: &str) -> Result<Option<bool>, CephError> {
        Ok(Some(false))
    }

    async fn lock(&self, _: &ImageSpec, _: &str, _: &str, _: &str, _: Expiry) -> Result<Locking, CephError> {
        no_way("lock")
    }

    async fn locks_among(
        &self,
        _: &ImageSpec,
        _: &str,
        _: &[&'static str],
    ) -> Result<Vec<&'static str>, CephError> {
        Ok(Vec::new())
    }

    async fn lock_holder(&self, _: &ImageSpec, _: &str, _: &str) -> Result<Option<LockHolder>, CephError> {
        Ok(None)
    }

    async fn unlock(&self, _: &ImageSpec, _: &str, _: &str, _: &LockHolder) -> Result<(), CephError> {
        no_way("unlock")
    }
}

no_images_and_no_pools!(FakeCluster);
