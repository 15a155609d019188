//! A process that makes calls of Ceph's libraries: one that ends with whoever drops it, one that others have as well, or one that
//! is lent.

use super::super::command::ANSWER_LIMIT;
use super::shared::LentProcess;
use onemirror_rbd::{
    Call, ConnectOptions, Failure, LibraryAnswer, LibraryRequest, LibraryResponse, PoolPlace,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// What this program is called with, to be such a process.
pub(crate) const COMMAND: &str = "librbd";

/// As which lists of processes have it.
pub(super) const NAME: &str = "onemirror";

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<LibraryAnswer, Failure>>>>>;

/// Why no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It said nothing at all: there are no libraries, or it could not be started.
    WithoutALine,
    /// In the middle.
    InTheMiddle,
    /// It was killed, since another call took too long.
    Killed,
    /// It has no connection to the cluster, so the call was not made.
    NotConnected,
}

/// What ends it, or its work for us.
enum Leash {
    /// Our own, which is killed when dropped.
    Own { _child: Child, group: Option<Pid> },
    /// Others have it, too: it hears that we hang up.
    Shared(UnixStream),
    /// Others have it later, unless something that we have begun has not ended.
    Lent(LentProcess),
}

/// The process.
pub(super) struct LibraryProcess {
    leash: Leash,
    input: tokio::sync::Mutex<Input>,
    waiting: Waiting,
    has_spoken: Arc<AtomicBool>,
    has_ended: Arc<AtomicBool>,
    was_killed: AtomicBool,
    next: AtomicU64,
    /// How many calls are.
    under_way: AtomicUsize,
    /// How many calls nobody waited for to the end.
    given_up: AtomicUsize,
}

impl Drop for LibraryProcess {
    fn drop(&mut self) {
        match &self.leash {
            Leash::Lent(lent) if self.waiting.lock().is_ok_and(|waiting| waiting.is_empty()) => {
                drop(lent.stream.shutdown(Shutdown::Both));
            }
            _ => self.kill(),
        }
    }
}

/// A line that is not written to its end leaves nothing that could be written behind it.
struct Sending<'a>(&'a AtomicBool, bool);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.store(true, Ordering::Release);
        }
    }
}

struct Input {
    pipe: Pin<Box<dyn AsyncWrite>>,
    /// What is written before the first call.
    options: Option<ConnectOptions>,
}

/// So many calls that nobody waits for any longer leave the process too few threads.
const MOST_GIVEN_UP: usize = onemirror_rbd::THREADS / 2;

/// Counts a call as long as it is under way.
struct UnderWay<'a> {
    process: &'a LibraryProcess,
    has_ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.process.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.has_ended && self.process.given_up.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_GIVEN_UP {
            self.process.kill();
        }
    }
}

impl Input {
    async fn send(&mut self, request: &LibraryRequest) -> std::io::Result<()> {
        if let Some(options) = self.options.take() {
            self.write(&options).await?;
        }
        self.write(request).await
    }

    async fn write(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.pipe.write_all(&line).await
    }
}

impl LibraryProcess {
    /// Starts `program`; nothing is connected before the first call.
    pub(super) fn start(program: &Path, options: &ConnectOptions) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg0(NAME)
            .arg(COMMAND)
            .env("LC_ALL", "C")
            .env_remove("CEPH_ARGS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // what Ceph's libraries log is not for oned
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let no_pipe = || std::io::Error::other("no pipe to the process that was started");
        let pipe = child.stdin.take().ok_or_else(no_pipe)?;
        let output = child.stdout.take().ok_or_else(no_pipe)?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let input = Input { pipe: Box::pin(pipe), options: Some(options.clone()) };
        Ok(Self::with(Leash::Own { _child: child, group }, input, output))
    }

    /// One that is connected, and has greeted.
    pub(super) fn shared(stream: UnixStream) -> std::io::Result<Self> {
        Self::connected(Leash::Shared(stream.try_clone()?), stream)
    }

    /// One that is ours for a while.
    pub(super) fn lent(lent: LentProcess) -> std::io::Result<Self> {
        let stream = lent.stream.try_clone()?;
        Self::connected(Leash::Lent(lent), stream)
    }

