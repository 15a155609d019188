//! The order of a run: when to look, to lock, to ask, to act, to wait, and when to end. Event in, request out.
//!
//! A [`Run`] is a few bytes: what was seen is handed in and never kept. Whoever drives it (the product, the model checker)
//! carries out one request after the other, tells what came of it, and decides nothing about what comes next.

use crate::decision::{Decision, Finding, Judgement, Refusal, Rule, Side, Step, WaitFor};
use crate::home::SiteRole;
use crate::image::ImageSpec;
use crate::rules::boot::{BootKind, Gate, PeerUnreachable};
use crate::rules::force::{Force, Forced, PassOver};
use crate::rules::give_up::{Pending, Release, ReleaseJudgement};
use crate::rules::tidy::{Task, Upkeep, UpkeepJudgement};
use crate::sight::{Here, Observation, Role, There, UsesHere};
use crate::users::{LetGo, Users};
use crate::{Locks, Patience};
use alloc::vec::Vec;

/// Who runs, and where: the same for all of a run.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// This site's name.
    pub here: &'a str,
    /// The peer's name.
    pub there: &'a str,
    /// What this site is to images that say nothing of a home.
    pub role: SiteRole,
    /// The policy of that name.
    pub peer_unreachable: PeerUnreachable,
    /// The VM that it is about, if there is one.
    pub vm: Option<i32>,
    /// The random part of a token that is closed now: another one each time.
    pub closing_id: &'a str,
}

/// Whether another gate stands between this one and the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// One of another gate that follows: what can be written here needs no further look yet.
    Outer,
    /// The last one, and the stock driver may still have to make disks: its verdict is given under the locks.
    Making,
    /// The last one before the boot: its verdict is given under the locks.
    Last,
    /// None before a boot: an operator's force takes over what the other site still has.
    Forced(PassOver),
}

/// How deep a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Depth {
    /// What locks are taken by: the copies here, and whether there is a way to the others. Nothing is decided by it.
    ToLock,
    /// What a boot depends on.
    Boot,
    /// What a boot that an operator forces depends on: who lives there is asked in any case.
    Force,
    /// What giving up depends on.
    GiveUp,
    /// What reconcile depends on.
    Tidy,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Look at the copies on both sites. With locks: nothing may be decided about a copy that shows itself and is not
    /// locked, which is a passing trouble.
    Look(Depth),
    /// See that none of the mirrored images that were just seen is registered here as an image of its own; where asked for,
    /// note of those that are not mirrored that they belong here.
    Claim {
        /// Whether to note that.
        note_home: bool,
    },
    /// Take the locks of the copies on that side, all or none, without waiting.
    Lock(Side),
    /// Ask this site's front-end who uses the images that were just seen.
    AskUsers(Users),
    /// Ask that cluster there whether somebody has an image open for writing, of those that were just seen there.
    AskWriters,
    /// From here on the run is about these images only, as if it began now. Give back all locks.
    Narrow(Vec<ImageSpec>),
    /// From here on it is about all of its images again. Give back all locks.
    Widen {
        /// Whether the few were taken over with all that they have.
        taken_over: bool,
    },
    /// Carry these out, each only while the locks hold.
    Act {
        /// The changes.
        steps: Vec<Step>,
        /// The rules behind them.
        findings: Vec<Finding>,
    },
    /// Give back all locks.
    Unlock,
    /// Give back all locks, and let a moment pass.
    Wait(Option<(WaitFor, ImageSpec)>),
    /// Carry these out, each only while the locks hold; then give back all locks: this is the end, however far that came.
    End {
        /// The last changes.
        steps: Vec<Step>,
        /// The rules behind them.
        findings: Vec<Finding>,
        /// How it ends.
        verdict: Verdict,
    },
    /// Carry these out, one image after the other, and give back all locks: this is the end, [`Verdict::Forced`]. What is not
    /// carried out is a lasting trouble.
    ForceAndEnd(Vec<Step>),
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The VM may boot.
    MayBoot,
    /// It must not.
    Refused(Refusal),
    /// All images are primary here.
    Forced,
    /// What was due of these images is done.
    Tidied,
    /// Nothing was done: one of them cannot give way yet, and what is copied back is to be of one age.
    NotTogether,
    /// The other site answers again, and its copies are not locked: a VM may be booting there, unseen.
    AnswersAgain,
    /// An image that was taken over is to be taken over again.
    ChangedMeanwhile(ImageSpec),
    /// The image is primary here, belongs here, and its other copy follows.
    TakenUp,
    /// The same, but the other copy does not follow yet.
    NotFollowed,
    /// What could be given up is; this stays primary here for now.
    GivenUp(Vec<Pending>),
    /// A pool there or here has no room, so nothing can be noted: all that is primary here stays so for now.
    NoRoom,
    /// The last steps could not be carried out until the time was over.
    NotCarriedOut(Carried),
    /// By the last trouble.
    Failed,
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// It begins, the locks are given back, the moment has passed.
    Go,
    /// In that moment what was waited for has come, as far as can be told without a look.
    Came,
    /// This was seen; or it is had, or is known now of what was seen last.
    Saw(&'a [Observation], Time),
    /// The locks are had.
    Locked,
    /// How far the steps came.
    Acted(Carried, Time),
    /// It went wrong.
    Failed(Trouble, Time),
}

