//! `kiln plan`.

use clap::Args;
use serde_json::json;

use super::{CliError, Place, Wanted, show};
use crate::engine::{last_build, outputs};
use crate::plan::{self, Fate, Plan};
use crate::store::Store;
use crate::store::results::Results;

/// Show what a build would run.
#[derive(Debug, Args)]
pub(super) struct PlanCommand {
    /// The images; all of the workspace if none is named.
    images: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl PlanCommand {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let mut wanted = Wanted::read(place, &self.images)?;
        // Who asks for everything is shown what can be; who names an image is told why it cannot.
        let unknown = if self.images.is_empty() { wanted.leave_unlocked() } else { Vec::new() };
        wanted.find_actions()?;
        let lints = wanted.workspace.lints();
        if !lints.is_empty() {
            show(&lints);
        }
        let store = Store::open_existing(&place.store_path(&wanted.workspace))?;
        let mut results = store.as_ref().map_or_else(|| Ok(Results::default()), Store::results)?;
        let trust = wanted.trust();
        results.leave_out(|signer| trust.allows(signer));
        let stale: Vec<usize> = outputs(&wanted.workspace, &wanted.actions)
            .into_iter()
            .filter(|output| {
                !store.as_ref().is_some_and(|store| output.is_current(store, &wanted.trust()))
            })
            .map(|output| output.image)
            .collect();
        let needed = |image: usize| stale.contains(&image);
        let last = |image: usize| {
            let store = store.as_ref();
            store.map(|store| last_build(&wanted.workspace, store, image)).unwrap_or_default()
        };
        let plan = plan::plan(&wanted.actions, &results, needed, last);
        if self.json {
            println!("{}", as_json(&wanted, &plan, store.as_ref()));
        } else {
            print!("{}", as_text(&wanted, &plan, store.as_ref()));
            for line in unknown {
                println!("{line}");
            }
        }
        Ok(())
    }
}

fn image_name(wanted: &Wanted, image: usize) -> &str {
    wanted.workspace.graph.images[image].image.name.value.as_str()
}

/// What becomes of a node: its word, and why it runs.
fn fate(plan: &Plan, node: usize) -> (&'static str, String) {
    match &plan.fates[node] {
        Some(Fate::Run(reason)) => ("run", reason.to_string()),
        // What is below a cached step is not looked at: the step's own layer chain holds it.
        Some(Fate::Cached(_)) | None => ("cached", String::new()),
    }
}

fn as_text(wanted: &Wanted, plan: &Plan, store: Option<&Store>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for chain in &wanted.actions.chains {
        let _ = writeln!(text, "{}", image_name(wanted, chain.image));
        for &node in chain.nodes.iter().chain([&chain.seal]) {
            let (word, why) = fate(plan, node);
            let node = &wanted.actions.nodes[node];
            let name =
                if node.image == chain.image { node.label.clone() } else { node.name.clone() };
            let what = plan::summary(&node.action.operation);
            let why = if why.is_empty() { why } else { format!("  — {why}") };
            let _ = writeln!(text, "  {word:<6}  {name}  {what}{why}");
        }
        for output in outputs(&wanted.workspace, &wanted.actions) {
            if output.image == chain.image {
                let current = store.is_some_and(|store| output.is_current(store, &wanted.trust()));
                let word = if current { "same" } else { "write" };
                let path = output.path.strip_prefix(&wanted.workspace.root).unwrap_or(&output.path);
                let _ = writeln!(text, "  {word:<6}  {}", path.display());
            }
        }
    }
    let runs = plan.running().count();
    let _ = match runs {
        0 => writeln!(text, "nothing to run"),
        1 => writeln!(text, "1 action to run"),
        _ => writeln!(text, "{runs} actions to run"),
    };
    text
}

fn as_json(wanted: &Wanted, plan: &Plan, store: Option<&Store>) -> serde_json::Value {
    let outputs = outputs(&wanted.workspace, &wanted.actions);
    let images: Vec<_> = wanted
        .actions
        .chains
        .iter()
        .map(|chain| {
            let steps: Vec<_> = chain
                .nodes
                .iter()
                .chain([&chain.seal])
                .map(|&number| {
                    let node = &wanted.actions.nodes[number];
                    let (fate, why) = fate(plan, number);
                    json!({
                        "step": node.name, "key": node.key, "fate": fate, "why": why,
                        "what": plan::summary(&node.action.operation), "impure": node.impure,
                    })
                })
                .collect();
            let outputs: Vec<_> = outputs
                .iter()
                .filter(|output| output.image == chain.image)
                .map(|output| {
                    let current =
                        store.is_some_and(|store| output.is_current(store, &wanted.trust()));
                    json!({ "path": output.path.to_string_lossy(), "current": current })
                })
                .collect();
            json!({ "image": image_name(wanted, chain.image), "steps": steps, "outputs": outputs })
        })
        .collect();
    json!({ "images": images, "run": plan.running().count() })
}
