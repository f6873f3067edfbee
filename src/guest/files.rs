//! Steps on files: write, append, copy, make, remove, move, link, modes, owners, times.
//!
//! It does not know what the files mean to the guest.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::{GuestError, shown};
use super::program::Snapshot;
use super::root::{FileAttributes, GuestRoot, Place, name_of};
use super::users::Accounts;
use crate::recipe::{AppendLine, Chmod, Chown, CopyIn, Delete, Link, Mkdir, Move, Paths, Write};

/// Largest file that a line is appended to, in bytes: it is rewritten whole.
const LARGEST_EDIT: u64 = 64 << 20;
/// How much of a file is looked at to find its line ending.
const LOOKED_AT: usize = 8 << 10;

/// `write`: exactly these bytes. A link is followed; an existing file keeps owner, mode and xattrs
/// unless the step names them.
///
/// # Errors
/// Where the directory is missing, or something else than a file is there.
pub fn write(root: &GuestRoot, step: &Write) -> Result<(), GuestError> {
    let attributes = Accounts::load(root)?.attributes(&step.attributes)?;
    root.write_atomic(step.path.as_str(), step.content.as_bytes(), attributes)
}

/// `append-line`: a line at the end, with the file's own line ending, on a line of its own.
///
/// # Errors
/// Where the directory is missing, or something else than a file is there.
pub fn append_line(root: &GuestRoot, step: &AppendLine) -> Result<(), GuestError> {
    let path = step.path.as_str();
    let before = root.read_if_there(path, LARGEST_EDIT)?.unwrap_or_default();
    root.write_atomic(path, &with_line(before, step.line.as_bytes()), FileAttributes::default())
}

/// A text with one line more. CR LF is used where the first line of the text ends so.
pub(super) fn with_line(mut text: Vec<u8>, line: &[u8]) -> Vec<u8> {
    let first = text[..text.len().min(LOOKED_AT)].split_inclusive(|&byte| byte == b'\n').next();
    let ending: &[u8] = match first {
        Some(first) if first.ends_with(b"\r\n") => b"\r\n",
        _ => b"\n",
    };
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.extend_from_slice(ending);
    }
    text.extend_from_slice(line);
    text.extend_from_slice(ending);
    text
}

/// `upload`: one file to a path; its mode is the step's, or the source's permission bits.
///
/// # Errors
/// Where the directory is missing, a directory is at the path, or the source is no file.
pub fn upload(root: &GuestRoot, step: &CopyIn<Snapshot>) -> Result<(), GuestError> {
    let wanted = Accounts::load(root)?.attributes(&step.attributes)?;
    let place = root.place_following("upload", step.destination.as_str())?;
    let source = &step.source.path;
    let meta =
        source.symlink_metadata().map_err(|error| GuestError::snapshot("read", source, error))?;
    if !meta.is_file() {
        return Err(special(source, &meta));
    }
    copy_file("upload", source, &meta, &place, wanted)
}

/// `copy-in`: a file or tree into a directory that exists, under its own name. Trees are merged:
/// directories that are there keep their owner and mode, files are replaced, links to directories
/// are followed inside the guest.
///
/// # Errors
/// Where the directory is missing, a file is where a directory goes or the other way round, or the
/// source holds something else than files, directories and links.
pub fn copy_in(root: &GuestRoot, step: &CopyIn<Snapshot>) -> Result<(), GuestError> {
    const COPY: &str = "copy into";
    let wanted = Accounts::load(root)?.attributes(&step.attributes)?;
    let into = Path::new(step.destination.as_str());
    expect_directory(root, COPY, into)?;
    let name = step.source.name()?;
    let mut waiting: Vec<(PathBuf, PathBuf)> = vec![(step.source.path.clone(), into.join(name))];
    while let Some((source, target)) = waiting.pop() {
        let failed = |error| GuestError::snapshot("read", &source, error);
        let meta = source.symlink_metadata().map_err(failed)?;
        if meta.is_dir() {
            let mode = meta.permissions().mode() & 0o777;
            let attributes =
                FileAttributes { mode: Some(mode), ..wanted }.or(FileAttributes::root(mode));
            if !root.is_directory(&target) {
                let place = root.place(COPY, &target)?;
                if let Some(there) = place.meta(COPY)? {
                    let (path, found) = (shown(&target), name_of(there.kind));
                    return Err(GuestError::Type {
                        operation: COPY,
                        path,
                        found,
                        expected: "a directory",
                    });
                }
                place.make_directory(COPY)?;
                root.make_directories(&target, attributes)?;
            }
            let mut entries = Vec::new();
            for entry in fs::read_dir(&source).map_err(failed)? {
                entries.push(entry.map_err(failed)?.file_name());
            }
            entries.sort_unstable();
            waiting.extend(entries.iter().rev().map(|name| (source.join(name), target.join(name))));
        } else if meta.is_file() {
            let place = root.place(COPY, &target)?;
            if place.read_link(COPY)?.is_some() {
                place.unlink(COPY)?;
            }
            copy_file(COPY, &source, &meta, &place, FileAttributes { mode: None, ..wanted })?;
        } else if meta.is_symlink() {
            let text = fs::read_link(&source).map_err(failed)?;
            let place = root.place(COPY, &target)?;
            place.symlink(COPY, &text)?;
            place.chown(COPY, Some(wanted.uid.unwrap_or(0)), Some(wanted.gid.unwrap_or(0)))?;
        } else {
            return Err(special(&source, &meta));
        }
    }
    Ok(())
}

