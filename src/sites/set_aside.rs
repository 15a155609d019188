//! What a site had written and not sent when the other one outranked it is set aside under another name, and found again.

use super::Sites;
use super::cluster::Cluster;
use super::error::RunError;
use super::images::VmImage;
use super::journal::{self, Attempt, Ground};
use super::locks::{Lock, LockError, Owner};
use super::look::Seen;
use super::pools;
use super::reach;
use super::steps::{self, HeldLocks};
use crate::audit::Outcome;
use crate::ceph::{CephError, ImageInfo};
use crate::opennebula::{Datastore, Image};
use jiff::Timestamp;
use onemirror_protocol::{
    Carried, Here, ImageSpec, Mode, SetAside, TOKEN_KEY, There, Token, TokenSeen, Unfit,
};
use std::collections::{BTreeMap, BTreeSet};

/// The image metadata key of a [`Note`].
const NOTE_KEY: &str = "onemirror.lost";

/// What stands between an image's name and the date in the name of what was set aside of it.
const INFIX: &str = ".lost-";

/// The date in such a name.
const DATE: &str = "%Y%m%dT%H%M%SZ";

/// So far apart are the dates of two copies of one disk, at least.
const A_SECOND: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// What is written into a copy before it is set aside.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Note {
    /// The id of the copy: a clone of it inherits the note and is no lost copy.
    copy: String,
    /// The site whose writes these are.
    site: String,
    /// `pool[/namespace]/image`, as it was called.
    pub image: String,
    /// The VM that last ran on it here.
    pub vm: Option<i32>,
    /// When it was set aside; the same for all disks of a VM that were lost together, and no others.
    pub since: Timestamp,
    /// The date in its name, where another image has the name with that of the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named: Option<Timestamp>,
    /// The token that outranked it.
    #[serde(default, rename = "reign", skip_serializing_if = "Option::is_none")]
    outranked_by: Option<String>,
    /// Which token outranked which.
    pub why: String,
}

impl Note {
    /// The note in this metadata, if it speaks of the copy with this id.
    fn of(metadata: &BTreeMap<String, String>, id: &str) -> Option<Self> {
        let note: Self = serde_json::from_str(metadata.get(NOTE_KEY)?).ok()?;
        Some(note).filter(|note| note.copy == id)
    }

    /// What was set aside later comes later: by the tokens that outranked it, which no clock tells.
    fn order(&self) -> (Option<u64>, Timestamp) {
        let token = self.outranked_by.as_deref().and_then(|token| token.parse::<Token>().ok());
        (token.map(|token| token.sequence), self.since)
    }

    /// The name under which the copy is kept.
    fn kept_as(&self) -> Option<ImageSpec> {
        let spec: ImageSpec = self.image.parse().ok()?;
        let date = self.named.unwrap_or(self.since);
        let name = format!("{}{INFIX}{}", spec.image(), date.strftime(DATE));
        ImageSpec::new(spec.pool(), spec.namespace(), &name).ok()
    }
}

/// A pool of this site's Ceph datastores, mirrored or not.
pub(crate) struct DatastorePool {
    pub name: String,
    pub datastore: Datastore,
    pub cluster: Cluster,
}

/// A lost copy as found, with what it takes to act on it.
pub(crate) struct FoundLost {
    pub spec: ImageSpec,
    pub info: ImageInfo,
    pub metadata: BTreeMap<String, String>,
    pub note: Note,
}

/// Whether an image may be what a set aside copy is called; its note decides.
pub(crate) fn is_named_lost(image: &ImageSpec) -> bool {
    image.image().contains(INFIX)
}

/// A copy that was set aside before, of a disk of the same VM.
#[derive(Clone, Debug)]
struct Earlier {
    /// What it was called.
    of: String,
    /// The date of its set.
    since: Timestamp,
    /// The token that outranked it is still the newest: since then this site had nothing more to lose.
    is_of_this_loss: bool,
}

/// Copies that are to be set aside together, each with its note.
struct Set {
    notes: Vec<Note>,
    /// Other disks of the VM, that were set aside before.
    earlier: Vec<Earlier>,
    /// Every image there is in their pools.
    names: BTreeSet<ImageSpec>,
}

