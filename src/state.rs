//! The little that onemirror itself remembers on a front-end, in [`crate::config::state_dir`]: the emergency
//! switch, and about which images the peer was asked since boot. Everything else is asked of OpenNebula and Ceph.

mod shared_answer;
mod sign_of_life;

pub(crate) use shared_answer::SharedAnswer;
pub use sign_of_life::RunsSign;
pub(crate) use sign_of_life::SignOfLife;

use crate::text::cut;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const OFF: &str = "off";
const PEER_CONTACTS: &str = "peer-contacts";
const RECONCILED: &str = "reconciled";
const FIRST_REPORTS: &str = "first-reports";
/// Among the contacts: the peer was asked about some image.
const ANY_IMAGE: &str = "any";
/// Far more than any of the files holds, in bytes.
const SIZE_LIMIT: u64 = 64 << 10;
/// The longest reason that is kept, in bytes.
const REASON_LIMIT: usize = 4096;

/// Something about the state folder that did not work.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}: {source}; {remedy}", path.display())]
pub struct StateError {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
    remedy: &'static str,
}

/// Who switched onemirror off, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Off {
    /// In the operator's words.
    pub reason: String,
    /// The operator, see [`operator`].
    pub by: String,
    /// When.
    pub time: Timestamp,
}

/// Whether the emergency switch is off, so that every action goes straight to the stock driver.
///
/// The file's existence alone decides: `touch off` in the state folder works too, and what it says may be
/// unreadable or damaged. An error means that not even its existence could be seen; callers then go on as if
/// it were on, since a boot that is refused is repaired more easily than one that should have been.
pub fn emergency_off(folder: &Path) -> Result<Option<Off>, StateError> {
    let path = folder.join(OFF);
    let metadata = match std::fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StateError {
                path,
                what: "cannot tell whether onemirror is switched off",
                source,
                remedy: "make its folder accessible for the front-end's user (chown oneadmin, chmod 700)",
            });
        }
    };
    let written = read(&path).ok().and_then(|text| serde_json::from_str::<Off>(&text).ok());
    Ok(Some(written.unwrap_or_else(|| Off {
        reason: format!("not recorded; made by hand or damaged: {}", path.display()),
        by: format!("user id {}", metadata.uid()),
        time: metadata.modified().ok().and_then(|time| time.try_into().ok()).unwrap_or_default(),
    })))
}

/// Switches onemirror off until [`switch_on`]; replaces the reason if it is off already.
pub fn switch_off(folder: &Path, reason: &str) -> Result<Off, StateError> {
    let reason = reason.trim();
    let off = Off { reason: cut(reason, REASON_LIMIT).into(), by: operator(), time: Timestamp::now() };
    write(folder, OFF, &off).map_err(|source| StateError {
        path: folder.join(OFF),
        what: "cannot switch onemirror off",
        source,
        remedy: "an empty file of this name does the same: create it by hand",
    })?;
    Ok(off)
}

/// Switches onemirror on again. `None`: it was on.
pub fn switch_on(folder: &Path) -> Result<Option<Off>, StateError> {
    let off = emergency_off(folder)?;
    if off.is_some() {
        let path = folder.join(OFF);
        match std::fs::remove_file(&path).and_then(|()| File::open(folder)?.sync_all()) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                let what = "cannot switch onemirror on";
                return Err(StateError { path, what, source, remedy: "remove it by hand" });
            }
            _ => {}
        }
    }
    Ok(off)
}

/// Who runs this, for the record: the login name where the environment tells it (it is not proof), and the user id.
pub fn operator() -> String {
    let name = ["SUDO_USER", "LOGNAME", "USER"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty() && value.len() <= 64));
    let id = rustix::process::getuid().as_raw();
    match name {
        Some(name) => format!("{name} (user id {id})"),
        None => format!("user id {id}"),
    }
}

/// The identity of one run of the machine; another after every boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(String);

