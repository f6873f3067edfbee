//! Checksums as files carry them, and lists of them.

use std::io::{self, Read};

use sha2::{Digest, Sha256, Sha512};

use crate::recipe::Checksum;

/// A checksum that is being made.
#[derive(Clone)]
pub enum Sum {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Box<Sha512>),
}

impl Sum {
    /// Starts one of the kind that `wanted` is.
    #[must_use]
    pub fn like(wanted: &Checksum) -> Self {
        match wanted {
            Checksum::Sha256(_) => Self::sha256(),
            Checksum::Sha512(_) => Self::Sha512(Box::default()),
        }
    }

    /// Starts a SHA-256.
    #[must_use]
    pub fn sha256() -> Self {
        Self::Sha256(Sha256::default())
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Sha512(sum) => sum.update(bytes),
        }
    }

    /// Adds all that a reader has, and tells how many bytes that is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn add_all(&mut self, mut source: impl Read) -> io::Result<u64> {
        let mut buffer = vec![0; 1 << 18];
        let mut total = 0;
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(read) => {
                    self.add(&buffer[..read]);
                    total += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The checksum of all that was added.
    #[must_use]
    pub fn finish(self) -> Checksum {
        match self {
            Self::Sha256(sum) => Checksum::Sha256(hex(&sum.finalize())),
            Self::Sha512(sum) => Checksum::Sha512(hex(&sum.finalize())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a checksum of 64 or 128 hexadecimal digits; the number says which it is.
#[must_use]
pub fn parse(digits: &str) -> Option<Checksum> {
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    match digits.len() {
        64 => Some(Checksum::Sha256(digits)),
        128 => Some(Checksum::Sha512(digits)),
        _ => None,
    }
}

/// The checksum of a file in a list of checksums; the strongest where there are two. Lines that are
/// neither of both forms are passed over: such lists have comments, and some a signature.
///
/// Sources: `sha256sum(1)` of GNU coreutils (`DIGITS  NAME`, or `DIGITS *NAME`), and its `--tag`,
/// which is the form of the BSDs (`SHA256 (NAME) = DIGITS`).
#[must_use]
pub fn find(list: &str, name: &str) -> Option<Checksum> {
    let named = list.lines().filter_map(of_line).filter(|(file, _)| *file == name);
    named.map(|(_, sum)| sum).max()
}

/// The checksum of a list that has one and no more, whatever it calls the file: such lists lie
/// beside single files, whose names may be links.
#[must_use]
pub fn only(list: &str) -> Option<Checksum> {
    let mut sums = list
        .lines()
        .filter_map(|line| of_line(line).map(|(_, sum)| sum).or_else(|| parse(line.trim())));
    sums.next().filter(|_| sums.next().is_none())
}

/// The name and the checksum of one line of a list.
fn of_line(line: &str) -> Option<(&str, Checksum)> {
    let line = line.trim_end();
    let (file, sum) = if let Some((kind, rest)) = line.split_once(" (") {
        let (file, digits) = rest.rsplit_once(") = ")?;
        let fits = |sum: &Checksum| match sum {
            Checksum::Sha256(_) => kind == "SHA256",
            Checksum::Sha512(_) => kind == "SHA512",
        };
        (file, parse(digits).filter(fits)?)
    } else {
        let (digits, file) = line.split_once(' ')?;
        (file.strip_prefix([' ', '*']).unwrap_or(file), parse(digits)?)
    };
    // Without the directory that the list was made in.
    Some((file.strip_prefix("./").unwrap_or(file), sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_standard() {
        // Source: FIPS 180-4's example "abc".
        let mut sum = Sum::sha256();
        sum.add(b"a");
        assert_eq!(sum.add_all(&b"bc"[..]).unwrap(), 2);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sum.finish(), Checksum::Sha256(abc.to_owned()));
        let mut sum = Sum::like(&Checksum::Sha512(String::new()));
        sum.add(b"abc");
        assert!(sum.finish().to_string().starts_with("sha512:ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn both_forms_of_lists_are_read() {
        let (short, long) = ("ab".repeat(32), "CD".repeat(64));
        let list = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# a.qcow2: 12 bytes\n\
             SHA256 (a.qcow2) = {short}\nSHA512 (wrong) = {short}\n{long}  b.img\n\
             {short} *c.img\n{short}  ./d.img\n{short}  e.img\n{long}  e.img\nabc  f.img\n"
        );
        let found = |name| find(&list, name).map(|sum| sum.to_string());
        let sha256 = Some(format!("sha256:{short}"));
        let sha512 = Some(format!("sha512:{}", long.to_lowercase()));
        assert_eq!(found("a.qcow2"), sha256);
        assert_eq!(found("b.img"), sha512);
        assert_eq!((found("c.img"), found("d.img")), (sha256.clone(), sha256));
        assert_eq!(found("e.img"), sha512);
        for name in ["wrong", "f.img", "img", ""] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn a_list_of_one_needs_no_name() {
        let sum = "ab".repeat(32);
        let expected = Some(Checksum::Sha256(sum.clone()));
        for list in [
            format!("{sum}\n"),
            format!("{sum}  other-build7.qcow2\n"),
            format!("# x\nSHA256 (a b) = {sum}\n"),
        ] {
            assert_eq!(only(&list), expected, "{list}");
        }
        assert_eq!(only(&format!("{sum}  a\n{sum}  b\n")), None);
        assert_eq!(only("nothing\n"), None);
    }
}
