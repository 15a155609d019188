//! A model of two sites in which onemirror's own decision functions ([`onemirror_protocol`]) are explored in every
//! interleaving within bounds: replication that lags, reports that lie, runs that are killed between any two
//! external calls, locks that expire, links that break, a site that is lost, and operators.

pub mod decide;
pub mod drills;
pub mod mutation;
pub mod process;
pub mod promise;
pub mod settle;
pub mod storage;
pub mod world;

use mutation::Mutation;
use process::{At, Move, Process, Purpose};
use promise::Promise;
use settle::{Stuck, is_at_rest, settle};
use stateright::{Checker, Model, Property};
use std::time::{Duration, Instant};
use storage::{Mirroring, Site, other};
use world::{Budget, Link, Lock, PROCESSES, Vm, World};

/// What is explored: images, bounds, and the rule that is left out.
#[derive(Clone, Debug)]
pub struct Drill {
    /// The images of the VM, by their mode.
    pub modes: Vec<Mirroring>,
    /// Where they belong.
    pub home: Site,
    /// They are clones, and bear the marks of the image that they are clones of.
    pub is_clone: bool,
    /// What may happen, and how often.
    pub budget: Budget,
    /// As many runs of onemirror at once.
    pub at_once: usize,
    /// As many tokens may be written on an image: what is tried again and again makes ever new ones.
    pub tokens: u16,
    /// Whether every state at rest is led to its end, to see that the VM becomes bootable at home.
    pub liveness: bool,
    /// A rule that is left out.
    pub mutation: Mutation,
    /// Only this property is looked at, and what else is broken on the way there is passed over.
    pub only: Option<Promise>,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A user starts the VM: `onevm resume`, or instantiates it.
    Boot(Site),
    /// The hypervisor starts its domain.
    Deploy(Site),
    /// It writes.
    Write(Site),
    /// It is terminated on the recovery site, powered off at home.
    Stop(Site),
    /// It is terminated at home.
    EndAtHome,
    /// `onevm recover --recreate`.
    Recreate(Site),
    /// A second VM of the site gets the image.
    Share(Site),
    /// The second VM ends.
    Unshare(Site),
    /// It is powered off on the recovery site, where nothing is released then.
    Poweroff(Site),
    /// It is suspended.
    Suspend(Site),
    /// It is resumed from saved memory.
    Restore(Site),
    /// Its terminate failed because onemirror was killed, or nobody heard its end; an operator recovers it.
    Recover(Site),
    /// The front-end is restarted: what its drivers have begun goes on, and nobody hears its end.
    Restart(Site),
    /// An operator takes a boot whose end nobody heard for failed.
    TakeForFailed(Site),
    /// A run makes its move.
    Run(usize, Move),
    /// A run is killed.
    Kill(usize),
    /// A run sleeps until a lock of its own has expired.
    Expire(usize, Site),
    /// The lock of a killed run expires.
    ExpireOrphan(usize, Site),
    /// Reconcile begins to look at an image.
    Reconcile(Site, u8),
    /// A hook of POWEROFF begins.
    Hook(Site),
    /// An operator types `onemirror failover --force`.
    Force(Site),
    /// An operator demotes an image by hand.
    DemoteByHand(Site, usize),
    /// An operator asks by hand for a new copy of an image.
    ResyncByHand(Site, usize),
    /// The daemon replays one thing.
    Replay(Site, usize),
    /// The daemon throws its copy away.
    DeleteForResync(Site, usize),
    /// The daemon copies the image as a whole.
    Copy(Site, usize),
    /// The link between the sites breaks, or a part of it.
    Cut(Link),
    /// It is mended.
    Mend,
    /// Home is lost: its hosts, its front-end, its cluster.
    LoseHome,
    /// It comes back.
    HomeReturns,
}

impl Drill {
    fn place(&self, world: &World) -> Option<usize> {
        let running = world.processes.iter().flatten().count();
        if running >= self.at_once.min(PROCESSES) {
            return None;
        }
        world.processes.iter().position(Option::is_none)
    }

    /// A run begins; `false`: there is no room for it.
    fn begin(&self, world: &mut World, site: Site, purpose: Purpose) -> bool {
        let Some(place) = self.place(world) else { return false };
        world.processes[place] = Some(Process::new(site, purpose, self.mutation));
        true
    }

