//! The tokens of KDL 2, found in one pass that keeps no stack.
//!
//! It knows the shape of strings, numbers and comments, and nothing about how tokens may follow
//! one another.

mod strings;

/// What a run of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier or a string of any form.
    Word,
    /// A number.
    Number,
    /// `#true`, `#false`, `#null`, `#inf`, `#-inf` or `#nan`.
    Keyword,
    /// Spaces.
    Space,
    /// A comment or an escaped line end, which count as spaces.
    Comment,
    /// The end of a line.
    Newline,
    /// `{`
    Open,
    /// `}`
    Close,
    /// `=`
    Equals,
    /// `;`
    Semicolon,
    /// `/-`
    SlashDash,
    /// Something that is no token; the fault has been noted.
    Bad,
    /// The end of the text.
    End,
}

/// A token: `text[start..end]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Something that is no token of KDL.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) code: &'static str,
    pub(super) message: &'static str,
    pub(super) help: &'static str,
}

/// How deep comments may nest.
const MAX_COMMENT_DEPTH: usize = 64;
/// Longest number in bytes: every such integer fits the parser's 128 bits.
const MAX_NUMBER: usize = 30;

/// A scanner at some place of a text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    pub(super) faults: Vec<Fault>,
}

pub(super) fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{b}' | '\u{c}' | '\u{2028}' | '\u{2029}')
}

