//! Results of actions, and where the layers of states lie, as a [`journal`](super::journal) says it.
//!
//! A result is believed only with the whole chain of its state. What a key or a state means is not
//! known here.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, ObjectId, StateId};

/// What an action came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResult {
    /// The action.
    pub key: ActionKey,
    /// The state that it was run on; `None` for a base.
    pub parent: Option<StateId>,
    /// The state that it led to.
    pub state: StateId,
    /// Whether this action, or one below it, used the network without a lock.
    pub impure: bool,
    /// The preimage of the key.
    pub manifest: ObjectId,
    /// What else the action found out, as JSON: the seal's report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ObjectId>,
    /// The packages of the state, as an SPDX document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<ObjectId>,
    /// How the state came to be, as an in-toto statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<ObjectId>,
    /// When it was recorded here, in seconds since 1970 in UTC.
    #[serde(default)]
    pub at: u64,
    /// The key that signed it, where it came from a remote: the number that minisign prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Versions of the host's programs that took part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<String>,
}

/// Where the layer of a state lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The state.
    pub state: StateId,
    /// The state that the layer stands on.
    pub parent: Option<StateId>,
    /// The object with the encoded index.
    pub index: ObjectId,
    /// The object with the data blocks, unpacked, in ascending order; `None` where there are none.
    pub data: Option<ObjectId>,
    /// Bytes of the data object.
    pub size: u64,
    /// The object that says how the data lies packed on remotes, see [`crate::pack`]: with it, data
    /// that is not in the store can be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<ObjectId>,
}

impl ActionResult {
    /// The objects that it names, apart from its state's layer.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        let others = [self.report, self.sbom, self.provenance];
        std::iter::once(self.manifest).chain(others.into_iter().flatten())
    }
}

impl Placement {
    /// The objects that it names.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        std::iter::once(self.index).chain(self.data).chain(self.pack)
    }
}

/// One record of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// A result.
    Result(ActionResult),
    /// A placement; a later one for the same state replaces it.
    Placement(Placement),
    /// A state whose layer is gone, with all results so far that lead to it.
    Dropped {
        /// The state.
        state: StateId,
    },
    /// A result that is gone, while its state's layer stays.
    Forgotten {
        /// The action.
        key: ActionKey,
        /// The state that it led to.
        state: StateId,
    },
}

/// All that a journal says at one moment.
#[derive(Debug, Default)]
pub struct Results {
    by_action: HashMap<ActionKey, Vec<ActionResult>>,
    placements: HashMap<StateId, Placement>,
    broken: BTreeSet<StateId>,
}

impl Results {
    /// What records come to, one after the other.
    pub(super) fn of(records: impl IntoIterator<Item = Record>) -> Self {
        let mut all = Self::default();
        let mut leading: HashMap<StateId, Vec<ActionKey>> = HashMap::new();
        for record in records {
            match record {
                Record::Result(result) => {
                    leading.entry(result.state).or_default().push(result.key);
                    let twins = all.by_action.entry(result.key).or_default();
                    twins.retain(|twin| twin.state != result.state);
                    twins.push(result);
                }
                Record::Placement(placement) => {
                    all.placements.insert(placement.state, placement);
                }
                Record::Dropped { state } => {
                    all.placements.remove(&state);
                    // They name objects that may be gone: the same layer, made again, is no reason
                    // to believe them again.
                    for key in leading.remove(&state).unwrap_or_default() {
                        all.forget(key, state);
                    }
                }
                Record::Forgotten { key, state } => all.forget(key, state),
            }
        }
        all.drop_broken();
        all
    }

    fn forget(&mut self, key: ActionKey, state: StateId) {
        if let Some(twins) = self.by_action.get_mut(&key) {
            twins.retain(|twin| twin.state != state);
        }
    }

