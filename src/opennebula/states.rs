//! The states of VMs, hosts and datastores, by oned's numbers and names.

use std::fmt;

macro_rules! states {
    ($(#[$doc:meta])* $name:ident, $other:ident, $first:ident, { $($variant:ident = $number:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`, ", stringify!($number), ".")] $variant,)*
            /// A number that OpenNebula 7.4 has no state for.
            $other(i32),
        }

        impl From<i32> for $name {
            fn from(number: i32) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::$other(other),
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$first
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.pad($text),)*
                    Self::$other(number) => f.pad(&format!("state {number}")),
                }
            }
        }
    };
}

states! {
    /// The state of a VM (`STATE`), as in `VirtualMachine.h` of 7.4.
    VmState, Unknown, Init, {
        Init = 0 "INIT",
        Pending = 1 "PENDING",
        Hold = 2 "HOLD",
        Active = 3 "ACTIVE",
        Stopped = 4 "STOPPED",
        Suspended = 5 "SUSPENDED",
        Done = 6 "DONE",
        Poweroff = 8 "POWEROFF",
        Undeployed = 9 "UNDEPLOYED",
        Cloning = 10 "CLONING",
        CloningFailure = 11 "CLONING_FAILURE",
    }
}

states! {
    /// The life-cycle state of a VM (`LCM_STATE`), which counts while the VM is [`VmState::Active`].
    LcmState, Other, LcmInit, {
        LcmInit = 0 "LCM_INIT",
        Prolog = 1 "PROLOG",
        Boot = 2 "BOOT",
        Running = 3 "RUNNING",
        Migrate = 4 "MIGRATE",
        SaveStop = 5 "SAVE_STOP",
        SaveSuspend = 6 "SAVE_SUSPEND",
        SaveMigrate = 7 "SAVE_MIGRATE",
        PrologMigrate = 8 "PROLOG_MIGRATE",
        PrologResume = 9 "PROLOG_RESUME",
        EpilogStop = 10 "EPILOG_STOP",
        Epilog = 11 "EPILOG",
        Shutdown = 12 "SHUTDOWN",
        CleanupResubmit = 15 "CLEANUP_RESUBMIT",
        Unknown = 16 "UNKNOWN",
        Hotplug = 17 "HOTPLUG",
        ShutdownPoweroff = 18 "SHUTDOWN_POWEROFF",
        BootUnknown = 19 "BOOT_UNKNOWN",
        BootPoweroff = 20 "BOOT_POWEROFF",
        BootSuspended = 21 "BOOT_SUSPENDED",
        BootStopped = 22 "BOOT_STOPPED",
        CleanupDelete = 23 "CLEANUP_DELETE",
        HotplugSnapshot = 24 "HOTPLUG_SNAPSHOT",
        HotplugNic = 25 "HOTPLUG_NIC",
        HotplugSaveas = 26 "HOTPLUG_SAVEAS",
        HotplugSaveasPoweroff = 27 "HOTPLUG_SAVEAS_POWEROFF",
        HotplugSaveasSuspended = 28 "HOTPLUG_SAVEAS_SUSPENDED",
        ShutdownUndeploy = 29 "SHUTDOWN_UNDEPLOY",
        EpilogUndeploy = 30 "EPILOG_UNDEPLOY",
        PrologUndeploy = 31 "PROLOG_UNDEPLOY",
        BootUndeploy = 32 "BOOT_UNDEPLOY",
        HotplugPrologPoweroff = 33 "HOTPLUG_PROLOG_POWEROFF",
        HotplugEpilogPoweroff = 34 "HOTPLUG_EPILOG_POWEROFF",
        BootMigrate = 35 "BOOT_MIGRATE",
        BootFailure = 36 "BOOT_FAILURE",
        BootMigrateFailure = 37 "BOOT_MIGRATE_FAILURE",
        PrologMigrateFailure = 38 "PROLOG_MIGRATE_FAILURE",
        PrologFailure = 39 "PROLOG_FAILURE",
        EpilogFailure = 40 "EPILOG_FAILURE",
        EpilogStopFailure = 41 "EPILOG_STOP_FAILURE",
        EpilogUndeployFailure = 42 "EPILOG_UNDEPLOY_FAILURE",
        PrologMigratePoweroff = 43 "PROLOG_MIGRATE_POWEROFF",
        PrologMigratePoweroffFailure = 44 "PROLOG_MIGRATE_POWEROFF_FAILURE",
        PrologMigrateSuspend = 45 "PROLOG_MIGRATE_SUSPEND",
        PrologMigrateSuspendFailure = 46 "PROLOG_MIGRATE_SUSPEND_FAILURE",
        BootUndeployFailure = 47 "BOOT_UNDEPLOY_FAILURE",
        BootStoppedFailure = 48 "BOOT_STOPPED_FAILURE",
        PrologResumeFailure = 49 "PROLOG_RESUME_FAILURE",
        PrologUndeployFailure = 50 "PROLOG_UNDEPLOY_FAILURE",
        DiskSnapshotPoweroff = 51 "DISK_SNAPSHOT_POWEROFF",
        DiskSnapshotRevertPoweroff = 52 "DISK_SNAPSHOT_REVERT_POWEROFF",
        DiskSnapshotDeletePoweroff = 53 "DISK_SNAPSHOT_DELETE_POWEROFF",
        DiskSnapshotSuspended = 54 "DISK_SNAPSHOT_SUSPENDED",
        DiskSnapshotDeleteSuspended = 56 "DISK_SNAPSHOT_DELETE_SUSPENDED",
        DiskSnapshot = 57 "DISK_SNAPSHOT",
        DiskSnapshotDelete = 59 "DISK_SNAPSHOT_DELETE",
        PrologMigrateUnknown = 60 "PROLOG_MIGRATE_UNKNOWN",
        PrologMigrateUnknownFailure = 61 "PROLOG_MIGRATE_UNKNOWN_FAILURE",
        DiskResize = 62 "DISK_RESIZE",
        DiskResizePoweroff = 63 "DISK_RESIZE_POWEROFF",
        DiskResizeUndeployed = 64 "DISK_RESIZE_UNDEPLOYED",
        HotplugNicPoweroff = 65 "HOTPLUG_NIC_POWEROFF",
        HotplugResize = 66 "HOTPLUG_RESIZE",
        HotplugSaveasUndeployed = 67 "HOTPLUG_SAVEAS_UNDEPLOYED",
        HotplugSaveasStopped = 68 "HOTPLUG_SAVEAS_STOPPED",
        Backup = 69 "BACKUP",
        BackupPoweroff = 70 "BACKUP_POWEROFF",
        Restore = 71 "RESTORE",
    }
}

