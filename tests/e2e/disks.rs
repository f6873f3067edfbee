//! Disks that kiln divides and grows, by the judgement of the file systems' own tools, and of the
//! machines that they boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::boot::boot;
use crate::guest_space::{Space, need, run};

const MIB: u64 = 1 << 20;

const TOOLS: &[(&str, &str)] = &[
    ("losetup", "mount"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.vfat", "dosfstools"),
    ("fsck.vfat", "dosfstools"),
    ("mcopy", "mtools"),
];

/// A part of a file as a block device, for reading only.
struct Device {
    node: String,
}

impl Device {
    fn of(raw: &Path, part: &Part) -> Self {
        let (start, size) = (part.start.to_string(), part.size.to_string());
        let output = run(Command::new("losetup")
            .args(["--find", "--show", "--read-only", "--offset", &start, "--sizelimit", &size])
            .arg(raw));
        Self { node: String::from_utf8(output.stdout).unwrap().trim().to_owned() }
    }

    fn tag(&self, name: &str) -> String {
        let output = Command::new("blkid")
            .args(["--probe", "--match-tag", name, "--output", "value", &self.node])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Requires that the file system is clean.
    fn check(&self, kind: &str) {
        let words: &[&str] = match kind {
            "ext4" => &["e2fsck", "-f", "-n"],
            "xfs" => &["xfs_repair", "-n"],
            "btrfs" => &["btrfs", "check", "--readonly"],
            "vfat" => &["fsck.vfat", "-n"],
            _ => return,
        };
        let output = run(Command::new(words[0]).args(&words[1..]).arg(&self.node));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("recovering journal"), "{said}");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.node]).status();
    }
}

/// A file system of a disk, mounted.
struct Tree {
    path: PathBuf,
    _device: Device,
}

impl Tree {
    fn of(raw: &Path, part: &Part) -> Self {
        let device = Device::of(raw, part);
        let path = tempfile::tempdir().unwrap().keep();
        run(Command::new("mount").args(["-o", "ro", &device.node]).arg(&path));
        Self { path, _device: device }
    }

    fn read(&self, path: &str) -> String {
        let text = fs::read_to_string(self.path.join(path));
        text.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Bytes of the file system, as it knows itself.
    fn size(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.path).unwrap();
        stat.f_blocks * stat.f_frsize
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
        let _ = fs::remove_dir(&self.path);
    }
}

/// A partition of a disk, or the whole of it.
#[derive(Debug, Clone)]
struct Part {
    start: u64,
    size: u64,
    /// What it holds; empty for grub's own.
    kind: String,
    uuid: String,
}

impl Part {
    fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// The partitions of a disk. Its table is sound, and every file system on it clean.
fn clean_parts(raw: &Path) -> Vec<Part> {
    let said = run(Command::new("sfdisk").arg("--verify").arg(raw));
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("No errors detected") && !said.contains("backup GPT"), "{said}");
    let output = run(Command::new("sfdisk").arg("--json").arg(raw));
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    let entries = table["partitiontable"]["partitions"].as_array().unwrap();
    let place = |entry: &Value| Part {
        start: entry["start"].as_u64().unwrap() * 512,
        size: entry["size"].as_u64().unwrap() * 512,
        kind: String::new(),
        uuid: String::new(),
    };
    entries.iter().map(|entry| clean(raw, place(entry))).collect()
}

fn clean(raw: &Path, mut part: Part) -> Part {
    let device = Device::of(raw, &part);
    (part.kind, part.uuid) = (device.tag("TYPE"), device.tag("UUID"));
    device.check(&part.kind);
    part
}

fn kinds(parts: &[Part]) -> Vec<&str> {
    parts.iter().map(|part| part.kind.as_str()).collect()
}

/// The steps that every empty disk of these tests gets.
const STEPS: &str = r#"    mkdir "/srv/deep/er" mode="0750"
    write "/srv/deep/er/file" "on the root"
    write "/boot/file" "on boot"
    copy-in "tree" "/srv"
    output "raw"
"#;

