//! Cycles: which members they have, and how they are drawn.
//!
//! Works on numbers; what the members are is known to the callers.

use std::collections::VecDeque;

use petgraph::graph::{DiGraph, NodeIndex};

use crate::mistake::Mistake;
use crate::source::Span;

/// Things that wait for each other.
#[derive(Debug)]
pub(super) struct Cycle {
    /// A shortest way from the first written member back to itself.
    pub(super) ring: Vec<usize>,
    /// Members beside the ring, which wait for it and are waited for by it.
    pub(super) others: Vec<usize>,
}

/// All cycles among `count` things, by the first written member. An edge is (who waits, for whom);
/// nobody may wait for itself alone unless that is meant to be found too.
pub(super) fn find(count: usize, edges: &[(usize, usize)]) -> Vec<Cycle> {
    let mut graph = DiGraph::<(), (), usize>::default();
    for _ in 0..count {
        graph.add_node(());
    }
    for &(from, to) in edges {
        graph.add_edge(NodeIndex::new(from), NodeIndex::new(to), ());
    }
    let mut cycles: Vec<Cycle> = petgraph::algo::tarjan_scc(&graph)
        .into_iter()
        .filter_map(|members| {
            let mut members: Vec<usize> = members.into_iter().map(NodeIndex::index).collect();
            members.sort_unstable();
            let ring = ring(&graph, &members)?;
            let others = members.into_iter().filter(|member| !ring.contains(member)).collect();
            Some(Cycle { ring, others })
        })
        .collect();
    cycles.sort_by_key(|cycle| cycle.ring.first().copied());
    cycles
}

/// A shortest way from the first member back to itself, through members only.
fn ring(graph: &DiGraph<(), (), usize>, members: &[usize]) -> Option<Vec<usize>> {
    let first = *members.first()?;
    let mut came_from = vec![None; graph.node_count()];
    let mut queue = VecDeque::from([first]);
    while let Some(at) = queue.pop_front() {
        let mut next: Vec<usize> =
            graph.neighbors(NodeIndex::new(at)).map(NodeIndex::index).collect();
        next.sort_unstable();
        for to in next {
            if to == first {
                let mut ring = vec![at];
                while let Some(before) = ring.last().and_then(|&last| came_from[last]) {
                    ring.push(before);
                }
                ring.reverse();
                return Some(ring);
            }
            if came_from[to].is_none() && members.binary_search(&to).is_ok() {
                came_from[to] = Some(at);
                queue.push_back(to);
            }
        }
    }
    None
}

/// A mistake that shows the whole ring; `spans` are where each name says for whom it waits.
pub(super) fn draw(
    code: &'static str,
    what: &str,
    names: &[&str],
    spans: &[Span],
    verb: &str,
) -> Mistake {
    let closed = names.iter().chain(names.first());
    let arrows: Vec<_> = closed.map(|name| format!("`{name}`")).collect();
    let mut mistake = Mistake {
        code,
        message: format!("{what}: {}", arrows.join(" → ")),
        labels: Vec::new(),
        help: None,
        severity: crate::mistake::Severity::Error,
    };
    for (place, (name, span)) in names.iter().zip(spans).enumerate() {
        let next = names[(place + 1) % names.len()];
        mistake = mistake.and(*span, format!("`{name}` {verb} `{next}`"));
    }
    mistake
}
