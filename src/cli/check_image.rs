//! `kiln check-image`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::document::Found;
use super::{CliError, Place};
use crate::audit::{AuditReport, Finding, Style, Verdict, quoted};
use crate::engine::foreign;
use crate::execute::Executor;
use crate::execute::native::Native;
use crate::files::{self, Context, Host};
use crate::lower::own_profiles;
use crate::mistake::nearest;
use crate::name::ImageName;
use crate::recipe::{DiskFormat, LocalFile, Profile, Requirement};
use crate::seal::SealReport;
use crate::store::work::Work;
use crate::store::{LayerFiles, Store};
use crate::workspace::WorkspaceError;

/// Largest report of a seal, in bytes.
const LIMIT: u64 = 1 << 30;

/// Hold a disk image against a profile, without changing it.
#[derive(Debug, Args)]
pub(super) struct CheckImage {
    /// A disk image, or an image of the workspace as it was built last.
    #[arg(value_name = "FILE|IMAGE")]
    image: PathBuf,
    /// The profile: kiln's own `openstack`, `openstack-xen`, `nocloud` or `hardened`, or one of the
    /// workspace.
    #[arg(long, value_name = "NAME", default_value = "openstack")]
    profile: String,
    /// The format of the file; found by its magic number by default.
    #[arg(long, value_name = "FORMAT", value_parser = format_of)]
    format: Option<DiskFormat>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write the findings to that file, as XML that CI servers read.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write a recipe to that file that stands on the image and repairs it.
    #[arg(long, value_name = "RECIPE")]
    fix: Option<PathBuf>,
}

pub(super) fn format_of(text: &str) -> Result<DiskFormat, String> {
    let known = DiskFormat::ALL.into_iter().find(|format| format.keyword() == text);
    known.ok_or_else(|| {
        let all: Vec<_> = DiskFormat::ALL.iter().map(|format| format.keyword()).collect();
        format!("known are {}", all.join(", "))
    })
}

/// What is looked at.
pub(super) enum Subject {
    /// A file that kiln need not have made.
    File(PathBuf),
    /// What an image of the workspace was built to.
    Built { chain: Vec<LayerFiles>, report: Box<SealReport> },
}

impl Subject {
    /// A file, or else an image of the workspace.
    pub(super) fn find(image: &Path, place: &Place) -> Result<Self, CliError> {
        let name = image.to_str().filter(|name| name.parse::<ImageName>().is_ok());
        let Some(name) = name.filter(|_| !image.is_file()) else {
            return Ok(Self::File(image.to_owned()));
        };
        let none = || CliError::NotBuilt { name: name.to_owned() };
        let found = match Found::by_name(place, name, none) {
            Err(CliError::Workspace(WorkspaceError::NotFound { .. })) => {
                return Ok(Self::File(image.to_owned()));
            }
            other => other?,
        };
        let report = found.result.report.ok_or_else(none)?;
        let bytes = found.store.objects().read(report, LIMIT)?;
        let report = serde_json::from_slice(&bytes).map_err(|_| none())?;
        let chain = found.store.chain(&found.results, found.result.state, None)?;
        Ok(Self::Built { chain, report: Box::new(report) })
    }
}

