//! README.md and the pages in `docs` say what is so: keys, fields, refusals without a rule, commands, words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

use clap::{CommandFactory as _, Parser as _};
use onemirror::audit::{AuditLog, Entry, Outcome};
use onemirror::commands::Cli;
use onemirror::config::{Config, ConfigError};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md, and the pages for those who use onemirror.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::from([("README.md".to_owned(), read("README.md"))]);
    for entry in fs::read_dir(project("docs")).unwrap() {
        let name = format!("docs/{}", entry.unwrap().file_name().to_str().unwrap());
        if name.ends_with(".md") {
            pages.insert(name.clone(), read(&name));
        }
    }
    pages
}

/// All files with this ending below a folder.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(project(folder)).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let inside = path.strip_prefix(project("")).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && name != "target" {
            found.extend(files(&inside, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// What stands between backticks in the cells of this column, of rows that begin so.
fn column(page: &str, begins: &str, number: usize) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with(begins));
    let cells = rows.filter_map(|row| row.split(" | ").nth(number));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

// ---------------------------------------------------------------- what the code knows

/// The keys of a table of the configuration, as the code itself tells them of one that it does not know.
fn keys(table: &str) -> Vec<String> {
    let text = match table {
        "" => "unknown = 1\n".to_owned(),
        table => format!("[{table}]\nunknown = 1\n"),
    };
    match Config::parse(&text, Path::new("onemirror.conf")) {
        Err(ConfigError::UnknownKey { allowed, .. }) if !allowed.is_empty() => allowed,
        other => panic!("no unknown key in [{table}]: {other:?}"),
    }
}

fn all_keys(table: &str, found: &mut BTreeSet<String>) {
    for key in keys(table) {
        let path = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
        // a number is no table, which the code says of a key that is one
        let number = format!("[{}]\n{key} = 1\n", if table.is_empty() { "site" } else { table });
        let parsed = Config::parse(&number, Path::new("onemirror.conf")).unwrap_err().to_string();
        if table.is_empty() || parsed.contains("must be a table") {
            all_keys(&path, found);
        } else {
            found.insert(path);
        }
    }
}

#[test]
fn the_page_of_the_configuration_names_each_key_and_no_other() {
    let mut known = BTreeSet::new();
    all_keys("", &mut known);
    assert!(known.len() > 15 && known.contains("site.ceph.run_on"), "{known:?}");
    let page = read("docs/configuration.md");
    let tables = ["site", "peer", "policy"].map(|table| column(&page, &format!("| `{table}."), 0));
    assert_eq!(known, tables.into_iter().flatten().collect());
    // and so does the sample, in its own way
    let sample = read("etc/onemirror.conf");
    for key in known {
        let own = key.rsplit('.').next().unwrap();
        assert!(sample.contains(&format!("{own} = ")), "etc/onemirror.conf does not show {key}");
    }
}

#[test]
fn the_page_of_the_audit_log_names_each_field_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let some = || Some(String::from("x"));
    let full = Entry {
        vm: Some(3),
        image: some(),
        rule: some(),
        step: some(),
        reason: some(),
        ..Entry::new("site-a", "failover", Outcome::Done)
    };
    let fields = |entry: &Entry| -> BTreeSet<String> {
        AuditLog::open(&path).record(entry).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        line.as_object().unwrap().keys().cloned().collect()
    };
    let page = read("docs/audit-log.md");
    let section = page.split("## Fields\n").nth(1).unwrap().split("\n## ").next().unwrap();
    assert_eq!(fields(&full), column(section, "| `", 0));
    let always = fields(&Entry::new("site-a", "failover", Outcome::Done));
    for field in column(section, "| `", 0) {
        let row = section.lines().find(|line| line.starts_with(&format!("| `{field}` |"))).unwrap();
        assert_eq!(row.contains("` | yes | "), always.contains(&field), "always there? {row}");
    }
}

// ---------------------------------------------------------------- refusals

#[test]
fn what_is_told_of_refusals_by_no_rule_is_said_somewhere() {
    let page = read("docs/refusals.md");
    let sources: String = files("src", ".rs")
        .into_iter()
        .chain(files("protocol", ".rs"))
        .map(|path| fs::read_to_string(path).unwrap().replace("\\\n", ""))
        .collect();
    let section = page.split("## No rule refused").nth(1).unwrap();
    let sentences = column(section, "| `OM9", 1);
    assert!(sentences.len() > 5, "{sentences:?}");
    for sentence in sentences.into_iter().filter(|text| !text.starts_with('/')) {
        // the longest run of words that are no names
        let is_name = |word: &str| {
            let word = word.trim_matches([',', ':', ';']);
            word.starts_with("one")
                || word.starts_with("site-")
                || ["rm", "promote", "VM"].contains(&word)
                || word.contains(['/', '…'])
                || word.bytes().any(|byte| byte.is_ascii_digit())
                || word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        };
        let words: Vec<&str> = sentence.split(' ').collect();
        let runs = words.split(|word| is_name(word)).map(|run| run.join(" "));
        let run = runs.max_by_key(String::len).unwrap();
        let run = run.trim_matches([':', ';', ',']);
        assert!(run.len() > 3 && sources.contains(run), "no refusal says {run:?}: {sentence}");
    }
}

