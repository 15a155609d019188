//! Every file of every fuzz corpus, through the check of its target; and every capture of a real system, through all of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[allow(unreachable_pub, reason = "it is a crate of its own for libFuzzer")]
#[path = "fuzz/src/lib.rs"]
mod checks;

use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn whatever_is_in_a_corpus_or_was_captured_holds_what_the_targets_assert() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let captured = files(&tests.join("fixtures"));
    assert!(captured.len() >= 200, "{} captures", captured.len());
    for (target, check) in checks::TARGETS {
        let own = files(&tests.join("fuzz/corpus").join(target));
        assert!(own.len() >= 5, "{target}: {} inputs", own.len());
        for path in own.iter().chain(&captured) {
            let input = std::fs::read(path).unwrap();
            if let Err(finding) = std::panic::catch_unwind(|| check(&input)) {
                eprintln!("{target}: {}", path.display());
                std::panic::resume_unwind(finding);
            }
        }
    }
}
