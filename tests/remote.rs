//! Remotes against real servers on this host, and against servers that go wrong.
//!
//! Knows what `remote` promises of bytes, not what builds make of them. The servers are those of
//! `remote/servers.rs`; a test whose server is not installed fails, and says what to install.

#[path = "support/failing.rs"]
mod failing;
#[path = "support/fake.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod fake;
#[path = "support/remote.rs"]
#[expect(dead_code, reason = "shared with the tests of sharing")]
mod memory;
#[path = "support/space.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod space;
#[path = "sharing/team.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod team;
#[path = "support/trouble.rs"]
#[expect(dead_code, reason = "shared with the tests of sharing")]
mod trouble;

#[path = "remote/bundles.rs"]
mod bundles;
#[path = "remote/contract.rs"]
mod contract;
#[path = "remote/credentials.rs"]
mod credentials;
#[path = "remote/faults.rs"]
mod faults;
#[path = "remote/guards.rs"]
mod guards;
#[path = "remote/registries.rs"]
mod registries;
#[path = "remote/servers.rs"]
mod servers;
#[path = "remote/sharing.rs"]
mod sharing;
#[path = "remote/webs.rs"]
mod webs;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kiln::recipe::RemoteSource;
use kiln::remote::backend::{Backend, RemoteError};
use kiln::remote::{Environment, Patience, open_in};
use kiln::source::{FileId, Span, Spanned};

/// A remote that a test opens.
struct Opened {
    source: RemoteSource,
    patience: Patience,
    environment: Vec<(String, String)>,
}

impl Opened {
    fn new(address: &str) -> Self {
        let span = Span { file: FileId(0), offset: 0, len: 0 };
        let source = RemoteSource {
            name: Spanned { value: "team".parse().unwrap(), span },
            address: Spanned { value: address.to_owned(), span },
            endpoint: None,
            region: None,
            read_only: false,
            impure: false,
        };
        Self { source, patience: Patience::default(), environment: Vec::new() }
    }

    /// The bucket `kiln` of an S3 server that believes any key, below a folder of its own.
    fn s3(address: &str) -> Self {
        let mut opened = Self::new(&format!("s3://kiln/{}", unique()));
        opened.source.endpoint = Some(format!("http://{address}"));
        opened.with(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "SECRETIVE")])
    }

    /// The container `kiln` of a Swift.
    fn swift(address: &str) -> Self {
        let login = format!("http://{address}/auth/v1.0");
        let opened = Self::new(&format!("swift://kiln/{}", unique()));
        opened.with(&[("ST_AUTH", &login), ("ST_USER", "test:tester"), ("ST_KEY", "testing")])
    }

    /// With these variables in place of others of their names.
    fn with(mut self, pairs: &[(&str, &str)]) -> Self {
        self.environment.retain(|(name, _)| pairs.iter().all(|(other, _)| other != name));
        let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        self.environment.extend(pairs);
        self
    }

    /// For a test that waits for failures.
    fn impatient(mut self) -> Self {
        self.patience = Patience {
            connect: Duration::from_secs(2),
            idle: Duration::from_secs(1),
            call: Duration::from_secs(4),
            rate: 1 << 20,
            retries: 2,
            pause: Duration::from_millis(20),
            ..Patience::default()
        };
        self
    }

    fn read_only(mut self) -> Self {
        self.source.read_only = true;
        self
    }

    fn try_open(&self) -> Result<Box<dyn Backend>, RemoteError> {
        let pairs: Vec<_> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        open_in(&self.source, &self.patience, &Environment::of(&pairs))
    }

    fn open(&self) -> Box<dyn Backend> {
        self.try_open().unwrap()
    }
}

/// An error with its causes, as it is shown and as it is debugged.
fn shown(error: &RemoteError) -> String {
    let mut text = format!("{error}\n{error:?}");
    let mut at = std::error::Error::source(error);
    while let Some(cause) = at {
        let _ = write!(text, "\n{cause}\n{cause:?}");
        at = cause.source();
    }
    text
}

/// A word that nothing else in this run or another one has, of lowercase letters and digits.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:x}x{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// So many bytes that nothing else has.
fn bytes(len: usize) -> Vec<u8> {
    let mut pieces = blake3::Hasher::new().update(unique().as_bytes()).finalize_xof();
    let mut bytes = vec![0; len];
    pieces.fill(&mut bytes);
    bytes
}