/// Fails where no directory is at a path, links followed.
pub(super) fn expect_directory(
    root: &GuestRoot,
    operation: &'static str,
    path: &Path,
) -> Result<(), GuestError> {
    match root.stat(path)? {
        Some(meta) if meta.kind == FileType::Directory => Ok(()),
        Some(meta) => {
            let (path, found) = (shown(path), name_of(meta.kind));
            Err(GuestError::Type { operation, path, found, expected: "a directory" })
        }
        None => Err(GuestError::path(operation, path, Errno::NOENT)),
    }
}

fn special(path: &Path, meta: &fs::Metadata) -> GuestError {
    let kind = FileType::from_raw_mode(meta.permissions().mode());
    GuestError::SnapshotType { path: shown(path), found: name_of(kind) }
}

/// Copies one file of the host; nothing but its bytes and its permission bits comes along.
fn copy_file(
    operation: &'static str,
    source: &Path,
    meta: &fs::Metadata,
    place: &Place,
    wanted: FileAttributes,
) -> Result<(), GuestError> {
    let failed = |error| GuestError::snapshot("open", source, error);
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("flags of open(2) fit an int");
    let mut from =
        fs::OpenOptions::new().read(true).custom_flags(flags).open(source).map_err(failed)?;
    let attributes = wanted.or(FileAttributes::root(meta.permissions().mode() & 0o777));
    place.replace(operation, attributes, false, |to| std::io::copy(&mut from, to).map(drop))
}

/// `mkdir`: a directory with its parents; one that is there is no error.
///
/// # Errors
/// Where something else than a directory is in the way.
pub fn mkdir(root: &GuestRoot, step: &Mkdir) -> Result<(), GuestError> {
    let attributes = Accounts::load(root)?.attributes(&step.attributes)?;
    root.make_directories(step.path.as_str(), attributes).map(drop)
}

/// `delete`: every path that matches, whole trees too; links are removed, not followed.
///
/// # Errors
/// [`GuestError::OtherMount`], [`GuestError::RootDirectory`]; the kernel's.
pub fn delete(root: &GuestRoot, step: &Delete) -> Result<(), GuestError> {
    for pattern in &step.patterns {
        root.glob("remove", pattern.as_str(), &mut |place| place.remove("remove").map(drop))?;
    }
    Ok(())
}

/// `move`: a rename, or into a directory that is there. A link is moved itself.
///
/// # Errors
/// Where nothing is at `from`, a full directory is in the way, or the two are on different file
/// systems.
pub fn rename(root: &GuestRoot, step: &Move) -> Result<(), GuestError> {
    const MOVE: &str = "move";
    let from = root.place(MOVE, step.from.as_str())?;
    from.expect(MOVE)?;
    let to = Path::new(step.to.as_str());
    let to = if root.is_directory(to) { to.join(from.name()) } else { to.to_owned() };
    from.rename(MOVE, &root.place(MOVE, to)?)
}

/// `link`: symbolic links to a target, which replace a file or a link.
///
/// # Errors
/// Where a directory is at a link's path, or its directory is missing.
pub fn link(root: &GuestRoot, step: &Link) -> Result<(), GuestError> {
    for link in &step.links {
        root.place("link", link.as_str())?.symlink("link", Path::new(&step.target))?;
    }
    Ok(())
}

/// `chmod`: permission bits of paths that exist; links are followed, inside the guest.
///
/// # Errors
/// Where nothing is there.
pub fn chmod(root: &GuestRoot, step: &Chmod) -> Result<(), GuestError> {
    const CHANGE: &str = "change the mode of";
    for path in &step.paths {
        let mode =
            FileAttributes { mode: Some(u32::from(step.mode.bits())), ..FileAttributes::default() };
        match root.stat(path.as_str())? {
            // A directory may be reached through a link that ends in `..` or be `/`, so it has no place.
            Some(meta) if meta.kind == FileType::Directory => {
                root.make_directories(path.as_str(), mode)?;
            }
            Some(_) => root
                .place_following(CHANGE, path.as_str())?
                .chmod(CHANGE, u32::from(step.mode.bits()))?,
            None => return Err(GuestError::path(CHANGE, path.as_str(), Errno::NOENT)),
        }
    }
    Ok(())
}

