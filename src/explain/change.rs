//! What differences mean: the values of a key put together under what a person would call them.
//!
//! Each difference belongs to exactly one change, so that none is lost on the way to the reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::difference::{self, Difference, by_name, differences, last_part, quoted};
use crate::inputs::Input;
use crate::key::{Action, Manifest, Operation, Value};
use crate::recipe::Origin;

/// Something about a step that is another than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is about.
    #[serde(flatten)]
    pub topic: Topic,
    /// The values of the key that show it.
    pub fields: Vec<Difference>,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum Topic {
    /// The whole scheme of keys: another version of kiln.
    Schema,
    /// How kiln runs steps, whatever they are.
    Executor,
    /// How kiln does this kind of step.
    Epoch {
        /// The kind of step.
        operation: String,
    },
    /// The host's architecture.
    Architecture,
    /// The step is of another kind.
    Operation {
        /// What it was.
        before: String,
        /// What it is.
        now: String,
    },
    /// The number that the lock file gives to the step: it is to be run again.
    Generation,
    /// The time, of which a `refresh` makes periods.
    Period,
    /// The file that the name of a base stands for.
    Base {
        /// The name, as the recipe has it.
        origin: String,
        /// Whether the lock file says what it stands for.
        locked: bool,
    },
    /// The content of a file or tree of the workspace.
    File {
        /// Its path from the workspace's root.
        path: PathBuf,
    },
    /// The version of a secret.
    Secret {
        /// The secret.
        name: String,
    },
    /// The members of a list.
    List {
        /// The list.
        name: String,
        /// Members that were not there.
        added: Vec<String>,
        /// Members that are not there any more.
        removed: Vec<String>,
    },
    /// One value as the recipe says it.
    Value,
}

/// Where the values of a key come from that are digests of something larger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file or tree that the operation reads.
    pub file: Option<PathBuf>,
    /// What is attached.
    pub attached: Vec<PathBuf>,
    /// The name of a base that is downloaded, and whether the lock file says what it stands for.
    pub origin: Option<(String, bool)>,
}

impl Sources {
    /// Those of an action of the workspace with that root.
    #[must_use]
    pub fn of(action: &Action, root: &Path) -> Self {
        let path = |input: &Input| input.path.strip_prefix(root).unwrap_or(&input.path).to_owned();
        let mut sources = Self {
            attached: action.aids.attached.iter().map(|attached| path(&attached.source)).collect(),
            ..Self::default()
        };
        match &action.operation {
            Operation::File(base) => sources.file = Some(path(&base.file)),
            Operation::Fetch(base) => {
                let locked = !matches!(base.origin, Origin::Url(_));
                sources.origin = Some((base.origin.to_string(), locked));
            }
            Operation::Step(kind) => {
                // No step reads more than one.
                let Ok(_) = kind.map_files(|input| {
                    sources.file = Some(path(input));
                    Ok::<_, std::convert::Infallible>(())
                });
            }
            Operation::Bootstrap(_)
            | Operation::Scratch(_)
            | Operation::Grow(_)
            | Operation::Test(_)
            | Operation::Seal(_) => {}
        }
        sources
    }

    /// The file or tree whose digest a value is.
    fn path(&self, field: &str) -> Option<&PathBuf> {
        if last_part(field) == "name" {
            return None;
        }
        let Some(rest) = field.strip_prefix("attached[") else { return self.file.as_ref() };
        let number: usize = rest.strip_suffix(']')?.parse().ok()?;
        self.attached.get(number)
    }
}

/// What differs between two manifests, each difference in one change; `sources` are the new one's.
/// None exactly if their keys agree up to parents and secrets.
#[must_use]
pub fn changes(before: &Manifest, now: &Manifest, sources: &Sources) -> Vec<Change> {
    let (old, new) = (by_name(before), by_name(now));
    let mut changes: Vec<Change> = Vec::new();
    for difference in differences(before, now) {
        // A list is compared once, however many members it has.
        let list = list_of(&difference.name);
        let of_list = |change: &&mut Change| match &change.topic {
            Topic::List { name, .. } => Some(name.as_str()) == list,
            _ => false,
        };
        if let Some(change) = changes.iter_mut().find(of_list) {
            change.fields.push(difference);
            continue;
        }
        let topic = topic(&difference, &old, &new, sources);
        // Neighbours or not: what is about one thing is told once.
        match changes.iter_mut().find(|change| change.topic == topic && topic != Topic::Value) {
            Some(change) => change.fields.push(difference),
            None => changes.push(Change { topic, fields: vec![difference] }),
        }
    }
    changes
}

