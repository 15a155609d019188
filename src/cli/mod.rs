//! (skeleton)

pub mod table;
