//! Holds the records and the drivers together: what the life cycle asks for is done here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::control::{Control, Request};
use crate::disks;
use crate::documents::{self, Detail};
use crate::domain::Hypervisor;
use crate::hooks::{self, StateEvent};
use crate::lifecycle::{self, Cleaner, Event, Placement, Surroundings, Transfer, Work};
use crate::log::{self, Severity};
use crate::states::{HostState, ImageState, Recovery, VmState};
use crate::store::{self, Datastore, Host, Machine, Records};
use crate::template::Vector;
use crate::transfer::{self, Places};

/// How many scripts one_tm, and how many operations one_vmm_exec, run at a time.
const DRIVER_THREADS: usize = 15;

/// How a front-end is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `ONE_LOCATION`: `bin`, `etc` and `var` are below it.
    pub location: PathBuf,
    /// Host name of the front-end, as it stands in scripts.
    pub name: String,
    /// The script that stands for a domain.
    pub writer: PathBuf,
    /// Records per second and disk.
    pub rate: f64,
    /// Time between two looks at the domains.
    pub monitor_interval: Duration,
    /// How long after the start the hosts report first; until then everything is as it was.
    pub first_monitoring: Duration,
    /// How long a domain has to be gone, or to run, before its VM's state follows.
    pub settle_delay: Duration,
}

/// Why an event did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPossible {
    /// No such VM.
    NoExists,
    /// Not now; the reason as oned words it.
    Refused(String),
}

/// One front-end.
pub struct FrontEnd {
    /// How it was started.
    pub settings: Settings,
    /// What clients must send as first argument.
    pub session: String,
    control: Mutex<Control>,
    records: Mutex<Records>,
    odd_since: Mutex<BTreeMap<i64, (Instant, Event)>>,
    /// Hosts that do not report, as a test has it.
    silent_hosts: Mutex<BTreeSet<i64>>,
    hooks: hooks::Runner,
    hypervisor: Hypervisor,
    transfers: Semaphore,
    deployments: Semaphore,
}

impl FrontEnd {
    /// Loads what was stored at that location. The error is a sentence.
    pub fn open(settings: Settings, session: String) -> Result<Arc<Self>, String> {
        let mut records = store::load(&settings.location.join("var/front-end.json"))?;
        for host in records.hosts.iter_mut() {
            // nobody has reported yet
            (host.state, host.prev_state) = (HostState::Init, HostState::Init);
        }
        let hypervisor = Hypervisor {
            location: settings.location.clone(),
            writer: settings.writer.clone(),
            rate: settings.rate,
            starting: Arc::default(),
        };
        Ok(Arc::new(Self {
            hooks: hooks::Runner::new(&settings.location),
            settings,
            session,
            control: Mutex::default(),
            records: Mutex::new(records),
            odd_since: Mutex::default(),
            silent_hosts: Mutex::default(),
            hypervisor,
            transfers: Semaphore::new(DRIVER_THREADS),
            deployments: Semaphore::new(DRIVER_THREADS),
        }))
    }

    /// The settings that tests make.
    pub fn control(&self) -> Control {
        *lock(&self.control)
    }

    /// Does what a test asks for. `Stop` does not return.
    pub async fn obey(&self, request: Request) {
        lock(&self.control).set(request);
        match request {
            Request::Stop => std::process::exit(137),
            Request::DomainCrash(vm) => self.hypervisor.kill(vm).await,
            Request::HostSilent(host) => drop(lock(&self.silent_hosts).insert(host)),
            Request::HostHeard(host) => drop(lock(&self.silent_hosts).remove(&host)),
            Request::Forget => self.forget().await,
            _ => {}
        }
    }

    async fn forget(&self) {
        let machines = self.change(|records, _| {
            records.images.clear();
            records.machines.clear()
        });
        // one that is killed leaves a watcher on its image, which nobody can remove for half a minute then
        let mut ends = tokio::task::JoinSet::new();
        for vm in machines {
            let hypervisor = self.hypervisor.clone();
            ends.spawn(async move { hypervisor.stop(vm, true).await });
        }
        ends.join_all().await;
    }

    /// Names for scripts.
    pub fn places(&self) -> Places {
        let var = self.settings.location.join("var");
        Places {
            front_end: self.settings.name.clone(),
            datastores: format!("{}//datastores", var.display()),
            vms: format!("{}/vms", var.display()),
        }
    }

