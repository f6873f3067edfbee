//! Shell scripts as the commands in them, in the order in which they are written.
//!
//! Nothing is run. Variables are replaced by their values where those are known: set once before,
//! outside of conditions, loops and functions. What commands mean is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use brush_parser::ast::{
    self, AndOr, Assignment, AssignmentName, AssignmentValue, Command, CommandPrefixOrSuffixItem,
    CompoundCommand, CompoundList, IoFileRedirectKind, IoFileRedirectTarget, IoRedirect,
    SimpleCommand,
};
use brush_parser::word::{self, Parameter, ParameterExpr, WordPiece};
use brush_parser::{ParseError, Parser, ParserOptions};

use super::budget::Budget;
use super::virt::Word;
use crate::mistake::Mistake;
use crate::source::{FileId, Span};

/// Stack for the recursive parser.
const STACK: usize = 128 << 20;
/// Deepest nesting of brackets; the parser's time may double with each level.
const MAX_BRACKETS: usize = 12;
/// Deepest nesting of compound commands.
const MAX_DEPTH: usize = 100;

/// One simple command.
#[derive(Debug)]
pub(super) struct Call {
    /// The program and its arguments.
    pub(super) words: Vec<Word>,
    /// Variables with known values: the script's own so far, and those before the command.
    pub(super) variables: BTreeMap<String, String>,
    pub(super) span: Span,
    /// Whether its output goes to a file.
    pub(super) writes: bool,
    /// What it stands in that may keep it from running, or run it more than once.
    pub(super) within: Option<&'static str>,
}

/// The commands of a script.
///
/// # Errors
/// If it is not shell.
pub(super) fn calls(file: FileId, text: &str) -> Result<Vec<Call>, Mistake> {
    guard(file, text)?;
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .name("shell".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, || read(file, text));
        // A panic in the parser is reported: scripts may come from strangers.
        let read = reader.ok().and_then(|thread| thread.join().ok());
        read.unwrap_or_else(|| {
            let span = Span { file, offset: 0, len: 0 };
            let message = "the shell's parser could not run on this file";
            Err(Mistake::at(span, SYNTAX, message, "in this file")
                .help("report the file as a bug of kiln"))
        })
    })
}

const SYNTAX: &str = "kiln::import::syntax";

fn read(file: FileId, text: &str) -> Result<Vec<Call>, Mistake> {
    let options = ParserOptions::default();
    let mut parser = Parser::new(Cursor::new(text.as_bytes()), &options);
    let program = parser.parse_program().map_err(|error| fault(file, text, &error))?;
    let mut bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    bytes.push(text.len());
    let mut reader = Reader {
        file,
        text,
        bytes,
        options,
        known: BTreeMap::new(),
        budget: Budget::default(),
        within: None,
        functions: BTreeSet::new(),
        calls: Vec::new(),
    };
    for list in &program.complete_commands {
        reader.list(list);
    }
    Ok(reader.calls)
}

fn fault(file: FileId, text: &str, error: &ParseError) -> Mistake {
    let position = match error {
        ParseError::ParsingNear(position) => Some(position.clone()),
        ParseError::ParsingAtEndOfInput => None,
        ParseError::Tokenizing { position, .. } => position.clone(),
    };
    let offset = position.map_or(text.trim_end().len(), |position| {
        let start = text.split_inclusive('\n').take(position.line.saturating_sub(1));
        let start: usize = start.map(str::len).sum();
        let column = text[start..].char_indices().nth(position.column.saturating_sub(1));
        column.map_or(text.len(), |(at, _)| start + at)
    });
    let len = text[offset..].chars().next().map_or(0, char::len_utf8);
    let message = "this is not a shell script that can be read";
    Mistake::at(Span { file, offset, len }, SYNTAX, message, "cannot go on here")
        .help("`sh -n FILE` may say more; `--from` says what kind of file it is")
}

