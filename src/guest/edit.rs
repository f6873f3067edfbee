//! `edit`: expressions on each line of a file.
//!
//! How an expression is written is the business of [`crate::expression`]; here its patterns are
//! compiled, and it is done. A line that is UTF-8 is matched as characters and any other as bytes.

use std::time::{Duration, Instant};

use pcre2::bytes::{CaptureLocations, Regex, RegexBuilder};

use super::error::{GuestError, escaped, shown};
use super::root::{FileAttributes, GuestRoot};
use crate::expression::{self, Action, Part, Pattern, Statement};
use crate::recipe::Edit;

/// Largest file, before and after, in bytes: it is rewritten whole.
const LARGEST: u64 = 64 << 20;
/// Bytes that the expressions may have PCRE2 check for being UTF-8, in one file: it checks the rest
/// of a line before each match in it, which is the square of the line's length.
const CHECKED: u64 = 1 << 34;
/// What all expressions may take for one file. A match that has begun is not ended by it, but by
/// [`STEPS`].
const TIME: Duration = Duration::from_mins(1);
/// What a match may cost from one place of a line, in PCRE2's steps, by the length of the line in
/// bytes. PCRE2 counts anew at each place, so the two are multiplied. It does not count how far a
/// repetition runs that cannot be given back, and makes such ones by itself unless told not to.
const STEPS: [(usize, &str); 3] = [
    (16 << 10, "(*LIMIT_MATCH=1000000)"),
    (1 << 20, "(*NO_AUTO_POSSESS)(*LIMIT_MATCH=1000)"),
    (usize::MAX, "(*NO_AUTO_POSSESS)(*LIMIT_MATCH=64)"),
];
/// And in nested backtracking points and KiB of heap, as in `selinux::pattern`. All limits stand in
/// the pattern before its own text, which may not start so.
const LIMITS: &str = "(*LIMIT_DEPTH=100000)(*LIMIT_HEAP=4096)";

/// `edit`: every expression on every line before the next one, on what is between line ends. A link
/// is followed; a file that no line of changes is not touched.
///
/// # Errors
/// Where no regular file is there; [`GuestError::Expression`], [`GuestError::ExpressionCost`],
/// [`GuestError::Unchanged`] if the step says that something must change; [`GuestError::TooLarge`].
pub fn edit(root: &GuestRoot, step: &Edit) -> Result<(), GuestError> {
    let path = step.path.as_str();
    let compiled: Vec<Compiled<'_>> =
        step.expressions.iter().map(|text| Compiled::new(text)).collect::<Result<_, _>>()?;
    let before = root.read(path, LARGEST)?;
    let mut text = before.clone();
    let mut budget = Budget::new();
    for expression in &compiled {
        text = expression.on(&text, &mut budget).map_err(|(line, failure)| match failure {
            Failure::Cost(source) => GuestError::ExpressionCost {
                expression: escaped(expression.text),
                path: shown(path),
                line,
                source,
            },
            Failure::TooLarge => GuestError::TooLarge { path: shown(path), limit: LARGEST },
        })?;
    }
    if text != before {
        return root.write_atomic(path, &text, FileAttributes::default());
    }
    if step.required { Err(GuestError::Unchanged { path: shown(path) }) } else { Ok(()) }
}

/// Why a line could not be changed.
#[derive(Debug)]
enum Failure {
    Cost(Box<dyn std::error::Error + Send + Sync>),
    TooLarge,
}

impl From<pcre2::Error> for Failure {
    fn from(error: pcre2::Error) -> Self {
        Self::Cost(Box::new(error))
    }
}

/// Too many matches in long lines.
#[derive(Debug, thiserror::Error)]
#[error("a long line that is not ASCII has too many matches")]
struct TooManyMatches;

/// No time is left for the file.
#[derive(Debug, thiserror::Error)]
#[error("the expressions have taken {} seconds for this file", TIME.as_secs())]
struct TooSlow;

