//! Gives results to remotes, one after the other, while the build goes on.
//!
//! Blobs first, then what describes a layer, then the signed record. What fails costs a warning and
//! nothing else; a result that is there already, or that may not be shared, is left alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use super::flight::Turn;
use crate::causes;
use crate::digest::{ActionKey, ObjectId, StateId};
use crate::disk::layer::{self, BLOCK, LayerFault, LayerIndex};
use crate::explain::Head;
use crate::files::{Context, FileError};
use crate::name::ImageName;
use crate::pack::{self, ChunkReader, Pack, PackFault, Reference, WriteError};
use crate::remote::backend::{Backend, MAX_BLOB, RemoteError};
use crate::remote::signing::SigningError;
use crate::remote::statement::{EPOCH, Link, Statement, TYPE};
use crate::remote::team::Team;
use crate::remote::{BlobId, BlobRef, RecordKind, RecordName};
use crate::store::objects::Readers;
use crate::store::results::{ActionResult, Placement, Results};
use crate::store::work::Work;
use crate::store::{Store, StoreError};

/// Blobs that are sent, or looked for, at one time.
const BLOBS: usize = 8;
/// Layers that a new one is compared with.
const REFERENCES: usize = 6;
/// Largest index, manifest or report that is read.
const MAX_OBJECT: u64 = 20 << 30;

/// A result that others may want.
pub(super) struct Job<'a> {
    /// `IMAGE/STEP`.
    pub(super) name: String,
    /// The action.
    pub(super) key: ActionKey,
    /// The state that it led to.
    pub(super) state: StateId,
    /// The state that the same step led to before, whose layer is likely to be like this one.
    pub(super) like: Option<StateId>,
    /// What the whole image was made of, where it is done with this.
    pub(super) head: Option<Head>,
    /// Whether everybody can download the base.
    pub(super) public_base: bool,
    /// The lease under which it was built, which ends with the job.
    pub(super) turn: Option<Turn<'a>>,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pushed {
    /// `IMAGE/STEP`.
    pub(super) name: String,
    /// The remote.
    pub(super) remote: String,
    /// Bytes that were sent.
    pub(super) bytes: u64,
}

/// Why a result could not be shared, as what follows "could not be shared: ".
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("the layer of {} is not here", state.short())]
    NoLayer { state: StateId },
    #[error("the index of {} is damaged", state.short())]
    Index { state: StateId, source: LayerFault },
    #[error("the pack of {} is damaged", state.short())]
    Pack { state: StateId, source: PackFault },
    #[error("what describes {} is larger than a blob may be", state.short())]
    TooLarge { state: StateId },
    #[error("the build was called off")]
    CalledOff,
}

/// Gives results to the remotes of a team.
pub(super) struct Pusher<'a> {
    pub(super) store: &'a Store,
    pub(super) team: &'a Team,
    pub(super) work: &'a Work,
    pub(super) called_off: &'a AtomicBool,
    pub(super) done: &'a Mutex<Vec<Pushed>>,
    pub(super) packs: Packs,
}

/// What is known to be on one remote.
#[derive(Default)]
pub(super) struct There {
    blobs: HashSet<BlobId>,
    /// What describes the layers of states there.
    packs: HashMap<StateId, (BlobRef, Pack)>,
    sent: u64,
}

/// What is kept of how layers were packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packs {
    /// The store notes it, and what it noted before is used again: others can fetch by it.
    Noted,
    /// Nothing: what was packed goes elsewhere.
    Apart,
}

