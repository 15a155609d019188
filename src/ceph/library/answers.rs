//! What Ceph's libraries answer, in the same words as its commands' answers; pure.

use super::process::Ended;
use crate::ceph::classify::{Question, of_errno};
use crate::ceph::parse::{self, RawImageStatus, RawPeerStatus};
use crate::ceph::{
    CephError, ImageInfo, LockHolder, MirrorMode, MirrorSnapshot, MirrorSnapshotState, MirrorState,
    Mirroring, Snapshots,
};
use crate::text::excerpt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use onemirror_protocol::ImageSpec;
use onemirror_rbd::errno::{EBADMSG, ENOENT};
use onemirror_rbd::{
    self as rbd, Failure, LibraryAnswer, LockedBy, ParentTold, SiteStatus, Snapshot, Stage, StatusTold,
};

/// The states of mirroring in librbd.h that Ceph's command has words for.
const DISABLING: u32 = 0;
const ENABLED: u32 = 1;

/// As which a crash is told: SIGABRT, as a shell tells it.
const ABORTED: i32 = 134;

/// A failure, by its error number as if Ceph's command had ended with it.
pub(super) fn error_of(question: &Question, failure: Failure) -> CephError {
    let Failure { stage, errno } = failure;
    let detail = match stage {
        Stage::NotMirrored => "mirroring not enabled on the image".to_owned(),
        Stage::Connect => format!("couldn't connect to the cluster: {}", in_words(errno)),
        Stage::Pool | Stage::Image | Stage::Call => in_words(errno),
    };
    match (stage, errno) {
        (Stage::Pool | Stage::Image, ENOENT) => CephError::NotFound { what: question.what.clone() },
        (_, EBADMSG) => not_understood(question, &detail),
        _ => of_errno(question, errno, detail),
    }
}

/// `(16) Device or resource busy`
fn in_words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("({errno}) {text}")
}

/// Ceph's libraries ended the process that had called them.
pub(super) fn crashed(question: &Question) -> CephError {
    let detail = "Ceph's library ended in the middle".to_owned();
    CephError::Failed { what: question.what.clone(), status: ABORTED, detail }
}

/// An answer to another question.
pub(super) fn another(question: &Question) -> CephError {
    not_understood(question, "an answer to another question")
}

fn not_understood(question: &Question, detail: &str) -> CephError {
    CephError::BadAnswer { what: question.what.clone(), detail: detail.to_owned() }
}

/// For the log.
pub(super) fn outcome_in_words<T>(
    outcome: &Result<Result<Result<LibraryAnswer, Failure>, Ended>, T>,
) -> String {
    match outcome {
        Ok(Ok(Ok(_))) => "ok".to_owned(),
        Ok(Ok(Err(Failure { stage, errno }))) => format!("{stage:?}: {}", in_words(*errno)),
        Ok(Err(ended)) => format!("{ended:?}"),
        Err(_) => "no answer in time".to_owned(),
    }
}

pub(super) fn info(question: &Question, info: rbd::ImageTold) -> Result<ImageInfo, CephError> {
    let rbd::ImageTold { id, size, has_journal, is_read_only, parent, mirroring } = info;
    if id.is_empty() {
        return Err(not_understood(question, "the image has no id"));
    }
    let mirroring = mirroring.map(|mirroring| {
        let rbd::MirroringTold { by_snapshots, global_id, primary, state } = mirroring;
        if global_id.is_empty() {
            return Err(not_understood(question, "mirroring without a global id"));
        }
        let mode = if by_snapshots { MirrorMode::Snapshot } else { MirrorMode::Journal };
        let state = match state {
            ENABLED => MirrorState::Enabled,
            DISABLING => MirrorState::Disabling,
            _ => MirrorState::Creating,
        };
        Ok(Mirroring { mode, global_id, primary, state })
    });
    let parent = parent.map(|ParentTold { pool, namespace, image, snapshot }| {
        let namespace = if namespace.is_empty() { namespace } else { format!("{namespace}/") };
        format!("{pool}/{namespace}{image}@{snapshot}")
    });
    Ok(ImageInfo { id, size, mirroring: mirroring.transpose()?, parent, has_journal, is_read_only })
}

/// As Ceph's command prints it.
pub(super) fn status(image: &ImageSpec, StatusTold { global_id, sites }: StatusTold) -> RawImageStatus {
    let (own, peers): (Vec<_>, Vec<_>) = sites.into_iter().partition(|site| site.mirror_uuid.is_empty());
    let own = own.into_iter().next();
    let peer_sites = peers
        .into_iter()
        .filter_map(|site| {
            let SiteStatus { site_name, state, description, last_update, .. } = site;
            Some(RawPeerStatus { site_name: site_name?, state, description, last_update: time(last_update) })
        })
        .collect();
    RawImageStatus {
        name: image.image().to_owned(),
        global_id,
        state: own.as_ref().map(|site| site.state.clone()),
        last_update: own.as_ref().map(|site| time(site.last_update)).unwrap_or_default(),
        description: own.map(|site| site.description),
        peer_sites,
    }
}

/// In local time; of what never was, nothing.
fn time(unix: i64) -> String {
    let time = Timestamp::from_second(unix).ok().filter(|_| unix > 0);
    let time = time.map(|time| time.to_zoned(TimeZone::system()).strftime(parse::TIME_REPORTED).to_string());
    time.unwrap_or_default()
}

pub(super) fn snapshots(question: &Question, all: Vec<Snapshot>) -> Result<Snapshots, CephError> {
    let mut snapshots = Snapshots::default();
    for Snapshot { id, name, kind, mirror, primary_mirror_uuid, primary_snap_id } in all {
        match (kind.as_str(), mirror) {
            ("user", _) => snapshots.user.push(name),
            ("mirror", Some((state, complete))) => {
                let state = match state.as_str() {
                    "primary" => MirrorSnapshotState::Primary,
                    "non-primary" => MirrorSnapshotState::NonPrimary,
                    "demoted" => MirrorSnapshotState::Demoted,
                    _ => return Err(not_understood(question, "unknown mirror snapshot state")),
                };
                let primary_mirror_uuid = Some(primary_mirror_uuid).filter(|uuid| !uuid.is_empty());
                let primary_snap_id = primary_mirror_uuid.is_some().then_some(primary_snap_id);
                snapshots.mirror.push(MirrorSnapshot {
                    id,
                    state,
                    complete,
                    primary_mirror_uuid,
                    primary_snap_id,
                });
            }
            _ => snapshots.other.push(name),
        }
    }
    snapshots.mirror.sort_by_key(|snapshot| snapshot.id);
    Ok(snapshots)
}

pub(super) fn lock_holder(
    question: &Question,
    mut holders: Vec<LockedBy>,
) -> Result<Option<LockHolder>, CephError> {
    match (holders.pop(), holders.is_empty()) {
        (holder, true) => Ok(holder.map(|LockedBy { client, cookie, address }| LockHolder {
            client,
            cookie,
            address: excerpt(&address),
        })),
        // ours are exclusive: this is somebody else's
        (_, false) => Err(not_understood(question, "the lock has more than one holder")),
    }
}
