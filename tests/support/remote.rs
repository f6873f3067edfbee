//! Remotes of a test's own: one in memory, and one that stands before any other and goes wrong.
//!
//! What goes wrong is said by call, by time and by kind, and is the same in every run.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln::digest::ActionKey;
use kiln::name::Namespace;
use kiln::remote::backend::{Backend, Claim, MAX_BLOB, MAX_RECORD, RemoteError};
use kiln::remote::{BlobId, BlobRef, RecordName};

/// A call of [`Backend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    ReadBlob,
    HasBlob,
    PutBlob,
    Record,
    PutRecord,
    Claim,
    Renew,
    Release,
}

impl Call {
    /// All of them.
    pub(crate) const ALL: &'static [Self] = &[
        Self::ReadBlob,
        Self::HasBlob,
        Self::PutBlob,
        Self::Record,
        Self::PutRecord,
        Self::Claim,
        Self::Renew,
        Self::Release,
    ];
    /// Those that ask for something.
    pub(crate) const READS: &'static [Self] = &[Self::ReadBlob, Self::HasBlob, Self::Record];
    /// Those that leave something there.
    pub(crate) const WRITES: &'static [Self] = &[Self::PutBlob, Self::PutRecord];
}

/// What a remote was asked so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// How many calls of each kind.
    pub(crate) calls: BTreeMap<Call, u64>,
    /// Bytes that were read from it, of blobs and records.
    pub(crate) read: u64,
    /// Bytes that were put there, of blobs and records.
    pub(crate) written: u64,
}

impl Counts {
    /// How many calls of a kind.
    pub(crate) fn of(&self, call: Call) -> u64 {
        self.calls.get(&call).copied().unwrap_or_default()
    }
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<BlobId, Vec<u8>>,
    records: BTreeMap<RecordName, (Vec<u8>, Vec<BlobRef>)>,
    leases: BTreeMap<(Namespace, ActionKey), Vec<u8>>,
    counts: Counts,
}

impl State {
    fn count(&mut self, call: Call) {
        *self.counts.calls.entry(call).or_default() += 1;
    }
}

/// A remote that never fails, in memory. Its clones are the same remote.
#[derive(Clone, Default)]
pub(crate) struct MemoryRemote {
    state: Arc<Mutex<State>>,
}

impl MemoryRemote {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What it was asked since this was asked last.
    pub(crate) fn counts(&self) -> Counts {
        std::mem::take(&mut self.state.lock().unwrap().counts)
    }

    /// The blobs that are there.
    pub(crate) fn blobs(&self) -> Vec<BlobRef> {
        let state = self.state.lock().unwrap();
        state.blobs.iter().map(|(&id, bytes)| BlobRef { id, len: bytes.len() as u64 }).collect()
    }

    /// The records that are there.
    pub(crate) fn records(&self) -> Vec<RecordName> {
        self.state.lock().unwrap().records.keys().cloned().collect()
    }

    /// The blobs that a record was said to need.
    pub(crate) fn needs(&self, name: &RecordName) -> Option<Vec<BlobRef>> {
        self.state.lock().unwrap().records.get(name).map(|(_, needs)| needs.clone())
    }

    /// Removes a blob, as a remote's own garbage collection does.
    pub(crate) fn lose(&self, blob: BlobRef) {
        self.state.lock().unwrap().blobs.remove(&blob.id);
    }

    /// Removes one blob in `share`, chosen by `seed`, and tells which.
    pub(crate) fn lose_some(&self, seed: u64, share: u64) -> Vec<BlobRef> {
        let mut dice = Dice(seed);
        let lost: Vec<_> = self.blobs().into_iter().filter(|_| dice.roll(share)).collect();
        for &blob in &lost {
            self.lose(blob);
        }
        lost
    }

    /// Puts other bytes under a blob's name.
    pub(crate) fn damage(&self, blob: BlobRef, bytes: Vec<u8>) {
        self.state.lock().unwrap().blobs.insert(blob.id, bytes);
    }

    /// Puts a record as somebody else would, whatever it says.
    pub(crate) fn forge(&self, name: &RecordName, bytes: Vec<u8>) {
        self.state.lock().unwrap().records.insert(name.clone(), (bytes, Vec::new()));
    }
}

