//! One chunk: a zstd frame, with or without a prefix that both sides know.
//!
//! The frame holds no checksum, as every block of a layer has a hash of its own.

use std::io;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, get_error_name};

/// Twice the largest chunk: a prefix and a chunk behind it.
const MAX_WINDOW_LOG: u32 = 24;

fn error(code: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, get_error_name(code))
}

/// Bytes of the longest frame that so many bytes become.
pub(super) fn longest(raw: u32) -> usize {
    zstd::zstd_safe::compress_bound(raw as usize)
}

/// Compresses some bytes behind a prefix.
///
/// # Panics
/// Only where memory is out: every other thing that zstd may complain of is settled here.
pub(super) fn compress(bytes: &[u8], prefix: &[u8], level: i32) -> Vec<u8> {
    let window = (bytes.len() + prefix.len()).next_power_of_two().trailing_zeros();
    let mut out: Vec<u8> = Vec::with_capacity(zstd::zstd_safe::compress_bound(bytes.len()));
    let mut context = CCtx::create();
    let settings = [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window.clamp(10, MAX_WINDOW_LOG)),
        CParameter::ChecksumFlag(false),
        // Behind a prefix nearly everything is a long match.
        CParameter::EnableLongDistanceMatching(!prefix.is_empty()),
    ];
    for setting in settings {
        context.set_parameter(setting).expect("a setting that zstd knows");
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).expect("no frame is in progress");
    }
    context.compress2(&mut out, bytes).expect("room for the largest frame");
    out
}

/// Decompresses a frame that becomes exactly `raw` bytes, behind its prefix.
///
/// # Errors
/// Where the frame is damaged, or becomes larger or smaller.
pub(super) fn decompress(frame: &[u8], prefix: &[u8], raw: usize) -> io::Result<Vec<u8>> {
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(error)?;
    }
    let mut out = Vec::with_capacity(raw);
    context.decompress(&mut out, frame).map_err(error)?;
    if out.len() == raw {
        return Ok(out);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it has another length than was said"))
}

/// Decompresses a frame of at most `limit` bytes.
///
/// # Errors
/// Where the frame is damaged or becomes larger.
pub(super) fn decompress_bounded(frame: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut out = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame)?;
    decoder.window_log_max(MAX_WINDOW_LOG + 3)?;
    let read = decoder.take(limit as u64 + 1).read_to_end(&mut out)?;
    if read > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it becomes too large"));
    }
    Ok(out)
}
