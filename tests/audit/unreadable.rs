//! What hides a guest's files from an audit, and what must not come of it.

use std::os::unix::fs::symlink;

use kiln::audit::{AuditReport, Finding, Style, Verdict, audit, of_unreadable, quoted};
use kiln::guest::Snapshot;
use kiln::lower;
use kiln::recipe::{Check, StepKind};

use crate::tree::{Tree, disk, requirements};

fn hardened(tree: &Tree) -> AuditReport {
    let requirements = requirements("hardened");
    let report = tree.with(&disk(), |subject| audit(subject, &requirements).unwrap());
    assert_eq!(report.findings.len(), requirements.len());
    report
}

fn failed(report: &AuditReport) -> Vec<&str> {
    report.failures().map(|finding| finding.name.as_str()).collect()
}

fn is_unknown(finding: &Finding) -> bool {
    matches!(finding.verdict, Verdict::Unknown(_))
}

#[test]
fn a_link_in_circles_does_not_go_round_a_requirement() {
    let tree = Tree::new();
    tree.remove("etc/cloud/cloud.cfg");
    symlink("/etc/cloud/cloud.cfg", tree.path("etc/cloud/cloud.cfg")).unwrap();
    let report = hardened(&tree);
    let unknown: Vec<_> = report.findings.iter().filter(|finding| is_unknown(finding)).collect();
    assert!(unknown.iter().any(|finding| finding.name == "root-login"), "{report:#?}");
    assert!(unknown.iter().all(|finding| finding.is_failure()));
    // What can be seen all the same is seen.
    tree.write("etc/shadow", "root:$y$j9T$x:1::::::\n");
    assert!(matches!(tree.look(&Check::RootLogin), Verdict::Fail(_)));
    tree.write("etc/shadow", "root:!:1::::::\n");
    tree.write("etc/passwd", "root::0:0:root:/root:/bin/sh\n");
    let Verdict::Fail(seen) = tree.look(&Check::RootLogin) else { panic!("no password at all") };
    assert!(seen.contains("/etc/passwd"), "{seen}");
}

#[test]
fn yaml_that_is_no_yaml_is_not_left_out() {
    let tree = Tree::new();
    // PyYAML takes the last of two equal keys.
    tree.write("etc/cloud/cloud.cfg.d/1.cfg", "disable_root: true\ndisable_root: false\n");
    let Verdict::Fail(seen) = tree.look(&Check::RootLogin) else { panic!("root gets keys") };
    assert!(seen.contains("disable_root: false"), "{seen}");
    tree.write("etc/cloud/cloud.cfg.d/1.cfg", &"[".repeat(100_000));
    let report = hardened(&tree);
    assert!(failed(&report).contains(&"root-login"), "{report:#?}");
    let bomb = (1..60).fold("a0: &a0 [1]\n".to_owned(), |text, n| {
        text + &format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)
    });
    tree.write("etc/cloud/cloud.cfg.d/1.cfg", &bomb);
    assert!(matches!(tree.look(&Check::RootLogin), Verdict::Unknown(_)));
    // A list says nothing, to cloud-init either.
    tree.write("etc/cloud/cloud.cfg.d/1.cfg", "- a\n");
    assert!(matches!(tree.look(&Check::RootLogin), Verdict::Pass(_)));
}

#[test]
fn a_hostile_boot_loader_is_unknown() {
    let tree = Tree::new();
    tree.write("boot/grub/grub.cfg", &"linux /vmlinuz console=ttyS0\n".repeat(10_000));
    assert!(matches!(tree.look(&Check::BootEntries), Verdict::Unknown(_)));
    let double = "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX$GRUB_CMDLINE_LINUX\"\n".repeat(40);
    let tree = Tree::new();
    tree.write("etc/default/grub", &format!("GRUB_CMDLINE_LINUX=\"a \"\n{double}"));
    assert!(matches!(tree.look(&Check::BootEntries), Verdict::Unknown(_)));
    let tree = Tree::new();
    tree.write("boot/grub2/grubenv", &"a=x\n".repeat(1000));
    let Verdict::Fail(seen) = tree.look(&Check::BootEntries) else { panic!("no environment") };
    assert!(seen.contains("grubenv"), "{seen}");
}

#[test]
fn what_drives_a_terminal_is_escaped() {
    let tree = Tree::new();
    tree.write("etc/ssh/ssh_host_\u{1b}[31m_key", "k\n");
    tree.write(
        "etc/ssh/sshd_config",
        "Include ../../../../*\nMatch all\nPasswordAuthentication no\n",
    );
    let report = hardened(&tree);
    assert_eq!(failed(&report), ["host-keys", "password-login"]);
    assert!(!report.text("x", "hardened", Style::default()).contains('\u{1b}'));
}

#[test]
fn a_disk_that_cannot_be_opened_is_an_error_to_a_ci_server() {
    let requirements = requirements("openstack");
    let report = of_unreadable(&requirements, None, "no root\u{1b}[31m");
    assert_eq!(report.unreadable.as_deref(), Some("no root\\u{1b}[31m"));
    let junit = report.junit("disk.qcow2", "openstack");
    let all = requirements.len();
    assert!(junit.contains(&format!("tests=\"{all}\" failures=\"0\" errors=\"{all}\"")), "{junit}");
    assert_eq!(junit.matches("<error message=").count(), all);
    // No size is known, so none is written.
    let table = of_unreadable(&requirements, Some("it overlaps"), "the table makes no sense");
    assert_eq!(failed(&table).len(), table.failures().count());
    assert!(table.recipe("a", "base file \"a\"", "openstack").contains("base file \"a\"\n"));
}

proptest::proptest! {
    #[test]
    fn every_text_of_a_guest_can_stand_in_a_recipe(text in "([a-z\"#\\\\\r\n\t ]|[\u{1}-\u{1f}]|[\u{7f}-\u{a0}]|\u{2028}|\u{2029}|\u{202e}|\u{2066}|\u{feff}|.){0,30}") {
        let step = format!("write \"/etc/x\" {}", quoted(&text));
        let steps: Vec<StepKind<Snapshot>> = lower::steps(&step);
        let StepKind::Write(write) = &steps[0] else { panic!("{steps:?}") };
        let (written, text) = (serde_json::to_string(write).unwrap(), serde_json::to_string(&text).unwrap());
        proptest::prop_assert!(written.contains(text.trim_matches('"')), "{}", written);
    }
}