impl Set {
    /// Gives them one date, and each a name that is free. A note that a killed run has written is on the very copy that is
    /// still to be set aside, so its date is that of this set; and so is that of another disk which nobody but the token that
    /// outranked it has had since. No clock tells what belongs together.
    fn dated(self, noted: &[Timestamp], now: Timestamp) -> Vec<Note> {
        let is_one_of_these = |earlier: &&Earlier| self.notes.iter().any(|note| note.image == earlier.of);
        let others: Vec<&Earlier> =
            self.earlier.iter().filter(|it| it.is_of_this_loss && !is_one_of_these(it)).collect();
        let of_others = others.iter().map(|earlier| earlier.since);
        // of one of these disks there is a copy of that date: another loss
        let is_over = |date: &Timestamp| {
            self.earlier.iter().filter(is_one_of_these).any(|earlier| earlier.since == *date)
        };
        let known = noted.iter().copied().chain(of_others).filter(|date| !is_over(date)).min();
        let mut since = known.unwrap_or(now);
        let at = |note: &Note, since, named| Note { since, named, ..note.clone() };
        let is_taken = |note: &Note| note.kept_as().is_some_and(|name| self.names.contains(&name));
        // a date that no copy bears yet is that of all of them, or of none
        let is_begun = others.iter().any(|earlier| earlier.since == since);
        while !is_begun && self.notes.iter().any(|note| is_taken(&at(note, since, None))) {
            since += A_SECOND;
        }
        let name = |note: &Note| {
            let (mut dated, mut named) = (at(note, since, None), since);
            while is_taken(&dated) {
                named += A_SECOND;
                dated = at(note, since, Some(named));
            }
            dated
        };
        self.notes.iter().map(name).collect()
    }
}

/// The images of a pool that bear the name of a copy that was set aside.
async fn names_of_kept(cluster: &Cluster, pool: &str) -> Result<Vec<ImageSpec>, CephError> {
    let names = cluster.image_names(pool).await?.into_iter().filter(|name| name.contains(INFIX));
    Ok(names.filter_map(|name| format!("{pool}/{name}").parse().ok()).collect())
}

pub(crate) async fn find(cluster: &Cluster, spec: &ImageSpec) -> Result<Option<FoundLost>, CephError> {
    let Some(info) = cluster.info(spec).await? else { return Ok(None) };
    let metadata = match cluster.metadata(spec).await {
        Err(CephError::NotFound { .. }) => return Ok(None),
        other => other?,
    };
    let note = Note::of(&metadata, &info.id).filter(|note| note.kept_as().as_ref() == Some(spec));
    Ok(note.map(|note| FoundLost { spec: spec.clone(), info, metadata, note }))
}

/// Notes on all copies that are to be set aside together that they are, and under which date, before the first of them
/// gets its new name. Killed in between, the next run goes by the notes that are there.
pub(crate) async fn note_set(
    sites: &Sites,
    due: &[Seen],
    locks: &HeldLocks,
    vm: Option<i32>,
) -> Result<(), RunError> {
    let (mut copies, mut notes, mut noted) = (Vec::new(), Vec::new(), Vec::new());
    for seen in due {
        let known = primary_copy(seen).await.map_err(|error| seen.image.error(error))?;
        let Some((info, known)) = known else { continue };
        noted.extend(known.as_ref().map(|note| note.since));
        notes.push(known.clone().unwrap_or_else(|| note_about(sites, seen, &info.id, vm)));
        copies.push((seen, known));
    }
    let names = names_beside(&copies).await?;
    let earlier = earlier_of(sites, &notes).await;
    let dated = Set { notes, earlier, names }.dated(&noted, sites.time().date());
    for ((seen, known), note) in copies.into_iter().zip(dated) {
        let (spec, cluster) = (seen.spec(), &seen.image.cluster);
        if known.as_ref() == Some(&note) {
            continue;
        }
        // without its note nothing is set aside
        if !steps::still_hold(sites, locks, spec).await {
            return Ok(());
        }
        let text = serde_json::to_string(&note).unwrap_or_default();
        let written = cluster.set_metadata(spec, NOTE_KEY, &text).await;
        written.map_err(|error| seen.image.error(error))?;
    }
    Ok(())
}

