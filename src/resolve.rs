//! What the names of downloaded disk images mean: addresses and checksums, for the lock file.
//!
//! Templates are looked up in virt-builder's indexes, catalogue names in the catalogue and the lists
//! of checksums that distributions publish; an address without a checksum is downloaded once. It
//! decides nothing about builds: what it finds goes into [`crate::lock`], and builds read that.

pub mod catalog;
pub mod index;
pub mod ini;
mod signature;
pub mod sources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::fetch::checksum;
use crate::fetch::{Client, Downloads, FetchError, OnLine, is_secure, join};
use crate::files::FileError;
use crate::lock::Resolved;
use crate::mistake::{Mistakes, nearest};
use crate::recipe::Origin;
use catalog::{Entry, Proof};
use index::Template;
use ini::Fault;
use sources::Source;

/// Largest index, and largest list of checksums.
const LARGEST_INDEX: u64 = 16 << 20;
const LARGEST_LIST: u64 = 4 << 20;

/// Why a name means nothing.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ResolveError {
    /// Something could not be downloaded.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fetch(#[from] FetchError),
    /// A file of the host cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The workspace's catalogue has mistakes.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(Mistakes),
    /// A file that names sources has a mistake.
    #[error("`{}`, line {line}: {why}", path.display())]
    #[diagnostic(
        code(kiln::resolve::source),
        help("sources are written as `virt-builder(1)` says")
    )]
    Source {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// An index has a mistake.
    #[error("`{url}`, line {line}: {why}")]
    #[diagnostic(
        code(kiln::resolve::index),
        help("tell who keeps that index; its other templates are not used either")
    )]
    Index {
        /// Where the index is.
        url: String,
        /// The line.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A source is of a kind that is not read.
    #[error("the source `{name}` is of the format simplestreams, which is not read")]
    #[diagnostic(
        code(kiln::resolve::simplestreams),
        help("name the image's own address with `base url`, or add it to `catalog.kdl`")
    )]
    Simplestreams {
        /// The source.
        name: String,
    },
    /// There is no key to check an index with.
    #[error("the source `{name}` has no key to check its index with")]
    #[diagnostic(
        code(kiln::resolve::no_key),
        help(
            "write a file in `virt-builder/repos.d` of the workspace with `[{name}]`, `uri={uri}` and `gpgkey=`, the file of its key"
        )
    )]
    NoKey {
        /// The source.
        name: String,
        /// Where its index is.
        uri: String,
    },
    /// A file of keys cannot be used.
    #[error("`{}` is no OpenPGP key: {why}", path.display())]
    #[diagnostic(code(kiln::resolve::key), help("export the key with `gpg --armor --export`"))]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The program that checks signatures is missing.
    #[error("`gpgv` is not installed, which checks the signatures of indexes")]
    #[diagnostic(code(kiln::resolve::no_gpgv), help("`kiln doctor --fix` installs it"))]
    NoVerifier,
    /// An index is not signed as it must be.
    #[error("the signature of `{url}` is not good: {why}")]
    #[diagnostic(
        code(kiln::resolve::signature),
        help("nothing of the index was used; check its address and key")
    )]
    Signature {
        /// Where the index is.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Nothing has that name.
    #[error("there is no `{origin}`{}", for_arch(arch))]
    #[diagnostic(code(kiln::resolve::unknown), help("{help}"))]
    Unknown {
        /// What was looked for.
        origin: Origin,
        /// The architecture, where one was looked for.
        arch: String,
        /// What there is.
        help: String,
    },
    /// Nothing says what must come.
    #[error("nothing says which bytes `{origin}` has: {why}")]
    #[diagnostic(
        code(kiln::resolve::no_checksum),
        help("download it, check it, and name it with `base url` and its `sha256`")
    )]
    NoChecksum {
        /// What was looked for.
        origin: Origin,
        /// Where a checksum is missing.
        why: String,
    },
    /// An address that anybody on the way can change.
    #[error("`{url}` is not taken on trust: it does not come over `https`")]
    #[diagnostic(code(kiln::resolve::insecure), help("write its `sha256` or `sha512`"))]
    Insecure {
        /// The address.
        url: String,
    },
}

fn for_arch(arch: &str) -> String {
    if arch.is_empty() { String::new() } else { format!(" for {arch}") }
}

/// The templates of one source.
#[derive(Debug)]
pub struct Listed {
    /// The source.
    pub source: Source,
    /// What it has, or why that is not known.
    pub templates: Result<Vec<Template>, ResolveError>,
}

/// Looks names up. Each index is fetched once.
pub struct Resolver<'a> {
    root: PathBuf,
    directories: Vec<PathBuf>,
    client: Client<'a>,
    listed: Option<Vec<Listed>>,
    catalog: Option<Vec<Entry>>,
}

