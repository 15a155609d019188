//! What a cluster in a test or a bench is not asked.

use onemirror::ceph::CephError;

/// The answer to what is no part of that world.
pub(crate) fn no_way<T>(what: &str) -> Result<T, CephError> {
    Err(CephError::NoWay { what: what.into(), detail: "not simulated".into() })
}

/// A cluster that looks after no images, and tells nothing of itself.
macro_rules! no_images_and_no_pools {
    ($cluster:ty) => {
        #[::async_trait::async_trait(?Send)]
        impl ::onemirror::ceph::CephImages for $cluster {
            async fn rename(
                &self,
                _: &::onemirror_protocol::ImageSpec,
                _: &::onemirror_protocol::ImageSpec,
            ) -> Result<(), ::onemirror::ceph::CephError> {
                no_way("rename")
            }

            async fn stop_mirroring(
                &self,
                _: &::onemirror_protocol::ImageSpec,
                _: ::onemirror::ceph::MirrorMode,
            ) -> Result<(), ::onemirror::ceph::CephError> {
                no_way("disable")
            }

            async fn remove_metadata(
                &self,
                _: &::onemirror_protocol::ImageSpec,
                _: &str,
            ) -> Result<(), ::onemirror::ceph::CephError> {
                no_way("remove metadata")
            }

            async fn is_held(
                &self,
                _: &::onemirror_protocol::ImageSpec,
            ) -> Result<bool, ::onemirror::ceph::CephError> {
                no_way("lock ls")
            }

            async fn image_names(&self, _: &str) -> Result<Vec<String>, ::onemirror::ceph::CephError> {
                no_way("ls")
            }

            async fn used(
                &self,
                _: &::onemirror_protocol::ImageSpec,
            ) -> Result<u64, ::onemirror::ceph::CephError> {
                no_way("du")
            }

            async fn room(
                &self,
                _: &str,
            ) -> Result<::onemirror::ceph::PoolRoom, ::onemirror::ceph::CephError> {
                no_way("df")
            }

            async fn remove(
                &self,
                _: &::onemirror_protocol::ImageSpec,
            ) -> Result<(), ::onemirror::ceph::CephError> {
                no_way("rm")
            }

            async fn descendants(
                &self,
                _: &::onemirror_protocol::ImageSpec,
            ) -> Result<Vec<::onemirror_protocol::ImageSpec>, ::onemirror::ceph::CephError> {
                no_way("children")
            }
        }

        #[::async_trait::async_trait(?Send)]
        impl ::onemirror::ceph::CephPools for $cluster {
            fn user(&self) -> String {
                "client.libvirt".into()
            }

            async fn pool_settings(
                &self,
                _: &str,
            ) -> Result<::std::collections::BTreeMap<String, String>, ::onemirror::ceph::CephError> {
                no_way("pool settings")
            }

            async fn client_settings(
                &self,
            ) -> Result<::std::collections::BTreeMap<String, String>, ::onemirror::ceph::CephError> {
                no_way("client settings")
            }

            async fn snapshot_schedules(
                &self,
            ) -> Result<Vec<::onemirror::ceph::SnapshotSchedule>, ::onemirror::ceph::CephError> {
                no_way("schedules")
            }

            async fn lacks_room(&self, _: &str) -> Option<::onemirror_protocol::Fullness> {
                None
            }

            async fn lacks_room_still(&self, _: &str) -> Option<::onemirror_protocol::Fullness> {
                None
            }
        }
    };
}

pub(crate) use no_images_and_no_pools;
