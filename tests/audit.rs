//! Audits of trees on the host that look like guests: each requirement met, not met, and repaired by
//! kiln's own remedy.
//!
//! Disks that are mounted, and programs that remedies run, are the end-to-end tests'.

#[path = "audit/shell.rs"]
mod shell;
#[path = "audit/systems.rs"]
mod systems;
#[path = "audit/tree.rs"]
mod tree;
#[path = "audit/unreadable.rs"]
mod unreadable;

use std::os::unix::fs::symlink;

use kiln::audit::{AuditReport, DiskView, PartView, Remedy, Verdict, look, remedy};
use kiln::guest::root::GuestRoot;
use kiln::guest::{Guest, Snapshot, apply};
use kiln::lower;
use kiln::recipe::{Check, KeyWay, StepKind};

use tree::{Tree, disk};

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
    tree.write("tmp/builder.log", "x");
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
    tree.write("usr/bin/curl", "");
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
    let Verdict::Fail(seen) = tree.look(&check) else { panic!("nobody runs it without its mode") };
    assert!(seen.contains("nothing starts it"), "{seen}");
    tree.set_executable("etc/rc.local");
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
    disk.partitions[1].target = None;
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
    let Verdict::Fail(seen) = look_at(&disk) else { panic!("nothing starts it yet") };
    assert!(seen.contains("nothing starts it"), "{seen}");
    let unit = "/etc/systemd/system/kiln-grow-lvm.service";
    tree.link(unit, "etc/systemd/system/multi-user.target.wants/kiln-grow-lvm.service");
    assert!(matches!(look_at(&disk), Verdict::Pass(_)));
    assert!(text.contains("install \"parted\"") && text.contains("install \"gdisk\""), "{text}");
    // A data partition of LVM is nobody's root.
    disk.partitions[1] = tree::disk().partitions[1].clone();
    disk.partitions[0].kind = Some("LVM2_member".to_owned());
    let Verdict::Pass(seen) = look_at(&disk) else { panic!("cloud-init makes the root larger") };
    assert!(seen.contains("growpart"), "{seen}");
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
