//! What is left undone about an image, and what is wrong where only an operator can help.

use crate::config::ReleaseOn;
use crate::opennebula::VmState;
use crate::sites::look::{self, Seen};
use crate::sites::places::Places;
use crate::sites::{RunError, Sites, VmImage, drive, set_aside};
use onemirror_protocol::advice::Advice;
use onemirror_protocol::{
    Depth, Here, Observation, Refusal, Role, Rule, Undecided, UpkeepJudgement, UserHere, UsesHere,
};

/// Something that is undone about an image.
pub(crate) struct Undone {
    /// What, and what to do about it.
    pub(crate) text: String,
    /// The latter as data.
    pub(crate) advice: Option<Advice>,
}

impl Undone {
    /// Something that ends by itself.
    pub(crate) fn by_itself(text: impl Into<String>) -> Self {
        Self { text: text.into(), advice: None }
    }

    /// Something that needs somebody.
    pub(crate) fn needs(what: impl std::fmt::Display, advice: Advice) -> Self {
        Self { text: format!("{what}; {advice}"), advice: Some(advice) }
    }

    /// What a boot would be told.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let code = refusal.rule.code().map(|code| format!("{code} ")).unwrap_or_default();
        Self::needs(format!("{code}{}", refusal.cause), refusal.advice)
    }
}

/// Looks at an image beside others. `None`: it is just being set aside.
pub(crate) async fn look_in_place(
    sites: &Sites,
    image: &VmImage,
    places: &Places,
) -> Result<Option<Vec<Seen>>, RunError> {
    let look = async {
        if set_aside::is_being_set_aside(image).await {
            return Ok(None);
        }
        look::look(sites, std::slice::from_ref(image), Depth::Tidy).await.map(Some)
    };
    places.look(image.cluster.site(), image.spec(), look).await?
}

/// What reconcile would do about it.
pub(crate) fn judge_upkeep(
    sites: &Sites,
    seen: &Seen,
    users: &[UserHere],
    ended_here: Option<i32>,
) -> UpkeepJudgement {
    let uses = UsesHere::of(users, ended_here);
    drive::setting(sites, None, "").upkeep(&uses).judge(&seen.observation)
}

/// The VM that was last booted on an image that no VM uses, if it is gone and should have handed the image over.
pub(crate) async fn ended_here(sites: &Sites, seen: &Seen, users: &[UserHere]) -> Option<i32> {
    let Here::Mirrored(copy) = &seen.observation.here else { return None };
    if !users.is_empty() || copy.role != Role::Primary || !sites.config().releases_on(ReleaseOn::Terminate) {
        return None;
    }
    let booted_by = copy.booted.as_ref()?.vm;
    let vm = sites.here.ask(async |one| one.vm(booted_by).await).await;
    let vm = vm.inspect_err(|error| tracing::info!("{}: {error}", seen.spec())).ok()?;
    (vm.state == VmState::Done).then_some(vm.id)
}

/// What is wrong where only an operator can help.
pub(crate) fn trouble(sites: &Sites, rule: Rule, seen: &Observation, users: &[UserHere]) -> Undone {
    let uses = UsesHere::of(users, None);
    let Undecided { cause, advice } =
        drive::setting(sites, None, "").upkeep(&uses).undecided(rule, seen, users);
    Undone::needs(cause, advice)
}
