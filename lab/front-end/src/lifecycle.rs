//! The life cycle of a VM: which state an event leads to and what is to be done there. No I/O.

use crate::states::{Action, LcmState, Recovery, VmState};
use crate::store::{History, Machine, Operation};

/// Something that happened to a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `one.vm.action`.
    Asked(Action),
    /// `one.vm.recover`.
    Recover(Recovery),
    /// The scheduler found a host.
    Placed(Placement),
    /// The transfer driver ended a script, with the reason if it failed.
    Transferred(Result<(), String>),
    /// The domain is up, with its name at the hypervisor, or the reason why it is not.
    Booted(Result<String, String>),
    /// The domain was shut down.
    ShutDown,
    /// The domain's memory was saved.
    Saved,
    /// Monitoring found no domain.
    MonitoredOff,
    /// Monitoring found the domain running.
    MonitoredOn,
    /// The VM's host does not report any more.
    HostLost,
    /// Something with its disks begins, and then has ended, with the reason if it failed.
    Began(Operation),
    /// See `Began`.
    Ended(Result<(), String>),
}

/// Where a VM is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The host.
    pub host_id: i64,
    /// Its name.
    pub hostname: String,
    /// The system datastore.
    pub datastore_id: i64,
    /// Its transfer driver.
    pub tm_mad: String,
}

/// Something the drivers must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Look for a host.
    Schedule,
    /// Write a transfer script and run it.
    Transfer(Transfer),
    /// `context`, then start the domain.
    Boot,
    /// `context`, then start the domain from its saved memory.
    Restore,
    /// Stop the domain, at once if `hard`.
    Shutdown {
        /// Not asking the guest.
        hard: bool,
    },
    /// Save the domain's memory and stop it.
    Save,
    /// Kill the domain if there is one and delete what the VM has on the host; nobody waits for it.
    Clean(Cleaner),
    /// The same, but the VM waits for it.
    CleanAndReport(Cleaner),
    /// What the VM's operation asks for.
    Operate,
}

/// Who deletes what a VM has on its host: it makes a difference where something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaner {
    /// The transfer driver runs a script, which ends at the first failure.
    Transfer,
    /// The hypervisor's driver ends the domain and runs `delete` for everything, whatever fails
    /// (`cleanup` in src/vmm_mad/exec/one_vmm_exec.rb: `no_fail`).
    Hypervisor,
}

/// The transfer scripts of oned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Bring the disks: `ln`, `clone`.
    Prolog,
    /// Move disks and directory back to a host.
    Resume,
    /// Move disks and directory to the front-end.
    Stop,
    /// Give the disks back: `mvds`, `delete`; on the front-end if `local`.
    Epilog {
        /// The VM was STOPPED or UNDEPLOYED.
        local: bool,
    },
    /// `delete` for everything.
    Delete,
}

/// What the life cycle needs to know of the world, and whom it tells.
pub struct Surroundings<'a> {
    /// Seconds since 1970.
    pub now: i64,
    /// The same for people.
    pub date: String,
    /// Number of the call that asks.
    pub request: i64,
    /// Called wherever oned stores the VM: a changed state sends its hooks.
    pub commit: &'a mut dyn FnMut(&mut Machine),
}

/// Why an event is not possible now, in oned's words.
pub type Refusal = String;

/// Takes a VM through an event.
pub fn apply(machine: &mut Machine, event: Event, around: &mut Surroundings) -> Result<Vec<Work>, Refusal> {
    Cycle { machine, around }.apply(event)
}

struct Cycle<'a, 'b> {
    machine: &'a mut Machine,
    around: &'a mut Surroundings<'b>,
}

impl Cycle<'_, '_> {
    fn apply(&mut self, event: Event) -> Result<Vec<Work>, Refusal> {
        match event {
            Event::Asked(action) => self.asked(action),
            Event::Recover(recovery) => self.recover(recovery),
            Event::Placed(placement) => Ok(self.placed(placement)),
            Event::Transferred(Ok(())) => Ok(self.transferred()),
            Event::Transferred(Err(reason)) => {
                self.error("Error executing image transfer script", &reason);
                Ok(self.transfer_failed())
            }
            Event::Booted(Ok(deploy_id)) => {
                self.machine.deploy_id = deploy_id;
                Ok(self.booted())
            }
            Event::Booted(Err(reason)) => {
                let restoring =
                    matches!(self.machine.lcm_state, LcmState::BootSuspended | LcmState::BootStopped);
                self.error(if restoring { "RESTORE" } else { "DEPLOY" }, &reason);
                Ok(self.boot_failed())
            }
            Event::ShutDown => Ok(self.shut_down()),
            Event::Saved => Ok(self.saved()),
            Event::MonitoredOff => Ok(self.monitored_off()),
            Event::MonitoredOn => Ok(self.monitored_on()),
            Event::HostLost => {
                // LifeCycleManager::trigger_monitor_done: nothing but RUNNING becomes UNKNOWN
                if (self.machine.state, self.machine.lcm_state) == (VmState::Active, LcmState::Running) {
                    self.set(VmState::Active, LcmState::Unknown);
                }
                Ok(vec![])
            }
            Event::Began(operation) => self.begin(operation),
            Event::Ended(result) => {
                self.end(result);
                Ok(vec![])
            }
        }
    }

    fn asked(&mut self, action: Action) -> Result<Vec<Work>, Refusal> {
        use LcmState::{Running, ShutdownPoweroff, ShutdownUndeploy, Unknown};
        let (state, lcm_state) = (self.machine.state, self.machine.lcm_state);
        let hard = matches!(action, Action::TerminateHard | Action::UndeployHard | Action::PoweroffHard);
        let here = state == VmState::Active && matches!(lcm_state, Running | Unknown);
        let running = state == VmState::Active && lcm_state == Running;
        match action {
            Action::Terminate | Action::TerminateHard => self.terminate(action, hard),
            Action::Poweroff | Action::PoweroffHard if here || (hard && lcm_state == ShutdownPoweroff) => {
                Ok(self.leave(ShutdownPoweroff, action, Work::Shutdown { hard }))
            }
            Action::Undeploy | Action::UndeployHard if here || (hard && lcm_state == ShutdownUndeploy) => {
                Ok(self.leave(ShutdownUndeploy, action, Work::Shutdown { hard }))
            }
            Action::Undeploy | Action::UndeployHard if state == VmState::Poweroff => {
                Ok(self.epilog(LcmState::EpilogUndeploy, Action::Undeploy, Transfer::Stop))
            }
            Action::Stop if running => Ok(self.leave(LcmState::SaveStop, action, Work::Save)),
            Action::Stop if state == VmState::Suspended => {
                Ok(self.epilog(LcmState::EpilogStop, action, Transfer::Stop))
            }
            Action::Suspend if running => Ok(self.leave(LcmState::SaveSuspend, action, Work::Save)),
            Action::Hold if state == VmState::Pending => {
                self.set(VmState::Hold, LcmState::LcmInit);
                Ok(vec![])
            }
            Action::Release if state == VmState::Hold => Ok(self.pending()),
            Action::Resume => self.resume(),
            Action::Reboot | Action::RebootHard if running => Ok(vec![]),
            Action::Resched | Action::Unresched if running => Ok(vec![]),
            _ => Err(self.unavailable()),
        }
    }