/// Refuses what a recursive parser would choke on, before it is run.
fn guard(file: FileId, text: &str) -> Result<(), Mistake> {
    let (mut brackets, mut depth) = (0_usize, 0_usize);
    let deep = |offset: usize| {
        let span = Span { file, offset, len: 1 };
        Mistake::at(span, SYNTAX, "this script nests too deeply", "too deep here")
            .help("import the commands in it on their own")
    };
    let mut start = None;
    let mut command = true;
    for (at, c) in text.char_indices().chain([(text.len(), '\n')]) {
        if c.is_ascii_alphanumeric() || c == '_' {
            start.get_or_insert(at);
            continue;
        }
        if let Some(from) = start.take() {
            let word = &text[from..at];
            match word {
                "if" | "while" | "until" | "for" | "case" | "select" if command => depth += 1,
                "fi" | "done" | "esac" => depth = depth.saturating_sub(1),
                _ => {}
            }
            command = matches!(word, "if" | "then" | "else" | "do" | "while" | "until" | "elif");
        }
        match c {
            '(' | '{' | '[' => brackets += 1,
            ')' | '}' | ']' => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        command = match c {
            '\n' | ';' | '&' | '|' | '(' | '{' | '!' | ')' => true,
            ' ' | '\t' => command,
            _ => false,
        };
        if brackets > MAX_BRACKETS || depth > MAX_DEPTH {
            return Err(deep(at));
        }
    }
    Ok(())
}

/// The value of a variable.
#[derive(Debug, Clone)]
enum Known {
    Text(String),
    List(Vec<String>),
}

impl Known {
    /// What it costs to write it once more.
    fn cost(&self) -> usize {
        match self {
            Self::Text(text) => text.len() + 1,
            Self::List(list) => list.iter().map(|text| text.len() + 1).sum::<usize>() + 1,
        }
    }
}

struct Reader<'a> {
    file: FileId,
    text: &'a str,
    /// Where each character starts, as the parser counts characters.
    bytes: Vec<usize>,
    options: ParserOptions,
    known: BTreeMap<String, Known>,
    budget: Budget,
    within: Option<&'static str>,
    /// Functions of the script, whose commands are read where they stand.
    functions: BTreeSet<String>,
    calls: Vec<Call>,
}

