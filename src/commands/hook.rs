//! Hooks: asynchronous, unordered, lost or repeated at times. So a hook takes nothing from its input but the id,
//! looks at the present, does what is still to be done, and returns within seconds.

use crate::config::{self, Config, ReleaseOn};
use crate::events::HookEvent;
use crate::opennebula::{VmAction, VmState};
use crate::operations::{PassOn, boot, give_up, pass_on, reconcile};
use crate::sites::{RunError, Sites, activity, images};
use crate::state;
use base64::Engine as _;
use onemirror_protocol::{Activity, LetGo, Refusal, Running, Unfit};
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// The largest input that is read, in bytes: a VM with thousands of disks stays far below.
const INPUT_LIMIT: u64 = 16 << 20;
/// How long a hook waits for one command, and for the other copy; what takes longer is left to reconcile.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the gate has that makes up for one that a VM never went through.
const MAKE_UP: Duration = Duration::from_secs(20);

/// Why a hook did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The input is not what onehem sends.
    #[error("hook input not understood: {0}")]
    Input(String),
    /// The rest.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Serves one event with the document from `input`.
pub async fn run(config_path: &Path, event: HookEvent, input: &mut dyn Read) -> Result<(), HookError> {
    if matches!(state::emergency_off(&config::state_dir()), Ok(Some(_))) {
        tracing::warn!("onemirror is switched off; onemirror on ends that");
        return Ok(());
    }
    let mut config = Config::load(config_path).map_err(RunError::from)?;
    config.policy.command_timeout = config.policy.command_timeout.min(PATIENCE);
    config.policy.sync_timeout = config.policy.sync_timeout.min(PATIENCE);
    if event == HookEvent::HostMonitored {
        return Ok(host_monitored(&config).await?);
    }
    let sites = Sites::new(config, &format!("hook {event}"))?;
    let vm = vm_id(input)?;
    match event {
        HookEvent::Done => done(&sites, vm).await?,
        HookEvent::Poweroff => let_go(&sites, vm, VmState::Poweroff, ReleaseOn::Poweroff).await?,
        HookEvent::Undeployed => let_go(&sites, vm, VmState::Undeployed, ReleaseOn::Undeploy).await?,
        HookEvent::Running => running(&sites, vm).await?,
        HookEvent::HostMonitored => {}
    }
    Ok(())
}

