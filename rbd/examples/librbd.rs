//! The process that makes the calls, alone: for the tests that watch its memory, or that borrow one.

use onemirror_rbd::ConnectOptions;
use std::os::unix::net::UnixListener;
use std::time::Duration;

fn main() {
    let minute = Duration::from_secs(60);
    let ended = match std::env::args_os().nth(1) {
        None => onemirror_rbd::serve(std::io::stdin().lock(), std::io::stdout()),
        Some(socket) => UnixListener::bind(socket)
            .map_err(|error| error.to_string())
            .and_then(|listener| onemirror_rbd::lend(&listener, ConnectOptions::default(), minute, minute)),
    };
    if let Err(error) = ended {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
