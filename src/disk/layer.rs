//! The index of a layer: what one action changed, block or hole, against one exact parent state.
//!
//! The encoded index is at once an object of the store and the preimage of the [`StateId`]: two
//! layers have one id exactly if they say the same about the same parent. Where the blocks' bytes
//! lie is not part of it ([`crate::store::Placement`] says so), so that they can be repacked.
//!
//! # Format, version 1
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `KILNLAY1` |
//! | 8 | virtual size in bytes, a multiple of 512, at least 1 and at most 2⁵⁰ |
//! | 32 | the parent's `StateId`; zeros for a layer on nothing |
//! | 8 | number of extents |
//! | 8 | number of data blocks |
//! | 16 each | extents: first block (8), and length in blocks times two, plus one for data (8) |
//! | 32 each | plain BLAKE3 of each data block, in ascending order of blocks |
//!
//! A block has 4096 bytes; the last one of a disk is hashed as if filled up with zeros. Extents
//! ascend, do not touch their neighbours of the same kind, and lie inside the disk. A layer on
//! nothing has no holes. One layer therefore has one encoding, and a decoder refuses any other.

use crate::digest::{Digest, Hasher, StateId};

/// Bytes in a block, the unit of tracking, hashing and storing.
pub const BLOCK: u64 = 4096;
/// [`BLOCK`] as a length in memory.
pub const BLOCK_LEN: usize = 4096;
/// Largest virtual disk in bytes (1 PiB), which keeps all arithmetic far from overflow.
pub const MAX_DISK: u64 = 1 << 50;

const MAGIC: &[u8; 8] = b"KILNLAY1";
const HEADER: usize = 64;

/// What a layer says about a run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The blocks have these bytes now.
    Data,
    /// The blocks were discarded and read as zeros, whatever the parent has there.
    Hole,
}

/// A run of blocks that a layer says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub start: u64,
    /// Number of blocks, at least one.
    pub len: u64,
    /// What happened to them.
    pub change: Change,
}

/// A decoded layer index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerIndex {
    /// The state that the layer was made against; `None` for a base.
    pub parent: Option<StateId>,
    /// Size of the virtual disk in bytes.
    pub virtual_size: u64,
    /// Runs in ascending order.
    pub extents: Vec<Extent>,
    /// The digest of each data block, in ascending order of blocks.
    pub hashes: Vec<Digest>,
}

/// Why bytes are not a layer index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayerFault {
    /// The magic number is another.
    #[error("it does not start as a layer index of version 1")]
    Magic,
    /// Shorter or longer than its own counts say.
    #[error("its length does not agree with its counts")]
    Length,
    /// The virtual size is odd, zero or too large.
    #[error("its virtual size is not possible")]
    Size,
    /// The extents are not the one encoding of a layer.
    #[error("its extents are not in canonical order")]
    Extents,
}

/// Collects the extents of a layer in ascending order and joins those that touch.
#[derive(Debug, Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// Adds a run behind all others.
    pub fn push(&mut self, start: u64, len: u64, change: Change) {
        match self.0.last_mut() {
            Some(last) if last.start + last.len == start && last.change == change => {
                last.len += len;
            }
            _ => self.0.push(Extent { start, len, change }),
        }
    }

    /// The runs.
    #[must_use]
    pub fn finish(self) -> Vec<Extent> {
        self.0
    }
}

/// Number of blocks on a disk of `virtual_size` bytes.
#[must_use]
pub fn blocks(virtual_size: u64) -> u64 {
    virtual_size.div_ceil(BLOCK)
}

impl LayerIndex {
    /// Number of blocks whose bytes the layer holds.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let len = HEADER + 16 * self.extents.len() + Digest::LEN * self.hashes.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.virtual_size.to_le_bytes());
        let parent = self.parent.map_or([0; Digest::LEN], |parent| *parent.0.as_bytes());
        bytes.extend_from_slice(&parent);
        bytes.extend_from_slice(&(self.extents.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.data_blocks().to_le_bytes());
        for extent in &self.extents {
            let data = u64::from(extent.change == Change::Data);
            bytes.extend_from_slice(&extent.start.to_le_bytes());
            bytes.extend_from_slice(&(extent.len << 1 | data).to_le_bytes());
        }
        for hash in &self.hashes {
            bytes.extend_from_slice(hash.as_bytes());
        }
        bytes
    }

