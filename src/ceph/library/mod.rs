//! [`Ceph`] on Ceph's own libraries, and on its commands for what those have no call for.
//!
//! Calls are made in processes of this program. One is killed should a call in it take longer than its deadline: so nothing more
//! is sent of what was given up. What had been sent may still take effect: look again. Questions share a process, those of many
//! runs if they may; what changes something has one to itself meanwhile.

mod answers;
mod process;
mod shared;

pub(crate) use process::COMMAND;
pub(crate) use shared::share;
pub use shared::{LibraryUse, SharedProcesses};

use super::classify::Question;
use super::command::{
    Connection, FORCED_PROMOTE_DEADLINE, HEAD_START, PoolRoom, RbdCommand, RunOn, split_pool, understood,
    whole_seconds,
};
use super::{
    Ceph, CephError, CephImages, CephPools, Expiry, ImageInfo, ImageLook, ImageStatus, JournalStatus,
    LockHolder, Locking, MirrorMode, PoolInfo, PoolStatus, Promotion, SnapshotSchedule, Snapshots, parse,
};
use crate::process::ProcessError;
use answers::error_of;
use async_trait::async_trait;
use onemirror_protocol::{Fullness, ImageSpec};
use onemirror_rbd::errno::{EBUSY, EEXIST, EROFS};
use onemirror_rbd::{Call, ConnectOptions, Failure, LibraryAnswer, LockedBy, PoolPlace, Stage};
use process::{Ended, LibraryProcess};
use shared::Lending;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// This program, also where a newer one has taken its place.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What the drills start in place of it, as they put programs of theirs before `rbd` in `PATH`.
const PROGRAM_VARIABLE: &str = "ONEMIRROR_LIBRBD_PROGRAM";

/// One cluster, reached with Ceph's libraries; with its commands where there are no libraries, or on a bridge host.
pub struct Librbd {
    command: RbdCommand,
    /// Is started as such a process.
    program: PathBuf,
    /// And as one that stays.
    program_to_share: PathBuf,
    options: ConnectOptions,
    deadline: Duration,
    processes: RefCell<Vec<Rc<LibraryProcess>>>,
    /// Where one that stays is to be found; `None`: none is shared, or not any more.
    to_share: RefCell<Option<SharedProcesses>>,
    shared: tokio::sync::Mutex<Option<Rc<LibraryProcess>>>,
    /// None is lent, or not any more.
    has_to_do_alone: Cell<bool>,
    /// As many calls are under way at once.
    turns: Semaphore,
    /// There are no libraries here, or they are not to be used.
    unavailable: Cell<bool>,
}

/// One call, and how it is told.
struct LibraryCall {
    /// The operation and its object.
    what: String,
    place: PoolPlace,
    call: Call,
    deadline: Duration,
}

