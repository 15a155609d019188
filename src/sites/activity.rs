//! What a VM's state says about its disks.

use crate::opennebula::{LcmState, Vm, VmState};
use onemirror_protocol::{Activity, Domain};

/// What the VM's state says of its disks.
pub fn activity(vm: &Vm) -> Activity {
    match vm.state {
        VmState::Init
        | VmState::Hold
        | VmState::Done
        | VmState::Poweroff
        | VmState::Undeployed
        | VmState::CloningFailure => Activity::Inactive,
        VmState::Pending => Activity::ToBeStarted,
        // saved memory
        VmState::Suspended | VmState::Stopped => Activity::Holding,
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
            | LcmState::CleanupDelete => Activity::LettingGo,
            // the VM is on its way back, not out
            LcmState::CleanupResubmit => Activity::ToBeStarted,
            LcmState::Running | LcmState::Unknown => Activity::Holding,
            _ if boot_kind(vm).is_some() => Activity::Holding,
            _ => Activity::Busy,
        },
        _ => Activity::Busy,
    }
}

/// Whether the domain of a VM may be alive: not where only its memory is left, or where a step failed that comes after
/// its end or before its start. oned gives a VM the state UNKNOWN if its host does not report; the domain may be well.
pub(crate) fn domain(vm: &Vm) -> Domain {
    match (vm.state, vm.lcm_state) {
        (
            VmState::Active,
            LcmState::Unknown | LcmState::PrologMigrateUnknown | LcmState::PrologMigrateUnknownFailure,
        ) => Domain::Lost,
        (
            VmState::Active,
            LcmState::BootFailure
            | LcmState::BootMigrateFailure
            | LcmState::PrologMigrateFailure
            | LcmState::PrologFailure
            | LcmState::EpilogFailure
            | LcmState::EpilogStopFailure
            | LcmState::EpilogUndeployFailure
            | LcmState::PrologMigratePoweroffFailure
            | LcmState::PrologMigrateSuspendFailure
            | LcmState::BootUndeployFailure
            | LcmState::BootStoppedFailure
            | LcmState::PrologResumeFailure
            | LcmState::PrologUndeployFailure,
        ) => Domain::Gone,
        // one that waits for a host gets it at any moment
        (VmState::Pending | VmState::Active | VmState::Cloning | VmState::Unknown(_), _) => Domain::MayLive,
        _ => Domain::Gone,
    }
}

/// Whether a driver that deletes a disk of the VM does so for `recover --recreate`, or too late: the VM is to run again,
/// on the disks it has.
pub fn runs_again(vm: &Vm) -> bool {
    activity(vm).keeps_disks() || vm.state == VmState::Hold
}

/// What starting a VM in this state does with its disks; `None` where the domain lives already or no boot is
/// under way (a disk that is attached, a NIC that is changed).
pub fn boot_kind(vm: &Vm) -> Option<onemirror_protocol::BootKind> {
    use onemirror_protocol::BootKind;
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
        // a state of a later release: rather one gate too many
        LcmState::Other(_) => Some(BootKind::Cold),
        _ => None,
    }
}

/// Whether the domain runs now.
pub fn is_running(vm: &Vm) -> bool {
    vm.state == VmState::Active && vm.lcm_state == LcmState::Running
}

/// Whether a start from the VM's present state finds all of its disks made: the first one makes clones and volatile disks,
/// and so does one after it was recreated.
pub(crate) fn has_its_disks(vm: &Vm) -> bool {
    match vm.state {
        VmState::Init | VmState::Pending | VmState::Hold | VmState::Cloning | VmState::CloningFailure => {
            false
        }
        VmState::Active => !matches!(
            vm.lcm_state,
            LcmState::LcmInit | LcmState::Prolog | LcmState::PrologFailure | LcmState::CleanupResubmit
        ),
        _ => true,
    }
}

