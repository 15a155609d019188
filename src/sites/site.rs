//! The two sites of a run: their front-ends, their clusters, and what this run may remember.

use super::cluster::{Cluster, Silence};
use super::error::{FrontEndError, RunError};
use super::front_end::FrontEnd;
use super::locks::Owner;
use super::outside::Surroundings;
use crate::ceph::{CephError, Connection, RunOn, connection_to_peer};
use crate::config::{self, Config};
use crate::opennebula::{
    Client, ClientOptions, Datastore, StorageCredentials, discover_auth_file, discover_endpoint, read_session,
};
use crate::state::{BootId, peer_contact, peer_contacted_since_boot, remember_peer_contact};
use onemirror_protocol::{Residence, SiteRole, TokenSeen, Unfit};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// A way to a cluster, by its number, and a pool there.
type WayToPool = (u64, String);

/// One run of onemirror: what it talks to, and the policy it follows.
pub struct Sites {
    pub(super) config: Config,
    pub(super) surroundings: Surroundings,
    pub(super) one_here: FrontEnd,
    one_there: RefCell<Option<FrontEnd>>,
    clusters: RefCell<HashMap<StorageCredentials, Cluster>>,
    /// By the way to the own cluster and its pool; `None`: as configured, for all of them.
    pub(super) cluster_there: RefCell<HashMap<Option<WayToPool>, Cluster>>,
    silence_there: Silence,
    front_end_silence_there: Silence,
    /// How long the slowest look of this run took.
    pub(super) slowest_look: Cell<Duration>,
    /// The event on whose behalf this runs, for the audit log.
    pub(super) event: String,
}

/// How the own front-end is reached: by the configuration, or as every `one*` command finds it.
fn options_here(config: Option<&Config>) -> Result<ClientOptions, FrontEndError> {
    let site = config.map(|config| &config.site);
    let endpoint = discover_endpoint(site.and_then(|site| site.endpoint.as_deref()));
    let auth = discover_auth_file(site.and_then(|site| site.auth.as_deref()))?;
    let deadline = config.map_or(crate::ceph::DEFAULT_DEADLINE, |config| config.policy.command_timeout);
    Ok(ClientOptions { endpoint, session: read_session(&auth)?, deadline, ca_file: None })
}

/// The own front-end, without a run.
pub fn local_client(config: Option<&Config>) -> Result<Client, FrontEndError> {
    Ok(Client::new(options_here(config)?)?)
}

impl Sites {
    /// An sites for one run on behalf of `event`.
    pub fn new(config: Config, event: &str) -> Result<Self, RunError> {
        Self::within(config, event, Surroundings::real())
    }

    /// The same in other surroundings.
    pub fn within(config: Config, event: &str, surroundings: Surroundings) -> Result<Self, RunError> {
        let one_here = options_here(Some(&config))
            .and_then(|options| Ok(surroundings.ways.front_end(options)?))
            .map_err(|error| RunError::OpenNebula { site: config.site.name.clone(), error })?;
        Ok(Self {
            one_here: FrontEnd::new(one_here),
            one_there: RefCell::default(),
            clusters: RefCell::default(),
            cluster_there: RefCell::default(),
            silence_there: Silence::default(),
            front_end_silence_there: Silence::default(),
            slowest_look: Cell::new(Duration::ZERO),
            event: event.to_owned(),
            surroundings,
            config,
        })
    }

    pub(super) fn now(&self) -> Instant {
        self.surroundings.time.now()
    }

    /// The random part of a token that is closed now.
    pub(super) fn closing_id(&self) -> String {
        format!("{:016x}", self.surroundings.time.random())
    }

    /// Who takes locks.
    pub(super) fn owner(&self) -> Owner {
        Owner::this_process(self.here(), &self.surroundings.state_dir, self.surroundings.time.clone())
    }

    /// The configuration of this run.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// This site's name.
    pub fn here(&self) -> &str {
        &self.config.site.name
    }

