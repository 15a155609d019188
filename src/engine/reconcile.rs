//! The reconcile run: finds and finishes what events left undone. Everything is derived from what OpenNebula and
//! Ceph say now, so an event that was lost costs time and never data.

use super::CONCURRENCY;
use super::activity::{Activity, activity, is_running};
use super::error::EngineError;
use super::images::VmImage;
use super::locks::Owner;
use super::observe::{Purpose, Seen};
use super::pass_on::PassOn;
use super::release::LetGo;
use super::sites::Engine;
use super::steps::{Cause, HeldLocks};
use crate::audit::Outcome;
use crate::ceph::Ceph;
use crate::handoff::{Rule, Side, Task, Upkeep, UpkeepJudgement};
use crate::image_spec::ImageSpec;
use crate::opennebula::{DatastoreKind, DiskImage, DiskKind, Vm};
use futures::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What was found and done about one image.
#[derive(Debug, serde::Serialize)]
pub struct ReconcileItem {
    /// The image, as `pool[/namespace]/image`.
    pub image: String,
    /// The VM here that uses it, if any.
    pub vm: Option<i32>,
    /// The rule that decided; empty where the image could not be looked at.
    pub rule: Option<Rule>,
    /// What was done, in words.
    pub done: String,
    /// Why it went wrong, if it did.
    pub error: Option<String>,
}

/// What a reconcile run did. Images about which there was nothing to do are only counted.
#[derive(Debug, Default, serde::Serialize)]
pub struct ReconcileReport {
    /// How many mirrored images were looked at.
    pub looked_at: usize,
    /// Those with something to tell.
    pub items: Vec<ReconcileItem>,
}

impl ReconcileReport {
    /// Whether everything that was tried worked.
    pub fn is_clean(&self) -> bool {
        self.items.iter().all(|item| item.error.is_none())
    }
}

/// A VM of this site as far as upkeep cares.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserHere {
    vm: i32,
    in_use: bool,
    running: bool,
}

impl UserHere {
    pub(super) fn of(vm: &Vm) -> Self {
        Self { vm: vm.id, in_use: activity(vm) != Activity::Inactive, running: is_running(vm) }
    }
}

impl Engine {
    /// Looks at every mirrored image of this site's Ceph datastores and finishes what is undone.
    pub async fn reconcile(&self) -> Result<ReconcileReport, EngineError> {
        let mut users: BTreeMap<ImageSpec, UserHere> = BTreeMap::new();
        let mut images: BTreeMap<ImageSpec, VmImage> = BTreeMap::new();
        for vm in self.one_here.vm_pool().await.map_err(|error| self.error_here(error))? {
            let user = UserHere::of(&vm);
            match self.images_of(vm).await {
                Ok(vm_images) => {
                    for image in vm_images.images {
                        // of two VMs with the same disk the one that is in use counts
                        let known = users.entry(image.spec().clone()).or_insert(user);
                        if (user.running, user.in_use) > (known.running, known.in_use) {
                            *known = user;
                        }
                        images.insert(image.spec().clone(), image);
                    }
                }
                Err(error) => tracing::warn!("VM {}: {error}", user.vm),
            }
        }
        self.add_unused_images(&mut images).await?;
        let images: Vec<VmImage> = images.into_values().collect();
        self.keep_up(&images, &users).await
    }

    /// The same for the images of one VM of this site.
    pub async fn reconcile_vm(&self, vm: i32) -> Result<ReconcileReport, EngineError> {
        let vm_images = self.vm_images(vm).await?;
        let user = UserHere::of(&vm_images.vm);
        let users = vm_images.images.iter().map(|image| (image.spec().clone(), user)).collect();
        self.keep_up(&vm_images.images, &users).await
    }

