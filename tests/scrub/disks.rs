//! The items that look at or change the disk: file systems with new ids, and whole seals on a disk
//! that is made here.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kiln::digest::Digest;
use kiln::disk::partitions::probe;
use kiln::disk::{ids, mounts};

use super::Mounted;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}{errors}");
    said
}

/// A file on a loop device; let go when this is dropped, also by a failed test.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn file_systems_get_new_ids_and_keep_their_files() {
    // The second is what kiln's own bases have: every checksum of metadata holds the id.
    for (kind, make, check) in [
        ("ext2", &["mkfs.ext2", "-q"][..], &["e2fsck", "-fn"][..]),
        (
            "ext4",
            &["mkfs.ext4", "-q", "-O", "metadata_csum,^metadata_csum_seed"],
            &["e2fsck", "-fn"],
        ),
        (
            "ext4",
            &["mkfs.ext4", "-q", "-O", "metadata_csum,metadata_csum_seed"],
            &["e2fsck", "-fn"],
        ),
        ("xfs", &["mkfs.xfs", "-q"], &["xfs_repair", "-n"]),
        ("btrfs", &["mkfs.btrfs", "-q"], &["btrfs", "check", "-q"]),
        ("swap", &["mkswap"], &[]),
    ] {
        let top = tempfile::tempdir().unwrap();
        let image = top.path().join("image");
        fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let image = image.to_str().unwrap();
        run(make[0], &[&make[1..], &[image]].concat());
        let device = run("losetup", &["--find", "--show", image]).trim().to_owned();
        let device = Loop(device);
        let mount = |read_only: bool| -> Option<Mounted> {
            let at = top.path().join("mounted");
            fs::create_dir_all(&at).unwrap();
            let mut flags = rustix::mount::MountFlags::NOATIME;
            if read_only {
                flags |= rustix::mount::MountFlags::RDONLY;
            }
            match rustix::mount::mount(&device.0, &at, kind, flags, None) {
                Ok(()) => Some(Mounted(at)),
                // A kernel may lack a file system.
                Err(rustix::io::Errno::NODEV) => None,
                Err(errno) => panic!("{kind}: {errno}"),
            }
        };
        let mounted = if kind == "swap" { None } else { mount(false) };
        if let Some(mounted) = &mounted {
            fs::write(mounted.0.join("file"), "content").unwrap();
        }
        let was_mounted = mounted.is_some();
        drop(mounted);

        let found = || mounts::file_system(PathBuf::from(&device.0), None).unwrap().unwrap();
        let (ids, kept) = ids::new_ids(&[found()], Digest::of(b"seed"));
        assert_eq!(kept, Vec::<String>::new());
        let [id] = ids.as_slice() else { panic!("{kind}: {ids:?}") };
        id.write().unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(found().uuid.as_ref(), Some(&id.new), "{kind}");
        if let [program, arguments @ ..] = check {
            run(program, &[arguments, &[device.0.as_str()]].concat());
        }
        if was_mounted {
            let mounted = mount(true).unwrap();
            assert_eq!(fs::read_to_string(mounted.0.join("file")).unwrap(), "content");
        }
        eprintln!("{kind}: mounted {was_mounted}");
    }
}

