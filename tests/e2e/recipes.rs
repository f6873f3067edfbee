//! The recipes of this repository, built as a user would: images on images, and what they promise.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::guest_space::{Mounted, Space, run};

/// Copies the repository's recipes into a space.
fn take_recipes(space: &Space) {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    run(Command::new("cp").arg("-a").arg(recipes.join(".")).arg(space.path("recipes")));
}

/// An output as a raw file.
fn raw(space: &Space, image: &str) -> std::path::PathBuf {
    let target = space.path(&format!("{image}.raw"));
    run(Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(space.path(&format!("out/{image}.qcow2")))
        .arg(&target));
    target
}

#[test]
fn three_images_on_one_golden() {
    let space = Space::new("");
    take_recipes(&space);
    let images = ["debian-hardened", "ci-runner", "debian-selinux"];
    let done = space.build_ok(&images);
    let ran = done.ran();
    for shared in ["debian-golden/install", "debian-hardened/install"] {
        assert_eq!(ran.iter().filter(|step| *step == shared).count(), 1, "{done}");
    }
    // The base is that of the golden image of these tests, which is cached.
    assert!(!ran.iter().any(|step| step.ends_with("/base")), "{done}");

    let hardened = Mounted::root_of(&raw(&space, "debian-hardened"));
    let sshd = hardened.read("/etc/ssh/sshd_config");
    for line in ["PasswordAuthentication no", "PermitRootLogin no", "X11Forwarding no"] {
        assert_eq!(sshd.lines().filter(|found| *found == line).count(), 1, "{line}: {sshd}");
    }
    let mode = |path: &str| fs::metadata(hardened.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("/etc/crontab"), mode("/etc/cron.d")), (0o600, 0o700));
    let enabled = "/etc/systemd/system/sysinit.target.wants/nftables.service";
    assert!(fs::symlink_metadata(hardened.join(enabled)).is_ok());
    drop(hardened);

    let runner = Mounted::root_of(&raw(&space, "ci-runner"));
    assert!(runner.read("/etc/passwd").contains("runner:"));
    assert_ne!(fs::metadata(runner.join("/srv/jobs")).unwrap().uid(), 0);
    assert!(runner.read("/etc/ssh/sshd_config").contains("\nPermitRootLogin no\n"));
    assert!(runner.join("/usr/bin/git").exists());
    drop(runner);

    let text = fs::read(space.path("out/debian-selinux.qcow2.json")).unwrap();
    let description: Value = serde_json::from_slice(&text).unwrap();
    let labels = &description["report"]["labels"]["relabelled"];
    assert!(labels["files"].as_u64().unwrap() > 10_000, "{labels}");
    assert_eq!(labels["verified"]["mismatches"], 0, "{labels}");

    assert_eq!(space.build_ok(&images).ran(), [""; 0]);
    space.assert_clean("after the recipes");
}
