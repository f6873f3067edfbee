//! Leases in a directory that several hosts may share: a link that two cannot make.
//!
//! It knows files and links, also over a network file system, where `link` is what is atomic.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use super::backend::Claim;
use crate::files::{self, FileError};

/// Where files lie until they are whole.
pub(super) const INCOMING: &str = "incoming";
/// Age after which nobody can still be writing one of them.
const STALE: Duration = Duration::from_hours(24);

/// Takes the lease at a path, by way of a file with a name that nobody else has; tells who has it
/// where somebody does. A file system without links cannot hold leases.
pub(super) fn claim(path: &Path, own: &str, lease: &[u8], limit: u64) -> io::Result<Claim> {
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let own = directory.join(format!(".{own}"));
    fs::write(&own, lease)?;
    let linked = fs::hard_link(&own, path);
    fs::remove_file(&own)?;
    match linked {
        Ok(()) => Ok(Claim::Taken),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => held(path, lease, limit),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                Ok(Claim::Impossible)
            }
            _ => Err(error),
        },
    }
}

/// Whose lease is there.
fn held(path: &Path, lease: &[u8], limit: u64) -> io::Result<Claim> {
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Ok(file) => file.take(limit).read_to_end(&mut bytes)?,
        // Given back since: it is there for the next one who asks.
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    // Over a network the answer to a link may be lost, and the link asked for again.
    Ok(if bytes == lease { Claim::Taken } else { Claim::Held(bytes) })
}

/// Prepares a directory that is there for writing, and removes what was left half written there.
///
/// # Errors
/// Where it cannot be written to.
pub(super) fn prepare(root: &Path) -> Result<(), FileError> {
    use crate::files::Context as _;
    let incoming = root.join(INCOMING);
    files::make_directory(&incoming, 0o777)?;
    for entry in walkdir::WalkDir::new(&incoming).min_depth(1) {
        let Ok(entry) = entry else { continue };
        let age = |meta: fs::Metadata| SystemTime::now().duration_since(meta.modified().ok()?).ok();
        let stale = entry.metadata().ok().filter(fs::Metadata::is_file).and_then(age);
        if stale.is_some_and(|age| age > STALE) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result.context("remove", entry.path())?,
            }
        }
    }
    Ok(())
}
