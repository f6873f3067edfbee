//! Gets unpacked chunks of a pack from whoever has its blobs.
//!
//! Bytes come from several sources, asked in their order until one has what is right. What is right
//! is judged by the caller, who knows the hashes; a frame that cannot be unpacked is wrong anyway.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Pack, Piece, codec};
use crate::remote::BlobRef;
use crate::remote::backend::RemoteError;

/// Bytes of unpacked chunks that are kept, for those that stand on them.
const KEPT: usize = 64 << 20;
/// Frames that are not further apart than so many bytes are read in one go.
const GAP: u64 = 64 << 10;
/// Bytes that are read in one go.
const STRETCH: u64 = 4 << 20;

/// Who has blobs.
pub trait Source: Sync {
    /// How many places there are to ask.
    fn places(&self) -> usize;

    /// Reads a range of a blob at one of them.
    ///
    /// # Errors
    /// As that place fails.
    fn read(&self, place: usize, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError>;
}

/// Why a chunk cannot be had.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReadError {
    /// There is nobody to ask.
    #[error("there is no remote to fetch it from")]
    #[diagnostic(
        code(kiln::pack::no_remote),
        help("the layer was taken from a remote that `kiln.kdl` no longer names, or `--offline`")
    )]
    NoSource,
    /// It did not come.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Remote(#[from] RemoteError),
    /// It came, and is not what it should be.
    #[error("what came is damaged")]
    #[diagnostic(
        code(kiln::pack::damaged),
        help("nothing of it was used; what needs it is built again")
    )]
    Damaged(#[source] std::io::Error),
}

/// The bytes of chunks that were unpacked last.
#[derive(Default)]
struct Kept {
    /// By the place that they came from, so that what one has wrong harms no other.
    chunks: HashMap<(usize, u32), Arc<Vec<u8>>>,
    order: VecDeque<(usize, u32)>,
    bytes: usize,
}

/// Finds an unpacked chunk that is here already, by its number.
pub(super) type Here<'a> = dyn Fn(u32) -> Option<Vec<u8>> + Sync + 'a;

/// Reads chunks of one pack.
pub struct ChunkReader {
    pack: Pack,
    kept: Mutex<Kept>,
}

impl ChunkReader {
    /// Reads chunks of a pack.
    #[must_use]
    pub fn new(pack: Pack) -> Self {
        Self { pack, kept: Mutex::default() }
    }

    /// The pack.
    #[must_use]
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The encoded index, from the first place that has what `is_right`.
    ///
    /// # Errors
    /// Where no place has it: what went wrong at the last one.
    pub fn index(
        &self,
        source: &dyn Source,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, ReadError> {
        first_right(source, |place| {
            let mut numbers: Vec<u32> = self.pack.index.iter().map(|piece| piece.chunk).collect();
            numbers.dedup();
            let mut frames = self.frames(source, place, &numbers)?;
            let mut bytes = Vec::new();
            for piece in &self.pack.index {
                let frame = frames.remove(&piece.chunk);
                let chunk = self.chunk(source, place, piece.chunk, frame, &|_| None)?;
                bytes.extend_from_slice(part(&chunk, *piece));
            }
            Ok(is_right(&bytes).then_some(bytes))
        })
    }

    /// Reads the frames of some chunks, those that are near each other in one go.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub(super) fn frames(
        &self,
        source: &dyn Source,
        place: usize,
        numbers: &[u32],
    ) -> Result<HashMap<u32, Vec<u8>>, ReadError> {
        let mut frames = HashMap::new();
        for stretch in self.stretches(numbers) {
            let of = |number: u32| &self.pack.chunks[number as usize];
            let (first, last) = (of(stretch[0]), of(stretch[stretch.len() - 1]));
            let range = first.at..last.at + u64::from(last.len);
            let start = range.start;
            let blob = self.pack.blobs[first.blob as usize];
            let bytes = source.read(place, blob, range)?;
            for number in stretch {
                let chunk = of(number);
                let at = usize::try_from(chunk.at - start).expect("inside a stretch");
                let frame = bytes.get(at..at + chunk.len as usize);
                let frame = frame
                    .ok_or_else(|| ReadError::Damaged(std::io::ErrorKind::UnexpectedEof.into()))?;
                frames.insert(number, frame.to_vec());
            }
        }
        Ok(frames)
    }

