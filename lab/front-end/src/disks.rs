//! What is done with a VM's disks while it has them: attach, snapshots, resize, copies, backup; and live migration.
//!
//! OpenNebula: src/dm/DispatchManagerActions.cc begins, src/tm/TransferManager.cc and src/vmm_mad/exec/one_vmm_exec.rb
//! carry out, src/lcm/LifeCycleStates.cc ends. A VM that is RUNNING is worked on by the hypervisor's driver, which
//! calls the same actions; all others by the transfer driver.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;

use crate::documents::{self, Detail};
use crate::front_end::{FrontEnd, NotPossible};
use crate::images::{self, DriverAction};
use crate::lifecycle::Event;
use crate::log;
use crate::states::{ImageState, LcmState};
use crate::store::{Image, Machine, Operation, Records};
use crate::template::Vector;
use crate::transfer;

/// Begins what `prepare` has made ready in the records, in one change with the new state.
pub fn begin<T>(
    front_end: &Arc<FrontEnd>,
    vm: i64,
    prepare: impl FnOnce(&mut Records) -> Result<(Operation, T), String>,
) -> Result<T, NotPossible> {
    let (work, result) = front_end.change(|records, events| {
        let before = records.clone();
        let (operation, result) = prepare(records).map_err(NotPossible::Refused)?;
        let work = front_end.step(records, events, vm, Event::Began(operation));
        if work.is_err() {
            *records = before; // a VM in a wrong state leaves nothing behind
        }
        Ok((work?, result))
    })?;
    front_end.start(vm, work);
    Ok(result)
}

/// Ends it: settles in the records what came of it, with the state that follows.
pub fn end(front_end: &Arc<FrontEnd>, vm: i64, result: Result<(), String>) -> Result<(), NotPossible> {
    let work = front_end.change(|records, events| {
        let operation = records.machines.get(vm).ok_or(NotPossible::NoExists)?.operation.clone();
        if let Some(operation) = operation {
            settle(records, vm, &operation, result.is_ok());
        }
        front_end.step(records, events, vm, Event::Ended(result))
    })?;
    front_end.start(vm, work);
    Ok(())
}

/// The disk of that number.
pub fn disk(machine: &Machine, id: i64) -> Option<&Vector> {
    machine.template.vectors("DISK").find(|disk| number(disk, "DISK_ID") == Some(id))
}

fn disk_mut(machine: &mut Machine, id: i64) -> Option<&mut Vector> {
    machine.template.vectors_mut("DISK").find(|disk| number(disk, "DISK_ID") == Some(id))
}

/// A number in a disk's vector.
pub fn number(disk: &Vector, key: &str) -> Option<i64> {
    disk.get(key)?.parse().ok()
}

fn settle(records: &mut Records, vm: i64, operation: &Operation, success: bool) {
    let Some(machine) = records.machines.get_mut(vm) else { return };
    match *operation {
        Operation::Attach { disk: id } if !success => drop_disk(records, vm, id),
        Operation::Detach { disk: id } if success => drop_disk(records, vm, id),
        Operation::Attach { disk: id } | Operation::Detach { disk: id } => {
            if let Some(disk) = disk_mut(machine, id) {
                disk.remove("ATTACH");
            }
        }
        Operation::SnapshotCreate { disk: id, snapshot } if !success => {
            machine.snapshots.entry(id).or_default().delete(snapshot);
            share_snapshots(records, vm, id);
        }
        Operation::SnapshotDelete { disk: id, snapshot } if success => {
            machine.snapshots.entry(id).or_default().delete(snapshot);
            share_snapshots(records, vm, id);
        }
        Operation::SnapshotRevert { disk: id, snapshot } if success => {
            let snapshots = machine.snapshots.entry(id).or_default();
            snapshots.revert(snapshot);
            let size = snapshots.size(snapshot);
            if let (Some(size), Some(disk)) = (size, disk_mut(machine, id)) {
                disk.set("SIZE", size);
            }
            share_snapshots(records, vm, id);
            share_size(records, vm, id);
        }
        Operation::SnapshotCreate { disk, .. } => share_snapshots(records, vm, disk),
        Operation::SnapshotDelete { .. } | Operation::SnapshotRevert { .. } => {}
        Operation::Resize { disk: id, before } => {
            if let Some(disk) = disk_mut(machine, id) {
                disk.remove("RESIZE");
                if !success {
                    disk.set("SIZE", before);
                }
            }
            share_size(records, vm, id);
        }
        Operation::SaveAs { image, .. } => {
            if let Some(image) = records.images.get_mut(image) {
                ["SAVED_DISK_ID", "SAVED_VM_ID"].iter().for_each(|name| drop(image.template.remove(name)));
                match success {
                    true => image.unlock(),
                    false => image.set_state(ImageState::Error),
                }
            }
        }
        Operation::Backup { datastore } if success => keep_backup(records, vm, datastore),
        Operation::Restore { .. } if success => machine.snapshots.clear(),
        Operation::Migrate if !success => drop(machine.history.pop()),
        Operation::Backup { .. } | Operation::Restore { .. } | Operation::Migrate => {}
    }
}

