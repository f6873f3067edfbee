//! Remotes that are only read: web servers, and whatever is said to be so.

use std::fs;

use kiln::remote::BlobRef;
use kiln::remote::backend::{Backend, Claim, RemoteError};

use crate::contract::{key, namespace, result};
use crate::servers::{S3, WEB, WEBDAV};
use crate::trouble::{Fault, Trouble};
use crate::{Opened, bytes, shown, unique};

/// A blob and a record that are there are read, what is not there is not, and nothing is written.
fn only_read(remote: &dyn Backend, content: &[u8], name: &kiln::remote::RecordName) {
    let blob = BlobRef::of(content);
    assert!(remote.has_blob(blob).unwrap());
    assert_eq!(remote.read_blob(blob, 0..blob.len).unwrap(), content);
    assert_eq!(remote.read_blob(blob, 1000..3000).unwrap(), content[1000..3000]);
    assert_eq!(remote.record(name).unwrap().as_deref(), Some(content));
    let missing = BlobRef::of(&bytes(10));
    assert!(!remote.has_blob(missing).unwrap());
    let error = remote.read_blob(missing, 0..10).unwrap_err();
    assert!(matches!(error, RemoteError::Missing { .. }), "{error}");
    assert_eq!(remote.record(&result()).unwrap(), None);

    for error in [
        remote.put_blob(blob, content).unwrap_err(),
        remote.put_record(name, content, &[]).unwrap_err(),
        remote.renew(&namespace(), key(), b"lease").unwrap_err(),
    ] {
        assert!(matches!(error, RemoteError::Unusable { .. }), "{}", shown(&error));
    }
    assert_eq!(remote.claim(&namespace(), key(), b"lease").unwrap(), Claim::Impossible);
    remote.release(&namespace(), key()).unwrap();
}

#[test]
fn a_web_server_without_ranges_over_a_directory() {
    let files = WEB.directory.join("files");
    let writer = Opened::new(files.to_str().unwrap()).open();
    let (content, name) = (bytes(10_000), result());
    writer.put_blob(BlobRef::of(&content), &content).unwrap();
    writer.put_record(&name, &content, &[]).unwrap();
    let reader = Opened::new(&format!("http://{}", WEB.address)).read_only().open();
    only_read(&*reader, &content, &name);
}

#[test]
fn a_web_server_that_sends_elsewhere() {
    let files = WEB.directory.join("files");
    let writer = Opened::new(files.to_str().unwrap()).open();
    let name = result();
    writer.put_record(&name, b"record", &[]).unwrap();
    let front = Trouble::alone();
    front.on("GET", "", Fault::Redirect(302, format!("http://{}/{name}", WEB.address)));
    let reader = Opened::new(&format!("http://{}/x", front.address)).read_only().open();
    assert_eq!(reader.record(&name).unwrap().as_deref(), Some(&b"record"[..]));
    // In circles, it ends.
    front.heal();
    front.on("GET", "", Fault::Redirect(302, format!("http://{}/x", front.address)));
    let error = reader.record(&name).unwrap_err();
    assert!(matches!(error, RemoteError::Unavailable { .. }), "{}", shown(&error));
    assert!(front.asked().len() < 20);
}

#[test]
fn a_login_comes_from_netrc_and_is_for_one_host() {
    let server = Trouble::before(&WEBDAV.address);
    let home = tempfile::tempdir().unwrap();
    let netrc = home.path().join("netrc");
    let open = |text: &str| {
        fs::write(&netrc, text).unwrap();
        let opened = Opened::new(&format!("webdav+http://{}/{}", server.address, unique()));
        opened.with(&[("NETRC", netrc.to_str().unwrap())]).open()
    };
    let (name, content) = (result(), bytes(10));
    let remote = open("machine 127.0.0.1 login ann password pass\n");
    remote.put_record(&name, &content, &[]).unwrap();
    let asked = server.asked();
    assert!(asked.iter().all(|a| a.header("authorization") == Some("Basic YW5uOnBhc3M=")));
    let remote = open("machine elsewhere login ann password pass\ndefault login a password b\n");
    remote.put_record(&name, &content, &[]).unwrap();
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[test]
fn what_is_said_to_be_only_read_is_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for opened in [Opened::new(path), Opened::s3(&S3.address)] {
        let (content, name) = (bytes(10_000), result());
        let writer = opened.open();
        writer.put_blob(BlobRef::of(&content), &content).unwrap();
        writer.put_record(&name, &content, &[]).unwrap();
        only_read(&*opened.read_only().open(), &content, &name);
    }
}
