//! Inodes with several names: which of their names decides the label.
//!
//! It gathers names and labels; it writes nothing.

use std::collections::{BTreeMap, BTreeSet};

/// What is known of one inode with several names.
#[derive(Debug, Default)]
struct Linked {
    /// For each label that a name asks for, the first such name in byte order.
    labels: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The same, of the winning names only.
    winners: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A name that the policy leaves alone (`true`: by `<<none>>`), the first in byte order.
    left: Option<(Vec<u8>, bool)>,
}

/// All such inodes of one file system, by inode number.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<u64, Linked>);

/// What becomes of an inode with several names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It gets this label; `inside` is one of its names.
    Label { inside: Vec<u8>, label: Vec<u8> },
    /// The policy leaves it alone, by `<<none>>` or because nothing matches.
    Left { inside: Vec<u8>, none: bool },
    /// Two names ask for two labels.
    Conflict { first: (Vec<u8>, Vec<u8>), second: (Vec<u8>, Vec<u8>) },
}

impl Links {
    /// Adds a name that asks for a label.
    pub(super) fn label(&mut self, inode: u64, inside: &[u8], label: &[u8], wins: bool) {
        let linked = self.0.entry(inode).or_default();
        let add = |to: &mut BTreeMap<Vec<u8>, Vec<u8>>| match to.get_mut(label) {
            Some(name) if name.as_slice() <= inside => {}
            Some(name) => inside.clone_into(name),
            None => _ = to.insert(label.to_owned(), inside.to_owned()),
        };
        add(&mut linked.labels);
        if wins {
            add(&mut linked.winners);
        }
    }

    /// Adds a name that the policy leaves alone.
    pub(super) fn left(&mut self, inode: u64, inside: &[u8], none: bool) {
        let left = &mut self.0.entry(inode).or_default().left;
        if left.as_ref().is_none_or(|(name, _)| inside < name.as_slice()) {
            *left = Some((inside.to_owned(), none));
        }
    }

    /// How many inodes were added.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// One decision an inode, by inode number.
    pub(super) fn decide(self) -> impl Iterator<Item = Decision> {
        self.0.into_values().filter_map(|linked| {
            let labels = if linked.winners.is_empty() { linked.labels } else { linked.winners };
            // By name, so that the same tree gives the same words on every run.
            let names: BTreeSet<_> =
                labels.into_iter().map(|(label, name)| (name, label)).collect();
            let mut names = names.into_iter();
            Some(match (names.next(), names.next()) {
                (Some(first), Some(second)) => Decision::Conflict { first, second },
                (Some((inside, label)), None) => Decision::Label { inside, label },
                (None, _) => {
                    let (inside, none) = linked.left?;
                    Decision::Left { inside, none }
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(inside: &[u8], label: &[u8]) -> Decision {
        Decision::Label { inside: inside.to_vec(), label: label.to_vec() }
    }

    #[test]
    fn names_that_agree_are_one_and_others_conflict() {
        let mut links = Links::default();
        links.label(1, b"b", b"x", false);
        links.label(1, b"a", b"x", false);
        links.left(1, b"c", true);
        links.label(2, b"b", b"x", false);
        links.label(2, b"a", b"y", false);
        links.left(3, b"d", false);
        assert_eq!(links.len(), 3);
        let decisions: Vec<_> = links.decide().collect();
        assert_eq!(decisions[0], label(b"a", b"x"));
        let first = (b"a".to_vec(), b"y".to_vec());
        let second = (b"b".to_vec(), b"x".to_vec());
        assert_eq!(decisions[1], Decision::Conflict { first, second });
        assert_eq!(decisions[2], Decision::Left { inside: b"d".to_vec(), none: false });
    }

    #[test]
    fn a_winning_name_decides() {
        let mut links = Links::default();
        links.label(1, b"a", b"x", false);
        links.label(1, b"b", b"y", true);
        assert_eq!(links.decide().next(), Some(label(b"b", b"y")));
        let mut links = Links::default();
        links.label(1, b"a", b"x", true);
        links.label(1, b"b", b"y", true);
        assert!(matches!(links.decide().next(), Some(Decision::Conflict { .. })));
    }
}
