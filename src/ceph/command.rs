//! [`Ceph`] on the `rbd` and `rados` commands.

mod aside;

pub use aside::{PoolRoom, is_committed_by};

use super::LibraryUse;
use super::bridge::{Bridge, SharedConnection};
use super::classify::{self, Question};
use super::monitors::Monitors;
use super::parse::{FullBy, NotUnderstood};
use super::{
    Ceph, CephError, CephPools, Expiry, ImageInfo, ImageStatus, JournalStatus, LockHolder, Locking,
    PeerConnection, PoolInfo, PoolStatus, Promotion, SnapshotSchedule, Snapshots, parse,
};
use crate::process::{self, Output, ProcessError};
use async_trait::async_trait;
use onemirror_protocol::{Fullness, ImageSpec};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempPath;

/// For one call, where the configuration does not say.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// For a forced promotion: in snapshot mode it rolls the image back to its last complete snapshot and may wait for a
/// daemon. Killing it half-way would leave the copy neither here nor there.
pub const FORCED_PROMOTE_DEADLINE: Duration = Duration::from_secs(600);

/// Bytes of an answer: about a kilobyte per image of `mirror pool status`.
pub(super) const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// How much earlier than the deadline the command itself should give up, so that it can say why.
pub(super) const HEAD_START: Duration = Duration::from_secs(2);

/// For the question whether a pool is full; the monitors answer it.
const ROOM_DEADLINE: Duration = Duration::from_secs(10);

/// How long a pool that was full counts as full without another question.
const STAYS_FULL: Duration = Duration::from_secs(10);

/// Where the commands run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunOn {
    /// On this machine.
    Local,
    /// By `ssh` on the first usable of these hosts, with the files of [`Connection`] as they are there.
    Hosts(Vec<String>),
}

/// How a cluster is reached. Holds no secret, only the path of one.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The cluster's site name, for messages.
    pub site: String,
    /// Its configuration file. `None`: the default one, or none at all where `mon_host` is given.
    pub conf: Option<PathBuf>,
    /// The Ceph user, with or without `client.`. `None`: `admin`.
    pub user: Option<String>,
    /// A file with the user's key. `None`: the keyring that the configuration names.
    pub keyfile: Option<PathBuf>,
    /// Monitor addresses, instead of the configuration's.
    pub mon_host: Option<String>,
    /// Where the commands run.
    pub run_on: RunOn,
    /// For one call; a forced promotion has [`FORCED_PROMOTE_DEADLINE`] if that is longer.
    pub deadline: Duration,
    /// Whether Ceph's libraries may be called in place of its commands.
    pub librbd: LibraryUse,
}

/// The programs that are called; by their names, as `PATH` finds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// `rbd`
    pub rbd: PathBuf,
    /// `rados`
    pub rados: PathBuf,
    /// `ceph`
    pub ceph: PathBuf,
    /// `ssh`
    pub ssh: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self { rbd: "rbd".into(), rados: "rados".into(), ceph: "ceph".into(), ssh: "ssh".into() }
    }
}

/// One cluster, reached with the `rbd` and `rados` commands, locally or on a bridge host.
///
/// Every call is one process (a pool's namespace costs `pool_info` two), has a deadline, and is killed with all it
/// started when that is over or the future is dropped. What it had already sent to the cluster may still take effect, so
/// after [`CephError::Unreachable`] the outcome of a change is not known: look again.
#[derive(Debug)]
pub struct RbdCommand {
    connection: Connection,
    programs: Programs,
    bridge: Option<Bridge>,
    /// Pools that were found full, and when.
    full: RefCell<BTreeMap<String, (Instant, Fullness)>>,
    /// Those of a peer, which may be lost.
    monitors: Option<Monitors>,
    /// Removed with us.
    _keyfile: Option<TempPath>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Rbd,
    Rados,
    Ceph,
}

/// One command line, without what depends on the connection.
#[derive(Clone, Debug)]
struct CephCall {
    program: Program,
    /// The operation and its object, for messages.
    what: String,
    /// Subcommand and options, each of a form that no value can turn into another option.
    arguments: Vec<String>,
    /// Values that stand behind `--`.
    operands: Vec<String>,
    deadline: Duration,
    /// The pool in which it writes, be it only a watch. Ceph lets a write to a full pool wait until there is room.
    writes_in: Option<String>,
    /// It changes nothing that anybody asks for.
    only_asks: bool,
}

impl RbdCommand {
    /// Starts nothing; the first call does.
    pub fn new(connection: Connection) -> Self {
        let bridge = match &connection.run_on {
            RunOn::Local => None,
            RunOn::Hosts(hosts) => Some(Bridge::new(hosts.clone())),
        };
        let full = RefCell::default();
        Self { connection, programs: Programs::default(), bridge, full, monitors: None, _keyfile: None }
    }

    /// A peer cluster; keeps its keyfile as long as needed. It may be lost: before it is asked anything its monitors have to
    /// answer.
    pub fn to_peer(peer: PeerConnection) -> Self {
        let PeerConnection { connection, keyfile } = peer;
        let monitors = Some(Monitors::of(&connection));
        Self { monitors, _keyfile: keyfile, ..Self::new(connection) }
    }

    /// Calls other programs, for tests and unusual installations.
    #[must_use]
    pub fn with_programs(self, programs: Programs) -> Self {
        Self { programs, ..self }
    }

