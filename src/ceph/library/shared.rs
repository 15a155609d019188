//! Processes that stay connected to a cluster between the runs of this front-end. To open the libraries and to connect costs
//! more than all that a run asks. One answers the questions of all of them. Others make changes, each for one run at a time,
//! which lends it the sign of life that its own processes inherit; it ends with that run as they do. Nothing depends on them:
//! who meets none, or one that hangs or ends, does it by a process of his own.

use super::process::{COMMAND, NAME};
use crate::state::{BootId, RunsSign, private_folder};
use onemirror_rbd::ConnectOptions;
use rustix::fs::FlockOperation;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;

/// How long one may take to come up, and then to greet.
const COMES_UP: Duration = Duration::from_secs(1);
/// Between two looks for one that comes up.
const PAUSE: Duration = Duration::from_millis(10);
/// One that is older ends, so that a change of the configuration, or of the user's rights, which it has not noticed is not
/// missed for ever.
const AGE: Duration = Duration::from_secs(600);
/// How long one looks for a monitor, in seconds.
const MOUNT_TIMEOUT: u64 = 10;
/// Where Ceph looks for its configuration if it is not told.
const DEFAULT_CONF: &str = "/etc/ceph/ceph.conf";
/// That the kernel takes for a socket, in bytes (`sun_path` in unix(7), and a NUL at its end).
const LONGEST_PATH: usize = 107;
/// The ending of the file that whoever listens at the socket beside it has locked.
const LOCK: &str = "lock";
/// And of the one that a run has locked, as long as it is served there.
const TAKEN: &str = "taken";
/// So many make changes. More run than a front-end has cores for, and each has some 20 MB.
const LENT: usize = 8;
/// How long to wait for one of them, when all are taken; with one of our own it goes on at once.
const WAITS_FOR_TURN: Duration = Duration::from_millis(500);

/// Where they are to be found, and how long one stays that nobody asks.
#[derive(Clone, Debug)]
pub struct SharedProcesses {
    /// A private folder, which is made if need be.
    pub folder: PathBuf,
    /// How long; nobody asks meanwhile.
    pub idle: Duration,
    /// What one that makes changes has to hold on to.
    pub sign_of_life: RunsSign,
}

/// Whether, and how, Ceph's libraries may be called in place of its commands.
#[derive(Clone, Debug, Default)]
pub enum LibraryUse {
    /// They may not.
    #[default]
    Never,
    /// By processes that end with the run.
    ByRun,
    /// By processes that stay.
    Shared(SharedProcesses),
}

/// What such a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServedCalls {
    /// The questions of all.
    Questions,
    /// All calls of one.
    Changes,
}

/// How it goes to have one that makes changes.
pub(super) enum Lending {
    /// It is ours.
    Lent(LentProcess),
    /// All are others' now.
    AllTaken,
    /// None can be had.
    Never,
}

/// One that makes changes, for us alone.
pub(super) struct LentProcess {
    pub(super) stream: UnixStream,
    process: OwnedFd,
    /// Locked until it is another's turn.
    _taken: File,
}

