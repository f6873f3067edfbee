//! One regular expression as libselinux compiles it, with bounds on what a match may cost.
//!
//! It knows nothing of contexts or of precedence.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pcre2::bytes::{Regex, RegexBuilder};

/// Steps of one match; PCRE2's own limit, which libselinux leaves alone, is ten times as high.
const MATCH_LIMIT: u32 = 1_000_000;
/// Nested backtracking points of one match.
const DEPTH_LIMIT: u32 = 100_000;
/// KiB of heap of one match; PCRE2 keeps them with the regular expression.
const HEAP_LIMIT: u32 = 4_096;
/// A regular expression is translated to machine code when it was tried this often: translation
/// costs as much as some hundred matches.
const HOT: u32 = 200;

/// `PCRE2_ERROR_JIT_STACKLIMIT`.
const JIT_STACK: i32 = -46;
/// `PCRE2_ERROR_MATCHLIMIT`, `PCRE2_ERROR_DEPTHLIMIT` and `PCRE2_ERROR_HEAPLIMIT`.
const LIMITS: [i32; 3] = [-47, -53, -63];

/// Compiles with libselinux's flags and anchors (bytes, `DOTALL`, `^…$`), and with the limits.
///
/// The limits stand in the pattern's own start items, before the `^`, where the guest's text cannot
/// raise them.
pub(super) fn compile(regex: &str, jit: bool) -> Result<Regex, pcre2::Error> {
    let text = format!(
        "(*LIMIT_MATCH={MATCH_LIMIT})(*LIMIT_DEPTH={DEPTH_LIMIT})(*LIMIT_HEAP={HEAP_LIMIT})^{regex}$"
    );
    RegexBuilder::new().dotall(true).jit_if_available(jit).build(&text)
}

/// Whether a match failed for its cost.
pub(super) fn is_limit(error: &pcre2::Error) -> bool {
    LIMITS.contains(&error.code())
}

/// A compiled regular expression that becomes faster when it is used much.
pub(super) struct Pattern {
    interpreted: Regex,
    machine_code: OnceLock<Option<Regex>>,
    tries: AtomicU32,
}

impl Pattern {
    pub(super) fn new(regex: &str) -> Result<Self, pcre2::Error> {
        let interpreted = compile(regex, false)?;
        Ok(Self { interpreted, machine_code: OnceLock::new(), tries: AtomicU32::new(0) })
    }

    pub(super) fn is_match(&self, regex: &str, subject: &[u8]) -> Result<bool, pcre2::Error> {
        let machine_code = match self.machine_code.get() {
            None if self.tries.fetch_add(1, Ordering::Relaxed) < HOT => &None,
            None => self.machine_code.get_or_init(|| compile(regex, true).ok()),
            Some(compiled) => compiled,
        };
        if let Some(fast) = machine_code {
            match fast.is_match(subject) {
                Err(error) if error.code() == JIT_STACK => {}
                other => return other,
            }
        }
        self.interpreted.is_match(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_is_matched_as_libselinux_does() {
        let regex = compile("/a.b", false).unwrap();
        assert!(regex.is_match(b"/a\nb").unwrap());
        assert!(regex.is_match(b"/a\xffb\n").unwrap());
        assert!(!regex.is_match(b"/a.b\n\n").unwrap());
    }

    #[test]
    fn an_expensive_match_is_an_error() {
        let subject = format!("/{}b", "a".repeat(64));
        for jit in [false, true] {
            let regex = compile("/(a+)+c", jit).unwrap();
            // The subject must hold the `c`, or PCRE2 sees at once that nothing can match.
            let error = regex.is_match(format!("{subject}c").as_bytes()).unwrap_err();
            assert!(is_limit(&error), "{error}");
        }
    }

    #[test]
    fn a_long_path_needs_no_large_stack() {
        let path = "/ab".repeat(1300);
        let pattern = Pattern::new("(/(a|b)*)*").unwrap();
        for _ in 0..2 * HOT {
            assert!(pattern.is_match("(/(a|b)*)*", path.as_bytes()).unwrap());
        }
    }
}
