//! Remotes that have paths: object stores, web servers and directories, through `opendal`.
//!
//! It knows paths, bytes and conditions; which store it is, [`super::open`] has decided. What a
//! store says of itself is not believed where it matters: whether it keeps two writers apart is
//! tried before the first lease counts.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures::StreamExt;
use opendal::Operator;

use super::backend::{Backend, Claim, MAX_BLOB, MAX_RECORD, RemoteError};
use super::call::Caller;
use super::{BlobRef, RecordName, directory, transport};
use crate::digest::ActionKey;
use crate::name::Namespace;
use crate::wire::{Fault, blocking};

/// Longest lease in bytes.
const MAX_LEASE: u64 = 64 << 10;
/// How many try to be the only writer when a store is tried out.
const RIVALS: usize = 4;
/// How often a lease may be gone again when it is looked at.
const GLANCES: usize = 4;

/// Whether a store can hold leases.
pub(super) enum Leases {
    /// It knows no conditions.
    Never,
    /// It says that it does; the answer is there once it was tried.
    Conditional(Mutex<Option<bool>>),
    /// Files in this directory, whose links the kernel keeps apart.
    Links(PathBuf),
}

/// A remote that has paths.
pub(super) struct Objects {
    pub(super) caller: Caller,
    pub(super) operator: Operator,
    pub(super) leases: Leases,
    /// Whether a file that is written again is short for a while: then blobs are not.
    pub(super) in_place: bool,
}

impl Objects {
    /// Does something with the store; what went wrong has a kind.
    async fn ask<T>(&self, work: impl Future<Output = opendal::Result<T>>) -> Result<T, Fault> {
        let (result, seen) = transport::watched(work).await;
        result.map_err(|error| transport::fault_of(error, seen))
    }

