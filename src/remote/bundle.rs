//! A remote in one file, for sites without a network.
//!
//! # Shape, version 1
//!
//! An uncompressed `ustar` archive of regular files with the paths of a remote, and nothing else:
//!
//! ```text
//! format                           `kiln bundle 1`, always first
//! blobs/sha256/ab/cdef…            at most 64 MiB each
//! NAMESPACE/results/KEY            at most 4 MiB each, as on any remote
//! NAMESPACE/images/IMAGE
//! ```
//!
//! Whoever reads one believes nothing of it: each path is there once and names what may be there,
//! lengths are bounded and lie inside the file, and the file ends with its end mark. What the bytes
//! are is checked by whoever uses them, as with every remote.

mod sink;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

use super::backend::{Backend, Claim, MAX_BLOB, MAX_RECORD, RemoteError};
use super::{BLOBS, BlobId, BlobRef, RecordKind, RecordName};
use crate::digest::ActionKey;
use crate::files::{self, Context, FileError, Medium};
use crate::name::{ImageName, Namespace};

pub use sink::BundleSink;

/// The first file's name, and what it says.
const FORMAT: &str = "format";
const VERSION: &[u8] = b"kiln bundle 1\n";
/// Zeros at the end, which are two blocks of the archive.
const END: usize = 1024;
/// Most files in a bundle, so that an index fits in memory.
const MAX_FILES: usize = 1 << 20;

/// Why a bundle is not read or written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BundleError {
    /// The host's file system failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The file is not what a bundle is.
    #[error("`{}` is not a whole bundle: {why}", path.display())]
    #[diagnostic(
        code(kiln::remote::bundle),
        help("nothing of it was used; copy it again from where it was made")
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A file as part of what [`Medium`] writes.
struct Piecewise<'a> {
    medium: &'a dyn Medium,
    file: File,
    path: PathBuf,
}

impl Write for Piecewise<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.medium.write(&self.file, &self.path, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a bundle, which is there whole once it is finished, and not before.
pub struct BundleWriter<'a> {
    medium: &'a dyn Medium,
    path: PathBuf,
    part: PathBuf,
    archive: Builder<Piecewise<'a>>,
    paths: BTreeSet<String>,
    done: bool,
}

impl<'a> BundleWriter<'a> {
    /// Starts a bundle that will be at a path.
    ///
    /// # Errors
    /// Where nothing can be written beside it.
    pub fn new(medium: &'a dyn Medium, path: &Path) -> Result<Self, FileError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = std::process::id();
        let part = path.with_file_name(format!(".{name}.{pid}-0{}", files::TEMPORARY));
        match medium.remove(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context("remove", &part);
            }
            _ => {}
        }
        let file = medium.create(&part, true).context("create", &part)?;
        let archive = Builder::new(Piecewise { medium, file, path: part.clone() });
        let paths = BTreeSet::new();
        let path = path.to_owned();
        let mut writer = Self { medium, path, part, archive, paths, done: false };
        writer.add(FORMAT, VERSION)?;
        Ok(writer)
    }

    /// Adds a blob; one that is in it already is not added again.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn blob(&mut self, blob: BlobRef, bytes: &[u8]) -> Result<(), FileError> {
        debug_assert!(bytes.len() as u64 == blob.len && blob.len <= MAX_BLOB);
        self.add(&blob.id.path(), bytes)
    }

    /// Whether a blob is in it already.
    #[must_use]
    pub fn has(&self, blob: BlobRef) -> bool {
        self.paths.contains(&blob.id.path())
    }

    /// Adds a record, once for each name.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn record(&mut self, name: &RecordName, bytes: &[u8]) -> Result<(), FileError> {
        debug_assert!(bytes.len() as u64 <= MAX_RECORD);
        self.add(&name.to_string(), bytes)
    }

    fn add(&mut self, path: &str, bytes: &[u8]) -> Result<(), FileError> {
        if !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let written = header.set_path(path).and_then(|()| {
            header.set_cksum();
            self.archive.append(&header, bytes)
        });
        written.context("write", &self.part)
    }

    /// Ends the bundle and puts it in place, over an older file of that name.
    ///
    /// # Errors
    /// Where that fails; the older file is then as it was.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.archive.finish().context("write", &self.part)?;
        let file = &self.archive.get_ref().file;
        self.medium.sync(file, &self.part).context("sync", &self.part)?;
        self.medium.rename(&self.part, &self.path).context("rename into place", &self.path)?;
        self.done = true;
        let directory = self.path.parent().filter(|parent| *parent != Path::new(""));
        let directory = directory.unwrap_or(Path::new("."));
        self.medium.sync_directory(directory).context("sync", directory)
    }
}

impl Drop for BundleWriter<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.medium.remove(&self.part);
        }
    }
}

/// A bundle to read from: a remote that nothing is ever written to.
pub struct Bundle {
    name: String,
    file: File,
    blobs: BTreeMap<BlobId, Range<u64>>,
    records: BTreeMap<RecordName, Range<u64>>,
}

