//! Texts of a recipe: values as KDL writes them, and words of a shell.

/// A text as KDL writes it, on one line. What could break a line, or reorder or hide text, is written as
/// its number: recipes may not hold such characters themselves. Source: KDL 2.0.0, "Disallowed Literal
/// Code Points" and "Newline".
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if must_be_escaped(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Control characters, Unicode's line breaks and its marks of direction, and the mark of byte order.
fn must_be_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A text of several lines as KDL writes it: raw, and as it reads, where that is possible.
pub(super) fn lines(text: &str) -> String {
    let text = text.trim_end();
    let plain = |c: char| matches!(c, '\n' | '\t') || !must_be_escaped(c);
    if text.contains('\n') && !text.contains("\"\"\"") && text.chars().all(plain) {
        return format!("#\"\"\"\n{text}\n\"\"\"#");
    }
    quoted(text)
}

/// The step that runs a script in the guest.
pub(super) fn run(script: &str) -> String {
    format!("run-command {}", lines(script))
}

/// The steps that write a file, in a directory that is made where it is missing.
pub(super) fn write(path: &str, content: &str) -> String {
    let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory);
    format!("mkdir {}\nwrite {} {}", quoted(directory), quoted(path), lines(content))
}

/// A text as one word of a shell.
pub(super) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
