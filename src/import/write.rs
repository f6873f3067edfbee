//! Drafts to KDL: the one writer, and the check that what is written means something.
//!
//! Every node goes through kiln's own lowering before it is written. One that it refuses becomes a
//! comment with the reason, so that a recipe that was imported always compiles.

use std::collections::BTreeMap;

use kdl::{KdlDocument, KdlEntry, KdlEntryFormat, KdlNode, KdlNodeFormat};

use super::draft::{Draft, ImageDraft, Item, Node, SecretDraftPlace, Value};
use super::secrets;
use super::traps::Traps;
use crate::lower;
use crate::source::{Sources, Span};

const INDENT: &str = "    ";

/// The text of a recipe. What lowering refuses becomes a comment, and is reported.
pub(super) fn recipe(draft: &mut Draft, sources: &Sources, traps: &mut Traps) -> String {
    for image in &mut draft.images {
        settle(image, sources, traps);
    }
    let mut document = KdlDocument::new();
    for (count, image) in draft.images.iter().enumerate() {
        let mut leading = String::new();
        if count == 0 {
            leading.push_str(&comments(&header(draft), 0));
        }
        if !leading.is_empty() || count > 0 {
            leading.push('\n');
        }
        leading.push_str(&comments(&image.notes, 0));
        document.nodes_mut().push(image_node(image, &leading));
    }
    document.to_string()
}

/// What `kiln.kdl` needs for the secrets that the recipe names; empty if it names none.
pub(super) fn settings(draft: &Draft) -> String {
    let mut document = KdlDocument::new();
    for secret in &draft.secrets {
        let span = zero();
        let node = match &secret.place {
            SecretDraftPlace::Env(_) => {
                let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
                let name: String = secret.name.chars().map(letter).collect();
                let name = format!("KILN_{}", name.to_ascii_uppercase());
                Node::new("secret", [&secret.name], span).text("env", name)
            }
            SecretDraftPlace::File(path) => {
                Node::new("secret", [&secret.name], span).text("file", path)
            }
        };
        document.nodes_mut().push(kdl_node(&node, 0, ""));
    }
    document.to_string()
}

fn header(draft: &Draft) -> Vec<String> {
    let mut lines = draft.notes.clone();
    if !draft.secrets.is_empty() {
        lines.push("the secrets below are found through `kiln.kdl`:".to_owned());
        lines.extend(settings(draft).lines().map(|line| format!("    {line}")));
    }
    lines
}

/// Nodes with their places in the input, for lowering.
pub(super) fn nodes<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> KdlDocument {
    let mut document = KdlDocument::new();
    for node in nodes {
        document.nodes_mut().push(kdl_node(node, 1, ""));
    }
    document
}

/// Turns what lowering refuses into notes.
fn settle(image: &mut ImageDraft, sources: &Sources, traps: &mut Traps) {
    if let Some(base) = &image.base
        && let Some(why) = fault(base, sources)
    {
        traps.left(base.span, why.clone(), "write the base by hand");
        image.items.insert(0, Item::Note(left_out(base, &why)));
        image.base = None;
    }
    for item in &mut image.items {
        if let Item::Step(node) = item
            && let Some(why) = fault(node, sources)
        {
            traps.left(node.span, why.clone(), "write what it should do by hand");
            *item = Item::Note(left_out(node, &why));
        }
    }
    let mut lost = Vec::new();
    for slot in [&mut image.subscription, &mut image.scrub] {
        if let Some(node) = slot.as_ref()
            && let Some(why) = fault(node, sources)
        {
            traps.left(node.span, why.clone(), "write what it should do by hand");
            lost.push(Item::Note(left_out(node, &why)));
            *slot = None;
        }
    }
    image.outputs.retain(|node| match fault(node, sources) {
        None => true,
        Some(why) => {
            traps.left(node.span, why.clone(), "write the output by hand");
            lost.push(Item::Note(left_out(node, &why)));
            false
        }
    });
    image.items.extend(lost);
    if image.subscription.is_none() {
        // A step that wants a subscription that is not there would be refused.
        for item in &mut image.items {
            if let Item::Step(node) = item {
                node.properties.retain(|(name, _)| *name != "subscription");
            }
        }
    }
    if image.base.is_none() {
        let why = "what the disk starts from could not be found: put it here";
        image.base = Some(Node::new("base", ["file", "disk.qcow2"], image.span).noted(why));
        traps.push(
            image.span,
            "kiln::import::no_base",
            format!("what `{}` starts from is not known", image.name),
            "this command does not name a disk",
            "replace the `base` in the recipe",
        );
    }
}

fn left_out(node: &Node, why: &str) -> String {
    let shown = kdl_node(node, 0, "").to_string();
    format!("not imported: {}\n{why}", shown.trim_end())
}

