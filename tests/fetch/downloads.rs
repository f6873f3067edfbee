//! What is asked for, what is kept, and what is refused.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln::fetch::checksum::Sum;
use kiln::fetch::{Client, Downloads, FetchError, Patience, ProxyUse};
use kiln::recipe::Checksum;

use super::server::{Page, Server, Trouble};

pub(crate) const HASTE: Patience = Patience {
    connect: Duration::from_secs(2),
    stall: Duration::from_millis(300),
    pause: Duration::from_millis(1),
    tries: 3,
};

static GO_ON: AtomicBool = AtomicBool::new(false);

pub(crate) fn client() -> Client<'static> {
    Client::new(&ProxyUse::No, HASTE, &GO_ON).unwrap()
}

pub(crate) fn sum(bytes: &[u8]) -> Checksum {
    let mut sum = Sum::sha256();
    sum.add(bytes);
    sum.finish()
}

fn bytes() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect()
}

struct Place {
    directory: tempfile::TempDir,
    server: Server,
    lines: Vec<String>,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), server: Server::new(), lines: Vec::new() }
    }

    fn downloads(&self) -> Downloads {
        Downloads::new(self.directory.path().join("downloads"))
    }

    fn get(&mut self, url: &str, wanted: &Checksum) -> Result<Vec<u8>, FetchError> {
        let lines = &mut self.lines;
        let mut tell = |line: &str| lines.push(line.to_owned());
        let downloads = Downloads::new(self.directory.path().join("downloads"));
        let downloaded = downloads.get(&client(), url, wanted, &mut tell)?;
        Ok(fs::read(&downloaded.path).unwrap())
    }

    fn part(&self, wanted: &Checksum) -> PathBuf {
        let name = format!("{}.part", wanted.to_string().replace(':', "-"));
        self.directory.path().join("downloads").join(name)
    }
}

#[test]
fn a_file_comes_whole_and_only_once() {
    let mut place = Place::new();
    let bytes = bytes();
    let wanted = sum(&bytes);
    let url = place.server.file("/a", bytes.clone());
    assert!(place.get(&url, &wanted).unwrap() == bytes);
    assert_eq!(place.server.asked().len(), 1);
    // What is complete is not asked for again, wherever it came from.
    assert!(place.get("https://unreachable.invalid/a", &wanted).unwrap() == bytes);
    assert!(place.server.asked().is_empty());
    let downloaded = place.downloads().get(&client(), &url, &wanted, &mut |_| ()).unwrap();
    downloaded.remove().unwrap();
    assert_eq!(fs::read_dir(place.directory.path().join("downloads")).unwrap().count(), 0);
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let mut place = Place::new();
    let bytes = bytes();
    let url = place.server.file("/a", bytes.clone());
    place.server.trouble(
        "/a",
        [Trouble::HangUp(5_000_000), Trouble::Status(503), Trouble::Stall(2_000_000)],
    );
    assert!(place.get(&url, &sum(&bytes)).unwrap() == bytes);
    let asked = place.server.asked();
    assert_eq!(asked.iter().map(|asked| asked.sent).sum::<usize>(), bytes.len());
    assert_eq!(asked[0].range, None);
    assert_eq!(asked[1].range.as_deref(), Some("bytes=5000000-"));
    assert_eq!(asked[3].range.as_deref(), Some("bytes=7000000-"));
    assert!(asked[1..].iter().all(|asked| asked.if_range.as_deref() == Some("\"one\"")));
    assert!(place.lines.iter().any(|line| line.contains("status 503")), "{:?}", place.lines);
    assert!(place.lines.iter().any(|line| line.contains("nothing came")), "{:?}", place.lines);
}

#[test]
fn what_a_killed_kiln_left_is_gone_on_with() {
    let mut place = Place::new();
    let bytes = bytes();
    let wanted = sum(&bytes);
    let url = place.server.file("/a", bytes.clone());
    place.server.trouble("/a", [Trouble::HangUp(5_000_000), Trouble::Status(404)]);
    assert!(matches!(place.get(&url, &wanted), Err(FetchError::Status { status: 404, .. })));
    assert_eq!(fs::metadata(place.part(&wanted)).unwrap().len(), 5_000_000);
    place.server.asked();
    assert!(place.get(&url, &wanted).unwrap() == bytes);
    assert_eq!(place.server.sent(), bytes.len() - 5_000_000);
    assert!(
        place.lines.iter().any(|line| line.contains("going on at 4.8 MiB")),
        "{:?}",
        place.lines
    );
}

