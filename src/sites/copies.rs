//! What one cluster says of its copy of an image, and what that means in the terms of the rules.

use super::cluster::Cluster;
use super::error::RunError;
use crate::ceph::{
    self, CephError, DaemonState, ImageInfo, ImageLook, ImageStatus, MirrorMode, MirrorSnapshotState,
    MirrorState, Mirroring, ReplayState, Snapshots,
};
use crate::opennebula::stock::left_behind;
use onemirror_protocol::{
    Apart, Copy, HOME_KEY, Home, ImageSpec, Marks, Mode, Named, Positions, Report, Resync, Role, There,
};
use std::collections::BTreeMap;

/// Reverts beyond that are not looked at.
const MOST_REVERTS: usize = 100;

/// What one cluster says of its copy.
pub(super) struct CopySeen {
    pub info: ImageInfo,
    pub mirroring: Mirroring,
    pub metadata: BTreeMap<String, String>,
    /// The daemons' reports, if they came with it.
    pub status: Option<Box<ImageStatus>>,
    /// What reverts to its own snapshots have left behind, where its home may be that of one of these.
    pub left_behind: Vec<ImageInfo>,
}

pub(super) enum CopyHere {
    Absent,
    NotMirrored(ImageInfo),
    Mirrored(CopySeen),
}

pub(super) enum CopyThere {
    Unseen(There),
    Absent,
    NotMirrored(BTreeMap<String, String>),
    Mirrored(CopySeen),
}

pub(super) async fn copy_of(cluster: &Cluster, spec: &ImageSpec) -> Result<CopyHere, CephError> {
    let Some(ImageLook { info, metadata, status }) = cluster.look(spec).await? else {
        return Ok(CopyHere::Absent);
    };
    let Some(mirroring) = info.mirroring.clone() else { return Ok(CopyHere::NotMirrored(info)) };
    let mut seen =
        CopySeen { info, mirroring, metadata, status: status.map(Box::new), left_behind: Vec::new() };
    if copy(&seen, &[]).home == Home::OfAnother {
        seen.left_behind = left_behind_by(cluster, spec, &seen.info).await?;
    }
    Ok(CopyHere::Mirrored(seen))
}

/// The copy there; of an image that is not mirrored what it says of itself.
pub(super) async fn copy_there(cluster: &Cluster, spec: &ImageSpec) -> Result<CopyThere, CephError> {
    match copy_of(cluster, spec).await? {
        CopyHere::Mirrored(seen) => Ok(CopyThere::Mirrored(seen)),
        CopyHere::Absent => Ok(CopyThere::Absent),
        CopyHere::NotMirrored(_) => match cluster.metadata(spec).await {
            Ok(metadata) => Ok(CopyThere::NotMirrored(metadata)),
            Err(CephError::NotFound { .. }) => Ok(CopyThere::Absent),
            Err(error) => Err(error),
        },
    }
}

/// Where a mirrored image belongs, if that is written on it and can be seen.
pub(crate) async fn home_written_on(cluster: &Cluster, image: &ImageSpec) -> Option<String> {
    let CopyHere::Mirrored(seen) = copy_of(cluster, image).await.ok()? else { return None };
    copy(&seen, &[]).home.site().map(ToOwned::to_owned)
}

/// What reverts to its own snapshots have left behind of an image, the newest first.
async fn left_behind_by(
    cluster: &Cluster,
    spec: &ImageSpec,
    info: &ImageInfo,
) -> Result<Vec<ImageInfo>, CephError> {
    let mut found: Vec<ImageInfo> = Vec::new();
    while let Some(parent) = found.last().unwrap_or(info).parent.as_deref()
        && let Some(parent) = left_behind(spec, parent)
        && found.len() < MOST_REVERTS
    {
        match cluster.info(&parent).await? {
            Some(info) => found.push(info),
            None => break,
        }
    }
    Ok(found)
}

/// Whether a copy is brought by mirror snapshots of a clone.
pub(super) fn lacks_its_base(seen: &CopySeen) -> bool {
    let Mirroring { primary, mode, .. } = seen.mirroring;
    !primary && mode == MirrorMode::Snapshot && seen.info.parent.is_some()
}

/// The copy there of an image that is not here.
pub(super) fn alone_there(there: CopyThere) -> There {
    match there {
        CopyThere::Mirrored(there) => There::Mirrored(copy(&there, &[])),
        CopyThere::NotMirrored(metadata) => apart(&metadata, &[]),
        CopyThere::Absent => There::Absent,
        CopyThere::Unseen(there) => there,
    }
}

/// An image of the same name that is not the other copy; what was written for one of these images counts.
pub(super) fn apart(metadata: &BTreeMap<String, String>, images: &[&str]) -> There {
    let Marks { token, forced, .. } = Marks::read(metadata, images);
    There::Apart(Apart { token, forced })
}

