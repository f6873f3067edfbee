//! Audits: whether a disk is what a profile requires, and what would make it so.
//!
//! A guest's files are read as data, through [`GuestRoot`]; no program of the guest runs, and nothing
//! is written. Who mounts the disk, and who performs remedies, is not known here.
//!
//! Source of the requirements: "`OpenStack` Linux image requirements" of its documentation;
//! what each of kiln's own profiles asks for stands in `lower/profiles.kdl`.

mod access;
mod boot;
mod cloud;
mod files;
mod general;
mod growth;
mod identity;
mod layout;
mod network;
mod remedy;
mod report;
mod scripts;
mod sshd;
mod units;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use files::Unclear;

use crate::causes;
use crate::guest::architecture::Architecture;
use crate::guest::error::escaped;
use crate::guest::installed::Package;
use crate::guest::root::GuestRoot;
use crate::guest::{Guest, GuestError};
use crate::recipe::{Check, Profile, Requirement, Severity};

pub use layout::{DiskView, PartView};
pub use remedy::text::quoted;
pub use remedy::{LEFT_TO_SEAL, Remedy, remedy};
pub use report::Style;

/// Largest file of a guest that is read, in bytes.
const LIMIT: u64 = 4 << 20;
/// Most paths that a finding names.
const NAMED: usize = 5;

/// What an audit looks at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The guest's tree, with all of its file systems.
    pub root: &'a GuestRoot,
    /// What is known of it.
    pub guest: &'a Guest,
    /// What is installed; `None` where only a program of the guest could tell.
    pub packages: Option<&'a [Package]>,
    /// The disk that it lies on.
    pub disk: &'a DiskView,
    /// Whether a seal is still to come, which makes the next boot the first one.
    pub to_be_sealed: bool,
}

/// What a look at one requirement came to. The text says what was seen where; it is escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "seen")]
pub enum Verdict {
    /// It is met.
    Pass(String),
    /// It is not met.
    Fail(String),
    /// It cannot be told: the guest's files hide it, or do not say it. At severity `error` that counts
    /// as not met, or a guest could go round a requirement with a file that nobody can read.
    Unknown(String),
    /// The guest has nothing that it is about.
    NotApplicable(String),
}

impl Verdict {
    fn of(met: bool, seen: impl Into<String>) -> Self {
        if met { Self::Pass(seen.into()) } else { Self::Fail(seen.into()) }
    }

    /// The same with nothing in it that could drive a terminal: names come from the guest.
    #[must_use]
    pub fn harmless(mut self) -> Self {
        let (Self::Pass(seen) | Self::Fail(seen) | Self::Unknown(seen) | Self::NotApplicable(seen)) =
            &mut self;
        *seen = escaped(seen);
        self
    }

    /// What was seen.
    #[must_use]
    pub fn seen(&self) -> &str {
        match self {
            Self::Pass(seen)
            | Self::Fail(seen)
            | Self::Unknown(seen)
            | Self::NotApplicable(seen) => seen,
        }
    }
}

/// One requirement, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The requirement's name.
    pub name: String,
    /// Its word.
    pub check: String,
    /// How bad it is that it is not met.
    pub severity: Severity,
    /// What was found.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What makes it met, where it is not: steps of a recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<String>,
    /// The same for people, where no step can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// Whether the image is not fit for its purpose, as far as can be told.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self.verdict, Verdict::Fail(_) | Verdict::Unknown(_))
            && self.severity == Severity::Error
    }
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// The guest, as its os-release calls it; empty where it could not be read.
    pub system: String,
    /// The size of its disk in bytes; 0 where it could not be opened.
    #[serde(default)]
    pub disk_size: u64,
    /// Why the disk could not be looked at, so that nothing but its partition table is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// One for each requirement, in their order.
    pub findings: Vec<Finding>,
}

impl AuditReport {
    /// Leaves to the step `profile` what has a remedy of the profile's own.
    #[must_use]
    pub fn with_remedies_of<F>(mut self, profile: &Profile<F>) -> Self {
        for finding in &mut self.findings {
            let own = profile
                .requirements
                .iter()
                .any(|known| known.requirement.name == finding.name && !known.remedy.is_empty());
            if own && matches!(finding.verdict, Verdict::Fail(_)) {
                finding.steps = None;
                finding.advice =
                    Some(format!("the step `profile \"{}\"` repairs it", profile.name));
            }
        }
        self
    }

    /// The same with nothing in it that could drive a terminal.
    #[must_use]
    pub fn harmless(mut self) -> Self {
        let lines = |text: &str| text.lines().map(escaped).collect::<Vec<_>>().join("\n");
        self.system = escaped(&self.system);
        for finding in &mut self.findings {
            finding.name = escaped(&finding.name);
            finding.check = escaped(&finding.check);
            finding.verdict = finding.verdict.clone().harmless();
            finding.steps = finding.steps.as_deref().map(lines);
            finding.advice = finding.advice.as_deref().map(lines);
        }
        self
    }

    /// The findings by which the image is not fit for its purpose.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.is_failure())
    }
}

