//! Contracts of the seal's items: a small tree that has something for each, an item alone, every
//! difference after.
//!
//! What changes the disk itself is in `disks`. Runs as root.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use kiln::guest::root::GuestRoot;
use kiln::guest::{DiskFacts, Guest, GuestError, ScrubReport, scrub};
use kiln::recipe::{Scrub, ScrubItem};
use rustix::fs::{CWD, FileType};

#[path = "scrub/disks.rs"]
mod disks;
#[path = "support/tree.rs"]
mod tree;

use tree::{difference, state};

const OLD: &str = "0a1b2c3d-1111-4111-8111-0123456789ab";
const NEW: &str = "99999999-2222-8222-9222-ba9876543210";

/// Files of a guest in which every item finds something, and their neighbours that stay.
const FILES: &[(&str, &str)] = &[
    ("etc/os-release", "ID=rhel\nVERSION_ID=\"9\"\nPRETTY_NAME=\"A system\"\n"),
    ("usr/lib/systemd/systemd", ""),
    ("usr/lib/systemd/libsystemd-shared-252.so", ""),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/sh\ngit:x:998:998::/srv/git:/bin/sh\n\
         web:x:1000:1000::/home/web:/bin/sh\nadmin:x:1001:1001::/data/home/admin:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    ),
    (
        "etc/group",
        "root:x:0:\nwheel:x:10:web,admin\ngit:x:998:web\nweb:x:1000:\nadmin:x:1001:git\nnogroup:x:65534:\n",
    ),
    ("etc/shadow", "root:*:1::::::\nweb:$6$a$b:1::::::\nadmin:!:1::::::\n"),
    ("etc/gshadow", "root:*::\nwheel:!:web:web,admin\nweb:!::\nadmin:!::git\n"),
    ("etc/subuid", "web:100000:65536\nadmin:165536:65536\n1000:231072:65536\ngit:300000:1\n"),
    ("etc/subgid", "web:100000:65536\n"),
    ("etc/login.defs", "# ids\nUID_MIN\t\t 1000\nUID_MAX 60000\n"),
    // abrt-data, crash-data
    ("var/spool/abrt/ccpp-1/coredump", "x"),
    ("var/crash/vmcore", "x"),
    ("var/log/dump/1/x", "x"),
    ("var/lib/systemd/coredump/core.x.zst", "x"),
    // backup-files, passwd-backups
    ("etc/app.conf.bak", "x"),
    ("etc/.hidden~", "x"),
    ("srv/site/index.html~", "x"),
    ("srv/site/index.html", "x"),
    ("usr/share/kept.bak", "x"),
    ("etc/passwd-", "x"),
    ("etc/subgid-", "x"),
    // bash-history, ssh-userdir
    ("root/.bash_history", "x"),
    ("root/.ssh/authorized_keys", "x"),
    ("home/web/.bash_history", "x"),
    ("home/web/.python_history", "x"),
    ("home/web/.local/share/fish/fish_history", "x"),
    ("home/web/.ssh/id_ed25519", "x"),
    ("home/web/kept", "x"),
    ("home/left/.zsh_history", "x"),
    ("data/home/admin/.ash_history", "x"),
    ("data/home/admin/.ssh/known_hosts", "x"),
    // blkid-tab
    ("etc/blkid/blkid.tab", "x"),
    ("run/blkid/blkid.tab.old", "x"),
    // build-leftovers, tmp-files
    ("builder.log", "x"),
    ("tmp/builder.log", "x"),
    ("tmp/a/b", "x"),
    ("tmp/.hidden", "x"),
    ("var/tmp/x", "x"),
    // ca-certificates, ipa-client
    ("etc/pki/CA/private/ca.key", "x"),
    ("etc/pki/tls/certs/own.crt", "x"),
    ("etc/pki/tls/certs/ca-bundle.crt", "x"),
    ("etc/pki/tls/certs/ca-bundle.trust.crt", "x"),
    ("etc/pki/tls/private/own.key", "x"),
    ("etc/ipa/ca.crt", "x"),
    ("etc/pki/ca-trust/source/anchors/ipa-ca.crt", "x"),
    ("etc/pki/ca-trust/source/anchors/company.crt", "x"),
    ("var/lib/ipa-client/sysrestore/sysrestore.index", "x"),
    // cron-spool
    ("var/spool/cron/web", "x"),
    ("var/spool/cron/crontabs/root", "x"),
    ("var/spool/cron/atjobs/a0000101", "x"),
    ("var/spool/cron/atjobs/.SEQ", "00007\n"),
    ("var/spool/at/spool/x", "x"),
    ("var/spool/at/.SEQ", "00000\n"),
    // dhcp-client-state, dhcp-server-state
    ("var/lib/dhclient/dhclient.leases", "x"),
    ("var/lib/NetworkManager/internal-x.lease", "x"),
    ("var/lib/dhcpd/dhcpd.leases", "x"),
    ("var/lib/kea/kea-leases4.csv", "x"),
    // dovecot-data, firewall-rules
    ("var/lib/dovecot/instances", "x"),
    ("var/lib/dovecot/kept/x", "x"),
    ("etc/sysconfig/iptables", "x"),
    ("etc/firewalld/zones/public.xml", "x"),
    ("etc/firewalld/firewalld.conf", "x"),
    // fs-uuids
    (
        "etc/fstab",
        "UUID=0A1B2C3D-1111-4111-8111-0123456789AB / ext4 defaults 0 1\nUUID=AB12-CD34 /boot/efi vfat umask=0077 0 1\n",
    ),
    (
        "etc/default/grub",
        "GRUB_CMDLINE_LINUX=\"resume=UUID=0a1b2c3d-1111-4111-8111-0123456789ab\"\n",
    ),
    ("etc/initramfs-tools/conf.d/resume", "RESUME=UUID=0a1b2c3d-1111-4111-8111-0123456789ab\n"),
    ("boot/grub2/grub.cfg", "search --fs-uuid --set=root 0a1b2c3d-1111-4111-8111-0123456789ab\n"),
    (
        "boot/grub2/grubenv",
        "# GRUB Environment Block\nkernelopts=root=UUID=0a1b2c3d-1111-4111-8111-0123456789ab ro\n#####",
    ),
    ("boot/grub2/i386-pc/load.cfg", "search.fs_uuid 0a1b2c3d-1111-4111-8111-0123456789ab root\n"),
    ("boot/loader/entries/x.conf", "options root=UUID=0a1b2c3d-1111-4111-8111-0123456789ab ro\n"),
    ("boot/efi/EFI/redhat/grub.cfg", "search.fs_uuid 0a1b2c3d-1111-4111-8111-0123456789ab root\n"),
    // kerberos-data, kerberos-hostkeytab
    ("var/kerberos/krb5kdc/principal", "x"),
    ("var/kerberos/krb5kdc/kdc.conf", "x"),
    ("var/kerberos/krb5kdc/kadm5.acl", "x"),
    ("etc/krb5.keytab", "x"),
    // logfiles, pacct-log, utmp
    ("var/log/messages", "x"),
    ("var/log/messages-20260101", "x"),
    ("var/log/nginx/access.log", "x"),
    ("var/log/journal/0123/system.journal", "x"),
    ("var/log/wtmp", "x"),
    ("var/log/wtmp.1", "x"),
    ("var/log/btmp", "x"),
    ("var/log/account/pacct", "x"),
    ("var/log/account/pacct.1.gz", "x"),
    ("var/account/pacct", "x"),
    ("run/utmp", "x"),
    ("var/lib/logrotate.status", "x"),
    ("root/anaconda-ks.cfg", "x"),
    ("var/cache/man/index.db", "x"),
    ("etc/Pegasus/server.pem", "x"),
    // lvm-system-devices
    ("etc/lvm/devices/system.devices", "x"),
    ("etc/lvm/lvm.conf", "x"),
    // machine-id, random-seed
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("var/lib/systemd/random-seed", "x"),
    // mail-spool
    ("var/spool/mail/web", "x"),
    // net-hostname, net-hwaddr, net-nmconn, udev-persistent-net
    (
        "etc/sysconfig/network-scripts/ifcfg-eth0",
        "DEVICE=eth0\n HWADDR=\"00:11\"\nDHCP_HOSTNAME=a\nHOSTNAME=b\nONBOOT=yes",
    ),
    (
        "etc/NetworkManager/system-connections/eth0.nmconnection",
        "[connection]\nid=eth0\n[ethernet]\nmac-address=00:11\n",
    ),
    ("etc/systemd/network/10-a.network", "[Match]\nName=en*\nMACAddress=00:11\n"),
    ("etc/systemd/network/20-b.network", "[Match]\nMACAddress=00:11\n[Network]\nDHCP=yes\n"),
    (
        "etc/netplan/50-cloud-init.yaml",
        "network:\n  ethernets:\n    a:\n      match:\n        macaddress: 00:11\n",
    ),
    ("etc/udev/rules.d/75-persistent-net-generator.rules", "x"),
    // package-manager-cache, rpm-db, yum-uuid
    ("var/cache/dnf/repo/x", "x"),
    ("var/cache/zypper/x", "x"),
    ("var/cache/apt/archives/partial/a.deb", "x"),
    ("var/lib/apt/lists/x", "x"),
    ("var/lib/rpm/__db.001", "x"),
    ("var/lib/rpm/rpmdb.sqlite", "x"),
    ("var/lib/yum/uuid", "x"),
    // pam-data
    ("run/faillock/web", "x"),
    ("run/console/web", "x"),
    // puppet-data-log, samba-db-log, sssd-db-log
    ("var/log/puppet/agent.log", "x"),
    ("var/lib/puppet/ssl/certs/a.pem", "x"),
    ("var/lib/samba/private/secrets.tdb", "x"),
    ("var/log/samba/old/log.smbd", "x"),
    ("var/lib/sss/db/cache.ldb", "x"),
    ("var/log/sssd/sssd.log", "x"),
    // rh-subscription-manager, rhn-systemid, smolt-uuid
    ("etc/pki/consumer/cert.pem", "x"),
    ("etc/pki/entitlement/1.pem", "x"),
    ("etc/pki/product/69.pem", "x"),
    ("etc/yum.repos.d/redhat.repo", "[rhel]\nsslclientkey = /etc/pki/entitlement/1-key.pem\n"),
    ("etc/yum.repos.d/own.repo", "x"),
    ("etc/sysconfig/rhn/systemid", "x"),
    ("etc/smolt/hw-uuid", "x"),
    // ssh-hostkeys
    ("etc/ssh/ssh_host_ed25519_key", "private"),
    ("etc/ssh/ssh_host_ed25519_key.pub", "public"),
    ("etc/ssh/sshd_config", "x"),
    ("etc/cloud/cloud.cfg", "cloud_init_modules:\n - bootcmd\n - ssh\n"),
    ("usr/lib/systemd/system-generators/cloud-init-generator", ""),
];

