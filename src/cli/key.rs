//! `kiln key`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use miette::Diagnostic;
use zeroize::Zeroizing;

use super::{CliError, Place};
use crate::files::{self, Context, Host, Medium, read_bounded};
use crate::lower;
use crate::mistake::{Mistakes, excerpt};
use crate::parse::{self, KdlDocument};
use crate::recipe::TrustedKey;
use crate::remote::signing::{self, PASSWORD_VARIABLE, Signer};
use crate::remote::trust::{SignerId, VerifyingKey};
use crate::source::Sources;
use crate::workspace::{self, SETTINGS_FILE, WorkspaceError};

/// Make the key that signs shared results, and say whose count.
#[derive(Debug, Args)]
#[command(flatten_help = true)]
pub(super) struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key of your own.
    Generate(Generate),
    /// Let the signatures of a key count in this workspace.
    Trust(Trust),
    /// Let them count no more.
    Revoke(Revoke),
    /// List the keys of this workspace, and your own.
    List,
}

#[derive(Debug, Args)]
struct Generate {
    /// Whose it is, for the line to add to kiln.kdl.
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Do not protect it with a password: for machines.
    #[arg(long)]
    no_password: bool,
    /// Write over a key that is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Trust {
    /// The public key, or the file that holds it.
    #[arg(value_name = "PUBLIC|FILE")]
    key: String,
    /// Whose it is.
    #[arg(long, value_parser = name)]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct Revoke {
    /// The key: its number, its owner's name, or the public key.
    #[arg(value_name = "NUMBER|NAME|PUBLIC")]
    key: String,
}

/// What can be wrong with what was typed.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(super) enum KeyError {
    #[error("there is a key already: `{}`", path.display())]
    #[diagnostic(
        code(kiln::key::already_there),
        help("use it, or write over it with `--force`; what it signed stays signed by it")
    )]
    AlreadyThere { path: PathBuf },
    #[error("there is no place for a key")]
    #[diagnostic(
        code(kiln::key::no_place),
        help("set `HOME`, or `KILN_SIGNING_KEY` to the path that the key shall have")
    )]
    NoPlace,
    #[error("the two passwords differ")]
    #[diagnostic(code(kiln::key::passwords_differ), help("try again; no key was made"))]
    PasswordsDiffer,
    #[error("there is no password for the key")]
    #[diagnostic(
        code(kiln::key::no_password),
        help("set `{PASSWORD_VARIABLE}`, or make a key without one with `--no-password`")
    )]
    NoPassword { source: Option<io::Error> },
    #[error("`{text}` is neither a public key nor a file that holds one")]
    #[diagnostic(
        code(kiln::key::not_a_key),
        help("give the second line of a `.pub` file, which starts with `RW`, or the file")
    )]
    NotAKey { text: String },
    #[error("`kiln.kdl` has no key `{what}`")]
    #[diagnostic(code(kiln::key::unknown), help("`kiln key list` shows what it has"))]
    Unknown { what: String },
    #[error("`kiln.kdl` has several keys of `{name}`")]
    #[diagnostic(
        code(kiln::key::ambiguous),
        help("name the key by its number, which `kiln key list` shows")
    )]
    Ambiguous { name: String },
    #[error("the key {id} is revoked in `kiln.kdl`")]
    #[diagnostic(
        code(kiln::key::revoked),
        help("it is better to make a new key; else take `revoked=#true` away by hand")
    )]
    Revoked { id: String },
    #[error("`kiln.kdl` could not be changed so that it says just that")]
    #[diagnostic(code(kiln::key::not_changed), help("nothing was written; write by hand: {line}"))]
    NotChanged { line: String },
}

/// A name as it may stand in `kiln.kdl`, on one line.
fn name(text: &str) -> Result<String, String> {
    let fits = !text.trim().is_empty() && text.len() <= 100 && !text.contains(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("it is no name of one line".to_owned()) }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

impl Key {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        match self.command {
            KeyCommand::Generate(command) => command.run(),
            KeyCommand::Trust(command) => command.run(place),
            KeyCommand::Revoke(command) => command.run(place),
            KeyCommand::List => list(place),
        }
    }
}

