//! The workspace: where it is, and everything that its recipes say.
//!
//! Reads recipe files and joins parsing, lowering and the graph, so that the mistakes of all files
//! are reported together. It does not read the files that steps name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use thiserror::Error;
use walkdir::WalkDir;

use crate::graph::{self, BuildGraph};
use crate::import;
use crate::lower::{self, Commands, Included, Profiles, Settings};
use crate::mistake::{Mistake, Mistakes, Severity, nearest};
use crate::name::DocumentName;
use crate::parse::{self, KdlDocument};
use crate::recipe::{Heat, Image, LocalFile, UserData};
use crate::source::{Sources, Span, Spanned};

/// The file that marks a workspace and holds its settings.
pub const SETTINGS_FILE: &str = "kiln.kdl";
/// The directory that marks a workspace and holds its recipes.
pub const RECIPES: &str = "recipes";
/// How many recipe files a workspace may have.
pub const MAX_FILES: usize = 1_000;
/// How many bytes all recipe files may have together.
pub const MAX_TOTAL: usize = 16 << 20;
/// How many files and directories may lie below `recipes/`, those that recipes use included.
const MAX_ENTRIES: usize = 1_000_000;

/// A workspace without mistakes.
#[derive(Debug)]
pub struct Workspace {
    /// Its root: an absolute path without links.
    pub root: PathBuf,
    /// What `kiln.kdl` says.
    pub settings: Settings,
    /// Its recipe files; their paths are relative to the root.
    pub sources: Sources,
    /// Its images, in an order of building.
    pub graph: BuildGraph,
    /// Its profiles and kiln's own, by name.
    pub profiles: Profiles,
    /// Its user data and Heat templates.
    pub documents: Documents,
}

/// What a workspace has beside images; every name in it leads somewhere.
#[derive(Debug, Default)]
pub struct Documents {
    /// User data, as written.
    pub user_data: Vec<UserData<LocalFile>>,
    /// Heat templates, as written.
    pub templates: Vec<Heat>,
}

/// What the files of a workspace say.
#[derive(Debug)]
pub struct Compiled {
    /// What `kiln.kdl` says.
    pub settings: Settings,
    /// Its images, in an order of building.
    pub graph: BuildGraph,
    /// Its profiles and kiln's own, by name.
    pub profiles: Profiles,
    /// Its user data and Heat templates.
    pub documents: Documents,
}

impl Workspace {
    /// Where a file that a recipe names lies: below the root, relative to the recipe's directory.
    #[must_use]
    pub fn local(&self, file: &LocalFile) -> PathBuf {
        let recipe = &self.sources.file(file.span.file).path;
        let directory = recipe.parent().unwrap_or(Path::new(""));
        self.root.join(directory).join(&file.path)
    }

    /// The lints with the texts that they point at.
    #[must_use]
    pub fn lints(&self) -> Mistakes {
        Mistakes::new(self.graph.lints.clone(), &self.sources)
    }
}

/// Why a workspace cannot be loaded.
#[derive(Debug, Error, Diagnostic)]
pub enum WorkspaceError {
    /// There is none.
    #[error("there is no workspace at or above `{}`", start.display())]
    #[diagnostic(
        code("kiln::workspace::not_found"),
        help("a workspace has a file `kiln.kdl` or a directory `recipes`: make one, or go there")
    )]
    NotFound {
        /// Where the search started.
        start: PathBuf,
    },
    /// A file or directory could not be read.
    #[error("could not {doing} `{}`", path.display())]
    #[diagnostic(
        code("kiln::workspace::io"),
        help("check that it exists and that you may read it")
    )]
    Io {
        /// What was tried, such as "read".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A link below `recipes/` leads out of the workspace.
    #[error("the recipe `{}` is a link that leads out of the workspace", path.display())]
    #[diagnostic(
        code("kiln::workspace::leads_out"),
        help("put the file itself there: a recipe must mean the same on every machine")
    )]
    LeadsOut {
        /// The link.
        path: PathBuf,
    },
    /// There are too many recipe files, or they are too large together.
    #[error("the workspace has more than {limit} {what} below `recipes`")]
    #[diagnostic(code("kiln::workspace::too_large"), help("split the workspace"))]
    TooLarge {
        /// The limit.
        limit: usize,
        /// What there is too much of.
        what: &'static str,
    },
    /// The recipes have mistakes.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(#[from] Mistakes),
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkspaceError {
    move |source| WorkspaceError::Io { doing, path: path.to_owned(), source }
}

/// Finds the root of the workspace that `start` lies in.
///
/// # Errors
/// If no directory from `start` upward has a `kiln.kdl` or a `recipes` directory.
pub fn find(start: &Path) -> Result<PathBuf, WorkspaceError> {
    let start = start.canonicalize().map_err(io_error("find", start))?;
    let marked = |directory: &&Path| {
        directory.join(SETTINGS_FILE).is_file() || directory.join(RECIPES).is_dir()
    };
    match start.ancestors().find(marked) {
        Some(root) => Ok(root.to_owned()),
        None => Err(WorkspaceError::NotFound { start }),
    }
}

