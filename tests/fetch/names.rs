//! Templates, catalogue names and addresses, looked up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln::fetch::Downloads;
use kiln::lock::Resolved;
use kiln::recipe::{Checksum, DiskFormat, Origin};
use kiln::resolve::{ResolveError, Resolver, host_arch};

use super::downloads::{client, sum};
use super::server::Server;

struct Place {
    directory: tempfile::TempDir,
    server: Server,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), server: Server::new() }
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn sources(&self) -> PathBuf {
        self.root().join("sources")
    }

    /// A source without a signature, with templates.
    fn source(&self, name: &str, index: &str) {
        self.server.file(&format!("/{name}/index"), index);
        let uri = format!("{}/{name}/index", self.server.url);
        self.write(name, &format!("[{name}]\nuri={uri}\ncheck-signature=no\nproxy=no\n"));
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.sources()).unwrap();
        fs::write(self.sources().join(format!("{name}.conf")), text).unwrap();
    }

    fn resolve(&self, origin: &Origin) -> Result<(Resolved, Vec<String>), ResolveError> {
        let mut resolver = Resolver::new(self.root(), vec![self.sources()], client());
        let downloads = Downloads::new(self.root().join("downloads"));
        let mut lines = Vec::new();
        let mut tell = |line: &str| lines.push(line.to_owned());
        let resolved = resolver.resolve(origin, &downloads, &mut tell)?;
        Ok((resolved, lines))
    }
}

fn entry(name: &str, revision: u64, digit: &str) -> String {
    let (arch, sum) = (host_arch(), digit.repeat(128));
    format!(
        "[{name}]\nname=A title\narch={arch}\nfile={name}.xz\nsize=1048576\nformat=raw\n\
         revision={revision}\nchecksum[sha512]={sum}\naliases={name}-alias\n\n"
    )
}

fn template(name: &str) -> Origin {
    Origin::Template { name: name.to_owned(), arch: None }
}

#[test]
fn a_template_is_the_newest_of_all_sources() {
    let place = Place::new();
    place.source("one", &entry("os", 2, "a"));
    place.source("two", &[entry("os", 3, "b"), entry("other", 1, "c")].concat());
    let (resolved, lines) = place.resolve(&template("os-alias")).unwrap();
    assert_eq!(
        resolved,
        Resolved {
            url: format!("{}/two/os.xz", place.server.url),
            checksum: Checksum::Sha512("b".repeat(128)),
            format: Some(DiskFormat::Raw),
            revision: Some(3),
        }
    );
    assert!(lines.is_empty(), "{lines:?}");
    let result = place.resolve(&template("osx"));
    let Err(ResolveError::Unknown { help, .. }) = result else { panic!("{result:?}") };
    assert!(help.starts_with("`os` is there"), "{help}");
    let other = Origin::Template { name: "os".to_owned(), arch: Some("s390x".to_owned()) };
    let result = place.resolve(&other);
    let Err(ResolveError::Unknown { help, .. }) = result else { panic!("{result:?}") };
    assert_eq!(help, format!("it is there for {}", host_arch()));
}

#[test]
fn a_source_that_fails_is_told_and_stops_what_it_may_have() {
    let place = Place::new();
    place.source("good", &entry("os", 2, "a"));
    place.source("bad", "[os]\nfile=../x\n");
    let (resolved, lines) = place.resolve(&template("os")).unwrap();
    assert_eq!(resolved.revision, Some(2));
    assert!(lines[0].contains("`bad` was left out"), "{lines:?}");
    let result = place.resolve(&template("none"));
    assert!(matches!(result, Err(ResolveError::Index { line: 2, .. })), "{result:?}");
}

#[test]
fn an_index_is_not_taken_unsigned_unless_its_source_says_so() {
    let place = Place::new();
    let uri = place.server.file("/index", entry("os", 1, "a"));
    place.write("a", &format!("[a]\nuri={uri}\n"));
    let result = place.resolve(&template("os"));
    assert!(matches!(result, Err(ResolveError::NoKey { .. })), "{result:?}");
    assert!(place.server.asked().is_empty());
    fs::write(place.root().join("key"), "no key").unwrap();
    place.write("a", &format!("[a]\nuri={uri}\nproxy=no\ngpgkey=../key\n"));
    let result = place.resolve(&template("os"));
    assert!(matches!(result, Err(ResolveError::Key { .. })), "{result:?}");
    place.write("a", "[a]\nuri=http://a.example/index\ncheck-signature=no\n");
    let result = place.resolve(&template("os"));
    assert!(matches!(result, Err(ResolveError::Insecure { .. })), "{result:?}");
    place.write("a", &format!("[a]\nuri={uri}\nformat=simplestreams\n"));
    let result = place.resolve(&template("os"));
    assert!(matches!(result, Err(ResolveError::Simplestreams { .. })), "{result:?}");
}

