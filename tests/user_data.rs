//! User data and Heat templates, as those who read them see them: cloud-init's own code, Python's
//! `email` and YAML, Heat's own engine, and a live Heat that a script tells that it is done.

#[path = "remote/servers.rs"]
#[expect(dead_code, reason = "shared with the tests of remotes")]
mod servers;

#[path = "user_data/commands.rs"]
mod commands;
#[path = "user_data/configs.rs"]
mod configs;
#[path = "user_data/documents.rs"]
mod documents;
#[path = "user_data/live.rs"]
mod live;
#[path = "user_data/mistakes.rs"]
mod mistakes;
#[path = "user_data/seeds.rs"]
mod seeds;
#[path = "user_data/templates.rs"]
mod templates;
#[path = "user_data/yaml.rs"]
mod yaml;

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use kiln::recipe::UserData;
use kiln::source::{FileId, Span, Spanned};
use kiln::user_data::{self, File};
use kiln::workspace::{self, Workspace};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// A place in no file.
fn nowhere() -> Span {
    Span { file: FileId(0), offset: 0, len: 0 }
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned { value, span: nowhere() }
}

/// Many values of a strategy, always the same: what reads them takes them all at once.
fn many<S: Strategy>(strategy: &S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Runs a script of these tests with the distribution's Python, which has what it imports, and reads
/// its answer.
fn python(script: &str, arguments: &[&Path]) -> String {
    let output = Command::new("/usr/bin/python3")
        .arg(servers::repository("tests/user_data").join(script))
        .args(arguments)
        .output()
        .expect("python3; see `kiln doctor --tests`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes each of some contents into a file of its own, in their order.
fn files<T: AsRef<[u8]>>(contents: &[T]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (number, content) in contents.iter().enumerate() {
        fs::write(directory.path().join(format!("{number:04}")), content).unwrap();
    }
    directory
}

fn decoded(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// A workspace with one recipe and files beside it.
fn tree(recipe: &str, files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let recipes = directory.path().join("recipes");
    fs::create_dir(&recipes).unwrap();
    fs::write(recipes.join("a.kdl"), recipe).unwrap();
    for (name, content) in files {
        fs::write(recipes.join(name), content).unwrap();
    }
    directory
}

fn load(tree: &tempfile::TempDir) -> Workspace {
    workspace::load(tree.path()).unwrap()
}

/// The user data of a name, with its files.
fn read(workspace: &Workspace, name: &str) -> UserData<File> {
    let all = &workspace.documents.user_data;
    let found = all.iter().find(|one| one.name.value.as_str() == name).unwrap();
    user_data::read(workspace, found).unwrap()
}
