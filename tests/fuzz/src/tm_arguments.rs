//! The arguments of a transfer manager action: the action and its arguments, separated by NUL bytes or line ends.

use super::assert_error;
use onemirror::commands::driver::arguments::{TmAction, parse};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// What is understood speaks of one VM, and of one disk where the action has one.
pub fn check(data: &[u8]) {
    let mut words = data.split(|byte| matches!(byte, 0 | b'\n'));
    let action = String::from_utf8_lossy(words.next().unwrap_or_default());
    let arguments: Vec<OsString> = words.map(|word| OsString::from_vec(word.to_vec())).collect();
    match parse(&action, &arguments) {
        Ok(call) => {
            let vm = call.vm.to_string();
            assert!(call.vm >= 0);
            // the VM is where oned puts it: last but one, in one form only but for leading zeros
            let said = arguments[arguments.len() - 2].to_str().expect("UTF-8");
            assert_eq!(said.trim_start_matches('0'), vm.trim_start_matches('0'));
            let is_about_a_disk = !matches!(call.action, TmAction::Context | TmAction::DeleteDirectory);
            assert_eq!(call.disk.is_some(), is_about_a_disk);
            assert!(call.disk.is_none_or(|disk| disk >= 0));
        }
        Err(error) => assert_error(&error),
    }
}
