//! Several parts as one MIME message, the way cloud-init takes it apart again.
//!
//! The bytes follow from the parts alone. Sources: RFC 2045 and 2046; cloud-init,
//! `cloudinit/user_data.py`, which reads a message with Python's `email`.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Piece;
use crate::digest::Hasher;

/// Longest line of a message in bytes, without its end (RFC 5322, section 2.1.1).
const LONGEST: usize = 998;
/// Bytes of a line of Base64 (RFC 2045, section 6.8).
const WIDTH: usize = 76;

/// The message.
pub(super) fn message(pieces: &[Piece]) -> String {
    let boundary = boundary(pieces);
    let mut text =
        format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n");
    for piece in pieces {
        let (charset, encoding, body) = match plain(&piece.content) {
            Some(body) => ("us-ascii", "7bit", body.to_owned()),
            None => ("utf-8", "base64", wrapped(&piece.content)),
        };
        // Only texts have a character set.
        let charset = if piece.media_type.starts_with("text/") {
            format!("; charset=\"{charset}\"")
        } else {
            String::new()
        };
        write!(
            text,
            "\n--{boundary}\nContent-Type: {}{charset}\nMIME-Version: 1.0\n\
             Content-Transfer-Encoding: {encoding}\n\
             Content-Disposition: attachment; filename=\"{}\"\n\n{body}",
            piece.media_type, piece.name
        )
        .expect("a string");
    }
    write!(text, "\n--{boundary}--\n").expect("a string");
    text
}

/// The content as it can stand in a message; `None` where it must be encoded. Python reads what is
/// not ASCII as Latin-1, and other control characters may not come through.
pub(super) fn plain(content: &[u8]) -> Option<&str> {
    let fits = |byte: &u8| matches!(byte, b'\n' | b'\t' | b' '..=b'~');
    let short = || content.split(|&byte| byte == b'\n').all(|line| line.len() <= LONGEST);
    if content.is_empty() || !content.iter().all(fits) || !short() {
        return None;
    }
    str::from_utf8(content).ok()
}

fn wrapped(content: &[u8]) -> String {
    let encoded = STANDARD.encode(content);
    let mut text = String::with_capacity(encoded.len() + encoded.len() / WIDTH + 1);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(WIDTH));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text
}

/// A boundary that is in none of the parts.
fn boundary(pieces: &[Piece]) -> String {
    let holds = |piece: &Piece, text: &str| {
        piece.content.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let mut number = 0;
    loop {
        let mut hasher = Hasher::new("kiln 2026 MIME boundary v1");
        hasher.number(number);
        for piece in pieces {
            hasher.bytes(piece.media_type.as_bytes()).bytes(&piece.content);
        }
        let boundary = format!("kiln-{}", hasher.finish().short());
        if !pieces.iter().any(|piece| holds(piece, &boundary)) {
            return boundary;
        }
        number += 1;
    }
}
