//! How the keeper looks at a disk for an audit, and performs a profile's remedies.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::steps::{Given, Log};
use super::{Keeper, confused, guest_fault, host, mount_fault};
use crate::audit::{self, AuditReport, DiskView, PartView, Remedy, Subject, Verdict};
use crate::disk::mounts::{self, MountError, Mounted, Place};
use crate::disk::partitions::{self, PartitionError};
use crate::disk::places;
use crate::execute::{Fault, FaultKind, Outcome};
use crate::files::{self, Context, FileError};
use crate::guest::installed::{Installed, Package, installed};
use crate::guest::{Guest, GuestRoot, Snapshot};
use crate::link::Link;
use crate::lower;
use crate::recipe::{Aids, Check, Profile, Remedied, Requirement, StepKind};

/// What every GPT header starts with. Source: UEFI specification, "GPT Header".
const GPT_SIGNATURE: &[u8; 8] = b"EFI PART";

impl Keeper {
    /// Looks at a disk on which nothing has been done. Its file systems are mounted read-only; what
    /// their journals still have to do goes to the disk's overlay.
    pub(super) fn audit(
        &mut self,
        requirements: &[Requirement],
        packages: Option<&[Package]>,
    ) -> Result<AuditReport, Fault> {
        let unreadable = |table: Option<String>, why: String| {
            Ok(audit::of_unreadable(requirements, table.as_deref(), &why))
        };
        let size = self.size()?;
        let device = self.device.as_mut().ok_or_else(confused)?;
        match mounts::file_systems(device, size) {
            Ok(systems) => self.systems = systems,
            Err(error) => {
                return match &error {
                    MountError::Partition(PartitionError::Table { what, .. }) => unreadable(
                        Some((*what).to_owned()),
                        "its partition table makes no sense".into(),
                    ),
                    _ => Err(mount_fault(&error)),
                };
            }
        }
        let root = self.directory.join("root");
        files::make_directory(&root, 0o755).map_err(|error| host(&error))?;
        let places = match places::find(&self.systems, &root) {
            Ok(places) => places.mounted,
            Err(error) => {
                let fault = mount_fault(&error);
                return match fault.kind {
                    FaultKind::Step => unreadable(None, told(&fault)),
                    _ => Err(fault),
                };
            }
        };
        let mounted = match Mounted::mount(&places, &root, true) {
            Ok(mounted) => mounted,
            Err(error) => {
                let fault = mount_fault(&error);
                return match fault.kind {
                    FaultKind::Step => unreadable(None, told(&fault)),
                    _ => Err(fault),
                };
            }
        };
        let report = self.audited(&root, &places, requirements, packages);
        mounted.unmount().map_err(|error| mount_fault(&error))?;
        report
    }

    fn audited(
        &self,
        path: &Path,
        places: &[Place],
        requirements: &[Requirement],
        packages: Option<&[Package]>,
    ) -> Result<AuditReport, Fault> {
        let root = GuestRoot::open(path).map_err(|error| guest_fault(&error))?;
        let guest = match Guest::inspect(&root) {
            Ok(guest) => guest,
            Err(error) => {
                let why = told(&guest_fault(&error));
                return Ok(audit::of_unreadable(requirements, None, &why));
            }
        };
        let known = match packages {
            Some(packages) => Some(packages.to_vec()),
            // A database that makes no sense is no reason to look at nothing else.
            None => list(&root, &guest).unwrap_or(None),
        };
        let disk = self.disk_view(places)?;
        let subject = Subject {
            root: &root,
            guest: &guest,
            packages: known.as_deref(),
            disk: &disk,
            to_be_sealed: false,
        };
        // What the disk does not give says nothing about the guest.
        Ok(audit::audit(subject, requirements).unwrap_or_else(|error| {
            audit::of_unreadable(requirements, None, &told(&guest_fault(&error)))
        }))
    }

    /// How the disk is divided, with what is mounted where.
    fn disk_view(&self, places: &[Place]) -> Result<DiskView, Fault> {
        let device = self.device.as_ref().ok_or_else(confused)?;
        let size = self.size()?;
        let table = partitions::read_table(device.path(), size)
            .map_err(|error| mount_fault(&error.into()))?;
        let gpt = table.as_ref().is_some_and(|table| table.kind == "gpt");
        let second_header = gpt.then(|| has_second_header(device.path(), size)).transpose();
        let mut parts = Vec::new();
        for (partition, node) in device.partitions() {
            let number = partition.map(|partition| partition.number);
            let system = self.systems.iter().find(|system| system.partition == number);
            let place = places.iter().find(|place| place.system.partition == number);
            let used = system.and_then(|system| file_system_size(&node, &system.kind));
            parts.push(PartView {
                number,
                start: partition.map_or(0, |partition| partition.start),
                size: partition.map_or(size, |partition| partition.size),
                kind: system.map(|system| system.kind.clone()),
                target: place.map(|place| place.target.to_string()),
                used,
            });
        }
        // With a table, the disk itself is no partition.
        if parts.iter().any(|part| part.number.is_some()) {
            parts.retain(|part| part.number.is_some());
        }
        Ok(DiskView {
            size,
            table: table.map(|table| table.kind),
            second_header: second_header.map_err(|error| host(&error))?,
            partitions: parts,
        })
    }