    /// The records that come to the same, in an order that depends on nothing else.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut placements: Vec<_> = self.placements.values().cloned().collect();
        placements.sort_by_key(|placement| placement.state);
        let mut results: Vec<_> = self.by_action.iter().collect();
        results.sort_by_key(|(key, _)| **key);
        let results = results.into_iter().flat_map(|(_, twins)| twins.clone()).map(Record::Result);
        placements.into_iter().map(Record::Placement).chain(results).collect()
    }

    /// Keeps the invariant that a result implies its whole chain.
    fn drop_broken(&mut self) {
        let mut whole: HashSet<StateId> = HashSet::new();
        for &start in self.placements.keys() {
            let mut path = Vec::new();
            let mut next = Some(start);
            let complete = loop {
                match next {
                    None => break true,
                    Some(state) if whole.contains(&state) => break true,
                    // A chain longer than there are states is a ring, which only damage can make.
                    Some(_) if path.len() > self.placements.len() => break false,
                    Some(state) => match self.placements.get(&state) {
                        None => break false,
                        Some(placement) => {
                            path.push(state);
                            next = placement.parent;
                        }
                    },
                }
            };
            if complete {
                whole.extend(path);
            }
        }
        let named = self.by_action.values().flatten().map(|result| result.state);
        let known = self.placements.keys().copied().chain(named);
        self.broken = known.filter(|state| !whole.contains(state)).collect();
        self.placements.retain(|state, _| whole.contains(state));
        for twins in self.by_action.values_mut() {
            twins.retain(|result| whole.contains(&result.state));
        }
        self.by_action.retain(|_, twins| !twins.is_empty());
    }

    /// Takes out the results of signers that do not count, and all that was made on such a state,
    /// whoever made it; tells which. `allows` is asked with each result's signer.
    ///
    /// A state below that no result names came with the one above it, and is under its signature.
    pub fn leave_out(&mut self, allows: impl Fn(Option<&str>) -> bool) -> Vec<ActionResult> {
        let refused = |result: &ActionResult| !allows(result.signer.as_deref());
        let bad: HashSet<StateId> =
            self.iter().filter(|result| refused(result)).map(|result| result.state).collect();
        if bad.is_empty() {
            return Vec::new();
        }
        let stands_on_bad = |state| self.below(state).any(|state| bad.contains(&state));
        let on_bad: HashSet<StateId> =
            self.iter().map(|result| result.state).filter(|&state| stands_on_bad(state)).collect();
        let mut out = Vec::new();
        for twins in self.by_action.values_mut() {
            out.extend(twins.extract_if(.., |twin| refused(twin) || on_bad.contains(&twin.state)));
        }
        self.by_action.retain(|_, twins| !twins.is_empty());
        out
    }

    /// The keys on whose word a state is what an action led to: who signed that, or what is below.
    #[must_use]
    pub fn signers(&self, key: ActionKey, state: StateId) -> BTreeSet<String> {
        let below: HashSet<StateId> = self.below(state).collect();
        let about = |result: &&ActionResult| {
            (result.key, result.state) == (key, state) || below.contains(&result.state)
        };
        self.iter().filter(about).filter_map(|result| result.signer.clone()).collect()
    }

    /// The states that a state stands on, nearest first.
    fn below(&self, state: StateId) -> impl Iterator<Item = StateId> {
        let parent = |state: &StateId| self.placements.get(state).and_then(|placed| placed.parent);
        std::iter::successors(parent(&state), parent)
    }

    /// The results of an action, oldest first.
    #[must_use]
    pub fn of_action(&self, key: ActionKey) -> &[ActionResult] {
        self.by_action.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Where a state's layer lies.
    #[must_use]
    pub fn placement(&self, state: StateId) -> Option<&Placement> {
        self.placements.get(&state)
    }

    /// Where the layers of all states lie, in no order.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.placements.values()
    }

    /// A state and all that it stands on, base last; nothing where it has no layer here.
    pub fn ancestry(&self, state: StateId) -> impl Iterator<Item = &Placement> {
        std::iter::successors(self.placement(state), |above| self.placement(above.parent?))
    }

    /// States that the journal names and whose chain is not complete: they count for nothing.
    #[must_use]
    pub fn broken(&self) -> &BTreeSet<StateId> {
        &self.broken
    }

    /// Every result, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &ActionResult> {
        self.by_action.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn state(n: u8) -> StateId {
        StateId(Digest::of(&[n]))
    }

    fn placement(n: u8, parent: Option<u8>) -> Record {
        Record::Placement(Placement {
            state: state(n),
            parent: parent.map(state),
            index: ObjectId(Digest::of(&[n, 1])),
            data: None,
            size: 0,
            pack: None,
        })
    }

    fn result(key: u8, n: u8) -> Record {
        Record::Result(ActionResult {
            key: ActionKey(Digest::of(&[key])),
            parent: None,
            state: state(n),
            impure: false,
            manifest: ObjectId(Digest::of(b"manifest")),
            report: None,
            took_ms: 1,
            host: Vec::new(),
            sbom: None,
            provenance: None,
            at: 0,
            signer: None,
        })
    }

    fn key(key: u8) -> ActionKey {
        ActionKey(Digest::of(&[key]))
    }

    fn states(results: &Results, n: u8) -> Vec<StateId> {
        results.of_action(key(n)).iter().map(|result| result.state).collect()
    }

    #[test]
    fn twins_both_stay() {
        let results =
            Results::of(vec![placement(1, None), result(7, 1), placement(2, None), result(7, 2)]);
        assert_eq!(states(&results, 7), [state(1), state(2)]);
    }

    #[test]
    fn a_result_implies_its_whole_chain() {
        let results = Results::of(vec![
            placement(1, None),
            placement(2, Some(1)),
            placement(3, Some(2)),
            result(1, 1),
            result(3, 3),
            Record::Dropped { state: state(2) },
        ]);
        assert_eq!(states(&results, 1), [state(1)]);
        assert!(states(&results, 3).is_empty());
    }

    #[test]
    fn a_state_that_was_dropped_comes_back_without_its_old_results() {
        let dropped = Record::Dropped { state: state(1) };
        let records =
            vec![placement(1, None), result(1, 1), result(2, 1), dropped, placement(1, None)];
        let results = Results::of(records.clone());
        assert!(results.iter().next().is_none() && results.placement(state(1)).is_some());
        let results = Results::of(records.into_iter().chain([result(2, 1)]));
        assert_eq!((states(&results, 1), states(&results, 2)), (vec![], vec![state(1)]));
    }

    #[test]
    fn what_stands_on_a_state_of_a_revoked_signer_goes_with_it() {
        let signed = |key, n, signer: &str| match result(key, n) {
            Record::Result(result) => {
                Record::Result(ActionResult { signer: Some(signer.to_owned()), ..result })
            }
            other => other,
        };
        let mut results = Results::of(vec![
            placement(1, None),
            placement(2, Some(1)),
            placement(3, Some(2)),
            placement(4, Some(3)),
            placement(5, Some(1)),
            result(1, 1),
            // State 2 came with state 3, and has no result of its own.
            signed(3, 3, "bad"),
            result(4, 4),
            signed(5, 5, "good"),
            // Somebody else says that another action leads to state 3 as well.
            signed(6, 3, "good"),
            // A twin that was made here.
            result(3, 5),
        ]);
        assert!(results.leave_out(|_| true).is_empty());
        let out = results.leave_out(|signer| signer != Some("bad"));
        let mut out: Vec<_> = out.iter().map(|result| (result.key, result.state)).collect();
        out.sort_unstable();
        let mut expected = [(key(3), state(3)), (key(4), state(4))];
        expected.sort_unstable();
        assert_eq!(out, expected);
        assert_eq!(states(&results, 1), [state(1)]);
        assert_eq!(states(&results, 3), [state(5)]);
        assert_eq!(states(&results, 5), [state(5)]);
        assert_eq!(states(&results, 6), [state(3)]);
        assert!(states(&results, 4).is_empty());
    }

    #[test]
    fn a_result_can_go_while_its_layer_stays() {
        let forgotten = Record::Forgotten { key: key(2), state: state(1) };
        let results =
            Results::of(vec![placement(1, None), result(1, 1), result(2, 1), forgotten.clone()]);
        assert_eq!((states(&results, 1), states(&results, 2)), (vec![state(1)], vec![]));
        let results = Results::of([placement(1, None), result(2, 1), forgotten, result(2, 1)]);
        assert_eq!(states(&results, 2), [state(1)], "it was found again");
    }

    #[test]
    fn what_is_broken_is_told_and_the_rest_comes_to_the_same() {
        let results = Results::of(vec![
            placement(1, None),
            result(1, 1),
            placement(3, Some(2)),
            result(3, 3),
            result(4, 4),
            placement(5, Some(1)),
            result(1, 5),
        ]);
        assert_eq!(results.broken(), &BTreeSet::from([state(3), state(4)]));
        let again = Results::of(results.records());
        assert_eq!(again.records(), results.records());
        assert!(again.broken().is_empty());
        assert_eq!(states(&again, 1), [state(1), state(5)]);
        let chain: Vec<_> = again.ancestry(state(5)).map(|placement| placement.state).collect();
        assert_eq!(chain, [state(5), state(1)]);
        assert_eq!(again.ancestry(state(3)).count(), 0);
    }
}
