//! Actions and their keys: what decides that a result may be used again.
//!
//! One walk over an [`Action`] makes its [`Manifest`], a list of named values; the key is the digest
//! of that list, and what people are shown is the same list. So an explanation cannot disagree with
//! the key. Every structure is taken apart without `..`: a new field does not compile until somebody
//! has decided here.
//!
//! | in the key | why |
//! |---|---|
//! | [`SCHEMA`], the epoch of the operation | kiln's own meaning of a step may change |
//! | the parent's key | all that came before |
//! | every evaluated argument | |
//! | content of inputs; names and modes where the guest sees them | |
//! | the executor, its epoch and the architecture | programs of the guest can see them |
//! | whether the step has the network; its generation | what it downloads has no digest |
//! | the checksum of a downloaded base | it says what comes |
//! | secrets by name and version, attachments, the account of a subscription | the step works with them |
//!
//! | not in the key | why |
//! |---|---|
//! | names and edges of steps, spans, comments, formatting | they decide the order, and the parent's key says that |
//! | the time that a step may take | a failed step is never recorded |
//! | refresh periods | they decide the generation, which is in |
//! | the values of secrets; addresses of downloads | versions and checksums are in |
//! | host paths, owners and times of inputs, who runs kiln, where the store is | the image does not depend on them |

use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, Digest, Hasher};
use crate::inputs::Input;
use crate::name::GuestPath;
use crate::recipe::{
    Account, Aids, AppendLine, Attached, Attributes, BootTest, Bootstrap, Check, Checksum, Chmod,
    Chown, CopyIn, Delete, Edit, Expectation, Fetched, FileBase, Firmware, Firstboot, KeyWay,
    Layout, Link, Mkdir, Move, Packages, Partition, PartitionUse, Password, PasswordSecret, Paths,
    Profile, Remedied, Requirement, Run, RunCommand, Scratch, Scrub, SecretUse, SshInject, SshKey,
    StepKind, TableKind, Write,
};

/// Version of the whole scheme, the rule of linearization included.
pub const SCHEMA: u64 = 1;
/// Raised with every change of what a bootstrapped base is like; see `execute::bootstrap`.
const BOOTSTRAP_EPOCH: u64 = 1;
/// Raised with every change of what an empty disk is like.
const SCRATCH_EPOCH: u64 = 1;
/// Raised with every change of what a requirement means, or of what kiln does to meet it.
const PROFILE_EPOCH: u64 = 1;
/// Raised with every change of what a boot must show, or of how a machine is made.
const BOOT_TEST_EPOCH: u64 = 1;
/// The word of an action that makes a base larger.
const GROW: &str = "grow";
/// Epoch of the native executor: raised when what a guest's program can see of it changes.
const NATIVE_EPOCH: u64 = 1;

/// A step with nothing left to look up.
#[derive(Debug, Clone)]
pub struct Action {
    /// The action that it stands on; `None` for a base.
    pub parent: Option<ActionKey>,
    /// What it does.
    pub operation: Operation,
    /// Whether its programs have the network.
    pub network: bool,
    /// What they are given beside the guest.
    pub aids: Aids<Input, SecretUse>,
    /// How the guest is registered meanwhile, where [`Aids::subscription`] asks for it.
    pub registration: Option<Registration>,
    /// Which of many possible results is meant, where the network makes them differ.
    pub generation: Option<Generation>,
}

/// What an action does.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Takes a disk image of the workspace.
    File(FileBase<Input>),
    /// Takes a disk image that is downloaded.
    Fetch(Fetched),
    /// Makes a disk from packages.
    Bootstrap(Bootstrap),
    /// Makes an empty disk.
    Scratch(Scratch),
    /// Makes the disk of the base larger, to so many bytes, with its last partition and file system.
    Grow(u64),
    /// Changes a disk.
    Step(StepKind<Input>),
    /// Boots a sealed disk and looks at what it shows; it changes nothing.
    Test(BootTest),
    /// Ends a disk; what is scrubbed is what the image and all that it stands on want scrubbed.
    Seal(Seal),
}

