//! The file that is uploaded: its size, the size of its disk, and its hashes.
//!
//! It is open from the first look to the last byte, so that a build that replaces it meanwhile
//! changes nothing. Whoever writes into it meanwhile is noticed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::files::{Context, FileError, Stamp};

/// Bytes that are read at once.
pub(super) const PIECE: u64 = 1 << 20;
/// The magic number of qcow2, and where its header has the size of the disk. Source: "The QCOW2
/// image format" of QEMU.
const QCOW2: (&[u8; 4], u64) = (b"QFI\xfb", 24);

/// A file to upload. Its clones read the same one.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    stamp: Stamp,
}

/// What was sent of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-512 in hexadecimal digits.
    pub sha512: String,
}

impl Source {
    /// Opens a file.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).context("open", path)?;
        let meta = file.metadata().context("look at", path)?;
        let (size, stamp) = (meta.len(), Stamp::of_metadata(&meta));
        Ok(Self { path: path.to_owned(), file: Arc::new(file), size, stamp })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its stamp as it was opened.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether nobody has written into it since it was opened.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn is_untouched(&self) -> Result<bool, FileError> {
        let meta = self.file.metadata().context("look at", &self.path)?;
        Ok(Stamp::of_metadata(&meta).has_bytes_of(&self.stamp))
    }

    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of the disk that it holds: of a qcow2 what its header says, else its own.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn virtual_size(&self) -> Result<u64, FileError> {
        let (magic, at) = QCOW2;
        let mut start = [0; 32];
        if self.size < start.len() as u64 {
            return Ok(self.size);
        }
        self.file.read_exact_at(&mut start, 0).context("read", &self.path)?;
        if !start.starts_with(magic) {
            return Ok(self.size);
        }
        let (_, size) = start.split_at(usize::try_from(at).expect("a small number"));
        Ok(u64::from_be_bytes(size.try_into().expect("eight bytes are left")))
    }

    /// At most [`PIECE`] bytes from a place on; none at its end.
    ///
    /// # Errors
    /// Where it cannot be read, or has become shorter.
    pub fn piece(&self, at: u64) -> Result<Vec<u8>, FileError> {
        let len = self.size.saturating_sub(at).min(PIECE);
        let mut bytes = vec![0; usize::try_from(len).expect("a piece is small")];
        self.file.read_exact_at(&mut bytes, at).context("read", &self.path)?;
        Ok(bytes)
    }

    /// Its hash by an algorithm, as hexadecimal digits; `None` for one that kiln does not know.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn hash(&self, algorithm: &str) -> Result<Option<String>, FileError> {
        match algorithm {
            "sha512" => self.hash_with::<Sha512>().map(Some),
            "sha384" => self.hash_with::<Sha384>().map(Some),
            "sha256" => self.hash_with::<Sha256>().map(Some),
            _ => Ok(None),
        }
    }

    fn hash_with<D: Digest>(&self) -> Result<String, FileError> {
        let mut hash = D::new();
        let mut at = 0;
        loop {
            let piece = self.piece(at)?;
            if piece.is_empty() {
                return Ok(hex(&hash.finalize()));
            }
            hash.update(&piece);
            at += piece.len() as u64;
        }
    }
}

/// Counts and hashes what is sent.
pub(super) struct Tally {
    bytes: u64,
    hash: Sha512,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { bytes: 0, hash: Sha512::new() }
    }

    pub(super) fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.hash.update(piece);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn sent(&self) -> Sent {
        Sent { bytes: self.bytes, sha512: hex(&self.hash.clone().finalize()) }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_pieces_and_hashed_as_others_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(usize::try_from(PIECE).unwrap() + 7).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let source = Source::open(file.path()).unwrap();
        let mut tally = Tally::new();
        let mut read = Vec::new();
        while let piece @ [_, ..] = source.piece(read.len() as u64).unwrap().as_slice() {
            tally.add(piece);
            read.extend_from_slice(piece);
        }
        assert_eq!(read, bytes);
        let sent = tally.sent();
        assert_eq!(
            (sent.bytes, Some(sent.sha512)),
            (source.size(), source.hash("sha512").unwrap())
        );
        std::fs::write(file.path(), b"abc").unwrap();
        let source = Source::open(file.path()).unwrap();
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(source.hash("sha256").unwrap().as_deref(), Some(known));
        assert_eq!(source.hash("md5").unwrap(), None);
        assert_eq!(source.virtual_size().unwrap(), 3);
    }

    #[test]
    fn a_file_that_is_replaced_stays_the_one_that_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.raw");
        std::fs::write(&path, b"one").unwrap();
        // Long enough ago for any clock of a file system.
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(10);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!(Stamp::of(&path), Some(source.stamp()));
        std::fs::write(directory.path().join("new"), b"two").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        assert_ne!(Stamp::of(&path), Some(source.stamp()), "another file");
        assert!(source.is_untouched().unwrap());
        assert_eq!(source.piece(0).unwrap(), b"one");
        let source = Source::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert!(!source.is_untouched().unwrap());
    }

    #[test]
    fn a_qcow2_says_how_large_its_disk_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
        header.resize(24, 0);
        header.extend((5_u64 << 30).to_be_bytes());
        header.resize(104, 0);
        std::fs::write(file.path(), header).unwrap();
        assert_eq!(Source::open(file.path()).unwrap().virtual_size().unwrap(), 5 << 30);
    }
}
