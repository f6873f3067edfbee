//! How the keeper makes a bootable system on its blank disk.
//!
//! What is made is `execute::bootstrap`'s.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::steps::Log;
use super::{Keeper, confused, guest_fault, host, mount_fault};
use crate::digest::Digest;
use crate::disk::mounts;
use crate::execute::bootstrap::{self, Ids};
use crate::execute::container::Status;
use crate::execute::{Fault, FaultKind, Outcome};
use crate::files::{self, Context};
use crate::guest::program::SCRIPT_PATH;
use crate::guest::root::FileAttributes;
use crate::guest::{GuestRoot, Program};
use crate::link::Link;
use crate::recipe::Bootstrap;

const BOOT_LOADER_TIMEOUT: Duration = Duration::from_mins(10);

impl Keeper {
    pub(super) fn bootstrap(
        &mut self,
        recipe: &Bootstrap,
        seed: Digest,
        timeout: Duration,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Outcome, Fault> {
        if std::env::consts::ARCH != "x86_64" {
            let message = format!(
                "`bootstrap` makes disks that boot with a PC BIOS, and this host is {}",
                std::env::consts::ARCH
            );
            return Err(Fault::new(FaultKind::Step, "kiln::execute::bootstrap_arch", message)
                .with_help("use a base of another kind, or build on an x86_64 host"));
        }
        let ids = Ids::of(seed);
        let node = self.device()?.path().to_owned();
        let script = bootstrap::partition_script(&ids);
        call(bootstrap::partition_command(&node), script.as_bytes(), timeout, log, engine)?;
        let size = self.size()?;
        let device = self.device.as_mut().ok_or_else(confused)?;
        mounts::file_systems(device, size).map_err(|error| mount_fault(&error))?;
        let root_partition = device.partition(2);
        call(bootstrap::format_command(&root_partition, &ids), b"", timeout, log, engine)?;

        let target = self.directory.join("bootstrap");
        files::make_directory(&target, 0o755).map_err(|error| host(&error))?;
        // With device nodes, unlike every other mount of a guest: mmdebstrap's chroot needs them.
        mounts::mount_for_bootstrap(&root_partition, &target)
            .map_err(|error| mount_fault(&error))?;
        let unpacked =
            call(bootstrap::packages_command(recipe, &target), b"", timeout, log, engine);
        let unmounted = mounts::unmount(&target, &"/".parse().expect("a path"));
        unpacked?;
        unmounted.map_err(|error| mount_fault(&error))?;

        self.systems = vec![
            mounts::file_system(root_partition, Some(2), Some(&ids.root_partition))
                .map_err(|error| mount_fault(&error))?
                .ok_or_else(confused)?,
        ];
        self.boot_loader(&ids, log, engine)?;
        let mut host = vec![version(&mut Command::new("mmdebstrap"))];
        host.extend(self.runtime.iter().map(|runtime| runtime.version.clone()));
        Ok(Outcome { host, ..Outcome::default() })
    }

    fn boot_loader(&mut self, ids: &Ids, log: &mut Log, engine: &mut Link) -> Result<(), Fault> {
        // The fstab that names the root is not there yet; with one file system nothing depends on it.
        let path = self.mounted()?.root().to_owned();
        let root = GuestRoot::open(&path).map_err(|error| guest_fault(&error))?;
        let fault = |error| guest_fault(&error);
        root.make_directories("/etc/default/grub.d", FileAttributes::root(0o755)).map_err(fault)?;
        for (path, content) in bootstrap::configuration(ids) {
            root.write_atomic(path, content.as_bytes(), FileAttributes::root(0o644))
                .map_err(fault)?;
        }
        let node = self.device()?.path().to_string_lossy().into_owned();
        let mut program = Program::new(["/bin/sh", SCRIPT_PATH, &node]);
        program.script = Some(bootstrap::BOOT_SCRIPT.as_bytes().to_vec());
        let ended = self.run_program(&root, &program, false, BOOT_LOADER_TIMEOUT, log, engine)?;
        if ended.status == Status::Exited(0) {
            return Ok(());
        }
        let message = format!("the boot loader could not be installed{}", log.excerpt());
        Err(Fault::new(FaultKind::Step, "kiln::execute::boot_loader", message))
    }
}

/// Runs a program of the host to its end; what it prints goes to the log.
fn call(
    mut command: Command,
    input: &[u8],
    timeout: Duration,
    log: &mut Log,
    engine: &mut Link,
) -> Result<(), Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    let path = PathBuf::from(&name);
    let missing = |error: files::FileError| {
        let fault = Fault::of(FaultKind::Host, &error);
        if error.source.kind() == std::io::ErrorKind::NotFound {
            return fault.with_help("install it; `kiln doctor --fix` does it");
        }
        fault
    };
    let (reader, writer) = std::io::pipe().context("make", Path::new("a pipe")).map_err(missing)?;
    let errors = writer.try_clone().context("make", Path::new("a pipe")).map_err(missing)?;
    let child = command.stdin(Stdio::piped()).stdout(writer).stderr(errors).spawn();
    let mut child = child.context("run", &path).map_err(missing)?;
    // The command keeps the writing ends, and with them the pipe, open.
    drop(command);
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read all of it says why in its own words.
        let _ = stdin.write_all(input);
    }
    let mut reader = File::from(std::os::fd::OwnedFd::from(reader));
    let mut buffer = [0; 16384];
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(fault) = wait_for(&reader, engine, deadline, &name, timeout) {
            // Whatever it started dies with the keeper, which the engine ends after a fault.
            let _ = child.kill();
            let _ = child.wait();
            return Err(fault);
        }
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => log.bytes(engine, &buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read", &path).map_err(missing),
        }
    }
    let status = child.wait().context("wait for", &path).map_err(missing)?;
    if status.success() {
        return Ok(());
    }
    let message = format!("`{name}` failed ({status}){}", log.excerpt());
    Err(Fault::new(FaultKind::Step, "kiln::execute::bootstrap", message))
}

/// Waits until a program printed something or ended; a fault where its time is over or the build
/// was called off.
fn wait_for(
    reader: &File,
    engine: &Link,
    deadline: Instant,
    name: &str,
    timeout: Duration,
) -> Option<Fault> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let left = deadline.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::new(reader, PollFlags::IN), PollFd::new(engine, PollFlags::RDHUP)];
    let timespec = Timespec::try_from(left).ok();
    let ready = poll(&mut fds, timespec.as_ref());
    if !fds[1].revents().is_empty() {
        return Some(Fault::new(
            FaultKind::Interrupted,
            "kiln::execute::interrupted",
            "interrupted",
        ));
    }
    (ready == Ok(0)).then(|| {
        let message = format!("`{name}` did not end within {} s", timeout.as_secs());
        Fault::new(FaultKind::Step, "kiln::execute::timed_out", message)
    })
}

fn version(command: &mut Command) -> String {
    let output = command.arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}
