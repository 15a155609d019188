//! The two sites of a run: reached, looked at, locked, changed. What comes next [`onemirror_protocol`] says.

pub mod activity;
mod clock;
mod cluster;
pub(crate) mod copies;
pub(crate) mod drive;
pub(crate) mod error;
pub(crate) mod force;
mod front_end;
pub mod images;
pub(crate) mod journal;
pub(crate) mod locks;
pub mod look;
mod outside;
pub(crate) mod places;
pub(crate) mod pools;
pub(crate) mod reach;
pub(crate) mod set_aside;
mod silence;
mod site;
pub(crate) mod start;
pub(crate) mod steps;
pub(crate) mod users;

pub use activity::{activity, boot_kind, is_running, runs_again};
pub use cluster::Cluster;
pub use error::{FrontEndError, RunError, first_sentence, is_own_refusal};
pub use force::ForceOrder;
pub use front_end::FrontEnd;
pub use images::{VmImage, VmImages};
pub use outside::{Audit, Connector, Environment, RealTime, TimeSource};
pub use pools::NotReached;
pub use reach::local_client;
pub use site::Site;
pub use start::{ByHand, Start, start_of};

use crate::config::{Config, ConfiguredRole};
use crate::opennebula::ClientOptions;
use crate::state::RunsSign;
use locks::Owner;
use onemirror_protocol::{Residence, Side, SiteRole};
use std::cell::Cell;
use std::ops::Index;
use std::path::Path;
use std::time::Duration;

/// How many images are looked at side by side: each is a process or two, on front-ends with few cores.
pub(crate) const CONCURRENCY: usize = 4;

/// The two sites of a run, the policy that it follows, and what is outside of it.
pub struct Sites {
    /// This one.
    pub here: Site,
    /// The peer.
    pub there: Site,
    config: Config,
    environment: Environment,
    /// How long the slowest look of this run took.
    slowest_look: Cell<Duration>,
    sign_of_life: RunsSign,
    /// The event on whose behalf this runs, for the audit log.
    event: String,
}

impl Index<Side> for Sites {
    type Output = Site;

    fn index(&self, side: Side) -> &Site {
        match side {
            Side::Here => &self.here,
            Side::There => &self.there,
        }
    }
}

impl Sites {
    /// The two sites, for one run on behalf of `event`.
    pub fn new(config: Config, event: &str) -> Result<Self, RunError> {
        Self::within(config, event, Environment::real())
    }

    /// The same in another environment.
    pub fn within(config: Config, event: &str, environment: Environment) -> Result<Self, RunError> {
        let site = |name: &str, options: Box<dyn Fn() -> Result<ClientOptions, FrontEndError>>| {
            let connector = environment.connector.clone();
            let reach = move || Ok(FrontEnd::new(connector.front_end(options()?)?));
            Site::new(name.to_owned(), Box::new(reach), &environment.time)
        };
        let (own, other) = (config.clone(), config.clone());
        let here = site(&config.site.name, Box::new(move || reach::options_here(Some(&own))));
        let there = site(&config.peer.name, Box::new(move || reach::options_there(&other)));
        // without the own one nothing begins
        here.reached()?;
        let slowest_look = Cell::new(Duration::ZERO);
        let sign_of_life = RunsSign::default();
        Ok(Self { here, there, slowest_look, sign_of_life, event: event.to_owned(), environment, config })
    }

    /// The configuration of this run.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn time(&self) -> &dyn TimeSource {
        &*self.environment.time
    }

    /// The front-end's own folder.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.environment.state_dir
    }

    /// The random part of a token that is closed now.
    pub(crate) fn closing_id(&self) -> String {
        format!("{:016x}", self.time().random())
    }

    /// Who takes locks.
    pub(crate) fn owner(&self) -> Owner {
        let time = self.environment.time.clone();
        Owner::this_process(self.here.name(), self.state_dir(), time, &self.sign_of_life)
    }

    /// This site, as far as homes of images go.
    pub(crate) fn residence(&self) -> Residence<'_> {
        let role = match self.config.site.role {
            ConfiguredRole::Home => SiteRole::Home,
            ConfiguredRole::Recovery => SiteRole::Recovery,
        };
        Residence { here: self.here.name(), there: self.there.name(), role }
    }
}
