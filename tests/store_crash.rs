//! The store on a medium that stops at any operation and loses what was not synced.
//!
//! Knows the order of writing that the store promises; nothing of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kiln::digest::{ActionKey, Digest, StateId};
use kiln::disk::layer::{self, BLOCK_LEN, Change, Extent, LayerIndex};
use kiln::disk::state::DiskState;
use kiln::files::{self, Host, Medium, Stamp};
use kiln::name::ImageName;
use kiln::recipe::Retention;
use kiln::store::gc;
use kiln::store::lease::Held;
use kiln::store::objects::Readers;
use kiln::store::refs::{Built, OutputRecord, Pin};
use kiln::store::results::{ActionResult, Placement};
use kiln::store::work::Work;
use kiln::store::{Store, StoreError, verify};

/// Where in an operation the medium stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    Middle,
    After,
}

/// What is gone after the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Nothing: the process was killed.
    Nothing,
    /// Bytes that were not synced.
    Bytes,
    /// Names that were not synced.
    Names,
    /// Both.
    All,
}

const LOSSES: [Loss; 4] = [Loss::Nothing, Loss::Bytes, Loss::Names, Loss::All];

/// A change of names that is not durable yet.
enum Pending {
    Created { path: PathBuf },
    Renamed { from: PathBuf, to: PathBuf, old: Option<Vec<u8>> },
    Removed { path: PathBuf, old: Vec<u8> },
}

impl Pending {
    fn directory(&self) -> &Path {
        let (Self::Created { path } | Self::Renamed { to: path, .. } | Self::Removed { path, .. }) =
            self;
        path.parent().unwrap()
    }
}

#[derive(Default)]
struct State {
    /// The operations until the stop; `None` for no stop.
    left: Option<usize>,
    stopped: bool,
    /// The operations so far, and whether each has a middle.
    operations: Vec<bool>,
    /// Durable bytes of each file that was written to, by its present name.
    durable: BTreeMap<PathBuf, u64>,
    pending: Vec<Pending>,
}

/// The first half of an operation.
type Half<'a> = dyn Fn(&mut State) -> io::Result<()> + 'a;

/// The medium.
struct FaultyMedium {
    moment: Moment,
    state: Mutex<State>,
}

impl FaultyMedium {
    fn new(stop: Option<usize>, moment: Moment) -> Arc<Self> {
        let state = State { left: stop, ..State::default() };
        Arc::new(Self { moment, state: Mutex::new(state) })
    }

    /// Does an operation, unless the medium has stopped or stops here.
    fn step<T>(
        &self,
        half: Option<&Half<'_>>,
        whole: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let stopped = || io::Error::other("the medium has stopped");
        let state = &mut *self.state.lock().unwrap();
        if state.stopped {
            return Err(stopped());
        }
        state.operations.push(half.is_some());
        match &mut state.left {
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return whole(state);
            }
            None => return whole(state),
        }
        state.stopped = true;
        match self.moment {
            Moment::Before => {}
            Moment::Middle => half.expect("an operation with a middle")(state)?,
            Moment::After => drop(whole(state)?),
        }
        Err(stopped())
    }

    fn stopped(&self) -> bool {
        self.state.lock().unwrap().stopped
    }

    /// Goes on after a stop as the host does for the next process.
    fn go_on(&self) {
        let mut state = self.state.lock().unwrap();
        (state.left, state.stopped) = (None, false);
    }

    /// Loses what a power cut would.
    fn lose(&self, loss: Loss) {
        let mut state = self.state.lock().unwrap();
        if matches!(loss, Loss::Bytes | Loss::All) {
            for (path, &len) in &state.durable {
                if fs::metadata(path).is_ok_and(|meta| meta.len() > len) {
                    let file = File::options().write(true).open(path).unwrap();
                    file.set_len(len).unwrap();
                }
            }
        }
        if matches!(loss, Loss::Names | Loss::All) {
            for pending in state.pending.drain(..).rev() {
                match pending {
                    Pending::Created { path } => drop(fs::remove_file(path)),
                    // Its directory may be gone with its build, here and below.
                    Pending::Removed { path, old } => drop(fs::write(path, old)),
                    Pending::Renamed { from, to, old } => {
                        if fs::rename(&to, from).is_err() {
                            fs::remove_file(&to).unwrap();
                        }
                        if let Some(old) = old {
                            fs::write(to, old).unwrap();
                        }
                    }
                }
            }
        }
    }
}

