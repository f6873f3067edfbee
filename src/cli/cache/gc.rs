//! `kiln cache gc`, and the collection after a build.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Names, ago, columns, count, printable};
use crate::cli::CliError;
use crate::digest::StateId;
use crate::engine::Summary;
use crate::execute::recover::recover;
use crate::progress::size;
use crate::recipe::Retention;
use crate::store::gc::{self, Collected};
use crate::store::results::Results;
use crate::store::{Store, StoreError};

/// How often a build that did nothing collects all the same: what is old grows older by itself.
const PERIOD: Duration = Duration::from_hours(1);

/// Remove what the rules do not keep.
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// Show what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(super) fn run(&self, store: &Store, retention: &Retention) -> Result<(), CliError> {
        let (names, results) = (Names::read(store)?, store.results()?);
        let now = gc::now();
        let collected = if self.dry_run {
            gc::preview(store, retention, now)?
        } else {
            // The leases of killed builds keep things, too.
            recover(store, &mut |text| eprintln!("warning: {text}"))?;
            gc::collect(store, retention, now)?
        };
        let name = |state| name_of(&names, &results, state);
        if self.json {
            println!("{}", as_json(&collected, self.dry_run, name));
        } else {
            print!("{}", as_text(&collected, self.dry_run, now, name));
        }
        Ok(())
    }
}

/// Collects after a build where `kiln.kdl` has rules. It never fails the build.
pub(in crate::cli) fn after_build(store: &Store, retention: &Retention, built: &Summary) {
    let idle = built.ran.is_empty() && built.written == 0;
    if !retention.has_rules() || idle && !gc::is_due(store, PERIOD) {
        return;
    }
    match gc::collect(store, retention, gc::now()) {
        Ok(Collected { dropped, objects: 0, .. }) if dropped.is_empty() => {}
        Ok(Collected { dropped, bytes, .. }) => {
            let states = count(dropped.len(), "state");
            eprintln!("collected {states}, {}, by the rules of `cache`", size(bytes));
        }
        Err(error) => eprintln!("warning: nothing was collected: {}", with_causes(&error)),
    }
}

fn with_causes(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What a state is called: the steps that led to it.
fn name_of(names: &Names, results: &Results, state: StateId) -> String {
    let leading = results.iter().filter(|result| result.state == state);
    let mut steps = leading.flat_map(|result| names.of(result.key));
    steps.next().unwrap_or("-").to_owned()
}

fn as_text(
    collected: &Collected,
    dry_run: bool,
    now: u64,
    name: impl Fn(StateId) -> String,
) -> String {
    use std::fmt::Write;
    let rows: Vec<_> = collected
        .dropped
        .iter()
        .map(|dropped| {
            vec![
                printable(&name(dropped.state)),
                dropped.state.short(),
                size(dropped.bytes),
                ago(now, dropped.used),
                dropped.rule.to_string(),
            ]
        })
        .collect();
    let mut text = columns(&rows, &[2]);
    let verb = if dry_run { "would remove" } else { "removed" };
    let (states, objects) =
        (count(collected.dropped.len(), "state"), count(collected.objects, "object"));
    let (bytes, stays) = (size(collected.bytes), size(collected.stays));
    let _ = writeln!(text, "{verb} {states} and {objects}, {bytes}; {stays} stay");
    let swept = collected.swept;
    let parts = [
        (swept.logs, "log"),
        (swept.downloads, "download"),
        (swept.partial, "partial layer"),
        (swept.outputs, "lost output"),
    ];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| count(*number, what))
        .collect();
    if !parts.is_empty() {
        let _ = writeln!(text, "swept {}, {}", parts.join(", "), size(swept.bytes));
    }
    for rule in &collected.unmet {
        let _ = writeln!(
            text,
            "still, {rule}: the rest is kept by pins, outputs, last builds and running builds"
        );
    }
    text
}

fn as_json(
    collected: &Collected,
    dry_run: bool,
    name: impl Fn(StateId) -> String,
) -> serde_json::Value {
    let dropped: Vec<_> = collected
        .dropped
        .iter()
        .map(|dropped| {
            json!({
                "name": name(dropped.state), "state": dropped.state, "rule": dropped.rule.word(),
                "bytes": dropped.bytes, "used": dropped.used,
            })
        })
        .collect();
    let unmet: Vec<_> = collected.unmet.iter().map(|rule| rule.word()).collect();
    json!({
        "dry_run": dry_run, "dropped": dropped, "objects": collected.objects,
        "bytes": collected.bytes, "swept": collected.swept, "stays": collected.stays,
        "unmet": unmet,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::retention::{Dropped, Rule};

    #[test]
    fn what_goes_is_told_with_its_rule() {
        let state = StateId(Digest::of(b"state"));
        let dropped = |rule, used| Dropped { state, rule, used, bytes: 3 << 20 };
        let mut collected = Collected {
            dropped: vec![dropped(Rule::Age, 1000), dropped(Rule::Size, 800_000)],
            objects: 7,
            bytes: 6 << 20,
            stays: 1 << 30,
            unmet: vec![Rule::Size],
            ..Collected::default()
        };
        let text = |collected: &Collected, dry_run| {
            as_text(collected, dry_run, 1_000_000, |_| "web/seal".to_owned())
        };
        let first = text(&collected, true);
        collected.dropped.clear();
        collected.unmet.clear();
        (collected.swept.logs, collected.swept.outputs, collected.swept.bytes) = (1, 2, 9000);
        let second = text(&collected, false);
        insta::assert_snapshot!(format!("{first}---\n{second}"), @r#"
    web/seal  456cf7f1bcf2  3.0 MiB  11 days  not used for longer than `age`
    web/seal  456cf7f1bcf2  3.0 MiB  2 days   the store is larger than `size`
    would remove 2 states and 7 objects, 6.0 MiB; 1.00 GiB stay
    still, the store is larger than `size`: the rest is kept by pins, outputs, last builds and running builds
    ---
    removed 0 states and 7 objects, 6.0 MiB; 1.00 GiB stay
    swept 1 log, 2 lost outputs, 9 KiB
    "#);
    }
}
