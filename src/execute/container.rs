//! Runs one guest program in an OCI container, and ends everything that it started.
//!
//! The container sees the guest's file systems, a `/dev` of its own, empty `/run` and `/tmp`, and
//! the host's network only where the step asks for it. What the program is for is not known here.

mod spec;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::files::{self, Context, FileError};
pub use spec::Bind;

/// How much a step may print, in bytes, before its output is cut.
const MAX_OUTPUT: u64 = 64 << 20;
/// How long the runtime may take to come to an end after the program has.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(30);

/// An OCI runtime of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Its program.
    pub program: &'static str,
    /// The first line of what it says about its version.
    pub version: String,
}

/// Why a guest program could not be run to its end.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ContainerError {
    /// No runtime is installed.
    #[error("this host has no OCI runtime")]
    #[diagnostic(
        code(kiln::execute::no_runtime),
        help("install `runc` or `crun`; `kiln doctor --fix` does it")
    )]
    NoRuntime,
    /// The runtime could not start the program.
    #[error("`{program}` could not start the step: {message}")]
    #[diagnostic(
        code(kiln::execute::runtime_failed),
        help("try the runtime alone, with `runc spec` and `runc run`")
    )]
    Runtime {
        /// The runtime.
        program: &'static str,
        /// What it said last.
        message: String,
    },
    /// A file of the host.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The build was called off while the program ran.
    #[error("interrupted")]
    #[diagnostic(code(kiln::execute::interrupted))]
    Interrupted,
}

impl Runtime {
    /// Finds a runtime that works on this host: `crun`, which is faster, or `runc`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn find() -> Result<Self, ContainerError> {
        let hybrid = crate::host::has_hybrid_groups();
        let candidates: &[&'static str] = if hybrid { &["runc"] } else { &["crun", "runc"] };
        for program in candidates.iter().copied() {
            let Ok(output) = Command::new(program).arg("--version").output() else { continue };
            let text = String::from_utf8_lossy(&output.stdout);
            let version = text.lines().next().unwrap_or(program).to_owned();
            return Ok(Self { program, version });
        }
        Err(ContainerError::NoRuntime)
    }
}

/// What a container is made of, besides the program.
#[derive(Debug, Clone)]
pub struct Setting<'a> {
    /// The runtime.
    pub runtime: &'a Runtime,
    /// Where the guest is mounted on the host.
    pub root: &'a Path,
    /// An empty directory of the host for the runtime's files, which goes with the step.
    pub scratch: &'a Path,
    /// Nodes of the guest's disk and partitions.
    pub nodes: &'a [PathBuf],
    /// Links below `/dev/disk`, such as `by-uuid/1234`, and the nodes they mean.
    pub links: &'a BTreeMap<PathBuf, PathBuf>,
    /// Directories and files of the host that the program sees.
    pub binds: &'a [Bind],
    /// Whether the program has the host's network.
    pub network: bool,
    /// The control group, relative to the host's root group.
    pub cgroup: &'a str,
    /// How long the program may take.
    pub timeout: Duration,
}

/// How a guest program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its end.
    pub status: Status,
    /// The names of processes that it left running, which are dead now.
    pub leftovers: Vec<String>,
    /// Whether some of its output was cut.
    pub output_cut: bool,
}

/// How a guest program's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It ended with that exit status.
    Exited(i32),
    /// It was ended because its time was over.
    TimedOut,
    /// It was killed, with all that it had started; mostly for lack of memory.
    Killed,
}

/// Where a container sees the directory through which it and the keeper talk.
pub const RUN_IN_GUEST: &str = "/run/kiln";

/// The script that is process 1 of every container: it runs the program, tells its exit status
/// while the processes that it left behind still live, and waits until they have been looked at.
/// Both outputs are one from here on: runtimes copy each by itself, and lose their order.
const FIRST_PROCESS: &str = r#""$@" 2>&1; status=$?; echo $status >/run/kiln/status; read -r go </run/kiln/go; exit $status"#;