    fn terminate(&mut self, action: Action, hard: bool) -> Result<Vec<Work>, Refusal> {
        match self.machine.state {
            VmState::Suspended | VmState::Poweroff => {
                Ok(self.epilog(LcmState::Epilog, Action::Terminate, Transfer::Epilog { local: false }))
            }
            VmState::Stopped | VmState::Undeployed => {
                Ok(self.epilog(LcmState::Epilog, Action::Terminate, Transfer::Epilog { local: true }))
            }
            VmState::Done => Ok(vec![]),
            VmState::Active => match self.machine.lcm_state {
                LcmState::Running | LcmState::Unknown => {
                    Ok(self.leave(LcmState::Shutdown, action, Work::Shutdown { hard }))
                }
                LcmState::Shutdown if hard => {
                    Ok(self.leave(LcmState::Shutdown, action, Work::Shutdown { hard }))
                }
                lcm_state if is_failure(lcm_state) => Ok(self.delete()),
                _ => Err(format!(
                    "Could not terminate VM {}, wrong state {}.",
                    self.machine.id,
                    self.machine.state_name()
                )),
            },
            _ => Ok(self.done()),
        }
    }

    fn resume(&mut self) -> Result<Vec<Work>, Refusal> {
        let boot_state = match (self.machine.state, self.machine.lcm_state) {
            (VmState::Stopped | VmState::Undeployed, _) => return Ok(self.pending()),
            (VmState::Active, LcmState::Unknown) => {
                self.set(VmState::Active, LcmState::BootUnknown);
                return Ok(vec![Work::Boot]);
            }
            (VmState::Suspended, _) => LcmState::BootSuspended,
            (VmState::Poweroff, _) => LcmState::BootPoweroff,
            _ => return Err(self.unavailable()),
        };
        let request = self.around.request;
        self.next_record();
        self.record(|record| record.set_action(Action::Resume, request));
        self.set(VmState::Active, boot_state);
        Ok(vec![if boot_state == LcmState::BootSuspended { Work::Restore } else { Work::Boot }])
    }

