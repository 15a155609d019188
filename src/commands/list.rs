//! `onemirror list`.

use super::table::{Align, Table, json, print, terminal_width};
use super::{CommandError, concerns, or_dash, warn_if_off};
use crate::operations::{Overview, overview};
use crate::sites::{NotReached, Sites};

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    /// JSON instead of a table
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(sites: &Sites, arguments: &ListArguments) -> Result<(), CommandError> {
    warn_if_off();
    let overview = overview::overview(sites).await?;
    let text = if arguments.json { json(&overview)? } else { render(&overview, terminal_width()) };
    print(&text)?;
    match overview.is_in_order() {
        true => Ok(()),
        false => Err(CommandError::Incomplete(
            "not everything is in order; see HANDOFF, and what is below the table".into(),
        )),
    }
}

fn render(overview: &Overview, width: Option<u16>) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("NAME", Align::Left),
        ("STAT", Align::Left),
        ("IMAGE", Align::Left),
        ("MODE", Align::Left),
        (&overview.site.to_uppercase(), Align::Left),
        (&overview.peer.to_uppercase(), Align::Left),
        ("LAG", Align::Left),
        ("HANDOFF", Align::Left),
    ]);
    for vm in &overview.vms {
        let id = vm.id.to_string();
        if let Some(error) = &vm.error {
            table.row([&id, &vm.name, &vm.state, "-", "-", "-", "-", "-", error]);
        }
        for disk in &vm.disks {
            table.row([
                &id,
                &vm.name,
                &vm.state,
                &disk.image,
                or_dash(disk.mode.as_deref()),
                or_dash(Some(&disk.here.role)),
                or_dash(Some(&disk.there.role)),
                or_dash(disk.lag.as_deref()),
                or_dash(disk.handoff.as_deref()),
            ]);
        }
    }
    for pending in &overview.pending {
        let id = pending.vm.map_or("-".to_owned(), |vm| vm.to_string());
        let state = if pending.vm.is_some() { "DONE" } else { "-" };
        table.row([&id, "-", state, &pending.image, "-", "-", "-", "-", &pending.handoff]);
    }
    for lost in &overview.lost {
        let id = lost.vm.map_or("-".to_owned(), |vm| vm.to_string());
        let what = format!("set aside, not lost: {}", super::lost::describe(lost));
        table.row([&id, "-", "KEPT", &lost.image, "-", "-", "-", "-", &what]);
    }
    for NotReached { what, why } in &overview.not_reached {
        table.row(["-", what, "-", "-", "-", "-", "-", "-", why]);
    }
    format!("{}{}", table.render(width), concerns(&overview.concerns))
}
