//! Finds the values of secrets, each when it is first needed, and once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroize;

use super::{LONGEST, SHORTEST, SecretValue};
use crate::files::{Context, FileError};
use crate::name::SecretName;
use crate::recipe::{SecretPlace, SecretSource};

/// Where a variable of the environment is looked up.
type Environment = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Why a secret has no value. No error ever holds a value, or what a program printed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SecretError {
    /// `kiln.kdl` does not have it.
    #[error("`kiln.kdl` has no secret `{name}`")]
    #[diagnostic(
        code(kiln::secret::unknown),
        help("write where it is found: `secret \"{name}\" env=…`")
    )]
    Unknown {
        /// The secret.
        name: SecretName,
    },
    /// Its file cannot be read.
    #[error("the secret `{name}` cannot be read from its file")]
    #[diagnostic(
        code(kiln::secret::file),
        help("`kiln.kdl` names the file, from the workspace's root")
    )]
    File {
        /// The secret.
        name: SecretName,
        /// What went wrong.
        source: FileError,
    },
    /// Its variable is not set.
    #[error("the secret `{name}` is not there: the environment has no `{variable}`")]
    #[diagnostic(
        code(kiln::secret::env),
        help("set it for kiln; with sudo, `sudo --preserve-env={variable} kiln build`")
    )]
    Env {
        /// The secret.
        name: SecretName,
        /// The variable.
        variable: String,
    },
    /// Its program cannot be run.
    #[error("the program that prints the secret `{name}` cannot be run")]
    #[diagnostic(
        code(kiln::secret::command),
        help("`kiln.kdl` names it; it is started without a shell, in the workspace's root")
    )]
    Start {
        /// The secret.
        name: SecretName,
        /// What went wrong.
        source: FileError,
    },
    /// Its program failed.
    #[error("the program that prints the secret `{name}` failed: {status}")]
    #[diagnostic(
        code(kiln::secret::command_failed),
        help("what it said is above; what it printed is not shown")
    )]
    Failed {
        /// The secret.
        name: SecretName,
        /// How it ended.
        status: ExitStatus,
    },
    /// Its value is too short.
    #[error("the value of the secret `{name}` has {len} bytes")]
    #[diagnostic(
        code(kiln::secret::too_short),
        help(
            "a value of less than {SHORTEST} bytes cannot be told from other bytes where it is masked and looked for: use a longer one"
        )
    )]
    TooShort {
        /// The secret.
        name: SecretName,
        /// Its length.
        len: usize,
    },
    /// Its value is too long.
    #[error("the value of the secret `{name}` has more than {LONGEST} bytes")]
    #[diagnostic(
        code(kiln::secret::too_long),
        help("`attach` gives larger files to a step, but they are in its key and not masked")
    )]
    TooLong {
        /// The secret.
        name: SecretName,
    },
}

/// Where the values of a workspace's secrets are, and those that were needed so far.
pub struct Vault {
    root: PathBuf,
    sources: Vec<SecretSource>,
    environment: Environment,
    found: Mutex<BTreeMap<SecretName, SecretValue>>,
}

impl Vault {
    /// A vault of the secrets of `kiln.kdl`; their files are looked for from `root`.
    #[must_use]
    pub fn new(root: &Path, sources: &[SecretSource]) -> Self {
        Self::with_environment(root, sources, Box::new(|name| std::env::var_os(name)))
    }

    /// The same with another environment.
    fn with_environment(root: &Path, sources: &[SecretSource], environment: Environment) -> Self {
        let (root, sources) = (root.to_owned(), sources.to_vec());
        Self { root, sources, environment, found: Mutex::default() }
    }

    /// The value of a secret. From the first one on, this process's memory is kept out of cores.
    ///
    /// # Errors
    /// Where there is none, or it is too short or too long.
    pub fn value(&self, name: &SecretName) -> Result<SecretValue, SecretError> {
        // Held while a program is asked: two lanes must not ask twice.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = found.get(name) {
            return Ok(value.clone());
        }
        super::hide_memory();
        let value = self.find(name)?;
        let len = value.0.len();
        if len < SHORTEST {
            return Err(SecretError::TooShort { name: name.clone(), len });
        }
        if len > LONGEST {
            return Err(SecretError::TooLong { name: name.clone() });
        }
        found.insert(name.clone(), value.clone());
        Ok(value)
    }

    fn find(&self, name: &SecretName) -> Result<SecretValue, SecretError> {
        let source = self.sources.iter().find(|source| source.name.value == *name);
        let Some(source) = source else {
            return Err(SecretError::Unknown { name: name.clone() });
        };
        match &source.place {
            SecretPlace::File(path) => {
                let path = self.root.join(path);
                let read = File::open(&path).context("open", &path);
                read.and_then(|file| read_line(file).context("read", &path))
                    .map_err(|source| SecretError::File { name: name.clone(), source })
            }
            SecretPlace::Env(variable) => match (self.environment)(variable) {
                Some(value) => Ok(without_line_end(value.into_vec())),
                None => Err(SecretError::Env { name: name.clone(), variable: variable.clone() }),
            },
            SecretPlace::Command(words) => self.ask(name, words),
        }
    }

    /// What a program prints. What it says on its standard error goes to the user.
    fn ask(&self, name: &SecretName, words: &[String]) -> Result<SecretValue, SecretError> {
        let (program, arguments) =
            words.split_first().map_or(("", words), |(program, rest)| (program.as_str(), rest));
        let path = Path::new(program);
        let start = |source| SecretError::Start { name: name.clone(), source };
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run", path)
            .map_err(start)?;
        let value = child.stdout.take().map_or(Ok(SecretValue(Vec::new())), read_line);
        if value.as_ref().is_ok_and(|value| value.0.len() > LONGEST) {
            // It may never come to an end.
            let _ = child.kill();
        }
        let status = child.wait().context("wait for", path).map_err(start)?;
        let value = value.context("read from", path).map_err(start)?;
        if status.success() || value.0.len() > LONGEST {
            Ok(value)
        } else {
            Err(SecretError::Failed { name: name.clone(), status })
        }
    }
}

