//! What an image shows without being opened. To open one makes Ceph's whole table of options anew, which takes longer than all
//! that is asked of it. What cannot be told for certain is left to an open image.

use crate::bindings::{self, *};
use crate::calls::{Failure, ImageTold, MirroringTold, Stage};
use crate::cluster::{OpenPool, c_string, checked, owned};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// Bytes of an id, with its length before it.
const ID: usize = 256;
/// Metadata entries; one with more is opened.
const ENTRIES: u64 = 512;
/// Before the key of a value of an image's metadata (`metadata_key_for_name` in Ceph's src/cls/rbd/cls_rbd.cc).
const METADATA: &str = "metadata_";

/// An image, and its metadata.
type Shown = (ImageTold, BTreeMap<String, String>);

impl OpenPool<'_> {
    /// What the image and its metadata show. `None`: it has to be opened to tell, or to tell why not.
    pub(crate) fn glance(&self, image: &str) -> Option<Shown> {
        self.shown(image).ok().flatten()
    }

    fn shown(&self, image: &str) -> Result<Option<Shown>, Failure> {
        let Some(id) = self.id_of(image)? else { return Ok(None) };
        let header = format!("rbd_header.{id}");
        let Some(entries) = self.omap(&header, ENTRIES)? else { return Ok(None) };
        let number = |key: &str| {
            let bytes: [u8; 8] = entries.get(key)?.as_slice().try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        // a clone's parent has names in other pools
        if entries.contains_key("parent") {
            return Ok(None);
        }
        let (Some(size), Some(features)) = (number("size"), number("features")) else { return Ok(None) };
        let has = |feature: u32| features & u64::from(feature) != 0;
        let mirroring = match self.omap_value("rbd_mirroring", &format!("image_{id}"))? {
            None => None,
            Some(_) => match self.mirroring_of(&id)? {
                None => return Ok(None),
                told => told,
            },
        };
        let metadata = entries.iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(METADATA)?.to_owned();
            Some((key, String::from_utf8_lossy(value).into_owned()))
        });
        let told = ImageTold {
            id,
            size,
            has_journal: has(RBD_FEATURE_JOURNALING),
            is_read_only: has(RBD_FEATURE_NON_PRIMARY),
            parent: None,
            mirroring,
        };
        Ok(Some((told, metadata.collect())))
    }

    /// The id behind a name: a text with its length before it.
    fn id_of(&self, image: &str) -> Result<Option<String>, Failure> {
        let object = c_string(&format!("rbd_id.{image}"), Stage::Image)?;
        let mut bytes = [0_u8; ID];
        // SAFETY: the name lives through the call, and the buffer is as long as the call is told
        let read = unsafe {
            (self.library().rados_read)(
                self.handle,
                object.as_ptr(),
                bytes.as_mut_ptr().cast(),
                ID as size_t,
                0,
            )
        };
        let Ok(read) = usize::try_from(read) else { return Ok(None) };
        let text =
            bytes.get(..read).and_then(|bytes| bytes.split_first_chunk::<4>()).and_then(|(length, text)| {
                (text.len() == usize::try_from(u32::from_le_bytes(*length)).ok()?).then_some(text)
            });
        let id = text.and_then(|text| std::str::from_utf8(text).ok()).filter(|id| !id.is_empty());
        Ok(id.map(ToOwned::to_owned))
    }

    /// Of an image for which mirroring is enabled. The list tells it of each without opening it; it has the one that comes first
    /// behind an id.
    fn mirroring_of(&self, id: &str) -> Result<Option<MirroringTold>, Failure> {
        let Some(before) = just_before(id) else { return Ok(None) };
        let before = c_string(&before, Stage::Call)?;
        let (mut found, mut mode, mut number) = (null_mut(), 0, 1);
        let mut info = MaybeUninit::<rbd_mirror_image_info_t>::zeroed();
        // SAFETY: there is room for one of each, as the call is told, which sets how many there are; their strings are copied
        // before they are cleaned up
        unsafe {
            let listed = (self.library().rbd_mirror_image_info_list)(
                self.handle,
                null_mut(),
                before.as_ptr(),
                1,
                &mut found,
                &mut mode,
                info.as_mut_ptr(),
                &mut number,
            );
            checked(listed, Stage::Call)?;
            if number != 1 {
                return Ok(None);
            }
            let mut info = info.assume_init();
            let (listed, global_id) = (owned(found), owned(info.global_id));
            let (state, primary) = (info.state, info.primary);
            (self.library().rbd_mirror_image_info_list_cleanup)(&mut found, &mut info, 1);
            let by_snapshots = match mode {
                RBD_MIRROR_IMAGE_MODE_JOURNAL => false,
                RBD_MIRROR_IMAGE_MODE_SNAPSHOT => true,
                _ => return Ok(None),
            };
            let is_it = listed == id && state == bindings::RBD_MIRROR_IMAGE_ENABLED;
            Ok(is_it.then_some(MirroringTold { by_snapshots, global_id, primary, state }))
        }
    }
}

/// What comes before this id in the order of bytes, and no other id between.
fn just_before(id: &str) -> Option<String> {
    let last = id.bytes().last().filter(u8::is_ascii_alphanumeric)?;
    // ids have letters and digits only, which all come before a tilde
    Some(format!("{}{}~", &id[..id.len() - 1], char::from(last - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_comes_between() {
        for (id, before) in [("5e8a9", "5e8a8~"), ("5f0", "5f/~"), ("a", "`~")] {
            assert_eq!(just_before(id).unwrap(), before);
            assert!(before < id);
        }
        // the longest that begin as the one before
        assert!("5e8a8zzzz" < "5e8a8~");
        for none in ["", "1é", "1~"] {
            assert_eq!(just_before(none), None, "{none}");
        }
    }
}