impl Reader<'_> {
    fn list(&mut self, list: &CompoundList) {
        for item in &list.0 {
            self.pipeline(&item.0.first);
            for more in &item.0.additional {
                match more {
                    // What is behind `&&` runs where all goes well, which is what a recipe says.
                    AndOr::And(pipeline) => self.pipeline(pipeline),
                    AndOr::Or(pipeline) => {
                        self.inside("an alternative behind `||`", |me| me.pipeline(pipeline));
                    }
                }
            }
        }
    }

    fn pipeline(&mut self, pipeline: &ast::Pipeline) {
        for command in &pipeline.seq {
            match command {
                Command::Simple(simple) => self.simple(simple),
                Command::Compound(compound, _) => self.compound(compound),
                Command::Function(function) => {
                    self.functions.insert(function.fname.value.clone());
                    self.inside("a function", |me| me.compound(&function.body.0));
                }
                Command::ExtendedTest(..) => {}
            }
        }
    }

    fn inside(&mut self, within: &'static str, read: impl FnOnce(&mut Self)) {
        let outer = self.within.replace(within);
        read(self);
        self.within = outer;
    }

    fn compound(&mut self, compound: &CompoundCommand) {
        match compound {
            CompoundCommand::BraceGroup(group) => self.list(&group.list),
            CompoundCommand::Subshell(shell) => {
                let cost = self.known.iter().map(|(name, value)| name.len() + value.cost()).sum();
                let outer = self.budget.spend(cost).then(|| self.known.clone());
                self.list(&shell.list);
                self.known = outer.unwrap_or_default();
            }
            CompoundCommand::ForClause(clause) => {
                self.known.remove(&clause.variable_name);
                self.inside("a loop", |me| me.list(&clause.body.list));
            }
            CompoundCommand::ArithmeticForClause(clause) => {
                self.inside("a loop", |me| me.list(&clause.body.list));
            }
            CompoundCommand::CaseClause(clause) => self.inside("a `case`", |me| {
                clause
                    .cases
                    .iter()
                    .filter_map(|case| case.cmd.as_ref())
                    .for_each(|list| me.list(list));
            }),
            CompoundCommand::IfClause(clause) => self.inside("an `if`", |me| {
                me.list(&clause.condition);
                me.list(&clause.then);
                for clause in clause.elses.iter().flatten() {
                    clause.condition.iter().for_each(|list| me.list(list));
                    me.list(&clause.body);
                }
            }),
            CompoundCommand::WhileClause(clause) | CompoundCommand::UntilClause(clause) => {
                self.inside("a loop", |me| {
                    me.list(&clause.0);
                    me.list(&clause.1.list);
                });
            }
            CompoundCommand::Coprocess(_) | CompoundCommand::Arithmetic(_) => {}
        }
    }

    fn simple(&mut self, simple: &SimpleCommand) {
        let prefix = simple.prefix.iter().flat_map(|prefix| &prefix.0);
        let assignments: Vec<&Assignment> = prefix
            .filter_map(|item| match item {
                CommandPrefixOrSuffixItem::AssignmentWord(assignment, _) => Some(assignment),
                _ => None,
            })
            .collect();
        let Some(name) = &simple.word_or_name else {
            for assignment in assignments {
                self.assign(assignment);
            }
            return;
        };
        let mut words = Vec::new();
        self.expand(name, &mut words);
        for item in simple.suffix.iter().flat_map(|suffix| &suffix.0) {
            match item {
                CommandPrefixOrSuffixItem::Word(word)
                | CommandPrefixOrSuffixItem::AssignmentWord(_, word) => {
                    self.expand(word, &mut words);
                }
                _ => {}
            }
        }
        let program = words.first().map(|word| word.text.clone()).unwrap_or_default();
        match program.as_str() {
            name if self.functions.contains(name) => return,
            "export" | "readonly" | "declare" | "typeset" | "local" => {
                for item in simple.suffix.iter().flat_map(|suffix| &suffix.0) {
                    if let CommandPrefixOrSuffixItem::AssignmentWord(assignment, _) = item {
                        self.assign(assignment);
                    }
                }
                return;
            }
            "unset" | "read" | "mapfile" | "readarray" => {
                for word in &words {
                    self.known.remove(&word.text);
                }
                return;
            }
            _ => {}
        }
        let mut variables = BTreeMap::new();
        // One program alone asks for them.
        if words.iter().any(|word| word.text.ends_with("disk-image-create")) {
            for (name, value) in &self.known {
                if let Known::Text(text) = value
                    && keeps(name)
                    && self.budget.spend(value.cost())
                {
                    variables.insert(name.clone(), text.clone());
                }
            }
        }
        for assignment in assignments {
            if let (AssignmentName::VariableName(name), Some(Known::Text(text))) =
                (&assignment.name, self.value(assignment))
            {
                variables.insert(name.clone(), text);
            }
        }
        let span = self.whole(simple, &words);
        let writes = writes(simple);
        self.calls.push(Call { words, variables, span, writes, within: self.within });
    }

    fn whole(&self, simple: &SimpleCommand, words: &[Word]) -> Span {
        use ast::SourceLocation;
        if let Some(location) = simple.location() {
            self.span(&location)
        } else {
            let nowhere = Span { file: self.file, offset: 0, len: 0 };
            let first = words.first().map_or(nowhere, |word| word.span);
            words.last().map_or(first, |last| first.to(last.span))
        }
    }

    fn span(&self, location: &brush_parser::SourceSpan) -> Span {
        let last = self.bytes.len() - 1;
        let start = self.bytes[location.start.index.min(last)];
        let end = self.bytes[location.end.index.min(last)];
        // A line that goes on with the next one is counted to the word behind it.
        let inside = self.text.get(start..end).unwrap_or_default();
        let word = inside.trim_start_matches(|c: char| c.is_whitespace() || c == '\\');
        let start = end.max(start) - word.len();
        Span { file: self.file, offset: start, len: word.len() }
    }

    fn assign(&mut self, assignment: &Assignment) {
        let value = self.value(assignment).filter(|value| value.cost() <= super::MAX_BYTES);
        let AssignmentName::VariableName(name) = &assignment.name else { return };
        match value {
            Some(value) if self.within.is_none() => {
                self.known.insert(name.clone(), value);
            }
            _ => {
                self.known.remove(name);
            }
        }
    }

    fn value(&self, assignment: &Assignment) -> Option<Known> {
        let old = match &assignment.name {
            AssignmentName::VariableName(name) if assignment.append => {
                self.known.get(name).filter(|old| self.budget.spend(old.cost())).cloned()
            }
            _ => None,
        };
        match &assignment.value {
            AssignmentValue::Scalar(word) => {
                let parts = self.parts(&word.value)?;
                let text = parts.known.then(|| parts.fields.concat())?;
                match old {
                    Some(Known::Text(old)) if assignment.append => Some(Known::Text(old + &text)),
                    _ if assignment.append => None,
                    _ => Some(Known::Text(text)),
                }
            }
            AssignmentValue::Array(entries) => {
                let mut list = match old {
                    Some(Known::List(list)) => list,
                    None if !assignment.append => Vec::new(),
                    _ => return None,
                };
                for (_, word) in entries {
                    let parts = self.parts(&word.value)?;
                    if !parts.known {
                        return None;
                    }
                    list.extend(parts.fields);
                }
                Some(Known::List(list))
            }
        }
    }

    /// Adds what a word of the script becomes: none, one or several words.
    fn expand(&self, word: &ast::Word, words: &mut Vec<Word>) {
        let nowhere = Span { file: self.file, offset: 0, len: 0 };
        let span = word.loc.as_ref().map_or(nowhere, |location| self.span(location));
        match self.parts(&word.value) {
            Some(parts) => words.extend(parts.fields.into_iter().map(|text| Word {
                text,
                span,
                known: parts.known,
            })),
            None => words.push(Word { text: word.value.clone(), span, known: false }),
        }
    }

    fn parts(&self, raw: &str) -> Option<Parts> {
        let pieces = word::parse(raw, &self.options).ok()?;
        let mut parts = Parts { fields: Vec::new(), open: false, known: true };
        for piece in &pieces {
            self.piece(&piece.piece, &raw[piece.start_index..piece.end_index], false, &mut parts);
        }
        Some(parts)
    }

    fn piece(&self, piece: &WordPiece, raw: &str, quoted: bool, parts: &mut Parts) {
        match piece {
            WordPiece::Text(text) | WordPiece::SingleQuotedText(text) => parts.push(text),
            WordPiece::AnsiCQuotedText(text) => parts.push(&ansi(text)),
            WordPiece::EscapeSequence(text) => {
                let text = text.strip_prefix('\\').unwrap_or(text);
                // A line end behind a backslash is none.
                if text == "\n" {
                    return;
                }
                let special = !quoted || text.starts_with(['$', '`', '"', '\\']);
                parts.push(if special { text } else { raw });
            }
            WordPiece::DoubleQuotedSequence(pieces)
            | WordPiece::GettextDoubleQuotedSequence(pieces) => {
                parts.push("");
                for piece in pieces {
                    // The places of inner pieces count from the start of the word or of the quotes.
                    let raw = raw_of(&piece.piece);
                    self.piece(&piece.piece, &raw, true, parts);
                }
            }
            WordPiece::ParameterExpansion(expression) => {
                self.parameter(expression, raw, quoted, parts);
            }
            WordPiece::TildeExpansion(_)
            | WordPiece::CommandSubstitution(_)
            | WordPiece::BackquotedCommandSubstitution(_)
            | WordPiece::ArithmeticExpression(_) => parts.unknown(raw),
        }
    }

    fn parameter(&self, expression: &ParameterExpr, raw: &str, quoted: bool, parts: &mut Parts) {
        let (name, all) = match expression {
            ParameterExpr::Parameter { parameter, indirect: false } => match parameter {
                Parameter::Named(name) => (name, false),
                Parameter::NamedWithAllIndices { name, .. } => (name, true),
                _ => return parts.unknown(raw),
            },
            ParameterExpr::UseDefaultValues {
                parameter: Parameter::Named(name),
                indirect: false,
                ..
            } if self.known.contains_key(name) => (name, false),
            _ => return parts.unknown(raw),
        };
        let known = self.known.get(name).filter(|value| self.budget.spend(value.cost()));
        match known {
            Some(Known::Text(text)) if quoted => parts.push(text),
            Some(Known::Text(text)) => parts.split(text),
            Some(Known::List(list)) if all => {
                for (number, text) in list.iter().enumerate() {
                    if number > 0 {
                        parts.open = false;
                    }
                    parts.push(text);
                }
                if list.is_empty() && parts.fields.last().is_some_and(String::is_empty) {
                    parts.fields.pop();
                    parts.open = false;
                }
            }
            Some(Known::List(list)) => parts.push(list.first().map_or("", String::as_str)),
            None => parts.unknown(raw),
        }
    }
}

