//! Which states go, by which rule: a function of what is known, which touches nothing.
//!
//! What goes is decided state by state. A state that another one stands on stays with it, using it
//! is using all that it stands on, and one that must be kept keeps these too. Among the rest, the
//! rules of age go first; then, for the rules of room, what was used longest ago.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::fmt;

use super::inventory::Inventory;
use super::results::{Placement, Results};
use super::roots::Why;
use crate::digest::{ObjectId, StateId};
use crate::recipe::Retention;

/// Why a state goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Its chain is not complete, so that nothing can use it.
    Broken,
    /// It was not used for longer than `age`.
    Age,
    /// A base that nothing stands on was not used for longer than is set.
    UnusedOriginal,
    /// The same for a base that was made larger.
    UnusedResized,
    /// All objects together were larger than `size`.
    Size,
    /// Less than `free` was free.
    Free,
}

impl Rule {
    /// Its word in settings and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Age => "age",
            Self::UnusedOriginal => "unused-original",
            Self::UnusedResized => "unused-resized",
            Self::Size => "size",
            Self::Free => "free",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "its chain is not complete",
            Self::Age => "not used for longer than `age`",
            Self::UnusedOriginal => "a base that nothing stands on",
            Self::UnusedResized => "a resized base that nothing stands on",
            Self::Size => "the store is larger than `size`",
            Self::Free => "less than `free` is free",
        })
    }
}

/// A state that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// The state.
    pub state: StateId,
    /// Why.
    pub rule: Rule,
    /// When it was last used, in seconds since 1970 in UTC.
    pub used: u64,
    /// Bytes of objects that nothing names any more without it.
    pub bytes: u64,
}

/// What is known.
pub(super) struct Facts<'a> {
    pub(super) results: &'a Results,
    pub(super) inventory: &'a Inventory,
    /// What must be kept.
    pub(super) kept: &'a BTreeMap<StateId, BTreeSet<Why>>,
    /// Objects that stay whatever names them.
    pub(super) held: &'a BTreeSet<ObjectId>,
    /// When builds used states.
    pub(super) used: &'a HashMap<StateId, u64>,
    /// Tells whether a state is a base that was made larger.
    pub(super) resized: &'a dyn Fn(StateId) -> bool,
    /// Seconds since 1970 in UTC.
    pub(super) now: u64,
    /// Bytes that are free on the store's file system.
    pub(super) available: u64,
}

/// What is to go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// The states, children before their parents.
    pub(super) dropped: Vec<Dropped>,
    /// Bytes of objects that stay.
    pub(super) stays: u64,
    /// Rules of room that are broken still, since the rest must be kept.
    pub(super) unmet: Vec<Rule>,
}

struct Node {
    parent: Option<StateId>,
    objects: Vec<ObjectId>,
    used: u64,
    /// States that stand on it and stay.
    children: usize,
    kept: bool,
}

/// The states that are left, and what they take.
struct Census<'a> {
    facts: &'a Facts<'a>,
    nodes: HashMap<StateId, Node>,
    /// How many states, or leases, name an object.
    named: HashMap<ObjectId, usize>,
    /// Bytes of all that is named.
    total: u64,
    dropped: Vec<Dropped>,
}

/// Decides.
pub(super) fn decide(facts: &Facts<'_>, policy: &Retention) -> Decision {
    let order = parents_first(facts.results);
    let mut census = Census::new(facts);
    for &state in order.iter().rev() {
        if let Some(rule) = census.expired(state, policy) {
            census.drop(state, rule);
        }
    }
    let everything: u64 = facts.inventory.objects.values().map(|stored| stored.bytes).sum();
    let everything = everything + facts.inventory.partial.values().sum::<u64>();
    let over = |total: u64| {
        let free = facts.available + everything.saturating_sub(total);
        let size = policy.size.filter(|&size| total > size).map(|_| Rule::Size);
        size.or_else(|| policy.free.filter(|&wanted| free < wanted).map(|_| Rule::Free))
    };
    let leaves = census.nodes.iter().filter(|(_, node)| node.is_free());
    let mut oldest: BinaryHeap<_> =
        leaves.map(|(&state, node)| Reverse((node.used, state))).collect();
    let mut unmet = Vec::new();
    while let Some(rule) = over(census.total) {
        let Some(Reverse((_, state))) = oldest.pop() else {
            unmet.push(rule);
            break;
        };
        let parent = census.drop(state, rule);
        let free = parent.and_then(|parent| Some((parent, census.nodes.get(&parent)?)));
        if let Some((parent, node)) = free.filter(|(_, node)| node.is_free()) {
            oldest.push(Reverse((node.used, parent)));
        }
    }
    Decision { dropped: census.dropped, stays: census.total, unmet }
}

