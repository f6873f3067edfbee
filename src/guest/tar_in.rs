//! `tar-in`: an archive of the workspace, unpacked into a directory of the guest.
//!
//! It does not know the format, which is the reader's, nor how an archive is compressed.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use self::reader::{Archive, Entry, Kind};
use super::error::{GuestError, shown};
use super::files::{expect_directory, open_snapshot};
use super::program::Snapshot;
use super::root::{FileAttributes, GuestRoot, Place};
use super::users::Accounts;
use crate::compression;
use crate::recipe::CopyIn;

const UNPACK: &str = "unpack into";
/// The xattr of a directory that what is made in it inherits (acl(5), "OBJECT TYPES AND DEFAULT ACLs").
const INHERITED: &[u8] = b"system.posix_acl_default";
/// Largest sum of the default ACLs of an archive, in bytes: they are held until its end.
const LARGEST_INHERITED: usize = 16 << 20;

/// `tar-in`: everything that the archive holds, with the archive's modes, times, xattrs, and the
/// step's owners or else the archive's numbers. Directories that are there keep what they have,
/// links to them are followed inside the guest, and files and links are replaced.
///
/// # Errors
/// Where the directory is missing; [`GuestError::Archive`] for one that is damaged or of another
/// kind; [`GuestError::ArchiveEntry`] for an entry that leads out of the directory.
pub fn tar_in(root: &GuestRoot, step: &CopyIn<Snapshot>) -> Result<(), GuestError> {
    let wanted = Accounts::load(root)?.attributes(&step.attributes)?;
    let into = Path::new(step.destination.as_str());
    expect_directory(root, UNPACK, into)?;
    let damaged = |source| GuestError::Archive { path: shown(step.source.path.as_path()), source };
    let file = open_snapshot(&step.source)?;
    let mut archive = Archive::new(compression::reader(file).map_err(damaged)?);
    let (made, links) = (BTreeMap::new(), BTreeSet::new());
    let mut unpacking = Unpacking { root, into, wanted, made, held: 0, links, damaged: &damaged };
    while let Some(entry) = archive.next().map_err(damaged)? {
        unpacking.entry(entry, &mut archive)?;
    }
    archive.finish().map_err(damaged)?;
    unpacking.finish()
}

/// An archive on its way into a directory.
struct Unpacking<'a> {
    root: &'a GuestRoot,
    into: &'a Path,
    wanted: FileAttributes,
    /// Directories that were made, below `into`.
    made: BTreeMap<PathBuf, Later>,
    /// Bytes of default ACLs in `made`.
    held: usize,
    /// Links that were made: no later entry may go through one.
    links: BTreeSet<PathBuf>,
    /// What the archive's own failure becomes.
    damaged: &'a dyn Fn(io::Error) -> GuestError,
}

/// What a directory gets when everything is in it. Archives are large, and nothing else is held.
#[derive(Default)]
struct Later {
    /// In seconds and nanoseconds; `None` where no entry came for it.
    modified: Option<(i64, u32)>,
    default_acl: Option<Vec<u8>>,
}

/// An archive that keeps the error with which reading it ends, to tell it from those of writing.
struct Watched<'a, R> {
    archive: &'a mut Archive<R>,
    failure: &'a mut Option<io::Error>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.archive.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                *self.failure = Some(error);
            }
            kind.into()
        })
    }
}

