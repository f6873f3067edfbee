//! A bundle is believed as much as a remote: by its signatures, in one namespace.

use std::path::Path;

use kiln::engine::bundle::{ExportError, ImportError};
use kiln::files::Host;
use kiln::remote::backend::Backend;
use kiln::remote::statement::ResultRecord;
use kiln::remote::{Bundle, BundleWriter, RecordKind, RecordName};

use super::remote::MemoryRemote;
use super::sites::{RECIPE, believed, built, check_whole, export, import, site};
use super::space::TestSpace;
use super::team::{How, Key, space, team};

/// Writes a bundle anew, with other records of results.
fn rewrite(from: &Path, to: &Path, change: impl Fn(&RecordName, Vec<u8>) -> (RecordName, Vec<u8>)) {
    let bundle = Bundle::open(from).unwrap();
    let mut writer = BundleWriter::new(&Host, to).unwrap();
    for blob in bundle.blobs() {
        writer.blob(blob, &bundle.read_blob(blob, 0..blob.len).unwrap()).unwrap();
    }
    for name in bundle.records() {
        let bytes = bundle.record(name).unwrap().unwrap();
        let (name, bytes) = match name.kind {
            RecordKind::Result => change(name, bytes),
            RecordKind::Image => (name.clone(), bytes),
        };
        writer.record(&name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// Nothing of a bundle is taken, and each of its results is warned of.
fn refused(path: &Path, how: &How<'_>, why: &str) -> TestSpace {
    let there = site(how);
    let said = import(&there, path, how);
    assert!(matches!(said.result, Err(ImportError::Nothing { .. })), "{why}");
    let bundle = Bundle::open(path).unwrap();
    let results = bundle.records().filter(|record| record.kind == RecordKind::Result).count();
    assert_eq!(said.warnings.len(), results, "{:?}", said.warnings);
    assert!(said.warnings.iter().all(|text| text.contains(why)), "{:?}", said.warnings);
    assert!(believed(&there).is_empty() && said.taken.is_empty());
    there
}

#[test]
fn a_key_that_is_not_listed_counts_for_nothing() {
    let (key, other) = (Key::new(), Key::new());
    let (_here, path) = built(&key, &[]);
    refused(
        &path,
        &How { trusts: vec![&other], ..How::with(&key) },
        "which `kiln.kdl` does not list",
    );
    let there = refused(&path, &How { trusts: vec![], ..How::with(&key) }, "does not list");
    assert!(!there.ran().is_empty());
}

#[test]
fn another_namespace_counts_for_nothing() {
    let key = Key::new();
    let (here, path) = built(&key, &[]);
    let how = How { namespace: "pr-7", ..How::with(&key) };
    refused(&path, &how, "of the namespace `main`");
    // Nor where the names say what the signatures do not.
    let moved = here.root().join("moved.kiln");
    rewrite(&path, &moved, |name, bytes| {
        (RecordName { namespace: "pr-7".parse().unwrap(), ..name.clone() }, bytes)
    });
    refused(&moved, &how, "of the namespace `main`");
}

#[test]
fn what_is_not_signed_counts_for_nothing() {
    let key = Key::new();
    let (here, path) = built(&key, &[]);
    let bare = here.root().join("bare.kiln");
    rewrite(&path, &bare, |name, bytes| {
        let record: ResultRecord = serde_json::from_slice(&bytes).unwrap();
        (name.clone(), ResultRecord { signature: String::new(), ..record }.encode())
    });
    refused(&bare, &How::with(&key), "it is not signed");
}

#[test]
fn a_result_under_the_name_of_another_counts_for_nothing() {
    let key = Key::new();
    let (here, path) = built(&key, &[]);
    let bundle = Bundle::open(&path).unwrap();
    let results: Vec<_> =
        bundle.records().filter(|record| record.kind == RecordKind::Result).cloned().collect();
    let swapped = here.root().join("swapped.kiln");
    rewrite(&path, &swapped, |name, bytes| {
        let at = results.iter().position(|other| other == name).unwrap();
        (results[(at + 1) % results.len()].clone(), bytes)
    });
    refused(&swapped, &How::with(&key), "it is the result of another action");
}

#[test]
fn what_counts_is_taken_from_among_what_does_not() {
    let (key, other) = (Key::new(), Key::new());
    let (here, path) = built(&key, &[]);
    let results = believed(&here).len();
    let mixed = here.root().join("mixed.kiln");
    let seal = here.keys()["web/seal"].to_string();
    rewrite(&path, &mixed, |name, bytes| {
        if name.name != seal {
            return (name.clone(), bytes);
        }
        let accepted = serde_json::from_slice::<ResultRecord>(&bytes).unwrap();
        let statement = serde_json::from_str(&accepted.statement).unwrap();
        let signed = other.signer().sign(&statement, accepted.layers).unwrap();
        (name.clone(), signed.encode())
    });
    let there = site(&How::with(&key));
    let said = import(&there, &mixed, &How::with(&key));
    let imported = said.result.unwrap();
    assert_eq!((imported.new, imported.refused), (results - 1, 1));
    check_whole(&there);
    assert_eq!(there.ran(), ["web/seal"]);
}

#[test]
fn nobody_signs_what_does_not_count_here() {
    let (remote, key, other) = (MemoryRemote::new(), Key::new(), Key::new());
    let how = How::with(&key);
    space(RECIPE, remote.clone(), &how).build();
    let here = space(RECIPE, remote, &how);
    here.build();
    let path = here.root().join("web.kiln");
    let distrusts = team(Vec::new(), &How { signs: Some(&other), trusts: vec![&other], ..how });
    let web = export(&here, &distrusts, &path, &["web"]);
    assert!(matches!(web, Err(ExportError::NotBuilt { .. })), "{web:?}");
    let all = export(&here, &distrusts, &path, &[]);
    assert!(matches!(all, Err(ExportError::Empty)), "{all:?}");
}
