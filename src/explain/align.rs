//! Which action of an earlier build each action of a chain corresponds to.
//!
//! Names alone cannot tell: `install#2` becomes `install#3` when a step is put in before it, and a
//! renamed image has other names altogether. So what says the same is paired first, whatever it is
//! called, then what has the same place or name, and of the rest what is most alike.

use std::collections::{BTreeMap, HashMap};

use super::difference::{PARENT, by_name, differences};
use super::{Built, Now};
use crate::digest::{ActionKey, Digest};
use crate::key::{Manifest, Value};

/// The values that every action has, whatever it does.
const COMMON: [&str; 9] = [
    PARENT,
    "schema",
    "executor",
    "executor.epoch",
    "architecture",
    "network",
    "generation",
    "generation.bucket",
    "operation.epoch",
];
/// Steps that are less alike than this, in percent, do not correspond by likeness alone.
const ALIKE: u64 = 40;
/// How many pairs are compared value by value, at most.
const MAX_PAIRS: usize = 250_000;

/// For each action of a chain its counterpart in an earlier one; no two have the same.
pub(super) fn counterparts(now: &[Now<'_>], before: &[Built]) -> Vec<Option<usize>> {
    let mut pairs = Pairs { found: vec![None; now.len()], taken: vec![false; before.len()] };
    let keys: HashMap<ActionKey, usize> =
        before.iter().enumerate().map(|(at, step)| (step.key, at)).collect();
    for (at, step) in now.iter().enumerate() {
        if let Some(&other) = keys.get(&step.key) {
            pairs.join(at, other);
        }
    }
    same_content(&mut pairs, now, before);
    // A chain has one base and one seal, whatever they are.
    if let (Some(one), Some(other)) = (now.first(), before.first())
        && is_base(one.manifest)
        && is_base(&other.manifest)
    {
        pairs.join(0, 0);
    }
    if let (Some(one), Some(other)) = (now.last(), before.last())
        && is_seal(one.manifest)
        && is_seal(&other.manifest)
    {
        pairs.join(now.len() - 1, before.len() - 1);
    }
    alike(&mut pairs, now, before);
    same_name(&mut pairs, now, before);
    same_place(&mut pairs, now, before);
    pairs.found
}

struct Pairs {
    found: Vec<Option<usize>>,
    taken: Vec<bool>,
}

impl Pairs {
    fn join(&mut self, now: usize, before: usize) {
        if self.found[now].is_none() && !self.taken[before] {
            self.found[now] = Some(before);
            self.taken[before] = true;
        }
    }

    fn left(&self) -> (Vec<usize>, Vec<usize>) {
        let now = (0..self.found.len()).filter(|&at| self.found[at].is_none());
        let before = (0..self.taken.len()).filter(|&at| !self.taken[at]);
        (now.collect(), before.collect())
    }
}

/// Pairs what says the same: first under the same name, then in order.
fn same_content(pairs: &mut Pairs, now: &[Now<'_>], before: &[Built]) {
    let mut by_content: HashMap<Digest, Vec<usize>> = HashMap::new();
    for (at, step) in before.iter().enumerate() {
        by_content.entry(content(&step.manifest)).or_default().push(at);
    }
    let contents: Vec<_> = now.iter().map(|step| content(step.manifest)).collect();
    for by_name in [true, false] {
        for (at, step) in now.iter().enumerate() {
            let same =
                by_content.get(&contents[at]).into_iter().flatten().copied().find(|&other| {
                    !pairs.taken[other]
                        && (!by_name || label(&before[other].name) == label(step.name))
                });
            if let Some(other) = same {
                pairs.join(at, other);
            }
        }
    }
}

/// Pairs what is of one kind and alike, the most alike first.
fn alike(pairs: &mut Pairs, now: &[Now<'_>], before: &[Built]) {
    let (left, others) = pairs.left();
    if left.len().saturating_mul(others.len()) > MAX_PAIRS {
        return;
    }
    let mut found: Vec<(u64, usize, usize)> = Vec::new();
    for &at in &left {
        for &other in &others {
            let (one, two) = (&now[at], &before[other]);
            if operation(one.manifest) != operation(&two.manifest) {
                continue;
            }
            let named = label(one.name) == label(&two.name);
            let alike = likeness(one.manifest, &two.manifest);
            if named || alike >= ALIKE {
                found.push((alike + if named { 50 } else { 0 }, at, other));
            }
        }
    }
    found.sort_by_key(|&(alike, at, other)| {
        (std::cmp::Reverse(alike), at.abs_diff(other), at, other)
    });
    for (_, at, other) in found {
        pairs.join(at, other);
    }
}

/// Pairs what has the same name and has become a step of another kind.
fn same_name(pairs: &mut Pairs, now: &[Now<'_>], before: &[Built]) {
    let (left, others) = pairs.left();
    let by_name: HashMap<&str, usize> =
        others.into_iter().map(|other| (label(&before[other].name), other)).collect();
    for at in left {
        if let Some(&other) = by_name.get(label(now[at].name)) {
            pairs.join(at, other);
        }
    }
}

/// Pairs what is of one kind and stands between the same neighbours.
fn same_place(pairs: &mut Pairs, now: &[Now<'_>], before: &[Built]) {
    let mut place = 0;
    for (at, step) in now.iter().enumerate() {
        if let Some(other) = pairs.found[at] {
            place = other + 1;
            continue;
        }
        let gap = (place..before.len()).take_while(|&other| !pairs.taken[other]);
        let same = |&other: &usize| operation(step.manifest) == operation(&before[other].manifest);
        if let Some(other) = { gap }.find(same) {
            pairs.join(at, other);
            place = other + 1;
        }
    }
}

/// The name of a step in its image.
fn label(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, label)| label)
}

fn is_base(manifest: &Manifest) -> bool {
    by_name(manifest).get(PARENT) == Some(&&Value::Absent)
}

fn is_seal(manifest: &Manifest) -> bool {
    matches!(operation(manifest), Some(Value::Text(word)) if word == "seal")
}

fn operation(manifest: &Manifest) -> Option<&Value> {
    manifest.fields.iter().find(|(name, _)| name == "operation").map(|(_, value)| value)
}

/// What an action says, whatever it stands on and whatever its secrets are.
pub(super) fn content(manifest: &Manifest) -> Digest {
    let own = manifest.fields.iter().filter(|(name, _)| name != PARENT);
    let own = own.map(|(name, value)| {
        let value = if let Value::Secret(_) = value { Value::Secret(None) } else { value.clone() };
        (name.clone(), value)
    });
    Manifest { fields: own.collect() }.key().0
}

/// How much two actions of one kind say the same, in percent.
fn likeness(one: &Manifest, other: &Manifest) -> u64 {
    let (one, other) = (by_name(one), by_name(other));
    let mut names: Vec<&str> = one.keys().chain(other.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !COMMON.contains(name) && *name != "operation");
    let score = |name: &&str| match (one.get(name), other.get(name)) {
        (Some(Value::Text(one)), Some(Value::Text(other))) => alike_texts(one, other),
        (one, other) if one == other => 100,
        _ => 0,
    };
    let sum: u64 = names.iter().map(score).sum();
    sum.checked_div(names.len() as u64).unwrap_or(100)
}

/// How much of two texts is the same at both ends, in percent.
fn alike_texts(one: &str, other: &str) -> u64 {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let (short, long) = (one.len().min(other.len()), one.len().max(other.len()));
    let start = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let ends = one.iter().rev().zip(other.iter().rev());
    let end = ends.take(short - start).take_while(|(a, b)| a == b).count();
    let same = 100 * (start + end) as u64;
    same.checked_div(long as u64).unwrap_or(100)
}

/// Of places in an earlier chain those that stayed in order: the most that can be said to.
pub(super) fn in_order(found: &[Option<usize>]) -> Vec<bool> {
    // For each length the end of a run of that length whose last place is the smallest.
    let mut ends: Vec<usize> = Vec::new();
    let mut below: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, place) in found.iter().enumerate().filter_map(|(at, place)| Some((at, (*place)?))) {
        let length = ends.partition_point(|&end| found[end] < Some(place));
        if let Some(&end) = length.checked_sub(1).and_then(|shorter| ends.get(shorter)) {
            below.insert(at, end);
        }
        ends.truncate(ends.len().max(length));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut stayed = vec![false; found.len()];
    let mut next = ends.last().copied();
    while let Some(at) = next {
        stayed[at] = true;
        next = below.get(&at).copied();
    }
    stayed
}

/// How far an earlier chain is from a chain: the values that differ, with what is new, gone or of
/// another kind counted as several. `None` where nothing but the seal corresponds.
pub(super) fn distance(now: &[Now<'_>], before: &[Built]) -> Option<usize> {
    const LOST: usize = 8;
    let found = counterparts(now, before);
    let stayed = in_order(&found);
    let (mut distance, mut like) = (0, false);
    for (at, step) in now.iter().enumerate() {
        match found[at] {
            None => distance += LOST,
            Some(other) => {
                let other = &before[other].manifest;
                let same = operation(step.manifest) == operation(other);
                like |= same && !is_seal(step.manifest);
                distance += if same { differences(other, step.manifest).len() } else { LOST };
                distance += usize::from(!stayed[at]);
            }
        }
    }
    let gone = before.len() - found.iter().flatten().count();
    like.then_some(distance + gone * LOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_alike_at_their_ends() {
        assert_eq!(alike_texts("", ""), 100);
        assert_eq!(alike_texts("aaaa", "aaaa"), 100);
        assert_eq!(alike_texts("aaXa", "aaYa"), 75);
        assert_eq!(alike_texts("aa", "aaaa"), 50);
        assert_eq!(alike_texts("abc", ""), 0);
    }

    #[test]
    fn one_step_that_moved_is_the_one_that_did() {
        let stayed =
            |places: &[usize]| in_order(&places.iter().copied().map(Some).collect::<Vec<_>>());
        assert_eq!(stayed(&[0, 1, 2]), [true, true, true]);
        assert_eq!(stayed(&[0, 3, 1, 2]), [true, false, true, true]);
        assert_eq!(stayed(&[0, 2, 3, 1]), [true, true, true, false]);
        assert_eq!(in_order(&[Some(0), None, Some(1)]), [true, false, true]);
        assert_eq!(in_order(&[]), [false; 0]);
    }

    proptest! {
        #[test]
        fn what_stayed_is_in_order_and_cannot_be_more(
            places in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let stayed = in_order(&places.iter().copied().map(Some).collect::<Vec<_>>());
            let kept: Vec<usize> =
                (0..7).filter(|&at| stayed[at]).map(|at| places[at]).collect();
            prop_assert!(kept.is_sorted());
            let longest = (0u32..128).filter_map(|mask| {
                let some: Vec<_> = (0..7).filter(|at| mask & (1 << at) != 0).collect();
                let picked: Vec<_> = some.iter().map(|&at| places[at]).collect();
                picked.is_sorted().then_some(picked.len())
            });
            prop_assert_eq!(kept.len(), longest.max().unwrap());
        }
    }
}
