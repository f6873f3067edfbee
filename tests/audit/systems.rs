//! Guests of other kinds than a good Debian: each is judged by what its own programs would do.

use kiln::audit::{LEFT_TO_SEAL, Remedy, Verdict, look};
use kiln::guest::{DiskFacts, scrub};
use kiln::recipe::{Check, KeyWay, Scrub, ScrubItem};

use crate::tree::{Tree, disk};

#[track_caller]
fn passes(tree: &Tree, check: &Check) -> String {
    match tree.look(check) {
        Verdict::Pass(seen) => seen,
        other => panic!("{check:?}: {other:?}"),
    }
}

#[track_caller]
fn fails(tree: &Tree, check: &Check) -> String {
    match tree.look(check) {
        Verdict::Fail(seen) => seen,
        other => panic!("{check:?}: {other:?}"),
    }
}

#[track_caller]
fn advice(tree: &Tree, check: &Check) -> &'static str {
    match tree.remedy(check) {
        Remedy::Advice(advice) => advice,
        Remedy::Steps(text) => panic!("{check:?}: {text}"),
    }
}

#[test]
fn the_first_boot_applies_presets() {
    let tree = Tree::new();
    let unit = "lib/systemd/system/nftables.service";
    tree.write(unit, "[Service]\n");
    // What `systemctl enable` cannot enable, no preset does.
    passes(&tree, &Check::Firewall);
    tree.write(unit, "[Service]\n[Install]\nWantedBy=sysinit.target\n");
    assert!(fails(&tree, &Check::Firewall).contains("at the first boot"));
    let steps = tree.steps(&Check::Firewall);
    assert!(steps.contains("'nftables.service'") && !steps.contains("ufw"), "{steps}");
    // The first line that matches holds, in files sorted by name; `/etc` hides a file of its name.
    tree.write("usr/lib/systemd/system-preset/90-x.preset", "enable nf*\ndisable *\n");
    fails(&tree, &Check::Firewall);
    tree.write("usr/lib/systemd/system-preset/80-x.preset", "# x\ndisable nft?bles.service\n");
    passes(&tree, &Check::Firewall);
    tree.write("etc/systemd/system-preset/80-x.preset", "");
    fails(&tree, &Check::Firewall);
    tree.write("etc/systemd/system-preset/00-kiln.preset", "disable nftables.service\n");
    passes(&tree, &Check::Firewall);

    // With an id of its own the next boot is not the first, unless a seal is still to come.
    let tree = Tree::new();
    tree.write(unit, "[Service]\n[Install]\nWantedBy=sysinit.target\n");
    tree.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    passes(&tree, &Check::Firewall);
    assert!(matches!(tree.look_before_seal(&Check::Firewall), Verdict::Pass(_)));
    tree.write("usr/lib/systemd/libsystemd-shared-252.so", "");
    assert!(matches!(tree.look_before_seal(&Check::Firewall), Verdict::Fail(_)));
}

#[test]
fn a_preset_that_names_a_unit_is_enough_to_start_it() {
    let tree = Tree::new();
    let check = Check::Unit("x.service".parse().unwrap());
    tree.write(
        "lib/systemd/system/x.service",
        "[Service]\n[Install]\nWantedBy=multi-user.target\n",
    );
    fails(&tree, &check);
    assert!(matches!(tree.look(&Check::NoUnit("x.service".into())), Verdict::Fail(_)));
    tree.write("usr/lib/systemd/system-preset/50-x.preset", "enable x.service\n");
    passes(&tree, &check);
}

#[test]
fn remedies_for_units_need_no_systemd_that_runs() {
    let tree = Tree::new();
    for check in [Check::NoUnit("ssh.service".into()), Check::Unit("ssh.service".into())] {
        let steps = tree.steps(&check);
        assert!(!steps.contains("systemctl cat"), "{steps}");
        assert!(steps.contains("is_there \"$unit\""), "{steps}");
    }
    assert!(tree.steps(&Check::NoUnit("ssh.service".into())).contains("preset disable"));
    assert!(tree.steps(&Check::SshServer).contains("preset enable"));
}