const KINDS: [&str; 3] = ["ext4", "xfs", "btrfs"];
const TABLES: [&str; 2] = ["gpt", "mbr"];

/// A disk for each table and each file system of the root: `gpt-xfs`, and so on.
fn matrix() -> String {
    let mut images = Vec::new();
    for table in TABLES {
        for kind in KINDS {
            images.push(format!(
                r#"image "{table}-{kind}" {{
    base scratch size="1G" {{
        table "{table}"
        partition "swap" size="64M"
        partition "/boot" size="128M"
        partition "/" fs="{kind}"
    }}
{STEPS}}}
"#
            ));
        }
    }
    images.concat()
}

/// What the steps wrote is there.
fn assert_files(root: &Tree, boot: &Tree) {
    assert_eq!(root.read("srv/deep/er/file"), "on the root\n");
    assert_eq!(boot.read("file"), "on boot\n");
    for number in 0..50 {
        let text = root.read(&format!("srv/tree/{number}"));
        assert_eq!(text, format!("{number}\n").repeat(number * 100));
    }
}

fn with_tree(recipe: &str) -> Space {
    need(TOOLS);
    let space = Space::bare(recipe);
    for number in 0..50 {
        let path = format!("recipes/tree/{number}");
        space.file(&path, format!("{number}\n").repeat(number * 100));
    }
    space
}

#[test]
fn empty_disks_are_divided_and_grow() {
    let space = with_tree(&matrix());
    space.build_ok(&[]);
    space.assert_clean("after empty disks");
    let mut grown = Vec::new();
    for table in TABLES {
        for kind in KINDS {
            let name = format!("{table}-{kind}");
            let raw = space.path(&format!("out/{name}.raw"));
            let parts = clean_parts(&raw);
            let own: &[&str] = if table == "gpt" { &[""] } else { &[] };
            assert_eq!(kinds(&parts), [own, &["swap", "ext4", kind]].concat(), "{name}");
            let [swap, boot, root] = &parts[own.len()..] else { panic!("{parts:?}") };
            assert_eq!(swap.size, 64 * MIB);
            assert_eq!(boot.size, 128 * MIB);
            assert_eq!(root.end(), if table == "gpt" { 1023 * MIB } else { 1024 * MIB });
            let (tree, of_boot) = (Tree::of(&raw, root), Tree::of(&raw, boot));
            assert_files(&tree, &of_boot);
            let options = if kind == "ext4" { "errors=remount-ro 0 1" } else { "defaults 0 0" };
            let fstab = format!(
                "UUID={} / {kind} {options}\nUUID={} /boot ext4 defaults 0 2\n\
                 UUID={} none swap sw 0 0\n",
                root.uuid, boot.uuid, swap.uuid
            );
            assert_eq!(tree.read("etc/fstab"), fstab);
            drop((tree, of_boot));
            fs::rename(&raw, space.path(&format!("recipes/{name}.raw"))).unwrap();
            grown.push(format!(
                r#"image "grown-{name}" {{
    base file "{name}.raw" size="2G"
    write "/srv/after" "grown"
    output "raw"
}}
"#
            ));
        }
    }

    space.recipe(&grown.concat());
    space.build_ok(&[]);
    space.assert_clean("after growth");
    for table in TABLES {
        for kind in KINDS {
            let name = format!("{table}-{kind}");
            let raw = space.path(&format!("out/grown-{name}.raw"));
            assert_eq!(fs::metadata(&raw).unwrap().len(), 2048 * MIB);
            let parts = clean_parts(&raw);
            let [.., boot, root] = &parts[..] else { panic!("{parts:?}") };
            assert_eq!(root.end(), if table == "gpt" { 2047 * MIB } else { 2048 * MIB }, "{name}");
            let (tree, of_boot) = (Tree::of(&raw, root), Tree::of(&raw, boot));
            assert!(tree.size() > root.size * 9 / 10, "{name}: {} of {}", tree.size(), root.size);
            assert_files(&tree, &of_boot);
            assert_eq!(tree.read("srv/after"), "grown\n");
        }
    }
}

