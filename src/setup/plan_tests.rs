//! Every history of installs, removals and upgrades of OpenNebula, each interrupted after any step.

use super::*;
use crate::setup::artifacts::{FrontEndUser, artifacts};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Stock(usize),
    Wrapper,
}

/// A front-end with one action.
#[derive(Clone, Debug)]
struct World {
    of_dpkg: bool,
    front: Option<File>,
    stock: Option<File>,
    diverted: bool,
    /// Files and folders of ours, by path.
    present: BTreeMap<PathBuf, bool>,
    hooks: Vec<Hook>,
    timer: bool,
    /// The newest version of the package; `None`: it has the action no more.
    packaged: Option<usize>,
}

/// Whose action stands for all: the one that keeps more beside its stock actions.
const DRIVER: Driver = Driver::Datastore;

fn layout() -> Layout {
    Layout::for_tests(None)
}

fn all_artifacts() -> Vec<Artifact> {
    artifacts(&layout(), &FrontEndUser { name: "oneadmin".into(), group: "oneadmin".into() })
}

impl World {
    fn new(of_dpkg: bool) -> Self {
        Self {
            of_dpkg,
            front: Some(File::Stock(0)),
            stock: None,
            diverted: false,
            present: BTreeMap::new(),
            hooks: vec![Hook {
                id: 1,
                name: "somebody-else's".into(),
                kind: "state".into(),
                ..Hook::default()
            }],
            timer: false,
            packaged: Some(0),
        }
    }

    fn has(&self, path: &PathBuf) -> bool {
        self.present.get(path).copied().unwrap_or(false)
    }

    fn facts(&self) -> SetupFacts {
        let occupant = |file| match file {
            None => Occupant::Absent,
            Some(File::Wrapper) => Occupant::Wrapper { current: true },
            Some(File::Stock(_)) => Occupant::Stock,
        };
        let configuration = layout().configuration;
        SetupFacts {
            files: all_artifacts()
                .into_iter()
                .map(|artifact| {
                    let found = if self.has(&artifact.path) { FileFound::Same } else { FileFound::Absent };
                    (artifact, found, None)
                })
                .collect(),
            actions: vec![StockAction {
                driver: DRIVER,
                name: "rm".into(),
                front: occupant(self.front),
                stock: occupant(self.stock),
                of_dpkg: self.of_dpkg && self.packaged.is_some(),
                diverted: self.diverted,
            }],
            hooks: Ok(self.hooks.clone()),
            new_configuration: (!self.has(&configuration)).then(|| "configuration".into()),
            new_peer_auth: None,
            timer: if self.timer { Timer::Runs } else { Timer::Stopped },
            folders: own_folders(&layout()).into_iter().filter(|folder| self.has(folder)).collect(),
            leftovers: vec![],
            overriding: vec![],
            kept: Some(configuration).into_iter().filter(|path| self.has(path)).collect(),
            layout: layout(),
        }
    }

    fn apply(&mut self, step: &SetupStep) {
        let (front, stock) = (layout().driver(DRIVER).join("rm"), layout().stock_driver(DRIVER).join("rm"));
        match step {
            SetupStep::MakeFolder(path) => _ = self.present.insert(path.clone(), true),
            SetupStep::Write(artifact) if artifact.path == front => self.front = Some(File::Wrapper),
            SetupStep::Write(artifact) => _ = self.present.insert(artifact.path.clone(), true),
            SetupStep::Divert { from, to } => {
                assert_eq!((from, to), (&front, &stock));
                assert!(self.has(&layout().stock_driver(DRIVER)), "dpkg would find no folder");
                self.diverted = true;
            }
            SetupStep::EndDiversion(path) => {
                assert_eq!(path, &front);
                self.diverted = false;
            }
            SetupStep::KeepStock { .. } => {
                assert!(self.has(&layout().stock_driver(DRIVER)));
                self.stock = self.front;
            }
            SetupStep::RestoreStock { .. } => self.front = self.stock.take(),
            SetupStep::RemoveFile(path) if *path == front => self.front = None,
            SetupStep::RemoveFile(path) if *path == stock => self.stock = None,
            SetupStep::RemoveFile(path) | SetupStep::Purge(path) => _ = self.present.remove(path),
            SetupStep::RemoveFolder(path) => {
                assert!(*path != layout().stock_driver(DRIVER) || self.stock.is_none(), "not empty");
                self.present.remove(path);
            }
            SetupStep::RegisterHook(definition) => {
                let template = definition.kept().map(|(key, value)| (key.to_owned(), value.to_owned()));
                let id = 2 + hooks().iter().position(|hook| hook.name == definition.name).unwrap() as i32;
                let name = definition.name.to_owned();
                self.hooks.push(Hook { id, name, kind: "state".into(), template: template.collect() });
                self.hooks.sort_by_key(|hook| hook.id);
            }
            SetupStep::DeleteHook(id, _) => self.hooks.retain(|hook| hook.id != *id),
            SetupStep::StartTimer => self.timer = true,
            SetupStep::StopTimer => self.timer = false,
            SetupStep::UpdateHook(..) | SetupStep::RemoveLeftover(_) => {
                unreachable!("nothing of that here: {step}")
            }
        }
    }

