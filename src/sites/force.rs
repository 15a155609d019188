//! What only an operator's `--force` makes of a copy, and the notes about it.

use super::Sites;
use super::cluster::Cluster;
use super::error::RunError;
use super::journal::{self, Attempt, Ground};
use super::look::Seen;
use crate::audit::Outcome;
use crate::ceph::{CephError, Promotion};
use jiff::Timestamp;
use onemirror_protocol::{ImageSpec, Mark, SITE_IS_OFF, There, written_for};

/// What an operator typed with `--force`.
#[derive(Clone, Copy, Debug)]
pub struct ForceOrder<'a> {
    /// Why.
    pub reason: &'a str,
    /// The other site is off, whatever its front-end says.
    pub site_is_off: bool,
}

impl ForceOrder<'_> {
    pub(crate) fn in_words(&self) -> String {
        match self.site_is_off {
            true => format!("{SITE_IS_OFF}: {}", self.reason),
            false => self.reason.to_owned(),
        }
    }
}

/// Notes which copies there somebody has open for writing.
pub(crate) async fn observe_writers_there(seen: &mut [Seen]) -> Result<(), RunError> {
    for seen in seen.iter_mut().filter(|seen| matches!(seen.observation.there, There::Mirrored(_))) {
        let Some(cluster) = &seen.cluster_there else { continue };
        let image = seen.spec();
        seen.observation.is_open_there =
            cluster.is_open_for_writing(image).await.map_err(|error| cluster.error(image, error))?;
    }
    Ok(())
}

/// First the daemon here is fenced: it may be in the middle of a replay that waits for the lost site, for ever,
/// and in snapshot mode the promotion would then wait for the daemon (seen on Ceph 16.2). It comes back by
/// itself once the site answers again.
pub(crate) async fn promote_by_force(
    sites: &Sites,
    cluster: &Cluster,
    spec: &ImageSpec,
) -> Result<(), CephError> {
    fence(sites, cluster, spec).await?;
    match cluster.promote(spec, true).await {
        Ok(Promotion::Promoted) => Ok(()),
        Ok(Promotion::NotYet) => Err(CephError::Busy {
            what: spec.to_string(),
            detail: "the forced promotion is not accepted; restart rbd-mirror here and repeat the command"
                .into(),
        }),
        // a repeat of a run that was killed after the promotion
        Err(CephError::NotPossible { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes to a copy that was promoted by force; a daemon that took the image again in between is fenced once more.
pub(crate) async fn write_after_force(
    sites: &Sites,
    cluster: &Cluster,
    spec: &ImageSpec,
    key: &str,
    value: &str,
) -> Result<(), CephError> {
    match cluster.set_metadata(spec, key, value).await {
        Err(CephError::ReadOnly { .. }) => {}
        other => return other,
    }
    fence(sites, cluster, spec).await?;
    cluster.set_metadata(spec, key, value).await
}

async fn fence(sites: &Sites, cluster: &Cluster, spec: &ImageSpec) -> Result<(), CephError> {
    let started = sites.time().now();
    if cluster.fence(spec).await? {
        tracing::info!("{spec}: rbd-mirror here did not let go of it and was fenced");
        let ground = Some(Ground::OperatorForce);
        let attempt = Attempt { image: Some(spec), ground, ..Attempt::at("fence", started) };
        journal::note(sites, &attempt, Outcome::Done, None);
    }
    Ok(())
}

/// Who forced it, when, and why, for whoever finds the image later.
pub(crate) fn forced_note(
    mark: &Mark,
    global_id: &str,
    order: Option<&ForceOrder<'_>>,
    date: Timestamp,
) -> String {
    let reason = order.map_or("", |order| order.reason);
    let is_off = order.is_some_and(|order| order.site_is_off);
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
    let off = if is_off { format!(" {SITE_IS_OFF}") } else { String::new() };
    format!("{}{off} {date} {}: {reason}", written_for(mark, global_id), crate::state::operator())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemirror_protocol::{Token, Written, forced_mark, forced_with_site_off};

    #[test]
    fn the_note_says_that_the_other_site_is_off_only_where_it_was_typed() {
        let mark = Mark::of(&Token::forced_after(None, "site-b"), 7);
        for site_is_off in [false, true] {
            let order = ForceOrder { reason: "site-is-off, they say", site_is_off };
            let note = forced_note(&mark, "77aa", Some(&order), Timestamp::UNIX_EPOCH);
            assert_eq!(forced_mark(&note), Some(Written::For(mark.clone(), "77aa".into())), "{note}");
            assert_eq!(forced_with_site_off(&note), site_is_off, "{note}");
            assert_eq!(order.in_words().starts_with("site-is-off: "), site_is_off);
        }
    }
}
