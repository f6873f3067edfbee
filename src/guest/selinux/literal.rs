//! Literal text that every match of a regular expression must start or end with.
//!
//! It never says which paths match: only which cannot. What it is not sure of it does not claim.

/// Most prefixes of one regular expression.
const MAX_PREFIXES: usize = 24;
/// Groups nested deeper than this are not looked into.
const MAX_DEPTH: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Once,
    Optional,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Atom<'a> {
    Literal(u8),
    Group(&'a [u8]),
    Other,
    Alternation,
}

/// The atoms of the top level; `None` if there is anything that this scanner does not know.
fn atoms(mut text: &[u8]) -> Option<Vec<(Atom<'_>, Repeat)>> {
    let mut atoms = Vec::new();
    while let Some((&byte, rest)) = text.split_first() {
        let atom;
        (atom, text) = match byte {
            b'\\' => {
                let (&escaped, rest) = rest.split_first()?;
                match escaped {
                    // One character or one assertion; other letters and digits take arguments.
                    b'd' | b'D' | b'w' | b'W' | b's' | b'S' | b'h' | b'H' | b'v' | b'V' | b'R'
                    | b'b' | b'B' | b'A' | b'z' | b'Z' => (Atom::Other, rest),
                    _ if escaped.is_ascii_punctuation() => (Atom::Literal(escaped), rest),
                    _ => return None,
                }
            }
            b'(' => {
                let (group, rest) = group(rest)?;
                (Atom::Group(group), rest)
            }
            b'[' => (Atom::Other, class(rest)?),
            b'|' => (Atom::Alternation, rest),
            b'.' | b'^' | b'$' => (Atom::Other, rest),
            b')' | b'?' | b'*' | b'+' | b'{' => return None,
            _ => (Atom::Literal(byte), rest),
        };
        let mut repeat = Repeat::Once;
        if let Some((&byte, rest)) = text.split_first() {
            (repeat, text) = match byte {
                b'?' => (Repeat::Optional, rest),
                b'*' | b'+' => (Repeat::Other, rest),
                b'{' => (Repeat::Other, braces(rest)?),
                _ => (Repeat::Once, text),
            };
            if repeat != Repeat::Once
                && let Some((b'?' | b'+', rest)) = text.split_first()
            {
                text = rest;
            }
        }
        atoms.push((atom, repeat));
    }
    Some(atoms)
}

/// What stands in a group, and what follows it.
fn group(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = match text {
        [b'?', b':', inner @ ..] => inner,
        [b'?' | b'*', ..] => return None,
        inner => inner,
    };
    let mut rest = inner;
    let mut depth = 0_usize;
    loop {
        let (&byte, next) = rest.split_first()?;
        match byte {
            b'\\' => {
                // `\Q` and its like would hide a parenthesis.
                let (&escaped, next) = next.split_first()?;
                if matches!(escaped, b'Q' | b'E' | b'c') {
                    return None;
                }
                rest = next;
                continue;
            }
            b'[' => {
                rest = class(next)?;
                continue;
            }
            b'(' if matches!(next.first(), Some(b'?' | b'*')) && !next.starts_with(b"?:") => {
                return None;
            }
            b'(' => depth += 1,
            b')' if depth == 0 => {
                return Some((&inner[..inner.len() - rest.len()], next));
            }
            b')' => depth -= 1,
            _ => {}
        }
        rest = next;
    }
}

/// What follows a character class.
fn class(text: &[u8]) -> Option<&[u8]> {
    let mut text = text.strip_prefix(b"^").unwrap_or(text);
    text = text.strip_prefix(b"]").unwrap_or(text);
    loop {
        let (&byte, rest) = text.split_first()?;
        text = match byte {
            b']' => return Some(rest),
            b'\\' => {
                let (&escaped, rest) = rest.split_first()?;
                if matches!(escaped, b'Q' | b'E' | b'c') {
                    return None;
                }
                rest
            }
            b'[' if matches!(rest.first(), Some(b':' | b'.' | b'=')) => {
                let end = rest[1..].windows(2).position(|pair| pair == [rest[0], b']'])?;
                &rest[end + 3..]
            }
            _ => rest,
        };
    }
}

/// What follows `{n}`, `{n,}` or `{n,m}`.
fn braces(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|&byte| byte == b'}')?;
    let inside = &text[..end];
    let number = inside.first()?.is_ascii_digit();
    (number && inside.iter().all(|byte| byte.is_ascii_digit() || *byte == b','))
        .then_some(&text[end + 1..])
}

/// Texts of which every match starts with one; the empty text if nothing is known.
///
/// The regular expression is anchored as libselinux does, by `^` before and `$` behind it.
pub(super) fn prefixes(regex: &str) -> Vec<Vec<u8>> {
    let unknown = || vec![Vec::new()];
    let Some(atoms) = atoms(regex.as_bytes()) else { return unknown() };
    // In `^a|b$` only the first branch is anchored at the start.
    if atoms.iter().any(|(atom, _)| *atom == Atom::Alternation) {
        return unknown();
    }
    let (mut found, _) = expand(&atoms, 0);
    found.sort();
    // In sorted order a text follows its own prefix, with only its extensions between them.
    found.dedup_by(|longer, shorter| longer.starts_with(shorter));
    found
}