/// How far a list of steps was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carried {
    /// All of it.
    Out,
    /// The world is not (yet) as it was when the steps were decided.
    Halted,
    /// The looks before took so long that a lock ran out.
    LockRanOut,
}

/// How a run stands to its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lateness {
    /// There is time.
    InTime,
    /// The time is over.
    Over,
    /// Longer than what is on its way may still take.
    LongOver,
}

/// How a run stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Time {
    /// For a judgement.
    pub patience: Patience,
    /// For what is tried again.
    pub lateness: Lateness,
}

/// What went wrong, as far as it matters to what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// A lock is held by somebody else, or a copy has just become another one: a run that begins again may well get through.
    Passing,
    /// There is no room in a pool.
    NoRoom,
    /// Anything else.
    Lasting,
}

/// One run, between two events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    purpose: Purpose,
    phase: Phase,
    held: Held,
    has_claimed: bool,
    /// A boot has seen, without locks, that it takes both: so it takes them at once, and looks once under them.
    needs_both: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    Boot(BootKind, Standing),
    GiveUp(LetGo),
    TakeUp,
    /// What was taken up has to be followed.
    Follow,
    Tidy,
    Force(Forcing),
    /// What a force takes over from a cluster that answers, as a boot would.
    TakeOver(Forcing),
}

/// What an operator typed, and how far the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Forcing {
    site_is_off: bool,
    /// How the gate stands that the VM's start will go through.
    standing: Standing,
    /// It has taken over what it could, and waits no more.
    is_last_round: bool,
    /// The copies there answered before their locks were taken.
    answered: bool,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Waiting,
    Looking,
    Claiming,
    Asking,
    Locking(Side),
    Acting,
    /// What comes of it, the take-over is refused.
    ActingInVain,
    Unlocking,
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    Nothing,
    Here,
    Both,
}

impl Run {
    /// Makes the images of a VM ready to boot on, or says why it must not boot.
    pub fn boot(boot: BootKind, standing: Standing) -> Self {
        Self::new(Purpose::Boot(boot, standing))
    }

    /// Gives up the images that a VM let go of.
    pub fn give_up(let_go: LetGo) -> Self {
        Self::new(Purpose::GiveUp(let_go))
    }

    /// Takes up an image that is primary nowhere, to belong here. It is over once the other copy follows: whoever deletes
    /// the image before that leaves that copy behind.
    pub fn take_up() -> Self {
        Self::new(Purpose::TakeUp)
    }

    /// Puts right what events left undone, of images of one VM or of one image.
    pub fn tidy() -> Self {
        Self::new(Purpose::Tidy)
    }

    /// Has the images of a VM primary here because an operator typed it: taken over where the other site's cluster
    /// answers, forced where nothing else is left. Every image is judged before the first one is touched. `standing` is
    /// that of the gate that the VM's start will go through.
    pub fn force(site_is_off: bool, standing: Standing) -> Self {
        Self::new(Purpose::Force(Forcing { site_is_off, standing, is_last_round: false, answered: false }))
    }

    fn new(purpose: Purpose) -> Self {
        Self { purpose, phase: Phase::Waiting, held: Held::Nothing, has_claimed: false, needs_both: false }
    }

