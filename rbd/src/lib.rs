//! What onemirror asks of Ceph's own libraries.
//!
//! `librbd.so.1` is opened at run time. Its calls can neither be given a deadline nor be taken back, so they are made in a
//! process of their own, which [`serve`] is all of: whoever started it kills it when an answer does not come in time, and
//! nothing more is sent. What had been sent to the cluster may still take effect there. Questions of several processes may
//! share one, which [`share`] is; and one that [`lend`] is makes the changes of one after another.

#[allow(
    missing_docs,
    non_camel_case_types,
    dead_code,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::too_many_lines,
    reason = "made by bindgen"
)]
mod bindings;
mod calls;
mod cluster;
pub mod errno;
mod glance;
mod image;
mod serve;
mod share;

pub use calls::{
    Call, ConnectOptions, Failure, ImageTold, LibraryAnswer, LibraryRequest, LibraryResponse, LockedBy,
    MirroringTold, ParentTold, PoolPlace, SiteStatus, Snapshot, Stage, StatusTold,
};
pub use serve::{THREADS, serve};
pub use share::{close_inherited, lend, share};