    fn placed(&mut self, placement: Placement) -> Vec<Work> {
        let before = self.machine.history.last().map(|record| record.action);
        let (state, transfer) = match before {
            Some(Action::Stop) => (LcmState::PrologResume, Transfer::Resume),
            Some(Action::Undeploy | Action::UndeployHard) => (LcmState::PrologUndeploy, Transfer::Resume),
            _ => (LcmState::Prolog, Transfer::Prolog),
        };
        let now = self.around.now;
        self.machine.history.push(History {
            seq: i64::try_from(self.machine.history.len()).unwrap_or(i64::MAX),
            hostname: placement.hostname,
            host_id: placement.host_id,
            tm_mad: placement.tm_mad,
            datastore_id: placement.datastore_id,
            stime: now,
            etime: 0,
            pstime: now,
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
        self.set(VmState::Active, LcmState::LcmInit); // oned stores this in between, and hooks see it
        self.set(VmState::Active, state);
        vec![Work::Transfer(transfer)]
    }

    fn transferred(&mut self) -> Vec<Work> {
        let now = self.around.now;
        let (state, work) = match self.machine.lcm_state {
            LcmState::Prolog | LcmState::PrologFailure => (LcmState::Boot, Work::Boot),
            LcmState::PrologResume | LcmState::PrologResumeFailure => (LcmState::BootStopped, Work::Restore),
            LcmState::PrologUndeploy | LcmState::PrologUndeployFailure => {
                (LcmState::BootUndeploy, Work::Boot)
            }
            LcmState::Epilog | LcmState::EpilogFailure => return self.done(),
            LcmState::EpilogStop | LcmState::EpilogStopFailure => {
                return self.left(VmState::Stopped, Action::Stop);
            }
            LcmState::EpilogUndeploy | LcmState::EpilogUndeployFailure => {
                return self.left(VmState::Undeployed, Action::Undeploy);
            }
            LcmState::CleanupResubmit => return self.resubmit(),
            _ => return vec![], // oned: "Wrong state in TrM answer"
        };
        self.record(|record| (record.petime, record.rstime) = (now, now));
        self.set(VmState::Active, state);
        vec![work]
    }

    fn transfer_failed(&mut self) -> Vec<Work> {
        let state = match self.machine.lcm_state {
            LcmState::Prolog => LcmState::PrologFailure,
            LcmState::PrologResume => LcmState::PrologResumeFailure,
            LcmState::PrologUndeploy => LcmState::PrologUndeployFailure,
            LcmState::Epilog => LcmState::EpilogFailure,
            LcmState::EpilogStop => LcmState::EpilogStopFailure,
            LcmState::EpilogUndeploy => LcmState::EpilogUndeployFailure,
            LcmState::CleanupResubmit => return self.resubmit(),
            _ => return vec![],
        };
        self.set(VmState::Active, state);
        vec![]
    }

    fn booted(&mut self) -> Vec<Work> {
        if is_booting(self.machine.lcm_state) {
            self.record(|record| {
                record.set_internal_action(Action::None);
                (record.etime, record.retime) = (0, 0);
            });
            self.set(VmState::Active, LcmState::Running);
        }
        vec![]
    }

    fn boot_failed(&mut self) -> Vec<Work> {
        let now = self.around.now;
        let (state, lcm_state) = match self.machine.lcm_state {
            LcmState::Boot => (VmState::Active, LcmState::BootFailure),
            LcmState::BootUnknown => (VmState::Active, LcmState::Unknown),
            LcmState::BootPoweroff => (VmState::Poweroff, LcmState::LcmInit),
            LcmState::BootSuspended => (VmState::Suspended, LcmState::LcmInit),
            LcmState::BootStopped => (VmState::Active, LcmState::BootStoppedFailure),
            LcmState::BootUndeploy => (VmState::Active, LcmState::BootUndeployFailure),
            _ => return vec![],
        };
        self.record(|record| record.retime = now);
        self.set(state, lcm_state);
        vec![]
    }

    fn shut_down(&mut self) -> Vec<Work> {
        let now = self.around.now;
        let (state, transfer) = match self.machine.lcm_state {
            LcmState::Shutdown => (LcmState::Epilog, Transfer::Epilog { local: false }),
            LcmState::ShutdownUndeploy => (LcmState::EpilogUndeploy, Transfer::Stop),
            LcmState::ShutdownPoweroff => {
                self.record(|record| record.retime = now);
                self.set(VmState::Poweroff, LcmState::LcmInit);
                return vec![];
            }
            _ => return vec![],
        };
        self.record(|record| (record.estime, record.retime) = (now, now));
        self.set(VmState::Active, state);
        vec![Work::Transfer(transfer)]
    }

    fn saved(&mut self) -> Vec<Work> {
        let now = self.around.now;
        match self.machine.lcm_state {
            LcmState::SaveSuspend => {
                self.record(|record| record.retime = now);
                self.set(VmState::Suspended, LcmState::LcmInit);
                vec![]
            }
            LcmState::SaveStop => {
                self.record(|record| (record.estime, record.retime) = (now, now));
                self.set(VmState::Active, LcmState::EpilogStop);
                vec![Work::Transfer(Transfer::Stop)]
            }
            _ => vec![],
        }
    }

    fn monitored_off(&mut self) -> Vec<Work> {
        if is_here(self.machine) {
            self.record(|record| record.set_internal_action(Action::Monitor));
            self.set(VmState::Active, LcmState::ShutdownPoweroff);
        }
        self.shut_down()
    }

    fn monitored_on(&mut self) -> Vec<Work> {
        match (self.machine.state, self.machine.lcm_state) {
            (VmState::Poweroff | VmState::Suspended, _) => {
                self.next_record();
                self.set(VmState::Active, LcmState::Running);
                vec![]
            }
            (VmState::Active, LcmState::Unknown) => {
                self.set(VmState::Active, LcmState::Running);
                vec![]
            }
            _ => self.booted(), // nothing, unless it boots
        }
    }

    /// The VM waits in a state of its own while something is done with its disks.
    fn begin(&mut self, operation: Operation) -> Result<Vec<Work>, Refusal> {
        let (state, action) = busy_state(self.machine, &operation)?;
        if let Some(action) = action {
            self.close_record(action);
        }
        self.machine.operation = Some(operation);
        self.set(VmState::Active, state);
        Ok(vec![Work::Operate])
    }

    /// `DispatchManager::close_cp_history` (src/dm/DispatchManagerActions.cc): the action is that of the record that ends.
    fn close_record(&mut self, action: Action) {
        let (now, request) = (self.around.now, self.around.request);
        let runs = self.machine.history.last().is_some_and(|record| record.retime == 0);
        let before = self.machine.history.last().map(|record| record.action);
        self.record(|record| {
            if runs {
                record.retime = now;
            }
            record.set_action(action, request);
        });
        self.next_record();
        self.record(|record| {
            record.retime = if runs { 0 } else { now };
            record.set_internal_action(before.unwrap_or(Action::None));
        });
    }

    /// The `trigger_…_success` and `trigger_…_failure` of src/lcm/LifeCycleStates.cc: back to where the VM was.
    fn end(&mut self, result: Result<(), String>) {
        let Some((state, lcm_state)) = rest_after(self.machine) else { return };
        if let Err(reason) = result {
            let what = failure_prefix(self.machine);
            self.error(what, &reason);
        }
        self.machine.operation = None;
        self.set(state, lcm_state);
    }

    fn recover(&mut self, recovery: Recovery) -> Result<Vec<Work>, Refusal> {
        let active = self.machine.state == VmState::Active;
        let wrong = |cycle: &Self, what: &str| {
            Err(format!(
                "Could not perform a {what} on VM {}, wrong state {}.",
                cycle.machine.id,
                cycle.machine.state_name()
            ))
        };
        match recovery {
            Recovery::Failure | Recovery::Success if !active => wrong(self, "recover operation"),
            Recovery::Failure => Ok(self.take_for(false)),
            Recovery::Success => Ok(self.take_for(true)),
            Recovery::Retry if !active => wrong(self, "retry"),
            Recovery::Retry => Ok(self.retry()),
            // DispatchManager::delete_vm (src/dm/DispatchManagerActions.cc)
            Recovery::Delete => Ok(match self.machine.state {
                VmState::Done => vec![],
                VmState::Active => self.delete(),
                VmState::Suspended | VmState::Poweroff | VmState::Stopped | VmState::Undeployed => {
                    let mut work = vec![Work::Clean(Cleaner::Transfer)];
                    work.extend(self.done());
                    work
                }
                _ => self.done(),
            }),
            Recovery::DeleteRecreate => self.recreate(),
            Recovery::DeleteDatabase => {
                Ok(if self.machine.state == VmState::Done { vec![] } else { self.done() })
            }
        }
    }

    /// `DispatchManager::delete_recreate` and `LifeCycleManager::trigger_delete_recreate`: what was made for the VM is
    /// deleted, then it is PENDING and booted again here.
    fn recreate(&mut self) -> Result<Vec<Work>, Refusal> {
        match (self.machine.state, self.machine.lcm_state) {
            (VmState::Done, _) => Err("Cannot delete-recreate a VM already in DONE state".to_owned()),
            (VmState::Active, LcmState::CleanupDelete) => Ok(vec![]),
            (VmState::Active, LcmState::CleanupResubmit) => Ok(self.resubmit()),
            (VmState::Active | VmState::Poweroff | VmState::Suspended, _) => {
                let cleaner = cleaner(self.machine);
                let (now, request) = (self.around.now, self.around.request);
                self.record(|record| {
                    record.set_action(Action::DeleteRecreate, request);
                    record.etime = now;
                });
                self.machine.operation = None;
                self.set(VmState::Active, LcmState::CleanupResubmit);
                Ok(vec![Work::CleanAndReport(cleaner)])
            }
            (VmState::Hold | VmState::Stopped | VmState::Undeployed, _) => {
                let request = self.around.request;
                self.record(|record| record.set_action(Action::DeleteRecreate, request));
                Ok(self.pending())
            }
            _ => Ok(vec![]), // INIT, PENDING, CLONING: as it is
        }
    }

    /// `recover --success` and `--failure`: the pending operation is taken for done or failed.
    fn take_for(&mut self, success: bool) -> Vec<Work> {
        use LcmState as L;
        match self.machine.lcm_state {
            L::CleanupDelete => self.done(),
            L::CleanupResubmit => self.resubmit(),
            L::Unknown => {
                self.set(VmState::Active, L::Running);
                vec![]
            }
            L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy if success => self.shut_down(),
            L::SaveStop | L::SaveSuspend if success => self.saved(),
            L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy | L::SaveStop | L::SaveSuspend => {
                self.record(|record| record.set_internal_action(Action::None));
                self.set(VmState::Active, L::Running);
                vec![]
            }
            state if is_booting(state) && success => {
                if self.machine.deploy_id.is_empty() {
                    self.machine.deploy_id = format!("one-{}", self.machine.id);
                }
                self.booted()
            }
            state if is_booting(state) => self.boot_failed(),
            _ if rest_after(self.machine).is_some() => {
                self.end(if success { Ok(()) } else { Err(String::new()) });
                vec![]
            }
            _ if success => self.transferred(),
            _ => self.transfer_failed(),
        }
    }

    fn retry(&mut self) -> Vec<Work> {
        use LcmState as L;
        let (state, work) = match self.machine.lcm_state {
            L::BootFailure => (L::Boot, Work::Boot),
            L::BootUndeployFailure => (L::BootUndeploy, Work::Boot),
            L::BootStoppedFailure => (L::BootStopped, Work::Restore),
            L::PrologFailure => (L::Prolog, Work::Transfer(Transfer::Prolog)),
            L::PrologResumeFailure => (L::PrologResume, Work::Transfer(Transfer::Resume)),
            L::PrologUndeployFailure => (L::PrologUndeploy, Work::Transfer(Transfer::Resume)),
            // with the last host, also if the VM was STOPPED or UNDEPLOYED before
            L::EpilogFailure => (L::Epilog, Work::Transfer(Transfer::Epilog { local: false })),
            L::EpilogStopFailure => (L::EpilogStop, Work::Transfer(Transfer::Stop)),
            L::EpilogUndeployFailure => (L::EpilogUndeploy, Work::Transfer(Transfer::Stop)),
            state @ (L::Boot | L::BootPoweroff | L::BootUnknown) => (state, Work::Boot),
            state @ (L::BootSuspended | L::BootStopped | L::BootUndeploy) => (state, Work::Restore),
            state @ (L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy) => {
                let soft =
                    self.machine.history.last().is_some_and(|record| record.action == Action::Terminate);
                (state, Work::Shutdown { hard: !soft })
            }
            state @ (L::SaveStop | L::SaveSuspend) => (state, Work::Save),
            // a driver that was killed never answers
            L::Prolog => (L::Prolog, Work::Transfer(Transfer::Prolog)),
            state @ (L::PrologResume | L::PrologUndeploy) => (state, Work::Transfer(Transfer::Resume)),
            L::Epilog => (L::Epilog, Work::Transfer(Transfer::Epilog { local: false })),
            state @ (L::EpilogStop | L::EpilogUndeploy) => (state, Work::Transfer(Transfer::Stop)),
            L::CleanupResubmit | L::CleanupDelete => {
                (self.machine.lcm_state, Work::CleanAndReport(Cleaner::Hypervisor))
            }
            _ => return vec![],
        };
        self.set(VmState::Active, state);
        vec![work]
    }

    fn leave(&mut self, state: LcmState, action: Action, work: Work) -> Vec<Work> {
        let request = self.around.request;
        self.record(|record| record.set_action(action, request));
        self.set(VmState::Active, state);
        vec![work]
    }

    fn epilog(&mut self, state: LcmState, action: Action, transfer: Transfer) -> Vec<Work> {
        let (now, request) = (self.around.now, self.around.request);
        self.record(|record| {
            record.set_action(action, request);
            record.estime = now;
        });
        self.set(VmState::Active, state);
        vec![Work::Transfer(transfer)]
    }

    fn left(&mut self, state: VmState, action: Action) -> Vec<Work> {
        let now = self.around.now;
        self.record(|record| {
            (record.eetime, record.etime) = (now, now);
            if record.action == Action::None {
                record.set_internal_action(action);
            }
        });
        self.set(state, LcmState::LcmInit);
        vec![]
    }

    fn pending(&mut self) -> Vec<Work> {
        self.set(VmState::Pending, LcmState::LcmInit);
        vec![Work::Schedule]
    }

    fn resubmit(&mut self) -> Vec<Work> {
        self.machine.deploy_id.clear();
        self.pending()
    }

    /// Deletes without asking how it ends: the VM is DONE at once.
    fn delete(&mut self) -> Vec<Work> {
        let request = self.around.request;
        let cleaner = cleaner(self.machine);
        self.record(|record| record.set_action(Action::Delete, request));
        self.machine.operation = None;
        if self.machine.lcm_state != LcmState::CleanupDelete {
            self.set(VmState::Active, LcmState::CleanupDelete);
        }
        let mut work = vec![Work::Clean(cleaner)];
        work.extend(self.done());
        work
    }

    fn done(&mut self) -> Vec<Work> {
        let now = self.around.now;
        let in_epilog = matches!(self.machine.lcm_state, LcmState::Epilog | LcmState::EpilogFailure);
        self.record(|record| {
            if in_epilog {
                (record.eetime, record.etime) = (now, now);
            }
            if record.rstime != 0 && record.retime == 0 {
                record.retime = now;
            }
            if record.etime == 0 {
                record.etime = now;
            }
        });
        self.machine.etime = now;
        self.set(VmState::Done, LcmState::LcmInit);
        vec![]
    }

    /// The VM goes on in the same place.
    fn next_record(&mut self) {
        let now = self.around.now;
        let seq = i64::try_from(self.machine.history.len()).unwrap_or(i64::MAX);
        if let Some(last) = self.machine.history.last_mut() {
            last.etime = now;
            let mut next = last.successor(seq);
            (next.stime, next.rstime) = (now, now);
            self.machine.history.push(next);
        }
    }

    fn record(&mut self, change: impl FnOnce(&mut History)) {
        if let Some(record) = self.machine.history.last_mut() {
            change(record);
        }
    }

    fn set(&mut self, state: VmState, lcm_state: LcmState) {
        (self.machine.state, self.machine.lcm_state) = (state, lcm_state);
        (self.around.commit)(self.machine);
    }

    /// A reason that is empty or begins with `-` is not shown.
    fn error(&mut self, what: &str, reason: &str) {
        if !reason.is_empty() && !reason.starts_with('-') {
            self.machine.set_error(&format!("{what}: {reason}"), &self.around.date);
        }
    }

    fn unavailable(&self) -> Refusal {
        format!("This action is not available for state {}", self.machine.state_name())
    }
}

/// Where a VM goes for an operation, and the action in its history; the refusals are those of
/// src/dm/DispatchManagerActions.cc and, for `SaveAs`, src/rm/api/VirtualMachineAPI.cc.
pub fn busy_state(machine: &Machine, operation: &Operation) -> Result<(LcmState, Option<Action>), Refusal> {
    let rests = machine.state != VmState::Active || machine.lcm_state == LcmState::Running;
    let found = busy_states(operation).iter().find(|(from, _)| rests && *from == machine.state);
    match found {
        Some((_, state)) => Ok((*state, noted_action(operation, machine.state))),
        None => Err(refusal_of(operation, machine)),
    }
}

fn busy_states(operation: &Operation) -> &'static [(VmState, LcmState)] {
    use LcmState as L;
    use VmState::{Active, Poweroff, Suspended, Undeployed};
    match operation {
        Operation::Attach { .. } => &[(Active, L::Hotplug), (Poweroff, L::HotplugPrologPoweroff)],
        Operation::Detach { .. } => &[(Active, L::Hotplug), (Poweroff, L::HotplugEpilogPoweroff)],
        Operation::SnapshotCreate { .. } => &[
            (Active, L::DiskSnapshot),
            (Poweroff, L::DiskSnapshotPoweroff),
            (Suspended, L::DiskSnapshotSuspended),
        ],
        Operation::SnapshotRevert { .. } => &[(Poweroff, L::DiskSnapshotRevertPoweroff)],
        Operation::SnapshotDelete { .. } => &[
            (Active, L::DiskSnapshotDelete),
            (Poweroff, L::DiskSnapshotDeletePoweroff),
            (Suspended, L::DiskSnapshotDeleteSuspended),
        ],
        Operation::Resize { .. } => &[
            (Active, L::DiskResize),
            (Poweroff, L::DiskResizePoweroff),
            (Undeployed, L::DiskResizeUndeployed),
        ],
        Operation::SaveAs { .. } => &[
            (Active, L::HotplugSaveas),
            (Poweroff, L::HotplugSaveasPoweroff),
            (Suspended, L::HotplugSaveasSuspended),
        ],
        Operation::Backup { .. } => &[(Active, L::Backup), (Poweroff, L::BackupPoweroff)],
        Operation::Restore { .. } => &[(Poweroff, L::Restore)],
        Operation::Migrate => &[(Active, L::Migrate)],
    }
}

/// The action that the history record which ends is given; nothing where it does not end.
fn noted_action(operation: &Operation, state: VmState) -> Option<Action> {
    Some(match operation {
        Operation::Attach { .. } => Action::DiskAttach,
        Operation::Detach { .. } => Action::DiskDetach,
        Operation::SnapshotCreate { .. } => Action::DiskSnapshotCreate,
        Operation::SnapshotRevert { .. } => Action::DiskSnapshotRevert,
        Operation::SnapshotDelete { .. } => Action::DiskSnapshotDelete,
        Operation::Resize { .. } if state == VmState::Undeployed => return None,
        Operation::Resize { .. } => Action::DiskResize,
        Operation::Backup { .. } => Action::Backup,
        Operation::Restore { .. } => Action::Restore,
        Operation::SaveAs { .. } | Operation::Migrate => return None,
    })
}

fn refusal_of(operation: &Operation, machine: &Machine) -> Refusal {
    let what = match operation {
        Operation::Attach { .. } => "Could not attach a new disk to VM",
        Operation::Detach { .. } => "Could not detach disk from VM",
        Operation::SnapshotCreate { .. } => "Could not create a new snapshot for VM",
        Operation::SnapshotRevert { .. } => "Could not revert to disk snapshot for VM",
        Operation::SnapshotDelete { .. } => "Could not delete disk snapshot from VM",
        Operation::Resize { .. } => "Could not resize disk for VM",
        Operation::Backup { .. } => "Could not create a new backup for VM",
        Operation::Migrate => "Could not live-migrate VM",
        Operation::SaveAs { .. } => {
            return "VM has to be RUNNING, POWEROFF or SUSPENDED to save disks.".to_owned();
        }
        Operation::Restore { .. } => return "Could not restore VM, it must be in poweroff".to_owned(),
    };
    format!("{what} {}, wrong state {}.", machine.id, machine.state_name())
}

/// Where a VM is after the operation that it waits for; nothing if it waits for none.
fn rest_after(machine: &Machine) -> Option<(VmState, LcmState)> {
    use LcmState as L;
    let state = match machine.lcm_state {
        _ if machine.state != VmState::Active => return None,
        L::Hotplug
        | L::DiskSnapshot
        | L::DiskSnapshotDelete
        | L::DiskResize
        | L::HotplugSaveas
        | L::Backup
        | L::Migrate => return Some((VmState::Active, L::Running)),
        L::HotplugPrologPoweroff
        | L::HotplugEpilogPoweroff
        | L::DiskSnapshotPoweroff
        | L::DiskSnapshotRevertPoweroff
        | L::DiskSnapshotDeletePoweroff
        | L::DiskResizePoweroff
        | L::HotplugSaveasPoweroff
        | L::BackupPoweroff
        | L::Restore => VmState::Poweroff,
        L::DiskSnapshotSuspended | L::DiskSnapshotDeleteSuspended | L::HotplugSaveasSuspended => {
            VmState::Suspended
        }
        L::DiskResizeUndeployed => VmState::Undeployed,
        _ => return None,
    };
    Some((state, L::LcmInit))
}

/// What stands before a driver's reason: the hypervisor's driver names its message (src/protocol/Message.cc).
fn failure_prefix(machine: &Machine) -> &'static str {
    match (machine.lcm_state, &machine.operation) {
        (LcmState::Hotplug, Some(Operation::Detach { .. })) => "DETACHDISK",
        (LcmState::Hotplug, _) => "ATTACHDISK",
        (LcmState::DiskSnapshot, _) => "DISKSNAPSHOTCREATE",
        (LcmState::DiskResize, _) => "RESIZEDISK",
        (LcmState::Backup | LcmState::BackupPoweroff, _) => "BACKUP",
        (LcmState::Migrate, _) => "MIGRATE",
        _ => "Error executing image transfer script",
    }
}