impl Generate {
    fn run(self) -> Result<(), CliError> {
        let path = signing::new_file(&variable).ok_or(KeyError::NoPlace)?;
        if path.symlink_metadata().is_ok() && !self.force {
            return Err(KeyError::AlreadyThere { path }.into());
        }
        let password = if self.no_password { None } else { Some(new_password()?) };
        let key = signing::generate(password.as_deref().map(String::as_str))?;
        let public = signing::public_file(&path);
        files::make_directory(path.parent().unwrap_or(Path::new(".")), 0o700)?;
        // A kill in between leaves a key without its public half, and never with another's.
        match Host.remove(&public) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context("remove", &public)?;
            }
            _ => {}
        }
        files::replace_private(&Host, &path, key.secret.as_bytes())?;
        files::replace(&Host, &public, key.public.to_file().as_bytes())?;
        eprintln!("wrote `{}` and `{}`", path.display(), public.display());
        eprintln!("its signatures count where `kiln.kdl` has this line:");
        println!("{}", lower::trust_line(&key.public.to_string(), self.name.as_deref()));
        Ok(())
    }
}

/// The password for a new key: the variable's, or one that is typed twice.
fn new_password() -> Result<Zeroizing<String>, KeyError> {
    let password = if let Some(password) = variable(PASSWORD_VARIABLE) {
        Zeroizing::new(password.to_string_lossy().into_owned())
    } else {
        let asked = |question| {
            let asked = signing::ask_on_terminal(question);
            asked.map_err(|source| KeyError::NoPassword { source: Some(source) })
        };
        let password = asked("password for the new key: ")?;
        if *password != *asked("once more: ")? {
            return Err(KeyError::PasswordsDiffer);
        }
        password
    };
    if password.is_empty() { Err(KeyError::NoPassword { source: None }) } else { Ok(password) }
}

/// `kiln.kdl` as it is now.
struct Settings {
    path: PathBuf,
    text: String,
    document: KdlDocument,
    trusted: Vec<TrustedKey>,
}

impl Settings {
    /// Reads it alone: recipes may have mistakes where keys are revoked.
    fn read(place: &Place) -> Result<Self, CliError> {
        let root = workspace::find(&place.start)?;
        let path = root.join(SETTINGS_FILE);
        let bytes = match path.canonicalize() {
            Ok(real) if real.starts_with(&root) => read_bounded(&real, parse::MAX_BYTES as u64)?,
            Ok(_) => return Err(WorkspaceError::LeadsOut { path }.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).context("find", &path)?,
        };
        // What it is a link to is what is replaced.
        let path = path.canonicalize().unwrap_or(path);
        let (document, trusted, text) = understand(&bytes)?;
        Ok(Self { path, text, document, trusted })
    }

    /// Replaces it by a text that lists these keys and has no mistake.
    fn write(&self, text: &str, keys: &[Listed<'_>], line: &str) -> Result<(), CliError> {
        let understood = understand(text.as_bytes());
        if !understood.is_ok_and(|(_, trusted, _)| listed(&trusted) == keys) {
            return Err(KeyError::NotChanged { line: line.to_owned() }.into());
        }
        Ok(files::replace(&Host, &self.path, text.as_bytes())?)
    }
}

/// What of a trusted key matters.
type Listed<'a> = (&'a str, Option<&'a str>, bool);

fn listed(trusted: &[TrustedKey]) -> Vec<Listed<'_>> {
    trusted.iter().map(|key| (key.key.value.as_str(), key.name.as_deref(), key.revoked)).collect()
}

/// What a `kiln.kdl` says of keys.
fn understand(bytes: &[u8]) -> Result<(KdlDocument, Vec<TrustedKey>, String), Mistakes> {
    let mut sources = Sources::default();
    let (file, document) = parse::read(&mut sources, PathBuf::from(SETTINGS_FILE), bytes);
    let document = document.map_err(|mistakes| Mistakes::new(mistakes, &sources))?;
    let (settings, mistakes) = lower::settings(&document, file, &sources);
    if !mistakes.is_empty() {
        return Err(Mistakes::new(mistakes, &sources));
    }
    Ok((document, settings.sharing.trusted, sources.file(file).text.to_string()))
}

