//! How others of this front-end see that a process, and all that it has begun, is gone.

use super::{give_to_owner_of_folder, private_folder};
use rustix::fs::FlockOperation;
use rustix::io::FdFlags;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

/// A locked file. It is inherited by every command that this process starts, and so locked until the last of them has ended.
#[derive(Debug)]
pub(crate) struct SignOfLife {
    path: PathBuf,
    file: File,
}

impl SignOfLife {
    /// Makes the file in a folder, which is made if need be.
    pub(crate) fn give(folder: &Path, name: &str) -> std::io::Result<Self> {
        if let Some(state) = folder.parent() {
            private_folder(state)?;
        }
        private_folder(folder)?;
        let path = folder.join(name);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        give_to_owner_of_folder(&file, &path);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        rustix::io::fcntl_setfd(&file, FdFlags::empty())?;
        Ok(Self { path, file })
    }

    /// The name of its file.
    pub(crate) fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Whether nobody gives it any more; then it is removed.
    pub(crate) fn is_gone(folder: &Path, name: &str) -> bool {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => return error.kind() == ErrorKind::NotFound,
        };
        let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free {
            let _ = std::fs::remove_file(path);
        }
        free
    }
}

impl Drop for SignOfLife {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl AsFd for SignOfLife {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// That of a run, as long as somebody in it has to give one.
#[derive(Clone, Debug, Default)]
pub struct RunsSign(Rc<RefCell<Weak<SignOfLife>>>);

impl RunsSign {
    /// The run's own, which `give` makes if there is none. `None`: it cannot be given, so others wait until a lock expires.
    pub(crate) fn given(&self, give: impl FnOnce() -> Option<SignOfLife>) -> Option<Rc<SignOfLife>> {
        self.get().or_else(|| {
            let sign = Rc::new(give()?);
            *self.0.borrow_mut() = Rc::downgrade(&sign);
            Some(sign)
        })
    }

    /// The one that is given.
    pub(crate) fn get(&self) -> Option<Rc<SignOfLife>> {
        self.0.borrow().upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// A command that was started before its parent was killed may still change something.
    #[test]
    fn what_a_killed_process_started_keeps_its_lock_alive() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("running");
        let sign = SignOfLife::give(&folder, "signed").unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // as if killed: the file is closed and stays
        let path = sign.path.clone();
        let kept = folder.join("kept");
        std::fs::hard_link(&path, &kept).unwrap();
        drop(sign);
        assert!(!SignOfLife::is_gone(&folder, "kept"));
        drop(child.stdin.take());
        child.wait().unwrap();
        // children of other tests in this process have inherited it, too
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !SignOfLife::is_gone(&folder, "kept") {
            assert!(std::time::Instant::now() < limit, "still locked");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
