//! What `list`, `show` and `plan` tell; nothing is changed.

use super::boot;
use super::failover;
use super::lost::{self, LostImage};
use super::pass_on::{self, PassOn};
use super::protection::{self, Watched};
use super::undone::{self, Undone};
use crate::ceph::{ImageStatus, ReplayState, StatusReport};
use crate::opennebula::{Vm, VmState};
use crate::protection::Concern;
use crate::sites::look::{Belonging, Seen};
use crate::sites::places::Places;
use crate::sites::{
    NotReached, RunError, Sites, Start, VmImage, VmImages, activity, drive, images, look, pools, start, users,
};
use onemirror_protocol::advice::{Advice, Place};
use onemirror_protocol::{
    Belongs, BootKind, Copy, Decision, Depth, Finding, Here, Locks, Mode, Patience, PeerVm, ReleaseJudgement,
    Role, Rule, Step, Task, There, TokenSeen, Unfit, UserHere, released_by,
};
use std::collections::{BTreeMap, BTreeSet};

/// One copy of an image.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CopyView {
    /// `primary`, `half demoted`, `non-primary`, `absent`, `not mirrored`, `unreachable`, `denied` (it answers and tells nothing), or empty where it was not asked.
    pub role: String,
    /// The handoff token it shows.
    pub token: Option<String>,
    /// What its daemon last reported; up to 30 s and more old.
    pub report: Option<String>,
}

/// One disk.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DiskView {
    /// The disk's id within the VM.
    pub disk_id: Option<i32>,
    /// `pool[/namespace]/image`.
    pub image: String,
    /// `journal`, `snapshot`, or nothing for one that is not mirrored.
    pub mode: Option<String>,
    /// The copy in this site's cluster.
    pub here: CopyView,
    /// The copy in the peer's cluster.
    pub there: CopyView,
    /// The VM there that uses the image, where it was asked.
    pub vm_there: Option<String>,
    /// The site that it belongs to; nothing where that is not known, or where it is not mirrored.
    pub home: Option<String>,
    /// How far the copy that follows is behind, as reported.
    pub lag: Option<String>,
    /// What is undone about the image, if anything.
    pub handoff: Option<String>,
    /// What to do about that, where somebody has to.
    pub advice: Option<Advice>,
}

/// One VM of this site.
#[derive(Clone, Debug, serde::Serialize)]
pub struct VmView {
    /// Its id.
    pub id: i32,
    /// Its name, as its user chose it.
    pub name: String,
    /// Its state in oned's words.
    pub state: String,
    /// It is gone for good.
    #[serde(skip)]
    pub is_done: bool,
    /// Whether it has a CONTEXT section; without one nothing can hold a boot from POWEROFF.
    pub has_context: bool,
    /// Its disks on Ceph, as far as they could be looked at.
    pub disks: Vec<DiskView>,
    /// What is wrong with their protection.
    pub concerns: Vec<Concern>,
    /// What a boot would do now; only of one VM that is shown, and is at rest.
    pub boot: Option<PlanPart>,
    /// Why disks could not be looked at.
    pub error: Option<String>,
}

/// An image without a VM here that something is undone about.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PendingView {
    /// `pool[/namespace]/image`.
    pub image: String,
    /// The terminated VM that let it go.
    pub vm: Option<i32>,
    /// What is undone and why.
    pub handoff: String,
    /// What to do about that, where somebody has to.
    pub advice: Option<Advice>,
}

/// Everything at a glance.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Overview {
    /// This site.
    pub site: String,
    /// `home` or `recovery`.
    pub role: crate::config::ConfiguredRole,
    /// The peer.
    pub peer: String,
    /// VMs with a disk on Ceph.
    pub vms: Vec<VmView>,
    /// Images of VMs that are gone.
    pub pending: Vec<PendingView>,
    /// What is wrong with the protection of disks and of images that no VM uses.
    pub concerns: Vec<Concern>,
    /// What could not be looked at.
    pub not_reached: Vec<NotReached>,
    /// Copies that were outranked and set aside on this site.
    pub lost: Vec<LostImage>,
}

