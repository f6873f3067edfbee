//! Signing: whose key this kiln has, where it is found, and what is signed with it.
//!
//! The secret key is a file of minisign's, with a password or without. It is found in
//! `$KILN_SIGNING_KEY`, which is a path or the key itself, else in the user's configuration. No error
//! holds a key or a password, and no command line takes one. minisign does not wipe its memory, so
//! that from the first key on the memory of this process is kept out of core files, and away from
//! other users' debuggers.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};
use zeroize::Zeroizing;

use super::BlobRef;
use super::accept::{Distrust, check_layers};
use super::statement::{ResultRecord, Statement};
use super::trust::{SignerId, VerifyingKey};
use crate::files::{Context, FileError, read_bounded};
use crate::secret::hide_memory;

/// The variable that holds a secret key, or the path of one.
pub const KEY_VARIABLE: &str = "KILN_SIGNING_KEY";
/// The variable that holds its password.
pub const PASSWORD_VARIABLE: &str = "KILN_SIGNING_PASSWORD";
/// The name of the file with the secret key, in the user's configuration.
pub const KEY_FILE: &str = "kiln/signing.key";

/// Largest key file in bytes.
const MAX_KEY: usize = 4096;
/// Bytes of a secret key with what stands around it, and their number in Base64.
const SECRET_BYTES: usize = 158;
const SECRET_TEXT: usize = 212;
/// How the comment starts that is the first line of minisign's files.
const COMMENT: &str = "untrusted comment: ";

/// Why there is no key to sign with, or it does not sign. None holds a key or a password.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SigningError {
    /// The key's file cannot be read.
    #[error("the signing key cannot be read")]
    #[diagnostic(
        code(kiln::signing::unreadable),
        help("`{KEY_VARIABLE}` holds its path, or the key itself")
    )]
    File(#[source] FileError),
    /// Others can read the key's file, or change it.
    #[error("the signing key `{}` is open to others: {why}", path.display())]
    #[diagnostic(
        code(kiln::signing::open_to_others),
        help("`chmod 600` it, and see whose it is; if others may have read it, make a new one")
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something else than a secret key.
    #[error("{place} holds no secret key of minisign")]
    #[diagnostic(
        code(kiln::signing::not_a_key),
        help("`kiln key generate` makes one; the `.pub` file is the public key")
    )]
    NotAKey {
        /// Where it was looked for.
        place: KeyPlace,
    },
    /// The password is another.
    #[error("{place} does not open with that password")]
    #[diagnostic(
        code(kiln::signing::wrong_password),
        help("see whether `{PASSWORD_VARIABLE}` is set")
    )]
    WrongPassword {
        /// Where the key is.
        place: KeyPlace,
    },
    /// Nobody can be asked for the password.
    #[error("{place} has a password, and it cannot be asked for")]
    #[diagnostic(code(kiln::signing::no_password), help("set `{PASSWORD_VARIABLE}`"))]
    NoPassword {
        /// Where the key is.
        place: KeyPlace,
        /// Why not.
        source: io::Error,
    },
    /// A statement that no kiln would take.
    #[error("a result is not signed, as nobody would take it")]
    #[diagnostic(code(kiln::signing::impossible), help("this is a bug of kiln: report it"))]
    Impossible(#[source] Distrust),
    /// The host has no random numbers, or a parameter is refused.
    #[error("minisign does not {doing}")]
    #[diagnostic(code(kiln::signing::failed), help("the cause stands above"))]
    Minisign {
        /// What was asked, in the infinitive.
        doing: &'static str,
        /// What it said.
        source: minisign::PError,
    },
}

/// Where a secret key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// In [`KEY_VARIABLE`].
    Variable,
    /// In a file.
    File(PathBuf),
}

impl std::fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable => write!(f, "`{KEY_VARIABLE}`"),
            Self::File(path) => write!(f, "`{}`", path.display()),
        }
    }
}

/// Where a variable of the environment is looked up.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where a password comes from that no variable holds: asked with the place of the key.
pub type Ask<'a> = &'a dyn Fn(&KeyPlace) -> io::Result<Zeroizing<String>>;

/// Asks on the terminal, without showing what is typed; standard input and output are left alone.
///
/// # Errors
/// Where there is no terminal, or the user breaks it off.
pub fn ask_on_terminal(question: &str) -> io::Result<Zeroizing<String>> {
    rpassword::prompt_password(question).map(Zeroizing::new)
}

/// Asks on the terminal for the password of a key: an [`Ask`].
///
/// # Errors
/// As [`ask_on_terminal`].
pub fn ask_for_password(place: &KeyPlace) -> io::Result<Zeroizing<String>> {
    ask_on_terminal(&format!("password of {place}: "))
}

/// A key that signs.
pub struct Signer {
    key: SecretKey,
    verifying: VerifyingKey,
}

