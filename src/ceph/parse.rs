//! Reads the answers of `rbd` and `rados`; pure. Public for those who feed it damaged ones.
//!
//! Strict where a decision depends on it: what is not understood is an error, never a default.

use super::{
    DaemonState, ImageInfo, ImageStatus, JournalPosition, JournalStatus, LockHolder, MirrorMode,
    MirrorSnapshot, MirrorSnapshotState, MirrorState, Mirroring, Peer, PoolInfo, PoolRoom, PoolStatus,
    Progress, ReplayState, SnapshotSchedule, Snapshots, StatusReport,
};
use crate::text::excerpt;
use jiff::civil::DateTime;
use onemirror_protocol::{ImageSpec, PoolLoad};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why an answer was not understood, in words that quote none of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotUnderstood(String);

pub(super) type Parsed<T> = Result<T, NotUnderstood>;

/// serde_json's own message may quote a value, and one of the values is a peer's key.
fn json<T: DeserializeOwned>(bytes: &[u8]) -> Parsed<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "the JSON ends too early",
            serde_json::error::Category::Data => "the JSON lacks a field, or one is of another kind",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "not JSON",
        };
        NotUnderstood(format!("{what}, line {} column {}", error.line(), error.column()))
    })
}

fn unknown(what: &str, word: &str) -> NotUnderstood {
    NotUnderstood(excerpt(&format!("unknown {what} {word:?}")))
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// `2026-11-23 00:03:25`
pub(super) const TIME_REPORTED: &str = "%Y-%m-%d %H:%M:%S";

/// A time of day that `rbd` printed; `None` for what it prints where there was none.
fn time(text: &str) -> Option<DateTime> {
    DateTime::strptime(TIME_REPORTED, text.trim()).ok()
}

// ---- info

#[derive(Deserialize)]
struct RawInfo {
    id: String,
    size: u64,
    #[serde(default)]
    features: Vec<String>,
    mirroring: Option<RawMirroring>,
    parent: Option<RawParent>,
}

#[derive(Deserialize)]
struct RawMirroring {
    mode: Option<String>,
    state: String,
    global_id: Option<String>,
    primary: Option<bool>,
}

#[derive(Deserialize)]
struct RawParent {
    pool: String,
    #[serde(default)]
    pool_namespace: String,
    image: String,
    snapshot: String,
}

/// `rbd info`.
pub fn info(bytes: &[u8]) -> Parsed<ImageInfo> {
    let raw: RawInfo = json(bytes)?;
    let parent = raw.parent.map(|parent| {
        let RawParent { pool, pool_namespace, image, snapshot } = parent;
        let namespace = if pool_namespace.is_empty() { String::new() } else { format!("{pool_namespace}/") };
        format!("{pool}/{namespace}{image}@{snapshot}")
    });
    if raw.id.is_empty() {
        return Err(NotUnderstood("the image has no id".into()));
    }
    let is_read_only = raw.features.iter().any(|feature| feature == "non-primary");
    Ok(ImageInfo {
        id: raw.id,
        size: raw.size,
        mirroring: mirroring(raw.mirroring)?,
        parent,
        has_journal: raw.features.iter().any(|feature| feature == "journaling"),
        is_read_only,
    })
}

#[derive(Deserialize)]
struct RawChild {
    pool: String,
    #[serde(default)]
    pool_namespace: String,
    image: String,
}

/// `rbd children`.
pub fn children(bytes: &[u8]) -> Parsed<Vec<ImageSpec>> {
    let raw: Vec<RawChild> = json(bytes)?;
    let child = |child: RawChild| {
        ImageSpec::new(&child.pool, filled(Some(child.pool_namespace)).as_deref(), &child.image)
            .map_err(|error| NotUnderstood(excerpt(&error.to_string())))
    };
    raw.into_iter().map(child).collect()
}

fn mirroring(raw: Option<RawMirroring>) -> Parsed<Option<Mirroring>> {
    let Some(raw) = raw else { return Ok(None) };
    let state = match raw.state.as_str() {
        // a journaled image that is not mirrored has this section too
        "disabled" => return Ok(None),
        "enabled" => MirrorState::Enabled,
        "disabling" => MirrorState::Disabling,
        // `rbd` has no word for one that is being made (Ceph 16 to 20: src/tools/rbd/Utils.cc, `mirror_image_state`)
        "creating" | "unknown" => MirrorState::Creating,
        other => return Err(unknown("mirroring state", other)),
    };
    let mode = match raw.mode.as_deref() {
        Some("journal") => MirrorMode::Journal,
        Some("snapshot") => MirrorMode::Snapshot,
        other => return Err(unknown("mirroring mode", other.unwrap_or_default())),
    };
    match (filled(raw.global_id), raw.primary) {
        (Some(global_id), Some(primary)) => Ok(Some(Mirroring { mode, global_id, primary, state })),
        _ => Err(NotUnderstood("mirroring without global_id or primary".into())),
    }
}

// ---- image-meta list

#[derive(Deserialize)]
struct SettingJson {
    name: String,
    value: String,
}

/// `rbd config pool list` and `rbd config global list`: name, value.
pub fn settings(bytes: &[u8]) -> Parsed<BTreeMap<String, String>> {
    let settings: Vec<SettingJson> = json(bytes)?;
    Ok(settings.into_iter().map(|setting| (setting.name, setting.value)).collect())
}

/// `rbd image-meta list`: prints nothing at all where there is no entry. The values are whatever bytes somebody
/// put there; those that are not UTF-8 are replaced, so that an entry of somebody else does not hide ours.
pub fn metadata(bytes: &[u8]) -> Parsed<BTreeMap<String, String>> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    json(text.as_bytes())
}

// ---- mirror image status, mirror pool status

#[derive(Deserialize)]
pub(super) struct RawImageStatus {
    pub(super) name: String,
    pub(super) global_id: String,
    /// Not there while no daemon here has ever reported on the image.
    pub(super) state: Option<String>,
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) last_update: String,
    #[serde(default)]
    pub(super) peer_sites: Vec<RawPeerStatus>,
}

#[derive(Deserialize)]
pub(super) struct RawPeerStatus {
    pub(super) site_name: String,
    pub(super) state: String,
    pub(super) description: String,
    #[serde(default)]
    pub(super) last_update: String,
}

#[derive(Deserialize)]
struct RawPoolStatus {
    daemons: Vec<RawDaemon>,
    images: Vec<RawImageStatus>,
}

#[derive(Deserialize)]
struct RawDaemon {
    /// Empty for a daemon of the cluster that does not serve this pool.
    #[serde(default)]
    instance_id: String,
}

/// `rbd mirror image status`.
pub fn image_status(bytes: &[u8]) -> Parsed<ImageStatus> {
    json(bytes).map(image_status_of)
}

/// `rbd mirror pool status --verbose`.
///
/// A user with `profile rbd` is shown no daemon; an image whose report is held by a running one then counts as one.
pub fn pool_status(bytes: &[u8]) -> Parsed<PoolStatus> {
    let raw: RawPoolStatus = json(bytes)?;
    let listed = raw.daemons.iter().filter(|daemon| !daemon.instance_id.is_empty()).count();
    let images: Vec<ImageStatus> = raw.images.into_iter().map(image_status_of).collect();
    let held = images.iter().filter_map(|image| image.local.as_ref()).any(|it| it.daemon == DaemonState::Up);
    Ok(PoolStatus { daemons_up: listed.max(usize::from(held)), images })
}

