//! The process that makes the calls.

use crate::calls::{Call, ConnectOptions, Failure, LibraryAnswer, LibraryRequest, LibraryResponse, Stage};
use crate::cluster::{CephLibrary, OpenPool, RadosCluster};
use crate::image::OpenImage;
use rustix::io::FdFlags;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Calls that are under way at once; the others wait.
pub const THREADS: usize = 16;

/// How long somebody may leave an answer unread.
const LISTENS: Duration = Duration::from_secs(10);

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EACCES: i32 = 13;
/// Of a client that was cut off from the cluster.
const ESHUTDOWN: i32 = 108;

/// What a shared process hears of.
enum Heard {
    Came,
    /// With calls that have not ended.
    Left(usize),
    /// The connection to the cluster is worth nothing any more.
    Useless,
}

/// Writes an empty line once the libraries are open. Reads [`ConnectOptions`], then [`LibraryRequest`]s, a line each, until
/// there are no more, and writes [`LibraryResponse`]s in the order in which they come. What is still under way at the end is
/// given up: the caller has to end the process, and Ceph's threads with it. An error says why the libraries cannot be had, or
/// that what is read makes no sense.
pub fn serve(input: impl BufRead, output: impl Write + Send + 'static) -> Result<(), String> {
    let library = CephLibrary::open()?;
    let client = Asker::greeted(output).map_err(|error| error.to_string())?;
    let mut lines = input.lines();
    let Some(options) = lines.next().transpose().map_err(|error| error.to_string())? else { return Ok(()) };
    let options = serde_json::from_str(&options).map_err(|error| error.to_string())?;
    let workers = Workers::new(library, options);
    for line in lines {
        let request = line.map_err(|error| error.to_string())?;
        workers.take(&client, serde_json::from_str(&request).map_err(|error| error.to_string())?)?;
    }
    Ok(())
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
    workers.tell_useless(sender.clone());
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

/// Who asks.
struct Asker {
    output: Mutex<Box<dyn Write + Send>>,
    /// How many of his calls have not ended.
    under_way: AtomicUsize,
}

impl Asker {
    fn greeted(mut output: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        output.write_all(b"\n")?;
        output.flush()?;
        Ok(Arc::new(Self { output: Mutex::new(Box::new(output)), under_way: AtomicUsize::new(0) }))
    }

    fn respond(&self, response: &LibraryResponse) -> io::Result<()> {
        let mut line = serde_json::to_vec(response)?;
        line.push(b'\n');
        let mut output = self.output.lock().map_err(|_| io::Error::from_raw_os_error(EIO))?;
        output.write_all(&line)?;
        output.flush()
    }
}

type Job = (Arc<Asker>, LibraryRequest);

/// Threads that make the calls, by one connection.
struct Workers {
    shared: Arc<Connected>,
    sender: Sender<Job>,
    receiver: Arc<Mutex<Receiver<Job>>>,
    threads: AtomicUsize,
}

struct Connected {
    library: CephLibrary,
    options: ConnectOptions,
    cluster: OnceLock<Result<RadosCluster, Failure>>,
    useless: OnceLock<Sender<Heard>>,
}

impl Workers {
    fn new(library: CephLibrary, options: ConnectOptions) -> Self {
        let (sender, receiver) = channel();
        let shared = Connected { library, options, cluster: OnceLock::new(), useless: OnceLock::new() };
        Self {
            shared: Arc::new(shared),
            sender,
            receiver: Arc::new(Mutex::new(receiver)),
            threads: AtomicUsize::new(0),
        }
    }

    /// Who wants to know that the connection is worth nothing any more.
    fn tell_useless(&self, events: Sender<Heard>) {
        let _ = self.shared.useless.set(events);
    }

    fn take(&self, client: &Arc<Asker>, request: LibraryRequest) -> Result<(), String> {
        if self.threads.load(Ordering::Relaxed) < THREADS {
            self.threads.fetch_add(1, Ordering::Relaxed);
            let (shared, receiver) = (self.shared.clone(), self.receiver.clone());
            thread::spawn(move || shared.work(&receiver));
        }
        client.under_way.fetch_add(1, Ordering::AcqRel);
        self.sender.send((client.clone(), request)).map_err(|_| "no thread is left".to_owned())
    }
}

impl Connected {
    fn work(&self, receiver: &Mutex<Receiver<Job>>) {
        loop {
            let next = receiver.lock().ok().and_then(|receiver| receiver.recv().ok());
            let Some((client, LibraryRequest { number, place, call })) = next else { return };
            let connected = self.cluster.get_or_init(|| RadosCluster::connect(&self.library, &self.options));
            let outcome = match connected {
                Ok(cluster) => cluster.pool(&place).and_then(|pool| answer(&pool, call)),
                Err(failure) => Err(*failure),
            };
            let is_useless = outcome.as_ref().is_err_and(Failure::is_of_connection);
            client.under_way.fetch_sub(1, Ordering::AcqRel);
            // who has hung up wants no answer
            let _ = client.respond(&LibraryResponse { number, outcome });
            if is_useless && let Some(events) = self.useless.get() {
                let _ = events.send(Heard::Useless);
            }
        }
    }
}
fn answer(pool: &OpenPool<'_>, call: Call) -> Result<LibraryAnswer, Failure> {
    let looked_at = |image: &str| OpenImage::look_at(pool, image);
    let changed = |image: &str, change: &dyn Fn(&OpenImage<'_>) -> Result<(), Failure>| {
        change(&OpenImage::change(pool, image)?).map(|()| LibraryAnswer::Done)
    };
    match call {
        Call::Info(image) => looked_at(&image)?.info().map(LibraryAnswer::Info),
        Call::Metadata(image) => looked_at(&image)?.metadata().map(LibraryAnswer::Metadata),
        Call::Look(image) => {
            let opened = looked_at(&image)?;
            let look = || {
                let info = opened.info()?;
                let metadata = if info.mirroring.is_some() { opened.metadata()? } else { BTreeMap::new() };
                let follows = info.mirroring.as_ref().is_some_and(|mirroring| !mirroring.primary);
                // one that cannot be had is asked for by itself, where it matters
                let status = follows.then(|| opened.status().ok()).flatten();
                Ok(LibraryAnswer::Look(info, metadata, status))
            };
            // a resync deletes the copy under the look
            look().map_err(|failure: Failure| match failure.errno {
                ENOENT => pool.what_is_missing(&image, failure),
                _ => failure,
            })
        }
        Call::SetMetadata { image, key, value } => changed(&image, &|image| image.set_metadata(&key, &value)),
        Call::Promote { image, force } => changed(&image, &|image| image.promote(force)),
        Call::Demote(image) => changed(&image, &|image| image.demote()),
        Call::Resync(image) => changed(&image, &|image| image.resync()),
        Call::MirrorSnapshot(image) => changed(&image, &|image| image.mirror_snapshot()),
        Call::Status(image) => looked_at(&image)?.status().map(LibraryAnswer::Status),
        Call::Snapshots(image) => looked_at(&image)?.snapshots().map(LibraryAnswer::Snapshots),
        Call::OmapValue { object, key } => pool.omap_value(&object, &key).map(LibraryAnswer::Value),
        Call::Lock { object, name, cookie, seconds } => {
            pool.lock(&object, &name, &cookie, seconds).map(|()| LibraryAnswer::Done)
        }
        Call::LockHolders { object, name } => pool.lock_holders(&object, &name).map(LibraryAnswer::Locked),
        Call::Unlock { object, name, holder } => {
            pool.unlock(&object, &name, &holder).map(|()| LibraryAnswer::Done)
        }
    }
}

impl Failure {
    /// Whether there is no such image, in a pool that there is.
    pub fn is_absent_image(&self) -> bool {
        self.stage == Stage::Image && self.errno == ENOENT
    }

    /// Whether another connection may have another answer: there is none, it was cut off, or the user has other rights by now.
    pub fn is_of_connection(&self) -> bool {
        self.stage == Stage::Connect || matches!(self.errno, EPERM | EACCES | ESHUTDOWN)
    }
}
