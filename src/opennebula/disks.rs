//! Which RBD images a VM runs on. No I/O.
//!
//! | disk | image |
//! |---|---|
//! | persistent (`CLONE=NO`) | `SOURCE` |
//! | non-persistent (`CLONE=YES`) | `SOURCE-<vm>-<disk>` |
//! | volatile (`fs`, `swap`) | `<POOL_NAME of the system datastore>/one-sys-<vm>-<disk>` |
//!
//! Left out, because the VM has no RBD image of its own: disks on other storage; CD-ROMs and immutable images
//! (read only, shared, never released); non-persistent disks that `clone.ssh` exported to a file on the host.
//!
//! A *persistent* disk that `ln.ssh` exported ([`Disk::is_exported`]) is kept: the VM runs on the file, but it
//! starts from `SOURCE` and `mvds.ssh` writes the file back into `SOURCE` when the VM ends. So `SOURCE` must be
//! current and primary here from before the boot until *after* `mvds.ssh`; released earlier, all that the VM
//! wrote would be lost. In between, the mirror shows the state before the boot.

use super::document::{Datastore, Disk, Vm};
use crate::text::excerpt;
use onemirror_protocol::{ImageSpec, InvalidImageSpec};
use std::collections::{BTreeMap, BTreeSet};

/// The transfer driver of disks on Ceph.
const CEPH: &str = "ceph";

/// An RBD image that a disk of a VM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// The disk's number within the VM.
    pub disk_id: i32,
    /// The image.
    pub image: ImageSpec,
    /// How it came to be, which tells what happens to it when the VM ends.
    pub kind: DiskKind,
    /// The datastore whose credentials and hosts apply.
    pub datastore_id: i32,
    /// For a clone: the image it was cloned from (`SOURCE`).
    pub base: Option<ImageSpec>,
}

/// How an image came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// The OpenNebula image itself; it outlives the VM.
    Persistent,
    /// Cloned for the VM; the stock driver deletes it with the VM.
    Clone,
    /// Made empty for the VM; the stock driver deletes it with the VM.
    Volatile,
}

/// Why a disk's image can't be told. Whatever depends on it must be refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The datastore was not among those given: it was deleted, or this user may not see it.
    #[error(
        "VM {vm_id} disk {disk_id}: datastore {datastore_id} is unknown here; check `onedatastore show {datastore_id}`"
    )]
    UnknownDatastore {
        /// The VM.
        vm_id: i32,
        /// The disk.
        disk_id: i32,
        /// The datastore.
        datastore_id: i32,
    },
    /// A Ceph disk lacks what oned always writes.
    #[error("VM {vm_id} disk {disk_id}: {attribute} is missing or unclear; check `onevm show -x {vm_id}`")]
    MissingAttribute {
        /// The VM.
        vm_id: i32,
        /// The disk.
        disk_id: i32,
        /// The attribute's name.
        attribute: &'static str,
    },
    /// A volatile disk names an image. oned gives it none; the stock driver would delete what a user wrote there.
    #[error("VM {vm_id} disk {disk_id}: a volatile disk has a SOURCE that its user wrote; detach it")]
    ForgedSource {
        /// The VM.
        vm_id: i32,
        /// The disk.
        disk_id: i32,
    },
    /// No RBD image is called so.
    #[error("VM {vm_id} disk {disk_id}: {source}; check SOURCE and POOL_NAME")]
    InvalidName {
        /// The VM.
        vm_id: i32,
        /// The disk.
        disk_id: i32,
        /// The name.
        source: InvalidImageSpec,
    },
    /// The disk is in another pool than its datastore says.
    #[error(
        "VM {vm_id} disk {disk_id}: its pool is {found:?}, but datastore {datastore_id} has POOL_NAME={expected:?}; correct it with `onedatastore update {datastore_id}`"
    )]
    PoolMismatch {
        /// The VM.
        vm_id: i32,
        /// The disk.
        disk_id: i32,
        /// The datastore.
        datastore_id: i32,
        /// What the disk says: `pool[/namespace]`.
        found: String,
        /// What the datastore says, or the default.
        expected: String,
    },
}

/// What a disk is, as far as the VM's own document tells.
enum DiskPlace {
    /// Certainly no RBD image of this VM.
    Elsewhere,
    /// Perhaps; the datastore knows.
    Perhaps { kind: DiskKind, datastore_id: Option<i32> },
}

