//! HTTP as `opendal` wants it, and its errors as faults.
//!
//! It knows the bodies of answers as they come. Of a server that answers with all of a file where a
//! range was asked for, the range is cut out. What errors of `opendal` leave out, the status and the
//! wish to wait, is noted beside them.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport};
use reqwest::header::{CONTENT_ENCODING, HeaderMap, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::backend::MAX_BLOB;
use crate::wire::{Cause, Fault, MAX_TEXT, Wire, kind_of, retry_after, shown};

/// A body that is longer than anything that could be right.
#[derive(Debug, thiserror::Error)]
#[error("its answer is longer than {0} bytes")]
struct TooLong(u64);

tokio::task_local! {
    /// What the last answer of a try said, which errors of `opendal` do not keep.
    static SEEN: Cell<Seen>;
}

/// The status of an answer, and how long the server asks to wait.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    status: Option<StatusCode>,
    wait: Option<Duration>,
}

/// Does something, and tells with it what the last server that took part said.
pub(super) async fn watched<T>(work: impl Future<Output = T>) -> (T, Seen) {
    SEEN.scope(Cell::default(), async {
        let done = work.await;
        (done, SEEN.with(Cell::get))
    })
    .await
}

impl HttpTransport for Wire {
    async fn fetch(
        &self,
        request: http::Request<Buffer>,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let wanted = wanted_range(&parts.headers);
        let is_head = parts.method == Method::HEAD;
        let mut builder = self.client().request(parts.method, &url).headers(parts.headers);
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
    let encoded = response.headers().contains_key(CONTENT_ENCODING);
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
    let cause = cause(error);
    match (seen.status, kind) {
        _ if passing => Fault::Passing(cause, None),
        // Stores differ in the status that says so.
        (_, ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists) => Fault::Condition(cause),
        // It came whole, and is still not what was asked for: too short, or in no known form.
        (Some(status), _) if status.is_success() && !temporary => Fault::Damaged,
        (Some(status), _) if !status.is_success() => kind_of(status, seen.wait, cause),
        (_, ErrorKind::NotFound) => Fault::Absent(cause),
        (_, ErrorKind::PermissionDenied) => Fault::Refused(cause),
        (_, ErrorKind::RangeNotSatisfied) => Fault::Damaged,
        _ if temporary => Fault::Passing(cause, None),
        _ => Fault::Lasting(cause),
    }
}

/// An error of `opendal` as a cause that may be shown.
pub(super) fn cause(error: opendal::Error) -> Cause {
    Box::new(Store(error))
}

/// An error of `opendal`, shown without its addresses and headers, which may hold signatures.
struct Store(opendal::Error);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

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