impl Unpacking<'_> {
    fn entry(&mut self, entry: Entry, archive: &mut Archive<impl Read>) -> Result<(), GuestError> {
        let below = self.inside(&entry.path, &entry)?;
        if below.as_os_str().is_empty() {
            // The directory itself, which was there before.
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(refused(&entry, "it has no name")),
            };
        }
        self.make_parents(&below)?;
        let path = self.into.join(&below);
        if entry.kind == Kind::Directory {
            if !self.root.is_directory(&path) {
                self.make_directory(&below)?;
            }
            if self.made.contains_key(&below) {
                self.directory(below, entry)?;
            }
            return Ok(());
        }
        let place = self.root.place(UNPACK, &path)?;
        self.links.remove(&below);
        match entry.kind {
            Kind::File => {
                if place.read_link(UNPACK)?.is_some() {
                    place.unlink(UNPACK)?;
                }
                let owners = self.attributes(&entry);
                let mut failure = None;
                let mut bytes = Watched { archive, failure: &mut failure };
                place
                    .replace(UNPACK, owners, false, |to| io::copy(&mut bytes, to).map(drop))
                    .map_err(|error| failure.map_or(error, self.damaged))?;
            }
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(refused(&entry, "the link leads nowhere"));
                }
                place.symlink(UNPACK, Path::new(std::ffi::OsStr::from_bytes(&entry.link)))?;
                self.links.insert(below);
            }
            Kind::HardLink => {
                let target = self.inside(&entry.link, &entry)?;
                self.root.place(UNPACK, self.into.join(&target))?.hard_link(UNPACK, &place)?;
                if self.links.contains(&target) {
                    self.links.insert(below);
                }
                // It is a name of a file that has its attributes.
                return Ok(());
            }
            Kind::Fifo => place.make_node(UNPACK, FileType::Fifo, (0, 0))?,
            Kind::CharacterDevice(major, minor) => {
                place.make_node(UNPACK, FileType::CharacterDevice, (major, minor))?;
            }
            Kind::BlockDevice(major, minor) => {
                place.make_node(UNPACK, FileType::BlockDevice, (major, minor))?;
            }
            Kind::Directory => unreachable!("made above"),
        }
        self.finish_one(&place, &entry)
    }

    /// The path below the directory that an archive's path means.
    fn inside(&self, path: &[u8], entry: &Entry) -> Result<PathBuf, GuestError> {
        if path.starts_with(b"/") {
            return Err(refused(entry, "its path is absolute"));
        }
        let mut below = PathBuf::new();
        for part in path.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(refused(entry, "there is a `..` in its path")),
                _ if part.contains(&0) => return Err(refused(entry, "there is a NUL in its path")),
                _ => {}
            }
            if self.links.contains(&below) {
                let why = "its path leads through a symbolic link of the same archive";
                return Err(refused(entry, why));
            }
            below.push(std::ffi::OsStr::from_bytes(part));
        }
        Ok(below)
    }

    /// Makes the directories that an entry lies in, for an archive that does not name them before.
    fn make_parents(&mut self, below: &Path) -> Result<(), GuestError> {
        let parents: Vec<_> = below.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev().skip(1) {
            if !self.root.is_directory(self.into.join(parent)) {
                self.make_directory(parent)?;
            }
        }
        Ok(())
    }

    fn make_directory(&mut self, below: &Path) -> Result<(), GuestError> {
        let path = self.into.join(below);
        let place = self.root.place(UNPACK, &path)?;
        if place.meta(UNPACK)?.is_some() {
            expect_directory(self.root, UNPACK, &path)?;
        }
        place.make_directory(UNPACK)?;
        place.chown(UNPACK, self.wanted.uid, self.wanted.gid)?;
        self.made.insert(below.to_owned(), Later::default());
        Ok(())
    }

    /// Gives a directory that was made what its entry says, but for what has to come last.
    fn directory(&mut self, below: PathBuf, mut entry: Entry) -> Result<(), GuestError> {
        let place = self.root.place(UNPACK, self.into.join(&below))?;
        let inherited = entry.xattrs.iter().position(|(name, _)| name == INHERITED);
        let default_acl = inherited.map(|at| entry.xattrs.swap_remove(at).1);
        self.held += default_acl.as_ref().map_or(0, Vec::len);
        if self.held > LARGEST_INHERITED {
            let why = "the default ACLs of its directories are larger than 16 MiB";
            return Err((self.damaged)(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        self.finish_one(&place, &entry)?;
        self.made.insert(below, Later { modified: Some(entry.modified), default_acl });
        Ok(())
    }

    fn attributes(&self, entry: &Entry) -> FileAttributes {
        self.wanted.or(FileAttributes {
            uid: Some(entry.uid),
            gid: Some(entry.gid),
            mode: Some(entry.mode),
        })
    }

    /// Owner, mode, xattrs and time of what was made. The owner goes first, as chown(2) clears
    /// set-id bits and capabilities.
    fn finish_one(&self, place: &Place, entry: &Entry) -> Result<(), GuestError> {
        let attributes = self.attributes(entry);
        if entry.kind != Kind::File {
            place.chown(UNPACK, attributes.uid, attributes.gid)?;
        }
        for (name, value) in &entry.xattrs {
            place.set_xattr(UNPACK, name, value)?;
        }
        if !matches!(entry.kind, Kind::Symlink | Kind::File) {
            place.chmod(UNPACK, entry.mode)?;
        }
        place.set_modified(UNPACK, entry.modified)
    }

    /// What is put into a directory changes its time, and inherits its default ACL, so these come
    /// last, inner directories first.
    fn finish(self) -> Result<(), GuestError> {
        for (below, later) in self.made.iter().rev() {
            let place = self.root.place(UNPACK, self.into.join(below))?;
            if let Some(acl) = &later.default_acl {
                place.set_xattr(UNPACK, INHERITED, acl)?;
            }
            if let Some(modified) = later.modified {
                place.set_modified(UNPACK, modified)?;
            }
        }
        Ok(())
    }
}

fn refused(entry: &Entry, why: &'static str) -> GuestError {
    let path = Path::new(std::ffi::OsStr::from_bytes(&entry.path));
    GuestError::ArchiveEntry { entry: shown(path), why }
}
