//! Whole builds over real servers: two workspaces in two directories with two stores share one, and
//! a server that goes wrong in the middle never makes a wrong image.

use std::time::Duration;

use kiln::progress::Way;

use crate::servers::{REGISTRY, S3, SWIFT, WEBDAV};
use crate::team::{How, Key, build, over, went};
use crate::trouble::{Fault, Trouble};
use crate::{Opened, unique};

const RECIPE: &str = r#"image "web" {
    base file "base.img"
    run-command "one"
    run-command "two"
    output "raw"
}"#;

/// The first builds, the second takes all of it, and a third that changes its last step takes what
/// comes before that.
fn shares(opened: &Opened) {
    let key = Key::new();
    let how = How::with(&key);
    let here = over(RECIPE, opened.open(), &how);
    let (ran, watch) = build(&here);
    assert_eq!((ran.len(), watch.warnings.as_slice()), (4, &[][..]));
    let there = over(RECIPE, opened.open(), &how);
    let (ran, watch) = build(&there);
    assert_eq!((ran, watch.warnings.as_slice()), (vec![], &[][..]));
    assert_eq!(went(&watch, Way::In), ["web/seal"]);
    assert_eq!(there.content("web"), here.content("web"));
    let other = over(&RECIPE.replace("two", "three"), opened.open(), &how);
    let (ran, _) = build(&other);
    assert_eq!(ran, ["web/run-command#2", "web/seal"]);
}

#[test]
fn a_build_is_shared_over_s3() {
    shares(&Opened::s3(&S3.address));
}

#[test]
fn a_build_is_shared_over_a_registry() {
    shares(&Opened::new(&format!("oci+http://{}/team/{}", REGISTRY.address, unique())));
}

#[test]
fn a_build_is_shared_over_swift() {
    shares(&Opened::swift(&SWIFT.address));
}

#[test]
fn a_build_is_shared_over_webdav() {
    shares(&Opened::new(&format!("webdav+http://{}/{}", WEBDAV.address, unique())));
}

#[test]
fn a_build_is_shared_in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    shares(&Opened::new(directory.path().to_str().unwrap()));
}

/// Everything that a server does wrong, for good.
fn faults() -> Vec<Fault> {
    vec![
        Fault::Status(403, ""),
        Fault::Status(429, "Retry-After: 0\r\n"),
        Fault::Status(500, ""),
        Fault::Gone,
        Fault::Hang,
        Fault::Cut(10),
        Fault::Slow(100),
        Fault::Flip,
        Fault::Body(Vec::new()),
        Fault::Body(b"<html>it works</html>".to_vec()),
        Fault::Endless,
    ]
}

/// Builds are right whatever a server does with the requests that contain `part`.
fn survives(before: &Opened, server: &Trouble, behind: &Opened) {
    let key = Key::new();
    let how = How::with(&key);
    let here = over(RECIPE, before.open(), &how);
    build(&here);
    for method in ["GET", "PUT", "HEAD"] {
        for fault in faults() {
            server.on(method, "", fault.clone());
            let mut there = over(RECIPE, behind.open(), &how);
            there.options.lease = Duration::from_millis(500);
            build(&there);
            assert_eq!(there.content("web").tasks(), here.content("web").tasks(), "{fault:?}");
            server.heal();
        }
    }
}

#[test]
fn builds_are_right_whatever_an_s3_server_does() {
    let server = Trouble::before(&S3.address);
    let direct = Opened::s3(&S3.address);
    let mut behind = Opened::s3(&server.address).impatient();
    behind.source.address = direct.source.address.clone();
    survives(&direct, &server, &behind);
}

#[test]
fn builds_are_right_whatever_a_registry_does() {
    let (server, name) = (Trouble::before(&REGISTRY.address), unique());
    let direct = Opened::new(&format!("oci+http://{}/team/{name}", REGISTRY.address));
    let behind = Opened::new(&format!("oci+http://{}/team/{name}", server.address)).impatient();
    survives(&direct, &server, &behind);
}
