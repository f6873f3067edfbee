//! `copy`: a file or tree inside the guest, with everything that belongs to it.
//!
//! It does not know how one file is copied; `root` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::error::{GuestError, shown};
use super::root::{GuestRoot, Meta, name_of};
use crate::recipe::Move;

const COPY: &str = "copy";

/// `copy`: as `cp -a` does it. Where `to` is a directory, the copy is made in it. Trees are merged;
/// a file or link that is in the way is replaced, and never followed.
///
/// # Errors
/// Where nothing is at `from`, the directory of `to` is missing, a directory is to replace something
/// else or the other way round; [`GuestError::IntoItself`]; [`GuestError::OtherMount`] before
/// anything is written.
pub fn copy(root: &GuestRoot, step: &Move) -> Result<(), GuestError> {
    let from = Path::new(step.from.as_str());
    let top = root.place(COPY, from)?;
    top.expect(COPY)?;
    let to = Path::new(step.to.as_str());
    let to = if root.is_directory(to) { to.join(top.name()) } else { to.to_owned() };
    let target = root.place(COPY, &to)?;

    // All of it is found before anything is made, so a copy can never find itself.
    let mut found: Vec<(PathBuf, Meta)> = Vec::new();
    top.walk(COPY, &mut |place, meta| {
        let below = place.path().strip_prefix(top.path()).unwrap_or(Path::new(""));
        found.push((below.to_owned(), *meta));
        Ok(())
    })?;
    let parent = to.parent().unwrap_or(Path::new("/"));
    let taken = [root.stat(parent)?, target.meta(COPY)?];
    if found.iter().any(|(_, meta)| taken.iter().flatten().any(|to| to.inode == meta.inode)) {
        return Err(GuestError::IntoItself { from: shown(from), to: shown(&to) });
    }

    let at = |top: &Path, below: &Path| {
        let path = if below.as_os_str().is_empty() { top.to_owned() } else { top.join(below) };
        root.place(COPY, path)
    };
    let mut names: BTreeMap<(u64, u64), &Path> = BTreeMap::new();
    for (below, meta) in &found {
        let target = at(&to, below)?;
        if meta.kind == FileType::Directory {
            match target.meta(COPY)?.map(|there| there.kind) {
                None => target.make_directory(COPY)?,
                Some(FileType::Directory) => {}
                Some(kind) => {
                    let (path, found) = (shown(target.path()), name_of(kind));
                    let expected = "a directory";
                    return Err(GuestError::Type { operation: COPY, path, found, expected });
                }
            }
            continue;
        }
        if meta.links > 1 {
            if let Some(first) = names.get(&meta.inode) {
                at(&to, first)?.hard_link(COPY, &target)?;
                continue;
            }
            names.insert(meta.inode, below);
        }
        at(from, below)?.copy_to(COPY, &target)?;
    }
    // What is put into a directory changes its times.
    for (below, _) in found.iter().rev().filter(|(_, meta)| meta.kind == FileType::Directory) {
        at(from, below)?.copy_attributes(COPY, &at(&to, below)?)?;
    }
    Ok(())
}
