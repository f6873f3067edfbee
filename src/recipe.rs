//! The domain: what a recipe says once its names and values have been checked.
//!
//! Types only, no behaviour beyond small accessors. `F` is how a step refers to a file of the
//! workspace: a [`LocalFile`] as written, and an input once it has been hashed.

mod aids;
mod base;
mod boot;
mod cache;
mod profile;
mod publish;
mod scrub;
mod user_data;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{GuestPath, ImageName, Mode, Owner, SecretName, StepName};
use crate::source::{Span, Spanned};

pub use aids::{Account, Aids, Attached, SecretPlace, SecretSource, SecretUse, Subscription};
pub use base::{
    Base, Bootstrap, Checksum, DiskFormat, Fetch, Fetched, FileBase, Firmware, Layout, Origin,
    Partition, PartitionUse, Scratch, SystemKind, TableKind,
};
pub use boot::{BootCheck, BootFirmware, BootTest, Expectation, MetadataSource};
pub use cache::{RemoteSource, Retention, Sharing, TrustedKey};
pub use profile::{Check, KeyWay, Profile, Remedied, Requirement, Severity};
pub use publish::{NOVA_CACHE, Publish, Visibility};
pub use scrub::{Scrub, ScrubItem};
pub use user_data::{
    Config, ConfigFile, ConfigUser, Frequency, Heat, Part, Server, Text, Through, UserData, Wait,
};

/// One image: a base, ordered steps, a seal, outputs.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name, unique in the workspace.
    pub name: Spanned<ImageName>,
    /// Where its disk comes from.
    pub base: Spanned<Base<LocalFile>>,
    /// What its disk grows to right behind its base, in bytes; `None` where the base says it all.
    pub size: Option<Spanned<u64>>,
    /// How it is entitled to packages, for the steps that ask for it.
    pub subscription: Option<Subscription>,
    /// Steps in the order written; `graph` puts them in the order of execution.
    pub steps: Vec<Step>,
    /// What its seal scrubs.
    pub scrub: Scrub,
    /// How it is tested by booting it.
    pub test: BootTest,
    /// The files made from its sealed state.
    pub outputs: Vec<Output>,
    /// Where it is published.
    pub publish: Vec<Publish>,
}

/// A file or directory of the workspace as a recipe names it: relative to the recipe's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// The path as written.
    pub path: PathBuf,
    /// Where it was written.
    pub span: Span,
}

/// One customization.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name, if it has one.
    pub name: Option<Spanned<StepName>>,
    /// The steps that must come before it.
    pub after: Vec<Spanned<StepName>>,
    /// What it does.
    pub kind: StepKind<LocalFile>,
    /// Whether guest programs of this step may use the network.
    pub network: bool,
    /// The longest that it may take; not part of any key.
    pub timeout: Option<Duration>,
    /// With a period, a step that uses the network runs again in each period of UTC time.
    pub refresh: Option<Duration>,
    /// What its programs are given beside the guest.
    pub aids: Aids<LocalFile, Spanned<SecretName>>,
    /// The whole node.
    pub span: Span,
}

impl Step {
    /// Whether two runs may differ in more than the layout of blocks: the network has no lock, and
    /// a random password is another one each time.
    #[must_use]
    pub fn is_impure(&self) -> bool {
        let random = matches!(
            &self.kind,
            StepKind::Password(Password { secret: PasswordSecret::Random, .. })
        );
        self.network || random
    }
}

/// Ownership and mode that a file gets; what is `None` is root, or the kind's default mode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The user.
    pub owner: Option<Owner>,
    /// The group.
    pub group: Option<Owner>,
    /// The permission bits.
    pub mode: Option<Mode>,
}

