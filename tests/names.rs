//! One name, one type: whoever reads a name anywhere in the tree knows which type it is.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        // what bindgen made has Ceph's own names
        } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("bindings.rs") {
            found.push(path);
        }
    }
}

/// The type that a line defines. What a trait asks for has the trait's name for it.
fn defined(line: &str) -> Option<&str> {
    let bare = line.trim_start();
    let bare =
        ["pub(crate) ", "pub(super) ", "pub "].iter().find_map(|it| bare.strip_prefix(it)).unwrap_or(bare);
    let (kind, rest) = bare.split_once(' ')?;
    let is_type =
        matches!(kind, "struct" | "enum" | "trait" | "union") || kind == "type" && !line.starts_with(' ');
    is_type.then(|| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default())
}

#[test]
fn no_two_types_of_the_product_have_one_name() {
    let mut files = Vec::new();
    for folder in ["src", "protocol/src", "rbd/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    }
    let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        for name in fs::read_to_string(&file).unwrap().lines().filter_map(defined) {
            places.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    assert!(places.len() > 200, "types are looked for where they are not");
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}
