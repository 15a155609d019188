//! The product's own [`Run`], asked with what a run has seen in the model.
//!
//! Daemons' reports and the time that is left are not part of the model's state: whatever they may say is tried.

use crate::mutation::Mutation;
use crate::storage::{Copy, Mark, Metadata, Mirroring, Note, Site, Token};
use crate::world::Vm;
use onemirror_protocol::{
    BootKind, Carried, Depth, Domain, Event, Here, Home, ImageSpec, Keeping, Lateness, LetGo, Mode,
    Observation, Patience, PeerUnreachable, PeerVm, Positions, Report, Request, Resync, Role, Rule, Run,
    Seal, Setting, Side, SiteRole, Standing, Task, There, Time, TokenSeen, Trouble, Users, UsesHere, Verdict,
    WayOut,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The names of the sites.
pub const NAMES: [&str; 2] = ["site-a", "site-b"];
const IMAGE_NAMES: [&str; 2] = ["one/image-0", "two/image-1"];
/// What a random id is until it is written.
const CLOSING_ID: &str = "255";
/// What a daemon may say of a copy, at any time.
const REPORTS: [Report; 5] =
    [Report::Replaying, Report::Syncing(None), Report::SplitBrain, Report::Stopped, Report::Down];

/// What a run has seen of the other copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyThere {
    /// The cluster did not answer.
    Unreachable,
    /// It answered.
    Seen(Copy),
}

/// What a run has seen of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which.
    pub image: usize,
    /// The mode.
    pub mode: Mirroring,
    /// The copy here.
    pub here: Copy,
    /// The copy there.
    pub there: CopyThere,
    /// What positions or snapshots say of the copy here and there.
    pub positions: [Positions; 2],
    /// The VM there; `None`: its front-end did not answer, or was not asked.
    pub vm_there: Option<Vm>,
    /// The copy there was seen since the host was booted, and agreed.
    pub in_touch: bool,
}

/// What a run is for, as far as its rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rules {
    /// May the VM boot?
    Gate {
        /// From saved memory.
        restore: bool,
    },
    /// Give the images up.
    Release {
        /// The VM that let them go is at its end, and oned waits.
        at_its_end: bool,
    },
    /// What is left to do?
    Upkeep,
    /// What an operator forces.
    Force,
    /// What that takes over from a cluster that answers.
    TakeOver,
}

impl Rules {
    /// The run that has it.
    pub fn run(self, mutation: Mutation) -> Run {
        match self {
            Self::Gate { restore } => {
                let restore = restore && mutation != Mutation::RestoreAnyway;
                Run::boot(if restore { BootKind::Restore } else { BootKind::Cold }, Standing::Last)
            }
            Self::Release { at_its_end: true } => Run::give_up(LetGo::ByEndingVm),
            Self::Release { at_its_end: false } => Run::give_up(LetGo::Earlier),
            Self::Upkeep => Run::tidy(),
            Self::Force | Self::TakeOver => Run::force(false, Standing::Last),
        }
    }
}

/// What came of what a run asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    /// It may go on.
    Go,
    /// It has looked, or asked.
    Saw,
    /// It has the locks.
    Locked,
    /// It has acted.
    Acted(Carried),
    /// It went wrong.
    Failed(Trouble),
}

/// One change, in the model's terms. `side` is a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Writes a token; a closed one gets its id when it is written.
    Token(Site, usize, Token),
    /// Notes the boot.
    Booted(Site, usize, Mark),
    /// Notes the release.
    Release(Site, usize, Mark),
    /// Notes that an operator forced it.
    Forced(Site, usize, Mark),
    /// Takes a mirror snapshot.
    Snapshot(Site, usize),
    /// Demotes.
    Demote(Site, usize),
    /// Promotes without force.
    Promote(Site, usize),
    /// Promotes by force.
    ForcePromote(Site, usize),
    /// Notes what is known of a resync.
    NoteResync(Site, usize, Note),
    /// Has the copy made anew.
    Resync(Site, usize),
    /// Promotes an outranked copy by force, to set it aside.
    PromoteStale(Site, usize),
    /// Notes in an outranked copy that it is set aside.
    NoteLost(Site, usize),
    /// Gives it the name under which it is kept.
    Rename(Site, usize),
    /// Has it mirrored no more.
    StopMirroring(Site, usize),
}