/// Reads, parses and resolves everything below a root, in the order of the paths.
///
/// # Errors
/// What cannot be read; else every mistake of every file.
pub fn load(root: &Path) -> Result<Workspace, WorkspaceError> {
    let root = root.canonicalize().map_err(io_error("find", root))?;
    let mut paths = Vec::new();
    let settings = root.join(SETTINGS_FILE);
    if settings.symlink_metadata().is_ok() {
        paths.push(settings);
    }
    paths.extend(recipe_files(&root)?);
    let mut budget = MAX_TOTAL;
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let bytes = read(&root, &path, &mut budget)?;
        let shown = path.strip_prefix(&root).unwrap_or(&path).to_owned();
        files.push((shown, bytes));
    }
    let mut sources = Sources::default();
    let commands = |path: &Path| {
        let (path, mut budget) = (root.join(path), MAX_TOTAL);
        // To open a pipe would wait for whoever writes to it.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        read(&root, &path, &mut budget).map_err(|error| match error {
            WorkspaceError::Io { source, .. } => source,
            other => io::Error::other(other),
        })
    };
    match compile_with(&mut sources, files, &commands) {
        Ok(Compiled { settings, graph, profiles, documents }) => {
            Ok(Workspace { root, settings, sources, graph, profiles, documents })
        }
        Err(mistakes) => Err(Mistakes::new(mistakes, &sources).into()),
    }
}

/// What files say, given their paths from the workspace root and their bytes: `kiln.kdl` has the
/// settings, every other file is a recipe. Reads nothing: a `commands-from-file` finds no file.
///
/// # Errors
/// Every mistake of every file.
pub fn compile(
    sources: &mut Sources,
    files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>,
) -> Result<Compiled, Vec<Mistake>> {
    compile_with(sources, files, &|_| Err(io::ErrorKind::NotFound.into()))
}

