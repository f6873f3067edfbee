//! The keeper: pid 1 of its own namespaces, holder of the loop device, the mounts and the guest's
//! programs.
//!
//! It does what the engine asks, one request after the other, and puts the host in order when the
//! engine is gone. It never touches the store, and nobody else touches its mounts.

pub mod attach;
mod audit;
mod bootstrap;
mod disks;
mod grow;
mod machine;
mod packages;
mod secrets;
mod session;
mod steps;
mod tools;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, MoveMountFlags, move_mount};

use steps::Given;

use super::container::{ContainerError, Runtime};
use super::{Fault, FaultKind, Message, Outcome, Request, Task};
use crate::digest::Digest;
use crate::disk::door::{Door, DoorError, Serve};
use crate::disk::ids::{self, NewId};
use crate::disk::loops::LoopDevice;
use crate::disk::mounts::{self, FileSystem, MountError, Mounted, Place};
use crate::disk::places;
use crate::files::{self, Context, FileError};
use crate::guest::{DiskFacts, GuestError};
use crate::link::Link;
use crate::name::GuestPath;
use crate::recipe::{OutputFormat, Scrub, ScrubItem};
use crate::seal::{self, SealError, SealReport};
use crate::sys::{self, LoopOptions};
use tools::Tools;

/// The life of the keeper's process.
///
/// # Errors
/// Where its namespaces cannot be made, or the connection to the engine breaks.
pub fn run(mut engine: Link, door: Link) -> io::Result<()> {
    sys::unshare_mounts()?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Of this pid namespace: runtimes and the relabeller look at themselves through it.
    rustix::mount::mount(
        "proc",
        "/proc",
        "proc",
        rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC,
        None,
    )?;
    let mut door = Some(door);
    let mut keeper: Option<Keeper> = None;
    while let Some(request) = engine.receive::<Request>()? {
        let answer = match (request, &mut keeper) {
            (Request::Open { serve, name, directory }, none @ None) => match door.take() {
                Some(link) => Keeper::open(link, &serve, &name, directory).map(|opened| {
                    *none = Some(opened);
                    Message::Done
                }),
                None => Err(confused()),
            },
            (Request::Close, _) => {
                let closed = keeper.take().map_or(Ok(()), |keeper| keeper.close(&mut engine));
                let answer = closed.map(|()| Message::Done);
                engine.send(&answer.unwrap_or_else(|fault| Message::Failed(Box::new(fault))))?;
                return Ok(());
            }
            (request, Some(keeper)) => keeper.answer(request, &mut engine),
            (_, None) => Err(confused()),
        };
        engine.send(&answer.unwrap_or_else(|fault| Message::Failed(Box::new(fault))))?;
    }
    // The engine is gone. What cannot be undone in order is undone by the end of the namespaces.
    if let Some(keeper) = keeper {
        let _ = keeper.close(&mut engine);
    }
    Ok(())
}

fn confused() -> Fault {
    Fault::new(
        FaultKind::Host,
        "kiln::execute::confused",
        "kiln's processes disagree about what to do",
    )
    .with_help("this is a bug in kiln; build again, and report it if it comes back")
}

/// Everything that one working disk holds on the host.
struct Keeper {
    /// Where its files and mount points are.
    directory: PathBuf,
    /// The name of its loop device and of its control groups.
    name: String,
    read_only: bool,
    /// The disk as one file, mounted there.
    disk: PathBuf,
    door: Door,
    device: Option<LoopDevice>,
    systems: Vec<FileSystem>,
    mounted: Option<Mounted>,
    /// The registration of the guest, while one lasts.
    session: Option<session::Session>,
    /// Mount points left empty, of which no log tells yet.
    left_out: Vec<GuestPath>,
    runtime: Option<Runtime>,
    /// Number of the next guest program.
    programs: u32,
    sealed: bool,
    /// The machine that runs on the disk, while there is one.
    machine: Option<machine::Held>,
}

