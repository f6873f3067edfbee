//! The one way to the host's file system for what must survive a crash.
//!
//! Everything durable that kiln writes goes through [`Medium`], so that a test can stop it before,
//! in or after any operation and lose what was not synced. Errors always carry what was done, and
//! to which path.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A failed operation on a path of the host.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("cannot {doing} `{}`", path.display())]
#[diagnostic(code(kiln::files::failed), help("{}", help_for(source)))]
pub struct FileError {
    /// What was being done, in the infinitive: `read`, `write`.
    pub doing: &'static str,
    /// To which path.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn help_for(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or move the store with `--store`; what is finished stays cached"
        }
        io::ErrorKind::PermissionDenied => "check its owner and mode, and that of its directories",
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only; use another path",
        _ => "the cause stands above",
    }
}

/// Adds what was done, and to which path, to an I/O result.
pub trait Context<T> {
    /// Turns an [`io::Error`] into a [`FileError`].
    ///
    /// # Errors
    /// The same error, with its context.
    fn context(self, doing: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, doing: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { doing, path: path.to_owned(), source: source.into() })
    }
}

/// Operations whose order decides what is left after a crash.
pub trait Medium: Send + Sync {
    /// Makes a file that must not exist, readable by its owner, and by the group where `shared`.
    ///
    /// # Errors
    /// As `open(2)`.
    fn create(&self, path: &Path, shared: bool) -> io::Result<File>;

    /// Appends bytes to an open file.
    ///
    /// # Errors
    /// As `write(2)`.
    fn write(&self, file: &File, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// As `fsync(2)`; after an error the file must never be trusted.
    fn sync(&self, file: &File, path: &Path) -> io::Result<()>;

    /// Renames within one file system, over a file that may exist.
    ///
    /// # Errors
    /// As `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As `fsync(2)`.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As `unlink(2)`.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The host's file system as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Medium for Host {
    fn create(&self, path: &Path, shared: bool) -> io::Result<File> {
        let mode = if shared { 0o644 } else { 0o640 };
        OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
    }

    fn write(&self, mut file: &File, _path: &Path, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// How the names end under which [`replace`] writes; before it stands the process's number.
pub const TEMPORARY: &str = ".kiln-part";

/// Removes from a directory what a [`replace`] of a process that is gone left there.
///
/// # Errors
/// Where the directory cannot be read, or a file not removed.
pub fn sweep(directory: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(directory).context("read", directory)? {
        let path = entry.context("read", directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let left = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
        let Some((_, pid)) = left.and_then(|name| name.rsplit_once('.')) else { continue };
        let Some((pid, number)) = pid.split_once('-') else { continue };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if digits(pid) && digits(number) && !Path::new("/proc").join(pid).exists() {
            match fs::remove_file(&path) {
                // Another kiln swept it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.context("remove", &path)?,
            }
        }
    }
    Ok(())
}

/// Puts a small file in place whole or not at all: temporary name, sync, rename, sync of the
/// directory.
///
/// # Errors
/// The operation that failed; the old file, if there was one, is then untouched.
pub fn replace(medium: &dyn Medium, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with(medium, path, bytes, &|_| Ok(()))
}

/// The same for a file that only its owner may read.
///
/// # Errors
/// As [`replace`].
pub fn replace_private(medium: &dyn Medium, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let private = fs::Permissions::from_mode(0o600);
    replace_with(medium, path, bytes, &|file| file.set_permissions(private.clone()))
}

/// As [`replace`]; `close` has the file before there is anything in it.
fn replace_with(
    medium: &dyn Medium,
    path: &Path,
    bytes: &[u8],
    close: &dyn Fn(&File) -> io::Result<()>,
) -> Result<(), FileError> {
    // Threads of one process may replace one file, too.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // A bare name has a parent, too: an empty one.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!(".{name}.{}-{number}{TEMPORARY}", std::process::id()));
    match medium.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("remove", &temporary);
        }
        _ => {}
    }
    let file = medium.create(&temporary, true).context("create", &temporary)?;
    close(&file).context("close to others", &temporary)?;
    medium.write(&file, &temporary, bytes).context("write", &temporary)?;
    medium.sync(&file, &temporary).context("sync", &temporary)?;
    medium.rename(&temporary, path).context("rename into place", path)?;
    medium.sync_directory(directory).context("sync", directory)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// Where it cannot be read, or is larger.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    use std::io::Read;
    let file = File::open(path).context("open", path)?;
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes).context("read", path)?;
    if read as u64 > limit {
        let error =
            io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes"));
        return Err(error).context("read", path);
    }
    Ok(bytes)
}

/// Makes a directory and its parents, with a mode for those that are made.
///
/// # Errors
/// Where one cannot be made.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).context("make directory", path)
}

/// What tells a file that was touched from one that was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    device: u64,
    inode: u64,
}

impl Stamp {
    /// The stamp of a file as it is now; `None` where there is none.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self::of_metadata(&meta))
    }

    /// The stamp of a file that is known otherwise, as one that is open.
    #[must_use]
    pub fn of_metadata(meta: &std::fs::Metadata) -> Self {
        let ns = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            size: meta.size(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
            device: meta.dev(),
            inode: meta.ino(),
        }
    }

    /// Whether both are of one file with the same bytes: it may have lost its name, or got another
    /// owner.
    #[must_use]
    pub fn has_bytes_of(&self, other: &Self) -> bool {
        Self { ctime_ns: other.ctime_ns, ..*self } == *other
    }
}
