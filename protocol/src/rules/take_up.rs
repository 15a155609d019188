//! Taking up an image that is primary nowhere: an operator has it on the site where it is to belong, and no VM is started.

use super::boot::Gate;
use crate::advice::{Advice, Place};
use crate::decision::{Decision, Finding, Judgement, Refusal, Rule, Side, Step};
use crate::home::Belongs;
use crate::image::ImageSpec;
use crate::sight::{Here, Observation, Role, There};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Whether neither copy is primary, so that nobody writes.
pub fn is_primary_nowhere(observation: &Observation) -> bool {
    matches!(
        (&observation.here, &observation.there),
        (Here::Mirrored(here), There::Mirrored(there))
            if (here.role, there.role) == (Role::NonPrimary, Role::NonPrimary)
    )
}

/// What has an image that is primary nowhere taken up: on the site that it belongs to, or where an operator decides.
pub fn take_up_advice(image: &ImageSpec, belongs: Belongs, here: &str, there: &str) -> Advice {
    let rehome = |place| Advice::command(place, format!("onemirror rehome --image {image}"));
    let over_there = Place::There(there.to_owned());
    match belongs {
        Belongs::Here => rehome(Place::Here),
        Belongs::There => rehome(over_there),
        Belongs::Unknown => rehome(Place::Here)
            .when(format!("to have it on {here}"))
            .and(rehome(over_there).when(format!("to have it on {there}"))),
    }
}

impl Gate<'_> {
    /// Judges whether an image that is primary nowhere may be taken up here, to belong to this site: where a VM might be
    /// booted on it, and where nothing uses it here. Whatever else the gate would do is refused.
    pub fn judge_take_up(&self, observation: &Observation) -> Judgement {
        let Judgement { decision, findings } = self.judge(core::slice::from_ref(observation));
        let rule = findings.first().map(|finding: &Finding| finding.rule);
        let refuse = |cause: String, advice| {
            let image = observation.image.clone();
            Decision::Refuse { refusal: Refusal { image, cause, advice, rule: None }, then: Vec::new() }
        };
        let decision = match decision {
            _ if !is_primary_nowhere(observation) => {
                refuse("changed just now".into(), Advice::wait("try again"))
            }
            _ if observation.used_here_by.is_some() => {
                refuse("is in use here".into(), Advice::wait("the gate of its VM takes it"))
            }
            Decision::LockThere | Decision::Wait { .. } => decision,
            Decision::Act(steps)
                if matches!(
                    rule,
                    Some(Rule::HandoffProven | Rule::LastWriterHere | Rule::PositionsProveHere)
                ) =>
            {
                Decision::Act(self.without_a_vm(&observation.image, steps))
            }
            Decision::Refuse { refusal, .. } => refuse(refusal.cause, try_over_there(self.there)),
            Decision::Done | Decision::Act(_) => refuse(
                "is primary on neither site, and the copy here does not prove that it has everything".into(),
                try_over_there(self.there),
            ),
        };
        Judgement { decision, findings }
    }

    /// The steps of a boot but for the boot: it belongs here from now on.
    fn without_a_vm(&self, image: &ImageSpec, steps: Vec<Step>) -> Vec<Step> {
        let home = Step::WriteHome { image: image.clone(), site: self.here.to_owned() };
        let mut left = Vec::new();
        for step in steps {
            match step {
                Step::MarkBooted { .. } | Step::WriteHome { .. } => {}
                Step::Promote { at: Side::Here, .. } => left.extend([step, home.clone()]),
                step => left.push(step),
            }
        }
        left
    }
}

fn try_over_there(there: &str) -> Advice {
    Advice::decide(format!(
        "see that rbd-mirror runs on both sites and try again; the copy on {there} may be the newer one, so try there, too"
    ))
}
