//! The guest's file systems, mounted, and the barrier between two steps.
//!
//! Only the keeper uses this, and nobody else touches its mounts. What the files in a guest mean is
//! not known here; where its file systems belong is `places`'.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::door::DoorError;
use super::loops::LoopDevice;
use super::partitions::{self, Partition, PartitionError, Signature};
use crate::files::{self, Context, FileError};
use crate::name::GuestPath;
use crate::sys;

/// Above this many changed bytes a step's deleted files are worth a trim before the snapshot.
const TRIM_ABOVE: u64 = 4 << 20;

/// Why a guest's file systems cannot be mounted, frozen or unmounted.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum MountError {
    /// A file or device of the host.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The partition table.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Partition(#[from] PartitionError),
    /// No file system of the disk looks like the root of a Linux system.
    #[error("no file system of this disk holds a Linux root: {}", found.join(", "))]
    #[diagnostic(
        code(kiln::disk::no_root),
        help(
            "a root has an `/etc` with `os-release` or `fstab`, and `/usr` or `/bin`; check that the base is a disk image of a Linux system"
        )
    )]
    NoRoot {
        /// What was found instead.
        found: Vec<String>,
    },
    /// More than one looks like it.
    #[error("more than one file system of this disk holds a Linux root: {}", found.join(", "))]
    #[diagnostic(
        code(kiln::disk::many_roots),
        help("a disk with several systems is not taken; remove the others")
    )]
    ManyRoots {
        /// Which.
        found: Vec<String>,
    },
    /// The fstab names something that the disk does not hold.
    #[error("`/etc/fstab` mounts `{spec}` on `{target}`, which this disk does not hold")]
    #[diagnostic(
        code(kiln::disk::no_device),
        help("give the entry the option `nofail` if it lies on another disk")
    )]
    NoDevice {
        /// What it names.
        spec: String,
        /// Where.
        target: GuestPath,
    },
    /// The fstab mounts a kind of file system that is never mounted here.
    #[error("`/etc/fstab` mounts a {kind} file system on `{target}`")]
    #[diagnostic(
        code(kiln::disk::unsupported),
        help(
            "kiln mounts ext2 to ext4, xfs, btrfs and vfat; give the entry another disk, or take it out"
        )
    )]
    Unsupported {
        /// Its kind.
        kind: String,
        /// Where in the guest.
        target: GuestPath,
    },
    /// A file system cannot be mounted.
    #[error("cannot mount the {kind} file system of `{target}`")]
    #[diagnostic(
        code(kiln::disk::mount),
        help("this host's kernel may lack the file system, or it is damaged")
    )]
    Mount {
        /// Its kind.
        kind: String,
        /// Where in the guest.
        target: GuestPath,
        /// What the system said.
        source: io::Error,
    },
    /// A file system cannot be frozen or thawed, which shows that something was lost.
    #[error("cannot {doing} the file system of `{target}`")]
    #[diagnostic(
        code(kiln::disk::freeze),
        help(
            "what was written may be lost, so nothing was recorded; check the host's disk and build again"
        )
    )]
    Freeze {
        /// `freeze` or `thaw`.
        doing: &'static str,
        /// Where in the guest.
        target: GuestPath,
        /// What the system said.
        source: io::Error,
    },
    /// A file system cannot be unmounted.
    #[error("cannot unmount `{target}`")]
    #[diagnostic(
        code(kiln::disk::unmount),
        help("something on this host still uses it; build again")
    )]
    Unmount {
        /// Where in the guest.
        target: GuestPath,
        /// What the system said.
        source: io::Error,
    },
    /// The door.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Door(#[from] DoorError),
}

/// A file system on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The node of its device.
    pub device: PathBuf,
    /// Its kind, as the kernel calls it.
    pub kind: String,
    /// Its id, where it has one.
    pub uuid: Option<String>,
    /// Its label, where it has one.
    pub label: Option<String>,
    /// The partition's own id, where it has one.
    pub partition_uuid: Option<String>,
    /// The partition's own name, where it has one.
    pub partition_label: Option<String>,
    /// The partition's number; `None` for a file system on the whole disk.
    pub partition: Option<u32>,
}

