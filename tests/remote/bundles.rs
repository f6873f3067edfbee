//! A remote in one file: what was put in comes out, and nothing else is believed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use kiln::files::Host;
use kiln::remote::backend::{Backend, Claim, RemoteError};
use kiln::remote::{
    BlobRef, Bundle, BundleError, BundleSink, BundleWriter, RecordKind, RecordName,
};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use crate::bytes;
use crate::contract::{key, namespace, result};
use crate::failing::Failing;

struct Made {
    directory: tempfile::TempDir,
    path: PathBuf,
    blobs: Vec<Vec<u8>>,
    record: (RecordName, Vec<u8>),
}

fn made() -> Made {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.kiln");
    let blobs = vec![bytes(1), bytes(511), bytes(512), bytes(100_000)];
    let longest = format!("{:n<32}", namespace()).parse().unwrap();
    let record = (RecordName { namespace: longest, ..result() }, bytes(700));
    let mut writer = BundleWriter::new(&Host, &path).unwrap();
    for bytes in blobs.iter().chain(&blobs) {
        writer.blob(BlobRef::of(bytes), bytes).unwrap();
        assert!(writer.has(BlobRef::of(bytes)));
    }
    writer.record(&record.0, &record.1).unwrap();
    assert!(!path.exists(), "it is not there before it is whole");
    writer.finish().unwrap();
    Made { directory, path, blobs, record }
}

#[test]
fn what_was_put_in_comes_out() {
    let made = made();
    let bundle = Bundle::open(&made.path).unwrap();
    for bytes in &made.blobs {
        let blob = BlobRef::of(bytes);
        assert!(bundle.has_blob(blob).unwrap());
        assert_eq!(bundle.read_blob(blob, 0..blob.len).unwrap(), *bytes);
        let longer = BlobRef { len: blob.len + 1, ..blob };
        assert!(!bundle.has_blob(longer).unwrap());
        let error = bundle.read_blob(longer, 0..longer.len).unwrap_err();
        assert!(matches!(error, RemoteError::Damaged { .. }), "{error}");
    }
    let last = BlobRef::of(&made.blobs[3]);
    assert_eq!(bundle.read_blob(last, 1000..1010).unwrap(), made.blobs[3][1000..1010]);
    assert_eq!(bundle.blobs().count(), made.blobs.len(), "each once");
    assert_eq!(bundle.records().collect::<Vec<_>>(), [&made.record.0]);
    assert_eq!(bundle.record(&made.record.0).unwrap().as_ref(), Some(&made.record.1));
    assert_eq!(bundle.record(&result()).unwrap(), None);
    let missing = bundle.read_blob(BlobRef::of(b"other"), 0..1);
    assert!(matches!(missing, Err(RemoteError::Missing { .. })), "{missing:?}");
    let refused = bundle.put_blob(last, &made.blobs[3]);
    assert!(matches!(refused, Err(RemoteError::Unusable { .. })), "{refused:?}");
    assert_eq!(bundle.claim(&namespace(), key(), b"lease").unwrap(), Claim::Impossible);
    let left = fs::read_dir(made.directory.path()).unwrap().count();
    assert_eq!(left, 1, "only the bundle is there");
}

#[test]
fn a_bundle_is_the_same_whenever_it_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let content = bytes(3000);
    let make = |name: &str| {
        let path = directory.path().join(name);
        let mut writer = BundleWriter::new(&Host, &path).unwrap();
        writer.blob(BlobRef::of(&content), &content).unwrap();
        writer.finish().unwrap();
        fs::read(path).unwrap()
    };
    assert_eq!(make("one"), make("two"));
}

#[test]
fn tar_lists_a_bundle() {
    let made = made();
    let output = std::process::Command::new("tar").arg("-tf").arg(&made.path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let listed = String::from_utf8(output.stdout).unwrap();
    let mut lines = listed.lines();
    assert_eq!(lines.next(), Some("format"));
    assert_eq!(lines.filter(|line| line.starts_with("blobs/sha256/")).count(), 4);
    assert!(listed.contains(&made.record.0.to_string()), "{listed}");
}

#[test]
fn a_bundle_that_is_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.kiln");
    fs::write(&path, "older").unwrap();
    let mut writer = BundleWriter::new(&Host, &path).unwrap();
    writer.blob(BlobRef::of(b"x"), b"x").unwrap();
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"older");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_bundle_is_there_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (path, content) = (directory.path().join("web.kiln"), bytes(70_000));
    let make = |left: usize| {
        let medium = Failing::after(left);
        let mut writer = BundleWriter::new(&medium, &path)?;
        writer.blob(BlobRef::of(&content), &content)?;
        writer.finish()
    };
    let mut failures = 0;
    loop {
        fs::write(&path, "older").unwrap();
        let made = make(failures);
        let there = fs::read(&path).unwrap();
        let whole = there != b"older" && Bundle::open(&path).unwrap().blobs().count() == 1;
        assert!(whole || made.is_err() && there == b"older", "after {failures} operations");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left");
        if made.is_ok() {
            break;
        }
        failures += 1;
    }
    assert!(failures >= 8, "{failures} operations can fail");
}

