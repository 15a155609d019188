//! The command line: what an operator types and what OpenNebula calls, one file per command.

mod datastore;
mod doctor;
pub mod driver;
mod failover;
pub mod hook;
mod librbd;
mod list;
mod lost;
mod off;
mod plan;
mod reconcile;
mod rehome;
mod setup;
mod show;
pub mod table;
mod tm;

use crate::config::{self, Config};
use crate::events::HookEvent;
use crate::protection::Concern;
use crate::setup::SetupError;
use crate::sites::{RunError, Sites};
use clap::{Parser, Subcommand};
use onemirror_protocol::{Code, Unfit};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Disaster-recovery failback as part of the OpenNebula VM life cycle, on mirrored Ceph RBD images.
///
/// Exit status: 0 done; 1 refused, nothing is half done; 2 usage or configuration; 3 failed, or not everything is in order
/// or could be looked at. All are safe to repeat. 255 a bug.
#[derive(Debug, Parser)]
#[command(name = "onemirror", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// The configuration [default: $ONEMIRROR_CONF, $ONE_LOCATION/etc/onemirror.conf, /etc/one/onemirror.conf]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Explain on stderr what is done; twice for every command
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Invocation,
}

#[derive(Debug, Subcommand)]
enum Invocation {
    /// VMs with disks on Ceph: who is primary, lag, pending handoffs, lost protection
    List(list::ListArguments),
    /// One VM and its disks, as both sites see them
    Show(show::ShowArguments),
    /// What a boot and a terminate of a VM would do now, and why; changes nothing
    Plan(plan::PlanArguments),
    /// Find and finish what events left undone
    Reconcile(reconcile::ReconcileArguments),
    /// Start a VM here; with --force also where the other site is lost
    Failover(failover::FailoverArguments),
    /// Decide for good that the images of a VM belong to this site, or to its peer
    Rehome(rehome::RehomeArguments),
    /// Copies that were outranked and set aside, with what never reached the other site
    Lost(lost::LostArguments),
    /// Everything that must be true for a failback to work, with the fix beside each failure
    Doctor(doctor::DoctorArguments),
    /// Put onemirror into this front-end, keep it there, or take it out
    Setup(setup::SetupArguments),
    /// Emergency switch: every action goes straight to the stock driver
    Off(off::OffArguments),
    /// End the emergency
    On,
    /// Called by the transfer manager's wrappers
    #[command(hide = true)]
    Tm(driver::DriverCall),
    /// Called by the datastore driver's wrappers
    #[command(hide = true)]
    Datastore(driver::DriverCall),
    /// Called by OpenNebula's hooks
    #[command(hide = true)]
    Hook {
        /// The event
        event: HookEvent,
    },
    /// Makes calls of Ceph's libraries for others of this program
    #[command(hide = true, name = crate::ceph::LIBRARY_COMMAND)]
    Librbd(librbd::LibraryArguments),
}

/// Why a command ended without success, and its exit status.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("{0}")]
    Run(#[from] RunError),
    #[error("{0}")]
    State(#[from] crate::state::StateError),
    #[error("{0}")]
    Hook(#[from] hook::HookError),
    #[error("{0}")]
    Setup(#[from] crate::setup::SetupError),
    #[error("cannot print: {0}")]
    Output(#[from] std::io::Error),
    #[error("cannot print as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Usage(String),
    /// Asked whether everything is in place, and it is not.
    #[error("{0}")]
    NotInPlace(String),
    /// Everything was said already; something could not be done.
    #[error("{0}")]
    Incomplete(String),
}

impl CommandError {
    fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Run(RunError::Config(_)) | Self::Hook(hook::HookError::Input(_)) => 2,
            Self::Setup(SetupError::NoRole | SetupError::NotRoot) => 2,
            Self::Setup(SetupError::NoFrontEnd { .. } | SetupError::NotSetUp { .. })
            | Self::NotInPlace(_) => 1,
            Self::Run(error) | Self::Hook(hook::HookError::Run(error)) => match error {
                RunError::Unfit(Unfit::Bug) => 255,
                error if error.is_refusal() => 1,
                _ => 3,
            },
            _ => 3,
        }
    }

    /// What a refusal is known by in docs/refusals.md.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Run(error) | Self::Hook(hook::HookError::Run(error)) => Some(error.code()),
            _ => None,
        }
    }
}

impl Cli {
    /// Whether stderr belongs to oned: each of its lines then has to say which kind it is.
    pub fn speaks_to_oned(&self) -> bool {
        matches!(self.command, Invocation::Tm(_) | Invocation::Datastore(_))
    }

    /// How much to explain: 0 warnings, 1 what is done, 2 and more every command.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// Runs the command; everything it has to say is printed.
    pub async fn run(self) -> ExitCode {
        let config_path = config::locate(self.config.as_deref());
        match self.command.run(&config_path).await {
            Ok(status) => status,
            Err(error) => complain(&error),
        }
    }
}