/// It holds the secret key, which minisign's own `Debug` shows.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.id())
    }
}

/// The file of the secret key where nothing else is said; `None` where the user has no place for
/// configuration.
#[must_use]
pub fn default_file(variables: Variables<'_>) -> Option<PathBuf> {
    let directory = |name: &str| variables(name).map(PathBuf::from).filter(|at| at.is_absolute());
    let configuration =
        directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")));
    Some(configuration?.join(KEY_FILE))
}

/// Where a new secret key goes: where it is looked for, or would be if it were in a file.
#[must_use]
pub fn new_file(variables: Variables<'_>) -> Option<PathBuf> {
    match place(variables) {
        Some(KeyPlace::File(path)) => Some(path),
        _ => default_file(variables),
    }
}

/// Where the public half of a secret key in a file is kept.
#[must_use]
pub fn public_file(secret: &Path) -> PathBuf {
    secret.with_extension("pub")
}

/// Where this user's secret key is, and whether it is there; `None` where nothing says.
#[must_use]
pub fn place(variables: Variables<'_>) -> Option<KeyPlace> {
    match variables(KEY_VARIABLE).filter(|value| !value.is_empty()) {
        Some(value) if value.to_str().is_some_and(is_key_text) => Some(KeyPlace::Variable),
        Some(path) => Some(KeyPlace::File(path.into())),
        None => default_file(variables).filter(|path| path.exists()).map(KeyPlace::File),
    }
}

/// Whether a variable holds a key and not a path: with its comment, or the second line alone.
fn is_key_text(text: &str) -> bool {
    text.starts_with(COMMENT) || text.starts_with("RW") && text.trim_end().len() == SECRET_TEXT
}

impl Signer {
    /// This user's key; `None` where there is none.
    ///
    /// # Errors
    /// Where there is one that cannot be used.
    pub fn find(variables: Variables<'_>, ask: Ask<'_>) -> Result<Option<Self>, SigningError> {
        let Some(place) = place(variables) else { return Ok(None) };
        hide_memory();
        let text = match &place {
            KeyPlace::File(path) => read_key(path, variables)?,
            KeyPlace::Variable => {
                let value = variables(KEY_VARIABLE).and_then(|value| value.into_string().ok());
                Zeroizing::new(value.unwrap_or_default())
            }
        };
        Self::open(&text, place, variables, ask).map(Some)
    }

    /// Where this user's key is, and its public half without asking for a password: taken from the
    /// key where it has none, else from the file beside it. `None` where there is no key.
    ///
    /// # Errors
    /// Where there is a key that cannot be used.
    pub fn glance(
        variables: Variables<'_>,
    ) -> Result<Option<(KeyPlace, Option<VerifyingKey>)>, SigningError> {
        let unasked = |name: &str| variables(name).filter(|_| name != PASSWORD_VARIABLE);
        match Self::find(&unasked, &|_| Err(io::ErrorKind::Unsupported.into())) {
            Ok(found) => Ok(found
                .zip(place(variables))
                .map(|(signer, place)| (place, Some(signer.verifying)))),
            Err(SigningError::NoPassword { place, .. }) => {
                let KeyPlace::File(path) = &place else { return Ok(Some((place, None))) };
                let text = read_bounded(&public_file(path), MAX_KEY as u64).ok();
                let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
                let public = text.and_then(|text| VerifyingKey::from_file(&text).ok());
                Ok(Some((place, public)))
            }
            Err(error) => Err(error),
        }
    }

    fn open(
        text: &str,
        place: KeyPlace,
        variables: Variables<'_>,
        ask: Ask<'_>,
    ) -> Result<Self, SigningError> {
        let Some(encoded) = text.lines().find(|line| !line.starts_with(COMMENT)) else {
            return Err(SigningError::NotAKey { place });
        };
        let Some(sealed) = Sealed::decode(encoded) else {
            return Err(SigningError::NotAKey { place });
        };
        let key = if sealed.with_password {
            let password = match variables(PASSWORD_VARIABLE) {
                Some(password) => Zeroizing::new(password.to_string_lossy().into_owned()),
                None => match ask(&place) {
                    Ok(password) => password,
                    Err(source) => return Err(SigningError::NoPassword { place, source }),
                },
            };
            let sealed = SecretKeyBox::from(format!("{COMMENT}key\n{encoded}\n"));
            match SecretKey::from_box(sealed, Some(password.to_string())) {
                Ok(key) => key,
                Err(_) => return Err(SigningError::WrongPassword { place }),
            }
        } else {
            // Not as a box: minisign's own program leaves out the checksum that the box wants.
            match SecretKey::from_bytes(&sealed.bytes) {
                Ok(key) => key,
                Err(_) => return Err(SigningError::NotAKey { place }),
            }
        };
        let Ok(public) = PublicKey::from_secret_key(&key) else {
            return Err(SigningError::NotAKey { place });
        };
        // A key that was damaged signs what its own public half does not confirm.
        if minisign::sign(Some(&public), &key, io::empty(), Some(""), None).is_err() {
            return Err(SigningError::NotAKey { place });
        }
        Ok(Self { key, verifying: VerifyingKey::new(public) })
    }