impl Librbd {
    /// Starts nothing; the first call does.
    pub fn new(connection: &Connection, command: RbdCommand) -> Self {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let user = connection.user.as_deref().unwrap_or("admin");
        let options = ConnectOptions {
            conf: path(&connection.conf),
            user: user.strip_prefix("client.").unwrap_or(user).to_owned(),
            keyfile: path(&connection.keyfile),
            mon_host: connection.mon_host.clone(),
            mount_timeout: whole_seconds(connection.deadline.saturating_sub(HEAD_START)),
        };
        Self {
            options,
            command,
            program: std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| OWN_PROGRAM.into()).into(),
            program_to_share: OWN_PROGRAM.into(),
            deadline: connection.deadline,
            processes: RefCell::default(),
            to_share: RefCell::new(match &connection.librbd {
                LibraryUse::Shared(processes) => Some(processes.clone()),
                LibraryUse::ByRun | LibraryUse::Never => None,
            }),
            shared: tokio::sync::Mutex::default(),
            has_to_do_alone: Cell::new(false),
            turns: Semaphore::new(onemirror_rbd::THREADS),
            unavailable: Cell::new(connection.run_on != RunOn::Local),
        }
    }

    /// Starts another program, for tests.
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program_to_share: program.clone(), program, ..self }
    }

    fn about(&self, words: &str, image: &ImageSpec, call: Call) -> LibraryCall {
        let place =
            PoolPlace { pool: image.pool().to_owned(), namespace: image.namespace().map(ToOwned::to_owned) };
        LibraryCall { what: format!("{words} {image}"), place, call, deadline: self.deadline }
    }

    /// Makes a call. `None`: there are no libraries, so the command has to.
    async fn call(&self, call: LibraryCall) -> Result<Option<Result<LibraryAnswer, CephError>>, CephError> {
        match self.outcome(&call).await? {
            None => Ok(None),
            Some(outcome) => Ok(Some(outcome.map_err(|failure| error_of(&self.question(&call), failure)))),
        }
    }

    fn question(&self, call: &LibraryCall) -> Question {
        Question { what: call.what.clone(), cluster: self.command.site().to_owned(), bridge: None }
    }

    async fn outcome(&self, call: &LibraryCall) -> Result<Option<Result<LibraryAnswer, Failure>>, CephError> {
        if self.unavailable.get() {
            return Ok(None);
        }
        let question = self.question(call);
        let pool = call.place.pool.as_str();
        // Ceph lets a write to a full pool wait until there is room
        let writes = !call.call.only_asks();
        if writes && let Some(fullness) = self.command.lacks_room_still(pool).await {
            return Err(self.command.no_room(&call.what, pool, fullness));
        }
        if !writes {
            self.command.is_there(&question).await?;
        }
        let outcome = self.made(call, &question).await;
        if writes
            && outcome.as_ref().is_err_and(CephError::is_unreachable)
            && let Some(fullness) = self.command.lacks_room(pool).await
        {
            return Err(self.command.no_room(&call.what, pool, fullness));
        }
        outcome
    }

    /// A question whose process has ended in the middle is put once more, and one whose process was killed for another call as
    /// long as it has time. A change is not: it may have been made.
    async fn made(
        &self,
        call: &LibraryCall,
        question: &Question,
    ) -> Result<Option<Result<LibraryAnswer, Failure>>, CephError> {
        let began = Instant::now();
        let mut has_crashed = false;
        loop {
            let deadline = call.deadline.saturating_sub(began.elapsed());
            match self.made_once(call, deadline, question).await? {
                Ok(outcome) => return Ok(Some(outcome)),
                Err(Ended::WithoutALine) => {
                    tracing::info!("Ceph's libraries cannot be used here, so its commands are");
                    self.unavailable.set(true);
                    return Ok(None);
                }
                Err(Ended::NotConnected) => {}
                Err(Ended::Killed) if call.call.only_asks() => {}
                Err(Ended::InTheMiddle) if call.call.only_asks() && !has_crashed => has_crashed = true,
                Err(Ended::InTheMiddle | Ended::Killed) => return Err(answers::crashed(question)),
            }
        }
    }

    async fn made_once(
        &self,
        call: &LibraryCall,
        deadline: Duration,
        question: &Question,
    ) -> Result<Result<Result<LibraryAnswer, Failure>, Ended>, CephError> {
        // those who ask more than the process has threads wait before their time begins
        let _turn = self.turns.acquire().await;
        let began = Instant::now();
        let process = match self.process_for(&call.call).await {
            Ok(process) => process,
            Err(error) => {
                tracing::debug!("{}: {error}", self.program.display());
                return Ok(Err(Ended::WithoutALine));
            }
        };
        let deadline = deadline.saturating_sub(began.elapsed());
        // where a shared one hangs there has to be time for one of our own
        let deadline = if process.is_shared() { deadline / 2 } else { deadline };
        tracing::debug!(site = self.command.site(), call = call.what, "ask librbd");
        let began = Instant::now();
        let outcome =
            tokio::time::timeout(deadline, process.call(call.place.clone(), call.call.clone())).await;
        let milliseconds = began.elapsed().as_millis();
        tracing::debug!(
            call = call.what,
            milliseconds,
            outcome = answers::outcome_in_words(&outcome),
            "ended"
        );
        // it would go on saying so
        let is_useless = !matches!(&outcome, Ok(Ok(Ok(_))))
            && !matches!(&outcome, Ok(Ok(Err(failure))) if !failure.is_of_connection());
        if is_useless {
            process.kill();
        }
        match outcome {
            _ if is_useless && process.is_shared() => Ok(Err(Ended::Killed)),
            // so nothing was begun: by a process of our own it may be said better, or be possible
            Ok(Ok(Err(failure))) if process.is_lent() && failure.stage == Stage::Connect => {
                self.has_to_do_alone.set(true);
                Ok(Err(Ended::NotConnected))
            }
            Err(_) => {
                let error = ProcessError::Deadline(call.deadline);
                Err(super::classify::run_error(question, &error))
            }
            Ok(outcome) => {
                if !is_useless && !call.call.only_asks() && !process.is_lent() {
                    self.processes.borrow_mut().push(process);
                }
                Ok(outcome)
            }
        }
    }

    /// The one that is shared, unless there is none, or it has ended: then this run does without.
    async fn shared_process(&self) -> Option<Rc<LibraryProcess>> {
        let mut shared = self.shared.lock().await;
        let to_share = self.to_share.borrow().clone()?;
        if shared.is_none() {
            let stream = to_share.connect(&self.program_to_share, &self.options).await;
            *shared = stream.and_then(|stream| LibraryProcess::shared(stream).ok()).map(Rc::new);
        }
        let found = shared.as_ref().filter(|process| !process.has_ended()).cloned();
        if found.is_none() {
            tracing::debug!(site = self.command.site(), "no shared process answers");
            self.to_share.take();
        }
        found
    }

    /// One that is lent to this run for one call, unless there is none: then this run does without.
    async fn lent_process(&self) -> Option<Rc<LibraryProcess>> {
        if self.has_to_do_alone.get() {
            return None;
        }
        let to_share = self.to_share.borrow().clone()?;
        let found = match to_share.lend(&self.program_to_share, &self.options).await {
            Lending::AllTaken => return None,
            Lending::Lent(lent) => LibraryProcess::lent(lent).ok().map(Rc::new),
            Lending::Never => None,
        };
        if found.is_none() {
            tracing::debug!(site = self.command.site(), "no process is lent");
            self.has_to_do_alone.set(true);
        }
        found
    }

    /// A question may be put to one that others ask, too. What changes something takes one out of the list, and puts it back once
    /// it is done: should it be given up before, the process ends with it. Or it has one that is lent.
    async fn process_for(&self, call: &Call) -> std::io::Result<Rc<LibraryProcess>> {
        let own = || {
            let mut processes = self.processes.borrow_mut();
            processes.retain(|process| !process.has_ended());
            match call.only_asks() {
                true => processes.first().cloned(),
                false => {
                    let idle = processes.iter().position(|process| !process.is_at_work());
                    idle.map(|place| processes.swap_remove(place))
                }
            }
        };
        let found = match call.only_asks() {
            true => self.shared_process().await.or_else(own),
            false => match own() {
                None => self.lent_process().await,
                own => own,
            },
        };
        if let Some(process) = found {
            return Ok(process);
        }
        let process = Rc::new(LibraryProcess::start(&self.program, &self.options)?);
        if call.only_asks() {
            self.processes.borrow_mut().push(Rc::clone(&process));
        }
        Ok(process)
    }

    /// The value that is asked for, as it is read; `None` inside: there is none.
    async fn omap_value<T>(
        &self,
        call: LibraryCall,
        read: impl FnOnce(Vec<u8>) -> parse::Parsed<T>,
    ) -> Result<Option<Option<T>>, CephError> {
        let question = self.question(&call);
        let Some(answer) = self.call(call).await? else { return Ok(None) };
        match answer? {
            LibraryAnswer::Value(value) => {
                value.map(|value| understood(&question, read(value))).transpose().map(Some)
            }
            _ => Err(answers::another(&question)),
        }
    }

    /// A change that answers nothing.
    async fn change(&self, call: LibraryCall) -> Result<Option<Result<(), CephError>>, CephError> {
        let question = self.question(&call);
        let outcome = self.call(call).await?;
        Ok(outcome.map(|outcome| match outcome? {
            LibraryAnswer::Done => Ok(()),
            _ => Err(answers::another(&question)),
        }))
    }
}

