//! User data: the bytes that an instance gets, and what is wrong with them before it does.
//!
//! One part is sent as it is wherever cloud-init tells its type from its first line; several become
//! a MIME message. The same recipe gives the same bytes.
//!
//! Sources: cloud-init, "User-data formats" of its documentation; its `cloudinit/user_data.py` and
//! `cloudinit/handlers`, which were read for what the documentation leaves open.

mod config;
mod lint;
mod mime;
mod script;

use std::path::Path;

use crate::compression;
use crate::files;
use crate::inputs::{self, InputError};
use crate::mistake::Mistake;
use crate::recipe::{Frequency, LocalFile, Part, Text, UserData};
use crate::source::{Span, Spanned};
use crate::workspace::Workspace;

use self::script::Tell;

pub use lint::lint;

/// The most that nova takes, in bytes of Base64 (`MAX_USERDATA_SIZE` of its `compute/api.py`). It
/// holds whichever way the instance reads it, from the metadata service or from a config drive.
pub const LIMIT: usize = 65_535;
/// Largest file that a part names, in bytes; what is larger has no chance to fit.
const LARGEST: u64 = 1 << 20;
/// What stands for the command that tells Heat, until Heat puts that command there.
pub const NOTIFY: &str = "wc_notify";

/// A file of the workspace, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its own name.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Whom the document is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Whoever starts an instance with it.
    Anyone,
    /// A stack of Heat that does not wait.
    Stack,
    /// A stack of Heat that waits for so many signals.
    Waiting {
        /// How many.
        count: u64,
        /// Where that is written.
        span: Span,
    },
}

/// One part as cloud-init sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its media type.
    pub media_type: String,
    /// Its file name: cloud-init runs scripts in the order of these, so a number comes first.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
    /// Where it is written.
    pub span: Span,
    /// Whether kiln itself wrote the script.
    pub is_own: bool,
}

/// User data as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What is in them.
    pub pieces: Vec<Piece>,
}

impl Document {
    /// The text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        str::from_utf8(&self.bytes).ok()
    }

    /// Whether a script calls what only Heat puts there.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.pieces.iter().any(notifies)
    }
}

/// Reads the files that user data names.
///
/// # Errors
/// Every file that cannot be read.
pub fn read(
    workspace: &Workspace,
    user_data: &UserData<LocalFile>,
) -> Result<UserData<File>, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let read = user_data.map_files::<File, ()>(&mut |file| {
        let path = workspace.local(file);
        let relative = path.strip_prefix(&workspace.root).unwrap_or(&path);
        Ok(match bytes_of(&workspace.root, relative) {
            Ok(bytes) => {
                let name = file.path.file_name().unwrap_or_default();
                File { name: name.to_string_lossy().into_owned(), bytes }
            }
            Err(error) => {
                mistakes.push(error.mistake(file.span));
                File { name: String::new(), bytes: Vec::new() }
            }
        })
    });
    match read {
        Ok(read) if mistakes.is_empty() => Ok(read),
        _ => Err(mistakes),
    }
}

fn bytes_of(root: &Path, relative: &Path) -> Result<Vec<u8>, InputError> {
    let path = inputs::resolve(root, relative)?;
    if !path.is_file() {
        return Err(InputError::NotAFile { path: relative.to_owned() });
    }
    Ok(files::read_bounded(&path, LARGEST)?)
}

/// The bytes that an instance gets.
///
/// # Errors
/// Every part that cloud-init would not take for what it is meant to be; what is too large.
pub fn document(user_data: &UserData<File>, audience: Audience) -> Result<Document, Vec<Mistake>> {
    let (pieces, mut mistakes) = pieces(user_data, audience);
    mistakes.extend(hidden_signals(&pieces, audience));
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let mut bytes = match pieces.as_slice() {
        [piece] if is_told_alone(piece) => piece.content.clone(),
        pieces => mime::message(pieces).into_bytes(),
    };
    // A template is a text, and what Heat replaces must be there to be found.
    if user_data.gzip && audience == Audience::Anyone {
        bytes = compression::gzip(&bytes);
    }
    Ok(Document { bytes, pieces })
}

/// Says that nova would refuse a document.
#[must_use]
pub fn too_large(user_data: &UserData<File>, document: &Document) -> Option<Mistake> {
    let encoded = document.bytes.len().div_ceil(3) * 4;
    if encoded <= LIMIT {
        return None;
    }
    let message = format!(
        "`{}` is {} bytes, {encoded} in Base64, of which nova takes {LIMIT}",
        user_data.name.value,
        document.bytes.len()
    );
    let help = if user_data.gzip {
        "leave the bulk in the image, or have the instance fetch it with `include`"
    } else {
        "write `gzip=#true`, which no Heat template can use, or have the instance fetch the bulk \
         with `include`"
    };
    let span = user_data.name.span;
    Some(Mistake::at(span, "kiln::user_data::too_large", message, "too large").help(help))
}

