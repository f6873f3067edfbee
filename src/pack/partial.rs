//! The data of a layer that is here in part: blocks are fetched when they are first wanted.
//!
//! The file is what the whole data object will be, with holes for what is missing. Nothing notes
//! what is there: a block is there if its bytes have its hash. So a fetch may be killed anywhere, and
//! is gone on with by whoever comes next.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::reader::{ChunkReader, ReadError, Source, first_right, part};
use super::{Pack, Piece};
use crate::digest::Digest;
use crate::disk::layer::{BLOCK, BLOCK_LEN};
use crate::files::{Context, FileError};
use crate::remote::BlobId;

/// Stretches of a blob that are fetched at one time.
const FETCHES: usize = 8;

/// Why blocks cannot be had.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PartialError {
    /// The file cannot be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// They cannot be fetched.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Read(#[from] ReadError),
}

/// A layer whose data is here, from which blocks of the same bytes are copied.
pub struct Twin {
    /// Its pack.
    pub pack: Pack,
    /// The hashes of its data blocks.
    pub hashes: Vec<Digest>,
    /// Its data.
    pub data: File,
}

/// A twin, and where its pack's chunks are used in it.
struct Known {
    data: File,
    hashes: Vec<Digest>,
    chunks: HashMap<(BlobId, u64), Vec<Use>>,
}

/// A part of a chunk that is used, and the first data block that it is.
#[derive(Debug, Clone, Copy)]
struct Use {
    piece: Piece,
    block: u64,
}

/// The data of one layer, on its way.
pub struct Partial {
    reader: ChunkReader,
    hashes: Vec<Digest>,
    file: File,
    path: PathBuf,
    /// For each chunk where it is used, and whether all of that is in the file.
    chunks: Vec<(Vec<Use>, Mutex<bool>)>,
    /// First block of each piece of the data.
    starts: Vec<u64>,
    twins: Vec<Known>,
    /// Where twins have a block of some bytes: the twin's number, and its data block.
    copies: HashMap<Digest, (usize, u64)>,
    fetched: AtomicU64,
}

/// Where the chunks of a pack are used in its layer's data.
fn uses(pack: &Pack) -> Vec<Vec<Use>> {
    let mut chunks: Vec<Vec<Use>> = vec![Vec::new(); pack.chunks.len()];
    let mut block = 0;
    for &piece in &pack.data {
        chunks[piece.chunk as usize].push(Use { piece, block });
        block += u64::from(piece.len) / BLOCK;
    }
    chunks
}

impl Partial {
    /// Goes on with a file, which may be new. `hashes` are those of the layer's index; `None` where
    /// the pack is of another number of blocks.
    #[must_use]
    pub fn new(
        pack: Pack,
        hashes: Vec<Digest>,
        file: File,
        path: PathBuf,
        twins: Vec<Twin>,
    ) -> Option<Self> {
        if pack.data_len() != hashes.len() as u64 * BLOCK {
            return None;
        }
        let chunks = uses(&pack).into_iter().map(|used| (used, Mutex::default())).collect();
        let mut block = 0;
        let starts = pack.data.iter().map(|piece| {
            block += u64::from(piece.len) / BLOCK;
            block - u64::from(piece.len) / BLOCK
        });
        let starts = starts.collect();
        let wanted: HashSet<&Digest> = hashes.iter().collect();
        let mut copies = HashMap::new();
        for (number, twin) in twins.iter().enumerate() {
            let theirs = twin.hashes.iter().zip(0..).filter(|(hash, _)| wanted.contains(hash));
            copies.extend(theirs.map(|(hash, block)| (*hash, (number, block))));
        }
        let twins = twins.into_iter().map(|twin| {
            let places = (0..twin.pack.chunks.len()).map(|chunk| twin.pack.place(chunk));
            let chunks = places.zip(uses(&twin.pack)).collect();
            Known { chunks, hashes: twin.hashes, data: twin.data }
        });
        let twins = twins.collect();
        let (reader, fetched) = (ChunkReader::new(pack), AtomicU64::new(0));
        Some(Self { reader, hashes, file, path, chunks, starts, twins, copies, fetched })
    }

    /// Bytes that came from sources so far, packed.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Number of data blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// Copies a chunk's blocks from twins, if they have all of them.
    fn copy(&self, number: u32) -> bool {
        let mut block = vec![0; BLOCK_LEN];
        self.chunks[number as usize].0.iter().all(|used| {
            let blocks = used.block..used.block + u64::from(used.piece.len) / BLOCK;
            blocks.into_iter().all(|at| {
                let Some(&(twin, there)) = self.copies.get(&self.hash_of(at)) else { return false };
                let read = self.twins[twin].data.read_exact_at(&mut block, there * BLOCK);
                // A damaged twin is no reason to fail: what it lacks is fetched like the rest.
                read.is_ok()
                    && Digest::of(&block) == self.hash_of(at)
                    && self.file.write_all_at(&block, at * BLOCK).is_ok()
            })
        })
    }

