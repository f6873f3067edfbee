//! The journal of results: one file, appended to, and rewritten when most of it counts no more.
//!
//! # Format, version 1
//!
//! The journal starts with `KILNRES1`. Each record is its payload's length (4 bytes, little-endian),
//! the first 8 bytes of the payload's plain BLAKE3, and the payload, a JSON object with one member
//! that names its kind. Records of an unknown kind are passed over, and so is one that does not agree
//! with its digest where a whole record follows it. Else a record that is cut short or does not agree
//! ends the journal, and what follows it does not count: the next append cuts it off.
//!
//! Appending is done under an exclusive lock of the file, with one write and one sync. Whoever
//! rewrites the journal holds the same lock, and renames a new file over it: so whoever waited for
//! the lock looks whether the file still has its name, and starts over if not. Reading takes no lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::lock;
use super::results::{Record, Results};
use crate::digest::Digest;
use crate::files::{self, Context, FileError, Medium};

const MAGIC: &[u8; 8] = b"KILNRES1";
const FRAME: usize = 12;
/// Largest payload in bytes; a length above it is damage, not a record.
const MAX_PAYLOAD: usize = 1 << 20;
/// A smaller journal is never rewritten.
const SMALL: usize = 64 << 10;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// It is something else.
    #[error("`{}` is not a journal of results", path.display())]
    #[diagnostic(
        code(kiln::store::not_results),
        help("`kiln cache verify --repair` moves it away; kiln builds again what it cannot find")
    )]
    Magic {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with a journal that can be read all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Damaged records that were passed over.
    pub records: usize,
    /// Bytes at the end that are no records.
    pub end: usize,
}

/// What a journal holds.
#[derive(Debug, Default)]
struct Content {
    records: Vec<Record>,
    /// Payloads of kinds that this kiln does not know, as they are.
    unknown: Vec<Vec<u8>>,
    /// Bytes up to the end of the last record, with the magic number.
    end: usize,
    faults: Faults,
}

/// Reads a journal; one that is not there is empty.
///
/// # Errors
/// Where it cannot be read or is something else.
pub fn read(path: &Path) -> Result<(Results, Faults), JournalError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context("read", path)?,
    };
    let content = decode(&bytes, path)?;
    Ok((Results::of(content.records), content.faults))
}

/// The same while nobody writes: what is at the end then is no record that is being written.
///
/// # Errors
/// As [`read`], and where the journal cannot be locked.
pub fn read_at_rest(path: &Path) -> Result<(Results, Faults), JournalError> {
    loop {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return read(path),
            file => file.context("open", path)?,
        };
        lock::wait(&file, path, FlockOperation::LockShared)?;
        // Otherwise it was moved away for another one meanwhile.
        if lock::is_at(&file, path)? {
            return read(path);
        }
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

/// The records before the fault that ends the journal, if there is one.
fn decode(bytes: &[u8], path: &Path) -> Result<Content, JournalError> {
    let mut content = Content::default();
    if !bytes.starts_with(MAGIC) {
        // A journal whose first write was cut short holds nothing yet.
        if MAGIC.starts_with(bytes) {
            content.faults.end = bytes.len();
            return Ok(content);
        }
        return Err(JournalError::Magic { path: path.to_owned() });
    }
    let mut at = MAGIC.len();
    while let Some(header) = bytes.get(at..at + FRAME) {
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = at + FRAME;
        let Some(body) = bytes.get(payload..payload + len).filter(|_| len <= MAX_PAYLOAD) else {
            break;
        };
        if is_whole(header, body) {
            match serde_json::from_slice::<Record>(body) {
                Ok(record) => content.records.push(record),
                Err(_) => content.unknown.push(body.to_owned()),
            }
        } else if bytes.get(payload + len..).is_some_and(starts_with_record) {
            content.faults.records += 1;
        } else {
            break;
        }
        at = payload + len;
    }
    content.end = at;
    content.faults.end = bytes.len() - at;
    Ok(content)
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a record is far below 4 GiB");
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend_from_slice(&Digest::of(payload).as_bytes()[..8]);
    bytes.extend_from_slice(payload);
    bytes
}

fn encode(records: &[Record]) -> Vec<u8> {
    let payload = |record| serde_json::to_vec(record).expect("a record has only string keys");
    records.iter().flat_map(|record| frame(&payload(record))).collect()
}

/// Appends records, after cutting off what a crash left behind the last whole one.
///
/// # Errors
/// Where the journal cannot be locked, read or written.
pub fn append(medium: &dyn Medium, path: &Path, records: &[Record]) -> Result<(), JournalError> {
    let file = open_locked(medium, path)?;
    let bytes = std::fs::read(path).context("read", path)?;
    let end = decode(&bytes, path)?.end;
    if end < bytes.len() {
        file.set_len(end as u64).context("cut off the damaged end of", path)?;
    }
    let mut addition = if end == 0 { MAGIC.to_vec() } else { Vec::new() };
    addition.extend(encode(records));
    medium.write(&file, path, &addition).context("append to", path)?;
    medium.sync(&file, path).context("sync", path)?;
    sync_name(medium, path)?;
    Ok(())
}

/// Makes the journal's name durable, also for whoever was killed before they could.
fn sync_name(medium: &dyn Medium, path: &Path) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    medium.sync_directory(directory).context("sync", directory)
}

/// Makes an empty journal, and its name durable; one that is there is left alone.
///
/// # Errors
/// Where it cannot be made.
pub fn create(medium: &dyn Medium, path: &Path) -> Result<(), FileError> {
    open_locked(medium, path)?;
    sync_name(medium, path)
}

