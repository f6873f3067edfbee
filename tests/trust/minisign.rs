//! What minisign itself says of kiln's keys and signatures, and kiln of minisign's.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kiln::host::{self, Installer};
use kiln::remote::signing::{self, KEY_VARIABLE, PASSWORD_VARIABLE, Signer};
use kiln::remote::statement::ResultRecord;
use kiln::remote::trust::{Trust, VerifyingKey};

use super::records::{TestKey, accept, layers, statement};

const PASSWORD: &str = "correct horse";

/// The program, which the tests' preparation installs.
fn minisign() -> PathBuf {
    let tool = host::tool_of("minisign").unwrap();
    let package = Installer::of_host().map(|installer| tool.package(installer));
    tool.find().unwrap_or_else(|| panic!("install {package:?}: `kiln doctor --fix --tests`"))
}

/// Runs the program in a directory, with lines for its questions.
fn run(directory: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut child = Command::new(minisign())
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that asks nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap()
}

fn succeed(directory: &Path, arguments: &[&str], lines: &str) {
    let output = run(directory, arguments, lines);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "minisign {arguments:?}: {said}");
}

/// The key in a file, opened by kiln.
fn signer(path: &Path, password: Option<&str>) -> Signer {
    let path = path.to_owned();
    let variables = move |name: &str| match name {
        KEY_VARIABLE => Some(path.clone().into_os_string()),
        PASSWORD_VARIABLE => password.map(OsString::from),
        _ => None,
    };
    Signer::find(&variables, &|_| unreachable!("it is not asked")).unwrap().unwrap()
}

/// Trust in the public key of a file.
fn trust_in(path: &Path) -> Trust {
    let key = VerifyingKey::from_file(&fs::read_to_string(path).unwrap()).unwrap();
    let mut listed = TestKey::new().trusted("minisign", false);
    listed.key.value = key.to_string();
    Trust::new(&[listed])
}

/// Keys with a password and without.
const KEYS: [(&str, Option<&str>); 2] = [("plain", None), ("sealed", Some(PASSWORD))];

#[test]
fn minisign_confirms_what_kiln_signs() {
    for (name, password) in KEYS {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let key = signing::generate(password).unwrap();
        fs::write(at(name), key.secret.as_bytes()).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(at("key.pub"), key.public.to_file()).unwrap();
        let record = signer(&at(name), password).sign(&statement(), layers()).unwrap();
        fs::write(at("statement"), &record.statement).unwrap();
        fs::write(at("statement.minisig"), &record.signature).unwrap();
        succeed(directory.path(), &["-V", "-p", "key.pub", "-m", "statement"], "");
        let public = key.public.to_string();
        succeed(directory.path(), &["-V", "-P", &public, "-m", "statement"], "");
        fs::write(at("statement"), record.statement + "\n").unwrap();
        let output = run(directory.path(), &["-V", "-p", "key.pub", "-m", "statement"], "");
        assert!(!output.status.success(), "a changed statement is noticed");
    }
}

#[test]
fn kiln_takes_what_minisign_signs() {
    let text = statement().encode();
    for (name, password) in KEYS {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let typed = password.map(|password| format!("{password}\n")).unwrap_or_default();
        let no_password: &[&str] = if password.is_none() { &["-W"] } else { &[] };
        let generate = [&["-G", "-p", "key.pub", "-s", name], no_password].concat();
        succeed(directory.path(), &generate, &typed.repeat(2));
        fs::write(at("statement"), &text).unwrap();
        let trust = trust_in(&at("key.pub"));
        // Hashed first, and in the older way.
        for legacy in [&[][..], &["-l"][..]] {
            let sign = [&["-S", "-s", name, "-m", "statement"], legacy].concat();
            succeed(directory.path(), &sign, &typed);
            let signature = fs::read_to_string(at("statement.minisig")).unwrap();
            let record = ResultRecord { statement: text.clone(), signature, layers: layers() };
            let accepted = accept(&record.encode(), &trust).unwrap();
            assert_eq!(accepted.statement, statement());
            let other = text.replace("1234", "1235");
            let other = ResultRecord { statement: other, ..record };
            assert!(accept(&other.encode(), &trust).is_err());
        }
        let own = signer(&at(name), password).sign(&statement(), layers()).unwrap();
        assert!(accept(&own.encode(), &trust).is_ok(), "a key of minisign's signs in kiln");
    }
}

#[test]
fn minisign_signs_with_a_key_of_kilns() {
    for (name, password) in KEYS {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let key = signing::generate(password).unwrap();
        fs::write(at(name), key.secret.as_bytes()).unwrap();
        fs::write(at("key.pub"), key.public.to_file()).unwrap();
        fs::write(at("statement"), statement().encode()).unwrap();
        let typed = password.map(|password| format!("{password}\n")).unwrap_or_default();
        succeed(directory.path(), &["-S", "-s", name, "-m", "statement"], &typed);
        let signature = fs::read_to_string(at("statement.minisig")).unwrap();
        let record = ResultRecord { statement: statement().encode(), signature, layers: layers() };
        assert!(accept(&record.encode(), &trust_in(&at("key.pub"))).is_ok());
    }
}

#[test]
fn the_public_half_of_a_key_is_the_same_for_both() {
    let directory = tempfile::tempdir().unwrap();
    succeed(directory.path(), &["-G", "-W", "-p", "key.pub", "-s", "key"], "");
    let public = fs::read_to_string(directory.path().join("key.pub")).unwrap();
    let public = VerifyingKey::from_file(&public).unwrap();
    assert_eq!(*signer(&directory.path().join("key"), None).verifying_key(), public);
    // What minisign makes of the secret key anew.
    succeed(directory.path(), &["-R", "-f", "-p", "again.pub", "-s", "key"], "");
    let again = fs::read_to_string(directory.path().join("again.pub")).unwrap();
    assert_eq!(VerifyingKey::from_file(&again).unwrap(), public);
}