    fn call(&self, program: Program, what: String, arguments: &[&str]) -> CephCall {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let deadline = self.connection.deadline;
        let (operands, writes_in, only_asks) = (Vec::new(), None, false);
        CephCall { program, what, arguments, operands, deadline, writes_in, only_asks }
    }

    /// A call of `rbd` about an image.
    fn of_image(&self, arguments: &[&str], image: &ImageSpec) -> CephCall {
        let mut call = self.call(Program::Rbd, format!("{} {image}", arguments.join(" ")), arguments);
        call.in_pool(image.pool(), image.namespace());
        call.arguments.push(format!("--image={}", image.image()));
        call
    }

    /// A call of `rbd` about `pool[/namespace]`.
    fn of_pool(&self, arguments: &[&str], pool: &str) -> CephCall {
        let mut call = self.call(Program::Rbd, format!("{} {pool}", arguments.join(" ")), arguments);
        let (pool, namespace) = split_pool(pool);
        call.in_pool(pool, namespace);
        call
    }

    /// A call of `rados` about the locks of an object, or about one of them.
    fn of_lock(&self, verb: &str, image: &ImageSpec, object: &str, name: Option<&str>) -> CephCall {
        let operands: Vec<&str> = std::iter::once(object).chain(name).collect();
        let what = format!("lock {verb} {} {}", image.pool_spec(), operands.join(" "));
        let mut call = self.call(Program::Rados, what, &["lock", verb]);
        call.in_pool(image.pool(), image.namespace());
        call.operands = operands.into_iter().map(str::to_owned).collect();
        call
    }

    /// The value that an object of the pool has for a key, as it is printed and read; `None`: no such object or key.
    async fn omap_value<T>(
        &self,
        what: String,
        (pool, namespace): (&str, Option<&str>),
        (object, key): (String, String),
        read: impl FnOnce(&[u8]) -> parse::Parsed<T>,
    ) -> Result<Option<T>, CephError> {
        let mut call = self.call(Program::Rados, what, &["getomapval"]);
        call.only_asks = true;
        call.in_pool(pool, namespace);
        call.operands = vec![object, key];
        let (question, output) = self.output(&call).await?;
        if classify::is_omap_key_absent(&output) {
            return Ok(None);
        }
        if output.status != 0 {
            return Err(classify::rados_error(&question, &output));
        }
        understood(&question, read(&output.stdout)).map(Some)
    }

