//! The process that makes the calls of Ceph's libraries for another one of this program.

use std::io::{stdin, stdout};
use std::process::ExitCode;

/// Ends when stdin does.
pub(super) fn run() -> ExitCode {
    match onemirror_rbd::serve(stdin().lock(), stdout()) {
        Ok(()) => {}
        Err(error) => tracing::info!("{error}"),
    }
    // Ceph's threads are still at work, and what its libraries do at a normal end may wait for them
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    ExitCode::FAILURE
}
