//! The product's own [`Run`], asked with what a run has seen in the model.
//!
//! Daemons' reports and the time that is left are not part of the model's state: whatever they may say is tried.

use crate::mutation::Mutation;
use crate::process::Process;
use crate::storage::{Copy, Mark, Metadata, Mirroring, Note, OF_ANOTHER, Site, Token};
use crate::world::Vm;
use onemirror_protocol::{
    Activity, BOOTED_KEY, Belongs, BootKind, Carried, Depth, Domain, Event, FORCED_KEY, Here, Home,
    ImageSpec, ImageUser, Keeping, Lateness, LetGo, Marks, Mode, Observation, Patience, PeerUnreachable,
    PeerVm, Positions, RELEASE_KEY, Report, Request, Residence, Resync, Role, Rule, Run, Seal, Setting, Side,
    SiteRole, Standing, TOKEN_KEY, Task, There, Time, Trouble, Users, UsesHere, Verdict, WayOut, written_for,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
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
    /// It is a clone that was made for the VM here.
    pub made_here: bool,
    /// A second VM here has the image, too.
    pub shared_here: bool,
    /// The VM there, and whether a second one has the image; `None`: its front-end did not answer, or was not asked.
    pub users_there: Option<(Vm, bool)>,
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
    /// What it waited for has come.
    Came,
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
    /// Writes down that it belongs to that site.
    Home(Site, usize, Site),
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
            | Self::Home(_, image, _)
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
            | Self::Home(site, ..)
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
    Refused(Rule),
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
    let mut seen: Vec<Observation> = views.iter().map(|view| seen(question, view, report)).collect();
    let mut told = told;
    loop {
        let event = match told {
            Told::Go => Event::Go,
            Told::Came => Event::Came,
            Told::Saw => Event::Saw(&seen, time),
            Told::Locked => Event::Locked,
            Told::Acted(carried) => Event::Acted(carried, time),
            Told::Failed(trouble) => Event::Failed(trouble, time),
        };
        let steps = |steps| translate_steps(site, steps, views, mutation);
        let order = match run.next(&setting(site), event) {
            // every image is its VM's own, and has a home
            Request::Claim { .. } | Request::AskWriters => {
                told = Told::Saw;
                continue;
            }
            // the VM that boots is no user of its own, and a force begins where it is off
            Request::AskUsers(users @ (Users::Others | Users::All)) => {
                for (seen, view) in seen.iter_mut().zip(views) {
                    seen.used_here_by = users.first(Some(vm_id(site)), second(view.shared_here));
                }
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
    let Question { site, rules, mutation, .. } = *question;
    let reports = [report((view.image, true)), report((view.image, false))];
    let mut seen = observation(question, view, reports);
    let users = mutation.users(rules, users(site, question.vm_here, view.shared_here));
    match rules {
        Rules::Release { at_its_end } => {
            let let_go = if at_its_end { LetGo::ByEndingVm } else { LetGo::Earlier };
            seen.used_here_by = Users::Since(let_go).first(Some(vm_id(site)), users);
        }
        Rules::Upkeep => {
            let in_use = Users::Uses.first(None, users).is_some();
            let own = (question.vm_here == Vm::Running).then_some(vm_id(site));
            let running = own.or(view.shared_here.then_some(SECOND_VM));
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

/// A second VM of a site that has the image.
pub const SECOND_VM: i32 = 99;

fn second(is_there: bool) -> Option<ImageUser> {
    is_there.then_some(ImageUser { vm: SECOND_VM, activity: Activity::Holding })
}

fn users(site: Site, vm: Vm, shared: bool) -> Vec<ImageUser> {
    let activity = match vm {
        Vm::Off => Activity::Inactive,
        Vm::LettingGo => Activity::LettingGo,
        Vm::Pending => Activity::ToBeStarted,
        Vm::Booting | Vm::Cleared | Vm::Running | Vm::Saved | Vm::Restoring | Vm::RestoreCleared => {
            Activity::Holding
        }
    };
    [ImageUser { vm: vm_id(site), activity }].into_iter().chain(second(shared)).collect()
}

/// Whether the copy here, which a VM here let go of, belongs here.
pub fn belongs_here(process: &Process, view: &View, mutation: Mutation) -> bool {
    let mut copy = copy(view, view.here, Positions::Unknown, Report::Other, mutation);
    mutation.blur_home(&mut copy);
    let setting = setting(process.site);
    let residence = Residence { here: setting.here, there: setting.there, role: setting.role };
    residence.of(&copy, view.made_here) == Belongs::Here
}

/// What is seen of one image, with these reports on the copy here and there.
fn observation(question: &Question, view: &View, reports: [Report; 2]) -> Observation {
    let Question { site, mutation, .. } = *question;
    let [report_here, report_there] = reports;
    let here = match view.here.exists {
        true => Here::Mirrored(copy(view, view.here, view.positions[0], report_here, mutation)),
        false => Here::Absent,
    };
    let there = match view.there {
        CopyThere::Unreachable => There::Unreachable,
        CopyThere::Seen(seen) if seen.exists => {
            There::Mirrored(copy(view, seen, view.positions[1], report_there, mutation))
        }
        CopyThere::Seen(_) => There::Absent,
    };
    let (vm, state) = (vm_id(1 - site), String::new());
    let active = |vm, domain, way_out| PeerVm::Active { vm, state: String::new(), domain, way_out };
    let vm_there = match view.users_there {
        None => PeerVm::Silent,
        Some((_, true)) => active(SECOND_VM, Domain::MayLive, WayOut::PowerOff),
        Some((Vm::Off, false)) => PeerVm::Inactive { vm, state },
        Some((Vm::LettingGo, false)) => PeerVm::LettingGo { vm, state },
        Some((Vm::Saved, false)) => active(vm, Domain::Gone, WayOut::ResumeFirst),
        Some((Vm::Pending, false)) if mutation == Mutation::PendingIsFree => PeerVm::Inactive { vm, state },
        Some((Vm::Pending, false)) => active(vm, Domain::MayLive, WayOut::Hold),
        Some((_, false)) => active(vm, Domain::MayLive, WayOut::PowerOff),
    };
    Observation {
        here,
        there,
        vm_there,
        made_here: view.made_here,
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

fn copy(
    view: &View,
    seen: Copy,
    positions: Positions,
    report: Report,
    mutation: Mutation,
) -> onemirror_protocol::Copy {
    let counted: &[&str] =
        if mutation == Mutation::CountForeignMarks { &[OWN_ID, OTHER_ID] } else { &[OWN_ID] };
    let Marks { token, booted, release, forced, .. } = Marks::read(&written(seen.metadata), counted);
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
        token,
        is_unbound: false,
        booted,
        release,
        forced,
        other_site_is_off: false,
        home: match seen.metadata.home {
            Some(home) => Home::At { site: NAMES[home].into(), is_former: false },
            None => Home::Unset,
        },
        report,
        resync: match (seen.resync, seen.noted) {
            (true, _) => Resync::Asked,
            (false, Note::None) => Resync::None,
            (false, Note::AboutToAsk | Note::Asked) => Resync::Noted,
        },
        positions,
    }
}

/// The global id of the image, and of the one that it is a clone of.
const OWN_ID: &str = "own";
const OTHER_ID: &str = "other";

/// The metadata as it stands in the image.
fn written(metadata: Metadata) -> BTreeMap<String, String> {
    let id = |sequence| if sequence == OF_ANOTHER { OTHER_ID } else { OWN_ID };
    let marks =
        [(BOOTED_KEY, metadata.booted), (RELEASE_KEY, metadata.release), (FORCED_KEY, metadata.forced)];
    let marks = marks.into_iter().filter_map(|(key, mark)| {
        let mark = mark?;
        Some((key.to_owned(), written_for(&real_mark(mark), id(mark.sequence))))
    });
    let token = metadata
        .token
        .map(|token| (TOKEN_KEY.to_owned(), written_for(&real_token(token), id(token.sequence))));
    marks.chain(token).collect()
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
        onemirror_protocol::Step::WriteHome { site: home, .. } => Step::Home(at, image, site_of(home)),
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
