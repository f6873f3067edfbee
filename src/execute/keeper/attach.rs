//! Files, directories and disks of the workspace that a step's programs can read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::disk::import::{self, ImportError};
use crate::disk::loops::LoopDevice;
use crate::disk::mounts::{self, FileSystem, MountError};
use crate::execute::container::{Bind, RUN_IN_GUEST};
use crate::files::{self, Context, FileError};
use crate::guest::{GuestError, GuestRoot, Snapshot};
use crate::name::GuestPath;
use crate::recipe::Attached;
use crate::sys::LoopOptions;

/// Kinds of file systems that are mounted, and the options that keep the kernel from repairing one,
/// which it could not on a device that it may not write to.
const KINDS: &[(&str, &str)] = &[
    ("btrfs", ""),
    ("erofs", ""),
    ("ext2", ""),
    ("ext3", "noload"),
    ("ext4", "noload"),
    ("iso9660", ""),
    ("squashfs", ""),
    ("udf", ""),
    ("vfat", ""),
    ("xfs", "norecovery,nouuid"),
];

/// Directories of every container that are not the guest's.
const OWN: &[&str] = &["/dev", "/proc", "/run", "/sys", "/tmp"];

/// Why something cannot be attached.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum AttachError {
    /// There is nothing of the guest that it could hide.
    #[error("`{at}` is no {wanted} of the guest, so nothing can be attached there")]
    #[diagnostic(
        code(kiln::execute::attach_place),
        help("make it in a step before, or leave `at` out: it is then below /run/kiln/attached")
    )]
    NoPlace {
        /// Where it was to be.
        at: GuestPath,
        /// `directory` or `file`.
        wanted: &'static str,
    },
    /// It is to be where kiln has something else.
    #[error("nothing can be attached at `{}`", at.display())]
    #[diagnostic(
        code(kiln::execute::attach_twice),
        help(
            "give each attachment an `at` of its own, outside of /dev, /proc, /run, /sys and /tmp"
        )
    )]
    Taken {
        /// Where it was to be.
        at: PathBuf,
    },
    /// Its name cannot be passed on.
    #[error("the name of `{}` is not UTF-8", path.display())]
    #[diagnostic(code(kiln::execute::attach_name), help("rename the file or directory"))]
    Name {
        /// The copy.
        path: PathBuf,
    },
    /// The disk has no file system, or more than one.
    #[error("the disk `{name}` has {found}, where one file system is expected")]
    #[diagnostic(
        code(kiln::execute::attach_systems),
        help("attach a disk with one file system, on the whole disk or in one partition")
    )]
    Systems {
        /// Its name.
        name: String,
        /// What it has.
        found: String,
    },
    /// Its file system is of a kind that is not mounted.
    #[error("the disk `{name}` has a file system of the kind {kind}, which kiln does not mount")]
    #[diagnostic(
        code(kiln::execute::attach_kind),
        help("attach the files themselves, or a disk with ext4, xfs, btrfs, iso9660 or squashfs")
    )]
    Kind {
        /// Its name.
        name: String,
        /// The kind.
        kind: String,
    },
    /// The kernel does not know its file system.
    #[error("this host's kernel has no {kind}, the file system of the disk `{name}`")]
    #[diagnostic(
        code(kiln::execute::attach_kernel),
        help("load it with `modprobe {kind}`, or attach the files themselves")
    )]
    Kernel {
        /// Its name.
        name: String,
        /// The kind.
        kind: String,
    },
    /// Its file system cannot be mounted.
    #[error("the {kind} file system of the disk `{name}` cannot be mounted")]
    #[diagnostic(
        code(kiln::execute::attach_mount),
        help("it may be damaged: check it on the host")
    )]
    Mount {
        /// Its name.
        name: String,
        /// The kind.
        kind: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is no disk image that can be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Import(#[from] ImportError),
    /// Its file systems cannot be told.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Disk(#[from] MountError),
    /// A path of the guest.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Guest(#[from] GuestError),
    /// A file of the host.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
}

/// What is attached while a program runs.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    /// How programs see it.
    pub(super) binds: Vec<Bind>,
    disks: Vec<Disk>,
}

/// A disk image, mounted.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    device: LoopDevice,
}

impl Attachments {
    /// Checks each place, and mounts the disks below `directory`, which is made; `name` is what
    /// their devices are called.
    pub(super) fn place(
        attached: &[Attached<Snapshot>],
        root: &GuestRoot,
        directory: &Path,
        name: &str,
    ) -> Result<Self, AttachError> {
        let mut attachments = Self::default();
        let placed = attachments.place_all(attached, root, directory, name);
        match placed {
            Ok(()) => Ok(attachments),
            Err(error) => {
                // The first error is the one that says why.
                let _ = attachments.take_away();
                Err(error)
            }
        }
    }

    fn place_all(
        &mut self,
        attached: &[Attached<Snapshot>],
        root: &GuestRoot,
        directory: &Path,
        device_name: &str,
    ) -> Result<(), AttachError> {
        let mut taken = BTreeSet::new();
        for (number, Attached { source, at, disk }) in attached.iter().enumerate() {
            let name = source.name()?.to_str();
            let name = name.ok_or_else(|| AttachError::Name { path: source.path.clone() })?;
            let is_directory = *disk || source.path.is_dir();
            let target = target(root, at.as_ref(), name, is_directory)?;
            if !taken.insert(target.clone()) {
                return Err(AttachError::Taken { at: target });
            }
            let source = if *disk {
                let below = directory.join(number.to_string());
                files::make_directory(&below, 0o700)?;
                self.mount(&source.path, name, &below, device_name)?
            } else {
                source.path.clone()
            };
            self.binds.push(Bind { source, target, read_only: true });
        }
        Ok(())
    }

