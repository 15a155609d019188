//! [`Ceph`] on the `rbd` and `rados` commands.

use super::bridge::{Bridge, SharedConnection};
use super::classify::{self, Question};
use super::process::{self, Output, RunError};
use super::{
    Ceph, CephError, ImageInfo, ImageStatus, JournalStatus, LockHolder, Locking, PeerConnection, PoolInfo,
    PoolStatus, Promotion, Snapshots, parse,
};
use crate::image_spec::ImageSpec;
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
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// How much earlier than the deadline the command itself should give up, so that it can say why.
const HEAD_START: Duration = Duration::from_secs(2);

/// Where the commands run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunOn {
    /// On this machine.
    Local,
    /// By `ssh` on the first usable of these hosts, with the files of [`Connection`] as they are there.
    Hosts(Vec<String>),
}

/// How a cluster is reached. Holds no secret, only the path of one.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// The programs that are called; by their names, as `PATH` finds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// `rbd`
    pub rbd: PathBuf,
    /// `rados`
    pub rados: PathBuf,
    /// `ssh`
    pub ssh: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self { rbd: "rbd".into(), rados: "rados".into(), ssh: "ssh".into() }
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
    /// Removed with us.
    _keyfile: Option<TempPath>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Rbd,
    Rados,
}

/// One command line, without what depends on the connection.
#[derive(Clone, Debug)]
struct Call {
    program: Program,
    /// The operation and its object, for messages.
    what: String,
    /// Subcommand and options, each of a form that no value can turn into another option.
    arguments: Vec<String>,
    /// Values that stand behind `--`.
    operands: Vec<String>,
    deadline: Duration,
}

impl RbdCommand {
    /// Starts nothing; the first call does.
    pub fn new(connection: Connection) -> Self {
        let bridge = match &connection.run_on {
            RunOn::Local => None,
            RunOn::Hosts(hosts) => Some(Bridge::new(hosts.clone())),
        };
        Self { connection, programs: Programs::default(), bridge, _keyfile: None }
    }

    /// A peer cluster; keeps its keyfile as long as needed.
    pub fn to_peer(peer: PeerConnection) -> Self {
        let PeerConnection { connection, keyfile } = peer;
        Self { _keyfile: Some(keyfile), ..Self::new(connection) }
    }

    /// Calls other programs, for tests and unusual installations.
    #[must_use]
    pub fn with_programs(self, programs: Programs) -> Self {
        Self { programs, ..self }
    }

    fn call(&self, program: Program, what: String, arguments: &[&str]) -> Call {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Call { program, what, arguments, operands: Vec::new(), deadline: self.connection.deadline }
    }

    /// A call of `rbd` about an image.
    fn of_image(&self, arguments: &[&str], image: &ImageSpec) -> Call {
        let mut call = self.call(Program::Rbd, format!("{} {image}", arguments.join(" ")), arguments);
        call.in_pool(image.pool(), image.namespace());
        call.arguments.push(format!("--image={}", image.image()));
        call
    }

    /// A call of `rbd` about `pool[/namespace]`.
    fn of_pool(&self, arguments: &[&str], pool: &str) -> Call {
        let mut call = self.call(Program::Rbd, format!("{} {pool}", arguments.join(" ")), arguments);
        let (pool, namespace) = split_pool(pool);
        call.in_pool(pool, namespace);
        call
    }

    /// A call of `rados` about a lock.
    fn of_lock(&self, verb: &str, image: &ImageSpec, object: &str, name: &str) -> Call {
        let pool = image.pool_spec();
        let mut call =
            self.call(Program::Rados, format!("lock {verb} {pool} {object} {name}"), &["lock", verb]);
        call.in_pool(image.pool(), image.namespace());
        call.operands = vec![object.into(), name.into()];
        call
    }

