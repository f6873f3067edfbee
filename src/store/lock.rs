//! Locks of the kernel on files of a store.
//!
//! A lock ends with the process that holds it, however that ends. A lock file may be removed by
//! whoever holds it, so that whoever takes a lock looks whether its file still has the name. What a
//! lock is for is known by those who take it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use super::site::Access;
use crate::files::{Context, FileError};

/// A held lock; it goes with the value.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Opens a lock file, and makes it if it is not there.
pub(super) fn open(path: &Path, access: Access) -> Result<File, FileError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = open.context("open", path)?;
    access.give(&file, 0o640).context("share", path)?;
    Ok(file)
}

/// Whether a path leads to an open file.
pub(super) fn is_at(file: &File, path: &Path) -> Result<bool, FileError> {
    let ours = file.metadata().context("look at", path)?;
    match fs::metadata(path) {
        Ok(theirs) => Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("look at", path),
    }
}

/// Waits until an open file is locked.
pub(super) fn wait(file: &File, path: &Path, operation: FlockOperation) -> Result<(), FileError> {
    retry_on_intr(|| flock(file, operation)).context("lock", path)
}

/// Locks an open file alone; tells whether nobody else holds it.
pub(super) fn attempt(file: &File, path: &Path) -> Result<bool, FileError> {
    match retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).context("lock", path),
    }
}

/// Takes a lock alone, waiting for all others.
pub(super) fn exclusive(path: &Path, access: Access) -> Result<Lock, FileError> {
    taken(path, access, FlockOperation::LockExclusive)
}

/// Takes a lock together with others who share it.
pub(super) fn shared(path: &Path, access: Access) -> Result<Lock, FileError> {
    taken(path, access, FlockOperation::LockShared)
}

fn taken(path: &Path, access: Access, operation: FlockOperation) -> Result<Lock, FileError> {
    loop {
        let file = open(path, access)?;
        wait(&file, path, operation)?;
        if is_at(&file, path)? {
            return Ok(Lock { _file: file });
        }
    }
}

/// Takes a lock alone if nobody holds it.
pub(super) fn try_exclusive(path: &Path, access: Access) -> Result<Option<Lock>, FileError> {
    loop {
        let file = open(path, access)?;
        if !attempt(&file, path)? {
            return Ok(None);
        }
        if is_at(&file, path)? {
            return Ok(Some(Lock { _file: file }));
        }
    }
}

/// Removes a lock file if nobody holds it; tells whether it did.
pub(super) fn remove_free(path: &Path) -> Result<bool, FileError> {
    let file = match OpenOptions::new().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).context("open", path),
    };
    if !attempt(&file, path)? || !is_at(&file, path)? {
        return Ok(false);
    }
    fs::remove_file(path).context("remove", path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_whose_file_is_removed_is_taken_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = try_exclusive(&path, Access::Owner).unwrap().unwrap();
        assert!(try_exclusive(&path, Access::Owner).unwrap().is_none());
        assert!(!remove_free(&path).unwrap(), "somebody holds it");
        drop(held);
        // Opened before the removal, locked after it: such a lock keeps nobody out.
        let early = open(&path, Access::Owner).unwrap();
        assert!(remove_free(&path).unwrap() && !path.exists());
        assert!(attempt(&early, &path).unwrap() && !is_at(&early, &path).unwrap());
        let held = exclusive(&path, Access::Owner).unwrap();
        assert!(try_exclusive(&path, Access::Owner).unwrap().is_none());
        drop(held);
        let first = shared(&path, Access::Owner).unwrap();
        let _second = shared(&path, Access::Owner).unwrap();
        drop(first);
        assert!(try_exclusive(&path, Access::Owner).unwrap().is_none(), "one still shares it");
    }
}
