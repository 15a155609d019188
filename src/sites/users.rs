//! The VMs that use images, on either site.

use super::Sites;
use super::activity;
use super::error::{FrontEndError, RunError};
use super::front_end::FrontEnd;
use super::images::VmImage;
use super::look::Seen;
use super::start;
use crate::opennebula::disks::{Usage, datastores_needed, images_used, named_by, rbd_images};
use crate::opennebula::{OneError, Vm, VmState};
use onemirror_protocol::{
    Activity, Depth, Domain, Here, ImageSpec, ImageUser, Observation, PeerVm, Role, There, UserHere, Users,
    WayOut,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A VM that uses an image.
#[derive(Clone, Debug)]
pub(crate) struct DiskUser {
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
    pub(crate) fn of_image(&self) -> ImageUser {
        ImageUser { vm: self.vm, activity: self.activity }
    }

    fn of_upkeep(&self) -> UserHere {
        let in_use = self.activity.may_use();
        UserHere { vm: self.vm, in_use, running: self.running, way_out: self.way_out }
    }
}

/// A VM of this site, as far as upkeep cares.
pub(crate) fn user_here(vm: &Vm) -> UserHere {
    let in_use = activity::activity(vm).may_use();
    UserHere { vm: vm.id, in_use, running: activity::is_running(vm), way_out: start::way_out(vm) }
}

/// The VMs of the peer that use these images, by image. A name alone never makes a match: the VM's own
/// document has to say that the image is its disk.
pub(crate) async fn users_there(
    sites: &Sites,
    images: &BTreeSet<ImageSpec>,
) -> Result<BTreeMap<ImageSpec, Vec<DiskUser>>, FrontEndError> {
    let client = sites.there.front_end()?;
    // "no VM uses it" is only true if every VM is seen
    let user = sites.there.greeted(sites.state_dir()).await?;
    if !user.sees_everything() {
        return Err(FrontEndError::SeesTooLittle(crate::text::printable(&user.name)));
    }
    let users = users(client, sites.state_dir(), images)
        .await
        .inspect_err(|error| sites.there.note_silence(error))?;
    if has_one_of(sites, users.values().flatten()).await {
        return Err(FrontEndError::LeadsHere);
    }
    Ok(users)
}

/// Whether one of these VMs is this site's own, by its number, the second in which it was made, and its UUID. An address
/// that was moved after a disaster may lead back to this site.
async fn has_one_of(sites: &Sites, users: impl Iterator<Item = &DiskUser>) -> bool {
    for (vm, seen) in users.map(|user| (user.vm, &user.made)).collect::<BTreeMap<_, _>>() {
        if sites.here.ask(async |one| one.vm(vm).await).await.is_ok_and(|own| made(&own) == *seen) {
            return true;
        }
    }
    false
}

/// The same for this site's own front-end.
pub(crate) async fn users_here(
    sites: &Sites,
    images: &BTreeSet<ImageSpec>,
) -> Result<BTreeMap<ImageSpec, Vec<DiskUser>>, RunError> {
    sites.here.ask(async |one| users(one, sites.state_dir(), images).await).await
}

fn made(vm: &Vm) -> (Option<i64>, Option<String>) {
    (vm.made, vm.uuid.clone())
}

async fn users(
    front_end: &FrontEnd,
    memory: &Path,
    images: &BTreeSet<ImageSpec>,
) -> Result<BTreeMap<ImageSpec, Vec<DiskUser>>, OneError> {
    let mut candidates: BTreeMap<i32, BTreeSet<ImageSpec>> =
        images.iter().filter_map(named_by).map(|named| (named.vm_id, BTreeSet::new())).collect();
    for image in front_end.images_with_users(memory).await? {
        if let Ok(source) = image.source.parse::<ImageSpec>()
            && images.contains(&source)
        {
            for vm in image.vms {
                candidates.entry(vm).or_default().insert(source.clone());
            }
        }
    }
    let mut users: BTreeMap<ImageSpec, Vec<DiskUser>> = BTreeMap::new();
    for (id, registered) in candidates {
        let vm = match front_end.vm(id).await {
            // it let its disks go for good
            Ok(vm) if vm.state == VmState::Done => continue,
            Ok(vm) => vm,
            // a number in a name need not be a VM of that site
            Err(OneError::NoExists(_)) => continue,
            Err(error) => return Err(error),
        };
        let datastores = front_end.datastores(datastores_needed(&vm)).await?;
        if let Err(error) = rbd_images(&vm, &datastores) {
            tracing::warn!("VM {id} of {}: {error}", front_end.endpoint());
        }
        for (image, usage) in images_used(&vm, &datastores, images, &registered) {
            let owns = usage == Usage::Owns;
            let (state, activity) = (vm.state_name(), activity::activity(&vm));
            let (domain, way_out, running) =
                (activity::domain(&vm), start::way_out(&vm), activity::is_running(&vm));
            let made = made(&vm);
            let user = DiskUser { vm: id, state, activity, domain, way_out, running, owns, made };
            users.entry(image).or_default().push(user);
        }
    }
    Ok(users)
}

/// Who uses each of these images now.
pub(crate) async fn users_of_each(
    sites: &Sites,
    images: &[VmImage],
    known: &[Vec<UserHere>],
) -> Result<Vec<Vec<UserHere>>, RunError> {
    let mut users = Vec::new();
    for (image, known) in images.iter().zip(known) {
        let mut now = users_now(sites, &BTreeSet::from([image.spec().clone()]), known).await?;
        users.push(now.remove(image.spec()).unwrap_or_default());
    }
    Ok(users)
}

/// Who uses the images here now. `known` are VMs that use all of them, or did: what the front-end lists may lack one
/// whose image is registered no more.
pub(crate) async fn users_now(
    sites: &Sites,
    images: &BTreeSet<ImageSpec>,
    known: &[UserHere],
) -> Result<BTreeMap<ImageSpec, Vec<UserHere>>, RunError> {
    let listed = users_here(sites, images).await?;
    let mut users: BTreeMap<ImageSpec, Vec<UserHere>> =
        images.iter().map(|image| (image.clone(), Vec::new())).collect();
    for (image, listed) in &listed {
        users.entry(image.clone()).or_default().extend(listed.iter().map(DiskUser::of_upkeep));
    }
    for known in known {
        let mut without: Vec<_> =
            users.values_mut().filter(|users| !users.iter().any(|user| user.vm == known.vm)).collect();
        // who is listed with all of them needs no second question
        if without.is_empty() {
            continue;
        }
        let vm = sites.here.ask(async |one| one.vm(known.vm).await).await?;
        for users in &mut without {
            users.push(user_here(&vm));
        }
    }
    Ok(users)
}

/// Notes which of the images one of these VMs of this site uses; `own` is the one that it is about. Only under the lock of
/// the copies here is that so for longer than a moment.
pub(crate) async fn observe_users_here(
    sites: &Sites,
    seen: &mut [Seen],
    which: Users,
    own: Option<i32>,
) -> Result<(), RunError> {
    let specs = seen.iter().map(|seen| seen.spec().clone()).collect();
    let users = users_here(sites, &specs).await?;
    for seen in seen {
        let users = users.get(seen.spec()).map_or(&[][..], Vec::as_slice);
        seen.observation.used_here_by = which.first(own, users.iter().map(DiskUser::of_image));
    }
    Ok(())
}

/// Finds out whether the peer's front-end is there, where that will be asked in any case, or where it was silent a moment ago.
pub(crate) async fn greet_there(sites: &Sites, depth: Depth) {
    let Ok(client) = sites.there.front_end() else { return };
    let is_asked = match depth {
        Depth::Force => true,
        Depth::Boot => client.may_be_lost(sites.state_dir()).was_silent(),
        Depth::ToLock | Depth::GiveUp | Depth::Tidy => false,
    };
    if is_asked && let Err(error) = sites.there.greeted(sites.state_dir()).await {
        tracing::info!("front-end of {}: {error}", sites.there.name());
    }
}

/// Asks the peer's front-end who uses the images whose fate depends on it.
pub(crate) async fn observe_users_there(sites: &Sites, seen: &mut [Seen], depth: Depth) {
    let asked: BTreeSet<ImageSpec> = seen
        .iter()
        .filter(|seen| depends_on_users_there(&seen.observation, depth))
        .map(|seen| seen.spec().clone())
        .collect();
    if asked.is_empty() {
        return;
    }
    let users = users_there(sites, &asked).await;
    for seen in seen.iter_mut().filter(|seen| asked.contains(seen.image.spec())) {
        match &users {
            Ok(users) => {
                let users = users.get(seen.image.spec()).map_or(&[][..], Vec::as_slice);
                seen.observation.vm_there = peer_vm(users);
                seen.observation.owned_by_both = seen.image.is_own() && users.iter().any(|user| user.owns);
            }
            Err(error) => {
                let trouble = format!("front-end of {}: {error}", sites.there.name());
                tracing::info!("{trouble}");
                seen.observation.vm_there = error.denial().map_or(PeerVm::Silent, PeerVm::Denied);
                seen.trouble = Some(trouble);
            }
        }
    }
}

/// Whether it matters who uses the image there: wherever the roles of the copies do not keep a VM there from writing.
fn depends_on_users_there(observation: &Observation, depth: Depth) -> bool {
    let Here::Mirrored(here) = &observation.here else { return false };
    let there = match &observation.there {
        There::Mirrored(there) => Some(there.role),
        _ => None,
    };
    match depth {
        Depth::ToLock | Depth::GiveUp => false,
        // of a copy that was only forced, the first to boot holds the image
        Depth::Tidy => here.role != Role::HalfDemoted && there == Some(here.role),
        Depth::Boot => match here.role {
            Role::NonPrimary => there.is_some() || observation.there.is_unseen(),
            Role::Primary => there == Some(Role::Primary) || observation.there.is_unseen(),
            Role::HalfDemoted => false,
        },
        Depth::Force => true,
    }
}

/// The busiest of the VMs that use an image.
fn peer_vm(users: &[DiskUser]) -> PeerVm {
    let Some(user) = users.iter().max_by_key(|user| (user.activity.min(Activity::Busy), user.domain)) else {
        return PeerVm::None;
    };
    let (vm, state, domain) = (user.vm, user.state.clone(), user.domain);
    match user.activity {
        Activity::Inactive => PeerVm::Inactive { vm, state },
        Activity::LettingGo => PeerVm::LettingGo { vm, state },
        Activity::Busy | Activity::ToBeStarted | Activity::Holding => {
            PeerVm::Active { vm, state, domain, way_out: user.way_out }
        }
    }
}
