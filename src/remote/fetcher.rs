//! Fetches blocks of layers that are here in part, for whoever reads a disk.
//!
//! A build has one: it answers the door and the engine's own readers over a socket in the build's
//! directory, see [`crate::disk::fetching`]. What is read in order is fetched ahead.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::BlobId;
use crate::causes;
use crate::digest::{Digest, StateId};
use crate::disk::fetching::{Ask, Reply};
use crate::disk::layer::{BLOCK, LayerFault, LayerIndex};
use crate::files::FileError;
use crate::link::Link;
use crate::pack::partial::{Partial, PartialError, Twin};
use crate::pack::{Pack, PackFault, Source};
use crate::store::results::{Placement, Results};
use crate::store::{Store, StoreError};

/// Largest pack that is read from the store.
const MAX_PACK: u64 = 64 << 20;
/// Largest index that is read, as in [`crate::disk::state`].
const MAX_INDEX: u64 = 20 << 30;
/// Blocks that are fetched ahead of somebody who reads in order: 16 MiB.
const AHEAD: u64 = 4096;
/// How often the end of the build is looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// Why a layer cannot be fetched.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum FetchError {
    /// The store.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// A file of the store.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// Nothing is known of where it lies.
    #[error("nothing says where the layer of the state {} lies", state.short())]
    #[diagnostic(code(kiln::remote::no_pack), help("the layer is built again"))]
    NoPack {
        /// The state.
        state: StateId,
    },
    /// What the store holds of it is damaged.
    #[error("the pack of the state {} is damaged", state.short())]
    #[diagnostic(code(kiln::remote::bad_pack), help("the layer is built again"))]
    Pack {
        /// The state.
        state: StateId,
        /// What is wrong with it, where it is one at all.
        source: Option<PackFault>,
    },
    /// Its index is damaged.
    #[error("the index of the state {} is damaged", state.short())]
    #[diagnostic(code(kiln::remote::bad_index), help("the layer is built again"))]
    Index {
        /// The state.
        state: StateId,
        /// What is wrong with it.
        source: LayerFault,
    },
    /// Its blocks cannot be had.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Partial(#[from] PartialError),
}

/// A layer that is being fetched.
struct Open {
    partial: Partial,
    /// Where the last reader ended, and how far ahead it was served.
    last: Mutex<(u64, u64)>,
}

/// Fetches for one build.
pub struct Fetcher<'a> {
    store: &'a Store,
    source: &'a (dyn Source + 'a),
    open: Mutex<HashMap<StateId, Arc<Open>>>,
    lost: Mutex<BTreeSet<StateId>>,
}

