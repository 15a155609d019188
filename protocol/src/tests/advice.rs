//! What the pages in `docs` say of tests: `docs/advice.md` names the lab test that types each command, and every test that a
//! promise names is there.

use super::*;
use crate::advice::{Once, Way};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use std::collections::BTreeMap;
use std::path::Path;

/// What one way is in the table, with `N` for numbers and `IMAGE` for images, as the lab tests' own `shape` has it.
fn shape(way: &Way) -> Option<String> {
    let Act::Type { place, commands } = &way.act else { return None };
    let mut text = match place {
        Place::Here => "here: ".to_owned(),
        Place::There(_) => "there: ".to_owned(),
    };
    for (number, command) in commands.iter().enumerate() {
        let before = match command.once {
            Some(Once::Runs) => ", then ",
            Some(Once::Off) => ", once off: ",
            None => " && ",
        };
        let mut words: Vec<String> = command.command.split(' ').map(shape_of_word).collect();
        if let Some(place) = words.iter().position(|word| word == "set-quota") {
            words[place + 1] = "POOL".to_owned();
        }
        if let Some(place) = words.iter().position(|word| word == "--image") {
            words[place + 1] = "NAME".to_owned();
        }
        text += &format!("{}{}", if number > 0 { before } else { "" }, words.join(" "));
    }
    Some(text)
}

fn shape_of_word(word: &str) -> String {
    match word.split_once('/') {
        Some((_, image)) => format!("IMAGE{}", if image.ends_with(".aside") { ".aside" } else { "" }),
        None if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) => "N".to_owned(),
        None => word.to_owned(),
    }
}

/// How a VM is brought to let its disks go is said by many rules, in the same words.
const WAY_OUT: &str = "way-out";

/// Of each advice with a command: the rules that give it.
fn advised() -> BTreeMap<(String, String), BTreeSet<String>> {
    let ways_out = [WayOut::PowerOff, WayOut::Hold, WayOut::ResumeFirst, WayOut::Retry, WayOut::HostOff];
    let out: Vec<Advice> = ways_out.iter().map(|way| way.advice(0, Place::There(B.into()))).collect();
    let out: BTreeSet<String> = out.iter().flat_map(Advice::ways).filter_map(shape).collect();
    let mut advised: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for shape in &out {
        advised.entry((WAY_OUT.to_owned(), shape.clone())).or_default();
    }
    let nowhere = Rule::UpkeepPrimaryNowhere.name().to_owned();
    for belongs in [Belongs::Here, Belongs::There, Belongs::Unknown] {
        let advice = take_up_advice(&spec("one/one-7"), belongs, A, B);
        for shape in advice.ways().iter().filter_map(shape) {
            advised.entry((nowhere.clone(), shape)).or_default();
        }
    }
    for row in gate_rows().into_iter().chain(binding_rows()) {
        for shape in row.advice.iter().flat_map(Advice::ways).filter_map(shape) {
            let name = if out.contains(&shape) { WAY_OUT } else { row.rule.name() };
            advised.entry((name.to_owned(), shape)).or_default();
        }
    }
    advised
}

/// The lab tests that type it, by `@pytest.mark.advice("RULE", "SHAPE")`.
fn tests_of_the_lab() -> BTreeMap<(String, String), BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab");
    let mut typed: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "py") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, mark) in text.match_indices("mark.advice(") {
            let rest = &text[at + mark.len()..];
            let words: Vec<&str> = rest.splitn(5, '"').collect();
            let [_, rule, _, shape, _] = words[..] else { panic!("{}: {rest}", path.display()) };
            let test = rest.split("\ndef ").nth(1).and_then(|test| test.split('(').next()).unwrap();
            typed.entry((rule.to_owned(), shape.to_owned())).or_default().insert(test.to_owned());
        }
    }
    typed
}

#[test]
fn every_command_that_a_refusal_advises_is_typed_in_a_test() {
    let (mut advised, typed) = (advised(), tests_of_the_lab());
    for (what, tests) in typed {
        let known = advised.get_mut(&what);
        known.unwrap_or_else(|| panic!("{tests:?} types what nothing advises: {what:?}")).extend(tests);
    }
    let mut page = String::new();
    for ((rule, shape), tests) in &advised {
        let code = Rule::iter().find(|known| known.name() == rule).and_then(Rule::code);
        let code = code.map_or("-".to_owned(), |code| format!("`{code}`"));
        let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
        page += &format!("| {code} | `{rule}` | `{shape}` | {} |\n", tests.join(", "));
    }
    let written = include_str!("../../../docs/advice.md");
    assert!(written.contains(&page), "docs/advice.md, the table:\n{page}");
    for ((rule, shape), tests) in advised {
        assert!(!tests.is_empty(), "no lab test types what {rule} advises: {shape}");
    }
}

/// The names of all functions in Rust and Python files below this folder.
fn functions_below(folder: &Path, functions: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && name != "target" {
            functions_below(&path, functions);
        }
        if !name.ends_with(".rs") && !name.ends_with(".py") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("def ")) {
                functions.extend(rest.split(['(', '<']).next().map(str::to_owned));
            }
        }
    }
}

/// Whether what stands between backticks is the name of a test: a sentence, or rows of a table.
fn names_a_test(text: &str) -> bool {
    let is_word = text.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_sentence = text.bytes().filter(|byte| *byte == b'_').count() > 2;
    is_word && (text.starts_with("test_") || text.ends_with("_rows") || is_sentence)
}

fn tests_named_in(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).filter(|name| names_a_test(name)).collect()
}

#[test]
fn every_promise_and_every_rule_names_its_test() {
    let page = include_str!("../../../docs/safety.md");
    for (title, least) in [("## The promise\n", 17), ("## The protocol\n", 20)] {
        let section = page.split(title).nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let (mut items, mut is_item) = (Vec::new(), false);
        for line in section.lines() {
            let begins = line.starts_with("* ") || line.starts_with(|first: char| first.is_ascii_digit());
            is_item = begins || is_item && line.starts_with(' ');
            match items.last_mut() {
                _ if begins => items.push(line.to_owned()),
                Some(item) if is_item => item.push_str(line),
                _ => {}
            }
        }
        assert!(items.len() >= least, "{title}{}", items.len());
        for item in items {
            assert!(!tests_named_in(&item).is_empty(), "names no test: {item}");
        }
    }
}

#[test]
fn every_test_that_a_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut functions = BTreeSet::new();
    for folder in ["protocol", "src", "rbd", "lab", "tests"] {
        functions_below(&root.join(folder), &mut functions);
    }
    for (page, least) in [
        ("docs/safety.md", 40),
        ("docs/advice.md", 20),
        ("docs/actions.md", 0),
        ("docs/audit-log.md", 1),
        ("docs/commands.md", 0),
        ("docs/configuration.md", 1),
        ("docs/how-it-works.md", 0),
        ("docs/installation.md", 0),
        ("docs/refusals.md", 2),
        ("docs/runbook.md", 0),
        ("README.md", 0),
    ] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let named = tests_named_in(&text);
        assert!(named.len() >= least, "{page} names {} tests", named.len());
        for name in named {
            assert!(functions.contains(name), "{page} names a test that is not there: {name}");
        }
    }
}
