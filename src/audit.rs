//! The audit log: one JSON line for every change made and every refusal.
//!
//! A log that cannot be written never stops an operation: handing a VM over matters more than noting it.

use crate::state::give_to_owner_of_folder;
use crate::text::{cut, printable_json};
use jiff::Timestamp;
use serde::Serialize;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest text of an entry, in bytes; what is longer is cut.
pub const TEXT_LIMIT: usize = 4096;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Changed something.
    Done,
    /// Not done, on purpose; nothing was changed.
    Refused,
    /// Tried, and went wrong.
    Failed,
    /// Left to a later run.
    Pending,
    /// Not done because a policy or the emergency switch says so.
    Skipped,
}

/// What one line says, besides the time and the process id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// This site's name; empty where no configuration could be read.
    pub site: String,
    /// The OpenNebula VM.
    pub vm: Option<i32>,
    /// The RBD image, `pool[/namespace]/image`.
    pub image: Option<String>,
    /// What set it off: a TM action, a hook, a command.
    pub event: String,
    /// The rule of the handoff that decided.
    pub rule: Option<String>,
    /// What was done or not done.
    pub step: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in words: of a refusal, a failure, or an operator.
    pub reason: Option<String>,
    /// How long it took; written in milliseconds.
    pub duration: Duration,
}

impl Entry {
    /// An entry with nothing but what every line has; the other fields are set by name.
    pub fn new(site: &str, event: &str, outcome: Outcome) -> Self {
        Self {
            site: site.into(),
            vm: None,
            image: None,
            event: event.into(),
            rule: None,
            step: None,
            outcome,
            reason: None,
            duration: Duration::ZERO,
        }
    }
}

/// An entry that could not be written. The caller may go on without it.
#[derive(Debug, thiserror::Error)]
#[error("{}: audit log not written: {source}; make the file writable for the front-end's user", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// The log file. Every entry opens it anew, so that logrotate may move it away.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    warned: AtomicBool,
}

impl AuditLog {
    /// Names the file; it is opened, and created with mode 0640, by the first entry.
    pub fn open(path: &Path) -> Self {
        Self { path: path.into(), warned: AtomicBool::new(false) }
    }

    /// Appends one line in one write, so that lines of several processes never mix.
    ///
    /// The first failure is also told by `tracing::warn`, so the result may be ignored.
    pub fn record(&self, entry: &Entry) -> Result<(), AuditError> {
        let line = line(entry, Timestamp::now(), std::process::id());
        open_for_append(&self.path).and_then(|file| append(&file, &line)).map_err(|source| {
            let error = AuditError { path: self.path.clone(), source };
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!("{error}");
            }
            error
        })
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    site: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    duration_ms: u64,
    pid: u32,
}

fn line(entry: &Entry, time: Timestamp, pid: u32) -> Vec<u8> {
    let text = serde_json::to_string(&Line {
        time: format!("{time:.3}"),
        site: cut(&entry.site, TEXT_LIMIT),
        vm: entry.vm,
        image: entry.image.as_deref().map(|text| cut(text, TEXT_LIMIT)),
        event: cut(&entry.event, TEXT_LIMIT),
        rule: entry.rule.as_deref().map(|text| cut(text, TEXT_LIMIT)),
        step: entry.step.as_deref().map(|text| cut(text, TEXT_LIMIT)),
        outcome: entry.outcome,
        reason: entry.reason.as_deref().map(|text| cut(text, TEXT_LIMIT)),
        duration_ms: u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX),
        pid,
    })
    // A struct of texts and numbers cannot fail to be written.
    .unwrap_or_default();

    let mut line = printable_json(&text).into_bytes();
    line.push(b'\n');
    line
}

/// Opens the log for reading and appending; never through a symbolic link, never waiting for a pipe.
fn open_for_append(path: &Path) -> io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let mut options = File::options();
    options.read(true).append(true).mode(0o640).custom_flags(flags);
    let file = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => match options.create_new(true).open(path) {
            // Another process was quicker.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => options.create_new(false).open(path)?,
            created => {
                let created = created?;
                // Root's first entry must not lock the front-end's user out of the log.
                give_to_owner_of_folder(&created, path);
                created
            }
        },
        opened => opened?,
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"))
    }
}

