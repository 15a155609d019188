//! The arguments of transfer manager actions, as `one_tm` passes them.

use crate::text::{cut, printable};
use std::ffi::OsString;

/// A transfer manager action that onemirror stands in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TmAction {
    /// `ln FRONTEND:SOURCE HOST:DIR/disk.N VMID DSID`: a persistent image becomes a disk.
    Ln,
    /// `clone`, with the arguments of `ln`: a non-persistent one.
    Clone,
    /// `context FILE… HOST:DIR/disk.N VMID DSID`: comes before every boot.
    Context,
    /// `mvds HOST:DIR/disk.N SOURCE VMID DSID`: a persistent disk goes back.
    Mvds,
    /// `delete HOST:DIR/disk.N VMID DSID`: any other disk goes.
    DeleteDisk,
    /// `delete HOST:DIR VMID DSID`: the VM's directory goes.
    DeleteDirectory,
    /// `mkimage SIZE FORMAT HOST:DIR/disk.N VMID DSID` and `mkswap SIZE HOST:DIR/disk.N VMID DSID`: a volatile disk.
    MakeVolatile,
    /// `snap_create`, `snap_delete`: `HOST:DIR/disk.N SNAPID VMID DSID`; `resize HOST:DIR/disk.N SIZE VMID DSID`: a change
    /// of the image.
    Change,
    /// `snap_revert`, with the arguments of `snap_create`; `restore HOST:DIR VMID IMAGEID INCREMENT DISK`: another image
    /// takes the place of the disk's, or of all disks'.
    Replace,
}

/// A call of the transfer manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmCall {
    /// What is asked.
    pub action: TmAction,
    /// The VM.
    pub vm: i32,
    /// The disk, of an action on one disk.
    pub disk: Option<i32>,
}

/// The arguments are not those of the action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("arguments of {action} not understood: {detail}")]
pub struct UnknownCall {
    action: String,
    detail: String,
}

/// The number behind the last `disk.` of a path such as `host:/var/lib/one//datastores/100/7/disk.0`.
fn disk_of(path: &str) -> Option<i32> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    number(name.strip_prefix("disk.")?)
}

/// An id as oned writes it.
fn number(text: &str) -> Option<i32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Reads a call. `action` may have a suffix: `one_tm` appends `.<TM_MAD_SYSTEM>`.
pub fn parse(action: &str, arguments: &[OsString]) -> Result<TmCall, UnknownCall> {
    let unknown = |detail: &str| UnknownCall { action: printable(cut(action, 60)), detail: detail.into() };
    let texts: Option<Vec<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    let texts = texts.ok_or_else(|| unknown("not UTF-8"))?;
    let name = action.split('.').next().unwrap_or_default();
    if name == "restore" {
        return restore(&texts).ok_or_else(|| unknown("not those of a restore"));
    }
    let [before @ .., vm, datastore] = &texts[..] else { return Err(unknown("too few")) };
    let vm = number(vm).ok_or_else(|| unknown("the VM's id is not a number"))?;
    number(datastore).ok_or_else(|| unknown("the datastore's id is not a number"))?;
    let disk = |path: Option<&&str>| {
        path.and_then(|path| disk_of(path)).ok_or_else(|| unknown("no disk.N where it is expected"))
    };
    let (action, disk) = match (name, before) {
        ("ln", [_, _]) => (TmAction::Ln, Some(disk(before.get(1))?)),
        ("clone", [_, _]) => (TmAction::Clone, Some(disk(before.get(1))?)),
        ("context", [.., _]) => (TmAction::Context, None),
        ("mvds", [_, _]) => (TmAction::Mvds, Some(disk(before.first())?)),
        ("delete", [path]) => match disk_of(path) {
            Some(disk) => (TmAction::DeleteDisk, Some(disk)),
            // what the stock action would take for a disk
            None if path.contains("/disk.") => return Err(unknown("a disk without a number")),
            None => (TmAction::DeleteDirectory, None),
        },
        ("mkimage", [_, _, path]) | ("mkswap", [_, path]) => {
            (TmAction::MakeVolatile, Some(disk(Some(path))?))
        }
        ("snap_create" | "snap_delete" | "resize", [path, _]) => (TmAction::Change, Some(disk(Some(path))?)),
        ("snap_revert", [path, _]) => (TmAction::Replace, Some(disk(Some(path))?)),
        _ => return Err(unknown("not an action of onemirror, or another number of arguments")),
    };
    Ok(TmCall { action, vm, disk })
}

