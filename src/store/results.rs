//! Results of actions, and where the layers of states lie: one journal, only ever appended to.
//!
//! # Format, version 1
//!
//! The journal starts with `KILNRES1`. Each record is its payload's length (4 bytes, little-endian),
//! the first 8 bytes of the payload's plain BLAKE3, and the payload, a JSON object with one member
//! that names its kind. Records of an unknown kind are passed over, and so is one that does not agree
//! with its digest where a whole record follows it. Else a record that is cut short or does not agree
//! ends the journal, and what follows it does not count: the next append cuts it off. Appending is done under an exclusive lock of the file, with one write and
//! one sync.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, Digest, ObjectId, StateId};
use crate::files::{Context, FileError, Medium};

const MAGIC: &[u8; 8] = b"KILNRES1";
const FRAME: usize = 12;
/// Largest payload in bytes; a length above it is damage, not a record.
const MAX_PAYLOAD: usize = 1 << 20;

/// What an action came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResult {
    /// The action.
    pub key: ActionKey,
    /// The state that it was run on; `None` for a base.
    pub parent: Option<StateId>,
    /// The state that it led to.
    pub state: StateId,
    /// Whether this action, or one below it, used the network without a lock.
    pub impure: bool,
    /// The preimage of the key.
    pub manifest: ObjectId,
    /// What else the action found out, as JSON: the seal's report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ObjectId>,
    /// The packages of the state, as an SPDX document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<ObjectId>,
    /// How the state came to be, as an in-toto statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<ObjectId>,
    /// When it was recorded here, in seconds since 1970 in UTC.
    #[serde(default)]
    pub at: u64,
    /// The key that signed it, where it came from a remote: the number that minisign prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Versions of the host's programs that took part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<String>,
}

/// Where the layer of a state lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The state.
    pub state: StateId,
    /// The state that the layer stands on.
    pub parent: Option<StateId>,
    /// The object with the encoded index.
    pub index: ObjectId,
    /// The object with the data blocks, unpacked, in ascending order; `None` where there are none.
    pub data: Option<ObjectId>,
    /// Bytes of the data object.
    pub size: u64,
    /// The object that says how the data lies packed on remotes, see [`crate::pack`]: with it, data
    /// that is not in the store can be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<ObjectId>,
}

/// One record of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// A result.
    Result(ActionResult),
    /// A placement; a later one for the same state replaces it.
    Placement(Placement),
    /// A state whose layer is gone.
    Dropped {
        /// The state.
        state: StateId,
    },
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ResultsError {
    /// It cannot be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// It is something else.
    #[error("`{}` is not a journal of results", path.display())]
    #[diagnostic(
        code(kiln::store::not_results),
        help("move it away; kiln builds again what it cannot find")
    )]
    Magic {
        /// The file.
        path: PathBuf,
    },
}

/// All that a journal says at one moment.
#[derive(Debug, Default)]
pub struct Results {
    results: HashMap<ActionKey, Vec<ActionResult>>,
    placements: HashMap<StateId, Placement>,
}