    /// The front-end after each step; the last one is at the goal.
    fn steps(&self, goal: Goal) -> Vec<Self> {
        let plan = plan(&self.facts(), goal);
        assert_eq!(plan.problems, Vec::<String>::new(), "{self:?}");
        let mut all = vec![self.clone()];
        for step in &plan.steps {
            let mut next = all[all.len() - 1].clone();
            next.apply(step);
            next.check(step);
            all.push(next);
        }
        all
    }

    fn go(&mut self, goal: Goal) {
        *self = self.steps(goal).pop().unwrap();
    }

    /// What has to be so at every moment.
    fn check(&self, after: &dyn std::fmt::Debug) {
        let program = self.has(&layout().binary);
        match self.front {
            Some(File::Stock(_)) => {}
            Some(File::Wrapper) => {
                assert!(program, "a wrapper without the program after {after:?}: {self:?}");
                let runs = matches!(self.stock, Some(File::Stock(_)));
                assert!(
                    runs || self.packaged.is_none(),
                    "a wrapper without a stock action after {after:?}: {self:?}"
                );
            }
            None => assert!(self.packaged.is_none(), "no action after {after:?}: {self:?}"),
        }
        assert!(self.hooks.iter().any(|hook| hook.id == 1), "another's hook is gone");
        // what a hook runs is there as long as the hook is
        for hook in self.hooks.iter().filter(|hook| hook.id != 1) {
            let script = layout().remotes.join("hooks").join(&hook.template["COMMAND"]);
            assert!(self.has(&script) && program, "{} without {}", hook.name, script.display());
        }
        assert!(!self.timer || program, "a timer without the program");
    }

    /// The package of OpenNebula is upgraded.
    fn upgrade(&mut self) {
        let version = self.packaged.map_or(9, |version| version + 1);
        self.packaged = Some(version);
        if self.diverted {
            self.stock = Some(File::Stock(version));
        } else {
            self.front = Some(File::Stock(version));
        }
        self.check(&"upgrade");
    }

    /// The new package has the action no more.
    fn upgrade_without_it(&mut self) {
        self.packaged = None;
        if self.diverted { self.stock = None } else { self.front = None }
    }

    fn is_installed(&self) {
        let expected = self.packaged.map(File::Stock);
        assert_eq!((self.front, self.stock), (expected.map(|_| File::Wrapper), expected), "{self:?}");
        assert_eq!(self.diverted, self.of_dpkg);
        assert!(all_artifacts().iter().all(|artifact| self.has(&artifact.path)));
        assert_eq!(self.hooks.len(), 1 + hooks().len());
        assert!(self.timer && self.has(&layout().configuration));
        assert_eq!(plan(&self.facts(), Goal::Installed), SetupPlan::default());
    }

    fn is_removed(&self, purged: bool) {
        assert_eq!(
            (self.front, self.stock, self.diverted),
            (self.packaged.map(File::Stock), None, false),
            "{self:?}"
        );
        let left: Vec<_> = self.present.keys().collect();
        assert!(left.is_empty() || !purged && left == [&layout().configuration], "{left:?}");
        assert_eq!(self.hooks.len(), 1);
        assert!(!self.timer);
        assert_eq!(plan(&self.facts(), Goal::Removed).steps, vec![]);
    }
}

/// Every front-end that histories of installs, removals and upgrades lead to, each interrupted after any step; at most
/// three upgrades.
fn every_world(start: World) -> usize {
    let mut seen = BTreeSet::from([format!("{start:?}")]);
    let mut waiting = vec![start];
    while let Some(world) = waiting.pop() {
        let mut next = Vec::new();
        for goal in [Goal::Installed, Goal::Removed, Goal::Purged] {
            let all = world.steps(goal);
            match goal {
                Goal::Installed => all[all.len() - 1].is_installed(),
                _ => all[all.len() - 1].is_removed(goal == Goal::Purged),
            }
            next.extend(all);
        }
        if world.packaged < Some(3) {
            let mut upgraded = world.clone();
            upgraded.upgrade();
            next.push(upgraded);
        }
        waiting.extend(next.into_iter().filter(|world| seen.insert(format!("{world:?}"))));
    }
    seen.len()
}

#[test]
fn the_front_end_works_at_every_moment_and_either_goal_can_always_be_reached() {
    for of_dpkg in [true, false] {
        let seen = every_world(World::new(of_dpkg));
        assert!(seen > 300, "only {seen}");
    }
}

