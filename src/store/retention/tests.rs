//! The rules on a few states, and on random ones.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::digest::{ActionKey, Digest};
use crate::store::inventory::Stored;
use crate::store::results::{ActionResult, Record};

const NOW: u64 = 1_000_000;

fn state(n: usize) -> StateId {
    StateId(Digest::of(&n.to_le_bytes()))
}

fn object(text: &str) -> ObjectId {
    ObjectId(Digest::of(text.as_bytes()))
}

/// A store that is not there: states by number, each on an earlier one.
#[derive(Debug, Clone, Default)]
struct Model {
    /// Parent, seconds since the last use, bytes, and whether the data is that of the state before.
    states: Vec<(Option<usize>, u64, u64, bool)>,
    kept: BTreeSet<usize>,
    resized: BTreeSet<usize>,
    held: BTreeSet<usize>,
    available: u64,
    /// Bytes of objects that nothing names.
    stray: u64,
}

impl Model {
    fn on(mut self, parent: Option<usize>, unused: u64, bytes: u64) -> Self {
        self.states.push((parent, unused, bytes, false));
        self
    }

    /// The data object of a state: that of an earlier one where they share it.
    fn data(&self, n: usize) -> ObjectId {
        if self.states[n].3 && n > 0 { self.data(n - 1) } else { object(&format!("data {n}")) }
    }

    fn decide(&self, policy: &Retention) -> Decision {
        let mut records = Vec::new();
        let mut inventory = Inventory::default();
        for (n, &(parent, unused, bytes, _)) in self.states.iter().enumerate() {
            let (index, data) = (object(&format!("index {n}")), self.data(n));
            inventory.objects.insert(index, Stored { bytes: 1, written: NOW - unused });
            inventory.objects.entry(data).or_insert(Stored { bytes, written: 0 });
            records.push(Record::Placement(Placement {
                state: state(n),
                parent: parent.map(state),
                index,
                data: Some(data),
                size: bytes,
                pack: None,
            }));
            // A key of its own for each; all share one manifest, which takes no room here.
            records.push(Record::Result(ActionResult {
                key: ActionKey(Digest::of(&n.to_be_bytes())),
                parent: parent.map(state),
                state: state(n),
                impure: false,
                manifest: object("manifest"),
                report: None,
                took_ms: 1,
                host: Vec::new(),
                sbom: None,
                provenance: None,
                at: 0,
                signer: None,
            }));
        }
        let stray = Stored { bytes: self.stray, written: 0 };
        inventory.objects.insert(object("stray"), stray);
        let kept = self.kept.iter().map(|&n| (state(n), BTreeSet::from([Why::Running])));
        decide(
            &Facts {
                results: &Results::of(records),
                inventory: &inventory,
                kept: &kept.collect(),
                held: &self.held.iter().map(|&n| self.data(n)).collect(),
                used: &HashMap::new(),
                resized: &|id| self.resized.iter().any(|&n| state(n) == id),
                now: NOW,
                available: self.available,
            },
            policy,
        )
    }

    fn number(&self, id: StateId) -> usize {
        (0..self.states.len()).find(|&n| state(n) == id).expect("a state of the model")
    }

    /// When a state was last used: when it, or one on it, was.
    fn unused(&self, n: usize) -> u64 {
        let above = (n + 1..self.states.len()).filter(|&child| self.states[child].0 == Some(n));
        above.map(|child| self.unused(child)).chain([self.states[n].1]).min().unwrap()
    }

    /// Bytes of what states name, and leases.
    fn total(&self, left: &BTreeSet<usize>) -> u64 {
        let named = left.iter().chain(&self.held).map(|&n| self.data(n));
        let bytes = |id: ObjectId| {
            // The first state that has this data says how large it is.
            (0..self.states.len()).find(|&n| self.data(n) == id).map_or(0, |n| self.states[n].2)
        };
        named.collect::<BTreeSet<_>>().into_iter().map(bytes).sum::<u64>() + left.len() as u64
    }
}

