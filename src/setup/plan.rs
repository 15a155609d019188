//! From what is there to what is still to be done; no I/O.
//!
//! The steps come in an order in which the front-end works after each of them: whatever a wrapper or a hook runs is there
//! before it, and goes after it. So a run that was interrupted is finished by the next one.

use super::artifacts::{Artifact, Content, HookDefinition, TIMER, hooks, wrapper};
use super::layout::Layout;
use crate::actions::Driver;
use crate::opennebula::Hook;
use std::fmt;
use std::path::PathBuf;
use strum::IntoEnumIterator as _;

/// What is to be the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Everything is in place.
    Installed,
    /// Nothing is; the configuration and the audit log stay.
    Removed,
    /// Not even those.
    Purged,
}

/// A file against what it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFound {
    /// There is none.
    Absent,
    /// It is as it is to be, with its mode and owner.
    Same,
    /// It is not.
    Differs,
}

/// What stands where an action may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Absent,
    /// A wrapper; of this version, and executable?
    Wrapper {
        /// Whether it is as this version writes it.
        current: bool,
    },
    /// Anything else: the stock action.
    Stock,
}

/// One action of a stock driver, such as `ln` or `clone.ssh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockAction {
    /// Whose.
    pub driver: Driver,
    /// Its file name.
    pub name: String,
    /// In the folder that OpenNebula looks in.
    pub front: Occupant,
    /// In the folder of the stock actions.
    pub stock: Occupant,
    /// Whether a package of dpkg's owns it.
    pub of_dpkg: bool,
    /// Whether dpkg puts it into the folder of the stock actions.
    pub diverted: bool,
}

impl StockAction {
    /// Where OpenNebula looks for it.
    pub fn front_path(&self, layout: &Layout) -> PathBuf {
        layout.driver(self.driver).join(&self.name)
    }

    /// Where the stock action is kept.
    pub fn stock_path(&self, layout: &Layout) -> PathBuf {
        layout.stock_driver(self.driver).join(&self.name)
    }
}

/// The reconcile timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// It runs, also after the next boot.
    Runs,
    /// It does not, or not after the next boot.
    Stopped,
    /// systemd is not there, or not to be used.
    Unavailable,
}