impl Keeper {
    fn open(link: Link, serve: &Serve, name: &str, directory: PathBuf) -> Result<Self, Fault> {
        let (door, mount) = Door::open(link, serve).map_err(|error| of_door(&error))?;
        let disk = directory.join("disk");
        let attached = attach(&mount, &disk, name, serve.overlay.is_none());
        drop(mount);
        let device = attached.map_err(|error| host(&error))?;
        Ok(Self {
            directory,
            name: name.to_owned(),
            read_only: serve.overlay.is_none(),
            disk,
            door,
            device: Some(device),
            systems: Vec::new(),
            mounted: None,
            session: None,
            left_out: Vec::new(),
            runtime: None,
            programs: 0,
            sealed: false,
            machine: None,
        })
    }

    fn answer(&mut self, request: Request, engine: &mut Link) -> Result<Message, Fault> {
        match request {
            Request::Open { .. } | Request::Close => Err(confused()),
            Request::Perform { task, log } => {
                let outcome = self.perform(&task, &log, engine);
                self.blame_the_disk(outcome).map(|outcome| Message::Performed(Box::new(outcome)))
            }
            Request::Seal { scrub, seed, log } => {
                let report = steps::Log::open(&log)
                    .map_err(|error| host(&error))
                    .and_then(|mut log| self.seal(&scrub, seed, &mut log, engine));
                self.blame_the_disk(report).map(|report| Message::Sealed(Box::new(report)))
            }
            Request::Snapshot { digest } => {
                let snapshot = self.snapshot(digest);
                self.blame_the_disk(snapshot)
            }
            Request::Boot { machine } => {
                let console = engine.receive_descriptor();
                let console = console.context("receive", Path::new("a console"));
                console
                    .map_err(|error| host(&error))
                    .and_then(|console| self.boot(&machine, console))
                    .map(|()| Message::Done)
            }
            Request::Labels { since } => {
                let labels = self.labels(since);
                self.blame_the_disk(labels).map(Message::Labelled)
            }
            Request::SelfTest => {
                let device = self.device()?.path().to_owned();
                let tested = super::self_test::run(&device);
                self.blame_the_disk(tested).map(Message::Tested)
            }
            Request::Verify { report } => {
                let report = self.verify(*report);
                self.blame_the_disk(report).map(|report| Message::Verified(Box::new(report)))
            }
            Request::Convert { format, target } => {
                let converted = self.convert(format, &target);
                self.blame_the_disk(converted).map(|()| Message::Done)
            }
            Request::Audit { requirements, packages } => {
                let report = self.audit(&requirements, packages.as_deref());
                self.blame_the_disk(report).map(|report| Message::Audited(Box::new(report)))
            }
        }
    }

