//! A process that is lent to one after another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod common;

use onemirror_rbd::{Call, LibraryAnswer, LibraryRequest, LibraryResponse, PoolPlace};
use rustix::fs::FlockOperation;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fs::File;
use std::io::{BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process, which is killed at the end of the test.
struct Lender {
    folder: TempDir,
    process: Child,
}

impl Drop for Lender {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Lender {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        common::build_library(folder.path());
        let process = Command::new(common::program())
            .arg(folder.path().join("socket"))
            .env("LD_LIBRARY_PATH", folder.path())
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        Self { folder, process }
    }

    fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    fn sign(&self) -> PathBuf {
        self.folder.path().join("sign")
    }

    /// Connects, and gives a locked file, which nobody else holds then.
    fn borrow(&self) -> Borrower {
        let socket = self.folder.path().join("socket");
        until("the socket", || socket.exists());
        let stream = UnixStream::connect(socket).unwrap();
        let sign = File::create(self.sign()).unwrap();
        rustix::fs::flock(&sign, FlockOperation::NonBlockingLockExclusive).unwrap();
        let files = [sign.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        rustix::net::sendmsg(&stream, &[IoSlice::new(b"\n")], &mut control, SendFlags::empty()).unwrap();
        Borrower { stream }
    }
}

struct Borrower {
    stream: UnixStream,
}

impl Borrower {
    fn greeted(&mut self) {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"\n");
    }

    fn send(&mut self, call: Call) {
        let place = PoolPlace { pool: "one".into(), namespace: None };
        let line = serde_json::to_string(&LibraryRequest { number: 7, place, call }).unwrap();
        writeln!(self.stream, "{line}").unwrap();
    }

    fn answer(&mut self) -> LibraryAnswer {
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).unwrap();
        let LibraryResponse { number, outcome } = serde_json::from_str(&line).unwrap();
        assert_eq!(number, 7);
        outcome.unwrap()
    }
}

fn is_locked(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

#[test]
fn one_after_another_has_it_and_his_sign_stands_as_long() {
    let mut lender = Lender::new();
    let mut first = lender.borrow();
    first.greeted();
    first.send(Call::Demote("journal".into()));
    assert!(matches!(first.answer(), LibraryAnswer::Done));
    assert!(is_locked(&lender.sign()), "he is there");
    std::fs::remove_file(lender.sign()).unwrap();
    let mut second = lender.borrow();
    second.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(second.stream.read_exact(&mut [0]).is_err(), "it is not his turn");
    second.stream.set_read_timeout(None).unwrap();
    drop(first);
    second.greeted();
    second.send(Call::Promote { image: "journal".into(), force: false });
    assert!(matches!(second.answer(), LibraryAnswer::Done));
    assert!(is_locked(&lender.sign()));
    drop(second);
    let sign = lender.sign();
    until("his sign to go with him", || !is_locked(&sign));
    assert!(!lender.has_ended(), "nothing of theirs was under way");
    lender.borrow().greeted();
}

#[test]
fn what_he_has_begun_ends_with_him_and_his_sign_not_before() {
    let mut lender = Lender::new();
    let mut borrower = lender.borrow();
    borrower.greeted();
    borrower.send(Call::Demote("hangs".into()));
    let hangs = lender.folder.path().join("hangs");
    until("the call to hang", || hangs.exists());
    assert!(is_locked(&lender.sign()));
    let sign = lender.sign();
    drop(borrower);
    until("the process to end", || lender.has_ended());
    assert!(!is_locked(&sign));
}
