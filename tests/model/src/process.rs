//! Runs of onemirror: the product's own [`Run`], and what each of its orders comes to, one external call at a time.
//! Between any two of them others act, and the run may be killed.

use crate::decide::{
    CopyThere, Due, Ended, Order, Question, Rules, Step, Told, View, belongs_here, dues, ways,
};
use crate::mutation::Mutation;
use crate::storage::{Copy, Mirroring, Site, other};
use crate::world::{IMAGES, Lock, Violation, Vm, World};
use onemirror_protocol::{Carried, Depth, Positions, Run, Side, Trouble};
use std::rc::Rc;

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The gate of a VM that boots.
    Gate {
        /// From saved memory.
        restore: bool,
    },
    /// `mvds` or `delete` of a VM that ends.
    Terminate,
    /// A hook of POWEROFF where the policy releases then.
    Hook,
    /// Reconcile, one image.
    Reconcile(u8),
    /// `failover --force`.
    Force,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Reconcile: about to look at everything once, without a lock, to see what is due.
    FirstLook,
    /// A terminate: about to look which images belong to the other site.
    Belongings,
    /// About to look without a lock.
    Begin,
    /// About to lock the copies here, whatever has happened since that look.
    LockHere,
    /// About to lock the copies there.
    LockThere,
    /// About to ask the own front-end for its VM.
    LookVmHere,
    /// About to look at the copies here.
    LookHere,
    /// About to look at the copies there.
    LookThere,
    /// About to ask the other front-end.
    LookVmThere,
    /// About to be told what came of it.
    Decide,
    /// About to carry out the next step.
    Step,
    /// Reconcile: about to lock a copy that is to be set aside, which a killed run has begun with.
    Finish,
}

/// What follows the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// It is told how far they came.
    Tell,
    /// The end.
    End(Ended),
}

/// A run of onemirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Where it runs.
    pub site: Site,
    /// What for.
    pub purpose: Purpose,
    /// The rules that it goes by now.
    pub rules: Rules,
    /// The product's own run.
    pub run: Run,
    /// The front-end that started it was restarted: nobody waits for its answer.
    pub orphan: bool,
    /// Where it is.
    pub at: At,
    /// How deep it looks.
    pub depth: Depth,
    /// What it is told next.
    pub told: Told,
    /// It took the locks here, and there; whether they are still its own is another question.
    pub locked: [bool; 2],
    /// The images that it is about, one bit each.
    pub about: u8,
    /// What it has seen of the VM here.
    pub vm_here: Vm,
    /// What it has seen.
    pub views: [Option<View>; IMAGES],
    /// What it is about to do.
    pub steps: Vec<Step>,
    /// What follows.
    pub then: Then,
    /// A step found the world changed, or a lock gone.
    pub carried: Carried,
}

impl Process {
    /// A run that begins.
    pub fn new(site: Site, purpose: Purpose, mutation: Mutation) -> Self {
        let (rules, about) = match purpose {
            Purpose::Gate { restore } => (Rules::Gate { restore }, u8::MAX),
            Purpose::Terminate => (Rules::Release { at_its_end: true }, u8::MAX),
            Purpose::Hook => (Rules::Release { at_its_end: false }, u8::MAX),
            Purpose::Reconcile(image) => (Rules::Upkeep, 1 << image),
            Purpose::Force => (Rules::Force, u8::MAX),
        };
        Self {
            site,
            purpose,
            rules,
            run: rules.run(mutation),
            orphan: false,
            at: match purpose {
                Purpose::Reconcile(_) => At::FirstLook,
                Purpose::Terminate => At::Belongings,
                Purpose::Gate { .. } | Purpose::Hook | Purpose::Force => At::Begin,
            },
            depth: Depth::Boot,
            told: Told::Go,
            locked: [false; 2],
            about,
            vm_here: Vm::Off,
            views: [None; IMAGES],
            steps: Vec::new(),
            then: Then::Tell,
            carried: Carried::Out,
        }
    }

    fn covers(&self, image: usize) -> bool {
        self.about & 1 << image != 0
    }

    fn is_release(&self) -> bool {
        matches!(self.rules, Rules::Release { .. })
    }

