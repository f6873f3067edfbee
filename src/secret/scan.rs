//! Finds values in the bytes of a disk.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

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
    /// For each form, as in [`Needles::forms`], whether it is only one line of its value.
    lines: Vec<bool>,
}

/// A secret that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub name: SecretName,
    /// Whether it is only one line of its value.
    pub line: bool,
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
        let needles = Needles::new(secrets, needles::stored);
        let is_line = |(form, number): &(Zeroizing<Vec<u8>>, usize)| {
            needles::key_lines(&secrets[*number].1.0).any(|line| line == form.as_slice())
        };
        let lines = needles.forms.iter().map(is_line).collect();
        Self { needles, lines }
    }

    /// Length of the longest form that can be found.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.needles.longest()
    }

    /// The first secret in some bytes.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<Found> {
        let found = self.needles.automaton.find(bytes)?;
        Some(self.found(found.pattern().as_usize()))
    }

    fn found(&self, form: usize) -> Found {
        Found { name: self.needles.name(form).clone(), line: self.lines[form] }
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
    pub fn joined(&self, finds: &EdgeFinds) -> Option<Found> {
        let (form, _) = finds.ends.intersection(&finds.starts).next()?;
        Some(self.found(*form))
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
            let found = scanner.find(&bytes).unwrap();
            assert_eq!((found.name.as_str(), found.line), ("token", false));
        }
        assert_eq!(scanner.find(b"correct hors\0e, Correct horse"), None);
    }

    #[test]
    fn one_line_of_a_key_is_called_so() {
        let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj";
        let value = format!("Accept: application/json\n{line}\n");
        let scanner = scanner(value.as_bytes());
        assert_eq!(scanner.find(b"Accept: application/json\n"), None);
        assert!(scanner.find(line.as_bytes()).unwrap().line);
        assert!(!scanner.find(value.as_bytes()).unwrap().line);
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
