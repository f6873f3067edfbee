//! Collections of small stores, with builds between their steps.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::digest::Digest;
use crate::name::{ImageName, PinName};
use crate::store::objects::Readers;
use crate::store::refs::{Built, OutputRecord, Pin};
use crate::store::samples::{self, assert_whole, key, layer};
use crate::store::work::Work;
use crate::store::{PinError, lock};

/// Keeps nothing that need not be kept.
const NOTHING: Retention = Retention {
    size: Some(0),
    age: None,
    free: None,
    keep_builds: 0,
    unused_original: None,
    unused_resized: None,
};

/// Later than everything that a test writes.
fn later() -> u64 {
    now() + 1_000_000
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

/// A store with a chain of so many layers, which no build runs on.
fn chain(count: u8) -> (tempfile::TempDir, Store, Vec<StateId>) {
    let (directory, store) = store();
    let work = Work::new(&store).unwrap();
    let mut states: Vec<StateId> = Vec::new();
    for n in 0..count {
        let state = layer(&store, &work, 1 + 2 * n, states.last().copied());
        states.push(state);
    }
    (directory, store, states)
}

fn left(store: &Store) -> BTreeSet<StateId> {
    store.results().unwrap().placements().map(|layer| layer.state).collect()
}

fn objects(store: &Store) -> usize {
    Inventory::read(store).unwrap().objects.len()
}

/// Puts so many objects into a store that nothing names, that they take several batches.
fn litter(store: &Store) {
    for n in 0..200u8 {
        let path = store.objects().path(ObjectId(Digest::of(&[n])));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, [n]).unwrap();
    }
}

#[test]
fn without_rules_only_garbage_goes() {
    let (_directory, store, states) = chain(2);
    let work = Work::new(&store).unwrap();
    let garbage = store.objects().put(work.lease(), work.path(), b"garbage", Readers::All).unwrap();
    drop(work);
    let before = preview(&store, &Retention::default(), later()).unwrap();
    assert_eq!((before.objects, before.bytes, before.dropped.len()), (1, 7, 0));
    assert!(store.objects().has(garbage), "a preview changes nothing");
    let done = collect(&store, &Retention::default(), later()).unwrap();
    assert_eq!((done.objects, done.bytes, done.dropped.len()), (1, 7, 0));
    assert!(!store.objects().has(garbage));
    assert_eq!(left(&store), states.into_iter().collect());
    assert_whole(&store);
}

#[test]
fn a_preview_says_what_is_then_done() {
    let (_directory, store, _) = chain(4);
    let before = preview(&store, &NOTHING, later()).unwrap();
    let done = collect(&store, &NOTHING, later()).unwrap();
    assert_eq!(before.dropped, done.dropped);
    assert_eq!((before.objects, before.bytes), (done.objects, done.bytes));
    assert_eq!((before.stays, before.unmet), (done.stays, done.unmet));
    assert_eq!((left(&store).len(), objects(&store)), (0, 0));
}

