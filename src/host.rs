//! What kiln needs of its host, and which package brings it.
//!
//! One table serves `kiln doctor`, the check before a build, and the errors that name a package.

use std::fmt;
use std::path::{Path, PathBuf};

/// What something of the host is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Every build.
    Build,
    /// A base that is bootstrapped from packages.
    Bootstrap,
    /// A disk that kiln divides, grows, or gives new ids.
    Disk,
    /// Looking up templates in signed indexes.
    Templates,
    /// Booting what was built.
    Boot,
    /// Kiln's own tests.
    Test,
}

/// A program that kiln runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// The program, or a file by its whole path; any of several will do.
    pub programs: &'static [&'static str],
    /// What it is needed for.
    pub purpose: Purpose,
    /// Debian's and Ubuntu's package.
    pub debian: &'static str,
    /// Fedora's and RHEL's package.
    pub fedora: &'static str,
    /// openSUSE's package.
    pub suse: &'static str,
}

/// A feature of the kernel that kiln uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// A path that is there where the feature is.
    pub path: &'static str,
    /// What to do where it is not.
    pub remedy: &'static str,
}

const fn tool(
    programs: &'static [&'static str],
    purpose: Purpose,
    debian: &'static str,
    fedora: &'static str,
    suse: &'static str,
) -> Tool {
    Tool { programs, purpose, debian, fedora, suse }
}

