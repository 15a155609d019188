//! What a site had written and not sent when the other one outranked it: set aside under another name, listed, put to
//! use again, dropped.

use super::error::EngineError;
use super::images::VmImage;
use super::locks::{Lock, LockError, Owner};
use super::observe::{Seen, error_on};
use super::sites::Engine;
use super::steps::{Carried, HeldLocks};
use crate::audit::Outcome;
use crate::ceph::{Ceph, CephError, ImageInfo, RbdCommand};
use crate::handoff::{Here, Mode, There, TokenSeen};
use crate::image_spec::ImageSpec;
use crate::opennebula::{Datastore, DatastoreKind};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

/// The image metadata key of a [`Note`].
const NOTE_KEY: &str = "onemirror.lost";
/// The image metadata key under which the days are counted on which reconcile saw the image.
const DAYS_KEY: &str = "onemirror.lost-days";
/// What stands between an image's name and the date in the name of what was set aside of it.
const INFIX: &str = ".lost-";
/// The date in such a name.
const DATE: &str = "%Y%m%dT%H%M%SZ";
/// Disks of one VM that were set aside by different runs still belong together for so long.
const ONE_SET: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// What is written into a copy before it is set aside.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Note {
    /// The id of the copy: a clone of it inherits the note and is no lost copy.
    copy: String,
    /// The site whose writes these are.
    site: String,
    /// `pool[/namespace]/image`, as it was called.
    image: String,
    /// The VM that last ran on it here.
    vm: Option<i32>,
    /// When it was set aside; the same for all disks of a VM.
    since: Timestamp,
    /// Which reign outranked which.
    why: String,
}

impl Note {
    /// The note in this metadata, if it speaks of the copy with this id.
    fn of(metadata: &BTreeMap<String, String>, id: &str) -> Option<Self> {
        let note: Self = serde_json::from_str(metadata.get(NOTE_KEY)?).ok()?;
        Some(note).filter(|note| note.copy == id)
    }

    /// The name under which the copy is kept.
    fn kept_as(&self) -> Option<ImageSpec> {
        let spec: ImageSpec = self.image.parse().ok()?;
        let name = format!("{}{INFIX}{}", spec.image(), self.since.strftime(DATE));
        ImageSpec::new(spec.pool(), spec.namespace(), &name).ok()
    }
}

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
    /// Which reign outranked which.
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

/// A pool of this site's Ceph datastores, mirrored or not.
struct Pool {
    name: String,
    datastore: Datastore,
    cluster: Rc<RbdCommand>,
}

/// A lost copy as found, with what it takes to act on it.
pub(super) struct Found {
    spec: ImageSpec,
    info: ImageInfo,
    metadata: BTreeMap<String, String>,
    note: Note,
}

/// Whether an image may be what a set aside copy is called; its note decides.
pub(super) fn is_named_lost(image: &ImageSpec) -> bool {
    image.image().contains(INFIX)
}

/// Whether another image has the name that the copy is to have.
async fn is_taken(cluster: &RbdCommand, note: &Note) -> Result<bool, CephError> {
    match note.kept_as() {
        Some(kept_as) => Ok(cluster.info(&kept_as).await?.is_some()),
        None => Ok(false),
    }
}

pub(super) async fn find(cluster: &RbdCommand, spec: &ImageSpec) -> Result<Option<Found>, CephError> {
    let Some(info) = cluster.info(spec).await? else { return Ok(None) };
    let metadata = match cluster.metadata(spec).await {
        Err(CephError::NotFound { .. }) => return Ok(None),
        other => other?,
    };
    let note = Note::of(&metadata, &info.id).filter(|note| note.kept_as().as_ref() == Some(spec));
    Ok(note.map(|note| Found { spec: spec.clone(), info, metadata, note }))
}

