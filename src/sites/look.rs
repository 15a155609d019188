//! Turns what the two sites answer into observations.

use super::CONCURRENCY;
use super::Sites;
use super::cluster::Cluster;
use super::copies::{self, CopyHere, CopySeen, CopyThere};
use super::error::{self, RunError};
use super::images::VmImage;
use super::locks;
use super::reach;
use super::set_aside;
use super::users;
use crate::ceph::{self, CephError, ImageInfo, MirrorState};
use crate::state::{BootId, is_later_report, peer_contact, peer_contacted_since_boot, remember_peer_contact};
use futures::{StreamExt, TryStreamExt, stream};
use onemirror_protocol::{
    Belongs, Copy, Depth, HOME_KEY, Here, ImageSpec, Keeping, Mode, Named, Observation, Report, Resync, Role,
    Side, SiteRole, TOKEN_KEY, There, Token, TokenSeen, Unfit, home_written,
};
use std::collections::BTreeMap;

/// Whether a boot depends on the look.
fn is_of_boot(depth: Depth) -> bool {
    matches!(depth, Depth::Boot | Depth::Force)
}

/// An image as observed, with what it takes to act on it.
#[derive(Clone)]
pub(crate) struct Seen {
    pub image: VmImage,
    pub observation: Observation,
    /// The cluster of the other copy, if there is a way to it.
    pub cluster_there: Option<Cluster>,
    /// Of a mirrored image.
    pub global_id: Option<String>,
    /// What the cluster here says of the image, if it is there.
    pub info_here: Option<ImageInfo>,
    /// The id of the copy here; a resync makes a new one.
    pub id_here: Option<String>,
    /// The same of the copy there.
    pub id_there: Option<String>,
    /// The copy here shows another token than the one there: this one, or none.
    pub token_behind: Option<Option<String>>,
    /// Bytes that a new copy here would need, where the present one is to be set aside.
    pub room_needed: u64,
    /// Why the peer could not be asked, for the log.
    pub trouble: Option<String>,
}

impl Seen {
    pub(crate) fn spec(&self) -> &ImageSpec {
        self.image.spec()
    }

    /// Whether the copy here shows another token by now. `None`: it cannot be told.
    pub(crate) async fn has_new_token(&self, before: &Option<String>) -> Option<bool> {
        let now = self.image.cluster.stored_metadata(self.spec(), self.id_here.as_ref()?, TOKEN_KEY).await;
        now.ok().map(|now| now != *before)
    }

    /// The cluster of a side's copy, if there is a way to it.
    pub(crate) fn cluster(&self, side: Side) -> Option<&Cluster> {
        match side {
            Side::Here => Some(&self.image.cluster),
            Side::There => self.cluster_there.as_ref(),
        }
    }
}

/// Whose an image is, as its copy here tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belonging {
    /// It is not there, or has no other copy.
    NotMirrored,
    /// Its copy here is not primary: it was given up, or follows.
    GivenUp(Belongs),
    /// Its copy here is primary.
    Primary(Belongs),
}

/// Observes all these images, a few at a time.
pub(crate) async fn observe(sites: &Sites, images: &[VmImage], depth: Depth) -> Result<Vec<Seen>, RunError> {
    let started = sites.time().now();
    let looks = stream::iter(images.iter().map(|image| observe_image(sites, image, depth)));
    // where a site is lost both its cluster and its front-end are waited for, and not one after the other
    let (seen, ()) = futures::join!(
        looks.buffered(CONCURRENCY).try_collect::<Vec<Seen>>(),
        users::greet_there(sites, depth)
    );
    let mut seen = seen?;
    users::observe_users_there(sites, &mut seen, depth).await;
    if !matches!(depth, Depth::ToLock | Depth::GiveUp) {
        observe_keeping(&mut seen).await;
    }
    let took = sites.time().since(started);
    sites.slowest_look.set(sites.slowest_look.get().max(took));
    if is_of_boot(depth) {
        tell_sets_apart(sites, &mut seen);
    }
    Ok(seen)
}

/// All of these are disks of one VM.
pub(crate) fn tell_sets_apart(sites: &Sites, seen: &mut [Seen]) {
    let mut observations: Vec<_> = seen.iter_mut().map(|seen| &mut seen.observation).collect();
    onemirror_protocol::tell_sets_apart(sites.here.name(), &mut observations);
}

