//! The one door to a guest's tree: every path is resolved by the kernel inside the guest's root.
//!
//! It knows nothing of what the files mean.
//!
//! Two rules keep a hostile tree from leading out. A path is opened by `openat2(2)` with
//! `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`, so absolute links, `..` and `/proc` links end inside the
//! root, also while somebody swaps components. And what happens to the last component happens relative
//! to a descriptor of its directory (a [`Place`]), so no path is looked up twice.

mod content;
mod glob;
mod meta;
mod place;
mod tree;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::GuestError;
pub use glob::{literally, matches};
pub(super) use meta::name_of;
pub use meta::{FileAttributes, Meta};
pub use place::Place;

/// Most links that a path may lead through, as in Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// How often a lookup is tried again that a rename elsewhere disturbed (`EAGAIN`, see openat2(2)).
const MAX_DISTURBED: usize = 1000;

/// The root directory of a mounted guest.
///
/// Paths given to its methods are paths in the guest; a relative one starts at the root.
#[derive(Debug)]
pub struct GuestRoot {
    fd: Arc<OwnedFd>,
}

impl GuestRoot {
    /// Opens the directory where a guest is mounted on the host.
    ///
    /// # Errors
    /// Where `mounted` cannot be opened as a directory.
    pub fn open(mounted: &Path) -> Result<Self, GuestError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(mounted, flags, Mode::empty())
            .map_err(|errno| GuestError::path("open", "/", errno))?;
        Ok(Self::from_fd(fd))
    }

    /// Takes a descriptor of the root directory.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd) }
    }

    /// Resolves and opens a path inside the root; never blocks on a FIFO or takes a terminal.
    ///
    /// # Errors
    /// The kernel's, as [`GuestError::Path`].
    pub fn open_fd(
        &self,
        operation: &'static str,
        path: impl AsRef<Path>,
        flags: OFlags,
    ) -> Result<OwnedFd, GuestError> {
        let path = path.as_ref();
        let quiet = if flags.contains(OFlags::PATH) {
            OFlags::CLOEXEC
        } else {
            OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
        };
        resolve(self.fd.as_fd(), path, flags | quiet, ResolveFlags::IN_ROOT)
            .map_err(|errno| GuestError::path(operation, path, errno))
    }

    /// The directory that holds `path`, opened, and the last component, which is not followed.
    ///
    /// # Errors
    /// Where `path` is `/`, or its directory cannot be opened.
    pub fn place(
        &self,
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> Result<Place, GuestError> {
        let path = Path::new("/").join(path.as_ref());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(GuestError::RootDirectory { operation });
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = resolve(self.fd.as_fd(), parent, flags, ResolveFlags::IN_ROOT)
            .map_err(|errno| GuestError::directory(operation, &path, errno))?;
        Ok(Place::new(Arc::new(directory), parent, name))
    }

    /// The place that `path` leads to once the links in its last component are followed too; the
    /// last link may dangle.
    ///
    /// # Errors
    /// As with [`Self::place`], and `ELOOP` for links in circles.
    pub fn place_following(
        &self,
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> Result<Place, GuestError> {
        let mut at = PathBuf::from("/").join(path.as_ref());
        for _ in 0..MAX_LINKS {
            let place = self.place(operation, &at)?;
            match place.read_link(operation)? {
                // The kernel walks the directory part, so that `..` after a link means what it means in the guest.
                Some(target) => {
                    at = match at.parent() {
                        Some(parent) => parent.join(target),
                        None => target,
                    }
                }
                None => return Ok(place),
            }
        }
        Err(GuestError::path(operation, path, Errno::LOOP))
    }

    /// What is at a path, links followed; `None` where nothing is.
    ///
    /// # Errors
    /// The kernel's, other than `ENOENT` and `ENOTDIR`.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Option<Meta>, GuestError> {
        let path = path.as_ref();
        match self.open_fd("look at", path, OFlags::PATH) {
            Ok(fd) => Meta::of_fd(fd.as_fd())
                .map(Some)
                .map_err(|errno| GuestError::path("look at", path, errno)),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is at a path, the last link not followed; `None` where nothing is.
    ///
    /// # Errors
    /// The kernel's, other than `ENOENT` and `ENOTDIR`.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Option<Meta>, GuestError> {
        match self.place("look at", path) {
            Ok(place) => place.meta("look at"),
            Err(GuestError::RootDirectory { .. }) => self.stat("/"),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a regular file is at a path, links followed. Whatever cannot be reached is none.
    #[must_use]
    pub fn is_file(&self, path: impl AsRef<Path>) -> bool {
        matches!(self.stat(path), Ok(Some(meta)) if meta.kind == FileType::RegularFile)
    }

    /// Whether a directory is at a path, links followed. Whatever cannot be reached is none.
    #[must_use]
    pub fn is_directory(&self, path: impl AsRef<Path>) -> bool {
        matches!(self.stat(path), Ok(Some(meta)) if meta.kind == FileType::Directory)
    }

    /// The target of the link at a path, as it is written; `None` where no link is.
    ///
    /// # Errors
    /// The kernel's, other than `ENOENT` and `ENOTDIR`.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Option<PathBuf>, GuestError> {
        match self.place("read the link", path) {
            Ok(place) => place.read_link("read the link"),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading, links followed.
    ///
    /// # Errors
    /// [`GuestError::Type`] for anything but a regular file, without opening it; the kernel's.
    pub fn open_file(
        &self,
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> Result<File, GuestError> {
        let path = path.as_ref();
        // A device or FIFO would act on being opened, so its type is looked at first, and once more
        // after, as it may have been swapped in between.
        let handle = self.open_fd(operation, path, OFlags::PATH)?;
        expect_file(operation, path, handle.as_fd())?;
        let file = self.open_fd(operation, path, OFlags::RDONLY)?;
        expect_file(operation, path, file.as_fd())?;
        Ok(File::from(file))
    }

    /// Reads a regular file of at most `limit` bytes, links followed.
    ///
    /// # Errors
    /// [`GuestError::TooLarge`], and those of [`Self::open_file`].
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, GuestError> {
        let path = path.as_ref();
        let file = self.open_file("read", path)?;
        let mut bytes = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| GuestError::path("read", path, error))?;
        if bytes.len() as u64 > limit {
            return Err(GuestError::TooLarge { path: super::error::shown(path), limit });
        }
        Ok(bytes)
    }

    /// Reads a regular file as with [`Self::read`]; `None` where nothing is.
    ///
    /// # Errors
    /// As with [`Self::read`].
    pub fn read_if_there(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, GuestError> {
        match self.read(path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a file new content by writing a temporary file beside it and renaming that over it; a
    /// link is followed. An existing file keeps its mode, owner and xattrs unless `attributes` says
    /// otherwise; a new one is root's, 0644. Nothing is synced: the caller freezes the file system.
    ///
    /// # Errors
    /// [`GuestError::Type`] where something else than a file is; the kernel's.
    pub fn write_atomic(
        &self,
        path: impl AsRef<Path>,
        content: &[u8],
        attributes: FileAttributes,
    ) -> Result<(), GuestError> {
        let place = self.place_following("write", path)?;
        place.replace("write", attributes, true, |file| file.write_all(content))
    }

    /// Makes a directory and its parents, which get root and 0755; says whether the last one is new.
    /// The mode and owner of a directory that is there change only where `attributes` names them.
    ///
    /// # Errors
    /// Where something else than a directory is in the way; the kernel's.
    pub fn make_directories(
        &self,
        path: impl AsRef<Path>,
        attributes: FileAttributes,
    ) -> Result<bool, GuestError> {
        const MAKE: &str = "make the directory";
        let path = Path::new("/").join(path.as_ref());
        let mut made = false;
        for prefix in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
            match self.open_fd(MAKE, prefix, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => made = false,
                Err(error) if error.errno() == Some(Errno::NOENT) => {
                    let place = self.place(MAKE, prefix)?;
                    place.make_directory(MAKE)?;
                    made = true;
                }
                Err(error) => return Err(error),
            }
        }
        let last = self.open_fd(MAKE, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let wanted = if made { attributes.or(FileAttributes::root(0o755)) } else { attributes };
        wanted.set(last.as_fd()).map_err(|errno| GuestError::path(MAKE, &path, errno))?;
        Ok(made)
    }

    /// Opens a directory, links followed, and gives its entries as places, sorted by name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries(&self, path: impl AsRef<Path>) -> Result<Vec<Place>, GuestError> {
        let path = Path::new("/").join(path.as_ref());
        let directory = self.open_fd("list", &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let names =
            names(directory.as_fd()).map_err(|errno| GuestError::path("list", &path, errno))?;
        let directory = Arc::new(directory);
        Ok(names.iter().map(|name| Place::new(Arc::clone(&directory), &path, name)).collect())
    }

    /// The entries of a directory as with [`Self::entries`]; none where no directory is.
    ///
    /// # Errors
    /// The kernel's, other than `ENOENT` and `ENOTDIR`.
    pub fn entries_if_there(&self, path: impl AsRef<Path>) -> Result<Vec<Place>, GuestError> {
        match self.entries(path) {
            Err(error) if absent(&error) => Ok(Vec::new()),
            other => other,
        }
    }
}

/// Whether an error says that nothing is at the path.
pub(crate) fn absent(error: &GuestError) -> bool {
    matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR))
}

fn expect_file(operation: &'static str, path: &Path, fd: BorrowedFd<'_>) -> Result<(), GuestError> {
    let meta = Meta::of_fd(fd).map_err(|errno| GuestError::path(operation, path, errno))?;
    meta.expect_file(operation, path)
}

fn resolve(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut disturbed = 0;
    loop {
        match rustix::fs::openat2(
            directory,
            path,
            flags,
            Mode::empty(),
            how | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN) if disturbed < MAX_DISTURBED => disturbed += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The names in an open directory without `.` and `..`, sorted by their bytes.
fn names(directory: BorrowedFd<'_>) -> Result<Vec<std::ffi::OsString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(std::ffi::OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}
