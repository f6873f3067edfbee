//! Looks up the context of a path by an index of literal prefixes.
//!
//! It knows paths and kinds; it opens no file and reads no label.
//!
//! The answers are those of `selabel_lookup_raw(3)` of libselinux up to 3.7: exact paths before
//! regular expressions, later ones before earlier ones. The index only leaves out what cannot
//! match.

use std::borrow::Cow;
use std::collections::HashMap;

use rayon::prelude::*;

use super::contexts::{ContextsError, FileKind, Place, Spec, Specs, Sub};
use super::pattern::{Pattern, is_limit};
use super::{literal, shown};

/// What a policy says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// This context, without a final NUL.
    Label(&'a [u8]),
    /// `<<none>>`: the policy wants the inode left alone.
    None,
    /// No specification matches.
    NoMatch,
}

/// Why a path cannot be looked up.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LookupError {
    /// A match passed the bounds on steps, depth or memory.
    #[error("{place}: matching {} takes too long", shown(path))]
    #[diagnostic(
        code(kiln::selinux::lookup_too_costly),
        help("simplify the regular expression on that line of the guest's policy")
    )]
    TooCostly {
        /// The specification.
        place: Place,
        /// The path that was looked up.
        path: Vec<u8>,
        /// What PCRE2 says.
        source: pcre2::Error,
    },
    /// PCRE2 failed in another way.
    #[error("{place}: matching {} failed", shown(path))]
    #[diagnostic(
        code(kiln::selinux::lookup_failed),
        help("correct the regular expression on that line of the guest's policy")
    )]
    Failed {
        /// The specification.
        place: Place,
        /// The path that was looked up.
        path: Vec<u8>,
        /// What PCRE2 says.
        source: pcre2::Error,
    },
    /// The path is empty or holds a NUL.
    #[error("`{}` is not a path", shown(path))]
    #[diagnostic(code(kiln::selinux::lookup_no_path), help("a path starts with `/`"))]
    NoPath {
        /// What was looked up.
        path: Vec<u8>,
    },
}

impl LookupError {
    pub(super) fn of(specs: &Specs, spec: &Spec, path: &[u8], source: pcre2::Error) -> Self {
        let (place, path) = (specs.place(spec), path.to_owned());
        if is_limit(&source) {
            Self::TooCostly { place, path, source }
        } else {
            Self::Failed { place, path, source }
        }
    }
}

/// A specification in a bucket of the index.
#[derive(Debug)]
struct Entry {
    rank: u32,
    /// The tail's first byte, beside the rank so that most entries are told apart without a look at
    /// the tail.
    first: Option<u8>,
    /// What must follow the bucket's directory.
    tail: Box<[u8]>,
}

impl Entry {
    fn fits(&self, rest: &[u8]) -> bool {
        (self.first.is_none() || self.first == rest.first().copied())
            && rest.starts_with(&self.tail)
    }
}

/// A regular expression with what is cheaper to check.
struct Regular {
    pattern: Pattern,
    suffix: Box<[u8]>,
    /// The stem, if the literal prefixes do not imply it.
    stem: Option<Box<[u8]>>,
}

/// The index over the specifications of one policy.
///
/// A specification's number in [`Specs::specs`] is its rank: the highest that matches decides.
pub struct Matcher {
    /// By rank; `None` for what `exact` holds.
    regulars: Vec<Option<Regular>>,
    /// Ranks of exact paths, highest first.
    exact: HashMap<Box<[u8]>, Vec<u32>>,
    /// Directories with their final `/`, and the empty text for what starts with no literal
    /// directory; entries by rank, highest first.
    index: HashMap<Box<[u8]>, Vec<Entry>>,
}

impl Matcher {
    /// Compiles every regular expression and builds the index.
    ///
    /// # Errors
    /// A regular expression that PCRE2 does not compile.
    pub fn new(specs: &Specs) -> Result<Self, ContextsError> {
        let compile = |spec: &Spec| {
            if exact_path(spec).is_some() {
                return Ok(None);
            }
            let pattern = Pattern::new(&spec.regex)
                .map_err(|source| ContextsError::BadRegex { place: specs.place(spec), source })?;
            let suffix = literal::suffix(&spec.regex).into();
            Ok(Some(Regular { pattern, suffix, stem: None }))
        };
        let mut regulars =
            specs.specs().par_iter().map(compile).collect::<Result<Vec<_>, ContextsError>>()?;
        let (mut exact, mut index) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        let count = u32::try_from(regulars.len()).unwrap_or(u32::MAX);
        for rank in (0..count).rev() {
            let spec = &specs.specs()[rank as usize];
            let Some(regular) = &mut regulars[rank as usize] else {
                let Some(path) = exact_path(spec) else { continue };
                // With an escape in its stem the specification is never tried.
                if spec.stem().is_none_or(|stem| stem_of(&path) == Some(stem.as_bytes())) {
                    exact.entry(path.into_boxed_slice()).or_default().push(rank);
                }
                continue;
            };
            let prefixes = literal::prefixes(&spec.regex);
            if let Some(stem) = spec.stem() {
                let below = format!("{stem}/");
                if !prefixes.iter().all(|prefix| prefix.starts_with(below.as_bytes())) {
                    regular.stem = Some(stem.as_bytes().into());
                }
            }
            for prefix in prefixes {
                let cut =
                    prefix.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
                let (directory, tail) = prefix.split_at(cut);
                let entry = Entry { rank, first: tail.first().copied(), tail: tail.into() };
                index.entry(directory.into()).or_default().push(entry);
            }
        }
        Ok(Self { regulars, exact, index })
    }