/// Why kiln refuses a node of an image's block.
pub(super) fn fault(node: &Node, sources: &Sources) -> Option<String> {
    let mut image = KdlNode::new("image");
    image.push(KdlEntry::new("draft"));
    let mut block = KdlDocument::new();
    if node.word != "base" {
        let mut base = KdlNode::new("base");
        base.push(KdlEntry::new("scratch"));
        block.nodes_mut().push(base);
    }
    block.nodes_mut().push(kdl_node(node, 1, ""));
    image.set_children(block);
    let mut document = KdlDocument::new();
    document.nodes_mut().push(image);
    let file = node.span.file;
    let (_, mistakes) = lower::recipe(&document, file, sources, &BTreeMap::new());
    mistakes.first().map(|mistake| mistake.message.clone())
}

fn zero() -> Span {
    Span { file: crate::source::FileId(0), offset: 0, len: 0 }
}

fn image_node(image: &ImageDraft, leading: &str) -> KdlNode {
    let mut block = KdlDocument::new();
    let (mut notes, mut first) = (Vec::new(), true);
    let mut groups: Vec<Vec<&Node>> = vec![image.base.iter().chain(&image.subscription).collect()];
    groups.push(Vec::new());
    groups.push(image.scrub.iter().chain(&image.outputs).collect());
    for (number, group) in groups.into_iter().enumerate() {
        let mut start = !first;
        let mut put = |node: &Node, notes: &mut Vec<String>| {
            let mut leading = String::new();
            if std::mem::take(&mut start) {
                leading.push('\n');
            }
            leading.push_str(&comments(&std::mem::take(notes), 1));
            leading.push_str(&comments(&node.notes, 1));
            block.nodes_mut().push(kdl_node(node, 1, &leading));
            first = false;
        };
        if number == 1 {
            for item in &image.items {
                match item {
                    Item::Note(note) => notes.push(note.clone()),
                    Item::Step(node) => put(node, &mut notes),
                }
            }
        } else {
            for node in group {
                put(node, &mut notes);
            }
        }
    }
    let mut node = KdlNode::new("image");
    node.push(entry(None, &Value::Text(image.name.clone()), 0, image.span));
    // Notes behind the last node: before the closing brace.
    if !notes.is_empty()
        && let Some(last) = block.nodes_mut().last_mut()
        && let Some(format) = last.format_mut()
    {
        format.trailing = comments(&notes, 1);
    }
    let mut shape = format_of(block, &mut node);
    leading.clone_into(&mut shape.leading);
    node.set_format(shape);
    node
}

/// Puts a block into a node, with its braces on the lines where they belong.
fn format_of(mut block: KdlDocument, node: &mut KdlNode) -> KdlNodeFormat {
    let mut format = KdlNodeFormat { terminator: "\n".to_owned(), ..KdlNodeFormat::default() };
    if !block.nodes().is_empty() {
        block.set_format(kdl::KdlDocumentFormat {
            leading: "\n".to_owned(),
            ..kdl::KdlDocumentFormat::default()
        });
        node.set_children(block);
        " ".clone_into(&mut format.before_children);
    }
    format
}

fn kdl_node(node: &Node, depth: usize, leading: &str) -> KdlNode {
    let indent = INDENT.repeat(depth);
    let mut written = KdlNode::new(node.word);
    let place = (node.span.offset, node.span.len);
    written.name_mut().set_span(place);
    written.set_span(place);
    let forms = node.word == "base";
    for (number, argument) in node.arguments.iter().enumerate() {
        let bare = forms && number == 0;
        let value = Value::Text(argument.clone());
        let mut entry = entry(None, &value, depth, node.span);
        if bare && let Some(format) = entry.format_mut() {
            format.value_repr.clone_from(argument);
        }
        written.push(entry);
    }
    for (name, value) in &node.properties {
        written.push(entry(Some(name), value, depth, node.span));
    }
    let mut block = KdlDocument::new();
    for child in &node.children {
        block.nodes_mut().push(kdl_node(child, depth + 1, ""));
    }
    if let Some(last) = block.nodes_mut().last_mut()
        && let Some(format) = last.format_mut()
    {
        format.trailing.clone_from(&indent);
    }
    let mut format = format_of(block, &mut written);
    format.leading = format!("{leading}{indent}");
    written.set_format(format);
    written
}

