//! Transfer manager actions: the gate before `ln`, `clone` and `context`, the release at `mvds` and `delete`, and
//! then the stock action in place of this process.

use super::driver::DriverCall;
use super::driver::answer::{
    Answer, Called, refuse, refuse_as_noted, refuse_ceph, refuse_error, switched_off,
};
use super::driver::arguments::{TmAction, TmCall, parse};
use super::driver::guards;
use crate::audit::{Entry, Outcome};
use crate::ceph::{Ceph, RbdCommand};
use crate::config::{Config, ConfigError, ConfiguredRole};
use crate::opennebula::disks::{datastores_needed, rbd_images};
use crate::opennebula::{Client, Datastore, DiskKind, LcmState, Vm, VmState};
use crate::operations::{GateScope, boot, give_up};
use crate::sites::{Sites, VmImage, VmImages, boot_kind, images, local_client, runs_again};
use onemirror_protocol::{BootKind, Standing, Unfit};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Answers a call of `one_tm`. Returns only if the stock action is not to run.
pub(super) async fn run(config_path: &Path, called: &DriverCall) -> ExitCode {
    let DriverCall { stock, action, arguments } = called;
    let mut subject = Entry {
        vm: parse(action, arguments).ok().map(|call| call.vm),
        ..Entry::new("", &format!("tm {action}"), Outcome::Refused)
    };
    let answer = answer(config_path, called, &mut subject).await;
    Called { stock, arguments, input: None }.give(answer, subject)
}

async fn answer(config_path: &Path, called: &DriverCall, subject: &mut Entry) -> Answer {
    if let Some(answer) = switched_off(subject) {
        return answer;
    }
    let call = match parse(&called.action, &called.arguments) {
        Ok(call) => call,
        Err(error) => return refuse(&Unfit::CallNotUnderstood { error: error.to_string() }),
    };
    if call.action == TmAction::DeleteDirectory {
        return Answer::Stock;
    }
    let config = Config::load(config_path);
    let vm = match vm_of(config.as_ref().ok(), call.vm).await {
        Ok(vm) => vm,
        // the stock action does nothing, and the image stays primary: nothing is lost
        Err(error) if call.action == TmAction::Mvds => {
            tracing::warn!("VM {} not released: {error}", call.vm);
            return Answer::Stock;
        }
        Err(error) => return refuse(&Unfit::DisksUnknown { vm: call.vm, error: error.to_string() }),
    };
    match config {
        Ok(config) => {
            subject.site = config.site.name.clone();
            with_config(config, call, called, vm).await
        }
        Err(error) => without_config(&error, call, &vm).await,
    }
}

async fn vm_of(config: Option<&Config>, vm: i32) -> Result<Vm, crate::sites::FrontEndError> {
    Ok(local_client(config)?.vm(vm).await?)
}

async fn with_config(config: Config, call: TmCall, called: &DriverCall, vm: Vm) -> Answer {
    let sites = match Sites::new(config, &format!("tm {}", called.action)) {
        Ok(sites) => sites,
        Err(error) => return refuse_error(&error),
    };
    let vm_images = match images::images_of(&sites, vm).await {
        Ok(vm_images) if vm_images.images.is_empty() => return Answer::Stock,
        Ok(vm_images) => vm_images,
        // the stock action does nothing, and what is there stays primary
        Err(error) if call.action == TmAction::Mvds && sites.config().site.role == ConfiguredRole::Home => {
            tracing::warn!("VM {} not released: {error}", call.vm);
            return Answer::Stock;
        }
        Err(error) => return refuse_error(&error),
    };
    match call.action {
        TmAction::Ln | TmAction::Clone | TmAction::Context => gate(&sites, call, &vm_images).await,
        TmAction::Mvds if called.action.contains('.') => {
            // the stock action writes the disk back into the image, so the release comes after it
            match Command::new(&called.stock).args(&called.arguments).status() {
                Ok(status) if status.success() => {}
                Ok(status) => return Answer::Failed(status.code().unwrap_or(1)),
                Err(error) => {
                    let action = called.stock.display().to_string();
                    return refuse(&Unfit::StockActionGone { action, error: error.to_string() });
                }
            }
            match release(&sites, call, &vm_images).await {
                Answer::Stock => Answer::Instead(String::new()),
                other => other,
            }
        }
        TmAction::Mvds | TmAction::DeleteDisk => release(&sites, call, &vm_images).await,
        TmAction::DeleteDirectory => Answer::Stock,
        TmAction::MakeVolatile => match guards::name_is_free(&sites, call, &vm_images).await {
            Some(refusal) => refusal,
            None => guards::made_already(&sites, call, &vm_images).await,
        },
        TmAction::Change | TmAction::Replace => guards::change(&sites, call, &vm_images).await,
    }
}

