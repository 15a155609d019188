//! What `rbd` and `rados` print.

use super::{assert_error, assert_shown};
use onemirror::ceph::parse;
use onemirror::ceph::{ImageStatus, MirrorSnapshotState, ReplayState, StatusReport};
use std::fmt::Display;

/// Every parser is tried; what is understood is whole, and what is shown of it is fit to be.
pub fn check(data: &[u8]) {
    if let Some(info) = judge(parse::info(data)) {
        assert!(!info.id.is_empty());
        assert!(info.mirroring.is_none_or(|mirroring| !mirroring.global_id.is_empty()));
    }
    if let Some(metadata) = judge(parse::metadata(data)) {
        // what counts for one cluster counts where it is not known which one it is
        let asked = |own| parse::metadata_resync(&metadata, own);
        assert!(asked(None) || !asked(Some("fb7e4906-daf8-4f73-804e-3717aef05725")));
    }
    judge(parse::journal_resync(data));
    if let Some(status) = judge(parse::image_status(data)) {
        check_status(&status);
    }
    if let Some(status) = judge(parse::pool_status(data)) {
        status.images.iter().for_each(check_status);
    }
    judge(parse::journal_status(data));
    if let Some(snapshots) = judge(parse::snapshots(data)) {
        assert!(snapshots.mirror.is_sorted_by_key(|snapshot| snapshot.id));
        for snapshot in snapshots.mirror {
            // an original's number means nothing without its cluster
            assert!(snapshot.primary_snap_id.is_none() || snapshot.primary_mirror_uuid.is_some());
            let _ = snapshot.state == MirrorSnapshotState::Demoted;
        }
    }
    if let Some(info) = judge(parse::pool_info(data)) {
        let shown = format!("{info:?}");
        for peer in info.peers {
            assert!(!peer.client_name.starts_with("client.") || peer.client_name.contains("client.client."));
            // not a word that stands elsewhere by right
            if let Some(key) = peer.key.filter(|key| key.starts_with("AQSECRET")) {
                assert!(!shown.contains(&key));
            }
        }
    }
    if let Some(Some(holder)) = judge(parse::lock_info(data)) {
        assert_shown(&holder.address);
    }
    judge(parse::lockers(data));
    judge(parse::lock_names(data));
    if let Some(text) = judge(parse::omap_text(data)) {
        assert!(text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Some(metadata) = judge(parse::header_metadata(data)) {
        assert!(!data.is_empty() && metadata.len() < data.len());
    }
    judge(parse::full_by(data, "one"));
    judge(parse::pool_load(data, "one"));
    judge(parse::pool_room(data, "one"));
    // a description on its own, as a daemon may write it
    let description = String::from_utf8_lossy(data);
    for state in ["up+replaying", "up+syncing", "up+error", "up+stopped", "down+unknown"] {
        let status = serde_json::json!({
            "name": "one-0", "global_id": "g", "state": state, "description": description, "last_update": description,
        });
        let status = parse::image_status(status.to_string().as_bytes()).expect("a status");
        check_status(&status);
    }
}

fn judge<T, E: Display>(parsed: Result<T, E>) -> Option<T> {
    parsed
        .inspect_err(|error| {
            assert_shown(&error.to_string());
            assert_error(error);
        })
        .ok()
}

fn check_status(status: &ImageStatus) {
    status.local.iter().chain(status.peers.iter().map(|(_, report)| report)).for_each(check_report);
}

fn check_report(report: &StatusReport) {
    assert_shown(&report.description);
    match &report.replay {
        ReplayState::Syncing { percent } => assert!(percent.is_none_or(|percent| percent <= 100)),
        ReplayState::Replaying(progress) => {
            assert!(progress.syncing_percent.is_none_or(|percent| percent <= 100));
            assert_shown(progress.replay_state.as_deref().unwrap_or_default());
        }
        ReplayState::Error(words) | ReplayState::Unknown(words) => assert_shown(words),
        ReplayState::LocalPrimary
        | ReplayState::SplitBrain
        | ReplayState::RemoteNotPrimary
        | ReplayState::Stopped => {}
    }
}
