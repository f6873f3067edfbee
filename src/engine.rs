//! The engine: makes a plan true.
//!
//! One single-threaded loop owns the state of the build. It starts a thread for each lane of the
//! schedule, as many at a time as there are jobs; a lane goes along its nodes with one working disk,
//! records what it finishes, and tells the loop over a channel. When another kiln has built
//! something meanwhile, or a layer turns out to be damaged, the lane ends, and the loop plans again
//! once all lanes have come to rest.

mod adopt;
mod audits;
mod bases;
mod boots;
pub mod bundle;
mod failure;
mod flight;
mod lane;
mod layers;
mod outputs;
mod push;
mod secrets;
mod sharing;
mod uses;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::digest::StateId;
use crate::execute::{Executor, Fault, FaultKind, recover};
use crate::files::FileError;
use crate::output::Wanted;
use crate::plan::{self, Actions, Fate, LastBuild, LastStep, Plan};
use crate::progress::{Progress, StepDone, StepName};
use crate::remote::team::Team;
use crate::remote::trust::Trust;
use crate::schedule::{self, Item, Schedule};
use crate::secret::Vault;
use crate::store::results::Results;
use crate::store::{Store, StoreError, work::Work};
use crate::workspace::Workspace;

pub use audits::foreign;
pub use boots::{Tested, disk_size, free_ports, machine_gone};
pub use failure::{BuildError, StepFailure};
use lane::{Lane, Start};
use sharing::{Shared, Sharing};

/// How often a build is planned again without having less to run than ever before, until it gives
/// up: each time something that it relied on turned out to be gone.
const MAX_ROUNDS: usize = 20;

/// How a build is done.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Working disks at a time.
    pub jobs: usize,
    /// Whether each layer is read back and compared with the disk at rest.
    pub verify_layers: bool,
    /// After what time without a sign of life nobody waits any more for a build elsewhere.
    pub lease: Duration,
}

/// What [`Options::lease`] is where nothing else is said.
pub const LEASE: Duration = Duration::from_mins(1);

/// What a build did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The actions that ran, as `IMAGE/STEP`, in the order in which they were done.
    pub ran: Vec<String>,
    /// Outputs that were written.
    pub written: usize,
}

/// Everything that a build needs.
pub struct Engine<'a> {
    /// The recipes.
    pub workspace: &'a Workspace,
    /// Where results go.
    pub store: &'a Store,
    /// Who runs actions.
    pub executor: &'a dyn Executor,
    /// Where the values of secrets are found.
    pub vault: &'a Vault,
    /// The remotes that it shares results with.
    pub team: &'a Team,
    /// How.
    pub options: Options,
    /// Becomes true when the user wants the build to end.
    pub interrupted: &'a AtomicBool,
}

/// What a lane tells the loop.
enum Event {
    Started { node: usize },
    Line { node: usize, line: String },
    Waiting { node: usize, holder: Option<String> },
    Done { node: usize, state: StateId, done: StepDone },
    Written { output: usize, note: String },
    Warning { text: String },
    Ended { lane: usize, end: End },
}

/// How a lane ended.
enum End {
    /// All its nodes are done.
    Finished,
    /// Something is not as the plan had it.
    Replan,
    /// A node failed.
    Failed { node: Option<usize>, fault: Fault },
}

/// The outputs of the wanted images.
#[must_use]
pub fn outputs(workspace: &Workspace, actions: &Actions) -> Vec<Wanted> {
    let mut outputs = Vec::new();
    for chain in &actions.chains {
        let image = &workspace.graph.images[chain.image].image;
        outputs.extend(image.outputs.iter().map(|output| Wanted {
            image: chain.image,
            path: workspace.root.join(output.file(&image.name.value)),
            format: output.format,
            seal: actions.nodes[chain.seal].key,
        }));
    }
    outputs
}

/// What is noted of each image's last build.
#[must_use]
pub fn last_build(workspace: &Workspace, store: &Store, image: usize) -> LastBuild {
    let name = &workspace.graph.images[image].image.name.value;
    store.refs().image(name).unwrap_or_default()
}

