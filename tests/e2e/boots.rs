//! `kiln test` and `kiln boot` on a real Debian: a good image passes, and what is sabotaged is found
//! out.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::guest_space::{Space, need};

const TOOLS: [(&str, &str); 2] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("ssh", "openssh-client")];

/// Gives a file of the image another label than the policy's.
const WRONG: &str = r#"#!/bin/sh
python3 -c 'import os; os.setxattr("/usr/bin/env", "security.selinux", b"system_u:object_r:tmp_t:s0\0")'
"#;

/// Builds an image, and then tests it beside what others build.
fn tested(recipe: &str) -> (Space, Value, Option<i32>) {
    need(&TOOLS);
    let mut space = Space::new(recipe);
    // Beside the recipe, for the image that names it.
    space.file("recipes/wrong.sh", WRONG);
    space.build_ok(&["booted"]);
    space.end_turn();
    let (answer, code) = test(&space);
    (space, answer, code)
}

fn test(space: &Space) -> (Value, Option<i32>) {
    let started = Instant::now();
    let output = space.command(&["test", "booted", "--json"]).output().unwrap();
    println!("a test took {:.0?}", started.elapsed());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    (answer, output.status.code())
}

/// The names of what was not seen.
fn failed(answer: &Value) -> Vec<&str> {
    let findings = answer["findings"].as_array().unwrap().iter();
    let failed = findings.filter(|found| found["verdict"] == "fail");
    failed.map(|found| found["name"].as_str().unwrap()).collect()
}

#[test]
fn a_good_debian_passes_once() {
    let (space, answer, code) = tested(
        r#"image "booted" {
    base image "golden"
    output "raw"
    test {
        user "debian"
        expect "Reached target"
        expect-command "systemctl is-active ssh.service" output="active"
    }
}
"#,
    );
    assert_eq!((failed(&answer), code), (vec![], Some(0)), "{answer:#}");
    assert_eq!(answer["cached"], false);
    space.assert_clean("after a boot test");
    let started = Instant::now();
    let (again, code) = test(&space);
    assert_eq!((again["cached"].as_bool(), code), (Some(true), Some(0)));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(again["findings"], answer["findings"]);
}

#[test]
fn a_lost_console_and_a_label_that_the_boot_changes_are_found_out() {
    let (_, answer, code) = tested(
        r#"image "booted" {
    base image "golden"
    run-command "sed -i 's/console=ttyS0[^ \"]*//g' /etc/default/grub; rm -f /etc/default/grub.d/*.cfg; update-grub"
    install "policycoreutils" "selinux-policy-default" recommends=#false
    write "/etc/selinux/config" "SELINUX=permissive\nSELINUXTYPE=default"
    firstboot "wrong.sh"
    output "raw"
    test { without "clones"; metadata "config-drive"; }
}
"#,
    );
    assert_eq!((failed(&answer), code), (vec!["console", "labels"], Some(1)), "{answer:#}");
    let labels = answer["findings"].as_array().unwrap().iter().find(|it| it["name"] == "labels");
    let seen = labels.unwrap()["seen"].as_str().unwrap();
    assert_eq!(seen, "the boot changed those of /usr/bin/env");
}

#[test]
fn cloud_init_that_is_off_is_found_out() {
    let (space, answer, code) = tested(
        r#"image "booted" {
    base image "golden"
    write "/etc/cloud/cloud-init.disabled" ""
    output "raw"
    test timeout="4m" { without "clones"; metadata "service"; }
}
"#,
    );
    let all = ["hostname", "user-data", "key", "ssh", "growth"];
    assert_eq!((failed(&answer), code), (all.to_vec(), Some(1)), "{answer:#}");
    space.assert_clean("after a boot test that failed");
}

#[test]
fn a_baked_machine_id_is_found_out() {
    // On the golden image's own base: whatever stands on the image inherits that it is scrubbed.
    let (_, answer, code) = tested(
        r#"image "booted" {
    base bootstrap "bookworm" size="3G"
    write "/etc/machine-id" "0123456789abcdef0123456789abcdef"
    scrub { keep "machine-id"; }
    output "raw"
    test { metadata "nocloud"; }
}
"#,
    );
    assert_eq!((failed(&answer), code), (vec!["clones"], Some(1)), "{answer:#}");
}

#[test]
fn a_console_is_connected_until_its_end() {
    need(&TOOLS);
    let mut space = Space::new("image \"booted\" { base image \"golden\"; output \"raw\"; }");
    space.build_ok(&["booted"]);
    space.end_turn();
    let disk = space.path("out/booted.raw");
    let before = std::fs::metadata(&disk).unwrap().modified().unwrap();
    let mut command = space.command(&["boot", disk.to_str().unwrap()]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The boot loader waits for somebody to choose; a kernel follows.
    child.stdin.take().unwrap().write_all(b"\r").unwrap();
    let (mut shown, mut bytes) = (Vec::new(), [0; 4096]);
    let mut stdout = child.stdout.take().unwrap();
    let deadline = Instant::now() + Duration::from_mins(5);
    while !String::from_utf8_lossy(&shown).contains("Linux version") {
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&shown));
        let count = stdout.read(&mut bytes).unwrap();
        assert!(count > 0, "the machine ended: {}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&bytes[..count]);
    }
    crate::guest_space::signal(child.id(), rustix::process::Signal::INT);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(std::fs::metadata(&disk).unwrap().modified().unwrap(), before);
    space.assert_clean("after a machine was left");
}
