//! What `list`, `show` and `plan` tell; nothing is changed.

use super::error::EngineError;
use super::gate::{closing_id, observations};
use super::images::VmImages;
use super::observe::{Purpose, Seen};
use super::reconcile::UserHere;
use super::sites::Engine;
use crate::ceph::{Ceph, ImageStatus, ReplayState, StatusReport};
use crate::handoff::{
    Copy, Decision, Finding, Here, Locks, Mode, Patience, PeerVm, Release, ReleaseJudgement, Role, Rule, Step,
    Task, There, TokenSeen,
};
use std::collections::BTreeMap;

/// One copy of an image.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CopyView {
    /// `primary`, `half demoted`, `non-primary`, `absent`, `not mirrored`, `unreachable`, or empty where it was not asked.
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
    pub disk_id: i32,
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
    /// How far the copy that follows is behind, as reported.
    pub lag: Option<String>,
    /// What is undone about the image, if anything.
    pub handoff: Option<String>,
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
    /// Whether it has a CONTEXT section; without one nothing can hold a boot from POWEROFF.
    pub has_context: bool,
    /// Its disks on Ceph.
    pub disks: Vec<DiskView>,
    /// Why its disks could not be looked at.
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
}

/// Everything at a glance.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Overview {
    /// This site.
    pub site: String,
    /// `home` or `recovery`.
    pub role: crate::config::Role,
    /// The peer.
    pub peer: String,
    /// VMs with a disk on Ceph.
    pub vms: Vec<VmView>,
    /// Images of VMs that are gone.
    pub pending: Vec<PendingView>,
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

type Reports = BTreeMap<String, ImageStatus>;

impl Engine {
    /// All VMs of this site with a disk on Ceph, and what terminated ones left undone.
    pub async fn overview(&self) -> Result<Overview, EngineError> {
        let mut vms = Vec::new();
        let mut used = std::collections::BTreeSet::new();
        let mut reports = BTreeMap::new();
        for vm in self.one_here.vm_pool().await.map_err(|error| self.error_here(error))? {
            let (id, name, state, has_context) = (vm.id, vm.name.clone(), vm.state_name(), vm.has_context);
            match self.images_of(vm).await {
                Ok(vm_images) if vm_images.images.is_empty() => {}
                Ok(vm_images) => {
                    used.extend(vm_images.images.iter().map(|image| image.spec().clone()));
                    vms.push(self.vm_view(&vm_images, &mut reports).await);
                }
                Err(error) => vms.push(VmView {
                    id,
                    name,
                    state,
                    has_context,
                    disks: Vec::new(),
                    error: Some(error.to_string()),
                }),
            }
        }
        let mut unused = BTreeMap::new();
        self.add_unused_images(&mut unused).await?;
        let mut pending = Vec::new();
        for image in unused.into_values().filter(|image| !used.contains(image.spec())) {
            let seen = match self.observe(&[image], Purpose::Upkeep).await {
                Ok(seen) => seen,
                Err(error) => {
                    tracing::warn!("{error}");
                    continue;
                }
            };
            pending.extend(seen.iter().filter_map(|seen| {
                let (vm, handoff) = self.undone(seen, None)?;
                Some(PendingView { image: seen.spec().to_string(), vm, handoff })
            }));
        }
        Ok(Overview {
            site: self.here().to_owned(),
            role: self.config.site.role,
            peer: self.there().to_owned(),
            vms,
            pending,
        })
    }

    /// One VM of this site.
    pub async fn show(&self, vm: i32) -> Result<VmView, EngineError> {
        let vm_images = self.vm_images(vm).await?;
        Ok(self.vm_view(&vm_images, &mut BTreeMap::new()).await)
    }

    async fn vm_view(&self, vm_images: &VmImages, reports: &mut BTreeMap<String, Reports>) -> VmView {
        let vm = &vm_images.vm;
        let user = UserHere::of(vm);
        let mut view = VmView {
            id: vm.id,
            name: vm.name.clone(),
            state: vm.state_name(),
            has_context: vm.has_context,
            disks: Vec::new(),
            error: None,
        };
        let seen = match self.observe(&vm_images.images, Purpose::Boot).await {
            Ok(seen) => seen,
            Err(error) => {
                view.error = Some(error.to_string());
                return view;
            }
        };
        for seen in &seen {
            let pool = seen.spec().pool_spec();
            if seen.global_id.is_some() && !reports.contains_key(&pool) {
                let status = seen.image.cluster.pool_status(&pool).await;
                let images = status.map(|status| status.images).unwrap_or_default();
                reports.insert(
                    pool.clone(),
                    images.into_iter().map(|image| (image.name.clone(), image)).collect(),
                );
            }
            let status = reports.get(&pool).and_then(|images| images.get(seen.spec().image()));
            view.disks.push(self.disk_view(seen, status, user));
        }
        view
    }

