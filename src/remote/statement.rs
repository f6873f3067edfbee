//! What is signed: that an action led to a chain of states.
//!
//! A statement is a JSON text, and the signature is over exactly its bytes. It says everything that
//! a result is believed for: which action, in whose namespace, by which epoch of kiln, which states
//! on which other states, and how large they are. What is not in it is either checked against what
//! is (an index against its state, a block against its index, a blob against its id), or only tells
//! where to look.

use serde::{Deserialize, Serialize};

use super::BlobRef;
use crate::digest::{ActionKey, StateId};
use crate::name::Namespace;

/// The type of a statement, with its version; signed, so that a signature of something else never
/// counts.
pub const TYPE: &str = "kiln/action-result/v1";
/// Raised when results of older kilns must not be taken any more.
pub const EPOCH: u64 = 1;

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
    /// [`crate::pack`]; `None` for a base that everybody can download.
    pub layers: Vec<Option<BlobRef>>,
}
