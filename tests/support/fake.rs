//! An executor in memory: real disks and layers, and records in place of what a guest would do.
//!
//! Each task appends a record to the disk. A record names the one before it by a number that no
//! other run ever has, and lies in blocks that this number chooses. So two runs of one action differ
//! in bytes and layout, as real ones do, and a layer on the wrong twin cannot be read as a disk.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use kiln::audit::{AuditReport, Finding, Verdict};
use kiln::boot::{Instance, Labels as BootLabels};
use kiln::digest::Digest;
use kiln::disk::layer::{BLOCK, BLOCK_LEN};
use kiln::disk::overlay::Overlay;
use kiln::disk::state::{DiskDigest, DiskState};
use kiln::disk::working::{Lost, LostCause, WorkingDisk};
use kiln::execute::machine::{Machine, Running, Session};
use kiln::execute::registered::Registered;
use kiln::execute::{
    Bench, Epoch, Executor, Fault, FaultKind, OnOutput, Outcome, Packages, Resting, SealedDisk,
    Start, Task,
};
use kiln::guest::Snapshot;
use kiln::guest::installed::Package;
use kiln::recipe::{Check, OutputFormat, Requirement, Scrub};
use kiln::seal::{Labels, Relabelled, SealReport, Verified};
use kiln::store::LayerFiles;
use serde::{Deserialize, Serialize};

/// The block of a base that is the recipe's own and no record.
pub(crate) const MARK: u64 = 255;
/// What the last record of every image is.
pub(crate) const RELABEL: &str = "RELABEL";

/// What a task left on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The task, with the content of its inputs in place of their paths.
    pub(crate) task: String,
    /// A number that no other run has.
    pub(crate) nonce: u64,
    /// The number of the record before it.
    pub(crate) before: Option<u64>,
}

/// Block 0: where the records lie.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Header {
    records: Vec<u64>,
    scratch: Vec<u64>,
}

/// What a disk of the fake executor holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// Its records in order.
    pub(crate) records: Vec<Record>,
    /// The first byte of the base's own block.
    pub(crate) mark: u8,
}

impl Content {
    /// Reads a disk, and checks that all of it belongs together: every record stands on the one
    /// before it, and nothing lies where nobody wrote it.
    pub(crate) fn read(mut block: impl FnMut(u64) -> Vec<u8>) -> Self {
        let header = header(&block(0));
        let mut records: Vec<Record> = Vec::new();
        for &at in &header.records {
            let record: Record =
                serde_json::from_slice(text(&block(at))).expect("a record where one should be");
            assert_eq!(record.before, records.last().map(|last| last.nonce), "a wrong twin");
            records.push(record);
        }
        for at in (1..MARK).filter(|at| !header.records.contains(at)) {
            let used = block(at).iter().any(|&byte| byte != 0);
            assert_eq!(used, header.scratch.contains(&at), "block {at}");
        }
        Self { records, mark: block(MARK)[0] }
    }

    /// Reads a state through its layers.
    pub(crate) fn of_chain(chain: &[LayerFiles]) -> Self {
        let state = DiskState::open(chain).expect("a chain that opens");
        Self::read(|at| {
            let mut bytes = vec![0; BLOCK_LEN];
            state.read_blocks(at, &mut bytes).expect("a block");
            bytes
        })
    }

    /// Reads an output.
    pub(crate) fn of_file(path: &Path) -> Self {
        let bytes = fs::read(path).expect("an output");
        let block = |at: u64| usize::try_from(at).unwrap() * BLOCK_LEN;
        Self::read(|at| bytes[block(at)..block(at + 1)].to_vec())
    }

    /// What was done, without what differs from run to run.
    pub(crate) fn tasks(&self) -> Vec<&str> {
        self.records.iter().map(|record| record.task.as_str()).collect()
    }

    /// The numbers of the runs.
    pub(crate) fn nonces(&self) -> Vec<u64> {
        self.records.iter().map(|record| record.nonce).collect()
    }
}

fn text(block: &[u8]) -> &[u8] {
    let end = block.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    &block[..end]
}

fn header(block: &[u8]) -> Header {
    match text(block) {
        [] => Header::default(),
        text => serde_json::from_slice(text).expect("a header"),
    }
}

/// Where tasks wait until a test lets them on.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    arrived: usize,
    permits: usize,
    called_off: bool,
}

