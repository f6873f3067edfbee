//! Passwords in inputs: found by their names, so that nothing that is shown repeats them.
//!
//! A text is searched as it is, whatever it is a text of: a report shows the lines around its
//! places, and those may be of any command. Rather too much is hidden than too little.

use std::ops::Range;

/// What the name of a secret contains.
const NAMES: &[&str] = &["password", "passwd", "passphrase", "secret", "token", "credentials"];
/// What it may end with instead.
const ENDINGS: &[&str] = &["pass", "pwd"];
/// Endings of names that are about a secret, and are none.
const ABOUT: &[&str] = &["crypto", "file", "path"];
/// Selectors of virt-customize that hold no password.
const SELECTORS: &[&str] = &["lock", "locked", "disable", "disabled", "random"];
/// Options that stand at the start of a line in a file of commands.
const COMMANDS: &[&str] = &["password", "root-password", "sm-credentials"];

/// The same text with `*` for each byte of what looks like a password: every place in it stays
/// where it is.
#[must_use]
pub fn masked(text: &str) -> String {
    replaced(text, |secret, out| out.extend(std::iter::repeat_n('*', secret.len())))
}

/// The same text with `…` for what looks like a password.
pub(super) fn hidden(text: &str) -> String {
    replaced(text, |_, out| out.push('…'))
}

fn replaced(text: &str, put: impl Fn(&str, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = 0;
    for range in ranges(text) {
        out.push_str(&text[start..range.start]);
        put(&text[range.clone()], &mut out);
        start = range.end;
    }
    out.push_str(&text[start..]);
    out
}

/// Where secrets stand, in their order.
fn ranges(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let mut found = Vec::new();
    let (mut at, mut quote, mut line) = (0, None, true);
    while let Some(byte) = bytes.get(at) {
        if letter(byte) {
            let len = bytes[at..].iter().take_while(|byte| letter(byte)).count();
            let name = text[at..at + len].to_ascii_lowercase();
            let bare = at > 0 && bytes[at - 1] == b':' && name == "key";
            at += len;
            // Quotes around the name are not those of the value.
            let around = quote.filter(|mark| bytes.get(at) != Some(mark));
            let secret = match value(bytes, at) {
                Some(from) if bare || is_secret(&name) => {
                    quote = around;
                    Some(from..end(bytes, from, quote))
                }
                None if is_option(&name, line) => word(text, at),
                _ => None,
            };
            line = false;
            if let Some(range) = secret.filter(|range| !range.is_empty()) {
                at = range.end;
                found.push(range);
            }
            continue;
        }
        match byte {
            b'\n' => (quote, line) = (None, true),
            b'\\' if quote != Some(b'\'') && bytes.get(at + 1) != Some(&b'\n') => at += 1,
            b'\'' | b'"' if quote.is_none() => quote = Some(*byte),
            b'\'' | b'"' if quote == Some(*byte) => quote = None,
            _ => {}
        }
        line &= byte.is_ascii_whitespace();
        at += 1;
    }
    found
}

fn is_secret(name: &str) -> bool {
    let named = NAMES.iter().any(|part| name.contains(part));
    (named || ENDINGS.iter().any(|ending| name.ends_with(ending)))
        && !ABOUT.iter().any(|ending| name.ends_with(ending))
}

/// Whether a name takes the word behind it as a secret.
fn is_option(name: &str, first: bool) -> bool {
    match name.strip_prefix("--") {
        Some(name) => name == "key" || is_secret(name),
        None => first && COMMANDS.contains(&name),
    }
}

/// Where the value behind `NAME=`, `NAME:`, `"NAME": ` or `NAME = ` starts.
fn value(bytes: &[u8], mut at: usize) -> Option<usize> {
    let blanks =
        |at: usize| bytes[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count() + at;
    if matches!(bytes.get(at), Some(b'"' | b'\'')) {
        at += 1;
    }
    at = blanks(at);
    matches!(bytes.get(at), Some(b'=' | b':')).then(|| blanks(at + 1))
}

/// Where a value ends: with the quotes that it stands in, or before the next blank that is in none.
fn end(bytes: &[u8], mut at: usize, quote: Option<u8>) -> usize {
    let mut open = quote;
    while let Some(byte) = bytes.get(at) {
        match (byte, open) {
            (b'\n', _) => break,
            (b'\\', Some(b'"') | None) if bytes.get(at + 1).is_some_and(u8::is_ascii_graphic) => {
                at += 1;
            }
            (byte, Some(mark)) if *byte == mark && quote.is_some() => break,
            (byte, Some(mark)) if *byte == mark => open = None,
            (b'\'' | b'"', None) => open = Some(*byte),
            (byte, None) if byte.is_ascii_whitespace() => break,
            _ => {}
        }
        at += 1;
    }
    at
}

/// The word behind an option, unless it is seen to hold no password, or is found by its name.
fn word(text: &str, at: usize) -> Option<Range<usize>> {
    let blank = |c: char| c.is_whitespace() || c == '\\';
    let start = text.len() - text[at..].trim_start_matches(blank).len();
    if start == at {
        return None;
    }
    let word = start..end(text.as_bytes(), start, None);
    let plain = text[word.clone()].trim_matches(['"', '\'']).to_ascii_lowercase();
    let harmless = plain.starts_with('-')
        || ["password:", "file:", ":key:"].iter().any(|part| plain.contains(part))
        || plain.rsplit(':').next().is_some_and(|last| SELECTORS.contains(&last));
    (!harmless).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        for (text, shown) in [
            ("--root-password password:hunter2 -v", "--root-password password:… -v"),
            ("--root-password=password:hunter2", "--root-password=…"),
            ("--root-passwd=password:hunter2", "--root-passwd=…"),
            ("--root-password hunter2", "--root-password …"),
            ("--password 'ada:password:hun ter2' -v", "--password 'ada:password:…' -v"),
            ("--password ada:password:hun' 'ter2 -v", "--password ada:password:… -v"),
            ("--password \"my ada:password:a\\\"b c\" x", "--password \"my ada:password:…\" x"),
            ("--sm-credentials u:password:p", "--sm-credentials u:password:…"),
            ("--key /dev/sda2:key:hunter2", "--key /dev/sda2:key:…"),
            ("root-password hunter2\n", "root-password …\n"),
            ("PASS=hunter2\necho", "PASS=…\necho"),
            ("export DB_PASSWORD=\"a b\" x", "export DB_PASSWORD=… x"),
            ("  \"ssh_password\": \"packer\"", "  \"ssh_password\": …"),
            ("ssh_password = \"packer\"", "ssh_password = …"),
            ("mysql --password hunter2", "mysql --password …"),
            ("--root-password \\\n  hunter2", "--root-password \\\n  …"),
        ] {
            assert_eq!(hidden(text), shown);
        }
    }

    #[test]
    fn what_is_no_password_stays() {
        for text in [
            "--root-password locked --password ada:disabled",
            "--root-password file:pw.txt",
            "--password-crypto sha512",
            "--root-password --update",
            "secret \"root-password\" env=\"KILN_ROOT\"",
            "the password is kept elsewhere",
        ] {
            assert_eq!(hidden(text), text);
        }
    }

    proptest! {
        #[test]
        fn places_stay(text in "(pass|password|--key|[:= '\"\\\\\nä]){0,16}") {
            let shown = masked(&text);
            prop_assert_eq!(shown.len(), text.len());
            prop_assert_eq!(shown.matches('\n').count(), text.matches('\n').count());
        }
    }
}
