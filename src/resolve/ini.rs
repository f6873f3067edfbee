//! The form that virt-builder's indexes and sources are written in.
//!
//! Source: libguestfs, `builder/index-scan.l` and `virt-builder(1)`, "INDEX FORMAT": sections in
//! brackets, `key=value` or `key[sub]=value`, lines that start with a blank go on with the value
//! before, and `#` starts a comment in the first column alone.

/// Most sections, and most fields of one.
const MAX_SECTIONS: usize = 20_000;
const MAX_FIELDS: usize = 1_000;

/// Why a text is not of that form, or does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl Fault {
    /// A fault of a line.
    pub fn at(line: usize, why: impl Into<String>) -> Self {
        Self { line, why: why.into() }
    }
}

/// One section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// The line that it starts at.
    pub line: usize,
    /// Its fields in order; no two have the same key and sub-key.
    pub fields: Vec<Field>,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its key.
    pub key: String,
    /// What stands in brackets behind the key.
    pub sub: Option<String>,
    /// Its value; the lines of one that goes on are joined by line ends.
    pub value: String,
    /// The line that it starts at.
    pub line: usize,
}

impl Section {
    /// The value of a field without a sub-key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.key == key && field.sub.is_none())
    }
}

/// Reads a whole text.
///
/// # Errors
/// The first line that is not of the form.
pub fn parse(text: &str) -> Result<Vec<Section>, Fault> {
    let mut sections: Vec<Section> = Vec::new();
    // What a line that starts with a blank would go on with.
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        let (number, line) = (at + 1, line.trim_end());
        let fault = |why: &str| Fault::at(number, why);
        if line.starts_with('#') {
            continue;
        }
        if line.is_empty() {
            open = false;
        } else if line.starts_with([' ', '\t']) {
            let field = sections.last_mut().and_then(|section| section.fields.last_mut());
            let field = field.filter(|_| open).ok_or_else(|| fault("it goes on with nothing"))?;
            field.value.push('\n');
            field.value.push_str(line.trim_start());
        } else if let Some(rest) = line.strip_prefix('[') {
            let name = rest.strip_suffix(']').filter(|name| is_word(name));
            let name = name.ok_or_else(|| fault("a section is `[NAME]`"))?.to_owned();
            if sections.len() >= MAX_SECTIONS {
                return Err(fault("there are too many sections"));
            }
            sections.push(Section { name, line: number, fields: Vec::new() });
            open = false;
        } else {
            let (key, value) =
                line.split_once('=').ok_or_else(|| fault("a field is `KEY=VALUE`"))?;
            let (key, sub) = match key.split_once('[') {
                None => (key, None),
                Some((key, rest)) => {
                    let sub = rest.strip_suffix(']').filter(|sub| is_word(sub));
                    (key, Some(sub.ok_or_else(|| fault("a sub-key is `KEY[SUB]=VALUE`"))?))
                }
            };
            if !is_word(key) {
                return Err(fault("letters, digits, `-`, `_` and `.` may stand in a key"));
            }
            let section = sections.last_mut().ok_or_else(|| fault("it is in no section"))?;
            let field = Field {
                key: key.to_owned(),
                sub: sub.map(str::to_owned),
                value: value.trim_start().to_owned(),
                line: number,
            };
            let twice = |other: &Field| other.key == field.key && other.sub == field.sub;
            if section.fields.iter().any(twice) {
                return Err(fault("the field is there twice"));
            }
            if section.fields.len() >= MAX_FIELDS {
                return Err(fault("the section has too many fields"));
            }
            section.fields.push(field);
            open = true;
        }
    }
    Ok(sections)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_fields_and_long_values_are_read() {
        let text = "# a comment\n\n[a-1.0_x]\nname=A = b\nnotes=one\n two\n\tthree\nnotes[de]=eins\n\
                    \n[b]\nkey= #no comment\n# one inside\nkey2=\n";
        let sections = parse(text).unwrap();
        assert_eq!(sections.len(), 2);
        let values: Vec<_> = sections[0]
            .fields
            .iter()
            .map(|field| {
                (field.key.as_str(), field.sub.as_deref(), field.value.as_str(), field.line)
            })
            .collect();
        assert_eq!(
            values,
            [
                ("name", None, "A = b", 4),
                ("notes", None, "one\ntwo\nthree", 5),
                ("notes", Some("de"), "eins", 8)
            ]
        );
        assert_eq!(sections[1].get("key").unwrap().value, "#no comment");
        assert_eq!(sections[1].get("key2").unwrap().value, "");
        assert_eq!(sections[1].get("none"), None);
    }

    #[test]
    fn every_fault_has_its_line() {
        for (text, line) in [
            ("name=a", 1),
            ("[a]\nname", 2),
            ("[a b]", 1),
            ("[]", 1),
            ("[a", 1),
            ("[a]\n goes on", 2),
            ("[a]\nx=1\n\n goes on", 4),
            ("[a]\nx[=1", 2),
            ("[a]\nx[a b]=1", 2),
            ("[a]\nx y=1", 2),
            ("[a]\nx=1\nx=2", 3),
            ("[a]\nx[b]=1\nx=2\nx[b]=3", 4),
        ] {
            assert_eq!(parse(text).map_err(|fault| fault.line), Err(line), "{text}");
        }
        let many = "[a]\n".repeat(MAX_SECTIONS + 1);
        assert_eq!(parse(&many).unwrap_err().line, MAX_SECTIONS + 1);
    }
}
