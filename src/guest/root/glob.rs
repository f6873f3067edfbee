//! Paths with `*`, `?` and `[…]`, expanded inside a guest as a shell would.
//!
//! It does not know what becomes of the paths it finds.

use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::place::Place;
use super::{GuestRoot, absent, names};
use crate::guest::error::GuestError;

/// A name as a pattern that matches it alone.
#[must_use]
pub fn literally(name: &str) -> String {
    name.chars().flat_map(|c| if "*?[\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}

impl GuestRoot {
    /// Calls `visit` with every path that matches `pattern`, sorted by name, directory by directory.
    ///
    /// As in a shell, `*` and `?` match no `/` and no dot at the start of a name, links to
    /// directories are followed in all components but the last, and a path without a match is no
    /// error. A literal last component is visited only where something is. `\` takes the special
    /// meaning from the character after it.
    ///
    /// # Errors
    /// The kernel's, other than "nothing is there", and those of `visit`.
    pub fn glob(
        &self,
        operation: &'static str,
        pattern: &str,
        visit: &mut dyn FnMut(Place) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let components: Vec<&[u8]> =
            pattern.split('/').filter(|part| !part.is_empty()).map(str::as_bytes).collect();
        let Some((last, parents)) = components.split_last() else {
            return Err(GuestError::RootDirectory { operation });
        };
        let mut waiting = vec![(PathBuf::from("/"), parents)];
        while let Some((path, parents)) = waiting.pop() {
            let component = parents.first().unwrap_or(last);
            let literal = literal(component);
            if let (Some(name), Some((_, rest))) = (&literal, parents.split_first()) {
                waiting.push((path.join(std::ffi::OsStr::from_bytes(name)), rest));
                continue;
            }
            let flags = if literal.is_some() { OFlags::PATH } else { OFlags::RDONLY };
            let directory = match self.open_fd(operation, &path, flags | OFlags::DIRECTORY) {
                Ok(directory) => Arc::new(directory),
                Err(error) if absent(&error) => continue,
                Err(error) => return Err(error),
            };
            if let Some(name) = literal {
                let place = Place::new(directory, &path, &std::ffi::OsString::from_vec(name));
                if place.meta(operation)?.is_some() {
                    visit(place)?;
                }
                continue;
            }
            let mut found = names(directory.as_fd())
                .map_err(|errno| GuestError::path(operation, &path, errno))?;
            found.retain(|name| matches(component, name.as_bytes()));
            match parents.split_first() {
                Some((_, rest)) => {
                    waiting.extend(found.iter().rev().map(|name| (path.join(name), rest)));
                }
                None => {
                    for name in found {
                        visit(Place::new(Arc::clone(&directory), &path, &name))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The name that a component means if nothing in it is special.
fn literal(component: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(component.len());
    let mut bytes = component.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return None,
            b'\\' => name.push(bytes.next().copied().unwrap_or(b'\\')),
            _ => name.push(byte),
        }
    }
    Some(name)
}

/// Whether a name matches one component of a pattern; takes time in the product of their lengths.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') && !pattern.starts_with(b"\\.")
    {
        return false;
    }
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, from));
            at += 1;
        } else if let Some(next) = one(pattern, at, name[from]) {
            at = next;
            from += 1;
        } else if let Some((after, taken)) = star {
            // The star takes one byte more, and the rest is tried again.
            star = Some((after, taken + 1));
            (at, from) = (after, taken + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// If what stands at `at` matches `byte`: where the pattern goes on.
fn one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'\\' => match pattern.get(at + 1) {
            Some(&escaped) => (escaped == byte).then_some(at + 2),
            None => (byte == b'\\').then_some(at + 1),
        },
        b'[' => match class(&pattern[at + 1..], byte) {
            Some((hit, length)) => hit.then_some(at + 1 + length),
            // A bracket that is not closed stands for itself.
            None => (byte == b'[').then_some(at + 1),
        },
        literal => (literal == byte).then_some(at + 1),
    }
}

/// A bracket expression after its `[`: whether `byte` is in it, and its length with the `]`.
fn class(expression: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(expression.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut hit = false;
    loop {
        let first = *expression.get(at)?;
        if first == b']' && at > start {
            return Some((hit != negated, at + 1));
        }
        match (expression.get(at + 1), expression.get(at + 2)) {
            (Some(b'-'), Some(&last)) if last != b']' => {
                hit |= (first..=last).contains(&byte);
                at += 3;
            }
            _ => {
                hit |= first == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("*", &["a", "ä", "*"], &[".a", "."]),
            (".*", &[".a"], &["a"]),
            ("*.log", &["a.log"], &["a.logs", ".log"]),
            ("a?c", &["abc"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "-x"]),
            ("[!a-c]x", &["dx"], &["ax", ".x"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a", &["[a"], &["a"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("a*b*c", &["abc", "axxbxxc", "abcbc"], &["ab", "acb"]),
            ("?", &["a"], &["", "."]),
        ];
        for (pattern, hits, misses) in table {
            for name in *hits {
                assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
            for name in *misses {
                assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let pattern = "a*".repeat(100) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(255).as_bytes()));
    }

    proptest! {
        #[test]
        fn a_name_matches_its_own_escape(name in "[a-z*?\\[\\]\\\\!-]{1,12}") {
            let pattern: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert_eq!(literal(pattern.as_bytes()).unwrap(), name.as_bytes());
            prop_assert!(matches(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