#[test]
fn pins_outputs_and_last_builds_keep_their_chains() {
    let (directory, store, states) = chain(4);
    let work = Work::new(&store).unwrap();
    let pinned = layer(&store, &work, 21, Some(states[0]));
    let built = layer(&store, &work, 23, Some(states[1]));
    let older = layer(&store, &work, 25, Some(states[1]));
    let output = layer(&store, &work, 27, None);
    let gone = layer(&store, &work, 29, None);
    drop(work);
    let name: PinName = "release".parse().unwrap();
    let pin = |state| Pin { state, what: "web/seal".to_owned(), at: 7 };
    store.pin(&name, &pin(pinned)).unwrap();
    let image: ImageName = "web".parse().unwrap();
    for (at, state) in [(1, older), (2, built)] {
        store.refs().note_build(&image, Built { at, state, sealed: true }).unwrap();
    }
    let path = directory.path().join("web.qcow2");
    std::fs::write(&path, "output").unwrap();
    let stamp = Stamp::of(&path).unwrap();
    let record = |path: &Path, state| OutputRecord {
        path: path.to_owned(),
        seal: key(27),
        state,
        format: "raw".to_owned(),
        stamp,
        signers: BTreeSet::new(),
    };
    store.refs().set_output(&record(&path, output)).unwrap();
    store.refs().set_output(&record(&directory.path().join("gone.raw"), gone)).unwrap();

    let policy = Retention { keep_builds: 1, ..NOTHING };
    let done = collect(&store, &policy, later()).unwrap();
    assert_eq!(left(&store), BTreeSet::from([states[0], states[1], pinned, built, output]));
    assert_eq!((done.unmet, done.swept.outputs), (vec![Rule::Size], 1));
    assert_whole(&store);
    // Two builds are kept where that is wanted; an output that is another file now keeps nothing.
    std::fs::write(&path, "another").unwrap();
    collect(&store, &policy, later()).unwrap();
    assert_eq!(left(&store), BTreeSet::from([states[0], states[1], pinned, built]));
    store.refs().remove_pin(&name).unwrap();
    collect(&store, &NOTHING, later()).unwrap();
    assert_eq!(left(&store), BTreeSet::new());
    let gone = store.pin(&name, &pin(pinned));
    assert!(matches!(gone, Err(StoreError::Pin(PinError::NoState { .. }))), "{gone:?}");
}

#[test]
fn a_damaged_pin_keeps_everything() {
    let (_directory, store, states) = chain(2);
    let name: PinName = "release".parse().unwrap();
    store.pin(&name, &Pin { state: states[1], what: String::new(), at: 7 }).unwrap();
    std::fs::write(store.root().join("refs/pins/release"), "{").unwrap();
    let refused = collect(&store, &NOTHING, later());
    assert!(matches!(refused, Err(StoreError::Pin(PinError::Damaged { .. }))), "{refused:?}");
    assert_eq!(left(&store).len(), 2);
}

#[test]
fn a_lease_keeps_what_a_build_relies_on() {
    let (_directory, store, states) = chain(3);
    let work = Work::new(&store).unwrap();
    work.lease().hold([Held::State(states[1])]).unwrap();
    let object = store.objects().put(work.lease(), work.path(), b"new", Readers::All).unwrap();
    collect(&store, &NOTHING, later()).unwrap();
    assert_eq!(left(&store), states[..2].iter().copied().collect());
    assert!(store.objects().has(object));
    drop(work);
    collect(&store, &NOTHING, later()).unwrap();
    assert_eq!(objects(&store), 0);
}

/// A build does one thing at one point of a collection: whatever it relies on afterwards is there.
#[test]
fn builds_go_on_at_every_point_of_a_collection() {
    type Act = fn(&Store, &Work, &[StateId]) -> Option<StateId>;
    let relies: Act = |store, work, states| {
        work.lease().hold([Held::State(states[2])]).unwrap();
        store.chain(&store.results().unwrap(), states[2], None).ok().map(|_| states[2])
    };
    let goes_on: Act = |store, work, states| {
        work.lease().hold([Held::State(states[0])]).unwrap();
        store.chain(&store.results().unwrap(), states[0], None).ok()?;
        Some(layer(store, work, 31, Some(states[0])))
    };
    // Its base's objects are those of an old one: found whole, and not written.
    let starts_anew: Act = |store, work, _| Some(layer(store, work, 1, None));
    let pins: Act = |store, _, states| {
        let pin = Pin { state: states[1], what: String::new(), at: 7 };
        store.pin(&"p".parse().unwrap(), &pin).ok().map(|()| states[1])
    };
    for (act, outlives) in [(relies, false), (goes_on, false), (starts_anew, false), (pins, true)] {
        for ends in [false, true] {
            for point in 0..8 {
                let (_directory, store, states) = chain(3);
                litter(&store);
                let mut work = Some(Work::new(&store).unwrap());
                let (mut passed, mut relied) = (0, None);
                collect_with(&store, &NOTHING, later(), &mut |_| {
                    if passed == point {
                        relied = work.as_ref().and_then(|work| act(&store, work, &states));
                        if ends {
                            work = None;
                        }
                    }
                    passed += 1;
                })
                .unwrap();
                assert!(passed > 5, "{passed}");
                assert_whole(&store);
                // What a build relied on may go once it has ended.
                if let Some(state) = relied.filter(|_| outlives || !ends) {
                    let results = store.results().unwrap();
                    let chain = store.chain(&results, state, None);
                    assert!(chain.is_ok(), "point {point}, ends {ends}: {chain:?}");
                }
                drop(work);
                store.refs().remove_pin(&"p".parse().unwrap()).ok();
                collect(&store, &NOTHING, later()).unwrap();
                assert_eq!(objects(&store), 0, "nothing leaks");
            }
        }
    }
}

