//! How the keeper holds a virtual machine, and looks at its disk behind it.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

use super::{Keeper, confused, host, mount_fault, seal_fault};
use crate::boot::{Instance, Labels};
use crate::disk::mounts::{Mounted, Place};
use crate::disk::places;
use crate::execute::machine::{self, INSTANCE_VARIABLE, Inherited, Machine};
use crate::execute::{Fault, FaultKind};
use crate::files::{self, Context, FileError};
use crate::guest::error::escaped;
use crate::recipe::BootFirmware;
use crate::seal;

/// The user and the group of no rights. Source: nobody(5) of systemd's "Users, Groups, UIDs and
/// GIDs".
const NOBODY: u32 = 65534;
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
    ) -> Result<std::process::Child, Fault> {
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
        pass_on(&inherited, true).context("pass on", device).map_err(of_host)?;
        let numbers = Inherited {
            disk: disk.as_raw_fd(),
            seed: seed.as_ref().map(AsRawFd::as_raw_fd),
            program: own.as_raw_fd(),
        };
        let instance = serde_json::to_string(&machine.instance).expect("an instance is plain data");
        // Whoever may use KVM is a group; without it, or without KVM, nobody's own will do.
        let group = std::fs::metadata("/dev/kvm").map_or(NOBODY, |meta| meta.gid());
        // From here on no program of the host has more rights than whoever starts it.
        rustix::thread::set_no_new_privs(true)
            .map_err(std::io::Error::from)
            .context("give up privileges for", Path::new(program))
            .map_err(of_host)?;
        let second = console.try_clone().context("share", Path::new("a console"));
        let child = Command::new(program)
            .args(machine::arguments(machine, uefi, numbers))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env(INSTANCE_VARIABLE, instance)
            .current_dir("/")
            .uid(NOBODY)
            .gid(group)
            .stdin(Stdio::from(second.map_err(of_host)?))
            .stdout(Stdio::from(console))
            .spawn();
        // No other program that the keeper starts gets them.
        pass_on(&inherited, false).context("keep", device).map_err(of_host)?;
        child.context("run", Path::new(program)).map_err(of_host)
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
        let Some(mut machine) = self.machine.take() else { return Ok(()) };
        let ended = machine.kill().and_then(|()| machine.wait());
        ended.context("end", Path::new("the machine")).map(drop).map_err(|error| host(&error))
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
        let Some(policy) = policy? else { return Ok(Labels::default()) };
        let labelled: Vec<Place> = places.mounted.into_iter().filter(Place::holds_labels).collect();
        self.alone(&labelled, true, |systems| {
            let roots: Vec<(Place, OwnedFd)> = systems
                .iter()
                .map(|(place, root)| Ok((place.clone(), root.try_clone()?)))
                .collect::<std::io::Result<_>>()
                .context("share", Path::new("a directory"))
                .map_err(|error| host(&error))?;
            let found = seal::mismatches(&policy, systems).map_err(|error| seal_fault(&error))?;
            let changed = found.mismatches.iter().filter(|mismatch| {
                roots.iter().any(|(place, root)| was_there(root, place, &mismatch.path, since))
            });
            let changed = changed.map(|found| escaped(&String::from_utf8_lossy(&found.path)));
            let changed = changed.collect();
            Ok(Labels { files: found.files, changed, mismatches: found.mismatched })
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
    known && born.is_ok_and(|born| SystemTime::UNIX_EPOCH + born < since)
}