    /// The words of the whole command line, the program first.
    fn command_line(&self, call: &CephCall) -> Vec<OsString> {
        let Connection { conf, user, keyfile, mon_host, .. } = &self.connection;
        let program = match call.program {
            Program::Rbd => &self.programs.rbd,
            Program::Rados => &self.programs.rados,
            Program::Ceph => &self.programs.ceph,
        };
        let mut words = vec![program.clone().into_os_string()];
        let mut option = |name: &str, value: &OsStr| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            words.push(word);
        };
        match (conf, mon_host) {
            (Some(conf), _) => option("conf", conf.as_os_str()),
            // the default configuration is that of another cluster
            (None, Some(_)) => option("conf", OsStr::new("/dev/null")),
            (None, None) => {}
        }
        if let Some(mon_host) = mon_host {
            option("mon-host", OsStr::new(mon_host));
        }
        if let Some(user) = user {
            option("id", OsStr::new(user.strip_prefix("client.").unwrap_or(user)));
        }
        if let Some(keyfile) = keyfile {
            option("keyfile", keyfile.as_os_str());
        }
        let mount_timeout = whole_seconds(self.connection.deadline.saturating_sub(HEAD_START)).to_string();
        option("client-mount-timeout", OsStr::new(&mount_timeout));
        words.extend(call.arguments.iter().map(OsString::from));
        if !call.operands.is_empty() {
            words.push("--".into());
            words.extend(call.operands.iter().map(OsString::from));
        }
        words
    }

    /// Runs a call and collects what it left. One that waits for room in its pool is told from one that nobody answers.
    async fn output(&self, call: &CephCall) -> Result<(Question, Output), CephError> {
        let Some(pool) = &call.writes_in else { return self.answer(call).await };
        let no_room = |fullness| self.no_room(&call.what, pool, fullness);
        // one deadline is waited for where there is no room, not one per call
        if let Some(fullness) = self.lacks_room_still(pool).await {
            return Err(no_room(fullness));
        }
        let answer = self.answer(call).await;
        let is_silent = match &answer {
            Ok((question, output)) => classify::is_killed_at_deadline(question, output),
            Err(error) => error.is_unreachable(),
        };
        if is_silent && let Some(fullness) = self.lacks_room(pool).await {
            return Err(no_room(fullness));
        }
        answer
    }

    pub(super) fn no_room(&self, what: &str, pool: &str, fullness: Fullness) -> CephError {
        let cluster = self.connection.site.clone();
        CephError::PoolFull { what: what.to_owned(), cluster, pool: pool.to_owned(), fullness }
    }

    /// Whether anybody is there who can be asked, of a cluster that may be lost.
    pub(super) async fn is_there(&self, question: &Question) -> Result<(), CephError> {
        let Some(monitors) = &self.monitors else { return Ok(()) };
        monitors.answer().await.map_err(|detail| classify::silent(question, &detail))
    }

    /// An image's metadata without opening it: `rbd` registers a watch, which is a write, before it reads them.
    async fn header_metadata(&self, image: &ImageSpec) -> Result<BTreeMap<String, String>, CephError> {
        let info = self.info(image).await?.ok_or_else(|| CephError::NotFound { what: image.to_string() })?;
        let mut call = self.call(Program::Rados, format!("header of {image}"), &["listomapvals"]);
        call.only_asks = true;
        call.in_pool(image.pool(), image.namespace());
        call.operands = vec![parse::header_of(&info.id)];
        let (question, output) = self.answer(&call).await?;
        match output.status {
            0 => understood(&question, parse::header_metadata(&output.stdout)),
            _ => Err(classify::rados_error(&question, &output)),
        }
    }

    async fn ask_for_room(&self, pool: &str) -> Result<Option<Fullness>, CephError> {
        let ls = ["osd", "pool", "ls", "detail"];
        let quota = match self.ask_of_pool(&ls, pool, parse::full_by).await? {
            None => return Ok(None),
            Some(FullBy::Cluster) => return Ok(Some(Fullness::Cluster)),
            Some(FullBy::Quota(quota)) => quota,
        };
        // without this answer the sentence is the same, and what it says to type may be too little
        let stored = self.ask_of_pool(&["df", "detail"], pool, parse::pool_load).await;
        Ok(Some(Fullness::by_quota(quota, stored.unwrap_or_default())))
    }

    async fn ask_of_pool<T>(
        &self,
        words: &[&str],
        pool: &str,
        parse: fn(&[u8], &str) -> Result<T, NotUnderstood>,
    ) -> Result<T, CephError> {
        let mut call = self.call(Program::Ceph, format!("{}, for pool {pool}", words.join(" ")), words);
        call.ask_in_json();
        call.deadline = call.deadline.min(ROOM_DEADLINE);
        let (question, output) = self.answer(&call).await?;
        match output.status {
            0 => understood(&question, parse(&output.stdout, pool)),
            _ => Err(classify::rados_error(&question, &output)),
        }
    }

    /// Runs a call and collects what it left. A question whose program crashed is put once more: Ceph's programs do
    /// that now and then while they end (seen of `rbd children` of 16.2). A change is not: it may have been made.
    async fn answer(&self, call: &CephCall) -> Result<(Question, Output), CephError> {
        match self.answer_once(call).await? {
            (_, output) if call.only_asks && classify::is_crash(&output) => self.answer_once(call).await,
            answer => Ok(answer),
        }
    }

    /// Decides nothing but where the call runs.
    async fn answer_once(&self, call: &CephCall) -> Result<(Question, Output), CephError> {
        let mut question =
            Question { what: call.what.clone(), cluster: self.connection.site.clone(), bridge: None };
        let words = self.command_line(call);
        let Some(bridge) = &self.bridge else {
            // what is changed was looked at a moment ago
            if call.only_asks {
                self.is_there(&question).await?;
            }
            let output = self.spawn(&words, call.deadline).await;
            return output.map_err(|error| classify::run_error(&question, &error)).map(|it| (question, it));
        };
        let remote = remote_command(&words, call.deadline)
            .ok_or_else(|| classify::ssh_error(&question, "a name holds a NUL byte"))?;
        let _session = bridge.session().await;
        let shared = bridge
            .connect(&self.programs.ssh, self.connection.deadline)
            .await
            .map_err(|failure| classify::ssh_error(&question, &failure))?;
        question.bridge = Some(shared.host.clone());
        let output = self.spawn_by_ssh(&shared, remote, call.deadline).await;
        let connection_failed = match &output {
            Ok(output) => classify::is_ssh_failure(output),
            Err(error) => matches!(error, ProcessError::Deadline(_)),
        };
        if connection_failed {
            bridge.give_up(&shared).await;
        }
        output.map_err(|error| classify::run_error(&question, &error)).map(|it| (question, it))
    }

    async fn spawn_by_ssh(
        &self,
        shared: &Arc<SharedConnection>,
        remote: OsString,
        deadline: Duration,
    ) -> Result<Output, ProcessError> {
        let mut words = vec![self.programs.ssh.clone().into_os_string()];
        words.extend(shared.arguments(remote));
        self.spawn(&words, deadline).await
    }

    async fn spawn(&self, words: &[OsString], deadline: Duration) -> Result<Output, ProcessError> {
        let mut command =
            tokio::process::Command::new(words.first().map_or(OsStr::new(""), OsString::as_os_str));
        command.args(words.get(1..).unwrap_or_default());
        command.env("LC_ALL", "C").env_remove("CEPH_ARGS");
        let shown = shown(words);
        tracing::debug!(site = self.connection.site, command = shown, "run");
        let began = Instant::now();
        let outcome = process::run(command, deadline, ANSWER_LIMIT).await;
        let milliseconds = began.elapsed().as_millis();
        match &outcome {
            Ok(output) => tracing::debug!(command = shown, status = output.status, milliseconds, "ended"),
            Err(error) => tracing::debug!(command = shown, %error, milliseconds, "ended"),
        }
        outcome
    }

    async fn settings(&self, mut call: CephCall) -> Result<BTreeMap<String, String>, CephError> {
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::settings(&output.stdout))
    }

    /// Runs `rbd`; every status but 0 is an error.
    async fn rbd(&self, call: CephCall) -> Result<(Question, Output), CephError> {
        let (question, output) = self.output(&call).await?;
        if output.status == 0 { Ok((question, output)) } else { Err(classify::rbd_error(&question, &output)) }
    }
}

