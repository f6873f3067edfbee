//! A remote that fails too often is not asked any more.
//!
//! It knows how calls end and how long they took. A remote that answers is in order, even where it
//! says that it has nothing, or sends the wrong bytes: whoever asked sees to that.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backend::{Backend, Claim, RemoteError};
use super::{BlobRef, Patience, RecordName};
use crate::causes;
use crate::digest::ActionKey;
use crate::name::Namespace;

/// How many failures in a row are enough.
const ROW: u32 = 3;

/// Another remote, which is left out for the rest of the process once it has failed some times in
/// a row, or has been waited for in vain for too long in all.
pub struct Guarded {
    inner: Box<dyn Backend>,
    budget: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Failures since the last call that was answered.
    row: u32,
    /// What failures have cost, added up over all threads.
    waited: Duration,
    /// Nothing is asked any more.
    off: bool,
    /// Nothing is written any more: this user may not.
    refused: bool,
    /// What failed first.
    first: Option<String>,
}

/// What a call does there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Guarded {
    /// Guards a remote with a budget for failures.
    #[must_use]
    pub fn new(inner: Box<dyn Backend>, patience: &Patience) -> Self {
        Self { inner, budget: patience.budget, state: Mutex::default() }
    }

    /// The one warning that this remote is worth: what failed first, with its causes, and whether
    /// the remote is left out since; `None` while all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let state = self.state();
        let mut text = state.first.clone()?;
        if state.off {
            text.push_str("; it is left out for the rest of this run");
        } else if state.refused {
            text.push_str("; nothing more is written to it");
        }
        Some(text)
    }

    /// Whether it is still asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.state().off
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard<T>(
        &self,
        kind: Kind,
        call: impl FnOnce(&dyn Backend) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let state = self.state();
        if state.off || state.refused && kind == Kind::Write {
            return Err(RemoteError::LeftOut { remote: self.inner.name().to_owned() });
        }
        drop(state);
        let start = Instant::now();
        let result = call(&*self.inner);
        self.note(kind, &result, start.elapsed());
        result
    }

    fn note<T>(&self, kind: Kind, result: &Result<T, RemoteError>, took: Duration) {
        let mut state = self.state();
        let Err(
            error @ (RemoteError::Unavailable { .. }
            | RemoteError::TooSlow { .. }
            | RemoteError::Refused { .. }),
        ) = result
        else {
            state.row = 0;
            return;
        };
        state.first.get_or_insert_with(|| causes::in_one_line(error));
        // Who may only read goes on reading.
        if matches!(error, RemoteError::Refused { .. }) && kind == Kind::Write {
            state.refused = true;
            return;
        }
        state.row += 1;
        state.waited += took;
        state.off |= state.row >= ROW || state.waited >= self.budget;
    }
}

impl Backend for Guarded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        self.guard(Kind::Read, |inner| inner.read_blob(blob, range))
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        self.guard(Kind::Read, |inner| inner.has_blob(blob))
    }

    fn put_blob(&self, blob: BlobRef, bytes: &[u8]) -> Result<(), RemoteError> {
        self.guard(Kind::Write, |inner| inner.put_blob(blob, bytes))
    }

    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        self.guard(Kind::Read, |inner| inner.record(name))
    }

    fn put_record(
        &self,
        name: &RecordName,
        bytes: &[u8],
        needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        self.guard(Kind::Write, |inner| inner.put_record(name, bytes, needs))
    }

    fn claim(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<Claim, RemoteError> {
        self.guard(Kind::Write, |inner| inner.claim(namespace, key, lease))
    }

    fn renew(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<(), RemoteError> {
        self.guard(Kind::Write, |inner| inner.renew(namespace, key, lease))
    }

    fn release(&self, namespace: &Namespace, key: ActionKey) -> Result<(), RemoteError> {
        self.guard(Kind::Write, |inner| inner.release(namespace, key))
    }
}