/// The id of the VM in the base64 document that onehem sends.
pub fn vm_id(input: &mut dyn Read) -> Result<i32, HookError> {
    let mut text = Vec::new();
    input
        .take(INPUT_LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(|error| HookError::Input(error.to_string()))?;
    parse_vm_id(&text)
}

/// The id in the base64 of a VM document.
pub fn parse_vm_id(text: &[u8]) -> Result<i32, HookError> {
    if text.len() as u64 > INPUT_LIMIT {
        return Err(HookError::Input(format!("more than {INPUT_LIMIT} bytes")));
    }
    let document = base64::engine::general_purpose::STANDARD
        .decode(text.trim_ascii())
        .map_err(|error| HookError::Input(error.to_string()))?;
    // oned cuts texts between bytes, not characters
    let document = String::from_utf8_lossy(&document);
    let vm =
        crate::opennebula::Vm::from_xml(&document).map_err(|error| HookError::Input(error.to_string()))?;
    Ok(vm.id)
}

/// A host is back. A site that returns fires this for each of its hosts: one run is for all of them, and for those that
/// come while it is at work there is one more.
async fn host_monitored(config: &Config) -> Result<(), RunError> {
    let folder = config::state_dir();
    let reconcile = async || {
        let sites = Sites::new(config.clone(), &format!("hook {}", HookEvent::HostMonitored))?;
        let started = Instant::now();
        let report = reconcile::reconcile(&sites).await?;
        reconcile::note_reconcile(&sites, &report, started);
        Ok(())
    };
    if let Err(error) = state::want_reconcile(&folder) {
        tracing::warn!("{error}");
        return reconcile().await;
    }
    loop {
        match state::next_reconcile(&folder) {
            Ok(Some(turn)) => {
                let result = reconcile().await;
                drop(turn);
                result?;
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!("{error}");
                return reconcile().await;
            }
        }
    }
}

/// A terminated VM: its images were released by its TM actions; resume it on the peer.
async fn done(sites: &Sites, vm: i32) -> Result<(), RunError> {
    if !sites.config().releases_on(ReleaseOn::Terminate) {
        return Ok(());
    }
    let vm_images = images::vm_images(sites, vm).await?;
    // the event may come before oned's database holds the new state
    if !matches!(activity(&vm_images.vm), Activity::Inactive | Activity::LettingGo) {
        return Ok(());
    }
    match pass_on::pass_on(sites, Some(vm), &vm_images.images).await? {
        PassOn::NotAsked => {}
        outcome => tracing::info!("VM {vm}: {}", outcome.tell(sites.there.name())),
    }
    Ok(())
}

/// A VM that stopped, by its user, by its guest or with its site: put its images right, and give them up if the
/// policy asks for it.
async fn let_go(sites: &Sites, vm: i32, state: VmState, event: ReleaseOn) -> Result<(), RunError> {
    let report = reconcile::reconcile_vm(sites, vm).await?;
    reconcile::note_reconcile(sites, &report, Instant::now());
    if !sites.config().releases_on(event) {
        return Ok(());
    }
    let vm_images = images::vm_images(sites, vm).await?;
    if vm_images.vm.state != state {
        return Ok(());
    }
    let outcome = give_up::release(sites, vm, &vm_images.images, LetGo::Earlier, PATIENCE).await?;
    if outcome.pending.is_empty() && !outcome.released.is_empty() {
        pass_on::pass_on(sites, Some(vm), &vm_images.images).await?;
    }
    Ok(())
}

/// A VM that runs: its images have to be primary here, under an open token of this site. Where no gate saw to that,
/// it is made up for, or the VM is stopped: on a copy that is not primary it cannot write a byte anyway. A VM that runs
/// under its own open token is stopped only where a copy that answers outranks it. The event comes at every entry
/// into RUNNING, such as after a restart of the front-end.
async fn running(sites: &Sites, vm: i32) -> Result<(), RunError> {
    let vm_images = images::vm_images(sites, vm).await?;
    if vm_images.images.is_empty() || vm_images.vm.has_context || !crate::sites::is_running(&vm_images.vm) {
        let report = reconcile::reconcile_images(sites, &vm_images).await?;
        reconcile::note_reconcile(sites, &report, Instant::now());
        return reconcile::take_back_refusal(sites, &vm_images.vm).await;
    }
    match boot::judge_running(sites, &vm_images).await? {
        Running::Leave => reconcile::take_back_refusal(sites, &vm_images.vm).await,
        Running::Stop(refusal) => stop(sites, vm, refusal).await,
        Running::MakeUp(images) => {
            match tokio::time::timeout(MAKE_UP, boot::make_up(sites, &vm_images, &images)).await {
                Ok(Ok(_)) => reconcile::take_back_refusal(sites, &vm_images.vm).await,
                Ok(Err(RunError::Refused(refusal))) => stop(sites, vm, refusal).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(RunError::Unfit(Unfit::NoTimeForToken { vm })),
            }
        }
    }
}

/// Powers a VM off that must not run, and says why.
async fn stop(sites: &Sites, vm: i32, refusal: Refusal) -> Result<(), RunError> {
    let rule = refusal.rule.name();
    let error = RunError::Refused(refusal);
    let message: String = error.for_oned(vm).chars().filter(|c| !matches!(c, '"' | '\\')).collect();
    let stopped = sites.here.ask(async |one| {
        one.vm_action(VmAction::PoweroffHard, vm).await?;
        one.vm_update_append(vm, &format!("ERROR=\"{message}\"")).await
    });
    stopped.await?;
    tracing::warn!("VM {vm} powered off ({rule}): {error}");
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One look asks a silent cluster and a silent front-end; then the gate; then oned is told twice.
    #[test]
    fn the_verdict_on_a_vm_that_runs_comes_before_oned_ends_the_hook() {
        let needed = PATIENCE * 2 + MAKE_UP + PATIENCE;
        for hook in crate::setup::artifacts::hooks() {
            let timeout =
                hook.kept().find(|(key, _)| *key == "TIMEOUT").map(|(_, seconds)| seconds.parse().unwrap());
            assert!(needed < Duration::from_secs(timeout.unwrap()), "{}", hook.name);
        }
    }
}
