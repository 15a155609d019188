//! What was set aside: listed, put to use again, dropped.

use crate::audit::Outcome;
use crate::ceph::ImageInfo;
use crate::opennebula::Image;
use crate::sites::journal::{Attempt, Ground};
use crate::sites::set_aside::{DatastorePool, FoundLost};
use crate::sites::{RunError, Sites, journal, pools, set_aside};
use jiff::Timestamp;
use onemirror_protocol::{ImageSpec, Unfit};
use std::collections::BTreeMap;

/// The image metadata key under which the days are counted on which reconcile saw the image.
const DAYS_KEY: &str = "onemirror.lost-days";

/// What is said of a copy that a killed run has left half-way.
pub(crate) const BEING_SET_ASIDE: &str = "being set aside; reconcile will finish it";

/// A copy that was set aside.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LostImage {
    /// Where it is: `pool[/namespace]/image`.
    pub image: String,
    /// What it was called.
    pub of: String,
    /// The VM that last ran on it here.
    pub vm: Option<i32>,
    /// When it was set aside.
    pub since: Timestamp,
    /// Which token outranked which.
    pub why: String,
    /// The bytes that it takes up.
    pub size: u64,
    /// The id under which it is registered here, if it is.
    pub registered: Option<i32>,
}

/// The days on which reconcile saw an image: their number, and the last one. A clock that jumps ahead adds one day, and
/// one that jumps back none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days {
    count: u32,
    last: jiff::civil::Date,
}

impl Days {
    fn read(text: Option<&String>) -> Option<Self> {
        let (count, last) = text?.split_once(' ')?;
        Some(Self { count: count.parse().ok()?, last: last.parse().ok()? })
    }

    fn on(before: Option<Self>, today: jiff::civil::Date) -> Self {
        match before {
            None => Self { count: 0, last: today },
            Some(days) if today > days.last => Self { count: days.count.saturating_add(1), last: today },
            Some(days) => days,
        }
    }
}

/// All copies that were set aside on this site, oldest first.
pub async fn lost_images(sites: &Sites) -> Result<Vec<LostImage>, RunError> {
    lost_among(sites, &pools::images_registered(sites).await?).await
}

/// The same; `images` are those of this front-end.
pub(super) async fn lost_among(sites: &Sites, images: &[Image]) -> Result<Vec<LostImage>, RunError> {
    let mut all = Vec::new();
    let registered = by_source(images);
    for (pool, found) in set_aside::lost_beside(sites, images).await? {
        for found in found {
            // without a map of its objects it is counted one by one
            let size = pool.cluster.used(&found.spec).await.unwrap_or(found.info.size);
            all.push(LostImage {
                registered: registered.get(&found.spec).copied(),
                image: found.spec.to_string(),
                of: found.note.image,
                vm: found.note.vm,
                since: found.note.since,
                why: match found.info.mirroring {
                    Some(_) => format!("{}; {BEING_SET_ASIDE}", found.note.why),
                    None => found.note.why,
                },
                size,
            });
        }
    }
    all.sort_by_key(|lost| lost.since);
    Ok(all)
}

/// The number under which an image is registered.
async fn registered_as(sites: &Sites, spec: &ImageSpec) -> Result<Option<i32>, RunError> {
    Ok(by_source(&pools::images_registered(sites).await?).get(spec).copied())
}

/// Registers a copy that was set aside as an image of its own, and gives its id. From then on it is like any other.
pub async fn restore_lost(sites: &Sites, spec: &ImageSpec) -> Result<i32, RunError> {
    let (pool, found) = pool_of(sites, spec).await?;
    let Some(found) = found else { return restored_before(sites, spec).await };
    let owner = sites.owner();
    let lock = set_aside::lock_copy(sites, &pool.cluster, spec, &lock_id(&found.info), &owner).await?;
    let restored = restore_locked(sites, &pool, spec).await;
    lock.release().await;
    restored
}

