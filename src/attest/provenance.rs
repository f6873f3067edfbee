//! How a state came to be, as an in-toto statement with a SLSA provenance.
//!
//! Sources: in-toto Attestation Framework, Statement v1; SLSA, Provenance v1. Both are a few members
//! of JSON, and no crate has them that is kept: they stand here as they are written.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::digest::{ActionKey, StateId};
use crate::key::{Action, Manifest, Operation, Value};
use crate::recipe::{Checksum, Fetched};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// What the members of `externalParameters` mean.
const BUILD_TYPE: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/action/v1");
const BUILDER: &str = env!("CARGO_PKG_REPOSITORY");
/// The name of a state's digest: it is over the layer's index, and not over the bytes of a file.
const STATE: &str = "kilnState";

/// What a provenance is made of.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// `IMAGE/STEP`.
    pub name: &'a str,
    /// The action.
    pub action: &'a Action,
    /// The preimage of its key.
    pub manifest: &'a Manifest,
    /// Its key.
    pub key: ActionKey,
    /// The state that it was run on.
    pub parent: Option<StateId>,
    /// The state that it led to.
    pub state: StateId,
    /// When it ended, in seconds since 1970 in UTC.
    pub ended: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Versions of the host's programs that took part.
    pub host: &'a [String],
}

#[derive(Debug, Serialize)]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: [Resource; 1],
    #[serde(rename = "predicateType")]
    predicate_type: &'static str,
    predicate: Provenance<'a>,
}

/// A `ResourceDescriptor`.
#[derive(Debug, Serialize)]
struct Resource {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    digest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Provenance<'a> {
    build_definition: BuildDefinition<'a>,
    run_details: RunDetails<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition<'a> {
    build_type: &'static str,
    external_parameters: Parameters<'a>,
    resolved_dependencies: Vec<Resource>,
}

#[derive(Debug, Serialize)]
struct Parameters<'a> {
    /// Every value that is in the key, under its name, in the order of the key.
    manifest: &'a Manifest,
}

#[derive(Debug, Serialize)]
struct RunDetails<'a> {
    builder: Builder,
    metadata: Metadata,
    byproducts: Vec<Program<'a>>,
}

#[derive(Debug, Serialize)]
struct Builder {
    id: &'static str,
    version: Version,
}

#[derive(Debug, Serialize)]
struct Version {
    kiln: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    invocation_id: ActionKey,
    started_on: String,
    finished_on: String,
}

/// A program of the host, as a resource that has only a name.
#[derive(Debug, Serialize)]
struct Program<'a> {
    name: &'a str,
}

impl Resource {
    fn new(name: Option<&str>, uri: Option<&str>, algorithm: &str, digest: String) -> Self {
        let digest = [(algorithm.to_owned(), digest.into())].into_iter().collect();
        Self { name: name.map(str::to_owned), uri: uri.map(str::to_owned), digest }
    }
}

/// The provenance of a state.
#[must_use]
pub fn statement(origin: &Origin<'_>) -> Vec<u8> {
    let Origin { name, action, manifest, key, parent, state, ended, took_ms, host } = *origin;
    let mut dependencies = Vec::new();
    dependencies.extend(
        parent.map(|parent| Resource::new(Some("parent"), None, STATE, parent.to_string())),
    );
    if let Operation::Fetch(Fetched { url, checksum, .. }) = &action.operation {
        let (algorithm, digest) = match checksum {
            Checksum::Sha256(digest) => ("sha256", digest),
            Checksum::Sha512(digest) => ("sha512", digest),
        };
        dependencies.push(Resource::new(Some("base"), Some(url), algorithm, digest.clone()));
    }
    // The parent's key is not what was read: its state is.
    let inputs = manifest.fields.iter().filter(|(name, _)| name != "parent");
    dependencies.extend(inputs.filter_map(|(name, value)| match value {
        Value::Digest(digest) => {
            Some(Resource::new(Some(name), None, "blake3", digest.to_string()))
        }
        _ => None,
    }));
    let ended_ms = i128::from(ended) * 1000;
    let statement = Statement {
        kind: STATEMENT,
        subject: [Resource::new(Some(name), None, STATE, state.to_string())],
        predicate_type: PREDICATE,
        predicate: Provenance {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE,
                external_parameters: Parameters { manifest },
                resolved_dependencies: dependencies,
            },
            run_details: RunDetails {
                builder: Builder {
                    id: BUILDER,
                    version: Version { kiln: env!("CARGO_PKG_VERSION") },
                },
                metadata: Metadata {
                    invocation_id: key,
                    started_on: moment(ended_ms - i128::from(took_ms)),
                    finished_on: moment(ended_ms),
                },
                byproducts: host.iter().map(|name| Program { name }).collect(),
            },
        },
    };
    serde_json::to_vec_pretty(&statement).expect("a statement has only string keys")
}

/// A moment, given in milliseconds since 1970 in UTC; one that no calendar has is 1970.
fn moment(ms: i128) -> String {
    let found = OffsetDateTime::from_unix_timestamp_nanos(ms * 1_000_000).ok();
    let found = found.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    found.format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::recipe::{Aids, Origin as Named};

    fn action(operation: Operation, parent: Option<ActionKey>) -> Action {
        let aids = Aids::default();
        Action { parent, operation, network: false, aids, registration: None, generation: None }
    }

    fn of(action: &Action, parent: Option<StateId>) -> String {
        let manifest = action.manifest();
        let host = ["crun 1.8.1".to_owned()];
        let origin = Origin {
            name: "web/size",
            action,
            manifest: &manifest,
            key: ActionKey(Digest::of(b"key")),
            parent,
            state: StateId(Digest::of(b"state")),
            ended: 1_795_648_555,
            took_ms: 1_500,
            host: &host,
        };
        String::from_utf8(statement(&origin)).unwrap()
    }

    #[test]
    fn a_step_names_what_it_was_run_on() {
        let parent = ActionKey(Digest::of(b"parent"));
        let grow = action(Operation::Grow(1 << 30), Some(parent));
        let text = of(&grow, Some(StateId(Digest::of(b"below"))));
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    #[test]
    fn a_download_is_named_by_its_checksum() {
        let url = "https://images.example/disk.qcow2".to_owned();
        let fetched = Fetched {
            origin: Named::Url(url.clone()),
            url,
            checksum: Checksum::Sha256("ab".repeat(32)),
            format: None,
        };
        let text = of(&action(Operation::Fetch(fetched), None), None);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let dependencies = &value["predicate"]["buildDefinition"]["resolvedDependencies"];
        assert_eq!(dependencies[0]["uri"], "https://images.example/disk.qcow2");
        assert_eq!(dependencies[0]["digest"]["sha256"], "ab".repeat(32));
    }

    #[test]
    fn moments_are_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(1_795_648_555_500), "2026-11-25T23:15:55.5Z");
        assert_eq!(moment(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(moment(i128::from(u64::MAX) * 1000), "1970-01-01T00:00:00Z");
    }
}
