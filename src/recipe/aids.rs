//! What a step's programs are given beside the guest: attachments, secrets, a subscription.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::name::{GuestPath, SecretName};
use crate::source::{Span, Spanned};

/// What a step's programs are given beside the guest, while they run and no longer. `S` is a secret:
/// its name in a recipe, its name and version in a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aids<F, S> {
    /// Files, directories and disks of the workspace, to be read.
    pub attached: Vec<Attached<F>>,
    /// Secrets, each as a file of its name below `/run/kiln/secrets`.
    pub secrets: Vec<S>,
    /// Whether the guest is registered with the image's subscription meanwhile.
    pub subscription: bool,
}

impl<F, S> Default for Aids<F, S> {
    fn default() -> Self {
        Self { attached: Vec::new(), secrets: Vec::new(), subscription: false }
    }
}

/// `attach "tools.iso" at="/mnt"`: something of the workspace that a step's programs can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached<F> {
    /// A directory, a file, or a disk image, whose file system is mounted.
    pub source: F,
    /// An existing directory (for a file: file) of the guest that it hides meanwhile; where none is
    /// written, it is below `/run/kiln/attached` under its own name.
    pub at: Option<GuestPath>,
    /// Whether it is a disk image.
    pub disk: bool,
}

/// A secret as a key knows it: never its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretUse {
    /// Its name.
    pub name: SecretName,
    /// Its version, as `kiln.kdl` has it.
    pub version: String,
}

/// `secret "name" env="NAME" version="2"` of `kiln.kdl`: where a secret's value is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    /// Its name.
    pub name: Spanned<SecretName>,
    /// What is raised when its value changes in a way that images depend on.
    pub version: String,
    /// Where its value is.
    pub place: SecretPlace,
}

/// Where the value of a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// A file of the host, relative to the workspace root; a final line end is not part of it.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// What a program of the host prints: the program and its arguments, without a shell.
    Command(Vec<String>),
}

/// `subscription organization="…" activation-key="SECRET"`: how a guest of RHEL's kind is
/// registered while steps with `subscription=#true` run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Who registers.
    pub account: Account<Spanned<SecretName>>,
    /// Pools to attach; none, or `auto`, where the service decides.
    pub pools: Vec<String>,
    /// The server, where it is not Red Hat's own.
    pub server: Option<String>,
    /// The whole node.
    pub span: Span,
}

/// Who registers a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Account<S> {
    /// An organization, and the secret that holds an activation key of it.
    ActivationKey {
        /// The organization's id.
        organization: String,
        /// The secret.
        key: S,
    },
    /// A user, and the secret that holds the password.
    User {
        /// The user's name.
        user: String,
        /// The secret.
        password: S,
    },
}

impl<S> Account<S> {
    /// The secret by which it registers.
    pub fn secret(&self) -> &S {
        match self {
            Self::ActivationKey { key: secret, .. } | Self::User { password: secret, .. } => secret,
        }
    }

    /// The same account with its secret known in another way.
    #[must_use]
    pub fn map<T>(&self, turn: impl FnOnce(&S) -> T) -> Account<T> {
        match self {
            Self::ActivationKey { organization, key } => {
                Account::ActivationKey { organization: organization.clone(), key: turn(key) }
            }
            Self::User { user, password } => {
                Account::User { user: user.clone(), password: turn(password) }
            }
        }
    }
}