states! {
    /// The state of a datastore (`STATE`).
    DatastoreState, Other, Ready, {
        Ready = 0 "READY",
        Disabled = 1 "DISABLED",
    }
}

states! {
    /// The state of a host (`STATE`); 1 and 5 to 7 are those of releases before 5.12.
    HostState, Other, Init, {
        Init = 0 "INIT",
        MonitoringMonitored = 1 "MONITORING_MONITORED",
        Monitored = 2 "MONITORED",
        Error = 3 "ERROR",
        Disabled = 4 "DISABLED",
        MonitoringError = 5 "MONITORING_ERROR",
        MonitoringInit = 6 "MONITORING_INIT",
        MonitoringDisabled = 7 "MONITORING_DISABLED",
        Offline = 8 "OFFLINE",
    }
}

impl HostState {
    /// Whether a driver may run something there: the host is neither off, in error nor disabled.
    pub fn is_usable(self) -> bool {
        !matches!(
            self,
            Self::Error | Self::Disabled | Self::Offline | Self::MonitoringError | Self::MonitoringDisabled
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_oned() {
        assert_eq!(VmState::from(8).to_string(), "POWEROFF");
        assert_eq!(LcmState::from(3).to_string(), "RUNNING");
        assert_eq!(LcmState::from(16), LcmState::Unknown);
        assert_eq!(LcmState::from(20).to_string(), "BOOT_POWEROFF");
        assert_eq!(LcmState::from(50).to_string(), "PROLOG_UNDEPLOY_FAILURE");
        assert_eq!(LcmState::from(71).to_string(), "RESTORE");
        // Numbers that 7.4 has given up are not mistaken for a neighbour.
        assert_eq!(VmState::from(7), VmState::Unknown(7));
        assert_eq!(LcmState::from(55), LcmState::Other(55));
        assert_eq!(LcmState::from(58), LcmState::Other(58));
        assert_eq!(format!("{:<8}|", VmState::Done), "DONE    |");
    }

    #[test]
    fn hosts_that_are_off_or_in_error_are_not_usable() {
        let usable: Vec<i32> = (0..9).filter(|n| HostState::from(*n).is_usable()).collect();
        assert_eq!(usable, [0, 1, 2, 6]);
    }
}