    /// What the policy says of a path, absolute as in the running guest.
    ///
    /// # Errors
    /// A path that is none, and a match that costs too much.
    pub fn lookup<'a>(
        &self,
        specs: &'a Specs,
        path: &[u8],
        kind: FileKind,
    ) -> Result<Expected<'a>, LookupError> {
        Ok(match self.find(specs, path, kind)?.map(|spec| spec.context) {
            None => Expected::NoMatch,
            Some(None) => Expected::None,
            Some(Some(context)) => Expected::Label(specs.context(context)),
        })
    }

    fn find<'a>(
        &self,
        specs: &'a Specs,
        path: &[u8],
        kind: FileKind,
    ) -> Result<Option<&'a Spec>, LookupError> {
        if path.is_empty() || path.contains(&0) {
            return Err(LookupError::NoPath { path: path.to_owned() });
        }
        let key = substituted(specs, clean(path));
        let all = specs.specs();
        let fits = |rank: u32| all[rank as usize].kind.is_none_or(|only| only == kind);
        // PCRE2's `$` also matches before a newline at the end.
        let line = key.strip_suffix(b"\n");
        let exact = [Some(&*key), line]
            .into_iter()
            .flatten()
            .filter_map(|key| self.exact.get(key)?.iter().copied().find(|&rank| fits(rank)))
            .max();
        let mut candidates = Vec::new();
        let starts = (0..=key.len()).filter(|&at| at == 0 || key[at - 1] == b'/');
        for at in starts {
            let (directory, rest) = key.split_at(at);
            let Some(entries) = self.index.get(directory) else { continue };
            let better = entries.iter().take_while(|entry| Some(entry.rank) > exact);
            candidates.extend(better.filter(|entry| entry.fits(rest)).map(|entry| entry.rank));
        }
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        candidates.dedup();
        let stem = stem_of(&key);
        for rank in candidates {
            let (spec, Some(regular)) = (&all[rank as usize], &self.regulars[rank as usize]) else {
                continue;
            };
            let ends = |text: &[u8]| text.ends_with(&regular.suffix);
            let possible = fits(rank)
                && (ends(&key) || line.is_some_and(ends))
                && regular.stem.as_deref().is_none_or(|only| stem == Some(only));
            let matches = possible
                && regular
                    .pattern
                    .is_match(&spec.regex, &key)
                    .map_err(|source| LookupError::of(specs, spec, &key, source))?;
            if matches {
                return Ok(Some(spec));
            }
        }
        Ok(exact.map(|rank| &all[rank as usize]))
    }
}

fn exact_path(spec: &Spec) -> Option<Vec<u8>> {
    if spec.exact { literal::whole(&spec.regex) } else { None }
}

/// The first component with what stands before it, as libselinux cuts it.
fn stem_of(path: &[u8]) -> Option<&[u8]> {
    let slash = path.get(1..)?.iter().position(|&byte| byte == b'/')?;
    Some(&path[..=slash])
}

/// The path without doubled slashes and without one at its end.
fn clean(path: &[u8]) -> Cow<'_, [u8]> {
    let mut path = if path.iter().zip(path.iter().skip(1)).any(|pair| pair == (&b'/', &b'/')) {
        let mut single = path.to_owned();
        single.dedup_by(|second, first| *second == b'/' && *first == b'/');
        Cow::Owned(single)
    } else {
        Cow::Borrowed(path)
    };
    if path.len() > 1 && path.ends_with(b"/") {
        path = Cow::Owned(path[..path.len() - 1].to_owned());
    }
    path
}

/// The path after `.subs` and then `.subs_dist`, at most once each.
fn substituted<'a>(specs: &Specs, path: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
    let path = substitute(&specs.subs, &path).map_or(path, Cow::Owned);
    substitute(&specs.subs_dist, &path).map_or(path, Cow::Owned)
}

