//! `kiln user-data`, `kiln heat` and `kiln seed`: what an instance is given at its start.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{CliError, Place, show};
use crate::files::{self, Context, Host};
use crate::heat::{self, Client};
use crate::lower;
use crate::mistake::{Mistake, Mistakes, nearest};
use crate::recipe::{Heat, LocalFile, UserData};
use crate::seed::NoCloud;
use crate::user_data::{self, Audience, Document, File, NOTIFY};
use crate::workspace::Workspace;

/// Largest file of keys or of a network's configuration, in bytes.
const LIMIT: u64 = 1 << 20;

/// Write user data as an instance gets it.
#[derive(Debug, Args)]
pub(super) struct UserDataCommand {
    /// The user data.
    name: String,
    /// Write it to that file.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Write a Heat template.
#[derive(Debug, Args)]
pub(super) struct HeatCommand {
    /// The template.
    name: String,
    /// Write it to that file.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the command of a client that starts the server without Heat, and its user data into
    /// the file `NAME.user-data` beside.
    #[arg(long, value_name = "CLIENT")]
    commands: Option<ClientName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClientName {
    /// `openstack server create`.
    Openstack,
    /// `nova boot`.
    Nova,
}

/// Write a `NoCloud` seed: a small disk that gives user data to a local machine.
#[derive(Debug, Args)]
pub(super) struct SeedCommand {
    /// The user data.
    name: String,
    /// Write the disk to that file.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The host name; the image's own by default.
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,
    /// A file of public keys, one a line, of whoever may log in as the default user.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// A file with the configuration of the network; DHCP by default.
    #[arg(long, value_name = "FILE")]
    network_config: Option<PathBuf>,
}

fn hostname(text: &str) -> Result<String, String> {
    match lower::hostname_fault(text) {
        Some(fault) => Err(fault.to_owned()),
        None => Ok(text.to_owned()),
    }
}

impl UserDataCommand {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let workspace = place.workspace()?;
        let files = read(&workspace, &self.name)?;
        let document = document(&workspace, &files)?;
        let told = |mistake| Mistakes::new(vec![mistake], &workspace.sources);
        if let Some(mistake) = user_data::too_large(&files, &document, 0) {
            return Err(told(mistake).into());
        }
        write(&document.bytes, self.output.as_deref())
    }
}

impl HeatCommand {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let workspace = place.workspace()?;
        let templates = &workspace.documents.templates;
        let template = find("template", &self.name, templates, |one| one.name.value.as_str())?;
        let client = match self.commands {
            Some(ClientName::Openstack) => Client::OpenStack,
            Some(ClientName::Nova) => Client::Nova,
            None => return self.write_template(&workspace, template),
        };
        let user_data = match &template.server.user_data {
            Some(name) => {
                let document = plain(&workspace, name.value.as_str(), Reader::Nova)?;
                let path = self.output.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
                let path = path.join(format!("{}.user-data", name.value));
                write(&document.bytes, Some(&path))?;
                Some(path.to_string_lossy().into_owned())
            }
            None => None,
        };
        let text = heat::commands(template, client, user_data.as_deref())
            .map_err(|mistake| Mistakes::new(vec![mistake], &workspace.sources))?;
        write(text.as_bytes(), self.output.as_deref())
    }

    fn write_template(&self, workspace: &Workspace, template: &Heat) -> Result<(), CliError> {
        let told = |mistakes| Mistakes::new(mistakes, &workspace.sources);
        let files = match &template.server.user_data {
            Some(name) => Some(read(workspace, name.value.as_str())?),
            None => None,
        };
        let document = match &files {
            Some(files) => Some(heat::document(template, files).map_err(told)?),
            None => None,
        };
        let mut lints = heat::lint(template, files.as_ref(), &workspace.graph);
        if let (Some(files), Some(document)) = (&files, &document) {
            lints.extend(user_data::lint(files, &document.pieces));
        }
        let lints = told(lints);
        if !lints.is_empty() {
            show(&lints);
        }
        let text = heat::template(template, document.as_ref());
        write(text.as_bytes(), self.output.as_deref())
    }
}

