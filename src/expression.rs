//! The expressions of `edit`: what users of Perl and sed write to change lines, as data.
//!
//! It knows no engine of regular expressions: whether a pattern is one is seen where it is compiled,
//! in the guest's operation. Nothing of Perl is run; what would need it is an error.

mod parts;

use std::collections::BTreeMap;

use parts::{flags, is_paired, pattern, replacement, transliteration};

/// What one expression does with a line: statements, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// At least one.
    pub statements: Vec<Statement>,
}

/// One change, and when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The lines that it is for; all where none is written.
    pub guard: Option<Guard>,
    /// The change.
    pub action: Action,
}

/// Which lines a statement is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Looked for anywhere in the line.
    pub pattern: Pattern,
    /// Whether it is for the lines that do *not* match.
    pub negated: bool,
}

/// A regular expression of Perl's kind, not compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Pattern {
    /// Its text.
    pub regex: String,
    /// `i`: letters match whatever their case.
    pub caseless: bool,
    /// `m`: `^` and `$` also match at line ends inside, which a replacement can have made.
    pub multi_line: bool,
    /// `s`: `.` also matches such a line end.
    pub dot_all: bool,
    /// `x`: blanks and comments in the pattern mean nothing.
    pub extended: bool,
}

/// A change of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `/RE/d`: the line goes, with its end.
    Delete,
    /// `s/RE/…/`.
    Substitute {
        /// What is replaced.
        pattern: Pattern,
        /// What comes in its place.
        replacement: Vec<Part>,
        /// `g`: every match, not the first alone.
        all: bool,
    },
    /// `tr/abc/xyz/`: each character, and what it becomes; `None` where it goes.
    Transliterate(BTreeMap<char, Option<char>>),
}

/// A piece of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Itself.
    Text(String),
    /// What a group matched, empty where it took no part; 0 is the whole match.
    Group(usize),
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct ExpressionError {
    /// What is wrong, with the place in the text.
    pub why: String,
    /// What to write instead.
    pub help: &'static str,
}

/// What can be written, for helps.
const FORMS: &str = "write `s/…/…/`, `tr/…/…/`, `y/…/…/` or `/…/d`, several with `;` between them; for anything \
    else use `run-command` with the guest's own sed or perl";

fn fault(why: impl Into<String>, help: &'static str) -> ExpressionError {
    ExpressionError { why: why.into(), help }
}

/// Reads an expression.
///
/// # Errors
/// [`ExpressionError`], which names the first thing that is wrong.
pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
    let mut rest = Rest(text);
    let mut statements = Vec::new();
    loop {
        rest.skip(|c| c.is_whitespace() || c == ';');
        if rest.0.is_empty() {
            break;
        }
        statements.push(statement(&mut rest)?);
        rest.skip(char::is_whitespace);
        if !rest.0.is_empty() && !rest.0.starts_with(';') {
            return Err(unknown(rest.0));
        }
    }
    if statements.is_empty() {
        return Err(fault("it is empty", FORMS));
    }
    Ok(Expression { statements })
}

