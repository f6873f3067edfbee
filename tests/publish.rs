//! Publishing: against an image service in memory that dies at every call, and against Debian's own
//! Glance and Keystone.
//!
//! Knows what `publish` promises of names and bytes, and how the program tells it. The servers are
//! those of `tests/servers/openstack`; they are made once and started on loopback.

#[path = "support/fake.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod fake;
#[path = "support/openstack.rs"]
mod openstack;
#[path = "remote/servers.rs"]
#[expect(dead_code, reason = "shared with the tests of remotes")]
mod servers;
#[path = "support/space.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod space;

#[path = "publish/commands.rs"]
mod commands;
#[path = "publish/contract.rs"]
mod contract;
#[path = "publish/crashes.rs"]
mod crashes;
#[path = "publish/logins.rs"]
mod logins;
#[path = "publish/meanwhile.rs"]
mod meanwhile;
#[path = "publish/memory.rs"]
mod memory;
#[path = "publish/scripted.rs"]
mod scripted;
#[path = "publish/tls.rs"]
mod tls;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use kiln::digest::{ActionKey, Digest, StateId};
use kiln::publish::{Act, Outcome, PublishError, Record, Source, Wanted, Watcher, publish};
use kiln::publish::{Images, utc};
use kiln::recipe::Visibility;

/// The time at which tests start, in seconds since 1970.
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// A file of a test's own with some bytes.
struct File {
    file: tempfile::NamedTempFile,
}

impl File {
    fn new(bytes: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Self { file }
    }

    /// So many bytes that follow from a number.
    fn of(seed: u64, len: usize) -> Self {
        let mut bytes = vec![0; len];
        let seed = blake3::hash(&seed.to_le_bytes());
        blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        Self::new(&bytes)
    }

    fn source(&self) -> Source {
        Source::open(self.file.path()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }
}

/// What a test wants published, of a file; the state follows from the bytes.
fn wanted(name: &str, file: &File) -> Wanted {
    let state: Digest = blake3::hash(&file.bytes()).to_hex().as_str().parse().unwrap();
    let state: StateId = state.to_string().parse().unwrap();
    let seal: ActionKey = state.to_string().parse().unwrap();
    Wanted {
        name: name.to_owned(),
        image: "golden".to_owned(),
        seal,
        state,
        format: "raw",
        size: file.source().size(),
        visibility: Visibility::Private,
        protected: false,
        tags: BTreeSet::from(["tested".to_owned()]),
        properties: BTreeMap::from([("os_distro".to_owned(), "debian".to_owned())]),
        min_disk: 1,
        min_ram: 64,
        keep_old: u64::try_from(DAY).unwrap(),
        keep_last: 1,
        take_over: false,
    }
}

/// Notes what goes on.
#[derive(Default)]
struct Notes {
    acts: Vec<Act>,
    sent: RefCell<Vec<u64>>,
    /// After so many bytes the user wants the end.
    stop: Option<u64>,
}

impl Watcher for Notes {
    fn act(&mut self, act: &Act) {
        self.acts.push(act.clone());
    }

    fn sent(&self, bytes: u64) -> bool {
        self.sent.borrow_mut().push(bytes);
        self.stop.is_none_or(|stop| bytes < stop)
    }

    fn goes_on(&self) -> bool {
        self.stop != Some(0)
    }

    fn pause(&self, _: u32) {}
}

/// Publishes at a time, and gives what was done too.
fn at(
    images: &dyn Images,
    wanted: &Wanted,
    file: &File,
    now: i64,
) -> (Result<Outcome, PublishError>, Vec<Act>) {
    let mut notes = Notes::default();
    let result = publish(images, wanted, &file.source(), now, &mut notes);
    (result, notes.acts)
}

/// The same where it must succeed.
fn done(images: &dyn Images, wanted: &Wanted, file: &File, now: i64) -> (Outcome, Vec<Act>) {
    let (result, acts) = at(images, wanted, file, now);
    (result.unwrap_or_else(|error| panic!("{error:?}")), acts)
}

/// The images that a name leads to.
fn named(images: &dyn Images, name: &str) -> Vec<Record> {
    let all = images.list(name).unwrap();
    all.into_iter().filter(|record| record.has_name(name)).collect()
}

/// A name that nothing else in this run has.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("golden {:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What was done, without ids and times.
fn words(acts: &[Act]) -> Vec<&'static str> {
    acts.iter()
        .map(|act| match act {
            Act::Cleared(_) => "cleared",
            Act::Uploading(..) => "uploading",
            Act::GivenUp(_) => "given up",
            Act::Uploaded(..) => "uploaded",
            Act::Changed(..) => "changed",
            Act::Superseded(_) => "superseded",
            Act::Expired(_) => "expired",
            Act::Left(..) => "left",
        })
        .collect()
}

#[test]
fn times_are_those_of_utc() {
    assert_eq!(utc(NOW), "2027-01-15T08:00:00Z");
}