    /// Where the disk lost something, that is the cause, whatever the failure looked like.
    fn blame_the_disk<T>(&mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| {
            if fault.kind == FaultKind::Interrupted {
                return fault;
            }
            match self.door.status() {
                Ok(status) if status.lost.is_some() => of_door(&DoorError::Lost(status.lost)),
                Ok(_) => fault,
                // Without its door, everything on the disk fails in some way of its own.
                Err(error) => of_door(&error),
            }
        })
    }

    fn device(&self) -> Result<&LoopDevice, Fault> {
        self.device.as_ref().ok_or_else(confused)
    }

    fn size(&self) -> Result<u64, Fault> {
        let meta = std::fs::metadata(&self.disk).context("look at", &self.disk);
        meta.map(|meta| meta.len()).map_err(|error| host(&error))
    }

    /// Finds the file systems of the disk, once.
    fn look(&mut self) -> Result<(), Fault> {
        if self.systems.is_empty() {
            let size = self.size()?;
            let device = self.device.as_mut().ok_or_else(confused)?;
            self.systems =
                mounts::file_systems(device, size).map_err(|error| mount_fault(&error))?;
        }
        Ok(())
    }

    fn mounted(&mut self) -> Result<&Mounted, Fault> {
        if self.mounted.is_none() {
            self.look()?;
            let root = self.directory.join("root");
            files::make_directory(&root, 0o755).map_err(|error| host(&error))?;
            let places = places::find(&self.systems, &root).map_err(|error| mount_fault(&error))?;
            let mounted = Mounted::mount(&places.mounted, &root, false);
            self.mounted = Some(mounted.map_err(|error| mount_fault(&error))?);
            self.left_out = places.left_out;
        }
        self.mounted.as_ref().ok_or_else(confused)
    }

    fn perform(&mut self, task: &Task, log: &Path, engine: &mut Link) -> Result<Outcome, Fault> {
        if self.sealed || self.read_only {
            return Err(confused());
        }
        let mut log = steps::Log::open(log).map_err(|error| host(&error))?;
        match task {
            Task::Bootstrap { bootstrap, seed, timeout } => {
                self.bootstrap(bootstrap, *seed, *timeout, &mut log, engine)
            }
            Task::Scratch { scratch, seed, timeout } => {
                self.scratch(scratch, *seed, &mut Tools::new(*timeout, &mut log, engine))
            }
            Task::Grow { timeout } => self.grow(&mut Tools::new(*timeout, &mut log, engine)),
            Task::Step { kind, network, timeout, aids, registration, secrets } => {
                let given = Given { network: *network, timeout: *timeout, ..Given::default() };
                log.hide(secrets);
                self.mounted()?;
                for target in std::mem::take(&mut self.left_out) {
                    let what = "the kernel of this host has no vfat";
                    log.line(engine, &format!("[kiln: `{target}` is not mounted: {what}]"));
                }
                let database = self.package_database();
                let performed = self
                    .begin_session(registration.as_ref(), secrets, &mut log, engine)
                    .and_then(|()| self.step(kind, aids, secrets, given, &mut log, engine));
                let outcome =
                    performed.inspect_err(|fault| self.give_up_session(fault, &mut log, engine))?;
                let packages = self.packages_now(database, &mut log, engine);
                self.follow_fstab()?;
                Ok(Outcome { packages, ..outcome })
            }
        }
    }

    /// Reads every signature afresh: a step may have made a file system, or changed an id.
    fn probe_again(&mut self) -> Result<(), Fault> {
        let device = self.device.as_ref().ok_or_else(confused)?;
        let mut systems = Vec::new();
        for (partition, node) in device.partitions() {
            let found = mounts::file_system(node, partition);
            systems.extend(found.map_err(|error| mount_fault(&error))?);
        }
        self.systems = systems;
        Ok(())
    }

    /// Mounts anew where a step changed what the fstab has on the disk, so that running through
    /// equals resuming from the step's layer.
    fn follow_fstab(&mut self) -> Result<(), Fault> {
        if self.mounted.as_ref().is_some_and(|mounted| !places::is_current(mounted, &self.systems))
        {
            self.probe_again()?;
            let mounted = self.mounted.take().ok_or_else(confused)?;
            mounted.unmount().map_err(|error| mount_fault(&error))?;
            self.mounted()?;
        }
        Ok(())
    }

    fn snapshot(&mut self, digest: bool) -> Result<Message, Fault> {
        let device = self.device.as_ref().ok_or_else(confused)?;
        let (door, disk) = (RefCell::new(&mut self.door), &self.disk);
        let swap = || {
            let file = File::open(disk).context("open", disk)?;
            file.sync_all().context("sync", disk)?;
            let digest = digest.then(|| frozen_digest(device.path())).transpose()?;
            Ok::<_, MountError>((door.borrow_mut().swap()?, digest))
        };
        let changed_bytes = || Ok(door.borrow_mut().status()?.changed_bytes);
        let swapped = match &mut self.mounted {
            Some(mounted) => mounted.barrier(device, changed_bytes, swap),
            None => device.sync().map_err(MountError::from).and_then(|()| swap()),
        };
        let (changed, digest) = swapped.map_err(|error| mount_fault(&error))?;
        // Read again: the thaw wrote, and what it wrote may have been lost too.
        let status = self.door.status().map_err(|error| of_door(&error))?;
        if let Some(lost) = status.lost {
            return Err(of_door(&DoorError::Lost(Some(lost))));
        }
        if self.sealed && status.late_writes > 0 {
            return Err(seal_fault(&SealError::LateWrites { count: status.late_writes }));
        }
        let changed = changed.into_iter().map(|run| (run.start, run.len, run.slot)).collect();
        Ok(Message::Snapshot { changed, digest })
    }

    fn seal(
        &mut self,
        scrub: &Scrub,
        seed: Digest,
        log: &mut steps::Log,
        engine: &mut Link,
    ) -> Result<SealReport, Fault> {
        if self.sealed || self.read_only {
            return Err(confused());
        }
        self.end_session(session::PATIENCE, log, engine)?;
        let root = self.mounted()?.root().to_owned();
        let (new_ids, facts) = self.disk_facts(scrub, seed)?;
        let (mut report, policy) =
            seal::scrub(&root, scrub, &facts).map_err(|error| seal_fault(&error))?;
        if report.packages.is_none() {
            report.packages = Some(self.packages_of_rpm(log, engine)?);
        }
        log.line(engine, &format!("scrubbed: {} items", report.scrub.len()));
        let mounted = self.mounted.take().ok_or_else(confused)?;
        let mut places: Vec<Place> =
            mounted.places().filter(|place| place.holds_labels()).cloned().collect();
        report.systems = places.iter().map(|place| place.target.clone()).collect();
        // What was freed a moment ago can be discarded only once the journal has it.
        let trimmed = mounted.sync().and_then(|()| mounted.trim());
        mounted.unmount().and(trimmed).map_err(|error| mount_fault(&error))?;
        for id in &new_ids {
            id.write().map_err(|error| mount_fault(&error.into()))?;
            log.line(engine, &format!("new id of {} {}: {}", id.kind, id.old, id.new));
        }
        if !new_ids.is_empty() {
            self.probe_again()?;
            for place in &mut places {
                let now = self.systems.iter().find(|now| now.device == place.system.device);
                place.system = now.ok_or_else(confused)?.clone();
            }
        }
        if let Some(policy) = policy {
            self.alone(&places, false, |systems| {
                seal::relabel(&policy, systems, &mut report).map_err(|error| seal_fault(&error))
            })?;
        }
        log.line(engine, &report.labels.to_string());
        self.device()?.sync().map_err(|error| host(&error))?;
        self.door.seal().map_err(|error| of_door(&error))?;
        self.sealed = true;
        Ok(report)
    }

    /// What the scrubbing wants to know of the disk, and the ids that are written when nothing is
    /// mounted any more.
    fn disk_facts(
        &mut self,
        scrub: &Scrub,
        seed: Digest,
    ) -> Result<(Vec<NewId>, DiskFacts), Fault> {
        let wants = |item| scrub.items.contains(&item);
        if !wants(ScrubItem::FsUuids) && !wants(ScrubItem::LvmUuids) {
            return Ok(Default::default());
        }
        self.probe_again()?;
        let has_lvm = self.systems.iter().any(|system| system.kind == "LVM2_member");
        let (ids, kept_ids) = if wants(ScrubItem::FsUuids) {
            ids::new_ids(&self.systems, seed)
        } else {
            Default::default()
        };
        let new_ids = ids.iter().map(|id| (id.old.clone(), id.new.clone())).collect();
        Ok((ids, DiskFacts { new_ids, kept_ids, has_lvm }))
    }

    /// Mounts each file system alone at a place of its own, so that what lies under mount points is
    /// seen too, and unmounts them all again.
    fn alone<T>(
        &self,
        places: &[Place],
        read_only: bool,
        work: impl FnOnce(Vec<(Place, OwnedFd)>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut paths: Vec<(PathBuf, &Place)> = Vec::new();
        let mut mount_all = || {
            let mut systems = Vec::new();
            for (number, place) in places.iter().enumerate() {
                let path = self.directory.join(format!("alone-{number}"));
                files::make_directory(&path, 0o755)?;
                mounts::mount_one(place, &path, read_only)?;
                let directory = OwnedFd::from(File::open(&path).context("open", &path)?);
                paths.push((path, place));
                systems.push((place.clone(), directory));
            }
            Ok::<_, MountError>(systems)
        };
        let result = mount_all().map_err(|error| mount_fault(&error)).and_then(work);
        let mut unmounted = Ok(());
        for (path, place) in paths.into_iter().rev() {
            let gone = mounts::unmount(&path, &place.target).map_err(|error| mount_fault(&error));
            unmounted = unmounted.and(gone);
        }
        result.and_then(|value| unmounted.map(|()| value))
    }

    fn verify(&mut self, mut report: SealReport) -> Result<SealReport, Fault> {
        self.look()?;
        let root = self.directory.join("root");
        files::make_directory(&root, 0o755).map_err(|error| host(&error))?;
        let places = places::find(&self.systems, &root).map_err(|error| mount_fault(&error))?;
        let places = places.mounted;
        let labelled: Vec<Place> =
            places.iter().filter(|place| place.holds_labels()).cloned().collect();
        let targets: Vec<_> = labelled.iter().map(|place| place.target.clone()).collect();
        if targets != report.systems {
            return Err(seal_fault(&SealError::OtherSystems));
        }
        let mounted = Mounted::mount(&places, &root, true).map_err(|error| mount_fault(&error))?;
        let policy = seal::policy_of_sealed(&root, &report).map_err(|error| seal_fault(&error));
        mounted.unmount().map_err(|error| mount_fault(&error))?;
        if let Some(policy) = policy? {
            self.alone(&labelled, true, |systems| {
                seal::verify(&policy, systems, &mut report).map_err(|error| seal_fault(&error))
            })?;
        }
        Ok(report)
    }

    fn convert(&mut self, format: OutputFormat, target: &Path) -> Result<(), Fault> {
        let mut command = Command::new("qemu-img");
        // The format is always named: a guest whose first bytes look like an image stays raw.
        command.args(["convert", "-f", "raw", "-O", format.extension()]);
        if let OutputFormat::Qcow2 { compress } = format {
            command.args(["-o", "compression_type=zstd"]);
            if compress {
                command.arg("-c");
            }
        }
        let output = command
            .arg(&self.disk)
            .arg(target)
            .stdin(Stdio::null())
            .output()
            .context("run", Path::new("qemu-img"))
            .map_err(|error| host(&error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().last().unwrap_or_default().escape_default().to_string();
        let message = format!("`qemu-img` could not write `{}`: {said}", target.display());
        Err(Fault::new(FaultKind::Host, "kiln::execute::convert", message)
            .with_help("check that there is room for the output"))
    }

    fn close(mut self, engine: &mut Link) -> Result<(), Fault> {
        let halted = self.halt();
        let ended = self.close_session(engine);
        self.let_go().and(ended).and(halted)
    }

    fn let_go(mut self) -> Result<(), Fault> {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount().map_err(|error| mount_fault(&error))?;
        }
        if let Some(device) = self.device.take() {
            device.detach().map_err(|error| host(&error))?;
        }
        // What still reads it for a moment, such as a prober of the host, does not keep it.
        let flags = rustix::mount::UnmountFlags::NOFOLLOW | rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.disk, flags)
            .context("unmount", &self.disk)
            .map_err(|error| host(&error))
    }

    /// Links below a guest's `/dev/disk` by which programs find its disk, as on a booted system.
    fn links(&self) -> BTreeMap<PathBuf, PathBuf> {
        let mut links = BTreeMap::new();
        for system in &self.systems {
            let ids = [
                ("by-uuid", &system.uuid),
                ("by-label", &system.label),
                ("by-partuuid", &system.partition_uuid),
                ("by-partlabel", &system.partition_label),
            ];
            for (directory, id) in ids {
                // A label is the guest's: one that is no plain name makes no link.
                if let Some(id) = id.as_ref().filter(|id| {
                    !id.is_empty()
                        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
                }) {
                    links.insert(Path::new(directory).join(id), system.device.clone());
                }
            }
        }
        links
    }
}

