//! What importers make: images with nodes that are not yet checked, and notes in between.
//!
//! One model for every kind of input; how it becomes text is `write`'s.

use crate::source::Span;

/// Everything that one run of the importer found.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) images: Vec<ImageDraft>,
    /// Secrets that the recipe names; their values are never copied.
    pub(super) secrets: Vec<SecretDraft>,
    /// What stands at the top of the recipe.
    pub(super) notes: Vec<String>,
}

impl Draft {
    /// A name that no image has yet.
    pub(super) fn free_name(&self, wanted: &str) -> String {
        let taken = |name: &str| self.images.iter().any(|image| image.name == name);
        let wanted = image_name(wanted);
        let mut name = wanted.clone();
        let mut count = 2;
        while taken(&name) {
            name = format!("{wanted}-{count}");
            count += 1;
        }
        name
    }

    /// Adds a secret, and gives the name under which a step finds it.
    pub(super) fn secret(&mut self, wanted: &str, place: SecretDraftPlace) -> String {
        let wanted = image_name(wanted);
        let same = |known: &&SecretDraft| known.place == place && known.name.starts_with(&wanted);
        if let Some(known) = self.secrets.iter().find(same) {
            return known.name.clone();
        }
        let mut name = wanted.clone();
        let mut count = 2;
        while self.secrets.iter().any(|known| known.name == name) {
            name = format!("{wanted}-{count}");
            count += 1;
        }
        self.secrets.push(SecretDraft { name: name.clone(), place });
        name
    }
}

/// A secret of `kiln.kdl` that a recipe needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SecretDraft {
    pub(super) name: String,
    pub(super) place: SecretDraftPlace,
}

/// Where the user is told to keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretDraftPlace {
    /// An environment variable that is named after the secret and the place where it was written.
    Env(Span),
    /// The file that the old command named.
    File(String),
}

/// One image.
#[derive(Debug)]
pub(super) struct ImageDraft {
    pub(super) name: String,
    pub(super) base: Option<Node>,
    pub(super) subscription: Option<Node>,
    /// Steps and notes, in their order.
    pub(super) items: Vec<Item>,
    pub(super) scrub: Option<Node>,
    pub(super) outputs: Vec<Node>,
    /// What stands above it.
    pub(super) notes: Vec<String>,
    /// The files of disks that it stands for, as the old commands name them.
    disks: Vec<String>,
    /// Whether its outputs are those of a `qemu-img convert`.
    pub(super) converted: bool,
    /// The virt-builder that made it, which gives root a password unless it is told one.
    pub(super) built: Option<Span>,
    /// The command that it comes from.
    pub(super) span: Span,
}

impl ImageDraft {
    pub(super) fn new(name: String, span: Span) -> Self {
        Self {
            name,
            base: None,
            subscription: None,
            items: Vec::new(),
            scrub: None,
            outputs: Vec::new(),
            notes: Vec::new(),
            disks: Vec::new(),
            converted: false,
            built: None,
            span,
        }
    }

    /// Says that it stands for the file of a disk.
    pub(super) fn add_disk(&mut self, path: &str) {
        self.disks.push(disk_name(path));
    }

    /// Whether it stands for the file of a disk.
    pub(super) fn holds(&self, path: &str) -> bool {
        self.disks.contains(&disk_name(path))
    }

    /// Adds a note in place.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.items.push(Item::Note(text.into()));
    }

    /// The steps, without the notes.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Node> {
        self.items.iter().filter_map(|item| match item {
            Item::Step(node) => Some(node),
            Item::Note(_) => None,
        })
    }

    /// Sets a property of the base, the last one winning as on a command line.
    pub(super) fn base_property(&mut self, name: &'static str, value: &str) {
        if let Some(base) = &mut self.base {
            base.properties.retain(|(known, _)| *known != name);
            base.properties.push((name, Value::Text(value.to_owned())));
        }
    }
}

/// One entry of an image's block.
#[derive(Debug)]
pub(super) enum Item {
    Step(Node),
    Note(String),
}

/// One node, not yet checked.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) word: &'static str,
    pub(super) arguments: Vec<String>,
    pub(super) properties: Vec<(&'static str, Value)>,
    pub(super) children: Vec<Node>,
    /// Comments above it.
    pub(super) notes: Vec<String>,
    /// Where it comes from.
    pub(super) span: Span,
}

/// The value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
}

impl Node {
    pub(super) fn new<T: Into<String>>(
        word: &'static str,
        arguments: impl IntoIterator<Item = T>,
        span: Span,
    ) -> Self {
        Self {
            word,
            arguments: arguments.into_iter().map(Into::into).collect(),
            properties: Vec::new(),
            children: Vec::new(),
            notes: Vec::new(),
            span,
        }
    }

    pub(super) fn text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.properties.push((name, Value::Text(value.into())));
        self
    }

    pub(super) fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.properties.push((name, Value::Flag(value)));
        self
    }

    pub(super) fn noted(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Whether it runs programs of the guest, which may want the network or a subscription.
    pub(super) fn is_program(&self) -> bool {
        matches!(self.word, "install" | "update" | "run" | "run-command")
    }
}

/// A name that a recipe takes, made of any text: the file's name without its ending, for a path.
pub(super) fn image_name(text: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = text.chars().map(fits).take(48).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "imported".to_owned() } else { name.to_owned() }
}

/// A path of a script without what says nothing: `./img//a` is `img/a`.
pub(super) fn disk_name(path: &str) -> String {
    let root = if path.starts_with('/') { "/" } else { "" };
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    format!("{root}{}", parts.collect::<Vec<_>>().join("/"))
}

/// The last component of a path, without the endings that disk images have.
pub(super) fn stem(path: &str) -> &str {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    let endings = [".qcow2", ".img", ".raw", ".vmdk", ".vdi", ".vhdx", ".vpc", ".qed", ".iso"];
    endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}