impl Engine<'_> {
    /// Builds what is wanted.
    ///
    /// # Errors
    /// Every step that failed, or what stopped the build as a whole. What was finished stays cached.
    pub fn build(
        &self,
        actions: &Actions,
        progress: &mut dyn Progress,
    ) -> Result<Summary, BuildError> {
        let start = Instant::now();
        let outputs = outputs(self.workspace, actions);
        let mut summary = Summary::default();
        let trust = self.trust();
        let stale: BTreeSet<usize> =
            (0..outputs.len()).filter(|&at| !outputs[at].is_current(self.store, &trust)).collect();
        for (at, output) in outputs.iter().enumerate().filter(|(at, _)| !stale.contains(at)) {
            progress.output(self.image(output.image), &outputs[at].path, false, "");
        }
        self.note_current(&outputs, &stale);
        if stale.is_empty() && !self.options.verify_layers {
            progress.finished(start.elapsed());
            return Ok(summary);
        }
        self.executor.check().map_err(BuildError::Fault)?;
        self.clean_up(progress);
        let work = Work::new(self.store).map_err(BuildError::File)?;
        let mut stale = stale;
        self.beside(&work, progress, |sharing, progress| {
            self.rounds(actions, &outputs, &mut stale, &work, sharing, &mut summary, progress)
        })?;
        progress.finished(start.elapsed());
        Ok(summary)
    }

    /// Puts the host in order after builds that were killed.
    fn clean_up(&self, progress: &mut dyn Progress) {
        if let Err(error) = recover::recover(self.store, &mut |text| progress.warning(text)) {
            let why = crate::causes::in_one_line(&error);
            progress.warning(&format!("what a killed build left could not be cleaned up: {why}"));
        }
    }

    /// Builds until nothing is left to do.
    #[expect(clippy::too_many_arguments, reason = "what a build has and what it changes")]
    fn rounds(
        &self,
        actions: &Actions,
        outputs: &[Wanted],
        stale: &mut BTreeSet<usize>,
        work: &Work,
        sharing: Option<&Sharing<'_>>,
        summary: &mut Summary,
        progress: &mut dyn Progress,
    ) -> Result<(), BuildError> {
        // Waiting for another kiln takes a round for each of its steps, however many there are.
        let (mut fewest, mut rounds) = (usize::MAX, 0);
        while rounds < MAX_ROUNDS {
            match self.round(actions, outputs, stale, work, sharing, summary, progress)? {
                Round::Complete => return Ok(()),
                Round::Again { running } if running < fewest => (fewest, rounds) = (running, 0),
                Round::Again { .. } => rounds += 1,
            }
        }
        Err(BuildError::Fault(
            Fault::new(
                FaultKind::Host,
                "kiln::engine::no_rest",
                "what was built kept being taken away again",
            )
            .with_help("another program removes files of the store; `lsof` on it may tell which"),
        ))
    }

    /// The keys whose signatures count.
    pub(super) fn trust(&self) -> Trust {
        Trust::new(&self.workspace.settings.sharing.trusted)
    }

    /// The results that count: none that a revoked key signed, and none that stands on such.
    pub(super) fn results(&self) -> Result<Results, StoreError> {
        let mut results = self.store.results()?;
        let trust = self.trust();
        results.leave_out(|signer| trust.allows(signer));
        Ok(results)
    }

    fn image(&self, image: usize) -> &str {
        self.workspace.graph.images[image].image.name.value.as_str()
    }

    #[expect(clippy::too_many_arguments, reason = "what a build has and what it changes")]
    fn round(
        &self,
        actions: &Actions,
        outputs: &[Wanted],
        stale: &mut BTreeSet<usize>,
        work: &Work,
        sharing: Option<&Sharing<'_>>,
        summary: &mut Summary,
        progress: &mut dyn Progress,
    ) -> Result<Round, BuildError> {
        let needed = |image: usize| {
            self.options.verify_layers || stale.iter().any(|&output| outputs[output].image == image)
        };
        let Shared { plan, again } = self.plan(actions, &needed, work, sharing, progress)?;
        let cached = plan.fates.iter().filter(|fate| matches!(fate, Some(Fate::Cached(_)))).count();
        self.find_secrets(actions, &plan)?;
        progress.planned(plan.running().count(), cached);
        let lanes = Self::lanes(actions, &plan, outputs, stale);
        let mut round = RoundState {
            actions,
            plan: &plan,
            outputs,
            states: plan
                .fates
                .iter()
                .enumerate()
                .filter_map(|(node, fate)| match fate {
                    Some(Fate::Cached(state)) => Some((node, *state)),
                    _ => None,
                })
                .collect(),
            schedule: Schedule::new(lanes.nodes),
            failures: Vec::new(),
            replan: again,
        };
        let mut for_outputs = lanes.for_outputs;
        let (sender, receiver) = channel();
        std::thread::scope(|scope| {
            let mut numbers = 0..;
            let mut running = 0;
            let mut called_off = false;
            loop {
                while !called_off && running < self.options.jobs.max(1) {
                    let Some(start) = round.next(&mut for_outputs) else { break };
                    let number = numbers.next().unwrap_or_default();
                    let lane = Lane {
                        engine: self,
                        actions,
                        outputs,
                        stale: stale.clone(),
                        start,
                        number,
                        work: work.path(),
                        lease: work.lease(),
                        sharing,
                        sender: Sender::clone(&sender),
                        reached: Cell::default(),
                    };
                    scope.spawn(move || lane.run());
                    running += 1;
                }
                if running == 0 {
                    break;
                }
                let Some(event) = self.next_event(&receiver, &mut called_off) else { continue };
                if let Event::Ended { .. } = event {
                    running -= 1;
                }
                self.handle(event, &mut round, stale, summary, progress);
                if let Some(sharing) = sharing {
                    sharing.tell(progress);
                }
            }
        });
        let noted = self.note_last_builds(actions, &round.states);
        let noted = noted.and_then(|()| self.note_builds(actions, &round.states));
        let failures = std::mem::take(&mut round.failures);
        let replan = round.replan;
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(BuildError::Interrupted);
        }
        if !failures.is_empty() {
            let skipped = skipped(actions, &plan, &failures);
            return Err(self.failed(actions, failures, &skipped));
        }
        noted.map_err(BuildError::File)?;
        let running = plan.running().count();
        Ok(if replan { Round::Again { running } } else { Round::Complete })
    }

    /// Finds the values of all secrets that what runs needs, before anything runs.
    fn find_secrets(&self, actions: &Actions, plan: &Plan) -> Result<(), BuildError> {
        let mut failures: Vec<(Option<usize>, Fault)> = Vec::new();
        for node in plan.running() {
            if let Err(error) = secrets::values(&actions.nodes[node].action, self.vault) {
                let fault = Fault::of(FaultKind::Host, &error);
                // One secret that is missing is told once.
                if failures.iter().all(|(_, known)| *known != fault) {
                    failures.push((Some(node), fault));
                }
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(self.failed(actions, failures, &[])) }
    }

    /// Waits for a lane to say something, and for the user to want the end.
    fn next_event(&self, receiver: &Receiver<Event>, called_off: &mut bool) -> Option<Event> {
        const GLANCE: Duration = Duration::from_millis(100);
        let event = receiver.recv_timeout(GLANCE).ok();
        if self.interrupted.load(Ordering::SeqCst) && !*called_off {
            *called_off = true;
            self.executor.interrupt();
        }
        event
    }

    /// The lanes of what runs, and the outputs whose seal is cached already.
    fn lanes(actions: &Actions, plan: &Plan, outputs: &[Wanted], stale: &BTreeSet<usize>) -> Lanes {
        let items: Vec<Item> = plan
            .running()
            .map(|node| Item {
                node,
                parent: actions.nodes[node].parent.filter(|&parent| plan.runs(parent)),
                last: matches!(
                    actions.nodes[node].action.operation,
                    crate::key::Operation::Seal(_)
                ),
            })
            .collect();
        let sealed = |output: &Wanted| {
            let chain = actions.chains.iter().find(|chain| chain.image == output.image)?;
            match plan.fates[chain.seal] {
                Some(Fate::Cached(state)) => Some((chain.seal, state)),
                _ => None,
            }
        };
        let mut for_outputs = BTreeMap::new();
        for &output in stale {
            for_outputs.extend(sealed(&outputs[output]));
        }
        Lanes { nodes: schedule::lanes(&items), for_outputs: for_outputs.into_iter().collect() }
    }

    fn handle(
        &self,
        event: Event,
        round: &mut RoundState<'_>,
        stale: &mut BTreeSet<usize>,
        summary: &mut Summary,
        progress: &mut dyn Progress,
    ) {
        let key = |node: usize| round.actions.nodes[node].key;
        match event {
            Event::Started { node } => {
                let why = round.plan.reason(node).map(ToString::to_string).unwrap_or_default();
                progress.started(key(node), &self.step_name(round.actions, node), &why);
            }
            Event::Line { node, line } => progress.line(key(node), &line),
            Event::Waiting { node, holder } => progress.waiting(key(node), holder.as_deref()),
            Event::Done { node, state, done } => {
                progress.done(key(node), &done);
                round.states.insert(node, state);
                round.schedule.node_done(node);
                summary.ran.push(round.actions.nodes[node].name.clone());
            }
            Event::Written { output, note } => {
                stale.remove(&output);
                summary.written += 1;
                let wanted = &round.outputs[output];
                progress.output(self.image(wanted.image), &wanted.path, true, &note);
            }
            Event::Warning { text } => progress.warning(&text),
            Event::Ended { lane, end } => {
                round.schedule.lane_done(lane);
                match end {
                    End::Finished => {}
                    End::Replan => {
                        round.replan = true;
                        round.schedule.stop();
                    }
                    End::Failed { node, fault } => {
                        if let Some(node) = node {
                            progress.failed(key(node));
                        }
                        round.failures.push((node, fault));
                    }
                }
            }
        }
    }

    fn step_name(&self, actions: &Actions, node: usize) -> StepName {
        let node = &actions.nodes[node];
        StepName {
            image: self.image(node.image).to_owned(),
            label: node.label.clone(),
            what: plan::summary(&node.action.operation),
        }
    }

    /// Notes what each image was made of, for the next plan's reasons and choice of twins.
    fn note_last_builds(
        &self,
        actions: &Actions,
        states: &BTreeMap<usize, StateId>,
    ) -> Result<(), FileError> {
        for chain in &actions.chains {
            let before = last_build(self.workspace, self.store, chain.image);
            let mut note = before.clone();
            for &node in chain.nodes.iter().chain([&chain.seal]) {
                let step = &actions.nodes[node];
                let old = before.steps.get(&step.name).filter(|old| old.key == step.key);
                let state = states.get(&node).copied().or_else(|| old.and_then(|old| old.state));
                // What failed or was skipped keeps what is known of its last success.
                if state.is_some() {
                    let (key, manifest) = (step.key, step.manifest.clone());
                    note.steps.insert(step.name.clone(), LastStep { key, state, manifest });
                }
            }
            if note != before {
                let name = &self.workspace.graph.images[chain.image].image.name.value;
                self.store.refs().set_image(name, &note)?;
            }
        }
        Ok(())
    }

    fn failed(
        &self,
        actions: &Actions,
        failures: Vec<(Option<usize>, Fault)>,
        skipped: &[usize],
    ) -> BuildError {
        let steps = failures
            .into_iter()
            .map(|(node, fault)| {
                let node = node.map(|node| {
                    let blamed = if is_of_base(&fault) { base_of(actions, node) } else { node };
                    &actions.nodes[blamed]
                });
                StepFailure::new(node, fault, &self.workspace.sources)
            })
            .collect();
        let skipped = skipped.iter().map(|&node| actions.nodes[node].name.clone()).collect();
        BuildError::Steps { steps, skipped }
    }
}