#[test]
fn a_server_that_cannot_go_on_starts_over() {
    let bytes = bytes();
    let wanted = sum(&bytes);
    let start_over = |change: &dyn Fn(&mut Page), trouble: &[Trouble]| {
        let mut place = Place::new();
        let etag = Some("\"one\"".to_owned());
        let mut page = Page { body: bytes.clone(), etag, ranges: true, trouble: Vec::new() };
        page.trouble = vec![Trouble::HangUp(5_000_000), Trouble::Status(404)];
        let url = place.server.put("/a", page.clone());
        place.get(&url, &wanted).unwrap_err();
        page.trouble = trouble.to_vec();
        change(&mut page);
        place.server.put("/a", page);
        place.server.asked();
        assert!(place.get(&url, &wanted).unwrap() == bytes);
        assert_eq!(place.server.sent(), bytes.len());
    };
    start_over(&|page| page.ranges = false, &[]);
    start_over(&|page| page.etag = Some("\"two\"".to_owned()), &[]);
    start_over(&|_| (), &[Trouble::NoRange]);
}

#[test]
fn a_part_of_another_file_is_thrown_away() {
    let mut place = Place::new();
    let bytes = bytes();
    let wanted = sum(&bytes);
    let url = place.server.file("/a", bytes.clone());
    fs::create_dir(place.directory.path().join("downloads")).unwrap();
    // Without a tag the server cannot tell; the checksum does.
    fs::write(place.part(&wanted), vec![1; 4_000_000]).unwrap();
    assert!(place.get(&url, &wanted).unwrap() == bytes);
    assert!(place.lines.iter().any(|line| line.contains("another file")), "{:?}", place.lines);
    // One that is longer than the file has no range.
    fs::write(place.part(&wanted), vec![1; bytes.len() + 5]).unwrap();
    assert!(place.get(&url, &wanted).unwrap() == bytes);
}

#[test]
fn what_has_another_checksum_is_never_handed_out() {
    let mut place = Place::new();
    let url = place.server.file("/a", "something else");
    let wanted = sum(b"this");
    match place.get(&url, &wanted) {
        Err(FetchError::Checksum { wanted: told, came, .. }) => {
            assert_eq!((told, came), (wanted.clone(), sum(b"something else")));
        }
        other => panic!("{other:?}"),
    }
    assert!(!place.part(&wanted).exists());
    assert_eq!(place.server.asked().len(), 1);
    // The same behind a part that was gone on with: it is tried once from the start.
    fs::write(place.part(&wanted), "some").unwrap();
    assert!(matches!(place.get(&url, &wanted), Err(FetchError::Checksum { .. })));
    assert!(!place.part(&wanted).exists());
    assert_eq!(place.server.asked().len(), 2);
}

#[test]
fn trouble_that_does_not_pass_ends_it() {
    let mut place = Place::new();
    let url = place.server.file("/a", "this");
    place.server.trouble("/a", vec![Trouble::Status(500); 9]);
    let result = place.get(&url, &sum(b"this"));
    assert!(matches!(result, Err(FetchError::Status { status: 500, .. })), "{result:?}");
    assert!(result.unwrap_err().is_of_host());
    assert_eq!(place.server.asked().len(), 3);
    let result = place.get(&format!("{}/none", place.server.url), &sum(b"this"));
    assert!(matches!(&result, Err(FetchError::Status { status: 404, .. })), "{result:?}");
    assert!(!result.unwrap_err().is_of_host());
    for url in ["file:///etc/passwd", "ftp://127.0.0.1/a", "/etc/passwd"] {
        let result = place.get(url, &sum(b"this"));
        assert!(matches!(result, Err(FetchError::Url { .. })), "{result:?}");
    }
}