impl Engine {
    /// Sets the outranked copy here aside: noted first, then renamed, then no longer mirrored. In no other order: what
    /// bears the VM's name and is not mirrored would be booted on. Killed in between, reconcile goes on.
    pub(super) async fn set_aside(
        &self,
        seen: &Seen,
        locks: &HeldLocks,
        vm: Option<i32>,
    ) -> Result<Carried, CephError> {
        let (started, spec, cluster) = (Instant::now(), seen.spec(), &seen.image.cluster);
        let now = cluster.info(spec).await?;
        let same = now.filter(|now| Some(&now.id) == seen.id_here.as_ref());
        let mirroring = same.as_ref().and_then(|now| now.mirroring.clone());
        let (Some(now), Some(mirroring)) = (same, mirroring.filter(|mirroring| mirroring.primary)) else {
            return Ok(Carried::Halted);
        };
        let known =
            Note::of(&cluster.metadata(spec).await?, &now.id).filter(|note| note.image == spec.to_string());
        let mut note = known.unwrap_or_else(|| self.note_about(seen, &now.id, vm));
        if is_taken(cluster, &note).await? {
            // by a copy that was restored: it is no lost one any more, and keeps its name
            note.since = Timestamp::now();
        }
        let Some(kept_as) = note.kept_as() else { return Ok(Carried::Halted) };
        let text = serde_json::to_string(&note).unwrap_or_default();
        cluster.set_metadata(spec, NOTE_KEY, &text).await?;
        if !self.still_hold(locks, spec).await {
            return Ok(Carried::LockRanOut);
        }
        cluster.rename(spec, &kept_as).await?;
        let way = (cluster.number(), spec.pool_spec());
        *self.room_taken.borrow_mut().entry(way).or_default() += seen.room_needed;
        self.note(
            note.vm,
            Some(spec),
            "set-aside",
            "rename",
            Outcome::Done,
            Some(format!("kept as {kept_as}")),
            started,
        );
        tracing::warn!("{spec} is outranked and may hold writes of its own: kept as {kept_as}");
        if !self.still_hold(locks, spec).await {
            return Ok(Carried::LockRanOut);
        }
        cluster.stop_mirroring(&kept_as, mirroring.mode).await?;
        Ok(Carried::Out)
    }

    fn note_about(&self, seen: &Seen, copy: &str, vm: Option<i32>) -> Note {
        let token = |token: &TokenSeen| token.token().map_or("no token".to_owned(), ToString::to_string);
        let (here, booted) = match &seen.observation.here {
            Here::Mirrored(copy) => (token(&copy.token), copy.booted.clone()),
            Here::Absent | Here::NotMirrored => (String::new(), None),
        };
        let there = match &seen.observation.there {
            There::Mirrored(copy) => token(&copy.token),
            _ => String::new(),
        };
        let vm = vm.or(booted.filter(|mark| mark.site == self.here()).map(|mark| mark.vm));
        Note {
            copy: copy.to_owned(),
            site: self.here().to_owned(),
            image: seen.spec().to_string(),
            vm,
            since: self.date_of_set(vm, seen.spec()),
            why: format!("{there} outranks {here}"),
        }
    }

    /// One date for all disks of a VM, also where an earlier run was killed between two of them.
    fn date_of_set(&self, vm: Option<i32>, image: &ImageSpec) -> Timestamp {
        let now = *self.set_aside_at.get_or_init(Timestamp::now);
        let name = image.to_string();
        let lost = self.lost_seen.borrow();
        let dates_of = |of: &dyn Fn(&LostImage) -> bool| -> BTreeSet<Timestamp> {
            lost.iter().filter(|lost| lost.vm == vm && of(lost)).map(|lost| lost.since).collect()
        };
        let own = dates_of(&|lost| lost.of == name);
        let others = dates_of(&|lost| lost.of != name);
        let fits = |date: &Timestamp| {
            vm.is_some() && !own.contains(date) && now.duration_since(*date).abs() < ONE_SET
        };
        others.into_iter().rev().find(fits).unwrap_or(now)
    }

