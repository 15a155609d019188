//! The `running` hook: a VM runs; was it let through, and may it go on?

use super::boot::{Gate, was_booted};
use crate::decision::{Decision, Refusal};
use crate::image::ImageSpec;
use crate::sight::{Copy, Here, Observation, PeerVm, Role, There};
use alloc::vec::Vec;

/// What to do about a VM that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Running {
    /// Nothing. It runs under its own open token, and no copy that answers outranks it.
    Leave,
    /// No gate has let it on these images. The gate makes up for that; or else it has to be stopped.
    MakeUp(Vec<ImageSpec>),
    /// It has to be stopped: a copy that answers outranks one of its own. Nothing is changed under it.
    Stop(Refusal),
}

impl Running {
    /// Judges a VM by the gate that it would have to go through now, with no time to wait.
    pub fn judge(gate: &Gate<'_>, observations: &[Observation]) -> Self {
        let left: Vec<Observation> =
            observations.iter().filter(|seen| !may_go_on(gate, seen)).cloned().collect();
        if left.is_empty() {
            return Self::Leave;
        }
        match gate.judge(&left).decision {
            Decision::Refuse { refusal, .. } => Self::Stop(refusal),
            Decision::Done | Decision::LockThere | Decision::Act(_) | Decision::Wait { .. } => {
                Self::MakeUp(left.into_iter().map(|seen| seen.image).collect())
            }
        }
    }
}

/// Whether silence, and whatever else an operator has to look into, is no reason to stop the VM on this image.
fn may_go_on(gate: &Gate<'_>, observation: &Observation) -> bool {
    let here = match &observation.here {
        Here::NotMirrored | Here::Absent => return true,
        Here::Mirrored(copy) => copy,
    };
    let outranked = match &observation.there {
        // a force that no VM followed outranks nobody; the gate says so in the token where no VM there can be meant
        There::Mirrored(there) if there.is_forced_and_never_booted() => {
            matches!(observation.vm_there, PeerVm::None | PeerVm::Inactive { .. })
        }
        There::Mirrored(there) => there.token.sequence() > here.token.sequence(),
        There::Apart(there) => there.is_forced_past(&here.token),
        There::NotAsked | There::Unreachable | There::Denied(_) | There::Absent => false,
    };
    here.role == Role::Primary && is_own(gate, here) && !outranked
}

/// Whether this site's open token on the copy is that of a boot of this VM.
fn is_own(gate: &Gate<'_>, here: &Copy) -> bool {
    let by_this_site = here.token.token().is_some_and(|token| token.is_open_by(gate.here));
    by_this_site && was_booted(here) && here.booted.as_ref().is_some_and(|mark| mark.names(gate.vm))
}