async fn observe_image(sites: &Sites, image: &VmImage, depth: Depth) -> Result<Seen, RunError> {
    let mut seen = Seen {
        image: image.clone(),
        observation: Observation { made_here: image.is_own(), ..Observation::unseen(image.spec().clone()) },
        cluster_there: None,
        global_id: None,
        info_here: None,
        id_here: None,
        id_there: None,
        token_behind: None,
        room_needed: 0,
        trouble: None,
    };
    match copy_here(image).await? {
        CopyHere::NotMirrored(info) => {
            seen.id_here = Some(info.id.clone());
            seen.info_here = Some(info);
        }
        CopyHere::Absent => {
            seen.observation.here = Here::Absent;
            if is_of_boot(depth) {
                let there = ask_there(sites, &mut seen).await;
                seen.observation.set_aside = set_aside::set_aside_of(image).await;
                seen.observation.there = copies::alone_there(there);
            }
        }
        CopyHere::Mirrored(here) if depth == Depth::ToLock => {
            note_copy_here(&mut seen, &here);
            seen.observation.here = Here::Mirrored(copies::copy(&here, &[]));
            if let Err(error) = way_there(sites, &mut seen).await {
                tell_why_unseen(&mut seen, &error);
            }
        }
        CopyHere::Mirrored(here) => {
            let there = ask_there(sites, &mut seen).await;
            observe_both(sites, &mut seen, &here, there, depth).await?;
        }
    }
    Ok(seen)
}

/// The copy there, and which cluster it is in. Why nothing is known of it is no error.
async fn ask_there(sites: &Sites, seen: &mut Seen) -> CopyThere {
    let there = match way_there(sites, seen).await {
        Ok(cluster) if cluster.silence().is_some() => Err(CephError::Unreachable {
            what: seen.spec().to_string(),
            cluster: sites.there.name().to_owned(),
            detail: "it did not answer a moment ago".into(),
        }),
        Ok(cluster) => {
            let there = copies::copy_there(&cluster, seen.spec()).await;
            there.inspect(|_| cluster.note_answer()).inspect_err(|error| cluster.note_silence(error))
        }
        Err(error) => Err(error),
    };
    there.unwrap_or_else(|error| {
        tell_why_unseen(seen, &error);
        CopyThere::Unseen(error::denial_of(&error).map_or(There::Unreachable, There::Denied))
    })
}

/// Which cluster the copy there is in.
async fn way_there(sites: &Sites, seen: &mut Seen) -> Result<Cluster, CephError> {
    let (spec, own) = (seen.image.spec(), &seen.image.cluster);
    let cluster = reach::cluster_there(sites, own, &spec.pool_spec()).await?;
    seen.cluster_there = cluster.clone();
    cluster.ok_or_else(|| CephError::NoWay {
        what: format!("the cluster of {}", sites.there.name()),
        detail: "set [peer.ceph] conf and user in onemirror.conf".into(),
    })
}

fn tell_why_unseen(seen: &mut Seen, error: &CephError) {
    tracing::info!("{error}");
    seen.trouble = Some(error.to_string());
}

/// What it takes to act on the copy here.
fn note_copy_here(seen: &mut Seen, here: &CopySeen) {
    seen.global_id = Some(here.mirroring.global_id.clone());
    seen.id_here = Some(here.info.id.clone());
    seen.info_here = Some(here.info.clone());
}

/// What the copy here and the one there tell of each other.
async fn observe_both(
    sites: &Sites,
    seen: &mut Seen,
    here: &CopySeen,
    there: CopyThere,
    depth: Depth,
) -> Result<(), RunError> {
    let global_id = here.mirroring.global_id.clone();
    note_copy_here(seen, here);
    seen.observation.lacks_its_base = copies::lacks_its_base(here);
    let mut copy_here = copies::copy(here, &[]);
    seen.observation.there = match there {
        CopyThere::Unseen(there) => there,
        CopyThere::Absent => There::Absent,
        CopyThere::NotMirrored(metadata) => copies::apart(&metadata, &[&global_id]),
        CopyThere::Mirrored(there) if there.info.id == here.info.id => {
            return Err(RunError::Unfit(Unfit::PeerIsOwnCluster {
                here: sites.here.name().to_owned(),
                there: sites.there.name().to_owned(),
            }));
        }
        CopyThere::Mirrored(there) if there.mirroring.global_id != global_id => {
            tracing::warn!(
                "{}: the image of this name on {} is another one",
                seen.spec(),
                sites.there.name()
            );
            copy_here = copies::copy(here, &[&there]);
            copies::apart(&there.metadata, &[&global_id, &there.mirroring.global_id])
        }
        CopyThere::Mirrored(there) => {
            seen.id_there = Some(there.info.id.clone());
            let [token, other] = [here, &there].map(|copy| copy.metadata.get(TOKEN_KEY));
            seen.token_behind = (token != other).then(|| token.cloned());
            copy_here = copies::copy(here, &[&there]);
            let mut copy_there = copies::copy(&there, &[here]);
            complete(sites, seen, [here, &there], [&mut copy_here, &mut copy_there], depth).await?;
            There::Mirrored(copy_there)
        }
    };
    match contact(&copy_here, &seen.observation.there) {
        Some(agrees) => note_contact(sites, &global_id, agrees),
        None => {
            seen.observation.in_touch_since_reboot =
                in_touch_since_reboot(sites, &global_id, &copy_here.token);
        }
    }
    seen.observation.here = Here::Mirrored(copy_here);
    Ok(())
}

