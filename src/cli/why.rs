//! `kiln why`.

use std::io::{IsTerminal, Write};

use clap::Args;
use serde_json::json;

use super::remotes::Purpose;
use super::{CliError, Place, Wanted, split};
use crate::name::ImageName;
use crate::plan::History;
use crate::plan::why::{Style, Why};
use crate::store::Store;

/// Show what is the cause that steps run.
#[derive(Debug, Args)]
pub(super) struct WhyCommand {
    /// An image, or one step of it: its name, or its keyword and number, such as `install#2`.
    #[arg(value_name = "IMAGE[/STEP]")]
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show also the steps that do not run, and values with nothing cut off.
    #[arg(long)]
    all: bool,
    /// Compare with this result of the store, by the start of its key or state.
    #[arg(long, value_name = "KEY|STATE")]
    against: Option<String>,
}

impl WhyCommand {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let (image, step) = split(&self.name);
        let wanted = Wanted::find(place, &[image.to_owned()])?;
        let step = step.map(|step| wanted.step(step)).transpose()?;
        let store = Store::open_existing(&place.store_path(&wanted.workspace))?;
        let team = place.team(&wanted.workspace, Purpose::Look)?;
        let heads = |image: &ImageName| team.head(image);
        let mut history = History::new(&wanted.workspace, store.as_ref()).with_heads(&heads);
        let (plan, results) = wanted.plan(store.as_ref(), &history, &team)?;
        if let Some(start) = &self.against {
            let key = history.find(&results, start)?;
            history = history.against(key);
        }
        let chain = &wanted.actions.chains[0];
        let why = Why::new(&wanted.actions, chain, &plan, &results, &history);
        let place = step.and_then(|step| chain.all().position(|&node| node == step));
        let text = if self.json {
            let answer = match place {
                Some(place) => {
                    json!({ "compared_with": why.compared_with, "step": why.steps[place] })
                }
                None => json!(why),
            };
            format!("{answer}\n")
        } else {
            let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let style = Style { all: self.all, colours };
            place.map_or_else(|| why.text(style), |place| why.text_of(place, style))
        };
        // Whoever closed the other end has seen enough.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(())
    }
}
