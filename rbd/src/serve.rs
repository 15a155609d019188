//! The process that makes the calls of the one who started it, and what all such processes have.

use crate::calls::{
    Call, ConnectOptions, Failure, LibraryAnswer, LibraryRequest, LibraryResponse, PoolPlace, Stage,
};
use crate::cluster::{CephLibrary, OpenPool, RadosCluster};
use crate::errno::{EACCES, EIO, ENOENT, EPERM, ESHUTDOWN};
use crate::image::OpenImage;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// Calls that are under way at once; the others wait.
pub const THREADS: usize = 16;

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

/// Who asks.
pub(crate) struct Asker {
    output: Mutex<Box<dyn Write + Send>>,
    /// How many of his calls have not ended.
    pub(crate) under_way: AtomicUsize,
}

impl Asker {
    pub(crate) fn greeted(mut output: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        output.write_all(b"\n")?;
        output.flush()?;
        Ok(Arc::new(Self { output: Mutex::new(Box::new(output)), under_way: AtomicUsize::new(0) }))
    }

    pub(crate) fn respond(&self, response: &LibraryResponse) -> io::Result<()> {
        let mut line = serde_json::to_vec(response)?;
        line.push(b'\n');
        let mut output = self.output.lock().map_err(|_| io::Error::from_raw_os_error(EIO))?;
        output.write_all(&line)?;
        output.flush()
    }
}

type Job = (Arc<Asker>, LibraryRequest);

/// Threads that make the calls, by one connection.
pub(crate) struct Workers {
    shared: Arc<Connected>,
    sender: Sender<Job>,
    receiver: Arc<Mutex<Receiver<Job>>>,
    threads: AtomicUsize,
}

/// The libraries, and the one connection; it is made for the first call.
pub(crate) struct Connected {
    library: CephLibrary,
    options: ConnectOptions,
    cluster: OnceLock<Result<RadosCluster, Failure>>,
    useless: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Workers {
    pub(crate) fn new(library: CephLibrary, options: ConnectOptions) -> Self {
        let (sender, receiver) = channel();
        Self {
            shared: Arc::new(Connected::new(library, options)),
            sender,
            receiver: Arc::new(Mutex::new(receiver)),
            threads: AtomicUsize::new(0),
        }
    }

    /// What is to be done once the connection is worth nothing any more.
    pub(crate) fn when_useless(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.useless.set(Box::new(tell));
    }

    pub(crate) fn take(&self, client: &Arc<Asker>, request: LibraryRequest) -> Result<(), String> {
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
    pub(crate) fn new(library: CephLibrary, options: ConnectOptions) -> Self {
        Self { library, options, cluster: OnceLock::new(), useless: OnceLock::new() }
    }

    /// Makes a call.
    pub(crate) fn outcome(&self, place: &PoolPlace, call: Call) -> Result<LibraryAnswer, Failure> {
        match self.cluster.get_or_init(|| RadosCluster::connect(&self.library, &self.options)) {
            Ok(cluster) => cluster.pool(place).and_then(|pool| answer(&pool, call)),
            Err(failure) => Err(*failure),
        }
    }

    fn work(&self, receiver: &Mutex<Receiver<Job>>) {
        loop {
            let next = receiver.lock().ok().and_then(|receiver| receiver.recv().ok());
            let Some((client, LibraryRequest { number, place, call })) = next else { return };
            let outcome = self.outcome(&place, call);
            let is_useless = outcome.as_ref().is_err_and(Failure::is_of_connection);
            client.under_way.fetch_sub(1, Ordering::AcqRel);
            // who has hung up wants no answer
            let _ = client.respond(&LibraryResponse { number, outcome });
            if is_useless && let Some(tell) = self.useless.get() {
                tell();
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
        Call::Info(image) => {
            let told = pool.glance(&image).map(|(info, _)| Ok(info));
            told.unwrap_or_else(|| looked_at(&image)?.info()).map(LibraryAnswer::Info)
        }
        Call::Metadata(image) => {
            let told = pool.glance(&image).map(|(_, metadata)| Ok(metadata));
            told.unwrap_or_else(|| looked_at(&image)?.metadata()).map(LibraryAnswer::Metadata)
        }
        Call::Look(image) => {
            if let Some((info, metadata)) = pool.glance(&image) {
                let metadata = if info.mirroring.is_some() { metadata } else { BTreeMap::new() };
                return Ok(LibraryAnswer::Look(info, metadata, None));
            }
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
