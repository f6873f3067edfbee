//! How an audit reads a guest's files: within bounds, and with a word for what it cannot read.
//!
//! What the files mean is not known here.

use super::{LIMIT, NAMED};
use crate::guest::GuestError;
use crate::guest::root::GuestRoot;

/// Most paths that a pattern may match. Real guests have a few hundred files in a directory at most.
const MOST_PATHS: usize = 4096;

/// Why a look came to no verdict.
#[derive(Debug)]
pub(super) enum Unclear {
    /// A file cannot be read.
    Guest(GuestError),
    /// A file is there, and what it means cannot be told.
    Meaning(String),
}

impl From<GuestError> for Unclear {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

/// What a look came to.
pub(super) type Look<T> = Result<T, Unclear>;

/// The text of a guest's file; `None` where nothing is. Bytes that are no UTF-8 are replaced.
pub(super) fn text(root: &GuestRoot, path: &str) -> Look<Option<String>> {
    text_within(root, path, LIMIT)
}

/// The same for a file that has at most so many bytes.
pub(super) fn text_within(root: &GuestRoot, path: &str, limit: u64) -> Look<Option<String>> {
    let bytes = root.read_if_there(path, limit)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The paths that match, sorted.
pub(super) fn matching(root: &GuestRoot, pattern: &str) -> Look<Vec<String>> {
    let (mut found, mut more) = (Vec::new(), false);
    root.glob("look for", pattern, &mut |place| {
        if found.len() < MOST_PATHS {
            found.push(place.path().to_string_lossy().into_owned());
        } else {
            more = true;
        }
        Ok(())
    })?;
    if more {
        let why = format!("more than {MOST_PATHS} files match `{pattern}`");
        return Err(Unclear::Meaning(why));
    }
    found.sort();
    Ok(found)
}

/// The first of some texts, and how many more there are.
pub(super) fn some(texts: &[String]) -> String {
    let shown: Vec<_> =
        texts.iter().take(NAMED).map(|text| format!("`{}`", text.escape_debug())).collect();
    match texts.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Whether the link at a path leads to `/dev/null`, by which a file of a lower directory is hidden.
pub(super) fn is_hidden(root: &GuestRoot, path: &str) -> Look<bool> {
    let target = root.read_link(path)?;
    Ok(target.is_some_and(|target| target == std::path::Path::new("/dev/null")))
}