/// All states, each behind the one that it stands on.
fn parents_first(results: &Results) -> Vec<StateId> {
    let depth = |state| (results.ancestry(state).count(), state);
    let mut order: Vec<_> = results.placements().map(|layer| depth(layer.state)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, state)| state).collect()
}

/// When each state was last used, in seconds since 1970: when it was recorded, when a build that was
/// noted used it, or when something that stands on it was used.
pub(super) fn last_uses(
    results: &Results,
    inventory: &Inventory,
    noted: &HashMap<StateId, u64>,
) -> HashMap<StateId, u64> {
    let written = |placement: &Placement| {
        // A layer without a result of its own came when its index did.
        inventory.objects.get(&placement.index).map_or(0, |index| index.written)
    };
    let mut uses: HashMap<StateId, u64> = results
        .placements()
        .map(|placement| {
            let noted = noted.get(&placement.state).copied().unwrap_or_default();
            (placement.state, noted.max(written(placement)))
        })
        .collect();
    for result in results.iter() {
        if let Some(used) = uses.get_mut(&result.state) {
            *used = (*used).max(result.at);
        }
    }
    for state in parents_first(results).into_iter().rev() {
        let parent = results.placement(state).and_then(|placement| placement.parent);
        let used = uses[&state];
        if let Some(below) = parent.and_then(|parent| uses.get_mut(&parent)) {
            *below = (*below).max(used);
        }
    }
    uses
}

impl Node {
    fn is_free(&self) -> bool {
        !self.kept && self.children == 0
    }
}

impl<'a> Census<'a> {
    fn new(facts: &'a Facts<'a>) -> Self {
        let Facts { results, inventory, kept, held, used, .. } = *facts;
        let uses = last_uses(results, inventory, used);
        let mut nodes = HashMap::new();
        for placement in results.placements() {
            let (state, parent) = (placement.state, placement.parent);
            let (objects, used) = (placement.objects().collect(), uses[&state]);
            nodes.insert(state, Node { parent, objects, used, children: 0, kept: false });
        }
        for result in results.iter() {
            if let Some(node) = nodes.get_mut(&result.state) {
                node.objects.extend(result.objects());
            }
        }
        for parent in results.placements().filter_map(|placement| placement.parent) {
            if let Some(node) = nodes.get_mut(&parent) {
                node.children += 1;
            }
        }
        for placement in kept.keys().flat_map(|&state| results.ancestry(state)) {
            if let Some(node) = nodes.get_mut(&placement.state) {
                node.kept = true;
            }
        }
        let mut named: HashMap<ObjectId, usize> = held.iter().map(|&object| (object, 1)).collect();
        for object in nodes.values().flat_map(|node| &node.objects) {
            *named.entry(*object).or_default() += 1;
        }
        let partial: u64 = nodes.keys().filter_map(|state| inventory.partial.get(state)).sum();
        let total = inventory.bytes(named.keys().copied()) + partial;
        Self { facts, nodes, named, total, dropped: Vec::new() }
    }

    /// The rule of age by which a state goes, if it may go and there is one.
    fn expired(&self, state: StateId, policy: &Retention) -> Option<Rule> {
        let node = self.nodes.get(&state).filter(|node| node.is_free())?;
        let unused = self.facts.now.saturating_sub(node.used);
        let past = |limit: Option<std::time::Duration>| {
            limit.is_some_and(|limit| unused > limit.as_secs())
        };
        if past(policy.age) {
            Some(Rule::Age)
        } else if node.parent.is_none() && past(policy.unused_original) {
            Some(Rule::UnusedOriginal)
        } else if past(policy.unused_resized) && (self.facts.resized)(state) {
            Some(Rule::UnusedResized)
        } else {
            None
        }
    }

    /// Lets a state go; gives what it stood on.
    fn drop(&mut self, state: StateId, rule: Rule) -> Option<StateId> {
        let node = self.nodes.remove(&state)?;
        let mut bytes = self.facts.inventory.partial.get(&state).copied().unwrap_or_default();
        for object in node.objects {
            if let Some(count) = self.named.get_mut(&object) {
                *count -= 1;
                if *count == 0 {
                    self.named.remove(&object);
                    bytes += self.facts.inventory.bytes([object]);
                }
            }
        }
        self.total -= bytes;
        self.dropped.push(Dropped { state, rule, used: node.used, bytes });
        if let Some(parent) = node.parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.children -= 1;
        }
        node.parent
    }
}

#[cfg(test)]
mod tests;
