//! BLAKE3 digests and the typed ids made of them.
//!
//! An id says what was hashed; two kinds of id never compare. What goes *into* a digest is decided
//! by `key`, `disk::layer` and `inputs`, not here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// 32 bytes of BLAKE3 output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that is not 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: 64 lowercase hexadecimal digits are expected")]
pub struct ParseDigestError(String);

impl Digest {
    /// Length of a digest in bytes.
    pub const LEN: usize = 32;

    /// Hashes one run of bytes, without a domain: the plain BLAKE3 that `b3sum` prints.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes 32 bytes that are a digest already.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        let hex = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let fault = || ParseDigestError(text.to_owned());
        if digits.len() != 2 * Self::LEN {
            return Err(fault());
        }
        let mut bytes = [0; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = hex(pair[0]).ok_or_else(fault)?;
            let low = hex(pair[1]).ok_or_else(fault)?;
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

/// BLAKE3 fed piece by piece.
///
/// With a domain (`Hasher::new`) it is BLAKE3's key derivation mode, so that digests of different
/// kinds of things never collide; `Hasher::plain` is for file content.
#[derive(Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Starts a digest in one domain, such as `"kiln 2026 action key v1"`.
    #[must_use]
    pub fn new(domain: &'static str) -> Self {
        Self(blake3::Hasher::new_derive_key(domain))
    }

    /// Starts a digest of plain bytes.
    #[must_use]
    pub fn plain() -> Self {
        Self(blake3::Hasher::new())
    }

    /// Feeds bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// Feeds many bytes as they are, on every core.
    pub fn raw_parallel(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update_rayon(bytes);
        self
    }

    /// Feeds bytes behind their length, so that neighbours cannot be confused.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.raw(bytes)
    }

    /// Feeds a number as eight little-endian bytes.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    /// The digest of all that was fed.
    #[must_use]
    pub fn finish(&self) -> Digest {
        self.0.finalize().into()
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The first twelve hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id_type! {
    /// Names the bytes of one object in the store: their plain BLAKE3.
    ObjectId
}
id_type! {
    /// Identity of an action: what the action cache is keyed by.
    ActionKey
}
id_type! {
    /// Names the bytes of a virtual disk after an action, through its chain of parents.
    StateId
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_digest_is_blake3_of_the_bytes() {
        // The test vector of the BLAKE3 paper for the empty input.
        assert_eq!(
            Digest::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        for text in ["", "af", &"g".repeat(64), &"A".repeat(64), &"0".repeat(65)] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_survives_its_text(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }

        #[test]
        fn neighbours_are_not_confused(a: Vec<u8>, b: Vec<u8>, c: Vec<u8>, d: Vec<u8>) {
            let digest = |x: &[u8], y: &[u8]| Hasher::new("test").bytes(x).bytes(y).finish();
            prop_assert_eq!(digest(&a, &b) == digest(&c, &d), (a, b) == (c, d));
        }
    }
}