/// What is left for one file.
struct Budget {
    /// Bytes that were checked for being UTF-8.
    checked: u64,
    until: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { checked: 0, until: Instant::now() + TIME }
    }

    fn look(&self) -> Result<(), Failure> {
        if self.checked > CHECKED {
            return Err(Failure::Cost(Box::new(TooManyMatches)));
        }
        if Instant::now() >= self.until {
            return Err(Failure::Cost(Box::new(TooSlow)));
        }
        Ok(())
    }
}

/// A group that a replacement names and the pattern does not have.
#[derive(Debug, thiserror::Error)]
#[error("its replacement names group {0}, and its pattern has {1}")]
struct NoGroup(usize, usize);

/// One expression, ready to be done.
struct Compiled<'a> {
    text: &'a str,
    statements: Vec<Ready>,
}

/// A statement with what its patterns became.
struct Ready {
    statement: Statement,
    guard: Option<Matcher>,
    search: Option<Matcher>,
}

/// One pattern.
struct Matcher {
    /// The number of its groups.
    groups: usize,
    /// For lines of the lengths of [`STEPS`].
    engines: [Engine; STEPS.len()],
}

/// One pattern with one limit, for lines that are UTF-8 and for others.
struct Engine {
    characters: Regex,
    /// Also for lines of ASCII alone, on which the two agree.
    bytes: Regex,
    /// Whether `bytes` matches bytes, and not the characters between what is none.
    plain: bool,
}

impl<'a> Compiled<'a> {
    fn new(text: &'a str) -> Result<Self, GuestError> {
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| GuestError::Expression {
            expression: escaped(text),
            source,
        };
        let mut statements = Vec::new();
        for statement in expression::parse(text).map_err(|error| wrong(Box::new(error)))?.statements
        {
            let matcher = |pattern: Option<&Pattern>| {
                pattern.map(Matcher::new).transpose().map_err(|error| wrong(Box::new(error)))
            };
            let guard = matcher(statement.guard.as_ref().map(|guard| &guard.pattern))?;
            let mut search = None;
            if let Action::Substitute { pattern, replacement, .. } = &statement.action {
                let found = Matcher::new(pattern).map_err(|error| wrong(Box::new(error)))?;
                let groups = found.groups;
                for part in replacement {
                    if let Part::Group(group) = part
                        && *group > groups
                    {
                        return Err(wrong(Box::new(NoGroup(*group, groups))));
                    }
                }
                search = Some(found);
            }
            statements.push(Ready { statement, guard, search });
        }
        Ok(Self { text, statements })
    }

    /// The text that becomes of one; an error comes with the number of the line, from 1.
    fn on(&self, text: &[u8], budget: &mut Budget) -> Result<Vec<u8>, (usize, Failure)> {
        let mut out = Vec::with_capacity(text.len());
        for (number, whole) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let line = whole.strip_suffix(b"\n").unwrap_or(whole);
            let line = if line.len() < whole.len() {
                line.strip_suffix(b"\r").unwrap_or(line)
            } else {
                line
            };
            if let Some(changed) =
                self.line(line, budget).map_err(|failure| (number + 1, failure))?
            {
                out.extend_from_slice(&changed);
                out.extend_from_slice(&whole[line.len()..]);
            }
            if out.len() as u64 > LARGEST {
                return Err((number + 1, Failure::TooLarge));
            }
        }
        Ok(out)
    }

    /// What becomes of a line; `None` where it is removed.
    fn line(&self, line: &[u8], budget: &mut Budget) -> Result<Option<Vec<u8>>, Failure> {
        let mut line = line.to_vec();
        for Ready { statement, guard, search } in &self.statements {
            budget.look()?;
            if let (Some(matcher), Some(guard)) = (guard, &statement.guard)
                && matcher.of(&line).0.is_match(&line)? == guard.negated
            {
                continue;
            }
            match &statement.action {
                Action::Delete => return Ok(None),
                Action::Transliterate(map) => {
                    let mut changed = Vec::with_capacity(line.len());
                    for chunk in line.utf8_chunks() {
                        for c in chunk.valid().chars() {
                            if let Some(c) = map.get(&c).copied().unwrap_or(Some(c)) {
                                changed.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                            }
                        }
                        changed.extend_from_slice(chunk.invalid());
                    }
                    line = changed;
                }
                Action::Substitute { replacement, all, .. } => {
                    let search = search.as_ref().expect("compiled with the statement");
                    if let Some(changed) = search.replace(&line, replacement, *all, budget)? {
                        line = changed;
                    }
                }
            }
        }
        Ok(Some(line))
    }
}

