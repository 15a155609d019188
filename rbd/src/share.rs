//! Processes that stay connected to a cluster, and whom several others ask.

use crate::calls::{ConnectOptions, LibraryRequest, LibraryResponse};
use crate::cluster::CephLibrary;
use crate::serve::{Asker, Connected, Workers};
use rustix::event::{PollFd, PollFlags};
use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::Signal;
use std::io::{self, BufRead as _, BufReader, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long somebody may leave an answer unread, or say nothing at first.
const LISTENS: Duration = Duration::from_secs(10);

/// What a shared process hears of.
enum Heard {
    Came,
    /// With calls that have not ended.
    Left(usize),
    /// The connection to the cluster is worth nothing any more.
    Useless,
}

/// Answers the questions of all who connect, by one connection to the cluster. It greets them with an empty line; then come
/// requests and responses as [`serve`] has them. Returns, so that the caller may end the process, once nobody has been
/// connected for `idle`; after `age`; when the connection to the cluster proves useless; and when somebody hangs up before his
/// question is answered, since then its thread may hang for ever. An error says why the libraries cannot be had.
pub fn share(
    listener: UnixListener,
    options: ConnectOptions,
    idle: Duration,
    age: Duration,
) -> Result<(), String> {
    let workers = Arc::new(Workers::new(CephLibrary::open()?, options));
    let (sender, events) = channel();
    let useless = sender.clone();
    workers.when_useless(move || drop(useless.send(Heard::Useless)));
    let accepting = thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            let (workers, sender) = (workers.clone(), sender.clone());
            // whoever is not served hears nothing, and looks after himself
            let _ = thread::Builder::new().spawn(move || answer_all(&workers, stream, &sender));
        }
    });
    accepting.map_err(|error| error.to_string())?;
    let end = Instant::now() + age;
    let mut clients = 0_usize;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match events.recv_timeout(if clients == 0 { left.min(idle) } else { left }) {
            Ok(Heard::Came) => clients += 1,
            Ok(Heard::Left(0)) => clients = clients.saturating_sub(1),
            Ok(Heard::Left(_) | Heard::Useless) => return Ok(()),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Serves one who has connected, as long as he does. What is no question is not answered.
fn answer_all(workers: &Workers, stream: UnixStream, events: &Sender<Heard>) {
    let greeted = stream.set_write_timeout(Some(LISTENS)).and_then(|()| Asker::greeted(stream.try_clone()?));
    let Ok(client) = greeted else { return };
    let _ = events.send(Heard::Came);
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        let request = serde_json::from_str::<LibraryRequest>(&line);
        let Some(request) = request.ok().filter(|request| request.call.only_asks()) else { break };
        if workers.take(&client, request).is_err() {
            break;
        }
    }
    let _ = events.send(Heard::Left(client.under_way.load(Ordering::Acquire)));
}

/// Makes all calls of whoever connects, also those that change something, for one at a time. He sends one byte first, and with
/// it, if he has one, the file whose lock says that he is alive: it is held here until nothing of his is under way. Then it goes
/// on as with [`share`]. Should he be gone while a call of his is under way, this process ends at once, and with it what it
/// has begun. Returns, so that the caller may end the process, once nobody has come for `idle`; when nobody is there after
/// `age`; and when the connection to the cluster proves useless. An error says why the libraries cannot be had.
pub fn lend(
    listener: &UnixListener,
    options: ConnectOptions,
    idle: Duration,
    age: Duration,
) -> Result<(), String> {
    let connected = Connected::new(CephLibrary::open()?, options);
    let end = Instant::now() + age;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !somebody_comes(listener, left.min(idle)) {
            return Ok(());
        }
        let Ok((stream, _)) = listener.accept() else { return Ok(()) };
        // an error is one of the connection to him
        if lend_to(&connected, stream).is_ok_and(|is_useless| is_useless) {
            return Ok(());
        }
    }
}

fn somebody_comes(listener: &UnixListener, within: Duration) -> bool {
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    within
        .try_into()
        .is_ok_and(|within| rustix::event::poll(&mut polled, Some(&within)).is_ok_and(|ready| ready > 0))
}

/// Serves one, as long as he is there. Whether the connection to the cluster has proved useless.
fn lend_to(connected: &Connected, stream: UnixStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(LISTENS))?;
    stream.set_write_timeout(Some(LISTENS))?;
    let _signs_of_life = signs_of_life(&stream)?;
    stream.set_read_timeout(None)?;
    let client = Asker::greeted(stream.try_clone()?)?;
    let lease = Arc::new(Mutex::new(Lease::default()));
    let (sender, requests) = channel();
    let hears = Arc::clone(&lease);
    thread::Builder::new().spawn(move || {
        for line in BufReader::new(stream).lines() {
            let request = line.ok().and_then(|line| serde_json::from_str::<LibraryRequest>(&line).ok());
            if request.is_none_or(|request| sender.send(request).is_err()) {
                break;
            }
        }
        // before anything else, and while what it has begun cannot end
        if hears.lock().map_or(true, |mut lease| lease.ends()) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        }
    })?;
    for LibraryRequest { number, place, call } in requests {
        if !lease.lock().is_ok_and(|mut lease| lease.begins_a_call()) {
            break;
        }
        let outcome = connected.outcome(&place, call);
        let is_useless = outcome.as_ref().is_err_and(crate::calls::Failure::is_of_connection);
        if let Ok(mut lease) = lease.lock() {
            lease.is_at_work = false;
        }
        client.respond(&LibraryResponse { number, outcome })?;
        if is_useless {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether somebody is there, and something of his under way.
#[derive(Default)]
struct Lease {
    has_ended: bool,
    is_at_work: bool,
}

impl Lease {
    /// `false`: he is gone, so nothing more may begin.
    fn begins_a_call(&mut self) -> bool {
        self.is_at_work = !self.has_ended;
        self.is_at_work
    }

    /// He is gone. Whether something is still under way.
    fn ends(&mut self) -> bool {
        self.has_ended = true;
        self.is_at_work
    }
}

/// The files that come with the first byte.
fn signs_of_life(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

/// Closes what this process was given by the one that started it, but for stdin, stdout and stderr: nobody is to wait for a
/// process that stays. For its beginning, when nothing else is at work.
pub fn close_inherited() -> io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number > 2) else { continue };
        // SAFETY: it is open: the folder lists it, and this thread alone is at work
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        // what this process has opened itself has the flag
        if !rustix::io::fcntl_getfd(file)?.contains(FdFlags::CLOEXEC) {
            inherited.push(number);
        }
    }
    for number in inherited {
        // SAFETY: it was inherited, so nothing in this process owns it but this value
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(())
}
