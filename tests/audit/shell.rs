//! kiln's scripts for guests, run here with programs that stand in for those of a guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/remedy").join(name)
}

/// A directory of programs that stand before the host's own.
struct Programs(tempfile::TempDir);

impl Programs {
    fn new(programs: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, body) in programs {
            let path = directory.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(directory)
    }

    fn run(&self, text: &str) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        Command::new("sh").args(["-c", text]).env("PATH", path).output().unwrap()
    }
}

#[test]
fn scripts_are_read_by_a_shell() {
    for name in ["entries.sh", "fetch-key.sh", "grow-lvm.sh"] {
        let status = Command::new("sh").arg("-n").arg(script(name)).status().unwrap();
        assert!(status.success(), "{name}");
    }
}

#[test]
fn every_key_is_added_once() {
    let home = tempfile::tempdir().unwrap();
    let ssh = home.path().join(".ssh");
    let text = fs::read_to_string(script("fetch-key.sh")).unwrap();
    let text = text.replace("directory=/root/.ssh", &format!("directory={}", ssh.display()));
    let programs = Programs::new(&[
        ("curl", "printf 'ssh-ed25519 A one\\n-e odd\\n\\nssh-rsa B two'"),
        ("restorecon", ":"),
    ]);
    for _ in 0..2 {
        let output = programs.run(&text);
        assert!(output.status.success(), "{output:?}");
    }
    let file = ssh.join("authorized_keys");
    assert_eq!(fs::read_to_string(&file).unwrap(), "ssh-ed25519 A one\n-e odd\nssh-rsa B two\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&ssh).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_cannot_be_grown_says_so() {
    let text = fs::read_to_string(script("grow-lvm.sh")).unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let said = |name: &str| format!("echo {name} \"$@\" >>{}", log.path().display());
    let (pvcreate, vgextend, lvextend) = (said("pvcreate"), said("vgextend"), said("lvextend"));
    let with = |parted: &'static str| {
        vec![
            ("findmnt", "case $* in *SOURCE*) echo /dev/vg/root ;; *) echo ext4 ;; esac"),
            ("lvs", "echo '  vg'"),
            ("pvs", "echo '  /dev/vda2'"),
            ("lsblk", "echo vda"),
            ("sgdisk", ":"),
            ("partprobe", ":"),
            ("udevadm", ":"),
            ("resize2fs", ":"),
            ("pvcreate", pvcreate.as_str()),
            ("vgextend", vgextend.as_str()),
            ("lvextend", lvextend.as_str()),
            ("parted", parted),
        ]
    };
    // The table cannot be read.
    assert!(!Programs::new(&with("exit 1")).run(&text).status.success());
    // Nothing is free.
    let full = Programs::new(&with("echo '1:0.02MiB:1.00MiB:0.98MiB:free;'")).run(&text);
    assert!(full.status.success(), "{full:?}");
    assert!(String::from_utf8_lossy(&full.stdout).contains("nothing is free"));
    // The new partition never comes up.
    let lost = "case $* in *mkpart*) ;; *) echo '1:100MiB:900MiB:800MiB:free;' ;; esac";
    let output = Programs::new(&with(lost)).run(&text);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("has not come up"), "{output:?}");
    assert_eq!(fs::read_to_string(log.path()).unwrap(), "");
}
