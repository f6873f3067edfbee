//! What the seal scrubs. How each item is scrubbed is `guest::scrub`'s.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What the seal removes because no two machines may share it, or nobody needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// The items to scrub: the default set, with what `scrub { also "…" }` names and without what
    /// `scrub { keep "…" }` names.
    pub items: BTreeSet<ScrubItem>,
    /// The accounts that [`ScrubItem::UserAccount`] leaves.
    pub keep_users: BTreeSet<String>,
}

impl Default for Scrub {
    fn default() -> Self {
        let items = ScrubItem::ALL.into_iter().filter(|item| item.is_default());
        Self { items: items.collect(), keep_users: BTreeSet::new() }
    }
}

impl Scrub {
    /// What an image has to scrub that stands on another: all that either has to. An account is
    /// kept where each that removes accounts keeps it.
    #[must_use]
    pub fn with_inherited(&self, below: &Self) -> Self {
        let accounts = ScrubItem::UserAccount;
        let keep_users = match (self.items.contains(&accounts), below.items.contains(&accounts)) {
            (true, true) => self.keep_users.intersection(&below.keep_users).cloned().collect(),
            (false, true) => below.keep_users.clone(),
            (_, false) => self.keep_users.clone(),
        };
        Self { items: self.items.union(&below.items).copied().collect(), keep_users }
    }
}

/// One thing that the seal scrubs. The names are virt-sysprep's; `build-leftovers` and `random-seed`
/// are kiln's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubItem {
    /// Crash reports that ABRT collected.
    AbrtData,
    /// Backup files of editors: `*.bak` and `*~` below `/etc`, `/root`, `/srv`, `/tmp` and `/var`.
    BackupFiles,
    /// What shells remember of root's and users' commands.
    BashHistory,
    /// Caches of `blkid`.
    BlkidTab,
    /// What builders leave behind, such as `/builder.log`.
    BuildLeftovers,
    /// Certificates and keys of authorities below `/etc/pki`, but for the bundles.
    CaCertificates,
    /// Kernel crash dumps.
    CrashData,
    /// Users' `cron` and `at` jobs.
    CronSpool,
    /// Leases of DHCP clients.
    DhcpClientState,
    /// Leases of DHCP servers.
    DhcpServerState,
    /// Data of the Dovecot mail server.
    DovecotData,
    /// Rules and zones that were added to the firewall.
    FirewallRules,
    /// Makes `/.unconfigured`, so that old Red Hat systems ask at their first boot.
    FlagReconfiguration,
    /// New ids for the file systems, in everything that names them too.
    FsUuids,
    /// The enrolment in a `FreeIPA` domain.
    IpaClient,
    /// The database of a Kerberos server.
    KerberosData,
    /// The host's Kerberos keys.
    KerberosHostkeytab,
    /// Log files become empty; rotated ones and journals go.
    Logfiles,
    /// LVM's list of this machine's devices.
    LvmSystemDevices,
    /// New ids for LVM volumes.
    LvmUuids,
    /// `/etc/machine-id` becomes `uninitialized`, or empty with an old systemd; D-Bus's copy a link to it.
    MachineId,
    /// Mail that was delivered locally.
    MailSpool,
    /// `HOSTNAME=` and `DHCP_HOSTNAME=` lines in `ifcfg-*` files.
    NetHostname,
    /// Hardware addresses in the configuration of network interfaces.
    NetHwaddr,
    /// `NetworkManager`'s connections in `*.nmconnection` files.
    NetNmconn,
    /// Caches and downloaded lists of package managers.
    PackageManagerCache,
    /// Process accounting.
    PacctLog,
    /// Counters and consoles that PAM remembers.
    PamData,
    /// Backups of the user databases: `/etc/passwd-`, `/etc/shadow-` and their like.
    PasswdBackups,
    /// Puppet's data and logs.
    PuppetDataLog,
    /// Random seeds.
    RandomSeed,
    /// A subscription's certificates and its repositories.
    RhSubscriptionManager,
    /// The id of a system in RHN.
    RhnSystemid,
    /// Temporary files of RPM's database.
    RpmDb,
    /// Samba's databases and logs.
    SambaDbLog,
    /// The id of the hardware profile.
    SmoltUuid,
    /// SSH host keys, where something in the guest makes new ones.
    SshHostkeys,
    /// The `.ssh` directories of root and the users.
    SshUserdir,
    /// SSSD's databases and logs.
    SssdDbLog,
    /// What is in `/tmp` and `/var/tmp`.
    TmpFiles,
    /// Persistent network rules become empty; they are not deleted.
    UdevPersistentNet,
    /// The accounts of people, but those that are kept.
    UserAccount,
    /// Who was logged in: utmp, wtmp and btmp.
    Utmp,
    /// yum's id.
    YumUuid,
}

