//! The file systems of a planned disk: how each is made, and the guest's fstab.

use std::path::Path;
use std::process::Command;

use super::{Plan, Planned, Role};
use crate::recipe::SystemKind;

/// Features that grub and every kernel since 3.18 read, whatever this host's `mkfs.ext4` prefers.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
    flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// Features that every kernel since 4.9 reads, and with it every grub since 2.04, whatever this
/// host's `mkfs.xfs` prefers: the metadata's, and the inodes'. xfsprogs knows them all since 5.19.
const XFS_FEATURES: [&str; 2] =
    ["crc=1,finobt=1,bigtime=0,inobtcount=0,reflink=0,rmapbt=0", "sparse=1,nrext64=0"];

/// The smallest file system of a kind, in bytes.
#[must_use]
pub(super) const fn least(kind: SystemKind) -> u64 {
    match kind {
        SystemKind::Ext4 => 8 << 20,
        // What `mkfs.xfs` and `mkfs.btrfs` ask for.
        SystemKind::Xfs => 300 << 20,
        SystemKind::Btrfs => 128 << 20,
        // A smaller one has too few clusters for FAT32.
        SystemKind::Vfat => 64 << 20,
    }
}

impl Plan {
    /// The id of what a partition holds, as `blkid` writes it; `None` for one that holds none.
    #[must_use]
    pub fn content_id(&self, partition: &Planned) -> Option<String> {
        match &partition.role {
            Role::Grub => None,
            Role::System { kind: SystemKind::Vfat, .. } => {
                let id = self.ids.short(&partition.name());
                Some(format!("{:04X}-{:04X}", id >> 16, id & 0xFFFF))
            }
            Role::System { .. } | Role::Swap => Some(self.ids.uuid(&partition.name())),
        }
    }

    /// Makes what a partition of the plan holds on a device; `None` where it holds nothing.
    #[must_use]
    pub fn format_command(&self, partition: &Planned, device: &Path) -> Option<Command> {
        let name = partition.name();
        let id = self.content_id(partition)?;
        let label: &[&str] = if name == "root" { &["-L", "root"] } else { &[] };
        let kind = match &partition.role {
            Role::Grub => return None,
            Role::System { kind, .. } => Some(*kind),
            Role::Swap => None,
        };
        let mut command = Command::new(program(kind));
        match kind {
            Some(SystemKind::Ext4) => {
                let seed = if name == "root" {
                    self.ids.uuid("hash seed")
                } else {
                    self.ids.uuid(&format!("{name} hash seed"))
                };
                // The tables are zeroed now, which costs nothing on a disk of holes, and not by the
                // first machine that boots.
                let extended = format!("hash_seed={seed},lazy_itable_init=0,lazy_journal_init=0");
                command
                    .args(["-q", "-F", "-b", "4096", "-I", "256", "-O", EXT4_FEATURES])
                    .args(["-E", &extended])
                    .args(label)
                    .args(["-U", &id]);
            }
            Some(SystemKind::Xfs) => {
                let [metadata, inodes] = XFS_FEATURES;
                command.args(["-q", "-f", "-m", &format!("uuid={id},{metadata}"), "-i", inodes]);
                command.args(label);
            }
            Some(SystemKind::Btrfs) => {
                command.args(["-q", "-f", "-m", "dup", "-d", "single", "-U", &id]).args(label);
            }
            Some(SystemKind::Vfat) => {
                let id = id.replace('-', "");
                command.args(["--invariant", "-F", "32", "-n", "ESP", "-i", &id]);
            }
            None => {
                command.args(["-L", "swap", "-U", &id]);
            }
        }
        command.arg(device);
        Some(command)
    }

    /// The programs of the host that make the disk, each once.
    #[must_use]
    pub fn programs(&self) -> Vec<&'static str> {
        let mut programs = vec!["sfdisk"];
        for partition in &self.partitions {
            let program = match &partition.role {
                Role::Grub => continue,
                Role::System { kind, .. } => program(Some(*kind)),
                Role::Swap => program(None),
            };
            if !programs.contains(&program) {
                programs.push(program);
            }
        }
        programs
    }

    /// Whether it has a file system of a kind.
    #[must_use]
    pub fn has(&self, wanted: SystemKind) -> bool {
        let is = |partition: &Planned| matches!(&partition.role, Role::System { kind, .. } if *kind == wanted);
        self.partitions.iter().any(is)
    }

    /// The guest's `/etc/fstab`: what is mounted, each before what lies below it, then swap.
    #[must_use]
    pub fn fstab(&self) -> String {
        let id = |partition: &Planned| self.content_id(partition).unwrap_or_default();
        let systems = self.places().filter_map(|(partition, target)| {
            let Role::System { kind, .. } = &partition.role else { return None };
            let options = match (kind, target.as_str()) {
                (SystemKind::Ext4, "/") => "errors=remount-ro 0 1",
                (SystemKind::Ext4, _) => "defaults 0 2",
                // They look after themselves, and their `fsck` does nothing.
                (SystemKind::Xfs | SystemKind::Btrfs, _) => "defaults 0 0",
                // A system that cannot read it runs as well.
                (SystemKind::Vfat, _) => "umask=0077,nofail 0 2",
            };
            let (id, target) = (id(partition), escaped(target.as_str()));
            Some(format!("UUID={id} {target} {} {options}\n", kind.keyword()))
        });
        let swaps = self.partitions.iter().filter(|partition| partition.role == Role::Swap);
        let swaps = swaps.map(|partition| format!("UUID={} none swap sw 0 0\n", id(partition)));
        systems.chain(swaps).collect()
    }
}

/// What makes a file system, or swap space.
const fn program(kind: Option<SystemKind>) -> &'static str {
    match kind {
        Some(SystemKind::Ext4) => "mkfs.ext4",
        Some(SystemKind::Xfs) => "mkfs.xfs",
        Some(SystemKind::Btrfs) => "mkfs.btrfs",
        Some(SystemKind::Vfat) => "mkfs.vfat",
        None => "mkswap",
    }
}

/// A field of an fstab. Source: fstab(5), getmntent(3).
fn escaped(field: &str) -> String {
    let mut out = String::new();
    for c in field.chars() {
        match c {
            ' ' => out.push_str("\\040"),
            '\t' => out.push_str("\\011"),
            '\n' => out.push_str("\\012"),
            '\\' => out.push_str("\\134"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::rich;
    use crate::recipe::{Firmware, TableKind};
    use std::path::Path;

    #[test]
    fn the_command_lines_do_not_move() {
        let plan = rich(TableKind::Gpt, Firmware::Both);
        let mut text = String::new();
        for partition in &plan.partitions {
            let Some(command) = plan.format_command(partition, Path::new("/dev/part")) else {
                continue;
            };
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
            text += &words.join(" ");
            text.push('\n');
        }
        insta::assert_snapshot!(format!("{text}\n{:?}\n\n{}", plan.programs(), plan.fstab()));
    }
}