/// What starting the VM from its present state would do with its disks.
pub(crate) fn next_boot(vm: &Vm) -> onemirror_protocol::BootKind {
    match vm.state {
        VmState::Suspended | VmState::Stopped => onemirror_protocol::BootKind::Restore,
        _ => boot_kind(vm).unwrap_or(onemirror_protocol::BootKind::Cold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemirror_protocol::Activity::{Busy, Holding, Inactive, LettingGo, ToBeStarted};
    use onemirror_protocol::BootKind::{Cold, Restore};

    fn vm(state: i32, lcm_state: i32) -> Vm {
        Vm { state: state.into(), lcm_state: lcm_state.into(), ..Vm::default() }
    }

    const ACTIVE: i32 = 3;

    /// Every state of oned 7.4 beside ACTIVE.
    const STATES: [(i32, &str, Activity); 10] = [
        (0, "INIT", Inactive),
        (1, "PENDING", ToBeStarted),
        (2, "HOLD", Inactive),
        (4, "STOPPED", Holding),
        (5, "SUSPENDED", Holding),
        (6, "DONE", Inactive),
        (8, "POWEROFF", Inactive),
        (9, "UNDEPLOYED", Inactive),
        // its image is still being copied; nothing is known of the disk
        (10, "CLONING", Busy),
        (11, "CLONING_FAILURE", Inactive),
    ];

    /// Every life-cycle state of oned 7.4.
    const LCM_STATES: [(i32, &str, Activity, Option<onemirror_protocol::BootKind>); 68] = [
        (0, "LCM_INIT", Busy, None),
        (1, "PROLOG", Holding, Some(Cold)),
        (2, "BOOT", Holding, Some(Cold)),
        (3, "RUNNING", Holding, None),
        (4, "MIGRATE", Busy, None),
        (5, "SAVE_STOP", Busy, None),
        (6, "SAVE_SUSPEND", Busy, None),
        (7, "SAVE_MIGRATE", Busy, None),
        (8, "PROLOG_MIGRATE", Holding, Some(Restore)),
        (9, "PROLOG_RESUME", Holding, Some(Restore)),
        (10, "EPILOG_STOP", Busy, None),
        (11, "EPILOG", LettingGo, None),
        (12, "SHUTDOWN", LettingGo, None),
        (15, "CLEANUP_RESUBMIT", ToBeStarted, None),
        (16, "UNKNOWN", Holding, None),
        (17, "HOTPLUG", Busy, None),
        (18, "SHUTDOWN_POWEROFF", LettingGo, None),
        (19, "BOOT_UNKNOWN", Holding, Some(Cold)),
        (20, "BOOT_POWEROFF", Holding, Some(Cold)),
        (21, "BOOT_SUSPENDED", Holding, Some(Restore)),
        (22, "BOOT_STOPPED", Holding, Some(Restore)),
        (23, "CLEANUP_DELETE", LettingGo, None),
        (24, "HOTPLUG_SNAPSHOT", Busy, None),
        (25, "HOTPLUG_NIC", Busy, None),
        (26, "HOTPLUG_SAVEAS", Busy, None),
        (27, "HOTPLUG_SAVEAS_POWEROFF", Busy, None),
        (28, "HOTPLUG_SAVEAS_SUSPENDED", Busy, None),
        (29, "SHUTDOWN_UNDEPLOY", LettingGo, None),
        (30, "EPILOG_UNDEPLOY", LettingGo, None),
        (31, "PROLOG_UNDEPLOY", Holding, Some(Cold)),
        (32, "BOOT_UNDEPLOY", Holding, Some(Cold)),
        (33, "HOTPLUG_PROLOG_POWEROFF", Busy, None),
        (34, "HOTPLUG_EPILOG_POWEROFF", Busy, None),
        // oned loads saved memory here, or boots afresh after `onevm migrate --poff`; the stricter of the two counts
        (35, "BOOT_MIGRATE", Holding, Some(Restore)),
        (36, "BOOT_FAILURE", Inactive, None),
        // saved memory
        (37, "BOOT_MIGRATE_FAILURE", Busy, None),
        (38, "PROLOG_MIGRATE_FAILURE", Busy, None),
        (39, "PROLOG_FAILURE", Inactive, None),
        (40, "EPILOG_FAILURE", Busy, None),
        (41, "EPILOG_STOP_FAILURE", Busy, None),
        (42, "EPILOG_UNDEPLOY_FAILURE", Busy, None),
        (43, "PROLOG_MIGRATE_POWEROFF", Holding, Some(Cold)),
        (44, "PROLOG_MIGRATE_POWEROFF_FAILURE", Inactive, None),
        (45, "PROLOG_MIGRATE_SUSPEND", Holding, Some(Restore)),
        (46, "PROLOG_MIGRATE_SUSPEND_FAILURE", Busy, None),
        (47, "BOOT_UNDEPLOY_FAILURE", Inactive, None),
        (48, "BOOT_STOPPED_FAILURE", Busy, None),
        (49, "PROLOG_RESUME_FAILURE", Busy, None),
        (50, "PROLOG_UNDEPLOY_FAILURE", Inactive, None),
        (51, "DISK_SNAPSHOT_POWEROFF", Busy, None),
        (52, "DISK_SNAPSHOT_REVERT_POWEROFF", Busy, None),
        (53, "DISK_SNAPSHOT_DELETE_POWEROFF", Busy, None),
        (54, "DISK_SNAPSHOT_SUSPENDED", Busy, None),
        (56, "DISK_SNAPSHOT_DELETE_SUSPENDED", Busy, None),
        (57, "DISK_SNAPSHOT", Busy, None),
        (59, "DISK_SNAPSHOT_DELETE", Busy, None),
        (60, "PROLOG_MIGRATE_UNKNOWN", Busy, None),
        (61, "PROLOG_MIGRATE_UNKNOWN_FAILURE", Busy, None),
        (62, "DISK_RESIZE", Busy, None),
        (63, "DISK_RESIZE_POWEROFF", Busy, None),
        (64, "DISK_RESIZE_UNDEPLOYED", Busy, None),
        (65, "HOTPLUG_NIC_POWEROFF", Busy, None),
        (66, "HOTPLUG_RESIZE", Busy, None),
        (67, "HOTPLUG_SAVEAS_UNDEPLOYED", Busy, None),
        (68, "HOTPLUG_SAVEAS_STOPPED", Busy, None),
        (69, "BACKUP", Busy, None),
        (70, "BACKUP_POWEROFF", Busy, None),
        (71, "RESTORE", Busy, None),
    ];

    #[test]
    fn every_state_has_its_activity_and_boots_only_where_it_should() {
        for (number, name, expected) in STATES {
            // the life-cycle state counts in ACTIVE only; oned leaves old numbers in it
            for leftover in 0..72 {
                let vm = vm(number, leftover);
                assert_eq!((vm.state_name().as_str(), activity(&vm)), (name, expected), "{number}");
                assert_eq!((boot_kind(&vm), is_running(&vm)), (None, false), "{name}");
            }
        }
        for (number, name, expected, boot) in LCM_STATES {
            let vm = vm(ACTIVE, number);
            assert_eq!((vm.state_name().as_str(), activity(&vm)), (name, expected), "{number}");
            assert_eq!(boot_kind(&vm), boot, "{name}");
            assert_eq!(is_running(&vm), name == "RUNNING");
        }
    }

    #[test]
    fn the_tables_are_complete_and_what_is_unknown_counts_as_active() {
        for number in -2..100 {
            if !LCM_STATES.iter().any(|known| known.0 == number) {
                assert_eq!(
                    LcmState::from(number),
                    LcmState::Other(number),
                    "LCM_STATE {number} is in no table"
                );
                assert_eq!(activity(&vm(ACTIVE, number)), Holding, "LCM_STATE {number}");
            }
            if number != ACTIVE && !STATES.iter().any(|known| known.0 == number) {
                assert_eq!(VmState::from(number), VmState::Unknown(number), "STATE {number} is in no table");
                assert_eq!(activity(&vm(number, 0)), Busy, "STATE {number}");
            }
        }
    }

    /// oned makes a VM ACTIVE before it calls the gate: so of two boots at the same time at least one sees the other.
    #[test]
    fn a_vm_that_boots_is_active_for_the_other_site() {
        let booting = LCM_STATES.iter().filter(|state| state.3.is_some());
        assert!(booting.clone().count() > 10);
        assert!(booting.clone().all(|state| state.2 == Holding));
    }

    /// The same by oned's own names, so that a row that was changed by mistake is noticed.
    #[test]
    fn names_agree_with_the_tables() {
        for (_, name, activity, boot) in LCM_STATES {
            let has = |word: &str| name.split('_').any(|part| part == word);
            let failed = has("FAILURE");
            // oned deploys or restores a domain in each of these, after `context`
            assert!(!has("BOOT") || failed || boot.is_some(), "{name}");
            assert!(!failed || boot.is_none(), "{name}: a retry leaves the failure first");
            // memory that was saved, or is being loaded, belongs to the disk as it is
            if ["SAVE", "STOP", "STOPPED", "SUSPEND", "SUSPENDED", "RESUME"].into_iter().any(has) {
                assert!(activity >= Busy, "{name}");
                assert_ne!(boot, Some(Cold), "{name}");
            }
            // the domain lives, may live, or its disks are worked on
            let worked_on = ["HOTPLUG", "DISK", "BACKUP", "RESTORE", "RUNNING"].into_iter().any(has);
            if worked_on || name == "MIGRATE" || name == "UNKNOWN" {
                assert!(activity >= Busy && boot.is_none(), "{name}");
            }
            // only a boot that failed before any memory was loaded leaves the disks to others
            if activity == Inactive {
                assert!(failed && (has("BOOT") || has("PROLOG")), "{name}");
            }
            // on the way out the domain may still write: to wait for, never to pass by
            if activity == LettingGo {
                assert!(["SHUTDOWN", "EPILOG", "CLEANUP"].into_iter().any(has) && !failed, "{name}");
            }
        }
    }

    /// A driver gives disks up in the states of EPILOG, CLEANUP and, for a disk that is detached, HOTPLUG.
    #[test]
    fn a_vm_whose_disks_are_being_given_up_does_not_keep_them() {
        for (_, name, activity, boot) in LCM_STATES {
            let keeps = activity.keeps_disks();
            let lives = matches!(name, "RUNNING" | "UNKNOWN" | "CLEANUP_RESUBMIT");
            assert_eq!(keeps, boot.is_some() || lives, "{name}");
        }
        for (number, name, activity) in STATES {
            let keeps = matches!(name, "PENDING" | "SUSPENDED" | "STOPPED");
            assert_eq!(activity.keeps_disks(), keeps, "{name}");
            assert_eq!(runs_again(&vm(number, 3)), keeps || name == "HOLD", "{name}");
        }
    }

    /// Also every state that is not known.
    #[test]
    fn a_domain_may_live_unless_its_end_is_known() {
        for number in -2..99 {
            let expected = match VmState::from(number) {
                VmState::Pending | VmState::Active | VmState::Cloning | VmState::Unknown(_) => {
                    Domain::MayLive
                }
                _ => Domain::Gone,
            };
            assert_eq!(domain(&vm(number, 0)), expected, "{number}");
        }
        for (number, name, ..) in LCM_STATES {
            let expected = match name {
                name if name.contains("UNKNOWN") && name != "BOOT_UNKNOWN" => Domain::Lost,
                name if name.ends_with("_FAILURE") => Domain::Gone,
                _ => Domain::MayLive,
            };
            assert_eq!(domain(&vm(ACTIVE, number)), expected, "{name}");
        }
        assert_eq!(domain(&vm(ACTIVE, 99)), Domain::MayLive);
    }

    #[test]
    fn disks_are_made_by_a_first_start_only() {
        for (number, name, _) in STATES {
            let made = matches!(name, "STOPPED" | "SUSPENDED" | "DONE" | "POWEROFF" | "UNDEPLOYED");
            assert_eq!(has_its_disks(&vm(number, 0)), made, "{name}");
        }
        for (number, name, ..) in LCM_STATES {
            let unmade = matches!(name, "LCM_INIT" | "PROLOG" | "PROLOG_FAILURE" | "CLEANUP_RESUBMIT");
            assert_eq!(has_its_disks(&vm(ACTIVE, number)), !unmade, "{name}");
        }
    }

    #[test]
    fn saved_memory_is_known_before_the_boot() {
        for (number, name, _) in STATES {
            let expected = if matches!(name, "SUSPENDED" | "STOPPED") { Restore } else { Cold };
            assert_eq!(next_boot(&vm(number, 0)), expected, "{name}");
        }
        for (number, name, _, boot) in LCM_STATES {
            assert_eq!(next_boot(&vm(ACTIVE, number)), boot.unwrap_or(Cold), "{name}");
        }
    }
}
