//! An image that is open.

use crate::bindings::{self, *};
use crate::calls::{Failure, ImageTold, MirroringTold, ParentTold, SiteStatus, Snapshot, Stage, StatusTold};
use crate::cluster::{OpenPool, c_string, checked, owned, separated};
use crate::errno::{EBADMSG, EINVAL, ENOENT, ERANGE};
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::ptr::null;

/// Bytes of an id.
const ID: usize = 4096;
/// Metadata entries that are read at a time.
const ENTRIES: u64 = 256;
/// What keys, or values, of so many may take at first, in bytes.
const BUFFER: usize = 1 << 16;
/// And at most.
const LIMIT: usize = 1 << 26;
/// Snapshots, or peers, that are expected at first.
const EXPECTED: usize = 32;

/// An image that is open; it is closed with this value.
pub(crate) struct OpenImage<'a> {
    pool: &'a OpenPool<'a>,
    handle: rbd_image_t,
}

impl Drop for OpenImage<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle was made by rbd_open or rbd_open_read_only and is closed once
        unsafe { (self.library().rbd_close)(self.handle) };
    }
}

fn called(returned: c_int) -> Result<c_int, Failure> {
    checked(returned, Stage::Call)
}

fn nonsense() -> Failure {
    Failure { stage: Stage::Call, errno: EBADMSG }
}

impl<'a> OpenImage<'a> {
    /// For looks only: sets no watch and takes no lock.
    pub(crate) fn look_at(pool: &'a OpenPool<'a>, name: &str) -> Result<Self, Failure> {
        Self::open(pool, name, pool.cluster.library.0.rbd_open_read_only)
    }

    /// For changes.
    pub(crate) fn change(pool: &'a OpenPool<'a>, name: &str) -> Result<Self, Failure> {
        Self::open(pool, name, pool.cluster.library.0.rbd_open)
    }

    fn open(
        pool: &'a OpenPool<'a>,
        text: &str,
        how: unsafe extern "C" fn(rados_ioctx_t, *const c_char, *mut rbd_image_t, *const c_char) -> c_int,
    ) -> Result<Self, Failure> {
        let name = c_string(text, Stage::Image)?;
        let mut handle: rbd_image_t = std::ptr::null_mut();
        // SAFETY: the pool is open; the name lives through the call, which sets the handle if it returns 0; no snapshot
        let opened = unsafe { how(pool.handle, name.as_ptr(), &mut handle, null()) };
        match checked(opened, Stage::Image) {
            Ok(_) => Ok(Self { pool, handle }),
            // what is missing may also be what the image is a clone of
            Err(failure) if failure.errno == ENOENT => Err(pool.what_is_missing(text, failure)),
            Err(failure) => Err(failure),
        }
    }

    fn library(&self) -> &bindings::Library {
        &self.pool.cluster.library.0
    }

    /// As `rbd info` tells it.
    pub(crate) fn info(&self) -> Result<ImageTold, Failure> {
        let (mut size, mut features) = (0, 0);
        // SAFETY: the image is open; the numbers live through the calls, which set them
        unsafe {
            called((self.library().rbd_get_size)(self.handle, &mut size))?;
            called((self.library().rbd_get_features)(self.handle, &mut features))?;
        }
        let has = |feature: u32| features & u64::from(feature) != 0;
        Ok(ImageTold {
            id: self.id()?,
            size,
            has_journal: has(RBD_FEATURE_JOURNALING),
            is_read_only: has(RBD_FEATURE_NON_PRIMARY),
            parent: self.parent()?,
            mirroring: self.mirroring()?,
        })
    }

    fn id(&self) -> Result<String, Failure> {
        let mut id = vec![0_u8; ID];
        // SAFETY: the buffer is as long as the call is told, and ends with a NUL in any case: its last byte is not counted
        unsafe {
            called((self.library().rbd_get_id)(self.handle, id.as_mut_ptr().cast(), (ID - 1) as size_t))?;
            Ok(owned(id.as_ptr().cast()))
        }
    }

