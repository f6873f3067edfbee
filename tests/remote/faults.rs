//! Servers that are killed, slow, cut off, wrong, full or silent: each call ends, in its time, with
//! an error of the right kind, or with the right answer after another try.

use kiln::remote::BlobRef;
use kiln::remote::backend::{Backend, RemoteError};

use crate::contract::result;
use crate::servers::{REGISTRY, S3};
use crate::trouble::{Fault, Trouble};
use crate::{Opened, bytes, shown};

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unavailable,
    TooSlow,
    Refused,
    Missing,
    Damaged,
    Other,
}

fn kind(error: &RemoteError) -> Kind {
    match error {
        RemoteError::Unavailable { .. } => Kind::Unavailable,
        RemoteError::TooSlow { .. } => Kind::TooSlow,
        RemoteError::Refused { .. } => Kind::Refused,
        RemoteError::Missing { .. } => Kind::Missing,
        RemoteError::Damaged { .. } => Kind::Damaged,
        _ => Kind::Other,
    }
}

/// What lasts, and the kind of error that reading a blob of 300,000 bytes ends with.
fn lasting() -> Vec<(Fault, Kind)> {
    vec![
        (Fault::Gone, Kind::Unavailable),
        (Fault::Hang, Kind::TooSlow),
        (Fault::Cut(0), Kind::Unavailable),
        (Fault::Cut(1000), Kind::Unavailable),
        (Fault::Slow(1000), Kind::TooSlow),
        (Fault::Body(b"<html>log in first</html>".to_vec()), Kind::Damaged),
        (Fault::Body(Vec::new()), Kind::Damaged),
        (Fault::Status(400, ""), Kind::Unavailable),
        (Fault::Status(403, ""), Kind::Refused),
        (Fault::Status(404, ""), Kind::Missing),
        (Fault::Status(429, "Retry-After: 3600\r\n"), Kind::Unavailable),
        (Fault::Status(500, ""), Kind::Unavailable),
        (Fault::Status(503, ""), Kind::Unavailable),
    ]
}

/// What passes: one of it changes nothing.
fn passing() -> Vec<Fault> {
    vec![
        Fault::Gone,
        Fault::Hang,
        Fault::Cut(1000),
        Fault::Status(429, "Retry-After: 1\r\n"),
        Fault::Status(500, ""),
        Fault::Status(502, ""),
        Fault::Status(503, "Retry-After: 0\r\n"),
    ]
}

/// Everything that a server does wrong, where blobs and records have these parts in their paths.
fn server_in_trouble(server: &Trouble, remote: &dyn Backend, blob_part: &str, record_part: &str) {
    let (content, name) = (bytes(300_000), result());
    let blob = BlobRef::of(&content);
    remote.put_blob(blob, &content).unwrap();
    remote.put_record(&name, &content, &[blob]).unwrap();

    for (fault, expected) in lasting() {
        server.on("GET", blob_part, fault.clone());
        let error = remote.read_blob(blob, 0..blob.len).unwrap_err();
        assert_eq!(kind(&error), expected, "{fault:?}: {}", shown(&error));
        assert!(!shown(&error).contains('\u{1b}'), "a server's text is escaped");
        server.heal();
        let part = remote.read_blob(blob, 10..20).unwrap();
        assert_eq!(part, content[10..20], "after {fault:?}");
    }
    for fault in passing() {
        server.times(1, "GET", blob_part, fault.clone());
        assert!(remote.read_blob(blob, 0..blob.len).unwrap() == content, "after {fault:?}");
        server.heal();
        server.times(1, "PUT", "", fault.clone());
        let other = bytes(2000);
        remote.put_blob(BlobRef::of(&other), &other).unwrap();
        server.heal();
        assert!(remote.has_blob(BlobRef::of(&other)).unwrap(), "after {fault:?}");
        server.times(1, "GET", record_part, fault.clone());
        assert!(remote.record(&name).unwrap().as_ref() == Some(&content), "after {fault:?}");
        server.heal();
    }

    // What has no end is not read to its end.
    server.on("GET", blob_part, Fault::Endless);
    match remote.read_blob(blob, 0..blob.len) {
        Ok(bytes) => assert!(bytes != content && bytes.len() == content.len()),
        Err(error) => assert_eq!(kind(&error), Kind::Damaged, "{}", shown(&error)),
    }
    server.heal();
    // Wrong bytes of the right length are for whoever asked to find.
    server.on("GET", blob_part, Fault::Flip);
    let flipped = remote.read_blob(blob, 0..blob.len).unwrap();
    assert!(flipped != content && flipped.len() == content.len());
    server.heal();

    for status in [400, 403, 429, 500, 503] {
        server.on("*", "", Fault::Status(status, ""));
        let expected = if status == 403 { Kind::Refused } else { Kind::Unavailable };
        let other = bytes(10);
        // A failure is no answer, whatever was asked.
        assert_eq!(kind(&remote.record(&name).unwrap_err()), expected, "{status}");
        assert_eq!(kind(&remote.has_blob(blob).unwrap_err()), expected, "{status}");
        assert_eq!(kind(&remote.put_blob(BlobRef::of(&other), &other).unwrap_err()), expected);
        assert_eq!(kind(&remote.put_record(&name, &other, &[]).unwrap_err()), expected);
        server.heal();
    }
    server.on("*", "", Fault::Endless);
    assert_eq!(kind(&remote.record(&name).unwrap_err()), Kind::Damaged);
    server.heal();
    assert!(remote.record(&name).unwrap() == Some(content), "all is as it was");
}

