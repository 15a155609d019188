//! Finds the facts that the doctor judges; decides nothing, and changes nothing but a lock that it gives back.

use super::facts::{
    Daemon, ExaminedDisk, ExaminedFrontEnd, ExaminedPool, ExaminedVm, Images, NoAnswer, PoolMirroring,
    PoolOnCluster,
};
use crate::ceph::{self, CephError, DaemonState, Expiry, PoolStatus, ReplayState, is_fsid};
use crate::opennebula::disks::rbd_images;
use crate::opennebula::{self, Datastore, DiskKind, OneError, OpenNebula, User};
use crate::sites::images;
use crate::sites::reach;
use crate::sites::{CONCURRENCY, Cluster, FrontEndError, Site, Sites, pools, users};
use futures::{StreamExt as _, stream};
use onemirror_protocol::ImageSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The object whose lock shows that a user may change something.
const TRIAL: &str = "onemirror.doctor";
/// How long that lock lives if it can't be given back.
const TRIAL_LIFE: Duration = Duration::from_secs(10);
/// What Ceph does where nobody sets it, in seconds.
const DEFAULT_POLL_AGE: f64 = 5.0;

/// What one front-end says of itself. `user`: ours there.
pub async fn front_end(client: &dyn OpenNebula, user: &User) -> Result<ExaminedFrontEnd, OneError> {
    let version = client.system_version().await?;
    Ok(ExaminedFrontEnd {
        version,
        user: crate::text::printable(&user.name),
        sees_everything: user.sees_everything(),
        servers: servers(client).await,
    })
}

/// The servers of the front-end's zone, if there are several. A user who may not see the zones is told nothing of them.
pub async fn servers(client: &dyn OpenNebula) -> Vec<String> {
    let zones = client.zone_pool().await.unwrap_or_default();
    zones.into_iter().map(|zone| zone.servers).find(|servers| servers.len() > 1).unwrap_or_default()
}

/// The other site's front-end, and how far its clock is ahead, in seconds.
pub async fn front_end_there(sites: &Sites) -> (Result<ExaminedFrontEnd, String>, Option<i64>) {
    let client = match sites.there.front_end() {
        Ok(client) => client,
        Err(error) => return (Err(sites.there.error(error).to_string()), None),
    };
    let found = async {
        let user = sites.there.greeted(sites.state_dir()).await?;
        Ok::<_, FrontEndError>(front_end(&**client, &user).await?)
    };
    (found.await.map_err(|error| sites.there.error(error).to_string()), client.clock_ahead())
}

/// The pools of this front-end's Ceph datastores, on both clusters.
pub async fn pools_of_both(sites: &Sites) -> Result<Vec<ExaminedPool>, String> {
    let mut pools: BTreeMap<String, Datastore> = BTreeMap::new();
    let images = pools::images_registered(sites).await.map_err(|error| error.to_string())?;
    for (name, datastore) in pools::pools_by_name(sites, &images).await.map_err(|error| error.to_string())? {
        pools.entry(name).or_insert(datastore);
    }
    let looks = pools.into_iter().map(|(name, datastore)| examine_pool(sites, name, datastore));
    Ok(stream::iter(looks).buffered(CONCURRENCY).collect().await)
}

async fn examine_pool(sites: &Sites, name: String, datastore: Datastore) -> ExaminedPool {
    let own = match reach::cluster_here(sites, &datastore).await {
        Ok(own) => own,
        Err(error) => {
            let here = PoolOnCluster::unknown("client.?", NoAnswer::Other(error.to_string()));
            let there = PoolOnCluster::unknown(
                "client.?",
                NoAnswer::Other(format!("nothing leads to {}", sites.there.name())),
            );
            return ExaminedPool { name, here, there };
        }
    };
    let there = async {
        match reach::cluster_there(sites, &own, &name).await {
            Ok(Some(cluster)) => side(&cluster, &name).await,
            Ok(None) => PoolOnCluster::unknown(
                "client.?",
                NoAnswer::Other(
                    "pool info does not tell how to reach it: add [peer.ceph] to onemirror.conf".into(),
                ),
            ),
            Err(error) => PoolOnCluster::unknown("client.?", trouble(error)),
        }
    };
    let (here, there) = futures::join!(side(&own, &name), there);
    ExaminedPool { name, here, there }
}

