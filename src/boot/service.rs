//! The metadata service: one connection of HTTP, answered from a table.
//!
//! It speaks to a guest, which may say anything: what it reads is bounded, and an answer depends on
//! nothing but the path. Source: RFC 9112.

use std::io::{self, BufRead, Read, Write};

use super::Instance;
use super::instance::listing;

/// Longest line of a request, in bytes.
const MAX_LINE: u64 = 8 << 10;
/// Most header lines of a request.
const MAX_HEADERS: usize = 64;
/// Longest body of a request that is read past, in bytes.
const MAX_BODY: u64 = 64 << 10;
/// Most requests on one connection.
const MAX_REQUESTS: usize = 1000;

/// What a request asks for.
struct Request {
    method: String,
    path: String,
    /// Whether the connection ends behind it.
    last: bool,
}

/// Answers the requests of one connection until its end.
///
/// # Errors
/// Where the connection breaks.
pub fn serve(
    instance: &Instance,
    mut input: impl BufRead,
    mut output: impl Write,
) -> io::Result<()> {
    let paths = instance.service();
    for _ in 0..MAX_REQUESTS {
        let Request { method, path, last } = match read(&mut input)? {
            Next::Request(request) => request,
            Next::None => return Ok(()),
            Next::Nonsense => return answer(&mut output, "400 Bad Request", b"", true, true),
        };
        let (with_body, known) = (method != "HEAD", ["GET", "HEAD"].contains(&method.as_str()));
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let found = paths.get(path.trim_end_matches('/')).cloned();
        match found.or_else(|| listing(&paths, path)) {
            // Nova has no tokens of EC2's second version, and answers so.
            _ if !known => answer(&mut output, "405 Method Not Allowed", b"", last, with_body)?,
            Some(body) => answer(&mut output, "200 OK", &body, last, with_body)?,
            None => answer(&mut output, "404 Not Found", b"", last, with_body)?,
        }
        if last {
            return Ok(());
        }
    }
    Ok(())
}

/// One line without its end; `None` at the end of the connection or where it is too long.
fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    input.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned()))
}

/// What comes next on a connection.
enum Next {
    Request(Request),
    /// The end.
    None,
    /// What is no request.
    Nonsense,
}

fn read(input: &mut impl BufRead) -> io::Result<Next> {
    let Some(first) = line(input)? else { return Ok(Next::None) };
    let mut words = first.split(' ');
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Ok(Next::Nonsense);
    };
    let mut last = version != "HTTP/1.1";
    let mut length = 0;
    for _ in 0..MAX_HEADERS {
        let Some(header) = line(input)? else { return Ok(Next::None) };
        if header.is_empty() {
            // What is left unread of a longer one would be taken for a request.
            last |= length > MAX_BODY;
            io::copy(&mut input.take(length.min(MAX_BODY)), &mut io::sink())?;
            return Ok(Next::Request(Request { method: method.into(), path: path.into(), last }));
        }
        let (name, value) = header.split_once(':').unwrap_or_default();
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("connection", value) => last = value.eq_ignore_ascii_case("close"),
            ("content-length", value) => length = value.parse().unwrap_or(u64::MAX),
            ("transfer-encoding", _) => length = u64::MAX,
            _ => {}
        }
    }
    Ok(Next::Nonsense)
}

fn answer(
    output: &mut impl Write,
    status: &str,
    body: &[u8],
    last: bool,
    with_body: bool,
) -> io::Result<()> {
    let connection = if last { "close" } else { "keep-alive" };
    let kind = if body.starts_with(b"{") { "application/json" } else { "text/plain" };
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=UTF-8\r\n\
         Content-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if with_body {
        bytes.extend_from_slice(body);
    }
    output.write_all(&bytes)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::super::instance::tests::instance;
    use super::*;
    use crate::recipe::MetadataSource;

    fn said(requests: &[u8]) -> String {
        let mut output = Vec::new();
        serve(&instance(MetadataSource::Service), requests, &mut output).unwrap();
        String::from_utf8_lossy(&output).into_owned()
    }

    #[test]
    fn a_connection_is_answered_until_its_end() {
        let said = said(
            b"GET /latest/meta-data/hostname HTTP/1.1\r\nHost: x\r\n\r\n\
              HEAD /openstack/ HTTP/1.1\r\n\r\n\
              PUT /latest/api/token HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
              GET /nothing?x HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        );
        let statuses: Vec<_> = said.lines().filter(|line| line.starts_with("HTTP/")).collect();
        assert_eq!(statuses.len(), 3, "{said}");
        assert!(said.contains("clone-1.novalocalHTTP/1.1 200 OK"), "{said}");
        assert!(said.contains("405"), "{said}");
        assert!(said.trim_end().ends_with("Connection: close"), "{said}");
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        assert!(said(b"hello\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert_eq!(said(&vec![b'a'; 100_000]), "");
        let long = [b"GET / HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(1000)].concat();
        assert!(said(&long).starts_with("HTTP/1.1 400"));
        let huge =
            said(b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(huge.matches("HTTP/1.1 200").count(), 1);
    }
}
