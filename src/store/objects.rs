//! Immutable bytes, named by their BLAKE3.
//!
//! An object exists under its name only when it is whole and durable. What the bytes mean is not
//! known here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lease::{Held, Lease};
use super::site::Access;
use crate::digest::{Digest, Hasher, ObjectId};
use crate::files::{Context, FileError, Medium, read_bounded};

/// Who may read an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Everyone: indexes, manifests, reports.
    All,
    /// The store's owner and group: bytes of disks.
    Group,
}

/// The objects of a store.
#[derive(Clone)]
pub struct Objects {
    root: PathBuf,
    medium: Arc<dyn Medium>,
    access: Access,
}

impl Objects {
    /// The objects in a directory, which exists.
    #[must_use]
    pub(super) fn new(root: PathBuf, medium: Arc<dyn Medium>, access: Access) -> Self {
        Self { root, medium, access }
    }

    /// The directory that they lie in.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where an object lies if it is there.
    #[must_use]
    pub fn path(&self, id: ObjectId) -> PathBuf {
        let name = id.to_string();
        self.root.join(&name[..2]).join(&name[2..])
    }

    /// Whether an object is there.
    #[must_use]
    pub fn has(&self, id: ObjectId) -> bool {
        self.path(id).exists()
    }

    /// Reads a small object and checks it.
    ///
    /// # Errors
    /// Where it cannot be read, or its bytes are not those that its name says.
    pub fn read(&self, id: ObjectId, limit: u64) -> Result<Vec<u8>, FileError> {
        let path = self.path(id);
        let bytes = read_bounded(&path, limit)?;
        if ObjectId(Digest::of(&bytes)) != id {
            let damaged = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "its bytes are not those that its name says",
            );
            return Err(damaged).context("read", &path);
        }
        Ok(bytes)
    }

    /// Whether an object is there and its bytes are those that its name says; reads it whole.
    #[must_use]
    pub fn is_whole(&self, id: ObjectId) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(self.path(id)).is_ok() && Digest::from(hasher.finalize()) == id.0
    }

    /// Makes an object of a whole and durable file of the same file system, which goes away.
    ///
    /// # Errors
    /// Where it cannot be put in place.
    pub(super) fn adopt(&self, id: ObjectId, file: &Path) -> Result<(), FileError> {
        let target = self.path(id);
        let directory = target.parent().expect("an object lies in a directory");
        let new_directory = !directory.exists();
        self.access.directory(directory, 0o755)?;
        if new_directory {
            self.medium.sync_directory(&self.root).context("sync", &self.root)?;
        }
        self.medium.rename(file, &target).context("rename into place", &target)?;
        self.medium.sync_directory(directory).context("sync", directory)
    }

    /// Removes an object, which nothing may name any more.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(&self, id: ObjectId) -> Result<(), FileError> {
        let path = self.path(id);
        self.medium.remove(&path).context("remove", &path)
    }

    /// Makes an object durable that is there already: whoever put it there may have been killed
    /// between giving it its name and making that durable.
    fn settle(&self, id: ObjectId) -> Result<(), FileError> {
        let path = self.path(id);
        let directory = path.parent().expect("an object lies in a directory");
        self.medium.sync_directory(directory).context("sync", directory)?;
        self.medium.sync_directory(&self.root).context("sync", &self.root)
    }

    /// Starts an object under a temporary name in `work`, a directory of the same file system.
    ///
    /// # Errors
    /// Where the temporary file cannot be made.
    pub fn writer(
        &self,
        work: &Path,
        name: &str,
        readers: Readers,
    ) -> Result<ObjectWriter, FileError> {
        let path = work.join(name);
        let file = self.medium.create(&path, readers == Readers::All).context("create", &path)?;
        Ok(ObjectWriter { objects: self.clone(), path, file, hasher: Hasher::plain(), len: 0 })
    }

    /// Stores bytes that are in memory. The lease holds the object from then on.
    ///
    /// # Errors
    /// As [`Objects::writer`] and [`ObjectWriter::finish`].
    pub fn put(
        &self,
        lease: &Lease,
        work: &Path,
        bytes: &[u8],
        readers: Readers,
    ) -> Result<ObjectId, FileError> {
        let id = ObjectId(Digest::of(bytes));
        lease.hold([Held::Object(id)])?;
        if self.is_whole(id) {
            self.settle(id)?;
            return Ok(id);
        }
        let mut writer = self.writer(work, &format!("object-{}", id.short()), readers)?;
        writer.write(bytes)?;
        writer.finish(lease)
    }
}

/// An object that is being written; dropping it without [`ObjectWriter::finish`] abandons it.
pub struct ObjectWriter {
    objects: Objects,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
}

impl ObjectWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.hasher.raw_parallel(bytes);
        self.len += bytes.len() as u64;
        self.objects.medium.write(&self.file, &self.path, bytes).context("write", &self.path)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the object durable and gives it its name. The lease holds it from then on.
    ///
    /// # Errors
    /// Where that fails; there is then no such object.
    pub fn finish(self, lease: &Lease) -> Result<ObjectId, FileError> {
        let id = ObjectId(self.hasher.finish());
        // First of all: one that is there already may be about to be removed.
        lease.hold([Held::Object(id)])?;
        let medium = &*self.objects.medium;
        // What is damaged under its name is replaced: it may be why the bytes were made again.
        if self.objects.is_whole(id) {
            medium.remove(&self.path).context("remove", &self.path)?;
            self.objects.settle(id)?;
            return Ok(id);
        }
        medium.sync(&self.file, &self.path).context("sync", &self.path)?;
        self.objects.adopt(id, &self.path)?;
        Ok(id)
    }

    /// Removes what was written.
    ///
    /// # Errors
    /// Where the temporary file cannot be removed.
    pub fn abandon(self) -> Result<(), FileError> {
        self.objects.medium.remove(&self.path).context("remove", &self.path)
    }
}