/// This front-end's VMs, and how many of the other's use the same images.
pub async fn vms(sites: &Sites) -> Result<Vec<ExaminedVm>, String> {
    let mut found = Vec::new();
    for vm in sites.here.ask(async |one| one.vm_pool().await).await.map_err(|error| error.to_string())? {
        found.push(examine_vm(sites, &vm).await);
    }
    let images: BTreeSet<ImageSpec> =
        found.iter().flat_map(|vm| &vm.disks).map(|disk| disk.image.clone()).collect();
    if let Ok(users) = users::users_there(sites, &images).await {
        for vm in &mut found {
            let matching: BTreeSet<i32> = vm
                .disks
                .iter()
                .filter_map(|disk| users.get(&disk.image))
                .flatten()
                .map(|user| user.vm)
                .collect();
            vm.matches = Some(matching.len());
        }
    }
    Ok(found)
}

/// The pools in which VMs of both front-ends have disks that were made for them; none where one does not answer.
pub async fn shared_pools(sites: &Sites) -> BTreeSet<String> {
    let of_site = async |site: &Site| site.ask(async |one| pools_of_own_disks(&**one).await).await;
    let (here, there) = futures::join!(of_site(&sites.here), of_site(&sites.there));
    &here.unwrap_or_default() & &there.unwrap_or_default()
}

async fn examine_vm(sites: &Sites, vm: &opennebula::Vm) -> ExaminedVm {
    let mut found = ExaminedVm { id: vm.id, has_context: vm.has_context, ..ExaminedVm::default() };
    let datastores = match images::datastores(sites, opennebula::disks::datastores_needed(vm)).await {
        Ok(datastores) => datastores,
        Err(error) => {
            found.error = Some(error.to_string());
            return found;
        }
    };
    match rbd_images(vm, &datastores) {
        Ok(images) => {
            let on_ceph: BTreeSet<i32> = images.iter().map(|image| image.disk_id).collect();
            found.elsewhere = vm
                .disks
                .iter()
                .filter(|disk| {
                    !on_ceph.contains(&disk.id) && !disk.is_cdrom() && !is_on_ceph(disk, &datastores)
                })
                .map(|disk| disk.id)
                .collect();
            found.disks = images
                .into_iter()
                .map(|image| ExaminedDisk { id: image.disk_id, image: image.image, base: image.base })
                .collect();
        }
        Err(error) => found.error = Some(error.to_string()),
    }
    found
}

/// The pools in which VMs have clones or volatile disks.
async fn pools_of_own_disks(client: &dyn OpenNebula) -> Result<BTreeSet<String>, OneError> {
    let datastores = client.datastore_pool().await?;
    let datastores: BTreeMap<i32, Datastore> =
        datastores.into_iter().map(|datastore| (datastore.id, datastore)).collect();
    let vms = client.vm_pool().await?;
    // disks that are not clear have a finding of their own
    let disks = vms.iter().filter_map(|vm| rbd_images(vm, &datastores).ok()).flatten();
    Ok(disks.filter(|disk| disk.kind != DiskKind::Persistent).map(|disk| disk.image.pool_spec()).collect())
}

/// Whether a disk that is no image of the VM's own lies on Ceph all the same: one that is read only, or the same image
/// a second time.
fn is_on_ceph(disk: &opennebula::Disk, datastores: &BTreeMap<i32, Datastore>) -> bool {
    let of_datastore = disk.datastore_id.and_then(|id| datastores.get(&id)).is_some_and(Datastore::is_ceph);
    of_datastore || disk.tm_mad.as_deref().is_some_and(|driver| driver.eq_ignore_ascii_case("ceph"))
}

impl PoolOnCluster {
    fn unknown(user: &str, why: NoAnswer) -> Self {
        Self {
            user: user.into(),
            mirroring: Err(why.clone()),
            lock: Ok(()),
            images: Err(why),
            delete_delay: None,
            poll_age: None,
        }
    }
}