    /// Mirrored images that no VM here uses: what terminated VMs left behind.
    pub(super) async fn add_unused_images(
        &self,
        images: &mut BTreeMap<ImageSpec, VmImage>,
    ) -> Result<(), EngineError> {
        let datastores = self.one_here.datastore_pool().await.map_err(|error| self.error_here(error))?;
        let mut pools_seen = BTreeSet::new();
        for datastore in datastores.iter().filter(|datastore| datastore.tm_mad == "ceph") {
            let Some(pool) = datastore.pool_name.clone() else { continue };
            if datastore.kind == DatastoreKind::File || !pools_seen.insert(pool.clone()) {
                continue;
            }
            let cluster = self.cluster_here(datastore).await?;
            let status = match cluster.pool_status(&pool).await {
                Ok(status) => status,
                // a pool without mirroring has no status
                Err(error) if !error.is_unreachable() => {
                    tracing::debug!("pool {pool}: {error}");
                    continue;
                }
                Err(error) => {
                    tracing::warn!("pool {pool}: {error}");
                    continue;
                }
            };
            for status in status.images {
                let Ok(spec) = format!("{pool}/{}", status.name).parse::<ImageSpec>() else { continue };
                images.entry(spec.clone()).or_insert_with(|| VmImage {
                    disk: DiskImage {
                        disk_id: -1,
                        image: spec,
                        kind: DiskKind::Persistent,
                        datastore_id: datastore.id,
                        base: None,
                    },
                    cluster: cluster.clone(),
                });
            }
        }
        Ok(())
    }

    async fn keep_up(
        &self,
        images: &[VmImage],
        users: &BTreeMap<ImageSpec, UserHere>,
    ) -> Result<ReconcileReport, EngineError> {
        let mut report = ReconcileReport::default();
        let mut to_pass_on: BTreeMap<i32, Vec<VmImage>> = BTreeMap::new();
        let looked_at: Vec<_> = stream::iter(images.iter().map(|image| async move {
            (image, self.observe(std::slice::from_ref(image), Purpose::Upkeep).await)
        }))
        .buffered(CONCURRENCY)
        .collect()
        .await;
        for (image, seen) in looked_at {
            let user = users.get(image.spec()).copied();
            let item = |rule, done: String, error: Option<String>| ReconcileItem {
                image: image.spec().to_string(),
                vm: user.map(|user| user.vm),
                rule,
                done,
                error,
            };
            let seen = match seen {
                Ok(seen) => seen,
                Err(error) => {
                    report.items.push(item(None, String::new(), Some(error.to_string())));
                    continue;
                }
            };
            report.looked_at += seen.iter().filter(|seen| seen.global_id.is_some()).count();
            let Some(judgement) = seen.first().map(|seen| self.judge_upkeep(seen, user)) else { continue };
            let rule = judgement.finding.rule;
            match judgement.task {
                Task::Nothing => {}
                Task::Undecided => {
                    let trouble = match rule {
                        Rule::UpkeepInUseHere => "stale here, and a VM uses it; power the VM off so that it can be copied back",
                        Rule::UpkeepTokenUnread => "its handoff token is not understood; see: onemirror plan",
                        _ => "primary on both sites, and only an operator can tell which to keep; see: onemirror show",
                    };
                    report.items.push(item(Some(rule), String::new(), Some(trouble.into())));
                }
                Task::Act(_) => {
                    let (done, error) = match self.act_under_locks(image, user, &seen).await {
                        Ok(done) => (done, None),
                        Err(error) => (String::new(), Some(error.to_string())),
                    };
                    report.items.push(item(Some(rule), done, error));
                }
                Task::Release { vm } => {
                    let (done, error) = self.go_on_with_release(vm, image).await;
                    if error.is_none() {
                        to_pass_on.entry(vm).or_default().push(image.clone());
                    }
                    report.items.push(item(Some(rule), done, error));
                }
                Task::PassOn { vm: _ } => {
                    let vm = seen.first().and_then(released_for).unwrap_or(-1);
                    to_pass_on.entry(vm).or_default().push(image.clone());
                }
            }
        }
        for (vm, images) in to_pass_on {
            let names: Vec<String> = images.iter().map(|image| image.spec().to_string()).collect();
            let (done, error) = match self.pass_on_all_of(vm, images).await {
                Ok(PassOn::NotAsked) => continue,
                Ok(outcome) => (outcome.to_string(), None),
                Err(error) => (String::new(), Some(error.to_string())),
            };
            let rule = Some(Rule::UpkeepPassOn);
            report.items.push(ReconcileItem { image: names.join(" "), vm: Some(vm), rule, done, error });
        }
        Ok(report)
    }