/// How a disk is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// What is scrubbed.
    pub scrub: Scrub,
    /// What the sealed disk must be like; it has no result where one of severity `error` fails.
    pub requirements: Vec<Requirement>,
}

/// How a guest is registered while a step runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Who registers.
    pub account: Account<SecretUse>,
    /// Pools to attach.
    pub pools: Vec<String>,
    /// The server, where it is not Red Hat's own.
    pub server: Option<String>,
}

/// The number that the lock file gives to an impure action, and the period that now lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// From the lock file; 0 where it says nothing.
    pub number: u64,
    /// Periods of UTC time since 1970, with a `refresh`.
    pub bucket: Option<u64>,
}

/// One value of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A digest of something larger.
    Digest(Digest),
    /// The digest of something that nobody may guess at: it decides the key, and is never written.
    Secret(#[serde(skip)] Option<Digest>),
    /// Nothing, where there could be something.
    Absent,
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Digest(digest) => f.write_str(&digest.short()),
            Self::Secret(_) => f.write_str("a secret"),
            Self::Absent => f.write_str("nothing"),
        }
    }
}

/// The preimage of a key: every value that is in it, under a name, in a fixed order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest {
    /// Names and values.
    pub fields: Vec<(String, Value)>,
}

impl Manifest {
    /// The key: BLAKE3, in a domain of its own, over each name and value behind its length.
    #[must_use]
    pub fn key(&self) -> ActionKey {
        let mut hasher = Hasher::new("kiln 2026-11 action key v1");
        for (name, value) in &self.fields {
            hasher.bytes(name.as_bytes());
            match value {
                Value::Text(text) => hasher.number(1).bytes(text.as_bytes()),
                Value::Number(number) => hasher.number(2).number(*number),
                Value::Flag(flag) => hasher.number(3).number((*flag).into()),
                Value::Digest(digest) => hasher.number(4).raw(digest.as_bytes()),
                Value::Absent => hasher.number(5),
                Value::Secret(digest) => {
                    hasher.number(6).raw(digest.as_ref().map_or(&[], |digest| digest.as_bytes()))
                }
            };
        }
        ActionKey(hasher.finish())
    }

    /// Whether the action makes a base larger and does nothing else.
    #[must_use]
    pub fn is_of_growth(&self) -> bool {
        let growth = Value::Text(GROW.to_owned());
        self.fields.iter().any(|(name, value)| name == "operation" && *value == growth)
    }

    fn text(&mut self, name: &str, text: impl Into<String>) {
        self.fields.push((name.to_owned(), Value::Text(text.into())));
    }

    fn number(&mut self, name: &str, number: u64) {
        self.fields.push((name.to_owned(), Value::Number(number)));
    }

    fn flag(&mut self, name: &str, flag: bool) {
        self.fields.push((name.to_owned(), Value::Flag(flag)));
    }

    fn digest(&mut self, name: &str, digest: Digest) {
        self.fields.push((name.to_owned(), Value::Digest(digest)));
    }

    fn secret(&mut self, name: &str, digest: Digest) {
        self.fields.push((name.to_owned(), Value::Secret(Some(digest))));
    }

    fn optional(&mut self, name: &str, text: Option<String>) {
        let value = text.map_or(Value::Absent, Value::Text);
        self.fields.push((name.to_owned(), value));
    }

    /// A list: how many there are, and each under its number.
    fn list(&mut self, name: &str, texts: impl IntoIterator<Item = impl Into<String>>) {
        let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
        self.number(&format!("{name}.count"), texts.len() as u64);
        for (at, text) in texts.into_iter().enumerate() {
            self.text(&format!("{name}[{at}]"), text);
        }
    }

    fn paths(&mut self, name: &str, paths: &[GuestPath]) {
        self.list(name, paths.iter().map(GuestPath::as_str));
    }

    /// The bytes of a file, whatever its name and mode.
    fn content(&mut self, name: &str, input: &Input) {
        self.digest(name, input.content.unwrap_or(input.tree));
    }

