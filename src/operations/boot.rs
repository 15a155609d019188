//! The gate before a boot.

use crate::audit::Outcome;
use crate::opennebula::Vm;
use crate::sites::journal::{Attempt, Ground};
use crate::sites::look::Seen;
use crate::sites::{RunError, Sites, VmImage, VmImages, activity, drive, journal, look};
use onemirror_protocol::{
    BootKind, Depth, ImageSpec, Judgement, Locks, Patience, Run, Running, Standing, Step, Verdict,
};

/// Which disks a boot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateScope {
    /// All disks of the VM.
    All,
    /// All of them, at the action that makes this one, of a VM whose `context` follows: a disk that may be written to here
    /// needs no further look yet.
    AllFor(i32),
    /// One disk that is attached.
    Disk(i32),
}

/// How the last gate before the next start of this VM stands.
pub(crate) fn next_standing(vm: &Vm) -> Standing {
    match activity::has_its_disks(vm) {
        true => Standing::Last,
        false => Standing::Making,
    }
}

/// What the gate did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateOutcome {
    /// How many of the images are mirrored.
    pub mirrored: usize,
    /// The changes made, in order.
    pub steps: Vec<Step>,
}

/// Makes the VM's images ready to boot on, or says why the VM must not boot. Takes up to the policy's
/// `sync_timeout`, and a few milliseconds per image that is not mirrored.
pub async fn gate(
    sites: &Sites,
    vm: &VmImages,
    scope: GateScope,
    boot: BootKind,
    standing: Standing,
) -> Result<GateOutcome, RunError> {
    let of_disk = |id: i32| vm.images.iter().filter(move |image| image.disk_id == Some(id)).cloned();
    let images: Vec<VmImage> = match scope {
        GateScope::All => vm.images.clone(),
        GateScope::AllFor(disk) => {
            if let Some(image) = of_disk(disk).next()
                && look::is_writable_here(&image).await?
            {
                return Ok(GateOutcome::default());
            }
            vm.images.clone()
        }
        GateScope::Disk(disk) => of_disk(disk).collect(),
    };
    let started = sites.time().now();
    let result = ready_to_boot(sites, vm.vm.id, &images, Run::boot(boot, standing)).await;
    if let Err(error) = &result {
        let (image, rule) = match error {
            RunError::Refused(refusal) => (Some(&refusal.image), Some(refusal.rule)),
            _ => (None, None),
        };
        let outcome = if error.is_refusal() { Outcome::Refused } else { Outcome::Failed };
        let attempt = Attempt {
            vm: Some(vm.vm.id),
            image,
            ground: rule.map(Ground::Rule),
            ..Attempt::at("boot", started)
        };
        journal::note(sites, &attempt, outcome, Some(error.to_string()));
    }
    result
}

/// What the gate before the VM's next boot would say of what was seen without locks.
pub(crate) fn would_judge(sites: &Sites, vm: &Vm, seen: &[Seen], patience: Patience) -> Judgement {
    let (id, kind) = (sites.closing_id(), activity::next_boot(vm));
    let gate = drive::setting(sites, Some(vm.id), &id).gate(kind, next_standing(vm), patience, Locks::Both);
    gate.judge(&drive::observations(seen))
}

/// What the `running` hook has to do about a VM that runs; nothing is changed.
pub async fn judge_running(sites: &Sites, vm: &VmImages) -> Result<Running, RunError> {
    let seen = look::observe(sites, &vm.images, Depth::Boot).await?;
    let id = sites.closing_id();
    let setting = drive::setting(sites, Some(vm.vm.id), &id);
    let gate = setting.gate(BootKind::Cold, Standing::Last, Patience::Exhausted, Locks::Both);
    Ok(Running::judge(&gate, &drive::observations(&seen)))
}

/// The gate on some images of a VM that runs, to make up for one that it never went through.
pub async fn make_up(sites: &Sites, vm: &VmImages, images: &[ImageSpec]) -> Result<GateOutcome, RunError> {
    let left: Vec<VmImage> =
        vm.images.iter().filter(|image| images.contains(image.spec())).cloned().collect();
    ready_to_boot(sites, vm.vm.id, &left, Run::boot(BootKind::Cold, Standing::Last)).await
}

pub(crate) async fn ready_to_boot(
    sites: &Sites,
    vm: i32,
    images: &[VmImage],
    run: Run,
) -> Result<GateOutcome, RunError> {
    let driven = drive::drive(sites, run, &drive::boot_of(sites, vm, images)).await;
    match driven.verdict {
        Verdict::MayBoot => Ok(GateOutcome { mirrored: driven.mirrored, steps: driven.steps }),
        _ => Err(driven.error()),
    }
}
