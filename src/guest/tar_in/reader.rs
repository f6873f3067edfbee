//! The entries of a tar archive: ustar, GNU's long names, and pax headers.
//!
//! Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's
//! manual, "Basic Tar Format". It knows no guest, and reads an archive once, from front to end. Pax
//! headers are taken apart here and not by `tar`, which takes a newline in a value for its end and
//! reads a header of any size into memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{EntryType, Header};

use crate::guest::error::shown;

/// Size of a block, in bytes.
const BLOCK: usize = 512;
/// Largest long name or pax header, in bytes. Linux allows 64 KiB of xattrs a file with most file
/// systems, and paths of 4 KiB.
const LARGEST_EXTENSION: u64 = 1 << 20;
/// Largest value of an xattr, in bytes: Linux's `XATTR_SIZE_MAX`.
const LARGEST_XATTR: usize = 1 << 16;
/// Largest sum of what global pax headers say, in bytes: every entry has it.
const LARGEST_GLOBAL: usize = 1 << 16;
/// The key of an xattr in a pax header, before its name.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    /// With major and minor number.
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// One entry, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// The path as written.
    pub(super) path: Vec<u8>,
    /// What a link points to.
    pub(super) link: Vec<u8>,
    /// At most 07777.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// In seconds and nanoseconds.
    pub(super) modified: (i64, u32),
    /// Names and values.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is being read; as a reader, the bytes of the entry that came last.
