//! Who may use whom: arrows point down only.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// From the top. A room may use those below it; two in one row do not know each other.
const ROWS: &[&[&str]] = &[
    &["commands"],
    &["doctor", "setup"],
    &["operations"],
    &["sites"],
    &["audit", "protection", "storage"],
    &["config", "events", "actions"],
    &["ceph", "opennebula"],
    &["process", "state"],
    &["text"],
];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        found.push(path.to_owned());
    }
}

fn room_of(file: &Path, src: &Path) -> String {
    let first = file.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The rooms that a line names.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
}

#[test]
fn arrows_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let row = |room: &str| ROWS.iter().position(|row| row.contains(&room));
    let (mut arrows, mut wrong) = (0, Vec::new());
    for file in files {
        let room = room_of(&file, &src);
        if room == "main" || room == "lib" {
            continue;
        }
        let own = row(&room).unwrap_or_else(|| panic!("{room} has no place in the house"));
        for line in fs::read_to_string(&file).unwrap().lines() {
            for other in named(line).filter(|other| *other != room) {
                arrows += 1;
                if row(other).is_none_or(|other| other <= own) {
                    wrong.push(format!("{}: {}", file.display(), line.trim()));
                }
            }
        }
    }
    assert!(arrows > 100, "arrows are looked for where they are not");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
