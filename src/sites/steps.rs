//! Carries steps out, one by one, each only while the locks it relies on are held. What to do is decided elsewhere.

use super::CONCURRENCY;
use super::Sites;
use super::cluster::Cluster;
use super::copies;
use super::error::{ForcedInPart, RunError};
use super::force::{self, ForceOrder};
use super::images::VmImage;
use super::journal::{self, Attempt, Ground};
use super::locks::{self, Lock, LockError, Owner};
use super::look::{self, Seen};
use super::set_aside;
use crate::audit::Outcome;
use crate::ceph::{CephError, Promotion};
use futures::{StreamExt, stream};
use onemirror_protocol::{
    BOOTED_KEY, Carried, Depth, FORCED_KEY, Finding, HOME_KEY, ImageSpec, Named, RELEASE_KEY, Side, Step,
    TOKEN_KEY, home_written, written_for,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// A look that takes longer has met a command that hangs; locks do not wait for more.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// A promotion that comes too early is tried again for so long, under the same locks: until the daemon has met the demotion
/// of the other copy, behind the last write.
const SOON: Duration = Duration::from_secs(3);
/// The shortest pause between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// The locks that a run holds.
#[derive(Default)]
pub(crate) struct HeldLocks {
    here: BTreeMap<ImageSpec, Lock>,
    there: BTreeMap<ImageSpec, Lock>,
}

impl HeldLocks {
    fn on(&self, side: Side) -> &BTreeMap<ImageSpec, Lock> {
        match side {
            Side::Here => &self.here,
            Side::There => &self.there,
        }
    }

    fn on_mut(&mut self, side: Side) -> &mut BTreeMap<ImageSpec, Lock> {
        match side {
            Side::Here => &mut self.here,
            Side::There => &mut self.there,
        }
    }

    pub(crate) async fn release(self) {
        futures::future::join_all(self.here.into_values().chain(self.there.into_values()).map(Lock::release))
            .await;
    }

    /// The first copy that was seen and is not locked: it came, or became another one, after the look for which the locks
    /// were taken.
    fn leaves_out<'a>(&self, seen: &'a [Seen]) -> Option<&'a ImageSpec> {
        let is_locked = |locks: &BTreeMap<ImageSpec, Lock>, seen: &Seen, id: &str| {
            locks.get(seen.spec()).is_some_and(|lock| lock.is_of(id))
        };
        let is_left_out = |seen: &&Seen| {
            let Some(id) = &seen.global_id else { return false };
            let there = !self.there.is_empty() && seen.cluster_there.is_some();
            !is_locked(&self.here, seen, id) || there && !is_locked(&self.there, seen, id)
        };
        seen.iter().find(is_left_out).map(Seen::spec)
    }
}

/// On whose behalf steps are carried out, for the audit log.
pub(crate) struct Cause<'a> {
    pub vm: Option<i32>,
    pub findings: &'a [Finding],
    /// What an operator typed, where he forces it.
    pub order: Option<&'a ForceOrder<'a>>,
}

impl Cause<'_> {
    fn ground(&self, image: &ImageSpec) -> Option<Ground> {
        if self.order.is_some() {
            return Some(Ground::OperatorForce);
        }
        let finding = self.findings.iter().find(|finding| finding.image == *image);
        finding.map(|finding| Ground::Rule(finding.rule))
    }
}

/// How long a lock lives: long enough for the slowest sequence of steps under it, and for the looks before and between
/// them, by what they have taken so far: up to five of them.
fn duration_of_lock(command_timeout: Duration, slowest_look: Duration) -> Duration {
    command_timeout * 3 + Duration::from_secs(15) + slowest_look.min(LONGEST_LOOK) * 5
}

/// How long a lock taken now lives.
pub(crate) fn lock_duration(sites: &Sites) -> Duration {
    duration_of_lock(sites.config.policy.command_timeout, sites.slowest_look.get())
}