async fn gate(sites: &Sites, call: TmCall, vm_images: &VmImages) -> Answer {
    let (scope, boot) = match (boot_kind(&vm_images.vm), call) {
        (Some(boot), _) => (GateScope::All, boot),
        // a disk that is attached to a VM that lives already
        (None, TmCall { disk: Some(disk), .. }) => (GateScope::Disk(disk), BootKind::Cold),
        // oned says ACTIVE before it calls; where it does not, rather one gate too many
        (None, _) if vm_images.vm.state != VmState::Active => (GateScope::All, BootKind::Cold),
        (None, _) => return Answer::Stock,
    };
    if call.action == TmAction::Clone {
        if let Some(refusal) = guards::name_is_free(sites, call, vm_images).await {
            return refusal;
        }
        if let Some(refusal) = base_refusal(vm_images, call).await {
            return refusal;
        }
    }
    let (scope, standing) = match (call.action, call.disk) {
        (TmAction::Ln | TmAction::Clone, Some(disk))
            if scope == GateScope::All && vm_images.vm.has_context =>
        {
            (GateScope::AllFor(disk), Standing::Outer)
        }
        (TmAction::Ln | TmAction::Clone, _) => (scope, Standing::Making),
        _ => (scope, Standing::Last),
    };
    match boot::gate(sites, vm_images, scope, boot, standing).await {
        Ok(_) => Answer::Stock,
        Err(error) => refuse_as_noted(call.vm, &error),
    }
}

/// `clone` only reads its base image when `@snap` exists; to make that snapshot would be a write.
async fn base_refusal(vm_images: &VmImages, call: TmCall) -> Option<Answer> {
    let image = vm_images.images.iter().find(|image| image.disk_id == call.disk)?;
    let base = image.base.as_ref()?;
    let look = async {
        let Some(info) = image.cluster.info(base).await? else { return Ok(None) };
        if info.mirroring.is_none_or(|mirroring| mirroring.primary) {
            return Ok(None);
        }
        let snapshots = image.cluster.snapshots(base).await?;
        Ok::<_, crate::ceph::CephError>((!snapshots.user.iter().any(|name| name == "snap")).then_some(()))
    };
    match look.await {
        Ok(None) => None,
        Ok(Some(())) => Some(refuse(&Unfit::NoSnapshotYet { base: base.clone() })),
        Err(error) => Some(refuse_ceph(&error)),
    }
}

/// Whether the VM is at its end, and with it all of its disks; if not, one of them is detached.
fn ends(vm: &Vm) -> bool {
    let by_state =
        vm.state == VmState::Active && matches!(vm.lcm_state, LcmState::Epilog | LcmState::CleanupDelete);
    by_state || vm.state == VmState::Done
}

/// A disk that is detached is not handed over: its VM lives here still, and none may be started on the other site for it.
/// It stays primary here for whoever gets it next, until the gate of the other site takes it with the rest.
async fn detached(sites: &Sites, call: TmCall, own: Option<&VmImage>) -> Answer {
    match own {
        Some(image) if call.action == TmAction::DeleteDisk => {
            guards::delete(sites, image).await.unwrap_or_else(|error| refuse_as_noted(call.vm, &error))
        }
        _ => Answer::Stock,
    }
}

/// The disks that this call may give up: all of a VM that ends, but one that was exported to a file is written back by its
/// own `mvds.ssh`, and released after that.
fn let_go(call: TmCall, vm_images: &VmImages) -> Vec<VmImage> {
    let exported =
        |id: Option<i32>| vm_images.vm.disks.iter().any(|disk| Some(disk.id) == id && disk.is_exported());
    let is_of_this_call = |image: &VmImage| image.disk_id == call.disk;
    let goes = |image: &&VmImage| !exported(image.disk_id) || is_of_this_call(image);
    vm_images.images.iter().filter(goes).cloned().collect()
}