impl CephCall {
    fn ask_in_json(&mut self) {
        self.arguments.push("--format=json".into());
        self.only_asks = true;
    }

    /// The same call, which waits as long as the image's pool has no room.
    fn that_writes(self, image: &ImageSpec) -> Self {
        Self { writes_in: Some(image.pool().to_owned()), ..self }
    }

    fn in_pool(&mut self, pool: &str, namespace: Option<&str>) {
        self.arguments.push(format!("--pool={pool}"));
        if let Some(namespace) = namespace {
            self.arguments.push(format!("--namespace={namespace}"));
        }
    }
}

pub(super) fn split_pool(pool: &str) -> (&str, Option<&str>) {
    match pool.split_once('/') {
        Some((pool, namespace)) => (pool, Some(namespace)),
        None => (pool, None),
    }
}

/// Rounded up, at least 1: a lock of 0 seconds would never expire.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    seconds.max(1)
}

/// What the bridge host's shell is given. Killing `ssh` here does not end the command there, so `timeout` does, and a
/// change cannot come long after its deadline. The shell stays to tell of a crash: `ssh` itself would say 255, as if the
/// host had not answered. `None` if a word holds a NUL byte.
fn remote_command(words: &[OsString], deadline: Duration) -> Option<OsString> {
    let seconds = whole_seconds(deadline).to_string();
    let prefix = ["env", "-u", "CEPH_ARGS", "LC_ALL=C", "timeout", "-k", "1", &seconds];
    let all = prefix.into_iter().map(str::as_bytes).chain(words.iter().map(|word| word.as_bytes()));
    let mut line = shlex::bytes::try_join(all).ok()?;
    line.extend_from_slice(b"; exit $?");
    Some(OsString::from_vec(line))
}

/// A command line as it could be typed again; it holds no secret.
fn shown(words: &[OsString]) -> String {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

pub(super) fn understood<T>(question: &Question, parsed: Result<T, NotUnderstood>) -> Result<T, CephError> {
    parsed.map_err(|error| CephError::BadAnswer { what: question.what.clone(), detail: error.to_string() })
}

#[async_trait(?Send)]
impl CephPools for RbdCommand {
    fn user(&self) -> String {
        let user = self.connection.user.as_deref().unwrap_or("admin");
        format!("client.{}", user.strip_prefix("client.").unwrap_or(user))
    }

    async fn pool_settings(&self, pool: &str) -> Result<BTreeMap<String, String>, CephError> {
        let words = ["config", "pool", "list"];
        let mut call = self.call(Program::Rbd, format!("{} {pool}", words.join(" ")), &words);
        // a namespace has none of its own
        call.operands = vec![split_pool(pool).0.to_owned()];
        self.settings(call).await
    }

    async fn client_settings(&self) -> Result<BTreeMap<String, String>, CephError> {
        let words = ["config", "global", "list", "client"];
        self.settings(self.call(Program::Rbd, words.join(" "), &words)).await
    }

    async fn snapshot_schedules(&self) -> Result<Vec<SnapshotSchedule>, CephError> {
        let words = ["mirror", "snapshot", "schedule", "ls"];
        let mut call = self.call(Program::Rbd, words.join(" "), &words);
        call.arguments.push("--recursive".into());
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::snapshot_schedules(&output.stdout))
    }

    async fn lacks_room(&self, pool: &str) -> Option<Fullness> {
        let pool = split_pool(pool).0;
        let known = self.full.borrow().get(pool).cloned();
        if let Some((when, fullness)) = known
            && when.elapsed() < STAYS_FULL
        {
            return Some(fullness);
        }
        let fullness = self.ask_for_room(pool).await.unwrap_or_else(|error| {
            tracing::debug!("{error}");
            None
        });
        let mut full = self.full.borrow_mut();
        match &fullness {
            Some(fullness) => full.insert(pool.to_owned(), (Instant::now(), fullness.clone())),
            None => full.remove(pool),
        };
        fullness
    }

    async fn lacks_room_still(&self, pool: &str) -> Option<Fullness> {
        let was_full = self.full.borrow().contains_key(split_pool(pool).0);
        if was_full { self.lacks_room(pool).await } else { None }
    }
}

#[async_trait(?Send)]
impl Ceph for RbdCommand {
    fn site(&self) -> &str {
        &self.connection.site
    }

    async fn info(&self, image: &ImageSpec) -> Result<Option<ImageInfo>, CephError> {
        let mut call = self.of_image(&["info"], image);
        call.ask_in_json();
        let (question, output) = self.output(&call).await?;
        if classify::is_image_absent(&output) {
            return Ok(None);
        }
        if output.status != 0 {
            return Err(classify::rbd_error(&question, &output));
        }
        understood(&question, parse::info(&output.stdout)).map(Some)
    }

