//! What a run writes into the audit log.

use super::Sites;
use crate::audit::{Entry, Outcome};
use onemirror_protocol::{ImageSpec, Rule};
use tokio::time::Instant;

/// Why something was done or not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// A rule of the protocol decided.
    Rule(Rule),
    /// An operator typed it.
    Operator,
    /// An operator typed it with `--force`.
    OperatorForce,
    /// The other site's VM is to go on.
    PassOn,
    /// The other copy does not follow yet.
    ReleasePending,
    /// An outranked copy is kept.
    SetAside,
    /// The policy of that name.
    DropLostAfter,
}

impl Ground {
    /// How the audit log calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Rule(rule) => rule.name(),
            Self::Operator => "operator",
            Self::OperatorForce => "operator-force",
            Self::PassOn => "pass-on",
            Self::ReleasePending => "release-pending",
            Self::SetAside => "set-aside",
            Self::DropLostAfter => "drop_lost_after",
        }
    }
}

/// Something that was tried.
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub vm: Option<i32>,
    pub image: Option<&'a ImageSpec>,
    pub ground: Option<Ground>,
    /// What; empty where nothing had to be done.
    pub step: &'a str,
    pub started: Instant,
}

impl<'a> Attempt<'a> {
    pub(crate) fn at(step: &'a str, started: Instant) -> Self {
        Self { vm: None, image: None, ground: None, step, started }
    }

    pub(crate) fn of_operator(step: &'a str, started: Instant) -> Self {
        Self { ground: Some(Ground::Operator), ..Self::at(step, started) }
    }
}

/// One line in the audit log.
pub(crate) fn note(sites: &Sites, attempt: &Attempt<'_>, outcome: Outcome, reason: Option<String>) {
    let entry = Entry {
        vm: attempt.vm,
        image: attempt.image.map(ToString::to_string),
        rule: attempt.ground.map(|ground| ground.name().to_owned()),
        step: (!attempt.step.is_empty()).then(|| attempt.step.to_owned()),
        reason,
        duration: sites.time().since(attempt.started),
        ..Entry::new(sites.here.name(), &sites.event, outcome)
    };
    sites.environment.audit.note(&entry);
}
