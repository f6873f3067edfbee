//! A working disk: a state with an overlay, read and written in bytes.
//!
//! This is what the door serves. It latches the first operation that it could not carry out,
//! because a guest's file system may hide the error from the step that caused it. It does not know
//! FUSE, processes or layers.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::layer::{self, BLOCK, BLOCK_LEN};
use super::overlay::{Changed, Overlaid, Overlay};
use super::state::{DiskState, StateError};
use crate::digest::{ObjectId, StateId};

/// The first operation that a working disk could not carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Which operation.
    pub operation: Operation,
    /// First byte on the virtual disk.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// What went wrong.
    pub cause: LostCause,
}

/// An operation on a working disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Bytes were to be read.
    Read,
    /// Bytes were to be written.
    Write,
    /// A range was to be discarded.
    Discard,
    /// What was written was to be made durable.
    Flush,
}

/// Why an operation was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LostCause {
    /// The host's file system refused, with that errno: 28 is a full disk, 5 a broken one.
    Host {
        /// The error number.
        errno: i32,
    },
    /// A block of an object is not what its hash says.
    Damaged {
        /// The object.
        object: ObjectId,
        /// Number of the block in it.
        block: u64,
    },
    /// A block of a layer that is not here cannot be fetched.
    Absent {
        /// The layer's state.
        state: StateId,
        /// What each cause says, outermost first.
        causes: Vec<String>,
    },
}

impl LostCause {
    /// Whether a layer is to blame, which can be built again, and not the host.
    #[must_use]
    pub fn is_of_a_layer(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Absent { .. })
    }

    fn errno(&self) -> i32 {
        match self {
            Self::Host { errno } => *errno,
            Self::Damaged { .. } | Self::Absent { .. } => rustix::io::Errno::IO.raw_os_error(),
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operation = match self.operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Discard => "discard",
            Operation::Flush => "flush",
        };
        write!(f, "a {operation} of {} bytes at {} was lost: ", self.len, self.offset)?;
        match &self.cause {
            LostCause::Host { errno } => io::Error::from_raw_os_error(*errno).fmt(f),
            LostCause::Damaged { object, block } => {
                write!(f, "block {block} of object {} is damaged", object.short())
            }
            LostCause::Absent { state, causes } => {
                let causes = causes.join(": ");
                write!(f, "a block of the state {} cannot be fetched: {causes}", state.short())
            }
        }
    }
}

/// A disk that can be read, written, discarded and frozen epoch by epoch.
pub struct WorkingDisk {
    base: DiskState,
    overlay: RwLock<Overlay>,
    lost: Mutex<Option<Lost>>,
    sealed: AtomicU64,
}

/// In `WorkingDisk::sealed`: the disk still takes writes.
const OPEN: u64 = u64::MAX;

impl WorkingDisk {
    /// Opens a disk over a state, with an empty overlay file. Without one it is read-only.
    #[must_use]
    pub fn new(base: DiskState, overlay: Overlay, writable: bool) -> Self {
        Self {
            base,
            overlay: RwLock::new(overlay),
            lost: Mutex::new(None),
            sealed: AtomicU64::new(if writable { OPEN } else { 0 }),
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.base.virtual_size()
    }

    /// Ends all writing: later writes and discards fail with EROFS and are counted.
    pub fn seal(&self) {
        // Under the lock that writers hold, so that none is between its check and its write.
        let _writers = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        let _ = self.sealed.compare_exchange(OPEN, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Writes and discards that came after the end of writing; 0 while it goes on.
    #[must_use]
    pub fn late_writes(&self) -> u64 {
        match self.sealed.load(Ordering::SeqCst) {
            OPEN => 0,
            late => late,
        }
    }

    /// The first lost operation since the disk was opened.
    ///
    /// # Panics
    /// Never: a poisoned lock still holds the latch.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn latch(&self, operation: Operation, offset: u64, len: u64, cause: LostCause) -> io::Error {
        let errno = cause.errno();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert(Lost { operation, offset, len, cause });
        io::Error::from_raw_os_error(errno)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.sealed.load(Ordering::SeqCst) == OPEN {
            return Ok(());
        }
        self.sealed.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::from(rustix::io::Errno::ROFS))
    }

    /// Reads bytes; what lies behind the end of the disk is left out.
    ///
    /// # Errors
    /// Where the host or a damaged object does not let it; the error is latched.
    pub fn read(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let end = (offset.saturating_add(len)).min(self.size());
        if offset >= end {
            return Ok(Vec::new());
        }
        let (first, last) = (offset / BLOCK, end.div_ceil(BLOCK));
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; length((last - first) * BLOCK)];
        self.read_blocks(&overlay, first, &mut buffer)
            .map_err(|cause| self.latch(Operation::Read, offset, end - offset, cause))?;
        drop(overlay);
        let head = length(offset - first * BLOCK);
        buffer.truncate(head + length(end - offset));
        if head > 0 {
            buffer.drain(..head);
        }
        Ok(buffer)
    }

