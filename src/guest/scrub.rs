//! The seal's first act on a guest: removing what no two machines may share, and what nobody needs.
//!
//! It does not know which items a recipe asks for, nor what comes after (unregister, relabel).

mod hostkeys;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::error::{GuestError, shown};
use super::inspect::{Guest, Init};
use super::root::{FileAttributes, GuestRoot, Place};
use crate::recipe::{Scrub, ScrubItem};

const SCRUB: &str = "scrub";
/// Largest configuration file that is edited, in bytes.
const LIMIT: u64 = 1 << 20;
/// systemd's first version that takes `uninitialized` for a first boot (its NEWS, "CHANGES WITH 247").
const UNINITIALIZED_SINCE: u32 = 247;

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

/// Scrubs a guest; doing it again changes nothing. Items come in the order of their type.
///
/// # Errors
/// What the operation says; the tree may then be scrubbed in part.
pub fn scrub(
    root: &GuestRoot,
    guest: &Guest,
    wanted: &Scrub,
) -> Result<Vec<ScrubReport>, GuestError> {
    let mut reports = Vec::new();
    for &item in &wanted.items {
        let mut work = Work {
            root,
            report: ScrubReport {
                item,
                removed: Vec::new(),
                emptied: Vec::new(),
                changed: Vec::new(),
                kept: None,
            },
        };
        match item {
            ScrubItem::MachineId => work.machine_id(guest)?,
            ScrubItem::SshHostkeys => work.ssh_host_keys(guest)?,
            ScrubItem::UdevPersistentNet => work.persistent_net()?,
            ScrubItem::NetHwaddr => work.hardware_addresses()?,
            ScrubItem::DhcpClientState => work.remove_all(LEASES)?,
            ScrubItem::PackageManagerCache => work.package_caches()?,
            ScrubItem::Logfiles => work.logs()?,
            ScrubItem::RandomSeed => work.remove_all(SEEDS)?,
            ScrubItem::BuildLeftovers => work.remove_all(LEFTOVERS)?,
            _ => todo!("the other items"),
        }
        reports.push(work.report);
    }
    Ok(reports)
}

/// Where DHCP clients and servers keep leases: ISC, dhcpcd, `NetworkManager`, networkd, wicked, udhcpc.
const LEASES: &[&str] = &[
    "/var/lib/dhcp/*",
    "/var/lib/dhclient/*",
    "/var/lib/dhcpd/*",
    "/var/lib/dhcpcd/*.lease*",
    "/var/lib/dhcpcd5/*.lease*",
    "/var/lib/NetworkManager/*.lease",
    "/var/lib/NetworkManager/*.leases",
    "/var/lib/NetworkManager/timestamps",
    "/var/lib/systemd/network/*",
    "/var/lib/wicked/lease-*",
    "/var/lib/udhcpc/*",
];

/// Seeds and keys that a machine draws for itself at its first boot.
const SEEDS: &[&str] = &[
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/misc/random-seed",
    "/var/lib/seedrng/*",
    "/etc/random-seed",
    "/var/lib/NetworkManager/secret_key",
    "/boot/loader/random-seed",
    "/boot/efi/loader/random-seed",
    "/efi/loader/random-seed",
];

/// Temporary files, logs of builders, what a shell remembers, and backups that hold old passwords.
const LEFTOVERS: &[&str] = &[
    "/tmp/*",
    "/tmp/.*",
    "/var/tmp/*",
    "/var/tmp/.*",
    "/builder.log",
    "/root/.bash_history",
    "/root/.ash_history",
    "/root/.zsh_history",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
];

/// Caches of the six package managers, apart from apt's directories.
const CACHES: &[&str] = &[
    "/var/cache/dnf/*",
    "/var/cache/libdnf5/*",
    "/var/cache/yum/*",
    "/var/cache/zypp/*",
    "/var/cache/apk/*",
    "/var/cache/pacman/pkg/*",
    "/var/lib/pacman/sync/*",
];

struct Work<'a> {
    root: &'a GuestRoot,
    report: ScrubReport,
}

