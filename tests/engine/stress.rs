//! Twenty processes on one store: builds, collections, pins and readers, killed at random.
//!
//! Knows what a store promises whatever happens to those who use it. The processes are this very
//! program, started again. `KILN_STRESS_SEED` gives the seed, which is printed; `KILN_STRESS_ROUNDS`
//! the number of rounds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln::execute::recover::recover;
use kiln::name::PinName;
use kiln::recipe::Retention;
use kiln::store::inventory::Inventory;
use kiln::store::refs::Pin;
use kiln::store::survey::Survey;
use kiln::store::work::ActionLock;
use kiln::store::{Store, gc, verify};

use super::fake::Content;
use super::space::TestSpace;

const PROCESSES: u64 = 20;
const ROUNDS: u64 = 4;
/// How long processes are killed in each round.
const ROUND: Duration = Duration::from_secs(6);
/// What a process is told by its environment.
const DIRECTORY: &str = "KILN_STRESS_DIRECTORY";
const NUMBER: &str = "KILN_STRESS_NUMBER";
const SEED: &str = "KILN_STRESS_SEED";

/// Numbers that look random, the same for one seed. Source: `SplitMix64` of Steele, Lea and Flood.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Everything that must not be kept goes; of some images, the last build stays.
fn harsh() -> Retention {
    Retention { size: Some(100_000), ..Retention::default() }
}

fn stop(directory: &Path) -> PathBuf {
    directory.join("stop")
}

/// Where a process notes a pin once it is set, and removes the note before it removes the pin.
fn notes(directory: &Path) -> PathBuf {
    directory.join("pins")
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One of the processes: works until it is told to stop, or killed.
#[test]
#[ignore = "a process of the test below, which starts it"]
fn process() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("started by the test below"));
    let number = variable(NUMBER).expect("a number");
    let mut numbers = Numbers(variable(SEED).expect("a seed"));
    let store = directory.join("store");
    let mut most = None;
    while !stop(&directory).exists() {
        match number {
            0 | 1 => collects(&store),
            2 | 3 => pins(&directory, number, &mut numbers),
            4 => reads(&store),
            _ => builds(&directory, number, &mut numbers),
        }
        // What one turn opens, it closes; the first one starts threads that stay.
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        let most = most.get_or_insert(open);
        assert!(open <= *most + 2, "{open} open files, {most} at first");
    }
}

fn collects(store: &Path) {
    let store = Store::open(store).unwrap();
    recover(&store, &mut |warning| panic!("{warning}")).unwrap();
    gc::collect(&store, &harsh(), gc::now() + 1_000_000).unwrap();
}