impl Matcher {
    fn new(pattern: &Pattern) -> Result<Self, pcre2::Error> {
        let builder = || {
            let mut builder = RegexBuilder::new();
            builder
                .caseless(pattern.caseless)
                .multi_line(pattern.multi_line)
                .dotall(pattern.dot_all)
                .extended(pattern.extended);
            builder
        };
        // By itself first, as an error counts from the start of what is compiled.
        let groups = builder().utf(true).build(&pattern.regex)?.captures_len() - 1;
        let engine = |steps: &str| {
            let regex = format!("{steps}{LIMITS}{}", pattern.regex);
            let characters = builder().utf(true).build(&regex)?;
            // Of a character in the pattern, bytes could match a part. One that is written as a
            // number is no pattern for bytes at all.
            let plain = if pattern.regex.is_ascii() { builder().build(&regex).ok() } else { None };
            Ok::<_, pcre2::Error>(match plain {
                Some(bytes) => Engine { characters, bytes, plain: true },
                // With this option PCRE2 passes over what is no character.
                None => {
                    Engine { characters, bytes: builder().ucp(true).build(&regex)?, plain: false }
                }
            })
        };
        let [(_, short), (_, long), (_, huge)] = STEPS;
        Ok(Self { groups, engines: [engine(short)?, engine(long)?, engine(huge)?] })
    }

    /// What matches a line, and whether PCRE2 checks the line for being UTF-8 first.
    fn of(&self, line: &[u8]) -> (&Regex, bool) {
        let longer = STEPS.iter().filter(|(longest, _)| line.len() > *longest).count();
        let engine = &self.engines[longer];
        let text = !line.is_ascii() && std::str::from_utf8(line).is_ok();
        if text { (&engine.characters, true) } else { (&engine.bytes, !engine.plain) }
    }

    /// The line with the first match, or all, replaced; `None` where nothing matches.
    fn replace(
        &self,
        line: &[u8],
        replacement: &[Part],
        all: bool,
        budget: &mut Budget,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let (regex, is_checked) = self.of(line);
        let mut groups = regex.capture_locations();
        let (mut out, mut copied, mut at) = (Vec::new(), 0, 0);
        let mut last_end = None;
        while at <= line.len()
            && let Some(found) = regex.captures_read_at(&mut groups, line, at)?
        {
            let (start, end) = (found.start(), found.end());
            // PCRE2 before 10.38 lets `\K` in a lookahead start a match behind its end.
            if start < copied || end < start {
                break;
            }
            // As with sed, nothing is matched once more right behind a match.
            if start < end || last_end != Some(end) {
                append(&mut out, &line[copied..start])?;
                fill(&mut out, replacement, &groups, line)?;
                (copied, last_end) = (end, Some(end));
            }
            if !all {
                break;
            }
            if is_checked {
                budget.checked += (line.len() - end) as u64;
            }
            budget.look()?;
            at = if start < end { end } else { next_character(line, end) };
        }
        if last_end.is_none() {
            return Ok(None);
        }
        append(&mut out, &line[copied..])?;
        Ok(Some(out))
    }
}

