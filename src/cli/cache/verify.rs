//! `kiln cache verify`.

use std::io::IsTerminal;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::count;
use crate::cli::CliError;
use crate::progress::size;
use crate::store::Store;
use crate::store::gc::now;
use crate::store::journal::Faults;
use crate::store::verify::{self, Repaired, Verified};

/// Read everything, and compare it with its names.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Drop what is damaged, so that the next build makes it again.
    #[arg(long)]
    repair: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(&self, store: &Store) -> Result<(), CliError> {
        let verified = look(store)?;
        let repaired = if self.repair && !verified.is_good() {
            verify::repair(store, &verified, now())?
        } else {
            Repaired::default()
        };
        // With a journal that is none, nothing is known of states.
        let lost = if verified.journal.is_some() || self.repair {
            verify::empty_pins(store)?
        } else {
            Vec::new()
        };
        if self.json {
            println!("{}", as_json(&verified, &repaired, &lost));
        } else {
            print!("{}", as_text(&verified, &repaired, &lost));
        }
        if verified.is_good() || self.repair {
            return Ok(());
        }
        let journal = usize::from(verified.journal != Some(Faults::default()));
        Err(CliError::DamagedStore { found: count(verified.damage.len() + journal, "thing") })
    }
}

/// Looks, with a bar on a terminal.
fn look(store: &Store) -> Result<Verified, CliError> {
    if !std::io::stderr().is_terminal() {
        return Ok(verify::verify(store, &|_| {})?);
    }
    // A journal that cannot be read is found in a moment.
    let bar = ProgressBar::new(verify::bytes(store).unwrap_or_default());
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
    bar.set_style(style.expect("a template that indicatif knows"));
    let verified = verify::verify(store, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    Ok(verified?)
}

fn as_text(verified: &Verified, repaired: &Repaired, lost: &[String]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for damage in &verified.damage {
        let (object, state) = (damage.object.short(), damage.state.short());
        let of = if damage.layer { "the layer" } else { "a result" };
        let _ = writeln!(text, "the object {object} of {of} of state {state} {}", damage.flaw);
    }
    match verified.journal {
        None => text.push_str("the journal of results is none\n"),
        Some(Faults { records: 0, end: 0 }) => {}
        Some(Faults { records, end }) => {
            let records = count(records, "damaged record");
            let _ = writeln!(text, "the journal has {records}, and {end} bytes behind its end");
        }
    }
    let (layers, bytes) = (count(verified.layers, "layer"), size(verified.bytes));
    let _ = write!(text, "{layers}, {bytes} read");
    if verified.remote > 0 {
        let _ = write!(text, ", the data of {} on a remote", count(verified.remote, "layer"));
    }
    text.push_str(if verified.is_good() { ": all good\n" } else { "\n" });
    if repaired.forgotten + repaired.removed + repaired.dropped.len() > 0 {
        let states = count(repaired.dropped.len(), "state");
        let (results, objects) =
            (count(repaired.forgotten, "result"), count(repaired.removed, "object"));
        let _ = writeln!(text, "dropped {states} and {results}, removed {objects}");
    }
    if let Some(aside) = &repaired.journal {
        let _ = writeln!(text, "moved the journal to `{}`", aside.display());
    }
    for pin in lost {
        let _ = writeln!(text, "what the pin `{pin}` keeps is not in the store");
    }
    text
}

fn as_json(verified: &Verified, repaired: &Repaired, lost: &[String]) -> serde_json::Value {
    let damage: Vec<_> = verified
        .damage
        .iter()
        .map(|damage| {
            json!({
                "state": damage.state, "object": damage.object, "layer": damage.layer,
                "why": damage.flaw.to_string(),
            })
        })
        .collect();
    let journal = verified.journal.map(|Faults { records, end }| {
        json!({ "damaged_records": records, "bytes_behind_the_end": end })
    });
    json!({
        "good": verified.is_good(), "layers": verified.layers, "remote": verified.remote,
        "bytes": verified.bytes, "damage": damage, "journal": journal,
        "dropped": repaired.dropped, "forgotten": repaired.forgotten, "removed": repaired.removed,
        "journal_moved_to": repaired.journal, "empty_pins": lost,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::digest::{Digest, ObjectId, StateId};
    use crate::store::verify::{Damage, Flaw};

    #[test]
    fn what_is_found_and_done_is_told() {
        let (state, object) = (StateId(Digest::of(b"s")), ObjectId(Digest::of(b"o")));
        let damage = |flaw, layer| Damage { state, object, flaw, layer };
        let good = Verified {
            layers: 3,
            bytes: 5 << 20,
            journal: Some(Faults::default()),
            ..Verified::default()
        };
        let bad = Verified {
            layers: 1,
            remote: 1,
            bytes: 0,
            damage: vec![damage(Flaw::Bytes, true), damage(Flaw::Missing, false)],
            journal: Some(Faults { records: 1, end: 12 }),
        };
        let repaired =
            Repaired { dropped: BTreeSet::from([state]), forgotten: 2, removed: 1, journal: None };
        let none = Verified::default();
        let moved =
            Repaired { journal: Some("/c/results.damaged-7".into()), ..Repaired::default() };
        let texts = [
            as_text(&good, &Repaired::default(), &[]),
            as_text(&bad, &repaired, &["release".to_owned()]),
            as_text(&none, &moved, &[]),
        ];
        insta::assert_snapshot!(texts.join("---\n"), @r#"
    3 layers, 5.0 MiB read: all good
    ---
    the object 94aa73e5d53d of the layer of state 3d1d92230feb has not the bytes that its name says
    the object 94aa73e5d53d of a result of state 3d1d92230feb is not there
    the journal has 1 damaged record, and 12 bytes behind its end
    1 layer, 0 B read, the data of 1 layer on a remote
    dropped 1 state and 2 results, removed 1 object
    what the pin `release` keeps is not in the store
    ---
    the journal of results is none
    0 layers, 0 B read
    moved the journal to `/c/results.damaged-7`
    "#);
    }
}
