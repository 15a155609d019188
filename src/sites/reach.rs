//! The ways to front-ends and clusters.

use super::Sites;
use super::cluster::Cluster;
use super::error::{FrontEndError, RunError};
use super::silence::Silence;
use super::site::ClusterWay;
use crate::ceph::{
    CephError, Connection, DEFAULT_DEADLINE, LibraryUse, PeerConnection, RunOn, SharedProcesses,
    connection_to_peer,
};
use crate::config::{Config, ConfiguredRunOn};
use crate::opennebula::{
    Client, ClientOptions, Datastore, StorageCredentials, discover_auth_file, discover_endpoint, read_session,
};
use onemirror_protocol::Unfit;
use std::path::PathBuf;

/// How the own front-end is reached: by the configuration, or as every `one*` command finds it.
pub(super) fn options_here(config: Option<&Config>) -> Result<ClientOptions, FrontEndError> {
    let site = config.map(|config| &config.site);
    let endpoint = discover_endpoint(site.and_then(|site| site.endpoint.as_deref()));
    let auth = discover_auth_file(site.and_then(|site| site.auth.as_deref()))?;
    let deadline = config.map_or(DEFAULT_DEADLINE, |config| config.policy.command_timeout);
    Ok(ClientOptions { endpoint, session: read_session(&auth)?, deadline, ca_file: None })
}

/// How the peer's front-end is reached.
pub(super) fn options_there(config: &Config) -> Result<ClientOptions, FrontEndError> {
    let peer = &config.peer;
    Ok(ClientOptions {
        endpoint: peer.endpoint.clone(),
        session: read_session(&peer.auth)?,
        deadline: config.policy.command_timeout,
        ca_file: peer.ca_file.clone(),
    })
}

/// The own front-end, without a run.
pub fn local_client(config: Option<&Config>) -> Result<Client, FrontEndError> {
    Ok(Client::new(options_here(config)?)?)
}

/// Whether, and how, Ceph's libraries are called.
fn library_use(sites: &Sites) -> LibraryUse {
    let policy = &sites.config.policy;
    match policy.librbd_stays {
        _ if !policy.librbd => LibraryUse::Never,
        Some(idle) => LibraryUse::Shared(SharedProcesses {
            folder: sites.state_dir().join("librbd"),
            idle,
            sign_of_life: sites.sign_of_life.clone(),
        }),
        None => LibraryUse::ByRun,
    }
}

/// The own cluster, as the datastore says it is reached.
pub(crate) async fn cluster_here(sites: &Sites, datastore: &Datastore) -> Result<Cluster, RunError> {
    let credentials = StorageCredentials::of(datastore);
    let way = ClusterWay::Datastore(credentials.clone());
    if let Some(cluster) = sites.here.known_cluster(&way) {
        return Ok(cluster);
    }
    let ceph = &sites.config.site.ceph;
    let run_on = match &ceph.run_on {
        ConfiguredRunOn::Local => RunOn::Local,
        ConfiguredRunOn::Hosts(hosts) => RunOn::Hosts(hosts.clone()),
        ConfiguredRunOn::Datastore if credentials.bridge_hosts.is_empty() => RunOn::Local,
        ConfiguredRunOn::Datastore => RunOn::Hosts(usable_bridges(sites, &credentials.bridge_hosts).await?),
    };
    let calls = sites.environment.connector.cluster(Connection {
        site: sites.here.name().to_owned(),
        conf: ceph.conf.clone().or_else(|| credentials.conf.as_ref().map(PathBuf::from)),
        user: ceph.user.clone().or_else(|| credentials.user.clone()),
        keyfile: credentials.keyfile.as_ref().map(PathBuf::from),
        mon_host: None,
        run_on,
        deadline: sites.config.policy.command_timeout,
        librbd: library_use(sites),
    });
    let silence = Silence::none(sites.environment.time.clone());
    Ok(sites.here.remember_cluster(way, Cluster::new(calls, silence)))
}

/// Of a datastore's bridge hosts those that are neither off, in error nor disabled, as the stock driver does.
async fn usable_bridges(sites: &Sites, bridge_list: &[String]) -> Result<Vec<String>, RunError> {
    let unusable = sites.here.ask(async |one| one.unusable_hosts().await).await?;
    let usable: Vec<String> = bridge_list.iter().filter(|host| !unusable.contains(host)).cloned().collect();
    if usable.is_empty() {
        return Err(RunError::Unfit(Unfit::NoBridge { hosts: bridge_list.to_vec() }));
    }
    Ok(usable)
}

/// The peer's cluster: as configured, else as the own pool's peers tell. `None`: neither tells.
pub(crate) async fn cluster_there(
    sites: &Sites,
    own: &Cluster,
    pool: &str,
) -> Result<Option<Cluster>, CephError> {
    let configured = sites.config.peer.ceph.as_ref();
    let way = configured
        .map_or_else(|| ClusterWay::Peer(own.number(), pool.to_owned()), |_| ClusterWay::Configured);
    if let Some(cluster) = sites.there.known_cluster(&way) {
        return Ok(Some(cluster));
    }
    let (connector, deadline) = (&sites.environment.connector, sites.config.policy.command_timeout);
    let calls = match configured {
        Some(ceph) => connector.peer_cluster(PeerConnection::configured(Connection {
            site: sites.there.name().to_owned(),
            conf: Some(ceph.conf.clone()),
            user: Some(ceph.user.clone()),
            keyfile: None,
            mon_host: None,
            run_on: match &ceph.run_on {
                ConfiguredRunOn::Hosts(hosts) => RunOn::Hosts(hosts.clone()),
                ConfiguredRunOn::Local | ConfiguredRunOn::Datastore => RunOn::Local,
            },
            deadline,
            librbd: library_use(sites),
        })),
        None => {
            let info = own.pool_info(pool).await?;
            match connection_to_peer(&info, sites.there.name()) {
                Ok(Some(mut peer)) => {
                    peer.connection.deadline = deadline;
                    // nobody else has the key's file
                    peer.connection.librbd = library_use(sites).by_run();
                    connector.peer_cluster(peer)
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    tracing::warn!("no private key file for the peer's cluster: {error}");
                    return Ok(None);
                }
            }
        }
    };
    Ok(Some(sites.there.remember_cluster(way, Cluster::new(calls, sites.there.silence.clone()))))
}
