//! Profiles: a checked node to a [`WrittenProfile`], and names of profiles to their requirements.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::fields::{Context, Fields, known_nodes};
use super::step;
use super::table::{REMEDY, WITHOUT, Word};
use crate::mistake::{Mistake, nearest};
use crate::name::ProfileName;
use crate::recipe::{
    Check, Image, KeyWay, LocalFile, Profile, Remedied, Requirement, Severity, StepKind,
};
use crate::source::{Sources, Span, Spanned};

/// kiln's own profiles, as a recipe file.
const OWN: &str = include_str!("profiles.kdl");

/// A profile as a recipe file has it: names are not looked up yet.
#[derive(Debug, Clone)]
pub struct WrittenProfile {
    /// Its name, unique in the workspace and none of kiln's own.
    pub name: Spanned<ProfileName>,
    /// The profile that it extends.
    pub extends: Option<Spanned<ProfileName>>,
    /// The requirements of that one which it does not take over.
    pub without: Vec<Spanned<ProfileName>>,
    /// Its own requirements.
    pub requirements: Vec<Spanned<Remedied<LocalFile>>>,
}

/// All profiles, by name, with what they took over.
pub type Profiles = BTreeMap<String, Profile<LocalFile>>;

/// The profile that a node describes; `None` if it has no usable name.
pub(super) fn lower(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<WrittenProfile> {
    let (mut without, mut requirements) = (Vec::new(), Vec::new());
    if let Some(block) = fields.node.children() {
        let known: Vec<&'static Word> = fields.word.children().collect();
        for (node, word) in known_nodes(cx, block, "a profile", &known) {
            let inner = Fields::read(cx, node, word);
            if word.keyword == WITHOUT {
                without
                    .extend(inner.many::<Spanned<ProfileName>>("requirement").unwrap_or_default());
                continue;
            }
            let span = inner.span;
            let remedied = requirement(cx, &inner);
            requirements.extend(remedied.map(|value| Spanned { value, span }));
        }
    }
    let extends = fields.property("extends");
    Some(WrittenProfile { name: fields.one("name")?, extends, without, requirements })
}

fn requirement(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Remedied<LocalFile>> {
    let remedy = remedy(cx, fields);
    // What is named second would be forgotten.
    for (word, argument, help) in
        [("default-user", "user", "name one user"), ("console", "device", "name one console")]
    {
        if fields.word.keyword == word
            && let Some([_, _, ..]) = fields.many::<String>(argument).as_deref()
        {
            let message = format!("`{word}` takes one argument at most");
            let code = "kiln::lower::extra_argument";
            cx.push(Mistake::at(fields.span, code, message, "more are written").help(help));
        }
    }
    let check = check(fields)?;
    let severity = match fields.property::<&'static str>("severity") {
        Some(word) => Severity::ALL.into_iter().find(|severity| severity.keyword() == word)?,
        None => Severity::Error,
    };
    let name = fields.property::<ProfileName>("name").map(String::from);
    let name = name.unwrap_or_else(|| check.keyword().to_owned());
    Some(Remedied { requirement: Requirement { name, severity, check }, remedy })
}

fn check(fields: &Fields<'_>) -> Option<Check> {
    Some(match fields.word.keyword {
        "cloud-init" => Check::CloudInit,
        "datasources" => Check::Datasources(fields.many("source")?),
        "default-user" => Check::DefaultUser(fields.many("user")?.into_iter().next()),
        "root-login" => Check::RootLogin,
        "password-login" => Check::PasswordLogin,
        "partition-table" => Check::PartitionTable,
        "root-fills" => Check::RootFills,
        "root-last" => Check::RootLast,
        "one-partition" => Check::OnePartition,
        "growth" => Check::Growth,
        "persistent-net" => Check::PersistentNet,
        "net-generator" => Check::NetGenerator,
        "hardware-addresses" => Check::HardwareAddresses,
        "ssh-server" => Check::SshServer,
        "ssh-key" => Check::SshKey(match fields.property::<&'static str>("by") {
            Some("script") => KeyWay::Script,
            _ => KeyWay::CloudInit,
        }),
        "firewall" => Check::Firewall,
        "console" => Check::Console(fields.many("device")?.into_iter().next()),
        "boot-entries" => Check::BootEntries,
        "xen-kernel" => Check::XenKernel,
        "auto-disk-config" => Check::AutoDiskConfig,
        "machine-id" => Check::MachineId,
        "host-keys" => Check::HostKeys,
        "leftovers" => Check::Leftovers,
        "package" => Check::Package(fields.one("name")?),
        "no-package" => Check::NoPackage(fields.one("name")?),
        "file" => Check::File { path: fields.one("path")?, contains: fields.property("contains") },
        "no-file" => Check::NoFile(fields.one("pattern")?),
        "unit" => Check::Unit(fields.one("name")?),
        "no-unit" => Check::NoUnit(fields.one("name")?),
        "kernel-argument" => Check::KernelArgument(fields.one("argument")?),
        word => unreachable!("kiln bug: the table has a requirement `{word}` that lowering lacks"),
    })
}

