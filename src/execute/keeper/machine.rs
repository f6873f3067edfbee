//! How the keeper holds a virtual machine, and looks at its disk behind it.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, kill_process, setrlimit, wait};

use super::{Keeper, confused, host, mount_fault, seal_fault};
use crate::boot::{Instance, Labels};
use crate::disk::mounts::{Mounted, Place};
use crate::disk::places;
use crate::execute::machine::{self, Accelerator, INSTANCE_VARIABLE, Inherited, Machine};
use crate::execute::{Fault, FaultKind};
use crate::files::{self, Context, FileError};
use crate::guest::error::escaped;
use crate::guest::selinux::verify::Mismatch;
use crate::recipe::{BootFirmware, MetadataSource};
use crate::seal;

/// The user and the group of no rights. Source: nobody(5) of systemd's "Users, Groups, UIDs and
/// GIDs".
const NOBODY: u32 = 65534;
/// Most bytes of user data of which the service tells. Source: `MAX_USERDATA_SIZE` of Nova.
const MAX_USER_DATA: usize = 65_535;
/// Most files with another label that are looked at, and most that are named.
const MISMATCHES: usize = 100_000;
const NAMED: usize = 20;
/// Bytes at the start of a disk that hold what a BIOS runs. Source: the layout of an MBR.
const BOOT_CODE: usize = 440;

impl Keeper {
    /// Starts a machine on the disk; its serial console is the socket `console`.
    pub(super) fn boot(&mut self, machine: &Machine, console: OwnedFd) -> Result<(), Fault> {
        if self.machine.is_some() || self.read_only || self.mounted.is_some() {
            return Err(confused());
        }
        let program = machine::program()?;
        let started = self.start_machine(program, machine, console);
        self.machine = Some(started?);
        Ok(())
    }

    fn start_machine(
        &self,
        program: &'static str,
        machine: &Machine,
        console: OwnedFd,
    ) -> Result<Held, Fault> {
        let of_host = |error: FileError| host(&error);
        let device = self.device()?.path();
        let mut disk = OpenOptions::new()
            .read(true)
            .write(true)
            .open(device)
            .context("open", device)
            .map_err(of_host)?;
        let firmware = match machine.firmware {
            Some(firmware) => firmware,
            None => firmware_of(&mut disk).context("read", device).map_err(of_host)?,
        };
        let uefi = (firmware == BootFirmware::Uefi).then(machine::uefi).transpose()?;
        let seed = self.seed(&machine.instance)?;
        let own = Path::new("/proc/self/exe");
        let own = File::open(own).context("open", own).map_err(of_host)?;
        let inherited = [Some(disk.as_fd()), seed.as_ref().map(File::as_fd), Some(own.as_fd())];
        let numbers = Inherited {
            disk: disk.as_raw_fd(),
            seed: seed.as_ref().map(AsRawFd::as_raw_fd),
            program: own.as_raw_fd(),
        };
        let second = console.try_clone().context("share", Path::new("a console"));
        let group = match machine.accelerator {
            Accelerator::Kvm => machine::kvm_group().unwrap_or(NOBODY),
            Accelerator::Tcg => NOBODY,
        };
        let mut command = Command::new(program);
        command
            .args(machine::arguments(machine, uefi, numbers))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(service_of(&machine.instance)?)
            .current_dir("/")
            .uid(NOBODY)
            .gid(group)
            .stdin(Stdio::from(second.map_err(of_host)?))
            .stdout(Stdio::from(console));
        give_up()
            .map_err(std::io::Error::from)
            .context("give up privileges for", Path::new(program))
            .map_err(of_host)?;
        pass_on(&inherited, true).context("pass on", device).map_err(of_host)?;
        let child = command.spawn();
        // No other program that the keeper starts gets them.
        pass_on(&inherited, false).context("keep", device).map_err(of_host)?;
        let child = child.context("run", Path::new(program)).map_err(of_host)?;
        Ok(Held::new(&child))
    }

    /// The second disk of an instance, where it has one.
    fn seed(&self, instance: &Instance) -> Result<Option<File>, Fault> {
        let disk = instance.disk().map_err(|error| {
            Fault::new(FaultKind::Step, "kiln::execute::seed", error.to_string())
        })?;
        let Some(bytes) = disk else { return Ok(None) };
        let path = self.directory.join("seed");
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(&bytes)?;
            // Open for reading only: QEMU is not to be able to write to it.
            File::open(&path)
        };
        write().context("write", &path).map(Some).map_err(|error| host(&error))
    }

    /// Ends the machine, if there is one.
    pub(super) fn halt(&mut self) -> Result<(), Fault> {
        let Some(machine) = self.machine.take() else { return Ok(()) };
        machine.end().context("end", Path::new("the machine")).map_err(|error| host(&error))
    }

    /// Ends the machine, and holds the labels of its disk against the guest's policy.
    pub(super) fn labels(&mut self, since: SystemTime) -> Result<Labels, Fault> {
        self.halt()?;
        self.device()?.sync().map_err(|error| host(&error))?;
        // The guest may have divided its disk anew.
        self.look()?;
        let root = self.directory.join("root");
        files::make_directory(&root, 0o755).map_err(|error| host(&error))?;
        let places = places::find(&self.systems, &root).map_err(|error| mount_fault(&error))?;
        let mounted = Mounted::mount(&places.mounted, &root, true);
        let mounted = mounted.map_err(|error| mount_fault(&error))?;
        let policy = seal::policy(&root).map_err(|error| seal_fault(&error));
        mounted.unmount().map_err(|error| mount_fault(&error))?;
        let Some(policy) = policy? else {
            let message = "the guest has no SELinux policy any more";
            return Err(Fault::new(FaultKind::Step, "kiln::execute::policy_gone", message));
        };
        let labelled: Vec<Place> = places.mounted.into_iter().filter(Place::holds_labels).collect();
        self.alone(&labelled, true, |systems| {
            let roots: Vec<(Place, OwnedFd)> = systems
                .iter()
                .map(|(place, root)| Ok((place.clone(), root.try_clone()?)))
                .collect::<std::io::Result<_>>()
                .context("share", Path::new("a directory"))
                .map_err(|error| host(&error))?;
            let found = seal::mismatches(&policy, systems, MISMATCHES);
            let found = found.map_err(|error| seal_fault(&error))?;
            let shown = |path: &[u8]| escaped(&String::from_utf8_lossy(path));
            let (changed, made): (Vec<_>, Vec<_>) = found.mismatches.iter().partition(|found| {
                roots.iter().any(|(place, root)| was_there(root, place, &found.path, since))
            });
            let name = |found: Vec<&Mismatch>| {
                found.into_iter().take(NAMED).map(|found| shown(&found.path)).collect()
            };
            Ok(Labels {
                files: found.files,
                changed: name(changed),
                made: name(made),
                mismatches: found.mismatched,
            })
        })
    }
}