    /// The pools of this site's Ceph datastores; one that cannot be reached keeps no other waiting.
    async fn pools_with_images(&self) -> Result<Vec<Pool>, EngineError> {
        let datastores = self.one_here.datastore_pool().await.map_err(|error| self.error_here(error))?;
        let (mut pools, mut known) = (Vec::new(), BTreeSet::new());
        // an image can only be registered in a datastore for images
        let (first, second): (Vec<_>, Vec<_>) =
            datastores.into_iter().filter(Datastore::is_ceph).partition(|it| it.kind == DatastoreKind::Image);
        for datastore in first.into_iter().chain(second) {
            let name =
                datastore.pool_name.clone().unwrap_or_else(|| crate::opennebula::disks::DEFAULT_POOL.into());
            if matches!(datastore.kind, DatastoreKind::File | DatastoreKind::Backup) {
                continue;
            }
            match self.cluster_here(&datastore).await {
                Ok(cluster) if known.insert((cluster.number(), name.clone())) => {
                    pools.push(Pool { name, datastore, cluster });
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("pool {name}: {error}"),
            }
        }
        Ok(pools)
    }

    async fn find_lost(&self, pool: &Pool) -> Result<Vec<Found>, CephError> {
        let mut found = Vec::new();
        for name in
            pool.cluster.image_names(&pool.name).await?.into_iter().filter(|name| name.contains(INFIX))
        {
            let Ok(spec) = format!("{}/{name}", pool.name).parse::<ImageSpec>() else { continue };
            found.extend(find(&pool.cluster, &spec).await?);
        }
        Ok(found)
    }

    /// What was set aside, pool by pool; one that cannot be looked at keeps no other waiting.
    async fn lost_by_pool(&self) -> Result<Vec<(Pool, Vec<Found>)>, EngineError> {
        let mut all = Vec::new();
        for pool in self.pools_with_images().await? {
            match self.find_lost(&pool).await {
                Ok(found) => all.push((pool, found)),
                Err(error) => tracing::warn!("pool {}: {error}", pool.name),
            }
        }
        Ok(all)
    }

    /// All copies that were set aside on this site, oldest first.
    pub async fn lost_images(&self) -> Result<Vec<LostImage>, EngineError> {
        let mut all = Vec::new();
        let registered = self.registered_images().await?;
        for (pool, found) in self.lost_by_pool().await? {
            for found in found {
                // without a map of its objects it is counted one by one
                let size = pool.cluster.used(&found.spec).await.unwrap_or(found.info.size);
                all.push(LostImage {
                    registered: registered.get(&found.spec).copied(),
                    image: found.spec.to_string(),
                    of: found.note.image,
                    vm: found.note.vm,
                    since: found.note.since,
                    why: found.note.why,
                    size,
                });
            }
        }
        all.sort_by_key(|lost| lost.since);
        Ok(all)
    }

    /// The images of this front-end, by where they are.
    async fn registered_images(&self) -> Result<BTreeMap<ImageSpec, i32>, EngineError> {
        let images = self.one_here.image_pool().await.map_err(|error| self.error_here(error))?;
        Ok(images.into_iter().filter_map(|image| Some((image.source.parse().ok()?, image.id))).collect())
    }

    /// Whether a mirrored image is a copy that is being set aside: it has its new name and its note.
    pub(super) async fn is_being_set_aside(&self, image: &VmImage) -> bool {
        is_named_lost(image.spec()) && matches!(find(&image.cluster, image.spec()).await, Ok(Some(_)))
    }

    /// Ends what a killed run began: the copy has its new name, and is mirrored still.
    pub(super) async fn finish_set_aside(&self, image: &VmImage) -> Result<(), EngineError> {
        let (spec, cluster, started) = (image.spec(), &image.cluster, Instant::now());
        let here = |error| error_on(cluster, spec, error);
        let Some(found) = find(cluster, spec).await.map_err(here)? else { return Ok(()) };
        let Some(mirroring) = found.info.mirroring else { return Ok(()) };
        let original: ImageSpec = found
            .note
            .image
            .parse()
            .map_err(|_| EngineError::Unfit(format!("{spec}: its note names no image")))?;
        let Some(other) = self.cluster_there(cluster, &spec.pool_spec()).await.map_err(here)? else {
            return Err(EngineError::Unfit(format!("{spec}: nothing leads to {}", self.there())));
        };
        let there = |error| error_on(&other, spec, error);
        let owner = Owner::this_process(self.here(), &self.state_dir);
        let lock = self.lock_copy(cluster, spec, &mirroring.global_id, &owner).await?;
        let lock_there = match self.lock_copy(&other, &original, &mirroring.global_id, &owner).await {
            Ok(lock) => lock,
            Err(error) => {
                lock.release().await;
                return Err(error);
            }
        };
        let ended = async {
            // only a primary copy there stays when its other one leaves
            let reigns = other.info(&original).await.map_err(there)?.and_then(|info| info.mirroring);
            if !reigns.is_some_and(|it| it.primary && it.global_id == mirroring.global_id) {
                return Err(EngineError::Unfit(format!(
                    "{spec} is set aside and mirrored still, since {original} is not primary on {}",
                    self.there()
                )));
            }
            let margin = self.config.policy.command_timeout;
            let ours = lock.is_ours(margin).await.map_err(here)?
                && lock_there.is_ours(margin).await.map_err(there)?;
            if !ours {
                return Err(EngineError::Unfit(format!(
                    "{spec}: too slow, so its lock ran out; type again: onemirror reconcile"
                )));
            }
            cluster.stop_mirroring(spec, mirroring.mode).await.map_err(here)
        }
        .await;
        lock_there.release().await;
        lock.release().await;
        let (outcome, reason) = match &ended {
            Ok(()) => (Outcome::Done, None),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        self.note(found.note.vm, Some(spec), "set-aside", "stop-mirroring", outcome, reason, started);
        ended
    }

    async fn lock_copy(
        &self,
        cluster: &Rc<RbdCommand>,
        spec: &ImageSpec,
        id: &str,
        owner: &Owner,
    ) -> Result<Lock, EngineError> {
        Lock::take(cluster, spec, id, owner, self.lock_duration()).await.map_err(|error| match error {
            LockError::Held(holder) => EngineError::Locked { image: spec.clone(), holder },
            LockError::Ceph(error) => error_on(cluster, spec, error),
        })
    }

    /// Registers a copy that was set aside as an image of its own, and gives its id. From then on it is like any other.
    pub async fn restore_lost(&self, spec: &ImageSpec) -> Result<i32, EngineError> {
        let started = Instant::now();
        let (pool, found) = self.pool_of(spec).await?;
        let registered = self.registered_images().await?.get(spec).copied();
        let here = |error| error_on(&pool.cluster, spec, error);
        let (id, found) = match (registered, found) {
            // it was restored before
            (Some(id), None) if is_named_lost(spec) => return Ok(id),
            (_, None) => return Err(not_lost(spec)),
            (_, Some(found)) if found.info.mirroring.is_some() => return Err(still_mirrored(spec)),
            (Some(id), Some(found)) => (id, found),
            (None, Some(found)) => {
                let owner = Owner::this_process(self.here(), &self.state_dir);
                let lock = self.lock_copy(&pool.cluster, spec, &lock_id(&found.info), &owner).await?;
                let allocated = self.register(&pool, &found).await;
                lock.release().await;
                (allocated?, found)
            }
        };
        // it is an image like any other now, and neither lost nor under anybody's reign
        for key in found.metadata.keys().filter(|key| key.starts_with("onemirror.")) {
            pool.cluster.remove_metadata(spec, key).await.map_err(here)?;
        }
        let reason = Some(format!("registered as image {id}"));
        self.note(found.note.vm, Some(spec), "operator", "lost-restore", Outcome::Done, reason, started);
        Ok(id)
    }

    async fn register(&self, pool: &Pool, found: &Found) -> Result<i32, EngineError> {
        // names of images and datastores hold no quotes: ImageSpec has none
        let template = format!(
            "NAME=\"{}\"\nTYPE=\"DATABLOCK\"\nPERSISTENT=\"YES\"\nFORMAT=\"raw\"\nSIZE=\"{}\"\nSOURCE=\"{}\"\n",
            found.spec.image(),
            found.info.size.div_ceil(1 << 20),
            found.spec
        );
        let allocated = self.one_here.image_allocate(&template, pool.datastore.id).await;
        allocated.map_err(|error| self.error_here(error))
    }

    /// The pool that holds the lost copy, of all that have the pool's name, and what was found there.
    async fn pool_of(&self, spec: &ImageSpec) -> Result<(Pool, Option<Found>), EngineError> {
        let mut last = None;
        for pool in self.pools_with_images().await?.into_iter().filter(|it| it.name == spec.pool_spec()) {
            let found = find(&pool.cluster, spec).await;
            let found = found.map_err(|error| error_on(&pool.cluster, spec, error))?;
            let is_there = found.is_some();
            last = Some((pool, found));
            if is_there {
                break;
            }
        }
        last.ok_or_else(|| EngineError::Unfit(format!("no Ceph datastore here has the pool of {spec}")))
    }

    /// Removes a copy that was set aside, and nothing else.
    pub async fn drop_lost(&self, spec: &ImageSpec) -> Result<(), EngineError> {
        let (pool, _) = self.pool_of(spec).await?;
        self.drop_from(&pool, spec, "operator").await
    }

    async fn drop_from(&self, pool: &Pool, spec: &ImageSpec, whose: &str) -> Result<(), EngineError> {
        let started = Instant::now();
        let here = |error| error_on(&pool.cluster, spec, error);
        let user = self.one_here.own_user().await.map_err(|error| self.error_here(error))?;
        if !user.sees_everything() {
            return Err(EngineError::Unfit(format!(
                "{spec} may be registered: this user does not see every image; type it as oneadmin"
            )));
        }
        let Some(found) = find(&pool.cluster, spec).await.map_err(here)? else { return Err(not_lost(spec)) };
        let owner = Owner::this_process(self.here(), &self.state_dir);
        let lock = self.lock_copy(&pool.cluster, spec, &lock_id(&found.info), &owner).await?;
        let dropped = self.drop_locked(pool, spec).await;
        lock.release().await;
        let (outcome, reason) = match &dropped {
            Ok(()) => (Outcome::Done, found.note.why),
            Err(error) => (Outcome::Failed, error.to_string()),
        };
        self.note(found.note.vm, Some(spec), whose, "lost-drop", outcome, Some(reason), started);
        dropped
    }

    /// Looks again under the lock, and removes it.
    async fn drop_locked(&self, pool: &Pool, spec: &ImageSpec) -> Result<(), EngineError> {
        let here = |error| error_on(&pool.cluster, spec, error);
        if let Some(id) = self.registered_images().await?.get(spec) {
            return Err(EngineError::Unfit(format!(
                "{spec} is registered as image {id}; oneimage delete {id}"
            )));
        }
        let found = find(&pool.cluster, spec).await.map_err(here)?.ok_or_else(|| not_lost(spec))?;
        if found.info.mirroring.is_some() {
            return Err(still_mirrored(spec));
        }
        if let Some(clone) = pool.cluster.descendants(spec).await.map_err(here)?.first() {
            return Err(EngineError::Unfit(format!("{spec} has a clone, which needs it: {clone}")));
        }
        pool.cluster.remove(spec).await.map_err(here)
    }

    /// Counts the day for the copies that were set aside, and drops those whose days are over, if the policy says so.
    pub(super) async fn drop_old_lost(&self) -> Result<(), EngineError> {
        let Some(limit) = self.config.policy.drop_lost_after else { return Ok(()) };
        let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        for (pool, found) in self.lost_by_pool().await? {
            for found in found.iter().filter(|found| found.info.mirroring.is_none()) {
                if let Err(error) = self.count_day(&pool, found, today, limit).await {
                    tracing::warn!("{error}");
                }
            }
        }
        Ok(())
    }

    async fn count_day(
        &self,
        pool: &Pool,
        found: &Found,
        today: jiff::civil::Date,
        limit: u32,
    ) -> Result<(), EngineError> {
        let before = Days::read(found.metadata.get(DAYS_KEY));
        let days = Days::on(before, today);
        if days.count >= limit {
            return self.drop_from(pool, &found.spec, "drop_lost_after").await;
        }
        if before != Some(days) {
            let text = format!("{} {}", days.count, days.last);
            let written = pool.cluster.set_metadata(&found.spec, DAYS_KEY, &text).await;
            written.map_err(|error| error_on(&pool.cluster, &found.spec, error))?;
        }
        Ok(())
    }

    /// Whether the other copy provably has everything that was ever written to the one here: nobody died with it, and the
    /// other site's daemon has committed all of its journal. Mirror snapshots tell nothing of what came after the last.
    pub(super) async fn is_all_sent(&self, seen: &Seen) -> bool {
        let Here::Mirrored(here) = &seen.observation.here else { return false };
        let (Mode::Journal, Some(there)) = (here.mode, &seen.cluster_there) else { return false };
        let (spec, cluster) = (seen.spec(), &seen.image.cluster);
        let proven = async {
            if cluster.is_held(spec).await? {
                return Ok(false);
            }
            let Some(uuid) = self.mirror_uuid(there, spec).await? else { return Ok(false) };
            let status = cluster.journal_status(spec).await?;
            Ok::<_, CephError>(crate::ceph::is_committed_by(&status, &uuid) == Some(true))
        };
        proven.await.unwrap_or_else(|error| {
            tracing::info!("{error}");
            false
        })
    }
}

/// Two commands about one lost copy wait for each other; it has no other copy any more.
fn lock_id(info: &ImageInfo) -> String {
    format!("lost.{}", info.id)
}

fn not_lost(spec: &ImageSpec) -> EngineError {
    EngineError::Unfit(format!("{spec} is no copy that was set aside; see: onemirror lost list"))
}

fn still_mirrored(spec: &ImageSpec) -> EngineError {
    EngineError::Unfit(format!("{spec} is mirrored still; first: onemirror reconcile"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note {
            copy: "10365947de3a".into(),
            site: "site-a".into(),
            image: "one/one-7".into(),
            vm: Some(3),
            since: "2026-11-26T16:45:00.5Z".parse().unwrap(),
            why: "1003:site-b:open outranks 3:site-a:open".into(),
        }
    }

    #[test]
    fn a_note_speaks_of_its_own_copy_and_of_no_clone() {
        let metadata = BTreeMap::from([(NOTE_KEY.to_owned(), serde_json::to_string(&note()).unwrap())]);
        assert_eq!(Note::of(&metadata, "10365947de3a"), Some(note()));
        assert_eq!(Note::of(&metadata, "101f17c6f6b8"), None);
        assert_eq!(Note::of(&BTreeMap::new(), "10365947de3a"), None);
        assert_eq!(
            Note::of(&BTreeMap::from([(NOTE_KEY.to_owned(), "odd".to_owned())]), "10365947de3a"),
            None
        );
    }

    #[test]
    fn a_copy_is_kept_beside_its_image() {
        let kept_as = note().kept_as().unwrap();
        assert_eq!(kept_as.to_string(), "one/one-7.lost-20261126T164500Z");
        assert!(is_named_lost(&kept_as) && !is_named_lost(&"one/one-7".parse().unwrap()));
        let in_namespace = Note { image: "one/tenant/one-7".into(), ..note() };
        assert_eq!(in_namespace.kept_as().unwrap().to_string(), "one/tenant/one-7.lost-20261126T164500Z");
    }

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
