//! The direction of the modules: every import goes to the same layer or to a lower one.
//!
//! Knows the table of layers, the homes of third-party crates, and how paths look in the sources. It
//! reads text and does not compile anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The modules of the crate, from the top down. Each stands in exactly one layer.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["engine"],
    &["plan", "schedule", "output", "progress", "publish"],
    &["execute", "seal"],
    &["attest", "audit", "boot"],
    &["guest"],
    &["heat"],
    &["resolve", "user_data"],
    &["disk", "store", "fetch", "remote", "pack"],
    &["openstack"],
    &["key", "explain", "inputs", "secret"],
    &["workspace"],
    &["graph", "import"],
    &["lower", "lock"],
    &["parse", "recipe"],
    &["expression"],
    &["mistake", "name", "files", "link", "host", "seed"],
    &["advise", "causes", "compression", "digest", "environment", "source", "sys", "wire", "yaml"],
];

/// Crates that have one home, by the name that they have in code: paths that start with one of
/// these may use them.
const HOMES: &[(&str, &[&str])] = &[
    ("aho_corasick", &["secret"]),
    (
        "base64",
        &[
            "boot/instance",
            "lower/settings",
            "lower/shape",
            "remote/registry/access",
            "remote/signing",
            "resolve/signature",
            "secret",
            "user_data",
        ],
    ),
    ("brush_parser", &["import/shell"]),
    ("bzip2", &["compression"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("docker_credential", &["remote/registry/access"]),
    ("fatfs", &["seed"]),
    ("flate2", &["compression"]),
    ("fuser", &["disk/door"]),
    ("hcl", &["import/packer"]),
    ("indicatif", &["progress", "cli/cache/verify", "cli/publish"]),
    (
        "kdl",
        &[
            "audit/remedy",
            "parse",
            "lower",
            "lock",
            "import/write",
            "import/commands",
            "resolve/catalog",
        ],
    ),
    ("liblzma", &["compression"]),
    ("oci_spec", &["execute/container", "remote/registry/manifest"]),
    ("opendal", &["remote"]),
    ("pcre2", &["guest/edit", "guest/selinux"]),
    ("petgraph", &["graph"]),
    ("reqwest", &["publish/glance", "remote", "wire"]),
    ("rustls", &["wire"]),
    ("serde_saphyr", &["audit/cloud", "openstack/clouds", "yaml"]),
    ("sha2", &["fetch/checksum", "publish/source", "remote"]),
    ("tar", &["guest/tar_in", "remote/bundle"]),
    ("tokio", &["publish/glance", "remote", "wire"]),
    ("ureq", &["fetch"]),
    ("walkdir", &["inputs", "workspace", "guest/selinux", "remote/directory", "store"]),
    ("zeroize", &["secret", "link", "remote/signing", "cli/key"]),
    ("zstd", &["compression", "pack/codec"]),
];

/// One source file.
struct Source {
    /// From the crate's root: `src/disk/door.rs`.
    path: PathBuf,
    /// Its path as a module, with slashes: `disk/door`.
    module: String,
    /// Its lines, without those that are comments.
    lines: Vec<(usize, String)>,
}

impl Source {
    /// The module right below the crate that it belongs to.
    fn top(&self) -> &str {
        self.module.split('/').next().unwrap_or_default()
    }

    /// Where a line stands, for messages.
    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for entry in WalkDir::new(root.join("src")).sort_by_file_name() {
        let entry = entry.expect("a readable tree");
        if entry.path().extension().is_none_or(|ending| ending != "rs") {
            continue;
        }
        let path = entry.path().strip_prefix(root).expect("below the root").to_owned();
        let module = path.with_extension("").to_string_lossy()["src/".len()..].to_owned();
        let text = fs::read_to_string(entry.path()).expect("UTF-8");
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(at, line)| (at + 1, line.to_owned()))
            .collect();
        sources.push(Source { path, module, lines });
    }
    sources
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The word of Rust that a text starts with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The modules of this crate that a line names, also as `kiln::…` in `main`.
fn named(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for start in ["crate::", "kiln::"] {
        for (at, _) in line.match_indices(start) {
            let before = line[..at].chars().next_back();
            // Codes of diagnostics stand in quotes and in attributes.
            if before.is_some_and(|c| c.is_ascii_alphanumeric() || "_:\"$(".contains(c)) {
                continue;
            }
            found.push(word(&line[at + start.len()..]));
        }
    }
    found
}

#[test]
fn every_module_has_one_layer() {
    let listed: Vec<&str> = LAYERS.iter().copied().flatten().copied().collect();
    let once: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(listed.len(), once.len(), "a module stands in two layers of tests/layers.rs");
    let sources = sources();
    let there: BTreeSet<&str> =
        sources.iter().map(Source::top).filter(|&top| top != "lib").collect();
    let homeless: Vec<_> = there.difference(&once).collect();
    assert!(
        homeless.is_empty(),
        "these modules have no layer: {homeless:?}; put each into LAYERS of tests/layers.rs, above \
         all that it imports and below all that import it"
    );
    let gone: Vec<_> = once.difference(&there).collect();
    assert!(gone.is_empty(), "LAYERS of tests/layers.rs names modules that do not exist: {gone:?}");
}

#[test]
fn no_import_goes_up() {
    let mut upward = Vec::new();
    for source in sources().iter().filter(|source| source.top() != "lib") {
        let own = layer(source.top()).expect("see `every_module_has_one_layer`");
        for (at, line) in &source.lines {
            for module in named(line) {
                match layer(module) {
                    Some(other) if other >= own => {}
                    Some(_) => upward.push(format!(
                        "{}: `{}` must not know `{module}`, which is above it",
                        source.at(*at),
                        source.top()
                    )),
                    None => upward.push(format!(
                        "{}: write the import with its module: `{}`",
                        source.at(*at),
                        line.trim()
                    )),
                }
            }
        }
    }
    assert!(upward.is_empty(), "imports go down only:\n{}", upward.join("\n"));
}

#[test]
fn every_foreign_crate_is_at_home() {
    let mut strays = Vec::new();
    for source in sources() {
        for (at, line) in &source.lines {
            for (name, homes) in HOMES {
                let inside = |home: &&str| {
                    source.module == **home || source.module.starts_with(&format!("{home}/"))
                };
                let used = line.match_indices(&format!("{name}::")).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    before.is_none_or(|c| !c.is_ascii_alphanumeric() && !"_:".contains(c))
                });
                if used && !homes.iter().any(inside) {
                    strays.push(format!("{}: `{name}` lives in {homes:?}", source.at(*at)));
                }
            }
        }
    }
    assert!(strays.is_empty(), "a crate is used away from its home:\n{}", strays.join("\n"));
}

#[test]
fn unsafe_code_has_one_room() {
    let outside: Vec<_> = sources()
        .iter()
        .filter(|source| source.module != "sys")
        .flat_map(|source| {
            source.lines.iter().filter(|(_, line)| is_unsafe(line)).map(|(at, _)| source.at(*at))
        })
        .collect();
    assert!(outside.is_empty(), "`unsafe` belongs into src/sys.rs: {outside:?}");
}

/// Whether a line has the keyword; `force-unsafe-io`, an option of dpkg, is none.
fn is_unsafe(line: &str) -> bool {
    line.match_indices("unsafe").any(|(at, found)| {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let before = line[..at].chars().next_back();
        let after = line[at + found.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}
