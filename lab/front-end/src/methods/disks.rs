//! `one.vm.attach` and the other methods that do something with a VM's disks, and `one.vm.migrate`.
//!
//! OpenNebula: src/rm/api/VirtualMachineAPI.cc checks, src/dm/DispatchManagerActions.cc begins.

use super::{Arguments, Code, Failure, Outcome, set_up_disk, take_image};
use crate::disks::{self, number};
use crate::front_end::{FrontEnd, NotPossible};
use crate::log;
use crate::states::{Action, ImageState};
use crate::store::{Image, Machine, Operation, Records};
use crate::template::{Attribute, Template, Vector};
use crate::xmlrpc::Value;
use std::sync::Arc;

type Prepared<T> = Result<(Operation, T), String>;

/// Begins an operation; a refusal is answered as it is.
fn begin<T>(
    front_end: &Arc<FrontEnd>,
    vm: i64,
    prepare: impl FnOnce(&mut Records) -> Prepared<T>,
) -> Result<T, Failure> {
    disks::begin(front_end, vm, prepare).map_err(|refusal| match refusal {
        NotPossible::NoExists => super::no_vm(vm),
        NotPossible::Refused(why) => Failure::new(Code::Action, why),
    })
}

fn machine_of(records: &mut Records, vm: i64) -> Result<&mut Machine, String> {
    records.machines.get_mut(vm).ok_or_else(|| format!("VM {vm} does not exist"))
}

fn disk_of(records: &mut Records, vm: i64, disk: i64) -> Result<&mut Vector, String> {
    let machine = machine_of(records, vm)?;
    let found = machine.template.vectors_mut("DISK").find(|vector| number(vector, "DISK_ID") == Some(disk));
    found.ok_or_else(|| "VM disk does not exist".to_owned())
}

/// `one.vm.attach(vm, template)`
pub fn attach(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, template) = (arguments.number(0)?, super::parse(arguments.text(1)?)?);
    begin(front_end, vm, |records| Ok((Operation::Attach { disk: attached(records, vm, &template)? }, ())))?;
    Ok(Value::Number(vm))
}

/// Adds the disk, marked as the one that is being attached.
fn attached(records: &mut Records, vm: i64, template: &Template) -> Result<i64, String> {
    let mut disk = template.vectors("DISK").next().cloned().ok_or("No DISK in template")?;
    let machine = machine_of(records, vm)?;
    let all = machine.template.vectors("DISK").chain(machine.template.vectors("CONTEXT"));
    let id = all.filter_map(|vector| number(vector, "DISK_ID")).max().map_or(0, |last| last + 1);
    let targets: Vec<&str> = machine.template.vectors("DISK").filter_map(|disk| disk.get("TARGET")).collect();
    let target = ('a'..='z').map(|letter| format!("vd{letter}")).find(|name| !targets.contains(&&**name));
    disk.set_default("TARGET", target.unwrap_or_default());
    let system = machine.history.last().map(|record| record.datastore_id);
    let image = set_up_disk(records, &mut disk, id)?;
    if image.is_none()
        && let Some(datastore) = system.and_then(|id| records.datastores.get(id))
    {
        crate::front_end::inherit(&mut disk, datastore);
    }
    disk.set("ATTACH", "YES");
    machine_of(records, vm)?.template.add("DISK", Attribute::Vector(disk));
    if let Some(image) = image {
        take_image(records, image, vm);
        take_snapshots(records, image, vm, id);
    }
    Ok(id)
}

/// A persistent disk begins with the snapshots that its image has.
pub fn take_snapshots(records: &mut Records, image: i64, vm: i64, disk: i64) {
    let Some(snapshots) = records.images.get(image).filter(|image| image.persistent) else { return };
    let snapshots = snapshots.snapshots.clone();
    if let Some(machine) = records.machines.get_mut(vm).filter(|_| !snapshots.is_empty()) {
        machine.snapshots.insert(disk, snapshots);
    }
}

/// `one.vm.detach(vm, disk)`
pub fn detach(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, disk) = (arguments.number(0)?, arguments.number(1)?);
    begin(front_end, vm, |records| {
        disk_of(records, vm, disk)?.set("ATTACH", "YES");
        Ok((Operation::Detach { disk }, ()))
    })?;
    Ok(Value::Number(vm))
}

/// `one.vm.disksnapshotcreate(vm, disk, name)`: the snapshot's number
pub fn snapshot_create(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, disk, name) = (arguments.number(0)?, arguments.number(1)?, arguments.text(2)?.to_owned());
    let snapshot = begin(front_end, vm, |records| {
        let vector = disk_of(records, vm, disk)?;
        if vector.get("IMAGE_ID").is_none() {
            return Err("Cannot make snapshots on volatile disks".to_owned());
        }
        let size = number(vector, "SIZE").unwrap_or(0);
        let snapshots = machine_of(records, vm)?.snapshots.entry(disk).or_default();
        let snapshot = snapshots.create(&name, size, log::now());
        Ok((Operation::SnapshotCreate { disk, snapshot }, snapshot))
    })?;
    Ok(Value::Number(snapshot))
}

