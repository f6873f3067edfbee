//! Writes results of a store into a bundle.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{ExportError, Moved};
use crate::digest::{ActionKey, StateId};
use crate::engine::push::{Job, Packs, PushError, Pusher, There};
use crate::explain::{Built, Head};
use crate::files::Host;
use crate::graph::SEAL;
use crate::name::ImageName;
use crate::plan::{LastBuild, history};
use crate::remote::backend::Backend;
use crate::remote::fetcher::Fetcher;
use crate::remote::team::Team;
use crate::remote::{BundleSink, RecordKind, RecordName};
use crate::store::lease::Held;
use crate::store::results::{ActionResult, Results};
use crate::store::work::Work;
use crate::store::{Store, StoreError};

/// Writes bundles.
pub struct Export<'a> {
    /// Where the results are.
    pub store: &'a Store,
    /// Whose namespace and key the results are signed with, and where layers are fetched that are
    /// not here whole.
    pub team: &'a Team,
    /// Becomes true when the user wants the end.
    pub interrupted: &'a AtomicBool,
}

/// A result that goes into a bundle.
struct Item {
    name: String,
    key: ActionKey,
    state: StateId,
}

/// What goes into a bundle.
#[derive(Default)]
struct Selection {
    /// By their keys: a bundle has one result of each action.
    items: BTreeMap<ActionKey, Item>,
    heads: Vec<Head>,
}

impl Selection {
    /// Its results, so that each layer goes with the lowest one that has it.
    fn in_order(&self, results: &Results) -> Vec<&Item> {
        let depth = |item: &Item| results.ancestry(item.state).count();
        let mut items: Vec<_> = self.items.values().map(|item| (depth(item), item)).collect();
        items.sort_by(|(depth, item), (other, twin)| (depth, &item.name).cmp(&(other, &twin.name)));
        items.into_iter().map(|(_, item)| item).collect()
    }
}

