//! When a result counts: everything that must hold before a build stands on it, in one place.
//!
//! A record comes from a remote, which is nobody's friend. It is taken in this order, each step on
//! what the one before has let through: its length, its shape, its signature, what it says, and
//! whether that is what was asked for. Nothing of a statement is read before its signature holds.

use std::fmt::Write as _;

use super::BlobRef;
use super::backend::MAX_RECORD;
use super::statement::{self, EPOCH, MAX_CHAIN, ResultRecord, Statement, TYPE};
use super::trust::{SignerId, Trust};
use crate::digest::{ActionKey, StateId};
use crate::disk::layer::BLOCK;
use crate::mistake::excerpt;
use crate::name::Namespace;

/// A result that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What was signed.
    pub statement: Statement,
    /// For each state of the chain where its layer is described, see [`ResultRecord::layers`].
    pub layers: Vec<Option<BlobRef>>,
    /// The key that signed it.
    pub signer: SignerId,
    /// Whose key that is, by `kiln.kdl`.
    pub name: Option<String>,
}

/// Why a result does not count. Each is a clause that goes on after "is not used: "; none repeats a
/// text of the record, which may be anybody's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Longer than any record.
    #[error("its record is larger than {MAX_RECORD} bytes")]
    TooLong,
    /// Not JSON of the right shape.
    #[error("its record is damaged: it is not one of a result")]
    Shape,
    /// A text that says in another way what it says.
    #[error("its record is not written as kiln writes it")]
    NotCanonical,
    /// No signature.
    #[error("it is not signed")]
    Unsigned,
    /// Something else than a signature file.
    #[error("its signature is not one of minisign")]
    NotASignature,
    /// Signed by a key that nobody listed.
    #[error("it is signed by the key {signer}, which `kiln.kdl` does not list")]
    UnknownSigner {
        /// The key.
        signer: SignerId,
    },
    /// Signed by a key that was revoked.
    #[error("it is signed by the key {}, which is revoked", named(*signer, name.as_deref()))]
    Revoked {
        /// The key.
        signer: SignerId,
        /// Whose it is.
        name: Option<String>,
    },
    /// The signature is not over it.
    #[error("its signature by the key {} is wrong", named(*signer, name.as_deref()))]
    WrongSignature {
        /// The key.
        signer: SignerId,
        /// Whose it is.
        name: Option<String>,
    },
    /// What was signed is not a statement.
    #[error("what was signed is not a statement of a result")]
    NotAStatement,
    /// A statement of another type.
    #[error("what was signed is of another type than `{TYPE}`")]
    Type,
    /// A statement of another epoch.
    #[error("it is of epoch {found} of kiln, and this is epoch {EPOCH}")]
    Epoch {
        /// The epoch.
        found: u64,
    },
    /// It is someone else's.
    #[error("it is of the namespace `{found}`")]
    Namespace {
        /// Whose it is.
        found: Namespace,
    },
    /// It is of another action.
    #[error("it is the result of another action, {}", found.short())]
    Key {
        /// The action.
        found: ActionKey,
    },
    /// Layers of another block size.
    #[error("its layers have blocks of {found} bytes, and not of {BLOCK}")]
    BlockSize {
        /// Bytes in a block.
        found: u64,
    },
    /// No states.
    #[error("it has no states")]
    NoChain,
    /// Too many states.
    #[error("it has {len} states, and at most {MAX_CHAIN} are allowed")]
    LongChain {
        /// How many.
        len: usize,
    },
    /// One state at two places.
    #[error("it has the state {} twice", state.short())]
    StateTwice {
        /// The state.
        state: StateId,
    },
    /// A disk of a size that no disk has.
    #[error("its state {} has an impossible size, {size} bytes", state.short())]
    Size {
        /// The state.
        state: StateId,
        /// Its size in bytes.
        size: u64,
    },
    /// A disk that is smaller than the one that it was made from.
    #[error("its state {} is smaller than the one below", state.short())]
    Shrinks {
        /// The state.
        state: StateId,
    },
    /// More data than fits the disk.
    #[error("its state {} has more data than its disk has room", state.short())]
    Data {
        /// The state.
        state: StateId,
    },
    /// A blob of a length that none has.
    #[error("it names a blob of {len} bytes, which none may have")]
    Blob {
        /// Bytes of the blob.
        len: u64,
    },
    /// Programs of the host that are no names of programs.
    #[error("its list of host programs is too long or not plain text")]
    Host,
    /// Descriptions of more or fewer layers than there are states.
    #[error("it has {states} states and describes {layers} layers")]
    Layers {
        /// How many states.
        states: usize,
        /// How many layers.
        layers: usize,
    },
    /// A layer above the base is described nowhere.
    #[error("it does not say where the layer of its state {} is", state.short())]
    NoLayer {
        /// The state.
        state: StateId,
    },
}

/// A key as people know it.
fn named(signer: SignerId, name: Option<&str>) -> String {
    let mut text = signer.to_string();
    if let Some(name) = name {
        let _ = write!(text, " ({})", excerpt(name));
    }
    text
}

impl ResultRecord {
    /// The result of an action in a namespace, if what lies on a remote is one that counts.
    ///
    /// # Errors
    /// The first reason why it does not.
    pub fn accept(
        bytes: &[u8],
        key: ActionKey,
        namespace: &Namespace,
        trust: &Trust,
    ) -> Result<Accepted, Distrust> {
        if bytes.len() as u64 > MAX_RECORD {
            return Err(Distrust::TooLong);
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|_| Distrust::Shape)?;
        if record.encode() != bytes {
            return Err(Distrust::NotCanonical);
        }
        let signer = trust.check(record.statement.as_bytes(), &record.signature)?;
        let statement: Statement =
            serde_json::from_str(&record.statement).map_err(|_| Distrust::NotAStatement)?;
        if statement.encode() != record.statement {
            return Err(Distrust::NotCanonical);
        }
        statement.check()?;
        if statement.namespace != *namespace {
            return Err(Distrust::Namespace { found: statement.namespace });
        }
        if statement.key != key {
            return Err(Distrust::Key { found: statement.key });
        }
        check_layers(&statement, &record.layers)?;
        let name = trust.name(signer).map(str::to_owned);
        Ok(Accepted { statement, layers: record.layers, signer, name })
    }
}

/// Whether every layer is described that has to be: all but a base's.
pub(super) fn check_layers(
    statement: &Statement,
    layers: &[Option<BlobRef>],
) -> Result<(), Distrust> {
    let states = &statement.chain;
    if layers.len() != states.len() {
        return Err(Distrust::Layers { states: states.len(), layers: layers.len() });
    }
    let above_base = states.iter().zip(layers).skip(1);
    if let Some((link, _)) = above_base.into_iter().find(|(_, layer)| layer.is_none()) {
        return Err(Distrust::NoLayer { state: link.state });
    }
    statement::check_blobs(layers.iter().flatten())
}
