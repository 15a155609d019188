//! Passing a VM on: after a release, the matching VM of the peer is resumed; its own gate waits for the data.

use super::activity::{Activity, activity};
use super::error::EngineError;
use super::images::{User, VmImage};
use super::observe::{Belonging, Purpose};
use super::sites::Engine;
use crate::audit::Outcome;
use crate::handoff::{Belongs, Here, Role, There};
use crate::image_spec::ImageSpec;
use crate::opennebula::{VmAction, VmState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What became of the matching VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassOn {
    /// `resume_on_peer` is off, or nothing of the VM is mirrored.
    NotAsked,
    /// Resumed there.
    Resumed {
        /// Its id there.
        vm: i32,
    },
    /// Something of the VM is still primary here.
    Pending {
        /// Which image.
        image: ImageSpec,
    },
    /// It is on its way or running already.
    Active {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words.
        state: String,
    },
    /// It is in a state that `resume` does not start.
    NotResumable {
        /// Its id there.
        vm: i32,
        /// Its state in oned's words.
        state: String,
    },
    /// No VM there uses the images.
    NoMatch,
    /// More than one does; an operator has to choose.
    Ambiguous {
        /// Their ids there.
        vms: Vec<i32>,
    },
}

impl std::fmt::Display for PassOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAsked => write!(f, "nothing to pass on"),
            Self::Resumed { vm } => write!(f, "VM {vm} resumed there"),
            Self::Pending { image } => write!(f, "{} is still primary here", image.image()),
            Self::Active { vm, state } => write!(f, "VM {vm} is {state} there already"),
            Self::NotResumable { vm, state } => {
                write!(f, "VM {vm} is {state} there, which resume does not start; start it by hand")
            }
            Self::NoMatch => write!(f, "no VM there uses the images"),
            Self::Ambiguous { vms } => write!(f, "VMs {vms:?} there use the images; resume one by hand"),
        }
    }
}

impl Engine {
    /// Resumes the peer's VM that these released images belong to. `vm` is the VM that let them go.
    pub async fn pass_on(&self, vm: i32, images: &[VmImage]) -> Result<PassOn, EngineError> {
        let started = Instant::now();
        if !self.config.policy.resume_on_peer {
            return Ok(PassOn::NotAsked);
        }
        // an image that stays here is none of the other site's business, and the other site need not be asked about it
        let belongings = self.belongings(images).await?;
        let away: Vec<VmImage> = std::iter::zip(images, belongings)
            .filter(|(_, belonging)| {
                !matches!(belonging, Belonging::Primary(Belongs::Here) | Belonging::GivenUp(Belongs::Here))
            })
            .map(|(image, _)| image.clone())
            .collect();
        let seen = self.observe(&away, Purpose::Release).await?;
        let mut mirrored = BTreeSet::new();
        for seen in &seen {
            let Here::Mirrored(copy) = &seen.observation.here else { continue };
            let given_up = copy.role == Role::NonPrimary && crate::handoff::released_by(copy, self.here());
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
        let outcome = self.resume_user_of(&mirrored).await;
        let (result, reason) = match &outcome {
            Ok(PassOn::Resumed { .. }) => (Outcome::Done, None),
            Ok(other) => (Outcome::Skipped, Some(other.to_string())),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        self.note(Some(vm), None, "pass-on", "resume", result, reason, started);
        outcome
    }

    async fn resume_user_of(&self, images: &BTreeSet<ImageSpec>) -> Result<PassOn, EngineError> {
        let users = self.users_there(images).await.map_err(|error| self.error_there(error))?;
        let id = match owners(images, &users)[..] {
            [] => return Ok(PassOn::NoMatch),
            [id] => id,
            ref vms => return Ok(PassOn::Ambiguous { vms: vms.to_vec() }),
        };
        let client = self.front_end_there().map_err(|error| self.error_there(error))?;
        let vm = client.vm(id).await.map_err(|error| self.error_there(error))?;
        let state = vm.state_name();
        match (activity(&vm), vm.state) {
            (Activity::Inactive, VmState::Poweroff | VmState::Undeployed) => {
                client.vm_action(VmAction::Resume, id).await.map_err(|error| self.error_there(error))?;
                Ok(PassOn::Resumed { vm: id })
            }
            (Activity::Active, VmState::Active) | (Activity::LettingGo, _) => {
                Ok(PassOn::Active { vm: id, state })
            }
            _ => Ok(PassOn::NotResumable { vm: id, state }),
        }
    }
}

/// The VMs that these images belong to: those that use all of them, since one that shares a disk is no other's match; where
/// there is none, those that use any.
fn owners(images: &BTreeSet<ImageSpec>, users: &BTreeMap<ImageSpec, Vec<User>>) -> Vec<i32> {
    let any: BTreeSet<i32> = users.values().flatten().map(|user| user.vm).collect();
    let uses = |vm: i32, image: &ImageSpec| {
        users.get(image).is_some_and(|users| users.iter().any(|user| user.vm == vm))
    };
    let all: Vec<i32> =
        any.iter().copied().filter(|vm| images.iter().all(|image| uses(*vm, image))).collect();
    if all.is_empty() { any.into_iter().collect() } else { all }
}