/// What would be done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PlanPart {
    /// In words.
    pub decision: String,
    /// The steps, in order.
    pub steps: Vec<String>,
    /// `image: rule`, why.
    pub rules: Vec<String>,
    /// Whether it would be refused.
    pub refused: bool,
    /// What the refusal is known by in OpenNebula and in docs/refusals.md.
    pub code: Option<String>,
    /// The rule that refuses.
    pub refused_by: Option<Rule>,
    /// What to do about the refusal.
    pub advice: Option<Advice>,
}

/// What a boot and a terminate of a VM would do now.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Plan {
    /// The VM's id.
    pub vm: i32,
    /// Its state in oned's words.
    pub state: String,
    /// `onevm resume`, or any other boot.
    pub boot: PlanPart,
    /// `onevm terminate`.
    pub terminate: PlanPart,
}

impl Overview {
    /// Whether nothing is undone, every disk is protected, and everything could be looked at.
    pub fn is_in_order(&self) -> bool {
        let vm_is = |vm: &VmView| vm.error.is_none() && vm.disks.iter().all(|disk| disk.handoff.is_none());
        let protected = self.concerns.is_empty();
        protected && self.not_reached.is_empty() && self.pending.is_empty() && self.vms.iter().all(vm_is)
    }
}

/// All VMs of this site with a disk on Ceph, and what terminated ones left undone. What cannot be looked at keeps
/// nothing else waiting.
pub async fn overview(sites: &Sites) -> Result<Overview, RunError> {
    let of_here = async {
        let vms = sites.here.ask(async |one| one.vm_pool().await);
        futures::try_join!(vms, pools::images_registered(sites))
    };
    let (of_here, registered_there) = futures::join!(of_here, protection::registered_there(sites));
    let (machines, registered) = of_here?;
    let (pools, mut not_reached) = pools::pools_here(sites, &registered).await?;
    let lost = lost::lost_among(sites, &registered).await?;
    drop(registered);
    let watched = protection::watch(sites, pools, registered_there).await;
    not_reached.extend(watched.full_there.iter().cloned());
    let (mut reached, mut used) = (Vec::new(), BTreeSet::new());
    for vm in machines {
        let (vm_images, errors) = images::images_reached(sites, vm).await;
        if !vm_images.images.is_empty() || !errors.is_empty() {
            let way = vm_images.images.first().map_or(0, |image| image.cluster.number());
            let keys = pools::keys_of(vm_images.images.clone()).await;
            used.extend(keys.into_iter().map(|(key, _)| key));
            reached.push((way, (vm_images, errors)));
        }
    }
    let mut vms = pools::by_cluster_in_places(reached, async |(vm_images, errors), places| {
        vm_view(sites, &vm_images, errors, &watched, Some(places)).await
    })
    .await;
    vms.sort_by_key(|vm| vm.id);
    let unused = watched.others(&used).map(|(image, _)| (image.cluster.number(), image)).collect();
    let pending =
        pools::by_cluster_in_places(unused, async |image, places| pending_views(sites, image, places).await)
            .await;
    let mut overview = Overview {
        site: sites.here.name().to_owned(),
        role: sites.config().site.role,
        peer: sites.there.name().to_owned(),
        concerns: vms.iter().flat_map(|vm| vm.concerns.clone()).collect(),
        vms,
        pending: pending.into_iter().flatten().collect(),
        not_reached,
        lost,
    };
    overview.pending.sort_by(|a, b| a.image.cmp(&b.image));
    overview.concerns.extend(protection::concerns_of_others(sites, &watched, &used).await);
    Ok(overview)
}

