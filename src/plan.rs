//! The plan: which actions there are, which results serve them, and why the others run.
//!
//! It only reads, never runs anything, and needs no layer's bytes. The clock is an argument.

pub mod history;
mod summary;
pub mod why;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, StateId};
use crate::explain::Reason;
use crate::graph::{BASE, SEAL, SIZE};
use crate::inputs::{self, Input, InputError};
use crate::key::{Action, Generation, Manifest, Operation, Registration, Seal};
use crate::lock::Lock;
use crate::mistake::Mistake;
use crate::name::SecretName;
use crate::recipe::{
    Aids, Attached, Base, Check, Fetch, Fetched, FileBase, LocalFile, Origin, Requirement,
    SecretUse, Step, StepKind,
};
use crate::remote::team::Hit;
use crate::source::{Span, Spanned};
use crate::store::results::{ActionResult, Results};
use crate::workspace::Workspace;

pub use history::History;
pub use summary::summary;

/// The time that a step may take where it does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_hours(1);

/// The code of a base whose name has not been looked up.
pub const NOT_LOCKED: &str = "kiln::plan::not_locked";

/// One action of a build.
#[derive(Debug)]
pub struct Node {
    /// The image that it belongs to, by its place in the graph.
    pub image: usize,
    /// Its label in that image: `base`, a step's label, or `seal`.
    pub label: String,
    /// `IMAGE/STEP`, which is unique in the workspace.
    pub name: String,
    /// The names of all steps that came to be this very action, its own first.
    pub names: Vec<String>,
    /// What it does.
    pub action: Action,
    /// The preimage of its key.
    pub manifest: Manifest,
    /// Its key.
    pub key: ActionKey,
    /// The node that it stands on.
    pub parent: Option<usize>,
    /// How long it may take.
    pub timeout: Duration,
    /// Where the recipe says it.
    pub span: Span,
    /// Whether it, or one below it, uses the network without a lock.
    pub impure: bool,
}

/// The nodes of one image.
#[derive(Debug)]
pub struct Chain {
    /// The image, by its place in the graph.
    pub image: usize,
    /// Its own nodes and those of what it stands on, base first, without seals.
    pub nodes: Vec<usize>,
    /// Its seal.
    pub seal: usize,
}

impl Chain {
    /// Its nodes with the seal, base first.
    #[must_use]
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &usize> {
        self.nodes.iter().chain([&self.seal])
    }
}

/// Every action of the wanted images, each once.
#[derive(Debug, Default)]
pub struct Actions {
    /// The actions, parents before children.
    pub nodes: Vec<Node>,
    /// The wanted images, in an order of building.
    pub chains: Vec<Chain>,
}

/// Finds all actions of some images, hashing the files that they read.
///
/// `closure` are the images whose outputs are wanted and all that they stand on, as
/// [`crate::graph::BuildGraph::closure`] gives them; `wanted` says which of them get a seal; `now`
/// is the time since 1970 in UTC.
///
/// # Errors
/// Every input that cannot be used, with the place of its mention.
pub fn actions(
    workspace: &Workspace,
    closure: &[usize],
    wanted: impl Fn(usize) -> bool,
    lock: &Lock,
    now: Duration,
) -> Result<Actions, Vec<Mistake>> {
    let mut finder = Finder {
        workspace,
        lock,
        now,
        mistakes: Vec::new(),
        actions: Actions::default(),
        by_key: HashMap::new(),
    };
    let mut seals: BTreeMap<usize, Seal> = BTreeMap::new();
    let mut ends: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &image in closure {
        let node = &workspace.graph.images[image];
        let mut scrub = node.image.scrub.clone();
        let mut requirements: Vec<Requirement> = Vec::new();
        let mut chain = Vec::new();
        if let Some(base) = node.base {
            // Obligations are inherited: what a base image has to scrub, this one has too.
            if let Some(below) = seals.get(&base) {
                scrub = scrub.with_inherited(&below.scrub);
                requirements.clone_from(&below.requirements);
            }
            chain.extend(ends.get(&base).into_iter().flatten().copied());
        }
        finder.image(image, &mut chain);
        require(&mut requirements, &node.image.steps);
        let seal = Seal { scrub, requirements };
        if wanted(image) {
            finder.seal(image, &chain, &seal);
        }
        seals.insert(image, seal);
        ends.insert(image, chain);
    }
    if finder.mistakes.is_empty() { Ok(finder.actions) } else { Err(finder.mistakes) }
}