pub(super) struct Archive<R> {
    source: R,
    /// Bytes of the entry that are left.
    left: u64,
    /// Bytes behind it up to the next block.
    padding: u64,
    /// What global pax headers said.
    global: Records,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<R: Read> Archive<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, global: Records::new() }
    }

    /// The next entry; `None` behind the last.
    ///
    /// # Errors
    /// Where the archive is damaged, cut off, or of a kind that is not known; the source's.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let (mut name, mut link, mut local) = (None, None, None);
        loop {
            let Some(header) = self.header()? else {
                if name.is_some() || link.is_some() || local.is_some() {
                    return Err(bad("an entry is announced and does not come"));
                }
                return Ok(None);
            };
            self.announce(header.entry_size()?);
            match header.entry_type() {
                EntryType::GNULongName => name = Some(self.text()?),
                EntryType::GNULongLink => link = Some(self.text()?),
                EntryType::XGlobalHeader => {
                    let found = records(&self.extension()?)?;
                    self.global.extend(found);
                    let sizes = self.global.iter().map(|(key, value)| key.len() + value.len());
                    if sizes.sum::<usize>() > LARGEST_GLOBAL {
                        return Err(bad("its global pax headers are larger than 64 KiB"));
                    }
                }
                EntryType::XHeader => local = Some(records(&self.extension()?)?),
                _ => {
                    let mut known = self.global.clone();
                    known.extend(local.unwrap_or_default());
                    known.retain(|_, value| !value.is_empty());
                    return self.entry(&header, name, link, &known).map(Some);
                }
            }
        }
    }

    /// Reads on behind the archive's end, so that a decoder sees its checksums.
    ///
    /// # Errors
    /// The source's.
    pub(super) fn finish(mut self) -> io::Result<()> {
        // Archives end in zeros up to a full record; more than that is nobody's.
        io::copy(&mut self.source.by_ref().take(64 << 20), &mut io::sink()).map(drop)
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        io::copy(self, &mut io::sink())?;
        let mut padding = self.source.by_ref().take(self.padding);
        if io::copy(&mut padding, &mut io::sink())? < self.padding {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.padding = 0;
        let mut block = Vec::with_capacity(BLOCK);
        self.source.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if block.len() < BLOCK {
            let why = "it is cut off: the block of zeros is missing that ends a tar archive";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        // POSIX wants two; that one is enough is GNU tar's rule.
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|&byte| u32::from(byte)).sum();
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        // The checksum's own eight bytes count as blanks.
        if header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            return Err(bad("this is no tar archive, or it is damaged"));
        }
        Ok(Some(header))
    }

    fn announce(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.left > LARGEST_EXTENSION {
            return Err(bad("a name or pax header is larger than 1 MiB"));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A long name, which ends in a NUL.
    fn text(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = self.extension()?;
        bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &Header,
        name: Option<Vec<u8>>,
        link: Option<Vec<u8>>,
        known: &Records,
    ) -> io::Result<Entry> {
        let record = |key: &str| known.get(key.as_bytes()).cloned();
        if known.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
            return Err(bad(
                "it has sparse files, which kiln does not read; pack it without `--sparse`",
            ));
        }
        if let Some(size) = record("size") {
            self.announce(number(&size)?);
        }
        let path = record("path").or(name).unwrap_or_else(|| header.path_bytes().into_owned());
        let device = || {
            let none = || bad("a device has no number");
            let (major, minor) = (header.device_major()?, header.device_minor()?);
            Ok::<_, io::Error>((major.ok_or_else(none)?, minor.ok_or_else(none)?))
        };
        let kind = match header.entry_type() {
            // Before POSIX, a slash at the end was all that told a directory.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => {
                device().map(|(major, minor)| Kind::CharacterDevice(major, minor))?
            }
            EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            EntryType::GNUSparse => {
                return Err(bad(
                    "it has sparse files, which kiln does not read; pack it without `--sparse`",
                ));
            }
            other => {
                let kind = char::from(other.as_byte()).escape_default();
                let path = shown(Path::new(std::ffi::OsStr::from_bytes(&path)));
                let why = format!("`{path}` is of type `{kind}`, which kiln does not know");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        };
        let id = |key: &str, written: io::Result<u64>| {
            let id = record(key).map_or(written, |text| number(&text))?;
            // The last one means "no change" to chown(2).
            u32::try_from(id)
                .ok()
                .filter(|&id| id != u32::MAX)
                .ok_or_else(|| bad("an owner is out of range"))
        };
        let modified = match record("mtime") {
            Some(text) => time(&text)?,
            None => (i64::try_from(header.mtime()?).map_err(|_| bad("a time is out of range"))?, 0),
        };
        let xattrs: Vec<_> = known
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone())))
            .collect();
        if xattrs.iter().any(|(_, value)| value.len() > LARGEST_XATTR) {
            return Err(bad("an extended attribute is larger than 64 KiB"));
        }
        let target = || header.link_name_bytes().map(Cow::into_owned).unwrap_or_default();
        Ok(Entry {
            kind,
            path,
            link: record("linkpath").or(link).unwrap_or_else(target),
            mode: header.mode()? & 0o7777,
            uid: id("uid", header.uid())?,
            gid: id("gid", header.gid())?,
            modified,
            xattrs,
        })
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.source.by_ref().take(self.left).read(buffer)?;
        if len == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= len as u64;
        Ok(len)
    }
}

fn number(text: &[u8]) -> io::Result<u64> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| bad("a number of a pax header is none"))
}

/// A time such as `1234.5` or `-1.25`, in seconds and nanoseconds.
fn time(text: &[u8]) -> io::Result<(i64, u32)> {
    let none = || bad("a time of a pax header is none");
    let text = std::str::from_utf8(text).map_err(|_| none())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut digits: String = fraction.chars().take(9).collect();
    while digits.len() < 9 {
        digits.push('0');
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(none());
    }
    let seconds: i64 = whole.parse().map_err(|_| none())?;
    let nanoseconds: u32 = digits.parse().map_err(|_| none())?;
    if text.starts_with('-') && nanoseconds > 0 {
        let earlier = seconds.checked_sub(1).ok_or_else(none)?;
        return Ok((earlier, 1_000_000_000 - nanoseconds));
    }
    Ok((seconds, nanoseconds))
}