/// What is undone about an image that no VM uses.
async fn pending_views(sites: &Sites, image: VmImage, places: &Places) -> Vec<PendingView> {
    let name = image.spec().to_string();
    match undone::look_in_place(sites, &image, places).await {
        Ok(None) => {
            let handoff = lost::BEING_SET_ASIDE.to_owned();
            vec![PendingView { image: name, vm: None, handoff, advice: None }]
        }
        Ok(Some(seen)) => {
            let mut views = Vec::new();
            for seen in &seen {
                let undone = what_is_undone(sites, seen, None).await;
                let homeless = || homeless(sites, seen, None).map(|what| (None, what));
                if let Some((vm, Undone { text, advice })) = undone.or_else(homeless) {
                    views.push(PendingView { image: name.clone(), vm, handoff: text, advice });
                }
            }
            views
        }
        // it may well be pending; nobody can tell
        Err(error) => {
            vec![PendingView { image: name, vm: None, handoff: error.coded(), advice: None }]
        }
    }
}

/// One VM of this site.
pub async fn show(sites: &Sites, vm: i32) -> Result<VmView, RunError> {
    let mut vm = sites.here.ask(async |one| one.vm(vm).await).await?;
    if vm.state == VmState::Done {
        // its disks are nobody's, or another VM's
        vm.disks.clear();
    }
    let (vm_images, errors) = images::images_reached(sites, vm).await;
    let ((pools, not_reached), registered_there) =
        futures::join!(pools::pools_of(sites, &vm_images.images), protection::registered_there(sites));
    let watched = protection::watch(sites, pools, registered_there).await;
    let mut view = vm_view(sites, &vm_images, errors, &watched, None).await;
    let is_seen = view.error.is_none();
    if is_seen {
        view.error = not_reached.into_iter().next().map(|it| format!("{}: {}", it.what, it.why));
    }
    let at_rest = !matches!(start::start_of(&vm_images.vm), Start::UnderWay | Start::Never);
    if is_seen && at_rest {
        let seen = look::observe(sites, &vm_images.images, Depth::Boot).await?;
        view.boot = Some(plan_boot(sites, &vm_images.vm, &seen).await);
    }
    Ok(view)
}

async fn plan_boot(sites: &Sites, vm: &Vm, seen: &[Seen]) -> PlanPart {
    if let Some((full, advice)) = without_room(sites, seen).await {
        let rule = Rule::NoRoomHere;
        return PlanPart {
            decision: format!("refuse: {full}; {advice}"),
            steps: Vec::new(),
            rules: Vec::new(),
            refused: true,
            code: rule.code().map(|code| code.to_string()),
            refused_by: Some(rule),
            advice: Some(advice),
        };
    }
    let judge = |patience| boot::would_judge(sites, vm, seen, patience);
    let judgement = judge(Patience::Fresh);
    let part = plan_part(&judgement.decision, &judgement.findings, "boot");
    if !matches!(judgement.decision, Decision::Wait { .. }) {
        return part;
    }
    let judgement = judge(Patience::Exhausted);
    let in_vain = plan_part(&judgement.decision, &judgement.findings, "boot");
    PlanPart {
        decision: format!("{}; in vain: {}", part.decision, in_vain.decision),
        refused: false,
        ..in_vain
    }
}

/// A mirrored disk whose pool here has no room: nobody can lock or mark it.
async fn without_room(sites: &Sites, seen: &[Seen]) -> Option<(String, Advice)> {
    for seen in seen.iter().filter(|seen| look::is_seen_mirrored(seen)) {
        let pool = seen.spec().pool();
        if let Some(fullness) = seen.image.cluster.lacks_room_still(pool).await {
            let (image, here) = (seen.spec().image(), sites.here.name());
            let full = format!("{image}: pool {pool} of {here} is full ({fullness})");
            return Some((full, fullness.advice(pool, Place::Here)));
        }
    }
    None
}

