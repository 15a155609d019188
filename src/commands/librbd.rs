//! The process that makes the calls of Ceph's libraries for others of this program.

use crate::ceph::share;
use std::io::{stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Whom it is for.
#[derive(Debug, clap::Args)]
pub(super) struct LibraryArguments {
    /// All who connect to this socket, in place of the one at stdin
    #[arg(long, value_name = "SOCKET", requires = "idle")]
    share: Option<PathBuf>,
    /// For how many seconds nobody has to be connected until it ends
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
    /// Make changes, for one at a time, in place of answering the questions of all
    #[arg(long, requires = "share")]
    changes: bool,
}

/// Ends when stdin does, or once nobody asks for long.
pub(super) fn run(arguments: &LibraryArguments) -> ExitCode {
    let ended = match (&arguments.share, arguments.idle) {
        (Some(socket), Some(idle)) => share(socket, Duration::from_secs(idle), arguments.changes),
        _ => onemirror_rbd::serve(stdin().lock(), stdout()),
    };
    if let Err(error) = ended {
        tracing::info!("{error}");
    }
    // Ceph's threads are still at work, and what its libraries do at a normal end may wait for them
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    ExitCode::FAILURE
}