/// Makes a raw disk of a guest with `/`, swap and `/home`, and gives the ids of the three.
fn make_disk(directory: &Path) -> (PathBuf, Vec<String>) {
    const MIB: u64 = 1 << 20;
    let tree = directory.join("tree");
    let ids: Vec<String> =
        (1..=3).map(|n| format!("0a1b2c3d-1111-4111-8111-00000000000{n}")).collect();
    let mut header = fs::read("/proc/self/exe").unwrap();
    header.truncate(64);
    let fstab = format!(
        "UUID={} / ext4 defaults 0 1\nUUID={} none swap sw 0 0\nUUID={} /home ext4 defaults 0 2\n",
        ids[0], ids[1], ids[2]
    );
    for (path, content) in [
        ("bin/sh", header.as_slice()),
        ("etc/os-release", b"ID=debian\n"),
        ("etc/fstab", fstab.as_bytes()),
        ("usr/bin/apt-get", b""),
        ("var/lib/dpkg/status", b""),
        ("home/under/the/mount", b""),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let disk = directory.join("disk.raw");
    let file = fs::File::create(&disk).unwrap();
    file.set_len(100 * MIB).unwrap();
    let tree = tree.to_str().unwrap();
    for ((number, start), make) in (1..).zip([1, 41, 51]).zip([
        &["mkfs.ext4", "-q", "-O", "metadata_csum,^metadata_csum_seed", "-d", tree][..],
        &["mkswap"],
        &["mkfs.ext4", "-q", "-O", "^metadata_csum"],
    ]) {
        let part = directory.join(format!("part-{number}"));
        let size = if number == 2 { 10 } else { 40 };
        fs::File::create(&part).unwrap().set_len(size * MIB).unwrap();
        let arguments = [&make[1..], &["-U", &ids[number - 1], part.to_str().unwrap()]].concat();
        run(make[0], &arguments);
        file.write_all_at(&fs::read(part).unwrap(), start * MIB).unwrap();
    }
    let mut sfdisk = std::process::Command::new("sfdisk")
        .args(["-q", disk.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let table = "label: gpt\n1: start=1MiB, size=40MiB\n2: start=41MiB, size=10MiB, type=swap\n\
        3: start=51MiB, size=40MiB\n4: start=91MiB, size=4MiB, type=lvm\n";
    sfdisk.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    (disk, ids)
}

/// A label as `pvcreate` writes it into the second sector. Source: LVM2's `lib/label/label.h` and
/// `lib/misc/crc.c`.
fn lvm_label() -> [u8; 512] {
    let mut label = [0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8..16].copy_from_slice(&1_u64.to_le_bytes());
    label[20..24].copy_from_slice(&32_u32.to_le_bytes());
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"0123456789abcdefghijklmnopqrstuv");
    let mut crc = 0xf597_a6cf_u32;
    for &byte in &label[20..] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    label[16..20].copy_from_slice(&crc.to_le_bytes());
    label
}

/// Builds an image with items beside the default set in a store of its own: how kiln ended, what it
/// said, and where the disk is.
fn build(space: &Path, disk: &Path, also: &str) -> (bool, String, PathBuf) {
    let workspace = space.join("workspace");
    fs::create_dir_all(workspace.join("recipes")).unwrap();
    fs::copy(disk, workspace.join("recipes/disk.raw")).unwrap();
    let recipe = format!(
        "image \"t\" {{\n    base file \"disk.raw\" format=\"raw\"\n    scrub {{ also \"{also}\"; }}\n    output \"raw\"\n}}\n"
    );
    fs::write(workspace.join("recipes/t.kdl"), recipe).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kiln"))
        .arg("--store")
        .arg(space.join("store"))
        .arg("-C")
        .arg(&workspace)
        .args(["build", "t", "--progress", "plain", "--verbose"])
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said, workspace.join("out/t.raw"))
}

#[test]
fn a_sealed_disk_has_new_ids_wherever_they_stand() {
    let top = tempfile::tempdir().unwrap();
    let (disk, old) = make_disk(top.path());
    let part = top.path().join("part");
    let mut runs = Vec::new();
    for name in ["here", "elsewhere"] {
        let (built, said, output) = build(&top.path().join(name), &disk, "fs-uuids");
        assert!(built, "{said}");
        let sealed = fs::File::open(output).unwrap();
        let mut ids = Vec::new();
        for (start, size) in [(1, 40_usize), (41, 10), (51, 40)] {
            let mut bytes = vec![0; size << 20];
            sealed.read_exact_at(&mut bytes, start << 20).unwrap();
            fs::write(&part, bytes).unwrap();
            ids.extend(probe(&part).unwrap().uuid);
            let part = part.to_str().unwrap();
            if start != 41 {
                run("e2fsck", &["-fn", part]);
            }
            if start == 1 {
                runs.push(run("debugfs", &["-R", "cat /etc/fstab", part]));
            }
        }
        for (old, new) in old.iter().zip(&ids) {
            assert_ne!(old, new);
            assert!(said.contains(&format!("{old}: {new}")), "{said}");
            assert!(runs.last().unwrap().contains(new) && !runs.last().unwrap().contains(old));
        }
        assert_eq!(ids.len(), 3);
    }
    assert_eq!(runs[0], runs[1], "two machines have made other ids");
}

#[test]
fn a_disk_of_lvm_is_known_by_its_label() {
    let top = tempfile::tempdir().unwrap();
    let (disk, _) = make_disk(top.path());
    let (built, said, _) = build(&top.path().join("without"), &disk, "lvm-uuids");
    assert!(built, "{said}");
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&lvm_label(), (91 << 20) + 512).unwrap();
    let (built, said, _) = build(&top.path().join("with"), &disk, "lvm-uuids");
    assert!(!built && said.contains("kiln::guest::lvm_ids"), "{said}");
}