fn is_space(c: char) -> bool {
    matches!(
        c,
        '\t' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

fn is_banned(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{200e}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

fn is_identifier(c: char) -> bool {
    let ends = is_newline(c) || is_space(c) || is_banned(c) || "\\/(){}[];\"#=".contains(c);
    !ends
}

impl<'a> Scanner<'a> {
    /// Starts behind the byte order mark, if there is one.
    pub(super) fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at, faults: Vec::new() }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_while(&mut self, fits: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !fits(c)).unwrap_or(rest.len());
    }

    fn skip_newline(&mut self) {
        if self.rest().starts_with("\r\n") {
            self.at += 2;
        } else if let Some(c) = self.peek().filter(|&c| is_newline(c)) {
            self.at += c.len_utf8();
        }
    }

    fn fault(
        &mut self,
        (start, end): (usize, usize),
        code: &'static str,
        message: &'static str,
        help: &'static str,
    ) -> Kind {
        self.faults.push(Fault { start, end, code, message, help });
        Kind::Bad
    }

    /// The next token; `End` for ever at the end.
    pub(super) fn next(&mut self) -> Token {
        let start = self.at;
        let kind = self.scan(start);
        Token { kind, start, end: self.at }
    }

    fn scan(&mut self, start: usize) -> Kind {
        let Some(c) = self.peek() else { return Kind::End };
        let single = match c {
            '{' => Some(Kind::Open),
            '}' => Some(Kind::Close),
            '=' => Some(Kind::Equals),
            ';' => Some(Kind::Semicolon),
            _ => None,
        };
        if let Some(kind) = single {
            self.at += 1;
            return kind;
        }
        match c {
            '/' => self.slash(start),
            '\\' => self.escaped_line(start),
            '"' => self.quoted(start),
            '#' => self.hash(start),
            _ if is_newline(c) => {
                self.skip_newline();
                Kind::Newline
            }
            _ if is_space(c) => {
                self.skip_while(is_space);
                Kind::Space
            }
            _ if is_identifier(c) => self.bare(start),
            _ => self.stray(start, c),
        }
    }

    fn stray(&mut self, start: usize, c: char) -> Kind {
        self.at += c.len_utf8();
        let place = (start, self.at);
        if c == '(' {
            self.skip_while(|c| c != ')' && !is_newline(c));
            if self.peek() == Some(')') {
                self.at += 1;
            }
            return self.fault(
                (start, self.at),
                "kiln::parse::type_annotation",
                "a type annotation means nothing in a recipe",
                "leave out the parentheses and what is between them, or put the text in quotes",
            );
        }
        if is_banned(c) {
            return self.fault(
                place,
                "kiln::parse::character",
                "an invisible control character stands here",
                "remove it; inside a quoted string it can be written as `\\u{…}`",
            );
        }
        self.fault(
            place,
            "kiln::parse::character",
            "this character may not stand outside a string",
            "put the text in quotes",
        )
    }

    fn slash(&mut self, start: usize) -> Kind {
        let rest = self.rest();
        if rest.starts_with("/-") {
            self.at += 2;
            Kind::SlashDash
        } else if rest.starts_with("//") {
            self.skip_while(|c| !is_newline(c));
            Kind::Comment
        } else if rest.starts_with("/*") {
            self.comment(start)
        } else {
            self.skip_while(|c| is_identifier(c) || c == '/');
            self.fault(
                (start, self.at),
                "kiln::parse::character",
                "`/` may not stand outside a string",
                "put the path in quotes: \"/etc/motd\"",
            )
        }
    }

    fn comment(&mut self, start: usize) -> Kind {
        let mut depth = 0;
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            if rest.starts_with(b"/*") {
                depth += 1;
                self.at += 2;
                if depth > MAX_COMMENT_DEPTH {
                    let place = (self.at - 2, self.at);
                    self.at = self.text.len();
                    return self.fault(
                        place,
                        "kiln::parse::too_deep",
                        "comments nest deeper than 64 levels",
                        "`/*` inside a comment starts another one, which needs its own `*/`",
                    );
                }
            } else if rest.starts_with(b"*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return Kind::Comment;
                }
            } else if rest.is_empty() {
                return self.fault(
                    (start, start + 2),
                    "kiln::parse::unclosed_comment",
                    "this comment is never closed",
                    "close it with `*/`; every `/*` inside it needs one of its own",
                );
            } else {
                // `/`, `*` and every boundary found here are ASCII, so bytes are enough.
                self.at += 1;
            }
        }
    }

    fn escaped_line(&mut self, start: usize) -> Kind {
        self.at += 1;
        loop {
            self.skip_while(is_space);
            if !self.rest().starts_with("/*") {
                break;
            }
            if self.comment(self.at) == Kind::Bad {
                return Kind::Bad;
            }
        }
        if self.rest().starts_with("//") {
            self.skip_while(|c| !is_newline(c));
        }
        if self.peek().is_none_or(is_newline) {
            self.skip_newline();
            return Kind::Comment;
        }
        self.fault(
            (start, start + 1),
            "kiln::parse::character",
            "`\\` outside a string continues a line, but text follows it",
            "put it at the very end of the line, or put the text in quotes",
        )
    }

    fn bare(&mut self, start: usize) -> Kind {
        self.skip_while(is_identifier);
        let word = &self.text[start..self.at];
        let place = (start, self.at);
        let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
        if unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            if is_number(unsigned) && word.len() <= MAX_NUMBER {
                return Kind::Number;
            }
            return self.fault(
                place,
                "kiln::parse::number",
                "this starts like a number but is none",
                "put it in quotes if it is a text, such as \"4G\" or \"0644\"",
            );
        }
        let fraction = unsigned.strip_prefix('.');
        if fraction.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            return self.fault(
                place,
                "kiln::parse::number",
                "a number needs a digit before its point",
                "write `0.5` for a number, or put the text in quotes",
            );
        }
        match word {
            "true" | "false" | "null" | "inf" | "-inf" | "nan" => self.fault(
                place,
                "kiln::parse::keyword",
                "this word is reserved",
                "write `#true`, `#false` or `#null` for the value, or put the word in quotes",
            ),
            _ => Kind::Word,
        }
    }

    fn hash(&mut self, start: usize) -> Kind {
        self.skip_while(|c| c == '#');
        let hashes = &self.text[start..self.at];
        if self.peek() == Some('"') {
            return self.raw(start, hashes);
        }
        self.skip_while(|c| is_identifier(c) || c == '#');
        match &self.text[start..self.at] {
            "#true" | "#false" | "#null" | "#inf" | "#-inf" | "#nan" => Kind::Keyword,
            _ => self.fault(
                (start, self.at),
                "kiln::parse::keyword",
                "there is no such keyword",
                "`#true`, `#false` and `#null` are the keywords; a comment starts with `//`",
            ),
        }
    }
}

/// Whether a text that starts with a digit is a whole number of KDL, without its sign.
fn is_number(text: &str) -> bool {
    let run = |text: &str, fits: fn(&u8) -> bool| {
        let bytes = text.as_bytes();
        bytes.first().is_some_and(fits) && bytes.iter().all(|b| fits(b) || *b == b'_')
    };
    match text.get(..2) {
        Some("0x" | "0X") => return run(&text[2..], u8::is_ascii_hexdigit),
        Some("0o" | "0O") => return run(&text[2..], |b| (b'0'..=b'7').contains(b)),
        Some("0b" | "0B") => return run(&text[2..], |b| (b'0'..=b'1').contains(b)),
        _ => {}
    }
    let digits = |text: &str| run(text, u8::is_ascii_digit);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(mantissa),
    };
    let exponent_fits =
        exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)));
    mantissa_fits && exponent_fits
}
