//! What is known of earlier builds: which one an image is compared with, and why its actions run.
//!
//! The store has each image's last build, and the manifest of every result. A chain of results is
//! walked by the parents' keys, which the manifests name; so an image that was renamed, or a fresh
//! checkout beside a full store, is explained as well.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Actions, Chain, LastBuild};
use crate::digest::{ActionKey, StateId};
use crate::explain::{self, Basis, Before, Built, Head, Now, Reason, Sources};
use crate::key::{Manifest, Value};
use crate::mistake::excerpt;
use crate::name::ImageName;
use crate::store::Store;
use crate::store::results::{ActionResult, Results};
use crate::workspace::Workspace;

/// Largest manifest in bytes: a recipe is smaller.
const MAX_MANIFEST: u64 = 32 << 20;
/// How many builds of the store an image without one of its own is compared with: the newest.
const MAX_BUILDS: usize = 128;
/// Longest chain that is walked.
const MAX_STEPS: usize = 100_000;

/// Why nothing can be compared with what a user named.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum UnknownBuild {
    /// The store has no such result.
    #[error("no result in the store has a key or a state `{start}`")]
    #[diagnostic(
        code(kiln::plan::no_such_build),
        help(
            "keys are shown by `kiln why IMAGE/STEP` and `kiln plan --json`, and stand beside each output"
        )
    )]
    None {
        /// What was asked for.
        start: String,
    },
    /// It has several.
    #[error("several results in the store have a key or a state that starts with `{start}`")]
    #[diagnostic(code(kiln::plan::many_builds), help("write more of its digits"))]
    Several {
        /// What was asked for.
        start: String,
    },
}

/// Says what an image's newest shared build was made of; `None` where no remote knows.
pub type Heads<'a> = &'a dyn Fn(&ImageName) -> Option<Head>;

/// What is known of earlier builds.
pub struct History<'a> {
    workspace: &'a Workspace,
    store: Option<&'a Store>,
    heads: Option<Heads<'a>>,
    trusts: Option<&'a dyn Fn(&str) -> bool>,
    against: Option<ActionKey>,
    manifests: RefCell<HashMap<ActionKey, Option<Manifest>>>,
}

impl<'a> History<'a> {
    /// What a store knows; without one, nothing.
    #[must_use]
    pub fn new(workspace: &'a Workspace, store: Option<&'a Store>) -> Self {
        let (heads, trusts, against) = (None, None, None);
        Self { workspace, store, heads, trusts, against, manifests: RefCell::default() }
    }

    /// Asks remotes, too, what an image's newest shared build was made of. They are asked only where
    /// the store has nothing that is like the image.
    #[must_use]
    pub fn with_heads(mut self, heads: Heads<'a>) -> Self {
        self.heads = Some(heads);
        self
    }

    /// Takes results of others only where the number of the key that signed them is trusted.
    #[must_use]
    pub fn trusting(mut self, trusts: &'a dyn Fn(&str) -> bool) -> Self {
        self.trusts = Some(trusts);
        self
    }

    /// Compares with the build that ends in this action, whatever else there is.
    #[must_use]
    pub fn against(mut self, key: ActionKey) -> Self {
        self.against = Some(key);
        self
    }

    /// What is noted of an image's last build.
    #[must_use]
    pub fn last(&self, image: usize) -> LastBuild {
        let name = &self.workspace.graph.images[image].image.name.value;
        self.store.and_then(|store| store.refs().image(name)).unwrap_or_default()
    }

    /// The name of an image.
    pub(super) fn image(&self, image: usize) -> &str {
        self.workspace.graph.images[image].image.name.value.as_str()
    }

