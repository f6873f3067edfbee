//! What tests of guest operations share: a tree as text, and the difference of two.
//!
//! It judges nothing.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln::digest::Digest;
use kiln::guest::error::shown;

/// Everything that is seen of a tree: also the values of xattrs; without times and inode numbers.
pub fn state(top: &Path) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for entry in walkdir::WalkDir::new(top).min_depth(1) {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let mut line = format!("{:06o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_file() {
            let content = fs::read(entry.path()).unwrap();
            let text = String::from_utf8_lossy(&content);
            let text = if text.len() <= 100 {
                text.escape_debug().to_string()
            } else {
                Digest::of(&content).short()
            };
            write!(line, " \"{text}\"").unwrap();
        } else if meta.is_symlink() {
            write!(line, " -> {}", shown(fs::read_link(entry.path()).unwrap())).unwrap();
        }
        if !meta.is_dir() && meta.nlink() > 1 {
            write!(line, " {} names", meta.nlink()).unwrap();
        }
        if meta.rdev() != 0 {
            let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            write!(line, " device {major}:{minor}").unwrap();
        }
        let mut list = Vec::with_capacity(4096);
        rustix::fs::llistxattr(entry.path(), rustix::buffer::spare_capacity(&mut list)).unwrap();
        let mut names: Vec<_> = list.split(|byte| *byte == 0).collect();
        names.sort_unstable();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let mut value = Vec::with_capacity(4096);
            let spare = rustix::buffer::spare_capacity(&mut value);
            rustix::fs::lgetxattr(entry.path(), name, spare).unwrap();
            let name = String::from_utf8_lossy(name);
            write!(line, " [{name}={}]", value.escape_ascii()).unwrap();
        }
        state.insert(shown(entry.path().strip_prefix(top).unwrap()), line);
    }
    state
}

/// Every path that differs, a line each: `-` gone, `+` new, `~` changed.
pub fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for path in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        match (before.get(path), after.get(path)) {
            (Some(old), None) => writeln!(text, "- {path} {old}").unwrap(),
            (None, Some(new)) => writeln!(text, "+ {path} {new}").unwrap(),
            (Some(old), Some(new)) if old != new => {
                writeln!(text, "~ {path} {old} => {new}").unwrap();
            }
            _ => {}
        }
    }
    text
}