    /// What comes next. The first event is [`Event::Go`]. One that does not answer the last request ends the run.
    pub fn next(&mut self, setting: &Setting<'_>, event: Event<'_>) -> Request {
        match (self.phase, event) {
            // a look without locks would only tell that they are needed
            (Phase::Waiting, Event::Came) if self.has_claimed && self.purpose.as_boot().is_some() => {
                self.needs_both = true;
                self.lock(Side::Here)
            }
            (Phase::Waiting, Event::Go | Event::Came) => self.look(),
            (Phase::Looking | Phase::Claiming, Event::Saw(seen, time)) => self.saw(setting, seen, time),
            (Phase::Asking, Event::Saw(..)) if self.purpose == Purpose::Tidy => self.look(),
            (Phase::Asking, Event::Saw(seen, time)) => self.judge(setting, seen, time.patience, true),
            (Phase::Locking(side), Event::Locked) => {
                self.held = match side {
                    Side::Here => Held::Here,
                    Side::There => Held::Both,
                };
                match (self.purpose, self.held) {
                    (Purpose::TakeUp | Purpose::Tidy, Held::Here) => self.lock(Side::There),
                    (Purpose::Force(Forcing { answered: true, .. }), Held::Here) => self.lock(Side::There),
                    (Purpose::Boot(..) | Purpose::TakeOver(_), Held::Here) if self.needs_both => {
                        self.lock(Side::There)
                    }
                    (Purpose::Tidy, Held::Both) => self.ask(Users::Uses),
                    _ => self.look(),
                }
            }
            (Phase::Acting, Event::Acted(carried, time)) => self.acted(carried, time.lateness),
            (Phase::ActingInVain, Event::Acted(..)) => match self.purpose {
                Purpose::TakeOver(forcing) => self.last_round(forcing, false),
                _ => self.end(Verdict::Failed),
            },
            (Phase::Unlocking, Event::Go) => self.look(),
            (_, Event::Failed(trouble, time)) => self.failed(trouble, time.lateness),
            _ => self.end(Verdict::Failed),
        }
    }

    fn look(&mut self) -> Request {
        self.phase = Phase::Looking;
        Request::Look(match self.purpose {
            // what is seen before the lock is had may have changed when it is
            Purpose::GiveUp(_) | Purpose::Tidy | Purpose::TakeUp if self.held == Held::Nothing => {
                Depth::ToLock
            }
            Purpose::Boot(..) | Purpose::TakeUp | Purpose::TakeOver(_) => Depth::Boot,
            Purpose::Force(_) => Depth::Force,
            Purpose::Tidy => Depth::Tidy,
            Purpose::GiveUp(_) | Purpose::Follow => Depth::GiveUp,
        })
    }

    fn lock(&mut self, side: Side) -> Request {
        self.phase = Phase::Locking(side);
        Request::Lock(side)
    }

    fn ask(&mut self, users: Users) -> Request {
        self.phase = Phase::Asking;
        Request::AskUsers(users)
    }

    fn wait(&mut self, what: Option<(WaitFor, ImageSpec)>) -> Request {
        (self.phase, self.held) = (Phase::Waiting, Held::Nothing);
        Request::Wait(what)
    }

    fn end(&mut self, verdict: Verdict) -> Request {
        self.end_with(Vec::new(), Vec::new(), verdict)
    }

    fn end_with(&mut self, steps: Vec<Step>, findings: Vec<Finding>, verdict: Verdict) -> Request {
        self.phase = Phase::Ending;
        Request::End { steps, findings, verdict }
    }

    fn act(&mut self, steps: Vec<Step>, findings: Vec<Finding>) -> Request {
        self.phase = Phase::Acting;
        Request::Act { steps, findings }
    }