    /// It begins again, with nothing seen.
    fn begin(&mut self) {
        (self.at, self.told, self.vm_here) = (At::Begin, Told::Go, Vm::Off);
        self.views = [None; IMAGES];
    }

    fn is_about_to(&mut self, steps: Vec<Step>, then: Then) {
        (self.steps, self.then, self.at) = (steps, then, At::Step);
    }

    /// The step cuts off a VM of the other site that nobody could ask about: an operator's force takes that upon itself.
    fn cuts_off(&self, step: Step) -> bool {
        let is_there = matches!(step, Step::Demote(at, _) if at != self.site);
        let was_silent = self.views[step.image()].is_some_and(|view| view.users_there.is_none());
        self.purpose == Purpose::Force && is_there && was_silent
    }

    /// The other site's front-end had told of a VM there when the step was decided.
    fn was_told_of_a_user(&self, step: Step) -> bool {
        let told = self.views[step.image()].and_then(|view| view.users_there);
        told.is_some_and(|(vm, shared)| vm.is_active() && vm != Vm::Saved || shared)
    }

    fn ways(&self, mutation: Mutation) -> Rc<Vec<(Run, Order)>> {
        let has_seen = self.told == Told::Saw;
        let views = if has_seen { self.views.iter().flatten().copied().collect() } else { Vec::new() };
        let vm_here = if has_seen { self.vm_here } else { Vm::Off };
        let Self { site, rules, run, told, .. } = *self;
        ways(Question { site, rules, run, told, views, vm_here, mutation })
    }
}

/// What a run may do next; the number says which of several ways it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// Its next call.
    Go(u8),
    /// A lock is not to be had, and it goes this way.
    Fail(u8),
    /// Its next call is killed half-way.
    Tear,
}

fn numbered<T>(ways: &[T]) -> impl Iterator<Item = u8> {
    (0..ways.len()).filter_map(|index| u8::try_from(index).ok())
}

impl World {
    fn images_of(&self, process: &Process) -> Vec<usize> {
        (0..self.images.len()).filter(|image| process.covers(*image)).collect()
    }

    /// What the run in this place may do.
    pub fn moves(&self, place: usize, mutation: Mutation) -> Vec<Move> {
        let Some(process) = &self.processes[place] else { return Vec::new() };
        let fails = |process: &Process| {
            let met = Process { told: Told::Failed(Trouble::Passing), ..process.clone() };
            numbered(&met.ways(mutation)).map(Move::Fail).collect()
        };
        match process.at {
            At::FirstLook => {
                let mut looks = process.clone();
                let mut world = self.clone();
                if world.is_being_set_aside(&looks) {
                    return vec![Move::Go(0)];
                }
                numbered(&world.first_look(&mut looks, mutation)).map(Move::Go).collect()
            }
            At::Begin => {
                let mut world = self.clone();
                let mut looks = process.clone();
                let ways = world.begin(&mut looks, mutation);
                // to wait is to stay where it is
                numbered(&ways)
                    .filter(|number| ways.get(usize::from(*number)).is_some_and(|way| way.1 != Order::Unlock))
                    .map(Move::Go)
                    .collect()
            }
            At::LockHere | At::LockThere | At::Finish => {
                let site = if process.at == At::LockThere { other(process.site) } else { process.site };
                let free = self.can_lock(process, site, mutation);
                match process.at {
                    _ if free => vec![Move::Go(0)],
                    At::Finish => vec![Move::Fail(0)],
                    _ => fails(process),
                }
            }
            At::Decide => numbered(&process.ways(mutation)).map(Move::Go).collect(),
            At::Step if self.budget.tears > 0 && self.can_tear(process) => vec![Move::Go(0), Move::Tear],
            _ => vec![Move::Go(0)],
        }
    }

    fn can_tear(&self, process: &Process) -> bool {
        let Some(step) = process.steps.first() else { return false };
        let reached = step.site() == process.site || self.reaches_cluster(process.site);
        let changes_role = matches!(
            step,
            Step::Demote(..) | Step::Promote(..) | Step::ForcePromote(..) | Step::PromoteStale(..)
        );
        reached && changes_role && self.images[step.image()].mode() == Mirroring::Snapshot
    }

