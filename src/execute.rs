//! Running actions on working disks.
//!
//! An [`Executor`] opens a [`Bench`]: one working disk, on which tasks are performed one after the
//! other, with a snapshot behind each. It gets tasks by value, with nothing left to look up, and
//! knows neither graph nor keys nor store. Faults cross a process boundary, so they are plain data
//! that keeps every cause.

pub mod bootstrap;
pub mod container;
pub mod keeper;
pub mod launcher;
pub mod layout;
pub mod machine;
pub mod native;
pub mod recover;
pub mod registered;
mod self_test;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::audit::AuditReport;
use crate::boot::Labels;
use crate::digest::Digest;
use crate::disk::overlay::Changed;
use crate::guest::Snapshot;
use crate::guest::installed::{Inventory, Package};
use crate::key::Registration;
use crate::name::SecretName;
use crate::recipe::{
    Aids, Bootstrap, OutputFormat, Requirement, Scratch, Scrub, SecretUse, StepKind,
};
use crate::seal::SealReport;
use crate::secret::SecretValue;
use crate::store::LayerFiles;
use machine::{Machine, Running};

/// What an executor's disk starts as.
#[derive(Debug, Clone)]
pub enum Start {
    /// Zeros, of that many bytes.
    Blank(u64),
    /// A state: the layers of its chain, base first.
    State(Vec<LayerFiles>),
    /// A state, and zeros behind its end up to that many bytes, which are more than it has.
    Grown(Vec<LayerFiles>, u64),
}

/// One thing to do on a working disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Make a bootable system on a blank disk.
    Bootstrap {
        /// What it holds.
        bootstrap: Bootstrap,
        /// From which the ids of its partitions and file systems are made.
        seed: Digest,
        /// How long each of its programs may take.
        timeout: Duration,
    },
    /// Make partitions and empty file systems on a blank disk.
    Scratch {
        /// How it is divided.
        scratch: Scratch,
        /// From which the ids of its partitions and file systems are made.
        seed: Digest,
        /// How long each of its programs may take.
        timeout: Duration,
    },
    /// Make the last partition and its file system fill the disk, which is larger than they know.
    Grow {
        /// How long each of its programs may take.
        timeout: Duration,
    },
    /// One step.
    Step {
        /// What it does.
        kind: StepKind<Snapshot>,
        /// Whether it has the network.
        network: bool,
        /// What its programs are given.
        aids: Aids<Snapshot, SecretUse>,
        /// How the guest is registered meanwhile.
        registration: Option<Registration>,
        /// The values of all secrets that these name.
        secrets: Vec<(SecretName, SecretValue)>,
        /// How long it may take.
        timeout: Duration,
    },
}

/// What is known of a guest's packages behind a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packages {
    /// They are those that were there before.
    #[default]
    AsBefore,
    /// They are these.
    Are(Inventory),
    /// They may be others, and could not be listed.
    Unknown,
}

/// What a task found out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The names of processes that a step left running; they are dead.
    pub leftovers: Vec<String>,
    /// Programs of the host that took part, with their versions.
    pub host: Vec<String>,
    /// What is installed in the guest now.
    pub packages: Packages,
    /// What whoever builds is told once the step is done, and what no log and no result may hold.
    pub told: Option<String>,
}

/// What a disk's epoch changed, to be made into a layer.
#[derive(Debug)]
pub struct Epoch {
    /// The file whose slots hold the written blocks.
    pub overlay: PathBuf,
    /// The changed runs in ascending order.
    pub changed: Vec<Changed>,
    /// The digest of the whole disk while it was frozen, if it was asked for.
    pub digest: Option<Digest>,
}

/// Gets the lines that a task prints, as they come.
pub type OnOutput<'a> = dyn FnMut(&str) + Send + 'a;

