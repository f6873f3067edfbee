//! Bases that are taken as they are: a file of the workspace, or one that is downloaded.
//!
//! Both become a raw disk and then a layer; what a disk holds is not looked at.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::lane::{Held, Lane, Stop, host};
use super::layers::Captured;
use crate::compression::{self, Compression};
use crate::disk::layer::MAX_DISK;
use crate::disk::state::DiskState;
use crate::disk::{capture, import};
use crate::execute::{Fault, FaultKind};
use crate::fetch::{Client, Downloaded, Downloads, FetchError, Patience, ProxyUse};
use crate::files::{Context, FileError, Stamp};
use crate::inputs::{Input, InputError};
use crate::recipe::{DiskFormat, Fetched, FileBase};
use crate::store::work;

/// Bytes that are decompressed at a time, and that a hole has at least.
const PIECE: usize = 1 << 20;
const HOLE: usize = 4096;

/// Why a download is no disk image.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum UnpackError {
    /// A file of the host cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// Its compression is damaged.
    #[error("`{url}` cannot be decompressed")]
    #[diagnostic(
        code(kiln::engine::unpack),
        help("it has the right checksum, so that it is damaged where it comes from")
    )]
    Damaged { url: String, source: io::Error },
    /// It becomes larger than a disk can be.
    #[error("`{url}` becomes larger than {MAX_DISK} bytes")]
    #[diagnostic(code(kiln::engine::unpacked_size), help("check the address"))]
    TooLarge { url: String },
    /// The user wants the end.
    #[error("the unpacking was called off")]
    #[diagnostic(code(kiln::engine::unpack_interrupted), help("build again"))]
    Interrupted,
}

fn bad(error: &dyn miette::Diagnostic) -> Stop {
    Fault::of(FaultKind::Step, error).into()
}

impl Lane<'_, '_> {
    /// Makes a layer of a disk image of the workspace.
    pub(super) fn file_base(
        &self,
        base: &FileBase<Input>,
        held: &mut Held,
        directory: &Path,
    ) -> Result<Captured, Stop> {
        let path = &base.file.path;
        let captured = self.raw_base(path, base.format, held, directory)?;
        // The stamp is from before the file was hashed: what was taken in is what the key says.
        if Stamp::of(path) != base.file.stamp {
            return Err(bad(&InputError::Changed { path: path.clone() }));
        }
        Ok(captured)
    }

    /// Downloads a disk image, and makes a layer of it. The file is to be removed once the layer is
    /// recorded.
    pub(super) fn fetched_base(
        &self,
        number: usize,
        base: &Fetched,
        held: &mut Held,
        directory: &Path,
    ) -> Result<(Captured, Downloaded), Stop> {
        let Fetched { origin: _, url, checksum, format } = base;
        let failed = |error: FetchError| -> Stop {
            let kind = if error.is_of_host() { FaultKind::Host } else { FaultKind::Step };
            Fault::of(kind, &error).into()
        };
        let interrupted = self.engine.interrupted;
        let client = Client::new(&ProxyUse::System, Patience::default(), interrupted);
        let downloads = Downloads::new(work::downloads(self.engine.store));
        let mut lines = self.lines(number);
        let downloaded = client
            .and_then(|client| downloads.get(&client, url, checksum, &mut lines))
            .map_err(failed)?;
        let unpacked = self.unpacked(&downloaded.path, url, directory, &mut lines);
        let unpacked = unpacked.map_err(|error| match error {
            UnpackError::File(error) => host(&error),
            error => bad(&error),
        })?;
        let path = unpacked.as_ref().unwrap_or(&downloaded.path);
        let captured = self.raw_base(path, *format, held, directory)?;
        if let Some(copy) = unpacked {
            remove_copy(&copy, &downloaded.path)?;
        }
        Ok((captured, downloaded))
    }

