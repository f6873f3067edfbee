//! Finds values in the bytes of a disk.

use std::collections::BTreeSet;

use super::SecretValue;
use super::needles::{self, Needles};
use crate::name::SecretName;

/// Longest form that is also found where a file's blocks lie apart: each block is compared with
/// every place where a form may be cut.
const LONGEST_CUT: usize = 512;

/// Finds secrets in bytes.
#[derive(Debug)]
pub struct Scanner {
    needles: Needles,
}

/// Forms of secrets that a block ends or begins with in part: the number of the form, and how many
/// bytes of it are in the block that ends with it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct EdgeFinds {
    ends: BTreeSet<(usize, usize)>,
    starts: BTreeSet<(usize, usize)>,
}

impl EdgeFinds {
    /// Takes up what was found in other blocks.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        self.ends.append(&mut other.ends);
        self.starts.append(&mut other.starts);
        self
    }
}

impl Scanner {
    /// One that finds these.
    #[must_use]
    pub fn new(secrets: &[(SecretName, SecretValue)]) -> Self {
        Self { needles: Needles::new(secrets, needles::stored) }
    }

    /// Length of the longest form that can be found.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.needles.longest()
    }

    /// The first secret in some bytes.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<&SecretName> {
        let found = self.needles.automaton.find(bytes)?;
        Some(self.needles.name(found.pattern().as_usize()))
    }

    /// What a block ends and begins with.
    #[must_use]
    pub fn edges(&self, block: &[u8]) -> EdgeFinds {
        let mut finds = EdgeFinds::default();
        let forms = self.needles.forms.iter().enumerate();
        for (number, (form, _)) in forms.filter(|(_, (form, _))| form.len() <= LONGEST_CUT) {
            for cut in 1..form.len().min(block.len()) {
                if block[block.len() - cut..] == form[..cut] {
                    finds.ends.insert((number, cut));
                }
                if block.starts_with(&form[cut..]) {
                    finds.starts.insert((number, cut));
                }
            }
        }
        finds
    }

    /// A secret whose one part ends a block, and whose other part begins one.
    #[must_use]
    pub fn joined(&self, finds: &EdgeFinds) -> Option<&SecretName> {
        let (form, _) = finds.ends.intersection(&finds.starts).next()?;
        Some(self.needles.name(*form))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner(value: &[u8]) -> Scanner {
        Scanner::new(&[("token".parse().unwrap(), SecretValue(value.to_vec()))])
    }

    #[test]
    fn a_value_is_found_in_its_forms_and_nothing_else_is() {
        let scanner = scanner(b"correct horse");
        for form in needles::stored(b"correct horse") {
            let mut bytes = vec![7; 100];
            bytes.splice(40..40, form);
            assert_eq!(scanner.find(&bytes).unwrap().as_str(), "token");
        }
        assert_eq!(scanner.find(b"correct hors\0e, Correct horse"), None);
    }

    #[test]
    fn a_value_cut_by_the_end_of_a_block_is_put_together() {
        let value = b"correct horse";
        let scanner = scanner(value);
        for cut in 1..value.len() {
            let (mut one, mut other) = (vec![b'.'; 64], vec![b'.'; 64]);
            one[64 - cut..].copy_from_slice(&value[..cut]);
            other[..value.len() - cut].copy_from_slice(&value[cut..]);
            let (one, other) = (scanner.edges(&one), scanner.edges(&other));
            assert!(scanner.joined(&one).is_none() && scanner.joined(&other).is_none());
            assert!(scanner.joined(&other.and(one)).is_some(), "{cut}");
        }
        // Parts that do not belong together are no value.
        let mut block = vec![b'.'; 64];
        block[60..].copy_from_slice(b"corr");
        block[..4].copy_from_slice(b"orse");
        assert_eq!(scanner.joined(&scanner.edges(&block)), None);
    }
}
