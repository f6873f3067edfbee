//! Why an action runs: the difference between two manifests.
//!
//! It compares what the key is made of, and so cannot name a cause that is not one.

use std::collections::BTreeMap;
use std::fmt;

use crate::key::{Manifest, Value};

/// One value of a key that is another than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// What it was; `None` where it was not there.
    pub before: Option<Value>,
    /// What it is; `None` where it is not there any more.
    pub now: Option<Value>,
}

/// Why an action runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It was never built here.
    New,
    /// Something in its key is another than at the last build.
    Changed(Vec<Difference>),
    /// The one before it runs.
    Parent,
    /// It was built, and its result is gone.
    Gone,
    /// Nothing in its key is another than before but a secret, which nobody remembers.
    Secret,
}

/// What differs, in the order of the new manifest and then of the old one. The parent is left out:
/// that it differs says only that something before this differs.
#[must_use]
pub fn differences(before: &Manifest, now: &Manifest) -> Vec<Difference> {
    let old: BTreeMap<&str, &Value> =
        before.fields.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let new: BTreeMap<&str, &Value> =
        now.fields.iter().map(|(name, value)| (name.as_str(), value)).collect();
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
        .filter(|(name, _)| name.as_str() != "parent")
        .map(|(name, now)| Difference {
            name: name.clone(),
            before: old.get(name.as_str()).map(|value| (*value).clone()),
            now,
        })
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, before, now } = self;
        match (before, now) {
            (Some(before), Some(now)) => write!(f, "{name}: {} → {}", short(before), short(now)),
            (None, Some(now)) => write!(f, "{name}: {} is new", short(now)),
            (Some(before), None) => write!(f, "{name}: {} is gone", short(before)),
            (None, None) => write!(f, "{name}"),
        }
    }
}

/// A value on one line of bounded length.
fn short(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= LONGEST {
        return text;
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("{head}…")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("never built here"),
            Self::Parent => f.write_str("the step before it runs"),
            Self::Gone => f.write_str("its result is gone from the store"),
            Self::Secret => f.write_str("a secret is another"),
            Self::Changed(differences) => {
                for (at, difference) in differences.iter().take(3).enumerate() {
                    if at > 0 {
                        f.write_str("; ")?;
                    }
                    difference.fmt(f)?;
                }
                match differences.len() {
                    0..=3 => Ok(()),
                    more => write!(f, "; and {} more", more - 3),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(fields: &[(&str, Value)]) -> Manifest {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Manifest { fields: fields.collect() }
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let before = manifest(&[
            ("parent", Value::Number(1)),
            ("same", Value::Flag(true)),
            ("path", Value::Text("/a".into())),
            ("owner", Value::Text("root".into())),
        ]);
        let now = manifest(&[
            ("parent", Value::Number(2)),
            ("same", Value::Flag(true)),
            ("path", Value::Text("/b".into())),
            ("mode", Value::Text("0644".into())),
        ]);
        insta::assert_snapshot!(
            Reason::Changed(differences(&before, &now)),
            @r#"path: "/a" → "/b"; mode: "0644" is new; owner: "root" is gone"#
        );
    }
}
