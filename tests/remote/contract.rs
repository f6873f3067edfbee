//! What every remote does, on every kind of remote that can be had here.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use kiln::digest::{ActionKey, Digest};
use kiln::name::Namespace;
use kiln::remote::backend::{Backend, Claim, MAX_RECORD, RemoteError};
use kiln::remote::{BlobId, BlobRef, RecordKind, RecordName};

use crate::memory::MemoryRemote;
use crate::servers::{AZURE, AZURE_KEY, CEPH, REGISTRY, S3, SWIFT, WEBDAV};
use crate::{Opened, bytes, unique};

/// Whether a remote holds leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leases {
    Held,
    Impossible,
}

fn contract(remote: &dyn Backend, leases: Leases) {
    blobs(remote);
    records(remote);
    match leases {
        Leases::Held => claims(remote),
        Leases::Impossible => no_claims(remote),
    }
    together(remote);
}

fn blobs(remote: &dyn Backend) {
    let content = bytes(300_000);
    let blob = BlobRef::of(&content);
    assert!(!remote.has_blob(blob).unwrap());
    let missing = remote.read_blob(blob, 0..10);
    assert!(matches!(missing, Err(RemoteError::Missing { .. })), "{missing:?}");

    remote.put_blob(blob, &content).unwrap();
    assert!(remote.has_blob(blob).unwrap());
    // A blob may be written again, by whoever does not know that it is there.
    remote.put_blob(blob, &content).unwrap();
    assert_eq!(remote.read_blob(blob, 0..blob.len).unwrap(), content);
    for range in [0..1, 0..4096, 1..2, 4095..70_001, 299_999..300_000, 300_000..300_000] {
        assert_eq!(remote.read_blob(blob, range.clone()).unwrap(), part(&content, &range));
    }

    let longer = BlobRef { len: blob.len + 1, ..blob };
    assert!(!remote.has_blob(longer).unwrap(), "another length is another blob");
    let beyond = remote.read_blob(longer, 0..longer.len);
    assert!(matches!(beyond, Err(RemoteError::Damaged { .. })), "{beyond:?}");

    let tiny = bytes(1);
    remote.put_blob(BlobRef::of(&tiny), &tiny).unwrap();
    assert_eq!(remote.read_blob(BlobRef::of(&tiny), 0..1).unwrap(), tiny);
    let large = bytes(9 << 20);
    let blob = BlobRef::of(&large);
    remote.put_blob(blob, &large).unwrap();
    assert!(remote.read_blob(blob, 0..blob.len).unwrap() == large, "9 MiB come back");
}

fn records(remote: &dyn Backend) {
    let need = bytes(1000);
    let needs = [BlobRef::of(&need), BlobRef::of(&need)];
    remote.put_blob(needs[0], &need).unwrap();
    for name in [result(), image(), longest()] {
        assert_eq!(remote.record(&name).unwrap(), None, "{name}");
        let (first, second) = (bytes(500), bytes(700));
        remote.put_record(&name, &first, &needs).unwrap();
        assert_eq!(remote.record(&name).unwrap(), Some(first), "{name}");
        remote.put_record(&name, &second, &[]).unwrap();
        assert_eq!(remote.record(&name).unwrap(), Some(second), "{name}");
    }
    // The same record under two names, and a name in two namespaces.
    let (one, content) = (result(), bytes(600));
    let two = RecordName { namespace: namespace(), ..one.clone() };
    remote.put_record(&one, &content, &needs).unwrap();
    assert_eq!(remote.record(&two).unwrap(), None);
    remote.put_record(&two, &content, &needs).unwrap();
    assert_eq!(remote.record(&one).unwrap(), remote.record(&two).unwrap());

    let largest = bytes(usize::try_from(MAX_RECORD).unwrap());
    remote.put_record(&one, &largest, &[]).unwrap();
    assert!(remote.record(&one).unwrap() == Some(largest), "4 MiB come back");
}

fn claims(remote: &dyn Backend) {
    let (namespace, key) = (namespace(), key());
    let claim = |lease: &[u8]| remote.claim(&namespace, key, lease).unwrap();
    assert_eq!(claim(b"one"), Claim::Taken);
    assert_eq!(claim(b"two"), Claim::Held(b"one".to_vec()));
    remote.renew(&namespace, key, b"one again").unwrap();
    assert_eq!(claim(b"two"), Claim::Held(b"one again".to_vec()));
    remote.release(&namespace, key).unwrap();
    assert_eq!(claim(b"two"), Claim::Taken);
    // Whoever lost the answer asks again, and has it.
    assert_eq!(claim(b"two"), Claim::Taken);
    remote.release(&namespace, key).unwrap();
    remote.release(&namespace, key).unwrap();

    for _ in 0..3 {
        let key = self::key();
        let taken: Vec<_> = thread::scope(|scope| {
            let rivals: Vec<_> = (0..16)
                .map(|number| {
                    let (namespace, lease) = (&namespace, format!("lease {number}"));
                    scope.spawn(move || {
                        (number, remote.claim(namespace, key, lease.as_bytes()).unwrap())
                    })
                })
                .collect();
            rivals.into_iter().map(|rival| rival.join().unwrap()).collect()
        });
        let winners: Vec<_> =
            taken.iter().filter(|(_, claim)| *claim == Claim::Taken).map(|(n, _)| n).collect();
        assert_eq!(winners.len(), 1, "one has it: {taken:?}");
        let held = Claim::Held(format!("lease {}", winners[0]).into_bytes());
        let told = taken.iter().filter(|(_, claim)| *claim == held).count();
        assert_eq!(told, 15, "the others are told whose it is: {taken:?}");
        remote.release(&namespace, key).unwrap();
    }
}