/// A guest's tree, and beside it things of the host that no item may touch.
struct Fixture {
    top: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::of(FILES, |fixture, path, content| fixture.file(path, content))
    }

    /// A tree in which `put` makes each file.
    fn of(files: &[(&str, &str)], put: impl Fn(&Self, &str, &str)) -> Self {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let fixture = Self { top: tempfile::tempdir().unwrap() };
        fs::create_dir(fixture.top.path().join("host")).unwrap();
        fs::write(fixture.top.path().join("host/canary"), "host").unwrap();
        fs::create_dir(fixture.guest()).unwrap();
        let mut header = fs::read("/proc/self/exe").unwrap();
        header.truncate(64);
        fixture.file("usr/bin/sh", header);
        fixture.file("usr/lib/os-release", FILES[0].1);
        for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("var/run", "../run")] {
            fs::create_dir_all(fixture.guest().join("var")).unwrap();
            symlink(target, fixture.guest().join(link)).unwrap();
        }
        fs::create_dir(fixture.guest().join("run")).unwrap();
        fs::create_dir_all(fixture.guest().join("var/spool/mail")).unwrap();
        symlink("spool/mail", fixture.guest().join("var/mail")).unwrap();
        for (path, content) in files {
            put(&fixture, path, content);
        }
        fixture
    }

    fn guest(&self) -> PathBuf {
        self.top.path().join("guest")
    }

    /// Makes a file with a mode and an owner that are seen to stay.
    fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.guest().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        chown(&path, Some(7), Some(8)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    }

    fn scrub(&self, wanted: &Scrub) -> Result<Vec<ScrubReport>, GuestError> {
        let root = GuestRoot::open(&self.guest()).unwrap();
        let guest = Guest::inspect(&root)?;
        scrub(&root, &guest, wanted, &disk())
    }

    fn state(&self) -> BTreeMap<String, String> {
        state(self.top.path())
    }
}

