//! Makes and removes what an image is stored in, as the datastore driver would.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::in_ceph;
use crate::front_end::FrontEnd;
use crate::states::ImageState;
use crate::store::{Datastore, Image};

const LIMIT: Duration = Duration::from_secs(60);

/// Creates the image and makes it READY, or ERROR with the reason in its template.
pub fn make_in_background(front_end: &Arc<FrontEnd>, id: i64) {
    let front_end = Arc::clone(front_end);
    tokio::spawn(async move {
        let Some((image, datastore)) = look_up(&front_end, id) else { return };
        let result = make(&image, &datastore).await;
        front_end.change(|records, _| {
            let Some(image) = records.images.get_mut(id) else { return };
            match result {
                Ok(()) => {
                    let state = match image.state {
                        ImageState::LockedUsed => ImageState::Used,
                        ImageState::LockedUsedPers => ImageState::UsedPers,
                        _ => ImageState::Ready,
                    };
                    image.set_state(state);
                }
                Err(reason) => {
                    let text =
                        format!("{}: Error copying image in the datastore: {reason}", crate::log::date());
                    image.template.set("ERROR", text);
                    image.set_state(ImageState::Error);
                }
            }
        });
    });
}

/// Removes the image and forgets it, or keeps it in ERROR.
pub fn remove_in_background(front_end: &Arc<FrontEnd>, id: i64) {
    let front_end = Arc::clone(front_end);
    tokio::spawn(async move {
        let Some((image, datastore)) = look_up(&front_end, id) else { return };
        let result = remove(&image, &datastore).await;
        front_end.change(|records, _| match result {
            Ok(()) => {
                records.images.remove(id);
            }
            Err(reason) => {
                if let Some(image) = records.images.get_mut(id) {
                    let text =
                        format!("{}: Error removing image from datastore: {reason}", crate::log::date());
                    image.template.set("ERROR", text);
                    image.set_state(ImageState::Error);
                }
            }
        });
    });
}

fn look_up(front_end: &FrontEnd, id: i64) -> Option<(Image, Datastore)> {
    front_end.read(|records| {
        let image = records.images.get(id)?;
        Some((image.clone(), records.datastores.get(image.datastore_id)?.clone()))
    })
}

/// `RBD_FEATURES` in the image's template, as `rbd create --image-feature` takes them, is the lab's own attribute.
async fn make(image: &Image, datastore: &Datastore) -> Result<(), String> {
    if image.disk_type != 3 {
        let length = u64::try_from(image.size).unwrap_or(0) << 20;
        return std::fs::File::create(&image.source)
            .and_then(|file| file.set_len(length))
            .map_err(|error| format!("{}: {error}", image.source));
    }
    let size = format!("{}M", image.size);
    let mut words = vec!["create", &image.source, "--size", &size];
    if let Some(features) = image.template.get("RBD_FEATURES") {
        words.extend(["--image-feature", features]);
    }
    rbd(datastore, &words).await
}

async fn remove(image: &Image, datastore: &Datastore) -> Result<(), String> {
    if image.disk_type != 3 {
        return std::fs::remove_file(&image.source).map_err(|error| format!("{}: {error}", image.source));
    }
    rbd(datastore, &["rm", "--no-progress", &image.source]).await
}

async fn rbd(datastore: &Datastore, words: &[&str]) -> Result<(), String> {
    let mut all = vec!["rbd"];
    if let Some(conf) = datastore.template.get("CEPH_CONF") {
        all.extend(["--conf", conf]);
    }
    if let Some(user) = datastore.template.get("CEPH_USER") {
        all.extend(["--id", user]);
    }
    all.extend(words);
    let mut command = in_ceph(&all);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| format!("rbd did not end within {} s", LIMIT.as_secs()))?
        .map_err(|error| format!("rbd: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))
}
