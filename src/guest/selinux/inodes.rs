//! How many inodes a file system has in use that a walk must find.
//!
//! It reads what `statfs` and a superblock say; it walks nothing.

use std::io;
use std::os::fd::BorrowedFd;

const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;

/// Length in bytes of an ext4 superblock, which stands 1,024 bytes into its device.
pub const EXT4_SUPERBLOCK: usize = 1024;

/// Inodes in use that have a name, the root among them: what a complete walk of a cleanly
/// unmounted file system counts.
///
/// ext4 keeps inodes without a name for itself: those before its first ordinary one (the root is
/// one of them and counted here), and as its features ask an orphan file and a project quota.
/// Pass the superblock ([`EXT4_SUPERBLOCK`] bytes from byte 1,024 of the device) to have those
/// counted; without it the usual ten are assumed. xfs keeps two, for its real-time section. `None`
/// for file systems that do not count their inodes (btrfs), and for those whose own inodes are not
/// known.
///
/// Source of the layout: the Linux kernel's `Documentation/filesystems/ext4/super.rst`.
///
/// # Errors
/// If `statfs` fails.
pub fn inodes_in_use(
    root: BorrowedFd<'_>,
    superblock: Option<&[u8; EXT4_SUPERBLOCK]>,
) -> io::Result<Option<u64>> {
    let stat = rustix::fs::fstatfs(root)?;
    let used = stat.f_files.saturating_sub(stat.f_ffree);
    let kind = stat.f_type.cast_unsigned() & 0xFFFF_FFFF;
    Ok(match kind {
        EXT4 => Some((used + 1).saturating_sub(superblock.map_or(10, ext4_own))),
        XFS => Some(used.saturating_sub(2)),
        _ => None,
    })
}

/// ext4's own inodes, the root among them.
fn ext4_own(superblock: &[u8; EXT4_SUPERBLOCK]) -> u64 {
    let number = |at: usize| {
        let bytes = &superblock[at..at + 4];
        u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let revision = number(0x4C);
    let first = if revision == 0 { 11 } else { number(0x54) };
    let has_orphan_file = number(0x5C) & 0x1000 != 0;
    let ordinary = |inode: u64| u64::from(inode >= first);
    let orphan = if has_orphan_file { ordinary(number(0x280)) } else { 0 };
    first.saturating_sub(1) + orphan + ordinary(number(0x26C))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_file_is_one_more() {
        let mut block = [0; EXT4_SUPERBLOCK];
        assert_eq!(ext4_own(&block), 10);
        block[0x4C] = 1;
        block[0x54] = 11;
        assert_eq!(ext4_own(&block), 10);
        block[0x5D] = 0x10;
        block[0x280] = 12;
        assert_eq!(ext4_own(&block), 11);
    }
}