    /// The gate of a second VM would let it pass beside the first: nobody is at work on the images, and they are primary.
    fn may_share(&self, world: &World, site: Site) -> bool {
        let is_free = |image: usize| world.locks[image] == [Lock::Free; 2];
        let is_writable = |image: usize| world.images[image].copies[site].is_writable();
        (0..world.images.len()).all(|image| is_free(image) && is_writable(image))
    }

    fn of_the_vm(&self, site: Site, world: &World, actions: &mut Vec<Event>) {
        let budget = world.budget;
        let has_process = |purpose: fn(&Purpose) -> bool| {
            let mut processes = world.processes.iter().flatten();
            processes.any(|process| process.site == site && !process.orphan && purpose(&process.purpose))
        };
        let has_gate = has_process(|purpose| matches!(purpose, Purpose::Gate { .. }));
        let has_terminate = has_process(|purpose| *purpose == Purpose::Terminate);
        let unheard =
            matches!(world.vms[site], Vm::Cleared | Vm::RestoreCleared) || has_gate || has_terminate;
        if budget.restarts > 0 && unheard {
            actions.push(Event::Restart(site));
        }
        let room = self.place(world).is_some();
        match world.vms[site] {
            Vm::Off if budget.boots > 0 && room => actions.push(Event::Boot(site)),
            Vm::Saved if budget.boots > 0 && room => actions.push(Event::Restore(site)),
            Vm::Cleared | Vm::RestoreCleared => actions.push(Event::Deploy(site)),
            Vm::Running => {
                if budget.writes > 0 {
                    actions.push(Event::Write(site));
                }
                if room {
                    actions.push(Event::Stop(site));
                }
                if site != world.home {
                    actions.push(Event::Poweroff(site));
                } else if budget.home_ends > 0 && room {
                    actions.push(Event::EndAtHome);
                }
                if budget.recreates > 0 {
                    actions.push(Event::Recreate(site));
                }
                if budget.shares > 0 && !world.shared[site] && self.may_share(world, site) {
                    actions.push(Event::Share(site));
                }
                if budget.suspends > 0 {
                    actions.push(Event::Suspend(site));
                }
            }
            Vm::LettingGo if !has_terminate => {
                if room {
                    actions.push(Event::Recover(site));
                }
                if budget.recreates > 0 {
                    actions.push(Event::Recreate(site));
                }
            }
            Vm::Pending if room => actions.push(Event::Boot(site)),
            // after a restart; or started by an operator's failover while all places were taken
            state @ (Vm::Booting | Vm::Restoring) if !has_gate => {
                if room {
                    let retry = if state == Vm::Booting { Event::Boot } else { Event::Restore };
                    actions.push(retry(site));
                }
                actions.push(Event::TakeForFailed(site));
            }
            _ => {}
        }
        if world.shared[site] {
            actions.push(Event::Unshare(site));
        }
    }

    /// Reconcile, a hook or an operator's force begins.
    fn of_the_commands(&self, site: Site, world: &World, actions: &mut Vec<Event>) {
        let budget = world.budget;
        let room = self.place(world).is_some();
        if budget.reconciles > 0 && room {
            for image in 0..world.images.len() {
                actions.push(Event::Reconcile(site, u8::try_from(image).unwrap_or(u8::MAX)));
            }
        }
        if budget.hooks > 0 && room && world.vms[site] == Vm::Off {
            actions.push(Event::Hook(site));
        }
        if budget.forces > 0 && room && world.vms[site] == Vm::Off {
            actions.push(Event::Force(site));
        }
    }

    /// The run in this place moves, is killed, or sleeps.
    fn of_a_run(&self, place: usize, world: &World, actions: &mut Vec<Event>) {
        let Some(process) = &world.processes[place] else { return };
        actions.extend(world.moves(place, self.mutation).into_iter().map(|how| Event::Run(place, how)));
        if world.budget.crashes > 0 && !matches!(process.at, At::FirstLook | At::Belongings) {
            actions.push(Event::Kill(place));
        }
        if world.budget.pauses > 0 {
            for (side, site) in [process.site, other(process.site)].into_iter().enumerate() {
                if process.locked[side] {
                    actions.push(Event::Expire(place, site));
                }
            }
        }
    }

