//! Rehoming: an operator decides for good where the images of a VM belong.

use crate::audit::Outcome;
use crate::sites::drive::Subject;
use crate::sites::journal::Attempt;
use crate::sites::look::Seen;
use crate::sites::pools::PoolHere;
use crate::sites::steps::{Cause, HeldLocks};
use crate::sites::{RunError, Sites, VmImage, drive, journal, look, pools, steps};
use onemirror_protocol::{
    Carried, Copy, Depth, Finding, Here, Home, ImageSpec, Mode, Rule, Run, Side, Step, Unfit, Verdict,
    hinders_rehome, is_primary_nowhere,
};

/// Where an image belongs from now on.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NewHome {
    /// The image, as `pool[/namespace]/image`.
    pub image: String,
    /// The site.
    pub site: String,
    /// It was primary nowhere, and is primary here now.
    pub is_taken_up: bool,
    /// It was on its way to the other site, and stays here now.
    pub is_kept: bool,
}

/// A mirrored image of this site's datastores that no VM here needs to use.
pub async fn unused_image(sites: &Sites, image: &ImageSpec) -> Result<VmImage, RunError> {
    let (pools, _) = pools::pools_here(sites, &pools::images_registered(sites).await?).await?;
    let mut found = pools.iter().flat_map(PoolHere::images).filter(|found| found.spec() == image);
    match (found.next(), found.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(RunError::Unfit(Unfit::InTwoClusters { image: image.clone() })),
        (None, _) => Err(RunError::Unfit(Unfit::NoMirroredImage { image: image.clone() })),
    }
}

/// Writes down that these images belong to `site`. Only the primary copy can be written to, so all of them have to be
/// primary here; otherwise nothing is changed. But an image that is to belong here, that is primary nowhere and of which
/// no VM was named, is taken up first.
pub async fn rehome(
    sites: &Sites,
    vm: Option<i32>,
    images: &[VmImage],
    site: &str,
) -> Result<Vec<NewHome>, RunError> {
    let started = sites.time().now();
    let result = try_rehome(sites, vm, images, site).await;
    if let Err(error) = &result {
        let outcome = if error.is_refusal() { Outcome::Refused } else { Outcome::Failed };
        let attempt = Attempt { vm, ..Attempt::of_operator("rehome", started) };
        journal::note(sites, &attempt, outcome, Some(error.to_string()));
    }
    result
}

async fn try_rehome(
    sites: &Sites,
    vm: Option<i32>,
    images: &[VmImage],
    site: &str,
) -> Result<Vec<NewHome>, RunError> {
    if let ([image], None) = (images, vm)
        && site == sites.here.name()
        && look::look(sites, images, Depth::Boot)
            .await?
            .iter()
            .all(|seen| is_primary_nowhere(&seen.observation))
    {
        take_up(sites, image).await?;
        return Ok(vec![NewHome {
            image: image.spec().to_string(),
            site: site.to_owned(),
            is_taken_up: true,
            is_kept: false,
        }]);
    }
    let owner = sites.owner();
    let mut locks = HeldLocks::default();
    let result = async {
        let seen = look::observe(sites, images, Depth::GiveUp).await?;
        steps::lock(sites, &mut locks, Side::Here, &seen, &owner).await?;
        let seen = steps::observe_locked(sites, images, Depth::GiveUp, &locks).await?;
        let mut steps = Vec::new();
        for (seen, copy) in seen.iter().filter_map(mirrored) {
            let hinders =
                hinders_rehome(&seen.observation, copy, site, sites.here.name(), sites.there.name());
            if let Some(refusal) = hinders {
                return Err(RunError::Refused(refusal));
            }
            steps.extend(steps_home(seen.spec(), copy, site));
        }
        if seen.iter().filter_map(mirrored).next().is_none() {
            return Err(RunError::Unfit(Unfit::NoneMirrored));
        }
        let finding = |seen: &Seen| Finding { image: seen.spec().clone(), rule: Rule::HomeHere };
        let findings: Vec<Finding> = seen.iter().map(finding).collect();
        match steps::carry_out(sites, &steps, &seen, &locks, &Cause { vm, findings: &findings, order: None })
            .await?
        {
            Carried::Out => {}
            left => return Err(drive::not_carried_out(&steps, left)),
        }
        let home = |(seen, copy): (&Seen, &Copy)| NewHome {
            image: seen.spec().to_string(),
            site: site.to_owned(),
            is_taken_up: false,
            is_kept: site == sites.here.name() && is_let_go(copy),
        };
        Ok(seen.iter().filter_map(mirrored).map(home).collect())
    }
    .await;
    locks.release().await;
    result
}

/// Takes up an image that is primary nowhere, as the gate would for a VM.
async fn take_up(sites: &Sites, image: &VmImage) -> Result<(), RunError> {
    let limit = sites.config().policy.sync_timeout;
    let images = std::slice::from_ref(image);
    let subject = Subject { vm: None, images, known: &[], order: None, limit };
    let driven = drive::drive(sites, Run::take_up(), &subject).await;
    match driven.verdict {
        Verdict::TakenUp => Ok(()),
        Verdict::NotFollowed => Err(RunError::Unfit(Unfit::NotFollowed {
            image: image.spec().clone(),
            there: sites.there.name().to_owned(),
        })),
        _ => Err(driven.error()),
    }
}

/// Whether its VM was terminated, and the handoff is still to come.
fn is_let_go(copy: &Copy) -> bool {
    let token = copy.token.token();
    copy.release.as_ref().zip(token).is_some_and(|(mark, token)| mark.holds_in(token))
}

fn mirrored(seen: &Seen) -> Option<(&Seen, &Copy)> {
    match &seen.observation.here {
        Here::Mirrored(copy) => Some((seen, copy)),
        Here::Absent | Here::NotMirrored => None,
    }
}

/// What writes the home down and sends it. It is sent also where it says so already: a run that was killed in between has
/// not sent it, and the other site would go by the old one.
fn steps_home(image: &ImageSpec, copy: &Copy, site: &str) -> Vec<Step> {
    let mut steps = match copy.home == (Home::At { site: site.to_owned(), is_former: false }) {
        true => vec![],
        false => vec![Step::WriteHome { image: image.clone(), site: site.to_owned() }],
    };
    if copy.mode == Mode::Snapshot {
        steps.push(Step::MirrorSnapshot { at: Side::Here, image: image.clone() });
    }
    steps
}
