//! How the keeper performs a step: file operations by itself, guest programs in a container.
//!
//! What a step means is `guest`'s; what a container is, `container`'s.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attach::Attachments;
use super::secrets::Memory;
use super::{Keeper, confused, container_fault, guest_fault, host};
use crate::execute::container::{self, Bind, Ended, Runtime, Setting, Status};
use crate::execute::{Fault, FaultKind, Message, Outcome};
use crate::files::{self, Context, FileError};
use crate::guest::root::FileAttributes;
use crate::guest::{self, Guest, GuestRoot, Program, Snapshot};
use crate::link::Link;
use crate::name::SecretName;
use crate::recipe::{Aids, SecretUse, StepKind};
use crate::secret::{Masker, SecretValue};

/// Lines of a failed step that its error shows.
const SHOWN_LINES: usize = 12;
/// Longest line that is passed on while a step runs, in bytes.
const MAX_LINE: usize = 400;

/// The log of one action, and the lines that are passed on as they come.
pub(super) struct Log {
    file: File,
    /// What a program printed, where that is asked for.
    kept: Option<Vec<u8>>,
    /// Whether that is its answer, and not for the log.
    answers: bool,
    /// What is masked, and with what values.
    masker: Masker,
    hidden: Vec<(SecretName, SecretValue)>,
    line: Vec<u8>,
    last: std::collections::VecDeque<String>,
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(path)
            .context("create", path)?;
        let (line, last) = (Vec::new(), std::collections::VecDeque::new());
        let (masker, hidden) = (Masker::default(), Vec::new());
        Ok(Self { file, kept: None, answers: false, masker, hidden, line, last })
    }

    /// Keeps what programs print, in the log too, until [`Self::kept`].
    pub(super) fn keep(&mut self) {
        (self.kept, self.answers) = (Some(Vec::new()), false);
    }

    /// Takes what programs print for their answer, which is not for the log, until [`Self::kept`].
    pub(super) fn ask(&mut self) {
        (self.kept, self.answers) = (Some(Vec::new()), true);
    }

    /// What programs printed since [`Self::keep`] or [`Self::ask`].
    pub(super) fn kept(&mut self) -> Vec<u8> {
        self.answers = false;
        self.kept.take().unwrap_or_default()
    }

    /// Masks these secrets too, from here on.
    pub(super) fn hide(&mut self, secrets: &[(SecretName, SecretValue)]) {
        let new = secrets.iter().filter(|secret| !self.hidden.contains(secret));
        let new: Vec<_> = new.cloned().collect();
        if !new.is_empty() {
            self.hidden.extend(new);
            self.masker = Masker::new(&self.hidden);
        }
    }

    /// Writes what a program printed, masked; whole lines are passed on.
    pub(super) fn bytes(&mut self, engine: &mut Link, bytes: &[u8]) {
        let masked = self.masker.push(bytes);
        self.masked(engine, &masked);
    }

    /// Ends what one program printed. Where that may be cut, what may be half a value goes too.
    fn end_of_program(&mut self, engine: &mut Link, whole: bool) {
        if !whole {
            self.masker.cut();
        }
        let rest = self.masker.finish();
        self.masked(engine, &rest);
        // A last line without an end is one too.
        let line = std::mem::take(&mut self.line);
        self.pass_on(engine, &line);
    }

    fn masked(&mut self, engine: &mut Link, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
        if self.answers {
            return;
        }
        // A log that cannot be written must not end a step whose image is fine.
        let _ = self.file.write_all(bytes);
        for &byte in bytes {
            if byte != b'\n' && byte != b'\r' {
                if self.line.len() < MAX_LINE {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            self.pass_on(engine, &line);
        }
    }

    fn pass_on(&mut self, engine: &mut Link, line: &[u8]) {
        let text: String = String::from_utf8_lossy(line)
            .chars()
            .filter(|c| !c.is_control() || *c == '\t')
            .collect();
        if text.trim().is_empty() {
            return;
        }
        // Nobody may be listening any more, which the next answer will find out.
        let _ = engine.send(&Message::Line(text.clone()));
        self.last.push_back(text);
        if self.last.len() > SHOWN_LINES {
            self.last.pop_front();
        }
    }

    /// Writes a line of kiln's own.
    pub(super) fn line(&mut self, engine: &mut Link, text: &str) {
        let text = self.masker.text(text);
        self.masked(engine, text.as_bytes());
        self.masked(engine, b"\n");
    }

    pub(super) fn excerpt(&self) -> String {
        let mut text = String::new();
        for line in &self.last {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        text
    }
}

/// What a program is given beside what it needs itself.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Whether it has the network.
    pub(super) network: bool,
    /// How long it may take.
    pub(super) timeout: Duration,
    /// What else it sees.
    pub(super) binds: Vec<Bind>,
    /// Whether it runs on when the build is called off.
    pub(super) regardless: bool,
}

impl Keeper {
    /// Performs a step; `secrets` are the values of all that its aids and its registration name.
    pub(super) fn step(
        &mut self,
        kind: &StepKind<Snapshot>,
        aids: &Aids<Snapshot, SecretUse>,
        secrets: &[(SecretName, SecretValue)],
        mut given: Given,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Outcome, Fault> {
        if let StepKind::Profile(profile) = kind {
            return self.profile(profile, &given, log, engine);
        }
        let path = self.mounted()?.root().to_owned();
        let root = GuestRoot::open(&path).map_err(|error| guest_fault(&error))?;
        let guest = Guest::inspect(&root).map_err(|error| guest_fault(&error))?;
        let program = guest::program_for(&root, &guest, kind, given.network, secrets)
            .map_err(|error| guest_fault(&error))?;
        let Some(mut program) = program else {
            guest::apply(&root, &guest, kind).map_err(|error| guest_fault(&error))?;
            return Ok(Outcome::default());
        };
        if aids.subscription
            && let Some(session) = &self.session
        {
            session.lend(&root, &mut program, &mut given)?;
        }
        let directory = self.directory.join(format!("aids-{}", self.programs));
        let attachments = Attachments::place(&aids.attached, &root, &directory, &self.name)
            .map_err(|error| Fault::of(FaultKind::Step, &error))?;
        given.binds.extend(attachments.binds.iter().cloned());
        // A password's secret goes through a pipe, and to no file.
        let wanted = |name: &SecretName| {
            let named = aids.secrets.iter().any(|secret| secret.name == *name);
            named && !matches!(kind, StepKind::Password(_))
        };
        let memory = self.place_secrets(secrets, wanted, &mut given);
        let ended = memory.and_then(|memory| {
            let ended = self.run_given(&root, &program, &given, log, engine);
            drop(memory);
            ended
        });
        let taken = attachments.take_away();
        let _ = fs::remove_dir_all(&directory);
        let ended = ended?;
        taken.map_err(|error| host(&error))?;
        self.judge(kind, &ended, given.timeout, log, given.network)?;
        let host = self.runtime.iter().map(|runtime| runtime.version.clone()).collect();
        let (leftovers, told) = (ended.leftovers, program.announce);
        Ok(Outcome { leftovers, host, told, ..Outcome::default() })
    }

    /// Lets a program see the secrets that it wants, as long as what this gives lives.
    pub(super) fn place_secrets(
        &self,
        secrets: &[(SecretName, SecretValue)],
        wanted: impl Fn(&SecretName) -> bool,
        given: &mut Given,
    ) -> Result<Option<Memory>, Fault> {
        let wanted: Vec<_> = secrets.iter().filter(|(name, _)| wanted(name)).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let directory = self.directory.join(format!("secrets-{}", self.programs));
        let placed = super::secrets::place(directory, wanted).map_err(|error| host(&error))?;
        given.binds.push(placed.1);
        Ok(Some(placed.0))
    }

    /// Turns the end of a step's program into its result.
    fn judge(
        &self,
        kind: &StepKind<Snapshot>,
        ended: &Ended,
        timeout: Duration,
        log: &Log,
        network: bool,
    ) -> Result<(), Fault> {
        let keyword = kind.keyword();
        let (code, what) = match ended.status {
            Status::Exited(0) => return Ok(()),
            Status::Exited(status) => {
                ("kiln::execute::step_failed", format!("`{keyword}` ended with status {status}"))
            }
            Status::TimedOut => {
                let running = match ended.leftovers.as_slice() {
                    [] => String::new(),
                    names => format!("; still running were {}", names.join(", ")),
                };
                let what =
                    format!("`{keyword}` did not end within {} s{running}", timeout.as_secs());
                ("kiln::execute::timed_out", what)
            }
            Status::Killed => (
                "kiln::execute::killed",
                format!("`{keyword}` was killed, most likely for lack of memory"),
            ),
        };
        let full = self.mounted.as_ref().and_then(full_system);
        let help = match (ended.status, full) {
            (_, Some(system)) => Some(format!(
                "the guest's file system `{system}` is full: give the base a larger `size`"
            )),
            (Status::TimedOut, None) => Some("give the step a longer `timeout`".to_owned()),
            (Status::Exited(_), None) if !network && mentions_network(&log.last) => {
                Some("the step has no network; give it `network=#true` if it needs it".to_owned())
            }
            _ => None,
        };
        let fault = Fault::new(FaultKind::Step, code, format!("{what}{}", log.excerpt()));
        Err(match help {
            Some(help) => fault.with_help(help),
            None => fault,
        })
    }

    /// Runs a guest program as [`Self::run_given`] does, given nothing more.
    pub(super) fn run_program(
        &mut self,
        root: &GuestRoot,
        program: &Program,
        network: bool,
        timeout: Duration,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Ended, Fault> {
        let given = Given { network, timeout, ..Given::default() };
        self.run_given(root, program, &given, log, engine)
    }

    /// Runs a guest program with everything put in place that it may see, and takes it away again.
    pub(super) fn run_given(
        &mut self,
        root: &GuestRoot,
        program: &Program,
        given: &Given,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Ended, Fault> {
        let network = given.network;
        let runtime = match &self.runtime {
            Some(runtime) => runtime.clone(),
            None => Runtime::find().map_err(|error| container_fault(&error))?,
        };
        self.runtime = Some(runtime.clone());
        self.programs += 1;
        let scratch = self.directory.join(format!("program-{}", self.programs));
        files::make_directory(&scratch.join("run"), 0o755).map_err(|error| host(&error))?;
        if let Some(script) = &program.script {
            let path = scratch.join("run/script");
            container::place_script(&path, script).map_err(|error| host(&error))?;
        }
        let mut binds = scratch_binds(root, program, &scratch).map_err(|error| host(&error))?;
        let mut placed = Placed { root, paths: Vec::new() };
        for file in &program.temporary {
            placed.put(file.path.as_str(), &file.content, file.mode)?;
        }
        if network {
            placed.put("/etc/resolv.conf", b"", 0o644)?;
            binds.extend(network_binds(root));
        }
        binds.extend(given.binds.iter().cloned());
        let (nodes, links) = (self.device()?.nodes(), self.links());
        let cgroup = format!("{}-{}", self.name.replace(':', "-"), self.programs);
        let mounted = self.mounted.as_ref().ok_or_else(confused)?;
        let setting = Setting {
            runtime: &runtime,
            root: mounted.root(),
            scratch: &scratch,
            nodes: &nodes,
            links: &links,
            binds: &binds,
            network,
            cgroup: &cgroup,
            timeout: given.timeout,
        };
        let mut environment = program.env.clone();
        if network {
            environment.extend(proxies());
        }
        // A connection that nobody else has is never closed.
        let own = Link::pair().context("make", Path::new("a connection"));
        let own = own.map_err(|error| host(&error))?;
        let parent = if given.regardless { own.0.duplicate() } else { engine.duplicate() };
        let parent = parent.context("share", Path::new("the connection"));
        let parent = parent.map_err(|error| host(&error))?;
        let stdin = program.stdin.as_deref();
        let ended = container::run(
            &setting,
            &program.argv,
            &environment,
            stdin,
            parent.as_fd(),
            &mut |bytes| log.bytes(engine, bytes),
        );
        let taken = placed.take_away();
        let _ = fs::remove_dir_all(&scratch);
        log.end_of_program(engine, ended.as_ref().is_ok_and(printed_all));
        let mut ended = ended.map_err(|error| container_fault(&error))?;
        taken?;
        for name in &mut ended.leftovers {
            *name = log.masker.text(name);
        }
        if ended.output_cut {
            log.line(engine, "[kiln: the rest of the output was cut]");
        }
        if !ended.leftovers.is_empty() && ended.status != Status::TimedOut {
            let names = ended.leftovers.join(", ");
            log.line(engine, &format!("[kiln: ended what the step left running: {names}]"));
        }
        Ok(ended)
    }
}

/// Whether everything that ran came to its own end: what is killed may be printing a value.
fn printed_all(ended: &Ended) -> bool {
    let by_itself = matches!(ended.status, Status::Exited(_)) && ended.leftovers.is_empty();
    by_itself && !ended.output_cut
}

/// Empty directories of the host in place of those whose content is not to be in a layer.
fn scratch_binds(
    root: &GuestRoot,
    program: &Program,
    scratch: &Path,
) -> Result<Vec<Bind>, FileError> {
    let mut binds = Vec::new();
    for (number, path) in program.scratch.iter().enumerate() {
        if !root.is_directory(path.as_str()) {
            continue;
        }
        let source = scratch.join(format!("scratch-{number}"));
        files::make_directory(&source, 0o755)?;
        binds.push(Bind { source, target: PathBuf::from(path.as_str()), read_only: false });
    }
    Ok(binds)
}

/// The host's resolver configuration and host names.
fn network_binds(root: &GuestRoot) -> Vec<Bind> {
    let file = |path: &str| Bind { source: path.into(), target: path.into(), read_only: true };
    let mut binds = vec![file("/etc/resolv.conf")];
    if root.is_file("/etc/hosts") && Path::new("/etc/hosts").exists() {
        binds.push(file("/etc/hosts"));
    }
    binds
}

/// The host's proxies, which say how to reach the network and not what to get from it.
fn proxies() -> Vec<(String, String)> {
    let names = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy"];
    names
        .iter()
        .filter_map(|name| std::env::var(name).ok().map(|value| ((*name).to_owned(), value)))
        .collect()
}

/// Files that are in the guest only while a program runs.
struct Placed<'a> {
    root: &'a GuestRoot,
    paths: Vec<PathBuf>,
}

impl Placed<'_> {
    /// Puts a file where nothing is, not even a dangling link.
    fn put(&mut self, path: &str, content: &[u8], mode: u32) -> Result<(), Fault> {
        let fault = |error| guest_fault(&error);
        if self.root.lstat(path).map_err(fault)?.is_some() {
            return Ok(());
        }
        let attributes = FileAttributes { mode: Some(mode), ..FileAttributes::default() };
        self.root.write_atomic(path, content, attributes).map_err(fault)?;
        self.paths.push(PathBuf::from(path));
        Ok(())
    }

    fn take_away(self) -> Result<(), Fault> {
        for path in &self.paths {
            let place = self.root.place("remove", path).map_err(|error| guest_fault(&error))?;
            place.unlink("remove").map_err(|error| guest_fault(&error))?;
        }
        Ok(())
    }
}

/// The first file system of a guest that has no room left.
fn full_system(mounted: &crate::disk::mounts::Mounted) -> Option<String> {
    mounted.directories().find_map(|(place, directory)| {
        let stat = rustix::fs::fstatvfs(directory).ok()?;
        let bytes = stat.f_bavail * stat.f_frsize < 1 << 20;
        let inodes = stat.f_files > 0 && stat.f_favail == 0;
        (bytes || inodes).then(|| place.target.to_string())
    })
}

fn mentions_network(lines: &std::collections::VecDeque<String>) -> bool {
    let signs = ["resolve", "Network is unreachable", "Connection refused", "Name or service"];
    lines.iter().any(|line| signs.iter().any(|sign| line.contains(sign)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_killed_does_not_show_half_a_value() {
        let exited = Ended { status: Status::Exited(3), leftovers: vec![], output_cut: false };
        let ended = |status, leftover: &[&str], output_cut| Ended {
            status,
            leftovers: leftover.iter().map(|name| (*name).to_owned()).collect(),
            output_cut,
        };
        let cases = [
            (exited, "go half a val"),
            (ended(Status::TimedOut, &[], false), "go "),
            (ended(Status::Killed, &[], false), "go "),
            (ended(Status::Exited(0), &["sleep"], false), "go "),
            (ended(Status::Exited(0), &[], true), "go "),
        ];
        let directory = tempfile::tempdir().unwrap();
        let (mut engine, _other) = Link::pair().unwrap();
        for (ended, wanted) in cases {
            let path = directory.path().join("log");
            let mut log = Log::open(&path).unwrap();
            log.hide(&[("s".parse().unwrap(), SecretValue(b"half a value".to_vec()))]);
            log.bytes(&mut engine, b"go half a val");
            log.end_of_program(&mut engine, printed_all(&ended));
            assert_eq!(fs::read_to_string(&path).unwrap(), wanted, "{ended:?}");
        }
    }
}
