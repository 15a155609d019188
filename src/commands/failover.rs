//! `onemirror failover VM`.

use super::table::{json, print};
use super::{CommandError, warn_if_off};
use crate::operations::failover;
use crate::sites::{ForceOrder, Sites, images};

#[derive(Debug, clap::Args)]
pub(super) struct FailoverArguments {
    /// The VM's id here
    vm: i32,
    /// Take what the gate would refuse: with all that the other cluster has, if that answers; else promoted by force, and
    /// writes that have not arrived here are LOST
    #[arg(long, requires = "reason")]
    force: bool,
    /// With --force: the other site is off for good, or fenced, so what its front-end still says of running VMs is void
    #[arg(long, requires = "force")]
    site_is_off: bool,
    /// Why; recorded in the audit log and in the images
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// JSON instead of text
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(sites: &Sites, arguments: &FailoverArguments) -> Result<(), CommandError> {
    warn_if_off();
    let reason = arguments.reason.as_deref().unwrap_or_default().trim();
    if arguments.force && reason.is_empty() {
        return Err(CommandError::Usage("--force needs a --reason that says something".into()));
    }
    let order = ForceOrder { reason, site_is_off: arguments.site_is_off };
    let vm_images = images::vm_images(sites, arguments.vm).await?;
    let outcome = failover::failover(sites, vm_images, arguments.force.then_some(order)).await?;
    if arguments.json {
        return Ok(print(&json(&outcome)?)?);
    }
    let mut text = match &outcome.overridden {
        Some(overridden) => format!("passed over by force: {overridden}\n"),
        None if arguments.force => "nothing was forced: the gate lets this VM start as it is\n".to_owned(),
        None => String::new(),
    };
    for image in &outcome.taken_over {
        text.push_str(&format!("{image}: demoted on {} and taken over\n", sites.there.name()));
    }
    for image in &outcome.forced {
        text.push_str(&format!("{image}: promoted by force\n"));
    }
    text.push_str(&match outcome.started_by {
        None => format!("VM {} is pending; OpenNebula starts it\n", outcome.vm),
        Some(by) => format!("VM {vm} was started: onevm {by} {vm}\n", vm = outcome.vm),
    });
    let text: String = text.lines().map(|line| crate::text::printable(line) + "\n").collect();
    Ok(print(&text)?)
}