    /// What the event does, but for the run that it begins.
    fn happen(&self, world: &mut World, event: Event) {
        match event {
            Event::Boot(site) => world.vms[site] = Vm::Booting,
            Event::Restore(site) => world.vms[site] = Vm::Restoring,
            Event::Deploy(site) => world.deploy(site),
            Event::Write(site) => world.write(site),
            Event::Poweroff(site) => world.vms[site] = Vm::Off,
            Event::Stop(site) if site == world.home => world.vms[site] = Vm::Off,
            Event::Stop(site) | Event::Recover(site) => world.vms[site] = Vm::LettingGo,
            Event::EndAtHome => world.vms[world.home] = Vm::LettingGo,
            // its disks are deleted, which leaves mirrored ones as they are
            Event::Recreate(site) => world.vms[site] = Vm::Pending,
            Event::Share(site) => world.shared[site] = true,
            Event::Unshare(site) => world.shared[site] = false,
            Event::Restart(site) => restart(world, site),
            Event::TakeForFailed(site) => {
                world.vms[site] = if world.vms[site] == Vm::Restoring { Vm::Saved } else { Vm::Off };
            }
            Event::Suspend(site) => suspend(world, site),
            Event::Run(place, how) => world.step(place, how, self.mutation),
            Event::Kill(place) => kill(world, place),
            Event::Expire(place, site) => expire(world, place, site),
            Event::ExpireOrphan(image, site) => world.locks[image][site] = Lock::Free,
            Event::Reconcile(..) | Event::Hook(_) | Event::Force(_) => {}
            Event::DemoteByHand(site, image) => {
                world.by_hand = true;
                world.images[image].demote(site);
            }
            Event::ResyncByHand(site, image) => {
                world.by_hand = true;
                world.images[image].request_resync(site);
            }
            Event::Replay(site, image) => world.images[image].replay(site),
            Event::DeleteForResync(site, image) => world.images[image].delete_for_resync(site),
            Event::Copy(site, image) => world.images[image].copy(site),
            Event::Cut(link) => world.link = link,
            Event::Mend => world.link = Link::Whole,
            Event::LoseHome => lose_home(world),
            Event::HomeReturns => {
                world.home_lost = false;
                // what is forced while it comes back is at the operator's risk
                world.home_returned = world.force_completed;
            }
        }
    }
}

/// What operators do to an image by hand, and what the site's daemon does.
fn of_an_image(site: Site, number: usize, world: &World, actions: &mut Vec<Event>) {
    let image = &world.images[number];
    if world.budget.hand_demotions > 0
        && !world.vms[site].is_active()
        && image.seen(site).is_named()
        && image.copies[site].primary
    {
        actions.push(Event::DemoteByHand(site, number));
    }
    let [here, there] = [image.seen(site), image.seen(1 - site)];
    let stands_behind = here.exists && !here.primary && there.exists && there.primary;
    if world.budget.hand_resyncs > 0 && stands_behind {
        actions.push(Event::ResyncByHand(site, number));
    }
    if !world.replicates() {
        return;
    }
    if image.can_replay(site) {
        actions.push(Event::Replay(site, number));
    }
    if image.can_delete_for_resync(site) {
        actions.push(Event::DeleteForResync(site, number));
    }
    if image.can_copy(site) {
        actions.push(Event::Copy(site, number));
    }
}

fn of_orphaned_locks(world: &World, actions: &mut Vec<Event>) {
    for (image, locks) in world.locks.iter().enumerate() {
        for (site, lock) in locks.iter().enumerate() {
            if matches!(lock, Lock::Orphaned(_)) {
                actions.push(Event::ExpireOrphan(image, site));
            }
        }
    }
}

/// Home is lost and comes back; the link breaks and is mended.
fn of_home_and_the_link(world: &World, actions: &mut Vec<Event>) {
    let budget = world.budget;
    if world.home_lost {
        actions.push(Event::HomeReturns);
    } else if budget.losses > 0 {
        actions.push(Event::LoseHome);
    }
    if world.link != Link::Whole {
        actions.push(Event::Mend);
    } else if !world.home_lost {
        let cuts = [
            (budget.cuts, Link::Broken),
            (budget.cluster_cuts, Link::ClusterSilent),
            (budget.front_end_cuts, Link::FrontEndSilent),
        ];
        actions.extend(cuts.into_iter().filter(|cut| cut.0 > 0).map(|cut| Event::Cut(cut.1)));
    }
}

