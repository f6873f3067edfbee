//! What a build has of its remotes: results that it takes over, blocks that are fetched, results
//! that it gives, and leases.
//!
//! All of it runs beside the build, on threads of its own, and none of it can fail the build.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::adopt::{Adopted, Adopter};
use super::flight::{self, Flight, Turn};
use super::push::{Job, Packs, Pushed, Pusher};
use super::{BuildError, Engine};
use crate::causes;
use crate::digest::ActionKey;
use crate::explain::{Built, Head};
use crate::files::Context;
use crate::key::Operation;
use crate::plan::{self, Actions, Fate, History, Node, Plan};
use crate::progress::{Progress, Way};
use crate::remote::fetcher::Fetcher;
use crate::remote::team::{Hit, Team};
use crate::store::results::{Placement, Results};
use crate::store::work::Work;

/// The socket in a build's directory where blocks are asked for.
const SOCKET: &str = "blocks";
/// How often the end of what is on its way is looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// The remotes of one build.
pub(super) struct Sharing<'a> {
    pub(super) team: &'a Team,
    pub(super) fetcher: &'a Fetcher<'a>,
    pub(super) flight: &'a Flight<'a>,
    pub(super) socket: PathBuf,
    jobs: Mutex<Sender<Job<'a>>>,
    pushed: &'a Mutex<Vec<Pushed>>,
    told: Mutex<BTreeSet<String>>,
}

impl<'a> Sharing<'a> {
    /// Gives a result to whoever may have it, some time.
    pub(super) fn offer(&self, job: Job<'a>) {
        // The pusher outlives all lanes.
        let _ = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    }

    /// Tells what has happened since it was last told.
    pub(super) fn tell(&self, progress: &mut dyn Progress) {
        let pushed =
            std::mem::take(&mut *self.pushed.lock().unwrap_or_else(PoisonError::into_inner));
        for Pushed { name, remote, bytes } in pushed {
            progress.shared(&name, &remote, Way::Out, bytes);
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for text in self.team.warnings(&mut told) {
            progress.warning(&text);
        }
    }
}

/// Listens at a socket whose path may be longer than the kernel's limit of some hundred bytes.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let directory = socket.parent().unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let name = socket.file_name().unwrap_or_default();
    UnixListener::bind(
        Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name),
    )
}

/// A plan, and the images that only get their base in this round.
pub(super) struct Shared {
    pub(super) plan: Plan,
    /// Whether something remains to be planned once the bases are there.
    pub(super) again: bool,
}