fn is_ceph(driver: &str) -> bool {
    driver.eq_ignore_ascii_case(CEPH)
}

fn place(vm: &Vm, disk: &Disk) -> DiskPlace {
    if disk.is_volatile() {
        // The driver of the system datastore makes it; before the first deployment there is none, and no image.
        return match (&vm.tm_mad, vm.system_datastore) {
            (Some(driver), _) if !is_ceph(driver) => DiskPlace::Elsewhere,
            (None, None) => DiskPlace::Elsewhere,
            (_, datastore_id) => DiskPlace::Perhaps { kind: DiskKind::Volatile, datastore_id },
        };
    }
    let on_rbd = disk.disk_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("RBD"));
    match disk.tm_mad.as_deref() {
        Some(driver) if !is_ceph(driver) && !on_rbd => return DiskPlace::Elsewhere,
        // Disks of no datastore at all, such as those of an imported VM.
        None if disk.datastore_id.is_none() => return DiskPlace::Elsewhere,
        _ => {}
    }
    let is_immutable = disk.clone == Some(false) && disk.save == Some(false) && disk.readonly == Some(true);
    if disk.is_cdrom() || is_immutable {
        return DiskPlace::Elsewhere;
    }
    match disk.clone {
        Some(true) if disk.is_exported() => DiskPlace::Elsewhere,
        Some(true) => DiskPlace::Perhaps { kind: DiskKind::Clone, datastore_id: disk.datastore_id },
        // An unclear CLONE is looked at again once the disk is known to be on Ceph.
        _ => DiskPlace::Perhaps { kind: DiskKind::Persistent, datastore_id: disk.datastore_id },
    }
}

/// The datastores that [`rbd_images`] needs for this VM. Empty: none of its disks can be on Ceph.
pub fn datastores_needed(vm: &Vm) -> BTreeSet<i32> {
    vm.disks
        .iter()
        .filter_map(|disk| match place(vm, disk) {
            DiskPlace::Perhaps { datastore_id, .. } => datastore_id,
            DiskPlace::Elsewhere => None,
        })
        .collect()
}

/// Every disk of the VM that is an RBD image, in the order of the VM's document; an image that is attached
/// twice is listed once.
///
/// `datastores` holds those that [`datastores_needed`] names, by id.
pub fn rbd_images(vm: &Vm, datastores: &BTreeMap<i32, Datastore>) -> Result<Vec<DiskImage>, DiskError> {
    rbd_images_each(vm, datastores).into_iter().collect()
}

/// The same, each disk for itself: one that can't be told hides no other.
pub fn rbd_images_each(vm: &Vm, datastores: &BTreeMap<i32, Datastore>) -> Vec<Result<DiskImage, DiskError>> {
    let mut known = BTreeSet::new();
    let mut is_new = |image: &DiskImage| {
        // one name in two clusters is two images
        let way = datastores.get(&image.datastore_id).map(StorageCredentials::of);
        known.insert((way, image.image.clone()))
    };
    let images = vm.disks.iter().filter_map(|disk| rbd_image(vm, disk, datastores).transpose());
    images.filter(|image| image.as_ref().map_or(true, &mut is_new)).collect()
}

