//! Makes the pack of a layer, and the blobs that it needs and nobody has yet.
//!
//! What a layer shares with others, or with itself, is found by the hashes of its blocks, which the
//! indexes hold already. What is left goes into chunks, each behind what an older layer has at the
//! same addresses (a rebuilt layer differs from the one before in times and counters, spread over
//! blocks that are otherwise the same), or behind other chunks of the same layer that it is like.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use super::{Chunk, LEVEL, MAX_DEPTH, Pack, Piece, codec, likeness, push_piece};
use crate::digest::{Digest, ObjectId, StateId};
use crate::disk::layer::{BLOCK, BLOCK_LEN, Change, LayerIndex};
use crate::files::{Context, FileError};
use crate::remote::{BlobId, BlobRef};

/// Bytes that a chunk has unpacked. Smaller ones find more that they are like, and cost less where
/// only one block of them is wanted; larger ones are fewer.
const CHUNK: usize = 1 << 20;
/// Bytes at which a blob ends: a cut-off upload repeats one of these, and each costs a request.
const BLOB: usize = 16 << 20;
/// Bytes in a block, as a length in a chunk.
const BLOCK_BYTES: u32 = 4096;
/// How far a rebuilt layer's index may have moved against the older one, in bytes.
const DRIFT: usize = 1 << 20;

/// A layer whose pack is known and whose data is here: what a new one may be like.
pub struct Reference {
    /// Its pack.
    pub pack: Pack,
    /// Its index.
    pub index: LayerIndex,
    /// The same, encoded.
    pub encoded: Vec<u8>,
    /// Its data blocks; `None` where they are not here: then only the same blocks are shared.
    pub data: Option<File>,
}

/// Why a pack could not be made: a file of the host, or whoever takes the blobs.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum WriteError<E: miette::Diagnostic + 'static> {
    /// The layer cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(FileError),
    /// A blob was not taken.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Sink(E),
}

/// Where the bytes of a chunk's part come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Old {
    /// So many blocks of a reference's data, from a block of it.
    Data { reference: usize, block: u64 },
}

/// A chunk that is to be made.
#[derive(Default)]
struct Draft {
    /// The data blocks in it.
    blocks: Vec<u64>,
    /// What older layers have at the same addresses, one block each: it is packed behind that.
    prefix: Vec<Old>,
    /// Other chunks of this layer that it is like: it is packed behind those as well.
    roots: Vec<usize>,
}

/// Makes the pack of a layer; `sink` gets each new blob, in no order that matters.
///
/// `data` are the layer's data blocks one after the other. References that come first are preferred.
///
/// # Errors
/// Where the layer or a reference cannot be read, or a blob is not taken.
pub fn write<E: miette::Diagnostic + Send + 'static>(
    state: StateId,
    index: &LayerIndex,
    encoded: &[u8],
    data: Option<(ObjectId, &File, &Path)>,
    references: &[Reference],
    sink: &mut dyn FnMut(BlobRef, Vec<u8>) -> Result<(), E>,
) -> Result<Pack, WriteError<E>> {
    let mut writer = Writer {
        pack: Pack::new(state, data.map(|(object, ..)| object)),
        references: references.iter().map(Known::new).collect(),
        depths: Vec::new(),
        places: HashMap::new(),
        blobs: HashMap::new(),
        pending: Vec::new(),
        pending_chunks: Vec::new(),
        sink,
    };
    writer.index(encoded)?;
    if let Some((_, file, path)) = data {
        writer.data(index, file, path)?;
    }
    writer.flush()?;
    Ok(writer.pack)
}

/// A reference, ready to be asked.
struct Known<'a> {
    reference: &'a Reference,
    depths: Vec<u32>,
    /// First data block of each piece of its data.
    starts: Vec<u64>,
    /// The extents of data: first block on the disk, number of blocks, first data block.
    extents: Vec<(u64, u64, u64)>,
}

