//! KDL tree to recipe: values are checked, and every mistake is collected.
//!
//! Knows one file at a time. Names of steps and images are left for `graph` to resolve.

mod base;
mod boot;
mod fields;
mod kind;
mod profile;
mod publish;
mod settings;
mod shape;
mod step;
pub mod table;
mod trusted;
mod user_data;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use kdl::KdlDocument;

use self::fields::{Context, Fields, known_nodes};
pub use self::profile::{Profiles, WrittenProfile, fill_in, own_profiles, resolve, steps};
pub use self::settings::{Settings, settings};
use self::table::Word;
pub use self::trusted::{trust_line, with_key, with_revoked};
use crate::mistake::Mistake;
use crate::name::ImageName;
use crate::recipe::{
    Account, BootTest, Heat, Image, LocalFile, Output, OutputFormat, Scrub, ScrubItem, Step,
    Subscription, UserData,
};
use crate::source::{FileId, Sources, Span, Spanned};

/// A file that `commands-from-file` names, read and turned into nodes.
#[derive(Debug, Clone)]
pub struct Commands {
    /// The file; the spans of the nodes are in it.
    pub file: FileId,
    /// Its steps.
    pub nodes: KdlDocument,
}

/// Why a text is no host name, if it is none.
#[must_use]
pub fn hostname_fault(text: &str) -> Option<&'static str> {
    shape::hostname_fault(text)
}

/// Why a text is no public key of SSH, if it is none.
#[must_use]
pub fn key_fault(text: &str) -> Option<&'static str> {
    shape::key_fault(text)
}

/// Such files by their paths from the workspace root, see [`from_root`].
pub type Included = BTreeMap<PathBuf, Commands>;

fn context(sources: &Sources, file: FileId) -> Context<'_> {
    let source = sources.file(file);
    let directory = source.path.parent().unwrap_or(Path::new(""));
    Context { file, directory, text: &source.text, mistakes: Vec::new() }
}

/// What one recipe file has.
#[derive(Debug, Default)]
pub struct Recipe {
    /// Its images.
    pub images: Vec<Image>,
    /// Its profiles.
    pub profiles: Vec<WrittenProfile>,
    /// Its user data.
    pub user_data: Vec<UserData<LocalFile>>,
    /// Its Heat templates.
    pub templates: Vec<Heat>,
}

/// What one recipe file has, and its mistakes.
///
/// What is wrong is replaced by something harmless where it can be, so that `graph` can find more
/// mistakes in the rest: with any mistake the images must not be built.
#[must_use]
pub fn recipe(
    document: &KdlDocument,
    file: FileId,
    sources: &Sources,
    included: &Included,
) -> (Recipe, Vec<Mistake>) {
    let mut cx = context(sources, file);
    let known: Vec<&'static Word> = table::RECIPE.iter().collect();
    let mut recipe = Recipe::default();
    for (node, word) in known_nodes(&mut cx, document, "a recipe", &known) {
        let fields = Fields::read(&mut cx, node, word);
        match word.keyword {
            "profile" => recipe.profiles.extend(profile::lower(&mut cx, &fields)),
            "user-data" => recipe.user_data.extend(user_data::user_data(&mut cx, &fields)),
            "heat" => recipe.templates.extend(user_data::heat(&mut cx, &fields)),
            _ => recipe.images.extend(image(&mut cx, &fields, sources, included)),
        }
    }
    (recipe, cx.mistakes)
}

/// The files that the images of a recipe name in `commands-from-file`, right ones only: [`recipe`]
/// reports the others.
#[must_use]
pub fn commands_files(document: &KdlDocument, file: FileId, sources: &Sources) -> Vec<LocalFile> {
    let mut cx = context(sources, file);
    let word = table::STEPS.iter().find(|word| word.keyword == table::COMMANDS);
    let nodes = document.nodes().iter().filter(|node| node.name().value() == "image");
    let nodes = nodes.filter_map(|node| node.children()).flat_map(KdlDocument::nodes);
    nodes
        .filter(|node| node.name().value() == table::COMMANDS)
        .filter_map(|node| Fields::read(&mut cx, node, word?).one("file"))
        .collect()
}

