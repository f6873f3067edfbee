//! The catalogue: names for the images that distributions publish themselves.
//!
//! The one that comes with kiln is `src/catalog.kdl`; a workspace may add to it, or replace entries
//! of it, with a `catalog.kdl` in its root.

use std::path::Path;

use kdl::{KdlEntry, KdlNode};

use super::{ResolveError, arch_of};
use crate::fetch::{checksum, is_secure, names_a_user};
use crate::files::read_bounded;
use crate::mistake::{Mistake, Mistakes, nearest};
use crate::parse;
use crate::recipe::{Checksum, DiskFormat};
use crate::source::{FileId, Sources, Span};

/// The workspace's own catalogue, in its root.
pub const CATALOG_FILE: &str = "catalog.kdl";
const SHIPPED: &str = include_str!("../catalog.kdl");
const LIMIT: u64 = 1 << 20;
const CODE: &str = "kiln::resolve::catalog";
const SHAPE: &str = "an entry is `image \"NAME\" arch=\"…\" url=\"https://…\"` with `sums`, `sha256` or \
                     `sha512`, and maybe `format` and `title`";
const PROPERTIES: [&str; 7] = ["arch", "url", "sums", "sha256", "sha512", "format", "title"];

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What a recipe calls it.
    pub name: String,
    /// Its architecture.
    pub arch: String,
    /// Where it lies.
    pub url: String,
    /// What says what its bytes must be.
    pub proof: Proof,
    /// The format of the disk, unpacked, where the entry says it.
    pub format: Option<DiskFormat>,
    /// What people call it.
    pub title: Option<String>,
}

/// What says what an image's bytes must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A list of checksums beside it, which its publisher keeps.
    List(String),
    /// The entry itself.
    Sum(Checksum),
}

/// Reads the catalogue of a workspace: kiln's own, with what the workspace has in its place or
/// beside it.
///
/// # Errors
/// Where the workspace's own cannot be read or makes no sense.
pub fn read(root: &Path) -> Result<Vec<Entry>, ResolveError> {
    let mut sources = Sources::default();
    let mistakes = |list, sources: &Sources| ResolveError::Mistakes(Mistakes::new(list, sources));
    let shipped = entries(&mut sources, "kiln's own catalog.kdl", SHIPPED.as_bytes());
    let mut entries_found = shipped.map_err(|list| mistakes(list, &sources))?;
    let path = root.join(CATALOG_FILE);
    if path.exists() {
        let bytes = read_bounded(&path, LIMIT)?;
        let own = entries(&mut sources, CATALOG_FILE, &bytes);
        for entry in own.map_err(|list| mistakes(list, &sources))? {
            let twin = |other: &&mut Entry| other.name == entry.name && other.arch == entry.arch;
            match entries_found.iter_mut().find(twin) {
                Some(other) => *other = entry,
                None => entries_found.push(entry),
            }
        }
    }
    Ok(entries_found)
}

fn entries(sources: &mut Sources, path: &str, bytes: &[u8]) -> Result<Vec<Entry>, Vec<Mistake>> {
    let (file, document) = parse::read(sources, path.into(), bytes);
    let mut entries: Vec<(Entry, Span)> = Vec::new();
    let mut mistakes = Vec::new();
    for node in document?.nodes() {
        let span = span(file, node.span());
        match entry(file, node) {
            Err(mistake) => mistakes.push(mistake.help(SHAPE)),
            Ok(entry) => {
                let twin = entries
                    .iter()
                    .find(|(other, _)| other.name == entry.name && other.arch == entry.arch);
                if let Some((_, first)) = twin {
                    let message = format!("`{}` for {} is there twice", entry.name, entry.arch);
                    mistakes.push(
                        Mistake::at(span, CODE, message, "the second one")
                            .and(*first, "the first one")
                            .help("remove one of them"),
                    );
                } else {
                    entries.push((entry, span));
                }
            }
        }
    }
    let entries = entries.into_iter().map(|(entry, _)| entry).collect();
    if mistakes.is_empty() { Ok(entries) } else { Err(mistakes) }
}

fn entry(file: FileId, node: &KdlNode) -> Result<Entry, Mistake> {
    let at = span(file, node.span());
    let wrong = |span, message: &str, label: &str| Mistake::at(span, CODE, message, label);
    if node.name().value() != "image" || node.children().is_some() {
        return Err(wrong(at, "the catalogue holds something that is not an image", "this"));
    }
    let (arguments, properties): (Vec<&KdlEntry>, Vec<&KdlEntry>) =
        node.entries().iter().partition(|entry| entry.name().is_none());
    let [name] = arguments[..] else {
        return Err(wrong(at, "an image has one name", "this one has another number"));
    };
    for (number, property) in properties.iter().enumerate() {
        let key = property.name().map_or("", |name| name.value());
        let place = span(file, property.span());
        if !PROPERTIES.contains(&key) {
            let label = match nearest(key, PROPERTIES) {
                Some(near) => format!("not known; `{near}` is"),
                None => "not known".to_owned(),
            };
            return Err(wrong(place, "an image has no such property", &label));
        }
        if properties[..number].iter().any(|other| other.name() == property.name()) {
            return Err(wrong(place, "a property is there twice", "the second one"));
        }
        if property.value().as_string().is_none_or(str::is_empty) {
            return Err(wrong(place, "the value is not a text", "here"));
        }
    }
    let property = |key: &str| {
        let is = |entry: &&&KdlEntry| entry.name().is_some_and(|name| name.value() == key);
        let entry = properties.iter().find(is)?;
        Some((entry.value().as_string()?.to_owned(), span(file, entry.span())))
    };
    let text = |key: &str| property(key).map(|(text, _)| text);
    let name = name.value().as_string().filter(|name| is_word(name));
    let name = name.ok_or_else(|| wrong(at, "this is no name of an image", "this"))?.to_owned();
    let arch = text("arch").filter(|arch| is_word(arch));
    let arch = arch.ok_or_else(|| wrong(at, "an image has an `arch`", "this one has none"))?;
    let arch = arch_of(&arch).to_owned();
    let (url, place) =
        property("url").ok_or_else(|| wrong(at, "an image has a `url`", "this one has none"))?;
    if names_a_user(&url) {
        return Err(wrong(place, "a user or password has no place in an address", "here"));
    }
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(wrong(place, "only `https` and `http` are fetched", "here"));
    }
    let format = match property("format") {
        None => None,
        Some((word, place)) => {
            let found = DiskFormat::ALL.into_iter().find(|format| format.keyword() == word);
            Some(found.ok_or_else(|| wrong(place, "this format is not known", "here"))?)
        }
    };
    let proof = proof([property("sums"), property("sha256"), property("sha512")])
        .map_err(|(place, message)| wrong(place.unwrap_or(at), message, "here"))?;
    Ok(Entry { name, arch, url, proof, format, title: text("title") })
}