/// All that the plan rests on.
#[derive(Clone, Debug)]
pub struct SetupFacts {
    /// Where everything is.
    pub layout: Layout,
    /// Our files, what they are to be, and whether a package owns them.
    pub files: Vec<(Artifact, FileFound, Option<String>)>,
    /// The stock drivers' actions that are guarded.
    pub actions: Vec<StockAction>,
    /// The hooks of this front-end, or why they are not known.
    pub hooks: Result<Vec<Hook>, String>,
    /// What the configuration would say; `None`: there is one.
    pub new_configuration: Option<String>,
    /// What the file with the peer's credentials would say; `None`: there is one, or nothing is known of it.
    pub new_peer_auth: Option<String>,
    /// The timer.
    pub timer: Timer,
    /// Those of our folders that exist.
    pub folders: Vec<PathBuf>,
    /// Files that an interrupted run has left.
    pub leftovers: Vec<PathBuf>,
    /// Units of systemd that stand before those that a package has brought; `Same`: `install.sh` wrote them.
    pub overriding: Vec<(PathBuf, FileFound)>,
    /// What only a purge removes, as far as it exists: configuration, credentials, audit logs, state.
    pub kept: Vec<PathBuf>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetupStep {
    /// Removes what an interrupted run has left.
    RemoveLeftover(PathBuf),
    /// Makes a folder of the front-end's user.
    MakeFolder(PathBuf),
    /// Writes a file, whole or not at all.
    Write(Artifact),
    /// Has dpkg put a stock action elsewhere from now on.
    Divert {
        /// Where the package has it.
        from: PathBuf,
        /// Where it goes.
        to: PathBuf,
    },
    /// Ends that.
    EndDiversion(PathBuf),
    /// Keeps a stock action under another name, beside the old one.
    KeepStock {
        /// Where it is.
        from: PathBuf,
        /// Where it is to be, too.
        to: PathBuf,
    },
    /// Puts a stock action back into its place.
    RestoreStock {
        /// Where it is.
        from: PathBuf,
        /// Where it is to be.
        to: PathBuf,
    },
    /// Makes a hook.
    RegisterHook(HookDefinition),
    /// Gives a hook its attributes again.
    UpdateHook(i32, HookDefinition),
    /// Removes a hook.
    DeleteHook(i32, String),
    /// Starts the timer, now and after each boot.
    StartTimer,
    /// Ends that.
    StopTimer,
    /// Removes a file.
    RemoveFile(PathBuf),
    /// Removes an empty folder.
    RemoveFolder(PathBuf),
    /// Removes a file, or a folder with all that is in it, that only a purge removes.
    Purge(PathBuf),
}

impl fmt::Display for SetupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveLeftover(path) => write!(f, "remove {}, left by an interrupted run", path.display()),
            Self::MakeFolder(path) => write!(f, "make the folder {}", path.display()),
            Self::Write(Artifact { path, .. }) => write!(f, "write {}", path.display()),
            Self::Divert { from, to } => {
                write!(f, "have dpkg put {} at {} from now on", from.display(), to.display())
            }
            Self::EndDiversion(path) => write!(f, "have dpkg put {} where it belongs", path.display()),
            Self::KeepStock { from, to } => write!(f, "keep {} as {}", from.display(), to.display()),
            Self::RestoreStock { from, to } => write!(f, "move {} to {}", from.display(), to.display()),
            Self::RegisterHook(hook) => write!(f, "register the hook {}", hook.name),
            Self::UpdateHook(id, hook) => write!(f, "update hook {id}, {}", hook.name),
            Self::DeleteHook(id, name) => write!(f, "delete hook {id}, {name}"),
            Self::StartTimer => write!(f, "start {TIMER}, now and at each boot"),
            Self::StopTimer => write!(f, "stop {TIMER}"),
            Self::RemoveFile(path) | Self::Purge(path) => write!(f, "remove {}", path.display()),
            Self::RemoveFolder(path) => write!(f, "remove the folder {}", path.display()),
        }
    }
}

/// What is to be done, and what can't be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupPlan {
    /// In this order.
    pub steps: Vec<SetupStep>,
    /// What stands in the way, with what to do about it.
    pub problems: Vec<String>,
    /// What the administrator has to know.
    pub notes: Vec<String>,
}

/// The folders that nobody but onemirror uses, outermost last.
pub fn own_folders(layout: &Layout) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Driver::iter().map(|driver| layout.stock_driver(driver)).collect();
    folders.push(layout.hook_scripts());
    if layout.one_location.is_some() {
        folders.push(layout.units.clone());
    }
    folders
}

/// What is still to be done.
pub fn plan(facts: &SetupFacts, goal: Goal) -> SetupPlan {
    let mut plan = SetupPlan::default();
    plan.steps.extend(facts.leftovers.iter().cloned().map(SetupStep::RemoveLeftover));
    match goal {
        Goal::Installed => install(facts, &mut plan),
        Goal::Removed | Goal::Purged => remove(facts, goal, &mut plan),
    }
    plan
}

/// Takes units away that an installation without a package has left. Whether that stops the timer.
fn give_way(facts: &SetupFacts, plan: &mut SetupPlan) -> bool {
    let (ours, others): (Vec<_>, Vec<_>) =
        facts.overriding.iter().partition(|(_, found)| *found == FileFound::Same);
    plan.notes.extend(others.into_iter().filter(|(_, found)| *found == FileFound::Differs).map(
        |(path, _)| {
            format!("{} stands before the package's own; remove it if nobody here wants it", path.display())
        },
    ));
    // the link that enables a timer names its file
    let stops = !ours.is_empty() && facts.timer == Timer::Runs;
    if stops {
        plan.steps.push(SetupStep::StopTimer);
    }
    plan.steps.extend(ours.into_iter().map(|(path, _)| SetupStep::RemoveFile(path.clone())));
    stops
}