/// What may happen only so often has happened once more.
fn spend(world: &mut World, event: Event) {
    let (vms, budget) = (world.vms, &mut world.budget);
    let left = match event {
        // a repeat of a boot that was begun is part of it
        Event::Boot(site) if vms[site] == Vm::Off => &mut budget.boots,
        Event::Restore(site) if vms[site] == Vm::Saved => &mut budget.boots,
        Event::Write(_) => &mut budget.writes,
        Event::EndAtHome => &mut budget.home_ends,
        Event::Recreate(_) => &mut budget.recreates,
        Event::Share(_) => &mut budget.shares,
        Event::Restart(_) => &mut budget.restarts,
        Event::Suspend(_) => &mut budget.suspends,
        Event::Kill(_) => &mut budget.crashes,
        Event::Expire(..) => &mut budget.pauses,
        Event::Reconcile(..) => &mut budget.reconciles,
        Event::Hook(_) => &mut budget.hooks,
        Event::Force(_) => &mut budget.forces,
        Event::DemoteByHand(..) => &mut budget.hand_demotions,
        Event::ResyncByHand(..) => &mut budget.hand_resyncs,
        Event::Cut(Link::Broken) => &mut budget.cuts,
        Event::Cut(Link::ClusterSilent) => &mut budget.cluster_cuts,
        Event::Cut(Link::FrontEndSilent) => &mut budget.front_end_cuts,
        Event::LoseHome => &mut budget.losses,
        _ => return,
    };
    *left -= 1;
}

/// The run that begins with the event, and where.
fn begun_by(event: Event, home: Site) -> Option<(Site, Purpose)> {
    match event {
        Event::Boot(site) => Some((site, Purpose::Gate { restore: false })),
        Event::Restore(site) => Some((site, Purpose::Gate { restore: true })),
        Event::Stop(site) if site != home => Some((site, Purpose::Terminate)),
        Event::Recover(site) => Some((site, Purpose::Terminate)),
        Event::EndAtHome => Some((home, Purpose::Terminate)),
        Event::Reconcile(site, image) => Some((site, Purpose::Reconcile(image))),
        Event::Hook(site) => Some((site, Purpose::Hook)),
        Event::Force(site) => Some((site, Purpose::Force)),
        _ => None,
    }
}

/// The front-end is restarted: nobody waits for its drivers any more.
fn restart(world: &mut World, site: Site) {
    for process in world.processes.iter_mut().flatten() {
        let has_driver = matches!(process.purpose, Purpose::Gate { .. } | Purpose::Terminate);
        process.orphan |= process.site == site && has_driver;
    }
    // a domain that is up by then is found by monitoring, as if nothing had been
    world.vms[site] = match world.vms[site] {
        Vm::Cleared => Vm::Booting,
        Vm::RestoreCleared => Vm::Restoring,
        other => other,
    };
}

/// The VM's memory belongs to what its disks hold now.
fn suspend(world: &mut World, site: Site) {
    world.vms[site] = Vm::Saved;
    for (image, saved) in world.images.iter().zip(&mut world.saved[site]) {
        *saved = image.copies[site].data;
    }
}

/// The locks that the run in this place has there are free again, and it does not know.
fn expire(world: &mut World, place: usize, site: Site) {
    for locks in &mut world.locks {
        if locks[site] == Lock::Held(u8::try_from(place).unwrap_or(u8::MAX)) {
            locks[site] = Lock::Free;
        }
    }
}

/// The run in this place is killed, and its locks stay behind.
fn kill(world: &mut World, place: usize) {
    let Some(process) = world.processes[place].take() else { return };
    let own = Lock::Held(u8::try_from(place).unwrap_or(u8::MAX));
    for lock in world.locks.iter_mut().flatten() {
        if *lock == own {
            *lock = Lock::Orphaned(process.site);
        }
    }
    match process.purpose {
        _ if process.orphan => {}
        // the transfer fails: a failed boot uses no disk
        Purpose::Gate { restore: false } => world.vms[process.site] = Vm::Off,
        Purpose::Gate { restore: true } => world.vms[process.site] = Vm::Saved,
        // EPILOG_FAILURE: stays until an operator recovers it
        Purpose::Terminate | Purpose::Hook | Purpose::Reconcile(_) | Purpose::Force => {}
    }
}