/// A VM's end: what belongs to the other site is handed over; the rest is the stock action's.
async fn release(sites: &Sites, call: TmCall, vm_images: &VmImages) -> Answer {
    let own = vm_images.images.iter().find(|image| image.disk_id == call.disk);
    let is_delete = call.action == TmAction::DeleteDisk;
    if is_delete && runs_again(&vm_images.vm) {
        return delete_to_run_again(sites, call, vm_images).await;
    }
    if !ends(&vm_images.vm) {
        return detached(sites, call, own).await;
    }
    let pending = match give_up::release_at_end(sites, call.vm, &let_go(call, vm_images)).await {
        Ok(pending) => pending,
        // the terminate goes on; the image stays primary, and reconcile finishes the handoff
        Err(error) if !is_delete => {
            tracing::warn!("VM {} not released: {error}", call.vm);
            return Answer::Stock;
        }
        Err(error) => return refuse_as_noted(call.vm, &error),
    };
    for pending in &pending {
        tracing::warn!("{} stays primary here: {}", pending.image, pending.cause);
    }
    match own {
        Some(image) if is_delete => {
            guards::delete(sites, image).await.unwrap_or_else(|error| refuse_as_noted(call.vm, &error))
        }
        _ => Answer::Stock,
    }
}

/// `recover --recreate` has every disk deleted and the VM started again: a mirrored one stays as it is and where it is,
/// wherever it belongs, and the VM runs on it.
async fn delete_to_run_again(sites: &Sites, call: TmCall, vm_images: &VmImages) -> Answer {
    let own = vm_images.images.iter().find(|image| image.disk_id == call.disk);
    let Some(image) = own else { return Answer::Stock };
    let answer = match images::keeps_through_recreate(image).await {
        Ok(true) => Ok(Answer::Instead(format!(
            "{} is mirrored with {} and kept: VM {} runs again",
            image.spec(),
            sites.there.name(),
            call.vm
        ))),
        Ok(false) => guards::delete(sites, image).await,
        Err(error) => Err(error),
    };
    // oned goes on all the same
    answer.unwrap_or_else(|error| refuse_as_noted(call.vm, &error))
}

/// A configuration that is missing or broken must not touch a VM without a mirrored disk.
async fn without_config(error: &ConfigError, call: TmCall, vm: &Vm) -> Answer {
    // stock does nothing at mvds
    if call.action == TmAction::Mvds {
        tracing::warn!("VM {} not released: {error}", call.vm);
        return Answer::Stock;
    }
    let look = async {
        let client = local_client(None).map_err(|error| error.to_string())?;
        let images = images_without_config(&client, vm).await?;
        let only = (matches!(call.action, TmAction::DeleteDisk | TmAction::MakeVolatile)
            || boot_kind(vm).is_none())
        .then_some(call.disk)
        .flatten();
        for (disk, image, cluster) in images {
            if only.is_some_and(|only| only != disk) {
                continue;
            }
            let info = cluster.info(&image).await.map_err(|error| error.to_string())?;
            if info.is_some_and(|info| info.mirroring.is_some()) {
                return Ok::<_, String>(Some(image));
            }
        }
        Ok(None)
    };
    match look.await {
        Ok(None) => Answer::Stock,
        Ok(Some(image)) => refuse(&Unfit::NoConfiguration { image, error: error.to_string() }),
        Err(trouble) => {
            let error = format!("{trouble}; {error}");
            refuse(&Unfit::MirroringUnknown { vm: call.vm, error })
        }
    }
}

async fn images_without_config(
    client: &Client,
    vm: &Vm,
) -> Result<Vec<(i32, onemirror_protocol::ImageSpec, RbdCommand)>, String> {
    let mut datastores = BTreeMap::new();
    for id in datastores_needed(vm) {
        datastores.insert(id, client.datastore(id).await.map_err(|error| error.to_string())?);
    }
    let disks = rbd_images(vm, &datastores).map_err(|error| error.to_string())?;
    let unknown = Datastore::default();
    Ok(disks
        .into_iter()
        .map(|disk| {
            debug_assert!(matches!(disk.kind, DiskKind::Persistent | DiskKind::Clone | DiskKind::Volatile));
            let cluster = connect(datastores.get(&disk.datastore_id).unwrap_or(&unknown));
            (disk.disk_id, disk.image, cluster)
        })
        .collect())
}

/// The cluster of a datastore, as the datastore alone says it is reached.
pub(super) fn connect(datastore: &Datastore) -> RbdCommand {
    RbdCommand::new(crate::storage::connection(datastore, "this site"))
}
