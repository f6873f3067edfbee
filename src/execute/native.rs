//! The native executor: mounts the disk on this host, and runs guest programs in containers.
//!
//! This is kiln's own side: it starts a launcher for each disk and talks to its keeper. It parses
//! no file system itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::machine::{self, Machine, Running, Server, Session};
use super::registered::Registered;
use super::{
    Bench, Epoch, Executor, Fault, FaultKind, Message, OnOutput, Outcome, Request, Resting,
    SealedDisk, Start, Task, launcher, recover,
};
use crate::audit::AuditReport;
use crate::boot::Labels;
use crate::digest::Digest;
use crate::disk::door::Serve;
use crate::disk::overlay::Changed;
use crate::files::{Context, FileError};
use crate::guest::installed::Package;
use crate::link::Link;
use crate::recipe::{OutputFormat, Requirement, Scrub};
use crate::seal::SealReport;
use crate::store::LayerFiles;

/// How long a launcher may take to end when nobody is connected to it: more than it gives its keeper.
const LAUNCHER_PATIENCE: Duration = Duration::from_secs(12);

/// Executes on this host, as root.
#[derive(Debug, Default)]
pub struct Native {
    open: Arc<Connections>,
}

/// Second handles to the connections of all open disks, by the launcher's process id: through
/// them a build is called off.
#[derive(Debug, Default)]
struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    handles: BTreeMap<u32, OwnedFd>,
    /// Once the build was called off, nothing is opened any more.
    called_off: bool,
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk in a keeper.
struct Disk {
    launcher: Child,
    link: Option<Link>,
    work: PathBuf,
    open: Arc<Connections>,
    /// Whether the keeper put the host in order itself.
    closed: bool,
}

impl Native {
    fn start(&self, start: &Start, work: &Path, writable: bool) -> Result<Disk, Fault> {
        let errors_path = work.join("errors");
        let errors = File::create(&errors_path).context("create", &errors_path);
        let errors = errors.map_err(|error| host(&error))?;
        let (child, link) = launcher::start(errors)
            .context("start", Path::new("/proc/self/exe"))
            .map_err(|error| host(&error))?;
        let handle = link.duplicate();
        let (work_path, open) = (work.to_owned(), Arc::clone(&self.open));
        let mut disk =
            Disk { launcher: child, link: Some(link), work: work_path, open, closed: false };
        let handle =
            handle.context("share", Path::new("a connection")).map_err(|error| host(&error))?;
        {
            let mut open = self.open.all();
            if open.called_off {
                return Err(Fault::new(
                    FaultKind::Interrupted,
                    "kiln::execute::interrupted",
                    "interrupted",
                ));
            }
            open.handles.insert(disk.launcher.id(), handle);
        }
        recover::note_launcher(work, disk.launcher.id()).map_err(|error| host(&error))?;
        let (chain, size) = match start {
            Start::Blank(size) => (Vec::new(), Some(*size)),
            Start::State(chain) => (chain.clone(), None),
            Start::Grown(chain, size) => (chain.clone(), Some(*size)),
        };
        let overlay = writable.then(|| disk.overlay());
        let serve = Serve { chain, size, overlay };
        let name = recover::device_name(work);
        let directory = work.to_owned();
        match disk.ask(&Request::Open { serve, name, directory }, &mut |_| {})? {
            Message::Done => Ok(disk),
            _ => Err(disk.lost("it gave a wrong answer")),
        }
    }
}

impl Native {
    /// Writes patterns to a disk from several writers at once, through the page cache and past it,
    /// and reads them back from the disk at rest; says what was done. `work` is an empty directory.
    ///
    /// # Errors
    /// Where a block does not hold what was written to it, or the host cannot.
    pub fn self_test(&self, work: &Path) -> Result<String, Fault> {
        let mut disk = self.start(&Start::Blank(super::self_test::SIZE), work, true)?;
        let answer = disk.ask(&Request::SelfTest, &mut |_| {})?;
        let Message::Tested(tested) = answer else {
            return Err(disk.lost("it gave a wrong answer"));
        };
        disk.end().map(|()| tested)
    }
}

impl Executor for Native {
    fn open(&self, start: &Start, work: &Path) -> Result<Box<dyn Bench>, Fault> {
        Ok(Box::new(self.start(start, work, true)?))
    }

    fn open_sealed(&self, chain: &[LayerFiles], work: &Path) -> Result<Box<dyn SealedDisk>, Fault> {
        Ok(Box::new(self.start(&Start::State(chain.to_vec()), work, false)?))
    }

    fn audit(
        &self,
        chain: &[LayerFiles],
        requirements: &[Requirement],
        packages: Option<&[Package]>,
        work: &Path,
    ) -> Result<AuditReport, Fault> {
        let mut disk = self.start(&Start::State(chain.to_vec()), work, true)?;
        let request = Request::Audit {
            requirements: requirements.to_vec(),
            packages: packages.map(<[Package]>::to_vec),
        };
        let Message::Audited(report) = disk.ask(&request, &mut |_| {})? else {
            return Err(disk.lost("it gave a wrong answer"));
        };
        disk.end().map(|()| *report)
    }