/// `errors` tell which disks could not be told. `places`: there are other VMs to look at.
async fn vm_view(
    sites: &Sites,
    vm_images: &VmImages,
    errors: Vec<RunError>,
    watched: &Watched,
    places: Option<&Places>,
) -> VmView {
    let vm = &vm_images.vm;
    let user = users::user_here(vm);
    let mut errors: Vec<String> = errors.iter().map(RunError::coded).collect();
    let mut by_way: BTreeMap<u64, Vec<VmImage>> = BTreeMap::new();
    for image in &vm_images.images {
        by_way.entry(image.cluster.number()).or_default().push(image.clone());
    }
    let mut seen = Vec::new();
    for images in by_way.into_values() {
        let look = look::look(sites, &images, Depth::Boot);
        let looked = match (places, images.first()) {
            (Some(places), Some(first)) => {
                places.look(first.cluster.site(), first.spec(), look).await.and_then(|seen| seen)
            }
            _ => look.await,
        };
        match looked {
            Ok(found) => seen.extend(found),
            Err(error) => errors.push(error.coded()),
        }
    }
    seen.sort_by_key(|seen| seen.image.disk_id);
    look::tell_sets_apart(sites, &mut seen);
    errors.dedup();
    let mut disks = Vec::new();
    for one in &seen {
        let pool = pools::pool_id(&one.image.cluster, &one.spec().pool_spec()).await;
        let status = watched.reports(&pool).and_then(|reports| reports.of(one.spec()));
        let mut disk = disk_view(sites, one, status);
        let undone = what_is_undone(sites, one, Some(user)).await.map(|(_, handoff)| handoff);
        let undone = undone
            .or_else(|| missing(sites, one, vm))
            .or_else(|| stuck(sites, one, &seen, vm))
            .or_else(|| not_started_yet(sites, one, &seen, vm))
            .or_else(|| homeless(sites, one, Some(user.vm)));
        if let Some(Undone { text, advice }) = undone {
            (disk.handoff, disk.advice) = (Some(text), advice);
        }
        disks.push(disk);
    }
    VmView {
        id: vm.id,
        name: vm.name.clone(),
        state: vm.state_name(),
        is_done: vm.state == VmState::Done,
        has_context: vm.has_context,
        disks,
        concerns: protection::concerns_of_vm(sites, vm_images, &seen, watched).await,
        boot: None,
        error: (!errors.is_empty()).then(|| errors.join("; ")),
    }
}

fn disk_view(sites: &Sites, seen: &Seen, status: Option<&ImageStatus>) -> DiskView {
    let report_here = status.and_then(|status| status.local.as_ref());
    // there is one other site, by whichever name
    let report_there = status.and_then(|status| match &status.peers[..] {
        [(_, only)] => Some(only),
        _ => status.of_peer(sites.there.name()),
    });
    let text = |report: Option<&StatusReport>| report.map(|report| report.description.clone());
    let observation = &seen.observation;
    let (here, mode) = match &observation.here {
        Here::Absent => (bare("absent"), None),
        Here::NotMirrored => (bare("not mirrored"), None),
        Here::Mirrored(copy) => (copy_view(copy, text(report_here)), Some(mode_name(copy.mode))),
    };
    let there = match &observation.there {
        There::NotAsked => bare(""),
        There::Unreachable => bare("unreachable"),
        There::Denied(_) => bare("denied"),
        There::Absent => bare("absent"),
        There::Apart(_) => bare("another image"),
        There::Mirrored(copy) => copy_view(copy, text(report_there)),
    };
    let vm_there = match &observation.vm_there {
        PeerVm::NotAsked => None,
        PeerVm::Silent | PeerVm::Denied(_) => Some("unknown".into()),
        PeerVm::None => Some("none".into()),
        PeerVm::Inactive { vm, state }
        | PeerVm::LettingGo { vm, state }
        | PeerVm::Active { vm, state, .. } => Some(format!("{vm} {state}")),
    };
    DiskView {
        disk_id: seen.image.disk_id,
        image: seen.spec().to_string(),
        mode: mode.map(str::to_owned),
        here,
        there,
        vm_there,
        home: home_of(sites, seen).map(str::to_owned),
        lag: [report_here, report_there].into_iter().flatten().find_map(lag),
        handoff: None,
        advice: None,
    }
}