/// Adds what the profiles of an image require.
fn require(requirements: &mut Vec<Requirement>, steps: &[Step]) {
    for step in steps {
        let StepKind::Profile(profile) = &step.kind else { continue };
        for remedied in &profile.requirements {
            add(requirements, &remedied.requirement);
        }
    }
}

/// Adds a requirement. The same one of two profiles is the worse of the two: none loses what another
/// demands. Lists of data sources become one.
fn add(requirements: &mut Vec<Requirement>, new: &Requirement) {
    let is_same = |known: &&mut Requirement| {
        let sources =
            matches!((&known.check, &new.check), (Check::Datasources(_), Check::Datasources(_)));
        known.name == new.name && (sources || known.check == new.check)
    };
    let Some(known) = requirements.iter_mut().find(is_same) else {
        requirements.push(new.clone());
        return;
    };
    known.severity = known.severity.min(new.severity);
    if let (Check::Datasources(known), Check::Datasources(new)) = (&mut known.check, &new.check) {
        let missing: Vec<_> = new.iter().filter(|name| !known.contains(name)).cloned().collect();
        known.extend(missing);
    }
}

/// An action before it has its place.
struct Draft<'a> {
    image: usize,
    label: &'a str,
    parent: Option<usize>,
    operation: Operation,
    network: bool,
    aids: Aids<Input, SecretUse>,
    registration: Option<Registration>,
    generation: Option<Generation>,
    timeout: Duration,
    span: Span,
}

impl<'a> Draft<'a> {
    /// An action that has nothing of its own but what it does.
    fn plain(
        image: usize,
        label: &'a str,
        parent: Option<usize>,
        operation: Operation,
        span: Span,
    ) -> Self {
        Self {
            image,
            label,
            parent,
            operation,
            network: false,
            aids: Aids::default(),
            registration: None,
            generation: None,
            timeout: DEFAULT_TIMEOUT,
            span,
        }
    }
}

struct Finder<'a> {
    workspace: &'a Workspace,
    lock: &'a Lock,
    now: Duration,
    mistakes: Vec<Mistake>,
    actions: Actions,
    by_key: HashMap<ActionKey, usize>,
}

