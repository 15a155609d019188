//! Where an image belongs: the site on which terminate means terminate. Elsewhere it hands the image over.

use super::decision::Step;
use super::sight::{Copy, Observation, TokenSeen};
use super::token::is_word;
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

/// The image metadata key of the [`Home`].
pub const HOME_KEY: &str = "onemirror.home";

/// What stands before the image's own id where it was not mirrored yet, and had no global one.
const BY_ID: &str = "id=";

/// What an image says of its home, `<site>:<global id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Home {
    /// Nothing.
    #[default]
    Unset,
    /// A site.
    At {
        /// Its name.
        site: String,
        /// It names what the image was before: not mirrored yet, which holds on this copy only, or the image that a revert to
        /// a disk snapshot has left behind. So it is to be written anew.
        is_former: bool,
    },
    /// It was written for another image, of which this one is a clone or a copy.
    OfAnother,
    /// Something that is not understood here.
    Unread,
}

/// Which image a home is written for.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// By its global id.
    Global(&'a str),
    /// By its id in its own cluster, as long as it is not mirrored.
    Local(&'a str),
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global(id) => write!(f, "{id}"),
            Self::Local(id) => write!(f, "{BY_ID}{id}"),
        }
    }
}

/// A home as it is written.
pub fn home_written(site: &str, image: Named<'_>) -> String {
    format!("{site}:{image}")
}

impl Home {
    /// The site, if it is known.
    pub fn site(&self) -> Option<&str> {
        match self {
            Self::At { site, .. } => Some(site),
            Self::Unset | Self::OfAnother | Self::Unread => None,
        }
    }

    /// Reads what stands under [`HOME_KEY`]. What was written for one of `images` counts, and so does what was written for one
    /// of `left_behind`: what the image was until it was reverted to a snapshot of its own, and is a clone of now.
    pub fn read(text: Option<&str>, images: &[Named<'_>], left_behind: &[Named<'_>]) -> Self {
        let Some(text) = text else { return Self::Unset };
        let parts: Vec<&str> = text.split(':').collect();
        let [site, image] = parts[..] else { return Self::Unread };
        if !is_word(site) || !is_word(image) {
            return Self::Unread;
        }
        let is_named = |known: &&Named<'_>| known.to_string() == image;
        let is_former = match images.iter().find(is_named) {
            Some(known) => matches!(known, Named::Local(_)),
            None if left_behind.iter().any(|known| is_named(&known)) => true,
            None => return Self::OfAnother,
        };
        Self::At { site: site.into(), is_former }
    }
}

/// What a site is to images that say nothing of a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteRole {
    /// Their home.
    Home,
    /// Where they run after a failover; their home is the other site.
    Recovery,
}

/// Where an image belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Belongs {
    /// To this site.
    Here,
    /// To the other one.
    There,
    /// Its home names another image, or a third site, or is not understood: only an operator can tell.
    Unknown,
}

/// This site, as far as homes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residence<'a> {
    /// Its name.
    pub here: &'a str,
    /// The peer's name.
    pub there: &'a str,
    /// What it is to images that do not say.
    pub role: SiteRole,
}

impl Residence<'_> {
    /// Where the image belongs. `made_here`: it is the clone or volatile disk of a VM of this site.
    pub fn of(&self, copy: &Copy, made_here: bool) -> Belongs {
        match &copy.home {
            Home::At { site, .. } if site == self.here => Belongs::Here,
            Home::At { site, .. } if site == self.there => Belongs::There,
            Home::At { .. } | Home::OfAnother | Home::Unread => Belongs::Unknown,
            Home::Unset if self.role == SiteRole::Home => Belongs::Here,
            Home::Unset if made_here && self.was_begun_here(&copy.token) => Belongs::Here,
            Home::Unset => Belongs::There,
        }
    }

    /// Whether no other site has ever had it: an image of the same name that came from there is none that was made here.
    fn was_begun_here(&self, token: &TokenSeen) -> bool {
        match token {
            TokenSeen::None | TokenSeen::OfAnother(_) => true,
            TokenSeen::Some(token) => token.sequence <= 1 && token.site == self.here,
            TokenSeen::Newer | TokenSeen::Unreadable => false,
        }
    }

    /// The step that writes down where the image belongs, where that is known and not written for this image yet.
    pub(super) fn step(&self, observation: &Observation, copy: &Copy) -> Option<Step> {
        let is_new = matches!(copy.token, TokenSeen::None | TokenSeen::OfAnother(_));
        let site = match &copy.home {
            Home::Unset if self.of(copy, observation.made_here) == Belongs::Here => self.here,
            // a clone that was made here and has taken its original's along
            Home::OfAnother if observation.made_here && is_new => self.here,
            Home::At { site, is_former: true } => site,
            Home::Unset | Home::At { .. } | Home::OfAnother | Home::Unread => return None,
        };
        Some(Step::WriteHome { image: observation.image.clone(), site: site.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_counts_for_the_image_that_it_names() {
        let images = [Named::Global("0b1c-own"), Named::Local("10226b8b4567")];
        let read = |text: &str| Home::read(Some(text), &images, &[]);
        let at = |is_former| Home::At { site: "site-b".into(), is_former };
        assert_eq!(Home::read(None, &images, &[]), Home::Unset);
        assert_eq!(read(&home_written("site-b", images[0])), at(false));
        assert_eq!(read(&home_written("site-b", images[1])), at(true));
        assert_eq!(read("site-b:77aa-other"), Home::OfAnother);
        assert_eq!(read("site-b:id=11"), Home::OfAnother);
        for text in ["", "site-b", "site-b:", ":0b1c-own", "site-b:0b1c-own:more", "site b:0b1c-own"] {
            assert_eq!(read(text), Home::Unread, "{text}");
        }
    }

    #[test]
    fn a_disk_that_was_reverted_belongs_where_what_it_left_behind_belonged() {
        let own = [Named::Global("2222-new"), Named::Local("11bb")];
        let left = [Named::Global("1111-left"), Named::Local("11aa")];
        let read = |text: &str| Home::read(Some(text), &own, &left);
        let at = |is_former| Home::At { site: "site-b".into(), is_former };
        for image in left {
            assert_eq!(read(&home_written("site-b", image)), at(true));
        }
        // what was decided since counts
        assert_eq!(read(&home_written("site-b", own[0])), at(false));
        // what it left behind was itself another's clone, or its home is not known
        assert_eq!(read("site-b:77aa-other"), Home::OfAnother);
        assert_eq!(read("site-b:1111-left:more"), Home::Unread);
        assert_eq!(Home::read(None, &own, &left), Home::Unset);
    }
}
