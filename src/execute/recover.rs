//! Puts the host in order after builds that were killed.
//!
//! Namespaces and autoclearing loop devices undo nearly everything by themselves. What is left is
//! a launcher that was stopped, a file system that was killed while it was frozen, and empty
//! control groups. Only what carries the name of an abandoned build is touched.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};

use super::registered::{self, Registered};
use crate::disk::loops;
use crate::files::{self, Context, FileError};
use crate::store::Store;
use crate::store::work::{Abandoned, abandoned};
use crate::sys;

/// How long processes of a killed build may take to end by themselves.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long the kernel may take to let go of a loop device after that.
const DEVICE_PATIENCE: Duration = Duration::from_secs(20);
const LAUNCHER: &str = "launcher";

/// The name of the loop device of a disk whose files are in `work`, a directory `BUILD/LANE/DISK`,
/// and of its control groups. Only one build ever has it.
#[must_use]
pub fn device_name(work: &Path) -> String {
    let mut parts: Vec<_> = work
        .ancestors()
        .take(3)
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    parts.reverse();
    format!("{}{}", loops::NAME, parts.join("."))
}

/// Notes which process is a disk's launcher, for a run after this one was killed.
///
/// # Errors
/// Where the note cannot be written.
pub fn note_launcher(work: &Path, pid: u32) -> Result<(), FileError> {
    let path = work.join(LAUNCHER);
    let started = started(pid).unwrap_or_default();
    fs::write(&path, format!("{pid} {started}")).context("write", &path)
}

/// When a process started, in the kernel's ticks; with its number this names it for good.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Source: proc_pid_stat(5): field 22, counted behind the name, which may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

/// Cleans up behind every build of a store that is over but did not do it itself; tells how many.
/// `warn` gets what only the user can undo, once.
///
/// # Errors
/// Where something cannot be undone.
pub fn recover(store: &Store, warn: &mut dyn FnMut(&str)) -> Result<usize, FileError> {
    store.refs().sweep()?;
    let found = abandoned(store)?;
    let count = found.len();
    let mut outcome = Ok(count);
    for build in found {
        // One that cannot be cleaned up does not keep the others from it.
        outcome = recover_one(build, warn).and(outcome);
    }
    outcome
}

fn recover_one(build: Abandoned, warn: &mut dyn FnMut(&str)) -> Result<(), FileError> {
    for lane in directories(&build.path)? {
        for disk in directories(&lane)? {
            end_launcher(&disk);
            release(&disk)?;
            if let Some(registered) = Registered::read(&disk) {
                let image = registered::image_of(&lane).unwrap_or_default();
                warn(&format!("a build of the image `{image}` was killed: {registered}"));
                Registered::forget(&disk)?;
            }
        }
    }
    build.remove()
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = fs::read_dir(path).context("read", path)?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

/// Waits until nothing of the host belongs to a disk any more whose processes have ended, and thaws
/// what was left frozen.
///
/// # Errors
/// Where something cannot be undone.
pub fn release(disk: &Path) -> Result<(), FileError> {
    release_devices(disk)?;
    remove_groups(&device_name(disk).replace(':', "-"));
    Ok(())
}

/// Waits for the launcher, which ends by itself, and ends it where it was stopped.
fn end_launcher(disk: &Path) {
    let note = fs::read_to_string(disk.join(LAUNCHER)).unwrap_or_default();
    let Some((pid, start)) = note.split_once(' ') else { return };
    let Ok(pid) = pid.parse::<u32>() else { return };
    let alive = || !start.is_empty() && started(pid).as_deref() == Some(start);
    let deadline = Instant::now() + PATIENCE;
    while alive() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    if alive()
        && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
    {
        // Keeper and door are told by the kernel, and die with it.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Waits until the disk's loop devices are gone; thaws what holds them.
fn release_devices(disk: &Path) -> Result<(), FileError> {
    let name = device_name(disk);
    let deadline = Instant::now() + DEVICE_PATIENCE;
    let mut thawed = false;
    loop {
        let devices = devices_of(&name);
        if devices.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let error = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
            return Err(error).context("release", &devices[0]);
        }
        // First the kernel gets a moment: devices go by themselves unless something is frozen.
        if thawed || deadline - Instant::now() < DEVICE_PATIENCE.mul_f32(0.9) {
            for device in &devices {
                thaw(device, disk)?;
            }
            thawed = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Loop devices that were attached with that name.
fn devices_of(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let block = entry.file_name();
        if !block.as_encoded_bytes().starts_with(b"loop") || !entry.path().join("loop").exists() {
            continue;
        }
        let path = Path::new("/dev").join(block);
        let Ok(file) = OpenOptions::new().read(true).open(&path) else { continue };
        // The kernel keeps 63 bytes of a name.
        let wanted = &name[..name.len().min(sys::LOOP_NAME)];
        if sys::loop_name(&file).ok().flatten().as_deref() == Some(wanted) {
            found.push(path);
        }
    }
    found
}

/// Mounts once more what was left frozen on a device, thaws it and unmounts it: only a mount leads
/// to a file system whose own mounts went with their namespace.
fn thaw(device: &Path, disk: &Path) -> Result<(), FileError> {
    let target = disk.join("thaw");
    files::make_directory(&target, 0o700)?;
    let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut nodes = vec![device.to_owned()];
    for entry in fs::read_dir(Path::new("/sys/block").join(&name)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&name) {
            nodes.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    for node in nodes {
        for kind in ["ext4", "xfs", "btrfs"] {
            // The kernel gives back the file system that is still there; its disk is gone, so a new
            // one could not even be read.
            if rustix::mount::mount(&node, &target, kind, MountFlags::empty(), None).is_err() {
                continue;
            }
            let directory = fs::File::open(&target).context("open", &target)?;
            while sys::thaw(&directory).is_ok() {}
            drop(directory);
            rustix::mount::unmount(&target, UnmountFlags::NOFOLLOW).context("unmount", &target)?;
        }
    }
    if let Ok(file) = OpenOptions::new().read(true).open(device) {
        let _ = sys::detach_loop(&file);
    }
    Ok(())
}

/// Removes the empty control groups of a disk's programs.
fn remove_groups(name: &str) {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let roots = roots.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
    for root in roots.filter(|root| root.is_dir()) {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            let own = entry.file_name();
            let own = own.to_string_lossy();
            if own.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')) {
                // One that is not empty is still in use, by processes that are about to end.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}