impl Finder<'_> {
    fn image(&mut self, image: usize, chain: &mut Vec<usize>) {
        let workspace = self.workspace;
        let node = &workspace.graph.images[image];
        if let Some((operation, refresh, span)) =
            self.base(&node.image.base.value, node.image.base.span)
        {
            let network = matches!(operation, Operation::Bootstrap(_));
            let generation = self.generation(image, BASE, network, refresh);
            let draft = Draft::plain(image, BASE, None, operation, span);
            chain.push(self.add(Draft { network, generation, ..draft }));
        }
        // Where the base has a mistake, the steps are looked at all the same, for theirs.
        if let Some(size) = &node.image.size {
            let grow = Operation::Grow(size.value);
            let parent = chain.last().copied();
            chain.push(self.add(Draft::plain(image, SIZE, parent, grow, size.span)));
        }
        for (label, step) in node.steps() {
            let Some(draft) = self.step(image, label, step) else { continue };
            chain.push(self.add(Draft { parent: chain.last().copied(), ..draft }));
        }
    }

    fn seal(&mut self, image: usize, chain: &[usize], seal: &Seal) {
        let span = self.workspace.graph.images[image].image.name.span;
        let (parent, seal) = (chain.last().copied(), Operation::Seal(seal.clone()));
        let seal = self.add(Draft::plain(image, SEAL, parent, seal, span));
        self.actions.chains.push(Chain { image, nodes: chain.to_vec(), seal });
    }

    fn add(&mut self, draft: Draft<'_>) -> usize {
        let Draft {
            image,
            label,
            parent,
            operation,
            network,
            aids,
            registration,
            generation,
            timeout,
            span,
        } = draft;
        let workspace = self.workspace;
        let below = parent.map(|parent| &self.actions.nodes[parent]);
        let impure = generation.is_some() || below.is_some_and(|node| node.impure);
        let parent_key = below.map(|node| node.key);
        let action =
            Action { parent: parent_key, operation, network, aids, registration, generation };
        let manifest = action.manifest();
        let key = manifest.key();
        // Two images that say the same share the action.
        let name = format!("{}/{label}", workspace.graph.images[image].image.name.value);
        if let Some(&node) = self.by_key.get(&key) {
            self.actions.nodes[node].names.push(name);
            return node;
        }
        let (label, names) = (label.to_owned(), vec![name.clone()]);
        self.by_key.insert(key, self.actions.nodes.len());
        self.actions.nodes.push(Node {
            image,
            label,
            name,
            names,
            action,
            manifest,
            key,
            parent,
            timeout,
            span,
            impure,
        });
        self.actions.nodes.len() - 1
    }

    fn generation(
        &self,
        image: usize,
        label: &str,
        impure: bool,
        refresh: Option<Duration>,
    ) -> Option<Generation> {
        let name = &self.workspace.graph.images[image].image.name.value;
        impure.then(|| Generation {
            number: self.lock.generation(&format!("{name}/{label}")),
            bucket: refresh.map(|period| self.now.as_secs() / period.as_secs().max(1)),
        })
    }

    fn base(
        &mut self,
        base: &Base<LocalFile>,
        span: Span,
    ) -> Option<(Operation, Option<Duration>, Span)> {
        match base {
            Base::File(FileBase { file, format }) => {
                let file = self.input(file)?;
                Some((Operation::File(FileBase { file, format: *format }), None, span))
            }
            Base::Bootstrap(bootstrap) => {
                Some((Operation::Bootstrap(bootstrap.clone()), bootstrap.refresh, span))
            }
            Base::Fetch(fetch) => Some((Operation::Fetch(self.fetched(fetch, span)?), None, span)),
            Base::Scratch(scratch) => Some((Operation::Scratch(scratch.clone()), None, span)),
            Base::Image(_) => None,
        }
    }

    /// A download by its checksum: the recipe's, or what the lock file has for its name.
    fn fetched(&mut self, fetch: &Fetch, span: Span) -> Option<Fetched> {
        let Fetch { origin, checksum, format } = fetch;
        if let (Origin::Url(url), Some(checksum)) = (origin, checksum) {
            let (url, checksum) = (url.clone(), checksum.clone());
            return Some(Fetched { origin: origin.clone(), url, checksum, format: *format });
        }
        if let Some(locked) = self.lock.resolved.get(&origin.locked_as()) {
            return Some(Fetched {
                origin: origin.clone(),
                url: locked.url.clone(),
                checksum: locked.checksum.clone(),
                format: format.or(locked.format),
            });
        }
        self.mistakes.push(
            Mistake::at(
                span,
                NOT_LOCKED,
                format!("what `{origin}` is has not been looked up yet"),
                "not in the lock file",
            )
            .help("run `kiln lock`, which looks it up and notes it in `kiln.lock`"),
        );
        None
    }

    fn step<'d>(&mut self, image: usize, label: &'d str, step: &Step) -> Option<Draft<'d>> {
        let whole_trees = matches!(step.kind, StepKind::CopyIn(_));
        let kind = step
            .kind
            .map_files(|file| {
                let found = if whole_trees { self.tree(file) } else { self.input(file) };
                found.ok_or(())
            })
            .ok()?;
        let attached: Option<Vec<_>> = step
            .aids
            .attached
            .iter()
            .map(|Attached { source, at, disk }| {
                let (at, disk) = (at.clone(), *disk);
                Some(Attached { source: self.tree(source)?, at, disk })
            })
            .collect();
        let secrets = step.aids.secrets.iter().map(|secret| self.secret(secret)).collect();
        let subscription = step.aids.subscription;
        let aids = Aids { attached: attached?, secrets, subscription };
        let registration = subscription.then(|| self.registration(image)).flatten();
        Some(Draft {
            network: step.network,
            aids,
            registration,
            generation: self.generation(image, label, step.is_impure(), step.refresh),
            timeout: step.timeout.unwrap_or(DEFAULT_TIMEOUT),
            ..Draft::plain(image, label, None, Operation::Step(kind), step.span)
        })
    }

    /// A secret as the key knows it. That there is such a secret, the workspace has checked.
    fn secret(&self, name: &Spanned<SecretName>) -> SecretUse {
        let secrets = &self.workspace.settings.secrets;
        let source = secrets.iter().find(|source| source.name.value == name.value);
        let version = source.map(|source| source.version.clone()).unwrap_or_default();
        SecretUse { name: name.value.clone(), version }
    }

    fn registration(&self, image: usize) -> Option<Registration> {
        let subscription = self.workspace.graph.images[image].image.subscription.as_ref()?;
        let account = subscription.account.map(|secret| self.secret(secret));
        let (pools, server) = (subscription.pools.clone(), subscription.server.clone());
        Some(Registration { account, pools, server })
    }

    fn input(&mut self, file: &LocalFile) -> Option<Input> {
        self.hashed(file, inputs::hash_one)
    }

    fn tree(&mut self, file: &LocalFile) -> Option<Input> {
        self.hashed(file, inputs::hash)
    }

    fn hashed(
        &mut self,
        file: &LocalFile,
        hash: fn(&std::path::Path, &std::path::Path) -> Result<Input, InputError>,
    ) -> Option<Input> {
        let root = &self.workspace.root;
        let path = self.workspace.local(file);
        let relative = path.strip_prefix(root).unwrap_or(&path);
        match hash(root, relative) {
            Ok(input) => Some(input),
            Err(error) => {
                self.mistakes.push(error.mistake(file.span));
                None
            }
        }
    }
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A result serves it.
    Cached(StateId),
    /// A result of a remote serves it.
    Remote {
        /// The remote's name.
        remote: String,
        /// The state that it led to there.
        state: StateId,
    },
    /// It runs.
    Run(Reason),
}

