//! What names, addresses, keys and passwords must look like: why a text does not, if it does not.
//!
//! Pure functions on texts; how a fault is reported is not known.

use crate::name::MAX_GUEST_PATH;

/// Longest name of a package, a suite or a component.
const MAX_WORD: usize = 200;

pub(super) fn package_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > MAX_WORD {
        Some("it is longer than 200 bytes")
    } else if text.starts_with('-') {
        Some("it starts with `-`, which a package manager takes for an option")
    } else if text.ends_with('-') {
        Some("it ends with `-`, by which apt removes a package")
    } else if text.contains(',') {
        Some("a comma stands in it")
    } else {
        let odd = |c: char| c.is_whitespace() || c.is_control();
        text.contains(odd).then_some("a space stands in it")
    }
}

pub(super) fn mirror_fault(text: &str) -> Option<&'static str> {
    let schemes = ["http://", "https://", "file://", "file:/", "copy://", "copy:/"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        None => Some("it starts with none of `http://`, `https://`, `file:/` and `copy:/`"),
        Some("") => Some("it names no host"),
        Some(_) => {
            let odd = |c: char| c.is_whitespace() || c.is_control();
            text.contains(odd).then_some("a space stands in it")
        }
    }
}

pub(super) fn url_fault(text: &str) -> Option<&'static str> {
    let rest = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let odd = |c: char| c.is_whitespace() || c.is_control();
    match rest {
        None => Some("it starts with neither `https://` nor `http://`"),
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Some("it names no host"),
        Some(rest) if rest.split('/').next().is_some_and(|host| host.contains('@')) => {
            Some("a user or password has no place in a recipe")
        }
        Some(_) => text.contains(odd).then_some("a space stands in it"),
    }
}

/// The schemes of remotes; what has none is a directory.
const SCHEMES: [&str; 10] =
    ["s3", "swift", "gs", "azblob", "webdav", "webdav+http", "http", "https", "oci", "oci+http"];

pub(super) fn address_fault(text: &str) -> Option<&'static str> {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if text.contains(odd) {
        return Some("a space stands in it");
    }
    let Some(address) = text.split_once("://") else {
        return text.is_empty().then_some("it is empty");
    };
    match address {
        (scheme, _) if !SCHEMES.contains(&scheme) => Some(
            "its scheme is none of `s3`, `swift`, `gs`, `azblob`, `webdav`, `http`, `https` and \
             `oci`, and a directory has none",
        ),
        (_, rest) if rest.is_empty() || rest.starts_with('/') => Some("it names no place"),
        (_, rest) if rest.split('/').next().is_some_and(|host| host.contains('@')) => {
            Some("a user or password has no place in a workspace: see the book's page on remotes")
        }
        _ => None,
    }
}

/// A public key of minisign is 42 bytes in Base64: the algorithm, the key's number, the key.
pub(super) fn signing_key_fault(text: &str) -> Option<&'static str> {
    use base64::Engine as _;
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(bytes) if bytes.len() == 42 && bytes.starts_with(b"Ed") => None,
        Ok(bytes) if bytes.len() > 42 => Some("it is too long; only the public key belongs here"),
        Ok(_) => Some("it is not 42 bytes that begin with `Ed`"),
        Err(_) => Some("it is not Base64; it is the second line of the `.pub` file"),
    }
}

/// A type and a subtype (RFC 6838, section 4.2), without parameters.
pub(super) fn media_fault(text: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
    let name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits)
    };
    match text.split_once('/') {
        _ if text.len() > MAX_WORD => Some("it is longer than 200 bytes"),
        Some(("multipart" | "message", _)) => Some("kiln packs the parts itself"),
        Some((kind, subtype)) if name(kind) && name(subtype) => None,
        _ => Some("it is not a type and a subtype with a slash between them"),
    }
}

pub(super) fn template_fault(text: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.len() > MAX_WORD {
        Some("it is longer than 200 bytes")
    } else {
        let right = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits);
        (!right)
            .then_some("letters, digits, `-`, `_` and `.` may stand in it, a letter or digit first")
    }
}

pub(super) fn archive_fault(text: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if text.len() > MAX_WORD {
        Some("it is longer than 200 bytes")
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(fits) {
        Some("letters, digits, `-`, `_`, `.` and `/` may stand in it, a letter or digit first")
    } else {
        text.split('/').any(|part| part == "..").then_some("`..` may not stand in it")
    }
}

pub(super) fn hostname_fault(text: &str) -> Option<&'static str> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 64 {
        Some("it is longer than the 64 bytes that Linux allows")
    } else if text.contains('_') {
        Some("`_` may not stand in it")
    } else {
        let fits = text.split('.').all(label);
        (!fits).then_some("its parts are letters, digits and `-`, which is neither first nor last")
    }
}

pub(super) fn timezone_fault(text: &str) -> Option<&'static str> {
    let part = |part: &str| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"_-+".contains(&c);
        !part.is_empty() && part.bytes().all(fits)
    };
    if text.starts_with('/') {
        Some("it is an absolute path")
    } else if text.len() > 255 || !text.split('/').all(part) {
        Some("its parts are letters, digits, `_`, `-` and `+`, with `/` between them")
    } else {
        None
    }
}

pub(super) fn hash_fault(text: &str) -> Option<&'static str> {
    let fits = |c: u8| c.is_ascii_graphic() && !b":!*;\\".contains(&c);
    if !text.bytes().all(fits) {
        Some("a crypt(5) string has no spaces and none of `:`, `;`, `*`, `!` and `\\`")
    } else if !text.starts_with('$') || text.len() < 13 {
        Some("a crypt(5) string starts with `$`, such as `$6$` or `$y$`")
    } else {
        None
    }
}

pub(super) fn password_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty, which would let anyone in")
    } else {
        text.contains(char::is_control).then_some("a control character stands in it")
    }
}

pub(super) fn key_fault(text: &str) -> Option<&'static str> {
    if text.contains("PRIVATE KEY") {
        return Some("it is a private key, which must never leave its owner");
    }
    if text.contains(char::is_control) {
        return Some("it is longer than one line");
    }
    let mut parts = text.split(' ');
    let kind = parts.next().unwrap_or_default();
    let known = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
    let body = parts.next().unwrap_or_default();
    let base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
    if !known.iter().any(|prefix| kind.starts_with(prefix)) {
        Some("it does not start with a type such as `ssh-ed25519`")
    } else if body.len() < 16 || !body.bytes().all(base64) {
        Some("the type is not followed by a key in base64")
    } else {
        None
    }
}

pub(super) fn link_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > MAX_GUEST_PATH {
        Some("it is longer than 4095 bytes")
    } else {
        text.contains(char::is_control).then_some("a control character stands in it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_texts_have_no_fault() {
        for (fault, texts) in [
            (package_fault as fn(&str) -> _, vec!["g++", "libc6:amd64", "nginx=1.22*", "@core"]),
            (mirror_fault, vec!["http://deb.debian.org/debian", "file:/srv/mirror"]),
            (archive_fault, vec!["bookworm", "bookworm-updates", "main", "non-free-firmware"]),
            (hostname_fault, vec!["web", "web-1.example.org", "1"]),
            (timezone_fault, vec!["UTC", "Europe/Vienna", "Etc/GMT+1"]),
            (hash_fault, vec!["$6$salt$abcdefgh", "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$abc"]),
            (password_fault, vec!["correct horse: battery"]),
            (key_fault, vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@there"]),
            (link_fault, vec!["../a b", "/usr/bin/vim"]),
        ] {
            for text in texts {
                assert_eq!(fault(text), None, "{text}");
            }
        }
    }
}
