//! The pools of this front-end's Ceph datastores, and what makes two of them two.

use super::CONCURRENCY;
use super::Sites;
use super::cluster::Cluster;
use super::error::{RunError, code_of_ceph};
use super::images::{self, VmImage};
use super::places::{self, Places};
use super::reach;
use crate::ceph::{CephError, PoolStatus};
use crate::opennebula::{Datastore, DatastoreKind, Image};
use futures::{StreamExt, stream};
use onemirror_protocol::{Code, ImageSpec};
use std::collections::{BTreeMap, BTreeSet};

/// A pool of one cluster: pools of one name in two clusters are two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PoolId {
    /// By the number that Ceph gave it for mirroring, the same on every way to it.
    Mirrored { uuid: String, pool: String },
    /// Not mirrored, or not to be asked: by the way to it.
    ByWay { cluster: u64, pool: String },
}

/// An image of one cluster.
pub(crate) type ImageKey = (PoolId, ImageSpec);

/// What could not be looked at, while all the rest was.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NotReached {
    /// `datastore 104 (ceph_two)`, or `VM 3`.
    pub what: String,
    /// Why, and what to do about it.
    pub why: String,
}

/// A mirrored pool of a datastore.
pub(crate) struct PoolHere {
    pub datastore: i32,
    pub cluster: Cluster,
    pub id: PoolId,
    /// `pool[/namespace]`.
    pub name: String,
    pub status: PoolStatus,
}

impl PoolHere {
    /// Its mirrored images.
    pub(crate) fn images(&self) -> impl Iterator<Item = VmImage> {
        let names = self.status.images.iter().map(|status| status.name.as_str());
        names.filter_map(|name| VmImage::in_pool(&self.name, name, self.datastore, &self.cluster))
    }
}

/// The items of each cluster, by its number.
fn of_each_cluster<T>(items: Vec<(u64, T)>) -> impl Iterator<Item = Vec<T>> {
    let mut clusters: BTreeMap<u64, Vec<T>> = BTreeMap::new();
    for (cluster, item) in items {
        clusters.entry(cluster).or_default().push(item);
    }
    clusters.into_values()
}

/// Does the same to all of these, the items of each cluster for themselves: one that hangs keeps no other waiting.
pub(crate) async fn by_cluster<T, R>(items: Vec<(u64, T)>, work: impl AsyncFn(T) -> R) -> Vec<R> {
    let work = &work;
    let each = of_each_cluster(items).map(|items| {
        let items = items.into_iter().map(|item| work(item));
        stream::iter(items).buffer_unordered(CONCURRENCY).collect::<Vec<R>>()
    });
    futures::future::join_all(each).await.into_iter().flatten().collect()
}

/// The same, with places: an image that does not answer keeps no other of its cluster waiting.
pub(crate) async fn by_cluster_in_places<T, R>(
    items: Vec<(u64, T)>,
    work: impl AsyncFn(T, &Places) -> R,
) -> Vec<R> {
    let work = &work;
    let each = of_each_cluster(items).map(async |items| {
        let places = &Places::new();
        let items = items.into_iter().map(|item| work(item, places));
        stream::iter(items).buffer_unordered(places::ALL).collect::<Vec<R>>().await
    });
    futures::future::join_all(each).await.into_iter().flatten().collect()
}

/// The mirrored pools of this front-end's datastores. What cannot be looked at is told, and keeps no other waiting.
/// `images`: those of this front-end.
pub(crate) async fn pools_here(
    sites: &Sites,
    images: &[Image],
) -> Result<(Vec<PoolHere>, Vec<NotReached>), RunError> {
    let mut not_reached = Vec::new();
    let mut ways = BTreeMap::new();
    for (pool, datastore) in pools_by_name(sites, images).await? {
        match reach::cluster_here(sites, &datastore).await {
            Ok(cluster) => {
                ways.entry((cluster.number(), pool)).or_insert((cluster, datastore));
            }
            Err(error) => not_reached.push(of_datastore(&datastore, error.coded())),
        }
    }
    not_reached.dedup();
    let pools = pools_on(sites, ways, &mut not_reached).await;
    not_reached.sort_by(|a, b| a.what.cmp(&b.what));
    Ok((pools, not_reached))
}

