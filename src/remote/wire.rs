//! HTTP as remotes speak it: every answer bounded, every redirect looked at, every fault of a kind.
//!
//! It knows requests and answers, not what they are about. A server is believed nothing: a body ends
//! where its bound is, a range that was not asked for is cut out of what came, and text of a server
//! is shown only with its control characters escaped and its length bounded.
//!
//! A redirect within one server is followed. To another one goes only what holds no credentials, and
//! never from `https` to anything else.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport};
use reqwest::header::{HeaderMap, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use super::backend::MAX_BLOB;
use super::call::{Fault, Patience};

/// Longest body in bytes of an answer that is neither a blob nor a record.
pub(super) const MAX_TEXT: u64 = 1 << 20;
/// Bytes of a server's own words that are shown.
const MAX_SHOWN: usize = 300;
/// Longest time that a server may ask to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How often a server may send elsewhere.
const MAX_REDIRECTS: usize = 5;

/// Where a server may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    /// To itself only: headers hold credentials that the client does not know as such.
    Within,
    /// Anywhere; credentials stay behind.
    Anywhere,
}

/// A client of one remote.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    client: Client,
}

/// An answer with its whole body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What a server said beside what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("it answered with status {status}{}", shown(text))]
pub(super) struct Said {
    status: u16,
    text: String,
}

/// A body that is longer than anything that could be right.
#[derive(Debug, thiserror::Error)]
#[error("its answer is longer than {0} bytes")]
struct TooLong(u64);

/// An error of `reqwest`, whose address is gone from it: it may hold a signature.
#[derive(Debug, thiserror::Error)]
#[error("the connection failed")]
struct Broken(#[source] reqwest::Error);

tokio::task_local! {
    /// What the last answer of a try said, which errors of `opendal` do not keep.
    static SEEN: Cell<Seen>;
}

/// The status of an answer, and how long the server asks to wait.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) status: Option<StatusCode>,
    pub(super) wait: Option<Duration>,
}

/// Does something, and tells with it what the last server that took part said.
pub(super) async fn watched<T>(work: impl Future<Output = T>) -> (T, Seen) {
    SEEN.scope(Cell::default(), async {
        let done = work.await;
        (done, SEEN.with(Cell::get))
    })
    .await
}

impl Wire {
    /// A client.
    ///
    /// # Errors
    /// Where TLS has no certificates to start with, or the environment names a proxy that is none.
    pub(super) fn new(patience: &Patience, redirects: Redirects) -> Result<Self, reqwest::Error> {
        static PROVIDER: Once = Once::new();
        // Another provider that is installed already does as well.
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let client = Client::builder()
            .connect_timeout(patience.connect)
            .read_timeout(patience.idle)
            .redirect(policy(redirects))
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client })
    }

    /// The client, to make a request with.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a request, and reads an answer of at most `limit` bytes, of any status.
    ///
    /// # Errors
    /// Where no whole answer comes.
    pub(super) async fn send(request: RequestBuilder, limit: u64) -> Result<Answer, Fault> {
        let response = request.send().await.map_err(broken)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let limit = if status.is_success() { limit } else { MAX_TEXT };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(Fault::Damaged);
        }
        let mut body = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(broken)?;
            if (body.len() + piece.len()) as u64 > limit {
                return Err(Fault::Damaged);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, headers, body })
    }
}

impl Answer {
    /// The fault that an answer of no use is.
    pub(super) fn fault(&self) -> Fault {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let said = Box::new(Said { status: self.status.as_u16(), text });
        kind_of(self.status, retry_after(&self.headers), said)
    }
}

/// The fault that a status is, with its cause.
pub(super) fn kind_of(
    status: StatusCode,
    wait: Option<Duration>,
    cause: Box<dyn Error + Send + Sync>,
) -> Fault {
    match status.as_u16() {
        404 | 410 => Fault::Absent(cause),
        401 | 403 | 407 => Fault::Refused(cause),
        // Of two conditional writes at once S3 tells one to come again.
        409 => Fault::Passing(cause, wait),
        412 => Fault::Condition(cause),
        416 => Fault::Damaged,
        501 | 505 => Fault::Lasting(cause),
        408 | 425 | 429 | 499 | 500.. => Fault::Passing(cause, wait),
        _ => Fault::Lasting(cause),
    }
}

