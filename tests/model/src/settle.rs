//! Liveness: faults end, daemons replay, reconcile runs. Does every VM that was let go of become bootable at home?

use crate::decide::{Answer, CopyThere, Question, Step, View, answer};
use crate::mutation::Mutation;
use crate::storage::{Site, other};
use crate::world::{IMAGES, Lock, Vm, World};
use onemirror_protocol::{Patience, Report, Rule};

/// As many times reconcile runs, and the gate is tried, before it counts as stuck.
const ROUNDS: usize = 8;
/// As many looks in one run.
const LOOKS: usize = 24;

/// Why a VM does not come home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stuck {
    /// The gate refuses for ever, by this rule.
    Refused(Option<Rule>),
    /// The gate waits for ever.
    Waits,
    /// It boots, and lacks writes.
    Incomplete,
}

/// Whether the question makes sense now: nobody is at work, and no VM claims the images.
pub fn is_at_rest(world: &World) -> bool {
    world.vms == [Vm::Off; 2] && !world.home_lost && world.processes.iter().all(Option::is_none)
}

/// Ends all faults and lets everything run that runs by itself; `Err`: the VM does not become bootable at home.
pub fn settle(world: &World, mutation: Mutation) -> Result<(), Stuck> {
    let mut world = world.clone();
    world.cut = false;
    world.locks = [[Lock::Free; 2]; IMAGES];
    let mut last = Stuck::Waits;
    for _ in 0..ROUNDS {
        for site in [1, 0] {
            replicate(&mut world);
            for image in 0..world.images.len() {
                reconcile(&mut world, site, image, mutation);
            }
        }
        replicate(&mut world);
        match gate(&mut world, mutation) {
            Ok(()) => {
                // a force to the recovery site that nobody followed costs nothing
                let in_vain = world.forced_to == [false, true] && !world.followed && !world.by_hand;
                let complete = (0..world.images.len()).all(|image| {
                    let due = if in_vain { world.acknowledged[image] } else { world.owed[image] };
                    due & !world.images[image].copies[0].data == 0
                });
                return if complete { Ok(()) } else { Err(Stuck::Incomplete) };
            }
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
    images
        .iter()
        .map(|&image| View {
            image,
            mode: world.images[image].mode(),
            here: world.images[image].seen(site),
            there: CopyThere::Seen(world.images[image].seen(there)),
            positions: [world.positions(image, site), world.positions(image, there)],
            vm_there: Some(world.vms[there]),
            in_touch: true,
        })
        .collect()
}

fn ask(
    world: &World,
    site: Site,
    images: &[usize],
    question: Question,
    patience: Patience,
    mutation: Mutation,
) -> Answer {
    let reports = |(image, here): (usize, bool)| {
        let of = if here { site } else { other(site) };
        report(world, image, of)
    };
    answer(site, question, &views(world, site, images), &reports, patience, mutation)
}

fn carry_out(world: &mut World, steps: &[Step]) {
    for image in 0..world.images.len() {
        for step in steps.iter().filter(|step| step.image() == image) {
            if !world.carry_out(*step) {
                break;
            }
        }
    }
}

fn reconcile(world: &mut World, site: Site, image: usize, mutation: Mutation) {
    let upkeep = Question::Upkeep { in_use: false, running: false };
    let release = Question::Release { in_use: false };
    let mut question = upkeep;
    if world.images[image].copies[site].renamed && world.images[image].seen(other(site)).primary {
        world.images[image].stop_mirroring(site);
        return;
    }
    for look in 0..LOOKS {
        let patience = if look < LOOKS / 2 { Patience::Fresh } else { Patience::Waning };
        match ask(world, site, &[image], question, patience, mutation) {
            Answer::Act(steps) => carry_out(world, &steps),
            Answer::GoOn if question == upkeep => question = release,
            Answer::Wait => replicate(world),
            _ => return,
        }
    }
}

fn gate(world: &mut World, mutation: Mutation) -> Result<(), Stuck> {
    let images: Vec<usize> = (0..world.images.len()).collect();
    let question = Question::Gate { restore: false, both_locks: true };
    let mut idle = 0;
    for _ in 0..LOOKS {
        let patience = match idle {
            0 | 1 => Patience::Fresh,
            2 | 3 => Patience::Waning,
            _ => Patience::Exhausted,
        };
        match ask(world, 0, &images, question, patience, mutation) {
            Answer::Done => return Ok(()),
            Answer::Act(steps) => {
                carry_out(world, &steps);
                idle = 0;
            }
            Answer::Refuse(steps, rule) => {
                carry_out(world, &steps);
                return Err(Stuck::Refused(rule));
            }
            Answer::Wait | Answer::LockThere | Answer::GoOn | Answer::TakeOver(_) => {
                idle += 1;
                replicate(world);
            }
        }
    }
    Err(Stuck::Waits)
}
