//! `kiln cache`: what lies in the store, and what is to stay there.

mod du;
mod export;
mod gc;
mod import;
mod ls;
mod pin;
mod verify;

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};

use super::{CliError, Place};
use crate::digest::{ActionKey, StateId};
use crate::plan::LastBuild;
use crate::recipe::Retention;
use crate::store::Store;
use crate::workspace::WorkspaceError;

pub(super) use gc::after_build;

/// Fewest digits by which a state is named.
const FEWEST_DIGITS: usize = 8;

/// Look at the store, and decide what stays there.
#[derive(Debug, Args)]
pub(super) struct Cache {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List the results, and why they are kept.
    Ls(ls::Ls),
    /// Show what takes how much room.
    Du(du::Du),
    /// Read everything, and compare it with its names.
    Verify(verify::Verify),
    /// Remove what the rules in kiln.kdl do not keep, and what nothing names.
    Gc(gc::Gc),
    /// Keep a state, and all that it stands on, until the pin is removed.
    Pin(pin::PinCommand),
    /// Write the store's results, or those of some images, into one file.
    Export(export::Export),
    /// Take over the results of such a file.
    Import(import::Import),
}

impl Cache {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        match self.command {
            CacheCommand::Ls(command) => {
                let (store, retention) = open(place)?;
                command.run(&store, &retention)
            }
            CacheCommand::Du(command) => {
                let (store, retention) = open(place)?;
                command.run(&store, &retention)
            }
            CacheCommand::Verify(command) => command.run(&open(place)?.0),
            CacheCommand::Gc(command) => {
                let (store, retention) = open(place)?;
                command.run(&store, &retention)
            }
            CacheCommand::Pin(command) => command.run(&open(place)?.0),
            CacheCommand::Export(command) => command.run(place),
            CacheCommand::Import(command) => command.run(place),
        }
    }
}

/// The store, and what the workspace says of it. One that is named needs no workspace.
fn open(place: &Place) -> Result<(Store, Retention), CliError> {
    let (path, retention) = match (place.workspace(), &place.store) {
        (Ok(workspace), _) => (place.store_path(&workspace), workspace.settings.retention),
        (Err(CliError::Workspace(WorkspaceError::NotFound { .. })), Some(said)) => {
            (std::path::absolute(said).unwrap_or_else(|_| said.clone()), Retention::default())
        }
        (Err(error), _) => return Err(error),
    };
    let store = Store::open_existing(&path)?.ok_or(CliError::NoStore { path })?;
    Ok((store, retention))
}

/// What the last builds called things.
#[derive(Default)]
struct Names {
    images: BTreeMap<String, LastBuild>,
    of_keys: BTreeMap<ActionKey, BTreeSet<String>>,
}

impl Names {
    fn read(store: &Store) -> Result<Self, CliError> {
        let mut names = Self::default();
        for image in store.refs().images()? {
            let last: LastBuild = store.refs().image(&image).unwrap_or_default();
            for (name, step) in &last.steps {
                names.of_keys.entry(step.key).or_default().insert(name.clone());
            }
            names.images.insert(image.to_string(), last);
        }
        Ok(names)
    }

    /// What an action is called: `IMAGE/STEP`, often under several images.
    fn of(&self, key: ActionKey) -> Vec<&str> {
        self.of_keys.get(&key).into_iter().flatten().map(String::as_str).collect()
    }
}

/// The states that begin with some digits.
fn starting_with(digits: &str, states: impl Iterator<Item = StateId>) -> Vec<StateId> {
    let is_id = digits.len() >= FEWEST_DIGITS && digits.bytes().all(|c| c.is_ascii_hexdigit());
    states.filter(|state| is_id && state.to_string().starts_with(digits)).collect()
}

/// Lines with columns as wide as they must be; the columns in `right` end at their right.
fn columns(rows: &[Vec<String>], right: &[usize]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, &width))| {
                if right.contains(&at) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:width$}")
                }
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// How long ago something was, as people read it.
fn ago(now: u64, at: u64) -> String {
    match now.saturating_sub(at) {
        _ if at == 0 => "long ago".to_owned(),
        0..60 => "now".to_owned(),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Text of a ref, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1 state`, `3 states`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a", "10 B", "x"]), row(["web/seal", "1.2 GiB", ""])];
        assert_eq!(columns(&rows, &[1]), "a            10 B  x\nweb/seal  1.2 GiB\n");
    }

    #[test]
    fn times_are_short() {
        let of = |passed: u64| ago(1_000_000, 1_000_000 - passed);
        assert_eq!([of(5), of(61), of(7300), of(180_000)], ["now", "1 min", "2 h", "2 days"]);
        assert_eq!((ago(7, 0), ago(7, 9)), ("long ago".to_owned(), "now".to_owned()));
    }

    #[test]
    fn a_state_is_named_by_enough_of_its_digits() {
        let states = [1u8, 2, 3].map(|n| StateId(Digest::of(&[n])));
        let of = |digits: &str| starting_with(digits, states.into_iter());
        assert_eq!(of(&states[1].to_string()[..8]), [states[1]]);
        assert_eq!(of(&states[1].to_string()), [states[1]]);
        assert_eq!(of(&states[1].to_string()[..7]), []);
        assert_eq!(of("web/seal"), []);
    }
}
