//! `kiln bundle`, and `kiln cache export`, which is the same for more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::build::on_interrupt;
use super::{CliError, Place, remotes};
use crate::engine::bundle::{Export, Moved};
use crate::name::ImageName;
use crate::progress::{duration, size};
use crate::store::Store;

/// Write images as they were last built into one file, for a site without a network.
#[derive(Debug, Args)]
pub(super) struct BundleCommand {
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageName>,
    /// The file.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

impl BundleCommand {
    pub(super) fn run(&self, place: &Place) -> Result<(), CliError> {
        export(place, &self.output, &self.images, self.force)
    }
}

/// Writes images, or all that the store has, into a file.
pub(super) fn export(
    place: &Place,
    path: &Path,
    images: &[ImageName],
    force: bool,
) -> Result<(), CliError> {
    let start = Instant::now();
    let workspace = place.workspace()?;
    let root = place.store_path(&workspace);
    let store = Store::open_existing(&root)?.ok_or(CliError::NoStore { path: root })?;
    let team = remotes::signing_team(&workspace, place.offline)?;
    let interrupted = on_interrupt();
    let export = Export { store: &store, team: &team, interrupted: &interrupted };
    let mut bytes = 0;
    let results = export.write(path, images, force, &mut |moved| {
        bytes += moved.bytes;
        eprintln!("{}", line("packed", moved));
    })?;
    eprintln!("{}", summary(&format!("`{}` has", path.display()), results, bytes, start.elapsed()));
    Ok(())
}

/// Give images as they were last built to the remotes: a build gives only what it made itself.
#[derive(Debug, Args)]
pub(super) struct Push {
    /// The images; every result of the store if none is named.
    #[arg(value_name = "IMAGE")]
    images: Vec<ImageName>,
}

impl Push {
    pub(super) fn run(&self, place: &Place) -> Result<(), CliError> {
        let start = Instant::now();
        let workspace = place.workspace()?;
        let root = place.store_path(&workspace);
        let store = Store::open_existing(&root)?.ok_or(CliError::NoStore { path: root })?;
        let team = remotes::signing_team(&workspace, place.offline)?;
        let interrupted = on_interrupt();
        let export = Export { store: &store, team: &team, interrupted: &interrupted };
        let mut bytes = 0;
        let results = export.give(&self.images, &mut |remote, moved| {
            bytes += moved.bytes;
            eprintln!("{} to {remote}", line("gave", moved));
        })?;
        eprintln!("{}", summary("the remotes got", results, bytes, start.elapsed()));
        Ok(())
    }
}

/// What is told of a result that went in or came out.
pub(super) fn line(verb: &str, moved: &Moved) -> String {
    let Moved { name, bytes, took } = moved;
    format!("{verb} {name}: {}, {}", size(*bytes), duration(*took))
}

/// What is told at the end.
pub(super) fn summary(what: &str, results: usize, bytes: u64, took: Duration) -> String {
    let results = super::cache::count(results, "result");
    format!("{what} {results}, {} in {}", size(bytes), duration(took))
}
