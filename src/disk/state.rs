//! A disk state opened for reading: the indexes of its chain merged into one table.
//!
//! It knows files and blocks; which results made the chain, and where a store keeps objects, it
//! does not know.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::fetching::{Ask, Fetching, Reply};
use super::layer::{self, BLOCK, BLOCK_LEN, Change, LayerFault, LayerIndex};
use super::ranges::{Piece, RangeMap};
use crate::digest::{Digest, ObjectId, StateId};
use crate::files::{Context, FileError, read_bounded};
use crate::store::LayerFiles;

/// Largest index that is read, in bytes: 2 TiB of changed blocks.
const MAX_INDEX: u64 = 20 << 30;

/// Why a state cannot be opened or read.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StateError {
    /// A file of the chain cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// An index is not what its name says.
    #[error("the layer index `{}` is damaged", path.display())]
    #[diagnostic(code(kiln::disk::damaged_index), help("the layer is thrown away and built again"))]
    Index {
        /// The file.
        path: PathBuf,
        /// The state that it should describe.
        state: StateId,
        /// What is wrong, where its bytes are not an index at all.
        source: Option<LayerFault>,
    },
    /// A layer does not stand on the one below it.
    #[error("the layer of state {} does not stand on the layer below it", state.short())]
    #[diagnostic(code(kiln::disk::wrong_parent))]
    Parent {
        /// The upper layer's state.
        state: StateId,
    },
    /// A data block is not what its hash says.
    #[error("block {block} of the object `{}` is damaged", object.short())]
    #[diagnostic(code(kiln::disk::damaged_block), help("the layer is thrown away and built again"))]
    Block {
        /// The object.
        object: ObjectId,
        /// The number of the block in the object.
        block: u64,
    },
    /// A data block that is not here cannot be fetched.
    #[error("a block of the state {} cannot be fetched: {}", state.short(), causes.join(": "))]
    #[diagnostic(
        code(kiln::disk::absent_block),
        help("a layer that no remote has any more is built again")
    )]
    Absent {
        /// The state whose layer holds it.
        state: StateId,
        /// What each cause says, outermost first.
        causes: Vec<String>,
    },
}

/// Where a run of blocks lies: consecutive blocks of one layer's data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    layer: u32,
    block: u64,
}

impl Piece for Source {
    fn at(self, blocks: u64) -> Self {
        Self { block: self.block + blocks, ..self }
    }
}

struct OpenLayer {
    state: StateId,
    object: ObjectId,
    path: PathBuf,
    file: File,
    hashes: Vec<Digest>,
    /// One bit for each block whose hash has been checked since the state was opened.
    checked: Vec<AtomicU64>,
    /// Whoever fetches blocks that are not here, where only a part is.
    fetching: Option<Arc<Fetching>>,
}

/// A state, open for reading.
pub struct DiskState {
    virtual_size: u64,
    table: RangeMap<Source>,
    layers: Vec<OpenLayer>,
    /// Connections that the layers share, by their socket.
    fetching: Vec<(PathBuf, Arc<Fetching>)>,
}

impl DiskState {
    /// A disk of zeros.
    #[must_use]
    pub fn blank(virtual_size: u64) -> Self {
        let (table, layers, fetching) = (RangeMap::default(), Vec::new(), Vec::new());
        Self { virtual_size, table, layers, fetching }
    }

    /// Opens a chain of layers, base first, checking every index against the state it leads to.
    ///
    /// # Errors
    /// Where a file is missing or damaged, or the layers do not stand on each other.
    pub fn open(chain: &[LayerFiles]) -> Result<Self, StateError> {
        let indexes: Vec<_> =
            chain.par_iter().map(read_index).collect::<Result<_, StateError>>()?;
        let mut state = Self::blank(0);
        let mut below = None;
        for (files, index) in chain.iter().zip(indexes) {
            if index.parent != below {
                return Err(StateError::Parent { state: files.state });
            }
            below = Some(files.state);
            state.push(files, index)?;
        }
        Ok(state)
    }

