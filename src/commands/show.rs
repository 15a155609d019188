//! `onemirror show VM`.

use super::plan::what_is_done;
use super::table::{Align, Table, json, print, terminal_width};
use super::{CommandError, concerns, or_dash, warn_if_off};
use crate::operations::{VmView, overview};
use crate::sites::Sites;

#[derive(Debug, clap::Args)]
pub(super) struct ShowArguments {
    /// The VM's id
    vm: i32,
    /// JSON instead of a table
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(sites: &Sites, arguments: &ShowArguments) -> Result<(), CommandError> {
    warn_if_off();
    let view = overview::show(sites, arguments.vm).await?;
    let text = match arguments.json {
        true => json(&view)?,
        false => render(&view, sites.here.name(), sites.there.name(), terminal_width()),
    };
    print(&text)?;
    match view.error {
        Some(error) => Err(CommandError::Incomplete(error)),
        None => Ok(()),
    }
}

fn render(view: &VmView, here: &str, there: &str, width: Option<u16>) -> String {
    if view.is_done {
        return format!("VM {} is DONE\n", view.id);
    }
    let mut head = Table::new(&[
        ("ID", Align::Right),
        ("NAME", Align::Left),
        ("STAT", Align::Left),
        ("CONTEXT", Align::Left),
    ]);
    let context = if view.has_context { "yes" } else { "no: a boot from POWEROFF is not held" };
    head.row([&view.id.to_string(), &view.name, &view.state, context]);
    let mut disks = Table::new(&[
        ("DISK", Align::Right),
        ("IMAGE", Align::Left),
        ("MODE", Align::Left),
        ("SITE", Align::Left),
        ("ROLE", Align::Left),
        ("TOKEN", Align::Left),
        ("REPORT", Align::Left),
        ("VM", Align::Left),
        ("HOME", Align::Left),
    ]);
    for disk in &view.disks {
        let id = disk.disk_id.map(|id| id.to_string()).unwrap_or_default();
        for (site, copy, vm) in [(here, &disk.here, None), (there, &disk.there, disk.vm_there.as_deref())] {
            disks.row([
                id.as_str(),
                &disk.image,
                or_dash(disk.mode.as_deref()),
                site,
                or_dash(Some(&copy.role)),
                or_dash(copy.token.as_deref()),
                or_dash(copy.report.as_deref()),
                or_dash(vm),
                or_dash(disk.home.as_deref()),
            ]);
        }
    }
    let mut text = format!("{}\n{}", head.render(width), disks.render(width));
    for disk in &view.disks {
        if let Some(handoff) = &disk.handoff {
            text.push_str(&crate::text::printable(&format!("{}: {handoff}", disk.image)));
            text.push('\n');
        }
    }
    text.push_str(&concerns(&view.concerns));
    if let Some(boot) = &view.boot {
        text.push_str(&what_is_done("A boot", boot));
    }
    text
}
