//! What makes a machine this machine: its id, its SSH host keys, and whether it was configured.

use std::path::Path;

use rustix::fs::FileType;

use super::{DROPBEAR_KEYS, HOST_KEYS, LIMIT, SCRUB, Work, hostkeys};
use crate::guest::error::GuestError;
use crate::guest::inspect::{Guest, Init};
use crate::guest::root::FileAttributes;

/// systemd's first version that takes `uninitialized` for a first boot (its NEWS, "CHANGES WITH 247").
const UNINITIALIZED_SINCE: u32 = 247;

impl Work<'_> {
    /// A machine-id of `uninitialized` makes systemd draw one and treat the boot as the first
    /// (machine-id(5)), so presets are applied and `ConditionFirstBoot=` holds; before 247, or where
    /// the version is not known, an empty file does the former.
    pub(super) fn machine_id(&mut self, guest: &Guest) -> Result<(), GuestError> {
        let path = "/etc/machine-id";
        if let Some(before) = self.root.read_if_there(path, LIMIT)? {
            let known = guest.systemd.is_some_and(|version| version >= UNINITIALIZED_SINCE);
            let fresh: &[u8] =
                if known && guest.init == Init::Systemd { b"uninitialized\n" } else { b"" };
            self.change(path, &before, fresh)?;
        }
        // dbus-uuidgen(1): a link keeps the two ids equal; without systemd dbus makes a missing one.
        let dbus = "/var/lib/dbus/machine-id";
        let Some(place) = self.place(dbus)? else { return Ok(()) };
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
    pub(super) fn ssh_host_keys(&mut self, guest: &Guest) -> Result<(), GuestError> {
        let mut keys = Vec::new();
        for pattern in HOST_KEYS {
            keys.extend(self.found(pattern)?);
        }
        if !keys.is_empty() && hostkeys::regenerator(self.root, guest)?.is_none() {
            let helpers = "cloud-init, an sshd-keygen unit";
            self.keep_keys(std::mem::take(&mut keys).len(), "sshd", helpers);
        }
        let dropbear = self.found(DROPBEAR_KEYS)?;
        if !dropbear.is_empty() && !hostkeys::dropbear(self.root)? {
            self.keep_keys(dropbear.len(), "dropbear", "its option `-R`");
        } else {
            keys.extend(dropbear);
        }
        for place in keys {
            self.remove_tree(&place)?;
        }
        Ok(())
    }

    fn keep_keys(&mut self, count: usize, server: &str, helpers: &str) {
        self.keep(&format!(
            "{count} SSH host key files stay, as nothing enabled in the guest makes new ones before \
             {server} starts ({helpers}): every machine made from this image will have the same keys"
        ));
    }

    /// Old Red Hat systems ask for a root password, a network and so on where the file is there.
    pub(super) fn flag_reconfiguration(&mut self) -> Result<(), GuestError> {
        let flag = "/.unconfigured";
        let place = self.root.place(SCRUB, flag)?;
        if place.meta(SCRUB)?.is_none() {
            place.replace(SCRUB, FileAttributes::default(), false, |_| Ok(()))?;
            self.report.emptied.push(flag.to_owned());
        }
        Ok(())
    }
}
