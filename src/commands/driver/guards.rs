//! What stands before the transfer actions that make, change and delete images by their names.

use super::answer::{Answer, refuse, refuse_as_noted};
use super::arguments::{TmAction, TmCall};
use crate::operations::removal;
use crate::sites::{RunError, Sites, VmImage, VmImages, images, look};
use onemirror_protocol::{Here, Role};

/// The disks that a call is about.
fn images_of_call(vm_images: &VmImages, call: TmCall) -> impl Iterator<Item = &VmImage> {
    vm_images.images.iter().filter(move |image| call.disk.is_none() || call.disk == image.disk_id)
}

/// Before a disk is made for a VM: whether its name is free, or what bears it is the VM's own. The stock driver would take
/// whatever is there for the clone, and fail in Ceph's words at a volatile disk.
pub(crate) async fn name_is_free(sites: &Sites, call: TmCall, vm_images: &VmImages) -> Option<Answer> {
    let image = images_of_call(vm_images, call).next()?;
    match removal::name_is_taken(sites, image).await {
        Ok(None) => None,
        Ok(Some(unfit)) => Some(refuse(&unfit)),
        Err(error) => Some(refuse_as_noted(call.vm, &error)),
    }
}

/// Before a volatile disk is made: the VM may have it already, since it was kept when the VM was recreated. The stock driver
/// would fail at it.
pub(crate) async fn made_already(sites: &Sites, call: TmCall, vm_images: &VmImages) -> Answer {
    let Some(image) = images_of_call(vm_images, call).next() else { return Answer::Stock };
    match look::look_here(image).await {
        Ok(Here::Mirrored(copy))
            if copy
                .booted
                .as_ref()
                .is_some_and(|mark| mark.names(call.vm) && mark.site == sites.here.name()) =>
        {
            Answer::Instead(format!("{} is there already: VM {} was recreated", image.spec(), call.vm))
        }
        Ok(_) => Answer::Stock,
        Err(error) => refuse_as_noted(call.vm, &error),
    }
}

/// Before an image is changed: only a primary copy takes it.
pub(crate) async fn change(sites: &Sites, call: TmCall, vm_images: &VmImages) -> Answer {
    for image in images_of_call(vm_images, call) {
        match look::look_here(image).await {
            Ok(Here::Mirrored(copy)) if copy.role != Role::Primary => {
                return refuse(&removal::not_writable(sites, image.spec()));
            }
            Ok(Here::Mirrored(_)) if call.action == TmAction::Replace => {
                tracing::warn!("{}", removal::becomes_another(sites, image.spec()));
            }
            Ok(_) => {}
            Err(error) => return refuse_as_noted(call.vm, &error),
        }
    }
    Answer::Stock
}

/// Before a disk that was made for a VM is deleted: whether the stock driver would delete that disk, and nothing else.
pub(crate) async fn delete(sites: &Sites, image: &VmImage) -> Result<Answer, RunError> {
    let registered = images::registered_here(sites, std::iter::once(image)).await?.into_values().next();
    Ok(removal::kept(sites, image, registered)
        .await?
        .map_or(Answer::Stock, |kept| Answer::Instead(kept.to_string())))
}
