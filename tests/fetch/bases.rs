//! Downloaded bases in builds.

use std::fs;
use std::sync::atomic::Ordering;

use kiln::engine::BuildError;
use kiln::lock::{Lock, Resolved};
use kiln::recipe::Checksum;
use kiln::source::Sources;

use super::downloads::sum;
use super::fake::MARK;
use super::server::{Server, Trouble};
use super::space::{SIZE, TestSpace};

/// A raw disk that is empty but for one byte, as the fake executor has it.
fn disk(mark: u8) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    bytes[usize::try_from(MARK).unwrap() * 4096] = mark;
    bytes
}

fn recipe(name: &str, url: &str, checksum: &Checksum) -> String {
    let Checksum::Sha256(digits) = checksum else { panic!("{checksum}") };
    format!(
        "image \"{name}\" {{ base url \"{url}\" sha256=\"{digits}\"; run-command \"one\"; output \"raw\"; }}\n"
    )
}

fn parts(space: &TestSpace) -> usize {
    let directory = fs::read_dir(space.store.join("work/downloads"));
    directory.map_or(0, Iterator::count)
}

fn codes(error: BuildError) -> Vec<String> {
    match error {
        BuildError::Steps { steps, .. } => steps
            .iter()
            .map(|step| {
                miette::Diagnostic::code(step).map_or(String::new(), |code| code.to_string())
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_base_is_downloaded_once() {
    let server = Server::new();
    let url = server.file("/disk", disk(9));
    let space = TestSpace::new(&recipe("web", &url, &sum(&disk(9))));
    assert_eq!(space.ran(), ["web/base", "web/run-command", "web/seal"]);
    assert_eq!(space.content("web").mark, 9);
    assert_eq!((server.sent(), parts(&space)), (disk(9).len(), 0));
    // Neither is it looked at again, nor for another image that starts with the same bytes.
    assert!(space.ran().is_empty());
    let other = recipe("db", "https://mirror.invalid/disk", &sum(&disk(9)));
    space.recipe(&[recipe("web", &url, &sum(&disk(9))), other.replace("one", "two")].concat());
    assert_eq!(space.ran(), ["db/run-command", "db/seal"]);
    assert_eq!(server.asked().len(), 1);
    space.check();
}

#[test]
fn two_addresses_of_one_file_are_one_action() {
    let server = Server::new();
    let (one, two) = (server.file("/one", disk(9)), server.file("/two", disk(9)));
    let recipes = [recipe("web", &one, &sum(&disk(9))), recipe("db", &two, &sum(&disk(9)))];
    let space = TestSpace::new(&recipes.concat());
    space.build();
    assert_eq!(server.sent(), disk(9).len());
}

#[test]
fn a_compressed_base_is_unpacked() {
    let server = Server::new();
    let packed = zstd::stream::encode_all(&disk(9)[..], 1).unwrap();
    let url = server.file("/disk.named-otherwise", packed.clone());
    let space = TestSpace::new(&recipe("web", &url, &sum(&packed)));
    space.build();
    assert_eq!(space.content("web").mark, 9);
}

#[test]
fn a_download_that_was_called_off_goes_on() {
    let server = Server::new();
    let url = server.file("/disk", disk(9));
    let space = TestSpace::new(&recipe("web", &url, &sum(&disk(9))));
    server.trouble("/disk", [Trouble::Stall(700_000)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while server.sent() == 0 {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
            space.interrupted.store(true, Ordering::SeqCst);
        });
        assert!(matches!(space.try_build(), Err(BuildError::Interrupted)));
    });
    assert_eq!(space.results().iter().count(), 0);
    server.asked();
    space.build();
    assert_eq!(server.sent(), disk(9).len() - 700_000);
    assert_eq!(parts(&space), 0);
}

#[test]
fn a_wrong_checksum_fails_and_nothing_is_recorded() {
    let server = Server::new();
    let url = server.file("/disk", disk(8));
    let space = TestSpace::new(&recipe("web", &url, &sum(&disk(9))));
    assert_eq!(codes(space.try_build().unwrap_err()), ["kiln::fetch::checksum"]);
    assert_eq!((space.results().iter().count(), parts(&space)), (0, 0));
    server.file("/disk", disk(9));
    space.build();
}

#[test]
fn a_file_that_is_no_disk_fails() {
    let server = Server::new();
    let url = server.file("/disk", "a page that says: not found");
    let space = TestSpace::new(&recipe("web", &url, &sum(b"a page that says: not found")));
    assert_eq!(codes(space.try_build().unwrap_err()), ["kiln::disk::odd_size"]);
}

#[test]
fn the_lock_file_says_what_a_name_means() {
    let server = Server::new();
    let url = server.file("/disk", disk(9));
    let space = TestSpace::new(
        "image \"web\" { base template \"os-1\"; run-command \"one\"; output \"raw\"; }",
    );
    let mut lock = Lock::read(&space.root(), &mut Sources::default()).unwrap();
    let checksum = sum(&disk(9));
    let resolved = Resolved { url, checksum, format: None, revision: Some(1) };
    lock.resolved.insert(format!("template os-1 {}", std::env::consts::ARCH), resolved);
    lock.write(&space.root()).unwrap();
    space.build();
    assert_eq!(space.content("web").mark, 9);
}
