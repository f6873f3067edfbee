//! The seal: scrub, then relabel, then a second reading. Nothing writes to an image behind it.
//!
//! These are the phases; the keeper mounts and unmounts around them, and the door ends all writing
//! before the sealed state is recorded. What the labels should be is `guest::selinux`'s.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::audit::AuditReport;
use crate::digest::Digest;
use crate::disk::mounts::Place;
use crate::files::{Context, FileError};
use crate::guest::installed::{Distribution, Installed, Inventory, Package, installed};
use crate::guest::scrub::ScrubReport;
use crate::guest::selinux::inodes::{EXT4_SUPERBLOCK, inodes_in_use};
use crate::guest::selinux::policy::PolicyError;
use crate::guest::selinux::relabel::RelabelError;
use crate::guest::selinux::verify::{Mismatch, VerifyError};
use crate::guest::selinux::{
    self, Found, LabelledFs, Policy, RelabelOptions, RelabelReport, VerifyReport, shown,
};
use crate::guest::{self, DiskFacts, Guest, GuestError, GuestRoot};
use crate::name::GuestPath;
use crate::recipe::Scrub;

/// Mismatches that an error names.
const NAMED: usize = 5;

/// Why an image cannot be sealed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SealError {
    /// The guest's tree.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Guest(#[from] GuestError),
    /// Its policy.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Policy(#[from] PolicyError),
    /// Writing the labels.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Relabel(#[from] RelabelError),
    /// Reading them a second time.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Verify(#[from] VerifyError),
    /// A device.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The second reading found other labels than the policy gives.
    #[error("{count} files of the sealed image do not have the label of their policy:{list}")]
    #[diagnostic(
        code(kiln::seal::mismatch),
        help("this is a bug in kiln, or the disk is failing; nothing was recorded")
    )]
    Mismatch {
        /// How many.
        count: u64,
        /// The first of them.
        list: String,
    },
    /// The second reading did not see every inode.
    #[error("the file system of `{system}` has {used} inodes in use, and {seen} were read")]
    #[diagnostic(
        code(kiln::seal::unseen),
        help("check the base's file system with its own tool, such as `e2fsck -f`")
    )]
    Unseen {
        /// Where the guest mounts it.
        system: GuestPath,
        /// Inodes in use.
        used: u64,
        /// Inodes seen.
        seen: u64,
    },
    /// The sealed state has other file systems than were sealed.
    #[error("the sealed disk shows other file systems than were sealed")]
    #[diagnostic(code(kiln::seal::other_systems))]
    OtherSystems,
    /// The sealed state has another policy than the labels were made from.
    #[error("the sealed disk has another SELinux policy than its labels were made from")]
    #[diagnostic(code(kiln::seal::other_policy))]
    OtherPolicy,
    /// Something wrote after the end of all writing.
    #[error("{count} writes came after the image was sealed")]
    #[diagnostic(
        code(kiln::seal::late_writes),
        help("this is a bug in kiln; nothing was recorded")
    )]
    LateWrites {
        /// How many.
        count: u64,
    },
}

/// What a seal did and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// The guest, as its os-release calls it.
    pub system: String,
    /// What was scrubbed.
    pub scrub: Vec<ScrubReport>,
    /// The packages installed, sorted; `None` until the guest's own program has been asked.
    pub packages: Option<Vec<Package>>,
    /// Whose packages they are.
    #[serde(default)]
    pub distribution: Option<Distribution>,
    /// Where the guest has its file systems, root first.
    pub systems: Vec<GuestPath>,
    /// Its labels.
    pub labels: Labels,
    /// How it is held against what its profiles require; `None` where they require nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditReport>,
}

/// What is known of an image's SELinux labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// The guest does not use SELinux.
    NotApplicable {
        /// Why that is known.
        reason: String,
    },
    /// Every file has the label of the guest's policy.
    Relabelled(Relabelled),
}