    /// The peer's name.
    pub fn there(&self) -> &str {
        &self.config.peer.name
    }

    /// This site, as far as homes of images go.
    pub(super) fn residence(&self) -> Residence<'_> {
        let role = match self.config.site.role {
            config::ConfiguredRole::Home => SiteRole::Home,
            config::ConfiguredRole::Recovery => SiteRole::Recovery,
        };
        Residence { here: self.here(), there: self.there(), role }
    }

    /// The own front-end.
    pub fn front_end_here(&self) -> &FrontEnd {
        &self.one_here
    }

    /// The peer's front-end.
    pub fn front_end_there(&self) -> Result<FrontEnd, FrontEndError> {
        if let Some(client) = self.one_there.borrow().as_ref() {
            return Ok(client.clone());
        }
        let peer = &self.config.peer;
        let client = FrontEnd::new(self.surroundings.ways.front_end(ClientOptions {
            endpoint: peer.endpoint.clone(),
            session: read_session(&peer.auth)?,
            deadline: self.config.policy.command_timeout,
            ca_file: peer.ca_file.clone(),
        })?);
        *self.one_there.borrow_mut() = Some(client.clone());
        Ok(client)
    }

    pub(super) fn error_here(&self, error: impl Into<FrontEndError>) -> RunError {
        RunError::OpenNebula { site: self.here().to_owned(), error: error.into() }
    }

    pub(super) fn error_there(&self, error: impl Into<FrontEndError>) -> RunError {
        RunError::OpenNebula { site: self.there().to_owned(), error: error.into() }
    }

    /// The datastores of the own front-end, looked up once a run.
    pub(super) async fn datastores(
        &self,
        ids: impl IntoIterator<Item = i32>,
    ) -> Result<BTreeMap<i32, Datastore>, RunError> {
        self.one_here.datastores(ids).await.map_err(|error| self.error_here(error))
    }

    /// The own cluster, as the datastore says it is reached.
    pub(super) async fn cluster_here(&self, datastore: &Datastore) -> Result<Cluster, RunError> {
        let credentials = StorageCredentials::of(datastore);
        if let Some(cluster) = self.clusters.borrow().get(&credentials) {
            return Ok(cluster.clone());
        }
        let site = &self.config.site;
        let run_on = match &site.ceph.run_on {
            config::ConfiguredRunOn::Local => RunOn::Local,
            config::ConfiguredRunOn::Hosts(hosts) => RunOn::Hosts(hosts.clone()),
            config::ConfiguredRunOn::Datastore if credentials.bridge_hosts.is_empty() => RunOn::Local,
            config::ConfiguredRunOn::Datastore => {
                RunOn::Hosts(self.usable_bridges(&credentials.bridge_hosts).await?)
            }
        };
        let cluster = Cluster::new(self.surroundings.ways.cluster(Connection {
            site: site.name.clone(),
            conf: site.ceph.conf.clone().or_else(|| credentials.conf.as_ref().map(PathBuf::from)),
            user: site.ceph.user.clone().or_else(|| credentials.user.clone()),
            keyfile: credentials.keyfile.as_ref().map(PathBuf::from),
            mon_host: None,
            run_on,
            deadline: self.config.policy.command_timeout,
        }));
        self.clusters.borrow_mut().insert(credentials, cluster.clone());
        Ok(cluster)
    }

    /// Of a datastore's bridge hosts those that are neither off, in error nor disabled, as the stock driver does.
    async fn usable_bridges(&self, bridge_list: &[String]) -> Result<Vec<String>, RunError> {
        let unusable = self.one_here.unusable_hosts().await.map_err(|error| self.error_here(error))?;
        let usable: Vec<String> =
            bridge_list.iter().filter(|host| !unusable.contains(host)).cloned().collect();
        if usable.is_empty() {
            return Err(RunError::Unfit(Unfit::NoBridge { hosts: bridge_list.to_vec() }));
        }
        Ok(usable)
    }

    /// The peer's cluster: as configured, else as the own pool's peers tell. `None`: neither tells.
    pub(super) async fn cluster_there(
        &self,
        own: &Cluster,
        pool: &str,
    ) -> Result<Option<Cluster>, CephError> {
        let key = self.config.peer.ceph.is_none().then(|| (own.number(), pool.to_owned()));
        if let Some(cluster) = self.cluster_there.borrow().get(&key) {
            return Ok(Some(cluster.clone()));
        }
        let cluster = match &self.config.peer.ceph {
            Some(ceph) => self.surroundings.ways.cluster(Connection {
                site: self.there().to_owned(),
                conf: Some(ceph.conf.clone()),
                user: Some(ceph.user.clone()),
                keyfile: None,
                mon_host: None,
                run_on: match &ceph.run_on {
                    config::ConfiguredRunOn::Hosts(hosts) => RunOn::Hosts(hosts.clone()),
                    config::ConfiguredRunOn::Local | config::ConfiguredRunOn::Datastore => RunOn::Local,
                },
                deadline: self.config.policy.command_timeout,
            }),
            None => {
                let info = own.pool_info(pool).await?;
                match connection_to_peer(&info, self.there()) {
                    Ok(Some(mut peer)) => {
                        peer.connection.deadline = self.config.policy.command_timeout;
                        self.surroundings.ways.peer_cluster(peer)
                    }
                    Ok(None) => return Ok(None),
                    Err(error) => {
                        tracing::warn!("no private key file for the peer's cluster: {error}");
                        return Ok(None);
                    }
                }
            }
        };
        let cluster = Cluster::new(cluster);
        self.cluster_there.borrow_mut().insert(key, cluster.clone());
        Ok(Some(cluster))
    }

    /// Whether the peer's cluster did not answer a moment ago.
    pub(super) fn is_silent_there(&self) -> bool {
        self.silence_there.lasts(&*self.surroundings.time).is_some()
    }

    pub(super) fn note_silence(&self) {
        self.silence_there.note(&*self.surroundings.time, String::new());
    }

    /// The same for the peer's front-end.
    pub(super) fn is_front_end_silent_there(&self) -> bool {
        self.front_end_silence_there.lasts(&*self.surroundings.time).is_some()
    }

    pub(super) fn note_front_end_silence(&self) {
        self.front_end_silence_there.note(&*self.surroundings.time, String::new());
    }

    /// What an own cluster answered when it did not, a moment ago. Only what goes through many images asks.
    pub(super) fn silence_here(&self, cluster: &Cluster) -> Option<String> {
        cluster.silence().lasts(&*self.surroundings.time)
    }

    pub(super) fn note_silence_here(&self, cluster: &Cluster, error: &CephError) {
        if error.is_unreachable() {
            cluster.silence().note(&*self.surroundings.time, format!("Ceph on {}: {error}", self.here()));
        }
    }

    /// Notes that the peer was asked about this image since this host was booted, and whether the other copy agrees with
    /// the one here being the newest.
    pub(super) fn note_contact(&self, global_id: &str, agrees: bool) {
        let noted = BootId::current().and_then(|boot_id| {
            remember_peer_contact(&self.surroundings.state_dir, global_id, &boot_id, agrees)
        });
        if let Err(error) = noted {
            tracing::warn!("{error}");
        }
    }

    /// Whether the peer agreed about this image since this host was booted. One that never had a token was never handed
    /// over, and may be newer than the peer's silence: for it any answer of the peer counts that did not contradict.
    pub(super) fn in_touch_since_reboot(&self, global_id: &str, token: &TokenSeen) -> bool {
        let Ok(boot_id) = BootId::current() else { return false };
        match peer_contact(&self.surroundings.state_dir, global_id, &boot_id) {
            Some(agrees) => agrees,
            None => {
                *token == TokenSeen::None && peer_contacted_since_boot(&self.surroundings.state_dir, &boot_id)
            }
        }
    }
}