impl BootId {
    /// The present one, from the kernel.
    pub fn current() -> Result<Self, StateError> {
        Self::read(Path::new("/proc/sys/kernel/random/boot_id"))
    }

    fn read(path: &Path) -> Result<Self, StateError> {
        let fail = |source| StateError {
            path: path.into(),
            what: "cannot tell this run of the machine from the last",
            source,
            remedy: "mount /proc; until then the peer counts as not reached since boot",
        };
        let text = read(path).map_err(fail)?;
        let id = text.trim_end();
        let is_uuid = id.len() == 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if is_uuid {
            Ok(Self(id.into()))
        } else {
            Err(fail(io::Error::new(ErrorKind::InvalidData, "not a UUID")))
        }
    }
}

impl std::fmt::Display for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct PeerContact {
    boot_id: BootId,
    time: Timestamp,
    agrees: bool,
}

/// Where something is noted about an image; `None` for a name that could lead elsewhere.
fn note_path(folder: &Path, kind: &str, name: &str) -> Option<PathBuf> {
    let is_word =
        !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    is_word.then(|| folder.join(kind).join(name))
}

/// Where it is noted that the peer was asked about this image.
fn contact_path(folder: &Path, global_id: &str) -> Option<PathBuf> {
    note_path(folder, PEER_CONTACTS, global_id)
}

/// Notes that the peer was asked about the image in this run of the machine, and whether its copy agrees with the one
/// here being the newest. Not to be able to costs only a refused boot later.
pub fn remember_peer_contact(
    folder: &Path,
    global_id: &str,
    boot_id: &BootId,
    agrees: bool,
) -> Result<(), StateError> {
    let contact = PeerContact { boot_id: boot_id.clone(), time: Timestamp::now(), agrees };
    for (name, contact) in
        [(global_id, contact.clone()), (ANY_IMAGE, PeerContact { agrees: true, ..contact })]
    {
        let Some(path) = contact_path(folder, name) else { continue };
        if peer_contact(folder, name, boot_id) == Some(contact.agrees) {
            continue;
        }
        private_folder(folder).and_then(|()| note(&folder.join(PEER_CONTACTS), name, &contact)).map_err(
            |source| StateError {
                path,
                what: "cannot note that the peer was reached",
                source,
                remedy: "make its folder writable for the front-end's user (chown oneadmin, chmod 700)",
            },
        )?;
    }
    Ok(())
}

/// What the peer's copy of the image said when it was last seen in this run of the machine: whether it agrees; `None` if
/// it was not seen. What cannot be read counts as not seen.
pub fn peer_contact(folder: &Path, global_id: &str, boot_id: &BootId) -> Option<bool> {
    let text = read(&contact_path(folder, global_id)?).ok()?;
    let contact = serde_json::from_str::<PeerContact>(&text).ok()?;
    (contact.boot_id == *boot_id).then_some(contact.agrees)
}

/// Whether the peer was reached at all in this run of the machine.
pub fn peer_contacted_since_boot(folder: &Path, boot_id: &BootId) -> bool {
    peer_contact(folder, ANY_IMAGE, boot_id).is_some()
}

#[derive(Serialize, Deserialize)]
struct FirstReport {
    copy: String,
    report: String,
}

/// Whether this report on the copy with that id is another one than the first that was seen beside it, and so was
/// written while this copy was there. A daemon's last words on a copy that was thrown away may be all there is on the
/// next one, for minutes. The first report seen is noted under `name`, by equality alone: no clock is asked.
pub fn is_later_report(folder: &Path, name: &str, copy: &str, report: &str) -> bool {
    let Some(path) = note_path(folder, FIRST_REPORTS, name) else { return false };
    let known = read(&path).ok().and_then(|text| serde_json::from_str::<FirstReport>(&text).ok());
    if let Some(first) = known.filter(|first| first.copy == copy) {
        return first.report != report;
    }
    let first = FirstReport { copy: copy.into(), report: report.into() };
    if let Err(error) = private_folder(folder).and_then(|()| note(&folder.join(FIRST_REPORTS), name, &first))
    {
        tracing::warn!("{}: cannot note a report: {error}", path.display());
    }
    false
}