    fn can_lock(&self, process: &Process, site: Site, mutation: Mutation) -> bool {
        if !mutation.locks(site == process.site) {
            return true;
        }
        self.images_of(process).iter().all(|image| match self.locks[*image][site] {
            Lock::Free => true,
            Lock::Held(_) => false,
            Lock::Orphaned(by) => by == process.site,
        })
    }

    /// A killed run has given the copy its new name.
    fn is_being_set_aside(&self, process: &Process) -> bool {
        self.images_of(process).iter().any(|image| self.images[*image].copies[process.site].renamed)
    }

    /// Everything at once: what is done later is decided by what is seen then, under the locks.
    fn look_at_all(&mut self, process: &mut Process) {
        process.vm_here = self.vms[process.site];
        self.look_here(process);
        self.look_there(process);
        self.look_vm_there(process);
    }

    fn first_look(&mut self, process: &mut Process, mutation: Mutation) -> Vec<Due> {
        self.look_at_all(process);
        let views = process.views.iter().flatten().copied().collect();
        let Process { site, rules, run, vm_here, .. } = *process;
        dues(&Question { site, rules, run, told: Told::Saw, views, vm_here, mutation })
    }

    /// Only what is primary here and belongs to the other site is given up at the end of a VM.
    fn look_for_belongings(&mut self, process: &mut Process, mutation: Mutation) {
        self.look_here(process);
        let goes =
            |view: &&View| view.here.exists && view.here.primary && !belongs_here(process, view, mutation);
        process.about =
            process.views.iter().flatten().filter(goes).fold(0, |all, view| all | 1 << view.image);
    }

    /// What is wrong with a step, whatever Ceph says of it.
    fn note_intent(&mut self, process: &Process, step: Step) {
        if process.cuts_off(step) {
            self.cut_off[step.site()] |= self.uses_disks(step.site());
        }
        let gives_up = process.is_release() && matches!(step, Step::Release(..) | Step::Demote(..));
        if gives_up && step.site() == process.site {
            // one that is recreated after it was asked about takes the image back when it boots
            if process.vm_here == Vm::Pending {
                self.note(Violation::PulledAway);
            }
            if process.site == self.home && !self.by_hand {
                self.note(Violation::GivenAway);
            }
        }
        if matches!(step, Step::ForcePromote(..)) && process.was_told_of_a_user(step) {
            self.note(Violation::ForcedPastUser);
        }
    }

    /// The look without locks, and the ways that lead on from there. One that waits may be told at any later time that it
    /// has come, and goes on without another look.
    fn begin(&mut self, process: &mut Process, mutation: Mutation) -> Vec<(Run, Order)> {
        process.told = Told::Go;
        // whatever it was told before, it looks now
        if let Some((run, Order::Look(depth))) = process.ways(mutation).first().cloned() {
            (process.run, process.depth) = (run, depth);
        }
        self.look_at_all(process);
        process.told = Told::Saw;
        let mut ways = process.ways(mutation).to_vec();
        for (run, _) in ways.clone().into_iter().filter(|(_, order)| *order == Order::Unlock) {
            let told = Process { run, told: Told::Came, ..process.clone() };
            for way in told.ways(mutation).iter().filter(|(_, order)| !matches!(order, Order::Look(_))) {
                if !ways.contains(way) {
                    ways.push(way.clone());
                }
            }
        }
        ways
    }

    /// The run makes its move.
    pub fn step(&mut self, place: usize, how: Move, mutation: Mutation) {
        let Some(mut process) = self.processes[place].take() else { return };
        let ended = match how {
            Move::Fail(_) if process.at == At::Finish => Some(Ended::Badly),
            Move::Fail(which) => {
                process.told = Told::Failed(Trouble::Passing);
                self.decide(&mut process, place, which, mutation)
            }
            Move::Go(which) => self.go(&mut process, place, which, mutation),
            Move::Tear => {
                self.budget.tears -= 1;
                let step = process.steps.remove(0);
                let (image, site) = (step.image(), step.site());
                let is_primary = self.images[image].copies[site].primary;
                let torn = self.holds(&process, place, image, mutation)
                    && match step {
                        // the image becomes read-only before anything else
                        Step::Demote(..) => is_primary && self.note_use(image, site),
                        _ => !is_primary && self.carry_out(step),
                    };
                if torn {
                    self.images[image].tear(site);
                }
                self.halt(&mut process, step, Carried::Halted);
                if process.steps.is_empty() { self.after_steps(&mut process, place, mutation) } else { None }
            }
        };
        match ended {
            None => self.processes[place] = Some(process),
            Some(ended) => {
                self.unlock(&mut process, place);
                self.end(&process, ended == Ended::Well);
            }
        }
    }