/// Every program that kiln or its tests run.
pub const TOOLS: &[Tool] = &[
    tool(&["crun", "runc"], Purpose::Build, "runc", "runc", "runc"),
    tool(&["qemu-img"], Purpose::Build, "qemu-utils", "qemu-img", "qemu-img"),
    tool(&["sfdisk"], Purpose::Build, "fdisk", "util-linux", "util-linux"),
    tool(&["blkid"], Purpose::Build, "util-linux", "util-linux", "util-linux"),
    tool(&["mmdebstrap"], Purpose::Bootstrap, "mmdebstrap", "mmdebstrap", "mmdebstrap"),
    tool(&["mkfs.ext4"], Purpose::Bootstrap, "e2fsprogs", "e2fsprogs", "e2fsprogs"),
    tool(&["mkswap"], Purpose::Disk, "util-linux", "util-linux", "util-linux"),
    tool(&["mkfs.xfs"], Purpose::Disk, "xfsprogs", "xfsprogs", "xfsprogs"),
    tool(&["mkfs.btrfs"], Purpose::Disk, "btrfs-progs", "btrfs-progs", "btrfsprogs"),
    tool(&["mkfs.vfat"], Purpose::Disk, "dosfstools", "dosfstools", "dosfstools"),
    tool(&["mcopy"], Purpose::Disk, "mtools", "mtools", "mtools"),
    tool(&["mmd"], Purpose::Disk, "mtools", "mtools", "mtools"),
    tool(&["e2fsck"], Purpose::Disk, "e2fsprogs", "e2fsprogs", "e2fsprogs"),
    tool(&["resize2fs"], Purpose::Disk, "e2fsprogs", "e2fsprogs", "e2fsprogs"),
    tool(&["xfs_growfs"], Purpose::Disk, "xfsprogs", "xfsprogs", "xfsprogs"),
    tool(&["btrfs"], Purpose::Disk, "btrfs-progs", "btrfs-progs", "btrfsprogs"),
    tool(&["tune2fs"], Purpose::Disk, "e2fsprogs", "e2fsprogs", "e2fsprogs"),
    tool(&["xfs_admin"], Purpose::Disk, "xfsprogs", "xfsprogs", "xfsprogs"),
    tool(&["btrfstune"], Purpose::Disk, "btrfs-progs", "btrfs-progs", "btrfsprogs"),
    tool(&["gpgv"], Purpose::Templates, "gpgv", "gnupg2", "gpg2"),
    tool(&["gpg"], Purpose::Test, "gnupg", "gnupg2", "gpg2"),
    tool(&["losetup"], Purpose::Test, "mount", "util-linux", "util-linux"),
    tool(&["xfs_repair"], Purpose::Test, "xfsprogs", "xfsprogs", "xfsprogs"),
    tool(&["fsck.vfat"], Purpose::Test, "dosfstools", "dosfstools", "dosfstools"),
    tool(&["mtype"], Purpose::Test, "mtools", "mtools", "mtools"),
    tool(
        &["qemu-system-x86_64"],
        Purpose::Boot,
        "qemu-system-x86",
        "qemu-system-x86-core",
        "qemu-x86",
    ),
    tool(&["ssh"], Purpose::Boot, "openssh-client", "openssh-clients", "openssh-clients"),
    tool(&["ssh-keygen"], Purpose::Boot, "openssh-client", "openssh", "openssh-common"),
    tool(
        &["/usr/share/OVMF/OVMF_CODE_4M.fd"],
        Purpose::Test,
        "ovmf",
        "edk2-ovmf",
        "qemu-ovmf-x86_64",
    ),
    tool(&["virt-customize"], Purpose::Test, "guestfs-tools", "guestfs-tools", "guestfs-tools"),
    tool(&["supermin"], Purpose::Test, "supermin", "supermin", "supermin"),
    // The kernel of libguestfs's appliance.
    tool(
        &["/vmlinuz", "/boot/vmlinuz"],
        Purpose::Test,
        "linux-image-amd64",
        "kernel",
        "kernel-default",
    ),
    tool(&["xz"], Purpose::Test, "xz-utils", "xz", "xz"),
    tool(&["bzip2"], Purpose::Test, "bzip2", "bzip2", "bzip2"),
    tool(&["setfiles"], Purpose::Test, "policycoreutils", "policycoreutils", "policycoreutils"),
    tool(&["python3"], Purpose::Test, "python3", "python3", "python3"),
    tool(&["minisign"], Purpose::Test, "minisign", "minisign", "minisign"),
    tool(&["getfattr"], Purpose::Test, "attr", "attr", "attr"),
    tool(&["setpriv"], Purpose::Test, "util-linux", "util-linux", "util-linux"),
    // Remotes; `tests/servers/prepare` brings the servers that are no packages.
    tool(
        &["docker-registry", "registry"],
        Purpose::Test,
        "docker-registry",
        "docker-distribution",
        "distribution-registry",
    ),
    tool(&["skopeo"], Purpose::Test, "skopeo", "skopeo", "skopeo"),
    tool(
        &["swift-proxy-server"],
        Purpose::Test,
        "swift-proxy",
        "openstack-swift-proxy",
        "openstack-swift-proxy",
    ),
    tool(
        &["swift-account-server"],
        Purpose::Test,
        "swift-account",
        "openstack-swift-account",
        "openstack-swift-account",
    ),
    tool(
        &["swift-container-server"],
        Purpose::Test,
        "swift-container",
        "openstack-swift-container",
        "openstack-swift-container",
    ),
    tool(
        &["swift-object-server"],
        Purpose::Test,
        "swift-object",
        "openstack-swift-object",
        "openstack-swift-object",
    ),
    tool(
        &["keystone-manage"],
        Purpose::Test,
        "keystone",
        "openstack-keystone",
        "openstack-keystone",
    ),
    tool(&["glance-api"], Purpose::Test, "glance-api", "openstack-glance", "openstack-glance"),
    tool(&["uwsgi"], Purpose::Test, "uwsgi-core", "uwsgi", "uwsgi"),
    tool(
        &["/usr/lib/uwsgi/plugins/python3_plugin.so", "/usr/lib64/uwsgi/python3_plugin.so"],
        Purpose::Test,
        "uwsgi-plugin-python3",
        "uwsgi-plugin-python3",
        "uwsgi-python3",
    ),
    tool(&["openssl"], Purpose::Test, "openssl", "openssl", "openssl"),
    tool(&["sqlite3"], Purpose::Test, "sqlite3", "sqlite", "sqlite3"),
    tool(&["cloud-init"], Purpose::Test, "cloud-init", "cloud-init", "cloud-init"),
    tool(&["heat-manage"], Purpose::Test, "heat-common", "openstack-heat-common", "openstack-heat"),
    tool(&["curl"], Purpose::Test, "curl", "curl", "curl"),
    tool(&["node"], Purpose::Test, "nodejs", "nodejs", "nodejs"),
    tool(&["npm"], Purpose::Test, "npm", "npm", "npm"),
];

