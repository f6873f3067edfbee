//! Publishing: a finished image under its name in an image service, whole or not at all.
//!
//! What is to be there, what is there, and how one becomes the other: [`plan`] decides, [`run`] does
//! it. Both know an image service as [`Images`] only; [`Glance`] is one over HTTP. How an output is
//! made is not known here.
//!
//! The name always leads to a whole image once it did. A new image is made hidden and under another
//! name, compared with the file, and only then gets the name, in one call; then the one that had it
//! is hidden. Whatever a killed run leaves is told by kiln's own properties, and the next run ends it.
//!
//! An image is kiln's where its properties have its own id; others are never removed. A plan may be
//! hours old when its last part is done: an image is looked at once more before it loses its name or
//! is removed.

mod glance;
mod plan;
mod properties;
mod record;
mod run;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;

use crate::digest::{ActionKey, StateId};
use crate::files::FileError;
use crate::recipe::Visibility;

pub use glance::{ConnectError, Glance, Opening, PATIENCE};
pub use plan::{Left, Plan, Subject, plan};
pub use properties::automatic;
pub use record::{Change, Draft, Record, Status, utc};
pub use run::{Act, Outcome, Watcher, prepare, publish};
pub use source::{Sent, Source};

/// The properties by which kiln finds its images again.
pub mod own {
    /// The name that the image has, had or is to get.
    pub const NAME: &str = "kiln_name";
    /// The image's own id: a copy, such as a snapshot that Nova makes of an instance, has all these
    /// properties and another id.
    pub const ID: &str = "kiln_id";
    /// The image of the recipes.
    pub const IMAGE: &str = "kiln_image";
    /// The key of its seal.
    pub const SEAL: &str = "kiln_seal";
    /// The sealed state.
    pub const STATE: &str = "kiln_state";
    /// The format of the output.
    pub const FORMAT: &str = "kiln_format";
    /// The names of the other properties that kiln has set, with commas.
    pub const PROPERTIES: &str = "kiln_properties";
    /// There until the image has got its name: when its upload will not be finished any more, in UTC.
    pub const UNFINISHED: &str = "kiln_unfinished";
    /// When a newer image took the name, in UTC.
    pub const SUPERSEDED: &str = "kiln_superseded_at";
    /// There where it was kiln that had the image protected.
    pub const PROTECTED: &str = "kiln_protected";
}

/// What is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The name that it gets.
    pub name: String,
    /// The image of the recipes.
    pub image: String,
    /// The key of its seal.
    pub seal: ActionKey,
    /// The sealed state.
    pub state: StateId,
    /// The format of the file, by the service's word for it: `qcow2` or `raw`.
    pub format: &'static str,
    /// Bytes of the file.
    pub size: u64,
    /// Who sees it.
    pub visibility: Visibility,
    /// Whether the service lets nobody delete it.
    pub protected: bool,
    /// Tags.
    pub tags: BTreeSet<String>,
    /// Properties, without kiln's own.
    pub properties: BTreeMap<String, String>,
    /// Smallest disk of an instance in GiB.
    pub min_disk: u64,
    /// Smallest memory of an instance in MiB.
    pub min_ram: u64,
    /// How long a superseded image stays at least, in seconds.
    pub keep_old: u64,
    /// How many superseded images stay, however old.
    pub keep_last: usize,
    /// Whether the name may be taken from an image that kiln has not made.
    pub take_over: bool,
}

/// What an image service can do. Calls block, each for a bounded time.
pub trait Images {
    /// What people call the cloud.
    fn cloud(&self) -> &str;

    /// All images of one's own project that have a name, or kiln's property with it; hidden ones
    /// too.
    ///
    /// # Errors
    /// Where the service does not say. A failure is never an empty list.
    fn list(&self, name: &str) -> Result<Vec<Record>, ImagesError>;

    /// An image; `None` where there is none.
    ///
    /// # Errors
    /// Where the service does not say.
    fn get(&self, id: &str) -> Result<Option<Record>, ImagesError>;

    /// Makes the record of an image without any bytes, hidden, private and by the id of the draft:
    /// one that is there with it was made by a call whose answer was lost.
    ///
    /// # Errors
    /// Where it may not be there afterwards.
    fn create(&self, draft: &Draft) -> Result<(), ImagesError>;

    /// Gives an image its bytes; `go_on` is told how many went so far, again and again, and may say
    /// no.
    ///
    /// # Errors
    /// Where they may not be there afterwards, though they may be; [`ImagesError::Interrupted`] where
    /// it was not to go on.
    fn upload(
        &self,
        id: &str,
        file: &Source,
        go_on: &dyn Fn(u64) -> bool,
    ) -> Result<Sent, ImagesError>;

