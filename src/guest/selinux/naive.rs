//! A second, simple lookup: every specification from the last to the first.
//!
//! It is the verifier's. It shares the parsed specifications and the flags of a regular expression
//! with the matcher, and neither its index, its literal prefixes nor its handling of paths.

use std::collections::HashMap;
use std::sync::OnceLock;

use pcre2::bytes::Regex;

use super::contexts::{FileKind, Spec, Specs, Sub};
use super::matcher::{Expected, LookupError};
use super::pattern::compile;

struct Line<'a> {
    spec: &'a Spec,
    /// Plain text before the first character that could be anything else.
    start: &'a [u8],
    /// Number of the first directory that a path must have, if one is named.
    stem: Option<usize>,
    /// Compiled when it is first tried, as in libselinux.
    regex: OnceLock<Result<Regex, pcre2::Error>>,
}

/// The specifications of a policy, last first.
pub(super) struct Naive<'a> {
    specs: &'a Specs,
    lines: Vec<Line<'a>>,
    stems: HashMap<&'a [u8], usize>,
}

impl<'a> Naive<'a> {
    pub(super) fn new(specs: &'a Specs) -> Self {
        let mut stems = HashMap::new();
        let lines = specs.specs().iter().rev().map(|spec| {
            let next = stems.len();
            let stem = spec.stem().map(|stem| *stems.entry(stem.as_bytes()).or_insert(next));
            Line { spec, start: start(&spec.regex), stem, regex: OnceLock::new() }
        });
        Self { lines: lines.collect(), specs, stems }
    }

    pub(super) fn lookup(&self, path: &[u8], kind: FileKind) -> Result<Expected<'a>, LookupError> {
        if path.is_empty() || path.contains(&0) {
            return Err(LookupError::NoPath { path: path.to_owned() });
        }
        let mut key = single_slashes(path);
        for subs in [&self.specs.subs, &self.specs.subs_dist] {
            if let Some(replaced) = subs.iter().find_map(|sub| replace(sub, &key)) {
                key = replaced;
            }
        }
        let second_slash = key.iter().skip(1).position(|&byte| byte == b'/');
        let stem = second_slash.and_then(|at| self.stems.get(&key[..=at]).copied());
        for line in &self.lines {
            if (line.stem.is_some() && line.stem != stem)
                || line.spec.kind.is_some_and(|only| only != kind)
                || !begins(&key, line.start)
            {
                continue;
            }
            let fault = |source| LookupError::of(self.specs, line.spec, &key, source);
            let regex = line
                .regex
                .get_or_init(|| {
                    compile(&line.spec.regex, true).or_else(|_| compile(&line.spec.regex, false))
                })
                .as_ref()
                .map_err(|error| fault(error.clone()))?;
            // What PCRE2's small machine stack cannot hold is interpreted.
            let matches = match regex.is_match(&key) {
                Err(error) if error.code() == -46 => {
                    compile(&line.spec.regex, false).and_then(|slow| slow.is_match(&key))
                }
                other => other,
            };
            if matches.map_err(fault)? {
                return Ok(match line.spec.context {
                    Some(context) => Expected::Label(self.specs.context(context)),
                    None => Expected::None,
                });
            }
        }
        Ok(Expected::NoMatch)
    }
}

/// Whether a path starts so; the last byte first, since most starts share their first ones.
fn begins(key: &[u8], start: &[u8]) -> bool {
    start.last().is_none_or(|last| key.get(start.len() - 1) == Some(last)) && key.starts_with(start)
}

/// The directories at the start of a regular expression that are plain text.
fn start(regex: &str) -> &[u8] {
    // A `|` outside of parentheses would make the start optional.
    if regex.contains('|') && !only_in_groups(regex) {
        return b"";
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | ',' | ':');
    let end = regex.find(|c| !plain(c)).unwrap_or(regex.len());
    // What follows may be a quantifier of the last character: cut before the last directory's `/`.
    &regex.as_bytes()[..regex[..end].rfind('/').unwrap_or(0)]
}

/// Whether every `|` stands in a group; `false` where that is not plain to see.
fn only_in_groups(regex: &str) -> bool {
    if regex.contains("\\Q") || regex.contains("(?") {
        return false;
    }
    let mut left = String::new();
    let mut chars = regex.chars();
    while let Some(c) = chars.next() {
        match c {
            // An escaped character is no structure.
            '\\' => _ = chars.next(),
            // A class may hold parentheses.
            '[' => return false,
            _ => left.push(c),
        }
    }
    // Take out innermost groups until none is left.
    while let Some(close) = left.find(')') {
        let Some(open) = left[..close].rfind('(') else { return false };
        left.replace_range(open..=close, "");
    }
    !left.contains(['|', '('])
}

fn single_slashes(path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(path.len());
    for &byte in path {
        if byte != b'/' || key.last() != Some(&b'/') {
            key.push(byte);
        }
    }
    if key.len() > 1 && key.last() == Some(&b'/') {
        key.pop();
    }
    key
}

fn replace(sub: &Sub, key: &[u8]) -> Option<Vec<u8>> {
    if !key.starts_with(&sub.from) {
        return None;
    }
    let at = sub.from.len();
    if at < key.len() && key[at] != b'/' {
        return None;
    }
    let skipped = usize::from(at < key.len() && sub.to == b"/");
    let mut replaced = sub.to.clone();
    replaced.extend_from_slice(&key[at + skipped..]);
    Some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_whole_directories() {
        assert_eq!(start("/usr/lib/x.*"), b"/usr/lib");
        assert_eq!(start("/usr/lib/?"), b"/usr/lib");
        assert_eq!(start("/usr/(a|b)/c"), b"/usr");
        assert_eq!(start("/usr/a|/b"), b"");
        assert_eq!(start("/usr/[(]a|/b[)]"), b"");
        assert_eq!(start("/usr/\\(a|/b\\)"), b"");
    }
}
