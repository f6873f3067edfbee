//! Where the key that signs is found, who may read it, and what errors say of it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln::remote::signing::{
    self, KEY_VARIABLE, KeyPlace, PASSWORD_VARIABLE, Signer, SigningError,
};
use miette::Diagnostic;
use zeroize::Zeroizing;

const PASSWORD: &str = "correct horse";

/// A home with a key in it, and what the environment says.
struct Home {
    directory: tempfile::TempDir,
    variables: Vec<(&'static str, OsString)>,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let variables = vec![("HOME", directory.path().into())];
        Self { directory, variables }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(".config").join(signing::KEY_FILE)
    }

    fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn write(&self, path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(path.starts_with(self.directory.path()));
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.iter().rev().find(|known| known.0 == name).map(|known| known.1.clone())
    }

    fn find(&self) -> Result<Option<Signer>, SigningError> {
        Signer::find(&|name| self.variable(name), &|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// The error, whose text and causes hold neither key nor password.
    fn error(&self, secret: &str) -> String {
        let error = self.find().unwrap_err();
        let mut text = format!("{error:?} {error}");
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            text.extend([format!(" {cause:?}"), format!(" {cause}")]);
            next = cause.source();
        }
        text.extend(error.help().map(|help| help.to_string()));
        for line in secret.lines().filter(|line| !line.starts_with("untrusted")) {
            let shown =
                (0..line.len().saturating_sub(8)).any(|at| text.contains(&line[at..at + 8]));
            assert!(!shown, "{text}");
        }
        assert!(!text.contains(PASSWORD), "{text}");
        error.code().unwrap().to_string()
    }
}

#[test]
fn a_key_is_found_in_the_users_configuration_or_where_the_variable_says() {
    let [own, other] = [(); 2].map(|()| signing::generate(None).unwrap());
    let home = Home::new();
    assert!(home.find().unwrap().is_none());
    home.write(&home.path(), &own.secret, 0o600);
    assert_eq!(home.find().unwrap().unwrap().id(), own.public.id());
    let elsewhere = home.directory.path().join("elsewhere.key");
    home.write(&elsewhere, &other.secret, 0o400);
    let home = home.with(KEY_VARIABLE, &elsewhere);
    assert_eq!(home.find().unwrap().unwrap().id(), other.public.id());
    let home = home.with(KEY_VARIABLE, "");
    assert_eq!(home.find().unwrap().unwrap().id(), own.public.id(), "an empty variable is none");
    let home = home.with(KEY_VARIABLE, other.secret.as_str());
    assert_eq!(home.find().unwrap().unwrap().id(), other.public.id(), "the key's text");
    let line = other.secret.lines().nth(1).unwrap();
    let home = home.with(KEY_VARIABLE, line);
    assert_eq!(home.find().unwrap().unwrap().id(), other.public.id(), "its second line");
    let place = home.directory.path().join("config");
    home.write(&place.join(signing::KEY_FILE), &other.secret, 0o600);
    let home = home.with(KEY_VARIABLE, "").with("XDG_CONFIG_HOME", &place);
    assert_eq!(home.find().unwrap().unwrap().id(), other.public.id());
    let home = home.with("XDG_CONFIG_HOME", "relative");
    assert_eq!(home.find().unwrap().unwrap().id(), own.public.id());
}

#[test]
fn a_password_comes_from_the_variable_or_is_asked_for() {
    let key = signing::generate(Some(PASSWORD)).unwrap();
    let home = Home::new();
    home.write(&home.path(), &key.secret, 0o600);
    assert_eq!(home.error(&key.secret), "kiln::signing::no_password");
    let variables = |name: &str| home.variable(name);
    let asked = |place: &KeyPlace| {
        assert_eq!(*place, KeyPlace::File(home.path()));
        Ok(Zeroizing::new(PASSWORD.to_owned()))
    };
    let signer = Signer::find(&variables, &asked).unwrap().unwrap();
    assert_eq!(signer.id(), key.public.id());
    assert_eq!(format!("{signer:?}"), format!("Signer({})", key.public.id()));
    // Nobody is asked for a number: it stands in the file beside the key.
    let glance = Signer::glance(&variables).unwrap().unwrap();
    assert_eq!(glance, (KeyPlace::File(home.path()), None));
    fs::write(signing::public_file(&home.path()), key.public.to_file()).unwrap();
    let glance = Signer::glance(&variables).unwrap().unwrap();
    assert_eq!(glance.1.as_ref(), Some(&key.public));
    let home = home.with(PASSWORD_VARIABLE, PASSWORD);
    assert_eq!(home.find().unwrap().unwrap().id(), key.public.id());
    let home = home.with(PASSWORD_VARIABLE, "another");
    assert_eq!(home.error(&key.secret), "kiln::signing::wrong_password");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let key = signing::generate(None).unwrap();
    let home = Home::new();
    for mode in [0o640, 0o604, 0o644, 0o660, 0o606, 0o666, 0o610, 0o601, 0o777] {
        home.write(&home.path(), &key.secret, mode);
        assert_eq!(home.error(&key.secret), "kiln::signing::open_to_others", "{mode:o}");
    }
    for mode in [0o600, 0o400, 0o700] {
        home.write(&home.path(), &key.secret, mode);
        assert!(home.find().unwrap().is_some(), "{mode:o}");
    }
}

#[test]
fn somebody_elses_key_is_refused_unless_they_called_sudo() {
    let key = signing::generate(None).unwrap();
    let home = Home::new();
    home.write(&home.path(), &key.secret, 0o600);
    std::os::unix::fs::chown(home.path(), Some(4711), None).expect("the tests run as root");
    assert_eq!(home.error(&key.secret), "kiln::signing::open_to_others");
    let home = home.with("SUDO_UID", "4712");
    assert_eq!(home.error(&key.secret), "kiln::signing::open_to_others");
    let home = home.with("SUDO_UID", "4711");
    assert_eq!(home.find().unwrap().unwrap().id(), key.public.id());
}

#[test]
fn what_is_no_secret_key_is_refused_and_not_shown() {
    let key = signing::generate(None).unwrap();
    let sealed = signing::generate(Some(PASSWORD)).unwrap();
    let encoded = key.secret.lines().nth(1).unwrap().to_owned();
    let middle = encoded.len() / 2;
    // A digit in the middle of the key itself.
    let digit = if &encoded[middle..=middle] == "A" { "B" } else { "A" };
    let damaged = format!("{}{digit}{}", &encoded[..middle], &encoded[middle + 1..]);
    let cases = [
        String::new(),
        "untrusted comment: nothing else\n".to_owned(),
        key.public.to_file(),
        format!("untrusted comment: x\n{}\n", &encoded[..encoded.len() - 4]),
        format!("untrusted comment: x\n{encoded}AAAA\n"),
        format!("untrusted comment: x\n{damaged}\n"),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n".to_owned(),
        "\0".repeat(100),
        "x".repeat(100_000),
        sealed.secret.replace("RWRTY0Iy", "RWRTZ0Iy"),
    ];
    let home = Home::new();
    for text in cases {
        home.write(&home.path(), &text, 0o600);
        assert_eq!(home.error(&text), "kiln::signing::not_a_key", "{text:?}");
    }
    fs::write(home.path(), b"\xff\xfe").unwrap();
    assert_eq!(home.error(""), "kiln::signing::not_a_key");
    let home = home.with(KEY_VARIABLE, "/no/such/key");
    assert_eq!(home.error(""), "kiln::signing::unreadable");
}
