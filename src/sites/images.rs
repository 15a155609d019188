//! The RBD images of a VM, each with the clusters that hold its copies.

use super::Sites;
use super::cluster::Cluster;
use super::error::RunError;
use super::look;
use super::pools;
use super::reach;
use crate::ceph::CephError;
use crate::opennebula::disks::{datastores_needed, rbd_images, rbd_images_each};
use crate::opennebula::{Datastore, DiskError, DiskImage, DiskKind, Vm};
use onemirror_protocol::{ImageSpec, Unfit, kept_at_recreate};
use std::collections::{BTreeMap, BTreeSet};

/// One RBD image of a VM.
#[derive(Clone)]
pub struct VmImage {
    /// Its name.
    pub image: ImageSpec,
    /// The disk's number in the VM; `None`: an image that is looked at without a VM.
    pub disk_id: Option<i32>,
    /// Whose the image is.
    pub kind: DiskKind,
    /// The datastore that says how its cluster is reached.
    pub datastore_id: i32,
    /// For a clone, the image that it was cloned from, if known.
    pub base: Option<ImageSpec>,
    /// The cluster here, as the datastore says.
    pub cluster: Cluster,
}

impl VmImage {
    /// The image of a VM's disk.
    pub(crate) fn of_disk(disk: DiskImage, cluster: Cluster) -> Self {
        let DiskImage { disk_id, image, kind, datastore_id, base } = disk;
        Self { image, disk_id: Some(disk_id), kind, datastore_id, base, cluster }
    }

    /// An image that is looked at without a VM.
    pub(crate) fn unused(image: ImageSpec, datastore_id: i32, cluster: Cluster) -> Self {
        Self { image, disk_id: None, kind: DiskKind::Persistent, datastore_id, base: None, cluster }
    }

    /// The same, of that name in `pool[/namespace]`; `None` for a name that no image of OpenNebula has.
    pub(crate) fn in_pool(pool: &str, name: &str, datastore_id: i32, cluster: &Cluster) -> Option<Self> {
        let image = format!("{pool}/{name}").parse().ok()?;
        Some(Self::unused(image, datastore_id, cluster.clone()))
    }

    /// The image's name.
    pub fn spec(&self) -> &ImageSpec {
        &self.image
    }

    /// An error of its cluster here.
    pub(crate) fn error(&self, error: CephError) -> RunError {
        self.cluster.error(self.spec(), error)
    }

    /// Whether the VM made the image for itself: a clone or a volatile disk.
    pub fn is_own(&self) -> bool {
        self.kind != DiskKind::Persistent
    }
}

/// A VM and its RBD images.
pub struct VmImages {
    /// The VM.
    pub vm: Vm,
    /// Its images; empty if none of its disks is on Ceph.
    pub images: Vec<VmImage>,
}

/// The datastores of the own front-end, looked up once a run.
pub(crate) async fn datastores(
    sites: &Sites,
    ids: impl IntoIterator<Item = i32>,
) -> Result<BTreeMap<i32, Datastore>, RunError> {
    sites.here.ask(async |one| one.datastores(ids).await).await
}

/// A VM of this site with its images.
pub async fn vm_images(sites: &Sites, vm_id: i32) -> Result<VmImages, RunError> {
    let vm = sites.here.ask(async |one| one.vm(vm_id).await).await?;
    images_of(sites, vm).await
}

/// The images of a VM of this site.
pub async fn images_of(sites: &Sites, vm: Vm) -> Result<VmImages, RunError> {
    let datastores = datastores(sites, datastores_needed(&vm)).await?;
    let mut images = Vec::new();
    for disk in rbd_images(&vm, &datastores)? {
        let Some(datastore) = datastores.get(&disk.datastore_id) else { continue };
        let cluster = reach::cluster_here(sites, datastore).await?;
        images.push(VmImage::of_disk(disk, cluster));
    }
    let images = each_once(images).await?;
    Ok(VmImages { vm, images })
}

/// The images of a VM of this site that can be told, and why others can't: one disk keeps no other waiting.
pub(crate) async fn images_reached(sites: &Sites, vm: Vm) -> (VmImages, Vec<RunError>) {
    let (mut images, mut errors) = (Vec::new(), Vec::new());
    let mut datastores = BTreeMap::new();
    for id in datastores_needed(&vm) {
        match self::datastores(sites, [id]).await {
            Ok(found) => datastores.extend(found),
            Err(error) => errors.push(error),
        }
    }
    for disk in rbd_images_each(&vm, &datastores) {
        let cluster = match &disk {
            Ok(disk) => match datastores.get(&disk.datastore_id) {
                Some(datastore) => reach::cluster_here(sites, datastore).await,
                None => continue,
            },
            // why it is unknown was told already
            Err(DiskError::UnknownDatastore { .. }) if !errors.is_empty() => continue,
            Err(error) => Err(error.clone().into()),
        };
        match (disk, cluster) {
            (Ok(disk), Ok(cluster)) => images.push(VmImage::of_disk(disk, cluster)),
            (_, Err(error)) => errors.push(error),
            (Err(_), Ok(_)) => {}
        }
    }
    (VmImages { vm, images }, errors)
}

/// Leaves out what is the same image on two ways. Two images of one name cannot be told apart in the handoff of one
/// VM.
async fn each_once(images: Vec<VmImage>) -> Result<Vec<VmImage>, RunError> {
    let mut kept: Vec<VmImage> = Vec::new();
    for image in images {
        let Some(other) = kept.iter().find(|other| other.spec() == image.spec()) else {
            kept.push(image);
            continue;
        };
        let pool = image.spec().pool_spec();
        if pools::pool_id(&image.cluster, &pool).await != pools::pool_id(&other.cluster, &pool).await {
            return Err(RunError::Unfit(Unfit::NameOfTwoDisks {
                image: image.spec().clone(),
                one: other.disk_id.unwrap_or_default(),
                other: image.disk_id.unwrap_or_default(),
            }));
        }
    }
    Ok(kept)
}

/// Of the images that a VM calls its own by their names, those that are registered as images of this front-end, with
/// the image's id. A VM failed over from the other site runs on such a one under the name that it had there, which
/// by accident or by design may be the name of a new VM's clone here.
pub async fn registered_here(
    sites: &Sites,
    images: impl Iterator<Item = &VmImage>,
) -> Result<BTreeMap<ImageSpec, i32>, RunError> {
    let own: BTreeSet<&ImageSpec> = images.filter(|image| image.is_own()).map(VmImage::spec).collect();
    if own.is_empty() {
        return Ok(BTreeMap::new());
    }
    let registered = sites.here.ask(async |one| one.image_pool().await).await?;
    let claim = |image: crate::opennebula::Image| {
        let source: ImageSpec = image.source.parse().ok()?;
        own.contains(&source).then_some((source, image.id))
    };
    Ok(registered.into_iter().filter_map(claim).collect())
}

/// Whether a disk that is deleted because its VM is to run again stays.
pub async fn keeps_through_recreate(image: &VmImage) -> Result<bool, RunError> {
    let made_anew = image.kind == DiskKind::Volatile;
    Ok(kept_at_recreate(&look::look_here(image).await?, made_anew))
}
