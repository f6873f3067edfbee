//! The guest's users and groups, and the password field of its shadow file.
//!
//! It does not know the host's users, and does not hash passwords.

use super::error::{GuestError, escaped};
use super::root::{FileAttributes, GuestRoot};
use crate::name::Owner;
use crate::recipe::Attributes;

/// Largest account file that is read, in bytes.
const LIMIT: u64 = 16 << 20;
/// Longest account name that an error repeats, in bytes.
const LONGEST_NAME: usize = 64;

/// One user, from `passwd(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The id of the primary group.
    pub gid: u32,
    /// The home directory as written; it may be empty or relative.
    pub home: String,
}

/// The users and groups of a guest.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    users: Vec<User>,
    groups: Vec<(String, u32)>,
}

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group`; a file that is missing holds nobody.
    ///
    /// # Errors
    /// Where a file is there and cannot be read.
    pub fn load(root: &GuestRoot) -> Result<Self, GuestError> {
        let text = |path: &str| root.read_if_there(path, LIMIT).map(Option::unwrap_or_default);
        Ok(Self::parse(&text("/etc/passwd")?, &text("/etc/group")?))
    }

    /// Takes the two files apart. Lines that are not entries (comments, NIS marks, wrong numbers,
    /// bytes that are not UTF-8) are passed over, as the C library does.
    #[must_use]
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let users = lines(passwd).filter_map(|fields| {
            let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
            Some(User {
                name: plain(name)?,
                uid: id(uid)?,
                gid: id(gid)?,
                home: (*home).to_owned(),
            })
        });
        let groups = lines(group).filter_map(|fields| {
            let [name, _, gid, ..] = fields.as_slice() else { return None };
            Some((plain(name)?, id(gid)?))
        });
        Self { users: users.collect(), groups: groups.collect() }
    }

    /// All users, in the order of the file.
    #[must_use]
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// The user with that name, the first if there are more.
    ///
    /// # Errors
    /// [`GuestError::NoAccount`], which names the nearest user.
    pub fn user(&self, name: &str) -> Result<&User, GuestError> {
        self.users
            .iter()
            .find(|user| user.name == name)
            .ok_or_else(|| missing("user", name, self.users.iter().map(|user| user.name.as_str())))
    }

    /// The id of a group.
    ///
    /// # Errors
    /// [`GuestError::NoAccount`], which names the nearest group.
    pub fn group(&self, name: &str) -> Result<u32, GuestError> {
        self.groups.iter().find(|(group, _)| group == name).map(|(_, gid)| *gid).ok_or_else(|| {
            missing("group", name, self.groups.iter().map(|(group, _)| group.as_str()))
        })
    }

    /// The user id that a recipe means.
    ///
    /// # Errors
    /// As with [`Self::user`].
    pub fn uid(&self, owner: &Owner) -> Result<u32, GuestError> {
        match owner {
            Owner::Id(id) => Ok(*id),
            Owner::Name(name) => self.user(name).map(|user| user.uid),
        }
    }

    /// The group id that a recipe means.
    ///
    /// # Errors
    /// As with [`Self::group`].
    pub fn gid(&self, group: &Owner) -> Result<u32, GuestError> {
        match group {
            Owner::Id(id) => Ok(*id),
            Owner::Name(name) => self.group(name),
        }
    }

    /// A recipe's attributes with names looked up; what is not written stays `None`.
    ///
    /// # Errors
    /// As with [`Self::user`] and [`Self::group`].
    pub fn attributes(&self, attributes: &Attributes) -> Result<FileAttributes, GuestError> {
        Ok(FileAttributes {
            uid: attributes.owner.as_ref().map(|owner| self.uid(owner)).transpose()?,
            gid: attributes.group.as_ref().map(|group| self.gid(group)).transpose()?,
            mode: attributes.mode.map(|mode| u32::from(mode.bits())),
        })
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    file.split(|&byte| byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(|line| line.split(':').collect())
}

fn plain(name: &str) -> Option<String> {
    let entry = !name.is_empty() && !name.starts_with(['#', '+', '-']);
    entry.then(|| name.to_owned())
}

/// An id; 4294967295 is -1, which chown(2) takes as "leave it alone", so it is none.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id| id != u32::MAX)
}

fn missing<'a>(kind: &'static str, name: &str, names: impl Iterator<Item = &'a str>) -> GuestError {
    let nearest = names
        .filter(|candidate| candidate.len() <= LONGEST_NAME)
        .map(|candidate| (strsim::damerau_levenshtein(candidate, name), candidate))
        .filter(|(distance, _)| *distance <= 1 + name.len() / 4)
        .min();
    let made = format!("make the {kind} in an earlier step, or install the package that does");
    let help = match nearest {
        Some((_, near)) => format!("there is a {kind} `{}`; else {made}", escaped(near)),
        None => made,
    };
    GuestError::NoAccount { kind, name: escaped(name), help }
}

/// What to do with the password field of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowEdit<'a> {
    /// Put a crypt(5) string there.
    Hash(&'a str),
    /// Put `!` before what is there, once.
    Lock,
    /// Put `*` there.
    Disable,
}

/// Edits a user's password in `/etc/shadow`, which keeps its mode, owner and every other byte.
///
/// # Errors
/// [`GuestError::NoAccount`], [`GuestError::NoShadow`], [`GuestError::Password`] for a hash that
/// would break the file; the kernel's.
pub fn edit_password(root: &GuestRoot, user: &str, edit: ShadowEdit<'_>) -> Result<(), GuestError> {
    Accounts::load(root)?.user(user)?;
    if let ShadowEdit::Hash(hash) = edit {
        check_hash(user, hash)?;
    }
    let before = root.read_if_there("/etc/shadow", LIMIT)?.unwrap_or_default();
    let after = edit_shadow(&before, user, edit)
        .ok_or_else(|| GuestError::NoShadow { user: escaped(user) })?;
    if after == before {
        return Ok(());
    }
    root.write_atomic("/etc/shadow", &after, FileAttributes::default())
}

/// A crypt(5) string: printable ASCII without blanks and `:;*!\`, and long enough to be one.
fn check_hash(user: &str, hash: &str) -> Result<(), GuestError> {
    let bad = |why| Err(GuestError::Password { user: escaped(user), why });
    if hash.is_empty() {
        return bad("an empty hash would let anyone in; use `locked` or `disabled`");
    }
    if !hash.bytes().all(|c| c.is_ascii_graphic() && !b":;*!\\".contains(&c)) {
        return bad(
            "a hash holds printable ASCII without blanks, `:`, `;`, `*`, `!` and `\\`, as crypt(5) says",
        );
    }
    if !(hash.len() == 13
        || hash.starts_with('$') && hash.matches('$').count() >= 3
        || hash.starts_with('_'))
    {
        return bad(
            "it is no crypt(5) string, such as `$6$salt$hash`; use `plain` for a password as text",
        );
    }
    Ok(())
}

/// `shadow(5)` with one user's second field changed; `None` where the user has no line.
#[must_use]
pub fn edit_shadow(file: &[u8], user: &str, edit: ShadowEdit<'_>) -> Option<Vec<u8>> {
    let mut at = 0;
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        let rest = line.strip_prefix(user.as_bytes()).and_then(|rest| rest.strip_prefix(b":"));
        if let Some(rest) = rest {
            let start = at + user.len() + 1;
            let length =
                rest.iter().position(|byte| matches!(byte, b':' | b'\n')).unwrap_or(rest.len());
            let old = &rest[..length];
            let new = match edit {
                ShadowEdit::Hash(hash) => hash.as_bytes().to_vec(),
                ShadowEdit::Lock if old.starts_with(b"!") => old.to_vec(),
                ShadowEdit::Lock => [b"!", old].concat(),
                ShadowEdit::Disable => b"*".to_vec(),
            };
            return Some([&file[..start], &new, &file[start + length..]].concat());
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n# comment\n+::::::\nodd\nweb:x:33:33::/srv:\n\
        \xff\xfe:x:1:1::/:/\nbad:x:-1:0::/:/\nminus:x:4294967295:0::/:/\nlast:x:1000:100::/home/last:/bin/sh";

    #[test]
    fn odd_lines_are_passed_over() {
        let accounts = Accounts::parse(PASSWD, b"root:x:0:\nwww-data:x:33:a,b\nshort\n");
        let names: Vec<_> =
            accounts.users.iter().map(|user| (user.name.as_str(), user.uid, user.gid)).collect();
        assert_eq!(names, [("root", 0, 0), ("web", 33, 33), ("last", 1000, 100)]);
        assert_eq!(accounts.group("www-data").unwrap(), 33);
        assert_eq!(accounts.uid(&Owner::Id(7)).unwrap(), 7);
    }

    #[test]
    fn the_password_field_alone_changes() {
        let file = b"root:$6$a$b:19000:0:99999:7:::\nroot2:x:1:\nadmin::0:::::\nshort:x\nlast:!:9";
        let edit =
            |user, edit| edit_shadow(file, user, edit).map(|file| String::from_utf8(file).unwrap());
        let text = std::str::from_utf8(file).unwrap();
        assert_eq!(edit("root", ShadowEdit::Lock).unwrap(), text.replace("root:$6", "root:!$6"));
        assert_eq!(
            edit("admin", ShadowEdit::Disable).unwrap(),
            text.replace("admin::", "admin:*:")
        );
        assert_eq!(
            edit("short", ShadowEdit::Hash("$y$h")).unwrap(),
            text.replace("short:x", "short:$y$h")
        );
        assert_eq!(edit("last", ShadowEdit::Lock).unwrap(), text);
        assert_eq!(edit("roo", ShadowEdit::Lock), None);
    }

    #[test]
    fn a_hash_that_breaks_the_file_is_refused() {
        for hash in ["", "secret", "$6$a:b$c", "$6$a$b\n", "$6$a$ü"] {
            assert!(check_hash("root", hash).is_err(), "{hash:?}");
        }
        for hash in ["$6$salt$hash/.", "$y$j9T$abc$def", "abJnggxhB/yWI"] {
            assert!(check_hash("root", hash).is_ok(), "{hash:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(file: Vec<u8>, user in "[a-z]{0,3}") {
            let _ = Accounts::parse(&file, &file);
            let _ = edit_shadow(&file, &user, ShadowEdit::Lock);
        }
    }
}