/// Every image of the pools that hold these.
async fn names_beside(copies: &[(&Seen, Option<Note>)]) -> Result<BTreeSet<ImageSpec>, RunError> {
    let (mut names, mut known) = (BTreeSet::new(), BTreeSet::new());
    for (seen, _) in copies {
        let (pool, cluster) = (seen.spec().pool_spec(), &seen.image.cluster);
        if known.insert((cluster.number(), pool.clone())) {
            let found = cluster.image_names(&pool).await;
            let found = found.map_err(|error| seen.image.error(error))?;
            names.extend(found.iter().filter_map(|name| format!("{pool}/{name}").parse().ok()));
        }
    }
    Ok(names)
}

/// What was set aside before of disks of the VM that these copies are of.
async fn earlier_of(sites: &Sites, notes: &[Note]) -> Vec<Earlier> {
    let Some(vm) = notes.iter().find_map(|note| note.vm) else { return Vec::new() };
    let all = lost_by_pool(sites).await.unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Vec::new()
    });
    let mut earlier = Vec::new();
    for (pool, found) in &all {
        for note in found.iter().map(|found| &found.note).filter(|note| note.vm == Some(vm)) {
            let is_of_this_loss = still_outranks(sites, pool, note).await;
            earlier.push(Earlier { of: note.image.clone(), since: note.since, is_of_this_loss });
        }
    }
    earlier
}

/// Whether the token that outranked the copy is still the newest; what cannot be seen counts as replaced.
async fn still_outranks(sites: &Sites, pool: &DatastorePool, note: &Note) -> bool {
    let (Some(token), Ok(image)) = (&note.outranked_by, note.image.parse::<ImageSpec>()) else {
        return false;
    };
    let Ok(Some(there)) = reach::cluster_there(sites, &pool.cluster, &pool.name).await else { return false };
    let metadata = there.metadata(&image).await;
    let metadata = metadata.inspect_err(|error| tracing::info!("{error}")).unwrap_or_default();
    metadata.get(TOKEN_KEY).and_then(|text| text.split_whitespace().next()) == Some(token.as_str())
}

/// Sets the outranked copy here aside: noted before, now renamed, then no longer mirrored. In no other order: what
/// bears the VM's name and is not mirrored would be booted on. Killed in between, reconcile goes on.
pub(crate) async fn set_aside(sites: &Sites, seen: &Seen, locks: &HeldLocks) -> Result<Carried, CephError> {
    let (started, spec, cluster) = (sites.time().now(), seen.spec(), &seen.image.cluster);
    let Some((info, Some(note))) = primary_copy(seen).await? else { return Ok(Carried::Halted) };
    let (Some(mirroring), Some(kept_as)) = (info.mirroring, note.kept_as()) else {
        return Ok(Carried::Halted);
    };
    if !steps::still_hold(sites, locks, spec).await {
        return Ok(Carried::LockRanOut);
    }
    cluster.rename(spec, &kept_as).await?;
    cluster.take_room(&spec.pool_spec(), seen.room_needed);
    let attempt = Attempt {
        vm: note.vm,
        image: Some(spec),
        ground: Some(Ground::SetAside),
        ..Attempt::at("rename", started)
    };
    journal::note(sites, &attempt, Outcome::Done, Some(format!("kept as {kept_as}")));
    tracing::warn!("{spec} is outranked and may hold writes of its own: kept as {kept_as}");
    if !steps::still_hold(sites, locks, spec).await {
        return Ok(Carried::LockRanOut);
    }
    cluster.stop_mirroring(&kept_as, mirroring.mode).await?;
    Ok(Carried::Out)
}