    fn saw(&mut self, setting: &Setting<'_>, seen: &[Observation], time: Time) -> Request {
        if let Some((boot, standing)) = self.purpose.as_boot() {
            return self.saw_before_boot(setting, seen, time.patience, (boot, standing));
        }
        match (self.purpose, self.held) {
            (Purpose::Force(forcing), Held::Nothing) => {
                let answered = seen.iter().any(answers);
                self.purpose = Purpose::Force(Forcing { answered, ..forcing });
                self.lock(Side::Here)
            }
            (Purpose::Force(forcing), _) if !forcing.answered && seen.iter().any(answers) => {
                self.end(Verdict::AnswersAgain)
            }
            (Purpose::Force(Forcing { site_is_off: true, .. }), _) => {
                self.phase = Phase::Asking;
                Request::AskWriters
            }
            // only under the lock does it hold for longer than a moment who uses what
            (_, Held::Nothing) if !matches!(self.purpose, Purpose::Follow) => self.lock(Side::Here),
            // of what is not primary here nothing is to be given up, whoever uses it
            (Purpose::GiveUp(let_go), _) if seen.iter().any(may_be_written_here) => {
                self.ask(Users::Since(let_go))
            }
            (Purpose::TakeUp, _) => self.ask(Users::All),
            (Purpose::Follow, _) if seen.iter().all(is_followed) => self.end(Verdict::TakenUp),
            (Purpose::Follow, _) if time.lateness >= Lateness::Over => self.end(Verdict::NotFollowed),
            (Purpose::Follow, _) => self.wait(None),
            (
                Purpose::Boot(..)
                | Purpose::TakeOver(_)
                | Purpose::GiveUp(_)
                | Purpose::Tidy
                | Purpose::Force(_),
                _,
            ) => self.judge(setting, seen, time.patience, false),
        }
    }

    fn saw_before_boot(
        &mut self,
        setting: &Setting<'_>,
        seen: &[Observation],
        patience: Patience,
        (boot, standing): (BootKind, Standing),
    ) -> Request {
        if !self.has_claimed {
            (self.phase, self.has_claimed) = (Phase::Claiming, true);
            return Request::Claim { note_home: standing != Standing::Outer };
        }
        match self.held {
            Held::Nothing => {
                let under_one = setting.gate(boot, standing, patience, Locks::Here).judge(seen).decision;
                self.needs_both = under_one == Decision::LockThere;
                let gate = setting.gate(boot, standing, patience, Locks::Both);
                self.saw_without_locks(&gate, standing, seen)
            }
            Held::Here | Held::Both => self.judge(setting, seen, patience, false),
        }
    }

    /// A look without locks is enough to wait, to refuse, and to see that nothing is mirrored.
    fn saw_without_locks(&mut self, gate: &Gate<'_>, standing: Standing, seen: &[Observation]) -> Request {
        let nothing_mirrored = !seen.iter().any(|seen| matches!(seen.here, Here::Mirrored(_)));
        match gate.judge(seen).decision {
            Decision::Done if nothing_mirrored || standing == Standing::Outer => self.may_boot(),
            Decision::Refuse { refusal, then } if then.is_empty() => self.refuse(then, Vec::new(), refusal),
            Decision::Wait { what, image } => self.wait(Some((what, image))),
            _ => self.lock(Side::Here),
        }
    }

    /// Under the locks.
    fn judge(
        &mut self,
        setting: &Setting<'_>,
        seen: &[Observation],
        patience: Patience,
        asked: bool,
    ) -> Request {
        let locks = if self.held == Held::Both { Locks::Both } else { Locks::Here };
        if let Some((boot, standing)) = self.purpose.as_boot() {
            let judgement = setting.gate(boot, standing, patience, locks).judge(seen);
            return self.follow_gate(judgement, asked);
        }
        match (self.purpose, seen) {
            (Purpose::GiveUp(_), _) => {
                let judgement = setting.release(patience, locks).judge(seen);
                self.follow_release(judgement)
            }
            (Purpose::TakeUp, [seen]) => {
                let gate = setting.gate(BootKind::Cold, Standing::Last, patience, locks);
                self.follow_take_up(gate.judge_take_up(seen))
            }
            (Purpose::Tidy, _) => self.tidy_up(setting, seen),
            (Purpose::Force(forcing), _) => self.force_them(setting, seen, forcing),
            _ => self.end(Verdict::Failed),
        }
    }

