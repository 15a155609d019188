//! `onemirror off` and `onemirror on`.

use super::CommandError;
use super::table::print;
use crate::audit::{AuditLog, Entry, Outcome};
use crate::config::{audit_log_path, state_dir};
use crate::state;

#[derive(Debug, clap::Args)]
pub(super) struct Off {
    /// Why; shown by list and recorded in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) fn off(arguments: &Off) -> Result<(), CommandError> {
    let reason = arguments.reason.trim();
    if reason.is_empty() {
        return Err(CommandError::Usage("--reason has to say something".into()));
    }
    state::switch_off(&state_dir(), reason)?;
    note("off", Some(reason.to_owned()));
    Ok(print("onemirror is off: every action goes straight to the stock driver; onemirror on ends that\n")?)
}

pub(super) fn on() -> Result<(), CommandError> {
    let ended = state::switch_on(&state_dir())?;
    note("on", ended.as_ref().map(|off| format!("was off: {}", off.reason)));
    Ok(print(match ended {
        Some(_) => "onemirror is on again; run onemirror reconcile\n",
        None => "onemirror was on already\n",
    })?)
}

fn note(step: &str, reason: Option<String>) {
    let entry = Entry { step: Some(step.into()), reason, ..Entry::new("", "operator", Outcome::Done) };
    // the log warns by itself, once
    let _ = AuditLog::open(&audit_log_path()).record(&entry);
}
