//! Gathers what [`crate::protection`] judges; changes nothing.

use crate::audit::Outcome;
use crate::ceph::{
    CephError, DaemonState, ImageInfo, ImageStatus, MirrorMode, ReplayState, SnapshotSchedule, StatusReport,
};
use crate::opennebula::stock::is_left_by_revert;
use crate::protection::{Concern, DiskFacts, HowMirrored, Parent, ProtectionFacts, Schedule, SnapshotAge};
use crate::sites::journal::Attempt;
use crate::sites::look::Seen;
use crate::sites::pools::{ImageKey, PoolHere, PoolId};
use crate::sites::reach;
use crate::sites::{
    Cluster, FrontEndError, NotReached, RunError, Sites, VmImage, VmImages, copies, journal, look, pools,
};
use jiff::Timestamp;
use onemirror_protocol::{Here, ImageSpec, Role, There};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What both clusters report on one pool's images, by their names within it.
pub(crate) struct Reports {
    datastore: i32,
    cluster: Cluster,
    /// The pool's name.
    pool: String,
    here: BTreeMap<String, ImageStatus>,
    /// The global ids of those that the other cluster mirrors; `None`: it did not answer.
    there: Option<BTreeMap<String, String>>,
}

impl Reports {
    pub(crate) fn of(&self, image: &ImageSpec) -> Option<&ImageStatus> {
        self.here.get(image.image())
    }

    /// Whether the other cluster mirrors an image of this name that is not this one's other copy.
    fn has_another_there(&self, image: &ImageSpec, global_id: Option<&str>) -> bool {
        let there = self.there.as_ref().and_then(|there| there.get(image.image()));
        there.is_some_and(|there| Some(there.as_str()) != global_id)
    }
}

/// What was asked once for many images.
pub(crate) struct Watched {
    pools: BTreeMap<PoolId, Reports>,
    /// By the way to a cluster; absent: not known.
    schedules: BTreeMap<u64, Vec<SnapshotSchedule>>,
    /// The images of the other front-end; `None`: not known.
    registered_there: Option<BTreeSet<ImageSpec>>,
    /// Pools of the other cluster that have no room: nothing is copied there.
    pub(crate) full_there: Vec<NotReached>,
}

impl Watched {
    pub(crate) fn reports(&self, pool: &PoolId) -> Option<&Reports> {
        self.pools.get(pool)
    }

    /// The images of these pools that are none of `used`, and the reports on them.
    pub(crate) fn others(&self, used: &BTreeSet<ImageKey>) -> impl Iterator<Item = (VmImage, &ImageStatus)> {
        self.pools.iter().flat_map(move |(id, reports)| {
            let Reports { datastore, cluster, pool, here, .. } = reports;
            here.values().filter_map(move |status| {
                let image = VmImage::in_pool(pool, &status.name, *datastore, cluster)?;
                let is_used = used.contains(&(id.clone(), image.spec().clone()));
                (!is_used).then_some((image, status))
            })
        })
    }
}

/// Asks both sites about these pools. `registered_there`: what [`registered_there`] has told.
pub(crate) async fn watch(
    sites: &Sites,
    pools: Vec<PoolHere>,
    registered_there: Option<BTreeSet<ImageSpec>>,
) -> Watched {
    let mut clusters: BTreeMap<u64, Cluster> = BTreeMap::new();
    for pool in &pools {
        clusters.insert(pool.cluster.number(), pool.cluster.clone());
    }
    let pools = pools.into_iter().map(|pool| (pool.cluster.number(), pool)).collect();
    let clusters = clusters.into_iter().collect();
    let (pools, schedules) = futures::join!(
        pools::by_cluster(pools, async |pool: PoolHere| {
            let (there, full) = names_there(sites, &pool).await;
            let PoolHere { datastore, cluster, id, name: pool, status } = pool;
            let here = status.images.into_iter().map(|image| (image.name.clone(), image)).collect();
            ((id, Reports { datastore, cluster, pool, here, there }), full)
        }),
        pools::by_cluster(clusters, async |cluster: Cluster| {
            let schedules = cluster.snapshot_schedules().await;
            schedules
                .inspect_err(|error| tracing::info!("{error}"))
                .ok()
                .map(|found| (cluster.number(), found))
        })
    );
    let (pools, full_there): (BTreeMap<_, _>, Vec<_>) = pools.into_iter().unzip();
    Watched {
        pools,
        full_there: full_there.into_iter().flatten().collect(),
        schedules: schedules.into_iter().flatten().collect(),
        registered_there,
    }
}