    /// What is due of each, if all of them can have it.
    fn tidy_up(&mut self, setting: &Setting<'_>, seen: &[Observation]) -> Request {
        let (mut steps, mut findings) = (Vec::new(), Vec::new());
        for seen in seen {
            let UpkeepJudgement { task, finding } = setting.upkeep(&seen.uses_here).judge(seen);
            if let Task::Act(due) = task {
                steps.extend(due);
            }
            findings.push(finding);
        }
        if findings.iter().any(|finding| finding.rule == Rule::UpkeepNoRoomToKeep) {
            return self.end(Verdict::NotTogether);
        }
        self.end_with(steps, findings, Verdict::Tidied)
    }

    fn force_them(&mut self, setting: &Setting<'_>, seen: &[Observation], forcing: Forcing) -> Request {
        let open_there =
            seen.iter().filter(|seen| seen.is_open_there).map(|seen| seen.image.clone()).collect();
        let patience = if forcing.is_last_round { Patience::Exhausted } else { Patience::Fresh };
        let gate = setting.gate(BootKind::Cold, forcing.standing, patience, Locks::Both);
        let force = Force { gate, site_is_off: forcing.site_is_off, open_there: &open_there };
        match force.decide(seen) {
            Forced::Refuse(refusal) => self.end(Verdict::Refused(refusal)),
            Forced::TakeOver(images) if !forcing.is_last_round => {
                self.purpose = Purpose::TakeOver(forcing);
                (self.phase, self.held) = (Phase::Unlocking, Held::Nothing);
                Request::Narrow(images)
            }
            Forced::TakeOver(images) => match images.into_iter().next() {
                Some(image) => self.end(Verdict::ChangedMeanwhile(image)),
                None => self.end(Verdict::Failed),
            },
            Forced::Act(steps) => {
                self.phase = Phase::Ending;
                Request::ForceAndEnd(steps)
            }
        }
    }

    /// Judged again, and waited for no more.
    fn last_round(&mut self, forcing: Forcing, taken_over: bool) -> Request {
        self.purpose = Purpose::Force(Forcing { is_last_round: true, answered: false, ..forcing });
        (self.phase, self.held) = (Phase::Unlocking, Held::Nothing);
        Request::Widen { taken_over }
    }

    fn may_boot(&mut self) -> Request {
        match self.purpose {
            Purpose::TakeOver(forcing) => self.last_round(forcing, true),
            _ => self.end(Verdict::MayBoot),
        }
    }

    fn refuse(&mut self, then: Vec<Step>, findings: Vec<Finding>, refusal: Refusal) -> Request {
        match self.purpose {
            // the copies here cannot follow; whether they are to be had all the same is judged next
            Purpose::TakeOver(forcing) if then.is_empty() => self.last_round(forcing, false),
            Purpose::TakeOver(_) => {
                self.phase = Phase::ActingInVain;
                Request::Act { steps: then, findings }
            }
            _ => self.end_with(then, findings, Verdict::Refused(refusal)),
        }
    }

    fn follow_gate(&mut self, judgement: Judgement, asked: bool) -> Request {
        let Judgement { decision, findings } = judgement;
        match decision {
            Decision::Done => self.may_boot(),
            Decision::LockThere => self.lock(Side::There),
            Decision::Act(steps) => self.act(steps, findings),
            Decision::Wait { .. } => self.wait(None),
            // a copy is to be thrown away: nobody else here may be using it
            Decision::Refuse { then, .. } if !then.is_empty() && !asked => self.ask(Users::Others),
            Decision::Refuse { refusal, then } => self.refuse(then, findings, refusal),
        }
    }

    fn follow_release(&mut self, judged: ReleaseJudgement) -> Request {
        let ReleaseJudgement { judgement: Judgement { decision, findings }, pending } = judged;
        match decision {
            Decision::Act(steps) => self.act(steps, findings),
            Decision::Wait { what, image } => self.wait(Some((what, image))),
            Decision::Done | Decision::LockThere | Decision::Refuse { .. } => {
                self.end(Verdict::GivenUp(pending))
            }
        }
    }

    fn follow_take_up(&mut self, judgement: Judgement) -> Request {
        let Judgement { decision, findings } = judgement;
        match decision {
            Decision::Act(steps) => self.act(steps, findings),
            Decision::Refuse { refusal, .. } => self.end(Verdict::Refused(refusal)),
            Decision::Done | Decision::LockThere | Decision::Wait { .. } => self.wait(None),
        }
    }