    /// A file or tree whose name the guest sees.
    fn named(&mut self, name: &str, input: &Input) {
        self.digest(name, input.tree);
        // A name that is not UTF-8 is told apart by the digest of its bytes.
        match input.name.to_str() {
            Some(text) => self.text(&format!("{name}.name"), text),
            None => self.digest(&format!("{name}.name"), Digest::of(input.name.as_bytes())),
        }
    }

    /// A secret by what may be known of it.
    fn named_secret(&mut self, name: &str, secret: &SecretUse) {
        let SecretUse { name: secret, version } = secret;
        self.text(name, secret.as_str());
        self.text(&format!("{name}.version"), version);
    }

    fn attributes(&mut self, attributes: &Attributes) {
        let Attributes { owner, group, mode } = attributes;
        self.optional("owner", owner.as_ref().map(ToString::to_string));
        self.optional("group", group.as_ref().map(ToString::to_string));
        self.optional("mode", mode.as_ref().map(ToString::to_string));
    }
}

impl Action {
    /// Everything that is in the action's key.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let Self { parent, operation, network, aids, registration, generation } = self;
        let mut manifest = Manifest::default();
        let m = &mut manifest;
        m.number("schema", SCHEMA);
        m.fields
            .push(("parent".to_owned(), parent.map_or(Value::Absent, |key| Value::Digest(key.0))));
        m.text("executor", "native");
        m.number("executor.epoch", NATIVE_EPOCH);
        m.text("architecture", std::env::consts::ARCH);
        m.flag("network", *network);
        match generation {
            None => m.fields.push(("generation".to_owned(), Value::Absent)),
            Some(Generation { number, bucket }) => {
                m.number("generation", *number);
                let bucket = bucket.map_or(Value::Absent, Value::Number);
                m.fields.push(("generation.bucket".to_owned(), bucket));
            }
        }
        given(m, aids);
        if let Some(registration) = registration {
            registered(m, registration);
        }
        match operation {
            Operation::File(base) => file_base(m, base),
            Operation::Fetch(base) => fetched(m, base),
            Operation::Bootstrap(base) => bootstrap(m, base),
            Operation::Scratch(Scratch { size, layout }) => {
                m.text("operation", "scratch");
                m.number("operation.epoch", SCRATCH_EPOCH);
                m.number("size", *size);
                divided(m, layout);
            }
            Operation::Grow(size) => {
                m.text("operation", GROW);
                m.number("operation.epoch", 1);
                m.number("size", *size);
            }
            Operation::Step(kind) => step(m, kind),
            Operation::Test(test) => boot_test(m, test),
            Operation::Seal(Seal { scrub: Scrub { items, keep_users }, requirements }) => {
                m.text("operation", "seal");
                m.number("operation.epoch", 1);
                m.list("scrub", items.iter().map(|item| item.keyword()));
                m.list("scrub.keep-users", keep_users);
                // Nothing is said where nothing is required, so that such seals keep their keys.
                if !requirements.is_empty() {
                    m.number("requirements.count", requirements.len() as u64);
                    m.number("requirements.epoch", PROFILE_EPOCH);
                }
                for (at, required) in requirements.iter().enumerate() {
                    requirement(m, &format!("requirements[{at}]"), required);
                }
            }
        }
        manifest
    }

    /// The action's key.
    #[must_use]
    pub fn key(&self) -> ActionKey {
        self.manifest().key()
    }
}

fn file_base(m: &mut Manifest, base: &FileBase<Input>) {
    let FileBase { file, format } = base;
    m.text("operation", "file");
    m.number("operation.epoch", 1);
    m.content("file", file);
    m.optional("format", format.map(|format| format.keyword().to_owned()));
}

/// What was downloaded is known by its checksum, wherever it came from.
fn fetched(m: &mut Manifest, base: &Fetched) {
    let Fetched { origin: _, url: _, checksum, format } = base;
    m.text("operation", "fetch");
    m.number("operation.epoch", 1);
    match checksum {
        Checksum::Sha256(hex) => m.text("sha256", hex),
        Checksum::Sha512(hex) => m.text("sha512", hex),
    }
    m.optional("format", format.map(|format| format.keyword().to_owned()));
}

