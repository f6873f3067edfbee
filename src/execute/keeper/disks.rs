//! How the keeper divides a blank disk, and what an empty one gets.
//!
//! Where partitions lie and how their file systems are made is `execute::layout`'s.

use std::path::Path;
use std::process::Command;

use super::tools::{self, Tools};
use super::{Keeper, confused, host, mount_fault};
use crate::digest::Digest;
use crate::disk::mounts::{self, Mounted, Place};
use crate::execute::layout::{self, Plan};
use crate::execute::{Fault, FaultKind, Outcome};
use crate::files::{self, Context};
use crate::name::GuestPath;
use crate::recipe::{Scratch, SystemKind};

impl Keeper {
    /// Makes an empty disk: its file systems hold the mount points of the others, and the root what
    /// it is known by, `/etc/fstab` and `/usr`.
    pub(super) fn scratch(
        &mut self,
        recipe: &Scratch,
        seed: Digest,
        tools: &mut Tools<'_>,
    ) -> Result<Outcome, Fault> {
        let plan = layout::plan(&recipe.layout, self.size()?, seed);
        let plan = plan.map_err(|error| Fault::of(FaultKind::Step, &error))?;
        tools::require(&plan.programs())?;
        self.divide(&plan, tools)?;
        let root = self.directory.join("scratch");
        let mounted = self.mount_new(&plan, &root, false)?;
        let written = write_root(&root, &plan).map_err(|error| host(&error));
        let unmounted = mounted.unmount().map_err(|error| mount_fault(&error));
        written.and(unmounted)?;
        // The layer holds a disk of which this very process can say what is where.
        self.mounted()?;
        Ok(Outcome::default())
    }

    /// Writes the partition table, and makes all file systems.
    pub(super) fn divide(&mut self, plan: &Plan, tools: &mut Tools<'_>) -> Result<(), Fault> {
        let node = self.device()?.path().to_owned();
        tools.run(write_table(&node), plan.script().as_bytes())?;
        let size = self.size()?;
        let device = self.device.as_mut().ok_or_else(confused)?;
        mounts::file_systems(device, size).map_err(|error| mount_fault(&error))?;
        for partition in &plan.partitions {
            let node = self.device()?.partition(partition.number);
            if let Some(command) = plan.format_command(partition, &node) {
                tools.run(command, b"")?;
            }
        }
        self.probe_again()
    }

    /// Mounts a plan's new file systems below a directory that is made for it, and makes the mount
    /// points of those that are not mounted.
    pub(super) fn mount_new(
        &self,
        plan: &Plan,
        root: &Path,
        devices: bool,
    ) -> Result<Mounted, Fault> {
        let mut places = Vec::new();
        let mut points = Vec::new();
        for (partition, target) in plan.places() {
            let found =
                self.systems.iter().find(|system| system.partition == Some(partition.number));
            let system = found.ok_or_else(confused)?.clone();
            // Hosts with and without vfat make the same disk.
            if system.kind == SystemKind::Vfat.keyword() {
                points.push(target);
            } else {
                places.push(Place { system, target: target.clone(), subvolume: None });
            }
        }
        let mounted = Mounted::mount_new(&places, root, devices);
        let mounted = mounted.map_err(|error| mount_fault(&error))?;
        let made = points.into_iter().try_for_each(|point| {
            files::make_directory(&below(root, point), 0o755).map_err(|error| host(&error))
        });
        match made {
            Ok(()) => Ok(mounted),
            Err(fault) => {
                // The first error is the one that says why.
                let _ = mounted.unmount();
                Err(fault)
            }
        }
    }
}

/// `sfdisk` on a device, which reads the script of a plan.
fn write_table(device: &Path) -> Command {
    let mut command = Command::new("sfdisk");
    command.args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "always"]).arg(device);
    command
}

fn below(root: &Path, path: &GuestPath) -> std::path::PathBuf {
    root.join(path.as_str().trim_start_matches('/'))
}

/// Nobody else has written to these file systems: plain paths lead nowhere else.
fn write_root(root: &Path, plan: &Plan) -> Result<(), files::FileError> {
    use std::os::unix::fs::PermissionsExt;
    for directory in ["etc", "usr"] {
        files::make_directory(&root.join(directory), 0o755)?;
    }
    let fstab = root.join("etc/fstab");
    std::fs::write(&fstab, plan.fstab()).context("write", &fstab)?;
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&fstab, mode).context("set the mode of", &fstab)
}
