//! How a disk is divided: from a layout and a size to partitions with their places, types and ids.
//!
//! Pure: it says what `sfdisk` is to write and what lies where. What is decided here is part of the
//! key through an epoch there. How each file system is made is [`systems`]'s.

pub mod systems;

use crate::digest::{Digest, Hasher};
use crate::disk::ids;
use crate::name::GuestPath;
use crate::recipe::{Firmware, Layout, Partition, PartitionUse, SystemKind, TableKind};

/// Bytes in a sector of every disk that kiln makes.
pub const SECTOR: u64 = 512;
/// Partitions start and end at multiples of it; so much lies before the first one.
pub const ALIGNMENT: u64 = 1 << 20;
/// Bytes of a GPT's second copy, at the end of the disk.
const GPT_COPY: u64 = 33 * SECTOR;
/// First byte that an MBR cannot name: its addresses and lengths are 32 bits of sectors.
pub const MBR_END: u64 = (1 << 32) * SECTOR;
/// Size of the EFI system partition where the layout writes none.
const ESP_SIZE: u64 = 128 << 20;
/// Where the EFI system partition is mounted.
const ESP: &str = "/boot/efi";

/// Why a disk cannot be divided as its layout says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum LayoutError {
    /// The disk is too small.
    #[error(
        "a disk of {} MiB has no room for the partition of {place}: its layout needs at least {} MiB",
        size >> 20, needed >> 20
    )]
    #[diagnostic(
        code(kiln::execute::disk_too_small),
        help("give the base a larger `size`, or its partitions smaller ones")
    )]
    NoRoom {
        /// Which partition does not fit.
        place: String,
        /// Size of the disk in bytes.
        size: u64,
        /// Bytes that the layout needs.
        needed: u64,
    },
    /// A partition is too small for what it is to hold.
    #[error(
        "the partition of {place} has {} MiB, and {kind} needs at least {} MiB",
        size >> 20, least >> 20
    )]
    #[diagnostic(
        code(kiln::execute::partition_too_small),
        help("give the partition a larger `size`, or another `fs`")
    )]
    Small {
        /// Which partition.
        place: String,
        /// Its size in bytes.
        size: u64,
        /// The file system.
        kind: &'static str,
        /// The smallest that can be made, in bytes.
        least: u64,
    },
    /// An MBR cannot name the end of the disk.
    #[error("a disk of {} MiB is too large for an MBR, which ends at 2 TiB", size >> 20)]
    #[diagnostic(code(kiln::execute::mbr_too_large), help("write `table \"gpt\"`"))]
    TooLarge {
        /// Size of the disk in bytes.
        size: u64,
    },
}

/// The ids of a disk, the same for one action on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids(Digest);

impl Ids {
    /// Makes the ids from a seed.
    #[must_use]
    pub fn of(seed: Digest) -> Self {
        Self(seed)
    }

    fn digest(self, name: &str) -> Digest {
        Hasher::new("kiln 2026-11 disk ids v1")
            .raw(self.0.as_bytes())
            .bytes(name.as_bytes())
            .finish()
    }

    /// The id of something, a UUID.
    #[must_use]
    pub fn uuid(self, name: &str) -> String {
        ids::uuid(self.digest(name))
    }

    /// The id of something that has 32 bits of it, which are never all zeros: an MBR, or FAT.
    #[must_use]
    pub fn short(self, name: &str) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.digest(name).as_bytes()[..4]);
        u32::from_be_bytes(bytes).max(1)
    }
}

/// A disk, divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    table: TableKind,
    firmware: Firmware,
    ids: Ids,
    /// Its partitions as they lie, each with its number, from 1.
    pub partitions: Vec<Planned>,
}

/// A partition, placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its number, from 1.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What it is for.
    pub role: Role,
    /// Whether nothing lies behind it and it takes what is left.
    fills: bool,
}

/// What a partition is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Grub's own code, on a GPT that a BIOS starts.
    Grub,
    /// A file system.
    System {
        /// Its place in the guest.
        target: GuestPath,
        /// Its kind.
        kind: SystemKind,
    },
    /// Swap space.
    Swap,
}

impl Role {
    /// The smallest size that it can have, in bytes.
    fn least(&self) -> u64 {
        match self {
            Self::Grub | Self::Swap => ALIGNMENT,
            Self::System { kind, .. } => systems::least(*kind),
        }
    }

    fn is_esp(&self) -> bool {
        matches!(self, Self::System { kind: SystemKind::Vfat, .. })
    }

