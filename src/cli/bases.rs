//! `kiln bases`.

use clap::Args;
use serde::Serialize;

use super::{CliError, Place, build};
use crate::fetch::{Client, Patience, ProxyUse};
use crate::progress::size;
use crate::resolve::{ResolveError, Resolver, sources};

/// List what a recipe can name as a base.
#[derive(Debug, Args)]
pub(super) struct Bases {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show also where each comes from, and templates that are hidden.
    #[arg(short, long)]
    long: bool,
}

/// One base that can be named.
#[derive(Debug, Serialize)]
struct Row {
    /// `image`, `catalog` or `template`.
    kind: &'static str,
    name: String,
    arch: Option<String>,
    /// Bytes of the virtual disk.
    size: Option<u64>,
    title: Option<String>,
    /// Where it comes from.
    source: Option<String>,
    revision: Option<u64>,
    aliases: Vec<String>,
}

/// A source that could not be listed.
#[derive(Debug, Serialize)]
struct LeftOut {
    source: String,
    why: String,
}

impl Bases {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let workspace = place.workspace()?;
        let interrupted = build::on_interrupt();
        let client = Client::new(&ProxyUse::System, Patience::default(), &interrupted);
        let client = client.map_err(ResolveError::from)?;
        let root = &workspace.root;
        let mut resolver = Resolver::new(root, sources::directories(root), client);
        let mut rows: Vec<Row> = workspace
            .graph
            .images
            .iter()
            .map(|node| Row::named("image", &node.image.name.value))
            .collect();
        rows.extend(resolver.catalog()?.iter().map(|entry| Row {
            arch: Some(entry.arch.clone()),
            title: entry.title.clone(),
            source: Some(entry.url.clone()),
            ..Row::named("catalog", &entry.name)
        }));
        let mut left_out = Vec::new();
        if !place.offline {
            self.templates(&mut resolver, &mut rows, &mut left_out)?;
        }
        rows.sort_by(|a, b| (a.kind, &a.name, &a.arch).cmp(&(b.kind, &b.name, &b.arch)));
        for LeftOut { source, why } in &left_out {
            eprintln!("warning: the source `{source}` is left out: {why}");
        }
        if self.json {
            println!("{}", serde_json::json!({ "bases": rows, "left_out": left_out }));
        } else {
            print!("{}", table(&rows, self.long));
        }
        Ok(())
    }

    fn templates(
        &self,
        resolver: &mut Resolver<'_>,
        rows: &mut Vec<Row>,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<(), CliError> {
        for listed in resolver.templates()? {
            let source = &listed.source;
            match &listed.templates {
                Err(error) => {
                    left_out.push(LeftOut { source: source.name.clone(), why: error.to_string() });
                }
                Ok(templates) => {
                    let shown = templates.iter().filter(|template| self.long || !template.hidden);
                    rows.extend(shown.map(|template| Row {
                        arch: Some(template.arch.clone()),
                        size: Some(template.size),
                        title: template.title.clone(),
                        source: Some(source.uri.clone()),
                        revision: Some(template.revision),
                        aliases: template.aliases.clone(),
                        ..Row::named("template", &template.name)
                    }));
                }
            }
        }
        Ok(())
    }
}

impl Row {
    fn named(kind: &'static str, name: &dyn ToString) -> Self {
        Self {
            kind,
            name: name.to_string(),
            arch: None,
            size: None,
            title: None,
            source: None,
            revision: None,
            aliases: Vec::new(),
        }
    }
}

/// A line for each base, with columns as wide as they must be.
fn table(rows: &[Row], long: bool) -> String {
    use std::fmt::Write;
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let text = |text: &Option<String>| printable(text.as_deref().unwrap_or_default());
            let bytes = row.size.map(size).unwrap_or_default();
            [row.kind.to_owned(), printable(&row.name), text(&row.arch), bytes, text(&row.title)]
        })
        .collect();
    let widths: Vec<usize> = (0..5)
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut table = String::new();
    for (row, cells) in rows.iter().zip(&cells) {
        let line: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(line.join("  ").trim_end());
        table.push('\n');
        if long {
            if !row.aliases.is_empty() {
                let _ = writeln!(table, "          also {}", printable(&row.aliases.join(", ")));
            }
            if let Some(source) = &row.source {
                let _ = writeln!(table, "          {}", printable(source));
            }
        }
    }
    table
}

/// A text of an index, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            Row::named("image", &"web"),
            Row {
                arch: Some("x86_64".to_owned()),
                size: Some(6 << 30),
                title: Some("OS\u{1b}[31m 1".to_owned()),
                source: Some("https://a.example/index".to_owned()),
                aliases: vec!["os-latest".to_owned()],
                ..Row::named("template", &"os-1")
            },
        ];
        assert_eq!(
            table(&rows, false),
            "image     web\ntemplate  os-1  x86_64  6.00 GiB  OS\u{fffd}[31m 1\n"
        );
        assert!(
            table(&rows, true).ends_with("also os-latest\n          https://a.example/index\n")
        );
    }
}
