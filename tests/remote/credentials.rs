//! Credentials come from the standard places, go where those send them, and are never shown.

use std::fs;

use kiln::remote::BlobRef;
use kiln::remote::backend::RemoteError;

use crate::contract::result;
use crate::servers::{CLOSED_REGISTRY, REGISTRY, S3, SWIFT};
use crate::trouble::{Asked, Fault, Trouble};
use crate::{Opened, bytes, shown, unique};

/// Whether a request holds anything that lets one in.
fn lets_in(asked: &Asked) -> bool {
    let names = ["authorization", "x-auth-token", "x-auth-key", "x-amz-security-token", "cookie"];
    names.iter().any(|name| asked.header(name).is_some())
}

/// A directory with a `config.json` of Docker for the user `ann` of some registries.
fn docker(registries: &[&str]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    // `ann:pass`
    let auths: Vec<_> =
        registries.iter().map(|name| format!(r#""{name}":{{"auth":"YW5uOnBhc3M="}}"#)).collect();
    let config = format!(r#"{{"auths":{{{}}}}}"#, auths.join(","));
    fs::write(home.path().join("config.json"), config).unwrap();
    home
}

#[test]
fn an_object_store_cannot_send_credentials_elsewhere() {
    let (elsewhere, server) = (Trouble::alone(), Trouble::before(&S3.address));
    let remote = Opened::s3(&server.address).with(&[("AWS_SESSION_TOKEN", "SECRETIVE")]);
    let remote = remote.impatient().open();
    for status in [301, 302, 303, 307, 308] {
        let to = format!("http://{}/elsewhere", elsewhere.address);
        server.on("*", "", Fault::Redirect(status, to));
        let content = bytes(10);
        for error in [
            remote.record(&result()).unwrap_err(),
            remote.put_blob(BlobRef::of(&content), &content).unwrap_err(),
        ] {
            assert!(matches!(error, RemoteError::Unavailable { .. }), "{}", shown(&error));
            assert!(!shown(&error).contains("SECRETIVE"), "{}", shown(&error));
        }
        server.heal();
    }
    assert!(server.asked().iter().all(lets_in), "the server itself is given them");
    assert_eq!(elsewhere.asked(), [], "nothing is asked elsewhere");
}

#[test]
fn a_swift_cannot_send_credentials_elsewhere() {
    let (elsewhere, server) = (Trouble::alone(), Trouble::before(&SWIFT.address));
    let storage = format!("http://{}/v1/AUTH_test", server.address);
    let opened = Opened::new(&format!("swift://kiln/{}", unique()));
    let opened = opened.with(&[("OS_STORAGE_URL", &storage), ("OS_AUTH_TOKEN", "SECRETIVE")]);
    let remote = opened.impatient().open();
    server.on("GET", "", Fault::Redirect(302, format!("http://{}/", elsewhere.address)));
    let error = remote.record(&result()).unwrap_err();
    assert!(!shown(&error).contains("SECRETIVE"), "{}", shown(&error));
    assert_eq!(elsewhere.asked(), []);
    server.heal();
    let error = remote.record(&result()).unwrap_err();
    assert!(matches!(error, RemoteError::Refused { .. }), "a wrong token: {}", shown(&error));
    assert!(!shown(&error).contains("SECRETIVE"), "{}", shown(&error));
}

#[test]
fn a_swift_is_logged_in_to_once() {
    let server = Trouble::before(&SWIFT.address);
    let login = format!("http://{}/auth/v1.0", server.address);
    let remote = Opened::swift(&SWIFT.address).with(&[("ST_AUTH", &login)]).open();
    let (name, content) = (result(), bytes(100));
    remote.put_record(&name, &content, &[]).unwrap();
    assert_eq!(remote.record(&name).unwrap(), Some(content));
    let asked = server.asked();
    let logins = asked.iter().filter(|asked| asked.path.starts_with("/auth/"));
    assert_eq!(logins.count(), 1, "one login for many calls");
    let keys = asked.iter().filter(|asked| asked.header("x-auth-key").is_some());
    assert_eq!(keys.count(), 1, "and the key with none of the others");

    let wrong = Opened::swift(&SWIFT.address).with(&[("ST_KEY", "SECRETIVE")]).open();
    let error = wrong.record(&name).unwrap_err();
    assert!(matches!(error, RemoteError::Refused { .. }), "{}", shown(&error));
    assert!(!shown(&error).contains("SECRETIVE"), "{}", shown(&error));
}

#[test]
fn keystone_says_where_objects_are_and_its_token_is_used() {
    let (keystone, server) = (Trouble::alone(), Trouble::alone());
    let catalog = format!(
        r#"{{"token":{{"catalog":[{{"type":"object-store","endpoints":[
            {{"interface":"public","region":"one","url":"http://{}/v1/AUTH_a"}}]}}]}}}}"#,
        server.address
    );
    keystone.on(
        "POST",
        "/v3/auth/tokens",
        Fault::Answer(201, "X-Subject-Token: token-1\r\n", catalog),
    );
    server.times(1, "GET", "/v1/AUTH_a/images/", Fault::Status(401, ""));
    let url = format!("http://{}/v3", keystone.address);
    let remote = Opened::new("swift://images/cache").with(&[
        ("OS_AUTH_URL", &url),
        ("OS_USERNAME", "ann"),
        ("OS_PASSWORD", "SECRETIVE"),
        ("OS_PROJECT_NAME", "images"),
        ("OS_REGION_NAME", "one"),
    ]);
    assert_eq!(remote.open().record(&result()).unwrap(), None);
    let asked = server.asked();
    let tokens: Vec<_> = asked.iter().map(|asked| asked.header("x-auth-token")).collect();
    assert_eq!(tokens, [Some("token-1"), Some("token-1")]);
    assert_eq!(keystone.asked().len(), 2, "a token that is refused is got anew, once");
}