    /// An unpacked chunk, put together from a twin all of whose data is here.
    fn here(&self, number: u32) -> Option<Vec<u8>> {
        let place = self.reader.pack().place(number as usize);
        let raw = self.reader.pack().chunks[number as usize].raw as usize;
        self.twins.iter().find_map(|twin| {
            let mut bytes = vec![0; raw];
            let mut covered = 0;
            for used in twin.chunks.get(&place)? {
                let (from, len) = (used.piece.start as usize, used.piece.len as usize);
                let part = bytes.get_mut(from..from + len)?;
                twin.data.read_exact_at(part, used.block * BLOCK).ok()?;
                let hashes = twin.hashes.get(usize::try_from(used.block).ok()?..)?;
                let right = |(block, hash): (&[u8], &Digest)| Digest::of(block) == *hash;
                if !part.chunks_exact(BLOCK_LEN).zip(hashes).all(right) {
                    return None;
                }
                covered += len;
            }
            // What a prefix has wrong shows in the blocks that are unpacked behind it.
            (covered == raw).then_some(bytes)
        })
    }

    /// Fetches what is missing of a range of data blocks, with all that travels with it.
    ///
    /// # Errors
    /// Where it cannot be fetched or written.
    pub fn ensure(&self, blocks: Range<u64>, source: &dyn Source) -> Result<(), PartialError> {
        let data = &self.reader.pack().data;
        let first = self.starts.partition_point(|&start| start <= blocks.start).saturating_sub(1);
        let last = self.starts.partition_point(|&start| start < blocks.end);
        let numbers: Vec<u32> = data[first..last].iter().map(|piece| piece.chunk).collect();
        self.fetch(&numbers, source)
    }

    /// Fetches all that is missing, many parts at a time.
    ///
    /// # Errors
    /// As [`Partial::ensure`].
    pub fn complete(&self, source: &dyn Source) -> Result<(), PartialError> {
        self.ensure(0..self.blocks(), source)
    }

    fn fetch(&self, numbers: &[u32], source: &dyn Source) -> Result<(), PartialError> {
        let missing: Vec<u32> = {
            let mut numbers = numbers.to_vec();
            numbers.sort_unstable();
            numbers.dedup();
            let absent = |&number: &u32| !self.is_there(number);
            if numbers.len() > 1 {
                numbers.into_par_iter().filter(absent).collect()
            } else {
                numbers.into_iter().filter(absent).collect()
            }
        };
        let stretches = Mutex::new(self.reader.stretches(&missing).into_iter());
        let next = || stretches.lock().unwrap_or_else(PoisonError::into_inner).next();
        let failed = Mutex::new(None);
        let work = || {
            while let Some(stretch) = next() {
                if let Err(error) = self.fetch_stretch(&stretch, source) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        };
        let workers = FETCHES.min(missing.len());
        if workers <= 1 {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(work);
                }
            });
        }
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn fetch_stretch(&self, stretch: &[u32], source: &dyn Source) -> Result<(), PartialError> {
        let mut failed = None;
        let result = first_right(source, |place| {
            let mut frames = self.reader.frames(source, place, stretch)?;
            for &number in stretch {
                let frame = frames.remove(&number);
                let len = frame.as_ref().map_or(0, Vec::len) as u64;
                self.fetched.fetch_add(len, Ordering::Relaxed);
                let here = |number| self.here(number);
                let chunk = self.reader.chunk(source, place, number, frame, &here)?;
                if !self.is_right(number, &chunk) {
                    return Ok(None);
                }
                if let Err(error) = self.put(number, &chunk) {
                    failed = Some(error);
                    return Ok(Some(()));
                }
            }
            Ok(Some(()))
        });
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(result?),
        }
    }

    fn hash_of(&self, block: u64) -> Digest {
        self.hashes[usize::try_from(block).expect("a block of the layer")]
    }

    /// Whether all blocks of a chunk that are used have their hashes.
    fn is_right(&self, number: u32, chunk: &[u8]) -> bool {
        self.chunks[number as usize].0.iter().all(|part_used| {
            let blocks = part(chunk, part_used.piece).chunks_exact(BLOCK_LEN);
            (part_used.block..).zip(blocks).all(|(at, block)| Digest::of(block) == self.hash_of(at))
        })
    }

    /// Whether a chunk's blocks are in the file; what is not noted yet is looked at.
    fn is_there(&self, number: u32) -> bool {
        let (uses, there) = &self.chunks[number as usize];
        let mut there = there.lock().unwrap_or_else(PoisonError::into_inner);
        if !*there {
            let mut bytes = Vec::new();
            *there = uses.iter().all(|part_used| {
                bytes.resize(part_used.piece.len as usize, 0);
                let read = self.file.read_exact_at(&mut bytes, part_used.block * BLOCK);
                let blocks = bytes.chunks_exact(BLOCK_LEN);
                read.is_ok()
                    && (part_used.block..)
                        .zip(blocks)
                        .all(|(at, block)| Digest::of(block) == self.hash_of(at))
            });
            *there = *there || self.copy(number);
        }
        *there
    }

    fn put(&self, number: u32, chunk: &[u8]) -> Result<(), FileError> {
        let (uses, there) = &self.chunks[number as usize];
        for part_used in uses {
            let bytes = part(chunk, part_used.piece);
            let written = self.file.write_all_at(bytes, part_used.block * BLOCK);
            written.context("write", &self.path)?;
        }
        *there.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is missing, as far as it was looked at.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let there = |chunk: &Mutex<bool>| *chunk.lock().unwrap_or_else(PoisonError::into_inner);
        self.chunks.iter().all(|(uses, chunk)| uses.is_empty() || there(chunk))
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_all().context("sync", &self.path)
    }
}
