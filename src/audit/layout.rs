//! How a disk is divided, and whether that leaves room to grow.

use serde::{Deserialize, Serialize};

use super::Verdict;

/// What is behind the last partition at most, where the disk counts as used up. Partitioning tools align
/// ends to as much as a cylinder (7.8 MiB) or leave a MiB or two, beside GPT's second header.
const SLACK: u64 = 8 << 20;
/// How much smaller than its partition a file system may be: a group of blocks of ext4.
const GROUP: u64 = 128 << 20;

/// A disk as its audit needs it. Sizes are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// The disk's size.
    pub size: u64,
    /// The kind of its partition table, as `sfdisk` calls it; `None` where it has none.
    pub table: Option<String>,
    /// Whether GPT's second header is at the end of the disk; `None` for other tables.
    pub second_header: Option<bool>,
    /// Its partitions, by number; one without a number is a file system on the whole disk.
    pub partitions: Vec<PartView>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartView {
    /// Its number; `None` for the whole disk.
    pub number: Option<u32>,
    /// Its first byte.
    pub start: u64,
    /// Its size.
    pub size: u64,
    /// What it holds: `ext4`, `xfs`, `swap`, `LVM2_member`, …; `None` where nothing is known.
    pub kind: Option<String>,
    /// Where the guest has it, where it has it anywhere.
    pub target: Option<String>,
    /// The size of its file system, where that could be read.
    pub used: Option<u64>,
}

impl PartView {
    /// What firmware needs: an EFI system partition, or a boot loader's own.
    fn is_of_firmware(&self) -> bool {
        match self.kind.as_deref() {
            None => true,
            Some("vfat") => self.target.as_deref().is_none_or(|at| at != "/"),
            Some(_) => false,
        }
    }

    fn described(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("nothing known");
        let place = self.target.as_deref().map(|at| format!(" on {at}")).unwrap_or_default();
        match self.number {
            Some(number) => format!("partition {number} ({kind}{place})"),
            None => format!("the whole disk ({kind}{place})"),
        }
    }
}

impl DiskView {
    /// Whether a part of it belongs to LVM, and none is mounted as the root.
    pub(super) fn has_root_on_lvm(&self) -> bool {
        let lvm = |part: &PartView| part.kind.as_deref() == Some("LVM2_member");
        self.root().is_none() && self.partitions.iter().any(lvm)
    }

    fn root(&self) -> Option<&PartView> {
        self.partitions.iter().find(|part| part.target.as_deref() == Some("/"))
    }
}

fn no_root() -> Verdict {
    Verdict::Unknown("the partition of the root file system is not known".to_owned())
}

/// Whether the table fits the disk.
pub(super) fn table(disk: &DiskView) -> Verdict {
    let Some(kind) = &disk.table else {
        return Verdict::NotApplicable("the disk has no partition table".to_owned());
    };
    let mut by_place: Vec<_> =
        disk.partitions.iter().filter(|part| part.number.is_some()).collect();
    by_place.sort_by_key(|part| part.start);
    for pair in by_place.windows(2) {
        if pair[0].start.saturating_add(pair[0].size) > pair[1].start {
            let (first, second) = (pair[0].described(), pair[1].described());
            return Verdict::Fail(format!("{first} reaches into {second}"));
        }
    }
    if let Some(last) = by_place.last()
        && last.start.saturating_add(last.size) > disk.size
    {
        return Verdict::Fail(format!("{} reaches behind the disk", last.described()));
    }
    if disk.second_header == Some(false) {
        let seen = "GPT's second header is not at the end of the disk: the disk was made larger";
        return Verdict::Fail(seen.to_owned());
    }
    let end = by_place.last().map_or(0, |last| last.start + last.size);
    if disk.size.saturating_sub(end) > SLACK && !by_place.is_empty() {
        let free = (disk.size - end) >> 20;
        return Verdict::Fail(format!("{free} MiB behind the last partition belong to none"));
    }
    Verdict::Pass(format!("{kind}, {} partitions", by_place.len()))
}

/// Whether the root file system fills its partition.
pub(super) fn root_fills(disk: &DiskView) -> Verdict {
    let Some(root) = disk.root() else { return no_root() };
    let Some(used) = root.used else {
        return Verdict::Unknown(format!("the size of {} cannot be read", root.described()));
    };
    let seen = format!("{} of {} MiB", used >> 20, root.size >> 20);
    Verdict::of(root.size.saturating_sub(used) < GROUP, seen)
}

/// Whether nothing is behind the root partition.
pub(super) fn root_last(disk: &DiskView) -> Verdict {
    let Some(root) = disk.root() else { return no_root() };
    let behind = disk.partitions.iter().find(|part| part.start > root.start);
    match behind {
        None => Verdict::Pass(format!("{} is the last", root.described())),
        Some(other) => Verdict::Fail(format!("{} is behind it", other.described())),
    }
}

/// Whether there is one ext3 or ext4 partition and no other.
pub(super) fn one_partition(disk: &DiskView) -> Verdict {
    let own: Vec<_> = disk.partitions.iter().filter(|part| !part.is_of_firmware()).collect();
    match own.as_slice() {
        [] => no_root(),
        [part] => match part.kind.as_deref() {
            Some("ext3" | "ext4") => Verdict::Pass(part.described()),
            Some("xfs" | "btrfs") => Verdict::Fail(format!(
                "{}, which grows too, but not in the way that the XenAPI driver knows",
                part.described()
            )),
            _ => Verdict::Fail(part.described()),
        },
        parts => {
            let parts: Vec<_> = parts.iter().map(|part| part.described()).collect();
            Verdict::Fail(format!("there are {}", parts.join(", ")))
        }
    }
}

/// Whether the driver of Xen may resize the disk is said to Glance, beside the image.
pub(super) fn auto_disk_config(disk: &DiskView) -> Verdict {
    match one_partition(disk) {
        Verdict::Pass(_) => {
            Verdict::Unknown("`auto_disk_config` is a property of the image in Glance".to_owned())
        }
        _ => Verdict::NotApplicable("there is not exactly one ext3 or ext4 partition".to_owned()),
    }
}