/// What a step does. `F` is a file of the workspace.
///
/// The enum is closed: adding an operation is an arm here, its lowering, its execution, its page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepKind<F> {
    /// `install "nginx" "curl"`: packages, through the guest's package manager.
    Install(Packages),
    /// `uninstall "nginx"`.
    Uninstall(Packages),
    /// `update`: every installed package.
    Update,
    /// `run "setup.sh"`: a script of the workspace; its shebang is honoured, else `sh -eu`.
    Run(Run<F>),
    /// `run-command "…"`: the same, with the text in the recipe.
    RunCommand(RunCommand),
    /// `write "/etc/motd" "text"`.
    Write(Write),
    /// `append-line "/etc/hosts" "192.0.2.1 build"`.
    AppendLine(AppendLine),
    /// `copy-in "site" "/srv"`: a file or tree of the workspace into a directory.
    CopyIn(CopyIn<F>),
    /// `upload "nginx.conf" "/etc/nginx/nginx.conf"`: one file, to that path.
    Upload(CopyIn<F>),
    /// `mkdir "/srv/www"`, with its parents.
    Mkdir(Mkdir),
    /// `delete "/tmp/*"`: every path that matches, whole trees too; none is no error.
    Delete(Delete),
    /// `move "/a" "/b"`.
    Move(Move),
    /// `link "/usr/bin/vim" "/usr/bin/vi"`: symbolic links to a target.
    Link(Link),
    /// `chmod "0644" "/etc/motd"`.
    Chmod(Chmod),
    /// `chown "www-data:www-data" "/srv/www"`.
    Chown(Chown),
    /// `touch "/etc/cloud/clean"`.
    Touch(Paths),
    /// `truncate "/var/log/wtmp"`: an existing file to no bytes.
    Truncate(Paths),
    /// `hostname "web"`.
    Hostname(String),
    /// `timezone "Europe/Vienna"`.
    Timezone(String),
    /// `password "root" locked=#true`.
    Password(Password<F>),
    /// `ssh-inject "admin" key="ssh-ed25519 …"`.
    SshInject(SshInject<F>),
    /// `firstboot "grow.sh"`: a script that runs once, at the first boot.
    Firstboot(Firstboot<F>),
    /// `firstboot-command "…"`: the same, with the text in the recipe.
    FirstbootCommand(RunCommand),
    /// `firstboot-install "nginx"`: packages that are installed at the first boot.
    FirstbootInstall(Packages),
    /// `edit "/etc/ssh/sshd_config" "s/^#?UseDNS .*/UseDNS no/"`: expressions on each line of a file.
    Edit(Edit),
    /// `copy "/etc/skel" "/srv/skel"`: a file or tree inside the guest, with all attributes.
    Copy(Move),
    /// `tar-in "site.tar.gz" "/srv"`: an archive of the workspace, unpacked into a directory.
    TarIn(CopyIn<F>),
    /// `truncate-recursive "/var/log"`: every regular file below directories to no bytes.
    TruncateRecursive(Paths),
    /// `scrub-file "/root/key"`: files whose bytes are overwritten before they are removed.
    ScrubFile(Paths),
    /// `inject-qemu-ga`: the QEMU guest agent, installed and enabled.
    InjectQemuGa,
    /// `profile "openstack"`: what the guest lacks of a profile is repaired.
    Profile(Profile<F>),
    /// `selinux-relabel`: changes nothing about the order, as the seal always relabels last.
    SelinuxRelabel,
}

/// Package names, sorted: their order means nothing to a package manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// At least one.
    pub names: BTreeSet<String>,
    /// `install`: whether packages that these only recommend come too. `uninstall` says nothing.
    pub recommends: bool,
}

/// A script of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run<F> {
    /// The script.
    pub script: F,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A script written in the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCommand {
    /// Its text.
    pub script: String,
}

/// A file with a given content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file.
    pub path: GuestPath,
    /// Exactly the bytes to write: lowering has added the final newline unless `newline=#false`.
    pub content: String,
    /// Ownership and mode; the mode's default is 0644, and an existing file keeps its own.
    pub attributes: Attributes,
}

/// A line at the end of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendLine {
    /// The file; made if it is missing.
    pub path: GuestPath,
    /// The line, without its end.
    pub line: String,
}

/// A file or tree of the workspace that goes into the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyIn<F> {
    /// What to copy.
    pub source: F,
    /// `copy-in`: the directory to copy into, which must exist. `upload`: the file's path.
    pub destination: GuestPath,
    /// Owner and group of everything copied (root by default, never the host's), and the mode of
    /// an uploaded file (by default the source's permission bits, without set-id bits).
    pub attributes: Attributes,
}

/// A directory with its parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkdir {
    /// The directory.
    pub path: GuestPath,
    /// Of the last directory; 0755 by default. Parents that are made are root's, 0755.
    pub attributes: Attributes,
}

/// Paths to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// Paths, whose components may hold `*`, `?` and `[…]`.
    pub patterns: Vec<GuestPath>,
}

/// A rename inside the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// What to move; it must exist.
    pub from: GuestPath,
    /// Its new path, or an existing directory to move it into.
    pub to: GuestPath,
}

/// Symbolic links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What the links point to, as it is written into them.
    pub target: String,
    /// The links; an existing file or link is replaced, a directory is an error.
    pub links: Vec<GuestPath>,
}

/// New permission bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chmod {
    /// The bits.
    pub mode: Mode,
    /// Paths, which must exist; links are followed, inside the guest.
    pub paths: Vec<GuestPath>,
}

