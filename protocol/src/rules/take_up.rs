//! Taking up an image that is primary nowhere: an operator has it on the site where it is to belong, and no VM is started.

use super::boot::Gate;
use crate::advice::{Advice, Place};
use crate::decision::{Decision, Finding, Judgement, Refusal, Rule, Side, Step};
use crate::home::Belongs;
use crate::image::ImageSpec;
use crate::sight::{Copy, Here, Observation, Role, There};
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
        let refuse = |rule, cause: String, advice| {
            let image = observation.image.clone();
            Decision::Refuse { refusal: Refusal { image, cause, advice, rule }, then: Vec::new() }
        };
        let decision = match decision {
            _ if !is_primary_nowhere(observation) => {
                refuse(Rule::RehomeChanged, "changed just now".into(), Advice::wait("try again"))
            }
            _ if observation.used_here_by.is_some() => refuse(
                Rule::RehomeInUse,
                "is in use here".into(),
                Advice::wait("the gate of its VM takes it"),
            ),
            Decision::LockThere | Decision::Wait { .. } => decision,
            Decision::Act(steps)
                if matches!(
                    rule,
                    Some(Rule::HandoffProven | Rule::LastWriterHere | Rule::PositionsProveHere)
                ) =>
            {
                Decision::Act(self.without_a_vm(&observation.image, steps))
            }
            Decision::Refuse { refusal, .. } => {
                refuse(refusal.rule, refusal.cause, try_over_there(self.there))
            }
            Decision::Done | Decision::Act(_) => refuse(
                Rule::RehomeNoProof,
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

/// Why an operator's word on where an image belongs cannot be written down on the copy here.
pub fn hinders_rehome(
    observation: &Observation,
    copy: &Copy,
    to: &str,
    here: &str,
    there: &str,
) -> Option<Refusal> {
    let image = &observation.image;
    let refuse = |rule, cause: &str, advice| {
        Some(Refusal { image: image.clone(), cause: cause.to_owned(), advice, rule })
    };
    if is_primary_nowhere(observation) {
        let belongs = if to == here { Belongs::Here } else { Belongs::There };
        let advice = take_up_advice(image, belongs, here, there);
        return refuse(Rule::RehomePrimaryNowhere, "is primary on neither site", advice);
    }
    if copy.role != Role::Primary {
        let command = format!("onemirror rehome --image {image} --to {to}");
        let advice = Advice::command(Place::There(there.to_owned()), command);
        return refuse(Rule::RehomeNotPrimary, "is not primary here", advice);
    }
    if copy.token.is_unread() {
        let advice = Advice::wait("see what a boot would do (onemirror plan), and put that right first");
        return refuse(Rule::RehomeTokenUnread, "has a handoff token that is not understood here", advice);
    }
    None
}

fn try_over_there(there: &str) -> Advice {
    Advice::decide(format!(
        "see that rbd-mirror runs on both sites and try again; the copy on {there} may be the newer one, so try there, too"
    ))
}