#[test]
fn kernels_are_known_by_their_modules() {
    let tree = Tree::new();
    tree.write("boot/vmlinuz-0-rescue-0123456789abcdef", "");
    passes(&tree, &Check::XenKernel);
    tree.remove("boot/vmlinuz-6.1.0-1-amd64");
    assert!(matches!(tree.look(&Check::XenKernel), Verdict::NotApplicable(_)));
    tree.write("boot/vmlinuz-virt", "");
    assert!(matches!(tree.look(&Check::XenKernel), Verdict::Unknown(_)));
    tree.write("lib/modules/6.6.1-0-virt/modules.dep", "");
    passes(&tree, &Check::XenKernel);
    tree.write("usr/lib/modules/2.6.32-5/modules.dep", "");
    assert!(fails(&tree, &Check::XenKernel).contains("2.6.32-5"));
    tree.write("boot/config-2.6.32-5", "CONFIG_XEN=y\n");
    passes(&tree, &Check::XenKernel);
}

#[test]
fn what_the_seal_leaves_is_not_left_to_it() {
    let tree = Tree::new();
    tree.write("etc/sysconfig/network-scripts/ifcfg-eth0", "HWADDR=00:11:22:33:44:55\n");
    assert_eq!(advice(&tree, &Check::HardwareAddresses), LEFT_TO_SEAL);
    let alone = "network:\n  ethernets:\n    a:\n      match:\n        macaddress: 00:11\n      set-name: a\n";
    tree.write("etc/netplan/50-cloud-init.yaml", alone);
    let steps = tree.steps(&Check::HardwareAddresses);
    assert_eq!(steps, "delete \"/etc/netplan/50-cloud-init.yaml\"");
    tree.write("etc/systemd/network/10-x.network", "[Match]\nMACAddress=00:11\n");
    assert!(advice(&tree, &Check::HardwareAddresses).contains("rewrite them"));

    let tree = Tree::new();
    tree.write("etc/ssh/ssh_host_rsa_key.bak", "k");
    passes(&tree, &Check::HostKeys);
    tree.write("etc/ssh/ssh_host_rsa_key", "k");
    fails(&tree, &Check::HostKeys);
    assert_eq!(advice(&tree, &Check::HostKeys), LEFT_TO_SEAL);
    tree.write("etc/cloud/cloud-init.disabled", "");
    fails(&tree, &Check::HostKeys);
    assert!(advice(&tree, &Check::HostKeys).contains("ssh-keygen -A"));
    tree.write("usr/bin/ssh-keygen", "");
    assert_eq!(tree.repair(&Check::HostKeys), 1);
    let unit = "/etc/systemd/system/kiln-host-keys.service";
    tree.link(unit, "etc/systemd/system/multi-user.target.wants/kiln-host-keys.service");
    tree.write("etc/ssh/ssh_host_rsa_key", "k");
    assert_eq!(advice(&tree, &Check::HostKeys), LEFT_TO_SEAL);
}

#[test]
fn cloud_init_makes_no_keys_for_dropbear() {
    let tree = Tree::new();
    let key = "etc/dropbear/dropbear_rsa_host_key";
    tree.write(key, "k");
    tree.write("etc/ssh/ssh_host_rsa_key", "k");
    tree.write(
        "lib/systemd/system/dropbear.service",
        "[Service]\nExecStart=/usr/sbin/dropbear -F\n",
    );
    assert!(fails(&tree, &Check::HostKeys).contains("nothing would make new ones"));
    assert!(advice(&tree, &Check::HostKeys).contains("Dropbear with `-R`"));
    let seal = |tree: &Tree| {
        let wanted = Scrub { items: [ScrubItem::SshHostkeys].into(), ..Scrub::default() };
        tree.with(&disk(), |subject| {
            scrub(subject.root, subject.guest, &wanted, &DiskFacts::default()).unwrap()
        })
    };
    let kept = seal(&tree)[0].kept.clone().unwrap();
    assert!(kept.contains("before dropbear starts"), "{kept}");
    assert!(tree.path(key).exists() && !tree.path("etc/ssh/ssh_host_rsa_key").exists());
    tree.write("etc/default/dropbear", "DROPBEAR_EXTRA_ARGS=\"-R\"\n");
    assert_eq!(advice(&tree, &Check::HostKeys), LEFT_TO_SEAL);
    assert_eq!(seal(&tree)[0].kept, None);
    passes(&tree, &Check::HostKeys);
}

