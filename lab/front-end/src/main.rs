//! Stand-in OpenNebula front-end.
fn main() {}
