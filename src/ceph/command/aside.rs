//! What it takes to set an image aside, to look after it, and to remove it.

use super::super::{CephError, JournalStatus, MirrorMode, classify, parse};
use super::{CephCall, FORCED_PROMOTE_DEADLINE, Program, RbdCommand, split_pool, understood};
use crate::ceph::{Ceph, CephImages};
use async_trait::async_trait;
use onemirror_protocol::ImageSpec;
use onemirror_rbd::errno::ENOENT;

/// The room in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRoom {
    /// Bytes that still fit, by the cluster's devices and by the pool's quota.
    pub available: u64,
}

#[async_trait(?Send)]
impl CephImages for RbdCommand {
    async fn rename(&self, image: &ImageSpec, name: &ImageSpec) -> Result<(), CephError> {
        let mut call = self.of_image(&["rename"], image);
        call.arguments.push(format!("--dest-pool={}", name.pool()));
        if let Some(namespace) = name.namespace() {
            call.arguments.push(format!("--dest-namespace={namespace}"));
        }
        call.arguments.push(format!("--dest={}", name.image()));
        self.rbd(call).await.map(drop)
    }

    async fn stop_mirroring(&self, image: &ImageSpec, mode: MirrorMode) -> Result<(), CephError> {
        match self.rbd(self.of_image(&["mirror", "image", "disable"], image)).await {
            Err(CephError::NotPossible { .. }) if mode == MirrorMode::Journal => {
                let mut call = self.of_image(&["feature", "disable"], image);
                call.operands = vec!["journaling".into()];
                self.rbd(call).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<(), CephError> {
        let mut call = self.of_image(&["image-meta", "remove"], image);
        call.operands = vec![key.into()];
        let (question, output) = self.output(&call).await?;
        match output.status {
            0 | ENOENT => Ok(()),
            _ => Err(classify::rbd_error(&question, &output)),
        }
    }

    async fn is_held(&self, image: &ImageSpec) -> Result<bool, CephError> {
        let mut call = self.of_image(&["lock", "ls"], image);
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        Ok(!understood(&question, parse::lockers(&output.stdout))?.is_empty())
    }

    async fn image_names(&self, pool: &str) -> Result<Vec<String>, CephError> {
        let mut call = self.of_pool(&["ls"], pool);
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::image_names(&output.stdout))
    }

    async fn used(&self, image: &ImageSpec) -> Result<u64, CephError> {
        let mut call = self.of_image(&["du"], image);
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::used(&output.stdout))
    }

    async fn room(&self, pool: &str) -> Result<PoolRoom, CephError> {
        let (pool, _) = split_pool(pool);
        let words = ["df", "detail"];
        let mut call = self.call(Program::Ceph, format!("{} {pool}", words.join(" ")), &words);
        call.ask_in_json();
        let (question, output) = self.output(&call).await?;
        if output.status != 0 {
            return Err(classify::rbd_error(&question, &output));
        }
        understood(&question, parse::pool_room(&output.stdout, pool))
    }

    async fn remove(&self, image: &ImageSpec) -> Result<(), CephError> {
        if self.info(image).await?.is_none() {
            return Ok(());
        }
        for name in self.snapshots(image).await?.user {
            let of_snapshot = |words: &[&str]| -> CephCall {
                let mut call = self.of_image(words, image);
                call.arguments.push(format!("--snap={name}"));
                call
            };
            match self.rbd(of_snapshot(&["snap", "unprotect"])).await {
                // it was not protected
                Ok(_) | Err(CephError::NotPossible { .. }) => {}
                Err(error) => return Err(error),
            }
            self.rbd(of_snapshot(&["snap", "rm"])).await?;
        }
        let mut call = self.of_image(&["rm"], image);
        call.arguments.push("--no-progress".into());
        call.deadline = call.deadline.max(FORCED_PROMOTE_DEADLINE);
        self.rbd(call).await.map(drop)
    }

    async fn descendants(&self, image: &ImageSpec) -> Result<Vec<ImageSpec>, CephError> {
        // what has no snapshot has no clones. Asked all the same, `rbd` of 16.2 crashes on some images (seen in the lab)
        if self.snapshots(image).await?.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = self.of_image(&["children"], image);
        call.arguments.push("--descendants".into());
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::children(&output.stdout))
    }
}

/// Whether a follower has committed everything that the image's own client has; `None` where one of the two is unknown.
pub fn is_committed_by(status: &JournalStatus, follower: &str) -> Option<bool> {
    let objects = |client: &str| {
        let mut objects = status.clients.get(client)?.objects.clone();
        objects.sort_unstable();
        Some(objects)
    };
    Some(objects("")? == objects(follower)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::JournalPosition;

    #[test]
    fn everything_is_committed_where_both_positions_are_the_same() {
        let position = |objects: &[(u64, u64, u64)]| JournalPosition { objects: objects.to_vec() };
        let status = |own: &[_], follower: &[_]| JournalStatus {
            clients: [(String::new(), position(own)), ("uuid".to_owned(), position(follower))].into(),
        };
        let (newest, older) = ((1, 2, 9), (0, 2, 8));
        assert_eq!(is_committed_by(&status(&[newest, older], &[older, newest]), "uuid"), Some(true));
        assert_eq!(is_committed_by(&status(&[newest, older], &[older]), "uuid"), Some(false));
        assert_eq!(is_committed_by(&status(&[newest], &[newest]), "somebody else"), None);
    }
}