/// Whether a fault tells of the disk that a chain starts with, whichever step found it out.
fn is_of_base(fault: &Fault) -> bool {
    let codes = ["kiln::disk::no_root", "kiln::disk::many_roots", "kiln::guest::not_a_root"];
    fault.code_text().is_some_and(|code| codes.contains(&code))
}

fn base_of(actions: &Actions, mut node: usize) -> usize {
    while let Some(parent) = actions.nodes[node].parent {
        node = parent;
    }
    node
}

/// What did not run because what it stands on failed, parents first.
fn skipped(actions: &Actions, plan: &Plan, failures: &[(Option<usize>, Fault)]) -> Vec<usize> {
    let mut stopped: BTreeSet<usize> = failures.iter().filter_map(|(node, _)| *node).collect();
    let mut skipped = Vec::new();
    for node in plan.running() {
        if actions.nodes[node].parent.is_some_and(|parent| stopped.contains(&parent)) {
            stopped.insert(node);
            skipped.push(node);
        }
    }
    skipped
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Complete,
    /// To be planned again; so many actions were to run.
    Again {
        running: usize,
    },
}

struct Lanes {
    nodes: Vec<schedule::Lane>,
    /// Seals that are cached, with their states, whose outputs have to be written.
    for_outputs: Vec<(usize, StateId)>,
}

struct RoundState<'a> {
    actions: &'a Actions,
    plan: &'a Plan,
    outputs: &'a [Wanted],
    states: BTreeMap<usize, StateId>,
    schedule: Schedule,
    failures: Vec<(Option<usize>, Fault)>,
    replan: bool,
}

impl RoundState<'_> {
    /// What a lane can do next.
    fn next(&mut self, for_outputs: &mut Vec<(usize, StateId)>) -> Option<Start> {
        if let Some(lane) = self.schedule.next_ready() {
            let nodes = self.schedule.nodes(lane).to_vec();
            let parent = self.actions.nodes[nodes[0]].parent;
            let state = parent.and_then(|parent| self.states.get(&parent).copied());
            return Some(Start::Nodes { lane, nodes, state });
        }
        if self.replan {
            return None;
        }
        for_outputs.pop().map(|(seal, state)| Start::Outputs { seal, state })
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