    /// Looks at the records.
    pub fn read<R>(&self, look: impl FnOnce(&Records) -> R) -> R {
        look(&lock(&self.records))
    }

    /// Changes the records, stores them, then sends the events.
    pub fn change<R>(&self, change: impl FnOnce(&mut Records, &mut Vec<StateEvent>) -> R) -> R {
        let mut events = Vec::new();
        let mut records = lock(&self.records);
        let result = change(&mut records, &mut events);
        if let Err(error) = store::save(&self.settings.location.join("var/front-end.json"), &records) {
            tracing::error!("cannot store the records, so this is the end: {error}");
            std::process::exit(1);
        }
        let delivery = self.control().hooks;
        for event in &events {
            for (_, hook) in records.hooks.iter().filter(|(_, hook)| hooks::waits_for(hook, event)) {
                self.hooks.deliver(hook, event, delivery);
            }
        }
        result
    }

    /// Takes a VM through an event and sees to what has to be done then.
    pub fn happen(self: &Arc<Self>, vm: i64, event: Event) -> Result<(), NotPossible> {
        if let Event::Recover(recovery @ (Recovery::Failure | Recovery::Success)) = event
            && self.read(|records| records.machines.get(vm).is_some_and(|vm| vm.operation.is_some()))
        {
            let success = recovery == Recovery::Success;
            return disks::end(self, vm, if success { Ok(()) } else { Err(String::new()) });
        }
        let work = self.change(|records, events| self.step(records, events, vm, event))?;
        self.start(vm, work);
        Ok(())
    }

    /// Takes a VM through an event, within a change; what has to be done then.
    pub fn step(
        &self,
        records: &mut Records,
        events: &mut Vec<StateEvent>,
        vm: i64,
        event: Event,
    ) -> Result<Vec<Work>, NotPossible> {
        tracing::info!("VM {vm}: {event:?}");
        records.requests += 1;
        let request = records.requests;
        let machine = records.machines.get_mut(vm).ok_or(NotPossible::NoExists)?;
        self.log_event(vm, &event);
        let was_done = machine.state == VmState::Done;
        let mut commit = |machine: &mut Machine| self.commit(machine, events);
        let mut around = Surroundings { now: log::now(), date: log::date(), request, commit: &mut commit };
        let work = lifecycle::apply(machine, event, &mut around).map_err(NotPossible::Refused)?;
        if machine.state == VmState::Done && !was_done {
            let machine = machine.clone();
            release_images(records, &machine);
        }
        Ok(work)
    }

    /// Sets the drivers to work.
    pub fn start(self: &Arc<Self>, vm: i64, work: Vec<Work>) {
        for work in work {
            let front_end = Arc::clone(self);
            tokio::spawn(async move { front_end.work(vm, work).await });
        }
    }

    /// What runs the domains.
    pub fn hypervisor(&self) -> &Hypervisor {
        &self.hypervisor
    }

    /// Called wherever oned stores a VM: a state that differs from the stored one is an event.
    pub fn commit(&self, machine: &mut Machine, events: &mut Vec<StateEvent>) {
        if !machine.has_changed_state() {
            return;
        }
        let location = &self.settings.location;
        if machine.state != machine.prev_state {
            let text = format!("New state is {}", machine.state.name());
            log::vm(location, machine.id, "VM", Severity::Info, &text);
        }
        if machine.lcm_state != machine.prev_lcm_state {
            let text = format!("New LCM state is {}", machine.lcm_state.name());
            log::vm(location, machine.id, "VM", Severity::Info, &text);
        }
        events.push(StateEvent {
            key: hooks::vm_key(machine.state, machine.lcm_state),
            object: machine.id,
            document: documents::machine(machine, Detail::Hook).pretty(),
        });
        (machine.prev_state, machine.prev_lcm_state) = (machine.state, machine.lcm_state);
    }

    fn log_event(&self, vm: i64, event: &Event) {
        let location = &self.settings.location;
        match event {
            Event::Transferred(Err(reason)) if !reason.starts_with('-') => {
                let text = format!("Error executing image transfer script: {reason}");
                log::vm(location, vm, "TrM", Severity::Error, &text);
            }
            Event::Ended(Err(reason)) => {
                log::vm(location, vm, "VMM", Severity::Error, reason);
            }
            Event::Transferred(Err(_)) => {
                log::vm(location, vm, "TrM", Severity::Error, "Error executing image transfer script");
            }
            Event::Booted(Err(reason)) => {
                log::vm(location, vm, "VMM", Severity::Error, &format!("DEPLOY: {reason}"));
            }
            Event::MonitoredOff => {
                let text = "VM running but monitor state is POWEROFF";
                log::vm(location, vm, "LCM", Severity::Info, text);
            }
            _ => {}
        }
    }

