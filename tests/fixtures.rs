//! What real front-ends sent, whole and damaged, and whether every capture is used by a test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use onemirror::commands::driver::arguments::{TmAction, TmCall, parse};
use onemirror::commands::hook::{parse_vm_id, vm_id};
use onemirror::opennebula::Vm;
use proptest::prelude::*;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(project(folder)).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(path.to_str().unwrap())),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// What hooks got on stdin: the file's name, the bytes, the id of the VM that they were about.
fn hook_inputs() -> Vec<(String, Vec<u8>, i32)> {
    let inputs: Vec<_> = files("tests/fixtures/opennebula")
        .into_iter()
        .filter(|path| name(path).starts_with("hook-"))
        .map(|path| {
            // site A had VM 2, which ran on site B as VM 0
            let vm = if name(&path).starts_with("hook-a-") { 2 } else { 0 };
            (name(&path).to_owned(), fs::read(&path).unwrap(), vm)
        })
        .collect();
    assert_eq!(inputs.len(), 12);
    inputs
}

#[test]
fn no_capture_lies_unused() {
    let sources: String = ["src", "tests"]
        .into_iter()
        .flat_map(files)
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for path in [files("tests/fixtures/rbd"), files("tests/fixtures/opennebula")].concat() {
        let name = name(&path);
        // these are read by whole folders
        let is_read_anyway = name.starts_with("hook-") && name.ends_with(".stdin")
            || name.ends_with(".stdout")
            || name == "README.md";
        // refusals are named without their ending
        let stem = name.strip_suffix(".rc").or_else(|| name.strip_suffix(".stderr"));
        let is_named = match stem {
            Some(stem) => sources.contains(&format!("\"{stem}\"")),
            None => sources.contains(name),
        };
        assert!(is_read_anyway || is_named, "no test uses {name}");
    }
}

#[test]
fn hooks_know_their_vm() {
    for (name, input, vm) in hook_inputs() {
        assert_eq!(parse_vm_id(&input).unwrap(), vm, "{name}");
        assert_eq!(vm_id(&mut &input[..]).unwrap(), vm, "{name}");
        // onehem writes none, but a person who repeats a hook by hand may
        assert_eq!(parse_vm_id(&[&input[..], b"\n"].concat()).unwrap(), vm, "{name}");
        let document = Vm::from_xml(&String::from_utf8(BASE64.decode(&input).unwrap()).unwrap()).unwrap();
        let state = document.state_name();
        let states = name.split(['-', '.']).nth(2).zip(name.split(['-', '.']).nth(3)).unwrap();
        assert_eq!(state, if states.0 == "ACTIVE" { states.1 } else { states.0 }, "{name}");
    }
}

#[test]
fn a_hook_input_cut_short_is_no_input() {
    for (name, input, _) in hook_inputs() {
        let end = input.trim_ascii_end().len();
        // everywhere near the ends, and here and there between
        for cut in (0..end).filter(|cut| *cut < 64 || end - cut < 64 || cut % 97 == 0) {
            assert!(parse_vm_id(&input[..cut]).is_err(), "{name} cut to {cut} of {end}");
            assert!(parse_vm_id(&input[end - cut..end]).is_err(), "the last {cut} of {name}");
        }
        // the same in the document itself, where the base64 is whole
        let document = BASE64.decode(&input[..end]).unwrap();
        let end = document.trim_ascii_end().len();
        for cut in (0..end).filter(|cut| *cut < 64 || end - cut < 64 || cut % 97 == 0) {
            assert!(parse_vm_id(BASE64.encode(&document[..cut]).as_bytes()).is_err(), "{name} cut to {cut}");
        }
    }
}

/// There is no checksum: damage to the digits themselves makes another number. Anywhere else the id is right, or there
/// is none. A hook therefore takes nothing but the id from its input and looks at that VM as it is now.
#[test]
fn damage_changes_the_id_only_where_the_id_is_written() {
    let mut others = 0;
    for (name, input, vm) in hook_inputs() {
        let document = BASE64.decode(&input).unwrap();
        let tag = b"<ID>";
        let digits = document.windows(tag.len()).position(|part| part == tag).unwrap() + tag.len();
        assert_eq!(document[digits + 1], b'<', "{name}: one digit");
        // six bits to a character
        let holds_the_id = (digits * 8 / 6)..=((digits * 8 + 7) / 6);
        for at in (0..input.len()).filter(|at| *at < 48 || at % 197 == 0) {
            for bit in 0..8 {
                let mut damaged = input.clone();
                damaged[at] ^= 1 << bit;
                match parse_vm_id(&damaged) {
                    Ok(id) if holds_the_id.contains(&at) => others += usize::from(id != vm),
                    Ok(id) => assert_eq!(id, vm, "{name}: bit {bit} of byte {at}"),
                    Err(_) => {}
                }
            }
        }
    }
    assert!(others > 0, "this test looks at the wrong place");
}