/// What starts a disk: a BIOS runs its first bytes, and where they are all zero there is nothing to
/// run.
fn firmware_of(disk: &mut File) -> std::io::Result<BootFirmware> {
    let mut code = [0; BOOT_CODE];
    disk.read_exact(&mut code)?;
    disk.seek(SeekFrom::Start(0))?;
    let bios = code.iter().any(|&byte| byte != 0);
    Ok(if bios { BootFirmware::Bios } else { BootFirmware::Uefi })
}

/// Lets the next program that is started have descriptors, or no further one.
fn pass_on(descriptors: &[Option<BorrowedFd<'_>>], passed: bool) -> std::io::Result<()> {
    use rustix::io::{FdFlags, fcntl_setfd};
    let flags = if passed { FdFlags::empty() } else { FdFlags::CLOEXEC };
    for descriptor in descriptors.iter().flatten() {
        fcntl_setfd(descriptor, flags)?;
    }
    Ok(())
}

/// From here on no program that the keeper starts has more rights than whoever starts it, and what a
/// guest makes its machine do takes neither all processes of the host nor all its descriptors.
fn give_up() -> rustix::io::Result<()> {
    for (resource, most) in [(Resource::Nofile, 1024), (Resource::Nproc, 512)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    rustix::thread::set_no_new_privs(true)
}

/// What tells the processes that answer for the metadata service what to say.
fn service_of(instance: &Instance) -> Result<Option<(&'static str, String)>, Fault> {
    if instance.source != MetadataSource::Service {
        return Ok(None);
    }
    if instance.user_data.len() > MAX_USER_DATA {
        let bytes = instance.user_data.len();
        let message = format!("the metadata service takes 65,535 bytes of user data, not {bytes}");
        return Err(Fault::new(FaultKind::Step, "kiln::execute::seed", message)
            .with_help("Nova takes no more either; a seed of `nocloud` does"));
    }
    let text = serde_json::to_string(instance).expect("an instance is plain data");
    Ok(Some((INSTANCE_VARIABLE, text)))
}

/// A machine that runs, and whoever waits for it and for what it starts: the keeper is the first
/// process of its namespace, and so the parent of all processes whose own is gone.
pub(super) struct Held {
    machine: Pid,
    reaper: JoinHandle<()>,
}

impl Held {
    fn new(child: &Child) -> Self {
        let reaper = std::thread::spawn(|| {
            // Until there is no child any more.
            while let Ok(_) | Err(Errno::INTR) = wait(WaitOptions::empty()) {}
        });
        Self { machine: Pid::from_child(child), reaper }
    }

    fn end(self) -> std::io::Result<()> {
        match kill_process(self.machine, Signal::KILL) {
            // It ended by itself, and has been waited for; in this namespace no other process has
            // had its number since, as none was started.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        // With the machine, every connection to the service ends.
        self.reaper.join().map_err(|_| std::io::Error::other("its reaper panicked"))
    }
}

/// Whether an inode of a mounted file system was made before a moment. `path` is that in the guest,
/// and no link on it is followed.
fn was_there(root: &OwnedFd, place: &Place, path: &[u8], since: SystemTime) -> bool {
    let target = place.target.as_str().trim_end_matches('/');
    let Some(rest) = path.strip_prefix(target.as_bytes()) else { return false };
    let Some(relative) = rest.strip_prefix(b"/") else { return false };
    let relative = if relative.is_empty() { b"." } else { relative };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let relative = std::ffi::OsStr::from_bytes(relative);
    let Ok(file) = openat2(root, relative, flags, Mode::empty(), resolve) else { return false };
    let nothing: &CStr = c"";
    let Ok(found) = statx(&file, nothing, AtFlags::EMPTY_PATH, StatxFlags::BTIME) else {
        return false;
    };
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let born = u64::try_from(found.stx_btime.tv_sec).map(Duration::from_secs);
    // Where it is not known, it is none of what the boot made.
    !known || born.is_ok_and(|born| SystemTime::UNIX_EPOCH + born < since)
}
