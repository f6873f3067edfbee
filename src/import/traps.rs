//! The trap report: where an old command does not do what its author may think, and what could not
//! be translated.
//!
//! Every finding is a warning with a place in the input. Findings that would repeat for each command
//! of a script are made once for an image.

use std::collections::BTreeSet;

use super::draft::{ImageDraft, Node};
use crate::mistake::Mistake;
use crate::source::Span;

/// What cannot be translated; the only finding that `--strict` refuses.
pub(super) const NOT_IMPORTED: &str = "kiln::import::not_imported";

/// The findings of one run.
#[derive(Debug, Default)]
pub(super) struct Traps {
    list: Vec<Mistake>,
    /// What is in the list: a list of passwords, say, may find one thing twice.
    known: BTreeSet<(&'static str, Span, String)>,
    /// Codes that were reported for an image, by its name.
    once: Vec<(String, &'static str)>,
}

impl Traps {
    /// All findings, in the order in which they were made.
    pub(super) fn into_list(self) -> Vec<Mistake> {
        self.list
    }

    pub(super) fn push(
        &mut self,
        span: Span,
        code: &'static str,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        let message = message.into();
        if self.known.insert((code, span, message.clone())) {
            self.list.push(Mistake::at(span, code, message, label).help(help).warning());
        }
    }

    /// Something that kiln has no word for, and that stands as a comment in the recipe.
    pub(super) fn left(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(span, NOT_IMPORTED, message, "kept as a comment", help);
    }

    /// A finding that says the same for every command of an image.
    pub(super) fn once(
        &mut self,
        image: &str,
        span: Span,
        code: &'static str,
        text: (&str, &str, &str),
    ) {
        if !self.once.iter().any(|(known, said)| known == image && *said == code) {
            self.once.push((image.to_owned(), code));
            let (message, label, help) = text;
            self.push(span, code, message, label, help);
        }
    }
}

impl Traps {
    /// The password that virt-builder makes up for root, unless a later command sets one.
    pub(super) fn root_password(&mut self, image: &ImageDraft) {
        let root = |node: &Node| {
            node.word == "password" && node.arguments.first().is_some_and(|user| user == "root")
        };
        if let Some(span) = image.built.filter(|_| !image.steps().any(root)) {
            self.push(
                span,
                "kiln::import::root_password",
                "virt-builder gives root a random password, and prints it, unless it is told one",
                "no password of root is named here",
                "root keeps what the base has: write `password \"root\" random=#true` for a random \
                 one, or `locked=#true` for none",
            );
        }
    }
}

/// The package manager that a script calls by name to install, if there is one.
pub(super) fn hard_coded_manager(script: &str) -> Option<&'static str> {
    const CALLS: &[(&str, &[&str])] = &[
        ("apt-get", &["install"]),
        ("apt", &["install"]),
        ("aptitude", &["install"]),
        ("yum", &["install", "localinstall", "groupinstall"]),
        ("dnf", &["install", "groupinstall"]),
        ("microdnf", &["install"]),
        ("zypper", &["install", "in"]),
        ("apk", &["add"]),
        ("pacman", &["-S", "-Sy", "-Syu"]),
    ];
    for command in script.split(['\n', ';', '&', '|', '(', ')', '`']) {
        let mut words = command.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
        let first = words.find(|word| {
            !word.contains('=') && !matches!(*word, "sudo" | "exec" | "env" | "then" | "do" | "-E")
        });
        let Some(first) = first else { continue };
        let first = first.rsplit('/').next().unwrap_or(first);
        let call = CALLS.iter().find(|(name, _)| *name == first);
        if let Some((name, verbs)) = call
            && words.any(|word| verbs.contains(&word))
        {
            return Some(name);
        }
    }
    None
}

/// Whether a distribution of Red Hat's family is in a name, which then has SELinux.
pub(super) fn is_red_hat(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let families = ["centos", "rhel", "fedora", "rocky", "alma", "oracle", "scientific"];
    families.iter().any(|family| name.contains(family))
}