/// A disk that is not here, of a VM that is.
fn missing(sites: &Sites, seen: &Seen, vm: &Vm) -> Option<Undone> {
    let has_it = activity::has_its_disks(vm) || !seen.image.is_own();
    if seen.observation.here != Here::Absent || !has_it {
        return None;
    }
    if let Some(refusal) = failover::would_refuse(sites, vm, std::slice::from_ref(seen)) {
        return Some(Undone::refused(refusal));
    }
    let there = sites.there.name();
    let what = match &seen.observation.there {
        There::Apart(_) => {
            format!("is not here; on {there} is an image of its name that is not mirrored")
        }
        _ => format!("is not here, and not on {there}"),
    };
    let restore = || Advice::decide("restore it from a backup");
    let set_aside = go_on_with_set_aside(sites, vm, seen);
    Some(Undone::needs(what, set_aside.unwrap_or_else(restore)))
}

/// A disk that no boot here takes until an operator has decided something.
fn stuck(sites: &Sites, seen: &Seen, all: &[Seen], vm: &Vm) -> Option<Undone> {
    let refusal = failover::would_refuse(sites, vm, all)?;
    let needs_an_operator = matches!(
        refusal.rule,
        Rule::NoProof
            | Rule::TokenConflict
            | Rule::TokenUnreadable
            | Rule::TokenNewer
            | Rule::ForcedInPart
            | Rule::OfTwoAges
    );
    (needs_an_operator && refusal.image == *seen.spec()).then(|| Undone::refused(refusal))
}

fn go_on_with_set_aside(sites: &Sites, vm: &Vm, seen: &Seen) -> Option<Advice> {
    let (id, standing) = (sites.closing_id(), boot::next_standing(vm));
    let gate = drive::setting(sites, Some(vm.id), &id).gate(
        BootKind::Cold,
        standing,
        Patience::Exhausted,
        Locks::Both,
    );
    let advice = gate.from_set_aside(&seen.observation)?;
    Some(advice.when("what there is to go on with"))
}

/// The site that a mirrored image belongs to.
fn home_of<'a>(sites: &'a Sites, seen: &'a Seen) -> Option<&'a str> {
    let Here::Mirrored(copy) = &seen.observation.here else { return None };
    match sites.residence().of(copy, seen.image.is_own()) {
        Belongs::Here => Some(sites.here.name()),
        Belongs::There => Some(sites.there.name()),
        Belongs::Unknown => None,
    }
}

/// What an operator has to decide about an image of which nobody knows where it belongs, on the site where that can
/// be written down.
fn homeless(sites: &Sites, seen: &Seen, vm: Option<i32>) -> Option<Undone> {
    let Here::Mirrored(copy) = &seen.observation.here else { return None };
    if copy.role != Role::Primary || home_of(sites, seen).is_some() {
        return None;
    }
    let image = seen.spec();
    let what = vm.map_or(format!("--image {image}"), |vm| vm.to_string());
    let (rehome, there) = (format!("onemirror rehome {what}"), sites.there.name());
    let to_there = Advice::command(Place::Here, format!("{rehome} --to {there}"));
    let to_decide = Advice::command(Place::Here, rehome)
        .when(format!("to decide that it is {}", sites.here.name()))
        .and(to_there.when(format!("that it is {there}")));
    Some(Undone::needs("where it belongs is not known", to_decide))
}