pub(super) fn image_status_of(raw: RawImageStatus) -> ImageStatus {
    let mut peers: Vec<(String, StatusReport)> = Vec::new();
    for peer in raw.peer_sites {
        let report = status_report(&peer.state, &peer.description, &peer.last_update);
        // a peer that was removed and added again may be listed twice: the later report counts
        match peers.iter_mut().find(|(name, _)| *name == peer.site_name) {
            Some((_, earlier)) if earlier.last_update > report.last_update => {}
            Some((_, earlier)) => *earlier = report,
            None => peers.push((peer.site_name, report)),
        }
    }
    let local = match (&raw.state, &raw.description) {
        (Some(state), Some(description)) if description != NO_STATUS => {
            Some(status_report(state, description, &raw.last_update))
        }
        _ => None,
    };
    ImageStatus { name: raw.name, global_id: raw.global_id, local, peers }
}

const NO_STATUS: &str = "status not found";

fn status_report(state: &str, description: &str, last_update: &str) -> StatusReport {
    let (daemon, state) = match state.split_once('+') {
        Some(("up", state)) => (DaemonState::Up, state),
        Some((_, state)) => (DaemonState::Down, state),
        None => (DaemonState::Down, state),
    };
    let (head, details) = split_description(description);
    StatusReport {
        daemon,
        replay: replay_state(state, &head, details.as_ref()),
        description: head,
        last_update: time(last_update),
    }
}

/// The words of a description, and the JSON object that may follow their first comma.
fn split_description(description: &str) -> (String, Option<Map<String, Value>>) {
    let Some((head, rest)) = description.split_once(',') else { return (excerpt(description), None) };
    let rest = rest.trim_start();
    if !rest.starts_with('{') {
        return (excerpt(description), None);
    }
    (excerpt(head), serde_json::from_str(rest).ok())
}

fn replay_state(state: &str, words: &str, details: Option<&Map<String, Value>>) -> ReplayState {
    let no_one_to_follow = matches!(words, "remote image is not primary" | "remote image demoted");
    match state {
        // `split-brain detected` in journal mode, `split-brain` in snapshot mode
        "error" | "unknown" | "stopped" if words.starts_with("split-brain") => ReplayState::SplitBrain,
        "error" | "unknown" | "stopped" if no_one_to_follow => ReplayState::RemoteNotPrimary,
        "stopped" if words == "local image is primary" => ReplayState::LocalPrimary,
        "stopped" | "stopping_replay" => ReplayState::Stopped,
        "replaying" => ReplayState::Replaying(details.map(progress).unwrap_or_default()),
        "syncing" | "starting_replay" => ReplayState::Syncing { percent: percent_in(words) },
        "error" => ReplayState::Error(words.to_owned()),
        _ => ReplayState::Unknown(words.to_owned()),
    }
}

/// The `42%` of `bootstrapping, IMAGE_COPY/COPY_OBJECT 42%`.
fn percent_in(words: &str) -> Option<u8> {
    let number = words.split_whitespace().rev().find_map(|word| word.strip_suffix('%'))?;
    number.parse().ok().filter(|percent| *percent <= 100)
}

fn progress(details: &Map<String, Value>) -> Progress {
    let whole = |key: &str| details.get(key).and_then(Value::as_u64);
    let time = |key: &str| details.get(key).and_then(Value::as_i64);
    Progress {
        entries_behind_primary: whole("entries_behind_primary"),
        seconds_until_synced: whole("seconds_until_synced"),
        replay_state: details.get("replay_state").and_then(Value::as_str).map(excerpt),
        syncing_percent: whole("syncing_percent")
            .and_then(|percent| u8::try_from(percent).ok())
            .filter(|percent| *percent <= 100),
        local_snapshot_timestamp: time("local_snapshot_timestamp"),
        remote_snapshot_timestamp: time("remote_snapshot_timestamp"),
    }
}

// ---- journal status

#[derive(Deserialize)]
struct RawJournalStatus {
    registered_clients: Vec<RawClient>,
}

#[derive(Deserialize)]
struct RawClient {
    id: String,
    commit_position: RawPosition,
}

#[derive(Deserialize)]
struct RawPosition {
    object_positions: Vec<RawObjectPosition>,
}

#[derive(Deserialize)]
struct RawObjectPosition {
    object_number: u64,
    tag_tid: u64,
    entry_tid: u64,
}

/// `rbd journal status`.
pub fn journal_status(bytes: &[u8]) -> Parsed<JournalStatus> {
    let raw: RawJournalStatus = json(bytes)?;
    let mut clients = BTreeMap::new();
    for RawClient { id, commit_position } in raw.registered_clients {
        let objects = commit_position
            .object_positions
            .iter()
            .map(|position| (position.object_number, position.tag_tid, position.entry_tid))
            .collect();
        if clients.insert(id, JournalPosition { objects }).is_some() {
            return Err(NotUnderstood("two journal clients with one id".into()));
        }
    }
    Ok(JournalStatus { clients })
}

// ---- snap ls

#[derive(Deserialize)]
struct RawSnapshot {
    id: u64,
    name: String,
    namespace: RawNamespace,
}

#[derive(Deserialize)]
struct RawNamespace {
    r#type: String,
    state: Option<String>,
    complete: Option<bool>,
    primary_mirror_uuid: Option<String>,
    primary_snap_id: Option<u64>,
}

/// Whether `rbd status` names anybody who has the image open for writing.
pub fn is_watched(bytes: &[u8]) -> Parsed<bool> {
    #[derive(Deserialize)]
    struct RawStatus {
        watchers: Vec<serde::de::IgnoredAny>,
    }
    let status: RawStatus = json(bytes)?;
    Ok(!status.watchers.is_empty())
}

/// `rbd snap ls --all`.
pub fn snapshots(bytes: &[u8]) -> Parsed<Snapshots> {
    let raw: Vec<RawSnapshot> = json(bytes)?;
    let mut snapshots = Snapshots::default();
    for RawSnapshot { id, name, namespace } in raw {
        match namespace.r#type.as_str() {
            "user" => snapshots.user.push(name),
            "mirror" => snapshots.mirror.push(mirror_snapshot(id, namespace)?),
            // trash, group, and what later versions bring
            _ => snapshots.other.push(name),
        }
    }
    snapshots.mirror.sort_by_key(|snapshot| snapshot.id);
    Ok(snapshots)
}

fn mirror_snapshot(id: u64, raw: RawNamespace) -> Parsed<MirrorSnapshot> {
    let state = match raw.state.as_deref() {
        Some("primary") => MirrorSnapshotState::Primary,
        Some("non-primary") => MirrorSnapshotState::NonPrimary,
        Some("demoted") => MirrorSnapshotState::Demoted,
        other => return Err(unknown("mirror snapshot state", other.unwrap_or_default())),
    };
    let complete = raw.complete.ok_or_else(|| NotUnderstood("mirror snapshot without `complete`".into()))?;
    let primary_mirror_uuid = filled(raw.primary_mirror_uuid);
    // printed for those that were taken here, too, in some versions; meaningless without the cluster
    let primary_snap_id = raw.primary_snap_id.filter(|_| primary_mirror_uuid.is_some());
    Ok(MirrorSnapshot { id, state, complete, primary_mirror_uuid, primary_snap_id })
}

