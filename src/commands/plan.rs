//! `onemirror plan VM`.

use super::table::{json, print};
use super::{CommandError, warn_if_off};
use crate::operations::{Plan, PlanPart, overview};
use crate::sites::Sites;

#[derive(Debug, clap::Args)]
pub(super) struct PlanArguments {
    /// The VM's id
    vm: i32,
    /// JSON instead of text
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(sites: &Sites, arguments: &PlanArguments) -> Result<(), CommandError> {
    warn_if_off();
    let plan = overview::plan(sites, arguments.vm).await?;
    let text = if arguments.json { json(&plan)? } else { render(&plan) };
    Ok(print(&text)?)
}

fn render(plan: &Plan) -> String {
    let mut text = crate::text::printable(&format!("VM {} is {}.", plan.vm, plan.state)) + "\n";
    for (what, part) in [("A boot", &plan.boot), ("A terminate", &plan.terminate)] {
        text.push_str(&what_is_done(what, part));
        for rule in &part.rules {
            text.push_str(&format!("  because {}\n", crate::text::printable(rule)));
        }
    }
    text
}

/// The decision, and the steps that it takes.
pub(super) fn what_is_done(what: &str, part: &PlanPart) -> String {
    let code = part.code.as_ref().map_or(String::new(), |code| format!(" ({code})"));
    let decision = format!("{what} would now{code}: {}", part.decision);
    let steps = part.steps.iter().map(|step| format!("  {step}"));
    std::iter::once(decision).chain(steps).map(|line| crate::text::printable(&line) + "\n").collect()
}