    async fn metadata(&self, image: &ImageSpec) -> Result<BTreeMap<String, String>, CephError> {
        let mut call = self.of_image(&["image-meta", "list"], image).that_writes(image);
        call.ask_in_json();
        match self.rbd(call).await {
            Ok((question, output)) => understood(&question, parse::metadata(&output.stdout)),
            Err(error @ CephError::PoolFull { .. }) => self.header_metadata(image).await.map_err(|_| error),
            Err(error) => Err(error),
        }
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<(), CephError> {
        let mut call = self.of_image(&["image-meta", "set"], image).that_writes(image);
        call.operands = vec![key.into(), value.into()];
        self.rbd(call).await.map(drop)
    }

    async fn promote(&self, image: &ImageSpec, force: bool) -> Result<Promotion, CephError> {
        let mut call = self.of_image(&["mirror", "image", "promote"], image).that_writes(image);
        if force {
            call.arguments.push("--force".into());
            call.deadline = call.deadline.max(FORCED_PROMOTE_DEADLINE);
        }
        let (question, output) = self.output(&call).await?;
        match output.status {
            0 => Ok(Promotion::Promoted),
            _ if classify::is_promotion_premature(&output, force) => Ok(Promotion::NotYet),
            _ => Err(classify::rbd_error(&question, &output)),
        }
    }

    async fn demote(&self, image: &ImageSpec) -> Result<(), CephError> {
        self.rbd(self.of_image(&["mirror", "image", "demote"], image).that_writes(image)).await.map(drop)
    }

    async fn fence(&self, image: &ImageSpec) -> Result<bool, CephError> {
        let mut call = self.of_image(&["lock", "ls"], image);
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        let lockers = understood(&question, parse::lockers(&output.stdout))?;
        for locker in &lockers {
            let mut call = self.of_image(&["lock", "rm"], image).that_writes(image);
            call.operands = vec![locker.id.clone(), locker.locker.clone()];
            self.rbd(call).await?;
        }
        Ok(!lockers.is_empty())
    }

    async fn is_open_for_writing(&self, image: &ImageSpec) -> Result<bool, CephError> {
        let mut call = self.of_image(&["status"], image);
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::is_watched(&output.stdout))
    }

    async fn resync(&self, image: &ImageSpec) -> Result<(), CephError> {
        self.rbd(self.of_image(&["mirror", "image", "resync"], image).that_writes(image)).await.map(drop)
    }

    async fn mirror_snapshot(&self, image: &ImageSpec) -> Result<(), CephError> {
        self.rbd(self.of_image(&["mirror", "image", "snapshot"], image).that_writes(image)).await.map(drop)
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<ImageStatus, CephError> {
        let mut call = self.of_image(&["mirror", "image", "status"], image).that_writes(image);
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::image_status(&output.stdout))
    }