#[test]
fn a_root_in_the_middle_and_an_efi_system_partition() {
    let space = with_tree(&format!(
        r#"image "middle" {{
    base scratch size="2G" {{
        firmware "both"
        partition "/boot" size="128M"
        partition "/"
        partition "/srv/my data" fs="xfs" size="300M"
        partition "swap" size="64M"
    }}
    write "/srv/my data/file" "in the data"
{STEPS}}}

image "cannot-grow" {{
    base image "middle" size="3G"
}}
"#
    ));
    space.build_ok(&["middle"]);
    let raw = space.path("out/middle.raw");
    let parts = clean_parts(&raw);
    assert_eq!(kinds(&parts), ["", "vfat", "ext4", "ext4", "xfs", "swap"]);
    assert_eq!(parts[5].end(), 2047 * MIB);
    assert_eq!(parts[3].size, (2046 - 1 - 128 - 128 - 300 - 64) * MIB);
    let tree = Tree::of(&raw, &parts[3]);
    assert_files(&tree, &Tree::of(&raw, &parts[2]));
    assert_eq!(Tree::of(&raw, &parts[4]).read("file"), "in the data\n");
    let fstab = tree.read("etc/fstab");
    let esp = format!("UUID={} /boot/efi vfat umask=0077,nofail 0 2\n", parts[1].uuid);
    assert!(fstab.contains(&esp), "{fstab}");
    drop(tree);

    let done = space.build(&["cannot-grow"]);
    done.assert_fails(1, &["kiln::execute::cannot_grow", "number 6, holds swap space"]);
    space.assert_clean("after a refused growth");
}

#[test]
fn whole_disks_grow_and_none_shrinks() {
    let space = with_tree("");
    for kind in ["ext4", "btrfs"] {
        let tree = space.path("root");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::create_dir_all(tree.join("usr")).unwrap();
        fs::write(tree.join("etc/fstab"), "").unwrap();
        let raw = space.path(&format!("recipes/{kind}.raw"));
        fs::File::create(&raw).unwrap().set_len(256 * MIB).unwrap();
        let mut format = Command::new(format!("mkfs.{kind}"));
        let from = if kind == "ext4" { "-d" } else { "--rootdir" };
        run(format.arg("-q").arg(from).arg(&tree).arg(&raw));
    }
    space.recipe(
        r#"image "ext4" {
    base file "ext4.raw" size="512M"
    write "/file" "whole"
    output "raw"
}

image "btrfs" {
    base file "btrfs.raw" size="512M"
    write "/file" "whole"
    output "raw"
}

image "same" {
    base file "ext4.raw" size="256M"
    write "/file" "same"
    output "raw"
}

image "again" {
    base image "ext4" size="1G"
    output "raw"
}

image "shrunk" {
    base file "ext4.raw" size="128M"
}
"#,
    );
    space.build_ok(&["--verify-layers", "ext4", "btrfs", "same", "again"]);
    for (name, kind, size) in [
        ("ext4", "ext4", 512),
        ("btrfs", "btrfs", 512),
        ("same", "ext4", 256),
        ("again", "ext4", 1024),
    ] {
        let raw = space.path(&format!("out/{name}.raw"));
        let whole = Part { start: 0, size: size * MIB, kind: String::new(), uuid: String::new() };
        assert_eq!(fs::metadata(&raw).unwrap().len(), whole.size);
        let part = clean(&raw, whole);
        assert_eq!(part.kind, kind, "{name}");
        let tree = Tree::of(&raw, &part);
        assert!(tree.size() > part.size * 8 / 10, "{name}: {} of {}", tree.size(), part.size);
        assert_eq!(tree.read("file"), if name == "same" { "same\n" } else { "whole\n" });
    }
    let done = space.build(&["shrunk"]);
    done.assert_fails(1, &["kiln::engine::shrinks", "the disk has 256 MiB", "become 128 MiB"]);
    space.assert_clean("after a refused size");
}