#[test]
fn documents_of_other_things_are_not_a_vm() {
    for file in ["host.site-a.xml", "image.persistent.site-b.xml", "hookpool.site-b.xml", "hook.site-b.xml"] {
        let document = fs::read(project("tests/fixtures/opennebula").join(file)).unwrap();
        assert!(parse_vm_id(BASE64.encode(&document).as_bytes()).is_err(), "{file}");
        assert!(parse_vm_id(&document).is_err(), "{file}, not encoded");
    }
    for document in
        ["", "<VM></VM>", "<VM><ID/></VM>", "<VM><ID>x</ID></VM>", "<VM><ID>2</ID><ID>3</ID></VM>"]
    {
        assert!(parse_vm_id(BASE64.encode(document).as_bytes()).is_err(), "{document}");
    }
}

#[test]
fn an_endless_hook_input_is_given_up() {
    assert!(vm_id(&mut std::io::repeat(b'A')).is_err());
}

fn read(action: &str, arguments: &[&str]) -> Option<TmCall> {
    parse(action, &arguments.iter().map(OsString::from).collect::<Vec<_>>()).ok()
}

/// The calls that a real front-end made: action and arguments.
fn captured_calls() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(project("tests/fixtures/opennebula/tm-calls.txt")).unwrap();
    let calls: Vec<_> = text
        .lines()
        .map(|line| {
            let (head, arguments) = line.split_once(" argv: ").unwrap();
            let action = head.rsplit(' ').next().unwrap().to_owned();
            (action, arguments.split(' ').map(str::to_owned).collect())
        })
        .collect();
    assert_eq!(calls.len(), 7);
    calls
}

#[test]
fn the_calls_are_those_of_the_transfer_scripts() {
    let calls = captured_calls();
    let mut lines = 0;
    for script in ["transfer.0.prolog", "transfer.0.epilog"] {
        for line in fs::read_to_string(project("tests/fixtures/opennebula").join(script)).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [action, "ceph", arguments @ ..] = &words[..] else { panic!("{script}: {line}") };
            let action = action.to_lowercase();
            assert!(calls.iter().any(|call| call.0 == action && call.1 == arguments), "{script}: {line}");
            assert!(read(&action, arguments).is_some_and(|call| call.vm == 0), "{script}: {line}");
            lines += 1;
        }
    }
    assert_eq!(lines, 3);
}

#[test]
fn damaged_calls_are_refused_or_about_the_same_vm() {
    for (action, arguments) in captured_calls() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let whole = read(&action, &arguments).unwrap();
        let same_vm = |arguments: &[&str]| {
            if let Some(call) = read(&action, arguments) {
                assert_eq!(call.vm, whole.vm, "{action} {arguments:?}");
            }
        };
        for cut in 0..arguments.len() {
            same_vm(&arguments[..cut]);
            same_vm(&arguments[cut + 1..]);
        }
        for at in 0..arguments.len() {
            // without one, with one twice, with two exchanged, with an empty one
            let mut missing = arguments.clone();
            missing.remove(at);
            same_vm(&missing);
            let mut twice = arguments.clone();
            twice.insert(at, arguments[at]);
            if read(&action, &twice).is_some_and(|call| call.vm != whole.vm) {
                // `… 2 100 100` is a call about VM 100 where any number of files may come first
                assert_eq!((whole.action, at), (TmAction::Context, arguments.len() - 1), "{twice:?}");
            }
            let mut empty = arguments.clone();
            empty[at] = "";
            same_vm(&empty);
            if at + 2 < arguments.len() {
                let mut exchanged = arguments.clone();
                exchanged.swap(at, at + 1);
                same_vm(&exchanged);
            }
        }
        assert_eq!(read("", &arguments), None);
        assert_eq!(read("mv", &arguments), None);
        assert_eq!(read(&action.to_uppercase(), &arguments), None);
        assert_eq!(read(&format!("{action}.ssh"), &arguments), Some(whole));
    }
}

proptest! {
    #[test]
    fn any_hook_input_is_answered(input: Vec<u8>) {
        let _ = parse_vm_id(&input);
        prop_assert!(parse_vm_id(BASE64.encode(&input).as_bytes()).is_err());
    }

    #[test]
    fn flipped_bits_in_a_call_never_panic_nor_reach_another_vm(
        which in 0..7usize, argument: prop::sample::Index, at: prop::sample::Index, bit in 0..8u8
    ) {
        let (action, arguments) = captured_calls().swap_remove(which);
        let mut damaged: Vec<Vec<u8>> = arguments.iter().cloned().map(String::into_bytes).collect();
        let argument = argument.index(damaged.len());
        let at = at.index(damaged[argument].len());
        damaged[argument][at] ^= 1 << bit;
        let damaged: Vec<OsString> = damaged.into_iter().map(OsString::from_vec).collect();
        let whole = parse(&action, &arguments.iter().map(OsString::from).collect::<Vec<_>>()).unwrap();
        // damage to the id itself cannot be seen
        if let Ok(call) = parse(&action, &damaged) && argument != arguments.len() - 2 {
            prop_assert_eq!(call.vm, whole.vm);
        }
    }

    #[test]
    fn any_call_is_answered(action in "\\PC{0,12}", arguments: Vec<Vec<u8>>) {
        let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from_vec).collect();
        let _ = parse(&action, &arguments);
        for action in ["ln", "clone.ssh", "context", "mvds", "delete"] {
            let _ = parse(action, &arguments);
        }
    }
}