    pub(super) fn judge_upkeep(&self, seen: &Seen, user: Option<UserHere>) -> UpkeepJudgement {
        Upkeep {
            here: self.here(),
            in_use_here: user.is_some_and(|user| user.in_use),
            running_here: user.filter(|user| user.running).map(|user| user.vm),
        }
        .judge(&seen.observation)
    }

    /// Takes the locks, looks at the VM here and the image again, and does what is still to be done.
    async fn act_under_locks(
        &self,
        image: &VmImage,
        user: Option<UserHere>,
        seen: &[Seen],
    ) -> Result<String, EngineError> {
        let owner = Owner::this_process(self.here(), &self.state_dir);
        let mut locks = HeldLocks::default();
        let result = async {
            self.lock(&mut locks, Side::Here, seen, &owner).await?;
            self.lock(&mut locks, Side::There, seen, &owner).await?;
            let user = self.user_now(image, user).await?;
            let seen = self.observe(std::slice::from_ref(image), Purpose::Upkeep).await?;
            let Some(judgement) = seen.first().map(|seen| self.judge_upkeep(seen, user)) else {
                return Ok(String::new());
            };
            let Task::Act(steps) = judgement.task else { return Ok("settled meanwhile".to_owned()) };
            let cause = Cause { vm: user.map(|user| user.vm), findings: &[judgement.finding] };
            self.carry_out(&steps, &seen, &locks, &cause).await?;
            Ok(steps.iter().map(|step| step.name()).collect::<Vec<_>>().join(", "))
        }
        .await;
        locks.release().await;
        result
    }

    /// Who uses the image here now, asked under the lock: the pool that the run began with is old by now.
    async fn user_now(
        &self,
        image: &VmImage,
        user: Option<UserHere>,
    ) -> Result<Option<UserHere>, EngineError> {
        if let Some(user) = user {
            let vm = self.one_here.vm(user.vm).await.map_err(|error| self.error_here(error))?;
            return Ok(Some(UserHere::of(&vm)));
        }
        let users = self
            .users_here(&BTreeSet::from([image.spec().clone()]))
            .await
            .map_err(|error| self.error_here(error))?;
        let busiest = users.into_values().flatten().max_by_key(|user| user.activity);
        Ok(busiest.map(|user| UserHere {
            vm: user.vm,
            in_use: user.activity != Activity::Inactive,
            running: false,
        }))
    }

    async fn go_on_with_release(&self, vm: i32, image: &VmImage) -> (String, Option<String>) {
        match self.release(vm, std::slice::from_ref(image), LetGo::Earlier, Duration::from_secs(5)).await {
            Ok(outcome) => match outcome.pending.first() {
                Some(pending) => (format!("handoff pending: {}", pending.cause), None),
                None => ("handed over".to_owned(), None),
            },
            Err(error) => (String::new(), Some(error.to_string())),
        }
    }

    /// Passes the VM on once all of its images are given up, also those that this run had nothing to do with.
    async fn pass_on_all_of(&self, vm: i32, images: Vec<VmImage>) -> Result<PassOn, EngineError> {
        let all = match self.vm_images(vm).await {
            Ok(vm_images) if !vm_images.images.is_empty() => vm_images.images,
            _ => images,
        };
        self.pass_on(vm, &all).await
    }

    /// Writes the run into the audit log, where it did something.
    pub fn note_reconcile(&self, report: &ReconcileReport, started: Instant) {
        for item in report.items.iter().filter(|item| item.error.is_some()) {
            let image = item.image.parse::<ImageSpec>().ok();
            let rule = item.rule.map_or("", Rule::name);
            self.note(
                item.vm,
                image.as_ref(),
                rule,
                "reconcile",
                Outcome::Failed,
                item.error.clone(),
                started,
            );
        }
    }
}

/// The VM whose release gave the image up.
fn released_for(seen: &Seen) -> Option<i32> {
    match &seen.observation.here {
        crate::handoff::Here::Mirrored(copy) => copy.release.as_ref().map(|mark| mark.vm),
        _ => None,
    }
}