    /// What it is called in a message.
    fn place(&self) -> String {
        match self {
            Self::Grub => "grub".to_owned(),
            Self::System { target, .. } => format!("`{target}`"),
            Self::Swap => "`swap`".to_owned(),
        }
    }
}

/// What a layout comes to, before it has places.
fn wanted(layout: &Layout) -> Vec<(Role, Option<u64>)> {
    let written = layout.partitions.iter().map(|Partition { purpose, size }| {
        let role = match purpose {
            PartitionUse::Mount { target, system } => {
                Role::System { target: target.clone(), kind: *system }
            }
            PartitionUse::Swap => Role::Swap,
        };
        (role, *size)
    });
    let written: Vec<_> = written.collect();
    let mut wanted = Vec::new();
    if layout.table == TableKind::Gpt && layout.firmware != Firmware::Uefi {
        wanted.push((Role::Grub, Some(ALIGNMENT)));
    }
    if layout.firmware != Firmware::Bios && !written.iter().any(|(role, _)| role.is_esp()) {
        let target = ESP.parse().expect("a path");
        wanted.push((Role::System { target, kind: SystemKind::Vfat }, Some(ESP_SIZE)));
    }
    wanted.extend(written);
    wanted
}

/// Divides a disk of `size` bytes. A partition without a size takes what the others leave.
///
/// # Errors
/// Where the disk is too small or too large for the layout, or a partition for its file system.
pub fn plan(layout: &Layout, size: u64, seed: Digest) -> Result<Plan, LayoutError> {
    if layout.table == TableKind::Mbr && size > MBR_END {
        return Err(LayoutError::TooLarge { size });
    }
    let wanted = wanted(layout);
    for (role, size) in &wanted {
        let Some(size) = size.filter(|size| *size < role.least()) else { continue };
        let Role::System { kind, .. } = role else { continue };
        let (kind, least) = (kind.keyword(), role.least());
        return Err(LayoutError::Small { place: role.place(), size, kind, least });
    }
    let room = usable_end(layout.table, size).saturating_sub(ALIGNMENT);
    let mut least: u64 = 0;
    let mut over = None;
    for (role, size) in &wanted {
        least = least.saturating_add(size.unwrap_or_else(|| role.least()));
        over = over.or((least > room).then(|| role.place()));
    }
    if let Some(place) = over {
        let around = ALIGNMENT + if layout.table == TableKind::Gpt { ALIGNMENT } else { 0 };
        return Err(LayoutError::NoRoom { place, size, needed: least.saturating_add(around) });
    }
    let last = wanted.len() - 1;
    let mut start = ALIGNMENT;
    let mut partitions = Vec::new();
    for (at, ((role, written), number)) in wanted.into_iter().zip(1..).enumerate() {
        let size = written.unwrap_or_else(|| role.least() + (room - least));
        let fills = written.is_none() && at == last;
        partitions.push(Planned { number, start, size, role, fills });
        start += size;
    }
    let (table, firmware) = (layout.table, layout.firmware);
    Ok(Plan { table, firmware, ids: Ids::of(seed), partitions })
}

/// First byte behind what partitions may take of a disk.
fn usable_end(table: TableKind, size: u64) -> u64 {
    let end = match table {
        TableKind::Gpt => size.saturating_sub(GPT_COPY),
        TableKind::Mbr => size,
    };
    end / ALIGNMENT * ALIGNMENT
}

impl Planned {
    /// What its ids are made from.
    fn name(&self) -> String {
        match &self.role {
            Role::Grub => "boot".to_owned(),
            Role::System { target, .. } if target.as_str() == "/" => "root".to_owned(),
            Role::System { target, .. } => target.to_string(),
            // Swap has no place of its own by which to tell one from another.
            Role::Swap => format!("swap {}", self.number),
        }
    }

    /// Its type in a GPT. Source: the UEFI specification, and the type ids of Linux's util-linux.
    fn gpt_type(&self) -> &'static str {
        match &self.role {
            Role::Grub => "21686148-6449-6E6F-744E-656564454649",
            Role::System { kind: SystemKind::Vfat, .. } => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            Role::System { .. } => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            Role::Swap => "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
        }
    }

    /// Its type in an MBR.
    fn mbr_type(&self) -> &'static str {
        match &self.role {
            Role::System { kind: SystemKind::Vfat, .. } => "ef",
            Role::Grub | Role::System { .. } => "83",
            Role::Swap => "82",
        }
    }
}

