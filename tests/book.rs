//! The book against itself, the recipes and the program: no page, file, command or flag in it that
//! does not exist, and none left out.
//!
//! Knows mdBook's `SUMMARY.md` and `{{#include}}`, and how the program's help looks. What the pages
//! say about recipes is `reference.rs`'s.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::WalkDir;

/// The commands of the program, hidden ones excepted.
const COMMANDS: &[&str] = &[
    "build",
    "plan",
    "why",
    "check",
    "check-image",
    "test",
    "boot",
    "lock",
    "bases",
    "log",
    "cache",
    "sbom",
    "provenance",
    "key",
    "push",
    "bundle",
    "user-data",
    "heat",
    "seed",
    "advise",
    "publish",
    "import",
    "doctor",
];
/// Those that stand behind another one.
const INNER: &[&str] = &[
    "cache ls",
    "cache du",
    "cache verify",
    "cache gc",
    "cache pin",
    "cache export",
    "cache import",
    "advise nova",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages with their texts, by their paths from `book/src`.
fn pages() -> Vec<(PathBuf, String)> {
    let book = root().join("book/src");
    let mut pages = Vec::new();
    for entry in WalkDir::new(&book).sort_by_file_name() {
        let entry = entry.expect("a readable book");
        if entry.path().extension().is_some_and(|ending| ending == "md") {
            let text = fs::read_to_string(entry.path()).expect("UTF-8");
            pages.push((entry.path().strip_prefix(&book).expect("below it").to_owned(), text));
        }
    }
    pages
}

/// The targets of a page's links, without those that lead out of the book.
fn links(text: &str) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://"))
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .filter(|target| !target.is_empty())
        .collect()
}

fn kiln(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(arguments)
        .env("COLUMNS", "100")
        .output()
        .expect("kiln runs");
    assert!(output.status.success(), "kiln {arguments:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// All commands, each as one text.
fn commands() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().chain(INNER).copied()
}

/// What a command says of itself.
fn help(command: &str) -> String {
    kiln(&command.split(' ').chain(["--help"]).collect::<Vec<_>>())
}

/// The long flags that a text names.
fn flags(text: &str) -> BTreeSet<String> {
    text.match_indices("--")
        .filter(|(at, _)| text[..*at].chars().next_back().is_none_or(|c| " `(\n[,".contains(c)))
        .map(|(at, _)| {
            let rest = &text[at + 2..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
            rest[..end.unwrap_or(rest.len())].to_owned()
        })
        .filter(|flag| !flag.is_empty())
        .collect()
}

#[test]
fn every_page_is_in_the_summary() {
    let pages = pages();
    let (_, summary) =
        pages.iter().find(|(path, _)| path == Path::new("SUMMARY.md")).expect("a summary");
    let listed: Vec<PathBuf> = links(summary).into_iter().map(PathBuf::from).collect();
    let once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), once.len(), "a page is listed twice");
    let there: BTreeSet<PathBuf> = pages
        .iter()
        .map(|(path, _)| path.clone())
        .filter(|path| path != Path::new("SUMMARY.md"))
        .collect();
    assert_eq!(once, there);
}

#[test]
fn every_link_leads_to_a_page() {
    let book = root().join("book/src");
    for (path, text) in pages() {
        let directory = book.join(path.parent().expect("a file has a directory"));
        for target in links(&text) {
            assert!(directory.join(&target).is_file(), "{}: {target}", path.display());
        }
    }
}

#[test]
fn every_recipe_shown_is_a_file() {
    let book = root().join("book/src");
    let mut shown = 0;
    for (path, text) in pages() {
        let directory = book.join(path.parent().expect("a file has a directory"));
        for rest in text.split("{{#include ").skip(1) {
            let target = rest.split("}}").next().expect("an end").trim();
            let file = target.split(':').next().expect("a path");
            assert!(directory.join(file).is_file(), "{}: {file}", path.display());
            shown += 1;
        }
        // What is no file may be out of date without anybody noticing.
        for block in text.split("```kdl\n").skip(1) {
            let block = block.split("```").next().expect("an end").trim();
            assert!(
                block.starts_with("{{#include ") && block.lines().count() == 1,
                "{}: a recipe that is no file: {block}",
                path.display()
            );
        }
    }
    assert!(shown > 0);
}

#[test]
fn the_help_texts() {
    let mut text = kiln(&["--help"]);
    for command in commands() {
        write!(text, "\n--- {command}\n{}", help(command)).expect("a string");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn every_command_and_flag_is_in_the_command_line_page() {
    let page = fs::read_to_string(root().join("book/src/reference/command-line.md"))
        .expect("the page of the command line");
    let listed = |help: String| -> Vec<String> {
        let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        let lines = list.unwrap_or_default().lines();
        let words = lines.filter_map(|line| line.split_whitespace().next());
        words.filter(|&command| command != "help").map(str::to_owned).collect()
    };
    let general = kiln(&["--help"]);
    assert_eq!(listed(general.clone()), COMMANDS);
    let of = |outer: &str, inner: String| format!("{outer} {inner}");
    let inner = COMMANDS
        .iter()
        .flat_map(|outer| listed(help(outer)).into_iter().map(move |inner| of(outer, inner)));
    assert_eq!(inner.collect::<Vec<_>>(), INNER);
    let section = |title: &str| {
        let title = format!("\n## {title}\n");
        let rest = page.split(&title).nth(1).unwrap_or_else(|| panic!("no section{title}"));
        rest.split("\n## ").next().unwrap_or_default()
    };
    let everywhere = flags(&general);
    assert_eq!(flags(section("Everywhere")), everywhere);
    for command in commands() {
        let own: BTreeSet<_> = flags(&help(command)).difference(&everywhere).cloned().collect();
        assert_eq!(flags(section(&format!("`kiln {command}`"))), own, "{command}");
    }
}

#[test]
fn every_command_shown_exists() {
    let known: BTreeSet<String> = commands()
        .flat_map(|command| flags(&help(command)))
        .chain(flags(&kiln(&["--help"])))
        .collect();
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    for (path, text) in pages().into_iter().chain([(PathBuf::from("README.md"), readme)]) {
        let starts = ["`kiln ", "\n$ kiln ", "\n$ cargo run --release -- "];
        for rest in starts.iter().flat_map(|start| text.split(start).skip(1)) {
            let line = rest.split(['`', '\n']).next().unwrap_or_default();
            let command = line.split_whitespace().next().unwrap_or_default();
            // The contexts of digests start with a year.
            if command.starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            let place = format!("{}: kiln {line}", path.display());
            let general = ["completions", "-C", "--help", "--version"];
            assert!(COMMANDS.contains(&command) || general.contains(&command), "{place}");
            for flag in flags(line) {
                assert!(known.contains(&flag), "{place}");
            }
        }
    }
}