#[test]
fn a_package_may_drop_an_action_and_bring_it_back() {
    let mut world = World::new(true);
    world.go(Goal::Installed);
    world.upgrade_without_it();
    let mut removed = world.clone();
    removed.go(Goal::Removed);
    removed.is_removed(false);
    for mut interrupted in world.steps(Goal::Installed) {
        interrupted.go(Goal::Installed);
        interrupted.upgrade();
        interrupted.go(Goal::Installed);
        interrupted.is_installed();
    }
    world.go(Goal::Installed);
    assert_eq!((world.front, world.stock, world.diverted), (None, None, false));
    world.upgrade();
    world.go(Goal::Installed);
    world.is_installed();
}

#[test]
fn a_lost_stock_action_is_a_problem_that_says_what_to_do() {
    let mut world = World::new(false);
    world.go(Goal::Installed);
    world.stock = None;
    let found = plan(&world.facts(), Goal::Installed);
    assert_eq!(found.steps, vec![]);
    assert!(found.problems[0].contains("reinstall OpenNebula's package"), "{:?}", found.problems);
    // a wrapper in both places would call itself for ever
    world.stock = Some(File::Wrapper);
    assert_eq!(plan(&world.facts(), Goal::Installed).problems, found.problems);
    // with the package's file back it is as any upgrade
    world.front = Some(File::Stock(0));
    world.go(Goal::Installed);
    world.is_installed();
}

#[test]
fn without_the_front_end_the_files_are_put_there_and_the_rest_is_named() {
    let mut facts = World::new(false).facts();
    facts.hooks = Err("can't reach http://localhost:2633/RPC2".into());
    facts.timer = Timer::Unavailable;
    let found = plan(&facts, Goal::Installed);
    assert!(found.steps.iter().any(|step| matches!(step, SetupStep::KeepStock { .. })));
    assert!(found.problems[0].contains("hooks are not registered: can't reach"), "{:?}", found.problems);
    assert!(found.notes[0].contains("reconcile run each minute"), "{:?}", found.notes);
}

#[test]
fn what_belongs_to_a_package_or_to_the_administrator_is_left_alone() {
    let mut facts = World::new(true).facts();
    for (_, found, package) in &mut facts.files {
        (*found, *package) = (FileFound::Differs, Some("onemirror".to_owned()));
    }
    let found = plan(&facts, Goal::Installed);
    let editable = facts.files.iter().filter(|(artifact, ..)| artifact.editable).count();
    assert_eq!((editable, found.problems.len()), (1, facts.files.len() - 1));
    let removal = plan(&facts, Goal::Removed);
    assert!(
        !removal.steps.iter().any(|step| matches!(step, SetupStep::RemoveFile(_))),
        "{:?}",
        removal.steps
    );
    assert!(removal.notes[0].contains("belongs to the package onemirror"));
}

#[test]
fn units_of_an_earlier_installation_give_way_to_those_of_a_package_and_an_administrators_do_not() {
    let mut world = World::new(true);
    world.go(Goal::Installed);
    let mut facts = world.facts();
    facts.overriding = vec![("/a.service".into(), FileFound::Same), ("/a.timer".into(), FileFound::Absent)];
    let remove = SetupStep::RemoveFile("/a.service".into());
    let steps = [SetupStep::StopTimer, remove.clone(), SetupStep::StartTimer];
    assert_eq!(plan(&facts, Goal::Installed), SetupPlan { steps: steps.into(), ..SetupPlan::default() });
    let removal = plan(&facts, Goal::Removed).steps;
    assert_eq!(removal.iter().filter(|step| **step == SetupStep::StopTimer).count(), 1);
    assert!(removal.contains(&remove), "{removal:?}");
    facts.overriding[0].1 = FileFound::Differs;
    let found = plan(&facts, Goal::Installed);
    assert_eq!(found.steps, vec![]);
    assert!(found.notes[0].starts_with("/a.service stands before the package's own"), "{:?}", found.notes);
}

#[test]
fn a_hook_of_our_name_is_made_what_it_should_be() {
    let mut world = World::new(false);
    world.go(Goal::Installed);
    world.hooks[1].template.insert("COMMAND".into(), "elsewhere".into());
    world.hooks[2].kind = "api".into();
    let steps = plan(&world.facts(), Goal::Installed).steps;
    let id = world.hooks[2].id;
    assert!(
        matches!(&steps[..], [SetupStep::UpdateHook(2, _), SetupStep::DeleteHook(deleted, _), SetupStep::RegisterHook(_)] if *deleted == id),
        "{steps:?}"
    );
}

#[test]
fn where_there_is_no_driver_nothing_is_done() {
    let mut facts = World::new(false).facts();
    facts.actions.clear();
    let found = plan(&facts, Goal::Installed);
    assert_eq!((found.steps.len(), found.problems.len()), (0, 1));
}
