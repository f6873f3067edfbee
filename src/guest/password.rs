//! `password` where the guest has to hash it: the text, and the guest's own `chpasswd`.
//!
//! It does not know the shadow file, which `users` edits where there is nothing to hash.

use super::error::{GuestError, escaped};
use super::files::read_snapshot;
use super::program::{Program, Snapshot};
use super::root::GuestRoot;
use super::users::Accounts;
use crate::name::SecretName;
use crate::recipe::{Crypto, Password, PasswordSecret};
use crate::secret::SecretValue;

/// Largest password file in bytes, and longest password.
const LARGEST_PASSWORD: u64 = 4096;
/// What a random password is made of: no two of these are taken for each other.
const LETTERS: &[u8; 56] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz";
/// Characters of a random password: 16 of 56 are 92 bits.
const RANDOM_LEN: usize = 16;

/// The program that sets a password; `None` where there is nothing to hash.
///
/// # Errors
/// [`GuestError::Password`] for a text that can be none, or a step without its secret;
/// [`GuestError::NoAccount`]; [`GuestError::NoProgram`].
pub(super) fn program(
    root: &GuestRoot,
    step: &Password<Snapshot>,
    secrets: &[(SecretName, SecretValue)],
) -> Result<Option<Program>, GuestError> {
    let bad = |why| Err(GuestError::Password { user: escaped(&step.user), why });
    let text = match &step.secret {
        PasswordSecret::Hash(_) | PasswordSecret::Locked | PasswordSecret::Disabled => {
            return Ok(None);
        }
        PasswordSecret::Plain(text) => text.clone().into_bytes(),
        PasswordSecret::File(file) => first_line(&read_snapshot(file, LARGEST_PASSWORD)?),
        PasswordSecret::Secret => match secrets {
            [(_, SecretValue(value))] => value.clone(),
            _ => return bad("the step was not given its secret"),
        },
        PasswordSecret::Random => random()?,
    };
    if text.is_empty() {
        return bad("it is empty; use `locked` or `disabled` for no password");
    }
    if text.len() as u64 > LARGEST_PASSWORD {
        return bad("it is longer than 4096 bytes");
    }
    if text.iter().any(u8::is_ascii_control) {
        return bad("it holds a control character");
    }
    let mut program = chpasswd(root, &step.user, step.crypto)?;
    // Through its input, as others can see a command line.
    program.stdin = Some([step.user.as_bytes(), b":", &text, b"\n"].concat());
    if step.secret == PasswordSecret::Random {
        let text = String::from_utf8_lossy(&text);
        program.announce = Some(format!("the password of `{}` is {text}", escaped(&step.user)));
    }
    Ok(Some(program))
}

fn first_line(bytes: &[u8]) -> Vec<u8> {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line).to_vec()
}

/// A password from the kernel's random numbers.
fn random() -> Result<Vec<u8>, GuestError> {
    let mut text = Vec::with_capacity(RANDOM_LEN);
    while text.len() < RANDOM_LEN {
        let mut bytes = [0_u8; RANDOM_LEN];
        let len = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| GuestError::path("draw a random password for", "/", errno))?;
        // A byte beyond the last full round of the letters would make the first of them likelier.
        let round = 256 / LETTERS.len() * LETTERS.len();
        let fair = bytes[..len].iter().map(|&byte| usize::from(byte)).filter(|&byte| byte < round);
        text.extend(fair.map(|byte| LETTERS[byte % LETTERS.len()]).take(RANDOM_LEN - text.len()));
    }
    Ok(text)
}

/// chpasswd(8) of shadow-utils, or busybox's, which names methods in small letters.
fn chpasswd(root: &GuestRoot, user: &str, crypto: Option<Crypto>) -> Result<Program, GuestError> {
    Accounts::load(root)?.user(user)?;
    let paths = ["/usr/sbin/chpasswd", "/sbin/chpasswd", "/usr/bin/chpasswd", "/bin/chpasswd"];
    let Some(path) = paths.into_iter().find(|path| root.is_file(path)) else {
        return Err(GuestError::NoProgram {
            program: "chpasswd".into(),
            user: "a password as text",
        });
    };
    let mut program = Program::new([path]);
    if let Some(crypto) = crypto {
        let target = root.place_following("look for", path)?;
        let busybox = target.name().as_encoded_bytes().starts_with(b"busybox");
        let method = crypto.keyword();
        let method = if busybox { method.to_owned() } else { method.to_ascii_uppercase() };
        program.argv.extend(["-c".to_owned(), method]);
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_random_password_is_long_and_plain() {
        let drawn: BTreeSet<Vec<u8>> = (0..100).map(|_| random().unwrap()).collect();
        assert_eq!(drawn.len(), 100);
        let letters: BTreeSet<u8> = drawn.iter().flatten().copied().collect();
        assert!(drawn.iter().all(|text| text.len() == RANDOM_LEN));
        // One of the 56 is missing from 1600 draws once in fifty thousand million times.
        assert_eq!(letters, LETTERS.iter().copied().collect());
        assert!(LETTERS.is_sorted());
    }
}