#[test]
fn a_sink_is_a_remote_whose_first_failure_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (path, content) = (directory.path().join("web.kiln"), bytes(70_000));
    let (blob, name) = (BlobRef::of(&content), result());
    let make = |left: usize| {
        let medium = Failing::after(left);
        let sink = BundleSink::new(&medium, &path)?;
        assert!(!sink.has_blob(blob).unwrap());
        let put = sink.put_blob(blob, &content);
        let recorded = sink.put_record(&name, b"record", &[blob]);
        assert_eq!(sink.record(&name).unwrap(), None, "nothing is read from it");
        assert!(sink.read_blob(blob, 0..1).is_err());
        let finished = sink.finish();
        assert!(finished.is_err() || put.is_ok() && recorded.is_ok());
        finished
    };
    let mut failures = 0;
    while make(failures).is_err() {
        assert!(!path.exists() || Bundle::open(&path).is_ok());
        failures += 1;
    }
    let bundle = Bundle::open(&path).unwrap();
    assert!(bundle.has_blob(blob).unwrap() && bundle.record(&name).unwrap().is_some());
    assert!(failures >= 8, "{failures} operations can fail");
}

/// A tar of these files, and the error that opening it ends with.
fn refused(files: &[(&str, EntryType, u64)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.kiln");
    let mut archive = Builder::new(File::create(&path).unwrap());
    for &(name, kind, len) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(len);
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let body: Box<dyn io::Read> = match name {
            "format" => Box::new(&b"kiln bundle 1\n"[..]),
            _ => Box::new(io::Read::take(io::repeat(0), len)),
        };
        archive.append(&header, body).unwrap();
    }
    archive.finish().unwrap();
    reason(&path)
}

fn reason(path: &Path) -> String {
    match Bundle::open(path) {
        Err(BundleError::Damaged { why, .. }) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => "it is opened".to_owned(),
    }
}

fn file(name: &str, len: u64) -> (&str, EntryType, u64) {
    (name, EntryType::Regular, len)
}

#[test]
fn names_and_lengths_are_looked_at() {
    let format = ("format", EntryType::Regular, 14);
    let id = "ab".repeat(31);
    let blob = format!("blobs/sha256/ab/{id}");
    let record = format!("main/results/{}", "cd".repeat(32));
    let lines = [
        refused(&[]),
        refused(&[file(&blob, 1)]),
        refused(&[("format", EntryType::Regular, 13)]),
        refused(&[format, file(&blob, 1), file(&record, 1)]),
        refused(&[format, file(&blob, 1), file(&blob, 1)]),
        refused(&[format, file(&record, 1), file(&record, 2)]),
        refused(&[format, file(&record, (4 << 20) + 1)]),
        refused(&[format, file(&blob, (64 << 20) + 1)]),
        refused(&[format, (&blob, EntryType::Symlink, 0)]),
        refused(&[format, ("blobs", EntryType::Directory, 0)]),
        refused(&[format, (&blob, EntryType::GNULongName, 10)]),
        refused(&[format, (&blob, EntryType::XHeader, 10)]),
        refused(&[format, file("format", 14)]),
        refused(&[format, file("../etc/passwd", 1)]),
        refused(&[format, file("/etc/passwd", 1)]),
        refused(&[format, file("main/leases/x", 1)]),
        refused(&[format, file("main/images/Bad Name", 1)]),
        refused(&[format, file("main/images/web/x", 1)]),
        refused(&[format, file("main/results/short", 1)]),
        refused(&[format, file("blobs/sha256/ab/cd", 1)]),
        refused(&[format, file(&format!("blobs/sha256/{id}ab"), 1)]),
        refused(&[format, file("a\u{1b}[31m", 1)]),
    ]
    .join("\n");
    insta::assert_snapshot!(lines.replace(&id, "ID").replace(&"cd".repeat(32), "KEY"));
}

#[test]
fn a_bundle_that_is_cut_off_anywhere_is_refused() {
    let made = made();
    let whole = fs::read(&made.path).unwrap();
    for len in (0..whole.len()).step_by(509).chain([whole.len() - 1, whole.len() - 512]) {
        fs::write(&made.path, &whole[..len]).unwrap();
        assert_ne!(reason(&made.path), "it is opened", "{len} of {} bytes", whole.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever bytes of a bundle are changed, it is refused, or every blob and record in it is
    /// either whole or known by its digest to be another.
    #[test]
    fn changed_bytes_are_never_believed(changes in prop::collection::vec((0.0..1.0, any::<u8>()), 1..8)) {
        let made = made();
        let mut changed = fs::read(&made.path).unwrap();
        for (at, byte) in changes {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss,
                clippy::cast_precision_loss, reason = "a share of a small length")]
            let at = (at * changed.len() as f64) as usize;
            changed[at] = byte;
        }
        fs::write(&made.path, &changed).unwrap();
        if let Ok(bundle) = Bundle::open(&made.path) {
            for blob in bundle.blobs().collect::<Vec<_>>() {
                let bytes = bundle.read_blob(blob, 0..blob.len).unwrap();
                let known = made.blobs.contains(&bytes);
                prop_assert!(known || BlobRef::of(&bytes) != blob);
            }
            for name in bundle.records() {
                prop_assert!(bundle.record(name).unwrap().is_some());
                prop_assert!(name.kind == RecordKind::Result);
            }
        }
    }

    /// No bytes at all make it fail in any other way.
    #[test]
    fn any_bytes_are_refused_in_order(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("any.kiln");
        let mut ended = bytes;
        ended.extend([0; 1024]);
        fs::write(&path, &ended).unwrap();
        prop_assert_ne!(reason(&path), "it is opened");
    }
}
