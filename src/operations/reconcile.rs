//! The reconcile run: finds and finishes what events left undone. Everything is derived from what OpenNebula and
//! Ceph say now, so an event that was lost costs time and never data.

use super::give_up;
use super::lost;
use super::pass_on::{self, PassOn};
use super::protection;
use super::undone;
use crate::audit::Outcome;
use crate::opennebula::Vm;
use crate::sites::drive::Subject;
use crate::sites::journal::{Attempt, Ground};
use crate::sites::look::Seen;
use crate::sites::places::Places;
use crate::sites::pools::ImageKey;
use crate::sites::{
    NotReached, RunError, Sites, VmImage, VmImages, activity, drive, images, journal, pools, set_aside, users,
};
use crate::state::{locked_before, remember_locked};
use onemirror_protocol::{Here, ImageSpec, LetGo, Rule, Run, Step, Task, Unfit, UserHere, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// What was found and done about one image.
#[derive(Debug, Default, serde::Serialize)]
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
    /// What that is known by in docs/refusals.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Who works at the image, if that is why nothing was done.
    pub locked_by: Option<String>,
}

impl ReconcileItem {
    /// What an error comes to: that another run works at the image is no trouble yet.
    fn of_error(image: String, vm: Option<i32>, rule: Option<Rule>, error: &RunError) -> Self {
        let locked_by = match error {
            RunError::Locked { holder, .. } => Some(holder.clone()),
            _ => None,
        };
        let (code, error) = (Some(error.code().to_string()), Some(error.to_string()));
        Self { image, vm, rule, error, code, locked_by, ..Self::default() }
    }
}

/// What a reconcile run did. Images about which there was nothing to do are only counted.
#[derive(Debug, Default, serde::Serialize)]
pub struct ReconcileReport {
    /// How many mirrored images were looked at.
    pub looked_at: usize,
    /// Those with something to tell.
    pub items: Vec<ReconcileItem>,
    /// Datastores and VMs that could not be looked at.
    pub not_reached: Vec<NotReached>,
}

impl ReconcileReport {
    /// Whoever holds a lock is alive, or was a moment ago: what that run works at is not undone, unless the run `before` this
    /// one met a lock as well. It is said once for all of a run's images. Returns the images that are locked.
    fn pass_over_locked(&mut self, before: &BTreeSet<String>) -> BTreeSet<String> {
        let mut by_holder: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut locked = BTreeSet::new();
        self.items.retain(|item| {
            let Some(holder) = &item.locked_by else { return true };
            locked.insert(item.image.clone());
            let passed_over = !before.contains(&item.image);
            if passed_over {
                by_holder.entry(holder.clone()).or_default().push(item.image.clone());
            }
            !passed_over
        });
        for (holder, images) in by_holder {
            let (image, done) = (images.join(" "), format!("another run works at it: {holder}"));
            let locked_by = Some(holder);
            self.items.push(ReconcileItem { image, done, locked_by, ..ReconcileItem::default() });
        }
        locked
    }
}

/// An image to look at, and all VMs here that use it: a disk may be shared, and an image registered twice. What one of them
/// does with it must not be done to the others.
struct ImageWithUsers {
    image: VmImage,
    users: Vec<UserHere>,
}

/// What came of that.
#[derive(Default)]
struct KeptUp {
    is_mirrored: bool,
    item: Option<ReconcileItem>,
    /// The VM whose release gave the image up.
    to_pass_on: Option<(Option<i32>, VmImage)>,
    /// The VM here that ran on a copy which has to give way: it is copied back, or set aside first.
    to_give_way: Option<Option<i32>>,
}

