//! An operator looks a refusal up by its code: `docs/refusals.md` has each one with its sentence, and no other.

use super::*;
use crate::words::UnfitKind;
use alloc::borrow::ToOwned as _;

const PAGE: &str = include_str!("../../../docs/refusals.md");

/// A row of the page's tables of rules.
struct Told {
    codes: Vec<String>,
    rule: String,
    /// Beginnings of sentences, in pieces where the page has `…`.
    sentence: Vec<String>,
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn told() -> Vec<Told> {
    let mut all = Vec::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `OM")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        // the code, the rule, the sentence, the cause, what to type; without a rule there are four
        let [codes, rule, sentence, _, _] = cells[..] else {
            assert!(line.starts_with("| `OM9"), "not five cells: {line}");
            continue;
        };
        let sentences = quoted(sentence);
        assert_eq!(sentences.len(), 1, "one sentence in a row: {line}");
        let pieces = sentences[0].split('…').map(plain).collect();
        all.push(Told { codes: quoted(codes), rule: quoted(rule).concat(), sentence: pieces });
    }
    all
}

/// A sentence without the names and numbers in it.
fn plain(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let end = word.trim_end_matches(|c: char| c.is_alphanumeric() || c == '-').len();
        let (name, begin) = (word.trim_end_matches([',', ':', ';', ')']), word.len() - end);
        match name {
            "site-a" | "site-b" => word.replacen(name, "SITE", 1),
            name if name.starts_with("one-") => word.replacen(name, "IMAGE", 1),
            name if begin > 0 && name.bytes().all(|byte| byte.is_ascii_digit()) => {
                word.replacen(name, "N", 1)
            }
            name if name.len() > 3 && name.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                word.replacen(name, "STATE", 1)
            }
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether the sentence begins with the first piece, and has the others behind it.
fn fits(sentence: &str, pieces: &[String]) -> bool {
    let mut rest = sentence;
    pieces.iter().enumerate().all(|(number, piece)| match rest.find(piece.as_str()) {
        Some(at) if number > 0 || at == 0 => {
            rest = &rest[at + piece.len()..];
            true
        }
        _ => false,
    })
}

/// Every sentence that the tables of single situations refuse with, and its code.
fn refused() -> Vec<(String, String)> {
    let rows = gate_rows().into_iter().chain(binding_rows());
    let rows = rows.chain(force::force_rows()).chain(rehome::rehome_rows()).chain(upkeep_rows());
    let refused = rows.filter_map(|row| {
        let told = row.says.split_once("refuse: ").or_else(|| row.says.split_once("undecided: "));
        let sentence = told?.1;
        let rule = row.rule;
        let code = rule.code().unwrap_or_else(|| panic!("give {} a code, in Rule::code", rule.name()));
        Some((code.to_string(), plain(sentence)))
    });
    let unfit = words::one_of_each();
    let unfit = unfit.iter().map(|unfit| (unfit.code().to_string(), plain(&unfit.to_string())));
    refused.chain(unfit).collect()
}

#[test]
fn every_refusal_of_a_rule_is_on_the_page_and_none_is_stale() {
    let (told, refused) = (told(), refused());
    let is_told = |code, sentence: &str| {
        told.iter().any(|told| told.codes.contains(code) && fits(sentence, &told.sentence))
    };
    let missing: Vec<_> = refused.iter().filter(|(code, sentence)| !is_told(code, sentence)).collect();
    assert!(missing.is_empty(), "docs/refusals.md does not tell of {missing:#?}");
    let is_said = |code: &String, pieces: &[String]| {
        refused.iter().any(|(given, sentence)| given == code && fits(sentence, pieces))
    };
    for row in &told {
        let stale: Vec<_> = row.codes.iter().filter(|code| !is_said(code, &row.sentence)).collect();
        assert!(
            stale.is_empty(),
            "docs/refusals.md tells of what nothing says: {stale:?} {:?}",
            row.sentence
        );
    }
}

/// `OM31`, `is in use on site-b`: a code, and words of its sentence.
#[test]
fn the_runbook_names_each_sentence_by_its_code() {
    let (page, refused) = (include_str!("../../../docs/runbook.md"), refused());
    let mut codes = Vec::new();
    let quoted: Vec<&str> = page.split('`').collect();
    for window in quoted.windows(3).filter(|window| window[0].starts_with("OM") && window[0].len() == 4) {
        match window[1] {
            ", " => codes.push((window[0], plain(window[2]))),
            _ => continue,
        }
    }
    assert!(codes.len() > 10, "{codes:?}");
    for (code, words) in codes.into_iter().filter(|(code, words)| *code != "OM96" && !words.starts_with("OM"))
    {
        let known = refused.iter().any(|(given, sentence)| given == code && sentence.contains(&words));
        assert!(known, "docs/runbook.md: {code} does not say {words:?}");
    }
}

#[test]
fn every_rule_that_refuses_has_a_code_of_its_own_that_the_page_explains() {
    let told = told();
    let rules = Rule::iter().filter_map(|rule| Some((rule.code()?.to_string(), rule.name())));
    let unfit = UnfitKind::iter().map(|kind| (kind.code().to_string(), kind.name()));
    let coded: Vec<(String, &str)> = rules.chain(unfit).collect();
    for (code, rule) in &coded {
        assert_eq!(coded.iter().filter(|other| other.0 == *code).count(), 1, "{code}");
        let explained = told.iter().any(|told| told.codes.contains(code) && told.rule == *rule);
        assert!(explained, "docs/refusals.md does not explain {code}, {rule}");
    }
    for Told { codes, rule, .. } in told.iter().filter(|told| !told.rule.is_empty()) {
        let known = coded.iter().any(|known| known.1 == rule && codes[..] == [known.0.clone()]);
        assert!(known, "{codes:?} {rule} of docs/refusals.md is not known");
    }
}
