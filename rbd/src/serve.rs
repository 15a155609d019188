//! The process that makes the calls.

use crate::calls::{Call, ConnectOptions, Failure, LibraryAnswer, LibraryRequest, LibraryResponse, Stage};
use crate::cluster::{CephLibrary, OpenPool, RadosCluster};
use crate::image::OpenImage;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// Calls that are under way at once; the others wait.
pub const THREADS: usize = 16;

const ENOENT: i32 = 2;
const EIO: i32 = 5;

/// Writes an empty line once the libraries are open. Reads [`ConnectOptions`], then [`LibraryRequest`]s, a line each, until
/// there are no more, and writes [`LibraryResponse`]s in the order in which they come. What is still under way at the end is
/// given up: the caller has to end the process, and Ceph's threads with it. An error says why the libraries cannot be had, or
/// that what is read makes no sense.
pub fn serve(input: impl BufRead, mut output: impl Write + Send + 'static) -> Result<(), String> {
    let library = CephLibrary::open()?;
    output.write_all(b"\n").and_then(|()| output.flush()).map_err(|error| error.to_string())?;
    let mut lines = input.lines();
    let line = |line: Option<io::Result<String>>| line.transpose().map_err(|error| error.to_string());
    let Some(options) = line(lines.next())? else { return Ok(()) };
    let options: ConnectOptions = serde_json::from_str(&options).map_err(|error| error.to_string())?;
    let worker = Arc::new(Worker { library, options, cluster: OnceLock::new(), output: Mutex::new(output) });
    let (sender, receiver) = channel::<LibraryRequest>();
    let receiver = Arc::new(Mutex::new(receiver));
    let mut threads = 0;
    while let Some(request) = line(lines.next())? {
        let request: LibraryRequest = serde_json::from_str(&request).map_err(|error| error.to_string())?;
        if threads < THREADS {
            threads += 1;
            let (worker, receiver) = (worker.clone(), receiver.clone());
            thread::spawn(move || worker.work(&receiver));
        }
        send(&sender, request)?;
    }
    Ok(())
}

fn send(sender: &Sender<LibraryRequest>, request: LibraryRequest) -> Result<(), String> {
    sender.send(request).map_err(|_| "no thread is left".to_owned())
}

struct Worker<W> {
    library: CephLibrary,
    options: ConnectOptions,
    cluster: OnceLock<Result<RadosCluster, Failure>>,
    output: Mutex<W>,
}

impl<W: Write> Worker<W> {
    fn work(&self, receiver: &Mutex<Receiver<LibraryRequest>>) {
        loop {
            let next = receiver.lock().ok().and_then(|receiver| receiver.recv().ok());
            let Some(LibraryRequest { number, place, call }) = next else { return };
            let connected = self.cluster.get_or_init(|| RadosCluster::connect(&self.library, &self.options));
            let outcome = match connected {
                Ok(cluster) => cluster.pool(&place).and_then(|pool| answer(&pool, call)),
                Err(failure) => Err(*failure),
            };
            if self.respond(&LibraryResponse { number, outcome }).is_err() {
                return;
            }
        }
    }

    fn respond(&self, response: &LibraryResponse) -> io::Result<()> {
        let mut line = serde_json::to_vec(response)?;
        line.push(b'\n');
        let mut output = self.output.lock().map_err(|_| io::Error::from_raw_os_error(EIO))?;
        output.write_all(&line)?;
        output.flush()
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
                Ok(LibraryAnswer::Look(info, metadata))
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
        Call::Status(image) => {
            let (global_id, sites) = looked_at(&image)?.status()?;
            Ok(LibraryAnswer::Status { global_id, sites })
        }
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
}
