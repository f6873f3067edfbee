//! `kiln advise`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{CliError, Place};
use crate::advise::{self, Kept, Options, Subject};
use crate::files;
use crate::graph::ImageNode;
use crate::recipe::{Base, OutputFormat, Publish};
use crate::workspace::{Workspace, WorkspaceError};

/// Largest `nova.conf`, in bytes.
const LIMIT: u64 = 4 << 20;

/// Say what the options of a service mean for the images.
#[derive(Debug, Args)]
pub(super) struct Advise {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// The image cache of nova, and how long a superseded image must stay.
    Nova(Nova),
}

/// The image cache of nova, and how long a superseded image must stay.
#[derive(Debug, Args)]
struct Nova {
    /// The images; all of the workspace if none is named.
    images: Vec<String>,
    /// The nova.conf of a compute node; nova's defaults without one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How often the images are built again, such as `6h` or `7d`.
    #[arg(long, value_name = "PERIOD", value_parser = period)]
    every: Option<u64>,
}

/// Seconds of a period of a whole number and a unit.
fn period(text: &str) -> Result<u64, String> {
    let fault = || "write a whole number and s, m, h or d, such as `6h`".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
    let number: u64 = text[..end].parse().map_err(|_| fault())?;
    let unit = match &text[end..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(fault()),
    };
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(fault)
}

impl Advise {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let Service::Nova(nova) = self.service;
        nova.run(place)
    }
}

impl Nova {
    fn run(self, place: &Place) -> Result<(), CliError> {
        let options = match &self.config {
            Some(path) => {
                let bytes = files::read_bounded(path, LIMIT)?;
                let text = String::from_utf8_lossy(&bytes);
                let told = |source| CliError::NovaConfig { path: path.clone(), source };
                Options::of_config(&text).map_err(told)?
            }
            None => Options::default(),
        };
        let subjects = match place.workspace() {
            Ok(workspace) => subjects(&workspace, &self.images)?,
            // Where nothing is built, the options still mean something.
            Err(CliError::Workspace(WorkspaceError::NotFound { .. })) if self.images.is_empty() => {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let text = advise::nova(options, &subjects, self.every);
        // Whoever closed the other end has seen enough.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(())
    }
}

fn subjects(workspace: &Workspace, names: &[String]) -> Result<Vec<Subject>, CliError> {
    let graph = &workspace.graph;
    // Also tells of a name that no image has.
    let closure = graph.closure(names)?;
    let wanted = |image: &&ImageNode| {
        names.is_empty() || names.iter().any(|name| image.image.name.value.as_str() == name)
    };
    let images = closure.into_iter().map(|image| &graph.images[image]);
    Ok(images.filter(|image| wanted(image)).map(|image| subject(workspace, image)).collect())
}

fn subject(workspace: &Workspace, node: &ImageNode) -> Subject {
    let image = &node.image;
    let outputs = image.outputs.iter().filter_map(|output| {
        let path = workspace.root.join(output.file(&image.name.value));
        let stored = path.metadata().ok()?.blocks() * 512;
        Some((disk_size(&path, output.format)?, stored))
    });
    let built = outputs.min_by_key(|(_, stored)| *stored);
    Subject {
        name: image.name.value.to_string(),
        virtual_size: built.map(|(size, _)| size).or_else(|| declared(workspace, node)),
        stored: built.map(|(_, stored)| stored),
        kept: image.publish.iter().map(kept).collect(),
    }
}

fn kept(publish: &Publish) -> Kept {
    Kept { old: publish.keep_old.as_secs(), last: publish.keep_last }
}

/// The size that recipes say, of the image or of the nearest one below it.
fn declared(workspace: &Workspace, node: &ImageNode) -> Option<u64> {
    let mut node = Some(node);
    while let Some(at) = node {
        let of_base = match &at.image.base.value {
            Base::Bootstrap(bootstrap) => Some(bootstrap.size),
            Base::Scratch(scratch) => Some(scratch.size),
            _ => None,
        };
        if let Some(size) = at.image.size.as_ref().map(|size| size.value).or(of_base) {
            return Some(size);
        }
        node = at.base.map(|base| &workspace.graph.images[base]);
    }
    None
}

/// The size of the disk in an output's file. A qcow2 file has it in bytes 24 to 31 (qcow2
/// specification, "Header").
fn disk_size(path: &Path, format: OutputFormat) -> Option<u64> {
    match format {
        OutputFormat::Qcow2 { .. } => {
            let mut header = [0; 32];
            File::open(path).ok()?.read_exact(&mut header).ok()?;
            let size = header.last_chunk::<8>()?;
            header.starts_with(b"QFI\xfb").then(|| u64::from_be_bytes(*size))
        }
        OutputFormat::Raw => Some(path.metadata().ok()?.len()),
    }
}