/// A first boot that tells how it finds its disks.
const FACTS: &str = r#"#!/bin/sh
{
    for place in / /boot /boot/efi; do findmnt -rnbo TARGET,FSTYPE,SIZE "$place" | sed 's/^/fact: /'; done
    swapon --show=SIZE --noheadings --raw | sed 's/^/fact: swap /'
    echo facts end
} >/dev/console 2>&1
"#;

fn facts(console: &str) -> Vec<Vec<&str>> {
    let facts = console.lines().filter_map(|line| line.split_once("fact: "));
    facts.map(|(_, fact)| fact.split_whitespace().collect()).collect()
}

fn assert_boots(disk: &Path, firmware: Option<&Path>, login: &str) -> String {
    let console =
        boot(disk, "raw", firmware, &[login, "facts end"]).unwrap_or_else(|e| panic!("{e}"));
    assert!(!console.contains("emergency mode"), "{console}");
    assert!(!console.contains("Kernel panic"), "{console}");
    console
}

#[test]
fn uefi_boots_an_xfs_root_with_boot_and_swap_apart() {
    need(TOOLS);
    need(&[("qemu-system-x86_64", "qemu-system-x86")]);
    let firmware = Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd");
    assert!(firmware.exists(), "the firmware is missing: apt-get install ovmf");
    let mut space = Space::bare(
        r#"image "uefi" {
    base bootstrap "bookworm" size="3G" {
        firmware "uefi"
        partition "/boot" size="512M"
        partition "swap" size="128M"
        partition "/" fs="xfs"
    }
    hostname "by-uefi"
    write "/etc/cloud/cloud.cfg.d/99-none.cfg" "datasource_list: [ None ]"
    firstboot "facts.sh"
    output "raw"
}
"#,
    );
    space.file("recipes/facts.sh", FACTS);
    space.build_ok(&["uefi"]);
    space.assert_clean("after a bootstrap");
    let disk = space.path("out/uefi.raw");
    let parts = clean_parts(&disk);
    assert_eq!(kinds(&parts), ["vfat", "ext4", "swap", "xfs"]);

    space.end_turn();
    let console = assert_boots(&disk, Some(firmware), "by-uefi login:");
    let facts = facts(&console);
    let found = |target: &str, kind: &str| {
        facts.iter().any(|fact| fact.first() == Some(&target) && fact.get(1) == Some(&kind))
    };
    assert!(found("/", "xfs"), "{console}");
    assert!(found("/boot", "ext4"), "{console}");
    assert!(found("/boot/efi", "vfat"), "{console}");
    assert!(found("swap", "128M"), "{console}");
}

#[test]
fn a_bios_boots_a_btrfs_root_that_was_grown() {
    need(TOOLS);
    need(&[("qemu-system-x86_64", "qemu-system-x86")]);
    let mut space = Space::bare(
        r#"image "bios" {
    base bootstrap "bookworm" size="3G" {
        table "mbr"
        partition "swap" size="128M"
        partition "/" fs="btrfs"
    }
    hostname "by-bios"
    output "raw"
}

image "grown" {
    base image "bios" size="5G"
    write "/etc/cloud/cloud.cfg.d/99-none.cfg" "datasource_list: [ None ]"
    firstboot "facts.sh"
    output "raw"
}
"#,
    );
    space.file("recipes/facts.sh", FACTS);
    space.build_ok(&["grown"]);
    space.assert_clean("after a bootstrap and growth");
    let disk = space.path("out/grown.raw");
    let parts = clean_parts(&disk);
    assert_eq!(kinds(&parts), ["swap", "btrfs"]);
    assert_eq!(parts[1].end(), 5 << 30);
    assert!(Tree::of(&disk, &parts[1]).size() > 4 << 30);

    space.end_turn();
    let console = assert_boots(&disk, None, "by-bios login:");
    let root = facts(&console).into_iter().find(|fact| fact.first() == Some(&"/"));
    let root = root.unwrap_or_else(|| panic!("{console}"));
    assert_eq!(root[1], "btrfs");
    assert!(root[2].parse::<u64>().unwrap() > 4 << 30, "{console}");
}
