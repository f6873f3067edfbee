//! Names that keep things alive: what an output was made from, what an image's last build used.
//!
//! Each is a small JSON file, replaced whole. What the states mean is not known here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, Digest, Hasher, StateId};
use crate::files::{self, FileError, Medium, Stamp, read_bounded};
use crate::name::ImageName;

const LIMIT: u64 = 64 << 20;

/// What an output file was made from, and what it looked like when it was finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// The file.
    pub path: PathBuf,
    /// The seal that it was made from.
    pub seal: ActionKey,
    /// The sealed state.
    pub state: StateId,
    /// Format and options, as in the manifest.
    pub format: String,
    /// The file as it was left.
    pub stamp: Stamp,
    /// The keys on whose word it rests, as in [`super::results::ActionResult::signer`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub signers: BTreeSet<String>,
}

/// The refs of a store.
#[derive(Clone)]
pub struct Refs {
    root: PathBuf,
    medium: Arc<dyn Medium>,
}

impl Refs {
    /// The refs in a directory, which exists.
    #[must_use]
    pub fn new(root: PathBuf, medium: Arc<dyn Medium>) -> Self {
        Self { root, medium }
    }

    /// Removes what killed builds left half written.
    ///
    /// # Errors
    /// Where a directory cannot be read, or a file not removed.
    pub fn sweep(&self) -> Result<(), FileError> {
        files::sweep(&self.root.join("outputs"))?;
        files::sweep(&self.root.join("images"))
    }

    fn output_path(&self, output: &Path) -> PathBuf {
        let name: Digest = Hasher::new("kiln 2026-11 output ref v1")
            .raw(output.as_os_str().as_encoded_bytes())
            .finish();
        self.root.join("outputs").join(name.to_string())
    }

    /// What an output file was made from; `None` where nothing is known or the ref is damaged.
    #[must_use]
    pub fn output(&self, output: &Path) -> Option<OutputRecord> {
        let bytes = read_bounded(&self.output_path(output), LIMIT).ok()?;
        let record: OutputRecord = serde_json::from_slice(&bytes).ok()?;
        (record.path == output).then_some(record)
    }

    /// Says what an output file was made from.
    ///
    /// # Errors
    /// Where the ref cannot be written.
    pub fn set_output(&self, record: &OutputRecord) -> Result<(), FileError> {
        let bytes = serde_json::to_vec_pretty(record).expect("a record has only string keys");
        files::replace(&*self.medium, &self.output_path(&record.path), &bytes)
    }

    /// What is noted about an image's last build; `None` where nothing is, or it is damaged.
    #[must_use]
    pub fn image<T: serde::de::DeserializeOwned>(&self, image: &ImageName) -> Option<T> {
        let path = self.root.join("images").join(image.as_str());
        serde_json::from_slice(&read_bounded(&path, LIMIT).ok()?).ok()
    }

    /// Notes something about an image's last build.
    ///
    /// # Errors
    /// Where the ref cannot be written.
    pub fn set_image(&self, image: &ImageName, note: &impl Serialize) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(note).expect("a note has only string keys");
        files::replace(&*self.medium, &self.root.join("images").join(image.as_str()), &bytes)
    }
}
