//! Bases: where disks come from, and how those that kiln makes are divided.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{GuestPath, ImageName};
use crate::source::Spanned;

/// Where a disk comes from.
#[derive(Debug, Clone)]
pub enum Base<F> {
    /// A disk image of the workspace.
    File(FileBase<F>),
    /// A disk image that is downloaded.
    Fetch(Fetch),
    /// A bootable disk made from distribution packages.
    Bootstrap(Bootstrap),
    /// An empty disk with partitions and file systems.
    Scratch(Scratch),
    /// Another image of the workspace, at its unsealed state.
    Image(Spanned<ImageName>),
}

/// `base file "disk.qcow2" format="qcow2"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileBase<F> {
    /// The disk image.
    pub file: F,
    /// Its format; found by its own magic number where none is written (never by qemu's probing).
    pub format: Option<DiskFormat>,
}

/// Formats in which a disk image may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The bytes of the disk and nothing else.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// `VMware`'s format.
    Vmdk,
    /// `VirtualBox`'s format.
    Vdi,
    /// Hyper-V's format since Windows Server 2012.
    Vhdx,
    /// Virtual PC's and the older Hyper-V's format, `.vhd`.
    Vpc,
    /// QEMU's former enhanced format.
    Qed,
}

impl DiskFormat {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhdx, Self::Vpc, Self::Qed];

    /// The format's name in a recipe, and for `qemu-img`.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
            Self::Qed => "qed",
        }
    }
}

/// A disk image that is downloaded, and taken in once its checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// What is named.
    pub origin: Origin,
    /// Its checksum as the recipe has it; without one, the lock file's.
    pub checksum: Option<Checksum>,
    /// Its format, where the recipe says it.
    pub format: Option<DiskFormat>,
}

/// How a recipe names a disk image that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `base url "https://…"`.
    Url(String),
    /// `base template "centos-7.2" arch="x86_64"`: of a virt-builder index.
    Template {
        /// Its name, or one of its aliases.
        name: String,
        /// Its architecture; the host's where none is written.
        arch: Option<String>,
    },
    /// `base catalog "debian-12"`: of kiln's catalogue of the distributions' own images.
    Catalog(String),
}

impl Origin {
    /// The name in the lock file, such as `template centos-7.2 x86_64`: what a name means is another
    /// thing on each architecture.
    #[must_use]
    pub fn locked_as(&self) -> String {
        match self {
            Self::Url(_) | Self::Template { arch: Some(_), .. } => self.to_string(),
            Self::Template { arch: None, .. } | Self::Catalog(_) => {
                format!("{self} {}", crate::host::architecture())
            }
        }
    }
}

impl std::fmt::Display for Origin {
    /// As the recipe names it, such as `template centos-7.2`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => write!(f, "url {url}"),
            Self::Template { name, arch: None } => write!(f, "template {name}"),
            Self::Template { name, arch: Some(arch) } => write!(f, "template {name} {arch}"),
            Self::Catalog(name) => write!(f, "catalog {name}"),
        }
    }
}

/// The checksum of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Checksum {
    /// SHA-256, as 64 hexadecimal digits in lower case.
    Sha256(String),
    /// SHA-512, as 128 hexadecimal digits in lower case.
    Sha512(String),
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256:{hex}"),
            Self::Sha512(hex) => write!(f, "sha512:{hex}"),
        }
    }
}

/// A download with nothing left to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What the recipe calls it.
    pub origin: Origin,
    /// Where it is downloaded from; not in the key, as the checksum says what comes.
    pub url: String,
    /// What its bytes must be, as they are downloaded.
    pub checksum: Checksum,
    /// The format of the disk, unpacked; found by its magic number where none is known.
    pub format: Option<DiskFormat>,
}

/// How a disk is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The kind of partition table.
    pub table: TableKind,
    /// What starts it.
    pub firmware: Firmware,
    /// Its partitions as they lie, without those that the firmware alone needs (grub's own, and the
    /// EFI system partition unless it is written).
    pub partitions: Vec<Partition>,
}

impl Default for Layout {
    /// GPT, BIOS, and one ext4 root that fills the disk.
    fn default() -> Self {
        let root = PartitionUse::Mount { target: GuestPath::root(), system: SystemKind::Ext4 };
        Self {
            table: TableKind::Gpt,
            firmware: Firmware::Bios,
            partitions: vec![Partition { purpose: root, size: None }],
        }
    }
}

/// The kinds of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// UEFI's.
    Gpt,
    /// The PC's older one.
    Mbr,
}

/// What starts a disk's boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A PC BIOS.
    Bios,
    /// UEFI, through the path for removable disks.
    Uefi,
    /// Either.
    Both,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// What it is for.
    pub purpose: PartitionUse,
    /// Its size in bytes, a multiple of 1 MiB; the rest of the disk for the one that says none.
    pub size: Option<u64>,
}

/// What a partition is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionUse {
    /// A file system with a place in the guest.
    Mount {
        /// The place.
        target: GuestPath,
        /// Its kind.
        system: SystemKind,
    },
    /// Swap space.
    Swap,
}

/// The kinds of file system that kiln makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemKind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs, without subvolumes.
    Btrfs,
    /// FAT, for an EFI system partition.
    Vfat,
}

impl SystemKind {
    /// The kind's name in a recipe and in an fstab.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
        }
    }
}

/// `base scratch size="10G" { partition "/" … }`: an empty disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Size of the virtual disk in bytes, a multiple of 1 MiB.
    pub size: u64,
    /// How it is divided.
    pub layout: Layout,
}

/// `base bootstrap "bookworm" size="4G" { package "vim"; mirror "…"; … }`: a Debian or Ubuntu suite
/// through `mmdebstrap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The suite, such as `bookworm`.
    pub suite: String,
    /// Size of the virtual disk in bytes, a multiple of 1 MiB.
    pub size: u64,
    /// Package mirrors; empty for the distribution's own.
    pub mirrors: Vec<String>,
    /// Archive components, such as `main`.
    pub components: Vec<String>,
    /// mmdebstrap's variant: `minbase`, `important`, `standard`.
    pub variant: String,
    /// Packages beside those that make the disk boot, sorted.
    pub packages: BTreeSet<String>,
    /// How the disk is divided.
    pub layout: Layout,
    /// When a built base is too old; see [`Step::refresh`].
    pub refresh: Option<Duration>,
}
