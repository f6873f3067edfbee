//! Seed disks, as the tools of a host and cloud-init's own check of the label see them.

use std::path::Path;
use std::process::Command;

use kiln::seed::{self, NoCloud};

/// What a program says; it must succeed.
fn run(program: &str, arguments: &[&str], disk: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .arg(disk)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; see `kiln doctor --tests`"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The content of a file, as mtools read it.
fn content(disk: &Path, path: &str) -> Vec<u8> {
    let output = Command::new("mtype")
        .args(["-i", disk.to_str().unwrap(), &format!("::{path}")])
        .output()
        .expect("mtools; see `kiln doctor --tests`");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn hosts_find_the_label_and_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let large = vec![b'x'; 10 << 20];
    let files: &[(&str, &[u8])] = &[
        ("openstack/latest/meta_data.json", b"{\"uuid\": \"one\"}"),
        ("openstack/latest/user_data", b"#!/bin/sh\necho \xff\n"),
        ("openstack/content/0000", &large),
        ("ec2/latest/meta-data.json", b""),
    ];
    for (label, files) in [
        (seed::CONFIG_DRIVE, files),
        (seed::CONFIG_DRIVE, &files[..2]),
        (seed::NO_CLOUD, &files[1..2]),
        (seed::NO_CLOUD, &[]),
    ] {
        let disk = directory.path().join("disk.img");
        std::fs::write(&disk, seed::disk(label, files).unwrap()).unwrap();
        // The superblock alone, as udev reads it.
        assert_eq!(
            run("blkid", &["-p", "-o", "value", "-s", "LABEL"], &disk),
            format!("{label}\n")
        );
        let kind = run("blkid", &["-p", "-o", "value", "-s", "TYPE"], &disk);
        assert_eq!(kind, "vfat\n");
        let checked = run("fsck.fat", &["-n", "-v"], &disk);
        for fault in ["Dirty", "differ", "Wrong", "Label", "reclaim", "free cluster summary"] {
            assert!(!checked.contains(fault), "{checked}");
        }
        for (path, bytes) in files {
            assert_eq!(content(&disk, path), *bytes, "{path}");
        }
        if !files.is_empty() {
            let listed = run("mdir", &["-/", "-b", "-i", disk.to_str().unwrap()], Path::new("::"));
            assert_eq!(listed.lines().filter(|line| !line.ends_with('/')).count(), files.len());
        }
    }
}

#[test]
fn a_seed_of_no_cloud_has_its_three_files() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("seed.img");
    let no_cloud = NoCloud {
        user_data: b"#cloud-config\n{}\n".to_vec(),
        hostname: Some("web".to_owned()),
        keys: vec!["ssh-ed25519 AAAA one".to_owned()],
        network_config: Some(b"version: 2\n".to_vec()),
    };
    std::fs::write(&disk, no_cloud.disk().unwrap()).unwrap();
    assert_eq!(content(&disk, "user-data"), no_cloud.user_data);
    assert_eq!(content(&disk, "meta-data"), no_cloud.meta_data().into_bytes());
    assert_eq!(content(&disk, "network-config"), b"version: 2\n");
}
