//! A sorted map from ranges of block numbers to what lies there.
//!
//! One run may cover millions of blocks, so nothing here is sized by a disk. It knows nothing of
//! files, layers or epochs: what a run means is its [`Piece`].

use std::collections::BTreeMap;
use std::ops::Range;

/// What a run of blocks maps to, addressed relative to the run's first block.
pub trait Piece: Copy + PartialEq {
    /// The same thing, `blocks` further on.
    #[must_use]
    fn at(self, blocks: u64) -> Self;
}

/// One stretch of a lookup: `len` blocks from `start`, mapped or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<P> {
    /// First block.
    pub start: u64,
    /// Number of blocks, at least one.
    pub len: u64,
    /// What lies there.
    pub piece: P,
}

impl<P> Run<P> {
    /// The first block behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Disjoint runs in ascending order; neighbours that continue each other are one run.
#[derive(Debug, Clone)]
pub struct RangeMap<P> {
    runs: BTreeMap<u64, (u64, P)>,
}

impl<P> Default for RangeMap<P> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<P: Piece> RangeMap<P> {
    /// Number of runs, not of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All runs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Run<P>> + '_ {
        self.runs.iter().map(|(&start, &(len, piece))| Run { start, len, piece })
    }

    /// The parts of runs that lie in `range`, in ascending order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Run<P>> + '_ {
        let first = self.runs.range(..range.start).next_back();
        let first = first.filter(|&(&start, &(len, _))| start + len > range.start);
        let from = first.map_or(range.start, |(&start, _)| start).min(range.end);
        self.runs.range(from..range.end).map(move |(&start, &(len, piece))| {
            let head = range.start.saturating_sub(start);
            let end = (start + len).min(range.end);
            Run { start: start + head, len: end - start - head, piece: piece.at(head) }
        })
    }

    /// Every block of `range`, in ascending order, gaps as runs of `None`.
    pub fn cover(&self, range: Range<u64>) -> impl Iterator<Item = Run<Option<P>>> + '_ {
        let mut next = range.start;
        let mut runs = self.within(range.clone()).peekable();
        std::iter::from_fn(move || {
            if next >= range.end {
                return None;
            }
            let run = match runs.peek() {
                Some(run) if run.start == next => {
                    let run = runs.next()?;
                    Run { start: run.start, len: run.len, piece: Some(run.piece) }
                }
                gap => {
                    let end = gap.map_or(range.end, |run| run.start);
                    Run { start: next, len: end - next, piece: None }
                }
            };
            next = run.end();
            Some(run)
        })
    }

    /// Maps `len` blocks from `start` to `piece`, over whatever lay there.
    pub fn insert(&mut self, start: u64, len: u64, piece: P) {
        if len == 0 {
            return;
        }
        self.remove(start, len);
        let (mut start, mut len, mut piece) = (start, len, piece);
        if let Some((&left, &(left_len, left_piece))) = self.runs.range(..start).next_back()
            && left + left_len == start
            && left_piece.at(left_len) == piece
        {
            self.runs.remove(&left);
            (start, len, piece) = (left, left_len + len, left_piece);
        }
        if let Some(&(right_len, right_piece)) = self.runs.get(&(start + len))
            && piece.at(len) == right_piece
        {
            self.runs.remove(&(start + len));
            len += right_len;
        }
        self.runs.insert(start, (len, piece));
    }

    /// Unmaps `len` blocks from `start`.
    pub fn remove(&mut self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let end = start + len;
        if let Some((&left, &(left_len, piece))) = self.runs.range(..start).next_back()
            && left + left_len > start
        {
            self.runs.insert(left, (start - left, piece));
            if left + left_len > end {
                self.runs.insert(end, (left + left_len - end, piece.at(end - left)));
                return;
            }
        }
        while let Some((&at, &(at_len, piece))) = self.runs.range(start..end).next() {
            self.runs.remove(&at);
            if at + at_len > end {
                self.runs.insert(end, (at + at_len - end, piece.at(end - at)));
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the disks of these tests are small")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Piece for u64 {
        fn at(self, blocks: u64) -> Self {
            self + blocks
        }
    }

    const DISK: u64 = 64;

    #[derive(Debug, Clone)]
    enum Change {
        Insert(u64, u64, u64),
        Remove(u64, u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..DISK, 0..DISK / 2, 0..4u64).prop_map(|(start, len, piece)| {
                Change::Insert(start, len.min(DISK - start), piece * 100 + start)
            }),
            (0..DISK, 0..DISK / 2)
                .prop_map(|(start, len)| Change::Remove(start, len.min(DISK - start))),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_an_array(changes in proptest::collection::vec(change(), 0..40), from in 0..DISK, len in 0..DISK) {
            let mut map = RangeMap::default();
            let mut array = vec![None; DISK as usize];
            for change in changes {
                match change {
                    Change::Insert(start, len, piece) => {
                        map.insert(start, len, piece);
                        for block in start..start + len {
                            array[block as usize] = Some(piece + block - start);
                        }
                    }
                    Change::Remove(start, len) => {
                        map.remove(start, len);
                        array[start as usize..(start + len) as usize].fill(None);
                    }
                }
            }
            let range = from..(from + len).min(DISK);
            let mut next = range.start;
            for run in map.cover(range.clone()) {
                prop_assert_eq!(run.start, next);
                prop_assert!(run.len > 0);
                for block in run.start..run.end() {
                    prop_assert_eq!(run.piece.map(|piece| piece + block - run.start), array[block as usize]);
                }
                next = run.end();
            }
            prop_assert_eq!(next, range.end);
            // Runs that continue each other are one, or the map would grow with every write.
            let runs: Vec<_> = map.iter().collect();
            for pair in runs.windows(2) {
                prop_assert!(pair[0].end() < pair[1].start || pair[0].piece.at(pair[0].len) != pair[1].piece);
            }
        }
    }
}