/// Home is down, with everything that ran there.
fn lose_home(world: &mut World) {
    world.home_lost = true;
    let home = world.home;
    world.shared[home] = false;
    for sites in &mut world.in_touch {
        sites[home] = false;
    }
    for place in 0..PROCESSES {
        if world.processes[place].as_ref().is_some_and(|process| process.site == home) {
            kill(world, place);
        }
    }
    // oned finds the domain gone; saved memory is on a disk
    if world.vms[home] != Vm::Saved {
        world.vms[home] = Vm::Off;
    }
}

impl Model for Drill {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.modes, self.home, self.is_clone, self.budget)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Event>) {
        if world.violation.is_some() {
            return;
        }
        for site in [0, 1] {
            if world.is_up(site) {
                self.of_the_vm(site, world, actions);
                self.of_the_commands(site, world, actions);
                (0..world.images.len()).for_each(|image| of_an_image(site, image, world, actions));
            }
        }
        for place in 0..PROCESSES {
            self.of_a_run(place, world, actions);
        }
        of_orphaned_locks(world, actions);
        of_home_and_the_link(world, actions);
    }

    fn next_state(&self, last: &World, event: Event) -> Option<World> {
        let mut world = last.clone();
        spend(&mut world, event);
        self.happen(&mut world, event);
        if let Some((site, purpose)) = begun_by(event, world.home)
            && !self.begin(&mut world, site, purpose)
        {
            return None;
        }
        if let Some(only) = self.only {
            world.violation = world.violation.filter(|violation| only.forbids(*violation));
        }
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        let few =
            |token: Option<storage::Token>| token.is_none_or(|token| token.sequence % 1000 <= self.tokens);
        world.images.iter().all(|image| image.copies.iter().all(|copy| few(copy.metadata.token)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let looked_at =
            Promise::ALL.into_iter().filter(|promise| self.only.is_none_or(|only| only == *promise));
        looked_at.map(Promise::property).collect()
    }
}

impl Drill {
    /// Why the VM would not become bootable at home if all faults ended now.
    pub fn stuck(&self, world: &World) -> Option<Stuck> {
        settle(world, self.mutation).err()
    }
}

/// What an exploration found.
#[derive(Debug)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// Transitions, those to known states included.
    pub transitions: usize,
    /// The longest shortest path to a state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Everything within the bounds was seen.
    pub exhaustive: bool,
    /// The property that does not hold, and the shortest way there.
    pub found: Option<(Promise, Vec<String>)>,
}

/// One line of a path, for people.
fn describe(world: &World, event: Event) -> String {
    let Event::Run(place, how) = event else { return format!("{event:?}") };
    let Some(process) = &world.processes[place] else { return String::new() };
    let site = decide::NAMES[process.site];
    match (process.at, process.steps.first()) {
        (At::Step, Some(step)) => format!("{site} {:?}: {step:?}", process.purpose),
        (At::Decide, _) => format!("{site} {:?}: decides {how:?}", process.purpose),
        (at, _) => format!(
            "{site} {:?}: {at:?} {}",
            process.purpose,
            if matches!(how, Move::Fail(_)) { "in vain" } else { "" }
        ),
    }
}

/// Explores breadth first, with as many threads, until all is seen, something is found, or there are more states
/// than `limit`.
pub fn explore(drill: &Drill, threads: usize, limit: Option<usize>) -> Outcome {
    let started = Instant::now();
    let mut builder = drill.clone().checker().threads(threads).finish_when(stateright::HasDiscoveries::Any);
    if let Some(limit) = limit {
        builder = builder.target_state_count(limit);
    }
    let checker = builder.spawn_bfs().join();
    let found = checker.discoveries().into_iter().next().and_then(|(name, path)| {
        let promise = Promise::ALL.into_iter().find(|promise| promise.name() == name)?;
        let last = path.last_state().clone();
        let mut steps: Vec<String> =
            path.into_vec().into_iter().filter_map(|(world, event)| Some(describe(&world, event?))).collect();
        let stuck = is_at_rest(&last).then(|| drill.stuck(&last));
        steps.push(format!("then: {:?}, {stuck:?}, {:?}, {:#?}", last.violation, last.vms, last.images));
        Some((promise, steps))
    });
    let exhaustive = found.is_none() && limit.is_none_or(|limit| checker.state_count() < limit);
    Outcome {
        states: checker.unique_state_count(),
        transitions: checker.state_count(),
        depth: checker.max_depth(),
        took: started.elapsed(),
        exhaustive,
        found,
    }
}
