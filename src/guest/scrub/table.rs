//! The items that only remove paths, and the paths that other items remove beside their own work.
//!
//! What a pattern matches, and how it is removed, is not known here. The lists hold those of
//! virt-sysprep 1.56 whole, and the places where newer or other systems keep the same things.

use crate::recipe::ScrubItem;

/// Patterns of paths in a guest, as [`crate::guest::GuestRoot::glob`] takes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paths {
    /// What goes whole, directories with all that is in them.
    pub(super) trees: &'static [&'static str],
    /// What goes unless it is a directory.
    pub(super) files: &'static [&'static str],
    /// Paths that `files` matches and that stay.
    pub(super) except: &'static [&'static str],
}

const fn trees(trees: &'static [&'static str]) -> Paths {
    Paths { trees, files: &[], except: &[] }
}

const fn files(files: &'static [&'static str]) -> Paths {
    Paths { trees: &[], files, except: &[] }
}

const fn files_except(files: &'static [&'static str], except: &'static [&'static str]) -> Paths {
    Paths { trees: &[], files, except }
}

/// What an item removes; `None` where it does other things only.
pub(super) const fn paths(item: ScrubItem) -> Option<Paths> {
    Some(match item {
        ScrubItem::AbrtData => trees(&["/var/spool/abrt/*"]),
        ScrubItem::BlkidTab => files(&[
            "/run/blkid/blkid.tab*",
            "/var/run/blkid.tab",
            "/var/run/blkid.tab.old",
            "/etc/blkid/blkid.tab",
            "/etc/blkid/blkid.tab.old",
            "/etc/blkid.tab",
            "/etc/blkid.tab.old",
            "/dev/.blkid.tab",
            "/dev/.blkid.tab.old",
        ]),
        ScrubItem::BuildLeftovers => {
            trees(&["/builder.log", "/tmp/builder.log", "/var/log/builder.log", "/debootstrap"])
        }
        ScrubItem::CaCertificates => files_except(
            &[
                "/etc/pki/CA/certs/*.crt",
                "/etc/pki/CA/crl/*.crt",
                "/etc/pki/CA/newcerts/*.crt",
                "/etc/pki/CA/private/*.key",
                "/etc/pki/tls/private/*.key",
                "/etc/pki/tls/certs/*.crt",
            ],
            &["/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/tls/certs/ca-bundle.trust.crt"],
        ),
        ScrubItem::CrashData => {
            trees(&["/var/crash/*", "/var/log/dump/*", "/var/lib/systemd/coredump/*"])
        }
        ScrubItem::CronSpool => files(&["/var/spool/atjobs/*", "/var/spool/atspool/*"]),
        // ISC's, dhcpcd's, NetworkManager's, networkd's, wicked's, udhcpc's.
        ScrubItem::DhcpClientState => trees(&[
            "/var/lib/dhcp/*",
            "/var/lib/dhclient/*",
            "/var/lib/dhcpcd/*.lease*",
            "/var/lib/dhcpcd5/*.lease*",
            "/var/lib/NetworkManager/*.lease",
            "/var/lib/NetworkManager/*.leases",
            "/var/lib/NetworkManager/timestamps",
            "/var/lib/systemd/network/*",
            "/var/lib/wicked/lease-*",
            "/var/lib/udhcpc/*",
        ]),
        // ISC's, Kea's, dnsmasq's.
        ScrubItem::DhcpServerState => trees(&[
            "/var/lib/dhcpd/*",
            "/var/lib/dhcp/dhcpd*.leases*",
            "/var/lib/kea/*.csv*",
            "/var/lib/misc/dnsmasq.leases",
            "/var/lib/dnsmasq/*.leases",
        ]),
        ScrubItem::DovecotData => files(&["/var/lib/dovecot/*"]),
        ScrubItem::FirewallRules => files(&[
            "/etc/sysconfig/iptables",
            "/etc/sysconfig/ip6tables",
            "/etc/firewalld/services/*",
            "/etc/firewalld/zones/*",
        ]),
        ScrubItem::IpaClient => files(&[
            "/etc/ipa/ca.crt",
            "/etc/ipa/default.conf",
            "/var/lib/ipa-client/sysrestore/*",
            "/var/lib/ipa-client/pki/*",
        ]),
        ScrubItem::KerberosData => files_except(
            &["/var/kerberos/krb5kdc/*"],
            &["/var/kerberos/krb5kdc/kadm5.acl", "/var/kerberos/krb5kdc/kdc.conf"],
        ),
        ScrubItem::KerberosHostkeytab => files(&["/etc/krb5.keytab"]),
        ScrubItem::Logfiles => trees(LOGS_ELSEWHERE),
        ScrubItem::LvmSystemDevices => {
            files(&["/etc/lvm/devices/system.devices", "/etc/lvm/devices/backup/*"])
        }
        ScrubItem::MailSpool => trees(&["/var/spool/mail/*", "/var/mail/*"]),
        ScrubItem::NetNmconn => files(&["/etc/NetworkManager/system-connections/*.nmconnection"]),
        ScrubItem::PackageManagerCache => trees(&[
            "/var/cache/dnf/*",
            "/var/cache/libdnf5/*",
            "/var/cache/yum/*",
            "/var/cache/zypp*/*",
            "/var/cache/apk/*",
            "/var/cache/pacman/pkg/*",
            "/var/lib/pacman/sync/*",
        ]),
        ScrubItem::PamData => {
            files(&["/var/run/console/*", "/var/run/faillock/*", "/var/run/sepermit/*"])
        }
        ScrubItem::PasswdBackups => files(&[
            "/etc/passwd-",
            "/etc/shadow-",
            "/etc/group-",
            "/etc/gshadow-",
            "/etc/subuid-",
            "/etc/subgid-",
        ]),
        ScrubItem::PuppetDataLog => {
            files(&["/var/log/puppet/*", "/var/lib/puppet/*/*", "/var/lib/puppet/*/*/*"])
        }
        // Seeds and keys that a machine draws for itself at its first boot.
        ScrubItem::RandomSeed => trees(&[
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
        ]),
        ScrubItem::RhSubscriptionManager => trees(&[
            "/etc/pki/consumer/*",
            "/etc/pki/entitlement/*",
            "/var/lib/rhsm/facts/*",
            "/var/lib/rhsm/cache/*",
        ]),
        ScrubItem::RhnSystemid => {
            files(&["/etc/sysconfig/rhn/systemid", "/etc/sysconfig/rhn/osad-auth.conf"])
        }
        ScrubItem::RpmDb => files(&["/var/lib/rpm/__db.*", "/usr/lib/sysimage/rpm/__db.*"]),
        ScrubItem::SambaDbLog => files(&[
            "/var/log/samba/old/*",
            "/var/log/samba/*",
            "/var/lib/samba/*/*",
            "/var/lib/samba/*",
        ]),
        ScrubItem::SmoltUuid => {
            files(&["/etc/sysconfig/hw-uuid", "/etc/smolt/uuid", "/etc/smolt/hw-uuid"])
        }
        ScrubItem::SssdDbLog => files(&["/var/log/sssd/*", "/var/lib/sss/db/*"]),
        ScrubItem::TmpFiles => trees(&["/tmp/*", "/tmp/.*", "/var/tmp/*", "/var/tmp/.*"]),
        ScrubItem::Utmp => {
            files(&["/var/run/utmp", "/run/utmp", "/var/lib/wtmpdb/*", "/var/lib/lastlog/*"])
        }
        ScrubItem::YumUuid => files(&["/var/lib/yum/uuid"]),
        ScrubItem::BackupFiles
        | ScrubItem::BashHistory
        | ScrubItem::FlagReconfiguration
        | ScrubItem::FsUuids
        | ScrubItem::LvmUuids
        | ScrubItem::MachineId
        | ScrubItem::NetHostname
        | ScrubItem::NetHwaddr
        | ScrubItem::PacctLog
        | ScrubItem::SshHostkeys
        | ScrubItem::SshUserdir
        | ScrubItem::UdevPersistentNet
        | ScrubItem::UserAccount => return None,
    })
}

/// Logs outside of `/var/log`, what installers leave, and caches that hold traces of use.
const LOGS_ELSEWHERE: &[&str] = &[
    "/var/log/journal/*",
    "/var/named/data/named.run",
    "/var/lib/logrotate.status",
    "/var/lib/logrotate/logrotate.status",
    "/var/lib/logrotate/status",
    "/root/install.log",
    "/root/install.log.syslog",
    "/root/anaconda-ks.cfg",
    "/root/anaconda-post.log",
    "/root/initial-setup-ks.cfg",
    "/root/original-ks.cfg",
    "/var/cache/gdm/*",
    // Without the `s` it is in virt-sysprep's list; accountsservice has it with one.
    "/var/lib/AccountService/users/*",
    "/var/lib/AccountsService/users/*",
    "/var/lib/fprint/*",
    "/var/cache/fontconfig/*",
    "/var/cache/man/*",
    "/etc/Pegasus/*.cnf",
    "/etc/Pegasus/*.crt",
    "/etc/Pegasus/*.csr",
    "/etc/Pegasus/*.pem",
    "/etc/Pegasus/*.srl",
];