#[test]
fn a_base_that_is_made_anew_brings_nothing_back_that_was_collected() {
    let (_directory, store, states) = chain(2);
    store.drop_state(states[0]).unwrap();
    let done = collect(&store, &Retention::default(), later()).unwrap();
    assert_eq!(done.dropped[0].rule, Rule::Broken);
    let work = Work::new(&store).unwrap();
    assert_eq!(layer(&store, &work, 1, None), states[0]);
    assert_eq!(left(&store), BTreeSet::from([states[0]]));
    assert_whole(&store);
}

#[test]
fn unused_bases_go_by_novas_rules() {
    let (_directory, store) = store();
    let work = Work::new(&store).unwrap();
    let original = layer(&store, &work, 1, None);
    let resized = layer(&store, &work, 2, Some(original));
    let step = layer(&store, &work, 3, Some(resized));
    drop(work);
    let period = |hours: u64| Some(Duration::from_secs(hours * 3600));
    let policy = Retention {
        unused_original: period(24),
        unused_resized: period(1),
        ..Retention::default()
    };
    assert_eq!(collect(&store, &policy, later()).unwrap().dropped, [], "a step stands on them");
    let policy_of_age = Retention { age: period(1), ..Retention::default() };
    store.pin(&"p".parse().unwrap(), &Pin { state: resized, what: String::new(), at: 7 }).unwrap();
    collect(&store, &policy_of_age, later()).unwrap();
    assert!(!left(&store).contains(&step));
    store.refs().remove_pin(&"p".parse().unwrap()).unwrap();
    let hours = |hours: u64| now() + hours * 3600 + 60;
    let dropped = |now| -> Vec<_> {
        let done = collect(&store, &policy, now).unwrap();
        done.dropped.iter().map(|dropped| (dropped.state, dropped.rule)).collect()
    };
    assert_eq!(dropped(hours(0)), []);
    assert_eq!(dropped(hours(1)), [(resized, Rule::UnusedResized)]);
    assert_eq!(dropped(hours(23)), []);
    assert_eq!(dropped(hours(24)), [(original, Rule::UnusedOriginal)]);
}

#[test]
fn a_layer_on_a_remote_is_whole_without_its_data() {
    let (_directory, store) = store();
    let work = Work::new(&store).unwrap();
    let (mut placement, result) = samples::objects(&store, &work, 1, None).unwrap();
    let pack = store.objects().put(work.lease(), work.path(), b"pack", Readers::All).unwrap();
    placement.pack = Some(pack);
    store.record(Some(&placement), &result).unwrap();
    store.objects().remove(placement.data.unwrap()).unwrap();
    drop(work);
    let partial = |state: StateId, ending: &str| store.partial().join(format!("{state}{ending}"));
    let foreign = StateId(Digest::of(b"foreign"));
    for path in
        [partial(placement.state, ""), partial(placement.state, ".map"), partial(foreign, "")]
    {
        std::fs::write(path, vec![1; 10_000]).unwrap();
    }
    let done = collect(&store, &Retention::default(), later()).unwrap();
    assert_eq!((done.objects, done.swept.partial), (0, 1));
    assert!(!partial(foreign, "").exists() && partial(placement.state, ".map").exists());
    assert!(store.objects().has(pack));
    let results = store.results().unwrap();
    assert!(store.chain(&results, placement.state, None).is_ok());
    // What was fetched counts as the layer's.
    assert!(done.stays > 20_000);
    // Once the data is whole, the part is not needed.
    let work = Work::new(&store).unwrap();
    samples::objects(&store, &work, 1, None).unwrap();
    drop(work);
    assert_eq!(collect(&store, &Retention::default(), later()).unwrap().swept.partial, 2);
    collect(&store, &NOTHING, later()).unwrap();
    assert_eq!(objects(&store), 0);
}

