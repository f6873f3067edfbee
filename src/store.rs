//! The store: objects, results, refs, and the work of running builds.
//!
//! It knows ids and bytes; it never sees a recipe, a step or a graph.
//!
//! # Shape, version 1
//!
//! ```text
//! cache/
//!   CACHEDIR.TAG
//!   format                    "kiln store 1\n"; another text is refused
//!   objects/ab/cdef…          immutable, named by the BLAKE3 of its bytes
//!   results                   a journal of results and placements, see [`journal`]
//!   reserve                   room for the journal of a collection on a full disk, see `store::reserve`
//!   partial/STATE             data of a layer that lies on a remote, as far as it was fetched
//!   refs/outputs/DIGEST       what an output file was made from
//!   refs/images/NAME          the states that an image's last build used
//!   refs/builds/NAME          what an image's last builds led to, and when
//!   refs/pins/NAME            a state that somebody wants kept
//!   work/BUILD/               one running build: overlays, logs, temporary objects
//!   work/BUILD/lease          locked by the build for as long as it lives, see [`lease`]
//!   work/entry                locked for a moment, while leases come, go or are tried
//!   work/gc                   locked for a moment, to add to a lease and to remove, see [`lease`]
//!   work/actions/KEY          locked by whoever builds that action
//!   work/downloads/SUM.part   a download on its way, locked by whoever works on it
//!   logs/KEY                  the output of an action's last run, also of a failed one
//! ```
//!
//! # Rules
//!
//! - Write order is object, then result, then ref; each is durable before the next begins. After a
//!   kill at any point there is the old or the new, never a torn one.
//! - A result implies that its whole chain is in the store. An object found missing or damaged at
//!   use drops the results that stand on it. A layer whose placement names a pack needs its index
//!   only: its data can be fetched.
//! - Deletion is the reverse of writing, see [`gc`]. What a build relies on stands in its lease
//!   before it is looked for.
//! - Whoever only reads takes no lock, and no lock that a reader or a collection waits for is held
//!   while a step runs.
//! - Whoever finds a `work/BUILD` whose lease nobody holds may remove it, after replaying its
//!   journal; whoever holds the lease owns everything in it.
//! - Indexes, results and refs may be read by everyone; data objects, overlays and logs only by the
//!   store's owner and group, since layers hold `/etc/shadow`.
//! - A store whose directory has the set-group-ID bit is its group's: everybody in it may write.

pub mod gc;
pub mod inventory;
pub mod journal;
pub mod lease;
mod lock;
pub mod objects;
pub mod partials;
pub mod refs;
mod reserve;
pub mod results;
pub mod retention;
pub mod roots;
#[cfg(test)]
mod samples;
pub mod site;
pub mod survey;
mod sweep;
pub mod verify;
pub mod work;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, ObjectId, StateId};
use crate::files::{self, Context, FileError, Host, Medium};
use crate::name::PinName;
use journal::JournalError;
use lock::Lock;
use objects::Objects;
use refs::{Pin, PinError};
use results::{ActionResult, Placement, Record, Results};
use site::{Access, Refused, SiteError};

const FORMAT: &str = "kiln store 1\n";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory holds kiln's cache; deleting it loses nothing but time.\n";

/// Why a store cannot be opened or used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StoreError {
    /// A path of the store cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The journal of results cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
    /// A pin cannot be read or set.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pin(#[from] PinError),
    /// It may not lie there.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Site(#[from] SiteError),
    /// Another version of kiln made it.
    #[error("the store `{}` has another format: {found:?}", path.display())]
    #[diagnostic(
        code(kiln::store::format),
        help("this kiln reads {:?}; use the kiln that made it, or another store with `--store`", FORMAT.trim_end())
    )]
    Format {
        /// The store.
        path: PathBuf,
        /// What its `format` file says, cut short.
        found: String,
    },
    /// A state's chain is not complete.
    #[error("a layer of the state {} is not in the store", state.short())]
    #[diagnostic(code(kiln::store::missing_layer), help("the layer is built again"))]
    MissingLayer {
        /// The state whose layer is missing.
        state: StateId,
    },
}

