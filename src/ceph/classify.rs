//! From exit status and standard error to what happened; pure.
//!
//! `rbd` exits with the errno, so its status decides and its words are only shown. `rados` exits with 1 whatever
//! happened and names the errno in the last line of its own. Log lines of Ceph's libraries come from other threads, and
//! may stand before or behind that.

use super::CephError;
use crate::process::{Output, ProcessError};
use crate::text::excerpt;
use onemirror_rbd::errno::{EBUSY, ENOENT, EROFS};

/// `ssh` itself failed.
const SSH_FAILED: i32 = 255;
/// What `ssh` says of a host that answers and lets nobody in, or is not the one that is known.
const SSH_DENIED: [&str; 2] = ["Permission denied (", "Host key verification failed"];
/// `timeout` ended the remote command: by SIGTERM, by SIGKILL.
const REMOTE_TIMEOUT: [i32; 2] = [124, 137];
/// The program ended itself: SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, as a shell tells it.
pub(super) const CRASHED: [i32; 5] = [132, 134, 135, 136, 139];
/// How a program says that it does; what it had logged before follows, thousands of lines of it.
const CRASHES: [&str; 3] = ["FAILED ceph_assert", "terminate called after throwing", "*** Caught signal"];
/// A shell could not run the command: not executable, not found.
const REMOTE_COMMAND: [i32; 2] = [126, 127];

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