/// How an image was relabelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relabelled {
    /// The policy's name.
    pub policy: String,
    /// Over all files that labels are looked up in.
    pub policy_digest: Digest,
    /// Names seen.
    pub files: u64,
    /// Inodes whose label was written.
    pub changed: u64,
    /// Inodes that had their label.
    pub right: u64,
    /// Inodes left alone, as their type is customizable.
    pub customizable: u64,
    /// Inodes that the policy wants left alone.
    pub none: u64,
    /// Inodes that no rule of the policy matches.
    pub unmatched: u64,
    /// The second reading: names read, and how many had another label; `None` before it.
    pub verified: Option<Verified>,
}

/// What the second reading found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Names read.
    pub files: u64,
    /// Labels that are not the policy's.
    pub mismatches: u64,
    /// Inodes seen over all file systems.
    pub inodes: u64,
}

impl SealReport {
    /// The packages with the distribution that they are of, where both are known.
    #[must_use]
    pub fn inventory(&self) -> Option<Inventory> {
        let (distribution, packages) = (self.distribution.clone()?, self.packages.clone()?);
        Some(Inventory { distribution, packages })
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotApplicable { reason } => write!(f, "SELinux does not apply: {reason}"),
            Self::Relabelled(labels) => {
                let (files, policy) = (labels.files, &labels.policy);
                let digest = labels.policy_digest.short();
                match &labels.verified {
                    Some(Verified { mismatches, .. }) => {
                        write!(
                            f,
                            "{files} files, {mismatches} mismatches, policy {policy} {digest}"
                        )
                    }
                    None => write!(
                        f,
                        "{files} files, {} labels written, policy {policy} {digest}",
                        labels.changed
                    ),
                }
            }
        }
    }
}

/// The first phase, on the whole mounted guest: scrubs, and looks at what the later phases need.
///
/// # Errors
/// Where the guest's tree does not allow it, or its policy is broken.
pub fn scrub(
    mounted: &Path,
    wanted: &Scrub,
    disk: &DiskFacts,
) -> Result<(SealReport, Option<Box<Policy>>), SealError> {
    let root = GuestRoot::open(mounted)?;
    let guest = Guest::inspect(&root)?;
    let scrub = guest::scrub(&root, &guest, wanted, disk)?;
    let packages = match installed(&root, &guest)? {
        Installed::List(list) => Some(list),
        Installed::Ask(_) => None,
    };
    let directory = File::open(mounted).context("open", mounted)?;
    let (labels, policy) = match Policy::find(directory.as_fd())? {
        Found::NotApplicable(reason) => {
            (Labels::NotApplicable { reason: reason.to_string() }, None)
        }
        Found::Policy(policy) => {
            // Left by a tool that only schedules a relabelling, it would reboot each new machine.
            root.place("remove", "/.autorelabel")?.unlink("remove")?;
            (Labels::Relabelled(unlabelled(&policy)), Some(policy))
        }
    };
    let (distribution, systems) = (Some(Distribution::of(&guest)), Vec::new());
    let system = guest.pretty_name;
    Ok((SealReport { system, scrub, packages, distribution, systems, labels, audit: None }, policy))
}

fn unlabelled(policy: &Policy) -> Relabelled {
    Relabelled {
        policy: policy.name().to_owned(),
        policy_digest: policy.digest(),
        files: 0,
        changed: 0,
        right: 0,
        customizable: 0,
        none: 0,
        unmatched: 0,
        verified: None,
    }
}

fn labelled(systems: Vec<(Place, OwnedFd)>) -> Vec<LabelledFs> {
    systems.into_iter().map(|(place, root)| LabelledFs { root, prefix: place.target }).collect()
}

/// The last phase that writes, on file systems mounted alone.
///
/// # Errors
/// Where a label cannot be decided or written.
pub fn relabel(
    policy: &Policy,
    systems: Vec<(Place, OwnedFd)>,
    report: &mut SealReport,
) -> Result<(), SealError> {
    let done = selinux::relabel(policy, &labelled(systems), &RelabelOptions::default())?;
    let RelabelReport { files, changed, right, customizable, none, unmatched, .. } = done;
    report.labels = Labels::Relabelled(Relabelled {
        files,
        changed,
        right,
        customizable,
        none,
        unmatched,
        ..unlabelled(policy)
    });
    Ok(())
}

