//! Files by their names or directories: backups of editors, caches of package managers, jobs.

use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;

use super::{LIMIT, SCRUB, Work};
use crate::guest::error::{GuestError, shown};
use crate::guest::root::{Meta, Place};

/// Where editors' backups are looked for.
const EDITED: [&str; 5] = ["/etc", "/root", "/srv", "/tmp", "/var"];
/// Where apt keeps what it can fetch again.
pub(super) const CACHES_OF_APT: [&str; 2] = ["/var/cache/apt", "/var/lib/apt/lists"];
/// The repositories of a subscription.
pub(super) const SUBSCRIPTION_REPOSITORIES: &str = "/etc/yum.repos.d/redhat.repo";
/// The number of the last job of `at`.
const COUNTER: &str = ".SEQ";

impl Work<'_> {
    /// Regular files `*.bak` and `*~`, also hidden ones.
    pub(super) fn backup_files(&mut self) -> Result<(), GuestError> {
        for top in EDITED {
            self.remove_below(top, |place, meta| {
                let name = place.name().as_bytes();
                let backup = name.ends_with(b".bak") || name.ends_with(b"~");
                backup && meta.kind == FileType::RegularFile
            })?;
        }
        Ok(())
    }

    /// apt's directories belong to apt's own user, so they stay and lose their files.
    pub(super) fn package_caches(&mut self) -> Result<(), GuestError> {
        for top in CACHES_OF_APT {
            self.remove_below(top, |_, meta| meta.kind != FileType::Directory)?;
        }
        Ok(())
    }

    /// Jobs of `cron` and `at`, and the counter of the latter's.
    pub(super) fn cron_spool(&mut self) -> Result<(), GuestError> {
        for top in ["/var/spool/cron", "/var/spool/at"] {
            self.remove_below(top, |place, meta| {
                meta.kind != FileType::Directory && place.name() != COUNTER
            })?;
        }
        for directory in ["/var/spool/cron/atjobs", "/var/spool/atjobs", "/var/spool/at"] {
            let counter = format!("{directory}/{COUNTER}");
            let there = self.root.lstat(&counter)?;
            if there.is_some_and(|meta| meta.kind == FileType::RegularFile) {
                let before = self.root.read(&counter, LIMIT)?;
                self.change(&counter, &before, b"00000\n")?;
            }
        }
        Ok(())
    }

    /// The repositories of a subscription name its certificates. Its manager fills the file again.
    pub(super) fn subscription_repositories(&mut self) -> Result<(), GuestError> {
        for place in self.found(SUBSCRIPTION_REPOSITORIES)? {
            self.empty(&place)?;
        }
        Ok(())
    }

    /// Removes some of what is below a directory, also where other file systems are mounted.
    fn remove_below(
        &mut self,
        top: &str,
        goes: impl Fn(&Place, &Meta) -> bool,
    ) -> Result<(), GuestError> {
        let removed = &mut self.report.removed;
        for entry in self.root.entries_if_there(top)? {
            entry.walk_with_mounts(SCRUB, &mut |place, meta| {
                if goes(place, meta) && place.unlink(SCRUB)? {
                    removed.push(shown(place.path()));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