/// The images that the other cluster mirrors in this pool, with their global ids; or that it has no room.
async fn names_there(
    sites: &Sites,
    pool: &PoolHere,
) -> (Option<BTreeMap<String, String>>, Option<NotReached>) {
    if sites.there.silence.lasts().is_some() {
        return (None, None);
    }
    let Ok(Some(cluster)) = reach::cluster_there(sites, &pool.cluster, &pool.name).await else {
        return (None, None);
    };
    match cluster.pool_status(&pool.name).await {
        Ok(status) => {
            let names = status.images.into_iter().map(|image| (image.name, image.global_id));
            (Some(names.collect()), None)
        }
        Err(error @ CephError::PoolFull { .. }) => {
            let (what, why) = (format!("pool {}", pool.name), format!("nothing is copied there: {error}"));
            (None, Some(NotReached { what, why }))
        }
        Err(error) => {
            tracing::info!("{error}");
            cluster.note_silence(&error);
            (None, None)
        }
    }
}

/// The images of the other front-end; `None`: not known.
pub(crate) async fn registered_there(sites: &Sites) -> Option<BTreeSet<ImageSpec>> {
    let images = async {
        sites.there.greeted(sites.state_dir()).await?;
        Ok::<_, FrontEndError>(sites.there.front_end()?.image_pool().await?)
    };
    let images = images.await;
    let images = images.inspect_err(|error| tracing::info!("{error}")).ok()?;
    Some(images.into_iter().filter_map(|image| image.source.parse().ok()).collect())
}

/// What is wrong with the protection of a VM's disks, as far as they were seen.
pub(crate) async fn concerns_of_vm(
    sites: &Sites,
    vm_images: &VmImages,
    seen: &[Seen],
    watched: &Watched,
) -> Vec<Concern> {
    let mut found = Vec::new();
    for one in seen {
        let Some(number) = one.image.disk_id else { continue };
        let disk = vm_images.vm.disks.iter().find(|disk| disk.id == number);
        let disk = DiskFacts {
            vm: vm_images.vm.id,
            disk: number,
            size: disk.and_then(|disk| disk.size),
            others_are_mirrored: seen.iter().any(look::is_seen_mirrored),
        };
        found.extend(concerns_of_disk(sites, one, disk, watched).await);
    }
    found
}

async fn concerns_of_disk(sites: &Sites, seen: &Seen, disk: DiskFacts, watched: &Watched) -> Vec<Concern> {
    let Some(info) = &seen.info_here else { return Vec::new() };
    let (spec, cluster) = (seen.spec(), &seen.image.cluster);
    let pool = pools::pool_id(cluster, &spec.pool_spec()).await;
    // a pool that is not mirrored is nobody's concern
    let Some(reports) = watched.reports(&pool) else {
        return facts(sites, spec, HowMirrored::Follows).of_disk(disk, info.size).judge();
    };
    let mut facts = facts(sites, spec, HowMirrored::Follows).of_disk(disk, info.size);
    let is_mirrored = info.mirroring.is_some();
    facts.is_clone = info.parent.is_some();
    facts.home = written_home(&seen.observation.here);
    facts.is_followed = is_followed(seen);
    facts.another_there = reports.has_another_there(spec, seen.global_id.as_deref());
    if let Some(parent) = info.parent.as_deref().filter(|_| facts.another_there || !is_mirrored) {
        facts.parent = parent_of(cluster, parent).await;
    }
    match &info.mirroring {
        None => facts.standing = not_mirrored(seen, info, watched).await,
        Some(mirroring) if !mirroring.primary => {
            facts = facts.reported(report_of(reports.of(spec), None));
        }
        Some(mirroring) => {
            let report = report_of(reports.of(spec), Some(sites.there.name()));
            facts = facts.reported(report);
            facts.standing = match mirroring.mode {
                MirrorMode::Journal => HowMirrored::WritesByJournal,
                MirrorMode::Snapshot => by_snapshots(seen, report, watched, sites.time().date()),
            };
        }
    }
    facts.judge()
}

