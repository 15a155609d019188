//! From exit status and standard error to what happened; pure.
//!
//! `rbd` exits with the errno, so its status decides and its words are only shown. `rados` exits with 1 whatever
//! happened and names the errno in its last line.

use super::CephError;
use super::process::{Output, RunError};

const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
/// `ssh` itself failed, or a signal ended the remote command.
const SSH_FAILED: i32 = 255;
/// `timeout` ended the remote command: by SIGTERM, by SIGKILL.
const REMOTE_TIMEOUT: [i32; 2] = [124, 137];
/// A shell could not run the command: not executable, not found.
const REMOTE_COMMAND: [i32; 2] = [126, 127];
/// Longest detail shown, in characters.
const DETAIL_LIMIT: usize = 300;

/// What was asked of whom, for messages and for what a status means.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The operation and its object.
    pub(super) what: String,
    /// The cluster's site name.
    pub(super) cluster: String,
    /// The bridge host, where the command went through `ssh`.
    pub(super) bridge: Option<String>,
}

/// One line, without control or text-direction characters, at most [`DETAIL_LIMIT`] characters.
pub(super) fn clean(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| {
            let turns_text =
                matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || turns_text || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }
        })
        .take(4 * DETAIL_LIMIT)
        .collect();
    let mut words = plain.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = words.char_indices().nth(DETAIL_LIMIT) {
        words.truncate(cut);
        words.push('…');
    }
    words
}

fn lines(stderr: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(stderr)
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// librbd's own log lines look like `2026-… 7f97… -1 librbd::mirror::DemoteRequest: 0x… handle_get_info: why`.
fn is_librbd_log(line: &str) -> bool {
    line.contains(" -1 librbd::")
}

/// The last `rbd:` line, else the last line, and librbd's first reason behind it.
pub(super) fn detail(stderr: &[u8]) -> String {
    let lines = lines(stderr);
    let said = lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("rbd: "))
        .or_else(|| lines.iter().rev().find(|line| !is_librbd_log(line)).map(String::as_str))
        .or_else(|| lines.last().map(String::as_str))
        .unwrap_or("no message");
    let reason = lines.iter().find(|line| is_librbd_log(line)).and_then(|line| line.rsplit(": ").next());
    match reason {
        Some(reason) if !said.contains(reason) => clean(&format!("{said} ({reason})")),
        _ => clean(said),
    }
}

/// Whether ENOENT was about `what` (`image`, `pool`, `namespace`) itself. A log line of librbd says that something
/// *behind* an existing image is missing, such as a clone's parent: the image is then not absent but broken.
fn is_missing(what: Missing, stderr: &[u8]) -> bool {
    let lines = lines(stderr);
    let said = |line: &String| match what {
        Missing::Image => line.starts_with("rbd: error opening image ") && line.contains(": (2) "),
        Missing::Pool => {
            (line.starts_with("rbd: error opening pool ") && line.contains(": (2) "))
                || (line.starts_with("rbd: namespace '") && line.ends_with("' does not exist."))
        }
    };
    lines.iter().any(said) && !lines.iter().any(|line| line.contains(" librbd::"))
}

#[derive(Clone, Copy)]
enum Missing {
    Image,
    Pool,
}

/// Whether `rbd` says that there is no such image, in a pool that there is.
pub(super) fn is_image_absent(output: &Output) -> bool {
    output.status == ENOENT
        && is_missing(Missing::Image, &output.stderr)
        && !is_missing(Missing::Pool, &output.stderr)
}

/// Whether a promotion was refused because the copy is, or may be, primary elsewhere.
pub(super) fn is_busy(output: &Output) -> bool {
    output.status == EBUSY
}

/// Why `rbd` did not exit with 0.
pub(super) fn rbd_error(question: &Question, output: &Output) -> CephError {
    if let Some(error) = bridge_error(question, output) {
        return error;
    }
    let Question { what, cluster, .. } = question.clone();
    let detail = detail(&output.stderr);
    let status = output.status;
    match status {
        ENOENT if is_missing(Missing::Image, &output.stderr) || is_missing(Missing::Pool, &output.stderr) => {
            CephError::NotFound { what }
        }
        // 1 is also "no such conf", "unknown option", …
        1 if detail.contains("(1) Operation not permitted") => CephError::PermissionDenied { what, detail },
        13 => CephError::PermissionDenied { what, detail },
        16 => CephError::Busy { what, detail },
        22 => CephError::NotPossible { what, detail },
        30 => CephError::ReadOnly { what },
        // ENETUNREACH, ENOTCONN, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH
        101 | 107 | 110 | 111 | 113 => CephError::Unreachable { what, cluster, detail },
        _ => CephError::Failed { what, status, detail },
    }
}

