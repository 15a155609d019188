//! Failover of one VM: start it here, by its gate alone or, where an operator typed it, by force.

use super::activity::{Activity, activity};
use super::error::EngineError;
use super::gate::closing_id;
use super::images::VmImages;
use super::locks::Owner;
use super::observe::{Purpose, Seen};
use super::sites::Engine;
use super::steps::HeldLocks;
use crate::audit::Outcome;
use crate::ceph::{Ceph, CephError, Promotion, RbdCommand};
use crate::handoff::{
    BootKind, Copy, Decision, FORCED_KEY, Here, Judgement, Locks, Mark, Mode, Patience, PeerVm, Refusal,
    Role, Side, TOKEN_KEY, There, Token, TokenSeen, written_for,
};
use crate::image_spec::ImageSpec;
use crate::opennebula::{LcmState, Recover, Vm, VmAction, VmState};
use std::time::Instant;

/// What a failover did.
#[derive(Debug, serde::Serialize)]
pub struct FailoverOutcome {
    /// The VM, by its id here.
    pub vm: i32,
    /// Images promoted by force, as `pool[/namespace]/image`.
    pub forced: Vec<String>,
    /// How the VM was started: `resume`, `release`, `recover --retry`; empty if it starts by itself.
    pub started_by: String,
}

impl Engine {
    /// Starts the VM here. Without `force` everything is left to the gate, which the start goes through. With
    /// `force`, images that the gate would refuse are promoted by force first: writes that have not arrived are
    /// lost, and `reason` is recorded in the audit log and in the images.
    pub async fn failover(&self, vm: VmImages, force: Option<&str>) -> Result<FailoverOutcome, EngineError> {
        let (id, started) = (vm.vm.id, Instant::now());
        let result = self.try_failover(vm, force).await;
        if let Err(error) = &result {
            let outcome = if error.is_refusal() { Outcome::Refused } else { Outcome::Failed };
            self.note(Some(id), None, "operator", "failover", outcome, Some(error.to_string()), started);
        }
        result
    }

    async fn try_failover(&self, vm: VmImages, force: Option<&str>) -> Result<FailoverOutcome, EngineError> {
        let id = vm.vm.id;
        if activity(&vm.vm) != Activity::Inactive {
            return Err(EngineError::Unfit(format!(
                "VM {id} is {} here; there is nothing to fail over",
                vm.vm.state_name()
            )));
        }
        if starting(&vm.vm).is_none() {
            return Err(EngineError::Unfit(format!(
                "VM {id} is {} here, which nothing starts",
                vm.vm.state_name()
            )));
        }
        let mut outcome = FailoverOutcome { vm: id, forced: Vec::new(), started_by: String::new() };
        let seen = self.observe(&vm.images, Purpose::Boot).await?;
        let refusal = self.would_refuse(id, &seen);
        match (refusal, force) {
            (None, _) => {}
            (Some(refusal), None) => return Err(EngineError::Refused(refusal)),
            (Some(refusal), Some(reason)) => {
                tracing::warn!("{refusal}");
                self.force(&vm, reason, &mut outcome).await?;
            }
        }
        outcome.started_by = self.start(&vm.vm).await?;
        Ok(outcome)
    }