/// It may have been dropped, or restored, since it was seen without the lock.
async fn restore_locked(sites: &Sites, pool: &DatastorePool, spec: &ImageSpec) -> Result<i32, RunError> {
    let started = sites.time().now();
    let here = |error| pool.cluster.error(spec, error);
    let Some(found) = set_aside::find(&pool.cluster, spec).await.map_err(here)? else {
        return restored_before(sites, spec).await;
    };
    if found.info.mirroring.is_some() {
        return Err(still_mirrored(sites, pool, &found).await);
    }
    let id = match registered_as(sites, spec).await? {
        Some(id) => id,
        None => register(sites, pool, &found).await?,
    };
    // it is an image like any other now, and neither lost nor anybody's copy
    for key in found.metadata.keys().filter(|key| key.starts_with("onemirror.")) {
        pool.cluster.remove_metadata(spec, key).await.map_err(here)?;
    }
    let reason = Some(format!("registered as image {id}"));
    let attempt = Attempt {
        vm: found.note.vm,
        image: Some(spec),
        ground: Some(Ground::Operator),
        ..Attempt::at("lost-restore", started)
    };
    journal::note(sites, &attempt, Outcome::Done, reason);
    Ok(id)
}

/// The image that an earlier restore made of it.
async fn restored_before(sites: &Sites, spec: &ImageSpec) -> Result<i32, RunError> {
    match registered_as(sites, spec).await? {
        Some(id) if set_aside::is_named_lost(spec) => Ok(id),
        _ => Err(not_lost(spec)),
    }
}

async fn register(sites: &Sites, pool: &DatastorePool, found: &FoundLost) -> Result<i32, RunError> {
    // names of images and datastores hold no quotes: ImageSpec has none
    let template = format!(
        "NAME=\"{}\"\nTYPE=\"DATABLOCK\"\nPERSISTENT=\"YES\"\nFORMAT=\"raw\"\nSIZE=\"{}\"\nSOURCE=\"{}\"\n",
        found.spec.image(),
        found.info.size.div_ceil(1 << 20),
        found.spec
    );
    sites.here.ask(async |one| one.image_allocate(&template, pool.datastore.id).await).await
}

/// The pool that holds the lost copy, of all that have the pool's name, and what was found there.
async fn pool_of(sites: &Sites, spec: &ImageSpec) -> Result<(DatastorePool, Option<FoundLost>), RunError> {
    let mut last = None;
    let pools = set_aside::pools_with_images(sites, &pools::images_registered(sites).await?).await?;
    for pool in pools.into_iter().filter(|it| it.name == spec.pool_spec()) {
        let found = set_aside::find(&pool.cluster, spec).await;
        let found = found.map_err(|error| pool.cluster.error(spec, error))?;
        let is_there = found.is_some();
        last = Some((pool, found));
        if is_there {
            break;
        }
    }
    last.ok_or_else(|| RunError::Unfit(Unfit::NoDatastore { image: spec.clone() }))
}

/// A run was killed while it set the copy aside. Reconcile needs the other site to end that, since it must not take the
/// other copy with it; a site that is lost for good has none.
async fn still_mirrored(sites: &Sites, pool: &DatastorePool, found: &FoundLost) -> RunError {
    let spec = &found.spec;
    let every_image = pool.cluster.pool_info(&pool.name).await.is_ok_and(|info| info.pool_mode);
    let command = match every_image {
        true => format!("rbd feature disable {spec} journaling"),
        false => format!("rbd mirror image disable {spec}"),
    };
    RunError::Unfit(Unfit::MirroredStill {
        image: spec.clone(),
        there: sites.there.name().to_owned(),
        command,
    })
}

/// Removes a copy that was set aside, and nothing else.
pub async fn drop_lost(sites: &Sites, spec: &ImageSpec) -> Result<(), RunError> {
    let (pool, _) = pool_of(sites, spec).await?;
    drop_from(sites, &pool, spec, Ground::Operator).await
}

