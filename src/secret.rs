//! The values of secrets: where they come from, and that they get nowhere else.
//!
//! A [`Vault`] finds values when an action needs them. A [`Masker`] keeps them out of what programs
//! print, and a [`Scanner`] finds them on a disk; both know the forms that [`needles`] makes.

mod mask;
pub mod needles;
mod scan;
mod vault;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

pub use mask::Masker;
pub use scan::{EdgeFinds, Found, Scanner};
pub use vault::{SecretError, Vault};

/// Fewest bytes of a value: shorter ones cannot be told from other bytes where they are masked and
/// looked for.
pub const SHORTEST: usize = 8;
/// Most bytes of a value.
pub const LONGEST: usize = 64 << 10;

/// A secret's value. `Debug` does not show it, and its memory is wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(pub Vec<u8>);

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a secret")
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// As base64: errors about a text of the wrong kind would quote a list's elements.
impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Encoded;
        impl Visitor<'_> for Encoded {
            type Value = SecretValue;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a secret")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SecretValue, E> {
                STANDARD.decode(text).map(SecretValue).map_err(|_| E::custom("not a secret"))
            }
        }
        deserializer.deserialize_str(Encoded)
    }
}

/// Keeps this process's memory out of core files and away from other users' debuggers, for good.
pub fn hide_memory() {
    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
    };
    // Neither fails for a process that asks it of itself.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // The hard limit stays: it could not be raised again for a guest's programs.
    let maximum = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_crosses_a_pipe_and_is_not_shown() {
        let value = SecretValue(b"hunter2!\0\xff".to_vec());
        assert!(!format!("{value:?}").contains("hunter2"));
        let json = serde_json::to_string(&value).unwrap();
        assert_eq!(serde_json::from_str::<SecretValue>(&json).unwrap(), value);
        let error = serde_json::from_str::<SecretValue>("\"hunter2!\"").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