#[test]
fn redirects_are_followed_within_bounds() {
    let mut place = Place::new();
    let url = place.server.file("/a", "this");
    let wanted = sum(b"this");
    place.server.file("/sub/b", "");
    place.server.trouble("/sub/b", [Trouble::Redirect("../a".to_owned())]);
    place.server.file("/sub/../a", "this");
    place.server.file("/c", "");
    place.server.trouble("/c", [Trouble::Redirect(format!("{}/sub/b", place.server.url))]);
    assert_eq!(place.get(&format!("{}/c", place.server.url), &wanted).unwrap(), b"this");
    for to in ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://a"] {
        fs::remove_file(place.part(&wanted)).unwrap();
        place.server.trouble("/a", [Trouble::Redirect(to.to_owned())]);
        let result = place.get(&url, &wanted);
        assert!(matches!(result, Err(FetchError::Redirect { .. })), "{result:?}");
    }
    place.server.trouble("/a", vec![Trouble::Redirect("/a".to_owned()); 50]);
    let result = place.get(&url, &wanted);
    assert!(matches!(result, Err(FetchError::Redirect { .. })), "{result:?}");
}

#[test]
fn a_document_is_bounded_and_tried_again() {
    let server = Server::new();
    let url = server.file("/index", vec![b'x'; 1000]);
    assert_eq!(client().document(&url, 1000).unwrap().len(), 1000);
    let result = client().document(&url, 999);
    assert!(matches!(result, Err(FetchError::TooLarge { limit: 999, .. })), "{result:?}");
    server.trouble("/index", [Trouble::Status(429), Trouble::HangUp(10)]);
    assert_eq!(client().document(&url, 1000).unwrap().len(), 1000);
}

#[test]
fn the_end_is_heard_while_nothing_comes() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let server = Server::new();
    let url = server.file("/a", "this");
    server.trouble("/a", [Trouble::Stall(2)]);
    let patience = Patience { stall: Duration::from_mins(1), ..HASTE };
    let client = Client::new(&ProxyUse::No, patience, &OVER).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let downloads = Downloads::new(directory.path().to_owned());
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            OVER.store(true, Ordering::SeqCst);
        });
        let result = downloads.get(&client, &url, &sum(b"this"), &mut |_| ());
        assert!(matches!(result, Err(FetchError::Interrupted)), "{result:?}");
    });
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn what_is_learned_is_not_downloaded_again() {
    let place = Place::new();
    let bytes = bytes();
    let url = place.server.file("/a", bytes.clone());
    place.server.trouble("/a", [Trouble::HangUp(5_000_000)]);
    let learned = place.downloads().learn(&client(), &url, &mut |_| ()).unwrap();
    assert_eq!(learned, sum(&bytes));
    assert_eq!(place.server.sent(), bytes.len());
    place.server.asked();
    let downloaded = place.downloads().get(&client(), &url, &learned, &mut |_| ()).unwrap();
    assert!(fs::read(&downloaded.path).unwrap() == bytes);
    assert!(place.server.asked().is_empty());
}

#[test]
fn what_is_learned_is_never_put_together_of_two_versions() {
    let place = Place::new();
    let bytes = bytes();
    let page = Page { body: bytes.clone(), ranges: true, ..Page::default() };
    let url = place.server.put("/a", page);
    place.server.trouble("/a", [Trouble::HangUp(5_000_000)]);
    let learned = place.downloads().learn(&client(), &url, &mut |_| ()).unwrap();
    assert_eq!(learned, sum(&bytes));
    // Without a tag the server cannot say that its file is still the same.
    assert_eq!(place.server.sent(), 5_000_000 + bytes.len());
}

#[test]
fn two_kilns_download_one_file_once() {
    let place = Place::new();
    let bytes = bytes();
    let wanted = sum(&bytes);
    let url = place.server.file("/a", bytes.clone());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let downloaded =
                    place.downloads().get(&client(), &url, &wanted, &mut |_| ()).unwrap();
                assert!(fs::read(&downloaded.path).unwrap() == bytes);
            });
        }
    });
    assert_eq!(place.server.sent(), bytes.len());
}
