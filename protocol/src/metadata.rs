//! What stands in an image's metadata, and whether it was written for this image.
//!
//! `rbd clone` and `rbd cp` copy all metadata. So whatever is written ends with the global id of its image, and what
//! names another image counts as if it were not there.

use super::sight::TokenSeen;
use super::token::{
    BOOTED_KEY, FORCED_KEY, Mark, RELEASE_KEY, TOKEN_KEY, Token, Unreadable, forced_with_site_off, is_word,
    unreadable,
};
use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;
use core::str::FromStr;

/// A token or mark as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written<T> {
    /// By an earlier release, which did not name the image.
    Unbound(T),
    /// For the image with this global id.
    For(T, String),
    /// By a later release: it says more than this one knows.
    Newer,
}

impl<T: FromStr<Err = Unreadable>> FromStr for Written<T> {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [_, _, _] => Ok(Self::Unbound(text.parse()?)),
            [sequence, site, word, image] if is_word(image) => {
                Ok(Self::For(format!("{sequence}:{site}:{word}").parse()?, image.to_owned()))
            }
            [sequence, site, word, _, _, ..] => {
                format!("{sequence}:{site}:{word}").parse::<T>()?;
                Ok(Self::Newer)
            }
            _ => Err(unreadable(text)),
        }
    }
}

/// A token or mark as it is written for the image with this global id.
pub fn written_for(value: &impl Display, image: &str) -> String {
    format!("{value}:{image}")
}

/// The mark at the beginning of what a forced promotion wrote.
pub fn forced_mark(text: &str) -> Option<Written<Mark>> {
    text.split(' ').next()?.parse().ok()
}

/// What a copy's metadata says of handoffs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The handoff token.
    pub token: TokenSeen,
    /// The token or the mark of the boot counts, and does not name this image: an earlier release named none, and an
    /// image that was mirrored anew has what names the one it was before.
    pub is_unbound: bool,
    /// The token under which the VM was last booted cold.
    pub booted: Option<Mark>,
    /// A release that was asked for.
    pub release: Option<Mark>,
    /// The token that an operator opened by force.
    pub forced: Option<Mark>,
    /// Who forced it said that the other site is off.
    pub other_site_is_off: bool,
}