impl Gate {
    /// Waits until that many tasks have come.
    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.arrived < count).unwrap());
    }

    /// Lets that many tasks pass, now or when they come.
    pub(crate) fn permit(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        state.permits = state.permits.saturating_add(count);
        self.changed.notify_all();
    }

    fn call_off(&self) {
        self.state.lock().unwrap().called_off = true;
        self.changed.notify_all();
    }

    /// Whether the task may go on.
    fn pass(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.arrived += 1;
        self.changed.notify_all();
        let waits = |state: &mut GateState| state.permits == 0 && !state.called_off;
        let mut state = self.changed.wait_while(state, waits).unwrap();
        if state.called_off {
            return false;
        }
        state.permits -= 1;
        true
    }
}

/// What goes wrong with a task, or is else about it.
#[derive(Clone)]
pub(crate) enum Misdeed {
    /// It fails.
    Fail,
    /// It leaves processes running.
    Leave(&'static str),
    /// The executor panics.
    Panic,
    /// A write is lost, and nothing notices: the store was full for a moment.
    LoseWrite,
    /// Something writes behind the seal.
    LateWrite,
    /// The guest stays registered.
    Register,
    /// It finds these packages behind it.
    Find(Packages),
    /// A machine has the identity of every other one.
    Twin,
    /// It waits.
    Wait(Arc<Gate>),
}

#[derive(Default)]
struct Shared {
    trace: Mutex<Vec<String>>,
    misdeeds: Mutex<Vec<(String, Misdeed)>>,
}

/// The executor.
#[derive(Default)]
pub(crate) struct FakeExecutor {
    shared: Arc<Shared>,
}

impl FakeExecutor {
    /// Every task that was started, in order.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.shared.trace.lock().unwrap().clone()
    }

    /// Lets something go wrong with every task whose text contains `part`.
    pub(crate) fn misbehave(&self, part: &str, misdeed: Misdeed) {
        self.shared.misdeeds.lock().unwrap().push((part.to_owned(), misdeed));
    }

    /// Lets nothing go wrong any more.
    pub(crate) fn behave(&self) {
        self.shared.misdeeds.lock().unwrap().clear();
    }
}

impl Shared {
    fn of(&self, task: &str) -> Vec<Misdeed> {
        let misdeeds = self.misdeeds.lock().unwrap_or_else(PoisonError::into_inner);
        misdeeds
            .iter()
            .filter(|(part, _)| task.contains(part))
            .map(|(_, misdeed)| misdeed.clone())
            .collect()
    }
}

impl Executor for FakeExecutor {
    fn open(&self, start: &Start, work: &Path) -> Result<Box<dyn Bench>, Fault> {
        let base = match start {
            Start::Blank(size) => DiskState::blank(*size),
            Start::State(chain) => open(chain)?,
            Start::Grown(chain, size) => {
                let mut state = open(chain)?;
                state.grow(*size);
                state
            }
        };
        assert_eq!(fs::read_dir(work).unwrap().count(), 0, "a disk's directory is empty");
        let overlay = work.join("overlay");
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(&overlay).unwrap();
        Ok(Box::new(FakeBench {
            disk: WorkingDisk::new(base, Overlay::new(file), true),
            overlay,
            lost: None,
            shared: Arc::clone(&self.shared),
        }))
    }

    fn open_sealed(&self, chain: &[LayerFiles], work: &Path) -> Result<Box<dyn SealedDisk>, Fault> {
        let file = File::create_new(work.join("overlay")).unwrap();
        Ok(Box::new(FakeSealed(WorkingDisk::new(open(chain)?, Overlay::new(file), false))))
    }

    fn audit(
        &self,
        chain: &[LayerFiles],
        requirements: &[Requirement],
        _: Option<&[Package]>,
        _: &Path,
    ) -> Result<AuditReport, Fault> {
        open(chain)?;
        let finding = |requirement: &Requirement| Finding {
            name: requirement.name.clone(),
            check: requirement.check.keyword().to_owned(),
            severity: requirement.severity,
            // A fake guest has the packages whose names say so.
            verdict: match &requirement.check {
                Check::Package(name) if name.starts_with("no-") => Verdict::Fail("lacking".into()),
                _ => Verdict::Pass("there".into()),
            },
            steps: None,
            advice: None,
        };
        let findings = requirements.iter().map(finding).collect();
        Ok(AuditReport { system: "a fake".into(), disk_size: 0, unreadable: None, findings })
    }

