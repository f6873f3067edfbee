//! Compressed files: told by their magic number, never by their name, and read as a stream.

use std::io::{self, BufRead, BufReader, Cursor, Read, Write as _};

use flate2::GzBuilder;
use flate2::bufread::GzDecoder;

/// The ways in which a file may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// bzip2's own format.
    Bzip2,
    /// The format of `xz`.
    Xz,
    /// RFC 8878.
    Zstd,
}

/// Bytes of the longest magic number.
const MAGIC: usize = 6;
/// Memory that an xz stream may ask for: what the strongest preset needs, four times over.
const XZ_MEMORY: u64 = 256 << 20;

impl Compression {
    /// What a file that starts with these bytes is compressed by; `None` for one that is not.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<Self> {
        // bzip2's block size and the first byte of its first block, or of its end, follow `BZh`.
        let bzip2 = matches!(start, [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..]);
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => bzip2.then_some(Self::Bzip2),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// Reads what a file holds, decompressed if it is compressed. Files of several members one after the
/// other are read to their end.
///
/// # Errors
/// Where the start cannot be read. What is read fails where the stream is damaged or cut short, or
/// asks for too much memory.
pub fn reader<'a>(mut source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Vec::with_capacity(MAGIC);
    source.by_ref().take(MAGIC as u64).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole = Cursor::new(start).chain(source);
    Ok(match compression {
        None => Box::new(whole),
        Some(Compression::Gzip) => Box::new(Gzip::new(BufReader::new(whole))),
        Some(Compression::Bzip2) => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        Some(Compression::Xz) => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            Box::new(liblzma::read::XzDecoder::new_stream(whole, stream))
        }
        Some(Compression::Zstd) => Box::new(zstd::stream::read::Decoder::new(whole)?),
    })
}

/// Bytes as a gzip file, as small as it gets. The same bytes give the same file: it has no name, no
/// time, and no system.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes everything")
}

/// The members of a gzip file. As with gzip(1), nothing but zeros may follow the last one: tapes and
/// tools that write whole blocks pad a file so. `flate2` takes them for a damaged member.
struct Gzip<R> {
    /// `None` behind the end.
    member: Option<GzDecoder<R>>,
    /// Whether zeros have come behind it.
    is_padded: bool,
}

impl<R: BufRead> Gzip<R> {
    fn new(source: R) -> Self {
        Self { member: Some(GzDecoder::new(source)), is_padded: false }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let source = member.get_mut();
            let is_end = loop {
                let bytes = source.fill_buf()?;
                let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
                if zeros == 0 {
                    break bytes.is_empty();
                }
                source.consume(zeros);
                self.is_padded = true;
            };
            if !is_end && self.is_padded {
                let why = "something follows the zeros behind the end of a gzip file";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let ended = self.member.take().filter(|_| !is_end);
            self.member = ended.map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        match compression {
            Compression::Gzip => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(bytes).unwrap();
                to.finish().unwrap()
            }
            Compression::Bzip2 => {
                let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                to.write_all(bytes).unwrap();
                to.finish().unwrap()
            }
            Compression::Xz => {
                let mut to = liblzma::write::XzEncoder::new(Vec::new(), 1);
                to.write_all(bytes).unwrap();
                to.finish().unwrap()
            }
            Compression::Zstd => zstd::stream::encode_all(bytes, 1).unwrap(),
        }
    }

    const ALL: [Compression; 4] =
        [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd];

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut read = Vec::new();
        reader(bytes)?.read_to_end(&mut read)?;
        Ok(read)
    }

    #[test]
    fn every_compression_is_told_and_undone() {
        for compression in ALL {
            for bytes in [b"disk".repeat(5000), Vec::new()] {
                let file = packed(compression, &bytes);
                assert_eq!(Compression::of(&file), Some(compression));
                assert_eq!(read(&file).unwrap(), bytes, "{compression:?}");
                let twice = [file.clone(), file].concat();
                assert_eq!(read(&twice).unwrap(), bytes.repeat(2), "{compression:?}");
            }
        }
    }

    #[test]
    fn zeros_may_follow_gzip_and_nothing_else() {
        let file = packed(Compression::Gzip, b"disk");
        for zeros in [1, 511, 100_000] {
            let padded = [&file[..], &file, &vec![0; zeros]].concat();
            assert_eq!(read(&padded).unwrap(), b"diskdisk", "{zeros}");
            for more in [&b"x"[..], &file] {
                assert!(read(&[&padded, more].concat()).is_err(), "{zeros}");
            }
        }
        assert!(read(&[&file[..], b"x"].concat()).is_err());
        assert!(read(&[&file[..], &file[..5]].concat()).is_err());
    }

    #[test]
    fn what_is_not_compressed_comes_as_it_is() {
        for bytes in [&b""[..], b"B", b"BZh", b"BZh9 is a text", b"\x1f\x8b", b"QFI\xfb and more"] {
            assert_eq!(read(bytes).unwrap(), bytes);
        }
    }

    #[test]
    fn a_stream_that_is_cut_short_fails() {
        for compression in ALL {
            let file = packed(compression, &b"disk".repeat(5000));
            assert!(read(&file[..file.len() - 5]).is_err(), "{compression:?}");
        }
    }
}
