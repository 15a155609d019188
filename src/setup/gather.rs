//! Looks at a front-end; changes nothing.

use super::SetupError;
use super::artifacts::{Artifact, Content, FrontEndUser, TIMER, artifacts, is_guarded, is_wrapper, wrapper};
use super::layout::Layout;
use super::plan::{FileFound, Occupant, SetupFacts, StockAction, Timer, own_folders};
use crate::actions::Driver;
use crate::opennebula::Client;
use crate::process;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// Package managers answer within a second; a lock of theirs may be held for long.
const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of their answers.
const ANSWER_LIMIT: usize = 1 << 20;
/// Bytes of a script that are looked at to tell a wrapper.
const SCRIPT_LIMIT: usize = 64 << 10;

/// Who owns what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// The front-end's user and group, by number.
    pub front_end: (u32, u32),
    /// The same, by name.
    pub name: FrontEndUser,
    /// Whether this process may give files away.
    pub is_root: bool,
}

impl Owners {
    /// The user that `remotes` belongs to.
    pub fn of(layout: &Layout) -> Result<Self, SetupError> {
        let remotes = &layout.remotes;
        let metadata = fs::metadata(remotes).map_err(|error| match error.kind() {
            ErrorKind::NotFound => SetupError::NoFrontEnd { remotes: remotes.clone() },
            _ => SetupError::Io { what: format!("look at {}", remotes.display()), source: error },
        })?;
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let text = |name: Option<&OsStr>, id: u32| {
            name.map_or(id.to_string(), |name| name.to_string_lossy().into_owned())
        };
        Ok(Self {
            front_end: (uid, gid),
            name: FrontEndUser {
                name: text(uzers::get_user_by_uid(uid).as_ref().map(|user| user.name()), uid),
                group: text(uzers::get_group_by_gid(gid).as_ref().map(|group| group.name()), gid),
            },
            is_root: rustix::process::geteuid().is_root(),
        })
    }

    /// Who a file is to belong to; `None`: whoever writes it.
    pub fn of_artifact(&self, of_front_end: bool, configuration: bool) -> Option<(u32, u32)> {
        match (self.is_root, of_front_end, configuration) {
            (false, ..) => None,
            (true, true, _) => Some(self.front_end),
            // the front-end's user reads it, and does not change it
            (true, false, true) => Some((0, self.front_end.1)),
            (true, false, false) => Some((0, 0)),
        }
    }
}

/// What is asked for beside the goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Whether the timer is to be looked at.
    pub timer: bool,
}

/// Everything that the plan needs, but what is to be written into a new configuration.
pub async fn facts(
    layout: &Layout,
    owners: &Owners,
    wishes: Wishes,
    client: Result<Client, String>,
) -> Result<SetupFacts, SetupError> {
    let artifacts = artifacts(layout, &owners.name);
    let mut names = action_names(layout)?;
    // a self-contained installation belongs to no package
    let is_packaged = layout.one_location.is_none();
    let diversions = if is_packaged { diversions(layout).await? } else { BTreeSet::new() };
    names.extend(diversions.iter().filter_map(|(from, _)| diverted(layout, from)));
    let fronts: Vec<PathBuf> = names.iter().map(|(driver, name)| layout.driver(*driver).join(name)).collect();
    let packages = if is_packaged { Packages::of(&fronts, &artifacts).await? } else { Packages::default() };
    let mut files = Vec::new();
    for artifact in artifacts {
        let found = compare(&artifact, owners).map_err(|source| io("look at", &artifact.path, source))?;
        let package = packages.owners.get(&artifact.path).cloned();
        files.push((artifact, found, package));
    }
    let mut actions = Vec::new();
    for ((driver, name), front) in names.into_iter().zip(fronts) {
        let stock = layout.stock_driver(driver).join(&name);
        let wrapper = wrapper(driver);
        actions.push(StockAction {
            front: occupant(&front, wrapper)?,
            stock: occupant(&stock, wrapper)?,
            of_dpkg: packages.of_dpkg.contains(&front),
            diverted: diversions.contains(&(front, stock)),
            driver,
            name,
        });
    }
    let overriding = overriding(layout, &files, owners)?;
    let hooks = match client {
        Ok(client) => client.hook_pool().await.map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    let exist = |paths: Vec<PathBuf>| {
        paths.into_iter().filter(|path| fs::symlink_metadata(path).is_ok()).collect::<Vec<_>>()
    };
    let mut written: Vec<PathBuf> = files.iter().map(|(artifact, ..)| artifact.path.clone()).collect();
    written.extend([layout.configuration.clone(), layout.peer_auth.clone()]);
    for action in &actions {
        written.extend([action.front_path(layout), action.stock_path(layout)]);
    }
    let mut kept = vec![layout.configuration.clone(), layout.peer_auth.clone(), layout.state.clone()];
    kept.extend(logs(&layout.audit_log));
    Ok(SetupFacts {
        timer: if wishes.timer { timer(owners).await } else { Timer::Unavailable },
        folders: exist(own_folders(layout)),
        leftovers: exist(written.iter().map(|path| Layout::unfinished(path)).collect()),
        overriding,
        kept: exist(kept),
        layout: layout.clone(),
        files,
        actions,
        hooks,
        new_configuration: None,
        new_peer_auth: None,
    })
}

/// Units that stand before those of a package, compared with what `install.sh` would have written there.
fn overriding(
    layout: &Layout,
    files: &[(Artifact, FileFound, Option<String>)],
    owners: &Owners,
) -> Result<Vec<(PathBuf, FileFound)>, SetupError> {
    let Some(folder) = layout.overriding_units() else { return Ok(Vec::new()) };
    let units = files.iter().filter(|(artifact, ..)| artifact.path.parent() == Some(&layout.units));
    units
        .filter_map(|(unit, ..)| Some(Artifact { path: folder.join(unit.path.file_name()?), ..unit.clone() }))
        .map(|unit| match compare(&unit, owners) {
            Ok(found) => Ok((unit.path, found)),
            Err(source) => Err(io("look at", &unit.path, source)),
        })
        .collect()
}

fn io(what: &str, path: &Path, source: std::io::Error) -> SetupError {
    SetupError::Io { what: format!("{what} {}", path.display()), source }
}

/// The guarded action that a diversion is about.
fn diverted(layout: &Layout, from: &Path) -> Option<(Driver, String)> {
    let driver = Driver::iter().find(|driver| from.parent() == Some(&layout.driver(*driver)))?;
    let name = from.file_name()?.to_str()?;
    is_guarded(driver, name).then(|| (driver, name.to_owned()))
}

/// The guarded actions that are in either folder of a driver.
fn action_names(layout: &Layout) -> Result<BTreeSet<(Driver, String)>, SetupError> {
    let mut names = BTreeSet::new();
    let folders = Driver::iter()
        .flat_map(|driver| [(driver, layout.driver(driver)), (driver, layout.stock_driver(driver))]);
    for (driver, folder) in folders {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(|source| io("read", &folder, source))?,
        };
        for entry in entries {
            let entry = entry.map_err(|source| io("read", &folder, source))?;
            let name = entry.file_name().into_string().ok().filter(|name| is_guarded(driver, name));
            names.extend(name.map(|name| (driver, name)));
        }
    }
    Ok(names)
}

