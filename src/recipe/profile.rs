//! Profiles: what an image must be like, and what a step does about what is missing.

use serde::{Deserialize, Serialize};

use super::StepKind;
use crate::name::GuestPath;

/// How bad it is that a requirement is not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The image is not fit for its purpose.
    Error,
    /// Something will not work as its users expect.
    Warning,
    /// It could be better.
    Advice,
}

impl Severity {
    /// All of them, the worst first.
    pub const ALL: [Self; 3] = [Self::Error, Self::Warning, Self::Advice];

    /// The word in a recipe.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Advice => "advice",
        }
    }
}

/// How the key of whoever starts an instance gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyWay {
    /// Through cloud-init.
    CloudInit,
    /// Through a script that asks the metadata service.
    Script,
}

/// What is required of an image. Texts are as the recipe has them.
///
/// The enum is closed: a requirement more is an arm here, its word, its look at the guest, its
/// remedy, its row in the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// cloud-init is installed and enabled.
    CloudInit,
    /// cloud-init's list of data sources is empty or holds all of these.
    Datasources(Vec<String>),
    /// cloud-init has a default user, of that name if one is given.
    DefaultUser(Option<String>),
    /// root has no password, and gets no keys.
    RootLogin,
    /// sshd takes no passwords.
    PasswordLogin,
    /// The partition table fits the disk.
    PartitionTable,
    /// The root file system fills its partition.
    RootFills,
    /// The root partition is the last one.
    RootLast,
    /// One ext3 or ext4 partition and no other, but what firmware needs.
    OnePartition,
    /// The root file system grows at boot.
    Growth,
    /// The rules of udev that tie names of interfaces to addresses are empty.
    PersistentNet,
    /// What writes such rules is empty or hidden.
    NetGenerator,
    /// No configuration of a network names a hardware address.
    HardwareAddresses,
    /// An SSH server is installed and enabled.
    SshServer,
    /// The key of whoever starts an instance gets in.
    SshKey(KeyWay),
    /// No firewall is enabled.
    Firewall,
    /// Every boot entry and the defaults have the kernel write to that console; by default to the serial
    /// port that the guest's architecture has.
    Console(Option<String>),
    /// Every boot entry says what the defaults say.
    BootEntries,
    /// The kernel can be a paravirtualized guest of Xen.
    XenKernel,
    /// Glance is told that the disk may be resized, where it can be.
    AutoDiskConfig,
    /// No machine id is in the image.
    MachineId,
    /// No SSH host keys are in the image, and something makes new ones.
    HostKeys,
    /// Nothing of one machine, or of its making, is left.
    Leftovers,
    /// A package is installed.
    Package(String),
    /// A package is not installed.
    NoPackage(String),
    /// A file is there, and a line of it holds a text where one is given.
    File {
        /// The file.
        path: GuestPath,
        /// The text.
        contains: Option<String>,
    },
    /// Nothing matches a pattern.
    NoFile(GuestPath),
    /// A unit is there and enabled.
    Unit(String),
    /// A unit is not enabled.
    NoUnit(String),
    /// Every boot entry and the defaults have an argument of the kernel.
    KernelArgument(String),
}

impl Check {
    /// The word in a recipe.
    #[must_use]
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::CloudInit => "cloud-init",
            Self::Datasources(_) => "datasources",
            Self::DefaultUser(_) => "default-user",
            Self::RootLogin => "root-login",
            Self::PasswordLogin => "password-login",
            Self::PartitionTable => "partition-table",
            Self::RootFills => "root-fills",
            Self::RootLast => "root-last",
            Self::OnePartition => "one-partition",
            Self::Growth => "growth",
            Self::PersistentNet => "persistent-net",
            Self::NetGenerator => "net-generator",
            Self::HardwareAddresses => "hardware-addresses",
            Self::SshServer => "ssh-server",
            Self::SshKey(_) => "ssh-key",
            Self::Firewall => "firewall",
            Self::Console(_) => "console",
            Self::BootEntries => "boot-entries",
            Self::XenKernel => "xen-kernel",
            Self::AutoDiskConfig => "auto-disk-config",
            Self::MachineId => "machine-id",
            Self::HostKeys => "host-keys",
            Self::Leftovers => "leftovers",
            Self::Package(_) => "package",
            Self::NoPackage(_) => "no-package",
            Self::File { .. } => "file",
            Self::NoFile(_) => "no-file",
            Self::Unit(_) => "unit",
            Self::NoUnit(_) => "no-unit",
            Self::KernelArgument(_) => "kernel-argument",
        }
    }
}

/// One requirement of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// Its name, unique in the profile.
    pub name: String,
    /// How bad it is that it is not met.
    pub severity: Severity,
    /// What is required.
    pub check: Check,
}

/// A requirement, and the steps that the recipe has for an image that does not meet it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedied<F> {
    /// The requirement.
    pub requirement: Requirement,
    /// The steps; kiln's own where there are none.
    pub remedy: Vec<StepKind<F>>,
}

/// A profile, with all that it took over from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile<F> {
    /// Its name.
    pub name: String,
    /// Its requirements, in the order in which they are looked at and repaired. Empty until the
    /// name has been looked up.
    pub requirements: Vec<Remedied<F>>,
}

impl<F> Profile<F> {
    /// The same with every file of the workspace turned into something else.
    ///
    /// # Errors
    /// The first error of `turn`.
    pub fn map_files<G, E>(
        &self,
        turn: &mut dyn FnMut(&F) -> Result<G, E>,
    ) -> Result<Profile<G>, E> {
        let requirements = self.requirements.iter().map(|remedied| {
            let remedy = remedied.remedy.iter().map(|step| step.map_files(&mut *turn));
            Ok(Remedied {
                requirement: remedied.requirement.clone(),
                remedy: remedy.collect::<Result<_, E>>()?,
            })
        });
        Ok(Profile {
            name: self.name.clone(),
            requirements: requirements.collect::<Result<_, E>>()?,
        })
    }
}
