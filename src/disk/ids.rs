//! New ids for file systems, so that no two images have the same.
//!
//! What in a guest names the old ids is not known here.

use std::path::{Path, PathBuf};

use super::mounts::FileSystem;
use super::partitions::{PartitionError, last_line, output};
use crate::digest::{Digest, Hasher};

/// A file system and the id that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewId {
    /// The node of its device.
    pub device: PathBuf,
    /// Its kind, as the kernel calls it.
    pub kind: String,
    /// The id that it has.
    pub old: String,
    /// The id that it gets.
    pub new: String,
}

/// Decides on new ids: for the same file systems and seed always the same ones. Also given, for
/// people, is why a file system that has an id gets none.
#[must_use]
pub fn new_ids(systems: &[FileSystem], seed: Digest) -> (Vec<NewId>, Vec<String>) {
    let (mut ids, mut kept) = (Vec::new(), Vec::new());
    for system in systems {
        let Some(old) = &system.uuid else { continue };
        let kind = &system.kind;
        let shared = systems.iter().filter(|other| other.uuid.as_ref() == Some(old)).count() > 1;
        if shared {
            kept.push(format!("the {kind} file system {old} is on more than one device"));
        } else if !matches!(kind.as_str(), "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "swap") {
            // The id of a vfat is its serial number, which nothing but its formatting writes.
            kept.push(format!("{kind} keeps its id {old}"));
        } else if !is_uuid(old) {
            kept.push(format!("the id of a {kind} file system is no UUID"));
        } else {
            let new = derived(old, seed);
            ids.push(NewId {
                device: system.device.clone(),
                kind: kind.clone(),
                old: old.clone(),
                new,
            });
        }
    }
    (ids, kept)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn derived(old: &str, seed: Digest) -> String {
    let mut hasher = Hasher::new("kiln 2026-11 file system id v1");
    uuid(hasher.raw(seed.as_bytes()).bytes(old.as_bytes()).finish())
}

/// A UUID of version 8 (RFC 9562), whose bits are ours: the first of a digest.
#[must_use]
pub fn uuid(digest: Digest) -> String {
    let mut bytes = *digest.as_bytes();
    bytes[6] = bytes[6] & 0x0F | 0x80;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let digits = Digest::from_bytes(bytes).to_string();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..32]].join("-")
}

impl NewId {
    /// Gives the file system, which must not be mounted, its new id.
    ///
    /// # Errors
    /// Where its tool cannot be run or fails.
    pub fn write(&self) -> Result<(), PartitionError> {
        let new = self.new.as_str();
        match self.kind.as_str() {
            "xfs" => run("xfs_admin", &["-U", new], &self.device, 0),
            // It asks before it rewrites every block of metadata.
            "btrfs" => run("btrfstune", &["-f", "-U", new], &self.device, 0),
            "swap" => run("swaplabel", &["-U", new], &self.device, 0),
            _ => {
                // Where checksums of metadata hold the id, all are written anew, and tune2fs wants
                // a check since the last mount for that. 1 says that something was put right.
                run("e2fsck", &["-f", "-p"], &self.device, 1)?;
                run("tune2fs", &["-U", new], &self.device, 0)
            }
        }
    }
}

fn run(
    program: &'static str,
    arguments: &[&str],
    device: &Path,
    last_good: i32,
) -> Result<(), PartitionError> {
    let output = output(program, arguments, device)?;
    if output.status.code().is_some_and(|code| (0..=last_good).contains(&code)) {
        return Ok(());
    }
    // Some of these programs complain on their standard output.
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let (path, message) = (device.to_owned(), last_line(said));
    Err(PartitionError::Failed { program, path, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(kind: &str, uuid: Option<&str>, number: u32) -> FileSystem {
        FileSystem {
            device: PathBuf::from(format!("/dev/loop0p{number}")),
            kind: kind.to_owned(),
            uuid: uuid.map(str::to_owned),
            label: None,
            partition_uuid: None,
            partition_label: None,
            partition: Some(number),
        }
    }

    #[test]
    fn ids_follow_from_the_old_ones_and_the_seed() {
        const A: &str = "0a1b2c3d-0000-4000-8000-000000000001";
        const B: &str = "0a1b2c3d-0000-4000-8000-000000000002";
        let systems = [system("ext4", Some(A), 1), system("swap", Some(B), 2)];
        let seed = Digest::of(b"seed");
        let (ids, kept) = new_ids(&systems, seed);
        assert_eq!(kept, Vec::<String>::new());
        assert_eq!(new_ids(&systems, seed).0, ids);
        let other = new_ids(&systems, Digest::of(b"other")).0;
        let all = [&ids[0].new, &ids[1].new, &other[0].new, &other[1].new];
        let once: std::collections::BTreeSet<_> = all.into_iter().collect();
        assert_eq!(once.len(), 4);
        for id in once {
            assert!(is_uuid(id) && &id[14..15] == "8" && "89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn what_cannot_get_an_id_is_told() {
        const A: &str = "0a1b2c3d-0000-4000-8000-000000000001";
        let systems = [
            system("vfat", Some("ab12-cd34"), 1),
            system("btrfs", Some(A), 2),
            system("btrfs", Some(A), 3),
            system("xfs", Some("-U;not-an-id"), 4),
            system("ext4", None, 5),
        ];
        let (ids, kept) = new_ids(&systems, Digest::of(b"seed"));
        assert_eq!(ids, []);
        assert_eq!(kept.len(), 4, "{kept:?}");
    }
}
