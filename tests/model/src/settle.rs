//! Liveness: faults end, daemons replay, reconcile runs. Does every VM that was let go of become bootable at home?

use crate::decide::{CopyThere, Due, Ended, Order, Question, Rules, Step, Told, View, due, way};
use crate::mutation::Mutation;
use crate::storage::{Mirroring, Site, other};
use crate::world::{IMAGES, Link, Lock, Vm, World};
use onemirror_protocol::{Carried, Lateness, Patience, Positions, Report, Rule, Time};

/// As many times reconcile runs, and the gate is tried, before it counts as stuck.
const ROUNDS: usize = 8;
/// As many looks in one run.
const LOOKS: usize = 24;
/// More often than that no run has to act under the same locks.
const ACTS: usize = 8;

/// Why a VM does not come home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stuck {
    /// The gate refuses for ever, by this rule.
    Refused(Rule),
    /// The gate waits for ever.
    Waits,
    /// It does and undoes the same for ever, without letting anything arrive in between.
    Circles,
    /// It boots, and lacks writes.
    Incomplete,
}

/// Whether the question makes sense now: nobody is at work, and no VM claims the images.
pub fn is_at_rest(world: &World) -> bool {
    world.vms == [Vm::Off; 2]
        && world.shared == [false; 2]
        && !world.home_lost
        && world.processes.iter().all(Option::is_none)
}

/// Ends all faults and lets everything run that runs by itself; `Err`: the VM does not become bootable at home.
pub fn settle(world: &World, mutation: Mutation) -> Result<(), Stuck> {
    let mut world = world.clone();
    world.link = Link::Whole;
    world.locks = [[Lock::Free; 2]; IMAGES];
    let mut last = Stuck::Waits;
    for _ in 0..ROUNDS {
        for site in [other(world.home), world.home] {
            replicate(&mut world);
            for image in 0..world.images.len() {
                reconcile(&mut world, site, image, mutation);
            }
        }
        replicate(&mut world);
        match gate(&mut world, mutation) {
            Ok(()) => {
                // a force to the recovery site that nobody followed costs nothing
                let only_away = world.forced_to[other(world.home)] && !world.forced_to[world.home];
                let in_vain = only_away && !world.followed && !world.by_hand;
                let complete = (0..world.images.len()).all(|image| {
                    let due = if in_vain { world.acknowledged[image] } else { world.owed[image] };
                    due & !world.images[image].copies[world.home].data == 0
                });
                return if complete { Ok(()) } else { Err(Stuck::Incomplete) };
            }
            Err(Stuck::Circles) => return Err(Stuck::Circles),
            Err(stuck) => last = stuck,
        }
    }
    Err(last)
}

/// Daemons do all they can.
fn replicate(world: &mut World) {
    for image in &mut world.images {
        for site in [0, 1] {
            // a healthy daemon resyncs at once; one without a source is no better for waiting
            if image.can_delete_for_resync(site) {
                image.delete_for_resync(site);
            }
            if image.can_copy(site) {
                image.copy(site);
            }
            while image.can_replay(site) {
                image.replay(site);
            }
        }
    }
}

/// What a daemon that runs reports, once its reports are up to date.
fn report(world: &World, image: usize, site: Site) -> Report {
    let state = &world.images[image];
    let (copy, source) = (state.copies[site], state.copies[other(site)]);
    if copy.primary || !copy.exists {
        Report::Other
    } else if !source.primary {
        Report::Stopped
    } else if state.is_split() {
        Report::SplitBrain
    } else {
        Report::Replaying
    }
}

fn views(world: &World, site: Site, images: &[usize]) -> Vec<View> {
    let there = other(site);
    // tokens travel with the writes of a journal, so nothing may hang on what daemons tell of their positions, but where
    // somebody demoted a copy without a token
    let positions = |image: usize, site: Site| match world.images[image].mode() {
        Mirroring::Journal if !world.by_hand => Positions::Unknown,
        Mirroring::Journal | Mirroring::Snapshot => world.positions(image, site),
    };
    images
        .iter()
        .map(|&image| View {
            image,
            mode: world.images[image].mode(),
            here: world.images[image].seen(site),
            there: CopyThere::Seen(world.images[image].seen(there)),
            positions: [positions(image, site), positions(image, there)],
            made_here: world.is_clone && site == world.home,
            shared_here: false,
            users_there: Some((world.vms[there], false)),
            in_touch: true,
        })
        .collect()
}