/// A file's name for an address. Two addresses may have one.
fn file_name(address: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    address.chars().map(word).take(64).collect()
}

/// Front-ends that did not answer a moment ago.
const SILENT: &str = "silent";
/// How long that is a moment.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// A front-end that may be lost, by its address: whether it was silent a moment ago, so that the next process asks it early, beside
/// its cluster. It has its full time all the same. So this decides nothing, and need not last, nor be exact.
#[derive(Clone, Debug)]
pub(crate) struct MayBeLost {
    folder: PathBuf,
    name: String,
}

impl MayBeLost {
    /// `folder`: this front-end's own.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self { folder: folder.to_owned(), name: file_name(name) }
    }

    pub(crate) fn was_silent(&self) -> bool {
        let text = note_path(&self.folder, SILENT, &self.name).and_then(|path| read(&path).ok());
        let noted = text.and_then(|text| serde_json::from_str::<Timestamp>(&text).ok());
        noted.is_some_and(|noted| Timestamp::now().duration_since(noted).unsigned_abs() < SILENT_FOR)
    }

    pub(crate) fn note_silence(&self) {
        let folder = self.folder.join(SILENT);
        let noted = private_folder(&self.folder).and_then(|()| note(&folder, &self.name, &Timestamp::now()));
        if let Err(error) = noted {
            tracing::debug!("{}: cannot note a silence: {error}", folder.display());
        }
    }

    pub(crate) fn note_answer(&self) {
        if let Some(path) = note_path(&self.folder, SILENT, &self.name) {
            // mostly there is none
            let _ = std::fs::remove_file(path);
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Reconciled {
    time: Timestamp,
}

/// Notes that a reconcile run came to its end now.
pub fn remember_reconcile(folder: &Path) -> Result<(), StateError> {
    write(folder, RECONCILED, &Reconciled { time: Timestamp::now() }).map_err(|source| StateError {
        path: folder.join(RECONCILED),
        what: "cannot note that reconcile has run",
        source,
        remedy: "make its folder writable for the front-end's user (chown oneadmin, chmod 700)",
    })
}

/// The images that a reconcile run found locked.
const LOCKED: &str = "reconcile-locked";

/// Notes which images a reconcile run found locked.
pub fn remember_locked(folder: &Path, images: &BTreeSet<String>) -> Result<(), StateError> {
    write(folder, LOCKED, images).map_err(|source| StateError {
        path: folder.join(LOCKED),
        what: "cannot note which images are locked",
        source,
        remedy: "make its folder writable for the front-end's user (chown oneadmin, chmod 700)",
    })
}

/// The images that the last reconcile run found locked; none where that is not known.
pub fn locked_before(folder: &Path) -> BTreeSet<String> {
    let text = read(&folder.join(LOCKED)).ok();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Somebody asked for a reconcile run that has not begun yet.
const WANTED: &str = "reconcile-wanted";
/// Locked while a run that was asked for is at work.
const AT_WORK: &str = "reconcile-at-work";

/// A run that was asked for and that nobody else makes; ends with this.
#[derive(Debug)]
pub struct Turn {
    _locked: File,
}

/// Notes that a reconcile run is wanted. However many ask, one run is for all of them.
pub fn want_reconcile(folder: &Path) -> Result<(), StateError> {
    write(folder, WANTED, &Reconciled { time: Timestamp::now() })
        .map_err(|source| turn_error(folder.join(WANTED), source))
}

/// The run that is wanted, unless somebody is at one: he asks again at its end. Who is killed leaves at most the note that
/// one is wanted.
pub fn next_reconcile(folder: &Path) -> Result<Option<Turn>, StateError> {
    let wanted = folder.join(WANTED);
    if !wanted.exists() {
        return Ok(None);
    }
    let path = folder.join(AT_WORK);
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true).mode(0o600).custom_flags(flags);
    let locked = options.open(&path).map_err(|source| turn_error(path.clone(), source))?;
    give_to_owner_of_folder(&locked, &path);
    match rustix::fs::flock(&locked, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(turn_error(path, error.into())),
    }
    match std::fs::remove_file(&wanted) {
        Ok(()) => Ok(Some(Turn { _locked: locked })),
        // somebody's run has begun since, and ended
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(turn_error(wanted, error)),
    }
}

fn turn_error(path: PathBuf, source: io::Error) -> StateError {
    StateError {
        path,
        what: "cannot take turns with other hooks",
        source,
        remedy: "make its folder writable for the front-end's user (chown oneadmin, chmod 700)",
    }
}

/// When a reconcile run came to its end for the last time; `None`: never, or it can't be read.
pub fn last_reconcile(folder: &Path) -> Option<Timestamp> {
    let text = read(&folder.join(RECONCILED)).ok()?;
    Some(serde_json::from_str::<Reconciled>(&text).ok()?.time)
}

/// A small regular file's text.
fn read(path: &Path) -> io::Result<String> {
    read_up_to(path, SIZE_LIMIT)
}

/// A regular file's text, cut off after `limit` bytes; never through a symbolic link, never waiting for a pipe.
fn read_up_to(path: &Path, limit: u64) -> io::Result<String> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// Replaces a file of the folder at once, so that a reader sees the old or the new one, also after a crash.
fn write(folder: &Path, name: &str, content: &impl Serialize) -> io::Result<()> {
    let file = written(folder, name, content)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// As [`write()`], for what is worth nothing after a crash of this machine: what was noted in this run of it, and what is
/// only seen later where it is not noted. A cloud has tens of thousands of these; to sync each one takes half a minute.
fn note(folder: &Path, name: &str, content: &impl Serialize) -> io::Result<()> {
    written(folder, name, content)?.persist(folder.join(name))?;
    Ok(())
}

/// A file of the folder that has no name yet.
fn written(folder: &Path, name: &str, content: &impl Serialize) -> io::Result<tempfile::NamedTempFile> {
    private_folder(folder)?;
    let mut file = tempfile::Builder::new().prefix(&format!(".{name}.")).tempfile_in(folder)?;
    let mut text = serde_json::to_vec(content)?;
    text.push(b'\n');
    file.write_all(&text)?;
    give_to_owner_of_folder(file.as_file(), &folder.join(name));
    Ok(file)
}

/// Makes the folder, mode 0700, if it is not there. One of root's in another's folder is given to that one: an earlier
/// release has left some.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    let is_new = match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let metadata = std::fs::symlink_metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(ErrorKind::NotADirectory, "its folder is not a folder"));
    }
    if is_new || (metadata.uid() == 0 && rustix::process::geteuid().is_root()) {
        give_to_owner_of_folder(&File::open(folder)?, folder);
    }
    Ok(())
}

/// Gives what root has just created at this path to whom its folder belongs: an operator's command as root must
/// not lock the front-end's user out of its own files. Best effort.
pub(crate) fn give_to_owner_of_folder(created: &File, path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(metadata) = std::fs::metadata(folder) {
        let owner = rustix::fs::Uid::from_raw(metadata.uid());
        let group = rustix::fs::Gid::from_raw(metadata.gid());
        if let Err(error) = rustix::fs::fchown(created, Some(owner), Some(group)) {
            tracing::debug!("{}: still root's: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_silent_is_remembered_until_it_answers() {
        let (_parent, folder) = fresh();
        let (one, other) =
            (MayBeLost::new(&folder, "http://192.0.2.1/RPC2"), MayBeLost::new(&folder, "http://[::1]/RPC2"));
        assert!(!one.was_silent());
        one.note_answer();
        one.note_silence();
        assert!(one.was_silent() && !other.was_silent());
        other.note_silence();
        one.note_answer();
        assert!(!one.was_silent() && other.was_silent());
        // a moment is over
        let long_ago = Timestamp::now() - SILENT_FOR;
        std::fs::write(folder.join(SILENT).join(&other.name), format!("\"{long_ago}\"")).unwrap();
        assert!(!other.was_silent());
        std::fs::write(folder.join(SILENT).join(&other.name), "{").unwrap();
        assert!(!other.was_silent());
    }

    #[test]
    fn the_last_reconcile_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last_reconcile(folder.path()), None);
        let before = Timestamp::now();
        remember_reconcile(folder.path()).unwrap();
        assert!(last_reconcile(folder.path()).unwrap() >= before);
        std::fs::write(folder.path().join(RECONCILED), "{").unwrap();
        assert_eq!(last_reconcile(folder.path()), None);
    }

    #[test]
    fn many_who_ask_get_one_run_and_one_more() {
        let (_parent, folder) = fresh();
        assert!(next_reconcile(&folder).unwrap().is_none(), "nobody asked");
        for _ in 0..20 {
            want_reconcile(&folder).unwrap();
        }
        let turn = next_reconcile(&folder).unwrap().expect("the first run");
        assert!(next_reconcile(&folder).unwrap().is_none(), "for all who asked before");
        for _ in 0..20 {
            want_reconcile(&folder).unwrap();
            assert!(next_reconcile(&folder).unwrap().is_none(), "somebody is at work");
        }
        drop(turn);
        let turn = next_reconcile(&folder).unwrap().expect("one more, for those who asked meanwhile");
        drop(turn);
        assert!(next_reconcile(&folder).unwrap().is_none());
        // as if killed in the middle: the lock goes with the process
        want_reconcile(&folder).unwrap();
        drop(next_reconcile(&folder).unwrap().expect("a run"));
        want_reconcile(&folder).unwrap();
        assert!(next_reconcile(&folder).unwrap().is_some());
    }

    #[test]
    fn only_a_report_that_changed_beside_the_copy_is_one_on_it() {
        let (_parent, folder) = fresh();
        let later = |copy, report| is_later_report(&folder, "g-here", copy, report);
        // whoever wrote the first one may have meant the copy before
        assert!(!later("old", "1") && !later("old", "1"));
        assert!(later("old", "2"));
        // copied anew: the last words on the old one say nothing of the new one, whichever clock is ahead
        assert!(!later("new", "2") && !later("new", "2"));
        assert!(later("new", "1"));
        assert!(!is_later_report(&folder, "g-there", "new", "1"));
        assert!(
            !is_later_report(&folder, "../x", "new", "1") && !is_later_report(&folder, "../x", "new", "2")
        );
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_folder_above() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (parent, folder) = fresh();
        let owner = rustix::fs::Uid::from_raw(9869);
        rustix::fs::chown(parent.path(), Some(owner), None).unwrap();
        // as an earlier release left it
        DirBuilder::new().create(&folder).unwrap();
        let inner = folder.join("running");
        for folder in [&folder, &inner] {
            private_folder(folder).unwrap();
            assert_eq!(std::fs::metadata(folder).unwrap().uid(), 9869, "{}", folder.display());
        }
    }

    const IMAGE: &str = "a5b9a3c4-77d4-4a53-9a44-3a4f8f4b1e53";
    use std::os::unix::fs::PermissionsExt;

    fn boot_id(text: &str) -> BootId {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        BootId::read(file.path()).unwrap()
    }

    fn one() -> BootId {
        boot_id("7f8b0d8e-8d0b-4b8e-9a55-0c5d0a3d7d11\n")
    }

    /// A state folder that does not exist yet, in a folder that does.
    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("onemirror");
        (parent, folder)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_switch_goes_off_and_on() {
        let (_parent, folder) = fresh();
        assert_eq!(emergency_off(&folder).unwrap(), None);
        assert_eq!(switch_on(&folder).unwrap(), None);
        let off = switch_off(&folder, " Ceph upgrade\n").unwrap();
        assert_eq!(off.reason, "Ceph upgrade");
        assert!(off.by.contains(&format!("user id {}", rustix::process::getuid().as_raw())));
        assert_eq!(emergency_off(&folder).unwrap(), Some(off.clone()));
        let again = switch_off(&folder, "still").unwrap();
        assert_eq!(switch_on(&folder).unwrap(), Some(again));
        assert_eq!(emergency_off(&folder).unwrap(), None);
        assert_eq!((mode(&folder), std::fs::read_dir(&folder).unwrap().count()), (0o700, 0));
    }

    #[test]
    fn the_file_says_who_why_and_when() {
        let (_parent, folder) = fresh();
        let off = Off { reason: "a\nb".into(), by: "alice (user id 0)".into(), time: Timestamp::UNIX_EPOCH };
        write(&folder, OFF, &off).unwrap();
        insta::assert_snapshot!(std::fs::read_to_string(folder.join(OFF)).unwrap().trim_end(), @r#"{"reason":"a\nb","by":"alice (user id 0)","time":"1970-01-01T00:00:00Z"}"#);
        assert_eq!(mode(&folder.join(OFF)), 0o600);
    }

    #[test]
    fn whatever_is_called_off_means_off() {
        let with = |make: &dyn Fn(&Path)| {
            let (_parent, folder) = fresh();
            std::fs::create_dir(&folder).unwrap();
            make(&folder.join(OFF));
            emergency_off(&folder).unwrap().expect("off").reason
        };
        let nothing_known = |reason: String| assert!(reason.starts_with("not recorded"), "{reason}");
        nothing_known(with(&|path| std::fs::write(path, "").unwrap()));
        nothing_known(with(&|path| std::fs::write(path, "{\"reason\":").unwrap()));
        nothing_known(with(&|path| std::fs::write(path, [0xff; 100]).unwrap()));
        nothing_known(with(&|path| std::fs::write(path, vec![b' '; 1 << 20]).unwrap()));
        nothing_known(with(&|path| std::fs::create_dir(path).unwrap()));
        nothing_known(with(&|path| std::os::unix::fs::symlink("nowhere", path).unwrap()));
        nothing_known(with(&|path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        }));
    }

    #[test]
    fn what_cannot_be_seen_is_an_error_and_not_off() {
        let parent = tempfile::tempdir().unwrap();
        let not_a_folder = parent.path().join("onemirror");
        std::fs::write(&not_a_folder, "").unwrap();
        let error = emergency_off(&not_a_folder).unwrap_err().to_string();
        insta::assert_snapshot!(error.replace(&parent.path().display().to_string(), "/var/lib/one"), @"/var/lib/one/onemirror/off: cannot tell whether onemirror is switched off: Not a directory (os error 20); make its folder accessible for the front-end's user (chown oneadmin, chmod 700)");
        assert!(switch_on(&not_a_folder).is_err());
        let error = switch_off(&not_a_folder, "x").unwrap_err().to_string();
        insta::assert_snapshot!(error.replace(&parent.path().display().to_string(), "/var/lib/one"), @"/var/lib/one/onemirror/off: cannot switch onemirror off: its folder is not a folder; an empty file of this name does the same: create it by hand");
        assert!(switch_off(&parent.path().join("no/such"), "x").is_err());
    }

    #[test]
    fn a_link_is_neither_followed_nor_kept() {
        let (parent, folder) = fresh();
        std::fs::create_dir(&folder).unwrap();
        let target = parent.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, folder.join(OFF)).unwrap();
        switch_off(&folder, "x").unwrap();
        assert!(std::fs::symlink_metadata(folder.join(OFF)).unwrap().is_file());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        let linked = parent.path().join("linked");
        std::os::unix::fs::symlink(&folder, &linked).unwrap();
        assert!(switch_off(&linked, "x").is_err());
    }

    #[test]
    fn a_huge_reason_is_cut() {
        let (_parent, folder) = fresh();
        switch_off(&folder, &"\u{e4}".repeat(50_000)).unwrap();
        assert_eq!(emergency_off(&folder).unwrap().unwrap().reason.len(), REASON_LIMIT);
    }

    #[test]
    fn a_contact_counts_until_the_next_boot() {
        let (_parent, folder) = fresh();
        let other = boot_id("00000000-8d0b-4b8e-9a55-0c5d0a3d7d11");
        assert_eq!(peer_contact(&folder, IMAGE, &one()), None);
        remember_peer_contact(&folder, IMAGE, &one(), true).unwrap();
        assert_eq!(peer_contact(&folder, IMAGE, &one()), Some(true));
        assert_eq!(peer_contact(&folder, IMAGE, &other), None);
        remember_peer_contact(&folder, IMAGE, &other, true).unwrap();
        assert_eq!(peer_contact(&folder, IMAGE, &other), Some(true));
        assert_eq!(peer_contact(&folder, IMAGE, &one()), None);
    }

    #[test]
    fn a_contact_is_about_one_image_and_may_contradict() {
        let (parent, folder) = fresh();
        assert!(!peer_contacted_since_boot(&folder, &one()));
        remember_peer_contact(&folder, IMAGE, &one(), true).unwrap();
        assert_eq!(peer_contact(&folder, "another", &one()), None);
        assert!(peer_contacted_since_boot(&folder, &one()));
        remember_peer_contact(&folder, IMAGE, &one(), false).unwrap();
        assert_eq!(peer_contact(&folder, IMAGE, &one()), Some(false));
        for hostile in ["", "..", "../../x", "a/b", "a\0b"] {
            remember_peer_contact(&folder, hostile, &one(), true).unwrap();
            assert_eq!(peer_contact(&folder, hostile, &one()), None);
        }
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_contact_is_written_once_per_boot() {
        let (_parent, folder) = fresh();
        remember_peer_contact(&folder, IMAGE, &one(), true).unwrap();
        let inode = || std::fs::metadata(folder.join(PEER_CONTACTS).join(IMAGE)).unwrap().ino();
        let before = inode();
        remember_peer_contact(&folder, IMAGE, &one(), true).unwrap();
        assert_eq!(inode(), before);
    }

    #[test]
    fn a_damaged_note_is_no_contact() {
        let (_parent, folder) = fresh();
        std::fs::create_dir_all(folder.join(PEER_CONTACTS)).unwrap();
        for damaged in ["", "{", "{\"boot_id\":7}", "null", &one().0] {
            std::fs::write(folder.join(PEER_CONTACTS).join(IMAGE), damaged).unwrap();
            assert_eq!(peer_contact(&folder, IMAGE, &one()), None, "{damaged}");
        }
        remember_peer_contact(&folder, IMAGE, &one(), true).unwrap();
        assert_eq!(peer_contact(&folder, IMAGE, &one()), Some(true));
    }

    #[test]
    fn boot_ids_are_read_from_the_kernel() {
        assert_eq!(BootId::current().unwrap(), BootId::current().unwrap());
        assert!(BootId::read(Path::new("/no/such/file")).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        for wrong in ["", "x", "7f8b0d8e-8d0b-4b8e-9a55-0c5d0a3d7d1", "zf8b0d8e-8d0b-4b8e-9a55-0c5d0a3d7d11"]
        {
            std::fs::write(file.path(), wrong).unwrap();
            assert!(BootId::read(file.path()).is_err(), "{wrong}");
        }
    }
}
