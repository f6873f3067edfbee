//! What is installed in the guest, listed when a step may have changed it.
//!
//! Databases that kiln reads itself are read behind every step, which takes a moment. Where the
//! guest's own `rpm` has to be asked, it is asked only if its database is another than before: a
//! program that runs in the guest leaves traces in its layer.

use std::time::Duration;

use super::steps::Log;
use super::{Keeper, guest_fault};
use crate::digest::Digest;
use crate::execute::container::Status;
use crate::execute::{Fault, FaultKind, Packages};
use crate::guest::installed::{self, Distribution, Installed, Inventory, Package, parse_rpm};
use crate::guest::{Guest, GuestRoot};
use crate::link::Link;

/// How long the guest's own program may take to list its packages.
const PATIENCE: Duration = Duration::from_mins(5);

impl Keeper {
    fn guest(&mut self) -> Result<(GuestRoot, Guest), Fault> {
        let path = self.mounted()?.root().to_owned();
        let root = GuestRoot::open(&path).map_err(|error| guest_fault(&error))?;
        let guest = Guest::inspect(&root).map_err(|error| guest_fault(&error))?;
        Ok((root, guest))
    }

    /// The database that only the guest's own program can read; `None` where there is none, or none
    /// that can be read.
    pub(super) fn package_database(&mut self) -> Option<Digest> {
        let (root, _) = self.guest().ok()?;
        installed::database_digest(&root).ok().flatten()
    }

    /// What is installed behind a step, given that database as it was before. A list that cannot be
    /// had does not fail a step whose work is done; the log says why.
    pub(super) fn packages_now(
        &mut self,
        before: Option<Digest>,
        log: &mut Log,
        engine: &mut Link,
    ) -> Packages {
        self.list_packages(before, log, engine).unwrap_or_else(|fault| {
            log.line(engine, &format!("[kiln: the packages could not be listed: {fault}]"));
            Packages::Unknown
        })
    }

    fn list_packages(
        &mut self,
        before: Option<Digest>,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Packages, Fault> {
        let (root, guest) = self.guest()?;
        let distribution = Distribution::of(&guest);
        let found = installed::installed(&root, &guest).map_err(|error| guest_fault(&error))?;
        let packages = match found {
            Installed::List(packages) => packages,
            Installed::Ask(_) if before.is_some() && self.package_database() == before => {
                return Ok(Packages::AsBefore);
            }
            Installed::Ask(_) => self.packages_of_rpm(log, engine)?,
        };
        Ok(Packages::Are(Inventory { distribution, packages }))
    }

    /// The packages of a guest whose database only its own `rpm` can read. What it prints is not in
    /// the log, unless it fails.
    pub(super) fn packages_of_rpm(
        &mut self,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Vec<Package>, Fault> {
        let (root, guest) = self.guest()?;
        let found = installed::installed(&root, &guest).map_err(|error| guest_fault(&error))?;
        let program = match found {
            Installed::List(list) => return Ok(list),
            Installed::Ask(program) => program,
        };
        log.ask();
        let ended = self.run_program(&root, &program, false, PATIENCE, log, engine);
        let answer = log.kept();
        let ended = ended?;
        if ended.status != Status::Exited(0) || ended.output_cut {
            log.bytes(engine, &answer);
            let message = format!("the guest's `rpm` could not list its packages{}", log.excerpt());
            return Err(Fault::new(FaultKind::Step, "kiln::seal::packages", message));
        }
        Ok(parse_rpm(&answer))
    }
}