// ---- mirror pool info

#[derive(Deserialize)]
struct RawPoolInfo {
    mode: String,
    #[serde(default)]
    site_name: String,
    #[serde(default)]
    peers: Vec<RawPeer>,
}

#[derive(Deserialize)]
struct RawPeer {
    site_name: String,
    mirror_uuid: Option<String>,
    client_name: String,
    mon_host: Option<String>,
    key: Option<String>,
    #[serde(default)]
    direction: String,
}

/// `rbd mirror pool info --all`. A pool without mirroring has neither site name nor peers, nor has a namespace.
pub fn pool_info(bytes: &[u8]) -> Parsed<PoolInfo> {
    let raw: RawPoolInfo = json(bytes)?;
    let (enabled, pool_mode) = match raw.mode.as_str() {
        // of newer versions: ready for mirroring in its namespaces, nothing of its own is mirrored
        "disabled" | "init-only" => (false, false),
        "image" => (true, false),
        "pool" => (true, true),
        other => return Err(unknown("pool mirroring mode", other)),
    };
    let peers = raw
        .peers
        .into_iter()
        .map(|peer| Peer {
            site_name: peer.site_name,
            mirror_uuid: filled(peer.mirror_uuid),
            client_name: peer.client_name.strip_prefix("client.").unwrap_or(&peer.client_name).to_owned(),
            mon_host: filled(peer.mon_host),
            key: filled(peer.key),
            direction: peer.direction,
        })
        .collect();
    Ok(PoolInfo { enabled, pool_mode, site_name: raw.site_name, peers })
}

// ---- mirror snapshot schedule ls

#[derive(Deserialize)]
struct RawSchedule {
    pool: String,
    namespace: String,
    image: String,
    items: Vec<RawScheduleItem>,
}

#[derive(Deserialize)]
struct RawScheduleItem {
    interval: String,
}

/// `rbd mirror snapshot schedule ls --recursive`; `-` stands for all.
pub fn snapshot_schedules(bytes: &[u8]) -> Parsed<Vec<SnapshotSchedule>> {
    let raw: Vec<RawSchedule> = json(bytes)?;
    let mut schedules = Vec::new();
    for RawSchedule { pool, namespace, image, items } in raw {
        let named = |name: &str| (name != "-").then(|| name.to_owned());
        for RawScheduleItem { interval } in items {
            let (pool, namespace, image) = (named(&pool), named(&namespace), named(&image));
            schedules.push(SnapshotSchedule { pool, namespace, image, every: interval_of(&interval)? });
        }
    }
    Ok(schedules)
}

/// `5m`, `1h`, `1d`.
fn interval_of(text: &str) -> Parsed<Duration> {
    let unit = match text.chars().last() {
        Some('m') => 60,
        Some('h') => 60 * 60,
        Some('d') => 60 * 60 * 24,
        _ => return Err(unknown("interval", text)),
    };
    let number = text.get(..text.len() - 1).and_then(|number| number.parse::<u64>().ok());
    let seconds = number.and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| unknown("interval", text))
}

// ---- rados

#[derive(Deserialize)]
struct RawLock {
    lockers: Vec<RawLocker>,
}

#[derive(Deserialize)]
struct RawLocker {
    name: String,
    cookie: String,
    #[serde(default)]
    addr: String,
}

#[derive(Deserialize)]
struct RawLockList {
    locks: Vec<RawLockName>,
}

#[derive(Deserialize)]
struct RawLockName {
    name: String,
}

/// `rados lock list`; those that are free again are among them.
pub fn lock_names(bytes: &[u8]) -> Parsed<Vec<String>> {
    let RawLockList { locks } = json(bytes)?;
    Ok(locks.into_iter().map(|lock| lock.name).collect())
}

/// `rados lock info`; a lock that expired has no lockers.
pub fn lock_info(bytes: &[u8]) -> Parsed<Option<LockHolder>> {
    let RawLock { mut lockers } = json(bytes)?;
    match (lockers.pop(), lockers.is_empty()) {
        (holder, true) => {
            Ok(holder.map(|it| LockHolder { client: it.name, cookie: it.cookie, address: excerpt(&it.addr) }))
        }
        // ours are exclusive: this is somebody else's
        (_, false) => Err(NotUnderstood("the lock has more than one holder".into())),
    }
}

// ---- ls, du, df

/// `rbd ls`.
pub fn image_names(bytes: &[u8]) -> Parsed<Vec<String>> {
    json(bytes)
}

#[derive(Deserialize)]
struct RawUsage {
    images: Vec<RawUsageRow>,
}

#[derive(Deserialize)]
struct RawUsageRow {
    used_size: u64,
}

/// The bytes that an image takes up by `rbd du`, snapshots included.
pub fn used(bytes: &[u8]) -> Parsed<u64> {
    let RawUsage { images } = json(bytes)?;
    Ok(images.iter().fold(0, |sum, row| sum.saturating_add(row.used_size)))
}

#[derive(Deserialize)]
struct RawDf {
    pools: Vec<RawPoolDf>,
}

#[derive(Deserialize)]
struct RawPoolDf {
    name: String,
    stats: RawPoolStats,
}

#[derive(Deserialize)]
struct RawPoolStats {
    stored: u64,
    #[serde(default)]
    objects: u64,
    max_avail: u64,
    #[serde(default)]
    quota_bytes: u64,
}

fn pool_stats(bytes: &[u8], pool: &str) -> Parsed<RawPoolStats> {
    let RawDf { pools } = json(bytes)?;
    let found = pools.into_iter().find(|found| found.name == pool);
    Ok(found.ok_or_else(|| unknown("pool", pool))?.stats)
}

/// What a pool holds, by `ceph df detail`.
pub fn pool_load(bytes: &[u8], pool: &str) -> Parsed<PoolLoad> {
    pool_stats(bytes, pool).map(|stats| PoolLoad { bytes: stats.stored, objects: stats.objects })
}

/// The room in a pool by `ceph df detail`. A quota of 0 is none.
pub fn pool_room(bytes: &[u8], pool: &str) -> Parsed<PoolRoom> {
    let RawPoolStats { stored, max_avail, quota_bytes, .. } = pool_stats(bytes, pool)?;
    let by_quota = if quota_bytes == 0 { u64::MAX } else { quota_bytes.saturating_sub(stored) };
    Ok(PoolRoom { available: max_avail.min(by_quota) })
}

/// Longest omap value that is read, in bytes.
const OMAP_VALUE_LIMIT: usize = 256;
/// The same among an image's header, whose metadata anybody may write.
const HEADER_VALUE_LIMIT: usize = 4 << 20;
/// What stands before the keys of metadata in an image's header.
const HEADER_METADATA: &str = "metadata_";

/// Who holds an image's exclusive lock, as `rbd lock ls` names it and `rbd lock rm` wants it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Locker {
    /// The lock's own name.
    pub id: String,
    /// The client instance that holds it, such as `client.4242`.
    pub locker: String,
}

