//! How the bytes of a layer lie on remotes: compressed chunks in blobs, many of which are shared.
//!
//! A *pack* is the list that says so for one state. It is not believed: the index that it leads to
//! must be the one that the state's id was made of, and each block must be what the index's hash
//! says. So a pack decides only how many bytes travel, and may be made anew at any time.
//!
//! # Format, version 1
//!
//! A pack is a JSON object, compressed with zstd. It numbers *blobs*, and *chunks* in them. A chunk
//! is one zstd frame without a dictionary, or with a prefix: bytes of chunks that stand before it in
//! the list, which the decoder needs first. The layer's encoded index and its data are each a list
//! of *pieces*, ranges of unpacked chunks; those of the data begin and end at blocks.
//!
//! | member | what |
//! |---|---|
//! | `type` | `kiln/pack/v1` |
//! | `state` | the state that the layer leads to |
//! | `object` | the BLAKE3 of all data, `null` where there is none |
//! | `blobs` | objects with `id`, the SHA-256, and `len` in bytes |
//! | `chunks` | lists of the blob's number, the first byte in it, the length there, the length unpacked, and the prefix: a list of pieces |
//! | `index`, `data` | lists of pieces: the chunk's number, the first byte in it unpacked, the length |
//!
//! Chunks may be other layers': a layer that is like an older one, block by block, lists the older
//! one's chunks for what is the same, and has chunks of its own, with the older blocks of the same
//! addresses as prefix, for what differs. A chunk may also stand on others of its own layer that it is
//! like. How far a chunk is from one that needs no other is bounded
//! by [`MAX_DEPTH`].

mod codec;
mod likeness;
pub mod partial;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};

use crate::digest::{ObjectId, StateId};
use crate::disk::layer::BLOCK;
use crate::remote::backend::MAX_BLOB;
use crate::remote::{BlobId, BlobRef};

pub use reader::{ChunkReader, ReadError, Source};
pub use writer::{Reference, WriteError, write};

/// Largest chunk, and largest prefix of one, unpacked and in bytes.
pub const MAX_CHUNK: u32 = 8 << 20;
/// Most pieces of a prefix: twice the blocks of a chunk.
const MAX_PREFIX: usize = 4096;
/// How many chunks must be unpacked at most, each for the next, before a chunk can be.
pub const MAX_DEPTH: u32 = 4;
/// Largest pack in bytes, unpacked: that of a layer of some terabytes.
const MAX_PACK: usize = 256 << 20;
const TYPE: &str = "kiln/pack/v1";
/// zstd's level. What it leaves, long matches behind a prefix find, at a fraction of the time that
/// higher levels take.
const LEVEL: i32 = 3;

/// Where the bytes of one layer lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    #[serde(rename = "type")]
    kind: String,
    /// The state that the layer leads to.
    pub state: StateId,
    /// What the data is as one object, by its maker's word; `None` where the layer has none.
    pub object: Option<ObjectId>,
    /// The blobs.
    pub blobs: Vec<BlobRef>,
    /// The chunks; a prefix names only chunks before its own.
    pub chunks: Vec<Chunk>,
    /// The encoded index.
    pub index: Vec<Piece>,
    /// The data blocks, in ascending order.
    pub data: Vec<Piece>,
}

/// One zstd frame in a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ChunkTuple", into = "ChunkTuple")]
pub struct Chunk {
    /// The blob's number.
    pub blob: u32,
    /// The frame's first byte in the blob.
    pub at: u64,
    /// Bytes of the frame.
    pub len: u32,
    /// Bytes when it is unpacked.
    pub raw: u32,
    /// What the decoder must know before.
    pub prefix: Vec<Piece>,
}

type ChunkTuple = (u32, u64, u32, u32, Vec<Piece>);

impl From<ChunkTuple> for Chunk {
    fn from((blob, at, len, raw, prefix): ChunkTuple) -> Self {
        Self { blob, at, len, raw, prefix }
    }
}

impl From<Chunk> for ChunkTuple {
    fn from(Chunk { blob, at, len, raw, prefix }: Chunk) -> Self {
        (blob, at, len, raw, prefix)
    }
}

/// A range of an unpacked chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct Piece {
    /// The chunk's number.
    pub chunk: u32,
    /// First byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

impl From<(u32, u32, u32)> for Piece {
    fn from((chunk, start, len): (u32, u32, u32)) -> Self {
        Self { chunk, start, len }
    }
}

impl From<Piece> for (u32, u32, u32) {
    fn from(Piece { chunk, start, len }: Piece) -> Self {
        (chunk, start, len)
    }
}

/// Adds a piece behind others, joined to the last one where it continues that.
fn push_piece(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last)
            if last.chunk == piece.chunk
                && last.start + last.len == piece.start
                && last.len.checked_add(piece.len).is_some() =>
        {
            last.len += piece.len;
        }
        _ => pieces.push(piece),
    }
}

