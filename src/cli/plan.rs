//! `kiln plan`.

use clap::Args;
use serde_json::json;

use super::remotes::Purpose;
use super::{CliError, Place, Wanted, show};
use crate::engine::outputs;
use crate::plan::{self, History, Plan};
use crate::store::Store;

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
        let team = place.team(&wanted.workspace, Purpose::Look)?;
        let history = History::new(&wanted.workspace, store.as_ref());
        let (plan, _) = wanted.plan(store.as_ref(), &history, &team)?;
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

fn as_text(wanted: &Wanted, plan: &Plan, store: Option<&Store>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for chain in &wanted.actions.chains {
        let _ = writeln!(text, "{}", image_name(wanted, chain.image));
        for &node in chain.nodes.iter().chain([&chain.seal]) {
            let (word, reason) = (plan.word(node), plan.reason(node));
            let node = &wanted.actions.nodes[node];
            let name =
                if node.image == chain.image { node.label.clone() } else { node.name.clone() };
            let what = plan::summary(&node.action.operation);
            let why = reason.map(|reason| format!("  — {reason}")).unwrap_or_default();
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
                    let reason = plan.reason(number);
                    json!({
                        "step": node.name, "key": node.key, "fate": plan.word(number),
                        "why": reason.map(ToString::to_string).unwrap_or_default(),
                        "reason": reason, "what": plan::summary(&node.action.operation),
                        "impure": node.impure,
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