#[async_trait(?Send)]
impl Ceph for Librbd {
    fn site(&self) -> &str {
        self.command.site()
    }

    async fn info(&self, image: &ImageSpec) -> Result<Option<ImageInfo>, CephError> {
        let call = self.about("info", image, Call::Info(image.image().to_owned()));
        let question = self.question(&call);
        match self.outcome(&call).await? {
            None => self.command.info(image).await,
            Some(Err(failure)) if failure.is_absent_image() => Ok(None),
            Some(Err(failure)) => Err(error_of(&question, failure)),
            Some(Ok(LibraryAnswer::Info(info))) => answers::info(&question, info).map(Some),
            Some(Ok(_)) => Err(answers::another(&question)),
        }
    }

    async fn look(&self, image: &ImageSpec) -> Result<Option<ImageLook>, CephError> {
        let call = self.about("info and image-meta list", image, Call::Look(image.image().to_owned()));
        let question = self.question(&call);
        match self.outcome(&call).await? {
            None => self.command.look(image).await,
            Some(Err(failure)) if failure.is_absent_image() => Ok(None),
            Some(Err(failure)) => Err(error_of(&question, failure)),
            Some(Ok(LibraryAnswer::Look(info, metadata, status))) => {
                let status = status.map(|status| parse::image_status_of(answers::status(image, status)));
                answers::info(&question, info).map(|info| Some(ImageLook { info, metadata, status }))
            }
            Some(Ok(_)) => Err(answers::another(&question)),
        }
    }

