//! What comes over HTTP: small documents as bytes, large files into a directory, checked.
//!
//! It knows URLs, bytes and checksums, not what they mean. `https` is checked against the host's own
//! certificates; `http` is taken where the caller knows what has to come. Nothing of a reply but its
//! status, length, range, tag and body is used. The host's proxies are used.

pub mod checksum;
mod download;
mod http;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use download::{Downloaded, Downloads};

use crate::files::FileError;
use crate::recipe::Checksum;

/// Why something cannot be downloaded.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum FetchError {
    /// The URL is not one that is fetched.
    #[error("`{url}` is not fetched: {why}")]
    #[diagnostic(code(kiln::fetch::url), help("write the whole URL, with `https://`"))]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A proxy cannot be one.
    #[error("`{proxy}` is not a proxy")]
    #[diagnostic(
        code(kiln::fetch::proxy),
        help("write it as `http://HOST:PORT`, in the source or in the environment")
    )]
    Proxy {
        /// What was said.
        proxy: String,
    },
    /// A server sends elsewhere without end, or to where kiln does not go.
    #[error("`{url}` leads to `{to}`: {why}")]
    #[diagnostic(
        code(kiln::fetch::redirect),
        help("name the address that it ends at, if you trust that one")
    )]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it was sent last.
        to: String,
        /// Why it is not followed.
        why: &'static str,
    },
    /// The server does not have it.
    #[error("`{url}`: the server answers with status {status}")]
    #[diagnostic(
        code(kiln::fetch::status),
        help("open the address in a browser; it may have moved")
    )]
    Status {
        /// What was asked for.
        url: String,
        /// What it said.
        status: u16,
    },
    /// The server is not who it says.
    #[error("`{url}`: no secure connection")]
    #[diagnostic(
        code(kiln::fetch::tls),
        help("check the host's clock, and its certificates (package `ca-certificates`)")
    )]
    Tls {
        /// What was asked for.
        url: String,
        /// What failed.
        source: Box<ureq::Error>,
    },
    /// The server cannot be reached, or the connection broke.
    #[error("`{url}`: the connection failed")]
    #[diagnostic(
        code(kiln::fetch::connection),
        help("check the network and the proxies; what came so far is kept")
    )]
    Connection {
        /// What was asked for.
        url: String,
        /// What failed.
        source: Box<ureq::Error>,
    },
    /// Nothing came for too long.
    #[error("`{url}`: nothing came for {} s", patience.as_secs())]
    #[diagnostic(code(kiln::fetch::stalled), help("try again later; what came so far is kept"))]
    Stalled {
        /// What was asked for.
        url: String,
        /// For how long.
        patience: Duration,
    },
    /// The reply ended before its end.
    #[error("`{url}`: the reply ended after {came} of {expected} bytes")]
    #[diagnostic(code(kiln::fetch::short), help("try again later; what came so far is kept"))]
    Short {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        came: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// It is larger than it can be.
    #[error("`{url}` is larger than {limit} bytes")]
    #[diagnostic(code(kiln::fetch::too_large), help("check the address"))]
    TooLarge {
        /// What was asked for.
        url: String,
        /// How large it may be.
        limit: u64,
    },
    /// It is something else.
    #[error("`{url}` is not what it should be\n  wanted {wanted}\n  came   {came}")]
    #[diagnostic(
        code(kiln::fetch::checksum),
        help(
            "the file was thrown away; if its publisher replaced it, look it up anew with `kiln lock --update`, or write the new checksum"
        )
    )]
    Checksum {
        /// What was asked for.
        url: String,
        /// What it should be.
        wanted: Checksum,
        /// What it is.
        came: Checksum,
    },
    /// A file of the host cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The user wants the end.
    #[error("the download was called off")]
    #[diagnostic(code(kiln::fetch::interrupted), help("what came so far is kept"))]
    Interrupted,
}

impl FetchError {
    /// Whether it is the network's or the host's fault, and not that of what was asked for.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        matches!(
            self,
            Self::Connection { .. }
                | Self::Stalled { .. }
                | Self::Short { .. }
                | Self::Tls { .. }
                | Self::Proxy { .. }
                | Self::File(_)
        ) || self.may_pass()
    }

    /// Whether it is worth another try.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Stalled { .. } | Self::Short { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// How long is waited, and how often something is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until the next byte.
    pub stall: Duration,
    /// Before the second try; doubled for each that follows.
    pub pause: Duration,
    /// Tries in a row that bring nothing.
    pub tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            stall: Duration::from_mins(1),
            pause: Duration::from_secs(1),
            tries: 5,
        }
    }
}

/// Which proxy is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProxyUse {
    /// What `http_proxy`, `https_proxy` and `no_proxy` say.
    #[default]
    System,
    /// None.
    No,
    /// This one.
    Url(String),
}

/// Gets what a download tells, a line at a time.
pub type OnLine<'a> = dyn FnMut(&str) + 'a;

/// Asks servers.
#[derive(Clone)]
pub struct Client<'a> {
    agent: ureq::Agent,
    patience: Patience,
    interrupted: &'a AtomicBool,
}