impl Plan {
    /// The input of `sfdisk`.
    #[must_use]
    pub fn script(&self) -> String {
        use std::fmt::Write;
        let mut script = match self.table {
            TableKind::Gpt => {
                let id = self.ids.uuid("disk");
                format!("label: gpt\nlabel-id: {id}\nunit: sectors\nfirst-lba: 2048\n")
            }
            TableKind::Mbr => {
                format!("label: dos\nlabel-id: 0x{:08x}\nunit: sectors\n", self.ids.short("disk"))
            }
        };
        let bootable = self.holds("/boot").map(|boot| boot.number);
        for partition in &self.partitions {
            let Planned { number, start, size, .. } = partition;
            // Writing to a text cannot fail.
            let _ = write!(script, "{number}: start={}, ", start / SECTOR);
            if !partition.fills {
                let _ = write!(script, "size={}, ", size / SECTOR);
            }
            let _ = match self.table {
                TableKind::Gpt => {
                    let kind = partition.gpt_type();
                    writeln!(script, "type={kind}, uuid={}", self.partition_id(partition))
                }
                TableKind::Mbr => {
                    let mark = if bootable == Some(*number) { ", bootable" } else { "" };
                    writeln!(script, "type={}{mark}", partition.mbr_type())
                }
            };
        }
        script
    }

    /// The id by which `PARTUUID=` names a partition.
    #[must_use]
    pub fn partition_id(&self, partition: &Planned) -> String {
        match (self.table, &partition.role) {
            (TableKind::Mbr, _) => {
                format!("{:08x}-{:02x}", self.ids.short("disk"), partition.number)
            }
            (TableKind::Gpt, Role::Grub) => self.ids.uuid("boot"),
            (TableKind::Gpt, _) => self.ids.uuid(&format!("{} partition", partition.name())),
        }
    }

    /// The partition whose file system holds a path of the guest.
    #[must_use]
    pub fn holds(&self, path: &str) -> Option<&Planned> {
        self.targets()
            .filter(|(_, target)| {
                let target = target.as_str();
                let below = path.strip_prefix(target).is_some_and(|rest| rest.starts_with('/'));
                target == "/" || target == path || below
            })
            .max_by_key(|(_, target)| target.components().count())
            .map(|(partition, _)| partition)
    }

    /// The partitions that have a place in the guest, each before those below it.
    pub fn places(&self) -> impl Iterator<Item = (&Planned, &GuestPath)> {
        let mut places: Vec<_> = self.targets().collect();
        places.sort_by_key(|(_, target)| target.components().count());
        places.into_iter()
    }

    fn targets(&self) -> impl Iterator<Item = (&Planned, &GuestPath)> {
        self.partitions.iter().filter_map(|partition| match &partition.role {
            Role::System { target, .. } => Some((partition, target)),
            Role::Grub | Role::Swap => None,
        })
    }

    /// The EFI system partition of a disk that UEFI starts.
    #[must_use]
    pub fn esp(&self) -> Option<&Planned> {
        let found = self.partitions.iter().find(|partition| partition.role.is_esp());
        found.filter(|_| self.firmware != Firmware::Bios)
    }