    /// Finds what a user means by the start of a key or a state: the key of an action that was built.
    ///
    /// # Errors
    /// Where there is none, or several begin that way.
    pub fn find(&self, results: &Results, start: &str) -> Result<ActionKey, UnknownBuild> {
        const SHORTEST: usize = 4;
        let known: BTreeSet<ActionKey> = results
            .iter()
            .flat_map(|result| [(result.key, result.key.0), (result.key, result.state.0)])
            .filter(|(_, digest)| digest.to_string().starts_with(start))
            .map(|(key, _)| key)
            .collect();
        match (known.len(), known.first()) {
            (1, Some(&key)) if start.len() >= SHORTEST => Ok(key),
            (0, _) => Err(UnknownBuild::None { start: excerpt(start) }),
            _ => Err(UnknownBuild::Several { start: excerpt(start) }),
        }
    }

    /// The results of an action that may be used, oldest first.
    pub(super) fn usable<'r>(
        &'r self,
        results: &'r Results,
        key: ActionKey,
    ) -> impl Iterator<Item = &'r ActionResult> + Clone {
        results.of_action(key).iter().filter(|result| self.distrusted(result).is_none())
    }

    fn distrusted<'r>(&self, result: &'r ActionResult) -> Option<&'r String> {
        result.signer.as_ref().filter(|signer| self.trusts.is_some_and(|trusts| !trusts(signer)))
    }

    /// The build that a chain is compared with: the one that the user named; else the image's last
    /// one here; else the one in the store that is most like it; else what a remote tells.
    #[must_use]
    pub fn before(&self, actions: &Actions, chain: &Chain, results: &Results) -> Option<Before> {
        if let Some(key) = self.against {
            let steps = self.walk(key, results, &LastBuild::default(), &self.names());
            let name = steps.last()?.name.clone();
            return Some(Before { basis: Basis::Named { name }, steps });
        }
        let image = &self.workspace.graph.images[chain.image].image.name.value;
        self.last_build(actions, chain, results)
            .or_else(|| self.nearest(&self.now(actions, chain, results), results))
            .or_else(|| {
                let steps = self.heads?(image)?.steps;
                (!steps.is_empty()).then_some(Before { basis: Basis::Shared, steps })
            })
    }

    /// Why each action of a chain would run, base first and seal last.
    #[must_use]
    pub fn reasons(
        &self,
        actions: &Actions,
        chain: &Chain,
        results: &Results,
        before: Option<&Before>,
    ) -> Vec<Reason> {
        explain::reasons(&self.now(actions, chain, results), before)
    }

    fn now<'n>(&self, actions: &'n Actions, chain: &Chain, results: &Results) -> Vec<Now<'n>> {
        let revoked =
            |key| results.of_action(key).iter().find_map(|result| self.distrusted(result));
        chain
            .all()
            .map(|&node| {
                let node = &actions.nodes[node];
                Now {
                    name: &node.name,
                    key: node.key,
                    manifest: &node.manifest,
                    sources: Sources::of(&node.action, &self.workspace.root),
                    revoked: revoked(node.key).cloned(),
                }
            })
            .collect()
    }

    /// The image's last build. After a build that failed it is put together from several, and the
    /// part below the last step that succeeded may be known by its names only.
    fn last_build(&self, actions: &Actions, chain: &Chain, results: &Results) -> Option<Before> {
        let last = self.last(chain.image);
        let seal = last.steps.get(&actions.nodes[chain.seal].name);
        let names = || chain.all().rev().map(|&node| &actions.nodes[node].name);
        let top = seal.or_else(|| names().find_map(|name| last.steps.get(name)))?;
        let called = last.steps.iter().map(|(name, step)| (step.key, name.clone())).collect();
        let mut steps = self.walk(top.key, results, &last, &called);
        if steps.first().and_then(|step| parent(&step.manifest)).is_some() {
            let known: HashSet<String> = steps.iter().map(|step| step.name.clone()).collect();
            let lost = names().filter(|name| !known.contains(*name));
            let lost = lost.filter_map(|name| Some((name, last.steps.get(name)?)));
            for (name, step) in lost {
                let (key, manifest) = (step.key, step.manifest.clone());
                steps.insert(0, Built { name: name.clone(), key, manifest });
            }
        }
        Some(Before { basis: Basis::Last, steps })
    }

    /// The build in the store that differs from a chain in the fewest values; of several, the newest
    /// one, and then the one with the smallest state.
    fn nearest(&self, now: &[Now<'_>], results: &Results) -> Option<Before> {
        let below: HashSet<StateId> = results.iter().filter_map(|result| result.parent).collect();
        let mut ends: Vec<&ActionResult> =
            results.iter().filter(|result| !below.contains(&result.state)).collect();
        ends.sort_by_key(|result| (Reverse(result.at), result.state, result.key));
        let names = if ends.is_empty() { HashMap::new() } else { self.names() };
        let mut best: Option<(usize, Vec<Built>)> = None;
        for end in ends.into_iter().take(MAX_BUILDS) {
            let steps = self.walk(end.key, results, &LastBuild::default(), &names);
            let Some(distance) = explain::distance(now, &steps) else { continue };
            if best.as_ref().is_none_or(|(least, _)| distance < *least) {
                best = Some((distance, steps));
            }
        }
        let (_, steps) = best?;
        let name = steps.last()?.name.clone();
        Some(Before { basis: Basis::Nearest { name }, steps })
    }

    /// The actions from a base to one with a key, as far as anything is known of them.
    fn walk(
        &self,
        top: ActionKey,
        results: &Results,
        last: &LastBuild,
        names: &HashMap<ActionKey, String>,
    ) -> Vec<Built> {
        let noted: HashMap<ActionKey, &Manifest> =
            last.steps.values().map(|step| (step.key, &step.manifest)).collect();
        let (mut steps, mut next) = (Vec::new(), Some(top));
        // Keys are digests of their parents, so there is no ring; damage could pretend one.
        while let Some(key) = next.filter(|_| steps.len() < MAX_STEPS) {
            let stored = || self.manifest(key, results);
            let Some(manifest) = noted.get(&key).map(|&known| known.clone()).or_else(stored) else {
                break;
            };
            next = parent(&manifest);
            let name = names.get(&key).cloned().unwrap_or_else(|| unnamed(key, &manifest));
            steps.push(Built { name, key, manifest });
        }
        steps.reverse();
        steps
    }

    /// The manifest of an action that has a result.
    fn manifest(&self, key: ActionKey, results: &Results) -> Option<Manifest> {
        if let Some(known) = self.manifests.borrow().get(&key) {
            return known.clone();
        }
        let read = || {
            let object = results.of_action(key).first()?.manifest;
            let bytes = self.store?.objects().read(object, MAX_MANIFEST).ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        let manifest: Option<Manifest> = read();
        self.manifests.borrow_mut().insert(key, manifest.clone());
        manifest
    }

    /// What actions are called, by the last builds of all images of the store.
    fn names(&self) -> HashMap<ActionKey, String> {
        let Some(store) = self.store else { return HashMap::new() };
        let refs = store.refs();
        let images = refs.images().unwrap_or_default();
        let builds = images.into_iter().filter_map(|image| refs.image::<LastBuild>(&image));
        builds.flat_map(|last| last.steps).map(|(name, step)| (step.key, name)).collect()
    }
}

/// What stands for the name of an action that no last build has.
fn unnamed(key: ActionKey, manifest: &Manifest) -> String {
    let word = manifest.fields.iter().find(|(name, _)| name == "operation");
    match word {
        Some((_, Value::Text(word))) => format!("{word} {}", key.short()),
        _ => key.short(),
    }
}

/// The key that an action stands on; `None` for a base.
#[must_use]
pub fn parent(manifest: &Manifest) -> Option<ActionKey> {
    match manifest.fields.iter().find(|(name, _)| name == "parent") {
        Some((_, Value::Digest(digest))) => Some(ActionKey(*digest)),
        _ => None,
    }
}
