//! A workspace and a store of a test's own, built by the fake executor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln::digest::{ActionKey, StateId};
use kiln::engine::{BuildError, Engine, Options, Summary, Tested};
use kiln::explain::Reason;
use kiln::lock::Lock;
use kiln::plan::{self, Actions, Fate, History};
use kiln::progress::{Progress, StepDone, StepName, Way};
use kiln::remote::team::Team;
use kiln::remote::trust::Trust;
use kiln::source::Sources;
use kiln::store::Store;
use kiln::store::results::Results;
use kiln::workspace::{self, Workspace};

use super::fake::{Content, FakeExecutor, MARK};

/// Bytes of a test's disks.
pub(crate) const SIZE: u64 = 1 << 20;

/// A workspace, a store, and who builds.
pub(crate) struct TestSpace {
    directory: PathBuf,
    /// Removes the directory with the value, where it is the test's own.
    _own: Option<tempfile::TempDir>,
    /// The store; another test space's may be put here.
    pub(crate) store: PathBuf,
    /// Who performs the tasks.
    pub(crate) executor: FakeExecutor,
    /// How.
    pub(crate) options: Options,
    /// What the clock says.
    pub(crate) now: Duration,
    /// Whether the user wants the end.
    pub(crate) interrupted: AtomicBool,
    /// The remotes that it shares results with.
    pub(crate) team: Team,
}

