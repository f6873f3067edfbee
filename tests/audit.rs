//! Audits of trees on the host that look like guests: each requirement met, not met, and repaired by
//! kiln's own remedy.
//!
//! Disks that are mounted, and programs that remedies run, are the end-to-end tests'.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use kiln::audit::{AuditReport, DiskView, PartView, Remedy, Subject, Verdict, audit, look, remedy};
use kiln::guest::root::GuestRoot;
use kiln::guest::{Guest, Snapshot, apply};
use kiln::lower;
use kiln::recipe::{Check, KeyWay, Requirement, StepKind};

/// A tree that meets `openstack`.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.write("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n");
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(20, 0);
        elf[18] = 62;
        fs::create_dir_all(tree.path("bin")).unwrap();
        fs::write(tree.path("bin/sh"), elf).unwrap();
        tree.write("usr/bin/apt-get", "");
        tree.write("usr/lib/systemd/systemd", "");
        fs::create_dir_all(tree.path("sbin")).unwrap();
        symlink("/usr/lib/systemd/systemd", tree.path("sbin/init")).unwrap();
        tree.write(
            "var/lib/dpkg/status",
            "Package: vim\nStatus: install ok installed\nVersion: 9\nArchitecture: amd64\n\n",
        );
        tree.write("usr/sbin/sshd", "");
        tree.unit("ssh.service", "multi-user.target", "[Service]\nExecStart=/usr/sbin/sshd -D\n");
        tree.write("usr/bin/cloud-init", "");
        for name in ["cloud-init-local", "cloud-init", "cloud-config", "cloud-final"] {
            tree.unit(&format!("{name}.service"), "cloud-init.target", "[Service]\n");
        }
        tree.write(
            "etc/cloud/cloud.cfg",
            "disable_root: true\ndatasource_list: [ NoCloud, ConfigDrive, OpenStack, None ]\n\
             cloud_init_modules:\n - growpart\n - [resizefs, always]\n - ssh\n\
             system_info:\n  default_user:\n    name: debian\n",
        );
        tree.write("usr/bin/growpart", "");
        tree.write("usr/lib/systemd/system-generators/cloud-init-generator", "");
        tree.write("etc/shadow", "root:!:1::::::\n");
        tree.write("etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n");
        tree.write(
            "etc/default/grub",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"console=ttyS0\"\n",
        );
        tree.write(
            "boot/grub/grub.cfg",
            "linux /vmlinuz root=UUID=1 ro console=ttyS0 quiet\nlinux /vmlinuz root=UUID=1 ro single console=ttyS0\n",
        );
        tree.write("boot/vmlinuz-6.1.0-1-amd64", "");
        tree.write("etc/machine-id", "uninitialized\n");
        tree
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    fn unit(&self, name: &str, target: &str, text: &str) {
        self.write(&format!("lib/systemd/system/{name}"), text);
        let wants = self.path(&format!("etc/systemd/system/{target}.wants"));
        fs::create_dir_all(&wants).unwrap();
        let _ = symlink(Path::new("/lib/systemd/system").join(name), wants.join(name));
    }

    fn with<T>(&self, disk: &DiskView, use_it: impl FnOnce(Subject<'_>) -> T) -> T {
        let root = GuestRoot::open(self.0.path()).unwrap();
        let guest = Guest::inspect(&root).unwrap();
        let packages = match kiln::guest::installed::installed(&root, &guest).unwrap() {
            kiln::guest::installed::Installed::List(list) => Some(list),
            kiln::guest::installed::Installed::Ask(_) => None,
        };
        use_it(Subject { root: &root, guest: &guest, packages: packages.as_deref(), disk })
    }

    fn audit(&self, disk: &DiskView, profile: &str) -> AuditReport {
        let requirements = requirements(profile);
        self.with(disk, |subject| audit(subject, &requirements).unwrap())
    }

    fn look(&self, check: &Check) -> Verdict {
        self.with(&disk(), |subject| look(subject, check).unwrap())
    }

    /// Does those steps of a remedy that run no program of the guest.
    fn repair(&self, check: &Check) -> usize {
        let remedy = self.with(&disk(), |subject| remedy(subject, check));
        let Remedy::Steps(text) = remedy else { panic!("{check:?} has no steps") };
        let steps: Vec<StepKind<Snapshot>> = lower::steps(&text);
        let root = GuestRoot::open(self.0.path()).unwrap();
        let guest = Guest::inspect(&root).unwrap();
        let mut programs = 0;
        for step in &steps {
            match step {
                StepKind::Install(_) | StepKind::RunCommand(_) => programs += 1,
                // What `password` locks is a file of the guest with the guest's own owner.
                step => apply(&root, &guest, step).unwrap(),
            }
        }
        programs
    }
}