impl Marks {
    /// Reads a copy's metadata. What was written for one of `images` counts: the copy's own global id first, and that of
    /// the image it is compared with. After an image was mirrored anew the two differ, until that one is gone.
    pub fn read(metadata: &BTreeMap<String, String>, images: &[&str]) -> Self {
        let is_newer = |key: &str| {
            let text = metadata.get(key).and_then(|text| text.split(' ').next());
            matches!(text.map(str::parse::<Written<Mark>>), Some(Ok(Written::Newer)))
        };
        let mark = |key: &str| {
            let text = metadata.get(key)?.split(' ').next()?;
            match text.parse().ok()? {
                Written::Unbound(mark) => Some(mark),
                Written::For(mark, image) => images.contains(&image.as_str()).then_some(mark),
                Written::Newer => None,
            }
        };
        let written = metadata.get(TOKEN_KEY).map(|text| text.parse::<Written<Token>>());
        let token = match &written {
            _ if [BOOTED_KEY, RELEASE_KEY, FORCED_KEY].into_iter().any(is_newer) => TokenSeen::Newer,
            None => TokenSeen::None,
            Some(Err(_)) => TokenSeen::Unreadable,
            Some(Ok(Written::Newer)) => TokenSeen::Newer,
            Some(Ok(Written::Unbound(token))) => TokenSeen::Some(token.clone()),
            Some(Ok(Written::For(token, image))) if images.contains(&image.as_str()) => {
                TokenSeen::Some(token.clone())
            }
            Some(Ok(Written::For(token, _))) => TokenSeen::OfAnother(token.clone()),
        };
        let names_own = |key: &str| {
            let image = metadata.get(key).and_then(|text| text.rsplit_once(':'));
            image.is_some_and(|(_, image)| images.first() == Some(&image))
        };
        let booted = mark(BOOTED_KEY);
        Self {
            is_unbound: token.token().is_some() && !names_own(TOKEN_KEY)
                || booted.is_some() && !names_own(BOOTED_KEY),
            token,
            booted,
            release: mark(RELEASE_KEY),
            forced: mark(FORCED_KEY),
            other_site_is_off: metadata.get(FORCED_KEY).is_some_and(|text| forced_with_site_off(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: &str = "0b1c7a52-own";
    const OTHER: &str = "77aa-other";

    fn read(pairs: &[(&str, &str)], images: &[&str]) -> Marks {
        let metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Marks::read(&metadata, images)
    }

    fn token(text: &str) -> TokenSeen {
        TokenSeen::Some(text.parse().unwrap())
    }

    #[test]
    fn what_names_this_image_or_the_one_it_is_compared_with_counts() {
        let marks = [
            (TOKEN_KEY, "1005:site-b:open:0b1c7a52-own"),
            (BOOTED_KEY, "1005:site-b:7:0b1c7a52-own"),
            (RELEASE_KEY, "1005:site-b:8:0b1c7a52-own"),
            (FORCED_KEY, "1005:site-b:9:0b1c7a52-own 2026-11-26T10:00:00Z root: site-a burnt"),
        ];
        for images in [&[OWN][..], &[OTHER, OWN]] {
            let read = read(&marks, images);
            assert_eq!(read.token, token("1005:site-b:open"));
            assert_eq!(read.is_unbound, images != [OWN]);
            let vms = [read.booted, read.release, read.forced].map(|mark| mark.map(|mark| mark.vm));
            assert_eq!(vms, [Some(7), Some(8), Some(9)]);
        }
        let read = read(&marks, &[OTHER]);
        assert_eq!(read.token, TokenSeen::OfAnother("1005:site-b:open".parse().unwrap()));
        assert_eq!((read.token.token(), read.token.sequence()), (None, 0));
        assert_eq!([read.booted, read.release, read.forced], [None, None, None]);
    }

    /// Once the image that it is compared with is gone, what names that one counts no more.
    #[test]
    fn what_counts_and_does_not_name_this_image_is_unbound() {
        let unbound = |token: &str, booted: &str| {
            read(&[(TOKEN_KEY, token), (BOOTED_KEY, booted)], &[OWN, OTHER]).is_unbound
        };
        let named = |text: &str, image: &str| format!("{text}:{image}");
        for (of_token, of_booted, expected) in [
            (OWN, OWN, false),
            (OTHER, OTHER, true),
            (OTHER, OWN, true),
            (OWN, OTHER, true),
            (OWN, "gone", false),
        ] {
            let is = unbound(&named("5:site-a:open", of_token), &named("5:site-a:7", of_booted));
            assert_eq!(is, expected, "{of_token} {of_booted}");
        }
        assert!(unbound("5:site-a:open", "5:site-a:7"));
        assert!(!unbound("5:site-a:open:gone", "5:site-a:7:gone"));
    }

    #[test]
    fn what_an_earlier_release_wrote_counts_as_it_did() {
        let read = read(&[(TOKEN_KEY, "5:site-a:open"), (BOOTED_KEY, "5:site-a:7")], &[OWN]);
        assert_eq!((read.token, read.is_unbound), (token("5:site-a:open"), true));
        assert_eq!(read.booted.map(|mark| mark.vm), Some(7));
    }

    #[test]
    fn what_a_later_release_wrote_is_told_from_what_nobody_wrote() {
        let seen = |key, text| read(&[(TOKEN_KEY, "5:site-a:open:0b1c7a52-own"), (key, text)], &[OWN]).token;
        assert_eq!(seen(TOKEN_KEY, "5:site-a:open:0b1c7a52-own:more"), TokenSeen::Newer);
        assert_eq!(seen(TOKEN_KEY, "five:site-a:open:0b1c7a52-own:more"), TokenSeen::Unreadable);
        assert_eq!(seen(TOKEN_KEY, "5:site-a:open:"), TokenSeen::Unreadable);
        assert_eq!(seen(TOKEN_KEY, "whatever"), TokenSeen::Unreadable);
        // a mark that is not understood leaves nothing to rely on
        assert_eq!(seen(RELEASE_KEY, "5:site-a:7:0b1c7a52-own:more"), TokenSeen::Newer);
        assert_eq!(seen(FORCED_KEY, "5:site-a:7:0b1c7a52-own:more and why"), TokenSeen::Newer);
        assert_eq!(seen(RELEASE_KEY, "whatever"), token("5:site-a:open"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(sequence: u64, vm in 0..i32::MAX, image in "[0-9a-f-]{1,36}") {
            let mark = Mark { sequence, site: "site-a".into(), vm, others: Default::default() };
            let text = written_for(&mark, &image);
            prop_assert_eq!(text.parse::<Written<Mark>>().unwrap(), Written::For(mark, image));
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,60}") {
            if let Ok(Written::For(token, image)) = text.parse::<Written<Token>>() {
                prop_assert_eq!(written_for(&token, &image), text);
            }
        }
    }
}