/// `HOST:DIR VMID IMAGEID INCREMENT DISK`, where -1 means all disks.
fn restore(arguments: &[&str]) -> Option<TmCall> {
    let [_, vm, image, _, disk] = arguments else { return None };
    number(image)?;
    let disk = if *disk == "-1" { None } else { Some(number(disk)?) };
    Some(TmCall { action: TmAction::Replace, vm: number(vm)?, disk })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<TmCall, UnknownCall> {
        let mut words = line.split(' ');
        let action = words.next().unwrap();
        parse(action, &words.map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn reads_the_calls_that_a_real_front_end_made() {
        let calls: Vec<TmCall> = include_str!("../../../tests/fixtures/opennebula/tm-calls.txt")
            .lines()
            .map(|line| {
                let (head, arguments) = line.split_once(" argv: ").unwrap();
                read(&format!("{} {arguments}", head.rsplit(' ').next().unwrap())).unwrap()
            })
            .collect();
        let context = TmCall { action: TmAction::Context, vm: 2, disk: None };
        assert_eq!(
            calls,
            [
                context,
                context,
                TmCall { action: TmAction::Ln, vm: 0, disk: Some(0) },
                TmCall { action: TmAction::Context, vm: 0, disk: None },
                TmCall { action: TmAction::Mvds, vm: 0, disk: Some(0) },
                TmCall { action: TmAction::DeleteDirectory, vm: 0, disk: None },
                context,
            ]
        );
    }

    #[test]
    fn reads_suffixed_actions_and_disks() {
        let clone = read("clone.ssh fe:one/one-0 host:/ds/100/7/disk.12 7 1").unwrap();
        assert_eq!(clone, TmCall { action: TmAction::Clone, vm: 7, disk: Some(12) });
        let delete = read("delete.ssh host:/ds/100/7/disk.1 7 1").unwrap();
        assert_eq!(delete, TmCall { action: TmAction::DeleteDisk, vm: 7, disk: Some(1) });
    }

    /// As `TransferManager.cc` of 6.10 to 7.4 writes them.
    #[test]
    fn reads_what_makes_and_changes_disks() {
        let call = |action, disk| TmCall { action, vm: 7, disk };
        for (line, expected) in [
            ("mkimage 64 raw host:/ds/100/7/disk.1 7 100", call(TmAction::MakeVolatile, Some(1))),
            ("mkswap 64 host:/ds/100/7/disk.1 7 100", call(TmAction::MakeVolatile, Some(1))),
            ("snap_create host:/ds/100/7/disk.0 3 7 101", call(TmAction::Change, Some(0))),
            ("snap_delete host:/ds/100/7/disk.0 3 7 101", call(TmAction::Change, Some(0))),
            ("snap_revert.ssh host:/ds/100/7/disk.0 3 7 101", call(TmAction::Replace, Some(0))),
            ("resize.ssh host:/ds/100/7/disk.0 128 7 101", call(TmAction::Change, Some(0))),
            ("restore host:/ds/100/7 7 12 -1 -1", call(TmAction::Replace, None)),
            ("restore host:/ds/100/7 7 12 3 0", call(TmAction::Replace, Some(0))),
        ] {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn every_guarded_action_is_known() {
        use crate::actions::{Driver, ROWS, Treatment};
        for row in ROWS.iter().filter(|row| row.driver == Driver::Transfer) {
            let is_known = [
                "a b:/x/disk.0 7 1",
                "f b:/x/disk.0 7 1",
                "b:/x/disk.0 7 1",
                "b:/x/disk.0 3 7 1",
                "1 b:/x/disk.0 7 1",
                "1 raw b:/x/disk.0 7 1",
                "b:/x 7 1 1 0",
            ]
            .iter()
            .any(|arguments| read(&format!("{} {arguments}", row.name)).is_ok());
            assert_eq!(is_known, row.treatment == Treatment::Guarded, "{}", row.name);
        }
    }

    #[test]
    fn refuses_what_oned_does_not_say() {
        for line in [
            "ln a b",
            "ln fe:one/one-0 host:/x/disk.0 7",
            "ln fe:one/one-0 host:/x/disk.x 7 1",
            "ln fe:one/one-0 host:/x/7 7 1",
            "mvds host:/x/disk.0 one/one-0 -7 1",
            "mvds host:/x/disk.0 one/one-0 7 1 1",
            "context 7 1",
            "delete 7 1",
            "rm host:/x 7 1",
            "delete host:/x/disk.0 99999999999 1",
            "delete host:/x/disk.99999999999 7 1",
            "delete host:/x/disk.0x 7 1",
            "mkimage 1 host:/x/disk.0 7 1",
            "restore host:/x 7 1 0",
            "restore host:/x 7 -1 0 0",
            "restore host:/x 7 1 0 -2",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
