//! User data and Heat templates: checked nodes to [`UserData`] and [`Heat`].

use std::time::Duration;

use super::fields::{Context, Fields, known_nodes};
use super::only_once;
use super::table::Word;
use crate::mistake::Mistake;
use crate::name::{Mode, Owner};
use crate::recipe::{
    Config, ConfigFile, ConfigUser, Frequency, Heat, LocalFile, Part, Server, Text, Through,
    UserData, Wait,
};
use crate::source::{Span, Spanned};

/// What a stack waits by default, in seconds.
const TIMEOUT: u64 = 3_600;
/// The longest that Heat lets a stack wait, in seconds.
const LONGEST: u64 = 43_200;

/// The nodes of a block, each with its row of the table.
fn inner<'a>(cx: &mut Context<'_>, fields: &Fields<'a>) -> Vec<(&'a kdl::KdlNode, &'static Word)> {
    let known: Vec<&'static Word> = fields.word.children().collect();
    let owner = format!("`{}`", fields.word.keyword);
    fields.node.children().map_or_else(Vec::new, |block| known_nodes(cx, block, &owner, &known))
}

/// The user data that a node describes; `None` if it has no usable name.
pub(super) fn user_data(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<UserData<LocalFile>> {
    let mut parts = Vec::new();
    for (node, word) in inner(cx, fields) {
        let fields = Fields::read(cx, node, word);
        let span = cx.whole(node);
        parts.extend(part(cx, &fields).map(|value| Spanned { value, span }));
    }
    if parts.is_empty() && cx.mistakes.len() == fields.before {
        let message = "this user data has no parts";
        cx.push(
            Mistake::at(fields.span, "kiln::lower::no_parts", message, "empty")
                .help("write at least one `script`, `cloud-config`, `include` or other part"),
        );
    }
    Some(UserData {
        name: fields.one("name")?,
        gzip: fields.property("gzip").unwrap_or(false),
        parts,
    })
}

fn part(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Part<LocalFile>> {
    Some(match fields.word.keyword {
        "script" => Part::Script {
            text: text(cx, fields, "file", fields.property("text"), "text")?,
            frequency: match fields.property::<&'static str>("per") {
                Some("boot") => Frequency::Boot,
                Some("instance") => Frequency::Instance,
                Some(_) => Frequency::Once,
                None => Frequency::Default,
            },
        },
        "cloud-config" => cloud_config(cx, fields)?,
        "include" => Part::Include {
            urls: fields.many("url")?,
            once: fields.property("once").unwrap_or(false),
        },
        "boothook" => Part::Boothook(text(cx, fields, "file", fields.property("text"), "text")?),
        "require" => Part::Require(fields.many("path")?),
        _ => {
            let media_type = fields.property("type");
            if media_type.is_none() && fields.written("type").is_none() {
                let message = "`part` does not say what it is";
                cx.push(
                    Mistake::at(fields.span, "kiln::lower::exactly_one", message, "of which type?")
                        .help("write its media type, such as `type=\"text/jinja2\"`"),
                );
            }
            Part::Other { file: fields.one("file")?, media_type: media_type? }
        }
    })
}

/// A file that is an argument, or a text, exactly one of them.
fn text(
    cx: &mut Context<'_>,
    fields: &Fields<'_>,
    argument: &'static str,
    written: Option<String>,
    property: &'static str,
) -> Option<Text<LocalFile>> {
    let mut files = fields.many::<LocalFile>(argument)?;
    let both = !files.is_empty() && fields.written(property).is_some();
    if files.len() > 1 {
        let message = format!("`{}` takes one file", fields.word.keyword);
        cx.push(
            Mistake::at(files[1].span, "kiln::lower::extra_argument", message, "one too many")
                .help("write a node of its own for each"),
        );
        return None;
    }
    match (files.pop(), written) {
        (Some(file), None) if !both => Some(Text::File(file)),
        (None, Some(text)) => Some(Text::Written(ended(text))),
        _ if cx.mistakes.len() == fields.before => {
            one_of(cx, fields.span, fields.word.keyword, &["a file", &format!("`{property}`")]);
            None
        }
        _ => None,
    }
}

/// Says that exactly one of some things belongs there.
fn one_of(cx: &mut Context<'_>, span: Span, keyword: &str, choices: &[&str]) {
    let message = format!("`{keyword}` needs exactly one of {}", choices.join(" and "));
    let help = format!("write {}", choices.join(" or "));
    cx.push(Mistake::at(span, "kiln::lower::exactly_one", message, "this one").help(help));
}

/// A text with a line end at its end.
fn ended(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn cloud_config(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Part<LocalFile>> {
    let file = fields.property::<LocalFile>("file");
    let config = config(cx, fields);
    let is_empty = fields.node.children().is_none_or(|block| block.nodes().is_empty());
    match (file, fields.written("file")) {
        (Some(file), _) if is_empty => Some(Part::ConfigFile(file)),
        (None, None) if !is_empty => Some(Part::Config(config)),
        _ => {
            if cx.mistakes.len() == fields.before {
                one_of(cx, fields.span, "cloud-config", &["a block", "`file`"]);
            }
            None
        }
    }
}

fn config(cx: &mut Context<'_>, fields: &Fields<'_>) -> Config<LocalFile> {
    let (mut config, mut seen) = (Config::default(), Vec::new());
    for (node, word) in inner(cx, fields) {
        let fields = Fields::read(cx, node, word);
        match word.keyword {
            "packages" => {
                config.packages.extend(fields.many::<String>("package").unwrap_or_default());
                config.update |= fields.property("update").unwrap_or(false);
                config.upgrade |= fields.property("upgrade").unwrap_or(false);
            }
            "user" => config.users.extend(user(cx, &fields)),
            "key" => config.keys.extend(fields.many::<String>("key").unwrap_or_default()),
            "file" => config.files.extend(file(cx, &fields)),
            "run" => config.commands.extend(fields.many("word")),
            "hostname" => {
                only_once(cx, &mut seen, &fields);
                config.hostname = fields.one("name").or(config.hostname);
            }
            "timezone" => {
                only_once(cx, &mut seen, &fields);
                config.timezone = fields.one("zone").or(config.timezone);
            }
            _ => config.reboot = true,
        }
    }
    config
}

fn user(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<ConfigUser> {
    let mut keys = Vec::new();
    for (node, word) in inner(cx, fields) {
        let fields = Fields::read(cx, node, word);
        keys.extend(fields.many::<String>("key").unwrap_or_default());
    }
    let groups = fields.property::<String>("groups").unwrap_or_default();
    Some(ConfigUser {
        name: fields.one("name")?,
        groups: groups
            .split(',')
            .map(str::trim)
            .filter(|group| !group.is_empty())
            .map(str::to_owned)
            .collect(),
        shell: fields.property("shell"),
        sudo: fields.property("sudo").unwrap_or(false),
        keys,
    })
}

fn file(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<ConfigFile<LocalFile>> {
    let mut contents = fields.many::<String>("content")?;
    if contents.len() > 1 {
        let message = "`file` takes one content";
        cx.push(
            Mistake::at(fields.span, "kiln::lower::extra_argument", message, "more are written")
                .help("write all of it as one text"),
        );
        return None;
    }
    let content = match (contents.pop(), fields.property::<LocalFile>("source")) {
        (Some(content), None) if fields.written("source").is_none() => {
            Text::Written(ended(content))
        }
        (None, Some(file)) => Text::File(file),
        _ => {
            if cx.mistakes.len() == fields.before {
                one_of(cx, fields.span, "file", &["a content", "`source`"]);
            }
            return None;
        }
    };
    let owners: Option<(Option<Owner>, Option<Owner>)> = fields.property("owner");
    let owner = match owners {
        None => None,
        Some((user, group)) => {
            let user = user.map_or_else(|| Some("root".to_owned()), |user| named(cx, fields, user));
            let group = match group {
                Some(group) => Some(named(cx, fields, group)?),
                // cloud-init leaves the group alone where none is named.
                None => None,
            };
            let user = user?;
            Some(group.map_or_else(|| user.clone(), |group| format!("{user}:{group}")))
        }
    };
    let mode: Option<Mode> = fields.property("mode");
    Some(ConfigFile { path: fields.one("path")?, content, mode, owner })
}

/// The name of a file's owner: cloud-init looks for names only (`chownbyname`), and writes none of the
/// files behind one whose owner it does not find.
fn named(cx: &mut Context<'_>, fields: &Fields<'_>, owner: Owner) -> Option<String> {
    match owner {
        Owner::Id(0) => Some("root".to_owned()),
        Owner::Name(name) => Some(name),
        Owner::Id(id) => {
            let span = fields.written("owner").unwrap_or(fields.span);
            let message = format!("cloud-init knows no owner by a number such as {id}");
            cx.push(
                Mistake::at(span, "kiln::lower::bad_value", message, "a number")
                    .help("write the name that the guest has for it"),
            );
            None
        }
    }
}

/// The template that a node describes; `None` if it has no usable name or server.
pub(super) fn heat(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Heat> {
    let (mut seen, mut server, mut wait) = (Vec::new(), None, None);
    let (mut description, mut security_groups) = (None, Vec::new());
    for (node, word) in inner(cx, fields) {
        let fields = Fields::read(cx, node, word);
        if word.keyword != "security-group" {
            only_once(cx, &mut seen, &fields);
        }
        match word.keyword {
            "description" => description = fields.one("text").or(description),
            "security-group" => {
                security_groups.extend(fields.many::<String>("name").unwrap_or_default());
            }
            "wait" => wait = lower_wait(cx, &fields).or(wait),
            _ => server = Some(lower_server(cx, &fields)),
        }
    }
    if server.is_none() && cx.mistakes.len() == fields.before {
        let message = "this template has no server";
        cx.push(
            Mistake::at(fields.span, "kiln::lower::no_server", message, "empty")
                .help("write `server image=\"…\" user-data=\"…\"` in its block"),
        );
    }
    Some(Heat { name: fields.one("name")?, description, server: server?, security_groups, wait })
}

fn lower_server(cx: &mut Context<'_>, fields: &Fields<'_>) -> Server {
    let both = fields.written("image").zip(fields.written("image-name"));
    if let Some((first, second)) = both {
        let message = "`image` and `image-name` exclude each other";
        cx.push(
            Mistake::at(second, "kiln::lower::exactly_one", message, "and this one")
                .and(first, "this one")
                .help("write `image` for one of the workspace, `image-name` for any other"),
        );
    }
    Server {
        image: fields.property("image"),
        image_name: fields.property("image-name"),
        flavor: fields.property("flavor"),
        key_name: fields.property("key-name"),
        network: fields.property("network"),
        user_data: fields.property("user-data"),
    }
}

fn lower_wait(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Wait> {
    let timeout = fields.property::<Duration>("timeout").map_or(TIMEOUT, |time| time.as_secs());
    if timeout > LONGEST {
        let span = fields.written("timeout").unwrap_or(fields.span);
        let message = "Heat waits twelve hours at most";
        cx.push(
            Mistake::at(span, "kiln::lower::bad_period", message, "too long")
                .help("write \"12h\" or less, and have the script do the rest after its signal"),
        );
        return None;
    }
    let count = fields.property::<u64>("count").unwrap_or(1);
    if count > 1000 {
        let span = fields.written("count").unwrap_or(fields.span);
        let message = "Heat counts 1000 signals at most";
        cx.push(
            Mistake::at(span, "kiln::lower::bad_value", message, "too many")
                .help("write a number from 1 to 1000"),
        );
        return None;
    }
    let through = match fields.property::<&'static str>("through") {
        Some("heat") => Through::Heat,
        _ => Through::Swift,
    };
    Some(Wait { timeout, count, through, span: fields.span })
}