/// A file system and where the guest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file system.
    pub system: FileSystem,
    /// The directory in the guest.
    pub target: GuestPath,
    /// The btrfs subvolume, where the fstab names one.
    pub subvolume: Option<String>,
}

impl Place {
    /// Whether files there can have labels.
    #[must_use]
    pub fn holds_labels(&self) -> bool {
        Rest::of(&self.system.kind) == Some(Rest::Freeze)
    }
}

/// Looks at every partition of a disk, and tells the kernel of them.
///
/// # Errors
/// Where the table or a signature cannot be read.
pub fn file_systems(device: &mut LoopDevice, size: u64) -> Result<Vec<FileSystem>, MountError> {
    let table = partitions::read_table(device.path(), size)?;
    let partitions = table.map_or_else(Vec::new, |table| table.partitions);
    device.add_partitions(&partitions)?;
    if partitions.is_empty() {
        return Ok(file_system(device.path().to_owned(), None)?.into_iter().collect());
    }
    let mut found = Vec::new();
    for partition in &partitions {
        found.extend(file_system(device.partition(partition.number), Some(partition))?);
    }
    Ok(found)
}

/// Looks at one device, a partition's or the whole disk's; `None` where nothing is on it that has a
/// name.
///
/// # Errors
/// Where its signature cannot be read.
pub fn file_system(
    device: PathBuf,
    partition: Option<&Partition>,
) -> Result<Option<FileSystem>, MountError> {
    let Signature { kind, uuid, label } = partitions::probe(&device)?;
    let (partition_uuid, partition_label) = partition
        .map_or((None, None), |partition| (partition.uuid.clone(), partition.name.clone()));
    let partition = partition.map(|partition| partition.number);
    Ok(kind.map(|kind| FileSystem {
        device,
        kind,
        uuid,
        label,
        partition_uuid,
        partition_label,
        partition,
    }))
}

/// How a kind of file system is brought to rest between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It is frozen.
    Freeze,
    /// It cannot be frozen: it is unmounted and mounted again.
    Unmount,
}

impl Rest {
    /// `None` for a kind that is never mounted here: the kernel of the host parses it, and may load
    /// a module that nobody looks after.
    pub(super) fn of(kind: &str) -> Option<Self> {
        match kind {
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => Some(Self::Freeze),
            "vfat" => Some(Self::Unmount),
            _ => None,
        }
    }
}

/// Mounts one file system.
///
/// # Errors
/// What the kernel says.
pub fn mount_one(place: &Place, target: &Path, read_only: bool) -> Result<(), MountError> {
    let access = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount_with(place, target, access | MountFlags::NODEV)
}

fn mount_with(place: &Place, target: &Path, flags: MountFlags) -> Result<(), MountError> {
    let kind = place.system.kind.as_str();
    let flags = flags | MountFlags::NOATIME;
    let mut data = match kind {
        // Without it, an idle file system would fill its inode tables into some step's layer.
        "ext4" => "noinit_itable".to_owned(),
        "xfs" => "nouuid".to_owned(),
        _ => String::new(),
    };
    if let Some(subvolume) = &place.subvolume {
        data = format!("subvol={subvolume}");
    }
    let data = std::ffi::CString::new(data).unwrap_or_default();
    rustix::mount::mount(&place.system.device, target, kind, flags, &*data).map_err(|error| {
        MountError::Mount {
            kind: kind.to_owned(),
            target: place.target.clone(),
            source: error.into(),
        }
    })
}

struct MountedSystem {
    place: Place,
    path: PathBuf,
    directory: Option<OwnedFd>,
}

/// A guest, mounted.
pub struct Mounted {
    root: PathBuf,
    systems: Vec<MountedSystem>,
}

