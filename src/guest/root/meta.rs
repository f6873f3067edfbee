//! What is known of a file without its content: type, mode, owner, extended attributes.
//!
//! It does not know where the file is, nor users by name.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Gid, Mode, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use crate::guest::error::{GuestError, shown};

/// What is known of something in a guest without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Its type.
    pub kind: FileType,
    /// The permission bits, at most 07777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
    /// The device and inode number: equal for two names of one file.
    pub inode: (u64, u64),
    /// How many names it has.
    pub links: u64,
}

impl Meta {
    pub(super) fn of_fd(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        rustix::fs::fstat(fd).map(|stat| Self::from_stat(&stat))
    }

    pub(super) fn from_stat(stat: &Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            inode: (stat.st_dev, stat.st_ino),
            links: stat.st_nlink,
        }
    }

    pub(crate) fn expect_file(
        &self,
        operation: &'static str,
        path: &Path,
    ) -> Result<(), GuestError> {
        if self.kind == FileType::RegularFile {
            return Ok(());
        }
        let found = name_of(self.kind);
        Err(GuestError::Type { operation, path: shown(path), found, expected: "a regular file" })
    }
}

/// A file type as an error names it.
pub(crate) fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "of an unknown type",
    }
}

/// Owner, group and permission bits to set; `None` leaves what is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileAttributes {
    /// The owner; never `u32::MAX`.
    pub uid: Option<u32>,
    /// The group; never `u32::MAX`.
    pub gid: Option<u32>,
    /// The permission bits.
    pub mode: Option<u32>,
}

impl FileAttributes {
    /// Root's, with a mode.
    #[must_use]
    pub const fn root(mode: u32) -> Self {
        Self { uid: Some(0), gid: Some(0), mode: Some(mode) }
    }

    /// These, and where they say nothing, `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            uid: self.uid.or(other.uid),
            gid: self.gid.or(other.gid),
            mode: self.mode.or(other.mode),
        }
    }

    /// Sets them on an open file. The owner goes first: chown(2) clears set-id bits.
    pub(super) fn set(self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.uid.is_some() || self.gid.is_some() {
            rustix::fs::fchown(fd, self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw))?;
        }
        match self.mode {
            Some(mode) => rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)),
            None => Ok(()),
        }
    }
}

/// Gives one file the extended attributes of another.
pub(super) fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    // 64 KiB is Linux's limit for the list and for one value (XATTR_LIST_MAX, XATTR_SIZE_MAX).
    let mut list = Vec::with_capacity(1 << 16);
    match rustix::fs::flistxattr(from, spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let mut value = Vec::with_capacity(1 << 16);
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        value.clear();
        rustix::fs::fgetxattr(from, name, spare_capacity(&mut value))?;
        rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty())?;
    }
    Ok(())
}
