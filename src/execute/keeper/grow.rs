//! How the keeper makes the last partition and its file system fill a disk that was made larger.
//!
//! Partitions are never moved, and only what lies last grows. Growth starts on a disk of which
//! nothing is mounted and the kernel knows no partition yet.

use std::path::Path;
use std::process::Command;

use super::tools::{self, Tools};
use super::{Keeper, confused, host, mount_fault};
use crate::disk::mounts::{self, FileSystem, Place};
use crate::disk::partitions::{self, Partition, Table};
use crate::execute::layout::{ALIGNMENT, MBR_END, SECTOR};
use crate::execute::{Fault, FaultKind, Outcome};
use crate::files;
use crate::name::GuestPath;

/// Why a disk cannot be grown.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum GrowError {
    /// What lies last is nothing that grows.
    #[error("{place} holds {what}, which kiln does not grow")]
    #[diagnostic(
        code(kiln::execute::cannot_grow),
        help(
            "kiln grows ext2 to ext4, xfs and btrfs where they lie last on the disk, and moves no partition; leave `size` out, or take a base whose root lies last"
        )
    )]
    NotGrown {
        /// Where it lies.
        place: String,
        /// What it is.
        what: String,
    },
    /// Only a container of partitions could grow.
    #[error("the last partition of this disk lies in an extended one, which kiln does not grow")]
    #[diagnostic(
        code(kiln::execute::extended_partition),
        help("leave `size` out, or take a base with a GPT or without logical partitions")
    )]
    Extended,
    /// An MBR does not reach that far.
    #[error("this disk has an MBR, which cannot name what lies behind 2 TiB")]
    #[diagnostic(
        code(kiln::execute::mbr_end),
        help("write a `size` of at most \"2T\", or take a base with a GPT")
    )]
    MbrEnd,
    /// The table is of another kind.
    #[error("this disk has a partition table of the kind `{kind}`, which kiln does not grow")]
    #[diagnostic(
        code(kiln::execute::other_table),
        help("kiln grows disks with a GPT or an MBR; leave `size` out")
    )]
    OtherTable {
        /// Its kind, as `sfdisk` calls it.
        kind: String,
    },
}

fn fault(error: &GrowError) -> Fault {
    Fault::of(FaultKind::Step, error)
}

impl Keeper {
    pub(super) fn grow(&mut self, tools: &mut Tools<'_>) -> Result<Outcome, Fault> {
        let size = self.size()?;
        let device = self.device()?.path().to_owned();
        let last = grow_table(&device, size, tools)?;
        self.look()?;
        let is_last = |system: &&FileSystem| system.partition == last;
        let system = self.systems.iter().find(is_last).cloned();
        let place = match last {
            Some(number) => format!("the last partition of this disk, number {number},"),
            None => "this disk".to_owned(),
        };
        let nothing = "nothing that kiln knows".to_owned();
        let Some(system) = system else {
            return Err(fault(&GrowError::NotGrown { place, what: nothing }));
        };
        match system.kind.as_str() {
            "ext2" | "ext3" | "ext4" => {
                tools::require(&["e2fsck", "resize2fs"])?;
                let mut check = Command::new("e2fsck");
                check.args(["-f", "-p"]).arg(&system.device);
                // 1 says that it put something right.
                tools.run_with(check, b"", &[0, 1])?;
                let mut resize = Command::new("resize2fs");
                resize.arg(&system.device);
                tools.run(resize, b"")?;
            }
            "xfs" => {
                tools::require(&["xfs_growfs"])?;
                let mut resize = Command::new("xfs_growfs");
                resize.arg("-d");
                self.grow_mounted(system, resize, tools)?;
            }
            "btrfs" => {
                tools::require(&["btrfs"])?;
                let mut resize = Command::new("btrfs");
                resize.args(["filesystem", "resize", "max"]);
                self.grow_mounted(system, resize, tools)?;
            }
            kind => {
                let what = match kind {
                    "swap" => "swap space".to_owned(),
                    "vfat" => "a FAT file system".to_owned(),
                    "LVM2_member" => "a volume of LVM".to_owned(),
                    "crypto_LUKS" => "an encrypted volume".to_owned(),
                    kind => format!("`{}`", kind.escape_default()),
                };
                return Err(fault(&GrowError::NotGrown { place, what }));
            }
        }
        Ok(Outcome::default())
    }

