//! Transfer scripts: writing them as oned does, running them as one_tm does.

use std::path::Path;

use crate::lifecycle::Transfer;
use crate::log::{self, Severity};
use crate::process;
use crate::store::{History, Machine};
use crate::template::Vector;

/// Names that stand in a script.
#[derive(Clone, Debug)]
pub struct Places {
    /// The front-end's host name.
    pub front_end: String,
    /// The folder with one folder per system datastore; oned writes `var//datastores`.
    pub datastores: String,
    /// The folder with one folder per VM.
    pub vms: String,
}

impl Places {
    /// The folder of a VM on the host of that record.
    pub fn system_directory(&self, machine: &Machine, record: &History) -> String {
        format!("{}/{}/{}", self.datastores, record.datastore_id, machine.id)
    }
}

/// The ending of the script's file name.
pub fn suffix(transfer: Transfer) -> &'static str {
    match transfer {
        Transfer::Prolog => "prolog",
        Transfer::Resume => "resume",
        Transfer::Stop => "stop",
        Transfer::Epilog { .. } => "epilog",
        Transfer::Delete => "delete",
    }
}

/// Whether a disk has no image behind it.
pub fn is_volatile(disk: &Vector) -> bool {
    let kind = disk.get("TYPE").unwrap_or_default();
    disk.get("IMAGE_ID").is_none() && (kind.eq_ignore_ascii_case("fs") || kind.eq_ignore_ascii_case("swap"))
}

/// The script; the error is a sentence for the VM's log.
pub fn script(machine: &Machine, transfer: Transfer, places: &Places) -> Result<String, String> {
    let record = machine.history.last().ok_or_else(|| format!("prolog, VM {} has no history", machine.id))?;
    let directory = places.system_directory(machine, record);
    let vm = machine.id;
    let disks: Vec<Disk> = machine.template.vectors("DISK").map(|disk| Disk::of(disk, record)).collect();
    let mut lines = String::new();
    let mut line = |text: String| {
        lines.push_str(&text);
        lines.push('\n');
    };
    match transfer {
        Transfer::Prolog => {
            for disk in &disks {
                line(prolog_line(machine, record, disk, &directory, places)?);
            }
        }
        Transfer::Resume => {
            // moved from where the VM was parked, which is the folder of the record before
            let parked = machine.history.iter().rev().nth(1).unwrap_or(record);
            let from = format!("{}:{}", places.front_end, places.system_directory(machine, parked));
            let to = format!("{}:{directory}", record.hostname);
            for disk in &disks {
                let Disk { id, suffix, tm_mad, datastore, .. } = disk;
                line(format!("MV{suffix} {tm_mad} {from}/disk.{id} {to}/disk.{id} {vm} {datastore}"));
            }
            line(format!("MV {} {from} {to} {vm} {}", record.tm_mad, record.datastore_id));
        }
        Transfer::Stop => {
            let from = format!("{}:{directory}", record.hostname);
            let to = format!("{}:{directory}", places.front_end);
            for disk in &disks {
                let Disk { id, suffix, tm_mad, datastore, .. } = disk;
                line(format!("MV{suffix} {tm_mad} {from}/disk.{id} {to}/disk.{id} {vm} {datastore}"));
            }
            line(format!("MV {} {from} {to} {vm} {}", record.tm_mad, record.datastore_id));
        }
        Transfer::Epilog { .. } | Transfer::Delete => {
            let host = if transfer == (Transfer::Epilog { local: true }) {
                &places.front_end
            } else {
                &record.hostname
            };
            for disk in disks {
                let save = disk.save && transfer != Transfer::Delete;
                line(epilog_line(vm, &Disk { save, ..disk }, &format!("{host}:{directory}")));
            }
            line(format!("DELETE {} {host}:{directory} {vm} {}", record.tm_mad, record.datastore_id));
        }
    }
    Ok(lines)
}

struct Disk<'a> {
    vector: &'a Vector,
    id: &'a str,
    /// `.ssh` and the like, or nothing.
    suffix: String,
    tm_mad: &'a str,
    datastore: String,
    source: &'a str,
    save: bool,
}