/// Runs a program to its end. `output` gets what it prints, as it comes; `parent` is a connection
/// whose other end is closed when the build is called off.
///
/// # Errors
/// Where the runtime cannot start it, or the build was called off.
pub fn run(
    setting: &Setting<'_>,
    argv: &[String],
    environment: &BTreeMap<String, String>,
    stdin: Option<&[u8]>,
    parent: BorrowedFd<'_>,
    output: &mut dyn FnMut(&[u8]),
) -> Result<Ended, ContainerError> {
    let bundle = setting.scratch.join("bundle");
    files::make_directory(&bundle, 0o700)?;
    let dev = Dev::prepare(setting)?;
    let first = ["/bin/sh", "-c", FIRST_PROCESS, "kiln"].map(str::to_owned);
    let arguments: Vec<String> = first.into_iter().chain(argv.iter().cloned()).collect();
    let config = spec::config(setting, &dev.path, &arguments, environment);
    let path = bundle.join("config.json");
    fs::write(&path, config).context("write", &path)?;
    let stdin = in_memory(stdin.unwrap_or_default())?;

    let run = setting.scratch.join("run");
    files::make_directory(&run, 0o755)?;
    let told = fifo(&run.join("status"))?;
    let go = fifo(&run.join("go"))?;
    let (printed, print) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .context("make", Path::new("a pipe"))?;
    let pid_file = setting.scratch.join("pid");
    let id = setting.cgroup.replace('/', "-");
    let mut child = spawn(setting, &bundle, &pid_file, &id, stdin, print)?;
    let ended = watch(
        &mut Watch {
            child: &mut child,
            printed: File::from(printed),
            told,
            go,
            pid_file: &pid_file,
            deadline: Instant::now() + setting.timeout,
            parent,
            status: None,
            leftovers: Vec::new(),
            printed_bytes: 0,
            tail: Vec::new(),
        },
        setting,
        output,
    );
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // The runtime removes a container that it saw to its end; one that it did not is removed here.
    let _ = Command::new(setting.runtime.program)
        .arg("--root")
        .arg(setting.scratch.join("runtime"))
        .args(["delete", "--force", &id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ended
}

/// A file without a name, in memory: what a program reads may be secret, and is never on a disk.
fn in_memory(bytes: &[u8]) -> Result<File, FileError> {
    use std::io::Seek;
    let path = Path::new("a file in memory");
    let fd = rustix::fs::memfd_create("stdin", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(fd.context("make", path)?);
    file.write_all(bytes).context("write", path)?;
    file.rewind().context("rewind", path)?;
    Ok(file)
}

/// Makes a FIFO and opens both its ends, so that neither side ever waits for the other to come.
fn fifo(path: &Path) -> Result<File, FileError> {
    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).context("make", path)?;
    let fd = open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    Ok(File::from(fd.context("open", path)?))
}

fn spawn(
    setting: &Setting<'_>,
    bundle: &Path,
    pid_file: &Path,
    id: &str,
    stdin: File,
    print: OwnedFd,
) -> Result<Child, ContainerError> {
    let program = setting.runtime.program;
    let fault = |source| FileError { doing: "run", path: PathBuf::from(program), source };
    let child = Command::new(program)
        .arg("--root")
        .arg(setting.scratch.join("runtime"))
        .args(["run", "--pid-file"])
        .arg(pid_file)
        .arg("--bundle")
        .arg(bundle)
        .arg(id)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(stdin)
        .stdout(print.try_clone().map_err(fault)?)
        .stderr(print)
        .spawn()
        .map_err(fault)?;
    Ok(child)
}

struct Watch<'a> {
    child: &'a mut Child,
    printed: File,
    told: File,
    go: File,
    pid_file: &'a Path,
    deadline: Instant,
    parent: BorrowedFd<'a>,
    status: Option<Status>,
    leftovers: Vec<String>,
    printed_bytes: u64,
    /// The end of what was printed, for the runtime's own errors.
    tail: Vec<u8>,
}

/// Reads what the program prints and waits for its end, for the end of its time, or for the end of
/// the build.
fn watch(
    watch: &mut Watch<'_>,
    setting: &Setting<'_>,
    output: &mut dyn FnMut(&[u8]),
) -> Result<Ended, ContainerError> {
    let mut open = true;
    while open {
        let now = Instant::now();
        if now >= watch.deadline {
            if watch.status == Some(Status::TimedOut) {
                // Not even the runtime ends: without it nothing is left to wait for.
                let _ = watch.child.kill();
                break;
            }
            watch.status = Some(Status::TimedOut);
            watch.leftovers = processes(watch.pid_file).1;
            watch.kill();
            watch.deadline = now + RUNTIME_PATIENCE;
        }
        let (printed, told, gone) = watch.wait(watch.deadline - now)?;
        if gone {
            watch.kill();
            return Err(ContainerError::Interrupted);
        }
        if told {
            watch.take_status();
        }
        if printed {
            open = watch.take_output(output)?;
        }
    }
    let exit = watch.child.wait().map_err(|source| FileError {
        doing: "wait for",
        path: PathBuf::from(setting.runtime.program),
        source,
    })?;
    let status = match watch.status {
        Some(status) => status,
        // The program took away the way in which its end is told: the runtime's word counts.
        None if watch.started() => match exit.code() {
            Some(code) if code < 128 => Status::Exited(code),
            _ => Status::Killed,
        },
        None => {
            let text = String::from_utf8_lossy(&watch.tail);
            let message = text.trim().lines().last().unwrap_or("it said nothing");
            let message = format!("{} ({exit})", message.escape_default());
            return Err(ContainerError::Runtime { program: setting.runtime.program, message });
        }
    };
    Ok(Ended {
        status,
        leftovers: std::mem::take(&mut watch.leftovers),
        output_cut: watch.printed_bytes > MAX_OUTPUT,
    })
}

impl Watch<'_> {
    /// Waits for something to read: output, the status, or the end of the build.
    fn wait(&self, timeout: Duration) -> Result<(bool, bool, bool), ContainerError> {
        let mut fds = [
            PollFd::new(&self.printed, PollFlags::IN),
            PollFd::new(&self.parent, PollFlags::RDHUP),
            PollFd::new(&self.told, PollFlags::IN),
        ];
        let timeout = rustix::event::Timespec::try_from(timeout.min(Duration::from_hours(1)))
            .expect("an hour fits");
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for", Path::new("a step"))?,
        }
        let ready = |at: usize| !fds[at].revents().is_empty();
        Ok((ready(0), ready(2), ready(1)))
    }

    fn take_status(&mut self) {
        let mut bytes = [0; 16];
        let read = self.told.read(&mut bytes).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]);
        // Only what process 1 writes at its end is meant; a program that writes there itself can
        // cut its own life short, which it could anyway.
        if let Ok(code) = text.trim().parse() {
            self.status.get_or_insert(Status::Exited(code));
            self.leftovers = processes(self.pid_file).1;
            let _ = self.go.write_all(b"go\n");
        }
    }

    fn take_output(&mut self, output: &mut dyn FnMut(&[u8])) -> Result<bool, ContainerError> {
        let mut buffer = [0; 16384];
        let read = match self.printed.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            result => result.context("read the output of", Path::new("a step"))?,
        };
        let bytes = &buffer[..read];
        let room = MAX_OUTPUT.saturating_sub(self.printed_bytes);
        let shown = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        output(&bytes[..shown]);
        self.printed_bytes += read as u64;
        self.tail.extend_from_slice(bytes);
        let excess = self.tail.len().saturating_sub(4096);
        self.tail.drain(..excess);
        Ok(read > 0)
    }

    fn started(&self) -> bool {
        self.pid_file.exists()
    }

    /// Ends the container: its process 1, whose end ends all others, and the runtime.
    fn kill(&mut self) {
        if let (Some(first), _) = processes(self.pid_file) {
            let _ = kill_process(first, Signal::KILL);
        } else {
            let _ = self.child.kill();
        }
    }
}

