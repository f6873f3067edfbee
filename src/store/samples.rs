//! Small layers for the tests of this room.

use super::objects::Readers;
use super::results::{ActionResult, Placement};
use super::work::Work;
use super::{Store, StoreError};
use crate::digest::{ActionKey, Digest, ObjectId, StateId};
use crate::disk::layer::{self, BLOCK_LEN, Change, Extent, LayerIndex};
use crate::key::{Manifest, Value};

/// The key of the action with a number.
pub(super) fn key(n: u8) -> ActionKey {
    ActionKey(Digest::of(&[n]))
}

/// Two layers with the same number and parent are the same.
pub(super) fn index(n: u8, parent: Option<StateId>) -> LayerIndex {
    LayerIndex {
        parent,
        virtual_size: 1 << 20,
        extents: vec![Extent { start: n.into(), len: 1, change: Change::Data }],
        hashes: vec![Digest::of(&[n; BLOCK_LEN])],
    }
}

/// Stores the data, the index and the manifest of a layer, as a build does.
pub(super) fn objects(
    store: &Store,
    work: &Work,
    n: u8,
    parent: Option<StateId>,
) -> Result<(Placement, ActionResult), StoreError> {
    let (objects, lease) = (store.objects(), work.lease());
    let data = objects.put(lease, work.path(), &[n; BLOCK_LEN], Readers::Group)?;
    let index = index(n, parent).encode();
    let state = layer::state_id(&index);
    let index = objects.put(lease, work.path(), &index, Readers::All)?;
    // An even number is that of a base that was made larger.
    let operation = if n.is_multiple_of(2) { "grow" } else { "step" };
    let operation = ("operation".to_owned(), Value::Text(operation.to_owned()));
    let number = ("number".to_owned(), Value::Number(n.into()));
    let manifest = serde_json::to_vec(&Manifest { fields: vec![operation, number] }).unwrap();
    let manifest: ObjectId = objects.put(lease, work.path(), &manifest, Readers::All)?;
    let placement =
        Placement { state, parent, index, data: Some(data), size: BLOCK_LEN as u64, pack: None };
    let result = ActionResult {
        key: key(n),
        parent,
        state,
        impure: false,
        manifest,
        report: None,
        took_ms: 1,
        host: Vec::new(),
        sbom: None,
        provenance: None,
        at: 0,
        signer: None,
    };
    Ok((placement, result))
}

/// The same, and records the result.
pub(super) fn layer(store: &Store, work: &Work, n: u8, parent: Option<StateId>) -> StateId {
    let (placement, result) = objects(store, work, n, parent).unwrap();
    work.lease().hold([super::lease::Held::State(placement.state)]).unwrap();
    store.record(Some(&placement), &result).unwrap();
    placement.state
}

/// Whether every result can be read with its whole chain, and nothing of it is damaged.
pub(super) fn assert_whole(store: &Store) {
    let results = store.results().unwrap();
    for result in results.iter() {
        assert!(store.objects().is_whole(result.manifest));
        let chain = store.chain(&results, result.state, None).unwrap();
        crate::disk::state::DiskState::open(&chain).unwrap().digest().unwrap();
    }
}
