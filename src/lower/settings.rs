//! `kiln.kdl`: settings of a workspace, none of which can change an image but a secret's version.

use std::path::PathBuf;

use kdl::KdlDocument;

use super::fields::{Context, Fields, known_nodes};
use super::table::{self, Word};
use super::{context, only_once};
use crate::mistake::Mistake;
use crate::name::RemoteName;
use crate::recipe::{RemoteSource, Retention, SecretPlace, SecretSource, Sharing, TrustedKey};
use crate::source::{FileId, Sources, Spanned};

/// What `kiln.kdl` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where the store is, as written.
    pub store: Option<PathBuf>,
    /// How many images are built at a time.
    pub jobs: Option<usize>,
    /// Where the values of secrets are found.
    pub secrets: Vec<SecretSource>,
    /// What is shared with whom.
    pub sharing: Sharing,
    /// What garbage collection keeps.
    pub retention: Retention,
}

/// The settings of `kiln.kdl`, and its mistakes.
#[must_use]
pub fn settings(
    document: &KdlDocument,
    file: FileId,
    sources: &Sources,
) -> (Settings, Vec<Mistake>) {
    let mut cx = context(sources, file);
    let known: Vec<&'static Word> = table::SETTINGS.iter().collect();
    let mut settings = Settings::default();
    let mut seen = Vec::new();
    for (node, word) in known_nodes(&mut cx, document, "`kiln.kdl`", &known) {
        let fields = Fields::read(&mut cx, node, word);
        match word.keyword {
            "secret" => {
                let secret = secret(&mut cx, &fields);
                let twin = secret.as_ref().and_then(|secret| {
                    let same = |known: &&SecretSource| known.name.value == secret.name.value;
                    settings.secrets.iter().find(same)
                });
                if let (Some(secret), Some(twin)) = (&secret, twin) {
                    let message = format!("there are two secrets `{}`", secret.name.value);
                    cx.push(
                        Mistake::at(
                            secret.name.span,
                            "kiln::lower::duplicate_node",
                            message,
                            "written again",
                        )
                        .and(twin.name.span, "first written here")
                        .help("remove one of them"),
                    );
                }
                settings.secrets.extend(secret);
            }
            "remote" => {
                let remote = remote(&mut cx, &fields, &settings.sharing.remotes);
                settings.sharing.remotes.extend(remote);
            }
            table::TRUST => {
                let key = trusted(&mut cx, &fields, &settings.sharing.trusted);
                settings.sharing.trusted.extend(key);
            }
            "namespace" => {
                only_once(&mut cx, &mut seen, &fields);
                let name = fields.one("name");
                settings.sharing.namespace = name.unwrap_or(settings.sharing.namespace);
            }
            "cache" => {
                only_once(&mut cx, &mut seen, &fields);
                settings.retention = retention(&mut cx, &fields);
            }
            "store" => {
                only_once(&mut cx, &mut seen, &fields);
                settings.store = fields.one("path").or(settings.store);
            }
            _ => {
                only_once(&mut cx, &mut seen, &fields);
                let count = fields.one::<u64>("count").and_then(|count| count.try_into().ok());
                settings.jobs = count.or(settings.jobs);
            }
        }
    }
    (settings, cx.mistakes)
}

/// Where a secret is found; `None` if that is not said, or said twice.
fn secret(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<SecretSource> {
    let mut command = None;
    if let Some(block) = fields.node.children() {
        let known: Vec<&'static Word> = fields.word.children().collect();
        for (node, word) in known_nodes(cx, block, "`secret`", &known) {
            let inner = Fields::read(cx, node, word);
            command = inner.many::<String>("word").or(command);
        }
    }
    let places = [
        fields.property::<PathBuf>("file").map(SecretPlace::File),
        fields.property::<String>("env").map(SecretPlace::Env),
        command.map(SecretPlace::Command),
    ];
    let mut places: Vec<_> = places.into_iter().flatten().collect();
    let name = fields.one("name")?;
    if places.len() != 1 {
        if cx.mistakes.len() == fields.before {
            let message = "a secret is found in exactly one place";
            cx.push(
                Mistake::at(fields.span, "kiln::lower::exactly_one", message, "this secret")
                    .help("write one of `file`, `env` and an inner `command`"),
            );
        }
        return None;
    }
    let version = fields.property("version").unwrap_or_else(|| "1".to_owned());
    Some(SecretSource { name, version, place: places.remove(0) })
}

/// A remote; `None` if it has no usable name or address.
fn remote(
    cx: &mut Context<'_>,
    fields: &Fields<'_>,
    known: &[RemoteSource],
) -> Option<RemoteSource> {
    let name = fields.one::<Spanned<RemoteName>>("name");
    let twin = name.as_ref().and_then(|name| known.iter().find(|old| old.name.value == name.value));
    if let (Some(name), Some(twin)) = (&name, twin) {
        let message = format!("there are two remotes `{}`", name.value);
        cx.push(
            Mistake::at(name.span, "kiln::lower::duplicate_node", message, "written again")
                .and(twin.name.span, "first written here")
                .help("give one of them another name"),
        );
    }
    Some(RemoteSource {
        name: name?,
        address: fields.one("address")?,
        endpoint: fields.property("endpoint"),
        region: fields.property("region"),
        read_only: fields.property("read-only").unwrap_or(false),
        impure: fields.property("impure").unwrap_or(false),
    })
}

/// A trusted key; `None` if it is none.
fn trusted(cx: &mut Context<'_>, fields: &Fields<'_>, known: &[TrustedKey]) -> Option<TrustedKey> {
    let key = fields.one::<Spanned<String>>("key")?;
    if let Some((twin, what)) = known.iter().find_map(|old| Some((old, twins(old, &key.value)?))) {
        cx.push(
            Mistake::at(key.span, "kiln::lower::duplicate_node", what, "written again")
                .and(twin.key.span, "first written here")
                .help("remove one of them; a key that is revoked stays, with `revoked=#true`"),
        );
    }
    Some(TrustedKey {
        key,
        name: fields.property("name"),
        revoked: fields.property("revoked").unwrap_or(false),
    })
}

/// What two keys have in common that only one may have. Of the 42 bytes of a key, eight are its
/// number, by which it goes in signatures and in the store; the last 32 are the key itself.
fn twins(old: &TrustedKey, key: &str) -> Option<&'static str> {
    use base64::Engine as _;
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
    let (old, new) = (decode(&old.key.value)?, decode(key)?);
    if old.get(10..)? == new.get(10..)? {
        Some("this key is trusted twice")
    } else if old.get(2..10)? == new.get(2..10)? {
        Some("there are two keys with one number")
    } else {
        None
    }
}

fn retention(cx: &mut Context<'_>, fields: &Fields<'_>) -> Retention {
    let mut retention = Retention::default();
    let Some(block) = fields.node.children() else { return retention };
    let known: Vec<&'static Word> = fields.word.children().collect();
    let mut seen = Vec::new();
    for (node, word) in known_nodes(cx, block, "`cache`", &known) {
        let inner = Fields::read(cx, node, word);
        only_once(cx, &mut seen, &inner);
        match word.keyword {
            "size" => retention.size = inner.one("size"),
            "age" => retention.age = inner.one("period"),
            "free" => retention.free = inner.one("size"),
            "keep-builds" => {
                let count = inner.one::<u64>("count").and_then(|count| count.try_into().ok());
                retention.keep_builds = count.unwrap_or(retention.keep_builds);
            }
            table::UNUSED_ORIGINAL => retention.unused_original = inner.one("period"),
            _ => retention.unused_resized = inner.one("period"),
        }
    }
    retention
}