/// `rbd lock ls`; prints nothing at all where nobody holds the lock.
pub fn lockers(bytes: &[u8]) -> Parsed<Vec<Locker>> {
    if bytes.trim_ascii().is_empty() { Ok(Vec::new()) } else { json(bytes) }
}

/// The key of the image's own client in the omap of its journal's header object, `journal.<image id>`.
pub const JOURNAL_OWN_CLIENT: &str = "client_";

/// Whether that client, as `rados getomapval` prints it, carries a request for a resync: `cls::journal::Client` around
/// `librbd::journal::ImageClientMeta` (Ceph's src/cls/journal/cls_journal_types.h, src/librbd/journal/Types.h).
pub fn journal_resync(bytes: &[u8]) -> Parsed<bool> {
    journal_resync_of(&omap_value(bytes)?)
}

/// The same of the value itself.
pub fn journal_resync_of(value: &[u8]) -> Parsed<bool> {
    let mut rest = Encoded(value);
    rest.header()?;
    rest.sized()?; // the client's id
    let mut data = Encoded(rest.sized()?);
    data.header()?;
    let kind = data.number()?;
    data.take(8)?; // the class of its tags
    match (kind, data.take(1)?) {
        (0, [asked @ (0 | 1)]) => Ok(*asked == 1),
        _ => Err(NotUnderstood("the journal's own client is no image".into())),
    }
}

/// What is left of a value in Ceph's encoding.
struct Encoded<'a>(&'a [u8]);

impl<'a> Encoded<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| NotUnderstood("the omap value is too short".into()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Parsed<u32> {
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| NotUnderstood("four bytes".into()))?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Bytes after their number.
    fn sized(&mut self) -> Parsed<&'a [u8]> {
        let count = self.number()?;
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Version, oldest version that can read it, length.
    fn header(&mut self) -> Parsed<()> {
        self.take(6).map(drop)
    }
}

/// The beginning of the keys under which rbd-mirror keeps its own metadata of an image in snapshot mode; the mirror uuid
/// of the cluster follows (Ceph's src/librbd/mirror/snapshot/Utils.cc).
const MIRROR_METADATA: &str = ".rbd_mirror.";

/// Whether rbd-mirror's own metadata of an image in snapshot mode carries a request for a resync. That of another cluster
/// means nothing; where the cluster's own uuid is not known, any counts, and so does what cannot be read.
pub fn metadata_resync(metadata: &BTreeMap<String, String>, own_uuid: Option<&str>) -> bool {
    #[derive(Deserialize)]
    struct ResyncRequest {
        #[serde(default)]
        resync_requested: bool,
    }
    metadata
        .iter()
        .filter_map(|(key, text)| Some((key.strip_prefix(MIRROR_METADATA)?, text)))
        .filter(|(uuid, _)| own_uuid.is_none_or(|own| own == *uuid))
        .any(|(_, text)| {
            json(text.as_bytes()).map_or(true, |request: ResyncRequest| request.resync_requested)
        })
}

fn not_a_dump() -> NotUnderstood {
    NotUnderstood("not a hex dump of an omap value".into())
}

/// The value that `rados getomapval` prints as `value (36 bytes) :` and a hex dump. Its other form, into a file, would
/// need a file on the bridge host.
fn omap_value(bytes: &[u8]) -> Parsed<Vec<u8>> {
    let text = std::str::from_utf8(bytes).map_err(|_| not_a_dump())?;
    dumped_value(&mut text.lines(), OMAP_VALUE_LIMIT)
}

/// The value whose dump begins with the next line.
fn dumped_value(lines: &mut std::str::Lines, limit: usize) -> Parsed<Vec<u8>> {
    let length: usize = lines
        .next()
        .and_then(|line| line.strip_prefix("value (")?.strip_suffix(" bytes) :")?.parse().ok())
        .filter(|length| *length <= limit)
        .ok_or_else(not_a_dump)?;
    let mut value = Vec::with_capacity(length);
    while value.len() < length {
        // `00000010  62 63 2d 61 35 34 31 2d  62 36 61 33 31 65 61 30  |bc-a541-b6a31ea0|`
        let line = lines.next().ok_or_else(not_a_dump)?;
        let (offset, rest) = line.split_once("  ").ok_or_else(not_a_dump)?;
        let (digits, _) = rest.split_once('|').ok_or_else(not_a_dump)?;
        if usize::from_str_radix(offset, 16) != Ok(value.len()) {
            return Err(not_a_dump());
        }
        for byte in digits.split_whitespace() {
            value.push(u8::from_str_radix(byte, 16).map_err(|_| not_a_dump())?);
        }
        if value.len() % 16 != 0 && value.len() != length {
            return Err(not_a_dump());
        }
    }
    if value.len() != length || lines.next().map(|end| usize::from_str_radix(end, 16)) != Some(Ok(length)) {
        return Err(not_a_dump());
    }
    Ok(value)
}

/// The metadata among what `rados listomapvals` prints of an image's header: each key on a line, then its value.
pub fn header_metadata(bytes: &[u8]) -> Parsed<BTreeMap<String, String>> {
    let text = std::str::from_utf8(bytes).map_err(|_| not_a_dump())?;
    let mut lines = text.lines();
    let mut metadata = BTreeMap::new();
    while let Some(key) = lines.next() {
        let value = dumped_value(&mut lines, HEADER_VALUE_LIMIT)?;
        if let Some(key) = key.strip_prefix(HEADER_METADATA) {
            metadata.insert(key.to_owned(), String::from_utf8_lossy(&value).into_owned());
        }
        if lines.next() != Some("") {
            return Err(not_a_dump());
        }
    }
    // every header holds something
    if text.is_empty() { Err(not_a_dump()) } else { Ok(metadata) }
}

/// Where an image's metadata is in the cluster: the object, and the key that a value has there (`metadata_key_for_name` in
/// Ceph's src/cls/rbd/cls_rbd.cc).
pub(super) fn place_of_metadata(id: &str, key: &str) -> (String, String) {
    (header_of(id), format!("{HEADER_METADATA}{key}"))
}

/// The object that holds what the image with this id says of itself.
pub(super) fn header_of(id: &str) -> String {
    format!("rbd_header.{id}")
}

/// Where the journal of the image with this id has its own client.
pub(super) fn place_of_journal_client(id: &str) -> (String, String) {
    (format!("journal.{id}"), JOURNAL_OWN_CLIENT.into())
}

/// An omap value that is printable text.
pub fn omap_text(bytes: &[u8]) -> Parsed<String> {
    omap_text_of(omap_value(bytes)?)
}

/// The same of the value itself.
pub(super) fn omap_text_of(value: Vec<u8>) -> Parsed<String> {
    match String::from_utf8(value) {
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => Ok(text),
        _ => Err(NotUnderstood("the omap value is not text".into())),
    }
}

// ---- room in a pool

#[derive(Deserialize)]
struct RawPoolDetail {
    pool_name: String,
    flags_names: String,
    #[serde(default)]
    quota_max_bytes: u64,
    #[serde(default)]
    quota_max_objects: u64,
}

/// What keeps a pool from taking writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullBy {
    /// A quota; which of the two is not told.
    Quota(PoolLoad),
    /// Its cluster.
    Cluster,
}