/// What `ssh`, the remote shell or `timeout` say instead of the command.
fn bridge_error(question: &Question, output: &Output) -> Option<CephError> {
    let host = question.bridge.as_ref()?;
    let said = detail(&output.stderr);
    let detail = if output.status == SSH_FAILED {
        format!("ssh to {host}: {said}")
    } else if REMOTE_TIMEOUT.contains(&output.status) {
        format!("killed on {host} at the deadline: {said}")
    } else if REMOTE_COMMAND.contains(&output.status) {
        format!("cannot run it on {host}: {said}")
    } else {
        return None;
    };
    Some(CephError::Unreachable {
        what: question.what.clone(),
        cluster: question.cluster.clone(),
        detail: clean(&detail),
    })
}

/// Whether it was `ssh` that failed, not the command.
pub(super) fn is_ssh_failure(output: &Output) -> bool {
    output.status == SSH_FAILED
}

/// Why there was no output at all.
pub(super) fn run_error(question: &Question, error: &RunError) -> CephError {
    let what = question.what.clone();
    let detail = clean(&error.to_string());
    match error {
        RunError::TooLong(_) => CephError::BadAnswer { what, detail },
        RunError::Spawn { .. } | RunError::Deadline(_) | RunError::Read(_) => {
            CephError::Unreachable { what, cluster: question.cluster.clone(), detail }
        }
    }
}

/// The errno of the operation itself, from the line `error 16: (16) Device or resource busy` that `rados` ends
/// with. Errors before the operation (no such pool, no monitor) have no such line.
fn rados_errno(stderr: &[u8]) -> Option<i32> {
    let lines = lines(stderr);
    let (number, text) = lines.last()?.strip_prefix("error ")?.split_once(": ")?;
    text.strip_prefix(&format!("({number}) "))?;
    number.parse().ok()
}

/// Whether the lock is held by somebody.
pub(super) fn is_lock_held(output: &Output) -> bool {
    output.status == 1 && rados_errno(&output.stderr) == Some(EBUSY)
}

/// Whether the object, or the lock on it, does not exist.
pub(super) fn is_lock_absent(output: &Output) -> bool {
    output.status == 1 && rados_errno(&output.stderr) == Some(ENOENT)
}

/// Whether an omap key, or the object that would have it, does not exist.
pub(super) fn is_omap_key_absent(output: &Output) -> bool {
    output.status == 1
        && lines(&output.stderr).last().is_some_and(|line| {
            line.starts_with("No such key: ")
                || (line.starts_with("error getting omap value ") && line.contains(": (2) "))
        })
}

/// Why `rados` did not exit with 0.
pub(super) fn rados_error(question: &Question, output: &Output) -> CephError {
    if let Some(error) = bridge_error(question, output) {
        return error;
    }
    let Question { what, cluster, .. } = question.clone();
    let lines = lines(&output.stderr);
    let last = lines.last().map_or("", String::as_str);
    let detail = clean(if last.is_empty() { "no message" } else { last });
    let status = output.status;
    if last.starts_with("error opening pool ") && last.contains(": (2) ") {
        return CephError::NotFound { what };
    }
    // with wrong credentials and with silent monitors it stops at the same place
    if lines.iter().any(|line| line.contains("handle_auth_bad_method")) {
        return CephError::PermissionDenied { what, detail };
    }
    if last.starts_with("failed to fetch mon config") || last.starts_with("couldn't connect to cluster") {
        return CephError::Unreachable { what, cluster, detail };
    }
    let errno = rados_errno(&output.stderr);
    let not_permitted =
        last.ends_with("(1) Operation not permitted") || last.ends_with("(13) Permission denied");
    match errno {
        Some(1 | 13) => CephError::PermissionDenied { what, detail },
        None if not_permitted => CephError::PermissionDenied { what, detail },
        Some(16) => CephError::Busy { what, detail },
        Some(22) => CephError::NotPossible { what, detail },
        Some(30) => CephError::ReadOnly { what },
        Some(110) => CephError::Unreachable { what, cluster, detail },
        _ => CephError::Failed { what, status, detail },
    }
}
