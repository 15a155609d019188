//! OpenNebula's documents, and what is concluded from a VM's.

use super::{assert_error, assert_image, assert_shown};
use onemirror::opennebula::disks::{datastores_needed, rbd_images};
use onemirror::opennebula::{Datastore, DiskKind, DocumentError, Hook, Host, Image, User, Vm};
use std::collections::{BTreeMap, BTreeSet};

/// The pools of the datastores that a VM's disks are looked up in; nothing outside of them may ever be named.
const POOLS: [&str; 2] = ["one", "fast/tenant"];

/// Every kind of document is tried.
pub fn check(data: &[u8]) {
    let text = &String::from_utf8_lossy(data);
    judge(Vm::from_xml(text), check_vm);
    judge(Vm::pool_from_xml(text), |vms| vms.iter().for_each(|vm| check_vm(vm.clone())));
    judge(Image::from_xml(text), |image| check_image(&image));
    judge(Image::pool_from_xml(text), |images| images.iter().for_each(check_image));
    judge(Datastore::from_xml(text), |datastore| check_datastore(&datastore));
    judge(Datastore::pool_from_xml(text), |datastores| datastores.iter().for_each(check_datastore));
    judge(Host::from_xml(text), |host| assert!(host.id >= 0));
    judge(Host::pool_from_xml(text), drop);
    judge(Hook::from_xml(text), |hook| assert_shown(&hook.name));
    judge(Hook::pool_from_xml(text), drop);
    judge(User::from_xml(text), |user| assert_eq!(user.sees_everything(), user.groups.contains(&0)));
}

fn judge<T>(document: Result<T, DocumentError>, check: impl FnOnce(T)) {
    match document {
        Ok(document) => check(document),
        Err(error) => {
            assert_shown(&error.to_string());
            assert_error(&error);
        }
    }
}

fn check_image(image: &Image) {
    assert!(image.id >= 0 && image.vms.iter().all(|vm| *vm >= 0));
    assert_shown(&image.name);
}

fn check_datastore(datastore: &Datastore) {
    assert!(datastore.id >= 0);
    assert_shown(&datastore.name);
    // words as a shell splits them, which knows no other blanks; ssh is given none that has some
    assert!(datastore.bridge_list.iter().all(|host| host.split_ascii_whitespace().eq([host])));
}

fn check_vm(vm: Vm) {
    assert!(vm.id >= 0);
    assert_shown(&vm.name);
    assert_shown(&vm.state_name());
    assert_shown(vm.user_error.as_deref().unwrap_or_default());
    let needed = datastores_needed(&vm);
    let datastore = |id: i32| Datastore {
        id,
        tm_mad: "ceph".into(),
        pool_name: Some(POOLS[usize::from(id % 2 != 0)].into()),
        ..Datastore::default()
    };
    let datastores: BTreeMap<i32, Datastore> = needed.iter().map(|id| (*id, datastore(*id))).collect();
    let images = match rbd_images(&vm, &datastores) {
        Ok(images) => images,
        Err(error) => return assert_error(&error),
    };
    assert!(images.iter().map(|image| &image.image).collect::<BTreeSet<_>>().len() == images.len());
    for image in images {
        assert_image(&image.image);
        let disk = vm.disks.iter().find(|disk| disk.id == image.disk_id).expect("a disk of this VM");
        let pool = POOLS[usize::from(image.datastore_id % 2 != 0)];
        assert!(image.image.pool_spec() == pool || image.image.pool() == pool, "{}", image.image);
        let suffix = format!("-{}-{}", vm.id, disk.id);
        match image.kind {
            // oned itself wrote the name, of an image that the VM's owner may use
            DiskKind::Persistent => assert!(!disk.is_volatile()),
            // made for this VM
            DiskKind::Clone => {
                assert!(image.image.image().ends_with(&suffix), "{}", image.image);
                assert_image(image.base.as_ref().expect("the base of a clone"));
            }
            DiskKind::Volatile => assert_eq!(image.image.image(), format!("one-sys{suffix}")),
        }
        // what a user wrote decides neither credentials nor pool
        assert!(needed.contains(&image.datastore_id));
    }
}
