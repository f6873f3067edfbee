//! Room that is kept free for collections: on a full disk, the journal must grow before anything can
//! be removed.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;

use super::Store;
use super::journal::{self, JournalError};
use super::results::Record;
use crate::files::{Context, FileError};

/// Bytes of the reserve: more than the records of a collection take, but for some ten thousand.
const SIZE: u64 = 1 << 20;

fn path(store: &Store) -> PathBuf {
    store.root().join("reserve")
}

/// Makes the reserve where it is not there. A disk that has no room for it is no error: the next
/// collection makes it.
pub(super) fn ensure(store: &Store) -> Result<(), FileError> {
    let path = path(store);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= SIZE) {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let made = file.and_then(|file| {
        store.access.give(&file, 0o640)?;
        Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE)?)
    });
    match made {
        Err(error) if is_full(&error) => {
            let _ = fs::remove_file(&path);
            Ok(())
        }
        // A file system that cannot set room aside has to do without.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        made => made.context("set room aside in", &path),
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Appends to the journal, with the reserve's room where there is no other.
pub(super) fn append(store: &Store, records: &[Record]) -> Result<(), JournalError> {
    match journal::append(&*store.medium, &store.journal(), records) {
        Err(JournalError::File(error)) if is_full(&error.source) && path(store).exists() => {
            fs::remove_file(path(store)).context("remove", &path(store))?;
            journal::append(&*store.medium, &store.journal(), records)
        }
        appended => appended,
    }
}