fn substitute(subs: &[Sub], path: &[u8]) -> Option<Vec<u8>> {
    subs.iter().find_map(|sub| {
        let rest = path.strip_prefix(sub.from.as_slice())?;
        match rest.first() {
            // `/` and `/x` are joined with one slash.
            Some(b'/') if sub.to == b"/" => Some(rest.to_owned()),
            None | Some(b'/') => Some([sub.to.as_slice(), rest].concat()),
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::contexts::SpecsBuilder;
    use super::super::naive::Naive;
    use super::*;
    use proptest::prelude::*;

    fn specs(contexts: &str, subs: &str) -> Specs {
        let mut builder = SpecsBuilder::new();
        builder.contexts("fc", contexts.as_bytes()).unwrap();
        builder.subs("fc.subs", subs.as_bytes(), false).unwrap();
        builder.subs("fc.subs_dist", b"/lib /usr/lib\n/run /\n", true).unwrap();
        builder.finish()
    }

    fn label(specs: &Specs, path: &[u8], kind: FileKind) -> String {
        let matcher = Matcher::new(specs).unwrap();
        let found = matcher.lookup(specs, path, kind).unwrap();
        assert_eq!(Naive::new(specs).lookup(path, kind).unwrap(), found, "{}", shown(path));
        match found {
            Expected::Label(label) => String::from_utf8(label.to_vec()).unwrap(),
            Expected::None => "none".into(),
            Expected::NoMatch => "-".into(),
        }
    }

    #[test]
    fn precedence_is_that_of_libselinux() {
        let specs = specs(
            "/etc/x u:r:exact\n/etc(/.*)? u:r:etc\n/etc/x.* -d u:r:dirs\n/usr/lib/.* u:r:lib\n\
             /proc/.* <<none>>\n/a\\-d/b u:r:never\n/x|/y u:r:either\n",
            "/opt /lib\n",
        );
        let label = |path: &str, kind| label(&specs, path.as_bytes(), kind);
        assert_eq!(label("/etc/x", FileKind::Directory), "u:r:exact");
        assert_eq!(label("/etc/x\n", FileKind::Regular), "u:r:exact");
        assert_eq!(label("//etc///xy/", FileKind::Directory), "u:r:dirs");
        assert_eq!(label("/etc/xy", FileKind::Regular), "u:r:etc");
        assert_eq!(label("/opt/a", FileKind::Regular), "u:r:lib");
        assert_eq!(label("/lib/a", FileKind::Symlink), "u:r:lib");
        assert_eq!(label("/run/etc", FileKind::Directory), "u:r:etc");
        assert_eq!(label("/proc/1", FileKind::Directory), "none");
        assert_eq!(label("/lib", FileKind::Directory), "-");
        assert_eq!(label("/a-d/b", FileKind::Regular), "-");
        assert_eq!(label("/x/and/more", FileKind::Regular), "u:r:either");
        assert_eq!(label("/and/y", FileKind::Regular), "u:r:either");
    }

    #[test]
    fn a_bad_regex_is_named() {
        let specs = specs("/ok u:r:t\n/a(b u:r:t\n", "");
        let error = Matcher::new(&specs).err().unwrap();
        assert!(error.to_string().starts_with("fc:2: "), "{error}");
    }

    #[test]
    fn a_costly_match_is_named() {
        let specs = specs("/(a+)+c u:r:t\n", "");
        let path = [b"/".to_vec(), b"a".repeat(64), b"bc".to_vec()].concat();
        let matcher = Matcher::new(&specs).unwrap();
        let error = matcher.lookup(&specs, &path, FileKind::Regular).unwrap_err();
        assert!(matches!(error, LookupError::TooCostly { .. }), "{error}");
        assert!(Naive::new(&specs).lookup(&path, FileKind::Regular).is_err());
        assert!(matcher.lookup(&specs, b"", FileKind::Regular).is_err());
    }

    proptest! {
        #[test]
        fn the_index_changes_no_answer(
            regexes in prop::collection::vec(
                r"/(a|b|\\\.|\.|\[ab\]|\(a\|b/\)|\(/\.\*\)\?|\(ab\)\?|b\*|a\+|b\?|\||/|\$){0,6}( -d| --)?", 1..12),
            subs in prop::collection::vec("/[ab/]{0,3} /[ab/]{0,3}", 0..3),
            paths in prop::collection::vec("[/ab]{1,2}[ab./]{0,6}\n?", 32),
        ) {
            let lines: Vec<_> = regexes.iter().enumerate()
                .map(|(number, regex)| format!("{regex} u:r:t{number}\n")).collect();
            let specs = specs(&lines.concat(), &subs.join("\n"));
            let Ok(matcher) = Matcher::new(&specs) else { return Ok(()) };
            let naive = Naive::new(&specs);
            for path in paths {
                for kind in [FileKind::Regular, FileKind::Directory, FileKind::Fifo] {
                    prop_assert_eq!(
                        matcher.lookup(&specs, path.as_bytes(), kind).unwrap(),
                        naive.lookup(path.as_bytes(), kind).unwrap()
                    );
                }
            }
        }
    }
}