// ---------------------------------------------------------------- words

/// Words of our own making, for which the field has others.
const NO_WORDS: [&str; 6] = [
    "reign",
    "stranger",
    "disorder",
    "who promotes an image",
    "who gives an image up",
    "who gives images up",
];

#[test]
fn pages_and_help_texts_use_the_words_of_the_field() {
    let mut texts = pages();
    texts.insert("etc/onemirror.conf".to_owned(), read("etc/onemirror.conf"));
    let mut command = Cli::command();
    texts.insert("onemirror --help".to_owned(), command.render_long_help().to_string());
    for sub in command.get_subcommands_mut() {
        texts.insert(format!("onemirror {} --help", sub.get_name()), sub.render_long_help().to_string());
    }
    for (name, text) in texts {
        // names of rules and tests stand between backticks
        let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" ").to_lowercase();
        for word in NO_WORDS {
            assert!(!prose.contains(word), "{name} says {word:?}");
        }
    }
}

#[test]
fn the_readme_is_short_and_its_links_lead_somewhere() {
    assert!(read("README.md").lines().count() <= 150);
    for (name, text) in pages() {
        let folder = project(&name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { project(&name) } else { folder.join(file) };
            assert!(target.exists(), "{name} links to {link}");
            if anchor.is_empty() {
                continue;
            }
            let titles = fs::read_to_string(&target).unwrap();
            let titles = titles.lines().filter(|line| line.starts_with('#')).map(anchor_of);
            assert!(titles.into_iter().any(|title| title == anchor), "{name} links to {link}");
        }
    }
}

/// As GitHub makes it of a title.
fn anchor_of(title: &str) -> String {
    let kept = title.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

// ---------------------------------------------------------------- commands

/// Commands of the pages that tests type, by their beginnings, and a test that does. `onemirror` itself is parsed.
const TYPED: [(&str, &str); 23] = [
    ("./lab/demo", "test_site_lost_failover_return_and_failback"),
    (
        "./install.sh --role",
        "test_install_sh_beside_a_package_survives_its_upgrade_and_gives_way_to_a_package_of_onemirror",
    ),
    (
        "./install.sh --uninstall",
        "test_a_self_contained_front_end_survives_an_upgrade_and_is_left_without_a_trace",
    ),
    ("onevm poweroff", "test_resume_while_it_runs_on_the_other_site_changes_nothing"),
    ("onevm resume", "test_a_vm_of_the_other_site_lets_go_by_what_its_state_takes"),
    ("onevm terminate", "test_planned_round_trips_without_a_pause_lose_nothing"),
    ("onevm recover --retry", "test_a_vm_of_the_other_site_lets_go_by_what_its_state_takes"),
    (
        "onevm disk-detach",
        "test_what_was_set_aside_of_a_disk_that_is_gone_is_had_where_the_other_site_is_lost",
    ),
    (
        "onevm disk-attach",
        "test_what_was_set_aside_of_a_disk_that_is_gone_is_had_where_the_other_site_is_lost",
    ),
    ("oneimage delete", "test_an_image_that_is_primary_nowhere_is_told_and_taken_up"),
    ("rbd mirror image status", "test_a_copy_that_is_not_whole_is_not_promoted_by_force"),
    ("rbd mirror image disable", "test_a_clone_by_snapshots_is_booted_once_it_is_mirrored_whole"),
    (
        "rbd mirror image enable one/one-7 journal",
        "test_a_forced_copy_that_was_to_be_made_anew_comes_home_once_it_is_mirrored_anew",
    ),
    (
        "rbd mirror image enable two/one-7 snapshot",
        "test_a_clone_by_snapshots_is_booted_once_it_is_mirrored_whole",
    ),
    (
        "rbd mirror image promote one/one-7 --force",
        "test_a_copy_that_was_mirrored_anew_elsewhere_is_not_taken_for_absent",
    ),
    ("rbd mirror image snapshot", "test_a_reverted_disk_is_seen_and_its_older_image_is_booted_nowhere"),
    (
        "rbd feature disable one/one-7 journaling",
        "test_a_forced_copy_that_was_to_be_made_anew_comes_home_once_it_is_mirrored_anew",
    ),
    (
        "rbd feature enable one/one-7 journaling",
        "test_a_forced_copy_that_was_to_be_made_anew_comes_home_once_it_is_mirrored_anew",
    ),
    ("rbd mv", "test_a_copy_that_was_mirrored_anew_elsewhere_is_not_taken_for_absent"),
    ("rbd rm", "test_a_deletion_takes_no_other_image_along"),
    ("rbd flatten", "test_a_clone_by_snapshots_is_booted_once_it_is_mirrored_whole"),
    (
        "rbd mirror snapshot schedule add",
        "test_a_reverted_disk_is_seen_and_its_older_image_is_booted_nowhere",
    ),
    ("ceph osd pool set-quota", "test_a_boot_on_a_full_pool_waits_for_room"),
];

/// Commands of the pages that no test types, and why.
const NOT_TYPED: [(&str, &str); 13] = [
    ("onevm show", "is read by a person; the tests read the same by XML-RPC"),
    ("./tests/run", "runs the tests"),
    ("tests/faults", "the same; its last part are such schedules"),
    ("PYTHONPATH=lab lab/.cache/venv/bin/pytest", "the same"),
    ("cargo build --workspace", "the same: first of all it builds"),
    ("lab/up", "a lab that stays; the tests' own labs are made by the same function"),
    ("lab/shell", "the same: a shell for a person"),
    ("lab/down", "the same"),
    ("export CEPH_ARGS=", "changes nothing but the shell"),
    ("ceph df detail", "is read by a person; the lab reads the same as JSON"),
    ("ceph osd pool create", "the lab's pools are made by lab/clusters, with its own settings"),
    ("rbd pool init", "the same"),
    ("onedatastore create", "the stand-in front-end makes datastores by XML-RPC alone"),
];

/// The lines of the blocks of a page, each with the kind of its block; indented ones are `sh`.
fn lines_of_blocks<'a>(name: &str, page: &'a str) -> Vec<(&'a str, &'a str)> {
    let (mut found, mut kind, mut after_blank) = (Vec::new(), None, true);
    for line in page.lines() {
        match (line.strip_prefix("```"), kind) {
            (Some(""), Some(_)) => kind = None,
            (Some(""), None) => panic!("{name}: a block of no kind"),
            (Some(begins), _) => kind = Some(begins),
            (None, Some(kind)) => found.push((kind, line)),
            (None, None) if after_blank && line.starts_with("    ") => found.push(("sh", line)),
            (None, None) => {}
        }
        after_blank = line.is_empty() || after_blank && line.starts_with("    ");
    }
    found
}

