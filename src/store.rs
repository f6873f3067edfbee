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
//!   results                   a journal of results and placements, see [`results`]
//!   refs/outputs/DIGEST       what an output file was made from
//!   refs/images/NAME          the states that an image's last build used
//!   work/BUILD/               one running build: overlays, logs, temporary objects
//!   work/BUILD/lease          locked by the build for as long as it lives
//!   work/entry                locked for a moment, while leases come, go or are tried
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
//!   use drops the results that stand on it.
//! - Whoever finds a `work/BUILD` whose lease nobody holds may remove it, after replaying its
//!   journal; whoever holds the lease owns everything in it.
//! - Indexes, results and refs may be read by everyone; data objects, overlays and logs only by the
//!   store's owner and group, since layers hold `/etc/shadow`.

pub mod objects;
pub mod refs;
pub mod results;
pub mod work;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, ObjectId, StateId};
use crate::files::{self, Context, FileError, Host, Medium};
use objects::Objects;
use results::{ActionResult, Placement, Record, Results, ResultsError};

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
    Results(#[from] ResultsError),
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
}

/// An open store.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    medium: Arc<dyn Medium>,
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
        let store = Self { root: root.to_owned(), medium };
        match fs::read(root.join("format")) {
            Ok(found) if found == FORMAT.as_bytes() => return Ok(store),
            Ok(found) => {
                let found = String::from_utf8_lossy(&found[..found.len().min(40)]).into_owned();
                return Err(StoreError::Format { path: root.to_owned(), found });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("read", &root.join("format"))?,
        }
        for (directory, mode) in [
            ("objects", 0o755),
            ("refs/outputs", 0o755),
            ("refs/images", 0o755),
            ("work/actions", 0o755),
            ("logs", 0o750),
        ] {
            files::make_directory(&root.join(directory), mode)?;
        }
        let medium = &*store.medium;
        files::replace(medium, &root.join("CACHEDIR.TAG"), TAG.as_bytes())?;
        // A record may be appended only to a journal whose name is durable.
        results::create(medium, &root.join("results"))?;
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
        Objects::new(self.root.join("objects"), Arc::clone(&self.medium))
    }

    /// Reads all results as they are now.
    ///
    /// # Errors
    /// Where the journal cannot be read or is not one.
    pub fn results(&self) -> Result<Results, StoreError> {
        Ok(Results::read(&self.root.join("results"))?)
    }

    /// Records a result, and where its layer lies. Everything that it names must be durable.
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
        Ok(results::append(&*self.medium, &self.root.join("results"), &records)?)
    }

    /// Forgets a state whose layer is missing or damaged, and with it all that stands on it.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn drop_state(&self, state: StateId) -> Result<(), StoreError> {
        let records = [Record::Dropped { state }];
        Ok(results::append(&*self.medium, &self.root.join("results"), &records)?)
    }

    /// The files of a state's chain, base first.
    ///
    /// # Errors
    /// [`StoreError::MissingLayer`] where a layer has no placement, or an object of it is gone.
    pub fn chain(&self, results: &Results, state: StateId) -> Result<Vec<LayerFiles>, StoreError> {
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
            let data = placement.data.map(|object| Data { object, path: objects.path(object) });
            if !index.exists() || data.as_ref().is_some_and(|data| !data.path.exists()) {
                lowest = Some(state);
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
        refs::Refs::new(self.root.join("refs"), Arc::clone(&self.medium))
    }

    /// The log file of an action.
    #[must_use]
    pub fn log(&self, key: ActionKey) -> PathBuf {
        self.root.join("logs").join(key.to_string())
    }
}