/// Looks at every mirrored image of this site's Ceph datastores and finishes what is undone. What cannot be looked at
/// keeps nothing else waiting, and is told at the end.
pub async fn reconcile(sites: &Sites) -> Result<ReconcileReport, RunError> {
    let (vms, registered) =
        futures::try_join!(sites.here.ask(async |one| one.vm_pool().await), pools::images_registered(sites))?;
    let (pools, mut not_reached) = pools::pools_here(sites, &registered).await?;
    drop(registered);
    let (mut images, mut users) = (Vec::new(), Vec::new());
    for vm in vms {
        let user = users::user_here(&vm);
        if let Err(error) = take_back_refusal(sites, &vm).await {
            tracing::warn!("VM {}: {error}", vm.id);
        }
        let (vm_images, errors) = images::images_reached(sites, vm).await;
        users.extend(vm_images.images.iter().map(|_| user));
        images.extend(vm_images.images);
        not_reached.extend(errors.into_iter().map(|error| of_vm(user.vm, &error)));
    }
    let mut kept: BTreeMap<ImageKey, ImageWithUsers> = BTreeMap::new();
    for ((key, image), user) in pools::keys_of(images).await.into_iter().zip(users) {
        kept.entry(key).or_insert(ImageWithUsers { image, users: Vec::new() }).users.push(user);
    }
    // and what terminated VMs left behind
    for pool in &pools {
        for image in pool.images() {
            let key = (pool.id.clone(), image.spec().clone());
            kept.entry(key).or_insert(ImageWithUsers { image, users: Vec::new() });
        }
    }
    let mut report = keep_up(sites, kept.into_values().collect()).await;
    report.not_reached = not_reached;
    let locked = report.pass_over_locked(&locked_before(sites.state_dir()));
    if let Err(error) = remember_locked(sites.state_dir(), &locked) {
        tracing::warn!("{error}");
    }
    if let Err(error) = lost::drop_old_lost(sites).await {
        tracing::warn!("{error}");
    }
    Ok(report)
}

/// The same for the images of one VM of this site.
pub async fn reconcile_vm(sites: &Sites, vm: i32) -> Result<ReconcileReport, RunError> {
    reconcile_images(sites, &images::vm_images(sites, vm).await?).await
}

/// The same for a VM that was asked for just now.
pub async fn reconcile_images(sites: &Sites, vm_images: &VmImages) -> Result<ReconcileReport, RunError> {
    let known = users::user_here(&vm_images.vm);
    let specs = vm_images.images.iter().map(|image| image.spec().clone()).collect();
    let mut users = users::users_now(sites, &specs, &[known]).await?;
    let kept = vm_images.images.iter().cloned().map(|image| {
        let users = users.remove(image.spec()).unwrap_or_default();
        ImageWithUsers { image, users }
    });
    Ok(keep_up(sites, kept.collect()).await)
}

/// Takes back the refusal that stands in `USER_TEMPLATE/ERROR` of a VM that runs all the same by now: ours, and nothing
/// else that a user or oned has written.
pub async fn take_back_refusal(sites: &Sites, vm: &Vm) -> Result<(), RunError> {
    if !activity::is_running(vm) || !vm.user_error.as_deref().is_some_and(crate::sites::is_own_refusal) {
        return Ok(());
    }
    let started = sites.time().now();
    let front_end = sites.here.reached()?;
    let result = front_end.vm_update_append(vm.id, "ERROR=\"\"").await;
    let (outcome, reason) = match &result {
        Ok(()) => (Outcome::Done, None),
        Err(error) => (Outcome::Failed, Some(error.to_string())),
    };
    let attempt = Attempt { vm: Some(vm.id), ..Attempt::at("take-back-error", started) };
    journal::note(sites, &attempt, outcome, reason);
    result.map_err(|error| sites.here.error(error))
}