/// What of an expression is not yet read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(what);
    }

    fn take(&mut self, prefix: &str) -> bool {
        self.0.strip_prefix(prefix).map(|rest| self.0 = rest).is_some()
    }

    /// Takes a word that is not only the start of a longer one.
    fn word(&mut self, word: &str) -> bool {
        match self.0.strip_prefix(word) {
            Some(rest) if !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes the letters and digits that come next.
    fn letters(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !c.is_alphanumeric()).unwrap_or(self.0.len());
        let (letters, rest) = self.0.split_at(end);
        self.0 = rest;
        letters
    }

    /// Takes a delimiter; gives it and the one that closes.
    fn delimiter(&mut self) -> Option<(char, char)> {
        let open = self.0.chars().next()?;
        if !open.is_ascii_punctuation() || "\\_'".contains(open) {
            return None;
        }
        self.0 = &self.0[1..];
        Some((open, is_paired(open).unwrap_or(open)))
    }

    /// Takes what comes before the closing delimiter, with its backslashes.
    fn until(&mut self, (open, close): (char, char)) -> Result<&'a str, ExpressionError> {
        let (mut depth, mut escaped) = (0_u32, false);
        for (at, c) in self.0.char_indices() {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == close && depth == 0 {
                let inside = &self.0[..at];
                self.0 = &self.0[at + 1..];
                return Ok(inside);
            } else if c == close {
                depth -= 1;
            } else if c == open && open != close {
                depth += 1;
            }
        }
        Err(fault(format!("`{close}` is missing at its end"), "close every part of the expression"))
    }

    /// Takes the two parts of `s/…/…/`, whose first delimiter comes next.
    fn two(&mut self) -> Option<Result<(&'a str, &'a str, char), ExpressionError>> {
        let first = self.delimiter()?;
        Some(self.two_within(first))
    }

    fn two_within(
        &mut self,
        first: (char, char),
    ) -> Result<(&'a str, &'a str, char), ExpressionError> {
        let from = self.until(first)?;
        let mut second = first;
        if first.0 != first.1 {
            self.skip(char::is_whitespace);
            let help = "write it like this: `s{…}{…}`";
            second = self.delimiter().ok_or_else(|| fault("its second part is missing", help))?;
        }
        Ok((from, self.until(second)?, second.1))
    }
}

fn unknown(text: &str) -> ExpressionError {
    let shown = crate::mistake::quoted(text);
    if text.starts_with(|c: char| c.is_ascii_digit()) || text.starts_with("$d") {
        return fault(
            format!("{shown} names lines by number, which kiln does not count"),
            "choose the lines by what is in them: `/…/ s/…/…/`",
        );
    }
    fault(format!("{shown} is nothing that kiln knows, and kiln runs no Perl"), FORMS)
}

fn statement(rest: &mut Rest<'_>) -> Result<Statement, ExpressionError> {
    let mut guard = None;
    if rest.0.starts_with('/') {
        let found = searched(rest)?;
        rest.skip(char::is_whitespace);
        let negated = rest.take("!");
        rest.skip(char::is_whitespace);
        guard = Some(Guard { pattern: found, negated });
    }
    let start = rest.0;
    let action = if let Some(action) = change(rest)? {
        action
    } else if rest.word("d") || empties(rest) {
        Action::Delete
    } else {
        rest.0 = start;
        return Err(unknown(rest.0));
    };
    rest.skip(char::is_whitespace);
    let suffix = if rest.word("if") {
        Some(false)
    } else if rest.word("unless") {
        Some(true)
    } else {
        None
    };
    if let Some(negated) = suffix {
        if guard.is_some() {
            return Err(fault("it says twice which lines are meant", "write one pattern only"));
        }
        rest.skip(char::is_whitespace);
        guard = Some(Guard { pattern: searched(rest)?, negated });
    }
    if guard.is_none() && action == Action::Delete {
        return Err(fault(
            "it would remove every line",
            "say which: `/…/d`; `truncate` empties a whole file",
        ));
    }
    Ok(Statement { guard, action })
}

/// `s/…/…/`, `tr/…/…/` or `y/…/…/`; nothing is taken where something else comes.
fn change(rest: &mut Rest<'_>) -> Result<Option<Action>, ExpressionError> {
    let start = rest.0;
    for word in ["s", "tr", "y"] {
        if !rest.take(word) {
            continue;
        }
        let Some(two) = rest.two() else {
            rest.0 = start;
            continue;
        };
        let (from, to, close) = two?;
        let letters = rest.letters();
        if word != "s" {
            return transliteration(from, to, letters).map(|map| Some(Action::Transliterate(map)));
        }
        let (flags, all) = flags(letters, true)?;
        let (pattern, replacement) = (pattern(from, &flags)?, replacement(to, close)?);
        return Ok(Some(Action::Substitute { pattern, replacement, all }));
    }
    Ok(None)
}