fn install(facts: &SetupFacts, plan: &mut SetupPlan) {
    let layout = &facts.layout;
    if facts.actions.is_empty() {
        plan.problems.push(format!(
            "there is no transfer driver in {}: is this a front-end of OpenNebula? Install it first",
            layout.driver(Driver::Transfer).display()
        ));
        return;
    }
    let is_stopped = give_way(facts, plan);
    plan.steps.extend(
        own_folders(layout)
            .into_iter()
            .filter(|folder| !facts.folders.contains(folder))
            .map(SetupStep::MakeFolder),
    );
    write_files(facts, plan);
    for action in &facts.actions {
        guard(layout, action, plan);
    }
    register_hooks(facts, plan);
    match facts.timer {
        Timer::Runs if !is_stopped => {}
        Timer::Runs | Timer::Stopped => plan.steps.push(SetupStep::StartTimer),
        Timer::Unavailable => plan.notes.push(format!(
            "no timer was started: have {} reconcile run each minute as the front-end's user, by cron or as {} says",
            layout.binary.display(),
            layout.units.join(TIMER).display()
        )),
    }
}

/// The own files, and what was asked for.
fn write_files(facts: &SetupFacts, plan: &mut SetupPlan) {
    let layout = &facts.layout;
    for (artifact, found, package) in &facts.files {
        match (found, package) {
            (FileFound::Same, _) => {}
            (FileFound::Differs, _) if artifact.editable => {}
            (FileFound::Differs, Some(package)) => plan.problems.push(format!(
                "{} belongs to the package {package} and is not of this version: upgrade that package, or remove it",
                artifact.path.display()
            )),
            _ => plan.steps.push(SetupStep::Write(artifact.clone())),
        }
    }
    for (path, text, mode, of_front_end) in [
        (&layout.peer_auth, &facts.new_peer_auth, 0o600, true),
        // the last one: it tells the next run that nothing has to be asked for any more
        (&layout.configuration, &facts.new_configuration, 0o640, false),
    ] {
        if let Some(text) = text {
            let content = Content::Text(text.clone());
            plan.steps.push(SetupStep::Write(Artifact {
                path: path.clone(),
                content,
                mode,
                of_front_end,
                editable: true,
            }));
        }
    }
}

fn register_hooks(facts: &SetupFacts, plan: &mut SetupPlan) {
    match &facts.hooks {
        Ok(registered) => {
            for definition in hooks() {
                match registered.iter().find(|hook| hook.name == definition.name) {
                    None => plan.steps.push(SetupStep::RegisterHook(definition)),
                    Some(hook) if definition.is_met_by(hook) => {}
                    // its kind can't be changed
                    Some(hook) if !hook.kind.eq_ignore_ascii_case("state") => plan.steps.extend([
                        SetupStep::DeleteHook(hook.id, hook.name.clone()),
                        SetupStep::RegisterHook(definition),
                    ]),
                    Some(hook) => plan.steps.push(SetupStep::UpdateHook(hook.id, definition)),
                }
            }
        }
        Err(why) => {
            plan.problems
                .push(format!("the hooks are not registered: {why}; once that is mended, run this again"));
        }
    }
}

/// Puts a wrapper before a stock action.
fn guard(layout: &Layout, action: &StockAction, plan: &mut SetupPlan) {
    let (front, stock) = (action.front_path(layout), action.stock_path(layout));
    if action.of_dpkg && !action.diverted {
        plan.steps.push(SetupStep::Divert { from: front.clone(), to: stock.clone() });
    }
    let keep = SetupStep::KeepStock { from: front.clone(), to: stock.clone() };
    let wrap = SetupStep::Write(Artifact {
        path: front.clone(),
        content: Content::Text(wrapper(action.driver).into()),
        mode: 0o755,
        of_front_end: true,
        editable: false,
    });
    match (action.front, action.stock) {
        (Occupant::Wrapper { .. }, Occupant::Absent | Occupant::Wrapper { .. }) if action.diverted => {
            // dpkg has removed the stock action: the new version of the package has none. Were it still diverted, one that
            // comes back later would have nobody before it
            plan.steps.extend([SetupStep::RemoveFile(front.clone()), SetupStep::EndDiversion(front)]);
        }
        (Occupant::Wrapper { .. }, Occupant::Absent | Occupant::Wrapper { .. }) => plan.problems.push(format!(
            "the stock action {} is missing: reinstall OpenNebula's package that brings {}, then run this again",
            stock.display(),
            front.display()
        )),
        (Occupant::Wrapper { current: true }, Occupant::Stock) => {}
        (Occupant::Wrapper { current: false } | Occupant::Absent, Occupant::Stock) => plan.steps.push(wrap),
        // dpkg's own is the other one; this one is from before the diversion
        (Occupant::Stock, Occupant::Stock) if action.diverted => plan.steps.push(wrap),
        // an upgrade has overwritten the wrapper
        (Occupant::Stock, _) => plan.steps.extend([keep, wrap]),
        (Occupant::Absent, Occupant::Absent | Occupant::Wrapper { .. }) if action.diverted => {
            plan.steps.push(SetupStep::EndDiversion(front));
        }
        (Occupant::Absent, Occupant::Absent | Occupant::Wrapper { .. }) => {}
    }
}