impl Mounted {
    /// Mounts new, empty file systems below `root`, an empty directory of the host, each on a
    /// directory that is made for it. With `devices`, device nodes can be opened there, as the
    /// programs that unpack a distribution need it, and unlike every other mount of a guest.
    ///
    /// # Errors
    /// Where something cannot be mounted; nothing stays mounted then.
    pub fn mount_new(places: &[Place], root: &Path, devices: bool) -> Result<Self, MountError> {
        let mut mounted = Self { root: root.to_owned(), systems: Vec::new() };
        let flags = if devices { MountFlags::empty() } else { MountFlags::NODEV };
        let mut mount_all = || {
            for place in places {
                let path = root.join(place.target.as_str().trim_start_matches('/'));
                files::make_directory(&path, 0o755)?;
                mount_with(place, &path, flags)?;
                let directory = Some(OwnedFd::from(File::open(&path).context("open", &path)?));
                mounted.systems.push(MountedSystem { place: place.clone(), path, directory });
            }
            Ok(())
        };
        match mount_all() {
            Ok(()) => Ok(mounted),
            Err(error) => {
                // The first error is the one that says why.
                let _ = mounted.unmount();
                Err(error)
            }
        }
    }

    /// Mounts what [`places`] found, below `root`, an empty directory of the host.
    ///
    /// # Errors
    /// Where something cannot be mounted; nothing stays mounted then.
    pub fn mount(places: &[Place], root: &Path, read_only: bool) -> Result<Self, MountError> {
        let mut mounted = Self { root: root.to_owned(), systems: Vec::new() };
        match mounted.mount_all(places, read_only) {
            Ok(()) => Ok(mounted),
            Err(error) => {
                // The first error is the one that says why.
                let _ = mounted.unmount();
                Err(error)
            }
        }
    }

    fn mount_all(&mut self, places: &[Place], read_only: bool) -> Result<(), MountError> {
        for (number, place) in places.iter().enumerate() {
            if number == 0 {
                self.add(place.clone(), self.root.clone(), read_only)?;
                continue;
            }
            let point = open_in(&self.root, &place.target, OFlags::PATH | OFlags::DIRECTORY)
                .context("open the mount point", Path::new(place.target.as_str()))?;
            let path = std::fs::read_link(format!("/proc/self/fd/{}", raw(&point)))
                .context("find the mount point", Path::new(place.target.as_str()))?;
            self.add(place.clone(), path, read_only)?;
        }
        Ok(())
    }

    fn add(&mut self, place: Place, path: PathBuf, read_only: bool) -> Result<(), MountError> {
        mount_one(&place, &path, read_only)?;
        let directory = Some(OwnedFd::from(File::open(&path).context("open", &path)?));
        self.systems.push(MountedSystem { place, path, directory });
        Ok(())
    }

