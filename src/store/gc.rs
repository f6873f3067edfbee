//! Collects garbage: lets results go by a policy, then removes what nothing names any more.
//!
//! The order is that of writing in reverse. First, in one go and durably, the journal says which
//! states are gone: children with their parents, so that a result implies its whole chain at every
//! moment. Then the objects that no result, ref or lease names are removed, a few at a time. Builds
//! go on meanwhile: nobody else waits for more than one of these steps. A kill at any point leaves a
//! store that is whole, and garbage for the next collection.
//!
//! Before each step the leases are read anew, and then the journal: a build records its result before
//! its lease ends, so that what it made is in one of the two.
//!
//! It works on a full disk: see `store::reserve`.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::inventory::{Inventory, Stored};
use super::lease::{self, Held};
use super::results::{Record, Results};
use super::retention::{self, Decision, Dropped, Facts, Rule};
use super::roots::Roots;
use super::sweep::{self, Swept};
use super::{Store, StoreError, journal, reserve};
use crate::digest::{ObjectId, StateId};
use crate::files::{Context, FileError, Stamp};
use crate::key::Manifest;
use crate::recipe::Retention;

/// Objects that are removed while builds wait.
const BATCH: usize = 64;
/// Largest manifest in bytes.
const MAX_MANIFEST: u64 = 16 << 20;

/// Between which steps a collection stands; builds can do anything then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has looked at every object.
    Looked,
    /// The journal says what is gone.
    Dropped,
    /// Some objects were removed.
    Removed,
    /// Everything else that is left over was removed.
    Swept,
}

/// What a collection did, or would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The states that are gone, children before their parents.
    pub dropped: Vec<Dropped>,
    /// Objects that were removed.
    pub objects: usize,
    /// Bytes of these objects.
    pub bytes: u64,
    /// What else was removed.
    pub swept: Swept,
    /// Bytes of objects that stay.
    pub stays: u64,
    /// Rules of room that are broken still, since the rest must be kept.
    pub unmet: Vec<Rule>,
}

/// Seconds since 1970 in UTC.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Whether the last collection is longer ago than that.
#[must_use]
pub fn is_due(store: &Store, period: Duration) -> bool {
    let last = std::fs::metadata(store.work().join(lease::GC)).and_then(|meta| meta.modified());
    last.ok().and_then(|last| last.elapsed().ok()).is_none_or(|passed| passed > period)
}

/// Collects.
///
/// # Errors
/// Where something cannot be read that may keep something, or the journal cannot be written.
pub fn collect(store: &Store, policy: &Retention, now: u64) -> Result<Collected, StoreError> {
    collect_with(store, policy, now, &mut |_| {})
}

/// The same, and calls something between its steps.
///
/// # Errors
/// As [`collect`].
pub fn collect_with(
    store: &Store,
    policy: &Retention,
    now: u64,
    between: &mut dyn FnMut(Phase),
) -> Result<Collected, StoreError> {
    let inventory = Inventory::read(store)?;
    between(Phase::Looked);
    let Decision { dropped, stays, unmet } = {
        let _alone = store.removing()?;
        let roots = Roots::read(store, policy.keep_builds, lease::all(store)?)?;
        let results = store.results()?;
        let decision = decision(store, &results, &roots, &inventory, policy, now);
        let gone = decision.dropped.iter().map(|dropped| Record::Dropped { state: dropped.state });
        let records: Vec<Record> = gone.collect();
        if !records.is_empty() {
            reserve::append(store, &records)?;
        }
        decision
    };
    between(Phase::Dropped);
    let (objects, bytes) = remove_unnamed(store, &inventory, between)?;
    let swept = sweep::sweep(store, now)?;
    between(Phase::Swept);
    if let Err(error) = journal::compact(&*store.medium, &store.journal()) {
        // On a full disk the journal stays as long as it is.
        match error {
            journal::JournalError::File(error) if reserve::is_full(&error.source) => {}
            error => return Err(error.into()),
        }
    }
    reserve::ensure(store)?;
    note_collection(store);
    Ok(Collected { dropped, objects, bytes, swept, stays, unmet })
}

/// Tells what a collection would do, and changes nothing.
///
/// # Errors
/// As [`collect`].
pub fn preview(store: &Store, policy: &Retention, now: u64) -> Result<Collected, StoreError> {
    let inventory = Inventory::read(store)?;
    let roots = Roots::read(store, policy.keep_builds, lease::visible(store)?)?;
    let results = store.results()?;
    let Decision { dropped, stays, unmet } =
        decision(store, &results, &roots, &inventory, policy, now);
    let gone: HashSet<StateId> = dropped.iter().map(|dropped| dropped.state).collect();
    let named = named(&results, |state| !gone.contains(&state));
    let stays_for = |id: &ObjectId| named.contains(id) || roots.objects.contains(id);
    let removed: Vec<Stored> = inventory
        .objects
        .iter()
        .filter(|(id, _)| !stays_for(id))
        .map(|(_, stored)| *stored)
        .collect();
    let bytes = removed.iter().map(|stored| stored.bytes).sum();
    let swept = Swept::default();
    Ok(Collected { dropped, objects: removed.len(), bytes, swept, stays, unmet })
}

