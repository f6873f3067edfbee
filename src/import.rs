//! The way in from other tools: their command lines, scripts and templates as recipes.
//!
//! Text in, text out: nothing is read or run here. Beside the recipe comes a report of what the old
//! commands did behind their author's back, and of what kiln has no word for, each with its place in
//! the input. What cannot be translated stands in the recipe as a comment.

mod budget;
mod commands;
mod dib;
mod dockerfile;
mod draft;
mod options;
mod packer;
mod script;
mod secrets;
mod shell;
mod steps;
mod sysprep;
mod traps;
mod virt;
mod write;

use std::cell::Cell;
use std::path::Path;

pub use self::commands::steps as commands_file;
use self::draft::Draft;
pub use self::secrets::masked;
use self::traps::Traps;
use crate::mistake::Mistake;
use crate::source::{FileId, Sources, Span};

/// Largest input in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Most steps that one run makes.
const MAX_STEPS: usize = 5_000;
/// Most images that one run makes.
const MAX_IMAGES: usize = 500;
/// Bytes of the files that inputs name, all together; what is behind them is not looked into.
const MAX_READ: usize = 32 * MAX_BYTES;

/// Reads a file that an input names, to look into it; `None` if it is not there.
pub type Files<'a> = dyn Fn(&str) -> Option<String> + 'a;

const BAD_OPTION: &str = "kiln::import::bad_option";

/// Findings about command lines as such, which say nothing about a `commands-from-file` of a recipe:
/// kiln never did what they warn of.
const OF_COMMAND_LINES: &[&str] = &[
    "kiln::import::builder_log",
    "kiln::import::duplicate_key",
    "kiln::import::failures_ignored",
    "kiln::import::firstboot_status",
    "kiln::import::host_owner",
    "kiln::import::machine_id",
    "kiln::import::missing_user",
    "kiln::import::no_newline",
    "kiln::import::relabel_missing",
    "kiln::import::relabel_scheduled",
];

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A shell script, or a command line: virt-builder, virt-customize, virt-sysprep,
    /// disk-image-create.
    Virt,
    /// A file of `--commands-from-file`.
    Commands,
    /// A list of diskimage-builder's elements, or a script with its command.
    Dib,
    /// A template of Packer, in HCL or JSON.
    Packer,
    /// A Dockerfile.
    Dockerfile,
}

/// A recipe, and what there is to say about it.
#[derive(Debug)]
pub struct Imported {
    /// KDL, formatted, with comments.
    pub recipe: String,
    /// What has to stand in `kiln.kdl`, as KDL; empty if nothing has to.
    pub settings: String,
    /// Warnings, in the order of the input.
    pub report: Vec<Mistake>,
}

impl Imported {
    /// Whether something could not be translated, and stands as a comment.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        let partial = [traps::NOT_IMPORTED, BAD_OPTION];
        self.report.iter().any(|found| partial.contains(&found.code))
    }
}

/// What a file is, by its name and then by its text; `None` if nothing tells.
#[must_use]
pub fn detect(path: &Path, text: &str) -> Option<Kind> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".pkr.hcl") || name.ends_with(".pkr.json") {
        return Some(Kind::Packer);
    }
    let docker = ["dockerfile", "containerfile"];
    if docker.iter().any(|word| name == *word || name.starts_with(&format!("{word}.")))
        || docker.iter().any(|word| name.ends_with(&format!(".{word}")))
    {
        return Some(Kind::Dockerfile);
    }
    let first = text.lines().find(|line| {
        let line = line.trim();
        !line.is_empty() && (!line.starts_with('#') || line.starts_with("#!"))
    });
    let first = first.unwrap_or_default().trim_start();
    if first.starts_with('{')
        && (text.contains("\"builders\"") || text.contains("\"provisioners\""))
    {
        return Some(Kind::Packer);
    }
    let word = first.split_whitespace().next().unwrap_or_default();
    if word.eq_ignore_ascii_case("from") {
        return Some(Kind::Dockerfile);
    }
    if commands::looks_like(text) {
        return Some(Kind::Commands);
    }
    let programs = ["virt-builder", "virt-customize", "virt-sysprep", "disk-image-create"];
    if first.starts_with("#!")
        || path.extension().is_some_and(|ending| ending == "sh")
        || programs.iter().any(|p| text.contains(p))
    {
        return Some(Kind::Virt);
    }
    if ["source \"", "build {", "packer {"].iter().any(|start| text.contains(start)) {
        return Some(Kind::Packer);
    }
    dib::looks_like(text).then_some(Kind::Dib)
}