/// A disk that is attached no more, and its image given back (`VirtualMachinePool::delete_attach_disk`).
fn drop_disk(records: &mut Records, vm: i64, id: i64) {
    let Some(machine) = records.machines.get_mut(vm) else { return };
    let image = disk(machine, id).and_then(|disk| number(disk, "IMAGE_ID"));
    machine.template.retain("DISK", |disk| number(disk, "DISK_ID") != Some(id));
    machine.snapshots.remove(&id);
    if let Some(image) = image {
        crate::front_end::release_image(records, image, vm);
    }
}

/// A persistent image has the snapshots of its disk (`ImageManager::set_image_snapshots`).
fn share_snapshots(records: &mut Records, vm: i64, id: i64) {
    let Some((image, machine)) = persistent(records, vm, id) else { return };
    let snapshots = machine.snapshots.get(&id).cloned().unwrap_or_default();
    if let Some(image) = records.images.get_mut(image) {
        image.snapshots = snapshots;
    }
}

/// A persistent image has the size of its disk (`ImageManager::set_image_size`).
fn share_size(records: &mut Records, vm: i64, id: i64) {
    let Some((image, machine)) = persistent(records, vm, id) else { return };
    let size = disk(machine, id).and_then(|disk| number(disk, "SIZE"));
    if let (Some(image), Some(size)) = (records.images.get_mut(image), size) {
        image.size = size;
    }
}

fn persistent(records: &Records, vm: i64, id: i64) -> Option<(i64, &Machine)> {
    let machine = records.machines.get(vm)?;
    let disk = disk(machine, id).filter(|disk| disk.get("PERSISTENT") == Some("YES"))?;
    Some((number(disk, "IMAGE_ID")?, machine))
}

/// `create_backup_image` in src/lcm/LifeCycleStates.cc.
fn keep_backup(records: &mut Records, vm: i64, datastore_id: i64) {
    let now = log::now();
    let mut template = crate::template::Template::default();
    template.set("VM_ID", vm);
    records.images.insert(|id| Image {
        id,
        name: format!("{vm} backup {id}"),
        kind: BACKUP_KIND,
        disk_type: 0,
        persistent: false,
        regtime: now,
        modtime: now,
        source: format!("{vm}.{now}"),
        path: String::new(),
        format: "raw".to_owned(),
        size: 1,
        state: ImageState::Ready,
        prev_state: ImageState::Ready,
        datastore_id,
        vms: vec![],
        cloning_id: None,
        clones: vec![],
        snapshots: Default::default(),
        target_snapshot: None,
        template,
    });
}

/// The number of the image type BACKUP.
const BACKUP_KIND: i64 = 6;

