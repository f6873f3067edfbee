//! HTTP as remotes and clouds speak it: every answer bounded, every redirect looked at, every fault of a kind.
//!
//! It knows requests and answers, not what they are about. A server is believed nothing: a body ends
//! where its bound is, and text of a server is shown only with its control characters escaped and
//! its length bounded.
//!
//! A redirect within one server is followed. To another one goes only what holds no credentials, and
//! never from `https` to anything else.

mod call;

use std::sync::Once;
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};

pub use call::Patience;
pub(crate) use call::{Cause, Fault, attempt, blocking};

/// Longest body in bytes of an answer that is neither a blob nor a record.
pub(crate) const MAX_TEXT: u64 = 1 << 20;
/// Bytes of a server's own words that are shown.
const MAX_SHOWN: usize = 300;
/// Longest time that a server may ask to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);
/// How often a server may send elsewhere.
const MAX_REDIRECTS: usize = 5;

/// Where a server may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redirects {
    /// To itself only: headers hold credentials that the client does not know as such.
    Within,
    /// Anywhere; credentials stay behind.
    Anywhere,
}

/// Whom a client trusts.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// Certificates in PEM form of authorities beside the host's own.
    pub(crate) authority: Option<Vec<u8>>,
    /// Whether certificates are checked at all.
    pub(crate) verify: bool,
}

/// A client of one server.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    client: Client,
}

/// An answer with its whole body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What a server said beside what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("it answered with status {status}{text}")]
struct Said {
    status: u16,
    /// As it is shown.
    text: String,
}

/// An error of `reqwest`, whose address is gone from it: it may hold a signature.
#[derive(Debug, thiserror::Error)]
#[error("the connection failed")]
struct Broken(#[source] reqwest::Error);

impl Wire {
    /// A client.
    ///
    /// # Errors
    /// Where TLS has no certificates to start with, or the environment names a proxy that is none.
    pub(crate) fn new(patience: &Patience, redirects: Redirects) -> Result<Self, reqwest::Error> {
        Self::trusting(patience, redirects, &Tls { authority: None, verify: true })
    }

    /// A client that trusts others than the host does.
    ///
    /// # Errors
    /// As [`Self::new`], and where what should be certificates is none.
    pub(crate) fn trusting(
        patience: &Patience,
        redirects: Redirects,
        tls: &Tls,
    ) -> Result<Self, reqwest::Error> {
        static PROVIDER: Once = Once::new();
        // Another provider that is installed already does as well.
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut builder = Client::builder()
            .connect_timeout(patience.connect)
            .read_timeout(patience.idle)
            .redirect(policy(redirects))
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")));
        if let Some(authority) = &tls.authority {
            builder = builder.tls_certs_merge(Certificate::from_pem_bundle(authority)?);
        }
        if !tls.verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        Ok(Self { client: builder.build()? })
    }

    /// The client, to make a request with.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a request, and reads an answer of at most `limit` bytes, of any status.
    ///
    /// # Errors
    /// Where no whole answer comes.
    pub(crate) async fn send(request: RequestBuilder, limit: u64) -> Result<Answer, Fault> {
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
    pub(crate) fn fault(&self) -> Fault {
        let text = shown(&String::from_utf8_lossy(&self.body));
        let said = Box::new(Said { status: self.status.as_u16(), text });
        kind_of(self.status, retry_after(&self.headers), said)
    }
}

/// The fault that a status is, with its cause.
pub(crate) fn kind_of(status: StatusCode, wait: Option<Duration>, cause: Cause) -> Fault {
    match status.as_u16() {
        404 | 410 => Fault::Absent(cause),
        401 | 403 | 407 => Fault::Refused(cause),
        412 => Fault::Condition(cause),
        416 => Fault::Damaged,
        501 | 505 => Fault::Lasting(cause),
        // Of two conditional writes at once S3 tells one to come again, with 409.
        408 | 409 | 425 | 429 | 499 | 500.. => Fault::Passing(cause, wait),
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
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Text from outside for people: no control characters, and not all of it where it is long.
pub(crate) fn shown(text: &str) -> String {
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
}
