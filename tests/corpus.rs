//! Every file of every fuzz corpus, through the check of its target.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "fuzz/src/lib.rs"]
mod checks;

use std::path::Path;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(&path).unwrap())
        })
        .collect()
}

#[test]
fn every_corpus_holds_what_its_target_asserts() {
    for (target, check) in checks::TARGETS {
        let inputs = corpus(target);
        assert!(inputs.len() >= 5, "{target}: {} inputs", inputs.len());
        for (name, input) in inputs {
            if let Err(finding) = std::panic::catch_unwind(|| check(&input)) {
                eprintln!("{target}: {name}");
                std::panic::resume_unwind(finding);
            }
        }
    }
}
