//! Exact copies of one thing, and what of it only an exact copy needs: devices, times, xattrs, holes.
//!
//! It does not walk trees. Xattrs are reached by a path through `/proc/self/fd`, which leads to the
//! open directory and follows nothing behind it: `fsetxattr` refuses what cannot be opened.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::meta::{FileAttributes, Meta, name_of};
use super::place::Place;
use crate::guest::error::{GuestError, shown};

/// Linux's limit for the list of names and for one value, `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const LARGEST_XATTR: usize = 1 << 16;
/// The label of SELinux, which the seal writes anew wherever the file system can hold it.
const LABEL: &[u8] = b"security.selinux";

impl Place {
    /// Puts an exact copy of what is here, which is no directory, to another place, where it
    /// replaces anything but a directory: bytes, holes, owner, mode, xattrs and times.
    ///
    /// # Errors
    /// [`GuestError::Type`] where a directory is at `to`; the kernel's.
    pub fn copy_to(&self, operation: &'static str, to: &Self) -> Result<(), GuestError> {
        let stat = self.stat().map_err(|errno| GuestError::path(operation, self.path(), errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::from_raw_mode(0o600);
        to.put(
            operation,
            |place| match kind {
                FileType::RegularFile => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    rustix::fs::openat(place.directory(), place.name(), flags, mode).map(Some)
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(self.directory(), self.name(), Vec::new())?;
                    rustix::fs::symlinkat(target, place.directory(), place.name()).map(|()| None)
                }
                _ => {
                    let (directory, name) = (place.directory(), place.name());
                    rustix::fs::mknodat(directory, name, kind, mode, stat.st_rdev).map(|()| None)
                }
            },
            |place, file: Option<OwnedFd>| {
                if let Some(file) = file {
                    let from = File::from(self.open(OFlags::RDONLY)?);
                    copy_data(&from, &mut File::from(file))?;
                }
                self.give_attributes(&stat, place)?;
                Ok(())
            },
        )
    }

    /// Gives what is at another place owner, mode, xattrs and times of what is here.
    ///
    /// # Errors
    /// The kernel's.
    pub fn copy_attributes(&self, operation: &'static str, to: &Self) -> Result<(), GuestError> {
        self.stat()
            .and_then(|stat| self.give_attributes(&stat, to))
            .map_err(|errno| GuestError::path(operation, to.path(), errno))
    }

    /// Makes another name for what is here, which replaces anything but a directory.
    ///
    /// # Errors
    /// [`GuestError::Type`] where a directory is at `to`; the kernel's.
    pub fn hard_link(&self, operation: &'static str, to: &Self) -> Result<(), GuestError> {
        // A rename of one name of a file to another does nothing, and leaves both.
        let stat = self.stat().map_err(|errno| GuestError::path(operation, self.path(), errno))?;
        if to.meta(operation)?.is_some_and(|there| there.inode == Meta::from_stat(&stat).inode) {
            return Ok(());
        }
        to.put(
            operation,
            |place| {
                let (from, name) = (self.directory(), self.name());
                rustix::fs::linkat(from, name, place.directory(), place.name(), AtFlags::empty())
            },
            |_, ()| Ok(()),
        )
    }

    /// Makes a FIFO or a device, root's, 0600, which replaces anything but a directory.
    ///
    /// # Errors
    /// [`GuestError::Type`] where a directory is here; the kernel's.
    pub fn make_node(
        &self,
        operation: &'static str,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<(), GuestError> {
        let device = rustix::fs::makedev(major, minor);
        self.put(
            operation,
            |place| {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(place.directory(), place.name(), kind, mode, device)
            },
            |_, ()| Ok(()),
        )
    }

    /// Sets the time of the last change of what is here, in seconds and nanoseconds; a link's own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_modified(
        &self,
        operation: &'static str,
        (seconds, nanoseconds): (i64, u32),
    ) -> Result<(), GuestError> {
        let kept = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let wanted = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: kept, last_modification: wanted };
        let (directory, name) = (self.directory(), self.name());
        rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| GuestError::path(operation, self.path(), errno))
    }

    /// Sets an extended attribute of what is here; a link's own. A label is passed over where the
    /// file system cannot hold it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system cannot hold it; the kernel's.
    pub fn set_xattr(
        &self,
        operation: &'static str,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), GuestError> {
        self.put_xattr(name, value).map_err(|errno| GuestError::path(operation, self.path(), errno))
    }

    fn put_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match rustix::fs::lsetxattr(self.proc_path(), name, value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) if name == LABEL => Ok(()),
            other => other,
        }
    }

    /// Overwrites every byte of a regular file with zeros, in place, and waits for the disk.
    ///
    /// # Errors
    /// [`GuestError::Type`] for anything else; the kernel's.
    pub fn zero(&self, operation: &'static str) -> Result<(), GuestError> {
        self.expect(operation)?.expect_file(operation, self.path())?;
        let overwrite = || -> io::Result<()> {
            let mut file = File::from(self.open(OFlags::RDWR)?);
            let mut at = 0;
            // A hole has no bytes, and would take room.
            while let Some((start, end)) = next_data(&file, at)? {
                rustix::fs::seek(&file, SeekFrom::Start(start))?;
                io::copy(&mut io::repeat(0).take(end - start), &mut file)?;
                at = end;
            }
            file.sync_all()
        };
        overwrite().map_err(|error| GuestError::path(operation, self.path(), error))
    }

    fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(self.directory(), self.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Makes something under a temporary name, finishes it, and renames it to here.
    fn put<T>(
        &self,
        operation: &'static str,
        make: impl Fn(&Self) -> Result<T, Errno>,
        finish: impl FnOnce(&Self, T) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        if let Some(meta) = self.meta(operation)?
            && meta.kind == FileType::Directory
        {
            let (path, found) = (shown(self.path()), name_of(meta.kind));
            return Err(GuestError::Type { operation, path, found, expected: "a file or link" });
        }
        let failed = |error| GuestError::path(operation, self.path(), error);
        let (temporary, made) =
            self.temporary(make).map_err(|errno| failed(io::Error::from(errno)))?;
        finish(&temporary, made)
            .map_err(failed)
            .and_then(|()| temporary.rename(operation, self))
            .inspect_err(|_| {
                // The first error is the one to report; the layer of a failed step is thrown away.
                let _ = temporary.unlink(operation);
            })
    }

    /// The owner goes first, as chown(2) clears set-id bits and capabilities; times go last.
    fn give_attributes(&self, stat: &Stat, to: &Self) -> Result<(), Errno> {
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let (directory, name) = (to.directory(), to.name());
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(directory, name, Some(owner.0), Some(owner.1), nofollow)?;
        copy_xattrs(self, to)?;
        let meta = Meta::from_stat(stat);
        match meta.kind {
            FileType::Symlink => {}
            FileType::RegularFile | FileType::Directory => {
                let mode = FileAttributes { mode: Some(meta.mode), ..FileAttributes::default() };
                mode.set(to.open(OFlags::RDONLY)?.as_fd())?;
            }
            // What cannot be opened, or acts on it.
            _ => rustix::fs::chmodat(
                rustix::fs::CWD,
                to.proc_path(),
                Mode::from_raw_mode(meta.mode),
                AtFlags::empty(),
            )?,
        }
        let time = |seconds, nanoseconds: u64| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
        };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        rustix::fs::utimensat(directory, name, &times, nofollow)
    }

    /// A path of the host to this very name.
    fn proc_path(&self) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.directory().as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name().as_bytes());
        path
    }
}

fn copy_xattrs(from: &Place, to: &Place) -> Result<(), Errno> {
    let mut list = Vec::with_capacity(LARGEST_XATTR);
    match rustix::fs::llistxattr(from.proc_path(), spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let mut value = Vec::with_capacity(LARGEST_XATTR);
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        value.clear();
        rustix::fs::lgetxattr(from.proc_path(), name, spare_capacity(&mut value))?;
        to.put_xattr(name, &value)?;
    }
    Ok(())
}

/// The next run of bytes that is no hole: its start, and where it ends.
fn next_data(file: &File, at: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    rustix::fs::seek(file, SeekFrom::Hole(start)).map(|end| Some((start, end)))
}

/// Copies the bytes of a file to an empty one; holes stay holes.
fn copy_data(from: &File, to: &mut File) -> io::Result<()> {
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at)? {
        rustix::fs::seek(from, SeekFrom::Start(start))?;
        rustix::fs::seek(&*to, SeekFrom::Start(start))?;
        io::copy(&mut from.take(end - start), to)?;
        at = end;
    }
    to.set_len(from.metadata()?.len())?;
    to.flush()
}