    /// Where the guest's root is mounted on the host.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file systems and their places, root first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.systems.iter().map(|system| &system.place)
    }

    /// The same, with a descriptor of each one's root directory.
    pub fn directories(&self) -> impl Iterator<Item = (&Place, BorrowedFd<'_>)> {
        self.systems.iter().map(|system| (&system.place, system.directory().as_fd()))
    }

    /// The file systems that can be frozen, each once however often it is mounted.
    fn freezable(&self) -> Vec<&MountedSystem> {
        let mut seen = std::collections::BTreeSet::new();
        let mut freezable = Vec::new();
        for system in &self.systems {
            let freezes = Rest::of(&system.place.system.kind) == Some(Rest::Freeze);
            if freezes && seen.insert(&system.place.system.device) {
                freezable.push(system);
            }
        }
        freezable
    }

    /// Brings everything that was written to the disk.
    ///
    /// # Errors
    /// Where something could not be written.
    pub fn sync(&self) -> Result<(), MountError> {
        for system in &self.systems {
            rustix::fs::syncfs(system.directory()).context("sync", &system.path)?;
        }
        Ok(())
    }

    /// Discards the free space of every file system that can tell it.
    ///
    /// # Errors
    /// Where one can, but fails.
    pub fn trim(&self) -> Result<(), MountError> {
        for system in self.freezable() {
            match sys::trim(system.directory()) {
                Err(source) if source.kind() != io::ErrorKind::Unsupported => {
                    let path = system.path.clone();
                    return Err(FileError { doing: "trim", path, source }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The barrier: brings everything that was written to the disk, holds all writing, makes the
    /// devices durable, does `swap`, and lets writing go on, whatever happened. `changed_bytes`
    /// tells, once everything is on the disk, how much was written.
    ///
    /// # Errors
    /// The first thing that failed; nothing may then be recorded.
    pub fn barrier<T>(
        &mut self,
        device: &LoopDevice,
        changed_bytes: impl FnOnce() -> Result<u64, MountError>,
        swap: impl FnOnce() -> Result<T, MountError>,
    ) -> Result<T, MountError> {
        self.sync()?;
        if changed_bytes()? > TRIM_ABOVE {
            self.trim()?;
        }
        let resting = self.unmount_unfreezable()?;
        let outcome = self.frozen(device, swap);
        let mounted = self.mount_again(resting);
        outcome.and_then(|value| mounted.map(|()| value))
    }

    fn frozen<T>(
        &self,
        device: &LoopDevice,
        swap: impl FnOnce() -> Result<T, MountError>,
    ) -> Result<T, MountError> {
        let mut frozen = Vec::new();
        // Innermost first, so that nothing waits for a file system that is frozen already.
        let mut outcome = Ok(());
        for system in self.freezable().into_iter().rev() {
            if let Err(source) = sys::freeze(system.directory()) {
                let target = system.place.target.clone();
                outcome = Err(MountError::Freeze { doing: "freeze", target, source });
                break;
            }
            frozen.push(system);
        }
        let outcome = outcome.and_then(|()| {
            device.sync()?;
            swap()
        });
        let mut thawed = Ok(());
        for system in frozen.into_iter().rev() {
            if let Err(source) = sys::thaw(system.directory()) {
                let target = system.place.target.clone();
                thawed = thawed.and(Err(MountError::Freeze { doing: "thaw", target, source }));
            }
        }
        outcome.and_then(|value| thawed.map(|()| value))
    }

    /// Unmounts what cannot be frozen; gives the places to [`Self::mount_again`].
    fn unmount_unfreezable(&mut self) -> Result<Vec<(usize, Place, PathBuf)>, MountError> {
        let mut resting = Vec::new();
        while let Some(at) = self
            .systems
            .iter()
            .rposition(|system| Rest::of(&system.place.system.kind) == Some(Rest::Unmount))
        {
            let mut system = self.systems.remove(at);
            drop(system.directory.take());
            unmount(&system.path, &system.place.target)?;
            resting.push((at, system.place, system.path));
        }
        Ok(resting)
    }

    fn mount_again(&mut self, resting: Vec<(usize, Place, PathBuf)>) -> Result<(), MountError> {
        for (at, place, path) in resting.into_iter().rev() {
            self.add(place, path, false)?;
            // Where it was: the order is that of mounting, and the report's.
            if let Some(system) = self.systems.pop() {
                self.systems.insert(at, system);
            }
        }
        Ok(())
    }

    /// Unmounts everything, innermost first.
    ///
    /// # Errors
    /// Where something is still in use.
    pub fn unmount(mut self) -> Result<(), MountError> {
        while let Some(mut system) = self.systems.pop() {
            drop(system.directory.take());
            unmount(&system.path, &system.place.target)?;
        }
        Ok(())
    }
}

impl MountedSystem {
    fn directory(&self) -> &OwnedFd {
        self.directory.as_ref().expect("kept until it is unmounted")
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}

/// Unmounts one file system.
///
/// # Errors
/// Where it is still in use.
pub fn unmount(path: &Path, target: &GuestPath) -> Result<(), MountError> {
    rustix::mount::unmount(path, UnmountFlags::NOFOLLOW)
        .map_err(|error| MountError::Unmount { target: target.clone(), source: error.into() })
}

/// Opens a path of a guest that is mounted at `root`; its links never lead out.
pub(super) fn open_in(root: &Path, path: &GuestPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let root =
        rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::openat2(
        root.as_fd(),
        path.as_str(),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}
