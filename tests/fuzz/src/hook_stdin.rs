//! What onehem writes to a hook's standard input.

use super::assert_error;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use onemirror::commands::hook::{parse_vm_id, vm_id};
use onemirror::opennebula::Vm;

/// The bytes themselves, and as the document within the base64.
pub fn check(data: &[u8]) {
    let found = parse_vm_id(data);
    match &found {
        Ok(id) => assert!(*id >= 0),
        Err(error) => assert_error(error),
    }
    let mut input = data;
    assert_eq!(vm_id(&mut input).ok(), found.ok());
    let wrapped = parse_vm_id(BASE64_STANDARD.encode(data).as_bytes()).ok();
    let document = Vm::from_xml(&String::from_utf8_lossy(data)).ok();
    assert_eq!(wrapped, document.map(|vm| vm.id));
}