/// `one.vm.disksnapshotrevert(vm, disk, snapshot)`
pub fn snapshot_revert(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, disk, snapshot) = (arguments.number(0)?, arguments.number(1)?, arguments.number(2)?);
    begin(front_end, vm, |records| {
        disk_of(records, vm, disk)?;
        let snapshots = machine_of(records, vm)?.snapshots.get(&disk).cloned().unwrap_or_default();
        if !snapshots.has(snapshot) {
            return Err(format!("Disk id ({disk}) or snapshot id ({snapshot}) is not valid."));
        }
        Ok((Operation::SnapshotRevert { disk, snapshot }, ()))
    })?;
    Ok(Value::Number(vm))
}

/// `one.vm.disksnapshotdelete(vm, disk, snapshot)`
pub fn snapshot_delete(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, disk, snapshot) = (arguments.number(0)?, arguments.number(1)?, arguments.number(2)?);
    begin(front_end, vm, |records| {
        disk_of(records, vm, disk)?;
        let snapshots = machine_of(records, vm)?.snapshots.get(&disk).cloned().unwrap_or_default();
        match snapshots.keeps(snapshot) {
            Some(why) => Err(why.to_owned()),
            None => Ok((Operation::SnapshotDelete { disk, snapshot }, ())),
        }
    })?;
    Ok(Value::Number(vm))
}

/// `one.vm.diskresize(vm, disk, size)`: the size is in megabytes, as text.
pub fn resize(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, disk) = (arguments.number(0)?, arguments.number(1)?);
    let size: i64 = arguments
        .text(2)?
        .trim()
        .parse()
        .map_err(|_| Failure::new(Code::Action, "Disk SIZE is not a valid integer"))?;
    begin(front_end, vm, |records| {
        let vector = disk_of(records, vm, disk)?;
        let before = number(vector, "SIZE").unwrap_or(0);
        if size <= before {
            return Err("New disk size has to be greater than current one".to_owned());
        }
        vector.set("SIZE", size);
        vector.set("RESIZE", "YES");
        Ok((Operation::Resize { disk, before }, ()))
    })?;
    Ok(Value::Number(vm))
}

/// `one.vm.disksaveas(vm, disk, name, type, snapshot)`: the new image
pub fn save_as(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, disk, name) = (arguments.number(0)?, arguments.number(1)?, arguments.text(2)?.to_owned());
    let snapshot = arguments.number(4).unwrap_or(-1);
    let image = begin(front_end, vm, |records| {
        let vector = disk_of(records, vm, disk)?;
        let original = number(vector, "IMAGE_ID").ok_or("Cannot use DISK. volatile disks have no image")?;
        let size = number(vector, "SIZE").unwrap_or(0);
        if records.images.iter().any(|(_, image)| image.name == name) {
            return Err(format!("NAME is already taken by IMAGE {name}."));
        }
        let mut copy = records.images.get(original).cloned().ok_or("Cannot use DISK. no image")?;
        (copy.name, copy.size, copy.persistent, copy.format) = (name, size, false, "save_as".to_owned());
        (copy.source, copy.path, copy.vms, copy.clones) = (String::new(), String::new(), vec![], vec![]);
        (copy.regtime, copy.modtime, copy.snapshots) = (log::now(), log::now(), Default::default());
        copy.template.set("SAVED_VM_ID", vm);
        copy.template.set("SAVED_DISK_ID", disk);
        copy.set_state(ImageState::Locked);
        let image = records.images.insert(|id| Image { id, ..copy });
        Ok((Operation::SaveAs { disk, snapshot, image }, image))
    })?;
    Ok(Value::Number(image))
}

/// `one.vm.backup(vm, datastore, reset)`
pub fn backup(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, datastore) = (arguments.number(0)?, arguments.number(1)?);
    begin(front_end, vm, |records| match records.datastores.get(datastore) {
        Some(found) if found.template.get("TYPE") == Some("BACKUP_DS") => {
            Ok((Operation::Backup { datastore }, ()))
        }
        _ => Err("Datastore needs to be of type BACKUP".to_owned()),
    })?;
    Ok(Value::Number(vm))
}

/// `one.vm.restore(vm, image, increment, disk)`
pub fn restore(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, image, disk) = (arguments.number(0)?, arguments.number(1)?, arguments.number(3)?);
    begin(front_end, vm, |_| Ok((Operation::Restore { image, disk }, ())))?;
    Ok(Value::Number(vm))
}

/// `one.vm.migrate(vm, host, live, …)`: only live, which is `LifeCycleManager::trigger_live_migrate`.
pub fn migrate(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, host, live) = (arguments.number(0)?, arguments.number(1)?, arguments.truth(2)?);
    if !live {
        return Err(Failure::new(Code::Action, "the stand-in migrates VMs only while they run"));
    }
    begin(front_end, vm, |records| {
        let host = records.hosts.get(host).ok_or_else(|| format!("host {host} does not exist"))?.clone();
        let request = records.requests;
        let machine = machine_of(records, vm)?;
        let seq = i64::try_from(machine.history.len()).unwrap_or(i64::MAX);
        let last = machine.history.last_mut().ok_or("VM is not running in any host")?;
        if last.host_id == host.id {
            return Err(format!("VM is already running on host [{}]", host.id));
        }
        last.set_action(Action::LiveMigrate, request);
        let mut next = last.successor(seq);
        (next.host_id, next.hostname) = (host.id, host.name);
        (next.stime, next.rstime) = (log::now(), log::now());
        machine.history.push(next);
        Ok((Operation::Migrate, ()))
    })?;
    Ok(Value::Number(vm))
}