    /// `Some`: the run is over.
    fn go(&mut self, process: &mut Process, place: usize, which: u8, mutation: Mutation) -> Option<Ended> {
        match process.at {
            At::FirstLook if self.is_being_set_aside(process) => process.at = At::Finish,
            At::FirstLook => return self.see_what_is_due(process, which, mutation),
            At::Finish => return self.finish(process, place, mutation),
            At::Belongings => {
                self.look_for_belongings(process, mutation);
                if process.about == 0 {
                    return Some(Ended::Well);
                }
                process.begin();
            }
            At::Begin => return self.set_out(process, place, which, mutation),
            At::LockHere | At::LockThere => return self.take_locks(process, place, mutation),
            At::LookVmHere => {
                process.vm_here = self.vms[process.site];
                (process.at, process.told) = (At::Decide, Told::Saw);
                if process.rules == Rules::Upkeep {
                    // it looks at the images next, whatever the VM does
                    return self.decide(process, place, 0, mutation);
                }
            }
            At::LookHere => {
                self.look_here(process);
                process.at = At::LookThere;
            }
            At::LookThere => {
                self.look_there(process);
                process.at = At::LookVmThere;
                if process.depth == Depth::GiveUp {
                    process.told = Told::Saw;
                    // it asks who uses the images next
                    return self.decide(process, place, 0, mutation);
                }
            }
            At::LookVmThere => {
                self.look_vm_there(process);
                (process.at, process.told) = (At::Decide, Told::Saw);
            }
            At::Decide => return self.decide(process, place, which, mutation),
            At::Step if process.steps.is_empty() => return self.after_steps(process, place, mutation),
            At::Step => return self.take_step(process, place, mutation),
        }
        None
    }

    /// Reconcile looks without a lock, and begins with what is due.
    fn see_what_is_due(&mut self, process: &mut Process, which: u8, mutation: Mutation) -> Option<Ended> {
        let dues = self.first_look(process, mutation);
        match dues.get(usize::from(which)) {
            None | Some(Due::Nothing) => return Some(Ended::Well),
            Some(Due::Tidy) => {}
            Some(Due::Release) => process.rules = Rules::Release { at_its_end: false },
        }
        process.run = process.rules.run(mutation);
        process.begin();
        None
    }

    /// Locks both copies of an image that a killed run has begun to set aside, and is about to end that.
    fn finish(&mut self, process: &mut Process, place: usize, mutation: Mutation) -> Option<Ended> {
        let (here, there) = (process.site, other(process.site));
        self.lock(process, place, here, mutation);
        process.locked[0] = true;
        if !self.reaches_cluster(here) || !self.can_lock(process, there, mutation) {
            return Some(Ended::Badly);
        }
        self.lock(process, place, there, mutation);
        process.locked[1] = true;
        process.is_about_to(self.last_steps_aside(process), Then::End(Ended::Well));
        process.steps.is_empty().then_some(Ended::Badly)
    }

    /// Looks without a lock, and follows what is decided by that.
    fn set_out(
        &mut self,
        process: &mut Process,
        place: usize,
        which: u8,
        mutation: Mutation,
    ) -> Option<Ended> {
        let ways = self.begin(process, mutation);
        let (run, order) = ways.get(usize::from(which)).cloned()?;
        process.run = run;
        match order {
            Order::Lock(Side::Here) => {
                (process.at, process.told) = (At::LockHere, Told::Go);
                if mutation.looks_under_locks() {
                    process.views = [None; IMAGES];
                    process.vm_here = Vm::Off;
                }
            }
            // whatever it decides without a lock, others may act before it does
            Order::Act(steps) => process.is_about_to(steps, Then::Tell),
            Order::End(steps, ended @ Ended::Well) => process.is_about_to(steps, Then::End(ended)),
            order => return self.follow(process, place, order, mutation),
        }
        None
    }

