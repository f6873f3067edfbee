//! User data: what an instance is told when it first boots, and Heat templates that tell it.

use serde::{Deserialize, Serialize};

use crate::name::{DocumentName, GuestPath, ImageName, Mode};
use crate::source::{Span, Spanned};

/// User data for cloud-init. `F` is how it refers to a file of the workspace.
#[derive(Debug, Clone)]
pub struct UserData<F> {
    /// Its name, unique in the workspace.
    pub name: Spanned<DocumentName>,
    /// Whether the whole is compressed.
    pub gzip: bool,
    /// Its parts, in the order in which cloud-init sees them.
    pub parts: Vec<Spanned<Part<F>>>,
}

/// A text of the recipe, or a file of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text<F> {
    /// Written in the recipe; it ends with a line end.
    Written(String),
    /// A file.
    File(F),
}

/// One part of user data.
///
/// The enum is closed: a kind of part more is an arm here, its word, its bytes, its row in the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<F> {
    /// `script "setup.sh"`: run late in the boot.
    Script {
        /// The script.
        text: Text<F>,
        /// How often it runs.
        frequency: Frequency,
    },
    /// `cloud-config { packages "ntp"; }`.
    Config(Config<F>),
    /// `cloud-config file="more.yaml"`.
    ConfigFile(F),
    /// `include "https://…"`: what an instance fetches for itself.
    Include {
        /// The addresses.
        urls: Vec<String>,
        /// Whether an instance fetches them at its first boot only.
        once: bool,
    },
    /// `boothook "early.sh"`: run early in every boot.
    Boothook(Text<F>),
    /// `require "/usr/bin/wget"`: a script of kiln's own that fails where a path is missing.
    Require(Vec<GuestPath>),
    /// `part "x.txt" type="text/jinja2"`: anything else.
    Other {
        /// The content.
        file: F,
        /// Its media type.
        media_type: String,
    },
}

/// How often a script runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frequency {
    /// At the first boot of an instance, with the other scripts.
    #[default]
    Default,
    /// At every boot.
    Boot,
    /// At the first boot of an instance.
    Instance,
    /// Once, even if the disk becomes another instance.
    Once,
}

/// What a `cloud-config` block says; everything else is written as a file of YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config<F> {
    /// Packages, by the names that the guest's own package manager has for them.
    pub packages: Vec<String>,
    /// Whether the lists of packages are fetched first.
    pub update: bool,
    /// Whether every package is upgraded.
    pub upgrade: bool,
    /// Users beside the default one.
    pub users: Vec<ConfigUser>,
    /// Public keys of the default user.
    pub keys: Vec<String>,
    /// Files that are written.
    pub files: Vec<ConfigFile<F>>,
    /// Commands that run late in the boot: one word is a line for `sh`, several are a program and
    /// its arguments.
    pub commands: Vec<Vec<String>>,
    /// The host name.
    pub hostname: Option<String>,
    /// The time zone.
    pub timezone: Option<String>,
    /// Whether the instance reboots when all is done.
    pub reboot: bool,
}

impl<F> Default for Config<F> {
    fn default() -> Self {
        Self {
            packages: Vec::new(),
            update: false,
            upgrade: false,
            users: Vec::new(),
            keys: Vec::new(),
            files: Vec::new(),
            commands: Vec::new(),
            hostname: None,
            timezone: None,
            reboot: false,
        }
    }
}

/// A user that cloud-init makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigUser {
    /// The name.
    pub name: String,
    /// Further groups.
    pub groups: Vec<String>,
    /// The login shell; the guest's own choice where there is none.
    pub shell: Option<GuestPath>,
    /// Whether the user may become root without a password.
    pub sudo: bool,
    /// Public keys.
    pub keys: Vec<String>,
}

/// A file that cloud-init writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile<F> {
    /// Where.
    pub path: GuestPath,
    /// What.
    pub content: Text<F>,
    /// The permission bits; 0644 where there are none.
    pub mode: Option<Mode>,
    /// The owner as chown takes it; root where there is none.
    pub owner: Option<String>,
}

impl<F> UserData<F> {
    /// The same with every file of the workspace turned into something else.
    ///
    /// # Errors
    /// The first error of `turn`.
    pub fn map_files<G, E>(
        &self,
        turn: &mut dyn FnMut(&F) -> Result<G, E>,
    ) -> Result<UserData<G>, E> {
        let parts = self
            .parts
            .iter()
            .map(|part| Ok(Spanned { value: part.value.map_files(&mut *turn)?, span: part.span }));
        Ok(UserData {
            name: self.name.clone(),
            gzip: self.gzip,
            parts: parts.collect::<Result<_, E>>()?,
        })
    }

