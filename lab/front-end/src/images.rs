//! What one_datastore does for an image: runs the action of the datastore's driver and tells oned how it ended.
//!
//! OpenNebula: src/datastore_mad/one_datastore.rb (do_image_action) runs `datastore/DS_MAD/ACTION ID` with the document
//! of ImageManager::format_message on standard input; src/image/ImageManagerProtocol.cc says what becomes of the image.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;

use crate::documents;
use crate::front_end::FrontEnd;
use crate::log::{self, Severity};
use crate::process;
use crate::states::ImageState;
use crate::store::Image;
use crate::xml::Element;

/// An action of a datastore driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverAction {
    /// A new, empty image.
    Mkfs,
    /// A file becomes an image.
    Cp,
    /// A copy of another image.
    Clone,
    /// Gone.
    Rm,
    /// Drops a snapshot.
    SnapDelete,
    /// The image becomes what the snapshot has.
    SnapRevert,
    /// The image becomes what the snapshot has, and loses all others.
    SnapFlatten,
}

impl DriverAction {
    fn script(self) -> &'static str {
        match self {
            Self::Mkfs => "mkfs",
            Self::Cp => "cp",
            Self::Clone => "clone",
            Self::Rm => "rm",
            Self::SnapDelete => "snap_delete",
            Self::SnapRevert => "snap_revert",
            Self::SnapFlatten => "snap_flatten",
        }
    }
}

/// Runs the action and changes the image as oned does when the driver answers.
pub fn drive_in_background(front_end: &Arc<FrontEnd>, id: i64, action: DriverAction) {
    let front_end = Arc::clone(front_end);
    tokio::spawn(async move {
        let result = drive(&front_end, id, action).await;
        if let Err(reason) = &result {
            let text = format!("{} of image {id}: {reason}", action.script());
            log::oned(&front_end.settings.location, "ImM", Severity::Error, &text);
        }
        match action {
            DriverAction::Mkfs | DriverAction::Cp | DriverAction::Clone => {
                made(&front_end, id, action, result);
            }
            DriverAction::Rm => removed(&front_end, id, result.is_ok()),
            _ => snapshot_done(&front_end, id, action, result),
        }
        monitor(&front_end).await;
    });
}

/// Asks all drivers for the room that there is: `ImageManager::monitor_datastore` (src/image/ImageManager.cc), which
/// oned calls after every change of an image, and else by time.
async fn monitor(front_end: &FrontEnd) {
    let location = &front_end.settings.location;
    let folder = front_end.places().datastores;
    let calls: Vec<(i64, PathBuf, Element)> = front_end.read(|records| {
        let all = records.datastores.iter().map(|(_, datastore)| datastore);
        all.map(|datastore| {
            let driver = match datastore.is_system() {
                true => format!("tm/{}", datastore.tm_mad()),
                false => format!("datastore/{}", datastore.template.get("DS_MAD").unwrap_or("-")),
            };
            let script = location.join("var/remotes").join(driver).join("monitor");
            let document = vec![documents::datastore(records, datastore, &folder)];
            (datastore.id, script, Element::group("DS_DRIVER_ACTION_DATA", document))
        })
        .collect()
    });
    for (id, script, document) in calls.into_iter().filter(|(_, script, _)| script.exists()) {
        let line = format!("{} {id}", script.display());
        let document = base64::engine::general_purpose::STANDARD.encode(document.compact());
        let outcome = process::run(&line, &document, location, None).await;
        if outcome.code != 0 || !outcome.stdout.contains("FREE_MB=") {
            let text = format!("Error monitoring datastore: {line}: {}", outcome.stderr);
            log::oned(location, "ImM", Severity::Error, &text);
        }
    }
}

