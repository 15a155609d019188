//! OpenNebula's XML-RPC API and its documents, as far as onemirror needs them.
//!
//! [`Client`] makes the calls; [`Vm`], [`Image`], [`Datastore`], [`Host`] and [`Hook`] are the documents;
//! [`disks`] finds the RBD images of a VM.

mod calls;
pub mod client;
pub mod disks;
pub mod document;
pub mod endpoint;
pub mod states;
pub mod stock;
mod xml;
pub mod xmlrpc;

pub use calls::OpenNebula;
pub use client::{Client, ClientOptions, OneError, Recover, VmAction};
pub use disks::{DiskError, DiskImage, DiskKind, NamedBy, StorageCredentials};
pub use document::{
    Datastore, DatastoreKind, Disk, DocumentError, DriverAction, Hook, HookRun, Host, Image, User, Vm, Zone,
};
pub use endpoint::{EndpointError, Session, discover_auth_file, discover_endpoint, read_session};
pub use states::{DatastoreState, HostState, LcmState, VmState};