/// A copy in the terms of the rules. What was written for it counts, or for one that it is compared with.
pub(super) fn copy(seen: &CopySeen, beside: &[&CopySeen]) -> Copy {
    let images = || std::iter::once(seen).chain(beside.iter().copied());
    let global_ids: Vec<&str> = images().map(|seen| seen.mirroring.global_id.as_str()).collect();
    let Marks { token, is_unbound, booted, release, forced, other_site_is_off } =
        Marks::read(&seen.metadata, &global_ids);
    let named = images().flat_map(|seen| named_by(&seen.info));
    let home = seen.metadata.get(HOME_KEY).map(String::as_str);
    let left_behind: Vec<Named<'_>> = seen.left_behind.iter().flat_map(named_by).collect();
    Copy {
        role: match (seen.mirroring.primary, seen.info.is_read_only) {
            (true, false) => Role::Primary,
            (true, true) => Role::HalfDemoted,
            (false, _) => Role::NonPrimary,
        },
        mode: match seen.mirroring.mode {
            MirrorMode::Journal => Mode::Journal,
            MirrorMode::Snapshot => Mode::Snapshot,
        },
        token,
        is_unbound,
        booted,
        release,
        forced,
        other_site_is_off,
        home: Home::read(home, &named.collect::<Vec<_>>(), &left_behind),
        report: Report::Other,
        resync: Resync::None,
        positions: Positions::Unknown,
    }
}

/// The ids that an image may be named by.
fn named_by(info: &ImageInfo) -> impl Iterator<Item = Named<'_>> {
    let global = info.mirroring.iter().map(|mirroring| Named::Global(&mirroring.global_id));
    global.chain([Named::Local(&info.id)])
}

/// A report in the terms of the rules.
pub(crate) fn translate(report: &ceph::StatusReport) -> Report {
    if report.daemon == DaemonState::Down {
        return Report::Down;
    }
    match &report.replay {
        ReplayState::Replaying(_) => Report::Replaying,
        ReplayState::Syncing { percent } => Report::Syncing(*percent),
        ReplayState::SplitBrain => Report::SplitBrain,
        ReplayState::RemoteNotPrimary | ReplayState::Stopped | ReplayState::Error(_) => Report::Stopped,
        ReplayState::LocalPrimary | ReplayState::Unknown(_) => Report::Other,
    }
}

/// The id of the copy that is there now, if Ceph keeps a request for its resync, or is meeting it. Not that of one which
/// is just being made: the request was met before it.
pub(crate) async fn copy_to_be_thrown_away(
    cluster: &Cluster,
    spec: &ImageSpec,
) -> Result<Option<String>, CephError> {
    let CopyHere::Mirrored(said) = copy_of(cluster, spec).await? else { return Ok(None) };
    if is_going_away(&said.mirroring) || resync_asked(cluster, spec, &said).await? {
        return Ok(Some(said.info.id));
    }
    // the request goes with the journal, before the copy goes; then the copy is in transition
    let now = cluster.info(spec).await?.filter(|now| now.id == said.info.id);
    let going = now.filter(|now| now.mirroring.as_ref().is_some_and(is_going_away));
    Ok(going.map(|now| now.id))
}

/// Whether Ceph keeps a request for a resync of this copy.
pub(super) async fn resync_asked(
    cluster: &Cluster,
    spec: &ImageSpec,
    said: &CopySeen,
) -> Result<bool, CephError> {
    match said.mirroring.mode {
        MirrorMode::Journal => {
            let asked = cluster.journal_resync(spec, &said.info.id).await?;
            Ok(asked.unwrap_or(true))
        }
        MirrorMode::Snapshot => {
            let uuid = cluster.uuid_of_pool(&spec.pool_spec()).await?;
            Ok(ceph::parse::metadata_resync(&said.metadata, uuid.as_deref()))
        }
    }
}

fn is_going_away(mirroring: &Mirroring) -> bool {
    mirroring.state == MirrorState::Disabling
}

pub(super) async fn snapshots(cluster: &Cluster, image: &ImageSpec) -> Result<Snapshots, RunError> {
    cluster.snapshots(image).await.map_err(|error| cluster.error(image, error))
}

/// Whether a copy has everything that the other one has, by the newest mirror snapshots of both.
pub(super) fn snapshot_positions(mine: &Snapshots, other: &Snapshots) -> Positions {
    let (Some(newest), Some(newest_there)) = (mine.mirror.last(), other.mirror.last()) else {
        return Positions::Unknown;
    };
    if newest.state != MirrorSnapshotState::Demoted || !newest.complete {
        return Positions::Behind;
    }
    match newest.primary_snap_id {
        // a copy of the other's demotion, and the other has nothing newer
        Some(original) if original == newest_there.id => Positions::Complete,
        Some(_) => Positions::Behind,
        // demoted here, and the other only followed
        None if newest_there.primary_snap_id.is_some() => Positions::Complete,
        None => Positions::Behind,
    }
}