#[test]
fn s3() {
    let server = Trouble::before(&S3.address);
    let remote = Opened::s3(&server.address).impatient().open();
    server_in_trouble(&server, &*remote, "blobs/", "results/");
}

#[test]
fn a_registry() {
    let server = Trouble::before(&REGISTRY.address);
    let address = format!("oci+http://{}/team/{}", server.address, crate::unique());
    let remote = Opened::new(&address).impatient().open();
    server_in_trouble(&server, &*remote, "blobs/sha256:", "manifests/");
}

#[test]
fn nobody_listens() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for opened in [
        Opened::s3(&address),
        Opened::swift(&address),
        Opened::new(&format!("oci+http://{address}/team/cache")),
        Opened::new(&format!("webdav+http://{address}/cache")),
        Opened::new(&format!("http://{address}/cache")).read_only(),
    ] {
        let remote = opened.impatient().open();
        let error = remote.record(&result()).unwrap_err();
        assert_eq!(kind(&error), Kind::Unavailable, "{}", shown(&error));
        let causes = shown(&error);
        assert!(causes.contains("Connection refused"), "the cause is told: {causes}");
    }
}

#[test]
fn an_empty_answer_is_no_record_of_a_registry() {
    let server = Trouble::before(&REGISTRY.address);
    let address = format!("oci+http://{}/team/{}", server.address, crate::unique());
    let remote = Opened::new(&address).impatient().open();
    let name = result();
    remote.put_record(&name, b"record", &[]).unwrap();
    for body in [b"".to_vec(), b"{}".to_vec(), b"<html>".to_vec()] {
        server.on("GET", "manifests/", Fault::Body(body));
        assert_eq!(kind(&remote.record(&name).unwrap_err()), Kind::Damaged);
        server.heal();
    }
    // The manifest is there, and the record's bytes are not, or are others.
    for (fault, expected) in [
        (Fault::Status(404, ""), Kind::Damaged),
        (Fault::Flip, Kind::Damaged),
        (Fault::Status(500, ""), Kind::Unavailable),
    ] {
        server.on("GET", "blobs/", fault);
        assert_eq!(kind(&remote.record(&name).unwrap_err()), expected);
        server.heal();
    }
    assert_eq!(remote.record(&name).unwrap().as_deref(), Some(&b"record"[..]));
}

#[test]
fn a_bucket_that_is_not_there_is_a_failure() {
    let mut opened = Opened::s3(&S3.address);
    opened.source.address.value = format!("s3://no-such-{}/cache", crate::unique());
    let remote = opened.open();
    let error = remote.record(&result()).unwrap_err();
    assert_eq!(kind(&error), Kind::Unavailable, "{}", shown(&error));
    assert!(shown(&error).contains("NoSuchBucket"), "{}", shown(&error));
    assert_eq!(kind(&remote.read_blob(BlobRef::of(b"x"), 0..1).unwrap_err()), Kind::Unavailable);
}