/// Takes the locks of the copies on one side, all or none, without waiting.
pub(crate) async fn lock(
    sites: &Sites,
    locks: &mut HeldLocks,
    side: Side,
    seen: &[Seen],
    owner: &Owner,
) -> Result<(), RunError> {
    let held = locks.on_mut(side);
    let wanted = seen.iter().filter_map(|seen| {
        let global_id = seen.global_id.as_ref().filter(|_| !held.contains_key(seen.spec()))?;
        let cluster = seen.cluster(side)?;
        Some(async move {
            (seen.spec(), Lock::take(cluster, seen.spec(), global_id, owner, lock_duration(sites)).await)
        })
    });
    let taken: Vec<_> = stream::iter(wanted.collect::<Vec<_>>()).buffered(CONCURRENCY).collect().await;
    let mut trouble = None;
    for (spec, lock) in taken {
        match lock {
            Ok(lock) => drop(held.insert(spec.clone(), lock)),
            Err(LockError::Held(holder)) => trouble = Some(RunError::Locked { image: spec.clone(), holder }),
            Err(LockError::Ceph(error)) => {
                trouble = Some(sites[side].ceph_error(spec, error));
            }
        }
    }
    trouble.map_or(Ok(()), Err)
}

/// Looks again under the locks. Where a copy shows itself that nobody has locked nothing may be decided.
pub(crate) async fn observe_locked(
    sites: &Sites,
    images: &[VmImage],
    depth: Depth,
    locks: &HeldLocks,
) -> Result<Vec<Seen>, RunError> {
    let seen = look::observe(sites, images, depth).await?;
    match locks.leaves_out(&seen) {
        Some(image) => Err(RunError::Changed { image: image.clone() }),
        None => Ok(seen),
    }
}

/// Carries out `steps`: those of one image in order, those of different images side by side. A step that finds
/// the world changed halts its image; that is no error.
pub(crate) async fn carry_out(
    sites: &Sites,
    steps: &[Step],
    seen: &[Seen],
    locks: &HeldLocks,
    cause: &Cause<'_>,
) -> Result<Carried, RunError> {
    let (aside, first): (Vec<&Step>, Vec<&Step>) =
        steps.iter().partition(|step| matches!(step, Step::SetAside { .. }));
    let mut carried = carry_out_each(sites, &first, seen, locks, cause).await;
    // what is set aside together is noted together, before the first copy gets its new name
    let is_due = |(seen, carried): &(&Seen, &Result<Carried, RunError>)| {
        matches!(carried, Ok(Carried::Out)) && aside.iter().any(|step| step.image() == seen.spec())
    };
    let due: Vec<Seen> = seen.iter().zip(&carried).filter(is_due).map(|(seen, _)| seen.clone()).collect();
    if !due.is_empty() {
        set_aside::note_set(sites, &due, locks, cause.vm).await?;
        carried.extend(carry_out_each(sites, &aside, &due, locks, cause).await);
    }
    let carried: Vec<Carried> = carried.into_iter().collect::<Result<_, RunError>>()?;
    Ok(carried.into_iter().max().unwrap_or(Carried::Out))
}

