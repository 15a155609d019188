//! The product's own decision functions, fed with what a run has seen in the model.
//!
//! Daemons' reports and the time that is left are not part of the model's state: whatever they may say is tried.

use crate::mutation::Mutation;
use crate::storage::{Copy, Mark, Metadata, Mirroring, Note, Site, Token};
use crate::world::Vm;
use onemirror_protocol::{
    BootKind, Decision, Domain, Force, Forcing, Gate, Here, Home, ImageSpec, Keeping, Locks, Mode,
    Observation, PassOver, Patience, PeerUnreachable, PeerVm, Positions, Release, Report, Resync, Role, Rule,
    Seal, Side, SiteRole, Task, There, TokenSeen, Upkeep, WayOut,
};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
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

/// On whose behalf is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// May the VM boot?
    Gate {
        /// From saved memory.
        restore: bool,
        /// Both locks are held.
        both_locks: bool,
    },
    /// What an operator's force takes over from a cluster that answers.
    TakeOver {
        /// Both locks are held.
        both_locks: bool,
    },
    /// Give the images up.
    Release {
        /// The VM here uses it.
        in_use: bool,
    },
    /// What is left to do?
    Upkeep {
        /// The VM here uses it.
        in_use: bool,
        /// The VM here runs.
        running: bool,
    },
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

/// What is to be done, in the model's terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The VM may boot; the release is over; nothing is left to do.
    Done,
    /// The other lock is needed.
    LockThere,
    /// Do this and look again.
    Act(Vec<Step>),
    /// Let go and look again.
    Wait,
    /// Do this and refuse.
    Refuse(Vec<Step>, Option<Rule>),
    /// Reconcile: go on with a release.
    GoOn,
    /// A forced failover: take these images over first, one bit each.
    TakeOver(u8),
}

type Key = (Site, Question, Vec<View>, Mutation);

thread_local! {
    static KNOWN: RefCell<HashMap<Key, Rc<Vec<Answer>>>> = RefCell::default();
}

/// Everything that the product may answer, whatever the reports say and however much time is left.
pub fn answers(site: Site, question: Question, views: &[View], mutation: Mutation) -> Rc<Vec<Answer>> {
    let key = (site, question, views.to_vec(), mutation);
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
        return known;
    }
    let mut all = Vec::new();
    for patience in [Patience::Fresh, Patience::Waning, Patience::Exhausted] {
        for report in &REPORTS {
            let answer = answer(site, question, views, &|_| report.clone(), patience, mutation);
            if !all.contains(&answer) {
                all.push(answer);
            }
        }
    }
    let all = Rc::new(all);
    KNOWN.with_borrow_mut(|known| known.insert(key, all.clone()));
    all
}

/// What the product answers to these reports, of image and copy here (`true`) or there.
pub fn answer(
    site: Site,
    question: Question,
    views: &[View],
    report: &dyn Fn((usize, bool)) -> Report,
    patience: Patience,
    mutation: Mutation,
) -> Answer {
    let observations: Vec<Observation> = views
        .iter()
        .map(|view| {
            let reports = [report((view.image, true)), report((view.image, false))];
            let mut observation = observation(site, view, reports);
            let is_used = matches!(question, Question::Release { in_use: true });
            observation.used_here_by = is_used.then_some(OTHER_VM);
            mutation.blur(question, site, &mut observation);
            observation
        })
        .collect();
    let (here, there) = (NAMES[site], NAMES[1 - site]);
    let vm = vm_id(site);
    let role = role(site);
    match question {
        Question::Gate { restore, both_locks } => {
            let boot = if restore && mutation != Mutation::RestoreAnyway {
                BootKind::Restore
            } else {
                BootKind::Cold
            };
            let gate = Gate { boot, locks: locks(both_locks), ..gate(site, patience) };
            translate(site, gate.judge(&observations).decision, mutation)
        }
        Question::TakeOver { both_locks } => {
            let (pass_over, locks) = (PassOver::Doubts, locks(both_locks));
            let gate = Gate { pass_over, locks, ..gate(site, patience) };
            translate(site, gate.judge(&observations).decision, mutation)
        }
        Question::Release { .. } => {
            let release =
                Release { here, there, role, vm, patience, locks: Locks::Here, closing_id: CLOSING_ID };
            translate(site, release.judge(&observations).judgement.decision, mutation)
        }
        Question::Upkeep { in_use, running } => {
            let upkeep = Upkeep {
                here,
                there,
                role,
                in_use_here: in_use,
                // there is one on either site
                has_user_here: true,
                running_here: running.then_some(vm),
                ended_here: None,
            };
            let Some(observation) = observations.first() else { return Answer::Done };
            match upkeep.judge(observation).task {
                // passing a VM on is a boot at the other site, which may happen at any time anyway
                Task::Nothing | Task::Undecided | Task::PassOn => Answer::Done,
                Task::Act(steps) => Answer::Act(translate_steps(site, steps, mutation)),
                Task::Release { .. } => Answer::GoOn,
            }
        }
    }
}

