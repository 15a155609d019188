//! Places for what is looked at side by side in one cluster.

use super::CONCURRENCY;
use super::error::RunError;
use crate::ceph::CephError;
use onemirror_protocol::ImageSpec;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many images may be waited for longer than others, while these are looked at. Ceph's libraries make that many calls and
/// [`CONCURRENCY`] more at once.
const SLOW: usize = 8;
/// Who looks longer than that is slow. A look takes some 20 ms by Ceph's libraries, and a few hundred by its commands.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where nobody else may be slow.
const LAST_PATIENCE: Duration = Duration::from_millis(250);

/// How many there are at most in one cluster.
pub(crate) const ALL: usize = CONCURRENCY + SLOW;

/// The places of one cluster. An image that does not answer, of a placement group that is down, say, leaves its place to
/// others. Where many do not answer, the rest of them is not waited for.
pub(crate) struct Places {
    quick: Semaphore,
    slow: Semaphore,
    acting: Semaphore,
}

impl Places {
    pub(crate) fn new() -> Self {
        let [quick, acting] = [CONCURRENCY; 2].map(Semaphore::new);
        Self { quick, slow: Semaphore::new(SLOW), acting }
    }

    /// Looks at an image of that site's cluster, or at the disks of a VM, the first of which it is. As a look may be given up,
    /// it may not change anything.
    pub(crate) async fn look<T>(
        &self,
        site: &str,
        image: &ImageSpec,
        look: impl Future<Output = T>,
    ) -> Result<T, RunError> {
        let quick = self.quick.acquire().await;
        let patience = if self.slow.available_permits() == 0 { LAST_PATIENCE } else { PATIENCE };
        tokio::pin!(look);
        if let Ok(seen) = tokio::time::timeout(patience, &mut look).await {
            return Ok(seen);
        }
        let Ok(_slow) = self.slow.try_acquire() else {
            let (image, site) = (image.clone(), site.to_owned());
            let error = CephError::Unreachable {
                what: format!("look at {image}"),
                cluster: site.clone(),
                detail: format!("no answer within {patience:?}, and {SLOW} others are waited for already"),
            };
            return Err(RunError::Ceph { image, site, error });
        };
        drop(quick);
        Ok(look.await)
    }

    /// Does what is due. That has deadlines of its own, and is not given up.
    pub(crate) async fn act<T>(&self, act: impl Future<Output = T>) -> T {
        let _acting = self.acting.acquire().await;
        act.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt as _, stream};
    use tokio::time::{Instant, sleep};

    /// One of a hundred does not answer for 30 s.
    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_keeps_the_others_not_waiting() {
        let image: ImageSpec = "one/one-7".parse().unwrap();
        let places = Places::new();
        let started = Instant::now();
        let look = |number: usize| {
            let (places, image) = (&places, &image);
            async move {
                let takes = if number.is_multiple_of(100) { 30_000 } else { 20 };
                let seen = places.look("site-a", image, sleep(Duration::from_millis(takes))).await;
                (number, seen.is_ok(), started.elapsed())
            }
        };
        let all: Vec<_> = stream::iter((0..5000).map(look)).buffer_unordered(ALL).collect().await;
        let is_stuck = |number: usize| number.is_multiple_of(100);
        assert_eq!(all.len(), 5000);
        assert!(all.iter().all(|(number, is_seen, _)| *is_seen || is_stuck(*number)));
        assert_eq!(all.iter().filter(|(_, is_seen, _)| !is_seen).count(), 50 - SLOW);
        let last = all.iter().filter(|(number, ..)| !is_stuck(*number)).map(|(.., at)| *at).max().unwrap();
        assert!(last < Duration::from_secs(31), "{last:?}");
        assert!(started.elapsed() < Duration::from_secs(45), "{:?}", started.elapsed());
    }
}
