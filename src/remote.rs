//! Remotes: what a team shares, as bytes named by their digest and small records named by words.
//!
//! A remote is an optimisation. Whatever it answers is checked before it is used: a blob against its
//! digest, a record against its signature, a layer against its state. So a remote that is slow,
//! absent, full, lying or half written costs time and nothing else. Which results a build wants is
//! the engine's; this room knows ids, bytes and signatures.
//!
//! # Shape, version 1
//!
//! ```text
//! blobs/sha256/ab/cdef…            immutable, named by the SHA-256 of its bytes
//! NAMESPACE/results/KEY            a signed result of an action, see [`statement`]
//! NAMESPACE/images/IMAGE           what an image's newest shared build was made of, for `kiln why`
//! NAMESPACE/leases/KEY             who builds an action now, where the remote can hold leases
//! ```
//!
//! In a registry of the Open Container Initiative a record is a manifest under the tag
//! `NAMESPACE.results.KEY`, its bytes are the manifest's config, and every blob that it needs is one
//! of the manifest's layers: so that a registry's own tools list, copy and delete results whole.
//!
//! Write order is blobs, then the record that names them. Nothing is ever listed.
//!
//! [`open()`] makes a [`backend::Backend`] of an address; a [`Guarded`] one is not asked any more
//! once it fails too often; a [`Bundle`] is a remote in one file. Which crates speak for us: `opendal`
//! for object stores, over our own [`crate::wire`], which bounds what comes and sees where redirects lead; and
//! for registries the `wire` alone, as `oci-client` reads manifests, errors and tokens whole, however
//! long they are, and hides what a server says of waiting.

pub mod accept;
pub mod backend;
mod bundle;
mod call;
mod directory;
pub mod fetcher;
mod guarded;
mod objects;
mod open;
mod read_only;
mod registry;
pub mod signing;
pub mod statement;
mod swift;
pub mod team;
mod transport;
pub mod trust;

pub use bundle::{Bundle, BundleError, BundleSink, BundleWriter};
pub use guarded::Guarded;
pub use open::{open, open_in};

pub use crate::environment::Environment;
pub use crate::wire::Patience;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::name::Namespace;

/// Where blobs lie on a remote that has paths.
const BLOBS: &str = "blobs/sha256/";

/// Names bytes on a remote: their SHA-256, which is what registries know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId([u8; 32]);

/// A text that is not 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a SHA-256 digest")]
pub struct ParseBlobIdError(String);

impl BlobId {
    /// The id of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Where the blob lies on a remote that has paths.
    fn path(&self) -> String {
        let digits = self.to_string();
        format!("{BLOBS}{}/{}", &digits[..2], &digits[2..])
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = ParseBlobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The digits of both digests are checked alike.
        let digest: crate::digest::Digest =
            text.parse().map_err(|_| ParseBlobIdError(text.to_owned()))?;
        Ok(Self(*digest.as_bytes()))
    }
}

impl Serialize for BlobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A blob, with how many bytes it has: nobody reads more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its id.
    pub id: BlobId,
    /// Its length in bytes.
    pub len: u64,
}

impl BlobRef {
    /// The reference to some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { id: BlobId::of(bytes), len: bytes.len() as u64 }
    }
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A result of an action; its name is the action's key.
    Result,
    /// The newest shared build of an image; its name is the image's.
    Image,
}

impl RecordKind {
    /// Its word in paths and tags.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Result => "results",
            Self::Image => "images",
        }
    }
}

/// The name of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordName {
    /// Whose it is.
    pub namespace: Namespace,
    /// What it is about.
    pub kind: RecordKind,
    /// Its name among those of its kind: the text of an action's key, or of an image's name.
    pub name: String,
}

impl fmt::Display for RecordName {
    /// Its path on a remote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind.word(), self.name)
    }
}
