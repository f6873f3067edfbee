//! `kiln cache export`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{CliError, Place, bundle};
use crate::name::ImageName;

/// Write the store's results, or those of some images, into one file.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file.
    file: PathBuf,
    /// Images, as they were last built; every result of the store if none is named.
    #[arg(value_name = "IMAGE")]
    images: Vec<ImageName>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

impl Export {
    pub(super) fn run(&self, place: &Place) -> Result<(), CliError> {
        bundle::export(place, &self.file, &self.images, self.force)
    }
}
