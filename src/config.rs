//! `onemirror.conf`: where it is found and what it may say.
//!
//! A configuration that is not understood to the last key is refused as a whole: a mistyped `release_on` must
//! not turn into a default that moves data. [`ConfigError`] says which line to change, and never repeats a
//! value that may be a secret.

mod document;
mod error;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, Distrust};

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest configuration file that is read, in bytes.
pub const SIZE_LIMIT: u64 = 1 << 20;

/// All of `onemirror.conf`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This front-end and its Ceph cluster.
    pub site: SiteConfig,
    /// The other front-end and its Ceph cluster.
    pub peer: PeerConfig,
    /// Deadlines, and what is done when.
    pub policy: Policy,
}

/// Which of the two sites this is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ConfiguredRole {
    /// Where images belong that say nothing else: terminate means terminate.
    Home,
    /// Where those run after a failover: terminate hands them back.
    Recovery,
}

/// `[site]`: this front-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteConfig {
    /// The local cluster's mirroring site name, as `rbd mirror pool info` prints it.
    pub name: String,
    /// What it is to images that do not say where they belong.
    pub role: ConfiguredRole,
    /// XML-RPC endpoint of the own front-end. `None`: found as every `one*` command finds it.
    pub endpoint: Option<String>,
    /// File with `user:password` for the own front-end. `None`: found as every `one*` command finds it.
    pub auth: Option<PathBuf>,
    /// How the own cluster is reached.
    pub ceph: SiteCeph,
}

/// `[site.ceph]`: how the own cluster is reached; by default as the datastore says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteCeph {
    /// Ceph configuration file. `None`: the datastore's `CEPH_CONF`.
    pub conf: Option<PathBuf>,
    /// Ceph user, without `client.`. `None`: the datastore's `CEPH_USER`.
    pub user: Option<String>,
    /// Where `rbd` runs.
    pub run_on: ConfiguredRunOn,
}

/// Where `rbd` runs. In the file: `"datastore"`, `"local"` or a list of hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConfiguredRunOn {
    /// On a host of the datastore's `BRIDGE_LIST`; on the front-end where there is none.
    #[default]
    Datastore,
    /// On the front-end.
    Local,
    /// By ssh on one of these, each `host` or `user@host`; never empty.
    Hosts(Vec<String>),
}

/// `[peer]`: the other front-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The other cluster's mirroring site name.
    pub name: String,
    /// XML-RPC endpoint of the other front-end.
    pub endpoint: String,
    /// File with `user:password` for the other front-end.
    pub auth: PathBuf,
    /// Certificates (PEM) to trust for an https endpoint beside the system's own.
    pub ca_file: Option<PathBuf>,
    /// How the other cluster is reached. `None`: as `rbd mirror pool info --all` tells.
    pub ceph: Option<PeerCeph>,
}

/// `[peer.ceph]`: how the other cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCeph {
    /// Ceph configuration file of the other cluster.
    pub conf: PathBuf,
    /// Ceph user there, without `client.`.
    pub user: String,
    /// Where `rbd` runs; never [`ConfiguredRunOn::Datastore`], whose hosts belong to the own cluster.
    pub run_on: ConfiguredRunOn,
}

/// What a boot does when the other site cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerUnreachablePolicy {
    /// Boot on the primary copy here.
    Allow,
    /// Never boot.
    Refuse,
    /// Refuse until the peer's copy was seen once since this front-end's machine was booted: a site that comes back
    /// must not start the second copy.
    #[default]
    RefuseAfterReboot,
}

/// An event after which a VM's images are handed to the other site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseOn {
    /// `onevm terminate`.
    Terminate,
    /// `onevm poweroff`, the guest's own shutdown, and a domain that died.
    Poweroff,
    /// `onevm undeploy`.
    Undeploy,
}

/// `[policy]`: deadlines, and what is done when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a boot waits for the last writes of the other site.
    pub sync_timeout: Duration,
    /// The deadline of one `rbd` or XML-RPC call.
    pub command_timeout: Duration,
    /// How long a release waits for the peer to show that it follows.
    pub release_timeout: Duration,
    /// What a boot does when the other site cannot be asked.
    pub peer_unreachable: PeerUnreachablePolicy,
    /// Events that hand over the images that belong to the other site. `None`: see [`Policy::release_events`].
    pub release_on: Option<Vec<ReleaseOn>>,
    /// Whether the matching VM of the peer is resumed after a release.
    pub resume_on_peer: bool,
    /// After as many days on which reconcile ran here a copy that was set aside is dropped. `None`: never.
    pub drop_lost_after: Option<u32>,
    /// Whether Ceph's libraries are called where they can be, in place of its commands.
    pub librbd: bool,
    /// How long processes stay that are connected to a cluster, for the next runs. `None`: none does.
    pub librbd_stays: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            sync_timeout: Duration::from_secs(120),
            command_timeout: Duration::from_secs(30),
            release_timeout: Duration::from_secs(45),
            peer_unreachable: PeerUnreachablePolicy::default(),
            release_on: None,
            resume_on_peer: true,
            drop_lost_after: None,
            librbd: false,
            librbd_stays: Some(Duration::from_secs(60)),
        }
    }
}