impl<'a> Resolver<'a> {
    /// A resolver for the workspace at `root`, with sources of some directories; see
    /// [`sources::directories`].
    #[must_use]
    pub fn new(root: &Path, directories: Vec<PathBuf>, client: Client<'a>) -> Self {
        Self { root: root.to_owned(), directories, client, listed: None, catalog: None }
    }

    /// What a name means now. An address without a checksum is downloaded, to `downloads`.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(
        &mut self,
        origin: &Origin,
        downloads: &Downloads,
        tell: &mut OnLine<'_>,
    ) -> Result<Resolved, ResolveError> {
        match origin {
            Origin::Url(url) if !is_secure(url) => Err(ResolveError::Insecure { url: url.clone() }),
            Origin::Url(url) => {
                let checksum = downloads.learn(&self.client, url, tell)?;
                Ok(Resolved { url: url.clone(), checksum, format: None, revision: None })
            }
            Origin::Template { name, arch } => {
                let arch = arch.as_deref().map_or_else(host_arch, |arch| arch_of(arch).to_owned());
                self.template(origin, name, arch, tell)
            }
            Origin::Catalog(name) => self.entry(origin, name),
        }
    }

    fn template(
        &mut self,
        origin: &Origin,
        name: &str,
        arch: String,
        tell: &mut OnLine<'_>,
    ) -> Result<Resolved, ResolveError> {
        let mut listed = self.take_listed()?;
        let best = best(&listed, name, &arch).map(|(source, template)| {
            let url = join(&source.uri, &template.file);
            let checksum = template.checksum.clone();
            (url, checksum, template.format, template.revision)
        });
        let failed = listed.iter().position(|listed| listed.templates.is_err());
        let Some((url, checksum, format, revision)) = best else {
            // What a source that cannot be read has is not known.
            if let Some(failed) = failed {
                return Err(listed.swap_remove(failed).templates.expect_err("it failed"));
            }
            let known = || templates_of(&listed).map(|(_, template)| template);
            let known = known().map(|template| (template.name.as_str(), template.arch.as_str()));
            let help = help(name, &known.collect::<Vec<_>>(), "`kiln bases` lists templates");
            return Err(ResolveError::Unknown { origin: origin.clone(), arch, help });
        };
        for Listed { source, templates } in &listed {
            if let Err(error) = templates {
                tell(&format!("warning: the source `{}` was left out: {error}", source.name));
            }
        }
        self.listed = Some(listed);
        let why = || "its index has no checksum for it".to_owned();
        let origin = origin.clone();
        let checksum = checksum.ok_or_else(|| ResolveError::NoChecksum { origin, why: why() })?;
        Ok(Resolved { url, checksum, format, revision: Some(revision) })
    }

    fn entry(&mut self, origin: &Origin, name: &str) -> Result<Resolved, ResolveError> {
        let arch = host_arch();
        let entries = self.catalog()?;
        let Some(entry) = entries.iter().find(|entry| entry.name == name && entry.arch == arch)
        else {
            let known: Vec<_> =
                entries.iter().map(|entry| (entry.name.as_str(), entry.arch.as_str())).collect();
            let help = help(name, &known, "`kiln bases` lists the catalogue");
            return Err(ResolveError::Unknown { origin: origin.clone(), arch, help });
        };
        let Entry { url, proof, format, .. } = entry.clone();
        let checksum = match proof {
            Proof::Sum(sum) => sum,
            Proof::List(list) => {
                let bytes = self.client.document(&list, LARGEST_LIST)?;
                let text = String::from_utf8_lossy(&bytes);
                let file = url.rsplit('/').next().unwrap_or_default();
                let beside = list.strip_prefix(&url).is_some();
                let sum = checksum::find(&text, file);
                let sum = sum.or_else(|| beside.then(|| checksum::only(&text)).flatten());
                sum.ok_or_else(|| ResolveError::NoChecksum {
                    origin: origin.clone(),
                    why: format!("`{list}` has none for `{file}`"),
                })?
            }
        };
        Ok(Resolved { url, checksum, format, revision: None })
    }

    /// The catalogue.
    ///
    /// # Errors
    /// Where the workspace's own cannot be read or makes no sense.
    pub fn catalog(&mut self) -> Result<&[Entry], ResolveError> {
        if self.catalog.is_none() {
            self.catalog = Some(catalog::read(&self.root)?);
        }
        Ok(self.catalog.as_deref().unwrap_or_default())
    }

    /// The templates of all sources; of one that fails, why.
    ///
    /// # Errors
    /// Where the files that name sources cannot be read or make no sense.
    pub fn templates(&mut self) -> Result<&[Listed], ResolveError> {
        let listed = self.take_listed()?;
        Ok(self.listed.insert(listed))
    }

    fn take_listed(&mut self) -> Result<Vec<Listed>, ResolveError> {
        if let Some(listed) = self.listed.take() {
            return Ok(listed);
        }
        let sources = sources::read(&self.directories)?;
        let listed = sources.into_iter().map(|source| {
            let templates = self.index(&source);
            Listed { source, templates }
        });
        Ok(listed.collect())
    }

    /// Fetches, verifies and reads the index of a source.
    fn index(&self, source: &Source) -> Result<Vec<Template>, ResolveError> {
        let Source { name, uri, key, fingerprint, check, proxy, native } = source;
        if !native {
            return Err(ResolveError::Simplestreams { name: name.clone() });
        }
        if *check && key.is_none() {
            return Err(ResolveError::NoKey { name: name.clone(), uri: uri.clone() });
        }
        if !check && !is_secure(uri) {
            return Err(ResolveError::Insecure { url: uri.clone() });
        }
        let document = self.client.with_proxy(proxy)?.document(uri, LARGEST_INDEX)?;
        let text = match key {
            Some(key) if *check => signature::verify(uri, &document, key, fingerprint.as_deref())?,
            _ => signature::unwrapped(&String::from_utf8_lossy(&document)),
        };
        index::parse(&text).map_err(|Fault { line, why }| ResolveError::Index {
            url: uri.clone(),
            line,
            why,
        })
    }
}