/// The images of this front-end.
pub(crate) async fn images_registered(sites: &Sites) -> Result<Vec<Image>, RunError> {
    sites.here.ask(async |one| one.image_pool().await).await
}

/// The pools of this front-end's Ceph datastores, and their namespaces that these images are in; a pool of several
/// datastores several times, the one for images first.
pub(crate) async fn pools_by_name(
    sites: &Sites,
    images: &[Image],
) -> Result<Vec<(String, Datastore)>, RunError> {
    let datastores = sites.here.ask(async |one| one.datastore_pool().await).await?;
    let of_images = |datastore: &Datastore| {
        let its_own = images.iter().filter(|image| image.datastore_id == datastore.id);
        let sources = its_own.filter_map(|image| image.source.parse::<ImageSpec>().ok());
        sources.filter(|source| datastore.covers(source)).map(|source| source.pool_spec()).collect()
    };
    let mut found = Vec::new();
    for datastore in datastores.into_iter().filter(has_disks_on_ceph) {
        let mut names: BTreeSet<String> = of_images(&datastore);
        names.insert(datastore.pool().to_owned());
        found.extend(names.into_iter().map(|name| (name, datastore.clone())));
    }
    found.sort_by_key(|(_, datastore)| datastore.kind != DatastoreKind::Image);
    Ok(found)
}

/// The mirrored pools of these images' datastores.
pub(crate) async fn pools_of(sites: &Sites, images: &[VmImage]) -> (Vec<PoolHere>, Vec<NotReached>) {
    let (mut ways, mut not_reached) = (BTreeMap::new(), Vec::new());
    for image in images {
        let key = (image.cluster.number(), image.spec().pool_spec());
        if let Ok(mut datastores) = images::datastores(sites, [image.datastore_id]).await
            && let Some(datastore) = datastores.remove(&image.datastore_id)
        {
            ways.entry(key).or_insert((image.cluster.clone(), datastore));
        }
    }
    let pools = pools_on(sites, ways, &mut not_reached).await;
    (pools, not_reached)
}

async fn pools_on(
    sites: &Sites,
    ways: BTreeMap<(u64, String), (Cluster, Datastore)>,
    not_reached: &mut Vec<NotReached>,
) -> Vec<PoolHere> {
    let looks = ways.into_iter().map(|((number, pool), way)| (number, (pool, way))).collect();
    let looks = by_cluster(looks, async |(pool, (cluster, datastore))| {
        pool_here(sites, pool, cluster, datastore).await
    });
    let mut pools: BTreeMap<PoolId, PoolHere> = BTreeMap::new();
    for (pool, trouble) in looks.await {
        not_reached.extend(trouble);
        if let Some(pool) = pool {
            pools.entry(pool.id.clone()).or_insert(pool);
        }
    }
    pools.into_values().collect()
}

/// No pool: it is not mirrored, or cannot be looked at.
async fn pool_here(
    sites: &Sites,
    name: String,
    cluster: Cluster,
    datastore: Datastore,
) -> (Option<PoolHere>, Option<NotReached>) {
    if let Some(why) = cluster.silence() {
        return (None, Some(of_datastore(&datastore, format!("{} {why}", Code::CEPH))));
    }
    let told = |error: CephError| {
        of_datastore(&datastore, format!("{} Ceph on {}: {error}", code_of_ceph(&error), sites.here.name()))
    };
    let (status, trouble) = match cluster.pool_status(&name).await {
        Ok(status) => (status, None),
        Err(error @ CephError::NotPossible { .. }) => {
            tracing::debug!("pool {name} is not mirrored: {error}");
            return (None, None);
        }
        // rbd waits for room before it tells anything; its images are there all the same, and a handoff may wait
        Err(error @ CephError::PoolFull { .. }) => match cluster.image_names(&name).await {
            Ok(names) => (PoolStatus::untold(names), Some(told(error))),
            Err(_) => return (None, Some(told(error))),
        },
        Err(error) => {
            cluster.note_silence(&error);
            return (None, Some(told(error)));
        }
    };
    let id = pool_id(&cluster, &name).await;
    (Some(PoolHere { datastore: datastore.id, cluster, id, name, status }), trouble)
}