    /// Locks the copies of one side, where the cluster is reached, and goes on.
    fn take_locks(&mut self, process: &mut Process, place: usize, mutation: Mutation) -> Option<Ended> {
        let is_here = process.at == At::LockHere;
        if is_here || self.reaches_cluster(process.site) {
            let site = if is_here { process.site } else { other(process.site) };
            self.lock(process, place, site, mutation);
            process.locked[usize::from(!is_here)] = true;
            process.told = Told::Locked;
        } else {
            process.told = Told::Failed(Trouble::Lasting);
        }
        self.decide(process, place, 0, mutation)
    }

    /// Carries the next step out, if the locks still hold and its cluster is reached.
    fn take_step(&mut self, process: &mut Process, place: usize, mutation: Mutation) -> Option<Ended> {
        let here = process.site;
        let step = process.steps.remove(0);
        let holds = self.holds(process, place, step.image(), mutation);
        if step.site() != here && !self.reaches_cluster(here) {
            process.steps.clear();
            process.told = Told::Failed(Trouble::Lasting);
            return self.decide(process, place, 0, mutation);
        }
        if holds {
            self.note_intent(process, step);
        }
        let done = holds && self.carry_out(step);
        if done && !process.is_release() {
            self.note_term(step);
        }
        if !done {
            self.halt(process, step, if holds { Carried::Halted } else { Carried::LockRanOut });
        }
        if process.steps.is_empty() { self.after_steps(process, place, mutation) } else { None }
    }

    /// Nothing more is done to the image; a force ends.
    fn halt(&self, process: &mut Process, step: Step, carried: Carried) {
        process.carried = process.carried.max(carried);
        process.steps.retain(|later| later.image() != step.image());
        if process.purpose == Purpose::Force && process.rules == Rules::Force {
            process.steps.clear();
        }
    }

    fn after_steps(&mut self, process: &mut Process, place: usize, mutation: Mutation) -> Option<Ended> {
        let carried = std::mem::replace(&mut process.carried, Carried::Out);
        match process.then {
            Then::End(ended) if carried == Carried::Out || ended != Ended::Well => return Some(ended),
            Then::End(_) if process.rules == Rules::Force => return Some(Ended::Badly),
            Then::End(ended) => return Some(ended),
            Then::Tell => {}
        }
        process.told = Told::Acted(carried);
        if carried == Carried::Out {
            // it looks again
            return self.decide(process, place, 0, mutation);
        }
        process.at = At::Decide;
        None
    }

    /// What ends what a killed run began: only a primary copy there stays when its other one leaves.
    fn last_steps_aside(&self, process: &Process) -> Vec<Step> {
        let (here, there) = (process.site, other(process.site));
        let holds_it = |image: &usize| {
            let copy = self.images[*image].seen(there);
            copy.exists && copy.primary
        };
        let reached = self.reaches_cluster(here);
        let images = self.images_of(process).into_iter().filter(|image| reached && holds_it(image));
        images.map(|image| Step::StopMirroring(here, image)).collect()
    }

    /// The run is told what came of its last order, and goes on.
    fn decide(
        &mut self,
        process: &mut Process,
        place: usize,
        which: u8,
        mutation: Mutation,
    ) -> Option<Ended> {
        let ways = process.ways(mutation);
        let Some((run, order)) = ways.get(usize::from(which)).cloned() else { return Some(Ended::Badly) };
        process.run = run;
        self.follow(process, place, order, mutation)
    }

