//! Mistakes of recipes: what is wrong, where, and what to do about it.
//!
//! It knows how a mistake is shown, not how any of them is found.

use std::fmt;
use std::sync::Arc;

use miette::{
    Diagnostic, LabeledSpan, MietteError, MietteSpanContents, NamedSource, SourceCode, SourceSpan,
    SpanContents,
};

use crate::source::{FileId, Sources, Span};

/// How many mistakes are shown at most; the rest are counted.
const MAX_SHOWN: usize = 50;
/// Longest piece of a line that is shown, and longest label, in bytes.
const MAX_LINE: usize = 200;

/// Whether a mistake stops the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The recipe cannot be built.
    Error,
    /// The recipe can be built, but may not mean what its author thinks.
    Warning,
}

/// A place that a mistake points at, and what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What to say about it.
    pub text: String,
}

/// One thing that is wrong with the recipes. The file of its first label is its primary file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Names the kind of mistake, such as `kiln::lower::unknown_node`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where; the first place is the most telling one.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
    /// Whether it stops the run.
    pub severity: Severity,
}

impl Mistake {
    /// A mistake at one place.
    #[must_use]
    pub fn at(
        span: Span,
        code: &'static str,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Self {
        Self {
            code,
            message: message.into(),
            labels: vec![Label { span, text: label.into() }],
            help: None,
            severity: Severity::Error,
        }
    }

    /// Points at another place too.
    #[must_use]
    pub fn and(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: label.into() });
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says what to do, if there is something to say.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Makes it a lint: a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

/// Mistakes with the texts that they point at, in the order of the files: what `main` shows.
#[derive(Debug)]
pub struct Mistakes {
    shown: Vec<Report>,
    left_out: usize,
    severity: Severity,
    place: &'static str,
}

impl Mistakes {
    /// Sorts mistakes by their place, drops repetitions, and takes the texts they need.
    #[must_use]
    pub fn new(mut list: Vec<Mistake>, sources: &Sources) -> Self {
        let place = |mistake: &Mistake| {
            mistake.labels.first().map(|label| (label.span.file, label.span.offset))
        };
        list.sort_by_key(place);
        list.dedup();
        let worst = list.iter().any(|mistake| mistake.severity == Severity::Error);
        let left_out = list.len().saturating_sub(MAX_SHOWN);
        list.truncate(MAX_SHOWN);
        Self {
            shown: list.into_iter().map(|mistake| Report::new(mistake, sources)).collect(),
            left_out,
            severity: if worst { Severity::Error } else { Severity::Warning },
            place: "the recipes",
        }
    }

    /// Says what they are in, where that is not a recipe: such as "the input".
    #[must_use]
    pub fn found_in(mut self, place: &'static str) -> Self {
        self.place = place;
        self
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shown.len() + self.left_out
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// The mistakes that are shown.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.shown.iter().map(|report| &report.mistake)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, many) = match self.severity {
            Severity::Error => ("mistake", "mistakes"),
            Severity::Warning => ("warning", "warnings"),
        };
        let noun = if self.len() == 1 { one } else { many };
        write!(f, "{} {noun} in {}", self.len(), self.place)?;
        if self.left_out > 0 {
            write!(f, ", of which the first {} are shown", self.shown.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl Diagnostic for Mistakes {
    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity.into())
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.shown.iter().map(|report| report as &dyn Diagnostic)))
    }
}

impl From<Severity> for miette::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
        }
    }
}

/// A text whose long lines are shown in part: the report on a hostile file must stay small.
#[derive(Debug)]
struct Text(NamedSource<Arc<str>>);