impl<'a> Disk<'a> {
    fn of(vector: &'a Vector, record: &'a History) -> Self {
        let get = |key| vector.get(key).unwrap_or_default();
        let volatile = is_volatile(vector);
        Self {
            vector,
            id: get("DISK_ID"),
            suffix: vector.get("TM_MAD_SYSTEM").map(|system| format!(".{system}")).unwrap_or_default(),
            tm_mad: if volatile { &record.tm_mad } else { get("TM_MAD") },
            datastore: if volatile {
                record.datastore_id.to_string()
            } else {
                get("DATASTORE_ID").to_owned()
            },
            source: get("SOURCE"),
            save: get("SAVE").eq_ignore_ascii_case("yes"),
        }
    }
}

fn prolog_line(
    machine: &Machine,
    record: &History,
    disk: &Disk,
    directory: &str,
    places: &Places,
) -> Result<String, String> {
    let Disk { vector, id, suffix, tm_mad, datastore, source, .. } = disk;
    let get = |key| vector.get(key).unwrap_or_default();
    let target = format!("{}:{directory}/disk.{id} {} {datastore}", record.hostname, machine.id);
    if is_volatile(vector) {
        let size = get("SIZE");
        return Ok(if get("TYPE").eq_ignore_ascii_case("swap") {
            format!("MKSWAP {tm_mad} {size} {target}")
        } else {
            format!("MKIMAGE {tm_mad} {size} {} {target}", get("FORMAT"))
        });
    }
    if source.is_empty() || tm_mad.is_empty() || datastore.is_empty() || get("CLONE").is_empty() {
        return Err(format!(
            "missing DISK mandatory attributes (SOURCE, TM_MAD, CLONE, DATASTORE_ID) for VM {}, DISK {id}",
            machine.id
        ));
    }
    let action = if get("CLONE").eq_ignore_ascii_case("yes") { "CLONE" } else { "LN" };
    let from =
        if source.contains(':') { (*source).to_owned() } else { format!("{}:{source}", places.front_end) };
    Ok(format!("{action}{suffix} {tm_mad} {from} {target}"))
}

/// The line that brings the CONTEXT disk before every boot, none for a VM without that section.
pub fn context_line(machine: &Machine, places: &Places) -> Option<String> {
    let record = machine.history.last()?;
    let disk = machine.template.vectors("CONTEXT").next()?.get("DISK_ID").unwrap_or("0");
    Some(format!(
        "CONTEXT {} {}/{}/context.sh {}:{}/disk.{disk} {} {}",
        record.tm_mad,
        places.vms,
        machine.id,
        record.hostname,
        places.system_directory(machine, record),
        machine.id,
        record.datastore_id
    ))
}

/// The line that brings one disk.
pub fn prolog_of(machine: &Machine, disk: i64, places: &Places) -> Result<String, String> {
    let (record, vector) = disk_of(machine, disk)?;
    let directory = places.system_directory(machine, record);
    prolog_line(machine, record, &Disk::of(vector, record), &directory, places)
}

/// The line that gives one disk back.
pub fn epilog_of(machine: &Machine, disk: i64, places: &Places) -> Result<String, String> {
    let (record, vector) = disk_of(machine, disk)?;
    let directory = places.system_directory(machine, record);
    Ok(epilog_line(machine.id, &Disk::of(vector, record), &format!("{}:{directory}", record.hostname)))
}

/// `ACTION.suffix driver host:directory/disk.N WHAT vm datastore`: snapshots, sizes, copies.
pub fn disk_line(
    machine: &Machine,
    action: &str,
    disk: i64,
    what: &str,
    places: &Places,
) -> Result<String, String> {
    let (record, vector) = disk_of(machine, disk)?;
    let Disk { suffix, tm_mad, datastore, .. } = Disk::of(vector, record);
    let directory = places.system_directory(machine, record);
    let vm = machine.id;
    Ok(format!(
        "{action}{suffix} {tm_mad} {}:{directory}/disk.{disk} {what} {vm} {datastore}",
        record.hostname
    ))
}

