//! Takes a disk image of a foreign format in, so that it can become a layer on nothing.
//!
//! The format is named, or told from the file's own magic number, never probed by qemu; a file that
//! refers to others is refused. What the disk holds is not looked at.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::layer::MAX_DISK;
use crate::files::{Context, FileError};
use crate::recipe::DiskFormat;

/// Why a disk image cannot be taken in.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ImportError {
    /// It cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// It needs another file.
    #[error("`{}` refers to {what}", path.display())]
    #[diagnostic(
        code(kiln::disk::not_alone),
        help(
            "make it stand alone with `qemu-img convert -O qcow2`; kiln never follows such a reference"
        )
    )]
    NotAlone {
        /// The file.
        path: PathBuf,
        /// What it refers to.
        what: &'static str,
    },
    /// It is not of the format that was named.
    #[error("`{}` is not a {expected} image", path.display())]
    #[diagnostic(
        code(kiln::disk::wrong_format),
        help("name the right `format`, or check the file")
    )]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// The format that was named.
        expected: &'static str,
    },
    /// It is of a format that is not taken.
    #[error("`{}` looks like {found}, which is not taken as a base", path.display())]
    #[diagnostic(
        code(kiln::disk::unknown_format),
        help(
            "convert it with `qemu-img convert -O qcow2`, or name `format=\"raw\"` if it is a raw disk all the same"
        )
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
    },
    /// Its size is not that of a disk.
    #[error("`{}` has {size} bytes, which is no size of a disk", path.display())]
    #[diagnostic(
        code(kiln::disk::odd_size),
        help("a disk has a multiple of 512 bytes, and at least one sector")
    )]
    OddSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The converter failed.
    #[error("`qemu-img` could not read `{}`: {message}", path.display())]
    #[diagnostic(code(kiln::disk::convert), help("check the file with `qemu-img check`"))]
    Convert {
        /// The file.
        path: PathBuf,
        /// What it said last.
        message: String,
    },
}

/// Magic numbers of formats that are neither raw nor taken. Sources: the formats' specifications.
const OTHERS: [(&[u8], &str); 7] = [
    (b"KDMV", "a VMDK disk"),
    (b"# Disk DescriptorFile", "a VMDK descriptor"),
    (b"vhdxfile", "a VHDX disk"),
    (b"conectix", "a VHD disk"),
    (b"<<< ", "a VirtualBox disk"),
    (b"QED\0", "a QED disk"),
    (b"\xfd7zXZ\0", "a file compressed by xz"),
];

/// A raw disk in a file, for [`super::capture::import_raw`].
#[derive(Debug)]
pub struct RawDisk {
    /// The file.
    pub path: PathBuf,
    /// Size of the virtual disk in bytes.
    pub size: u64,
}