async fn keep_up(sites: &Sites, images: Vec<ImageWithUsers>) -> ReconcileReport {
    let images = images.into_iter().map(|kept| (kept.image.cluster.number(), kept)).collect();
    let mut report = ReconcileReport::default();
    let mut to_pass_on: BTreeMap<Option<i32>, Vec<VmImage>> = BTreeMap::new();
    let mut to_give_way: BTreeMap<Option<i32>, Vec<ImageWithUsers>> = BTreeMap::new();
    let mut no_room = BTreeSet::new();
    let looks = pools::by_cluster_in_places(images, async |kept, places| {
        (keep_one_up(sites, &kept, places).await, kept)
    });
    for (kept_up, kept) in looks.await {
        if kept_up.item.as_ref().is_some_and(|item| item.rule == Some(Rule::UpkeepNoRoomToKeep)) {
            no_room.extend(kept.users.iter().map(|user| user.vm));
        }
        if let Some(vm) = kept_up.to_give_way {
            to_give_way.entry(vm).or_default().push(kept);
        }
        report.looked_at += usize::from(kept_up.is_mirrored);
        report.items.extend(kept_up.item);
        if let Some((vm, image)) = kept_up.to_pass_on {
            to_pass_on.entry(vm).or_default().push(image);
        }
    }
    for (vm, together) in to_give_way {
        if vm.is_some_and(|vm| no_room.contains(&vm)) {
            let error = RunError::Unfit(Unfit::WaitsForAnotherDisk);
            report.items.extend(together.iter().map(|kept| {
                let image = kept.image.spec().to_string();
                ReconcileItem::of_error(image, vm, Some(Rule::UpkeepNoRoomToKeep), &error)
            }));
            continue;
        }
        // without a VM nothing tells which of them belong together
        let most = if vm.is_some() { together.len() } else { 1 };
        for together in together.chunks(most) {
            report.items.extend(act_on(sites, together).await);
        }
    }
    for (vm, mut images) in to_pass_on {
        images.sort_by(|a, b| a.spec().cmp(b.spec()));
        let names: Vec<String> = images.iter().map(|image| image.spec().to_string()).collect();
        let mut code = None;
        let (done, error) = match pass_on_all_of(sites, vm, images).await {
            Ok(PassOn::NotAsked) => continue,
            Ok(outcome) if outcome.advice(sites.there.name()).is_some() => {
                (String::new(), Some(outcome.tell(sites.there.name())))
            }
            Ok(outcome) => (outcome.tell(sites.there.name()), None),
            Err(error) => {
                code = Some(error.code().to_string());
                (String::new(), Some(error.to_string()))
            }
        };
        let rule = Some(Rule::UpkeepPassOn);
        let image = names.join(" ");
        let locked_by = None;
        report.items.push(ReconcileItem { image, vm, rule, done, error, code, locked_by });
    }
    report.items.sort_by(|a, b| a.image.cmp(&b.image));
    report
}

/// Looks at one image and does what is due.
async fn keep_one_up(sites: &Sites, kept: &ImageWithUsers, places: &Places) -> KeptUp {
    let ImageWithUsers { image, users } = kept;
    let mut kept_up = KeptUp::default();
    let (name, vm) = (image.spec().to_string(), users.first().map(|user| user.vm));
    let failed = |error: &RunError| ReconcileItem::of_error(name.clone(), vm, None, error);
    let seen = match undone::look_in_place(sites, image, places).await {
        Ok(Some(seen)) => seen,
        Ok(None) => {
            kept_up.item = Some(places.act(finished(sites, image)).await);
            return kept_up;
        }
        Err(error) => {
            kept_up.item = Some(failed(&error));
            return kept_up;
        }
    };
    kept_up.is_mirrored = seen.iter().any(|seen| seen.global_id.is_some());
    let due = async {
        match protection::send_new_name(sites, &seen).await {
            Ok(None) => {}
            Ok(Some(left)) => {
                let (image, done) = (name.clone(), format!("mirror-snapshot {left}"));
                kept_up.item = Some(ReconcileItem { image, vm, done, ..ReconcileItem::default() });
            }
            Err(error) => kept_up.item = Some(failed(&error)),
        }
        if let Some(first) = seen.first() {
            do_what_is_due(sites, kept, first, &mut kept_up).await;
        }
    };
    places.act(due).await;
    kept_up
}

