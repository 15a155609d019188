//! `onemirror reconcile`.

use super::table::{Align, Table, json, print, terminal_width};
use super::{CommandError, or_dash, warn_if_off};
use crate::operations::{ReconcileItem, ReconcileReport, reconcile};
use crate::sites::{NotReached, Sites};
use onemirror_protocol::Rule;
use tokio::time::Instant;

#[derive(Debug, clap::Args)]
pub(super) struct ReconcileArguments {
    /// JSON instead of a table
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(sites: &Sites, arguments: &ReconcileArguments) -> Result<(), CommandError> {
    if matches!(crate::state::emergency_off(&crate::config::state_dir()), Ok(Some(_))) {
        warn_if_off();
        return Ok(());
    }
    let started = Instant::now();
    let report = reconcile::reconcile(sites).await?;
    reconcile::note_reconcile(sites, &report, started);
    if let Err(error) = crate::state::remember_reconcile(&crate::config::state_dir()) {
        tracing::warn!("{error}");
    }
    let text = if arguments.json { json(&report)? } else { render(&report, terminal_width()) };
    print(&text)?;
    incomplete(&report).map_or(Ok(()), |said| Err(CommandError::Incomplete(said)))
}

/// What is undone, in words; `None`: nothing. An image may be in trouble because it could not be looked at, so the one
/// number is no part of the other.
fn incomplete(report: &ReconcileReport) -> Option<String> {
    let failures = report.items.iter().filter(|item| item.error.is_some()).count();
    match (failures, report.not_reached.len()) {
        (0, 0) => None,
        (failures, 0) => Some(format!("images not in order: {failures}; looked at: {}", report.looked_at)),
        (failures, not_reached) => Some(format!(
            "images not in order: {failures}; looked at: {}; datastores and VMs that could not be looked at: {not_reached}",
            report.looked_at
        )),
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
            or_dash(trouble(item).as_deref()).to_owned(),
        ]);
    }
    for NotReached { what, why } in &report.not_reached {
        table.row(["-", what, "-", "-", why]);
    }
    table.render(width)
}

fn trouble(item: &ReconcileItem) -> Option<String> {
    let error = item.error.as_ref()?;
    Some(item.code.iter().chain([error]).map(String::as_str).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_could_not_be_looked_at_are_no_part_of_those_that_were() {
        let item = |error: Option<&str>| ReconcileItem {
            image: "one/one-7".into(),
            vm: None,
            rule: None,
            done: String::new(),
            error: error.map(str::to_owned),
            code: None,
            locked_by: None,
        };
        let mut report = ReconcileReport { looked_at: 0, items: vec![item(None)], not_reached: Vec::new() };
        assert_eq!(incomplete(&report), None);
        report.items = vec![item(Some("no answer")), item(Some("no answer"))];
        assert_eq!(incomplete(&report).unwrap(), "images not in order: 2; looked at: 0");
        report.not_reached = vec![NotReached { what: "datastore 1".into(), why: "no answer".into() }];
        assert!(
            incomplete(&report).unwrap().ends_with("; datastores and VMs that could not be looked at: 1")
        );
    }
}