fn divided(m: &mut Manifest, layout: &Layout) {
    let Layout { table, firmware, partitions } = layout;
    m.text(
        "table",
        match table {
            TableKind::Gpt => "gpt",
            TableKind::Mbr => "mbr",
        },
    );
    m.text(
        "firmware",
        match firmware {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
            Firmware::Both => "both",
        },
    );
    m.number("partitions.count", partitions.len() as u64);
    for (at, Partition { purpose, size }) in partitions.iter().enumerate() {
        match purpose {
            PartitionUse::Mount { target, system } => {
                m.text(&format!("partitions[{at}]"), target.as_str());
                m.text(&format!("partitions[{at}].system"), system.keyword());
            }
            PartitionUse::Swap => m.text(&format!("partitions[{at}]"), "swap"),
        }
        let size = size.map_or(Value::Absent, Value::Number);
        m.fields.push((format!("partitions[{at}].size"), size));
    }
}

/// What a step is given; nothing is said where it is given nothing.
fn given(m: &mut Manifest, aids: &Aids<Input, SecretUse>) {
    let Aids { attached, secrets, subscription } = aids;
    for (number, Attached { source, at, disk }) in attached.iter().enumerate() {
        m.named(&format!("attached[{number}]"), source);
        let at = at.as_ref().map(ToString::to_string);
        m.optional(&format!("attached[{number}].at"), at);
        m.flag(&format!("attached[{number}].disk"), *disk);
    }
    for (number, secret) in secrets.iter().enumerate() {
        m.named_secret(&format!("secrets[{number}]"), secret);
    }
    if *subscription {
        m.flag("subscription", true);
    }
}

fn boot_test(m: &mut Manifest, test: &BootTest) {
    let BootTest { memory, firmware, metadata, user, expectations, without, timeout: _ } = test;
    m.text("operation", "test");
    m.number("operation.epoch", BOOT_TEST_EPOCH);
    m.number("memory", *memory);
    m.optional("firmware", firmware.map(|firmware| firmware.keyword().to_owned()));
    m.list("metadata", metadata.iter().map(|source| source.keyword()));
    m.optional("user", user.clone());
    for (at, expectation) in expectations.iter().enumerate() {
        match expectation {
            Expectation::Console(text) => m.text(&format!("expect[{at}]"), text),
            Expectation::Command { command, output } => {
                m.text(&format!("expect[{at}].command"), command);
                m.optional(&format!("expect[{at}].output"), output.clone());
            }
        }
    }
    m.list("without", without.iter().map(|check| check.keyword()));
}

fn registered(m: &mut Manifest, registration: &Registration) {
    let Registration { account, pools, server } = registration;
    match account {
        Account::ActivationKey { organization, key } => {
            m.text("subscription.organization", organization);
            m.named_secret("subscription.key", key);
        }
        Account::User { user, password } => {
            m.text("subscription.user", user);
            m.named_secret("subscription.password", password);
        }
    }
    m.list("subscription.pools", pools);
    m.optional("subscription.server", server.clone());
}

fn bootstrap(m: &mut Manifest, base: &Bootstrap) {
    let Bootstrap { suite, size, mirrors, components, variant, packages, layout, refresh: _ } =
        base;
    m.text("operation", "bootstrap");
    m.number("operation.epoch", BOOTSTRAP_EPOCH);
    m.text("suite", suite);
    m.number("size", *size);
    m.list("mirrors", mirrors);
    m.list("components", components);
    m.text("variant", variant);
    m.list("packages", packages);
    divided(m, layout);
}

/// The epoch of a step's execution: raised when the same step comes to mean something else.
fn epoch(kind: &StepKind<Input>) -> u64 {
    match kind {
        StepKind::Install(_)
        | StepKind::Uninstall(_)
        | StepKind::Update
        | StepKind::Run(_)
        | StepKind::RunCommand(_)
        | StepKind::Write(_)
        | StepKind::AppendLine(_)
        | StepKind::CopyIn(_)
        | StepKind::Upload(_)
        | StepKind::Mkdir(_)
        | StepKind::Delete(_)
        | StepKind::Move(_)
        | StepKind::Link(_)
        | StepKind::Chmod(_)
        | StepKind::Chown(_)
        | StepKind::Touch(_)
        | StepKind::Truncate(_)
        | StepKind::Hostname(_)
        | StepKind::Timezone(_)
        | StepKind::Password(_)
        | StepKind::SshInject(_)
        | StepKind::Firstboot(_)
        | StepKind::FirstbootCommand(_)
        | StepKind::FirstbootInstall(_)
        | StepKind::Edit(_)
        | StepKind::Copy(_)
        | StepKind::TarIn(_)
        | StepKind::TruncateRecursive(_)
        | StepKind::ScrubFile(_)
        | StepKind::InjectQemuGa
        | StepKind::SelinuxRelabel => 1,
        StepKind::Profile(_) => PROFILE_EPOCH,
    }
}