/// What stands at `path`, where a wrapper of this version would be `current`.
fn occupant(path: &Path, current: &str) -> Result<Occupant, SetupError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Occupant::Absent),
        metadata => metadata.map_err(|source| io("look at", path, source))?,
    };
    if metadata.is_dir() {
        return Err(SetupError::Unexpected { path: path.into() });
    }
    if !metadata.is_file() || metadata.len() > SCRIPT_LIMIT as u64 {
        return Ok(Occupant::Stock);
    }
    let text = fs::read(path).map_err(|source| io("read", path, source))?;
    Ok(if is_wrapper(&text) {
        Occupant::Wrapper { current: text == current.as_bytes() && metadata.mode() & 0o7777 == 0o755 }
    } else {
        Occupant::Stock
    })
}

/// The bytes that a file is to have.
pub fn bytes(content: &Content) -> std::io::Result<Vec<u8>> {
    match content {
        Content::Text(text) => Ok(text.clone().into_bytes()),
        // also where the file has been replaced since this process began
        Content::ThisProgram => fs::read("/proc/self/exe"),
        Content::Link(to) => Ok(to.clone().into_os_string().into_encoded_bytes()),
    }
}

fn compare(artifact: &Artifact, owners: &Owners) -> std::io::Result<FileFound> {
    let metadata = match fs::symlink_metadata(&artifact.path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(FileFound::Absent),
        metadata => metadata?,
    };
    let owner = owners.of_artifact(artifact.of_front_end, false);
    let is_owned = owner.is_none_or(|owner| owner == (metadata.uid(), metadata.gid()));
    let is_same = match &artifact.content {
        Content::Link(to) => metadata.is_symlink() && fs::read_link(&artifact.path)? == *to,
        content => {
            metadata.is_file()
                && metadata.mode() & 0o7777 == artifact.mode
                && fs::read(&artifact.path)? == bytes(content)?
        }
    };
    Ok(if is_owned && is_same { FileFound::Same } else { FileFound::Differs })
}

/// The audit log and those that logrotate has made of it.
fn logs(audit_log: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (audit_log.parent(), audit_log.file_name().and_then(OsStr::to_str))
    else {
        return Vec::new();
    };
    let rotated = format!("{name}.");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_log = |path: &PathBuf| {
        path.file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|found| found == name || found.starts_with(&rotated))
    };
    let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_log).collect();
    logs.sort();
    logs
}

/// What package managers know of our files.
#[derive(Default)]
struct Packages {
    /// The package that owns a file.
    owners: BTreeMap<PathBuf, String>,
    /// Stock actions that dpkg owns.
    of_dpkg: BTreeSet<PathBuf>,
}

