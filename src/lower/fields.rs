//! One node against its row of the table.
//!
//! Finds everything that the table can find: unknown, doubled, missing and misfit values, and blocks
//! that do not belong. What the values add up to is for the callers.

use std::collections::BTreeMap;
use std::path::Path;

use kdl::{KdlDocument, KdlEntry, KdlNode};

use super::table::{Argument, Property, RECIPE, Times, Word};
use super::value::{self, Place, Take, Value};
use crate::mistake::{Mistake, excerpt, nearest};
use crate::source::{FileId, Span, Spanned};

/// The file that is lowered, and the mistakes found in it so far.
pub(super) struct Context<'a> {
    pub(super) file: FileId,
    /// The recipe's directory, from the workspace root.
    pub(super) directory: &'a Path,
    pub(super) text: &'a str,
    pub(super) mistakes: Vec<Mistake>,
}

impl Context<'_> {
    pub(super) fn span(&self, span: miette::SourceSpan) -> Span {
        Span { file: self.file, offset: span.offset(), len: span.len() }
    }

    /// The node's name, which is where a message about the node points.
    pub(super) fn name(&self, node: &KdlNode) -> Span {
        self.span(node.name().span())
    }

    /// The whole node, without the white space that follows it.
    pub(super) fn whole(&self, node: &KdlNode) -> Span {
        let span = self.span(node.span());
        let text = self.text.get(span.offset..span.offset + span.len).unwrap_or_default();
        Span { len: text.trim_end().len(), ..span }
    }

    pub(super) fn push(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }
}

/// What a node says: checked values by the names that the table gives them.
pub(super) struct Fields<'a> {
    pub(super) node: &'a KdlNode,
    pub(super) word: &'static Word,
    /// The node's name in the recipe.
    pub(super) span: Span,
    /// How many mistakes were known before this node was read.
    pub(super) before: usize,
    arguments: BTreeMap<&'static str, Vec<Spanned<Value>>>,
    properties: BTreeMap<&'static str, Spanned<Value>>,
    /// Properties that were written, rightly or not, and where.
    written: BTreeMap<&'static str, Span>,
}

impl<'a> Fields<'a> {
    /// Reads a node; `skip` arguments were the form.
    pub(super) fn read(cx: &mut Context<'_>, node: &'a KdlNode, word: &'static Word) -> Self {
        let span = cx.name(node);
        let mut fields = Self {
            node,
            word,
            span,
            before: cx.mistakes.len(),
            arguments: BTreeMap::new(),
            properties: BTreeMap::new(),
            written: BTreeMap::new(),
        };
        let mut arguments = Vec::new();
        for entry in node.entries() {
            if entry.name().is_some() {
                fields.property_entry(cx, entry);
            } else {
                arguments.push(entry);
            }
        }
        let skip = usize::from(word.form.is_some());
        fields.argument_entries(cx, arguments.get(skip..).unwrap_or_default());
        if word.children.is_empty()
            && let Some(block) = node.children()
            && let Some(first) = block.nodes().first()
        {
            let message = format!("`{}` has no block", word.title());
            cx.push(
                Mistake::at(
                    cx.name(first),
                    "kiln::lower::unexpected_block",
                    message,
                    "does not belong here",
                )
                .help("close the block of the image, or the step, before this line"),
            );
        }
        fields
    }

    fn property_entry(&mut self, cx: &mut Context<'_>, entry: &KdlEntry) {
        let Some(name) = entry.name() else { return };
        let name_span = cx.span(name.span());
        let title = self.word.title();
        let Some(property) = self.word.properties().find(|known| known.name == name.value()) else {
            let known: Vec<_> = self.word.properties().map(|known| known.name).collect();
            let message = format!("`{title}` has no property `{}`", excerpt(name.value()));
            let help = match nearest(name.value(), known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => "remove it: there are no properties here".to_owned(),
                None => format!("it has {}", listed(&known)),
            };
            cx.push(
                Mistake::at(name_span, "kiln::lower::unknown_property", message, "not known")
                    .help(help),
            );
            return;
        };
        if let Some(&first) = self.written.get(property.name) {
            let message = format!("the property `{}` is written twice", property.name);
            cx.push(
                Mistake::at(name_span, "kiln::lower::duplicate_property", message, "written again")
                    .and(first, "first written here")
                    .help("remove one of them"),
            );
            return;
        }
        self.written.insert(property.name, name_span);
        if let Some(value) = checked(cx, *property, entry) {
            self.properties.insert(property.name, value);
        }
    }

