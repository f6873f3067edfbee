//! The directory of one running build, its lease, and the locks of actions.
//!
//! A lock is a lock of the kernel on a file: it ends with the process that holds it, however that
//! ends. What a build leaves behind on the host is told by its journal and undone by
//! `execute::recover`, not here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Store;
use crate::digest::ActionKey;
use crate::files::{self, Context, FileError};

const DOWNLOADS: &str = "downloads";

/// Where the store's kilns download to; what lies there outlives builds, to be gone on with.
#[must_use]
pub fn downloads(store: &Store) -> PathBuf {
    store.root().join("work").join(DOWNLOADS)
}

/// The directory of a running build; it goes with the value.
pub struct Work {
    path: PathBuf,
    _lease: File,
}

/// The directory of a build that is over, which nobody else can take now.
pub struct Abandoned {
    /// The directory.
    pub path: PathBuf,
    _lease: File,
}

/// The right to build one action.
pub struct ActionLock {
    _file: File,
}

impl Work {
    /// Makes a directory for a new build.
    ///
    /// # Errors
    /// Where it cannot be made or locked.
    pub fn new(store: &Store) -> Result<Self, FileError> {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| now.as_nanos());
        let root = store.root().join("work");
        let path = root.join(format!("{}-{nanos:x}", std::process::id()));
        let _entry = entry(&root)?;
        files::make_directory(&path, 0o700)?;
        let lease = lease_of(&path)?;
        flock(&lease, FlockOperation::NonBlockingLockExclusive)
            .context("lock", &path.join("lease"))?;
        Ok(Self { path, _lease: lease })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next build, as after a crash.
        let _entry = self.path.parent().and_then(|root| entry(root).ok());
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Held while a directory of `work` is made or removed and while leases are tried, so that a build
/// that is just starting or ending is not taken for one that was killed.
fn entry(root: &Path) -> Result<File, FileError> {
    let path = root.join("entry");
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.context("open", &path)?;
    flock(&file, FlockOperation::LockExclusive).context("lock", &path)?;
    Ok(file)
}

fn lease_of(directory: &Path) -> Result<File, FileError> {
    let path = directory.join("lease");
    OpenOptions::new().write(true).create(true).truncate(false).open(&path).context("open", &path)
}

/// The directories of builds that are over but did not clean up.
///
/// # Errors
/// Where the store's `work` cannot be read.
pub fn abandoned(store: &Store) -> Result<Vec<Abandoned>, FileError> {
    let root = store.root().join("work");
    let _entry = entry(&root)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).context("read", &root)? {
        let path = entry.context("read", &root)?.path();
        let of_all = |name| name == "actions" || name == DOWNLOADS;
        if path.file_name().is_some_and(of_all) || !path.is_dir() {
            continue;
        }
        let Ok(lease) = lease_of(&path) else { continue };
        match flock(&lease, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => found.push(Abandoned { path, _lease: lease }),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error).context("lock", &path.join("lease")),
        }
    }
    Ok(found)
}

impl Abandoned {
    /// Removes the directory, once nothing of the host points into it any more.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(self) -> Result<(), FileError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.context("remove", &self.path),
        }
    }
}

impl ActionLock {
    /// Takes the right to build an action; `None` where another kiln has it.
    ///
    /// # Errors
    /// Where the lock file cannot be made.
    pub fn try_take(store: &Store, key: ActionKey) -> Result<Option<Self>, FileError> {
        let path = store.root().join("work/actions").join(key.to_string());
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = open.context("open", &path)?;
        loop {
            return match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(Self { _file: file })),
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error).context("lock", &path),
            };
        }
    }
}