fn requirements(profile: &str) -> Vec<Requirement> {
    let profile = &lower::own_profiles()[profile];
    profile.requirements.iter().map(|remedied| remedied.requirement.clone()).collect()
}

/// A GPT disk with a boot loader's partition and an ext4 root behind it.
fn disk() -> DiskView {
    let part = |number, start, size, kind: Option<&str>, target: Option<&str>| PartView {
        number: Some(number),
        start,
        size,
        kind: kind.map(str::to_owned),
        target: target.map(str::to_owned),
        used: Some(size),
    };
    DiskView {
        size: 3 << 30,
        table: Some("gpt".to_owned()),
        second_header: Some(true),
        partitions: vec![
            part(1, 1 << 20, 1 << 20, None, None),
            part(2, 2 << 20, (3 << 30) - (3 << 20), Some("ext4"), Some("/")),
        ],
    }
}

fn failed(report: &AuditReport) -> Vec<&str> {
    report.failures().map(|finding| finding.name.as_str()).collect()
}

#[test]
fn a_good_guest_meets_openstack() {
    let report = Tree::new().audit(&disk(), "openstack");
    assert_eq!(failed(&report), [""; 0], "{report:#?}");
    insta::assert_snapshot!(report.text(
        "good.qcow2",
        "profile openstack",
        kiln::audit::Style::default()
    ));
}

