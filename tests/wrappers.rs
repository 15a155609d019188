//! What OpenNebula runs, and the hook definitions that name it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use onemirror::actions::{Driver, ROWS, Treatment};
use onemirror::setup::artifacts::{Content, FrontEndUser, HookDefinition, artifacts, hooks, wrapper};
use onemirror::setup::layout::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

/// What the stock driver has with a suffix as well.
const SUFFIXED: [&str; 5] = ["clone.ssh", "delete.ssh", "ln.ssh", "mvds.ssh", "resize.ssh"];
const HOOK_EVENTS: [&str; 5] = ["done", "host-monitored", "poweroff", "running", "undeployed"];

/// The actions that get a wrapper, in order.
fn guarded(driver: Driver) -> Vec<String> {
    let rows = ROWS.iter().filter(|row| row.driver == driver && row.treatment == Treatment::Guarded);
    let mut names: Vec<String> = rows.map(|row| row.name.to_owned()).collect();
    if driver == Driver::Transfer {
        names.extend(SUFFIXED.map(String::from));
    }
    names.sort();
    names
}

/// All wrappers of actions: whose, below `remotes`, and for which action.
fn wrappers() -> impl Iterator<Item = (Driver, String, String)> {
    [Driver::Transfer, Driver::Datastore].into_iter().flat_map(|driver| {
        guarded(driver)
            .into_iter()
            .map(move |name| (driver, format!("{}/{name}", driver.folder().display()), name))
    })
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What setup puts below `remotes`, written before anything is run: a file just written could still be open for writing in
/// the child of another test's fork, and executing it would fail.
static REMOTES: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let remotes = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str, mode| {
        let path = remotes.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (driver, path, _) in wrappers() {
        write(&path, wrapper(driver), 0o755);
    }
    let layout = Layout::of_environment();
    let user = FrontEndUser { name: "oneadmin".into(), group: "oneadmin".into() };
    for artifact in artifacts(&layout, &user) {
        if let (Ok(path), Content::Text(text)) =
            (artifact.path.strip_prefix(&layout.remotes), &artifact.content)
        {
            write(path.to_str().unwrap(), text, artifact.mode);
        }
    }
    remotes
});

fn remotes(path: &str) -> PathBuf {
    REMOTES.path().join(path)
}

fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(remotes(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

struct Call {
    argv: Vec<Vec<u8>>,
    stdin: Vec<u8>,
    output: Output,
    /// Whether the wrapper became the binary, with no shell left in between that would keep signals from it.
    replaced: bool,
}

/// Runs a wrapper as OpenNebula would, with a stand-in for the binary.
fn call(wrapper: &Path, arguments: &[&str], stdin: &[u8], status: i32) -> Call {
    call_with(wrapper, arguments, stdin, status, "/usr/bin:/bin")
}

fn call_with(wrapper: &Path, arguments: &[&str], stdin: &[u8], status: i32, path: &str) -> Call {
    let record = tempfile::tempdir().unwrap();
    let mut child = Command::new(wrapper)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("ONE_LOCATION", project("tests/fixtures/one-location"))
        .env("RECORD", record.path())
        .env("STATUS", status.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let read = |name: &str| fs::read(record.path().join(name)).unwrap();
    let argv = read("argv");
    Call {
        argv: argv.strip_suffix(b"\0").unwrap().split(|byte| *byte == 0).map(Vec::from).collect(),
        stdin: read("stdin"),
        output,
        replaced: read("pid") == format!("{pid}\n").into_bytes(),
    }
}

fn assert_passed_through(call: &Call, status: i32) {
    assert_eq!(call.output.status.code(), Some(status));
    assert_eq!(call.output.stdout, b"to stdout\n");
    assert_eq!(call.output.stderr, b"to stderr\n");
    assert!(call.replaced, "the wrapper must exec");
}

/// Parses the part of OpenNebula's template syntax that the hook definitions use.
fn attributes(definition: &HookDefinition) -> BTreeMap<String, String> {
    let text = definition.text;
    assert!(text.ends_with('\n'), "OpenNebula's parser wants a last newline");
    let mut attributes = BTreeMap::new();
    for line in text.lines() {
        let (key, value) = line.split_once('=').expect(line);
        let value = value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(line);
        assert!(attributes.insert(key.trim().to_owned(), value.to_owned()).is_none(), "{line}");
    }
    attributes
}

#[test]
fn every_wrapper_is_there_and_executable() {
    for driver in [Driver::Transfer, Driver::Datastore] {
        assert_eq!(names(driver.folder().to_str().unwrap()), guarded(driver));
    }
    assert_eq!(names("hooks/onemirror"), HOOK_EVENTS);
    let wrappers =
        wrappers().map(|(_, path, _)| path).chain(HOOK_EVENTS.map(|name| format!("hooks/onemirror/{name}")));
    for wrapper in wrappers {
        let mode = fs::metadata(remotes(&wrapper)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{wrapper} {mode:o}");
        let text = fs::read_to_string(remotes(&wrapper)).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("# ")).collect();
        assert_eq!(lines.len(), 2, "{wrapper}");
        assert_eq!(lines[0], "#!/bin/sh");
        // Where ONE_LOCATION is not set, which no test can try without installing there.
        assert!(lines[1].starts_with("exec \"${ONE_LOCATION:-/usr}/bin/onemirror\" "), "{wrapper}");
    }
}

/// `tests/lab/test_setup.py` asks the same of a front-end that setup was run on.
#[test]
fn what_lies_in_hooks_and_remotes_is_what_gets_installed() {
    let file = |path: &str| fs::read(project(path)).unwrap();
    for (driver, path, _) in wrappers() {
        let source = format!("remotes/{}/action", driver.folder().display());
        assert_eq!(fs::read(remotes(&path)).unwrap(), file(&source), "{path}");
    }
    for event in HOOK_EVENTS {
        assert_eq!(
            fs::read(remotes("hooks/onemirror").join(event)).unwrap(),
            file("hooks/script"),
            "{event}"
        );
        let name = format!("onemirror-{event}");
        let definition = hooks().into_iter().find(|definition| definition.name == name).expect(event);
        assert_eq!(definition.text.as_bytes(), file(&format!("hooks/{event}.tmpl")));
    }
    let count = |folder: &str| fs::read_dir(project(folder)).unwrap().count();
    assert_eq!(count("hooks"), 1 + HOOK_EVENTS.len());
    assert_eq!((count("remotes/tm/ceph"), count("remotes/datastore/ceph"), count("remotes")), (1, 1, 2));
}

#[test]
fn wrappers_of_actions_pass_everything_on() {
    let awkward: [&[&str]; 5] = [
        &["front:one/one-7", "host:/var/lib/one//datastores/100/7/disk.0", "7", "101"],
        &["a b", "", "it's \"quoted\"", "two\nlines\n", "\\n"],
        &["-x", "--stock", "--", "--help", "-"],
        &["$(id)", "`id`", "*", "~", ";id", "&", "\u{e4}\u{1b}"],
        &[],
    ];
    for (driver, path, action) in wrappers() {
        let wrapper = remotes(&path);
        for arguments in awkward {
            let call = call(&wrapper, arguments, b"", 0);
            let stock = wrapper.parent().unwrap().join("../ceph.stock").join(&action);
            let expected: Vec<&[u8]> = [
                driver.subcommand().as_bytes(),
                b"--stock",
                stock.as_os_str().as_encoded_bytes(),
                action.as_bytes(),
            ]
            .into_iter()
            .chain(arguments.iter().map(|argument| argument.as_bytes()))
            .collect();
            assert_eq!(call.argv, expected, "{action}");
            assert_passed_through(&call, 0);
        }
    }
}

#[test]
fn a_wrapper_finds_the_stock_action_beside_its_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    let tm = folder.path().join("a b/$x/tm");
    fs::create_dir_all(&tm).unwrap();
    std::os::unix::fs::symlink(remotes("tm/ceph"), tm.join("ceph")).unwrap();
    let call = call(&tm.join("ceph//ln"), &["x"], b"", 0);
    let stock = tm.join("ceph/").into_os_string().into_encoded_bytes();
    assert_eq!(call.argv[2], [&stock[..], b"/../ceph.stock/ln"].concat());
}

#[test]
fn a_wrapper_that_is_found_by_its_name_alone_knows_its_folder() {
    let path = format!("{}:/usr/bin:/bin", remotes("tm/ceph").display());
    let call = call_with(Path::new("ln.ssh"), &["x"], b"", 0, &path);
    let stock = remotes("tm/ceph/../ceph.stock/ln.ssh");
    assert_eq!(
        call.argv,
        [b"tm" as &[u8], b"--stock", stock.as_os_str().as_encoded_bytes(), b"ln.ssh", b"x"]
    );
}

#[test]
fn wrappers_pass_exit_status_stdin_and_output_on() {
    for status in [0, 1, 3, 126, 255] {
        for wrapper in ["tm/ceph/context", "datastore/ceph/rm", "hooks/onemirror/poweroff"] {
            let call = call(&remotes(wrapper), &[], b"line\n\0\xff", status);
            assert_eq!(call.stdin, b"line\n\0\xff");
            assert_passed_through(&call, status);
        }
    }
}

#[test]
fn hook_wrappers_hand_the_document_over_on_stdin() {
    // More than a pipe holds.
    let document = "PFZNPjxJRD40MjwvSUQ+".repeat(20_000);
    for event in HOOK_EVENTS {
        let call = call(&remotes("hooks/onemirror").join(event), &[], document.as_bytes(), 0);
        assert_eq!(call.argv, [b"hook" as &[u8], event.as_bytes()]);
        assert_eq!(call.stdin, document.as_bytes());
        assert_passed_through(&call, 0);
    }
}

#[test]
fn without_the_binary_a_wrapper_fails_and_says_so() {
    let output = Command::new(remotes("tm/ceph/ln"))
        .env("ONE_LOCATION", "/no/such/folder")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.status.signal()), (Some(127), None));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/folder/bin/onemirror"));
}

