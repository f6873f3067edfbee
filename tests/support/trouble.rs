//! A server that stands before another one and goes wrong, for everything that speaks HTTP.
//!
//! Requests are passed on byte by byte, and so are answers, unless a rule says what happens to a
//! request in their place. What was asked is kept, with its headers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Longest time that a connection of this server lasts, so that no thread outlives a test for long.
const LIFETIME: Duration = Duration::from_mins(1);

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// It is answered with a status, some headers (`name: value`), and a text.
    Status(u16, &'static str),
    /// It is answered with a status, some headers, and a body.
    Answer(u16, &'static str, String),
    /// It is sent elsewhere with a status.
    Redirect(u16, String),
    /// The connection ends without an answer.
    Gone,
    /// The request is passed on, and its answer is not.
    Mute,
    /// No answer comes.
    Hang,
    /// The answer ends after so many bytes of its body.
    Cut(usize),
    /// The body comes with so many bytes a second.
    Slow(usize),
    /// One byte of the body is another one.
    Flip,
    /// The body is this one, in an answer that is well otherwise.
    Body(Vec<u8>),
    /// The body has no end.
    Endless,
    /// The answer comes after some time.
    Delay(Duration),
    /// The request is passed on without a header.
    Strip(&'static str),
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lowercase.
    pub(crate) headers: Vec<(String, String)>,
    /// Bytes of its body.
    pub(crate) len: usize,
}

impl Asked {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

struct Rule {
    method: String,
    part: String,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    asked: Vec<Asked>,
}

/// The server. It accepts until its process ends.
pub(crate) struct Trouble {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Trouble {
    /// A server before another one, which is at `HOST:PORT`.
    pub(crate) fn before(upstream: &str) -> Self {
        Self::new(Some(upstream.to_owned()))
    }

    /// A server before nothing: what no rule is about is not found.
    pub(crate) fn alone() -> Self {
        Self::new(None)
    }

    fn new(upstream: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, upstream) = (Arc::clone(&shared), upstream.clone());
                thread::spawn(move || serve(&stream, &state, upstream.as_deref()));
            }
        });
        Self { address, state }
    }

    /// From now on this happens to requests of a method (`*` for all) whose path holds a part.
    pub(crate) fn on(&self, method: &str, part: &str, fault: Fault) {
        self.times(usize::MAX, method, part, fault);
    }

    /// This happens to the next of these requests only.
    pub(crate) fn times(&self, times: usize, method: &str, part: &str, fault: Fault) {
        let (method, part) = (method.to_owned(), part.to_owned());
        self.state.lock().unwrap().rules.push(Rule { method, part, times, fault });
    }

    /// From now on all is well.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// The requests since this was asked last.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

impl State {
    fn fate(&mut self, asked: &Asked) -> Option<Fault> {
        let rule = self.rules.iter_mut().find(|rule| {
            let fits = rule.method == "*" || rule.method == asked.method;
            rule.times > 0 && fits && asked.path.contains(&rule.part)
        })?;
        rule.times = rule.times.saturating_sub(1);
        Some(rule.fault.clone())
    }
}

/// Answers one request; the connection ends with it.
fn serve(stream: &TcpStream, state: &Mutex<State>, upstream: Option<&str>) {
    let _ = stream.set_read_timeout(Some(LIFETIME));
    let Ok((head, asked, body)) = read_request(stream) else { return };
    let fate = {
        let mut state = state.lock().unwrap();
        let fate = state.fate(&asked);
        state.asked.push(asked);
        fate
    };
    // Whoever asked may be gone, which is its own affair.
    let strip = if let Some(Fault::Strip(name)) = fate { name } else { "connection" };
    let head = without(&head, strip);
    let _ = answer(stream, fate, || pass_on(upstream, &head, &body));
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(stream: &TcpStream) -> io::Result<(String, Asked, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let mut words = lines.first().map(|line| line.split(' ')).into_iter().flatten();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path) = (word(), word());
    let headers: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let len = headers.iter().find(|(name, _)| name == "content-length");
    let len = len.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let head: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
    Ok((head, Asked { method, path, headers, len }, body))
}

/// A head without one header, and with the wish that the connection ends.
fn without(head: &str, header: &str) -> String {
    let is = |line: &str, name: &str| {
        line.split_once(':').is_some_and(|(known, _)| known.eq_ignore_ascii_case(name))
    };
    let kept = head.lines().filter(|line| !is(line, header) && !is(line, "connection"));
    let mut kept: String = kept.flat_map(|line| [line, "\r\n"]).collect();
    kept.push_str("Connection: close\r\n\r\n");
    kept
}

/// What the other server answers: its head with the empty line, and its body.
fn pass_on(upstream: Option<&str>, head: &str, body: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let Some(upstream) = upstream else {
        return Ok((head_of(404, "Content-Length: 0\r\n"), Vec::new()));
    };
    let mut stream = TcpStream::connect(upstream)?;
    stream.set_read_timeout(Some(LIFETIME))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").map_or(all.len(), |at| at + 4);
    let body = all.split_off(end);
    Ok((all, body))
}

fn head_of(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} So\r\n{headers}Connection: close\r\n\r\n").into_bytes()
}

fn answer(
    mut stream: &TcpStream,
    fate: Option<Fault>,
    pass_on: impl FnOnce() -> io::Result<(Vec<u8>, Vec<u8>)>,
) -> io::Result<()> {
    match fate {
        Some(Fault::Status(status, headers)) => {
            let text = "it \u{1b}[31mfails\u{1b}[0m";
            let headers = format!("{headers}Content-Length: {}\r\n", text.len());
            stream.write_all(&head_of(status, &headers))?;
            return stream.write_all(text.as_bytes());
        }
        Some(Fault::Answer(status, headers, body)) => {
            let headers = format!("{headers}Content-Length: {}\r\n", body.len());
            stream.write_all(&head_of(status, &headers))?;
            return stream.write_all(body.as_bytes());
        }
        Some(Fault::Redirect(status, to)) => {
            let headers = format!("Location: {to}\r\nContent-Length: 0\r\n");
            return stream.write_all(&head_of(status, &headers));
        }
        Some(Fault::Gone) => return Ok(()),
        Some(Fault::Hang) => return wait_for_end(stream),
        Some(Fault::Endless) => {
            stream.write_all(&head_of(200, "Content-Type: text/plain\r\n"))?;
            loop {
                stream.write_all(&[b'x'; 1 << 13])?;
            }
        }
        Some(Fault::Body(body)) => {
            stream.write_all(&head_of(200, &format!("Content-Length: {}\r\n", body.len())))?;
            return stream.write_all(&body);
        }
        Some(Fault::Delay(time)) => thread::sleep(time),
        _ => {}
    }
    let (head, mut body) = pass_on()?;
    if fate == Some(Fault::Mute) {
        return Ok(());
    }
    stream.write_all(&head)?;
    match fate {
        Some(Fault::Cut(len)) => stream.write_all(&body[..len.min(body.len())]),
        Some(Fault::Flip) if !body.is_empty() => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
            stream.write_all(&body)
        }
        Some(Fault::Slow(rate)) => {
            for piece in body.chunks(rate.div_ceil(10)) {
                stream.write_all(piece)?;
                thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        }
        _ => stream.write_all(&body),
    }
}

/// Says nothing until the other side goes.
fn wait_for_end(mut stream: &TcpStream) -> io::Result<()> {
    stream.read(&mut [0]).map(|_| ())
}