type Written = Option<(String, Span)>;

fn proof(written: [Written; 3]) -> Result<Proof, (Option<Span>, &'static str)> {
    match written {
        [Some((list, span)), None, None] if !is_secure(&list) => {
            Err((Some(span), "a list of checksums must come over `https`"))
        }
        [Some((list, _)), None, None] => Ok(Proof::List(list)),
        [None, Some((digits, span)), None] => match checksum::parse(&digits) {
            Some(sum @ Checksum::Sha256(_)) => Ok(Proof::Sum(sum)),
            _ => Err((Some(span), "a SHA-256 has 64 hexadecimal digits")),
        },
        [None, None, Some((digits, span))] => match checksum::parse(&digits) {
            Some(sum @ Checksum::Sha512(_)) => Ok(Proof::Sum(sum)),
            _ => Err((Some(span), "a SHA-512 has 128 hexadecimal digits")),
        },
        _ => Err((None, "an image has one of `sums`, `sha256` and `sha512`")),
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c))
}

fn span(file: FileId, span: miette::SourceSpan) -> Span {
    Span { file, offset: span.offset(), len: span.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_catalogue_has_the_great_distributions() {
        let directory = tempfile::tempdir().unwrap();
        let entries = read(directory.path()).unwrap();
        for name in [
            "debian-12",
            "ubuntu-24.04",
            "centos-stream-9",
            "rocky-9",
            "almalinux-9",
            "arch",
            "cirros",
        ] {
            assert!(
                entries.iter().any(|entry| entry.name == name && entry.arch == "x86_64"),
                "{name}"
            );
        }
        for entry in &entries {
            assert!(is_secure(&entry.url), "{}", entry.url);
            assert!(entry.title.is_some(), "{}", entry.name);
        }
    }

    #[test]
    fn a_workspace_adds_and_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let shipped = read(directory.path()).unwrap();
        let sum = "ab".repeat(32);
        let text = format!(
            "image \"debian-12\" arch=\"x86_64\" url=\"https://mirror.example/d.qcow2\" sha256=\"{sum}\"\n\
             image \"ours\" arch=\"x86_64\" url=\"http://here/o.img\" sha256=\"{sum}\" format=\"raw\"\n"
        );
        std::fs::write(directory.path().join(CATALOG_FILE), text).unwrap();
        let entries = read(directory.path()).unwrap();
        assert_eq!(entries.len(), shipped.len() + 1);
        let found = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(found("debian-12").url, "https://mirror.example/d.qcow2");
        assert_eq!(found("ours").format, Some(DiskFormat::Raw));
        assert_eq!(found("ours").proof, Proof::Sum(Checksum::Sha256(sum)));
    }

    #[test]
    fn what_makes_no_sense_has_a_place() {
        let good = "image \"a\" arch=\"x86_64\" url=\"https://a/a\" sums=\"https://a/s\"";
        let fault =
            |text: &str| entries(&mut Sources::default(), "c", text.as_bytes()).unwrap_err();
        assert!(entries(&mut Sources::default(), "c", good.as_bytes()).is_ok());
        for (from, to, shown) in [
            ("image", "picture", "not an image"),
            ("\"a\"", "", "one name"),
            ("\"a\"", "\"a\" \"b\"", "one name"),
            ("\"a\"", "\"a b\"", "no name"),
            ("sums", "sum", "no such property"),
            ("sums=\"https://a/s\"", "", "one of `sums`"),
            ("sums=", "sha256=\"ab\" sums=", "one of `sums`"),
            ("sums=\"https://a/s\"", "sha256=\"ab\"", "64"),
            ("https://a/s", "http://a/s", "over `https`"),
            ("https://a/a", "file:///etc/shadow", "only `https`"),
            ("arch=\"x86_64\"", "", "an `arch`"),
            ("\"x86_64\"", "5", "not a text"),
            ("arch=", "arch=\"b\" arch=", "twice"),
            ("sums=", "format=\"iso\" sums=", "format"),
        ] {
            let text = good.replacen(from, to, 1);
            let mistakes = fault(&text);
            assert!(mistakes[0].message.contains(shown), "{text}: {}", mistakes[0].message);
            assert_eq!(mistakes[0].code, CODE);
        }
        assert!(fault(&format!("{good}\n{good}"))[0].message.contains("twice"));
    }
}
