//! The ids of file systems, wherever the guest's files name them.
//!
//! The file systems themselves get their new ids when they are unmounted, not here.

use super::{DiskFacts, LIMIT, Work};
use crate::guest::error::GuestError;

/// Files that may name a file system by its id: those that mount it, those that boot from it, and
/// those that the latter are made from.
const NAMING: &[&str] = &[
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/systemd/system/*.mount",
    "/etc/systemd/system/*.swap",
    "/etc/default/grub",
    "/etc/default/grub.d/*.cfg",
    "/etc/kernel/cmdline",
    "/etc/kernel/cmdline.d/*.conf",
    "/etc/dracut.conf",
    "/etc/dracut.conf.d/*.conf",
    "/etc/initramfs-tools/conf.d/*",
    "/etc/default/extlinux",
    "/etc/update-extlinux.conf",
    "/boot/grub*/grub.cfg",
    "/boot/grub*/grub.conf",
    "/boot/grub*/menu.lst",
    "/boot/grub*/grubenv",
    "/boot/grub*/bootuuid.cfg",
    "/boot/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/boot/efi/EFI/*/grub.cfg",
    "/boot/efi/EFI/*/grubenv",
    "/boot/efi/EFI/*/bootuuid.cfg",
    "/boot/extlinux/*.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/*.cfg",
    "/efi/loader/entries/*.conf",
    "/efi/EFI/*/grub.cfg",
];

/// What `grub-install` writes where grub's own image looks for its files by the id.
const EMBEDDED: &str = "/boot/grub*/*/load.cfg";

impl Work<'_> {
    pub(super) fn file_system_ids(&mut self, disk: &DiskFacts) -> Result<(), GuestError> {
        for why in &disk.kept_ids {
            self.keep(why);
        }
        self.edit_all(NAMING, |_, _, before| replaced(before, &disk.new_ids))?;
        let mut embedded = false;
        for place in self.found(EMBEDDED)? {
            if self.root.is_file(place.path()) {
                let text = self.root.read(place.path(), LIMIT)?;
                embedded |= replaced(&text, &disk.new_ids) != text;
            }
        }
        if embedded {
            self.keep(
                "grub was installed with an old id in its own image, where it cannot be changed: \
                 if the machine does not start, run `grub-install` on it",
            );
        }
        Ok(())
    }

    /// Volumes are not opened, so what belongs to LVM cannot be changed either.
    pub(super) fn lvm_ids(&mut self, disk: &DiskFacts) -> Result<(), GuestError> {
        if disk.has_lvm {
            return Err(GuestError::LvmIds);
        }
        self.keep("the disk holds no LVM");
        Ok(())
    }
}

/// A text with every old id replaced by the new one. All keep their length, as grubenv's size is
/// fixed.
fn replaced(text: &[u8], ids: &[(String, String)]) -> Vec<u8> {
    let mut text = text.to_vec();
    for (old, new) in ids {
        debug_assert_eq!(old.len(), new.len());
        let mut at = 0;
        while at + old.len() <= text.len() {
            let end = at + old.len();
            if text[at..end].eq_ignore_ascii_case(old.as_bytes()) {
                text[at..end].copy_from_slice(new.as_bytes());
                at = end;
            } else {
                at += 1;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_replaced_wherever_they_stand() {
        let ids = [("ab-1".to_owned(), "cd-2".to_owned()), ("ef-3".to_owned(), "gh-4".to_owned())];
        let text = b"UUID=AB-1 / ext4\nsearch --fs-uuid ab-1\nresume=\"UUID=ef-3\"\nxab-\xff";
        let after = replaced(text, &ids);
        let wanted = b"UUID=cd-2 / ext4\nsearch --fs-uuid cd-2\nresume=\"UUID=gh-4\"\nxab-\xff";
        assert_eq!(after.escape_ascii().to_string(), wanted.escape_ascii().to_string());
        assert_eq!(replaced(&after, &ids), after);
        assert_eq!(replaced(b"ab", &ids), b"ab");
    }
}
