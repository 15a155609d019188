//! How the cluster of a datastore is reached: what OpenNebula says, in Ceph's words.

use crate::ceph::{Connection, DEFAULT_DEADLINE, LibraryUse, RunOn};
use crate::opennebula::{Datastore, StorageCredentials};
use std::path::PathBuf;

/// As the datastore alone says it; `site` is what messages call the cluster.
pub(crate) fn connection(datastore: &Datastore, site: &str) -> Connection {
    let credentials = StorageCredentials::of(datastore);
    Connection {
        site: site.into(),
        conf: credentials.conf.map(PathBuf::from),
        user: credentials.user,
        keyfile: credentials.keyfile.map(PathBuf::from),
        mon_host: None,
        run_on: match credentials.bridge_hosts.is_empty() {
            true => RunOn::Local,
            false => RunOn::Hosts(credentials.bridge_hosts),
        },
        deadline: DEFAULT_DEADLINE,
        librbd: LibraryUse::Never,
    }
}
