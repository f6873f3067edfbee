//! `kiln check`.

use std::collections::BTreeSet;

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
        let mut wanted = Wanted::read(place, &self.images)?;
        wanted.find_mistakes()?;
        let unlocked: BTreeSet<_> =
            wanted.unlocked().into_iter().map(|(_, origin)| origin.locked_as()).collect();
        let unlocked = unlocked.len();
        let lints = wanted.workspace.lints();
        if !lints.is_empty() {
            show(&lints);
        }
        let images = wanted.images.len();
        let s = |count: usize| if count == 1 { "" } else { "s" };
        if unlocked > 0 {
            println!("{images} image{}: no mistakes", s(images));
            println!(
                "{unlocked} base{} to be looked up: `kiln lock` does it, or the first build",
                s(unlocked)
            );
        } else {
            let steps = wanted.actions.nodes.len();
            println!("{images} image{}, {steps} action{}: no mistakes", s(images), s(steps));
        }
        Ok(())
    }
}