/// After a revert to a disk snapshot what the disk was before is still mirrored, under another name. In snapshot mode
/// its copy learns that name with the next mirror snapshot only, and would be booted as the disk until then. So one
/// is taken. Returns that image, where there was one to be sent.
pub(crate) async fn send_new_name(sites: &Sites, seen: &[Seen]) -> Result<Option<ImageSpec>, RunError> {
    let Some(seen) = seen.first() else { return Ok(None) };
    let is_concerned = matches!(seen.observation.here, Here::NotMirrored)
        || matches!(seen.observation.there, There::Apart(_));
    let (spec, cluster) = (seen.spec(), &seen.image.cluster);
    if !is_concerned || sites.there.silence.lasts().is_some() {
        return Ok(None);
    }
    // whoever does not answer is asked at the next run
    let Ok(Some(there)) = reach::cluster_there(sites, cluster, &spec.pool_spec()).await else {
        return Ok(None);
    };
    let Ok(Some(info)) = there.info(spec).await else { return Ok(None) };
    let Some(theirs) = info.mirroring else { return Ok(None) };
    // not by its parent: a disk that was flattened since has none
    let pool = cluster.pool_status(&spec.pool_spec()).await.map_err(|error| cluster.error(spec, error))?;
    let is_theirs = |image: &&ImageStatus| image.global_id == theirs.global_id;
    let Some(name) = pool.images.iter().find(is_theirs).map(|image| &image.name) else { return Ok(None) };
    let left: Option<ImageSpec> = format!("{}/{name}", spec.pool_spec()).parse().ok();
    let Some(left) = left.filter(|left| is_left_by_revert(left, spec)) else { return Ok(None) };
    let failed = |error| cluster.error(&left, error);
    let info = cluster.info(&left).await.map_err(failed)?;
    let Some(mirroring) = info.and_then(|info| info.mirroring) else { return Ok(None) };
    if !mirroring.primary || mirroring.mode != MirrorMode::Snapshot {
        return Ok(None);
    }
    let started = sites.time().now();
    let sent = cluster.mirror_snapshot(&left).await;
    let (outcome, reason) = match &sent {
        Ok(()) => (Outcome::Done, format!("{spec} was reverted to a disk snapshot")),
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    let attempt = Attempt { image: Some(&left), ..Attempt::at("mirror-snapshot", started) };
    journal::note(sites, &attempt, outcome, Some(reason));
    sent.map_err(failed)?;
    Ok(Some(left))
}

fn facts<'a>(sites: &'a Sites, image: &'a ImageSpec, standing: HowMirrored) -> ProtectionFacts<'a> {
    ProtectionFacts {
        here: sites.here.name(),
        there: sites.there.name(),
        image,
        disk: None,
        standing,
        another_there: false,
        parent: None,
        is_clone: false,
        is_followed: false,
        home: None,
        report: None,
        is_daemon_down: false,
        size: None,
    }
}

async fn not_mirrored(seen: &Seen, info: &ImageInfo, watched: &Watched) -> HowMirrored {
    let pool = seen.image.cluster.pool_info(&seen.spec().pool_spec()).await.ok();
    let registered_there = watched.registered_there.as_ref();
    HowMirrored::NotMirrored {
        has_journal: info.has_journal,
        pool_mirrors_journals: pool.is_some_and(|pool| pool.pool_mode),
        registered_there: registered_there.map(|images| images.contains(seen.spec())),
    }
}

/// What is wrong with images that no VM uses, such as those that others are cloned from.
pub(crate) async fn concerns_of_others(
    sites: &Sites,
    watched: &Watched,
    used: &BTreeSet<ImageKey>,
) -> Vec<Concern> {
    let mut found = Vec::new();
    for (image, status) in watched.others(used) {
        let (standing, site) = match is_primary(status, image.spec(), &image.cluster).await {
            true => (HowMirrored::WritesByJournal, Some(sites.there.name())),
            false => (HowMirrored::Follows, None),
        };
        let report = report_of(Some(status), site);
        found.extend(facts(sites, image.spec(), standing).reported(report).judge());
    }
    found
}

/// Whether the copy here is primary. A daemon that is down may have reported last when it was not yet.
pub(crate) async fn is_primary(status: &ImageStatus, image: &ImageSpec, cluster: &Cluster) -> bool {
    let Some(report) = &status.local else { return false };
    if report.daemon == DaemonState::Up || report.replay == ReplayState::LocalPrimary {
        return report.replay == ReplayState::LocalPrimary;
    }
    let info = cluster.info(image).await.inspect_err(|error| tracing::debug!("{error}"));
    info.ok().flatten().and_then(|info| info.mirroring).is_some_and(|mirroring| mirroring.primary)
}

fn by_snapshots(
    seen: &Seen,
    report: Option<&StatusReport>,
    watched: &Watched,
    now: Timestamp,
) -> HowMirrored {
    let age = |time| age(now, time);
    let schedule = match watched.schedules.get(&seen.image.cluster.number()) {
        None => Schedule::Unknown,
        Some(schedules) => {
            SnapshotSchedule::every_of(schedules, seen.spec()).map_or(Schedule::None, Schedule::Every)
        }
    };
    let age = match report.map(|report| (&report.replay, report.daemon)) {
        Some((ReplayState::Replaying(progress), daemon)) => {
            let arrived = progress.local_snapshot_timestamp.map(age);
            let taken = match daemon {
                // it has not seen what was taken since, so it is the one that is late
                DaemonState::Down => Some(Duration::ZERO),
                DaemonState::Up => progress.remote_snapshot_timestamp.map(age),
            };
            arrived.zip(taken).map(|(arrived, taken)| SnapshotAge { arrived, taken })
        }
        _ => None,
    };
    HowMirrored::WritesBySnapshot { schedule, age }
}

/// The report on the copy here, or on that of the other site.
fn report_of<'a>(status: Option<&'a ImageStatus>, site: Option<&str>) -> Option<&'a StatusReport> {
    let status = status?;
    match site {
        None => status.local.as_ref(),
        Some(site) => status.of_peer(site),
    }
}