    /// Does for each requirement of a profile that the guest does not meet what meets it.
    pub(super) fn profile(
        &mut self,
        profile: &Profile<Snapshot>,
        given: &Given,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Outcome, Fault> {
        let places: Vec<Place> = {
            self.mounted()?;
            self.mounted.as_ref().ok_or_else(confused)?.places().cloned().collect()
        };
        // No step divides the disk anew.
        let disk = self.disk_view(&places)?;
        let mut outcome = Outcome::default();
        for Remedied { requirement, remedy } in &profile.requirements {
            let Some(steps) = self.lacking(requirement, remedy, &disk, log, engine)? else {
                continue;
            };
            for step in &steps {
                let (network, timeout) = (given.network, given.timeout);
                let given = Given { network, timeout, ..Given::default() };
                let done = self.step(step, &Aids::default(), &[], given, log, engine);
                let done = done.map_err(|fault| {
                    let name = &requirement.name;
                    fault.within(format!("the remedy of `{name}` could not be done"))
                })?;
                outcome.leftovers.extend(done.leftovers);
                if outcome.host.is_empty() {
                    outcome.host = done.host;
                }
            }
            // A remedy may have changed what is mounted where.
            self.follow_fstab()?;
        }
        Ok(outcome)
    }

    /// The steps for a requirement, if the guest does not meet it and there are any.
    fn lacking(
        &mut self,
        requirement: &Requirement,
        own: &[StepKind<Snapshot>],
        disk: &DiskView,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Option<Vec<StepKind<Snapshot>>>, Fault> {
        let path = self.mounted()?.root().to_owned();
        let root = GuestRoot::open(&path).map_err(|error| guest_fault(&error))?;
        let guest = Guest::inspect(&root).map_err(|error| guest_fault(&error))?;
        let packages = match requirement.check {
            Check::Package(_) | Check::NoPackage(_) => Some(self.packages_of_rpm(log, engine)?),
            _ => None,
        };
        let packages = packages.as_deref();
        let subject = Subject { root: &root, guest: &guest, packages, disk, to_be_sealed: true };
        let verdict = audit::look(subject, &requirement.check);
        let Verdict::Fail(seen) = verdict.map_err(|error| guest_fault(&error))? else {
            return Ok(None);
        };
        log.line(engine, &format!("[kiln: {}: {seen}]", requirement.name));
        if !own.is_empty() {
            return Ok(Some(own.to_vec()));
        }
        match audit::remedy(subject, &requirement.check) {
            Remedy::Steps(text) => {
                for line in text.lines() {
                    log.line(engine, &format!("[kiln:     {line}]"));
                }
                Ok(Some(lower::steps(&text)))
            }
            Remedy::Advice(advice) => {
                log.line(engine, &format!("[kiln:     {advice}]"));
                Ok(None)
            }
        }
    }
}

/// A fault with its causes, on one line.
fn told(fault: &Fault) -> String {
    crate::causes::in_one_line(fault)
}

/// What is installed, where that can be read.
fn list(root: &GuestRoot, guest: &Guest) -> Result<Option<Vec<Package>>, Fault> {
    match installed(root, guest).map_err(|error| guest_fault(&error))? {
        Installed::List(list) => Ok(Some(list)),
        Installed::Ask(_) => Ok(None),
    }
}

fn has_second_header(device: &Path, size: u64) -> Result<bool, FileError> {
    let file = File::open(device).context("open", device)?;
    let mut start = [0; 8];
    let Some(last) = size.checked_sub(512) else { return Ok(false) };
    file.read_exact_at(&mut start, last).context("read", device)?;
    Ok(start == *GPT_SIGNATURE)
}

/// The size of a file system in bytes, by its superblock; `None` where it makes no sense.
///
/// Sources: `struct ext4_super_block`, `struct xfs_dsb`, `struct btrfs_super_block` of Linux.
fn file_system_size(device: &Path, kind: &str) -> Option<u64> {
    let file = File::open(device).ok()?;
    let mut block = [0; 1024];
    let at = match kind {
        "xfs" => 0,
        "btrfs" => 64 << 10,
        _ => 1024,
    };
    file.read_exact_at(&mut block, at).ok()?;
    let word = |at: usize| block[at..at + 4].try_into().expect("four bytes");
    let long = |at: usize| block[at..at + 8].try_into().expect("eight bytes");
    match kind {
        "ext2" | "ext3" | "ext4" if block[0x38..0x3a] == [0x53, 0xef] => {
            let wide = u32::from_le_bytes(word(0x60)) & 0x80 != 0;
            let high = if wide { u64::from(u32::from_le_bytes(word(0x150))) << 32 } else { 0 };
            let blocks = high | u64::from(u32::from_le_bytes(word(4)));
            let shift = u32::from_le_bytes(word(0x18)).checked_add(10)?;
            blocks.checked_mul(1_u64.checked_shl(shift)?)
        }
        "xfs" if block.starts_with(b"XFSB") => {
            u64::from_be_bytes(long(8)).checked_mul(u32::from_be_bytes(word(4)).into())
        }
        "btrfs" if block[0x40..0x48] == *b"_BHRfS_M" => Some(u64::from_le_bytes(long(0x70))),
        _ => None,
    }
}
