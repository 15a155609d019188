//! OpenNebula's XML-RPC API and its documents, as far as onemirror needs them.
//!
//! [`Client`] makes the calls; [`Vm`], [`Image`], [`Datastore`], [`Host`] and [`Hook`] are the documents;
//! [`disks`] finds the RBD images of a VM.

pub mod client;
pub mod disks;
pub mod document;
pub mod endpoint;
pub mod states;
mod xmlrpc;

pub use client::{Client, ClientOptions, OneError};
pub use disks::{DiskImage, DiskKind, DiskError, NamedBy, StorageCredentials};
pub use document::{Datastore, DatastoreState, Disk, Hook, Host, Image, Vm};
pub use endpoint::{discover_auth_file, discover_endpoint, read_session};
pub use states::{LcmState, VmState};
