//! Strings of KDL 2: quoted and raw, of one line and of several.
//!
//! Finds where a string ends and what is wrong inside it; what it says is for kdl's parser.

use super::{Kind, Scanner, is_banned, is_newline, is_space};

impl Scanner<'_> {
    pub(super) fn quoted(&mut self, start: usize) -> Kind {
        if self.rest().starts_with("\"\"\"") {
            return self.quoted_lines(start);
        }
        self.at += 1;
        let before = self.faults.len();
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return if self.faults.len() == before { Kind::Word } else { Kind::Bad };
                }
                Some('\\') => self.escape(),
                Some(c) if !is_newline(c) => self.character(c),
                _ => {
                    return self.fault(
                        (start, self.at),
                        "kiln::parse::unclosed_string",
                        "this string is not closed on its line",
                        "close it with `\"`; a text of several lines stands between `\"\"\"` and \
                         `\"\"\"`",
                    );
                }
            }
        }
    }

    fn character(&mut self, c: char) {
        let start = self.at;
        self.at += c.len_utf8();
        if is_banned(c) {
            self.fault(
                (start, self.at),
                "kiln::parse::character",
                "an invisible control character stands here",
                "remove it; inside a quoted string it can be written as `\\u{…}`",
            );
        }
    }

    /// An escape in a quoted string, from its backslash on.
    fn escape(&mut self) {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some('\\' | '"' | 'b' | 'f' | 'n' | 'r' | 't' | 's') => self.at += 1,
            Some('u') => {
                self.at += 1;
                let rest = self.rest();
                let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let digits = inside.map(|(digits, _)| digits).filter(|digits| {
                    (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
                });
                let scalar = digits
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .and_then(char::from_u32);
                match (digits, scalar) {
                    (Some(digits), Some(_)) => self.at += digits.len() + 2,
                    _ => {
                        self.fault(
                            (start, self.at),
                            "kiln::parse::escape",
                            "this escape names no character",
                            "write one to six hexadecimal digits: `\\u{e4}`",
                        );
                    }
                }
            }
            Some(c) if is_space(c) || is_newline(c) => {
                self.skip_while(|c| is_space(c) || is_newline(c));
            }
            _ => {
                self.fault(
                    (start, self.at),
                    "kiln::parse::escape",
                    "there is no such escape",
                    "write `\\\\` for a backslash, or use a raw string: #\"…\"#",
                );
            }
        }
    }

    /// Reports an opening `"""` that has no closing one, and goes on behind it.
    fn unclosed_lines(&mut self, start: usize, opening: usize) -> Kind {
        self.at = self.text.len();
        self.fault(
            (start, start + opening),
            "kiln::parse::unclosed_string",
            "this text of several lines is never closed",
            "close it with the same quotes and `#`s, on a line of their own",
        )
    }

    fn opening_line(&mut self, start: usize) -> bool {
        if self.peek().is_some_and(is_newline) {
            self.skip_newline();
            return true;
        }
        let end = self.at;
        // What was meant is plain enough: the text goes on to the next three quotes.
        let rest = self.rest();
        self.at += rest.find("\"\"\"").map_or(rest.len(), |quotes| quotes + 3);
        self.skip_while(|c| c == '#');
        self.fault(
            (start, end),
            "kiln::parse::text_lines",
            "a text of several lines starts on the line after its `\"\"\"`",
            "put a line break right behind the quotes, and the closing ones on a line of their own",
        );
        false
    }

    fn quoted_lines(&mut self, start: usize) -> Kind {
        let before = self.faults.len();
        self.at += 3;
        if !self.opening_line(start) {
            return Kind::Bad;
        }
        let mut lines = Vec::new();
        loop {
            let line = self.at;
            self.skip_while(is_space);
            let indent = &self.text[line..self.at];
            if self.rest().starts_with("\"\"\"") {
                self.at += 3;
                self.indents(&lines, indent);
                return if self.faults.len() == before { Kind::Word } else { Kind::Bad };
            }
            let mut rest = self.rest().chars();
            let blank = rest.clone().next().is_none_or(is_newline);
            if rest.next() == Some('\\')
                && rest.next().is_some_and(|c| is_space(c) || is_newline(c))
            {
                self.fault(
                    (self.at, self.at + 1),
                    "kiln::parse::escape",
                    "a line of a text may not start with an escaped space",
                    "write the text without the backslash",
                );
            }
            if !blank {
                lines.push((line, indent));
            }
            loop {
                match self.peek() {
                    None => return self.unclosed_lines(start, 3),
                    Some('\\') => self.escape(),
                    Some('"') if self.rest().starts_with("\"\"\"") => {
                        self.at += 3;
                        return self.closing_line();
                    }
                    Some(c) if is_newline(c) => break,
                    Some(c) => self.character(c),
                }
            }
            self.skip_newline();
        }
    }

    fn closing_line(&mut self) -> Kind {
        self.fault(
            (self.at - 3, self.at),
            "kiln::parse::text_lines",
            "the closing quotes must stand on a line of their own",
            "put a line break before them; three quotes inside the text are written `\\\"\"\"`",
        )
    }

    /// Every line of a text must start with the spaces that stand before the closing quotes.
    fn indents(&mut self, lines: &[(usize, &str)], indent: &str) {
        if let Some((line, own)) = lines.iter().find(|(_, own)| !own.starts_with(indent)) {
            self.fault(
                (*line, line + own.len()),
                "kiln::parse::indent",
                "this line is indented less than the closing quotes of its text",
                "indent every line by at least the same spaces as the closing quotes",
            );
        }
    }

    pub(super) fn raw(&mut self, start: usize, hashes: &str) -> Kind {
        if self.rest().starts_with("\"\"\"") && !self.rest()[3..].starts_with(hashes) {
            return self.raw_lines(start, hashes);
        }
        let before = self.faults.len();
        self.at += 1;
        let body = self.at;
        loop {
            match self.peek() {
                Some('"') if self.rest()[1..].starts_with(hashes) => {
                    let single_quote = &self.text[body..self.at] == "\"";
                    self.at += 1 + hashes.len();
                    if single_quote {
                        return self.fault(
                            (start, self.at),
                            "kiln::parse::text_lines",
                            "a raw string of one quote looks like the start of a longer text",
                            "write \"\\\"\"",
                        );
                    }
                    return if self.faults.len() == before { Kind::Word } else { Kind::Bad };
                }
                Some(c) if !is_newline(c) => self.character(c),
                _ => {
                    return self.fault(
                        (start, self.at),
                        "kiln::parse::unclosed_string",
                        "this raw string is not closed on its line",
                        "close it with `\"` and as many `#` as before it; a text of several lines \
                         stands between `#\"\"\"` and `\"\"\"#`",
                    );
                }
            }
        }
    }

    fn raw_lines(&mut self, start: usize, hashes: &str) -> Kind {
        let before = self.faults.len();
        self.at += 3;
        let opening = self.at - start;
        if !self.opening_line(start) {
            return Kind::Bad;
        }
        let closes =
            |rest: &str| rest.strip_prefix("\"\"\"").is_some_and(|rest| rest.starts_with(hashes));
        let mut lines = Vec::new();
        loop {
            let line = self.at;
            self.skip_while(is_space);
            let indent = &self.text[line..self.at];
            if closes(self.rest()) {
                self.at += 3 + hashes.len();
                self.indents(&lines, indent);
                return if self.faults.len() == before { Kind::Word } else { Kind::Bad };
            }
            if !self.peek().is_none_or(is_newline) {
                lines.push((line, indent));
            }
            loop {
                match self.peek() {
                    None => return self.unclosed_lines(start, opening),
                    Some('"') if closes(self.rest()) => {
                        self.at += 3;
                        let kind = self.closing_line();
                        self.at += hashes.len();
                        return kind;
                    }
                    Some(c) if is_newline(c) => break,
                    Some(c) => self.character(c),
                }
            }
            self.skip_newline();
        }
    }
}