impl SeedCommand {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let workspace = place.workspace()?;
        let files = read(&workspace, &self.name)?;
        let document = document(&workspace, &files)?;
        let mut keys = Vec::new();
        for path in &self.key {
            keys.extend(keys_of(path)?);
        }
        let network_config = match &self.network_config {
            Some(path) => Some(files::read_bounded(path, LIMIT)?),
            None => None,
        };
        let seed =
            NoCloud { user_data: document.bytes, hostname: self.hostname, keys, network_config };
        let bytes = seed.disk()?;
        // Whoever holds it may log in, and user data may hold what others should not read.
        files::replace_private(&Host, &self.output, &bytes)?;
        Ok(())
    }
}

/// The public keys of a file.
fn keys_of(path: &Path) -> Result<Vec<String>, CliError> {
    let text = String::from_utf8(files::read_bounded(path, LIMIT)?)
        .map_err(|_| CliError::NotText { path: path.to_owned() })?;
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    match keys.iter().position(|key| lower::key_fault(key).is_some()) {
        None if !keys.is_empty() => Ok(keys),
        _ => Err(CliError::NoKey { path: path.to_owned() }),
    }
}

/// The one of a name.
fn find<'a, T>(
    what: &'static str,
    name: &str,
    all: &'a [T],
    name_of: impl Fn(&T) -> &str,
) -> Result<&'a T, CliError> {
    if let Some(found) = all.iter().find(|one| name_of(one) == name) {
        return Ok(found);
    }
    let help = match nearest(name, all.iter().map(&name_of)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if all.is_empty() => "no recipe has one yet".to_owned(),
        None => {
            let listed: Vec<_> = all.iter().map(&name_of).collect();
            format!("there are: {}", listed.join(", "))
        }
    };
    Err(CliError::UnknownDocument { what, name: name.to_owned(), help })
}

/// User data with its files; what stands out is told.
fn read(workspace: &Workspace, name: &str) -> Result<UserData<File>, CliError> {
    let all: &[UserData<LocalFile>] = &workspace.documents.user_data;
    let user_data = find("user data", name, all, |one| one.name.value.as_str())?;
    let told = |mistakes: Vec<Mistake>| Mistakes::new(mistakes, &workspace.sources);
    Ok(user_data::read(workspace, user_data).map_err(told)?)
}

/// What an instance gets that no stack of Heat starts.
fn document(workspace: &Workspace, files: &UserData<File>) -> Result<Document, CliError> {
    let told = |mistakes: Vec<Mistake>| Mistakes::new(mistakes, &workspace.sources);
    let document = user_data::document(files, Audience::Anyone).map_err(told)?;
    let lints = told(user_data::lint(files, &document.pieces));
    if !lints.is_empty() {
        show(&lints);
    }
    if document.notifies() {
        eprintln!(
            "warning: `{}` calls `{NOTIFY}`, which only a stack of Heat that waits puts there",
            files.name.value
        );
    }
    Ok(document)
}

/// Where an instance finds its user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Where nova puts it, which takes so much.
    Nova,
    /// On a seed of `NoCloud`, which takes any.
    Seed,
}

/// The same by its name.
pub(super) fn plain(
    workspace: &Workspace,
    name: &str,
    reader: Reader,
) -> Result<Document, CliError> {
    let files = read(workspace, name)?;
    let document = document(workspace, &files)?;
    match user_data::too_large(&files, &document, 0).filter(|_| reader == Reader::Nova) {
        Some(mistake) => Err(Mistakes::new(vec![mistake], &workspace.sources).into()),
        None => Ok(document),
    }
}

fn write(bytes: &[u8], output: Option<&Path>) -> Result<(), CliError> {
    if let Some(path) = output {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).context("make", parent)?;
        }
        return Ok(files::replace(&Host, path, bytes)?);
    }
    // Whoever closed the other end has seen enough.
    let _ = std::io::stdout().lock().write_all(bytes);
    Ok(())
}