fn role(site: Site) -> SiteRole {
    if site == 0 { SiteRole::Home } else { SiteRole::Recovery }
}

/// A VM that shares the disk.
const OTHER_VM: i32 = 99;

fn locks(both: bool) -> Locks {
    if both { Locks::Both } else { Locks::Here }
}

/// The gate of a site, before a cold boot and with both locks.
fn gate(site: Site, patience: Patience) -> Gate<'static> {
    Gate {
        here: NAMES[site],
        there: NAMES[1 - site],
        role: role(site),
        vm: vm_id(site),
        boot: BootKind::Cold,
        peer_unreachable: PeerUnreachable::RefuseAfterReboot,
        pass_over: PassOver::Nothing,
        disks_made: true,
        patience,
        locks: Locks::Both,
        closing_id: CLOSING_ID,
    }
}

/// Everything that the product may answer to an operator's force of these images, whatever the reports say.
pub fn forcings(site: Site, views: &[View], patience: Patience) -> Vec<Vec<Forcing>> {
    let open_there = BTreeSet::new();
    let force = Force { gate: gate(site, patience), site_is_off: false, open_there: &open_there };
    let judge = |report: &Report| {
        let reports = [report.clone(), report.clone()];
        let seen = views.iter().map(|view| observation(site, view, reports.clone()));
        force.judge(&seen.collect::<Vec<Observation>>())
    };
    let mut all = Vec::new();
    for report in &REPORTS {
        let forcings = judge(report);
        if !all.contains(&forcings) {
            all.push(forcings);
        }
    }
    all
}

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

fn translate(site: Site, decision: Decision, mutation: Mutation) -> Answer {
    match decision {
        Decision::Done => Answer::Done,
        Decision::LockThere => Answer::LockThere,
        Decision::Act(steps) => Answer::Act(translate_steps(site, steps, mutation)),
        Decision::Wait { .. } => Answer::Wait,
        Decision::Refuse { refusal, then } => {
            Answer::Refuse(translate_steps(site, then, mutation), refusal.rule)
        }
    }
}

fn translate_steps(site: Site, steps: Vec<onemirror_protocol::Step>, mutation: Mutation) -> Vec<Step> {
    let mut steps: Vec<Step> = steps.iter().flat_map(|step| translate_step(site, step)).collect();
    mutation.damage(&mut steps);
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

/// The token of a promotion that an operator forces, after the newest that is known.
pub fn forced_token(site: Site, newest: Option<Token>, mutation: Mutation) -> Token {
    let newest = newest.map(real_token);
    model_token(&match mutation {
        Mutation::ForceWithoutStride => onemirror_protocol::Token::open_after(newest.as_ref(), NAMES[site]),
        _ => onemirror_protocol::Token::forced_after(newest.as_ref(), NAMES[site]),
    })
}
