//! Reads everything that results name, and compares it with its names.
//!
//! A layer is read whole: its index against the object's name and the state, its data against the
//! object's name, and each block against the index. What is found may be dropped, so that the next
//! build makes it again; only what is looked at once more and found damaged still is removed, so that
//! no good copy of anything is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::journal::{self, Faults, JournalError};
use super::objects::Objects;
use super::results::{ActionResult, Placement, Record, Results};
use super::{Store, StoreError};
use crate::digest::{Digest, Hasher, ObjectId, StateId};
use crate::disk::layer::{self, BLOCK_LEN, LayerIndex};
use crate::files::{Context, FileError, Stamp, read_bounded};

/// Bytes that are read at a time: whole blocks.
const PIECE: usize = 256 * BLOCK_LEN;
/// Largest index that is read, in bytes.
const MAX_INDEX: u64 = 20 << 30;

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// It is not there.
    Missing,
    /// Its bytes are not those that its name says.
    Bytes,
    /// It is no index, or that of another state.
    Index,
    /// It is whole, but its blocks are not those that the index says.
    Blocks,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is not there",
            Self::Bytes => "has not the bytes that its name says",
            Self::Index => "is not the index of this state",
            Self::Blocks => "has not the blocks that the index says",
        })
    }
}

/// Something damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The state whose layer, or one of whose results, cannot be used.
    pub state: StateId,
    /// The object.
    pub object: ObjectId,
    /// What is wrong with it.
    pub flaw: Flaw,
    /// Whether it is of the layer; else a result names it.
    pub layer: bool,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Layers that were looked at.
    pub layers: usize,
    /// Those of them whose data is on a remote, at least in part.
    pub remote: usize,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// What is wrong with the journal; `None` where it is no journal at all.
    pub journal: Option<Faults>,
}

/// What a repair did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// States that are gone now, and are built again.
    pub dropped: BTreeSet<StateId>,
    /// Results that are gone while their layer stays.
    pub forgotten: usize,
    /// Damaged objects that were removed.
    pub removed: usize,
    /// Where the journal is that was none.
    pub journal: Option<PathBuf>,
}

impl Verified {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.damage.is_empty() && self.journal == Some(Faults::default())
    }
}

/// Bytes that [`verify`] is going to read, as far as the journal says.
///
/// # Errors
/// Where the journal cannot be read.
pub fn bytes(store: &Store) -> Result<u64, StoreError> {
    Ok(store.results()?.placements().map(|placement| placement.size).sum())
}

/// Verifies. `read` is called from many threads with the bytes of layers' data that were read.
///
/// # Errors
/// Where the store cannot be read, which is no damage.
pub fn verify(store: &Store, read: &(dyn Fn(u64) + Sync)) -> Result<Verified, StoreError> {
    let (results, faults) = match journal::read_at_rest(&store.journal()) {
        Ok((results, faults)) => (results, Some(faults)),
        Err(JournalError::Magic { .. }) => (Results::default(), None),
        Err(error) => return Err(error.into()),
    };
    let mut verified = look_at(store, &results, None, read)?;
    verified.journal = faults;
    // What a collection let go, or a build made anew, while it was looked at is not damaged: what is
    // wrong is looked at until the journal stays as it is meanwhile.
    while faults.is_some() && !verified.damage.is_empty() {
        let before = Stamp::of(&store.journal());
        let states = verified.damage.iter().map(|damage| damage.state).collect();
        verified.damage = look_at(store, &store.results()?, Some(&states), &|_| {})?.damage;
        if Stamp::of(&store.journal()) == before {
            break;
        }
    }
    Ok(verified)
}

/// Looks at all states, or at some, and at the results that lead to them.
fn look_at(
    store: &Store,
    results: &Results,
    only: Option<&BTreeSet<StateId>>,
    read: &(dyn Fn(u64) + Sync),
) -> Result<Verified, StoreError> {
    let objects = store.objects();
    let wanted = |state| only.is_none_or(|only| only.contains(&state));
    let layers: Vec<&Placement> =
        results.placements().filter(|placement| wanted(placement.state)).collect();
    let looked = layers.par_iter().map(|placement| look_at_layer(&objects, placement, read));
    let looked: Vec<Looked> = looked.collect::<Result<_, FileError>>()?;
    let mut verified = Verified { layers: layers.len(), ..Verified::default() };
    for look in looked {
        verified.bytes += look.bytes;
        verified.remote += usize::from(look.remote);
        verified.damage.extend(look.damage);
    }
    verified.damage.extend(damage_of_results(&objects, results, wanted));
    verified.damage.sort_unstable();
    Ok(verified)
}

/// Objects of results that are not what their names say; the same one may be of many.
fn damage_of_results(
    objects: &Objects,
    results: &Results,
    wanted: impl Fn(StateId) -> bool,
) -> Vec<Damage> {
    let mut named: BTreeMap<ObjectId, BTreeSet<StateId>> = BTreeMap::new();
    for result in results.iter().filter(|result| wanted(result.state)) {
        for object in result.objects() {
            named.entry(object).or_default().insert(result.state);
        }
    }
    let flawed = named
        .into_par_iter()
        .filter_map(|(object, states)| Some((object, states, flaw_of(objects, object)?)));
    let damage = flawed.flat_map_iter(|(object, states, flaw)| {
        states.into_iter().map(move |state| Damage { state, object, flaw, layer: false })
    });
    damage.collect()
}

fn flaw_of(objects: &Objects, id: ObjectId) -> Option<Flaw> {
    if !objects.has(id) {
        Some(Flaw::Missing)
    } else if objects.is_whole(id) {
        None
    } else {
        Some(Flaw::Bytes)
    }
}

