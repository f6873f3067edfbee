//! A remote that fails too often, and leases on servers that only say that they hold them.

use std::time::Duration;

use kiln::remote::backend::{Backend, Claim, RemoteError};
use kiln::remote::{BlobRef, Guarded, Patience};

use crate::contract::{key, namespace, result};
use crate::memory::{Call, Fault, Faulty, MemoryRemote, When};
use crate::servers::S3;
use crate::trouble::{self, Trouble};
use crate::{Opened, bytes};

/// A guarded remote, with what makes it fail.
fn guarded() -> (Guarded, Faulty, MemoryRemote) {
    let memory = MemoryRemote::new();
    let faulty = Faulty::new(memory.clone());
    let guarded = Guarded::new(Box::new(faulty.clone()), &Patience::default());
    (guarded, faulty, memory)
}

#[test]
fn three_failures_in_a_row_are_enough() {
    let (guarded, faulty, memory) = guarded();
    faulty.fault(Call::ALL, When::Always, Fault::Status(500));
    assert_eq!(guarded.trouble(), None);
    for _ in 0..3 {
        let error = guarded.record(&result()).unwrap_err();
        assert!(matches!(error, RemoteError::Unavailable { .. }), "{error}");
    }
    faulty.heal();
    let error = guarded.record(&result()).unwrap_err();
    assert_eq!(error.to_string(), "the remote `memory` is left out for the rest of this run");
    assert!(matches!(guarded.claim(&namespace(), key(), b""), Err(RemoteError::LeftOut { .. })));
    assert_eq!(memory.counts().calls.len(), 0, "it is not asked any more");
    assert_eq!(
        guarded.trouble().unwrap(),
        "the remote `memory` could not Record: it answered with status 500; it is left out for \
         the rest of this run"
    );
}

#[test]
fn an_answer_ends_a_row() {
    let (guarded, faulty, memory) = guarded();
    let content = bytes(10);
    for _ in 0..5 {
        faulty.fault(&[Call::HasBlob], When::Always, Fault::Status(503));
        for _ in 0..2 {
            guarded.has_blob(BlobRef::of(&content)).unwrap_err();
        }
        faulty.heal();
        // That there is nothing is an answer, too.
        let missing = guarded.read_blob(BlobRef::of(&content), 0..1);
        assert!(matches!(missing, Err(RemoteError::Missing { .. })), "{missing:?}");
    }
    assert_eq!(memory.counts().of(Call::ReadBlob), 5);
    let told = guarded.trouble().unwrap();
    assert!(told.ends_with("status 503"), "one warning: {told}");
}

#[test]
fn waiting_has_a_budget() {
    let memory = MemoryRemote::new();
    let faulty = Faulty::new(memory.clone());
    let patience = Patience { budget: Duration::from_millis(50), ..Patience::default() };
    let guarded = Guarded::new(Box::new(faulty.clone()), &patience);
    faulty.fault(Call::READS, When::Nth(0), Fault::Hang(Duration::from_millis(60)));
    let error = guarded.record(&result()).unwrap_err();
    assert!(matches!(error, RemoteError::TooSlow { .. }), "{error}");
    assert!(matches!(guarded.record(&result()), Err(RemoteError::LeftOut { .. })));
    assert_eq!(memory.counts().of(Call::Record), 0);
}

#[test]
fn who_may_not_write_goes_on_reading() {
    let (guarded, faulty, memory) = guarded();
    let (name, content) = (result(), bytes(10));
    faulty.fault(Call::WRITES, When::Always, Fault::Status(403));
    for round in 0..5 {
        let error = guarded.put_blob(BlobRef::of(&content), &content).unwrap_err();
        let refused = matches!(error, RemoteError::Refused { .. });
        assert_eq!(refused, round == 0, "asked once: {error}");
        assert_eq!(guarded.record(&name).unwrap(), None);
    }
    assert_eq!(memory.counts().of(Call::Record), 5);
    assert!(guarded.trouble().unwrap().ends_with("; nothing more is written to it"));
}

#[test]
fn a_server_that_ignores_conditions_holds_no_leases() {
    let server = Trouble::before(&S3.address);
    server.on("PUT", "", trouble::Fault::Strip("if-none-match"));
    let remote = Opened::s3(&server.address).open();
    assert_eq!(remote.claim(&namespace(), key(), b"one").unwrap(), Claim::Impossible);
    let asked = server.asked();
    let tried = |method| asked.iter().filter(|asked| asked.method == method).count();
    assert!(tried("PUT") >= 5 && tried("DELETE") >= 1, "tried, and cleaned up: {asked:?}");
    assert!(asked.iter().all(|asked| asked.path.contains("probe/")), "no lease was written");
    assert_eq!(remote.claim(&namespace(), key(), b"two").unwrap(), Claim::Impossible);
    assert_eq!(server.asked(), [], "it is tried once");
}

#[test]
fn who_may_not_remove_takes_no_lease() {
    let server = Trouble::before(&S3.address);
    server.on("DELETE", "", trouble::Fault::Status(403, ""));
    let remote = Opened::s3(&server.address).open();
    assert_eq!(remote.claim(&namespace(), key(), b"one").unwrap(), Claim::Impossible);
}

#[test]
fn a_server_without_conditions_holds_no_leases() {
    let server = Trouble::before(&S3.address);
    server.on("PUT", "probe/", trouble::Fault::Status(501, ""));
    let remote = Opened::s3(&server.address).open();
    assert_eq!(remote.claim(&namespace(), key(), b"one").unwrap(), Claim::Impossible);
}

#[test]
fn what_could_not_be_tried_is_no_answer() {
    let server = Trouble::before(&S3.address);
    server.on("PUT", "probe/", trouble::Fault::Status(500, ""));
    let remote = Opened::s3(&server.address).impatient().open();
    let (namespace, key) = (namespace(), key());
    let error = remote.claim(&namespace, key, b"one").unwrap_err();
    assert!(matches!(error, RemoteError::Unavailable { .. }), "{error}");
    server.heal();
    assert_eq!(remote.claim(&namespace, key, b"one").unwrap(), Claim::Taken);
}

#[test]
fn a_lease_whose_answer_was_lost_is_still_ones_own() {
    let server = Trouble::before(&S3.address);
    let remote = Opened::s3(&server.address).open();
    let (namespace, first, second) = (namespace(), key(), key());
    assert_eq!(remote.claim(&namespace, first, b"one").unwrap(), Claim::Taken);
    // It is written, and the connection ends in the middle of the answer's head.
    server.times(1, "PUT", "leases/", trouble::Fault::Mute);
    assert_eq!(remote.claim(&namespace, second, b"one").unwrap(), Claim::Taken);
    assert_eq!(server.asked().iter().filter(|a| a.path.contains(&second.to_string())).count(), 3);
    let other = remote.claim(&namespace, second, b"two").unwrap();
    assert_eq!(other, Claim::Held(b"one".to_vec()));
}