/// Process 1 of the container, and the names of the other processes in its pid namespace.
fn processes(pid_file: &Path) -> (Option<Pid>, Vec<String>) {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    let Some(first) = text.trim().parse().ok().and_then(Pid::from_raw) else {
        return (None, Vec::new());
    };
    let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(inside) = space(text.trim()) else { return (None, Vec::new()) };
    let mut names = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|pid| pid.bytes().all(|c| c.is_ascii_digit())) else {
            continue;
        };
        if pid == text.trim() || space(pid).as_ref() != Some(&inside) {
            continue;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let zombie = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        if !zombie {
            names.push(String::from_utf8_lossy(&comm).trim().escape_default().to_string());
        }
    }
    names.sort();
    (Some(first), names)
}

/// The container's `/dev`: a small file system of its own that holds only what the guest may see.
struct Dev {
    path: PathBuf,
}

impl Dev {
    fn prepare(setting: &Setting<'_>) -> Result<Self, FileError> {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        use rustix::mount::{MountFlags, mount};
        let path = setting.scratch.join("dev");
        files::make_directory(&path, 0o755)?;
        mount(
            "tmpfs",
            &path,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"mode=0755,size=1m",
        )
        .context("mount a tmpfs on", &path)?;
        let dev = Self { path };
        let node = |name: &str, kind, mode, device| {
            let path = dev.path.join(name);
            // The mode is set apart from the making, which the umask would cut.
            mknodat(CWD, &path, kind, Mode::from_raw_mode(mode), device).context("make", &path)?;
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).context("change the mode of", &path)
        };
        // Numbers from the kernel's admin-guide/devices.txt.
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            node(name, FileType::CharacterDevice, 0o666, makedev(major, minor))?;
        }
        for directory in ["pts", "shm", "mqueue", "disk"] {
            files::make_directory(&dev.path.join(directory), 0o755)?;
        }
        let link = |target: &Path, link: &Path| {
            let path = dev.path.join(link);
            if let Some(parent) = path.parent() {
                files::make_directory(parent, 0o755)?;
            }
            std::os::unix::fs::symlink(target, &path).context("make", &path)
        };
        for (target, name) in [
            ("pts/ptmx", "ptmx"),
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
        ] {
            link(Path::new(target), Path::new(name))?;
        }
        for path in setting.nodes {
            let device = rustix::fs::stat(path).context("look at", path)?.st_rdev;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            node(&name, FileType::BlockDevice, 0o660, device)?;
        }
        for (name, path) in setting.links {
            let up = name.components().map(|_| "..").collect::<PathBuf>();
            let target = up.join(path.file_name().unwrap_or_default());
            link(&target, &Path::new("disk").join(name))?;
        }
        Ok(dev)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // The container is gone; what still holds it goes with the keeper's mounts.
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Writes a script where only root of the host can change it, to be bound into a container.
///
/// # Errors
/// Where it cannot be written.
pub fn place_script(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(path)
        .context("create", path)?;
    file.write_all(bytes).context("write", path)
}
