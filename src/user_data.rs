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
mod names;
mod part;
mod script;
mod signal;

use std::path::Path;

use serde_json::Value;

use crate::compression;
use crate::files;
use crate::inputs::{self, InputError};
use crate::mistake::Mistake;
use crate::name::GuestPath;
use crate::recipe::{LocalFile, Part, Through, UserData};
use crate::source::{Span, Spanned};
use crate::workspace::Workspace;
use crate::yaml;

use self::part::{SCRIPT, is_fetched, is_told_alone, numbered, piece};
use self::script::Tell;

pub use lint::lint;
pub use signal::is_given;

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
        /// Who takes them.
        through: Through,
        /// Where that is written.
        span: Span,
    },
}

/// One part as cloud-init sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its media type.
    pub media_type: String,
    /// Its file name: cloud-init runs scripts in the order of these, so a number comes first, and `z-`
    /// before it behind a part that cloud-init names parts of.
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
        self.pieces.iter().any(|piece| signal::holds(&piece.content))
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
    mistakes.extend(signal::faults(user_data, &pieces, audience));
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

/// Says that nova would refuse a document, to which somebody adds so many bytes.
#[must_use]
pub fn too_large(user_data: &UserData<File>, document: &Document, added: usize) -> Option<Mistake> {
    let size = document.bytes.len() + added;
    let encoded = size.div_ceil(3) * 4;
    if encoded <= LIMIT {
        return None;
    }
    let beside = if added > 0 {
        format!(" with the {added} that Heat may put in place of `{NOTIFY}`")
    } else {
        String::new()
    };
    let message = format!(
        "`{}` is {size} bytes{beside}, {encoded} in Base64, of which nova takes {LIMIT}",
        user_data.name.value,
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

/// The packages that its parts install, also those of files.
#[must_use]
pub fn packages(user_data: &UserData<File>) -> Vec<String> {
    let mut found: Vec<String> = user_data.packages().map(str::to_owned).collect();
    for part in &user_data.parts {
        let Part::ConfigFile(file) = &part.value else { continue };
        let pairs = str::from_utf8(&file.bytes).ok().and_then(yaml::pairs).unwrap_or_default();
        let listed = pairs.get("packages").and_then(Value::as_array).into_iter().flatten();
        found.extend(listed.filter_map(|package| {
            // A name, or a name with a version.
            let name = package.as_str().or_else(|| package.get(0)?.as_str())?;
            Some(name.to_owned())
        }));
    }
    found
}

/// The parts as cloud-init will see them, and what is wrong with them.
fn pieces(user_data: &UserData<File>, audience: Audience) -> (Vec<Piece>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    let tell = signal::teller(user_data, audience);
    let last = user_data.parts.iter().rposition(|part| matches!(part.value, Part::Require(_)));
    // It looks for what all of them require: another may have failed before it.
    let everything = Part::Require(required(user_data));
    let mut behind_fetched = false;
    for (number, Spanned { value: part, span }) in user_data.parts.iter().enumerate() {
        // Only the last one knows that all the others have found everything.
        let tell = match tell {
            Tell::Everything if Some(number) != last => Tell::Failure,
            tell => tell,
        };
        let is_last = tell == Tell::Everything && Some(number) == last;
        match piece(if is_last { &everything } else { part }, tell) {
            Ok((media_type, name, content)) => {
                pieces.push(Piece {
                    media_type: media_type.to_owned(),
                    name: numbered(number, &name, behind_fetched),
                    content,
                    span: *span,
                    is_own: matches!(part, Part::Require(_)),
                });
                behind_fetched |= is_fetched(media_type);
            }
            Err(fault) => mistakes.push(fault.mistake(part, *span)),
        }
    }
    if let Audience::Waiting { count, span, .. } = audience
        && tell == Tell::Everything
    {
        if last.is_none() {
            pieces.push(Piece {
                media_type: SCRIPT.to_owned(),
                name: numbered(user_data.parts.len(), "kiln-signal.sh", behind_fetched),
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

/// Every path that a part requires, once.
fn required(user_data: &UserData<File>) -> Vec<GuestPath> {
    let mut paths = Vec::new();
    for part in &user_data.parts {
        let Part::Require(more) = &part.value else { continue };
        for path in more {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
    }
    paths
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