/// The beginnings of a sequence, and whether they are all of it.
fn expand(atoms: &[(Atom<'_>, Repeat)], depth: usize) -> (Vec<Vec<u8>>, bool) {
    let mut base = vec![Vec::new()];
    for &(atom, repeat) in atoms {
        let (choices, complete) = match atom {
            Atom::Literal(byte) => (vec![vec![byte]], true),
            Atom::Group(inner) if depth < MAX_DEPTH => match alternatives(inner, depth) {
                Some(found) => found,
                None => return (base, false),
            },
            _ => return (base, false),
        };
        match repeat {
            Repeat::Once => {}
            Repeat::Optional if complete => {}
            Repeat::Optional | Repeat::Other => return (base, false),
        }
        let optional = repeat == Repeat::Optional;
        if base.len() * (choices.len() + usize::from(optional)) > MAX_PREFIXES {
            return (base, false);
        }
        let mut longer = if optional { base.clone() } else { Vec::new() };
        for start in &base {
            longer.extend(choices.iter().map(|choice| [start.as_slice(), choice].concat()));
        }
        base = longer;
        if !complete {
            return (base, false);
        }
    }
    (base, true)
}

fn alternatives(inner: &[u8], depth: usize) -> Option<(Vec<Vec<u8>>, bool)> {
    let atoms = atoms(inner)?;
    let (mut all, mut complete) = (Vec::new(), true);
    for branch in atoms.split(|(atom, _)| *atom == Atom::Alternation) {
        let (found, whole) = expand(branch, depth + 1);
        all.extend(found);
        complete &= whole;
        if all.len() > MAX_PREFIXES {
            return None;
        }
    }
    Some((all, complete))
}

/// A text with which every match ends, but for a newline after it; empty if nothing is known.
pub(super) fn suffix(regex: &str) -> Vec<u8> {
    let mut tail = Vec::new();
    for (atom, repeat) in atoms(regex.as_bytes()).unwrap_or_default() {
        match (atom, repeat) {
            (Atom::Alternation, _) => return Vec::new(),
            (Atom::Literal(byte), Repeat::Once) => tail.push(byte),
            _ => tail.clear(),
        }
    }
    tail
}

/// The one path that an exact specification matches; `None` if it is not plain text.
pub(super) fn whole(regex: &str) -> Option<Vec<u8>> {
    atoms(regex.as_bytes())?
        .into_iter()
        .map(|atom| match atom {
            (Atom::Literal(byte), Repeat::Once) => Some(byte),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::pattern::compile;
    use super::*;
    use proptest::prelude::*;

    fn texts(regex: &str) -> Vec<String> {
        prefixes(regex).into_iter().map(|text| String::from_utf8(text).unwrap()).collect()
    }

    #[test]
    fn prefixes_follow_groups_and_options() {
        assert_eq!(texts("/usr/(s)?bin/x.*"), ["/usr/bin/x", "/usr/sbin/x"]);
        assert_eq!(texts("/a(/.*)?"), ["/a"]);
        assert_eq!(texts("/(a|b\\.c)/[0-9]+"), ["/a/", "/b.c/"]);
        assert_eq!(texts("/ab?c*d"), ["/a"]);
        assert_eq!(texts("/(x.*|y)/z"), ["/x", "/y"]);
        assert_eq!(texts("/ab{0,1}"), ["/a"]);
        assert_eq!(texts("/a|/b"), [""]);
        assert_eq!(texts("/a\\Qb|c\\E"), [""]);
        assert_eq!(texts("/a[[:digit:]|(]b"), ["/a"]);
    }

    #[test]
    fn suffixes_are_only_claimed_behind_the_last_choice() {
        assert_eq!(suffix("/usr/.*/x\\.so"), b"/x.so");
        assert_eq!(suffix("/a(/.*)?"), b"");
        assert_eq!(suffix("/.*a|/b"), b"");
        assert_eq!(suffix("/[^/]*\\.d/y?"), b"");
    }

    proptest! {
        #[test]
        fn what_matches_has_a_prefix_and_the_suffix(
            regex in r"/(a|b|\\\.|\.|\[ab\]|\[\^a\]|\(a\|b/\)|\(/\.\*\)\?|\(ab\)\?|b\*|a\+|b\?|a\{0,2\}|\||\(\?:a\)|/|\\w|\$){0,6}",
            paths in prop::collection::vec("/[ab./]{0,6}\n?", 32),
        ) {
            let Ok(compiled) = compile(&regex, false) else { return Ok(()) };
            for path in paths {
                if compiled.is_match(path.as_bytes()).unwrap() {
                    let path = path.as_bytes();
                    prop_assert!(prefixes(&regex).iter().any(|start| path.starts_with(start)));
                    let line = path.strip_suffix(b"\n").unwrap_or(path);
                    let end = suffix(&regex);
                    prop_assert!(path.ends_with(&end) || line.ends_with(&end));
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(regex in "[ -~]{0,40}") {
            let _ = (prefixes(&regex), suffix(&regex), whole(&regex));
        }
    }
}