impl Packages {
    async fn of(fronts: &[PathBuf], artifacts: &[Artifact]) -> Result<Self, SetupError> {
        let mut packages = Self::default();
        let mut paths: Vec<&Path> = artifacts.iter().map(|artifact| artifact.path.as_path()).collect();
        paths.extend(fronts.iter().map(PathBuf::as_path));
        // exit status 1: some of them belong to no package
        if let Some(text) = ask("dpkg-query", &["--search"], &paths, &[0, 1]).await? {
            for (package, path) in text.lines().filter_map(dpkg_owner) {
                if fronts.iter().any(|front| front == path) {
                    packages.of_dpkg.insert(path.to_owned());
                }
                packages.owners.insert(path.to_owned(), package.to_owned());
            }
        }
        for path in paths {
            if !packages.owners.contains_key(path)
                && let Some(text) =
                    ask("rpm", &["-q", "--qf", "%{NAME}\\n", "-f"], &[path], &[0]).await.ok().flatten()
                && let Some(package) = text.lines().next().filter(|name| !name.is_empty())
            {
                packages.owners.insert(path.to_owned(), package.to_owned());
            }
        }
        Ok(packages)
    }
}

/// From where to where dpkg diverts the drivers' files.
async fn diversions(layout: &Layout) -> Result<BTreeSet<(PathBuf, PathBuf)>, SetupError> {
    let all: Vec<PathBuf> = Driver::iter().map(|driver| layout.driver(driver).join("*")).collect();
    let all: Vec<&Path> = all.iter().map(PathBuf::as_path).collect();
    let text = ask("dpkg-divert", &["--list"], &all, &[0]).await?.unwrap_or_default();
    Ok(text.lines().filter_map(diversion).collect())
}

/// Runs one of a package manager's programs; `None` where there is no such program.
async fn ask(
    program: &str,
    options: &[&str],
    paths: &[&Path],
    good: &[i32],
) -> Result<Option<String>, SetupError> {
    let mut command = tokio::process::Command::new(program);
    command.args(options).args(paths).env("LC_ALL", "C");
    match process::run(command, DEADLINE, ANSWER_LIMIT).await {
        Ok(output) if good.contains(&output.status) => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        Ok(output) => Err(SetupError::Program {
            program: program.into(),
            detail: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Err(process::ProcessError::Spawn { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SetupError::Program { program: program.into(), detail: error.to_string() }),
    }
}

/// `package, other: /path`, but not what it says of diversions.
fn dpkg_owner(line: &str) -> Option<(&str, &Path)> {
    let (packages, path) = line.split_once(": /")?;
    let is_diversion = packages.starts_with("diversion by ") || packages.starts_with("local diversion ");
    let path = &line[line.len() - path.len() - 1..];
    (!is_diversion).then(|| (packages, Path::new(path)))
}

/// `local diversion of /a to /b`, or `diversion of /a to /b by package`.
fn diversion(line: &str) -> Option<(PathBuf, PathBuf)> {
    let line = line.strip_prefix("local ").unwrap_or(line);
    let (from, rest) = line.strip_prefix("diversion of ")?.split_once(" to ")?;
    let to = rest.split_once(" by ").map_or(rest, |(to, _)| to);
    Some((from.into(), to.into()))
}

/// Whether the timer runs and is enabled; only where systemd runs and obeys this process.
async fn timer(owners: &Owners) -> Timer {
    if !owners.is_root || !Path::new("/run/systemd/system").is_dir() {
        return Timer::Unavailable;
    }
    let mut runs = true;
    for question in ["is-enabled", "is-active"] {
        match ask("systemctl", &["--quiet", question, TIMER], &[], &[0]).await {
            Ok(Some(_)) => {}
            Ok(None) => return Timer::Unavailable,
            Err(_) => runs = false,
        }
    }
    if runs { Timer::Runs } else { Timer::Stopped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_is_understood() {
        assert_eq!(
            dpkg_owner("opennebula-common: /var/lib/one/remotes/tm/ceph/ln"),
            Some(("opennebula-common", Path::new("/var/lib/one/remotes/tm/ceph/ln")))
        );
        for line in [
            "local diversion from: /var/lib/one/remotes/tm/ceph/ln",
            "diversion by onemirror from: /var/lib/one/remotes/tm/ceph/ln",
            "",
            "no path",
        ] {
            assert_eq!(dpkg_owner(line), None, "{line}");
        }
        let pair = Some(("/a/ceph/ln".into(), "/a/ceph.stock/ln".into()));
        assert_eq!(diversion("local diversion of /a/ceph/ln to /a/ceph.stock/ln"), pair);
        assert_eq!(diversion("diversion of /a/ceph/ln to /a/ceph.stock/ln by onemirror"), pair);
        assert_eq!(diversion("something else"), None);
    }

    #[test]
    fn rotated_logs_are_found_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["onemirror.log", "onemirror.log.1", "onemirror.log.2.gz", "onemirror.login", "oned.log"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = logs(&folder.path().join("onemirror.log"));
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["onemirror.log", "onemirror.log.1", "onemirror.log.2.gz"]);
    }
}