fn dropped(model: &Model, policy: &Retention) -> Vec<(usize, Rule)> {
    let dropped = model.decide(policy).dropped;
    dropped.iter().map(|dropped| (model.number(dropped.state), dropped.rule)).collect()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn without_rules_nothing_goes() {
    let model = Model::default().on(None, 900_000, 10).on(Some(0), 900_000, 10);
    assert_eq!(dropped(&model, &Retention::default()), []);
}

#[test]
fn age_counts_from_the_last_use_of_what_stands_on_it() {
    let model = Model::default().on(None, 500, 10).on(Some(0), 500, 10).on(Some(0), 50, 10);
    let policy = Retention { age: Some(seconds(100)), ..Retention::default() };
    assert_eq!(dropped(&model, &policy), [(1, Rule::Age)]);
    let policy = Retention { age: Some(seconds(49)), ..Retention::default() };
    assert_eq!(dropped(&model, &policy).len(), 3);
    let policy = Retention { age: Some(seconds(500)), ..Retention::default() };
    assert_eq!(dropped(&model, &policy), []);
}

#[test]
fn what_is_kept_keeps_what_it_stands_on() {
    let mut model = Model::default().on(None, 500, 10).on(Some(0), 500, 10).on(Some(0), 500, 10);
    model.kept.insert(2);
    let policy = Retention { age: Some(seconds(1)), size: Some(0), ..Retention::default() };
    let decision = model.decide(&policy);
    assert_eq!(dropped(&model, &policy), [(1, Rule::Age)]);
    assert_eq!(decision.unmet, [Rule::Size]);
    assert_eq!(decision.stays, 22);
}

#[test]
fn unused_bases_go_by_rules_of_their_own() {
    // A base, the same resized, and a step; another base; a third that somebody keeps.
    let mut model =
        Model::default().on(None, 200, 10).on(Some(0), 150, 10).on(None, 200, 10).on(None, 200, 10);
    model.resized.insert(1);
    model.kept.insert(3);
    let day = Retention { unused_original: Some(seconds(160)), ..Retention::default() };
    assert_eq!(dropped(&model, &day), [(2, Rule::UnusedOriginal)]);
    let both = Retention { unused_resized: Some(seconds(100)), ..day.clone() };
    // The resized one was used later than the original's rule allows.
    assert_eq!(dropped(&model, &both), [(1, Rule::UnusedResized), (2, Rule::UnusedOriginal)]);
    let short = Retention { unused_original: Some(seconds(140)), ..both };
    assert_eq!(dropped(&model, &short).len(), 3);
    let model = model.on(Some(1), 1, 10);
    assert_eq!(dropped(&model, &short), [(2, Rule::UnusedOriginal)], "a step stands on it");
}

#[test]
fn room_is_made_by_what_was_used_longest_ago() {
    let mut model = Model::default()
        .on(None, 30, 100)
        .on(Some(0), 30, 100)
        .on(Some(0), 20, 100)
        .on(None, 10, 100);
    let size = |size| Retention { size: Some(size), ..Retention::default() };
    assert_eq!(dropped(&model, &size(404)), []);
    assert_eq!(dropped(&model, &size(403)), [(1, Rule::Size)]);
    assert_eq!(dropped(&model, &size(250)), [(1, Rule::Size), (2, Rule::Size)]);
    assert_eq!(dropped(&model, &size(0)).len(), 4);
    // What is free afterwards: 50, what nothing names, and what goes.
    (model.available, model.stray) = (50, 30);
    let free = |free| Retention { free: Some(free), ..Retention::default() };
    assert_eq!(dropped(&model, &free(80)), []);
    assert_eq!(dropped(&model, &free(81)), [(1, Rule::Free)]);
    let decision = model.decide(&free(1000));
    assert_eq!((decision.dropped.len(), decision.unmet), (4, vec![Rule::Free]));
}

#[test]
fn shared_data_gives_room_only_when_nobody_names_it() {
    let mut model = Model::default().on(None, 30, 100).on(None, 20, 100);
    model.states[1].3 = true;
    let policy = Retention { size: Some(50), ..Retention::default() };
    let decision = model.decide(&policy);
    let bytes: Vec<_> = decision.dropped.iter().map(|dropped| dropped.bytes).collect();
    assert_eq!(bytes, [1, 101]);
    model.held.insert(0);
    let decision = model.decide(&policy);
    assert_eq!((decision.stays, decision.unmet), (100, vec![Rule::Size]), "a lease holds it");
}

proptest! {
    #[test]
    fn nothing_kept_is_lost_and_what_goes_has_its_reason(
        raw in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::bool::weighted(0.25), 0..1000u64, 0..50u64,
             prop::bool::weighted(0.2)),
            1..14,
        ),
        kept in prop::collection::btree_set(0..14usize, 0..3),
        resized in prop::collection::btree_set(0..14usize, 0..4),
        held in prop::collection::btree_set(0..14usize, 0..2),
        available in 0..500u64,
        size in prop::option::of(0..600u64),
        free in prop::option::of(0..900u64),
        age in prop::option::of(0..1000u64),
        original in prop::option::of(0..1000u64),
        larger in prop::option::of(0..1000u64),
    ) {
        let mut model = Model { available, ..Model::default() };
        for (at, (parent, base, unused, bytes, shares)) in raw.into_iter().enumerate() {
            let parent = (!base && at > 0).then(|| parent.index(at));
            model.states.push((parent, unused, bytes, shares));
        }
        let count = model.states.len();
        let within = |set: BTreeSet<usize>| set.into_iter().filter(|&n| n < count).collect();
        (model.kept, model.resized, model.held) = (within(kept), within(resized), within(held));
        let policy = Retention {
            size,
            free,
            age: age.map(Duration::from_secs),
            keep_builds: 1,
            unused_original: original.map(Duration::from_secs),
            unused_resized: larger.map(Duration::from_secs),
        };
        let decision = model.decide(&policy);
        let all: BTreeSet<usize> = (0..count).collect();
        let everything = model.total(&all);
        let mut left = all;
        for Dropped { state, rule, used, bytes } in &decision.dropped {
            let n = model.number(*state);
            let before = model.total(&left);
            prop_assert!(left.remove(&n), "{n} goes once");
            prop_assert!(left.iter().all(|&other| model.states[other].0 != Some(n)), "{n} has children");
            prop_assert_eq!(before - model.total(&left), *bytes);
            let unused = model.unused(n);
            prop_assert_eq!(NOW - used, unused);
            let room = model.available + everything - before;
            match rule {
                Rule::Age => prop_assert!(unused > age.unwrap()),
                Rule::UnusedOriginal => {
                    prop_assert!(model.states[n].0.is_none() && unused > original.unwrap());
                }
                Rule::UnusedResized => {
                    prop_assert!(model.resized.contains(&n) && unused > larger.unwrap());
                }
                Rule::Size => prop_assert!(before > size.unwrap()),
                Rule::Free => prop_assert!(room < free.unwrap()),
                Rule::Broken => prop_assert!(false, "nothing is broken"),
            }
        }
        let mut must = BTreeSet::new();
        for &root in &model.kept {
            let chain = std::iter::successors(Some(root), |&n| model.states[n].0);
            must.extend(chain);
        }
        prop_assert!(must.is_subset(&left), "{must:?} in {left:?}");
        prop_assert_eq!(decision.stays, model.total(&left));
        // What stays past its age is kept, or stands under something that is.
        let free_to_go = |n: &usize| {
            !must.contains(n) && left.iter().all(|&other| model.states[other].0 != Some(*n))
        };
        for n in left.iter().filter(|n| free_to_go(n)) {
            prop_assert!(age.is_none_or(|age| model.unused(*n) <= age));
        }
        if size.is_some_and(|size| model.total(&left) > size) {
            prop_assert_eq!(decision.unmet, [Rule::Size]);
            prop_assert_eq!(left, must);
        }
    }
}