    /// The number of the key.
    #[must_use]
    pub fn id(&self) -> SignerId {
        self.verifying.id()
    }

    /// The key that its signatures are checked with.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// Makes the record of a result; `layers` are as in [`ResultRecord::layers`].
    ///
    /// The text of the statement is always the same. The signature is not: minisign puts random
    /// bytes into it, so that a fault of the processor does not give the key away.
    ///
    /// # Errors
    /// Where the result is not one that others would take, or the host has no random numbers.
    pub fn sign(
        &self,
        statement: &Statement,
        layers: Vec<Option<BlobRef>>,
    ) -> Result<ResultRecord, SigningError> {
        statement.check().map_err(SigningError::Impossible)?;
        check_layers(statement, &layers).map_err(SigningError::Impossible)?;
        let text = statement.encode();
        let comment = format!("{} {} {}", statement.kind, statement.namespace, statement.key);
        let signature = minisign::sign(
            None,
            &self.key,
            text.as_bytes(),
            Some(&comment),
            Some("signature of kiln"),
        )
        .map_err(|source| SigningError::Minisign { doing: "sign", source })?;
        Ok(ResultRecord { statement: text, signature: signature.to_string(), layers })
    }
}

/// A secret key as it stands in its file.
struct Sealed {
    bytes: Zeroizing<Vec<u8>>,
    with_password: bool,
}

impl Sealed {
    /// The key in the second line of a file; `None` where it is none.
    fn decode(encoded: &str) -> Option<Self> {
        use base64::Engine as _;
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        let bytes = Zeroizing::new(decoded);
        let with_password = match (bytes.len(), bytes.get(..2)?, bytes.get(2..4)?) {
            (SECRET_BYTES, b"Ed", b"Sc") => true,
            (SECRET_BYTES, b"Ed", [0, 0]) => false,
            _ => return None,
        };
        Some(Self { bytes, with_password })
    }
}

/// The text of a key's file that nobody else can read.
fn read_key(path: &Path, variables: Variables<'_>) -> Result<Zeroizing<String>, SigningError> {
    let file = File::open(path).context("open", path).map_err(SigningError::File)?;
    let meta = file.metadata().context("look at", path).map_err(SigningError::File)?;
    if let Some(why) = open_to_others(&meta, variables) {
        return Err(SigningError::Open { path: path.to_owned(), why });
    }
    // The room is there from the start, so that no copy is left behind when it grows.
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY + 1));
    match file.take(MAX_KEY as u64).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(SigningError::NotAKey { place: KeyPlace::File(path.to_owned()) })
        }
        Err(error) => Err(error).context("read", path).map_err(SigningError::File),
    }
}

/// Why others than the user can read a key's file, or put another there.
fn open_to_others(meta: &Metadata, variables: Variables<'_>) -> Option<String> {
    let user = rustix::process::geteuid().as_raw();
    // Who calls kiln through sudo is the same person.
    let caller = variables("SUDO_UID").and_then(|uid| uid.to_str()?.parse::<u32>().ok());
    let owner = meta.uid();
    if owner != user && (user != 0 || caller != Some(owner)) {
        return Some(format!("it belongs to the user {owner}"));
    }
    let mode = meta.mode() & 0o7777;
    (mode & 0o077 != 0).then(|| format!("its mode is {mode:04o}"))
}

/// A new key in the form of minisign's files.
pub struct NewKey {
    /// What stands in the secret file.
    pub secret: Zeroizing<String>,
    /// Its public half.
    pub public: VerifyingKey,
}

/// Makes a key, with a password or without.
///
/// # Errors
/// Where the host has no random numbers.
pub fn generate(password: Option<&str>) -> Result<NewKey, SigningError> {
    hide_memory();
    let failed = |source| SigningError::Minisign { doing: "make a key", source };
    let (pair, comment) = match password {
        Some(password) => (
            KeyPair::generate_encrypted_keypair(Some(password.to_owned())),
            "kiln secret key, with a password",
        ),
        None => (KeyPair::generate_unencrypted_keypair(), "kiln secret key, without a password"),
    };
    let pair = pair.map_err(failed)?;
    let secret = pair.sk.to_box(Some(comment)).map_err(failed)?;
    Ok(NewKey { secret: Zeroizing::new(secret.into_string()), public: VerifyingKey::new(pair.pk) })
}