    async fn work(self: Arc<Self>, vm: i64, work: Work) {
        let event = match work {
            Work::Schedule => {
                self.schedule();
                return;
            }
            Work::Transfer(transfer) => Event::Transferred(self.transfer(vm, transfer).await),
            Work::Boot | Work::Restore => Event::Booted(self.boot(vm).await),
            Work::Shutdown { hard } => {
                self.hypervisor.stop(vm, hard).await;
                Event::ShutDown
            }
            Work::Save => {
                self.hypervisor.stop(vm, false).await;
                if let Err(error) = self.hypervisor.checkpoint(vm) {
                    tracing::warn!("VM {vm}: {error}");
                }
                Event::Saved
            }
            Work::Clean(cleaner) => {
                let _ = self.clean(vm, cleaner).await;
                return; // the VM is gone, whatever came of it
            }
            Work::CleanAndReport(cleaner) => Event::Transferred(self.clean(vm, cleaner).await),
            Work::Operate => {
                let result = disks::carry_out(&self, vm).await;
                if let Err(error) = disks::end(&self, vm, result) {
                    tracing::warn!("VM {vm}: {error:?}");
                }
                return;
            }
        };
        if let Err(error) = self.happen(vm, event) {
            tracing::warn!("VM {vm}: {error:?}");
        }
    }

    async fn clean(&self, vm: i64, cleaner: Cleaner) -> Result<(), String> {
        self.hypervisor.stop(vm, true).await;
        if cleaner == Cleaner::Transfer {
            return self.transfer(vm, Transfer::Delete).await;
        }
        let machine = self.machine(vm)?;
        let script = transfer::script(&machine, Transfer::Delete, &self.places())?;
        transfer::run_all(&script, self.lines_of(vm, "VMM")).await;
        Ok(())
    }

    fn lines_of<'a>(&'a self, vm: i64, module: &'a str) -> transfer::Place<'a> {
        transfer::Place { location: &self.settings.location, vm, module }
    }

    /// A VM as it is now; the error is a sentence.
    pub fn machine(&self, vm: i64) -> Result<Machine, String> {
        self.read(|records| records.machines.get(vm).cloned())
            .ok_or_else(|| format!("VM {vm} does not exist"))
    }

    async fn transfer(&self, vm: i64, what: Transfer) -> Result<(), String> {
        let _slot = self.transfers.acquire().await.map_err(|error| error.to_string())?;
        let machine = self.machine(vm)?;
        let text = transfer::script(&machine, what, &self.places())?;
        let seq = machine.history.last().map_or(0, |record| record.seq);
        let file = log::vm_directory(&self.settings.location, vm)
            .join(format!("transfer.{seq}.{}", transfer::suffix(what)));
        std::fs::write(&file, &text).map_err(|_| format!("could not open file: {}", file.display()))?;
        transfer::run(&text, self.lines_of(vm, "TrM")).await
    }

    async fn boot(&self, vm: i64) -> Result<String, String> {
        let _slot = self.deployments.acquire().await.map_err(|error| error.to_string())?;
        let machine = self.machine(vm)?;
        let record = machine.history.last().ok_or_else(|| format!("VM {vm} has no history"))?;
        let location = &self.settings.location;
        match transfer::context_line(&machine, &self.places()) {
            None => log::vm(location, vm, "VM", Severity::Info, "Virtual Machine has no context"),
            Some(line) => {
                let file = log::vm_directory(location, vm).join("context.sh");
                std::fs::write(&file, context(&machine))
                    .map_err(|_| format!("could not open file: {}", file.display()))?;
                let result = transfer::run(&line, self.lines_of(vm, "VMM")).await;
                let how = if result.is_ok() { "Successfully execute" } else { "Failed to execute" };
                let text = format!("{how} transfer manager driver operation: tm_context.");
                log::vm(location, vm, "VMM", Severity::Info, &text);
                result?;
            }
        }
        self.hypervisor.start(&machine, record).await
    }

