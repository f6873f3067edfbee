//! Logs, records of logins and of processes.

use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;

use super::{SCRUB, Work};
use crate::guest::error::{GuestError, shown};

impl Work<'_> {
    /// Directories stay, as daemons expect theirs with owner and mode; `/var/log/journal` too, as
    /// journald keeps a journal on disk only where it exists.
    pub(super) fn logs(&mut self) -> Result<(), GuestError> {
        let Self { root, report } = self;
        for entry in root.entries_if_there("/var/log")? {
            entry.walk_with_mounts(SCRUB, &mut |place, meta| {
                if meta.kind != FileType::RegularFile {
                    return Ok(());
                }
                if is_rotated(place.name().as_bytes()) {
                    if place.unlink(SCRUB)? {
                        report.removed.push(shown(place.path()));
                    }
                } else if meta.size > 0 {
                    place.truncate(SCRUB)?;
                    report.emptied.push(shown(place.path()));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The live files of logins stay, as nothing makes them anew with their group.
    pub(super) fn logins(&mut self) -> Result<(), GuestError> {
        self.live_logs(&["/var/log/wtmp*", "/var/log/btmp*"])
    }

    /// The live file stays, as `accton` does not make one.
    pub(super) fn accounting(&mut self) -> Result<(), GuestError> {
        self.live_logs(&["/var/account/pacct*", "/var/log/account/pacct*"])
    }

    /// Removes what rotation made, and empties the others.
    fn live_logs(&mut self, patterns: &[&str]) -> Result<(), GuestError> {
        for pattern in patterns {
            for place in self.found(pattern)? {
                if is_rotated(place.name().as_bytes()) {
                    self.remove_file(&place)?;
                } else {
                    self.empty(&place)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a log file's name is one that rotation makes: `x.1`, `x.2.gz`, `x-20260101`, `x.old`,
/// `x.journal`, `x.journal~`. Source: logrotate.conf(5), systemd-journald.service(8).
fn is_rotated(name: &[u8]) -> bool {
    let packed = [".gz", ".xz", ".bz2", ".zst", ".lz4", ".old", ".journal", ".journal~"];
    if packed.iter().any(|ending| name.ends_with(ending.as_bytes())) {
        return true;
    }
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let before = name.len().checked_sub(digits + 1).and_then(|at| name.get(at));
    match before {
        Some(b'.') => (1..=4).contains(&digits) && name.len() > digits + 1,
        Some(b'-') => digits == 8,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_rotated;

    #[test]
    fn rotated_logs_are_known_by_their_names() {
        for name in [
            "syslog.1",
            "dpkg.log.2.gz",
            "messages-20260101",
            "Xorg.0.log.old",
            "system.journal",
            "a.journal~",
        ] {
            assert!(is_rotated(name.as_bytes()), "{name}");
        }
        for name in ["syslog", "btmp", "Xorg.0.log", "a-1", "7", ".1", "x.20260101", ""] {
            assert!(!is_rotated(name.as_bytes()), "{name}");
        }
    }
}
