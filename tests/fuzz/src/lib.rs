//! What must hold of any input, one module per fuzz target. Each has a function `check` that panics where it does not
//! hold: libFuzzer calls it with what it makes up, `tests/corpus.rs` with every file of `tests/fuzz/corpus` and
//! of `tests/fixtures`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a finding")]

pub mod ceph_answers;
pub mod configuration;
pub mod documents;
pub mod hook_stdin;
pub mod names;
pub mod tm_arguments;
pub mod xmlrpc_answers;

use onemirror::text;
use onemirror_protocol::ImageSpec;

/// A target's name and its check.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; the names are those of their corpora.
pub const TARGETS: &[Target] = &[
    ("ceph_answers", ceph_answers::check),
    ("configuration", configuration::check),
    ("documents", documents::check),
    ("hook_stdin", hook_stdin::check),
    ("names", names::check),
    ("tm_arguments", tm_arguments::check),
    ("xmlrpc_answers", xmlrpc_answers::check),
];

/// What is printed as one line: nothing in it is obeyed by a terminal or a log.
fn assert_shown(shown: &str) {
    assert!(!shown.contains(text::is_obeyed), "not fit for a terminal: {shown:?}");
}

/// What an operator or oned gets to see of an error, and that it is short.
fn assert_error(error: &dyn std::fmt::Display) {
    let shown = onemirror::sites::first_sentence(&error.to_string());
    assert_shown(&shown);
    assert!(!shown.starts_with('-'), "{shown:?}");
    assert!(shown.len() < 8_000, "{} bytes of error", shown.len());
}

/// An image that `rbd` is asked about: each part is one word that can be neither an option nor a snapshot, another pool
/// or a shell's business.
fn assert_image(image: &ImageSpec) {
    for part in [Some(image.pool()), image.namespace(), Some(image.image())].into_iter().flatten() {
        assert!(!part.is_empty() && part.len() <= 255 && !part.starts_with('-'), "{part:?}");
        assert!(part != "." && part != "..", "{part:?}");
        let misread = |c: char| !c.is_ascii_graphic() || "/@'\"\\`$".contains(c);
        assert!(!part.contains(misread), "{part:?}");
    }
    assert_eq!(image.to_string().parse::<ImageSpec>().as_ref(), Ok(image));
}
