//! Every kind of damage, found and repaired; and good copies that stay.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::store::objects::Readers;
use crate::store::samples::{assert_whole, key, layer};
use crate::store::work::Work;

/// A base, and a layer on it.
fn store() -> (tempfile::TempDir, Store, [Placement; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let work = Work::new(&store).unwrap();
    let base = layer(&store, &work, 1, None);
    let step = layer(&store, &work, 3, Some(base));
    let results = store.results().unwrap();
    let layers = [base, step].map(|state| results.placement(state).unwrap().clone());
    (directory, store, layers)
}

fn look(store: &Store) -> Verified {
    verify(store, &|_| {}).unwrap()
}

fn flaws(verified: &Verified) -> Vec<(StateId, ObjectId, Flaw, bool)> {
    verified.damage.iter().map(|d| (d.state, d.object, d.flaw, d.layer)).collect()
}

fn damage(store: &Store, id: ObjectId, change: impl FnOnce(&mut Vec<u8>)) {
    let path = store.objects().path(id);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_store_is_good_and_all_of_it_was_read() {
    let (_directory, store, _) = store();
    let read = AtomicU64::new(0);
    let note = |bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
    };
    let verified = verify(&store, &note).unwrap();
    assert!(verified.is_good());
    assert_eq!((verified.layers, verified.bytes), (2, 2 * BLOCK_LEN as u64));
    assert_eq!(read.into_inner(), bytes(&store).unwrap());
    assert_eq!(repair(&store, &verified, 7).unwrap(), Repaired::default());
}

#[test]
fn each_damage_of_a_layer_is_found_and_goes_with_its_state() {
    type Harm = fn(&mut Vec<u8>);
    let flip: Harm = |bytes| bytes[100] ^= 1;
    let cut: Harm = |bytes| bytes.truncate(bytes.len() - 1);
    let longer: Harm = |bytes| bytes.push(0);
    for upper in [false, true] {
        for data in [false, true] {
            for harm in [Some(flip), Some(cut), Some(longer), None] {
                let (_directory, store, layers) = store();
                let hit = &layers[usize::from(upper)];
                let object = if data { hit.data.unwrap() } else { hit.index };
                let flaw = if let Some(harm) = harm {
                    damage(&store, object, harm);
                    Flaw::Bytes
                } else {
                    store.objects().remove(object).unwrap();
                    Flaw::Missing
                };
                let found = look(&store);
                assert_eq!(flaws(&found), [(hit.state, object, flaw, true)]);
                let repaired = repair(&store, &found, 7).unwrap();
                assert_eq!(repaired.dropped, BTreeSet::from([hit.state]));
                assert_eq!(repaired.removed, usize::from(flaw == Flaw::Bytes));
                assert!(look(&store).is_good());
                assert_whole(&store);
                // What is good is there still, and comes back with what it stands on.
                let work = Work::new(&store).unwrap();
                let base = layer(&store, &work, 1, None);
                layer(&store, &work, 3, Some(base));
                assert!(look(&store).is_good());
                assert_eq!(look(&store).layers, 2);
            }
        }
    }
}

#[test]
fn a_placement_that_names_other_objects_removes_none_of_them() {
    let (_directory, store, [base, step]) = store();
    let mixed = Placement { data: base.data, ..step.clone() };
    let result = store.results().unwrap().of_action(key(3))[0].clone();
    store.record(Some(&mixed), &result).unwrap();
    let found = look(&store);
    assert_eq!(flaws(&found), [(step.state, base.data.unwrap(), Flaw::Blocks, true)]);
    assert_eq!(repair(&store, &found, 7).unwrap().removed, 0);
    assert!(store.objects().is_whole(base.data.unwrap()));
    assert_eq!(look(&store).layers, 1);

    let swapped = Placement { index: base.index, ..step.clone() };
    store.record(Some(&swapped), &result).unwrap();
    let found = look(&store);
    assert_eq!(flaws(&found), [(step.state, base.index, Flaw::Index, true)]);
    repair(&store, &found, 7).unwrap();
    assert!(look(&store).is_good());
    assert!(store.objects().is_whole(base.index));
}

#[test]
fn a_damaged_report_costs_its_result_and_no_layer() {
    let (_directory, store, [base, step]) = store();
    let manifest = store.results().unwrap().of_action(key(1))[0].manifest;
    damage(&store, manifest, |bytes| bytes.truncate(1));
    let found = look(&store);
    assert_eq!(flaws(&found), [(base.state, manifest, Flaw::Bytes, false)]);
    let repaired = repair(&store, &found, 7).unwrap();
    assert_eq!((repaired.forgotten, repaired.removed, repaired.dropped.len()), (1, 1, 0));
    let results = store.results().unwrap();
    assert!(results.of_action(key(1)).is_empty());
    assert_eq!(results.of_action(key(3))[0].state, step.state);
    assert!(look(&store).is_good());
}

#[test]
fn what_was_made_good_meanwhile_stays() {
    let (_directory, store, [base, _]) = store();
    let data = base.data.unwrap();
    damage(&store, data, |bytes| bytes[0] ^= 1);
    let found = look(&store);
    damage(&store, data, |bytes| bytes[0] ^= 1);
    assert_eq!(repair(&store, &found, 7).unwrap(), Repaired::default());
    assert!(look(&store).is_good());
}

#[test]
fn a_layer_on_a_remote_is_no_damage_but_its_pack_must_be_whole() {
    let (_directory, store, [base, _]) = store();
    let work = Work::new(&store).unwrap();
    let pack = store.objects().put(work.lease(), work.path(), b"pack", Readers::All).unwrap();
    let result = store.results().unwrap().of_action(key(1))[0].clone();
    store.record(Some(&Placement { pack: Some(pack), ..base.clone() }), &result).unwrap();
    store.objects().remove(base.data.unwrap()).unwrap();
    let found = look(&store);
    assert!(found.is_good(), "{found:?}");
    assert_eq!(found.remote, 1);
    damage(&store, pack, |bytes| bytes.push(1));
    assert_eq!(flaws(&look(&store)), [(base.state, pack, Flaw::Bytes, true)]);
}

#[test]
fn a_journal_that_is_none_is_moved_away_and_one_with_faults_is_rewritten() {
    let (_directory, store, layers) = store();
    let journal = store.root().join("results");
    let whole = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, [&whole[..], b"half"].concat()).unwrap();
    let found = look(&store);
    assert_eq!(found.journal, Some(Faults { records: 0, end: 4 }));
    repair(&store, &found, 7).unwrap();
    let found = look(&store);
    assert!(found.is_good() && found.layers == layers.len());

    std::fs::write(&journal, "something else").unwrap();
    let found = look(&store);
    assert_eq!((found.journal, found.is_good()), (None, false));
    let aside = repair(&store, &found, 7).unwrap().journal.unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), b"something else");
    let found = look(&store);
    assert!(found.is_good() && found.layers == 0);
}

#[test]
fn a_pin_without_its_state_is_told() {
    let (_directory, store, [base, _]) = store();
    let pin = crate::store::refs::Pin { state: base.state, what: String::new(), at: 7 };
    store.pin(&"p".parse().unwrap(), &pin).unwrap();
    assert!(empty_pins(&store).unwrap().is_empty());
    store.drop_state(base.state).unwrap();
    assert_eq!(empty_pins(&store).unwrap(), ["p"]);
}
