//! The `onemirror` command.
fn main() {}