    async fn pool_status(&self, pool: &str) -> Result<PoolStatus, CephError> {
        let mut call = self.of_pool(&["mirror", "pool", "status"], pool);
        call.writes_in = Some(split_pool(pool).0.to_owned());
        call.arguments.push("--verbose".into());
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::pool_status(&output.stdout))
    }

    async fn journal_status(&self, image: &ImageSpec) -> Result<JournalStatus, CephError> {
        let mut call = self.of_image(&["journal", "status"], image);
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::journal_status(&output.stdout))
    }

    async fn snapshots(&self, image: &ImageSpec) -> Result<Snapshots, CephError> {
        let mut call = self.of_image(&["snap", "ls"], image);
        call.arguments.push("--all".into());
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::snapshots(&output.stdout))
    }

    async fn pool_info(&self, pool: &str) -> Result<PoolInfo, CephError> {
        let mut call = self.of_pool(&["mirror", "pool", "info"], pool);
        call.arguments.push("--all".into());
        call.ask_in_json();
        let (question, output) = self.rbd(call).await?;
        let info = understood(&question, parse::pool_info(&output.stdout))?;
        let (pool, Some(_)) = split_pool(pool) else { return Ok(info) };
        // a namespace has a mode of its own, but the peers and the site name are the pool's
        let PoolInfo { site_name, peers, .. } = Box::pin(self.pool_info(pool)).await?;
        Ok(PoolInfo { site_name, peers, ..info })
    }

    async fn mirror_uuid(&self, pool: &str) -> Result<Option<String>, CephError> {
        // the pool's own, also for its namespaces: that is the one under which the daemon appears elsewhere
        let (pool, _) = split_pool(pool);
        let place = ("rbd_mirroring".into(), "mirror_uuid".into());
        let uuid = self.omap_value(format!("mirror uuid of {pool}"), (pool, None), place, parse::omap_text);
        Ok(uuid.await?.filter(|uuid| !uuid.is_empty()))
    }

    async fn stored_metadata(
        &self,
        image: &ImageSpec,
        id: &str,
        key: &str,
    ) -> Result<Option<String>, CephError> {
        let (what, pool) = (format!("{key} of {image}"), (image.pool(), image.namespace()));
        self.omap_value(what, pool, parse::place_of_metadata(id, key), parse::omap_text).await
    }

    async fn journal_resync(&self, image: &ImageSpec, id: &str) -> Result<Option<bool>, CephError> {
        let (what, pool) = (format!("journal of {image}"), (image.pool(), image.namespace()));
        self.omap_value(what, pool, parse::place_of_journal_client(id), parse::journal_resync).await
    }

    async fn lock(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
        cookie: &str,
        expiry: Expiry,
    ) -> Result<Locking, CephError> {
        let mut call = self.of_lock("get", image, object, Some(name)).that_writes(image);
        call.arguments.push(format!("--lock-cookie={cookie}"));
        if let Expiry::After(duration) = expiry {
            call.arguments.push(format!("--lock-duration={}", whole_seconds(duration)));
        }
        let (question, output) = self.output(&call).await?;
        match output.status {
            0 => Ok(Locking::Acquired),
            _ if classify::is_lock_held(&output) => Ok(Locking::Held),
            _ => Err(classify::rados_error(&question, &output)),
        }
    }

    async fn locks_among(
        &self,
        image: &ImageSpec,
        object: &str,
        names: &[&'static str],
    ) -> Result<Vec<&'static str>, CephError> {
        let mut call = self.of_lock("list", image, object, None);
        call.ask_in_json();
        let (question, output) = self.output(&call).await?;
        let known = match output.status {
            0 => understood(&question, parse::lock_names(&output.stdout))?,
            _ if classify::is_lock_absent(&output) => Vec::new(),
            _ => return Err(classify::rados_error(&question, &output)),
        };
        Ok(names.iter().copied().filter(|name| known.iter().any(|known| known == name)).collect())
    }

    async fn lock_holder(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
    ) -> Result<Option<LockHolder>, CephError> {
        let mut call = self.of_lock("info", image, object, Some(name));
        call.ask_in_json();
        let (question, output) = self.output(&call).await?;
        match output.status {
            0 => understood(&question, parse::lock_info(&output.stdout)),
            _ if classify::is_lock_absent(&output) => Ok(None),
            _ => Err(classify::rados_error(&question, &output)),
        }
    }

    async fn unlock(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
        holder: &LockHolder,
    ) -> Result<(), CephError> {
        let mut call = self.of_lock("break", image, object, Some(name)).that_writes(image);
        call.arguments.push(format!("--lock-cookie={}", holder.cookie));
        call.operands.push(holder.client.clone());
        let (question, output) = self.output(&call).await?;
        match output.status {
            0 => Ok(()),
            _ if classify::is_lock_absent(&output) => Ok(()),
            _ => Err(classify::rados_error(&question, &output)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::CephImages as _;
    use std::process::Stdio;

    const IMAGE: &str = "one/one-7";

    fn image() -> ImageSpec {
        IMAGE.parse().unwrap()
    }

    fn connection() -> Connection {
        Connection {
            site: "site-a".into(),
            conf: Some("/etc/ceph/ceph.conf".into()),
            user: Some("client.libvirt".into()),
            keyfile: None,
            mon_host: None,
            run_on: RunOn::Local,
            librbd: LibraryUse::Never,
            deadline: Duration::from_secs(20),
        }
    }

    /// Programs written to a directory of their own.
    struct Fakes(tempfile::TempDir);

    impl Fakes {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, script: &str) -> PathBuf {
            let path = self.0.path().join(name);
            // a second process that is forked while the file is open for writing would make it "busy"
            let written = std::process::Command::new("sh")
                .args(["-c", "cat > \"$0\" && chmod 700 \"$0\""])
                .arg(&path)
                .stdin(Stdio::piped())
                .spawn()
                .and_then(|mut child| {
                    use std::io::Write;
                    let text = format!("#!/bin/sh\n{script}\n");
                    child.stdin.take().unwrap().write_all(text.as_bytes())?;
                    child.wait()
                });
            assert!(written.unwrap().success());
            path
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
        }

        fn path(&self, name: &str) -> String {
            self.0.path().join(name).display().to_string()
        }
    }

    fn words(cluster: &RbdCommand, call: &CephCall) -> Vec<String> {
        cluster.command_line(call).into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn command_lines_name_everything_by_option() {
        let cluster = RbdCommand::new(connection());
        let call = cluster.of_image(&["mirror", "image", "demote"], &"one/tenant/x".parse().unwrap());
        let expected = "rbd --conf=/etc/ceph/ceph.conf --id=libvirt --client-mount-timeout=18 mirror image demote \
                        --pool=one --namespace=tenant --image=x";
        assert_eq!(words(&cluster, &call).join(" "), expected);
        let mut call = cluster.of_lock("get", &image(), "-o", Some("--l"));
        call.arguments.push("--lock-cookie=-c".into());
        let expected = "rados --conf=/etc/ceph/ceph.conf --id=libvirt --client-mount-timeout=18 lock get --pool=one \
                        --lock-cookie=-c -- -o --l";
        assert_eq!(words(&cluster, &call).join(" "), expected);
        // no pool's name is an option
        let call = cluster.of_pool(&["mirror", "pool", "status"], "--id=x/-n");
        let line = words(&cluster, &call);
        assert_eq!(line[line.len() - 2..], ["--pool=--id=x", "--namespace=-n"]);
    }

    #[test]
    fn another_clusters_monitors_come_without_this_clusters_configuration() {
        let cluster = RbdCommand::new(Connection {
            conf: None,
            mon_host: Some("192.0.2.1".into()),
            keyfile: Some("/run/key".into()),
            deadline: Duration::from_millis(700),
            ..connection()
        });
        let line = words(&cluster, &cluster.of_image(&["info"], &image())).join(" ");
        let expected = "rbd --conf=/dev/null --mon-host=192.0.2.1 --id=libvirt --keyfile=/run/key \
                        --client-mount-timeout=1 info --pool=one --image=one-7";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_duration_is_never_rounded_to_for_ever() {
        for (duration, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (90_000, 90)] {
            assert_eq!(whole_seconds(Duration::from_millis(duration)), seconds);
        }
    }

    #[tokio::test]
    async fn the_environment_is_fixed() {
        let fakes = Fakes::new();
        let rbd = fakes.write("rbd", &format!("env > '{}'", fakes.path("env")));
        let cluster = RbdCommand::new(connection()).with_programs(Programs { rbd, ..Programs::default() });
        cluster.demote(&image()).await.unwrap();
        let environment = fakes.read("env");
        assert!(environment.lines().any(|line| line == "LC_ALL=C"), "{environment}");
        assert!(!environment.contains("CEPH_ARGS="));
        let line = remote_command(&["rbd".into()], Duration::from_secs(7)).unwrap();
        assert_eq!(line, "env -u CEPH_ARGS 'LC_ALL=C' timeout -k 1 7 rbd; exit $?");
    }

    #[tokio::test]
    async fn exit_statuses_become_outcomes() {
        let fakes = Fakes::new();
        let with = |script: &str| {
            let program = fakes.write("program", script);
            let programs = Programs { rbd: program.clone(), rados: program, ..Programs::default() };
            RbdCommand::new(connection()).with_programs(programs)
        };
        let image = &image();
        assert_eq!(with("exit 0").promote(image, false).await.unwrap(), Promotion::Promoted);
        for force in [false, true] {
            assert_eq!(with("exit 30").promote(image, force).await.unwrap(), Promotion::NotYet);
        }
        assert_eq!(with("exit 16").promote(image, false).await.unwrap(), Promotion::NotYet);
        assert!(matches!(with("exit 16").promote(image, true).await, Err(CephError::Busy { .. })));
        assert!(matches!(
            with("kill -9 $$").promote(image, false).await,
            Err(CephError::Failed { status: 137, .. })
        ));
        // an answer on standard output counts for nothing when the status says otherwise
        let lie = r#"echo '{"id":"1","size":1}'; exit 5"#;
        assert!(matches!(with(lie).info(image).await, Err(CephError::Failed { status: 5, .. })));
        assert!(matches!(with("exit 0").info(image).await, Err(CephError::BadAnswer { .. })));
        assert!(matches!(with("exit 2").info(image).await, Err(CephError::Failed { status: 2, .. })));
        assert!(with("exit 0").metadata(image).await.unwrap().is_empty());
        // a lock is had only with status 0
        for script in ["exit 1", "exit 16", "echo 'error 16: (2) x' >&2; exit 1", "kill -9 $$", "exit 255"] {
            let outcome =
                with(script).lock(image, "o", "l", "c", Expiry::After(Duration::from_secs(1))).await;
            assert!(outcome.is_err(), "{script}: {outcome:?}");
        }
        // what crashed is asked again, once; a change that crashed may have been made, and is not tried again
        let crashes = |times: u32| {
            let count = fakes.path("count");
            let _ = std::fs::remove_file(&count);
            format!("echo x >> '{count}'; [ $(wc -l < '{count}') -gt {times} ] || kill -ABRT $$; echo '[]'")
        };
        assert!(with(&crashes(1)).descendants(image).await.unwrap().is_empty());
        let error = with(&crashes(2)).descendants(image).await;
        assert!(matches!(error, Err(CephError::Failed { status: 134, .. })), "{error:?}");
        let error = with(&crashes(1)).demote(image).await;
        assert!(matches!(error, Err(CephError::Failed { status: 134, .. })), "{error:?}");
        assert_eq!(fakes.read("count").lines().count(), 1);
        // what has no snapshot is not asked for clones
        let with_snapshots = |answer: &str| {
            let crash = "*' children '*) kill -ABRT $$ ;;";
            with(&format!("case \"$* \" in {crash} *) echo '{answer}' ;; esac"))
        };
        assert!(with_snapshots("[]").descendants(image).await.unwrap().is_empty());
        for snapshot in ["user", "trash"] {
            let answer = format!(r#"[{{"id":4,"name":"snap","namespace":{{"type":"{snapshot}"}}}}]"#);
            assert!(with_snapshots(&answer).descendants(image).await.unwrap_err().is_crash(), "{snapshot}");
        }
        let missing = RbdCommand::new(connection())
            .with_programs(Programs { rbd: fakes.path("none").into(), ..Programs::default() });
        assert!(matches!(missing.info(image).await, Err(CephError::NoWay { .. })));
    }

    #[tokio::test]
    async fn a_hanging_command_is_unreachable() {
        let fakes = Fakes::new();
        let rbd = fakes.write("rbd", "sleep 1000");
        let cluster = RbdCommand::new(Connection { deadline: Duration::from_millis(200), ..connection() })
            .with_programs(Programs { rbd, ..Programs::default() });
        let began = Instant::now();
        assert!(cluster.demote(&image()).await.unwrap_err().is_unreachable());
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    /// An `ssh` that knows the hosts `good` and `other`, notes how it is called, and runs commands through a shell as sshd does.
    fn fake_ssh(fakes: &Fakes) -> Programs {
        let script = format!(
            r#"echo "$*" >> '{log}'
control= exit= E=
while :; do
  case $1 in
    --) shift; break ;;
    -S) control=$2; shift 2 ;;
    -E) E=$2; shift 2 ;;
    -O) exit=1; shift 2 ;;
    -o) shift 2 ;;
    *) shift ;;
  esac
done
host=$1; shift
[ -z "$exit" ] || exec rm -f "$control"
case $host in
  good|other) ;;
  *) echo "connect to host $host: refused" > "$E"; exit 255 ;;
