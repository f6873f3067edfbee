//! A place in a guest: an open directory and one name in it, and what can be done there.
//!
//! It does not know how the directory was found; nothing here follows a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::meta::{FileAttributes, Meta, copy_xattrs, name_of};
use super::{resolve, tree};
use crate::guest::error::{GuestError, shown};

/// A name in an open directory of the guest. Something may be there or not.
#[derive(Debug, Clone)]
pub struct Place {
    directory: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
}

impl Place {
    pub(super) fn new(directory: Arc<OwnedFd>, parent: &Path, name: &OsStr) -> Self {
        Self { directory, name: name.to_owned(), path: parent.join(name) }
    }

    /// The name; it need not be UTF-8.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The path in the guest by which it was found; for messages, and never looked up again.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Another name in the same directory.
    #[must_use]
    pub fn sibling(&self, name: &OsStr) -> Self {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        Self::new(Arc::clone(&self.directory), parent, name)
    }

    fn fail(&self, operation: &'static str) -> impl Fn(Errno) -> GuestError + '_ {
        move |errno| GuestError::path(operation, &self.path, errno)
    }

    /// What is here; `None` where nothing is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn meta(&self, operation: &'static str) -> Result<Option<Meta>, GuestError> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Meta::from_stat(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.fail(operation)(errno)),
        }
    }

    /// What is here.
    ///
    /// # Errors
    /// `ENOENT` where nothing is; the kernel's.
    pub fn expect(&self, operation: &'static str) -> Result<Meta, GuestError> {
        self.meta(operation)?.ok_or_else(|| self.fail(operation)(Errno::NOENT))
    }

    /// The target of the link here; `None` where something else or nothing is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_link(&self, operation: &'static str) -> Result<Option<PathBuf>, GuestError> {
        match rustix::fs::readlinkat(&self.directory, &self.name, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsStr::from_bytes(target.to_bytes())))),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.fail(operation)(errno)),
        }
    }

    /// Opens what is here; a link is `ELOOP`, or with `O_PATH` the link itself.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let quiet = if flags.contains(OFlags::PATH) {
            OFlags::empty()
        } else {
            OFlags::NONBLOCK | OFlags::NOCTTY
        };
        let flags = flags | quiet | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        resolve(self.directory(), Path::new(&self.name), flags, ResolveFlags::BENEATH)
    }

    /// Replaces what is here by a regular file that `content` writes, through a temporary name in the
    /// same directory, so that a reader sees the old content or the new.
    ///
    /// With `keep`, an existing file's owner, mode and xattrs are the defaults of `attributes`;
    /// without it, and for a new file, root and 0644 are.
    ///
    /// # Errors
    /// [`GuestError::Type`] where something else than a regular file is; the kernel's.
    pub fn replace(
        &self,
        operation: &'static str,
        attributes: FileAttributes,
        keep: bool,
        content: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), GuestError> {
        let fail = self.fail(operation);
        let before = self.meta(operation)?;
        if let Some(meta) = before {
            meta.expect_file(operation, &self.path)?;
        }
        let (temporary, fd) = self
            .temporary(|place| {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                rustix::fs::openat(&place.directory, &place.name, flags, Mode::from_raw_mode(0o600))
            })
            .map_err(&fail)?;
        let mut new = File::from(fd);
        let finish = || -> io::Result<()> {
            content(&mut new)?;
            let mut defaults = FileAttributes::root(0o644);
            if let Some(old) = before.filter(|_| keep) {
                defaults =
                    FileAttributes { uid: Some(old.uid), gid: Some(old.gid), mode: Some(old.mode) };
                let source = self.open(OFlags::RDONLY)?;
                let wanted = attributes.or(defaults);
                rustix::fs::fchown(
                    &new,
                    wanted.uid.map(Uid::from_raw),
                    wanted.gid.map(Gid::from_raw),
                )?;
                copy_xattrs(source.as_fd(), new.as_fd())?;
                rustix::fs::fchmod(&new, Mode::from_raw_mode(wanted.mode.unwrap_or(old.mode)))?;
            } else {
                attributes.or(defaults).set(new.as_fd())?;
            }
            rustix::fs::renameat(&self.directory, &temporary.name, &self.directory, &self.name)?;
            Ok(())
        };
        finish().map_err(|error| {
            // The first error is the one to report; the layer of a failed step is thrown away.
            let _ = rustix::fs::unlinkat(&self.directory, &temporary.name, AtFlags::empty());
            GuestError::path(operation, &self.path, error)
        })
    }

    /// Makes something under a free temporary name beside this one. The names are the same in every
    /// build, as they may stay readable in free directory blocks.
    pub(super) fn temporary<T>(
        &self,
        make: impl Fn(&Self) -> Result<T, Errno>,
    ) -> Result<(Self, T), Errno> {
        let mut number = 0;
        loop {
            let place = self.sibling(OsStr::new(&format!(".kiln-{number}.tmp")));
            match make(&place) {
                Err(Errno::EXIST) if number < 10_000 => number += 1,
                Err(errno) => return Err(errno),
                Ok(value) => return Ok((place, value)),
            }
        }
    }

    /// Makes a directory with mode 0755 whatever the umask; one that is there is an error.
    ///
    /// # Errors
    /// `EEXIST`; the kernel's.
    pub fn make_directory(&self, operation: &'static str) -> Result<(), GuestError> {
        let make = || {
            rustix::fs::mkdirat(&self.directory, &self.name, Mode::from_raw_mode(0o755))?;
            FileAttributes::root(0o755).set(self.open(OFlags::RDONLY | OFlags::DIRECTORY)?.as_fd())
        };
        make().map_err(self.fail(operation))
    }

    /// Makes a symbolic link here, which replaces a file or link; says whether anything changed.
    ///
    /// # Errors
    /// [`GuestError::Type`] where a directory is; the kernel's.
    pub fn symlink(&self, operation: &'static str, target: &Path) -> Result<bool, GuestError> {
        let fail = self.fail(operation);
        match self.meta(operation)? {
            Some(meta) if meta.kind == FileType::Directory => {
                let found = name_of(meta.kind);
                return Err(GuestError::Type {
                    operation,
                    path: shown(&self.path),
                    found,
                    expected: "a file or link",
                });
            }
            Some(_) if self.read_link(operation)?.as_deref() == Some(target) => return Ok(false),
            _ => {}
        }
        let (temporary, ()) = self
            .temporary(|place| rustix::fs::symlinkat(target, &place.directory, &place.name))
            .map_err(&fail)?;
        temporary.rename(operation, self)?;
        Ok(true)
    }

    /// Renames what is here to another place, replacing a file or an empty directory there.
    ///
    /// # Errors
    /// `EXDEV` between file systems; the kernel's.
    pub fn rename(&self, operation: &'static str, to: &Self) -> Result<(), GuestError> {
        rustix::fs::renameat_with(
            &self.directory,
            &self.name,
            &to.directory,
            &to.name,
            RenameFlags::empty(),
        )
        .map_err(|errno| {
            GuestError::path(
                operation,
                if errno == Errno::NOENT { &self.path } else { &to.path },
                errno,
            )
        })
    }

    /// Sets permission bits of what is here, which is no link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn chmod(&self, operation: &'static str, mode: u32) -> Result<(), GuestError> {
        let mode = Mode::from_raw_mode(mode);
        let change = || match self.open(OFlags::RDONLY) {
            Ok(fd) => rustix::fs::fchmod(fd, mode),
            // Sockets and devices cannot be opened. chmod(2) has no form for an `O_PATH` descriptor
            // before Linux 6.6, so it goes through the host's own /proc.
            Err(Errno::NXIO | Errno::ACCESS | Errno::NODEV) => {
                let fd = self.open(OFlags::PATH)?;
                if Meta::of_fd(fd.as_fd())?.kind == FileType::Symlink {
                    return Err(Errno::LOOP);
                }
                let handle = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
                rustix::fs::chmodat(rustix::fs::CWD, handle, mode, AtFlags::empty())
            }
            Err(errno) => Err(errno),
        };
        change().map_err(self.fail(operation))
    }

    /// Sets the owner, the group or both of what is here, also of a link itself.
    ///
    /// # Errors
    /// The kernel's.
    pub fn chown(
        &self,
        operation: &'static str,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), GuestError> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(&self.directory, &self.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.fail(operation))
    }

    /// Sets the times of what is here to now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn touch(&self, operation: &'static str) -> Result<(), GuestError> {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        rustix::fs::utimensat(&self.directory, &self.name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.fail(operation))
    }

    /// Cuts a regular file to no bytes, in place.
    ///
    /// # Errors
    /// [`GuestError::Type`] for anything else; the kernel's.
    pub fn truncate(&self, operation: &'static str) -> Result<(), GuestError> {
        self.expect(operation)?.expect_file(operation, &self.path)?;
        let cut = || rustix::fs::ftruncate(self.open(OFlags::WRONLY)?, 0);
        cut().map_err(self.fail(operation))
    }

    /// Removes one file, link or other non-directory; says whether there was one.
    ///
    /// # Errors
    /// `EISDIR`; the kernel's.
    pub fn unlink(&self, operation: &'static str) -> Result<bool, GuestError> {
        match rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.fail(operation)(errno)),
        }
    }

    /// Removes what is here, a whole tree too; says whether anything was. Links are removed and not
    /// followed.
    ///
    /// # Errors
    /// [`GuestError::OtherMount`] where a file system is mounted in the tree; the kernel's. Part of
    /// the tree may be gone then.
    pub fn remove(&self, operation: &'static str) -> Result<bool, GuestError> {
        tree::remove(self, operation)
    }

    /// Calls `visit` with what is here and everything below it, directories before what they hold;
    /// links are not followed.
    ///
    /// # Errors
    /// [`GuestError::OtherMount`], the kernel's, and those of `visit`.
    pub fn walk(
        &self,
        operation: &'static str,
        visit: &mut dyn FnMut(&Self, &Meta) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        tree::walk(self, operation, tree::AtMount::Refuse, visit)
    }

    /// Walks as [`Self::walk`] does, and goes on where a file system is mounted.
    ///
    /// # Errors
    /// The kernel's, and those of `visit`.
    pub fn walk_with_mounts(
        &self,
        operation: &'static str,
        visit: &mut dyn FnMut(&Self, &Meta) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        tree::walk(self, operation, tree::AtMount::Enter, visit)
    }
}
