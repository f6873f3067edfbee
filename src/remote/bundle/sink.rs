//! A bundle that is being written, as a remote: so what is given to remotes goes into a file alike.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::BundleWriter;
use crate::digest::ActionKey;
use crate::files::{FileError, Medium};
use crate::name::Namespace;
use crate::remote::backend::{Backend, Claim, RemoteError};
use crate::remote::{BlobRef, RecordName};

/// A bundle to write to: a remote that nothing is ever read from.
pub struct BundleSink<'a> {
    name: String,
    writer: Mutex<BundleWriter<'a>>,
    failed: Mutex<Option<FileError>>,
}

impl<'a> BundleSink<'a> {
    /// Starts a bundle that will be at a path.
    ///
    /// # Errors
    /// Where nothing can be written beside it.
    pub fn new(medium: &'a dyn Medium, path: &Path) -> Result<Self, FileError> {
        let writer = Mutex::new(BundleWriter::new(medium, path)?);
        Ok(Self { name: path.display().to_string(), writer, failed: Mutex::default() })
    }

    /// Ends the bundle and puts it in place.
    ///
    /// # Errors
    /// Where that fails, or something could not be written before.
    pub fn finish(self) -> Result<(), FileError> {
        match self.failure() {
            Some(error) => Err(error),
            None => self.writer.into_inner().unwrap_or_else(PoisonError::into_inner).finish(),
        }
    }

    /// What went wrong with the file, told once.
    pub fn failure(&self) -> Option<FileError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn writer(&self) -> MutexGuard<'_, BundleWriter<'a>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, written: Result<(), FileError>) -> Result<(), RemoteError> {
        written.map_err(|error| {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
            RemoteError::LeftOut { remote: self.name.clone() }
        })
    }

    fn write_only(&self) -> RemoteError {
        let why = "nothing is read from a bundle that is being written".to_owned();
        RemoteError::Unusable { remote: self.name.clone(), why }
    }
}

impl Backend for BundleSink<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_blob(&self, _blob: BlobRef, _range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        Err(self.write_only())
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        Ok(self.writer().has(blob))
    }

    fn put_blob(&self, blob: BlobRef, bytes: &[u8]) -> Result<(), RemoteError> {
        let written = self.writer().blob(blob, bytes);
        self.note(written)
    }

    fn record(&self, _name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        Ok(None)
    }

    fn put_record(
        &self,
        name: &RecordName,
        bytes: &[u8],
        _needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        let written = self.writer().record(name, bytes);
        self.note(written)
    }

    fn claim(
        &self,
        _namespace: &Namespace,
        _key: ActionKey,
        _lease: &[u8],
    ) -> Result<Claim, RemoteError> {
        Ok(Claim::Impossible)
    }

    fn renew(
        &self,
        _namespace: &Namespace,
        _key: ActionKey,
        _lease: &[u8],
    ) -> Result<(), RemoteError> {
        Err(self.write_only())
    }

    fn release(&self, _namespace: &Namespace, _key: ActionKey) -> Result<(), RemoteError> {
        Ok(())
    }
}
