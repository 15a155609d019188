//! The name of an RBD image.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// An RBD image: `pool[/namespace]/image`.
///
/// Parsing refuses what no pool, namespace or image of OpenNebula is called and what `rbd` would read as
/// something else: empty parts, a leading `-`, `@` (a snapshot), control characters and white space.
/// Both sites use the same name for the two copies of an image, so one `ImageSpec` names both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageSpec {
    pool: String,
    namespace: Option<String>,
    image: String,
}

/// Why a text is not an image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an RBD image name (pool[/namespace]/image)")]
pub struct InvalidImageSpec {
    text: String,
}

fn is_valid_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 255
        && !part.starts_with('-')
        && part != "."
        && part != ".."
        && part
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '@' | '/' | '\'' | '"' | '\\' | '`' | '$'))
}

impl ImageSpec {
    /// Puts a name together from its parts, with the checks of parsing.
    pub fn new(pool: &str, namespace: Option<&str>, image: &str) -> Result<Self, InvalidImageSpec> {
        let valid = is_valid_part(pool) && namespace.is_none_or(is_valid_part) && is_valid_part(image);
        if !valid {
            let text =
                [Some(pool), namespace, Some(image)].into_iter().flatten().collect::<Vec<_>>().join("/");
            return Err(InvalidImageSpec { text: text.chars().take(300).collect() });
        }
        Ok(Self { pool: pool.into(), namespace: namespace.map(Into::into), image: image.into() })
    }

    /// The pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The namespace within the pool, if it is not the default one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The image's own name.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The pool and namespace, as `rbd mirror pool …` takes them: `pool[/namespace]`.
    pub fn pool_spec(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}", self.pool),
            None => self.pool.clone(),
        }
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool_spec(), self.image)
    }
}

impl FromStr for ImageSpec {
    type Err = InvalidImageSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [pool, image] => Self::new(pool, None, image),
            [pool, namespace, image] => Self::new(pool, Some(namespace), image),
            _ => Err(InvalidImageSpec { text: text.chars().take(300).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use proptest::prelude::*;

    #[test]
    fn reads_names_of_opennebula() {
        let spec: ImageSpec = "one/one-0-2-0".parse().unwrap();
        assert_eq!((spec.pool(), spec.namespace(), spec.image()), ("one", None, "one-0-2-0"));
        let spec: ImageSpec = "one/tenant/one-7".parse().unwrap();
        assert_eq!(
            (spec.pool_spec().as_str(), spec.to_string().as_str()),
            ("one/tenant", "one/tenant/one-7")
        );
    }

    #[test]
    fn refuses_what_rbd_or_a_shell_would_misread() {
        for text in [
            "",
            "one",
            "one/",
            "/x",
            "one/-x",
            "--id/x",
            "one/a@snap",
            "one/a b",
            "one/$(id)",
            "one/..",
            "a/b/c/d",
            "one/a\n",
            "one/'x",
            "one/\u{1b}[2J",
        ] {
            assert!(text.parse::<ImageSpec>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "\\PC{0,40}") {
            if let Ok(spec) = text.parse::<ImageSpec>() {
                prop_assert_eq!(spec.to_string(), text);
            }
        }
    }
}