/// The key that a user means: itself, or a file that holds it.
fn public_key(text: &str) -> Result<VerifyingKey, KeyError> {
    const LIMIT: u64 = 4096;
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let held =
        read_bounded(Path::new(text), LIMIT).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let key = held.and_then(|held| VerifyingKey::from_file(&held).ok());
    // What was typed may be a secret key: it is not shown whole.
    key.ok_or_else(|| KeyError::NotAKey { text: excerpt(text) })
}

impl Trust {
    fn run(self, place: &Place) -> Result<(), CliError> {
        let key = public_key(&self.key)?;
        let (text, id) = (key.to_string(), key.id());
        let settings = Settings::read(place)?;
        match settings.trusted.iter().find(|known| known.key.value == text) {
            Some(known) if known.revoked => {
                return Err(KeyError::Revoked { id: id.to_string() }.into());
            }
            Some(_) => {
                println!("`kiln.kdl` trusts {id} already");
                return Ok(());
            }
            None => {}
        }
        let name = self.name.as_deref();
        let mut keys = listed(&settings.trusted);
        keys.push((&text, name, false));
        let changed = lower::with_key(&settings.text, &text, name);
        settings.write(&changed, &keys, &lower::trust_line(&text, name))?;
        println!("`kiln.kdl` trusts {id} now");
        Ok(())
    }
}

impl Revoke {
    fn run(self, place: &Place) -> Result<(), CliError> {
        let settings = Settings::read(place)?;
        let known = find(&settings.trusted, &self.key)?;
        let key = &known.key.value;
        let id = number(key);
        if known.revoked {
            println!("{id} is revoked already");
            return Ok(());
        }
        let line = format!("{} revoked=#true", lower::trust_line(key, known.name.as_deref()));
        let changed = lower::with_revoked(&settings.text, &settings.document, key);
        let changed = changed.ok_or_else(|| KeyError::NotChanged { line: line.clone() })?;
        let keys: Vec<Listed<'_>> = listed(&settings.trusted)
            .into_iter()
            .map(|(text, name, revoked)| (text, name, revoked || text == key))
            .collect();
        settings.write(&changed, &keys, &line)?;
        println!("{id} is revoked: what it signed is not used any more");
        Ok(())
    }
}

/// The number of a listed key, whose shape was checked when it was read.
fn number(key: &str) -> String {
    key.parse::<VerifyingKey>().map_or_else(|_| String::new(), |key| key.id().to_string())
}

/// The listed key that a user means, by its number, its text or its owner's name.
fn find<'a>(trusted: &'a [TrustedKey], what: &str) -> Result<&'a TrustedKey, KeyError> {
    let id = what.parse::<SignerId>().map(|id| id.to_string());
    let same = |known: &&TrustedKey| {
        known.key.value == what || id.as_ref() == Ok(&number(&known.key.value))
    };
    if let Some(known) = trusted.iter().find(same) {
        return Ok(known);
    }
    let mut of_name = trusted.iter().filter(|known| known.name.as_deref() == Some(what));
    match (of_name.next(), of_name.next()) {
        (Some(known), None) => Ok(known),
        (Some(_), Some(_)) => Err(KeyError::Ambiguous { name: excerpt(what) }),
        (None, _) => Err(KeyError::Unknown { what: excerpt(what) }),
    }
}

fn list(place: &Place) -> Result<(), CliError> {
    let settings = Settings::read(place)?;
    let own = Signer::glance(&variable)?;
    let of_own = own.as_ref().and_then(|(_, key)| key.as_ref()).map(ToString::to_string);
    for (key, name, revoked) in listed(&settings.trusted) {
        let word = if revoked { "revoked" } else { "trusted" };
        let mine = if of_own.as_deref() == Some(key) { "  (yours)" } else { "" };
        let name = name.map(excerpt).unwrap_or_default();
        println!("{word}  {}  {key}  {name}{mine}", number(key));
    }
    match own {
        None => println!("you have no key: `kiln key generate` makes one"),
        Some((place, None)) => println!("yours is {place}, whose number needs its password"),
        Some((place, Some(key))) => {
            let known = settings.trusted.iter().any(|known| known.key.value == key.to_string());
            let known = if known { "" } else { ", which `kiln.kdl` does not list" };
            println!("yours is {place}, {}{known}", key.id());
        }
    }
    Ok(())
}