/// The steps of a requirement; they stand alone, and in the order written.
fn remedy(cx: &mut Context<'_>, fields: &Fields<'_>) -> Vec<StepKind<LocalFile>> {
    let mut steps = Vec::new();
    let blocks = fields.node.children().into_iter().flat_map(kdl::KdlDocument::nodes);
    for block in blocks.filter(|node| node.name().value() == REMEDY) {
        let Some(inside) = block.children() else { continue };
        let words = fields.word.children().filter(|word| word.keyword == REMEDY);
        let known: Vec<&'static Word> = words.flat_map(Word::children).collect();
        for (node, word) in known_nodes(cx, inside, "`remedy`", &known) {
            let inner = Fields::read(cx, node, word);
            let step = step::lower(cx, &inner);
            let aids = &step.aids;
            let alone = step.after.is_empty()
                && step.name.is_none()
                && aids.attached.is_empty()
                && aids.secrets.is_empty()
                && !aids.subscription
                && !matches!(step.kind, StepKind::Profile(_))
                && word.keyword != super::table::COMMANDS;
            if !alone {
                let message = format!("`{}` cannot stand in a remedy like this", word.keyword);
                let help = "the steps of a remedy have no `name`, `after`, `attach`, `secret` or \
                            `subscription`, and are none of `profile` and `commands-from-file`";
                let span = inner.span;
                cx.push(
                    Mistake::at(span, "kiln::lower::not_in_remedy", message, "here").help(help),
                );
            }
            steps.push(step.kind);
        }
    }
    steps
}

/// kiln's own profiles, looked up.
///
/// # Panics
/// Where they have a mistake, which a test excludes.
#[must_use]
pub fn own_profiles() -> &'static Profiles {
    static OWN_PROFILES: OnceLock<Profiles> = OnceLock::new();
    OWN_PROFILES.get_or_init(|| {
        let mut sources = Sources::default();
        let path = PathBuf::from("profiles.kdl");
        let (file, document) = crate::parse::read(&mut sources, path, OWN.as_bytes());
        let document = document.expect("kiln's own profiles are KDL");
        let (recipe, mistakes) = super::recipe(&document, file, &sources, &super::Included::new());
        assert_eq!(mistakes, [], "kiln's own profiles");
        let (profiles, mistakes) = resolve(recipe.profiles, Profiles::new());
        assert_eq!(mistakes, [], "kiln's own profiles");
        profiles
    })
}

/// Looks up what profiles extend: gives `known` with them, and the mistakes in them. A profile
/// with a mistake is there too, with what is right of it.
#[must_use]
pub fn resolve(written: Vec<WrittenProfile>, known: Profiles) -> (Profiles, Vec<Mistake>) {
    let (mut profiles, mut mistakes) = (known, Vec::new());
    let own = profiles.clone();
    let mut names: BTreeMap<String, Span> = BTreeMap::new();
    let mut waiting = Vec::new();
    for profile in written {
        let name = profile.name.value.as_str().to_owned();
        let message = format!("there is another profile `{name}`");
        let mistake =
            Mistake::at(profile.name.span, "kiln::lower::duplicate_profile", message, "this one");
        if own.contains_key(&name) {
            let help = "kiln has it: choose another name, and write `extends`";
            mistakes.push(mistake.help(help));
        } else if let Some(first) = names.get(&name) {
            mistakes.push(mistake.and(*first, "the other one").help("rename one of them"));
        } else {
            names.insert(name, profile.name.span);
            waiting.push(profile);
        }
    }
    // Each round settles those whose profile is settled; what is left extends itself or nothing.
    loop {
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|profile| {
            profile.extends.as_ref().is_none_or(|name| profiles.contains_key(name.value.as_str()))
        });
        waiting = rest;
        if ready.is_empty() {
            break;
        }
        for profile in ready {
            let settled = settle(profile, &profiles, &mut mistakes);
            profiles.insert(settled.name.clone(), settled);
        }
    }
    for profile in waiting {
        let Some(extends) = &profile.extends else { continue };
        let name = extends.value.as_str();
        if names.contains_key(name) {
            let message = format!("the profile `{}` extends itself", profile.name.value);
            let help = "one of them has to stand on its own, or on one of kiln's";
            let code = "kiln::lower::profile_in_circles";
            mistakes.push(Mistake::at(extends.span, code, message, "in a circle").help(help));
        } else {
            mistakes.push(unknown(name, extends.span, profiles.keys()));
        }
        let bare = WrittenProfile { extends: None, without: Vec::new(), ..profile };
        let settled = settle(bare, &profiles, &mut mistakes);
        profiles.insert(settled.name.clone(), settled);
    }
    (profiles, mistakes)
}

