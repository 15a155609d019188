//! The handoff token and the marks beside it: what travels with an image, in order with its writes.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// The image metadata key of the [`Token`].
pub const TOKEN_KEY: &str = "onemirror.handoff";
/// The image metadata key of the [`Mark`] that a release was asked for.
pub const RELEASE_KEY: &str = "onemirror.release";
/// The image metadata key of the [`Mark`] of the token under which the VM was booted.
pub const BOOTED_KEY: &str = "onemirror.booted";
/// The image metadata key under which a forced promotion leaves its [`Mark`] and, after a space, who did it and why.
pub const FORCED_KEY: &str = "onemirror.forced";

/// How far a forced promotion moves the sequence on, so that it outranks any handoff that never arrived here.
pub(super) const FORCED_STRIDE: u64 = 1000;

/// `<sequence>:<site>:<open or random id>`: who holds an image, or gave it up. In the metadata the global id of
/// the image follows.
///
/// An *open* token is written by the site that promotes the image, or boots a VM on it; it proves nothing but that
/// the copy which shows it has followed since. A *closed* one is written by the site that gives the image up,
/// after its last write: a copy that shows it has every write. The time of an open token is a *term*: one site holds the
/// image in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Orders the history: one more than the number found, much more by a forced promotion.
    pub sequence: u64,
    /// The site that wrote it.
    pub site: String,
    /// Open, or closed with an id.
    pub seal: Seal,
}

/// Whether a token is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Seal {
    /// The site holds the image.
    Open,
    /// The site gave the image up; the id tells two handoffs apart that were made after a split.
    Closed(String),
}

impl Token {
    /// The open token of `site` after `previous`.
    pub fn open_after(previous: Option<&Token>, site: &str) -> Self {
        Self { sequence: next(previous), site: site.into(), seal: Seal::Open }
    }

    /// The closed token: `site` gives the image up.
    pub fn close_after(previous: Option<&Token>, site: &str, id: &str) -> Self {
        Self { sequence: next(previous), site: site.into(), seal: Seal::Closed(id.into()) }
    }

    /// The token of a promotion that an operator forced: it outranks what `previous` could have become unseen.
    pub fn forced_after(previous: Option<&Token>, site: &str) -> Self {
        let sequence = previous.map_or(0, |token| token.sequence).saturating_add(FORCED_STRIDE);
        Self { sequence, site: site.into(), seal: Seal::Open }
    }

    /// Whether it is the open token of `site`.
    pub fn is_open_by(&self, site: &str) -> bool {
        self.seal == Seal::Open && self.site == site
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.seal, Seal::Closed(_))
    }
}

fn next(previous: Option<&Token>) -> u64 {
    previous.map_or(0, |token| token.sequence).saturating_add(1)
}

/// The text is not what onemirror writes; nothing may be concluded from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a handoff token")]
pub struct Unreadable {
    /// The text found, cut.
    pub text: String,
}

pub(super) fn unreadable(text: &str) -> Unreadable {
    Unreadable { text: text.chars().take(80).collect() }
}

pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_ascii_graphic() && c != ':')
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seal = match &self.seal {
            Seal::Open => "open",
            Seal::Closed(id) => id,
        };
        write!(f, "{}:{}:{seal}", self.sequence, self.site)
    }
}

impl FromStr for Token {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let parts: Vec<&str> = text.split(':').collect();
        let [sequence, site, seal] = parts[..] else { return Err(unreadable(text)) };
        let number: u64 = sequence.parse().map_err(|_| unreadable(text))?;
        if number.to_string() != sequence || !is_word(site) || !is_word(seal) {
            return Err(unreadable(text));
        }
        let seal = if seal == "open" { Seal::Open } else { Seal::Closed(seal.into()) };
        Ok(Self { sequence: number, site: site.into(), seal })
    }
}

/// `<sequence>:<site>:<VM id>`: something that holds for one token only, the open one with the same
/// sequence and site. It needs no removal: the next token makes it void. Of VMs that share a disk the mark of their boots
/// names several, `<VM id>+<VM id>`, the last one first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The open token's sequence.
    pub sequence: u64,
    /// The open token's site.
    pub site: String,
    /// The VM, by its id on that site.
    pub vm: i32,
    /// Other VMs of that site, of a disk that they share.
    pub others: BTreeSet<i32>,
}

/// More VMs than that are not named: one that is left out has to be booted cold.
const MOST_SHARERS: usize = 64;

impl Mark {
    /// The mark of `vm` under `token`.
    pub fn of(token: &Token, vm: i32) -> Self {
        Self { sequence: token.sequence, site: token.site.clone(), vm, others: BTreeSet::new() }
    }