impl Export<'_> {
    /// Writes the last builds of images, with every step that they consist of and all their layers;
    /// without `images` every result of the store. Tells each result as it is done, and then how
    /// many they were.
    ///
    /// # Errors
    /// Where one of them cannot be had whole; there is no bundle then, and an older one is as it was.
    pub fn write(
        &self,
        path: &Path,
        images: &[ImageName],
        force: bool,
        tell: &mut dyn FnMut(&Moved),
    ) -> Result<usize, ExportError> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(ExportError::Exists { path: path.to_owned() });
        }
        let work = Work::new(self.store)?;
        let selection = self.select(images, &self.results()?)?;
        let states = selection.items.values().map(|item| Held::State(item.state));
        work.lease().hold(states)?;
        // What is still there now stays.
        self.fetch(&selection)?;
        let results = self.results()?;
        let items = selection.in_order(&results);
        let sink = BundleSink::new(&Host, path)?;
        let done = Mutex::default();
        let pusher = Pusher {
            store: self.store,
            team: self.team,
            work: &work,
            called_off: self.interrupted,
            done: &done,
            packs: Packs::Apart,
        };
        let mut there = There::default();
        for item in &items {
            let start = Instant::now();
            let bytes = push(&pusher, &sink, &mut there, item, &results);
            let bytes = bytes.map_err(|error| match sink.failure() {
                Some(failure) => failure.into(),
                None => error,
            })?;
            tell(&Moved { name: item.name.clone(), bytes, took: start.elapsed() });
        }
        for head in &selection.heads {
            let (namespace, kind) = (self.team.namespace().clone(), RecordKind::Image);
            let name = RecordName { namespace, kind, name: head.image.to_string() };
            if let Some(bytes) = head.encode() {
                // What fails here is told at the end.
                let _ = sink.put_record(&name, &bytes, &[]);
            }
        }
        sink.finish()?;
        Ok(items.len())
    }

    /// Gives the last builds of images to every remote that takes them, as a build does with what
    /// it has just made; without `images` every result of the store. Tells each result as it is done,
    /// with the remote's name, and then how many they were.
    ///
    /// # Errors
    /// Where no remote takes results, or one of them cannot be given; those before it are there.
    pub fn give(
        &self,
        images: &[ImageName],
        tell: &mut dyn FnMut(&str, &Moved),
    ) -> Result<usize, ExportError> {
        let work = Work::new(self.store)?;
        let results = self.results()?;
        let selection = self.select(images, &results)?;
        let states = selection.items.values().map(|item| Held::State(item.state));
        work.lease().hold(states)?;
        let done = Mutex::default();
        let pusher = Pusher {
            store: self.store,
            team: self.team,
            work: &work,
            called_off: self.interrupted,
            done: &done,
            packs: Packs::Noted,
        };
        let mut given = 0;
        for member in self.team.writable(false) {
            let mut there = There::default();
            for item in selection.in_order(&results) {
                let twins = results.of_action(item.key);
                let impure = twins.iter().any(|twin| twin.state == item.state && twin.impure);
                if impure && !member.impure {
                    continue;
                }
                let start = Instant::now();
                // What was noted of packs meanwhile is read again.
                let results = self.results()?;
                let bytes = push(&pusher, &member.backend, &mut there, item, &results)?;
                let moved = Moved { name: item.name.clone(), bytes, took: start.elapsed() };
                tell(member.backend.name(), &moved);
                given += 1;
            }
            for head in &selection.heads {
                let (namespace, kind) = (self.team.namespace().clone(), RecordKind::Image);
                let name = RecordName { namespace, kind, name: head.image.to_string() };
                if let Some(bytes) = head.encode() {
                    // It only serves `kiln why`.
                    let _ = member.backend.put_record(&name, &bytes, &[]);
                }
            }
        }
        if self.team.writable(false).next().is_none() && given == 0 {
            return Err(ExportError::NoRemote);
        }
        Ok(given)
    }

    /// The results that count: nobody signs what a revoked key has signed.
    fn results(&self) -> Result<Results, StoreError> {
        let mut results = self.store.results()?;
        results.leave_out(|signer| self.team.trust().allows(signer));
        Ok(results)
    }

    fn select(&self, images: &[ImageName], results: &Results) -> Result<Selection, ExportError> {
        let mut selection = Selection::default();
        for image in images {
            if !self.select_image(image, results, &mut selection) {
                return Err(ExportError::NotBuilt { image: image.clone() });
            }
        }
        if !images.is_empty() {
            return Ok(selection);
        }
        for image in self.store.refs().images()? {
            self.select_image(&image, results, &mut selection);
        }
        let mut others: Vec<&ActionResult> = results.iter().collect();
        // Of twins that no image uses any one will do: the one that a plan takes.
        others.sort_by_key(|result| (result.key, result.state));
        for ActionResult { key, state, .. } in others {
            let item = || Item { name: key.short(), key: *key, state: *state };
            selection.items.entry(*key).or_insert_with(item);
        }
        if selection.items.is_empty() { Err(ExportError::Empty) } else { Ok(selection) }
    }

    /// Adds the last build of an image; `false` where there is none.
    fn select_image(&self, image: &ImageName, results: &Results, all: &mut Selection) -> bool {
        let last: LastBuild = self.store.refs().image(image).unwrap_or_default();
        let Some(seal) = last.steps.get(&format!("{image}/{SEAL}")) else { return false };
        let twins = results.of_action(seal.key);
        let used = twins.iter().find(|twin| Some(twin.state) == seal.state);
        let Some(sealed) = used.or_else(|| twins.iter().min_by_key(|twin| twin.state)) else {
            return false;
        };
        let chain: HashSet<StateId> =
            results.ancestry(sealed.state).map(|placement| placement.state).collect();
        let mut steps: HashMap<ActionKey, _> =
            last.steps.iter().map(|(name, step)| (step.key, (name, step))).collect();
        let (mut built, mut next) = (Vec::new(), Some(seal.key));
        while let Some((name, step)) = next.and_then(|key| steps.remove(&key)) {
            let known = results.of_action(step.key).iter();
            if let Some(result) = known.rev().find(|result| chain.contains(&result.state)) {
                // Shown, and whoever may write to the store has written it.
                let shown = name.escape_debug().to_string();
                let item = Item { name: shown, key: step.key, state: result.state };
                all.items.entry(step.key).or_insert(item);
            }
            let (name, manifest) = (name.clone(), step.manifest.clone());
            built.push(Built { name, key: step.key, manifest });
            next = history::parent(&step.manifest);
        }
        built.reverse();
        all.heads.push(Head { image: image.clone(), at: sealed.at, steps: built });
        true
    }

    /// Fetches what is missing of all layers.
    fn fetch(&self, selection: &Selection) -> Result<(), ExportError> {
        let (results, objects) = (self.results()?, self.store.objects());
        let fetcher = Fetcher::new(self.store, self.team);
        let mut seen = HashSet::new();
        for item in selection.items.values() {
            for placement in results.ancestry(item.state) {
                let here = placement.data.is_none_or(|data| objects.has(data));
                if here || !seen.insert(placement.state) {
                    continue;
                }
                if self.interrupted.load(Ordering::SeqCst) {
                    return Err(ExportError::Interrupted);
                }
                fetcher.complete(placement.state).map_err(|source| {
                    let state = placement.state;
                    let known = selection.items.values().find(|other| other.state == state);
                    let name = known.unwrap_or(item).name.clone();
                    ExportError::Layer { name, source }
                })?;
            }
        }
        Ok(())
    }
}

/// Brings one result into a bundle or to a remote; tells how many bytes it took.
fn push(
    pusher: &Pusher<'_>,
    backend: &dyn Backend,
    there: &mut There,
    item: &Item,
    results: &Results,
) -> Result<u64, ExportError> {
    let Item { name, key, state } = item;
    let result = results.of_action(*key).iter().find(|result| result.state == *state);
    let result = result.ok_or(StoreError::MissingLayer { state: *state })?;
    let job = Job {
        name: name.clone(),
        key: *key,
        state: *state,
        like: None,
        head: None,
        public_base: false,
        turn: None,
    };
    pusher.push_to(backend, there, &job, result, results).map_err(|error| match error {
        PushError::CalledOff => ExportError::Interrupted,
        PushError::Signing(error) => error.into(),
        PushError::Store(error) => error.into(),
        PushError::File(error) => error.into(),
        other => ExportError::Result { name: name.clone(), source: Box::new(other) },
    })
}