/// The parts as cloud-init will see them, and what is wrong with them.
fn pieces(user_data: &UserData<File>, audience: Audience) -> (Vec<Piece>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    let tell = teller(user_data, audience);
    let last = user_data.parts.iter().rposition(|part| matches!(part.value, Part::Require(_)));
    for (number, Spanned { value: part, span }) in user_data.parts.iter().enumerate() {
        // Only the last one knows that all the others have found everything.
        let tell = match tell {
            Tell::Everything if Some(number) != last => Tell::Failure,
            tell => tell,
        };
        match piece(part, tell) {
            Ok((media_type, name, content)) => pieces.push(Piece {
                media_type: media_type.to_owned(),
                name: numbered(number, &name),
                content,
                span: *span,
                is_own: matches!(part, Part::Require(_)),
            }),
            Err(fault) => mistakes.push(fault.mistake(part, *span)),
        }
    }
    if let Audience::Waiting { count, span } = audience
        && tell == Tell::Everything
    {
        if last.is_none() {
            pieces.push(Piece {
                media_type: SCRIPT.to_owned(),
                name: numbered(user_data.parts.len(), "kiln-signal.sh"),
                content: script::signal().into_bytes(),
                span,
                is_own: true,
            });
        }
        if count > 1 {
            let message =
                format!("the stack waits for {count} signals, and kiln's script gives one");
            mistakes.push(
                Mistake::at(span, "kiln::heat::signals", message, "would wait until its end")
                    .help(format!("write `count=1`, or call `{NOTIFY}` in scripts of your own")),
            );
        }
    }
    (pieces, mistakes)
}

/// What scripts of kiln's own tell Heat: that all is done only where no other script does.
fn teller(user_data: &UserData<File>, audience: Audience) -> Tell {
    if !matches!(audience, Audience::Waiting { .. }) {
        return Tell::Nothing;
    }
    let calls = |text: &[u8]| holds(text, NOTIFY);
    let tells = user_data.parts.iter().any(|part| match &part.value {
        Part::Script { text, .. } | Part::Boothook(text) => calls(bytes(text)),
        Part::ConfigFile(file) | Part::Other { file, .. } => calls(&file.bytes),
        Part::Config(config) => {
            let of_files = config.files.iter().any(|file| calls(bytes(&file.content)));
            of_files || config.commands.iter().flatten().any(|word| word.contains(NOTIFY))
        }
        Part::Include { .. } | Part::Require(_) => false,
    });
    if tells { Tell::Failure } else { Tell::Everything }
}

fn holds(text: &[u8], wanted: &str) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

fn notifies(piece: &Piece) -> bool {
    holds(&piece.content, NOTIFY)
}

fn bytes(text: &Text<File>) -> &[u8] {
    match text {
        Text::Written(text) => text.as_bytes(),
        Text::File(file) => &file.bytes,
    }
}

const SCRIPT: &str = "text/x-shellscript";
const CONFIG: &str = "text/cloud-config";
const JINJA: &str = "text/jinja2";
const BOOTHOOK: &str = "text/cloud-boothook";

/// Why cloud-init would not take a part for what it is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartFault {
    /// A text that is not UTF-8.
    NotText,
    /// A script that does not say what runs it.
    NoInterpreter,
    /// YAML that does not start with the line by which cloud-init knows it.
    NoHeader,
    /// YAML that no map can be read from.
    NotYaml,
}

impl PartFault {
    fn mistake(self, part: &Part<File>, span: Span) -> Mistake {
        let word = part.keyword();
        let (code, message, help) = match self {
            Self::NotText => (
                "kiln::user_data::utf8",
                format!("this `{word}` is not UTF-8, and cloud-init would fail on it"),
                "save it in UTF-8, or write it to a file with `file … source=…` in `cloud-config`",
            ),
            Self::NoInterpreter => (
                "kiln::user_data::no_interpreter",
                format!("this `{word}` does not start with `#!`, and nothing would run it"),
                "let its first line be `#!/bin/sh -ex`",
            ),
            Self::NoHeader => (
                "kiln::user_data::no_header",
                format!("this `{word}` does not start with `{}`", config::HEADER),
                "let its first line be `#cloud-config`: cloud-init knows it by that",
            ),
            Self::NotYaml => (
                "kiln::user_data::not_yaml",
                format!("this `{word}` is no YAML with names and values"),
                "`cloud-init schema --config-file FILE` shows where",
            ),
        };
        Mistake::at(span, code, message, "this part").help(help)
    }
}