fn note_about(sites: &Sites, seen: &Seen, copy: &str, vm: Option<i32>) -> Note {
    let token = |token: &TokenSeen| token.token().map_or("no token".to_owned(), ToString::to_string);
    let (here, booted) = match &seen.observation.here {
        Here::Mirrored(copy) => (token(&copy.token), copy.booted.clone()),
        Here::Absent | Here::NotMirrored => (String::new(), None),
    };
    let (there, outranked_by) = match &seen.observation.there {
        There::Mirrored(copy) => (token(&copy.token), copy.token.token().map(ToString::to_string)),
        _ => (String::new(), None),
    };
    let vm = vm.or(booted.filter(|mark| mark.site == sites.here.name()).map(|mark| mark.vm));
    Note {
        copy: copy.to_owned(),
        site: sites.here.name().to_owned(),
        image: seen.spec().to_string(),
        vm,
        since: sites.time().date(),
        named: None,
        outranked_by,
        why: format!("{there} outranks {here}"),
    }
}

/// What was set aside here of a disk that is not here, the newest.
pub(crate) async fn set_aside_of(image: &VmImage) -> Option<SetAside> {
    let (spec, cluster) = (image.spec(), &image.cluster);
    let name = spec.to_string();
    let look = async {
        let mut newest: Option<FoundLost> = None;
        for kept in names_of_kept(cluster, &spec.pool_spec()).await? {
            let found = find(cluster, &kept).await?.filter(|found| found.note.image == name);
            newest = newest.into_iter().chain(found).max_by_key(|found| found.note.order());
        }
        Ok::<_, CephError>(newest)
    };
    let newest = look.await.inspect_err(|error| tracing::info!("{error}")).ok()??;
    let (disk, since) = (image.disk_id?, newest.note.since.as_second());
    Some(SetAside { copy: newest.spec, disk, since, apart_from: None })
}

