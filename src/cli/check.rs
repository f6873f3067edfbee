//! `kiln check`.

use std::collections::BTreeSet;

use clap::Args;

use super::{CliError, Place, Wanted, show};
use crate::heat;
use crate::mistake::{Mistakes, Severity};

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
        let found = heat::check(&wanted.workspace);
        if found.iter().any(|mistake| mistake.severity == Severity::Error) {
            let errors = found.into_iter().filter(|mistake| mistake.severity == Severity::Error);
            return Err(Mistakes::new(errors.collect(), &wanted.workspace.sources).into());
        }
        wanted.workspace.graph.lints.extend(found);
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
        let documents = &wanted.workspace.documents;
        let (user_data, templates) = (documents.user_data.len(), documents.templates.len());
        if user_data + templates > 0 {
            println!("{user_data} user data, {templates} template{}: no mistakes", s(templates));
        }
        Ok(())
    }
}