/// The image of `pool[/namespace]/image@snapshot`.
fn image_of_snapshot(text: &str) -> Option<ImageSpec> {
    text.rsplit_once('@')?.0.parse().ok()
}

async fn parent_of(cluster: &Cluster, text: &str) -> Option<Parent> {
    let image = image_of_snapshot(text)?;
    let home = copies::home_written_on(cluster, &image).await;
    let mirroring = cluster.info(&image).await.ok()??.mirroring;
    let is_mirrored = mirroring.is_some();
    let sends_snapshots = mirroring.is_some_and(|it| it.primary && it.mode == MirrorMode::Snapshot);
    Some(Parent { image, sends_snapshots, is_mirrored, home })
}

fn written_home(here: &Here) -> Option<&str> {
    match here {
        Here::Mirrored(copy) => copy.home.site(),
        Here::Absent | Here::NotMirrored => None,
    }
}

/// Whether the other copy shows all that is known of the one here: then it holds nothing of its own.
fn is_followed(seen: &Seen) -> bool {
    match (&seen.observation.here, &seen.observation.there) {
        (Here::Mirrored(here), There::Mirrored(there)) => {
            there.role == Role::NonPrimary && here.token == there.token
        }
        _ => false,
    }
}

/// How long ago a Unix time was; a clock that is ahead makes nothing old.
fn age(now: Timestamp, time: i64) -> Duration {
    let seconds = now.as_second().saturating_sub(time);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
