//! The removal: OpenNebula wants an image deleted; may the stock driver delete the copy here?

use crate::home::{Belongs, Residence};
use crate::image::ImageSpec;
use crate::sight::{Copy, Here, Role, There, TokenSeen};
use alloc::format;
use alloc::string::String;

/// All that a removal needs to know beside what is seen here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal<'a> {
    /// This site, as far as homes go.
    pub residence: Residence<'a>,
    /// It is the clone or volatile disk of a VM of this site.
    pub made_here: bool,
    /// Another image of this front-end under which the same one is registered.
    pub registered: Option<i32>,
}

/// Why an image is kept, though OpenNebula wants it deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// There is none here: it is being copied again, or it is gone.
    Absent,
    /// It is registered here as this image.
    Registered(i32),
    /// The copy here is not primary; of the other one nothing is known.
    NotPrimary,
    /// The copy here follows the other one.
    PrimaryThere,
    /// Neither copy is primary.
    PrimaryNowhere,
    /// The same, and its demotion or promotion was interrupted.
    HalfDemoted,
    /// Its token cannot be read, so nothing is known.
    Unreadable,
    /// It was given up, or is to be, and the other site does not have it yet.
    Pending,
    /// It belongs to the other site.
    Elsewhere,
    /// Where it belongs is not known.
    Homeless,
}

impl Kept {
    fn cause(self, there: &str) -> String {
        match self {
            Self::Absent => "there is no such image here now".into(),
            Self::Registered(id) => format!("it is registered here as image {id}"),
            Self::NotPrimary => "it is not primary here".into(),
            Self::PrimaryThere => format!("it is a copy of that of {there}"),
            Self::PrimaryNowhere => "it is primary on neither site".into(),
            Self::HalfDemoted => "it is half demoted here".into(),
            Self::Unreadable => "its handoff token cannot be read".into(),
            Self::Pending => format!("its handoff to {there} is pending"),
            Self::Elsewhere => format!("it belongs to {there}"),
            Self::Homeless => "where it belongs is not known".into(),
        }
    }
}

impl Removal<'_> {
    /// Why the copy here has to stay; `None`: the stock driver may delete it.
    pub fn judge(&self, here: &Here) -> Option<Kept> {
        match here {
            Here::Absent => Some(Kept::Absent),
            Here::NotMirrored => None,
            Here::Mirrored(copy) => self.judge_copy(copy),
        }
    }

    fn judge_copy(&self, here: &Copy) -> Option<Kept> {
        let token = here.token.token();
        let is_released = |mark: &crate::token::Mark| token.is_some_and(|token| mark.holds_in(token));
        match here.role {
            _ if self.registered.is_some() => self.registered.map(Kept::Registered),
            Role::NonPrimary => Some(Kept::NotPrimary),
            Role::HalfDemoted => Some(Kept::HalfDemoted),
            Role::Primary if matches!(here.token, TokenSeen::Unreadable | TokenSeen::Newer) => {
                Some(Kept::Unreadable)
            }
            Role::Primary
                if token.is_some_and(|token| token.is_closed() && token.site == self.residence.here) =>
            {
                Some(Kept::Pending)
            }
            Role::Primary if here.release.as_ref().is_some_and(is_released) => Some(Kept::Pending),
            Role::Primary => match self.residence.of(here, self.made_here) {
                Belongs::Here => None,
                Belongs::There => Some(Kept::Elsewhere),
                Belongs::Unknown => Some(Kept::Homeless),
            },
        }
    }

    /// The same once the other copy was looked at.
    pub fn beside(&self, kept: Kept, there: &There) -> Kept {
        match there {
            There::Mirrored(there) if kept == Kept::NotPrimary => match there.role {
                Role::Primary | Role::HalfDemoted => Kept::PrimaryThere,
                Role::NonPrimary => Kept::PrimaryNowhere,
            },
            _ => kept,
        }
    }

    /// The same in words.
    pub fn explain(&self, image: &ImageSpec, kept: Kept) -> String {
        format!("{image} is kept, not deleted: {}", kept.cause(self.residence.there))
    }

    /// What has it deleted for good all the same, once its registration is gone; `None`: nothing that could be typed now.
    pub fn way_out(&self, image: &ImageSpec, here: &Here, kept: Kept) -> Option<String> {
        let delete = format!("onemirror rehome --image {image} && rbd rm {image}");
        let belongs = match here {
            Here::Mirrored(copy) => self.residence.of(copy, self.made_here),
            Here::Absent | Here::NotMirrored => return None,
        };
        match kept {
            Kept::Elsewhere | Kept::Homeless => Some(delete),
            Kept::PrimaryNowhere if belongs == Belongs::There => {
                Some(format!("on {}: {delete}", self.residence.there))
            }
            Kept::PrimaryNowhere => Some(delete),
            Kept::Registered(id) => Some(format!("oneimage delete {id}")),
            Kept::Absent
            | Kept::NotPrimary
            | Kept::PrimaryThere
            | Kept::HalfDemoted
            | Kept::Unreadable
            | Kept::Pending => None,
        }
    }
}
