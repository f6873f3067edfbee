//! Whose signatures count.
//!
//! Keys and signatures are minisign's, so that its tools make, check and read them too. A workspace
//! lists the keys that it trusts in `kiln.kdl`; there is no other way in. A key that is revoked stays
//! listed, so that what it signed can be told from what nobody knows.
//!
//! A key goes by its number, as in minisign. The number is part of what a workspace lists, and two
//! listed keys never share one: nobody else can choose it for them.

use std::fmt;
use std::io::Cursor;
use std::str::FromStr;

use minisign::{PublicKey, SignatureBox};

use super::accept::Distrust;
use crate::recipe::TrustedKey;

/// Largest signature file in bytes.
const MAX_SIGNATURE: usize = 4096;
/// Characters of the last line of a signature file, and its end: 64 bytes in Base64.
const COMMENT_SIGNATURE: (usize, &str) = (88, "==");

/// The number of a key, as minisign prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerId(u64);

/// A text that is not one to sixteen hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not the number of a key, which has at most sixteen hexadecimal digits")]
pub struct ParseSignerError;

impl SignerId {
    /// The number in a key or a signature of minisign; `None` where it is not eight bytes.
    pub(super) fn of(number: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(number.try_into().ok()?)))
    }
}

impl fmt::Display for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerId({self})")
    }
}

impl FromStr for SignerId {
    type Err = ParseSignerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // minisign leaves out zeros at the start.
        let shaped = text.len() <= 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| shaped);
        number.map(Self).ok_or(ParseSignerError)
    }
}

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(PublicKey);

/// A text that is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not a public key of minisign")]
pub struct ParseKeyError;

impl VerifyingKey {
    pub(super) fn new(key: PublicKey) -> Self {
        Self(key)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SignerId {
        SignerId::of(self.0.keynum()).expect("the number of a key has eight bytes")
    }

    /// The key in a `.pub` file, or on a line of its own.
    ///
    /// # Errors
    /// Where the text is neither.
    pub fn from_file(text: &str) -> Result<Self, ParseKeyError> {
        let mut lines = text.lines().filter(|line| !line.starts_with("untrusted comment:"));
        let key = lines.next().unwrap_or_default().parse()?;
        if lines.all(str::is_empty) { Ok(key) } else { Err(ParseKeyError) }
    }

    /// What stands in a `.pub` file.
    #[must_use]
    pub fn to_file(&self) -> String {
        format!("untrusted comment: minisign public key {}\n{self}\n", self.id())
    }
}

impl fmt::Display for VerifyingKey {
    /// The key as `kiln.kdl` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_base64())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = PublicKey::from_base64(text).map_err(|_| ParseKeyError)?;
        // One key has one text, and there is one algorithm.
        let same = key.to_base64() == text && key.to_bytes().starts_with(b"Ed");
        if same { Ok(Self(key)) } else { Err(ParseKeyError) }
    }
}

/// One key of `kiln.kdl`.
#[derive(Debug, Clone)]
struct Listed {
    key: VerifyingKey,
    name: Option<String>,
    revoked: bool,
}

/// The keys of a workspace.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<Listed>,
}

impl Trust {
    /// The keys of `kiln.kdl`, whose shape was checked when it was read.
    #[must_use]
    pub fn new(trusted: &[TrustedKey]) -> Self {
        let listed = |trusted: &TrustedKey| {
            let TrustedKey { key, name, revoked } = trusted;
            Some(Listed { key: key.value.parse().ok()?, name: name.clone(), revoked: *revoked })
        };
        Self { keys: trusted.iter().filter_map(listed).collect() }
    }

    /// Whether nobody's signature counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.iter().all(|listed| listed.revoked)
    }

    /// Whether a result in the local store may be used: one that was made here, or came from a
    /// remote, signed by a key that still counts. `signer` is [`crate::store::results::ActionResult::signer`].
    #[must_use]
    pub fn allows(&self, signer: Option<&str>) -> bool {
        let Some(signer) = signer else { return true };
        let listed = signer.parse().ok().and_then(|id| self.find(id));
        listed.is_some_and(|listed| !listed.revoked)
    }

    /// Whose key that is, if `kiln.kdl` lists it and says.
    #[must_use]
    pub fn name(&self, signer: SignerId) -> Option<&str> {
        self.find(signer)?.name.as_deref()
    }

    fn find(&self, id: SignerId) -> Option<&Listed> {
        self.keys.iter().find(|listed| listed.key.id() == id)
    }

    /// Who signed some bytes, if a signature file is one over them by a key that counts.
    pub(super) fn check(&self, bytes: &[u8], signature: &str) -> Result<SignerId, Distrust> {
        if signature.is_empty() {
            return Err(Distrust::Unsigned);
        }
        let parsed = parse_signature(signature).ok_or(Distrust::NotASignature)?;
        let signer = SignerId::of(parsed.keynum()).ok_or(Distrust::NotASignature)?;
        let Some(Listed { key, name, revoked }) = self.find(signer) else {
            return Err(Distrust::UnknownSigner { signer });
        };
        if *revoked {
            return Err(Distrust::Revoked { signer, name: name.clone() });
        }
        // Older versions of minisign sign the bytes themselves and not their hash.
        match minisign::verify(&key.0, &parsed, Cursor::new(bytes), true, false, true) {
            Ok(()) => Ok(signer),
            Err(_) => Err(Distrust::WrongSignature { signer, name: name.clone() }),
        }
    }
}

/// A signature file, if it is one to the letter: of its few texts with one meaning, one is taken.
fn parse_signature(text: &str) -> Option<SignatureBox> {
    // A tab stands in the comments that minisign itself writes.
    let odd = |c: char| !matches!(c, '\n' | '\t' | ' '..='~');
    if text.len() > MAX_SIGNATURE || text.contains(odd) {
        return None;
    }
    // The verifier takes for granted that the signature of the comment has 64 bytes.
    let ((len, end), last) = (COMMENT_SIGNATURE, text.lines().nth(3)?);
    if last.len() != len || !last.ends_with(end) {
        return None;
    }
    let parsed = SignatureBox::from_string(text).ok()?;
    (parsed.to_string() == text).then_some(parsed)
}
