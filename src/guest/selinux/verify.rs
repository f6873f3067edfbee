//! Reads every label a second time, by other code than wrote them.
//!
//! It writes nothing and repairs nothing. With the relabeller it shares the parsed specifications,
//! the set of customizable types and how one label is read: its walk (`walkdir`, one directory
//! after the other) and its lookup (every specification from the last to the first) are its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rayon::prelude::*;

use super::matcher::LookupError;
use super::naive::Naive;
use super::{Expected, FileKind, FsInodes, LabelledFs, Policy, RelabelOptions, shown, xattr};
use crate::digest::Digest;

/// Names that are looked up together.
const BATCH: usize = 4096;

/// A path whose inode has another label than the policy gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The path in the guest.
    pub path: Vec<u8>,
    /// The stored label without a final NUL; `None` if there is none.
    pub found: Option<Vec<u8>>,
    /// The label that the policy gives, without a final NUL.
    pub expected: Vec<u8>,
}

/// What a second reading found. Paths are counted, not inodes, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The policy.
    pub policy: Digest,
    /// Names seen; an inode with several is counted once for each.
    pub files: u64,
    /// How many have another label than they should; those without a label among them.
    pub mismatched: u64,
    /// The first of them in byte order, at most as many as were asked for.
    pub mismatches: Vec<Mismatch>,
    /// How many should have a label and have none.
    pub unlabelled: u64,
    /// How many keep another label for their customizable type.
    pub customizable: u64,
    /// How many the policy wants left alone (`<<none>>`).
    pub none: u64,
    /// How many no specification matches.
    pub unmatched: u64,
    /// Inodes of each file system, in the order in which they were given.
    pub filesystems: Vec<FsInodes>,
}

/// Why a tree cannot be verified.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum VerifyError {
    /// An inode could not be read.
    #[error("cannot read {}", shown(path))]
    #[diagnostic(
        code(kiln::selinux::verify_io),
        help("every inode must be readable; mount the file system alone and read-only")
    )]
    Io {
        /// The path in the guest.
        path: Vec<u8>,
        /// What the system said.
        source: io::Error,
    },
    /// A directory could not be walked.
    #[error("cannot walk {}", shown(path))]
    #[diagnostic(
        code(kiln::selinux::verify_walk),
        help("every directory must be readable; mount the file system alone and read-only")
    )]
    Walk {
        /// The path in the guest.
        path: Vec<u8>,
        /// What the walk said.
        source: walkdir::Error,
    },
    /// A directory lies in a file system that was not given.
    #[error("{} lies in another file system or subvolume", shown(path))]
    #[diagnostic(
        code(kiln::selinux::verify_foreign),
        help("add it to the guest's /etc/fstab, so that kiln knows its path, or delete it")
    )]
    Foreign {
        /// The path in the guest.
        path: Vec<u8>,
    },
    /// The policy cannot say what the label is.
    #[error("cannot look up the label of a path")]
    #[diagnostic(code(kiln::selinux::verify_lookup), help("the cause names the policy's line"))]
    Lookup {
        /// Why.
        #[from]
        #[diagnostic_source]
        source: LookupError,
    },
}

/// Compares the whole context of every inode with what the policy gives to its path.
///
/// Mount each file system afresh, read-only and alone. Of an inode with several names every name
/// is judged, but where winning paths are among them only those. At most `named` mismatches are named.
///
/// # Errors
/// What cannot be read. A wrong label is no error: it is in the report.
pub fn verify(
    policy: &Policy,
    filesystems: &[LabelledFs],
    options: &RelabelOptions,
    named: usize,
) -> Result<VerifyReport, VerifyError> {
    let naive = Naive::new(policy.specs());
    let mut report = VerifyReport {
        policy: policy.digest(),
        files: 0,
        mismatched: 0,
        mismatches: Vec::new(),
        unlabelled: 0,
        customizable: 0,
        none: 0,
        unmatched: 0,
        filesystems: Vec::new(),
    };
    let prefixes: BTreeSet<&str> = filesystems.iter().map(|fs| fs.prefix.as_str()).collect();
    for fs in filesystems {
        let mut reading = Reading { policy, naive: &naive, named, links: BTreeMap::new() };
        let inodes = read_fs(&mut reading, fs, &prefixes, &mut report)?;
        for names in std::mem::take(&mut reading.links).into_values() {
            let wins = |seen: &&Seen| options.winning_paths.contains(&seen.path);
            let any = names.iter().any(|seen| wins(&seen));
            for seen in names.iter().filter(|seen| !any || wins(seen)) {
                count(policy, named, &mut report, seen);
            }
        }
        report.filesystems.push(FsInodes { prefix: fs.prefix.clone(), inodes });
    }
    Ok(report)
}