fn entry(name: Option<&str>, value: &Value, depth: usize, span: Span) -> KdlEntry {
    let value_repr = match value {
        Value::Text(text) => quote(text, depth),
        Value::Flag(flag) => format!("#{flag}"),
    };
    let mut entry = match value {
        Value::Text(text) => KdlEntry::new(text.clone()),
        Value::Flag(flag) => KdlEntry::new(*flag),
    };
    if let Some(name) = name {
        entry.set_name(Some(name));
        if let Some(name) = entry.name_mut() {
            name.set_span((span.offset, span.len));
        }
    }
    entry.set_format(KdlEntryFormat {
        value_repr,
        leading: " ".to_owned(),
        ..KdlEntryFormat::default()
    });
    entry.set_span((span.offset, span.len));
    entry
}

/// Characters that KDL does not take as they are, or that end a line of it.
fn is_odd(c: char) -> bool {
    matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{200e}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A text as KDL has it: on lines of its own if it has several, raw if it has backslashes or quotes.
fn quote(text: &str, depth: usize) -> String {
    let plain = !text.chars().any(|c| is_odd(c) && c != '\n' && c != '\t');
    let blank = |line: &str| !line.is_empty() && line.trim().is_empty();
    if plain && text.contains('\n') && !text.split('\n').any(blank) {
        return quote_lines(text, depth);
    }
    if plain && !text.contains(['\n', '\t']) && text.contains(['"', '\\']) {
        let hashes = "#".repeat(longest_hashes(text) + 1);
        // Behind the opening quote, another one would look like the start of a longer text.
        if !text.starts_with('"') {
            return format!("{hashes}\"{text}\"{hashes}");
        }
    }
    let mut written = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => written.push_str("\\\""),
            '\\' => written.push_str("\\\\"),
            '\n' => written.push_str("\\n"),
            '\t' => written.push_str("\\t"),
            '\r' => written.push_str("\\r"),
            c if is_odd(c) => written.extend(c.escape_unicode()),
            c => written.push(c),
        }
    }
    written.push('"');
    written
}

fn quote_lines(text: &str, depth: usize) -> String {
    let indent = INDENT.repeat(depth + 1);
    let raw = text.contains('\\') || text.contains("\"\"\"");
    let hashes = if raw { "#".repeat(longest_hashes(text) + 1) } else { String::new() };
    let mut written = format!("{hashes}\"\"\"\n");
    for line in text.split('\n') {
        if !line.is_empty() {
            written.push_str(&indent);
            written.push_str(line);
        }
        written.push('\n');
    }
    written.push_str(&indent);
    written.push_str("\"\"\"");
    written.push_str(&hashes);
    written
}

/// The longest run of `#` behind a quote.
fn longest_hashes(text: &str) -> usize {
    let runs = text.split('"').skip(1).map(|rest| rest.len() - rest.trim_start_matches('#').len());
    runs.max().unwrap_or(0)
}

/// Comment lines, each with the indentation of that depth.
fn comments(notes: &[String], depth: usize) -> String {
    let indent = INDENT.repeat(depth);
    let mut text = String::new();
    // A command that was not understood may hold a password.
    let notes: Vec<String> = notes.iter().map(|note| secrets::hidden(note)).collect();
    for line in notes.iter().flat_map(|note| note.split('\n')) {
        text.push_str(&indent);
        text.push_str("//");
        if !line.trim().is_empty() {
            text.push(' ');
        }
        for c in line.trim_end().chars() {
            if is_odd(c) {
                text.extend(c.escape_unicode());
            } else {
                text.push(c);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(text: &str) -> String {
        let node = Node::new("write", ["/a", text], zero());
        let written = kdl_node(&node, 1, &comments(&[text.to_owned()], 1)).to_string();
        let file = crate::source::FileId(0);
        let document = crate::parse::parse(file, &written)
            .unwrap_or_else(|faults| panic!("{written}: {faults:?}"));
        assert_eq!(document.nodes().len(), 1, "{written}");
        document.nodes()[0].entries()[1].value().as_string().unwrap().to_owned()
    }

    #[test]
    fn texts_come_back_as_they_were() {
        for text in [
            "",
            "a",
            "a b",
            "\"",
            "\\",
            "\"#",
            "\"\"",
            "\"\"\"",
            "a\nb",
            "a\nb\n",
            "\na",
            "\n",
            "a\n  b\n\nc\n",
            " \n",
            "a\n \nb",
            "\\n\n\"\"\"#\n",
            "\t",
            "\ta\n\tb",
            "\r\n",
            "\u{7f}",
            "\u{feff}",
            "\u{2028}x",
            "s/\"a\"/\\1/",
            "a\\",
            "\"a",
            "x\"",
        ] {
            assert_eq!(read_back(text), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "(\\PC|[\n\t\"#\\\\ ]|[\u{0}-\u{20}]|[\u{2020}-\u{2070}]){0,24}") {
            prop_assert_eq!(read_back(&text), text);
        }
    }
}
