//! `onemirror setup`: what `install.sh` and the packages call.

use super::CommandError;
use super::table::print;
use crate::config::{Config, ConfiguredRole};
use crate::doctor::is_known_version;
use crate::opennebula::{Client, read_session};
use crate::setup::SetupError;
use crate::setup::artifacts::VERSION;
use crate::setup::configuration::{self, Answers, Clusters};
use crate::setup::execute::Hands;
use crate::setup::gather::{self, Owners, Wishes};
use crate::setup::layout::Layout;
use crate::setup::plan::{Goal, SetupFacts, SetupPlan, plan};
use crate::sites::local_client;
use crate::text::printable;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct SetupArguments {
    /// What this site is; needed the first time
    #[arg(long, value_enum)]
    role: Option<ConfiguredRole>,
    /// The address of the other front-end's oned, for a new configuration
    #[arg(long, value_name = "URL")]
    peer_endpoint: Option<String>,
    /// A file with user:password for the other front-end, to be copied for a new configuration
    #[arg(long, value_name = "FILE")]
    peer_auth: Option<PathBuf>,
    /// Print every change and make none
    #[arg(long, group = "way")]
    dry_run: bool,
    /// Exit status 1 if anything is not in place; change nothing
    #[arg(long, group = "way")]
    check: bool,
    /// Put back what an upgrade has overwritten
    #[arg(long, group = "way")]
    repair: bool,
    /// Take onemirror out again; the configuration and the audit log stay
    #[arg(long)]
    uninstall: bool,
    /// With --uninstall: remove the configuration, the audit log and the state, too
    #[arg(long, requires = "uninstall")]
    purge: bool,
    /// Leave systemd alone
    #[arg(long)]
    no_timer: bool,
}

impl SetupArguments {
    fn goal(&self) -> Goal {
        match (self.uninstall, self.purge) {
            (false, _) => Goal::Installed,
            (true, false) => Goal::Removed,
            (true, true) => Goal::Purged,
        }
    }

    fn changes_something(&self) -> bool {
        !self.dry_run && !self.check
    }
}

pub(super) async fn run(config_path: &Path, arguments: &SetupArguments) -> Result<(), CommandError> {
    let layout = Layout::of_environment();
    if arguments.repair && arguments.uninstall {
        return Err(CommandError::Usage("--repair and --uninstall contradict each other".into()));
    }
    let owners = Owners::of(&layout)?;
    if layout.one_location.is_none() && !owners.is_root && arguments.changes_something() {
        return Err(SetupError::NotRoot.into());
    }
    let is_configured = layout.configuration.exists();
    if arguments.repair && !is_configured {
        return Err(SetupError::NotSetUp { path: layout.configuration }.into());
    }
    let config = Config::load(config_path);
    let client = || local_client(config.as_ref().ok()).map_err(|error| error.to_string());
    let wishes = Wishes { timer: !arguments.no_timer };
    let mut facts = gather::facts(&layout, &owners, wishes, client()).await?;
    let (mut notes, mut problems) = (Vec::new(), Vec::new());
    if arguments.goal() == Goal::Installed {
        facts.new_peer_auth = new_peer_auth(&layout, arguments)?;
        if !is_configured && arguments.check && arguments.role.is_none() {
            problems.push(SetupError::NotSetUp { path: layout.configuration.clone() }.to_string());
        } else if !is_configured {
            notes.extend(new_configuration(&mut facts, arguments, client().ok().as_ref()).await?);
        } else if let Err(error) = &config {
            notes.push(error.to_string());
        }
        if let Ok(client) = client() {
            notes.extend(about_front_end(&client).await);
        }
    }
    let mut plan = plan(&facts, arguments.goal());
    plan.notes.extend(notes);
    plan.problems.extend(problems);
    if arguments.changes_something() {
        let client = client().ok();
        carry_out(&Hands { layout: &layout, owners: &owners, client: client.as_ref() }, &plan).await?;
    } else {
        say(plan.steps.iter().map(|step| format!("would {step}")))?;
    }
    conclude(arguments, &plan)
}