    /// Mounts the one file system of a disk image, read-only; tells where.
    fn mount(
        &mut self,
        image: &Path,
        name: &str,
        directory: &Path,
        device_name: &str,
    ) -> Result<PathBuf, AttachError> {
        let raw = import::raw_disk(image, None, directory)?;
        let file = File::open(&raw.path).context("open", &raw.path)?;
        let options = LoopOptions { name: device_name, read_only: true, direct: false };
        let mut device = LoopDevice::attach(file.as_fd(), options)?;
        let path = directory.join("mounted");
        files::make_directory(&path, 0o755)?;
        match one_system(&mut device, raw.size, name)
            .and_then(|system| mount_one(&system, name, &path))
        {
            Ok(()) => {
                self.disks.push(Disk { path: path.clone(), device });
                Ok(path)
            }
            Err(error) => {
                let _ = device.detach();
                Err(error)
            }
        }
    }

    /// Unmounts and detaches all disks.
    pub(super) fn take_away(self) -> Result<(), FileError> {
        let mut outcome = Ok(());
        for Disk { path, device } in self.disks.into_iter().rev() {
            let unmounted = unmount(&path, UnmountFlags::NOFOLLOW).context("unmount", &path);
            outcome = outcome.and(unmounted).and(device.detach());
        }
        outcome
    }
}

/// Where something is seen: an existing place of its kind, or one below `/run/kiln/attached`.
fn target(
    root: &GuestRoot,
    at: Option<&GuestPath>,
    name: &str,
    is_directory: bool,
) -> Result<PathBuf, AttachError> {
    let Some(at) = at else { return Ok(Path::new(RUN_IN_GUEST).join("attached").join(name)) };
    let path = Path::new(at.as_str());
    if OWN.iter().any(|own| path.starts_with(own)) || path == Path::new("/") {
        return Err(AttachError::Taken { at: path.to_owned() });
    }
    let (wanted, there) = if is_directory {
        ("directory", root.is_directory(path))
    } else {
        ("file", root.is_file(path))
    };
    if there { Ok(path.to_owned()) } else { Err(AttachError::NoPlace { at: at.clone(), wanted }) }
}

/// The file system of the whole disk, or of the only partition that has one.
fn one_system(device: &mut LoopDevice, size: u64, name: &str) -> Result<FileSystem, AttachError> {
    // First the whole: images of installers have partition tables as well, for firmware alone.
    let whole = mounts::file_system(device.path().to_owned(), None)?;
    if let Some(system) = whole.filter(|system| KINDS.iter().any(|(kind, _)| *kind == system.kind))
    {
        return Ok(system);
    }
    let mut systems = mounts::file_systems(device, size)?;
    match systems.len() {
        1 => Ok(systems.remove(0)),
        0 => Err(AttachError::Systems { name: name.to_owned(), found: "none".to_owned() }),
        count => Err(AttachError::Systems { name: name.to_owned(), found: count.to_string() }),
    }
}

fn mount_one(system: &FileSystem, name: &str, target: &Path) -> Result<(), AttachError> {
    let (name, kind) = (name.to_owned(), system.kind.clone());
    let Some((_, options)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        return Err(AttachError::Kind { name, kind });
    };
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    let options = std::ffi::CString::new(*options).expect("no byte of it is 0");
    match mount(&system.device, target, kind.as_str(), flags, &*options) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NODEV) => Err(AttachError::Kernel { name, kind }),
        Err(error) => Err(AttachError::Mount { name, kind, source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_attachment_hides_only_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("mnt/x")).unwrap();
        fs::write(directory.path().join("etc"), "").unwrap();
        let root = GuestRoot::open(directory.path()).unwrap();
        let at = |path: &str, is_directory| {
            let path: Option<GuestPath> = Some(path.parse().unwrap());
            target(&root, path.as_ref(), "tools", is_directory)
        };
        assert_eq!(at("/mnt/x", true).unwrap(), Path::new("/mnt/x"));
        assert_eq!(at("/etc", false).unwrap(), Path::new("/etc"));
        let error = at("/mnt/x", false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`/mnt/x` is no file of the guest, so nothing can be attached there"
        );
        assert!(matches!(at("/mnt/y", true), Err(AttachError::NoPlace { .. })));
        for own in ["/run/kiln/secrets", "/proc", "/tmp/x", "/dev/shm"] {
            assert!(matches!(at(own, true), Err(AttachError::Taken { .. })), "{own}");
        }
        let default = target(&root, None, "tools", true).unwrap();
        assert_eq!(default, Path::new("/run/kiln/attached/tools"));
    }

    #[test]
    fn two_attachments_need_two_places() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::open(directory.path()).unwrap();
        let mut attached = Vec::new();
        for number in ["1", "2"] {
            let path = directory.path().join(number).join("tools");
            fs::create_dir_all(&path).unwrap();
            attached.push(Attached { source: Snapshot { path }, at: None, disk: false });
        }
        let work = directory.path().join("work");
        let one = Attachments::place(&attached[..1], &root, &work, "x").unwrap();
        assert!(one.binds[0].read_only);
        let both = Attachments::place(&attached, &root, &work, "x");
        assert!(matches!(both, Err(AttachError::Taken { .. })));
    }
}