/// Whether the image exists here and is primary, or not mirrored at all.
pub(crate) async fn is_writable_here(image: &VmImage) -> Result<bool, RunError> {
    let info = image.cluster.info(image.spec()).await.map_err(|error| image.error(error))?;
    Ok(info.is_some_and(|info| info.mirroring.is_none_or(|mirroring| mirroring.primary)))
}

/// The copy here, without a look at anything else.
pub async fn look_here(image: &VmImage) -> Result<Here, RunError> {
    Ok(match copy_here(image).await? {
        CopyHere::Absent => Here::Absent,
        CopyHere::NotMirrored(_) => Here::NotMirrored,
        CopyHere::Mirrored(seen) => Here::Mirrored(copies::copy(&seen, &[])),
    })
}

/// Where these images belong, as far as this site's own cluster tells; the other one is not asked.
pub(crate) async fn belongings(sites: &Sites, images: &[VmImage]) -> Result<Vec<Belonging>, RunError> {
    let looks = images.iter().map(|image| async move {
        Ok(match copy_here(image).await? {
            CopyHere::Absent | CopyHere::NotMirrored(_) => Belonging::NotMirrored,
            CopyHere::Mirrored(seen) => {
                let belongs = sites.residence().of(&copies::copy(&seen, &[]), image.is_own());
                match seen.mirroring.primary {
                    true => Belonging::Primary(belongs),
                    false => Belonging::GivenUp(belongs),
                }
            }
        })
    });
    stream::iter(looks.collect::<Vec<_>>()).buffered(CONCURRENCY).try_collect().await
}

/// Remembers of an image that is not mirrored yet, and says nothing of a home, that it belongs here. On a site that
/// is home to such images anyway nothing needs to be remembered.
pub(crate) async fn remember_home(sites: &Sites, seen: &Seen) {
    let (Here::NotMirrored, Some(id)) = (&seen.observation.here, &seen.id_here) else { return };
    if sites.residence().role == SiteRole::Home || seen.image.is_own() {
        return;
    }
    let (cluster, spec) = (&seen.image.cluster, seen.spec());
    let remembered = async {
        if cluster.metadata(spec).await?.contains_key(HOME_KEY) {
            return Ok(());
        }
        cluster.set_metadata(spec, HOME_KEY, &home_written(sites.here.name(), Named::Local(id))).await
    };
    // an image without a copy boots in any case
    if let Err(error) = remembered.await {
        tracing::warn!("{spec}: that it belongs to {} is not noted: {error}", sites.here.name());
    }
}

async fn copy_here(image: &VmImage) -> Result<CopyHere, RunError> {
    let seen = copies::copy_of(&image.cluster, image.spec()).await;
    seen.inspect(|_| image.cluster.note_answer()).map_err(|error| image.error(error))
}