/// `/RE/`, or `m{RE}`, with its flags.
fn searched(rest: &mut Rest<'_>) -> Result<Pattern, ExpressionError> {
    let start = rest.0;
    let delimiter = if rest.0.starts_with('/') || rest.take("m") { rest.delimiter() } else { None };
    let Some(delimiter) = delimiter else {
        let shown = crate::mistake::quoted(start);
        let why = format!("a pattern is expected, and {shown} is written");
        return Err(fault(why, "write it between slashes: `s/…/…/ if /…/`"));
    };
    let regex = rest.until(delimiter)?;
    // A command follows a pattern without a blank between them in sed: `/RE/d`, `/RE/Is/…/…/`.
    let end = rest.0.find(|c| !"imsxI".contains(c)).unwrap_or(rest.0.len());
    let mut letters = &rest.0[..end];
    if letters.ends_with('s')
        && rest.0[end..].starts_with(|c: char| c.is_ascii_punctuation() && c != ';')
    {
        letters = &letters[..end - 1];
    }
    rest.0 = &rest.0[letters.len()..];
    pattern(regex, &flags(letters, false)?.0)
}

/// Perl's `$_ = ""`, which removes a line.
fn empties(rest: &mut Rest<'_>) -> bool {
    if !rest.word("$_") {
        return false;
    }
    rest.skip(char::is_whitespace);
    if !rest.take("=") {
        return false;
    }
    rest.skip(char::is_whitespace);
    rest.take("\"\"") || rest.take("''")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_known_and_what_is_not() {
        let mut text = String::new();
        for expression in [
            "s/^#?UseDNS .*/UseDNS no/",
            "s,/usr/bin,/bin,gi; s/a/b/ ;",
            "s{a{2}(b)} {${1}x$&\\1\\$5}x",
            "s<a>(b)",
            "s|a\\|b|c\\|d\\n\\x41\\x{e4}|",
            "/^root/ s/x/y/",
            "/^root/s/x/y/",
            "/^root/!s/x/y/",
            "/a/i d",
            "/a/d",
            "/a/Id",
            "s/x/y/ if /^root/i",
            "s/x/y/ unless m{^/root}",
            "$_ = \"\" if /^#/",
            "tr/a-cx/A-C/",
            "tr/a-c//d",
            "y/-a/_b/",
            "y/a/b/ if /c/",
            "",
            " ; ",
            "s/a/b",
            "s/a/b/e",
            "s/a/b/gee",
            "s/a/b/2",
            "s/a/b/p",
            "s//b/",
            "s a b ",
            "s_a_b_",
            "s'a'b'",
            "s/$name/x/",
            "s/a/$name/",
            "s/a/${name}/",
            "s/a/b$/",
            "s/a/\\U$1/",
            "s/a(?{ system 'id' })/b/",
            "s/(*UTF)a/b/",
            "s{a}",
            "s/a/b/ s/c/d/",
            "/a/ s/b/c/ if /d/",
            "s/a/b/ if $x",
            "print if /a/",
            "system(\"id\")",
            "$_ = lc",
            "$_ = \"\"",
            "d",
            "$d",
            "3d",
            "/a/p",
            "tr/z-a/b/",
            "tr/a/b/c",
            "tr//b/",
        ] {
            match parse(expression) {
                Ok(found) => writeln!(text, "{expression:?}\n    {found:?}"),
                Err(error) => {
                    writeln!(text, "{expression:?}\n    {error}\n    help: {}", error.help)
                }
            }
            .unwrap();
        }
        insta::assert_snapshot!(text);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[smtry/{}a$\\\\_=\"; d(*?xg0-9äif-]{0,24}") {
            let _ = parse(&text);
        }
    }
}