    fn boot(
        &self,
        start: &Start,
        machine: &Machine,
        work: &Path,
    ) -> Result<Box<dyn Running>, Fault> {
        let missing = crate::host::missing(&[crate::host::Purpose::Boot]);
        if !missing.is_empty() {
            let list: Vec<_> = missing.iter().map(ToString::to_string).collect();
            let message = format!("this host lacks {} to boot machines", list.join(", "));
            return Err(Fault::new(FaultKind::Host, "kiln::execute::cannot_boot", message)
                .with_help("`kiln doctor --boot --fix` installs what is missing"));
        }
        let mut disk = self.start(start, work, true)?;
        let pair = UnixStream::pair().context("make", Path::new("a console"));
        let (console, theirs) = pair.map_err(|error| host(&error))?;
        disk.tell(&Request::Boot { machine: Box::new(machine.clone()) })?;
        disk.pass(theirs.as_fd())?;
        drop(theirs);
        match disk.answer(&mut |_| {})? {
            Message::Done => {
                let (port, known) = (machine.ssh_port, work.join("known_hosts"));
                Ok(Box::new(Booted { disk, console, port, known }))
            }
            _ => Err(disk.lost("it gave a wrong answer")),
        }
    }

    fn interrupt(&self) {
        let mut open = self.open.all();
        open.called_off = true;
        for handle in open.handles.values() {
            // One that the other side has closed has nothing to be called off.
            let _ = rustix::net::shutdown(handle, rustix::net::Shutdown::Both);
        }
    }

    fn check(&self) -> Result<(), Fault> {
        if !rustix::process::geteuid().is_root() {
            return Err(Fault::new(
                FaultKind::Host,
                "kiln::execute::not_root",
                "building needs root: disks are mounted and guest programs run on this host",
            )
            .with_help("run it with `sudo`; `kiln check` and `kiln plan` need no root"));
        }
        let missing: Vec<_> = crate::host::missing_for_build();
        if missing.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = missing.iter().map(ToString::to_string).collect();
        Err(Fault::new(
            FaultKind::Host,
            "kiln::execute::host",
            format!("this host lacks {}", list.join(", ")),
        )
        .with_help("`kiln doctor --fix` installs what is missing"))
    }
}

impl Disk {
    fn overlay(&self) -> PathBuf {
        self.work.join("overlay")
    }

    /// Sends a request and waits for its answer, passing on the lines that come before it.
    fn ask(&mut self, request: &Request, output: &mut OnOutput<'_>) -> Result<Message, Fault> {
        self.tell(request)?;
        self.answer(output)
    }