/// Makes a raw disk of an image: the image itself, or a sparse copy below `scratch`.
///
/// # Errors
/// See [`ImportError`].
pub fn raw_disk(
    image: &Path,
    format: Option<DiskFormat>,
    scratch: &Path,
) -> Result<RawDisk, ImportError> {
    let header = header(image)?;
    let found = header.starts_with(b"QFI\xfb");
    match format {
        Some(DiskFormat::Raw) => return sized(image),
        Some(DiskFormat::Qcow2) if !found => {
            return Err(ImportError::WrongFormat { path: image.to_owned(), expected: "qcow2" });
        }
        None if !found => {
            let other = OTHERS.iter().find(|(magic, _)| header.starts_with(magic));
            if let Some((_, found)) = other {
                return Err(ImportError::UnknownFormat { path: image.to_owned(), found });
            }
            return sized(image);
        }
        Some(DiskFormat::Qcow2) | None => {}
        Some(_) => todo!("formats"),
    }
    check_qcow2(image, &header)?;
    let target = scratch.join("base.raw");
    let output = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(image)
        .arg(&target)
        .stdin(Stdio::null())
        .output()
        .context("run", Path::new("qemu-img"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = said.trim().lines().last().unwrap_or_default().escape_default().to_string();
        return Err(ImportError::Convert { path: image.to_owned(), message });
    }
    sized(&target)
}

fn header(image: &Path) -> Result<Vec<u8>, FileError> {
    let file = File::open(image).context("open", image)?;
    let mut header = Vec::new();
    file.take(112).read_to_end(&mut header).context("read", image)?;
    Ok(header)
}

fn sized(path: &Path) -> Result<RawDisk, ImportError> {
    let size = std::fs::metadata(path).context("look at", path)?.len();
    if size == 0 || size > MAX_DISK || !size.is_multiple_of(512) {
        return Err(ImportError::OddSize { path: path.to_owned(), size });
    }
    Ok(RawDisk { path: path.to_owned(), size })
}

/// Refuses a qcow2 image that would make qemu read other files.
///
/// Source: docs/interop/qcow2.txt of QEMU: bytes 8 to 15 are the offset of the backing file's name,
/// bytes 72 to 79 the incompatible features, of which bit 2 is an external data file.
fn check_qcow2(path: &Path, header: &[u8]) -> Result<(), ImportError> {
    let wrong = || ImportError::WrongFormat { path: path.to_owned(), expected: "qcow2" };
    let field = |at: usize, len: usize| -> Result<u64, ImportError> {
        let bytes = header.get(at..at + len).ok_or_else(wrong)?;
        Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let version = field(4, 4)?;
    if !(2..=3).contains(&version) {
        return Err(wrong());
    }
    if field(8, 8)? != 0 {
        return Err(ImportError::NotAlone { path: path.to_owned(), what: "a backing file" });
    }
    if version == 3 && field(72, 8)? & 0b100 != 0 {
        return Err(ImportError::NotAlone { path: path.to_owned(), what: "an external data file" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(directory: &Path, name: &str, arguments: &[&str]) -> PathBuf {
        let path = directory.join(name);
        let status = Command::new("qemu-img")
            .args(["create", "-q"])
            .args(arguments)
            .arg(&path)
            .arg("1M")
            .status()
            .expect("qemu-img is installed (package qemu-utils)");
        assert!(status.success());
        path
    }

    #[test]
    fn only_what_stands_alone_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let plain = image(root, "plain", &["-f", "qcow2"]);
        let backed =
            image(root, "backed", &["-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw"]);
        let data = root.join("data");
        let outside = image(
            root,
            "outside",
            &["-f", "qcow2", "-o", &format!("data_file={}", data.display())],
        );
        let vmdk = image(root, "vmdk", &["-f", "vmdk"]);
        let raw = image(root, "raw", &["-f", "raw"]);

        assert_eq!(raw_disk(&plain, None, root).unwrap().size, 1 << 20);
        assert_eq!(raw_disk(&raw, None, root).unwrap().path, raw);
        for path in [&backed, &outside] {
            let result = raw_disk(path, Some(DiskFormat::Qcow2), root);
            assert!(matches!(result, Err(ImportError::NotAlone { .. })), "{result:?}");
        }
        let result = raw_disk(&vmdk, None, root);
        assert!(matches!(result, Err(ImportError::UnknownFormat { .. })), "{result:?}");
        let result = raw_disk(&raw, Some(DiskFormat::Qcow2), root);
        assert!(matches!(result, Err(ImportError::WrongFormat { .. })), "{result:?}");
        // A guest may write what it likes into its first sector: named raw, it stays raw.
        let file = File::options().write(true).open(&backed).unwrap();
        file.set_len(file.metadata().unwrap().len().next_multiple_of(512)).unwrap();
        assert_eq!(raw_disk(&backed, Some(DiskFormat::Raw), root).unwrap().path, backed);
    }

    #[test]
    fn a_file_that_is_no_disk_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("odd");
        std::fs::write(&path, [1; 700]).unwrap();
        let result = raw_disk(&path, None, directory.path());
        assert!(matches!(result, Err(ImportError::OddSize { size: 700, .. })), "{result:?}");
    }
}
