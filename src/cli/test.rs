//! `kiln test`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;

use super::build::{Build, install};
use super::{CliError, Place};
use crate::audit::Style;
use crate::engine::Tested;
use crate::files::{self, Host};
use crate::host::Purpose;

/// Build images, boot them, and hold what they show against what a cloud expects.
#[derive(Debug, Args)]
pub(super) struct Test {
    #[command(flatten)]
    build: Build,
    /// Boot also what has passed before.
    #[arg(long)]
    again: bool,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
    /// Write what was found to that file, as XML that CI servers read.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl Test {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let Self { build, again, json, junit } = self;
        if build.fixes() {
            install(&[Purpose::Boot])?;
        }
        build.then(place, true, |built| {
            let mut progress = built.options.progress();
            let tested = built.engine.test(built.actions, again, &mut *progress)?;
            drop(progress);
            tell(&tested, json);
            if let Some(path) = &junit {
                files::replace(&Host, path, junit_of(&tested).as_bytes())?;
            }
            let failed = tested.iter().filter(|test| test.report.failures().next().is_some());
            let logs: Vec<_> = failed.map(|test| format!("`{}`", test.log.display())).collect();
            match logs.len() {
                0 => Ok(()),
                count => Err(CliError::TestFailed { count, of: tested.len(), logs }),
            }
        })
    }
}

/// One file with a suite for each image.
fn junit_of(tested: &[Tested]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for test in tested {
        let suite = test.report.junit(&test.image, "boot");
        // Each begins with the same declaration, on a line of its own.
        text.push_str(suite.split_once('\n').map_or(suite.as_str(), |(_, suite)| suite));
    }
    text.push_str("</testsuites>\n");
    text
}

fn tell(tested: &[Tested], json: bool) {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = std::io::stdout().lock();
    for Tested { image, report, cached, log: _ } in tested {
        let text = if json {
            let answer = serde_json::json!({
                "image": image, "system": report.system, "cached": cached,
                "findings": report.findings,
            });
            format!("{answer}\n")
        } else {
            let against = if *cached { "boot test (cached)" } else { "boot test" };
            report.text(image, against, Style { colours })
        };
        // Whoever closed the other end has seen enough.
        let _ = out.write_all(text.as_bytes());
    }
}
