//! A small HTTP server of a test's own: files with tags and ranges, and everything that goes wrong
//! with servers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a path answers with.
#[derive(Clone, Default)]
pub(crate) struct Page {
    /// The whole body.
    pub(crate) body: Vec<u8>,
    /// Its tag; without one there is no header.
    pub(crate) etag: Option<String>,
    /// Whether ranges are answered.
    pub(crate) ranges: bool,
    /// What happens to the next requests, one each, before all is well.
    pub(crate) trouble: Vec<Trouble>,
}

/// What happens to one request.
#[derive(Clone)]
pub(crate) enum Trouble {
    /// It is answered with a status and nothing else.
    Status(u16),
    /// It is sent elsewhere.
    Redirect(String),
    /// The connection ends after so many bytes of the body.
    HangUp(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// Ranges are answered with 416.
    NoRange,
}

/// One request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
    /// Bytes of the body that were sent.
    pub(crate) sent: usize,
}

/// The server; its thread ends with the test's process.
pub(crate) struct Server {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    pages: Arc<Mutex<BTreeMap<String, Page>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pages = Arc::new(Mutex::new(BTreeMap::new()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (of_pages, of_asked) = (Arc::clone(&pages), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, asked) = (Arc::clone(&of_pages), Arc::clone(&of_asked));
                std::thread::spawn(move || answer(&stream, &pages, &asked));
            }
        });
        Self { url, pages, asked }
    }

    /// Puts a page at a path, which starts with a slash, and gives its whole address.
    pub(crate) fn put(&self, path: &str, page: Page) -> String {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
        format!("{}{path}", self.url)
    }

    /// Puts a file with a tag and ranges.
    pub(crate) fn file(&self, path: &str, body: impl Into<Vec<u8>>) -> String {
        let etag = Some("\"one\"".to_owned());
        self.put(path, Page { body: body.into(), etag, ranges: true, trouble: Vec::new() })
    }

    /// Lets the next requests of a path go wrong.
    pub(crate) fn trouble(&self, path: &str, trouble: impl IntoIterator<Item = Trouble>) {
        self.pages.lock().unwrap().get_mut(path).unwrap().trouble = trouble.into_iter().collect();
    }

    /// The requests so far, which are forgotten.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Bytes of bodies that were sent so far.
    pub(crate) fn sent(&self) -> usize {
        self.asked.lock().unwrap().iter().map(|asked| asked.sent).sum()
    }
}

fn answer(
    mut stream: &TcpStream,
    pages: &Mutex<BTreeMap<String, Page>>,
    asked: &Mutex<Vec<Asked>>,
) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let path = lines[0].split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        lines.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let (range, if_range) = (header("range"), header("if-range"));
    let (page, trouble) = {
        let mut pages = pages.lock().unwrap();
        let Some(page) = pages.get_mut(&path) else {
            let _ = stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
            return;
        };
        let trouble = (!page.trouble.is_empty()).then(|| page.trouble.remove(0));
        (page.clone(), trouble)
    };
    let fits = if_range.is_none() || if_range == page.etag;
    let start = range
        .as_deref()
        .filter(|_| page.ranges && fits)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let mut head = String::new();
    let mut body = &page.body[..];
    match (&trouble, start) {
        (Some(Trouble::Status(status)), _) => {
            let _ = write!(head, "HTTP/1.1 {status} No\r\n");
            body = &[];
        }
        (Some(Trouble::Redirect(to)), _) => {
            let _ = write!(head, "HTTP/1.1 302 Found\r\nLocation: {to}\r\n");
            body = &[];
        }
        (Some(Trouble::NoRange), Some(_)) => {
            head.push_str("HTTP/1.1 416 Range Not Satisfiable\r\n");
            body = &[];
        }
        (_, Some(start)) if start < body.len() => {
            let (end, total) = (body.len() - 1, body.len());
            let _ = write!(
                head,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{end}/{total}\r\n"
            );
            body = &body[start..];
        }
        (_, Some(_)) => {
            head.push_str("HTTP/1.1 416 Range Not Satisfiable\r\n");
            body = &[];
        }
        _ => head.push_str("HTTP/1.1 200 OK\r\n"),
    }
    if let Some(etag) = &page.etag {
        let _ = write!(head, "ETag: {etag}\r\n");
    }
    let _ = write!(head, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let cut = match trouble {
        Some(Trouble::HangUp(len) | Trouble::Stall(len)) => len.min(body.len()),
        _ => body.len(),
    };
    // Noted before it is sent, so that a test that has read it all finds it here.
    asked.lock().unwrap().push(Asked { path, range, if_range, sent: cut });
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body[..cut]);
    if let Some(Trouble::Stall(_)) = trouble {
        std::thread::sleep(Duration::from_secs(5));
    }
}