/// A working disk on which tasks are performed.
pub trait Bench {
    /// Performs a task. Everything that it prints goes to the file `log`, and to `output`.
    ///
    /// # Errors
    /// Where it fails; the disk is then of no more use.
    fn perform(
        &mut self,
        task: &Task,
        log: &Path,
        output: &mut OnOutput<'_>,
    ) -> Result<Outcome, Fault>;

    /// The barrier: brings the disk to rest and ends its epoch. With `digest`, hashes the whole disk
    /// while it rests.
    ///
    /// # Errors
    /// Where anything that was written may be lost; there is then no epoch.
    fn snapshot(&mut self, digest: bool) -> Result<Epoch, Fault>;

    /// Scrubs, unmounts and relabels the disk, and ends all writing to it for good. The report lacks
    /// the second reading. New ids of file systems are made from `seed`.
    ///
    /// # Errors
    /// Where the guest does not allow it.
    fn seal(
        self: Box<Self>,
        scrub: &Scrub,
        seed: Digest,
        log: &Path,
        output: &mut OnOutput<'_>,
    ) -> Result<(SealReport, Box<dyn Resting>), Fault>;

    /// Ends the use of the disk, leaving nothing on the host.
    ///
    /// # Errors
    /// Where something could not be undone; the next build does it then.
    fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// A working disk behind its seal: there is no way to perform anything on it any more, only to make
/// its last epoch a layer.
pub trait Resting {
    /// As [`Bench::snapshot`]. A write that came after the end of writing is a fault.
    ///
    /// # Errors
    /// As [`Bench::snapshot`].
    fn snapshot(&mut self, digest: bool) -> Result<Epoch, Fault>;

    /// As [`Bench::close`].
    ///
    /// # Errors
    /// As [`Bench::close`].
    fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// A sealed state, opened afresh and read-only.
pub trait SealedDisk {
    /// Reads every label a second time, by other code, and completes the report.
    ///
    /// # Errors
    /// Where a label is not what the guest's policy says, or an inode was not seen.
    fn verify(&mut self, report: SealReport) -> Result<SealReport, Fault>;

    /// Writes the disk to a file, which exists and is empty; it stays the same file.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn convert(&mut self, format: OutputFormat, target: &Path) -> Result<(), Fault>;

    /// Ends the use of the disk, leaving nothing on the host.
    ///
    /// # Errors
    /// As [`Bench::close`].
    fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// Opens working disks.
pub trait Executor: Sync {
    /// Opens a disk to work on. Its files go into `work`, an empty directory.
    ///
    /// # Errors
    /// Where the host cannot, or the state cannot be opened.
    fn open(&self, start: &Start, work: &Path) -> Result<Box<dyn Bench>, Fault>;

    /// Opens a sealed state.
    ///
    /// # Errors
    /// As [`Executor::open`].
    fn open_sealed(&self, chain: &[LayerFiles], work: &Path) -> Result<Box<dyn SealedDisk>, Fault>;

    /// Holds a state against requirements, without changing it. `packages` are those installed, if
    /// that is known; its files go into `work`, an empty directory.
    ///
    /// # Errors
    /// As [`Executor::open`]; a disk that makes no sense is a finding.
    fn audit(
        &self,
        chain: &[LayerFiles],
        requirements: &[Requirement],
        packages: Option<&[Package]>,
        work: &Path,
    ) -> Result<AuditReport, Fault>;

    /// Starts a machine on a state; what it writes goes with it. Its files go into `work`, an empty
    /// directory.
    ///
    /// # Errors
    /// As [`Executor::open`]; where the host cannot start it.
    fn boot(
        &self,
        start: &Start,
        machine: &Machine,
        work: &Path,
    ) -> Result<Box<dyn Running>, Fault>;

    /// Calls off everything that is open: what waits for it ends with a fault.
    fn interrupt(&self);

