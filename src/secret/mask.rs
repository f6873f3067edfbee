//! Replaces values in a stream as it goes by.

use zeroize::{Zeroize, Zeroizing};

use super::SecretValue;
use super::needles::{self, Needles};
use crate::name::SecretName;

/// Takes secrets out of what programs print. However the stream is cut into pieces, the same comes
/// out; only what may be the beginning of a value is held back until more has come.
#[derive(Debug, Default)]
pub struct Masker {
    needles: Option<Needles>,
    /// For each form, as in [`Needles::forms`], the length of its longest border at each place.
    borders: Vec<Vec<usize>>,
    held: Vec<u8>,
}

impl Drop for Masker {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

impl Masker {
    /// One that masks these.
    #[must_use]
    pub fn new(secrets: &[(SecretName, SecretValue)]) -> Self {
        if secrets.is_empty() {
            return Self::default();
        }
        let needles = Needles::new(secrets, needles::printed);
        let borders = needles.forms.iter().map(|(form, _)| borders(form)).collect();
        Self { needles: Some(needles), borders, held: Vec::new() }
    }

    /// Takes the next piece; gives what is certain to be no value, and marks where values were.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(needles) = &self.needles else { return bytes.to_vec() };
        self.held.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        let mut open = self.open(at);
        while let Some(found) = needles.automaton.find(&self.held[at..]) {
            let (start, end) = (at + found.start(), at + found.end());
            if open <= start {
                break;
            }
            out.extend_from_slice(&self.held[at..start]);
            out.extend_from_slice(mark(needles.name(found.pattern().as_usize())).as_bytes());
            at = end;
            if open < at {
                open = self.open(at);
            }
        }
        out.extend_from_slice(&self.held[at..open]);
        self.held.drain(..open);
        out
    }

    /// Ends the stream, or a part of it that stands for itself; gives what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        let Some(needles) = &self.needles else { return Vec::new() };
        let held = Zeroizing::new(std::mem::take(&mut self.held));
        let mut out = Vec::new();
        let mut at = 0;
        for found in needles.automaton.find_iter(&held) {
            out.extend_from_slice(&held[at..found.start()]);
            out.extend_from_slice(mark(needles.name(found.pattern().as_usize())).as_bytes());
            at = found.end();
        }
        out.extend_from_slice(&held[at..]);
        out
    }

    /// Forgets what is held back, where the rest of the stream will not come.
    pub fn cut(&mut self) {
        self.held.zeroize();
    }

    /// A whole text at once.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut other = match &self.needles {
            None => return text.to_owned(),
            Some(needles) => needles.automaton.find_iter(text).fold(
                (String::new(), 0),
                |(mut out, at), found| {
                    out.push_str(&String::from_utf8_lossy(&text.as_bytes()[at..found.start()]));
                    out.push_str(&mark(needles.name(found.pattern().as_usize())));
                    (out, found.end())
                },
            ),
        };
        other.0.push_str(&String::from_utf8_lossy(&text.as_bytes()[other.1..]));
        other.0
    }

    /// Where, from `from` on, what is held ends with the beginning of a form; its end if it does not.
    fn open(&self, from: usize) -> usize {
        let Some(needles) = &self.needles else { return self.held.len() };
        let mut longest = 0;
        for ((form, _), borders) in needles.forms.iter().zip(&self.borders) {
            let tail = self.held.len().saturating_sub(form.len() - 1).max(from);
            // Knuth, Morris and Pratt's way: no byte is looked at twice.
            let mut matched = 0;
            for &byte in &self.held[tail..] {
                while matched > 0 && (matched == form.len() || form[matched] != byte) {
                    matched = borders[matched - 1];
                }
                if form[matched] == byte {
                    matched += 1;
                }
            }
            longest = longest.max(matched);
        }
        self.held.len() - longest
    }
}

fn mark(name: &SecretName) -> String {
    format!("[secret {name}]")
}

