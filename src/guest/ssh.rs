//! Public keys of a guest's users.
//!
//! It does not know sshd's configuration: keys go where OpenSSH looks by default.

use std::path::Path;

use super::error::{GuestError, escaped, shown};
use super::files::{read_snapshot, with_line};
use super::program::Snapshot;
use super::root::{FileAttributes, GuestRoot, name_of};
use super::users::Accounts;
use crate::recipe::{SshInject, SshKey};
use rustix::fs::FileType;

/// Largest key file and `authorized_keys`, in bytes.
const LIMIT: u64 = 1 << 20;

/// `ssh-inject`: adds keys to `~/.ssh/authorized_keys` of a user who exists. `~/.ssh` gets mode 0700
/// and the file 0600, both the user's, as sshd wants them; a key that is there is not added twice,
/// whatever its comment or options.
///
/// # Errors
/// [`GuestError::NoAccount`], [`GuestError::SshKey`]; [`GuestError::Type`] where `.ssh` or the file is
/// a link or something else; the kernel's.
pub fn inject(root: &GuestRoot, step: &SshInject<Snapshot>) -> Result<(), GuestError> {
    const ADD: &str = "add a key to";
    let accounts = Accounts::load(root)?;
    let user = accounts.user(&step.user)?;
    let text = match &step.key {
        SshKey::Text(text) => text.clone().into_bytes(),
        SshKey::File(file) => read_snapshot(file, LIMIT)?,
    };
    let keys = parse_keys(&step.user, &text)?;

    let owned =
        |mode| FileAttributes { uid: Some(user.uid), gid: Some(user.gid), mode: Some(mode) };
    let home = Path::new("/").join(&user.home);
    let directory = root.place(ADD, home.join(".ssh"))?;
    match directory.meta(ADD)? {
        None => directory.make_directory(ADD)?,
        Some(meta) if meta.kind == FileType::Directory => {}
        // sshd refuses most links here anyway (StrictModes), and the modes of another place would change.
        Some(meta) => {
            let (path, found) = (shown(directory.path()), name_of(meta.kind));
            return Err(GuestError::Type { operation: ADD, path, found, expected: "a directory" });
        }
    }
    root.make_directories(directory.path(), owned(0o700))?;

    let file = root.place(ADD, directory.path().join("authorized_keys"))?;
    let before = match file.meta(ADD)? {
        None => Vec::new(),
        Some(meta) => {
            meta.expect_file(ADD, file.path())?;
            root.read(file.path(), LIMIT)?
        }
    };
    let mut after = before.clone();
    for key in &keys {
        let there = String::from_utf8_lossy(&after)
            .lines()
            .any(|line| key_of(line).is_ok_and(|(_, blob)| blob == key.1));
        if !there {
            after = with_line(after, key.0.as_bytes());
        }
    }
    let meta = file.meta(ADD)?;
    let right =
        meta.is_some_and(|meta| (meta.mode, meta.uid, meta.gid) == (0o600, user.uid, user.gid));
    if right && after == before {
        return Ok(());
    }
    file.replace(ADD, owned(0o600), true, |to| std::io::Write::write_all(to, &after))
}

/// The keys of a text: each line, and in it what makes it the same key as another line.
fn parse_keys<'a>(user: &str, text: &'a [u8]) -> Result<Vec<(&'a str, &'a str)>, GuestError> {
    let bad = |line, why| GuestError::SshKey { user: escaped(user), line, why };
    let text = std::str::from_utf8(text).map_err(|_| bad(1, "it is not UTF-8"))?;
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (_, blob) = key_of(line).map_err(|why| bad(number + 1, why))?;
        keys.push((line, blob));
    }
    if keys.is_empty() {
        return Err(bad(1, "there is no key"));
    }
    Ok(keys)
}

/// Type and base64 text of a line of `authorized_keys`. Source: sshd(8), its section on that file's
/// format; the encoded key starts with its type behind a 32-bit length (RFC 4253, 6.6).
fn key_of(line: &str) -> Result<(&str, &str), &'static str> {
    if line.contains("PRIVATE KEY") {
        return Err("it is a private key, which must not be in an image");
    }
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err("it holds a control character");
    }
    let mut words = words(line).peekable();
    while let Some(word) = words.next() {
        let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"]
            .iter()
            .any(|start| word.starts_with(start));
        if !known {
            continue;
        }
        let blob = words.next().ok_or("the key itself is missing after its type")?;
        let bytes = base64(blob).ok_or("the key is not base64")?;
        if fields(&bytes).is_none_or(|fields| fields.len() < 2 || fields[0] != word.as_bytes()) {
            return Err("the key is cut off, or of another type than it says");
        }
        return Ok((word, blob));
    }
    Err("it names no key type, such as `ssh-ed25519`")
}

/// The fields of an encoded key, each behind its length; `None` where they do not fill it exactly.
fn fields(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (field, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        fields.push(field);
        bytes = rest;
    }
    bytes.is_empty().then_some(fields)
}

/// Words of a line; blanks in double quotes (of options) do not separate.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut before = ' ';
    line.split(move |c: char| {
        if c == '"' && before != '\\' {
            quoted = !quoted;
        }
        before = c;
        !quoted && (c == ' ' || c == '\t')
    })
    .filter(|word| !word.is_empty())
}

/// Decodes base64 of RFC 4648, section 4.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for c in digits.bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xfff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn keys_are_known_by_their_bytes() {
        let blob = KEY.split(' ').nth(1).unwrap();
        for line in [
            KEY.to_owned(),
            format!("{KEY} me@here"),
            format!("from=\"a b\",command=\"ssh-x \\\" y\" {KEY}"),
        ] {
            assert_eq!(key_of(&line), Ok(("ssh-ed25519", blob)), "{line}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for line in [
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "hello",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 ????",
            &KEY.replace("ssh-ed25519", "ssh-rsa"),
            &KEY[..40],
            &KEY.replace(' ', "\u{1b} "),
        ] {
            assert!(key_of(line).is_err(), "{line}");
        }
        assert!(parse_keys("root", b"# only a comment\n\n").is_err());
        assert_eq!(
            parse_keys("root", format!("# c\n{KEY}\r\n\n{KEY} b").as_bytes()).unwrap().len(),
            2
        );
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC*", key in "(ssh-rsa )?[A-Za-z0-9+/=]{0,40}") {
            let _ = (key_of(&line), key_of(&key), base64(&line));
        }
    }
}