impl<'a> Known<'a> {
    fn new(reference: &'a Reference) -> Self {
        let mut next = 0;
        let starts = reference.pack.data.iter().map(|piece| {
            next += u64::from(piece.len) / BLOCK;
            next - u64::from(piece.len) / BLOCK
        });
        let starts = starts.collect();
        Self {
            depths: reference.pack.depths(),
            starts,
            extents: data_extents(&reference.index),
            reference,
        }
    }

    /// Where a data block lies in its pack.
    fn piece(&self, block: u64) -> Piece {
        let at = self.starts.partition_point(|&start| start <= block) - 1;
        let piece = self.reference.pack.data[at];
        let skip = u32::try_from((block - self.starts[at]) * BLOCK).expect("inside a chunk");
        Piece { start: piece.start + skip, len: BLOCK_BYTES, ..piece }
    }

    /// The data block that lies at a block of the disk.
    fn at(&self, address: u64) -> Option<u64> {
        let at = self.extents.partition_point(|extent| extent.0 <= address).checked_sub(1)?;
        let (start, len, first) = self.extents[at];
        (address < start + len).then_some(first + address - start)
    }
}

fn data_extents(index: &LayerIndex) -> Vec<(u64, u64, u64)> {
    let mut first = 0;
    let data = index.extents.iter().filter(|extent| extent.change == Change::Data);
    data.map(|extent| {
        first += extent.len;
        (extent.start, extent.len, first - extent.len)
    })
    .collect()
}

struct Writer<'a, E> {
    pack: Pack,
    references: Vec<Known<'a>>,
    depths: Vec<u32>,
    /// Chunks of references that are in the list already.
    places: HashMap<(BlobId, u64), u32>,
    blobs: HashMap<BlobId, u32>,
    /// The blob that is being filled, and the chunks in it.
    pending: Vec<u8>,
    pending_chunks: Vec<usize>,
    sink: &'a mut dyn FnMut(BlobRef, Vec<u8>) -> Result<(), E>,
}

impl<E: miette::Diagnostic + Send + 'static> Writer<'_, E> {
    /// Lists a chunk of a reference, and before it what it needs.
    fn adopt(&mut self, reference: usize, chunk: u32) -> u32 {
        let pack = &self.references[reference].reference.pack;
        let place = pack.place(chunk as usize);
        if let Some(&known) = self.places.get(&place) {
            return known;
        }
        let old = pack.chunks[chunk as usize].clone();
        let blob = pack.blobs[old.blob as usize];
        let adopt = |piece: Piece, this: &mut Self| Piece {
            chunk: this.adopt(reference, piece.chunk),
            ..piece
        };
        let prefix = old.prefix.iter().map(|&piece| adopt(piece, self)).collect();
        let blob = self.blob(blob);
        let number = self.push(Chunk { blob, prefix, ..old });
        self.places.insert(place, number);
        number
    }

    fn blob(&mut self, blob: BlobRef) -> u32 {
        let next = u32::try_from(self.pack.blobs.len()).expect("fewer than 2^32 blobs");
        let number = *self.blobs.entry(blob.id).or_insert(next);
        if number == next {
            self.pack.blobs.push(blob);
        }
        number
    }

    fn push(&mut self, chunk: Chunk) -> u32 {
        let below = chunk.prefix.iter().map(|piece| self.depths[piece.chunk as usize] + 1).max();
        self.depths.push(below.unwrap_or(0));
        self.pack.chunks.push(chunk);
        u32::try_from(self.pack.chunks.len() - 1).expect("fewer than 2^32 chunks")
    }

    /// Puts a frame into the blob that is being filled, and lists it.
    fn add(&mut self, frame: &[u8], raw: u32, prefix: Vec<Piece>) -> Result<u32, WriteError<E>> {
        if self.pending.len() + frame.len() > BLOB && !self.pending.is_empty() {
            self.flush()?;
        }
        let len = u32::try_from(frame.len()).expect("a frame is hardly larger than its chunk");
        let at = self.pending.len() as u64;
        self.pending.extend_from_slice(frame);
        let number = self.push(Chunk { blob: u32::MAX, at, len, raw, prefix });
        self.pending_chunks.push(number as usize);
        Ok(number)
    }

