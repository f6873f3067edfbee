//! Files of the workspace that steps read: their digests, and private copies for those that run.
//!
//! Only what decides the image counts: names, types, content, link targets, and of the mode whether
//! a file may be executed and whether it is private. The rest of a mode is the umask of whoever
//! checked the files out, and owners are never carried over. What a step does with an input is not
//! known here.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use walkdir::WalkDir;

use crate::causes;
use crate::digest::{Digest, Hasher};
use crate::files::{self, Context, FileError, Stamp};
use crate::mistake::Mistake;
use crate::source::Span;

/// Most files and directories in one input.
const MAX_ENTRIES: usize = 1_000_000;

/// A hashed file or tree of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Where it lies.
    pub path: PathBuf,
    /// Its own name.
    pub name: OsString,
    /// Over names, types, modes and content of everything in it, its own name excepted.
    pub tree: Digest,
    /// Over the bytes of a single file; `None` for a directory.
    pub content: Option<Digest>,
    /// A single file as it was before it was hashed.
    pub stamp: Option<Stamp>,
}

/// Why an input cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum InputError {
    /// There is nothing.
    #[error("`{}` does not exist", path.display())]
    #[diagnostic(
        code(kiln::inputs::missing),
        help("paths are relative to the recipe's own directory")
    )]
    Missing {
        /// The path as written, from the workspace's root.
        path: PathBuf,
    },
    /// It is not below the workspace's root.
    #[error("`{}` leads out of the workspace", path.display())]
    #[diagnostic(
        code(kiln::inputs::leads_out),
        help("a recipe may only read files of its workspace; copy the file there")
    )]
    LeadsOut {
        /// The path as written, from the workspace's root.
        path: PathBuf,
    },
    /// A directory where a file is needed.
    #[error("`{}` is not a regular file", path.display())]
    #[diagnostic(
        code(kiln::inputs::not_a_file),
        help("name one file; `copy-in` takes directories")
    )]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A socket, a device or a FIFO.
    #[error("`{}` is neither a file nor a directory nor a link", path.display())]
    #[diagnostic(code(kiln::inputs::special), help("take it out of the tree"))]
    Special {
        /// The path.
        path: PathBuf,
    },
    /// More than can be meant.
    #[error("`{}` holds more than {MAX_ENTRIES} files", path.display())]
    #[diagnostic(code(kiln::inputs::too_many), help("name a smaller directory"))]
    TooMany {
        /// The path.
        path: PathBuf,
    },
    /// Its content is no longer what the plan saw.
    #[error("`{}` changed while the image was being built", path.display())]
    #[diagnostic(code(kiln::inputs::changed), help("build again"))]
    Changed {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be read or copied.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
}

impl InputError {
    /// The same as a mistake of the recipe that names the input there.
    #[must_use]
    pub fn mistake(&self, span: Span) -> Mistake {
        let code = match self {
            Self::Missing { .. } => "kiln::inputs::missing",
            Self::LeadsOut { .. } => "kiln::inputs::leads_out",
            Self::NotAFile { .. } => "kiln::inputs::not_a_file",
            Self::Special { .. } => "kiln::inputs::special",
            Self::TooMany { .. } => "kiln::inputs::too_many",
            Self::Changed { .. } => "kiln::inputs::changed",
            Self::File(_) => "kiln::inputs::unreadable",
        };
        Mistake::at(span, code, causes::in_one_line(self), "named here")
            .maybe_help(miette::Diagnostic::help(self).map(|help| help.to_string()))
    }
}

/// Hashes a file or tree. `relative` is its path from `root`, which it may not leave, also not
/// through a link on the way; links inside a tree are taken as links.
///
/// # Errors
/// See [`InputError`].
pub fn hash(root: &Path, relative: &Path) -> Result<Input, InputError> {
    let path = resolve(root, relative)?;
    let name = relative.file_name().unwrap_or_default().to_owned();
    let meta = fs::symlink_metadata(&path).context("look at", &path)?;
    if meta.is_file() {
        let stamp = Stamp::of(&path);
        let content = hash_file(&path)?;
        let mut hasher = tree_hasher();
        feed(&mut hasher, b"", &Entry { kind: Kind::File(content), mode: class(&meta) });
        return Ok(Input { path, name, tree: hasher.finish(), content: Some(content), stamp });
    }
    if !meta.is_dir() {
        return Err(InputError::Special { path });
    }
    let tree = hash_tree(&path)?;
    Ok(Input { path, name, tree, content: None, stamp: None })
}