/// The commands of the blocks of a page: all lines of `sh`, those behind a prompt of `console`.
fn commands(name: &str, page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, line) in lines_of_blocks(name, page) {
        let line = line.split(" #").next().unwrap().trim();
        let command = match kind {
            "sh" => Some(line),
            "console" => line.split_once("$ ").filter(|(site, _)| !site.contains(' ')).map(|(_, rest)| rest),
            "text" | "json" | "ini" => None,
            other => panic!("{name}: a block of kind {other:?}"),
        };
        // of a pipe the first part is what is told
        let parts = command.into_iter().flat_map(|command| command.split(" && "));
        let parts = parts.map(|part| part.split(" | ").next().unwrap().to_owned());
        found.extend(parts.filter(|part| !part.is_empty()));
    }
    found
}

/// A command's words, as a shell takes quotes away.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in command.split('"').enumerate() {
        match number % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// The file of each lab and package test.
fn lab_tests() -> BTreeMap<String, String> {
    let mut tests = BTreeMap::new();
    for path in files("tests", ".py") {
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("def test_")) {
            tests.insert(format!("test_{}", line.split('(').next().unwrap()), text.clone());
        }
    }
    tests
}

#[test]
fn every_command_of_a_page_is_typed_by_a_test_or_has_a_reason_why_not() {
    let mut used = BTreeSet::new();
    for (name, page) in pages() {
        for command in commands(&name, &page) {
            if command.starts_with("onemirror ") {
                let parsed = Cli::try_parse_from(words(&command));
                parsed.unwrap_or_else(|error| panic!("{name}: {command}: {error}"));
                continue;
            }
            if let Some(rest) = command.strip_prefix("./install.sh ") {
                let parsed = Cli::try_parse_from(words(&format!("onemirror setup {rest}")));
                parsed.unwrap_or_else(|error| panic!("{name}: {command}: {error}"));
            }
            let known = TYPED.iter().chain(&NOT_TYPED).map(|known| known.0);
            let begins = known.filter(|known| command.starts_with(known)).max_by_key(|known| known.len());
            used.insert(begins.unwrap_or_else(|| panic!("{name}: no test types {command}")));
        }
    }
    for (begins, _) in TYPED.iter().chain(&NOT_TYPED) {
        assert!(used.contains(begins), "no page has {begins}");
    }
    let tests = lab_tests();
    for (begins, test) in TYPED {
        let text = tests.get(test).unwrap_or_else(|| panic!("{begins}: there is no {test}"));
        let last = begins.split([' ', '/']).next_back().unwrap().trim_start_matches('-');
        assert!(last == "demo" || text.contains(last), "{begins}: the file of {test} has no {last}");
    }
}