    fn disk_view(&self, seen: &Seen, status: Option<&ImageStatus>, user: UserHere) -> DiskView {
        let report_here = status.and_then(|status| status.local.as_ref());
        let report_there = status.and_then(|status| status.peers.get(self.there()));
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
            There::Absent => bare("absent"),
            There::Apart(_) => bare("another image"),
            There::Mirrored(copy) => copy_view(copy, text(report_there)),
        };
        let vm_there = match &observation.vm_there {
            PeerVm::NotAsked => None,
            PeerVm::Unknown => Some("unknown".into()),
            PeerVm::None => Some("none".into()),
            PeerVm::Inactive { vm, state }
            | PeerVm::LettingGo { vm, state }
            | PeerVm::Active { vm, state } => Some(format!("{vm} {state}")),
        };
        DiskView {
            disk_id: seen.image.disk.disk_id,
            image: seen.spec().to_string(),
            mode: mode.map(str::to_owned),
            here,
            there,
            vm_there,
            lag: [report_here, report_there].into_iter().flatten().find_map(lag),
            handoff: self.undone(seen, Some(user)).map(|(_, handoff)| handoff),
        }
    }

    /// What upkeep would still have to do about an image.
    fn undone(&self, seen: &Seen, user: Option<UserHere>) -> Option<(Option<i32>, String)> {
        let judgement = self.judge_upkeep(seen, user);
        match judgement.task {
            Task::Nothing => None,
            Task::Act(steps) => Some((None, format!("to do: {}", step_names(&steps).join(", ")))),
            Task::Release { vm } => {
                let id = closing_id();
                let rules = Release {
                    here: self.here(),
                    there: self.there(),
                    vm,
                    in_use_here: false,
                    patience: Patience::Exhausted,
                    locks: Locks::Here,
                    closing_id: &id,
                };
                let ReleaseJudgement { pending, .. } = rules.judge(std::slice::from_ref(&seen.observation));
                let cause =
                    pending.first().map_or("reconcile will finish it", |pending| pending.cause.as_str());
                Some((Some(vm), format!("handoff pending: {cause}")))
            }
            Task::PassOn { vm } => {
                Some((None, format!("handed over; VM {vm} of {} not resumed yet", self.there())))
            }
            Task::Undecided if judgement.finding.rule == Rule::UpkeepTokenUnread => {
                Some((None, "its handoff token is not understood; see: onemirror plan".into()))
            }
            Task::Undecided => Some((None, "split brain: an operator has to decide".into())),
        }
    }

    /// What a boot and a terminate of the VM would do now.
    pub async fn plan(&self, vm: i32) -> Result<Plan, EngineError> {
        let vm_images = self.vm_images(vm).await?;
        let boot_kind = super::activity::saved_memory(&vm_images.vm);
        let seen = self.observe(&vm_images.images, Purpose::Boot).await?;
        let id = closing_id();
        let gate = self.gate_rules(vm, boot_kind, false, Patience::Fresh, Locks::Both, &id);
        let judgement = gate.judge(&observations(&seen));
        let boot = plan_part(&judgement.decision, &judgement.findings, "boot");
        let terminate = if self.config.releases_on(crate::config::ReleaseOn::Terminate) {
            let seen = self.observe(&vm_images.images, Purpose::Release).await?;
            let rules = Release {
                here: self.here(),
                there: self.there(),
                vm,
                in_use_here: false,
                patience: Patience::Fresh,
                locks: Locks::Here,
                closing_id: &id,
            };
            let ReleaseJudgement { judgement, pending } = rules.judge(&observations(&seen));
            let mut part = plan_part(&judgement.decision, &judgement.findings, "nothing to hand over");
            for pending in pending {
                part.decision = format!("handoff would stay pending: {} {}", pending.image, pending.cause);
            }
            part
        } else {
            PlanPart {
                decision: "left to the stock driver".into(),
                steps: Vec::new(),
                rules: Vec::new(),
                refused: false,
            }
        };
        Ok(Plan { vm, state: vm_images.vm.state_name(), boot, terminate })
    }
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
            let at = if step.side() == crate::handoff::Side::Here { "here" } else { "there" };
            format!("{} {} {at}", step.name(), step.image())
        })
        .collect()
}

fn plan_part(decision: &Decision, findings: &[Finding], done: &str) -> PlanPart {
    let (text, steps, refused) = match decision {
        Decision::Done => (done.to_owned(), Vec::new(), false),
        Decision::LockThere => ("look again under the locks of both sites".to_owned(), Vec::new(), false),
        Decision::Act(steps) => ("these steps, then look again".to_owned(), step_names(steps), false),
        Decision::Wait { what, image } => (format!("wait for {what} ({image})"), Vec::new(), false),
        Decision::Refuse { refusal, then } => (format!("refuse: {refusal}"), step_names(then), true),
    };
    let rules =
        findings.iter().map(|finding| format!("{}: {}", finding.image, finding.rule.name())).collect();
    PlanPart { decision: text, steps, rules, refused }
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
