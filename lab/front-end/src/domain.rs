//! A domain is a writer process: it really writes to the VM's RBD images.
//!
//! It outlives the front-end, as a domain outlives oned, and is known by its pid file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::front_end::lock;
use crate::log;
use crate::process;
use crate::store::{History, Machine};
use crate::template::Vector;
use crate::transfer::is_volatile;

/// How long a domain may take to open its disks; a lock of a crashed predecessor holds it for 30 s.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long a shutdown may take before the domain is killed, as a stubborn guest would be.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The same for `virsh destroy`.
const DESTROY_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// How domains are run.
#[derive(Clone, Debug)]
pub struct Hypervisor {
    /// `ONE_LOCATION`.
    pub location: PathBuf,
    /// The writer script.
    pub writer: PathBuf,
    /// Records per second and disk.
    pub rate: f64,
    /// VMs whose domain is being started: a driver that was told twice starts it once.
    pub starting: Arc<Mutex<BTreeSet<i64>>>,
}

/// A VM in [`Hypervisor::starting`].
struct Starting<'a>(&'a Mutex<BTreeSet<i64>>, i64);

impl<'a> Starting<'a> {
    fn begin(all: &'a Mutex<BTreeSet<i64>>, vm: i64) -> Option<Self> {
        let first = lock(all).insert(vm);
        first.then(|| Self(all, vm))
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        lock(self.0).remove(&self.1);
    }
}

/// The pool, namespace and image of a disk on Ceph; nothing for other disks.
pub fn rbd_image(vm: i64, disk: &Vector) -> Option<String> {
    let id = disk.get("DISK_ID").unwrap_or("0");
    if disk.get("TM_MAD").is_some_and(|driver| driver != "ceph") {
        return None;
    }
    let on_rbd = disk.get("DISK_TYPE") == Some("RBD");
    if is_volatile(disk) {
        // else the pool of etc/datastore/ceph/ceph.conf
        let pool = disk.get("POOL_NAME").or(on_rbd.then_some("one"))?;
        return Some(format!("{pool}/one-sys-{vm}-{id}"));
    }
    if !on_rbd {
        return None;
    }
    let source = disk.get("SOURCE")?;
    let cloned = disk.get("CLONE").is_some_and(|clone| clone.eq_ignore_ascii_case("yes"));
    Some(if cloned { format!("{source}-{vm}-{id}") } else { source.to_owned() })
}

/// The disks on Ceph, as the writer is told of them.
fn disks(machine: &Machine) -> Vec<serde_json::Value> {
    machine
        .template
        .vectors("DISK")
        .filter_map(|disk| {
            Some(json!({
                "disk": crate::disks::number(disk, "DISK_ID"),
                "image": rbd_image(machine.id, disk)?,
                "conf": disk.get("CEPH_CONF"),
                "user": disk.get("CEPH_USER"),
            }))
        })
        .collect()
}

/// Command words that run something where Ceph is: `ONEMIRROR_LAB_RUN` (for example `chroot PATH`), then the words.
pub fn in_ceph(words: &[&str]) -> Command {
    let prefix = std::env::var("ONEMIRROR_LAB_RUN").unwrap_or_default();
    let mut all: Vec<&str> = prefix.split_whitespace().collect();
    all.extend(words);
    let mut command = Command::new(all[0]);
    command.args(&all[1..]);
    command
}

impl Hypervisor {
    fn file(&self, vm: i64, name: &str) -> PathBuf {
        log::vm_directory(&self.location, vm).join(name)
    }

    /// Starts the domain and waits until it writes; its name, or the reason why it does not run.
    pub async fn start(&self, machine: &Machine, record: &History) -> Result<String, String> {
        let vm = machine.id;
        let Some(_starting) = Starting::begin(&self.starting, vm).filter(|_| self.pid(vm).is_none()) else {
            return Err(format!("Error: Domain one-{vm} is already running"));
        };
        for stale in ["domain.ready", "domain.error", "domain.pid"] {
            let _ = std::fs::remove_file(self.file(vm, stale));
        }
        let has_ended = self
            .launch(machine, record)
            .map_err(|error| format!("Error: cannot start the domain: {error}"))?;
        self.wait_until_it_writes(machine, has_ended).await
    }

    /// What the writer is told of the VM.
    fn deployment(&self, machine: &Machine, record: &History) -> serde_json::Value {
        let vm = machine.id;
        json!({
            "vm": vm,
            "name": machine.name,
            "uuid": machine.uuid(),
            "rate": self.rate,
            "disks": disks(machine),
            "directory": log::vm_directory(&self.location, vm),
            "locks": self.location.join("var/domain-locks"),
            "reload_file": self.file(vm, "domain.reload"),
            "reloaded_file": self.file(vm, "domain.reloaded"),
            "pid_file": self.file(vm, "domain.pid"),
            "ready_file": self.file(vm, "domain.ready"),
            "error_file": self.file(vm, "domain.error"),
            "run": format!("{}.{}", record.seq, jiff::Timestamp::now().as_millisecond()),
        })
    }