impl Backend for MemoryRemote {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let mut state = self.state.lock().unwrap();
        state.count(Call::ReadBlob);
        let bytes = state.blobs.get(&blob.id).ok_or_else(|| missing(blob))?;
        let wanted = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let Some(part) = bytes.get(wanted) else {
            return Err(RemoteError::Damaged {
                remote: "memory".into(),
                what: format!("blob {}", blob.id),
            });
        };
        let part = part.to_vec();
        state.counts.read += part.len() as u64;
        Ok(part)
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        let mut state = self.state.lock().unwrap();
        state.count(Call::HasBlob);
        Ok(state.blobs.get(&blob.id).is_some_and(|bytes| bytes.len() as u64 == blob.len))
    }

    fn put_blob(&self, blob: BlobRef, bytes: &[u8]) -> Result<(), RemoteError> {
        assert_eq!(BlobRef::of(bytes), blob, "a blob is named by its bytes");
        assert!(blob.len <= MAX_BLOB, "a blob of {} bytes", blob.len);
        let mut state = self.state.lock().unwrap();
        state.count(Call::PutBlob);
        state.counts.written += blob.len;
        state.blobs.insert(blob.id, bytes.to_vec());
        Ok(())
    }

    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        let mut state = self.state.lock().unwrap();
        state.count(Call::Record);
        let bytes = state.records.get(name).map(|(bytes, _)| bytes.clone());
        state.counts.read += bytes.as_ref().map_or(0, Vec::len) as u64;
        Ok(bytes)
    }

    fn put_record(
        &self,
        name: &RecordName,
        bytes: &[u8],
        needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        assert!(bytes.len() as u64 <= MAX_RECORD, "a record of {} bytes", bytes.len());
        let mut state = self.state.lock().unwrap();
        state.count(Call::PutRecord);
        state.counts.written += bytes.len() as u64;
        state.records.insert(name.clone(), (bytes.to_vec(), needs.to_vec()));
        Ok(())
    }

    fn claim(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<Claim, RemoteError> {
        let mut state = self.state.lock().unwrap();
        state.count(Call::Claim);
        let name = (namespace.clone(), key);
        match state.leases.get(&name) {
            Some(held) if held == lease => return Ok(Claim::Taken),
            Some(held) => return Ok(Claim::Held(held.clone())),
            None => {}
        }
        state.leases.insert(name, lease.to_vec());
        Ok(Claim::Taken)
    }

    fn renew(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<(), RemoteError> {
        let mut state = self.state.lock().unwrap();
        state.count(Call::Renew);
        state.leases.insert((namespace.clone(), key), lease.to_vec());
        Ok(())
    }

    fn release(&self, namespace: &Namespace, key: ActionKey) -> Result<(), RemoteError> {
        let mut state = self.state.lock().unwrap();
        state.count(Call::Release);
        state.leases.remove(&(namespace.clone(), key));
        Ok(())
    }
}

/// When something goes wrong, counted from nought over the calls that a rule is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    Always,
    /// This call only.
    Nth(u64),
    /// This call and all after it.
    From(u64),
    /// One call in `share`, chosen by `seed`.
    OneIn {
        seed: u64,
        share: u64,
    },
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// The server answers with this status: 401 and 403 refuse, all others are its own failure.
    Status(u16),
    /// As many bytes as were asked for, and one of them is another one.
    Flip,
    /// Half of the bytes.
    Truncate,
    /// Other bytes altogether.
    Replace(Vec<u8>),
    /// There is nothing: no record, no blob.
    Empty,
    /// A write is said to have been done, and was not.
    Forget,
    /// The right answer, after some time.
    Delay(Duration),
    /// No answer until the caller's patience ends, after so long.
    Hang(Duration),
    /// A lease is given to whoever asks, as by a server that does not know conditions.
    TakeAnyway,
}

/// Another remote, behind faults. Its clones are the same remote.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn Backend>,
    rules: Arc<Mutex<Vec<Rule>>>,
    /// How many calls went wrong.
    struck: Arc<AtomicU64>,
}

struct Rule {
    calls: Vec<Call>,
    when: When,
    fault: Fault,
    seen: u64,
    dice: Dice,
}

impl Faulty {
    pub(crate) fn new(inner: impl Backend + 'static) -> Self {
        Self { inner: Arc::new(inner), rules: Arc::default(), struck: Arc::default() }
    }

    /// From now on a fault strikes some calls. Where several would, the oldest does.
    pub(crate) fn fault(&self, calls: &[Call], when: When, fault: Fault) {
        let seed = if let When::OneIn { seed, .. } = when { seed } else { 0 };
        let rule = Rule { calls: calls.to_vec(), when, fault, seen: 0, dice: Dice(seed) };
        self.rules.lock().unwrap().push(rule);
    }

