//! Reads the answers of `rbd` and `rados`; pure.
//!
//! Strict where a decision depends on it: what is not understood is an error, never a default.

use super::classify::clean;
use super::{
    DaemonState, ImageInfo, ImageStatus, JournalPosition, JournalStatus, LockHolder, MirrorMode,
    MirrorSnapshot, MirrorSnapshotState, Mirroring, Peer, PoolInfo, PoolStatus, Progress, ReplayState,
    Snapshots, StatusReport,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Why an answer was not understood, in words that quote none of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotUnderstood(String);

type Parsed<T> = Result<T, NotUnderstood>;

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
    NotUnderstood(clean(&format!("unknown {what} {word:?}")))
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

// ---- info

#[derive(Deserialize)]
struct RawInfo {
    id: String,
    size: u64,
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
pub(super) fn info(bytes: &[u8]) -> Parsed<ImageInfo> {
    let raw: RawInfo = json(bytes)?;
    let parent = raw.parent.map(|parent| {
        let RawParent { pool, pool_namespace, image, snapshot } = parent;
        let namespace = if pool_namespace.is_empty() { String::new() } else { format!("{pool_namespace}/") };
        format!("{pool}/{namespace}{image}@{snapshot}")
    });
    if raw.id.is_empty() {
        return Err(NotUnderstood("the image has no id".into()));
    }
    Ok(ImageInfo { id: raw.id, size: raw.size, mirroring: mirroring(raw.mirroring)?, parent })
}

fn mirroring(raw: Option<RawMirroring>) -> Parsed<Option<Mirroring>> {
    let Some(raw) = raw else { return Ok(None) };
    let in_transition = match raw.state.as_str() {
        // a journaled image that is not mirrored has this section too
        "disabled" => return Ok(None),
        "enabled" => false,
        "disabling" | "creating" => true,
        other => return Err(unknown("mirroring state", other)),
    };
    let mode = match raw.mode.as_deref() {
        Some("journal") => MirrorMode::Journal,
        Some("snapshot") => MirrorMode::Snapshot,
        other => return Err(unknown("mirroring mode", other.unwrap_or_default())),
    };
    match (filled(raw.global_id), raw.primary) {
        (Some(global_id), Some(primary)) => Ok(Some(Mirroring { mode, global_id, primary, in_transition })),
        _ => Err(NotUnderstood("mirroring without global_id or primary".into())),
    }
}

// ---- image-meta list

/// `rbd image-meta list`: prints nothing at all where there is no entry. The values are whatever bytes somebody
/// put there; those that are not UTF-8 are replaced, so that a stranger's entry does not hide ours.
pub(super) fn metadata(bytes: &[u8], prefix: &str) -> Parsed<BTreeMap<String, String>> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut all: BTreeMap<String, String> = json(text.as_bytes())?;
    all.retain(|key, _| key.starts_with(prefix));
    Ok(all)
}

// ---- mirror image status, mirror pool status

#[derive(Deserialize)]
struct RawImageStatus {
    name: String,
    global_id: String,
    state: String,
    description: String,
    #[serde(default)]
    last_update: String,
    #[serde(default)]
    peer_sites: Vec<RawPeerStatus>,
}

#[derive(Deserialize)]
struct RawPeerStatus {
    site_name: String,
    state: String,
    description: String,
    #[serde(default)]
    last_update: String,
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
pub(super) fn image_status(bytes: &[u8]) -> Parsed<ImageStatus> {
    json(bytes).map(image_status_of)
}

/// `rbd mirror pool status --verbose`.
///
/// A user with `profile rbd` is shown no daemon; an image whose report is held by a running one then counts as one.
pub(super) fn pool_status(bytes: &[u8]) -> Parsed<PoolStatus> {
    let raw: RawPoolStatus = json(bytes)?;
    let listed = raw.daemons.iter().filter(|daemon| !daemon.instance_id.is_empty()).count();
    let images: Vec<ImageStatus> = raw.images.into_iter().map(image_status_of).collect();
    let held = images.iter().filter_map(|image| image.local.as_ref()).any(|it| it.daemon == DaemonState::Up);
    Ok(PoolStatus { daemons_up: listed.max(usize::from(held)), images })
}

fn image_status_of(raw: RawImageStatus) -> ImageStatus {
    let mut peers: BTreeMap<String, StatusReport> = BTreeMap::new();
    for peer in raw.peer_sites {
        let report = status_report(&peer.state, &peer.description, peer.last_update);
        // a peer that was removed and added again may be listed twice: the later report counts
        match peers.get(&peer.site_name) {
            Some(earlier) if earlier.last_update > report.last_update => {}
            _ => drop(peers.insert(peer.site_name, report)),
        }
    }
    let local =
        (raw.description != NO_STATUS).then(|| status_report(&raw.state, &raw.description, raw.last_update));
    ImageStatus { name: raw.name, global_id: raw.global_id, local, peers }
}

const NO_STATUS: &str = "status not found";

fn status_report(state: &str, description: &str, last_update: String) -> StatusReport {
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
        last_update: clean(&last_update),
    }
}

/// The words of a description, and the JSON object that may follow their first comma.
fn split_description(description: &str) -> (String, Option<Map<String, Value>>) {
    let Some((head, rest)) = description.split_once(',') else { return (clean(description), None) };
    let rest = rest.trim_start();
    if !rest.starts_with('{') {
        return (clean(description), None);
    }
    (clean(head), serde_json::from_str(rest).ok())
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
        replay_state: details.get("replay_state").and_then(Value::as_str).map(clean),
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
pub(super) fn journal_status(bytes: &[u8]) -> Parsed<JournalStatus> {
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

/// `rbd snap ls --all`.
pub(super) fn snapshots(bytes: &[u8]) -> Parsed<Snapshots> {
    let raw: Vec<RawSnapshot> = json(bytes)?;
    let mut snapshots = Snapshots::default();
    for RawSnapshot { id, name, namespace } in raw {
        match namespace.r#type.as_str() {
            "user" => snapshots.user.push(name),
            "mirror" => snapshots.mirror.push(mirror_snapshot(id, namespace)?),
            // trash, group, and what later versions bring: not ours
            _ => {}
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
pub(super) fn pool_info(bytes: &[u8]) -> Parsed<PoolInfo> {
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

/// `rados lock info`; a lock that expired has no lockers.
pub(super) fn lock_info(bytes: &[u8]) -> Parsed<Option<LockHolder>> {
    let RawLock { mut lockers } = json(bytes)?;
    match (lockers.pop(), lockers.is_empty()) {
        (holder, true) => {
            Ok(holder.map(|it| LockHolder { client: it.name, cookie: it.cookie, address: clean(&it.addr) }))
        }
        // ours are exclusive: this is somebody else's
        (_, false) => Err(NotUnderstood("the lock has more than one holder".into())),
    }
}

/// Longest omap value that is read, in bytes.
const OMAP_VALUE_LIMIT: usize = 256;

/// The value that `rados getomapval` prints as `value (36 bytes) :` and a hex dump. Its other form, into a file, would
/// need a file on the bridge host.
pub(super) fn omap_text(bytes: &[u8]) -> Parsed<String> {
    let damaged = || NotUnderstood("not a hex dump of an omap value".into());
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let mut lines = text.lines();
    let length: usize = lines
        .next()
        .and_then(|line| line.strip_prefix("value (")?.strip_suffix(" bytes) :")?.parse().ok())
        .filter(|length| *length <= OMAP_VALUE_LIMIT)
        .ok_or_else(damaged)?;
    let mut value = Vec::with_capacity(length);
    while value.len() < length {
        // `00000010  62 63 2d 61 35 34 31 2d  62 36 61 33 31 65 61 30  |bc-a541-b6a31ea0|`
        let line = lines.next().ok_or_else(damaged)?;
        let (offset, rest) = line.split_once("  ").ok_or_else(damaged)?;
        let (digits, _) = rest.split_once('|').ok_or_else(damaged)?;
        if usize::from_str_radix(offset, 16) != Ok(value.len()) {
            return Err(damaged());
        }
        for byte in digits.split_whitespace() {
            value.push(u8::from_str_radix(byte, 16).map_err(|_| damaged())?);
        }
        if value.len() % 16 != 0 && value.len() != length {
            return Err(damaged());
        }
    }
    if value.len() != length || lines.next().map(|end| usize::from_str_radix(end, 16)) != Some(Ok(length)) {
        return Err(damaged());
    }
    match String::from_utf8(value) {
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => Ok(text),
        _ => Err(NotUnderstood("the omap value is not text".into())),
    }
}
