//! Makes a bootable system on a blank disk, from a distribution's packages.
//!
//! `mmdebstrap` unpacks and configures the packages; `sfdisk` and `mkfs.ext4` make the disk; the
//! guest's own `grub-install` makes it boot. What is decided here is part of the key through
//! an epoch there; which packages and mirrors, through the recipe.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::digest::{Digest, Hasher};
use crate::disk::ids::uuid;
use crate::recipe::Bootstrap;

/// Bytes in front of the root partition: the table, and grub's own partition.
const ROOT_START_SECTOR: u64 = 4096;

/// Features that grub and every kernel since 3.18 read, whatever this host's `mkfs.ext4` prefers.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
    flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The distribution of a suite, as far as packages are called differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distribution {
    Debian,
    Ubuntu,
}

const UBUNTU_SUITES: [&str; 8] =
    ["bionic", "focal", "jammy", "noble", "oracular", "plucky", "questing", "resolute"];

fn distribution(suite: &str) -> Distribution {
    let name = suite.split('-').next().unwrap_or(suite);
    if UBUNTU_SUITES.contains(&name) { Distribution::Ubuntu } else { Distribution::Debian }
}

/// The ids of a disk, the same for one action on every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Of the partition table.
    pub disk: String,
    /// Of grub's partition.
    pub boot: String,
    /// Of the root partition.
    pub root_partition: String,
    /// Of the root file system.
    pub root: String,
    /// Seed of its directory hashes.
    pub hash_seed: String,
}

impl Ids {
    /// Makes the ids from a seed.
    #[must_use]
    pub fn of(seed: Digest) -> Self {
        let id = |name: &str| {
            let digest = Hasher::new("kiln 2026-11 disk ids v1")
                .raw(seed.as_bytes())
                .bytes(name.as_bytes())
                .finish();
            uuid(digest)
        };
        Self {
            disk: id("disk"),
            boot: id("boot"),
            root_partition: id("root partition"),
            root: id("root"),
            hash_seed: id("hash seed"),
        }
    }
}

/// The input of `sfdisk`: GPT, a partition for grub, and a root partition to the end.
#[must_use]
pub fn partition_script(ids: &Ids) -> String {
    format!(
        "label: gpt\nlabel-id: {}\nunit: sectors\nfirst-lba: 2048\n\
         1: start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, uuid={}\n\
         2: start={ROOT_START_SECTOR}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid={}\n",
        ids.disk, ids.boot, ids.root_partition
    )
}

/// `sfdisk` on a device, which reads [`partition_script`].
#[must_use]
pub fn partition_command(device: &Path) -> Command {
    let mut command = Command::new("sfdisk");
    command.args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "always"]).arg(device);
    command
}

/// `mkfs.ext4` on the root partition.
#[must_use]
pub fn format_command(device: &Path, ids: &Ids) -> Command {
    let mut command = Command::new("mkfs.ext4");
    // The tables are zeroed now, which costs nothing on a disk of holes, and not by the first
    // machine that boots.
    let extended = format!("hash_seed={},lazy_itable_init=0,lazy_journal_init=0", ids.hash_seed);
    command
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-O", EXT4_FEATURES, "-E", &extended])
        .args(["-L", "root", "-U", &ids.root])
        .arg(device);
    command
}

/// `mmdebstrap` into an empty file system.
#[must_use]
pub fn packages_command(bootstrap: &Bootstrap, target: &Path) -> Command {
    let kernel = match distribution(&bootstrap.suite) {
        Distribution::Debian => "linux-image-cloud-amd64",
        Distribution::Ubuntu => "linux-image-virtual",
    };
    let own = [
        kernel,
        "grub-pc",
        "systemd-sysv",
        "cloud-init",
        "cloud-guest-utils",
        "openssh-server",
        "dbus",
        "ca-certificates",
        "e2fsprogs",
    ];
    let packages: Vec<&str> =
        own.into_iter().chain(bootstrap.packages.iter().map(String::as_str)).collect();
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--format=directory", "--verbose"])
        .arg(format!("--variant={}", bootstrap.variant))
        .arg(format!("--components={}", bootstrap.components.join(",")))
        .arg(format!("--include={}", packages.join(",")))
        // Durability comes from the layer; dpkg's own syncs would only be slow.
        .arg("--dpkgopt=force-unsafe-io")
        .arg("--aptopt=Acquire::Languages \"none\"")
        .arg(&bootstrap.suite)
        .arg(target)
        .args(&bootstrap.mirrors)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TMPDIR", "/tmp")
        .stdin(Stdio::null());
    for name in ["http_proxy", "https_proxy", "no_proxy"] {
        if let Ok(value) = std::env::var(name) {
            command.env(name, value);
        }
    }
    command
}

/// Files of the guest that make it boot, and their content.
#[must_use]
pub fn configuration(ids: &Ids) -> Vec<(&'static str, String)> {
    vec![
        ("/etc/fstab", format!("UUID={} / ext4 errors=remount-ro 0 1\n", ids.root)),
        ("/etc/hostname", "localhost\n".to_owned()),
        (
            "/etc/hosts",
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned(),
        ),
        (
            "/etc/default/grub.d/10-kiln.cfg",
            "GRUB_TIMEOUT=1\n\
             GRUB_CMDLINE_LINUX_DEFAULT=\"\"\n\
             GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n\
             GRUB_TERMINAL=\"console serial\"\n\
             GRUB_SERIAL_COMMAND=\"serial --speed=115200\"\n"
                .to_owned(),
        ),
    ]
}

/// The script that installs the boot loader, run in the guest; its argument is the disk's node.
pub const BOOT_SCRIPT: &str = "#!/bin/sh\nset -eu\n\
    grub-install --target=i386-pc --no-floppy \"$1\"\nupdate-grub\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_everywhere_and_differ_from_each_other() {
        let ids = Ids::of(Digest::of(b"seed"));
        assert_eq!(ids, Ids::of(Digest::of(b"seed")));
        assert_ne!(ids.root, ids.disk);
        assert_ne!(ids.root, Ids::of(Digest::of(b"other")).root);
        assert_eq!((ids.root.len(), &ids.root[14..15]), (36, "8"));
    }

    #[test]
    fn the_command_lines_do_not_move() {
        let bootstrap = Bootstrap {
            layout: crate::recipe::Layout::default(),
            suite: "bookworm".into(),
            size: 4 << 30,
            mirrors: vec![],
            components: vec!["main".into()],
            variant: "important".into(),
            packages: ["vim".to_owned()].into(),
            refresh: None,
        };
        let ids = Ids::of(Digest::of(b"seed"));
        let text = |command: Command| {
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(format!(
            "{}\n\n{}\n\n{}",
            text(packages_command(&bootstrap, Path::new("/target"))),
            text(format_command(Path::new("/dev/loop0p2"), &ids)),
            partition_script(&ids),
        ));
    }
}
