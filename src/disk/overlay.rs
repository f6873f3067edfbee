//! The writable part of a working disk: what was written since it was opened, epoch by epoch.
//!
//! Blocks lie in one append-only file, in slots. A block written twice in one epoch keeps its slot;
//! one written again in a later epoch gets a new one, so that the slots of a past epoch never
//! change and can be read while the disk goes on. It knows nothing of the state below it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::layer::{BLOCK, BLOCK_LEN};
use super::ranges::{Piece, RangeMap};

/// Where a run of overlaid blocks lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlaid {
    /// In consecutive slots of the overlay file.
    Data {
        /// The first block's slot.
        slot: u64,
        /// The epoch in which it was written.
        epoch: u32,
    },
    /// Nowhere: discarded, and read as zeros.
    Hole {
        /// The epoch in which it was discarded.
        epoch: u32,
    },
}

impl Overlaid {
    fn epoch(self) -> u32 {
        match self {
            Self::Data { epoch, .. } | Self::Hole { epoch } => epoch,
        }
    }
}

impl Piece for Overlaid {
    fn at(self, blocks: u64) -> Self {
        match self {
            Self::Data { slot, epoch } => Self::Data { slot: slot + blocks, epoch },
            hole @ Self::Hole { .. } => hole,
        }
    }
}

/// One run of blocks that an epoch changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub len: u64,
    /// First slot in the overlay file; `None` for a hole.
    pub slot: Option<u64>,
}

/// The overlay of one working disk.
pub struct Overlay {
    map: RangeMap<Overlaid>,
    file: File,
    epoch: u32,
    next_slot: u64,
    changed_blocks: u64,
}

impl Overlay {
    /// Starts an overlay in an empty file.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { map: RangeMap::default(), file, epoch: 0, next_slot: 0, changed_blocks: 0 }
    }

    /// What lies over a range, gaps as `None`.
    pub fn cover(
        &self,
        start: u64,
        len: u64,
    ) -> impl Iterator<Item = super::ranges::Run<Option<Overlaid>>> + '_ {
        self.map.cover(start..start + len)
    }

    /// Reads blocks from consecutive slots.
    ///
    /// # Errors
    /// Where the overlay file cannot be read.
    pub fn read_slots(&self, slot: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, slot * BLOCK)
    }

    /// Writes whole blocks.
    ///
    /// # Errors
    /// Where the overlay file cannot be written; nothing is mapped to what was not written.
    pub fn write_blocks(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(bytes.len().is_multiple_of(BLOCK_LEN));
        let len = (bytes.len() / BLOCK_LEN) as u64;
        let runs: Vec<_> = self.map.cover(start..start + len).collect();
        let mut at = 0;
        let mut pending: Option<(u64, usize)> = None;
        for run in runs {
            let run_bytes = usize::try_from(run.len * BLOCK).expect("inside the buffer");
            match run.piece {
                Some(Overlaid::Data { slot, epoch }) if epoch == self.epoch => {
                    self.flush_new(pending.take(), at, bytes)?;
                    self.file.write_all_at(&bytes[at..at + run_bytes], slot * BLOCK)?;
                }
                _ => {
                    pending.get_or_insert((run.start, at));
                }
            }
            at += run_bytes;
        }
        self.flush_new(pending, at, bytes)
    }

    /// Gives new slots to the blocks that start at `pending` and end before `bytes[..end]` does.
    fn flush_new(
        &mut self,
        pending: Option<(u64, usize)>,
        end: usize,
        bytes: &[u8],
    ) -> io::Result<()> {
        let Some((start, from)) = pending else { return Ok(()) };
        let len = ((end - from) / BLOCK_LEN) as u64;
        let slot = self.next_slot;
        self.file.write_all_at(&bytes[from..end], slot * BLOCK)?;
        self.next_slot += len;
        self.changed_blocks += len;
        self.map.insert(start, len, Overlaid::Data { slot, epoch: self.epoch });
        Ok(())
    }

    /// Marks blocks as holes.
    pub fn discard(&mut self, start: u64, len: u64) {
        self.map.insert(start, len, Overlaid::Hole { epoch: self.epoch });
    }

    /// Blocks that were written for the first time in this epoch.
    #[must_use]
    pub fn changed_blocks(&self) -> u64 {
        self.changed_blocks
    }

    /// Makes everything written durable, so that a lost write shows.
    ///
    /// # Errors
    /// As `fdatasync(2)`.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Ends the epoch: what it changed, in ascending order. Later writes go to new slots.
    pub fn next_epoch(&mut self) -> Vec<Changed> {
        let changed = self
            .map
            .iter()
            .filter(|run| run.piece.epoch() == self.epoch)
            .map(|run| Changed {
                start: run.start,
                len: run.len,
                slot: match run.piece {
                    Overlaid::Data { slot, .. } => Some(slot),
                    Overlaid::Hole { .. } => None,
                },
            })
            .collect();
        self.epoch += 1;
        self.changed_blocks = 0;
        changed
    }
}