impl Results {
    /// Reads a journal; one that is not there is empty.
    ///
    /// # Errors
    /// Where it cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Self, ResultsError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).context("read", path)?,
        };
        if !bytes.starts_with(MAGIC) {
            // A journal whose first write was cut short holds nothing yet.
            if MAGIC.starts_with(&bytes) {
                return Ok(Self::default());
            }
            return Err(ResultsError::Magic { path: path.to_owned() });
        }
        let (records, _) = decode(&bytes);
        Ok(Self::of(records))
    }

    fn of(records: Vec<Record>) -> Self {
        let mut all = Self::default();
        for record in records {
            match record {
                Record::Result(result) => {
                    let twins = all.results.entry(result.key).or_default();
                    twins.retain(|twin| twin.state != result.state);
                    twins.push(result);
                }
                Record::Placement(placement) => {
                    all.placements.insert(placement.state, placement);
                }
                Record::Dropped { state } => {
                    all.placements.remove(&state);
                }
            }
        }
        all.drop_broken();
        all
    }

    /// Keeps the invariant that a result implies its whole chain.
    fn drop_broken(&mut self) {
        let mut whole: HashSet<StateId> = HashSet::new();
        for &start in self.placements.keys() {
            let mut path = Vec::new();
            let mut next = Some(start);
            let complete = loop {
                match next {
                    None => break true,
                    Some(state) if whole.contains(&state) => break true,
                    // A chain longer than there are states is a ring, which only damage can make.
                    Some(_) if path.len() > self.placements.len() => break false,
                    Some(state) => match self.placements.get(&state) {
                        None => break false,
                        Some(placement) => {
                            path.push(state);
                            next = placement.parent;
                        }
                    },
                }
            };
            if complete {
                whole.extend(path);
            }
        }
        self.placements.retain(|state, _| whole.contains(state));
        for twins in self.results.values_mut() {
            twins.retain(|result| whole.contains(&result.state));
        }
        self.results.retain(|_, twins| !twins.is_empty());
    }

    /// Takes out the results of signers that do not count, and all that was made on such a state,
    /// whoever made it; tells which. `allows` is asked with each result's signer.
    ///
    /// A state below that no result names came with the one above it, and is under its signature.
    pub fn leave_out(&mut self, allows: impl Fn(Option<&str>) -> bool) -> Vec<ActionResult> {
        let refused = |result: &ActionResult| !allows(result.signer.as_deref());
        let bad: HashSet<StateId> =
            self.iter().filter(|result| refused(result)).map(|result| result.state).collect();
        if bad.is_empty() {
            return Vec::new();
        }
        let stands_on_bad = |state| self.below(state).any(|state| bad.contains(&state));
        let on_bad: HashSet<StateId> =
            self.iter().map(|result| result.state).filter(|&state| stands_on_bad(state)).collect();
        let mut out = Vec::new();
        for twins in self.results.values_mut() {
            out.extend(twins.extract_if(.., |twin| refused(twin) || on_bad.contains(&twin.state)));
        }
        self.results.retain(|_, twins| !twins.is_empty());
        out
    }

    /// The keys on whose word a state is what an action led to: who signed that, or what is below.
    #[must_use]
    pub fn signers(&self, key: ActionKey, state: StateId) -> BTreeSet<String> {
        let below: HashSet<StateId> = self.below(state).collect();
        let about = |result: &&ActionResult| {
            (result.key, result.state) == (key, state) || below.contains(&result.state)
        };
        self.iter().filter(about).filter_map(|result| result.signer.clone()).collect()
    }

    /// The states that a state stands on, nearest first.
    fn below(&self, state: StateId) -> impl Iterator<Item = StateId> {
        let parent = |state: &StateId| self.placements.get(state).and_then(|placed| placed.parent);
        std::iter::successors(parent(&state), parent)
    }

    /// The results of an action, oldest first.
    #[must_use]
    pub fn of_action(&self, key: ActionKey) -> &[ActionResult] {
        self.results.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Where a state's layer lies.
    #[must_use]
    pub fn placement(&self, state: StateId) -> Option<&Placement> {
        self.placements.get(&state)
    }

    /// Every result, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &ActionResult> {
        self.results.values().flatten()
    }
}

fn is_whole(header: &[u8], body: &[u8]) -> bool {
    Digest::of(body).as_bytes()[..8] == header[4..FRAME]
}

/// Whether a whole record stands at the start: what is damaged before it then ends there.
fn starts_with_record(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..FRAME) else { return false };
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let body = bytes.get(FRAME..).and_then(|rest| rest.get(..len)).filter(|_| len <= MAX_PAYLOAD);
    body.is_some_and(|body| is_whole(header, body))
}

/// The records before the fault that ends the journal, and how many bytes they take with the magic
/// number.
fn decode(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    let mut at = MAGIC.len();
    while let Some(header) = bytes.get(at..at + FRAME) {
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = at + FRAME;
        let Some(body) = bytes.get(payload..payload + len).filter(|_| len <= MAX_PAYLOAD) else {
            break;
        };
        if is_whole(header, body) {
            records.extend(serde_json::from_slice::<Record>(body).ok());
        } else if !bytes.get(payload + len..).is_some_and(starts_with_record) {
            break;
        }
        at = payload + len;
    }
    (records, at)
}

fn encode(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let payload = serde_json::to_vec(record).expect("a record has only string keys");
        let len = u32::try_from(payload.len()).expect("a record is far below 4 GiB");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&Digest::of(&payload).as_bytes()[..8]);
        bytes.extend_from_slice(&payload);
    }
    bytes
}

/// Appends records, after cutting off what a crash left behind the last whole one.
///
/// # Errors
/// Where the journal cannot be locked, read or written.
pub fn append(medium: &dyn Medium, path: &Path, records: &[Record]) -> Result<(), ResultsError> {
    let (file, new) = open_locked(medium, path)?;
    let bytes = std::fs::read(path).context("read", path)?;
    let end = if bytes.starts_with(MAGIC) {
        decode(&bytes).1
    } else if MAGIC.starts_with(&bytes) {
        0
    } else {
        return Err(ResultsError::Magic { path: path.to_owned() });
    };
    if end < bytes.len() {
        file.set_len(end as u64).context("cut off the damaged end of", path)?;
    }
    let mut addition = if end == 0 { MAGIC.to_vec() } else { Vec::new() };
    addition.extend(encode(records));
    medium.write(&file, path, &addition).context("append to", path)?;
    medium.sync(&file, path).context("sync", path)?;
    if new {
        let directory = path.parent().unwrap_or(Path::new("."));
        medium.sync_directory(directory).context("sync", directory)?;
    }
    Ok(())
}