    /// Whether the mark is of this VM, too.
    pub fn names(&self, vm: i32) -> bool {
        self.vm == vm || self.others.contains(&vm)
    }

    /// The same mark, of this VM as well.
    pub fn joined_by(&self, vm: i32) -> Self {
        if self.names(vm) {
            return self.clone();
        }
        let mut others = self.others.clone();
        others.insert(self.vm);
        while others.len() > MOST_SHARERS {
            others.pop_first();
        }
        Self { vm, others, ..self.clone() }
    }

    /// Whether the mark speaks of `token`.
    pub fn holds_in(&self, token: &Token) -> bool {
        token.seal == Seal::Open && self.sequence == token.sequence && self.site == token.site
    }
}

/// What stands behind the mark of a forced promotion where the operator said that the other site is off.
pub const SITE_IS_OFF: &str = "site-is-off";

/// Whether who forced said that the other site is off.
pub fn forced_with_site_off(text: &str) -> bool {
    text.split(' ').nth(1) == Some(SITE_IS_OFF)
}

/// The id of a VM.
fn number(text: &str) -> Option<i32> {
    let number: u32 = text.parse().ok()?;
    i32::try_from(number).ok().filter(|number| number.to_string() == text)
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.sequence, self.site, self.vm)?;
        self.others.iter().try_for_each(|other| write!(f, "+{other}"))
    }
}

impl FromStr for Mark {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let token: Token = text.parse()?;
        let Seal::Closed(vms) = &token.seal else { return Err(unreadable(text)) };
        let mut numbers = vms.split('+').map(|vm| number(vm).ok_or_else(|| unreadable(text)));
        let vm = numbers.next().unwrap_or_else(|| Err(unreadable(text)))?;
        let others = numbers.collect::<Result<_, _>>()?;
        let mark = Self { sequence: token.sequence, site: token.site, vm, others };
        if mark.to_string() == text { Ok(mark) } else { Err(unreadable(text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequences_grow_and_force_outranks() {
        let first = Token::open_after(None, "site-a");
        assert_eq!(first.to_string(), "1:site-a:open");
        let closed = Token::close_after(Some(&first), "site-a", "c0ffee");
        assert_eq!(closed.to_string(), "2:site-a:c0ffee");
        assert!(
            Token::forced_after(Some(&first), "site-b").sequence
                > Token::open_after(Some(&closed), "site-a").sequence
        );
    }

    #[test]
    fn a_mark_holds_in_its_term_only() {
        let open = Token::open_after(None, "site-b");
        let mark = Mark::of(&open, 7);
        assert!(mark.holds_in(&open));
        assert!(!mark.holds_in(&Token::open_after(Some(&open), "site-b")));
        assert!(!mark.holds_in(&Token { site: "site-a".into(), ..open.clone() }));
        assert!(!mark.holds_in(&Token { seal: Seal::Closed("x".into()), ..open }));
    }

    #[test]
    fn vms_that_share_a_disk_are_all_named() {
        let open = Token::open_after(None, "site-b");
        let mark = Mark::of(&open, 7).joined_by(9).joined_by(7).joined_by(3);
        assert_eq!(mark.to_string(), "1:site-b:3+7+9");
        assert_eq!(mark.to_string().parse::<Mark>().unwrap(), mark);
        assert!([3, 7, 9].into_iter().all(|vm| mark.names(vm)) && !mark.names(1));
        let many = (0..1000).fold(mark, |mark, vm| mark.joined_by(vm));
        assert!(many.names(999) && many.others.len() == MOST_SHARERS && many.to_string().len() < 500);
    }

    #[test]
    fn refuses_what_it_did_not_write() {
        for text in [
            "",
            "open",
            "1:a",
            "1:a:b:c",
            "-1:a:open",
            "01:a:open",
            "1::open",
            "1:a:",
            "1:a b:open",
            "1:a:\u{1b}x",
            "18446744073709551616:a:open",
        ] {
            assert!(text.parse::<Token>().is_err(), "{text:?}");
        }
        for text in
            ["1:a:open", "1:a:-7", "1:a:+7", "1:a:07", "1:a:2147483648", "1:a:3+", "1:a:3+3+2", "1:a:3+x"]
        {
            assert!(text.parse::<Mark>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn tokens_survive_the_round_trip(sequence: u64, site in "[a-z][a-z0-9._-]{0,20}", id in "[0-9a-f]{8}", open: bool) {
            let token = Token { sequence, site, seal: if open { Seal::Open } else { Seal::Closed(id) } };
            prop_assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        }

        #[test]
        fn what_parses_prints_the_same(text in "\\PC{0,30}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