    fn boot(&self, start: &Start, machine: &Machine, _: &Path) -> Result<Box<dyn Running>, Fault> {
        let Start::Grown(chain, _) = start else { panic!("a test is on a larger disk") };
        open(chain)?;
        let Instance { name, user_data, .. } = &machine.instance;
        let task = format!("BOOT {name}");
        self.shared.trace.lock().unwrap().push(task.clone());
        let (mut id, mut fails) = (name.clone(), false);
        for misdeed in self.shared.of(&task) {
            match misdeed {
                Misdeed::Fail => fails = true,
                Misdeed::Twin => "the same".clone_into(&mut id),
                Misdeed::Panic => panic!("the fake executor was told to panic"),
                _ => panic!("not faked"),
            }
        }
        let (console, mut guest) = UnixStream::pair().unwrap();
        let script = String::from_utf8_lossy(user_data).into_owned();
        let token = script.split_whitespace().find(|word| word.starts_with("kiln-user-data-"));
        let token = token.unwrap_or_default().to_owned();
        let keys = "Authorized keys from /home/fake/.ssh/authorized_keys for user fake+++\n| kiln-boot-test |";
        let shown = if fails { "" } else { &format!("Linux version 0\n{keys}\n{token}\n") };
        writeln!(guest, "{shown}{name} login: ").unwrap();
        Ok(Box::new(FakeMachine { name: name.clone(), id, token, fails, console, guest }))
    }

    fn interrupt(&self) {
        for (_, misdeed) in self.shared.misdeeds.lock().unwrap().iter() {
            if let Misdeed::Wait(gate) = misdeed {
                gate.call_off();
            }
        }
    }

    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A machine whose guest is a good one, but for what it was told.
struct FakeMachine {
    name: String,
    id: String,
    token: String,
    /// The guest has another user, and fails each command.
    fails: bool,
    console: UnixStream,
    /// The guest's end of the console.
    guest: UnixStream,
}

impl Running for FakeMachine {
    fn console(&self) -> Result<UnixStream, Fault> {
        Ok(self.console.try_clone().unwrap())
    }

    fn session(&mut self, user: &str, key: &Path, command: &str, _: Duration) -> Session {
        assert!(key.exists(), "there is a key");
        if user != "fake" && !self.fails {
            return Session::Refused("Permission denied".to_owned());
        }
        let Self { name, id, token, .. } = self;
        let output = if command.contains("kiln-facts") {
            format!(
                "kiln-facts\nhostname={name}\nmachine-id={id}\nroot-kib=9999999\n\
                 host-key=ssh-ed25519 {id}\nuser-data={token}\n"
            )
        } else {
            command.replace("echo ", "")
        };
        let code = i32::from(self.fails && !command.contains("kiln-"));
        Session::Ran { code: Some(code), output, said: String::new() }
    }

    fn host_keys(&self) -> BTreeSet<String> {
        [format!("ssh-rsa {}", self.id)].into()
    }

    fn said(&self) -> String {
        String::new()
    }

    fn labels(&mut self, _: SystemTime) -> Result<BootLabels, Fault> {
        Ok(BootLabels { files: 1, ..BootLabels::default() })
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        self.guest.shutdown(std::net::Shutdown::Both).unwrap();
        Ok(())
    }
}

fn open(chain: &[LayerFiles]) -> Result<DiskState, Fault> {
    DiskState::open(chain).map_err(|error| Fault::of(FaultKind::Damaged, &error))
}

/// The fault of a disk that lost something.
fn fault_of(lost: &Lost) -> Fault {
    let kind = match lost.cause {
        LostCause::Damaged { .. } | LostCause::Absent { .. } => FaultKind::Damaged,
        LostCause::Host { .. } => FaultKind::Host,
    };
    Fault::new(kind, "kiln::disk::lost", lost.to_string())
}

struct FakeBench {
    disk: WorkingDisk,
    overlay: PathBuf,
    lost: Option<Lost>,
    shared: Arc<Shared>,
}

/// A number that no other run has, of this process or of another on the same store.
fn nonce() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::SeqCst)
}

impl FakeBench {
    fn lost(&self) -> Option<Lost> {
        self.lost.clone().or_else(|| self.disk.lost())
    }

    fn failed(&self, error: &std::io::Error) -> Fault {
        self.lost().map_or_else(
            || Fault::new(FaultKind::Host, "fake::disk", error.to_string()),
            |lost| fault_of(&lost),
        )
    }