    /// From now on all is well.
    pub(crate) fn heal(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// How many calls went wrong so far.
    pub(crate) fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// What happens to this call. Those that only wait have waited already.
    fn fate(&self, call: Call) -> Result<Option<Fault>, RemoteError> {
        let fault = self.next(call);
        match fault {
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                Ok(None)
            }
            Some(Fault::Hang(time)) => {
                std::thread::sleep(time);
                let doing = format!("{call:?}");
                Err(RemoteError::TooSlow {
                    remote: self.name().into(),
                    doing,
                    seconds: time.as_secs(),
                })
            }
            Some(Fault::Status(status)) => Err(self.answered(call, status)),
            fault => Ok(fault),
        }
    }

    fn next(&self, call: Call) -> Option<Fault> {
        let mut struck = None;
        for rule in &mut *self.rules.lock().unwrap() {
            if !rule.calls.contains(&call) {
                continue;
            }
            let strikes = match rule.when {
                When::Always => true,
                When::Nth(n) => rule.seen == n,
                When::From(n) => rule.seen >= n,
                When::OneIn { share, .. } => rule.dice.roll(share),
            };
            rule.seen += 1;
            if strikes && struck.is_none() {
                struck = Some(rule.fault.clone());
            }
        }
        if struck.is_some() {
            self.struck.fetch_add(1, Ordering::Relaxed);
        }
        struck
    }

    fn answered(&self, call: Call, status: u16) -> RemoteError {
        let (remote, doing) = (self.name().to_owned(), format!("{call:?}"));
        let source = format!("it answered with status {status}").into();
        match status {
            401 | 403 => RemoteError::Refused { remote, doing, source },
            _ => RemoteError::Unavailable { remote, doing, source },
        }
    }
}

impl Backend for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        match self.fate(Call::ReadBlob)? {
            Some(Fault::Empty) => Err(missing(blob)),
            fault => Ok(spoil(self.inner.read_blob(blob, range)?, fault)),
        }
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        match self.fate(Call::HasBlob)? {
            Some(Fault::Empty) => Ok(false),
            _ => self.inner.has_blob(blob),
        }
    }

    fn put_blob(&self, blob: BlobRef, bytes: &[u8]) -> Result<(), RemoteError> {
        match self.fate(Call::PutBlob)? {
            Some(Fault::Forget) => Ok(()),
            _ => self.inner.put_blob(blob, bytes),
        }
    }

    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        match self.fate(Call::Record)? {
            Some(Fault::Empty) => Ok(None),
            fault => Ok(self.inner.record(name)?.map(|bytes| spoil(bytes, fault))),
        }
    }

    fn put_record(
        &self,
        name: &RecordName,
        bytes: &[u8],
        needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        match self.fate(Call::PutRecord)? {
            Some(Fault::Forget) => Ok(()),
            _ => self.inner.put_record(name, bytes, needs),
        }
    }

    fn claim(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<Claim, RemoteError> {
        match self.fate(Call::Claim)? {
            Some(Fault::TakeAnyway) => {
                self.inner.renew(namespace, key, lease)?;
                Ok(Claim::Taken)
            }
            _ => self.inner.claim(namespace, key, lease),
        }
    }

    fn renew(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<(), RemoteError> {
        match self.fate(Call::Renew)? {
            Some(Fault::Forget) => Ok(()),
            _ => self.inner.renew(namespace, key, lease),
        }
    }

    fn release(&self, namespace: &Namespace, key: ActionKey) -> Result<(), RemoteError> {
        match self.fate(Call::Release)? {
            Some(Fault::Forget) => Ok(()),
            _ => self.inner.release(namespace, key),
        }
    }
}

/// Bytes as a fault leaves them.
fn spoil(mut bytes: Vec<u8>, fault: Option<Fault>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    match fault {
        Some(Fault::Flip) if !bytes.is_empty() => bytes[middle] ^= 1,
        Some(Fault::Truncate) => bytes.truncate(middle),
        Some(Fault::Replace(others)) => bytes = others,
        _ => {}
    }
    bytes
}

fn missing(blob: BlobRef) -> RemoteError {
    RemoteError::Missing { remote: "memory".into(), blob: blob.id.to_string() }
}

/// A row of numbers that look random, and are the same for the same seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    /// Whether this throw is the one in `share`.
    fn roll(&mut self, share: u64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).is_multiple_of(share)
    }
}