/// The same for something that must be one file.
///
/// # Errors
/// See [`InputError`].
pub fn hash_one(root: &Path, relative: &Path) -> Result<Input, InputError> {
    let input = hash(root, relative)?;
    if input.content.is_none() {
        return Err(InputError::NotAFile { path: relative.to_owned() });
    }
    Ok(input)
}

/// The path without links of a file of the workspace.
///
/// # Errors
/// Where there is none, or it leads out of `root`.
pub fn resolve(root: &Path, relative: &Path) -> Result<PathBuf, InputError> {
    let directory = File::open(root).context("open", root)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let path = relative.to_owned();
    match rustix::fs::openat2(&directory, relative, flags, Mode::empty(), resolve) {
        Ok(fd) => {
            let link = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            Ok(fs::read_link(&link).context("find", &path)?)
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Err(InputError::Missing { path }),
        Err(Errno::XDEV | Errno::LOOP) => Err(InputError::LeadsOut { path }),
        Err(error) => Err(error).context("open", &path)?,
    }
}

enum Kind {
    File(Digest),
    Directory,
    Link(PathBuf),
}

struct Entry {
    kind: Kind,
    mode: u32,
}

/// The mode that a copy gets: what a checkout carries, and no more.
fn class(meta: &fs::Metadata) -> u32 {
    let private = meta.mode().trailing_zeros() >= 6;
    let program = meta.is_dir() || meta.mode() & 0o100 != 0;
    match (private, program) {
        (false, false) => 0o644,
        (false, true) => 0o755,
        (true, false) => 0o600,
        (true, true) => 0o700,
    }
}

fn tree_hasher() -> Hasher {
    Hasher::new("kiln 2026-11 input tree v1")
}

fn feed(hasher: &mut Hasher, path: &[u8], entry: &Entry) {
    hasher.bytes(path);
    match &entry.kind {
        Kind::File(content) => hasher.number(1).number(entry.mode.into()).raw(content.as_bytes()),
        Kind::Directory => hasher.number(2).number(entry.mode.into()),
        Kind::Link(target) => hasher.number(3).bytes(target.as_os_str().as_bytes()),
    };
}

/// Everything below a directory, in the order of the names' bytes, which no locale changes.
fn entries(root: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>, InputError> {
    let mut found = Vec::new();
    for entry in WalkDir::new(root).follow_links(false) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            let source = error.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into());
            FileError { doing: "walk", path, source }
        })?;
        let meta = entry.metadata().map_err(io::Error::from).context("look at", entry.path())?;
        let relative = entry.path().strip_prefix(root).unwrap_or(Path::new("")).to_owned();
        found.push((relative, meta));
        if found.len() > MAX_ENTRIES {
            return Err(InputError::TooMany { path: root.to_owned() });
        }
    }
    found.sort_by(|(a, _), (b, _)| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(found)
}

fn hash_tree(root: &Path) -> Result<Digest, InputError> {
    let hashed: Vec<(PathBuf, Entry)> = entries(root)?
        .into_par_iter()
        .map(|(relative, meta)| {
            let path = root.join(&relative);
            let kind = if meta.is_file() {
                Kind::File(hash_file(&path)?)
            } else if meta.is_dir() {
                Kind::Directory
            } else if meta.is_symlink() {
                Kind::Link(fs::read_link(&path).context("read", &path)?)
            } else {
                return Err(InputError::Special { path });
            };
            Ok((relative, Entry { kind, mode: class(&meta) }))
        })
        .collect::<Result<_, InputError>>()?;
    let mut hasher = tree_hasher();
    for (relative, entry) in &hashed {
        feed(&mut hasher, relative.as_os_str().as_bytes(), entry);
    }
    Ok(hasher.finish())
}

/// Hashes a file's bytes; a large one on every core.
fn hash_file(path: &Path) -> Result<Digest, FileError> {
    const LARGE: u64 = 1 << 20;
    let mut file = open_regular(path)?;
    let len = file.metadata().context("look at", path)?.len();
    if len >= LARGE {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path).context("read", path)?;
        return Ok(hasher.finalize().into());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context("read", path)?;
    Ok(Digest::of(&bytes))
}

/// Never waits, should the file have become a FIFO since it was looked at.
fn open_regular(path: &Path) -> Result<File, FileError> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .context("open", path)
}