    fn block(&self, at: u64) -> Result<Vec<u8>, Fault> {
        self.disk.read(at * BLOCK, BLOCK).map_err(|error| self.failed(&error))
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut block = bytes.to_vec();
        assert!(block.len() <= BLOCK_LEN, "a record fits in a block");
        block.resize(BLOCK_LEN, 0);
        self.disk.write(at * BLOCK, &block).map_err(|error| self.failed(&error))
    }

    /// Appends a record, leaves a scratch block behind, and with a seal takes all of those away.
    fn write(&mut self, task: String, lose: bool) -> Result<(), Fault> {
        let seal = task.starts_with(RELABEL);
        let mut header = header(&self.block(0)?);
        let before = match header.records.last() {
            None => None,
            Some(&last) => {
                let record: Record = serde_json::from_slice(text(&self.block(last)?)).unwrap();
                Some(record.nonce)
            }
        };
        let nonce = nonce();
        let mut free: Vec<u64> = (1..MARK)
            .filter(|at| !header.records.contains(at) && !header.scratch.contains(at))
            .collect();
        let mut take = |salt: u64| {
            let digest = Digest::of(&(nonce * 2 + salt).to_le_bytes());
            free.remove(usize::from(digest.as_bytes()[0]) % free.len())
        };
        let (at, scratch) = (take(0), take(1));
        if seal {
            for &at in &header.scratch {
                self.disk.discard(at * BLOCK, BLOCK).map_err(|error| self.failed(&error))?;
            }
            header.scratch.clear();
        } else {
            self.put(scratch, &nonce.to_le_bytes())?;
            header.scratch.push(scratch);
        }
        header.records.push(at);
        self.put(0, &serde_json::to_vec(&header).unwrap())?;
        let record = serde_json::to_vec(&Record { task, nonce, before }).unwrap();
        if lose {
            // As a guest's write-back does, it does not tell the step.
            self.lost = lose_a_write(at * BLOCK, self.disk.size());
            assert!(self.lost.is_some(), "a full disk is noticed");
            return Ok(());
        }
        self.put(at, &record)
    }
}

/// A write to a disk whose overlay has no space.
fn lose_a_write(offset: u64, size: u64) -> Option<Lost> {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let disk = WorkingDisk::new(DiskState::blank(size), Overlay::new(full), true);
    disk.write(offset, &[1; BLOCK_LEN]).unwrap_err();
    disk.lost()
}

/// A task as text that does not depend on where its inputs lie.
fn describe(task: &Task) -> String {
    match task {
        Task::Bootstrap { bootstrap, seed: _, timeout: _ } => format!("bootstrap {bootstrap:?}"),
        Task::Scratch { scratch, seed: _, timeout: _ } => format!("scratch {scratch:?}"),
        Task::Grow { timeout: _ } => "grow".to_owned(),
        Task::Step { kind, network, aids, registration, secrets: _, timeout: _ } => {
            assert!(aids.attached.is_empty() && registration.is_none(), "not faked");
            let kind = kind
                .map_files(|Snapshot { path }| {
                    let name = Path::new(path.file_name().unwrap());
                    kiln::inputs::hash(path.parent().unwrap(), name)
                        .map(|input| format!("{} {}", input.name.display(), input.tree))
                })
                .expect("inputs that can be read");
            format!(
                "{}{}",
                serde_json::to_string(&kind).unwrap(),
                if *network { "+net" } else { "" }
            )
        }
    }
}

fn describe_seal(scrub: &Scrub) -> String {
    let items: BTreeSet<_> = scrub.items.iter().map(|item| item.keyword()).collect();
    format!("{RELABEL} {items:?}")
}

impl FakeBench {
    fn do_it(
        &mut self,
        text: String,
        seal: bool,
        log: &Path,
        output: &mut OnOutput<'_>,
    ) -> Result<Outcome, Fault> {
        output(&text);
        fs::write(log, &text).unwrap();
        self.shared.trace.lock().unwrap().push(text.clone());
        let (mut outcome, mut lose, mut late) = (Outcome::default(), false, false);
        for misdeed in self.shared.of(&text) {
            match misdeed {
                Misdeed::Fail => {
                    return Err(Fault::new(FaultKind::Step, "fake::failed", "it failed"));
                }
                Misdeed::Leave(name) => outcome.leftovers.push(name.to_owned()),
                Misdeed::Find(packages) => outcome.packages = packages,
                Misdeed::Panic => panic!("the fake executor was told to panic"),
                Misdeed::LoseWrite => lose = true,
                Misdeed::LateWrite => late = true,
                Misdeed::Twin => panic!("no machine"),
                Misdeed::Register => {
                    let account = "the user `me`".to_owned();
                    let note = Registered { consumer: Some("0b2f".into()), account, server: None };
                    note.write(self.overlay.parent().unwrap()).unwrap();
                }
                Misdeed::Wait(gate) => {
                    if !gate.pass() {
                        return Err(Fault::new(FaultKind::Interrupted, "fake::off", "called off"));
                    }
                }
            }
        }
        self.write(text, lose)?;
        if seal {
            self.disk.seal();
        }
        if late {
            self.disk.write(BLOCK, &[1; BLOCK_LEN]).expect_err("a sealed disk takes no writes");
        }
        outcome.host.push("fake 1".to_owned());
        Ok(outcome)
    }