impl Invocation {
    async fn run(self, config_path: &Path) -> Result<ExitCode, CommandError> {
        let sites = |event: &str| {
            let config = Config::load(config_path).map_err(RunError::from)?;
            Ok::<_, CommandError>(Sites::new(config, event)?)
        };
        match self {
            Self::Tm(called) => return Ok(tm::run(config_path, &called).await),
            Self::Datastore(called) => return Ok(datastore::run(config_path, &called).await),
            Self::Doctor(arguments) => {
                return doctor::run(Config::load(config_path), &arguments).await.map(ExitCode::from);
            }
            Self::List(arguments) => list::run(&sites("list")?, &arguments).await?,
            Self::Show(arguments) => show::run(&sites("show")?, &arguments).await?,
            Self::Plan(arguments) => plan::run(&sites("plan")?, &arguments).await?,
            Self::Reconcile(arguments) => reconcile::run(&sites("reconcile")?, &arguments).await?,
            Self::Failover(arguments) => failover::run(&sites("failover")?, &arguments).await?,
            Self::Rehome(arguments) => rehome::run(&sites("rehome")?, &arguments).await?,
            Self::Lost(arguments) => lost::run(&sites("lost")?, &arguments).await?,
            Self::Setup(arguments) => setup::run(config_path, &arguments).await?,
            Self::Off(arguments) => off::off(config_path, &arguments).await?,
            Self::On => off::on(config_path).await?,
            Self::Librbd(arguments) => return Ok(librbd::run(&arguments)),
            Self::Hook { event } => hook::run(config_path, event, &mut std::io::stdin().lock()).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn complain(error: &CommandError) -> ExitCode {
    for line in told(error).lines() {
        eprintln!("{}", crate::text::printable(line));
    }
    ExitCode::from(error.exit_status())
}

/// Why a command ended, by its code where it has one: that is what docs/refusals.md is searched for.
fn told(error: &CommandError) -> String {
    let code = error.code().map(|code| format!("{code} ")).unwrap_or_default();
    format!("onemirror: {code}{error}")
}

/// Shows what is switched off, loudly.
fn warn_if_off() {
    if let Ok(Some(off)) = crate::state::emergency_off(&config::state_dir()) {
        eprintln!(
            "onemirror is SWITCHED OFF ({}): nothing is guarded and nothing is handed over; onemirror on ends that",
            crate::text::printable(&off.reason)
        );
    }
}

/// What is wrong with the protection of disks: a line for each, and one for what to type.
fn concerns(concerns: &[Concern]) -> String {
    let mut text = String::new();
    for Concern { vm, image, what, advice, .. } in concerns {
        let whose = vm.map(|vm| format!("VM {vm}: ")).unwrap_or_default();
        for line in [format!("{whose}{image} {what}"), format!("    {advice}")] {
            text.push_str(&crate::text::printable(&line));
            text.push('\n');
        }
    }
    text
}

/// A cell for something that may be absent.
fn or_dash(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_nothing_ends_with_1() {
        let image: onemirror_protocol::ImageSpec = "one/one-7".parse().unwrap();
        let (steps, there) = (String::from("promote one/one-7"), String::from("site-b"));
        for (error, status) in [
            (RunError::Unfit(Unfit::VmIsDone { vm: 3 }), 1),
            (RunError::Changed { image: image.clone() }, 1),
            (RunError::Unfit(Unfit::NotFollowed { image: image.clone(), there }), 3),
            (RunError::Unfit(Unfit::LockRanOut { steps: steps.clone() }), 3),
            (RunError::Unfit(Unfit::NotAccepted { steps }), 3),
            (RunError::Unfit(Unfit::SetAsideTooSlow { image: image.clone() }), 3),
            (RunError::Unfit(Unfit::ClusterSilent { why: String::new() }), 3),
            (RunError::Unfit(Unfit::Bug), 255),
        ] {
            let told = error.to_string();
            assert_eq!(CommandError::Run(error).exit_status(), status, "{told}");
        }
        let of_hook = hook::HookError::Run(RunError::Unfit(Unfit::Bug));
        assert_eq!(CommandError::Hook(of_hook).exit_status(), 255);
    }

    #[test]
    fn a_refusal_is_told_with_its_code_and_a_wrong_call_without() {
        let refused = RunError::Unfit(Unfit::VmIsDone { vm: 3 });
        assert_eq!(told(&refused.into()), "onemirror: OM165 VM 3 is DONE, so nothing boots or terminates it");
        assert_eq!(
            told(&CommandError::Usage("--force needs a --reason".into())),
            "onemirror: --force needs a --reason"
        );
    }
}
