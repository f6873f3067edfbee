//! Writes to every inode the label that the policy gives to its path.
//!
//! It is given mounted file systems and a policy; it decides neither when it runs nor what follows.
//!
//! The label is the whole context, as with `setfiles -F`, but an inode whose present type is
//! customizable is left alone. Only labels that differ are written. A stale `/.autorelabel` is the
//! caller's to remove before: this changes labels and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::StatxAttributes;
use rustix::io::Errno;

use super::contexts::FileKind;
use super::links::{Decision, Links};
use super::matcher::LookupError;
use super::walk::{self, Node, Visitor, in_guest, walk};
use super::{Expected, FsInodes, LabelledFs, Policy, SHOWN, shown, xattr};
use crate::digest::Digest;
use crate::name::GuestPath;

/// What the recipe says about labels.
#[derive(Debug, Clone, Default)]
pub struct RelabelOptions {
    /// Paths in the guest that decide for an inode whose names ask for different labels.
    pub winning_paths: BTreeSet<Vec<u8>>,
}

/// What a relabelling did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelabelReport {
    /// The policy.
    pub policy: Digest,
    /// Names seen; an inode with several is counted once for each.
    pub files: u64,
    /// Inodes whose label was written.
    pub changed: u64,
    /// Inodes that had their label.
    pub right: u64,
    /// Inodes left alone for their customizable type.
    pub customizable: u64,
    /// Inodes that the policy wants left alone (`<<none>>`).
    pub none: u64,
    /// Inodes that no specification matches, left alone.
    pub unmatched: u64,
    /// The first of those in byte order, at most [`SHOWN`].
    pub unmatched_paths: Vec<Vec<u8>>,
    /// Directories from which `security.sehash` was removed.
    pub sehash: u64,
    /// Inodes of each file system, in the order in which they were given.
    pub filesystems: Vec<FsInodes>,
}

/// Why a tree cannot be relabelled.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RelabelError {
    /// An inode could not be read or written.
    #[error("cannot {action} {}", shown(path))]
    #[diagnostic(
        code(kiln::selinux::relabel_io),
        help(
            "EINVAL means that the host runs SELinux and does not know the label: kiln then needs CAP_MAC_ADMIN"
        )
    )]
    Io {
        /// The path in the guest.
        path: Vec<u8>,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `/proc` is missing or of another pid namespace.
    #[error("/proc does not show this process")]
    #[diagnostic(
        code(kiln::selinux::relabel_no_proc),
        help("mount a new /proc in kiln's pid namespace; labels of links are written through it")
    )]
    NoProc {
        /// What the system said.
        source: io::Error,
    },
    /// The file system cannot hold labels.
    #[error("the file system at {prefix} cannot hold labels")]
    #[diagnostic(
        code(kiln::selinux::relabel_no_labels),
        help("vfat and its like are left out of relabelling")
    )]
    NoLabels {
        /// Where it is mounted in the guest.
        prefix: String,
        /// What the system said.
        source: io::Error,
    },
    /// An immutable or append-only inode has another label than it should.
    #[error("{} is {attribute} and its label is not right", shown(path))]
    #[diagnostic(
        code(kiln::selinux::relabel_immutable),
        help("clear the attribute in a step, with chattr -i -a")
    )]
    Immutable {
        /// The path in the guest.
        path: Vec<u8>,
        /// `immutable` or `append-only`.
        attribute: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Two names of one inode ask for different labels.
    #[error(
        "{} and {} are one inode, and the policy gives them `{}` and `{}`",
        shown(first),
        shown(second),
        shown(first_label),
        shown(second_label)
    )]
    #[diagnostic(
        code(kiln::selinux::relabel_hard_link),
        help("name the path that decides in the recipe, or replace one of the links by a copy")
    )]
    HardLink {
        /// A path in the guest.
        first: Vec<u8>,
        /// Its label.
        first_label: Vec<u8>,
        /// Another path.
        second: Vec<u8>,
        /// Its label.
        second_label: Vec<u8>,
    },
    /// A directory lies in a file system that was not given: a btrfs subvolume or a mount.
    #[error("{} lies in another file system or subvolume", shown(path))]
    #[diagnostic(
        code(kiln::selinux::relabel_foreign),
        help("add it to the guest's /etc/fstab, so that kiln knows its path, or delete it")
    )]
    Foreign {
        /// The path in the guest.
        path: Vec<u8>,
    },
    /// The policy cannot say what the label is.
    #[error("cannot look up the label of a path")]
    #[diagnostic(code(kiln::selinux::relabel_lookup), help("the cause names the policy's line"))]
    Lookup {
        /// Why.
        #[from]
        #[diagnostic_source]
        source: LookupError,
    },
    /// Several of the above.
    #[error("{count} inodes cannot be relabelled")]
    #[diagnostic(code(kiln::selinux::relabel_several), help("the first of them follow"))]
    Several {
        /// How many.
        count: u64,
        /// The first by path, at most [`SHOWN`].
        #[related]
        shown: Vec<RelabelError>,
    },
}

