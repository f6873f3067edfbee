//! The guest's host name, in every file where a distribution keeps it.
//!
//! It does not know the network: names of other hosts stay as they are.

use super::error::{GuestError, escaped};
use super::root::{FileAttributes, GuestRoot};

/// Largest file of this module, in bytes.
const LIMIT: u64 = 4 << 20;

/// `hostname`: writes `/etc/hostname`, `/etc/HOSTNAME` (SUSE) and `HOSTNAME=` of
/// `/etc/sysconfig/network` where these are there already, and renames the old name on the loopback lines of
/// `/etc/hosts`.
///
/// # Errors
/// [`GuestError::Hostname`]; the kernel's.
pub fn set(root: &GuestRoot, name: &str) -> Result<(), GuestError> {
    check(name)?;
    let old = root.read_if_there("/etc/hostname", LIMIT)?;
    let line = format!("{name}\n").into_bytes();
    let write = |path: &str, before: Option<&[u8]>, after: &[u8]| {
        if before == Some(after) {
            Ok(())
        } else {
            root.write_atomic(path, after, FileAttributes::default())
        }
    };
    write("/etc/hostname", old.as_deref(), &line)?;
    if let Some(before) = root.read_if_there("/etc/HOSTNAME", LIMIT)? {
        write("/etc/HOSTNAME", Some(&before), &line)?;
    }
    if let Some(before) = root.read_if_there("/etc/sysconfig/network", LIMIT)? {
        write("/etc/sysconfig/network", Some(&before), &network(&before, name))?;
    }
    let old = old.as_deref().and_then(current);
    if let (Some(old), Some(before)) = (old, root.read_if_there("/etc/hosts", LIMIT)?) {
        write("/etc/hosts", Some(&before), &hosts(&before, &old, name))?;
    }
    Ok(())
}

/// A name as `hostname(7)` and RFC 1123 have it; 64 is Linux's `HOST_NAME_MAX`.
fn check(name: &str) -> Result<(), GuestError> {
    let bad = |why| Err(GuestError::Hostname { name: escaped(name), why });
    if name.is_empty() || name.len() > 64 {
        return bad("it must have 1 to 64 characters");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return bad("each part between dots must have 1 to 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return bad("a part may not start or end with `-`");
        }
        if !label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return bad("only letters, digits, `-` and dots may stand in it");
        }
    }
    Ok(())
}

/// The name in an `/etc/hostname`: its first line that is no comment.
fn current(file: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(file).ok()?;
    let name =
        text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    (check(name).is_ok() && name != "localhost").then(|| name.to_owned())
}

fn network(file: &[u8], name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(file.len());
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"HOSTNAME=") {
            out.extend_from_slice(format!("HOSTNAME={name}").as_bytes());
            out.extend_from_slice(if line.ends_with(b"\n") { b"\n" } else { b"" });
        } else {
            out.extend_from_slice(line);
        }
    }
    out
}

/// `/etc/hosts` with the old name, alone and with a domain, renamed on lines of a loopback address;
/// all blanks, comments and other bytes stay.
fn hosts(file: &[u8], old: &str, new: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(file.len());
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        let comment = line.iter().position(|&byte| byte == b'#').unwrap_or(line.len());
        let (entry, comment) = line.split_at(comment);
        let address = entry.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if !address.starts_with(b"127.") && address != b"::1" {
            out.extend_from_slice(line);
            continue;
        }
        let mut told = false;
        for piece in entry.split_inclusive(u8::is_ascii_whitespace) {
            let end = piece.iter().position(u8::is_ascii_whitespace).unwrap_or(piece.len());
            let (word, blank) = piece.split_at(end);
            out.extend_from_slice(&renamed(word, old, new, &mut told));
            out.extend_from_slice(blank);
        }
        out.extend_from_slice(comment);
    }
    out
}

/// One name of a line. A new name with a domain takes the place of the old one with its domain;
/// once it has been told in the line, the next is the short one.
fn renamed(word: &[u8], old: &str, new: &str, told: &mut bool) -> Vec<u8> {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    if old.contains('.') && word == short(old).as_bytes() {
        return short(new).into_bytes();
    }
    match word.strip_prefix(old.as_bytes()) {
        Some(_) if word.len() == old.len() || word[old.len()] == b'.' => {
            let rest = &word[old.len()..];
            if std::mem::replace(told, true) {
                short(new).into_bytes()
            } else if rest.is_empty() || new.contains('.') {
                new.as_bytes().to_vec()
            } else {
                [new.as_bytes(), rest].concat()
            }
        }
        _ => word.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_old_name_on_loopback_lines_changes() {
        let file = "127.0.0.1\tlocalhost\n127.0.1.1  old.example.org old # old\n192.0.2.1 old\n::1 old older\n";
        let after = String::from_utf8(hosts(file.as_bytes(), "old", "web")).unwrap();
        assert_eq!(
            after,
            "127.0.0.1\tlocalhost\n127.0.1.1  web.example.org web # old\n192.0.2.1 old\n::1 web older\n"
        );
        assert_eq!(hosts(after.as_bytes(), "web", "web"), after.as_bytes());
        let full = String::from_utf8(hosts(file.as_bytes(), "old", "web.example.net")).unwrap();
        assert!(full.contains("127.0.1.1  web.example.net web # old"), "{full}");
        let full = hosts(b"127.0.1.1 old.a old", "old.a", "web");
        assert_eq!(full, b"127.0.1.1 web web");
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "a b", "-a", "a-", "a..b", "ä", "a_b", &"a".repeat(65), "a\n"] {
            assert!(check(name).is_err(), "{name:?}");
        }
        assert!(check("web-1.example.org").is_ok());
    }
}