/// The fault that an error of the connection is.
fn broken(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    if error.is_timeout() && !error.is_connect() {
        return Fault::Silent;
    }
    let lasting = error.is_builder() || error.is_redirect();
    let cause = Box::new(Broken(error));
    if lasting { Fault::Lasting(cause) } else { Fault::Passing(cause, None) }
}

/// How long a server asks to wait. A date is not understood, and is no reason to wait longer.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Text from outside for people: no control characters, and not all of it where it is long.
fn shown(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let mut shown: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    format!(": {shown}")
}

fn policy(redirects: Redirects) -> Policy {
    Policy::custom(move |attempt| {
        let Some(from) = attempt.previous().last() else { return attempt.stop() };
        let to = attempt.url();
        let within = from.origin() == to.origin();
        let safe = to.scheme() == "https" || from.scheme() == "http" && to.scheme() == "http";
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("the server has sent elsewhere too often")
        } else if within || redirects == Redirects::Anywhere && safe {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

impl HttpTransport for Wire {
    async fn fetch(
        &self,
        request: http::Request<Buffer>,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let wanted = wanted_range(&parts.headers);
        let is_head = parts.method == http::Method::HEAD;
        let mut builder = self.client.request(parts.method, &url).headers(parts.headers);
        if !body.is_empty() {
            builder = builder.body(body.to_bytes());
        }
        let response = builder.send().await.map_err(failed)?;
        let seen = Seen { status: Some(response.status()), wait: retry_after(response.headers()) };
        // Whoever asks for credentials on a thread of its own is not watched.
        let _ = SEEN.try_with(|cell| cell.set(seen));
        Ok(bounded(response, wanted, is_head, parts.uri))
    }
}

/// An answer whose body ends at its bound. Where the server has sent all of a file in place of a
/// range, the range is cut out.
fn bounded(
    mut response: Response,
    wanted: Option<Range<u64>>,
    is_head: bool,
    uri: http::Uri,
) -> http::Response<HttpBody> {
    let status = response.status();
    let limit = if status.is_success() { MAX_BLOB + MAX_TEXT } else { MAX_TEXT };
    let encoded = response.headers().contains_key(http::header::CONTENT_ENCODING);
    let length = response.content_length().filter(|_| !is_head && !encoded);
    let cut = wanted.filter(|_| status == StatusCode::OK && !is_head);
    let size = match &cut {
        Some(range) => length.map(|length| length.min(range.end).saturating_sub(range.start)),
        None => length,
    };
    let mut answer = http::Response::new(());
    *answer.status_mut() = status;
    std::mem::swap(answer.headers_mut(), response.headers_mut());
    answer.extensions_mut().insert(uri);
    let pieces = Bounded {
        pieces: Box::pin(response.bytes_stream()),
        at: 0,
        limit,
        cut: cut.unwrap_or(0..u64::MAX),
    };
    answer.map(|()| HttpBody::new(pieces, size))
}

/// The range that a request asks for.
fn wanted_range(headers: &HeaderMap) -> Option<Range<u64>> {
    let range = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    let (start, last) = range.split_once('-')?;
    let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    Some(start.parse().ok()?..last.saturating_add(1))
}

/// The pieces of a body that lie in a range, up to a bound.
struct Bounded {
    pieces: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send + Sync>>,
    at: u64,
    limit: u64,
    cut: Range<u64>,
}

impl Stream for Bounded {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.at >= self.cut.end {
                return Poll::Ready(None);
            }
            let piece = match futures::ready!(self.pieces.poll_next_unpin(cx)) {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Poll::Ready(Some(Err(failed(error)))),
                None => return Poll::Ready(None),
            };
            let here = self.at..self.at + piece.len() as u64;
            self.at = here.end;
            if here.end > self.limit {
                let error = opendal::Error::new(ErrorKind::Unexpected, "the answer has no end");
                return Poll::Ready(Some(Err(error.set_source(TooLong(self.limit)))));
            }
            let inside = here.start.max(self.cut.start)..here.end.min(self.cut.end);
            if inside.start < inside.end {
                // Both lie in the piece, whose length is a `usize`.
                let within = |at: u64| usize::try_from(at - here.start).unwrap_or(piece.len());
                let part = piece.slice(within(inside.start)..within(inside.end));
                return Poll::Ready(Some(Ok(Buffer::from(part))));
            }
        }
    }
}

/// An error of the connection as `opendal` passes it on; [`cause_of`] finds it again.
fn failed(error: reqwest::Error) -> opendal::Error {
    let error = error.without_url();
    opendal::Error::new(ErrorKind::Unexpected, "the connection failed").set_source(error)
}

/// The fault that an error of `opendal` is, with what the server said last.
pub(super) fn fault_of(error: opendal::Error, seen: Seen) -> Fault {
    let connection = Error::source(&error).and_then(find::<reqwest::Error>);
    if connection.is_some_and(|error| error.is_timeout() && !error.is_connect()) {
        return Fault::Silent;
    }
    if Error::source(&error).and_then(find::<TooLong>).is_some() {
        return Fault::Damaged;
    }
    let passing = connection.is_some_and(|error| !error.is_builder() && !error.is_redirect());
    let (kind, temporary) = (error.kind(), error.is_temporary());
    let cause = Box::new(Store(error));
    match (seen.status.filter(|status| !status.is_success()), kind) {
        _ if passing => Fault::Passing(cause, None),
        (Some(status), _) => kind_of(status, seen.wait, cause),
        (None, ErrorKind::NotFound) => Fault::Absent(cause),
        (None, ErrorKind::PermissionDenied) => Fault::Refused(cause),
        (None, ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists) => Fault::Condition(cause),
        (None, ErrorKind::RangeNotSatisfied) => Fault::Damaged,
        (None, _) if temporary => Fault::Passing(cause, None),
        (None, _) => Fault::Lasting(cause),
    }
}

/// An error of `opendal`, shown without its addresses and headers, which may hold signatures.
#[derive(Debug)]
struct Store(opendal::Error);

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.kind(), shown(self.0.message()))
    }
}

