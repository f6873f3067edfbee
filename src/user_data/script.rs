//! Scripts that kiln itself writes: whether what an instance needs is there, and the signal to Heat
//! that it is done.

use std::fmt::Write as _;

use super::{NOTIFY, quoted};
use crate::name::GuestPath;

/// What a script tells Heat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    /// Nothing.
    Nothing,
    /// That something is missing, if so.
    Failure,
    /// That too, or else that all is done.
    Everything,
}

/// A script that ends with 1 where one of some paths is missing.
pub(super) fn require(paths: &[GuestPath], tell: Tell) -> String {
    let mut text = String::from(
        "#!/bin/sh\n\
         # Written by kiln: what this instance needs must be there by now.\n\
         missing=\n\
         require() {\n    \
             if [ ! -e \"$1\" ]; then\n        \
                 echo \"kiln: $1 is missing\" >&2\n        \
                 missing=\"$missing $2\"\n    \
             fi\n\
         }\n",
    );
    for path in paths {
        let inside = serde_json::to_string(path.as_str()).expect("a text");
        // The quotes are the whole text's.
        let inside = &inside[1..inside.len() - 1];
        writeln!(text, "require {} {}", quoted(path.as_str()), quoted(inside)).expect("a string");
    }
    text.push_str("if [ -n \"$missing\" ]; then\n");
    if tell != Tell::Nothing {
        writeln!(
            text,
            "    {NOTIFY} {CURL} --data-binary \
             \"{{\\\"status\\\": \\\"FAILURE\\\", \\\"reason\\\": \\\"missing:$missing\\\"}}\""
        )
        .expect("a string");
    }
    text.push_str("    exit 1\nfi\n");
    if tell == Tell::Everything {
        text.push_str(&success("everything that was required is there"));
    }
    text
}

/// A script that tells Heat that cloud-init has come to its end.
pub(super) fn signal() -> String {
    format!(
        "#!/bin/sh\n# Written by kiln: cloud-init has run every script before this one.\n{}",
        success("cloud-init has run every script")
    )
}

/// What it gives `curl` beside: the network may still be coming up.
const CURL: &str = "--silent --show-error --fail --retry 10 --retry-connrefused";

fn success(data: &str) -> String {
    format!("{NOTIFY} {CURL} --data-binary '{{\"status\": \"SUCCESS\", \"data\": \"{data}\"}}'\n")
}
