//! The boot test of an image: what is booted, and what must be seen of it. Who boots machines is
//! `execute`'s.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How an image is tested by booting it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTest {
    /// Bytes of memory of each machine.
    pub memory: u64,
    /// What starts it; found from the disk where the recipe does not say.
    pub firmware: Option<BootFirmware>,
    /// Where the machines find who they are: the first one, and the second.
    pub metadata: Vec<MetadataSource>,
    /// Who must be able to log in; whom the guest names where the recipe does not say.
    pub user: Option<String>,
    /// What must be seen beside what every boot must show.
    pub expectations: Vec<Expectation>,
    /// What need not be seen.
    pub without: BTreeSet<BootCheck>,
    /// How long a boot may take; not part of any key.
    pub timeout: Duration,
}

impl Default for BootTest {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            firmware: None,
            metadata: vec![MetadataSource::ConfigDrive, MetadataSource::Service],
            user: None,
            expectations: Vec::new(),
            without: BTreeSet::new(),
            timeout: Duration::from_mins(20),
        }
    }
}

impl BootTest {
    /// Where each machine finds who it is: one entry a machine. Without [`BootCheck::Clones`] there
    /// is one machine, unless two sources are to be tried.
    #[must_use]
    pub fn machines(&self) -> Vec<MetadataSource> {
        let first = self.metadata.first().copied().unwrap_or(MetadataSource::ConfigDrive);
        let count = if self.without.contains(&BootCheck::Clones) { self.metadata.len() } else { 2 };
        (0..count.max(1)).map(|at| self.metadata.get(at).copied().unwrap_or(first)).collect()
    }
}

/// What starts a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootFirmware {
    /// A PC's BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

impl BootFirmware {
    /// The name in a recipe.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

/// Where a machine finds who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataSource {
    /// A second disk with the label `config-2`, as Nova makes it.
    ConfigDrive,
    /// The service at 169.254.169.254, of `OpenStack` and of EC2.
    Service,
    /// A second disk with the label `cidata`, for machines outside a cloud.
    Nocloud,
}

impl MetadataSource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ConfigDrive, Self::Service, Self::Nocloud];

    /// The name in a recipe.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::ConfigDrive => "config-drive",
            Self::Service => "service",
            Self::Nocloud => "nocloud",
        }
    }
}

/// What every boot must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootCheck {
    /// The kernel's log on the serial console.
    Console,
    /// The name that the metadata gives.
    Hostname,
    /// That user data is run, as root.
    UserData,
    /// The key of the metadata in a user's `authorized_keys`.
    Key,
    /// That SSH answers, and lets that key in.
    Ssh,
    /// A root file system that grew with its disk.
    Growth,
    /// That two machines differ where machines must.
    Clones,
    /// That SELinux labels are still those of the policy.
    Labels,
}

impl BootCheck {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 8] = [
        Self::Console,
        Self::Hostname,
        Self::UserData,
        Self::Key,
        Self::Ssh,
        Self::Growth,
        Self::Clones,
        Self::Labels,
    ];

    /// The name in a recipe and in a report.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Hostname => "hostname",
            Self::UserData => "user-data",
            Self::Key => "key",
            Self::Ssh => "ssh",
            Self::Growth => "growth",
            Self::Clones => "clones",
            Self::Labels => "labels",
        }
    }
}

/// Something that a recipe wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expectation {
    /// `expect "Reached target Multi-User"`: a text on the serial console.
    Console(String),
    /// `expect-command "systemctl is-active nginx"`: a command that ends with 0.
    Command {
        /// The command, for the shell of the user who is logged in.
        command: String,
        /// What it must print, but for white space at its end.
        output: Option<String>,
    },
}
