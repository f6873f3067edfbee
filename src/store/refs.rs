//! Names that keep things alive: what an output was made from, what the last builds of an image led
//! to, what somebody pinned.
//!
//! Each is a small JSON file, replaced whole. What the states mean is not known here.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::site::Access;
use crate::digest::{ActionKey, Digest, Hasher, StateId};
use crate::files::{self, Context, FileError, Medium, Stamp, read_bounded};
use crate::name::{ImageName, PinName};

const LIMIT: u64 = 64 << 20;
const OUTPUTS: &str = "outputs";
const IMAGES: &str = "images";
const BUILDS: &str = "builds";
const PINS: &str = "pins";
/// The directories of refs.
pub(super) const DIRECTORIES: [&str; 4] = [OUTPUTS, IMAGES, BUILDS, PINS];
/// Builds that are noted of an image, also where fewer are kept.
const NOTED: usize = 64;
/// How long, in seconds, a build that changed nothing is not noted again.
const FRESH: u64 = 60 * 60;

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

/// A build of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// When it was last done, in seconds since 1970 in UTC; up to an hour too early where it was
    /// done again and changed nothing.
    pub at: u64,
    /// The last state that it led to: using it was using all that it stands on.
    pub state: StateId,
    /// Whether that is the image's sealed state, and not how far a failed build came.
    pub sealed: bool,
}

/// What somebody wants kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The state, with all that it stands on.
    pub state: StateId,
    /// What it was called then, for people: `IMAGE/STEP`, or the state's id.
    pub what: String,
    /// When it was pinned, in seconds since 1970 in UTC.
    pub at: u64,
}

/// Why a pin cannot be read or set.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PinError {
    /// A file of the host cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// Nobody knows what it keeps.
    #[error("the pin `{}` is damaged", path.display())]
    #[diagnostic(
        code(kiln::store::damaged_pin),
        help(
            "nothing is removed from the store while it is unknown what it keeps: `kiln cache pin \
             --remove` removes it"
        )
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// There is no such pin.
    #[error("there is no pin `{name}`")]
    #[diagnostic(code(kiln::store::no_such_pin), help("`kiln cache ls` lists the pins"))]
    Unknown {
        /// Its name.
        name: PinName,
    },
    /// There is nothing to keep.
    #[error("the state {} is not in the store", state.short())]
    #[diagnostic(
        code(kiln::store::no_such_state),
        help("build it first; `kiln cache ls` lists what is there")
    )]
    NoState {
        /// The state.
        state: StateId,
    },
}

/// The refs of a store.
#[derive(Clone)]
pub struct Refs {
    root: PathBuf,
    medium: Arc<dyn Medium>,
    access: Access,
}

impl Refs {
    /// The refs in a directory, which exists.
    #[must_use]
    pub(super) fn new(root: PathBuf, medium: Arc<dyn Medium>, access: Access) -> Self {
        Self { root, medium, access }
    }

    /// Removes what killed builds left half written.
    ///
    /// # Errors
    /// Where a directory cannot be read, or a file not removed.
    pub fn sweep(&self) -> Result<(), FileError> {
        for directory in DIRECTORIES.map(|name| self.root.join(name)) {
            if directory.is_dir() {
                files::sweep(&directory)?;
            }
        }
        Ok(())
    }

    fn replace(&self, kind: &str, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let directory = self.root.join(kind);
        // A store of an older kiln has not all of them.
        if !directory.is_dir() {
            self.access.directory(&directory, 0o755)?;
            self.medium.sync_directory(&self.root).context("sync", &self.root)?;
        }
        files::replace(&*self.medium, &directory.join(name), bytes)
    }