    fn parent(&self) -> Result<Option<ParentTold>, Failure> {
        let (mut image, mut snapshot) =
            (MaybeUninit::<rbd_linked_image_spec_t>::zeroed(), MaybeUninit::<rbd_snap_spec_t>::zeroed());
        // SAFETY: the call fills both if it returns 0; then their strings are copied, and both are cleaned up once
        unsafe {
            let found =
                (self.library().rbd_get_parent)(self.handle, image.as_mut_ptr(), snapshot.as_mut_ptr());
            match called(found) {
                Err(Failure { errno: ENOENT, .. }) => return Ok(None),
                other => other?,
            };
            let (mut image, mut snapshot) = (image.assume_init(), snapshot.assume_init());
            let parent = ParentTold {
                pool: owned(image.pool_name),
                namespace: owned(image.pool_namespace),
                image: owned(image.image_name),
                snapshot: owned(snapshot.name),
            };
            (self.library().rbd_linked_image_spec_cleanup)(&mut image);
            (self.library().rbd_snap_spec_cleanup)(&mut snapshot);
            Ok(Some(parent))
        }
    }

    fn mirroring(&self) -> Result<Option<MirroringTold>, Failure> {
        let mut info = MaybeUninit::<rbd_mirror_image_info_t>::zeroed();
        // SAFETY: the call is told the size of what it fills if it returns 0; then its string is copied, and it is cleaned up
        // once
        let (global_id, state, primary) = unsafe {
            let size = size_of::<rbd_mirror_image_info_t>() as size_t;
            called((self.library().rbd_mirror_image_get_info)(self.handle, info.as_mut_ptr(), size))?;
            let mut info = info.assume_init();
            let told = (owned(info.global_id), info.state, info.primary);
            (self.library().rbd_mirror_image_get_info_cleanup)(&mut info);
            told
        };
        if state == RBD_MIRROR_IMAGE_DISABLED {
            return Ok(None);
        }
        let mut mode = 0;
        // SAFETY: the number lives through the call, which sets it
        called(unsafe { (self.library().rbd_mirror_image_get_mode)(self.handle, &mut mode) })?;
        let by_snapshots = match mode {
            RBD_MIRROR_IMAGE_MODE_JOURNAL => false,
            RBD_MIRROR_IMAGE_MODE_SNAPSHOT => true,
            _ => return Err(nonsense()),
        };
        Ok(Some(MirroringTold { by_snapshots, global_id, primary, state }))
    }