    fn raw_base(
        &self,
        path: &Path,
        format: Option<DiskFormat>,
        held: &mut Held,
        directory: &Path,
    ) -> Result<Captured, Stop> {
        let raw = import::raw_disk(path, format, directory).map_err(|error| bad(&error))?;
        held.disk = DiskState::blank(raw.size);
        let file =
            File::open(&raw.path).context("open", &raw.path).map_err(|error| host(&error))?;
        let captured = self
            .store_layer(directory, |sink| capture::import_raw(&file, &raw.path, raw.size, sink))?;
        remove_copy(&raw.path, path)?;
        Ok(captured)
    }

    /// Decompresses a file, if it is compressed, into the lane's directory.
    fn unpacked(
        &self,
        path: &Path,
        url: &str,
        directory: &Path,
        tell: &mut impl FnMut(&str),
    ) -> Result<Option<PathBuf>, UnpackError> {
        use std::sync::atomic::Ordering;
        let mut start = Vec::new();
        let file = File::open(path).context("open", path)?;
        (&file).take(8).read_to_end(&mut start).context("read", path)?;
        let Some(compression) = Compression::of(&start) else { return Ok(None) };
        tell(&format!("unpacking {}", compression.name()));
        let file = File::open(path).context("open", path)?;
        let target = directory.join("unpacked");
        let interrupted = || self.engine.interrupted.load(Ordering::SeqCst);
        let damaged = |source| UnpackError::Damaged { url: url.to_owned(), source };
        let reader = compression::reader(file).map_err(damaged)?;
        unpack(reader, &target, url, interrupted).map(|()| Some(target))
    }
}

/// Removes a working copy that the layer has made useless, unless it is the original: it would take
/// as much room as the disk until the lane's last step is done.
fn remove_copy(copy: &Path, original: &Path) -> Result<(), Stop> {
    if copy == original {
        return Ok(());
    }
    std::fs::remove_file(copy).context("remove", copy).map_err(|error| host(&error))
}

/// Writes what a reader has to a new file, with holes where it is zero.
fn unpack(
    mut reader: impl Read,
    target: &Path,
    url: &str,
    interrupted: impl Fn() -> bool,
) -> Result<(), UnpackError> {
    let file = File::create_new(target).context("create", target)?;
    let mut piece = Vec::with_capacity(PIECE);
    let mut at = 0;
    loop {
        piece.clear();
        let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        read.map_err(|source| UnpackError::Damaged { url: url.to_owned(), source })?;
        if piece.is_empty() {
            return Ok(file.set_len(at).context("set size of", target)?);
        }
        if interrupted() {
            return Err(UnpackError::Interrupted);
        }
        for block in piece.chunks(HOLE) {
            if block.iter().any(|&byte| byte != 0) {
                file.write_all_at(block, at).context("write", target)?;
            }
            at += block.len() as u64;
        }
        if at > MAX_DISK {
            return Err(UnpackError::TooLarge { url: url.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_become_holes_and_the_size_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("disk");
        let mut bytes = vec![0; (8 << 20) + 100];
        bytes[5 << 20] = 7;
        unpack(&bytes[..], &target, "u", || false).unwrap();
        assert!(std::fs::read(&target).unwrap() == bytes);
        assert!(std::fs::metadata(&target).unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_working_copy_goes_and_the_original_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (copy, original) = (directory.path().join("base.raw"), directory.path().join("disk"));
        for path in [&copy, &original] {
            std::fs::write(path, "disk").unwrap();
        }
        assert!(remove_copy(&original, &original).is_ok() && remove_copy(&copy, &original).is_ok());
        assert!(original.exists() && !copy.exists());
        assert!(matches!(remove_copy(&copy, &original), Err(Stop::Fault { .. })));
    }

    #[test]
    fn an_unpacking_ends_when_it_is_called_off_or_breaks() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("disk");
        let result = unpack(io::repeat(1), &target, "u", || true);
        assert!(matches!(result, Err(UnpackError::Interrupted)), "{result:?}");
        let cut_short = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";
        let reader = compression::reader(&cut_short[..]).unwrap();
        let result = unpack(reader, &directory.path().join("other"), "u", || false);
        assert!(matches!(result, Err(UnpackError::Damaged { .. })), "{result:?}");
    }
}