/// The media type, the file name and the content of a part.
fn piece(part: &Part<File>, tell: Tell) -> Result<(&str, String, Vec<u8>), PartFault> {
    Ok(match part {
        Part::Script { text, frequency } => {
            let content = script_of(text)?;
            (script_type(*frequency), name_of(text, "script.sh"), content.to_vec())
        }
        Part::Config(config) => {
            (CONFIG, "cloud-config.yaml".to_owned(), config::document(config).into_bytes())
        }
        Part::ConfigFile(file) => (config_type(file)?, file.name.clone(), file.bytes.clone()),
        Part::Include { urls, once } => {
            let (word, media_type) = match once {
                true => ("#include-once", "text/x-include-once-url"),
                false => ("#include", "text/x-include-url"),
            };
            (media_type, "include.txt".to_owned(), format!("{word}\n{}\n", urls.join("\n")).into())
        }
        Part::Boothook(text) => {
            let content = bytes(text);
            let header = "#cloud-boothook";
            // Behind its own header it is a script like any other.
            let script = content.strip_prefix(header.as_bytes()).unwrap_or(content);
            let script = script.trim_ascii_start();
            if !script.starts_with(b"#!") {
                return Err(PartFault::NoInterpreter);
            }
            str::from_utf8(script).map_err(|_| PartFault::NotText)?;
            let content = [header.as_bytes(), b"\n", script].concat();
            (BOOTHOOK, name_of(text, "boothook.sh"), content)
        }
        Part::Require(paths) => {
            (SCRIPT, "require.sh".to_owned(), script::require(paths, tell).into_bytes())
        }
        Part::Other { file, media_type } => {
            if media_type.starts_with("text/") {
                str::from_utf8(&file.bytes).map_err(|_| PartFault::NotText)?;
            }
            (media_type, file.name.clone(), file.bytes.clone())
        }
    })
}

fn script_of(text: &Text<File>) -> Result<&[u8], PartFault> {
    let content = bytes(text);
    if !content.starts_with(b"#!") {
        return Err(PartFault::NoInterpreter);
    }
    str::from_utf8(content).map_err(|_| PartFault::NotText)?;
    Ok(content)
}

fn script_type(frequency: Frequency) -> &'static str {
    match frequency {
        Frequency::Default => SCRIPT,
        Frequency::Boot => "text/x-shellscript-per-boot",
        Frequency::Instance => "text/x-shellscript-per-instance",
        Frequency::Once => "text/x-shellscript-per-once",
    }
}

/// The type of a file of YAML, which may be a template of Jinja.
fn config_type(file: &File) -> Result<&'static str, PartFault> {
    let text = str::from_utf8(&file.bytes).map_err(|_| PartFault::NotText)?;
    let template = text.strip_prefix("## template: jinja");
    let rest = template.and_then(|rest| rest.split_once('\n')).map_or(text, |(_, rest)| rest);
    if rest.lines().next().map(str::trim_end) != Some(config::HEADER) {
        return Err(PartFault::NoHeader);
    }
    if template.is_some() {
        return Ok(JINJA);
    }
    crate::yaml::names(text).map(|_| CONFIG).ok_or(PartFault::NotYaml)
}

fn name_of(text: &Text<File>, default: &str) -> String {
    match text {
        Text::Written(_) => default.to_owned(),
        Text::File(file) => file.name.clone(),
    }
}

/// A file name that sorts in the order of the recipe, of characters that cloud-init keeps.
fn numbered(number: usize, name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    format!("{:03}-{}", number + 1, name.chars().map(kept).collect::<String>())
}

/// Whether cloud-init takes a part for what it is without any header.
fn is_told_alone(piece: &Piece) -> bool {
    let start = &piece.content[..piece.content.len().min(4096)];
    let lower = String::from_utf8_lossy(start).to_lowercase();
    detected(&lower) == Some(&piece.media_type)
        // What holds this anywhere near its start is read as a message.
        && !lower.contains("mime-version:")
        && compression::Compression::of(start).is_none()
}

/// The type that cloud-init sees in the first characters (`INCLUSION_TYPES_MAP`), the longest first.
fn detected(lower: &str) -> Option<&'static str> {
    const STARTS: [(&str, &str); 9] = [
        ("#cloud-config-archive", "text/cloud-config-archive"),
        ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
        ("## template: jinja", JINJA),
        ("#cloud-boothook", BOOTHOOK),
        ("#cloud-config", CONFIG),
        ("#include-once", "text/x-include-once-url"),
        ("#part-handler", "text/part-handler"),
        ("#include", "text/x-include-url"),
        ("#!", SCRIPT),
    ];
    let text = lower.trim_start();
    STARTS.iter().find(|(start, _)| text.starts_with(start)).map(|(_, found)| *found)
}

/// Calls that Heat could not replace, as their part is sent in Base64.
fn hidden_signals(pieces: &[Piece], audience: Audience) -> Vec<Mistake> {
    let alone = matches!(pieces, [piece] if is_told_alone(piece));
    if !matches!(audience, Audience::Waiting { .. }) || alone {
        return Vec::new();
    }
    let hidden =
        pieces.iter().filter(|piece| notifies(piece) && mime::plain(&piece.content).is_none());
    hidden
        .map(|piece| {
            let message = format!("Heat would not find `{NOTIFY}` in this part");
            let help = "let it hold ASCII only, in lines of at most 998 characters: everything else \
                        is sent in Base64";
            Mistake::at(piece.span, "kiln::heat::hidden_signal", message, "this part").help(help)
        })
        .collect()
}

/// A word as a shell takes it. Source: POSIX, "Shell command language", 2.2.2.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