    /// Starts the writer; what comes back tells when it has ended.
    fn launch(&self, machine: &Machine, record: &History) -> std::io::Result<oneshot::Receiver<()>> {
        let vm = machine.id;
        let deployment = self.file(vm, &format!("deployment.{}", record.seq));
        let text = self.deployment(machine, record);
        std::fs::create_dir_all(self.location.join("var/domain-locks"))?;
        std::fs::write(&deployment, text.to_string())?;
        let output =
            std::fs::OpenOptions::new().create(true).append(true).open(self.file(vm, "domain.log"))?;
        let mut command = in_ceph(&[
            "/usr/bin/python3",
            &self.writer.display().to_string(),
            &deployment.display().to_string(),
        ]);
        process::environment(&mut command, &self.location);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn()?;
        let (ended, has_ended) = oneshot::channel();
        tokio::spawn(async move {
            let _ = child.wait().await; // reaps it, whenever that is
            let _ = ended.send(());
        });
        Ok(has_ended)
    }

    /// The domain's name, or the reason why it does not run; one that is too slow is killed.
    async fn wait_until_it_writes(
        &self,
        machine: &Machine,
        mut has_ended: oneshot::Receiver<()>,
    ) -> Result<String, String> {
        let vm = machine.id;
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if self.file(vm, "domain.ready").exists() {
                return Ok(machine.uuid().to_owned());
            }
            if has_ended.try_recv().is_ok() {
                let reason = std::fs::read_to_string(self.file(vm, "domain.error")).unwrap_or_default();
                let reason = reason.trim();
                return Err(if reason.is_empty() {
                    format!("Error: Domain one-{vm} ended while starting")
                } else {
                    format!("Error: {reason}")
                });
            }
            if tokio::time::Instant::now() > deadline {
                self.kill(vm).await;
                return Err(format!("Error: Domain one-{vm} did not open its disks in time"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Tells a running domain which disks it has now, and waits until it uses them; the reason if it cannot.
    ///
    /// Stands for `virsh attach-device` and `detach-disk`, and lets the domain see a new size.
    pub async fn reload(&self, machine: &Machine) -> Result<(), String> {
        let vm = machine.id;
        let failed = |error: String| format!("Error: Domain one-{vm}: {error}");
        let pid = self.pid(vm).ok_or_else(|| failed("is not running".to_owned()))?;
        let generation = jiff::Timestamp::now().as_microsecond();
        let wanted = json!({ "generation": generation, "disks": disks(machine) });
        std::fs::write(self.file(vm, "domain.reload"), wanted.to_string())
            .map_err(|error| failed(error.to_string()))?;
        rustix::process::kill_process(pid, Signal::USR1).map_err(|error| failed(error.to_string()))?;
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        while self.pid(vm).is_some() && tokio::time::Instant::now() < deadline {
            let told = std::fs::read(self.file(vm, "domain.reloaded")).unwrap_or_default();
            let told: serde_json::Value = serde_json::from_slice(&told).unwrap_or_default();
            if told["generation"] == json!(generation) {
                return told["error"].as_str().map_or(Ok(()), |error| Err(failed(error.to_owned())));
            }
            tokio::time::sleep(POLL).await;
        }
        Err(failed("did not take over its disks".to_owned()))
    }

    /// What qemu does for `virsh blockresize` (src/vmm_mad/remotes/kvm/resize_disk): resizes the image itself.
    pub async fn resize(&self, machine: &Machine, disk: i64, size: &str) -> Result<(), String> {
        let Some(vector) = crate::disks::disk(machine, disk) else { return Ok(()) };
        let Some(image) = rbd_image(machine.id, vector) else { return Ok(()) };
        let mut words = vec!["rbd", "resize", "--no-progress", "--size", size, &image];
        for (option, name) in [("--conf", "CEPH_CONF"), ("--id", "CEPH_USER")] {
            words.extend(vector.get(name).map(|value| [option, value]).into_iter().flatten());
        }
        let output = in_ceph(&words).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(START_LIMIT, output).await;
        match output {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("Error: {}", said.trim().lines().last().unwrap_or_default()))
            }
            Ok(Err(error)) => Err(format!("Error: {error}")),
            Err(_) => Err(format!("Error: {image} could not be resized in time")),
        }
    }

    /// Ends the domain, killing it if it takes too long; nothing to do if there is none.
    ///
    /// Hard or not, the disks are closed: `virsh destroy` lets qemu do that as well, it only does not ask the guest.
    pub async fn stop(&self, vm: i64, hard: bool) {
        let Some(pid) = self.pid(vm) else { return };
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        let limit = if hard { DESTROY_LIMIT } else { STOP_LIMIT };
        let deadline = tokio::time::Instant::now() + limit;
        while tokio::time::Instant::now() < deadline {
            if self.pid(vm).is_none() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        self.kill(vm).await;
    }

    /// Ends the domain without a word: a crash.
    pub async fn kill(&self, vm: i64) {
        while let Some(pid) = self.pid(vm) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether the domain lives and has opened its disks.
    pub fn runs(&self, vm: i64) -> bool {
        self.pid(vm).is_some() && self.file(vm, "domain.ready").exists()
    }

    /// The process of the domain, if it lives.
    pub fn pid(&self, vm: i64) -> Option<Pid> {
        let number: i32 = std::fs::read_to_string(self.file(vm, "domain.pid")).ok()?.trim().parse().ok()?;
        // a number may have come to another process; ours has the deployment file on its command line
        let arguments = std::fs::read(Path::new("/proc").join(number.to_string()).join("cmdline")).ok()?;
        let mark = format!("{}/deployment.", log::vm_directory(&self.location, vm).display());
        String::from_utf8_lossy(&arguments).contains(&mark).then(|| Pid::from_raw(number)).flatten()
    }

    /// What a suspended VM leaves behind: its memory, here a word.
    pub fn checkpoint(&self, vm: i64) -> std::io::Result<()> {
        std::fs::write(self.file(vm, "checkpoint"), "memory of the domain\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    #[test]
    fn images_are_named_as_in_the_facts() {
        let name = |text: &str| {
            let template = Template::parse(text).unwrap();
            let disk = template.vectors("DISK").next().unwrap();
            rbd_image(2, disk)
        };
        assert_eq!(
            name("DISK=[DISK_ID=0,IMAGE_ID=7,DISK_TYPE=RBD,SOURCE=\"one/one-7\",CLONE=NO]").unwrap(),
            "one/one-7"
        );
        assert_eq!(
            name("DISK=[DISK_ID=1,IMAGE_ID=0,DISK_TYPE=RBD,SOURCE=\"one/one-0\",CLONE=YES]").unwrap(),
            "one/one-0-2-1"
        );
        assert_eq!(name("DISK=[DISK_ID=3,TYPE=fs,POOL_NAME=one]").unwrap(), "one/one-sys-2-3");
        assert_eq!(
            name("DISK=[DISK_ID=0,IMAGE_ID=7,DISK_TYPE=FILE,TM_MAD=shared,SOURCE=\"/x\",CLONE=NO]"),
            None
        );
    }

    fn hypervisor(writer: &str) -> (tempfile::TempDir, Hypervisor, Machine) {
        let location = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(location.path().join("var/vms/2")).unwrap();
        let path = location.path().join("writer");
        std::fs::write(&path, writer).unwrap();
        let mut vm = crate::lifecycle::tests::machine();
        vm.template = Template::parse("OS=[UUID=\"abc\"]").unwrap();
        let hypervisor = Hypervisor {
            location: location.path().to_owned(),
            writer: path,
            rate: 20.0,
            starting: Arc::default(),
        };
        (location, hypervisor, vm)
    }

    fn record() -> History {
        History {
            seq: 0,
            hostname: "hosta".into(),
            host_id: 0,
            tm_mad: "ceph".into(),
            datastore_id: 100,
            stime: 0,
            etime: 0,
            pstime: 0,
            petime: 0,
            rstime: 0,
            retime: 0,
            estime: 0,
            eetime: 0,
            action: crate::states::Action::None,
            uid: -1,
            gid: -1,
            request_id: -1,
        }
    }

    const OBEDIENT: &str = "import json, os, signal, sys, time\nd = json.load(open(sys.argv[1]))\nopen(d['pid_file'], 'w').write(str(os.getpid()))\nopen(d['ready_file'], 'w').close()\nsignal.pause()\n";

    #[tokio::test]
    async fn a_domain_is_started_found_and_stopped() {
        let (_location, hypervisor, vm) = hypervisor(OBEDIENT);
        let record = record();
        let (first, second) = tokio::join!(hypervisor.start(&vm, &record), hypervisor.start(&vm, &record));
        assert_eq!(first.as_deref(), Ok("abc"));
        assert!(second.unwrap_err().contains("already running"));
        assert!(hypervisor.pid(2).is_some());
        assert!(hypervisor.start(&vm, &record).await.unwrap_err().contains("already running"));
        hypervisor.stop(2, false).await;
        assert!(hypervisor.pid(2).is_none());
    }

    #[tokio::test]
    async fn a_domain_that_cannot_start_says_why() {
        let (_location, hypervisor, vm) = hypervisor(
            "import json, sys\nd = json.load(open(sys.argv[1]))\nopen(d['error_file'], 'w').write('image one/x is read-only')\nsys.exit(1)\n",
        );
        assert_eq!(hypervisor.start(&vm, &record()).await, Err("Error: image one/x is read-only".to_owned()));
    }

    #[test]
    fn another_process_with_the_number_is_not_the_domain() {
        let (_location, hypervisor, _) = hypervisor("");
        std::fs::write(hypervisor.file(2, "domain.pid"), std::process::id().to_string()).unwrap();
        assert!(hypervisor.pid(2).is_none());
    }
}
