//! Carries out one step of a plan. Each can be repeated.

use super::SetupError;
use super::artifacts::{Artifact, Content, TIMER};
use super::gather::{self, Owners};
use super::layout::Layout;
use super::plan::SetupStep;
use crate::opennebula::Client;
use crate::process;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;
use std::time::Duration;

/// dpkg waits for its own lock at most that long, and systemd starts what the timer is due for.
const DEADLINE: Duration = Duration::from_secs(300);

/// What the steps need beside themselves.
pub struct Hands<'a> {
    /// Where everything is.
    pub layout: &'a Layout,
    /// Who owns what.
    pub owners: &'a Owners,
    /// The front-end, if it could be reached.
    pub client: Option<&'a Client>,
}

impl Hands<'_> {
    /// Carries the step out.
    pub async fn carry_out(&self, step: &SetupStep) -> Result<(), SetupError> {
        let failed = |source| SetupError::Io { what: step.to_string(), source };
        match step {
            SetupStep::MakeFolder(path) => self.make_folder(path).map_err(failed),
            SetupStep::Write(artifact) => self.write(artifact).map_err(failed),
            SetupStep::KeepStock { from, to } => keep(from, to).map_err(failed),
            SetupStep::RestoreStock { from, to } => restore(from, to).map_err(failed),
            SetupStep::RemoveFile(path) | SetupStep::RemoveLeftover(path) => {
                remove_file(path).map_err(failed)
            }
            SetupStep::RemoveFolder(path) => ignore_absent(fs::remove_dir(path)).map_err(failed),
            SetupStep::Purge(path) if path.is_dir() => {
                ignore_absent(fs::remove_dir_all(path)).map_err(failed)
            }
            SetupStep::Purge(path) => remove_file(path).map_err(failed),
            SetupStep::Divert { from, to } => {
                let words = ["--quiet", "--local", "--no-rename", "--divert"];
                run("dpkg-divert", words.map(Path::new).into_iter().chain([to, Path::new("--add"), from]))
                    .await
            }
            SetupStep::EndDiversion(path) => {
                run(
                    "dpkg-divert",
                    ["--quiet", "--local", "--no-rename", "--remove"]
                        .map(Path::new)
                        .into_iter()
                        .chain([path.as_path()]),
                )
                .await
            }
            SetupStep::StartTimer => self.start_timer().await,
            SetupStep::StopTimer => {
                run("systemctl", ["--quiet", "disable", "--now", TIMER].map(Path::new)).await
            }
            SetupStep::RegisterHook(hook) => self
                .client(step)?
                .hook_allocate(hook.text)
                .await
                .map(|_| ())
                .map_err(|error| one(step, &error)),
            SetupStep::UpdateHook(id, hook) => self
                .client(step)?
                .hook_update(*id, &hook.to_update())
                .await
                .map_err(|error| one(step, &error)),
            SetupStep::DeleteHook(id, _) => {
                self.client(step)?.hook_delete(*id).await.map_err(|error| one(step, &error))
            }
        }
    }

    fn client(&self, step: &SetupStep) -> Result<&Client, SetupError> {
        self.client.ok_or_else(|| SetupError::FrontEnd {
            what: step.to_string(),
            detail: "it does not answer".into(),
        })
    }

    fn make_folder(&self, path: &Path) -> std::io::Result<()> {
        fs::create_dir_all(path)?;
        if let Some((uid, gid)) = self.owners.of_artifact(true, false) {
            chown(path, Some(uid), Some(gid))?;
        }
        fs::set_permissions(path, Permissions::from_mode(0o755))
    }

    fn write(&self, artifact: &Artifact) -> std::io::Result<()> {
        let unfinished = Layout::unfinished(&artifact.path);
        remove_file(&unfinished)?;
        if let Content::Link(to) = &artifact.content {
            symlink(to, &unfinished)?;
            if let Some((uid, gid)) = self.owners.of_artifact(artifact.of_front_end, false) {
                lchown(&unfinished, Some(uid), Some(gid))?;
            }
            fs::rename(&unfinished, &artifact.path)?;
            return sync_folder(&artifact.path);
        }
        // nobody else may read it before it has its owner and mode: it may hold a password
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&gather::bytes(&artifact.content)?)?;
        let is_configuration = artifact.path == self.layout.configuration;
        if let Some((uid, gid)) = self.owners.of_artifact(artifact.of_front_end, is_configuration) {
            chown(&unfinished, Some(uid), Some(gid))?;
        }
        file.set_permissions(Permissions::from_mode(artifact.mode))?;
        file.sync_all()?;
        fs::rename(&unfinished, &artifact.path)?;
        sync_folder(&artifact.path)
    }

    async fn start_timer(&self) -> Result<(), SetupError> {
        let timer = self.layout.units.join(TIMER);
        match self.layout.one_location {
            // systemd does not look there by itself
            Some(_) => {
                let service = timer.with_extension("service");
                run("systemctl", [Path::new("--quiet"), Path::new("link"), &service]).await?;
                run("systemctl", [Path::new("--quiet"), Path::new("link"), &timer]).await?;
            }
            None => run("systemctl", [Path::new("daemon-reload")]).await?,
        }
        run("systemctl", ["--quiet", "enable", "--now", TIMER].map(Path::new)).await
    }
}