fn fill(
    out: &mut Vec<u8>,
    replacement: &[Part],
    groups: &CaptureLocations,
    line: &[u8],
) -> Result<(), Failure> {
    for part in replacement {
        match part {
            Part::Text(text) => append(out, text.as_bytes())?,
            Part::Group(number) => {
                if let Some((start, end)) = groups.get(*number) {
                    append(out, &line[start..end])?;
                }
            }
        }
    }
    Ok(())
}

/// Appends to a line where that does not grow too large; nothing is appended otherwise.
fn append(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Failure> {
    if (out.len() + bytes.len()) as u64 > LARGEST {
        return Err(Failure::TooLarge);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Where the character after the one at `at` starts; in bytes that are no text, the next byte.
fn next_character(line: &[u8], at: usize) -> usize {
    let rest = line.get(at..).unwrap_or_default();
    let first = rest.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next());
    at + first.map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(expression: &str, text: &[u8]) -> Vec<u8> {
        Compiled::new(expression).unwrap().on(text, &mut Budget::new()).unwrap()
    }

    fn failed(expression: &str, text: &[u8]) -> (usize, Failure) {
        // Without the text, which may be millions of bytes.
        Compiled::new(expression).unwrap().on(text, &mut Budget::new()).map(drop).unwrap_err()
    }

    #[test]
    fn lines_change_as_with_perl_and_sed() {
        let table: &[(&str, &[u8], &[u8])] = &[
            ("s/^#?UseDNS .*/UseDNS no/", b"#UseDNS yes\nX\n", b"UseDNS no\nX\n"),
            ("s/a/b/", b"aa\naa", b"ba\nba"),
            ("s/a/b/g", b"aa\r\naa", b"bb\r\nbb"),
            ("s/$/!/", b"a\r\nb\nc", b"a!\r\nb!\nc!"),
            ("s/A(.)/$1$1<$&>/i", b"xab", b"xbb<ab>"),
            ("s/(a)|(b)/[\\1|${2}]/g", b"ab", b"[a|][|b]"),
            ("s/x*/-/g", b"abc", b"-a-b-c-"),
            ("s/a*/-/g", b"baaac", b"-b-c-"),
            ("s/x*/-/g", "ä€".as_bytes(), "-ä-€-".as_bytes()),
            ("s/^.//", "äb\n".as_bytes(), b"b\n"),
            ("s/^.//", b"\xe4b\n", b"b\n"),
            ("s/[äö]/x/", b"\xc3\xb6 \xe4", b"x \xe4"),
            ("s/[äö]/x/", b"\xe4\xa4\n", b"\xe4\xa4\n"),
            ("s/.*/x/", b"a\xffb\n\n", b"x\nx\n"),
            ("s,/usr,\\n$&,", b"a/usr\n", b"a\n/usr\n"),
            ("/^#/d", b"#a\nb\n#c", b"b\n"),
            ("/^#/!d", b"#a\nb\n#c", b"#a\n#c"),
            ("$_ = \"\" if /^#/", b"#a\nb\n", b"b\n"),
            ("/b/ s/a/x/; s/b/y/ unless /a/", b"ab\na\nb\n", b"xy\na\ny\n"),
            ("tr/a-z/A-Z/", "aäz\n".as_bytes(), "AäZ\n".as_bytes()),
            ("tr/äa//d", b"\xc3\xa4ba\xe4", b"b\xe4"),
            ("y/abc/x/", b"abcd", b"xxxd"),
            ("s/ a \\ # b/x/x", b"a ", b"x"),
            ("s/a\\/b/x/", b"a/b", b"x"),
            ("s|a\\|b|x|", b"a|b", b"x"),
            ("s/a/b/", b"", b""),
        ];
        for (expression, before, after) in table {
            let got = edited(expression, before);
            assert_eq!(
                (expression, String::from_utf8_lossy(&got)),
                (expression, String::from_utf8_lossy(after))
            );
            assert_eq!(got, *after);
        }
    }

    #[test]
    fn a_line_that_was_split_is_two_for_the_next_expression() {
        let split = edited("s/,/\\n/", b"a,b\n");
        assert_eq!(edited("s/^/-/", &split), b"-a\n-b\n");
        assert_eq!(edited("s/,/\\n/; s/^/-/mg", b"a,b\n"), b"-a\n-b\n");
    }

    #[test]
    fn what_costs_too_much_or_grows_too_large_ends() {
        let line = [b"ok\n".as_slice(), &[b'a'; 64], b"!\n"].concat();
        assert!(matches!(failed("s/(a+)+$/x/", &line), (2, Failure::Cost(_))));
        let text = vec![b'a'; 1 << 20];
        let hundred = format!("s/a/{}/g", "b".repeat(100));
        assert!(matches!(failed(&hundred, &text), (1, Failure::TooLarge)));
        let text = [b"\n".as_slice(), "ä".repeat(1 << 20).as_bytes()].concat();
        let mut budget = Budget { checked: CHECKED - (1 << 20), ..Budget::new() };
        let matcher = &Compiled::new("s/ä/a/g").unwrap();
        assert!(matches!(matcher.line(&text, &mut budget), Err(Failure::Cost(_))));
    }

    #[test]
    fn a_long_line_has_fewer_steps_at_each_of_its_places() {
        let start = Instant::now();
        for blanks in [1_000_000, 8_000_000] {
            let line = [&vec![b' '; blanks][..], b"x y"].concat();
            // What `\s+` takes before a `y`, PCRE2 by itself would not give back, nor count.
            for expression in ["s/\\s+$//", "s/\\s+y//", "s/a/b/ if /\\s+y/"] {
                let found = failed(expression, &line);
                assert!(matches!(found, (1, Failure::Cost(_))), "{expression}");
            }
            assert!(edited("s/ +x/z/", &line) == b"z y");
            assert!(edited("s/y$/z/", &line).ends_with(b"x z"));
        }
        // Without the limits it is hours.
        assert!(start.elapsed() < TIME);
    }

    #[test]
    fn a_file_has_so_much_time() {
        let mut budget = Budget { until: Instant::now(), ..Budget::new() };
        let late = |found: Result<Vec<u8>, (usize, Failure)>| match found {
            Err((line, Failure::Cost(source))) => (line, source.to_string()),
            other => panic!("{other:?}"),
        };
        let why = "the expressions have taken 60 seconds for this file".to_owned();
        let found = Compiled::new("s/a/b/").unwrap().on(b"a", &mut budget);
        assert_eq!(late(found), (1, why.clone()));
        // Also within one line.
        let matcher = Compiled::new("s/a/b/g").unwrap();
        let search = matcher.statements[0].search.as_ref().unwrap();
        let within = search.replace(b"aa", &[], true, &mut budget).map(Option::unwrap_or_default);
        assert_eq!(late(within.map_err(|failure| (1, failure))), (1, why));
    }

    #[test]
    fn a_replacement_is_not_made_before_its_size_is_known() {
        let text = vec![b'a'; 1 << 20];
        let thousand = format!("s/(.*)/{}/", "$1".repeat(1000));
        let matcher = Compiled::new(&thousand).unwrap();
        let Action::Substitute { replacement, .. } = &matcher.statements[0].statement.action else {
            panic!("it is a substitution");
        };
        let search = matcher.statements[0].search.as_ref().unwrap();
        let (regex, _) = search.of(&text);
        let mut groups = regex.capture_locations();
        regex.captures_read(&mut groups, &text).unwrap().unwrap();
        let mut out = Vec::new();
        assert!(matches!(fill(&mut out, replacement, &groups, &text), Err(Failure::TooLarge)));
        assert_eq!(out.len() as u64, LARGEST);
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        for expression in
            ["s/(/x/", "s/*a/x/", "s/(a)/$2/", "/[z-a]/d", "s/a/b/ if /(?<n>/", "s/(?=a\\K)/x/g"]
        {
            assert!(Compiled::new(expression).is_err(), "{expression}");
        }
    }
}