/// Relabels file systems, each mounted alone.
///
/// Every inode is visited, the roots, `lost+found`, links and devices included. What cannot be
/// labelled does not end the walk: all of it is told at the end, and then nothing counts as
/// relabelled.
///
/// # Errors
/// See [`RelabelError`]; labels may have been written before.
pub fn relabel(
    policy: &Policy,
    filesystems: &[LabelledFs],
    options: &RelabelOptions,
) -> Result<RelabelReport, RelabelError> {
    let others = filesystems.iter().map(|fs| fs.prefix.as_str().as_bytes()).collect();
    let totals = Totals::default();
    let mut counts = Vec::new();
    for fs in filesystems {
        let root = fs.root.as_fd();
        xattr::check_proc(root).map_err(|source| RelabelError::NoProc { source })?;
        if let Err(source) = xattr::label(&xattr::proc_path(root, b"."))
            && source.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
        {
            return Err(RelabelError::NoLabels { prefix: fs.prefix.as_str().into(), source });
        }
        let inodes = AtomicU64::new(0);
        let links = Mutex::new(Links::default());
        let job = Job { policy, fs, options, others: &others, totals: &totals, inodes, links };
        walk(root, &job);
        let Job { inodes, links, .. } = job;
        let links = links.into_inner().unwrap_or_else(PoisonError::into_inner);
        let inodes = inodes.into_inner() + links.len();
        label_links(policy, fs, links, &totals);
        counts.push(FsInodes { prefix: fs.prefix.clone(), inodes });
    }
    totals.report(policy, counts)
}

/// Counts of all workers.
#[derive(Default)]
struct Totals {
    files: AtomicU64,
    changed: AtomicU64,
    right: AtomicU64,
    customizable: AtomicU64,
    none: AtomicU64,
    unmatched: AtomicU64,
    sehash: AtomicU64,
    faulty: AtomicU64,
    unmatched_paths: Mutex<BTreeSet<Vec<u8>>>,
    faults: Mutex<BTreeMap<Vec<u8>, RelabelError>>,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Totals {
    fn fault(&self, path: &[u8], error: RelabelError) {
        add(&self.faulty);
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert(path.to_owned(), error);
        if faults.len() > SHOWN {
            faults.pop_last();
        }
    }

    fn left(&self, path: Vec<u8>, none: bool) {
        if none {
            return add(&self.none);
        }
        add(&self.unmatched);
        let mut paths = self.unmatched_paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.insert(path);
        if paths.len() > SHOWN {
            paths.pop_last();
        }
    }

    fn report(
        self,
        policy: &Policy,
        filesystems: Vec<FsInodes>,
    ) -> Result<RelabelReport, RelabelError> {
        let faults = self.faults.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut faults: Vec<_> = faults.into_values().collect();
        match (faults.pop(), self.faulty.into_inner()) {
            (None, _) => {}
            (Some(only), 1) => return Err(only),
            (Some(last), count) => {
                faults.push(last);
                return Err(RelabelError::Several { count, shown: faults });
            }
        }
        let unmatched_paths =
            self.unmatched_paths.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(RelabelReport {
            policy: policy.digest(),
            files: self.files.into_inner(),
            changed: self.changed.into_inner(),
            right: self.right.into_inner(),
            customizable: self.customizable.into_inner(),
            none: self.none.into_inner(),
            unmatched: self.unmatched.into_inner(),
            unmatched_paths: unmatched_paths.into_iter().collect(),
            sehash: self.sehash.into_inner(),
            filesystems,
        })
    }
}

/// The walk over one file system.
struct Job<'a> {
    policy: &'a Policy,
    fs: &'a LabelledFs,
    options: &'a RelabelOptions,
    others: &'a BTreeSet<&'a [u8]>,
    totals: &'a Totals,
    /// Inodes with one name.
    inodes: AtomicU64,
    links: Mutex<Links>,
}

