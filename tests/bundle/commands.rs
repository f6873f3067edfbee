//! The program itself: what it prints, and its exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sites::{believed, site};
use super::space::TestSpace;
use super::team::{How, Key};

/// What a command printed on standard error, and its exit code.
fn kiln(site: &TestSpace, key: Option<&Path>, arguments: &[&str]) -> (String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.arg("-C").arg(site.root()).arg("--store").arg(&site.store).args(arguments);
    command.env_remove("KILN_SIGNING_KEY").env("HOME", site.root()).env_remove("XDG_CONFIG_HOME");
    if let Some(key) = key {
        command.env("KILN_SIGNING_KEY", key);
    }
    let output = command.output().unwrap();
    assert!(output.stdout.is_empty(), "{output:?}");
    (String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
}

/// A key in a file of its own.
fn key_file(site: &TestSpace, key: &Key) -> PathBuf {
    let path = site.root().join("secret.key");
    fs::write(&path, key.secret()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_bundle_is_made_and_taken_in() {
    let key = Key::new();
    let how = How::with(&key);
    let (here, there) = (site(&how), site(&how));
    let secret = key_file(&here, &key);
    let bundle = here.root().join("web.kiln");
    let file = bundle.to_str().unwrap();
    let (told, code) = kiln(&here, Some(&secret), &["bundle", "web", "-o", file]);
    assert!(code == 3 && told.contains("kiln::cli::no_store"), "{told}");
    here.build();
    let (told, code) = kiln(&here, None, &["bundle", "web", "-o", file]);
    assert!(code == 2 && told.contains("kiln key generate"), "{told}");
    let (told, code) = kiln(&here, Some(&secret), &["bundle", "wep", "-o", file]);
    assert!(code == 2 && told.contains("kiln::bundle::not_built"), "{told}");
    assert!(!bundle.exists());
    let (told, code) = kiln(&here, Some(&secret), &["bundle", "web", "-o", file]);
    assert_eq!(code, 0, "{told}");
    assert!(
        told.contains("packed web/seal: ") && told.contains("web.kiln` has 5 results, "),
        "{told}"
    );
    let (told, code) = kiln(&here, Some(&secret), &["cache", "export", file, "web"]);
    assert!(code == 2 && told.contains("kiln::bundle::exists"), "{told}");
    let (told, code) = kiln(&here, Some(&secret), &["cache", "export", file, "--force"]);
    assert!(code == 0 && told.contains("packed db/seal: "), "{told}");

    let (told, code) = kiln(&there, None, &["cache", "import", file]);
    assert!(code == 0 && told.contains("imported web/seal: "), "{told}");
    assert_eq!(believed(&there), believed(&here));
    let (told, code) = kiln(&there, None, &["cache", "import", file]);
    assert!(code == 0 && told.contains("results here already"), "{told}");
    assert!(there.ran().is_empty());
}

#[test]
fn what_is_not_taken_in_is_told() {
    let key = Key::new();
    let how = How::with(&key);
    let here = site(&how);
    here.build();
    let secret = key_file(&here, &key);
    let bundle = here.root().join("db.kiln");
    let file = bundle.to_str().unwrap();
    assert_eq!(kiln(&here, Some(&secret), &["bundle", "db", "-o", file]).1, 0);

    let stranger = site(&How { trusts: vec![], ..How::with(&key) });
    let (told, code) = kiln(&stranger, None, &["cache", "import", file]);
    assert!(code == 1 && told.contains("kiln::bundle::nothing"), "{told}");
    assert_eq!(told.matches("warning: ").count(), 3, "{told}");

    let there = site(&how);
    let mut bytes = fs::read(&bundle).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&bundle, bytes).unwrap();
    let (told, code) = kiln(&there, None, &["cache", "import", file]);
    assert!(code == 3 && told.contains("kiln::remote::bundle"), "{told}");
    let (told, code) = kiln(&there, None, &["cache", "import", "nowhere.kiln"]);
    assert!(code == 3 && told.contains("nowhere.kiln"), "{told}");
}
