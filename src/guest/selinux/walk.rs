//! Visits every inode of one mounted file system, directories in parallel.
//!
//! It reads names and attributes; labels are not known here.
//!
//! A directory that waits is a path and holds no descriptor, so that neither the depth nor the
//! breadth of a tree uses them up: each worker has one open. Directories are opened from the root,
//! without links and without leaving the mount.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags};

use super::contexts::FileKind;
use crate::name::GuestPath;

/// Longest path inside a file system in bytes. Nobody can name more than 4,095 of them at once;
/// what lies deeper is reached piece by piece.
pub(super) const MAX_PATH: usize = 64 << 10;
/// Bytes of a path that one `openat2` takes.
const PIECE: usize = 4000;

/// An inode under one of its names.
pub(super) struct Node<'a> {
    /// The directory that holds it; for the root, the root itself.
    pub(super) directory: BorrowedFd<'a>,
    /// Its name there; `.` for the root.
    pub(super) name: &'a [u8],
    /// Its path inside the file system, without a leading `/`; empty for the root.
    pub(super) inside: &'a [u8],
    pub(super) kind: FileKind,
    pub(super) stat: Statx,
}

/// What a walk does with what it finds.
pub(super) trait Visitor: Sync {
    /// An inode of this file system; called once for each of its names.
    fn node(&self, node: &Node<'_>);
    /// A directory that lies in another file system; it is not entered.
    fn foreign(&self, inside: &[u8]);
    /// A path that could not be read. The walk goes on elsewhere.
    fn failed(&self, inside: &[u8], action: &'static str, error: io::Error);
}

/// A path inside a file system as a path in the guest.
pub(super) fn in_guest(prefix: &GuestPath, inside: &[u8]) -> Vec<u8> {
    let prefix = prefix.as_str().trim_end_matches('/').as_bytes();
    if inside.is_empty() {
        return if prefix.is_empty() { b"/".to_vec() } else { prefix.to_vec() };
    }
    [prefix, b"/", inside].concat()
}

/// Opens a directory by its path inside the file system.
pub(super) fn open(root: BorrowedFd<'_>, inside: &[u8]) -> rustix::io::Result<OwnedFd> {
    let step = |at: BorrowedFd<'_>, path: &[u8]| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(at, path, flags, Mode::empty(), resolve)
    };
    if inside.is_empty() {
        return step(root, b".");
    }
    let mut at: Option<OwnedFd> = None;
    let mut rest = inside;
    while rest.len() > PIECE {
        // A component has at most 255 bytes, so there is a slash.
        let cut = rest[..PIECE].iter().rposition(|&byte| byte == b'/').unwrap_or(PIECE);
        at = Some(step(at.as_ref().map_or(root, AsFd::as_fd), &rest[..cut])?);
        rest = &rest[cut + 1..];
    }
    step(at.as_ref().map_or(root, AsFd::as_fd), rest)
}

pub(super) fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)
}

fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

/// Walks the file system whose root is open; returns when everything was visited.
pub(super) fn walk(root: BorrowedFd<'_>, visitor: &impl Visitor) {
    let stat = match stat(root, b".") {
        Ok(stat) => stat,
        Err(error) => return visitor.failed(b"", "read the attributes of", error.into()),
    };
    let dev = device(&stat);
    let kind = FileKind::Directory;
    visitor.node(&Node { directory: root, name: b".", inside: b"", kind, stat });
    rayon::scope(|scope| directory(scope, root, Vec::new(), dev, visitor));
}

/// Visits what is in one directory and leaves its directories to other jobs.
fn directory<'s, V: Visitor>(
    scope: &rayon::Scope<'s>,
    root: BorrowedFd<'s>,
    mut path: Vec<u8>,
    dev: (u32, u32),
    visitor: &'s V,
) {
    let fd = match open(root, &path) {
        Ok(fd) => fd,
        Err(error) => return visitor.failed(&path, "open", error.into()),
    };
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
    let inside = path.len();
    if !path.is_empty() {
        path.push(b'/');
    }
    let base = path.len();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return visitor.failed(&path[..inside], "list", error.into()),
        };
        let name = CStr::to_bytes(entry.file_name());
        if matches!(name, b"." | b"..") {
            continue;
        }
        path.truncate(base);
        path.extend_from_slice(name);
        let stat = match stat(fd.as_fd(), name) {
            Ok(stat) => stat,
            Err(error) => {
                visitor.failed(&path, "read the attributes of", error.into());
                continue;
            }
        };
        let Some(kind) = FileKind::from_mode(stat.stx_mode.into()) else {
            visitor.failed(&path, "understand the type of", io::ErrorKind::InvalidData.into());
            continue;
        };
        if device(&stat) != dev {
            visitor.foreign(&path);
            continue;
        }
        visitor.node(&Node { directory: fd.as_fd(), name, inside: &path, kind, stat });
        if kind == FileKind::Directory {
            if path.len() > MAX_PATH {
                visitor.failed(&path, "enter", io::ErrorKind::InvalidFilename.into());
                continue;
            }
            let path = path.clone();
            scope.spawn(move |scope| directory(scope, root, path, dev, visitor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Vec<u8>>>, Mutex<Vec<Vec<u8>>>);

    impl Visitor for Seen {
        fn node(&self, node: &Node<'_>) {
            self.0.lock().unwrap().push(node.inside.to_owned());
        }

        fn foreign(&self, inside: &[u8]) {
            panic!("foreign: {}", inside.len());
        }

        fn failed(&self, inside: &[u8], _: &'static str, _: io::Error) {
            self.1.lock().unwrap().push(inside.to_owned());
        }
    }

    /// Makes a chain of directories, of which only the first ones have a path.
    fn chain(root: BorrowedFd<'_>, name: &str, depth: usize) {
        let mut at = root.try_clone_to_owned().unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = open(at.as_fd(), name.as_bytes()).unwrap();
        }
        rustix::fs::symlinkat("/", &at, "link").unwrap();
    }

    #[test]
    fn depth_is_no_limit_up_to_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        chain(root.as_fd(), &"d".repeat(250), 30);
        let seen = Seen::default();
        walk(root.as_fd(), &seen);
        let paths = seen.0.into_inner().unwrap();
        assert_eq!((paths.len(), paths.iter().map(Vec::len).max()), (32, Some(30 * 251 + 4)));
        assert_eq!(seen.1.into_inner().unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn what_lies_deeper_than_the_bound_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        chain(root.as_fd(), &"d".repeat(250), MAX_PATH / 250 + 2);
        let seen = Seen::default();
        walk(root.as_fd(), &seen);
        assert_eq!(seen.1.into_inner().unwrap().len(), 1);
    }

    #[test]
    fn paths_in_the_guest_have_single_slashes() {
        let path = |prefix: &str, inside: &[u8]| in_guest(&prefix.parse().unwrap(), inside);
        assert_eq!(path("/", b""), b"/");
        assert_eq!(path("/", b"etc"), b"/etc");
        assert_eq!(path("/boot", b""), b"/boot");
        assert_eq!(path("/boot", b"grub/x"), b"/boot/grub/x");
    }
}