/// Looks at every requirement.
///
/// # Errors
/// Where the guest's tree cannot be read as a tree; a file that is not what it should be is a
/// finding.
pub fn audit(
    subject: Subject<'_>,
    requirements: &[Requirement],
) -> Result<AuditReport, GuestError> {
    let findings = requirements.iter().map(|requirement| {
        let verdict = look(subject, &requirement.check)?;
        let (mut steps, mut advice) = (None, None);
        // What is no matter of the disk stays to be done, whatever is seen there.
        let elsewhere =
            matches!((&requirement.check, &verdict), (Check::AutoDiskConfig, Verdict::Unknown(_)));
        if matches!(verdict, Verdict::Fail(_)) || elsewhere {
            match remedy(subject, &requirement.check) {
                Remedy::Steps(text) => steps = Some(text),
                Remedy::Advice(text) => advice = Some(text.to_owned()),
            }
        }
        Ok(finding(requirement, verdict, steps, advice))
    });
    Ok(AuditReport {
        system: subject.guest.pretty_name.clone(),
        disk_size: subject.disk.size,
        unreadable: None,
        findings: findings.collect::<Result<_, GuestError>>()?,
    })
}

/// The findings about a disk that could not be opened: its partition table is at fault where `table`
/// says so, and nothing else can be told.
#[must_use]
pub fn of_unreadable(requirements: &[Requirement], table: Option<&str>, why: &str) -> AuditReport {
    let findings = requirements.iter().map(|requirement| match (&requirement.check, table) {
        (Check::PartitionTable, Some(fault)) => {
            let advice = Some(remedy::TABLE.to_owned());
            finding(requirement, Verdict::Fail(fault.to_owned()), None, advice)
        }
        _ => finding(requirement, Verdict::Unknown(why.to_owned()).harmless(), None, None),
    });
    let unreadable = Some(escaped(why));
    AuditReport { system: String::new(), disk_size: 0, unreadable, findings: findings.collect() }
}

fn finding(
    requirement: &Requirement,
    verdict: Verdict,
    steps: Option<String>,
    advice: Option<String>,
) -> Finding {
    Finding {
        name: requirement.name.clone(),
        check: requirement.check.keyword().to_owned(),
        severity: requirement.severity,
        verdict,
        steps,
        advice,
    }
}

/// Looks at one requirement.
///
/// # Errors
/// As [`audit`].
pub fn look(subject: Subject<'_>, check: &Check) -> Result<Verdict, GuestError> {
    let result = match check {
        Check::CloudInit => cloud::installed(subject),
        Check::Datasources(wanted) => cloud::datasources(subject, wanted),
        Check::DefaultUser(wanted) => cloud::default_user(subject, wanted.as_deref()),
        Check::Growth => growth::growth(subject),
        Check::RootLogin => access::root_login(subject),
        Check::PasswordLogin => sshd::password_login(subject),
        Check::SshServer => access::server(subject),
        Check::SshKey(way) => access::key(subject, *way),
        Check::Firewall => access::firewall(subject),
        Check::PartitionTable => Ok(layout::table(subject.disk)),
        Check::RootFills => Ok(layout::root_fills(subject.disk)),
        Check::RootLast => Ok(layout::root_last(subject.disk)),
        Check::OnePartition => Ok(layout::one_partition(subject.disk)),
        Check::PersistentNet => network::persistent(subject),
        Check::NetGenerator => network::generator(subject),
        Check::HardwareAddresses => network::hardware_addresses(subject),
        Check::Console(device) => boot::argument(subject, &console(subject, device.as_deref())),
        Check::KernelArgument(argument) => boot::argument(subject, argument),
        Check::BootEntries => boot::entries_follow_defaults(subject),
        Check::XenKernel => boot::xen(subject),
        Check::AutoDiskConfig => Ok(layout::auto_disk_config(subject.disk)),
        Check::MachineId => identity::machine_id(subject),
        Check::HostKeys => identity::host_keys(subject),
        Check::Leftovers => identity::leftovers(subject),
        Check::Package(name) => Ok(general::package(subject, name, true)),
        Check::NoPackage(name) => Ok(general::package(subject, name, false)),
        Check::File { path, contains } => general::file(subject, path, contains.as_deref()),
        Check::NoFile(pattern) => general::no_file(subject, pattern),
        Check::Unit(name) => general::unit(subject, name, true),
        Check::NoUnit(name) => general::unit(subject, name, false),
    };
    let verdict = match result {
        Ok(verdict) => verdict,
        Err(Unclear::Meaning(why)) => Verdict::Unknown(why),
        Err(Unclear::Guest(error)) => of_error(error)?,
    };
    Ok(verdict.harmless())
}

/// What a file that cannot be read says about the image; what a disk cannot give is no matter of the
/// guest's.
fn of_error(error: GuestError) -> Result<Verdict, GuestError> {
    match error {
        error @ (GuestError::TooLarge { .. } | GuestError::Type { .. }) => {
            Ok(Verdict::Fail(error.to_string()))
        }
        // A link in circles, say.
        error if error.errno().is_some_and(|errno| errno != Errno::IO) => {
            Ok(Verdict::Unknown(causes::in_one_line(&error)))
        }
        error => Err(error),
    }
}

/// What makes the kernel write to a console: by default the serial port that the architecture has.
/// Source: `CONSOLE` of the kernel's drivers, as `QEMU` and `libvirt` have those ports.
fn console(subject: Subject<'_>, device: Option<&str>) -> String {
    let own = || {
        let name = subject.guest.architecture.map(Architecture::name).unwrap_or_default();
        match name.as_str() {
            "aarch64" | "arm" => "ttyAMA0",
            "ppc64" | "ppc64le" => "hvc0",
            "s390x" => "ttysclp0",
            _ => "ttyS0",
        }
    };
    format!("console={}", device.unwrap_or_else(own))
}
