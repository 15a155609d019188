//! `onemirror doctor`.

use super::CommandError;
use super::table::{Align, Table, json, print, terminal_width};
use crate::config::{self, Config, ConfigError, ConfiguredRole};
use crate::doctor::facts::{Configuration, Examined};
use crate::doctor::find;
use crate::doctor::{Diagnosis, Level, NOT_LOOKED_AT, examine, exit_status};
use crate::opennebula::{Client, discover_auth_file, read_session};
use crate::operations::overview;
use crate::setup::artifacts::hooks;
use crate::setup::gather::{self, Owners, Wishes};
use crate::setup::layout::Layout;
use crate::setup::plan::{Goal, plan};
use crate::sites::{Sites, local_client};
use crate::state;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArguments {
    /// JSON instead of a table
    #[arg(short, long)]
    json: bool,
    /// Also what is as it should be
    #[arg(short, long)]
    all: bool,
}

/// Runs it; the exit status: 0 all is well, 1 there are warnings, 3 there are failures.
pub(super) async fn run(
    config: Result<Config, ConfigError>,
    arguments: &DoctorArguments,
) -> Result<u8, CommandError> {
    let facts = facts(config).await;
    let findings = examine(&facts);
    let text =
        if arguments.json { json(&findings)? } else { render(&findings, arguments.all, terminal_width()) };
    print(&text)?;
    Ok(exit_status(&findings))
}

fn render(findings: &[Diagnosis], all: bool, width: Option<u16>) -> String {
    let mut table = Table::new(&[
        ("LEVEL", Align::Left),
        ("CHECK", Align::Left),
        ("WHAT", Align::Left),
        ("TO DO", Align::Left),
    ]);
    // what could not be looked at is one line
    let unknown: Vec<String> = findings
        .iter()
        .filter(|finding| !all && finding.text == NOT_LOOKED_AT)
        .map(|finding| finding.check.to_string())
        .collect();
    let shown =
        findings.iter().filter(|finding| all || finding.level != Level::Ok && finding.text != NOT_LOOKED_AT);
    let mut rows = 0;
    for finding in shown {
        rows += 1;
        table.row([
            finding.level.to_string(),
            finding.check.to_string(),
            finding.text.clone(),
            finding.fix.clone().unwrap_or_default(),
        ]);
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let number = |level, what: &str| match count(level) {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    let mut sum = format!("{}, {}\n", number(Level::Failure, "failure"), number(Level::Warning, "warning"));
    if !unknown.is_empty() {
        sum = format!("not looked at, see the failures: {}\n{sum}", unknown.join(", "));
    }
    if rows == 0 { sum } else { format!("{}{sum}", table.render(width)) }
}

async fn facts(config: Result<Config, ConfigError>) -> Examined {
    let state_dir = config::state_dir();
    let sites = config.as_ref().ok().map(|config| Sites::new(config.clone(), "doctor"));
    let mut facts = Examined {
        configuration: config.as_ref().map(configuration).map_err(ToString::to_string),
        switched_off: state::emergency_off(&state_dir).ok().flatten().map(|off| off.reason),
        setup: Ok(Vec::new()),
        reconciled: state::last_reconcile(&state_dir).map(age),
        failed_hooks: Vec::new(),
        front_end_here: Err(String::new()),
        front_end_there: None,
        clock_difference: None,
        pools: Vec::new(),
        vms: Vec::new(),
        concerns: None,
        shared_pools: BTreeSet::new(),
    };
    let client = local_client(config.as_ref().ok()).map_err(|error| error.to_string());
    facts.front_end_here = match &client {
        Ok(client) => {
            let found = async { find::front_end(client, &client.own_user().await?).await };
            found.await.map_err(|error| error.to_string())
        }
        Err(why) => Err(why.clone()),
    };
    facts.failed_hooks = match &client {
        Ok(client) => failed_hooks(client).await,
        Err(_) => Vec::new(),
    };
    facts.setup = setup(client).await;
    if let Some(Ok(sites)) = sites {
        let (there, pools, vms, overview, shared_pools) = futures::join!(
            find::front_end_there(&sites),
            find::pools_of_both(&sites),
            find::vms(&sites),
            overview::overview(&sites),
            find::shared_pools(&sites)
        );
        facts.front_end_there = Some(there.0);
        facts.clock_difference = there.1;
        // a front-end that does not answer has a finding of its own
        facts.pools = pools.unwrap_or_default();
        facts.vms = vms.unwrap_or_default();
        facts.concerns = overview.ok().map(|overview| overview.concerns);
        facts.shared_pools = shared_pools;
    }
    facts
}

fn configuration(config: &Config) -> Configuration {
    let mut credentials = Vec::new();
    let own = discover_auth_file(config.site.auth.as_deref());
    for file in [own.map_err(|error| error.to_string()), Ok(config.peer.auth.clone())] {
        let checked = file.and_then(|file| read_session(&file).map_err(|error| error.to_string()));
        credentials.extend(checked.err());
    }
    Configuration {
        here: config.site.name.clone(),
        there: config.peer.name.clone(),
        is_home: config.site.role == ConfiguredRole::Home,
        peer_endpoint: config.peer.endpoint.clone(),
        credentials,
    }
}

fn age(time: Timestamp) -> Duration {
    Timestamp::now().duration_since(time).try_into().unwrap_or_default()
}

/// What setup would change. Whether the timer runs is told by what it does: cron may do it as well.
async fn setup(client: Result<Client, String>) -> Result<Vec<String>, String> {
    let layout = Layout::of_environment();
    let owners = Owners::of(&layout).map_err(|error| error.to_string())?;
    let facts = gather::facts(&layout, &owners, Wishes { timer: false }, client)
        .await
        .map_err(|error| error.to_string())?;
    let plan = plan(&facts, Goal::Installed);
    Ok(plan.steps.iter().map(ToString::to_string).chain(plan.problems).collect())
}

/// Hooks of ours whose last run failed.
async fn failed_hooks(client: &Client) -> Vec<(String, String)> {
    let ours: Vec<&str> = hooks().into_iter().map(|definition| definition.name).collect();
    let mut failed = Vec::new();
    for hook in client.hook_pool().await.unwrap_or_default() {
        if ours.contains(&hook.name.as_str())
            && let Ok(Some(run)) = client.last_hook_run(hook.id).await
            && run.status != 0
        {
            failed.push((hook.name, format!("exit status {}: {}", run.status, run.said)));
        }
    }
    failed
}