/// A value without its final line end; one that is too long is cut behind that much.
fn read_line(from: impl Read) -> std::io::Result<SecretValue> {
    // With a line end of two bytes, and one more that shows that it is too long. The room is there
    // from the start, so that no copy is left behind when it grows.
    let limit = LONGEST + 3;
    let mut bytes = Vec::with_capacity(limit + 1);
    let read = from.take(limit as u64).read_to_end(&mut bytes);
    if let Err(error) = read {
        bytes.zeroize();
        return Err(error);
    }
    Ok(without_line_end(bytes))
}

fn without_line_end(mut bytes: Vec<u8>) -> SecretValue {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    SecretValue(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Sources, Spanned};

    fn source(name: &str, place: SecretPlace) -> SecretSource {
        let mut sources = Sources::default();
        let file = sources.add("kiln.kdl".into(), "");
        let span = crate::source::Span { file, offset: 0, len: 0 };
        SecretSource {
            name: Spanned { value: name.parse().unwrap(), span },
            version: "1".to_owned(),
            place,
        }
    }

    fn command(words: &[&str]) -> SecretPlace {
        SecretPlace::Command(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn vault(root: &Path) -> Vault {
        let sources = [
            source("file", SecretPlace::File("token".into())),
            source("gone", SecretPlace::File("none".into())),
            source("env", SecretPlace::Env("TOKEN".into())),
            source("unset", SecretPlace::Env("NONE".into())),
            source("short", SecretPlace::Env("SHORT".into())),
            source("empty", command(&["true"])),
            source("asked", command(&["sh", "-c", "echo once >>asked; echo from-a-program"])),
            source("fails", command(&["sh", "-c", "echo half-a-secret; exit 3"])),
            source("endless", command(&["cat", "/dev/zero"])),
            source("missing", command(&["./no-such-program"])),
        ];
        let environment = |name: &str| match name {
            "TOKEN" => Some("from the environment\n".into()),
            "SHORT" => Some("1234567".into()),
            _ => None,
        };
        Vault::with_environment(root, &sources, Box::new(environment))
    }

    #[test]
    fn a_value_is_found_where_kiln_kdl_says() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("token"), "from a file\n\r\n").unwrap();
        let vault = vault(root.path());
        let value = |name: &str| vault.value(&name.parse().unwrap()).unwrap().0.clone();
        assert_eq!(value("file"), b"from a file\n");
        assert_eq!(value("env"), b"from the environment");
        assert_eq!(value("asked"), b"from-a-program");
        assert_eq!(value("asked"), b"from-a-program");
        let asked = std::fs::read_to_string(root.path().join("asked")).unwrap();
        assert_eq!(asked, "once\n", "a program is asked once");
    }

    #[test]
    fn what_has_no_value_says_why_and_never_what() {
        let root = tempfile::tempdir().unwrap();
        let vault = vault(root.path());
        for (name, code) in [
            ("gone", "kiln::secret::file"),
            ("unset", "kiln::secret::env"),
            ("short", "kiln::secret::too_short"),
            ("empty", "kiln::secret::too_short"),
            ("fails", "kiln::secret::command_failed"),
            ("endless", "kiln::secret::too_long"),
            ("missing", "kiln::secret::command"),
            ("other", "kiln::secret::unknown"),
        ] {
            let error = vault.value(&name.parse().unwrap()).unwrap_err();
            let text = format!("{error} {error:?}");
            assert_eq!(miette::Diagnostic::code(&error).unwrap().to_string(), code);
            assert!(text.contains(name), "{text}");
            assert!(!text.contains("half-a-secret") && !text.contains("1234567"), "{text}");
        }
    }
}