    /// Ends the blob that is being filled.
    fn flush(&mut self) -> Result<(), WriteError<E>> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.pending);
        let blob = BlobRef::of(&bytes);
        let number = self.blob(blob);
        for chunk in self.pending_chunks.drain(..) {
            self.pack.chunks[chunk].blob = number;
        }
        (self.sink)(blob, bytes).map_err(WriteError::Sink)
    }

    /// Packs the encoded index, behind about the same part of the first reference's.
    fn index(&mut self, encoded: &[u8]) -> Result<(), WriteError<E>> {
        for (number, part) in encoded.chunks(CHUNK).enumerate() {
            let at = number * CHUNK;
            let (pieces, prefix) = self.index_prefix(at, at + part.len());
            let frame = codec::compress(part, &prefix, LEVEL);
            let raw = u32::try_from(part.len()).expect("a chunk is small");
            let chunk = self.add(&frame, raw, pieces)?;
            self.pack.index.push(Piece { chunk, start: 0, len: raw });
        }
        Ok(())
    }

    fn index_prefix(&mut self, from: usize, to: usize) -> (Vec<Piece>, Vec<u8>) {
        let Some(known) = self.references.first() else { return (Vec::new(), Vec::new()) };
        let reference = known.reference;
        let (from, to) = (from.saturating_sub(DRIFT), to + DRIFT);
        let (mut pieces, mut bytes, mut at) = (Vec::new(), Vec::new(), 0);
        for &piece in &reference.pack.index {
            let len = piece.len as usize;
            let (start, end) = (from.clamp(at, at + len), to.clamp(at, at + len));
            let deep = self.references[0].depths[piece.chunk as usize] >= MAX_DEPTH;
            if start < end && !deep {
                bytes.extend_from_slice(&reference.encoded[start..end]);
                let chunk = self.adopt(0, piece.chunk);
                let skip = u32::try_from(start - at).expect("inside a chunk");
                let len = u32::try_from(end - start).expect("inside a chunk");
                pieces.push(Piece { chunk, start: piece.start + skip, len });
            }
            at += len;
        }
        (pieces, bytes)
    }

    fn data(&mut self, index: &LayerIndex, file: &File, path: &Path) -> Result<(), WriteError<E>> {
        let mut known: HashMap<Digest, Old> = HashMap::new();
        for (number, reference) in self.references.iter().enumerate().rev() {
            let hashes = reference.reference.index.hashes.iter();
            known.extend(
                (0..)
                    .zip(hashes)
                    .map(|(block, &hash)| (hash, Old::Data { reference: number, block })),
            );
        }
        // For each data block where it is: the block of this layer that has its bytes first, or an
        // older layer's.
        let mut first: HashMap<Digest, u64> = HashMap::new();
        let mut drafts: Vec<Draft> = Vec::new();
        let mut fresh: HashMap<u64, (usize, usize)> = HashMap::new();
        let mut addresses =
            data_extents(index).into_iter().flat_map(|(start, len, _)| start..start + len);
        for (block, hash) in (0..).zip(&index.hashes) {
            let address = addresses.next().expect("an extent for each data block");
            if known.contains_key(hash) || first.contains_key(hash) {
                continue;
            }
            first.insert(*hash, block);
            if drafts.last().is_none_or(|draft| draft.blocks.len() * BLOCK_LEN >= CHUNK) {
                drafts.push(Draft::default());
            }
            let number = drafts.len() - 1;
            let draft = &mut drafts[number];
            fresh.insert(block, (number, draft.blocks.len()));
            draft.blocks.push(block);
            draft.prefix.extend(self.older(address));
        }
        Self::compare(&mut drafts, file, path).map_err(WriteError::File)?;
        let numbers = self.chunks(&drafts, file, path)?;
        for hash in &index.hashes {
            let piece = match (first.get(hash), known.get(hash)) {
                (Some(block), _) => {
                    let (draft, at) = fresh[block];
                    let start = u32::try_from(at * BLOCK_LEN).expect("inside a chunk");
                    Piece { chunk: numbers[draft], start, len: BLOCK_BYTES }
                }
                (None, Some(&Old::Data { reference, block })) => {
                    let piece = self.references[reference].piece(block);
                    Piece { chunk: self.adopt(reference, piece.chunk), ..piece }
                }
                (None, None) => unreachable!("each block is fresh or known"),
            };
            push_piece(&mut self.pack.data, piece);
        }
        Ok(())
    }

    /// Finds for each chunk those that it is like, unless older layers know it well already.
    fn compare(drafts: &mut [Draft], file: &File, path: &Path) -> Result<(), FileError> {
        let samples: Vec<Vec<u64>> = drafts
            .par_iter()
            .map(|draft| {
                if draft.prefix.len() * 2 > draft.blocks.len() {
                    return Ok(Vec::new());
                }
                Ok(likeness::samples(&read_blocks(file, &draft.blocks).context("read", path)?))
            })
            .collect::<Result<_, FileError>>()?;
        for (draft, roots) in drafts.iter_mut().zip(likeness::roots(&samples)) {
            draft.roots = roots;
        }
        Ok(())
    }

    /// What an older layer has at an address, in a chunk that others may stand on.
    fn older(&self, address: u64) -> Option<Old> {
        self.references.iter().enumerate().find_map(|(number, known)| {
            let block = known.at(address).filter(|_| known.reference.data.is_some())?;
            let depth = known.depths[known.piece(block).chunk as usize];
            // One less, as this chunk may become the root of another.
            (depth + 1 < MAX_DEPTH).then_some(Old::Data { reference: number, block })
        })
    }

    /// Packs the drafts on every core; gives the number of each one's chunk.
    fn chunks(
        &mut self,
        drafts: &[Draft],
        file: &File,
        path: &Path,
    ) -> Result<Vec<u32>, WriteError<E>> {
        let mut numbers = Vec::with_capacity(drafts.len());
        for window in drafts.chunks(rayon::current_num_threads() * 2) {
            let references = &self.references;
            let frames: Vec<(Vec<u8>, usize)> = window
                .par_iter()
                .map(|draft| {
                    let blocks = read_blocks(file, &draft.blocks).context("read", path)?;
                    let mut prefix = Vec::new();
                    for &root in &draft.roots {
                        let root = read_blocks(file, &drafts[root].blocks).context("read", path)?;
                        prefix.extend(root);
                    }
                    for &Old::Data { reference, block } in &draft.prefix {
                        let data = references[reference].reference.data.as_ref();
                        let data = data.expect("a layer with data blocks has data");
                        prefix.extend(read_blocks(data, &[block]).context("read", path)?);
                    }
                    Ok((codec::compress(&blocks, &prefix, LEVEL), blocks.len()))
                })
                .collect::<Result<_, FileError>>()
                .map_err(WriteError::File)?;
            for (draft, (frame, raw)) in window.iter().zip(frames) {
                let whole = |&root: &usize| {
                    let len = u32::try_from(drafts[root].blocks.len() * BLOCK_LEN);
                    Piece { chunk: numbers[root], start: 0, len: len.expect("a chunk is small") }
                };
                let mut prefix: Vec<Piece> = draft.roots.iter().map(whole).collect();
                for &Old::Data { reference, block } in &draft.prefix {
                    let piece = self.references[reference].piece(block);
                    let chunk = self.adopt(reference, piece.chunk);
                    push_piece(&mut prefix, Piece { chunk, ..piece });
                }
                let raw = u32::try_from(raw).expect("a chunk is small");
                numbers.push(self.add(&frame, raw, prefix)?);
            }
        }
        Ok(numbers)
    }
}

fn read_blocks(file: &File, blocks: &[u64]) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; blocks.len() * BLOCK_LEN];
    let mut at = 0;
    for run in blocks.chunk_by(|a, b| a + 1 == *b) {
        let len = run.len() * BLOCK_LEN;
        file.read_exact_at(&mut bytes[at..at + len], run[0] * BLOCK)?;
        at += len;
    }
    Ok(bytes)
}
