//! What is signed: that an action led to a chain of states.
//!
//! A statement is a JSON text, and the signature is over exactly its bytes. It says everything that
//! a result is believed for: which action, in whose namespace, by which epoch of kiln, which states
//! on which other states, and how large they are. What is not in it is either checked against what
//! is (an index against its state, a block against its index, a blob against its id), or only tells
//! where to look.
//!
//! There is one text for each statement and one for each record, the one that [`Statement::encode`]
//! and [`ResultRecord::encode`] give: another text that says the same is refused. So no two readers
//! can take one text for two things.
//!
//! This room knows what a statement must hold to be possible at all. Who may make one is
//! [`super::trust`]'s, and what must agree with whoever asks is [`super::accept`]'s.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::BlobRef;
use super::accept::Distrust;
use super::backend::MAX_BLOB;
use crate::digest::{ActionKey, StateId};
use crate::disk::layer::{BLOCK, MAX_DISK};
use crate::name::Namespace;

/// The type of a statement, with its version; signed, so that a signature of something else never
/// counts.
pub const TYPE: &str = "kiln/action-result/v1";
/// Raised when results of older kilns must not be taken any more.
pub const EPOCH: u64 = 1;
/// Most states in a chain.
pub const MAX_CHAIN: usize = 4096;
/// Most programs of a host in a statement, and most bytes of each.
const MAX_HOST: usize = 64;
const MAX_HOST_LINE: usize = 200;

/// One state of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The state.
    pub state: StateId,
    /// Size of the virtual disk in bytes.
    pub virtual_size: u64,
    /// Bytes of the layer's data, unpacked.
    pub data: u64,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// Whose result it is.
    pub namespace: Namespace,
    /// The action.
    pub key: ActionKey,
    /// [`EPOCH`].
    pub epoch: u64,
    /// Bytes in a block.
    pub block_size: u64,
    /// The states, base first; the last one is the action's.
    pub chain: Vec<Link>,
    /// Whether the action, or one below it, used the network without a lock.
    pub impure: bool,
    /// The preimage of the key.
    pub manifest: BlobRef,
    /// What a seal found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<BlobRef>,
    /// The packages of the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<BlobRef>,
    /// How the state came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<BlobRef>,
    /// How long the action took, in milliseconds.
    pub took_ms: u64,
    /// Versions of the host's programs that took part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<String>,
}

/// A result as it lies on a remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultRecord {
    /// The statement, exactly as it was signed.
    pub statement: String,
    /// A signature file of minisign over it.
    pub signature: String,
    /// For each state of the chain the blob that says where its layer's bytes lie, see
    /// [`crate::pack`]; `None` for a base that everybody can download. It is not signed, so that
    /// layers can be packed anew: what it leads to is checked against the states.
    pub layers: Vec<Option<BlobRef>>,
}

impl Statement {
    /// The one text of this statement: what is signed.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("a statement has only string keys")
    }

    /// Whether such a statement is possible, whoever makes it.
    ///
    /// # Errors
    /// The first thing in it that is not.
    pub fn check(&self) -> Result<(), Distrust> {
        if self.kind != TYPE {
            return Err(Distrust::Type);
        }
        if self.epoch != EPOCH {
            return Err(Distrust::Epoch { found: self.epoch });
        }
        if self.block_size != BLOCK {
            return Err(Distrust::BlockSize { found: self.block_size });
        }
        self.check_chain()?;
        let blobs = [Some(self.manifest), self.report, self.sbom, self.provenance];
        check_blobs(blobs.iter().flatten())?;
        let plain = |line: &String| {
            line.len() <= MAX_HOST_LINE && line.bytes().all(|c| matches!(c, b' '..=b'~'))
        };
        if self.host.len() > MAX_HOST || !self.host.iter().all(plain) {
            return Err(Distrust::Host);
        }
        Ok(())
    }

    fn check_chain(&self) -> Result<(), Distrust> {
        if self.chain.is_empty() {
            return Err(Distrust::NoChain);
        }
        if self.chain.len() > MAX_CHAIN {
            return Err(Distrust::LongChain { len: self.chain.len() });
        }
        let mut seen = HashSet::new();
        let mut below = 0;
        for Link { state, virtual_size, data } in &self.chain {
            if !seen.insert(state) {
                return Err(Distrust::StateTwice { state: *state });
            }
            let size = *virtual_size;
            if size == 0 || size > MAX_DISK || !size.is_multiple_of(512) {
                return Err(Distrust::Size { state: *state, size });
            }
            if size < below {
                return Err(Distrust::Shrinks { state: *state });
            }
            below = size;
            if *data > size.next_multiple_of(BLOCK) {
                return Err(Distrust::Data { state: *state });
            }
        }
        Ok(())
    }
}

impl ResultRecord {
    /// The one text of this record: what lies on a remote.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has only string keys")
    }
}

/// Whether blobs have lengths that one of their kind may have.
///
/// # Errors
/// [`Distrust::Blob`] where one has not.
pub(super) fn check_blobs<'a>(
    blobs: impl IntoIterator<Item = &'a BlobRef>,
) -> Result<(), Distrust> {
    match blobs.into_iter().find(|blob| blob.len > MAX_BLOB) {
        Some(blob) => Err(Distrust::Blob { len: blob.len }),
        None => Ok(()),
    }
}
