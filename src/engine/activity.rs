//! What a VM's state says about its disks.

use crate::opennebula::{LcmState, Vm, VmState};

/// Whether a VM may be using its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// It is not.
    Inactive,
    /// It is on its way out.
    LettingGo,
    /// It may be, or its saved memory belongs to the disks as they are. Also every state that is not known.
    Active,
}

/// What the VM's state says of its disks.
pub fn activity(vm: &Vm) -> Activity {
    match vm.state {
        VmState::Init
        | VmState::Pending
        | VmState::Hold
        | VmState::Done
        | VmState::Poweroff
        | VmState::Undeployed
        | VmState::CloningFailure => Activity::Inactive,
        // saved memory
        VmState::Suspended | VmState::Stopped => Activity::Active,
        VmState::Active => match vm.lcm_state {
            LcmState::BootFailure
            | LcmState::PrologFailure
            | LcmState::BootUndeployFailure
            | LcmState::PrologUndeployFailure
            | LcmState::PrologMigratePoweroffFailure => Activity::Inactive,
            LcmState::Shutdown
            | LcmState::Epilog
            | LcmState::ShutdownPoweroff
            | LcmState::ShutdownUndeploy
            | LcmState::EpilogUndeploy
            | LcmState::CleanupDelete
            | LcmState::CleanupResubmit => Activity::LettingGo,
            _ => Activity::Active,
        },
        _ => Activity::Active,
    }
}

/// What starting a VM in this state does with its disks; `None` where the domain lives already or no boot is
/// under way (a disk that is attached, a NIC that is changed).
pub fn boot_kind(vm: &Vm) -> Option<crate::handoff::BootKind> {
    use crate::handoff::BootKind;
    if vm.state != VmState::Active {
        return None;
    }
    match vm.lcm_state {
        LcmState::Prolog
        | LcmState::Boot
        | LcmState::BootPoweroff
        | LcmState::BootUnknown
        | LcmState::PrologUndeploy
        | LcmState::BootUndeploy
        | LcmState::PrologMigratePoweroff => Some(BootKind::Cold),
        LcmState::PrologResume
        | LcmState::BootSuspended
        | LcmState::BootStopped
        | LcmState::PrologMigrate
        | LcmState::PrologMigrateSuspend
        | LcmState::BootMigrate => Some(BootKind::Restore),
        _ => None,
    }
}

/// Whether the domain runs now.
pub fn is_running(vm: &Vm) -> bool {
    vm.state == VmState::Active && vm.lcm_state == LcmState::Running
}

/// What starting the VM from its present state would do with its disks.
pub(super) fn saved_memory(vm: &Vm) -> crate::handoff::BootKind {
    match vm.state {
        VmState::Suspended | VmState::Stopped => crate::handoff::BootKind::Restore,
        _ => boot_kind(vm).unwrap_or(crate::handoff::BootKind::Cold),
    }
}