fn step(m: &mut Manifest, kind: &StepKind<Input>) {
    m.text("operation", kind.keyword());
    m.number("operation.epoch", epoch(kind));
    match kind {
        StepKind::Install(Packages { names, recommends })
        | StepKind::FirstbootInstall(Packages { names, recommends }) => {
            m.list("packages", names);
            m.flag("recommends", *recommends);
        }
        StepKind::Uninstall(Packages { names, recommends: _ }) => m.list("packages", names),
        StepKind::Update | StepKind::InjectQemuGa | StepKind::SelinuxRelabel => {}
        StepKind::Run(Run { script, arguments }) => {
            m.content("script", script);
            m.list("arguments", arguments);
        }
        StepKind::RunCommand(RunCommand { script })
        | StepKind::FirstbootCommand(RunCommand { script }) => m.text("script", script),
        StepKind::Write(Write { path, content, attributes }) => {
            m.text("path", path.as_str());
            m.text("content", content);
            m.attributes(attributes);
        }
        StepKind::AppendLine(AppendLine { path, line }) => {
            m.text("path", path.as_str());
            m.text("line", line);
        }
        StepKind::CopyIn(CopyIn { source, destination, attributes })
        | StepKind::Upload(CopyIn { source, destination, attributes }) => {
            m.named("source", source);
            m.text("destination", destination.as_str());
            m.attributes(attributes);
        }
        StepKind::TarIn(CopyIn { source, destination, attributes }) => {
            m.content("archive", source);
            m.text("destination", destination.as_str());
            m.attributes(attributes);
        }
        StepKind::Mkdir(Mkdir { path, attributes }) => {
            m.text("path", path.as_str());
            m.attributes(attributes);
        }
        StepKind::Delete(Delete { patterns }) => m.paths("patterns", patterns),
        StepKind::Move(Move { from, to }) | StepKind::Copy(Move { from, to }) => {
            m.text("from", from.as_str());
            m.text("to", to.as_str());
        }
        StepKind::Link(Link { target, links }) => {
            m.text("target", target);
            m.paths("links", links);
        }
        StepKind::Chmod(Chmod { mode, paths }) => {
            m.text("mode", mode.to_string());
            m.paths("paths", paths);
        }
        StepKind::Chown(Chown { owner, group, paths, recursive }) => {
            m.optional("owner", owner.as_ref().map(ToString::to_string));
            m.optional("group", group.as_ref().map(ToString::to_string));
            m.paths("paths", paths);
            m.flag("recursive", *recursive);
        }
        StepKind::Touch(Paths { paths })
        | StepKind::Truncate(Paths { paths })
        | StepKind::TruncateRecursive(Paths { paths })
        | StepKind::ScrubFile(Paths { paths }) => m.paths("paths", paths),
        StepKind::Edit(Edit { path, expressions, required }) => {
            m.text("path", path.as_str());
            m.list("expressions", expressions);
            m.flag("required", *required);
        }
        StepKind::Hostname(name) => m.text("name", name),
        StepKind::Timezone(zone) => m.text("zone", zone),
        StepKind::Password(Password { user, secret, crypto }) => {
            m.text("user", user);
            password(m, secret);
            m.optional("crypto", crypto.map(|crypto| crypto.keyword().to_owned()));
        }
        StepKind::SshInject(SshInject { user, key }) => {
            m.text("user", user);
            match key {
                SshKey::Text(text) => m.text("key", text),
                SshKey::File(file) => m.content("key.file", file),
            }
        }
        StepKind::Firstboot(Firstboot { script }) => m.named("script", script),
        StepKind::Profile(Profile { name: _, requirements }) => {
            m.number("requirements.count", requirements.len() as u64);
            for (at, Remedied { requirement: required, remedy }) in requirements.iter().enumerate()
            {
                let place = format!("requirements[{at}]");
                requirement(m, &place, required);
                m.number(&format!("{place}.remedy.count"), remedy.len() as u64);
                for (number, kind) in remedy.iter().enumerate() {
                    let mut inner = Manifest::default();
                    step(&mut inner, kind);
                    let fields = inner.fields.into_iter();
                    let within = |name: &str| format!("{place}.remedy[{number}].{name}");
                    m.fields.extend(fields.map(|(name, value)| (within(&name), value)));
                }
            }
        }
    }
}