#[test]
fn what_belongs_to_nothing_is_swept_once_it_is_old() {
    let (_directory, store, _) = chain(1);
    let downloads = crate::store::work::downloads(&store);
    std::fs::create_dir(&downloads).unwrap();
    let (known, unknown) = (store.log(key(1)), store.log(key(99)));
    let (part, tag) = (downloads.join("sum.part"), downloads.join("sum.tag"));
    let held = downloads.join("held.part");
    for path in [&known, &unknown, &part, &tag, &held] {
        std::fs::write(path, "text").unwrap();
    }
    let action = store.work().join("actions");
    drop(crate::store::work::ActionLock::try_take(&store, key(1)).unwrap());
    let working = crate::store::work::ActionLock::try_take(&store, key(2)).unwrap();
    let goes_on = lock::exclusive(&held, crate::store::site::Access::Owner).unwrap();
    let young = collect(&store, &Retention::default(), now()).unwrap().swept;
    assert_eq!((young.logs, young.downloads, young.locks), (0, 0, 1));
    assert!(action.join(key(2).to_string()).exists());
    let old = collect(&store, &Retention::default(), later()).unwrap().swept;
    assert_eq!((old.logs, old.downloads, old.locks), (1, 1, 0));
    assert!(known.exists() && held.exists() && !unknown.exists() && !part.exists());
    assert!(working.is_some());
    drop((goes_on, working));
    collect(&store, &Retention::default(), later()).unwrap();
    assert!(!tag.exists() && !held.exists());
    assert_eq!(std::fs::read_dir(action).unwrap().count(), 0);
}

#[test]
fn a_collection_notes_when_it_was_done() {
    let (_directory, store, _) = chain(1);
    File::create(store.work().join("gc")).unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert!(is_due(&store, Duration::from_hours(1)));
    collect(&store, &Retention::default(), later()).unwrap();
    assert!(!is_due(&store, Duration::from_hours(1)));
}

/// A file system of a few MiB that this process alone sees.
#[test]
fn it_works_on_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    // Only this thread gets the mount, and it goes with it.
    let thread = std::thread::spawn(move || {
        crate::sys::unshare_mounts().unwrap();
        let flags = rustix::mount::MountPropagationFlags::PRIVATE
            | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", flags).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("kiln-test", &root, "tmpfs", flags, c"size=4m").unwrap();
        let store = Store::open(&root.join("store")).unwrap();
        let work = Work::new(&store).unwrap();
        let states: Vec<_> = (0..20).map(|n| layer(&store, &work, 1 + 2 * n, None)).collect();
        drop(work);
        // Full to the last page, and then the journal's last one.
        let mut filler = File::create(root.join("filler")).unwrap();
        while io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
        let mut drops = (0..100).map(|_| store.drop_state(states[0]));
        assert!(drops.any(|dropped| dropped.is_err()), "the disk is full");
        let done = collect(&store, &NOTHING, later()).unwrap();
        assert!(done.dropped.len() >= 19 && done.objects >= 57, "{done:?}");
        assert_eq!(objects(&store), 0);
        assert!(store.root().join("reserve").metadata().unwrap().len() >= 1 << 20);
        assert_whole(&store);
    });
    thread.join().unwrap();
}