/// Asks for reports and positions where the decision depends on them.
async fn complete(
    sites: &Sites,
    seen: &Seen,
    said: [&CopySeen; 2],
    copies: [&mut Copy; 2],
    depth: Depth,
) -> Result<(), RunError> {
    let (spec, cluster_here) = (seen.spec(), &seen.image.cluster);
    let ([said_here, said_there], [here, there]) = (said, copies);
    let Some(cluster_there) = &seen.cluster_there else { return Ok(()) };
    if depth == Depth::GiveUp {
        if here.role == Role::Primary && here.token != there.token {
            there.report = report(sites, Side::There, cluster_there, spec, said_there).await;
        }
        // only a copy that is about to be given up is asked about
        if here.role == Role::Primary
            && (here.token == there.token || here.token.token().is_some_and(Token::is_closed))
        {
            futures::try_join!(
                observe_resync(seen, Side::Here, said_here, here),
                observe_resync(seen, Side::There, said_there, there)
            )?;
        }
        return Ok(());
    }
    if depth == Depth::Tidy && here.role == Role::Primary && here.token != there.token {
        there.report = report(sites, Side::There, cluster_there, spec, said_there).await;
    }
    let both_non_primary = here.role == Role::NonPrimary && there.role == Role::NonPrimary;
    // of a handoff whose last writes are proven to be here, whatever a daemon says, none has to be asked for
    let is_handed_over = both_non_primary
        && here.mode == Mode::Journal
        && here.token == there.token
        && here.token.token().is_some_and(Token::is_closed);
    let is_asked_for = here.role == Role::NonPrimary || there.role == Role::Primary;
    if is_asked_for && !(is_handed_over && is_of_boot(depth)) {
        here.report = report(sites, Side::Here, cluster_here, spec, said_here).await;
    }
    let to_be_resynced = depth == Depth::Tidy && here.report == Report::SplitBrain;
    if here.role == Role::NonPrimary && (is_of_boot(depth) || to_be_resynced) {
        observe_resync(seen, Side::Here, said_here, here).await?;
        // of the other one it matters where it is to be taken from there
        if there.role == Role::Primary {
            observe_resync(seen, Side::There, said_there, there).await?;
        }
    }
    if !both_non_primary || depth == Depth::Tidy {
        return Ok(());
    }
    match here.mode {
        Mode::Snapshot => {
            let (snapshots_here, snapshots_there) = futures::try_join!(
                copies::snapshots(cluster_here, spec),
                copies::snapshots(cluster_there, spec)
            )?;
            here.positions = copies::snapshot_positions(&snapshots_here, &snapshots_there);
            there.positions = copies::snapshot_positions(&snapshots_there, &snapshots_here);
        }
        // positions are no second proof beside a token
        Mode::Journal
            if here.token.token() == there.token.token()
                && !here.token.token().is_some_and(|t| t.is_closed()) =>
        {
            here.positions = copies::journal_positions(cluster_here, cluster_there, spec).await?;
            there.positions = copies::journal_positions(cluster_there, cluster_here, spec).await?;
        }
        Mode::Journal => {}
    }
    Ok(())
}

/// The daemon's report on the copy in `cluster`. A report that cannot be had is one that says nothing, and so is a split
/// brain that may be that of a copy that was thrown away since: it is no reason to throw the next one away.
async fn report(sites: &Sites, side: Side, cluster: &Cluster, spec: &ImageSpec, said: &CopySeen) -> Report {
    let status = match said.status.clone() {
        Some(status) => Ok(*status),
        None => cluster.image_status(spec).await,
    };
    let report = match status {
        Ok(ceph::ImageStatus { local: Some(report), .. }) => report,
        Ok(ceph::ImageStatus { local: None, .. }) => return Report::Other,
        Err(CephError::PoolFull { fullness, .. }) => return Report::NoRoom(Box::new(fullness)),
        Err(error) => {
            tracing::info!("{error}");
            return Report::Other;
        }
    };
    let name = format!("{}-{}", said.mirroring.global_id, side.name());
    let written = report.last_update.map(|time| time.to_string()).unwrap_or_default();
    let is_on_this_copy = is_later_report(sites.state_dir(), &name, &said.info.id, &written);
    match copies::translate(&report) {
        Report::SplitBrain if !is_on_this_copy => Report::Other,
        report => report,
    }
}

/// Whether a copy is going to be thrown away: it was asked for, by us or by anybody, or it is under way.
async fn observe_resync(seen: &Seen, side: Side, said: &CopySeen, copy: &mut Copy) -> Result<(), RunError> {
    let (Some(global_id), Some(cluster)) = (&seen.global_id, seen.cluster(side)) else { return Ok(()) };
    let spec = seen.spec();
    let failed = |error| cluster.error(spec, error);
    // one that is just being made is not to be built on either
    let asked = said.mirroring.state != MirrorState::Enabled
        || copies::resync_asked(cluster, spec, said).await.map_err(failed)?;
    let noted = async || locks::resync_noted(cluster, spec, global_id, &said.info.id).await;
    copy.resync = match asked {
        true => Resync::Asked,
        false if noted().await.map_err(failed)? => Resync::Noted,
        false => Resync::None,
    };
    Ok(())
}

