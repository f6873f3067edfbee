//! Takes over the results of a bundle, whole.
//!
//! Of each result all layers come first, every block compared with its hash; then what the result
//! names; then the result itself. So a kill leaves whole results and garbage, and nothing between.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{ImportError, Moved};
use crate::causes::in_one_line;
use crate::digest::{ActionKey, StateId};
use crate::disk::layer::LayerIndex;
use crate::engine::adopt::{AdoptError, Adopter, Described};
use crate::explain::Head;
use crate::name::Namespace;
use crate::pack::Pack;
use crate::pack::partial::{Partial, PartialError};
use crate::remote::backend::Backend;
use crate::remote::team::{Hit, Member, Team};
use crate::remote::trust::Trust;
use crate::remote::{Bundle, Guarded, Patience, RecordKind};
use crate::store::Store;
use crate::store::lease::Held;
use crate::store::partials::data_file;
use crate::store::results::{Placement, Results};
use crate::store::work::Work;

/// Takes over results of bundles.
pub struct Import<'a> {
    /// Where they go.
    pub store: &'a Store,
    /// Whose results count.
    pub namespace: Namespace,
    /// By whose signatures.
    pub trust: Trust,
    /// Becomes true when the user wants the end.
    pub interrupted: &'a AtomicBool,
}

/// What became of the results in a bundle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// They are in the store now, and were not before.
    pub new: usize,
    /// They were in the store already.
    pub known: usize,
    /// They do not count.
    pub refused: usize,
}

/// What is told while a bundle is read.
pub enum Told {
    /// A result is in the store.
    Taken(Moved),
    /// A result is not used.
    Warning(String),
}

impl Import<'_> {
    /// Takes over all results of a bundle that count, and tells each that it takes and each that it
    /// does not.
    ///
    /// # Errors
    /// Where it is no bundle, nothing in it counts, something that counts is damaged, or the store
    /// fails. What was told as taken stays.
    pub fn read(self, path: &Path, tell: &mut dyn FnMut(Told)) -> Result<Imported, ImportError> {
        let bundle = Bundle::open(path)?;
        let mut imported = Imported::default();
        let mut keys = Vec::new();
        for record in bundle.records().filter(|record| record.kind == RecordKind::Result) {
            let Ok(key) = record.name.parse::<ActionKey>() else { continue };
            if record.namespace == self.namespace {
                keys.push(key);
                continue;
            }
            imported.refused += 1;
            let (short, of) = (key.short(), &record.namespace);
            let text = format!("the result of {short} is not used: it is of the namespace `{of}`");
            tell(Told::Warning(text));
        }
        let names = names(&bundle, &self.namespace, &keys);
        let patience = Patience::default();
        let backend = Guarded::new(Box::new(bundle), &patience);
        let member = Member { backend, read_only: true, impure: true };
        let team = Team::new(vec![member], self.namespace, self.trust, None);
        let hits = team.find(&keys);
        for warning in team.warnings(&mut BTreeSet::new()) {
            tell(Told::Warning(warning));
        }
        imported.refused += keys.len() - hits.len();
        let mut hits: Vec<(ActionKey, Hit)> = hits.into_iter().collect();
        // From the base up, so that each brings little more than one layer.
        hits.sort_by_key(|(key, hit)| (hit.accepted.statement.chain.len(), *key));
        let work = Work::new(self.store)?;
        let taker = Taker { adopter: Adopter { store: self.store, team: &team, work: &work } };
        let mut bad = Bad::default();
        for (key, hit) in &hits {
            if self.interrupted.load(Ordering::SeqCst) {
                return Err(ImportError::Interrupted);
            }
            let start = Instant::now();
            let name = names.get(key).cloned().unwrap_or_else(|| key.short());
            match taker.take(*key, hit, &bad) {
                Ok(None) => imported.known += 1,
                Ok(Some(bytes)) => {
                    imported.new += 1;
                    tell(Told::Taken(Moved { name, bytes, took: start.elapsed() }));
                }
                Err(AdoptError::Store(error)) => return Err(error.into()),
                Err(AdoptError::File(error)) => return Err(error.into()),
                Err(error) => {
                    bad.results += 1;
                    bad.states.extend(error.layer());
                    let why = in_one_line(&error);
                    tell(Told::Warning(format!("the result of {name} is not used: {why}")));
                }
            }
        }
        let path = path.to_owned();
        match imported {
            _ if bad.results > 0 => Err(ImportError::Damaged { path, results: bad.results }),
            Imported { new: 0, known: 0, .. } => Err(ImportError::Nothing { path }),
            imported => Ok(imported),
        }
    }
}

/// What turned out to be damaged.
#[derive(Default)]
struct Bad {
    results: usize,
    /// States whose layers cannot be had: nothing that stands on them can.
    states: HashSet<StateId>,
}