    fn argument_entries(&mut self, cx: &mut Context<'_>, entries: &[&KdlEntry]) {
        let known = self.word.arguments;
        for (index, entry) in entries.iter().enumerate() {
            let repeated = known.last().filter(|last| last.times != Times::Once);
            let Some(argument) = known.get(index).or(repeated) else {
                self.too_many(cx, entry);
                break;
            };
            if let Some(value) = checked_value(cx, argument.kind, entry) {
                self.arguments.entry(argument.name).or_default().push(value);
            }
        }
        for argument in known.iter().skip(entries.len()) {
            if argument.times != Times::Any {
                self.missing(cx, *argument);
            }
        }
    }

    fn too_many(&self, cx: &mut Context<'_>, entry: &KdlEntry) {
        let title = self.word.title();
        let count = self.word.arguments.len();
        let message = match count {
            0 => format!("`{title}` takes no argument"),
            1 => format!("`{title}` takes one argument"),
            _ => format!("`{title}` takes {count} arguments"),
        };
        let written = entry.value().as_string().unwrap_or_default();
        let meant = self.word.properties().find(|property| property.name == written);
        let help = match meant {
            Some(property) => {
                format!("write the property as `{}={}`", property.name, property.kind.example())
            }
            None => format!("write it like this: {}", usage(self.word)),
        };
        let span = cx.span(entry.span());
        cx.push(
            Mistake::at(span, "kiln::lower::extra_argument", message, "one too many").help(help),
        );
    }

    fn missing(&self, cx: &mut Context<'_>, argument: Argument) {
        let title = self.word.title();
        let message = format!("`{title}` lacks its argument `{}`", argument.name);
        let label = format!("{} is expected behind this", argument.kind.expected());
        let help = format!("write it like this: {}", usage(self.word));
        cx.push(Mistake::at(self.span, "kiln::lower::missing_argument", message, label).help(help));
    }

    /// An argument that is written once.
    pub(super) fn one<T: Take>(&self, name: &str) -> Option<T> {
        self.arguments.get(name)?.first().and_then(T::take)
    }

    /// All values of an argument that may be repeated, if each of them is right.
    pub(super) fn many<T: Take>(&self, name: &str) -> Option<Vec<T>> {
        let values = self.arguments.get(name).map(Vec::as_slice).unwrap_or_default();
        let place = self.word.arguments.iter().position(|known| known.name == name)?;
        let form = usize::from(self.word.form.is_some());
        let positional = self.node.entries().iter().filter(|entry| entry.name().is_none());
        let written = positional.count().saturating_sub(form + place);
        let required = self.word.arguments.get(place)?.times == Times::Some;
        if values.len() < written || (required && values.is_empty()) {
            return None;
        }
        values.iter().map(T::take).collect()
    }

    /// A property, if it is written and right.
    pub(super) fn property<T: Take>(&self, name: &str) -> Option<T> {
        self.properties.get(name).and_then(T::take)
    }

    /// Where a property is written, rightly or not.
    pub(super) fn written(&self, name: &str) -> Option<Span> {
        self.written.get(name).copied()
    }
}

fn checked(cx: &mut Context<'_>, property: Property, entry: &KdlEntry) -> Option<Spanned<Value>> {
    checked_value(cx, property.kind, entry)
}

fn checked_value(
    cx: &mut Context<'_>,
    kind: super::table::Kind,
    entry: &KdlEntry,
) -> Option<Spanned<Value>> {
    let span = cx.span(entry.span());
    let place = Place { span, directory: cx.directory };
    match value::check(kind, entry.value(), place) {
        Ok(value) => Some(Spanned { value, span }),
        Err(misfit) => {
            let mistake = Mistake::at(span, misfit.code, misfit.message, "here");
            cx.push(mistake.maybe_help(misfit.help));
            None
        }
    }
}

/// How a node is written, from the table.
pub(super) fn usage(word: &Word) -> String {
    let form = word.form.map(|form| format!(" {form}")).unwrap_or_default();
    let mut text = format!("{}{form}", word.keyword);
    for argument in word.arguments.iter().filter(|argument| argument.times != Times::Any) {
        text.push(' ');
        text.push_str(argument.example());
    }
    text
}

