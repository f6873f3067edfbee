//! `kiln check`.

use clap::Args;

use super::{CliError, Place, Wanted, show};

/// Check the recipes.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The images; all of the workspace if none is named.
    images: Vec<String>,
}

impl Check {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let wanted = Wanted::find(place, &self.images)?;
        let lints = wanted.workspace.lints();
        if !lints.is_empty() {
            show(&lints);
        }
        let (images, steps) = (wanted.images.len(), wanted.actions.nodes.len());
        println!(
            "{images} image{}, {steps} action{}: no mistakes",
            if images == 1 { "" } else { "s" },
            if steps == 1 { "" } else { "s" },
        );
        Ok(())
    }
}
