//! `onemirror reconcile`.

use super::table::{Align, Table, json, print, terminal_width};
use super::{CommandError, or_dash, warn_if_off};
use crate::engine::{Engine, NotReached, ReconcileReport};
use crate::handoff::Rule;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// JSON instead of a table
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(engine: &Engine, arguments: &Arguments) -> Result<(), CommandError> {
    if matches!(crate::state::emergency_off(&crate::config::state_dir()), Ok(Some(_))) {
        warn_if_off();
        return Ok(());
    }
    let started = Instant::now();
    let report = engine.reconcile().await?;
    engine.note_reconcile(&report, started);
    if let Err(error) = crate::state::remember_reconcile(&crate::config::state_dir()) {
        tracing::warn!("{error}");
    }
    let text = if arguments.json { json(&report)? } else { render(&report, terminal_width()) };
    print(&text)?;
    let failures = report.items.iter().filter(|item| item.error.is_some()).count();
    match (failures, report.not_reached.len()) {
        (0, 0) => Ok(()),
        (failures, 0) => Err(CommandError::Incomplete(format!(
            "{failures} of {} images are not in order",
            report.looked_at
        ))),
        (failures, not_reached) => Err(CommandError::Incomplete(format!(
            "{failures} of {} images are not in order, and not everything could be looked at ({not_reached})",
            report.looked_at
        ))),
    }
}

fn render(report: &ReconcileReport, width: Option<u16>) -> String {
    if report.items.is_empty() && report.not_reached.is_empty() {
        return format!("{} mirrored images, nothing to do\n", report.looked_at);
    }
    let mut table = Table::new(&[
        ("VM", Align::Right),
        ("IMAGE", Align::Left),
        ("RULE", Align::Left),
        ("DONE", Align::Left),
        ("TROUBLE", Align::Left),
    ]);
    for item in &report.items {
        table.row([
            item.vm.map_or("-".to_owned(), |vm| vm.to_string()),
            item.image.clone(),
            item.rule.map_or("-", Rule::name).to_owned(),
            or_dash(Some(&item.done)).to_owned(),
            or_dash(item.error.as_deref()).to_owned(),
        ]);
    }
    for NotReached { what, why } in &report.not_reached {
        table.row(["-", what, "-", "-", why]);
    }
    table.render(width)
}