/// What is due of an image that was just seen.
async fn do_what_is_due(sites: &Sites, kept: &ImageWithUsers, seen: &Seen, kept_up: &mut KeptUp) {
    let ImageWithUsers { image, users } = kept;
    let judgement = undone::judge_upkeep(sites, seen, users, undone::ended_here(sites, seen, users).await);
    let rule = judgement.finding.rule;
    let vm = users.first().map(|user| user.vm);
    let item = |done: String, error: Option<String>| ReconcileItem {
        image: image.spec().to_string(),
        vm,
        rule: Some(rule),
        done,
        error,
        ..ReconcileItem::default()
    };
    match judgement.task {
        Task::Nothing => {}
        Task::Undecided => {
            let trouble = undone::trouble(sites, rule, &seen.observation, users);
            let code = rule.code().map(|code| code.to_string());
            kept_up.item = Some(ReconcileItem { code, ..item(String::new(), Some(trouble.text)) });
        }
        // disks of one VM that are copied back belong together, and so do those that are set aside for it
        Task::Act(steps)
            if steps.iter().any(|step| matches!(step, Step::SetAside { .. } | Step::Resync { .. })) =>
        {
            kept_up.to_give_way = Some(vm.or_else(|| booted_by(seen)));
        }
        Task::Act(_) => kept_up.item = act_on(sites, std::slice::from_ref(kept)).await.pop(),
        Task::Release { vm } => {
            kept_up.item = Some(match go_on_with_release(sites, vm, image).await {
                Ok(done) => {
                    kept_up.to_pass_on = Some((Some(vm), image.clone()));
                    item(done, None)
                }
                Err(error) => {
                    let name = image.spec().to_string();
                    ReconcileItem::of_error(name, Some(vm), Some(rule), &error)
                }
            });
        }
        Task::PassOn => kept_up.to_pass_on = Some((released_for(seen), image.clone())),
    }
}

/// The end of what a killed run began.
async fn finished(sites: &Sites, image: &VmImage) -> ReconcileItem {
    let (image, ended) = (image.spec().to_string(), set_aside::finish_set_aside(sites, image).await);
    match ended {
        Ok(()) => {
            let done = "set aside".to_owned();
            ReconcileItem { image, done, ..ReconcileItem::default() }
        }
        Err(error) => ReconcileItem::of_error(image, None, None, &error),
    }
}

/// Acts on images, all of one VM, and tells what was done about each.
async fn act_on(sites: &Sites, together: &[ImageWithUsers]) -> Vec<ReconcileItem> {
    let names =
        together.iter().map(|kept| (kept.image.spec().to_string(), kept.users.first().map(|user| user.vm)));
    match tidy(sites, together).await {
        Ok(done) => names
            .zip(done)
            .map(|((image, vm), (rule, done))| {
                let rule = Some(rule);
                ReconcileItem { image, vm, rule, done, error: None, code: None, locked_by: None }
            })
            .collect(),
        Err(error) => names.map(|(image, vm)| ReconcileItem::of_error(image, vm, None, &error)).collect(),
    }
}

/// Has done what is still to be done, and tells the rule and the steps of each.
async fn tidy(sites: &Sites, together: &[ImageWithUsers]) -> Result<Vec<(Rule, String)>, RunError> {
    let images: Vec<VmImage> = together.iter().map(|kept| kept.image.clone()).collect();
    let known: Vec<Vec<UserHere>> = together.iter().map(|kept| kept.users.clone()).collect();
    let (order, limit) = (None, sites.config().policy.sync_timeout);
    let subject = Subject { vm: None, images: &images, known: &known, order, limit };
    let driven = drive::drive(sites, Run::tidy(), &subject).await;
    match driven.verdict {
        Verdict::Tidied => Ok(images.iter().filter_map(|image| driven.told_of(image.spec())).collect()),
        Verdict::NotTogether => Err(RunError::Unfit(Unfit::WaitsForAnotherDisk)),
        _ => Err(driven.error()),
    }
}

