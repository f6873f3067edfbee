//! Where indexes of templates come from: virt-builder's own configuration files.
//!
//! Source: `virt-builder(1)`, "SOURCES OF TEMPLATES". kiln reads two more keys, `fingerprint` and
//! `check-signature`, and a key's path relative to its own file.

use std::path::{Path, PathBuf};

use super::ResolveError;
use super::ini::{self, Fault, Section};
use crate::fetch::{ProxyUse, names_a_user};
use crate::files::{Context, read_bounded};

/// Largest configuration file, and most of them.
const LIMIT: u64 = 1 << 20;
const MAX_FILES: usize = 200;
const REPOS: &str = "virt-builder/repos.d";

/// A place that has templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Where its index is.
    pub uri: String,
    /// The file with the key that signs the index.
    pub key: Option<PathBuf>,
    /// The fingerprint that the key must have, in upper case and without blanks.
    pub fingerprint: Option<String>,
    /// Whether an index without a good signature is refused.
    pub check: bool,
    /// The proxy to use.
    pub proxy: ProxyUse,
    /// Whether the index is of virt-builder's own format.
    pub native: bool,
}

impl Source {
    /// The public builder repository of libguestfs, used where no file names any source.
    ///
    /// Source of the fingerprint: libguestfs, `builder/libguestfs.gpg`.
    #[must_use]
    pub fn public() -> Self {
        Self {
            name: "builder.libguestfs.org".to_owned(),
            uri: "https://builder.libguestfs.org/index.asc".to_owned(),
            key: None,
            fingerprint: Some("F7774FB1AD074A7E8C8767EA91738F73E1B768A0".to_owned()),
            check: true,
            proxy: ProxyUse::System,
            native: true,
        }
    }
}

/// The directories of sources: the workspace's own alone, if it has one; else the user's and the
/// host's.
#[must_use]
pub fn directories(root: &Path) -> Vec<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    // What a name means must not depend on the host where the workspace says it itself.
    let own = root.join(REPOS);
    if own.is_dir() {
        return vec![own];
    }
    let home = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(absolute)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
    let shared = variable("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
    let mut bases: Vec<PathBuf> = home.filter(absolute).into_iter().collect();
    bases.extend(std::env::split_paths(&shared).filter(absolute));
    bases.push(PathBuf::from("/etc"));
    bases.into_iter().map(|base| base.join(REPOS)).collect()
}

/// Reads all sources of some directories, in their order and that of the files' names; the public
/// one where there is no file at all.
///
/// # Errors
/// A file that cannot be read or makes no sense.
pub fn read(directories: &[PathBuf]) -> Result<Vec<Source>, ResolveError> {
    let mut files = Vec::new();
    for directory in directories {
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            result => result.context("read", directory)?,
        };
        let mut found: Vec<PathBuf> = entries
            .take(MAX_FILES)
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "conf"))
            .collect();
        found.sort();
        files.extend(found);
    }
    let mut sources = Vec::new();
    for path in &files {
        let bytes = read_bounded(path, LIMIT)?;
        let text = String::from_utf8_lossy(&bytes);
        let found = parse(&text, path.parent().unwrap_or(Path::new("/")));
        sources.extend(found.map_err(|Fault { line, why }| {
            let path = path.clone();
            ResolveError::Source { path, line, why }
        })?);
    }
    if files.is_empty() {
        sources.push(Source::public());
    }
    Ok(sources)
}

/// Reads the text of one file, which lies in a directory.
fn parse(text: &str, directory: &Path) -> Result<Vec<Source>, Fault> {
    ini::parse(text)?.iter().map(|section| source(section, directory)).collect()
}