impl Medium for FaultyMedium {
    fn create(&self, path: &Path, shared: bool) -> io::Result<File> {
        self.step(None, |state| {
            let file = Host.create(path, shared)?;
            state.durable.insert(path.to_owned(), 0);
            state.pending.push(Pending::Created { path: path.to_owned() });
            Ok(file)
        })
    }

    fn write(&self, file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let note = |state: &mut State| {
            let len = fs::metadata(path).map_or(0, |meta| meta.len());
            state.durable.entry(path.to_owned()).or_insert(len);
        };
        self.step(
            Some(&|state| {
                note(state);
                Host.write(file, path, &bytes[..bytes.len() / 2])
            }),
            |state| {
                note(state);
                Host.write(file, path, bytes)
            },
        )
    }

    fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.step(None, |state| {
            let len = file.metadata()?.len();
            state.durable.insert(path.to_owned(), len);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(None, |state| {
            let old = fs::read(to).ok();
            fs::rename(from, to)?;
            // The name under which it was made is gone with the rename.
            state.pending.retain(|p| !matches!(p, Pending::Created { path } if path == from));
            if let Some(len) = state.durable.remove(from) {
                state.durable.insert(to.to_owned(), len);
            }
            let (from, to) = (from.to_owned(), to.to_owned());
            state.pending.push(Pending::Renamed { from, to, old });
            Ok(())
        })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.step(None, |state| {
            assert!(directory.is_dir());
            state.pending.retain(|pending| pending.directory() != directory);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(None, |state| {
            let old = fs::read(path)?;
            fs::remove_file(path)?;
            state.durable.remove(path);
            state.pending.push(Pending::Removed { path: path.to_owned(), old });
            Ok(())
        })
    }
}

fn key(version: u8, number: u8) -> ActionKey {
    ActionKey(Digest::of(&[version, number]))
}

fn output() -> PathBuf {
    PathBuf::from("/out/web.qcow2")
}

fn image() -> ImageName {
    "web".parse().unwrap()
}

/// Stores one layer and its result: object, then result.
fn layer(
    store: &Store,
    work: &Work,
    version: u8,
    number: u8,
    parent: Option<StateId>,
) -> Result<StateId, StoreError> {
    let (objects, lease, work) = (store.objects(), work.lease(), work.path());
    let block = [version.wrapping_mul(16) + number + 1; BLOCK_LEN];
    let mut writer = objects.writer(work, "layer", Readers::Group)?;
    writer.write(&block[..1000])?;
    writer.write(&block[1000..])?;
    let data = writer.finish(lease)?;
    let index = LayerIndex {
        parent,
        virtual_size: 1 << 20,
        extents: vec![Extent { start: number.into(), len: 1, change: Change::Data }],
        hashes: vec![Digest::of(&block)],
    }
    .encode();
    let state = layer::state_id(&index);
    let index = objects.put(lease, work, &index, Readers::All)?;
    let manifest = objects.put(lease, work, &[version, number], Readers::All)?;
    let placement =
        Placement { state, parent, index, data: Some(data), size: BLOCK_LEN as u64, pack: None };
    let result = ActionResult {
        key: key(version, number),
        parent,
        state,
        impure: false,
        manifest,
        report: None,
        took_ms: 1,
        host: Vec::new(),
        sbom: None,
        provenance: None,
        at: 0,
        signer: None,
    };
    lease.hold([Held::State(state)])?;
    store.record(Some(&placement), &result)?;
    Ok(state)
}

/// A build: two layers, then the refs.
fn build(root: &Path, medium: Arc<dyn Medium>, version: u8) -> Result<StateId, StoreError> {
    let store = Store::open_with(root, medium)?;
    let work = Work::new(&store)?;
    let base = layer(&store, &work, version, 0, None)?;
    let state = layer(&store, &work, version, 1, Some(base))?;
    store.refs().set_output(&record(version, state))?;
    store.refs().set_image(&image(), &vec![state])?;
    store.refs().note_build(&image(), Built { at: u64::from(version), state, sealed: true })?;
    Ok(state)
}

fn record(version: u8, state: StateId) -> OutputRecord {
    let stamp = Stamp::of(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").as_path());
    OutputRecord {
        path: output(),
        seal: key(version, 1),
        state,
        format: "raw".to_owned(),
        stamp: stamp.unwrap(),
        signers: BTreeSet::new(),
    }
}

/// Every result names only what is whole, and can be read.
fn check_results(store: &Store) {
    let (results, objects) = (store.results().unwrap(), store.objects());
    for result in results.iter() {
        assert!(objects.is_whole(result.manifest));
        let chain = store.chain(&results, result.state, None).unwrap();
        for files in &chain {
            let placement = results.placement(files.state).unwrap();
            assert!(objects.is_whole(placement.index) && objects.is_whole(placement.data.unwrap()));
        }
        DiskState::open(&chain).unwrap().digest().unwrap();
    }
}

/// Whatever the refs name has a result.
fn check_refs(store: &Store) {
    let results = store.results().unwrap();
    if let Some(record) = store.refs().output(&output()) {
        assert!(results.of_action(record.seal).iter().any(|result| result.state == record.state));
    }
    for state in store.refs().image::<Vec<StateId>>(&image()).unwrap_or_default() {
        assert!(results.placement(state).is_some());
    }
}

/// Calls `case` with a medium that stops at each operation in turn: before the first, in the middle
/// of those that have one, and after each, which is before the next.
fn at_every_operation(case: impl Fn(&Arc<FaultyMedium>, Loss)) {
    let whole = FaultyMedium::new(None, Moment::Before);
    case(&whole, Loss::Nothing);
    let operations = whole.state.lock().unwrap().operations.clone();
    for loss in LOSSES {
        case(&FaultyMedium::new(Some(0), Moment::Before), loss);
        for (stop, &middle) in operations.iter().enumerate() {
            case(&FaultyMedium::new(Some(stop), Moment::After), loss);
            if middle {
                case(&FaultyMedium::new(Some(stop), Moment::Middle), loss);
            }
        }
    }
}

#[test]
fn a_new_store_is_whole_after_a_crash_at_any_operation() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let built = build(&root, Arc::clone(medium) as _, 1);
        assert_eq!(built.is_err(), medium.stopped());
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        check_results(&store);
        check_refs(&store);
        if let Ok(state) = built {
            assert_eq!(store.refs().output(&output()), Some(record(1, state)));
        }
        let state = build(&root, FaultyMedium::new(None, Moment::Before), 1).unwrap();
        check_results(&store);
        assert_eq!(store.refs().output(&output()), Some(record(1, state)));
        assert_eq!(store.refs().image(&image()), Some(vec![state]));
        assert_eq!(store.results().unwrap().of_action(key(1, 1))[0].state, state);
    });
}

#[test]
fn a_crash_leaves_the_old_or_the_new() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let old = build(&root, FaultyMedium::new(None, Moment::Before), 1).unwrap();
        let built = build(&root, Arc::clone(medium) as _, 2);
        assert_eq!(built.is_err(), medium.stopped());
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        check_results(&store);
        check_refs(&store);
        let results = store.results().unwrap();
        assert_eq!(results.of_action(key(1, 1))[0].state, old, "what was there stays");
        let found = store.refs().output(&output()).unwrap();
        if found != record(1, old) {
            assert_eq!(found, record(2, results.of_action(key(2, 1))[0].state));
        }
        let new = build(&root, FaultyMedium::new(None, Moment::Before), 2).unwrap();
        check_results(&store);
        assert_eq!(store.refs().output(&output()), Some(record(2, new)));
    });
}