/// Whether copies that are outranked have to be kept, and whether there is room for all of them together.
async fn observe_keeping(seen: &mut [Seen]) {
    let way = |seen: &Seen| (seen.image.cluster.number(), seen.spec().pool_spec());
    let mut needed: BTreeMap<_, u64> = BTreeMap::new();
    for seen in seen.iter_mut().filter(|seen| has_to_give_way(&seen.observation)) {
        if set_aside::is_all_sent(seen).await {
            seen.observation.keeping = Keeping::Needless;
            continue;
        }
        seen.observation.keeping = Keeping::NoRoom;
        seen.room_needed = room_needed(seen).await;
        let sum = needed.entry(way(seen)).or_default();
        *sum = sum.saturating_add(seen.room_needed);
    }
    for (pool, needed) in needed {
        let in_pool = |seen: &Seen| way(seen) == pool && seen.observation.keeping == Keeping::NoRoom;
        let Some(first) = seen.iter().find(|seen| in_pool(seen)) else { continue };
        let taken = first.image.cluster.room_taken(&pool.1);
        let wanted = needed.saturating_add(needed / 10).saturating_add(taken);
        let room = first.image.cluster.room(&pool.1).await;
        match room {
            Ok(room) if room.available >= wanted => {
                for seen in seen.iter_mut().filter(|seen| in_pool(seen)) {
                    seen.observation.keeping = Keeping::Possible;
                }
            }
            Ok(room) => {
                let free = room.available;
                tracing::warn!("pool {}: to keep copies takes {wanted} bytes, {free} are free", pool.1);
            }
            Err(error) => {
                tracing::warn!("whether pool {} has room is not known: {error}", pool.1);
                for seen in seen.iter_mut().filter(|seen| in_pool(seen)) {
                    seen.observation.keeping = Keeping::Unknown;
                }
            }
        }
    }
}

/// What a new copy takes up, or may take up where that is not known.
async fn room_needed(seen: &Seen) -> u64 {
    if let Some(there) = &seen.cluster_there
        && let Ok(used) = there.used(seen.spec()).await
    {
        return used;
    }
    match seen.image.cluster.info(seen.spec()).await {
        Ok(Some(info)) => info.size,
        _ => u64::MAX,
    }
}

/// Whether it is one of two copies.
pub(crate) fn is_seen_mirrored(seen: &Seen) -> bool {
    matches!(seen.observation.here, Here::Mirrored(_))
}

/// Whether the copy there outranks the one here, which cannot follow it by itself.
fn has_to_give_way(observation: &Observation) -> bool {
    let (Here::Mirrored(here), There::Mirrored(there)) = (&observation.here, &observation.there) else {
        return false;
    };
    let stopped = here.role == Role::Primary || here.report == Report::SplitBrain;
    stopped && there.role == Role::Primary && there.token.sequence() > here.token.sequence()
}

/// Whether what was seen there agrees with the copy here being the one to boot on; `None` where nothing was seen.
fn contact(here: &Copy, there: &There) -> Option<bool> {
    match there {
        There::NotAsked | There::Unreachable | There::Denied(_) => None,
        There::Absent => Some(true),
        There::Apart(there) => Some(!there.token.is_unread() && !there.is_forced_past(&here.token)),
        There::Mirrored(there) => {
            let is_older = !there.token.is_unread() && there.token.sequence() <= here.token.sequence();
            Some(there.role == Role::NonPrimary && is_older)
        }
    }
}

/// Observes these images, unless their cluster did not answer a moment ago.
pub(crate) async fn look(sites: &Sites, images: &[VmImage], depth: Depth) -> Result<Vec<Seen>, RunError> {
    if let Some(why) = images.iter().find_map(|image| image.cluster.silence()) {
        return Err(RunError::Unfit(Unfit::ClusterSilent { why }));
    }
    let seen = observe(sites, images, depth).await;
    if let Err(RunError::Ceph { image, site, error }) = &seen
        && site == sites.here.name()
        && let Some(image) = images.iter().find(|it| it.spec() == image)
    {
        image.cluster.note_silence(error);
    }
    seen
}

/// Notes that the peer was asked about this image since this host was booted, and whether the other copy agrees with the
/// one here being the newest.
fn note_contact(sites: &Sites, global_id: &str, agrees: bool) {
    let noted = BootId::current()
        .and_then(|boot_id| remember_peer_contact(sites.state_dir(), global_id, &boot_id, agrees));
    if let Err(error) = noted {
        tracing::warn!("{error}");
    }
}

/// Whether the peer agreed about this image since this host was booted. One that never had a token was never handed over,
/// and may be newer than the peer's silence: for it any answer of the peer counts that did not contradict.
fn in_touch_since_reboot(sites: &Sites, global_id: &str, token: &TokenSeen) -> bool {
    let Ok(boot_id) = BootId::current() else { return false };
    match peer_contact(sites.state_dir(), global_id, &boot_id) {
        Some(agrees) => agrees,
        None => *token == TokenSeen::None && peer_contacted_since_boot(sites.state_dir(), &boot_id),
    }
}