#[test]
fn a_signed_index_is_read_and_a_changed_one_is_not() {
    let place = Place::new();
    let gpg = |arguments: &[&str]| {
        let output = Command::new("gpg")
            .args(["--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"])
            .args(arguments)
            .env("GNUPGHOME", place.root())
            .stdin(Stdio::null())
            .output()
            .expect("gpg is installed (package gnupg)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    gpg(&["--quick-generate-key", "one@kiln.example", "ed25519", "sign", "never"]);
    fs::create_dir(place.sources()).unwrap();
    fs::write(place.sources().join("key.asc"), gpg(&["--armor", "--export"])).unwrap();
    let text = place.root().join("index");
    fs::write(&text, entry("os", 5, "a")).unwrap();
    let signed = gpg(&["--clearsign", "--output", "-", text.to_str().unwrap()]);
    let end =
        Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", place.root()).status();
    assert!(end.unwrap().success());

    let uri = place.server.file("/index.asc", signed.clone());
    place.write("a", &format!("[a]\nuri={uri}\ngpgkey=key.asc\nproxy=no\n"));
    assert_eq!(place.resolve(&template("os")).unwrap().0.revision, Some(5));
    let refused = || {
        let result = place.resolve(&template("os"));
        let Err(ResolveError::Signature { why, .. }) = result else { panic!("{result:?}") };
        why
    };
    let wrong = "ab".repeat(20);
    let source = format!("[a]\nuri={uri}\ngpgkey=key.asc\nproxy=no\n");
    place.write("a", &format!("{source}fingerprint={wrong}\n"));
    assert!(refused().ends_with(&format!("not by {}", wrong.to_uppercase())));
    place.write("a", &source);
    let changed = String::from_utf8(signed).unwrap().replace("revision=5", "revision=6");
    place.server.file("/index.asc", changed);
    assert!(refused().contains("changed"));
    place.server.file("/index.asc", entry("os", 7, "a"));
    assert!(refused().contains("no text with a signature"));
}

#[test]
fn a_template_without_a_checksum_is_not_taken() {
    let place = Place::new();
    let index = entry("os", 1, "a").replace("checksum[sha512]", "other");
    place.source("one", &index);
    let result = place.resolve(&template("os"));
    assert!(matches!(result, Err(ResolveError::NoChecksum { .. })), "{result:?}");
}

#[test]
fn a_catalogue_name_has_its_publishers_checksum() {
    let place = Place::new();
    let (url, digits) = (&place.server.url, "ab".repeat(32));
    place.server.file("/SUMS", format!("SHA256 (d.qcow2) = {digits}\n"));
    place.server.file("/e.qcow2.sha256", format!("{digits}  e-build7.qcow2\n"));
    place.server.file("/OTHER", format!("{digits}  e-build7.qcow2\n"));
    let image = |name: &str, file: &str, sums: &str| {
        let arch = host_arch();
        format!("image \"{name}\" arch=\"{arch}\" url=\"{url}/{file}\" sums=\"{url}/{sums}\"\n")
    };
    let text = [
        image("debian-12", "d.qcow2", "SUMS"),
        image("single", "e.qcow2", "e.qcow2.sha256"),
        image("lost", "e.qcow2", "OTHER"),
    ];
    fs::write(place.root().join("catalog.kdl"), text.concat()).unwrap();
    let resolve = |name: &str| place.resolve(&Origin::Catalog(name.to_owned()));
    let (resolved, _) = resolve("debian-12").unwrap();
    assert_eq!(resolved.url, format!("{url}/d.qcow2"));
    assert_eq!(resolved.checksum, Checksum::Sha256(digits.clone()));
    assert_eq!(resolve("single").unwrap().0.checksum, Checksum::Sha256(digits));
    let result = resolve("lost");
    assert!(matches!(result, Err(ResolveError::NoChecksum { .. })), "{result:?}");
    let result = resolve("debian-112");
    let Err(ResolveError::Unknown { help, .. }) = result else { panic!("{result:?}") };
    assert!(help.contains("`debian-1"), "{help}");
}

#[test]
fn an_address_is_trusted_on_first_use_only_if_nobody_can_change_it() {
    let place = Place::new();
    let url = place.server.file("/disk", "the disk");
    let (resolved, _) = place.resolve(&Origin::Url(url.clone())).unwrap();
    let checksum = sum(b"the disk");
    assert_eq!(resolved, Resolved { url, checksum, format: None, revision: None });
    let result = place.resolve(&Origin::Url("http://a.example/disk".to_owned()));
    assert!(matches!(result, Err(ResolveError::Insecure { .. })), "{result:?}");
}