fn disk() -> DiskFacts {
    DiskFacts {
        new_ids: vec![(OLD.to_owned(), NEW.to_owned())],
        kept_ids: vec!["vfat keeps its id ab12-cd34".to_owned()],
        has_lvm: false,
    }
}

fn only(item: ScrubItem) -> Scrub {
    Scrub { items: BTreeSet::from([item]), keep_users: BTreeSet::from(["admin".to_owned()]) }
}

fn all() -> Scrub {
    Scrub { items: ScrubItem::ALL.into(), keep_users: BTreeSet::new() }
}

fn rendered(error: &GuestError) -> String {
    let mut text = String::new();
    miette::NarratableReportHandler::new().render_report(&mut text, error).unwrap();
    text
}

#[test]
fn each_item_alone() {
    let mut text = String::new();
    for item in ScrubItem::ALL {
        let fixture = Fixture::new();
        let before = fixture.state();
        let reports = fixture.scrub(&only(item)).unwrap();
        let after = fixture.state();
        assert_eq!(reports.len(), 1);
        let report = &reports[0];
        writeln!(text, "## {}\n{}", item.keyword(), difference(&before, &after)).unwrap();
        let json = serde_json::to_string(report).unwrap();
        assert_eq!(&serde_json::from_str::<ScrubReport>(&json).unwrap(), report);
        writeln!(text, "{json}\n").unwrap();
        // Only the ids of LVM have nothing in a tree.
        assert_eq!(before == after, item == ScrubItem::LvmUuids, "{}", item.keyword());

        let again = fixture.scrub(&only(item)).unwrap();
        assert_eq!(difference(&after, &fixture.state()), "", "{}", item.keyword());
        let ScrubReport { removed, emptied, changed, .. } = &again[0];
        assert!(removed.is_empty() && emptied.is_empty() && changed.is_empty(), "{again:?}");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn what_the_default_set_leaves() {
    let fixture = Fixture::new();
    let reports = fixture.scrub(&Scrub::default()).unwrap();
    let items: Vec<_> = reports.iter().map(|report| report.item).collect();
    assert_eq!(items, Scrub::default().items.into_iter().collect::<Vec<_>>());
    let mut text = String::new();
    for (path, line) in fixture.state() {
        // A directory has no content, and the shell's is this test's own.
        if !line.starts_with("04") && path != "guest/usr/bin/sh" {
            writeln!(text, "{path} {line}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn an_empty_tree_is_left_alone() {
    let fixture = Fixture::of(&[], |_, _, _| {});
    fs::create_dir(fixture.guest().join("etc")).unwrap();
    let mut wanted = all();
    wanted.items.remove(&ScrubItem::FlagReconfiguration);
    let before = fixture.state();
    let reports = fixture.scrub(&wanted).unwrap();
    assert_eq!(difference(&before, &fixture.state()), "");
    assert_eq!(reports.len(), wanted.items.len());
}

/// What a hostile guest has where a file is expected.
#[derive(Debug, Clone, Copy)]
enum Instead {
    LinkOut,
    AbsoluteLinkOut,
    Fifo,
    Directory,
    Huge,
    LinkToItself,
}

fn put(instead: Instead, fixture: &Fixture, path: &str, content: &str) {
    let canary = fixture.top.path().join("host/canary");
    let at = fixture.guest().join(path);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    match instead {
        // Without these there is no guest.
        _ if path == "etc/os-release" || path.starts_with("usr/") => fixture.file(path, content),
        Instead::LinkOut => symlink("../".repeat(20) + canary.to_str().unwrap(), at).unwrap(),
        Instead::AbsoluteLinkOut => symlink(canary, at).unwrap(),
        Instead::Fifo => {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(CWD, at, FileType::Fifo, mode, 0).unwrap();
        }
        Instead::Directory => {
            fs::create_dir(&at).unwrap();
            symlink("/../../host", at.join("link")).unwrap();
        }
        Instead::Huge => fs::File::create(at).unwrap().set_len(1 << 40).unwrap(),
        Instead::LinkToItself => symlink(at.file_name().unwrap(), &at).unwrap(),
    }
}

#[test]
fn hostile_trees_end_in_order_or_in_an_error() {
    let mut text = String::new();
    for instead in [
        Instead::LinkOut,
        Instead::AbsoluteLinkOut,
        Instead::Fifo,
        Instead::Directory,
        Instead::Huge,
        Instead::LinkToItself,
    ] {
        writeln!(text, "## {instead:?}").unwrap();
        let fixture = Fixture::of(FILES, |fixture, path, content| {
            put(instead, fixture, path, content);
        });
        let host = || state(&fixture.top.path().join("host"));
        let before = host();
        for item in ScrubItem::ALL {
            match fixture.scrub(&only(item)) {
                // A huge file is not read into the state, so it is not compared.
                Ok(_) if matches!(instead, Instead::Huge) => {}
                Ok(_) => {
                    let after = fixture.state();
                    fixture.scrub(&only(item)).unwrap();
                    assert_eq!(difference(&after, &fixture.state()), "", "{}", item.keyword());
                }
                Err(error) => writeln!(text, "{}: {error}", item.keyword()).unwrap(),
            }
            assert_eq!(difference(&before, &host()), "", "{instead:?} {}", item.keyword());
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn directories_that_lead_out_lead_nowhere() {
    for target in ["/../../host", "../../../../../host", "/proc/self/root"] {
        for directory in ["etc", "home", "root", "run", "tmp", "var/log", "var/spool", "var/lib"] {
            let fixture = Fixture::new();
            let at = fixture.guest().join(directory);
            if directory != "etc" {
                fs::remove_dir_all(&at).unwrap();
                symlink(target, at).unwrap();
            }
            let before = state(&fixture.top.path().join("host"));
            // It may fail; it may not touch the host.
            let _ = fixture.scrub(&all());
            let after = state(&fixture.top.path().join("host"));
            assert_eq!(difference(&before, &after), "", "{directory} -> {target}");
        }
    }
}

#[test]
fn accounts_go_whole_and_nothing_else() {
    let passwd = [
        "root:x:0:0::/root:/bin/sh",
        "evil:x:1000:1000::/:/bin/sh",
        "etc:x:1001:1001::/etc:/bin/sh",
        "link:x:1002:1002::/home/link:/bin/sh",
        "up:x:1003:1003::/home/../etc/pki:/bin/sh",
        "www:x:1004:1004::/var/www:/bin/sh",
        "../../etc/pki:x:1005:1005::/nonexistent:/bin/sh",
        "relative:x:1006:1006::etc:/bin/sh",
        "parent:x:1007:1007::/srv/people:/bin/sh",
        "child:x:998:998::/srv/people/child:/bin/sh",
        "twice:x:1008:1008::/home/twice:/bin/sh",
        "twice:x:5:5::/home/twice:/bin/sh",
        "circle:x:1009:1009::/home/circle:/bin/sh",
        "moved:x:1010:1010::/home/moved:/bin/sh",
        "kept:x:1011:1011::/home/kept:/bin/sh",
        "+nis::::::",
        "",
    ]
    .join("\n");
    let fixture = Fixture::of(FILES, |fixture, path, content| {
        fixture.file(path, if path == "etc/passwd" { passwd.as_str() } else { content });
    });
    for path in ["var/www/x", "srv/people/child/x", "home/twice/x", "data/moved/x", "home/kept/x"] {
        fixture.file(path, "x");
    }
    for (link, target) in [("link", "/etc"), ("circle", "circle"), ("moved", "../data/moved")] {
        symlink(target, fixture.guest().join("home").join(link)).unwrap();
    }
    let wanted = Scrub {
        items: BTreeSet::from([ScrubItem::UserAccount]),
        keep_users: BTreeSet::from(["kept".to_owned(), "nobody-knows".to_owned()]),
    };
    let before = fixture.state();
    let reports = fixture.scrub(&wanted).unwrap();
    let mut text = difference(&before, &fixture.state());
    writeln!(text, "{}", serde_json::to_string_pretty(&reports).unwrap()).unwrap();
    text += &fs::read_to_string(fixture.guest().join("etc/passwd")).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn many_accounts_take_no_longer_each() {
    // Were each compared with each, the links would be followed some billion times.
    const EACH: u32 = 20_000;
    let mut passwd = String::new();
    for number in 0..EACH {
        let id = 1000 + number;
        writeln!(passwd, "gone{number}:x:{id}:{id}::/srv/gone{number}:/bin/sh").unwrap();
        let id = 100_000 + number;
        writeln!(passwd, "stays{number}:x:{id}:{id}::/srv/gone{number}-not/home:/bin/sh").unwrap();
    }
    let fixture = Fixture::of(FILES, |fixture, path, content| {
        fixture.file(path, if path == "etc/passwd" { &passwd } else { content });
    });
    for path in ["srv/gone7/x", "srv/gone7-not/home/x", "srv/gone8/x"] {
        fixture.file(path, "x");
    }
    fs::create_dir_all(fixture.guest().join("srv/gone9-not")).unwrap();
    symlink("../gone8", fixture.guest().join("srv/gone9-not/home")).unwrap();
    let started = std::time::Instant::now();
    let reports = fixture.scrub(&only(ScrubItem::UserAccount)).unwrap();
    assert!(started.elapsed() < std::time::Duration::from_mins(1));
    assert_eq!(reports[0].removed, ["/srv/gone7"]);
    let why = "`admin`, whom `keep-user` names, is nobody in the guest; `/srv/gone8`, the home of \
               `gone8`, holds the home of an account that stays";
    assert_eq!(reports[0].kept.as_deref(), Some(why));
    assert!(fixture.guest().join("srv/gone7-not/home/x").exists());
}

#[test]
fn ids_of_people_are_those_of_the_guest() {
    let fixture = Fixture::new();
    fixture.file("etc/login.defs", "UID_MIN 500\nUID_MAX 1000\n#UID_MAX 9\n");
    fixture.scrub(&Scrub { keep_users: BTreeSet::new(), ..only(ScrubItem::UserAccount) }).unwrap();
    let passwd = fs::read_to_string(fixture.guest().join("etc/passwd")).unwrap();
    let names: Vec<_> = passwd.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(names, ["root", "daemon", "admin", "nobody"]);
}

#[test]
fn ids_of_lvm_are_refused() {
    let fixture = Fixture::new();
    let root = GuestRoot::open(&fixture.guest()).unwrap();
    let guest = Guest::inspect(&root).unwrap();
    let disk = DiskFacts { has_lvm: true, ..disk() };
    let before = fixture.state();
    let error = scrub(&root, &guest, &only(ScrubItem::LvmUuids), &disk).unwrap_err();
    assert_eq!(difference(&before, &fixture.state()), "");
    insta::assert_snapshot!(rendered(&error));
}

/// A file system mounted in a fixture; gone when this is dropped, also by a failed test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &at, "tmpfs", flags, None).unwrap();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn file_systems_mounted_below_are_scrubbed_too() {
    let fixture = Fixture::new();
    let _log = Mounted::tmpfs(fixture.guest().join("var/log"));
    let _deep = Mounted::tmpfs(fixture.guest().join("var/log/a/audit"));
    for path in ["var/log/a/audit/b/audit.log", "var/log/a/audit/b/audit.log.1", "var/log/a/x~"] {
        fixture.file(path, "x");
    }
    fixture.scrub(&Scrub::default()).unwrap();
    let left = |path: &str| fs::read_to_string(fixture.guest().join(path)).ok();
    assert_eq!(left("var/log/a/audit/b/audit.log").as_deref(), Some(""));
    assert_eq!(left("var/log/a/audit/b/audit.log.1"), None);
    assert_eq!(left("var/log/a/x~"), None);
}

/// kiln's answer to an operation of virt-sysprep.
enum Answer {
    Item(ScrubItem),
    /// It is no item: steps do that.
    Steps,
}

/// Every operation of virt-sysprep 1.56, whether it is in its default set, and kiln's answer.
fn operations() -> Vec<(&'static str, bool, Answer)> {
    use Answer::{Item, Steps};
    vec![
        ("abrt-data", true, Item(ScrubItem::AbrtData)),
        ("backup-files", true, Item(ScrubItem::BackupFiles)),
        ("bash-history", true, Item(ScrubItem::BashHistory)),
        ("blkid-tab", true, Item(ScrubItem::BlkidTab)),
        ("ca-certificates", false, Item(ScrubItem::CaCertificates)),
        ("crash-data", true, Item(ScrubItem::CrashData)),
        ("cron-spool", true, Item(ScrubItem::CronSpool)),
        ("customize", true, Steps),
        ("dhcp-client-state", true, Item(ScrubItem::DhcpClientState)),
        ("dhcp-server-state", true, Item(ScrubItem::DhcpServerState)),
        ("dovecot-data", true, Item(ScrubItem::DovecotData)),
        ("firewall-rules", false, Item(ScrubItem::FirewallRules)),
        ("flag-reconfiguration", false, Item(ScrubItem::FlagReconfiguration)),
        ("fs-uuids", false, Item(ScrubItem::FsUuids)),
        ("ipa-client", true, Item(ScrubItem::IpaClient)),
        ("kerberos-data", false, Item(ScrubItem::KerberosData)),
        ("kerberos-hostkeytab", true, Item(ScrubItem::KerberosHostkeytab)),
        ("logfiles", true, Item(ScrubItem::Logfiles)),
        ("lvm-system-devices", true, Item(ScrubItem::LvmSystemDevices)),
        ("lvm-uuids", true, Item(ScrubItem::LvmUuids)),
        ("machine-id", true, Item(ScrubItem::MachineId)),
        ("mail-spool", true, Item(ScrubItem::MailSpool)),
        ("net-hostname", true, Item(ScrubItem::NetHostname)),
        ("net-hwaddr", true, Item(ScrubItem::NetHwaddr)),
        ("net-nmconn", true, Item(ScrubItem::NetNmconn)),
        ("pacct-log", true, Item(ScrubItem::PacctLog)),
        ("package-manager-cache", true, Item(ScrubItem::PackageManagerCache)),
        ("pam-data", true, Item(ScrubItem::PamData)),
        ("passwd-backups", true, Item(ScrubItem::PasswdBackups)),
        ("puppet-data-log", true, Item(ScrubItem::PuppetDataLog)),
        ("rh-subscription-manager", true, Item(ScrubItem::RhSubscriptionManager)),
        ("rhn-systemid", true, Item(ScrubItem::RhnSystemid)),
        ("rpm-db", true, Item(ScrubItem::RpmDb)),
        ("samba-db-log", true, Item(ScrubItem::SambaDbLog)),
        ("script", true, Steps),
        ("smolt-uuid", true, Item(ScrubItem::SmoltUuid)),
        ("ssh-hostkeys", true, Item(ScrubItem::SshHostkeys)),
        ("ssh-userdir", true, Item(ScrubItem::SshUserdir)),
        ("sssd-db-log", true, Item(ScrubItem::SssdDbLog)),
        ("tmp-files", true, Item(ScrubItem::TmpFiles)),
        ("udev-persistent-net", true, Item(ScrubItem::UdevPersistentNet)),
        ("user-account", false, Item(ScrubItem::UserAccount)),
        ("utmp", true, Item(ScrubItem::Utmp)),
        ("yum-uuid", true, Item(ScrubItem::YumUuid)),
        ("zsh-history", true, Item(ScrubItem::BashHistory)),
    ]
}

#[test]
fn every_operation_of_virt_sysprep_has_an_answer() {
    let page =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("book/src/reference/from-virt-sysprep.md");
    let page = fs::read_to_string(page).unwrap();
    let (page, _) = page.split_once("\n## ").unwrap();
    let mut rows = page.lines().filter(|line| line.starts_with("| `"));
    let mut unlike = Vec::new();
    let mut own: BTreeSet<ScrubItem> = ScrubItem::ALL.into();
    for (name, theirs, answer) in operations() {
        let row = rows.next().unwrap_or_else(|| panic!("`{name}` has no row"));
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        assert_eq!(cells[0], format!("`{name}`"));
        assert_eq!(cells[1], yes(theirs), "{name}");
        match answer {
            Answer::Item(item) => {
                own.remove(&item);
                assert!(item.keyword() == name || cells[3].contains(item.keyword()), "{name}");
                assert_eq!(cells[2], yes(item.is_default()), "{name}");
                if item.is_default() != theirs {
                    unlike.push(name);
                }
            }
            Answer::Steps => assert_eq!(cells[2], "–", "{name}"),
        }
    }
    assert_eq!(rows.next(), None);
    assert_eq!(unlike, ["lvm-uuids", "net-nmconn", "ssh-userdir"]);
    // Kiln's own.
    assert_eq!(own, BTreeSet::from([ScrubItem::BuildLeftovers, ScrubItem::RandomSeed]));
}