impl Visitor for Job<'_> {
    fn node(&self, node: &Node<'_>) {
        let path = in_guest(&self.fs.prefix, node.inside);
        add(&self.totals.files);
        let single = node.kind == FileKind::Directory || node.stat.stx_nlink < 2;
        if single {
            add(&self.inodes);
        }
        let expected = match self.policy.lookup(&path, node.kind) {
            Ok(expected) => expected,
            Err(error) => return self.totals.fault(&path, error.into()),
        };
        if node.kind == FileKind::Directory {
            match xattr::strip_sehash(&xattr::proc_path(node.directory, node.name)) {
                Ok(true) => add(&self.totals.sehash),
                Ok(false) => {}
                Err(error) => self.totals.fault(&path, refused(node, &path, error)),
            }
        }
        if single {
            return match expected {
                Expected::Label(label) => write(self.policy, self.totals, node, &path, label),
                Expected::None => self.totals.left(path, true),
                Expected::NoMatch => self.totals.left(path, false),
            };
        }
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let inode = node.stat.stx_ino;
        match expected {
            Expected::Label(label) => {
                let wins = self.options.winning_paths.contains(&path);
                links.label(inode, node.inside, label, wins);
            }
            Expected::None => links.left(inode, node.inside, true),
            Expected::NoMatch => links.left(inode, node.inside, false),
        }
    }

    fn foreign(&self, inside: &[u8]) {
        let path = in_guest(&self.fs.prefix, inside);
        if !self.others.contains(path.as_slice()) {
            self.totals.fault(&path.clone(), RelabelError::Foreign { path });
        }
    }

    fn failed(&self, inside: &[u8], action: &'static str, source: io::Error) {
        let path = in_guest(&self.fs.prefix, inside);
        self.totals.fault(&path.clone(), RelabelError::Io { path, action, source });
    }
}

/// Labels the inodes with several names, now that all of their names are known.
fn label_links(policy: &Policy, fs: &LabelledFs, links: Links, totals: &Totals) {
    let guest = |prefix: &GuestPath, inside: &[u8]| in_guest(prefix, inside);
    for decision in links.decide() {
        match decision {
            Decision::Left { inside, none } => totals.left(guest(&fs.prefix, &inside), none),
            Decision::Conflict { first, second } => {
                let path = guest(&fs.prefix, &first.0);
                let error = RelabelError::HardLink {
                    first: path.clone(),
                    first_label: first.1,
                    second: guest(&fs.prefix, &second.0),
                    second_label: second.1,
                };
                totals.fault(&path, error);
            }
            Decision::Label { inside, label } => {
                let path = guest(&fs.prefix, &inside);
                let split = inside.iter().rposition(|&byte| byte == b'/');
                let parent = &inside[..split.unwrap_or(0)];
                let name = &inside[split.map_or(0, |slash| slash + 1)..];
                let root = fs.root.as_fd();
                let found = walk::open(root, parent).and_then(|directory| {
                    let stat = walk::stat(directory.as_fd(), name)?;
                    Ok((directory, stat))
                });
                match found {
                    Ok((directory, stat)) => {
                        let directory = directory.as_fd();
                        let kind = FileKind::Regular;
                        let node = Node { directory, name, inside: &inside, kind, stat };
                        write(policy, totals, &node, &path, &label);
                    }
                    Err(error) => {
                        let (action, source) = ("open", error.into());
                        totals.fault(&path.clone(), RelabelError::Io { path, action, source });
                    }
                }
            }
        }
    }
}

/// Writes a label where it differs.
fn write(policy: &Policy, totals: &Totals, node: &Node<'_>, path: &[u8], label: &[u8]) {
    let at = xattr::proc_path(node.directory, node.name);
    let stored = match xattr::label(&at) {
        Ok(stored) => stored,
        Err(source) => {
            let (path, action) = (path.to_owned(), "read the label of");
            return totals.fault(&path.clone(), RelabelError::Io { path, action, source });
        }
    };
    match stored {
        Some(stored) if xattr::is(&stored, label) => return add(&totals.right),
        Some(stored) if policy.is_customizable(&stored) => return add(&totals.customizable),
        _ => {}
    }
    match xattr::set_label(&at, label) {
        Ok(()) => add(&totals.changed),
        Err(error) => totals.fault(path, refused(node, path, error)),
    }
}

/// Says why an inode's attributes could not be written.
fn refused(node: &Node<'_>, path: &[u8], error: Errno) -> RelabelError {
    let (path, source) = (path.to_owned(), error.into());
    let attributes = node.stat.stx_attributes;
    if error == Errno::PERM && attributes.contains(StatxAttributes::IMMUTABLE) {
        return RelabelError::Immutable { path, attribute: "immutable", source };
    }
    if error == Errno::PERM && attributes.contains(StatxAttributes::APPEND) {
        return RelabelError::Immutable { path, attribute: "append-only", source };
    }
    RelabelError::Io { path, action: "write the label of", source }
}
