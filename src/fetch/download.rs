//! Large files: downloaded into one directory, gone on with after a kill, and checked to their last
//! byte.
//!
//! A file `CHECKSUM.part` is locked by whoever works on it. Beside it, `CHECKSUM.tag` holds the
//! address that the part came from and the server's tag of that version; a server whose version is
//! another one starts over by itself. What has the right checksum is complete, wherever it came
//! from, and nothing else is ever handed out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::checksum::Sum;
use super::{Client, FetchError, OnLine};
use crate::digest::Digest;
use crate::files::{self, Context, FileError};
use crate::recipe::Checksum;

/// Largest file that is downloaded, in bytes.
const LARGEST: u64 = 1 << 40;
/// Largest note of a part's origin.
const LARGEST_TAG: u64 = 8 << 10;

/// The directory of downloads.
#[derive(Debug, Clone)]
pub struct Downloads {
    directory: PathBuf,
}

/// A complete file with the right checksum, which nobody else touches.
#[derive(Debug)]
pub struct Downloaded {
    /// Where it lies.
    pub path: PathBuf,
    _lock: File,
}

impl Downloaded {
    /// Removes the file: what was needed of it is elsewhere.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(self) -> Result<(), FileError> {
        let _ = fs::remove_file(self.path.with_extension("tag"));
        fs::remove_file(&self.path).context("remove", &self.path)
    }
}

impl Downloads {
    /// Downloads in a directory, which is made with the first one.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Downloads the file with a checksum, or what is missing of it, and checks all of it.
    ///
    /// # Errors
    /// See [`FetchError`]. What came is kept, unless it is something else.
    pub fn get(
        &self,
        client: &Client<'_>,
        url: &str,
        wanted: &Checksum,
        tell: &mut OnLine<'_>,
    ) -> Result<Downloaded, FetchError> {
        let path = self.path_of(wanted);
        let mut part = Part::open(client, &path, Sum::like(wanted))?;
        if part.sum.clone().finish() == *wanted {
            return Ok(Downloaded { path, _lock: part.file });
        }
        // A part of another file may have been gone on with: that is worth one fresh start.
        for fresh in [false, true] {
            let resumed = part.fill(client, url, tell)?;
            let came = part.sum.clone().finish();
            if came == *wanted {
                return Ok(Downloaded { path, _lock: part.file });
            }
            if fresh || !resumed {
                part.remove()?;
                return Err(FetchError::Checksum {
                    url: url.to_owned(),
                    wanted: wanted.clone(),
                    came,
                });
            }
            tell("what was there is a part of another file; starting over");
            part.start_over()?;
        }
        unreachable!("the second round ends")
    }

    /// Downloads a file of which nothing is known yet, and tells its checksum. It stays, so that
    /// [`Self::get`] finds it.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn learn(
        &self,
        client: &Client<'_>,
        url: &str,
        tell: &mut OnLine<'_>,
    ) -> Result<Checksum, FetchError> {
        let name = format!("url-{}.part", Digest::of(url.as_bytes()));
        let mut part = Part::open(client, &self.directory.join(name), Sum::sha256())?;
        part.tagged = true;
        part.fill(client, url, tell)?;
        let came = part.sum.clone().finish();
        let target = self.path_of(&came);
        part.file.sync_all().context("sync", &part.path)?;
        fs::rename(&part.path, &target).context("rename into place", &target)?;
        let _ = fs::remove_file(part.path.with_extension("tag"));
        Ok(came)
    }

    fn path_of(&self, checksum: &Checksum) -> PathBuf {
        self.directory.join(format!("{}.part", checksum.to_string().replace(':', "-")))
    }
}

/// A file on its way.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    /// Over all that it holds.
    sum: Sum,
    /// Whether only the server's own tag tells that the part belongs to the rest, as no checksum
    /// will.
    tagged: bool,
}

impl Part {
    /// Opens or makes a part, waits until it is this process's alone, and hashes what it holds.
    fn open(client: &Client<'_>, path: &Path, mut sum: Sum) -> Result<Self, FetchError> {
        const GLANCE: Duration = Duration::from_millis(50);
        if let Some(directory) = path.parent() {
            files::make_directory(directory, 0o750)?;
        }
        let file = loop {
            client.check()?;
            let open = OpenOptions::new().read(true).append(true).create(true).open(path);
            let file = open.context("open", path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Who had it may have removed it meanwhile.
                Ok(()) if is_at(&file, path) => break file,
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => std::thread::sleep(GLANCE),
                Err(error) => return Err(error).context("lock", path)?,
            }
        };
        let len = sum.add_all(&file).context("read", path)?;
        Ok(Self { path: path.to_owned(), file, len, sum, tagged: false })
    }

    /// Fetches what is missing; tells whether something was there before.
    fn fill(
        &mut self,
        client: &Client<'_>,
        url: &str,
        tell: &mut OnLine<'_>,
    ) -> Result<bool, FetchError> {
        let resumed = self.len > 0;
        let mut tries = 0;
        loop {
            let before = self.len;
            let Err(error) = self.attempt(client, url, tell) else { return Ok(resumed) };
            if self.len > before {
                tries = 0;
            }
            tries += 1;
            if !error.may_pass() || tries >= client.patience.tries {
                return Err(error);
            }
            let wait = client.wait_before(tries).as_secs();
            tell(&format!("{error}; trying again in {wait} s"));
            client.pause(tries)?;
        }
    }

