//! YAML as kiln writes it: texts of several lines stand in literal blocks, as people would write
//! them, and everything reads back as what it was.
//!
//! What a document means is not known here. Reading is for what others wrote, as `PyYAML` reads it.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{DoubleQuoted, FlowMap, LitStr};

/// A value; the pairs of a map keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Yaml {
    /// A text; one of several lines becomes a literal block wherever a block can hold it.
    Text(String),
    /// A text in which somebody will put another: a literal block wherever a block can hold it,
    /// double quotes elsewhere, so that quotes and colons of the other one do no harm.
    Template(String),
    /// A whole number.
    Number(u64),
    /// `true` or `false`.
    Flag(bool),
    /// A sequence.
    List(Vec<Yaml>),
    /// A mapping.
    Map(Vec<(String, Yaml)>),
    /// A short value, on the line where it is named: `{ get_param: image }`.
    Inline(Box<Yaml>),
}

impl Yaml {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A sequence of texts.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    /// A mapping.
    #[must_use]
    pub fn map<const N: usize>(pairs: [(&str, Yaml); N]) -> Self {
        Self::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The document, with a line end behind it.
    #[must_use]
    pub fn document(&self) -> String {
        // Blocks are chosen here; long lines are not folded.
        let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
        let mut text = serde_saphyr::to_string_with_options(self, options)
            .expect("texts, numbers, lists and maps");
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }
}

impl Serialize for Yaml {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) if text.contains('\n') && in_block(text) => {
                LitStr(text).serialize(serializer)
            }
            Self::Template(text) if in_block(text) => LitStr(text).serialize(serializer),
            Self::Template(text) => DoubleQuoted(text).serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(value)?;
                }
                list.end()
            }
            Self::Inline(value) => FlowMap(value).serialize(serializer),
            Self::Map(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (name, value) in pairs {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Whether every reader finds a text again in a literal block: characters that some take for line
/// ends, and such as may not stand in YAML at all, can only be written as escapes.
fn in_block(text: &str) -> bool {
    let fits = |c: char| {
        matches!(c, '\n' | '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}')
            && !matches!(c, '\u{2028}' | '\u{2029}')
    };
    // Of blank lines alone nobody could say how far they are indented.
    let is_blank = text.trim_start_matches(['\n', ' ', '\t']).is_empty();
    !is_blank && text.chars().all(fits)
}

/// Lays a mapping over another one: what both name is the upper one's, but for mappings, which are laid
/// over each other in turn.
pub fn lay_over(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// The outermost names of a document and their values; `None` if it is no mapping, or no YAML. As for
/// `PyYAML`, the last of several values of a name counts, and bytes need not be text: they are left in
/// their Base64.
#[must_use]
pub fn pairs(text: &str) -> Option<BTreeMap<String, Value>> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        ignore_binary_tag_for_string: true,
    };
    serde_saphyr::from_str_with_options(text, options).ok()
}