impl Engine<'_> {
    /// Does a build with its remotes beside it.
    pub(super) fn beside(
        &self,
        work: &Work,
        progress: &mut dyn Progress,
        build: impl FnOnce(Option<&Sharing<'_>>, &mut dyn Progress) -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        let partial = self.has_partial_layers();
        if self.team.is_empty() && !partial {
            return build(None, progress);
        }
        let fetcher = Fetcher::new(self.store, self.team);
        let flight = Flight::new(self.team, flight::nonce(), self.options.lease);
        let (ended, pushed) = (AtomicBool::new(false), Mutex::default());
        let socket = work.path().join(SOCKET);
        let listener = listen(&socket).context("listen at", &socket).map_err(BuildError::File)?;
        let (jobs, receiver) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| fetcher.serve(&listener, &ended));
            scope.spawn(|| flight.keep(&ended));
            let pusher = Pusher {
                store: self.store,
                team: self.team,
                work,
                called_off: self.interrupted,
                done: &pushed,
                packs: Packs::Noted,
            };
            let pusher = scope.spawn(move || pusher.run(receiver));
            let sharing = Sharing {
                team: self.team,
                fetcher: &fetcher,
                flight: &flight,
                socket,
                jobs: Mutex::new(jobs),
                pushed: &pushed,
                told: Mutex::default(),
            };
            let result = build(Some(&sharing), progress);
            // With the last sender the pusher ends, once it has done what it has.
            let Sharing { jobs, told, .. } = sharing;
            drop(jobs);
            while !pusher.is_finished() {
                std::thread::sleep(GLANCE);
            }
            ended.store(true, Ordering::SeqCst);
            if let Err(error) = fetcher.settle_all() {
                let text = causes::in_one_line(&error);
                self.team.tell(format!("what was fetched could not be kept: {text}"));
            }
            for Pushed { name, remote, bytes } in
                std::mem::take(&mut *pushed.lock().unwrap_or_else(PoisonError::into_inner))
            {
                progress.shared(&name, &remote, Way::Out, bytes);
            }
            let mut told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
            for text in self.team.warnings(&mut told) {
                progress.warning(&text);
            }
            result
        })
    }

    /// Whether the store has layers whose data may have to be fetched.
    fn has_partial_layers(&self) -> bool {
        let entries = std::fs::read_dir(self.store.partial());
        entries.is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Plans, and takes over from remotes what the plan then need not run.
    pub(super) fn plan(
        &self,
        actions: &Actions,
        needed: &dyn Fn(usize) -> bool,
        work: &Work,
        sharing: Option<&Sharing<'_>>,
        progress: &mut dyn Progress,
    ) -> Result<Shared, BuildError> {
        let history = History::new(self.workspace, Some(self.store));
        let plan = |results: &Results, shared: &BTreeMap<ActionKey, Hit>| {
            plan::plan(actions, results, needed, &history, shared)
        };
        let mut results = self.results().map_err(BuildError::Store)?;
        let mut alone = plan(&results, &BTreeMap::new());
        let Some(sharing) = sharing else { return Ok(Shared { plan: alone, again: false }) };
        let keys: Vec<ActionKey> = alone.running().map(|node| actions.nodes[node].key).collect();
        let mut hits = sharing.team.find(&keys);
        let adopter = Adopter { store: self.store, team: sharing.team, work };
        loop {
            let mut together = plan(&results, &hits);
            let remote = |fate: &Option<Fate>| matches!(fate, Some(Fate::Remote { .. }));
            let taken: Vec<usize> =
                (0..together.fates.len()).filter(|&node| remote(&together.fates[node])).collect();
            if taken.is_empty() {
                return Ok(Shared { plan: together, again: false });
            }
            let (mut bases, mut changed) = (BTreeSet::new(), false);
            for number in taken {
                let node = &actions.nodes[number];
                let Some(hit) = hits.get(&node.key) else { continue };
                match adopter.adopt(actions, node, hit, &results) {
                    Ok(Adopted::Done) => {
                        progress.shared(&node.name, &hit.remote, Way::In, 0);
                        hits.remove(&node.key);
                        changed = true;
                    }
                    Ok(Adopted::BaseFirst) => {
                        bases.insert(number);
                    }
                    Err(error) => {
                        let text = format!(
                            "the result of {} on `{}` is not used: {}",
                            node.name,
                            hit.remote,
                            causes::in_one_line(&error)
                        );
                        // Or whoever waits for it would take it for built, again and again.
                        if let Some(last) = hit.accepted.statement.chain.last() {
                            sharing.team.refuse(last.state);
                        }
                        if error.is_of_host() {
                            progress.warning(&text);
                        } else {
                            sharing.team.tell(text);
                        }
                        hits.remove(&node.key);
                        changed = true;
                    }
                }
            }
            sharing.tell(progress);
            results = self.results().map_err(BuildError::Store)?;
            if !changed {
                alone = plan(&results, &BTreeMap::new());
                only_bases(actions, &mut together, &alone, &bases);
                return Ok(Shared { plan: together, again: true });
            }
        }
    }
}

/// Leaves of the chains of some remote results only their bases, which run first.
fn only_bases(actions: &Actions, plan: &mut Plan, alone: &Plan, taken: &BTreeSet<usize>) {
    for chain in &actions.chains {
        let mut nodes = chain.all();
        if !nodes.any(|node| taken.contains(node)) {
            continue;
        }
        for &node in chain.all() {
            plan.fates[node] = None;
        }
        if let Some(&base) = chain.nodes.first() {
            plan.fates[base].clone_from(&alone.fates[base]);
        }
    }
}

/// What the lanes give of a node that is done.
pub(super) struct Offered<'a, 'b> {
    pub(super) engine: &'b Engine<'b>,
    pub(super) actions: &'b Actions,
    pub(super) node: &'b Node,
    pub(super) placement: &'b Placement,
    pub(super) turn: Option<Turn<'a>>,
}

impl<'a> Offered<'a, '_> {
    /// The job of sharing it.
    pub(super) fn job(self) -> Job<'a> {
        let Self { engine, actions, node, placement, turn } = self;
        let last = super::last_build(engine.workspace, engine.store, node.image);
        let like = last.steps.get(&node.name).and_then(|step| step.state);
        let mut base = node;
        while let Some(below) = base.parent {
            base = &actions.nodes[below];
        }
        Job {
            name: node.name.clone(),
            key: node.key,
            state: placement.state,
            like: like.filter(|like| *like != placement.state),
            head: matches!(node.action.operation, Operation::Seal(_))
                .then(|| head(engine, actions, node))
                .flatten(),
            public_base: matches!(base.action.operation, Operation::Fetch(_)),
            turn,
        }
    }
}

/// What an image is made of, by its seal.
fn head(engine: &Engine<'_>, actions: &Actions, seal: &Node) -> Option<Head> {
    let chain = actions.chains.iter().find(|chain| actions.nodes[chain.seal].key == seal.key)?;
    let steps = chain.all().map(|&node| {
        let node = &actions.nodes[node];
        Built { name: node.name.clone(), key: node.key, manifest: node.manifest.clone() }
    });
    let image = engine.workspace.graph.images[chain.image].image.name.value.clone();
    Some(Head { image, at: super::layers::now(), steps: steps.collect() })
}
