//! A file system on which nothing can be written from some operation on, as on one that is full.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln::files::{Host, Medium};

/// The host's file system, until an operation that fails.
pub(crate) struct Failing {
    left: AtomicUsize,
}

impl Failing {
    /// Lets so many operations succeed.
    pub(crate) fn after(left: usize) -> Self {
        Self { left: AtomicUsize::new(left) }
    }

    fn next(&self) -> io::Result<()> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| io::ErrorKind::StorageFull.into())
    }
}

impl Medium for Failing {
    fn create(&self, path: &Path, shared: bool) -> io::Result<File> {
        self.next().and_then(|()| Host.create(path, shared))
    }

    fn write(&self, file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.next().and_then(|()| Host.write(file, path, bytes))
    }

    fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.next().and_then(|()| Host.sync(file, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.next().and_then(|()| Host.rename(from, to))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.next().and_then(|()| Host.sync_directory(directory))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Host.remove(path)
    }
}
