//! Runs one program to its end: bounded in time and output, decides nothing.

use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Bytes of standard error that are kept from its end: what matters is said last.
const STDERR_KEPT: usize = 64 * 1024;

/// The same from its beginning: a program of Ceph that crashes says why first, and then all that it has logged before.
const STDERR_BEGINS: usize = 8 * 1024;

/// What a shell adds to the number of a signal.
const ENDED_BY_SIGNAL: i32 = 128;

/// What a program left behind.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Its exit status, as a shell tells it: 128 and the number of the signal that ended it.
    pub(crate) status: i32,
    /// All of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// The beginning and the end of its standard error.
    pub(crate) stderr: Vec<u8>,
}

/// Why there is no [`Output`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It could not be started.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// As it was called.
        program: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It was killed, with all that it had started.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// It was killed because it printed more than the limit, in bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// Reading from it failed.
    #[error("{0}")]
    Read(std::io::Error),
}

/// Kills a process group when dropped, so that nothing outlives a deadline or a cancelled call.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // an error says that it has ended already
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs `command` with no standard input, in a process group of its own.
///
/// After `deadline`, beyond `stdout_limit` bytes of output, or when the future is dropped, the whole group is
/// killed. An operation that the program had already sent to the cluster may still take effect there.
pub(crate) async fn run(
    mut command: Command,
    deadline: Duration,
    stdout_limit: usize,
) -> Result<Output, ProcessError> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| ProcessError::Spawn {
        program: command.as_std().get_program().to_string_lossy().into_owned(),
        source,
    })?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async {
        tokio::try_join!(
            async { child.wait().await.map_err(ProcessError::Read) },
            read_all(stdout, stdout_limit),
            read_ends(stderr),
        )
    };
    let (status, stdout, stderr) =
        tokio::time::timeout(deadline, all).await.map_err(|_| ProcessError::Deadline(deadline))??;
    group.0 = None;
    let status = status.code().or_else(|| Some(ENDED_BY_SIGNAL + status.signal()?));
    Ok(Output { status: status.unwrap_or(ENDED_BY_SIGNAL), stdout, stderr })
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> Result<Vec<u8>, ProcessError> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        stream.take(one_more).read_to_end(&mut bytes).await.map_err(ProcessError::Read)?;
    }
    if bytes.len() > limit { Err(ProcessError::TooLong(limit)) } else { Ok(bytes) }
}

async fn read_ends(stream: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, ProcessError> {
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    let Some(stream) = stream else { return Ok(begins) };
    let limit = u64::try_from(STDERR_BEGINS).unwrap_or(u64::MAX);
    let mut stream = stream.take(limit);
    stream.read_to_end(&mut begins).await.map_err(ProcessError::Read)?;
    let mut stream = stream.into_inner();
    let mut is_cut = false;
    while stream.read_buf(&mut ends).await.map_err(ProcessError::Read)? > 0 {
        if ends.len() > 2 * STDERR_KEPT {
            ends.drain(..ends.len() - STDERR_KEPT);
            is_cut = true;
        }
    }
    let over = ends.len().saturating_sub(STDERR_KEPT);
    ends.drain(..over);
    if is_cut || over > 0 {
        begins.push(b'\n');
    }
    begins.append(&mut ends);
    Ok(begins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn collects_both_streams_and_the_status() {
        let output = run(shell("echo out; echo err >&2; exit 30"), LONG, 100).await.unwrap();
        assert_eq!(
            (output.status, &output.stdout[..], &output.stderr[..]),
            (30, &b"out\n"[..], &b"err\n"[..])
        );
        let output = run(shell("kill -9 $$"), LONG, 100).await.unwrap();
        assert_eq!(output.status, 128 + 9);
        // nothing to read, rather than what the caller has on its standard input
        assert_eq!(run(shell("cat"), LONG, 100).await.unwrap().stdout, b"");
    }

    #[tokio::test]
    async fn the_deadline_kills_the_program_and_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // the grandchild holds the pipe's writing end open for as long as it lives
        let script = format!("(exec 3>'{0}'; sleep 1000) & (exec 3>'{0}'; sleep 1000); wait", fifo.display());
        let began = Instant::now();
        let running = tokio::spawn(run(shell(&script), Duration::from_millis(300), 100));
        let reader = tokio::task::spawn_blocking(move || std::fs::read(fifo));
        assert!(matches!(running.await.unwrap(), Err(ProcessError::Deadline(_))));
        // the end of the pipe is reached only when every process that held it is gone
        assert_eq!(tokio::time::timeout(LONG, reader).await.unwrap().unwrap().unwrap(), b"");
        assert!(began.elapsed() < LONG);
    }

    #[tokio::test]
    async fn a_dropped_call_leaves_nothing_running() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let script = format!("(exec 3>'{}'; sleep 1000)", fifo.display());
        let running = tokio::spawn(run(shell(&script), LONG, 100));
        let (opened, has_opened) = tokio::sync::oneshot::channel();
        let reader = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::File::open(fifo).unwrap();
            opened.send(()).unwrap();
            std::io::Read::read(&mut file, &mut [0]).unwrap()
        });
        has_opened.await.unwrap();
        running.abort();
        assert_eq!(tokio::time::timeout(LONG, reader).await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let began = Instant::now();
        assert!(matches!(run(shell("yes"), LONG, 1000).await, Err(ProcessError::TooLong(1000))));
        assert!(began.elapsed() < LONG);
        assert_eq!(run(shell("printf 1234"), LONG, 4).await.unwrap().stdout, b"1234");
        let output =
            run(shell("echo begin >&2; yes | head -c 1000000 >&2; echo end >&2"), LONG, 0).await.unwrap();
        assert_eq!(output.stderr.len(), STDERR_BEGINS + 1 + STDERR_KEPT);
        assert!(output.stderr.starts_with(b"begin\n") && output.stderr.ends_with(b"end\n"));
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = run(Command::new("no-such-program-here"), LONG, 1).await.unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"), "{error}");
    }
}