/// `backup_transfer_commands` in src/tm/TransferManager.cc: all disks in one line.
pub fn backup_line(machine: &Machine, action: &str, places: &Places) -> Result<String, String> {
    let record = machine.history.last().ok_or("backup, the VM has no history")?;
    let disks: Vec<&str> = machine.template.vectors("DISK").filter_map(|disk| disk.get("DISK_ID")).collect();
    let directory = places.system_directory(machine, record);
    let History { tm_mad, hostname, datastore_id, .. } = record;
    let (disks, deploy_id, vm) = (disks.join(":"), &machine.deploy_id, machine.id);
    Ok(format!("{action} {tm_mad} {hostname}:{directory} {disks} {deploy_id} - {vm} {datastore_id}"))
}

/// `trigger_restore` in src/tm/TransferManager.cc; the increment is 0.
pub fn restore_line(machine: &Machine, image: i64, disk: i64, places: &Places) -> Result<String, String> {
    let record = machine.history.last().ok_or("restore, the VM has no history")?;
    let directory = places.system_directory(machine, record);
    let History { tm_mad, hostname, .. } = record;
    Ok(format!("RESTORE {tm_mad} {hostname}:{directory} {} {image} 0 {disk}", machine.id))
}

/// `migrate_transfer_command` in src/tm/TransferManager.cc: from the host before to the host of the last record.
pub fn migrate_line(machine: &Machine, action: &str, places: &Places) -> Result<String, String> {
    let [.., before, record] = machine.history.as_slice() else {
        return Err("migrate, the VM has no host before".to_owned());
    };
    let directory = places.system_directory(machine, record);
    let History { tm_mad, hostname, datastore_id, .. } = record;
    Ok(format!("{action} {tm_mad} {} {hostname} {directory} {} {datastore_id}", before.hostname, machine.id))
}

fn disk_of(machine: &Machine, disk: i64) -> Result<(&History, &Vector), String> {
    let record = machine.history.last().ok_or("the VM has no history")?;
    let vector = crate::disks::disk(machine, disk).ok_or_else(|| format!("the VM has no disk {disk}"))?;
    Ok((record, vector))
}

fn epilog_line(vm: i64, disk: &Disk, place: &str) -> String {
    let Disk { id, suffix, tm_mad, datastore, source, save, .. } = disk;
    if *save {
        format!("MVDS{suffix} {tm_mad} {place}/disk.{id} {source} {vm} {datastore}")
    } else {
        format!("DELETE{suffix} {tm_mad} {place}/disk.{id} {vm} {datastore}")
    }
}

/// Where lines are run, for whom, and whose name stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// `ONE_LOCATION`.
    pub location: &'a Path,
    /// The VM.
    pub vm: i64,
    /// `TrM` or `VMM`.
    pub module: &'a str,
}

/// Runs the lines of a script one after the other until one fails; the error is what oned gets as reason.
pub async fn run(text: &str, place: Place<'_>) -> Result<(), String> {
    for line in text.lines() {
        run_line(line, "", place).await?;
    }
    Ok(())
}

/// Runs all lines of a script, whatever becomes of them.
pub async fn run_all(text: &str, place: Place<'_>) {
    for line in text.lines() {
        if let Err(reason) = run_line(line, "", place).await {
            log::vm(place.location, place.vm, place.module, Severity::Error, &reason);
        }
    }
}

/// Runs one line.
pub async fn run_line(line: &str, stdin: &str, place: Place<'_>) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words.is_empty() || words[0].starts_with('#') {
        return Ok(());
    }
    let command = command_line(&words, &place.location.join("var/remotes/tm"))?;
    let outcome = process::run(&command, stdin, place.location, None).await;
    report(&outcome, &command, place)
}

fn command_line(words: &[&str], drivers: &Path) -> Result<String, String> {
    let [action, driver, arguments @ ..] = words else {
        return Err("a transfer line needs an action and a driver".to_owned());
    };
    let action = action.to_lowercase();
    let folder = drivers.join(driver);
    if !folder.is_dir() {
        return Err(format!("Transfer Driver '{driver}' not available"));
    }
    let mut path = folder.join(&action);
    if !path.exists() {
        let Some((short, _)) = action.rsplit_once('.') else {
            return Err(format!("Driver path '{}' does not exists", path.display()));
        };
        let shortened = folder.join(short);
        if !shortened.exists() {
            return Err(format!("Driver path '{}' nor '{}' exists", path.display(), shortened.display()));
        }
        path = shortened;
    }
    let mut command = path.display().to_string();
    for argument in arguments {
        let quoted = shlex::try_quote(argument).map_err(|_| "an argument holds a NUL byte".to_owned())?;
        command.push(' ');
        command.push_str(&quoted);
    }
    Ok(command)
}