impl LentProcess {
    /// Ends it, with what it has begun.
    pub(super) fn kill(&self) {
        // an error says that it has ended already
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

impl LibraryUse {
    /// The same without any that stays.
    pub(crate) fn by_run(self) -> Self {
        match self {
            Self::Shared(_) => Self::ByRun,
            other => other,
        }
    }
}

impl SharedProcesses {
    /// The socket of the one for these options that answers questions; `None` where none can be shared. The name tells apart
    /// what may give other answers: files that have changed, another version of this program, another boot of the machine that
    /// has the folder.
    fn socket(&self, options: &ConnectOptions) -> Option<PathBuf> {
        let conf = options.conf.as_deref().map(Path::new);
        let keyfile = options.keyfile.as_deref().map(Path::new);
        // it runs in another folder
        if [conf, keyfile].into_iter().flatten().any(Path::is_relative) {
            return None;
        }
        let mut name = DefaultHasher::new();
        options.hash(&mut name);
        for path in [conf.or(Some(Path::new(DEFAULT_CONF))), keyfile, Some(Path::new("/proc/self/exe"))] {
            let file = path.and_then(|path| std::fs::metadata(path).ok());
            file.map(|it| (it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec())).hash(&mut name);
        }
        // by these Ceph finds a configuration that is not named
        let variables = if conf.is_none() { &["CEPH_CONF", "HOME"][..] } else { &[] };
        for variable in variables.iter().chain(&["LD_LIBRARY_PATH"]) {
            std::env::var_os(variable).hash(&mut name);
        }
        BootId::current().ok()?.to_string().hash(&mut name);
        let path = self.folder.join(format!("{:016x}", name.finish()));
        // one that makes changes has a number behind it
        (path.as_os_str().len() + "-0".len() <= LONGEST_PATH).then_some(path)
    }

    /// The socket, and with which options such a process is started. `None`: there can be none.
    fn place(&self, options: &ConnectOptions) -> Option<(PathBuf, ConnectOptions)> {
        // whoever asks has a deadline of his own
        let options = ConnectOptions { mount_timeout: MOUNT_TIMEOUT, ..options.clone() };
        let socket = self.socket(&options)?;
        self.has_folder().then_some((socket, options))
    }

    /// Whether the folder is there, and this user's own.
    fn has_folder(&self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let made =
            self.folder.parent().map_or(Ok(()), private_folder).and_then(|()| private_folder(&self.folder));
        let metadata = made.and_then(|()| std::fs::symlink_metadata(&self.folder));
        metadata.is_ok_and(|it| it.is_dir() && it.uid() == own && it.mode() & 0o077 == 0)
    }

    /// Connects to one that has greeted, which is started if there is none. `None`: it has to be done without.
    pub(super) async fn connect(&self, program: &Path, options: &ConnectOptions) -> Option<UnixStream> {
        let (socket, options) = self.place(options)?;
        let met = self.met(COMES_UP, ServedCalls::Questions, program, &socket, &options);
        greeted(met.await?).await
    }

    /// Has one to ourselves that makes changes.
    pub(super) async fn lend(&self, program: &Path, options: &ConnectOptions) -> Lending {
        let Some((socket, options)) = self.place(options) else { return Lending::Never };
        let end = Instant::now() + WAITS_FOR_TURN;
        loop {
            for number in 0..LENT {
                let mut name = socket.as_os_str().to_owned();
                name.push(format!("-{number}"));
                let socket = PathBuf::from(name);
                match locked(&socket.with_extension(TAKEN)) {
                    Ok(None) => {}
                    Ok(Some(taken)) => {
                        let lent = self.lent(taken, program, &socket, &options).await;
                        return lent.map_or(Lending::Never, Lending::Lent);
                    }
                    Err(_) => return Lending::Never,
                }
            }
            if Instant::now() >= end {
                return Lending::AllTaken;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn lent(
        &self,
        taken: File,
        program: &Path,
        socket: &Path,
        options: &ConnectOptions,
    ) -> Option<LentProcess> {
        let stream = self.met(COMES_UP, ServedCalls::Changes, program, socket, options).await?;
        let process = self.signed(&stream)?;
        greeted(stream).await.map(|stream| LentProcess { stream, process, _taken: taken })
    }

    /// Gives it our sign of life. The process; it has not greeted yet, so once it has, it is the one that was found here.
    fn signed(&self, stream: &tokio::net::UnixStream) -> Option<OwnedFd> {
        // none, where it lives in another namespace
        let pid = Pid::from_raw(stream.peer_cred().ok()?.pid()?)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let sign = self.sign_of_life.get();
        let files: Vec<_> = sign.iter().map(|sign| sign.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&files)).then_some(())?;
        }
        let sent = rustix::net::sendmsg(stream, &[IoSlice::new(b"\n")], &mut control, SendFlags::NOSIGNAL);
        matches!(sent, Ok(1)).then_some(process)
    }

    /// Connects to one, which is started if there is none.
    async fn met(
        &self,
        patience: Duration,
        calls: ServedCalls,
        program: &Path,
        socket: &Path,
        options: &ConnectOptions,
    ) -> Option<tokio::net::UnixStream> {
        let end = Instant::now() + patience;
        let mut has_tried = false;
        let mut started = None;
        loop {
            if let Ok(stream) = tokio::net::UnixStream::connect(socket).await {
                return Some(stream);
            }
            if !has_tried {
                has_tried = true;
                started = self
                    .start(calls, program, socket, options)
                    .inspect_err(|error| tracing::debug!("{}: {error}", socket.display()))
                    .ok()?;
            }
            // there are no libraries, say: that is known at once
            let has_ended = started.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if has_ended || Instant::now() >= end {
                return None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Starts one, unless somebody else does.
    fn start(
        &self,
        calls: ServedCalls,
        program: &Path,
        socket: &Path,
        options: &ConnectOptions,
    ) -> std::io::Result<Option<Child>> {
        let Some(lock) = locked(&socket.with_extension(LOCK))? else { return Ok(None) };
        let mut child = Command::new(program)
            .arg0(NAME)
            .arg(COMMAND)
            .arg("--share")
            .arg(socket)
            .arg("--idle")
            .arg(self.idle.as_secs().max(1).to_string())
            .args((calls == ServedCalls::Changes).then_some("--changes"))
            .env("LC_ALL", "C")
            .env_remove("CEPH_ARGS")
            .current_dir("/")
            .stdin(Stdio::piped())
            // the lock is its own as long as it has this
            .stdout(lock)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut line = serde_json::to_vec(options)?;
        line.push(b'\n');
        child.stdin.take().map_or(Ok(()), |mut input| input.write_all(&line))?;
        Ok(Some(child))
    }
}

/// The same once it has greeted.
async fn greeted(mut stream: tokio::net::UnixStream) -> Option<UnixStream> {
    let mut line = [0];
    let greeting = tokio::time::timeout(COMES_UP, stream.read_exact(&mut line)).await;
    matches!(greeting, Ok(Ok(_))).then(|| stream.into_std().ok()).flatten()
}

/// The file, locked; `None`: somebody else has it.
fn locked(path: &Path) -> std::io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    Ok(rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
}

/// Is such a process, which `socket` is made for; the lock is its stdout.
pub(crate) fn share(socket: &Path, idle: Duration, makes_changes: bool) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    onemirror_rbd::close_inherited().map_err(told)?;
    let mut options = String::new();
    std::io::stdin().lock().read_line(&mut options).map_err(told)?;
    let options = serde_json::from_str(&options).map_err(|error| error.to_string())?;
    remove_left_behind(socket);
    // of one that was killed
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(told)?;
    let ended = match makes_changes {
        true => onemirror_rbd::lend(&listener, options, idle, AGE),
        false => onemirror_rbd::share(listener, options, idle, AGE),
    };
    remove_files(socket);
    ended
}

/// Files of others that have ended without removing them.
fn remove_left_behind(own: &Path) {
    let Some(folder) = own.parent().and_then(|folder| std::fs::read_dir(folder).ok()) else { return };
    for path in folder.flatten().map(|entry| entry.path()) {
        let is_lock = path.extension() == Some(OsStr::new(LOCK));
        if is_lock
            && path.file_stem() != own.file_name()
            && let Ok(Some(_lock)) = locked(&path)
        {
            remove_files(&path.with_extension(""));
        }
    }
}

/// A socket, and what is beside it. Whoever has locked a file that is gone is not served twice: one after another is.
fn remove_files(socket: &Path) {
    for path in [socket, &socket.with_extension(TAKEN), &socket.with_extension(LOCK)] {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn options() -> ConnectOptions {
        ConnectOptions {
            conf: Some("/nowhere/ceph.conf".into()),
            user: "admin".into(),
            ..ConnectOptions::default()
        }
    }

    fn sharing(folder: PathBuf) -> SharedProcesses {
        SharedProcesses { folder, idle: COMES_UP, sign_of_life: RunsSign::default() }
    }

    #[tokio::test]
    async fn who_cannot_have_one_does_not_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        // hears all, and ends
        let program = folder.path().join("program");
        std::fs::write(&program, "#!/bin/sh\nread line\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let relative = ConnectOptions { conf: Some("ceph.conf".into()), ..options() };
        for (name, options) in [("librbd", options()), ("librbd", relative), ("no/parent/folder", options())]
        {
            let shared = sharing(folder.path().join(name));
            let forever = Duration::from_secs(86_400);
            if let Some((socket, options)) = shared.place(&options) {
                let met = shared.met(forever, ServedCalls::Questions, &program, &socket, &options).await;
                assert!(met.is_none(), "{name}");
            }
            assert!(shared.connect(&program, &options).await.is_none(), "{name}");
            assert!(matches!(shared.lend(&program, &options).await, Lending::Never), "{name}");
        }
    }

    #[test]
    fn one_that_may_answer_otherwise_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let conf = folder.path().join("ceph.conf");
        let shared = sharing(folder.path().join("librbd"));
        let named = || {
            let conf = Some(conf.to_string_lossy().into_owned());
            shared.socket(&ConnectOptions { conf, ..options() }).unwrap()
        };
        std::fs::write(&conf, "[global]").unwrap();
        let first = named();
        assert_eq!(named(), first);
        std::fs::write(&conf, "[global]\nfsid = 1").unwrap();
        assert_ne!(named(), first);
        assert_ne!(
            shared.socket(&options()),
            shared.socket(&ConnectOptions { user: "x".into(), ..options() })
        );
        let far = SharedProcesses { folder: folder.path().join("long".repeat(40)), ..shared };
        assert_eq!(far.socket(&options()), None, "no socket can be made there");
    }
}