fn pins(directory: &Path, number: u64, numbers: &mut Numbers) {
    let store = Store::open(&directory.join("store")).unwrap();
    // Each removes its own only: what another one has set, it may not have noted yet.
    let own = format!("p{number}-");
    let mut pins = store.refs().pins().unwrap();
    pins.retain(|(name, _)| name.as_str().starts_with(&own));
    if pins.len() > 3 {
        let at = usize::try_from(numbers.below(pins.len() as u64)).unwrap();
        let (name, _) = &pins[at];
        let _ = fs::remove_file(notes(directory).join(name.as_str()));
        store.refs().remove_pin(name).unwrap();
    }
    let states: Vec<_> = store.results().unwrap().placements().map(|layer| layer.state).collect();
    if states.is_empty() {
        return;
    }
    let state = states[usize::try_from(numbers.below(states.len() as u64)).unwrap()];
    let name: PinName = format!("{own}{}", numbers.next()).parse().unwrap();
    // A collection may have been faster; then it says so.
    if store.pin(&name, &Pin { state, what: String::new(), at: 7 }).is_ok() {
        fs::write(notes(directory).join(name.as_str()), state.to_string()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(numbers.below(50)));
}

fn reads(store: &Path) {
    let store = Store::open(store).unwrap();
    let verified = verify::verify(&store, &|_| {}).unwrap();
    // Whoever is killed while it writes leaves a record that is cut short; the next one takes it away.
    let journal = verified.journal.is_some_and(|faults| faults.records == 0);
    assert!(verified.damage.is_empty() && journal, "{verified:?}");
    assert_eq!(Survey::read(&store, 1).unwrap().usage(&store).partial.count, 0);
}

/// Builds one of a few images that share their beginnings with those of other processes.
fn builds(directory: &Path, number: u64, numbers: &mut Numbers) {
    let own = directory.join(format!("space-{number}"));
    let (common, step) = (numbers.below(3), numbers.below(5));
    // Some names of images are shared by processes, as by workspaces of a team.
    let image = format!("image{}", number % 7);
    let mut space = TestSpace::at(
        &own,
        &format!(
            "image \"{image}\" {{ base file \"base.img\"; run-command \"common {common}\"; \
             run-command \"step {step}\"; run-command \"own {}\"; output \"raw\"; }}",
            numbers.below(2),
        ),
    );
    space.store = directory.join("store");
    space.options.verify_layers = numbers.below(4) == 0;
    space.try_build().unwrap_or_else(|error| panic!("{error:?}"));
    let content = space.content(&image);
    assert_eq!(content.mark, 7);
    let tasks = content.tasks();
    assert!(tasks.len() == 4 && tasks[0].contains(&format!("common {common}")), "{tasks:?}");
    assert!(tasks[1].contains(&format!("step {step}")), "{tasks:?}");
    if numbers.below(2) == 0 {
        // So that the output keeps nothing.
        fs::remove_file(space.output(&image)).unwrap();
    }
}

fn start(directory: &Path, number: u64, seed: u64) -> Child {
    let log = fs::File::create(directory.join(format!("log-{number}-{seed:x}"))).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stress::process", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(NUMBER, number.to_string())
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The processes of a round: none of them outlives it, however it ends.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended already has nothing to be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts all processes, and kills and starts one after the other; at the end some are killed and
/// the others end by themselves, which they do without an error.
fn round(directory: &Path, numbers: &mut Numbers) {
    let _ = fs::remove_file(stop(directory));
    let children = (0..PROCESSES).map(|number| start(directory, number, numbers.next()));
    let mut children = Children(children.collect());
    let failed = |number: usize| panic!("process {number} failed: see {}", directory.display());
    let end = Instant::now() + ROUND;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(30 + numbers.below(200)));
        let number = usize::try_from(numbers.below(PROCESSES)).unwrap();
        let child = &mut children.0[number];
        if child.try_wait().unwrap().is_some() {
            failed(number);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        *child = start(directory, number as u64, numbers.next());
    }
    for child in children.0.iter_mut().step_by(3) {
        child.kill().unwrap();
    }
    fs::write(stop(directory), "").unwrap();
    for (number, child) in children.0.iter_mut().enumerate() {
        let status = child.wait().unwrap();
        if !status.success() && number % 3 != 0 {
            failed(number);
        }
    }
}

/// Nothing is wrong, nothing is lost, nothing is left over and nobody is locked out.
fn check(directory: &Path) {
    let root = directory.join("store");
    let store = Store::open(&root).unwrap();
    recover(&store, &mut |warning| panic!("{warning}")).unwrap();
    let results = store.results().unwrap();
    let read = |state| Content::of_chain(&store.chain(&results, state, None).unwrap());
    for result in results.iter() {
        let content = read(result.state);
        let below = result.parent.map_or(Vec::new(), |parent| read(parent).records);
        assert!(content.records.starts_with(&below));
        assert!(store.objects().is_whole(result.manifest));
    }
    for placement in results.placements() {
        read(placement.state);
    }
    let verified = verify::verify(&store, &|_| {}).unwrap();
    assert!(verified.is_good() || verified.damage.is_empty(), "{verified:?}");
    let pins = store.refs().pins().unwrap();
    for note in fs::read_dir(notes(directory)).unwrap() {
        let note = note.unwrap();
        let (name, state) = (note.file_name(), fs::read_to_string(note.path()).unwrap());
        let pin = pins.iter().find(|(pin, _)| name == pin.as_str());
        // A process may have been killed between the note's making and its first byte.
        assert!(state.is_empty() || pin.is_some(), "the pin {} is lost", name.display());
    }
    for (name, pin) in &pins {
        assert!(results.placement(pin.state).is_some(), "what {name} keeps is lost");
    }
    let locks = names(&root.join("work/actions"));
    for name in &locks {
        let lock = ActionLock::try_take(&store, name.parse().unwrap()).unwrap();
        assert!(lock.is_some(), "{name} is locked");
    }
    gc::collect(&store, &Retention::default(), gc::now() + 1_000_000).unwrap();
    assert!(verify::verify(&store, &|_| {}).unwrap().is_good());
    let usage = Survey::read(&store, 1).unwrap().usage(&store);
    assert_eq!((usage.unreferenced.count, usage.partial.count), (0, 0));
    assert!(!Inventory::read(&store).unwrap().objects.is_empty());
    let left: BTreeSet<String> = names(&root.join("work"));
    assert_eq!(left, ["actions", "entry", "gc"].map(str::to_owned).into());
    assert!(names(&root.join("work/actions")).is_empty());
    for directory in ["", "refs/outputs", "refs/images", "refs/builds", "refs/pins"] {
        let half = names(&root.join(directory)).into_iter().find(|name| name.contains("kiln-part"));
        assert_eq!(half, None, "{directory}");
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn twenty_processes_that_are_killed_at_random_leave_a_whole_store() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = variable(SEED).unwrap_or(u64::from(now.subsec_nanos()));
    println!("{SEED}={seed}");
    let mut numbers = Numbers(seed);
    let directory = tempfile::Builder::new().disable_cleanup(true).tempdir().unwrap();
    fs::create_dir(notes(directory.path())).unwrap();
    for number in 0..variable("KILN_STRESS_ROUNDS").unwrap_or(ROUNDS) {
        println!("round {number}");
        round(directory.path(), &mut numbers);
        check(directory.path());
    }
    // Where something failed, it stays to be looked at.
    fs::remove_dir_all(directory.path()).unwrap();
}