fn report(outcome: &process::Outcome, command: &str, place: Place<'_>) -> Result<(), String> {
    let Place { location, vm, module } = place;
    let errors = log::driver_errors(&outcome.stderr);
    for (severity, id, message) in &errors.logged {
        match id {
            Some(id) => log::vm(location, *id, module, *severity, message),
            None => log::oned(location, module, *severity, message),
        }
    }
    if outcome.code == 0 {
        return Ok(());
    }
    let failed = format!("Command execution failed (exit code: {}): {command}", outcome.code);
    log::vm(location, vm, module, Severity::Info, &failed);
    log::driver_output(location, vm, module, &outcome.stderr);
    let reason = errors.reason.trim().to_owned();
    Err(if reason.is_empty() { "-".to_owned() } else { reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::tests::machine;
    use crate::states::Action;
    use crate::template::Template;

    fn places() -> Places {
        Places {
            front_end: "vm".into(),
            datastores: "/var/lib/one//datastores".into(),
            vms: "/var/lib/one/vms".into(),
        }
    }

    fn deployed(disks: &str) -> Machine {
        let mut vm = machine();
        vm.id = 0;
        vm.template = Template::parse(disks).unwrap();
        vm.history.push(History {
            seq: 0,
            hostname: "hostb".into(),
            host_id: 9,
            tm_mad: "ceph".into(),
            datastore_id: 100,
            stime: 1,
            etime: 0,
            pstime: 1,
            petime: 0,
            rstime: 0,
            retime: 0,
            estime: 0,
            eetime: 0,
            action: Action::None,
            uid: -1,
            gid: -1,
            request_id: -1,
        });
        vm
    }

    const PERSISTENT: &str = "DISK=[DISK_ID=0,IMAGE_ID=0,TYPE=RBD,TM_MAD=ceph,DATASTORE_ID=101,SOURCE=\"one/one-0-2-0\",CLONE=NO,SAVE=YES]\nCONTEXT=[DISK_ID=1]";

    #[test]
    fn scripts_are_those_that_oned_wrote() {
        let vm = deployed(PERSISTENT);
        assert_eq!(
            script(&vm, Transfer::Prolog, &places()).unwrap(),
            include_str!("../../../tests/fixtures/opennebula/transfer.0.prolog")
        );
        assert_eq!(
            script(&vm, Transfer::Epilog { local: false }, &places()).unwrap(),
            include_str!("../../../tests/fixtures/opennebula/transfer.0.epilog")
        );
        let calls = include_str!("../../../tests/fixtures/opennebula/tm-calls.txt");
        let context = context_line(&vm, &places()).unwrap();
        assert!(calls.contains(&context.replace("CONTEXT ceph ", "site-b context argv: ")));
    }

    #[test]
    fn every_kind_of_disk_has_its_line() {
        let vm = deployed(
            "DISK=[DISK_ID=0,IMAGE_ID=1,TYPE=RBD,TM_MAD=ceph,TM_MAD_SYSTEM=ssh,DATASTORE_ID=101,SOURCE=\"one/one-1\",CLONE=YES,SAVE=NO]\nDISK=[DISK_ID=1,TYPE=fs,SIZE=10,FORMAT=raw]",
        );
        assert_eq!(
            script(&vm, Transfer::Prolog, &places()).unwrap(),
            "CLONE.ssh ceph vm:one/one-1 hostb:/var/lib/one//datastores/100/0/disk.0 0 101\n\
             MKIMAGE ceph 10 raw hostb:/var/lib/one//datastores/100/0/disk.1 0 100\n"
        );
        assert_eq!(
            script(&vm, Transfer::Stop, &places()).unwrap(),
            "MV.ssh ceph hostb:/var/lib/one//datastores/100/0/disk.0 vm:/var/lib/one//datastores/100/0/disk.0 0 101\n\
             MV ceph hostb:/var/lib/one//datastores/100/0/disk.1 vm:/var/lib/one//datastores/100/0/disk.1 0 100\n\
             MV ceph hostb:/var/lib/one//datastores/100/0 vm:/var/lib/one//datastores/100/0 0 100\n"
        );
        assert_eq!(
            script(&vm, Transfer::Epilog { local: true }, &places()).unwrap(),
            "DELETE.ssh ceph vm:/var/lib/one//datastores/100/0/disk.0 0 101\n\
             DELETE ceph vm:/var/lib/one//datastores/100/0/disk.1 0 100\n\
             DELETE ceph vm:/var/lib/one//datastores/100/0 0 100\n"
        );
        assert_eq!(context_line(&vm, &places()), None);
        let saved = deployed(PERSISTENT);
        assert!(script(&saved, Transfer::Delete, &places()).unwrap().starts_with("DELETE ceph hostb:"));
    }

    #[test]
    fn operations_have_the_lines_of_oned() {
        let mut vm = deployed(PERSISTENT);
        let place = "hostb:/var/lib/one//datastores/100/0";
        assert_eq!(
            epilog_of(&vm, 0, &places()).unwrap(),
            format!("MVDS ceph {place}/disk.0 one/one-0-2-0 0 101")
        );
        assert_eq!(
            disk_line(&vm, "SNAP_CREATE_LIVE", 0, "3", &places()).unwrap(),
            format!("SNAP_CREATE_LIVE ceph {place}/disk.0 3 0 101")
        );
        assert_eq!(restore_line(&vm, 7, -1, &places()).unwrap(), format!("RESTORE ceph {place} 0 7 0 -1"));
        vm.deploy_id = "uuid".into();
        let line = backup_line(&vm, "PREBACKUP_LIVE", &places()).unwrap();
        assert_eq!(line, format!("PREBACKUP_LIVE ceph {place} 0 uuid - 0 100"));
        let before = vm.history[0].clone();
        vm.history.insert(0, History { hostname: "hosta".into(), ..before });
        let line = migrate_line(&vm, "PREMIGRATE", &places()).unwrap();
        assert_eq!(line, "PREMIGRATE ceph hosta hostb /var/lib/one//datastores/100/0 0 100");
        assert!(prolog_of(&vm, 5, &places()).is_err());
    }

    fn drivers(files: &[(&str, &str)]) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let location = tempfile::tempdir().unwrap();
        let folder = location.path().join("var/remotes/tm/ceph");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(location.path().join("var/vms/0")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        location
    }

    #[tokio::test]
    async fn runs_line_by_line_and_stops_at_the_first_failure() {
        let location = drivers(&[
            ("ln", "echo \"$0 $*\" >> calls; cat >> calls"),
            ("mvds", "echo 'ERROR: onemirror: detail' >&2; echo 'image is busy' >&2; exit 4"),
            ("delete", "echo never >> calls"),
        ]);
        let text = "# comment\n\nLN.ssh ceph a b;c\nMVDS ceph x\nDELETE ceph y\n";
        let place = Place { location: location.path(), vm: 0, module: "TrM" };
        assert_eq!(run(text, place).await, Err("image is busy".to_owned()));
        let calls = std::fs::read_to_string(location.path().join("var/calls")).unwrap();
        assert!(calls.ends_with("tm/ceph/ln a b;c\n") && calls.lines().count() == 1, "{calls}");
        let log = std::fs::read_to_string(location.path().join("var/vms/0/vm.log")).unwrap();
        assert!(log.contains("[TrM][I]: Command execution failed (exit code: 4): "), "{log}");
        assert!(log.contains("[TrM][E]: onemirror: detail"), "{log}");
        assert_eq!(run("LN nope a", place).await, Err("Transfer Driver 'nope' not available".to_owned()));
        let reason = run("RESIZE ceph a", place).await.unwrap_err();
        assert!(reason.starts_with("Driver path '") && reason.ends_with("does not exists"), "{reason}");
        run_all(text, place).await;
        let calls = std::fs::read_to_string(location.path().join("var/calls")).unwrap();
        assert!(calls.ends_with("never\n"), "all lines are run: {calls}");
    }
}
