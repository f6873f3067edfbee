//! What the end-to-end tests share: a workspace and a store of their own for each test, the real
//! program with its events, and a look at everything that a build may leave on the host.
//!
//! All spaces stand on one bootstrapped Debian, which is built once and kept with the build. It
//! judges nothing about images.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[path = "raw_disk.rs"]
mod raw_disk;

pub use raw_disk::{Mounted, differences, partition};

/// The program under test.
pub const KILN: &str = env!("CARGO_BIN_EXE_kiln");
/// A run of kiln that takes longer hangs.
const HANG: Duration = Duration::from_mins(10);
/// How long the host may take to let go of a build's things.
pub const SETTLED: Duration = Duration::from_secs(30);
/// Every process of a run of kiln has this variable; its value names the space.
const TAG: &str = "KILN_TEST_SPACE";

/// The image that every space can stand on. Its text never changes, so that its layers are shared.
pub const GOLDEN: &str = r#"image "golden" {
    base bootstrap "bookworm" size="3G"
    output "raw"
}
"#;

/// What all of these tests need of the host, and the Debian packages that bring it.
const TOOLS: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("qemu-img", "qemu-utils"),
    ("sfdisk", "fdisk"),
    ("blkid", "util-linux"),
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
];

/// Fails with the package's name if a tool is missing, and without root.
pub fn need(tools: &[(&str, &str)]) {
    for (tool, package) in TOOLS.iter().chain(tools) {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
            .iter()
            .any(|directory| Path::new(directory).join(tool).exists());
        assert!(found, "`{tool}` is missing: apt-get install {package}");
    }
    assert!(rustix::process::geteuid().is_root(), "this test builds images: run it as root");
}

/// Runs a command to its end; anything but success fails the test with what it said.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Looks again and again until something is so, or too much time has passed.
pub fn eventually(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The directory that these tests keep between runs.
pub fn kept() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kiln-e2e");
    fs::create_dir_all(&path).unwrap();
    path
}

/// The turn of one test: builds are heavy, and what they leave on the host is looked at, so that
/// they go one after the other, in threads of one process as in processes of their own.
struct Turn {
    _thread: MutexGuard<'static, ()>,
    _file: File,
}

impl Turn {
    fn take() -> Self {
        static THREADS: Mutex<()> = Mutex::new(());
        let thread = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let path = kept().join("turn");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        Self { _thread: thread, _file: file }
    }
}

/// The store that holds the golden image, built where it is not there or of another format.
fn golden_store() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let root = kept().join("golden");
        let store = root.join("store");
        fs::create_dir_all(root.join("recipes")).unwrap();
        fs::write(root.join("recipes/golden.kdl"), GOLDEN).unwrap();
        let build = || {
            Command::new(KILN)
                .args(["--store".as_ref(), store.as_os_str(), "-C".as_ref(), root.as_os_str()])
                .args(["build", "golden", "--progress", "plain"])
                .env("NO_COLOR", "1")
                .output()
                .unwrap()
        };
        let mut output = build();
        if output.status.code() == Some(3) && store.exists() {
            // One of an older format.
            fs::remove_dir_all(&store).unwrap();
            output = build();
        }
        assert!(
            output.status.success(),
            "the golden image cannot be built:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        store
    })
}

/// The golden image as a raw file, which nobody may write to.
pub fn golden_raw() -> PathBuf {
    golden_store().parent().unwrap().join("out/golden.raw")
}

/// A workspace with a store of its own that holds the golden image's layers already.
pub struct Space {
    pub root: PathBuf,
    pub store: PathBuf,
    name: String,
    /// The process ids of every kiln that ran here: by them its things are called on the host.
    pids: Mutex<BTreeSet<u32>>,
    /// Partitions of unused loop devices that others had left before.
    stale: BTreeSet<PathBuf>,
    turn: Option<Turn>,
}

impl Space {
    /// Makes one with a recipe file, whose `golden` is there already.
    pub fn new(recipe: &str) -> Self {
        need(&[]);
        let turn = Turn::take();
        let golden = golden_store();
        let space = Self::empty(turn);
        space.file("recipes/golden.kdl", GOLDEN);
        space.recipe(recipe);
        clone_store(golden, &space.store);
        space
    }