    fn follow(
        &mut self,
        process: &mut Process,
        place: usize,
        order: Order,
        mutation: Mutation,
    ) -> Option<Ended> {
        match order {
            Order::Look(depth) => {
                process.depth = depth;
                let has_looked = process.views.iter().flatten().next().is_some();
                if process.locked == [true; 2] && has_looked && !mutation.looks_under_locks() {
                    (process.at, process.told) = (At::Decide, Told::Saw);
                    return None;
                }
                process.views = [None; IMAGES];
                process.at = At::LookHere;
            }
            Order::Lock(Side::There) => {
                process.at = At::LockThere;
                if mutation.looks_under_locks() {
                    process.views = [None; IMAGES];
                }
            }
            // it asks for that only at the beginning
            Order::Lock(Side::Here) => return Some(Ended::Badly),
            Order::AskVm => process.at = At::LookVmHere,
            Order::Act(steps) => return self.begin_steps(process, place, steps, Then::Tell, mutation),
            Order::End(steps, ended) => {
                return self.begin_steps(process, place, steps, Then::End(ended), mutation);
            }
            Order::Unlock => {
                self.unlock(process, place);
                process.begin();
            }
            Order::Narrow(images) => {
                self.unlock(process, place);
                (process.rules, process.about) = (Rules::TakeOver, images);
                process.begin();
            }
            Order::Widen => {
                self.unlock(process, place);
                (process.rules, process.about) = (Rules::Force, u8::MAX);
                process.begin();
            }
        }
        None
    }

    fn begin_steps(
        &mut self,
        process: &mut Process,
        place: usize,
        steps: Vec<Step>,
        then: Then,
        mutation: Mutation,
    ) -> Option<Ended> {
        process.is_about_to(steps, then);
        if process.steps.is_empty() { self.after_steps(process, place, mutation) } else { None }
    }

    fn end(&mut self, process: &Process, success: bool) {
        let site = process.site;
        self.force_completed |= matches!(process.purpose, Purpose::Force) && success;
        if matches!(process.purpose, Purpose::Gate { .. }) && success {
            self.cut_off[site] = false;
        }
        let passed = match process.purpose {
            Purpose::Gate { .. } if process.orphan => self.vms[site],
            Purpose::Gate { restore: false } if success => Vm::Cleared,
            Purpose::Gate { restore: false } => Vm::Off,
            Purpose::Gate { restore: true } if success => Vm::RestoreCleared,
            Purpose::Gate { restore: true } => Vm::Saved,
            Purpose::Terminate => {
                self.stock_delete(process);
                if process.orphan { self.vms[site] } else { Vm::Off }
            }
            Purpose::Force if success && self.vms[site] == Vm::Off => Vm::Booting,
            Purpose::Force | Purpose::Hook | Purpose::Reconcile(_) => self.vms[site],
        };
        self.vms[site] = passed;
    }

    /// After a release the stock `delete` removes what is not mirrored; of a mirrored image that it takes for
    /// absent it would remove whatever is there by then.
    fn stock_delete(&mut self, process: &Process) {
        for view in process.views.iter().flatten() {
            let copy = self.images[view.image].seen(process.site);
            if !view.here.exists && copy.exists && copy.primary {
                self.note(Violation::Vanished);
            }
        }
    }

    fn lock(&mut self, process: &Process, place: usize, site: Site, mutation: Mutation) {
        if mutation.locks(site == process.site) {
            for image in self.images_of(process) {
                self.locks[image][site] = Lock::Held(u8::try_from(place).unwrap_or(u8::MAX));
            }
        }
    }

    fn unlock(&mut self, process: &mut Process, place: usize) {
        for lock in self.locks.iter_mut().flatten() {
            if *lock == Lock::Held(u8::try_from(place).unwrap_or(u8::MAX)) {
                *lock = Lock::Free;
            }
        }
        process.locked = [false; 2];
    }

    /// Whether the locks that the run took are still its own, asked right before a step.
    fn holds(&self, process: &Process, place: usize, image: usize, mutation: Mutation) -> bool {
        [(process.locked[0], process.site), (process.locked[1], other(process.site))].iter().all(
            |(taken, site)| {
                let own = self.locks[image][*site] == Lock::Held(u8::try_from(place).unwrap_or(u8::MAX));
                !*taken || own || !mutation.locks(*site == process.site) || !mutation.checks_locks()
            },
        )
    }

    fn look_here(&self, process: &mut Process) {
        for image in self.images_of(process) {
            process.views[image] = Some(View {
                image,
                mode: self.images[image].mode(),
                here: self.images[image].seen(process.site),
                there: CopyThere::Unreachable,
                positions: [Positions::Unknown; 2],
                made_here: self.is_clone && process.site == self.home,
                shared_here: self.shared[process.site],
                users_there: None,
                in_touch: self.in_touch[image][process.site],
            });
        }
    }