/// Makes an empty journal, and its name durable; one that is there is left alone.
///
/// # Errors
/// Where it cannot be made.
pub fn create(medium: &dyn Medium, path: &Path) -> Result<(), FileError> {
    open_locked(medium, path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    medium.sync_directory(directory).context("sync", directory)
}

fn open_locked(medium: &dyn Medium, path: &Path) -> Result<(File, bool), FileError> {
    let new = match medium.create(path, true) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error).context("create", path),
    };
    let file = OpenOptions::new().read(true).append(true).open(path).context("open", path)?;
    flock(&file, FlockOperation::LockExclusive).context("lock", path)?;
    Ok((file, new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Host;

    fn state(n: u8) -> StateId {
        StateId(Digest::of(&[n]))
    }

    fn placement(n: u8, parent: Option<u8>) -> Record {
        Record::Placement(Placement {
            state: state(n),
            parent: parent.map(state),
            index: ObjectId(Digest::of(&[n, 1])),
            data: None,
            size: 0,
            pack: None,
        })
    }

    fn result(key: u8, n: u8) -> Record {
        Record::Result(ActionResult {
            key: ActionKey(Digest::of(&[key])),
            parent: None,
            state: state(n),
            impure: false,
            manifest: ObjectId(Digest::of(b"manifest")),
            report: None,
            took_ms: 1,
            host: Vec::new(),
            sbom: None,
            provenance: None,
            at: 0,
            signer: None,
        })
    }

    fn key(key: u8) -> ActionKey {
        ActionKey(Digest::of(&[key]))
    }

    fn states(results: &Results, n: u8) -> Vec<StateId> {
        results.of_action(key(n)).iter().map(|result| result.state).collect()
    }

    #[test]
    fn twins_both_stay() {
        let results =
            Results::of(vec![placement(1, None), result(7, 1), placement(2, None), result(7, 2)]);
        assert_eq!(states(&results, 7), [state(1), state(2)]);
    }

    #[test]
    fn a_result_implies_its_whole_chain() {
        let results = Results::of(vec![
            placement(1, None),
            placement(2, Some(1)),
            placement(3, Some(2)),
            result(1, 1),
            result(3, 3),
            Record::Dropped { state: state(2) },
        ]);
        assert_eq!(states(&results, 1), [state(1)]);
        assert!(states(&results, 3).is_empty());
    }

    #[test]
    fn what_stands_on_a_state_of_a_revoked_signer_goes_with_it() {
        let signed = |key, n, signer: &str| match result(key, n) {
            Record::Result(result) => {
                Record::Result(ActionResult { signer: Some(signer.to_owned()), ..result })
            }
            other => other,
        };
        let mut results = Results::of(vec![
            placement(1, None),
            placement(2, Some(1)),
            placement(3, Some(2)),
            placement(4, Some(3)),
            placement(5, Some(1)),
            result(1, 1),
            // State 2 came with state 3, and has no result of its own.
            signed(3, 3, "bad"),
            result(4, 4),
            signed(5, 5, "good"),
            // Somebody else says that another action leads to state 3 as well.
            signed(6, 3, "good"),
            // A twin that was made here.
            result(3, 5),
        ]);
        assert!(results.leave_out(|_| true).is_empty());
        let out = results.leave_out(|signer| signer != Some("bad"));
        let mut out: Vec<_> = out.iter().map(|result| (result.key, result.state)).collect();
        out.sort_unstable();
        let mut expected = [(key(3), state(3)), (key(4), state(4))];
        expected.sort_unstable();
        assert_eq!(out, expected);
        assert_eq!(states(&results, 1), [state(1)]);
        assert_eq!(states(&results, 3), [state(5)]);
        assert_eq!(states(&results, 5), [state(5)]);
        assert_eq!(states(&results, 6), [state(3)]);
        assert!(states(&results, 4).is_empty());
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_what_was_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        append(&Host, &path, &[placement(1, None), result(1, 1)]).unwrap();
        let first = std::fs::metadata(&path).unwrap().len();
        append(&Host, &path, &[placement(2, None), result(2, 2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let results = Results::read(&path).unwrap();
            assert_eq!(states(&results, 1).len(), usize::from(len as u64 >= first), "cut at {len}");
            append(&Host, &path, &[placement(3, None), result(3, 3)]).unwrap();
            let results = Results::read(&path).unwrap();
            assert_eq!(states(&results, 3), [state(3)], "appended after a cut at {len}");
        }
    }

    #[test]
    fn a_flipped_byte_never_makes_another_result() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        append(&Host, &path, &[placement(1, None), result(1, 1), placement(2, None), result(2, 2)])
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        let known = [state(1), state(2)];
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            std::fs::write(&path, &bytes).unwrap();
            match Results::read(&path) {
                Ok(results) => {
                    assert!(results.iter().all(|result| known.contains(&result.state)));
                }
                Err(error) => assert!(matches!(error, ResultsError::Magic { .. }), "at {at}"),
            }
        }
    }
}
