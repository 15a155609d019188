//! One `ssh` connection to a bridge host, shared by all commands of a run.

use crate::process;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

/// Commands at once through one connection: sshd's default `MaxSessions` is 10.
const SESSIONS: usize = 8;
/// A connection that nobody closed, because the process was killed, ends by itself.
const PERSIST_SECONDS: u32 = 60;
/// Longest wait for one host to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for an answer to "close the connection".
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The bridge hosts of a cluster, and the connection to the one that is used.
#[derive(Debug)]
pub(super) struct Bridge {
    hosts: Vec<String>,
    connection: Mutex<Selected>,
    sessions: Semaphore,
}

#[derive(Debug, Default)]
struct Selected {
    /// Where to begin to look for a usable host.
    next: usize,
    connection: Option<Arc<SharedConnection>>,
}

/// A connection that stands, closed when the last one that uses it is done.
#[derive(Debug)]
pub(super) struct SharedConnection {
    ssh: PathBuf,
    /// The host it leads to.
    pub(super) host: String,
    /// Mode 0700; holds the control socket.
    directory: tempfile::TempDir,
}

impl Bridge {
    pub(super) fn new(hosts: Vec<String>) -> Self {
        Self { hosts, connection: Mutex::default(), sessions: Semaphore::new(SESSIONS) }
    }

    /// Waits until one more command may use the connection.
    pub(super) async fn session(&self) -> Option<SemaphorePermit<'_>> {
        self.sessions.acquire().await.ok()
    }

    /// The connection that stands, or a new one to the first host that can be reached within `deadline`.
    pub(super) async fn connect(
        &self,
        ssh: &Path,
        deadline: Duration,
    ) -> Result<Arc<SharedConnection>, String> {
        let mut selected = self.connection.lock().await;
        if let Some(connection) = &selected.connection {
            return Ok(Arc::clone(connection));
        }
        let count = self.hosts.len();
        let share = deadline / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let mut failures = Vec::new();
        for index in (0..count).map(|offset| (selected.next + offset) % count) {
            let Some(host) = self.hosts.get(index) else { continue };
            match SharedConnection::open(ssh, host, share.min(CONNECT_LIMIT)).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    selected.next = index;
                    selected.connection = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                Err(failure) => {
                    tracing::debug!(host, failure, "bridge host not usable");
                    failures.push(format!("{host}: {failure}"));
                }
            }
        }
        if failures.is_empty() {
            return Err("no bridge host is configured".into());
        }
        Err(format!("no bridge host can be reached by ssh: {}", failures.join("; ")))
    }

    /// Forgets a connection that failed; the next call begins with the next host.
    pub(super) async fn give_up(&self, failed: &Arc<SharedConnection>) {
        let mut selected = self.connection.lock().await;
        if selected.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, failed)) {
            selected.connection = None;
            selected.next = (selected.next + 1) % self.hosts.len().max(1);
        }
    }
}

/// What a host may be called so that `ssh` reads it as nothing else.
fn is_host(host: &str) -> bool {
    !host.is_empty() && !host.starts_with('-') && host.chars().all(|c| c.is_ascii_graphic())
}

impl SharedConnection {
    async fn open(ssh: &Path, host: &str, limit: Duration) -> Result<Self, String> {
        if !is_host(host) {
            return Err("not a host name".into());
        }
        let directory = tempfile::Builder::new()
            .prefix("onemirror-")
            .permissions(std::fs::Permissions::from_mode(0o700)) // not tempfile's own choice
            .tempdir()
            .map_err(|error| format!("no directory for its control socket: {error}"))?;
        let connection = Self { ssh: ssh.into(), host: host.into(), directory };
        // The connection outlives this command in the background and would keep a pipe open, so it logs to a file.
        let log = connection.directory.path().join("log");
        let mut command = tokio::process::Command::new(ssh);
        command.args(connection.options("yes"));
        command.arg("-E").arg(&log);
        command.arg("-o").arg(format!("ConnectTimeout={}", limit.as_secs().max(1)));
        command.args(["--", host, "true"]);
        command.env("LC_ALL", "C");
        let log_of = |log: &Path| {
            let text = std::fs::read(log).unwrap_or_default();
            super::classify::detail(text.get(..text.len().min(64 * 1024)).unwrap_or_default())
        };
        match process::run(command, limit, 64 * 1024).await {
            Ok(output) if output.status == 0 => Ok(connection),
            Ok(output) => Err(format!("exit status {}: {}", output.status, log_of(&log))),
            Err(error) => Err(error.to_string()),
        }
    }

    fn options(&self, master: &str) -> Vec<OsString> {
        let mut options: Vec<OsString> = ["-a", "-x", "-T"].into_iter().map(OsString::from).collect();
        for option in [
            "BatchMode=yes",
            "ClearAllForwardings=yes",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=2",
            "LogLevel=ERROR",
        ] {
            options.extend(["-o".into(), option.into()]);
        }
        options.extend(["-o".into(), format!("ControlMaster={master}").into()]);
        options.extend(["-o".into(), format!("ControlPersist={PERSIST_SECONDS}").into()]);
        options.extend(["-S".into(), self.socket()]);
        options
    }

    /// The control socket, its name quoted against the expansion of `%`.
    fn socket(&self) -> OsString {
        let path = self.directory.path().join("s").into_os_string().into_vec();
        let mut quoted = Vec::with_capacity(path.len());
        for byte in path {
            quoted.extend(if byte == b'%' { b"%%".to_vec() } else { vec![byte] });
        }
        OsString::from_vec(quoted)
    }

    /// The arguments of `ssh` that run `remote` (already quoted for a shell) on the host.
    pub(super) fn arguments(&self, remote: OsString) -> Vec<OsString> {
        let mut arguments = self.options("no");
        arguments.extend(["--".into(), self.host.clone().into(), remote]);
        arguments
    }
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(&self.ssh);
        command.arg("-S").arg(self.socket()).args(["-O", "exit", "--", &self.host]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else { return };
        // a hung connection must not hold us up: it ends by ControlPersist or the server's silence
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = child.wait();
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(CLOSE_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_ssh_would_misread_are_refused() {
        for host in ["", "-oProxyCommand=id", "a b", "a\nb", "h\u{e4}"] {
            assert!(!is_host(host), "{host:?}");
        }
        assert!(is_host("oneadmin@node-1.example.org"));
    }
}
