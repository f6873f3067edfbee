//! The seal's first act on a guest: removing what no two machines may share, and what nobody needs.
//!
//! It does not know which items a recipe asks for, nor what comes after (unregister, relabel). Items
//! that only remove paths are in `table`; the others are in the files that are called by their area.

mod accounts;
mod certificates;
mod files;
mod hostkeys;
mod identity;
mod ids;
mod logs;
mod network;
mod table;

use std::path::Path;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::error::{GuestError, shown};
use super::inspect::Guest;
use super::root::{FileAttributes, GuestRoot, Meta, Place, absent};
use crate::recipe::{Scrub, ScrubItem};

const SCRUB: &str = "scrub";
/// Most paths that are told of what is left.
const MOST_LEFT: usize = 4096;
/// Largest configuration file that is edited, in bytes.
const LIMIT: u64 = 1 << 20;

/// What one item did. Paths are in the guest, escaped, and in the order of the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// The item.
    pub item: ScrubItem,
    /// Paths that are gone; a directory stands for all that was in it.
    pub removed: Vec<String>,
    /// Files that are empty now and were not, or were made empty.
    pub emptied: Vec<String>,
    /// Files with other content, or another type, than before.
    pub changed: Vec<String>,
    /// Why something of the item was left as it was.
    pub kept: Option<String>,
}

/// What a guest's tree does not say about the disk that it lies on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskFacts {
    /// The ids of file systems that are about to change, each as the old one and the new one, in
    /// lower case. They have one length.
    pub new_ids: Vec<(String, String)>,
    /// File systems that keep their ids, each with the reason; for people.
    pub kept_ids: Vec<String>,
    /// Whether a part of the disk belongs to LVM.
    pub has_lvm: bool,
}

/// Scrubs a guest; doing it again changes nothing. Items come in the order of their type, each with
/// a report also where it found nothing to do.
///
/// # Errors
/// What the operation says; the tree may then be scrubbed in part.
pub fn scrub(
    root: &GuestRoot,
    guest: &Guest,
    wanted: &Scrub,
    disk: &DiskFacts,
) -> Result<Vec<ScrubReport>, GuestError> {
    let mut reports = Vec::new();
    for &item in &wanted.items {
        let mut work = Work::new(root, item);
        if let Some(paths) = table::paths(item) {
            work.remove(paths)?;
        }
        match item {
            ScrubItem::BackupFiles => work.backup_files()?,
            ScrubItem::BashHistory => work.histories()?,
            ScrubItem::CaCertificates => work.ca_certificates(),
            ScrubItem::CronSpool => work.cron_spool()?,
            ScrubItem::FlagReconfiguration => work.flag_reconfiguration()?,
            ScrubItem::FsUuids => work.file_system_ids(disk)?,
            ScrubItem::IpaClient => work.ipa_client()?,
            ScrubItem::Logfiles => work.logs()?,
            ScrubItem::LvmUuids => work.lvm_ids(disk)?,
            ScrubItem::MachineId => work.machine_id(guest)?,
            ScrubItem::NetHostname => work.hostnames()?,
            ScrubItem::NetHwaddr => work.hardware_addresses()?,
            ScrubItem::PackageManagerCache => work.package_caches()?,
            ScrubItem::PacctLog => work.accounting()?,
            ScrubItem::RhSubscriptionManager => work.subscription_repositories()?,
            ScrubItem::SshHostkeys => work.ssh_host_keys(guest)?,
            ScrubItem::SshUserdir => work.ssh_directories()?,
            ScrubItem::UdevPersistentNet => work.persistent_net()?,
            ScrubItem::UserAccount => work.user_accounts(&wanted.keep_users)?,
            ScrubItem::Utmp => work.logins()?,
            // The table says all of these.
            ScrubItem::AbrtData
            | ScrubItem::BlkidTab
            | ScrubItem::BuildLeftovers
            | ScrubItem::CrashData
            | ScrubItem::DhcpClientState
            | ScrubItem::DhcpServerState
            | ScrubItem::DovecotData
            | ScrubItem::FirewallRules
            | ScrubItem::KerberosData
            | ScrubItem::KerberosHostkeytab
            | ScrubItem::LvmSystemDevices
            | ScrubItem::MailSpool
            | ScrubItem::NetNmconn
            | ScrubItem::PamData
            | ScrubItem::PasswdBackups
            | ScrubItem::PuppetDataLog
            | ScrubItem::RandomSeed
            | ScrubItem::RhnSystemid
            | ScrubItem::RpmDb
            | ScrubItem::SambaDbLog
            | ScrubItem::SmoltUuid
            | ScrubItem::SssdDbLog
            | ScrubItem::TmpFiles
            | ScrubItem::YumUuid => {}
        }
        reports.push(work.report);
    }
    Ok(reports)
}

/// Patterns of OpenSSH's host keys, which the seal removes where something makes new ones.
pub const HOST_KEYS: [&str; 3] =
    ["/etc/ssh/ssh_host_*key", "/etc/ssh/ssh_host_*key.pub", "/etc/ssh/ssh_host_*-cert.pub"];
/// The pattern of Dropbear's.
pub const DROPBEAR_KEYS: &str = "/etc/dropbear/dropbear_*_host_key";

