//! What onemirror puts into a front-end, word for word.

use super::layout::Layout;
use crate::actions::{Driver, Treatment, row};
use crate::events::HookEvent;
use std::path::{Path, PathBuf};
use strum::IntoEnumIterator as _;

/// The version that is put in.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The timer's name.
pub const TIMER: &str = "onemirror-reconcile.timer";
const SERVICE: &str = "onemirror-reconcile.service";
/// What the stock actions of the datastore driver want beside them.
const UTILITIES: &str = "ceph_utils.sh";
/// What package managers and people leave beside a file, and no system datastore's driver is named.
const BACKUP_SUFFIXES: [&str; 9] =
    ["bak", "distrib", "old", "orig", "rpmnew", "rpmorig", "rpmsave", "save", "stock"];

/// A file that onemirror writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Where.
    pub path: PathBuf,
    /// What is in it.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Whether it belongs to the front-end's user, not to who installs.
    pub of_front_end: bool,
    /// Whether an administrator may change it; it is only written where there is none.
    pub editable: bool,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// This text.
    Text(String),
    /// The program that runs.
    ThisProgram,
    /// None: it is a link to there.
    Link(PathBuf),
}

/// Whether a file name in a driver's folder is an action that onemirror stands in front of.
pub fn is_guarded(driver: Driver, name: &str) -> bool {
    let suffix = name.split_once('.').map(|(_, suffix)| suffix);
    // `one_tm` appends the name of the system datastore's driver
    let is_driver = |suffix: &str| {
        !suffix.is_empty()
            && suffix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !BACKUP_SUFFIXES.contains(&suffix)
    };
    let is_guarded = row(driver, name).is_some_and(|row| row.treatment == Treatment::Guarded);
    is_guarded && suffix.is_none_or(is_driver)
}

/// The script that takes an action's place; its name there is the action's.
pub fn wrapper(driver: Driver) -> &'static str {
    match driver {
        Driver::Transfer => include_str!("../../remotes/tm/ceph/action"),
        Driver::Datastore => include_str!("../../remotes/datastore/ceph/action"),
    }
}

/// Whether a file's text is a wrapper, of whatever version.
pub fn is_wrapper(text: &[u8]) -> bool {
    let calls = |driver: Driver| {
        let mark = format!("/bin/onemirror\" {} --stock ", driver.subcommand());
        text.windows(mark.len()).any(|window| window == mark.as_bytes())
    };
    text.starts_with(b"#!") && Driver::iter().any(calls)
}

/// What belongs to making a hook alone: oned takes it then, and keeps it elsewhere than in the template.
const ONCE: [&str; 3] = ["NAME", "TYPE", "ON"];

/// A hook of OpenNebula.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookDefinition {
    /// Its name; the one thing by which ours are known.
    pub name: &'static str,
    /// What `onehook create` is given, and `one.hook.allocate`.
    pub text: &'static str,
}

impl HookDefinition {
    fn of(event: HookEvent) -> Self {
        let text = match event {
            HookEvent::Done => include_str!("../../hooks/done.tmpl"),
            HookEvent::Poweroff => include_str!("../../hooks/poweroff.tmpl"),
            HookEvent::Undeployed => include_str!("../../hooks/undeployed.tmpl"),
            HookEvent::Running => include_str!("../../hooks/running.tmpl"),
            HookEvent::HostMonitored => include_str!("../../hooks/host-monitored.tmpl"),
        };
        let name = attributes(text).find(|(key, _)| *key == "NAME").map_or("", |(_, name)| name);
        Self { name, text }
    }

    /// What oned keeps in its template.
    pub fn kept(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        attributes(self.text).filter(|(key, _)| !ONCE.contains(key))
    }

    /// What `one.hook.update` wants.
    pub fn to_update(&self) -> String {
        self.kept().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect()
    }

    /// Whether a hook of this name is what it should be.
    pub fn is_met_by(&self, hook: &crate::opennebula::Hook) -> bool {
        hook.kind.eq_ignore_ascii_case("state")
            && self.kept().all(|(key, value)| hook.template.get(key).is_some_and(|found| found == value))
    }
}

/// The lines `KEY = "value"` of a definition.
fn attributes(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    text.lines().filter_map(|line| line.strip_suffix('"')?.split_once(" = \""))
}

/// All hooks.
pub fn hooks() -> Vec<HookDefinition> {
    HookEvent::iter().map(HookDefinition::of).collect()
}

/// The script that the hooks run; its name there is the event's.
const HOOK_SCRIPT: &str = include_str!("../../hooks/script");

/// Whose front-end it is, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontEndUser {
    /// `oneadmin`.
    pub name: String,
    /// Its group.
    pub group: String,
}