async fn go_on_with_release(sites: &Sites, vm: i32, image: &VmImage) -> Result<String, RunError> {
    let (images, limit) = (std::slice::from_ref(image), Duration::from_secs(5));
    let outcome = give_up::release(sites, vm, images, LetGo::Earlier, limit).await?;
    Ok(match outcome.pending.first() {
        Some(pending) => format!("handoff pending: {}", pending.cause),
        None => "handed over".to_owned(),
    })
}

/// Passes the VM on once all of its images are given up, also those that this run had nothing to do with.
async fn pass_on_all_of(sites: &Sites, vm: Option<i32>, images: Vec<VmImage>) -> Result<PassOn, RunError> {
    let all = match vm {
        Some(vm) => images::vm_images(sites, vm).await.map(|vm_images| vm_images.images).unwrap_or_default(),
        None => Vec::new(),
    };
    let all = if all.is_empty() { images } else { all };
    pass_on::pass_on(sites, vm, &all).await
}

/// Writes the run into the audit log, where it did something.
pub fn note_reconcile(sites: &Sites, report: &ReconcileReport, started: Instant) {
    for NotReached { what, why } in &report.not_reached {
        let why = Some(format!("{what}: {why}"));
        journal::note(sites, &Attempt::at("reconcile", started), Outcome::Failed, why);
    }
    for item in report.items.iter().filter(|item| item.error.is_some()) {
        let image = item.image.parse::<ImageSpec>().ok();
        let attempt = Attempt {
            vm: item.vm,
            image: image.as_ref(),
            ground: item.rule.map(Ground::Rule),
            ..Attempt::at("reconcile", started)
        };
        journal::note(sites, &attempt, Outcome::Failed, item.error.clone());
    }
}

/// Why disks of a VM could not be looked at.
pub(crate) fn of_vm(vm: i32, error: &RunError) -> NotReached {
    NotReached { what: format!("VM {vm}"), why: error.coded() }
}

/// The VM that was last booted on it.
fn booted_by(seen: &Seen) -> Option<i32> {
    match &seen.observation.here {
        Here::Mirrored(copy) => copy.booted.as_ref().map(|mark| mark.vm),
        Here::Absent | Here::NotMirrored => None,
    }
}

/// The VM whose release gave the image up.
fn released_for(seen: &Seen) -> Option<i32> {
    match &seen.observation.here {
        Here::Mirrored(copy) => copy.release.as_ref().map(|mark| mark.vm),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_run_works_at_is_told_once_and_is_undone_at_the_second_look() {
        let locked = |image: &str| {
            let spec: ImageSpec = image.parse().unwrap();
            let error = RunError::Locked { image: spec, holder: "process 7 of site-a".into() };
            ReconcileItem::of_error(image.to_owned(), Some(3), None, &error)
        };
        let failed = || {
            let error = RunError::Unfit(Unfit::Bug);
            ReconcileItem::of_error("one/z".to_owned(), None, None, &error)
        };
        let images = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let after = |items, before: &[&str]| {
            let mut report = ReconcileReport { looked_at: 3, items, not_reached: Vec::new() };
            let locked = report.pass_over_locked(&images(before));
            let told: Vec<_> =
                report.items.iter().map(|item| (item.image.clone(), item.error.is_some())).collect();
            (told, locked)
        };
        let (told, now) = after(vec![locked("one/a"), locked("one/b")], &["one/c"]);
        assert_eq!(told, [("one/a one/b".to_owned(), false)]);
        assert_eq!(now, images(&["one/a", "one/b"]));
        let (told, now) = after(vec![locked("one/a"), locked("one/b")], &["one/a"]);
        assert_eq!(told, [("one/a".to_owned(), true), ("one/b".to_owned(), false)]);
        assert_eq!(now, images(&["one/a", "one/b"]));
        let (told, now) = after(vec![failed()], &["one/z"]);
        assert_eq!((told, now.len()), (vec![("one/z".to_owned(), true)], 0));
    }
}