impl Step {
    /// Its image.
    pub fn image(self) -> usize {
        match self {
            Self::Token(_, image, _)
            | Self::Booted(_, image, _)
            | Self::Release(_, image, _)
            | Self::Forced(_, image, _)
            | Self::Snapshot(_, image)
            | Self::Demote(_, image)
            | Self::Promote(_, image)
            | Self::ForcePromote(_, image)
            | Self::NoteResync(_, image, _)
            | Self::Resync(_, image)
            | Self::PromoteStale(_, image)
            | Self::NoteLost(_, image)
            | Self::Rename(_, image)
            | Self::StopMirroring(_, image) => image,
        }
    }

    /// The site whose copy it changes.
    pub fn site(self) -> Site {
        match self {
            Self::Token(site, ..)
            | Self::Booted(site, ..)
            | Self::Release(site, ..)
            | Self::Forced(site, ..)
            | Self::Snapshot(site, _)
            | Self::Demote(site, _)
            | Self::Promote(site, _)
            | Self::ForcePromote(site, _)
            | Self::NoteResync(site, ..)
            | Self::Resync(site, _)
            | Self::PromoteStale(site, _)
            | Self::NoteLost(site, _)
            | Self::Rename(site, _)
            | Self::StopMirroring(site, _) => site,
        }
    }
}

/// What a run asks for, in the model's terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Look.
    Look(Depth),
    /// Take the locks of the copies on this side.
    Lock(Side),
    /// Ask the own front-end what its VM does.
    AskVm,
    /// Do this.
    Act(Vec<Step>),
    /// Give the locks back, and begin again.
    Unlock,
    /// The same, about these images only, one bit each.
    Narrow(u8),
    /// The same, about all of them.
    Widen,
    /// Do this; that is the end.
    End(Vec<Step>, Ended),
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The VM may boot, what was due is done.
    Well,
    /// By this rule, if it was one.
    Refused(Option<Rule>),
    /// In any other way.
    Badly,
}

/// All that a run is told, and what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Where it runs.
    pub site: Site,
    /// What for.
    pub rules: Rules,
    /// Where it is.
    pub run: Run,
    /// What came of the last order.
    pub told: Told,
    /// What it has seen.
    pub views: Vec<View>,
    /// What it has seen of the VM here.
    pub vm_here: Vm,
    /// The rule that is left out.
    pub mutation: Mutation,
}

/// One way in which a run may go on.
pub type Way = (Run, Order);

thread_local! {
    static KNOWN: RefCell<HashMap<Question, Rc<Vec<Way>>>> = RefCell::default();
}

const TIMES: [Time; 5] = {
    const fn at(patience: Patience, lateness: Lateness) -> Time {
        Time { patience, lateness }
    }
    [
        at(Patience::Fresh, Lateness::InTime),
        at(Patience::Waning, Lateness::InTime),
        at(Patience::Waning, Lateness::Over),
        at(Patience::Exhausted, Lateness::Over),
        at(Patience::Exhausted, Lateness::LongOver),
    ]
};

/// Every way in which the run may go on, whatever the reports say and however much time is left.
pub fn ways(question: Question) -> Rc<Vec<Way>> {
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&question).cloned()) {
        return known;
    }
    // reports are looked at only where something was seen
    let reports = if question.told == Told::Saw { &REPORTS[..] } else { &REPORTS[..1] };
    let mut all = Vec::new();
    for time in TIMES {
        for report in reports {
            let way = way(&question, &|_| report.clone(), time);
            if !all.contains(&way) {
                all.push(way);
            }
        }
    }
    let all = Rc::new(all);
    KNOWN.with_borrow_mut(|known| known.insert(question, all.clone()));
    all
}

