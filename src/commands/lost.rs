//! `onemirror lost`: the copies that were set aside.

use super::table::{Align, Table, json, print, terminal_width};
use super::{CommandError, warn_if_off};
use crate::operations::{LostImage, lost};
use crate::sites::Sites;
use onemirror_protocol::ImageSpec;

/// What a site wrote and had not sent when the other one took over is kept under another name.
#[derive(Debug, clap::Args)]
pub(super) struct LostArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// What is kept on this site, where, of which VM, how large and how old
    List {
        /// JSON instead of a table
        #[arg(short, long)]
        json: bool,
    },
    /// Register a kept copy as an image of its own, to attach it to a VM
    Restore {
        /// As `onemirror lost list` names it: pool/image
        image: ImageSpec,
    },
    /// Remove a kept copy for good
    Drop {
        /// As `onemirror lost list` names it: pool/image
        image: ImageSpec,
        /// Yes, what only this copy has is not needed any more
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(sites: &Sites, arguments: &LostArguments) -> Result<(), CommandError> {
    warn_if_off();
    match &arguments.verb {
        Verb::List { json: as_json } => {
            let lost = lost::lost_images(sites).await?;
            let text = if *as_json { json(&lost)? } else { render(&lost, terminal_width()) };
            print(&text)?;
        }
        Verb::Restore { image } => {
            let id = lost::restore_lost(sites, image).await?;
            print(&format!("{image} is image {id} now\n"))?;
        }
        Verb::Drop { image, yes: false } => {
            return Err(CommandError::Usage(format!(
                "{image} would be gone for good; if it is not needed: onemirror lost drop {image} --yes"
            )));
        }
        Verb::Drop { image, yes: true } => {
            lost::drop_lost(sites, image).await?;
            print(&format!("{image} is gone\n"))?;
        }
    }
    Ok(())
}

/// What a kept copy is, in a few words.
pub(super) fn describe(lost: &LostImage) -> String {
    format!("{} of {}, since {}", megabytes(lost.size), lost.of, lost.since.strftime("%Y-%m-%d %H:%M UTC"))
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}

fn render(lost: &[LostImage], width: Option<u16>) -> String {
    if lost.is_empty() {
        return "nothing was set aside on this site\n".to_owned();
    }
    let mut table = Table::new(&[
        ("VM", Align::Right),
        ("IMAGE", Align::Left),
        ("OF", Align::Left),
        ("SIZE", Align::Right),
        ("SINCE", Align::Left),
        ("AGE", Align::Right),
        ("REGISTERED", Align::Right),
        ("WHY", Align::Left),
    ]);
    let now = jiff::Timestamp::now();
    for lost in lost {
        table.row([
            lost.vm.map_or("-".to_owned(), |vm| vm.to_string()),
            lost.image.clone(),
            lost.of.clone(),
            megabytes(lost.size),
            lost.since.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            format!("{} d", now.duration_since(lost.since).as_hours() / 24),
            lost.registered.map_or("-".to_owned(), |id| id.to_string()),
            lost.why.clone(),
        ]);
    }
    table.render(width)
}
