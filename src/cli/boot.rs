//! `kiln boot`.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::build::on_interrupt;
use super::check_image::{Scratch, Subject, format_of};
use super::user_data::{Reader, plain};
use super::{CliError, Place};
use crate::boot::{Console, Instance};
use crate::engine::{disk_size, foreign, free_ports, machine_gone};
use crate::execute::machine::{Accelerator, EMULATED, Kvm, Machine, TRIAL};
use crate::execute::native::Native;
use crate::execute::{Executor, Start};
use crate::files::{self, Context};
use crate::recipe::{BootFirmware, DiskFormat, MetadataSource};

/// What ends the connection, as in `virsh console` and `telnet`: Ctrl and `]`.
const ESCAPE: u8 = 0x1d;

/// Boot an image, and connect this terminal with its console. What the machine writes is thrown
/// away at its end.
#[derive(Debug, Args)]
pub(super) struct Boot {
    /// A disk image, or an image of the workspace as it was built last.
    #[arg(value_name = "FILE|IMAGE")]
    image: PathBuf,
    /// The format of the file; found by its magic number by default.
    #[arg(long, value_name = "FORMAT", value_parser = format_of)]
    format: Option<DiskFormat>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,
    /// Processors.
    #[arg(long, value_name = "N", default_value_t = 2)]
    processors: u32,
    /// Make the disk larger, to so many GiB.
    #[arg(long, value_name = "GIB")]
    size: Option<u64>,
    /// What starts it; found from the disk by default.
    #[arg(long, value_name = "KIND")]
    firmware: Option<FirmwareArgument>,
    /// Where the machine finds who it is.
    #[arg(long, value_name = "SOURCE", default_value = "config-drive")]
    metadata: SourceArgument,
    /// Its name.
    #[arg(long, default_value = "kiln")]
    name: String,
    /// A file with its user data, or the name of user data of the workspace.
    #[arg(long, value_name = "FILE|NAME")]
    user_data: Option<PathBuf>,
    /// A file with a public key that may log in; the first of your own by default.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The port of this host that leads to its SSH server; a free one by default.
    #[arg(long, value_name = "PORT")]
    ssh: Option<u16>,
    /// Let it reach what this host reaches, the host's own 127.0.0.1 included.
    #[arg(long)]
    network: bool,
    /// Emulate it, without KVM.
    #[arg(long)]
    emulate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FirmwareArgument {
    /// A PC's BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SourceArgument {
    /// A disk as Nova makes it.
    ConfigDrive,
    /// The service at 169.254.169.254.
    Service,
    /// A disk for machines outside a cloud.
    Nocloud,
}

/// What became of a connection.
struct Connection {
    end: End,
    /// Whether the console has shown anything.
    shown: bool,
    /// When it showed a kernel's log, from the start of the machine on.
    kernel_after: Option<Duration>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The machine is off.
    Off,
    /// The user left, and the machine ends with that.
    Left,
    /// No kernel said a word.
    Silent,
}

impl Boot {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let subject = Subject::find(&self.image, place)?;
        let executor = Native::default();
        executor.check()?;
        let interrupted = on_interrupt();
        let scratch = Scratch::make(place)?;
        let chain = match subject {
            Subject::File(path) => vec![foreign(&path, self.format, scratch.path())?],
            Subject::Built { chain, .. } => chain,
        };
        let start = match self.size.map(|gib| gib.saturating_mul(1 << 30)) {
            Some(size) if size > disk_size(&chain)? => Start::Grown(chain, size),
            _ => Start::State(chain),
        };
        let instance = self.instance(place)?;
        let ssh_port = match self.ssh {
            Some(port) => port,
            None => free_ports(1)?[0],
        };
        let kvm = Kvm::default();
        let mut accelerators = kvm.accelerators();
        accelerators.retain(|&accelerator| !self.emulate || accelerator == Accelerator::Tcg);
        let mut silent = false;
        for accelerator in accelerators {
            let work = scratch.path().join("boot").join(accelerator.keyword());
            files::make_directory(&work, 0o700)?;
            let machine = Machine {
                accelerator,
                memory: u64::from(self.memory) << 20,
                processors: self.processors,
                firmware: self.firmware.map(|firmware| match firmware {
                    FirmwareArgument::Bios => BootFirmware::Bios,
                    FirmwareArgument::Uefi => BootFirmware::Uefi,
                }),
                instance: instance.clone(),
                ssh_port,
                network: self.network,
            };
            let running = executor.boot(&start, &machine, &work)?;
            eprintln!(
                "kiln: booting with {}; SSH is at port {ssh_port} of 127.0.0.1; Ctrl-] ends it\r",
                accelerator.keyword()
            );
            let console = running.console()?;
            let trial = (accelerator == Accelerator::Kvm).then_some(TRIAL);
            let ended = connect(console, &interrupted, trial);
            let said = running.said();
            let closed = running.close();
            let Connection { end, shown, kernel_after } = ended?;
            if silent && kernel_after.is_some_and(|time| time < EMULATED) {
                kvm.is_silent();
            }
            match end {
                End::Silent => {
                    eprintln!("kiln: no kernel says a word under KVM\r");
                    silent = true;
                    closed?;
                }
                End::Left => return Ok(closed?),
                End::Off if shown => {
                    eprintln!("kiln: the machine is off\r");
                    return Ok(closed?);
                }
                End::Off => {
                    return Err(machine_gone(&said).into());
                }
            }
        }
        Ok(())
    }

