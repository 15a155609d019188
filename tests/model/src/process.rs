//! Runs of onemirror: the same sequence of looks, locks and steps as in the product's engine, one external call at
//! a time. Between any two of them others act, and the run may be killed.

use crate::decide::{Answer, CopyThere, Question, Step, View, answers, forced_token, forcings};
use crate::mutation::Mutation;
use crate::storage::{Copy, Mirroring, Site, other};
use crate::world::{IMAGES, Lock, Violation, Vm, World};
use onemirror_protocol::{Forcing, Patience, Positions};

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
    Force(Round),
}

/// What a forced failover is about: first it judges, and takes over what a copy that answers still has; what is left is
/// judged again, and forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// It judges.
    First,
    /// It takes these images over, one bit each, as a gate would.
    TakeOver(u8),
    /// It judges again, and waits no more.
    Last,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// About to look without a lock (reconcile, hook).
    FirstLook,
    /// About to lock the copies here.
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
    /// About to decide.
    Decide,
    /// About to carry out the next step.
    Step,
}

/// What follows the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// Another look.
    Look,
    /// The last round of a forced failover.
    LastRound,
    /// The end.
    End,
}

/// A run of onemirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Where it runs.
    pub site: Site,
    /// What for.
    pub purpose: Purpose,
    /// The front-end that started it was restarted: nobody waits for its answer.
    pub orphan: bool,
    /// Where it is.
    pub at: At,
    /// It took the locks here, and there; whether they are still its own is another question.
    pub locked: [bool; 2],
    /// It goes on with a release that was asked for (reconcile).
    pub releasing: bool,
    /// It goes on with a copy that was to be set aside (reconcile).
    pub finishing: bool,
    /// What it has seen of the VM here.
    pub vm_here: Vm,
    /// What it has seen.
    pub views: [Option<View>; IMAGES],
    /// What it is about to do.
    pub steps: Vec<Step>,
    /// What follows.
    pub then: Then,
    /// A step found the world changed.
    pub halted: bool,
}

impl Process {
    /// A run that begins.
    pub fn new(site: Site, purpose: Purpose) -> Self {
        let at = match purpose {
            Purpose::Reconcile(_) => At::FirstLook,
            Purpose::Gate { .. } | Purpose::Terminate | Purpose::Hook | Purpose::Force(_) => At::LockHere,
        };
        Self {
            site,
            purpose,
            orphan: false,
            at,
            locked: [false; 2],
            releasing: false,
            finishing: false,
            vm_here: Vm::Off,
            views: [None; IMAGES],
            steps: Vec::new(),
            then: Then::Look,
            halted: false,
        }
    }

    fn covers(&self, image: usize) -> bool {
        match self.purpose {
            Purpose::Reconcile(only) => usize::from(only) == image,
            Purpose::Force(Round::TakeOver(images)) => images & 1 << image != 0,
            _ => true,
        }
    }

    fn is_release(&self) -> bool {
        self.releasing || matches!(self.purpose, Purpose::Terminate | Purpose::Hook)
    }

    /// What it does first once it has its lock here.
    fn first_look(&self) -> At {
        match self.purpose {
            Purpose::Gate { .. } | Purpose::Force(_) => At::LookHere,
            Purpose::Reconcile(_) if self.finishing => At::LookThere,
            Purpose::Terminate | Purpose::Hook | Purpose::Reconcile(_) => At::LookVmHere,
        }
    }

    fn views(&self) -> Vec<View> {
        self.views.iter().flatten().copied().collect()
    }

    /// It goes through the steps of a gate, and waits as one does.
    fn is_gate(&self) -> bool {
        matches!(self.purpose, Purpose::Gate { .. } | Purpose::Force(Round::TakeOver(_)))
    }

    /// It begins again, with nothing seen.
    fn begin_again(&mut self) {
        self.at = At::LockHere;
        self.views = [None; IMAGES];
    }

    /// The step cuts off a VM of the other site that nobody could ask about: an operator's force takes that upon itself.
    fn cuts_off(&self, step: Step) -> bool {
        let unseen = self.views[step.image()].is_some_and(|view| view.vm_there.is_none());
        matches!((self.purpose, step), (Purpose::Force(_), Step::Demote(at, _)) if at != self.site) && unseen
    }
}

/// What a run may do next; the number says which of several answers it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// Its next call.
    Go(u8),
    /// It gives up: the deadline is over, or a lock is not to be had.
    GiveUp,
    /// Its next call is killed half-way.
    Tear,
}