/// Words in backticks, with commas.
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// The nodes of a block, each with its row of the table; unknown ones are reported.
pub(super) fn known_nodes<'a>(
    cx: &mut Context<'_>,
    block: &'a KdlDocument,
    owner: &str,
    known: &[&'static Word],
) -> Vec<(&'a KdlNode, &'static Word)> {
    let mut found = Vec::new();
    for node in block.nodes() {
        let name = node.name().value();
        let rows: Vec<_> = known.iter().copied().filter(|word| word.keyword == name).collect();
        match rows.as_slice() {
            [] => unknown_node(cx, node, owner, known),
            [word] if word.form.is_none() => found.push((node, *word)),
            forms => found.extend(form_of(cx, node, forms).map(|word| (node, word))),
        }
    }
    found
}

fn unknown_node(cx: &mut Context<'_>, node: &KdlNode, owner: &str, known: &[&'static Word]) {
    let name = node.name().value();
    let message = format!("there is no `{}` in {owner}", excerpt(name));
    let mut words: Vec<_> = known.iter().map(|word| word.keyword).collect();
    words.dedup();
    let help = match (foreign(name), nearest(name, words.iter().copied())) {
        // A word that differs in its end only is what was meant, whatever else it means elsewhere.
        (_, Some(near)) if near.starts_with(name) || name.starts_with(near) => {
            format!("did you mean `{near}`?")
        }
        (Some(help), _) => help.to_owned(),
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => format!("{} can stand here", listed(&words)),
    };
    cx.push(
        Mistake::at(cx.name(node), "kiln::lower::unknown_node", message, "not known").help(help),
    );
}

/// Words of other tools, and words that stand at the wrong level.
fn foreign(name: &str) -> Option<&'static str> {
    Some(match name {
        "root-password" => "write `password \"root\" …`",
        "sm-register" | "sm-attach" | "sm-credentials" => {
            "write `subscription organization=… activation-key=…` in the image, and \
             `subscription=#true` at the steps that need it"
        }
        "sm-remove" | "sm-unregister" => {
            "leave it out: kiln unregisters behind the steps with `subscription=#true`, also on failure"
        }
        "env" | "user" => "write `run-command` with a script that does this",
        "image" => "images stand in files below `recipes/`, each at the top level",
        "keep" | "also" | "keep-user" => "write it in the block of `scrub`",
        "package" | "mirror" | "component" => "write it in the block of `base bootstrap`",
        "partition" | "table" | "firmware" => {
            "write it in the block of `base bootstrap` or `base scratch`"
        }
        "packages" => "write it in the block of `cloud-config`",
        "runcmd" => "write `run \"…\"` in the block of `cloud-config`",
        "write-files" | "write_files" => "write `file \"…\" \"…\"` in the block of `cloud-config`",
        "pool" => "write it in the block of `subscription`",
        "expect" | "expect-command" => "write it in the block of `test`",
        "attach" | "secret" => {
            "write it in the block of the step that needs it; where a secret is found stands in `kiln.kdl`"
        }
        _ if RECIPE[0].children().any(|word| word.keyword == name) => {
            "write it in the block of an `image`"
        }
        _ => return None,
    })
}

fn form_of(cx: &mut Context<'_>, node: &KdlNode, forms: &[&'static Word]) -> Option<&'static Word> {
    let keyword = node.name().value();
    let words: Vec<_> = forms.iter().filter_map(|word| word.form).collect();
    let Some(entry) = node.entries().iter().find(|entry| entry.name().is_none()) else {
        let message = format!("`{keyword}` does not say which kind");
        let help = format!("write one of {} behind it", listed(&words));
        cx.push(
            Mistake::at(
                cx.name(node),
                "kiln::lower::missing_argument",
                message,
                "a kind is expected behind this",
            )
            .help(help),
        );
        return None;
    };
    let written = entry.value().as_string();
    if let Some(word) = forms.iter().find(|word| word.form == written) {
        return Some(word);
    }
    let shown = written.map_or_else(|| entry.value().to_string(), excerpt);
    let message = format!("`{keyword}` knows no `{shown}`");
    let hint = nearest(written.unwrap_or_default(), words.iter().copied())
        .filter(|_| written.is_some_and(|text| !text.is_empty()))
        .map(|near| format!("did you mean `{near}`? "))
        .unwrap_or_default();
    let help = format!("{hint}{} can be written", listed(&words));
    let span = cx.span(entry.span());
    cx.push(Mistake::at(span, "kiln::lower::unknown_word", message, "not known").help(help));
    None
}
