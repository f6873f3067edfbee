//! A checked `publish` to a [`Publish`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fields::{Context, Fields, known_nodes};
use super::only_once;
use super::table::Word;
use crate::mistake::{Mistake, excerpt, quoted};
use crate::name::ImageName;
use crate::recipe::{NOVA_CACHE, Output, Publish, Visibility};
use crate::source::{Span, Spanned};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Longest name, property or tag in characters. Source: the schemas of the Image service API v2.
const LONGEST: usize = 255;
/// What the service itself calls its own. Source: `GET /v2/schemas/image`.
const OWN: &[&str] = &[
    "checksum",
    "container_format",
    "created_at",
    "direct_url",
    "disk_format",
    "file",
    "id",
    "locations",
    "min_disk",
    "min_ram",
    "name",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
    "owner",
    "protected",
    "schema",
    "self",
    "size",
    "status",
    "stores",
    "tags",
    "updated_at",
    "virtual_size",
    "visibility",
];

/// A `publish` whose output is not looked up yet.
pub(super) struct Written {
    publish: Publish,
    /// The format of the output, where it is written.
    output: Option<Spanned<&'static str>>,
}

/// What a node says; `image` is the image's own name.
pub(super) fn lower(
    cx: &mut Context<'_>,
    fields: &Fields<'_>,
    image: Option<&Spanned<ImageName>>,
) -> Written {
    let own = image.map_or_else(String::new, |name| name.value.to_string());
    let name = Spanned { value: own, span: image.map_or(fields.span, |name| name.span) };
    let mut publish = Publish {
        name,
        visibility: Visibility::default(),
        properties: BTreeMap::new(),
        automatic: true,
        tags: BTreeSet::new(),
        output: 0,
        keep_old: Duration::from_secs(NOVA_CACHE),
        keep_last: 1,
        protected: false,
        min_disk: None,
        min_ram: None,
        cloud: None,
        region: None,
        span: cx.whole(fields.node),
    };
    let (mut output, mut seen) = (None, Vec::new());
    let nodes = match fields.node.children() {
        Some(block) => {
            let known: Vec<&'static Word> = fields.word.children().collect();
            known_nodes(cx, block, "`publish glance`", &known)
        }
        None => Vec::new(),
    };
    for (node, word) in nodes {
        let inner = Fields::read(cx, node, word);
        match word.keyword {
            "property" => property(cx, &inner, &mut publish.properties),
            "tag" => publish.tags.extend(tags(cx, &inner)),
            keyword => {
                only_once(cx, &mut seen, &inner);
                if keyword == "output" {
                    output = inner.one("format");
                } else {
                    setting(cx, &inner, &mut publish);
                }
            }
        }
    }
    Written { publish, output }
}

/// A node that is written once.
fn setting(cx: &mut Context<'_>, inner: &Fields<'_>, publish: &mut Publish) {
    match inner.word.keyword {
        "name" => {
            if let Some(name) = inner.one::<Spanned<String>>("name")
                && fits(cx, "name", &name.value, name.span)
            {
                publish.name = name;
            }
        }
        "visibility" => {
            let word = inner.one::<&'static str>("who");
            let found = Visibility::ALL.into_iter().find(|known| Some(known.keyword()) == word);
            publish.visibility = found.unwrap_or_default();
        }
        "auto-properties" => publish.automatic = inner.one("wanted").unwrap_or(true),
        "protected" => publish.protected = inner.one("wanted").unwrap_or(false),
        "keep-old" => publish.keep_old = inner.one("period").unwrap_or(publish.keep_old),
        "keep-last" => {
            let count = inner.one::<u64>("count").and_then(|count| count.try_into().ok());
            publish.keep_last = count.unwrap_or(publish.keep_last);
        }
        "min-disk" => publish.min_disk = inner.one::<u64>("size").map(|size| size.div_ceil(GIB)),
        "min-ram" => publish.min_ram = inner.one::<u64>("size").map(|size| size / MIB),
        "cloud" => publish.cloud = inner.one("name"),
        "region" => publish.region = inner.one("name"),
        word => unreachable!("kiln bug: the table has `{word}` in `publish` that lowering lacks"),
    }
}

fn property(
    cx: &mut Context<'_>,
    inner: &Fields<'_>,
    known: &mut BTreeMap<String, Spanned<String>>,
) {
    let key = inner.one::<Spanned<String>>("key");
    let value = inner.one::<Spanned<String>>("value");
    let (Some(key), Some(value)) = (key, value) else { return };
    let shown = excerpt(&key.value);
    let refuse = |cx: &mut Context<'_>, why: String, help: &str| {
        cx.push(Mistake::at(key.span, "kiln::lower::bad_value", why, "here").help(help));
    };
    let odd = |c: char| !c.is_ascii_alphanumeric() && !"_-.:".contains(c);
    if key.value.is_empty() || key.value.contains(odd) {
        let help = "letters, digits, `_`, `-`, `.` and `:` may stand in it, as in `hw_disk_bus`";
        refuse(cx, format!("`{shown}` is no name of a property"), help);
    } else if OWN.contains(&key.value.as_str()) {
        let help = "what the service says of an image itself is no property of yours";
        refuse(cx, format!("`{shown}` belongs to the image service"), help);
    } else if key.value.starts_with("kiln_") {
        let help = "by these properties kiln finds its images again";
        refuse(cx, format!("`{shown}` is one of kiln's own properties"), help);
    } else if let Some(first) = known.get(&key.value) {
        let message = format!("the property `{shown}` is written twice");
        cx.push(
            Mistake::at(key.span, "kiln::lower::duplicate_node", message, "written again")
                .and(first.span, "its first value")
                .help("remove one of them"),
        );
    } else if fits(cx, "name of a property", &key.value, key.span) {
        known.insert(key.value.clone(), value);
    }
}

fn tags(cx: &mut Context<'_>, inner: &Fields<'_>) -> Vec<String> {
    let tags = inner.many::<Spanned<String>>("tag").unwrap_or_default();
    tags.into_iter()
        .filter(|tag| fits(cx, "tag", &tag.value, tag.span))
        .map(|tag| tag.value)
        .collect()
}

/// Whether a text is one that the service takes.
fn fits(cx: &mut Context<'_>, what: &str, text: &str, span: Span) -> bool {
    let why = if text.trim().is_empty() {
        "there is nothing in it"
    } else if text.chars().count() > LONGEST {
        "it is longer than 255 characters"
    } else if text.chars().any(char::is_control) {
        "a control character stands in it"
    } else {
        return true;
    };
    let message = format!("{} is no {what}: {why}", quoted(text));
    cx.push(
        Mistake::at(span, "kiln::lower::bad_value", message, "here")
            .help("write it like this: \"debian-golden\""),
    );
    false
}

/// Looks up the output that is published.
pub(super) fn with_output(cx: &mut Context<'_>, written: Written, outputs: &[Output]) -> Publish {
    let Written { mut publish, output } = written;
    let Some(wanted) = output else { return publish };
    if let Some(place) = outputs.iter().position(|o| o.format.extension() == wanted.value) {
        publish.output = place;
    } else {
        let message = format!("the image has no output `{}` to publish", wanted.value);
        let help = format!("write `output \"{}\"` in the block of the image too", wanted.value);
        cx.push(
            Mistake::at(wanted.span, "kiln::lower::no_such_output", message, "this format")
                .help(help),
        );
    }
    publish
}
