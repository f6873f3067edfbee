//! Data of layers that is here in part, until it is an object like any other.

use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::lease::{self, Held, Lease};
use super::results::{Placement, Record};
use super::{Store, StoreError, journal, lock};
use crate::digest::{Digest, ObjectId, StateId};
use crate::files::{Context, FileError};

impl Store {
    /// The file for a layer's data that is fetched bit by bit, as long as all of it will be.
    ///
    /// # Errors
    /// Where it cannot be opened or made.
    pub fn partial_file(&self, state: StateId, len: u64) -> Result<File, FileError> {
        data_file(&self.partial().join(state.to_string()), len)
    }

    /// Makes an object of a file with all of a layer's data, which is durable by now and goes away.
    /// The lease holds the object from then on.
    ///
    /// # Errors
    /// Where the file is gone, or the store cannot be written.
    pub fn keep_data(&self, lease: &Lease, path: &Path) -> Result<ObjectId, FileError> {
        let id = digest(path)?;
        lease.hold([Held::Object(id)])?;
        self.objects().adopt(id, path)?;
        Ok(id)
    }

    /// Makes an object of a layer's data that is here whole and durable by now.
    ///
    /// # Errors
    /// Where the file is gone, or the store cannot be written.
    pub fn settle_partial(&self, state: StateId) -> Result<(), StoreError> {
        // Meanwhile nothing is removed, so that the object is not, before something names it.
        let _shared = lock::shared(&self.work().join(lease::GC), self.access)?;
        let results = self.results()?;
        let Some(placement) = results.placement(state) else { return Ok(()) };
        let path = self.partial().join(state.to_string());
        let id = digest(&path)?;
        self.objects().adopt(id, &path)?;
        if placement.data != Some(id) {
            // Whoever packed it may have said anything.
            let placement = Placement { data: Some(id), ..placement.clone() };
            journal::append(&*self.medium, &self.journal(), &[Record::Placement(placement)])?;
        }
        Ok(())
    }
}

/// A file for a layer's data, with holes where nothing was written yet.
///
/// # Errors
/// Where it cannot be opened or made.
pub fn data_file(path: &Path, len: u64) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o640);
    let file = options.open(path).context("open", path)?;
    file.set_len(len).context("set size of", path)?;
    Ok(file)
}

fn digest(path: &Path) -> Result<ObjectId, FileError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).context("read", path)?;
    Ok(ObjectId(Digest::from(hasher.finalize())))
}
