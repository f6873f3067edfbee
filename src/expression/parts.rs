//! The parts between the delimiters: patterns, flags, replacements, sets of characters.
//!
//! It does not know in which statement they stand.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use super::{ExpressionError, Part, Pattern, fault};

/// Most characters of one set: a range can name a million with three.
const LARGEST_SET: usize = 1 << 16;
const NO_VARIABLES: &str = "kiln has no variables; write `\\$` for a dollar sign";
const NO_PERL: &str = "use `run-command` with the guest's own perl";

/// The delimiter that closes one of a pair.
pub(super) fn is_paired(open: char) -> Option<char> {
    match open {
        '{' => Some('}'),
        '(' => Some(')'),
        '[' => Some(']'),
        '<' => Some('>'),
        _ => None,
    }
}

/// How a pattern is meant, without its text; and whether `g` is written.
pub(super) fn flags(letters: &str, substitutes: bool) -> Result<(Pattern, bool), ExpressionError> {
    let mut pattern = Pattern {
        regex: String::new(),
        caseless: false,
        multi_line: false,
        dot_all: false,
        extended: false,
    };
    let mut all = false;
    for letter in letters.chars() {
        match letter {
            'i' | 'I' => pattern.caseless = true,
            'm' => pattern.multi_line = true,
            's' => pattern.dot_all = true,
            'x' => pattern.extended = true,
            'g' if substitutes => all = true,
            'e' => {
                return Err(fault(
                    "the flag `e` runs the replacement, and kiln runs no Perl",
                    NO_PERL,
                ));
            }
            _ => {
                let help = "the flags are `g`, `i`, `m`, `s` and `x`";
                return Err(fault(format!("its flag `{letter}` is not known"), help));
            }
        }
    }
    Ok((pattern, all))
}

/// A pattern as written between delimiters. The backslash of an escaped delimiter stays, so that it
/// means itself.
pub(super) fn pattern(text: &str, flags: &Pattern) -> Result<Pattern, ExpressionError> {
    if text.is_empty() {
        let why = "an empty pattern is, in Perl and sed, the one used last";
        return Err(fault(why, "write the pattern again"));
    }
    if text.starts_with("(*") {
        return Err(fault("a pattern may not start with a setting of the engine", "remove it"));
    }
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '(' if chars.peek() == Some(&'?') => {
                let rest: String = chars.clone().take(3).collect();
                if rest.starts_with("?{") || rest.starts_with("??{") {
                    let why = "its pattern has code in it, and kiln runs no Perl";
                    return Err(fault(why, NO_PERL));
                }
            }
            '$' if chars.peek().is_some_and(|&c| c.is_ascii_alphabetic() || "_{".contains(c)) => {
                return Err(fault("its pattern has a variable in it", NO_VARIABLES));
            }
            _ => {}
        }
    }
    Ok(Pattern { regex: text.to_owned(), ..flags.clone() })
}

/// A replacement as written before the delimiter `close`.
pub(super) fn replacement(text: &str, close: char) -> Result<Vec<Part>, ExpressionError> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let group = match c {
            '$' => group(&mut chars)?,
            '\\' => {
                let digit = chars.peek().and_then(|c| c.to_digit(10)).filter(|&digit| digit > 0);
                if let Some(digit) = digit {
                    chars.next();
                    digit as usize
                } else {
                    plain.push(escape(&mut chars, close)?);
                    continue;
                }
            }
            _ => {
                plain.push(c);
                continue;
            }
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Group(group));
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// What stands behind a dollar sign: `1`, `{1}` or `&`.
fn group(chars: &mut Peekable<Chars<'_>>) -> Result<usize, ExpressionError> {
    let none = || fault("its replacement has a variable in it", NO_VARIABLES);
    if chars.next_if_eq(&'&').is_some() {
        return Ok(0);
    }
    let braced = chars.next_if_eq(&'{').is_some();
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    if braced && chars.next() != Some('}') {
        return Err(none());
    }
    // Perl's `$0` is the name of the program.
    digits.parse().ok().filter(|&group: &usize| group > 0).ok_or_else(none)
}

/// The character that is meant by what stands behind a backslash.
fn escape(chars: &mut Peekable<Chars<'_>>, close: char) -> Result<char, ExpressionError> {
    let help = "the escapes are `\\n`, `\\t`, `\\r`, `\\f`, `\\e`, `\\xHH` and a backslash before a mark; a `\\` is written twice";
    match chars.next() {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('r') => Ok('\r'),
        Some('f') => Ok('\u{c}'),
        Some('e') => Ok('\u{1b}'),
        Some('x') => {
            let braced = chars.next_if_eq(&'{').is_some();
            let mut digits = String::new();
            while (braced || digits.len() < 2)
                && let Some(digit) = chars.next_if(char::is_ascii_hexdigit)
            {
                digits.push(digit);
            }
            let closed = !braced || chars.next() == Some('}');
            let found = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
            found.filter(|_| closed).ok_or_else(|| fault("its `\\x` is no character", help))
        }
        Some(c) if c == close || !c.is_alphanumeric() => Ok(c),
        Some(c) => Err(fault(format!("`\\{c}` is not known in a replacement"), help)),
        None => Err(fault("it ends in a backslash", help)),
    }
}

/// What each character becomes. Where `to` is shorter, its last one stands for the rest.
pub(super) fn transliteration(
    from: &str,
    to: &str,
    letters: &str,
) -> Result<BTreeMap<char, Option<char>>, ExpressionError> {
    if !letters.is_empty() && letters != "d" {
        let why = format!("its flag `{letters}` is not known");
        return Err(fault(why, "the only flag is `d`, which removes what has no counterpart"));
    }
    let (from, to) = (set(from)?, set(to)?);
    if from.is_empty() {
        return Err(fault("it names no characters", "write them: `tr/a-z/A-Z/`"));
    }
    let delete = letters == "d";
    let mut map = BTreeMap::new();
    for (at, &c) in from.iter().enumerate() {
        let other = match (to.get(at), to.last()) {
            (Some(&other), _) => Some(other),
            (None, _) if delete => None,
            (None, Some(&last)) => Some(last),
            (None, None) => Some(c),
        };
        map.entry(c).or_insert(other);
    }
    Ok(map)
}

/// The characters of a set such as `a-zA-Z_`, in order.
fn set(text: &str) -> Result<Vec<char>, ExpressionError> {
    let mut found: Vec<char> = Vec::new();
    let mut chars = text.chars().peekable();
    let mut open = false;
    while let Some(c) = chars.next() {
        // A dash means a range between two characters, and itself anywhere else.
        let start = found.last().copied().filter(|_| open && c == '-' && chars.peek().is_some());
        let mut one = |c: char| if c == '\\' { escape(&mut chars, c) } else { Ok(c) };
        let Some(start) = start else {
            found.push(one(c)?);
            open = true;
            continue;
        };
        let next = chars.next().unwrap_or('-');
        let end = if next == '\\' { escape(&mut chars, next)? } else { next };
        if end < start || (start..=end).count() + found.len() > LARGEST_SET {
            let why = format!("`{start}-{end}` is no range of characters");
            return Err(fault(why, "write the lower end first"));
        }
        found.extend((start..=end).skip(1));
        open = false;
    }
    Ok(found)
}
