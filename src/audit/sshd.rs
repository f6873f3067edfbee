//! Whether a guest's sshd takes passwords, as sshd itself reads its configuration.
//!
//! Source: `sshd_config(5)`: the first value of a keyword holds, and what stands in a `Match` block
//! takes its place for some.

use super::files::{Look, Unclear, matching, text};
use super::{Subject, Verdict};
use crate::guest::root::GuestRoot;

/// The configuration, and where distributions have their own that an administrator's replaces.
pub(super) const FILES: [&str; 2] = ["/etc/ssh/sshd_config", "/usr/etc/ssh/sshd_config"];
/// How deep files include others at most, as in sshd (`SERVCONF_MAX_DEPTH`).
const MAX_DEPTH: usize = 16;
/// Most lines that are read of all files together.
const MAX_LINES: usize = 1 << 16;

/// A line of the configuration.
#[derive(Debug)]
struct Line {
    /// The keyword, in lower case.
    keyword: String,
    value: String,
    file: String,
    /// Whether it stands in a `Match` block.
    is_for_some: bool,
}

/// The file that sshd starts to read, and what it says.
pub(super) fn main_file(root: &GuestRoot) -> Look<Option<(&'static str, String)>> {
    for file in FILES {
        if let Some(text) = text(root, file)? {
            return Ok(Some((file, text)));
        }
    }
    Ok(None)
}

/// A line's keyword and value: `Keyword value`, `Keyword=value` or `Keyword = "value"`.
fn split(line: &str) -> Option<(String, &str)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (keyword, rest) = line.split_once([' ', '\t', '='])?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
    Some((keyword.to_ascii_lowercase(), rest))
}

fn read(root: &GuestRoot, file: &str, text: &str, depth: usize, lines: &mut Vec<Line>) -> Look<()> {
    let mut is_for_some = false;
    for line in text.lines() {
        let Some((keyword, value)) = split(line) else { continue };
        if lines.len() >= MAX_LINES || depth > MAX_DEPTH {
            let why = format!("`{file}` includes more than sshd reads");
            return Err(Unclear::Meaning(why));
        }
        match keyword.as_str() {
            "match" => is_for_some = true,
            "include" => {
                for pattern in value.split_whitespace() {
                    for path in matching(root, &whole(pattern.trim_matches('"')))? {
                        let inner = self::text(root, &path)?.unwrap_or_default();
                        let start = lines.len();
                        read(root, &path, &inner, depth + 1, lines)?;
                        if is_for_some {
                            lines[start..].iter_mut().for_each(|line| line.is_for_some = true);
                        }
                    }
                }
            }
            _ => {
                let value = value.split_whitespace().next().unwrap_or_default();
                let value = value.trim_matches('"').to_ascii_lowercase();
                lines.push(Line { keyword, value, file: file.to_owned(), is_for_some });
            }
        }
    }
    Ok(())
}

/// A path of `Include`, which starts in the directory of the configuration.
fn whole(pattern: &str) -> String {
    if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/ssh/{pattern}") }
}

/// sshd takes both words for one since 8.7, and the second for the default of the first before.
const ASKING: [&str; 2] = ["kbdinteractiveauthentication", "challengeresponseauthentication"];

/// All lines that sshd reads, and the file that it starts with; `None` where there is none.
fn lines(root: &GuestRoot) -> Look<Option<(&'static str, Vec<Line>)>> {
    let Some((file, text)) = main_file(root)? else { return Ok(None) };
    let mut lines = Vec::new();
    read(root, file, &text, 0, &mut lines)?;
    Ok(Some((file, lines)))
}

/// The line of a `Match` block that takes passwords.
fn exception(lines: &[Line]) -> Option<&Line> {
    lines.iter().find(|line| {
        let takes = line.keyword == "passwordauthentication" || ASKING.contains(&&*line.keyword);
        line.is_for_some && takes && line.value != "no"
    })
}

/// Whether a `Match` block takes passwords, which nothing outside of it changes.
pub(super) fn has_exception(root: &GuestRoot) -> Look<bool> {
    Ok(lines(root)?.is_some_and(|(_, lines)| exception(&lines).is_some()))
}

pub(super) fn password_login(subject: Subject<'_>) -> Look<Verdict> {
    let Some((file, lines)) = lines(subject.root)? else {
        return Ok(Verdict::NotApplicable(format!("there is no `{}`", FILES[0])));
    };
    let said = |line: &Line| format!("`{} {}` in `{}`", line.keyword, line.value, line.file);
    if let Some(line) = exception(&lines) {
        return Ok(Verdict::Fail(format!("{}, behind a `Match`", said(line))));
    }
    let first = |keywords: &[&str]| {
        lines.iter().find(|line| !line.is_for_some && keywords.contains(&line.keyword.as_str()))
    };
    let Some(line) = first(&["passwordauthentication"]) else {
        let seen = format!("`{file}` says nothing, and sshd's own value is `yes`");
        return Ok(Verdict::Fail(seen));
    };
    if line.value != "no" {
        return Ok(Verdict::Fail(said(line)));
    }
    // PAM asks for the password then.
    let pam = first(&["usepam"]).filter(|line| line.value != "no");
    Ok(match (pam, first(&ASKING)) {
        (Some(_), Some(asks)) if asks.value != "no" => {
            Verdict::Fail(format!("{}, and PAM asks for the password", said(asks)))
        }
        (Some(pam), None) => Verdict::Fail(format!(
            "{}, and nothing says `KbdInteractiveAuthentication no`",
            said(pam)
        )),
        _ => Verdict::Pass(said(line)),
    })
}

/// Whether what a file below `/etc/ssh/sshd_config.d` says comes before all that the main file says.
pub(super) fn takes_drop_ins(text: &str) -> bool {
    let first = text.lines().find_map(split);
    first.is_some_and(|(keyword, value)| {
        keyword == "include"
            && whole(value.trim_matches('"')).starts_with("/etc/ssh/sshd_config.d/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_sshd_does() {
        let value = |line| split(line).map(|(keyword, value)| (keyword, value.to_owned()));
        for line in [
            "PasswordAuthentication no",
            "passwordauthentication=no",
            " PasswordAuthentication\t=  no",
        ] {
            assert_eq!(value(line), Some(("passwordauthentication".into(), "no".into())), "{line}");
        }
        assert_eq!(value("# PasswordAuthentication no"), None);
        assert!(takes_drop_ins("# x\nInclude /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"));
        assert!(!takes_drop_ins("PasswordAuthentication yes\nInclude sshd_config.d/*.conf\n"));
    }
}
