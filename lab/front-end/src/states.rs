//! OpenNebula's states and actions with their numbers and names.

use serde::{Deserialize, Serialize};

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $code:literal $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[allow(missing_docs)] // the names are OpenNebula's
        pub enum $name { $($variant),* }

        #[allow(dead_code)] // not every kind needs every way
        impl $name {
            /// The number in documents.
            pub fn code(self) -> i64 {
                match self { $(Self::$variant => $code),* }
            }
            /// The name in messages and hook definitions.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
            /// The value of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// State of a VM (`STATE`).
    VmState {
        Init = 0 "INIT", Pending = 1 "PENDING", Hold = 2 "HOLD", Active = 3 "ACTIVE", Stopped = 4 "STOPPED",
        Suspended = 5 "SUSPENDED", Done = 6 "DONE", Poweroff = 8 "POWEROFF", Undeployed = 9 "UNDEPLOYED",
        Cloning = 10 "CLONING", CloningFailure = 11 "CLONING_FAILURE",
    }
}

numbered! {
    /// What an ACTIVE VM is doing (`LCM_STATE`).
    LcmState {
        LcmInit = 0 "LCM_INIT", Prolog = 1 "PROLOG", Boot = 2 "BOOT", Running = 3 "RUNNING",
        Migrate = 4 "MIGRATE", SaveStop = 5 "SAVE_STOP", SaveSuspend = 6 "SAVE_SUSPEND",
        SaveMigrate = 7 "SAVE_MIGRATE", PrologMigrate = 8 "PROLOG_MIGRATE", PrologResume = 9 "PROLOG_RESUME",
        EpilogStop = 10 "EPILOG_STOP", Epilog = 11 "EPILOG", Shutdown = 12 "SHUTDOWN",
        CleanupResubmit = 15 "CLEANUP_RESUBMIT", Unknown = 16 "UNKNOWN", Hotplug = 17 "HOTPLUG",
        ShutdownPoweroff = 18 "SHUTDOWN_POWEROFF", BootUnknown = 19 "BOOT_UNKNOWN",
        BootPoweroff = 20 "BOOT_POWEROFF", BootSuspended = 21 "BOOT_SUSPENDED", BootStopped = 22 "BOOT_STOPPED",
        CleanupDelete = 23 "CLEANUP_DELETE", HotplugSaveas = 26 "HOTPLUG_SAVEAS",
        HotplugSaveasPoweroff = 27 "HOTPLUG_SAVEAS_POWEROFF",
        HotplugSaveasSuspended = 28 "HOTPLUG_SAVEAS_SUSPENDED", ShutdownUndeploy = 29 "SHUTDOWN_UNDEPLOY",
        EpilogUndeploy = 30 "EPILOG_UNDEPLOY", PrologUndeploy = 31 "PROLOG_UNDEPLOY",
        BootUndeploy = 32 "BOOT_UNDEPLOY", HotplugPrologPoweroff = 33 "HOTPLUG_PROLOG_POWEROFF",
        HotplugEpilogPoweroff = 34 "HOTPLUG_EPILOG_POWEROFF", BootMigrate = 35 "BOOT_MIGRATE", BootFailure = 36 "BOOT_FAILURE",
        BootMigrateFailure = 37 "BOOT_MIGRATE_FAILURE", PrologMigrateFailure = 38 "PROLOG_MIGRATE_FAILURE",
        PrologFailure = 39 "PROLOG_FAILURE", EpilogFailure = 40 "EPILOG_FAILURE",
        EpilogStopFailure = 41 "EPILOG_STOP_FAILURE", EpilogUndeployFailure = 42 "EPILOG_UNDEPLOY_FAILURE",
        BootUndeployFailure = 47 "BOOT_UNDEPLOY_FAILURE", BootStoppedFailure = 48 "BOOT_STOPPED_FAILURE",
        PrologResumeFailure = 49 "PROLOG_RESUME_FAILURE", PrologUndeployFailure = 50 "PROLOG_UNDEPLOY_FAILURE",
        DiskSnapshotPoweroff = 51 "DISK_SNAPSHOT_POWEROFF",
        DiskSnapshotRevertPoweroff = 52 "DISK_SNAPSHOT_REVERT_POWEROFF",
        DiskSnapshotDeletePoweroff = 53 "DISK_SNAPSHOT_DELETE_POWEROFF",
        DiskSnapshotSuspended = 54 "DISK_SNAPSHOT_SUSPENDED",
        DiskSnapshotDeleteSuspended = 56 "DISK_SNAPSHOT_DELETE_SUSPENDED", DiskSnapshot = 57 "DISK_SNAPSHOT",
        DiskSnapshotDelete = 59 "DISK_SNAPSHOT_DELETE", DiskResize = 62 "DISK_RESIZE",
        DiskResizePoweroff = 63 "DISK_RESIZE_POWEROFF", DiskResizeUndeployed = 64 "DISK_RESIZE_UNDEPLOYED",
        Backup = 69 "BACKUP", BackupPoweroff = 70 "BACKUP_POWEROFF", Restore = 71 "RESTORE",
    }
}

