//! What tests and benchmarks of SELinux labelling share: a real policy, and ext4 images on loop
//! devices that never stay behind.
//!
//! It judges nothing.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use kiln::guest::selinux::{Found, LabelledFs, Policy};

/// Fails with the package's name if a tool is missing; root is needed for all of this.
pub fn need(tools: &[(&str, &str)]) {
    for (tool, package) in tools {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
            .iter()
            .any(|directory| Path::new(directory).join(tool).exists());
        assert!(found, "`{tool}` is missing: apt-get install {package}");
    }
    assert!(rustix::process::geteuid().is_root(), "this test mounts file systems: run it as root");
}

/// Runs a command to its end; anything but success fails the test with what it said.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A directory that holds Debian's policy as a guest does; made once and kept with the build.
pub fn policy_root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        need(&[
            ("semodule", "policycoreutils"),
            ("setfiles", "policycoreutils"),
            ("dpkg-deb", "dpkg"),
        ]);
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let root = cache.join("selinux-policy-default");
        if !root.join("made").exists() {
            let fresh = tempfile::Builder::new().prefix("policy-").tempdir_in(cache).unwrap();
            let script =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/debian-policy.sh");
            run(Command::new(script).arg(fresh.path()));
            std::fs::write(fresh.path().join("made"), "").unwrap();
            let fresh = fresh.keep();
            // Another test process may have been faster: then its directory is taken.
            if std::fs::rename(&fresh, &root).is_err() {
                std::fs::remove_dir_all(&fresh).unwrap();
            }
        }
        root
    })
}

/// The policy's `file_contexts`.
pub fn file_contexts() -> PathBuf {
    policy_root().join("etc/selinux/default/contexts/files/file_contexts")
}

/// Debian's policy as kiln reads it.
pub fn policy() -> Policy {
    let root = File::open(policy_root()).unwrap();
    match Policy::find(root.as_fd()).unwrap() {
        Found::Policy(policy) => *policy,
        Found::NotApplicable(why) => panic!("{why}"),
    }
}

/// An image with a file system; it is unmounted when it goes, also if a test fails.
pub struct Disk {
    directory: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    /// Makes an ext4 image of so many MiB and mounts it for writing.
    pub fn new(size: u64) -> Self {
        need(&[("mkfs.ext4", "e2fsprogs")]);
        Self::format(size, &["mkfs.ext4", "-q", "-F"])
    }

    /// The same with another file system.
    pub fn format(size: u64, mkfs: &[&str]) -> Self {
        need(&[("mount", "mount"), ("umount", "mount")]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(size << 20).unwrap();
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        let mut disk = Self { directory, mounted: false };
        disk.mount("noatime");
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The image itself.
    pub fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Mounts it afresh, as after the end of a step.
    pub fn remount(&mut self, options: &str) {
        self.unmount();
        self.mount(options);
    }

    /// As kiln is given it.
    pub fn labelled(&self, prefix: &str) -> LabelledFs {
        let root = File::open(self.path()).unwrap().into();
        LabelledFs { root, prefix: prefix.parse().unwrap() }
    }

    fn mount(&mut self, options: &str) {
        let options = format!("loop,{options}");
        run(Command::new("mount").arg("-o").arg(options).arg(self.image()).arg(self.path()));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        run(Command::new("umount").arg(self.path()));
        self.mounted = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            unmount(&self.path());
        }
    }
}

/// A directory shown at a second place as long as this lives.
pub struct Bind(PathBuf);

impl Bind {
    /// Shows `from`, without what is mounted below it, at `to`.
    pub fn new(from: &Path, to: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(from).arg(to));
        Self(to.to_owned())
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Unmounts also where a failed test still holds a directory open.
fn unmount(path: &Path) {
    let plain = Command::new("umount").arg(path).status();
    if !plain.is_ok_and(|status| status.success()) {
        let _ = Command::new("umount").arg("-l").arg(path).status();
    }
}
