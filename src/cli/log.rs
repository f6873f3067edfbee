//! `kiln log`.

use std::io::Write;

use clap::Args;

use super::{CliError, Place, Wanted, split};
use crate::digest::ActionKey;
use crate::engine::last_build;
use crate::files::Context;
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
        let (image, step) = split(&self.name);
        let wanted = Wanted::find(place, &[image.to_owned()])?;
        let store = Store::open_existing(&place.store_path(&wanted.workspace))?;
        let none = || CliError::NoLog { name: self.name.clone() };
        let store = store.ok_or_else(none)?;
        let last = last_build(&wanted.workspace, &store, wanted.images[0]);
        let nodes: Vec<usize> = match step {
            Some(step) => vec![wanted.step(step)?],
            None => wanted.actions.chains[0].all().copied().collect(),
        };
        let mut shown = false;
        for node in nodes.into_iter().map(|node| &wanted.actions.nodes[node]) {
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

/// The key by which a step last ran: today's, or the one of the last build.
fn key_with_log(store: &Store, node: &Node, last: &LastBuild) -> Option<ActionKey> {
    let before = last.steps.get(&node.name).map(|step| step.key);
    [Some(node.key), before].into_iter().flatten().find(|&key| store.log(key).exists())
}
