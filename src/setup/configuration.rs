//! The first onemirror.conf: the commented sample, with what can be found out filled in.

use super::SetupError;
use super::layout::Layout;
use crate::ceph::{Ceph as _, PoolInfo, RbdCommand, is_fsid};
use crate::config::ConfiguredRole;
use crate::opennebula::{Client, Datastore, DatastoreKind};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

const SAMPLE: &str = include_str!("../../etc/onemirror.conf");

/// What goes into the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// This site's role.
    pub role: ConfiguredRole,
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
        let Some(peer) = info.source() else { return Self::default() };
        let conf = PathBuf::from(format!("/etc/ceph/{}.conf", peer.site_name));
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        Self {
            // a user who may not read the name is told the fsid
            here: (!info.site_name.is_empty() && !is_fsid(&info.site_name)).then(|| info.site_name.clone()),
            there: Some(peer.site_name.clone()).filter(|name| !name.is_empty() && !is_fsid(name)),
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
        match cluster(datastore).pool_info(pool).await {
            Ok(info) if info.enabled && info.source().is_some() => {
                let mut clusters = Clusters::of(&info, |conf| conf.is_file());
                if clusters.here.is_none() {
                    // who installs may be somebody who may read the name
                    let mut own = datastore.clone();
                    own.ceph_user = None;
                    let info = cluster(&own).pool_info(pool).await.ok();
                    clusters.here = info.and_then(|info| Clusters::of(&info, |_| false).here);
                }
                return Ok(clusters);
            }
            Ok(info) if info.enabled => {
                let sources = info.peers.iter().filter(|peer| peer.is_received_from()).count();
                reasons.push(format!("pool {pool} is received from {sources} peers instead of one"));
            }
            Ok(_) => reasons.push(format!("pool {pool} is not mirrored")),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(if reasons.is_empty() { "there is no datastore on Ceph".into() } else { reasons.join("; ") })
}

fn cluster(datastore: &Datastore) -> RbdCommand {
    RbdCommand::new(crate::storage::connection(datastore, "this cluster"))
}

/// The two sites' names: as the clusters tell them, else as the documentation has them, by role. Never the same twice.
fn names(answers: &Answers) -> (String, String) {
    let usual = match answers.role {
        ConfiguredRole::Home => ("site-a", "site-b"),
        ConfiguredRole::Recovery => ("site-b", "site-a"),
    };
    let Clusters { here, there, .. } = &answers.clusters;
    let unless = |usual: &str, taken: &Option<String>, other: &str| {
        if taken.as_deref() == Some(usual) { other.to_owned() } else { usual.to_owned() }
    };
    let here_or_usual = here.clone().unwrap_or_else(|| unless(usual.0, there, "this-site"));
    let there_or_usual = there.clone().unwrap_or_else(|| unless(usual.1, here, "other-site"));
    (here_or_usual, there_or_usual)
}

/// The sample's text while it is filled in; the comments around its values stay.
struct Sample(String);

impl Sample {
    /// Puts a text where the sample has another.
    fn set(&mut self, tables: &[&str], key: &str, text: &str) -> Result<(), SetupError> {
        let wrong = |why: String| SetupError::Configuration(why);
        let document = DeTable::parse(&self.0).map_err(|error| wrong(error.to_string()))?;
        let mut table = Some(document.get_ref());
        for name in tables {
            table = table.and_then(|table| table.get(*name)?.get_ref().as_table());
        }
        let Some(value) = table.and_then(|table| table.get(key)) else {
            return Err(wrong(format!("the sample has no {key} in [{}]", tables.join("."))));
        };
        let place = value.span();
        self.0.replace_range(place, &toml::Value::from(text).to_string());
        Ok(())
    }

    /// Leaves a table out, from its name to the next one.
    fn remove(&mut self, table: &str) {
        if let Some(start) = self.0.find(&format!("\n[{table}]\n")) {
            let end = self.0[start + 1..].find("\n[").map_or(self.0.len(), |length| start + 1 + length);
            self.0.replace_range(start..end, "");
        }
    }
}

/// The configuration's text, and what is left to fill in.
pub fn write(layout: &Layout, answers: &Answers) -> Result<(String, Vec<String>), SetupError> {
    let mut sample = Sample(SAMPLE.into());
    let clusters = &answers.clusters;
    let (here, there) = names(answers);
    let mut left = Vec::new();
    let mut leave = |key: &str, is_known: bool, what: &str| {
        if !is_known {
            left.push(format!("{key}: {what}"));
        }
    };
    sample.set(&["site"], "name", &here)?;
    leave(
        "site.name",
        clusters.here.is_some(),
        "site_name of rbd mirror pool info --all --format json; where that is a number, any name, the same as peer.name on the other front-end",
    );
    sample.set(&["site"], "role", &answers.role.to_string())?;
    sample.set(&["peer"], "name", &there)?;
    leave("peer.name", clusters.there.is_some(), "site.name of the other front-end");
    if let Some(endpoint) = &answers.peer_endpoint {
        sample.set(&["peer"], "endpoint", endpoint)?;
    }
    leave("peer.endpoint", answers.peer_endpoint.is_some(), "the address of the other front-end's oned");
    let auth = layout.peer_auth.to_str();
    sample.set(&["peer"], "auth", auth.unwrap_or_default())?;
    leave("peer.auth", auth.is_some(), "a file with user:password for the other front-end");
    if clusters.tells_the_way {
        sample.remove("peer.ceph");
        return Ok((sample.0, left));
    }
    // the sample's file is this site's own where this is the sample's other site
    let conf = clusters.conf_there.as_deref().and_then(Path::to_str);
    let usual = format!("/etc/ceph/{there}.conf");
    sample.set(&["peer", "ceph"], "conf", conf.unwrap_or(&usual))?;
    leave("peer.ceph.conf", conf.is_some(), "the configuration file of the other cluster, never this one's");
    let user = clusters.user_there.as_deref();
    sample.set(&["peer", "ceph"], "user", user.unwrap_or("rbd-mirror-peer"))?;
    leave("peer.ceph.user", user.is_some(), "the Ceph user for the other cluster");
    Ok((sample.0, left))
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
        let answers = Answers {
            role: ConfiguredRole::Recovery,
            peer_endpoint: peer_endpoint.map(Into::into),
            clusters,
        };
        let (text, left) = write(&layout, &answers).unwrap();
        (Config::parse(&text, Path::new("onemirror.conf")).unwrap(), text, left)
    }

    #[test]
    fn what_the_pool_tells_is_filled_in_and_the_comments_stay() {
        let clusters = Clusters::of(&info("site-a", None), |conf| conf == Path::new("/etc/ceph/site-b.conf"));
        let (config, text, left) = written(clusters, Some("https://b.example.org:2633/RPC2"));
        assert_eq!(
            (config.site.name.as_str(), config.site.role, left),
            ("site-a", ConfiguredRole::Recovery, vec![])
        );
        assert_eq!(config.peer.endpoint, "https://b.example.org:2633/RPC2");
        let ceph = config.peer.ceph.unwrap();
        assert_eq!((ceph.conf, ceph.user.as_str()), ("/etc/ceph/site-b.conf".into(), "rbd-mirror-peer"));
        let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
        assert_eq!(comments(&text), comments(SAMPLE));
    }

    /// As the page of OpenNebula has it: no names were given, and each site has added the other.
    #[test]
    fn a_peer_that_is_only_sent_to_is_the_same_cluster_once_more() {
        let number = "3f1c3a2e-8f2b-4c1b-9a57-0d9b6a3c1a10";
        let mut pair = info(number, None);
        let sent_to = Peer { site_name: number.into(), direction: "tx-only".into(), ..pair.peers[0].clone() };
        pair.peers.insert(0, sent_to.clone());
        let (config, _, left) = written(Clusters::of(&pair, |_| true), Some("https://b:1/"));
        assert_eq!((config.site.name.as_str(), config.peer.name.as_str()), ("this-site", "site-b"));
        assert!(left.len() == 1 && left[0].starts_with("site.name: "), "{left:?}");
        // nothing is received from it yet, so nothing could come back
        pair.peers = vec![sent_to];
        assert_eq!(Clusters::of(&pair, |_| true), Clusters::default());
    }

    #[test]
    fn the_other_clusters_file_is_never_this_ones() {
        let (config, ..) = written(Clusters::default(), None);
        assert_eq!((config.site.name.as_str(), config.peer.name.as_str()), ("site-b", "site-a"));
        assert_eq!(config.peer.ceph.unwrap().conf, Path::new("/etc/ceph/site-a.conf"));
        let mut told = info("site-b", None);
        told.peers[0].site_name = "berlin".into();
        let (config, _, left) = written(Clusters::of(&told, |_| false), None);
        assert_eq!(config.peer.ceph.unwrap().conf, Path::new("/etc/ceph/berlin.conf"));
        assert!(left.iter().any(|line| line.starts_with("peer.ceph.conf: ")), "{left:?}");
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
        assert!(!text.contains("AQ==") && !text.contains("[peer.ceph]"));
        // nothing of it is left, and nothing else is gone
        assert_eq!(text.matches("run_on").count(), SAMPLE.matches("run_on").count() - 1);
        assert!(text.contains("\n\n[policy]\n") && text.ends_with(SAMPLE.rsplit("[policy]").next().unwrap()));
    }

    #[test]
    fn a_text_is_put_in_as_it_is() {
        let awkward = r#"a "quoted" \ name"#;
        let clusters = Clusters { user_there: Some(awkward.into()), ..Clusters::default() };
        let answers = Answers { role: ConfiguredRole::Home, peer_endpoint: Some(awkward.into()), clusters };
        let (text, _) = write(&Layout::for_tests(None), &answers).unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["peer"]["endpoint"].as_str(), Some(awkward));
        assert_eq!(read["peer"]["ceph"]["user"].as_str(), Some(awkward));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_no_path() {
        let mut info = info("site-a", None);
        info.peers[0].site_name = "../../tmp/x".into();
        assert_eq!(Clusters::of(&info, |_| true).conf_there, None);
    }
}
