//! The process between kiln and its keeper: starts keeper and door in a pid namespace of their own,
//! and sees to it that both are gone when either kiln or the keeper is.
//!
//! It is the only process that can kill the door while the keeper waits for it. It reads nothing
//! that kiln or the keeper says.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::{PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use crate::link::Link;
use crate::remote::signing::{KEY_VARIABLE, PASSWORD_VARIABLE};
use crate::sys;

/// The first argument of kiln's own processes; what follows it is the role.
pub const ROLE: &str = "--kiln-role";
/// Holds the number of the keeper's descriptor for talking to the door.
const DOOR_FD: &str = "KILN_DOOR_FD";
/// How long a keeper whose kiln is gone may take to put the host in order.
const GRACE: Duration = Duration::from_secs(8);
/// How long a keeper whose door is gone may take: every wait on the disk ends with an error.
const GRACE_WITHOUT_DOOR: Duration = Duration::from_secs(30);

/// The roles of kiln's processes besides kiln itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Starts the other two.
    Launcher,
    /// Holds mounts, loop device and guest programs.
    Keeper,
    /// Serves the disk.
    Door,
    /// Answers for the metadata service, on one connection; started by QEMU.
    Metadata,
}

impl Role {
    /// The role that a command line asks for; `None` for kiln itself.
    #[must_use]
    pub fn of_arguments() -> Option<Self> {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next()? != ROLE {
            return None;
        }
        match arguments.next()?.to_str()? {
            "launcher" => Some(Self::Launcher),
            "keeper" => Some(Self::Keeper),
            "door" => Some(Self::Door),
            "metadata" => Some(Self::Metadata),
            _ => None,
        }
    }

    /// Lives the life of the role. Must be called before any thread exists.
    ///
    /// # Errors
    /// Where the role cannot be begun, or its connection breaks.
    pub fn run(self) -> io::Result<i32> {
        if self == Self::Metadata {
            // Neither does it hold secrets, nor has it a connection to kiln.
            return metadata();
        }
        // Directories that these processes make on a guest's disk become part of its layer, which
        // must not depend on who runs kiln.
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        let link = sys::inherited(0)?;
        let high = rustix::io::fcntl_dupfd_cloexec(&link, 3)?;
        drop(link);
        // The lowest free number is 0 now: nothing that is opened later may land on it unseen.
        std::mem::forget(std::fs::File::open("/dev/null")?);
        let link = high;
        // Values of secrets go through these processes.
        crate::secret::hide_memory();
        match self {
            Self::Launcher => launch(&link),
            Self::Keeper => {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                let number = std::env::var(DOOR_FD).ok().and_then(|text| text.parse().ok());
                let door = sys::inherited(number.unwrap_or(-1))?;
                super::keeper::run(Link::from(link), Link::from(door)).map(|()| 0)
            }
            Self::Door => {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                crate::disk::door::run(Link::from(link)).map(|()| 0)
            }
            Self::Metadata => metadata(),
        }
    }
}

/// Answers a guest's requests on standard input and output.
fn metadata() -> io::Result<i32> {
    const PATIENCE: Duration = Duration::from_mins(1);
    // A connection that nobody uses ends. What is no socket has nobody behind it who waits.
    let _ = rustix::net::sockopt::set_socket_timeout(
        io::stdin(),
        rustix::net::sockopt::Timeout::Recv,
        Some(PATIENCE),
    );
    let text = std::env::var(super::machine::INSTANCE_VARIABLE).unwrap_or_default();
    let instance = serde_json::from_str(&text)?;
    crate::boot::serve(&instance, io::stdin().lock(), io::stdout().lock())?;
    Ok(0)
}

/// A command that runs this very program in a role.
fn command(role: &str, stdin: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args([ROLE, role]).stdin(Stdio::from(stdin)).stdout(Stdio::null());
    // None of them signs, nor does any program that they start.
    command.env_remove(KEY_VARIABLE).env_remove(PASSWORD_VARIABLE);
    command
}

/// Starts a launcher with keeper and door; `errors` gets what they say when they crash.
///
/// # Errors
/// Where this program cannot be started again.
pub fn start(errors: std::fs::File) -> io::Result<(Child, Link)> {
    let (ours, theirs) = Link::pair()?;
    let child = command("launcher", theirs.into()).stderr(errors).spawn()?;
    Ok((child, ours))
}

fn launch(kiln: &OwnedFd) -> io::Result<i32> {
    // Ctrl-C at the terminal reaches only kiln, which decides what it means for the others.
    rustix::process::setsid()?;
    let (keepers_end, doors_end) = Link::pair()?;
    sys::unshare_pid_namespace()?;
    let passed = keepers_end.duplicate()?;
    rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::empty())?;
    // The first process of the namespace: when it ends, the kernel ends all others.
    let mut keeper = command("keeper", kiln.try_clone()?)
        .env(DOOR_FD, passed.as_raw_fd().to_string())
        .spawn()?;
    drop((passed, keepers_end));
    let mut door = match command("door", doors_end.into()).spawn() {
        Ok(door) => door,
        Err(error) => {
            keeper.kill()?;
            keeper.wait()?;
            return Err(error);
        }
    };
    let status = watch(kiln, &mut keeper, &mut door);
    // First the door: its death ends every wait of the keeper on the disk.
    let _ = door.kill();
    let _ = door.wait();
    let _ = keeper.kill();
    let ended = keeper.wait()?;
    status?;
    Ok(code(ended))
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits until the keeper is gone, or has had its time after kiln or the door was gone.
fn watch(kiln: &OwnedFd, keeper: &mut Child, door: &mut Child) -> io::Result<()> {
    let pidfd = |child: &Child| {
        let pid = rustix::process::Pid::from_child(child);
        pidfd_open(pid, PidfdFlags::empty())
    };
    let (keeper_fd, door_fd) = (pidfd(keeper)?, pidfd(door)?);
    let mut deadline: Option<Instant> = None;
    let (mut kiln_gone, mut door_gone) = (false, false);
    loop {
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&keeper_fd, PollFlags::IN)];
        let kiln_at = (!kiln_gone).then(|| push(&mut fds, kiln.as_fd(), PollFlags::RDHUP));
        let door_at = (!door_gone).then(|| push(&mut fds, door_fd.as_fd(), PollFlags::IN));
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(());
        }
        let timeout = left.map(|left| Timespec::try_from(left).expect("a short time"));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let fired = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        let shorten = |deadline: Option<Instant>, grace| {
            let new = Instant::now() + grace;
            Some(deadline.map_or(new, |old| old.min(new)))
        };
        let (kiln_fired, door_fired) = (fired(kiln_at), fired(door_at));
        if kiln_fired {
            kiln_gone = true;
            deadline = shorten(deadline, GRACE);
        }
        if door_fired {
            // The keeper, first process of the namespace, cannot end before the door is reaped.
            door.wait()?;
            door_gone = true;
            deadline = shorten(deadline, GRACE_WITHOUT_DOOR);
        }
    }
}

fn push<'a>(fds: &mut Vec<PollFd<'a>>, fd: BorrowedFd<'a>, flags: PollFlags) -> usize {
    fds.push(PollFd::from_borrowed_fd(fd, flags));
    fds.len() - 1
}
