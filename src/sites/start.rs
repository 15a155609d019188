//! What it takes to start a VM, by the state it was left in.

use super::activity;
use crate::opennebula::{LcmState, OneError, OpenNebula, Recover, Vm, VmAction, VmState};
use onemirror_protocol::advice::{Advice, Place};
use onemirror_protocol::{Activity, WayOut, without_saved_memory};

/// What it takes to start a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `onevm resume`.
    Resume,
    /// `onevm release`.
    Release,
    /// `onevm recover --retry`.
    Retry,
    /// Nothing: it starts, runs or is changed right now.
    UnderWay,
    /// Nothing yet: it is on its way out.
    LettingGo,
    /// What an operator has to decide.
    ByHand(ByHand),
    /// Nothing starts it.
    Never,
}

/// Why a VM is not started without an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByHand {
    /// Its saved memory belongs to its disks as they were.
    SavedMemory,
    /// Its host died, and with it the domain, or it was only not reached.
    HostDied,
    /// A step on its way out failed.
    WayOutFailed,
    /// Its disks are being copied for it.
    Cloning,
}

impl ByHand {
    /// What to do, on the site of the VM.
    pub fn advice(self, vm: i32, place: Place) -> Advice {
        let recreate = |place| Advice::command(place, format!("onevm recover --recreate {vm}"));
        match self {
            Self::SavedMemory => without_saved_memory(vm, place),
            Self::HostDied => recreate(place).when("when its host is off for certain; it keeps its disks"),
            Self::WayOutFailed => Advice::command(place, format!("onevm recover --retry {vm}")),
            Self::Cloning => Advice::wait("its disks are being copied for it"),
        }
    }
}

impl Start {
    /// What an operator types, where a call starts the VM.
    pub fn command(self) -> Option<&'static str> {
        match self {
            Self::Resume => Some("resume"),
            Self::Release => Some("release"),
            Self::Retry => Some("recover --retry"),
            Self::UnderWay | Self::LettingGo | Self::ByHand(_) | Self::Never => None,
        }
    }
}

/// By the VM's state. Of what is not known nothing is started.
pub fn start_of(vm: &Vm) -> Start {
    match vm.state {
        VmState::Poweroff | VmState::Undeployed => Start::Resume,
        VmState::Hold => Start::Release,
        VmState::Init | VmState::Pending => Start::UnderWay,
        VmState::Suspended | VmState::Stopped => Start::ByHand(ByHand::SavedMemory),
        VmState::Cloning | VmState::CloningFailure => Start::ByHand(ByHand::Cloning),
        VmState::Active => start_of_active(vm),
        VmState::Done | VmState::Unknown(_) => Start::Never,
    }
}

fn start_of_active(vm: &Vm) -> Start {
    match vm.lcm_state {
        LcmState::BootFailure
        | LcmState::PrologFailure
        | LcmState::BootUndeployFailure
        | LcmState::PrologUndeployFailure
        // back to POWEROFF, from where it is resumed
        | LcmState::PrologMigratePoweroffFailure => Start::Retry,
        LcmState::BootMigrateFailure
        | LcmState::BootStoppedFailure
        | LcmState::PrologResumeFailure
        | LcmState::PrologMigrateFailure
        | LcmState::PrologMigrateSuspendFailure => Start::ByHand(ByHand::SavedMemory),
        LcmState::Unknown | LcmState::PrologMigrateUnknownFailure => Start::ByHand(ByHand::HostDied),
        LcmState::EpilogFailure | LcmState::EpilogStopFailure | LcmState::EpilogUndeployFailure => {
            Start::ByHand(ByHand::WayOutFailed)
        }
        LcmState::Other(_) => Start::Never,
        _ if activity::activity(vm) == Activity::LettingGo => Start::LettingGo,
        _ => Start::UnderWay,
    }
}

