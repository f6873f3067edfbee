//! The command line: what each word does, and how errors and exit codes come out.

mod advise;
mod bases;
mod boot;
mod build;
mod bundle;
mod cache;
mod check;
mod check_image;
mod doctor;
mod document;
mod import;
mod key;
mod lock;
mod log;
mod plan;
mod publish;
mod remotes;
mod test;
mod user_data;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{CommandFactory, Parser, Subcommand};
use miette::Diagnostic;

use crate::advise::ConfigError;
use crate::digest::ActionKey;
use crate::engine::bundle::{ExportError, ImportError};
use crate::engine::{BuildError, outputs};
use crate::execute::{Fault, FaultKind};
use crate::fetch::FetchError;
use crate::files::FileError;
use crate::graph::UnknownImage;
use crate::lock::{Lock, LockError};
use crate::mistake::{Mistake, Mistakes, nearest};
use crate::plan::history::UnknownBuild;
use crate::plan::{Actions, History, NOT_LOCKED, Plan};
use crate::publish::{ConnectError, ImagesError, PublishError};
use crate::recipe::{Base, Fetch, Origin};
use crate::remote::signing::SigningError;
use crate::remote::team::Team;
use crate::remote::trust::Trust;
use crate::resolve::ResolveError;
use crate::seed::SeedError;
use crate::store::refs::PinError;
use crate::store::results::Results;
use crate::store::{Store, StoreError};
use crate::workspace::{self, Workspace, WorkspaceError};