    /// Reads a whole file of at most `limit` bytes; `None` where there is none.
    fn read_all(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let read = self.caller.run(limit.min(MAX_LEASE), async || {
            let mut bytes = Vec::new();
            let whole = self
                .ask(async {
                    let mut pieces = self.operator.reader(path).await?.into_stream(..).await?;
                    while let Some(piece) = pieces.next().await {
                        let piece = piece?;
                        if (bytes.len() + piece.len()) as u64 > limit {
                            return Ok(false);
                        }
                        bytes.extend_from_slice(&piece.to_bytes());
                    }
                    Ok(true)
                })
                .await?;
            if whole { Ok(bytes) } else { Err(Fault::Damaged) }
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Fault::Absent(cause)) if !names_no_bucket(&*cause) => Ok(None),
            Err(fault) => Err(self.caller.tell(("read", path), 0, fault)),
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), RemoteError> {
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        let len = bytes.len() as u64;
        self.caller.call(("write", path), len, async || {
            self.ask(self.operator.write(path, bytes.clone())).await.map(|_| ())
        })
    }

    /// Writes a file that is not there; tells whether it was so.
    async fn create(&self, path: &str, bytes: bytes::Bytes) -> Result<bool, Fault> {
        let write = self.operator.write_with(path, bytes).if_not_exists(true);
        match self.ask(async { write.await }).await {
            Ok(_) => Ok(true),
            Err(Fault::Condition(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Whether the store keeps writers apart, which is tried once.
    fn keeps_apart(&self, known: &Mutex<Option<bool>>) -> Result<bool, RemoteError> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let keeps = match self.caller.run(0, async || self.race().await) {
            // Conditions are not implemented.
            Err(Fault::Lasting(_)) => Ok(false),
            tried => tried,
        };
        let keeps = keeps.map_err(|fault| self.caller.tell(("write", "probe/"), 0, fault))?;
        *known = Some(keeps);
        Ok(keeps)
    }

    /// Lets some writers race for one name, and one more come late: tells whether one of them won.
    async fn race(&self) -> Result<bool, Fault> {
        let path = format!("probe/{}", nonce());
        let rival = |number: usize| self.create(&path, number.to_string().into());
        let race = futures::future::join_all((0..RIVALS).map(rival)).await;
        let late = rival(RIVALS).await;
        let gone = self.ask(self.operator.delete(&path)).await;
        let mut winners = 0;
        for one in race.into_iter().chain([late]) {
            winners += usize::from(one?);
        }
        match gone {
            Ok(()) | Err(Fault::Absent(_)) => Ok(winners == 1),
            // Who may not remove anything cannot give a lease back.
            Err(Fault::Refused(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    fn remove(&self, path: &str) -> Result<(), RemoteError> {
        self.caller.call(("remove", path), 0, async || {
            match self.ask(self.operator.delete(path)).await {
                Err(Fault::Absent(_)) => Ok(()),
                result => result,
            }
        })
    }

    fn claim_by_condition(&self, path: &str, lease: &[u8]) -> Result<Claim, RemoteError> {
        let bytes = bytes::Bytes::copy_from_slice(lease);
        for _ in 0..GLANCES {
            let created = self
                .caller
                .call(("write", path), 0, async || self.create(path, bytes.clone()).await)?;
            if created {
                return Ok(Claim::Taken);
            }
            match self.read_all(path, MAX_LEASE)? {
                // The answer to an earlier try was lost, and this is what it wrote.
                Some(held) if held == lease => return Ok(Claim::Taken),
                Some(held) => return Ok(Claim::Held(held)),
                None => {}
            }
        }
        let fault = Fault::Lasting("its lease comes and goes".into());
        Err(self.caller.tell(("keep", path), 0, fault))
    }

    fn claim_by_link(&self, root: &Path, path: &str, lease: &[u8]) -> Result<Claim, RemoteError> {
        self.caller.call(("write", path), 0, async || {
            let (at, lease, name) = (root.join(path), lease.to_vec(), nonce());
            blocking(move || directory::claim(&at, &name, &lease, MAX_LEASE))
                .await
                .map_err(|error| Fault::Lasting(Box::new(error)))
        })
    }
}

impl Backend for Objects {
    fn name(&self) -> &str {
        &self.caller.remote
    }

    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let path = blob.id.path();
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let read = self.caller.run(wanted, async || {
            let read = self.operator.read_with(&path).range(range.clone());
            let bytes = self.ask(async { read.await }).await?.to_vec();
            if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(Fault::Damaged) }
        });
        read.map_err(|fault| match fault {
            Fault::Absent(cause) if !names_no_bucket(&*cause) => {
                RemoteError::Missing { remote: self.name().to_owned(), blob: blob.id.to_string() }
            }
            fault => self.caller.tell(("read", &path), wanted, fault),
        })
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        let path = blob.id.path();
        match self.caller.run(0, async || self.ask(self.operator.stat(&path)).await) {
            Ok(there) => Ok(there.is_file() && there.content_length() == blob.len),
            Err(Fault::Absent(cause)) if !names_no_bucket(&*cause) => Ok(false),
            Err(fault) => Err(self.caller.tell(("look for", &path), 0, fault)),
        }
    }

    fn put_blob(&self, blob: BlobRef, bytes: &[u8]) -> Result<(), RemoteError> {
        debug_assert!(bytes.len() as u64 == blob.len && blob.len <= MAX_BLOB);
        if self.in_place && self.has_blob(blob)? {
            return Ok(());
        }
        self.write(&blob.id.path(), bytes)
    }

    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        self.read_all(&name.to_string(), MAX_RECORD)
    }

    fn put_record(
        &self,
        name: &RecordName,
        bytes: &[u8],
        _needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        self.write(&name.to_string(), bytes)
    }

    fn claim(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<Claim, RemoteError> {
        let path = lease_path(namespace, key);
        match &self.leases {
            Leases::Links(root) => self.claim_by_link(root, &path, lease),
            Leases::Conditional(known) if self.keeps_apart(known)? => {
                self.claim_by_condition(&path, lease)
            }
            Leases::Never | Leases::Conditional(_) => Ok(Claim::Impossible),
        }
    }

    fn renew(
        &self,
        namespace: &Namespace,
        key: ActionKey,
        lease: &[u8],
    ) -> Result<(), RemoteError> {
        self.write(&lease_path(namespace, key), lease)
    }

    fn release(&self, namespace: &Namespace, key: ActionKey) -> Result<(), RemoteError> {
        self.remove(&lease_path(namespace, key))
    }
}

fn lease_path(namespace: &Namespace, key: ActionKey) -> String {
    format!("{namespace}/leases/{key}")
}

/// Whether it is the bucket or container that is not there: then nothing is known of what is in it.
fn names_no_bucket(cause: &(dyn std::error::Error + 'static)) -> bool {
    let text = cause.to_string();
    ["NoSuchBucket", "ContainerNotFound"].iter().any(|word| text.contains(word))
}

/// A name that nobody else has.
fn nonce() -> String {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(bytes.len()), "the kernel gives 16 bytes whole");
    format!("{:032x}", u128::from_ne_bytes(bytes))
}