fn question(world: &World, site: Site, rules: Rules, images: &[usize], mutation: Mutation) -> Question {
    Question {
        site,
        rules,
        run: rules.run(mutation),
        told: Told::Go,
        views: views(world, site, images),
        vm_here: world.vms[site],
        mutation,
    }
}

fn reports(world: &World, site: Site) -> impl Fn((usize, bool)) -> Report {
    move |(image, here)| report(world, image, if here { site } else { other(site) })
}

/// How far the steps come; those of one image end where one is not accepted.
fn carry_out(world: &mut World, steps: &[Step]) -> Carried {
    let mut carried = Carried::Out;
    for image in 0..world.images.len() {
        for step in steps.iter().filter(|step| step.image() == image) {
            if !world.carry_out(*step) {
                carried = Carried::Halted;
                break;
            }
        }
    }
    carried
}

fn reconcile(world: &mut World, site: Site, image: usize, mutation: Mutation) {
    if world.images[image].copies[site].renamed && world.images[image].seen(other(site)).primary {
        world.images[image].stop_mirroring(site);
        return;
    }
    let question = question(world, site, Rules::Upkeep, &[image], mutation);
    let rules = match due(&question, &reports(world, site)) {
        Due::Nothing => return,
        Due::Tidy => Rules::Upkeep,
        Due::Release => Rules::Release { at_its_end: false },
    };
    let patience = |_: usize, looks: usize| {
        if looks < LOOKS / 2 { Patience::Fresh } else { Patience::Waning }
    };
    drive(world, site, rules, &[image], mutation, patience);
}

fn gate(world: &mut World, mutation: Mutation) -> Result<(), Stuck> {
    let images: Vec<usize> = (0..world.images.len()).collect();
    let patience = |idle: usize, _: usize| match idle {
        0 | 1 => Patience::Fresh,
        2 | 3 => Patience::Waning,
        _ => Patience::Exhausted,
    };
    // it waits as long as it takes, so nothing but its own doing ends it badly
    match drive(world, world.home, Rules::Gate { restore: false }, &images, mutation, patience) {
        Some(Ended::Well) => Ok(()),
        Some(Ended::Refused(rule)) => Err(Stuck::Refused(rule)),
        Some(Ended::Badly) => Err(Stuck::Circles),
        None => Err(Stuck::Waits),
    }
}

/// Drives a run that nobody is in the way of; `None`: it waits for ever, badly: it goes in circles. `patience` is told how often the run has waited
/// since its last change, and how often it has looked.
fn drive(
    world: &mut World,
    site: Site,
    rules: Rules,
    images: &[usize],
    mutation: Mutation,
    patience: impl Fn(usize, usize) -> Patience,
) -> Option<Ended> {
    let mut question = question(world, site, rules, images, mutation);
    let (mut idle, mut looks, mut acts) = (0, 0, 0);
    loop {
        let patience = patience(idle, looks);
        let lateness = if patience == Patience::Exhausted { Lateness::Over } else { Lateness::InTime };
        let (run, order) = way(&question, &reports(world, site), Time { patience, lateness });
        question.run = run;
        question.told = match order {
            Order::Look(_) => {
                looks += 1;
                question.views = views(world, site, images);
                Told::Saw
            }
            Order::AskVm => {
                question.vm_here = world.vms[site];
                Told::Saw
            }
            Order::Lock(_) => Told::Locked,
            Order::Act(_) if acts == ACTS => return Some(Ended::Badly),
            Order::Act(steps) => {
                (idle, acts) = (0, acts + 1);
                Told::Acted(carry_out(world, &steps))
            }
            // a run is given up where it waits, not between two of its changes
            Order::Unlock | Order::Narrow(_) | Order::Widen if looks >= LOOKS => return None,
            Order::Unlock | Order::Narrow(_) | Order::Widen => {
                (idle, acts) = (idle + 1, 0);
                replicate(world);
                Told::Go
            }
            Order::End(steps, ended) => {
                carry_out(world, &steps);
                return Some(ended);
            }
        };
    }
}
