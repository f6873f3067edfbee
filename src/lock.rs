//! The lock file: the generation of each impure step, committed beside the recipes.
//!
//! `kiln build --refresh` raises generations; a new one is a new key, so that the step and all
//! behind it run again, for everyone who has the file. It is KDL, one node a step:
//! `generation "debian-web/install" 3`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::files::{self, FileError, Host, read_bounded};
use crate::mistake::Mistake;
use crate::parse;
use crate::recipe::{Checksum, DiskFormat};
use crate::source::{FileId, Sources};

/// The lock file's name, in the workspace's root.
pub const LOCK_FILE: &str = "kiln.lock";

const LIMIT: u64 = 1 << 20;
const HEADER: &str = "// Made by `kiln build --refresh`: commit it with the recipes.\n";

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
            let values: Vec<_> = node.entries().iter().map(kdl::KdlEntry::value).collect();
            let plain =
                node.children().is_none() && node.entries().iter().all(|e| e.name().is_none());
            let entry = match (node.name().value(), values.as_slice()) {
                ("generation", [step, number]) if plain => step
                    .as_string()
                    .zip(number.as_integer().and_then(|number| u64::try_from(number).ok())),
                _ => None,
            };
            let known = entry.is_some_and(|(step, number)| {
                lock.generations.insert(step.to_owned(), number).is_none()
            });
            if !known {
                let span = crate::source::Span {
                    file,
                    offset: node.span().offset(),
                    len: node.span().len(),
                };
                let mistake = Mistake::at(
                    span,
                    "kiln::lock::entry",
                    "the lock file holds something that is not a generation",
                    "this",
                )
                .help("a line is `generation \"IMAGE/STEP\" NUMBER`, once for each step; `kiln build --refresh` writes them");
                mistakes.push(mistake);
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
        let path = root.join(LOCK_FILE);
        files::replace(&Host, &path, text.as_bytes())
    }
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
        ] {
            std::fs::write(directory.path().join(LOCK_FILE), text).unwrap();
            let result = Lock::read(directory.path(), &mut Sources::default());
            assert!(matches!(result, Err(LockError::Mistakes(_))), "{text}");
        }
    }
}
