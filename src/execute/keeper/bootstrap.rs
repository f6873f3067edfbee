//! How the keeper makes a bootable system on its blank disk.
//!
//! What is made is `execute::bootstrap`'s.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::steps::Log;
use super::tools::{self, Tools};
use super::{Keeper, guest_fault, host, mount_fault};
use crate::digest::Digest;
use crate::execute::bootstrap;
use crate::execute::container::Status;
use crate::execute::layout::{self, Plan};
use crate::execute::{Fault, FaultKind, Outcome};
use crate::files::Context;
use crate::guest::program::SCRIPT_PATH;
use crate::guest::root::FileAttributes;
use crate::guest::{GuestRoot, Program};
use crate::link::Link;
use crate::recipe::Bootstrap;

const BOOT_LOADER_TIMEOUT: Duration = Duration::from_mins(10);

impl Keeper {
    pub(super) fn bootstrap(
        &mut self,
        recipe: &Bootstrap,
        seed: Digest,
        timeout: Duration,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Outcome, Fault> {
        if std::env::consts::ARCH != "x86_64" {
            let message = format!(
                "`bootstrap` makes disks for x86_64 machines, and this host is {}",
                std::env::consts::ARCH
            );
            return Err(Fault::new(FaultKind::Step, "kiln::execute::bootstrap_arch", message)
                .with_help("use a base of another kind, or build on an x86_64 host"));
        }
        let plan = layout::plan(&recipe.layout, self.size()?, seed);
        let plan = plan.map_err(|error| Fault::of(FaultKind::Step, &error))?;
        let mut tools = Tools::new(timeout, log, engine);
        let mut programs = plan.programs();
        programs.push("mmdebstrap");
        if plan.esp().is_some() {
            programs.extend(["mmd", "mcopy"]);
        }
        tools::require(&programs)?;
        self.divide(&plan, &mut tools)?;

        let target = self.directory.join("bootstrap");
        let mounted = self.mount_new(&plan, &target, true)?;
        let unpacked = tools.run(bootstrap::packages_command(recipe, &plan, &target), b"");
        let unmounted = mounted.unmount();
        unpacked?;
        unmounted.map_err(|error| mount_fault(&error))?;

        self.boot_loader(&plan, &mut tools)?;
        let mut host = vec![tools::version("mmdebstrap")];
        host.extend(self.runtime.iter().map(|runtime| runtime.version.clone()));
        Ok(Outcome { host, ..Outcome::default() })
    }

    fn boot_loader(&mut self, plan: &Plan, tools: &mut Tools<'_>) -> Result<(), Fault> {
        let fault = |error| guest_fault(&error);
        // Only the root: the fstab that names the others is not there yet.
        let path = self.mounted()?.root().to_owned();
        let root = GuestRoot::open(&path).map_err(fault)?;
        root.make_directories("/etc/default/grub.d", FileAttributes::root(0o755)).map_err(fault)?;
        for (path, content) in bootstrap::configuration(plan) {
            root.write_atomic(path, content.as_bytes(), FileAttributes::root(0o644))
                .map_err(fault)?;
        }
        drop(root);
        self.follow_fstab()?;

        let root = GuestRoot::open(&path).map_err(fault)?;
        let node = self.device()?.path().to_string_lossy().into_owned();
        let [id, prefix] = bootstrap::boot_arguments(plan);
        let mut program = Program::new(["/bin/sh", SCRIPT_PATH, &node, &id, &prefix]);
        program.script = Some(bootstrap::boot_script(plan).into_bytes());
        let (log, engine) = (&mut *tools.log, &mut *tools.engine);
        let ended = self.run_program(&root, &program, false, BOOT_LOADER_TIMEOUT, log, engine)?;
        if ended.status != Status::Exited(0) {
            let message = format!("the boot loader could not be installed{}", log.excerpt());
            return Err(Fault::new(FaultKind::Step, "kiln::execute::boot_loader", message));
        }
        let Some(esp) = plan.esp() else { return Ok(()) };
        let program =
            root.read(bootstrap::EFI_PROGRAM, bootstrap::LARGEST_EFI_PROGRAM).map_err(fault)?;
        drop(root);
        // Where the host's kernel has vfat, the partition is mounted; two must not write to it.
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount().map_err(|error| mount_fault(&error))?;
        }
        self.write_esp(&self.device()?.partition(esp.number), &program, tools)
    }

    /// Writes the boot loader into the EFI system partition, which is never mounted for it: the
    /// host's kernel may lack vfat.
    fn write_esp(&self, device: &Path, program: &[u8], tools: &mut Tools<'_>) -> Result<(), Fault> {
        let copy = self.directory.join("efi-program");
        std::fs::write(&copy, program).context("write", &copy).map_err(|error| host(&error))?;
        let mut path = "::".to_owned();
        for name in bootstrap::EFI_PATH {
            path = format!("{path}/{name}");
            let is_file = path.ends_with(bootstrap::EFI_PATH[2]);
            let mut command = Command::new(if is_file { "mcopy" } else { "mmd" });
            command.arg("-i").arg(device);
            if is_file {
                command.arg(&copy);
            }
            command.arg(&path);
            tools.run(command, b"")?;
        }
        std::fs::remove_file(&copy).context("remove", &copy).map_err(|error| host(&error))
    }
}