type Fields<'a> = BTreeMap<&'a str, &'a Value>;

fn topic(difference: &Difference, old: &Fields, new: &Fields, sources: &Sources) -> Topic {
    let name = difference.name.as_str();
    let text = |fields: &Fields, name: &str| match fields.get(name) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let operation = |fields: &Fields| text(fields, "operation").unwrap_or_default();
    match name {
        "schema" => return Topic::Schema,
        "executor" | "executor.epoch" => return Topic::Executor,
        "architecture" => return Topic::Architecture,
        "generation" if both_numbers(difference) => return Topic::Generation,
        "generation.bucket" if both_numbers(difference) => return Topic::Period,
        "network" | "generation" | "generation.bucket" => return Topic::Value,
        name if name.starts_with("attached[")
            || name.starts_with("secrets[")
            || name.starts_with("subscription") => {}
        _ => {
            let (before, now) = (operation(old), operation(new));
            if before != now {
                return Topic::Operation { before, now };
            }
            if name == "operation.epoch" {
                return Topic::Epoch { operation: now };
            }
        }
    }
    if let Some(secret) = name.strip_suffix(".version")
        && let Some(name) = text(new, secret)
        && text(old, secret).as_ref() == Some(&name)
    {
        return Topic::Secret { name };
    }
    if matches!(name, "sha256" | "sha512")
        && let Some((origin, locked)) = &sources.origin
    {
        return Topic::Base { origin: origin.clone(), locked: *locked };
    }
    if let (Some(Value::Digest(_)), Some(Value::Digest(_))) = (&difference.before, &difference.now)
        && let Some(path) = sources.path(name)
    {
        return Topic::File { path: path.clone() };
    }
    match list_of(name) {
        Some(list) => in_list(list, old, new).unwrap_or(Topic::Value),
        None => Topic::Value,
    }
}

fn both_numbers(difference: &Difference) -> bool {
    let number = |value: &Option<Value>| matches!(value, Some(Value::Number(_)));
    number(&difference.before) && number(&difference.now)
}

/// The list that a value is the length or a member of.
fn list_of(name: &str) -> Option<&str> {
    let member = || name.strip_suffix(']')?.rsplit_once('[').map(|(list, _)| list);
    name.strip_suffix(".count").or_else(member)
}

/// How a list has changed; nothing where it is no list of texts.
fn in_list(list: &str, old: &Fields, new: &Fields) -> Option<Topic> {
    let (before, now) = (members(list, old)?, members(list, new)?);
    let missing = |from: &[&str], in_: &[&str]| {
        let known: BTreeSet<&str> = from.iter().copied().collect();
        in_.iter().filter(|text| !known.contains(*text)).map(ToString::to_string).collect()
    };
    let (added, removed) = (missing(&before, &now), missing(&now, &before));
    Some(Topic::List { name: list.to_owned(), added, removed })
}

fn members<'a>(list: &str, fields: &Fields<'a>) -> Option<Vec<&'a str>> {
    let Some(Value::Number(count)) = fields.get(format!("{list}.count").as_str()) else {
        return None;
    };
    let start = format!("{list}[");
    let own = fields.range(start.as_str()..).take_while(|(name, _)| name.starts_with(&start));
    // A member with parts of its own is no text.
    let own = own.map(|(name, value)| match value {
        Value::Text(text) if name.ends_with(']') => {
            let number: u64 = name.strip_prefix(&start)?.strip_suffix(']')?.parse().ok()?;
            Some((number, text.as_str()))
        }
        _ => None,
    });
    let texts: BTreeMap<u64, &str> = own.collect::<Option<_>>()?;
    (texts.len() as u64 == *count).then(|| texts.into_values().collect())
}

