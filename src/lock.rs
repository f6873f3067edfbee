//! The lock file, committed beside the recipes: the generation of each impure step, and what the
//! names of downloaded disk images mean.
//!
//! `kiln build --refresh` raises generations; a new one is a new key, so that the step and all
//! behind it run again, for everyone who has the file. `kiln lock` looks names up. It is KDL, a line
//! each: `generation "debian-web/install" 3`, and
//! `resolved "template centos-7.2 x86_64" url="https://…" sha512="…" format="qcow2" revision=2`.

use std::collections::BTreeMap;
use std::path::Path;

use kdl::KdlNode;

use crate::files::{self, FileError, Host, read_bounded};
use crate::mistake::Mistake;
use crate::parse;
use crate::recipe::{Checksum, DiskFormat};
use crate::source::{FileId, Sources};

/// The lock file's name, in the workspace's root.
pub const LOCK_FILE: &str = "kiln.lock";

const LIMIT: u64 = 1 << 20;
const HEADER: &str = "// Made by `kiln build` and `kiln lock`: commit it with the recipes.\n";

/// What a lock file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// The generation of each step that ever had another than 0, by `IMAGE/STEP`.
    pub generations: BTreeMap<String, u64>,
    /// What names of disk images were found to mean, by [`crate::recipe::Origin`] as text.
    pub resolved: BTreeMap<String, Resolved>,
}

/// What the name of a disk image means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Where it is downloaded from.
    pub url: String,
    /// What its bytes must be, as they are downloaded.
    pub checksum: Checksum,
    /// The format of the disk, unpacked, where its source says it.
    pub format: Option<DiskFormat>,
    /// Which version of it that is, where its source counts them.
    pub revision: Option<u64>,
}

/// Why a lock file cannot be used.
#[derive(Debug)]
pub enum LockError {
    /// It cannot be read.
    File(FileError),
    /// It says something that makes no sense.
    Mistakes(Vec<Mistake>),
}

impl Lock {
    /// Reads the lock file of a workspace; one that is not there says nothing.
    ///
    /// # Errors
    /// Where it cannot be read or makes no sense.
    pub fn read(root: &Path, sources: &mut Sources) -> Result<Self, LockError> {
        let path = root.join(LOCK_FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let bytes = read_bounded(&path, LIMIT).map_err(LockError::File)?;
        let (file, document) = parse::read(sources, LOCK_FILE.into(), &bytes);
        let document = document.map_err(LockError::Mistakes)?;
        Self::lower(&document, file).map_err(LockError::Mistakes)
    }

    fn lower(document: &kdl::KdlDocument, file: FileId) -> Result<Self, Vec<Mistake>> {
        let mut lock = Self::default();
        let mut mistakes = Vec::new();
        for node in document.nodes() {
            let known = match node.name().value() {
                "generation" => generation(node)
                    .is_some_and(|(step, number)| lock.generations.insert(step, number).is_none()),
                "resolved" => resolved(node)
                    .is_some_and(|(name, resolved)| lock.resolved.insert(name, resolved).is_none()),
                _ => false,
            };
            if !known {
                let (offset, len) = (node.span().offset(), node.span().len());
                let span = crate::source::Span { file, offset, len };
                let message = "the lock file holds something that is neither a generation nor \
                               what a base was found to be, or says it twice";
                mistakes.push(Mistake::at(span, "kiln::lock::entry", message, "this").help(
                    "remove the line: `kiln build` and `kiln lock` write what they need themselves",
                ));
            }
        }
        if mistakes.is_empty() { Ok(lock) } else { Err(mistakes) }
    }

    /// The generation of a step.
    #[must_use]
    pub fn generation(&self, step: &str) -> u64 {
        self.generations.get(step).copied().unwrap_or(0)
    }

    /// Raises the generation of a step.
    pub fn raise(&mut self, step: &str) {
        let number = self.generations.entry(step.to_owned()).or_insert(0);
        *number = number.saturating_add(1);
    }

    /// Puts the lock file of a workspace in place.
    ///
    /// # Errors
    /// Where it cannot be written; the old one stays then.
    pub fn write(&self, root: &Path) -> Result<(), FileError> {
        let mut text = HEADER.to_owned();
        for (step, number) in &self.generations {
            text.push_str("generation ");
            text.push_str(&kdl::KdlValue::from(step.as_str()).to_string());
            text.push(' ');
            text.push_str(&number.to_string());
            text.push('\n');
        }
        for (name, resolved) in &self.resolved {
            text.push_str(&line_of(name, resolved));
        }
        let path = root.join(LOCK_FILE);
        files::replace(&Host, &path, text.as_bytes())
    }
}

/// `generation "IMAGE/STEP" NUMBER`.
fn generation(node: &KdlNode) -> Option<(String, u64)> {
    let plain = node.children().is_none() && node.entries().iter().all(|e| e.name().is_none());
    let [step, number] = node.entries() else { return None };
    let number = u64::try_from(number.value().as_integer()?).ok()?;
    plain.then_some((step.value().as_string()?.to_owned(), number))
}

/// `resolved "ORIGIN" url="…" sha512="…" format="…" revision=N`, of which the last two may be
/// missing, and `sha256` may stand in place of `sha512`.
fn resolved(node: &KdlNode) -> Option<(String, Resolved)> {
    let (mut url, mut checksum, mut format, mut revision) = (None, None, None, None);
    let mut entries = node.entries().iter();
    let first = entries.next().filter(|entry| entry.name().is_none())?;
    for entry in entries {
        let (key, value) = (entry.name()?.value(), entry.value());
        // What is there twice was there before.
        let again = match key {
            "url" => url.replace(value.as_string().filter(|url| is_url(url))?.to_owned()).is_some(),
            "sha256" | "sha512" => {
                let digits = value.as_string().filter(|digits| is_hex(digits))?.to_owned();
                let sum = match (key, digits.len()) {
                    ("sha256", 64) => Checksum::Sha256(digits),
                    ("sha512", 128) => Checksum::Sha512(digits),
                    _ => return None,
                };
                checksum.replace(sum).is_some()
            }
            "format" => {
                let word = value.as_string()?;
                let known = DiskFormat::ALL.into_iter().find(|format| format.keyword() == word);
                format.replace(known?).is_some()
            }
            "revision" => revision.replace(u64::try_from(value.as_integer()?).ok()?).is_some(),
            _ => return None,
        };
        if again {
            return None;
        }
    }
    let name = first.value().as_string()?.to_owned();
    let resolved = Resolved { url: url?, checksum: checksum?, format, revision };
    node.children().is_none().then_some((name, resolved))
}

fn is_url(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

fn line_of(name: &str, resolved: &Resolved) -> String {
    let quoted = |text: &str| format!("\"{}\"", kdl_escaped(text));
    let Resolved { url, checksum, format, revision } = resolved;
    let (kind, digits) = match checksum {
        Checksum::Sha256(digits) => ("sha256", digits),
        Checksum::Sha512(digits) => ("sha512", digits),
    };
    let mut line =
        format!("resolved {} url={} {kind}={}", quoted(name), quoted(url), quoted(digits));
    if let Some(format) = format {
        line.extend([" format=", &quoted(format.keyword())]);
    }
    if let Some(revision) = revision {
        line.extend([" revision=", &revision.to_string()]);
    }
    line.push('\n');
    line
}

/// A text as it stands between quotes. Addresses and names have neither line ends nor other control
/// characters.
fn kdl_escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut lock = Lock::read(root, &mut Sources::default()).unwrap();
        lock.raise("web/install");
        lock.raise("web/install");
        lock.raise("db/update#2");
        let format = Some(DiskFormat::Qcow2);
        let url = "https://a.example/\"\\".to_owned();
        let sum = Checksum::Sha512("0a".repeat(64));
        let whole = Resolved { url, checksum: sum, format, revision: Some(2) };
        let sum = Checksum::Sha256("0a".repeat(32));
        let bare = Resolved { checksum: sum, format: None, revision: None, ..whole.clone() };
        lock.resolved.insert("template centos-7.2".to_owned(), whole);
        lock.resolved.insert("url https://a.example/x".to_owned(), bare);
        lock.write(root).unwrap();
        let again = Lock::read(root, &mut Sources::default()).unwrap();
        assert_eq!(again, lock);
        assert_eq!((again.generation("web/install"), again.generation("none")), (2, 0));
    }