/// `ceph osd pool ls detail`: why the pool is full; `None`: it has room, or there is no such pool.
pub fn full_by(bytes: &[u8], pool: &str) -> Parsed<Option<FullBy>> {
    let pools: Vec<RawPoolDetail> = json(bytes)?;
    Ok(pools.into_iter().find(|detail| detail.pool_name == pool).and_then(|detail| {
        let has = |flag: &str| detail.flags_names.split(',').any(|name| name == flag);
        let quota = PoolLoad { bytes: detail.quota_max_bytes, objects: detail.quota_max_objects };
        match (has("full"), has("full_quota") && quota != PoolLoad::default()) {
            (_, true) => Some(FullBy::Quota(quota)),
            (true, false) => Some(FullBy::Cluster),
            (false, false) => None,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::datetime;
    use onemirror_protocol::Fullness;
    use onemirror_protocol::advice::Place;
    use proptest::prelude::*;
    use std::path::PathBuf;

    #[test]
    fn the_closest_schedule_counts() {
        let text = br#"[{"pool":"-","namespace":"-","image":"-","items":[{"interval":"1h","start_time":""}]},
            {"pool":"two","namespace":"-","image":"-","items":[{"interval":"5m","start_time":""}]},
            {"pool":"two","namespace":"ns","image":"-","items":[{"interval":"2d","start_time":""}]},
            {"pool":"two","namespace":"","image":"one-0","items":[{"interval":"9m","start_time":""},{"interval":"3m","start_time":""}]}]"#;
        let schedules = snapshot_schedules(text).unwrap();
        let minutes = |image: &str| {
            let every = SnapshotSchedule::every_of(&schedules, &image.parse().unwrap());
            every.map(|every| every.as_secs() / 60)
        };
        assert_eq!(minutes("two/one-0"), Some(3));
        assert_eq!(minutes("two/one-1"), Some(5));
        assert_eq!(minutes("two/ns/one-0"), Some(2 * 24 * 60));
        assert_eq!(minutes("two/other/one-0"), Some(5));
        assert_eq!(minutes("one/one-0"), Some(60));
        assert_eq!(snapshot_schedules(b"[]"), Ok(vec![]));
        assert_eq!(SnapshotSchedule::every_of(&[], &"one/one-0".parse().unwrap()), None);
        for wrong in ["", "m", "5", "5w", "0m", "-5m", "99999999999999999999d", "\u{e4}m"] {
            let text = format!(
                r#"[{{"pool":"two","namespace":"-","image":"-","items":[{{"interval":"{wrong}"}}]}}]"#
            );
            assert!(snapshot_schedules(text.as_bytes()).is_err(), "{wrong}");
        }
    }

    const FLAGGED: &str = "value (44 bytes) :
00000000  01 01 26 00 00 00 00 00  00 00 13 00 00 00 02 01  |..&.............|
00000010  0d 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
00000020  01 01 01 04 00 00 00 00  00 00 00 00              |............|
0000002c

";

    #[test]
    fn children_are_images_of_any_pool() {
        let text = br#"[{"pool":"one","pool_namespace":"","image":"one-7"},{"pool":"p","pool_namespace":"n","image":"i"}]"#;
        let names: Vec<String> = children(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["one/one-7", "p/n/i"]);
        assert!(children(br#"[{"pool":"one","image":"-x"}]"#).is_err());
        assert_eq!(children(b"[]").unwrap(), []);
    }

    #[test]
    fn metadata_is_found_in_a_header() {
        let dump = "features\nvalue (8 bytes) :\n00000000  7d 00 00 00 00 00 00 00                           |}.......|\n00000008\n\n\
            metadata_k\nvalue (0 bytes) :\n00000000\n\n\
            metadata_onemirror.handoff\nvalue (13 bytes) :\n\
            00000000  31 3a 73 69 74 65 2d 61  3a 6f 70 65 6e           |1:site-a:open|\n0000000d\n\n";
        let expected = [("k", ""), ("onemirror.handoff", "1:site-a:open")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(header_metadata(dump.as_bytes()), Ok(BTreeMap::from(expected)));
        for cut in 0..dump.len() {
            let ends_with_a_value = dump[..cut].ends_with("\n\n");
            assert_eq!(header_metadata(&dump.as_bytes()[..cut]).is_ok(), ends_with_a_value, "cut to {cut}");
        }
    }

    #[test]
    fn a_pool_is_full_by_its_quota_or_with_its_cluster() {
        let pools = |flags: &str| {
            format!(
                r#"[{{"pool_name":"onerous","flags_names":"hashpspool,full","quota_max_bytes":0}},
                    {{"pool_name":"one","flags_names":"{flags}","quota_max_bytes":1000,"quota_max_objects":0}}]"#
            )
        };
        let of = |flags: &str, pool: &str| full_by(pools(flags).as_bytes(), pool).unwrap();
        assert_eq!(of("hashpspool,selfmanaged_snaps", "one"), None);
        assert_eq!(of("hashpspool,nearfull", "one"), None);
        assert_eq!(
            of("hashpspool,full,full_quota", "one"),
            Some(FullBy::Quota(PoolLoad { bytes: 1000, objects: 0 }))
        );
        assert_eq!(of("hashpspool,full,backfillfull", "one"), Some(FullBy::Cluster));
        assert_eq!((of("full", "two"), of("", "onerous")), (None, Some(FullBy::Cluster)));
        assert!(full_by(b"Error EACCES: access denied", "one").is_err());
    }

    #[test]
    fn more_room_is_asked_for_than_a_full_pool_already_holds() {
        let df = br#"{"pools":[{"name":"one","id":1,"stats":{"stored":6000,"objects":7,"max_avail":1000}}]}"#;
        let stored = pool_load(df, "one").unwrap();
        let typed = |bytes: u64, objects: u64| {
            let fullness = Fullness::by_quota(PoolLoad { bytes, objects }, stored);
            (fullness.to_string(), fullness.advice("one", Place::Here).to_string())
        };
        for (bytes, objects, quota, enough) in [
            (6000, 0, "6000 bytes", "max_bytes 12000"),
            (1000, 0, "1000 bytes", "max_bytes 12000"),
            (0, 7, "7 objects", "max_objects 14"),
            (0, 2, "2 objects", "max_objects 14"),
            // both are set, and one is reached
            (9000, 7, "7 objects", "max_objects 14"),
            (6000, 9, "6000 bytes", "max_bytes 12000"),
            // it is not known what is stored
            (9000, 9, "9000 bytes", "max_bytes 18000"),
        ] {
            let advice = format!("ceph osd pool set-quota one {enough}");
            assert_eq!(typed(bytes, objects), (format!("quota of {quota}"), advice), "{bytes} {objects}");
        }
    }

    #[test]
    fn room_is_what_devices_and_quota_leave() {
        let df = br#"{"stats":{},"pools":[{"name":"one","id":1,"stats":{"stored":60,"max_avail":1000,"quota_bytes":0}},
            {"name":"two","id":2,"stats":{"stored":60,"max_avail":1000,"quota_bytes":100}},
            {"name":"old","id":3,"stats":{"stored":60,"max_avail":1000}},
            {"name":"full","id":4,"stats":{"stored":120,"max_avail":1000,"quota_bytes":100}}]}"#;
        for (pool, available) in [("one", 1000), ("two", 40), ("old", 1000), ("full", 0)] {
            assert_eq!(pool_room(df, pool).unwrap(), PoolRoom { available }, "{pool}");
        }
        assert!(pool_room(df, "three").is_err());
    }

    #[test]
    fn what_an_image_takes_up_is_the_sum_of_it_and_its_snapshots() {
        let du = br#"{"images":[{"name":"a","snapshot":"s","provisioned_size":32,"used_size":4},{"name":"a","provisioned_size":32,"used_size":8}]}"#;
        assert_eq!(used(du).unwrap(), 12);
        assert_eq!(image_names(br#"["a","b"]"#).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_request_for_a_resync_is_found_in_the_journal() {
        assert_eq!(journal_resync(FLAGGED.as_bytes()), Ok(true));
        let not = FLAGGED.replace("00000020  01", "00000020  00");
        assert_eq!(journal_resync(not.as_bytes()), Ok(false));
        let other = FLAGGED.replace("00000020  01", "00000020  02");
        assert!(journal_resync(other.as_bytes()).is_err());
        let short = "value (3 bytes) :\n00000000  01 01 26  |..&|\n00000003\n";
        assert!(journal_resync(short.as_bytes()).is_err());
        assert!(journal_resync(b"").is_err());
    }

    #[test]
    fn a_request_for_a_resync_is_found_in_the_metadata() {
        let key = ".rbd_mirror.39c9f481-177f-4da3-8818-6ffbb1a5e71c";
        let asked = |text: &str, own: Option<&str>| {
            metadata_resync(&BTreeMap::from([(key.into(), text.into()), ("a".into(), "b".into())]), own)
        };
        let own = Some("39c9f481-177f-4da3-8818-6ffbb1a5e71c");
        assert!(asked("{\"resync_requested\": true}", own));
        assert!(asked("{\"resync_requested\": true}", None));
        assert!(!asked("{\"resync_requested\": true}", Some("0574d678-9463-4cb6-b9fa-ce5ebfb489fd")));
        assert!(!asked("{\"resync_requested\": false}", own));
        assert!(!asked("{}", own));
        assert!(asked("{", own));
        assert!(!metadata_resync(&BTreeMap::new(), own));
    }

    fn directory() -> PathBuf {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rbd").into()
    }

    fn captured(name: &str) -> Vec<u8> {
        let path = directory().join(format!("{name}.stdout"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Whether an answer is understood.
    type RbdParser = fn(&[u8]) -> bool;

    /// Every captured answer with its parser.
    fn all() -> Vec<(String, Vec<u8>, RbdParser)> {
        let mut all: Vec<(String, Vec<u8>, RbdParser)> = Vec::new();
        for entry in std::fs::read_dir(directory()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let Some(name) = name.strip_suffix(".stdout") else { continue };
            let kind = name.rsplit('.').next().unwrap();
            let parser: RbdParser = match kind {
                _ if name == "rados.err.no-key" => continue,
                "info" | "not-mirrored-info" | "info-clone" | "info-journaled-not-mirrored" => {
                    |it| info(it).is_ok()
                }
                "status" => |it| image_status(it).is_ok(),
                "journal-status" => |it| journal_status(it).is_ok(),
                "snap-ls" | "snap-ls-user" => |it| snapshots(it).is_ok(),
                "metadata" => |it| metadata(it).is_ok(),
                "lock-info" | "lock-info-free" => |it| lock_info(it).is_ok(),
                "lock-list" => |it| lock_names(it).is_ok(),
                "mirror-uuid" => |it| omap_text(it).is_ok(),
                _ if name.contains("pool-status") => |it| pool_status(it).is_ok(),
                _ if name.contains("pool-info") => |it| pool_info(it).is_ok(),
                other => panic!("no parser for a capture of kind {other}"),
            };
            all.push((name.into(), captured(name), parser));
        }
        assert!(all.len() > 80, "{}", all.len());
        all
    }

    #[test]
    fn every_capture_is_understood_and_no_shortened_one() {
        for (name, bytes, is_understood) in all() {
            assert!(is_understood(&bytes), "{name}");
            let end = bytes.trim_ascii_end().len();
            // nothing at all is the answer "no metadata"
            let start = usize::from(name == "real.metadata");
            for cut in start..end {
                assert!(!is_understood(&bytes[..cut]), "{name} cut to {cut} of {end} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn flipped_bits_never_panic(at: prop::sample::Index, bit in 0..8u8, which: prop::sample::Index) {
            let all = all();
            let (_, bytes, is_understood) = which.get(&all);
            let mut bytes = bytes.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            is_understood(&bytes);
        }

        #[test]
        fn any_state_and_description_is_classified(state in "\\PC{0,20}", description in "\\PC{0,80}") {
            let report = status_report(&state, &description, "");
            prop_assert!(!report.description.contains(char::is_control));
            // nothing but the exact words is a good state
            prop_assert!(report.replay != ReplayState::LocalPrimary);
        }

        #[test]
        fn arbitrary_hex_dumps_never_panic(text in "value \\([0-9]{1,4} bytes\\) :\n([0-9a-f |]{0,80}\n){0,4}") {
            let _ = omap_text(text.as_bytes());
        }
    }

    fn report(name: &str) -> ImageStatus {
        image_status(&captured(name)).unwrap()
    }

    #[test]
    fn info_tells_the_live_role() {
        let image = info(&captured("journal.01-a-primary-replaying.site-a.info")).unwrap();
        assert_eq!((image.id.as_str(), image.size, image.parent), ("1633551d7564", 16 << 20, None));
        let expected = Mirroring {
            mode: MirrorMode::Journal,
            global_id: "a9bee29c-1f9e-4afa-a107-4d49bc503d26".into(),
            primary: true,
            state: MirrorState::Enabled,
        };
        assert_eq!(image.mirroring, Some(expected));
        assert!(!image.is_read_only);
        // a demotion in snapshot mode that was killed half-way, as rbd 16.2 shows it
        let half = br#"{"name":"half","id":"10d5","size":8388608,"features":["layering","exclusive-lock","non-primary"],
            "mirroring":{"mode":"snapshot","global_id":"9f505e2b-9b7c-4b7e-ab62-9042e2d63d25","state":"enabled","primary":true}}"#;
        let half = info(half).unwrap();
        assert!(half.is_read_only && half.mirroring.unwrap().primary);
        let role = |name: &str| info(&captured(name)).unwrap().mirroring.unwrap();
        assert!(!role("journal.01-a-primary-replaying.site-b.info").primary);
        let copy = role("snapshot.01-a-primary-replaying.site-b.info");
        assert!(!copy.primary && copy.mode == MirrorMode::Snapshot);
        // the report of the same moment still said "primary"
        assert!(!role("journal.02-a-just-demoted.site-a.info").primary);
        assert_eq!(info(&captured("err.not-mirrored-info")).unwrap().mirroring, None);
        assert_eq!(info(&captured("real.info-journaled-not-mirrored")).unwrap().mirroring, None);
        assert_eq!(info(&captured("real.info-clone")).unwrap().parent.unwrap(), "one/plain@snap");
    }

    #[test]
    fn info_concludes_nothing_from_what_it_does_not_know() {
        let text = |mirroring: &str| format!(r#"{{"id":"1","size":1,"mirroring":{mirroring}}}"#);
        let read = |mirroring: &str| info(text(mirroring).as_bytes());
        let (making, going) = (MirrorState::Creating, MirrorState::Disabling);
        for (state, read_as) in [("creating", making), ("unknown", making), ("disabling", going)] {
            let json = format!(r#"{{"mode":"journal","state":"{state}","global_id":"g","primary":true}}"#);
            assert_eq!(read(&json).unwrap().mirroring.unwrap().state, read_as, "{state}");
        }
        for damaged in [
            r#"{"mode":"journal","state":"enabled","global_id":"g"}"#,
            r#"{"mode":"journal","state":"enabled","global_id":"","primary":true}"#,
            r#"{"mode":"journal","state":"enabled","global_id":"g","primary":"true"}"#,
            r#"{"mode":"tape","state":"enabled","global_id":"g","primary":true}"#,
            r#"{"mode":"journal","state":"odd","global_id":"g","primary":true}"#,
            r#"{"mode":"journal","global_id":"g","primary":true}"#,
            "[]",
        ] {
            assert!(read(damaged).is_err(), "{damaged}");
        }
        assert_eq!(read("null").unwrap().mirroring, None);
        let namespaced =
            r#"{"id":"1","size":1,"parent":{"pool":"p","pool_namespace":"n","image":"i","snapshot":"s"}}"#;
        assert_eq!(info(namespaced.as_bytes()).unwrap().parent.unwrap(), "p/n/i@s");
    }

    #[test]
    fn reports_have_their_states() {
        let (a, b) = ("site-a", "site-b");
        let name = |step: &str, site: &str| format!("{step}.{site}.status");
        let local = |step: &str, site: &str| report(&name(step, site)).local.unwrap();
        assert_eq!(local("journal.01-a-primary-replaying", a).replay, ReplayState::LocalPrimary);
        let status = report(&name("journal.01-a-primary-replaying", b));
        assert_eq!(status.name, "cap-journal");
        let replaying = status.local.clone().unwrap();
        assert_eq!((replaying.daemon, replaying.description.as_str()), (DaemonState::Up, "replaying"));
        assert_eq!(replaying.last_update, Some(datetime(2026, 11, 23, 0, 3, 25, 0)));
        let ReplayState::Replaying(progress) = replaying.replay else { panic!() };
        assert_eq!((progress.entries_behind_primary, progress.seconds_until_synced), (Some(3), None));
        assert_eq!(status.of_peer(a).unwrap().replay, ReplayState::LocalPrimary);

        let ReplayState::Replaying(progress) = local("snapshot.01-a-primary-replaying", b).replay else {
            panic!()
        };
        let expected = Progress {
            replay_state: Some("idle".into()),
            local_snapshot_timestamp: Some(1_795_392_412),
            remote_snapshot_timestamp: Some(1_795_392_412),
            ..Progress::default()
        };
        assert_eq!(progress, expected);

        // the report lags behind the role
        assert_eq!(local("journal.03-both-demoted", a).replay, ReplayState::LocalPrimary);
        assert_eq!(local("journal.06-both-primary", a).replay, ReplayState::Stopped);
        assert_eq!(local("journal.08-a-demoted-split-brain", a).replay, ReplayState::SplitBrain);
        assert_eq!(local("snapshot.08-a-demoted-split-brain", a).replay, ReplayState::SplitBrain);
        assert_eq!(local("snapshot.03-both-demoted", a).replay, ReplayState::RemoteNotPrimary);
        assert_eq!(local("snapshot.04-b-promoted", b).replay, ReplayState::RemoteNotPrimary);
        let forced = local("snapshot.06-both-primary", a);
        assert_eq!(
            (forced.replay, forced.description.as_str()),
            (ReplayState::Stopped, "orphan (force promoting)")
        );
        let resync = report(&name("snapshot.10-resync-t8", b)).of_peer(a).unwrap().clone();
        assert_eq!((resync.replay, resync.description.as_str()), (ReplayState::Stopped, "resync requested"));

        let fresh = report(&name("journal.11-resynced", a));
        let nothing = fresh.of_peer(b).unwrap();
        assert_eq!((nothing.daemon, nothing.last_update), (DaemonState::Down, None));
        assert_eq!(nothing.replay, ReplayState::Unknown("status not found".into()));
    }

    #[test]
    fn states_without_a_capture() {
        let state = |state: &str, description: &str| status_report(state, description, "");
        let syncing = state("up+syncing", "bootstrapping, IMAGE_COPY/COPY_OBJECT 42%");
        assert_eq!(syncing.replay, ReplayState::Syncing { percent: Some(42) });
        assert_eq!(syncing.description, "bootstrapping, IMAGE_COPY/COPY_OBJECT 42%");
        assert_eq!(state("up+syncing", "bootstrapping, 400%").replay, ReplayState::Syncing { percent: None });
        assert_eq!(
            state("up+starting_replay", "starting replay").replay,
            ReplayState::Syncing { percent: None }
        );
        assert_eq!(state("up+stopping_replay", "").replay, ReplayState::Stopped);
        assert_eq!(state("down+stopped", "local image is primary").daemon, DaemonState::Down);
        let error = state("up+error", "error bootstrapping replay");
        assert_eq!(error.replay, ReplayState::Error("error bootstrapping replay".into()));
        assert_eq!(state("up+new", "words").replay, ReplayState::Unknown("words".into()));
        assert_eq!(state("nonsense", "x").daemon, DaemonState::Down);
        let copying =
            state("up+replaying", r#"replaying, {"replay_state":"syncing","syncing_percent":7}"#).replay;
        let ReplayState::Replaying(progress) = copying else { panic!() };
        assert_eq!((progress.syncing_percent, progress.replay_state.as_deref()), (Some(7), Some("syncing")));
        // progress is never needed for a decision: without it the state still counts
        assert_eq!(
            state("up+replaying", "replaying, {\"x").replay,
            ReplayState::Replaying(Progress::default())
        );
        let local = r#"{"name":"x","global_id":"g","state":"down+unknown","description":"status not found","last_update":""}"#;
        assert_eq!(image_status(local.as_bytes()).unwrap().local, None);
        let twice = r#"{"name":"x","global_id":"g","state":"up+stopped","description":"d","last_update":"","peer_sites":[
            {"site_name":"b","state":"up+stopped","description":"new","last_update":"2026-11-23 00:00:02"},
            {"site_name":"b","state":"down+unknown","description":"old","last_update":"2026-11-23 00:00:01"}]}"#;
        assert_eq!(image_status(twice.as_bytes()).unwrap().of_peer("b").unwrap().description, "new");
    }

    #[test]
    fn a_pool_tells_of_all_its_images_and_daemons() {
        let status = pool_status(&captured("pool-status.site-a")).unwrap();
        assert_eq!(status.daemons_up, 1);
        let names: Vec<&str> = status.images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["cap-journal", "one-0", "one-0-2-0"]);
        let ReplayState::Replaying(progress) = &status.images[2].of_peer("site-b").unwrap().replay else {
            panic!()
        };
        assert_eq!((progress.entries_behind_primary, progress.seconds_until_synced), (Some(10), Some(5)));
        // a plain user is shown no daemon, but reports that one holds
        assert_eq!(pool_status(&captured("real.pool-status-profile-rbd")).unwrap().daemons_up, 1);
        // a daemon of the cluster that does not serve this pool
        assert_eq!(pool_status(&captured("real.pool-status-not-served")).unwrap().daemons_up, 0);
        // an image that no daemon here ever reported on has no state; seen on 16.2 after a daemon's client was blocklisted
        let never = r#"{"summary":{},"daemons":[],"images":[{"name":"one-8","global_id":"g","peer_sites":[
            {"site_name":"site-b","mirror_uuids":"u","state":"up+stopped","description":"local image is primary","last_update":""}]}]}"#;
        let never = pool_status(never.as_bytes()).unwrap();
        assert_eq!((never.daemons_up, never.images[0].local.as_ref()), (0, None));
        assert_eq!(never.images[0].of_peer("site-b").unwrap().description, "local image is primary");
    }

    #[test]
    fn journal_positions_are_by_client() {
        let status =
            journal_status(&captured("journal.01-a-primary-replaying.site-a.journal-status")).unwrap();
        let peer = "7f84a03f-6f0c-4416-9051-14dc7ad42f51";
        assert_eq!(status.clients.keys().map(String::as_str).collect::<Vec<_>>(), ["", peer]);
        assert_eq!(status.clients[""].objects, [(1, 2, 161), (0, 2, 160), (3, 2, 159), (2, 2, 158)]);
        assert!(status.clients[peer].objects.is_empty());
        let twice = r#"{"registered_clients":[{"id":"","commit_position":{"object_positions":[]}},
            {"id":"","commit_position":{"object_positions":[]}}]}"#;
        assert!(journal_status(twice.as_bytes()).is_err());
    }

    #[test]
    fn mirror_snapshots_are_told_from_others() {
        let read = |name: &str| snapshots(&captured(name)).unwrap();
        let a = read("snapshot.02-a-just-demoted.site-a.snap-ls").mirror;
        let states: Vec<_> = a.iter().map(|it| (it.id, it.state, it.complete, it.primary_snap_id)).collect();
        use MirrorSnapshotState::{Demoted, Primary};
        assert_eq!(states, [(5, Primary, true, None), (6, Demoted, true, None)]);
        let b = read("snapshot.05-b-primary-35s-later.site-b.snap-ls").mirror;
        let copied = &b[0];
        assert_eq!((copied.state, copied.primary_snap_id), (Demoted, Some(6)));
        assert_eq!(copied.primary_mirror_uuid.as_deref(), Some("2125483a-5762-43bc-97af-debbda5983b8"));
        let trash = read("journal.01-a-primary-replaying.site-b.snap-ls");
        assert!(trash.mirror.is_empty() && trash.user.is_empty() && trash.other.len() == 1, "{trash:?}");
        assert!(!trash.is_empty() && Snapshots::default().is_empty());
        assert_eq!(read("real.snap-ls-user").user, ["snap"]);
        for damaged in [
            r#"[{"id":1,"name":"x","namespace":{"type":"mirror","state":"primary"}}]"#,
            r#"[{"id":1,"name":"x","namespace":{"type":"mirror","state":"new","complete":true}}]"#,
            r#"[{"id":1,"name":"x"}]"#,
        ] {
            assert!(snapshots(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn pool_settings_and_peers() {
        let read = |name: &str| pool_info(&captured(name)).unwrap();
        let full = read("real.pool-info-all");
        assert!(full.enabled && full.pool_mode && full.site_name == "site-a");
        let peer = &full.peers[0];
        assert_eq!((peer.site_name.as_str(), peer.client_name.as_str()), ("site-b", "rbd-mirror-peer"));
        assert_eq!(peer.mon_host.as_deref(), Some("[v2:127.0.0.1:6889/0,v1:127.0.0.1:6890/0]"));
        assert!(peer.key.is_some() && peer.mirror_uuid.is_some() && peer.direction == "rx-tx");
        assert!(!format!("{full:?}").contains(peer.key.as_deref().unwrap()));
        let plain = &read("real.pool-info-profile-rbd").peers[0];
        assert!(plain.key.is_none() && plain.mon_host.is_none() && plain.mirror_uuid.is_some());
        assert!(!read("real.pool-info-disabled").enabled);
        let namespace = read("real.pool-info-namespace");
        assert!(namespace.enabled && !namespace.pool_mode && namespace.peers.is_empty());
        assert!(pool_info(br#"{"mode":"new"}"#).is_err());
        let error =
            pool_info(br#"{"mode":"pool","peers":[{"site_name":"b","client_name":"c","key":123456}]}"#);
        assert!(!error.unwrap_err().to_string().contains("123456"));
    }

    #[test]
    fn foreign_bytes_in_metadata_do_not_hide_ours() {
        let bytes = captured("real.metadata");
        assert!(std::str::from_utf8(&bytes).is_err());
        let all = metadata(&bytes).unwrap();
        assert_eq!(all["onemirror.handoff"], "-1:site a:\"x\"");
        assert!(all.len() > 1);
        assert!(metadata(b"").unwrap().is_empty() && metadata(b"\n").unwrap().is_empty());
        assert!(metadata(b"[]").is_err());
    }

    #[test]
    fn who_watches_has_the_image_open() {
        // as 16.2, 18.2 and 20.2 print it
        let watched =
            r#"{"watchers":[{"address":"127.0.0.1:0/1","client":4140,"cookie":9}],"migration":null}"#;
        for (text, expected) in [(watched, true), (r#"{"watchers":[]}"#, false)] {
            assert_eq!(is_watched(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for damaged in ["", "{}", r#"{"watchers":1}"#] {
            assert!(is_watched(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn locks_and_uuids() {
        let holder = lock_info(&captured("rados.lock-info")).unwrap().unwrap();
        assert!(holder.client.starts_with("client.") && holder.cookie == "c1", "{holder:?}");
        assert_eq!(lock_info(&captured("rados.lock-info-free")).unwrap(), None);
        let names = ["onemirror", "onemirror.resync-asked", "onemirror.resync-asking"];
        assert_eq!(lock_names(&captured("rados.lock-list")).unwrap(), names);
        for damaged in ["", "{}", r#"{"locks":["onemirror"]}"#, r#"{"locks":[{"name":1}]}"#] {
            assert!(lock_names(damaged.as_bytes()).is_err(), "{damaged}");
        }
        let two = r#"{"lockers":[{"name":"client.1","cookie":"a"},{"name":"client.2","cookie":"b"}]}"#;
        assert!(lock_info(two.as_bytes()).is_err());
        assert_eq!(
            omap_text(&captured("rados.mirror-uuid")).unwrap(),
            "c9386f75-f1a6-42bc-a541-b6a31ea067c2"
        );
        for damaged in ["", "value (1 bytes) :\n", "value (999999999999 bytes) :\n00000000  61  |a|\n"] {
            assert!(omap_text(damaged.as_bytes()).is_err(), "{damaged}");
        }
        assert!(omap_text(b"value (1 bytes) :\n00000000  0a   |.|\n00000001\n").is_err());
    }
}