impl<'a> Client<'a> {
    /// A client that gives up when `interrupted` becomes true.
    ///
    /// # Errors
    /// [`FetchError::Proxy`].
    pub fn new(
        proxy: &ProxyUse,
        patience: Patience,
        interrupted: &'a AtomicBool,
    ) -> Result<Self, FetchError> {
        let proxy = match proxy {
            ProxyUse::System => ureq::Proxy::try_from_env(),
            ProxyUse::No => None,
            ProxyUse::Url(url) => {
                let wrong = |_| FetchError::Proxy { proxy: url.clone() };
                Some(ureq::Proxy::new(url).map_err(wrong)?)
            }
        };
        let roots = ureq::tls::RootCerts::PlatformVerifier;
        let config = ureq::Agent::config_builder()
            .tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build())
            .proxy(proxy)
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .build();
        Ok(Self { agent: config.new_agent(), patience, interrupted })
    }

    /// The same with another proxy.
    ///
    /// # Errors
    /// [`FetchError::Proxy`].
    pub fn with_proxy(&self, proxy: &ProxyUse) -> Result<Self, FetchError> {
        Self::new(proxy, self.patience, self.interrupted)
    }

    /// Fetches a document of at most `limit` bytes.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn document(&self, url: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let mut tries = 0;
        loop {
            let error = match self.document_once(url, limit) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            tries += 1;
            if !error.may_pass() || tries >= self.patience.tries {
                return Err(error);
            }
            self.pause(tries)?;
        }
    }

    fn document_once(&self, url: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let mut reply = self.get(url, &[])?;
        reply.expect(&[200])?;
        let mut bytes = Vec::new();
        while let Some(piece) = reply.next()? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limit {
                return Err(FetchError::TooLarge { url: url.to_owned(), limit });
            }
        }
        Ok(bytes)
    }

    /// Waits before another try; `tries` have failed.
    fn pause(&self, tries: u32) -> Result<(), FetchError> {
        const GLANCE: Duration = Duration::from_millis(50);
        let end = Instant::now() + self.wait_before(tries);
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.check()?;
            std::thread::sleep(left.min(GLANCE));
        }
        Ok(())
    }

    fn wait_before(&self, tries: u32) -> Duration {
        self.patience.pause * 2_u32.saturating_pow(tries.saturating_sub(1).min(6))
    }

    fn check(&self) -> Result<(), FetchError> {
        let over = self.interrupted.load(Ordering::SeqCst);
        if over { Err(FetchError::Interrupted) } else { Ok(()) }
    }
}

/// Whether a URL is of a server whose name and bytes nobody on the way can change: `https`, or this
/// very host.
#[must_use]
pub fn is_secure(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return url.starts_with("https://") };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Behind a user, another host would stand than the one that is seen first.
    if host.contains('@') {
        return false;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

/// Whether a URL names a user, and perhaps a password, which have no place in files that are shared.
#[must_use]
pub fn names_a_user(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@'))
}

/// What a relative reference means in a document.
///
/// Source: RFC 3986, section 5.2, without the removal of dots, which servers do as well.
#[must_use]
pub fn join(base: &str, reference: &str) -> String {
    let scheme = base.find("://").map_or(0, |at| at + 3);
    let path = base[scheme..].find(['/', '?', '#']).map_or(base.len(), |at| scheme + at);
    let end = base[path..].find(['?', '#']).map_or(base.len(), |at| path + at);
    let head = reference.split(['/', '?', '#']).next().unwrap_or_default();
    if head.ends_with(':') && reference[head.len()..].starts_with("//") {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{}{reference}", &base[..scheme.saturating_sub(2)])
    } else if reference.starts_with('/') {
        format!("{}{reference}", &base[..path])
    } else if let Some(query) = reference.strip_prefix('?') {
        format!("{}?{query}", &base[..end])
    } else {
        match base[path..end].rfind('/') {
            Some(slash) => format!("{}/{reference}", &base[..path + slash]),
            None => format!("{}/{reference}", &base[..path]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_joined() {
        let base = "https://host.example/a/index.asc?x=/y";
        let joined = |reference| join(base, reference);
        assert_eq!(joined("b.xz"), "https://host.example/a/b.xz");
        assert_eq!(joined("/b"), "https://host.example/b");
        assert_eq!(joined("?z"), "https://host.example/a/index.asc?z");
        assert_eq!(joined("//other.example/b"), "https://other.example/b");
        assert_eq!(joined("http://other.example/b"), "http://other.example/b");
        assert_eq!(
            joined("?u=https://b/x"),
            format!("{}?u=https://b/x", joined("?").trim_end_matches('?'))
        );
        assert_eq!(
            join("https://a.example/b", "/get?u=https://c/x"),
            "https://a.example/get?u=https://c/x"
        );
        assert_eq!(join("https://host.example", "b"), "https://host.example/b");
        assert_eq!(join("https://host.example?q", "b"), "https://host.example/b");
    }

    #[test]
    fn only_this_host_is_trusted_without_tls() {
        for url in
            ["https://a.example/x", "http://127.0.0.1:80/x", "http://localhost/", "http://[::1]:1/"]
        {
            assert!(is_secure(url), "{url}");
        }
        for url in [
            "http://a.example/x",
            "http://127.0.0.1.a.example/",
            "http://localhost.a/",
            "ftp://a",
            "file:///etc",
        ] {
            assert!(!is_secure(url), "{url}");
        }
    }
}
