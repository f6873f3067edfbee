//! `base`: where an image's disk comes from.
//!
//! Turns a checked node into a [`Base`]; whether the file or image exists is not known here.

use std::collections::BTreeSet;

use super::fields::{Context, Fields, known_nodes};
use super::table::Word;
use crate::recipe::{Base, Bootstrap, DiskFormat, FileBase, LocalFile};
use crate::source::Spanned;

/// Size of a bootstrapped disk where none is written.
const DEFAULT_SIZE: u64 = 4 << 30;

/// The base that a node describes; `None` if something about it is wrong.
pub(super) fn lower(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Base<LocalFile>> {
    match fields.word.form {
        Some("bootstrap") => bootstrap(cx, fields).map(Base::Bootstrap),
        Some("file") => Some(Base::File(FileBase {
            file: fields.one("disk")?,
            format: fields.property::<&str>("format").map(|format| match format {
                "raw" => DiskFormat::Raw,
                _ => DiskFormat::Qcow2,
            }),
        })),
        _ => Some(Base::Image(fields.one::<Spanned<_>>("image")?)),
    }
}

/// What stands in for a base that could not be read, so that the rest can be checked too.
pub(super) fn placeholder() -> Base<LocalFile> {
    Base::Bootstrap(Bootstrap {
        suite: String::new(),
        size: DEFAULT_SIZE,
        mirrors: Vec::new(),
        components: Vec::new(),
        variant: String::new(),
        packages: BTreeSet::new(),
        refresh: None,
    })
}

fn bootstrap(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Bootstrap> {
    let (mut mirrors, mut components) = (Vec::new(), Vec::new());
    let mut packages = BTreeSet::new();
    if let Some(block) = fields.node.children() {
        let known: Vec<&'static Word> = fields.word.children().collect();
        for (node, word) in known_nodes(cx, block, "`base bootstrap`", &known) {
            let inner = Fields::read(cx, node, word);
            match word.keyword {
                "package" => packages.extend(inner.many::<String>("package").unwrap_or_default()),
                "mirror" => mirrors.extend(inner.many::<String>("url").unwrap_or_default()),
                _ => components.extend(inner.many::<String>("name").unwrap_or_default()),
            }
        }
    }
    if components.is_empty() {
        components.push("main".to_owned());
    }
    Some(Bootstrap {
        suite: fields.one("suite")?,
        size: fields.property("size").unwrap_or(DEFAULT_SIZE),
        mirrors,
        components,
        variant: fields.property::<&str>("variant").unwrap_or("important").to_owned(),
        packages,
        refresh: fields.property("refresh"),
    })
}