    fn read_blocks(
        &self,
        overlay: &Overlay,
        first: u64,
        buffer: &mut [u8],
    ) -> Result<(), LostCause> {
        let count = (buffer.len() / BLOCK_LEN) as u64;
        for run in overlay.cover(first, count) {
            let from = length((run.start - first) * BLOCK);
            let part = &mut buffer[from..from + length(run.len * BLOCK)];
            match run.piece {
                Some(Overlaid::Data { slot, .. }) => {
                    overlay.read_slots(slot, part).map_err(|error| host(&error))?;
                }
                Some(Overlaid::Hole { .. }) => part.fill(0),
                None => {
                    self.base.read_blocks(run.start, part).map_err(|error| lost_state(&error))?;
                }
            }
        }
        Ok(())
    }

    /// Writes bytes that lie inside the disk.
    ///
    /// # Errors
    /// Where the host does not let it, which is latched, or writing has ended.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if end > self.size() {
            return Err(io::Error::from(rustix::io::Errno::FBIG));
        }
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        self.check_writable()?;
        self.write_locked(&mut overlay, offset, bytes)
            .map_err(|cause| self.latch(Operation::Write, offset, bytes.len() as u64, cause))
    }

    fn write_locked(
        &self,
        overlay: &mut Overlay,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), LostCause> {
        let end = offset + bytes.len() as u64;
        let (first, last) = (offset / BLOCK, end.div_ceil(BLOCK));
        if offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK) {
            return overlay.write_blocks(first, bytes).map_err(|error| host(&error));
        }
        let mut buffer = vec![0; length((last - first) * BLOCK)];
        self.read_blocks(overlay, first, &mut buffer)?;
        let head = length(offset - first * BLOCK);
        buffer[head..head + bytes.len()].copy_from_slice(bytes);
        overlay.write_blocks(first, &buffer).map_err(|error| host(&error))
    }

    /// Discards a range, which then reads as zeros.
    ///
    /// # Errors
    /// As [`WorkingDisk::write`]: the blocks that the range covers in part are written.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.size());
        if offset >= end {
            return Ok(());
        }
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        self.check_writable()?;
        let first = offset.next_multiple_of(BLOCK).min(end);
        let last =
            if end == self.size() { end.next_multiple_of(BLOCK) } else { end / BLOCK * BLOCK };
        let mut edges = vec![(offset, first.min(end))];
        if last >= first {
            edges.push((last.min(end), end));
        }
        for (from, to) in edges {
            if from < to {
                self.write_locked(&mut overlay, from, &vec![0; length(to - from)])
                    .map_err(|cause| self.latch(Operation::Discard, offset, len, cause))?;
            }
        }
        if first < last {
            self.discard_blocks(&mut overlay, first / BLOCK, (last - first) / BLOCK);
        }
        Ok(())
    }

    /// Blocks that read as zeros already, because nobody ever wrote them, stay out of the overlay:
    /// a trim of an empty disk changes nothing.
    fn discard_blocks(&self, overlay: &mut Overlay, start: u64, len: u64) {
        let mut holes = Vec::new();
        for run in overlay.cover(start, len) {
            if run.piece.is_some() {
                holes.push((run.start, run.len));
            } else {
                holes.extend(self.base.data_runs(run.start, run.len));
            }
        }
        for (start, len) in holes {
            overlay.discard(start, len);
        }
    }

    /// Bytes written for the first time in this epoch.
    #[must_use]
    pub fn changed_bytes(&self) -> u64 {
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
        overlay.changed_blocks() * BLOCK
    }

    /// Makes all that was written durable and ends the epoch, in one step.
    ///
    /// # Errors
    /// Where the host does not let it, which is latched.
    pub fn swap(&self) -> io::Result<Vec<Changed>> {
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = overlay.sync() {
            return Err(self.latch(Operation::Flush, 0, self.size(), host(&error)));
        }
        Ok(overlay.next_epoch())
    }

    /// The first byte at or behind `offset` that may be other than zero, or with `hole` that reads
    /// as zero because nothing is stored there; the size of the disk where there is none.
    #[must_use]
    pub fn seek(&self, offset: u64, hole: bool) -> u64 {
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (offset / BLOCK, layer::blocks(self.size()));
        for run in overlay.cover(first, last.saturating_sub(first)) {
            let found = match run.piece {
                Some(Overlaid::Data { .. }) => (!hole).then_some(run.start),
                Some(Overlaid::Hole { .. }) => hole.then_some(run.start),
                None => self.base.seek(run.start, run.len, hole),
            };
            if let Some(block) = found {
                return (block * BLOCK).max(offset).min(self.size());
            }
        }
        self.size()
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request fits in memory")
}

