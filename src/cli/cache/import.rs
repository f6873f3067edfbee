//! `kiln cache import`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::count;
use crate::cli::build::on_interrupt;
use crate::cli::{CliError, Place, bundle};
use crate::engine::bundle::{self as bundles, Imported, Told};
use crate::remote::trust::Trust;

/// Take over the results of a file that `kiln bundle` or `kiln cache export` wrote.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file.
    file: PathBuf,
}

impl Import {
    pub(super) fn run(&self, place: &Place) -> Result<(), CliError> {
        let start = Instant::now();
        let workspace = place.workspace()?;
        let store = place.store(&workspace)?;
        let interrupted = on_interrupt();
        let sharing = &workspace.settings.sharing;
        let import = bundles::Import {
            store: &store,
            namespace: sharing.namespace.clone(),
            trust: Trust::new(&sharing.trusted),
            interrupted: &interrupted,
        };
        let mut bytes = 0;
        let Imported { new, known, refused } = import.read(&self.file, &mut |told| match told {
            Told::Taken(moved) => {
                bytes += moved.bytes;
                eprintln!("{}", bundle::line("imported", &moved));
            }
            Told::Warning(text) => eprintln!("warning: {text}"),
        })?;
        let mut text = bundle::summary("imported", new, bytes, start.elapsed());
        if known > 0 {
            let _ = write!(text, "; {} here already", count(known, "result"));
        }
        if refused > 0 {
            let _ = write!(text, "; {} not used", count(refused, "result"));
        }
        eprintln!("{text}");
        Ok(())
    }
}
