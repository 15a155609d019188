//! What the stock driver would work on when it is told to delete an image, or to write to it.

use crate::ceph::{CephError, ImageInfo};
use crate::opennebula::Datastore;
use crate::opennebula::stock::{climbs_to, is_left_by_revert};
use crate::sites::reach;
use crate::sites::{Cluster, RunError, Sites, VmImage, images, look, set_aside, users};
use onemirror_protocol::{Depth, Here, ImageSpec, Kept, Removal, Unfit};
use std::collections::{BTreeMap, BTreeSet};

/// Parents beyond that are not looked at.
const MOST_PARENTS: usize = 100;

/// Why the stock driver must not delete an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptImage {
    /// In words.
    pub why: String,
    /// What deletes it for good, once nothing here is to have it any more.
    pub way_out: Option<String>,
}

impl From<String> for KeptImage {
    fn from(why: String) -> Self {
        Self { why, way_out: None }
    }
}

impl std::fmt::Display for KeptImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)?;
        match &self.way_out {
            Some(way_out) => write!(f, "; to delete it for good: {way_out}"),
            None => Ok(()),
        }
    }
}

/// An image of a datastore of this front-end, that is no disk of a VM.
pub async fn image_in(sites: &Sites, datastore: &Datastore, image: ImageSpec) -> Result<VmImage, RunError> {
    Ok(VmImage::unused(image, datastore.id, reach::cluster_here(sites, datastore).await?))
}

/// Why the stock driver must not delete the image; `None`: it may. `registered` is an image of this front-end,
/// other than the one to be deleted, that is the same in Ceph.
pub async fn kept(
    sites: &Sites,
    image: &VmImage,
    registered: Option<i32>,
) -> Result<Option<KeptImage>, RunError> {
    let here = look::look_here(image).await?;
    if here == Here::Absent && image.is_own() {
        // the stock driver says so
        return Ok(None);
    }
    let rules = Removal { residence: sites.residence(), made_here: image.is_own(), registered };
    if let Some(mut kept) = rules.judge(&here) {
        // a VM's own disk is on its way to the other site
        if kept == Kept::NotPrimary && !image.is_own() {
            let seen = look::look(sites, std::slice::from_ref(image), Depth::GiveUp).await?;
            kept = seen.first().map_or(kept, |seen| rules.beside(kept, &seen.observation.there));
        }
        let way_out = rules.way_out(image.spec(), &here, kept);
        return Ok(Some(KeptImage { why: rules.explain(image.spec(), kept), way_out }));
    }
    if let Some(parent) = foreign_parent(image).await? {
        let why = format!(
            "{} is kept, not deleted: it is a clone of {parent}, so not this VM's disk",
            image.spec()
        );
        return Ok(Some(why.into()));
    }
    let others = match deleted_with(image).await {
        Ok(others) => others,
        // what is not mirrored is none of onemirror's business
        Err(error) if here == Here::NotMirrored => {
            tracing::info!("{}: {error}", image.spec());
            return Ok(None);
        }
        Err(error) => return Err(image.error(error)),
    };
    let Some(other) = precious(sites, image, others).await? else { return Ok(None) };
    let why = format!(
        "{} is kept, not deleted: OpenNebula's driver would delete {other} with it; if that is to go, too: rbd rm {0}",
        image.spec()
    );
    Ok(Some(why.into()))
}

/// The image that a VM's own disk can't have been cloned from, if it was.
async fn foreign_parent(image: &VmImage) -> Result<Option<ImageSpec>, RunError> {
    if !image.is_own() {
        return Ok(None);
    }
    let info = image.cluster.info(image.spec()).await.map_err(|error| image.error(error))?;
    let parent = info.as_ref().and_then(parent_of);
    let is_its_own =
        |parent: &ImageSpec| image.base.as_ref() == Some(parent) || is_left_by_revert(parent, image.spec());
    Ok(parent.filter(|parent| !is_its_own(parent)))
}