/// New owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chown {
    /// The user, unless only the group changes.
    pub owner: Option<Owner>,
    /// The group, unless only the user changes.
    pub group: Option<Owner>,
    /// Paths, which must exist; links are not followed.
    pub paths: Vec<GuestPath>,
    /// Whether whole trees change.
    pub recursive: bool,
}

/// One path or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// At least one.
    pub paths: Vec<GuestPath>,
}

/// How a user may log in with a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password<F> {
    /// The user, who must exist.
    pub user: String,
    /// The password, or that there is none.
    pub secret: PasswordSecret<F>,
    /// How the guest's `chpasswd` hashes it; its own choice where none is written.
    pub crypto: Option<Crypto>,
}

/// How a password is hashed. Source: crypt(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crypto {
    /// `$y$`.
    Yescrypt,
    /// `$6$`.
    Sha512,
    /// `$5$`.
    Sha256,
    /// `$1$`, for guests that know nothing else.
    Md5,
}

impl Crypto {
    /// The name in a recipe.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Yescrypt => "yescrypt",
            Self::Sha512 => "sha512",
            Self::Sha256 => "sha256",
            Self::Md5 => "md5",
        }
    }
}

/// A password or its absence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PasswordSecret<F> {
    /// `hash="$6$…"`: a crypt(5) string, written as it is.
    Hash(String),
    /// `plain="…"`: hashed by the guest's own `chpasswd`.
    Plain(String),
    /// `file="password.txt"`: the first line of a file, hashed by the guest's own `chpasswd`.
    File(F),
    /// `secret="NAME"`: the only secret of the step's [`Aids`].
    Secret,
    /// `random=#true`: 16 characters, shown to whoever builds and kept nowhere.
    Random,
    /// `locked=#true`: `!` before the hash, which is kept.
    Locked,
    /// `disabled=#true`: `*`, no password will ever match.
    Disabled,
}

/// A public key for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshInject<F> {
    /// The user, who must exist.
    pub user: String,
    /// The keys.
    pub key: SshKey<F>,
}

/// Where public keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SshKey<F> {
    /// `key="ssh-ed25519 …"`.
    Text(String),
    /// `file="keys/admin.pub"`: one key a line.
    File(F),
}

/// Expressions on the lines of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The file, which must exist.
    pub path: GuestPath,
    /// Expressions, each done on every line before the next; see `guest::edit`.
    pub expressions: Vec<String>,
    /// Whether it is an error that no line changes.
    pub required: bool,
}

/// A script for the first boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firstboot<F> {
    /// The script.
    pub script: F,
}

