//! `kiln sbom` and `kiln provenance`: what is said about a state for others than kiln.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{CliError, Place, Wanted, split};
use crate::attest::packages;
use crate::digest::ObjectId;
use crate::engine::last_build;
use crate::files::{self, Host};
use crate::store::Store;
use crate::store::results::{ActionResult, Results};

/// Largest document in bytes.
const LIMIT: u64 = 64 << 20;

/// Show the packages of an image, or of one step, as a CycloneDX document.
#[derive(Debug, Args)]
pub(super) struct Sbom {
    /// An image, or one step of it.
    #[arg(value_name = "IMAGE[/STEP]")]
    name: String,
    /// Only what the step brought or changed.
    #[arg(long)]
    layer: bool,
    /// Write it to that file.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Show how an image, or one step, came to be, as an in-toto statement.
#[derive(Debug, Args)]
pub(super) struct Provenance {
    /// An image, or one step of it.
    #[arg(value_name = "IMAGE[/STEP]")]
    name: String,
    /// Write it to that file.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Sbom {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let none = || CliError::NoDocument { name: self.name.clone(), what: "list of packages" };
        let Found { store, results, result } = Found::by_name(place, &self.name, none)?;
        let mut document = read(&store, result.sbom.ok_or_else(none)?)?;
        if self.layer {
            // Of the state below any result will do: all say the same of it.
            let below = results.iter().filter(|other| Some(other.state) == result.parent);
            let below = below.filter_map(|other| other.sbom).min();
            if let Some(below) = below {
                let below = read(&store, below)?;
                document = packages::without(&document, &below).ok_or_else(none)?;
            }
        }
        write(&document, self.output)
    }
}

impl Provenance {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let none = || CliError::NoDocument { name: self.name.clone(), what: "provenance" };
        let Found { store, result, .. } = Found::by_name(place, &self.name, none)?;
        write(&read(&store, result.provenance.ok_or_else(none)?)?, self.output)
    }
}

/// A result in a store, with all that the store says.
pub(super) struct Found {
    pub(super) store: Store,
    pub(super) results: Results,
    pub(super) result: ActionResult,
}

impl Found {
    /// The last result of a step, or of an image's seal; `none` says that there is none.
    pub(super) fn by_name(
        place: &Place,
        name: &str,
        none: impl Fn() -> CliError,
    ) -> Result<Self, CliError> {
        let (image, step) = split(name);
        let wanted = Wanted::find(place, &[image.to_owned()])?;
        let store = Store::open_existing(&place.store_path(&wanted.workspace))?;
        let store = store.ok_or_else(&none)?;
        let mut results = store.results()?;
        let trust = wanted.trust();
        results.leave_out(|signer| trust.allows(signer));
        let node = match step {
            Some(step) => wanted.step(step)?,
            None => wanted.actions.chains[0].seal,
        };
        let node = &wanted.actions.nodes[node];
        let last = last_build(&wanted.workspace, &store, wanted.images[0]);
        let last = last.steps.get(&node.name);
        // By today's key, else by that of the last build.
        let keys = [Some(node.key), last.map(|step| step.key)];
        let twins = keys.into_iter().flatten().map(|key| results.of_action(key));
        let twins = twins.into_iter().find(|twins| !twins.is_empty()).unwrap_or_default();
        let state = last.and_then(|step| step.state);
        let used = twins.iter().find(|result| Some(result.state) == state);
        let used = used.or_else(|| twins.iter().min_by_key(|result| result.state));
        let result = used.cloned().ok_or_else(none)?;
        Ok(Self { store, results, result })
    }
}

fn read(store: &Store, id: ObjectId) -> Result<Vec<u8>, CliError> {
    Ok(store.objects().read(id, LIMIT)?)
}

fn write(document: &[u8], output: Option<PathBuf>) -> Result<(), CliError> {
    if let Some(path) = output {
        return Ok(files::replace(&Host, &path, document)?);
    }
    // Whoever closed the other end has seen enough.
    let _ = std::io::stdout().lock().write_all(&[document, b"\n"].concat());
    Ok(())
}