    fn end_epoch(&mut self, digest: bool) -> Result<Epoch, Fault> {
        let changed = self.disk.swap().map_err(|error| self.failed(&error))?;
        if let Some(lost) = self.lost() {
            return Err(fault_of(&lost));
        }
        if self.disk.late_writes() > 0 {
            return Err(Fault::new(FaultKind::Host, "kiln::seal::late_writes", "a late write"));
        }
        let digest = digest.then(|| self.digest()).transpose();
        let digest = digest.map_err(|error| self.failed(&error))?;
        Ok(Epoch { overlay: self.overlay.clone(), changed, digest })
    }

    fn digest(&self) -> std::io::Result<Digest> {
        let mut digest = DiskDigest::new(self.disk.size());
        digest.blocks(0, &self.disk.read(0, self.disk.size())?);
        Ok(digest.finish())
    }
}

impl Bench for FakeBench {
    fn perform(
        &mut self,
        task: &Task,
        log: &Path,
        output: &mut OnOutput<'_>,
    ) -> Result<Outcome, Fault> {
        self.do_it(describe(task), false, log, output)
    }

    fn snapshot(&mut self, digest: bool) -> Result<Epoch, Fault> {
        self.end_epoch(digest)
    }

    fn seal(
        mut self: Box<Self>,
        scrub: &Scrub,
        _seed: Digest,
        log: &Path,
        output: &mut OnOutput<'_>,
    ) -> Result<(SealReport, Box<dyn Resting>), Fault> {
        self.do_it(describe_seal(scrub), true, log, output)?;
        Ok((report(), self))
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        fs::remove_file(&self.overlay).unwrap();
        Ok(())
    }
}

impl Resting for FakeBench {
    fn snapshot(&mut self, digest: bool) -> Result<Epoch, Fault> {
        self.end_epoch(digest)
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        Bench::close(self)
    }
}

fn report() -> SealReport {
    SealReport {
        system: "a fake".to_owned(),
        scrub: Vec::new(),
        packages: None,
        distribution: None,
        systems: vec!["/".parse().unwrap()],
        labels: Labels::Relabelled(Relabelled {
            policy: "fake".to_owned(),
            policy_digest: Digest::of(b"fake"),
            files: 1,
            changed: 1,
            right: 0,
            customizable: 0,
            none: 0,
            unmatched: 0,
            verified: None,
        }),
        audit: None,
    }
}

struct FakeSealed(WorkingDisk);

impl FakeSealed {
    fn bytes(&self) -> Result<Vec<u8>, Fault> {
        self.0.read(0, self.0.size()).map_err(|error| {
            let lost = self.0.lost();
            lost.map_or_else(
                || Fault::new(FaultKind::Host, "fake::read", error.to_string()),
                |lost| fault_of(&lost),
            )
        })
    }
}

impl SealedDisk for FakeSealed {
    fn verify(&mut self, mut report: SealReport) -> Result<SealReport, Fault> {
        let bytes = self.bytes()?;
        let block = |at: u64| usize::try_from(at).unwrap() * BLOCK_LEN;
        let content = Content::read(|at| bytes[block(at)..block(at + 1)].to_vec());
        let last = content.records.last().map_or("", |record| &record.task);
        assert!(last.starts_with(RELABEL), "the relabel is the last writer, not {last}");
        if let Labels::Relabelled(labels) = &mut report.labels {
            labels.verified = Some(Verified { files: 1, mismatches: 0, inodes: 1 });
        }
        Ok(report)
    }

    fn convert(&mut self, _: OutputFormat, target: &Path) -> Result<(), Fault> {
        let bytes = self.bytes()?;
        fs::write(target, bytes)
            .map_err(|error| Fault::new(FaultKind::Host, "fake::convert", error.to_string()))
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}