/// Builds virtual-machine disk images from recipes, and never builds a step twice.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, max_term_width = 100)]
struct Arguments {
    /// Start looking for the workspace in this directory.
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Keep the store there.
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Ask no remote.
    #[arg(long, global = true)]
    offline: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build images, all of the workspace if none is named.
    Build(build::Build),
    /// Show what a build would run and what is cached, and why.
    Plan(plan::PlanCommand),
    /// Show what is the cause that steps run.
    Why(why::WhyCommand),
    /// Check the recipes.
    Check(check::Check),
    /// Hold a disk image against a profile, without changing it.
    CheckImage(check_image::CheckImage),
    /// Boot images, and hold what they show against what a cloud expects.
    Test(test::Test),
    /// Boot an image, and connect this terminal with its console.
    Boot(boot::Boot),
    /// Look up what the names of bases mean, and note it in the lock file.
    Lock(lock::LockCommand),
    /// List what a recipe can name as a base.
    Bases(bases::Bases),
    /// Show what a step printed when it last ran.
    Log(log::Log),
    /// Look at the store, and decide what stays there.
    Cache(cache::Cache),
    /// Show the packages of an image, or of one step, as a CycloneDX document.
    Sbom(document::Sbom),
    /// Show how an image, or one step, came to be, as an in-toto statement.
    Provenance(document::Provenance),
    /// Make the key that signs shared results, and say whose count.
    Key(key::Key),
    /// Give images to the remotes.
    Push(bundle::Push),
    /// Write images as they were last built into one file, for a site without a network.
    Bundle(bundle::BundleCommand),
    /// Write user data as an instance gets it.
    UserData(user_data::UserDataCommand),
    /// Write a Heat template, or the command that does the same without Heat.
    Heat(user_data::HeatCommand),
    /// Write a `NoCloud` seed: a small disk that gives user data to a local machine.
    Seed(user_data::SeedCommand),
    /// Say what the options of nova mean for the images.
    Advise(advise::Advise),
    /// Put images into an image service, building them first where that is needed.
    Publish(publish::Publish),
    /// Make a recipe of what another tool reads.
    Import(import::Import),
    /// Look at what this host lacks.
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Every way in which a command can fail.
#[derive(Debug, thiserror::Error, Diagnostic)]
enum CliError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(#[from] Mistakes),
    #[error(transparent)]
    #[diagnostic(transparent)]
    UnknownImage(#[from] UnknownImage),
    #[error("image `{image}` has no step `{step}`")]
    #[diagnostic(code(kiln::cli::no_such_step), help("{help}"))]
    UnknownStep { image: String, step: String, help: String },
    #[error("there is no {what} of `{name}`")]
    #[diagnostic(
        code(kiln::cli::no_document),
        help("build it first; steps that came with a later one have none of their own")
    )]
    NoDocument { name: String, what: &'static str },
    #[error(transparent)]
    #[diagnostic(transparent)]
    UnknownBuild(#[from] UnknownBuild),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] key::KeyError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Signing(#[from] SigningError),
    #[error("there is no key to sign the bundle with")]
    #[diagnostic(
        code(kiln::bundle::no_key),
        help("`kiln key generate` makes one; the other site lets it count with `kiln key trust`")
    )]
    NoSigningKey,
    #[error(transparent)]
    #[diagnostic(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    ImportBundle(#[from] ImportError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Publish(#[from] PublishError),
    #[error("{what} has no `publish`")]
    #[diagnostic(
        code(kiln::cli::no_publish),
        help("write `publish \"glance\"` in the block of the image")
    )]
    NoPublish { what: String },
    #[error("`{one}` and `{other}` would both be published as `{name}` in {cloud}")]
    #[diagnostic(
        code(kiln::cli::published_twice),
        help(
            "a name leads to one image: give one `publish` another `name`, or name the image that \
             is meant; with `--cloud` each `publish` goes to that cloud"
        )
    )]
    PublishedTwice { one: String, other: String, name: String, cloud: String },
    #[error("`{}` is not what was built any more", path.display())]
    #[diagnostic(
        code(kiln::cli::output_changed),
        help("something else wrote it meanwhile: run `kiln publish` again")
    )]
    OutputChanged { path: PathBuf },
    #[error("`{name}` has not run yet")]
    #[diagnostic(code(kiln::cli::no_log), help("steps that only change files print nothing"))]
    NoLog { name: String },
    #[error("there is no store at `{}`", path.display())]
    #[diagnostic(
        code(kiln::cli::no_store),
        help("`kiln build` makes it; `--store` names another one")
    )]
    NoStore { path: PathBuf },
    #[error("`{what}` names nothing in the store")]
    #[diagnostic(code(kiln::cli::nothing_named), help("{help}"))]
    NothingNamed { what: String, help: String },
    #[error("several states start with `{digits}`")]
    #[diagnostic(code(kiln::cli::ambiguous_state), help("write more of its digits"))]
    AmbiguousState { digits: String },
    #[error("{found} in the store cannot be used")]
    #[diagnostic(
        code(kiln::cli::damaged_store),
        help("`kiln cache verify --repair` drops it, and the next build makes it again")
    )]
    DamagedStore { found: String },
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
    #[error("`{}` is of no kind that kiln can import", path.display())]
    #[diagnostic(
        code(kiln::import::unknown_kind),
        help("say what it is: `--from virt`, `commands`, `dib`, `packer` or `dockerfile`")
    )]
    UnknownInput { path: PathBuf },
    #[error("`{}` is not UTF-8", path.display())]
    #[diagnostic(code(kiln::import::utf8), help("name a text file"))]
    NotText { path: PathBuf },
    #[error("could not {doing} `{}`", path.display())]
    #[diagnostic(
        code(kiln::import::io),
        help(
            "check that you may {doing} it; a file that is there is overwritten with `--force` only"
        )
    )]
    Import { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{name}` is no name of an image")]
    #[diagnostic(code(kiln::import::bad_name), help("choose a name such as `debian-web`"))]
    BadImageName { name: String, source: crate::name::NameError },
    #[error("something could not be imported")]
    #[diagnostic(
        code(kiln::import::partial),
        help(
            "the recipe was written, with what is missing as comments: the report above says where"
        )
    )]
    NotImported,
    #[error(transparent)]
    #[diagnostic(transparent)]
    Resolve(#[from] ResolveError),
    #[error("no image named here has a base `{name}` that is looked up")]
    #[diagnostic(
        code(kiln::cli::no_such_base),
        help(
            "name it as the recipe does, or as the lock file does: `debian-12`, `catalog debian-12`"
        )
    )]
    UnknownBase { name: String },
    #[error("{count} requirements of the profile `{profile}` are not met")]
    #[diagnostic(
        code(kiln::cli::unfit),
        help("`--fix RECIPE` writes a recipe that repairs what steps can repair")
    )]
    Unfit { count: usize, profile: String },
    #[error("{count} of {of} images did not pass the boot test")]
    #[diagnostic(
        code(kiln::cli::test_failed),
        help("what the consoles showed is in {}", logs.join(", "))
    )]
    TestFailed { count: usize, of: usize, logs: Vec<String> },
    #[error("`{}` could not be looked at: {why}", image.display())]
    #[diagnostic(
        code(kiln::cli::unreadable),
        help(
            "kiln looks at disks with one Linux root on a file system of its own: not at LVM, encrypted or data disks"
        )
    )]
    Unreadable { image: PathBuf, why: String },
    #[error("there is no profile `{name}`")]
    #[diagnostic(code(kiln::cli::unknown_profile))]
    UnknownProfile {
        name: String,
        #[help]
        help: String,
    },
    #[error("`{name}` is neither a file nor an image that was built here")]
    #[diagnostic(
        code(kiln::cli::not_built),
        help("name a disk image, or build the image first: `kiln build {name}`")
    )]
    NotBuilt { name: String },
    #[error("`{}` is not where the recipe can name it", image.display())]
    #[diagnostic(
        code(kiln::cli::fix_elsewhere),
        help(
            "a recipe may only read files of its workspace: copy the image there, and check that"
        )
    )]
    FixElsewhere { image: PathBuf },
    #[error("there is no {what} `{name}` in this workspace")]
    #[diagnostic(code(kiln::cli::no_such_document))]
    UnknownDocument {
        what: &'static str,
        name: String,
        #[help]
        help: String,
    },
    #[error("`{}` holds no public keys", path.display())]
    #[diagnostic(
        code(kiln::cli::no_public_key),
        help("name a file such as `~/.ssh/id_ed25519.pub`: one key a line, and no private one")
    )]
    NoKey { path: PathBuf },
    #[error("the seed cannot be made")]
    #[diagnostic(code(kiln::cli::seed), help("what a seed holds is limited: see its cause"))]
    Seed(#[from] SeedError),
    #[error("`{}` is no nova.conf", path.display())]
    #[diagnostic(code(kiln::cli::nova_config), help("correct it there: nova would not start"))]
    NovaConfig { path: PathBuf, source: ConfigError },
    #[error("this host is not ready to build")]
    #[diagnostic(
        code(kiln::doctor::not_ready),
        help("`kiln doctor --fix` installs what is missing")
    )]
    NotReady,
    #[error("this host has no package manager that kiln knows")]
    #[diagnostic(
        code(kiln::doctor::no_installer),
        help("install by hand what the list above names")
    )]
    NoInstaller,
    #[error("`{command}` failed")]
    #[diagnostic(code(kiln::doctor::install), help("run it by hand to see why"))]
    Install { command: String },
}

/// The exit codes; a user's scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Step = 1,
    Recipe = 2,
    Host = 3,
    Interrupted = 130,
}

impl CliError {
    fn exit(&self) -> Exit {
        let of_kind = |kind| match kind {
            FaultKind::Step => Exit::Step,
            FaultKind::Host | FaultKind::Damaged => Exit::Host,
            FaultKind::Interrupted => Exit::Interrupted,
        };
        match self {
            Self::Export(ExportError::Interrupted)
            | Self::Publish(PublishError::Images(ImagesError::Interrupted))
            | Self::ImportBundle(ImportError::Interrupted)
            | Self::Resolve(ResolveError::Fetch(FetchError::Interrupted)) => Exit::Interrupted,
            Self::Resolve(ResolveError::Fetch(error)) if error.is_of_host() => Exit::Host,
            Self::Store(StoreError::Pin(PinError::Unknown { .. } | PinError::NoState { .. })) => {
                Exit::Recipe
            }
            Self::ImportBundle(ImportError::Nothing { .. })
            | Self::Unfit { .. }
            | Self::TestFailed { .. } => Exit::Step,
            Self::Export(
                ExportError::Exists { .. }
                | ExportError::NotBuilt { .. }
                | ExportError::NoRemote
                | ExportError::Empty,
            )
            | Self::NoSigningKey
            | Self::NoPublish { .. }
            | Self::PublishedTwice { .. }
            | Self::Publish(PublishError::Foreign { .. })
            | Self::Connect(ConnectError::Cloud(_)) => Exit::Recipe,
            Self::Export(_)
            | Self::ImportBundle(_)
            | Self::Workspace(WorkspaceError::Io { .. })
            | Self::Store(_)
            | Self::NoStore { .. }
            | Self::DamagedStore { .. }
            | Self::OutputChanged { .. }
            | Self::File(_)
            | Self::Publish(_)
            | Self::Connect(ConnectError::Images(_))
            | Self::Signing(_)
            | Self::Import { .. }
            | Self::NotReady
            | Self::NoInstaller
            | Self::Unreadable { .. }
            | Self::Install { .. }
            | Self::Resolve(ResolveError::File(_) | ResolveError::NoVerifier) => Exit::Host,
            Self::NothingNamed { .. }
            | Self::AmbiguousState { .. }
            | Self::Workspace(_)
            | Self::Resolve(_)
            | Self::Mistakes(_)
            | Self::UnknownImage(_)
            | Self::UnknownProfile { .. }
            | Self::NotBuilt { .. }
            | Self::FixElsewhere { .. }
            | Self::UnknownStep { .. }
            | Self::UnknownBuild(_)
            | Self::UnknownInput { .. }
            | Self::NotText { .. }
            | Self::BadImageName { .. }
            | Self::Key(_)
            | Self::NoDocument { .. }
            | Self::NotImported
            | Self::UnknownBase { .. }
            | Self::UnknownDocument { .. }
            | Self::NoKey { .. }
            | Self::Seed(_)
            | Self::NovaConfig { .. }
            | Self::NoLog { .. } => Exit::Recipe,
            Self::Build(error) => of_kind(error.kind()),
            Self::Fault(fault) => of_kind(fault.kind),
        }
    }
}

/// Runs the command line of this process to its end.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = arguments.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    let place = Place { start, store: arguments.store, offline: arguments.offline };
    let result = match arguments.command {
        Command::Build(command) => command.run(&place),
        Command::Plan(command) => command.run(&place),
        Command::Why(command) => command.run(&place),
        Command::Check(command) => command.run(&place),
        Command::CheckImage(command) => command.run(&place),
        Command::Test(command) => command.run(&place),
        Command::Boot(command) => command.run(&place),
        Command::Lock(command) => command.run(&place),
        Command::Bases(command) => command.run(&place),
        Command::Log(command) => command.run(&place),
        Command::Cache(command) => command.run(&place),
        Command::Push(command) => command.run(&place),
        Command::Bundle(command) => command.run(&place),
        Command::UserData(command) => command.run(&place),
        Command::Heat(command) => command.run(&place),
        Command::Seed(command) => command.run(&place),
        Command::Advise(command) => command.run(&place),
        Command::Publish(command) => command.run(&place),
        Command::Import(command) => command.run(),
        Command::Sbom(command) => command.run(&place),
        Command::Provenance(command) => command.run(&place),
        Command::Key(command) => command.run(&place),
        Command::Doctor(command) => command.run(&place),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "kiln", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = error.exit();
            show(&error);
            ExitCode::from(exit as u8)
        }
    }
}

fn show(diagnostic: &dyn Diagnostic) {
    use std::io::IsTerminal;
    let mut text = String::new();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let theme = if colours {
        miette::GraphicalTheme::unicode()
    } else {
        miette::GraphicalTheme::unicode_nocolor()
    };
    let handler = miette::GraphicalReportHandler::new_themed(theme)
        .with_width(terminal_width())
        .with_links(false);
    match handler.render_report(&mut text, diagnostic) {
        Ok(()) => eprint!("{text}"),
        Err(_) => eprintln!("{diagnostic}"),
    }
}

fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.map_or(100, |size| usize::from(size.ws_col).clamp(60, 120))
}

/// Where the user stands, and what was said about the store and the remotes.
struct Place {
    start: PathBuf,
    store: Option<PathBuf>,
    offline: bool,
}

impl Place {
    fn workspace(&self) -> Result<Workspace, CliError> {
        Ok(workspace::load(&workspace::find(&self.start)?)?)
    }

    /// The store's directory: as said, as set, beside the recipes, or the user's own.
    fn store_path(&self, workspace: &Workspace) -> PathBuf {
        let beside = workspace.root.join("cache");
        match (&self.store, &workspace.settings.store) {
            (Some(said), _) => std::path::absolute(said).unwrap_or_else(|_| said.clone()),
            (None, Some(set)) => workspace.root.join(set),
            (None, None) if beside.is_dir() => beside,
            (None, None) => user_cache().join("kiln"),
        }
    }

    /// The remotes, unless the user wants none.
    fn team(&self, workspace: &Workspace, purpose: remotes::Purpose) -> Result<Team, CliError> {
        if self.offline { Ok(Team::default()) } else { remotes::team(workspace, purpose) }
    }

    fn store(&self, workspace: &Workspace) -> Result<Store, CliError> {
        Ok(Store::open(&self.store_path(workspace))?)
    }
}

fn user_cache() -> PathBuf {
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| Path::new("/var/cache").to_owned())
}

/// An image and, behind a `/`, one of its steps.
fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once('/') {
        Some((image, step)) => (image, Some(step)),
        None => (name, None),
    }
}

/// What a command works on: the wanted images and their actions.
struct Wanted {
    workspace: Workspace,
    lock: Lock,
    actions: Actions,
    /// The wanted images, by their places in the graph.
    images: Vec<usize>,
}

impl Wanted {
    fn find(place: &Place, names: &[String]) -> Result<Self, CliError> {
        let mut wanted = Self::read(place, names)?;
        wanted.find_actions()?;
        Ok(wanted)
    }

    /// The same without the actions: names of bases may not have been looked up yet.
    fn read(place: &Place, names: &[String]) -> Result<Self, CliError> {
        let mut workspace = place.workspace()?;
        let root = workspace.root.clone();
        let lock = match Lock::read(&root, &mut workspace.sources) {
            Ok(lock) => lock,
            Err(LockError::File(error)) => return Err(error.into()),
            Err(LockError::Mistakes(list)) => {
                return Err(Mistakes::new(list, &workspace.sources).into());
            }
        };
        let closure = workspace.graph.closure(names)?;
        let images: Vec<usize> = if names.is_empty() {
            closure
        } else {
            names.iter().filter_map(|name| workspace.graph.find(name)).collect()
        };
        Ok(Self { workspace, lock, actions: Actions::default(), images })
    }

    /// The keys whose signatures count.
    fn trust(&self) -> Trust {
        Trust::new(&self.workspace.settings.sharing.trusted)
    }

    /// The wanted images and all that they stand on.
    fn closure(&self) -> Result<Vec<usize>, CliError> {
        // The graph takes no names for all of them.
        if self.images.is_empty() {
            return Ok(Vec::new());
        }
        let graph = &self.workspace.graph;
        let names: Vec<_> = self
            .images
            .iter()
            .map(|&image| graph.images[image].image.name.value.as_str())
            .collect();
        Ok(graph.closure(&names)?)
    }

    /// Finds the actions by what the lock file says now.
    fn find_actions(&mut self) -> Result<(), CliError> {
        let closure = self.closure()?;
        self.actions = self
            .actions_of(&closure)
            .map_err(|list| Mistakes::new(list, &self.workspace.sources))?;
        Ok(())
    }

    /// The same where it is no mistake that a base has not been looked up; finds no actions then.
    fn find_mistakes(&mut self) -> Result<(), CliError> {
        let closure = self.closure()?;
        match self.actions_of(&closure) {
            Ok(actions) => self.actions = actions,
            Err(mut list) => {
                list.retain(|mistake| mistake.code != NOT_LOCKED);
                if !list.is_empty() {
                    return Err(Mistakes::new(list, &self.workspace.sources).into());
                }
            }
        }
        Ok(())
    }

    /// The wanted images whose base has not been looked up, each with the name of that base.
    fn unlocked(&self) -> Vec<(usize, &Origin)> {
        let graph = &self.workspace.graph;
        let bottom = |mut image: usize| {
            while let Some(base) = graph.images[image].base {
                image = base;
            }
            &graph.images[image].image.base.value
        };
        let of = |&image: &usize| match bottom(image) {
            Base::Fetch(Fetch { origin, checksum: None, .. })
                if !self.lock.resolved.contains_key(&origin.locked_as()) =>
            {
                Some((image, origin))
            }
            _ => None,
        };
        self.images.iter().filter_map(of).collect()
    }

    /// Leaves out the images whose base has not been looked up; gives a line about each.
    fn leave_unlocked(&mut self) -> Vec<String> {
        let unlocked = self.unlocked();
        let line = |(image, origin): &(usize, &Origin)| {
            let name = &self.workspace.graph.images[*image].image.name.value;
            format!("{name}\n  unknown  `{origin}` has not been looked up: `kiln lock` does it")
        };
        let lines = unlocked.iter().map(line).collect();
        let left: Vec<usize> = unlocked.iter().map(|(image, _)| *image).collect();
        self.images.retain(|image| !left.contains(image));
        lines
    }

    /// What a build would do now, and the results that this was found by.
    fn plan(
        &self,
        store: Option<&Store>,
        history: &History<'_>,
        team: &Team,
    ) -> Result<(Plan, Results), CliError> {
        let mut results = store.map_or_else(|| Ok(Results::default()), Store::results)?;
        let trust = self.trust();
        results.leave_out(|signer| trust.allows(signer));
        let stale: Vec<usize> = outputs(&self.workspace, &self.actions)
            .into_iter()
            .filter(|output| !store.is_some_and(|store| output.is_current(store, &trust)))
            .map(|output| output.image)
            .collect();
        let needed = |image: usize| stale.contains(&image);
        let plan = |shared: &_| crate::plan::plan(&self.actions, &results, needed, history, shared);
        let alone = plan(&BTreeMap::new());
        let keys: Vec<ActionKey> =
            alone.running().map(|node| self.actions.nodes[node].key).collect();
        let hits = team.find(&keys);
        for warning in team.warnings(&mut BTreeSet::new()) {
            eprintln!("warning: {warning}");
        }
        let plan = if hits.is_empty() { alone } else { plan(&hits) };
        Ok((plan, results))
    }

    /// The node of a step of the one wanted image. Its own steps come before those of the image that
    /// it stands on.
    fn step(&self, step: &str) -> Result<usize, CliError> {
        let image = self.workspace.graph.images[self.images[0]].image.name.value.as_str();
        let nodes = || self.actions.chains[0].all().map(|&node| (node, &self.actions.nodes[node]));
        let name = format!("{image}/{step}");
        let own = nodes().find(|(_, node)| node.names.contains(&name));
        if let Some((node, _)) = own.or_else(|| nodes().find(|(_, node)| node.label == step)) {
            return Ok(node);
        }
        let labels = || nodes().map(|(_, node)| node.label.as_str());
        let help = match nearest(step, labels()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it has: {}", labels().collect::<Vec<_>>().join(", ")),
        };
        Err(CliError::UnknownStep { image: image.to_owned(), step: step.to_owned(), help })
    }

    fn actions_of(&self, closure: &[usize]) -> Result<Actions, Vec<Mistake>> {
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let wanted = |image| self.images.contains(&image);
        crate::plan::actions(&self.workspace, closure, wanted, &self.lock, now)
    }
}