#[test]
fn what_a_killed_build_left_is_made_durable_before_it_is_relied_on() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        // A kill, another build on what it left, and then a power cut.
        let _ = build(&root, Arc::clone(medium) as _, 1);
        medium.go_on();
        build(&root, Arc::clone(medium) as _, 1).unwrap();
        medium.lose(loss);
        check_results(&Store::open(&root).unwrap());
    });
}

#[test]
fn a_replaced_file_is_the_old_or_the_new() {
    let (old, new) = (vec![1; 3000], vec![2; 5000]);
    at_every_operation(|medium, loss| {
        for before in [None, Some(&old)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            if let Some(bytes) = before {
                fs::write(&path, bytes).unwrap();
            }
            let stopped = medium.stopped();
            let replaced = files::replace(&**medium, &path, &new);
            medium.lose(loss);
            let found = fs::read(&path).ok();
            if replaced.is_ok() {
                assert_eq!(found.as_ref(), Some(&new));
            } else {
                assert!(found.as_ref() == before || found.as_ref() == Some(&new));
                assert!(!stopped || found.as_ref() == before);
            }
            files::replace(&Host, &path, &new).unwrap();
            assert_eq!(fs::read(&path).unwrap(), new);
        }
    });
}

/// Keeps what is pinned and built last.
fn harsh() -> Retention {
    Retention { size: Some(0), ..Retention::default() }
}

