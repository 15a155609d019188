//! A clone that has to be mirrored without its base.

use crate::image::ImageSpec;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

/// How a clone gets a copy that is whole: mirrored as an image without a base. In no other order: a copy that followed the
/// flattening would show no base any more, and would lack its data all the same (seen on 16.2).
#[derive(Clone, Copy, Debug)]
pub struct WholeCopy<'a> {
    /// The clone.
    pub image: &'a ImageSpec,
    /// The site where it is primary, and where all this is typed.
    pub at: &'a str,
    /// The VM there that uses it.
    pub vm: Option<i32>,
}

impl WholeCopy<'_> {
    /// What is typed where it is not mirrored yet. Its home names the image that it was, so that is said again.
    pub fn mirrored(self, home: Option<&str>) -> Vec<String> {
        let Self { image, .. } = self;
        let mut all =
            vec![format!("rbd flatten {image}"), format!("rbd mirror image enable {image} snapshot")];
        all.extend(home.map(|home| self.rehomed(home)));
        all
    }

    /// What is typed where it is mirrored.
    pub fn mirrored_anew(self, home: Option<&str>) -> Vec<String> {
        let mut all = vec![format!("rbd mirror image disable {}", self.image)];
        all.extend(self.mirrored(home));
        all
    }

    fn rehomed(self, home: &str) -> String {
        let what = match self.vm {
            Some(vm) => vm.to_string(),
            None => format!("--image {}", self.image),
        };
        let to = if home == self.at { String::new() } else { format!(" --to {home}") };
        format!("onemirror rehome {what}{to}")
    }
}
