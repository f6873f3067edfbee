//! What must stay in a store, and why: pins, leases, outputs, and the last builds of images.
//!
//! Leases have been read before, and the journal is read afterwards. A build records its result before
//! its lease ends, so that one of the two has what it made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;

use super::lease::Held;
use super::refs::{Built, OutputRecord};
use super::{Store, StoreError};
use crate::digest::{ObjectId, StateId};
use crate::files::Stamp;
use crate::name::{ImageName, PinName};

/// Why a state is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A running build relies on it.
    Running,
    /// It is pinned.
    Pinned(PinName),
    /// An output was made from it and is there still.
    Output(PathBuf),
    /// One of the last builds of an image led to it.
    Build(ImageName),
}

/// What must stay.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// States with the reasons why they are kept; with each, all that it stands on.
    pub(super) states: BTreeMap<StateId, BTreeSet<Why>>,
    /// Objects of running builds.
    pub(super) objects: BTreeSet<ObjectId>,
    /// When builds last used a state, in seconds since 1970.
    pub(super) used: HashMap<StateId, u64>,
    /// Outputs that are gone or are another file now.
    pub(super) stale_outputs: Vec<OutputRecord>,
}

impl Roots {
    /// Reads what must stay beside what leases hold, where `keep_builds` last builds of each image do.
    pub(super) fn read(
        store: &Store,
        keep_builds: usize,
        leases: BTreeSet<Held>,
    ) -> Result<Self, StoreError> {
        let mut roots = Self::default();
        for held in leases {
            match held {
                Held::State(state) => roots.keep(state, Why::Running),
                Held::Object(object) => {
                    roots.objects.insert(object);
                }
            }
        }
        for (name, pin) in store.refs().pins()? {
            roots.keep(pin.state, Why::Pinned(name));
        }
        for output in store.refs().outputs()? {
            if is_there(&output) {
                roots.keep(output.state, Why::Output(output.path));
            } else {
                roots.stale_outputs.push(output);
            }
        }
        for image in store.refs().images()? {
            let builds = store.refs().builds(&image);
            for Built { at, state, .. } in &builds {
                let used = roots.used.entry(*state).or_default();
                *used = (*used).max(*at);
            }
            let failed = builds.first().filter(|built| !built.sealed);
            let sealed = builds.iter().filter(|built| built.sealed).take(keep_builds);
            // How far a failed build came is what the next one goes on from.
            for built in failed.filter(|_| keep_builds > 0).into_iter().chain(sealed) {
                roots.keep(built.state, Why::Build(image.clone()));
            }
        }
        Ok(roots)
    }

    fn keep(&mut self, state: StateId, why: Why) {
        self.states.entry(state).or_default().insert(why);
    }
}

/// Whether an output is there as it was made; one that cannot be looked at is taken for it.
fn is_there(output: &OutputRecord) -> bool {
    match fs::symlink_metadata(&output.path) {
        Ok(_) => Stamp::of(&output.path) == Some(output.stamp),
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        }
    }
}