fn source(section: &Section, directory: &Path) -> Result<Source, Fault> {
    let mut source = Source {
        name: section.name.clone(),
        uri: String::new(),
        fingerprint: None,
        ..Source::public()
    };
    for field in section.fields.iter().filter(|field| field.sub.is_none()) {
        let fault = |why: &str| Err(Fault::at(field.line, why));
        let value = field.value.as_str();
        match field.key.as_str() {
            "uri" if names_a_user(value) => {
                return fault("a user or password has no place in an address");
            }
            "uri" if value.starts_with("https://") || value.starts_with("http://") => {
                value.clone_into(&mut source.uri);
            }
            "uri" => return fault("only `https` and `http` are fetched"),
            "gpgkey" => {
                let path = value.strip_prefix("file://").unwrap_or(value);
                if path.is_empty() || path.contains("://") {
                    return fault(
                        "a key is a file: `gpgkey=file:///…`, or a path beside this file",
                    );
                }
                source.key = Some(directory.join(path));
            }
            "fingerprint" => {
                let digits: String = value.split_whitespace().collect();
                if digits.len() < 40 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return fault("a fingerprint has at least 40 hexadecimal digits");
                }
                source.fingerprint = Some(digits.to_ascii_uppercase());
            }
            "check-signature" => {
                source.check = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return fault("`check-signature` is `yes` or `no`"),
                }
            }
            "proxy" => {
                source.proxy = match value {
                    "system" => ProxyUse::System,
                    "no" => ProxyUse::No,
                    url => ProxyUse::Url(url.to_owned()),
                }
            }
            "format" => {
                source.native = match value {
                    "native" => true,
                    "simplestreams" => false,
                    _ => return fault("`format` is `native` or `simplestreams`"),
                }
            }
            _ => {}
        }
    }
    if source.uri.is_empty() {
        return Err(Fault::at(section.line, format!("`{}` has no `uri`", section.name)));
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_says_where_and_whose_key() {
        let text = "[local]\nuri=https://a.example/index.asc\ngpgkey=file:///etc/key.gpg\n\
                    proxy=http://proxy.example:3128\n\
                    fingerprint=f777 4fb1 ad07 4a7e 8c87  67ea 9173 8f73 e1b7 68a0\n\
                    [mine]\nuri=http://b.example/index\ngpgkey=key.asc\nproxy=no\n\
                    check-signature=no\nformat=simplestreams\nname=x\n";
        let sources = parse(text, Path::new("/space/repos.d")).unwrap();
        let [local, mine] = &sources[..] else { panic!("{sources:?}") };
        assert_eq!(local.key.as_deref(), Some(Path::new("/etc/key.gpg")));
        assert_eq!(local.fingerprint, Source::public().fingerprint);
        assert_eq!(local.proxy, ProxyUse::Url("http://proxy.example:3128".to_owned()));
        assert!(local.check && local.native);
        assert_eq!(mine.key.as_deref(), Some(Path::new("/space/repos.d/key.asc")));
        assert_eq!((&mine.fingerprint, &mine.proxy), (&None, &ProxyUse::No));
        assert!(!mine.check && !mine.native);
    }

    #[test]
    fn every_fault_has_its_line() {
        for (text, line) in [
            ("[a]\n", 1),
            ("[a]\nuri=file:///etc/index\n", 2),
            ("[a]\nuri=https://me:secret@a/index\n", 2),
            ("[a]\nuri=https://a\ngpgkey=https://a/key\n", 3),
            ("[a]\nuri=https://a\nfingerprint=12\n", 3),
            ("[a]\nuri=https://a\ncheck-signature=false\n", 3),
            ("[a]\nuri=https://a\nformat=other\n", 3),
        ] {
            let result = parse(text, Path::new("/"));
            assert_eq!(result.map_err(|fault| fault.line), Err(line), "{text}");
        }
    }

    #[test]
    fn a_workspace_with_sources_of_its_own_has_no_others() {
        let root = tempfile::tempdir().unwrap();
        let others = directories(root.path());
        assert!(others.contains(&PathBuf::from("/etc/virt-builder/repos.d")), "{others:?}");
        assert!(others.iter().all(|directory| directory.is_absolute()));
        let own = root.path().join(REPOS);
        std::fs::create_dir_all(&own).unwrap();
        assert_eq!(directories(root.path()), [own]);
    }

    #[test]
    fn files_come_in_order_and_the_public_source_only_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (own, none) = (directory.path().join("own"), directory.path().join("none"));
        assert_eq!(read(std::slice::from_ref(&none)).unwrap(), [Source::public()]);
        std::fs::create_dir(&own).unwrap();
        for name in ["b.conf", "a.conf", "c.txt"] {
            let text = format!("[{name}]\nuri=https://{name}/index\n");
            std::fs::write(own.join(name), text).unwrap();
        }
        let names: Vec<_> =
            read(&[none, own.clone()]).unwrap().into_iter().map(|source| source.name).collect();
        assert_eq!(names, ["a.conf", "b.conf"]);
        std::fs::write(own.join("a.conf"), "[a]\nuri\n").unwrap();
        let result = read(&[own]);
        assert!(matches!(result, Err(ResolveError::Source { line: 2, .. })), "{result:?}");
    }
}