/// Runs the action; what it printed, or the reason why it failed.
pub async fn drive(front_end: &FrontEnd, id: i64, action: DriverAction) -> Result<String, String> {
    let (driver, document) = call(front_end, id).ok_or_else(|| format!("image {id} does not exist"))?;
    let location = &front_end.settings.location;
    let folder = location.join("var/remotes/datastore").join(&driver);
    if driver.is_empty() || !folder.is_dir() {
        return Err(format!("Datastore driver '{driver}' not available"));
    }
    let line = format!("{} {id}", folder.join(action.script()).display());
    let document = base64::engine::general_purpose::STANDARD.encode(document.compact());
    let outcome = process::run(&line, &document, location, None).await;
    if outcome.code == 0 {
        return Ok(outcome.stdout.trim().to_owned());
    }
    let failed = format!("Command execution failed (exit code: {}): {line}", outcome.code);
    log::oned(location, "ImM", Severity::Info, &failed);
    log::oned(location, "ImM", Severity::Info, &outcome.stderr);
    Err(log::driver_errors(&outcome.stderr).reason)
}

/// The driver and the document that it is given.
fn call(front_end: &FrontEnd, id: i64) -> Option<(String, Element)> {
    let folder = front_end.places().datastores;
    front_end.read(|records| {
        let image = records.images.get(id)?;
        let datastore = records.datastores.get(image.datastore_id)?;
        let driver = datastore.template.get("DS_MAD").unwrap_or_default().to_owned();
        let children =
            vec![documents::image(records, image), documents::datastore(records, datastore, &folder)];
        Some((driver, Element::group("DS_DRIVER_ACTION_DATA", children)))
    })
}

/// `_mkfs`, `_cp`, `_clone`: the driver prints the source, and `cp` and `clone` the format.
fn made(front_end: &FrontEnd, id: i64, action: DriverAction, result: Result<String, String>) {
    front_end.change(|records, _| {
        let cloned_from = records.images.get_mut(id).and_then(|image| {
            let cloned_from = image.cloning_id.take();
            take_over(image, action, result, cloned_from);
            cloned_from
        });
        // release_cloning_resource
        if let Some(source) = cloned_from.and_then(|source| records.images.get_mut(source)) {
            source.clones.retain(|clone| *clone != id);
            if source.clones.is_empty() && source.vms.is_empty() {
                source.set_state(ImageState::Ready);
            }
        }
    });
}

fn take_over(
    image: &mut Image,
    action: DriverAction,
    result: Result<String, String>,
    cloned_from: Option<i64>,
) {
    match result {
        Ok(answer) => {
            let mut words = answer.split_whitespace();
            image.source = words.next().unwrap_or_default().to_owned();
            if let Some(format) = words.next() {
                image.format = format.to_owned();
            }
            image.unlock();
        }
        Err(reason) => {
            let what = match (action, cloned_from) {
                (DriverAction::Mkfs, _) => "Error creating datablock".to_owned(),
                (_, Some(source)) => format!("Error cloning from Image {source}"),
                _ => "Error copying image in the datastore".to_owned(),
            };
            let shown = !reason.is_empty() && !reason.starts_with('-');
            image.set_error(&if shown { format!("{what}: {reason}") } else { what });
            image.set_state(ImageState::Error);
        }
    }
}

/// `_rm`: what the driver said is in oned's log only; the image's text names no source, for it is looked up too late.
fn removed(front_end: &FrontEnd, id: i64, success: bool) {
    front_end.change(|records, _| {
        let Some(image) = records.images.get_mut(id) else { return };
        let forced = image.template.get("FORCE_DELETE").is_some_and(|yes| yes.eq_ignore_ascii_case("yes"));
        if success || forced {
            records.images.remove(id);
            return;
        }
        image.set_error(
            "Error removing image from datastore. Retry the operation or manually remove image source  and run \
             the delete --force operation to completely delete the image",
        );
        image.set_state(ImageState::Error);
    });
}

/// `_snap_delete`, `_snap_revert`, `_snap_flatten`: the image is READY again either way.
fn snapshot_done(front_end: &FrontEnd, id: i64, action: DriverAction, result: Result<String, String>) {
    front_end.change(|records, _| {
        let Some(image) = records.images.get_mut(id) else { return };
        let Some(snapshot) = image.target_snapshot.take() else { return };
        match (result, action) {
            (Err(reason), _) => {
                image.set_error(&format!("Error in snapshot operation: {reason}"));
            }
            (Ok(_), DriverAction::SnapDelete) => image.snapshots.delete(snapshot),
            (Ok(_), DriverAction::SnapRevert) => image.snapshots.revert(snapshot),
            (Ok(_), _) => image.snapshots = Default::default(),
        }
        image.unlock();
    });
}
