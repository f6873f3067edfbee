//! An error with all that caused it, as texts: for another process, or for one line.

use std::error::Error;

/// What an error and each of its causes says, outermost first.
#[must_use]
pub fn list(error: &dyn Error) -> Vec<String> {
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

/// The same on one line.
#[must_use]
pub fn in_one_line(error: &dyn Error) -> String {
    list(error).join(": ")
}
