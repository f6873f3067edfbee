//! The note of a guest that is registered right now, for a run after this one was killed.
//!
//! It lies beside the disk's files and holds nothing secret.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{Context, FileError};
use crate::key::Registration;
use crate::recipe::Account;

const NOTE: &str = "registered";
const IMAGE: &str = "image";
/// Largest note that is read, in bytes.
const LARGEST: u64 = 64 << 10;

/// What is known of a guest's registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The consumer's id, once the service has told it.
    pub consumer: Option<String>,
    /// Whose it is: an organization or a user.
    pub account: String,
    /// The server, where it is not Red Hat's own.
    pub server: Option<String>,
}

impl Registered {
    /// What is known before the service has answered.
    #[must_use]
    pub fn of(registration: &Registration) -> Self {
        let account = match &registration.account {
            Account::ActivationKey { organization, .. } => {
                format!("the organization `{organization}`")
            }
            Account::User { user, .. } => format!("the user `{user}`"),
        };
        Self { consumer: None, account, server: registration.server.clone() }
    }

    /// Writes the note into a disk's directory, over an older one.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, disk: &Path) -> Result<(), FileError> {
        let path = disk.join(NOTE);
        fs::write(&path, serde_json::to_vec(self).expect("plain data")).context("write", &path)
    }

    /// The note in a disk's directory; `None` where there is none that can be read.
    #[must_use]
    pub fn read(disk: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(disk.join(NOTE)).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Removes the note.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn forget(disk: &Path) -> Result<(), FileError> {
        let path = disk.join(NOTE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.context("remove", &path),
        }
    }
}

/// "consumer 1234 of the organization `acme` may still be registered, …".
impl std::fmt::Display for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { consumer, account, server } = self;
        match consumer {
            Some(consumer) => write!(f, "consumer {consumer} of {account}")?,
            None => write!(f, "a consumer of {account}, whose id is not known,")?,
        }
        write!(f, " may still be registered; remove it in the list of systems of ")?;
        match server {
            Some(server) => write!(f, "`{server}`"),
            None => f.write_str("Red Hat's console"),
        }
    }
}

/// Notes in a lane's directory which image its disk belongs to.
///
/// # Errors
/// Where the note cannot be written.
pub fn note_image(lane: &Path, image: &str) -> Result<(), FileError> {
    let path = lane.join(IMAGE);
    fs::write(&path, image).context("write", &path)
}

/// The image that a lane's directory names.
#[must_use]
pub fn image_of(lane: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(lane.join(IMAGE)).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_to_do_and_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let registered = Registered {
            consumer: Some("0b2f".into()),
            account: "the organization `acme`".into(),
            server: None,
        };
        registered.write(directory.path()).unwrap();
        let read = Registered::read(directory.path()).unwrap();
        assert_eq!(
            read.to_string(),
            "consumer 0b2f of the organization `acme` may still be registered; remove it in the \
             list of systems of Red Hat's console"
        );
        Registered::forget(directory.path()).unwrap();
        Registered::forget(directory.path()).unwrap();
        assert_eq!(Registered::read(directory.path()), None);
    }
}