/// Does what the VM's operation asks for; the error is what oned gets as reason.
pub async fn carry_out(front_end: &Arc<FrontEnd>, vm: i64) -> Result<(), String> {
    let machine = front_end.machine(vm)?;
    let Some(operation) = machine.operation.clone() else { return Ok(()) };
    let job = Job { front_end, machine };
    match operation {
        Operation::Attach { disk } => job.attach(disk).await,
        Operation::Detach { disk } => job.detach(disk).await,
        Operation::SnapshotCreate { disk, snapshot } => job.snapshot("SNAP_CREATE", disk, snapshot).await,
        Operation::SnapshotRevert { disk, snapshot } => job.snapshot("SNAP_REVERT", disk, snapshot).await,
        Operation::SnapshotDelete { disk, snapshot } => job.snapshot("SNAP_DELETE", disk, snapshot).await,
        Operation::Resize { disk, .. } => job.resize(disk).await,
        Operation::SaveAs { disk, snapshot, image } => job.save_as(disk, snapshot, image).await,
        Operation::Backup { datastore } => job.backup(datastore).await,
        Operation::Restore { image, disk } => job.restore(image, disk).await,
        Operation::Migrate => job.migrate().await,
    }
}

/// Where a backup of a VM is kept; the lab's own way, one per VM and datastore.
fn backup_directory(front_end: &FrontEnd, vm: i64, datastore: i64) -> PathBuf {
    front_end.settings.location.join("var/datastores").join(format!("{datastore}/backup.{vm}"))
}

struct Job<'a> {
    front_end: &'a Arc<FrontEnd>,
    machine: Machine,
}