/// The policy by which a sealed state is read a second time; `None` where none applies.
///
/// # Errors
/// Where it is broken, or not the one that the labels were made from.
pub fn policy_of_sealed(
    mounted: &Path,
    report: &SealReport,
) -> Result<Option<Box<Policy>>, SealError> {
    let directory = File::open(mounted).context("open", mounted)?;
    match (Policy::find(directory.as_fd())?, &report.labels) {
        (Found::NotApplicable(_), Labels::NotApplicable { .. }) => Ok(None),
        (Found::Policy(policy), Labels::Relabelled(labels))
            if policy.digest() == labels.policy_digest =>
        {
            Ok(Some(policy))
        }
        _ => Err(SealError::OtherPolicy),
    }
}

/// The second reading, on file systems of the recorded state mounted alone and read-only.
///
/// # Errors
/// Where a label is wrong, or an inode was not seen.
pub fn verify(
    policy: &Policy,
    systems: Vec<(Place, OwnedFd)>,
    report: &mut SealReport,
) -> Result<(), SealError> {
    let mut used = Vec::new();
    for (place, root) in &systems {
        let superblock = superblock(place)?;
        let inodes = inodes_in_use(root.as_fd(), superblock.as_ref());
        used.push(inodes.context("count the inodes of", Path::new(place.target.as_str()))?);
    }
    let found = selinux::verify(policy, &labelled(systems), &RelabelOptions::default(), NAMED)?;
    for (used, system) in used.into_iter().zip(&found.filesystems) {
        if let Some(used) = used.filter(|&used| used != system.inodes) {
            let (system, seen) = (system.prefix.clone(), system.inodes);
            return Err(SealError::Unseen { system, used, seen });
        }
    }
    let VerifyReport { files, mismatched, mismatches, filesystems, .. } = found;
    if mismatched > 0 {
        let list = mismatches.iter().take(NAMED).map(describe).collect();
        return Err(SealError::Mismatch { count: mismatched, list });
    }
    if let Labels::Relabelled(labels) = &mut report.labels {
        let inodes = filesystems.iter().map(|system| system.inodes).sum();
        labels.verified = Some(Verified { files, mismatches: mismatched, inodes });
    }
    Ok(())
}

/// The policy of a guest; `None` where none applies.
///
/// # Errors
/// Where it is broken.
pub fn policy(mounted: &Path) -> Result<Option<Box<Policy>>, SealError> {
    let directory = File::open(mounted).context("open", mounted)?;
    match Policy::find(directory.as_fd())? {
        Found::NotApplicable(_) => Ok(None),
        Found::Policy(policy) => Ok(Some(policy)),
    }
}

/// Which labels are not those of the policy, on file systems mounted alone and read-only; the first
/// `named` of them are named.
///
/// # Errors
/// Where one cannot be read or decided.
pub fn mismatches(
    policy: &Policy,
    systems: Vec<(Place, OwnedFd)>,
    named: usize,
) -> Result<VerifyReport, SealError> {
    Ok(selinux::verify(policy, &labelled(systems), &RelabelOptions::default(), named)?)
}

fn describe(mismatch: &Mismatch) -> String {
    let found = mismatch.found.as_deref().map_or_else(|| "no label".to_owned(), shown);
    format!("\n  {} has {found}, not {}", shown(&mismatch.path), shown(&mismatch.expected))
}

fn superblock(place: &Place) -> Result<Option<[u8; EXT4_SUPERBLOCK]>, FileError> {
    if !place.system.kind.starts_with("ext") {
        return Ok(None);
    }
    let device = &place.system.device;
    let file = File::open(device).context("open", device)?;
    let mut block = [0; EXT4_SUPERBLOCK];
    file.read_exact_at(&mut block, 1024).context("read", device)?;
    Ok(Some(block))
}