    /// Grows a file system that does it while it is mounted.
    fn grow_mounted(
        &self,
        system: FileSystem,
        mut command: Command,
        tools: &mut Tools<'_>,
    ) -> Result<(), Fault> {
        let path = self.directory.join("grow");
        files::make_directory(&path, 0o755).map_err(|error| host(&error))?;
        let place = Place { system, target: GuestPath::root(), subvolume: None };
        mounts::mount_one(&place, &path, false).map_err(|error| mount_fault(&error))?;
        command.arg(&path);
        let grown = tools.run(command, b"");
        let unmounted = mounts::unmount(&path, &place.target).map_err(|error| mount_fault(&error));
        grown.and(unmounted)
    }
}

/// Makes the last partition reach to the end of the disk; gives its number, or `None` for a disk
/// without a partition table.
fn grow_table(device: &Path, size: u64, tools: &mut Tools<'_>) -> Result<Option<u32>, Fault> {
    let read = || partitions::read_table(device, size).map_err(|error| mount_fault(&error.into()));
    let Some(mut table) = read()? else { return Ok(None) };
    if table.kind == "gpt" {
        let mut relocate = Command::new("sfdisk");
        relocate.args(["--quiet", "--no-reread", "--no-tell-kernel"]);
        relocate.args(["--relocate", "gpt-bak-std"]).arg(device);
        tools.run(relocate, b"")?;
        table = read()?.ok_or_else(confused)?;
    }
    let Some((last, end)) = target(&table, size).map_err(|error| fault(&error))? else {
        return Ok(None);
    };
    if end > last.start + last.size {
        let mut edit = Command::new("sfdisk");
        edit.args(["--quiet", "--no-reread", "--no-tell-kernel", "-N", &last.number.to_string()]);
        edit.arg(device);
        let line = format!("size={}\n", (end - last.start) / SECTOR);
        tools.run(edit, line.as_bytes())?;
    }
    Ok(Some(last.number))
}

/// The partition that lies last, and the byte behind the place to which it can reach; `None` for a
/// table without partitions.
fn target(table: &Table, size: u64) -> Result<Option<(&Partition, u64)>, GrowError> {
    let limit = match table.kind.as_str() {
        "gpt" => table.end.unwrap_or(size).min(size),
        "dos" if size > MBR_END => return Err(GrowError::MbrEnd),
        "dos" => size,
        kind => return Err(GrowError::OtherTable { kind: kind.to_owned() }),
    };
    let end = |partition: &Partition| partition.start + partition.size;
    let Some(last) = table.partitions.iter().max_by_key(|partition| end(partition)) else {
        return if table.extended_end > 0 { Err(GrowError::Extended) } else { Ok(None) };
    };
    if table.extended_end >= end(last) {
        return Err(GrowError::Extended);
    }
    Ok(Some((last, limit / ALIGNMENT * ALIGNMENT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn table(kind: &str, partitions: &[(u32, u64, u64)]) -> Table {
        let partitions = partitions.iter().map(|&(number, start, size)| Partition {
            number,
            start: start * MIB,
            size: size * MIB,
            uuid: None,
            name: None,
        });
        let partitions = partitions.collect();
        Table { kind: kind.to_owned(), partitions, end: Some(100 * MIB - 512), extended_end: 0 }
    }

    #[test]
    fn the_partition_that_lies_last_grows() {
        // As on Debian's cloud images: the root has the first number and lies last.
        let table = table("gpt", &[(1, 20, 10), (14, 1, 3), (15, 4, 16)]);
        let (last, end) = target(&table, 100 * MIB).unwrap().unwrap();
        assert_eq!((last.number, end), (1, 99 * MIB));
    }

    #[test]
    fn what_cannot_grow_is_refused() {
        let mut extended = table("dos", &[(1, 1, 10), (5, 12, 10)]);
        extended.extended_end = 22 * MIB;
        assert!(matches!(target(&extended, 100 * MIB), Err(GrowError::Extended)));
        // A primary partition behind the logical ones grows.
        let mut before = table("dos", &[(1, 30, 10), (5, 12, 10)]);
        before.extended_end = 22 * MIB;
        assert_eq!(target(&before, 100 * MIB).unwrap().unwrap().1, 100 * MIB);
        let mbr = table("dos", &[(1, 1, 10)]);
        assert!(matches!(target(&mbr, MBR_END + MIB), Err(GrowError::MbrEnd)));
        let sun = table("sun", &[(1, 1, 10)]);
        assert!(matches!(target(&sun, 100 * MIB), Err(GrowError::OtherTable { .. })));
        assert_eq!(target(&table("gpt", &[]), 100 * MIB).unwrap(), None);
    }
}
