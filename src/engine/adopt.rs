//! Takes over results that others have shared: their records and indexes, and of their data nothing
//! until somebody reads it.
//!
//! What is taken over is then in the store like what was built here, but for its data, which is
//! fetched block by block. Whether a result counts was decided by its signature; here each layer must
//! be what its state's id says, and stand on the one below.

use std::sync::Mutex;

use crate::digest::{ActionKey, ObjectId, StateId};
use crate::disk::layer::{self, BLOCK, BLOCK_LEN, LayerFault, LayerIndex};
use crate::files::FileError;
use crate::key::Operation;
use crate::pack::{ChunkReader, Pack, PackFault, ReadError};
use crate::plan::{Actions, Node};
use crate::remote::BlobRef;
use crate::remote::backend::{MAX_BLOB, RemoteError};
use crate::remote::statement::Link;
use crate::remote::team::{Hit, Team};
use crate::store::lease::Held;
use crate::store::objects::Readers;
use crate::store::results::{ActionResult, Placement, Results};
use crate::store::work::Work;
use crate::store::{Store, StoreError};

/// Layers whose descriptions are fetched at one time.
const LAYERS: usize = 8;

/// Why a shared result cannot be taken over, as what follows "is not used: ".
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    #[error("it is about {found} states, and the action stands on {wanted}")]
    Depth { found: usize, wanted: usize },
    #[error("no remote has what describes the layer of {}", state.short())]
    NoPack { state: StateId },
    #[error("{what} is larger than kiln takes")]
    TooLarge { what: &'static str },
    #[error("it cannot be fetched")]
    Remote(#[from] RemoteError),
    #[error("there is no remote to fetch it from")]
    NoRemote,
    #[error("what describes the layer of {} is damaged", state.short())]
    Pack { state: StateId, source: PackFault },
    #[error("the index of {} cannot be had", state.short())]
    Index { state: StateId, source: ReadError },
    #[error("the index of {} is none", state.short())]
    Fault { state: StateId, source: LayerFault },
    #[error("the data of {} cannot be had", state.short())]
    Data { state: StateId, source: ReadError },
    #[error("the layer of {} is not what was signed", state.short())]
    NotAsSigned { state: StateId },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] FileError),
}

impl AdoptError {
    /// Whether this host is at fault, so that the build cannot go on either.
    pub(super) fn is_of_host(&self) -> bool {
        matches!(self, Self::Store(_) | Self::File(_))
    }

    /// The state whose layer is what is wrong.
    pub(super) fn layer(&self) -> Option<StateId> {
        match self {
            Self::NoPack { state }
            | Self::Pack { state, .. }
            | Self::Index { state, .. }
            | Self::Fault { state, .. }
            | Self::Data { state, .. }
            | Self::NotAsSigned { state } => Some(*state),
            Self::Depth { .. }
            | Self::TooLarge { .. }
            | Self::Remote(_)
            | Self::NoRemote
            | Self::Store(_)
            | Self::File(_) => None,
        }
    }
}

/// What became of a shared result.
pub(super) enum Adopted {
    /// It is in the store.
    Done,
    /// It stands on a base that is downloaded rather than shared, and that is not here yet.
    BaseFirst,
}

/// Takes over results into a store.
pub(super) struct Adopter<'a> {
    pub(super) store: &'a Store,
    pub(super) team: &'a Team,
    pub(super) work: &'a Work,
}

/// What is known of one layer that is not here.
pub(super) struct Described {
    /// Its pack, encoded.
    pub(super) pack: Vec<u8>,
    /// Its index, encoded.
    pub(super) index: Vec<u8>,
    /// Where it will lie: the index's object is not known yet, and the data's is a claim.
    pub(super) placement: Placement,
}

