//! `kiln cache pin`.

use clap::Args;

use super::{Names, starting_with};
use crate::cli::CliError;
use crate::digest::StateId;
use crate::graph::SEAL;
use crate::mistake::nearest;
use crate::name::PinName;
use crate::store::gc::now;
use crate::store::refs::Pin;
use crate::store::results::Results;
use crate::store::{Store, StoreError};

/// Keep a state until the pin is removed.
#[derive(Debug, Args)]
pub(super) struct PinCommand {
    /// The pin's name; a pin of that name is replaced.
    name: PinName,
    /// What to keep: an image as it was last built, one of its steps, or the first digits of a state.
    #[arg(value_name = "STATE|IMAGE[/STEP]", required_unless_present = "remove")]
    what: Option<String>,
    /// Remove the pin; what it kept may go with the next collection.
    #[arg(long, conflicts_with = "what")]
    remove: bool,
}

impl PinCommand {
    pub(super) fn run(&self, store: &Store) -> Result<(), CliError> {
        let Some(what) = &self.what else {
            store.refs().remove_pin(&self.name).map_err(StoreError::from)?;
            println!("removed the pin `{}`", self.name);
            return Ok(());
        };
        let (state, what) = find(&Names::read(store)?, &store.results()?, what)?;
        store.pin(&self.name, &Pin { state, what: what.clone(), at: now() })?;
        println!("pinned {what}, state {}, as `{}`", state.short(), self.name);
        Ok(())
    }
}

/// The state that a text names, and what it is called.
fn find(names: &Names, results: &Results, what: &str) -> Result<(StateId, String), CliError> {
    let (image, step) = what.split_once('/').unwrap_or((what, SEAL));
    let Some(last) = names.images.get(image) else {
        let states = results.placements().map(|placement| placement.state);
        let found = starting_with(what, states);
        return match found.as_slice() {
            [state] => Ok((*state, state.to_string())),
            [] => Err(unknown(what, nearest(image, names.images.keys().map(String::as_str)))),
            _ => Err(CliError::AmbiguousState { digits: what.to_owned() }),
        };
    };
    // The image's own steps come before those of the image that it stands on.
    let own = format!("{image}/{step}");
    let inherited = |name: &&String| name.split_once('/').is_some_and(|(_, label)| label == step);
    let name = last.steps.get_key_value(&own).map(|(name, _)| name);
    let name = name.or_else(|| last.steps.keys().find(inherited));
    let Some((name, noted)) = name.and_then(|name| last.steps.get_key_value(name)) else {
        let labels = last.steps.keys().filter_map(|name| Some(name.split_once('/')?.1));
        return Err(unknown(what, nearest(step, labels)));
    };
    // A build that starts above a step need not have known its state.
    let twins = results.of_action(noted.key);
    let known = noted.state.or_else(|| twins.last().map(|result| result.state));
    Ok((known.ok_or_else(|| unknown(what, None))?, name.clone()))
}

fn unknown(what: &str, near: Option<&str>) -> CliError {
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "an image that was built here, `IMAGE/STEP`, or at least 8 digits of a state: \
                 `kiln cache ls` lists them"
            .to_owned(),
    };
    CliError::NothingNamed { what: what.to_owned(), help }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{ActionKey, Digest};
    use crate::key::Manifest;
    use crate::plan::{LastBuild, LastStep};

    #[test]
    fn a_state_is_found_by_what_it_is_called() {
        let state = |n: u8| StateId(Digest::of(&[n]));
        let step = |n: u8| LastStep {
            key: ActionKey(Digest::of(&[n])),
            state: Some(state(n)),
            manifest: Manifest::default(),
        };
        let steps = [("common/install", 1), ("web/install", 2), ("common/run", 3), ("web/seal", 4)];
        let steps = steps.map(|(name, n)| (name.to_owned(), step(n))).into();
        let mut names = Names::default();
        names.images.insert("web".to_owned(), LastBuild { steps });
        let found = |what: &str| find(&names, &Results::default(), what);
        let of = |what: &str| found(what).unwrap();
        assert_eq!(of("web"), (state(4), "web/seal".to_owned()));
        assert_eq!(of("web/install"), (state(2), "web/install".to_owned()));
        assert_eq!(of("web/run"), (state(3), "common/run".to_owned()));
        for (what, near) in [("web/instal", "`install`"), ("wep", "`web`"), ("xyzzy", "ls")] {
            let Err(CliError::NothingNamed { help, .. }) = found(what) else { panic!("{what}") };
            assert!(help.contains(near), "{what}: {help}");
        }
    }
}