fn lines(stderr: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(stderr)
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// Log lines look like `2026-… 7f97… -1 librbd::mirror::DemoteRequest: 0x… handle_get_info: why`, in any library.
fn is_log(line: &str) -> bool {
    let mut parts = line.split(' ').filter(|part| !part.is_empty());
    let (time, thread, level) = (parts.next(), parts.next(), parts.next());
    let is_time = |text: &str| {
        let date = text.split_once('T').map(|(date, _)| date.split('-').map(str::len).collect::<Vec<_>>());
        date == Some(vec![4, 2, 2]) && text.starts_with(|c: char| c.is_ascii_digit())
    };
    time.is_some_and(is_time)
        && thread.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && level.is_some_and(|level| level.parse::<i32>().is_ok())
}

fn is_librbd_log(line: &str) -> bool {
    is_log(line) && line.contains(" -1 librbd::")
}

/// The last line that the program itself said, else the last line of all.
fn last_said(lines: &[String]) -> Option<&str> {
    lines.iter().rev().find(|line| !is_log(line)).or(lines.last()).map(String::as_str)
}

/// The last `rbd:` line, else the last line, and librbd's first reason behind it.
pub(super) fn detail(stderr: &[u8]) -> String {
    let lines = lines(stderr);
    let crashed_at = lines.iter().find_map(|line| {
        let at = CRASHES.into_iter().find_map(|words| line.find(words))?;
        line.get(at..)
    });
    let said = crashed_at
        .or_else(|| lines.iter().rev().find_map(|line| line.strip_prefix("rbd: ")))
        .or_else(|| last_said(&lines))
        .unwrap_or("no message");
    match lines.iter().find(|line| is_librbd_log(line)).map(|line| reason(line)) {
        Some(reason) if !said.contains(&reason) => excerpt(&format!("{said} ({reason})")),
        _ => excerpt(said),
    }
}

/// What a log line of librbd says, behind the names of its classes and functions.
fn reason(line: &str) -> String {
    let is_name = |part: &&str| !part.contains(' ') || part.starts_with("0x");
    line.split(": ").skip(1).skip_while(is_name).collect::<Vec<_>>().join(": ")
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

/// Whether a promotion was refused for now, with nothing changed.
///
/// EBUSY: primary elsewhere, or the demotion there has not arrived. EROFS, snapshot mode: it has arrived, but the daemon
/// has not let go of the copy yet; seen for about a second after each planned switch on Ceph 16.2.
pub(super) fn is_promotion_premature(output: &Output, force: bool) -> bool {
    output.status == EROFS || (output.status == EBUSY && !force)
}

/// Why `rbd` did not exit with 0.
pub(super) fn rbd_error(question: &Question, output: &Output) -> CephError {
    if let Some(error) = bridge_error(question, output) {
        return error;
    }
    let detail = detail(&output.stderr);
    match output.status {
        ENOENT if is_missing(Missing::Image, &output.stderr) || is_missing(Missing::Pool, &output.stderr) => {
            CephError::NotFound { what: question.what.clone() }
        }
        // 1 is also "no such conf", "unknown option", …
        1 if !detail.contains("(1) Operation not permitted") => {
            CephError::Failed { what: question.what.clone(), status: 1, detail }
        }
        status => of_errno(question, status, detail),
    }
}

/// What an error number of Ceph means, where it is not about what is missing.
pub(super) fn of_errno(question: &Question, errno: i32, detail: String) -> CephError {
    let Question { what, cluster, .. } = question.clone();
    match errno {
        1 | 13 => CephError::PermissionDenied { what, detail },
        16 => CephError::Busy { what, detail },
        22 => CephError::NotPossible { what, detail },
        30 => CephError::ReadOnly { what },
        // ENETUNREACH, ENOTCONN, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH
        101 | 107 | 110 | 111 | 113 => CephError::Unreachable { what, cluster, detail },
        status => CephError::Failed { what, status, detail },
    }
}

/// What `ssh`, the remote shell or `timeout` say instead of the command.
fn bridge_error(question: &Question, output: &Output) -> Option<CephError> {
    let host = question.bridge.as_ref()?;
    let said = detail(&output.stderr);
    if output.status == SSH_FAILED {
        return Some(ssh_error(question, &format!("ssh to {host}: {said}")));
    }
    let (what, cluster) = (question.what.clone(), question.cluster.clone());
    if REMOTE_TIMEOUT.contains(&output.status) {
        let detail = excerpt(&format!("killed on {host} at the deadline: {said}"));
        return Some(CephError::Unreachable { what, cluster, detail });
    }
    let detail = excerpt(&format!("cannot run it on {host}: {said}"));
    REMOTE_COMMAND.contains(&output.status).then_some(CephError::NoWay { what, detail })
}

/// Why `ssh` leads to no host. One that answers and lets nobody in is not silent.
pub(super) fn ssh_error(question: &Question, said: &str) -> CephError {
    let (what, cluster, detail) = (question.what.clone(), question.cluster.clone(), excerpt(said));
    match SSH_DENIED.into_iter().any(|words| said.contains(words)) {
        true => CephError::PermissionDenied { what, detail },
        false => CephError::Unreachable { what, cluster, detail },
    }
}

/// Nobody is there who could be asked.
pub(super) fn silent(question: &Question, detail: &str) -> CephError {
    let (what, cluster) = (question.what.clone(), question.cluster.clone());
    CephError::Unreachable { what, cluster, detail: excerpt(detail) }
}

/// Whether the program crashed, here or on a bridge host.
pub(super) fn is_crash(output: &Output) -> bool {
    CRASHED.contains(&output.status)
}

/// Whether the bridge host ended the command at its deadline.
pub(super) fn is_killed_at_deadline(question: &Question, output: &Output) -> bool {
    question.bridge.is_some() && REMOTE_TIMEOUT.contains(&output.status)
}

/// Whether it was `ssh` that failed, not the command.
pub(super) fn is_ssh_failure(output: &Output) -> bool {
    output.status == SSH_FAILED
}

/// Why there was no output at all.
pub(super) fn run_error(question: &Question, error: &ProcessError) -> CephError {
    let what = question.what.clone();
    let detail = excerpt(&error.to_string());
    match error {
        ProcessError::TooLong(_) => CephError::BadAnswer { what, detail },
        ProcessError::Spawn { .. } => CephError::NoWay { what, detail },
        ProcessError::Deadline(_) | ProcessError::Read(_) => {
            CephError::Unreachable { what, cluster: question.cluster.clone(), detail }
        }
    }
}

/// The errno of the operation itself, from the line `error 16: (16) Device or resource busy` that is the last of
/// `rados`. Errors before the operation (no such pool, no monitor) have no such line.
fn rados_errno(stderr: &[u8]) -> Option<i32> {
    let lines = lines(stderr);
    let (number, text) = last_said(&lines)?.strip_prefix("error ")?.split_once(": ")?;
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

/// Whether an omap key, or the object that would have it, does not exist. The former is said on standard output.
pub(super) fn is_omap_key_absent(output: &Output) -> bool {
    output.status == 1
        && (output.stdout.starts_with(b"No such key: ")
            || last_said(&lines(&output.stderr))
                .is_some_and(|line| line.starts_with("error getting omap value ") && line.contains(": (2) ")))
}

/// Why `rados` did not exit with 0.
pub(super) fn rados_error(question: &Question, output: &Output) -> CephError {
    if let Some(error) = bridge_error(question, output) {
        return error;
    }
    let Question { what, cluster, .. } = question.clone();
    let lines = lines(&output.stderr);
    let last = last_said(&lines).unwrap_or_default();
    let detail = excerpt(if last.is_empty() { "no message" } else { last });
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn captured(name: &str) -> Output {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rbd/");
        let read = |kind: &str| std::fs::read(format!("{directory}{name}.{kind}")).unwrap_or_default();
        let rc = String::from_utf8(read("rc")).unwrap();
        let status = rc.split_whitespace().next().unwrap_or_else(|| panic!("{name}.rc")).parse().unwrap();
        Output { status, stdout: read("stdout"), stderr: read("stderr") }
    }

    fn question(bridge: Option<&str>) -> Question {
        Question { what: "WHAT".into(), cluster: "site-a".into(), bridge: bridge.map(Into::into) }
    }

    fn class(error: &CephError) -> &'static str {
        match error {
            CephError::NotFound { .. } => "not found",
            CephError::PermissionDenied { .. } => "permission denied",
            CephError::NotPossible { .. } => "not possible",
            CephError::ReadOnly { .. } => "read only",
            CephError::Busy { .. } => "busy",
            CephError::Unreachable { .. } => "unreachable",
            CephError::NoWay { .. } => "no way",
            CephError::BadAnswer { .. } => "bad answer",
            CephError::Failed { .. } => "failed",
            CephError::PoolFull { .. } => "full",
        }
    }

    #[test]
    fn refusals_of_rbd_have_their_class_and_reason() {
        for (name, expected, shown) in [
            ("err.bad-conf", "failed", "unable to open config file"),
            ("err.usage", "failed", "the argument for option"),
            ("err.bad-user", "permission denied", "couldn't connect to the cluster!"),
            ("err.not-permitted", "permission denied", "(1) Operation not permitted"),
            ("err.mon-down-mount-timeout-5", "unreachable", "couldn't connect to the cluster!"),
            ("err.enoent-status", "not found", ""),
            ("err.nopool", "not found", ""),
            ("err.no-namespace", "not found", ""),
            ("snapshot.10-resync-t8.site-a.journal-status", "not found", ""),
            ("err.not-mirrored-demote", "not possible", "mirroring not enabled on the image"),
            ("err.not-mirrored-pool-status", "not possible", "mirroring not enabled on the pool"),
            ("journal.err.demote-nonprimary", "not possible", "(image is not primary)"),
            ("journal.err.promote-already-primary", "not possible", "(image is already primary)"),
            ("journal.err.resync-primary", "not possible", "image is primary, cannot resync to itself"),
            ("snapshot.err.demote-nonprimary", "not possible", "(image is not primary)"),
            ("snapshot.err.promote-already-primary", "not possible", "(image is already primary)"),
            ("snapshot.err.resync-primary", "not possible", "image is primary, cannot resync to itself"),
            // a journal is asked for where there is none
            (
                "snapshot.01-a-primary-replaying.site-a.journal-status",
                "not possible",
                "journaling is not enabled",
            ),
            ("journal.err.promote-while-peer-primary", "busy", "demotion is not propagated yet"),
            ("snapshot.err.rm-nonprimary", "busy", "image still has watchers"),
            ("journal.err.rm-nonprimary", "busy", "image still has watchers"),
            ("err.metadata-nonprimary", "read only", ""),
            ("journal.err.write-nonprimary", "read only", ""),
            ("snapshot.err.write-nonprimary", "read only", ""),
            (
                "err.parent-missing",
                "failed",
                "(failed to retrieve initial metadata: (2) No such file or directory)",
            ),
            ("err.header-missing", "failed", ""),
        ] {
            let error = rbd_error(&question(None), &captured(name));
            assert_eq!(class(&error), expected, "{name}: {error}");
            assert!(error.to_string().contains(shown), "{name}: {error}");
            assert!(error.to_string().starts_with("WHAT: "), "{error}");
        }
    }

    #[test]
    fn only_a_missing_image_is_absent() {
        for (name, absent) in [
            ("snapshot.10-resync-t8.site-a.info", true),
            ("err.enoent-status", true),
            ("err.nopool", false),
            ("err.no-namespace", false),
            // these exist and are broken
            ("err.parent-missing", false),
            ("err.header-missing", false),
            ("err.bad-conf", false),
            ("err.mon-down-mount-timeout-5", false),
        ] {
            assert_eq!(is_image_absent(&captured(name)), absent, "{name}");
        }
        let mut other = captured("err.enoent-status");
        other.status = 1;
        assert!(!is_image_absent(&other));
        other.status = 2;
        other.stderr.clear();
        assert!(!is_image_absent(&other));
    }

    #[test]
    fn a_premature_promotion_is_told_from_a_refused_one() {
        for name in ["journal.err.promote-while-peer-primary", "snapshot.err.promote-while-peer-primary"] {
            assert!(is_promotion_premature(&captured(name), false));
            assert!(!is_promotion_premature(&captured(name), true));
        }
        let held = captured("snapshot.err.promote-daemon-holds-copy");
        assert!(is_promotion_premature(&held, false) && is_promotion_premature(&held, true));
        for name in ["journal.err.promote-already-primary", "err.enoent-status", "err.bad-user"] {
            assert!(!is_promotion_premature(&captured(name), false));
        }
    }

    #[test]
    fn refusals_of_rados_have_their_class() {
        for (name, expected) in [
            ("rados.err.no-pool", "not found"),
            ("rados.err.not-permitted", "permission denied"),
            ("rados.err.omap-not-permitted", "permission denied"),
            ("rados.err.bad-user", "permission denied"),
            ("rados.err.mon-down", "unreachable"),
            ("rados.err.bad-conf", "failed"),
            ("rados.err.break-garbage", "not possible"),
            ("rados.err.lock-held", "busy"),
        ] {
            let output = captured(name);
            assert_eq!(class(&rados_error(&question(None), &output)), expected, "{name}");
            assert_eq!(is_lock_held(&output), name == "rados.err.lock-held", "{name}");
            assert!(!is_lock_absent(&output) && !is_omap_key_absent(&output), "{name}");
        }
        for name in
            ["rados.err.lock-info-no-object", "rados.err.lock-list-no-object", "rados.err.break-other"]
        {
            assert!(is_lock_absent(&captured(name)) && !is_lock_held(&captured(name)), "{name}");
        }
        for name in ["rados.err.no-key", "rados.err.no-omap-object"] {
            assert!(is_omap_key_absent(&captured(name)), "{name}");
        }
        // another thread's log line may come last
        let log = "2026-11-26T19:59:42.421+0000 7f2c1f57a6c0 -1 monclient: get_auth_request but no auth handler is set up\n";
        let mut output = captured("rados.err.break-other");
        output.stderr.extend(log.bytes());
        assert!(is_lock_absent(&output));
        let mut output = captured("rados.err.lock-held");
        output.stderr.extend(log.bytes());
        assert!(is_lock_held(&output));
        assert_eq!(class(&rados_error(&question(None), &output)), "busy");
        let mut output = captured("rados.err.no-omap-object");
        output.stderr.extend(log.bytes());
        assert!(is_omap_key_absent(&output));
        // an object's name is no errno
        let stderr = b"error opening pool (16) x: (1) Operation not permitted".to_vec();
        assert!(!is_lock_held(&Output { status: 1, stdout: Vec::new(), stderr }));
        let stderr = b"error 16: (2) No such file or directory".to_vec();
        assert!(!is_lock_held(&Output { status: 1, stdout: Vec::new(), stderr }));
    }

    #[test]
    fn a_bridge_host_that_fails_is_not_the_cluster_speaking() {
        let stderr = b"rbd: error opening image x: (2) No such file or directory".to_vec();
        for status in [255, 124, 137, 126, 127] {
            let output = Output { status, stdout: Vec::new(), stderr: stderr.clone() };
            for error in [rbd_error, rados_error].map(|it| it(&question(Some("node-1")), &output)) {
                let no_command = matches!(status, 126 | 127);
                assert_eq!(class(&error), if no_command { "no way" } else { "unreachable" }, "{status}");
                assert!(error.to_string().contains("node-1"), "{error}");
            }
            assert_eq!(class(&rbd_error(&question(None), &output)), "failed", "{status}");
        }
        let crashed = Output { status: 134, stdout: Vec::new(), stderr };
        assert_eq!(class(&rbd_error(&question(Some("node-1")), &crashed)), "failed");
        assert!(is_crash(&crashed));
    }

    #[test]
    fn a_bridge_host_that_lets_nobody_in_is_not_silent() {
        for (said, expected) in [
            ("oneadmin@node-1: Permission denied (publickey,password).", "permission denied"),
            ("Host key verification failed.", "permission denied"),
            ("ssh: connect to host node-1 port 22: Connection refused", "unreachable"),
            ("ssh: connect to host node-1 port 22: No route to host", "unreachable"),
        ] {
            let output = Output { status: 255, stdout: Vec::new(), stderr: said.as_bytes().to_vec() };
            assert_eq!(class(&rbd_error(&question(Some("node-1")), &output)), expected, "{said}");
        }
    }

    #[test]
    fn details_are_one_clean_short_line() {
        let hostile = format!("rbd: a\x1b[2J\u{202e}b\r\tc {}", "x".repeat(9999));
        let shown = detail(hostile.as_bytes());
        assert!(shown.starts_with("a [2J b c xxx") && shown.ends_with("x…"), "{shown}");
        assert_eq!(detail(b""), "no message");
        let crash = "./src/x.cc: In function 'void f()' thread 7f\n./src/x.cc: 12: FAILED ceph_assert(m_lock == 0)\n\
                     rbd: listing children\n--- end dump of recent events ---\n";
        assert_eq!(detail(crash.as_bytes()), "FAILED ceph_assert(m_lock == 0)");
    }

    proptest! {
        #[test]
        fn anything_is_classified(status in 0..256i32, stderr: Vec<u8>, bridge: bool) {
            let output = Output { status, stdout: Vec::new(), stderr };
            let question = question(bridge.then_some("node-1"));
            for error in [rbd_error(&question, &output), rados_error(&question, &output)] {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
            prop_assert!(!is_lock_held(&output) && !is_image_absent(&output));
        }

        #[test]
        fn damaged_refusals_are_never_absence_or_a_lock(cut in 0..2000usize, at in 0..2000usize, bit in 0..8u8) {
            for name in ["err.nopool", "err.no-namespace", "err.parent-missing", "rados.err.no-pool", "err.bad-user"] {
                let mut output = captured(name);
                if let Some(byte) = output.stderr.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                output.stderr.truncate(cut.max(1));
                prop_assert!(!is_image_absent(&output) && !is_lock_held(&output) && !is_lock_absent(&output), "{}", name);
            }
        }
    }
}