/// What actions are called, by what a bundle says of its images: for people.
fn names(bundle: &Bundle, namespace: &Namespace, keys: &[ActionKey]) -> HashMap<ActionKey, String> {
    let keys: HashSet<ActionKey> = keys.iter().copied().collect();
    let mut names = HashMap::new();
    let of_image = |kind, of: &Namespace| kind == RecordKind::Image && of == namespace;
    for record in bundle.records().filter(|record| of_image(record.kind, &record.namespace)) {
        let Ok(image) = record.name.parse() else { continue };
        // What is no head has no names.
        let Ok(Some(bytes)) = bundle.record(record) else { continue };
        let Ok(head) = Head::decode(&bytes, &image) else { continue };
        let steps = head.steps.into_iter().filter(|step| keys.contains(&step.key));
        names.extend(steps.map(|step| (step.key, step.name)));
    }
    names
}

/// Takes results out of one bundle.
struct Taker<'a> {
    adopter: Adopter<'a>,
}

impl Taker<'_> {
    /// Takes over a result; tells how many bytes that took, or `None` where it is here already.
    fn take(&self, key: ActionKey, hit: &Hit, bad: &Bad) -> Result<Option<u64>, AdoptError> {
        let Adopter { store, team, work } = self.adopter;
        let statement = &hit.accepted.statement;
        let chain = &statement.chain;
        if let Some(link) = chain.iter().find(|link| bad.states.contains(&link.state)) {
            return Err(AdoptError::NotAsSigned { state: link.state });
        }
        // From now on nothing of the chain that is here is collected.
        work.lease().hold(chain.iter().map(|link| Held::State(link.state)))?;
        let mut results = store.results()?;
        results.leave_out(|signer| team.trust().allows(signer));
        let mut wanted = Vec::new();
        for (at, (link, layer)) in chain.iter().zip(&hit.accepted.layers).enumerate() {
            if self.is_whole(&results, link.state) {
                continue;
            }
            let layer = layer.ok_or(AdoptError::NoPack { state: link.state })?;
            wanted.push((at, layer));
        }
        let last = chain.last().map(|link| link.state);
        let known = results.of_action(key).iter().any(|result| Some(result.state) == last);
        if known && wanted.is_empty() {
            return Ok(None);
        }
        let (mut placements, mut bytes) = (Vec::with_capacity(wanted.len()), 0);
        for described in self.adopter.describe(chain, &wanted)? {
            let (placement, fetched) = self.layer(described, &results)?;
            bytes += fetched;
            placements.push(placement);
        }
        let manifest = self.adopter.blob(statement.manifest)?;
        let result = self.adopter.result(key, hit, manifest, statement.impure)?;
        let others = [Some(statement.manifest), statement.report, statement.sbom];
        let others = others.into_iter().chain([statement.provenance]).flatten();
        bytes += others.map(|blob| blob.len).sum::<u64>();
        store.record_all(&placements, &result)?;
        Ok(Some(bytes))
    }

    /// Whether all of a layer is here.
    fn is_whole(&self, results: &Results, state: StateId) -> bool {
        let objects = self.adopter.store.objects();
        let here = |placement: &Placement| placement.data.is_none_or(|data| objects.has(data));
        results.placement(state).is_some_and(here)
    }

    /// Brings a layer into the store, every block checked; tells where it lies, and how many bytes
    /// came.
    fn layer(
        &self,
        described: Described,
        results: &Results,
    ) -> Result<(Placement, u64), AdoptError> {
        let Adopter { store, team, work } = self.adopter;
        let Described { pack, index, placement } = described;
        let state = placement.state;
        let came = (pack.len() + index.len()) as u64;
        // Where it lies in the bundle is of no use any more; where it lies on a remote still is.
        let elsewhere = results.placement(state).and_then(|known| known.pack);
        let encoded = self.adopter.put(&index)?;
        let mut placement = Placement { index: encoded, pack: elsewhere, ..placement };
        if placement.data.is_none() {
            return Ok((placement, came));
        }
        let pack =
            Pack::decode(&pack, state).map_err(|source| AdoptError::Pack { state, source })?;
        let index =
            LayerIndex::decode(&index).map_err(|source| AdoptError::Fault { state, source })?;
        let path = work.path().join(format!("data-{}", state.short()));
        let file = data_file(&path, placement.size)?;
        let partial = Partial::new(pack, index.hashes, file, path.clone(), Vec::new());
        let partial = partial.ok_or(AdoptError::NotAsSigned { state })?;
        partial.complete(team).map_err(|error| match error {
            PartialError::File(error) => AdoptError::File(error),
            PartialError::Read(source) => AdoptError::Data { state, source },
        })?;
        partial.sync()?;
        placement.data = Some(store.keep_data(work.lease(), &path)?);
        Ok((placement, came + partial.fetched()))
    }
}
