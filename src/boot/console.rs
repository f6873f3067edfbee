//! What a serial console has shown.

/// Most bytes that are kept, from the start: more is told by a guest that repeats itself.
const LIMIT: usize = 4 << 20;
/// How a kernel's log starts, on every architecture.
const KERNEL: &str = "Linux version ";
/// How cloud-init tells for whom it has written which keys.
const KEYS: &str = "Authorized keys from ";

/// The text of a console, as it grows.
#[derive(Debug, Clone, Default)]
pub struct Console {
    bytes: Vec<u8>,
}

impl Console {
    /// Takes more of it.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = LIMIT.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// All of it; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Whether a text is in it.
    #[must_use]
    pub fn shows(&self, text: &str) -> bool {
        let text = text.as_bytes();
        text.is_empty() || self.bytes.windows(text.len()).any(|window| window == text)
    }

    /// Whether a kernel's log is in it.
    #[must_use]
    pub fn shows_kernel(&self) -> bool {
        self.shows(KERNEL)
    }

    /// Whether somebody could log in there.
    #[must_use]
    pub fn shows_login(&self) -> bool {
        self.shows(" login: ")
    }

    /// The files and users for whom cloud-init says that it wrote a key with that comment.
    #[must_use]
    pub fn keys(&self, comment: &str) -> Vec<(String, String)> {
        let text = self.text();
        let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        let blocks = text.split(KEYS).skip(1).filter(|block| block.contains(comment));
        let named = blocks.filter_map(|block| {
            let (path, rest) = block.split_once(" for user ")?;
            let user = rest.split(|c: char| c == '+' || c.is_whitespace()).next()?;
            (plain(path) && plain(user)).then(|| (path.to_owned(), user.to_owned()))
        });
        named.collect()
    }

    /// Its last lines, escaped, at most so many.
    #[must_use]
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let text = self.text();
        let all: Vec<&str> =
            text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let from = all.len().saturating_sub(lines);
        all[from..].iter().map(|line| line.escape_debug().to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_console_shows_is_found() {
        let mut console = Console::default();
        console.push(b"\x1b[0m[    0.000000] Linux ver");
        assert!(!console.shows_kernel());
        console.push(b"sion 6.1.0 (x@y)\r\nci-info: ++++Authorized keys from ");
        assert!(console.keys("mine").is_empty());
        console.push(
            b"/home/[ 9.1] x\r\nci-info: +Authorized keys from /home/ops/keys for user ops++\n",
        );
        console.push(b"| ssh-rsa | theirs |\r\nci-info: +++Authorized keys from ");
        console.push(b"/home/debian/.ssh/authorized_keys for user debian+++\r\n| ssh-rsa | mine |");
        console.push(b"\r\nclone-1 login: ");
        assert!(console.shows_kernel() && console.shows_login());
        let keys = console.keys("mine");
        let expected = ("/home/debian/.ssh/authorized_keys".to_owned(), "debian".to_owned());
        assert_eq!(keys, [expected]);
        assert_eq!(console.tail(1), ["clone-1 login:"]);
        assert!(console.tail(9)[0].starts_with("\\u{1b}[0m"));
    }

    #[test]
    fn a_console_without_end_is_bounded() {
        let mut console = Console::default();
        for _ in 0..10 {
            console.push(&vec![b'x'; 1 << 20]);
        }
        assert_eq!(console.text().len(), LIMIT);
    }
}