esac
if [ -n "$E" ]; then stat -c %a "$(dirname "$control")" > '{mode}'; : > "$control"; exit 0; fi
[ -e "$control" ] || exit 255
exec sh -c "$*""#,
            log = fakes.path("ssh.log"),
            mode = fakes.path("mode"),
        );
        let rbd =
            fakes.write("rbd", &format!(r#"printf '%s\0' "$@" > '{}'; exec cat"#, fakes.path("arguments")));
        Programs { rbd, ssh: fakes.write("ssh", &script), ..Programs::default() }
    }

    fn on_hosts(fakes: &Fakes, hosts: &[&str]) -> RbdCommand {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        RbdCommand::new(Connection { run_on: RunOn::Hosts(hosts), ..connection() })
            .with_programs(fake_ssh(fakes))
    }

    #[tokio::test]
    async fn values_survive_the_remote_shell() {
        let fakes = Fakes::new();
        let cluster = on_hosts(&fakes, &["good"]);
        for value in
            ["1:site-a:x", "a'b\"c", "$(id) `id` ; rm * \\ | & ~ #", "two\nlines", "--id=x", "é", " "]
        {
            cluster.set_metadata(&image(), "onemirror.handoff", value).await.unwrap();
            let arguments = fakes.read("arguments");
            let arguments: Vec<&str> = arguments.trim_end_matches('\0').split('\0').collect();
            assert_eq!(arguments[arguments.len() - 3..], ["--", "onemirror.handoff", value]);
        }
        let refused = cluster.set_metadata(&image(), "k", "a\0b").await;
        assert!(refused.unwrap_err().is_unreachable());
    }

    #[tokio::test]
    async fn a_crash_on_a_bridge_host_is_told_by_its_shell() {
        let line =
            remote_command(&["sh".into(), "-c".into(), "kill -ABRT $$".into()], Duration::from_secs(7));
        // one that becomes its last command, as far as it can
        let mut shell = tokio::process::Command::new("bash");
        shell.arg("-c").arg(line.unwrap());
        // the shell itself ended in peace: `ssh` would say 255 of one that a signal ended
        let status = shell.status().await.unwrap();
        assert_eq!(status.code(), Some(134));
    }

    #[tokio::test]
    async fn one_connection_serves_a_run_and_is_closed() {
        let fakes = Fakes::new();
        let cluster = on_hosts(&fakes, &["-oProxyCommand=id", "bad", "good", "other"]);
        let image = image();
        let (one, two) = tokio::join!(cluster.demote(&image), cluster.resync(&image));
        one.unwrap();
        two.unwrap();
        cluster.demote(&image).await.unwrap();
        drop(cluster);
        let log = fakes.read("ssh.log");
        let opened: Vec<&str> = log.lines().filter(|line| line.contains("ControlMaster=yes")).collect();
        assert!(
            opened.len() == 2 && opened[0].ends_with("bad true") && opened[1].ends_with("good true"),
            "{log}"
        );
        assert!(
            opened.iter().all(|line| line.contains("BatchMode=yes") && line.contains("ConnectTimeout=5"))
        );
        assert_eq!(log.lines().filter(|line| line.contains("-O exit -- good")).count(), 1, "{log}");
        assert_eq!(log.lines().filter(|line| line.contains("ControlMaster=no")).count(), 3, "{log}");
        assert_eq!(fakes.read("mode").trim(), "700");
        // its directory went with it
        let socket = opened[1].split(" -S ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(!std::path::Path::new(socket).parent().unwrap().exists(), "{socket}");
    }

    #[tokio::test]
    async fn a_lost_connection_is_reported_and_the_next_call_takes_the_next_host() {
        let fakes = Fakes::new();
        let cluster = on_hosts(&fakes, &["good", "other"]);
        cluster.demote(&image()).await.unwrap();
        let socket = fakes.read("ssh.log");
        let socket = socket.split(" -S ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        std::fs::remove_file(socket).unwrap();
        // whether the command ran there is not known, so it is not repeated
        let error = cluster.demote(&image()).await.unwrap_err();
        assert!(error.is_unreachable() && error.to_string().contains("good"), "{error}");
        cluster.demote(&image()).await.unwrap();
        let log = fakes.read("ssh.log");
        assert!(log.lines().any(|line| line.ends_with("-- other true")), "{log}");
    }

    #[tokio::test]
    async fn when_no_host_answers_all_are_named() {
        let fakes = Fakes::new();
        let error = on_hosts(&fakes, &["bad", "worse"]).demote(&image()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            error.is_unreachable() && text.contains("host bad: refused") && text.contains("worse"),
            "{text}"
        );
        assert!(on_hosts(&fakes, &[]).demote(&image()).await.unwrap_err().is_unreachable());
    }
}
