//! The forms in which a value turns up: as it is, and as usual programs encode it.

use std::collections::BTreeSet;
use std::fmt::Write;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, StartKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use zeroize::Zeroizing;

use super::SecretValue;
use crate::name::SecretName;

/// Patterns of so many bytes together get the faster kind of automaton, which takes up to a
/// kilobyte for each byte.
const FAST: usize = 16 << 10;
/// Fewest bytes of one line of a value that is looked for by itself.
const SHORTEST_LINE: usize = 16;
/// The same on a disk, where much else is written too.
const SHORTEST_KEY_LINE: usize = 32;

/// Every form of some secrets, longest first, and an automaton that finds them. The forms are wiped
/// when they go; what the automaton holds of them cannot be.
#[derive(Debug)]
pub(super) struct Needles {
    /// The forms, and which of `names` each belongs to.
    pub(super) forms: Vec<(Zeroizing<Vec<u8>>, usize)>,
    /// The names of the secrets.
    pub(super) names: Vec<SecretName>,
    /// Finds the leftmost form, and the longest of those; its patterns are `forms`.
    pub(super) automaton: AhoCorasick,
}

impl Needles {
    pub(super) fn new(
        secrets: &[(SecretName, SecretValue)],
        forms_of: impl Fn(&[u8]) -> BTreeSet<Vec<u8>>,
    ) -> Self {
        let mut forms: Vec<(Zeroizing<Vec<u8>>, usize)> = Vec::new();
        for (number, (_, value)) in secrets.iter().enumerate() {
            forms.extend(forms_of(&value.0).into_iter().map(|form| (form.into(), number)));
        }
        forms.sort_by(|(a, of_a), (b, of_b)| {
            b.len().cmp(&a.len()).then_with(|| a.as_slice().cmp(b)).then(of_a.cmp(of_b))
        });
        forms.dedup_by(|a, b| a.0 == b.0);
        let total: usize = forms.iter().map(|(form, _)| form.len()).sum();
        let kind =
            if total <= FAST { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let automaton = AhoCorasick::builder()
            .kind(Some(kind))
            .match_kind(MatchKind::LeftmostLongest)
            .start_kind(StartKind::Unanchored)
            .build(forms.iter().map(|(form, _)| form))
            .expect("a few megabytes of patterns fit");
        let names = secrets.iter().map(|(name, _)| name.clone()).collect();
        Self { forms, names, automaton }
    }

    /// The name of the secret that a form belongs to.
    pub(super) fn name(&self, form: usize) -> &SecretName {
        &self.names[self.forms[form].1]
    }

    /// Length of the longest form.
    pub(super) fn longest(&self) -> usize {
        self.forms.first().map_or(0, |(form, _)| form.len())
    }
}

/// The forms of a value in what programs print: those of the whole value, and each longer line.
#[must_use]
pub fn printed(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = whole(value);
    forms.extend(lines(value));
    forms
}

/// The forms of a value on a disk: those of the whole value, UTF-16 as Windows and Java write it, and
/// those lines that are part of a key: an ordinary line of a configuration may be there anyway.
#[must_use]
pub fn stored(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = whole(value);
    for text in [value, value.trim_ascii_end()] {
        if let Ok(text) = std::str::from_utf8(text)
            && text.len() >= super::SHORTEST
        {
            forms.insert(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
        }
    }
    forms.extend(key_lines(value).map(<[u8]>::to_vec));
    forms
}

/// The forms of a whole value, and of the value without white space at its end, which programs cut
/// off: as it is; base64 with both alphabets, at any place in what was encoded, and in lines as
/// `base64` and `openssl` write them; hexadecimal; percent-encoded; as inside a text of JSON; and
/// as shells quote it.
fn whole(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = encoded(value);
    let trimmed = value.trim_ascii_end();
    if trimmed.len() < value.len() && trimmed.len() >= super::SHORTEST {
        forms.append(&mut encoded(trimmed));
    }
    forms
}

fn encoded(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::from([value.to_vec()]);
    base64(value, &mut forms);
    for digits in [b"0123456789abcdef", b"0123456789ABCDEF"] {
        forms.insert(hexadecimal(value, digits));
        forms.extend(PLAIN.iter().map(|(plain, space)| percent(value, digits, plain, space)));
    }
    if let Ok(text) = std::str::from_utf8(value) {
        json(text, &mut forms);
        shell(text, &mut forms);
    }
    forms.retain(|form| form.len() >= super::SHORTEST);
    forms
}

/// Lines of a value of several lines that say something by themselves: the frame around a key does
/// not, and stands in many programs.
fn lines(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    split(value)
        .filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with(b"-----"))
        .map(<[u8]>::to_vec)
}

/// Lines of a value of several lines that nobody else has written: long ones of hexadecimal digits,
/// or of base64 with digits and letters of both cases, as in keys and tokens.
pub(super) fn key_lines(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(value)
        .filter(move |line| line.len() < value.trim_ascii_end().len())
        .filter(|line| line.len() >= SHORTEST_KEY_LINE && is_key_material(line))
}

fn split(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn is_key_material(line: &[u8]) -> bool {
    let padding = line.iter().rev().take_while(|&&byte| byte == b'=').count();
    let line = &line[..line.len() - padding.min(2)];
    let of = |more: &[u8]| line.iter().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    let has = |kind: fn(&u8) -> bool| line.iter().any(kind);
    let (digits, letters) = (has(u8::is_ascii_digit), has(u8::is_ascii_alphabetic));
    if line.iter().all(u8::is_ascii_hexdigit) {
        return digits && letters;
    }
    // Both alphabets of base64, the second with what stands between the parts of a token.
    let mixed = digits && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    mixed && (of(b"+/") || of(b"-_."))
}

fn base64(value: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for alphabet in [STANDARD, URL_SAFE] {
        let whole = alphabet.encode(value).into_bytes();
        for width in [64, 76] {
            if whole.len() > width {
                forms.insert(whole.chunks(width).collect::<Vec<_>>().join(&b'\n'));
            }
        }
        let padding = whole.iter().rev().take_while(|&&byte| byte == b'=').count();
        forms.insert(whole[..whole.len() - padding].to_vec());
        forms.insert(whole);
        for before in 0..3 {
            let shifted = [&[0; 2][..before], value].concat();
            let text = alphabet.encode(&shifted).into_bytes();
            // Characters that hold bits of what stands before and behind are not known.
            let from = (before * 8).div_ceil(6);
            let to = shifted.len() * 8 / 6;
            forms.insert(text[from..to].to_vec());
        }
    }
}

fn hexadecimal(value: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    value
        .iter()
        .flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]])
        .collect()
}

