//! A remote that nothing is written to, whoever asks.

use std::ops::Range;

use super::backend::{Backend, Claim, RemoteError};
use super::{BlobRef, RecordName};
use crate::digest::ActionKey;
use crate::name::Namespace;

/// Another remote, which is only read.
pub(super) struct ReadOnly(pub(super) Box<dyn Backend>);

impl ReadOnly {
    fn refuse(&self) -> RemoteError {
        let why = "nothing is written to it: it is `read-only`".to_owned();
        RemoteError::Unusable { remote: self.0.name().to_owned(), why }
    }
}

impl Backend for ReadOnly {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        self.0.read_blob(blob, range)
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        self.0.has_blob(blob)
    }

    fn put_blob(&self, _blob: BlobRef, _bytes: &[u8]) -> Result<(), RemoteError> {
        Err(self.refuse())
    }

    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        self.0.record(name)
    }

    fn put_record(
        &self,
        _name: &RecordName,
        _bytes: &[u8],
        _needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        Err(self.refuse())
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
        Err(self.refuse())
    }

    fn release(&self, _namespace: &Namespace, _key: ActionKey) -> Result<(), RemoteError> {
        Ok(())
    }
}