/// What is required, whatever it is called where.
fn requirement(m: &mut Manifest, place: &str, requirement: &Requirement) {
    let Requirement { name, severity, check } = requirement;
    m.text(place, check.keyword());
    m.text(&format!("{place}.name"), name);
    m.text(&format!("{place}.severity"), severity.keyword());
    match check {
        Check::CloudInit
        | Check::RootLogin
        | Check::PasswordLogin
        | Check::PartitionTable
        | Check::RootFills
        | Check::RootLast
        | Check::OnePartition
        | Check::Growth
        | Check::PersistentNet
        | Check::NetGenerator
        | Check::HardwareAddresses
        | Check::SshServer
        | Check::Firewall
        | Check::BootEntries
        | Check::XenKernel
        | Check::AutoDiskConfig
        | Check::MachineId
        | Check::HostKeys
        | Check::Leftovers => {}
        Check::Datasources(names) => m.list(&format!("{place}.sources"), names),
        Check::DefaultUser(user) => m.optional(&format!("{place}.user"), user.clone()),
        Check::SshKey(way) => {
            m.flag(&format!("{place}.by-script"), *way == KeyWay::Script);
        }
        Check::Console(device) => m.optional(&format!("{place}.text"), device.clone()),
        Check::Package(text)
        | Check::NoPackage(text)
        | Check::Unit(text)
        | Check::NoUnit(text)
        | Check::KernelArgument(text) => m.text(&format!("{place}.text"), text),
        Check::File { path, contains } => {
            m.text(&format!("{place}.path"), path.as_str());
            m.optional(&format!("{place}.contains"), contains.clone());
        }
        Check::NoFile(path) => m.text(&format!("{place}.path"), path.as_str()),
    }
}

/// A password stays out of plans and manifests, also as a digest, by which it could be guessed.
fn password(m: &mut Manifest, secret: &PasswordSecret<Input>) {
    match secret {
        PasswordSecret::Hash(hash) => m.text("hash", hash),
        PasswordSecret::Plain(plain) => {
            let digest = Hasher::new("kiln 2026-11 password v1").raw(plain.as_bytes()).finish();
            m.secret("plain", digest);
        }
        PasswordSecret::File(file) => m.secret("file", file.content.unwrap_or(file.tree)),
        // Which one stands among what the step is given.
        PasswordSecret::Secret => m.flag("given", true),
        PasswordSecret::Random => m.flag("random", true),
        PasswordSecret::Locked => m.flag("locked", true),
        PasswordSecret::Disabled => m.flag("disabled", true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: StepKind<Input>) -> ActionKey {
        let operation = Operation::Step(kind);
        let aids = Aids::default();
        let (network, registration, generation) = (false, None, None);
        Action { parent: None, operation, network, aids, registration, generation }.key()
    }

    #[test]
    fn recommended_packages_count_where_packages_are_installed() {
        let packages = |recommends| Packages { names: ["nginx".to_owned()].into(), recommends };
        let install = |recommends| key(StepKind::Install(packages(recommends)));
        let uninstall = |recommends| key(StepKind::Uninstall(packages(recommends)));
        assert_ne!(install(true), install(false));
        assert_eq!(uninstall(true), uninstall(false));
        assert_ne!(install(true), uninstall(true));
    }
}