fn settle(
    profile: WrittenProfile,
    profiles: &Profiles,
    mistakes: &mut Vec<Mistake>,
) -> Profile<LocalFile> {
    let base = profile.extends.as_ref().and_then(|name| profiles.get(name.value.as_str()));
    let mut requirements = base.map(|base| base.requirements.clone()).unwrap_or_default();
    for dropped in &profile.without {
        let name = dropped.value.as_str();
        let before = requirements.len();
        requirements.retain(|known| known.requirement.name != name);
        if requirements.len() == before {
            let message = format!("nothing called `{name}` is taken over");
            let names = base.iter().flat_map(|base| &base.requirements);
            let near = nearest(name, names.map(|known| known.requirement.name.as_str()));
            let mistake =
                Mistake::at(dropped.span, "kiln::lower::unknown_requirement", message, "not known");
            mistakes.push(mistake.maybe_help(near.map(|near| format!("did you mean `{near}`?"))));
        }
    }
    let mut own: BTreeMap<String, Span> = BTreeMap::new();
    for Spanned { value, span } in profile.requirements {
        let name = value.requirement.name.clone();
        if let Some(first) = own.insert(name.clone(), span) {
            let message = format!("two requirements are called `{name}`");
            mistakes.push(
                Mistake::at(span, "kiln::lower::duplicate_requirement", message, "the second")
                    .and(first, "the first")
                    .help("give one of them a `name`"),
            );
            continue;
        }
        match requirements.iter_mut().find(|known| known.requirement.name == name) {
            Some(known) => *known = value,
            None => requirements.push(value),
        }
    }
    Profile { name: profile.name.value.into(), requirements }
}

fn unknown<'a>(name: &str, span: Span, known: impl Iterator<Item = &'a String> + Clone) -> Mistake {
    let message = format!("there is no profile `{name}`");
    let near = nearest(name, known.clone().map(String::as_str));
    let help = if let Some(near) = near {
        format!("did you mean `{near}`?")
    } else {
        let all: Vec<_> = known.map(|name| format!("`{name}`")).collect();
        format!("there are {}", all.join(", "))
    };
    Mistake::at(span, "kiln::lower::unknown_profile", message, "not known").help(help)
}

/// The steps of a text that kiln itself wrote, which name no file of a workspace.
///
/// # Panics
/// Where it is no text of such steps: a bug in kiln.
#[must_use]
pub fn steps<G>(text: &str) -> Vec<StepKind<G>> {
    let mut sources = Sources::default();
    let (file, document) =
        crate::parse::read(&mut sources, PathBuf::from("steps"), text.as_bytes());
    let document = document.expect("kiln's own steps are KDL");
    let mut cx = super::context(&sources, file);
    let known: Vec<&'static Word> = super::table::STEPS.iter().collect();
    let mut steps = Vec::new();
    for (node, word) in known_nodes(&mut cx, &document, "kiln's own steps", &known) {
        let fields = Fields::read(&mut cx, node, word);
        let kind = step::lower(&mut cx, &fields).kind;
        let without_files = kind.map_files(|file: &LocalFile| Err(file.path.clone()));
        steps.push(without_files.expect("kiln's own steps read no file"));
    }
    assert_eq!(cx.mistakes, [], "kiln's own steps");
    steps
}

/// Gives the `profile` steps of images the requirements of their profiles.
#[must_use]
pub fn fill_in(images: &mut [Image], profiles: &Profiles) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for step in images.iter_mut().flat_map(|image| &mut image.steps) {
        let StepKind::Profile(profile) = &mut step.kind else { continue };
        if let Some(known) = profiles.get(&profile.name) {
            profile.requirements.clone_from(&known.requirements);
        } else {
            mistakes.push(unknown(&profile.name, step.span, profiles.keys()));
        }
    }
    mistakes
}
