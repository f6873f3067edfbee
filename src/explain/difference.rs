//! What differs between two manifests, value by value.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::key::{Manifest, Value};

/// The name of the value that stands for all that came before.
pub(super) const PARENT: &str = "parent";

/// One value of a key that is another than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// What it was; `None` where it was not there.
    pub before: Option<Value>,
    /// What it is; `None` where it is not there any more.
    pub now: Option<Value>,
}

/// What differs, in the order of the new manifest and then of the old one. The parent is left out:
/// that it differs says only that something before this differs.
#[must_use]
pub fn differences(before: &Manifest, now: &Manifest) -> Vec<Difference> {
    let old = by_name(before);
    let new = by_name(now);
    let changed = now
        .fields
        .iter()
        .filter(|(name, value)| match (old.get(name.as_str()), value) {
            // What was written down of a secret says nothing about it.
            (Some(Value::Secret(_)), Value::Secret(_)) => false,
            (before, now) => before != Some(&now),
        })
        .map(|(name, value)| (name, Some(value.clone())));
    let gone = before
        .fields
        .iter()
        .filter(|(name, _)| !new.contains_key(name.as_str()))
        .map(|(name, _)| (name, None));
    changed
        .chain(gone)
        .filter(|(name, _)| name.as_str() != PARENT)
        .map(|(name, now)| Difference {
            name: name.clone(),
            before: old.get(name.as_str()).map(|value| (*value).clone()),
            now,
        })
        .collect()
}

/// The values of a manifest by their names.
pub(super) fn by_name(manifest: &Manifest) -> BTreeMap<&str, &Value> {
    manifest.fields.iter().map(|(name, value)| (name.as_str(), value)).collect()
}

impl Difference {
    /// The difference with nothing cut off.
    #[must_use]
    pub fn whole(&self) -> String {
        self.told(usize::MAX)
    }

    /// The difference, with values of at most so many characters.
    fn told(&self, longest: usize) -> String {
        let Self { name, before, now } = self;
        let lines = match (before, now) {
            (Some(Value::Text(before)), Some(Value::Text(now))) if longest < usize::MAX => {
                first_line(before, now)
            }
            _ => None,
        };
        if let Some((line, before, now)) = lines {
            let before = before.map(|text| quoted(text, longest));
            let now = now.map(|text| quoted(text, longest));
            return match (before, now) {
                (Some(before), Some(now)) => format!("{name}: line {line}: {before} → {now}"),
                (None, Some(now)) => format!("{name}: line {line}: {now} is new"),
                (Some(before), None) => format!("{name}: line {line}: {before} is gone"),
                (None, None) => format!("{name}: its last line ends in another way"),
            };
        }
        let shown = |value: &Value| shown(name, value, longest);
        match (before, now) {
            (Some(before), Some(now)) => format!("{name}: {} → {}", shown(before), shown(now)),
            (None, Some(now)) => format!("{name}: {} is new", shown(now)),
            (Some(before), None) => format!("{name}: {} is gone", shown(before)),
            (None, None) => name.clone(),
        }
    }
}

impl fmt::Display for Difference {
    /// On one line of bounded length: digests in short, long values cut, and of texts of several
    /// lines the first one that differs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        f.write_str(&self.told(LONGEST))
    }
}

/// The number of the first line that differs, from 1, and what it was and is; nothing where neither
/// text has several lines.
fn first_line<'a>(
    before: &'a str,
    now: &'a str,
) -> Option<(usize, Option<&'a str>, Option<&'a str>)> {
    // A line end behind the only line makes no second one.
    let several = |text: &str| text.trim_end_matches('\n').contains('\n');
    if !several(before) && !several(now) {
        return None;
    }
    let (mut old, mut new) = (before.lines(), now.lines());
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => return Some((number, None, None)),
            (before, now) if before != now => return Some((number, before, now)),
            _ => {}
        }
    }
    None
}

/// A value on one line, with control characters escaped.
fn shown(name: &str, value: &Value, longest: usize) -> String {
    const MIB: u64 = 1 << 20;
    match value {
        Value::Text(text) => quoted(text, longest),
        Value::Number(bytes) if is_size(name) && bytes.is_multiple_of(MIB) => {
            format!("{} MiB", bytes / MIB)
        }
        Value::Digest(digest) if longest == usize::MAX => digest.to_string(),
        Value::Flag(true) => "yes".to_owned(),
        Value::Flag(false) => "no".to_owned(),
        value => value.to_string(),
    }
}

fn is_size(name: &str) -> bool {
    last_part(name) == "size"
}

/// What the name of a value ends with: `size` of `partitions[0].size`.
pub(super) fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// A text in quotes, with control characters escaped, cut behind so many characters.
pub(super) fn quoted(text: &str, longest: usize) -> String {
    let mut cut = text.char_indices().map(|(at, _)| at);
    match cut.nth(longest) {
        Some(end) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(fields: &[(&str, Value)]) -> Manifest {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Manifest { fields: fields.collect() }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let before = manifest(&[
            ("parent", Value::Number(1)),
            ("same", Value::Flag(true)),
            ("path", text("/a")),
            ("owner", text("root")),
            ("size", Value::Number(1 << 30)),
            ("network", Value::Flag(false)),
        ]);
        let now = manifest(&[
            ("parent", Value::Number(2)),
            ("same", Value::Flag(true)),
            ("path", text("/b")),
            ("mode", text("0644")),
            ("size", Value::Number(2 << 30)),
            ("network", Value::Flag(true)),
        ]);
        let told: Vec<_> = differences(&before, &now).iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        path: "/a" → "/b"
        mode: "0644" is new
        size: 1024 MiB → 2048 MiB
        network: no → yes
        owner: "root" is gone
        "#);
    }

    #[test]
    fn of_several_lines_the_first_that_differs_is_told() {
        let told = |before: &str, now: &str| {
            let (before, now) = (manifest(&[("x", text(before))]), manifest(&[("x", text(now))]));
            differences(&before, &now)[0].to_string()
        };
        assert_eq!(told("a\nb\nc\n", "a\nB\nc\n"), r#"x: line 2: "b" → "B""#);
        assert_eq!(told("a\nb\n", "a\nb\nc\n"), r#"x: line 3: "c" is new"#);
        assert_eq!(told("a\nb\nc", "a\nb"), r#"x: line 3: "c" is gone"#);
        assert_eq!(told("a\nb", "a\nb\n"), "x: its last line ends in another way");
        assert_eq!(told("a\n", "a"), r#"x: "a\n" → "a""#);
    }

    #[test]
    fn what_is_shown_is_short_and_commands_no_terminal() {
        let long = "é".repeat(100);
        let before = manifest(&[("x", text(&long))]);
        let now = manifest(&[("x", text("\u{1b}[31m\u{202e}"))]);
        let difference = &differences(&before, &now)[0];
        let told = difference.to_string();
        assert!(told.chars().count() < 130 && told.contains('…'), "{told}");
        assert!(!told.contains('\u{1b}') && !told.contains('\u{202e}'), "{told}");
        assert!(difference.whole().contains(&long));
    }
}