impl fmt::Display for Change {
    /// On one line of bounded length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.fields.first();
        let from_to = || {
            let value = |value: &Option<Value>| {
                value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
            };
            first
                .map(|first| format!("{} → {}", value(&first.before), value(&first.now)))
                .unwrap_or_default()
        };
        match &self.topic {
            Topic::Schema => write!(f, "this kiln has other keys: schema {}", from_to()),
            Topic::Executor => write!(f, "this kiln runs steps in another way: {}", from_to()),
            Topic::Epoch { operation } => {
                write!(f, "this kiln does `{}` in another way: epoch ", plain(operation))?;
                f.write_str(&from_to())
            }
            Topic::Architecture => write!(f, "the host is of another kind: {}", from_to()),
            Topic::Operation { before, now } => {
                write!(f, "it was `{}` and is `{}`", plain(before), plain(now))
            }
            Topic::Generation => {
                let number = |value: Option<&Value>| match value {
                    Some(Value::Number(number)) => *number,
                    _ => 0,
                };
                let before = number(first.and_then(|first| first.before.as_ref()));
                let now = number(first.and_then(|first| first.now.as_ref()));
                let what =
                    if now > before { "to be run again" } else { "an earlier run is wanted" };
                write!(f, "{what}: generation {before} → {now} in kiln.lock")
            }
            Topic::Period => write!(f, "another period of its `refresh`: {}", from_to()),
            Topic::Base { origin, locked } => {
                let origin = plain(origin);
                if *locked {
                    write!(f, "kiln.lock has another file for `{origin}`")?;
                } else {
                    write!(f, "`{origin}` is another file")?;
                }
                write!(f, ": {}", self.sums())
            }
            Topic::File { path } => {
                write!(f, "{} changed: {}", plain(&path.to_string_lossy()), from_to())
            }
            Topic::Secret { name } => {
                write!(f, "the secret `{}` has another version: {}", plain(name), from_to())
            }
            Topic::List { name, added, removed } => list(f, name, added, removed),
            Topic::Value => match first {
                Some(difference) => difference.fmt(f),
                None => Ok(()),
            },
        }
    }
}

impl Change {
    /// The checksums of a base, each cut short.
    fn sums(&self) -> String {
        let sum = |of: fn(&Difference) -> &Option<Value>| {
            let found = self.fields.iter().find_map(|field| match of(field) {
                Some(Value::Text(digits)) => Some(format!(
                    "{} {}…",
                    field.name,
                    plain(&digits.chars().take(12).collect::<String>())
                )),
                _ => None,
            });
            found.unwrap_or_else(|| "nothing".to_owned())
        };
        format!("{} → {}", sum(|field| &field.before), sum(|field| &field.now))
    }
}

/// What came into a list and what went, at most so many of each.
fn list(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    added: &[String],
    removed: &[String],
) -> fmt::Result {
    const MOST: usize = 4;
    if added.is_empty() && removed.is_empty() {
        return write!(f, "{name}: the same in another order or number");
    }
    write!(f, "{name}:")?;
    for (sign, texts) in [('+', added), ('−', removed)] {
        for text in texts.iter().take(MOST) {
            write!(f, " {sign}{}", quoted(text, 40))?;
        }
        if texts.len() > MOST {
            write!(f, " {sign}{} more", texts.len() - MOST)?;
        }
    }
    Ok(())
}