/// Makes one recipe of inputs. `name` is that of the first image.
///
/// # Errors
/// If an input cannot be read as what it is, or holds nothing that makes an image.
pub fn import(
    sources: &Sources,
    inputs: &[(FileId, Kind)],
    name: Option<&str>,
    files: &Files<'_>,
) -> Result<Imported, Vec<Mistake>> {
    let mut draft = Draft::default();
    let mut traps = Traps::default();
    let mut mistakes = Vec::new();
    // An input may name one large file thousands of times.
    let left = Cell::new(MAX_READ);
    let files: &Files<'_> = &|path| {
        let text = (left.get() > 0).then(|| files(path)).flatten()?;
        left.set(left.get().saturating_sub(text.len()));
        Some(text)
    };
    for &(file, kind) in inputs {
        if let Err(mistake) = one(&mut draft, &mut traps, sources, file, kind, files) {
            mistakes.push(mistake);
        }
    }
    let Some(&(first, _)) = inputs.first() else { return Err(mistakes) };
    let steps: usize = draft.images.iter().map(|image| image.items.len()).sum();
    let large = steps > MAX_STEPS || draft.images.len() > MAX_IMAGES;
    let nothing = draft.images.is_empty() || large;
    if nothing && mistakes.is_empty() {
        let span = Span { file: first, offset: 0, len: 0 };
        mistakes.push(if large {
            let message = format!("this makes more than {MAX_STEPS} steps, or {MAX_IMAGES} images");
            Mistake::at(span, "kiln::import::too_large", message, "in this file")
                .help("import it in parts")
        } else {
            let message = "nothing in here makes or changes an image";
            Mistake::at(span, "kiln::import::nothing", message, "this file")
                .help("`--from` says what kind of file it is, if kiln took it for another")
        });
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    if let Some(name) = name
        && let Some(image) = draft.images.first_mut()
    {
        name.clone_into(&mut image.name);
    }
    let paths: Vec<_> =
        inputs.iter().map(|(file, _)| sources.file(*file).path.display().to_string()).collect();
    draft.notes.insert(0, format!("imported from {}", paths.join(", ")));
    for image in &draft.images {
        traps.root_password(image);
    }
    let recipe = write::recipe(&mut draft, sources, &mut traps);
    let settings = write::settings(&draft);
    let mut report = traps.into_list();
    report.sort_by_key(|found| {
        found.labels.first().map(|label| (label.span.file, label.span.offset))
    });
    Ok(Imported { recipe, settings, report })
}

fn one(
    draft: &mut Draft,
    traps: &mut Traps,
    sources: &Sources,
    file: FileId,
    kind: Kind,
    files: &Files<'_>,
) -> Result<(), Mistake> {
    let source = sources.file(file);
    let text = &source.text;
    if text.len() > MAX_BYTES {
        let span = Span { file, offset: 0, len: 0 };
        let message = "this input is larger than 1 MiB";
        return Err(Mistake::at(span, "kiln::import::too_large", message, "this file")
            .help("import it in parts"));
    }
    match kind {
        Kind::Virt => script::read(draft, traps, file, text, files),
        Kind::Dib if text.contains("disk-image-create") => {
            script::read(draft, traps, file, text, files)
        }
        Kind::Dib => {
            dib::elements(draft, traps, file, text);
            Ok(())
        }
        Kind::Commands => {
            let stem = source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let whole = Span { file, offset: 0, len: text.find('\n').unwrap_or(text.len()) };
            let image = draft::ImageDraft::new(draft.free_name(&stem), whole);
            let mut session = virt::Session::new(draft, traps, virt::Purpose::Recipe, files);
            commands::read(&mut session, image, sources, file);
            Ok(())
        }
        Kind::Packer => packer::read(draft, traps, file, text, files),
        Kind::Dockerfile => dockerfile::read(draft, traps, file, text),
    }
}