    /// Chunks that are read in one go, in the order of their blobs.
    pub(super) fn stretches(&self, numbers: &[u32]) -> Vec<Vec<u32>> {
        let mut numbers = numbers.to_vec();
        let of = |number: u32| &self.pack.chunks[number as usize];
        numbers.sort_unstable_by_key(|&number| (of(number).blob, of(number).at));
        numbers.dedup();
        let mut stretches: Vec<Vec<u32>> = Vec::new();
        for number in numbers {
            let chunk = of(number);
            let fits = stretches.last().is_some_and(|stretch| {
                let (first, last) = (of(stretch[0]), of(stretch[stretch.len() - 1]));
                let end = last.at + u64::from(last.len);
                first.blob == chunk.blob
                    && chunk.at <= end + GAP
                    && chunk.at + u64::from(chunk.len) <= first.at + STRETCH
                    // Frames that a hostile pack lays over each other.
                    && chunk.at >= end
            });
            match stretches.last_mut() {
                Some(stretch) if fits => stretch.push(number),
                _ => stretches.push(vec![number]),
            }
        }
        stretches
    }

    /// One chunk, unpacked, with its frame where that has come already; what it stands on may be
    /// `here`.
    ///
    /// # Errors
    /// Where it, or what it stands on, cannot be had or unpacked.
    pub(super) fn chunk(
        &self,
        source: &dyn Source,
        place: usize,
        number: u32,
        frame: Option<Vec<u8>>,
        here: &Here<'_>,
    ) -> Result<Arc<Vec<u8>>, ReadError> {
        if let Some(known) = self.known(place, number) {
            return Ok(known);
        }
        let chunk = &self.pack.chunks[number as usize];
        let frame = if let Some(frame) = frame {
            frame
        } else {
            let mut frames = self.frames(source, place, &[number])?;
            frames.remove(&number).expect("it was asked for")
        };
        // A prefix names earlier chunks only, so this ends; how deep it goes is bounded.
        let mut prefix = Vec::new();
        for &piece in &chunk.prefix {
            let known = self.known(place, piece.chunk);
            let below = match known.or_else(|| here(piece.chunk).map(Arc::new)) {
                Some(known) => known,
                None => self.chunk(source, place, piece.chunk, None, here)?,
            };
            self.lock().keep((place, piece.chunk), &below);
            prefix.extend_from_slice(part(&below, piece));
        }
        let bytes = codec::decompress(&frame, &prefix, chunk.raw as usize);
        let bytes = Arc::new(bytes.map_err(ReadError::Damaged)?);
        self.lock().keep((place, number), &bytes);
        Ok(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, place: usize, number: u32) -> Option<Arc<Vec<u8>>> {
        self.lock().chunks.get(&(place, number)).map(Arc::clone)
    }
}

/// Asks one place after the other until one has something that is right.
///
/// # Errors
/// Where none has: what went wrong at the last one.
pub(super) fn first_right<T>(
    source: &dyn Source,
    mut ask: impl FnMut(usize) -> Result<Option<T>, ReadError>,
) -> Result<T, ReadError> {
    let mut last = ReadError::NoSource;
    for place in 0..source.places() {
        match ask(place) {
            Ok(Some(right)) => return Ok(right),
            Ok(None) => {
                let wrong = std::io::Error::other("its hash is another");
                last = ReadError::Damaged(wrong);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A piece of an unpacked chunk.
pub(super) fn part(chunk: &[u8], piece: Piece) -> &[u8] {
    &chunk[piece.start as usize..(piece.start + piece.len) as usize]
}

impl Kept {
    fn keep(&mut self, number: (usize, u32), bytes: &Arc<Vec<u8>>) {
        if self.chunks.insert(number, Arc::clone(bytes)).is_some() {
            return;
        }
        self.bytes += bytes.len();
        self.order.push_back(number);
        while self.bytes > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.chunks.remove(&oldest).map_or(0, |chunk| chunk.len());
            self.bytes -= gone;
        }
    }
}
