//! One request and its reply.
//!
//! A thread of its own talks to the server, so that the user can end the waiting at any moment; the
//! limits on time end that thread.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::{Client, FetchError, join};

/// How often a server may send elsewhere.
const MAX_REDIRECTS: usize = 10;
/// Bytes that are passed on at a time, and how many such pieces may wait.
const PIECE: usize = 1 << 18;
const WAITING: usize = 8;

/// What comes before the body.
pub(super) struct Head {
    pub(super) status: u16,
    /// Bytes of this body.
    pub(super) length: Option<u64>,
    /// Where a part starts in the whole file.
    pub(super) range_start: Option<u64>,
    /// The strong tag of this version of the file.
    pub(super) etag: Option<String>,
    location: Option<String>,
}

/// A reply whose body is still to come.
pub(super) struct Reply<'a> {
    url: String,
    pub(super) head: Head,
    came: u64,
    pieces: Pieces<'a>,
}

enum Message {
    Head(Head),
    Piece(Vec<u8>),
    Failed(ureq::Error),
    End,
}

/// What the thread sends.
struct Pieces<'a> {
    receiver: Receiver<Message>,
    client: Client<'a>,
}

impl<'a> Client<'a> {
    /// Asks for a file, wherever servers send, but never from `https` to anything else.
    pub(super) fn get(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Reply<'a>, FetchError> {
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let reply = self.get_once(&at, headers)?;
            let to = match (reply.head.status, &reply.head.location) {
                (301 | 302 | 303 | 307 | 308, Some(to)) => join(&at, to),
                _ => return Ok(Reply { url: url.to_owned(), ..reply }),
            };
            let refuse = |why| {
                let (url, to) = (url.to_owned(), to.clone());
                Err(FetchError::Redirect { url, to, why })
            };
            if !to.starts_with("https://") && !to.starts_with("http://") {
                return refuse("only `https` and `http` are followed");
            }
            if at.starts_with("https://") && !to.starts_with("https://") {
                return refuse("a secure address must not lead to an insecure one");
            }
            at = to;
        }
        let why = "the server has sent elsewhere too often";
        Err(FetchError::Redirect { url: url.to_owned(), to: at, why })
    }

    fn get_once(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Reply<'a>, FetchError> {
        if !url.starts_with("https://") && !url.starts_with("http://") {
            let why = "only `https` and `http` are";
            return Err(FetchError::Url { url: url.to_owned(), why });
        }
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::spawn(move || talk(request, &sender));
        let mut pieces = Pieces { receiver, client: self.clone() };
        match pieces.next(url)? {
            Message::Head(head) => Ok(Reply { url: url.to_owned(), head, came: 0, pieces }),
            Message::Failed(error) => Err(failed(url, self.patience.stall, error)),
            Message::Piece(_) | Message::End => unreachable!("the head comes first"),
        }
    }
}

/// Sends the request, and passes on what comes until nobody wants it any more.
fn talk(request: ureq::RequestBuilder<ureq::typestate::WithoutBody>, sender: &SyncSender<Message>) {
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => {
            let _ = sender.send(Message::Failed(error));
            return;
        }
    };
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let start = |range: &str| {
        let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
        start.trim().parse().ok()
    };
    let head = Head {
        status: response.status().as_u16(),
        length: header("content-length").and_then(|length| length.trim().parse().ok()),
        range_start: header("content-range").and_then(start),
        etag: header("etag").filter(|tag| tag.starts_with('"')).map(str::to_owned),
        location: header("location").map(str::to_owned),
    };
    if sender.send(Message::Head(head)).is_err() {
        return;
    }
    let mut body = response.into_body().into_reader();
    loop {
        let mut piece = vec![0; PIECE];
        let message = match body.read(&mut piece) {
            Ok(0) => Message::End,
            Ok(read) => {
                piece.truncate(read);
                Message::Piece(piece)
            }
            Err(error) => Message::Failed(error.into()),
        };
        let last = !matches!(message, Message::Piece(_));
        if sender.send(message).is_err() || last {
            return;
        }
    }
}

impl Pieces<'_> {
    fn next(&mut self, url: &str) -> Result<Message, FetchError> {
        const GLANCE: Duration = Duration::from_millis(50);
        // Beyond what the thread itself allows, so that its own error is told first.
        let patience = self.client.patience;
        let end = Instant::now() + patience.connect + patience.stall * 2;
        loop {
            self.client.check()?;
            match self.receiver.recv_timeout(GLANCE) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(_) => {
                    let patience = patience.stall;
                    return Err(FetchError::Stalled { url: url.to_owned(), patience });
                }
            }
        }
    }
}

impl Reply<'_> {
    /// Refuses another status than these.
    pub(super) fn expect(&self, wanted: &[u16]) -> Result<(), FetchError> {
        if wanted.contains(&self.head.status) {
            return Ok(());
        }
        Err(FetchError::Status { url: self.url.clone(), status: self.head.status })
    }

    /// The next piece of the body; `None` at its end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        match self.pieces.next(&self.url)? {
            Message::Piece(piece) => {
                self.came += piece.len() as u64;
                Ok(Some(piece))
            }
            Message::Failed(error) => {
                let error = failed(&self.url, self.pieces.client.patience.stall, error);
                Err(match (self.head.length, error) {
                    // A server that hangs up is told by what is missing.
                    (Some(expected), FetchError::Connection { .. }) if self.came < expected => {
                        self.short(expected)
                    }
                    (_, error) => error,
                })
            }
            Message::End => match self.head.length {
                Some(expected) if self.came < expected => Err(self.short(expected)),
                _ => Ok(None),
            },
            Message::Head(_) => unreachable!("there is one head"),
        }
    }

    fn short(&self, expected: u64) -> FetchError {
        FetchError::Short { url: self.url.clone(), came: self.came, expected }
    }
}

fn failed(url: &str, patience: Duration, error: ureq::Error) -> FetchError {
    use ureq::Timeout::{Connect, Resolve};
    let url = url.to_owned();
    match error {
        ureq::Error::Timeout(Connect | Resolve) => {
            FetchError::Connection { url, source: Box::new(error) }
        }
        ureq::Error::Timeout(_) => FetchError::Stalled { url, patience },
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            FetchError::Url { url, why: "it is no URL" }
        }
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            FetchError::Tls { url, source: Box::new(error) }
        }
        // A handshake that fails comes as an error of the connection.
        ureq::Error::Io(ref io) if io.kind() == std::io::ErrorKind::InvalidData => {
            FetchError::Tls { url, source: Box::new(error) }
        }
        error => FetchError::Connection { url, source: Box::new(error) },
    }
}
