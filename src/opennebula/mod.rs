//! OpenNebula's XML-RPC API and its documents, as far as onemirror needs them.
//!
//! [`Client`] makes the calls; [`Vm`], [`Image`], [`Datastore`], [`Host`] and [`Hook`] are the documents;
//! [`disks`] finds the RBD images of a VM.

pub mod client;
pub mod disks;
pub mod document;
pub mod endpoint;
pub mod states;
pub mod stock;
mod xml;
pub mod xmlrpc;

pub use client::{Client, ClientOptions, OneError, Recover, VmAction};
pub use disks::{DiskError, DiskImage, DiskKind, NamedBy, StorageCredentials};
pub use document::{
    Datastore, DatastoreKind, Disk, DocumentError, DriverAction, Hook, HookRun, Host, Image, User, Vm, Zone,
};
pub use endpoint::{EndpointError, Session, discover_auth_file, discover_endpoint, read_session};
pub use states::{DatastoreState, HostState, LcmState, VmState};

/// oned's own words, made safe to print: control characters become spaces, and the text is cut to about 300
/// characters.
fn clean(text: &str) -> String {
    const LIMIT: usize = 300;
    let spaced: String = text
        .chars()
        .map(|c| if crate::text::is_obeyed(c) || is_invisible(c) { ' ' } else { c })
        .take(4 * LIMIT)
        .collect();
    let words = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= LIMIT {
        return words;
    }
    words.chars().take(LIMIT).chain(std::iter::once('…')).collect()
}

/// Characters that show nothing and join or part their neighbours.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn cleans_and_cuts_what_oned_says() {
        assert_eq!(clean("a\nb\u{1b}[31m\u{202e}c"), "a b [31m c");
        assert_eq!(clean(&"x".repeat(1000)).chars().count(), 301);
    }
}