fn one(step: &SetupStep, error: &crate::opennebula::OneError) -> SetupError {
    SetupError::FrontEnd { what: step.to_string(), detail: error.to_string() }
}

fn ignore_absent(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove_file(path: &Path) -> std::io::Result<()> {
    ignore_absent(fs::remove_file(path))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Whether both names are one file. Renaming one to the other would do nothing at all then.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Gives a file a second name, so that at no moment there is none; a copy where that can't be.
fn keep(from: &Path, to: &Path) -> std::io::Result<()> {
    if is_same_file(from, to) {
        return Ok(());
    }
    let unfinished = Layout::unfinished(to);
    remove_file(&unfinished)?;
    if fs::hard_link(from, &unfinished).is_err() {
        copy(from, &unfinished)?;
    }
    fs::rename(&unfinished, to)?;
    sync_folder(to)
}

/// A copy with owner, mode and time.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else {
        fs::copy(from, to)?;
        fs::set_permissions(to, metadata.permissions())?;
    }
    if rustix::process::geteuid().is_root() {
        lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    if !metadata.is_symlink() {
        let file = File::options().write(true).open(to)?;
        file.set_modified(metadata.modified()?)?;
        file.sync_all()?;
    }
    Ok(())
}

fn restore(from: &Path, to: &Path) -> std::io::Result<()> {
    if is_same_file(from, to) {
        remove_file(from)?;
    } else {
        fs::rename(from, to)?;
    }
    sync_folder(to)
}

async fn run<'a>(program: &str, words: impl IntoIterator<Item = &'a Path>) -> Result<(), SetupError> {
    let words: Vec<&Path> = words.into_iter().collect();
    let mut command = tokio::process::Command::new(program);
    command.args(&words).env("LC_ALL", "C");
    let detail = match process::run(command, DEADLINE, 1 << 20).await {
        Ok(output) if output.status == 0 => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(SetupError::Program { program: program.into(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_stock_action_is_kept_and_comes_back_as_the_very_file_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (front, stock) = (folder.path().join("ln"), folder.path().join("stock.ln"));
        write(&front, "stock", 0o750);
        let before = fs::metadata(&front).unwrap();
        keep(&front, &stock).unwrap();
        keep(&front, &stock).unwrap();
        assert!(is_same_file(&front, &stock));
        // killed here: nothing was in its way
        assert_eq!(fs::read_to_string(&front).unwrap(), "stock");
        restore(&stock, &front).unwrap();
        assert!(!stock.exists());
        keep(&front, &stock).unwrap();
        write(&folder.path().join("wrapper"), "wrapper", 0o755);
        fs::rename(folder.path().join("wrapper"), &front).unwrap();
        restore(&stock, &front).unwrap();
        let after = fs::metadata(&front).unwrap();
        assert_eq!(
            (before.ino(), before.mode(), before.mtime_nsec()),
            (after.ino(), after.mode(), after.mtime_nsec())
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_kept_as_a_link_and_a_copy_is_as_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let (link, kept) = (folder.path().join("context"), folder.path().join("kept"));
        symlink("../common/context", &link).unwrap();
        keep(&link, &kept).unwrap();
        assert_eq!(fs::read_link(&kept).unwrap(), Path::new("../common/context"));
        let copied = folder.path().join("copied");
        copy(&link, &copied).unwrap();
        assert_eq!(fs::read_link(&copied).unwrap(), Path::new("../common/context"));
        let (file, copied) = (folder.path().join("ln"), folder.path().join("ln.copied"));
        write(&file, "stock", 0o750);
        copy(&file, &copied).unwrap();
        let (one, other) = (fs::metadata(&file).unwrap(), fs::metadata(&copied).unwrap());
        assert_eq!(
            (one.mode(), one.mtime(), one.mtime_nsec()),
            (other.mode(), other.mtime(), other.mtime_nsec())
        );
    }
}
