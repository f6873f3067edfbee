//! Whole trees of a guest: walking and removing them, at any depth, with few open descriptors.
//!
//! It knows no file by its meaning. No link is followed and no mount point crossed.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::meta::Meta;
use super::place::Place;
use super::{names, resolve};
use crate::guest::error::{GuestError, shown};

/// Longest path below the top that is opened in one call; Linux's limit is 4095 bytes, and a name
/// of at most 255 is added to it.
const MAX_BELOW: usize = 3500;

/// The ways in which a directory of a tree is opened: never through a link or a mount point.
fn within() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV
}

fn fail(operation: &'static str, path: &Path, errno: Errno) -> GuestError {
    if errno == Errno::XDEV {
        return GuestError::OtherMount { operation, path: shown(path) };
    }
    GuestError::path(operation, path, errno)
}

/// The path in the guest of what is `below` the top, without a slash at its end.
fn path_of(top: &Place, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { top.path().to_owned() } else { top.path().join(below) }
}

/// Opens the directory `below` in the tree whose top is the directory at `top`.
fn open_below(top: &Place, below: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    resolve(top.directory(), &Path::new(top.name()).join(below), flags, within())
}

/// What a walk does where another file system is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtMount {
    /// It fails.
    Refuse,
    /// It goes on in there.
    Enter,
}

/// See [`Place::walk`] and [`Place::walk_with_mounts`].
pub(super) fn walk(
    top: &Place,
    operation: &'static str,
    at_mount: AtMount,
    visit: &mut dyn FnMut(&Place, &Meta) -> Result<(), GuestError>,
) -> Result<(), GuestError> {
    let meta = top.expect(operation)?;
    visit(top, &meta)?;
    if meta.kind != FileType::Directory {
        return Ok(());
    }
    // The top may be a mount point itself: it was named.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = top.open(flags).map_err(|errno| fail(operation, top.path(), errno))?;
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(below) = waiting.pop() {
        let path = path_of(top, below.strip_prefix(".").unwrap_or(&below));
        let failed = |errno| fail(operation, &path, errno);
        let within_top = |below: &Path, flags| {
            let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            resolve(opened.as_fd(), below, flags, within())
        };
        let directory = match within_top(&below, OFlags::RDONLY) {
            Err(Errno::XDEV) if at_mount == AtMount::Enter => {
                let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else {
                    return Err(failed(Errno::XDEV));
                };
                let parent = Arc::new(within_top(parent, OFlags::PATH).map_err(failed)?);
                let mounted = Place::new(parent, path.parent().unwrap_or(top.path()), name);
                // Its top has been visited, as a directory of this file system.
                let mut first = true;
                walk(&mounted, operation, at_mount, &mut |place, meta| {
                    if std::mem::take(&mut first) { Ok(()) } else { visit(place, meta) }
                })?;
                continue;
            }
            opened => opened.map_err(failed)?,
        };
        let found = names(directory.as_fd()).map_err(failed)?;
        let directory = Arc::new(directory);
        // The stack gives back what was put last, and the walk is in the order of names.
        let first = waiting.len();
        for name in found {
            let place = Place::new(Arc::clone(&directory), &path, &name);
            let Some(meta) = place.meta(operation)? else { continue };
            visit(&place, &meta)?;
            if meta.kind == FileType::Directory {
                waiting.push(below.join(&name));
            }
        }
        waiting[first..].reverse();
    }
    Ok(())
}

/// See [`Place::remove`].
pub(super) fn remove(top: &Place, operation: &'static str) -> Result<bool, GuestError> {
    let Some(meta) = top.meta(operation)? else { return Ok(false) };
    if meta.kind != FileType::Directory {
        return top.unlink(operation);
    }
    let mut waiting = vec![PathBuf::new()];
    let mut emptied = Vec::new();
    let mut lifted = 0_u32;
    while let Some(below) = waiting.pop() {
        let path = path_of(top, &below);
        let failed = |errno| fail(operation, &path, errno);
        let directory = open_below(top, &below).map_err(failed)?;
        for name in names(directory.as_fd()).map_err(failed)? {
            let inside = path.join(&name);
            let failed = |errno| fail(operation, &inside, errno);
            match rustix::fs::unlinkat(&directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) if below.as_os_str().as_bytes().len() < MAX_BELOW => {
                    waiting.push(below.join(&name));
                }
                // Too deep for one call: the rest of the branch is lifted to the top.
                Err(Errno::ISDIR) => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let shallow = resolve(top.directory(), Path::new(top.name()), flags, within())
                        .map_err(failed)?;
                    let name_there = format!(".kiln-{lifted}.lifted");
                    rustix::fs::renameat(&directory, &name, &shallow, &name_there)
                        .map_err(failed)?;
                    lifted += 1;
                    waiting.push(PathBuf::from(name_there));
                }
                Err(Errno::BUSY) => return Err(failed(Errno::XDEV)),
                Err(errno) => return Err(failed(errno)),
            }
        }
        emptied.push(below);
    }
    for below in emptied.into_iter().rev() {
        let path = path_of(top, &below);
        let failed = |errno| fail(operation, &path, errno);
        let Some(name) = below.file_name() else {
            rustix::fs::unlinkat(top.directory(), top.name(), AtFlags::REMOVEDIR)
                .map_err(failed)?;
            continue;
        };
        let parent = open_below(top, below.parent().unwrap_or(Path::new(""))).map_err(failed)?;
        rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed)?;
    }
    Ok(true)
}