/// `chown`: owners of paths that exist, whole trees if the step says so; links are changed
/// themselves. As with chown(1), the kernel takes set-id bits from a file that gets a new owner.
///
/// # Errors
/// Where nothing is there, a name is unknown, or a tree holds a mount point.
pub fn chown(root: &GuestRoot, step: &Chown) -> Result<(), GuestError> {
    const CHANGE: &str = "change the owner of";
    let accounts = Accounts::load(root)?;
    let uid = step.owner.as_ref().map(|owner| accounts.uid(owner)).transpose()?;
    let gid = step.group.as_ref().map(|group| accounts.gid(group)).transpose()?;
    for path in &step.paths {
        let place = root.place(CHANGE, path.as_str())?;
        place.expect(CHANGE)?;
        if step.recursive {
            place.walk(CHANGE, &mut |place, _| place.chown(CHANGE, uid, gid))?;
        } else {
            place.chown(CHANGE, uid, gid)?;
        }
    }
    Ok(())
}

/// `touch`: an empty file of root's, 0644, where none is; else the times become now.
///
/// # Errors
/// Where the directory is missing.
pub fn touch(root: &GuestRoot, step: &Paths) -> Result<(), GuestError> {
    for path in &step.paths {
        if root.is_directory(path.as_str()) && path.split_last().is_none() {
            return Err(GuestError::RootDirectory { operation: "touch" });
        }
        let place = root.place_following("touch", path.as_str())?;
        if place.meta("touch")?.is_some() {
            place.touch("touch")?;
        } else {
            place.replace("touch", FileAttributes::default(), false, |_| Ok(()))?;
        }
    }
    Ok(())
}

/// `truncate`: a file that exists to no bytes; it stays the same inode.
///
/// # Errors
/// Where no regular file is there.
pub fn truncate(root: &GuestRoot, step: &Paths) -> Result<(), GuestError> {
    for path in &step.paths {
        root.place_following("truncate", path.as_str())?.truncate("truncate")?;
    }
    Ok(())
}

/// `truncate-recursive`: every regular file below directories to no bytes; links are not followed.
///
/// # Errors
/// Where no directory is there, or another file system is mounted below it.
pub fn truncate_recursive(root: &GuestRoot, step: &Paths) -> Result<(), GuestError> {
    const TRUNCATE: &str = "truncate the files below";
    for path in &step.paths {
        expect_directory(root, TRUNCATE, Path::new(path.as_str()))?;
        let top = root.place_following(TRUNCATE, path.as_str())?;
        top.walk(TRUNCATE, &mut |place, meta| {
            let full = meta.kind == FileType::RegularFile && meta.size > 0;
            if full { place.truncate(TRUNCATE) } else { Ok(()) }
        })?;
    }
    Ok(())
}

/// `scrub-file`: files whose bytes are overwritten with zeros, on the disk, before they are removed.
///
/// # Errors
/// Where no regular file is there, a link not followed; [`GuestError::HardLinked`] for one with
/// another name, under which the zeros would be found. Nothing is overwritten then.
pub fn scrub_file(root: &GuestRoot, step: &Paths) -> Result<(), GuestError> {
    const SCRUB: &str = "scrub";
    let mut places = Vec::new();
    for path in &step.paths {
        let place = root.place(SCRUB, path.as_str())?;
        let meta = place.expect(SCRUB)?;
        meta.expect_file(SCRUB, place.path())?;
        if meta.links > 1 {
            return Err(GuestError::HardLinked { path: shown(place.path()), names: meta.links });
        }
        places.push(place);
    }
    for place in places {
        place.zero(SCRUB)?;
        place.unlink(SCRUB)?;
    }
    Ok(())
}

/// Reads one workspace file whole, from kiln's private copy.
pub(super) fn read_snapshot(snapshot: &Snapshot, limit: u64) -> Result<Vec<u8>, GuestError> {
    use std::io::Read as _;
    let failed = |error| GuestError::snapshot("read", &snapshot.path, error);
    let mut file = open_snapshot(snapshot)?;
    let mut bytes = Vec::new();
    file.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(failed(Errno::FBIG.into()));
    }
    Ok(bytes)
}

/// Opens one workspace file, of kiln's private copy.
pub(super) fn open_snapshot(snapshot: &Snapshot) -> Result<fs::File, GuestError> {
    let path = &snapshot.path;
    let failed = |error| GuestError::snapshot("read", path, error);
    let meta = path.symlink_metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(special(path, &meta));
    }
    fs::File::open(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::with_line;

    #[test]
    fn a_line_takes_the_ending_of_the_file() {
        let table: &[(&[u8], &[u8])] = &[
            (b"", b"x\n"),
            (b"a\n", b"a\nx\n"),
            (b"a", b"a\nx\n"),
            (b"a\r\n", b"a\r\nx\r\n"),
            (b"a\r\nb", b"a\r\nb\r\nx\r\n"),
            (b"a\nb\r\n", b"a\nb\r\nx\n"),
        ];
        for (before, after) in table {
            assert_eq!(with_line(before.to_vec(), b"x"), *after);
        }
    }
}
