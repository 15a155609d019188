//! onemirror makes disaster-recovery failback part of the OpenNebula VM life cycle.
//!
//! `onevm terminate` on the recovery site and `onevm resume` at home hand the mirrored RBD images of a
//! VM over, without a lost write. [`onemirror_protocol`] decides, without any I/O; [`ceph`] and [`opennebula`] talk to
//! the two systems; [`sites`] are a front-end and a cluster each, looked at, locked and changed; [`operations`] are what is
//! done with them; [`commands`] is what an operator types and what OpenNebula calls.

pub mod actions;
pub mod audit;
pub mod ceph;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod events;
pub mod opennebula;
pub mod operations;
mod process;
pub mod protection;
pub mod setup;
pub mod sites;
pub mod state;
mod storage;
pub mod text;