/// Who cleans up after a VM in that state (`LifeCycleManager::clean_up_vm` in src/lcm/LifeCycleActions.cc).
fn cleaner(machine: &Machine) -> Cleaner {
    use LcmState as L;
    let by_script = matches!(
        machine.lcm_state,
        L::Prolog
            | L::PrologResume
            | L::PrologUndeploy
            | L::PrologFailure
            | L::PrologResumeFailure
            | L::PrologUndeployFailure
            | L::Epilog
            | L::EpilogStop
            | L::EpilogUndeploy
            | L::EpilogFailure
            | L::EpilogStopFailure
            | L::EpilogUndeployFailure
            | L::HotplugPrologPoweroff
            | L::HotplugEpilogPoweroff
            | L::HotplugSaveasPoweroff
            | L::HotplugSaveasSuspended
            | L::DiskSnapshotPoweroff
            | L::DiskSnapshotRevertPoweroff
            | L::DiskSnapshotDeletePoweroff
            | L::DiskSnapshotSuspended
            | L::DiskSnapshotDeleteSuspended
            | L::DiskSnapshotDelete
            | L::DiskResizePoweroff
            | L::DiskResizeUndeployed
            | L::BackupPoweroff
            | L::Restore
    );
    if machine.state == VmState::Active && by_script { Cleaner::Transfer } else { Cleaner::Hypervisor }
}