/// What a build will do.
#[derive(Debug)]
pub struct Plan {
    /// For each node what becomes of it; `None` for one that nothing needs.
    pub fates: Vec<Option<Fate>>,
}

/// What an image's last build was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBuild {
    /// By `IMAGE/STEP`.
    pub steps: BTreeMap<String, LastStep>,
}

/// A step as it was at an image's last build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastStep {
    /// Its key.
    pub key: ActionKey,
    /// The state that it led to, where that build had to know it.
    pub state: Option<StateId>,
    /// The preimage of its key.
    pub manifest: Manifest,
}

/// Decides what becomes of each node.
///
/// For each image, the deepest node with a result is taken, and the rest built on exactly that
/// state. An image that is not `needed`, because all its outputs are there, needs no node. Of
/// several results of one key, the one that the image's last build used is taken, else the one with
/// the smallest state; one of the store before the one that is `shared` by a remote.
#[must_use]
pub fn plan(
    actions: &Actions,
    results: &Results,
    needed: impl Fn(usize) -> bool,
    history: &History<'_>,
    shared: &BTreeMap<ActionKey, Hit>,
) -> Plan {
    let mut fates: Vec<Option<Fate>> = vec![None; actions.nodes.len()];
    for chain in actions.chains.iter().filter(|chain| needed(chain.image)) {
        let last = history.last(chain.image);
        let cached = |node: usize| {
            let usable = history.usable(results, actions.nodes[node].key);
            choose(usable, &last).map(|result| result.state)
        };
        let served = |node: usize| {
            let of_remote = |hit: &Hit| {
                let state = hit.accepted.statement.chain.last()?.state;
                Some(Fate::Remote { remote: hit.remote.clone(), state })
            };
            let remote = || shared.get(&actions.nodes[node].key).and_then(of_remote);
            cached(node).map(Fate::Cached).or_else(remote)
        };
        if let Some(fate) = served(chain.seal) {
            fates[chain.seal] = Some(fate);
            continue;
        }
        // From the top: nothing below the deepest hit is looked at.
        let mut runs = vec![chain.seal];
        for &node in chain.nodes.iter().rev() {
            if let Some(Fate::Cached(_) | Fate::Remote { .. }) = fates[node] {
                break;
            }
            if let Some(fate) = served(node) {
                fates[node] = Some(fate);
                break;
            }
            runs.push(node);
        }
        runs.retain(|&node| fates[node].is_none());
        if runs.is_empty() {
            continue;
        }
        let before = history.before(actions, chain, results);
        let reasons = history.reasons(actions, chain, results, before.as_ref());
        for (&node, reason) in chain.all().zip(reasons).filter(|(node, _)| runs.contains(node)) {
            fates[node] = Some(Fate::Run(reason));
        }
    }
    Plan { fates }
}