    /// Whether a BIOS starts the disk.
    #[must_use]
    pub fn boots_by_bios(&self) -> bool {
        self.firmware != Firmware::Uefi
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn at(target: &str, system: SystemKind, size: Option<u64>) -> Partition {
        let target = target.parse().unwrap();
        Partition { purpose: PartitionUse::Mount { target, system }, size }
    }

    fn seed() -> Digest {
        Digest::of(b"seed")
    }

    /// A disk with everything, and the root in the middle.
    pub(super) fn rich(table: TableKind, firmware: Firmware) -> Plan {
        let mut partitions = vec![
            at("/boot", SystemKind::Ext4, Some(512 << 20)),
            at("/", SystemKind::Xfs, None),
            Partition { purpose: PartitionUse::Swap, size: Some(256 << 20) },
        ];
        if table == TableKind::Gpt {
            partitions.push(at("/srv/my data", SystemKind::Btrfs, Some(GIB)));
        }
        plan(&Layout { table, firmware, partitions }, 8 * GIB, seed()).unwrap()
    }

    #[test]
    fn ids_are_the_same_everywhere_and_differ_from_each_other() {
        let ids = Ids::of(seed());
        assert_eq!(ids, Ids::of(seed()));
        assert_ne!(ids.uuid("root"), ids.uuid("disk"));
        assert_ne!(ids.uuid("root"), Ids::of(Digest::of(b"other")).uuid("root"));
        assert_eq!((ids.uuid("root").len(), &ids.uuid("root")[14..15]), (36, "8"));
    }

    #[test]
    fn the_scripts_do_not_move() {
        use {Firmware::*, TableKind::*};
        let default = plan(&Layout::default(), 4 * GIB, seed()).unwrap();
        let mut scripts = vec![default.script()];
        for (table, firmware) in [(Gpt, Bios), (Gpt, Uefi), (Gpt, Both), (Mbr, Bios)] {
            let script = rich(table, firmware).script();
            scripts.push(format!("# {table:?} {firmware:?}\n{script}"));
        }
        let root = vec![at("/", SystemKind::Ext4, None)];
        let mbr = Layout { table: Mbr, firmware: Both, partitions: root };
        let script = plan(&mbr, 4 * GIB, seed()).unwrap().script();
        scripts.push(format!("# Mbr Both\n{script}"));
        insta::assert_snapshot!(scripts.join("\n"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let small = |size, partitions| {
            let layout = Layout { partitions, ..Layout::default() };
            plan(&layout, size, seed()).unwrap_err().to_string()
        };
        let home = at("/home", SystemKind::Ext4, Some(GIB));
        let root = at("/", SystemKind::Xfs, None);
        insta::assert_snapshot!(
            [
                small(GIB, vec![root.clone(), home]),
                small(64 << 20, vec![root]),
                small(GIB, vec![at("/", SystemKind::Btrfs, Some(1 << 20))]),
                plan(
                    &Layout { table: TableKind::Mbr, ..Layout::default() },
                    MBR_END + ALIGNMENT,
                    seed()
                )
                .unwrap_err()
                .to_string(),
            ]
            .join("\n")
        );
    }

    #[test]
    fn a_path_is_held_by_the_deepest_place() {
        let plan = rich(TableKind::Gpt, Firmware::Both);
        let number = |path| plan.holds(path).unwrap().number;
        assert_eq!(number("/boot/grub"), 3);
        assert_eq!(number("/boot/efi/EFI"), 2);
        assert_eq!(number("/bootstrap"), 4);
        let order: Vec<_> = plan.places().map(|(_, target)| target.to_string()).collect();
        assert_eq!(order, ["/", "/boot", "/boot/efi", "/srv/my data"]);
    }

    prop_compose! {
        fn layouts()(
            gpt: bool,
            firmware in prop_oneof![
                Just(Firmware::Bios), Just(Firmware::Uefi), Just(Firmware::Both)
            ],
            sizes in proptest::collection::vec(1_u64..4096, 0..8),
            rest in proptest::option::of(0_usize..8),
        ) -> Layout {
            let table = if gpt { TableKind::Gpt } else { TableKind::Mbr };
            let mut partitions: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(number, size)| {
                    at(&format!("/{number}"), SystemKind::Ext4, Some((size + 8) << 20))
                })
                .collect();
            let place = rest.unwrap_or(0).min(partitions.len());
            let size = if rest.is_some() { None } else { Some(GIB) };
            partitions.insert(place, at("/", SystemKind::Ext4, size));
            Layout { table, firmware, partitions }
        }
    }

    proptest! {
        #[test]
        fn partitions_lie_apart_on_the_disk(layout in layouts(), mib in 1_u64..65536) {
            let size = mib << 20;
            let plan = match plan(&layout, size, seed()) {
                Ok(plan) => plan,
                Err(LayoutError::NoRoom { needed, .. }) => {
                    prop_assert!(needed > size);
                    // What it asks for is enough, and no more than that.
                    prop_assert!(super::plan(&layout, needed, seed()).is_ok());
                    prop_assert!(super::plan(&layout, needed - ALIGNMENT, seed()).is_err());
                    return Ok(());
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            };
            let mut end = ALIGNMENT;
            for partition in &plan.partitions {
                prop_assert_eq!(partition.start, end);
                prop_assert!(partition.size >= partition.role.least());
                prop_assert_eq!(partition.size % ALIGNMENT, 0);
                end += partition.size;
            }
            prop_assert!(end <= usable_end(layout.table, size));
            if layout.partitions.iter().any(|partition| partition.size.is_none()) {
                prop_assert_eq!(end, usable_end(layout.table, size));
            }
            for written in &layout.partitions {
                let found = plan.partitions.iter().filter(|planned| {
                    matches!((&planned.role, &written.purpose),
                        (Role::System { target, .. }, PartitionUse::Mount { target: other, .. })
                            if target == other)
                        && written.size.is_none_or(|size| size == planned.size)
                });
                prop_assert_eq!(found.count(), 1);
            }
            let ids: std::collections::BTreeSet<_> =
                plan.partitions.iter().map(|partition| plan.partition_id(partition)).collect();
            prop_assert_eq!(ids.len(), plan.partitions.len());
        }
    }
}
