//! The remotes of a workspace, asked as one.
//!
//! It knows which results count and where blobs lie; what a build does with them is the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::Guarded;
use super::accept::Accepted;
use super::backend::{Backend, RemoteError};
use super::signing::Signer;
use super::statement::ResultRecord;
use super::trust::Trust;
use super::{BlobId, BlobRef, RecordKind, RecordName};
use crate::digest::{ActionKey, StateId};
use crate::explain::Head;
use crate::name::{ImageName, Namespace};
use crate::pack::Source;

/// Questions that are asked at one time.
const QUESTIONS: usize = 16;

/// One remote, with what the workspace says of it.
pub struct Member {
    /// The remote itself.
    pub backend: Guarded,
    /// Whether nothing is written to it.
    pub read_only: bool,
    /// Whether impure results are shared by it.
    pub impure: bool,
}

/// The remotes of a workspace, in their order.
#[derive(Default)]
pub struct Team {
    members: Vec<Member>,
    namespace: Namespace,
    trust: Trust,
    signer: Option<Signer>,
    /// Chains of results that turned out not to be had: not to be used again.
    refused: Mutex<BTreeSet<StateId>>,
    told: Mutex<BTreeSet<String>>,
}

/// A result on a remote that counts.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The remote's name.
    pub remote: String,
    /// What was signed, and where the layers are described.
    pub accepted: Accepted,
}

impl Team {
    /// The remotes of a workspace; without a `signer` nothing is ever written to them.
    #[must_use]
    pub fn new(
        members: Vec<Member>,
        namespace: Namespace,
        trust: Trust,
        signer: Option<Signer>,
    ) -> Self {
        Self { members, namespace, trust, signer, ..Self::default() }
    }

    /// Whether there is nobody to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whose results are shared.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The keys whose signatures count.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Who signs what goes out.
    #[must_use]
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// All remotes.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The remotes that a result goes to; none without a signer.
    pub fn writable(&self, impure: bool) -> impl Iterator<Item = &Member> {
        let signs = self.signer.is_some();
        self.members.iter().filter(move |member| {
            signs && !member.read_only && (member.impure || !impure) && member.backend.is_up()
        })
    }

    /// The results of some actions that count, each from the first remote that has one. What
    /// does not count is told in [`Team::warnings`].
    #[must_use]
    pub fn find(&self, keys: &[ActionKey]) -> BTreeMap<ActionKey, Hit> {
        let mut hits = BTreeMap::new();
        for member in &self.members {
            let open: Vec<ActionKey> =
                keys.iter().copied().filter(|key| !hits.contains_key(key)).collect();
            let next = Mutex::new(open.iter());
            let found = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for _ in 0..QUESTIONS.min(open.len()) {
                    scope.spawn(|| {
                        loop {
                            let key = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                            let Some(&key) = key else { return };
                            if let Some(hit) = self.ask(member, key) {
                                found
                                    .lock()
                                    .unwrap_or_else(PoisonError::into_inner)
                                    .push((key, hit));
                            }
                        }
                    });
                }
            });
            hits.extend(found.into_inner().unwrap_or_else(PoisonError::into_inner));
        }
        hits
    }

    fn ask(&self, member: &Member, key: ActionKey) -> Option<Hit> {
        let (namespace, name) = (self.namespace.clone(), key.to_string());
        let name = RecordName { namespace, kind: RecordKind::Result, name };
        // That a remote fails is told once for all that it is asked.
        let bytes = member.backend.record(&name).ok().flatten()?;
        let remote = member.backend.name().to_owned();
        match ResultRecord::accept(&bytes, key, &self.namespace, &self.trust) {
            Ok(accepted) if accepted.statement.impure && !member.impure => None,
            Ok(accepted) => {
                let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                let chain = &accepted.statement.chain;
                let usable = !chain.iter().any(|link| refused.contains(&link.state));
                usable.then_some(Hit { remote, accepted })
            }
            Err(distrust) => {
                let short = key.short();
                self.tell(format!("the result of {short} on `{remote}` is not used: {distrust}"));
                None
            }
        }
    }

    /// What an image's newest shared build was made of, by the first remote that says it: to be
    /// shown, and believed for nothing else.
    #[must_use]
    pub fn head(&self, image: &ImageName) -> Option<Head> {
        let namespace = self.namespace.clone();
        let name = RecordName { namespace, kind: RecordKind::Image, name: image.to_string() };
        self.members.iter().find_map(|member| {
            let bytes = member.backend.record(&name).ok().flatten()?;
            Head::decode(&bytes, image).ok()
        })
    }

    /// Uses no result any more that stands on a state: its layer cannot be had.
    pub fn refuse(&self, state: StateId) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(state);
    }

    /// Adds a warning that was not told yet.
    pub fn tell(&self, text: String) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
    }

    /// What went wrong since the last call, each thing once; `known` holds what was told already.
    pub fn warnings(&self, known: &mut BTreeSet<String>) -> Vec<String> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trouble = self.members.iter().filter_map(|member| member.backend.trouble());
        told.into_iter().chain(trouble).filter(|text| known.insert(text.clone())).collect()
    }

    /// A whole blob, checked, from the first remote that has it right.
    ///
    /// # Errors
    /// Where none has: what went wrong at the last one; `None` where there is no remote.
    pub fn blob(&self, blob: BlobRef) -> Result<Vec<u8>, Option<RemoteError>> {
        let mut last = None;
        for member in &self.members {
            match member.backend.read_blob(blob, 0..blob.len) {
                Ok(bytes) if BlobId::of(&bytes) == blob.id => return Ok(bytes),
                Ok(_) => {
                    let remote = member.backend.name().to_owned();
                    let what = format!("the blob {}", blob.id);
                    last = Some(RemoteError::Damaged { remote, what });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last)
    }
}

impl Source for Team {
    fn places(&self) -> usize {
        self.members.len()
    }

    fn read(&self, place: usize, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        self.members[place].backend.read_blob(blob, range)
    }
}