/// Whether the copy in `mine` has everything that the journal of the copy in `other` holds.
pub(super) async fn journal_positions(
    mine: &Cluster,
    other: &Cluster,
    spec: &ImageSpec,
) -> Result<Positions, RunError> {
    let uuid = mine.uuid_of_pool(&spec.pool_spec()).await.map_err(|error| mine.error(spec, error))?;
    let status = other.journal_status(spec).await.map_err(|error| other.error(spec, error))?;
    let Some(follower) = uuid.and_then(|uuid| status.clients.get(&uuid).cloned()) else {
        return Ok(Positions::Unknown);
    };
    let Some(own) = status.clients.get("") else { return Ok(Positions::Unknown) };
    let sorted = |position: &ceph::JournalPosition| {
        let mut objects = position.objects.clone();
        objects.sort_unstable();
        objects
    };
    Ok(if sorted(own) == sorted(&follower) { Positions::Complete } else { Positions::Behind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::MirrorSnapshot;

    fn snapshots(mirror: &[(u64, MirrorSnapshotState, bool, Option<u64>)]) -> Snapshots {
        let mirror = mirror
            .iter()
            .map(|&(id, state, complete, primary_snap_id)| MirrorSnapshot {
                id,
                state,
                complete,
                primary_mirror_uuid: primary_snap_id.map(|_| "uuid".into()),
                primary_snap_id,
            })
            .collect();
        Snapshots { mirror, ..Snapshots::default() }
    }

    /// A daemon that is fast has met the request, and makes the next copy by now.
    #[test]
    fn a_copy_that_is_just_being_made_is_not_the_one_that_goes_away() {
        let cases =
            [(MirrorState::Enabled, false), (MirrorState::Creating, false), (MirrorState::Disabling, true)];
        for (state, goes) in cases {
            let mirroring =
                Mirroring { mode: MirrorMode::Journal, global_id: "77aa".into(), primary: false, state };
            assert_eq!(is_going_away(&mirroring), goes, "{state:?}");
        }
    }

    #[test]
    fn only_a_complete_copy_of_the_newest_demotion_is_complete() {
        use MirrorSnapshotState::{Demoted, NonPrimary, Primary};
        let demoted = snapshots(&[(5, Primary, true, None), (6, Demoted, true, None)]);
        let behind = snapshots(&[(5, NonPrimary, true, Some(5))]);
        let copying = snapshots(&[(7, Demoted, false, Some(6))]);
        let copied = snapshots(&[(7, Demoted, true, Some(6))]);
        assert_eq!(snapshot_positions(&behind, &demoted), Positions::Behind);
        assert_eq!(snapshot_positions(&copying, &demoted), Positions::Behind);
        assert_eq!(snapshot_positions(&copied, &demoted), Positions::Complete);
        // the last writer itself
        assert_eq!(snapshot_positions(&demoted, &copied), Positions::Complete);
        assert_eq!(snapshot_positions(&demoted, &behind), Positions::Complete);
        // written and demoted there again since
        let again = snapshots(&[(6, Demoted, true, None), (9, Demoted, true, None)]);
        assert_eq!(snapshot_positions(&copied, &again), Positions::Behind);
        // demoted on both sites, each for itself
        assert_eq!(snapshot_positions(&demoted, &again), Positions::Behind);
        assert_eq!(snapshot_positions(&Snapshots::default(), &demoted), Positions::Unknown);
    }

    /// Daemons of Ceph 19.2 and later remove what was superseded on either copy, demotions too; the newest one stays.
    #[test]
    fn superseded_snapshots_that_are_missing_change_no_verdict() {
        use MirrorSnapshotState::{Demoted, NonPrimary, Primary};
        // there and back: A demotes at 4, B is primary to 23, A again to 9
        let a = [
            (3, Primary, true, None),
            (4, Demoted, true, None),
            (6, NonPrimary, true, Some(21)),
            (7, Demoted, true, Some(23)),
            (8, Primary, true, None),
            (9, Demoted, true, None),
        ];
        let b = [
            (19, NonPrimary, true, Some(3)),
            (20, Demoted, true, Some(4)),
            (21, Primary, true, None),
            (23, Demoted, true, None),
            (25, NonPrimary, true, Some(8)),
            (26, Demoted, true, Some(9)),
        ];
        let kept = |all: &[(u64, MirrorSnapshotState, bool, Option<u64>)], mask: usize| {
            let newest = all.len() - 1;
            let kept =
                |(at, snapshot): (usize, _)| (at == newest || mask & (1 << at) != 0).then_some(snapshot);
            snapshots(&all.iter().copied().enumerate().filter_map(kept).collect::<Vec<_>>())
        };
        // every moment of both copies that is not pruned yet, with everything older or any part of it
        for (until_a, until_b) in (1..=a.len()).flat_map(|of_a| (1..=b.len()).map(move |of_b| (of_a, of_b))) {
            let (of_a, of_b) = (&a[..until_a], &b[..until_b]);
            let whole = usize::MAX;
            let verdicts = |mask_a, mask_b| {
                let (a, b) = (kept(of_a, mask_a), kept(of_b, mask_b));
                (snapshot_positions(&a, &b), snapshot_positions(&b, &a))
            };
            let expected = verdicts(whole, whole);
            for (mask_a, mask_b) in (0..32).flat_map(|mask_a| (0..32).map(move |mask_b| (mask_a, mask_b))) {
                assert_eq!(verdicts(mask_a, mask_b), expected, "{until_a} {until_b} {mask_a:b} {mask_b:b}");
            }
        }
    }
}
