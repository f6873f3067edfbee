//! Values that cannot be wrong: names, paths in a guest, modes, owners.
//!
//! Each type can only be made through a check, so that nobody further down has to check again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest image or step name in bytes.
pub const MAX_NAME: usize = 64;
/// Longest namespace in bytes: with what stands behind it, it is a tag of a registry.
pub const MAX_NAMESPACE: usize = 32;
/// Longest path in a guest in bytes, as in Linux (`PATH_MAX` less its NUL).
pub const MAX_GUEST_PATH: usize = 4095;
/// Longest component of a path in a guest in bytes (`NAME_MAX`).
pub const MAX_COMPONENT: usize = 255;

/// Why a text is not a name, a path, a mode or an owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was written.
    #[error("it is empty")]
    Empty,
    /// Longer than the limit, in bytes.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A character that may not stand there.
    #[error("`{}` may not stand in it; letters, digits, `-`, `_` and `.` may, and the first must be a letter or digit", .0.escape_default())]
    Character(char),
    /// A guest path that does not start with `/`.
    #[error("it must start with `/`")]
    Relative,
    /// A guest path that climbs.
    #[error("`..` may not stand in it")]
    Climbs,
    /// A NUL or another control character in a path.
    #[error("a control character may not stand in it")]
    Control,
    /// A mode that is not octal, or larger than 07777.
    #[error("it is not an octal mode of three or four digits, such as \"0644\"")]
    Mode,
    /// An owner that is neither a name nor a number.
    #[error("it is not a user or group: a name or a number below 4294967295 is expected")]
    Owner,
}

fn check_name(text: &str, limit: usize) -> Result<(), NameError> {
    if text.len() > limit {
        return Err(NameError::TooLong { limit });
    }
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Character(first));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match text.chars().find(|&c| !fits(c)) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $limit:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text, $limit)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of an image: unique in a workspace, and the default name of its outputs.
    ImageName, MAX_NAME
}
name_type! {
    /// The name of a step: unique in its image.
    StepName, MAX_NAME
}
name_type! {
    /// The name of a profile, unique in a workspace, or of a requirement, unique in its profile.
    ProfileName, MAX_NAME
}
name_type! {
    /// The name of user data or of a Heat template: unique among those of a workspace.
    DocumentName, MAX_NAME
}
name_type! {
    /// The name of a secret: unique in a workspace, and the name of the file in which a step finds it.
    SecretName, MAX_NAME
}
name_type! {
    /// The name of a remote: unique in a workspace.
    RemoteName, MAX_NAME
}
name_type! {
    /// The name of a pin: unique in a store.
    PinName, MAX_NAME
}
name_type! {
    /// Whose results these are: results of one namespace never serve another.
    Namespace, MAX_NAMESPACE
}

impl Default for Namespace {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

/// An absolute path in a guest, without `..`, `.`, doubled or trailing slashes.
///
/// It says where a recipe points, not where the path leads: links are resolved inside the guest by
/// `guest::root`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

impl GuestPath {
    /// `/`.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path as text, starting with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, root first; none for `/`.
    #[must_use]
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// The directory that holds it and its last component; `None` for `/`.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (parent, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        Some((Self(parent.to_owned()), name))
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// Where `name` is not one component of a path.
    pub fn join(&self, name: &str) -> Result<Self, NameError> {
        format!("{}/{name}", self.0.trim_end_matches('/')).parse()
    }
}

impl FromStr for GuestPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if !text.starts_with('/') {
            return Err(NameError::Relative);
        }
        if text.len() > MAX_GUEST_PATH {
            return Err(NameError::TooLong { limit: MAX_GUEST_PATH });
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::Control);
        }
        let mut path = String::with_capacity(text.len());
        for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part == ".." {
                return Err(NameError::Climbs);
            }
            if part.len() > MAX_COMPONENT {
                return Err(NameError::TooLong { limit: MAX_COMPONENT });
            }
            path.push('/');
            path.push_str(part);
        }
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self(path))
    }
}

impl TryFrom<String> for GuestPath {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Permission bits of a file, always written in octal; at most 07777.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mode(u16);

impl Mode {
    /// Takes permission bits; bits above 07777 are cut off.
    #[must_use]
    pub const fn new(bits: u16) -> Self {
        Self(bits & 0o7777)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl FromStr for Mode {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let shaped =
            matches!(digits.len(), 3..=5) && digits.bytes().all(|c| matches!(c, b'0'..=b'7'));
        let bits = u16::from_str_radix(digits, 8).map_err(|_| NameError::Mode)?;
        if !shaped || bits > 0o7777 {
            return Err(NameError::Mode);
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A user or a group as a recipe names it; names are looked up in the guest, never on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A numeric id.
    Id(u32),
    /// A name from the guest's `/etc/passwd` or `/etc/group`.
    Name(String),
}

impl FromStr for Owner {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
            // 4294967295 is -1, which chown takes as "leave it alone".
            return match text.parse() {
                Ok(u32::MAX) | Err(_) => Err(NameError::Owner),
                Ok(id) => Ok(Self::Id(id)),
            };
        }
        let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let rest = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.$".contains(c));
        if !first || !rest || text.len() > MAX_NAME {
            return Err(NameError::Owner);
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn guest_paths_are_normal() {
        let normal = |text: &str| text.parse::<GuestPath>().map(String::from);
        assert_eq!(normal("/").unwrap(), "/");
        assert_eq!(normal("//etc/./motd/").unwrap(), "/etc/motd");
        assert_eq!(normal("etc"), Err(NameError::Relative));
        assert_eq!(normal("/a/../b"), Err(NameError::Climbs));
        assert_eq!(normal("/a\0b"), Err(NameError::Control));
        assert_eq!(
            normal(&format!("/{}", "a".repeat(256))),
            Err(NameError::TooLong { limit: 255 })
        );
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!("0644".parse::<Mode>().unwrap().bits(), 0o644);
        assert_eq!("700".parse::<Mode>().unwrap().bits(), 0o700);
        assert_eq!("4755".parse::<Mode>().unwrap().to_string(), "4755");
        for text in ["", "8", "64", "0888", "77777", "+644", "rwx"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!("0".parse(), Ok(Owner::Id(0)));
        assert_eq!("www-data".parse(), Ok(Owner::Name("www-data".into())));
        for text in ["", "4294967295", "-1", "a:b", "ä", "a b"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_guest_path_survives_its_text(text in "(/[a-z.]{1,6}){0,5}/?") {
            if let Ok(path) = text.parse::<GuestPath>() {
                prop_assert_eq!(path.as_str().parse::<GuestPath>().unwrap(), path.clone());
                prop_assert!(path.components().all(|part| part != "." && part != ".."));
            }
        }
    }
}
