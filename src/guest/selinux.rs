//! SELinux labels: the guest's own policy looked up, written to every inode, and read a second time.
//!
//! It is given the roots of mounted file systems; it does not mount, and it does not decide when a
//! seal happens.

pub mod contexts;
pub mod inodes;
mod links;
mod literal;
pub mod matcher;
mod naive;
mod pattern;
pub mod policy;
pub mod relabel;
pub mod verify;
mod walk;
mod xattr;

use std::fmt::Write;
use std::os::fd::OwnedFd;

use crate::name::GuestPath;

pub use contexts::FileKind;
pub use matcher::Expected;
pub use policy::{Found, NotApplicable, Policy};
pub use relabel::{RelabelOptions, RelabelReport, relabel};
pub use verify::{VerifyReport, verify};

/// One file system that can hold labels, mounted alone.
///
/// Nothing may be mounted below its root, so that the directories under mount points are seen; and
/// nobody else may write to it meanwhile.
#[derive(Debug)]
pub struct LabelledFs {
    /// Its root directory.
    pub root: OwnedFd,
    /// Where it is mounted in the running guest: `/`, `/boot`, …
    pub prefix: GuestPath,
}

/// How many inodes were seen in one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInodes {
    /// Where the file system is mounted in the guest.
    pub prefix: GuestPath,
    /// Inodes that a name leads to, each counted once, the root among them.
    pub inodes: u64,
}

/// At most this many paths of one sort are kept in a report; all are counted.
pub const SHOWN: usize = 20;

/// A path in a guest for people: what is not UTF-8 or is a control character is escaped.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_can_be_shown() {
        assert_eq!(shown("/etc/ä".as_bytes()), "/etc/ä");
        assert_eq!(shown(b"/etc/\xff\n"), "/etc/\\xff\\n");
    }
}