/// What upkeep would still have to do about an image.
async fn what_is_undone(sites: &Sites, seen: &Seen, user: Option<UserHere>) -> Option<(Option<i32>, Undone)> {
    let ended_here = undone::ended_here(sites, seen, user.as_slice()).await;
    let judgement = undone::judge_upkeep(sites, seen, user.as_slice(), ended_here);
    match judgement.task {
        Task::Nothing => None,
        Task::Act(steps) => {
            Some((None, Undone::by_itself(format!("reconcile will do: {}", step_names(&steps).join(", ")))))
        }
        Task::Release { vm } => {
            let id = sites.closing_id();
            let rules = drive::setting(sites, Some(vm), &id).release(Patience::Exhausted, Locks::Here);
            let ReleaseJudgement { pending, .. } = rules.judge(std::slice::from_ref(&seen.observation));
            let cause = pending.first().map_or("reconcile will finish it", |pending| pending.cause.as_str());
            Some((Some(vm), Undone::by_itself(format!("handoff pending: {cause}"))))
        }
        Task::PassOn => not_passed_on(sites, seen).await.map(|text| (None, text)),
        Task::Undecided => {
            let rule = judgement.finding.rule;
            let trouble = undone::trouble(sites, rule, &seen.observation, user.as_slice());
            let code = rule.code().map(|code| format!("{code} ")).unwrap_or_default();
            Some((None, Undone { text: format!("{code}{}", trouble.text), ..trouble }))
        }
    }
}

/// What keeps the peer's VM from being started on an image that this site has given up.
async fn not_passed_on(sites: &Sites, seen: &Seen) -> Option<Undone> {
    if !sites.config().policy.resume_on_peer {
        return None;
    }
    let there = sites.there.name();
    match pass_on::user_to_start(sites, &BTreeSet::from([seen.spec().clone()])).await {
        Ok(PassOn::Start { vm, state, how }) => {
            let command = format!("onevm {} {vm}", how.command()?);
            let advice = Advice::command(Place::There(there.to_owned()), command);
            Some(Undone::needs(format!("handed over; VM {vm} of {there} is {state}"), advice))
        }
        Ok(outcome) => {
            let advice = outcome.advice(there)?;
            Some(Undone::needs(format!("handed over; {}", outcome.is_so(there)), advice))
        }
        Err(error) => {
            Some(Undone::by_itself(format!("handed over; whether its VM runs there is unknown: {error}")))
        }
    }
}

/// The same on the site of that VM.
fn not_started_yet(sites: &Sites, seen: &Seen, all: &[Seen], vm: &Vm) -> Option<Undone> {
    let (Here::Mirrored(here), There::Mirrored(there)) = (&seen.observation.here, &seen.observation.there)
    else {
        return None;
    };
    let resting = here.role == Role::NonPrimary && there.role == Role::NonPrimary;
    if !sites.config().policy.resume_on_peer || !resting || !released_by(there, sites.there.name()) {
        return None;
    }
    // it is started once the other site has let go of all of them
    let is_kept =
        |one: &Seen| matches!(&one.observation.there, There::Mirrored(copy) if copy.role != Role::NonPrimary);
    if all.iter().any(is_kept) {
        return None;
    }
    let start = start::start_of(vm);
    let advice = match start {
        Start::ByHand(why) => why.advice(vm.id, Place::Here),
        _ => Advice::command(Place::Here, format!("onevm {} {}", start.command()?, vm.id)),
    };
    let what = format!("handed over by {}; VM {} is {}", sites.there.name(), vm.id, vm.state_name());
    Some(Undone::needs(what, advice))
}

/// What a boot and a terminate of the VM would do now.
pub async fn plan(sites: &Sites, vm: i32) -> Result<Plan, RunError> {
    let vm_images = images::vm_images(sites, vm).await?;
    if vm_images.vm.state == VmState::Done {
        return Err(RunError::Unfit(Unfit::VmIsDone { vm }));
    }
    let seen = look::observe(sites, &vm_images.images, Depth::Boot).await?;
    let boot = plan_boot(sites, &vm_images.vm, &seen).await;
    let id = sites.closing_id();
    let belongings = look::belongings(sites, &vm_images.images).await?;
    let is_away = belongings.iter().any(|belonging| {
        matches!(belonging, Belonging::GivenUp(_) | Belonging::Primary(Belongs::There | Belongs::Unknown))
    });
    let terminate = if is_away && sites.config().releases_on(crate::config::ReleaseOn::Terminate) {
        let seen = look::observe(sites, &vm_images.images, Depth::GiveUp).await?;
        let rules = drive::setting(sites, Some(vm), &id).release(Patience::Fresh, Locks::Here);
        let ReleaseJudgement { judgement, pending } = rules.judge(&drive::observations(&seen));
        let mut part = plan_part(&judgement.decision, &judgement.findings, "nothing to hand over");
        for pending in pending {
            part.decision = format!("handoff would stay pending: {} {}", pending.image, pending.cause);
        }
        if let Some((full, _)) = without_room(sites, &seen).await {
            (part.decision, part.steps) = (format!("handoff would stay pending: {full}"), Vec::new());
        }
        part
    } else {
        PlanPart {
            decision: "left to the stock driver".into(),
            steps: Vec::new(),
            rules: Vec::new(),
            refused: false,
            code: None,
            refused_by: None,
            advice: None,
        }
    };
    Ok(Plan { vm, state: vm_images.vm.state_name(), boot, terminate })
}