#[test]
fn sshd_is_read_as_it_reads_itself() {
    let tree = Tree::new();
    let no = "PasswordAuthentication=no\n";
    tree.write("etc/ssh/sshd_config", no);
    passes(&tree, &Check::PasswordLogin);
    tree.write("etc/ssh/sshd_config", &format!("{no}UsePAM yes\n"));
    assert!(fails(&tree, &Check::PasswordLogin).contains("KbdInteractiveAuthentication"));
    tree.write(
        "etc/ssh/sshd_config",
        &format!("{no}UsePAM yes\nChallengeResponseAuthentication no\n"),
    );
    passes(&tree, &Check::PasswordLogin);
    let some = format!("{no}Match User x\nPasswordAuthentication yes\n");
    tree.write("etc/ssh/sshd_config", &some);
    assert!(fails(&tree, &Check::PasswordLogin).contains("Match"));
    assert!(advice(&tree, &Check::PasswordLogin).contains("Match"));
    // Without an `Include` a file beside it says nothing.
    tree.write("etc/ssh/sshd_config", "PasswordAuthentication yes\n");
    fails(&tree, &Check::PasswordLogin);
    let steps = tree.steps(&Check::PasswordLogin);
    assert!(steps.contains("file=/etc/ssh/sshd_config\n"), "{steps}");
    // openSUSE has its own file elsewhere.
    tree.remove("etc/ssh/sshd_config");
    tree.write("usr/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n");
    fails(&tree, &Check::PasswordLogin);
    assert_eq!(tree.repair(&Check::PasswordLogin), 0);
    passes(&tree, &Check::PasswordLogin);
}

#[test]
fn boot_entries_are_found_wherever_a_loader_has_them() {
    let console = Check::Console(None);
    for (path, text) in [
        ("boot/efi/EFI/centos/grub.cfg", "linuxefi /vmlinuz ro quiet\n"),
        ("boot/efi/loader/entries/a.conf", "linux /vmlinuz\noptions ro quiet\n"),
        ("efi/loader/entries/a.conf", "linux /vmlinuz\noptions ro quiet\n"),
    ] {
        let tree = Tree::new();
        tree.write(path, text);
        assert!(fails(&tree, &console).contains(path), "{path}");
    }
    let tree = Tree::new();
    tree.write(
        "boot/efi/EFI/debian/grub.cfg",
        "search.fs_uuid 1 root\nconfigfile $prefix/grub.cfg\n",
    );
    tree.write("boot/grub/menu.lst", "kernel /vmlinuz console=hvc0\n");
    passes(&tree, &console);
    tree.write("boot/grub/grub.cfg", "linux16 /boot/memtest86+.bin\n");
    assert!(fails(&tree, &console).contains("menu.lst"));
    tree.remove("usr/sbin/update-grub");
    assert!(advice(&tree, &console).contains("no program of GRUB"));
    tree.write("usr/sbin/grub2-mkconfig", "");
    assert!(tree.steps(&console).contains("--update-bls-cmdline"));
    let tree = Tree::new();
    tree.write("usr/sbin/grubby", "");
    assert!(tree.steps(&console).contains("grubby --update-kernel=ALL"));
}

#[test]
fn the_console_is_that_of_the_architecture() {
    let tree = Tree::new();
    passes(&tree, &Check::Console(None));
    let mut elf = std::fs::read(tree.path("bin/sh")).unwrap();
    elf[18] = 183;
    std::fs::write(tree.path("bin/sh"), elf).unwrap();
    assert!(fails(&tree, &Check::Console(None)).contains("console=ttyAMA0"));
    passes(&tree, &Check::Console(Some("ttyS0".into())));
}

#[test]
fn cloud_init_needs_its_one_process() {
    let tree = Tree::new();
    tree.write("lib/systemd/system/cloud-init-main.service", "[Service]\n");
    assert!(fails(&tree, &Check::CloudInit).contains("cloud-init-main.service"));
    assert!(tree.steps(&Check::CloudInit).contains("cloud-init-main.service"));
    tree.unit("cloud-init-main.service", "cloud-init.target", "[Service]\n");
    passes(&tree, &Check::CloudInit);
}

