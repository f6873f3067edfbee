//! Removes what belongs to nothing: logs, downloads that nobody goes on with, locks that nobody
//! holds, layers that were fetched in part and are whole or gone by now.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::inventory::{names, on_disk, state_of};
use super::lease::{self, Held};
use super::work::{self, ACTIONS};
use super::{Store, StoreError, lock};
use crate::digest::ActionKey;
use crate::files::{self, Context, FileError};

/// How long, in seconds, a log without a result stays, and a download that nobody went on with.
const LEFT: u64 = 7 * 24 * 60 * 60;

/// What was removed beside objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Logs of actions that have no result.
    pub logs: usize,
    /// Downloads that were broken off.
    pub downloads: usize,
    /// Locks that nobody held.
    pub locks: usize,
    /// Layers that were fetched in part.
    pub partial: usize,
    /// Refs of outputs that are gone.
    pub outputs: usize,
    /// Bytes of all these on disk.
    pub bytes: u64,
}

/// Sweeps.
pub(super) fn sweep(store: &Store, now: u64) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    logs(store, now, &mut swept)?;
    downloads(store, now, &mut swept)?;
    let locks = store.work().join(ACTIONS);
    for name in names(&locks)? {
        swept.locks += usize::from(lock::remove_free(&locks.join(name))?);
    }
    partial(store, &mut swept)?;
    outputs(store, &mut swept)?;
    store.refs().sweep()?;
    files::sweep(store.root())?;
    Ok(swept)
}

/// Whether a file was not written to for long; one that is gone was.
fn is_left(path: &Path, now: u64) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    let written = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    written.is_some_and(|written| now.saturating_sub(written.as_secs()) > LEFT)
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.context("remove", path),
    }
}

fn logs(store: &Store, now: u64, swept: &mut Swept) -> Result<(), StoreError> {
    let directory = store.root().join("logs");
    let results = store.results()?;
    for name in names(&directory)? {
        let path = directory.join(&name);
        let key = name.parse::<ActionKey>().ok();
        if key.is_some_and(|key| results.of_action(key).is_empty()) && is_left(&path, now) {
            swept.bytes += on_disk(&path);
            remove(&path)?;
            swept.logs += 1;
        }
    }
    Ok(())
}

fn downloads(store: &Store, now: u64, swept: &mut Swept) -> Result<(), StoreError> {
    let directory = work::downloads(store);
    for name in names(&directory)? {
        let path = directory.join(name);
        let ending = path.extension().unwrap_or_default();
        if ending == "part" && is_left(&path, now) {
            let bytes = on_disk(&path);
            // Whoever works on it has locked it.
            if lock::remove_free(&path)? {
                swept.downloads += 1;
                swept.bytes += bytes;
            }
        } else if ending == "tag" && !path.with_extension("part").exists() && is_left(&path, now) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes layers that were fetched in part, whose state nobody knows or which are whole by now.
fn partial(store: &Store, swept: &mut Swept) -> Result<(), StoreError> {
    let directory = store.partial();
    let files = names(&directory)?;
    if files.is_empty() {
        return Ok(());
    }
    let _alone = store.removing()?;
    let held: BTreeSet<Held> = lease::all(store)?;
    let results = store.results()?;
    for name in files {
        // What somebody else put there is not known here.
        let Some(state) = state_of(&name) else { continue };
        let needed = match results.placement(state) {
            Some(placement) => placement.data.is_some_and(|data| !store.objects().has(data)),
            None => held.contains(&Held::State(state)),
        };
        if !needed {
            let path = directory.join(name);
            swept.bytes += on_disk(&path);
            remove(&path)?;
            swept.partial += 1;
        }
    }
    Ok(())
}

fn outputs(store: &Store, swept: &mut Swept) -> Result<(), FileError> {
    for output in store.refs().outputs()? {
        let gone = fs::symlink_metadata(&output.path)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if gone {
            match store.refs().forget_output(&output.path) {
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                forgotten => forgotten?,
            }
            swept.outputs += 1;
        }
    }
    Ok(())
}