/// Every feature of the kernel that kiln uses.
pub const FEATURES: &[Feature] = &[
    Feature { name: "FUSE", path: "/dev/fuse", remedy: "load it with `modprobe fuse`" },
    Feature {
        name: "loop devices",
        path: "/dev/loop-control",
        remedy: "load them with `modprobe loop`",
    },
    Feature {
        name: "control groups",
        path: "/sys/fs/cgroup/cgroup.controllers",
        remedy: "mount them on `/sys/fs/cgroup`",
    },
];

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.programs.join("` or `"))
    }
}

impl Tool {
    /// Where the program is; `None` where it is not installed.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        let fits = |program: &&&str| **program != "crun" || !has_hybrid_groups();
        self.programs.iter().filter(fits).find_map(|program| find_program(program))
    }

    /// The package that brings it on this host.
    #[must_use]
    pub fn package(&self, installer: Installer) -> &'static str {
        match installer {
            Installer::Apt => self.debian,
            Installer::Dnf => self.fedora,
            Installer::Zypper => self.suse,
        }
    }
}

impl Feature {
    /// Whether the kernel has it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        // With both versions of control groups, or the first alone, another file is there.
        Path::new(self.path).exists()
            || self.name == "control groups" && Path::new("/sys/fs/cgroup/pids").exists()
    }
}

/// The package manager of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// Debian's and Ubuntu's.
    Apt,
    /// Fedora's and RHEL's.
    Dnf,
    /// openSUSE's.
    Zypper,
}

impl Installer {
    /// This host's package manager; `None` for one that kiln does not know.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("zypper", Self::Zypper)]
            .into_iter()
            .find(|(program, _)| find_program(program).is_some())
            .map(|(_, installer)| installer)
    }

    /// The commands that install packages, in order.
    #[must_use]
    pub fn commands(self, packages: &[&str]) -> Vec<Vec<String>> {
        let with = |words: &[&str]| {
            words.iter().chain(packages).map(|word| (*word).to_owned()).collect::<Vec<_>>()
        };
        match self {
            Self::Apt => vec![
                ["apt-get", "-q", "update"].map(str::to_owned).to_vec(),
                with(&["apt-get", "-q", "-y", "--no-install-recommends", "install"]),
            ],
            Self::Dnf => vec![with(&["dnf", "-y", "install"])],
            Self::Zypper => vec![with(&["zypper", "--non-interactive", "install"])],
        }
    }
}

/// The host's architecture, as distributions name it, such as `x86_64`.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        arch => arch,
    }
}

/// Whether the controllers of this host are split between both versions of control groups, which
/// `crun` refuses.
#[must_use]
pub fn has_hybrid_groups() -> bool {
    Path::new("/sys/fs/cgroup/unified").exists()
}

/// Whether kiln's disk server can be kept from waiting for its own disk when memory runs out
/// (`PR_SET_IO_FLUSHER`, which needs `CAP_SYS_RESOURCE`).
#[must_use]
pub fn can_flush_safely() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|set| set & 1 << CAP_SYS_RESOURCE != 0)
}

/// What is known of a program that kiln runs, by its name.
#[must_use]
pub fn tool_of(program: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.programs.contains(&program))
}

/// What every build needs and this host lacks.
#[must_use]
pub fn missing_for_build() -> Vec<Tool> {
    missing(&[Purpose::Build])
}

/// What is needed for some purposes and this host lacks.
#[must_use]
pub fn missing(purposes: &[Purpose]) -> Vec<Tool> {
    TOOLS
        .iter()
        .filter(|tool| purposes.contains(&tool.purpose) && tool.find().is_none())
        .copied()
        .collect()
}

fn find_program(name: &str) -> Option<PathBuf> {
    // Also where root's programs are, which a user's path often lacks.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(known)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