/// Rewrites a journal of which most counts no more, or that has faults; tells how many bytes that
/// saved. Records of unknown kinds are kept.
///
/// # Errors
/// Where it cannot be read or written; it is then as it was.
pub fn compact(medium: &dyn Medium, path: &Path) -> Result<Option<usize>, JournalError> {
    let _locked = open_locked(medium, path)?;
    let bytes = std::fs::read(path).context("read", path)?;
    let content = decode(&bytes, path)?;
    let mut new = MAGIC.to_vec();
    content.unknown.iter().for_each(|payload| new.extend(frame(payload)));
    new.extend(encode(&Results::of(content.records).records()));
    let pays = bytes.len() > SMALL && new.len() < bytes.len() / 2;
    if !pays && content.faults == Faults::default() {
        return Ok(None);
    }
    files::replace(medium, path, &new)?;
    Ok(Some(bytes.len().saturating_sub(new.len())))
}

/// Moves away what is no journal, and makes an empty one; tells where it is now.
///
/// # Errors
/// Where it cannot be moved.
pub fn set_aside(medium: &dyn Medium, path: &Path, now: u64) -> Result<PathBuf, JournalError> {
    let _locked = open_locked(medium, path)?;
    let aside = path.with_extension(format!("damaged-{now}"));
    medium.rename(path, &aside).context("move away", path)?;
    create(medium, path)?;
    Ok(aside)
}

/// Opens the journal, made if it is not there, and locks it.
fn open_locked(medium: &dyn Medium, path: &Path) -> Result<File, FileError> {
    loop {
        match medium.create(path, true) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).context("create", path);
            }
            _ => {}
        }
        let file = match OpenOptions::new().read(true).append(true).open(path) {
            // Somebody moved it away at this very moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.context("open", path)?,
        };
        lock::wait(&file, path, FlockOperation::LockExclusive)?;
        if lock::is_at(&file, path)? {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{ActionKey, ObjectId, StateId};
    use crate::files::Host;
    use crate::store::results::{ActionResult, Placement};

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

    fn all(path: &Path) -> Results {
        read(path).unwrap().0
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
            let results = all(&path);
            assert_eq!(states(&results, 1).len(), usize::from(len as u64 >= first), "cut at {len}");
            append(&Host, &path, &[placement(3, None), result(3, 3)]).unwrap();
            let results = all(&path);
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
            match read(&path) {
                Ok((results, _)) => {
                    assert!(results.iter().all(|result| known.contains(&result.state)));
                }
                Err(error) => assert!(matches!(error, JournalError::Magic { .. }), "at {at}"),
            }
        }
    }

    #[test]
    fn a_rewritten_journal_says_the_same_and_keeps_what_it_does_not_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        append(&Host, &path, &[placement(1, None), result(1, 1)]).unwrap();
        assert_eq!(compact(&Host, &path).unwrap(), None, "nothing to gain");
        let unknown = br#"{"future":{"a":1}}"#;
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(frame(unknown));
        std::fs::write(&path, bytes).unwrap();
        for n in 0..200 {
            append(&Host, &path, &[placement(2, Some(1)), result(2, 2)]).unwrap();
            append(&Host, &path, &[Record::Dropped { state: state(2) }, result(3, 1)]).unwrap();
            assert_eq!(states(&all(&path), 2), [], "{n}");
        }
        let before = all(&path).records();
        assert!(compact(&Host, &path).unwrap().unwrap() > 100_000);
        assert_eq!(all(&path).records(), before);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.windows(unknown.len()).any(|window| window == unknown));
        append(&Host, &path, &[placement(2, Some(1)), result(2, 2)]).unwrap();
        assert_eq!(states(&all(&path), 2), [state(2)]);
    }

    #[test]
    fn faults_are_counted_and_a_rewriting_ends_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        append(&Host, &path, &[placement(1, None)]).unwrap();
        let second = std::fs::metadata(&path).unwrap().len();
        append(&Host, &path, &[placement(2, None)]).unwrap();
        append(&Host, &path, &[result(1, 1)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(second).unwrap() + FRAME + 20] ^= 1;
        bytes.extend_from_slice(b"half a record");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap().1, Faults { records: 1, end: 13 });
        assert!(compact(&Host, &path).unwrap().is_some());
        let (results, faults) = read(&path).unwrap();
        assert_eq!((states(&results, 1), faults), (vec![state(1)], Faults::default()));
    }

    #[test]
    fn nothing_that_is_appended_while_others_rewrite_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        append(&Host, &path, &[placement(1, None)]).unwrap();
        let filler: Vec<_> = (0..400).map(|_| placement(2, None)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let (path, filler) = (&path, &filler);
                scope.spawn(move || {
                    for n in 0..10 {
                        append(&Host, path, filler).unwrap();
                        append(&Host, path, &[result(thread * 10 + n, 1)]).unwrap();
                        compact(&Host, path).unwrap();
                    }
                });
            }
        });
        let results = all(&path);
        assert!((0..40).all(|n| states(&results, n) == [state(1)]));
        assert!(std::fs::metadata(&path).unwrap().len() < 200_000, "it was rewritten");
    }

    #[test]
    fn what_is_no_journal_is_moved_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        std::fs::write(&path, "something else").unwrap();
        assert!(matches!(append(&Host, &path, &[]), Err(JournalError::Magic { .. })));
        let aside = set_aside(&Host, &path, 7).unwrap();
        assert_eq!(std::fs::read(&aside).unwrap(), b"something else");
        assert_eq!(aside.file_name().unwrap(), "results.damaged-7");
        append(&Host, &path, &[placement(1, None), result(1, 1)]).unwrap();
        assert_eq!(states(&all(&path), 1), [state(1)]);
    }
}
