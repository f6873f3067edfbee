//! Keys, statements and records for the other tests, and what is accepted.

use std::ffi::OsString;

use kiln::digest::{ActionKey, Digest, StateId};
use kiln::name::Namespace;
use kiln::recipe::TrustedKey;
use kiln::remote::accept::{Accepted, Distrust};
use kiln::remote::signing::{self, KEY_VARIABLE, Signer};
use kiln::remote::statement::{EPOCH, Link, ResultRecord, Statement, TYPE};
use kiln::remote::trust::Trust;
use kiln::remote::{BlobId, BlobRef};
use kiln::source::{Sources, Span, Spanned};
use proptest::prelude::*;

/// A key of a test's own.
pub(crate) struct TestKey {
    /// The text of its file, without a password.
    pub(crate) secret: String,
    /// It, opened.
    pub(crate) signer: Signer,
}

impl TestKey {
    pub(crate) fn new() -> Self {
        let secret = signing::generate(None).unwrap().secret.to_string();
        let variables =
            |name: &str| (name == KEY_VARIABLE).then(|| OsString::from(secret.as_str()));
        let signer = Signer::find(&variables, &|_| unreachable!("it has no password"));
        let signer = signer.unwrap().unwrap();
        Self { secret, signer }
    }

    /// A signature file over any text, as minisign's own library makes it.
    pub(crate) fn sign(&self, text: &str, comment: &str) -> String {
        let key = ::minisign::SecretKeyBox::from(self.secret.clone());
        let key = key.into_unencrypted_secret_key().unwrap();
        let made = ::minisign::sign(
            None,
            &key,
            text.as_bytes(),
            Some(comment),
            Some("signature of a test"),
        );
        made.unwrap().to_string()
    }

    /// A record of any text that is signed rightly.
    pub(crate) fn record_of(&self, text: &str) -> ResultRecord {
        let signature = self.sign(text, "a test");
        ResultRecord { statement: text.to_owned(), signature, layers: layers() }
    }

    /// The line of `kiln.kdl`.
    pub(crate) fn trusted(&self, name: &str, revoked: bool) -> TrustedKey {
        let mut sources = Sources::default();
        let span = Span { file: sources.add("kiln.kdl".into(), ""), offset: 0, len: 0 };
        let key = Spanned { value: self.signer.verifying_key().to_string(), span };
        TrustedKey { key, name: Some(name.to_owned()), revoked }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(&[self.trusted("ann", false)])
    }
}

pub(crate) fn key() -> ActionKey {
    ActionKey(Digest::of(b"action"))
}

pub(crate) fn state(n: u64) -> StateId {
    StateId(Digest::of(&n.to_le_bytes()))
}

pub(crate) fn blob(text: &str) -> BlobRef {
    BlobRef::of(text.as_bytes())
}

/// A base and two layers.
pub(crate) fn statement() -> Statement {
    let link = |n, virtual_size, data| Link { state: state(n), virtual_size, data };
    Statement {
        kind: TYPE.to_owned(),
        namespace: Namespace::default(),
        key: key(),
        epoch: EPOCH,
        block_size: 4096,
        chain: vec![link(1, 1 << 20, 8192), link(2, 1 << 21, 4096), link(3, 1 << 21, 0)],
        impure: false,
        manifest: blob("manifest"),
        report: None,
        sbom: Some(blob("sbom")),
        provenance: Some(blob("provenance")),
        took_ms: 1234,
        host: vec!["crun 1.8.1".to_owned()],
    }
}

pub(crate) fn layers() -> Vec<Option<BlobRef>> {
    vec![None, Some(blob("two")), Some(blob("three"))]
}

pub(crate) fn accept(bytes: &[u8], trust: &Trust) -> Result<Accepted, Distrust> {
    ResultRecord::accept(bytes, key(), &Namespace::default(), trust)
}

#[test]
fn what_a_trusted_key_signed_counts() {
    let ann = TestKey::new();
    let record = ann.signer.sign(&statement(), layers()).unwrap();
    let accepted = accept(&record.encode(), &ann.trust()).unwrap();
    let expected = Accepted {
        statement: statement(),
        layers: layers(),
        signer: ann.signer.id(),
        name: Some("ann".to_owned()),
    };
    assert_eq!(accepted, expected);
}

#[test]
fn the_statement_is_always_the_same_text() {
    let ann = TestKey::new();
    let [one, two] = [(); 2].map(|()| ann.signer.sign(&statement(), layers()).unwrap());
    assert_eq!(one.statement, two.statement);
    insta::assert_snapshot!(one.statement);
}

#[test]
fn what_others_would_refuse_is_not_signed() {
    let ann = TestKey::new();
    let impossible = Statement { chain: Vec::new(), ..statement() };
    assert!(ann.signer.sign(&impossible, Vec::new()).is_err());
    assert!(ann.signer.sign(&statement(), Vec::new()).is_err());
}

prop_compose! {
    fn links()(
        sizes in prop::collection::vec((1_u64..1 << 30, any::<u64>()), 1..20),
    ) -> Vec<Link> {
        let mut sectors = 0;
        let link = |(n, (more, data)): (usize, (u64, u64))| {
            sectors += more;
            let virtual_size = sectors * 512;
            Link { state: state(n as u64), virtual_size, data: data % (virtual_size + 1) }
        };
        sizes.into_iter().enumerate().map(link).collect()
    }
}

prop_compose! {
    fn statements()(
        chain in links(),
        namespace in "[a-z0-9][a-zA-Z0-9._-]{0,31}",
        action: [u8; 32],
        impure: bool,
        blobs: [Option<([u8; 32], u16)>; 3],
        took_ms: u64,
        host in prop::collection::vec("[ -~]{0,200}", 0..5),
    ) -> Statement {
        let blob = |(id, len): ([u8; 32], u16)| BlobRef { id: BlobId::of(&id), len: len.into() };
        let [report, sbom, provenance] = blobs.map(|found| found.map(blob));
        Statement {
            namespace: namespace.parse().unwrap(),
            key: ActionKey(Digest::from_bytes(action)),
            chain, impure, report, sbom, provenance, took_ms, host,
            ..statement()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_signed_is_what_is_accepted(statement in statements(), seed: u64) {
        let ann = TestKey::new();
        let layers: Vec<_> =
            statement.chain.iter().map(|link| Some(blob(&format!("{seed} {}", link.state)))).collect();
        let record = ann.signer.sign(&statement, layers.clone()).unwrap();
        let accepted =
            ResultRecord::accept(&record.encode(), statement.key, &statement.namespace, &ann.trust());
        let accepted = accepted.unwrap();
        prop_assert_eq!(accepted.statement, statement);
        prop_assert_eq!(accepted.layers, layers);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let trust = Trust::default();
        prop_assert!(accept(&bytes, &trust).is_err());
    }

    #[test]
    fn no_signature_panics(signature in "(untrusted comment: [ -~]{0,9}\n)?[A-Za-z0-9+/=]{0,120}\n(trusted comment: x\n)?[A-Za-z0-9+/=]{0,120}\n") {
        let ann = TestKey::new();
        let record = ResultRecord { signature, ..ann.record_of(&statement().encode()) };
        prop_assert!(accept(&record.encode(), &ann.trust()).is_err());
    }
}
