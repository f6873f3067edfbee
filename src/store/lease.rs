//! What a running build relies on, told to whoever collects garbage.
//!
//! A lease is the file `lease` in the directory of a build, locked by the build for as long as it
//! lives. Each line is `state ID` or `object ID`: something that no result may name yet, or that was
//! there before the build came. Lines are added while the lock `work/gc` is shared, and objects are
//! removed while it is held alone: so whatever is found *after* it was added to a lease stays. Nobody
//! holds `work/gc` for longer than a line takes.
//!
//! A lease need not be durable: after a power cut nobody relies on anything. One that is there counts,
//! whether its build lives or not; who cleans up behind killed builds removes it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Store;
use super::lock;
use super::site::Access;
use crate::digest::{ObjectId, StateId};
use crate::files::{Context, FileError, read_bounded};

/// The name of a lease in a build's directory.
pub(super) const NAME: &str = "lease";
/// The lock of those who collect garbage, in `work`.
pub(super) const GC: &str = "gc";
/// Largest lease in bytes: some two million lines.
const LIMIT: u64 = 128 << 20;

/// Something that must not be removed while it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    /// A state with its whole chain, and the results that lead to these states.
    State(StateId),
    /// An object.
    Object(ObjectId),
}

impl Held {
    fn line(self) -> String {
        match self {
            Self::State(id) => format!("state {id}\n"),
            Self::Object(id) => format!("object {id}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (kind, id) = line.split_once(' ')?;
        match kind {
            "state" => id.parse().ok().map(Self::State),
            "object" => id.parse().ok().map(Self::Object),
            _ => None,
        }
    }
}

/// The lease of one running build; it ends with the value.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    gc: PathBuf,
    access: Access,
    file: Mutex<(File, BTreeSet<Held>)>,
}

impl Lease {
    /// Makes the lease of a new build in its directory, below the store's `work`.
    pub(super) fn new(work: &Path, directory: &Path, access: Access) -> Result<Self, FileError> {
        let path = directory.join(NAME);
        let file = lock::open(&path, access)?;
        if !lock::attempt(&file, &path)? {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy)).context("lock", &path);
        }
        Ok(Self { path, gc: work.join(GC), access, file: Mutex::new((file, BTreeSet::new())) })
    }

    /// Keeps things from being removed from now on. What is looked for afterwards and found, stays.
    ///
    /// # Errors
    /// Where the lease cannot be written.
    pub fn hold(&self, things: impl IntoIterator<Item = Held>) -> Result<(), FileError> {
        let (file, held) = &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<Held> = things.into_iter().filter(|thing| !held.contains(thing)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let text: String = new.iter().map(|thing| thing.line()).collect();
        let _shared = lock::shared(&self.gc, self.access)?;
        let end = file.seek(SeekFrom::End(0)).context("read", &self.path)?;
        if let Err(error) = file.write_all(text.as_bytes()) {
            // Half a line would spoil the next one.
            let _ = file.set_len(end);
            return Err(error).context("write", &self.path);
        }
        held.extend(new);
        Ok(())
    }
}

/// Everything that the leases of a store hold.
///
/// # Errors
/// Where a lease cannot be read: then nothing may be removed.
pub fn all(store: &Store) -> Result<BTreeSet<Held>, FileError> {
    read_all(store, &[io::ErrorKind::NotFound, io::ErrorKind::NotADirectory])
}

/// The same without the leases that this user may not read: for those who only look.
pub(super) fn visible(store: &Store) -> Result<BTreeSet<Held>, FileError> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    read_all(store, &[NotFound, NotADirectory, PermissionDenied])
}

fn read_all(store: &Store, none: &[io::ErrorKind]) -> Result<BTreeSet<Held>, FileError> {
    let work = store.work();
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(&work).context("read", &work)? {
        let path = entry.context("read", &work)?.path().join(NAME);
        match read_bounded(&path, LIMIT) {
            Ok(bytes) => {
                held.extend(String::from_utf8_lossy(&bytes).lines().filter_map(Held::parse));
            }
            Err(error) if none.contains(&error.source.kind()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::work::Work;

    #[test]
    fn what_builds_hold_is_read_by_others_until_they_end() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (state, object) = (StateId(Digest::of(b"s")), ObjectId(Digest::of(b"o")));
        let first = Work::new(&store).unwrap();
        let second = Work::new(&store).unwrap();
        first.lease().hold([Held::State(state)]).unwrap();
        second.lease().hold([Held::Object(object), Held::State(state)]).unwrap();
        let len = || fs::metadata(second.path().join(NAME)).unwrap().len();
        let before = len();
        second.lease().hold([Held::State(state)]).unwrap();
        assert_eq!(len(), before, "what is held is not written again");
        let both = BTreeSet::from([Held::State(state), Held::Object(object)]);
        assert_eq!(all(&store).unwrap(), both);
        drop(second);
        assert_eq!(all(&store).unwrap(), BTreeSet::from([Held::State(state)]));
        // Half a line of a build that was killed holds nothing, and spoils nothing.
        fs::write(first.path().join(NAME), format!("state {state}\nobject 12")).unwrap();
        assert_eq!(all(&store).unwrap(), BTreeSet::from([Held::State(state)]));
        drop(first);
        assert!(all(&store).unwrap().is_empty());
    }

    #[test]
    fn nothing_is_added_to_a_lease_while_somebody_removes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let work = Work::new(&store).unwrap();
        let removing = lock::exclusive(&store.work().join(GC), Access::Owner).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                work.lease().hold([Held::State(StateId(Digest::of(b"s")))]).unwrap();
                sender.send(()).unwrap();
            });
            assert!(receiver.recv_timeout(std::time::Duration::from_millis(200)).is_err());
            assert!(all(&store).unwrap().is_empty());
            drop(removing);
            receiver.recv().unwrap();
        });
        assert_eq!(all(&store).unwrap().len(), 1);
    }
}