/// Why bytes are not a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackFault {
    /// They cannot be unpacked, or become too large.
    #[error("it cannot be decompressed")]
    Compression(#[source] std::io::Error),
    /// They are no JSON of that shape.
    #[error("it is not the JSON of a pack")]
    Json(#[source] serde_json::Error),
    /// It is of another version.
    #[error("it is of another version of kiln")]
    Version,
    /// It is about another state.
    #[error("it is about another state")]
    State,
    /// A number leads nowhere, or a length is not possible.
    #[error("its {0} are not possible")]
    Numbers(&'static str),
}

impl Pack {
    fn new(state: StateId, object: Option<ObjectId>) -> Self {
        Self {
            kind: TYPE.to_owned(),
            state,
            object,
            blobs: Vec::new(),
            chunks: Vec::new(),
            index: Vec::new(),
            data: Vec::new(),
        }
    }

    /// The stored form.
    ///
    /// # Panics
    /// Never: a pack is plain data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("a pack has only string keys");
        codec::compress(&json, &[], LEVEL)
    }

    /// Reads the stored form of a state's pack, which may come from anywhere.
    ///
    /// # Errors
    /// Where the bytes are none, or anything in it leads outside of it.
    pub fn decode(bytes: &[u8], state: StateId) -> Result<Self, PackFault> {
        let json = codec::decompress_bounded(bytes, MAX_PACK).map_err(PackFault::Compression)?;
        let pack: Self = serde_json::from_slice(&json).map_err(PackFault::Json)?;
        if pack.kind != TYPE {
            return Err(PackFault::Version);
        }
        if pack.state != state {
            return Err(PackFault::State);
        }
        pack.check()?;
        Ok(pack)
    }

    fn check(&self) -> Result<(), PackFault> {
        if self.blobs.iter().any(|blob| blob.len > MAX_BLOB) {
            return Err(PackFault::Numbers("blobs"));
        }
        let mut depths: Vec<u32> = Vec::with_capacity(self.chunks.len());
        for (number, chunk) in self.chunks.iter().enumerate() {
            let blob = self.blobs.get(chunk.blob as usize);
            let end = chunk.at.checked_add(chunk.len.into());
            let inside = blob.zip(end).is_some_and(|(blob, end)| end <= blob.len);
            let prefix = self.length(&chunk.prefix, number);
            let prefix = prefix.filter(|&len| len <= MAX_CHUNK.into());
            let frame = codec::longest(chunk.raw);
            let odd = chunk.len as usize > frame || chunk.prefix.len() > MAX_PREFIX;
            if odd || !inside || chunk.raw == 0 || chunk.raw > MAX_CHUNK || prefix.is_none() {
                return Err(PackFault::Numbers("chunks"));
            }
            let below = chunk.prefix.iter().map(|piece| depths[piece.chunk as usize] + 1).max();
            if below.unwrap_or(0) > MAX_DEPTH {
                return Err(PackFault::Numbers("prefixes"));
            }
            depths.push(below.unwrap_or(0));
        }
        let blocks = |piece: &Piece| [piece.start, piece.len].map(u64::from);
        let aligned = |piece| blocks(piece).iter().all(|bytes| bytes.is_multiple_of(BLOCK));
        let known = |pieces| self.length(pieces, self.chunks.len()).is_some();
        if !known(&self.index) || !known(&self.data) || !self.data.iter().all(aligned) {
            return Err(PackFault::Numbers("pieces"));
        }
        Ok(())
    }

    /// Bytes of some pieces, all of which lie in the first `chunks` chunks.
    fn length(&self, pieces: &[Piece], chunks: usize) -> Option<u64> {
        pieces.iter().try_fold(0u64, |sum, piece| {
            let chunk = self.chunks[..chunks].get(piece.chunk as usize)?;
            let end = piece.start.checked_add(piece.len)?;
            (piece.len > 0 && end <= chunk.raw).then(|| sum.checked_add(piece.len.into()))?
        })
    }

    /// Bytes of the layer's data, unpacked.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.data.iter().map(|piece| u64::from(piece.len)).sum()
    }

    /// Bytes of the encoded index.
    #[must_use]
    pub fn index_len(&self) -> u64 {
        self.index.iter().map(|piece| u64::from(piece.len)).sum()
    }

    /// How far a chunk is from one without a prefix.
    fn depths(&self) -> Vec<u32> {
        let mut depths: Vec<u32> = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            let below = chunk.prefix.iter().map(|piece| depths[piece.chunk as usize] + 1).max();
            depths.push(below.unwrap_or(0));
        }
        depths
    }

    /// What a chunk is called wherever it is listed: its blob, and its place there.
    fn place(&self, chunk: usize) -> (BlobId, u64) {
        let chunk = &self.chunks[chunk];
        (self.blobs[chunk.blob as usize].id, chunk.at)
    }
}