#[test]
fn every_hook_names_a_wrapper_and_every_wrapper_has_a_hook() {
    let mut commands = BTreeSet::new();
    for definition in hooks() {
        let hook = attributes(&definition);
        let event = hook["COMMAND"].strip_prefix("onemirror/").expect("a command below remotes/hooks");
        assert_eq!(hook["NAME"], format!("onemirror-{event}"));
        assert!(commands.insert(event.to_owned()), "{event} twice");
    }
    assert_eq!(commands, HOOK_EVENTS.map(String::from).into());
}

#[test]
fn hooks_are_what_oned_and_onehem_accept() {
    let states = |name: &str| {
        let name = format!("onemirror-{name}");
        let hook = attributes(hooks().iter().find(|definition| definition.name == name).unwrap());
        let get = |key: &str| hook.get(key).cloned().unwrap_or_default();
        for (key, value) in [
            ("TYPE", "state"),
            ("ARGUMENTS", "$TEMPLATE"),
            // onehem knows no other word for it: with TRUE it would put the whole document on the command line.
            ("ARGUMENTS_STDIN", "YES"),
            ("REMOTE", "NO"),
            ("TIMEOUT", "60"),
        ] {
            assert_eq!(get(key), value, "{name} {key}");
        }
        let known = [
            "NAME",
            "TYPE",
            "RESOURCE",
            "ON",
            "STATE",
            "LCM_STATE",
            "COMMAND",
            "ARGUMENTS",
            "ARGUMENTS_STDIN",
            "REMOTE",
            "TIMEOUT",
        ];
        assert!(hook.keys().all(|key| known.contains(&key.as_str())), "{name}");
        [get("RESOURCE"), get("ON"), get("STATE"), get("LCM_STATE")].join(" ")
    };
    // For VMs, oned reads STATE and LCM_STATE only with ON=CUSTOM, and refuses a hook without ON.
    assert_eq!(states("done"), "VM CUSTOM DONE LCM_INIT");
    assert_eq!(states("poweroff"), "VM CUSTOM POWEROFF LCM_INIT");
    assert_eq!(states("undeployed"), "VM CUSTOM UNDEPLOYED LCM_INIT");
    assert_eq!(states("running"), "VM CUSTOM ACTIVE RUNNING");
    // Hosts have neither.
    assert_eq!(states("host-monitored"), "HOST  MONITORED ");
}