    /// Lays one more layer on the state, which the caller knows to be the layer's parent.
    ///
    /// # Errors
    /// Where its data object is missing.
    pub fn push(&mut self, files: &LayerFiles, index: LayerIndex) -> Result<(), StateError> {
        let layer = u32::try_from(self.layers.len()).expect("a chain has fewer than 2^32 layers");
        self.virtual_size = index.virtual_size;
        let mut block = 0;
        for extent in &index.extents {
            match extent.change {
                Change::Hole => self.table.remove(extent.start, extent.len),
                Change::Data => {
                    self.table.insert(extent.start, extent.len, Source { layer, block });
                    block += extent.len;
                }
            }
        }
        let Some(data) = &files.data else {
            // A layer without data: no run of the table leads to it.
            if index.hashes.is_empty() {
                return Ok(());
            }
            let (path, state) = (files.index.clone(), files.state);
            return Err(StateError::Index { path, state, source: None });
        };
        let file = File::open(&data.path).context("open", &data.path)?;
        let words = index.hashes.len().div_ceil(64);
        let fetching = data.fetched_at.as_ref().map(|socket| self.fetching(socket));
        self.layers.push(OpenLayer {
            fetching,
            state: files.state,
            object: data.object,
            path: data.path.clone(),
            file,
            hashes: index.hashes,
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
        });
        Ok(())
    }

    fn fetching(&mut self, socket: &Path) -> Arc<Fetching> {
        if let Some((_, known)) = self.fetching.iter().find(|(known, _)| known == socket) {
            return Arc::clone(known);
        }
        let new = Arc::new(Fetching::at(socket.to_owned()));
        self.fetching.push((socket.to_owned(), Arc::clone(&new)));
        new
    }

    /// Makes the disk larger: what lies behind its old end reads as zeros. A size that is not larger
    /// changes nothing.
    pub fn grow(&mut self, virtual_size: u64) {
        self.virtual_size = self.virtual_size.max(virtual_size);
    }

    /// Size of the virtual disk in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Whether any of `len` blocks from `start` may have bytes other than zeros.
    #[must_use]
    pub fn has_data(&self, start: u64, len: u64) -> bool {
        self.table.within(start..start + len).next().is_some()
    }

    /// The runs of blocks that may have bytes other than zeros, as (start, length) in ascending
    /// order, inside a range.
    pub fn data_runs(&self, start: u64, len: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.table.within(start..start + len).map(|run| (run.start, run.len))
    }

    /// The first block of a range that has data, or with `hole` that has none; `None` where there is
    /// no such block.
    #[must_use]
    pub fn seek(&self, start: u64, len: u64, hole: bool) -> Option<u64> {
        let mut runs = self.table.cover(start..start + len);
        runs.find(|run| run.piece.is_none() == hole).map(|run| run.start)
    }

    /// Reads whole blocks; `buffer` holds a multiple of [`BLOCK`] bytes.
    ///
    /// # Errors
    /// Where a data object cannot be read, or a block is not what its hash says.
    pub fn read_blocks(&self, start: u64, buffer: &mut [u8]) -> Result<(), StateError> {
        debug_assert!(buffer.len().is_multiple_of(BLOCK_LEN));
        let blocks = (buffer.len() / BLOCK_LEN) as u64;
        for run in self.table.cover(start..start + blocks) {
            let from = usize::try_from((run.start - start) * BLOCK).expect("inside the buffer");
            let len = usize::try_from(run.len * BLOCK).expect("inside the buffer");
            let part = &mut buffer[from..from + len];
            match run.piece {
                None => part.fill(0),
                Some(source) => self.layers[source.layer as usize].read(source.block, part)?,
            }
        }
        Ok(())
    }