fn rbd_image(
    vm: &Vm,
    disk: &Disk,
    datastores: &BTreeMap<i32, Datastore>,
) -> Result<Option<DiskImage>, DiskError> {
    let (vm_id, disk_id) = (vm.id, disk.id);
    let missing = |attribute| DiskError::MissingAttribute { vm_id, disk_id, attribute };
    let (kind, datastore_id) = match place(vm, disk) {
        DiskPlace::Elsewhere => return Ok(None),
        DiskPlace::Perhaps { kind, datastore_id } => (kind, datastore_id),
    };
    let driver = if kind == DiskKind::Volatile { vm.tm_mad.as_deref() } else { disk.tm_mad.as_deref() };
    let datastore_id = datastore_id.ok_or_else(|| missing("DATASTORE_ID"))?;
    let datastore =
        datastores.get(&datastore_id).ok_or(DiskError::UnknownDatastore { vm_id, disk_id, datastore_id })?;
    if !driver.is_some_and(is_ceph) && !datastore.is_ceph() {
        return Ok(None);
    }
    let pool = datastore.pool();
    let mismatch = |found: &str| DiskError::PoolMismatch {
        vm_id,
        disk_id,
        datastore_id,
        found: excerpt(found),
        expected: excerpt(pool),
    };
    let invalid = |source| DiskError::InvalidName { vm_id, disk_id, source };
    if kind == DiskKind::Volatile {
        // The stock driver takes the pool from the disk, where a user may have written another one.
        if let Some(named) = disk.pool_name.as_deref().filter(|named| *named != pool) {
            return Err(mismatch(named));
        }
        if disk.source.is_some() {
            return Err(DiskError::ForgedSource { vm_id, disk_id });
        }
        let image = format!("{pool}/one-sys-{vm_id}-{disk_id}").parse().map_err(invalid)?;
        return Ok(Some(DiskImage { disk_id, image, kind, datastore_id, base: None }));
    }
    if disk.clone.is_none() {
        return Err(missing("CLONE"));
    }
    let source: ImageSpec =
        disk.source.as_deref().ok_or_else(|| missing("SOURCE"))?.parse().map_err(invalid)?;
    if !datastore.covers(&source) {
        return Err(mismatch(&source.pool_spec()));
    }
    if kind == DiskKind::Persistent {
        return Ok(Some(DiskImage { disk_id, image: source, kind, datastore_id, base: None }));
    }
    let name = format!("{}-{vm_id}-{disk_id}", source.image());
    let image = ImageSpec::new(source.pool(), source.namespace(), &name).map_err(invalid)?;
    Ok(Some(DiskImage { disk_id, image, kind, datastore_id, base: Some(source) }))
}

/// Which of these images the VM uses, and whether it made them for itself. `registered` are those that oned's own list
/// of images gives to the VM.
///
/// A disk that can't be told counts as every image that it may be: that a VM's document is unclear must never look as
/// if nobody used the image.
pub fn images_used(
    vm: &Vm,
    datastores: &BTreeMap<i32, Datastore>,
    images: &BTreeSet<ImageSpec>,
    registered: &BTreeSet<ImageSpec>,
) -> BTreeMap<ImageSpec, Usage> {
    let mut used = BTreeMap::new();
    for disk in &vm.disks {
        match rbd_image(vm, disk, datastores) {
            Ok(None) => {}
            Ok(Some(found)) => {
                let usage = if found.kind == DiskKind::Persistent { Usage::Uses } else { Usage::Owns };
                if images.contains(&found.image) {
                    used.insert(found.image, usage);
                }
            }
            Err(_) => {
                let may_be = |image: &&ImageSpec| {
                    registered.contains(image)
                        || disk.source.as_deref() == Some(&image.to_string())
                        || named_by(image) == Some(NamedBy { vm_id: vm.id, disk_id: disk.id })
                };
                for image in images.iter().filter(may_be) {
                    used.entry(image.clone()).or_insert(Usage::Uses);
                }
            }
        }
    }
    used
}

/// How a VM uses an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// As an image that outlives it, or perhaps.
    Uses,
    /// As the clone or volatile disk that was made for it.
    Owns,
}

/// The VM and disk that an image was made for, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamedBy {
    /// The VM, on the front-end that made the image.
    pub vm_id: i32,
    /// The disk.
    pub disk_id: i32,
}

/// The VM and disk whose clone or volatile disk an image is by its name, `<base>-<vm>-<disk>`. The base may have been
/// registered under any name, so `debian-12-1` may just as well be a person's own: a hint where to look for a user of the
/// image, to be confirmed by that VM's document.
pub fn named_by(image: &ImageSpec) -> Option<NamedBy> {
    let mut parts = image.image().rsplit('-');
    let (disk_id, vm_id) = (canonical_number(parts.next()?)?, canonical_number(parts.next()?)?);
    // what is left is the base
    parts.next().map(|_| NamedBy { vm_id, disk_id })
}

/// A number as oned writes ids: digits, no leading zero.
fn canonical_number(text: &str) -> Option<i32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

/// How to reach the images of a datastore: from the datastore only, because a VM's template can be edited by
/// its user.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageCredentials {
    /// `CEPH_USER`.
    pub user: Option<String>,
    /// `CEPH_CONF`, a path on the host that runs `rbd`.
    pub conf: Option<String>,
    /// `CEPH_KEY`, the path of a keyfile on that host.
    pub keyfile: Option<String>,
    /// `BRIDGE_LIST`; empty: no host needs to be asked.
    pub bridge_hosts: Vec<String>,
}

