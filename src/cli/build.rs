//! `kiln build`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};

use super::remotes::Purpose::Share;
use super::{CliError, Place, Wanted, cache, doctor, lock, show};
use crate::engine::{Engine, LEASE, Options, outputs};
use crate::execute::native::Native;
use crate::host::{self, Purpose};
use crate::key::Operation;
use crate::plan::Actions;
use crate::progress::{Fancy, Json, Plain, Progress};
use crate::recipe::{Layout, ScrubItem};
use crate::remote::team::Team;
use crate::secret::Vault;

/// Build images.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Build {
    /// The images; all of the workspace if none is named.
    pub(super) images: Vec<String>,
    /// Work on so many disks at a time.
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Install first what this host lacks for it, with the host's own package manager.
    #[arg(long)]
    fix: bool,
    /// Run the steps that use the network again, and all that follow them.
    #[arg(long)]
    refresh: bool,
    /// Fail where the name of a base is not in the lock file yet, and leave that file alone.
    #[arg(long, conflicts_with = "refresh")]
    locked: bool,
    /// Read each layer back and compare it with the disk at rest; slow.
    #[arg(long)]
    verify_layers: bool,
    /// How to show what goes on.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    progress: How,
    /// Show what steps print, also where it is not live.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// Live on a terminal, else plain lines.
    Auto,
    /// A live view.
    Fancy,
    /// One line an event.
    Plain,
    /// One JSON object an event, on standard output.
    Json,
}

impl Build {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        self.then(place, false, |_| Ok(()))
    }

    /// Builds, and does something with what was built; `shares` says whether that needs the remotes
    /// where there is nothing to build.
    pub(super) fn then(
        self,
        place: &Place,
        shares: bool,
        behind: impl FnOnce(&Built<'_>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut wanted = Wanted::read(place, &self.images)?;
        let interrupted = on_interrupt();
        if self.fix && !wanted.unlocked().is_empty() {
            install(&[Purpose::Templates])?;
        }
        let mut left = Ok(());
        if !self.locked {
            let found = lock::look_up(place, &mut wanted, &lock::Again::Nothing, &interrupted);
            left = found.map(|_| ());
            // One base that cannot be looked up does not keep all others from being built.
            if left.is_err() {
                if !self.images.is_empty() {
                    return left;
                }
                wanted.leave_unlocked();
            }
        }
        wanted.find_actions()?;
        let lints = wanted.workspace.lints();
        if !lints.is_empty() {
            show(&lints);
        }
        if self.fix {
            fix(&wanted)?;
        }
        let store = place.store(&wanted.workspace)?;
        if self.refresh {
            refresh(&mut wanted)?;
        }
        let native = Native::default();
        let vault = Vault::new(&wanted.workspace.root, &wanted.workspace.settings.secrets);
        let jobs = self.jobs.or(wanted.workspace.settings.jobs).unwrap_or(2);
        // Whoever has nothing to build is asked for no password.
        let trust = wanted.trust();
        let current = outputs(&wanted.workspace, &wanted.actions)
            .iter()
            .all(|output| output.is_current(&store, &trust));
        let idle = current && !self.verify_layers && !shares;
        let team = if idle { Team::default() } else { place.team(&wanted.workspace, Share)? };
        let engine = Engine {
            workspace: &wanted.workspace,
            store: &store,
            executor: &native,
            vault: &vault,
            team: &team,
            options: Options { jobs, verify_layers: self.verify_layers, lease: LEASE },
            interrupted: &interrupted,
        };
        let mut progress = self.progress();
        let summary = engine.build(&wanted.actions, &mut *progress)?;
        drop(progress);
        behind(&Built { engine: &engine, actions: &wanted.actions, options: &self })?;
        cache::after_build(&store, &wanted.workspace.settings.retention, &summary);
        left
    }

    /// Whether what the host lacks is installed first.
    pub(super) fn fixes(&self) -> bool {
        self.fix
    }

    pub(super) fn progress(&self) -> Box<dyn Progress> {
        let live = std::io::stderr().is_terminal() && !self.verbose;
        match self.progress {
            How::Json => Box::new(Json::new(std::io::stdout())),
            How::Fancy => Box::new(Fancy::default()),
            How::Auto if live => Box::new(Fancy::default()),
            How::Auto | How::Plain => Box::new(Plain::new(std::io::stderr(), self.verbose)),
        }
    }
}

/// What a build leads to.
pub(super) struct Built<'a> {
    pub(super) engine: &'a Engine<'a>,
    pub(super) actions: &'a Actions,
    pub(super) options: &'a Build,
}

/// Installs what the build needs; what only some bases, sizes and items need, only if there are such.
fn fix(wanted: &Wanted) -> Result<(), CliError> {
    let mut purposes = vec![Purpose::Build];
    for node in &wanted.actions.nodes {
        match &node.action.operation {
            Operation::Bootstrap(base) => {
                purposes.push(Purpose::Bootstrap);
                if base.layout != Layout::default() {
                    purposes.push(Purpose::Disk);
                }
            }
            Operation::Scratch(_) | Operation::Grow(_) => purposes.push(Purpose::Disk),
            Operation::Seal(seal) if seal.scrub.items.contains(&ScrubItem::FsUuids) => {
                purposes.push(Purpose::Disk);
            }
            _ => {}
        }
    }
    install(&purposes)
}

pub(super) fn install(purposes: &[Purpose]) -> Result<(), CliError> {
    let missing = host::missing(purposes);
    if missing.is_empty() { Ok(()) } else { doctor::install(&missing) }
}

/// Raises the generation of every impure step in question, in the lock file too.
fn refresh(wanted: &mut Wanted) -> Result<(), CliError> {
    for node in &wanted.actions.nodes {
        if node.action.generation.is_some() {
            // An action that several images share gets the new number under each of their names.
            for name in &node.names {
                wanted.lock.raise(name);
            }
        }
    }
    wanted.lock.write(&wanted.workspace.root)?;
    wanted.find_actions()
}

/// A flag that the first Ctrl-C raises; the second one ends kiln at once, and the next build puts
/// the host in order.
pub(super) fn on_interrupt() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Where a handler cannot be set, the signal ends kiln, which is what the second one does.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag));
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
}