    /// The words of the whole command line, the program first.
    fn command_line(&self, call: &Call) -> Vec<OsString> {
        let Connection { conf, user, keyfile, mon_host, .. } = &self.connection;
        let program = match call.program {
            Program::Rbd => &self.programs.rbd,
            Program::Rados => &self.programs.rados,
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

    /// Runs a call and collects what it left; decides nothing but where it runs.
    async fn output(&self, call: &Call) -> Result<(Question, Output), CephError> {
        let mut question =
            Question { what: call.what.clone(), cluster: self.connection.site.clone(), bridge: None };
        let words = self.command_line(call);
        let Some(bridge) = &self.bridge else {
            let output = self.spawn(&words, call.deadline).await;
            return output.map_err(|error| classify::run_error(&question, &error)).map(|it| (question, it));
        };
        let unreachable = |question: &Question, detail: String| CephError::Unreachable {
            what: question.what.clone(),
            cluster: question.cluster.clone(),
            detail: classify::clean(&detail),
        };
        let remote = remote_command(&words, call.deadline)
            .ok_or_else(|| unreachable(&question, "a name holds a NUL byte".into()))?;
        let _session = bridge.session().await;
        let shared = bridge
            .connect(&self.programs.ssh, self.connection.deadline)
            .await
            .map_err(|failure| unreachable(&question, failure))?;
        question.bridge = Some(shared.host.clone());
        let output = self.spawn_by_ssh(&shared, remote, call.deadline).await;
        let connection_failed = match &output {
            Ok(output) => classify::is_ssh_failure(output),
            Err(error) => matches!(error, RunError::Deadline(_)),
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
    ) -> Result<Output, RunError> {
        let mut words = vec![self.programs.ssh.clone().into_os_string()];
        words.extend(shared.arguments(remote));
        self.spawn(&words, deadline).await
    }

    async fn spawn(&self, words: &[OsString], deadline: Duration) -> Result<Output, RunError> {
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

    /// Runs `rbd`; every status but 0 is an error.
    async fn rbd(&self, call: Call) -> Result<(Question, Output), CephError> {
        let (question, output) = self.output(&call).await?;
        if output.status == 0 { Ok((question, output)) } else { Err(classify::rbd_error(&question, &output)) }
    }
}

impl Call {
    fn in_pool(&mut self, pool: &str, namespace: Option<&str>) {
        self.arguments.push(format!("--pool={pool}"));
        if let Some(namespace) = namespace {
            self.arguments.push(format!("--namespace={namespace}"));
        }
    }
}

fn split_pool(pool: &str) -> (&str, Option<&str>) {
    match pool.split_once('/') {
        Some((pool, namespace)) => (pool, Some(namespace)),
        None => (pool, None),
    }
}

/// Rounded up, at least 1: a lock of 0 seconds would never expire.
fn whole_seconds(duration: Duration) -> u64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    seconds.max(1)
}

/// What the bridge host's shell is given. Killing `ssh` here does not end the command there, so `timeout` does, and a
/// change cannot come long after its deadline. `None` if a word holds a NUL byte.
fn remote_command(words: &[OsString], deadline: Duration) -> Option<OsString> {
    let seconds = whole_seconds(deadline).to_string();
    let prefix = ["env", "-u", "CEPH_ARGS", "LC_ALL=C", "timeout", "-k", "1", &seconds];
    let all = prefix.into_iter().map(str::as_bytes).chain(words.iter().map(|word| word.as_bytes()));
    shlex::bytes::try_join(all).ok().map(OsString::from_vec)
}

/// A command line as it could be typed again; it holds no secret.
fn shown(words: &[OsString]) -> String {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

fn understood<T>(question: &Question, parsed: Result<T, parse::NotUnderstood>) -> Result<T, CephError> {
    parsed.map_err(|error| CephError::BadAnswer { what: question.what.clone(), detail: error.to_string() })
}

impl Ceph for RbdCommand {
    fn site(&self) -> &str {
        &self.connection.site
    }

    async fn info(&self, image: &ImageSpec) -> Result<Option<ImageInfo>, CephError> {
        let mut call = self.of_image(&["info"], image);
        call.arguments.push("--format=json".into());
        let (question, output) = self.output(&call).await?;
        if classify::is_image_absent(&output) {
            return Ok(None);
        }
        if output.status != 0 {
            return Err(classify::rbd_error(&question, &output));
        }
        understood(&question, parse::info(&output.stdout)).map(Some)
    }

    async fn metadata(&self, image: &ImageSpec, prefix: &str) -> Result<BTreeMap<String, String>, CephError> {
        let mut call = self.of_image(&["image-meta", "list"], image);
        call.arguments.push("--format=json".into());
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::metadata(&output.stdout, prefix))
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<(), CephError> {
        let mut call = self.of_image(&["image-meta", "set"], image);
        call.operands = vec![key.into(), value.into()];
        self.rbd(call).await.map(drop)
    }

    async fn promote(&self, image: &ImageSpec, force: bool) -> Result<Promotion, CephError> {
        let mut call = self.of_image(&["mirror", "image", "promote"], image);
        if force {
            call.arguments.push("--force".into());
            call.deadline = call.deadline.max(FORCED_PROMOTE_DEADLINE);
        }
        let (question, output) = self.output(&call).await?;
        match output.status {
            0 => Ok(Promotion::Promoted),
            _ if !force && classify::is_busy(&output) => Ok(Promotion::NotYet),
            _ => Err(classify::rbd_error(&question, &output)),
        }
    }

    async fn demote(&self, image: &ImageSpec) -> Result<(), CephError> {
        self.rbd(self.of_image(&["mirror", "image", "demote"], image)).await.map(drop)
    }

    async fn resync(&self, image: &ImageSpec) -> Result<(), CephError> {
        self.rbd(self.of_image(&["mirror", "image", "resync"], image)).await.map(drop)
    }

    async fn mirror_snapshot(&self, image: &ImageSpec) -> Result<(), CephError> {
        self.rbd(self.of_image(&["mirror", "image", "snapshot"], image)).await.map(drop)
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<ImageStatus, CephError> {
        let mut call = self.of_image(&["mirror", "image", "status"], image);
        call.arguments.push("--format=json".into());
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::image_status(&output.stdout))
    }

    async fn pool_status(&self, pool: &str) -> Result<PoolStatus, CephError> {
        let mut call = self.of_pool(&["mirror", "pool", "status"], pool);
        call.arguments.extend(["--verbose".into(), "--format=json".into()]);
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::pool_status(&output.stdout))
    }

    async fn journal_status(&self, image: &ImageSpec) -> Result<JournalStatus, CephError> {
        let mut call = self.of_image(&["journal", "status"], image);
        call.arguments.push("--format=json".into());
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::journal_status(&output.stdout))
    }

    async fn snapshots(&self, image: &ImageSpec) -> Result<Snapshots, CephError> {
        let mut call = self.of_image(&["snap", "ls"], image);
        call.arguments.extend(["--all".into(), "--format=json".into()]);
        let (question, output) = self.rbd(call).await?;
        understood(&question, parse::snapshots(&output.stdout))
    }

    async fn pool_info(&self, pool: &str) -> Result<PoolInfo, CephError> {
        let mut call = self.of_pool(&["mirror", "pool", "info"], pool);
        call.arguments.extend(["--all".into(), "--format=json".into()]);
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
        let mut call = self.call(Program::Rados, format!("mirror uuid of {pool}"), &["getomapval"]);
        call.in_pool(pool, None);
        call.operands = vec!["rbd_mirroring".into(), "mirror_uuid".into()];
        let (question, output) = self.output(&call).await?;
        if classify::is_omap_key_absent(&output) {
            return Ok(None);
        }
        if output.status != 0 {
            return Err(classify::rados_error(&question, &output));
        }
        understood(&question, parse::omap_text(&output.stdout))
            .map(|uuid| Some(uuid).filter(|it| !it.is_empty()))
    }

    async fn lock(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
        cookie: &str,
        duration: Duration,
    ) -> Result<Locking, CephError> {
        let mut call = self.of_lock("get", image, object, name);
        call.arguments.push(format!("--lock-cookie={cookie}"));
        call.arguments.push(format!("--lock-duration={}", whole_seconds(duration)));
        let (question, output) = self.output(&call).await?;
        match output.status {
            0 => Ok(Locking::Acquired),
            _ if classify::is_lock_held(&output) => Ok(Locking::Held),
            _ => Err(classify::rados_error(&question, &output)),
        }
    }

    async fn lock_holder(
        &self,
        image: &ImageSpec,
        object: &str,
        name: &str,
    ) -> Result<Option<LockHolder>, CephError> {
        let mut call = self.of_lock("info", image, object, name);
        call.arguments.push("--format=json".into());
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
        let mut call = self.of_lock("break", image, object, name);
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