/// How the run goes on with these reports, of image and copy here (`true`) or there.
pub fn way(question: &Question, report: &dyn Fn((usize, bool)) -> Report, time: Time) -> Way {
    let Question { site, told, ref views, mutation, .. } = *question;
    let mut run = question.run;
    let seen: Vec<Observation> = views.iter().map(|view| seen(question, view, report)).collect();
    let mut told = told;
    loop {
        let event = match told {
            Told::Go => Event::Go,
            Told::Saw => Event::Saw(&seen, time),
            Told::Locked => Event::Locked,
            Told::Acted(carried) => Event::Acted(carried, time),
            Told::Failed(trouble) => Event::Failed(trouble, time),
        };
        let steps = |steps| translate_steps(site, steps, views, mutation);
        let order = match run.next(&setting(site), event) {
            // every image is its VM's own, has a home, and no other VM here uses it
            Request::Claim { .. } | Request::AskUsers(Users::Others | Users::All) | Request::AskWriters => {
                told = Told::Saw;
                continue;
            }
            Request::Look(depth) => Order::Look(depth),
            Request::Lock(side) => Order::Lock(side),
            Request::AskUsers(Users::Since(_) | Users::Uses) => Order::AskVm,
            Request::Act { steps: due, .. } => Order::Act(steps(due)),
            Request::Wait(_) | Request::Unlock => Order::Unlock,
            Request::Narrow(images) => {
                Order::Narrow(images.iter().fold(0, |all, image| all | 1 << image_of(image)))
            }
            Request::Widen { .. } => Order::Widen,
            Request::End { steps: due, verdict, .. } => Order::End(steps(due), ended(verdict)),
            Request::ForceAndEnd(due) => Order::End(steps(due), Ended::Well),
        };
        return (run, order);
    }
}

fn ended(verdict: Verdict) -> Ended {
    match verdict {
        Verdict::MayBoot | Verdict::Forced | Verdict::GivenUp(_) | Verdict::Tidied | Verdict::TakenUp => {
            Ended::Well
        }
        Verdict::Refused(refusal) => Ended::Refused(refusal.rule),
        Verdict::NotTogether
        | Verdict::AnswersAgain
        | Verdict::ChangedMeanwhile(_)
        | Verdict::NotFollowed
        | Verdict::NoRoom
        | Verdict::NotCarriedOut(_)
        | Verdict::Failed => Ended::Badly,
    }
}

/// What reconcile finds due of an image, by a look without locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// Nothing that it would do.
    Nothing,
    /// Something.
    Tidy,
    /// To go on with a release.
    Release,
}

/// Everything that reconcile may find due, whatever the reports say.
pub fn dues(question: &Question) -> Vec<Due> {
    let mut all = Vec::new();
    for report in &REPORTS {
        let due = due(question, &|_| report.clone());
        if !all.contains(&due) {
            all.push(due);
        }
    }
    all
}

/// The same with these reports.
pub fn due(question: &Question, report: &dyn Fn((usize, bool)) -> Report) -> Due {
    let Some(view) = question.views.first() else { return Due::Nothing };
    let seen = seen(question, view, report);
    match setting(question.site).upkeep(&seen.uses_here).judge(&seen).task {
        // passing a VM on is a boot at the other site, which may happen at any time anyway
        Task::Nothing | Task::Undecided | Task::PassOn => Due::Nothing,
        Task::Act(_) => Due::Tidy,
        Task::Release { .. } => Due::Release,
    }
}

/// What the rules are shown of an image.
fn seen(question: &Question, view: &View, report: &dyn Fn((usize, bool)) -> Report) -> Observation {
    let Question { site, rules, vm_here, mutation, .. } = *question;
    let reports = [report((view.image, true)), report((view.image, false))];
    let mut seen = observation(site, view, reports);
    let at_its_end = vm_here == Vm::LettingGo || mutation == Mutation::TrustTerminate;
    let lets_go = rules == (Rules::Release { at_its_end: true }) && at_its_end;
    let in_use = vm_here != Vm::Off && !lets_go && mutation != Mutation::ReleaseWhileInUse;
    match rules {
        Rules::Release { .. } => seen.used_here_by = in_use.then_some(OTHER_VM),
        Rules::Upkeep => {
            let running = (vm_here == Vm::Running).then_some(vm_id(site));
            // there is one on either site
            seen.uses_here = UsesHere { by_any: true, in_use, running, ended: None };
        }
        Rules::Gate { .. } | Rules::Force | Rules::TakeOver => {}
    }
    mutation.blur(rules, site, &mut seen);
    seen
}