    /// Decodes an index, which may come from anywhere.
    ///
    /// # Errors
    /// Where the bytes are not the canonical encoding of a layer.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayerFault> {
        let number = |at: usize| {
            let field = bytes.get(at..at + 8).ok_or(LayerFault::Length)?;
            Ok(u64::from_le_bytes(field.try_into().map_err(|_| LayerFault::Length)?))
        };
        if bytes.get(..8) != Some(MAGIC) {
            return Err(LayerFault::Magic);
        }
        let virtual_size = number(8)?;
        if virtual_size == 0 || virtual_size > MAX_DISK || !virtual_size.is_multiple_of(512) {
            return Err(LayerFault::Size);
        }
        let parent: [u8; Digest::LEN] =
            bytes.get(16..48).and_then(|id| id.try_into().ok()).ok_or(LayerFault::Length)?;
        let parent = (parent != [0; Digest::LEN]).then(|| StateId(Digest::from_bytes(parent)));
        let (extent_count, hash_count) = (number(48)?, number(56)?);
        let body = (bytes.len() - HEADER) as u64;
        let wanted = extent_count
            .checked_mul(16)
            .and_then(|extents| hash_count.checked_mul(32)?.checked_add(extents));
        if wanted != Some(body) {
            return Err(LayerFault::Length);
        }
        let split = HEADER + 16 * usize::try_from(extent_count).map_err(|_| LayerFault::Length)?;
        let (table, hashes) = bytes[HEADER..].split_at(split - HEADER);

        let mut extents: Vec<Extent> = Vec::with_capacity(table.len() / 16);
        let mut data_blocks = 0;
        for entry in table.chunks_exact(16) {
            let (start, packed) = entry.split_at(8);
            let start = u64::from_le_bytes(start.try_into().map_err(|_| LayerFault::Length)?);
            let packed = u64::from_le_bytes(packed.try_into().map_err(|_| LayerFault::Length)?);
            let change = if packed & 1 == 1 { Change::Data } else { Change::Hole };
            let extent = Extent { start, len: packed >> 1, change };
            let ordered = extents.last().is_none_or(|last| {
                let end = last.start + last.len;
                end < start || end == start && last.change != change
            });
            let end = start.checked_add(extent.len).filter(|&end| end <= blocks(virtual_size));
            let hole_over_nothing = change == Change::Hole && parent.is_none();
            if !ordered || extent.len == 0 || end.is_none() || hole_over_nothing {
                return Err(LayerFault::Extents);
            }
            if change == Change::Data {
                data_blocks += extent.len;
            }
            extents.push(extent);
        }
        if data_blocks != hash_count {
            return Err(LayerFault::Extents);
        }
        let hashes = hashes
            .chunks_exact(Digest::LEN)
            .map(|hash| hash.try_into().map(Digest::from_bytes).map_err(|_| LayerFault::Length))
            .collect::<Result<_, _>>()?;
        Ok(Self { parent, virtual_size, extents, hashes })
    }
}

/// The id of the state that an encoded index describes.
#[must_use]
pub fn state_id(encoded: &[u8]) -> StateId {
    StateId(Hasher::new("kiln 2026-11 disk state v1").raw(encoded).finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer() -> impl Strategy<Value = LayerIndex> {
        let runs = proptest::collection::vec((0..5u64, 1..5u64, any::<bool>()), 0..8);
        (any::<Option<[u8; 32]>>(), runs).prop_map(|(parent, runs)| {
            let parent =
                parent.filter(|id| *id != [0; 32]).map(|id| StateId(Digest::from_bytes(id)));
            let mut extents = Extents::default();
            let mut next = 0;
            for (gap, len, hole) in runs {
                let change = if hole && parent.is_some() { Change::Hole } else { Change::Data };
                extents.push(next + gap, len, change);
                next += gap + len;
            }
            let extents = extents.finish();
            let data: u64 =
                extents.iter().filter(|e| e.change == Change::Data).map(|e| e.len).sum();
            let hashes = (0..data).map(|n| Digest::of(&n.to_le_bytes())).collect();
            LayerIndex { parent, virtual_size: 512 * 801, extents, hashes }
        })
    }

    proptest! {
        #[test]
        fn a_layer_survives_its_encoding(layer in layer()) {
            prop_assert_eq!(LayerIndex::decode(&layer.encode()).unwrap(), layer);
        }

        #[test]
        fn what_decodes_is_canonical(layer in layer(), at: prop::sample::Index, byte: u8) {
            let mut bytes = layer.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(other) = LayerIndex::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }

        #[test]
        fn no_prefix_is_a_layer(layer in layer(), at: prop::sample::Index) {
            let bytes = layer.encode();
            prop_assert!(LayerIndex::decode(&bytes[..at.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn the_format_does_not_move() {
        let layer = LayerIndex {
            parent: Some(StateId(Digest::of(b"parent"))),
            virtual_size: 1 << 20,
            extents: vec![
                Extent { start: 1, len: 2, change: Change::Data },
                Extent { start: 3, len: 4, change: Change::Hole },
            ],
            hashes: vec![Digest::of(b"one"), Digest::of(b"two")],
        };
        insta::assert_snapshot!(
            state_id(&layer.encode()),
            @"b58cc3a44c962abd55b9c4f573d53ac4790a7f0f89aa4dc2d4834a8c66f3ed80"
        );
    }
}
