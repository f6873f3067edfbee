//! Where a finished image goes: what a `publish` of a recipe says.
//!
//! None of it is in any key: who publishes an image elsewhere does not build it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::source::{Span, Spanned};

/// How long Nova keeps an image that no instance uses in its cache by default, in seconds:
/// `remove_unused_original_minimum_age_seconds`.
pub const NOVA_CACHE: u64 = 86_400;

/// `publish "glance" { … }`: the image in the image service of an `OpenStack` cloud.
#[derive(Debug, Clone)]
pub struct Publish {
    /// What it is called there.
    pub name: Spanned<String>,
    /// Who sees it.
    pub visibility: Visibility,
    /// Properties as written, by name.
    pub properties: BTreeMap<String, Spanned<String>>,
    /// Whether properties are also taken from what is known of the guest.
    pub automatic: bool,
    /// Tags.
    pub tags: BTreeSet<String>,
    /// The output that is uploaded, by its place in the image's outputs.
    pub output: usize,
    /// How long, at least, an image stays that a newer one has superseded.
    pub keep_old: Duration,
    /// How many superseded images stay, however old.
    pub keep_last: usize,
    /// Whether the image service lets nobody delete it.
    pub protected: bool,
    /// Smallest disk in GiB of an instance; the size of the virtual disk where it is not written.
    pub min_disk: Option<u64>,
    /// Smallest memory in MiB of an instance.
    pub min_ram: Option<u64>,
    /// An entry of the user's `clouds.yaml`.
    pub cloud: Option<String>,
    /// The region in that cloud.
    pub region: Option<String>,
    /// The whole node.
    pub span: Span,
}

/// Who sees an image. Source: the Image service API v2, "Image visibility".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Its project.
    #[default]
    Private,
    /// Its project, and those that it is shared with.
    Shared,
    /// Everybody who knows its id.
    Community,
    /// Everybody.
    Public,
}

impl Visibility {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Private, Self::Shared, Self::Community, Self::Public];

    /// The word in a recipe, and of the API.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Community => "community",
            Self::Public => "public",
        }
    }
}