    /// What the gate would refuse now, if anything; what it would wait for counts too, since the other site may be
    /// lost for good.
    fn would_refuse(&self, vm: i32, seen: &[Seen]) -> Option<Refusal> {
        let observations = super::gate::observations(seen);
        let id = closing_id();
        let Judgement { decision, .. } = self
            .gate_rules(vm, BootKind::Cold, false, Patience::Fresh, Locks::Both, &id)
            .judge(&observations);
        match decision {
            Decision::Refuse { refusal, .. } => Some(refusal),
            Decision::Wait { .. } => {
                match self
                    .gate_rules(vm, BootKind::Cold, false, Patience::Exhausted, Locks::Both, &id)
                    .judge(&observations)
                    .decision
                {
                    Decision::Refuse { refusal, .. } => Some(refusal),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    async fn force(
        &self,
        vm: &VmImages,
        reason: &str,
        outcome: &mut FailoverOutcome,
    ) -> Result<(), EngineError> {
        let owner = Owner::this_process(self.here(), &self.state_dir);
        let mut locks = HeldLocks::default();
        let result = async {
            let seen = self.observe(&vm.images, Purpose::Boot).await?;
            self.lock(&mut locks, Side::Here, &seen, &owner).await?;
            let answers =
                |seen: &[Seen]| seen.iter().any(|seen| matches!(seen.observation.there, There::Mirrored(_)));
            let answered = answers(&seen);
            if answered {
                self.lock(&mut locks, Side::There, &seen, &owner).await?;
            }
            let seen = self.observe(&vm.images, Purpose::Boot).await?;
            if answers(&seen) && !answered {
                // a VM may be booting there, unseen without the lock
                let there = self.there();
                return Err(EngineError::Unfit(format!(
                    "{there} answers again; see: onemirror show {}",
                    vm.vm.id
                )));
            }
            for seen in &seen {
                self.may_force(seen)?;
            }
            for seen in &seen {
                if self.force_image(vm.vm.id, seen, reason).await? {
                    outcome.forced.push(seen.spec().to_string());
                }
            }
            Ok(())
        }
        .await;
        locks.release().await;
        result
    }

    /// Force is for a lost site. Where the peer answers and says that its VM runs, it is a mistake.
    fn may_force(&self, seen: &Seen) -> Result<(), EngineError> {
        let refuse = |cause: String, hint: String| {
            Err(EngineError::Refused(Refusal { image: seen.spec().clone(), cause, hint, rule: None }))
        };
        match (&seen.observation.here, &seen.observation.there, &seen.observation.vm_there) {
            (_, There::Mirrored(there), PeerVm::Active { vm, state })
                if there.role != Role::NonPrimary && may_live(state) =>
            {
                refuse(
                    format!("is in use on {}, which answers: VM {vm} is {state}", self.there()),
                    format!("on {}: onevm poweroff {vm}; then fail over without --force", self.there()),
                )
            }
            // a VM may run on that one
            (Here::Mirrored(copy), There::Apart(other), _)
                if copy.role != Role::Primary || other.is_forced_past(&copy.token) =>
            {
                refuse(
                    format!("is on {}, which answers, another image than the one here", self.there()),
                    format!(
                        "to keep the one here, on {}: rbd mv {spec} {spec}.aside",
                        self.there(),
                        spec = seen.spec()
                    ),
                )
            }
            (Here::Absent, ..) => refuse(
                "has no copy here".into(),
                "there is nothing to promote; restore it from a backup".into(),
            ),
            (Here::Mirrored(copy), ..) if may_be_half_copied(copy) => refuse(
                "may be half copied: it has no handoff token yet".into(),
                format!(
                    "if it was complete all the same (rbd mirror image status {0}): rbd mirror image promote {0} --force",
                    seen.spec()
                ),
            ),
            (Here::Mirrored(copy), ..) if copy.token == TokenSeen::Newer => refuse(
                format!("was handed over by a later onemirror than that of {}", self.here()),
                format!("upgrade onemirror on {} and try again", self.here()),
            ),
            (Here::Mirrored(copy), ..) if copy.token == TokenSeen::Unreadable => refuse(
                "has an unreadable handoff token here".into(),
                format!("see: rbd image-meta get {} {TOKEN_KEY}", seen.spec()),
            ),
            _ => Ok(()),
        }
    }

    /// Promotes one copy by force, if it is not primary, and opens a reign that outranks what never arrived.
    async fn force_image(&self, vm: i32, seen: &Seen, reason: &str) -> Result<bool, EngineError> {
        let (Here::Mirrored(copy), Some(global_id)) = (&seen.observation.here, &seen.global_id) else {
            return Ok(false);
        };
        if self.would_refuse(vm, std::slice::from_ref(seen)).is_none() {
            return Ok(false);
        }
        let spec = seen.spec();
        let cluster = &seen.image.cluster;
        let started = Instant::now();
        let newest = match &seen.observation.there {
            There::Mirrored(there) => there.token.last().max(copy.token.last()),
            _ => copy.token.last(),
        };
        let token = Token::forced_after(newest, self.here());
        let forced = async {
            if copy.role == Role::HalfDemoted {
                // Ceph takes it for promoted already
                cluster.demote(spec).await?;
            }
            if copy.role != Role::Primary {
                self.promote_by_force(cluster, spec).await?;
            }
            // the note first: a repeat of a run that was killed after the token finds nothing to force any more
            self.write_after_force(
                cluster,
                spec,
                FORCED_KEY,
                &forced_note(&Mark::of(&token, vm), global_id, reason),
            )
            .await?;
            self.write_after_force(cluster, spec, TOKEN_KEY, &written_for(&token, global_id)).await?;
            if copy.mode == Mode::Snapshot {
                cluster.mirror_snapshot(spec).await?;
            }
            Ok(())
        }
        .await;
        let (outcome, words) = match &forced {
            Ok(()) => (Outcome::Done, reason.to_owned()),
            Err(error) => (Outcome::Failed, format!("{reason}: {error}")),
        };
        self.note(Some(vm), Some(spec), "operator-force", "promote-force", outcome, Some(words), started);
        forced.map_err(|error| EngineError::Ceph {
            image: spec.clone(),
            site: self.here().to_owned(),
            error,
        })?;
        Ok(true)
    }

    /// First the daemon here is fenced: it may be in the middle of a replay that waits for the lost site, for ever,
    /// and in snapshot mode the promotion would then wait for the daemon (seen on Ceph 16.2). It comes back by
    /// itself once the site answers again.
    async fn promote_by_force(&self, cluster: &RbdCommand, spec: &ImageSpec) -> Result<(), CephError> {
        self.fence(cluster, spec).await?;
        match cluster.promote(spec, true).await {
            Ok(Promotion::Promoted) => Ok(()),
            Ok(Promotion::NotYet) => Err(CephError::Busy {
                what: spec.to_string(),
                detail:
                    "the forced promotion is not accepted; restart rbd-mirror here and repeat the command"
                        .into(),
            }),
            // a repeat of a run that was killed after the promotion
            Err(CephError::NotPossible { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes to a copy that was promoted by force; a daemon that took the image again in between is fenced once more.
    async fn write_after_force(
        &self,
        cluster: &RbdCommand,
        spec: &ImageSpec,
        key: &str,
        value: &str,
    ) -> Result<(), CephError> {
        match cluster.set_metadata(spec, key, value).await {
            Err(CephError::ReadOnly { .. }) => {}
            other => return other,
        }
        self.fence(cluster, spec).await?;
        cluster.set_metadata(spec, key, value).await
    }

    async fn fence(&self, cluster: &RbdCommand, spec: &ImageSpec) -> Result<(), CephError> {
        let started = Instant::now();
        if cluster.fence(spec).await? {
            tracing::warn!("{spec}: rbd-mirror here did not let go of it and was fenced");
            self.note(None, Some(spec), "operator-force", "fence", Outcome::Done, None, started);
        }
        Ok(())
    }

    /// Starts the VM by what its state takes.
    async fn start(&self, vm: &Vm) -> Result<String, EngineError> {
        let client = self.front_end_here();
        let started = Instant::now();
        let how = starting(vm);
        let result = match how {
            Some(Starting::Resume) => client.vm_action(VmAction::Resume, vm.id).await,
            Some(Starting::Release) => client.vm_action(VmAction::Release, vm.id).await,
            Some(Starting::Retry) => client.vm_recover(vm.id, Recover::Retry).await,
            Some(Starting::ByItself) | None => Ok(()),
        };
        let name = match how {
            Some(Starting::Resume) => "resume",
            Some(Starting::Release) => "release",
            Some(Starting::Retry) => "recover --retry",
            Some(Starting::ByItself) | None => "",
        };
        let (outcome, reason) = match &result {
            Ok(()) => (Outcome::Done, None),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        self.note(Some(vm.id), None, "operator", name, outcome, reason, started);
        result.map_err(|error| self.error_here(error))?;
        Ok(name.to_owned())
    }
}

/// What it takes to start a VM.
#[derive(Clone, Copy)]
enum Starting {
    Resume,
    Release,
    Retry,
    ByItself,
}

/// By the VM's state; `None`: nothing starts it.
fn starting(vm: &Vm) -> Option<Starting> {
    match (vm.state, vm.lcm_state) {
        (VmState::Poweroff | VmState::Undeployed, _) => Some(Starting::Resume),
        (VmState::Hold, _) => Some(Starting::Release),
        (VmState::Pending, _) => Some(Starting::ByItself),
        (
            VmState::Active,
            LcmState::BootFailure
            | LcmState::PrologFailure
            | LcmState::BootUndeployFailure
            | LcmState::PrologUndeployFailure,
        ) => Some(Starting::Retry),
        _ => None,
    }
}

/// Whether the domain of a VM there may be alive, by the state's name: not where the hypervisor no longer answers,
/// where a step failed, or where only memory is left.
fn may_live(state: &str) -> bool {
    !matches!(state, "UNKNOWN" | "SUSPENDED" | "STOPPED") && !state.ends_with("_FAILURE")
}

/// In journal mode Ceph promotes by force what is not even copied whole. It copies metadata last (seen on Ceph 16.2), and
/// every VM that was started has left a token.
fn may_be_half_copied(copy: &Copy) -> bool {
    copy.role == Role::NonPrimary && copy.mode == Mode::Journal && copy.token == TokenSeen::None
}

/// Who forced it, when, and why, for whoever finds the image later.
fn forced_note(mark: &Mark, global_id: &str, reason: &str) -> String {
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
    format!(
        "{} {} {}: {reason}",
        written_for(mark, global_id),
        jiff::Timestamp::now(),
        crate::state::operator()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::{Positions, Report, Resync};

    #[test]
    fn only_a_follower_by_journal_that_shows_no_token_may_be_half_copied() {
        let copy = |role, mode, token| Copy {
            role,
            mode,
            token,
            is_unbound: false,
            booted: None,
            release: None,
            forced: None,
            report: Report::Other,
            resync: Resync::None,
            positions: Positions::Unknown,
        };
        let token = || TokenSeen::Some(Token::open_after(None, "site-a"));
        assert!(may_be_half_copied(&copy(Role::NonPrimary, Mode::Journal, TokenSeen::None)));
        assert!(!may_be_half_copied(&copy(Role::NonPrimary, Mode::Journal, token())));
        // promoted by force, and killed before its token
        assert!(!may_be_half_copied(&copy(Role::Primary, Mode::Journal, TokenSeen::None)));
        // Ceph takes the last whole snapshot there
        assert!(!may_be_half_copied(&copy(Role::NonPrimary, Mode::Snapshot, TokenSeen::None)));
    }
}
