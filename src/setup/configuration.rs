//! The first onemirror.conf: the commented sample, with what can be found out filled in.

use super::SetupError;
use super::layout::Layout;
use crate::ceph::{Ceph as _, Connection, DEFAULT_DEADLINE, PoolInfo, RbdCommand, RunOn};
use crate::config::Role;
use crate::engine::is_fsid;
use crate::opennebula::{Client, Datastore, DatastoreKind, StorageCredentials};
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, value};

const SAMPLE: &str = include_str!("../../etc/onemirror.conf");

/// What goes into the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// This site's role.
    pub role: Role,
    /// The other front-end's address, if it was given.
    pub peer_endpoint: Option<String>,
    /// What the cluster told.
    pub clusters: Clusters,
}

/// What a mirrored pool tells of the two clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clusters {
    /// The own cluster's site name.
    pub here: Option<String>,
    /// The other cluster's.
    pub there: Option<String>,
    /// The Ceph user for the other cluster.
    pub user_there: Option<String>,
    /// Whether the own user may read how the other cluster is reached, so that nothing has to be configured.
    pub tells_the_way: bool,
    /// The configuration file of the other cluster, if one of its name is there.
    pub conf_there: Option<PathBuf>,
}

impl Clusters {
    fn of(info: &PoolInfo, conf_exists: impl Fn(&Path) -> bool) -> Self {
        let [peer] = &info.peers[..] else { return Self::default() };
        let conf = PathBuf::from(format!("/etc/ceph/{}.conf", peer.site_name));
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        Self {
            // a user who may not read the name is told the fsid
            here: (!info.site_name.is_empty() && !is_fsid(&info.site_name)).then(|| info.site_name.clone()),
            there: Some(peer.site_name.clone()).filter(|name| !name.is_empty()),
            user_there: Some(peer.client_name.clone()).filter(|name| !name.is_empty()),
            tells_the_way: peer.mon_host.is_some() && peer.key.is_some(),
            conf_there: Some(conf).filter(|conf| is_name(&peer.site_name) && conf_exists(conf)),
        }
    }
}

