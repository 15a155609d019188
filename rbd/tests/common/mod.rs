//! The library that stands for Ceph's, and the process that calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn build_library(folder: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake.c");
    let made = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-g", "-o"])
        .args([&folder.join("librbd.so.1"), &source])
        .status();
    assert!(made.unwrap().success(), "apt install gcc librados-dev librbd-dev");
}

/// target/debug/deps/memory-… is a test, target/debug/examples/librbd the process.
pub(crate) fn program() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/librbd")
}
