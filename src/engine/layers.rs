//! What a lane puts into the store: layers, and the results that name them.
//!
//! A layer's objects come first and the result last, so that a kill at any point leaves old or new.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::lane::{Held, Lane, Stop, host};
use super::secrets;
use crate::attest::packages;
use crate::attest::provenance::{self, Origin};
use crate::digest::{Digest, ObjectId, StateId};
use crate::disk::capture::{self, FrozenOverlay};
use crate::disk::layer::{self, LayerIndex};
use crate::execute::{Epoch, Fault, FaultKind, Outcome, Packages};
use crate::files::Context;
use crate::plan::Node;
use crate::store::objects::Readers;
use crate::store::results::{ActionResult, Placement};
use crate::store::{Data, LayerFiles};

/// A layer whose objects are in the store.
pub(super) struct Captured {
    pub(super) index: LayerIndex,
    pub(super) files: LayerFiles,
    pub(super) placement: Placement,
    /// The digest of the disk at rest, where it was asked for.
    pub(super) frozen: Option<Digest>,
}

/// Seconds since 1970 in UTC.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Lane<'_, '_> {
    /// Makes a layer of what a disk's epoch changed, unless a secret is in it.
    pub(super) fn store_epoch(
        &self,
        epoch: &Epoch,
        held: &Held,
        directory: &Path,
    ) -> Result<Captured, Stop> {
        let file = File::open(&epoch.overlay).context("open", &epoch.overlay);
        let file = file.map_err(|error| host(&error))?;
        if let Some(scanner) = &held.scanner {
            let found = secrets::find(scanner, &file, &epoch.overlay, &epoch.changed);
            if let Some(found) = found.map_err(|error| host(&error))? {
                return Err(secrets::in_layer(&found).into());
            }
        }
        let overlay = FrozenOverlay { file: &file, path: &epoch.overlay };
        let mut captured = self.store_layer(directory, |sink| {
            capture::capture(&held.disk, held.id, &overlay, &epoch.changed, sink)
        })?;
        captured.frozen = epoch.digest;
        Ok(captured)
    }

    /// Stores a layer's data, then its index. Nothing names them yet.
    pub(super) fn store_layer(
        &self,
        directory: &Path,
        make: impl FnOnce(&mut capture::BlockSink<'_>) -> Result<LayerIndex, capture::CaptureError>,
    ) -> Result<Captured, Stop> {
        let objects = self.engine.store.objects();
        let mut writer =
            objects.writer(directory, "layer", Readers::Group).map_err(|error| host(&error))?;
        let index = make(&mut |bytes| writer.write(bytes)).map_err(|error| match &error {
            capture::CaptureError::State(_) => Fault::of(FaultKind::Damaged, &error).into(),
            capture::CaptureError::File(_) => host(&error),
        })?;
        let size = writer.len();
        let data = if writer.is_empty() {
            writer.abandon().map_err(|error| host(&error))?;
            None
        } else {
            Some(writer.finish(self.lease).map_err(|error| host(&error))?)
        };
        let encoded = index.encode();
        let state = layer::state_id(&encoded);
        let id = objects.put(self.lease, directory, &encoded, Readers::All);
        let id = id.map_err(|error| host(&error))?;
        let files = LayerFiles {
            state,
            index: objects.path(id),
            data: data.map(|object| Data { object, path: objects.path(object), fetched_at: None }),
        };
        let parent = index.parent;
        let placement = Placement { state, parent, index: id, data, size, pack: None };
        Ok(Captured { index, files, placement, frozen: None })
    }

    /// Reads the stored state afresh and compares it with the disk as it was at rest.
    fn compare(held: &Held, frozen: Digest) -> Result<(), Stop> {
        let fresh = Self::open_state(&held.chain)?;
        let stored =
            fresh.digest().map_err(|error| Stop::from(Fault::of(FaultKind::Damaged, &error)))?;
        if stored == frozen {
            return Ok(());
        }
        Err(Fault::new(
            FaultKind::Host,
            "kiln::engine::layer_differs",
            "the stored layer is not what the disk held when it was frozen",
        )
        .with_help(
            "nothing was recorded; this is a bug in kiln, or the host's memory or disk is failing",
        )
        .into())
    }

    #[expect(clippy::too_many_arguments, reason = "a result has that many parts")]
    /// Records a result, whose layer is in the store.
    pub(super) fn record(
        &self,
        node: &Node,
        parent: Option<StateId>,
        placement: &Placement,
        outcome: Outcome,
        report: Option<ObjectId>,
        took: Duration,
        directory: &Path,
    ) -> Result<(), Stop> {
        let store = self.engine.store;
        let manifest = serde_json::to_vec(&node.manifest).expect("a manifest is plain data");
        let manifest = store.objects().put(self.lease, directory, &manifest, Readers::All);
        let sbom = self.packages(node, parent, outcome.packages, directory)?;
        let (at, took_ms) = (now(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let provenance = provenance::statement(&Origin {
            name: &node.name,
            action: &node.action,
            manifest: &node.manifest,
            key: node.key,
            parent,
            state: placement.state,
            ended: at,
            took_ms,
            host: &outcome.host,
        });
        let provenance = store.objects().put(self.lease, directory, &provenance, Readers::All);
        let result = ActionResult {
            key: node.key,
            parent,
            state: placement.state,
            impure: node.impure,
            manifest: manifest.map_err(|error| host(&error))?,
            report,
            sbom,
            provenance: Some(provenance.map_err(|error| host(&error))?),
            at,
            signer: None,
            took_ms,
            host: outcome.host,
        };
        self.hold(placement.state)?;
        store.record(Some(placement), &result).map_err(|error| host(&error))?;
        self.reached.set(Some(placement.state));
        Ok(())
    }

    /// The document of a state's packages: a new one, or that of the state below.
    fn packages(
        &self,
        node: &Node,
        parent: Option<StateId>,
        packages: Packages,
        directory: &Path,
    ) -> Result<Option<ObjectId>, Stop> {
        let store = self.engine.store;
        match packages {
            Packages::Unknown => Ok(None),
            Packages::Are(inventory) => {
                let document = packages::document(&inventory);
                let put = store.objects().put(self.lease, directory, &document, Readers::All);
                Ok(Some(put.map_err(|error| host(&error))?))
            }
            Packages::AsBefore => {
                let Some(below) = node.parent.map(|parent| self.actions.nodes[parent].key) else {
                    return Ok(None);
                };
                let results = store.results().map_err(|error| host(&error))?;
                let below = results.of_action(below);
                let below = below.iter().find(|result| Some(result.state) == parent);
                Ok(below.and_then(|result| result.sbom))
            }
        }
    }

    /// Lays a stored layer on the state that a lane holds, and compares the two where the disk was
    /// hashed at rest.
    pub(super) fn advance(held: &mut Held, layer: Captured) -> Result<Placement, Stop> {
        held.disk.push(&layer.files, layer.index).map_err(|error| host(&error))?;
        held.grows = false;
        held.chain.push(layer.files);
        held.id = Some(layer.placement.state);
        if let Some(digest) = layer.frozen {
            Self::compare(held, digest)?;
        }
        Ok(layer.placement)
    }
}
