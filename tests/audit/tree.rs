//! A tree on the host that looks like a guest, and looks at it.
#![allow(missing_docs, unreachable_pub)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kiln::audit::{AuditReport, DiskView, PartView, Remedy, Subject, Verdict, audit, look, remedy};
use kiln::guest::root::GuestRoot;
use kiln::guest::{Guest, Snapshot, apply};
use kiln::lower;
use kiln::recipe::{Check, Requirement, StepKind};

/// A tree that meets `openstack`.
pub struct Tree(pub tempfile::TempDir);

impl Tree {
    pub fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.write("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n");
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(20, 0);
        elf[18] = 62;
        fs::create_dir_all(tree.path("bin")).unwrap();
        fs::write(tree.path("bin/sh"), elf).unwrap();
        tree.write("usr/bin/apt-get", "");
        tree.write("usr/lib/systemd/systemd", "");
        fs::create_dir_all(tree.path("sbin")).unwrap();
        symlink("/usr/lib/systemd/systemd", tree.path("sbin/init")).unwrap();
        tree.write(
            "var/lib/dpkg/status",
            "Package: vim\nStatus: install ok installed\nVersion: 9\nArchitecture: amd64\n\n",
        );
        tree.write("usr/sbin/sshd", "");
        tree.unit("ssh.service", "multi-user.target", "[Service]\nExecStart=/usr/sbin/sshd -D\n");
        tree.write("usr/bin/cloud-init", "");
        for name in ["cloud-init-local", "cloud-init", "cloud-config", "cloud-final"] {
            tree.unit(&format!("{name}.service"), "cloud-init.target", "[Service]\n");
        }
        tree.write(
            "etc/cloud/cloud.cfg",
            "disable_root: true\ndatasource_list: [ NoCloud, ConfigDrive, OpenStack, None ]\n\
             cloud_init_modules:\n - growpart\n - [resizefs, always]\n - ssh\n\
             system_info:\n  default_user:\n    name: debian\n",
        );
        tree.write("usr/bin/growpart", "");
        tree.write("usr/lib/systemd/system-generators/cloud-init-generator", "");
        tree.write("etc/shadow", "root:!:1::::::\n");
        tree.write("etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n");
        tree.write(
            "etc/default/grub",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"console=ttyS0\"\n",
        );
        tree.write(
            "boot/grub/grub.cfg",
            "linux /vmlinuz root=UUID=1 ro console=ttyS0 quiet\nlinux /vmlinuz root=UUID=1 ro single console=ttyS0\n",
        );
        tree.write("usr/sbin/update-grub", "");
        tree.write("boot/vmlinuz-6.1.0-1-amd64", "");
        tree.write("etc/machine-id", "uninitialized\n");
        tree
    }

    pub fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    pub fn unit(&self, name: &str, target: &str, text: &str) {
        self.write(&format!("lib/systemd/system/{name}"), text);
        let wants = self.path(&format!("etc/systemd/system/{target}.wants"));
        fs::create_dir_all(&wants).unwrap();
        let _ = symlink(Path::new("/lib/systemd/system").join(name), wants.join(name));
    }

    pub fn with<T>(&self, disk: &DiskView, use_it: impl FnOnce(Subject<'_>) -> T) -> T {
        let root = GuestRoot::open(self.0.path()).unwrap();
        let guest = Guest::inspect(&root).unwrap();
        let packages = match kiln::guest::installed::installed(&root, &guest).unwrap() {
            kiln::guest::installed::Installed::List(list) => Some(list),
            kiln::guest::installed::Installed::Ask(_) => None,
        };
        let packages = packages.as_deref();
        use_it(Subject { root: &root, guest: &guest, packages, disk, to_be_sealed: false })
    }

    /// Looks as the step `profile` does, before the seal.
    pub fn look_before_seal(&self, check: &Check) -> Verdict {
        self.with(&disk(), |subject| {
            look(Subject { to_be_sealed: true, ..subject }, check).unwrap()
        })
    }

    pub fn remedy(&self, check: &Check) -> Remedy {
        self.with(&disk(), |subject| remedy(subject, check))
    }

    /// The steps of a remedy, which are steps of a recipe.
    pub fn steps(&self, check: &Check) -> String {
        match self.remedy(check) {
            Remedy::Steps(text) => {
                let _: Vec<StepKind<Snapshot>> = lower::steps(&text);
                text
            }
            Remedy::Advice(advice) => panic!("{check:?} has advice alone: {advice}"),
        }
    }

    pub fn set_executable(&self, path: &str) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn link(&self, target: &str, path: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub fn audit(&self, disk: &DiskView, profile: &str) -> AuditReport {
        let requirements = requirements(profile);
        self.with(disk, |subject| audit(subject, &requirements).unwrap())
    }

    pub fn look(&self, check: &Check) -> Verdict {
        self.with(&disk(), |subject| look(subject, check).unwrap())
    }

    /// Does those steps of a remedy that run no program of the guest.
    pub fn repair(&self, check: &Check) -> usize {
        let remedy = self.with(&disk(), |subject| remedy(subject, check));
        let Remedy::Steps(text) = remedy else { panic!("{check:?} has no steps") };
        let steps: Vec<StepKind<Snapshot>> = lower::steps(&text);
        let root = GuestRoot::open(self.0.path()).unwrap();
        let guest = Guest::inspect(&root).unwrap();
        let mut programs = 0;
        for step in &steps {
            match step {
                StepKind::Install(_) | StepKind::RunCommand(_) => programs += 1,
                // What `password` locks is a file of the guest with the guest's own owner.
                step => apply(&root, &guest, step).unwrap(),
            }
        }
        programs
    }
}

pub fn requirements(profile: &str) -> Vec<Requirement> {
    let profile = &lower::own_profiles()[profile];
    profile.requirements.iter().map(|remedied| remedied.requirement.clone()).collect()
}

/// A GPT disk with a boot loader's partition and an ext4 root behind it.
pub fn disk() -> DiskView {
    let part = |number, start, size, kind: Option<&str>, target: Option<&str>| PartView {
        number: Some(number),
        start,
        size,
        kind: kind.map(str::to_owned),
        target: target.map(str::to_owned),
        used: Some(size),
    };
    DiskView {
        size: 3 << 30,
        table: Some("gpt".to_owned()),
        second_header: Some(true),
        partitions: vec![
            part(1, 1 << 20, 1 << 20, None, None),
            part(2, 2 << 20, (3 << 30) - (3 << 20), Some("ext4"), Some("/")),
        ],
    }
}