    async fn metadata(&self, image: &ImageSpec) -> Result<BTreeMap<String, String>, CephError> {
        let call = self.about("image-meta list", image, Call::Metadata(image.image().to_owned()));
        let question = self.question(&call);
        match self.call(call).await? {
            None => self.command.metadata(image).await,
            Some(answer) => match answer? {
                LibraryAnswer::Metadata(metadata) => Ok(metadata),
                _ => Err(answers::another(&question)),
            },
        }
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<(), CephError> {
        let (name, key_, value_) = (image.image().to_owned(), key.to_owned(), value.to_owned());
        let call = Call::SetMetadata { image: name, key: key_, value: value_ };
        match self.change(self.about("image-meta set", image, call)).await? {
            None => self.command.set_metadata(image, key, value).await,
            Some(outcome) => outcome,
        }
    }

    async fn promote(&self, image: &ImageSpec, force: bool) -> Result<Promotion, CephError> {
        let promote = Call::Promote { image: image.image().to_owned(), force };
        let mut call = self.about("mirror image promote", image, promote);
        if force {
            call.deadline = call.deadline.max(FORCED_PROMOTE_DEADLINE);
        }
        let question = self.question(&call);
        match self.outcome(&call).await? {
            None => self.command.promote(image, force).await,
            Some(Ok(_)) => Ok(Promotion::Promoted),
            Some(Err(Failure { stage: Stage::Call, errno }))
                if errno == EROFS || errno == EBUSY && !force =>
            {
                Ok(Promotion::NotYet)
            }
            Some(Err(failure)) => Err(error_of(&question, failure)),
        }
    }

    async fn demote(&self, image: &ImageSpec) -> Result<(), CephError> {
        let call = Call::Demote(image.image().to_owned());
        match self.change(self.about("mirror image demote", image, call)).await? {
            None => self.command.demote(image).await,
            Some(outcome) => outcome,
        }
    }

    async fn fence(&self, image: &ImageSpec) -> Result<bool, CephError> {
        self.command.fence(image).await
    }

    async fn is_open_for_writing(&self, image: &ImageSpec) -> Result<bool, CephError> {
        self.command.is_open_for_writing(image).await
    }

    async fn resync(&self, image: &ImageSpec) -> Result<(), CephError> {
        let call = Call::Resync(image.image().to_owned());
        match self.change(self.about("mirror image resync", image, call)).await? {
            None => self.command.resync(image).await,
            Some(outcome) => outcome,
        }
    }

    async fn mirror_snapshot(&self, image: &ImageSpec) -> Result<(), CephError> {
        let call = Call::MirrorSnapshot(image.image().to_owned());
        match self.change(self.about("mirror image snapshot", image, call)).await? {
            None => self.command.mirror_snapshot(image).await,
            Some(outcome) => outcome,
        }
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<ImageStatus, CephError> {
        let call = self.about("mirror image status", image, Call::Status(image.image().to_owned()));
        let question = self.question(&call);
        match self.call(call).await? {
            None => self.command.image_status(image).await,
            Some(answer) => match answer? {
                LibraryAnswer::Status(status) => Ok(parse::image_status_of(answers::status(image, status))),
                _ => Err(answers::another(&question)),
            },
        }
    }

    async fn pool_status(&self, pool: &str) -> Result<PoolStatus, CephError> {
        self.command.pool_status(pool).await
    }

    async fn journal_status(&self, image: &ImageSpec) -> Result<JournalStatus, CephError> {
        self.command.journal_status(image).await
    }

    async fn snapshots(&self, image: &ImageSpec) -> Result<Snapshots, CephError> {
        let call = self.about("snap ls", image, Call::Snapshots(image.image().to_owned()));
        let question = self.question(&call);
        match self.call(call).await? {
            None => self.command.snapshots(image).await,
            Some(answer) => match answer? {
                LibraryAnswer::Snapshots(snapshots) => answers::snapshots(&question, snapshots),
                _ => Err(answers::another(&question)),
            },
        }
    }

    async fn pool_info(&self, pool: &str) -> Result<PoolInfo, CephError> {
        self.command.pool_info(pool).await
    }

    async fn mirror_uuid(&self, pool: &str) -> Result<Option<String>, CephError> {
        // the pool's own, also for its namespaces: that is the one under which the daemon appears elsewhere
        let place = PoolPlace { pool: split_pool(pool).0.to_owned(), namespace: None };
        let call = Call::OmapValue { object: "rbd_mirroring".into(), key: "mirror_uuid".into() };
        let (what, deadline) = (format!("mirror uuid of {}", place.pool), self.deadline);
        let call = LibraryCall { what, place, call, deadline };
        match self.omap_value(call, parse::omap_text_of).await? {
            None => self.command.mirror_uuid(pool).await,
            Some(uuid) => Ok(uuid.filter(|uuid| !uuid.is_empty())),
        }
    }

    async fn stored_metadata(
        &self,
        image: &ImageSpec,
        id: &str,
        key: &str,
    ) -> Result<Option<String>, CephError> {
        let (words, (object, omap_key)) = (format!("{key} of"), parse::place_of_metadata(id, key));
        let call = self.about(&words, image, Call::OmapValue { object, key: omap_key });
        match self.omap_value(call, parse::omap_text_of).await? {
            None => self.command.stored_metadata(image, id, key).await,
            Some(value) => Ok(value),
        }
    }

    async fn journal_resync(&self, image: &ImageSpec, id: &str) -> Result<Option<bool>, CephError> {
        let (object, key) = parse::place_of_journal_client(id);
        let call = self.about("journal of", image, Call::OmapValue { object, key });
        match self.omap_value(call, |value| parse::journal_resync_of(&value)).await? {
            None => self.command.journal_resync(image, id).await,
            Some(asked) => Ok(asked),
        }
    }

    async fn lock(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
        cookie: &str,
        expiry: Expiry,
    ) -> Result<Locking, CephError> {
        let seconds = match expiry {
            Expiry::After(duration) => Some(whole_seconds(duration)),
            Expiry::Never => None,
        };
        let (object_, name_, cookie_) = (object.to_owned(), name.to_owned(), cookie.to_owned());
        let lock = Call::Lock { object: object_, name: name_, cookie: cookie_, seconds };
        let call = self.about("lock get", image, lock);
        let question = self.question(&call);
        match self.outcome(&call).await? {
            None => self.command.lock(image, object, name, cookie, expiry).await,
            Some(Ok(_)) => Ok(Locking::Acquired),
            // EEXIST: the same owner, by the same connection
            Some(Err(Failure { stage: Stage::Call, errno: EBUSY | EEXIST })) => Ok(Locking::Held),
            Some(Err(failure)) => Err(error_of(&question, failure)),
        }
    }

    async fn locks_among(
        &self,
        image: &ImageSpec,
        object: &str,
        names: &[&'static str],
    ) -> Result<Vec<&'static str>, CephError> {
        let mut held = Vec::new();
        for name in names.iter().copied() {
            if self.lock_holder(image, object, name).await?.is_some() {
                held.push(name);
            }
        }
        Ok(held)
    }

    async fn lock_holder(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
    ) -> Result<Option<LockHolder>, CephError> {
        let holders = Call::LockHolders { object: object.to_owned(), name: name.to_owned() };
        let call = self.about("lock info", image, holders);
        let question = self.question(&call);
        match self.call(call).await? {
            None => self.command.lock_holder(image, object, name).await,
            Some(answer) => match answer? {
                LibraryAnswer::Locked(holders) => answers::lock_holder(&question, holders),
                _ => Err(answers::another(&question)),
            },
        }
    }

    async fn unlock(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
        holder: &LockHolder,
    ) -> Result<(), CephError> {
        let LockHolder { client, cookie, address } = holder.clone();
        let (object_, name_) = (object.to_owned(), name.to_owned());
        let unlock =
            Call::Unlock { object: object_, name: name_, holder: LockedBy { client, cookie, address } };
        match self.change(self.about("lock break", image, unlock)).await? {
            None => self.command.unlock(image, object, name, holder).await,
            Some(outcome) => outcome,
        }
    }
}

#[async_trait(?Send)]
impl CephImages for Librbd {
    async fn rename(&self, image: &ImageSpec, name: &ImageSpec) -> Result<(), CephError> {
        self.command.rename(image, name).await
    }

    async fn stop_mirroring(&self, image: &ImageSpec, mode: MirrorMode) -> Result<(), CephError> {
        self.command.stop_mirroring(image, mode).await
    }

    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<(), CephError> {
        self.command.remove_metadata(image, key).await
    }

    async fn is_held(&self, image: &ImageSpec) -> Result<bool, CephError> {
        self.command.is_held(image).await
    }

    async fn image_names(&self, pool: &str) -> Result<Vec<String>, CephError> {
        self.command.image_names(pool).await
    }

    async fn used(&self, image: &ImageSpec) -> Result<u64, CephError> {
        self.command.used(image).await
    }

    async fn room(&self, pool: &str) -> Result<PoolRoom, CephError> {
        self.command.room(pool).await
    }

    async fn remove(&self, image: &ImageSpec) -> Result<(), CephError> {
        self.command.remove(image).await
    }

    async fn descendants(&self, image: &ImageSpec) -> Result<Vec<ImageSpec>, CephError> {
        self.command.descendants(image).await
    }
}

#[async_trait(?Send)]
impl CephPools for Librbd {
    fn user(&self) -> String {
        self.command.user()
    }

    async fn pool_settings(&self, pool: &str) -> Result<BTreeMap<String, String>, CephError> {
        self.command.pool_settings(pool).await
    }

    async fn client_settings(&self) -> Result<BTreeMap<String, String>, CephError> {
        self.command.client_settings().await
    }

    async fn snapshot_schedules(&self) -> Result<Vec<SnapshotSchedule>, CephError> {
        self.command.snapshot_schedules().await
    }

    async fn lacks_room(&self, pool: &str) -> Option<Fullness> {
        self.command.lacks_room(pool).await
    }

    async fn lacks_room_still(&self, pool: &str) -> Option<Fullness> {
        self.command.lacks_room_still(pool).await
    }
}