/// A store with three builds: one is pinned, one was the last, one may go.
fn three(root: &Path) -> [StateId; 3] {
    let whole = || FaultyMedium::new(None, Moment::Before);
    let states = [1, 2, 3].map(|version| build(root, whole(), version).unwrap());
    let store = Store::open(root).unwrap();
    let pin = Pin { state: states[0], what: String::new(), at: 7 };
    store.pin(&"first".parse().unwrap(), &pin).unwrap();
    states
}

/// What a collection must have kept.
fn check_kept(store: &Store, [pinned, _, last]: [StateId; 3]) {
    check_results(store);
    check_refs(store);
    let results = store.results().unwrap();
    for state in [pinned, last] {
        assert!(store.chain(&results, state, None).is_ok());
    }
    assert_eq!(store.refs().pins().unwrap().len(), 1);
}

fn object_count(store: &Store) -> usize {
    gc::collect(store, &Retention::default(), 1).unwrap();
    kiln::store::inventory::Inventory::read(store).unwrap().objects.len()
}

#[test]
fn a_collection_that_crashes_at_any_operation_loses_nothing_kept() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let states = three(&root);
        let store = Store::open_with(&root, Arc::clone(medium) as _).unwrap();
        let collected = gc::collect(&store, &harsh(), 1);
        assert!(collected.is_ok() || medium.stopped());
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        check_kept(&store, states);
        // The next one ends what this one began.
        gc::collect(&store, &harsh(), 1).unwrap();
        check_kept(&store, states);
        let results = store.results().unwrap();
        assert!(results.placement(states[1]).is_none());
        assert_eq!(results.placements().count(), 4);
        assert_eq!(object_count(&store), 12, "two chains of two layers, three objects each");
        let again = build(&root, FaultyMedium::new(None, Moment::Before), 2).unwrap();
        assert_eq!(again, states[1]);
        check_results(&store);
    });
}

#[test]
fn a_journal_whose_rewriting_crashes_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("long");
    let states = three(&root);
    let store = Store::open(&root).unwrap();
    let results = store.results().unwrap();
    let placement = results.placement(states[2]).unwrap();
    let result = results.of_action(key(3, 1))[0].clone();
    for _ in 0..120 {
        store.record(Some(placement), &result).unwrap();
    }
    let long = fs::read(root.join("results")).unwrap();
    // What it sweeps, it sweeps once.
    gc::collect(&store, &Retention::default(), 1).unwrap();
    let rewritten = std::cell::Cell::new(0);
    at_every_operation(|medium, loss| {
        fs::write(root.join("results"), &long).unwrap();
        let store = Store::open_with(&root, Arc::clone(medium) as _).unwrap();
        let collected = gc::collect(&store, &Retention::default(), 1);
        assert!(collected.is_ok() || medium.stopped());
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        let after = fs::metadata(root.join("results")).unwrap().len();
        rewritten.set(rewritten.get() + usize::from(after < long.len() as u64 / 2));
        check_kept(&store, states);
        assert_eq!(store.results().unwrap().placements().count(), 6);
        store.record(Some(placement), &result).unwrap();
        check_kept(&store, states);
    });
    assert!(rewritten.get() > 0);
}

