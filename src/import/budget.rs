//! How much text an input may become when its variables are replaced by their values.
//!
//! A hostile script of a few lines may double a value with each of them, or copy a large one into
//! each of its words.

use std::cell::Cell;

/// Bytes that the values of one input may fill, all places where they stand taken together.
const MAX_FILLED: usize = 4 * super::MAX_BYTES;

/// What is left of the bytes that values may fill.
#[derive(Debug)]
pub(super) struct Budget(Cell<usize>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(MAX_FILLED))
    }
}

impl Budget {
    /// Takes bytes, and says whether they were there. Where they were not, nothing is left: what
    /// follows is not known either.
    pub(super) fn spend(&self, bytes: usize) -> bool {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind_what_did_not_fit() {
        let budget = Budget::default();
        assert!(budget.spend(MAX_FILLED - 1) && budget.spend(1) && !budget.spend(1));
        let budget = Budget::default();
        assert!(!budget.spend(MAX_FILLED + 1) && !budget.spend(1));
    }
}
