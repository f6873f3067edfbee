//! Makes a bootable system on a blank disk, from a distribution's packages.
//!
//! `mmdebstrap` unpacks and configures the packages; how the disk is divided is [`layout`]'s; the
//! guest's own grub makes it boot. What is decided here is part of the key through an epoch there;
//! which packages and mirrors, through the recipe.
//!
//! [`layout`]: super::layout

use std::path::Path;
use std::process::{Command, Stdio};

use super::layout::Plan;
use crate::recipe::{Bootstrap, Firmware, SystemKind};

/// The program for UEFI that the boot script makes, in the guest.
pub const EFI_PROGRAM: &str = "/boot/grub/x86_64-efi/core.efi";
/// Largest such program that is taken, in bytes; real ones have less than 1 MiB.
pub const LARGEST_EFI_PROGRAM: u64 = 32 << 20;
/// Where UEFI looks for it on a disk that it does not know, on x86-64: the path for removable media
/// of the UEFI specification.
pub const EFI_PATH: [&str; 3] = ["EFI", "BOOT", "BOOTX64.EFI"];

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

/// `mmdebstrap` into the empty file systems of a plan.
#[must_use]
pub fn packages_command(bootstrap: &Bootstrap, plan: &Plan, target: &Path) -> Command {
    let kernel = match distribution(&bootstrap.suite) {
        Distribution::Debian => "linux-image-cloud-amd64",
        Distribution::Ubuntu => "linux-image-virtual",
    };
    let loader: &[&str] = match bootstrap.layout.firmware {
        Firmware::Bios => &["grub-pc"],
        Firmware::Uefi => &["grub-efi-amd64"],
        // The two packages with scripts of their own exclude each other.
        Firmware::Both => &["grub-pc", "grub-efi-amd64-bin"],
    };
    let mut packages = vec![kernel];
    packages.extend(loader);
    packages.extend([
        "systemd-sysv",
        "cloud-init",
        "cloud-guest-utils",
        "openssh-server",
        "dbus",
        "ca-certificates",
        "e2fsprogs",
    ]);
    let tools = [
        (SystemKind::Xfs, "xfsprogs"),
        (SystemKind::Btrfs, "btrfs-progs"),
        (SystemKind::Vfat, "dosfstools"),
    ];
    packages.extend(tools.iter().filter(|(kind, _)| plan.has(*kind)).map(|(_, package)| package));
    packages.extend(bootstrap.packages.iter().map(String::as_str));
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--format=directory", "--verbose"])
        .arg(format!("--variant={}", bootstrap.variant))
        .arg(format!("--components={}", bootstrap.components.join(",")))
        .arg(format!("--include={}", packages.join(",")))
        // Durability comes from the layer; dpkg's own syncs would only be slow.
        .arg("--dpkgopt=force-unsafe-io")
        .arg("--aptopt=Acquire::Languages \"none\"");
    if plan.places().count() > 1 {
        // It finds the mount points of the others.
        command.arg("--skip=check/empty");
    }
    command
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
pub fn configuration(plan: &Plan) -> Vec<(&'static str, String)> {
    vec![
        ("/etc/fstab", plan.fstab()),
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

/// Makes [`EFI_PROGRAM`]: what `grub-install` would do, but that it wants the EFI system partition
/// mounted, for which the host's kernel may lack the file system.
///
/// The program finds grub's other files by its own one, so that it still starts once the file system
/// has a new id; the id decides where several disks have such a file. As with `grub-install`,
/// `load.cfg` beside the modules says what is embedded.
const EFI_SCRIPT: &str = r#"modules=/boot/grub/x86_64-efi
mkdir -p $modules
cp /usr/lib/grub/x86_64-efi/*.mod /usr/lib/grub/x86_64-efi/*.lst $modules
printf 'search.file %s root\nsearch.fs_uuid %s root\nset prefix=($root)%s\n' \
    "${3%/}/x86_64-efi/core.efi" "$2" "$3" >$modules/load.cfg
grub-mkimage --format=x86_64-efi --output=$modules/core.efi --config=$modules/load.cfg \
    --prefix="$3" part_gpt part_msdos ext2 xfs btrfs search_fs_file search_fs_uuid normal
"#;

/// The script that installs the boot loader, run in the guest.
///
/// Its arguments are the disk's node, and the id and the directory by which UEFI's program finds
/// grub's other files: [`boot_arguments`].
#[must_use]
pub fn boot_script(plan: &Plan) -> String {
    let mut script = "#!/bin/sh\nset -eu\n".to_owned();
    if plan.boots_by_bios() {
        script += "grub-install --target=i386-pc --no-floppy \"$1\"\n";
    }
    if plan.esp().is_some() {
        script += EFI_SCRIPT;
    }
    script + "update-grub\n"
}

/// The second and third argument of [`boot_script`]: the id of the file system that holds
/// `/boot/grub`, and where in it that lies.
#[must_use]
pub fn boot_arguments(plan: &Plan) -> [String; 2] {
    const DIRECTORY: &str = "/boot/grub";
    let holder = plan.places().filter_map(|(partition, target)| {
        let is_it = plan.holds(DIRECTORY) == Some(partition);
        is_it.then(|| (plan.content_id(partition).unwrap_or_default(), target))
    });
    holder
        .map(|(id, target)| [id, in_system(DIRECTORY, target.as_str())])
        .next()
        .unwrap_or_default()
}

/// A path as the file system mounted at `target`, which holds it, has it.
fn in_system(path: &str, target: &str) -> String {
    let rest = path.strip_prefix(target.trim_end_matches('/')).unwrap_or(path);
    if rest.is_empty() { "/".to_owned() } else { rest.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::execute::layout;
    use crate::recipe::{Layout, Partition, PartitionUse};

    fn bootstrap(layout: Layout) -> Bootstrap {
        Bootstrap {
            layout,
            suite: "bookworm".into(),
            size: 4 << 30,
            mirrors: vec![],
            components: vec!["main".into()],
            variant: "important".into(),
            packages: ["vim".to_owned()].into(),
            refresh: None,
        }
    }

    fn partition(target: &str, system: SystemKind, size: Option<u64>) -> Partition {
        let target = target.parse().unwrap();
        Partition { purpose: PartitionUse::Mount { target, system }, size }
    }

    fn text(command: &Command) -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_command_lines_do_not_move() {
        let bootstrap = bootstrap(Layout::default());
        let plan = layout::plan(&bootstrap.layout, bootstrap.size, Digest::of(b"seed")).unwrap();
        let format = plan.format_command(&plan.partitions[1], Path::new("/dev/loop0p2")).unwrap();
        insta::assert_snapshot!(format!(
            "{}\n\n{}\n\n{}",
            text(&packages_command(&bootstrap, &plan, Path::new("/target"))),
            text(&format),
            plan.script(),
        ));
    }

    #[test]
    fn other_layouts_get_what_they_need() {
        let mut shown = Vec::new();
        for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::Both] {
            let mut partitions = vec![partition("/", SystemKind::Xfs, None)];
            if firmware != Firmware::Both {
                partitions.push(partition("/boot", SystemKind::Ext4, Some(1 << 29)));
            }
            let bootstrap = bootstrap(Layout { firmware, partitions, ..Layout::default() });
            let plan =
                layout::plan(&bootstrap.layout, bootstrap.size, Digest::of(b"seed")).unwrap();
            let command = text(&packages_command(&bootstrap, &plan, Path::new("/target")));
            let lines = command.lines();
            let of_layout: Vec<_> = lines
                .filter(|line| line.starts_with("--include") || line.starts_with("--skip"))
                .collect();
            shown.push(format!(
                "# {firmware:?}\n{}\n{:?}\n{}",
                of_layout.join("\n"),
                boot_arguments(&plan),
                boot_script(&plan)
            ));
        }
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn a_path_inside_its_file_system() {
        assert_eq!(in_system("/boot/grub", "/"), "/boot/grub");
        assert_eq!(in_system("/boot/grub", "/boot"), "/grub");
        assert_eq!(in_system("/boot/grub", "/boot/grub"), "/");
    }
}