    /// The digest of the whole disk: every block that is not all zeros, with its address.
    ///
    /// # Errors
    /// As [`DiskState::read_blocks`].
    pub fn digest(&self) -> Result<Digest, StateError> {
        let mut digest = DiskDigest::new(self.virtual_size);
        let mut buffer = vec![0; 256 * BLOCK_LEN];
        for (start, len) in self.data_runs(0, layer::blocks(self.virtual_size)) {
            for at in (start..start + len).step_by(256) {
                let count = (start + len - at).min(256);
                let part = &mut buffer[..usize::try_from(count).expect("at most 256") * BLOCK_LEN];
                self.read_blocks(at, part)?;
                digest.blocks(at, part);
            }
        }
        Ok(digest.finish())
    }
}

/// Digest of a disk's content that does not depend on how zeros are stored.
pub struct DiskDigest(crate::digest::Hasher);

impl DiskDigest {
    /// Starts the digest of a disk of that many bytes.
    #[must_use]
    pub fn new(virtual_size: u64) -> Self {
        let mut hasher = crate::digest::Hasher::new("kiln 2026-11 disk content v1");
        hasher.number(virtual_size);
        Self(hasher)
    }

    /// Feeds whole blocks from an address; addresses ascend from call to call.
    pub fn blocks(&mut self, start: u64, bytes: &[u8]) {
        for (at, block) in (start..).zip(bytes.chunks(BLOCK_LEN)) {
            if block.iter().any(|&byte| byte != 0) {
                self.0.number(at).bytes(block);
            }
        }
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> Digest {
        self.0.finish()
    }
}

fn read_index(files: &LayerFiles) -> Result<LayerIndex, StateError> {
    let bytes = read_bounded(&files.index, MAX_INDEX)?;
    let damaged =
        |source| StateError::Index { path: files.index.clone(), state: files.state, source };
    if layer::state_id(&bytes) != files.state {
        return Err(damaged(None));
    }
    LayerIndex::decode(&bytes).map_err(|fault| damaged(Some(fault)))
}

impl OpenLayer {
    fn read(&self, first: u64, buffer: &mut [u8]) -> Result<(), StateError> {
        match self.read_here(first, buffer) {
            Err(StateError::Block { block, .. }) if self.fetching.is_some() => {
                // What is missing looks like what is damaged: its bytes do not have its hash.
                let end = first + (buffer.len() / BLOCK_LEN) as u64;
                self.fetch(block.min(end - 1), end)?;
                self.read_here(first, buffer)
            }
            result => result,
        }
    }

    fn fetch(&self, start: u64, end: u64) -> Result<(), StateError> {
        let Some(fetching) = &self.fetching else { return Ok(()) };
        let ask = Ask { state: self.state, start, len: end - start };
        let causes = match fetching.ask(ask) {
            Ok(Reply::Here) => return Ok(()),
            Ok(Reply::Lost(causes)) => causes,
            Err(error) => vec!["kiln's own side is gone".to_owned(), error.to_string()],
        };
        Err(StateError::Absent { state: self.state, causes })
    }

    fn read_here(&self, first: u64, buffer: &mut [u8]) -> Result<(), StateError> {
        let damaged = |block| StateError::Block { object: self.object, block };
        match self.file.read_exact_at(buffer, first * BLOCK) {
            // A truncated object is a damaged one, and says so rather than "failed to fill buffer".
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged(self.file.metadata().map_or(first, |m| m.len() / BLOCK)));
            }
            result => result.context("read", &self.path)?,
        }
        for (block, bytes) in (first..).zip(buffer.chunks_exact(BLOCK_LEN)) {
            let at = usize::try_from(block).expect("a block of an open object");
            let (word, bit) = (&self.checked[at / 64], 1 << (at % 64));
            if word.load(Ordering::Relaxed) & bit != 0 {
                continue;
            }
            if Digest::of(bytes) != self.hashes[at] {
                return Err(damaged(block));
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }
}