/// Copies an input below `directory`, which exists and is empty, under its own name, and makes sure
/// that the copy is what was hashed.
///
/// # Errors
/// [`InputError::Changed`] where it is not; what else can fail.
pub fn snapshot(input: &Input, directory: &Path) -> Result<PathBuf, InputError> {
    let target = directory.join(&input.name);
    if input.content.is_some() {
        let meta = fs::symlink_metadata(&input.path).context("look at", &input.path)?;
        copy_file(&input.path, &target, class(&meta))?;
    } else {
        for (relative, meta) in entries(&input.path)? {
            let (from, to) = (input.path.join(&relative), target.join(&relative));
            if meta.is_dir() {
                files::make_directory(&to, 0o700)?;
                set_mode(&to, class(&meta))?;
            } else if meta.is_file() {
                copy_file(&from, &to, class(&meta))?;
            } else if meta.is_symlink() {
                let link = fs::read_link(&from).context("read", &from)?;
                std::os::unix::fs::symlink(link, &to).context("make", &to)?;
            } else {
                return Err(InputError::Special { path: from });
            }
        }
    }
    let copy = hash(directory, Path::new(&input.name))?;
    if copy.tree != input.tree {
        return Err(InputError::Changed { path: input.path.clone() });
    }
    Ok(target)
}

fn copy_file(from: &Path, to: &Path, mode: u32) -> Result<(), FileError> {
    let mut source = open_regular(from)?;
    let mut target = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .context("create", to)?;
    io::copy(&mut source, &mut target).context("copy", from)?;
    target.flush().context("write", to)?;
    set_mode(to, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("change the mode of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("site/empty")).unwrap();
        fs::write(root.join("site/index.html"), "hello").unwrap();
        std::os::unix::fs::symlink("index.html", root.join("site/home")).unwrap();
        fs::write(root.join("script"), "#!/bin/sh\n").unwrap();
        directory
    }

    fn tree(root: &Path, path: &str) -> Digest {
        hash(root, Path::new(path)).unwrap().tree
    }

    #[test]
    fn every_change_of_meaning_shows() {
        let directory = workspace();
        let root = directory.path();
        let before = tree(root, "site");
        let mut seen = vec![before];
        let mut changed = |what: &str| {
            let now = tree(root, "site");
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        fs::write(root.join("site/index.html"), "hellO").unwrap();
        changed("content");
        set_mode(&root.join("site/index.html"), 0o755).unwrap();
        changed("may be executed");
        set_mode(&root.join("site/index.html"), 0o600).unwrap();
        changed("is private");
        fs::remove_dir(root.join("site/empty")).unwrap();
        changed("an empty directory");
        fs::rename(root.join("site/index.html"), root.join("site/index2.html")).unwrap();
        changed("a name");
        fs::remove_file(root.join("site/home")).unwrap();
        std::os::unix::fs::symlink("elsewhere", root.join("site/home")).unwrap();
        changed("the target of a link");
    }

    #[test]
    fn what_means_nothing_does_not_show() {
        let directory = workspace();
        let root = directory.path();
        let before = tree(root, "site");
        set_mode(&root.join("site/index.html"), 0o664).unwrap();
        set_mode(&root.join("site"), 0o775).unwrap();
        let file = File::options().write(true).open(root.join("site/index.html")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(tree(root, "site"), before);
        fs::rename(root.join("site"), root.join("other")).unwrap();
        assert_eq!(tree(root, "other"), before);
    }

    #[test]
    fn nothing_leads_out() {
        let directory = workspace();
        let root = directory.path();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        std::os::unix::fs::symlink("script", root.join("inside")).unwrap();
        for path in ["link/passwd", "../outside", "/etc/passwd", "site/../../outside"] {
            let result = hash(root, Path::new(path));
            assert!(matches!(result, Err(InputError::LeadsOut { .. })), "{path}: {result:?}");
        }
        assert!(matches!(hash(root, Path::new("none")), Err(InputError::Missing { .. })));
        assert!(hash(root, Path::new("inside")).is_ok());
    }

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        let directory = workspace();
        let fifo = directory.path().join("site/fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let result = hash(directory.path(), Path::new("site"));
        assert!(matches!(result, Err(InputError::Special { .. })), "{result:?}");
    }

    #[test]
    fn a_snapshot_is_what_was_hashed() {
        let directory = workspace();
        let root = directory.path();
        let copies = tempfile::tempdir().unwrap();
        let input = hash(root, Path::new("site")).unwrap();
        let copy = snapshot(&input, copies.path()).unwrap();
        assert_eq!(fs::read_link(copy.join("home")).unwrap(), Path::new("index.html"));
        fs::write(root.join("site/index.html"), "HELLO").unwrap();
        let again = tempfile::tempdir().unwrap();
        let result = snapshot(&input, again.path());
        assert!(matches!(result, Err(InputError::Changed { .. })), "{result:?}");
    }
}
