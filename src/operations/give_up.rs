//! A release carried out: the images that a VM let go of are given up, or stay pending.

use crate::audit::Outcome;
use crate::ceph::CephError;
use crate::config::ReleaseOn;
use crate::sites::drive::Subject;
use crate::sites::journal::{Attempt, Ground};
use crate::sites::look::{Belonging, Seen};
use crate::sites::{RunError, Sites, VmImage, drive, images, journal, look};
use onemirror_protocol::{Belongs, Here, ImageSpec, LetGo, Pending, Role, Run, Step, Verdict};
use std::time::Duration;

/// What became of the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseOutcome {
    /// Non-primary here now, and given up.
    pub released: Vec<ImageSpec>,
    /// Still primary here.
    pub pending: Vec<Pending>,
    /// Not mirrored, or not there: none of our business.
    pub not_mirrored: Vec<ImageSpec>,
    /// The changes made, in order.
    pub steps: Vec<Step>,
}

/// Gives up the images of a VM that is at its end, those of them that belong to the other site. Which ones these are
/// this site's own cluster tells: what belongs here does not wait for a site that is silent.
pub async fn release_at_end(sites: &Sites, vm: i32, images: &[VmImage]) -> Result<Vec<Pending>, RunError> {
    if !sites.config().releases_on(ReleaseOn::Terminate) {
        return Ok(Vec::new());
    }
    let away: Vec<VmImage> = std::iter::zip(images, look::belongings(sites, images).await?)
        .filter(|(_, belonging)| matches!(belonging, Belonging::Primary(Belongs::There | Belongs::Unknown)))
        .map(|(image, _)| image.clone())
        .collect();
    if away.is_empty() {
        return Ok(Vec::new());
    }
    let limit = sites.config().policy.release_timeout;
    Ok(release(sites, vm, &away, LetGo::ByEndingVm, limit).await?.pending)
}

/// Gives up the images that `vm` let go of, waiting up to `limit` for the other copies to follow. Images that bear
/// the name of its clone by accident are in no part of the outcome.
pub async fn release(
    sites: &Sites,
    vm: i32,
    images: &[VmImage],
    let_go: LetGo,
    limit: Duration,
) -> Result<ReleaseOutcome, RunError> {
    let started = sites.time().now();
    let registered = images::registered_here(sites, images.iter()).await?;
    for (image, id) in &registered {
        tracing::warn!("{image} is registered here as image {id}, not VM {vm}'s own: left as it is");
    }
    let images: Vec<VmImage> =
        images.iter().filter(|image| !registered.contains_key(image.spec())).cloned().collect();
    let result = give_up(sites, vm, &images, let_go, limit).await;
    match &result {
        Ok(outcome) => {
            for pending in &outcome.pending {
                let attempt = Attempt {
                    vm: Some(vm),
                    image: Some(&pending.image),
                    ground: Some(Ground::ReleasePending),
                    ..Attempt::at("release", started)
                };
                journal::note(sites, &attempt, Outcome::Pending, Some(pending.cause.clone()));
            }
        }
        Err(error) => {
            let attempt = Attempt { vm: Some(vm), ..Attempt::at("release", started) };
            journal::note(sites, &attempt, Outcome::Failed, Some(error.to_string()));
        }
    }
    result
}

async fn give_up(
    sites: &Sites,
    vm: i32,
    images: &[VmImage],
    let_go: LetGo,
    limit: Duration,
) -> Result<ReleaseOutcome, RunError> {
    let subject = Subject { limit, ..drive::boot_of(sites, vm, images) };
    let driven = drive::drive(sites, Run::give_up(let_go), &subject).await;
    let pending = match (&driven.verdict, &driven.trouble) {
        (Verdict::GivenUp(pending), _) => pending.clone(),
        (Verdict::NoRoom, Some(RunError::Ceph { error, .. })) => still_primary(&driven.seen, error),
        _ => return Err(driven.error()),
    };
    Ok(outcome_of(&driven.seen, pending, driven.steps))
}

/// What stays primary here, all for this one cause.
fn still_primary(seen: &[Seen], cause: &CephError) -> Vec<Pending> {
    let is_primary = |seen: &&Seen| match &seen.observation.here {
        Here::Mirrored(copy) => copy.role != Role::NonPrimary,
        Here::Absent | Here::NotMirrored => false,
    };
    let pending = |seen: &Seen| Pending { image: seen.spec().clone(), cause: cause.to_string() };
    seen.iter().filter(is_primary).map(pending).collect()
}

fn outcome_of(seen: &[Seen], pending: Vec<Pending>, steps: Vec<Step>) -> ReleaseOutcome {
    let mut outcome = ReleaseOutcome { pending, steps, ..ReleaseOutcome::default() };
    for seen in seen {
        let spec = seen.spec().clone();
        match &seen.observation.here {
            Here::Mirrored(copy) if copy.role == Role::NonPrimary => outcome.released.push(spec),
            Here::Mirrored(_) => {}
            Here::Absent | Here::NotMirrored => outcome.not_mirrored.push(spec),
        }
    }
    outcome
}