impl StorageCredentials {
    /// Those of a datastore.
    pub fn of(datastore: &Datastore) -> Self {
        Self {
            user: datastore.ceph_user.clone(),
            conf: datastore.ceph_conf.clone(),
            keyfile: datastore.ceph_key.clone(),
            bridge_hosts: datastore.bridge_list.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opennebula::document::DatastoreKind;
    use proptest::prelude::*;

    fn datastore(id: i32, tm_mad: &str, pool: Option<&str>) -> Datastore {
        Datastore {
            id,
            tm_mad: tm_mad.into(),
            pool_name: pool.map(Into::into),
            kind: if id == 100 { DatastoreKind::System } else { DatastoreKind::Image },
            ..Datastore::default()
        }
    }

    fn datastores() -> BTreeMap<i32, Datastore> {
        [
            datastore(1, "shared", None),
            datastore(100, "ceph", Some("sys")),
            datastore(101, "ceph", Some("one")),
            datastore(102, "ceph", Some("fast/tenant")),
            datastore(103, "ceph", None),
        ]
        .into_iter()
        .map(|datastore| (datastore.id, datastore))
        .collect()
    }

    fn disk(id: i32, datastore_id: i32, source: &str, clone: bool) -> Disk {
        Disk {
            id,
            tm_mad: Some("ceph".into()),
            datastore_id: Some(datastore_id),
            source: Some(source.into()),
            clone: Some(clone),
            save: Some(!clone),
            readonly: Some(false),
            device_type: Some("RBD".into()),
            disk_type: Some("RBD".into()),
            ..Disk::default()
        }
    }

    fn volatile(id: i32) -> Disk {
        Disk { id, device_type: Some("fs".into()), disk_type: Some("FILE".into()), ..Disk::default() }
    }

    fn vm(disks: Vec<Disk>) -> Vm {
        Vm { id: 7, disks, system_datastore: Some(100), tm_mad: Some("ceph".into()), ..Vm::default() }
    }

    fn names(vm: &Vm) -> Vec<String> {
        rbd_images(vm, &datastores()).unwrap().iter().map(|image| image.image.to_string()).collect()
    }

    #[test]
    fn the_captured_vms() {
        let datastores =
            [Datastore::from_xml(include_str!("../../tests/fixtures/opennebula/datastore.image.site-a.xml"))
                .unwrap()]
            .into_iter()
            .map(|datastore| (datastore.id, datastore))
            .collect();
        let running =
            Vm::from_xml(include_str!("../../tests/fixtures/opennebula/vm.running.site-a.xml")).unwrap();
        assert_eq!(datastores_needed(&running), BTreeSet::from([101]));
        assert_eq!(
            rbd_images(&running, &datastores).unwrap(),
            [DiskImage {
                disk_id: 0,
                image: "one/one-0-2-0".parse().unwrap(),
                kind: DiskKind::Clone,
                datastore_id: 101,
                base: Some("one/one-0".parse().unwrap()),
            }]
        );
        let done = Vm::from_xml(include_str!("../../tests/fixtures/opennebula/vm.done.site-b.xml")).unwrap();
        assert_eq!(
            rbd_images(&done, &datastores).unwrap(),
            [DiskImage {
                disk_id: 0,
                image: "one/one-0-2-0".parse().unwrap(),
                kind: DiskKind::Persistent,
                datastore_id: 101,
                base: None,
            }]
        );
    }

    #[test]
    fn every_kind_in_several_pools_and_namespaces() {
        let vm = vm(vec![
            disk(0, 101, "one/one-7", false),
            disk(1, 101, "one/one-8", true),
            disk(2, 102, "fast/tenant/one-9", false),
            disk(3, 102, "fast/tenant/one-10", true),
            disk(4, 103, "one/one-11", false),
            disk(5, 101, "one/tenant/one-12", true),
            volatile(6),
            Disk { device_type: Some("SWAP".into()), pool_name: Some("sys".into()), ..volatile(7) },
        ]);
        assert_eq!(datastores_needed(&vm), BTreeSet::from([100, 101, 102, 103]));
        assert_eq!(
            names(&vm),
            [
                "one/one-7",
                "one/one-8-7-1",
                "fast/tenant/one-9",
                "fast/tenant/one-10-7-3",
                "one/one-11",
                "one/tenant/one-12-7-5",
                "sys/one-sys-7-6",
                "sys/one-sys-7-7"
            ]
        );
        let images = rbd_images(&vm, &datastores()).unwrap();
        assert_eq!(images[6].kind, DiskKind::Volatile);
        assert_eq!(images.iter().map(|image| image.datastore_id).collect::<Vec<_>>()[5..], [101, 100, 100]);
        for image in images.iter().filter(|image| image.kind != DiskKind::Persistent) {
            assert_eq!(named_by(&image.image), Some(NamedBy { vm_id: 7, disk_id: image.disk_id }));
        }
    }

    #[test]
    fn disks_on_other_storage_cost_nothing() {
        let file = Disk {
            tm_mad: Some("shared".into()),
            disk_type: Some("FILE".into()),
            device_type: Some("FILE".into()),
            ..disk(0, 1, "/var/lib/one/datastores/1/abc", true)
        };
        let mut vm = vm(vec![file, volatile(1)]);
        vm.tm_mad = Some("shared".into());
        vm.system_datastore = Some(0);
        assert_eq!(datastores_needed(&vm), BTreeSet::new());
        assert_eq!(rbd_images(&vm, &BTreeMap::new()).unwrap(), []);
        // Never deployed: no volatile image yet.
        vm.tm_mad = None;
        vm.system_datastore = None;
        assert_eq!(rbd_images(&vm, &BTreeMap::new()).unwrap(), []);
    }

    #[test]
    fn a_disk_without_driver_is_judged_by_its_datastore() {
        let unstamped = |datastore| Disk { tm_mad: None, ..disk(0, datastore, "one/one-7", false) };
        assert_eq!(names(&vm(vec![unstamped(101)])), ["one/one-7"]);
        assert_eq!(names(&vm(vec![unstamped(1)])), [""; 0]);
        // The driver stamped into the disk counts even if the datastore has another one by now.
        let moved = disk(0, 1, "one/one-7", false);
        assert_eq!(names(&vm(vec![moved])), ["one/one-7"]);
    }

    #[test]
    fn cdroms_and_immutable_images_are_left_out() {
        let cdrom = Disk {
            device_type: Some("CDROM".into()),
            disk_type: Some("RBD".into()),
            save: Some(false),
            ..disk(0, 101, "one/one-7", false)
        };
        let immutable = Disk { save: Some(false), readonly: Some(true), ..disk(1, 101, "one/one-8", false) };
        // Read-only by the user's wish, but kept: still the VM's own.
        let readonly = Disk { readonly: Some(true), ..disk(2, 101, "one/one-9", false) };
        let vm = vm(vec![cdrom, immutable, readonly]);
        assert_eq!(names(&vm), ["one/one-9"]);
    }

    #[test]
    fn exported_disks_keep_their_source_only_if_written_back() {
        let exported = |id, clone| Disk {
            tm_mad_system: Some("ssh".into()),
            disk_type: Some("FILE".into()),
            device_type: Some("FILE".into()),
            ..disk(id, 101, "one/one-7", clone)
        };
        let mut vm = vm(vec![exported(0, true), exported(1, false), volatile(2)]);
        vm.tm_mad = Some("ssh".into());
        assert_eq!(names(&vm), ["one/one-7"]);
        // Another name than ssh has no files of its own in the stock driver: the plain actions run.
        let native = Disk { tm_mad_system: Some("ceph".into()), ..disk(0, 101, "one/one-7", true) };
        assert_eq!(names(&super::tests::vm(vec![native])), ["one/one-7-7-0"]);
    }

    #[test]
    fn an_image_attached_twice_is_listed_once() {
        let vm = vm(vec![disk(0, 101, "one/one-7", false), disk(3, 101, "one/one-7", false)]);
        assert_eq!(rbd_images(&vm, &datastores()).unwrap().len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_names_the_disk() {
        let error = |disk: Disk| rbd_images(&vm(vec![disk]), &datastores()).unwrap_err();
        let text = error(disk(3, 101, "other/one-7", false)).to_string();
        assert!(
            text.contains("VM 7 disk 3")
                && text.contains("\"other\"")
                && text.contains("onedatastore update 101"),
            "{text}"
        );
        for (datastore_id, source) in
            [(102, "fast/one-9"), (102, "fast/else/one-9"), (103, "two/x"), (101, "on/x")]
        {
            let found = error(disk(0, datastore_id, source, true));
            assert!(matches!(found, DiskError::PoolMismatch { .. }), "{source}: {found}");
        }
        for source in
            ["one", "one/", "one/-x", "one/a@snap", "one/$(id)", "/var/lib/one/x", "one/a b", "a/b/c/d"]
        {
            for clone in [true, false] {
                let found = error(disk(0, 101, source, clone));
                assert!(matches!(found, DiskError::InvalidName { .. }), "{source}: {found}");
            }
        }
        let long = format!("one/{}", "x".repeat(254));
        assert!(matches!(error(disk(0, 101, &long, true)), DiskError::InvalidName { .. }));
        assert!(matches!(error(disk(0, 999, "one/x", true)), DiskError::UnknownDatastore { .. }));
        let without = |change: fn(&mut Disk)| {
            let mut disk = disk(0, 101, "one/one-7", false);
            change(&mut disk);
            error(disk)
        };
        for found in [
            without(|disk| disk.clone = None),
            without(|disk| disk.source = None),
            without(|disk| disk.datastore_id = None),
        ] {
            assert!(matches!(found, DiskError::MissingAttribute { .. }), "{found}");
        }
        // A user's own POOL_NAME on a volatile disk.
        let elsewhere = Disk { pool_name: Some("other".into()), ..volatile(0) };
        assert!(matches!(error(elsewhere), DiskError::PoolMismatch { .. }));
        let mut odd = datastores();
        odd.insert(100, datastore(100, "ceph", Some("a/b/c")));
        assert!(matches!(rbd_images(&vm(vec![volatile(0)]), &odd), Err(DiskError::InvalidName { .. })));
    }

    #[test]
    fn names_tell_the_vm() {
        let named = |text: &str| named_by(&text.parse().unwrap()).map(|by| (by.vm_id, by.disk_id));
        assert_eq!(named("one/one-0-2-0"), Some((2, 0)));
        assert_eq!(named("one/one-sys-3-1"), Some((3, 1)));
        assert_eq!(named("one/tenant/one-123-4567-12"), Some((4567, 12)));
        // A clone, on the recovery site, of an image that was registered under its mirrored name.
        assert_eq!(named("one/one-0-2-0-5-1"), Some((5, 1)));
        assert_eq!(named("one/one-sys-3-1-5-0"), Some((5, 0)));
        // A base that was registered under a name of its own; perhaps a person's own name.
        assert_eq!(named("one/debian-12-1"), Some((12, 1)));
        for text in [
            "one/one-7",
            "one/2-0",
            "one/one-sys-3",
            "one/one-sys-3-checkpoint",
            "one/one-0-2-0-0:1",
            "one/one-0-02-0",
            "one/one-0-+2-0",
            "one/one-0-2-99999999999",
            "one/one-0-2-",
            "one/one",
        ] {
            assert_eq!(named(text), None, "{text}");
        }
    }

    #[test]
    fn credentials_come_from_the_datastore() {
        let datastore = Datastore {
            ceph_user: Some("libvirt".into()),
            ceph_conf: Some("/etc/ceph/a.conf".into()),
            ceph_key: Some("/etc/ceph/a.key".into()),
            bridge_list: vec!["h1".into(), "h2".into()],
            ..Datastore::default()
        };
        assert_eq!(
            StorageCredentials::of(&datastore),
            StorageCredentials {
                user: Some("libvirt".into()),
                conf: Some("/etc/ceph/a.conf".into()),
                keyfile: Some("/etc/ceph/a.key".into()),
                bridge_hosts: vec!["h1".into(), "h2".into()],
            }
        );
    }

    proptest! {
        #[test]
        fn hostile_names_are_errors_or_stay_in_the_pool(source in "\\PC{0,30}|one/\\PC{0,30}", clone: bool) {
            let vm = vm(vec![Disk { source: Some(source), ..disk(0, 101, "", clone) }]);
            if let Ok(images) = rbd_images(&vm, &datastores()) {
                prop_assert_eq!(images[0].image.pool(), "one");
            }
        }

        #[test]
        fn any_name_can_be_asked(name in "one-[a-z0-9-]{0,20}") {
            if let Ok(image) = ImageSpec::new("one", None, &name) {
                let _ = named_by(&image);
            }
        }
    }
}