    /// Changes an image, all at once. One that is so already, by a call whose answer was lost, is no
    /// error.
    ///
    /// # Errors
    /// Where it may not be changed afterwards.
    fn update(&self, id: &str, change: &Change) -> Result<(), ImagesError>;

    /// Removes an image; one that is gone already is no error.
    ///
    /// # Errors
    /// [`ImagesError::Refused`] where it is protected, [`ImagesError::Conflict`] where it is in use.
    fn delete(&self, id: &str) -> Result<(), ImagesError>;
}

/// A cause, as whoever failed told it.
type Cause = Box<dyn Error + Send + Sync>;

/// Why an image service did not do what it was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ImagesError {
    /// It does not let this user do that.
    #[error("{cloud} does not let you {doing}")]
    #[diagnostic(
        code(kiln::publish::refused),
        help("check who you are there: `OS_CLOUD` and `clouds.yaml`, or the variables `OS_*`")
    )]
    Refused {
        /// The cloud.
        cloud: String,
        /// What was asked, in the infinitive.
        doing: String,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// It holds that against something else that it knows: an image in use, say.
    #[error("{cloud} has something against it to {doing}")]
    #[diagnostic(
        code(kiln::publish::conflict),
        help("somebody else may be changing the image: run `kiln publish` again")
    )]
    Conflict {
        /// The cloud.
        cloud: String,
        /// What was asked.
        doing: String,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// It cannot be reached, or failed by its own account: it may be well in a moment.
    #[error("{cloud} could not {doing}")]
    #[diagnostic(
        code(kiln::publish::unavailable),
        help("nothing is half published: run `kiln publish` again when it is up")
    )]
    Unavailable {
        /// The cloud.
        cloud: String,
        /// What was asked.
        doing: String,
        /// What went wrong.
        #[source]
        source: Cause,
    },
    /// It did not answer in time.
    #[error("{cloud} did not {doing} in time")]
    #[diagnostic(
        code(kiln::publish::too_slow),
        help("nothing is half published: run `kiln publish` again when it answers")
    )]
    TooSlow {
        /// The cloud.
        cloud: String,
        /// What was asked.
        doing: String,
    },
    /// It will not do that, however often it is asked.
    #[error("{cloud} will not {doing}")]
    #[diagnostic(
        code(kiln::publish::wrong),
        help("what it said is below: check the names and values of the `publish`")
    )]
    Wrong {
        /// The cloud.
        cloud: String,
        /// What was asked.
        doing: String,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// Its answer cannot be the right one.
    #[error("what {cloud} answered cannot be understood, where it was to {doing}")]
    #[diagnostic(
        code(kiln::publish::damaged),
        help("check its address: is it that of an image service of version 2?")
    )]
    Damaged {
        /// The cloud.
        cloud: String,
        /// What was asked.
        doing: String,
    },
    /// Whoever runs kiln wants the end.
    #[error("interrupted; nothing is half published")]
    #[diagnostic(code(kiln::publish::interrupted), help("run `kiln publish` again"))]
    Interrupted,
    /// The file that is uploaded cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
}

impl ImagesError {
    /// Whether the same may succeed in a moment.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::TooSlow { .. } | Self::Conflict { .. } => true,
            Self::Refused { .. }
            | Self::Wrong { .. }
            | Self::Damaged { .. }
            | Self::Interrupted
            | Self::File(_) => false,
        }
    }
}

/// Why an image is not published.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PublishError {
    /// The service.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Images(#[from] ImagesError),
    /// The file.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// Somebody else's image has the name.
    #[error("the image {id} has the name `{name}`, and kiln has not made it")]
    #[diagnostic(
        code(kiln::publish::foreign),
        help(
            "give it another name, or publish with `--take-over`: then that one is hidden, and \
             stays until you remove it"
        )
    )]
    Foreign {
        /// Its id, escaped.
        id: String,
        /// The name.
        name: String,
    },
    /// The file is not the same any more.
    #[error("`{}` was changed while it was published", path.display())]
    #[diagnostic(
        code(kiln::publish::changed),
        help("the name leads to where it did: run `kiln publish` again when nothing writes to it")
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// What is there is not what was sent.
    #[error("the image {id} is not what was uploaded: {what}")]
    #[diagnostic(
        code(kiln::publish::differs),
        help(
            "it was removed again, and the name leads to where it did; check the service's store"
        )
    )]
    Differs {
        /// Its id.
        id: String,
        /// What differs.
        what: String,
    },
    /// The service hashes images in a way that kiln does not know.
    #[error("the service hashes images with `{algorithm}`, which kiln cannot compare")]
    #[diagnostic(
        code(kiln::publish::unknown_hash),
        help("Glance's `hashing_algorithm` must be `sha512`, its default, `sha384` or `sha256`")
    )]
    Hash {
        /// The algorithm, escaped.
        algorithm: String,
    },
}
