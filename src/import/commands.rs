//! Files of `--commands-from-file`: one option of virt-customize a line, without its `--`.
//!
//! Source: virt-customize(1), "--commands-from-file". Empty lines and lines that start with `#` say
//! nothing, and a `\` at the end of a line goes on with the next one.

use kdl::KdlDocument;

use super::draft::{Draft, ImageDraft, Item};
use super::virt::{Purpose, Session, Tool, Word};
use super::{Files, traps::Traps, write};
use crate::mistake::{Mistake, Severity};
use crate::source::{FileId, Sources, Span};

/// One line of such a file, with those that continue it.
struct Line {
    option: Word,
    value: Option<Word>,
}

/// Whether the first line that says something, and most others, start with an option of
/// virt-customize.
pub(super) fn looks_like(text: &str) -> bool {
    let span = Span { file: FileId(0), offset: 0, len: 0 };
    let found = lines(span.file, text);
    let known = |line: &&Line| super::options::is_customize(&line.option.text);
    found.first().as_ref().is_some_and(known)
        && found.iter().filter(known).count() * 2 > found.len()
}

/// The steps of such a file, for the place in a recipe where it is named, and its mistakes: there,
/// what cannot be translated is an error.
#[must_use]
pub fn steps(sources: &Sources, file: FileId) -> (KdlDocument, Vec<Mistake>) {
    let mut draft = Draft::default();
    let mut traps = Traps::default();
    let no_files: &Files<'_> = &|_| None;
    let mut session = Session::new(&mut draft, &mut traps, Purpose::Step, no_files);
    let whole = Span { file, offset: 0, len: 0 };
    let image = ImageDraft::new("commands".to_owned(), whole);
    read(&mut session, image, sources, file);
    let mut mistakes = traps.into_list();
    for mistake in &mut mistakes {
        if mistake.code == super::traps::NOT_IMPORTED || mistake.code == super::BAD_OPTION {
            mistake.severity = Severity::Error;
            for label in &mut mistake.labels {
                "cannot be done here".clone_into(&mut label.text);
            }
        }
    }
    // What a command line does once, and a step cannot say, has no place in the report here.
    mistakes.retain(|mistake| {
        mistake.severity == Severity::Error || !super::OF_COMMAND_LINES.contains(&mistake.code)
    });
    let steps = draft.images.iter().flat_map(|image| &image.items);
    let steps = steps.filter_map(|item| match item {
        Item::Step(node) => Some(node),
        Item::Note(_) => None,
    });
    (write::nodes(steps), mistakes)
}

/// Adds the steps of such a file to an image.
pub(super) fn read(session: &mut Session<'_>, image: ImageDraft, sources: &Sources, file: FileId) {
    let text = &sources.file(file).text;
    session.begin(image, Tool::Customize);
    for line in lines(file, text) {
        session.commands_line(&line.option, line.value.as_ref());
    }
    session.end();
}

/// Adds the lines of a file that a command line names, as though they were options of it. They have
/// their place where it is named.
pub(super) fn include(session: &mut Session<'_>, place: Span, text: &str) {
    for mut line in lines(place.file, text) {
        if session.image.items.len() > super::MAX_STEPS {
            break;
        }
        for word in std::iter::once(&mut line.option).chain(&mut line.value) {
            word.span = place;
        }
        session.commands_line(&line.option, line.value.as_ref());
    }
}

fn lines(file: FileId, text: &str) -> Vec<Line> {
    let mut found = Vec::new();
    let (mut start, mut joined) = (None, String::new());
    let mut offset = 0;
    for whole in text.split_inclusive('\n') {
        let begin = offset;
        offset += whole.len();
        let line = whole.strip_suffix('\n').unwrap_or(whole);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let first = *start.get_or_insert(begin);
        if let Some(part) = line.strip_suffix('\\')
            && offset < text.len()
        {
            joined.push_str(part);
            continue;
        }
        joined.push_str(line);
        let span = Span { file, offset: first, len: begin + line.len() - first };
        found.extend(split(&joined, span));
        start = None;
        joined.clear();
    }
    found
}

fn split(joined: &str, span: Span) -> Option<Line> {
    let trimmed = joined.trim_start();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return None;
    }
    let indent = joined.len() - trimmed.len();
    let end = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
    let (option, rest) = trimmed.split_at(end);
    let value = rest.trim_start();
    let whole = Span { offset: span.offset + indent, len: span.len.saturating_sub(indent), ..span };
    let option = Word { text: option.to_owned(), span: whole, known: true };
    let value =
        (!value.is_empty()).then(|| Word { text: value.to_owned(), span: whole, known: true });
    Some(Line { option, value })
}