    fn tell(&mut self, request: &Request) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Err(self.lost("it is closed")) };
        link.send(request).map_err(|error| self.lost(&error.to_string()))
    }

    /// Gives the keeper a descriptor, which it expects.
    fn pass(&mut self, descriptor: BorrowedFd<'_>) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Err(self.lost("it is closed")) };
        let sent = link.send_descriptor(descriptor);
        sent.map_err(|error| self.lost(&error.to_string()))
    }

    fn answer(&mut self, output: &mut OnOutput<'_>) -> Result<Message, Fault> {
        let Some(link) = &mut self.link else { return Err(self.lost("it is closed")) };
        loop {
            match link.receive() {
                Ok(Some(Message::Line(line))) => output(&line),
                Ok(Some(Message::Failed(fault))) => {
                    let door_gone = fault.code_text() == Some("kiln::disk::door_gone");
                    let said = if door_gone { self.said() } else { String::new() };
                    return Err(fault.and_said(&said));
                }
                Ok(Some(message)) => return Ok(message),
                Ok(None) => return Err(self.lost("it ended")),
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
    }

    /// What is said when the keeper is gone in the middle of its work.
    fn lost(&self, why: &str) -> Fault {
        Fault::new(
            FaultKind::Host,
            "kiln::execute::keeper_gone",
            format!("the process that holds the disk is gone: {why}"),
        )
        .with_help("build again: it goes on behind the last finished step")
        .and_said(&self.said())
        .and_said(&Registered::read(&self.work).map(|it| it.to_string()).unwrap_or_default())
    }

    /// What kiln's own processes said when they crashed.
    fn said(&self) -> String {
        let mut said = String::new();
        if let Ok(file) = File::open(self.work.join("errors")) {
            let _ = file.take(4096).read_to_string(&mut said);
        }
        said
    }

    fn end_epoch(&mut self, digest: bool) -> Result<Epoch, Fault> {
        match self.ask(&Request::Snapshot { digest }, &mut |_| {})? {
            Message::Snapshot { changed, digest } => Ok(Epoch {
                overlay: self.overlay(),
                changed: changed
                    .into_iter()
                    .map(|(start, len, slot)| Changed { start, len, slot })
                    .collect(),
                digest,
            }),
            _ => Err(self.lost("it gave a wrong answer")),
        }
    }

    /// Closes the connection for good, every handle of it.
    fn hang_up(&mut self) {
        self.link = None;
        drop(self.open.all().handles.remove(&self.launcher.id()));
    }

    /// Waits for the launcher, which ends by itself once nobody is connected to it. One that was
    /// stopped does not: it is killed, and keeper and door, whom the kernel tells, die with it.
    fn wait_for_launcher(&mut self) -> io::Result<()> {
        if self.launcher.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_child(&self.launcher);
        let launcher = pidfd_open(pid, PidfdFlags::empty())?;
        let patience = Timespec::try_from(LAUNCHER_PATIENCE).expect("a short time");
        let mut fds = [PollFd::new(&launcher, PollFlags::IN)];
        while let Err(error) = poll(&mut fds, Some(&patience)) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        if fds[0].revents().is_empty() {
            self.launcher.kill()?;
        }
        self.launcher.wait().map(drop)
    }

    fn end(&mut self) -> Result<(), Fault> {
        let closed = self.ask(&Request::Close, &mut |_| {});
        self.hang_up();
        let ended = self.wait_for_launcher().context("wait for", Path::new("the launcher"));
        closed?;
        self.closed = true;
        ended.map(drop).map_err(|error| host(&error))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The end of the connection tells the launcher; it ends the others within its grace.
        self.hang_up();
        let _ = self.wait_for_launcher();
        if !self.closed {
            // A keeper that was killed inside a freeze leaves its device behind. What cannot be
            // undone here is tried again at the start of the next build.
            let _ = recover::release(&self.work);
        }
    }
}

impl Bench for Disk {
    fn perform(
        &mut self,
        task: &Task,
        log: &Path,
        output: &mut OnOutput<'_>,
    ) -> Result<Outcome, Fault> {
        let request = Request::Perform { task: Box::new(task.clone()), log: log.to_owned() };
        match self.ask(&request, output)? {
            Message::Performed(outcome) => Ok(*outcome),
            _ => Err(self.lost("it gave a wrong answer")),
        }
    }

    fn snapshot(&mut self, digest: bool) -> Result<Epoch, Fault> {
        self.end_epoch(digest)
    }

    fn seal(
        mut self: Box<Self>,
        scrub: &Scrub,
        seed: Digest,
        log: &Path,
        output: &mut OnOutput<'_>,
    ) -> Result<(SealReport, Box<dyn Resting>), Fault> {
        let request = Request::Seal { scrub: scrub.clone(), seed, log: log.to_owned() };
        match self.ask(&request, output)? {
            Message::Sealed(report) => Ok((*report, self)),
            _ => Err(self.lost("it gave a wrong answer")),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), Fault> {
        self.end()
    }
}

impl Resting for Disk {
    fn snapshot(&mut self, digest: bool) -> Result<Epoch, Fault> {
        self.end_epoch(digest)
    }

    fn close(mut self: Box<Self>) -> Result<(), Fault> {
        self.end()
    }
}

impl SealedDisk for Disk {
    fn verify(&mut self, report: SealReport) -> Result<SealReport, Fault> {
        match self.ask(&Request::Verify { report: Box::new(report) }, &mut |_| {})? {
            Message::Verified(report) => Ok(*report),
            _ => Err(self.lost("it gave a wrong answer")),
        }
    }

    fn convert(&mut self, format: OutputFormat, target: &Path) -> Result<(), Fault> {
        let request = Request::Convert { format, target: target.to_owned() };
        match self.ask(&request, &mut |_| {})? {
            Message::Done => Ok(()),
            _ => Err(self.lost("it gave a wrong answer")),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), Fault> {
        self.end()
    }
}

/// A machine on a disk in a keeper.
struct Booted {
    disk: Disk,
    console: UnixStream,
    port: u16,
    /// Where the keys are that its SSH server has shown.
    known: PathBuf,
}

impl Running for Booted {
    fn console(&self) -> Result<UnixStream, Fault> {
        let console = self.console.try_clone().context("share", Path::new("a console"));
        console.map_err(|error| host(&error))
    }

    fn session(&mut self, user: &str, key: &Path, command: &str, time: Duration) -> Session {
        let server = Server { port: self.port, known: &self.known };
        machine::session(&server, user, key, command, time)
    }

    fn host_keys(&self) -> BTreeSet<String> {
        Server { port: self.port, known: &self.known }.keys()
    }

    fn said(&self) -> String {
        self.disk.said()
    }

    fn labels(&mut self, since: SystemTime) -> Result<Labels, Fault> {
        match self.disk.ask(&Request::Labels { since }, &mut |_| {})? {
            Message::Labelled(labels) => Ok(labels),
            _ => Err(self.disk.lost("it gave a wrong answer")),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), Fault> {
        self.disk.end()
    }
}

fn host(error: &FileError) -> Fault {
    Fault::of(FaultKind::Host, error)
}