/// All files but the wrappers and the configuration.
pub fn artifacts(layout: &Layout, user: &FrontEndUser) -> Vec<Artifact> {
    let file = |path: PathBuf, text: String, mode| Artifact {
        path,
        content: Content::Text(text),
        mode,
        of_front_end: false,
        editable: false,
    };
    let mut all = vec![Artifact {
        path: layout.binary.clone(),
        content: Content::ThisProgram,
        mode: 0o755,
        of_front_end: false,
        editable: false,
    }];
    all.extend(HookEvent::iter().map(|event| {
        let path = layout.hook_scripts().join(event.to_string());
        Artifact { of_front_end: true, ..file(path, HOOK_SCRIPT.into(), 0o755) }
    }));
    all.push(file(layout.units.join(SERVICE), service(layout, user), 0o644));
    all.push(file(
        layout.units.join(TIMER),
        include_str!("../../etc/systemd/onemirror-reconcile.timer").into(),
        0o644,
    ));
    all.push(Artifact {
        content: Content::Link(Path::new("../ceph").join(UTILITIES)),
        of_front_end: true,
        ..file(layout.stock_driver(Driver::Datastore).join(UTILITIES), String::new(), 0o777)
    });
    all.push(Artifact {
        editable: true,
        ..file(layout.logrotate.clone(), logrotate(&layout.audit_log, user), 0o644)
    });
    all
}

fn service(layout: &Layout, user: &FrontEndUser) -> String {
    // systemd expands what follows a percent sign
    let quoted = |path: &Path| path.display().to_string().replace('%', "%%");
    let environment = match &layout.one_location {
        Some(root) => format!("Environment=\"ONE_LOCATION={}\"\n", quoted(root)),
        None => String::new(),
    };
    include_str!("../../etc/systemd/onemirror-reconcile.service")
        .replace("@USER@", &user.name)
        .replace("@ENVIRONMENT@\n", &environment)
        .replace("@BINARY@", &quoted(&layout.binary))
}

fn logrotate(audit_log: &Path, user: &FrontEndUser) -> String {
    include_str!("../../etc/logrotate.conf")
        .replace("@AUDIT_LOG@", &audit_log.display().to_string())
        .replace("@USER@", &user.name)
        .replace("@GROUP@", &user.group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opennebula::Hook;

    #[test]
    fn actions_and_their_suffixed_forms_are_guarded_and_nothing_else() {
        for name in ["ln", "clone.ssh", "context", "mvds.ssh", "delete", "ln.fs_lvm", "clone.qcow2"] {
            assert!(is_guarded(Driver::Transfer, name), "{name}");
        }
        for name in ["rm", "snap_flatten"] {
            assert!(is_guarded(Driver::Datastore, name) && !is_guarded(Driver::Transfer, name), "{name}");
        }
        for name in ["cp", "ceph_utils.sh", "ceph.conf", "rm.sh.orig", "stat"] {
            assert!(!is_guarded(Driver::Datastore, name), "{name}");
        }
        for name in [
            "cpds",
            "cpds.ssh",
            "mv",
            "lns",
            "ln.",
            "ln.dpkg-new",
            "ln.rpmnew",
            "ln.bak",
            "ln~",
            ".ln",
            "",
            "ln.ssh.bak",
            ".ln.onemirror-new",
            "ln ",
            "delete.orig",
        ] {
            assert!(!is_guarded(Driver::Transfer, name), "{name}");
        }
    }

    #[test]
    fn a_wrapper_is_known_whatever_its_version() {
        // as 0.1.0 wrote them, each with its own action and the version in its text
        let older = |subcommand: &str, action: &str| {
            format!(
                "#!/bin/sh\n# onemirror 0.0.9, in front of the stock action. Made by onemirror setup.\n\
                 exec \"${{ONE_LOCATION:-/usr}}/bin/onemirror\" {subcommand} --stock \"${{0%/*}}/../ceph.stock/{action}\" \
                 {action} \"$@\"\n"
            )
        };
        for driver in Driver::iter() {
            assert!(is_wrapper(wrapper(driver).as_bytes()));
            assert!(is_wrapper(older(driver.subcommand(), "ln.ssh").as_bytes()));
        }
        assert!(!is_wrapper(b"#!/bin/bash\nexec rbd\n"));
        assert!(!is_wrapper(b"see /bin/onemirror\" tm --stock "));
    }

    #[test]
    fn hooks_are_compared_by_what_oned_keeps() {
        let definition = &hooks()[0];
        let template = definition.kept().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut hook = Hook { kind: "state".into(), template: template.collect(), ..Hook::default() };
        assert!(definition.is_met_by(&hook));
        hook.template.insert("DESCRIPTION".into(), "an administrator's own words".into());
        assert!(definition.is_met_by(&hook));
        hook.template.insert("COMMAND".into(), "other".into());
        assert!(!definition.is_met_by(&hook));
    }

    #[test]
    fn no_line_of_a_definition_is_overlooked() {
        for definition in hooks() {
            let text: String =
                attributes(definition.text).map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
            assert_eq!(text, definition.text);
            let kept: Vec<&str> = definition.kept().map(|(key, _)| key).collect();
            assert_eq!(
                kept.len(),
                definition.text.lines().count() - if kept.contains(&"LCM_STATE") { 3 } else { 2 }
            );
        }
    }
}