impl<'a> Fetcher<'a> {
    /// Fetches into a store.
    #[must_use]
    pub fn new(store: &'a Store, source: &'a (dyn Source + 'a)) -> Self {
        Self { store, source, open: Mutex::default(), lost: Mutex::default() }
    }

    /// States whose blocks could not be had.
    #[must_use]
    pub fn lost(&self) -> BTreeSet<StateId> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes that came so far, packed, by state.
    #[must_use]
    pub fn fetched(&self) -> BTreeMap<StateId, u64> {
        self.layers().iter().map(|(state, open)| (*state, open.partial.fetched())).collect()
    }

    fn layers(&self) -> MutexGuard<'_, HashMap<StateId, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers at a socket until `ended`.
    ///
    /// # Errors
    /// Where the socket cannot be listened at.
    pub fn serve(&self, listener: &UnixListener, ended: &AtomicBool) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        std::thread::scope(|scope| {
            while !ended.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        // A connection of its own for each reader, which ends with the reader.
                        let link = stream.set_nonblocking(false).map(|()| stream);
                        let link =
                            link.map(|stream| Link::from(std::os::fd::OwnedFd::from(stream)));
                        scope.spawn(move || link.map(|link| self.answer(link)));
                    }
                    Err(_) => std::thread::sleep(GLANCE),
                }
            }
        });
        Ok(())
    }

    fn answer(&self, mut link: Link) {
        while let Ok(Some(ask)) = link.receive::<Ask>() {
            if link.send(&self.fetch(ask)).is_err() {
                return;
            }
        }
    }

    /// Fetches some blocks.
    #[must_use]
    pub fn fetch(&self, ask: Ask) -> Reply {
        let Err(error) = self.try_fetch(ask) else { return Reply::Here };
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(ask.state);
        Reply::Lost(causes::list(&error))
    }

    fn try_fetch(&self, ask: Ask) -> Result<(), FetchError> {
        let open = self.layer(ask.state)?;
        let end = ask.start.saturating_add(ask.len).min(open.partial.blocks());
        let until = {
            let mut last = open.last.lock().unwrap_or_else(PoisonError::into_inner);
            // The kernel reads ahead itself, so that requests of one reader come a little mixed.
            let in_order = ask.start.abs_diff(last.0) <= AHEAD / 8;
            let ahead = if in_order { (last.1 * 2).clamp(64, AHEAD) } else { 0 };
            *last = (end, ahead);
            end.saturating_add(ahead).min(open.partial.blocks())
        };
        Ok(open.partial.ensure(ask.start.min(end)..until, self.source)?)
    }

    /// Fetches all that is missing of a layer, and makes its data an object like any other.
    ///
    /// # Errors
    /// Where it cannot be had, or the store not be written.
    pub fn complete(&self, state: StateId) -> Result<(), FetchError> {
        let open = self.layer(state)?;
        open.partial.complete(self.source)?;
        self.settle(state, &open.partial)
    }

    /// Makes objects of all layers that turned out to be here whole.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn settle_all(&self) -> Result<(), FetchError> {
        let open: Vec<_> = self.layers().iter().map(|(s, open)| (*s, Arc::clone(open))).collect();
        for (state, open) in open {
            if open.partial.is_complete() {
                self.settle(state, &open.partial)?;
            }
        }
        Ok(())
    }

    fn settle(&self, state: StateId, partial: &Partial) -> Result<(), FetchError> {
        partial.sync()?;
        Ok(self.store.settle_partial(state)?)
    }

    fn layer(&self, state: StateId) -> Result<Arc<Open>, FetchError> {
        if let Some(open) = self.layers().get(&state) {
            return Ok(Arc::clone(open));
        }
        let results = self.store.results()?;
        let placement = results.placement(state).ok_or(FetchError::NoPack { state })?;
        let pack = self.pack(placement)?;
        let index = self.index(placement)?;
        let twins = self.twins(&results, &pack);
        let path = self.store.partial().join(state.to_string());
        let file = self.store.partial_file(state, index.data_blocks() * BLOCK)?;
        let partial = Partial::new(pack, index.hashes, file, path, twins);
        let partial = partial.ok_or(FetchError::Pack { state, source: None })?;
        let new = Arc::new(Open { partial, last: Mutex::new((0, 0)) });
        Ok(Arc::clone(self.layers().entry(state).or_insert(new)))
    }

    fn pack(&self, placement: &Placement) -> Result<Pack, FetchError> {
        let state = placement.state;
        let id = placement.pack.ok_or(FetchError::NoPack { state })?;
        let bytes = self.store.objects().read(id, MAX_PACK)?;
        Pack::decode(&bytes, state)
            .map_err(|source| FetchError::Pack { state, source: Some(source) })
    }

    fn index(&self, placement: &Placement) -> Result<LayerIndex, FetchError> {
        let bytes = self.store.objects().read(placement.index, MAX_INDEX)?;
        let state = placement.state;
        LayerIndex::decode(&bytes).map_err(|source| FetchError::Index { state, source })
    }

    /// The layers whose data is here whole and that share blobs with a pack.
    fn twins(&self, results: &Results, pack: &Pack) -> Vec<Twin> {
        let blobs: HashSet<BlobId> = pack.blobs.iter().map(|blob| blob.id).collect();
        let mut twins = Vec::new();
        for placement in results.placements().filter(|known| known.state != pack.state) {
            let (Some(data), Some(_)) = (placement.data, placement.pack) else { continue };
            // What cannot be read is no help, and no harm.
            let Ok(theirs) = self.pack(placement) else { continue };
            if !theirs.blobs.iter().any(|blob| blobs.contains(&blob.id)) {
                continue;
            }
            let Ok(file) = File::open(self.store.objects().path(data)) else { continue };
            let Ok(index) = self.index(placement) else { continue };
            let hashes: Vec<Digest> = index.hashes;
            if theirs.data_len() == hashes.len() as u64 * BLOCK {
                twins.push(Twin { pack: theirs, hashes, data: file });
            }
        }
        twins
    }
}