fn choose<'a>(
    twins: impl Iterator<Item = &'a ActionResult> + Clone,
    last: &LastBuild,
) -> Option<&'a ActionResult> {
    let used =
        |result: &&ActionResult| last.steps.values().any(|step| step.state == Some(result.state));
    twins.clone().find(used).or_else(|| twins.min_by_key(|result| result.state))
}

impl Fate {
    /// Its word in plans and explanations.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Cached(_) => "cached",
            Self::Remote { .. } => "remote",
            Self::Run(_) => "run",
        }
    }
}

impl Plan {
    /// The word for what becomes of a node. What is below a cached step is cached as well: that
    /// step's own chain of layers holds it.
    #[must_use]
    pub fn word(&self, node: usize) -> &'static str {
        self.fates[node].as_ref().map_or("cached", Fate::word)
    }

    /// Why a node runs; `None` where it does not.
    #[must_use]
    pub fn reason(&self, node: usize) -> Option<&Reason> {
        match &self.fates[node] {
            Some(Fate::Run(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Whether a node runs.
    #[must_use]
    pub fn runs(&self, node: usize) -> bool {
        matches!(self.fates[node], Some(Fate::Run(_)))
    }

    /// The nodes that run, parents first.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.fates.len()).filter(|&node| self.runs(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Severity;

    #[test]
    fn requirements_of_several_profiles_become_the_worse_of_them() {
        let requirement = |severity, check: Check| Requirement {
            name: check.keyword().to_owned(),
            severity,
            check,
        };
        let sources = |names: &[&str]| {
            Check::Datasources(names.iter().map(|&name| name.to_owned()).collect())
        };
        let mut all = Vec::new();
        for new in [
            requirement(Severity::Warning, Check::RootLogin),
            requirement(Severity::Error, sources(&["OpenStack", "ConfigDrive"])),
            requirement(Severity::Error, Check::RootLogin),
            requirement(Severity::Advice, Check::RootLogin),
            requirement(Severity::Warning, sources(&["NoCloud", "OpenStack"])),
            requirement(Severity::Warning, Check::Console(None)),
            requirement(Severity::Error, Check::Console(Some("tty0".to_owned()))),
        ] {
            add(&mut all, &new);
        }
        assert_eq!(
            all,
            [
                requirement(Severity::Error, Check::RootLogin),
                requirement(Severity::Error, sources(&["OpenStack", "ConfigDrive", "NoCloud"])),
                requirement(Severity::Warning, Check::Console(None)),
                requirement(Severity::Error, Check::Console(Some("tty0".to_owned()))),
            ]
        );
    }
}
