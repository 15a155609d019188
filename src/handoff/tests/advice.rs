//! `docs/advice.md`: every command that a refusal tells an operator to type, and the lab test that types it.

use super::*;
use crate::advice::{Once, Way};
use std::collections::BTreeMap;

/// What one way is in the table, with `N` for numbers and `IMAGE` for images, as the lab tests' own `shape` has it.
fn shape(way: &Way) -> Option<String> {
    let Act::Type { place, commands } = &way.act else { return None };
    let mut text = match place {
        Place::Here => "here: ".to_owned(),
        Place::There(_) => "there: ".to_owned(),
    };
    for (number, command) in commands.iter().enumerate() {
        let before = if command.once == Some(Once::Runs) { ", then " } else { " && " };
        let mut words: Vec<String> = command.command.split(' ').map(shape_of_word).collect();
        if let Some(place) = words.iter().position(|word| word == "set-quota") {
            words[place + 1] = "POOL".to_owned();
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
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab");
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