    /// A run whose lock ran out was slow, not wrong: it begins again with a new lock and a new look, as long as a run may
    /// take at all.
    fn acted(&mut self, carried: Carried, lateness: Lateness) -> Request {
        let gives_up = match carried {
            Carried::Out if self.purpose == Purpose::TakeUp => {
                (self.purpose, self.phase, self.held) = (Purpose::Follow, Phase::Unlocking, Held::Nothing);
                return Request::Unlock;
            }
            Carried::Out => return self.look(),
            Carried::Halted => lateness >= Lateness::Over,
            Carried::LockRanOut => lateness >= Lateness::LongOver,
        };
        if gives_up { self.end(Verdict::NotCarriedOut(carried)) } else { self.wait(None) }
    }

    /// An operator's force, and reconcile, are told that somebody else is at work: they are repeated as a whole.
    fn tries_again(&self) -> bool {
        !matches!(self.purpose, Purpose::Force(_) | Purpose::Tidy)
    }

    fn failed(&mut self, trouble: Trouble, lateness: Lateness) -> Request {
        let looks = matches!(self.phase, Phase::Looking | Phase::Claiming);
        let without_locks = looks && self.held == Held::Nothing;
        match trouble {
            _ if without_locks => self.end(Verdict::Failed),
            Trouble::Passing if self.tries_again() && lateness == Lateness::InTime => self.wait(None),
            // nothing can be noted there; reconcile finishes it when there is room
            Trouble::NoRoom if matches!(self.purpose, Purpose::GiveUp(_)) => self.end(Verdict::NoRoom),
            Trouble::Passing | Trouble::NoRoom | Trouble::Lasting => self.end(Verdict::Failed),
        }
    }
}

/// Whether there is a copy here that is not one to be read only.
fn may_be_written_here(seen: &Observation) -> bool {
    matches!(&seen.here, Here::Mirrored(copy) if copy.role != Role::NonPrimary)
}

/// Whether the other copy shows the token of the one here, which is primary.
fn is_followed(seen: &Observation) -> bool {
    matches!(
        (&seen.here, &seen.there),
        (Here::Mirrored(here), There::Mirrored(there)) if here.role == Role::Primary && here.token == there.token
    )
}

impl Purpose {
    fn as_boot(self) -> Option<(BootKind, Standing)> {
        match self {
            Self::Boot(boot, standing) => Some((boot, standing)),
            Self::TakeOver(Forcing { site_is_off, .. }) => {
                let pass_over = if site_is_off { PassOver::Everything } else { PassOver::Doubts };
                Some((BootKind::Cold, Standing::Forced(pass_over)))
            }
            Self::GiveUp(_) | Self::TakeUp | Self::Follow | Self::Tidy | Self::Force(_) => None,
        }
    }
}

fn answers(seen: &Observation) -> bool {
    matches!(seen.there, There::Mirrored(_))
}

impl<'a> Setting<'a> {
    /// The rules of a gate that stands so.
    pub fn gate(&self, boot: BootKind, standing: Standing, patience: Patience, locks: Locks) -> Gate<'a> {
        Gate {
            here: self.here,
            there: self.there,
            role: self.role,
            // what is taken up without a VM is marked for none
            vm: self.vm.unwrap_or_default(),
            boot,
            peer_unreachable: self.peer_unreachable,
            pass_over: match standing {
                Standing::Forced(pass_over) => pass_over,
                Standing::Outer | Standing::Making | Standing::Last => PassOver::Nothing,
            },
            disks_made: standing == Standing::Last,
            patience,
            locks,
            closing_id: self.closing_id,
        }
    }

    /// The rules of reconcile about an image of which VMs here make this use.
    pub fn upkeep(&self, uses: &UsesHere) -> Upkeep<'a> {
        let Self { here, there, role, .. } = *self;
        let UsesHere { by_any, in_use, running, ended } = *uses;
        Upkeep {
            here,
            there,
            role,
            in_use_here: in_use,
            has_user_here: by_any,
            running_here: running,
            ended_here: ended,
        }
    }

    /// The rules of a handoff.
    pub fn release(&self, patience: Patience, locks: Locks) -> Release<'a> {
        let Self { here, there, role, closing_id, .. } = *self;
        let vm = self.vm.unwrap_or_default();
        Release { here, there, role, vm, patience, locks, closing_id }
    }
}