fn host(error: &io::Error) -> LostCause {
    LostCause::Host { errno: error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()) }
}

fn lost_state(error: &StateError) -> LostCause {
    match error {
        StateError::Block { object, block } => {
            LostCause::Damaged { object: *object, block: *block }
        }
        StateError::Absent { state, causes } => {
            LostCause::Absent { state: *state, causes: causes.clone() }
        }
        StateError::File(file) => host(&file.source),
        StateError::Index { .. } | StateError::Parent { .. } => {
            LostCause::Host { errno: rustix::io::Errno::IO.raw_os_error() }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the disks of these tests are small")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 20 * BLOCK + 512;

    fn disk() -> WorkingDisk {
        let overlay = Overlay::new(tempfile::tempfile().unwrap());
        WorkingDisk::new(DiskState::blank(SIZE), overlay, true)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Discard(u64, u64),
        Swap,
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = (1..4 * BLOCK, any::<u8>());
        prop_oneof![
            4 => (0..SIZE, bytes).prop_map(|(at, (len, byte))| {
                let len = len.min(SIZE - at);
                Step::Write(at, (0..len).map(|n| byte.wrapping_add(n as u8) | 1).collect())
            }),
            2 => (0..SIZE, 0..6 * BLOCK).prop_map(|(at, len)| Step::Discard(at, len)),
            1 => Just(Step::Swap),
        ]
    }

    proptest! {
        #[test]
        fn it_reads_what_was_written(steps in proptest::collection::vec(step(), 0..30), at in 0..SIZE, len in 0..SIZE) {
            let disk = disk();
            let mut bytes = vec![0; SIZE as usize];
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        disk.write(at, &data).unwrap();
                        bytes[at as usize..at as usize + data.len()].copy_from_slice(&data);
                    }
                    Step::Discard(at, len) => {
                        disk.discard(at, len).unwrap();
                        bytes[at as usize..(at + len).min(SIZE) as usize].fill(0);
                    }
                    Step::Swap => drop(disk.swap().unwrap()),
                }
            }
            let end = (at + len).min(SIZE);
            prop_assert_eq!(disk.read(at, len).unwrap(), &bytes[at as usize..end as usize]);
            prop_assert!(disk.lost().is_none());
        }
    }

    #[test]
    fn a_discard_of_what_nobody_wrote_changes_nothing() {
        let disk = disk();
        disk.discard(0, SIZE).unwrap();
        assert_eq!(disk.swap().unwrap(), []);
    }

    #[test]
    fn a_grown_state_reads_as_zeros_behind_its_old_end() {
        let mut base = DiskState::blank(SIZE);
        base.grow(2 * SIZE);
        base.grow(SIZE);
        let disk = WorkingDisk::new(base, Overlay::new(tempfile::tempfile().unwrap()), true);
        assert_eq!(disk.size(), 2 * SIZE);
        assert_eq!(disk.read(SIZE - 1, SIZE + 1).unwrap(), vec![0; SIZE as usize + 1]);
        disk.write(2 * SIZE - 512, &[1; 512]).unwrap();
        assert_eq!(disk.read(2 * SIZE - 512, 512).unwrap(), [1; 512]);
        assert!(disk.write(2 * SIZE, &[1]).is_err());
    }

    #[test]
    fn slots_of_a_past_epoch_stay() {
        let disk = disk();
        disk.write(0, &[1; BLOCK_LEN]).unwrap();
        let first = disk.swap().unwrap();
        disk.write(0, &[2; BLOCK_LEN]).unwrap();
        let overlay = disk.overlay.read().unwrap();
        let mut old = [0; BLOCK_LEN];
        overlay.read_slots(first[0].slot.unwrap(), &mut old).unwrap();
        assert_eq!(old, [1; BLOCK_LEN]);
    }

    #[test]
    fn a_sealed_disk_counts_late_writes() {
        let disk = disk();
        disk.write(0, &[1; 512]).unwrap();
        disk.seal();
        assert_eq!(disk.late_writes(), 0);
        let error = disk.write(0, &[2; 512]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
        assert!(disk.discard(0, 512).is_err());
        assert_eq!(disk.late_writes(), 2);
        assert_eq!(disk.read(0, 512).unwrap(), [1; 512]);
    }

    #[test]
    fn the_first_lost_write_is_latched() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let disk = WorkingDisk::new(DiskState::blank(SIZE), Overlay::new(full), true);
        assert!(disk.write(4096, &[1; BLOCK_LEN]).is_err());
        assert!(disk.write(8192, &[1; BLOCK_LEN]).is_err());
        let lost = disk.lost().unwrap();
        assert_eq!((lost.operation, lost.offset), (Operation::Write, 4096));
        assert_eq!(lost.cause, LostCause::Host { errno: 28 });
    }
}