fn no_claims(remote: &dyn Backend) {
    let (namespace, key) = (namespace(), key());
    for lease in [b"one", b"two"] {
        assert_eq!(remote.claim(&namespace, key, lease).unwrap(), Claim::Impossible);
    }
    remote.release(&namespace, key).unwrap();
}

/// Many threads at once, on blobs of their own and on one that is there, which all of them write.
fn together(remote: &dyn Backend) {
    let shared = Arc::new(bytes(50_000));
    remote.put_blob(BlobRef::of(&shared), &shared).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            let shared = Arc::clone(&shared);
            scope.spawn(move || {
                let common = BlobRef::of(&shared);
                remote.put_blob(common, &shared).unwrap();
                for size in [10, 1000, 100_000] {
                    let own = bytes(size);
                    let blob = BlobRef::of(&own);
                    remote.put_blob(blob, &own).unwrap();
                    let name = result();
                    remote.put_record(&name, &own, &[blob, common]).unwrap();
                    assert_eq!(remote.record(&name).unwrap().unwrap(), own);
                    assert_eq!(remote.read_blob(blob, 0..blob.len).unwrap(), own);
                }
                assert_eq!(remote.read_blob(common, 100..200).unwrap(), shared[100..200]);
            });
        }
    });
}

fn part<'a>(content: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

pub(crate) fn key() -> ActionKey {
    ActionKey(Digest::of(unique().as_bytes()))
}

pub(crate) fn namespace() -> Namespace {
    format!("n{}", unique()).parse().unwrap()
}

pub(crate) fn result() -> RecordName {
    let namespace = Namespace::default();
    RecordName { namespace, kind: RecordKind::Result, name: key().to_string() }
}

fn image() -> RecordName {
    let name = format!("web-{}", unique());
    RecordName { namespace: Namespace::default(), kind: RecordKind::Image, name }
}

/// Names as long as they may be.
fn longest() -> RecordName {
    let namespace = format!("{:n<32}", namespace()).parse().unwrap();
    RecordName { namespace, kind: RecordKind::Result, name: key().to_string() }
}

#[test]
fn memory() {
    contract(&MemoryRemote::new(), Leases::Held);
}

#[test]
fn a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    contract(&*Opened::new(path).open(), Leases::Held);
    // A second one, as another host would open it.
    contract(&*Opened::new(&format!("file://{path}")).open(), Leases::Held);
    let left: Vec<_> = walkdir::WalkDir::new(directory.path().join("incoming"))
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_s3_server() {
    contract(&*Opened::s3(&S3.address).open(), Leases::Held);
    let listed = crate::servers::ask(&S3.address, "GET", "/kiln?list-type=2&prefix=probe", &[]).1;
    assert!(!listed.contains("<Contents>"), "what was tried out is gone: {listed}");
}

#[test]
#[ignore = "starts a Ceph cluster: cargo test --test remote -- --ignored ceph"]
fn a_ceph_gateway() {
    let keys = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK")];
    contract(&*Opened::s3(&CEPH.address).with(&keys).open(), Leases::Held);
    let refused = Opened::s3(&CEPH.address).open().record(&result());
    assert!(matches!(refused, Err(RemoteError::Refused { .. })), "{refused:?}");
}

#[test]
fn a_swift_container() {
    contract(&*Opened::swift(&SWIFT.address).open(), Leases::Impossible);
}

#[test]
fn a_webdav_server() {
    let address = format!("webdav+http://{}/team/cache", WEBDAV.address);
    contract(&*Opened::new(&address).open(), Leases::Impossible);
}

#[test]
fn an_azure_container() {
    let connection = format!(
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURE_KEY};\
         BlobEndpoint=http://{}/devstoreaccount1;",
        AZURE.address
    );
    let opened = Opened::new("azblob://kiln/cache");
    let opened = opened.with(&[("AZURE_STORAGE_CONNECTION_STRING", &connection)]);
    contract(&*opened.open(), Leases::Held);
}

#[test]
fn a_registry() {
    let address = format!("oci+http://{}/team/cache", REGISTRY.address);
    contract(&*Opened::new(&address).open(), Leases::Impossible);
}

#[test]
fn ids_name_their_bytes() {
    let names: BTreeSet<_> = (0..100).map(|_| BlobId::of(&bytes(100))).collect();
    assert_eq!(names.len(), 100);
}