async fn drop_from(
    sites: &Sites,
    pool: &DatastorePool,
    spec: &ImageSpec,
    ground: Ground,
) -> Result<(), RunError> {
    let started = sites.time().now();
    let here = |error| pool.cluster.error(spec, error);
    let user = sites.here.ask(async |one| one.own_user().await).await?;
    if !user.sees_everything() {
        return Err(RunError::Unfit(Unfit::MayBeRegistered { image: spec.clone() }));
    }
    let Some(found) = set_aside::find(&pool.cluster, spec).await.map_err(here)? else {
        let id = restored_before(sites, spec).await?;
        return Err(RunError::Unfit(Unfit::RestoredBefore { image: spec.clone(), id }));
    };
    let owner = sites.owner();
    let lock = set_aside::lock_copy(sites, &pool.cluster, spec, &lock_id(&found.info), &owner).await?;
    let dropped = drop_locked(sites, pool, spec).await;
    lock.release().await;
    let (outcome, reason) = match &dropped {
        Ok(()) => (Outcome::Done, found.note.why),
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    let attempt = Attempt {
        vm: found.note.vm,
        image: Some(spec),
        ground: Some(ground),
        ..Attempt::at("lost-drop", started)
    };
    journal::note(sites, &attempt, outcome, Some(reason));
    dropped
}

/// Looks again under the lock, and removes it.
async fn drop_locked(sites: &Sites, pool: &DatastorePool, spec: &ImageSpec) -> Result<(), RunError> {
    let here = |error| pool.cluster.error(spec, error);
    if let Some(id) = registered_as(sites, spec).await? {
        return Err(RunError::Unfit(Unfit::RegisteredAgain { image: spec.clone(), id }));
    }
    let found = set_aside::find(&pool.cluster, spec).await.map_err(here)?.ok_or_else(|| not_lost(spec))?;
    if found.info.mirroring.is_some() {
        return Err(still_mirrored(sites, pool, &found).await);
    }
    match pool.cluster.descendants(spec).await {
        Ok(clones) => {
            if let Some(clone) = clones.first() {
                return Err(RunError::Unfit(Unfit::HasClone {
                    image: spec.clone(),
                    clone: clone.to_string(),
                }));
            }
        }
        // Ceph removes nothing that has clones; it is only the clone's name that is not known then
        Err(error) if error.is_crash() => tracing::warn!("{error}"),
        Err(error) => return Err(here(error)),
    }
    pool.cluster.remove(spec).await.map_err(here)
}

/// Counts the day for the copies that were set aside, and drops those whose days are over, if the policy says so.
pub(crate) async fn drop_old_lost(sites: &Sites) -> Result<(), RunError> {
    let Some(limit) = sites.config().policy.drop_lost_after else { return Ok(()) };
    let today = sites.time().date().to_zoned(jiff::tz::TimeZone::UTC).date();
    for (pool, found) in set_aside::lost_by_pool(sites).await? {
        for found in found.iter().filter(|found| found.info.mirroring.is_none()) {
            if let Err(error) = count_day(sites, &pool, found, today, limit).await {
                tracing::warn!("{error}");
            }
        }
    }
    Ok(())
}

async fn count_day(
    sites: &Sites,
    pool: &DatastorePool,
    found: &FoundLost,
    today: jiff::civil::Date,
    limit: u32,
) -> Result<(), RunError> {
    let before = Days::read(found.metadata.get(DAYS_KEY));
    let days = Days::on(before, today);
    if days.count >= limit {
        return drop_from(sites, pool, &found.spec, Ground::DropLostAfter).await;
    }
    if before != Some(days) {
        let text = format!("{} {}", days.count, days.last);
        let written = pool.cluster.set_metadata(&found.spec, DAYS_KEY, &text).await;
        written.map_err(|error| pool.cluster.error(&found.spec, error))?;
    }
    Ok(())
}

/// Two commands about one lost copy wait for each other; it has no other copy any more.
fn lock_id(info: &ImageInfo) -> String {
    format!("lost.{}", info.id)
}

fn by_source(images: &[Image]) -> BTreeMap<ImageSpec, i32> {
    images.iter().filter_map(|image| Some((image.source.parse().ok()?, image.id))).collect()
}

fn not_lost(spec: &ImageSpec) -> RunError {
    RunError::Unfit(Unfit::NotSetAside { image: spec.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_makes_more_than_a_day_of_a_run() {
        let date = |text: &str| text.parse::<jiff::civil::Date>().unwrap();
        let mut days = Days::on(None, date("2026-11-26"));
        assert_eq!((days.count, days.last), (0, date("2026-11-26")));
        for (today, count) in
            [("2026-11-26", 0), ("2026-11-27", 1), ("2036-01-01", 2), ("2026-11-28", 2), ("2036-01-01", 2)]
        {
            days = Days::on(Some(days), date(today));
            assert_eq!(days.count, count, "{today}");
        }
        assert_eq!(Days::read(Some(&"2 2036-01-01".to_owned())), Some(days));
        for odd in ["", "2", "x 2036-01-01", "-1 2036-01-01", "2 2036-13-01"] {
            assert_eq!(Days::read(Some(&odd.to_owned())), None, "{odd}");
        }
    }
}
