//! Runs a driver action or a hook as OpenNebula's `LocalCommand` does.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Output beyond this is dropped, in bytes per stream.
const OUTPUT_LIMIT: usize = 1 << 20;

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit status; 255 if it was killed, could not be started or ran out of time.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error, or why the command could not run.
    pub stderr: String,
}

/// The environment that children get on top of ours: where oned lives, and nothing that leads them elsewhere.
pub fn environment(command: &mut Command, location: &Path) {
    command.env("ONE_LOCATION", location).env("HOME", location.join("var"));
    command.env_remove("ONE_AUTH").env_remove("ONE_XMLRPC");
}

/// Runs a line of shell in its own process group; without `timeout` it may take for ever, as with one_tm.
///
/// Like the original it waits for the process only, not for grandchildren that keep the streams open.
pub async fn run(line: &str, stdin: &str, location: &Path, timeout: Option<Duration>) -> Outcome {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line).current_dir(location.join("var")).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    environment(&mut command, location);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Outcome { code: 255, stdout: String::new(), stderr: format!("Internal error {error}") };
        }
    };
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    if let Some(mut pipe) = child.stdin.take() {
        let text = stdin.to_owned();
        // a command that does not read its input must not hold us up, nor fail for it
        tokio::spawn(async move {
            let _ = pipe.write_all(text.as_bytes()).await;
        });
    }
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let status = match timeout {
        None => child.wait().await,
        Some(limit) => match tokio::time::timeout(limit, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                if let Some(group) = group {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
                }
                let _ = child.wait().await;
                return Outcome {
                    code: 255,
                    stdout: String::new(),
                    stderr: format!("Timeout executing {line}"),
                };
            }
        },
    };
    let (stdout, stderr) = (stdout.text().await, stderr.text().await);
    match status {
        Ok(status) => Outcome { code: status.code().unwrap_or(255), stdout, stderr },
        Err(error) => Outcome { code: 255, stdout, stderr: format!("Internal error {error}") },
    }
}

struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Collected {
    async fn text(mut self) -> String {
        let _ = tokio::time::timeout(Duration::from_millis(100), &mut self.task).await;
        self.task.abort();
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

fn collect(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Collected {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let filled = Arc::clone(&bytes);
    let task = tokio::spawn(async move {
        let Some(mut stream) = stream else { return };
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            let mut bytes = filled.lock().unwrap_or_else(PoisonError::into_inner);
            let room = OUTPUT_LIMIT.saturating_sub(bytes.len());
            bytes.extend_from_slice(&buffer[..count.min(room)]);
        }
    });
    Collected { bytes, task }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run_in_scratch(line: &str, stdin: &str, timeout: Option<Duration>) -> Outcome {
        let location = tempfile::tempdir().unwrap();
        std::fs::create_dir(location.path().join("var")).unwrap();
        run(line, stdin, location.path(), timeout).await
    }

    #[tokio::test]
    async fn passes_input_and_keeps_both_streams_apart() {
        let outcome =
            run_in_scratch("cat; echo \"$ONE_XMLRPC$(basename \"$PWD\")\" >&2; exit 3", "hello", None).await;
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (3, "hello", "var\n"));
    }

    #[tokio::test]
    async fn does_not_wait_for_grandchildren_but_keeps_the_time_limit() {
        let before = std::time::Instant::now();
        let outcome = run_in_scratch("sleep 5 & echo done", "", None).await;
        assert_eq!(outcome.stdout, "done\n");
        let outcome = run_in_scratch("sleep 5", "", Some(Duration::from_millis(50))).await;
        assert_eq!((outcome.code, outcome.stderr.as_str()), (255, "Timeout executing sleep 5"));
        assert!(before.elapsed() < Duration::from_secs(4));
    }
}