numbered! {
    /// State of an image (`STATE`).
    ImageState {
        Init = 0 "INIT", Ready = 1 "READY", Used = 2 "USED", Disabled = 3 "DISABLED", Locked = 4 "LOCKED",
        Error = 5 "ERROR", Clone = 6 "CLONE", Delete = 7 "DELETE", UsedPers = 8 "USED_PERS",
        LockedUsed = 9 "LOCKED_USED", LockedUsedPers = 10 "LOCKED_USED_PERS",
    }
}

numbered! {
    /// State of a host (`STATE`).
    HostState {
        Init = 0 "INIT", Monitored = 2 "MONITORED", Error = 3 "ERROR", Disabled = 4 "DISABLED", Offline = 8 "OFFLINE",
    }
}

numbered! {
    /// What was asked of a VM (`HISTORY/ACTION`); the names are those of `one.vm.action`.
    Action {
        None = 0 "none", LiveMigrate = 2 "live-migrate", Undeploy = 5 "undeploy", UndeployHard = 6 "undeploy-hard", Hold = 7 "hold",
        Release = 8 "release", Stop = 9 "stop", Suspend = 10 "suspend", Resume = 11 "resume",
        Delete = 13 "delete", DeleteRecreate = 14 "delete-recreate", Reboot = 15 "reboot",
        RebootHard = 16 "reboot-hard", Resched = 17 "resched", Unresched = 18 "unresched",
        Poweroff = 19 "poweroff", PoweroffHard = 20 "poweroff-hard", DiskAttach = 21 "disk-attach",
        DiskDetach = 22 "disk-detach", DiskSnapshotCreate = 25 "disk-snapshot-create",
        DiskSnapshotDelete = 26 "disk-snapshot-delete", Terminate = 27 "terminate",
        TerminateHard = 28 "terminate-hard", DiskResize = 29 "disk-resize",
        DiskSnapshotRevert = 41 "disk-snapshot-revert", Monitor = 44 "monitor", Backup = 50 "backup",
        Restore = 60 "restore",
    }
}

/// What is wanted of `one.vm.recover`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// 0: take the pending operation for failed.
    Failure,
    /// 1: take it for done.
    Success,
    /// 2: do it again, the whole script.
    Retry,
    /// 3: drop the VM, its disks and its directory.
    Delete,
    /// 4: drop the disks and start from PENDING.
    DeleteRecreate,
    /// 5: forget the VM without touching the host.
    DeleteDatabase,
}

impl Recovery {
    /// By the number in the call.
    pub fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            0 => Self::Failure,
            1 => Self::Success,
            2 => Self::Retry,
            3 => Self::Delete,
            4 => Self::DeleteRecreate,
            5 => Self::DeleteDatabase,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_virtual_machine_h() {
        assert_eq!(VmState::Poweroff.code(), 8);
        assert_eq!(LcmState::BootPoweroff.code(), 20);
        assert_eq!(LcmState::PrologUndeployFailure.code(), 50);
        assert_eq!(LcmState::from_name("EPILOG_FAILURE"), Some(LcmState::EpilogFailure));
        assert_eq!(Action::from_name("terminate-hard"), Some(Action::TerminateHard));
    }
}