#[test]
fn a_registry_that_sends_elsewhere_sends_no_credentials_there() {
    let (elsewhere, server) = (Trouble::alone(), Trouble::before(&CLOSED_REGISTRY.address));
    let home = docker(&[&server.address]);
    let opened = Opened::new(&format!("oci+http://{}/team/{}", server.address, unique()));
    let opened = opened.with(&[("DOCKER_CONFIG", home.path().to_str().unwrap())]);
    let remote = opened.impatient().open();
    let content = bytes(5000);
    let blob = BlobRef::of(&content);
    remote.put_blob(blob, &content).unwrap();

    elsewhere.on("GET", "/there", Fault::Body(content.clone()));
    let to = format!("http://{}/there", elsewhere.address);
    server.on("GET", "blobs/sha256:", Fault::Redirect(307, to));
    assert_eq!(remote.read_blob(blob, 0..blob.len).unwrap(), content, "as registries do");
    let asked = elsewhere.asked();
    assert!(asked.len() == 1 && !asked.iter().any(lets_in), "{asked:?}");

    // An upload may go elsewhere, too.
    server.heal();
    let place = format!("Location: http://{}/upload?state=1\r\n", elsewhere.address);
    server.on("POST", "uploads", Fault::Answer(202, place.leak(), String::new()));
    elsewhere.on("PUT", "/upload", Fault::Status(201, ""));
    let other = bytes(100);
    remote.put_blob(BlobRef::of(&other), &other).unwrap();
    let asked = elsewhere.asked();
    assert!(asked.len() == 1 && !asked.iter().any(lets_in), "{asked:?}");
    assert!(asked[0].path.contains("state=1&digest=sha256%3A"), "{asked:?}");
}

#[test]
fn a_registry_opens_to_docker_credentials() {
    let address = format!("oci+http://{}/team/{}", CLOSED_REGISTRY.address, unique());
    let (content, name) = (bytes(100), result());
    let stranger = Opened::new(&address).open();
    let error = stranger.record(&name).unwrap_err();
    assert!(matches!(error, RemoteError::Refused { .. }), "{}", shown(&error));

    let home = docker(&["other.example", &CLOSED_REGISTRY.address]);
    let opened = Opened::new(&address).with(&[("DOCKER_CONFIG", home.path().to_str().unwrap())]);
    let remote = opened.open();
    remote.put_record(&name, &content, &[]).unwrap();
    assert_eq!(remote.record(&name).unwrap(), Some(content.clone()));

    // A helper in place of a password, which is not installed.
    fs::write(home.path().join("config.json"), r#"{"credsStore":"sad"}"#).unwrap();
    let error = opened.open().record(&name).unwrap_err();
    assert!(matches!(error, RemoteError::Refused { .. }), "{}", shown(&error));
    assert!(shown(&error).contains("their helper cannot be run"), "{}", shown(&error));
}

#[test]
fn a_registry_says_where_its_tokens_are() {
    let (tokens, server) = (Trouble::alone(), Trouble::before(&REGISTRY.address));
    let home = docker(&[&server.address]);
    let opened = Opened::new(&format!("oci+http://{}/team/tokens", server.address));
    let remote = opened.with(&[("DOCKER_CONFIG", home.path().to_str().unwrap())]).open();
    let challenge = format!(
        "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"kiln reg\"\r\n",
        tokens.address
    );
    server.times(1, "GET", "manifests", Fault::Status(401, challenge.leak()));
    tokens.on("GET", "/token", Fault::Body(br#"{"token":"token-1"}"#.to_vec()));
    assert_eq!(remote.record(&result()).unwrap(), None);
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/token?scope=repository%3Ateam%2Ftokens%3Apull&service=kiln+reg");
    assert_eq!(asked[0].header("authorization"), Some("Basic YW5uOnBhc3M="));
    let last = server.asked().pop().unwrap();
    assert_eq!(last.header("authorization"), Some("Bearer token-1"));
    // It is kept for the next call.
    assert_eq!(remote.record(&result()).unwrap(), None);
    assert_eq!(tokens.asked(), []);
}

#[test]
fn what_a_repository_says_cannot_lead_a_token_away() {
    let endpoint = Some("https://evil.example".to_owned());
    for address in ["swift://c/p", "gs://b/p", "azblob://c/p", "webdav://h/p", "oci://r/p"] {
        let mut opened = Opened::new(address).with(&[
            ("OS_STORAGE_URL", "https://s/v1/A"),
            ("OS_AUTH_TOKEN", "t"),
            ("AZURE_STORAGE_ACCOUNT", "a"),
        ]);
        opened.source.endpoint.clone_from(&endpoint);
        let error = opened.try_open().err().unwrap();
        assert!(error.to_string().contains("`endpoint` is for `s3://` only"), "{error}");
    }
}

#[test]
fn addresses_that_cannot_be_used_say_why() {
    let why = |address: &str| Opened::new(address).try_open().err().unwrap().to_string();
    let lines = [
        "ftp://host/dir",
        "s3://bucket",
        "https://host/dir",
        "https://user:secret@host/dir",
        "oci://registry",
        "oci://registry/Upper",
        "swift://container",
        "azblob://container",
        "relative/dir",
        "/no/such/directory",
        "s3://bucket/a b",
    ]
    .map(why)
    .join("\n");
    insta::assert_snapshot!(lines);
}