#[test]
fn a_pin_that_crashes_is_there_or_not() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let states = three(&root);
        let store = Store::open_with(&root, Arc::clone(medium) as _).unwrap();
        let pin = Pin { state: states[1], what: String::new(), at: 8 };
        let pinned = store.pin(&"second".parse().unwrap(), &pin);
        assert_eq!(pinned.is_err(), medium.stopped());
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        let pins = store.refs().pins().unwrap();
        assert!(pinned.is_err() || pins.len() == 2, "a pin that was set stays");
        assert!(pins.iter().all(|(_, found)| found.state == states[0] || *found == pin));
        gc::collect(&store, &harsh(), 1).unwrap();
        check_results(&store);
        let results = store.results().unwrap();
        assert_eq!(results.placement(states[1]).is_some(), pins.len() == 2);
    });
}

#[test]
fn a_removed_pin_that_crashes_is_there_or_not() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let states = three(&root);
        let store = Store::open_with(&root, Arc::clone(medium) as _).unwrap();
        let removed = store.refs().remove_pin(&"first".parse().unwrap());
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        let left = store.refs().pins().unwrap().len();
        assert!(removed.is_err() || left == 0);
        gc::collect(&store, &harsh(), 1).unwrap();
        check_results(&store);
        assert_eq!(store.results().unwrap().placement(states[0]).is_some(), left == 1);
    });
}

#[test]
fn a_repair_that_crashes_can_be_done_again_and_takes_nothing_good() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let states = three(&root);
        let store = Store::open_with(&root, Arc::clone(medium) as _).unwrap();
        let data = |state| {
            let results = store.results().unwrap();
            store.objects().path(results.placement(state).unwrap().data.unwrap())
        };
        let (hit, good) = (data(states[1]), data(states[0]));
        fs::write(&hit, [9; BLOCK_LEN]).unwrap();
        let journal = fs::read(root.join("results")).unwrap();
        fs::write(root.join("results"), [&journal[..], b"half"].concat()).unwrap();
        let found = verify::verify(&store, &|_| {}).unwrap();
        assert_eq!(found.damage.len(), 1);
        let repaired = verify::repair(&store, &found, 7);
        assert!(repaired.is_ok() || medium.stopped());
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        let found = verify::verify(&store, &|_| {}).unwrap();
        verify::repair(&store, &found, 7).unwrap();
        assert!(verify::verify(&store, &|_| {}).unwrap().is_good());
        check_kept(&store, states);
        assert!(good.exists() && store.results().unwrap().placement(states[1]).is_none());
    });
}

#[test]
fn a_journal_that_is_moved_away_at_a_crash_is_here_or_there() {
    at_every_operation(|medium, loss| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        three(&root);
        fs::write(root.join("results"), "something else").unwrap();
        let store = Store::open_with(&root, Arc::clone(medium) as _).unwrap();
        let found = verify::verify(&store, &|_| {}).unwrap();
        let _ = verify::repair(&store, &found, 7);
        medium.lose(loss);
        let store = Store::open(&root).unwrap();
        let found = verify::verify(&store, &|_| {}).unwrap();
        if !found.is_good() {
            verify::repair(&store, &found, 8).unwrap();
        }
        assert!(verify::verify(&store, &|_| {}).unwrap().is_good());
        let aside = ["results.damaged-7", "results.damaged-8"].map(|name| root.join(name));
        let kept = aside.iter().filter_map(|path| fs::read(path).ok());
        assert!(kept.into_iter().any(|bytes| bytes == b"something else"), "nothing is thrown away");
        build(&root, FaultyMedium::new(None, Moment::Before), 1).unwrap();
        check_results(&store);
    });
}