    fn attempt(
        &mut self,
        client: &Client<'_>,
        url: &str,
        tell: &mut OnLine<'_>,
    ) -> Result<(), FetchError> {
        if self.tagged && self.tag(url).is_none() {
            self.start_over()?;
        }
        let mut reply = client.get(url, &self.range(url))?;
        let goes_on = reply.head.status == 206 && reply.head.range_start == Some(self.len);
        if self.len > 0 && !goes_on {
            // The server has another version, no such range, or no ranges at all.
            let useless = matches!(reply.head.status, 206 | 416);
            if useless || reply.head.status == 200 {
                self.start_over()?;
            }
            if useless {
                reply = client.get(url, &[])?;
            }
        }
        reply.expect(if goes_on { &[206] } else { &[200] })?;
        let total = reply.head.length.map(|length| self.len + length);
        if total.is_some_and(|total| total > LARGEST) {
            return Err(FetchError::TooLarge { url: url.to_owned(), limit: LARGEST });
        }
        self.note_tag(url, reply.head.etag.as_deref())?;
        let mut meter = Meter::new(self.len, total);
        tell(&meter.start(url));
        while let Some(piece) = reply.next()? {
            self.file.write_all(&piece).context("write", &self.path)?;
            self.sum.add(&piece);
            self.len += piece.len() as u64;
            if self.len > LARGEST {
                return Err(FetchError::TooLarge { url: url.to_owned(), limit: LARGEST });
            }
            if let Some(line) = meter.at(self.len) {
                tell(&line);
            }
        }
        Ok(())
    }

    /// Asks for what is missing, where anything is there; of the version that it is of, if that is
    /// known.
    fn range(&self, url: &str) -> Vec<(&'static str, String)> {
        if self.len == 0 {
            return Vec::new();
        }
        let mut headers = vec![("range", format!("bytes={}-", self.len))];
        headers.extend(self.tag(url).map(|tag| ("if-range", tag)));
        headers
    }

    /// The tag of the version that the part is of.
    fn tag(&self, url: &str) -> Option<String> {
        let note = files::read_bounded(&self.path.with_extension("tag"), LARGEST_TAG).ok()?;
        let note = String::from_utf8(note).ok()?;
        let (from, tag) = note.split_once('\n')?;
        (from == url && !tag.is_empty()).then(|| tag.to_owned())
    }

    fn note_tag(&self, url: &str, tag: Option<&str>) -> Result<(), FileError> {
        let path = self.path.with_extension("tag");
        fs::write(&path, format!("{url}\n{}", tag.unwrap_or_default())).context("write", &path)
    }

    fn start_over(&mut self) -> Result<(), FileError> {
        self.file.set_len(0).context("empty", &self.path)?;
        self.len = 0;
        self.sum = match &self.sum {
            Sum::Sha256(_) => Sum::sha256(),
            Sum::Sha512(_) => Sum::Sha512(Box::default()),
        };
        Ok(())
    }

    fn remove(&self) -> Result<(), FileError> {
        let _ = fs::remove_file(self.path.with_extension("tag"));
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.context("remove", &self.path),
        }
    }
}

/// Whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let (Ok(open), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    id(open) == id(there)
}

/// Says now and then how far a download is.
struct Meter {
    start: Instant,
    last: Instant,
    from: u64,
    total: Option<u64>,
}

impl Meter {
    const PERIOD: Duration = Duration::from_secs(1);

    fn new(from: u64, total: Option<u64>) -> Self {
        let now = Instant::now();
        Self { start: now, last: now, from, total }
    }

    fn start(&self, url: &str) -> String {
        let size = self.total.map(|total| format!(" ({})", mib(total))).unwrap_or_default();
        match self.from {
            0 => format!("downloading {url}{size}"),
            from => format!("downloading {url}{size}, going on at {}", mib(from)),
        }
    }

    fn at(&mut self, len: u64) -> Option<String> {
        if self.last.elapsed() < Self::PERIOD {
            return None;
        }
        self.last = Instant::now();
        let speed = u128::from(len - self.from) * 1000 / self.start.elapsed().as_millis().max(1);
        let speed = mib(u64::try_from(speed).unwrap_or(u64::MAX));
        Some(match self.total {
            Some(total) => {
                let percent = u128::from(len) * 100 / u128::from(total.max(1));
                format!("{percent}% of {}, {speed}/s", mib(total))
            }
            None => format!("{}, {speed}/s", mib(len)),
        })
    }
}

fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let value = bytes as f64 / f64::from(1 << 20);
    format!("{value:.1} MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_tells_share_and_speed() {
        let mut meter = Meter::new(0, Some(280 << 20));
        assert_eq!(meter.start("https://a"), "downloading https://a (280.0 MiB)");
        assert_eq!(meter.at(5), None);
        let before = meter.start.checked_sub(Duration::from_secs(1)).unwrap();
        (meter.start, meter.last) = (before, before);
        let line = meter.at(34 << 20).unwrap();
        assert!(line.starts_with("12% of 280.0 MiB, 3"), "{line}");
        assert_eq!(meter.at(35 << 20), None);
        let meter = Meter::new(1 << 20, None);
        assert_eq!(meter.start("https://a"), "downloading https://a, going on at 1.0 MiB");
    }
}