fn bare(role: &str) -> CopyView {
    CopyView { role: role.into(), token: None, report: None }
}

fn copy_view(copy: &Copy, report: Option<String>) -> CopyView {
    CopyView {
        role: match copy.role {
            Role::Primary => "primary",
            Role::HalfDemoted => "half demoted",
            Role::NonPrimary => "non-primary",
        }
        .into(),
        token: match &copy.token {
            TokenSeen::None => None,
            TokenSeen::Some(token) => Some(token.to_string()),
            TokenSeen::OfAnother(_) => Some("(another image's)".into()),
            TokenSeen::Newer => Some("(of a later onemirror)".into()),
            TokenSeen::Unreadable => Some("(unreadable)".into()),
        },
        report,
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Journal => "journal",
        Mode::Snapshot => "snapshot",
    }
}

fn step_names(steps: &[Step]) -> Vec<String> {
    steps
        .iter()
        .map(|step| {
            let at = step.side().name();
            format!("{} {} {at}", step.name(), step.image())
        })
        .collect()
}

fn plan_part(decision: &Decision, findings: &[Finding], done: &str) -> PlanPart {
    let (mut refused_by, mut advice) = (None, None);
    let (text, steps, refused) = match decision {
        Decision::Done => (done.to_owned(), Vec::new(), false),
        Decision::LockThere => ("look again under the locks of both sites".to_owned(), Vec::new(), false),
        Decision::Act(steps) => ("these steps, then look again".to_owned(), step_names(steps), false),
        Decision::Wait { what, image } => (format!("wait for {what} ({image})"), Vec::new(), false),
        Decision::Refuse { refusal, then } => {
            refused_by = Some(refusal.rule);
            advice = Some(refusal.advice.clone());
            (format!("refuse: {refusal}"), step_names(then), true)
        }
    };
    let rules =
        findings.iter().map(|finding| format!("{}: {}", finding.image, finding.rule.name())).collect();
    let code = refused_by.and_then(Rule::code).map(|code| code.to_string());
    PlanPart { decision: text, steps, rules, refused, code, refused_by, advice }
}

/// How far a copy is behind, in the words of its report.
fn lag(report: &StatusReport) -> Option<String> {
    match &report.replay {
        ReplayState::Replaying(progress) => {
            Some(match (progress.entries_behind_primary, &progress.replay_state) {
                (Some(0), _) => "in step".into(),
                (Some(entries), _) => match progress.seconds_until_synced {
                    Some(seconds) => format!("{entries} entries, {seconds} s"),
                    None => format!("{entries} entries"),
                },
                (None, Some(state)) if state == "idle" => "in step".into(),
                (None, Some(state)) => match progress.syncing_percent {
                    Some(percent) => format!("{state} {percent} %"),
                    None => state.clone(),
                },
                (None, None) => return None,
            })
        }
        ReplayState::Syncing { percent: Some(percent) } => Some(format!("copying {percent} %")),
        ReplayState::Syncing { percent: None } => Some("copying".into()),
        ReplayState::SplitBrain => Some("split-brain".into()),
        _ => None,
    }
}
