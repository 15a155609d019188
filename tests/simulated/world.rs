//! The model's world, as the product meets it.

use super::ceph::SimulatedCeph;
use super::front_end::SimulatedFrontEnd;
use async_trait::async_trait;
use jiff::Timestamp;
use onemirror::audit::Entry;
use onemirror::ceph::{CephCalls, Connection, PeerConnection};
use onemirror::opennebula::{ClientOptions, OneError, OpenNebula};
use onemirror::sites::{Audit, Connector, TimeSource};
use onemirror_model::storage::{Mark, Metadata, Mirroring, Site, Token};
use onemirror_model::world::{Budget, Vm, World};
use onemirror_protocol::{
    BOOTED_KEY, FORCED_KEY, HOME_KEY, Marks, Named, RELEASE_KEY, Seal, TOKEN_KEY, home_written, written_for,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

pub(crate) const NAMES: [&str; 2] = ["site-a", "site-b"];
pub(crate) const GLOBAL_ID: &str = "77aa";
/// The VM of site-a, and that of site-b.
pub(crate) const VM_HERE: i32 = 3;
pub(crate) const VMS: [i32; 2] = [VM_HERE, 5];
/// How long every call takes.
const A_CALL: Duration = Duration::from_millis(50);
/// How long a daemon takes to replay one thing.
const A_REPLAY: Duration = Duration::from_secs(1);

/// Who has a lock, and until when.
pub(crate) struct Holder {
    pub(crate) cookie: String,
    pub(crate) until: Option<Instant>,
}

/// The world, and what the run has done to it.
pub(crate) struct Sim {
    pub(crate) world: World,
    /// By site and name, on the image's object.
    pub(crate) locks: BTreeMap<(Site, String), Holder>,
    /// The random parts of closed tokens: the model knows them by their numbers.
    closed: Vec<String>,
    pub(crate) changes: Vec<String>,
    calls: Vec<String>,
    audited: Vec<String>,
    pub(crate) refuses_demotion: bool,
}

#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<Sim>>);

impl Sim {
    /// The VM of site-b has run on the image, and is off; its last write has not come to site-a yet, whose VM boots.
    pub(crate) fn let_go_of_by_site_b() -> Shared {
        let mut world = World::new(&[Mirroring::Journal], 0, false, Budget::default());
        assert!(world.images[0].demote(0));
        world.images[0].replay(1);
        assert!(world.promote(0, 1, false));
        assert!(world.images[0].set_metadata(1, |metadata| {
            metadata.token = Some(Token { sequence: 2, site: 1, closed: 0 });
            metadata.booted = Some(Mark { sequence: 2, site: 1, vm: 1 });
        }));
        world.write(1);
        world.images[0].replay(0);
        world.images[0].replay(0);
        assert!(world.images[0].can_replay(0) && world.images[0].copies[0].metadata.token.is_some());
        world.vms = [Vm::Booting, Vm::Off];
        let sim = Self {
            world,
            locks: BTreeMap::new(),
            closed: Vec::new(),
            changes: Vec::new(),
            calls: Vec::new(),
            audited: Vec::new(),
            refuses_demotion: false,
        };
        Shared(Rc::new(RefCell::new(sim)))
    }

    /// A copy's metadata as `rbd` tells it.
    pub(crate) fn metadata(&self, site: Site) -> BTreeMap<String, String> {
        let Metadata { token, booted, release, forced, home } = self.world.images[0].seen(site).metadata;
        let marks = [(BOOTED_KEY, booted), (RELEASE_KEY, release), (FORCED_KEY, forced)];
        let mut texts: BTreeMap<String, String> = marks
            .into_iter()
            .filter_map(|(key, mark)| Some((key.to_owned(), written_for(&real_mark(mark?), GLOBAL_ID))))
            .collect();
        texts.extend(
            token.map(|token| (TOKEN_KEY.to_owned(), written_for(&self.real_token(token), GLOBAL_ID))),
        );
        let written = |home: Site| home_written(NAMES[home], Named::Global(GLOBAL_ID));
        texts.extend(home.map(|home| (HOME_KEY.to_owned(), written(home))));
        texts
    }

    /// `rbd image-meta set`; `false`: the image is read-only.
    pub(crate) fn set_metadata(&mut self, site: Site, key: &str, text: &str) -> bool {
        let marks = Marks::read(&BTreeMap::from([(key.to_owned(), text.to_owned())]), &[GLOBAL_ID]);
        let token = marks.token.token().map(|token| self.model_token(token));
        let mark = |mark: &Option<onemirror_protocol::Mark>| mark.as_ref().map(model_mark);
        let (booted, release, forced) = (mark(&marks.booted), mark(&marks.release), mark(&marks.forced));
        self.world.images[0].set_metadata(site, |metadata| {
            metadata.token = token.or(metadata.token);
            metadata.booted = booted.or(metadata.booted);
            metadata.release = release.or(metadata.release);
            metadata.forced = forced.or(metadata.forced);
        })
    }

    fn real_token(&self, token: Token) -> onemirror_protocol::Token {
        let seal = match token.closed {
            0 => Seal::Open,
            number => Seal::Closed(self.closed[usize::from(number) - 1].clone()),
        };
        onemirror_protocol::Token { sequence: token.sequence.into(), site: NAMES[token.site].into(), seal }
    }

    fn model_token(&mut self, token: &onemirror_protocol::Token) -> Token {
        let closed = match &token.seal {
            Seal::Open => 0,
            Seal::Closed(id) => {
                let known = self.closed.iter().position(|known| known == id);
                let place = known.unwrap_or_else(|| {
                    self.closed.push(id.clone());
                    self.closed.len() - 1
                });
                u8::try_from(place + 1).unwrap()
            }
        };
        Token { sequence: token.sequence.try_into().unwrap(), site: site_of(&token.site), closed }
    }

    /// Forgets the locks that have run out.
    pub(crate) fn expire(&mut self) {
        let now = Instant::now();
        self.locks.retain(|_, holder| holder.until.is_none_or(|until| until > now));
    }
}

fn site_of(name: &str) -> Site {
    NAMES.iter().position(|known| *known == name).unwrap()
}

fn real_mark(mark: Mark) -> onemirror_protocol::Mark {
    let (sequence, site, vm) = (mark.sequence.into(), NAMES[mark.site].into(), VMS[mark.vm]);
    onemirror_protocol::Mark { sequence, site, vm, others: Default::default() }
}

fn model_mark(mark: &onemirror_protocol::Mark) -> Mark {
    let vm = VMS.iter().position(|vm| *vm == mark.vm).unwrap();
    Mark { sequence: mark.sequence.try_into().unwrap(), site: site_of(&mark.site), vm }
}

impl Shared {
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.0.borrow_mut().world)
    }

    /// A call arrives, some time after it was made.
    pub(crate) async fn called<T>(&self, call: String, work: impl FnOnce(&mut Sim) -> T) -> T {
        tokio::time::sleep(A_CALL).await;
        let mut sim = self.0.borrow_mut();
        sim.expire();
        sim.calls.push(call);
        work(&mut sim)
    }

    /// What the daemons of both sites do.
    pub(crate) async fn daemons(&self) {
        loop {
            tokio::time::sleep(A_REPLAY).await;
            self.with(|world| {
                for site in 0..2 {
                    if world.images[0].can_replay(site) {
                        world.images[0].replay(site);
                    }
                }
            });
        }
    }

    /// The copy of that site is locked by a run of site-b.
    pub(crate) fn lock_elsewhere(&self, site: Site, duration: Duration) {
        let (cookie, until) = ("site-b/boot/ns/77/1/0123".to_owned(), Some(Instant::now() + duration));
        self.0.borrow_mut().locks.insert((site, "onemirror".to_owned()), Holder { cookie, until });
    }

    pub(crate) fn refuse_demotion(&self) {
        self.0.borrow_mut().refuses_demotion = true;
    }

    pub(crate) fn changes(&self) -> Vec<String> {
        self.0.borrow().changes.clone()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.borrow().calls.clone()
    }

    pub(crate) fn audited(&self) -> Vec<String> {
        self.0.borrow().audited.clone()
    }

    /// Whether the copy of each site is primary.
    pub(crate) fn roles(&self) -> [bool; 2] {
        self.with(|world| world.images[0].copies.map(|copy| copy.primary))
    }

    /// The token of each copy.
    pub(crate) fn tokens(&self) -> [String; 2] {
        let sim = self.0.borrow();
        [0, 1].map(|site| {
            let token = sim.world.images[0].seen(site).metadata.token;
            token.map(|token| sim.real_token(token).to_string()).unwrap_or_default()
        })
    }

    pub(crate) fn locks_are_free(&self) -> bool {
        self.0.borrow().locks.is_empty()
    }

    pub(crate) fn connector(&self) -> Rc<dyn Connector> {
        Rc::new(self.clone())
    }

    pub(crate) fn time(&self) -> Rc<dyn TimeSource> {
        Rc::new(SimulatedTime(Cell::new(0)))
    }

    pub(crate) fn audit(&self) -> Rc<dyn Audit> {
        Rc::new(self.clone())
    }
}

impl Connector for Shared {
    fn front_end(&self, options: ClientOptions) -> Result<Rc<dyn OpenNebula>, OneError> {
        let site = usize::from(options.endpoint.contains("site-b"));
        Ok(Rc::new(SimulatedFrontEnd { site, sim: self.clone() }))
    }

    fn cluster(&self, connection: Connection) -> Rc<dyn CephCalls> {
        Rc::new(SimulatedCeph { site: site_of(&connection.site), sim: self.clone() })
    }

    fn peer_cluster(&self, peer: PeerConnection) -> Rc<dyn CephCalls> {
        self.cluster(peer.connection)
    }
}

impl Audit for Shared {
    fn note(&self, entry: &Entry) {
        let step = entry.step.as_deref().unwrap_or_default();
        let outcome = format!("{:?}", entry.outcome).to_lowercase();
        self.0.borrow_mut().audited.push(format!("{step} {outcome}"));
    }
}

/// Chance from a seed.
struct SimulatedTime(Cell<u64>);

#[async_trait(?Send)]
impl TimeSource for SimulatedTime {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn date(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn random(&self) -> u64 {
        // splitmix64
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = self.0.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