/// For each beginning of a form, how long the longest shorter beginning is that it ends with.
fn borders(form: &[u8]) -> Vec<usize> {
    let mut borders = vec![0; form.len()];
    let mut length = 0;
    for at in 1..form.len() {
        while length > 0 && form[length] != form[at] {
            length = borders[length - 1];
        }
        if form[length] == form[at] {
            length += 1;
        }
        borders[at] = length;
    }
    borders
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets(values: &[&str]) -> Vec<(SecretName, SecretValue)> {
        values
            .iter()
            .enumerate()
            .map(|(number, value)| {
                (format!("s{number}").parse().unwrap(), SecretValue(value.as_bytes().to_vec()))
            })
            .collect()
    }

    fn masked(masker: &mut Masker, pieces: &[&[u8]]) -> String {
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| masker.push(piece)).collect();
        out.extend(masker.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_is_masked_in_every_form() {
        let mut masker = Masker::new(&secrets(&["open sesame!"]));
        let text =
            b"open sesame! 6f70656e20736573616d6521 b3BlbiBzZXNhbWUh open%20sesame%21 rest\n";
        let mark = "[secret s0]";
        assert_eq!(masked(&mut masker, &[text]), format!("{mark} {mark} {mark} {mark} rest\n"));
        assert_eq!(masker.text("no open sesame!"), "no [secret s0]");
    }

    #[test]
    fn only_what_may_become_a_value_is_held_back() {
        let mut masker = Masker::new(&secrets(&["abcabcabd"]));
        assert_eq!(masker.push(b"line\n"), b"line\n");
        assert_eq!(masker.push(b"xabcabc"), b"x");
        assert_eq!(masker.push(b"abc"), b"abc");
        assert_eq!(masker.push(b"abd."), b"[secret s0].");
        assert_eq!(masker.push(b"prompt: "), b"prompt: ");
        assert_eq!(masker.push(b"abcab"), b"");
        assert_eq!(masker.finish(), b"abcab");
        assert_eq!(masker.push(b"abcab"), b"");
        masker.cut();
        assert_eq!(masker.finish(), b"");
    }

    #[test]
    fn the_longest_of_several_values_wins() {
        let mut masker = Masker::new(&secrets(&["password", "password-and-more"]));
        let pieces: [&[u8]; 3] = [b"password-and", b"-more password-and", b"-less"];
        assert_eq!(masked(&mut masker, &pieces), "[secret s1] [secret s0]-and-less");
    }

    #[test]
    fn without_secrets_nothing_changes() {
        let mut masker = Masker::default();
        assert_eq!(masker.push(b"as it is"), b"as it is");
        assert_eq!(masker.finish(), b"");
    }

    proptest! {
        /// Values and texts of few letters meet and overlap often.
        #[test]
        fn the_cut_of_the_stream_does_not_matter(
            values in prop::collection::vec("[ab/]{8,10}", 1..3),
            parts in prop::collection::vec(
                prop_oneof!["[ab/]{0,12}".prop_map(|text| (text, 9)), (0..3usize, 0..5usize).prop_map(|(value, form)| (value.to_string(), form))],
                0..12
            ),
            cuts in prop::collection::vec(1..9usize, 0..40),
        ) {
            let names: Vec<&str> = values.iter().map(String::as_str).collect();
            let secrets = secrets(&names);
            let mut text = Vec::new();
            for (part, form) in parts {
                if form == 9 {
                    text.extend(part.as_bytes());
                } else {
                    let value = values[part.parse::<usize>().unwrap() % values.len()].as_bytes();
                    let forms: Vec<_> = needles::printed(value).into_iter().collect();
                    text.extend(&forms[form % forms.len()]);
                }
            }
            let mut masker = Masker::new(&secrets);
            let whole = masked(&mut masker, &[&text]);
            let mut pieces = Vec::new();
            let mut rest = text.as_slice();
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            prop_assert_eq!(&masked(&mut masker, &pieces), &whole);
            prop_assert_eq!(&masker.text(std::str::from_utf8(&text).unwrap()), &whole);
            for (_, value) in &secrets {
                for form in needles::printed(&value.0) {
                    let there = whole.as_bytes().windows(form.len()).any(|window| window == form);
                    prop_assert!(!there, "{} in {}", String::from_utf8_lossy(&form), whole);
                }
            }
        }
    }
}
