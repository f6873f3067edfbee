//! `kiln cache du`.

use clap::Args;

use super::{columns, count};
use crate::cli::CliError;
use crate::progress::size;
use crate::recipe::Retention;
use crate::store::Store;
use crate::store::survey::{ImageUsage, Survey, Usage};

/// Show what takes how much room.
#[derive(Debug, Args)]
pub(super) struct Du {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Du {
    pub(super) fn run(&self, store: &Store, retention: &Retention) -> Result<(), CliError> {
        let survey = Survey::read(store, retention.keep_builds)?;
        let (usage, images) = (survey.usage(store), survey.images(store)?);
        if self.json {
            println!("{}", serde_json::json!({ "store": usage, "images": images }));
        } else {
            print!("{}", table(&usage, &images));
        }
        Ok(())
    }
}

fn table(usage: &Usage, images: &[ImageUsage]) -> String {
    let line = |what: &str, number: String, bytes| vec![what.to_owned(), size(bytes), number];
    let Usage { bases, layers, records, unreferenced, partial, work, downloads, logs } = usage;
    let mut rows = vec![
        line("bases", count(bases.count, "layer"), bases.bytes),
        line("layers", count(layers.count, "layer"), layers.bytes),
        line("records", count(records.count, "object"), records.bytes),
        line("unreferenced", count(unreferenced.count, "object"), unreferenced.bytes),
        line("partial", count(partial.count, "layer"), partial.bytes),
        line("running builds", String::new(), *work),
        line("downloads", String::new(), *downloads),
        line("logs", String::new(), *logs),
    ];
    let objects = [bases, layers, records, unreferenced, partial];
    let total: u64 = objects.iter().map(|amount| amount.bytes).sum();
    rows.push(line("total", String::new(), total + work + downloads + logs));
    let mut text = columns(&rows, &[1]);
    if !images.is_empty() {
        text.push('\n');
        let rows = images.iter().map(|ImageUsage { image, bytes, alone }| {
            vec![
                image.to_string(),
                size(*bytes),
                format!("{} of it in no other image", size(*alone)),
            ]
        });
        text.push_str(&columns(&rows.collect::<Vec<_>>(), &[1]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::survey::Amount;

    #[test]
    fn a_table_adds_up() {
        let amount = |count, bytes| Amount { count, bytes };
        let usage = Usage {
            bases: amount(1, 3 << 30),
            layers: amount(4, 1 << 30),
            records: amount(9, 2 << 20),
            unreferenced: amount(0, 0),
            partial: amount(1, 5 << 20),
            work: 4096,
            downloads: 0,
            logs: 9000,
        };
        let image =
            |image: &str, bytes, alone| ImageUsage { image: image.parse().unwrap(), bytes, alone };
        let images = [image("web", 3 << 30, 1 << 29), image("db", 2 << 30, 0)];
        insta::assert_snapshot!(table(&usage, &images), @r#"
    bases           3.00 GiB  1 layer
    layers          1.00 GiB  4 layers
    records          2.0 MiB  9 objects
    unreferenced         0 B  0 objects
    partial          5.0 MiB  1 layer
    running builds     4 KiB
    downloads            0 B
    logs               9 KiB
    total           4.01 GiB

    web  3.00 GiB  512.0 MiB of it in no other image
    db   2.00 GiB  0 B of it in no other image
    "#);
    }
}