/// What goes: what nothing can use, and what the policy says.
fn decision(
    store: &Store,
    results: &Results,
    roots: &Roots,
    inventory: &Inventory,
    policy: &Retention,
    now: u64,
) -> Decision {
    let resized = |state| is_resized(store, results, state);
    let facts = Facts {
        results,
        inventory,
        kept: &roots.states,
        held: &roots.objects,
        used: &roots.used,
        resized: &resized,
        now,
        available: available(store),
    };
    let mut decision = retention::decide(&facts, policy);
    // Said aloud: else a base that is made anew would bring back what its objects were removed of.
    let broken = results.broken().iter();
    decision.dropped.extend(broken.map(|&state| Dropped {
        state,
        rule: Rule::Broken,
        used: roots.used.get(&state).copied().unwrap_or_default(),
        bytes: 0,
    }));
    decision
}

/// Whether a state is what became of a base that was made larger.
fn is_resized(store: &Store, results: &Results, state: StateId) -> bool {
    results.iter().filter(|result| result.state == state).any(|result| {
        let bytes = store.objects().read(result.manifest, MAX_MANIFEST);
        let manifest = bytes.ok().and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
        manifest.is_some_and(|manifest| manifest.is_of_growth())
    })
}

/// Bytes that are free for everybody on the store's file system.
fn available(store: &Store) -> u64 {
    let space = rustix::fs::statvfs(store.root());
    space.map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize))
}

/// The objects that results name, and the layers of states.
fn named(results: &Results, stays: impl Fn(StateId) -> bool) -> HashSet<ObjectId> {
    let layers = results.placements().filter(|layer| stays(layer.state));
    let results = results.iter().filter(|result| stays(result.state));
    let of_results = results.flat_map(super::results::ActionResult::objects);
    layers.flat_map(super::results::Placement::objects).chain(of_results).collect()
}

/// What is named at one moment, by leases and by the journal.
struct Named {
    journal: Option<Stamp>,
    by_results: HashSet<ObjectId>,
    by_leases: BTreeSet<Held>,
}

impl Named {
    /// Reads it, first the leases; what the journal said is read again only if it has changed.
    fn read(store: &Store, before: Option<Self>) -> Result<Self, StoreError> {
        let by_leases = lease::all(store)?;
        let journal = Stamp::of(&store.journal());
        let by_results = match before {
            Some(before) if before.journal == journal => before.by_results,
            _ => named(&store.results()?, |_| true),
        };
        Ok(Self { journal, by_results, by_leases })
    }

    fn has(&self, id: ObjectId) -> bool {
        self.by_results.contains(&id) || self.by_leases.contains(&Held::Object(id))
    }
}

/// Removes the objects that nothing names; tells how many, and their bytes.
fn remove_unnamed(
    store: &Store,
    inventory: &Inventory,
    between: &mut dyn FnMut(Phase),
) -> Result<(usize, u64), StoreError> {
    let mut named = Named::read(store, None)?;
    let all = inventory.objects.iter().map(|(id, stored)| (*id, *stored));
    let mut unnamed: Vec<_> = all.filter(|(id, _)| !named.has(*id)).collect();
    // The largest first: that is what a full disk needs.
    unnamed.sort_unstable_by_key(|(id, stored)| (std::cmp::Reverse(stored.bytes), *id));
    let (mut objects, mut bytes) = (0, 0);
    for batch in unnamed.chunks(BATCH) {
        let alone = store.removing()?;
        named = Named::read(store, Some(named))?;
        for (id, stored) in batch.iter().filter(|(id, _)| !named.has(*id)) {
            match store.objects().remove(*id) {
                // Another collection was faster.
                Err(FileError { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                removed => {
                    removed?;
                    objects += 1;
                    bytes += stored.bytes;
                }
            }
        }
        drop(alone);
        between(Phase::Removed);
    }
    Ok((objects, bytes))
}

/// Notes on its lock that a collection was done. One that cannot be noted is done again earlier.
fn note_collection(store: &Store) {
    let path = store.work().join(lease::GC);
    let noted = File::options().write(true).open(&path).context("open", &path);
    let _ = noted.map(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests;