struct Reading<'a> {
    policy: &'a Policy,
    naive: &'a Naive<'a>,
    named: usize,
    /// Names of inodes with several, by inode number.
    links: BTreeMap<u64, Vec<Seen<'a>>>,
}

/// A name that is still to be looked up.
struct Name {
    /// Where it is on the host.
    host: std::path::PathBuf,
    path: Vec<u8>,
    kind: FileKind,
}

/// A name with both of its labels.
struct Seen<'a> {
    path: Vec<u8>,
    found: Option<Vec<u8>>,
    expected: Expected<'a>,
}

/// Walks one file system; gives the number of its inodes.
fn read_fs(
    reading: &mut Reading<'_>,
    fs: &LabelledFs,
    prefixes: &BTreeSet<&str>,
    report: &mut VerifyReport,
) -> Result<u64, VerifyError> {
    let root = xattr::proc_path(fs.root.as_fd(), b".");
    let root = Path::new(std::ffi::OsStr::from_bytes(&root)).to_owned();
    let guest = |host: &Path| {
        let mut path = fs.prefix.as_str().as_bytes().to_vec();
        if let Ok(inside) = host.strip_prefix(&root)
            && !inside.as_os_str().is_empty()
        {
            if path != b"/" {
                path.push(b'/');
            }
            path.extend_from_slice(inside.as_os_str().as_bytes());
        }
        path
    };
    let io = |path: &[u8], source| VerifyError::Io { path: path.to_owned(), source };
    let dev = std::fs::metadata(&root).map_err(|source| io(&guest(&root), source))?.dev();
    let mut inodes = 0;
    let mut linked = BTreeSet::new();
    let mut batch = Vec::new();
    let mut walk = walkdir::WalkDir::new(&root).follow_links(false).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|source| VerifyError::Walk {
            path: source.path().map(guest).unwrap_or_default(),
            source,
        })?;
        let path = guest(entry.path());
        let stat = std::fs::symlink_metadata(entry.path()).map_err(|source| io(&path, source))?;
        if stat.dev() != dev {
            if !prefixes.iter().any(|prefix| prefix.as_bytes() == path) {
                return Err(VerifyError::Foreign { path });
            }
            if stat.is_dir() {
                walk.skip_current_dir();
            }
            continue;
        }
        let unknown = || io(&path, io::ErrorKind::InvalidData.into());
        let kind = FileKind::from_mode(stat.mode()).ok_or_else(unknown)?;
        report.files += 1;
        let several = !stat.is_dir() && stat.nlink() > 1;
        if !several || linked.insert(stat.ino()) {
            inodes += 1;
        }
        let name = Name { host: entry.into_path(), path, kind };
        if several {
            let seen = reading.look(&name)?;
            reading.links.entry(stat.ino()).or_default().push(seen);
            continue;
        }
        batch.push(name);
        if batch.len() == BATCH {
            reading.count(&mut batch, report)?;
        }
    }
    reading.count(&mut batch, report)?;
    Ok(inodes)
}

impl<'a> Reading<'a> {
    fn look(&self, name: &Name) -> Result<Seen<'a>, VerifyError> {
        let expected = self.naive.lookup(&name.path, name.kind)?;
        let found = xattr::label(name.host.as_os_str().as_bytes())
            .map_err(|source| VerifyError::Io { path: name.path.clone(), source })?;
        Ok(Seen { path: name.path.clone(), found, expected })
    }

    fn count(&self, batch: &mut Vec<Name>, report: &mut VerifyReport) -> Result<(), VerifyError> {
        let seen = batch.par_iter().map(|name| self.look(name)).collect::<Result<Vec<_>, _>>()?;
        batch.clear();
        for seen in &seen {
            count(self.policy, self.named, report, seen);
        }
        Ok(())
    }
}

fn count(policy: &Policy, named: usize, report: &mut VerifyReport, seen: &Seen<'_>) {
    let expected = match seen.expected {
        Expected::None => return report.none += 1,
        Expected::NoMatch => return report.unmatched += 1,
        Expected::Label(label) => label,
    };
    match &seen.found {
        Some(found) if xattr::is(found, expected) => return,
        Some(found) if policy.is_customizable(found) => return report.customizable += 1,
        Some(_) => {}
        None => report.unlabelled += 1,
    }
    report.mismatched += 1;
    let found =
        seen.found.as_deref().map(|found| found.strip_suffix(b"\0").unwrap_or(found).to_vec());
    let at = report.mismatches.partition_point(|other| other.path < seen.path);
    if at < named {
        let mismatch = Mismatch { path: seen.path.clone(), found, expected: expected.to_owned() };
        report.mismatches.insert(at, mismatch);
        report.mismatches.truncate(named);
    }
}