fn setting(site: Site) -> Setting<'static> {
    Setting {
        here: NAMES[site],
        there: NAMES[1 - site],
        role: if site == 0 { SiteRole::Home } else { SiteRole::Recovery },
        peer_unreachable: PeerUnreachable::RefuseAfterReboot,
        vm: Some(vm_id(site)),
        closing_id: CLOSING_ID,
    }
}

/// A VM that shares the disk.
const OTHER_VM: i32 = 99;

/// What is seen of one image, with these reports on the copy here and there.
fn observation(site: Site, view: &View, reports: [Report; 2]) -> Observation {
    let [report_here, report_there] = reports;
    let here = match view.here.exists {
        true => Here::Mirrored(copy(view, view.here, view.positions[0], report_here)),
        false => Here::Absent,
    };
    let there = match view.there {
        CopyThere::Unreachable => There::Unreachable,
        CopyThere::Seen(seen) if seen.exists => {
            There::Mirrored(copy(view, seen, view.positions[1], report_there))
        }
        CopyThere::Seen(_) => There::Absent,
    };
    let (vm, state) = (vm_id(1 - site), String::new());
    let vm_there = match view.vm_there {
        None => PeerVm::Silent,
        Some(Vm::Off) => PeerVm::Inactive { vm, state },
        Some(Vm::LettingGo) => PeerVm::LettingGo { vm, state },
        Some(Vm::Saved) => PeerVm::Active { vm, state, domain: Domain::Gone, way_out: WayOut::ResumeFirst },
        Some(_) => PeerVm::Active { vm, state, domain: Domain::MayLive, way_out: WayOut::PowerOff },
    };
    Observation {
        here,
        there,
        vm_there,
        in_touch_since_reboot: view.in_touch,
        keeping: keeping(view),
        ..Observation::unseen(spec(view.image))
    }
}

/// Whether the copy here has something that the other one lacks. The product may not be able to prove that it has not,
/// and keeps it for nothing then.
fn keeping(view: &View) -> Keeping {
    match view.there {
        CopyThere::Seen(there) if view.here.data & !there.data == 0 => Keeping::Needless,
        CopyThere::Seen(_) | CopyThere::Unreachable => Keeping::Possible,
    }
}

fn copy(view: &View, seen: Copy, positions: Positions, report: Report) -> onemirror_protocol::Copy {
    let Metadata { token, booted, release, forced } = seen.metadata;
    onemirror_protocol::Copy {
        role: match (seen.primary, seen.torn) {
            (true, false) => Role::Primary,
            (true, true) => Role::HalfDemoted,
            (false, _) => Role::NonPrimary,
        },
        mode: match view.mode {
            Mirroring::Journal => Mode::Journal,
            Mirroring::Snapshot => Mode::Snapshot,
        },
        token: token.map_or(TokenSeen::None, |token| TokenSeen::Some(real_token(token))),
        is_unbound: false,
        booted: booted.map(real_mark),
        release: release.map(real_mark),
        forced: forced.map(real_mark),
        other_site_is_off: false,
        // the model's VM was made there
        home: Home::At { site: NAMES[0].into(), is_former: false },
        report,
        resync: match (seen.resync, seen.noted) {
            (true, _) => Resync::Asked,
            (false, Note::None) => Resync::None,
            (false, Note::AboutToAsk | Note::Asked) => Resync::Noted,
        },
        positions,
    }
}

/// The product's token.
pub fn real_token(token: Token) -> onemirror_protocol::Token {
    onemirror_protocol::Token {
        sequence: token.sequence.into(),
        site: NAMES[token.site].into(),
        seal: if token.closed == 0 { Seal::Open } else { Seal::Closed(token.closed.to_string()) },
    }
}

/// The model's token.
pub fn model_token(token: &onemirror_protocol::Token) -> Token {
    Token {
        sequence: u16::try_from(token.sequence).unwrap_or(u16::MAX),
        site: site_of(&token.site),
        closed: match &token.seal {
            Seal::Open => 0,
            Seal::Closed(id) => id.parse().unwrap_or(u8::MAX),
        },
    }
}

