//! A trial of the way from a block device to the door: patterns from several writers, read back.
//!
//! Another FUSE block server is known to mix up the buffers of writes that come at once; this shows
//! that the one here, on this host's kernel, does not.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{Fault, FaultKind};
use crate::files::{Context, FileError};

/// Size of the disk in bytes.
pub(super) const SIZE: u64 = 128 << 20;
const BLOCK: usize = 4096;
const WRITERS: u64 = 4;
const ROUNDS: u64 = 2;

/// Blocks that are written at once.
const STRIPE: u64 = 4;
const STRIPE_LEN: usize = 4 * BLOCK;

/// Bytes at an address that direct I/O takes.
#[repr(align(4096))]
struct Aligned([u8; STRIPE_LEN]);

/// Fills blocks so that each one tells its address, its round and every eight of its bytes.
fn pattern(block: u64, round: u64, bytes: &mut [u8]) {
    for (at, word) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
        let value = ((block << 20) ^ (at << 4) ^ round).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Tests a block device of [`SIZE`] bytes, whose content is lost.
pub(super) fn run(device: &Path) -> Result<String, Fault> {
    let host = |error: &FileError| Fault::of(FaultKind::Host, error);
    for direct in [false, true] {
        for round in 0..ROUNDS {
            let results: Vec<_> = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..WRITERS)
                    .map(|writer| scope.spawn(move || write(device, writer, round, direct)))
                    .collect();
                writers
                    .into_iter()
                    .map(|writer| writer.join().expect("a writer does not panic"))
                    .collect()
            });
            for result in results {
                result.map_err(|error| host(&error))?;
            }
            let wrong = read_back(device, round).map_err(|error| host(&error))?;
            if wrong > 0 {
                let way = if direct { "direct" } else { "buffered" };
                let message =
                    format!("{wrong} blocks do not hold what was written to them ({way} I/O)");
                return Err(Fault::new(FaultKind::Host, "kiln::execute::self_test", message)
                    .with_help(
                        "do not build on this host; its kernel's FUSE or loop driver is broken",
                    ));
            }
        }
    }
    let mib = (SIZE * ROUNDS * 2) >> 20;
    Ok(format!("{mib} MiB from {WRITERS} writers, buffered and direct: every block right"))
}

/// Writes every [`WRITERS`]th stripe of the device.
fn write(device: &Path, writer: u64, round: u64, direct: bool) -> Result<(), FileError> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(device)
        .context("open", device)?;
    let mut buffer = Box::new(Aligned([0; STRIPE_LEN]));
    let stripes = SIZE / (BLOCK as u64 * STRIPE);
    for stripe in (writer..stripes).step_by(usize::try_from(WRITERS).expect("a small number")) {
        for (block, bytes) in (stripe * STRIPE..).zip(buffer.0.chunks_exact_mut(BLOCK)) {
            pattern(block, round, bytes);
        }
        file.write_all_at(&buffer.0, stripe * BLOCK as u64 * STRIPE).context("write", device)?;
    }
    file.sync_all().context("sync", device)
}

/// Reads everything past the page cache; tells how many blocks are wrong.
fn read_back(device: &Path, round: u64) -> Result<u64, FileError> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(device)
        .context("open", device)?;
    let mut buffer = Box::new(Aligned([0; STRIPE_LEN]));
    let mut expected = [0; BLOCK];
    let mut wrong = 0;
    for stripe in 0..SIZE / (BLOCK as u64 * STRIPE) {
        file.read_exact_at(&mut buffer.0, stripe * BLOCK as u64 * STRIPE)
            .context("read", device)?;
        for (block, bytes) in (stripe * STRIPE..).zip(buffer.0.chunks_exact(BLOCK)) {
            pattern(block, round, &mut expected);
            wrong += u64::from(bytes != expected);
        }
    }
    Ok(wrong)
}
