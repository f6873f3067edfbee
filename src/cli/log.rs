//! `kiln log`.

use std::io::Write;

use clap::Args;

use super::{CliError, Place, Wanted};
use crate::digest::ActionKey;
use crate::engine::last_build;
use crate::files::Context;
use crate::mistake::nearest;
use crate::plan::{LastBuild, Node};
use crate::store::Store;

/// Show what a step printed.
#[derive(Debug, Args)]
pub(super) struct Log {
    /// An image, or one step of it: its name, or its keyword and number, such as `install#2`.
    #[arg(value_name = "IMAGE[/STEP]")]
    name: String,
}

impl Log {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let (image, step) = match self.name.split_once('/') {
            Some((image, step)) => (image, Some(step)),
            None => (self.name.as_str(), None),
        };
        let wanted = Wanted::find(place, &[image.to_owned()])?;
        let store = Store::open_existing(&place.store_path(&wanted.workspace))?;
        let none = || CliError::NoLog { name: self.name.clone() };
        let store = store.ok_or_else(none)?;
        let last = last_build(&wanted.workspace, &store, wanted.images[0]);
        let nodes = find(&wanted, image, step)?;
        let mut shown = false;
        for node in nodes {
            let Some(key) = key_with_log(&store, node, &last) else { continue };
            let path = store.log(key);
            let bytes = std::fs::read(&path).context("read", &path)?;
            if bytes.is_empty() && step.is_none() {
                continue;
            }
            let mut out = std::io::stdout().lock();
            if step.is_none() {
                let _ = writeln!(out, "── {}", node.name);
            }
            // Whoever closed the other end has seen enough.
            let _ = out.write_all(&printable(bytes));
            shown = true;
        }
        if shown { Ok(()) } else { Err(none()) }
    }
}

/// A guest's output may hold sequences that command a terminal; there they are shown, not obeyed.
fn printable(bytes: Vec<u8>) -> Vec<u8> {
    use std::io::IsTerminal;
    if !std::io::stdout().is_terminal() {
        return bytes;
    }
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(&bytes).chars() {
        match c {
            '\n' | '\t' => text.push(c),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text.into_bytes()
}

/// The step that is meant; without one all nodes of the image, its seal last.
pub(super) fn find<'a>(
    wanted: &'a Wanted,
    image: &str,
    step: Option<&str>,
) -> Result<Vec<&'a Node>, CliError> {
    let chain = &wanted.actions.chains[0];
    let nodes: Vec<&Node> =
        chain.nodes.iter().chain([&chain.seal]).map(|&node| &wanted.actions.nodes[node]).collect();
    let Some(step) = step else { return Ok(nodes) };
    let name = format!("{image}/{step}");
    // The image's own steps come before those of the image that it stands on.
    let own = nodes.iter().find(|node| node.name == name);
    if let Some(node) = own.or_else(|| nodes.iter().find(|node| node.label == step)) {
        return Ok(vec![node]);
    }
    let labels = || nodes.iter().map(|node| node.label.as_str());
    let help = match nearest(step, labels()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it has: {}", labels().collect::<Vec<_>>().join(", ")),
    };
    Err(CliError::UnknownStep { image: image.to_owned(), step: step.to_owned(), help })
}

/// The key by which a step last ran: today's, or the one of the last build.
fn key_with_log(store: &Store, node: &Node, last: &LastBuild) -> Option<ActionKey> {
    let before = last.steps.get(&node.name).map(|step| step.key);
    [Some(node.key), before].into_iter().flatten().find(|&key| store.log(key).exists())
}
