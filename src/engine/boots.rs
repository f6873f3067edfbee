//! Boot tests: sealed states are booted and judged. A test is an action like any other: its result
//! has a key, is recorded once, and is shared; it has a report and no layer of its own.

mod observe;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use super::adopt::Adopter;
use super::push::Job;
use super::sharing::Sharing;
use super::{BuildError, Engine};
use crate::audit::AuditReport;
use crate::boot::{Instance, Observed, Subject, checks, judge};
use crate::digest::{ActionKey, ObjectId};
use crate::disk::state::DiskState;
use crate::execute::machine::{Accelerator, EMULATED, Kvm, Machine, key_pair};
use crate::execute::{Fault, FaultKind, Start};
use crate::files::{self, Context};
use crate::key::{Action, Manifest, Operation};
use crate::plan::{self, Actions, Chain};
use crate::progress::{Progress, StepDone, StepName};
use crate::recipe::{Aids, BootTest};
use crate::remote::team::Hit;
use crate::seal::{Labels, SealReport};
use crate::store::objects::Readers;
use crate::store::results::{ActionResult, Results};
use crate::store::work::{ActionLock, Work};
use crate::store::{LayerFiles, lease};
pub use observe::machine_gone;
use observe::{Plan, Watch};

/// Largest report that is read, in bytes.
const LIMIT: u64 = 1 << 30;
/// Memory below which no system starts that kiln is for.
const LEAST_MEMORY: u64 = 64 << 20;

/// What became of the test of an image.
#[derive(Debug)]
pub struct Tested {
    /// The image.
    pub image: String,
    /// What was found.
    pub report: AuditReport,
    /// Whether it was known before.
    pub cached: bool,
    /// The file with what the consoles showed, where the machines were started here.
    pub log: PathBuf,
}

/// A test to be done.
struct Task<'a> {
    image: &'a str,
    test: &'a BootTest,
    key: ActionKey,
    manifest: Manifest,
    /// The sealed state, and what its seal says of it.
    sealed: &'a ActionResult,
    report: SealReport,
    /// Whether everybody can download the base.
    public_base: bool,
}

