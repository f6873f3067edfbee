//! What every remote can do, whatever it is made of.
//!
//! Calls block, each for a bounded time, and may come from many threads at once. A backend moves
//! bytes; that they are right is checked by whoever asked for them, on every backend alike.

use std::ops::Range;

use super::{BlobRef, RecordName};
use crate::digest::ActionKey;
use crate::name::Namespace;

/// Largest record in bytes; a longer one is damage.
pub const MAX_RECORD: u64 = 4 << 20;
/// Largest blob in bytes that is written in one go.
pub const MAX_BLOB: u64 = 64 << 20;

/// Why a remote did not do what it was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RemoteError {
    /// It cannot be reached, ended the connection, or failed by its own account.
    #[error("the remote `{remote}` could not {doing}")]
    #[diagnostic(
        code(kiln::remote::unavailable),
        help("the build goes on without it; check its address and whether it is up")
    )]
    Unavailable {
        /// Its name.
        remote: String,
        /// What was asked, in the infinitive: `read main/results/…`.
        doing: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time.
    #[error("the remote `{remote}` did not {doing} within {seconds} s")]
    #[diagnostic(
        code(kiln::remote::too_slow),
        help("the build goes on without it; check the connection")
    )]
    TooSlow {
        /// Its name.
        remote: String,
        /// What was asked.
        doing: String,
        /// How long was waited, in seconds.
        seconds: u64,
    },
    /// It does not let this user do that.
    #[error("the remote `{remote}` does not let you {doing}")]
    #[diagnostic(
        code(kiln::remote::refused),
        help("check the credentials, which are taken from the standard places: see the book")
    )]
    Refused {
        /// Its name.
        remote: String,
        /// What was asked.
        doing: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A blob that was promised is not there.
    #[error("the remote `{remote}` has no blob {blob}")]
    #[diagnostic(
        code(kiln::remote::missing_blob),
        help("it was removed there; what needs it is built again")
    )]
    Missing {
        /// Its name.
        remote: String,
        /// The blob.
        blob: String,
    },
    /// What it answered is not what its name says.
    #[error("the remote `{remote}` answered with something else than {what}")]
    #[diagnostic(
        code(kiln::remote::damaged),
        help("nothing of it was used; remove it there, or leave the remote out")
    )]
    Damaged {
        /// Its name.
        remote: String,
        /// What was asked for.
        what: String,
    },
    /// It failed too often, and is not asked any more.
    #[error("the remote `{remote}` is left out for the rest of this run")]
    #[diagnostic(
        code(kiln::remote::left_out),
        help("it failed before, as was said; the build goes on without it")
    )]
    LeftOut {
        /// Its name.
        remote: String,
    },
    /// The address or its settings cannot be used.
    #[error("the remote `{remote}` cannot be used: {why}")]
    #[diagnostic(code(kiln::remote::unusable), help("see the book's page on remotes"))]
    Unusable {
        /// Its name.
        remote: String,
        /// Why.
        why: String,
    },
}

/// What became of the wish to be the only one who builds an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The lease was not there, and is this one now.
    Taken,
    /// Somebody else's lease is there, with these bytes.
    Held(Vec<u8>),
    /// This remote cannot hold leases: it would let two take one.
    Impossible,
}

/// A remote.
pub trait Backend: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Reads a range of a blob, which lies inside it. The bytes are as many as were asked for, and
    /// not checked.
    ///
    /// # Errors
    /// [`RemoteError::Missing`] where there is no such blob; else as the remote fails.
    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError>;

    /// Whether a blob is there, of that length.
    ///
    /// # Errors
    /// Where the remote does not say. A failure is never an answer.
    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError>;

    /// Puts a blob of at most [`MAX_BLOB`] bytes; one that is there may be written again.
    ///
    /// # Errors
    /// Where it may not be there afterwards.
    fn put_blob(&self, blob: BlobRef, bytes: &[u8]) -> Result<(), RemoteError>;

    /// Reads a record of at most [`MAX_RECORD`] bytes; `None` where there is none.
    ///
    /// # Errors
    /// Where the remote does not say. A failure is never `None`.
    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError>;

    /// Puts a record, over an older one of that name. The blobs that it needs are there already.
    ///
    /// # Errors
    /// Where it may not be there afterwards.
    fn put_record(
        &self,
        name: &RecordName,
        bytes: &[u8],
        needs: &[BlobRef],
    ) -> Result<(), RemoteError>;

    /// Takes the lease of an action if nobody has it. Its bytes are those of no other holder, so
    /// that who asks again, because an answer was lost, has it still. Whether the remote really
    /// keeps two from taking one is tried once, before the first lease is believed.
    ///
    /// # Errors
    /// Where the remote does not say.
    fn claim(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<Claim, RemoteError>;

    /// Writes over a lease of one's own, so that others see that its holder lives.
    ///
    /// # Errors
    /// Where it may not have been written.
    fn renew(&self, namespace: &Namespace, key: ActionKey, lease: &[u8])
    -> Result<(), RemoteError>;

    /// Removes a lease; one that is gone already is no error.
    ///
    /// # Errors
    /// Where it may still be there.
    fn release(&self, namespace: &Namespace, key: ActionKey) -> Result<(), RemoteError>;
}
