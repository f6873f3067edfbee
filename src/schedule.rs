//! The order of running: nodes become lanes, and lanes wait for each other.
//!
//! A lane is a path through the nodes that run: one working disk goes along it. Where two nodes
//! stand on one, the first goes on with the disk and the others open the stored state. Pure; it
//! knows neither disks nor actions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A node that has to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The node.
    pub node: usize,
    /// The node that it stands on, if that runs too.
    pub parent: Option<usize>,
    /// Whether nothing can stand on it: a seal.
    pub last: bool,
}

/// A path through the nodes that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The node of another lane that must be done first.
    pub after: Option<usize>,
    /// Its nodes in order; at least one.
    pub nodes: Vec<usize>,
}

/// Cuts nodes into lanes. Items are given parents first.
#[must_use]
pub fn lanes(items: &[Item]) -> Vec<Lane> {
    let mut children: BTreeMap<Option<usize>, Vec<Item>> = BTreeMap::new();
    for &item in items {
        children.entry(item.parent).or_default().push(item);
    }
    for siblings in children.values_mut() {
        // A seal ends its disk, so a step goes on with it if there is one.
        siblings.sort_by_key(|item| (item.last, item.node));
    }
    let mut starts: VecDeque<(Option<usize>, usize)> =
        children.remove(&None).into_iter().flatten().map(|item| (None, item.node)).collect();
    let mut lanes = Vec::new();
    while let Some((after, start)) = starts.pop_front() {
        let mut nodes = vec![start];
        let mut at = start;
        while let Some(next) = children.remove(&Some(at)) {
            starts.extend(next[1..].iter().map(|item| (Some(at), item.node)));
            at = next[0].node;
            nodes.push(at);
        }
        lanes.push(Lane { after, nodes });
    }
    lanes
}

/// What has run, what runs and what can run.
#[derive(Debug)]
pub struct Schedule {
    waiting: BTreeMap<usize, Vec<usize>>,
    ready: VecDeque<usize>,
    running: BTreeSet<usize>,
    lanes: Vec<Lane>,
}

impl Schedule {
    /// Starts with every lane that waits for nothing.
    #[must_use]
    pub fn new(lanes: Vec<Lane>) -> Self {
        let mut schedule = Self {
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            running: BTreeSet::new(),
            lanes,
        };
        for (number, lane) in schedule.lanes.iter().enumerate() {
            match lane.after {
                None => schedule.ready.push_back(number),
                Some(node) => schedule.waiting.entry(node).or_default().push(number),
            }
        }
        schedule
    }

    /// A lane that can run now; it counts as running from then on.
    pub fn next_ready(&mut self) -> Option<usize> {
        let lane = self.ready.pop_front()?;
        self.running.insert(lane);
        Some(lane)
    }

    /// The nodes of a lane.
    #[must_use]
    pub fn nodes(&self, lane: usize) -> &[usize] {
        &self.lanes[lane].nodes
    }

    /// A node is done: lanes that waited for it can run.
    pub fn node_done(&mut self, node: usize) {
        self.ready.extend(self.waiting.remove(&node).into_iter().flatten());
    }

    /// A lane has come to its end, with or without success.
    pub fn lane_done(&mut self, lane: usize) {
        self.running.remove(&lane);
    }

    /// Lets nothing start that has not started.
    pub fn stop(&mut self) {
        self.ready.clear();
        self.waiting.clear();
    }

    /// How many lanes run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A random forest: each node stands on an earlier one that is no seal, or on nothing.
    fn forest() -> impl Strategy<Value = Vec<Item>> {
        proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0..4u8), 1..40)
            .prop_map(|raw| {
                let mut items: Vec<Item> = Vec::new();
                for (node, (index, last, root)) in raw.into_iter().enumerate() {
                    let open: Vec<_> = items.iter().filter(|item| !item.last).collect();
                    let parent =
                        (root > 0 && !open.is_empty()).then(|| open[index.index(open.len())].node);
                    items.push(Item { node, parent, last });
                }
                items
            })
    }

    proptest! {
        #[test]
        fn every_node_runs_once_and_behind_its_parent(items in forest(), order: u64) {
            let lanes = lanes(&items);
            let parent = |node: usize| items[node].parent;
            for lane in &lanes {
                prop_assert_eq!(parent(lane.nodes[0]), lane.after);
                for pair in lane.nodes.windows(2) {
                    prop_assert_eq!(parent(pair[1]), Some(pair[0]));
                    // The relabel is the last writer of its disk: nothing follows a seal.
                    prop_assert!(!items[pair[0]].last);
                }
            }
            let mut schedule = Schedule::new(lanes);
            let mut done = Vec::new();
            let mut running: Vec<(usize, usize)> = Vec::new();
            let mut seed = order;
            loop {
                while let Some(lane) = schedule.next_ready() {
                    running.push((lane, 0));
                }
                if running.is_empty() {
                    break;
                }
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pick = (seed >> 33) as usize % running.len();
                let (lane, at) = running[pick];
                let node = schedule.nodes(lane)[at];
                prop_assert!(parent(node).is_none_or(|parent| done.contains(&parent)));
                prop_assert!(!done.contains(&node));
                done.push(node);
                schedule.node_done(node);
                if at + 1 < schedule.nodes(lane).len() {
                    running[pick].1 += 1;
                } else {
                    schedule.lane_done(lane);
                    running.swap_remove(pick);
                }
            }
            prop_assert_eq!(done.len(), items.len());
            prop_assert_eq!(schedule.running(), 0);
        }

        #[test]
        fn lanes_are_the_same_every_time(items in forest()) {
            prop_assert_eq!(lanes(&items), lanes(&items));
        }
    }

    #[test]
    fn what_waits_for_a_failed_node_never_starts() {
        let items = [
            Item { node: 0, parent: None, last: false },
            Item { node: 1, parent: Some(0), last: false },
            Item { node: 2, parent: Some(0), last: true },
        ];
        let mut schedule = Schedule::new(lanes(&items));
        let lane = schedule.next_ready().unwrap();
        assert_eq!(schedule.nodes(lane), [0, 1]);
        schedule.lane_done(lane);
        assert_eq!(schedule.next_ready(), None);
        assert_eq!(schedule.running(), 0);
    }
}