    /// Makes one with a recipe file that stands on nothing, and an empty store.
    pub fn bare(recipe: &str) -> Self {
        need(&[]);
        let space = Self::empty(Turn::take());
        space.recipe(recipe);
        space
    }

    fn empty(turn: Turn) -> Self {
        let root = tempfile::Builder::new().prefix("space-").tempdir_in(kept()).unwrap().keep();
        let space = Self {
            store: root.join("store"),
            name: root.file_name().unwrap().to_string_lossy().into_owned(),
            root,
            pids: Mutex::default(),
            stale: stale_partitions(),
            turn: Some(turn),
        };
        fs::create_dir_all(space.root.join("recipes")).unwrap();
        space
    }

    /// Lets other tests build, for a test that does not build any more.
    pub fn end_turn(&mut self) {
        self.turn = None;
    }

    /// Replaces the recipe.
    pub fn recipe(&self, text: &str) {
        self.file("recipes/test.kdl", text);
    }

    /// Writes a file of the workspace.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A command of kiln in this workspace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(KILN);
        command
            .args([
                "-C".as_ref(),
                self.root.as_os_str(),
                "--store".as_ref(),
                self.store.as_os_str(),
            ])
            .args(arguments)
            .env("NO_COLOR", "1")
            .env(TAG, &self.name);
        command
    }

    /// Starts a command that tells its events.
    pub fn start_command(&self, mut command: Command) -> Run {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: what a test sends to it reaches nobody else.
        command.process_group(0);
        let child = command.spawn().unwrap();
        self.pids.lock().unwrap().insert(child.id());
        Run::new(child)
    }

    /// Starts a build of an image.
    pub fn start(&self, arguments: &[&str]) -> Run {
        let arguments = [&["build", "--progress", "json"], arguments].concat();
        self.start_command(self.command(&arguments))
    }

    /// Builds to the end.
    pub fn build(&self, arguments: &[&str]) -> Done {
        self.start(arguments).finish()
    }

    /// Builds to the end, which must be a good one.
    pub fn build_ok(&self, arguments: &[&str]) -> Done {
        let done = self.build(arguments);
        assert_eq!(done.code, Some(0), "{done}");
        done
    }

    /// What of this space's builds is still on the host: processes, mounts, loop devices, control
    /// groups, files.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut namespaces = BTreeSet::new();
        for process in processes() {
            if self.owns(process) {
                found.push(describe(process));
            }
            let space = fs::read_link(format!("/proc/{process}/ns/mnt"));
            if !namespaces.insert(space.ok()) {
                continue;
            }
            let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo"));
            let ours = self.store.join("work").to_string_lossy().into_owned();
            for line in mounts.unwrap_or_default().lines().filter(|line| line.contains(&ours)) {
                found.push(format!("mount seen by {process}: {line}"));
            }
        }
        for (device, name) in loop_names() {
            if self.prefixes(':').any(|prefix| name.starts_with(&prefix)) {
                found.push(format!("loop device {}: {name}", device.display()));
            }
        }
        for partition in stale_partitions().difference(&self.stale) {
            found.push(format!("{} of a loop device without a disk", partition.display()));
        }
        for group in control_groups() {
            let name = group.file_name().unwrap().to_string_lossy().into_owned();
            if self.prefixes('-').any(|prefix| name.starts_with(&prefix)) {
                found.push(format!("control group {}", group.display()));
            }
        }
        for entry in fs::read_dir(self.store.join("work")).into_iter().flatten().flatten() {
            if entry.file_name() == "downloads" {
                let parts = fs::read_dir(entry.path()).into_iter().flatten().flatten();
                found.extend(parts.map(|part| format!("file {}", part.path().display())));
            } else if !["actions", "entry", "gc"].iter().any(|lock| entry.file_name() == *lock) {
                found.push(format!("file {}", entry.path().display()));
            }
        }
        for entry in fs::read_dir(self.root.join("out")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                found.push(format!("file {}", entry.path().display()));
            }
        }
        found
    }

    /// Requires that nothing of this space's builds is on the host, at once or soon.
    pub fn assert_clean(&self, when: &str) {
        let mut left = Vec::new();
        let clean = eventually(SETTLED, || {
            left = self.leftovers();
            left.is_empty()
        });
        assert!(clean, "{when}: left behind:\n{}", left.join("\n"));
    }

    /// How this space's loop devices (`kiln:PID-`) and control groups (`kiln-PID-`) begin.
    fn prefixes(&self, separator: char) -> impl Iterator<Item = String> + use<> {
        let pids = self.pids.lock().unwrap().clone();
        pids.into_iter().map(move |pid| format!("kiln{separator}{pid}-"))
    }

    /// Whether a process belongs to a build of this space, kiln itself included.
    fn owns(&self, pid: u32) -> bool {
        let tag = format!("{TAG}={}", self.name);
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|entry| entry == tag.as_bytes()) {
            return true;
        }
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        self.prefixes('-').any(|prefix| groups.contains(&format!("/{prefix}")))
    }

    /// The processes of a role in the builds of this space.
    pub fn role(&self, role: &str) -> Vec<u32> {
        processes()
            .filter(|&pid| self.owns(pid))
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let words: Vec<_> = line.split(|&byte| byte == 0).collect();
                words.len() > 2 && words[1] == b"--kiln-role" && words[2] == role.as_bytes()
            })
            .collect()
    }

    /// The processes of this space that wait in the kernel and cannot be ended.
    pub fn uninterruptible(&self) -> Vec<String> {
        processes().filter(|&pid| self.owns(pid) && state(pid) == Some('D')).map(describe).collect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // A test that failed may have left processes, stopped or not.
        for _ in 0..3 {
            let left: Vec<u32> = processes().filter(|&pid| self.owns(pid)).collect();
            if left.is_empty() {
                break;
            }
            for pid in left {
                signal(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        if std::thread::panicking() {
            // The next start of kiln puts the host in order.
            let _ = self.command(&["build", "golden", "--progress", "plain"]).output();
            eprintln!("the test's workspace is kept: {}", self.root.display());
        } else {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Copies a store; its objects, which never change, are hard links.
fn clone_store(from: &Path, to: &Path) {
    for directory in ["objects", "refs/outputs", "refs/images", "work/actions", "logs"] {
        fs::create_dir_all(to.join(directory)).unwrap();
    }
    for name in ["results", "CACHEDIR.TAG"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    for directory in fs::read_dir(from.join("objects")).unwrap() {
        let directory = directory.unwrap();
        let target = to.join("objects").join(directory.file_name());
        fs::create_dir(&target).unwrap();
        for object in fs::read_dir(directory.path()).unwrap() {
            let object = object.unwrap();
            fs::hard_link(object.path(), target.join(object.file_name())).unwrap();
        }
    }
    fs::copy(from.join("format"), to.join("format")).unwrap();
}

/// A kiln that runs.
pub struct Run {
    pub pid: u32,
    child: Child,
    lines: Receiver<String>,
    errors: Option<std::thread::JoinHandle<String>>,
    events: Vec<Value>,
}

/// What a kiln that ended said.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub events: Vec<Value>,
    pub errors: String,
}

impl Run {
    fn new(mut child: Child) -> Self {
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut err = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { pid: child.id(), child, lines, errors: Some(errors), events: Vec::new() }
    }

    /// The events so far.
    pub fn events(&self) -> &[Value] {
        &self.events
    }

    /// Waits for an event; tells whether it came before the end of kiln.
    pub fn wait_for(&mut self, is_it: impl Fn(&Value) -> bool) -> bool {
        match self.wait_at_most(HANG, is_it) {
            Some(found) => found,
            None => panic!("kiln hangs: {:#?}", self.events.last()),
        }
    }

    /// Waits so long for an event; tells whether it came before the end of kiln, or nothing if
    /// neither did in that time.
    pub fn wait_at_most(&mut self, time: Duration, is_it: impl Fn(&Value) -> bool) -> Option<bool> {
        let deadline = Instant::now() + time;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                    let found = is_it(&event);
                    self.events.push(event);
                    if found {
                        return Some(true);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Some(false),
                Err(RecvTimeoutError::Timeout) => return None,
            }
        }
    }

    /// Waits until a step starts.
    pub fn wait_for_step(&mut self, step: &str) {
        let found = self.wait_for(|event| event["event"] == "started" && event["step"] == step);
        assert!(found, "`{step}` never started: {:#?}", self.events);
    }

    /// Waits until a step prints a line.
    pub fn wait_for_line(&mut self, line: &str) {
        let found = self.wait_for(|event| event["event"] == "line" && event["line"] == line);
        assert!(found, "`{line}` was never printed: {:#?}", self.events);
    }

    /// Sends a signal to kiln itself, and to nobody else.
    pub fn signal(&self, number: Signal) {
        signal(self.pid, number);
    }

    /// Waits until kiln ends.
    pub fn finish(mut self) -> Done {
        while self.wait_for(|_| false) {}
        let deadline = Instant::now() + HANG;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "kiln has closed its output and does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let errors = self.errors.take().unwrap().join().unwrap();
        Done { code: status.code(), events: std::mem::take(&mut self.events), errors }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Done {
    /// The steps that started, in order, as `image/step`.
    pub fn ran(&self) -> Vec<String> {
        let name = |event: &Value| {
            format!("{}/{}", event["image"].as_str().unwrap(), event["step"].as_str().unwrap())
        };
        self.events.iter().filter(|event| event["event"] == "started").map(name).collect()
    }

    /// The events of a step, by its label, without those of its start.
    pub fn step<'a>(&'a self, step: &str) -> impl Iterator<Item = &'a Value> {
        let started =
            self.events.iter().find(|event| event["event"] == "started" && event["step"] == step);
        let key = started.unwrap_or_else(|| panic!("`{step}` did not run: {self}"))["key"].clone();
        self.events.iter().filter(move |event| event["key"] == key)
    }

    /// How a step was done.
    pub fn done(&self, step: &str) -> &Value {
        self.step(step)
            .find(|event| event["event"] == "done")
            .unwrap_or_else(|| panic!("`{step}` was not done: {self}"))
    }

    /// The bytes of a step's layer.
    pub fn layer(&self, step: &str) -> u64 {
        self.done(step)["layer"].as_u64().unwrap()
    }

    /// The lines that a step printed.
    pub fn lines(&self, step: &str) -> Vec<&str> {
        self.step(step).filter_map(|event| event["line"].as_str()).collect()
    }

    /// Requires a failed build: its exit code, and every one of some texts in what it said.
    #[track_caller]
    pub fn assert_fails(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        let text = self.said();
        for part in said {
            assert!(text.contains(part), "it does not say `{part}`: {self}");
        }
    }

    /// Its errors as one line, without the frames that diagnostics are drawn in.
    pub fn said(&self) -> String {
        let words = self.errors.split_whitespace().filter(|word| *word != "│");
        words.collect::<Vec<_>>().join(" ")
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "kiln ended with {:?}", self.code)?;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        f.write_str(&self.errors)
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, number: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, number);
    }
}

pub fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The letter of a process's state.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn describe(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let wait = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    format!("process {pid} ({}, {wait}) {line}", state(pid).unwrap_or('?'))
}

/// Every loop device that has a name, with it.
pub fn loop_names() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        if !entry.path().join("loop").exists() {
            continue;
        }
        let path = Path::new("/dev").join(entry.file_name());
        let Ok(file) = File::open(&path) else { continue };
        if let Ok(Some(name)) = kiln::sys::loop_name(&file) {
            found.push((path, name));
        }
    }
    found
}

/// Partitions of loop devices to which nothing is attached.
fn stale_partitions() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("loop") || entry.path().join("loop").exists() {
            continue;
        }
        for partition in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            if partition.file_name().to_string_lossy().starts_with(&name) {
                found.insert(Path::new("/dev").join(partition.file_name()));
            }
        }
    }
    found
}

fn control_groups() -> Vec<PathBuf> {
    let below = |path: PathBuf| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir())
    };
    let roots: Vec<PathBuf> = below("/sys/fs/cgroup".into()).collect();
    roots.iter().cloned().chain(roots.iter().cloned().flat_map(below)).collect()
}