impl Error for Store {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// An error of some type among an error and its causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        at = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_quoted_briefly_and_without_control_characters() {
        assert_eq!(shown("  "), "");
        assert_eq!(shown("no\u{1b}[31m\r\n"), ": no\\u{1b}[31m");
        let long = shown(&"x".repeat(1 << 20));
        assert_eq!(long.chars().count(), MAX_SHOWN + 3);
    }

    #[test]
    fn a_status_is_one_kind_of_fault() {
        let kind = |status| {
            let status = StatusCode::from_u16(status).unwrap();
            kind_of(status, None, "said".into())
        };
        assert!(matches!(kind(404), Fault::Absent(_)));
        assert!(matches!(kind(401), Fault::Refused(_)));
        assert!(matches!(kind(403), Fault::Refused(_)));
        assert!(matches!(kind(412), Fault::Condition(_)));
        assert!(matches!(kind(416), Fault::Damaged));
        for passing in [408, 409, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(kind(passing), Fault::Passing(..)), "{passing}");
        }
        for lasting in [301, 307, 400, 405, 501] {
            assert!(matches!(kind(lasting), Fault::Lasting(_)), "{lasting}");
        }
    }

    #[test]
    fn a_wait_is_taken_in_seconds_and_bounded() {
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn a_range_is_read_as_it_was_asked() {
        let range = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().unwrap());
            wanted_range(&headers)
        };
        assert_eq!(range("bytes=2-5"), Some(2..6));
        assert_eq!(range("bytes=2-"), Some(2..u64::MAX));
        assert_eq!(range("lines=2-5"), None);
    }
}