/// What percent-encoders leave as it is beside letters and digits, and what they make of a space.
/// Sources: RFC 3986, section 2.3; `quote` and `quote_plus` of Python; forms of the URL standard;
/// `encodeURIComponent` and `encodeURI` of JavaScript.
const PLAIN: [(&[u8], &[u8]); 6] = [
    (b"-._~", b"%20"),
    (b"-._~/", b"%20"),
    (b"-._~", b"+"),
    (b"*-._", b"+"),
    (b"-_.!~*'()", b"%20"),
    (b"-_.!~*'();/?:@&=+$,#", b"%20"),
];

fn percent(value: &[u8], digits: &[u8; 16], plain: &[u8], space: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in value {
        match byte {
            b' ' => text.extend(space),
            _ if byte.is_ascii_alphanumeric() || plain.contains(&byte) => text.push(byte),
            _ => {
                text.push(b'%');
                text.extend([digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
            }
        }
    }
    text
}

/// Source: RFC 8259, section 7; escaped where it must be, also `/`, and all that is not ASCII.
fn json(text: &str, forms: &mut BTreeSet<Vec<u8>>) {
    let quoted = serde_json::to_string(text).expect("a text is a value");
    let inner = &quoted[1..quoted.len() - 1];
    let mut ascii = String::new();
    for c in inner.chars() {
        if c.is_ascii() {
            ascii.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    for form in [inner, &ascii] {
        forms.insert(form.as_bytes().to_vec());
        forms.insert(form.replace('/', "\\/").into_bytes());
    }
}

/// As `set -x` of dash and bash, `printf %q`, `${x@Q}` and hand-written double quotes have it.
fn shell(text: &str, forms: &mut BTreeSet<Vec<u8>>) {
    forms.insert(text.replace('\'', r"'\''").into_bytes());
    forms.insert(text.replace('\'', r#"'"'"'"#).into_bytes());
    let escaped = |special: fn(char) -> bool| {
        let mut escaped = String::new();
        for c in text.chars() {
            if special(c) {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        escaped.into_bytes()
    };
    forms.insert(escaped(|c| {
        c.is_ascii() && !c.is_ascii_alphanumeric() && !"%+,-./:=@_".contains(c)
    }));
    forms.insert(escaped(|c| "\"$`\\".contains(c)));
    let ansi: String = text
        .chars()
        .map(|c| match c {
            '\n' => r"\n".to_owned(),
            '\t' => r"\t".to_owned(),
            '\r' => r"\r".to_owned(),
            '\\' => r"\\".to_owned(),
            '\'' => r"\'".to_owned(),
            c if c.is_ascii_control() => format!("\\{:03o}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    forms.insert(ansi.into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(value: &str, form: &str) -> bool {
        printed(value.as_bytes()).contains(form.as_bytes())
    }

    #[test]
    fn a_value_has_the_forms_that_programs_give_it() {
        let value = "it's a/päss \"wörd\"$";
        for form in [
            value,
            "aXQncyBhL3DDpHNzICJ3w7ZyZCIk",
            "it%27s%20a%2Fp%C3%A4ss%20%22w%C3%B6rd%22%24",
            "it%27s%20a%2fp%c3%a4ss%20%22w%c3%b6rd%22%24",
            "it%27s+a%2Fp%C3%A4ss+%22w%C3%B6rd%22%24",
            "it%27s%20a/p%C3%A4ss%20%22w%C3%B6rd%22%24",
            "it's%20a%2Fp%C3%A4ss%20%22w%C3%B6rd%22%24",
            "it's%20a/p%C3%A4ss%20%22w%C3%B6rd%22$",
            r#"it's a/päss \"wörd\"$"#,
            r#"it's a/p\u00e4ss \"w\u00f6rd\"$"#,
            r#"it's a\/päss \"wörd\"$"#,
            r#"it'\''s a/päss "wörd"$"#,
            r#"it'"'"'s a/päss "wörd"$"#,
            r#"it\'s\ a/päss\ \"wörd\"\$"#,
            r#"it's a/päss \"wörd\"\$"#,
        ] {
            assert!(has(value, form), "{form}");
        }
        assert!(has("secret-value", "7365637265742d76616c7565"));
        assert!(has("secret-value", "7365637265742D76616C7565"));
    }

    #[test]
    fn base64_is_known_at_any_place_of_what_was_encoded() {
        let value = b"\xfb\xff-a-secret-\xfe";
        for before in 0..7 {
            for behind in 0..7 {
                let all = [&vec![b'#'; before], value.as_slice(), &vec![b'~'; behind]].concat();
                for text in [STANDARD.encode(&all), URL_SAFE.encode(&all)] {
                    let found = printed(value).into_iter().any(|form| {
                        text.as_bytes().windows(form.len()).any(|window| window == form)
                    });
                    assert!(found, "{before} {behind} {text}");
                }
            }
        }
        let long = [b'k'; 100];
        let lines = STANDARD.encode(long);
        assert!(printed(&long).contains(format!("{}\n{}", &lines[..76], &lines[76..]).as_bytes()));
    }

    #[test]
    fn the_frame_of_a_key_is_no_secret() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0c2VjcmV0\nshort\n-----END PRIVATE KEY-----\n";
        assert!(has(key, "c2VjcmV0c2VjcmV0c2VjcmV0"));
        assert!(!has(key, "-----BEGIN PRIVATE KEY-----"));
        assert!(!has(key, "short"));
    }

    #[test]
    fn only_lines_of_a_key_are_looked_for_on_a_disk() {
        let lines = [
            "Accept: application/json",
            "a-line-of-a-configuration-in-many-guests",
            "/usr/lib/python3/distpackages/something",
            "/usr/lib/X86/64-linux-gnu/something.so.1",
            "================================================",
            "0000000000000000000000000000000000000000",
        ];
        let keys = [
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJraWxuIn0",
            "9f86d081884c7d659a2feaa0c55ad015",
            "c2VjcmV0c2VjcmV0c2VjcmV0c2Vjcg==",
        ];
        let value = [&lines[..], &keys[..]].concat().join("\n");
        let (on_disk, in_print) = (stored(value.as_bytes()), printed(value.as_bytes()));
        for line in lines {
            assert!(!on_disk.contains(line.as_bytes()), "{line}");
            assert!(in_print.contains(line.as_bytes()), "{line}");
        }
        for line in keys {
            assert!(on_disk.contains(line.as_bytes()), "{line}");
        }
        // The only line of a value is the whole of it.
        assert_eq!(key_lines(format!("{}\n", keys[0]).as_bytes()).count(), 0);
    }

    #[test]
    fn a_value_is_known_without_the_white_space_at_its_end() {
        let value = b"open sesame! \r\n\n";
        for text in ["open sesame!", "b3BlbiBzZXNhbWUh", "6f70656e20736573616d6521"] {
            assert!(printed(value).contains(text.as_bytes()), "{text}");
            assert!(stored(value).contains(text.as_bytes()), "{text}");
        }
        let wide: Vec<u8> = "open sesame!".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(stored(value).contains(&wide));
        // What is left of this one is too short to be told from other bytes.
        assert!(!printed(b"seven77\n\n").contains(b"seven77".as_slice()));
    }

    #[test]
    fn utf_16_is_a_form_on_disk() {
        assert!(stored(b"password").contains(b"p\0a\0s\0s\0w\0o\0r\0d\0".as_slice()));
    }
}