/// What was found of one layer.
#[derive(Default)]
struct Looked {
    damage: Vec<Damage>,
    bytes: u64,
    remote: bool,
}

fn look_at_layer(
    objects: &Objects,
    placement: &Placement,
    read: &(dyn Fn(u64) + Sync),
) -> Result<Looked, FileError> {
    let mut looked = Looked::default();
    let state = placement.state;
    let damage = |object, flaw| Damage { state, object, flaw, layer: true };
    if let Some(pack) = placement.pack
        && let Some(flaw) = flaw_of(objects, pack)
    {
        looked.damage.push(damage(pack, flaw));
    }
    let index = match look_at_index(objects, placement)? {
        Ok(index) => index,
        Err(flaw) => {
            looked.damage.push(damage(placement.index, flaw));
            return Ok(looked);
        }
    };
    let Some(data) = placement.data else {
        // An index with blocks needs data.
        if !index.hashes.is_empty() {
            looked.damage.push(damage(placement.index, Flaw::Blocks));
        }
        return Ok(looked);
    };
    match look_at_data(&objects.path(data), data, &index.hashes, read)? {
        (Some(Flaw::Missing), _) if placement.pack.is_some() => looked.remote = true,
        (flaw, bytes) => {
            looked.bytes = bytes;
            looked.damage.extend(flaw.map(|flaw| damage(data, flaw)));
        }
    }
    Ok(looked)
}

fn look_at_index(
    objects: &Objects,
    placement: &Placement,
) -> Result<Result<LayerIndex, Flaw>, FileError> {
    let bytes = match read_bounded(&objects.path(placement.index), MAX_INDEX) {
        Ok(bytes) => bytes,
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(Flaw::Missing));
        }
        Err(error) => return Err(error),
    };
    if ObjectId(Digest::of(&bytes)) != placement.index {
        return Ok(Err(Flaw::Bytes));
    }
    let index = LayerIndex::decode(&bytes).ok().filter(|index| {
        layer::state_id(&bytes) == placement.state && index.parent == placement.parent
    });
    Ok(index.ok_or(Flaw::Index))
}

/// Reads a data object once, for its name and for its blocks; tells how many bytes it has.
fn look_at_data(
    path: &Path,
    id: ObjectId,
    hashes: &[Digest],
    read: &(dyn Fn(u64) + Sync),
) -> Result<(Option<Flaw>, u64), FileError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Some(Flaw::Missing), 0));
        }
        Err(error) => return Err(error).context("open", path),
    };
    let (mut whole, mut hashes, mut blocks_agree) = (Hasher::plain(), hashes.iter(), true);
    let (mut piece, mut bytes) = (Vec::with_capacity(PIECE), 0);
    loop {
        piece.clear();
        let mut part = (&mut file).take(PIECE as u64);
        if part.read_to_end(&mut piece).context("read", path)? == 0 {
            break;
        }
        whole.raw(&piece);
        let mut blocks = piece.chunks(BLOCK_LEN);
        blocks_agree &= blocks.all(|block| hashes.next() == Some(&Digest::of(block)));
        bytes += piece.len() as u64;
        read(piece.len() as u64);
    }
    let flaw = if ObjectId(whole.finish()) != id {
        Some(Flaw::Bytes)
    } else if blocks_agree && hashes.next().is_none() {
        None
    } else {
        Some(Flaw::Blocks)
    };
    Ok((flaw, bytes))
}

/// Drops what was found damaged and still is.
///
/// # Errors
/// Where the journal cannot be written, or an object not removed.
pub fn repair(store: &Store, found: &Verified, now: u64) -> Result<Repaired, StoreError> {
    let mut repaired = Repaired::default();
    // Meanwhile no build adds to its lease, and none takes a damaged object for a good one.
    let _alone = store.removing()?;
    if found.journal.is_none() {
        repaired.journal = Some(journal::set_aside(&*store.medium, &store.journal(), now)?);
        return Ok(repaired);
    }
    let (results, objects) = (store.results()?, store.objects());
    let mut records = Vec::new();
    let mut damaged = BTreeSet::new();
    for damage in &found.damage {
        if damage.layer {
            let Some(placement) = results.placement(damage.state) else { continue };
            let still = look_at_layer(&objects, placement, &|_| {})?.damage;
            if still.is_empty() {
                continue;
            }
            if repaired.dropped.insert(damage.state) {
                records.push(Record::Dropped { state: damage.state });
            }
            let bytes = still.iter().filter(|damage| damage.flaw == Flaw::Bytes);
            damaged.extend(bytes.map(|damage| damage.object));
        } else if let Some(flaw) = flaw_of(&objects, damage.object) {
            let names = |result: &&ActionResult| {
                result.state == damage.state && result.objects().any(|id| id == damage.object)
            };
            for result in results.iter().filter(names) {
                let (key, state) = (result.key, result.state);
                records.push(Record::Forgotten { key, state });
                repaired.forgotten += 1;
            }
            if flaw == Flaw::Bytes {
                damaged.insert(damage.object);
            }
        }
    }
    if !records.is_empty() {
        super::reserve::append(store, &records)?;
    }
    for id in damaged {
        objects.remove(id)?;
        repaired.removed += 1;
    }
    journal::compact(&*store.medium, &store.journal())?;
    Ok(repaired)
}

/// The pins whose state is not in the store any more, or damaged.
///
/// # Errors
/// Where pins or results cannot be read.
pub fn empty_pins(store: &Store) -> Result<Vec<String>, StoreError> {
    let results = store.results()?;
    let pins = store.refs().pins()?;
    let empty = pins.into_iter().filter(|(_, pin)| results.placement(pin.state).is_none());
    Ok(empty.map(|(name, _)| name.to_string()).collect())
}

#[cfg(test)]
mod tests;