impl Bundle {
    /// Opens a bundle, and looks at where everything in it lies.
    ///
    /// # Errors
    /// Where it cannot be read, or is no whole bundle.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let file = File::open(path).context("open", path)?;
        let damaged = |why: String| BundleError::Damaged { path: path.to_owned(), why };
        let len = file.metadata().context("read", path)?.len();
        let mut end = [1; END];
        let ends = len.checked_sub(END as u64).map(|at| file.read_exact_at(&mut end, at));
        match ends {
            Some(read) => read.context("read", path)?,
            None => return Err(damaged("it is too short".into())),
        }
        if end.iter().any(|&byte| byte != 0) || !len.is_multiple_of(END as u64 / 2) {
            return Err(damaged("its end is missing".into()));
        }
        let mut bundle = Self {
            name: path.display().to_string(),
            file: file.try_clone().context("open", path)?,
            blobs: BTreeMap::new(),
            records: BTreeMap::new(),
        };
        let mut archive = Archive::new(file);
        let entries = archive.entries_with_seek().context("read", path)?;
        let mut first = true;
        for entry in entries.raw(true) {
            let mut entry = entry.map_err(|error| damaged(error.to_string()))?;
            if entry.header().entry_type() != EntryType::Regular {
                return Err(damaged("it holds something else than files".into()));
            }
            let start = entry.raw_file_position();
            let range = start..start.saturating_add(entry.size());
            if range.end > len - END as u64 {
                return Err(damaged("a file in it is cut off".into()));
            }
            if first {
                let mut said = Vec::new();
                let read = (&mut entry).take(VERSION.len() as u64 + 1).read_to_end(&mut said);
                read.context("read", path)?;
                if *entry.path_bytes() != *FORMAT.as_bytes() || said != VERSION {
                    return Err(damaged("it is of another format".into()));
                }
                first = false;
                continue;
            }
            bundle.note(&entry.path_bytes(), range).map_err(damaged)?;
        }
        if first { Err(damaged("it is empty".into())) } else { Ok(bundle) }
    }

    /// Notes a file, once its name and length are looked at; tells what is wrong with them.
    fn note(&mut self, path: &[u8], range: Range<u64>) -> Result<(), String> {
        let shown = String::from_utf8_lossy(path).escape_debug().to_string();
        let place = std::str::from_utf8(path).ok().and_then(Place::of);
        let limit = match place {
            Some(Place::Blob(_)) => MAX_BLOB,
            Some(Place::Record(_)) => MAX_RECORD,
            None => return Err(format!("nothing is called `{shown}` in a bundle")),
        };
        if range.end - range.start > limit {
            return Err(format!("`{shown}` is longer than {limit} bytes"));
        }
        if self.blobs.len() + self.records.len() >= MAX_FILES {
            return Err(format!("it holds more than {MAX_FILES} files"));
        }
        let twin = match place {
            Some(Place::Blob(id)) => self.blobs.insert(id, range),
            Some(Place::Record(name)) => self.records.insert(name, range),
            None => None,
        };
        if twin.is_some() { Err(format!("`{shown}` is in it twice")) } else { Ok(()) }
    }

    /// The records in it.
    pub fn records(&self) -> impl Iterator<Item = &RecordName> {
        self.records.keys()
    }

    /// The blobs in it.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        self.blobs.iter().map(|(&id, range)| BlobRef { id, len: range.end - range.start })
    }

    fn read(&self, range: Range<u64>, what: &str) -> Result<Vec<u8>, RemoteError> {
        // Bounded when the bundle was opened.
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, range.start).map_err(|source| {
            RemoteError::Unavailable {
                remote: self.name.clone(),
                doing: format!("read {what}"),
                source: Box::new(source),
            }
        })?;
        Ok(bytes)
    }

    fn read_only(&self) -> RemoteError {
        let why = "nothing is written to a bundle that is there".to_owned();
        RemoteError::Unusable { remote: self.name.clone(), why }
    }
}

/// What a path in a bundle may name.
enum Place {
    Blob(BlobId),
    Record(RecordName),
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        if let Some(digits) = path.strip_prefix(BLOBS) {
            let id: BlobId = digits.replacen('/', "", 1).parse().ok()?;
            return (id.path() == path).then_some(Self::Blob(id));
        }
        let mut words = path.split('/');
        let (namespace, kind, name) = (words.next()?, words.next()?, words.next()?);
        let (kind, known) = match kind {
            "results" => (RecordKind::Result, name.parse::<ActionKey>().is_ok()),
            "images" => (RecordKind::Image, name.parse::<ImageName>().is_ok()),
            _ => return None,
        };
        if !known || words.next().is_some() {
            return None;
        }
        let namespace = namespace.parse().ok()?;
        Some(Self::Record(RecordName { namespace, kind, name: name.to_owned() }))
    }
}

impl Backend for Bundle {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let (remote, id) = (self.name.clone(), blob.id.to_string());
        let Some(there) = self.blobs.get(&blob.id) else {
            return Err(RemoteError::Missing { remote, blob: id });
        };
        let at = there.start.saturating_add(range.start)..there.start.saturating_add(range.end);
        if there.end - there.start != blob.len || at.end > there.end || at.start > at.end {
            return Err(RemoteError::Damaged { remote, what: blob.id.path() });
        }
        self.read(at, &blob.id.path())
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        let there = self.blobs.get(&blob.id);
        Ok(there.is_some_and(|range| range.end - range.start == blob.len))
    }

    fn put_blob(&self, _blob: BlobRef, _bytes: &[u8]) -> Result<(), RemoteError> {
        Err(self.read_only())
    }

    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        let there = self.records.get(name).cloned();
        there.map(|range| self.read(range, &name.to_string())).transpose()
    }

    fn put_record(
        &self,
        _name: &RecordName,
        _bytes: &[u8],
        _needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        Err(self.read_only())
    }

    fn claim(
        &self,
        _namespace: &Namespace,
        _key: ActionKey,
        _lease: &[u8],
    ) -> Result<Claim, RemoteError> {
        Ok(Claim::Impossible)
    }

    fn renew(
        &self,
        _namespace: &Namespace,
        _key: ActionKey,
        _lease: &[u8],
    ) -> Result<(), RemoteError> {
        Err(self.read_only())
    }

    fn release(&self, _namespace: &Namespace, _key: ActionKey) -> Result<(), RemoteError> {
        Ok(())
    }
}