fn templates_of(listed: &[Listed]) -> impl Iterator<Item = (&Source, &Template)> {
    listed.iter().flat_map(|Listed { source, templates }| {
        templates.iter().flatten().map(move |template| (source, template))
    })
}

/// The newest template with a name; its own name goes before an alias, and of two that are as new,
/// the first source's.
fn best<'l>(listed: &'l [Listed], name: &str, arch: &str) -> Option<(&'l Source, &'l Template)> {
    let rank = |template: &Template| (template.name == name, template.revision);
    templates_of(listed)
        .filter(|(_, template)| template.is_called(name) && arch_of(&template.arch) == arch)
        .reduce(|best, next| if rank(next.1) > rank(best.1) { next } else { best })
}

/// What to say about a name that is not there.
fn help(name: &str, known: &[(&str, &str)], otherwise: &str) -> String {
    let arches: BTreeSet<&str> =
        known.iter().filter(|(other, _)| *other == name).map(|(_, arch)| *arch).collect();
    if !arches.is_empty() {
        let arches: Vec<&str> = arches.into_iter().collect();
        return format!("it is there for {}", arches.join(", "));
    }
    match nearest(name, known.iter().map(|(other, _)| *other)) {
        Some(near) => format!("`{near}` is there; {otherwise}"),
        None => otherwise.to_owned(),
    }
}

/// The host's architecture, as indexes name it.
#[must_use]
pub fn host_arch() -> String {
    crate::host::architecture().to_owned()
}

/// One name for an architecture that has several.
fn arch_of(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "ppc64el" => "ppc64le",
        arch => arch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, index: &str) -> Listed {
        let source = Source { name: name.to_owned(), ..Source::public() };
        Listed { source, templates: Ok(index::parse(index).unwrap()) }
    }

    fn entry(name: &str, arch: &str, fields: &str) -> String {
        format!("[{name}]\narch={arch}\nfile={name}.xz\nsize=1\n{fields}\n\n")
    }

    #[test]
    fn the_newest_of_all_sources_is_taken() {
        let lists = [
            listed(
                "one",
                &[entry("os", "x86_64", "revision=2"), entry("os", "aarch64", "revision=9")]
                    .concat(),
            ),
            listed("two", &entry("os", "amd64", "revision=3\naliases=latest")),
            listed(
                "three",
                &[entry("os", "x86_64", "revision=3"), entry("latest", "x86_64", "")].concat(),
            ),
        ];
        let found = |name, arch| {
            let (source, template) = best(&lists, name, arch)?;
            Some((source.name.as_str(), template.name.as_str(), template.revision))
        };
        assert_eq!(found("os", "x86_64"), Some(("two", "os", 3)));
        assert_eq!(found("os", "aarch64"), Some(("one", "os", 9)));
        assert_eq!(found("latest", "x86_64"), Some(("three", "latest", 1)));
        assert_eq!(found("none", "x86_64"), None);
    }

    #[test]
    fn a_name_that_is_not_there_gets_the_nearest() {
        let known = [("centos-7.2", "x86_64"), ("centos-7.2", "aarch64")];
        assert_eq!(help("centos-7.2", &known, "x"), "it is there for aarch64, x86_64");
        assert_eq!(help("centos-72", &known, "x"), "`centos-7.2` is there; x");
        assert_eq!(help("windows", &known, "x"), "x");
    }
}
