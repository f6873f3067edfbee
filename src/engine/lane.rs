//! One lane: goes along its nodes with one working disk, and records what it finishes.
//!
//! It runs on a thread of its own and tells the engine's loop what happens. Nothing here decides
//! what runs; that is the plan's.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::flight::{Turn, Wish};
use super::sharing::{Offered, Sharing};
use super::{End, Engine, Event};
use crate::digest::StateId;
use crate::disk::state::DiskState;
use crate::execute::registered::{self, Registered};
use crate::execute::{self, Bench, Fault, FaultKind, Outcome, Packages, Task};
use crate::files::{self, Context};
use crate::guest::Snapshot;
use crate::inputs::{self, Input};
use crate::key::{Operation, Seal};
use crate::name::SecretName;
use crate::output::Wanted;
use crate::plan::{Actions, Node};
use crate::progress::StepDone;
use crate::recipe::{Aids, Attached};
use crate::secret::{Scanner, SecretValue};
use crate::store::LayerFiles;
use crate::store::lease::{Held as Leased, Lease};
use crate::store::objects::Readers;
use crate::store::results::Placement;
use crate::store::work::ActionLock;

/// Where a lane's working disk has its files, in the lane's directory.
const DISK: &str = "disk";

/// What a lane is to do.
pub(super) enum Start {
    /// Run nodes, from a state; without one the first node is a base.
    Nodes {
        /// The lane's number in the schedule.
        lane: usize,
        /// The nodes.
        nodes: Vec<usize>,
        /// The state that the first one stands on.
        state: Option<StateId>,
    },
    /// Write outputs of a sealed state.
    Outputs {
        /// The seal's node.
        seal: usize,
        /// The sealed state.
        state: StateId,
    },
}

/// One lane of a build.
pub(super) struct Lane<'a, 's> {
    pub(super) engine: &'a Engine<'a>,
    pub(super) actions: &'a Actions,
    pub(super) outputs: &'a [Wanted],
    /// The outputs that have to be written.
    pub(super) stale: BTreeSet<usize>,
    pub(super) start: Start,
    /// Which lane of the build this is, for its directory.
    pub(super) number: usize,
    /// The build's directory.
    pub(super) work: &'a Path,
    /// What the build relies on, told to whoever collects garbage.
    pub(super) lease: &'a Lease,
    /// The remotes, where there are any.
    pub(super) sharing: Option<&'a Sharing<'s>>,
    pub(super) sender: Sender<Event>,
    /// The last state that it recorded itself.
    pub(super) reached: Cell<Option<StateId>>,
}

/// Why a lane stops.
pub(super) enum Stop {
    Replan,
    Fault { node: Option<usize>, fault: Fault },
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault { node: None, fault }
    }
}

pub(super) fn host(error: &dyn miette::Diagnostic) -> Stop {
    Fault::of(FaultKind::Host, error).into()
}

/// What to say of a guest that is still registered, unless the lane's fault says it: that of a
/// build which was called off reaches nobody, nor does one behind another fault.
fn left_registered(directory: &Path, end: &End) -> Option<String> {
    let registered = Registered::read(&directory.join(DISK))?.to_string();
    if let End::Failed { fault, .. } = end
        && fault.to_string().contains(&registered)
    {
        return None;
    }
    let image = registered::image_of(directory).unwrap_or_default();
    Some(format!("the registration of the image `{image}` was not ended: {registered}"))
}

/// Makes a fault of a panic: the engine's loop waits for the end of every lane.
fn caught(work: impl FnOnce() -> Result<(), Stop>) -> Result<(), Stop> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let fault = Fault::new(
            FaultKind::Host,
            "kiln::engine::panicked",
            format!("kiln itself failed: {text}"),
        );
        Err(fault.with_help("this is a bug in kiln; what was finished stays cached").into())
    })
}

/// The disk of a lane between two nodes.
pub(super) struct Held {
    /// The state that it is at; `None` before the base.
    pub(super) id: Option<StateId>,
    /// The same state, for reading.
    pub(super) disk: DiskState,
    /// The chain of the state, base first.
    pub(super) chain: Vec<LayerFiles>,
    /// Whether the disk is larger than the last layer of the chain says.
    pub(super) grows: bool,
    /// The working disk at that state, once one is needed.
    bench: Option<Box<dyn Bench>>,
    /// The secrets that programs on this working disk were given so far, and what finds them.
    secrets: Vec<(SecretName, SecretValue)>,
    pub(super) scanner: Option<Scanner>,
}