    /// The packages that its parts install.
    pub fn packages(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| match &part.value {
            Part::Config(config) => config.packages.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        })
    }
}

impl<F> Text<F> {
    fn map_files<G, E>(&self, turn: &mut dyn FnMut(&F) -> Result<G, E>) -> Result<Text<G>, E> {
        Ok(match self {
            Self::Written(text) => Text::Written(text.clone()),
            Self::File(file) => Text::File(turn(file)?),
        })
    }
}

impl<F> Part<F> {
    /// The word in a recipe.
    #[must_use]
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::Script { .. } => "script",
            Self::Config(_) | Self::ConfigFile(_) => "cloud-config",
            Self::Include { .. } => "include",
            Self::Boothook(_) => "boothook",
            Self::Require(_) => "require",
            Self::Other { .. } => "part",
        }
    }

    fn map_files<G, E>(&self, turn: &mut dyn FnMut(&F) -> Result<G, E>) -> Result<Part<G>, E> {
        Ok(match self {
            Self::Script { text, frequency } => {
                Part::Script { text: text.map_files(turn)?, frequency: *frequency }
            }
            Self::Config(config) => Part::Config(config.map_files(turn)?),
            Self::ConfigFile(file) => Part::ConfigFile(turn(file)?),
            Self::Include { urls, once } => Part::Include { urls: urls.clone(), once: *once },
            Self::Boothook(text) => Part::Boothook(text.map_files(turn)?),
            Self::Require(paths) => Part::Require(paths.clone()),
            Self::Other { file, media_type } => {
                Part::Other { file: turn(file)?, media_type: media_type.clone() }
            }
        })
    }
}

impl<F> Config<F> {
    fn map_files<G, E>(&self, turn: &mut dyn FnMut(&F) -> Result<G, E>) -> Result<Config<G>, E> {
        let files = self.files.iter().map(|file| {
            Ok(ConfigFile {
                path: file.path.clone(),
                content: file.content.map_files(&mut *turn)?,
                mode: file.mode,
                owner: file.owner.clone(),
            })
        });
        Ok(Config {
            packages: self.packages.clone(),
            update: self.update,
            upgrade: self.upgrade,
            users: self.users.clone(),
            keys: self.keys.clone(),
            files: files.collect::<Result<_, E>>()?,
            commands: self.commands.clone(),
            hostname: self.hostname.clone(),
            timezone: self.timezone.clone(),
            reboot: self.reboot,
        })
    }
}

/// A Heat template with one server.
#[derive(Debug, Clone)]
pub struct Heat {
    /// Its name, unique in the workspace.
    pub name: Spanned<DocumentName>,
    /// What it says of itself.
    pub description: Option<String>,
    /// The server.
    pub server: Server,
    /// The names of its security groups.
    pub security_groups: Vec<String>,
    /// Whether the stack waits until the server says that it is done.
    pub wait: Option<Wait>,
}

/// The server of a template. What is not said is a parameter without a default.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// The image of the workspace that it boots; it is in Glance under its own name.
    pub image: Option<Spanned<ImageName>>,
    /// The name or id of an image in Glance, in place of that.
    pub image_name: Option<String>,
    /// The name or id of a flavor.
    pub flavor: Option<String>,
    /// The name of a key pair.
    pub key_name: Option<String>,
    /// The name or id of a network; the template has none where nothing is said.
    pub network: Option<String>,
    /// Its user data.
    pub user_data: Option<Spanned<DocumentName>>,
}

impl Server {
    /// What its image is called in Glance.
    #[must_use]
    pub fn glance_name(&self) -> Option<&str> {
        let of_workspace = self.image.as_ref().map(|image| image.value.as_str());
        of_workspace.or(self.image_name.as_deref())
    }
}

/// What a stack waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The longest that it waits, in seconds: at most twelve hours.
    pub timeout: u64,
    /// How many signals of success it waits for.
    pub count: u64,
    /// Who takes the signal.
    pub through: Through,
    /// Where it is written.
    pub span: Span,
}

/// Who takes a signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Through {
    /// An object of Swift: the server needs no account and no way to Heat.
    #[default]
    Swift,
    /// Heat itself.
    Heat,
}