/// A name from a file or from elsewhere without what could command a terminal.
pub(super) fn plain(text: &str) -> String {
    let quoted = difference::quoted(text, 120);
    // Without its quotes; and what was escaped for their sake.
    let inner = quoted.trim_end_matches('…');
    let cut = if inner.len() < quoted.len() { "…" } else { "" };
    let inner = inner.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(inner);
    format!("{}{cut}", inner.replace("\\\"", "\"").replace("\\'", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn manifest(fields: &[(&str, Value)]) -> Manifest {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Manifest { fields: fields.collect() }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn told(before: &[(&str, Value)], now: &[(&str, Value)], sources: &Sources) -> String {
        let changes = changes(&manifest(before), &manifest(now), sources);
        changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_topic_has_its_words() {
        let old = [
            ("schema", Value::Number(1)),
            ("executor", text("native")),
            ("executor.epoch", Value::Number(1)),
            ("architecture", text("x86_64")),
            ("network", Value::Flag(false)),
            ("generation", Value::Number(1)),
            ("generation.bucket", Value::Number(20_418)),
            ("attached[0]", Value::Digest(Digest::of(b"a"))),
            ("secrets[0]", text("token")),
            ("secrets[0].version", text("1")),
            ("operation", text("copy-in")),
            ("operation.epoch", Value::Number(1)),
            ("packages.count", Value::Number(2)),
            ("packages[0]", text("nginx")),
            ("packages[1]", text("vim")),
            ("source", Value::Digest(Digest::of(b"c"))),
            ("source.name", text("site")),
        ];
        let new = [
            ("schema", Value::Number(2)),
            ("executor", text("native")),
            ("executor.epoch", Value::Number(2)),
            ("architecture", text("aarch64")),
            ("network", Value::Flag(true)),
            ("generation", Value::Number(2)),
            ("generation.bucket", Value::Number(20_419)),
            ("attached[0]", Value::Digest(Digest::of(b"b"))),
            ("secrets[0]", text("token")),
            ("secrets[0].version", text("2")),
            ("operation", text("copy-in")),
            ("operation.epoch", Value::Number(2)),
            ("packages.count", Value::Number(2)),
            ("packages[0]", text("curl")),
            ("packages[1]", text("nginx")),
            ("source", Value::Digest(Digest::of(b"d"))),
            ("source.name", text("web")),
        ];
        let sources = Sources {
            file: Some("recipes/files/si\nte".into()),
            attached: vec!["recipes/tools".into()],
            origin: None,
        };
        insta::assert_snapshot!(told(&old, &new, &sources), @r#"
        this kiln has other keys: schema 1 → 2
        this kiln runs steps in another way: 1 → 2
        the host is of another kind: "x86_64" → "aarch64"
        network: no → yes
        to be run again: generation 1 → 2 in kiln.lock
        another period of its `refresh`: 20418 → 20419
        recipes/tools changed: 17762fddd969 → 10e5cf3d3c8a
        the secret `token` has another version: "1" → "2"
        this kiln does `copy-in` in another way: epoch 1 → 2
        packages: +"curl" −"vim"
        recipes/files/si\nte changed: ea7aa1fc9efd → d5ede538f628
        source.name: "site" → "web"
        "#);
        let other = [("operation", text("upload")), ("mode", text("0644"))];
        insta::assert_snapshot!(told(&old[10..12], &other, &sources), @"it was `copy-in` and is `upload`");
        let base = |sum: &str, kind| [("operation", text("fetch")), (kind, text(sum))];
        let (old, new) = (base(&"ab".repeat(32), "sha256"), base(&"cd".repeat(64), "sha512"));
        let sources = |origin: &str, locked| Sources {
            origin: Some((origin.to_owned(), locked)),
            ..Sources::default()
        };
        insta::assert_snapshot!(told(&old, &new, &sources("catalog debian-12", true)), @"kiln.lock has another file for `catalog debian-12`: sha256 abababababab… → sha512 cdcdcdcdcdcd…");
        insta::assert_snapshot!(told(&old, &new, &sources("https://a.example/d", false)), @"`https://a.example/d` is another file: sha256 abababababab… → sha512 cdcdcdcdcdcd…");
    }

    #[test]
    fn lists_tell_what_came_and_went() {
        let list = |texts: &[&str]| {
            let mut fields = vec![("x.count".to_owned(), Value::Number(texts.len() as u64))];
            let member = |(at, member): (usize, &&str)| (format!("x[{at}]"), text(member));
            fields.extend(texts.iter().enumerate().map(member));
            Manifest { fields }
        };
        let told = |before: &[&str], now: &[&str]| {
            let changes = changes(&list(before), &list(now), &Sources::default());
            let [change] = changes.as_slice() else { panic!("{changes:?}") };
            change.to_string()
        };
        assert_eq!(told(&["a", "b"], &["b", "c"]), r#"x: +"c" −"a""#);
        assert_eq!(told(&["a", "b"], &["b", "a"]), "x: the same in another order or number");
        assert_eq!(told(&["a"], &["a", "a"]), "x: the same in another order or number");
        let many: Vec<String> = (10..22).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(told(&["10"], &many), r#"x: +"11" +"12" +"13" +"14" +7 more"#);
    }

    #[test]
    fn a_name_is_plain() {
        assert_eq!(plain("it's \"so\""), "it's \"so\"");
        assert_eq!(plain("a\u{1b}[0m"), "a\\u{1b}[0m");
        assert_eq!(plain(&"x".repeat(200)).chars().count(), 121);
    }
}
