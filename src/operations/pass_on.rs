//! Passing a VM on: after a release, the matching VM of the peer is started; its own gate waits for the data.

use crate::audit::Outcome;
use crate::sites::journal::{Attempt, Ground};
use crate::sites::look::Belonging;
use crate::sites::users::DiskUser;
use crate::sites::{ByHand, RunError, Sites, Start, VmImage, journal, look, start, users};
use onemirror_protocol::advice::{Advice, Place};
use onemirror_protocol::{Belongs, Depth, Here, ImageSpec, Role, There};
use std::collections::{BTreeMap, BTreeSet};

/// What became of the matching VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassOn {
    /// `resume_on_peer` is off, or nothing of the VM is mirrored.
    NotAsked,
    /// Something of the VM is still primary here.
    Pending {
        /// Which image.
        image: ImageSpec,
    },
    /// A call starts it, or has started it.
    Start {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words, before.
        state: String,
        /// Which call.
        how: Start,
    },
    /// It starts or runs already, or will be at rest soon.
    UnderWay {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words.
        state: String,
    },
    /// An operator has to decide.
    ByHand {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words.
        state: String,
        /// What about.
        why: ByHand,
    },
    /// No VM there uses the images.
    NoMatch,
    /// More than one does; an operator has to choose.
    Ambiguous {
        /// Their ids there.
        vms: Vec<i32>,
    },
}

impl PassOn {
    /// What somebody of that site has to do, or the VM stays off.
    pub fn advice(&self, site: &str) -> Option<Advice> {
        let there = Place::There(site.to_owned());
        match self {
            Self::ByHand { vm, why, .. } => Some(why.advice(*vm, there)),
            Self::Ambiguous { .. } => Some(Advice::decide(format!("on {site}, which of them to resume"))),
            Self::NotAsked
            | Self::Pending { .. }
            | Self::Start { .. }
            | Self::UnderWay { .. }
            | Self::NoMatch => None,
        }
    }

    /// What was done, or is to be done, about the VM of that site.
    pub fn tell(&self, site: &str) -> String {
        match self.advice(site) {
            Some(advice) => format!("{}; {advice}", self.is_so(site)),
            None => self.is_so(site),
        }
    }

    /// What was done, or is so.
    pub(crate) fn is_so(&self, site: &str) -> String {
        match self {
            Self::NotAsked => "nothing to pass on".to_owned(),
            Self::Pending { image } => format!("{} is still primary here", image.image()),
            Self::Start { vm, state, how } => {
                let how = how.command().unwrap_or_default();
                format!("VM {vm} of {site} was {state}: {how}")
            }
            Self::UnderWay { vm, state } => format!("VM {vm} of {site} is {state} already"),
            Self::ByHand { vm, state, .. } => format!("VM {vm} of {site} is {state}"),
            Self::NoMatch => format!("no VM of {site} uses the images"),
            Self::Ambiguous { vms } => {
                let vms: Vec<String> = vms.iter().map(i32::to_string).collect();
                format!("VMs {} of {site} use the images", vms.join(", "))
            }
        }
    }
}

/// Starts the peer's VM that these released images belong to. `vm` is the VM that let them go.
pub async fn pass_on(sites: &Sites, vm: Option<i32>, images: &[VmImage]) -> Result<PassOn, RunError> {
    let started = sites.time().now();
    if !sites.config().policy.resume_on_peer {
        return Ok(PassOn::NotAsked);
    }
    // an image that stays here is none of the other site's business, and the other site need not be asked about it
    let belongings = look::belongings(sites, images).await?;
    let away: Vec<VmImage> = std::iter::zip(images, belongings)
        .filter(|(_, belonging)| {
            !matches!(belonging, Belonging::Primary(Belongs::Here) | Belonging::GivenUp(Belongs::Here))
        })
        .map(|(image, _)| image.clone())
        .collect();
    let seen = look::observe(sites, &away, Depth::GiveUp).await?;
    let mut mirrored = BTreeSet::new();
    for seen in &seen {
        let Here::Mirrored(copy) = &seen.observation.here else { continue };
        let given_up =
            copy.role == Role::NonPrimary && onemirror_protocol::released_by(copy, sites.here.name());
        let taken_already =
            matches!(&seen.observation.there, There::Mirrored(there) if there.role == Role::Primary);
        if !given_up && !taken_already {
            return Ok(PassOn::Pending { image: seen.spec().clone() });
        }
        mirrored.insert(seen.spec().clone());
    }
    if mirrored.is_empty() {
        return Ok(PassOn::NotAsked);
    }
    let outcome = start_user_of(sites, &mirrored).await;
    let (result, reason) = match &outcome {
        Ok(PassOn::Start { .. }) => (Outcome::Done, None),
        Ok(other) => (Outcome::Skipped, Some(other.tell(sites.there.name()))),
        Err(error) => (Outcome::Failed, Some(error.to_string())),
    };
    let step = match &outcome {
        Ok(PassOn::Start { how, .. }) => how.command().unwrap_or_default(),
        _ => "resume",
    };
    let attempt = Attempt { vm, ground: Some(Ground::PassOn), ..Attempt::at(step, started) };
    journal::note(sites, &attempt, result, reason);
    outcome
}

async fn start_user_of(sites: &Sites, images: &BTreeSet<ImageSpec>) -> Result<PassOn, RunError> {
    let next = user_to_start(sites, images).await?;
    if let PassOn::Start { vm, how, .. } = &next {
        sites.there.ask(async |one| start::ask(&**one, *vm, *how).await).await?;
    }
    Ok(next)
}

/// The peer's VM that uses the images, and what starts it; nothing is changed.
pub(crate) async fn user_to_start(sites: &Sites, images: &BTreeSet<ImageSpec>) -> Result<PassOn, RunError> {
    let users = users::users_there(sites, images).await.map_err(|error| sites.there.error(error))?;
    let vm = match owners(images, &users)[..] {
        [] => return Ok(PassOn::NoMatch),
        [vm] => vm,
        ref vms => return Ok(PassOn::Ambiguous { vms: vms.to_vec() }),
    };
    let there = sites.there.ask(async |one| one.vm(vm).await).await?;
    let state = there.state_name();
    Ok(match start::start_of(&there) {
        how @ (Start::Resume | Start::Release | Start::Retry) => PassOn::Start { vm, state, how },
        Start::UnderWay | Start::LettingGo => PassOn::UnderWay { vm, state },
        Start::ByHand(why) => PassOn::ByHand { vm, state, why },
        Start::Never => PassOn::NoMatch,
    })
}

/// The VMs that these images belong to: those that use all of them, since one that shares a disk is no other's match; where
/// there is none, those that use any.
fn owners(images: &BTreeSet<ImageSpec>, users: &BTreeMap<ImageSpec, Vec<DiskUser>>) -> Vec<i32> {
    let any: BTreeSet<i32> = users.values().flatten().map(|user| user.vm).collect();
    let uses = |vm: i32, image: &ImageSpec| {
        users.get(image).is_some_and(|users| users.iter().any(|user| user.vm == vm))
    };
    let all: Vec<i32> =
        any.iter().copied().filter(|vm| images.iter().all(|image| uses(*vm, image))).collect();
    if all.is_empty() { any.into_iter().collect() } else { all }
}