/// What monitoring makes of a domain that runs, or does not; nothing if that is as it should be.
pub fn monitored(machine: &Machine, runs: bool) -> Option<Event> {
    use LcmState as L;
    let (off, on) = match (machine.state, machine.lcm_state) {
        (VmState::Active, L::Running | L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy) => {
            (true, false)
        }
        (VmState::Active, L::Unknown) => (true, true),
        (VmState::Active, state) => (false, is_booting(state)),
        (VmState::Poweroff | VmState::Suspended, _) => (false, true),
        _ => (false, false),
    };
    match runs {
        true => on.then_some(Event::MonitoredOn),
        false => off.then_some(Event::MonitoredOff),
    }
}

/// Whether the VM is one that monitoring hears of.
pub fn is_here(machine: &Machine) -> bool {
    machine.state == VmState::Active && matches!(machine.lcm_state, LcmState::Running | LcmState::Unknown)
}

fn is_failure(state: LcmState) -> bool {
    state.name().ends_with("_FAILURE")
}

fn is_booting(state: LcmState) -> bool {
    use LcmState as L;
    matches!(
        state,
        L::Boot
            | L::BootPoweroff
            | L::BootUnknown
            | L::BootSuspended
            | L::BootStopped
            | L::BootUndeploy
            | L::BootFailure
            | L::BootStoppedFailure
            | L::BootUndeployFailure
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::template::Template;

    /// A fresh VM in PENDING.
    pub fn machine() -> Machine {
        Machine {
            id: 2,
            name: "vm".into(),
            state: VmState::Pending,
            lcm_state: LcmState::LcmInit,
            prev_state: VmState::Pending,
            prev_lcm_state: LcmState::LcmInit,
            last_poll: 0,
            stime: 1,
            etime: 0,
            deploy_id: String::new(),
            template: Template::default(),
            user_template: Template::default(),
            history: vec![],
            snapshots: Default::default(),
            operation: None,
        }
    }

    /// Takes a VM through an event and notes the states that hooks would see.
    pub fn step(
        machine: &mut Machine,
        event: Event,
        seen: &mut Vec<&'static str>,
    ) -> Result<Vec<Work>, Refusal> {
        let mut commit = |machine: &mut Machine| {
            if machine.has_changed_state() {
                seen.push(machine.state_name());
                (machine.prev_state, machine.prev_lcm_state) = (machine.state, machine.lcm_state);
            }
        };
        let mut around = Surroundings {
            now: 100,
            date: "Sun Nov 22 23:57:44 2026".into(),
            request: 7,
            commit: &mut commit,
        };
        apply(machine, event, &mut around)
    }

    fn place() -> Event {
        Event::Placed(Placement {
            host_id: 8,
            hostname: "hosta".into(),
            datastore_id: 100,
            tm_mad: "ceph".into(),
        })
    }

    /// Drives a VM with drivers that always succeed, the last work of each event first.
    fn run(machine: &mut Machine, event: Event) -> Vec<&'static str> {
        let mut seen = vec![];
        let mut work = step(machine, event, &mut seen).unwrap();
        while let Some(next) = work.pop() {
            let event = match next {
                Work::Schedule => place(),
                Work::Transfer(_) | Work::CleanAndReport(_) => Event::Transferred(Ok(())),
                Work::Boot | Work::Restore => Event::Booted(Ok("uuid".into())),
                Work::Shutdown { .. } => Event::ShutDown,
                Work::Save => Event::Saved,
                Work::Clean(_) => continue,
                Work::Operate => Event::Ended(Ok(())),
            };
            work.extend(step(machine, event, &mut seen).unwrap());
        }
        seen
    }

    fn running() -> Machine {
        let mut machine = machine();
        assert_eq!(run(&mut machine, place()), ["LCM_INIT", "PROLOG", "BOOT", "RUNNING"]);
        machine
    }

    fn asked(machine: &mut Machine, action: Action) -> Vec<&'static str> {
        run(machine, Event::Asked(action))
    }

    #[test]
    fn passes_the_states_of_the_table() {
        let mut vm = running();
        assert_eq!(asked(&mut vm, Action::PoweroffHard), ["SHUTDOWN_POWEROFF", "POWEROFF"]);
        assert_eq!(asked(&mut vm, Action::Resume), ["BOOT_POWEROFF", "RUNNING"]);
        assert_eq!(asked(&mut vm, Action::Suspend), ["SAVE_SUSPEND", "SUSPENDED"]);
        assert_eq!(asked(&mut vm, Action::Resume), ["BOOT_SUSPENDED", "RUNNING"]);
        assert_eq!(asked(&mut vm, Action::Undeploy), ["SHUTDOWN_UNDEPLOY", "EPILOG_UNDEPLOY", "UNDEPLOYED"]);
        assert_eq!(
            asked(&mut vm, Action::Resume),
            ["PENDING", "LCM_INIT", "PROLOG_UNDEPLOY", "BOOT_UNDEPLOY", "RUNNING"]
        );
        assert_eq!(asked(&mut vm, Action::Stop), ["SAVE_STOP", "EPILOG_STOP", "STOPPED"]);
        assert_eq!(
            asked(&mut vm, Action::Resume),
            ["PENDING", "LCM_INIT", "PROLOG_RESUME", "BOOT_STOPPED", "RUNNING"]
        );
        assert_eq!(run(&mut vm, Event::MonitoredOff), ["SHUTDOWN_POWEROFF", "POWEROFF"]);
        assert_eq!(vm.history.last().unwrap().action, Action::Monitor);
        assert_eq!(asked(&mut vm, Action::Terminate), ["EPILOG", "DONE"]);
        assert_eq!(asked(&mut running(), Action::Terminate), ["SHUTDOWN", "EPILOG", "DONE"]);
    }

    #[test]
    fn terminating_an_undeployed_vm_works_on_the_front_end_but_its_retry_on_the_host() {
        let mut vm = running();
        asked(&mut vm, Action::UndeployHard);
        let mut seen = vec![];
        let work = step(&mut vm, Event::Asked(Action::Terminate), &mut seen).unwrap();
        assert_eq!(work, [Work::Transfer(Transfer::Epilog { local: true })]);
        step(&mut vm, Event::Transferred(Err("no".into())), &mut seen).unwrap();
        assert_eq!(vm.state_name(), "EPILOG_FAILURE");
        let work = step(&mut vm, Event::Recover(Recovery::Retry), &mut seen).unwrap();
        assert_eq!(work, [Work::Transfer(Transfer::Epilog { local: false })]);
    }

    #[test]
    fn a_transfer_whose_driver_was_killed_is_run_again() {
        for (state, transfer) in [
            (LcmState::Prolog, Transfer::Prolog),
            (LcmState::PrologResume, Transfer::Resume),
            (LcmState::PrologUndeploy, Transfer::Resume),
            (LcmState::Epilog, Transfer::Epilog { local: false }),
            (LcmState::EpilogUndeploy, Transfer::Stop),
        ] {
            let mut vm = running();
            vm.lcm_state = state;
            let work = step(&mut vm, Event::Recover(Recovery::Retry), &mut vec![]).unwrap();
            assert_eq!((work, vm.lcm_state), (vec![Work::Transfer(transfer)], state));
        }
    }

    #[test]
    fn failures_land_where_the_table_says() {
        let failed_transfer = |from: LcmState| {
            let mut vm = running();
            vm.lcm_state = from;
            step(&mut vm, Event::Transferred(Err("image is busy".into())), &mut vec![]).unwrap();
            assert_eq!(
                vm.user_template.get("ERROR"),
                Some("Sun Nov 22 23:57:44 2026: Error executing image transfer script: image is busy")
            );
            let state = vm.lcm_state;
            step(&mut vm, Event::Recover(Recovery::Retry), &mut vec![]).unwrap();
            assert_eq!(vm.lcm_state, from);
            state.code()
        };
        assert_eq!(failed_transfer(LcmState::Prolog), 39);
        assert_eq!(failed_transfer(LcmState::PrologResume), 49);
        assert_eq!(failed_transfer(LcmState::PrologUndeploy), 50);
        assert_eq!(failed_transfer(LcmState::Epilog), 40);
        assert_eq!(failed_transfer(LcmState::EpilogStop), 41);
        assert_eq!(failed_transfer(LcmState::EpilogUndeploy), 42);
        let failed_boot = |from: LcmState| {
            let mut vm = running();
            vm.lcm_state = from;
            step(&mut vm, Event::Booted(Err("refused".into())), &mut vec![]).unwrap();
            let error = vm.user_template.get("ERROR").unwrap().to_owned();
            (vm.state_name(), error.split(": ").nth(1).unwrap().to_owned())
        };
        assert_eq!(failed_boot(LcmState::Boot), ("BOOT_FAILURE", "DEPLOY".into()));
        assert_eq!(failed_boot(LcmState::BootPoweroff), ("POWEROFF", "DEPLOY".into()));
        assert_eq!(failed_boot(LcmState::BootSuspended), ("SUSPENDED", "RESTORE".into()));
        assert_eq!(failed_boot(LcmState::BootStopped), ("BOOT_STOPPED_FAILURE", "RESTORE".into()));
        assert_eq!(failed_boot(LcmState::BootUndeploy), ("BOOT_UNDEPLOY_FAILURE", "DEPLOY".into()));
    }

    #[test]
    fn error_texts_are_cut_and_dashes_hidden() {
        let mut vm = running();
        vm.lcm_state = LcmState::Boot;
        step(&mut vm, Event::Booted(Err("-".into())), &mut vec![]).unwrap();
        assert_eq!(vm.user_template.get("ERROR"), None);
        vm.lcm_state = LcmState::Boot;
        step(&mut vm, Event::Booted(Err("ä".repeat(80))), &mut vec![]).unwrap();
        let error = vm.user_template.get("ERROR").unwrap();
        assert_eq!(
            error,
            format!("Sun Nov 22 23:57:44 2026: DEPLOY: {}... see more details in VM log", "ä".repeat(46))
        );
    }

    #[test]
    fn refuses_in_the_words_of_oned() {
        let mut vm = running();
        let refusal = step(&mut vm, Event::Asked(Action::Resume), &mut vec![]).unwrap_err();
        assert_eq!(refusal, "This action is not available for state RUNNING");
        vm.lcm_state = LcmState::Prolog;
        let refusal = step(&mut vm, Event::Asked(Action::Terminate), &mut vec![]).unwrap_err();
        assert_eq!(refusal, "Could not terminate VM 2, wrong state PROLOG.");
        asked(&mut running(), Action::Poweroff);
        let mut off = running();
        asked(&mut off, Action::Poweroff);
        let refusal = step(&mut off, Event::Recover(Recovery::Retry), &mut vec![]).unwrap_err();
        assert_eq!(refusal, "Could not perform a retry on VM 2, wrong state POWEROFF.");
    }

    #[test]
    fn a_late_answer_of_a_driver_changes_nothing() {
        let mut vm = running();
        for event in [
            Event::Transferred(Ok(())),
            Event::Transferred(Err(String::new())),
            Event::Saved,
            Event::ShutDown,
        ] {
            assert_eq!(step(&mut vm, event, &mut vec![]).unwrap(), []);
            assert_eq!(vm.state_name(), "RUNNING");
        }
    }

    #[test]
    fn monitoring_finds_domains_that_no_driver_told_of() {
        let mut vm = running();
        asked(&mut vm, Action::Poweroff);
        let records = vm.history.len();
        assert_eq!(monitored(&vm, false), None);
        assert_eq!(monitored(&vm, true), Some(Event::MonitoredOn));
        assert_eq!(run(&mut vm, Event::MonitoredOn), ["RUNNING"]);
        assert_eq!((monitored(&vm, true), monitored(&vm, false)), (None, Some(Event::MonitoredOff)));
        assert_eq!((vm.history.len(), vm.history[records].action), (records + 1, Action::None));
        assert_eq!(run(&mut vm, Event::MonitoredOn), [""; 0]);
        // a front-end that came back: its drivers of before never answer
        (vm.lcm_state, vm.prev_lcm_state) = (LcmState::Boot, LcmState::Boot);
        assert_eq!(run(&mut vm, Event::MonitoredOn), ["RUNNING"]);
        vm.lcm_state = LcmState::Shutdown;
        assert_eq!(run(&mut vm, Event::MonitoredOn), [""; 0]);
        assert_eq!(run(&mut vm, Event::MonitoredOff), ["EPILOG", "DONE"]);
        assert_eq!(run(&mut vm, Event::MonitoredOn), [""; 0]);
    }

    #[test]
    fn recover_skips_or_deletes() {
        let mut vm = running();
        vm.lcm_state = LcmState::PrologFailure;
        assert_eq!(run(&mut vm, Event::Recover(Recovery::Success)), ["BOOT", "RUNNING"]);
        let mut seen = vec![];
        let work = step(&mut vm, Event::Recover(Recovery::Delete), &mut seen).unwrap();
        assert_eq!((work, seen), (vec![Work::Clean(Cleaner::Hypervisor)], vec!["CLEANUP_DELETE", "DONE"]));
        let mut vm = running();
        assert_eq!(
            run(&mut vm, Event::Recover(Recovery::DeleteRecreate)),
            ["CLEANUP_RESUBMIT", "PENDING", "LCM_INIT", "PROLOG", "BOOT", "RUNNING"]
        );
    }

    #[test]
    fn disk_operations_pass_a_state_of_their_own_and_every_entry_is_seen() {
        let attach = Operation::Attach { disk: 1 };
        let mut vm = running();
        assert_eq!(run(&mut vm, Event::Began(attach.clone())), ["HOTPLUG", "RUNNING"]);
        let codes =
            |vm: &Machine| -> Vec<i64> { vm.history.iter().map(|record| record.action.code()).collect() };
        assert_eq!(codes(&vm), [21, 0]);
        asked(&mut vm, Action::Poweroff);
        assert_eq!(run(&mut vm, Event::Began(attach)), ["HOTPLUG_PROLOG_POWEROFF", "POWEROFF"]);
        assert_eq!(codes(&vm), [21, 21, 19], "the action goes on with the new record");
        let revert = Operation::SnapshotRevert { disk: 0, snapshot: 0 };
        assert_eq!(run(&mut vm, Event::Began(revert.clone())), ["DISK_SNAPSHOT_REVERT_POWEROFF", "POWEROFF"]);
        asked(&mut vm, Action::Resume);
        let refusal = step(&mut vm, Event::Began(revert), &mut vec![]).unwrap_err();
        assert_eq!(refusal, "Could not revert to disk snapshot for VM 2, wrong state RUNNING.");
        step(&mut vm, Event::Began(Operation::Resize { disk: 0, before: 1 }), &mut vec![]).unwrap();
        let refusal = step(&mut vm, Event::Asked(Action::Poweroff), &mut vec![]).unwrap_err();
        assert_eq!(refusal, "This action is not available for state DISK_RESIZE");
        step(&mut vm, Event::Ended(Err("no space".into())), &mut vec![]).unwrap();
        assert_eq!((vm.state_name(), vm.operation.is_none()), ("RUNNING", true));
        assert!(vm.user_template.get("ERROR").unwrap().ends_with("RESIZEDISK: no space"));
        assert_eq!(run(&mut vm, Event::Began(Operation::Migrate)), ["MIGRATE", "RUNNING"]);
    }

    #[test]
    fn a_lost_host_makes_running_vms_unknown_and_only_those() {
        let mut vm = running();
        assert_eq!(run(&mut vm, Event::HostLost), ["UNKNOWN"]);
        assert_eq!(asked(&mut vm, Action::Poweroff), ["SHUTDOWN_POWEROFF", "POWEROFF"]);
        assert_eq!(run(&mut vm, Event::HostLost), [""; 0]);
        let mut vm = running();
        run(&mut vm, Event::HostLost);
        assert_eq!(run(&mut vm, Event::MonitoredOn), ["RUNNING"]);
    }

    #[test]
    fn only_the_transfer_driver_stops_where_a_deletion_fails() {
        let mut vm = running();
        assert_eq!(cleaner(&vm), Cleaner::Hypervisor);
        vm.lcm_state = LcmState::PrologFailure;
        assert_eq!(cleaner(&vm), Cleaner::Transfer);
        let mut off = running();
        asked(&mut off, Action::Poweroff);
        let work = step(&mut off, Event::Recover(Recovery::Delete), &mut vec![]).unwrap();
        assert_eq!(work, [Work::Clean(Cleaner::Transfer)]);
        let mut off = running();
        asked(&mut off, Action::Poweroff);
        let work = step(&mut off, Event::Recover(Recovery::DeleteRecreate), &mut vec![]).unwrap();
        assert_eq!(work, [Work::CleanAndReport(Cleaner::Hypervisor)]);
    }

    #[test]
    fn history_looks_like_the_captured_one() {
        let mut vm = running();
        asked(&mut vm, Action::PoweroffHard);
        step(&mut vm, Event::Asked(Action::Resume), &mut vec![]).unwrap();
        let (first, second) = (&vm.history[0], &vm.history[1]);
        assert_eq!((first.action.code(), first.uid, first.etime), (20, 0, 100));
        assert_eq!((second.action.code(), second.seq, second.pstime, second.rstime), (11, 1, 0, 100));
        step(&mut vm, Event::Booted(Ok("x".into())), &mut vec![]).unwrap();
        assert_eq!((vm.history[1].action.code(), vm.history[1].uid, vm.history[1].request_id), (0, -1, -1));
    }
}