fn remove(facts: &SetupFacts, goal: Goal, plan: &mut SetupPlan) {
    let layout = &facts.layout;
    match &facts.hooks {
        Ok(registered) => {
            let ours = hooks();
            for hook in
                registered.iter().filter(|hook| ours.iter().any(|definition| definition.name == hook.name))
            {
                plan.steps.push(SetupStep::DeleteHook(hook.id, hook.name.clone()));
            }
        }
        Err(why) => plan
            .problems
            .push(format!("the hooks are not deleted: {why}; once that is mended, run this again")),
    }
    if !give_way(facts, plan) && facts.timer == Timer::Runs {
        plan.steps.push(SetupStep::StopTimer);
    }
    for action in &facts.actions {
        unguard(layout, action, plan);
    }
    // the program goes last: until then whatever still calls it finds it
    for (artifact, found, package) in facts.files.iter().rev() {
        match (found, package) {
            (FileFound::Absent, _) => {}
            (_, Some(package)) if artifact.content == Content::ThisProgram => plan.notes.push(format!(
                "{} belongs to the package {package}, which has to be removed itself",
                artifact.path.display()
            )),
            (_, Some(_)) => {}
            _ => plan.steps.push(SetupStep::RemoveFile(artifact.path.clone())),
        }
    }
    plan.steps.extend(
        own_folders(layout)
            .into_iter()
            .filter(|folder| facts.folders.contains(folder))
            .map(SetupStep::RemoveFolder),
    );
    match goal {
        Goal::Purged => plan.steps.extend(facts.kept.iter().cloned().map(SetupStep::Purge)),
        _ => plan
            .notes
            .extend(facts.kept.iter().map(|path| format!("{} is kept; --purge removes it", path.display()))),
    }
}

/// Puts a stock action back.
fn unguard(layout: &Layout, action: &StockAction, plan: &mut SetupPlan) {
    let (front, stock) = (action.front_path(layout), action.stock_path(layout));
    match (action.front, action.stock) {
        // an upgrade has overwritten the wrapper
        (Occupant::Stock, Occupant::Stock) if !action.diverted => {
            plan.steps.push(SetupStep::RemoveFile(stock))
        }
        (_, Occupant::Stock) => plan.steps.push(SetupStep::RestoreStock { from: stock, to: front.clone() }),
        (Occupant::Wrapper { .. }, _) => {
            if !action.diverted {
                plan.problems.push(format!(
                    "the stock action {} is missing: reinstall OpenNebula's package that brings {}",
                    stock.display(),
                    front.display()
                ));
            }
            plan.steps.push(SetupStep::RemoveFile(front.clone()));
            if matches!(action.stock, Occupant::Wrapper { .. }) {
                plan.steps.push(SetupStep::RemoveFile(stock));
            }
        }
        (_, Occupant::Wrapper { .. }) => plan.steps.push(SetupStep::RemoveFile(stock)),
        (Occupant::Stock | Occupant::Absent, Occupant::Absent) => {}
    }
    if action.diverted {
        plan.steps.push(SetupStep::EndDiversion(front));
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
