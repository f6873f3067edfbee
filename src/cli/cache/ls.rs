//! `kiln cache ls`.

use std::cmp::Reverse;

use clap::Args;
use serde::Serialize;

use super::{Names, ago, columns, printable};
use crate::cli::CliError;
use crate::digest::{ActionKey, StateId};
use crate::progress::size;
use crate::recipe::Retention;
use crate::store::Store;
use crate::store::gc::now;
use crate::store::refs::Pin;
use crate::store::roots::Why;
use crate::store::survey::Survey;

/// List the results.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One result.
#[derive(Debug, Serialize)]
struct Row {
    /// What it is called where it is known: `IMAGE/STEP`.
    names: Vec<String>,
    key: ActionKey,
    state: StateId,
    parent: Option<StateId>,
    /// Bytes of its layer that are in the store.
    bytes: u64,
    /// When it was recorded and last used, in seconds since 1970.
    recorded: u64,
    used: u64,
    impure: bool,
    /// Whether some of its data is on a remote only.
    remote: bool,
    signer: Option<String>,
    /// Why it is kept.
    kept: Vec<String>,
}

#[derive(Serialize)]
struct PinRow<'a> {
    name: &'a str,
    #[serde(flatten)]
    pin: &'a Pin,
}

impl Ls {
    pub(super) fn run(&self, store: &Store, retention: &Retention) -> Result<(), CliError> {
        let survey = Survey::read(store, retention.keep_builds)?;
        let rows = rows(store, &survey, &Names::read(store)?);
        let pins = store.refs().pins().map_err(crate::store::StoreError::from)?;
        let pins: Vec<PinRow<'_>> =
            pins.iter().map(|(name, pin)| PinRow { name: name.as_str(), pin }).collect();
        if self.json {
            println!("{}", serde_json::json!({ "results": rows, "pins": pins }));
        } else {
            print!("{}", table(&rows, &pins, now()));
        }
        Ok(())
    }
}

fn rows(store: &Store, survey: &Survey, names: &Names) -> Vec<Row> {
    let objects = store.objects();
    let mut rows: Vec<Row> = survey
        .results
        .iter()
        .filter_map(|result| {
            let placement = survey.results.placement(result.state)?;
            let kept = survey.kept.get(&result.state).into_iter().flatten().map(reason);
            Some(Row {
                names: names.of(result.key).into_iter().map(str::to_owned).collect(),
                key: result.key,
                state: result.state,
                parent: result.parent,
                bytes: survey.layer_bytes(placement),
                recorded: result.at,
                used: survey.used.get(&result.state).copied().unwrap_or_default(),
                impure: result.impure,
                remote: placement.data.is_some_and(|data| !objects.has(data)),
                signer: result.signer.clone(),
                kept: kept.collect(),
            })
        })
        .collect();
    rows.sort_by(|a, b| {
        let order = |row: &Row| (Reverse(row.used), row.names.first().cloned(), row.state);
        order(a).cmp(&order(b))
    });
    rows
}

fn reason(why: &Why) -> String {
    match why {
        Why::Running => "in use".to_owned(),
        Why::Pinned(name) => format!("pin {name}"),
        Why::Output(path) => format!("output {}", path.display()),
        Why::Build(image) => format!("last build of {image}"),
    }
}

fn table(rows: &[Row], pins: &[PinRow<'_>], now: u64) -> String {
    let head = ["step", "key", "state", "size", "made", "used", "kept for"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let mut notes = row.kept.clone();
        notes.extend(row.impure.then(|| "impure".to_owned()));
        notes.extend(row.remote.then(|| "data on a remote".to_owned()));
        notes.extend(row.signer.as_ref().map(|signer| format!("signed by {signer}")));
        let name = match row.names.as_slice() {
            [] => "-".to_owned(),
            [name] => name.clone(),
            [name, others @ ..] => format!("{name} (+{})", others.len()),
        };
        lines.push(vec![
            printable(&name),
            row.key.short(),
            row.state.short(),
            size(row.bytes),
            ago(now, row.recorded),
            ago(now, row.used),
            printable(&notes.join(", ")),
        ]);
    }
    let mut text = columns(&lines, &[3]);
    if !pins.is_empty() {
        text.push('\n');
        let pins = pins.iter().map(|PinRow { name, pin }| {
            vec![format!("pin {name}"), pin.state.short(), printable(&pin.what), ago(now, pin.at)]
        });
        text.push_str(&columns(&pins.collect::<Vec<_>>(), &[]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_table_says_what_is_known_of_each_result() {
        let row = |names: &[&str], kept: &[&str]| Row {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            key: ActionKey(Digest::of(b"key")),
            state: StateId(Digest::of(b"state")),
            parent: None,
            bytes: 7 << 20,
            recorded: 1_000_000,
            used: 1_080_000,
            impure: !kept.is_empty(),
            remote: kept.is_empty(),
            signer: kept.is_empty().then(|| "0A1B".to_owned()),
            kept: kept.iter().map(|&kept| kept.to_owned()).collect(),
        };
        let state = StateId(Digest::of(b"state"));
        let pin = Pin { state, what: "web/seal".to_owned(), at: 1_090_000 };
        let pins = [PinRow { name: "release-1", pin: &pin }];
        let rows = [row(&["web/seal", "x/seal"], &["pin release-1", "in use"]), row(&[], &[])];
        insta::assert_snapshot!(table(&rows, &pins, 1_090_010), @r#"
    step           key           state            size  made  used  kept for
    web/seal (+1)  ff8e2bab3b26  456cf7f1bcf2  7.0 MiB  25 h  2 h   pin release-1, in use, impure
    -              ff8e2bab3b26  456cf7f1bcf2  7.0 MiB  25 h  2 h   data on a remote, signed by 0A1B

    pin release-1  456cf7f1bcf2  web/seal  now
    "#);
    }
}