impl Policy {
    /// The events that hand over the images that belong to the other site: as configured, else `terminate`.
    pub fn release_events(&self) -> &[ReleaseOn] {
        self.release_on.as_deref().unwrap_or(&[ReleaseOn::Terminate])
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// The file must belong to root or to the user who runs this and must not be writable for everybody: it
    /// names hosts to run commands on. A missing file is [`ConfigError::Missing`], an error of its own because
    /// the callers treat it differently.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read_trusted(path)?, path)
    }

    /// Checks the text of a configuration; `origin` is the file's name for messages.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        document::parse(text, origin)
    }

    /// Whether a VM's images that belong to the other site are handed over after this event.
    pub fn releases_on(&self, event: ReleaseOn) -> bool {
        self.policy.release_events().contains(&event)
    }
}

fn read_trusted(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.into(), source };
    // Without O_NONBLOCK, opening a named pipe would wait for ever.
    let opened =
        File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ConfigError::Missing { path: path.into() });
        }
        opened => opened.map_err(unreadable)?,
    };
    let metadata = file.metadata().map_err(unreadable)?;
    let current_user = rustix::process::geteuid().as_raw();
    if let Some(why) = distrust(metadata.is_file(), metadata.mode(), metadata.uid(), current_user) {
        return Err(ConfigError::NotTrusted { path: path.into(), why });
    }
    let mut bytes = Vec::new();
    file.by_ref().take(SIZE_LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(ConfigError::TooLarge { path: path.into() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        ConfigError::Syntax {
            path: path.into(),
            line: 1 + valid.iter().filter(|byte| **byte == b'\n').count(),
            message: "not UTF-8 text".into(),
        }
    })
}

/// Why a file of this type, mode and owner is not believed; `None` if it is.
fn distrust(regular: bool, mode: u32, owner: u32, current_user: u32) -> Option<Distrust> {
    if !regular {
        Some(Distrust::NotAFile)
    } else if owner != 0 && owner != current_user {
        Some(Distrust::Owner { owner, current_user })
    } else if mode & 0o002 != 0 {
        Some(Distrust::WorldWritable)
    } else {
        None
    }
}

/// Where the configuration is: `--config`, `$ONEMIRROR_CONF`, `$ONE_LOCATION/etc/onemirror.conf`, else
/// `/etc/one/onemirror.conf`. Empty variables count as unset. Does not look whether the file exists.
pub fn locate(flag: Option<&Path>) -> PathBuf {
    locate_in(flag, environment)
}

/// The folder of onemirror's own small state: `$ONE_LOCATION/var/onemirror`, else `/var/lib/one/onemirror`.
/// Whoever first writes there creates it with mode 0700.
pub fn state_dir() -> PathBuf {
    state_dir_in(environment("ONE_LOCATION"))
}

/// The audit log: `$ONE_LOCATION/var/onemirror.log`, else `/var/log/one/onemirror.log`.
pub fn audit_log_path() -> PathBuf {
    audit_log_path_in(environment("ONE_LOCATION"))
}

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn locate_in(flag: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.map(PathBuf::from)
        .or_else(|| set("ONEMIRROR_CONF"))
        .or_else(|| set("ONE_LOCATION").map(|root| root.join("etc/onemirror.conf")))
        .unwrap_or_else(|| "/etc/one/onemirror.conf".into())
}

pub(crate) fn state_dir_in(one_location: Option<OsString>) -> PathBuf {
    match one_location.filter(|value| !value.is_empty()) {
        Some(root) => PathBuf::from(root).join("var/onemirror"),
        None => "/var/lib/one/onemirror".into(),
    }
}

pub(crate) fn audit_log_path_in(one_location: Option<OsString>) -> PathBuf {
    match one_location.filter(|value| !value.is_empty()) {
        Some(root) => PathBuf::from(root).join("var/onemirror.log"),
        None => "/var/log/one/onemirror.log".into(),
    }
}
