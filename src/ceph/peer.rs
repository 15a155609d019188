//! The other cluster, as this cluster's pool knows it.

use super::command::{Connection, DEFAULT_DEADLINE, RunOn};
use super::{LibraryUse, Peer, PoolInfo};
use std::io::Write;
use tempfile::TempPath;

/// A way to a peer cluster whose key lies in a private file (mode 0600) for as long as this value, or the
/// [`RbdCommand`](super::RbdCommand) made of it, lives.
#[derive(Debug)]
pub struct PeerConnection {
    /// Runs locally, because the keyfile is local; the deadline is [`DEFAULT_DEADLINE`], change it as needed.
    pub connection: Connection,
    /// Removes the file when dropped; none where a configuration names one that stays.
    pub(super) keyfile: Option<TempPath>,
}

impl PeerConnection {
    /// As configured.
    pub fn configured(connection: Connection) -> Self {
        Self { connection, keyfile: None }
    }
}

/// The direction of a peer to which is only sent.
const TRANSMIT_ONLY: &str = "tx-only";

/// What an option value may look like: one printable word.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 4096 && text.chars().all(|c| c.is_ascii_graphic())
}

impl Peer {
    /// Whether anything is received from it. Where the other site has added this one, this one's pool lists it a second
    /// time, by the number of its cluster, as one to which is only sent.
    pub fn is_received_from(&self) -> bool {
        self.direction != TRANSMIT_ONLY
    }
}

impl PoolInfo {
    /// The one peer that the pool is received from, by whichever name. `None`: there is none, or more than one.
    pub fn source(&self) -> Option<&Peer> {
        let mut sources = self.peers.iter().filter(|peer| peer.is_received_from());
        let (Some(source), None) = (sources.next(), sources.next()) else { return None };
        Some(source)
    }
}

/// Whether a site's name is only its cluster's number, as it is where nobody has given a name.
pub fn is_fsid(name: &str) -> bool {
    name.len() == 36 && name.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// The peer that is meant by the configured name: the one of that name, or the only one if it has no name but its
/// cluster's number.
fn peer_called<'a>(pool_info: &'a PoolInfo, name: &str) -> Option<&'a Peer> {
    let mut named = pool_info.peers.iter().filter(|peer| peer.site_name == name && peer.is_received_from());
    match (named.next(), named.next()) {
        (Some(peer), None) => Some(peer),
        (Some(_), Some(_)) => None,
        (None, _) => pool_info.source().filter(|peer| is_fsid(&peer.site_name)),
    }
}

/// Makes a connection to the peer `peer_site` of what `rbd mirror pool info --all` told.
///
/// `Ok(None)` where there is no such peer or not exactly one, or where the user may not read its key and monitors: such a
/// peer needs a configuration. The error is that of writing the keyfile; the key itself is never part of it.
pub fn connection_to_peer(pool_info: &PoolInfo, peer_site: &str) -> std::io::Result<Option<PeerConnection>> {
    let Some(peer) = peer_called(pool_info, peer_site) else { return Ok(None) };
    let (Some(mon_host), Some(key)) = (&peer.mon_host, &peer.key) else { return Ok(None) };
    if ![mon_host, key, &peer.client_name].into_iter().all(|text| is_word(text)) {
        return Ok(None);
    }
    // tempfile creates with mode 0600
    let mut file = tempfile::Builder::new().prefix("onemirror-key-").tempfile()?;
    file.write_all(key.as_bytes())?;
    file.flush()?;
    let keyfile = file.into_temp_path();
    let connection = Connection {
        site: peer_site.to_owned(),
        conf: None,
        user: Some(peer.client_name.clone()),
        keyfile: Some(keyfile.to_path_buf()),
        mon_host: Some(mon_host.clone()),
        run_on: RunOn::Local,
        librbd: LibraryUse::Never,
        deadline: DEFAULT_DEADLINE,
    };
    Ok(Some(PeerConnection { connection, keyfile: Some(keyfile) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn pool_info(peers: Vec<Peer>) -> PoolInfo {
        PoolInfo { enabled: true, pool_mode: true, site_name: "site-a".into(), peers }
    }

    fn peer() -> Peer {
        Peer {
            site_name: "site-b".into(),
            mirror_uuid: None,
            client_name: "rbd-mirror-peer".into(),
            mon_host: Some("[v2:192.0.2.1:3300/0,v1:192.0.2.1:6789/0]".into()),
            key: Some("AQsecret==".into()),
            direction: "rx-tx".into(),
        }
    }

    #[test]
    fn the_key_lies_in_a_private_file_that_vanishes() {
        let made = connection_to_peer(&pool_info(vec![peer()]), "site-b").unwrap().unwrap();
        let path = made.connection.keyfile.clone().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "AQsecret==");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{made:?}").contains("AQsecret"));
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn a_peer_that_cannot_be_reached_with_what_is_told_is_none() {
        let without = |change: fn(&mut Peer)| {
            let mut peer = peer();
            change(&mut peer);
            connection_to_peer(&pool_info(vec![peer]), "site-b").unwrap().is_none()
        };
        assert!(!without(|_| {}));
        assert!(without(|peer| peer.key = None));
        assert!(without(|peer| peer.mon_host = None));
        assert!(without(|peer| peer.mon_host = Some("a b".into())));
        assert!(without(|peer| peer.client_name = "x\n".into()));
        assert!(without(|peer| peer.site_name = "site-c".into()));
        // the same cluster once more, as the one to which is only sent
        let number = "3f1c3a2e-8f2b-4c1b-9a57-0d9b6a3c1a10";
        let sent_to = Peer { site_name: number.into(), direction: "tx-only".into(), key: None, ..peer() };
        let reached = |peers: Vec<Peer>| connection_to_peer(&pool_info(peers), "site-b").unwrap().is_some();
        assert!(reached(vec![sent_to.clone(), peer()]) && !reached(vec![sent_to]));
        // nobody has given it a name
        assert!(reached(vec![Peer { site_name: number.into(), ..peer() }]));
        assert!(!reached(vec![Peer { site_name: "site-c".into(), ..peer() }]));
        // which of two is meant cannot be known
        assert!(connection_to_peer(&pool_info(vec![peer(), peer()]), "site-b").unwrap().is_none());
    }
}