/// What files say, as [`compile`]; `commands` reads what `commands-from-file` names, given its path
/// from the workspace root, at most one byte more than [`import::MAX_BYTES`].
///
/// # Errors
/// Every mistake of every file.
pub fn compile_with(
    sources: &mut Sources,
    files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>,
    commands: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Compiled, Vec<Mistake>> {
    let (mut settings, mut images, mut mistakes) = (Settings::default(), Vec::new(), Vec::new());
    let (mut profiles, mut documents) = (Vec::new(), Documents::default());
    let mut included = Included::new();
    for (path, bytes) in files {
        let is_settings = path == Path::new(SETTINGS_FILE);
        let (file, document) = parse::read(sources, path, &bytes);
        if is_settings {
            settings =
                keep(document, &mut mistakes, |document| lower::settings(document, file, sources));
        } else {
            if let Ok(document) = &document {
                for named in lower::commands_files(document, file, sources) {
                    let found = include(sources, &mut included, &named, commands);
                    mistakes.extend(found);
                }
            }
            let recipe = keep(document, &mut mistakes, |document| {
                lower::recipe(document, file, sources, &included)
            });
            images.extend(recipe.images);
            profiles.extend(recipe.profiles);
            documents.user_data.extend(recipe.user_data);
            documents.templates.extend(recipe.templates);
        }
    }
    let (lints, mut mistakes): (Vec<_>, Vec<_>) =
        mistakes.into_iter().partition(|mistake| mistake.severity == Severity::Warning);
    mistakes.extend(unknown_secrets(&settings, &images));
    mistakes.extend(documents.mistakes(&images));
    let (profiles, found) = lower::resolve(profiles, lower::own_profiles().clone());
    mistakes.extend(found);
    mistakes.extend(lower::fill_in(&mut images, &profiles));
    // What could not be parsed, or has no usable name, may be what others name.
    let unread = ["kiln::parse::", "kiln::lower::bad_name"];
    let unread =
        mistakes.iter().any(|found| unread.iter().any(|code| found.code.starts_with(code)));
    match graph::resolve(images) {
        Ok(mut graph) if mistakes.is_empty() => {
            graph.lints.extend(lints);
            Ok(Compiled { settings, graph, profiles, documents })
        }
        resolved => {
            let found = resolved.err().unwrap_or_default();
            let cascade = |mistake: &Mistake| unread && mistake.code.starts_with(UNKNOWN);
            mistakes.extend(found.into_iter().filter(|mistake| !cascade(mistake)));
            Err(mistakes)
        }
    }
}

/// Reads a file of commands once, and tells what is wrong with it.
fn include(
    sources: &mut Sources,
    included: &mut Included,
    named: &LocalFile,
    commands: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Vec<Mistake> {
    let path = lower::from_root(named, sources);
    if included.contains_key(&path) {
        return Vec::new();
    }
    let refuse = |message: String, help: &str| {
        let code = "kiln::workspace::commands_file";
        vec![Mistake::at(named.span, code, message, "this file").help(help)]
    };
    let shown = path.display();
    let bytes = match commands(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let help = "the path is relative to this recipe's own directory";
            return refuse(format!("`{shown}` cannot be read: {error}"), help);
        }
    };
    if bytes.len() > import::MAX_BYTES {
        return refuse(format!("`{shown}` is larger than 1 MiB"), "split it");
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return refuse(format!("`{shown}` is not UTF-8"), "save it in UTF-8");
    };
    let file = sources.add(path.clone(), text);
    let (nodes, mistakes) = import::commands_file(sources, file);
    included.insert(path, Commands { file, nodes });
    mistakes.into_iter().map(|mistake| mistake.and(named.span, "used here")).collect()
}

/// The secrets that images name and `kiln.kdl` lacks, and steps that want a subscription where the
/// image has none.
fn unknown_secrets(settings: &Settings, images: &[Image]) -> Vec<Mistake> {
    let known = || settings.secrets.iter().map(|secret| secret.name.value.as_str());
    let mut mistakes = Vec::new();
    for image in images {
        let of_account =
            image.subscription.as_ref().map(|subscription| subscription.account.secret());
        let of_steps = image.steps.iter().flat_map(|step| &step.aids.secrets);
        for secret in of_account.into_iter().chain(of_steps) {
            let name = secret.value.as_str();
            if known().any(|known| known == name) {
                continue;
            }
            let help = match nearest(name, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write where it is found in `kiln.kdl`: `secret \"{name}\" env=…`"),
            };
            let message = format!("there is no secret `{name}`");
            mistakes.push(
                Mistake::at(secret.span, "kiln::workspace::unknown_secret", message, "not known")
                    .help(help),
            );
        }
        let wanting = image.steps.iter().filter(|step| step.aids.subscription);
        for step in wanting.filter(|_| image.subscription.is_none()) {
            let message = format!("the image `{}` has no subscription", image.name.value);
            mistakes.push(
                Mistake::at(step.span, "kiln::workspace::no_subscription", message, "wants one")
                    .help("add `subscription organization=… activation-key=…` to the image"),
            );
        }
    }
    mistakes
}

impl Documents {
    /// Names that two have, and names that lead nowhere.
    fn mistakes(&self, images: &[Image]) -> Vec<Mistake> {
        let mut mistakes = twins("user data", self.user_data.iter().map(|one| &one.name));
        mistakes.extend(twins("template", self.templates.iter().map(|one| &one.name)));
        for server in self.templates.iter().map(|template| &template.server) {
            if let Some(wanted) = &server.user_data {
                let known = self.user_data.iter().map(|one| one.name.value.as_str());
                let code = "kiln::workspace::unknown_user_data";
                mistakes.extend(unknown(
                    code,
                    "user data",
                    wanted.value.as_str(),
                    wanted.span,
                    known,
                ));
            }
            if let Some(wanted) = &server.image {
                let known = images.iter().map(|image| image.name.value.as_str());
                let code = "kiln::graph::unknown_image";
                mistakes.extend(unknown(code, "image", wanted.value.as_str(), wanted.span, known));
            }
        }
        mistakes
    }
}

fn twins<'a>(what: &str, names: impl Iterator<Item = &'a Spanned<DocumentName>>) -> Vec<Mistake> {
    let (mut seen, mut mistakes) = (BTreeMap::new(), Vec::new());
    for Spanned { value, span } in names {
        let Some(first) = seen.insert(value, *span) else { continue };
        let message = format!("`{value}` is the name of two: of this {what} and of another");
        mistakes.push(
            Mistake::at(*span, "kiln::workspace::duplicate_document", message, "this one")
                .and(first, "the other one")
                .help("rename one of them"),
        );
    }
    mistakes
}

/// Says that nothing has a name, if so.
fn unknown<'a>(
    code: &'static str,
    what: &str,
    name: &str,
    span: Span,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Option<Mistake> {
    if known.clone().any(|known| known == name) {
        return None;
    }
    let all: BTreeSet<_> = known.clone().map(|name| format!("`{name}`")).collect();
    let help = match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if all.is_empty() => "there is none yet".to_owned(),
        None => format!("there are {}", Vec::from_iter(all).join(", ")),
    };
    let message = format!("there is no {what} `{name}`");
    Some(Mistake::at(span, code, message, "not known").help(help))
}

/// How the codes of names start that nothing has.
const UNKNOWN: &str = "kiln::graph::unknown_";