    /// Puts every PENDING VM on a host at once, if there is one that reported.
    pub fn schedule(self: &Arc<Self>) {
        let placements: Vec<(i64, Placement)> = self.read(|records| {
            records
                .machines
                .iter()
                .filter(|(_, machine)| machine.state == VmState::Pending)
                .filter_map(|(id, machine)| Some((id, placement(records, machine, None, None)?)))
                .collect()
        });
        for (vm, placement) in placements {
            let placed = self.place(vm, placement);
            tracing::debug!("VM {vm}: {placed:?}");
        }
    }

    /// Deploys a VM that waits for it (`one.vm.deploy` and the scheduler).
    pub fn place(self: &Arc<Self>, vm: i64, placement: Placement) -> Result<(), NotPossible> {
        let ready = self.change(|records, _| {
            let machine = records.machines.get_mut(vm).ok_or(NotPossible::NoExists)?;
            let waits = matches!(
                machine.state,
                VmState::Pending | VmState::Hold | VmState::Stopped | VmState::Undeployed
            );
            if !waits {
                let state = machine.state_name();
                return Err(NotPossible::Refused(format!("Could not deploy VM {vm}, wrong state {state}.")));
            }
            // volatile disks get the attributes of the datastore they will live on
            let Some(datastore) = records.datastores.get(placement.datastore_id) else { return Ok(()) };
            for disk in machine.template.vectors_mut("DISK").filter(|disk| transfer::is_volatile(disk)) {
                inherit(disk, datastore);
            }
            Ok(())
        });
        ready?;
        self.happen(vm, Event::Placed(placement))
    }