impl Adopter<'_> {
    /// Takes over the result of a node.
    ///
    /// # Errors
    /// Where it cannot be had or is not what was signed; nothing is recorded then.
    pub(super) fn adopt(
        &self,
        actions: &Actions,
        node: &Node,
        hit: &Hit,
        results: &Results,
    ) -> Result<Adopted, AdoptError> {
        let statement = &hit.accepted.statement;
        let chain = &statement.chain;
        let below: Vec<&Node> = std::iter::successors(Some(node), |node| {
            node.parent.map(|parent| &actions.nodes[parent])
        })
        .collect();
        if below.len() != chain.len() {
            return Err(AdoptError::Depth { found: chain.len(), wanted: below.len() });
        }
        // From now on nothing of the chain that is here is collected.
        self.work.lease().hold(chain.iter().map(|link| Held::State(link.state)))?;
        let mut wanted: Vec<(usize, BlobRef)> = Vec::new();
        for (at, (link, layer)) in chain.iter().zip(&hit.accepted.layers).enumerate() {
            if results.placement(link.state).is_some() {
                continue;
            }
            let of_everybody =
                matches!(below[chain.len() - 1].action.operation, Operation::Fetch(_));
            match layer {
                Some(layer) => wanted.push((at, *layer)),
                None if at == 0 && of_everybody => return Ok(Adopted::BaseFirst),
                None => return Err(AdoptError::NoPack { state: link.state }),
            }
        }
        let described = self.describe(chain, &wanted)?;
        let mut placements = Vec::with_capacity(described.len());
        for Described { pack, index, mut placement } in described {
            placement.index = self.put(&index)?;
            placement.pack = Some(self.put(&pack)?);
            placements.push(placement);
        }
        let manifest = serde_json::to_vec(&node.manifest).expect("a manifest is plain data");
        let manifest = self.put(&manifest)?;
        let result = self.result(node.key, hit, manifest, node.impure || statement.impure)?;
        self.store.record_all(&placements, &result)?;
        Ok(Adopted::Done)
    }

    /// What is recorded of a shared result; all that it names is in the store then, but for layers.
    pub(super) fn result(
        &self,
        key: ActionKey,
        hit: &Hit,
        manifest: ObjectId,
        impure: bool,
    ) -> Result<ActionResult, AdoptError> {
        let statement = &hit.accepted.statement;
        let chain = &statement.chain;
        let blob = |blob: Option<BlobRef>| blob.map(|blob| self.blob(blob)).transpose();
        Ok(ActionResult {
            key,
            parent: chain.len().checked_sub(2).map(|below| chain[below].state),
            state: chain[chain.len() - 1].state,
            impure,
            manifest,
            report: blob(statement.report)?,
            sbom: blob(statement.sbom)?,
            provenance: blob(statement.provenance)?,
            at: super::layers::now(),
            signer: Some(hit.accepted.signer.to_string()),
            took_ms: statement.took_ms,
            host: statement.host.clone(),
        })
    }

    pub(super) fn put(&self, bytes: &[u8]) -> Result<ObjectId, FileError> {
        self.store.objects().put(self.work.lease(), self.work.path(), bytes, Readers::All)
    }

    fn get(&self, blob: BlobRef, what: &'static str) -> Result<Vec<u8>, AdoptError> {
        if blob.len > MAX_BLOB {
            return Err(AdoptError::TooLarge { what });
        }
        self.team.blob(blob).map_err(|error| error.map_or(AdoptError::NoRemote, AdoptError::Remote))
    }

    /// Brings a blob into the store.
    pub(super) fn blob(&self, blob: BlobRef) -> Result<ObjectId, AdoptError> {
        let bytes = self.get(blob, "a report")?;
        Ok(self.put(&bytes)?)
    }

    /// Fetches the descriptions of layers, some at a time.
    pub(super) fn describe(
        &self,
        chain: &[Link],
        wanted: &[(usize, BlobRef)],
    ) -> Result<Vec<Described>, AdoptError> {
        let next = Mutex::new(wanted.iter());
        let found = Mutex::new(Vec::with_capacity(wanted.len()));
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..LAYERS.min(wanted.len()) {
                scope.spawn(|| {
                    loop {
                        let Some(&(at, blob)) = next.lock().expect("no panic holds it").next()
                        else {
                            return;
                        };
                        match self.layer(chain, at, blob) {
                            Ok(layer) => {
                                found.lock().expect("no panic holds it").push((at, layer));
                            }
                            Err(error) => {
                                *failed.lock().expect("no panic holds it") = Some(error);
                                return;
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().expect("no panic holds it") {
            return Err(error);
        }
        let mut found = found.into_inner().expect("no panic holds it");
        found.sort_by_key(|(at, _)| *at);
        Ok(found.into_iter().map(|(_, layer)| layer).collect())
    }

    /// One layer: the pack that was named, and the index that the pack leads to.
    fn layer(&self, chain: &[Link], at: usize, blob: BlobRef) -> Result<Described, AdoptError> {
        let Link { state, virtual_size, data } = chain[at];
        let parent = at.checked_sub(1).map(|below| chain[below].state);
        let bytes = self.get(blob, "what describes a layer")?;
        let pack =
            Pack::decode(&bytes, state).map_err(|source| AdoptError::Pack { state, source })?;
        // A layer says 48 bytes of each block at most; a longer index is none.
        let longest = (virtual_size / BLOCK + 1) * 48 + BLOCK;
        if pack.index_len() > longest {
            return Err(AdoptError::TooLarge { what: "an index" });
        }
        let object = pack.object;
        let reader = ChunkReader::new(pack);
        let index = reader.index(self.team, |bytes| layer::state_id(bytes) == state);
        let index = index.map_err(|source| AdoptError::Index { state, source })?;
        let decoded =
            LayerIndex::decode(&index).map_err(|source| AdoptError::Fault { state, source })?;
        let blocks = decoded.data_blocks();
        let fits = decoded.parent == parent
            && decoded.virtual_size == virtual_size
            && blocks * BLOCK_LEN as u64 == data
            && reader.pack().data_len() == data
            && object.is_some() == (data > 0);
        if !fits {
            return Err(AdoptError::NotAsSigned { state });
        }
        let nothing = ObjectId(crate::digest::Digest::of(b""));
        let placement =
            Placement { state, parent, index: nothing, data: object, size: data, pack: None };
        Ok(Described { pack: bytes, index, placement })
    }
}
