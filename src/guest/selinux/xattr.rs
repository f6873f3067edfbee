//! Reads and writes labels of inodes by path, never through a link.
//!
//! It compares bytes; which label is right is not known here.
//!
//! Linux before 6.13 has no `setxattrat`, and `fsetxattr` refuses an `O_PATH` descriptor: the one
//! way to a symlink, fifo or device in an open directory is `lsetxattr` on
//! `/proc/self/fd/N/name`, which follows the magic link of the directory and nothing behind it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;

/// The label.
pub(super) const LABEL: &str = "security.selinux";
/// What `restorecon -D` leaves on directories to skip them next time.
pub(super) const SEHASH: &str = "security.sehash";

/// The path of `name` in an open directory.
pub(super) fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Whether `/proc` is this process's own: in a private pid namespace an old one names nobody.
pub(super) fn check_proc(directory: BorrowedFd<'_>) -> io::Result<()> {
    let stat = |at: BorrowedFd<'_>, path: &[u8]| {
        rustix::fs::statx(at, path, AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
    };
    let direct = stat(directory, b"")?;
    let through = stat(rustix::fs::CWD.as_fd(), &proc_path(directory, b"."))?;
    let same = direct.stx_ino == through.stx_ino
        && (direct.stx_dev_major, direct.stx_dev_minor)
            == (through.stx_dev_major, through.stx_dev_minor);
    if same { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
}

/// The stored label, with its final NUL if it has one; `None` if there is none.
pub(super) fn label(path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut short = [0_u8; 256];
    let found = match rustix::fs::lgetxattr(path, LABEL, &mut short[..]) {
        Ok(len) => return Ok(Some(short[..len].to_vec())),
        Err(error) => error,
    };
    match found {
        Errno::NODATA => Ok(None),
        Errno::RANGE => {
            let mut long = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(path, LABEL, &mut long[..])?;
            long.truncate(len);
            Ok(Some(long))
        }
        error => Err(error.into()),
    }
}

/// Whether a stored label is this context; libselinux stores a final NUL, others may not.
pub(super) fn is(stored: &[u8], context: &[u8]) -> bool {
    stored.strip_suffix(b"\0").unwrap_or(stored) == context
}

/// Stores a context with a final NUL.
pub(super) fn set_label(path: &[u8], context: &[u8]) -> rustix::io::Result<()> {
    let mut value = context.to_vec();
    value.push(0);
    rustix::fs::lsetxattr(path, LABEL, &value, XattrFlags::empty())
}

/// Removes `security.sehash`; `false` if there was none.
pub(super) fn strip_sehash(path: &[u8]) -> rustix::io::Result<bool> {
    match rustix::fs::lgetxattr_query(path, SEHASH) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
        Ok(_) => rustix::fs::lremovexattr(path, SEHASH).map(|()| true),
    }
}
