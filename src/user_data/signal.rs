//! Signals to Heat: who gives them, and whether the word that stands for the command is found and
//! still is one once Heat has put the command there.

use serde_json::Value;

use super::part::{CONFIG, bytes, is_told_alone};
use super::script::Tell;
use super::{Audience, File, NOTIFY, Piece, config, mime};
use crate::mistake::Mistake;
use crate::recipe::{Config, Part, Through, UserData};
use crate::source::Span;
use crate::yaml;

/// What scripts of kiln's own tell Heat: that all is done only where no other script does.
pub(super) fn teller(user_data: &UserData<File>, audience: Audience) -> Tell {
    match audience {
        Audience::Waiting { .. } if is_given(user_data) => Tell::Failure,
        Audience::Waiting { .. } => Tell::Everything,
        Audience::Anyone | Audience::Stack => Tell::Nothing,
    }
}

/// Whether a part that kiln did not write gives a signal.
#[must_use]
pub fn is_given(user_data: &UserData<File>) -> bool {
    user_data.parts.iter().any(|part| match &part.value {
        Part::Script { text, .. } | Part::Boothook(text) => holds(bytes(text)),
        Part::ConfigFile(file) | Part::Other { file, .. } => holds(&file.bytes),
        Part::Config(config) => {
            let of_files = config.files.iter().any(|file| holds(bytes(&file.content)));
            of_files || config.commands.iter().flatten().any(|word| word.contains(NOTIFY))
        }
        Part::Include { .. } | Part::Require(_) => false,
    })
}

/// Whether a text calls what only Heat puts there.
pub(super) fn holds(text: &[u8]) -> bool {
    text.windows(NOTIFY.len()).any(|window| window == NOTIFY.as_bytes())
}

/// Calls that would come to nothing in a stack that waits.
pub(super) fn faults(
    user_data: &UserData<File>,
    pieces: &[Piece],
    audience: Audience,
) -> Vec<Mistake> {
    let Audience::Waiting { through, .. } = audience else { return Vec::new() };
    let mut found = Vec::new();
    for part in &user_data.parts {
        if let Part::Config(config) = &part.value {
            found.extend(of_config(config, part.span));
        }
    }
    let alone = matches!(pieces, [piece] if is_told_alone(piece));
    for piece in pieces.iter().filter(|piece| holds(&piece.content)) {
        if !alone && mime::plain(&piece.content).is_none() {
            let help = "let it hold ASCII only, in lines of at most 998 characters: everything else \
                        is sent in Base64";
            found.push(hidden(piece.span, "this part", help));
        }
        if piece.media_type == CONFIG && !stays_yaml(&piece.content, through) {
            let message = format!("what Heat puts in place of `{NOTIFY}` breaks this YAML");
            let help = "write the line in a literal block, behind `|`: the command has quotes and a \
                        colon of its own";
            let code = "kiln::heat::broken_signal";
            found.push(Mistake::at(piece.span, code, message, "this part").help(help));
        }
    }
    found
}

fn hidden(span: Span, place: &str, help: &str) -> Mistake {
    let message = format!("Heat would not find `{NOTIFY}` in {place}");
    Mistake::at(span, "kiln::heat::hidden_signal", message, "this part").help(help)
}

/// The same inside a `cloud-config` block.
fn of_config(config: &Config<File>, span: Span) -> Vec<Mistake> {
    let mut found = Vec::new();
    for file in &config.files {
        let content = bytes(&file.content);
        if holds(content) && config::written(content).is_none() {
            let place = format!("`{}`", file.path);
            let help = "let the file hold no control characters: it is sent in Base64";
            found.push(hidden(span, &place, help));
        }
    }
    for words in &config.commands {
        let [program, _, ..] = words.as_slice() else { continue };
        if program.contains(NOTIFY) || words.iter().any(|word| word == NOTIFY) {
            let message = format!("`{NOTIFY}` is a whole command, and stands here as one word");
            found.push(
                Mistake::at(span, "kiln::heat::split_signal", message, "this part")
                    .help("write the line as one text, which a shell takes apart"),
            );
        }
    }
    found
}

/// What Heat puts there, in its form. Source: `curl_cli` of Heat's `swiftsignal.py` and
/// `wait_condition_handle.py`.
const fn command(through: Through) -> &'static str {
    match through {
        Through::Swift => "curl -i -X PUT 'http://swift.example/v1/AUTH_a/b/c?temp_url_sig=d&e=1'",
        Through::Heat => {
            "curl -i -X POST -H 'X-Auth-Token: abc' -H 'Content-Type: application/json' -H 'Accept: \
             application/json' http://heat.example/v1/a/signal"
        }
    }
}

/// Whether YAML with the command says what it said without.
fn stays_yaml(content: &[u8], through: Through) -> bool {
    let Some(text) = str::from_utf8(content).ok() else { return true };
    let Some(before) = yaml::pairs(text) else { return true };
    let command = command(through);
    let after = yaml::pairs(&text.replace(NOTIFY, command));
    let expected = before.into_iter().map(|(name, value)| (name, replaced(value, command)));
    after.is_some_and(|after| after == expected.collect())
}

fn replaced(value: Value, command: &str) -> Value {
    match value {
        Value::String(text) => text.replace(NOTIFY, command).into(),
        Value::Array(values) => values.into_iter().map(|one| replaced(one, command)).collect(),
        Value::Object(pairs) => {
            pairs.into_iter().map(|(name, one)| (name, replaced(one, command))).collect()
        }
        other => other,
    }
}