#[test]
fn the_default_user_has_to_be_made() {
    let tree = Tree::new();
    let (any, admin) = (Check::DefaultUser(None), Check::DefaultUser(Some("admin".into())));
    tree.write("etc/cloud/cloud.cfg.d/1.cfg", "users: [other]\n");
    assert!(fails(&tree, &any).contains("users"));
    assert_eq!(tree.repair(&admin), 0);
    passes(&tree, &admin);
    let written =
        std::fs::read_to_string(tree.path("etc/cloud/cloud.cfg.d/99_kiln_user.cfg")).unwrap();
    assert!(written.contains("users: [\"default\",\"other\"]"), "{written}");
    // cloud-init prefers the old way.
    let tree = Tree::new();
    tree.write("etc/cloud/cloud.cfg.d/1.cfg", "user: {name: old}\n");
    assert!(fails(&tree, &admin).contains("old"));
    assert_eq!(tree.repair(&admin), 0);
    passes(&tree, &admin);
}

#[test]
fn data_sources_are_added_to_those_that_are_there() {
    let tree = Tree::new();
    tree.write("etc/cloud/cloud.cfg.d/1.cfg", "datasource_list: [ NoCloud, None ]\n");
    let wanted = Check::Datasources(vec!["OpenStack".into()]);
    assert_eq!(tree.repair(&wanted), 0);
    passes(&tree, &wanted);
    passes(&tree, &Check::Datasources(vec!["NoCloud".into()]));
}

#[test]
fn growth_is_of_the_partition_and_of_the_file_system() {
    let tree = Tree::new();
    tree.remove("usr/bin/growpart");
    tree.write("usr/share/initramfs-tools/hooks/growroot", "");
    assert!(passes(&tree, &Check::Growth).contains("initramfs"));
    tree.write("etc/cloud/cloud.cfg", "cloud_init_modules: [growpart, ssh]\n");
    assert!(fails(&tree, &Check::Growth).contains("resizefs"));
    assert!(advice(&tree, &Check::Growth).contains("cloud_init_modules"));
    tree.write("etc/fstab", "UUID=1 / ext4 defaults,x-systemd.growfs 0 1\n");
    passes(&tree, &Check::Growth);
    tree.write("etc/fstab", "");
    tree.remove("usr/share/initramfs-tools/hooks/growroot");
    fails(&tree, &Check::Growth);
    tree.write("boot/initramfs-2.6.32.img-mod", "");
    passes(&tree, &Check::Growth);
}

#[test]
fn a_script_is_started_by_a_runlevel() {
    let script = "wget http://169.254.169.254/latest/meta-data/public-keys/0/openssh-key >>/root/.ssh/authorized_keys\n";
    let check = Check::SshKey(KeyWay::Script);
    let tree = Tree::new();
    tree.write("etc/init.d/fetch", script);
    assert!(fails(&tree, &check).contains("nothing starts it"));
    tree.link("../init.d/fetch", "etc/rc2.d/S99fetch");
    passes(&tree, &check);
}

/// A tree that `OpenRC` starts.
fn alpine() -> Tree {
    let tree = Tree::new();
    tree.write("etc/os-release", "ID=alpine\nVERSION_ID=3.20\n");
    tree.remove("usr/lib/systemd/systemd");
    tree.remove("sbin/init");
    tree.write("sbin/openrc", "");
    tree.link("/bin/busybox", "sbin/init");
    tree.write("sbin/apk", "");
    tree
}

#[test]
fn openrc_has_its_own_ways() {
    let tree = alpine();
    assert!(fails(&tree, &Check::CloudInit).contains("nothing starts it"));
    let steps = tree.steps(&Check::CloudInit);
    for name in ["cloud-init-local", "cloud-init", "cloud-config", "cloud-final"] {
        assert!(steps.contains(&format!("'{name}'")), "{steps}");
    }
    assert!(steps.contains("rc-update add") && !steps.contains("systemctl"), "{steps}");
    tree.write("usr/bin/curl", "");
    let check = Check::SshKey(KeyWay::Script);
    assert_eq!(tree.repair(&check), 1);
    assert!(fails(&tree, &check).contains("nothing starts it"));
    tree.write("etc/init.d/local", "");
    tree.link("/etc/init.d/local", "etc/runlevels/default/local");
    passes(&tree, &check);
    assert!(tree.steps(&Check::NoUnit("iptables".into())).contains("rc-update --all del"));
}