/// The files of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFiles {
    /// The state that the layer leads to.
    pub state: StateId,
    /// The encoded index.
    pub index: PathBuf,
    /// The bytes of its data blocks one after the other; `None` where it has none.
    pub data: Option<Data>,
}

/// An object that holds the data blocks of a layer, unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Its id.
    pub object: ObjectId,
    /// Where it lies.
    pub path: PathBuf,
    /// The socket where the blocks are asked for that are not in the file yet; `None` where all are.
    pub fetched_at: Option<PathBuf>,
}

/// An open store.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    medium: Arc<dyn Medium>,
    access: Access,
}

impl From<Refused> for StoreError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Site(error) => Self::Site(error),
            Refused::File(error) => Self::File(error),
        }
    }
}

impl Store {
    /// Opens a store, and makes it if it is not there.
    ///
    /// # Errors
    /// Where it cannot be made or read, or is of another format.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(root, Arc::new(Host))
    }

    /// The same on another [`Medium`], which tests use to crash it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(root: &Path, medium: Arc<dyn Medium>) -> Result<Self, StoreError> {
        if !root.is_dir() {
            files::make_directory(root, 0o755)?;
        }
        site::check(root)?;
        let access = Access::of(root)?;
        let store = Self { root: root.to_owned(), medium: access.medium(medium), access };
        match fs::read(root.join("format")) {
            Ok(found) if found == FORMAT.as_bytes() => return Ok(store),
            Ok(found) => {
                let found = String::from_utf8_lossy(&found[..found.len().min(40)]).into_owned();
                return Err(StoreError::Format { path: root.to_owned(), found });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("read", &root.join("format"))?,
        }
        for (directory, mode) in [("objects", 0o755), ("refs", 0o755), ("work", 0o755)] {
            access.directory(&root.join(directory), mode)?;
        }
        for directory in refs::DIRECTORIES {
            access.directory(&root.join("refs").join(directory), 0o755)?;
        }
        access.directory(&store.work().join(work::ACTIONS), 0o755)?;
        access.directory(&root.join("logs"), 0o750)?;
        // It holds what no object does: data of layers that may be read by the group only.
        access.directory(&store.partial(), 0o750)?;
        let medium = &*store.medium;
        files::replace(medium, &root.join("CACHEDIR.TAG"), TAG.as_bytes())?;
        // A record may be appended only to a journal whose name is durable.
        journal::create(medium, &store.journal())?;
        reserve::ensure(&store)?;
        // Last, so that a store whose making was cut short is made again.
        files::replace(medium, &root.join("format"), FORMAT.as_bytes())?;
        Ok(store)
    }

    /// Opens a store only if it is there already, for commands that must not write.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(root: &Path) -> Result<Option<Self>, StoreError> {
        if !root.join("format").exists() {
            return Ok(None);
        }
        Self::open(root).map(Some)
    }

    /// Where the store lies.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The objects.
    #[must_use]
    pub fn objects(&self) -> Objects {
        Objects::new(self.root.join("objects"), Arc::clone(&self.medium), self.access)
    }

    fn journal(&self) -> PathBuf {
        self.root.join("results")
    }

    fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Where data of layers lies that was fetched in part, each under the name of its state.
    #[must_use]
    pub fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// Held by whoever removes: meanwhile nobody adds to a lease.
    fn removing(&self) -> Result<Lock, FileError> {
        lock::exclusive(&self.work().join(lease::GC), self.access)
    }

    /// Reads all results as they are now.
    ///
    /// # Errors
    /// Where the journal cannot be read or is not one.
    pub fn results(&self) -> Result<Results, StoreError> {
        Ok(journal::read(&self.journal())?.0)
    }

    /// Records a result, and where its layer lies. Everything that it names must be durable, and
    /// held by a lease that outlives the call.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn record(
        &self,
        placement: Option<&Placement>,
        result: &ActionResult,
    ) -> Result<(), StoreError> {
        let mut records = Vec::new();
        records.extend(placement.cloned().map(Record::Placement));
        records.push(Record::Result(result.clone()));
        Ok(journal::append(&*self.medium, &self.journal(), &records)?)
    }

    /// Records a result that came from elsewhere, with the layers of its chain that were not here.
    /// Everything that they name must be durable, and held by a lease that outlives the call.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn record_all(
        &self,
        placements: &[Placement],
        result: &ActionResult,
    ) -> Result<(), StoreError> {
        let mut records: Vec<_> = placements.iter().cloned().map(Record::Placement).collect();
        records.push(Record::Result(result.clone()));
        Ok(journal::append(&*self.medium, &self.journal(), &records)?)
    }

    /// Notes where a layer lies, in place of what was noted before.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn place(&self, placement: &Placement) -> Result<(), StoreError> {
        let records = [Record::Placement(placement.clone())];
        Ok(journal::append(&*self.medium, &self.journal(), &records)?)
    }

    /// Forgets the result of an action that led to a state, which stays.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn forget(&self, key: ActionKey, state: StateId) -> Result<(), StoreError> {
        let records = [Record::Forgotten { key, state }];
        Ok(journal::append(&*self.medium, &self.journal(), &records)?)
    }

    /// Forgets a state whose layer is missing or damaged, and with it all that stands on it.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn drop_state(&self, state: StateId) -> Result<(), StoreError> {
        let records = [Record::Dropped { state }];
        Ok(journal::append(&*self.medium, &self.journal(), &records)?)
    }

    /// The files of a state's chain, base first; what is not here whole is fetched at a socket.
    ///
    /// # Errors
    /// [`StoreError::MissingLayer`] where a layer has no placement, or an object of it is gone that
    /// cannot be fetched.
    pub fn chain(
        &self,
        results: &Results,
        state: StateId,
        socket: Option<&Path>,
    ) -> Result<Vec<LayerFiles>, StoreError> {
        let objects = self.objects();
        let mut chain = Vec::new();
        let mut next = Some(state);
        // The lowest missing layer is told: what stands on it goes with it.
        let mut lowest = None;
        while let Some(state) = next {
            let Some(placement) = results.placement(state) else {
                return Err(StoreError::MissingLayer { state });
            };
            let index = objects.path(placement.index);
            let data = placement.data.map(|object| {
                let (path, mut fetched_at) = (objects.path(object), None);
                if path.exists() {
                    return Data { object, path, fetched_at };
                }
                fetched_at = socket.map(Path::to_owned);
                Data { object, path: self.partial().join(state.to_string()), fetched_at }
            });
            let partly = data.as_ref().is_some_and(|data| !objects.has(data.object));
            if !index.exists() || partly && placement.pack.is_none() {
                lowest = Some(state);
            } else if partly && socket.is_some() {
                self.partial_file(state, placement.size)?;
            }
            chain.push(LayerFiles { state, index, data });
            next = placement.parent;
        }
        if let Some(state) = lowest {
            return Err(StoreError::MissingLayer { state });
        }
        chain.reverse();
        Ok(chain)
    }

    /// The refs.
    #[must_use]
    pub fn refs(&self) -> refs::Refs {
        refs::Refs::new(self.root.join("refs"), Arc::clone(&self.medium), self.access)
    }

    /// Keeps a state, and all that it stands on, until the pin is removed.
    ///
    /// # Errors
    /// [`PinError::NoState`] where it is not in the store; else where the pin cannot be written.
    pub fn pin(&self, name: &PinName, pin: &Pin) -> Result<(), StoreError> {
        // Nothing is removed between the look at the state and the pin.
        let _shared = lock::shared(&self.work().join(lease::GC), self.access)?;
        self.chain(&self.results()?, pin.state, None).map_err(|error| match error {
            StoreError::MissingLayer { .. } => PinError::NoState { state: pin.state }.into(),
            error => error,
        })?;
        Ok(self.refs().set_pin(name, pin)?)
    }

    /// The log file of an action.
    #[must_use]
    pub fn log(&self, key: ActionKey) -> PathBuf {
        self.root.join("logs").join(key.to_string())
    }
}