/// Adds what a first configuration is to say to the facts; what is left to fill in.
async fn new_configuration(
    facts: &mut SetupFacts,
    arguments: &SetupArguments,
    client: Option<&Client>,
) -> Result<Vec<String>, CommandError> {
    let role = arguments.role.ok_or(SetupError::NoRole)?;
    let mut notes = Vec::new();
    let clusters = match client {
        Some(client) => configuration::clusters(client).await,
        None => Err("the front-end does not answer".into()),
    };
    let clusters = clusters.unwrap_or_else(|why| {
        notes.push(format!("the names of the clusters could not be found out: {why}"));
        Clusters::default()
    });
    let answers = Answers { role, peer_endpoint: arguments.peer_endpoint.clone(), clusters };
    let (text, left) = configuration::write(&facts.layout, &answers)?;
    facts.new_configuration = Some(text);
    let path = facts.layout.configuration.display();
    notes.extend(left.into_iter().map(|key| format!("fill in {path}: {key}")));
    if !facts.layout.peer_auth.exists() && arguments.peer_auth.is_none() {
        notes.push(format!(
            "put user:password of the other front-end into {}, owned by the front-end's user, mode 600",
            facts.layout.peer_auth.display()
        ));
    }
    Ok(notes)
}

/// The credentials that are to be copied, where there are none yet.
fn new_peer_auth(layout: &Layout, arguments: &SetupArguments) -> Result<Option<String>, CommandError> {
    let Some(file) = arguments.peer_auth.as_ref().filter(|_| !layout.peer_auth.exists()) else {
        return Ok(None);
    };
    read_session(file).map_err(|error| CommandError::Usage(format!("--peer-auth: {error}")))?;
    let text = std::fs::read_to_string(file)
        .map_err(|source| SetupError::Io { what: format!("read {}", file.display()), source })?;
    Ok(Some(text))
}

/// What the administrator has to know of this OpenNebula.
async fn about_front_end(client: &Client) -> Vec<String> {
    let mut notes = Vec::new();
    match client.system_version().await {
        Ok(version) if is_known_version(&version) => {}
        Ok(version) => notes.push(format!(
            "OpenNebula {version} was not looked at by onemirror {VERSION}, only 6.10 to 7.4: see whether a VM without a mirrored disk starts and terminates"
        )),
        Err(error) => notes.push(format!("the version of OpenNebula is not known: {error}")),
    }
    for zone in client.zone_pool().await.unwrap_or_default() {
        if zone.servers.len() > 1 {
            notes.push(format!(
                "zone {} has several front-ends ({}): run the same on each of them, with the same onemirror.conf",
                zone.id,
                zone.servers.join(", ")
            ));
        }
    }
    notes
}

async fn carry_out(hands: &Hands<'_>, plan: &SetupPlan) -> Result<(), CommandError> {
    for step in &plan.steps {
        say([step.to_string()])?;
        hands.carry_out(step).await?;
    }
    Ok(())
}

fn conclude(arguments: &SetupArguments, plan: &SetupPlan) -> Result<(), CommandError> {
    say(plan.notes.iter().map(|note| format!("note: {note}")))?;
    say(plan.problems.iter().map(|problem| format!("PROBLEM: {problem}")))?;
    if arguments.check && !(plan.steps.is_empty() && plan.problems.is_empty()) {
        let (changes, problems) = (plan.steps.len(), plan.problems.len());
        return Err(CommandError::NotInPlace(format!(
            "{changes} changes are to be made, {problems} problems"
        )));
    }
    if !plan.problems.is_empty() {
        return Err(CommandError::Incomplete(format!("{} problems, see above", plan.problems.len())));
    }
    let state = if arguments.uninstall { "is not in this front-end" } else { "is in place" };
    let end = match (plan.steps.len(), arguments.changes_something()) {
        (0, _) => format!("nothing to do: onemirror {VERSION} {state}\n"),
        (changes, false) => format!("{changes} changes, none was made\n"),
        (changes, true) => format!("{changes} changes made: onemirror {VERSION} {state}\n"),
    };
    Ok(print(&end)?)
}

fn say(lines: impl IntoIterator<Item = String>) -> std::io::Result<()> {
    lines.into_iter().try_for_each(|line| print(&format!("{}\n", printable(&line))))
}