    /// Whether this host and user can execute at all.
    ///
    /// # Errors
    /// What is missing.
    fn check(&self) -> Result<(), Fault>;
}

/// Who is at fault, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// A step or the guest.
    Step,
    /// The host or the store.
    Host,
    /// A layer of the store is damaged: it can be built again.
    Damaged,
    /// The build was called off.
    Interrupted,
}

/// An error that crossed a process boundary: every cause, the code and the help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Who is at fault.
    pub kind: FaultKind,
    message: String,
    code: Option<String>,
    help: Option<String>,
    cause: Option<Box<Fault>>,
}

impl Fault {
    /// Takes an error with all its causes.
    pub fn of(kind: FaultKind, error: &dyn miette::Diagnostic) -> Self {
        Self {
            kind,
            message: error.to_string(),
            code: error.code().map(|code| code.to_string()),
            help: error.help().map(|help| help.to_string()),
            cause: error.source().map(|source| Box::new(Self::of_cause(kind, source))),
        }
    }

    fn of_cause(kind: FaultKind, error: &dyn std::error::Error) -> Self {
        Self {
            kind,
            message: error.to_string(),
            code: None,
            help: None,
            cause: error.source().map(|source| Box::new(Self::of_cause(kind, source))),
        }
    }

    /// A fault of its own.
    #[must_use]
    pub fn new(kind: FaultKind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: Some(code.to_owned()), help: None, cause: None }
    }

    /// The same as the cause of what a message says, with its code and help.
    #[must_use]
    pub fn within(self, message: impl Into<String>) -> Self {
        let (kind, code, help) = (self.kind, self.code.clone(), self.help.clone());
        Self { kind, message: message.into(), code, help, cause: Some(Box::new(self)) }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with what a process said before it ended, where it said anything.
    #[must_use]
    pub fn and_said(mut self, said: &str) -> Self {
        for line in said.lines() {
            self.message.push_str("\n  ");
            self.message.push_str(line);
        }
        self
    }

    /// Its code.
    #[must_use]
    pub fn code_text(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl miette::Diagnostic for Fault {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.code.as_ref().map(|code| Box::new(code) as _)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as _)
    }
}

/// What the engine asks of a keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Open {
        serve: crate::disk::door::Serve,
        name: String,
        directory: PathBuf,
    },
    Perform {
        task: Box<Task>,
        log: PathBuf,
    },
    Snapshot {
        digest: bool,
    },
    Seal {
        scrub: Scrub,
        seed: Digest,
        log: PathBuf,
    },
    Verify {
        report: Box<SealReport>,
    },
    Convert {
        format: OutputFormat,
        target: PathBuf,
    },
    Audit {
        requirements: Vec<Requirement>,
        packages: Option<Vec<Package>>,
    },
    /// With a descriptor behind it: the machine's console.
    Boot {
        machine: Box<Machine>,
    },
    Labels {
        since: SystemTime,
    },
    SelfTest,
    Close,
}

/// What a keeper tells the engine: any number of lines, then one answer to each request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Line(String),
    Done,
    Performed(Box<Outcome>),
    Snapshot { changed: Vec<(u64, u64, Option<u64>)>, digest: Option<Digest> },
    Sealed(Box<SealReport>),
    Verified(Box<SealReport>),
    Audited(Box<AuditReport>),
    Labelled(Labels),
    Tested(String),
    Failed(Box<Fault>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FileError;

    #[test]
    fn no_cause_is_lost_on_the_way() {
        let error = crate::disk::mounts::MountError::File(FileError {
            doing: "write",
            path: "/x".into(),
            source: std::io::Error::from_raw_os_error(28),
        });
        let fault = Fault::of(FaultKind::Host, &error);
        let text = serde_json::to_string(&fault).unwrap();
        let back: Fault = serde_json::from_str(&text).unwrap();
        assert_eq!(back, fault);
        let cause = std::error::Error::source(&back).unwrap();
        assert!(cause.to_string().contains("No space left"), "{cause}");
        assert_eq!(back.code_text(), Some("kiln::files::failed"));
    }
}
