//! The directory of one running build, its lease, and the locks of actions.
//!
//! A lock is a lock of the kernel on a file: it ends with the process that holds it, however that
//! ends. What a build leaves behind on the host is told by its journal and undone by
//! `execute::recover`, not here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Store;
use super::lease::{self, Lease};
use super::lock::{self, Lock};
use super::site::Access;
use crate::digest::ActionKey;
use crate::files::{Context, FileError};

const DOWNLOADS: &str = "downloads";
/// The locks of actions, in `work`.
pub(super) const ACTIONS: &str = "actions";

/// Where the store's kilns download to; what lies there outlives builds, to be gone on with.
#[must_use]
pub fn downloads(store: &Store) -> PathBuf {
    store.work().join(DOWNLOADS)
}

/// The directory of a running build; it goes with the value.
pub struct Work {
    path: PathBuf,
    lease: Lease,
    access: Access,
}

/// The directory of a build that is over, which nobody else can take now.
pub struct Abandoned {
    /// The directory.
    pub path: PathBuf,
    _lease: Lock,
    access: Access,
}

/// The right to build one action.
pub struct ActionLock {
    _lock: Lock,
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
        let (root, access) = (store.work(), store.access);
        let path = root.join(format!("{}-{nanos:x}", std::process::id()));
        // A store of an older kiln has none.
        access.directory(&store.partial(), 0o750)?;
        let _entry = entry(&root, access)?;
        access.directory(&path, 0o700)?;
        let lease = Lease::new(&root, &path, access)?;
        Ok(Self { path, lease, access })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the build relies on.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next build, as after a crash.
        let _entry = self.path.parent().and_then(|root| entry(root, self.access).ok());
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Held while a directory of `work` is made or removed and while leases are tried, so that a build
/// that is just starting or ending is not taken for one that was killed.
fn entry(root: &Path, access: Access) -> Result<Lock, FileError> {
    lock::exclusive(&root.join("entry"), access)
}

/// The directories of builds that are over but did not clean up.
///
/// # Errors
/// Where the store's `work` cannot be read.
pub fn abandoned(store: &Store) -> Result<Vec<Abandoned>, FileError> {
    let root = store.work();
    let _entry = entry(&root, store.access)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).context("read", &root)? {
        let path = entry.context("read", &root)?.path();
        let of_all = |name| name == ACTIONS || name == DOWNLOADS;
        if path.file_name().is_some_and(of_all) || !path.is_dir() {
            continue;
        }
        let lease = path.join(lease::NAME);
        // One of another user, whose store this is not, is that user's to clean up; another one
        // is being removed at this moment.
        if let Ok(Some(lock)) = lock::try_exclusive(&lease, store.access) {
            found.push(Abandoned { path, _lease: lock, access: store.access });
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
        // Whoever looks for abandoned builds meanwhile would make its lease anew.
        let _entry = self.path.parent().map(|root| entry(root, self.access)).transpose()?;
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
        let path = store.work().join(ACTIONS).join(key.to_string());
        Ok(lock::try_exclusive(&path, store.access)?.map(|lock| Self { _lock: lock }))
    }
}