impl<F> StepKind<F> {
    /// The node's name in a recipe.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Install(_) => "install",
            Self::Uninstall(_) => "uninstall",
            Self::Update => "update",
            Self::Run(_) => "run",
            Self::RunCommand(_) => "run-command",
            Self::Write(_) => "write",
            Self::AppendLine(_) => "append-line",
            Self::CopyIn(_) => "copy-in",
            Self::Upload(_) => "upload",
            Self::Mkdir(_) => "mkdir",
            Self::Delete(_) => "delete",
            Self::Move(_) => "move",
            Self::Link(_) => "link",
            Self::Chmod(_) => "chmod",
            Self::Chown(_) => "chown",
            Self::Touch(_) => "touch",
            Self::Truncate(_) => "truncate",
            Self::Hostname(_) => "hostname",
            Self::Timezone(_) => "timezone",
            Self::Password(_) => "password",
            Self::SshInject(_) => "ssh-inject",
            Self::Firstboot(_) => "firstboot",
            Self::FirstbootCommand(_) => "firstboot-command",
            Self::FirstbootInstall(_) => "firstboot-install",
            Self::Edit(_) => "edit",
            Self::Copy(_) => "copy",
            Self::TarIn(_) => "tar-in",
            Self::TruncateRecursive(_) => "truncate-recursive",
            Self::ScrubFile(_) => "scrub-file",
            Self::InjectQemuGa => "inject-qemu-ga",
            Self::Profile(_) => "profile",
            Self::SelinuxRelabel => "selinux-relabel",
        }
    }

    /// The same step with every file of the workspace turned into something else.
    ///
    /// # Errors
    /// The first error of `turn`.
    pub fn map_files<G, E>(
        &self,
        mut turn: impl FnMut(&F) -> Result<G, E>,
    ) -> Result<StepKind<G>, E> {
        let mut copy_in = |copy: &CopyIn<F>| {
            Ok(CopyIn {
                source: turn(&copy.source)?,
                destination: copy.destination.clone(),
                attributes: copy.attributes.clone(),
            })
        };
        Ok(match self {
            Self::Install(packages) => StepKind::Install(packages.clone()),
            Self::Uninstall(packages) => StepKind::Uninstall(packages.clone()),
            Self::Update => StepKind::Update,
            Self::Run(run) => {
                StepKind::Run(Run { script: turn(&run.script)?, arguments: run.arguments.clone() })
            }
            Self::RunCommand(run) => StepKind::RunCommand(run.clone()),
            Self::Write(write) => StepKind::Write(write.clone()),
            Self::AppendLine(append) => StepKind::AppendLine(append.clone()),
            Self::CopyIn(copy) => StepKind::CopyIn(copy_in(copy)?),
            Self::Upload(copy) => StepKind::Upload(copy_in(copy)?),
            Self::Mkdir(mkdir) => StepKind::Mkdir(mkdir.clone()),
            Self::Delete(delete) => StepKind::Delete(delete.clone()),
            Self::Move(path) => StepKind::Move(path.clone()),
            Self::Link(link) => StepKind::Link(link.clone()),
            Self::Chmod(chmod) => StepKind::Chmod(chmod.clone()),
            Self::Chown(chown) => StepKind::Chown(chown.clone()),
            Self::Touch(paths) => StepKind::Touch(paths.clone()),
            Self::Truncate(paths) => StepKind::Truncate(paths.clone()),
            Self::Hostname(name) => StepKind::Hostname(name.clone()),
            Self::Timezone(zone) => StepKind::Timezone(zone.clone()),
            Self::Password(password) => StepKind::Password(Password {
                user: password.user.clone(),
                secret: match &password.secret {
                    PasswordSecret::Hash(hash) => PasswordSecret::Hash(hash.clone()),
                    PasswordSecret::Plain(plain) => PasswordSecret::Plain(plain.clone()),
                    PasswordSecret::File(file) => PasswordSecret::File(turn(file)?),
                    PasswordSecret::Secret => PasswordSecret::Secret,
                    PasswordSecret::Random => PasswordSecret::Random,
                    PasswordSecret::Locked => PasswordSecret::Locked,
                    PasswordSecret::Disabled => PasswordSecret::Disabled,
                },
                crypto: password.crypto,
            }),
            Self::SshInject(inject) => StepKind::SshInject(SshInject {
                user: inject.user.clone(),
                key: match &inject.key {
                    SshKey::Text(text) => SshKey::Text(text.clone()),
                    SshKey::File(file) => SshKey::File(turn(file)?),
                },
            }),
            Self::Firstboot(firstboot) => {
                StepKind::Firstboot(Firstboot { script: turn(&firstboot.script)? })
            }
            Self::FirstbootCommand(command) => StepKind::FirstbootCommand(command.clone()),
            Self::FirstbootInstall(packages) => StepKind::FirstbootInstall(packages.clone()),
            Self::Edit(edit) => StepKind::Edit(edit.clone()),
            Self::Copy(path) => StepKind::Copy(path.clone()),
            Self::TarIn(archive) => StepKind::TarIn(copy_in(archive)?),
            Self::TruncateRecursive(paths) => StepKind::TruncateRecursive(paths.clone()),
            Self::ScrubFile(paths) => StepKind::ScrubFile(paths.clone()),
            Self::InjectQemuGa => StepKind::InjectQemuGa,
            Self::Profile(profile) => StepKind::Profile(profile.map_files(&mut turn)?),
            Self::SelinuxRelabel => StepKind::SelinuxRelabel,
        })
    }
}

/// A file made from a sealed state.
#[derive(Debug, Clone)]
pub struct Output {
    /// The format.
    pub format: OutputFormat,
    /// Where it goes, relative to the workspace root; `None` for `out/IMAGE.FORMAT`.
    pub path: Option<PathBuf>,
    /// The whole node.
    pub span: Span,
}

impl Output {
    /// Where the file goes, relative to the workspace root.
    #[must_use]
    pub fn file(&self, image: &ImageName) -> PathBuf {
        match &self.path {
            Some(path) => path.clone(),
            None => PathBuf::from(format!("out/{image}.{}", self.format.extension())),
        }
    }
}

/// The format of an output and its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// `output "qcow2"`, `output "qcow2" compress=#true` (zstd).
    Qcow2 {
        /// Whether clusters are compressed.
        compress: bool,
    },
    /// `output "raw"`: a sparse file.
    Raw,
}

impl OutputFormat {
    /// The format's name, which is also the file name's ending.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Qcow2 { .. } => "qcow2",
            Self::Raw => "raw",
        }
    }
}