impl Work<'_> {
    /// Removes every match, trees too; links are removed and not followed.
    fn remove_all(&mut self, patterns: &[&str]) -> Result<(), GuestError> {
        let removed = &mut self.report.removed;
        for pattern in patterns {
            self.root.glob(SCRUB, pattern, &mut |place| {
                if place.remove(SCRUB)? {
                    removed.push(shown(place.path()));
                }
                Ok(())
            })?;
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

    /// A machine-id of `uninitialized` makes systemd draw one and treat the boot as the first
    /// (machine-id(5)); before 247, or where the version is not known, an empty file does the former.
    fn machine_id(&mut self, guest: &Guest) -> Result<(), GuestError> {
        let path = "/etc/machine-id";
        if let Some(before) = self.root.read_if_there(path, LIMIT)? {
            let known = guest.systemd.is_some_and(|version| version >= UNINITIALIZED_SINCE);
            let fresh: &[u8] =
                if known && guest.init == Init::Systemd { b"uninitialized\n" } else { b"" };
            self.change(path, &before, fresh)?;
        }
        // dbus-uuidgen(1): a link keeps the two ids equal; without systemd dbus makes a missing one.
        let dbus = "/var/lib/dbus/machine-id";
        if !self.root.is_directory("/var/lib/dbus") {
            return Ok(());
        }
        let place = self.root.place(SCRUB, dbus)?;
        match place.meta(SCRUB)? {
            Some(meta) if meta.kind == FileType::RegularFile => {}
            _ => return Ok(()),
        }
        if guest.init == Init::Systemd {
            place.symlink(SCRUB, Path::new("/etc/machine-id"))?;
            self.report.changed.push(dbus.to_owned());
        } else {
            place.unlink(SCRUB)?;
            self.report.removed.push(dbus.to_owned());
        }
        Ok(())
    }

    /// Keys go only where something that is enabled makes new ones: without keys sshd does not start.
    fn ssh_host_keys(&mut self, guest: &Guest) -> Result<(), GuestError> {
        let mut keys = Vec::new();
        for pattern in
            ["/etc/ssh/ssh_host_*key", "/etc/ssh/ssh_host_*key.pub", "/etc/ssh/ssh_host_*-cert.pub"]
        {
            self.root.glob(SCRUB, pattern, &mut |place| {
                keys.push(place);
                Ok(())
            })?;
        }
        if keys.is_empty() {
            return Ok(());
        }
        if hostkeys::regenerator(self.root, guest)?.is_none() {
            self.report.kept = Some(format!(
                "{} SSH host key files stay, as nothing enabled in the guest makes new ones \
                 (cloud-init, an sshd-keygen unit, a first-boot `ssh-keygen -A`): every machine made \
                 from this image will have the same keys",
                keys.len()
            ));
            return Ok(());
        }
        for place in keys {
            if place.remove(SCRUB)? {
                self.report.removed.push(shown(place.path()));
            }
        }
        Ok(())
    }

    /// An empty rules file keeps old generators of udev from writing another one.
    fn persistent_net(&mut self) -> Result<(), GuestError> {
        let rules = "/etc/udev/rules.d/70-persistent-net.rules";
        if self.root.is_directory("/etc/udev/rules.d") {
            let place = self.root.place(SCRUB, rules)?;
            if place.meta(SCRUB)?.is_none() {
                place.replace(SCRUB, FileAttributes::default(), false, |_| Ok(()))?;
                self.report.emptied.push(rules.to_owned());
            }
        }
        let generator = "75-persistent-net-generator.rules";
        for path in [
            rules.to_owned(),
            format!("/etc/udev/rules.d/{generator}"),
            format!("/lib/udev/rules.d/{generator}"),
            format!("/usr/lib/udev/rules.d/{generator}"),
        ] {
            // A link to /dev/null does what an empty file does.
            if self.root.lstat(&path)?.is_some_and(|meta| meta.kind == FileType::RegularFile) {
                let place = self.root.place(SCRUB, &path)?;
                self.empty(&place)?;
            }
        }
        Ok(())
    }

    fn hardware_addresses(&mut self) -> Result<(), GuestError> {
        let mut files = Vec::new();
        for pattern in ["/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*"]
        {
            self.root.glob(SCRUB, pattern, &mut |place| {
                files.push(place);
                Ok(())
            })?;
        }
        for place in files {
            if place.meta(SCRUB)?.is_none_or(|meta| meta.kind != FileType::RegularFile) {
                continue;
            }
            let before = self.root.read(place.path(), LIMIT)?;
            let lines = before.split_inclusive(|&byte| byte == b'\n');
            let after: Vec<u8> = lines
                .filter(|line| !line.trim_ascii_start().starts_with(b"HWADDR="))
                .flatten()
                .copied()
                .collect();
            self.change(place.path(), &before, &after)?;
        }
        Ok(())
    }

    fn package_caches(&mut self) -> Result<(), GuestError> {
        self.remove_all(CACHES)?;
        // apt's directories belong to apt's own user, so they stay and lose their files.
        for top in ["/var/cache/apt", "/var/lib/apt/lists"] {
            self.remove_files(top)?;
        }
        Ok(())
    }

    /// Removes everything below a directory but directories.
    fn remove_files(&mut self, top: &str) -> Result<(), GuestError> {
        let removed = &mut self.report.removed;
        for entry in self.root.entries_if_there(top)? {
            entry.walk(SCRUB, &mut |place, meta| {
                if meta.kind != FileType::Directory && place.unlink(SCRUB)? {
                    removed.push(shown(place.path()));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Directories stay, as daemons expect theirs with owner and mode; `/var/log/journal` too, as
    /// journald keeps a journal on disk only where it exists.
    fn logs(&mut self) -> Result<(), GuestError> {
        self.remove_all(&["/var/log/journal/*"])?;
        let mut files = Vec::new();
        for entry in self.root.entries_if_there("/var/log")? {
            entry.walk(SCRUB, &mut |place, meta| {
                if meta.kind == FileType::RegularFile {
                    files.push(place.path().to_owned());
                }
                Ok(())
            })?;
        }
        for path in files {
            let place = self.root.place(SCRUB, &path)?;
            if is_rotated(place.name().as_bytes()) {
                if place.unlink(SCRUB)? {
                    self.report.removed.push(shown(&path));
                }
            } else {
                self.empty(&place)?;
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