    fn look_there(&mut self, process: &mut Process) {
        if !self.reaches_cluster(process.site) {
            return;
        }
        for view in process.views.iter_mut().flatten() {
            let image = &self.images[view.image];
            let there = image.seen(other(process.site));
            view.there = CopyThere::Seen(there);
            let sequence = |copy: Copy| copy.metadata.token.map_or(0, |token| token.sequence);
            if view.here.exists {
                let ahead = there.primary || sequence(there) > sequence(view.here);
                self.in_touch[view.image][process.site] = !there.exists || !ahead;
            }
            view.positions =
                [self.positions(view.image, process.site), self.positions(view.image, other(process.site))];
        }
    }

    /// What snapshots or journal positions say of the copy of `site`.
    pub(crate) fn positions(&self, image: usize, site: Site) -> Positions {
        let image = &self.images[image];
        let complete = match image.mode() {
            Mirroring::Journal => image.has_everything(site),
            Mirroring::Snapshot => {
                image.ends_demoted(site) && !image.is_split() && image.has_everything(site)
            }
        };
        if complete { Positions::Complete } else { Positions::Behind }
    }

    fn look_vm_there(&self, process: &mut Process) {
        let there = other(process.site);
        let seen = self.reaches_front_end(process.site).then_some((self.vms[there], self.shared[there]));
        for view in process.views.iter_mut().flatten() {
            view.users_there = seen;
        }
    }

    /// A copy is about to be demoted: that must not happen under a VM that can write to it.
    fn note_use(&mut self, image: usize, site: Site) -> bool {
        let used = self.uses_disks(site) && !self.cut_off[site];
        if used && self.images[image].copies[site].is_writable() && !self.by_hand {
            self.note(Violation::PulledAway);
        }
        true
    }

    /// A boot, or a forced failover, opens a token that outranks the other one, if there is one: what counts from here on,
    /// once an operator has forced, is what this copy has.
    fn note_term(&mut self, step: Step) {
        let Step::Token(site, image, token) = step else { return };
        let outranks = self.images[image].copies[other(site)].metadata.token < Some(token);
        if self.forced && token.site == site && token.closed == 0 && outranks {
            self.take_line(image, site);
        }
    }

    /// Carries one step out; `false`: Ceph does not accept it.
    pub fn carry_out(&mut self, step: Step) -> bool {
        match step {
            Step::Token(site, image, mut token) => {
                if token.closed != 0 {
                    self.closed = self.closed.saturating_add(1);
                    token.closed = self.closed;
                }
                self.images[image].set_metadata(site, |metadata| metadata.token = Some(token))
            }
            Step::Booted(site, image, mark) => {
                self.followed |= self.forced && site != self.home;
                self.images[image].set_metadata(site, |metadata| metadata.booted = Some(mark))
            }
            Step::Release(site, image, mark) => {
                self.images[image].set_metadata(site, |metadata| metadata.release = Some(mark))
            }
            Step::Forced(site, image, mark) => {
                self.forced_to[site] = true;
                self.images[image].set_metadata(site, |metadata| metadata.forced = Some(mark))
            }
            Step::Home(site, image, home) => {
                self.images[image].set_metadata(site, |metadata| metadata.home = Some(home))
            }
            Step::Snapshot(site, image) => self.images[image].snapshot(site),
            Step::Demote(site, image) => {
                let is_primary = self.images[image].copies[site].primary;
                is_primary && self.note_use(image, site) && self.images[image].demote(site)
            }
            Step::Promote(site, image) => self.promote(image, site, false),
            // a repeat after a promotion is no error
            Step::ForcePromote(site, image) => {
                self.images[image].copies[site].primary || self.promote(image, site, true)
            }
            Step::NoteResync(site, image, note) => {
                self.images[image].note_resync(site, note);
                true
            }
            Step::Resync(site, image) => self.images[image].request_resync(site),
            Step::PromoteStale(site, image) => {
                self.images[image].copies[site].primary || self.images[image].promote(site, true)
            }
            // that it is there changes nothing before the copy has its new name
            Step::NoteLost(site, image) => self.images[image].copies[site].is_writable(),
            Step::Rename(site, image) => self.note_use(image, site) && self.images[image].rename(site),
            Step::StopMirroring(site, image) => self.images[image].stop_mirroring(site),
        }
    }
}
