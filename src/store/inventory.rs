//! How large the things of a store are, and when they came.
//!
//! Nothing is opened or locked: what comes or goes meanwhile may be in it or not.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use walkdir::WalkDir;

use super::Store;
use crate::digest::{ObjectId, StateId};
use crate::files::{Context, FileError};

/// An object as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was written, in seconds since 1970 in UTC.
    pub written: u64,
}

/// What a store holds.
#[derive(Debug, Default)]
pub struct Inventory {
    /// The objects.
    pub objects: HashMap<ObjectId, Stored>,
    /// Bytes on disk of layers' data that was fetched in part.
    pub partial: HashMap<StateId, u64>,
}

impl Inventory {
    /// Looks at every object and every partial layer.
    ///
    /// # Errors
    /// Where a directory cannot be read.
    pub fn read(store: &Store) -> Result<Self, FileError> {
        let mut inventory = Self::default();
        let root = store.objects().root().to_owned();
        for directory in names(&root)? {
            let path = root.join(&directory);
            for name in names(&path)? {
                let Ok(id) = format!("{directory}{name}").parse() else { continue };
                let Some(stored) = look(&path.join(name))? else { continue };
                inventory.objects.insert(id, stored);
            }
        }
        for name in names(&store.partial())? {
            let Some(state) = state_of(&name) else { continue };
            let path = store.partial().join(name);
            *inventory.partial.entry(state).or_default() += on_disk(&path);
        }
        Ok(inventory)
    }

    /// The bytes of some objects together.
    pub fn bytes(&self, objects: impl IntoIterator<Item = ObjectId>) -> u64 {
        objects.into_iter().filter_map(|id| self.objects.get(&id)).map(|stored| stored.bytes).sum()
    }
}

/// The state that a file of `partial` belongs to: its name starts with it.
pub(super) fn state_of(name: &str) -> Option<StateId> {
    name.get(..64).and_then(|id| id.parse().ok())
}

/// The names in a directory that are text; none where it is not there, or is not for this user.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, FileError> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let entries = match fs::read_dir(directory) {
        Err(error) if [NotFound, NotADirectory, PermissionDenied].contains(&error.kind()) => {
            return Ok(Vec::new());
        }
        entries => entries.context("read", directory)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.context("read", directory)?.file_name().into_string());
    }
    Ok(names)
}

/// An object that is still there.
fn look(path: &Path) -> Result<Option<Stored>, FileError> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta.context("look at", path)?,
    };
    let written = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let written = written.map_or(0, |time| time.as_secs());
    Ok(Some(Stored { bytes: meta.len(), written }))
}

/// Bytes that a file or directory takes on the disk, with all below it; what cannot be read or is
/// gone meanwhile takes none.
#[must_use]
pub fn on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = WalkDir::new(path).into_iter().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}
