//! A real Debian that is broken in several ways is found out, repaired, and good again.

use std::process::Command;

use serde_json::Value;

use crate::guest_space::{Space, run};

const BROKEN: &str = r#"image "broken" {
    base image "golden"
    uninstall "cloud-guest-utils"
    run-command "sed -i 's/console=ttyS0[^ \"]*//g' /etc/default/grub; rm -f /etc/default/grub.d/*.cfg; update-grub"
    run-command "systemctl disable ssh.service"
    write "/etc/cloud/cloud-init.disabled" ""
    write "/etc/cloud/cloud.cfg.d/50.cfg" "datasource_list: [ None ]"
    output "raw"
}
"#;
const FAILED: [&str; 7] =
    ["ssh-server", "cloud-init", "datasources", "ssh-key", "growth", "console", "host-keys"];

/// The names of the requirements that an image does not meet, and the exit code.
fn failures(space: &Space, what: &str) -> (Vec<String>, Option<i32>) {
    let output = space.command(&["check-image", what, "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let findings = answer["findings"].as_array().unwrap();
    let failed =
        findings.iter().filter(|found| found["verdict"] == "fail" && found["severity"] == "error");
    (failed.map(|found| found["name"].as_str().unwrap().to_owned()).collect(), output.status.code())
}

#[test]
fn a_broken_debian_is_found_out_and_repaired() {
    let space = Space::new(BROKEN);
    space.build_ok(&["broken"]);
    let disk = space.path("out/broken.raw");
    let before = std::fs::metadata(&disk).unwrap().modified().unwrap();
    // As a file that kiln need not have made, and as an image of the workspace.
    let (of_file, code) = failures(&space, disk.to_str().unwrap());
    assert_eq!(code, Some(1));
    assert_eq!(of_file, FAILED);
    assert_eq!(failures(&space, "broken"), (of_file, Some(1)));
    assert_eq!(std::fs::metadata(&disk).unwrap().modified().unwrap(), before);

    // The seal does not let it pass.
    space.recipe(&BROKEN.replace(
        "    output",
        "    profile \"openstack\"\n    write \"/etc/cloud/cloud-init.disabled\" \"\"\n    output",
    ));
    space.build(&["broken"]).assert_fails(1, &["`/etc/cloud/cloud-init.disabled` switches it off"]);
    space.assert_clean("after a requirement that failed");

    space.recipe(BROKEN);
    std::fs::rename(&disk, space.path("recipes/disk.raw")).unwrap();
    let fix = space.path("recipes/fix.kdl");
    let disk = space.path("recipes/disk.raw");
    let output = space
        .command(&["check-image", disk.to_str().unwrap(), "--fix", fix.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    space.build_ok(&["disk-fixed"]);
    assert_eq!(failures(&space, "disk-fixed"), (Vec::new(), Some(0)));
    run(Command::new("qemu-img")
        .args(["check", "-q", "-f", "qcow2"])
        .arg(space.path("out/disk-fixed.qcow2")));
    space.assert_clean("after a repair");
}