fn real_mark(mark: Mark) -> onemirror_protocol::Mark {
    let (sequence, site, vm) = (mark.sequence.into(), NAMES[mark.site].into(), vm_id(mark.vm));
    onemirror_protocol::Mark { sequence, site, vm, others: Default::default() }
}

fn model_mark(mark: &onemirror_protocol::Mark) -> Mark {
    Mark {
        sequence: u16::try_from(mark.sequence).unwrap_or(u16::MAX),
        site: site_of(&mark.site),
        vm: usize::from(mark.vm != 0),
    }
}

fn vm_id(site: Site) -> i32 {
    i32::from(site != 0)
}

fn site_of(name: &str) -> Site {
    usize::from(name != NAMES[0])
}

fn spec(image: usize) -> ImageSpec {
    thread_local! {
        static SPECS: [Option<ImageSpec>; 2] = IMAGE_NAMES.map(|name| name.parse().ok());
    }
    #[expect(clippy::expect_used, reason = "the names are constants")]
    SPECS.with(|specs| specs[image].clone()).expect("a name of an image")
}

fn image_of(spec: &ImageSpec) -> usize {
    usize::from(spec.to_string() != IMAGE_NAMES[0])
}

fn translate_steps(
    site: Site,
    steps: Vec<onemirror_protocol::Step>,
    views: &[View],
    mutation: Mutation,
) -> Vec<Step> {
    let mut steps: Vec<Step> = steps.iter().flat_map(|step| translate_step(site, step)).collect();
    mutation.damage(&mut steps, site, views);
    steps
}

/// A resync takes three calls, and so does a copy that is set aside.
fn translate_step(site: Site, step: &onemirror_protocol::Step) -> Vec<Step> {
    let at = match step.side() {
        Side::Here => site,
        Side::There => 1 - site,
    };
    let image = image_of(step.image());
    vec![match step {
        onemirror_protocol::Step::WriteToken { token, .. } => Step::Token(at, image, model_token(token)),
        onemirror_protocol::Step::MarkBooted { mark, .. } => Step::Booted(at, image, model_mark(mark)),
        onemirror_protocol::Step::MarkRelease { mark, .. } => Step::Release(at, image, model_mark(mark)),
        // every image has a home from the beginning
        onemirror_protocol::Step::WriteHome { .. } => return vec![],
        onemirror_protocol::Step::MirrorSnapshot { .. } => Step::Snapshot(at, image),
        // before a demotion that only an operator's force makes, where the front-end there is silent
        onemirror_protocol::Step::Fence { .. } => return Vec::new(),
        onemirror_protocol::Step::PromoteByForce { .. } => Step::ForcePromote(at, image),
        onemirror_protocol::Step::MarkForced { mark, .. } => Step::Forced(at, image, model_mark(mark)),
        onemirror_protocol::Step::OpenByForce { token, .. } => Step::Token(at, image, model_token(token)),
        onemirror_protocol::Step::Demote { .. } => Step::Demote(at, image),
        onemirror_protocol::Step::Promote { .. } => Step::Promote(at, image),
        onemirror_protocol::Step::PromoteStale { .. } => Step::PromoteStale(at, image),
        onemirror_protocol::Step::SetAside { .. } => {
            return vec![Step::NoteLost(at, image), Step::Rename(at, image), Step::StopMirroring(at, image)];
        }
        onemirror_protocol::Step::Resync { .. } => {
            return vec![
                Step::NoteResync(at, image, Note::AboutToAsk),
                Step::Resync(at, image),
                Step::NoteResync(at, image, Note::Asked),
            ];
        }
    }]
}

/// The token of a force that outranks no more than what it has seen.
pub fn forced_without_stride(site: Site, view: &View) -> Token {
    let there = match view.there {
        CopyThere::Seen(copy) if copy.exists => copy.metadata.token,
        _ => None,
    };
    let newest = view.here.metadata.token.max(there).map(real_token);
    model_token(&onemirror_protocol::Token::open_after(newest.as_ref(), NAMES[site]))
}
