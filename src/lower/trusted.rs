//! Changes to the `trust` nodes of `kiln.kdl` that leave every other byte as it is.
//!
//! It knows where to cut and what to put there. Whether the new text says what was meant is checked
//! by whoever asks, by reading it.

use kdl::{KdlDocument, KdlEntry, KdlNode};

use super::table;

/// The text with one more trusted key at its end.
///
/// `key` is in minisign's form; `name`, whose it is, has no control character in it.
#[must_use]
pub fn with_key(text: &str, key: &str, name: Option<&str>) -> String {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut changed = text.to_owned();
    if !changed.is_empty() && !changed.ends_with('\n') {
        changed.push_str(newline);
    }
    changed.push_str(&trust_line(key, name));
    changed.push_str(newline);
    changed
}

/// The line of `kiln.kdl` that trusts a key, without its end.
#[must_use]
pub fn trust_line(key: &str, name: Option<&str>) -> String {
    let name = name.map(|name| {
        let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
        format!(" name=\"{escaped}\"")
    });
    format!("trust \"{key}\"{}", name.unwrap_or_default())
}

/// The text with a key marked as revoked; `None` where it does not list the key.
///
/// `document` is what the text was parsed to.
#[must_use]
pub fn with_revoked(text: &str, document: &KdlDocument, key: &str) -> Option<String> {
    let is_key =
        |entry: &&KdlEntry| entry.name().is_none() && entry.value().as_string() == Some(key);
    let found = |node: &KdlNode| {
        let entry = node.entries().iter().find(is_key)?.span();
        let mark = node.entry("revoked").map(KdlEntry::span);
        Some((entry, mark))
    };
    let trusted = document.nodes().iter().filter(|node| node.name().value() == table::TRUST);
    let (entry, mark) = trusted.into_iter().find_map(found)?;
    let end = entry.offset() + entry.len();
    let (range, mark) = match mark {
        Some(mark) => (mark.offset()..mark.offset() + mark.len(), "revoked=#true"),
        None => (end..end, " revoked=#true"),
    };
    let mut changed = text.to_owned();
    changed.get(range.clone())?;
    changed.replace_range(range, mark);
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::FileId;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const OTHER: &str = "RWQBAgMEBQYHCHmlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn revoke(text: &str) -> Option<String> {
        with_revoked(text, &crate::parse::parse(FileId(0), text).unwrap(), KEY)
    }

    #[test]
    fn a_key_is_added_below_all_else() {
        for (before, after) in [
            ("", "trust \"K\"\n"),
            ("jobs 2", "jobs 2\ntrust \"K\"\n"),
            ("jobs 2 // two", "jobs 2 // two\ntrust \"K\"\n"),
            ("jobs 2\r\n", "jobs 2\r\ntrust \"K\"\r\n"),
            ("// ä\n\n", "// ä\n\ntrust \"K\"\n"),
        ] {
            assert_eq!(with_key(before, "K", None), after);
        }
        let named = trust_line("K", Some("Ann \"\\o/\" Example"));
        assert_eq!(named, r#"trust "K" name="Ann \"\\o/\" Example""#);
        let document = crate::parse::parse(FileId(0), &named).unwrap();
        let name = document.nodes()[0].entry("name").unwrap().value().as_string();
        assert_eq!(name, Some("Ann \"\\o/\" Example"));
    }

    #[test]
    fn a_key_is_revoked_and_nothing_else_changes() {
        for (before, after) in [
            ("trust \"KEY\"", "trust \"KEY\" revoked=#true"),
            (
                "trust \"KEY\" name=\"a\" // of a\n",
                "trust \"KEY\" revoked=#true name=\"a\" // of a\n",
            ),
            ("trust  name=a   KEY;jobs 2\n", "trust  name=a   KEY revoked=#true;jobs 2\n"),
            ("trust #\"KEY\"#\n", "trust #\"KEY\"# revoked=#true\n"),
            ("trust KEY revoked=#false name=b\n", "trust KEY revoked=#true name=b\n"),
            ("trust KEY revoked=#true\n", "trust KEY revoked=#true\n"),
            ("trust KEY /- revoked=#false\n", "trust KEY revoked=#true /- revoked=#false\n"),
            (
                "trust \\ // ä\n  KEY \\\n  name=b\n",
                "trust \\ // ä\n  KEY revoked=#true \\\n  name=b\n",
            ),
            (
                "/- trust KEY\ntrust OTHER\ntrust KEY\n",
                "/- trust KEY\ntrust OTHER\ntrust KEY revoked=#true\n",
            ),
            ("/* trust KEY */ trust KEY", "/* trust KEY */ trust KEY revoked=#true"),
        ] {
            let real = |text: &str| text.replace("OTHER", OTHER).replace("KEY", KEY);
            let (before, after) = (real(before), real(after));
            assert_eq!(revoke(&before).as_deref(), Some(after.as_str()));
        }
        assert_eq!(revoke(&format!("trust \"{OTHER}\"\n")), None);
        assert_eq!(revoke(&format!("// trust \"{KEY}\"\n")), None);
    }
}
