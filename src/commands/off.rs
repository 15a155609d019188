//! `onemirror off` and `onemirror on`.

use super::CommandError;
use super::table::print;
use crate::audit::{AuditLog, Entry, Outcome};
use crate::config::{Config, audit_log_path, state_dir};
use crate::doctor::find::servers;
use crate::sites::local_client;
use crate::state;
use std::path::Path;
use std::time::Duration;

/// The switch is thrown where things go wrong, and does not wait for them.
const SERVERS_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct OffArguments {
    /// Why; shown by list and recorded in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn off(config_path: &Path, arguments: &OffArguments) -> Result<(), CommandError> {
    let reason = arguments.reason.trim();
    if reason.is_empty() {
        return Err(CommandError::Usage("--reason has to say something".into()));
    }
    state::switch_off(&state_dir(), reason)?;
    note("off", Some(reason.to_owned()));
    print("onemirror is off: every action goes straight to the stock driver; onemirror on ends that\n")?;
    tell_of_other_servers(config_path).await
}

pub(super) async fn on(config_path: &Path) -> Result<(), CommandError> {
    let ended = state::switch_on(&state_dir())?;
    note("on", ended.as_ref().map(|off| format!("was off: {}", off.reason)));
    print(match ended {
        Some(_) => "onemirror is on again; run onemirror reconcile\n",
        None => "onemirror was on already\n",
    })?;
    tell_of_other_servers(config_path).await
}

/// The switch is this machine's; which server of a Raft group leads next, nobody knows.
async fn tell_of_other_servers(config_path: &Path) -> Result<(), CommandError> {
    let config = Config::load(config_path).ok();
    let Ok(client) = local_client(config.as_ref()) else { return Ok(()) };
    let asked = tokio::time::timeout(SERVERS_DEADLINE, servers(&client)).await;
    match asked.unwrap_or_default() {
        names if names.len() > 1 => Ok(print(&format!(
            "this holds for this server alone: type the same on each of {}\n",
            crate::text::printable(&names.join(", "))
        ))?),
        _ => Ok(()),
    }
}

fn note(step: &str, reason: Option<String>) {
    let entry = Entry { step: Some(step.into()), reason, ..Entry::new("", "operator", Outcome::Done) };
    // the log warns by itself, once
    let _ = AuditLog::open(&audit_log_path()).record(&entry);
}