/// Whose the image is that bears the name of a disk that a VM is about to get; `None`: there is none, or it is the VM's
/// own, from an earlier try.
pub async fn name_is_taken(sites: &Sites, image: &VmImage) -> Result<Option<Unfit>, RunError> {
    let info = image.cluster.info(image.spec()).await.map_err(|error| image.error(error))?;
    let Some(info) = info else { return Ok(None) };
    let name = image.spec().clone();
    if let Some(id) = images::registered_here(sites, std::iter::once(image)).await?.into_values().next() {
        return Ok(Some(Unfit::RegisteredHere { image: name, id }));
    }
    if let Some(base) = &image.base {
        // a copy of another VM's clone of the same base is for the gate to tell
        let is_clone = parent_of(&info).as_ref() == Some(base);
        return Ok((!is_clone).then(|| Unfit::NoCloneOf { image: name, base: base.clone() }));
    }
    // an earlier try would have left a primary copy, at which the stock driver fails
    if info.mirroring.is_none_or(|mirroring| mirroring.primary) {
        return Ok(None);
    }
    let users = users::users_there(sites, &BTreeSet::from([image.spec().clone()])).await;
    let user = users.ok().and_then(|users| users.into_values().flatten().next());
    let there = sites.there.name().to_owned();
    Ok(Some(match user {
        Some(user) => Unfit::DiskOfAnother { image: name, vm: user.vm, there, state: user.state.to_string() },
        None => Unfit::CopyOfAnother { image: name, there },
    }))
}

/// Why nothing can be written to an image whose copy here is not primary.
pub fn not_writable(sites: &Sites, image: &ImageSpec) -> Unfit {
    Unfit::NotWritable { image: image.clone(), there: sites.there.name().to_owned() }
}

/// What comes of an action that puts a new image in the place of a mirrored one.
pub fn becomes_another(sites: &Sites, image: &ImageSpec) -> String {
    format!(
        "{image} is another image after this, which {} does not have yet; see: onemirror list",
        sites.there.name()
    )
}

/// Other images that the stock driver would delete with this one, but for what reverts to its snapshots have set aside.
async fn deleted_with(image: &VmImage) -> Result<BTreeSet<ImageSpec>, CephError> {
    let mut deleted = deleted(&image.cluster, image.spec()).await?;
    deleted.retain(|other| other != image.spec() && !is_left_by_revert(other, image.spec()));
    Ok(deleted)
}

/// Of these the first that is mirrored, an image of this front-end, or a copy that was set aside.
async fn precious(
    sites: &Sites,
    image: &VmImage,
    others: BTreeSet<ImageSpec>,
) -> Result<Option<ImageSpec>, RunError> {
    let registered = registrations(sites, &others).await?;
    for other in others {
        if registered.contains_key(&other) {
            return Ok(Some(other));
        }
        let failed = |error| image.error(error);
        let info = image.cluster.info(&other).await.map_err(failed)?;
        let is_mirrored = info.is_some_and(|info| info.mirroring.is_some());
        let is_lost = async || {
            Ok(set_aside::is_named_lost(&other) && set_aside::find(&image.cluster, &other).await?.is_some())
        };
        if is_mirrored || is_lost().await.map_err(failed)? {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// The images of this front-end that are one of these in Ceph, by their ids.
pub async fn registrations(
    sites: &Sites,
    images: &BTreeSet<ImageSpec>,
) -> Result<BTreeMap<ImageSpec, Vec<i32>>, RunError> {
    let mut found: BTreeMap<ImageSpec, Vec<i32>> = BTreeMap::new();
    if images.is_empty() {
        return Ok(found);
    }
    for image in sites.here.ask(async |one| one.image_pool().await).await? {
        if let Ok(source) = image.source.parse::<ImageSpec>()
            && images.contains(&source)
        {
            found.entry(source).or_default().push(image.id);
        }
    }
    Ok(found)
}

/// The image that one was cloned from.
fn parent_of(info: &ImageInfo) -> Option<ImageSpec> {
    info.parent.as_ref()?.split('@').next()?.parse().ok()
}

/// All that the stock driver deletes when it is told to delete the image.
async fn deleted(cluster: &Cluster, image: &ImageSpec) -> Result<BTreeSet<ImageSpec>, CephError> {
    let mut top = image.clone();
    for _ in 0..MOST_PARENTS {
        match cluster.info(&top).await?.as_ref().and_then(parent_of) {
            Some(parent) if climbs_to(image, &parent) => top = parent,
            _ => break,
        }
    }
    let mut deleted: BTreeSet<ImageSpec> = cluster.descendants(&top).await?.into_iter().collect();
    deleted.insert(top);
    Ok(deleted)
}