impl Held {
    /// Notes what a task gives to programs: from here on it may be anywhere on the disk.
    fn gives(&mut self, task: &Task) {
        let Task::Step { secrets, .. } = task else { return };
        let new = secrets.iter().filter(|secret| !self.secrets.contains(secret));
        let new: Vec<_> = new.cloned().collect();
        if !new.is_empty() {
            self.secrets.extend(new);
            self.scanner = Some(Scanner::new(&self.secrets));
        }
    }
}

impl<'s> Lane<'_, 's> {
    /// Does what it is to do, and tells how it ended.
    pub(super) fn run(self) {
        let lane = match &self.start {
            Start::Nodes { lane, .. } => *lane,
            Start::Outputs { .. } => usize::MAX,
        };
        let directory = self.work.join(format!("lane-{}", self.number));
        let result = files::make_directory(&directory, 0o700).map_err(|error| host(&error));
        let result = result.and_then(|()| {
            caught(|| match &self.start {
                Start::Nodes { nodes, state, .. } => self.nodes(nodes, *state, &directory),
                Start::Outputs { seal, state } => self.cached_outputs(*seal, *state, &directory),
            })
        });
        let end = match result {
            Ok(()) => End::Finished,
            Err(Stop::Replan) => End::Replan,
            Err(Stop::Fault { node, fault }) => self.judge(node, fault),
        };
        if let Some(text) = left_registered(&directory, &end) {
            self.tell(Event::Warning { text });
        }
        let _ = std::fs::remove_dir_all(&directory);
        self.tell(Event::Ended { lane, end });
    }

    pub(super) fn tell(&self, event: Event) {
        // The loop outlives every lane.
        let _ = self.sender.send(event);
    }

    /// A fault of a called-off build is none of the step's; a damaged layer is built again.
    fn judge(&self, node: Option<usize>, fault: Fault) -> End {
        if self.engine.interrupted.load(Ordering::SeqCst) {
            return End::Replan;
        }
        if fault.kind == FaultKind::Damaged && self.drop_damaged() {
            return End::Replan;
        }
        End::Failed { node, fault }
    }

    /// Drops the states below this lane whose objects are missing or not what their names say;
    /// tells whether there were any.
    fn drop_damaged(&self) -> bool {
        let state = self.reached.get().or(match &self.start {
            Start::Nodes { state, .. } => *state,
            Start::Outputs { state, .. } => Some(*state),
        });
        let store = self.engine.store;
        let Ok(results) = store.results() else { return false };
        let lost = self.sharing.map(|sharing| sharing.fetcher.lost()).unwrap_or_default();
        let mut dropped = false;
        let mut next = state;
        while let Some(state) = next {
            let Some(placement) = results.placement(state) else { break };
            if lost.contains(&state)
                && let Some(sharing) = self.sharing
            {
                // Or the same result would be taken over again.
                sharing.team.refuse(state);
            }
            // What is here in part is no worse for it, unless the rest cannot be had.
            let partly = placement.pack.is_some()
                && placement.data.is_some_and(|id| !store.objects().has(id));
            let data = placement.data.filter(|_| !partly);
            let objects = [Some(placement.index), data];
            let damaged = || objects.into_iter().flatten().any(|id| !store.objects().is_whole(id));
            if lost.contains(&state) || damaged() {
                for id in objects.into_iter().flatten() {
                    if !store.objects().is_whole(id) {
                        // A damaged object under its name would be found again by the next build.
                        let _ = store.objects().remove(id);
                    }
                }
                dropped |= store.drop_state(state).is_ok();
            }
            next = placement.parent;
        }
        dropped
    }

    /// The layers of a state, which stay from now on; one that is not whole is built again.
    pub(super) fn chain(&self, state: StateId) -> Result<Vec<LayerFiles>, Stop> {
        let store = self.engine.store;
        self.hold(state)?;
        let results = store.results().map_err(|error| host(&error))?;
        let socket = self.sharing.map(|sharing| sharing.socket.as_path());
        match store.chain(&results, state, socket) {
            Ok(chain) => Ok(chain),
            Err(crate::store::StoreError::MissingLayer { state }) => {
                // One that was collected meanwhile is gone from the results already.
                if results.placement(state).is_some() {
                    store.drop_state(state).map_err(|error| host(&error))?;
                }
                Err(Stop::Replan)
            }
            Err(error) => Err(host(&error)),
        }
    }

    /// Keeps a state from being collected while the build runs.
    pub(super) fn hold(&self, state: StateId) -> Result<(), Stop> {
        self.lease.hold([Leased::State(state)]).map_err(|error| host(&error))
    }

    pub(super) fn open_state(chain: &[LayerFiles]) -> Result<DiskState, Stop> {
        DiskState::open(chain).map_err(|error| Fault::of(FaultKind::Damaged, &error).into())
    }

    fn nodes(&self, nodes: &[usize], state: Option<StateId>, directory: &Path) -> Result<(), Stop> {
        let chain = state.map_or(Ok(Vec::new()), |state| self.chain(state))?;
        let disk = if chain.is_empty() { DiskState::blank(0) } else { Self::open_state(&chain)? };
        let (bench, secrets, scanner) = (None, Vec::new(), None);
        let mut held = Held { id: state, disk, chain, grows: false, bench, secrets, scanner };
        for &number in nodes {
            let node = &self.actions.nodes[number];
            let result = caught(|| self.node(number, node, &mut held, directory));
            result.map_err(|stop| match stop {
                Stop::Fault { node: None, fault } => Stop::Fault { node: Some(number), fault },
                stop => stop,
            })?;
        }
        match held.bench.take() {
            Some(bench) => bench.close().map_err(Stop::from),
            None => Ok(()),
        }
    }

    /// Runs one node and records its result.
    fn node(
        &self,
        number: usize,
        node: &Node,
        held: &mut Held,
        directory: &Path,
    ) -> Result<(), Stop> {
        if self.engine.interrupted.load(Ordering::SeqCst) {
            return Err(Stop::Replan);
        }
        let (lock, turn) = self.lock(number, node)?;
        let start = Instant::now();
        let mut downloaded = None;
        let (outcome, layer) = match &node.action.operation {
            Operation::Seal(seal) => {
                return self.seal(number, node, seal, held, directory, start, turn);
            }
            Operation::File(base) => (Outcome::default(), self.file_base(base, held, directory)?),
            Operation::Fetch(base) => {
                let (layer, file) = self.fetched_base(number, base, held, directory)?;
                downloaded = Some(file);
                (Outcome::default(), layer)
            }
            operation => {
                let same = match operation {
                    Operation::Grow(size) => Self::grow(*size, held, directory)?,
                    _ => false,
                };
                let outcome = if same {
                    self.bench(held, directory)?;
                    Outcome::default()
                } else {
                    let task = self.task(node, operation, directory)?;
                    held.gives(&task);
                    self.perform(number, node, &task, held, directory)?
                };
                let bench = held.bench.as_mut().ok_or(Stop::Replan)?;
                let epoch = bench.snapshot(self.engine.options.verify_layers)?;
                (outcome, self.store_epoch(&epoch, held, directory)?)
            }
        };
        let parent = held.id;
        let placement = Self::advance(held, layer)?;
        let ended = (!outcome.leftovers.is_empty())
            .then(|| format!("ended what it left running: {}", outcome.leftovers.join(", ")));
        let notes: Vec<_> = outcome.told.iter().cloned().chain(ended).collect();
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        let took = start.elapsed();
        self.record(node, parent, &placement, outcome, None, took, directory)?;
        if let Some(file) = downloaded {
            // The layer holds it now. One that stays is found again by whoever wants it.
            let _ = file.remove();
        }
        drop(lock);
        self.offer(node, &placement, turn);
        let done = StepDone { took, layer: placement.size, note };
        self.tell(Event::Done { node: number, state: placement.state, done });
        Ok(())
    }

    /// Takes the right to build a node, and looks whether it has a result meanwhile: another kiln
    /// built it, here or elsewhere, or a base made anew from the same bytes brought back what stood
    /// on it.
    fn lock(&self, number: usize, node: &Node) -> Result<(ActionLock, Option<Turn<'s>>), Stop> {
        let store = self.engine.store;
        let taken = ActionLock::try_take(store, node.key).map_err(|error| host(&error))?;
        let mut told = false;
        if taken.is_none() {
            self.wait_told(number, &mut told, None);
        }
        let lock = taken.map_or_else(|| self.wait_for_lock(node), Ok)?;
        let results = self.engine.results().map_err(|error| host(&error))?;
        if !results.of_action(node.key).is_empty() {
            return Err(Stop::Replan);
        }
        let turn = match self.sharing {
            None => None,
            Some(sharing) => {
                let called_off = self.engine.interrupted;
                let waiting = |host: &str| self.wait_told(number, &mut told, Some(host));
                match sharing.flight.wish(node.key, node.impure, called_off, waiting) {
                    Wish::Run(turn) => turn,
                    Wish::Built | Wish::CalledOff => return Err(Stop::Replan),
                }
            }
        };
        if !told {
            self.tell(Event::Started { node: number });
        }
        Ok((lock, turn))
    }

    /// Tells that a node, which has its place in the view from now on, waits for another kiln.
    fn wait_told(&self, number: usize, told: &mut bool, holder: Option<&str>) {
        if !*told {
            self.tell(Event::Started { node: number });
            *told = true;
        }
        let holder = holder.map(str::to_owned);
        self.tell(Event::Waiting { node: number, holder });
    }

    /// Lets others have a result.
    fn offer(&self, node: &Node, placement: &Placement, turn: Option<Turn<'s>>) {
        let Some(sharing) = self.sharing else { return };
        let (engine, actions) = (self.engine, self.actions);
        sharing.offer(Offered { engine, actions, node, placement, turn }.job());
    }

    /// Looks again and again, so that the user can end the waiting.
    pub(super) fn wait_for_lock(&self, node: &Node) -> Result<ActionLock, Stop> {
        loop {
            if self.engine.interrupted.load(Ordering::SeqCst) {
                return Err(Stop::Replan);
            }
            let taken = ActionLock::try_take(self.engine.store, node.key);
            if let Some(lock) = taken.map_err(|error| host(&error))? {
                return Ok(lock);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Takes private copies of a step's inputs, and makes it a task.
    fn task(&self, node: &Node, operation: &Operation, directory: &Path) -> Result<Task, Stop> {
        Ok(match operation {
            Operation::File(_) | Operation::Fetch(_) | Operation::Seal(_) | Operation::Test(_) => {
                return Err(Stop::Replan);
            }
            Operation::Scratch(scratch) => {
                Task::Scratch { scratch: scratch.clone(), seed: node.key.0, timeout: node.timeout }
            }
            Operation::Grow(_) => Task::Grow { timeout: node.timeout },
            Operation::Bootstrap(bootstrap) => Task::Bootstrap {
                bootstrap: bootstrap.clone(),
                seed: node.key.0,
                timeout: node.timeout,
            },
            Operation::Step(kind) => {
                let copies = directory.join(format!("inputs-{}", node.key.short()));
                let mut count = 0;
                let mut copy = |input: &Input| {
                    let place = copies.join(count.to_string());
                    count += 1;
                    files::make_directory(&place, 0o700).map_err(|error| host(&error))?;
                    let path = inputs::snapshot(input, &place)
                        .map_err(|error| Stop::from(Fault::of(FaultKind::Step, &error)))?;
                    Ok::<_, Stop>(Snapshot { path })
                };
                let kind = kind.map_files(&mut copy)?;
                let Aids { attached, secrets, subscription } = &node.action.aids;
                let attached = attached
                    .iter()
                    .map(|Attached { source, at, disk }| {
                        Ok(Attached { source: copy(source)?, at: at.clone(), disk: *disk })
                    })
                    .collect::<Result<_, Stop>>()?;
                let (secrets, subscription) = (secrets.clone(), *subscription);
                let values = super::secrets::values(&node.action, self.engine.vault);
                let values = values.map_err(|error| host(&error))?;
                Task::Step {
                    kind,
                    network: node.action.network,
                    aids: Aids { attached, secrets, subscription },
                    registration: node.action.registration.clone(),
                    secrets: values,
                    timeout: node.timeout,
                }
            }
        })
    }

    /// Gives the disk that a lane holds another size, before it is opened with it; tells whether it
    /// has that size already.
    fn grow(size: u64, held: &mut Held, directory: &Path) -> Result<bool, Stop> {
        let now = held.disk.virtual_size();
        if size < now {
            let message =
                format!("the disk has {}, and cannot become {}", exact_size(now), exact_size(size));
            return Err(Fault::new(FaultKind::Step, "kiln::engine::shrinks", message)
                .with_help("a disk only grows: write a larger `size`, or none")
                .into());
        }
        if size > now {
            // A loop device keeps the size that its file had.
            if let Some(bench) = held.bench.take() {
                bench.close()?;
                let disk = directory.join(DISK);
                std::fs::remove_dir_all(&disk)
                    .context("remove", &disk)
                    .map_err(|error| host(&error))?;
            }
            held.disk.grow(size);
            held.grows = true;
        }
        Ok(size == now)
    }

    fn perform(
        &self,
        number: usize,
        node: &Node,
        task: &Task,
        held: &mut Held,
        directory: &Path,
    ) -> Result<Outcome, Stop> {
        match task {
            Task::Bootstrap { bootstrap, .. } => held.disk = DiskState::blank(bootstrap.size),
            Task::Scratch { scratch, .. } => held.disk = DiskState::blank(scratch.size),
            Task::Grow { .. } | Task::Step { .. } => {}
        }
        if let Task::Step { registration: Some(_), .. } = task {
            let image = self.engine.image(node.image);
            registered::note_image(directory, image).map_err(|error| host(&error))?;
        }
        let log = self.engine.store.log(node.key);
        let bench = self.bench(held, directory)?;
        Ok(bench.perform(task, &log, &mut self.lines(number))?)
    }

    /// The working disk at the state that the lane holds, opened if it is not yet.
    fn bench<'h>(
        &self,
        held: &'h mut Held,
        directory: &Path,
    ) -> Result<&'h mut Box<dyn Bench>, Stop> {
        if held.bench.is_none() {
            let disk = directory.join(DISK);
            files::make_directory(&disk, 0o700).map_err(|error| host(&error))?;
            let start = match held.id {
                None => execute::Start::Blank(held.disk.virtual_size()),
                Some(_) if held.grows => {
                    execute::Start::Grown(held.chain.clone(), held.disk.virtual_size())
                }
                Some(_) => execute::Start::State(held.chain.clone()),
            };
            held.bench = Some(self.engine.executor.open(&start, &disk)?);
        }
        held.bench.as_mut().ok_or(Stop::Replan)
    }

    /// Passes on what a node prints.
    pub(super) fn lines(&self, node: usize) -> impl FnMut(&str) + Send + 'static {
        let sender = self.sender.clone();
        move |line: &str| {
            let _ = sender.send(Event::Line { node, line: line.to_owned() });
        }
    }

    /// The end of an image: the last writes, the layer, a second reading of that state by other
    /// code, the record, the outputs.
    #[expect(clippy::too_many_arguments, reason = "what a node has and what it is given")]
    fn seal(
        &self,
        number: usize,
        node: &Node,
        seal: &Seal,
        held: &mut Held,
        directory: &Path,
        start: Instant,
        turn: Option<Turn<'s>>,
    ) -> Result<(), Stop> {
        let log = self.engine.store.log(node.key);
        self.bench(held, directory)?;
        let bench = held.bench.take().ok_or(Stop::Replan)?;
        let (report, mut resting) =
            bench.seal(&seal.scrub, node.key.0, &log, &mut self.lines(number))?;
        let epoch = resting.snapshot(self.engine.options.verify_layers)?;
        let layer = self.store_epoch(&epoch, held, directory)?;
        resting.close()?;
        let parent = held.id;
        let placement = Self::advance(held, layer)?;

        let mut sealed = self.open_sealed(&held.chain, directory)?;
        let mut report = sealed.verify(report)?;
        if !seal.requirements.is_empty() {
            let audit =
                self.audit(node.image, &held.chain, &seal.requirements, &report, directory)?;
            report.audit = Some(audit);
        }
        let bytes = serde_json::to_vec(&report).expect("a report is plain data");
        let id = self.engine.store.objects().put(self.lease, directory, &bytes, Readers::All);
        let id = id.map_err(|error| host(&error))?;
        let packages = report.inventory().map_or(Packages::AsBefore, Packages::Are);
        let (took, outcome) = (start.elapsed(), Outcome { packages, ..Outcome::default() });
        self.record(node, parent, &placement, outcome, Some(id), took, directory)?;
        self.offer(node, &placement, turn);
        let done = StepDone { took, layer: placement.size, note: Some(report.labels.to_string()) };
        self.tell(Event::Done { node: number, state: placement.state, done });
        self.write_outputs(number, placement.state, &report, &mut *sealed)?;
        Ok(sealed.close()?)
    }
}

/// A size in whole MiB where it is one, and in bytes where it is not: two that differ read so.
fn exact_size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{bytes} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_that_is_left_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        registered::note_image(directory.path(), "web").unwrap();
        assert_eq!(left_registered(directory.path(), &End::Finished), None);
        let disk = directory.path().join(DISK);
        std::fs::create_dir(&disk).unwrap();
        let account = "the user `me`".to_owned();
        let note = Registered { consumer: Some("0b2f".to_owned()), account, server: None };
        note.write(&disk).unwrap();
        let failed = |message: String| {
            let fault = Fault::new(FaultKind::Host, "kiln::execute::unregister", message);
            End::Failed { node: None, fault }
        };
        // A called-off build, and a fault of something else.
        for end in [End::Replan, End::Finished, failed("the step failed".to_owned())] {
            let text = left_registered(directory.path(), &end).unwrap();
            assert!(
                text.starts_with("the registration of the image `web` was not ended"),
                "{text}"
            );
            assert!(text.contains("consumer 0b2f of the user `me` may still"), "{text}");
        }
        let end = failed(format!("the guest could not be unregistered: {note}"));
        assert_eq!(left_registered(directory.path(), &end), None);
    }
}