    /// The names of the refs of a kind, in order; none where there is no such directory.
    fn names(&self, kind: &str) -> Result<Vec<String>, FileError> {
        let directory = self.root.join(kind);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("read", &directory)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.context("read", &directory)?.file_name().into_string());
        }
        // One that is half written is none.
        names.retain(|name| !name.ends_with(files::TEMPORARY));
        names.sort();
        Ok(names)
    }

    fn output_path(&self, output: &Path) -> PathBuf {
        let name: Digest = Hasher::new("kiln 2026-11 output ref v1")
            .raw(output.as_os_str().as_encoded_bytes())
            .finish();
        self.root.join(OUTPUTS).join(name.to_string())
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
        let path = self.output_path(&record.path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.replace(OUTPUTS, &name, &bytes)
    }

    /// What all outputs were made from; what is damaged is left out.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn outputs(&self) -> Result<Vec<OutputRecord>, FileError> {
        let read = |name: String| {
            let bytes = read_bounded(&self.root.join(OUTPUTS).join(name), LIMIT).ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        Ok(self.names(OUTPUTS)?.into_iter().filter_map(read).collect())
    }

    /// Forgets what an output was made from.
    ///
    /// # Errors
    /// Where the ref cannot be removed.
    pub fn forget_output(&self, output: &Path) -> Result<(), FileError> {
        let path = self.output_path(output);
        self.medium.remove(&path).context("remove", &path)
    }

    /// The images of which something is noted.
    ///
    /// # Errors
    /// Where the directories cannot be read.
    pub fn images(&self) -> Result<Vec<ImageName>, FileError> {
        let mut names = [self.names(IMAGES)?, self.names(BUILDS)?].concat();
        names.sort();
        names.dedup();
        Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The last builds of an image, newest first; none where nothing is noted, or it is damaged.
    #[must_use]
    pub fn builds(&self, image: &ImageName) -> Vec<Built> {
        let bytes = read_bounded(&self.root.join(BUILDS).join(image.as_str()), LIMIT);
        bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Notes a build of an image, unless the same was noted within the hour.
    ///
    /// # Errors
    /// Where the ref cannot be written.
    pub fn note_build(&self, image: &ImageName, built: Built) -> Result<(), FileError> {
        let mut builds = self.builds(image);
        let noted = builds.first().is_some_and(|last| {
            (last.state, last.sealed) == (built.state, built.sealed)
                && (last.at..last.at + FRESH).contains(&built.at)
        });
        if noted {
            return Ok(());
        }
        // How far older builds came does not matter once there is a newer one.
        builds.retain(|old| old.sealed && old.state != built.state);
        builds.insert(0, built);
        builds.truncate(NOTED);
        let bytes = serde_json::to_vec(&builds).expect("a note has only string keys");
        self.replace(BUILDS, image.as_str(), &bytes)
    }

    /// All pins, by name.
    ///
    /// # Errors
    /// Where one cannot be read: it is not known then what it keeps.
    pub fn pins(&self) -> Result<Vec<(PinName, Pin)>, PinError> {
        let mut pins = Vec::new();
        for name in self.names(PINS)?.into_iter().filter_map(|name| name.parse::<PinName>().ok()) {
            let path = self.root.join(PINS).join(name.as_str());
            let bytes = match read_bounded(&path, LIMIT) {
                // It was removed at this very moment.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            let pin = serde_json::from_slice(&bytes);
            pins.push((name, pin.map_err(|source| PinError::Damaged { path, source })?));
        }
        Ok(pins)
    }

    /// Sets a pin, over another one of that name. Whoever calls it keeps the state from going.
    pub(super) fn set_pin(&self, name: &PinName, pin: &Pin) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(pin).expect("a pin has only string keys");
        self.replace(PINS, name.as_str(), &bytes)
    }

    /// Removes a pin; what it kept may go with the next collection.
    ///
    /// # Errors
    /// Where there is no such pin, or it cannot be removed.
    pub fn remove_pin(&self, name: &PinName) -> Result<(), PinError> {
        let path = self.root.join(PINS).join(name.as_str());
        match self.medium.remove(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(PinError::Unknown { name: name.clone() })
            }
            removed => {
                removed.context("remove", &path)?;
                let directory = self.root.join(PINS);
                Ok(self.medium.sync_directory(&directory).context("sync", &directory)?)
            }
        }
    }

    /// What is noted about an image's last build; `None` where nothing is, or it is damaged.
    #[must_use]
    pub fn image<T: serde::de::DeserializeOwned>(&self, image: &ImageName) -> Option<T> {
        let path = self.root.join(IMAGES).join(image.as_str());
        serde_json::from_slice(&read_bounded(&path, LIMIT).ok()?).ok()
    }

    /// Notes something about an image's last build.
    ///
    /// # Errors
    /// Where the ref cannot be written.
    pub fn set_image(&self, image: &ImageName, note: &impl Serialize) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(note).expect("a note has only string keys");
        self.replace(IMAGES, image.as_str(), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn state(n: u8) -> StateId {
        StateId(Digest::of(&[n]))
    }

    #[test]
    fn the_last_builds_are_noted_newest_first_and_once_an_hour() {
        let directory = tempfile::tempdir().unwrap();
        let refs = Store::open(directory.path()).unwrap().refs();
        let image: ImageName = "web".parse().unwrap();
        let note = |at: u64, n: u8, sealed: bool| {
            refs.note_build(&image, Built { at, state: state(n), sealed }).unwrap();
        };
        let noted = || -> Vec<(u64, StateId)> {
            refs.builds(&image).iter().map(|built| (built.at, built.state)).collect()
        };
        note(10_000, 1, true);
        note(10_000 + FRESH - 1, 1, true);
        assert_eq!(noted(), [(10_000, state(1))]);
        note(10_000 + FRESH, 1, true);
        assert_eq!(noted(), [(10_000 + FRESH, state(1))]);
        note(20_000, 2, false);
        note(20_001, 3, false);
        assert_eq!(noted(), [(20_001, state(3)), (10_000 + FRESH, state(1))]);
        note(20_002, 2, true);
        note(20_003, 1, true);
        assert_eq!(noted(), [(20_003, state(1)), (20_002, state(2))]);
        // A clock that went back does not keep a build from being noted.
        note(5, 1, true);
        assert_eq!(noted()[0], (5, state(1)));
        for n in 0..100 {
            note(30_000, n, true);
        }
        assert_eq!(noted().len(), NOTED);
    }

    #[test]
    fn a_pin_is_there_until_it_is_removed_and_a_damaged_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let refs = Store::open(directory.path()).unwrap().refs();
        let name: PinName = "release-1".parse().unwrap();
        let pin = Pin { state: state(1), what: "web/seal".to_owned(), at: 7 };
        refs.set_pin(&name, &pin).unwrap();
        assert_eq!(refs.pins().unwrap(), [(name.clone(), pin)]);
        fs::write(directory.path().join("refs/pins/release-1"), "{").unwrap();
        assert!(matches!(refs.pins(), Err(PinError::Damaged { .. })));
        refs.remove_pin(&name).unwrap();
        assert!(matches!(refs.remove_pin(&name), Err(PinError::Unknown { .. })));
        assert!(refs.pins().unwrap().is_empty());
    }
}