impl Job<'_> {
    /// Whether the hypervisor's driver is at work: the domain runs.
    fn live(&self) -> bool {
        matches!(
            self.machine.lcm_state,
            LcmState::Hotplug | LcmState::DiskSnapshot | LcmState::DiskResize | LcmState::Backup
        )
    }

    async fn run(&self, line: &str) -> Result<(), String> {
        self.run_with(line, "").await
    }

    async fn run_with(&self, line: &str, stdin: &str) -> Result<(), String> {
        let module = if self.live() || self.machine.lcm_state == LcmState::Migrate { "VMM" } else { "TrM" };
        let place =
            transfer::Place { location: &self.front_end.settings.location, vm: self.machine.id, module };
        transfer::run_line(line, stdin, place).await
    }

    /// What backup and migration are given on standard input.
    fn document(&self) -> String {
        documents::machine(&self.machine, Detail::Hook).compact()
    }

    /// `attach_disk` in one_vmm_exec.rb, `trigger_prolog_attach` in TransferManager.cc.
    async fn attach(&self, id: i64) -> Result<(), String> {
        let places = self.front_end.places();
        self.run(&transfer::prolog_of(&self.machine, id, &places)?).await?;
        if !self.live() {
            return Ok(());
        }
        let attached = self.front_end.hypervisor().reload(&self.machine).await;
        if attached.is_err() {
            let _ = self.run(&transfer::epilog_of(&self.machine, id, &places)?).await;
        }
        attached
    }

    /// `detach_disk` in one_vmm_exec.rb: the domain has lost the disk also if the transfer driver then refuses.
    async fn detach(&self, id: i64) -> Result<(), String> {
        if self.live() {
            let mut without = self.machine.clone();
            without.template.retain("DISK", |disk| number(disk, "DISK_ID") != Some(id));
            self.front_end.hypervisor().reload(&without).await?;
        }
        self.run(&transfer::epilog_of(&self.machine, id, &self.front_end.places())?).await
    }

    /// `disk_snapshot_create` in one_vmm_exec.rb, which adds `_LIVE`, and `do_snapshot_action` in TransferManager.cc.
    async fn snapshot(&self, action: &str, id: i64, snapshot: i64) -> Result<(), String> {
        let live = if self.live() { "_LIVE" } else { "" };
        let action = format!("{action}{live}");
        self.run(&transfer::disk_line(
            &self.machine,
            &action,
            id,
            &snapshot.to_string(),
            &self.front_end.places(),
        )?)
        .await
    }

    /// `resize_disk` in one_vmm_exec.rb; the action leaves the image of a running VM to its domain.
    async fn resize(&self, id: i64) -> Result<(), String> {
        let size = disk(&self.machine, id).and_then(|disk| disk.get("SIZE")).unwrap_or_default().to_owned();
        let places = self.front_end.places();
        self.run(&transfer::disk_line(&self.machine, "RESIZE", id, &size, &places)?).await?;
        if !self.live() {
            return Ok(());
        }
        let hypervisor = self.front_end.hypervisor();
        hypervisor.resize(&self.machine, id, &size).await?;
        hypervisor.reload(&self.machine).await
    }

    /// `_mkfs` in ImageManagerProtocol.cc, then `trigger_saveas_hot` in TransferManager.cc.
    async fn save_as(&self, id: i64, snapshot: i64, image: i64) -> Result<(), String> {
        let made = images::drive(self.front_end, image, DriverAction::Mkfs).await?;
        let source = made.split_whitespace().next().unwrap_or_default().to_owned();
        self.front_end.change(|records, _| {
            if let Some(image) = records.images.get_mut(image) {
                (image.source, image.format) = (source.clone(), "raw".to_owned());
            }
        });
        let what = format!("{source} {snapshot}");
        self.run(&transfer::disk_line(&self.machine, "CPDS", id, &what, &self.front_end.places())?).await
    }

    /// `backup` in one_vmm_exec.rb; what a backup datastore's driver does is here a move of the files.
    async fn backup(&self, datastore: i64) -> Result<(), String> {
        let live = if self.live() { "_LIVE" } else { "" };
        let places = self.front_end.places();
        let line = |step: &str| transfer::backup_line(&self.machine, &format!("{step}BACKUP{live}"), &places);
        let made = self.run_with(&line("PRE")?, &self.document()).await;
        let kept = made.and_then(|()| self.keep_files(datastore));
        let cleaned = self.run_with(&line("POST")?, &self.document()).await;
        kept.and(cleaned)
    }

    fn keep_files(&self, datastore: i64) -> Result<(), String> {
        let record = self.machine.history.last().ok_or("no history")?;
        let places = self.front_end.places();
        let from = PathBuf::from(places.system_directory(&self.machine, record)).join("backup");
        let to = backup_directory(self.front_end, self.machine.id, datastore);
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir_all(to.parent().unwrap_or(&to))
            .and_then(|()| std::fs::rename(&from, &to))
            .map_err(|error| format!("{}: {error}", to.display()))
    }

    /// `trigger_restore` in TransferManager.cc; the action finds the files by the folder that the lab puts first.
    async fn restore(&self, image: i64, id: i64) -> Result<(), String> {
        let datastore =
            self.front_end.read(|records| records.images.get(image).map(|image| image.datastore_id));
        let datastore = datastore.ok_or_else(|| format!("image {image} does not exist"))?;
        let from = backup_directory(self.front_end, self.machine.id, datastore);
        let link = self.front_end.settings.location.join(format!("var/vms/{}/restore", self.machine.id));
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&from, &link).map_err(|error| format!("{}: {error}", link.display()))?;
        self.run(&transfer::restore_line(&self.machine, image, id, &self.front_end.places())?).await
    }

    /// `migrate` in one_vmm_exec.rb; the domain of the lab has no host, so that it just goes on.
    async fn migrate(&self) -> Result<(), String> {
        let places = self.front_end.places();
        let document = base64::engine::general_purpose::STANDARD.encode(self.document());
        let line = |step: &str| transfer::migrate_line(&self.machine, step, &places);
        if let Err(reason) = self.run_with(&line("PREMIGRATE")?, &document).await {
            let _ = self.run_with(&line("FAILMIGRATE")?, &document).await;
            return Err(reason);
        }
        let _ = self.run_with(&line("POSTMIGRATE")?, &document).await;
        Ok(())
    }
}