/// The records of a pax header: `LENGTH KEY=VALUE\n` each, where the length counts all of it.
fn records(mut bytes: &[u8]) -> io::Result<Records> {
    let mut records = Records::new();
    while !bytes.is_empty() {
        let record = || {
            let blank = bytes.iter().take(20).position(|&byte| byte == b' ')?;
            let len: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
            let record = bytes.get(..len)?.get(blank + 1..)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            Some((len, &record[..equals], &record[equals + 1..]))
        };
        let (len, key, value) = record().ok_or_else(|| bad("a pax header is damaged"))?;
        records.insert(key.to_vec(), value.to_vec());
        bytes = &bytes[len..];
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_and_records() {
        assert_eq!(time(b"1234.5").unwrap(), (1234, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"7").unwrap(), (7, 0));
        assert_eq!(time(b"1.1234567899").unwrap(), (1, 123_456_789));
        for text in ["", "x", "1.x", "1.-5"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
        let found = records(b"11 a=b\nc=d\n6 e=f\n").unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [(b"a".to_vec(), b"b\nc=d".to_vec()), (b"e".to_vec(), b"f".to_vec())]
        );
        for text in
            ["6 a=b", "7 a=b\n", "x a=b\n", "5 ab\n", "0 a=b\n", "99999999999999999999 a=b\n"]
        {
            assert!(records(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(700);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append_data(&mut header, "a/".repeat(100) + "b", &[7; 700][..]).unwrap();
        let whole = builder.into_inner().unwrap();
        let read = |bytes: &[u8]| -> io::Result<usize> {
            let mut archive = Archive::new(bytes);
            let mut total = 0;
            while archive.next()?.is_some() {
                total += archive.read_to_end(&mut Vec::new())?;
            }
            Ok(total)
        };
        assert_eq!(read(&whole).unwrap(), 700);
        // A long name and its entry, each a header and data, and the block that ends it all.
        for end in 0..6 * BLOCK {
            let error = read(&whole[..end]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
        for end in 6 * BLOCK..=whole.len() {
            assert_eq!(read(&whole[..end]).unwrap(), 700, "{end}");
        }
    }

    /// A header of a type, and its data, up to a full block.
    fn part(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path("x").unwrap();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut part = [&header.as_bytes()[..], data].concat();
        part.resize(part.len().next_multiple_of(BLOCK), 0);
        part
    }

    fn pax(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut len = rest.len();
        while len != rest.len() + len.to_string().len() {
            len = rest.len() + len.to_string().len();
        }
        [len.to_string().as_bytes(), &rest].concat()
    }

    #[test]
    fn what_headers_say_is_bounded() {
        let next = |parts: &[Vec<u8>]| {
            let mut bytes = parts.concat();
            bytes.resize(bytes.len() + 2 * BLOCK, 0);
            Archive::new(bytes.as_slice()).next().map(Option::unwrap)
        };
        for (len, fits) in [(LARGEST_XATTR, true), (LARGEST_XATTR + 1, false)] {
            let local = part(b'x', &pax("SCHILY.xattr.user.a", &vec![7; len]));
            match next(&[local, part(b'0', b"")]) {
                Ok(entry) => assert!(fits && entry.xattrs[0].1.len() == len),
                Err(error) => assert!(!fits && error.to_string().contains("64 KiB"), "{error}"),
            }
        }
        // The same key again takes its place; others come on top.
        let global = |key: &str| part(b'g', &pax(key, &vec![b'x'; 40_000]));
        assert!(next(&[global("a"), global("a"), part(b'0', b"")]).is_ok());
        let error = next(&[global("a"), global("b"), part(b'0', b"")]).unwrap_err();
        assert_eq!(error.to_string(), "its global pax headers are larger than 64 KiB");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = records(&bytes);
            let _ = time(&bytes);
            let _ = Archive::new(bytes.as_slice()).next();
        }
    }
}