/// A tree like that of `CirrOS`. Source: `src/etc` of its repository.
fn cirros() -> Tree {
    let tree = Tree::new();
    tree.write("etc/os-release", "NAME=\"CirrOS\"\nID=cirros\nVERSION_ID=0.6.2\n");
    for path in ["usr/lib/systemd/systemd", "usr/bin/apt-get", "sbin/init", "usr/bin/cloud-init"] {
        tree.remove(path);
    }
    std::fs::remove_dir_all(tree.path("etc/cloud")).unwrap();
    std::fs::remove_dir_all(tree.path("etc/ssh")).unwrap();
    tree.remove("usr/sbin/sshd");
    tree.link("/bin/busybox", "sbin/init");
    tree.write("etc/inittab", "");
    tree.write("usr/sbin/dropbear", "");
    tree.write("etc/init.d/S50dropbear", "dropbearkey -t \"$ktype\" -f \"$file\"\n");
    tree.link("../init.d/S50dropbear", "etc/rc3.d/S50-dropbear");
    tree.write("etc/init.d/resizefs", "resize2fs /dev/root\n");
    tree.link("../init.d/resizefs", "etc/rc3.d/S55-resizefs");
    tree.write("etc/init.d/cirros-ds-net", "x\n");
    tree.link("../init.d/cirros-ds-net", "etc/rc3.d/S45-cirros-net-ds");
    tree.write("etc/cirros-init/config", "DATASOURCE_LIST=\"nocloud configdrive ec2\"\n");
    tree.write("etc/cirros-init/ds-ec2", "MAX_TRIES=3\n");
    tree
}

#[test]
fn cirros_does_it_all_in_its_own_way() {
    let tree = cirros();
    let wanted = Check::Datasources(vec!["OpenStack".into(), "ConfigDrive".into()]);
    for check in [Check::SshServer, Check::Growth, Check::SshKey(KeyWay::CloudInit), wanted] {
        passes(&tree, &check);
    }
    tree.write("etc/dropbear/dropbear_rsa_host_key", "k");
    fails(&tree, &Check::HostKeys);
    assert_eq!(advice(&tree, &Check::HostKeys), LEFT_TO_SEAL);
    // It has no package manager.
    for check in [Check::CloudInit, Check::Package("vim".into()), Check::NoPackage("vim".into())] {
        assert!(advice(&tree, &check).contains("kiln knows no way"));
    }
}

#[test]
fn a_link_to_nothing_masks_udevs_rules() {
    let tree = Tree::new();
    tree.write("lib/udev/rules.d/75-persistent-net-generator.rules", "x\n");
    fails(&tree, &Check::PersistentNet);
    tree.link("/dev/null", "etc/udev/rules.d/70-persistent-net.rules");
    passes(&tree, &Check::PersistentNet);
}

#[test]
fn what_the_seal_removes_is_what_is_left() {
    let tree = Tree::new();
    tree.write("var/lib/dhcp/dhclient.leases", "");
    tree.write("var/lib/apt/lists/partial/.keep", "");
    passes(&tree, &Check::Leftovers);
    for path in [
        "var/lib/dhcpcd/eth0.lease",
        "var/lib/NetworkManager/secret_key",
        "var/cache/dnf/x",
        "var/lib/apt/lists/x_Packages",
        "etc/yum.repos.d/redhat.repo",
        "builder.log",
    ] {
        let tree = Tree::new();
        tree.write(path, "x");
        assert!(fails(&tree, &Check::Leftovers).contains(path), "{path}");
    }
}

#[test]
fn a_little_room_behind_the_last_partition_is_nobodys_fault() {
    let tree = Tree::new();
    let table = |free: u64| {
        let mut disk = disk();
        disk.size += free;
        tree.with(&disk, |subject| look(subject, &Check::PartitionTable).unwrap())
    };
    assert!(matches!(table(6 << 20), Verdict::Pass(_)));
    assert!(matches!(table(16 << 20), Verdict::Fail(_)));
}

#[test]
fn the_driver_of_xen_is_told_through_glance() {
    let requirements = crate::tree::requirements("openstack-xen");
    let tree = Tree::new();
    let report = tree.with(&disk(), |subject| kiln::audit::audit(subject, &requirements).unwrap());
    let found = report.findings.iter().find(|finding| finding.name == "auto-disk-config").unwrap();
    assert!(found.advice.as_ref().unwrap().contains("auto_disk_config=True"));
    assert!(!found.is_failure());
    let mut disk = disk();
    disk.partitions[1].kind = Some("xfs".to_owned());
    let verdict = tree.with(&disk, |subject| look(subject, &Check::AutoDiskConfig).unwrap());
    assert!(matches!(verdict, Verdict::NotApplicable(_)));
}
