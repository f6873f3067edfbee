//! `kiln doctor`.

use std::process::Command;

use clap::Args;

use crate::files::Context;

use super::{CliError, Place};
use crate::execute::Executor;
use crate::execute::native::Native;
use crate::host::{self, FEATURES, Installer, Purpose, TOOLS, Tool};

/// Look at what this host lacks.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Doctor {
    /// Install what is missing, with the host's own package manager.
    #[arg(long)]
    fix: bool,
    /// Look also at what `kiln boot` and `kiln test` need.
    #[arg(long)]
    boot: bool,
    /// Look also at what kiln's own tests need.
    #[arg(long)]
    tests: bool,
    /// Write patterns to a disk from several writers at once, and read them back. Needs root.
    #[arg(long)]
    self_test: bool,
}

impl Doctor {
    pub(super) fn run(self, _place: &Place) -> Result<(), CliError> {
        let mut purposes =
            vec![Purpose::Build, Purpose::Bootstrap, Purpose::Disk, Purpose::Templates];
        if self.boot || self.tests {
            purposes.push(Purpose::Boot);
        }
        if self.tests {
            purposes.push(Purpose::Test);
        }
        let installer = Installer::of_host();
        report(&purposes, installer);
        let missing = host::missing(&purposes);
        if self.fix && !missing.is_empty() {
            install(&missing)?;
            report(&purposes, installer);
        }
        let ready =
            host::missing(&purposes).is_empty() && FEATURES.iter().all(host::Feature::is_there);
        note_capability();
        if !ready {
            return Err(CliError::NotReady);
        }
        if self.self_test {
            self_test()?;
        }
        println!("this host is ready{}", root_note());
        Ok(())
    }
}

fn root_note() -> &'static str {
    if rustix::process::geteuid().is_root() { "" } else { "; building needs root" }
}

fn report(purposes: &[Purpose], installer: Option<Installer>) {
    for tool in TOOLS.iter().filter(|tool| purposes.contains(&tool.purpose)) {
        if let Some(path) = tool.find() {
            println!("  ok       {}", path.display());
        } else {
            let package = installer.map(|installer| tool.package(installer));
            let remedy = package.map_or(String::new(), |package| format!("  package `{package}`"));
            println!("  MISSING  {}{remedy}", tool.programs.join(" or "));
        }
    }
    for feature in FEATURES {
        if feature.is_there() {
            println!("  ok       {}", feature.name);
        } else {
            println!("  MISSING  {}  {}", feature.name, feature.remedy);
        }
    }
}

fn note_capability() {
    if rustix::process::geteuid().is_root() && !host::can_flush_safely() {
        println!(
            "  note     root lacks CAP_SYS_RESOURCE here: with next to no memory left, a build may \
             stand still until some is free"
        );
    }
}

/// Installs tools with the host's own package manager, and says with which commands.
pub(super) fn install(missing: &[Tool]) -> Result<(), CliError> {
    let list: Vec<_> = missing.iter().map(ToString::to_string).collect();
    eprintln!("this host lacks {}", list.join(", "));
    let installer = Installer::of_host().ok_or(CliError::NoInstaller)?;
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package(installer)).collect();
    packages.sort_unstable();
    packages.dedup();
    for words in installer.commands(&packages) {
        let command = words.join(" ");
        eprintln!("running: {command}");
        let status = Command::new(&words[0])
            .args(&words[1..])
            .env("DEBIAN_FRONTEND", "noninteractive")
            // What it prints is no result of kiln's: standard output may be a program's.
            .stdout(std::io::stderr())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(CliError::Install { command });
        }
    }
    Ok(())
}

fn self_test() -> Result<(), CliError> {
    let native = Native::default();
    native.check()?;
    let directory = std::env::temp_dir().join(format!("kiln-self-test-{}", std::process::id()));
    // Made here and now, so that nobody else has put anything into it.
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(&directory)
        .context("make directory", &directory)?;
    let result = native.self_test(&directory);
    let _ = std::fs::remove_dir_all(&directory);
    println!("  ok       self-test: {}", result?);
    Ok(())
}