impl TestSpace {
    /// A workspace with one recipe file and an empty base `base.img`.
    pub(crate) fn new(recipe: &str) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let space = Self::at(temporary.path(), recipe);
        Self { _own: Some(temporary), ..space }
    }

    /// The same in a directory that stays.
    pub(crate) fn at(directory: &Path, recipe: &str) -> Self {
        let space = Self {
            store: directory.join("store"),
            directory: directory.to_owned(),
            _own: None,
            executor: FakeExecutor::default(),
            options: Options { jobs: 1, verify_layers: true, lease: kiln::engine::LEASE },
            now: Duration::from_secs(1_000_000),
            interrupted: AtomicBool::new(false),
            team: Team::default(),
        };
        space.recipe(recipe);
        space.base("base.img", 7);
        space
    }

    /// The workspace's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("space")
    }

    /// Writes the recipe.
    pub(crate) fn recipe(&self, text: &str) {
        self.input("main.kdl", text);
    }

    /// Writes a file beside the recipe.
    pub(crate) fn input(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.root().join("recipes").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes a raw disk beside the recipe that is empty but for one byte.
    pub(crate) fn base(&self, name: &str, mark: u8) {
        self.base_of(name, mark, SIZE);
    }

    /// The same of another size in bytes.
    pub(crate) fn base_of(&self, name: &str, mark: u8, size: u64) {
        use std::os::unix::fs::FileExt;
        self.input(name, "");
        let path = self.root().join("recipes").join(name);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(&[mark], MARK * 4096).unwrap();
    }

    /// Loads the recipes.
    pub(crate) fn workspace(&self) -> Workspace {
        workspace::load(&self.root()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The actions of every image.
    pub(crate) fn actions(&self, workspace: &Workspace) -> Actions {
        let lock = Lock::read(&workspace.root, &mut Sources::default()).unwrap();
        let closure = workspace.graph.closure::<&str>(&[]).unwrap();
        plan::actions(workspace, &closure, |_| true, &lock, self.now).unwrap()
    }

    /// The keys of all actions by name.
    pub(crate) fn keys(&self) -> BTreeMap<String, ActionKey> {
        let nodes = self.actions(&self.workspace()).nodes;
        nodes.into_iter().map(|node| (node.name, node.key)).collect()
    }

    /// Opens the store.
    pub(crate) fn open(&self) -> Store {
        Store::open(&self.store).unwrap()
    }

    /// All results.
    pub(crate) fn results(&self) -> Results {
        self.open().results().unwrap()
    }

    /// Builds every image.
    pub(crate) fn try_build(&self) -> Result<Summary, BuildError> {
        self.build_with(&mut kiln::progress::Silent)
    }

    /// Builds every image, and tells what happens.
    pub(crate) fn build_with(&self, progress: &mut dyn Progress) -> Result<Summary, BuildError> {
        self.with_engine(|engine, actions| engine.build(actions, progress))
    }

    /// Boots every image, which is built, and tells what happens.
    pub(crate) fn test_with(
        &self,
        again: bool,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Tested>, BuildError> {
        self.with_engine(|engine, actions| engine.test(actions, again, progress))
    }

    fn with_engine<T>(&self, work: impl FnOnce(&Engine<'_>, &Actions) -> T) -> T {
        let workspace = self.workspace();
        let store = self.open();
        let engine = Engine {
            workspace: &workspace,
            store: &store,
            executor: &self.executor,
            vault: &kiln::secret::Vault::new(&workspace.root, &workspace.settings.secrets),
            options: self.options,
            team: &self.team,
            interrupted: &self.interrupted,
        };
        let done = work(&engine, &self.actions(&workspace));
        self.interrupted.store(false, Ordering::SeqCst);
        done
    }

    /// Builds every image, which must succeed, and checks every image's disk.
    pub(crate) fn build(&self) -> Summary {
        let summary = self.try_build().unwrap_or_else(|error| panic!("{error:?}"));
        let left = fs::read_dir(self.store.join("work")).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.path().join("lease")).collect();
        assert!(!left.iter().any(|lease| lease.exists()), "a build leaves nothing in `work`");
        self.check_outputs();
        summary
    }

    /// The names of what a build ran.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.build().ran
    }

    /// What becomes of each action, by name.
    pub(crate) fn plan(&self) -> BTreeMap<String, Fate> {
        let workspace = self.workspace();
        let actions = self.actions(&workspace);
        let store = self.open();
        let mut results = store.results().unwrap();
        let trust = Trust::new(&workspace.settings.sharing.trusted);
        results.leave_out(|signer| trust.allows(signer));
        let history = History::new(&workspace, Some(&store));
        let plan = plan::plan(&actions, &results, |_| true, &history, &BTreeMap::new());
        let fates = actions.nodes.iter().zip(plan.fates);
        fates.filter_map(|(node, fate)| Some((node.name.clone(), fate?))).collect()
    }

    /// Why an action would run.
    pub(crate) fn reason(&self, name: &str) -> Reason {
        match self.plan().remove(name) {
            Some(Fate::Run(reason)) => reason,
            other => panic!("{name} does not run: {other:?}"),
        }
    }

    /// An output in the default place.
    pub(crate) fn output(&self, image: &str) -> PathBuf {
        self.root().join(format!("out/{image}.raw"))
    }

    /// What an image's output holds.
    pub(crate) fn content(&self, image: &str) -> Content {
        Content::of_file(&self.output(image))
    }

    /// What a state holds, read through exactly its own chain.
    pub(crate) fn state(&self, state: StateId) -> Content {
        let store = self.open();
        Content::of_chain(&store.chain(&store.results().unwrap(), state, None).unwrap())
    }

    /// Reads every output and every state of the store: all must be disks in themselves.
    pub(crate) fn check(&self) {
        self.check_outputs();
        self.check_states();
    }

    /// Reads every output: each is a disk in itself, and the relabel is its last writer.
    pub(crate) fn check_outputs(&self) {
        for node in &self.workspace().graph.images {
            let name = node.image.name.value.as_str();
            let content = self.content(name);
            let last = content.records.last().unwrap();
            assert!(last.task.starts_with(super::fake::RELABEL), "{name} ends with {}", last.task);
        }
    }

    /// Reads every state that a result names.
    pub(crate) fn check_states(&self) {
        for result in self.results().iter() {
            let content = self.state(result.state);
            if let Some(parent) = result.parent {
                let below = self.state(parent);
                assert_eq!(content.records[..below.records.len()], below.records);
                assert_eq!(content.records.len(), below.records.len() + 1);
            } else {
                assert!(content.records.is_empty());
            }
        }
    }

    /// What `kiln build --refresh` does before it builds.
    pub(crate) fn refresh(&self) {
        let workspace = self.workspace();
        let mut lock = Lock::read(&workspace.root, &mut Sources::default()).unwrap();
        for node in self.actions(&workspace).nodes {
            if node.action.generation.is_some() {
                lock.raise(&node.name);
            }
        }
        lock.write(&workspace.root).unwrap();
    }

    /// Forgets which states the last builds used.
    pub(crate) fn forget_last_builds(&self) {
        for entry in fs::read_dir(self.store.join("refs/images")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// Takes over everything that another store holds, as if it had been built here.
    pub(crate) fn take_over(&self, other: &Path) {
        let (from, to) = (Store::open(other).unwrap(), self.open());
        for entry in walkdir::WalkDir::new(other.join("objects")) {
            let entry = entry.unwrap();
            let target = self.store.join(entry.path().strip_prefix(other).unwrap());
            if entry.file_type().is_dir() {
                fs::create_dir_all(target).unwrap();
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
        let results = from.results().unwrap();
        for result in results.iter() {
            to.record(results.placement(result.state), result).unwrap();
        }
    }
}

/// Notes what a build tells.
#[derive(Default)]
pub(crate) struct Watch<'a> {
    /// The steps that started, as `IMAGE/STEP`.
    pub(crate) started: Vec<String>,
    /// The notes of the steps that ended.
    pub(crate) notes: Vec<String>,
    /// Outputs, and whether they were written.
    pub(crate) outputs: Vec<(String, bool)>,
    /// What it warned of.
    pub(crate) warnings: Vec<String>,
    /// What was taken from remotes, and what was given to them.
    pub(crate) shared: Vec<(String, Way)>,
    /// How often a step waited for another build.
    pub(crate) waited: usize,
    /// Called each time.
    on_waiting: Option<Box<dyn FnMut() + 'a>>,
}

impl<'a> Watch<'a> {
    /// Calls something each time that a step waits for another build.
    pub(crate) fn on_waiting(call: impl FnMut() + 'a) -> Self {
        Self { on_waiting: Some(Box::new(call)), ..Self::default() }
    }
}

impl Progress for Watch<'_> {
    fn planned(&mut self, _: usize, _: usize) {}

    fn started(&mut self, _: ActionKey, step: &StepName, _: &str) {
        self.started.push(format!("{}/{}", step.image, step.label));
    }

    fn line(&mut self, _: ActionKey, _: &str) {}

    fn waiting(&mut self, _: ActionKey, _: Option<&str>) {
        self.waited += 1;
        if let Some(call) = &mut self.on_waiting {
            call();
        }
    }

    fn done(&mut self, _: ActionKey, done: &StepDone) {
        self.notes.extend(done.note.clone());
    }

    fn failed(&mut self, _: ActionKey) {}

    fn output(&mut self, image: &str, _: &Path, fresh: bool, _: &str) {
        self.outputs.push((image.to_owned(), fresh));
    }

    fn shared(&mut self, step: &str, _: &str, way: Way, _: u64) {
        self.shared.push((step.to_owned(), way));
    }

    fn warning(&mut self, text: &str) {
        self.warnings.push(text.to_owned());
    }

    fn finished(&mut self, _: Duration) {}
}