impl SourceCode for Text {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let whole = self.0.read_span(span, before, after)?;
        let (start, data) = (whole.span().offset(), whole.data());
        if data.len() <= span.len() + 2 * MAX_LINE + 400 {
            return Ok(whole);
        }
        let text: &str = self.0.inner();
        let (first, end) = (span.offset().max(start), span.offset() + span.len());
        let line = text[start..first].rfind('\n').map_or(start, |newline| start + newline + 1);
        let line_end = text[end..].find('\n').map_or(text.len(), |newline| end + newline);
        let from = text.floor_char_boundary(first.saturating_sub(MAX_LINE)).max(line);
        let to = text.ceil_char_boundary(end + MAX_LINE).min(line_end);
        let lines = text[start..line].matches('\n').count();
        Ok(Box::new(MietteSpanContents::new_named(
            self.0.name().to_owned(),
            &text.as_bytes()[from..to],
            (from, to - from).into(),
            whole.line() + lines,
            0,
            1,
        )))
    }
}

/// One mistake with the text of its primary file; places in other files follow as related notes.
#[derive(Debug)]
struct Report {
    mistake: Mistake,
    primary: Option<(FileId, Text)>,
    elsewhere: Vec<Note>,
}

impl Report {
    fn new(mut mistake: Mistake, sources: &Sources) -> Self {
        for label in &mut mistake.labels {
            let text = &sources.file(label.span.file).text;
            let end = label.span.offset + label.span.len.min(MAX_LINE);
            label.span.len = text.floor_char_boundary(end).saturating_sub(label.span.offset);
        }
        let primary = mistake.labels.first().map(|label| label.span.file);
        let elsewhere = mistake
            .labels
            .iter()
            .filter(|label| Some(label.span.file) != primary)
            .map(|label| Note { label: label.clone(), text: Text(sources.named(label.span.file)) })
            .collect();
        let primary = primary.map(|file| (file, Text(sources.named(file))));
        Self { mistake, primary, elsewhere }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistake.message)
    }
}

impl std::error::Error for Report {}

impl Diagnostic for Report {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.mistake.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(self.mistake.severity.into())
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.mistake.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.primary.as_ref().map(|(_, text)| text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (file, _) = self.primary.as_ref()?;
        let here = self.mistake.labels.iter().filter(move |label| label.span.file == *file);
        Some(Box::new(here.map(labeled)))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.elsewhere.is_empty() {
            return None;
        }
        Some(Box::new(self.elsewhere.iter().map(|note| note as &dyn Diagnostic)))
    }
}

/// A place in another file than the mistake's primary one.
#[derive(Debug)]
struct Note {
    label: Label,
    text: Text,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label.text)
    }
}

impl std::error::Error for Note {}

impl Diagnostic for Note {
    fn severity(&self) -> Option<miette::Severity> {
        Some(miette::Severity::Advice)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, self.label.span))))
    }
}

fn labeled(label: &Label) -> LabeledSpan {
    let text = (!label.text.is_empty()).then(|| label.text.clone());
    LabeledSpan::new_with_span(text, label.span)
}

/// The known word nearest to `written`, if one is near enough to be what was meant.
#[must_use]
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Both are bounded so that a hostile name of a megabyte costs nothing.
    let short: String = written.chars().take(80).collect();
    let length = short.chars().count();
    if length == 0 {
        return None;
    }
    let limit = (length / 3).max(1);
    let begins = |a: &str, b: &str| length >= 3 && a.starts_with(b);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&short, word), word))
        .filter(|&(distance, word)| {
            distance <= limit || begins(word, &short) || begins(&short, word)
        })
        .min()
        .map(|(_, word)| word)
}

/// A text in backticks, for a message; or what stands for one that is empty.
#[must_use]
pub fn quoted(text: &str) -> String {
    if text.is_empty() { "an empty text".to_owned() } else { format!("`{}`", excerpt(text)) }
}

/// At most forty characters of a text, without line ends, for a message.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short.replace("\\'", "'").replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["install", "uninstall", "update"];
        assert_eq!(nearest("instal", known), Some("install"));
        assert_eq!(nearest("unistall", known), Some("uninstall"));
        assert_eq!(nearest("up", ["update"]), None);
        assert_eq!(nearest("upd", known), Some("update"));
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("reboot", known), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), known), None);
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("it's \"a\"\nb"), "it's \"a\"\\nb");
        assert_eq!(excerpt(&"x".repeat(99)).chars().count(), 41);
    }
}