impl ScrubItem {
    /// All items.
    pub const ALL: [Self; 44] = [
        Self::AbrtData,
        Self::BackupFiles,
        Self::BashHistory,
        Self::BlkidTab,
        Self::BuildLeftovers,
        Self::CaCertificates,
        Self::CrashData,
        Self::CronSpool,
        Self::DhcpClientState,
        Self::DhcpServerState,
        Self::DovecotData,
        Self::FirewallRules,
        Self::FlagReconfiguration,
        Self::FsUuids,
        Self::IpaClient,
        Self::KerberosData,
        Self::KerberosHostkeytab,
        Self::Logfiles,
        Self::LvmSystemDevices,
        Self::LvmUuids,
        Self::MachineId,
        Self::MailSpool,
        Self::NetHostname,
        Self::NetHwaddr,
        Self::NetNmconn,
        Self::PackageManagerCache,
        Self::PacctLog,
        Self::PamData,
        Self::PasswdBackups,
        Self::PuppetDataLog,
        Self::RandomSeed,
        Self::RhSubscriptionManager,
        Self::RhnSystemid,
        Self::RpmDb,
        Self::SambaDbLog,
        Self::SmoltUuid,
        Self::SshHostkeys,
        Self::SshUserdir,
        Self::SssdDbLog,
        Self::TmpFiles,
        Self::UdevPersistentNet,
        Self::UserAccount,
        Self::Utmp,
        Self::YumUuid,
    ];

    /// Whether the item is scrubbed unless a recipe says otherwise.
    #[must_use]
    pub const fn is_default(self) -> bool {
        !matches!(
            self,
            Self::CaCertificates
                | Self::FirewallRules
                | Self::FlagReconfiguration
                | Self::FsUuids
                | Self::KerberosData
                | Self::LvmUuids
                | Self::NetNmconn
                | Self::SshUserdir
                | Self::UserAccount
        )
    }

    /// The item's name in a recipe.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::AbrtData => "abrt-data",
            Self::BackupFiles => "backup-files",
            Self::BashHistory => "bash-history",
            Self::BlkidTab => "blkid-tab",
            Self::BuildLeftovers => "build-leftovers",
            Self::CaCertificates => "ca-certificates",
            Self::CrashData => "crash-data",
            Self::CronSpool => "cron-spool",
            Self::DhcpClientState => "dhcp-client-state",
            Self::DhcpServerState => "dhcp-server-state",
            Self::DovecotData => "dovecot-data",
            Self::FirewallRules => "firewall-rules",
            Self::FlagReconfiguration => "flag-reconfiguration",
            Self::FsUuids => "fs-uuids",
            Self::IpaClient => "ipa-client",
            Self::KerberosData => "kerberos-data",
            Self::KerberosHostkeytab => "kerberos-hostkeytab",
            Self::Logfiles => "logfiles",
            Self::LvmSystemDevices => "lvm-system-devices",
            Self::LvmUuids => "lvm-uuids",
            Self::MachineId => "machine-id",
            Self::MailSpool => "mail-spool",
            Self::NetHostname => "net-hostname",
            Self::NetHwaddr => "net-hwaddr",
            Self::NetNmconn => "net-nmconn",
            Self::PackageManagerCache => "package-manager-cache",
            Self::PacctLog => "pacct-log",
            Self::PamData => "pam-data",
            Self::PasswdBackups => "passwd-backups",
            Self::PuppetDataLog => "puppet-data-log",
            Self::RandomSeed => "random-seed",
            Self::RhSubscriptionManager => "rh-subscription-manager",
            Self::RhnSystemid => "rhn-systemid",
            Self::RpmDb => "rpm-db",
            Self::SambaDbLog => "samba-db-log",
            Self::SmoltUuid => "smolt-uuid",
            Self::SshHostkeys => "ssh-hostkeys",
            Self::SshUserdir => "ssh-userdir",
            Self::SssdDbLog => "sssd-db-log",
            Self::TmpFiles => "tmp-files",
            Self::UdevPersistentNet => "udev-persistent-net",
            Self::UserAccount => "user-account",
            Self::Utmp => "utmp",
            Self::YumUuid => "yum-uuid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub(items: &[ScrubItem], keep_users: &[&str]) -> Scrub {
        let keep_users = keep_users.iter().map(|&user| user.to_owned()).collect();
        Scrub { items: items.iter().copied().collect(), keep_users }
    }

    #[test]
    fn an_image_owes_what_it_stands_on_owes() {
        use ScrubItem::{Logfiles, MachineId, UserAccount};
        let base = scrub(&[MachineId], &[]);
        let kept_above = scrub(&[Logfiles], &[]);
        assert_eq!(kept_above.with_inherited(&base), scrub(&[Logfiles, MachineId], &[]));
        // Nothing below takes an item away.
        assert_eq!(base.with_inherited(&scrub(&[], &[])), base);

        let accounts = |users: &[&str]| scrub(&[UserAccount], users);
        let both = accounts(&["a", "b"]).with_inherited(&accounts(&["b", "c"]));
        assert_eq!(both, accounts(&["b"]));
        // Who removes no accounts has no say in who stays.
        assert_eq!(scrub(&[], &["a"]).with_inherited(&accounts(&["b"])), accounts(&["b"]));
        assert_eq!(accounts(&["a"]).with_inherited(&scrub(&[], &["b"])), accounts(&["a"]));
    }

    #[test]
    fn items_are_each_listed_once_and_recorded_under_their_names() {
        assert!(ScrubItem::ALL.is_sorted_by(|a, b| a < b));
        for item in ScrubItem::ALL {
            let json = serde_json::to_string(&item).unwrap();
            assert_eq!(json, format!("\"{}\"", item.keyword()));
        }
    }
}