/// Which pool that is; asked for once on each way.
pub(crate) async fn pool_id(cluster: &Cluster, pool: &str) -> PoolId {
    let by_way = PoolId::ByWay { cluster: cluster.number(), pool: pool.to_owned() };
    if !cluster.has_told_uuid_of(pool) && cluster.silence().is_some() {
        return by_way;
    }
    match cluster.uuid_of_pool(pool).await {
        Ok(Some(uuid)) => PoolId::Mirrored { uuid, pool: pool.to_owned() },
        Ok(None) => by_way,
        Err(error) => {
            cluster.note_silence(&error);
            by_way
        }
    }
}

/// The keys of these images, in their order; those of each cluster are asked about for themselves.
pub(crate) async fn keys_of(images: Vec<VmImage>) -> Vec<(ImageKey, VmImage)> {
    let pools: BTreeSet<(u64, String)> =
        images.iter().map(|image| (image.cluster.number(), image.spec().pool_spec())).collect();
    let ways = pools.into_iter().filter_map(|(number, pool)| {
        let image = images.iter().find(|image| image.cluster.number() == number)?;
        Some((number, (image.cluster.clone(), pool)))
    });
    let known: BTreeMap<(u64, String), PoolId> =
        by_cluster(ways.collect(), async |(cluster, pool): (Cluster, String)| {
            let id = pool_id(&cluster, &pool).await;
            ((cluster.number(), pool), id)
        })
        .await
        .into_iter()
        .collect();
    let key = |image: VmImage| {
        let way = (image.cluster.number(), image.spec().pool_spec());
        let pool = known.get(&way).cloned();
        let pool = pool.unwrap_or(PoolId::ByWay { cluster: way.0, pool: way.1 });
        ((pool, image.spec().clone()), image)
    };
    images.into_iter().map(key).collect()
}

fn has_disks_on_ceph(datastore: &Datastore) -> bool {
    datastore.is_ceph() && !matches!(datastore.kind, DatastoreKind::File | DatastoreKind::Backup)
}

fn of_datastore(datastore: &Datastore, why: String) -> NotReached {
    NotReached { what: format!("datastore {} ({})", datastore.id, datastore.name), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_cluster_that_hangs_keeps_no_other_waiting() {
        let (ended, released) = (RefCell::new(Vec::new()), Semaphore::new(0));
        // what hangs ends only when all the others have
        let items = (0..40).map(|item| (u64::from(item < 20), item)).collect();
        by_cluster(items, async |item| {
            if item < 20 {
                let _permit = released.acquire().await;
                ended.borrow_mut().push(item);
            } else {
                ended.borrow_mut().push(item);
                if ended.borrow().len() == 20 {
                    released.add_permits(20);
                }
            }
        })
        .await;
        assert_eq!(ended.into_inner().len(), 40);
    }

    #[test]
    fn datastores_are_on_ceph_however_the_driver_is_spelled() {
        let datastore =
            |tm_mad: &str, kind| Datastore { tm_mad: tm_mad.into(), kind, ..Datastore::default() };
        for kind in [DatastoreKind::Image, DatastoreKind::System, DatastoreKind::Other(9)] {
            assert!(
                has_disks_on_ceph(&datastore("ceph", kind)) && has_disks_on_ceph(&datastore("CEPH", kind))
            );
            assert!(!has_disks_on_ceph(&datastore("shared", kind)));
        }
        assert!(!has_disks_on_ceph(&datastore("ceph", DatastoreKind::File)));
        assert!(!has_disks_on_ceph(&datastore("ceph", DatastoreKind::Backup)));
    }
}
