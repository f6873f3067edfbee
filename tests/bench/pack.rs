//! Bytes and seconds of a layer on its way to a remote and back, beside other tools that do the
//! same, in one run: `cargo bench --bench pack -- STORE STATE [STATE]`.
//!
//! STORE is a store of kiln, the first STATE one of it whose layer is packed alone, and the second one
//! the state that a later run of the same step led to, packed against the first. `zstd` and `casync`
//! are measured where they are installed. Nothing is asserted.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use kiln::digest::StateId;
use kiln::disk::layer::LayerIndex;
use kiln::files::FileError;
use kiln::pack::partial::{Partial, Twin};
use kiln::pack::{self, ChunkReader, Pack, Reference, Source};
use kiln::remote::BlobRef;
use kiln::remote::backend::RemoteError;
use kiln::store::Store;
use kiln::store::results::{Placement, Results};

/// Blobs in memory.
#[derive(Default)]
struct Memory(Mutex<std::collections::HashMap<kiln::remote::BlobId, Vec<u8>>>);

impl Source for Memory {
    fn places(&self) -> usize {
        1
    }

    fn read(
        &self,
        _: usize,
        blob: BlobRef,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, RemoteError> {
        let blobs = self.0.lock().unwrap();
        let (from, to) =
            (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        Ok(blobs[&blob.id][from..to].to_vec())
    }
}

/// A layer of the store.
struct Layer {
    placement: Placement,
    encoded: Vec<u8>,
    index: LayerIndex,
}

impl Layer {
    fn read(store: &Store, results: &Results, start: &str) -> Self {
        let state: StateId = results
            .placements()
            .map(|placement| placement.state)
            .find(|state| state.to_string().starts_with(start))
            .unwrap_or_else(|| panic!("no state starts with {start}"));
        let placement = results.placement(state).unwrap().clone();
        let encoded = store.objects().read(placement.index, 1 << 30).unwrap();
        let index = LayerIndex::decode(&encoded).unwrap();
        Self { placement, encoded, index }
    }

    fn path(&self, store: &Store) -> std::path::PathBuf {
        store.objects().path(self.placement.data.unwrap())
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn row(what: &str, bytes: u64, seconds: f64) {
    println!("{what:<44} {:>9.2} MiB {seconds:>8.2} s", mib(bytes));
}

fn push(store: &Store, layer: &Layer, references: &[Reference], remote: &Memory) -> (Pack, u64) {
    let path = layer.path(store);
    let file = File::open(&path).unwrap();
    let mut sent = 0;
    let mut sink = |blob: BlobRef, bytes: Vec<u8>| {
        sent += blob.len;
        remote.0.lock().unwrap().insert(blob.id, bytes);
        Ok::<(), FileError>(())
    };
    let data = Some((layer.placement.data.unwrap(), &file, path.as_path()));
    let state = layer.placement.state;
    let pack =
        pack::write(state, &layer.index, &layer.encoded, data, references, &mut sink).unwrap();
    let bytes = pack.encode();
    sent += bytes.len() as u64;
    (pack, sent)
}

/// Fetches a whole layer into a new file; gives the bytes that came.
fn pull(pack: &Pack, layer: &Layer, remote: &Memory, twins: Vec<Twin>) -> u64 {
    let reader = ChunkReader::new(pack.clone());
    let encoded = reader.index(remote, |bytes| bytes == layer.encoded).unwrap();
    let index = LayerIndex::decode(&encoded).unwrap();
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path().join("data");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(layer.placement.size).unwrap();
    let partial = Partial::new(pack.clone(), index.hashes, file, path, twins).unwrap();
    partial.complete(remote).unwrap();
    assert!(partial.is_complete());
    partial.fetched()
}

/// Runs a shell line and times it; `None` where it fails.
fn timed(line: &str) -> Option<f64> {
    let start = Instant::now();
    let status = Command::new("sh").args(["-c", line]).status().ok()?;
    status.success().then(|| start.elapsed().as_secs_f64())
}

fn size_of(path: &Path) -> u64 {
    if path.is_file() {
        return fs::metadata(path).map_or(0, |meta| meta.len());
    }
    walkdir::WalkDir::new(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_file))
        .map(|meta| meta.len())
        .sum()
}

fn peers(first: &Path, second: Option<&Path>) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let at = |name: &str| directory.path().join(name);
    let show = |path: &Path| path.display().to_string();
    let zstd = at("zstd");
    for (number, path) in [Some(first), second].into_iter().flatten().enumerate() {
        let (from, to) = (show(path), show(&zstd));
        if let Some(seconds) = timed(&format!("zstd -q -f -3 --long=27 {from} -o {to}")) {
            row(&format!("zstd -3 --long=27, layer {}: push", number + 1), size_of(&zstd), seconds);
            if let Some(seconds) = timed(&format!("zstd -q -f -d --long=27 {to} -o {to}.raw")) {
                row("  pull", size_of(&zstd), seconds);
            }
        }
    }
    for chunk in ["64K", "16K"] {
        let (store, mut before) = (at(&format!("casync-{chunk}")), 0);
        let sizes = match chunk {
            "64K" => "--chunk-size=16384:65536:262144",
            _ => "--chunk-size=4096:16384:65536",
        };
        for (number, path) in [Some(first), second].into_iter().flatten().enumerate() {
            let index = at(&format!("{chunk}-{number}.caibx"));
            let (store_arg, index_arg) = (show(&store), show(&index));
            let line = format!(
                "casync make {sizes} --store={store_arg} {index_arg} {} >/dev/null",
                show(path)
            );
            let Some(seconds) = timed(&line) else { continue };
            let now = size_of(&store);
            let sent = now - before + size_of(&index);
            row(&format!("casync {chunk}, layer {}: push", number + 1), sent, seconds);
            before = now;
            let out = show(&at(&format!("casync-out-{chunk}-{number}")));
            if let Some(seconds) =
                timed(&format!("casync extract --store={store_arg} {index_arg} {out}"))
            {
                row("  pull", sent, seconds);
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [store, states @ ..] = &arguments[..] else {
        println!("usage: cargo bench --bench pack -- STORE STATE [STATE]");
        return;
    };
    if states.is_empty() {
        println!("usage: cargo bench --bench pack -- STORE STATE [STATE]");
        return;
    }
    let store = Store::open(Path::new(store)).unwrap();
    let results = store.results().unwrap();
    let layers: Vec<Layer> =
        states.iter().map(|state| Layer::read(&store, &results, state)).collect();
    for (number, layer) in layers.iter().enumerate() {
        println!("layer {}: {:.1} MiB of data", number + 1, mib(layer.placement.size));
    }
    let remote = Memory::default();
    let start = Instant::now();
    let (pack, sent) = push(&store, &layers[0], &[], &remote);
    row("kiln, layer 1: push", sent, start.elapsed().as_secs_f64());
    let start = Instant::now();
    let got = pull(&pack, &layers[0], &remote, Vec::new());
    row("  pull", got, start.elapsed().as_secs_f64());
    if let [first, second] = &layers[..] {
        let reference = |with_data: bool| Reference {
            pack: pack.clone(),
            index: first.index.clone(),
            encoded: first.encoded.clone(),
            data: with_data.then(|| File::open(first.path(&store)).unwrap()),
        };
        let start = Instant::now();
        let (_, sent) = push(&store, second, &[reference(false)], &Memory::default());
        row("kiln, layer 2 without the first's data: push", sent, start.elapsed().as_secs_f64());
        let start = Instant::now();
        let (again, sent) = push(&store, second, &[reference(true)], &remote);
        row("kiln, layer 2: push", sent, start.elapsed().as_secs_f64());
        let twin = Twin {
            pack: pack.clone(),
            hashes: first.index.hashes.clone(),
            data: File::open(first.path(&store)).unwrap(),
        };
        let start = Instant::now();
        let got = pull(&again, second, &remote, vec![twin]);
        row("  pull by whoever has layer 1", got, start.elapsed().as_secs_f64());
        let start = Instant::now();
        let got = pull(&again, second, &remote, Vec::new());
        row("  pull by whoever has nothing", got, start.elapsed().as_secs_f64());
    }
    peers(&layers[0].path(&store), layers.get(1).map(|layer| layer.path(&store)).as_deref());
}
