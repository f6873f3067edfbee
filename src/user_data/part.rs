//! One part of user data as cloud-init will see it: its type, its file name, its bytes.

use super::script::{self, Tell};
use super::{File, Piece, config};
use crate::compression::Compression;
use crate::mistake::Mistake;
use crate::recipe::{Frequency, Part, Text};
use crate::source::Span;

pub(super) const SCRIPT: &str = "text/x-shellscript";
pub(super) const CONFIG: &str = "text/cloud-config";
const JINJA: &str = "text/jinja2";
pub(super) const BOOTHOOK: &str = "text/cloud-boothook";

/// Why cloud-init would not take a part for what it is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartFault {
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
    /// The same as a mistake of the part.
    pub(super) fn mistake(self, part: &Part<File>, span: Span) -> Mistake {
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
pub(super) fn piece(part: &Part<File>, tell: Tell) -> Result<(&str, String, Vec<u8>), PartFault> {
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
    crate::yaml::pairs(text).map(|_| CONFIG).ok_or(PartFault::NotYaml)
}

fn name_of(text: &Text<File>, default: &str) -> String {
    match text {
        Text::Written(_) => default.to_owned(),
        Text::File(file) => file.name.clone(),
    }
}

/// A file name that sorts in the order of the recipe, of characters that cloud-init keeps. What an
/// instance fetches is called `part-NNN` by cloud-init (`PART_FN_TPL`): a part that is written behind
/// sorts behind that.
pub(super) fn numbered(number: usize, name: &str, behind_fetched: bool) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let first = if behind_fetched { "z-" } else { "" };
    format!("{first}{:03}-{}", number + 1, name.chars().map(kept).collect::<String>())
}

/// Whether cloud-init finds further parts in a part, and names them itself.
pub(super) fn is_fetched(media_type: &str) -> bool {
    let kinds = ["text/x-include-url", "text/x-include-once-url", "text/cloud-config-archive"];
    kinds.contains(&media_type)
}

/// Whether cloud-init takes a part for what it is without any header.
pub(super) fn is_told_alone(piece: &Piece) -> bool {
    let start = &piece.content[..piece.content.len().min(4096)];
    let lower = String::from_utf8_lossy(start).to_lowercase();
    detected(&lower) == Some(&piece.media_type)
        // What holds this anywhere near its start is read as a message.
        && !lower.contains("mime-version:")
        && Compression::of(start).is_none()
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

/// The bytes of a text.
pub(super) fn bytes(text: &Text<File>) -> &[u8] {
    match text {
        Text::Written(text) => text.as_bytes(),
        Text::File(file) => &file.bytes,
    }
}
