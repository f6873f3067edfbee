//! `kiln import`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{CliError, show};
use crate::import::{self, Imported, Kind};
use crate::mistake::{Mistake, Mistakes};
use crate::source::{FileId, Sources};

/// Make a recipe of what another tool reads.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// What the inputs are; found by their names and contents if nothing is said.
    #[arg(long, value_name = "KIND")]
    from: Option<From>,
    /// Write the recipe to this file rather than to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the file if it is there.
    #[arg(long)]
    force: bool,
    /// The name of the image, of the first one if there are several.
    #[arg(long, value_name = "IMAGE")]
    name: Option<String>,
    /// Print the report as JSON; with `--output` only.
    #[arg(long, requires = "output")]
    json: bool,
    /// Fail if something could not be translated.
    #[arg(long)]
    strict: bool,
    /// Scripts, templates and Dockerfiles.
    #[arg(value_name = "INPUT", required_unless_present = "command")]
    inputs: Vec<PathBuf>,
    /// A command line, behind `--`.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The kinds of input.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    /// A shell script with virt-builder, virt-customize, virt-sysprep.
    Virt,
    /// A file of commands: one option of virt-customize a line.
    Commands,
    /// Elements of diskimage-builder, or a script with its command.
    Dib,
    /// A template of Packer.
    Packer,
    /// A Dockerfile.
    Dockerfile,
}

impl From {
    fn kind(self) -> Kind {
        match self {
            Self::Virt => Kind::Virt,
            Self::Commands => Kind::Commands,
            Self::Dib => Kind::Dib,
            Self::Packer => Kind::Packer,
            Self::Dockerfile => Kind::Dockerfile,
        }
    }
}

impl Import {
    pub(super) fn run(self) -> Result<(), CliError> {
        if let Some(name) = &self.name
            && let Err(why) = name.parse::<crate::name::ImageName>()
        {
            return Err(CliError::BadImageName { name: name.clone(), source: why });
        }
        let mut sources = Sources::default();
        let inputs = self.read(&mut sources)?;
        let directory = self.inputs.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
        // A device or a pipe that a script names is not looked into.
        let files = |path: &str| {
            let path = directory.join(path);
            path.is_file().then(|| text(&path).ok()).flatten()
        };
        let imported = import::import(&sources, &inputs, self.name.as_deref(), &files);
        let sources = masked(&sources, &inputs);
        let imported =
            imported.map_err(|list| Mistakes::new(list, &sources).found_in("the input"))?;
        match &self.output {
            Some(path) => self.write(path, &imported.recipe)?,
            None => print!("{}", imported.recipe),
        }
        self.report(&sources, &imported);
        if self.strict && imported.is_partial() {
            return Err(CliError::NotImported);
        }
        Ok(())
    }

    fn read(&self, sources: &mut Sources) -> Result<Vec<(FileId, Kind)>, CliError> {
        let mut inputs = Vec::new();
        for path in &self.inputs {
            let text = text(path)?;
            let kind = self.from.map(From::kind).or_else(|| import::detect(path, &text));
            let kind = kind.ok_or_else(|| CliError::UnknownInput { path: path.clone() })?;
            inputs.push((sources.add(path.clone(), text), kind));
        }
        if !self.command.is_empty() {
            let line: Vec<String> = self.command.iter().map(|word| shell_word(word)).collect();
            let file = sources.add(PathBuf::from("the command line"), line.join(" "));
            inputs.push((file, self.from.map_or(Kind::Virt, From::kind)));
        }
        Ok(inputs)
    }

    fn write(&self, path: &Path, recipe: &str) -> Result<(), CliError> {
        let io = |source| CliError::Import { doing: "write", path: path.to_owned(), source };
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        if !self.force {
            options.create_new(true);
        }
        let mut file = options.open(path).map_err(io)?;
        file.write_all(recipe.as_bytes()).map_err(io)
    }

    fn report(&self, sources: &Sources, imported: &Imported) {
        if self.json {
            println!("{}", as_json(sources, imported));
        } else if !imported.report.is_empty() {
            show(&Mistakes::new(imported.report.clone(), sources).found_in("the input"));
        }
    }
}

/// The inputs as a report may show them: without passwords, and with all else in its place.
fn masked(sources: &Sources, inputs: &[(FileId, Kind)]) -> Sources {
    let mut shown = Sources::default();
    for (file, _) in inputs {
        let source = sources.file(*file);
        shown.add(source.path.clone(), import::masked(&source.text));
    }
    shown
}

fn as_json(sources: &Sources, imported: &Imported) -> serde_json::Value {
    let found = |mistake: &Mistake| {
        let span = mistake.labels.first().map(|label| label.span);
        json!({
            "code": mistake.code,
            "message": mistake.message,
            "label": mistake.labels.first().map(|label| &label.text),
            "help": mistake.help,
            "place": span.map(|span| sources.place(span)),
            "offset": span.map(|span| span.offset),
            "length": span.map(|span| span.len),
        })
    };
    let report: Vec<_> = imported.report.iter().map(found).collect();
    json!({ "report": report, "settings": imported.settings, "partial": imported.is_partial() })
}

/// The text of a file, one byte more than are allowed at most.
fn text(path: &Path) -> Result<String, CliError> {
    let io = |source| CliError::Import { doing: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(import::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    String::from_utf8(bytes).map_err(|_| CliError::NotText { path: path.to_owned() })
}

/// A word of a command line as a shell would have to be given it.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