/// How a VM in this state is brought to let its disks go.
pub(crate) fn way_out(vm: &Vm) -> WayOut {
    match start_of(vm) {
        Start::UnderWay if vm.state == VmState::Pending => WayOut::Hold,
        // a resume that failed is tried again; then it runs
        Start::ByHand(ByHand::SavedMemory) if vm.state == VmState::Active => WayOut::Retry,
        Start::ByHand(ByHand::SavedMemory) => WayOut::ResumeFirst,
        Start::ByHand(ByHand::WayOutFailed) => WayOut::Retry,
        Start::ByHand(ByHand::HostDied) => WayOut::HostOff,
        _ => WayOut::PowerOff,
    }
}

/// Asks a front-end to start the VM. `retry` needs more rights than the others (VM:ADMIN, not VM:MANAGE); who is in the
/// group oneadmin, as the peer's user has to be, has them all.
pub(crate) async fn ask(client: &dyn OpenNebula, vm: i32, start: Start) -> Result<(), OneError> {
    match start {
        Start::Resume => client.vm_action(VmAction::Resume, vm).await,
        Start::Release => client.vm_action(VmAction::Release, vm).await,
        Start::Retry => client.vm_recover(vm, Recover::Retry).await,
        Start::UnderWay | Start::LettingGo | Start::ByHand(_) | Start::Never => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opennebula::{LcmState, VmState};

    fn vm(state: i32, lcm_state: i32) -> Vm {
        Vm { state: state.into(), lcm_state: lcm_state.into(), ..Vm::default() }
    }

    fn every_state() -> impl Iterator<Item = Vm> {
        (-1..13).filter(|state| *state != 3).map(|state| vm(state, 0)).chain((0..80).map(|lcm| vm(3, lcm)))
    }

    /// By oned's own names: a VM is started only where nothing of it is at work, and by the one call that does it.
    #[test]
    fn every_state_has_its_start() {
        for vm in every_state() {
            let name = vm.state_name();
            let expected = match name.as_str() {
                "POWEROFF" | "UNDEPLOYED" => Start::Resume,
                "HOLD" => Start::Release,
                "SUSPENDED" | "STOPPED" => Start::ByHand(ByHand::SavedMemory),
                "CLONING" | "CLONING_FAILURE" => Start::ByHand(ByHand::Cloning),
                "UNKNOWN" | "PROLOG_MIGRATE_UNKNOWN_FAILURE" => Start::ByHand(ByHand::HostDied),
                "DONE" => Start::Never,
                name if name.starts_with("EPILOG") && name.ends_with("FAILURE") => {
                    Start::ByHand(ByHand::WayOutFailed)
                }
                "BOOT_FAILURE"
                | "PROLOG_FAILURE"
                | "BOOT_UNDEPLOY_FAILURE"
                | "PROLOG_UNDEPLOY_FAILURE"
                | "PROLOG_MIGRATE_POWEROFF_FAILURE" => Start::Retry,
                name if name.ends_with("FAILURE") => Start::ByHand(ByHand::SavedMemory),
                _ if activity(&vm) == Activity::LettingGo => Start::LettingGo,
                _ if matches!(vm.state, VmState::Unknown(_)) => Start::Never,
                _ if matches!((vm.state, vm.lcm_state), (VmState::Active, LcmState::Other(_))) => {
                    Start::Never
                }
                _ => Start::UnderWay,
            };
            assert_eq!(start_of(&vm), expected, "{name}");
        }
    }

    #[test]
    fn every_state_that_uses_disks_has_a_way_out_that_oned_takes_in_it() {
        for vm in every_state().filter(|vm| activity(vm) > Activity::LettingGo) {
            let name = vm.state_name();
            let expected = match name.as_str() {
                "PENDING" => WayOut::Hold,
                "SUSPENDED" | "STOPPED" => WayOut::ResumeFirst,
                "UNKNOWN" | "PROLOG_MIGRATE_UNKNOWN_FAILURE" => WayOut::HostOff,
                name if name.ends_with("_FAILURE") => WayOut::Retry,
                _ => WayOut::PowerOff,
            };
            assert_eq!(way_out(&vm), expected, "{name}");
        }
    }

    #[test]
    fn whatever_is_started_by_a_call_uses_no_disk() {
        for vm in every_state().filter(|vm| start_of(vm).command().is_some()) {
            assert_eq!(activity(&vm), Activity::Inactive, "{}", vm.state_name());
        }
    }
}