impl Engine<'_> {
    /// Tests the wanted images, which have been built. One that passed is not tested again, unless
    /// `again`; neither is one that somebody passed who shares results.
    ///
    /// # Errors
    /// Where an image is not built, or the host cannot boot; what a test finds is no error.
    pub fn test(
        &self,
        actions: &Actions,
        again: bool,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Tested>, BuildError> {
        let start = Instant::now();
        let results = self.results()?;
        let tasks: Vec<Task<'_>> = actions
            .chains
            .iter()
            .map(|chain| self.boot_test(actions, chain, &results))
            .collect::<Result<_, _>>()?;
        let mut tested = Vec::new();
        let known: Vec<Option<AuditReport>> = tasks
            .iter()
            .map(|task| if again { None } else { self.known(task, &results) })
            .collect();
        if known.iter().all(Option::is_some) {
            for (task, report) in tasks.iter().zip(known) {
                tested.extend(report.map(|report| self.tested(task, report, true)));
            }
            return Ok(tested);
        }
        let work = Work::new(self.store).map_err(BuildError::File)?;
        self.beside(&work, progress, |sharing, progress| {
            for (number, (task, report)) in tasks.iter().zip(known).enumerate() {
                let (report, cached) = match report {
                    Some(report) => (report, true),
                    None => self.boot_once(number, task, again, &work, sharing, progress)?,
                };
                tested.push(self.tested(task, report, cached));
            }
            Ok(())
        })?;
        progress.finished(start.elapsed());
        Ok(tested)
    }

    fn tested(&self, task: &Task<'_>, report: AuditReport, cached: bool) -> Tested {
        Tested { image: task.image.to_owned(), report, cached, log: self.store.log(task.key) }
    }

    /// The test of an image, on the state that its last build led to.
    fn boot_test<'a>(
        &'a self,
        actions: &'a Actions,
        chain: &Chain,
        results: &'a Results,
    ) -> Result<Task<'a>, BuildError> {
        let seal = &actions.nodes[chain.seal];
        let image = self.image(chain.image);
        let not_built = || {
            let message = format!("`{image}` is not built");
            let fault = Fault::new(FaultKind::Host, "kiln::engine::not_built", message);
            BuildError::Fault(fault.with_help(format!("build it: `kiln build {image}`")))
        };
        let last = super::last_build(self.workspace, self.store, chain.image);
        let used = last.steps.get(&seal.name).and_then(|step| step.state);
        let twins = results.of_action(seal.key);
        let sealed = twins.iter().find(|twin| Some(twin.state) == used);
        let sealed = sealed.or_else(|| twins.iter().min_by_key(|twin| twin.state));
        let sealed = sealed.ok_or_else(not_built)?;
        let report = sealed.report.ok_or_else(not_built)?;
        let bytes = self.store.objects().read(report, LIMIT).map_err(BuildError::File)?;
        let report = serde_json::from_slice(&bytes).map_err(|_| not_built())?;
        let test = &self.workspace.graph.images[chain.image].image.test;
        let action = Action {
            parent: Some(seal.key),
            operation: Operation::Test(test.clone()),
            network: false,
            aids: Aids::default(),
            registration: None,
            generation: None,
        };
        let manifest = action.manifest();
        let base = chain.nodes.first().map(|&node| &actions.nodes[node].action.operation);
        Ok(Task {
            image,
            test,
            key: manifest.key(),
            manifest,
            sealed,
            report,
            public_base: matches!(base, Some(Operation::Fetch(_))),
        })
    }

    /// What an earlier test of the same state found.
    fn known(&self, task: &Task<'_>, results: &Results) -> Option<AuditReport> {
        let twins = results.of_action(task.key);
        let result = twins.iter().find(|result| result.state == task.sealed.state)?;
        self.boot_report(task, result.report?)
    }

    /// The report of a test that passed; one that says something else is none.
    fn boot_report(&self, task: &Task<'_>, id: ObjectId) -> Option<AuditReport> {
        let bytes = self.store.objects().read(id, LIMIT).ok()?;
        let report: AuditReport = serde_json::from_slice(&bytes).ok()?;
        let names = report.findings.iter().map(|finding| &finding.name);
        let whole = names.eq(&checks(task.test)) && report.failures().next().is_none();
        // Somebody else's kiln may have written it.
        whole.then(|| report.harmless())
    }

    /// Boots, unless somebody else did so meanwhile; tells whether that was the case.
    fn boot_once(
        &self,
        number: usize,
        task: &Task<'_>,
        again: bool,
        work: &Work,
        sharing: Option<&Sharing<'_>>,
        progress: &mut dyn Progress,
    ) -> Result<(AuditReport, bool), BuildError> {
        work.lease().hold([lease::Held::State(task.sealed.state)]).map_err(BuildError::File)?;
        let _lock = self.wait_to_boot(task, progress)?;
        if !again {
            // Another kiln may have done it while this one waited.
            if let Some(report) = self.known(task, &self.results()?) {
                return Ok((report, true));
            }
            if let Some(report) = self.adopt_boot(task, work, sharing, progress)? {
                return Ok((report, true));
            }
        }
        self.executor.check().map_err(BuildError::Fault)?;
        self.clean_up(progress);
        let name = StepName {
            image: task.image.to_owned(),
            label: "test".to_owned(),
            what: plan::summary(&Operation::Test(task.test.clone())),
        };
        let why = if again { "asked for" } else { "not passed yet" };
        progress.started(task.key, &name, why);
        let started = Instant::now();
        let booted = self.boot(number, task, work, sharing, progress);
        let took = started.elapsed();
        let report = booted.inspect_err(|_| progress.failed(task.key))?;
        if report.failures().next().is_some() {
            // As with a step that failed, nothing is recorded: it may be the host's fault. What was
            // found before is not believed any more.
            self.store.forget(task.key, task.sealed.state).map_err(BuildError::Store)?;
            progress.failed(task.key);
            return Ok((report, false));
        }
        self.record_boot(task, &report, took, work)?;
        progress.done(task.key, &StepDone { took, layer: 0, note: None });
        if let Some(sharing) = sharing {
            sharing.offer(Job {
                name: format!("{}/test", task.image),
                key: task.key,
                state: task.sealed.state,
                like: None,
                head: None,
                public_base: task.public_base,
                turn: None,
            });
        }
        Ok((report, false))
    }

    fn wait_to_boot(
        &self,
        task: &Task<'_>,
        progress: &mut dyn Progress,
    ) -> Result<ActionLock, BuildError> {
        const GLANCE: Duration = Duration::from_millis(200);
        let mut told = false;
        loop {
            let taken = ActionLock::try_take(self.store, task.key).map_err(BuildError::File)?;
            if let Some(lock) = taken {
                return Ok(lock);
            }
            if self.interrupted.load(Ordering::SeqCst) {
                return Err(BuildError::Interrupted);
            }
            if !std::mem::replace(&mut told, true) {
                progress.waiting(task.key, None);
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Takes over what somebody else found on the same state.
    fn adopt_boot(
        &self,
        task: &Task<'_>,
        work: &Work,
        sharing: Option<&Sharing<'_>>,
        progress: &mut dyn Progress,
    ) -> Result<Option<AuditReport>, BuildError> {
        let Some(sharing) = sharing else { return Ok(None) };
        let hits = sharing.team.find(&[task.key]);
        let of_state = |hit: &&Hit| {
            let last = hit.accepted.statement.chain.last();
            last.is_some_and(|link| link.state == task.sealed.state)
        };
        let Some(hit) = hits.get(&task.key).filter(of_state) else { return Ok(None) };
        let adopter = Adopter { store: self.store, team: sharing.team, work };
        let manifest = self.put(work, &task.manifest)?;
        let result = match adopter.result(task.key, hit, manifest, task.sealed.impure) {
            Ok(result) => result,
            Err(error) => {
                let why = crate::causes::in_one_line(&error);
                let (image, remote) = (task.image, &hit.remote);
                progress
                    .warning(&format!("the test of `{image}` on `{remote}` is not used: {why}"));
                return Ok(None);
            }
        };
        let report = result.report.and_then(|id| self.boot_report(task, id));
        if report.is_some() {
            self.store.record(None, &result).map_err(BuildError::Store)?;
        }
        Ok(report)
    }

    fn put(&self, work: &Work, value: &impl serde::Serialize) -> Result<ObjectId, BuildError> {
        let bytes = serde_json::to_vec(value).expect("plain data");
        let objects = self.store.objects();
        objects.put(work.lease(), work.path(), &bytes, Readers::All).map_err(BuildError::File)
    }

    fn record_boot(
        &self,
        task: &Task<'_>,
        report: &AuditReport,
        took: Duration,
        work: &Work,
    ) -> Result<(), BuildError> {
        let result = ActionResult {
            key: task.key,
            parent: task.sealed.parent,
            state: task.sealed.state,
            impure: task.sealed.impure,
            manifest: self.put(work, &task.manifest)?,
            report: Some(self.put(work, report)?),
            sbom: None,
            provenance: None,
            at: super::layers::now(),
            signer: None,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            host: Vec::new(),
        };
        self.store.record(None, &result).map_err(BuildError::Store)
    }

    /// Boots the machines of a test, with KVM where kernels run in it.
    fn boot(
        &self,
        number: usize,
        task: &Task<'_>,
        work: &Work,
        sharing: Option<&Sharing<'_>>,
        progress: &mut dyn Progress,
    ) -> Result<AuditReport, BuildError> {
        let socket = sharing.map(|sharing| sharing.socket.as_path());
        let results = self.store.results()?;
        let chain = self.store.chain(&results, task.sealed.state, socket)?;
        let kvm = Kvm::default();
        let mut silent = false;
        for accelerator in kvm.accelerators() {
            let directory = work.path().join(format!("boot-{number}-{}", accelerator.keyword()));
            files::make_directory(&directory, 0o700).map_err(BuildError::File)?;
            let last = accelerator == Accelerator::Tcg;
            let observed = self.watch(task, &chain, accelerator, !last, &directory, progress);
            let _ = std::fs::remove_dir_all(&directory);
            let Some(observed) = observed? else {
                silent = true;
                progress.line(task.key, "[kiln: no kernel says a word under KVM: emulating]");
                continue;
            };
            let quick = |machine: &Observed| machine.kernel_after.is_some_and(|it| it < EMULATED);
            if silent && observed.iter().any(quick) {
                kvm.is_silent();
            }
            self.keep_consoles(task, &observed)?;
            return Self::judged(task, &chain, &observed).map_err(BuildError::Fault);
        }
        Err(BuildError::Interrupted)
    }

    fn judged(
        task: &Task<'_>,
        chain: &[LayerFiles],
        observed: &[Observed],
    ) -> Result<AuditReport, Fault> {
        let no_labels = match &task.report.labels {
            Labels::NotApplicable { reason } => Some(reason.as_str()),
            Labels::Relabelled(_) => None,
        };
        let (test, system) = (task.test, task.report.system.as_str());
        let disk_size = disk_size(chain)?;
        Ok(judge(Subject { test, system, disk_size, no_labels }, observed))
    }

    /// Writes what the consoles showed to the log of the test.
    fn keep_consoles(&self, task: &Task<'_>, observed: &[Observed]) -> Result<(), BuildError> {
        let mut text = String::new();
        for machine in observed {
            let (name, source) = (&machine.name, machine.source.keyword());
            let _ = writeln!(text, "=== the console of {name}, with {source}");
            text.push_str(&machine.console.text());
            text.push('\n');
        }
        let path = self.store.log(task.key);
        std::fs::write(&path, text).context("write", &path).map_err(BuildError::File)
    }

    /// Starts the machines and watches them, all at once; `None` where they are silent in a trial.
    fn watch(
        &self,
        task: &Task<'_>,
        chain: &[LayerFiles],
        accelerator: Accelerator,
        trial: bool,
        directory: &Path,
        progress: &mut dyn Progress,
    ) -> Result<Option<Vec<Observed>>, BuildError> {
        let (key, public) = key_pair(directory).map_err(BuildError::Fault)?;
        let sources = task.test.machines();
        let processors = if sources.len() > 1 { 1 } else { 2 };
        let size = disk_size(chain).map_err(BuildError::Fault)?;
        let start = Start::Grown(chain.to_vec(), size.saturating_mul(2));
        let ports = free_ports(sources.len()).map_err(BuildError::Fault)?;
        let labels = matches!(task.report.labels, Labels::Relabelled(_));
        let (sender, receiver) = channel();
        let alive = AtomicBool::new(false);
        let alive = &alive;
        let watched = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (number, (&source, &port)) in sources.iter().zip(&ports).enumerate() {
                let token = format!("kiln-user-data-{}-{number}", task.key.0.short());
                let instance = Instance {
                    id: instance_id(task.key, number),
                    name: format!("clone-{}", number + 1),
                    keys: vec![public.clone()],
                    user_data: user_data(&token),
                    mac: format!("52:54:00:6b:69:{:02x}", number + 1),
                    source,
                };
                let machine = Machine {
                    accelerator,
                    memory: task.test.memory.max(LEAST_MEMORY),
                    processors,
                    firmware: task.test.firmware,
                    instance,
                    ssh_port: port,
                    network: false,
                };
                let (test, key) = (task.test, key.as_path());
                let plan = Plan { test, key, token, trial, alive, labels };
                let work = directory.join(format!("machine-{number}"));
                let (start, sender) = (&start, sender.clone());
                threads.push(scope.spawn(move || {
                    files::make_directory(&work, 0o700)
                        .map_err(|error| Fault::of(FaultKind::Host, &error))?;
                    let since = SystemTime::now();
                    let mut running = self.executor.boot(start, &machine, &work)?;
                    let watch = Watch { machine: &machine, since, lines: sender };
                    let observed = watch.run(&plan, &mut *running);
                    let closed = running.close();
                    let observed = observed?;
                    closed.map(|()| observed)
                }));
            }
            drop(sender);
            self.pass_on(task.key, &receiver, progress);
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
                .collect::<Result<Vec<Option<Observed>>, Fault>>()
        });
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(BuildError::Interrupted);
        }
        // In a trial all machines are silent, or KVM works.
        Ok(watched.map_err(BuildError::Fault)?.into_iter().collect())
    }

    /// Passes on what the consoles show, until all machines have been watched.
    fn pass_on(
        &self,
        key: ActionKey,
        lines: &std::sync::mpsc::Receiver<String>,
        progress: &mut dyn Progress,
    ) {
        use std::sync::mpsc::RecvTimeoutError;
        const GLANCE: Duration = Duration::from_millis(100);
        let mut called_off = false;
        loop {
            match lines.recv_timeout(GLANCE) {
                Ok(line) => progress.line(key, &line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.interrupted.load(Ordering::SeqCst) && !called_off {
                called_off = true;
                self.executor.interrupt();
            }
        }
    }
}

fn panicked() -> Fault {
    Fault::new(FaultKind::Host, "kiln::engine::panicked", "kiln itself failed")
        .with_help("this is a bug in kiln; what was finished stays cached")
}

/// Bytes of the disk of a state.
///
/// # Errors
/// Where its layers cannot be opened.
pub fn disk_size(chain: &[LayerFiles]) -> Result<u64, Fault> {
    let state = DiskState::open(chain);
    let state = state.map_err(|error| Fault::of(FaultKind::Damaged, &error))?;
    Ok(state.virtual_size())
}

/// Ports of the loopback interface on which nobody listens.
///
/// # Errors
/// Where there is none.
pub fn free_ports(count: usize) -> Result<Vec<u16>, Fault> {
    let find = || {
        let held: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        held.iter().map(|held| Ok(held.local_addr()?.port())).collect::<std::io::Result<_>>()
    };
    let ports = find().context("find a free port of", Path::new("127.0.0.1"));
    ports.map_err(|error| Fault::of(FaultKind::Host, &error))
}

/// An id in the form of a UUID, the same for the same machine of the same test.
fn instance_id(key: ActionKey, number: usize) -> String {
    let digest = crate::digest::Digest::of(format!("{key} {number}").as_bytes());
    let hex = digest.to_string();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// A script that tells on the console that it ran, and for whoever logs in.
fn user_data(token: &str) -> Vec<u8> {
    format!(
        "#!/bin/sh\nprintf '%s\\n' {token} >/dev/console\n\
         printf '%s\\n' {token} >/run/kiln-user-data\nchmod 0644 /run/kiln-user-data\n"
    )
    .into_bytes()
}