    /// All keys and values.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut all = BTreeMap::new();
        let mut start = String::new();
        loop {
            let (keys, values) = self.metadata_after(&start)?;
            let Some(last) = keys.last().cloned() else { return Ok(all) };
            all.extend(keys.into_iter().zip(values));
            start = last;
        }
    }

    fn metadata_after(&self, start: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
        let start = c_string(start, Stage::Call)?;
        let mut size = BUFFER;
        loop {
            let (mut keys, mut values) = (vec![0_u8; size], vec![0_u8; size]);
            let (mut keys_length, mut values_length) = (size as size_t, size as size_t);
            // SAFETY: each buffer is as long as the length beside it says; the call writes no more, and sets the lengths
            let listed = unsafe {
                (self.library().rbd_metadata_list)(
                    self.handle,
                    start.as_ptr(),
                    ENTRIES,
                    keys.as_mut_ptr().cast(),
                    &mut keys_length,
                    values.as_mut_ptr().cast(),
                    &mut values_length,
                )
            };
            match called(listed) {
                Err(Failure { errno: ERANGE, .. }) if size < LIMIT => {
                    size *= 4;
                    continue;
                }
                other => other?,
            };
            let told =
                |buffer: &[u8], length: size_t| separated(buffer.get(..length as usize).unwrap_or_default());
            let (keys, mut values) = (told(&keys, keys_length), told(&values, values_length));
            if keys.len() > values.len() {
                // empty values at the end look like none
                values.resize(keys.len(), String::new());
            }
            return if keys.len() == values.len() { Ok((keys, values)) } else { Err(nonsense()) };
        }
    }

    /// Sets one metadata value.
    pub(crate) fn set_metadata(&self, key: &str, value: &str) -> Result<(), Failure> {
        let (key, value) = (c_string(key, Stage::Call)?, c_string(value, Stage::Call)?);
        // SAFETY: both strings live through the call
        called(unsafe { (self.library().rbd_metadata_set)(self.handle, key.as_ptr(), value.as_ptr()) })
            .map(drop)
    }

    /// As Ceph's command does before it changes anything of an image's mirroring.
    fn needs_mirroring(&self, by_snapshots: bool) -> Result<(), Failure> {
        let is_fit = |mirroring: &MirroringTold| {
            mirroring.state == RBD_MIRROR_IMAGE_ENABLED && (mirroring.by_snapshots || !by_snapshots)
        };
        match self.mirroring()?.filter(is_fit) {
            Some(_) => Ok(()),
            None => Err(Failure { stage: Stage::NotMirrored, errno: EINVAL }),
        }
    }

    /// Makes the copy primary.
    pub(crate) fn promote(&self, force: bool) -> Result<(), Failure> {
        self.needs_mirroring(false)?;
        // SAFETY: the image is open
        called(unsafe { (self.library().rbd_mirror_image_promote)(self.handle, force) }).map(drop)
    }

    /// Makes it non-primary.
    pub(crate) fn demote(&self) -> Result<(), Failure> {
        self.needs_mirroring(false)?;
        // SAFETY: the image is open
        called(unsafe { (self.library().rbd_mirror_image_demote)(self.handle) }).map(drop)
    }

    /// Has the daemon throw it away and copy it again.
    pub(crate) fn resync(&self) -> Result<(), Failure> {
        self.needs_mirroring(false)?;
        // SAFETY: the image is open
        called(unsafe { (self.library().rbd_mirror_image_resync)(self.handle) }).map(drop)
    }

    /// Takes a mirror snapshot.
    pub(crate) fn mirror_snapshot(&self) -> Result<(), Failure> {
        self.needs_mirroring(true)?;
        let mut id = 0;
        // SAFETY: the number lives through the call, which sets it
        called(unsafe { (self.library().rbd_mirror_image_create_snapshot)(self.handle, &mut id) }).map(drop)
    }

    /// What the daemons have reported.
    pub(crate) fn status(&self) -> Result<StatusTold, Failure> {
        self.needs_mirroring(false)?;
        let names = self.peers()?;
        let mut status = MaybeUninit::<rbd_mirror_image_global_status_t>::zeroed();
        // SAFETY: the call is told the size of what it fills if it returns 0; its strings and its list, which is as long as it
        // says, are copied; then it is cleaned up once
        unsafe {
            let size = size_of::<rbd_mirror_image_global_status_t>() as size_t;
            let returned =
                (self.library().rbd_mirror_image_get_global_status)(self.handle, status.as_mut_ptr(), size);
            called(returned)?;
            let mut status = status.assume_init();
            let global_id = owned(status.info.global_id);
            let reports = match status.site_statuses.is_null() {
                true => &[],
                false => {
                    std::slice::from_raw_parts(status.site_statuses, status.site_statuses_count as usize)
                }
            };
            let sites = reports
                .iter()
                .map(|report| {
                    let mirror_uuid = owned(report.mirror_uuid);
                    SiteStatus {
                        site_name: names.get(&mirror_uuid).cloned(),
                        state: state_name(report.up, report.state),
                        description: owned(report.description),
                        last_update: report.last_update,
                        mirror_uuid,
                    }
                })
                .collect();
            (self.library().rbd_mirror_image_global_status_cleanup)(&mut status);
            Ok(StatusTold { global_id, sites })
        }
    }

    /// The names of the pool's peers, by mirror uuid.
    fn peers(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut room = EXPECTED;
        loop {
            let mut peers: Vec<MaybeUninit<rbd_mirror_peer_site_t>> =
                (0..room).map(|_| MaybeUninit::zeroed()).collect();
            let mut count = room as c_int;
            // SAFETY: the list has room for as many as the call is told; it sets how many it has filled if it returns 0
            let listed = unsafe {
                (self.library().rbd_mirror_peer_site_list)(
                    self.pool.handle,
                    peers.as_mut_ptr().cast(),
                    &mut count,
                )
            };
            match called(listed) {
                Err(Failure { errno: ERANGE, .. }) if room < LIMIT => {
                    room *= 4;
                    continue;
                }
                other => other?,
            };
            let mut names = BTreeMap::new();
            for peer in peers.iter().take(count as usize) {
                // SAFETY: so many are filled; their strings are copied before they are cleaned up
                let (uuid, name) = unsafe {
                    let peer = peer.assume_init_ref();
                    (owned(peer.mirror_uuid), owned(peer.site_name))
                };
                names.insert(uuid, name);
            }
            // SAFETY: so many are filled, and they are cleaned up once
            unsafe { (self.library().rbd_mirror_peer_site_list_cleanup)(peers.as_mut_ptr().cast(), count) };
            return Ok(names);
        }
    }

    /// All snapshots, those of mirroring among them.
    pub(crate) fn snapshots(&self) -> Result<Vec<Snapshot>, Failure> {
        let mut room = EXPECTED;
        loop {
            let mut listed: Vec<MaybeUninit<rbd_snap_info_t>> =
                (0..room).map(|_| MaybeUninit::zeroed()).collect();
            let mut count = room as c_int;
            // SAFETY: the list has room for as many as the call is told; it returns how many it has filled
            let returned = unsafe {
                (self.library().rbd_snap_list)(self.handle, listed.as_mut_ptr().cast(), &mut count)
            };
            let filled = match called(returned) {
                Err(Failure { errno: ERANGE, .. }) if room < LIMIT => {
                    room = usize::try_from(count).unwrap_or_default().max(room * 2);
                    continue;
                }
                other => other? as usize,
            };
            let named = listed.iter().take(filled).map(|snapshot| {
                // SAFETY: so many are filled; their names are copied before the list is ended
                let snapshot = unsafe { snapshot.assume_init_ref() };
                // SAFETY: the same
                (snapshot.id, unsafe { owned(snapshot.name) })
            });
            let named: Vec<(u64, String)> = named.collect();
            if filled > 0 {
                // SAFETY: the list was filled, and librbd has set the mark behind its last one: it wants room for one more
                unsafe { (self.library().rbd_snap_list_end)(listed.as_mut_ptr().cast()) };
            }
            return named.into_iter().map(|(id, name)| self.snapshot(id, name)).collect();
        }
    }

    fn snapshot(&self, id: u64, name: String) -> Result<Snapshot, Failure> {
        let mut kind = 0;
        // SAFETY: the number lives through the call, which sets it
        called(unsafe { (self.library().rbd_snap_get_namespace_type)(self.handle, id, &mut kind) })?;
        let kind = match kind {
            RBD_SNAP_NAMESPACE_TYPE_USER => "user",
            RBD_SNAP_NAMESPACE_TYPE_GROUP => "group",
            RBD_SNAP_NAMESPACE_TYPE_TRASH => "trash",
            RBD_SNAP_NAMESPACE_TYPE_MIRROR => "mirror",
            _ => "",
        };
        let mut snapshot = Snapshot {
            id,
            name,
            kind: kind.to_owned(),
            mirror: None,
            primary_mirror_uuid: String::new(),
            primary_snap_id: 0,
        };
        if kind != "mirror" {
            return Ok(snapshot);
        }
        let mut told = MaybeUninit::<rbd_snap_mirror_namespace_t>::zeroed();
        let size = size_of::<rbd_snap_mirror_namespace_t>() as size_t;
        // SAFETY: the call is told the size of what it fills if it returns 0; then its string is copied, and it is cleaned up
        // once
        unsafe {
            called((self.library().rbd_snap_get_mirror_namespace)(self.handle, id, told.as_mut_ptr(), size))?;
            let mut told = told.assume_init();
            let state = match told.state {
                RBD_SNAP_MIRROR_STATE_PRIMARY => "primary",
                RBD_SNAP_MIRROR_STATE_NON_PRIMARY => "non-primary",
                RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED | RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED => {
                    "demoted"
                }
                _ => "",
            };
            snapshot.mirror = Some((state.to_owned(), told.complete));
            snapshot.primary_mirror_uuid = owned(told.primary_mirror_uuid);
            snapshot.primary_snap_id = told.primary_snap_id;
            (self.library().rbd_snap_mirror_namespace_cleanup)(&mut told, size);
        }
        Ok(snapshot)
    }
}

/// As Ceph's command prints it.
fn state_name(up: bool, state: rbd_mirror_image_status_state_t) -> String {
    let state = match state {
        MIRROR_IMAGE_STATUS_STATE_ERROR => "error",
        MIRROR_IMAGE_STATUS_STATE_SYNCING => "syncing",
        MIRROR_IMAGE_STATUS_STATE_STARTING_REPLAY => "starting_replay",
        MIRROR_IMAGE_STATUS_STATE_REPLAYING => "replaying",
        MIRROR_IMAGE_STATUS_STATE_STOPPING_REPLAY => "stopping_replay",
        MIRROR_IMAGE_STATUS_STATE_STOPPED => "stopped",
        _ => "unknown",
    };
    format!("{}+{state}", if up { "up" } else { "down" })
}
