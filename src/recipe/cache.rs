//! What `kiln.kdl` says of the store and of the remotes that a team shares.

use std::time::Duration;

use crate::name::{Namespace, RemoteName};
use crate::source::Spanned;

/// `remote "name" "address"`: where results of others are found, and one's own go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSource {
    /// Its name, for people.
    pub name: Spanned<RemoteName>,
    /// `s3://bucket/prefix`, `oci://registry/repository`, `/directory`, and so on, as written.
    pub address: Spanned<String>,
    /// The server of an object store that has no server of its own name.
    pub endpoint: Option<String>,
    /// The region of an object store.
    pub region: Option<String>,
    /// Whether nothing is ever written to it.
    pub read_only: bool,
    /// Whether impure results are taken from it and given to it.
    pub impure: bool,
}

/// `trust "RW…"`: a public key whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key in minisign's form.
    pub key: Spanned<String>,
    /// Whose it is, for people.
    pub name: Option<String>,
    /// Whether its signatures count no more.
    pub revoked: bool,
}

/// `cache { … }`: what garbage collection keeps. Nothing that is `None` is a reason to remove
/// anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Largest size of all objects in bytes; what was used longest ago goes first.
    pub size: Option<u64>,
    /// Longest time since the last use.
    pub age: Option<Duration>,
    /// Bytes that stay free on the store's file system.
    pub free: Option<u64>,
    /// How many last builds of each image are kept whatever else says.
    pub keep_builds: usize,
    /// Longest time since the last use for a base that nothing kept stands on, as it came; Nova's
    /// `remove_unused_original_minimum_age_seconds`.
    pub unused_original: Option<Duration>,
    /// The same for a base that was made larger; Nova's
    /// `remove_unused_resized_minimum_age_seconds`.
    pub unused_resized: Option<Duration>,
}

impl Retention {
    /// Whether anything is ever a reason to remove something.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        let Self { size, age, free, keep_builds: _, unused_original, unused_resized } = self;
        let periods = [age, unused_original, unused_resized];
        size.or(*free).is_some() || periods.iter().any(|period| period.is_some())
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            size: None,
            age: None,
            free: None,
            keep_builds: 1,
            unused_original: None,
            unused_resized: None,
        }
    }
}

/// Everything that `kiln.kdl` says of sharing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Whose results these are: results of one namespace never serve another.
    pub namespace: Namespace,
    /// The remotes, in the order in which they are asked.
    pub remotes: Vec<RemoteSource>,
    /// The keys whose signatures count.
    pub trusted: Vec<TrustedKey>,
}