/// Whether a command's output goes to a file, which is not a device.
fn writes(simple: &SimpleCommand) -> bool {
    let prefix = simple.prefix.iter().flat_map(|prefix| &prefix.0);
    let suffix = simple.suffix.iter().flat_map(|suffix| &suffix.0);
    prefix.chain(suffix).any(|item| {
        let CommandPrefixOrSuffixItem::IoRedirect(redirect) = item else { return false };
        let (IoRedirect::File(
            _,
            IoFileRedirectKind::Write
            | IoFileRedirectKind::Append
            | IoFileRedirectKind::Clobber
            | IoFileRedirectKind::ReadAndWrite,
            IoFileRedirectTarget::Filename(file),
        )
        | IoRedirect::OutputAndError(file, _)) = redirect
        else {
            return false;
        };
        !file.value.starts_with("/dev/")
    })
}

/// How a piece inside double quotes was written, where it stays as it is.
fn raw_of(piece: &WordPiece) -> String {
    match piece {
        WordPiece::ParameterExpansion(ParameterExpr::Parameter { parameter, .. }) => {
            parameter.to_string()
        }
        WordPiece::CommandSubstitution(text) => format!("$({text})"),
        WordPiece::BackquotedCommandSubstitution(text) => format!("`{text}`"),
        WordPiece::ArithmeticExpression(expression) => format!("$(({}))", expression.value),
        WordPiece::EscapeSequence(text) => text.clone(),
        _ => "${…}".to_owned(),
    }
}