    fn user_data(&self, place: &Place) -> Result<Vec<u8>, CliError> {
        let Some(path) = &self.user_data else { return Ok(Vec::new()) };
        match path.to_str().filter(|_| !path.is_file()) {
            Some(name) => {
                let reader = match self.metadata {
                    SourceArgument::Nocloud => Reader::Seed,
                    SourceArgument::ConfigDrive | SourceArgument::Service => Reader::Nova,
                };
                Ok(plain(&place.workspace()?, name, reader)?.bytes)
            }
            None => Ok(std::fs::read(path).context("read", path)?),
        }
    }

    fn instance(&self, place: &Place) -> Result<Instance, CliError> {
        let user_data = self.user_data(place)?;
        let own = self.key.clone().or_else(own_key);
        let keys = match own {
            None => Vec::new(),
            Some(path) => {
                let text = std::fs::read_to_string(&path).context("read", &path)?;
                text.lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty())
                    .map(Into::into)
                    .collect()
            }
        };
        Ok(Instance {
            id: "6b696c6e-0000-4000-8000-000000000001".to_owned(),
            name: self.name.clone(),
            keys,
            user_data,
            mac: "52:54:00:6b:69:10".to_owned(),
            source: match self.metadata {
                SourceArgument::ConfigDrive => MetadataSource::ConfigDrive,
                SourceArgument::Service => MetadataSource::Service,
                SourceArgument::Nocloud => MetadataSource::Nocloud,
            },
        })
    }
}

/// The user's own public key, as `ssh` would look for it.
fn own_key() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?).join(".ssh");
    ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"]
        .into_iter()
        .map(|name| home.join(name))
        .find(|path| path.is_file())
}

/// A terminal that passes on every key as it is, until this value goes.
struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Self {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Self(None);
        }
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let set = tcsetattr(&stdin, OptionalActions::Now, &raw);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Passes bytes between the terminal and a console. In a trial, somebody has to show a sign of life in
/// that time: a kernel, a login prompt, or whoever types.
fn connect(
    mut console: UnixStream,
    interrupted: &AtomicBool,
    trial: Option<Duration>,
) -> Result<Connection, CliError> {
    let _raw = Raw::new();
    let glance = Timespec::try_from(Duration::from_millis(200)).expect("a short time");
    let (started, mut shown, mut kernel_after) = (Instant::now(), Console::default(), None);
    let (stdin, mut stdout) = (std::io::stdin(), std::io::stdout());
    let (mut bytes, mut typing, mut typed) = ([0; 4096], true, false);
    let here = Path::new("the console");
    let end = loop {
        if interrupted.load(Ordering::SeqCst) {
            break End::Left;
        }
        let alive = kernel_after.is_some() || typed || shown.shows_login();
        if !alive && trial.is_some_and(|time| started.elapsed() > time) {
            break End::Silent;
        }
        let mut fds = vec![PollFd::from_borrowed_fd(console.as_fd(), PollFlags::IN)];
        if typing {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, Some(&glance)) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.map(drop).map_err(std::io::Error::from).context("wait for", here)?,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            let count = console.read(&mut bytes).context("read", here)?;
            if count == 0 {
                // One that fails at once under KVM may do better without.
                break if trial.is_some() && !alive { End::Silent } else { End::Off };
            }
            shown.push(&bytes[..count]);
            if kernel_after.is_none() && shown.shows_kernel() {
                kernel_after = Some(started.elapsed());
            }
            // Whoever closed the other end has seen enough, and the machine goes on.
            let _ = stdout.write_all(&bytes[..count]).and_then(|()| stdout.flush());
        }
        if ready.get(1) == Some(&true) {
            let read = rustix::io::read(&stdin, &mut bytes).map_err(std::io::Error::from);
            let count = read.context("read", Path::new("standard input"))?;
            (typing, typed) = (count > 0, typed || count > 0 && stdin.is_terminal());
            let keys = &bytes[..count];
            let until = keys.iter().position(|&byte| byte == ESCAPE && stdin.is_terminal());
            // A machine that is off takes nothing; its end is seen above.
            let _ = console.write_all(&keys[..until.unwrap_or(count)]);
            if until.is_some() {
                break End::Left;
            }
        }
    };
    Ok(Connection { end, shown: !shown.text().is_empty(), kernel_after })
}