impl World {
    fn images_of(&self, process: &Process) -> Vec<usize> {
        (0..self.images.len()).filter(|image| process.covers(*image)).collect()
    }

    /// What the run in this place may do.
    pub fn moves(&self, place: usize, mutation: Mutation) -> Vec<Move> {
        let Some(process) = &self.processes[place] else { return Vec::new() };
        match process.at {
            At::LockHere | At::LockThere => {
                let site = if process.at == At::LockHere { process.site } else { other(process.site) };
                let free = self.can_lock(process, site, mutation);
                // to wait for a lock is to try again later
                if free { vec![Move::Go(0)] } else { vec![Move::GiveUp] }
            }
            At::Decide => {
                let count = self.possible(process, mutation).len();
                (0..count).filter_map(|index| u8::try_from(index).ok()).map(Move::Go).collect()
            }
            At::Step if self.budget.tears > 0 && self.can_tear(process) => vec![Move::Go(0), Move::Tear],
            _ => vec![Move::Go(0)],
        }
    }

    fn can_tear(&self, process: &Process) -> bool {
        let Some(step) = process.steps.first() else { return false };
        let reached = step.site() == process.site || self.reaches_peer();
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

    fn possible(&self, process: &Process, mutation: Mutation) -> Vec<Answer> {
        match process.purpose {
            Purpose::Force(Round::First) => return self.forced_answers(process, Patience::Fresh, mutation),
            Purpose::Force(Round::Last) => {
                return self.forced_answers(process, Patience::Exhausted, mutation);
            }
            _ => {}
        }
        answers(process.site, self.question(process, mutation), &process.views(), mutation).to_vec()
    }

    fn question(&self, process: &Process, mutation: Mutation) -> Question {
        let vm = process.vm_here;
        let at_its_end = vm == Vm::LettingGo || mutation == Mutation::TrustTerminate;
        let own_end = process.purpose == Purpose::Terminate && at_its_end;
        let in_use = vm != Vm::Off && !own_end && mutation != Mutation::ReleaseWhileInUse;
        if process.is_release() {
            return Question::Release { in_use };
        }
        match process.purpose {
            Purpose::Gate { restore } => Question::Gate { restore, both_locks: process.locked[1] },
            Purpose::Force(_) => Question::TakeOver { both_locks: process.locked[1] },
            _ => Question::Upkeep { in_use, running: vm == Vm::Running },
        }
    }

    /// The run makes its move.
    pub fn step(&mut self, place: usize, how: Move, mutation: Mutation) {
        let Some(mut process) = self.processes[place].take() else { return };
        let ended = match how {
            Move::GiveUp => {
                self.unlock(&mut process, place);
                // a gate that cannot have the other lock begins again
                if process.at == At::LockThere && process.is_gate() {
                    process.begin_again();
                    None
                } else {
                    Some(false)
                }
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
                process.halted = true;
                process.steps.retain(|later| later.image() != step.image());
                if process.steps.is_empty() { self.after_steps(&mut process, place) } else { None }
            }
        };
        match ended {
            None => self.processes[place] = Some(process),
            Some(success) => {
                self.unlock(&mut process, place);
                self.end(&process, success);
            }
        }
    }

    /// `Some`: the run is over, well or not.
    fn go(&mut self, process: &mut Process, place: usize, which: u8, mutation: Mutation) -> Option<bool> {
        let (here, there) = (process.site, other(process.site));
        match process.at {
            At::FirstLook
                if self.images_of(process).iter().any(|image| self.images[*image].copies[here].renamed) =>
            {
                process.finishing = true;
                process.at = At::LockHere;
            }
            At::FirstLook => {
                // a hook or a reconcile run looks without a lock first, at everything at once as far as it matters:
                // what it does later is decided by what it sees then
                process.vm_here = self.vms[here];
                self.look_here(process);
                self.look_there(process);
                self.look_vm_there(process);
                process.at = At::Decide;
            }
            At::LockHere => {
                self.lock(process, place, here, mutation);
                process.locked[0] = true;
                process.at = match process.purpose {
                    Purpose::Reconcile(_) if !process.releasing => At::LockThere,
                    Purpose::Force(Round::First | Round::Last) if self.reaches_peer() => At::LockThere,
                    _ => process.first_look(),
                };
            }
            At::LockThere => {
                if !self.reaches_peer() {
                    return Some(false);
                }
                self.lock(process, place, there, mutation);
                process.locked[1] = true;
                process.at = process.first_look();
                if !mutation.looks_under_locks() {
                    process.at = At::Decide;
                }
            }
            At::LookVmHere => {
                process.vm_here = self.vms[here];
                process.at = At::LookHere;
            }
            At::LookHere => {
                self.look_here(process);
                process.at = At::LookThere;
            }
            At::LookThere if process.finishing => {
                process.steps = self.last_steps_aside(process);
                if process.steps.is_empty() {
                    return Some(false);
                }
                process.then = Then::End;
                process.at = At::Step;
            }
            At::LookThere => {
                self.look_there(process);
                process.at = At::LookVmThere;
                if process.is_release() {
                    process.at = At::Decide;
                }
            }
            At::LookVmThere => {
                self.look_vm_there(process);
                process.at = At::Decide;
            }
            At::Decide => {
                let answers = self.possible(process, mutation);
                let answer = answers.get(usize::from(which)).cloned().unwrap_or(Answer::Wait);
                return self.follow(process, place, answer);
            }
            At::Step => {
                let step = process.steps.remove(0);
                let holds = self.holds(process, place, step.image(), mutation);
                let reached = step.site() == here || self.reaches_peer();
                if !reached {
                    return Some(false);
                }
                if holds && process.cuts_off(step) {
                    self.cut_off[step.site()] |= self.vms[step.site()].uses_disks();
                }
                let done = holds && self.carry_out(step);
                if done && !process.is_release() {
                    self.note_reign(step);
                }
                if !done {
                    process.halted = true;
                    process.steps.retain(|later| later.image() != step.image());
                }
                if process.steps.is_empty() {
                    return self.after_steps(process, place);
                }
            }
        }
        None
    }

    fn after_steps(&mut self, process: &mut Process, place: usize) -> Option<bool> {
        match process.then {
            Then::End => {
                return Some(matches!(process.purpose, Purpose::Force(_)) && !process.halted);
            }
            Then::LastRound => self.next_round(process, place, Round::Last),
            Then::Look if process.halted => {
                self.unlock(process, place);
                process.begin_again();
            }
            Then::Look => {
                process.views = [None; IMAGES];
                process.at = process.first_look();
            }
        }
        process.halted = false;
        None
    }

    /// What ends what a killed run began: only a primary copy there stays when its other one leaves.
    fn last_steps_aside(&self, process: &Process) -> Vec<Step> {
        let (here, there) = (process.site, other(process.site));
        let reigns = |image: &usize| {
            let copy = self.images[*image].seen(there);
            copy.exists && copy.primary
        };
        let images = self.images_of(process).into_iter().filter(|image| self.reaches_peer() && reigns(image));
        images.map(|image| Step::StopMirroring(here, image)).collect()
    }

    /// Each round of a forced failover takes its own locks.
    fn next_round(&mut self, process: &mut Process, place: usize, round: Round) {
        self.unlock(process, place);
        process.purpose = Purpose::Force(round);
        process.begin_again();
    }

    fn follow(&mut self, process: &mut Process, place: usize, answer: Answer) -> Option<bool> {
        let takes_over = matches!(process.purpose, Purpose::Force(Round::TakeOver(_)));
        match answer {
            Answer::Done if takes_over => self.next_round(process, place, Round::Last),
            Answer::Done => return Some(true),
            Answer::TakeOver(images) => self.next_round(process, place, Round::TakeOver(images)),
            Answer::LockThere => {
                process.at = At::LockThere;
                process.views = if process.locked[1] { process.views } else { [None; IMAGES] };
            }
            Answer::Wait => {
                self.unlock(process, place);
                process.begin_again();
            }
            Answer::GoOn => {
                if process.locked[0] {
                    // decided under the locks: the next run will see to it
                    return Some(true);
                }
                process.releasing = true;
                process.begin_again();
            }
            Answer::Act(_) if !process.locked[0] => {
                // only a look without locks: now with them
                process.begin_again();
            }
            Answer::Act(steps) => {
                process.then = match process.purpose {
                    Purpose::Reconcile(_) if !process.releasing => Then::End,
                    Purpose::Force(Round::First | Round::Last) => Then::End,
                    _ => Then::Look,
                };
                process.steps = steps;
                process.at = At::Step;
                if process.steps.is_empty() {
                    return self.after_steps(process, place);
                }
            }
            Answer::Refuse(steps, _) => {
                process.then = if takes_over { Then::LastRound } else { Then::End };
                // what it refused was not done
                process.halted = true;
                process.steps = steps;
                if process.steps.is_empty() {
                    return self.after_steps(process, place);
                }
                process.at = At::Step;
            }
        }
        None
    }

    fn end(&mut self, process: &Process, success: bool) {
        let site = process.site;
        self.force_completed |= matches!(process.purpose, Purpose::Force(_)) && success;
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
            Purpose::Force(_) if success && self.vms[site] == Vm::Off => Vm::Booting,
            Purpose::Force(_) | Purpose::Hook | Purpose::Reconcile(_) => self.vms[site],
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
                vm_there: None,
                in_touch: self.in_touch[image][process.site],
            });
        }
    }

    fn look_there(&mut self, process: &mut Process) {
        if !self.reaches_peer() {
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
        for view in process.views.iter_mut().flatten() {
            view.vm_there = self.reaches_peer().then_some(self.vms[other(process.site)]);
        }
    }

    /// A copy is about to be demoted: that must not happen under a VM that can write to it.
    fn note_use(&mut self, image: usize, site: Site) -> bool {
        let used = self.vms[site].uses_disks() && !self.cut_off[site];
        if used && self.images[image].copies[site].is_writable() && !self.by_hand {
            self.note(Violation::PulledAway);
        }
        true
    }

    /// A boot, or a forced failover, opens a token that outranks the other one, if there is one: what counts from here on,
    /// once an operator has forced, is what this copy has.
    fn note_reign(&mut self, step: Step) {
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
                self.followed |= self.forced && site == 1;
                self.images[image].set_metadata(site, |metadata| metadata.booted = Some(mark))
            }
            Step::Release(site, image, mark) => {
                self.images[image].set_metadata(site, |metadata| metadata.release = Some(mark))
            }
            Step::Forced(site, image, mark) => {
                self.forced_to[site] = true;
                self.images[image].set_metadata(site, |metadata| metadata.forced = Some(mark))
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

    /// What `failover --force` does in a round that judges, as the engine does it.
    fn forced_answers(&self, process: &Process, patience: Patience, mutation: Mutation) -> Vec<Answer> {
        let views = process.views();
        // it answers again, unlocked
        if !process.locked[1] && views.iter().any(|view| seen_there(view).is_some()) {
            return vec![Answer::Refuse(Vec::new(), None)];
        }
        let mut all = Vec::new();
        for forcings in forcings(process.site, &views, patience) {
            let answer = forced_answer(process.site, &views, forcings, patience, mutation);
            if !all.contains(&answer) {
                all.push(answer);
            }
        }
        all
    }
}

fn forced_answer(
    site: Site,
    views: &[View],
    forcings: Vec<Forcing>,
    patience: Patience,
    mutation: Mutation,
) -> Answer {
    let is_refused = forcings.iter().any(|forcing| matches!(forcing, Forcing::Refuse(_)));
    let answering = views.iter().zip(&forcings).filter(|(_, forcing)| **forcing == Forcing::TakeOver);
    match answering.fold(0, |images, (view, _)| images | 1 << view.image) {
        _ if is_refused => Answer::Refuse(Vec::new(), None),
        0 => Answer::Act(forced_steps(site, views, forcings, mutation)),
        // the world has changed since it was taken over; the command is to be repeated
        _ if patience == Patience::Exhausted => Answer::Refuse(Vec::new(), None),
        images => Answer::TakeOver(images),
    }
}

fn seen_there(view: &View) -> Option<Copy> {
    match view.there {
        CopyThere::Seen(copy) if copy.exists => Some(copy),
        _ => None,
    }
}

fn forced_steps(site: Site, views: &[View], forcings: Vec<Forcing>, mutation: Mutation) -> Vec<Step> {
    let mut steps = Vec::new();
    for (view, forcing) in views.iter().zip(forcings) {
        let Forcing::Promote { fence } = forcing else { continue };
        let image = view.image;
        let newest = view.here.metadata.token.max(seen_there(view).and_then(|copy| copy.metadata.token));
        let token = forced_token(site, newest, mutation);
        if fence {
            steps.push(Step::Demote(1 - site, image));
        }
        if view.here.torn {
            steps.push(Step::Demote(site, image));
        }
        if !view.here.primary || view.here.torn {
            steps.push(Step::ForcePromote(site, image));
        }
        let mark = crate::storage::Mark { sequence: token.sequence, site, vm: site };
        steps.push(Step::Forced(site, image, mark));
        steps.push(Step::Token(site, image, token));
        steps.push(Step::Snapshot(site, image));
    }
    steps
}
