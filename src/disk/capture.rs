//! Makes a layer of what an epoch changed: compares with the exact parent state, hashes, writes.
//!
//! A block is left out only if its bytes equal those of the parent *state*, never those that the
//! live disk held. Where the bytes end up is the caller's: this module hands them over in order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use super::layer::{BLOCK, BLOCK_LEN, Change, Extents, LayerIndex};
use super::overlay::Changed;
use super::state::{DiskState, StateError};
use crate::digest::{Digest, StateId};
use crate::files::{Context, FileError};

/// Blocks that are compared and hashed in one go: 4 MiB.
const STRIDE: u64 = 1024;

/// Why a layer could not be made.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CaptureError {
    /// The parent cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
    /// The overlay cannot be read, or the layer not written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
}

/// Takes the bytes of a layer's data blocks, in ascending order of blocks.
pub type BlockSink<'a> = dyn FnMut(&[u8]) -> Result<(), FileError> + 'a;

/// The overlay of a working disk as another process left it, for reading.
pub struct FrozenOverlay<'a> {
    /// The overlay's file.
    pub file: &'a File,
    /// Its path, for errors.
    pub path: &'a Path,
}

/// What one stretch of changed blocks came to.
struct Stretch {
    start: u64,
    bytes: Vec<u8>,
    /// For each block its digest, or `None` where it equals the parent's.
    hashes: Vec<Option<Digest>>,
}

/// Makes the layer that leads from `parent` to the disk as it was when the epoch ended.
///
/// # Errors
/// Where the parent or the overlay cannot be read, or `sink` does not take the blocks.
pub fn capture(
    parent: &DiskState,
    parent_id: Option<StateId>,
    overlay: &FrozenOverlay<'_>,
    changed: &[Changed],
    sink: &mut BlockSink<'_>,
) -> Result<LayerIndex, CaptureError> {
    let mut extents = Extents::default();
    let mut hashes = Vec::new();
    for run in changed {
        let Some(slot) = run.slot else {
            for (start, len) in parent.data_runs(run.start, run.len) {
                extents.push(start, len, Change::Hole);
            }
            continue;
        };
        // A few stretches at a time bound the memory that a layer of any size takes.
        let starts: Vec<u64> = strides(0..run.len);
        for window in starts.chunks(rayon::current_num_threads() * 2) {
            let stretches: Vec<Stretch> = window
                .par_iter()
                .map(|&at| {
                    let count = (run.len - at).min(STRIDE);
                    compare(parent, overlay, run.start + at, slot + at, count)
                })
                .collect::<Result<_, CaptureError>>()?;
            for stretch in stretches {
                keep(&stretch, &mut extents, &mut hashes, sink)?;
            }
        }
    }
    Ok(LayerIndex {
        parent: parent_id,
        virtual_size: parent.virtual_size(),
        extents: extents.finish(),
        hashes,
    })
}

fn strides(blocks: std::ops::Range<u64>) -> Vec<u64> {
    blocks.step_by(usize::try_from(STRIDE).expect("a small number")).collect()
}

fn compare(
    parent: &DiskState,
    overlay: &FrozenOverlay<'_>,
    start: u64,
    slot: u64,
    count: u64,
) -> Result<Stretch, CaptureError> {
    let len = usize::try_from(count * BLOCK).expect("a stretch fits in memory");
    let mut bytes = vec![0; len];
    overlay.file.read_exact_at(&mut bytes, slot * BLOCK).context("read", overlay.path)?;
    let mut below = vec![0; len];
    if parent.has_data(start, count) {
        parent.read_blocks(start, &mut below)?;
    }
    let hashes = bytes
        .chunks_exact(BLOCK_LEN)
        .zip(below.chunks_exact(BLOCK_LEN))
        .map(|(new, old)| (new != old).then(|| Digest::of(new)))
        .collect();
    Ok(Stretch { start, bytes, hashes })
}

/// Hands on the changed blocks of a stretch, run by run.
fn keep(
    stretch: &Stretch,
    extents: &mut Extents,
    hashes: &mut Vec<Digest>,
    sink: &mut BlockSink<'_>,
) -> Result<(), FileError> {
    let mut at = 0;
    for run in stretch.hashes.chunk_by(|a, b| a.is_some() == b.is_some()) {
        if run[0].is_some() {
            extents.push(stretch.start + at as u64, run.len() as u64, Change::Data);
            hashes.extend(run.iter().flatten());
            sink(&stretch.bytes[at * BLOCK_LEN..(at + run.len()) * BLOCK_LEN])?;
        }
        at += run.len();
    }
    Ok(())
}

/// Makes a layer on nothing of a raw disk file, skipping its holes and blocks of zeros.
///
/// # Errors
/// Where the file cannot be read, or `sink` does not take the blocks.
pub fn import_raw(
    file: &File,
    path: &Path,
    virtual_size: u64,
    sink: &mut BlockSink<'_>,
) -> Result<LayerIndex, CaptureError> {
    let mut extents = Extents::default();
    let mut hashes = Vec::new();
    for (from, to) in data_ranges(file, path, virtual_size)? {
        let (first, last) = (from / BLOCK, to.div_ceil(BLOCK));
        let starts: Vec<u64> = strides(first..last);
        for window in starts.chunks(rayon::current_num_threads() * 2) {
            let stretches: Vec<Stretch> = window
                .par_iter()
                .map(|&at| read_raw(file, path, virtual_size, at, (last - at).min(STRIDE)))
                .collect::<Result<_, FileError>>()?;
            for stretch in stretches {
                keep(&stretch, &mut extents, &mut hashes, sink)?;
            }
        }
    }
    Ok(LayerIndex { parent: None, virtual_size, extents: extents.finish(), hashes })
}

fn read_raw(
    file: &File,
    path: &Path,
    virtual_size: u64,
    start: u64,
    count: u64,
) -> Result<Stretch, FileError> {
    let mut bytes = vec![0; usize::try_from(count * BLOCK).expect("a stretch fits in memory")];
    let real = (virtual_size - start * BLOCK).min(bytes.len() as u64);
    let real = usize::try_from(real).expect("a stretch fits in memory");
    file.read_exact_at(&mut bytes[..real], start * BLOCK).context("read", path)?;
    let hashes = bytes
        .chunks_exact(BLOCK_LEN)
        .map(|block| block.iter().any(|&byte| byte != 0).then(|| Digest::of(block)))
        .collect();
    Ok(Stretch { start, bytes, hashes })
}

/// The ranges of a file that are not holes, widened to whole blocks and joined where they meet.
fn data_ranges(file: &File, path: &Path, size: u64) -> Result<Vec<(u64, u64)>, FileError> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < size => data,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error).context("find the data of", path),
        };
        let hole = seek(file, SeekFrom::Hole(data)).context("find the holes of", path)?.min(size);
        let (from, to) = (data / BLOCK * BLOCK, hole.next_multiple_of(BLOCK));
        match ranges.last_mut() {
            Some(last) if last.1 >= from => last.1 = to,
            _ => ranges.push((from, to)),
        }
        at = hole;
    }
    Ok(ranges)
}