fn attach(
    mount: &OwnedFd,
    disk: &Path,
    name: &str,
    read_only: bool,
) -> Result<LoopDevice, FileError> {
    File::create(disk).context("create", disk)?;
    move_mount(mount.as_fd(), "", rustix::fs::CWD, disk, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context("mount the disk on", disk)?;
    let file = std::fs::OpenOptions::new().read(true).write(!read_only).open(disk);
    let file = file.context("open", disk)?;
    // Past the page cache of the disk's file, which would hold everything a second time: measured,
    // it halves the time of large reads and writes. `kiln doctor --self-test` tries it.
    LoopDevice::attach(file.as_fd(), LoopOptions { name, read_only, direct: true })
}

/// The digest of a disk at rest, read through its block device and past that device's own page
/// cache, which knows nothing of what was written through the partitions.
fn frozen_digest(device: &Path) -> Result<Digest, FileError> {
    use crate::disk::layer::{BLOCK, BLOCK_LEN};
    use crate::disk::state::DiskDigest;
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    const PART: usize = 1 << 20;
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(direct).open(device);
    let file = file.context("open", device)?;
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).context("measure", device)?;
    let mut digest = DiskDigest::new(size);
    let mut space = vec![0; PART + BLOCK_LEN];
    // Direct reads want memory at the boundary of a block.
    let from = space.as_ptr().align_offset(BLOCK_LEN);
    let buffer = &mut space[from..from + PART];
    let mut at = 0;
    while at < size {
        let len = usize::try_from((size - at).min(PART as u64)).expect("at most 1 MiB");
        file.read_exact_at(&mut buffer[..len], at).context("read", device)?;
        let whole = len.next_multiple_of(BLOCK_LEN);
        buffer[len..whole].fill(0);
        digest.blocks(at / BLOCK, &buffer[..whole]);
        at += len as u64;
    }
    Ok(digest.finish())
}

fn host(error: &FileError) -> Fault {
    Fault::of(FaultKind::Host, error)
}

fn of_door(error: &DoorError) -> Fault {
    let kind = match error {
        DoorError::Lost(Some(lost)) if lost.cause.is_of_a_layer() => FaultKind::Damaged,
        DoorError::Unusable(_) => FaultKind::Damaged,
        _ => FaultKind::Host,
    };
    Fault::of(kind, error)
}

fn mount_fault(error: &MountError) -> Fault {
    match error {
        MountError::Door(error) => of_door(error),
        MountError::File(_) | MountError::Freeze { .. } | MountError::Unmount { .. } => {
            Fault::of(FaultKind::Host, error)
        }
        _ => Fault::of(FaultKind::Step, error),
    }
}

fn guest_fault(error: &GuestError) -> Fault {
    Fault::of(FaultKind::Step, error)
}

fn seal_fault(error: &SealError) -> Fault {
    Fault::of(FaultKind::Step, error)
}

fn container_fault(error: &ContainerError) -> Fault {
    let kind = match error {
        ContainerError::Interrupted => FaultKind::Interrupted,
        _ => FaultKind::Host,
    };
    Fault::of(kind, error)
}