/// The path of a file from the workspace root, without `.` and `..`.
#[must_use]
pub fn from_root(file: &LocalFile, sources: &Sources) -> PathBuf {
    let recipe = &sources.file(file.span.file).path;
    let mut path = PathBuf::new();
    for part in recipe.parent().unwrap_or(Path::new("")).join(&file.path).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

/// The steps of a file, in the place of the node that names it. The last one has the node's name, so
/// that what comes after the node comes after all of them; the others have numbers behind it.
fn commands(
    cx: &mut Context<'_>,
    fields: &Fields<'_>,
    sources: &Sources,
    included: &Included,
) -> Vec<Step> {
    let stand_in = step::lower(cx, fields);
    let found = fields.one("file").and_then(|file| included.get(&from_root(&file, sources)));
    // A file that could not be read has been reported.
    let Some(found) = found else { return Vec::new() };
    let mut inner = context(sources, found.file);
    let known: Vec<&'static Word> =
        table::STEPS.iter().filter(|word| word.keyword != table::COMMANDS).collect();
    let mut steps: Vec<Step> = known_nodes(&mut inner, &found.nodes, "a file of commands", &known)
        .into_iter()
        .map(|(node, word)| {
            let fields = Fields::read(&mut inner, node, word);
            step::lower(&mut inner, &fields)
        })
        .collect();
    let last = steps.len();
    for (number, step) in steps.iter_mut().enumerate() {
        step.after.clone_from(&stand_in.after);
        step.name = stand_in.name.as_ref().and_then(|name| {
            let value = if number + 1 == last {
                name.value.clone()
            } else {
                format!("{}-{}", name.value, number + 1).parse().ok()?
            };
            Some(Spanned { value, span: name.span })
        });
    }
    let place = cx.whole(fields.node);
    let used = |mistake: Mistake| mistake.and(place, "used here");
    cx.mistakes.extend(inner.mistakes.into_iter().map(used));
    steps
}

/// How a guest is registered; `None` if that is not said whole.
fn subscription(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Subscription> {
    let mut pools = Vec::new();
    if let Some(block) = fields.node.children() {
        let known: Vec<&'static Word> = fields.word.children().collect();
        for (node, word) in known_nodes(cx, block, "`subscription`", &known) {
            let inner = Fields::read(cx, node, word);
            pools.extend(inner.many::<String>("id").unwrap_or_default());
        }
    }
    let organization = fields.property("organization").zip(fields.property("activation-key"));
    let user = fields.property("user").zip(fields.property("password"));
    let account = match (organization, user) {
        (Some((organization, key)), None) if fields.written("user").is_none() => {
            Account::ActivationKey { organization, key }
        }
        (None, Some((user, password))) if fields.written("organization").is_none() => {
            Account::User { user, password }
        }
        _ => {
            if cx.mistakes.len() == fields.before {
                let message = "a subscription does not say who registers";
                cx.push(
                    Mistake::at(fields.span, "kiln::lower::exactly_one", message, "this one").help(
                        "write `organization` and `activation-key`, or `user` and `password`",
                    ),
                );
            }
            return None;
        }
    };
    let server = fields.property("server");
    Some(Subscription { account, pools, server, span: cx.whole(fields.node) })
}

/// Reports a node whose keyword was seen before.
fn only_once(cx: &mut Context<'_>, seen: &mut Vec<(&'static str, Span)>, fields: &Fields<'_>) {
    let keyword = fields.word.keyword;
    if let Some((_, first)) = seen.iter().find(|(known, _)| *known == keyword) {
        let message = format!("`{keyword}` is written twice");
        cx.push(
            Mistake::at(fields.span, "kiln::lower::duplicate_node", message, "written again")
                .and(*first, "first written here")
                .help("remove one of them"),
        );
    } else {
        seen.push((keyword, fields.span));
    }
}

/// An image; `None` if it has no usable name.
fn image(
    cx: &mut Context<'_>,
    fields: &Fields<'_>,
    sources: &Sources,
    included: &Included,
) -> Option<Image> {
    let name = fields.one::<Spanned<ImageName>>("name");
    let owner = match &name {
        Some(name) => format!("the image `{}`", name.value),
        None => "an image".to_owned(),
    };
    let known: Vec<&'static Word> = fields.word.children().collect();
    let nodes = match fields.node.children() {
        Some(block) => known_nodes(cx, block, &owner, &known),
        None => Vec::new(),
    };
    let (mut base, mut steps, mut scrub) = (None, Vec::new(), Scrub::default());
    let (mut outputs, mut seen) = (Vec::new(), Vec::new());
    let (mut size, mut session, mut publish) = (None, None, Vec::new());
    let mut test = BootTest::default();
    for (node, word) in nodes {
        let inner = Fields::read(cx, node, word);
        match word.keyword {
            "base" => {
                only_once(cx, &mut seen, &inner);
                let lowered = base::lower(cx, &inner).unwrap_or_else(base::placeholder);
                size = size.or(base::size(&inner));
                base.get_or_insert(Spanned { value: lowered, span: cx.whole(node) });
            }
            "scrub" => {
                only_once(cx, &mut seen, &inner);
                scrub = lower_scrub(cx, &inner);
            }
            "subscription" => {
                only_once(cx, &mut seen, &inner);
                session = subscription(cx, &inner).or(session);
            }
            "test" => {
                only_once(cx, &mut seen, &inner);
                test = boot::lower(cx, &inner);
            }
            "output" => outputs.extend(output(cx, &inner)),
            "publish" => publish.push(publish::lower(cx, &inner, name.as_ref())),
            table::COMMANDS => steps.extend(commands(cx, &inner, sources, included)),
            _ => steps.push(step::lower(cx, &inner)),
        }
    }
    let tried = fields.node.children().is_some_and(|block| block.get("base").is_some());
    if base.is_none() && !tried {
        let span = name.as_ref().map_or(fields.span, |name| name.span);
        let help = "write `base bootstrap \"bookworm\"`, `base file \"disk.qcow2\"` or `base image \
                    \"other\"` in its block";
        cx.push(
            Mistake::at(
                span,
                "kiln::lower::missing_base",
                format!("{owner} has no base"),
                "what does its disk start from?",
            )
            .help(help),
        );
    }
    if outputs.is_empty() {
        let format = OutputFormat::Qcow2 { compress: false };
        outputs.push(Output { format, path: None, span: cx.whole(fields.node) });
    }
    let publish =
        publish.into_iter().map(|written| publish::with_output(cx, written, &outputs)).collect();
    let span = cx.whole(fields.node);
    Some(Image {
        name: name?,
        base: base.unwrap_or_else(|| Spanned { value: base::placeholder(), span }),
        size,
        subscription: session,
        steps,
        scrub,
        test,
        outputs,
        publish,
    })
}

fn lower_scrub(cx: &mut Context<'_>, fields: &Fields<'_>) -> Scrub {
    let (mut keep, mut also) = (BTreeSet::new(), BTreeSet::new());
    let mut keep_users = BTreeSet::new();
    if let Some(block) = fields.node.children() {
        let known: Vec<&'static Word> = fields.word.children().collect();
        for (node, word) in known_nodes(cx, block, "`scrub`", &known) {
            let inner = Fields::read(cx, node, word);
            match word.keyword {
                "keep" => keep.extend(inner.many::<&'static str>("item").unwrap_or_default()),
                "also" => also.extend(inner.many::<&'static str>("item").unwrap_or_default()),
                _ => keep_users.extend(inner.many::<String>("user").unwrap_or_default()),
            }
        }
    }
    if let Some(both) = keep.intersection(&also).next() {
        let message = format!("`{both}` is both kept and scrubbed");
        cx.push(
            Mistake::at(fields.span, "kiln::lower::exactly_one", message, "in this block")
                .help("name it in `keep` or in `also`"),
        );
    }
    let wanted = |item: &ScrubItem| {
        !keep.contains(item.keyword()) && (item.is_default() || also.contains(item.keyword()))
    };
    Scrub { items: ScrubItem::ALL.into_iter().filter(wanted).collect(), keep_users }
}

/// An output; `None` if its path is wrong, as its default path would only be in the way.
fn output(cx: &Context<'_>, fields: &Fields<'_>) -> Option<Output> {
    let path = fields.property("path");
    if path.is_none() && fields.written("path").is_some() {
        return None;
    }
    let format = match fields.word.form {
        Some("raw") => OutputFormat::Raw,
        _ => OutputFormat::Qcow2 { compress: fields.property("compress").unwrap_or(false) },
    };
    Some(Output { format, path, span: cx.whole(fields.node) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(text: &str) -> (Vec<Image>, Vec<Mistake>) {
        let mut sources = Sources::default();
        let path = PathBuf::from("recipes/a.kdl");
        let (file, document) = crate::parse::read(&mut sources, path, text.as_bytes());
        let (recipe, mistakes) = recipe(&document.unwrap(), file, &sources, &Included::new());
        (recipe.images, mistakes)
    }

    #[test]
    fn every_word_of_the_table_is_lowered_from_its_own_example() {
        // What stands for the steps of a file becomes those.
        for word in table::STEPS.iter().filter(|word| word.keyword != table::COMMANDS) {
            let more = match word.keyword {
                "password" => " locked=#true",
                "ssh-inject" => " key=\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ\"",
                _ => "",
            };
            let step = fields::usage(word);
            let text = format!("image \"i\" {{\nbase file \"a\"\n{step}{more}\n}}");
            let (images, mistakes) = lowered(&text);
            assert_eq!(mistakes, [], "{step}");
            assert_eq!(images[0].steps[0].kind.keyword(), word.keyword);
        }
        for word in table::BASES {
            let (images, mistakes) =
                lowered(&format!("image \"i\" {{\n{}\n}}", fields::usage(word)));
            assert_eq!(mistakes, [], "{}", word.title());
            assert_eq!(images.len(), 1);
        }
    }

    #[test]
    fn defaults_are_what_the_book_says() {
        let (images, mistakes) = lowered(
            "image \"i\" { base bootstrap \"bookworm\"; install \"a\"; uninstall \"a\"; write \"/a\" \"b\"; }",
        );
        assert_eq!(mistakes, []);
        let image = &images[0];
        let crate::recipe::Base::Bootstrap(base) = &image.base.value else { panic!("bootstrap") };
        assert_eq!((base.size, base.variant.as_str()), (4 << 30, "important"));
        assert_eq!(base.components, ["main"]);
        assert_eq!(
            image.steps.iter().map(|step| step.network).collect::<Vec<_>>(),
            [true, false, false]
        );
        let crate::recipe::StepKind::Write(write) = &image.steps[2].kind else { panic!("write") };
        assert_eq!(write.content, "b\n");
        assert_eq!(image.outputs[0].file(&image.name.value), PathBuf::from("out/i.qcow2"));
        assert_eq!(image.scrub, Scrub::default());
    }
}