/// A pool on one cluster.
async fn side(cluster: &Cluster, pool: &str) -> PoolOnCluster {
    let mirroring = match cluster.pool_info(pool).await {
        Ok(info) => {
            let sources = info.peers.iter().filter(|peer| peer.is_received_from()).count();
            // where something is received, a peer to which is only sent is the same cluster once more
            let counts = |peer: &ceph::Peer| sources == 0 || peer.is_received_from();
            PoolMirroring {
                enabled: info.enabled,
                // a user who may not read the name is told the fsid
                site_name: Some(info.site_name).filter(|name| !name.is_empty() && !is_fsid(name)),
                mirror_uuid: cluster.mirror_uuid(pool).await.ok().flatten(),
                peers: info
                    .peers
                    .into_iter()
                    .filter(counts)
                    .map(|peer| (peer.site_name, peer.direction))
                    .collect(),
            }
        }
        // one deadline is enough where nobody answers
        Err(error) => return PoolOnCluster::unknown(&cluster.user(), trouble(error)),
    };
    let is_enabled = mirroring.enabled;
    let (lock, images, delete_delay, poll_age) = futures::join!(
        try_lock(cluster, pool),
        images(cluster, pool, is_enabled),
        delete_delay(cluster, pool),
        poll_age(cluster)
    );
    PoolOnCluster { user: cluster.user(), mirroring: Ok(mirroring), lock, images, delete_delay, poll_age }
}

async fn try_lock(cluster: &Cluster, pool: &str) -> Result<(), NoAnswer> {
    // nothing tells the difference but a deadline that is over
    if let Some(fullness) = cluster.lacks_room(pool).await {
        return Err(NoAnswer::Full(fullness));
    }
    // names nothing but the pool
    let image: ImageSpec = format!("{pool}/{TRIAL}")
        .parse()
        .map_err(|error| NoAnswer::Other(format!("pool {pool}: {error}")))?;
    let cookie = format!("{}", std::process::id());
    cluster.lock(&image, TRIAL, TRIAL, &cookie, Expiry::After(TRIAL_LIFE)).await.map_err(trouble)?;
    if let Ok(Some(holder)) = cluster.lock_holder(&image, TRIAL, TRIAL).await
        && holder.cookie == cookie
    {
        // it ends by itself all the same
        let _ = cluster.unlock(&image, TRIAL, TRIAL, &holder).await;
    }
    Ok(())
}

async fn images(cluster: &Cluster, pool: &str, is_enabled: bool) -> Result<Images, NoAnswer> {
    if !is_enabled {
        return Ok(Images { daemon: Daemon::Unknown, reports: BTreeMap::new() });
    }
    let status = cluster.pool_status(pool).await.map_err(trouble)?;
    let daemon = daemon(&status);
    let report = |image: crate::ceph::ImageStatus| {
        let replay = match image.local {
            Some(report) if report.daemon == DaemonState::Up => report.replay,
            // what a dead daemon last said
            _ => ReplayState::Unknown("no daemon reports on it".into()),
        };
        (image.name, replay)
    };
    Ok(Images { daemon, reports: status.images.into_iter().map(report).collect() })
}

fn daemon(status: &PoolStatus) -> Daemon {
    match (status.daemons_up, status.images.is_empty()) {
        (0, true) => Daemon::Unknown,
        (0, false) => Daemon::Down,
        _ => Daemon::Up,
    }
}

async fn delete_delay(cluster: &Cluster, pool: &str) -> Option<u64> {
    cluster.pool_settings(pool).await.ok()?.get("rbd_mirroring_delete_delay")?.parse().ok()
}

async fn poll_age(cluster: &Cluster) -> Option<f64> {
    match cluster.client_settings().await.ok()?.get("rbd_mirror_journal_poll_age") {
        Some(age) => age.parse().ok(),
        None => Some(DEFAULT_POLL_AGE),
    }
}

fn trouble(error: CephError) -> NoAnswer {
    match error {
        CephError::PermissionDenied { detail, .. } => NoAnswer::Permission(detail),
        CephError::NotFound { .. } => NoAnswer::Missing,
        CephError::PoolFull { fullness, .. } => NoAnswer::Full(fullness),
        error => NoAnswer::Other(error.to_string()),
    }
}
