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
use kiln::store::objects::Readers;
use kiln::store::refs::OutputRecord;
use kiln::store::results::{ActionResult, Placement};
use kiln::store::{Store, StoreError};

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
                    Pending::Removed { path, old } => fs::write(path, old).unwrap(),
                    Pending::Renamed { from, to, old } => {
                        fs::rename(&to, from).unwrap();
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
    work: &Path,
    version: u8,
    number: u8,
    parent: Option<StateId>,
) -> Result<StateId, StoreError> {
    let objects = store.objects();
    let block = [version.wrapping_mul(16) + number + 1; BLOCK_LEN];
    let mut writer = objects.writer(work, "layer", Readers::Group)?;
    writer.write(&block[..1000])?;
    writer.write(&block[1000..])?;
    let data = writer.finish()?;
    let index = LayerIndex {
        parent,
        virtual_size: 1 << 20,
        extents: vec![Extent { start: number.into(), len: 1, change: Change::Data }],
        hashes: vec![Digest::of(&block)],
    }
    .encode();
    let state = layer::state_id(&index);
    let index = objects.put(work, &index, Readers::All)?;
    let manifest = objects.put(work, &[version, number], Readers::All)?;
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
    store.record(Some(&placement), &result)?;
    Ok(state)
}

/// A build: two layers, then the refs.
fn build(root: &Path, medium: Arc<dyn Medium>, version: u8) -> Result<StateId, StoreError> {
    let store = Store::open_with(root, medium)?;
    let work = root.join("work/build");
    // As a build does with the directory of one that was killed.
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).unwrap();
    let base = layer(&store, &work, version, 0, None)?;
    let state = layer(&store, &work, version, 1, Some(base))?;
    store.refs().set_output(&record(version, state))?;
    store.refs().set_image(&image(), &vec![state])?;
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
        let chain = store.chain(&results, result.state).unwrap();
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