impl Pusher<'_> {
    /// Does all jobs until nobody has any more.
    pub(super) fn run(&self, jobs: Receiver<Job<'_>>) {
        let mut there: HashMap<String, There> = HashMap::new();
        for job in jobs {
            if self.called_off.load(Ordering::SeqCst) {
                continue;
            }
            self.push(&job, &mut there);
            // Whoever waits for this result finds it now.
            drop(job.turn);
        }
    }

    fn push(&self, job: &Job<'_>, there: &mut HashMap<String, There>) {
        let results = match self.store.results() {
            Ok(results) => results,
            Err(error) => return self.failed(job, &error.into()),
        };
        let result = results.of_action(job.key).iter().find(|result| result.state == job.state);
        let Some(result) = result else { return };
        for member in self.team.writable(result.impure) {
            let remote = member.backend.name().to_owned();
            let there = there.entry(remote.clone()).or_default();
            match self.push_to(&member.backend, there, job, result, &results) {
                Ok(bytes) => self
                    .done
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(Pushed { name: job.name.clone(), remote, bytes }),
                // What a remote has against it is told once for all results.
                Err(PushError::Remote(_) | PushError::CalledOff) => {}
                Err(error) => self.failed(job, &error),
            }
        }
    }

    fn failed(&self, job: &Job<'_>, error: &PushError) {
        let text = causes::in_one_line(error);
        self.team.tell(format!("{} could not be shared: {text}", job.name));
    }

    /// Brings a result to one place, with all that it needs; tells how many bytes that took.
    ///
    /// # Errors
    /// Where it is not there afterwards.
    pub(super) fn push_to(
        &self,
        to: &dyn Backend,
        there: &mut There,
        job: &Job<'_>,
        result: &ActionResult,
        results: &Results,
    ) -> Result<u64, PushError> {
        let Some(signer) = self.team.signer() else { return Ok(0) };
        there.sent = 0;
        let namespace = self.team.namespace().clone();
        let mut chain: Vec<&Placement> = results.ancestry(job.state).collect();
        chain.reverse();
        let (mut links, mut layers, mut needs) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (at, placement) in chain.iter().enumerate() {
            let (index, encoded) = self.index(placement)?;
            links.push(Link {
                state: placement.state,
                virtual_size: index.virtual_size,
                data: index.data_blocks() * BLOCK,
            });
            if at == 0 && job.public_base {
                layers.push(None);
                continue;
            }
            let like = (placement.state == job.state).then_some(job).and_then(|job| job.like);
            let below = &chain[..at];
            let layer = Layer { placement, index: &index, encoded: &encoded, like, below };
            let blob = self.layer(to, there, &layer, job, results)?;
            needs.extend(
                there.packs.get(&placement.state).into_iter().flat_map(|(_, pack)| &pack.blobs),
            );
            needs.insert(blob);
            layers.push(Some(blob));
        }
        let mut send = |id: ObjectId| {
            let bytes = self.store.objects().read(id, MAX_BLOB)?;
            let blob = BlobRef::of(&bytes);
            self.send(to, there, blob, &bytes)?;
            needs.insert(blob);
            Ok::<_, PushError>(blob)
        };
        let statement = Statement {
            kind: TYPE.to_owned(),
            namespace: namespace.clone(),
            key: job.key,
            epoch: EPOCH,
            block_size: BLOCK,
            chain: links,
            impure: result.impure,
            manifest: send(result.manifest)?,
            report: result.report.map(&mut send).transpose()?,
            sbom: result.sbom.map(&mut send).transpose()?,
            provenance: result.provenance.map(&mut send).transpose()?,
            took_ms: result.took_ms,
            host: result.host.clone(),
        };
        let record = signer.sign(&statement, layers)?;
        let needs: Vec<BlobRef> = needs.into_iter().collect();
        let (kind, name) = (RecordKind::Result, job.key.to_string());
        let name = RecordName { namespace: namespace.clone(), kind, name };
        to.put_record(&name, &record.encode(), &needs)?;
        if let Some(head) = &job.head
            && let Some(bytes) = head.encode()
        {
            let (kind, name) = (RecordKind::Image, head.image.to_string());
            to.put_record(&RecordName { namespace, kind, name }, &bytes, &[])?;
        }
        Ok(there.sent)
    }

    fn index(&self, placement: &Placement) -> Result<(LayerIndex, Vec<u8>), PushError> {
        let state = placement.state;
        let encoded = self.store.objects().read(placement.index, MAX_OBJECT)?;
        let index =
            LayerIndex::decode(&encoded).map_err(|source| PushError::Index { state, source })?;
        Ok((index, encoded))
    }

    fn pack(&self, placement: &Placement) -> Result<Option<(Vec<u8>, Pack)>, PushError> {
        let Some(id) = placement.pack else { return Ok(None) };
        let state = placement.state;
        let bytes = self.store.objects().read(id, MAX_BLOB)?;
        let pack =
            Pack::decode(&bytes, state).map_err(|source| PushError::Pack { state, source })?;
        Ok(Some((bytes, pack)))
    }

    /// Brings everything to a remote that describes a layer and that it consists of; gives what
    /// describes it.
    fn layer(
        &self,
        to: &dyn Backend,
        there: &mut There,
        layer: &Layer<'_>,
        job: &Job<'_>,
        results: &Results,
    ) -> Result<BlobRef, PushError> {
        let placement = layer.placement;
        let state = placement.state;
        if let Some((blob, _)) = there.packs.get(&state) {
            return Ok(*blob);
        }
        // One that cannot be read is made again.
        if self.packs == Packs::Noted
            && let Some((bytes, pack)) = self.pack(placement).ok().flatten()
        {
            let missing = missing(to, there, &pack.blobs)?;
            if missing.is_empty() || self.copy(to, there, &missing)? {
                let blob = BlobRef::of(&bytes);
                self.send(to, there, blob, &bytes)?;
                there.packs.insert(state, (blob, pack));
                return Ok(blob);
            }
        }
        let (bytes, pack) = self.make(to, there, layer, job, results)?;
        let blob = BlobRef::of(&bytes);
        if blob.len > MAX_BLOB {
            return Err(PushError::TooLarge { state });
        }
        self.send(to, there, blob, &bytes)?;
        if self.packs == Packs::Noted {
            let (lease, directory) = (self.work.lease(), self.work.path());
            let id = self.store.objects().put(lease, directory, &bytes, Readers::All)?;
            self.store.place(&Placement { pack: Some(id), ..placement.clone() })?;
        }
        there.packs.insert(state, (blob, pack));
        Ok(blob)
    }

    /// Copies blobs from other remotes; `false` where none has one of them.
    fn copy(
        &self,
        to: &dyn Backend,
        there: &mut There,
        blobs: &[BlobRef],
    ) -> Result<bool, PushError> {
        if self.team.members().len() < 2 {
            return Ok(false);
        }
        for &blob in blobs {
            let Ok(bytes) = self.team.blob(blob) else { return Ok(false) };
            self.send(to, there, blob, &bytes)?;
        }
        Ok(true)
    }

    /// Sends a blob, unless it is there.
    fn send(
        &self,
        to: &dyn Backend,
        there: &mut There,
        blob: BlobRef,
        bytes: &[u8],
    ) -> Result<(), PushError> {
        if self.called_off.load(Ordering::SeqCst) {
            return Err(PushError::CalledOff);
        }
        if there.blobs.contains(&blob.id) || to.has_blob(blob)? {
            there.blobs.insert(blob.id);
            return Ok(());
        }
        to.put_blob(blob, bytes)?;
        there.blobs.insert(blob.id);
        there.sent += blob.len;
        Ok(())
    }

    /// Packs a layer, and sends what nobody has yet.
    fn make(
        &self,
        to: &dyn Backend,
        there: &mut There,
        layer: &Layer<'_>,
        job: &Job<'_>,
        results: &Results,
    ) -> Result<(Vec<u8>, Pack), PushError> {
        let placement = layer.placement;
        let state = placement.state;
        let objects = self.store.objects();
        let data = placement.data.map(|id| {
            let path = objects.path(id);
            let file = File::open(&path).context("open", &path);
            file.map(|file| (id, file, path))
        });
        let data = match data {
            Some(Err(error)) if error.source.kind() == std::io::ErrorKind::NotFound => {
                return Err(PushError::NoLayer { state });
            }
            data => data.transpose()?,
        };
        let mut likes = Vec::new();
        if let Some(placement) = layer.like.and_then(|state| results.placement(state)) {
            likes.extend(self.like(to, there, placement)?);
        } else if placement.state == job.state {
            likes.extend(self.shared_like(to, there, job));
        }
        for below in layer.below.iter().rev() {
            if likes.len() < REFERENCES {
                likes.extend(self.like(to, there, below)?);
            }
        }
        let data = data.as_ref().map(|(id, file, path)| (*id, file, path.as_path()));
        let pack = self.write(to, there, state, layer, data, &likes)?;
        Ok((pack.encode(), pack))
    }

    /// Packs a layer while what is packed already travels.
    fn write(
        &self,
        to: &dyn Backend,
        there: &mut There,
        state: StateId,
        layer: &Layer<'_>,
        data: Option<(ObjectId, &File, &Path)>,
        references: &[Reference],
    ) -> Result<Pack, PushError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<(BlobRef, Vec<u8>)>(2);
        let receiver = Mutex::new(receiver);
        let known = Mutex::new(std::mem::take(there));
        let failed = Mutex::new(None);
        let pack = std::thread::scope(|scope| {
            for _ in 0..BLOBS / 2 {
                scope.spawn(|| {
                    loop {
                        let next = receiver.lock().expect("no panic holds it").recv();
                        let Ok((blob, bytes)) = next else { return };
                        if failed.lock().expect("no panic holds it").is_some() {
                            continue;
                        }
                        let mut there = There::default();
                        match self.send(to, &mut there, blob, &bytes) {
                            Ok(()) => {
                                let mut known = known.lock().expect("no panic holds it");
                                known.blobs.extend(there.blobs);
                                known.sent += there.sent;
                            }
                            Err(error) => {
                                *failed.lock().expect("no panic holds it") = Some(error);
                            }
                        }
                    }
                });
            }
            let mut sink = |blob: BlobRef, bytes: Vec<u8>| {
                if failed.lock().expect("no panic holds it").is_some() {
                    return Err(Stopped);
                }
                sender.send((blob, bytes)).map_err(|_| Stopped)
            };
            let pack = pack::write(state, layer.index, layer.encoded, data, references, &mut sink);
            drop(sender);
            pack
        });
        *there = known.into_inner().expect("no panic holds it");
        if let Some(error) = failed.into_inner().expect("no panic holds it") {
            return Err(error);
        }
        pack.map_err(|error| match error {
            WriteError::File(error) => PushError::File(error),
            WriteError::Sink(Stopped) => PushError::CalledOff,
        })
    }

    /// A layer of the store that a new one may be like, if the remote has all of it.
    fn like(
        &self,
        to: &dyn Backend,
        there: &mut There,
        placement: &Placement,
    ) -> Result<Option<Reference>, PushError> {
        let pack = match there.packs.get(&placement.state) {
            Some((_, pack)) => Some(pack.clone()),
            None if self.packs == Packs::Noted => self.pack(placement)?.map(|(_, pack)| pack),
            None => None,
        };
        let Some(pack) = pack else { return Ok(None) };
        if !missing(to, there, &pack.blobs)?.is_empty() {
            return Ok(None);
        }
        let (index, encoded) = self.index(placement)?;
        let path = placement.data.map(|id| self.store.objects().path(id));
        // Without its data only blocks that are the same are found.
        let data = path.and_then(|path| File::open(path).ok());
        Ok(Some(Reference { pack, index, encoded, data }))
    }

    /// The layer that the same step led to at somebody else's, where this host has none.
    fn shared_like(&self, to: &dyn Backend, there: &mut There, job: &Job<'_>) -> Option<Reference> {
        let image: ImageName = job.name.split('/').next()?.parse().ok()?;
        let namespace = self.team.namespace().clone();
        let name = RecordName { namespace, kind: RecordKind::Image, name: image.to_string() };
        let head = Head::decode(&to.record(&name).ok()??, &image).ok()?;
        let built = head.steps.iter().find(|step| step.name == job.name)?;
        let hit = self.team.find(&[built.key]).remove(&built.key)?;
        let state = hit.accepted.statement.chain.last()?.state;
        let blob = (*hit.accepted.layers.last()?)?;
        let pack = Pack::decode(&self.team.blob(blob).ok()?, state).ok()?;
        if !missing(to, there, &pack.blobs).ok()?.is_empty() {
            return None;
        }
        let reader = ChunkReader::new(pack.clone());
        let right = |bytes: &[u8]| layer::state_id(bytes) == state;
        let encoded = reader.index(self.team, right).ok()?;
        let index = LayerIndex::decode(&encoded).ok()?;
        let fits = index.data_blocks() * BLOCK == pack.data_len();
        fits.then_some(Reference { pack, index, encoded, data: None })
    }
}

