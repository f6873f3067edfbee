//! The operations of virt-sysprep, and the `scrub` block that means the same.
//!
//! Source: `virt-sysprep --list-operations` of guestfs-tools 1.48 to 1.56.

use std::collections::BTreeSet;

use super::draft::Node;
use super::virt::Word;
use crate::recipe::ScrubItem;
use crate::source::Span;

/// Every operation, and whether virt-sysprep does it unless told otherwise.
pub(super) const OPERATIONS: &[(&str, bool)] = &[
    ("abrt-data", true),
    ("backup-files", true),
    ("bash-history", true),
    ("blkid-tab", true),
    ("ca-certificates", false),
    ("crash-data", true),
    ("cron-spool", true),
    ("customize", true),
    ("dhcp-client-state", true),
    ("dhcp-server-state", true),
    ("dovecot-data", true),
    ("firewall-rules", false),
    ("flag-reconfiguration", false),
    ("fs-uuids", false),
    ("ipa-client", true),
    ("kerberos-data", false),
    ("kerberos-hostkeytab", true),
    ("logfiles", true),
    ("lvm-system-devices", true),
    ("lvm-uuids", true),
    ("machine-id", true),
    ("mail-spool", true),
    ("net-hostname", true),
    ("net-hwaddr", true),
    ("net-nmconn", true),
    ("pacct-log", true),
    ("package-manager-cache", true),
    ("pam-data", true),
    ("passwd-backups", true),
    ("puppet-data-log", true),
    ("rh-subscription-manager", true),
    ("rhn-systemid", true),
    ("rpm-db", true),
    ("samba-db-log", true),
    ("script", true),
    ("smolt-uuid", true),
    ("ssh-hostkeys", true),
    ("ssh-userdir", true),
    ("sssd-db-log", true),
    ("tmp-files", true),
    ("udev-persistent-net", true),
    ("user-account", false),
    ("utmp", true),
    ("yum-uuid", true),
    ("zsh-history", true),
];

/// The operations that a command line selects.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    names: BTreeSet<&'static str>,
    /// Names that no version knows.
    pub(super) unknown: Vec<Word>,
}

impl Selected {
    /// What virt-sysprep does without options.
    pub(super) fn defaults() -> Self {
        let names = OPERATIONS.iter().filter(|(_, default)| *default).map(|(name, _)| *name);
        Self { names: names.collect(), unknown: Vec::new() }
    }

    /// Whether an operation is done.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// `--enable A,B`: these and no others.
    pub(super) fn enable(&mut self, value: &Word) {
        self.names.clear();
        for name in value.text.split(',') {
            self.switch(name, true, value);
        }
    }

    /// `--operations LIST`: names, `-name`, `defaults`, `-defaults`, `all`, `-all`, from the left.
    pub(super) fn operations(&mut self, value: &Word) {
        self.names.clear();
        for entry in value.text.split(',') {
            let (name, on) = match entry.strip_prefix('-') {
                Some(name) => (name, false),
                None => (entry, true),
            };
            let several: Vec<&'static str> = match name {
                "all" => OPERATIONS.iter().map(|(name, _)| *name).collect(),
                "defaults" => Self::defaults().names.into_iter().collect(),
                _ => {
                    self.switch(name, on, value);
                    continue;
                }
            };
            for name in several {
                if on {
                    self.names.insert(name);
                } else {
                    self.names.remove(name);
                }
            }
        }
    }

    fn switch(&mut self, name: &str, on: bool, value: &Word) {
        let known = OPERATIONS.iter().find(|(known, _)| *known == name);
        match known {
            Some((name, _)) if on => {
                self.names.insert(name);
            }
            Some((name, _)) => {
                self.names.remove(name);
            }
            None => self.unknown.push(Word { text: name.to_owned(), ..value.clone() }),
        }
    }

    /// The `scrub` block that makes kiln's seal remove what these operations remove; `None` where
    /// that is its default set.
    pub(super) fn scrub(
        &self,
        without: &[&str],
        keep_users: &[String],
        span: Span,
    ) -> Option<Node> {
        // What virt-sysprep has no operation for stays as kiln has it.
        let theirs =
            |item: &ScrubItem| OPERATIONS.iter().any(|(known, _)| *known == item.keyword());
        let wanted =
            |item: &ScrubItem| self.has(item.keyword()) && !without.contains(&item.keyword());
        let items = || ScrubItem::ALL.into_iter().filter(theirs);
        let keep: Vec<_> = items()
            .filter(|item| item.is_default() && !wanted(item))
            .map(ScrubItem::keyword)
            .collect();
        let also: Vec<_> = items()
            .filter(|item| !item.is_default() && wanted(item))
            .map(ScrubItem::keyword)
            .collect();
        let mut scrub = Node::new("scrub", Vec::<String>::new(), span);
        for (word, items) in [("keep", keep), ("also", also)] {
            if !items.is_empty() {
                scrub.children.push(Node::new(word, items, span));
            }
        }
        if self.has("user-account") && !keep_users.is_empty() {
            scrub.children.push(Node::new("keep-user", keep_users, span));
        }
        (!scrub.children.is_empty()).then_some(scrub)
    }
}

/// The accounts of a list with commas.
pub(super) fn accounts(value: &Word) -> impl Iterator<Item = String> {
    value.text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Whether a text is a name that a command line takes as it is.
pub(super) fn is_account(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    name.len() <= 32 && !name.starts_with('-') && name.chars().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        let span = Span { file: crate::source::FileId(0), offset: 0, len: 0 };
        Word { text: text.to_owned(), span, known: true }
    }

    #[test]
    fn every_operation_is_an_item_or_known_to_be_none() {
        for (name, _) in OPERATIONS {
            let item = ScrubItem::ALL.into_iter().any(|item| item.keyword() == *name);
            assert!(item || ["customize", "script", "zsh-history"].contains(name), "{name}");
        }
        for item in ScrubItem::ALL {
            let known = OPERATIONS.iter().any(|(name, _)| *name == item.keyword());
            let own = matches!(item, ScrubItem::BuildLeftovers | ScrubItem::RandomSeed);
            assert!(known != own, "{}", item.keyword());
        }
    }

    #[test]
    fn a_selection_is_read_from_the_left() {
        let mut selected = Selected::defaults();
        selected.operations(&word("defaults,-logfiles,user-account"));
        assert!(selected.has("machine-id") && selected.has("user-account"));
        assert!(!selected.has("logfiles"));
        selected.operations(&word("all,-defaults"));
        assert!(selected.has("fs-uuids") && !selected.has("machine-id"));
        selected.enable(&word("machine-id,none-such"));
        assert!(selected.has("machine-id") && !selected.has("customize"));
        assert_eq!(selected.unknown[0].text, "none-such");
    }
}