/// The pools of this site's Ceph datastores; one that cannot be reached keeps no other waiting.
pub(crate) async fn pools_with_images(
    sites: &Sites,
    images: &[Image],
) -> Result<Vec<DatastorePool>, RunError> {
    let (mut pools, mut known) = (Vec::new(), BTreeSet::new());
    // an image can only be registered in a datastore for images
    for (name, datastore) in pools::pools_by_name(sites, images).await? {
        match reach::cluster_here(sites, &datastore).await {
            Ok(cluster) if known.insert((cluster.number(), name.clone())) => {
                pools.push(DatastorePool { name, datastore, cluster });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("pool {name}: {error}"),
        }
    }
    Ok(pools)
}

async fn find_lost(pool: &DatastorePool) -> Result<Vec<FoundLost>, CephError> {
    let mut found = Vec::new();
    for spec in names_of_kept(&pool.cluster, &pool.name).await? {
        found.extend(find(&pool.cluster, &spec).await?);
    }
    Ok(found)
}

/// What was set aside, pool by pool; one that cannot be looked at keeps no other waiting.
pub(crate) async fn lost_by_pool(sites: &Sites) -> Result<Vec<(DatastorePool, Vec<FoundLost>)>, RunError> {
    lost_beside(sites, &pools::images_registered(sites).await?).await
}

/// The same, where the images that are registered here are known.
pub(crate) async fn lost_beside(
    sites: &Sites,
    images: &[Image],
) -> Result<Vec<(DatastorePool, Vec<FoundLost>)>, RunError> {
    let mut all = Vec::new();
    for pool in pools_with_images(sites, images).await? {
        match find_lost(&pool).await {
            Ok(found) => all.push((pool, found)),
            Err(error) => tracing::warn!("pool {}: {error}", pool.name),
        }
    }
    Ok(all)
}

/// Whether an image is a copy that is being set aside: it has its new name and its note, and is mirrored still.
pub(crate) async fn is_being_set_aside(image: &VmImage) -> bool {
    is_named_lost(image.spec())
        && matches!(find(&image.cluster, image.spec()).await, Ok(Some(found)) if found.info.mirroring.is_some())
}

/// Ends what a killed run began: the copy has its new name, and is mirrored still.
pub(crate) async fn finish_set_aside(sites: &Sites, image: &VmImage) -> Result<(), RunError> {
    let (spec, cluster, started) = (image.spec(), &image.cluster, sites.time().now());
    let here = |error| cluster.error(spec, error);
    let Some(found) = find(cluster, spec).await.map_err(here)? else { return Ok(()) };
    let Some(mirroring) = found.info.mirroring else { return Ok(()) };
    let original: ImageSpec = found
        .note
        .image
        .parse()
        .map_err(|_| RunError::Unfit(Unfit::NoteNamesNoImage { image: spec.clone() }))?;
    let Some(other) = reach::cluster_there(sites, cluster, &spec.pool_spec()).await.map_err(here)? else {
        return Err(RunError::Unfit(Unfit::NothingLeadsThere {
            image: spec.clone(),
            there: sites.there.name().to_owned(),
        }));
    };
    let there = |error| other.error(spec, error);
    let owner = sites.owner();
    let lock = lock_copy(sites, cluster, spec, &mirroring.global_id, &owner).await?;
    let lock_there = match lock_copy(sites, &other, &original, &mirroring.global_id, &owner).await {
        Ok(lock) => lock,
        Err(error) => {
            lock.release().await;
            return Err(error);
        }
    };
    let ended = async {
        // only a primary copy there stays when its other one leaves
        let is_primary = other.info(&original).await.map_err(there)?.and_then(|info| info.mirroring);
        if !is_primary.is_some_and(|it| it.primary && it.global_id == mirroring.global_id) {
            return Err(RunError::Unfit(Unfit::HalfSetAside {
                image: spec.clone(),
                original: original.clone(),
                there: sites.there.name().to_owned(),
            }));
        }
        let margin = sites.config.policy.command_timeout;
        let ours =
            lock.is_ours(margin).await.map_err(here)? && lock_there.is_ours(margin).await.map_err(there)?;
        if !ours {
            return Err(RunError::Unfit(Unfit::SetAsideTooSlow { image: spec.clone() }));
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
    let attempt = Attempt {
        vm: found.note.vm,
        image: Some(spec),
        ground: Some(Ground::SetAside),
        ..Attempt::at("stop-mirroring", started)
    };
    journal::note(sites, &attempt, outcome, reason);
    ended
}

pub(crate) async fn lock_copy(
    sites: &Sites,
    cluster: &Cluster,
    spec: &ImageSpec,
    id: &str,
    owner: &Owner,
) -> Result<Lock, RunError> {
    Lock::take(cluster, spec, id, owner, steps::lock_duration(sites)).await.map_err(|error| match error {
        LockError::Held(holder) => RunError::Locked { image: spec.clone(), holder },
        LockError::Ceph(error) => cluster.error(spec, error),
    })
}

/// Whether the other copy provably has everything that was ever written to the one here: nobody died with it, and the
/// other site's daemon has committed all of its journal. Mirror snapshots tell nothing of what came after the last.
pub(crate) async fn is_all_sent(seen: &Seen) -> bool {
    let Here::Mirrored(here) = &seen.observation.here else { return false };
    let (Mode::Journal, Some(there)) = (here.mode, &seen.cluster_there) else { return false };
    let (spec, cluster) = (seen.spec(), &seen.image.cluster);
    let proven = async {
        if cluster.is_held(spec).await? {
            return Ok(false);
        }
        let Some(uuid) = there.uuid_of_pool(&spec.pool_spec()).await? else { return Ok(false) };
        let status = cluster.journal_status(spec).await?;
        Ok::<_, CephError>(crate::ceph::is_committed_by(&status, &uuid) == Some(true))
    };
    proven.await.unwrap_or_else(|error| {
        tracing::info!("{error}");
        false
    })
}

/// The copy here, if it is the one that was seen and still primary, with the note that an earlier run has left on it.
async fn primary_copy(seen: &Seen) -> Result<Option<(ImageInfo, Option<Note>)>, CephError> {
    let (spec, cluster) = (seen.spec(), &seen.image.cluster);
    let info = cluster.info(spec).await?.filter(|info| Some(&info.id) == seen.id_here.as_ref());
    let is_primary = |info: &ImageInfo| info.mirroring.as_ref().is_some_and(|mirroring| mirroring.primary);
    let Some(info) = info.filter(is_primary) else { return Ok(None) };
    let known = Note::of(&cluster.metadata(spec).await?, &info.id);
    Ok(Some((info, known.filter(|note| note.image == spec.to_string()))))
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
            named: None,
            outranked_by: Some("1003:site-b:open".into()),
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

    fn time(text: &str) -> Timestamp {
        format!("2026-11-26T{text}Z").parse().unwrap()
    }

    fn of(image: &str) -> Note {
        Note { image: image.into(), ..note() }
    }

    fn earlier(of: &str, since: &str, is_of_this_loss: bool) -> Earlier {
        Earlier { of: of.into(), since: time(since), is_of_this_loss }
    }

    /// The names that two disks get, and the date of their set, at 17:00.
    fn dated(noted: &[&str], earlier: &[Earlier], names: &[&str]) -> (Vec<String>, Timestamp) {
        let notes = vec![of("one/one-7"), of("one/one-8")];
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        let noted: Vec<Timestamp> = noted.iter().map(|noted| time(noted)).collect();
        let dated = Set { notes, earlier: earlier.to_vec(), names }.dated(&noted, time("17:00:00.5"));
        assert_eq!(dated[0].since, dated[1].since);
        let names = dated.iter().map(|note| note.kept_as().unwrap().to_string());
        (names.collect(), dated[0].since)
    }

    #[test]
    fn a_set_has_one_date_and_no_earlier_loss_has_the_same() {
        let at = |date: &str| ["7", "8"].map(|disk| format!("one/one-{disk}.lost-20261126T{date}Z")).to_vec();
        assert_eq!(dated(&[], &[], &[]), (at("170000"), time("17:00:00.5")));
        // a run was killed between two notes, or between two names
        assert_eq!(dated(&["16:59:00"], &[], &[]), (at("165900"), time("16:59:00")));
        let third = |is_of_this_loss| earlier("one/one-9", "16:59:00", is_of_this_loss);
        assert_eq!(dated(&[], &[third(true)], &[]), (at("165900"), time("16:59:00")));
        // of an earlier loss, a minute ago
        assert_eq!(dated(&[], &[third(false)], &[]), (at("170000"), time("17:00:00.5")));
        // one of these disks has a copy of that date
        let own = earlier("one/one-7", "16:59:00", true);
        assert_eq!(dated(&[], &[third(true), own], &[]), (at("170000"), time("17:00:00.5")));
    }

    #[test]
    fn a_name_that_is_taken_moves_the_set_or_is_told_apart_from_its_date() {
        let restored = "one/one-8.lost-20261126T165900Z";
        let at = |seven: &str, eight: &str| {
            vec![format!("one/one-7.lost-20261126T{seven}Z"), format!("one/one-8.lost-20261126T{eight}Z")]
        };
        assert_eq!(dated(&["16:59:00"], &[], &[restored]), (at("165901", "165901"), time("16:59:01")));
        let third = earlier("one/one-9", "16:59:00", true);
        assert_eq!(dated(&[], &[third], &[restored]), (at("165900", "165901"), time("16:59:00")));
        let renamed = Note { named: Some(time("16:59:01")), since: time("16:59:00"), ..note() };
        let text = serde_json::to_string(&renamed).unwrap();
        assert_eq!(serde_json::from_str::<Note>(&text).unwrap(), renamed);
    }

    #[test]
    fn of_several_copies_the_tokens_tell_the_newest_and_not_the_clocks() {
        let of_token = |token: &str, since: &str| Note {
            outranked_by: Some(token.into()),
            since: time(since),
            ..note()
        };
        let (first, second) =
            (of_token("1001:site-b:open", "18:00:00"), of_token("2003:site-b:open", "17:00:00"));
        assert!(first.order() < second.order());
        // one of an earlier release tells no token
        let unsaid = Note { outranked_by: None, since: time("19:00:00"), ..note() };
        assert!(unsaid.order() < first.order());
    }

    #[test]
    fn a_note_of_an_earlier_release_is_read() {
        let text = r#"{"copy":"10365947de3a","site":"site-a","image":"one/one-7","vm":3,"since":"2026-11-26T16:45:00.5Z","why":"1003:site-b:open outranks 3:site-a:open"}"#;
        assert_eq!(serde_json::from_str::<Note>(text).unwrap(), Note { outranked_by: None, ..note() });
    }
}
