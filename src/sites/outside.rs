//! What a run meets outside: clusters, front-ends, time, and the audit log, each behind a narrow trait. So a simulated world
//! can stand there, and the same run goes on in it.

use crate::audit::{AuditLog, Entry};
use crate::ceph::{CephCalls, Connection, LibraryUse, Librbd, PeerConnection, RbdCommand};
use crate::config;
use crate::opennebula::{Client, ClientOptions, OneError, OpenNebula};
use async_trait::async_trait;
use jiff::Timestamp;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// What leads to clusters and front-ends.
pub trait Connector {
    /// A front-end; nothing is asked yet.
    fn front_end(&self, options: ClientOptions) -> Result<Rc<dyn OpenNebula>, OneError>;
    /// A cluster; nothing is asked yet.
    fn cluster(&self, connection: Connection) -> Rc<dyn CephCalls>;
    /// The peer's cluster, which may be lost.
    fn peer_cluster(&self, peer: PeerConnection) -> Rc<dyn CephCalls>;
}

/// Time, and random numbers.
#[async_trait(?Send)]
pub trait TimeSource {
    /// For durations.
    fn now(&self) -> Instant;
    /// For what is written down.
    fn date(&self) -> Timestamp;
    /// Lets time pass.
    async fn pass(&self, duration: Duration);
    /// A random number.
    fn random(&self) -> u64;
    /// How long ago that was.
    fn since(&self, then: Instant) -> Duration {
        self.now().saturating_duration_since(then)
    }
}

/// Where changes and refusals are written down.
pub trait Audit {
    /// One line. One that cannot be written must not stop a recovery.
    fn note(&self, entry: &Entry);
}

impl Audit for AuditLog {
    fn note(&self, entry: &Entry) {
        // it warns by itself, once
        let _ = self.record(entry);
    }
}

/// By Ceph's libraries, if they may be called, else by its commands.
fn reached(connection: Connection, command: RbdCommand) -> Rc<dyn CephCalls> {
    match connection.librbd {
        LibraryUse::Never => Rc::new(command),
        LibraryUse::ByRun | LibraryUse::Shared(_) => Rc::new(Librbd::new(&connection, command)),
    }
}

/// Ceph, and XML-RPC.
struct RealConnector;

impl Connector for RealConnector {
    fn front_end(&self, options: ClientOptions) -> Result<Rc<dyn OpenNebula>, OneError> {
        Ok(Rc::new(Client::new(options)?))
    }

    fn cluster(&self, connection: Connection) -> Rc<dyn CephCalls> {
        reached(connection.clone(), RbdCommand::new(connection))
    }

    fn peer_cluster(&self, peer: PeerConnection) -> Rc<dyn CephCalls> {
        reached(peer.connection.clone(), RbdCommand::to_peer(peer))
    }
}

/// That of this machine.
pub struct RealTime;

#[async_trait(?Send)]
impl TimeSource for RealTime {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn date(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn random(&self) -> u64 {
        rand::random()
    }
}

/// All that is outside of a run.
#[derive(Clone)]
pub struct Environment {
    /// What leads to clusters and front-ends.
    pub connector: Rc<dyn Connector>,
    /// Time, and random numbers.
    pub time: Rc<dyn TimeSource>,
    /// Where changes and refusals are written down.
    pub audit: Rc<dyn Audit>,
    /// The front-end's own folder.
    pub state_dir: PathBuf,
}

impl Environment {
    /// Those of this machine.
    pub(crate) fn real() -> Self {
        Self {
            connector: Rc::new(RealConnector),
            time: Rc::new(RealTime),
            audit: Rc::new(AuditLog::open(&config::audit_log_path())),
            state_dir: config::state_dir(),
        }
    }
}