/// Asks the front-end's Ceph datastores for a mirrored pool, and that for the two clusters; tells why not.
pub async fn clusters(client: &Client) -> Result<Clusters, String> {
    let datastores = client.datastore_pool().await.map_err(|error| error.to_string())?;
    let mut reasons = Vec::new();
    for datastore in datastores.iter().filter(|datastore| datastore.kind == DatastoreKind::Image) {
        let Some(pool) = datastore.pool_name.as_deref().filter(|_| datastore.is_ceph()) else { continue };
        match connection(datastore).pool_info(pool).await {
            Ok(info) if info.enabled && info.peers.len() == 1 => {
                let mut clusters = Clusters::of(&info, |conf| conf.is_file());
                if clusters.here.is_none() {
                    // who installs may be somebody who may read the name
                    let mut own = datastore.clone();
                    own.ceph_user = None;
                    let info = connection(&own).pool_info(pool).await.ok();
                    clusters.here = info.and_then(|info| Clusters::of(&info, |_| false).here);
                }
                return Ok(clusters);
            }
            Ok(info) if info.enabled => reasons.push(format!("pool {pool} has {} peers", info.peers.len())),
            Ok(_) => reasons.push(format!("pool {pool} is not mirrored")),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(if reasons.is_empty() { "there is no datastore on Ceph".into() } else { reasons.join("; ") })
}

fn connection(datastore: &Datastore) -> RbdCommand {
    let credentials = StorageCredentials::of(datastore);
    RbdCommand::new(Connection {
        site: "this cluster".into(),
        conf: credentials.conf.map(PathBuf::from),
        user: credentials.user,
        keyfile: credentials.keyfile.map(PathBuf::from),
        mon_host: None,
        run_on: if credentials.bridge_hosts.is_empty() {
            RunOn::Local
        } else {
            RunOn::Hosts(credentials.bridge_hosts)
        },
        deadline: DEFAULT_DEADLINE,
    })
}

/// The configuration's text, and what is left to fill in.
pub fn write(layout: &Layout, answers: &Answers) -> Result<(String, Vec<String>), SetupError> {
    let wrong = |error: &dyn std::fmt::Display| SetupError::Configuration(error.to_string());
    let mut document: DocumentMut = SAMPLE.parse().map_err(|error| wrong(&error))?;
    let mut left = Vec::new();
    let mut set = |table: &[&str], key: &str, text: Option<&str>, what: &str| {
        let mut item = document.as_item_mut();
        for name in table {
            item = &mut item[*name];
        }
        match text {
            // the comments around the value stay
            Some(text) => {
                if let Some(old) = item[key].as_value_mut() {
                    let decor = old.decor().clone();
                    *old = text.into();
                    *old.decor_mut() = decor;
                } else {
                    item[key] = value(text);
                }
            }
            None => left.push(format!("{}.{key}: {what}", table.join("."))),
        }
    };
    let clusters = &answers.clusters;
    set(&["site"], "name", clusters.here.as_deref(), "site_name of rbd mirror pool info --all --format json");
    set(&["site"], "role", Some(&answers.role.to_string()), "");
    set(&["peer"], "name", clusters.there.as_deref(), "the other cluster's site name");
    set(&["peer"], "endpoint", answers.peer_endpoint.as_deref(), "the address of the other front-end's oned");
    let auth = layout.peer_auth.to_str();
    set(&["peer"], "auth", auth, "a file with user:password for the other front-end");
    if !clusters.tells_the_way {
        let conf = clusters.conf_there.as_deref().and_then(Path::to_str);
        set(&["peer", "ceph"], "conf", conf, "the configuration file of the other cluster");
        set(&["peer", "ceph"], "user", clusters.user_there.as_deref(), "the Ceph user for the other cluster");
    } else if let Some(peer) = document.get_mut("peer").and_then(|peer| peer.as_table_mut()) {
        peer.remove("ceph");
    }
    Ok((document.to_string(), left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::Peer;
    use crate::config::Config;

    fn info(site_name: &str, key: Option<&str>) -> PoolInfo {
        PoolInfo {
            enabled: true,
            pool_mode: true,
            site_name: site_name.into(),
            peers: vec![Peer {
                site_name: "site-b".into(),
                mirror_uuid: None,
                client_name: "rbd-mirror-peer".into(),
                mon_host: key.map(|_| "[v2:192.0.2.7:3300/0]".into()),
                key: key.map(Into::into),
                direction: "rx-tx".into(),
            }],
        }
    }

    fn written(clusters: Clusters, peer_endpoint: Option<&str>) -> (Config, String, Vec<String>) {
        let layout = Layout::for_tests(Some("/srv/one"));
        let answers =
            Answers { role: Role::Recovery, peer_endpoint: peer_endpoint.map(Into::into), clusters };
        let (text, left) = write(&layout, &answers).unwrap();
        (Config::parse(&text, Path::new("onemirror.conf")).unwrap(), text, left)
    }

    #[test]
    fn what_the_pool_tells_is_filled_in_and_the_comments_stay() {
        let clusters = Clusters::of(&info("site-a", None), |conf| conf == Path::new("/etc/ceph/site-b.conf"));
        let (config, text, left) = written(clusters, Some("https://b.example.org:2633/RPC2"));
        assert_eq!((config.site.name.as_str(), config.site.role, left), ("site-a", Role::Recovery, vec![]));
        assert_eq!(config.peer.endpoint, "https://b.example.org:2633/RPC2");
        let ceph = config.peer.ceph.unwrap();
        assert_eq!((ceph.conf, ceph.user.as_str()), ("/etc/ceph/site-b.conf".into(), "rbd-mirror-peer"));
        let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
        assert_eq!(comments(&text), comments(SAMPLE));
    }

    #[test]
    fn what_nobody_tells_is_named() {
        let clusters = Clusters::of(&info("3f1c3a2e-8f2b-4c1b-9a57-0d9b6a3c1a10", None), |_| false);
        let (_, _, left) = written(clusters, None);
        let keys: Vec<&str> = left.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(keys, ["site.name", "peer.endpoint", "peer.ceph.conf"]);
        let (_, _, left) = written(Clusters::default(), None);
        assert_eq!(left.len(), 5);
    }

    #[test]
    fn a_pool_that_tells_the_way_needs_no_table_for_it() {
        let (config, text, left) =
            written(Clusters::of(&info("site-a", Some("AQ==")), |_| false), Some("http://b:1/"));
        assert_eq!((config.peer.ceph, left), (None, vec![]));
        assert!(!text.contains("AQ=="));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_no_path() {
        let mut info = info("site-a", None);
        info.peers[0].site_name = "../../tmp/x".into();
        assert_eq!(Clusters::of(&info, |_| true).conf_there, None);
    }
}
