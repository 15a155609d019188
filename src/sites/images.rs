//! The RBD images of a VM, each with the clusters that hold its copies.

use super::activity::{activity, domain, is_running};
use super::cluster::Cluster;
use super::error::{FrontEndError, RunError};
use super::observe;
use super::pools;
use super::site::Sites;
use super::start::way_out;
use crate::opennebula::disks::{
    Usage, datastores_needed, images_used, named_by, rbd_images, rbd_images_each,
};
use crate::opennebula::{DiskError, DiskImage, DiskKind, OneError, OpenNebula, Vm, VmState};
use onemirror_protocol::{Activity, Domain, ImageSpec, ImageUser, Unfit, WayOut, kept_at_recreate};
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
    pub(super) fn of_disk(disk: DiskImage, cluster: Cluster) -> Self {
        let DiskImage { disk_id, image, kind, datastore_id, base } = disk;
        Self { image, disk_id: Some(disk_id), kind, datastore_id, base, cluster }
    }

    /// An image that is looked at without a VM.
    pub(super) fn unused(image: ImageSpec, datastore_id: i32, cluster: Cluster) -> Self {
        Self { image, disk_id: None, kind: DiskKind::Persistent, datastore_id, base: None, cluster }
    }

    /// The image's name.
    pub fn spec(&self) -> &ImageSpec {
        &self.image
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

/// A VM that uses an image.
#[derive(Clone, Debug)]
pub(super) struct DiskUser {
    pub vm: i32,
    pub state: String,
    pub activity: Activity,
    /// Whether its domain may be alive.
    pub domain: Domain,
    /// How it is brought to let its disks go.
    pub way_out: WayOut,
    /// It runs.
    pub running: bool,
    /// The image is the VM's own clone or volatile disk.
    pub owns: bool,
    /// When it was made, and its UUID.
    pub made: (Option<i64>, Option<String>),
}

impl DiskUser {
    pub(super) fn of_image(&self) -> ImageUser {
        ImageUser { vm: self.vm, activity: self.activity }
    }
}

/// A VM of this site with its images.
pub async fn vm_images(sites: &Sites, vm_id: i32) -> Result<VmImages, RunError> {
    let vm = sites.one_here.vm(vm_id).await.map_err(|error| sites.error_here(error))?;
    images_of(sites, vm).await
}

/// The images of a VM of this site.
pub async fn images_of(sites: &Sites, vm: Vm) -> Result<VmImages, RunError> {
    let datastores = sites.datastores(datastores_needed(&vm)).await?;
    let mut images = Vec::new();
    for disk in rbd_images(&vm, &datastores)? {
        let Some(datastore) = datastores.get(&disk.datastore_id) else { continue };
        let cluster = sites.cluster_here(datastore).await?;
        images.push(VmImage::of_disk(disk, cluster));
    }
    let images = each_once(sites, images).await?;
    Ok(VmImages { vm, images })
}

/// The images of a VM of this site that can be told, and why others can't: one disk keeps no other waiting.
pub(super) async fn images_reached(sites: &Sites, vm: Vm) -> (VmImages, Vec<RunError>) {
    let (mut images, mut errors) = (Vec::new(), Vec::new());
    let mut datastores = BTreeMap::new();
    for id in datastores_needed(&vm) {
        match sites.datastores([id]).await {
            Ok(found) => datastores.extend(found),
            Err(error) => errors.push(error),
        }
    }
    for disk in rbd_images_each(&vm, &datastores) {
        let cluster = match &disk {
            Ok(disk) => match datastores.get(&disk.datastore_id) {
                Some(datastore) => sites.cluster_here(datastore).await,
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
async fn each_once(sites: &Sites, images: Vec<VmImage>) -> Result<Vec<VmImage>, RunError> {
    let mut kept: Vec<VmImage> = Vec::new();
    for image in images {
        let Some(other) = kept.iter().find(|other| other.spec() == image.spec()) else {
            kept.push(image);
            continue;
        };
        let pool = image.spec().pool_spec();
        if pools::pool_id(sites, &image.cluster, &pool).await
            != pools::pool_id(sites, &other.cluster, &pool).await
        {
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
    let registered = sites.one_here.image_pool().await.map_err(|error| sites.error_here(error))?;
    let claim = |image: crate::opennebula::Image| {
        let source: ImageSpec = image.source.parse().ok()?;
        own.contains(&source).then_some((source, image.id))
    };
    Ok(registered.into_iter().filter_map(claim).collect())
}

/// Whether a disk that is deleted because its VM is to run again stays.
pub async fn keeps_through_recreate(image: &VmImage) -> Result<bool, RunError> {
    let made_anew = image.kind == DiskKind::Volatile;
    Ok(kept_at_recreate(&observe::look_here(image).await?, made_anew))
}

/// The VMs of the peer that use these images, by image. A name alone never makes a match: the VM's own
/// document has to say that the image is its disk.
pub(super) async fn users_there(
    sites: &Sites,
    images: &BTreeSet<ImageSpec>,
) -> Result<BTreeMap<ImageSpec, Vec<DiskUser>>, FrontEndError> {
    let client = sites.front_end_there()?;
    // "no VM uses it" is only true if every VM is seen
    let user = client.own_user().await?;
    if !user.sees_everything() {
        return Err(FrontEndError::SeesTooLittle(crate::text::printable(&user.name)));
    }
    let users = users(&*client, images).await?;
    if has_one_of(sites, users.values().flatten()).await {
        return Err(FrontEndError::LeadsHere);
    }
    Ok(users)
}

/// Whether one of these VMs is this site's own, by its number, the second in which it was made, and its UUID. An address
/// that was moved after a disaster may lead back to this site.
async fn has_one_of(sites: &Sites, users: impl Iterator<Item = &DiskUser>) -> bool {
    for (vm, seen) in users.map(|user| (user.vm, &user.made)).collect::<BTreeMap<_, _>>() {
        if sites.one_here.vm(vm).await.is_ok_and(|own| made(&own) == *seen) {
            return true;
        }
    }
    false
}

/// The same for this site's own front-end.
pub(super) async fn users_here(
    sites: &Sites,
    images: &BTreeSet<ImageSpec>,
) -> Result<BTreeMap<ImageSpec, Vec<DiskUser>>, OneError> {
    users(&*sites.one_here, images).await
}

fn made(vm: &Vm) -> (Option<i64>, Option<String>) {
    (vm.made, vm.uuid.clone())
}

async fn users(
    client: &dyn OpenNebula,
    images: &BTreeSet<ImageSpec>,
) -> Result<BTreeMap<ImageSpec, Vec<DiskUser>>, OneError> {
    let mut candidates: BTreeMap<i32, BTreeSet<ImageSpec>> =
        images.iter().filter_map(named_by).map(|named| (named.vm_id, BTreeSet::new())).collect();
    for image in client.image_pool().await? {
        if let Ok(source) = image.source.parse::<ImageSpec>()
            && images.contains(&source)
        {
            for vm in image.vms {
                candidates.entry(vm).or_default().insert(source.clone());
            }
        }
    }
    let mut users: BTreeMap<ImageSpec, Vec<DiskUser>> = BTreeMap::new();
    let mut datastores = BTreeMap::new();
    for (id, registered) in candidates {
        let vm = match client.vm(id).await {
            // it let its disks go for good
            Ok(vm) if vm.state == VmState::Done => continue,
            Ok(vm) => vm,
            // a number in a name need not be a VM of that site
            Err(OneError::NoExists(_)) => continue,
            Err(error) => return Err(error),
        };
        for id in datastores_needed(&vm) {
            if let std::collections::btree_map::Entry::Vacant(entry) = datastores.entry(id) {
                entry.insert(client.datastore(id).await?);
            }
        }
        if let Err(error) = rbd_images(&vm, &datastores) {
            tracing::warn!("VM {id} of {}: {error}", client.endpoint());
        }
        for (image, usage) in images_used(&vm, &datastores, images, &registered) {
            let owns = usage == Usage::Owns;
            let (state, activity) = (vm.state_name(), activity(&vm));
            let (domain, way_out, running) = (domain(&vm), way_out(&vm), is_running(&vm));
            let made = made(&vm);
            let user = DiskUser { vm: id, state, activity, domain, way_out, running, owns, made };
            users.entry(image).or_default().push(user);
        }
    }
    Ok(users)
}