/// What an item that only removes paths would remove, sorted by the table's lines; an empty file says
/// nothing and is left out.
///
/// # Errors
/// The kernel's.
pub fn left(root: &GuestRoot, item: ScrubItem) -> Result<Vec<String>, GuestError> {
    let work = Work::new(root, item);
    let mut found = Vec::new();
    let mut see = |place: &Place, meta: &Meta| {
        if found.len() < MOST_LEFT && !(meta.kind == FileType::RegularFile && meta.size == 0) {
            found.push(shown(place.path()));
        }
    };
    if let Some(paths) = table::paths(item) {
        for pattern in paths.trees.iter().chain(paths.files) {
            for place in work.found(pattern)? {
                if let Some(meta) = place.meta(SCRUB)? {
                    see(&place, &meta);
                }
            }
        }
    }
    if item == ScrubItem::PackageManagerCache {
        for top in files::CACHES_OF_APT {
            for entry in root.entries_if_there(top)? {
                entry.walk_with_mounts(SCRUB, &mut |place, meta| {
                    if meta.kind != FileType::Directory {
                        see(place, meta);
                    }
                    Ok(())
                })?;
            }
        }
    }
    if item == ScrubItem::RhSubscriptionManager {
        for place in work.found(files::SUBSCRIPTION_REPOSITORIES)? {
            if let Some(meta) = place.meta(SCRUB)? {
                see(&place, &meta);
            }
        }
    }
    Ok(found)
}

/// What makes new SSH host keys in a guest that has none, for people; `None` where nothing enabled
/// does.
///
/// # Errors
/// The kernel's.
pub fn maker_of_host_keys(root: &GuestRoot, guest: &Guest) -> Result<Option<String>, GuestError> {
    hostkeys::regenerator(root, guest)
}

/// Whether Dropbear makes new host keys itself; what makes those of OpenSSH does not.
///
/// # Errors
/// The kernel's.
pub fn makes_dropbear_keys(root: &GuestRoot) -> Result<bool, GuestError> {
    hostkeys::dropbear(root)
}

/// The files by which a guest's network is tied to a hardware address.
///
/// # Errors
/// The kernel's, and [`GuestError::TooLarge`].
pub fn with_hardware_address(root: &GuestRoot) -> Result<Vec<TiedFile>, GuestError> {
    network::tied(root)
}

/// A file that ties a network to a hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TiedFile {
    /// Its path in the guest, escaped.
    pub path: String,
    /// Whether the seal leaves it as it is, as it would mean something else without the address.
    pub stays: bool,
}

/// One item at work.
struct Work<'a> {
    root: &'a GuestRoot,
    report: ScrubReport,
}

impl<'a> Work<'a> {
    fn new(root: &'a GuestRoot, item: ScrubItem) -> Self {
        let (removed, emptied, changed) = (Vec::new(), Vec::new(), Vec::new());
        Self { root, report: ScrubReport { item, removed, emptied, changed, kept: None } }
    }

    /// Removes what a line of the table names; links are removed and not followed.
    fn remove(&mut self, paths: table::Paths) -> Result<(), GuestError> {
        for pattern in paths.trees {
            for place in self.found(pattern)? {
                self.remove_tree(&place)?;
            }
        }
        for pattern in paths.files {
            for place in self.found(pattern)? {
                if !paths.except.iter().any(|&except| place.path() == Path::new(except)) {
                    self.remove_file(&place)?;
                }
            }
        }
        Ok(())
    }

    /// What matches a pattern.
    fn found(&self, pattern: &str) -> Result<Vec<Place>, GuestError> {
        let mut found = Vec::new();
        self.root.glob(SCRUB, pattern, &mut |place| {
            found.push(place);
            Ok(())
        })?;
        Ok(found)
    }

    /// A path; `None` where its directory is not there.
    fn place(&self, path: impl AsRef<Path>) -> Result<Option<Place>, GuestError> {
        match self.root.place(SCRUB, path) {
            Ok(place) => Ok(Some(place)),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes anything, a whole tree too.
    fn remove_tree(&mut self, place: &Place) -> Result<(), GuestError> {
        if place.remove(SCRUB)? {
            self.report.removed.push(shown(place.path()));
        }
        Ok(())
    }

    /// Removes anything but a directory.
    fn remove_file(&mut self, place: &Place) -> Result<(), GuestError> {
        let directory = place.meta(SCRUB)?.is_none_or(|meta| meta.kind == FileType::Directory);
        if !directory && place.unlink(SCRUB)? {
            self.report.removed.push(shown(place.path()));
        }
        Ok(())
    }

    /// Empties a regular file in place.
    fn empty(&mut self, place: &Place) -> Result<(), GuestError> {
        let file = place.meta(SCRUB)?;
        if file.is_some_and(|meta| meta.kind == FileType::RegularFile && meta.size > 0) {
            place.truncate(SCRUB)?;
            self.report.emptied.push(shown(place.path()));
        }
        Ok(())
    }

    fn change(
        &mut self,
        path: impl AsRef<Path>,
        before: &[u8],
        after: &[u8],
    ) -> Result<(), GuestError> {
        if before != after {
            let path = path.as_ref();
            self.root.write_atomic(path, after, FileAttributes::default())?;
            let list =
                if after.is_empty() { &mut self.report.emptied } else { &mut self.report.changed };
            list.push(shown(path));
        }
        Ok(())
    }

    /// Changes every regular file that matches some patterns, or that a link which does leads to.
    /// `edit` gives a file's new content.
    fn edit_all(
        &mut self,
        patterns: &[&str],
        mut edit: impl FnMut(&mut Self, &Place, &[u8]) -> Vec<u8>,
    ) -> Result<(), GuestError> {
        for pattern in patterns {
            for place in self.found(pattern)? {
                if !self.root.is_file(place.path()) {
                    continue;
                }
                let before = self.root.read(place.path(), LIMIT)?;
                let after = edit(self, &place, &before);
                self.change(place.path(), &before, &after)?;
            }
        }
        Ok(())
    }

    /// Adds to the reasons why something stays.
    fn keep(&mut self, why: &str) {
        match &mut self.report.kept {
            Some(reasons) => {
                reasons.push_str("; ");
                reasons.push_str(why);
            }
            none => *none = Some(why.to_owned()),
        }
    }
}