/// Carries out `steps`, one image after the other; the first failure ends it, and tells of all.
pub(crate) async fn force_in_turn(
    sites: &Sites,
    steps: &[Step],
    seen: &[Seen],
    locks: &HeldLocks,
    cause: &Cause<'_>,
) -> Result<(), RunError> {
    let of_image = |seen: &&Seen| steps.iter().any(|step| step.image() == seen.spec());
    let all: Vec<&Seen> = seen.iter().filter(of_image).collect();
    let steps: Vec<&Step> = steps.iter().collect();
    for (place, seen) in all.iter().enumerate() {
        let failed = match carry_out_of(sites, &steps, seen, locks, cause).await {
            Ok(Carried::Out) => continue,
            Ok(Carried::Halted) => "it has changed meanwhile".to_owned(),
            // a process that was paused finds its lock gone, and may have been overtaken
            Ok(Carried::LockRanOut) => "too slow, so its lock ran out".to_owned(),
            Err(RunError::Ceph { error, .. }) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let names = |some: &[&Seen]| some.iter().map(|seen| seen.spec().clone()).collect();
        return Err(RunError::ForcedInPart(ForcedInPart {
            failed: seen.spec().clone(),
            why: failed,
            forced: names(all.get(..place).unwrap_or_default()),
            left: names(all.get(place + 1..).unwrap_or_default()),
        }));
    }
    Ok(())
}

/// Those of one image.
async fn carry_out_of(
    sites: &Sites,
    steps: &[&Step],
    seen: &Seen,
    locks: &HeldLocks,
    cause: &Cause<'_>,
) -> Result<Carried, RunError> {
    for step in steps.iter().filter(|step| step.image() == seen.spec()) {
        let carried = carry_out_one(sites, step, seen, locks, cause).await?;
        if carried != Carried::Out {
            return Ok(carried);
        }
    }
    Ok(Carried::Out)
}

async fn carry_out_each(
    sites: &Sites,
    steps: &[&Step],
    seen: &[Seen],
    locks: &HeldLocks,
    cause: &Cause<'_>,
) -> Vec<Result<Carried, RunError>> {
    let by_image = seen.iter().map(|seen| carry_out_of(sites, steps, seen, locks, cause));
    stream::iter(by_image.collect::<Vec<_>>()).buffered(CONCURRENCY).collect().await
}

async fn carry_out_one(
    sites: &Sites,
    step: &Step,
    seen: &Seen,
    locks: &HeldLocks,
    cause: &Cause<'_>,
) -> Result<Carried, RunError> {
    let started = sites.time().now();
    let image = step.image();
    let attempt = Attempt {
        vm: cause.vm,
        image: Some(image),
        ground: cause.ground(image),
        ..Attempt::at(step.name(), started)
    };
    let site = &sites[step.side()];
    let result = loop {
        let tried = sites.time().now();
        if !locks_hold(sites, locks, image).await? {
            journal::note(sites, &attempt, Outcome::Pending, Some("its lock ran out before".to_owned()));
            tracing::warn!("{image}: its lock ran out before {}", step.name());
            return Ok(Carried::LockRanOut);
        }
        let result = perform(sites, step, seen, locks, cause).await;
        let is_soon_possible = matches!((step, &result), (Step::Promote { .. }, Ok(Carried::Halted)));
        if !is_soon_possible || sites.time().since(started) >= SOON {
            break result;
        }
        sites.time().pass(pause_after(sites.time().since(tried))).await;
    };
    let (outcome, reason) = match &result {
        Ok(Carried::Out) => (Outcome::Done, cause.order.map(ForceOrder::in_words)),
        Ok(Carried::Halted | Carried::LockRanOut) => (Outcome::Pending, Some("not yet possible".to_owned())),
        Err(error) => {
            let words = cause.order.map(|order| format!("{}: ", order.in_words())).unwrap_or_default();
            (Outcome::Failed, Some(format!("{words}{error}")))
        }
    };
    journal::note(sites, &attempt, outcome, reason);
    tracing::info!("{} {image} on {}: {result:?}", step.name(), site.name());
    match result {
        Ok(carried) => Ok(carried),
        Err(CephError::NotPossible { .. } | CephError::ReadOnly { .. } | CephError::NotFound { .. })
            if cause.order.is_none() =>
        {
            Ok(Carried::Halted)
        }
        Err(error) => Err(site.ceph_error(image, error)),
    }
}

/// How long to wait before the next try that lasts as long as this one: a front-end that boots many VMs at once is busy enough.
fn pause_after(tried: Duration) -> Duration {
    (tried * 3).clamp(TRY_AGAIN, SOON / 2)
}

/// Whether every lock that is held for the image is still ours, long enough for one more command.
async fn locks_hold(sites: &Sites, locks: &HeldLocks, image: &ImageSpec) -> Result<bool, RunError> {
    for side in [Side::Here, Side::There] {
        let Some(lock) = locks.on(side).get(image) else { continue };
        let ours = lock
            .is_ours(sites.config.policy.command_timeout)
            .await
            .map_err(|error| sites[side].ceph_error(image, error))?;
        if !ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same where a command is about to follow another one; what is not known counts as no.
pub(crate) async fn still_hold(sites: &Sites, locks: &HeldLocks, image: &ImageSpec) -> bool {
    locks_hold(sites, locks, image).await.unwrap_or(false)
}

async fn perform(
    sites: &Sites,
    step: &Step,
    seen: &Seen,
    locks: &HeldLocks,
    cause: &Cause<'_>,
) -> Result<Carried, CephError> {
    let Some(global_id) = &seen.global_id else { return Ok(Carried::Halted) };
    let Some(cluster) = seen.cluster(step.side()) else { return Ok(Carried::Halted) };
    match step {
        Step::WriteToken { image, token, .. } => {
            cluster.set_metadata(image, TOKEN_KEY, &written_for(token, global_id)).await?;
        }
        Step::MarkBooted { image, mark } => {
            cluster.set_metadata(image, BOOTED_KEY, &written_for(mark, global_id)).await?
        }
        Step::MarkRelease { image, mark } => {
            cluster.set_metadata(image, RELEASE_KEY, &written_for(mark, global_id)).await?
        }
        Step::WriteHome { image, site } => {
            cluster.set_metadata(image, HOME_KEY, &home_written(site, Named::Global(global_id))).await?
        }
        Step::MirrorSnapshot { image, .. } => cluster.mirror_snapshot(image).await?,
        Step::Fence { image } => drop(cluster.fence(image).await?),
        Step::Demote { image, .. } => cluster.demote(image).await?,
        Step::Promote { image, .. } => {
            if cluster.promote(image, false).await? == Promotion::NotYet {
                return Ok(Carried::Halted);
            }
        }
        Step::PromoteStale { image } => {
            let now = cluster.info(image).await?.map(|info| info.id);
            if now != seen.id_here || cluster.promote(image, true).await? == Promotion::NotYet {
                return Ok(Carried::Halted);
            }
        }
        Step::PromoteByForce { image } => force::promote_by_force(sites, cluster, image).await?,
        Step::MarkForced { image, mark } => {
            let note = force::forced_note(mark, global_id, cause.order, sites.time().date());
            force::write_after_force(sites, cluster, image, FORCED_KEY, &note).await?
        }
        Step::OpenByForce { image, token } => {
            force::write_after_force(sites, cluster, image, TOKEN_KEY, &written_for(token, global_id)).await?
        }
        Step::SetAside { .. } => return set_aside::set_aside(sites, seen, locks).await,
        Step::Resync { .. } => return ask_for_new_copy(cluster, seen, global_id).await,
    }
    Ok(Carried::Out)
}

/// An earlier request may have been met since the look: the new copy is not to be thrown away as well.
async fn ask_for_new_copy(cluster: &Cluster, seen: &Seen, global_id: &str) -> Result<Carried, CephError> {
    let image = seen.spec();
    let now = cluster.info(image).await?.map(|info| info.id);
    if now != seen.id_here {
        return Ok(Carried::Halted);
    }
    let asked = async || copies::copy_to_be_thrown_away(cluster, image).await;
    locks::request_resync(cluster, image, global_id, asked).await?;
    Ok(Carried::Out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_do_not_eat_the_lock() {
        let seconds = Duration::from_secs;
        assert_eq!(duration_of_lock(seconds(20), Duration::ZERO), seconds(75));
        for look in [1, 20, 60] {
            // under the lock here, under both, after the demotion there; and then as much as a lock that none has eaten of
            assert!(duration_of_lock(seconds(20), seconds(look)) >= seconds(75 + 3 * look));
        }
        assert_eq!(duration_of_lock(seconds(20), seconds(3600)), seconds(75 + 300));
    }
}