    #[test]
    fn what_makes_no_sense_has_a_place() {
        let directory = tempfile::tempdir().unwrap();
        for text in [
            "generation \"a\"",
            "generation 1 2",
            "other",
            "generation \"a\" -1",
            "generation \"a\" 1\ngeneration \"a\" 2",
            "generation \"a\" 1 { b; }",
            "generation \"a\" n=1",
        ] {
            std::fs::write(directory.path().join(LOCK_FILE), text).unwrap();
            let result = Lock::read(directory.path(), &mut Sources::default());
            assert!(matches!(result, Err(LockError::Mistakes(_))), "{text}");
        }
    }

    #[test]
    fn a_base_is_written_on_one_strict_line() {
        let good = format!(
            "resolved \"catalog debian-12\" url=\"https://a.example/d\" sha256=\"{}\" format=\"raw\"",
            "0a".repeat(32)
        );
        let read = |text: &str| {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join(LOCK_FILE), text).unwrap();
            Lock::read(directory.path(), &mut Sources::default())
        };
        let lock = read(&good).unwrap();
        assert_eq!(line_of("catalog debian-12", &lock.resolved["catalog debian-12"]).trim(), good);
        for (from, to) in [
            ("sha256", "sha512"),
            ("0a0a", "0A0A"),
            ("0a0a", "0a"),
            ("https:", "file:"),
            ("format=\"raw\"", "format=\"iso\""),
            ("format=\"raw\"", "other=1"),
            ("format=\"raw\"", "revision=-1"),
            ("format=\"raw\"", "format=\"raw\" format=\"raw\""),
            ("format=\"raw\"", "\"more\""),
            ("url=\"https://a.example/d\"", ""),
            ("\"catalog debian-12\"", ""),
            ("\"raw\"", "\"raw\" { x; }"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            assert!(matches!(read(&text), Err(LockError::Mistakes(_))), "{text}");
        }
        assert!(matches!(read(&format!("{good}\n{good}")), Err(LockError::Mistakes(_))));
    }
}