impl CheckImage {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let profile = self.profile(place)?;
        let requirements: Vec<Requirement> =
            profile.requirements.iter().map(|remedied| remedied.requirement.clone()).collect();
        let subject = Subject::find(&self.image, place)?;
        let executor = Native::default();
        executor.check()?;
        let directory = Scratch::make(place)?;
        let work = directory.path().join("disk");
        files::make_directory(&work, 0o700)?;
        let report = match &subject {
            Subject::File(path) => {
                let layer = foreign(path, self.format, directory.path())?;
                executor.audit(&[layer], &requirements, None, &work)?
            }
            Subject::Built { chain, report } => {
                executor.audit(chain, &requirements, report.packages.as_deref(), &work)?
            }
        };
        let report = report.with_remedies_of(&profile);
        drop(directory);
        self.tell(&report)?;
        let found = |finding: &Finding| matches!(finding.verdict, Verdict::Fail(_));
        match (&report.unreadable, &self.fix) {
            (Some(why), _) if !report.failures().any(found) => {
                let why = why.clone();
                return Err(CliError::Unreadable { image: self.image, why });
            }
            // Nothing stands on a disk that cannot be opened.
            (Some(_), _) | (None, None) => {}
            (None, Some(path)) => self.write_fix(path, &report, place)?,
        }
        match report.failures().count() {
            0 => Ok(()),
            count => Err(CliError::Unfit { count, profile: self.profile }),
        }
    }

    /// The profile, of the workspace where there is one.
    fn profile(&self, place: &Place) -> Result<Profile<LocalFile>, CliError> {
        let profiles = match place.workspace() {
            Ok(workspace) => workspace.profiles,
            Err(CliError::Workspace(WorkspaceError::NotFound { .. })) => own_profiles().clone(),
            Err(error) => return Err(error),
        };
        profiles.get(&self.profile).cloned().ok_or_else(|| {
            let near = nearest(&self.profile, profiles.keys().map(String::as_str));
            let all: Vec<_> = profiles.keys().map(|name| format!("`{name}`")).collect();
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", all.join(", ")),
            };
            CliError::UnknownProfile { name: self.profile.clone(), help }
        })
    }

    fn tell(&self, report: &AuditReport) -> Result<(), CliError> {
        let what = self.image.display().to_string();
        let text = if self.json {
            let answer = serde_json::json!({
                "image": what, "profile": self.profile, "system": report.system,
                "unreadable": report.unreadable, "findings": report.findings,
            });
            format!("{answer}\n")
        } else {
            let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            report.text(&what, &format!("profile {}", self.profile), Style { colours })
        };
        // Whoever closed the other end has seen enough.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        if let Some(path) = &self.junit {
            files::replace(&Host, path, report.junit(&what, &self.profile).as_bytes())?;
        }
        Ok(())
    }

    /// The node of a recipe at a path that stands on what was looked at.
    fn base(&self, path: &Path, place: &Place) -> Result<String, CliError> {
        if !self.image.is_file() {
            return Ok(format!("base image {}", quoted(&self.image.to_string_lossy())));
        }
        let elsewhere = || CliError::FixElsewhere { image: self.image.clone() };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let image = self.image.canonicalize().context("find", &self.image)?;
        let directory = directory.canonicalize().context("find", path)?;
        let relative = if let Ok(inside) = image.strip_prefix(&directory) {
            inside.to_owned()
        } else {
            // From the recipe's own directory upward, as far as the workspace goes.
            let root = place.workspace().map_err(|_| elsewhere())?.root;
            let down = directory.strip_prefix(&root).map_err(|_| elsewhere())?;
            let rest = image.strip_prefix(&root).map_err(|_| elsewhere())?;
            down.components().map(|_| "..").collect::<PathBuf>().join(rest)
        };
        let file = quoted(relative.to_str().ok_or_else(elsewhere)?);
        let format = self.format.map(|format| format!(" format={}", quoted(format.keyword())));
        Ok(format!("base file {file}{}", format.unwrap_or_default()))
    }

    /// Writes a recipe, and never over another one.
    fn write_fix(&self, path: &Path, report: &AuditReport, place: &Place) -> Result<(), CliError> {
        let base = self.base(path, place)?;
        let text = report.recipe(&fixed_name(&self.image), &base, &self.profile);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .context("create", path)?;
        file.write_all(text.as_bytes()).context("write", path)?;
        eprintln!("wrote `{}`: `kiln build {}`", path.display(), fixed_name(&self.image));
        Ok(())
    }
}

/// The name of the repaired image.
fn fixed_name(image: &Path) -> String {
    let stem = image.file_stem().unwrap_or_default().to_string_lossy();
    let mut name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    name.truncate(40);
    let name = name.trim_matches('-');
    if name.is_empty() { "fixed".to_owned() } else { format!("{name}-fixed") }
}

/// A directory for the copy of a disk and what is served of it; it goes with the value.
pub(super) enum Scratch {
    /// That of a build: others see that it is in use, and clean up what a kill leaves of it.
    Work(Work),
    /// Any other, where there is no store.
    Temporary(tempfile::TempDir),
}

impl Scratch {
    pub(super) fn make(place: &Place) -> Result<Self, CliError> {
        let path = match place.workspace() {
            Ok(workspace) => place.store_path(&workspace),
            Err(_) => super::user_cache().join("kiln"),
        };
        if let Some(store) = Store::open_existing(&path)? {
            return Ok(Self::Work(Work::new(&store)?));
        }
        let parent = std::env::temp_dir();
        let made = tempfile::Builder::new().prefix("kiln-check-").tempdir_in(&parent);
        Ok(Self::Temporary(made.context("make a directory in", &parent)?))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Work(work) => work.path(),
            Self::Temporary(directory) => directory.path(),
        }
    }
}
