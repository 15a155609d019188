//! `onemirror plan VM`.

use super::table::{json, print};
use super::{CommandError, warn_if_off};
use crate::engine::{Engine, Plan, PlanPart};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The VM's id
    vm: i32,
    /// JSON instead of text
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(engine: &Engine, arguments: &Arguments) -> Result<(), CommandError> {
    warn_if_off();
    let plan = engine.plan(arguments.vm).await?;
    let text = if arguments.json { json(&plan)? } else { render(&plan) };
    Ok(print(&text)?)
}

fn render(plan: &Plan) -> String {
    let mut text = format!("VM {} is {}.\n", plan.vm, plan.state);
    for (what, part) in [("A boot", &plan.boot), ("A terminate", &plan.terminate)] {
        let PlanPart { decision, steps, rules, code, .. } = part;
        let code = code.as_ref().map_or(String::new(), |code| format!(" ({code})"));
        text.push_str(&format!("{what} would now{code}: {decision}\n"));
        for step in steps {
            text.push_str(&format!("  {step}\n"));
        }
        for rule in rules {
            text.push_str(&format!("  because {rule}\n"));
        }
    }
    text.lines().map(|line| crate::text::printable(line) + "\n").collect()
}