    /// Looks at hosts and domains for ever.
    pub async fn monitor(self: Arc<Self>) {
        tokio::time::sleep(self.settings.first_monitoring).await;
        let mut ticks = tokio::time::interval(self.settings.monitor_interval);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    fn look(self: &Arc<Self>) {
        let now = log::now();
        let silent = lock(&self.silent_hosts).clone();
        for host in lock(&self.records).hosts.iter_mut().filter(|host| !silent.contains(&host.id)) {
            host.monitored = now;
        }
        self.look_at_hosts(&silent);
        let mut settled = Vec::new();
        {
            let mut records = lock(&self.records);
            let mut odd_since = lock(&self.odd_since);
            let heard = |machine: &Machine| {
                machine.history.last().is_none_or(|record| !silent.contains(&record.host_id))
            };
            for machine in records.machines.iter_mut().filter(|machine| heard(machine)) {
                let runs = self.hypervisor.runs(machine.id);
                if runs && lifecycle::is_here(machine) {
                    machine.last_poll = now;
                }
                let Some(event) = lifecycle::monitored(machine, runs) else {
                    odd_since.remove(&machine.id);
                    continue;
                };
                let (since, _) = odd_since
                    .entry(machine.id)
                    .and_modify(|(since, seen)| {
                        if *seen != event {
                            (*since, *seen) = (Instant::now(), event.clone());
                        }
                    })
                    .or_insert_with(|| (Instant::now(), event.clone()));
                if since.elapsed() >= self.settings.settle_delay {
                    settled.push((machine.id, event));
                }
            }
        }
        for (vm, event) in settled {
            let _ = self.happen(vm, event);
        }
        self.schedule();
    }

    /// Hosts that report are MONITORED; one that stops is in ERROR, and its VMs are UNKNOWN
    /// (`_host_state` in src/im/InformationManager.cc).
    fn look_at_hosts(self: &Arc<Self>, silent: &BTreeSet<i64>) {
        let next = |host: &Host| match (host.state, silent.contains(&host.id)) {
            (HostState::Init | HostState::Error, false) => Some(HostState::Monitored),
            (HostState::Monitored, true) => Some(HostState::Error),
            _ => None,
        };
        let changes: Vec<(i64, HostState)> = self
            .read(|records| records.hosts.iter().filter_map(|(id, host)| Some((id, next(host)?))).collect());
        for (id, state) in changes {
            let lost: Vec<i64> = self.change(|records, events| {
                let Some(host) = records.hosts.get_mut(id) else { return vec![] };
                host.state = state;
                let host = host.clone();
                events.push(StateEvent {
                    key: hooks::host_key(state),
                    object: id,
                    document: documents::host(records, &host).pretty(),
                });
                if let Some(stored) = records.hosts.get_mut(id) {
                    stored.prev_state = state;
                }
                let there =
                    |machine: &Machine| machine.history.last().is_some_and(|record| record.host_id == id);
                let all = records.machines.iter().filter(|(_, machine)| there(machine));
                all.map(|(vm, _)| vm).filter(|_| state == HostState::Error).collect()
            });
            for vm in lost {
                let _ = self.happen(vm, Event::HostLost);
            }
        }
    }
}

/// A place for a VM: that host and datastore if given, else the first that fits.
pub fn placement(
    records: &Records,
    machine: &Machine,
    host: Option<i64>,
    datastore: Option<i64>,
) -> Option<Placement> {
    let host = match host {
        Some(id) => records.hosts.get(id)?,
        None => records.hosts.iter().map(|(_, host)| host).find(|host| host.state == HostState::Monitored)?,
    };
    let wanted = datastore.or_else(|| {
        // SCHED_DS_REQUIREMENTS="ID=100" is all that is understood
        let requirement = machine.user_template.get("SCHED_DS_REQUIREMENTS")?;
        let number = requirement.trim().strip_prefix("ID")?.trim_start().strip_prefix('=')?;
        number.trim().trim_matches('"').parse().ok()
    });
    let driver = machine.template.vectors("DISK").find_map(|disk| disk.get("TM_MAD"));
    let systems = || records.datastores.iter().map(|(_, found)| found).filter(|found| found.is_system());
    let datastore = match wanted {
        Some(id) => systems().find(|found| found.id == id)?,
        None => systems()
            .find(|found| driver.is_none_or(|driver| found.tm_mad() == driver))
            .or(systems().next())?,
    };
    Some(Placement {
        host_id: host.id,
        hostname: host.name.clone(),
        datastore_id: datastore.id,
        tm_mad: datastore.tm_mad().to_owned(),
    })
}

/// A volatile disk gets the attributes of the system datastore.
pub fn inherit(disk: &mut Vector, datastore: &Datastore) {
    for name in crate::methods::INHERITED {
        if let Some(value) = datastore.template.get(name) {
            disk.set_default(name, value);
        }
    }
    disk.set_default("DRIVER", "raw");
    disk.set_default("FORMAT", "raw");
}

/// Gives a VM's images back; oned does it before the VM is DONE.
fn release_images(records: &mut Records, machine: &Machine) {
    for disk in machine.template.vectors("DISK") {
        if let Some(id) = disks::number(disk, "IMAGE_ID") {
            release_image(records, id, machine.id);
        }
    }
}

/// Gives one image back (`ImageManager::release_image`).
pub fn release_image(records: &mut Records, id: i64, vm: i64) {
    let Some(image) = records.images.get_mut(id) else { return };
    image.vms.retain(|user| *user != vm);
    if image.persistent {
        image.modtime = log::now();
    }
    if image.vms.is_empty() && image.clones.is_empty() {
        match image.state {
            ImageState::Used | ImageState::UsedPers => image.set_state(ImageState::Ready),
            ImageState::LockedUsed | ImageState::LockedUsedPers => image.set_state(ImageState::Locked),
            _ => {}
        }
    }
}

/// The CONTEXT section as shell variables.
fn context(machine: &Machine) -> String {
    let mut text = String::from("# Context variables generated by OpenNebula\n");
    for section in machine.template.vectors("CONTEXT") {
        for (name, value) in section.iter() {
            text.push_str(&format!("{name}='{}'\n", value.replace('\'', "'\\''")));
        }
    }
    text
}

/// A lock that a panic elsewhere does not make useless.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the folders of a `ONE_LOCATION`, with the drivers in `remotes` if there are none yet.
pub fn lay_out(location: &Path, remotes: Option<&Path>) -> std::io::Result<()> {
    for folder in ["bin", "etc", "var/vms", "var/datastores", "var/.one"] {
        std::fs::create_dir_all(location.join(folder))?;
    }
    if let Some(remotes) = remotes
        && !location.join("var/remotes/tm").exists()
    {
        copy_tree(remotes, &location.join("var/remotes"))?;
    }
    for folder in ["var/remotes/tm", "var/remotes/hooks"] {
        std::fs::create_dir_all(location.join(folder))?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name() == "__pycache__" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?; // keeps the mode
        }
    }
    Ok(())
}