/// The words that one word becomes.
struct Parts {
    fields: Vec<String>,
    /// Whether more text goes on with the last field.
    open: bool,
    known: bool,
}

impl Parts {
    fn push(&mut self, text: &str) {
        match self.fields.last_mut().filter(|_| self.open) {
            Some(last) => last.push_str(text),
            None => self.fields.push(text.to_owned()),
        }
        self.open = true;
    }

    /// A value outside of quotes: split where it has white space.
    fn split(&mut self, text: &str) {
        if text.starts_with([' ', '\t', '\n']) {
            self.open = false;
        }
        for (number, part) in text.split_whitespace().enumerate() {
            if number > 0 {
                self.open = false;
            }
            self.push(part);
        }
        if text.ends_with([' ', '\t', '\n']) {
            self.open = false;
        }
    }

    fn unknown(&mut self, raw: &str) {
        self.known = false;
        self.push(raw);
    }
}

/// Variables that other programs read.
fn keeps(name: &str) -> bool {
    name.starts_with("DIB_") || matches!(name, "ELEMENTS_PATH" | "ARCH")
}

/// The escapes of `$'…'` that people write.
fn ansi(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match letters.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('e') => plain.push('\u{1b}'),
            Some(other) => plain.push(other),
            None => plain.push('\\'),
        }
    }
    plain
}