fn append(mut file: &File, line: &[u8]) -> io::Result<()> {
    // A disk that was full may have left half a line. Another process's line on its way may look like one: then
    // an empty line comes between, which readers of JSON lines pass over.
    let size = file.metadata()?.size();
    let mut last = [b'\n'];
    if size > 0 {
        file.read_at(&mut last, size - 1)?;
    }
    let bytes = if last == [b'\n'] { line.to_vec() } else { [b"\n", line].concat() };
    loop {
        match file.write(&bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::Error::new(ErrorKind::StorageFull, "only part of the line was written")),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    fn full() -> Entry {
        Entry {
            vm: Some(42),
            image: Some("one/one-0-2-0".into()),
            rule: Some("take-over".into()),
            step: Some("demote".into()),
            reason: Some("terminated on site-b".into()),
            duration: Duration::from_micros(1_234_567),
            ..Entry::new("site-b", "tm mvds", Outcome::Done)
        }
    }

    fn printed(entry: &Entry) -> String {
        String::from_utf8(line(entry, "2026-03-01T12:00:00.0456789Z".parse().unwrap(), 4711)).unwrap()
    }

    fn read(path: &Path) -> Vec<Value> {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    #[test]
    fn a_line_holds_all_fields() {
        insta::assert_snapshot!(printed(&full()).trim_end(), @r#"{"time":"2026-03-01T12:00:00.045Z","site":"site-b","vm":42,"image":"one/one-0-2-0","event":"tm mvds","rule":"take-over","step":"demote","outcome":"done","reason":"terminated on site-b","duration_ms":1234,"pid":4711}"#);
        insta::assert_snapshot!(printed(&Entry::new("site-b", "off", Outcome::Refused)).trim_end(), @r#"{"time":"2026-03-01T12:00:00.045Z","site":"site-b","event":"off","outcome":"refused","duration_ms":0,"pid":4711}"#);
        let whole_second = line(&full(), Timestamp::UNIX_EPOCH, 1);
        assert!(whole_second.starts_with(b"{\"time\":\"1970-01-01T00:00:00.000Z\","));
    }

    #[test]
    fn outcomes_have_these_names() {
        use Outcome::*;
        let names = [Done, Refused, Failed, Pending, Skipped].map(|o| serde_json::to_string(&o).unwrap());
        insta::assert_snapshot!(names.join(" "), @r#""done" "refused" "failed" "pending" "skipped""#);
    }

    #[test]
    fn no_text_leaves_its_line_or_moves_the_cursor() {
        let reason = "a\nb\r\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{2028}\"\\ \u{e4}";
        let text = printed(&Entry { reason: Some(reason.into()), ..full() });
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.ends_with('\n'));
        assert!(
            !text.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\u{2028}'),
            "{text:?}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["reason"], reason);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "\u{e4}".repeat(TEXT_LIMIT) + "end";
        let entry = Entry {
            site: format!("x{long}"),
            vm: None,
            image: Some(long.clone()),
            event: long.clone(),
            rule: Some(long.clone()),
            step: Some(long.clone()),
            reason: Some(long),
            ..full()
        };
        let value: Value = serde_json::from_str(&printed(&entry)).unwrap();
        for key in ["site", "image", "event", "rule", "step", "reason"] {
            let length = value[key].as_str().unwrap().len();
            assert!((TEXT_LIMIT - 3..=TEXT_LIMIT).contains(&length), "{key} {length}");
        }
    }

    #[test]
    fn entries_are_appended_to_a_file_of_mode_0640() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("onemirror.log");
        let before = Timestamp::now();
        for _ in 0..2 {
            AuditLog::open(&path).record(&full()).unwrap();
        }
        let entries = read(&path);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1]["pid"], std::process::id());
        let time: Timestamp = entries[0]["time"].as_str().unwrap().parse().unwrap();
        assert!(time.as_millisecond() >= before.as_millisecond() && time <= Timestamp::now());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn lines_of_several_writers_never_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("onemirror.log");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let log = AuditLog::open(path);
                    for number in 0..100 {
                        let reason = Some("x".repeat(number * 40));
                        log.record(&Entry { vm: Some(writer), reason, ..full() }).unwrap();
                    }
                });
            }
        });
        let entries = read(&path);
        assert_eq!(entries.len(), 800);
        for writer in 0..8 {
            let lengths: Vec<usize> = entries
                .iter()
                .filter(|entry| entry["vm"] == writer)
                .map(|entry| entry["reason"].as_str().unwrap().len())
                .collect();
            assert_eq!(lengths, (0..100).map(|number| number * 40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn half_a_line_spoils_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("onemirror.log");
        std::fs::write(&path, "{\"time\":\"2026-").unwrap();
        AuditLog::open(&path).record(&full()).unwrap();
        AuditLog::open(&path).record(&full()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1..].iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full_disk = File::options().read(true).append(true).open("/dev/full").unwrap();
        assert_eq!(append(&full_disk, b"{}\n").unwrap_err().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_log_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("onemirror.log");
        let log = AuditLog::open(&path);
        log.record(&full()).unwrap();
        std::fs::rename(&path, folder.path().join("onemirror.log.1")).unwrap();
        log.record(&full()).unwrap();
        assert_eq!(read(&path).len(), 1);
    }

    #[test]
    fn links_folders_and_pipes_are_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &dangling).unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [&link, &dangling, &pipe, &folder.path().to_path_buf(), &"/dev/null".into()] {
            assert!(AuditLog::open(path).record(&full()).is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read(&target).unwrap(), b"");
        assert!(!folder.path().join("nowhere").exists());
    }

    #[test]
    fn a_failure_is_returned_every_time_and_warned_of_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no-such-folder/onemirror.log");
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = written.clone();
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let subscriber = tracing_subscriber::fmt().with_writer(move || Sink(sink.clone())).finish();
        let log = AuditLog::open(&path);
        let error = tracing::subscriber::with_default(subscriber, || {
            log.record(&full()).unwrap_err();
            log.record(&full()).unwrap_err()
        });
        insta::assert_snapshot!(error.to_string().replace(&folder.path().display().to_string(), "/var/log"), @"/var/log/no-such-folder/onemirror.log: audit log not written: No such file or directory (os error 2); make the file writable for the front-end's user");
        let warnings = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(warnings.matches("audit log not written").count(), 1, "{warnings}");
    }

    /// As root only: without root nothing changes hands.
    #[test]
    fn root_does_not_lock_the_folders_owner_out() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(parent.path(), Some(9869), Some(9869)).unwrap();
        let folder = parent.path().join("onemirror");
        crate::state::switch_off(&folder, "x").unwrap();
        let log = parent.path().join("onemirror.log");
        let entry = Entry::new("site-a", "off", Outcome::Done);
        AuditLog::open(&log).record(&entry).unwrap();
        for path in [&folder, &folder.join(crate::state::OFF), &log] {
            let metadata = std::fs::metadata(path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (9869, 9869), "{}", path.display());
        }
    }
}