/// The blobs of a list that a remote lacks.
fn missing(
    to: &dyn Backend,
    there: &mut There,
    blobs: &[BlobRef],
) -> Result<Vec<BlobRef>, PushError> {
    let unknown: Vec<BlobRef> =
        blobs.iter().copied().filter(|blob| !there.blobs.contains(&blob.id)).collect();
    let next = Mutex::new(unknown.iter());
    let answers = Mutex::new(Vec::with_capacity(unknown.len()));
    std::thread::scope(|scope| {
        for _ in 0..BLOBS.min(unknown.len()) {
            scope.spawn(|| {
                loop {
                    let Some(&blob) = next.lock().expect("no panic holds it").next() else {
                        return;
                    };
                    let answer = to.has_blob(blob);
                    answers.lock().expect("no panic holds it").push((blob, answer));
                }
            });
        }
    });
    let mut missing = Vec::new();
    for (blob, answer) in answers.into_inner().expect("no panic holds it") {
        if answer? {
            there.blobs.insert(blob.id);
        } else {
            missing.push(blob);
        }
    }
    Ok(missing)
}

/// A layer that is to be on a remote.
struct Layer<'a> {
    placement: &'a Placement,
    index: &'a LayerIndex,
    encoded: &'a [u8],
    like: Option<StateId>,
    /// What it stands on, base first.
    below: &'a [&'a Placement],
}

/// Sending has ended; why is known elsewhere.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("sending has ended")]
struct Stopped;