    fn connected(leash: Leash, stream: UnixStream) -> std::io::Result<Self> {
        let (output, pipe) = tokio::net::UnixStream::from_std(stream)?.into_split();
        Ok(Self::with(leash, Input { pipe: Box::pin(pipe), options: None }, output))
    }

    fn with(leash: Leash, input: Input, output: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (waiting, has_spoken, has_ended) = (Waiting::default(), Arc::default(), Arc::default());
        tokio::spawn(listen(
            output,
            Waiting::clone(&waiting),
            Arc::clone(&has_spoken),
            Arc::clone(&has_ended),
        ));
        Self {
            leash,
            input: tokio::sync::Mutex::new(input),
            waiting,
            has_spoken,
            has_ended,
            was_killed: AtomicBool::new(false),
            next: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
        }
    }

    /// Whether others have it, too.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.leash, Leash::Shared(_))
    }

    /// Whether it is another's after us.
    pub(super) fn is_lent(&self) -> bool {
        matches!(self.leash, Leash::Lent(_))
    }

    /// Whether no answer comes from it any more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Whether a call is under way.
    pub(super) fn is_at_work(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Ends it, and all that it has begun, also for others of this run who wait for it. A shared one is hung up on.
    pub(super) fn kill(&self) {
        self.was_killed.store(true, Ordering::Release);
        self.has_ended.store(true, Ordering::Release);
        // an error says that it has ended already
        match &self.leash {
            Leash::Own { group: Some(group), .. } => drop(kill_process_group(*group, Signal::KILL)),
            Leash::Own { group: None, .. } => {}
            Leash::Shared(stream) => drop(stream.shutdown(Shutdown::Both)),
            Leash::Lent(lent) => lent.kill(),
        }
    }

    /// Makes a call; it has no deadline.
    pub(super) async fn call(
        &self,
        place: PoolPlace,
        call: Call,
    ) -> Result<Result<LibraryAnswer, Failure>, Ended> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let mut under_way = UnderWay { process: self, has_ended: false };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.insert(number, sender);
        }
        let mut input = self.input.lock().await;
        let mut sending = Sending(&self.has_ended, false);
        let sent = input.send(&LibraryRequest { number, place, call }).await;
        sending.1 = sent.is_ok();
        drop((sending, input));
        // it may have ended before this call waited
        let outcome = match sent.is_err() || self.has_ended() {
            true => None,
            false => answer.await.ok(),
        };
        under_way.has_ended = true;
        let was_killed = self.was_killed.load(Ordering::Acquire);
        outcome.ok_or(match self.has_spoken.load(Ordering::Acquire) {
            _ if was_killed => Ended::Killed,
            true => Ended::InTheMiddle,
            false => Ended::WithoutALine,
        })
    }
}

/// Hands each answer to who waits for it. At the end nobody waits any longer.
async fn listen(
    output: impl AsyncRead + Unpin,
    waiting: Waiting,
    has_spoken: Arc<AtomicBool>,
    has_ended: Arc<AtomicBool>,
) {
    let limit = u64::try_from(ANSWER_LIMIT).unwrap_or(u64::MAX);
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut output).take(limit).read_until(b'\n', &mut line).await;
        if !read.is_ok_and(|length| length > 0) {
            break;
        }
        has_spoken.store(true, Ordering::Release);
        if line.len() == 1 {
            continue;
        }
        let Ok(LibraryResponse { number, outcome }) = serde_json::from_slice(&line) else { break };
        let waits = waiting.lock().ok().and_then(|mut waiting| waiting.remove(&number));
        if let Some(waits) = waits {
            // who gave up does not listen
            let _ = waits.send(outcome);
        }
    }
    has_ended.store(true, Ordering::Release);
    if let Ok(mut waiting) = waiting.lock() {
        waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    /// Each holds a thread of the process, which has not many, for as long as Ceph does not answer.
    #[tokio::test]
    async fn a_process_with_many_calls_that_were_given_up_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, "#!/bin/sh\nwhile read line; do :; done\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let process = LibraryProcess::start(&program, &ConnectOptions::default()).unwrap();
        for given_up in 0..MOST_GIVEN_UP {
            assert!(!process.has_ended(), "{given_up}");
            let place = PoolPlace { pool: "one".into(), namespace: None };
            let call = process.call(place, Call::Info("one-7".into()));
            assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
        }
        assert!(process.has_ended());
    }
}