/// What a lowering made of a document, with the mistakes set apart.
fn keep<T: Default>(
    document: Result<KdlDocument, Vec<Mistake>>,
    mistakes: &mut Vec<Mistake>,
    lowered: impl FnOnce(&KdlDocument) -> (T, Vec<Mistake>),
) -> T {
    let (value, found) = match document {
        Ok(document) => lowered(&document),
        Err(found) => (T::default(), found),
    };
    mistakes.extend(found);
    value
}

/// The paths of all recipe files, sorted.
fn recipe_files(root: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    let top = root.join(RECIPES);
    if !top.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (count, entry) in WalkDir::new(&top).sort_by_file_name().into_iter().enumerate() {
        if count >= MAX_ENTRIES {
            return Err(WorkspaceError::TooLarge { limit: MAX_ENTRIES, what: "entries" });
        }
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(&top).to_owned();
            let source = error.into_io_error().unwrap_or_else(|| io::Error::other("a loop"));
            WorkspaceError::Io { doing: "read", path, source }
        })?;
        let recipe = entry.path().extension().is_some_and(|ending| ending == "kdl");
        let kind = entry.file_type();
        if recipe && (kind.is_file() || (kind.is_symlink() && entry.path().is_file())) {
            found.push(entry.into_path());
            if found.len() > MAX_FILES {
                return Err(WorkspaceError::TooLarge { limit: MAX_FILES, what: "recipes" });
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The bytes of a recipe, one more than are allowed at most.
fn read(root: &Path, path: &Path, budget: &mut usize) -> Result<Vec<u8>, WorkspaceError> {
    let real = path.canonicalize().map_err(io_error("read", path))?;
    if !real.starts_with(root) {
        return Err(WorkspaceError::LeadsOut { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let file = File::open(&real).map_err(io_error("read", path))?;
    let limit = parse::MAX_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    let left = budget.checked_sub(bytes.len());
    *budget = left.ok_or(WorkspaceError::TooLarge { limit: MAX_TOTAL, what: "bytes" })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn a_workspace_is_found_from_below_and_read_whole() {
        let tree = tree(&[
            ("kiln.kdl", "store \"cache\"\njobs 2\n"),
            ("recipes/web/web.kdl", "image \"web\" { base image \"golden\"; run \"x/a.sh\"; }"),
            ("recipes/golden.kdl", "image \"golden\" { base bootstrap \"bookworm\"; }"),
            ("recipes/notes.txt", "{{{"),
            ("deep/er/x", ""),
        ]);
        let root = find(&tree.path().join("deep/er")).unwrap();
        let workspace = load(&root).unwrap();
        assert_eq!(workspace.settings.jobs, Some(2));
        let names: Vec<_> =
            workspace.graph.images.iter().map(|node| node.image.name.value.as_str()).collect();
        assert_eq!(names, ["golden", "web"]);
        let crate::recipe::StepKind::Run(run) = &workspace.graph.images[1].image.steps[0].kind
        else {
            panic!("a run");
        };
        assert_eq!(workspace.local(&run.script), root.join("recipes/web/x/a.sh"));
    }

    #[test]
    fn mistakes_of_all_files_come_together() {
        let tree = tree(&[
            ("kiln.kdl", "jobs 0\nspeed 9"),
            ("recipes/a.kdl", "image \"a\" { base image \"b\"; }"),
            ("recipes/b.kdl", "image \"b\" {"),
            ("recipes/c.kdl", "image \"c\" { base image \"a\"; instal \"x\"; }"),
        ]);
        let Err(WorkspaceError::Mistakes(mistakes)) = load(tree.path()) else {
            panic!("mistakes");
        };
        let codes: Vec<_> = mistakes.iter().map(|mistake| mistake.code).collect();
        assert_eq!(
            codes,
            [
                "kiln::lower::bad_value",
                "kiln::lower::unknown_node",
                "kiln::parse::unbalanced",
                "kiln::lower::unknown_node",
            ]
        );
    }

    #[test]
    fn a_link_out_of_the_workspace_is_refused() {
        let outside = tree(&[("o.kdl", "image \"o\" { base file \"x\"; }")]);
        let inside = tree(&[("recipes/a.kdl", "")]);
        let link = inside.path().join("recipes/o.kdl");
        std::os::unix::fs::symlink(outside.path().join("o.kdl"), link).unwrap();
        assert!(matches!(load(inside.path()), Err(WorkspaceError::LeadsOut { .. })));
    }

    #[test]
    fn a_place_without_a_workspace_is_named() {
        let empty = tree(&[]);
        // A directory above might be a workspace on the machine that runs this.
        if let Err(error) = find(empty.path()) {
            assert!(matches!(error, WorkspaceError::NotFound { .. }));
        }
        assert!(matches!(find(&empty.path().join("none")), Err(WorkspaceError::Io { .. })));
    }
}