#[test]
fn every_own_profile_has_requirements_with_names_of_their_own() {
    for (name, profile) in lower::own_profiles() {
        let mut names: Vec<_> =
            profile.requirements.iter().map(|known| known.requirement.name.as_str()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert!(all > 15 && names.len() == all, "{name}");
    }
}

/// Ways to break a guest, each found by what it is about and by nothing else.
#[test]
fn each_fault_is_found_by_its_own_requirement() {
    type Break = fn(&Tree, &mut DiskView);
    let faults: [(&str, &[&str], Break); 17] = [
        ("console", &["console", "boot-entries"], |tree, _| {
            tree.write("boot/grub/grub.cfg", "linux /vmlinuz root=UUID=1 ro quiet\n");
        }),
        ("defaults", &["console"], |tree, _| {
            tree.write("etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n");
        }),
        ("hand-edited", &["boot-entries"], |tree, _| {
            tree.write("boot/grub/grub.cfg", "linux /vmlinuz ro console=ttyS0\n");
        }),
        ("cloud-init", &["cloud-init", "ssh-key", "growth"], |tree, _| {
            tree.remove("usr/bin/cloud-init");
        }),
        ("disabled", &["cloud-init", "ssh-key", "growth", "host-keys"], |tree, _| {
            tree.write("etc/cloud/cloud-init.disabled", "");
        }),
        ("datasources", &["datasources"], |tree, _| {
            tree.write("etc/cloud/cloud.cfg.d/99.cfg", "datasource_list: [ None ]\n");
        }),
        ("growpart", &["growth"], |tree, _| tree.remove("usr/bin/growpart")),
        ("rules", &["persistent-net"], |tree, _| {
            tree.write("etc/udev/rules.d/70-persistent-net.rules", "ATTR{address}==\"00\"\n");
        }),
        ("generator", &["persistent-net", "net-generator"], |tree, _| {
            tree.write("lib/udev/rules.d/75-persistent-net-generator.rules", "x\n");
        }),
        ("hwaddr", &["hardware-addresses"], |tree, _| {
            tree.write("etc/sysconfig/network-scripts/ifcfg-eth0", "HWADDR=00:11:22:33:44:55\n");
        }),
        ("sshd", &["ssh-server"], |tree, _| {
            tree.remove("etc/systemd/system/multi-user.target.wants/ssh.service");
        }),
        ("machine-id", &["machine-id"], |tree, _| {
            tree.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        }),
        ("host keys", &["host-keys"], |tree, _| {
            tree.write("etc/ssh/ssh_host_ed25519_key", "k\n");
        }),
        ("table", &["partition-table"], |_, disk| disk.second_header = Some(false)),
        ("fills", &["root-fills"], |_, disk| disk.partitions[1].used = Some(1 << 30)),
        ("free", &["partition-table"], |_, disk| disk.size += 1 << 30),
        ("overlap", &["partition-table"], |_, disk| disk.partitions[0].size = 4 << 20),
    ];
    let mut text = String::new();
    for (what, wanted, break_it) in faults {
        let tree = Tree::new();
        let mut disk = disk();
        break_it(&tree, &mut disk);
        let report = tree.audit(&disk, "openstack");
        let mut found = failed(&report);
        found.sort_unstable();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{what}: {report:#?}");
        for finding in report.failures() {
            assert!(finding.steps.is_some() != finding.advice.is_some(), "{what}: {finding:?}");
        }
        text.push_str(&report.recipe("fixed", "base file \"disk.qcow2\"", "openstack"));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn warnings_do_not_make_an_image_unfit() {
    let tree = Tree::new();
    tree.write("etc/shadow", "root:$y$j9T$x:1::::::\n");
    tree.unit("firewalld.service", "multi-user.target", "[Service]\n");
    tree.write("tmp/builder.log", "");
    let mut disk = disk();
    disk.partitions.push(PartView {
        number: Some(3),
        start: (3 << 30) - (1 << 20),
        kind: Some("swap".to_owned()),
        ..PartView::default()
    });
    let report = tree.audit(&disk, "openstack");
    assert_eq!(failed(&report), [""; 0]);
    let warnings: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.result() == "warning")
        .map(|finding| finding.name.as_str())
        .collect();
    assert_eq!(warnings, ["root-login", "firewall", "root-last", "one-partition", "leftovers"]);
    let xen: Vec<_> =
        failed(&tree.audit(&disk, "openstack-xen")).into_iter().map(str::to_owned).collect();
    assert_eq!(xen, ["one-partition"]);
    let hardened = tree.audit(&disk, "hardened");
    assert_eq!(failed(&hardened), ["root-login", "leftovers", "password-login"]);
}

#[test]
fn what_a_remedy_writes_is_what_was_required() {
    let tree = Tree::new();
    tree.write("etc/cloud/cloud.cfg.d/50.cfg", "datasource_list: [ None ]\nuser: old\n");
    tree.write("etc/udev/rules.d/70-persistent-net.rules", "x\n");
    tree.write("lib/udev/rules.d/75-persistent-net-generator.rules", "x\n");
    tree.write("etc/old", "");
    let checks = [
        Check::Datasources(vec!["OpenStack".to_owned(), "ConfigDrive".to_owned()]),
        Check::PasswordLogin,
        Check::PersistentNet,
        Check::NetGenerator,
        Check::NoFile("/etc/ol?".parse().unwrap()),
    ];
    for check in checks {
        assert!(matches!(tree.look(&check), Verdict::Fail(_)), "{check:?}");
        assert_eq!(tree.repair(&check), 0, "{check:?}");
        assert!(matches!(tree.look(&check), Verdict::Pass(_)), "{check:?}");
    }
    // What only programs of the guest can do is left to them.
    let check = Check::SshKey(KeyWay::Script);
    assert!(matches!(tree.look(&check), Verdict::Fail(_)));
    assert_eq!(tree.repair(&check), 1);
    let Verdict::Fail(seen) = tree.look(&check) else { panic!("nothing starts it yet") };
    assert!(seen.contains("nothing starts it"), "{seen}");
    let wants = tree.path("etc/systemd/system/multi-user.target.wants/kiln-fetch-key.service");
    symlink("/etc/systemd/system/kiln-fetch-key.service", wants).unwrap();
    assert!(matches!(tree.look(&check), Verdict::Pass(_)));
}

#[test]
fn keys_and_typing_mistakes_of_consoles() {
    let tree = Tree::new();
    let script = "curl http://169.254.169.254/latest/meta-data/public-keys/0/openssh-key >>/root/.ssh/authorized_keys\n";
    let check = Check::SshKey(KeyWay::Script);
    tree.write("etc/rc.local", script);
    assert!(matches!(tree.look(&check), Verdict::Pass(_)));
    for (right, typed) in [("http://", "http;//"), ("authorized_keys", "authorized-keys")] {
        tree.write("etc/rc.local", &script.replace(right, typed));
        let Verdict::Fail(seen) = tree.look(&check) else { panic!("{typed}") };
        assert!(seen.contains(typed), "{seen}");
    }
}

#[test]
fn a_guest_on_lvm_needs_a_script_to_grow() {
    let tree = Tree::new();
    let mut disk = disk();
    disk.partitions[1].kind = Some("LVM2_member".to_owned());
    let look_at =
        |disk: &DiskView| tree.with(disk, |subject| look(subject, &Check::Growth).unwrap());
    assert!(matches!(look_at(&disk), Verdict::Fail(_)));
    let text = match tree.with(&disk, |subject| remedy(subject, &Check::Growth)) {
        Remedy::Steps(text) => text,
        Remedy::Advice(advice) => panic!("{advice}"),
    };
    let steps: Vec<StepKind<Snapshot>> = lower::steps(&text);
    let root = GuestRoot::open(tree.0.path()).unwrap();
    let guest = Guest::inspect(&root).unwrap();
    for step in steps.iter().filter(|step| matches!(step, StepKind::Mkdir(_) | StepKind::Write(_)))
    {
        apply(&root, &guest, step).unwrap();
    }
    assert!(matches!(look_at(&disk), Verdict::Pass(_)));
}

#[test]
fn scripts_that_kiln_writes_are_read_by_a_shell() {
    for name in ["fetch-key.sh", "grow-lvm.sh"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit").join(name);
        let status = std::process::Command::new("sh").arg("-n").arg(&path).status().unwrap();
        assert!(status.success(), "{name}");
    }
}

#[test]
fn reports_are_for_machines_too() {
    let tree = Tree::new();
    tree.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    let report = tree.audit(&disk(), "nocloud");
    insta::assert_snapshot!(report.junit("a <b> & \"c\"\u{1b}", "nocloud"));
    let back: AuditReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(back, report);
}

#[test]
fn a_remedy_of_a_profiles_own_is_left_to_its_step() {
    let tree = Tree::new();
    tree.remove("usr/bin/growpart");
    tree.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    let mut profile = lower::own_profiles()["openstack"].clone();
    let growth = profile.requirements.iter_mut().find(|known| known.requirement.name == "growth");
    growth.unwrap().remedy = vec![StepKind::Update];
    let report = tree.audit(&disk(), "openstack").with_remedies_of(&profile);
    let advice: Vec<_> = report.failures().map(|finding| finding.advice.as_deref()).collect();
    let own = "the step `profile \"openstack\"` repairs it";
    assert_eq!(advice, [Some(own), Some(kiln::audit::LEFT_TO_SEAL)]);
    assert!(report.failures().all(|finding| finding.steps.is_none()));
}

#[test]
fn a_hostile_guest_is_looked_at_all_the_same() {
    let hardened = requirements("hardened");
    let looked = |tree: &Tree| {
        let report = tree.with(&disk(), |subject| audit(subject, &hardened).unwrap());
        assert_eq!(report.findings.len(), hardened.len());
        report
    };
    let circle = Tree::new();
    circle.remove("etc/cloud/cloud.cfg");
    symlink("/etc/cloud/cloud.cfg", circle.path("etc/cloud/cloud.cfg")).unwrap();
    let unknown = |finding: &&kiln::audit::Finding| matches!(finding.verdict, Verdict::Unknown(_));
    assert!(looked(&circle).findings.iter().filter(unknown).count() > 0);

    let deep = Tree::new();
    deep.write("etc/cloud/cloud.cfg.d/1.cfg", &"[".repeat(100_000));
    let bomb = (1..60).fold("a0: &a0 [1]\n".to_owned(), |text, n| {
        text + &format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)
    });
    deep.write("etc/cloud/cloud.cfg.d/2.cfg", &bomb);
    deep.write(
        "etc/ssh/sshd_config",
        "Include ../../../../*\nMatch all\nPasswordAuthentication no\n",
    );
    assert_eq!(failed(&looked(&deep)), ["password-login"]);

    let terminal = Tree::new();
    terminal.write("etc/ssh/ssh_host_\u{1b}[31m_key", "k\n");
    let report = looked(&terminal);
    assert_eq!(failed(&report), ["host-keys", "password-login"]);
    assert!(
        !report.text("x", "profile hardened", kiln::audit::Style::default()).contains('\u{1b}')
    );
}
