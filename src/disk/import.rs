//! Takes a disk image of a foreign format in, so that it can become a layer on nothing.
//!
//! The format is named, or told from the file's own magic number, never probed by qemu; a file that
//! refers to others is refused. What the disk holds is not looked at.

mod formats;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use formats::{Image, Refusal};

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
        help("decompress it, or name `format=\"raw\"` if it is a raw disk all the same")
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
    if format == Some(DiskFormat::Raw) {
        return sized(image);
    }
    let file = Image::open(image)?;
    let wrong = |format: DiskFormat| ImportError::WrongFormat {
        path: image.to_owned(),
        expected: format.keyword(),
    };
    let format = match (format, file.format()?) {
        (Some(format), _) => format,
        (None, Ok(found)) => found,
        (None, Err(found)) => {
            return Err(ImportError::UnknownFormat { path: image.to_owned(), found });
        }
    };
    if format == DiskFormat::Raw {
        return sized(image);
    }
    file.check(format)?.map_err(|refusal| match refusal {
        Refusal::Wrong => wrong(format),
        Refusal::NotAlone(what) => ImportError::NotAlone { path: image.to_owned(), what },
    })?;
    check_with_qemu(image, format)?;
    let target = scratch.join("base.raw");
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", format.keyword(), "-O", "raw"]).arg(image).arg(&target);
    run(command, image)?;
    sized(&target)
}

/// Refuses an image of which qemu itself says that it refers to other files: what the reading of its
/// header knows nothing of.
fn check_with_qemu(image: &Path, format: DiskFormat) -> Result<(), ImportError> {
    let mut command = Command::new("qemu-img");
    command.args(["info", "--output=json", "-f", format.keyword()]).arg(image);
    let said = run(command, image)?;
    let path = || image.to_owned();
    let info: serde_json::Value = serde_json::from_slice(&said)
        .map_err(|error| ImportError::Convert { path: path(), message: error.to_string() })?;
    if let Some(what) = foreign(&info, image) {
        return Err(ImportError::NotAlone { path: path(), what });
    }
    Ok(())
}

/// What of a `qemu-img info` is of another file than the image.
///
/// Source: `ImageInfo` and `ImageInfoSpecific` of QEMU's qapi/block-core.json.
fn foreign(info: &serde_json::Value, image: &Path) -> Option<&'static str> {
    let said = |name: &str| info.get(name).is_some_and(|value| !value.is_null());
    if said("backing-filename") || said("full-backing-filename") {
        return Some("a backing file");
    }
    let data = &info["format-specific"]["data"];
    if data.get("data-file").is_some_and(|file| !file.is_null()) {
        return Some("an external data file");
    }
    let extents = data["extents"].as_array().map_or(&[][..], Vec::as_slice);
    let own =
        |extent: &serde_json::Value| extent["filename"].as_str().map(Path::new) == Some(image);
    (!extents.iter().all(own)).then_some("extents in other files")
}

/// Runs `qemu-img`, and gives what it prints.
fn run(mut command: Command, image: &Path) -> Result<Vec<u8>, ImportError> {
    let output = command.stdin(Stdio::null()).output().context("run", Path::new("qemu-img"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = said.trim().lines().last().unwrap_or_default().escape_default().to_string();
        return Err(ImportError::Convert { path: image.to_owned(), message });
    }
    Ok(output.stdout)
}

fn sized(path: &Path) -> Result<RawDisk, ImportError> {
    let size = std::fs::metadata(path).context("look at", path)?.len();
    if size == 0 || size > MAX_DISK || !size.is_multiple_of(512) {
        return Err(ImportError::OddSize { path: path.to_owned(), size });
    }
    Ok(RawDisk { path: path.to_owned(), size })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

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
        let raw = image(root, "raw", &["-f", "raw"]);

        assert_eq!(raw_disk(&plain, None, root).unwrap().size, 1 << 20);
        assert_eq!(raw_disk(&raw, None, root).unwrap().path, raw);
        for path in [&backed, &outside] {
            let result = raw_disk(path, Some(DiskFormat::Qcow2), root);
            assert!(matches!(result, Err(ImportError::NotAlone { .. })), "{result:?}");
        }
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

    /// A disk of 2 MiB with something on it, in a format.
    fn made(root: &Path, name: &str, arguments: &[&str]) -> PathBuf {
        let (raw, path) = (root.join("made.raw"), root.join(name));
        let file = File::create(&raw).unwrap();
        file.set_len(2 << 20).unwrap();
        file.write_all_at(b"kiln was here", 1 << 20).unwrap();
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O"]).args(arguments).arg(&raw).arg(&path);
        run(command, &path).unwrap();
        path
    }

    const FORMATS: [(&[&str], DiskFormat); 9] = [
        (&["qcow2"], DiskFormat::Qcow2),
        (&["vmdk"], DiskFormat::Vmdk),
        (&["vmdk", "-o", "subformat=streamOptimized"], DiskFormat::Vmdk),
        (&["vdi"], DiskFormat::Vdi),
        (&["vdi", "-o", "static=on"], DiskFormat::Vdi),
        (&["vhdx"], DiskFormat::Vhdx),
        (&["vpc", "-o", "force_size=on"], DiskFormat::Vpc),
        (&["vpc", "-o", "force_size=on,subformat=fixed"], DiskFormat::Vpc),
        (&["qed"], DiskFormat::Qed),
    ];

    #[test]
    fn every_format_is_told_and_converted() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (number, (arguments, format)) in FORMATS.into_iter().enumerate() {
            let path = made(root, &format!("image{number}"), arguments);
            for named in [None, Some(format)] {
                let raw = raw_disk(&path, named, root)
                    .unwrap_or_else(|error| panic!("{arguments:?} {named:?}: {error:?}"));
                assert_eq!(raw.size, 2 << 20, "{arguments:?}");
                let mut found = [0; 13];
                File::open(&raw.path).unwrap().read_exact_at(&mut found, 1 << 20).unwrap();
                assert_eq!(&found, b"kiln was here", "{arguments:?}");
            }
            let other =
                if format == DiskFormat::Qcow2 { DiskFormat::Vdi } else { DiskFormat::Qcow2 };
            let result = raw_disk(&path, Some(other), root);
            assert!(matches!(result, Err(ImportError::WrongFormat { .. })), "{result:?}");
        }
    }

    /// A copy of an image with some bytes in place of others.
    fn changed(path: &Path, changes: &[(u64, &[u8])]) -> PathBuf {
        let copy = path.with_extension("changed");
        fs::copy(path, &copy).unwrap();
        let file = File::options().write(true).open(&copy).unwrap();
        for (at, bytes) in changes {
            file.write_all_at(bytes, *at).unwrap();
        }
        copy
    }

    fn refused(path: &Path, root: &Path) -> &'static str {
        match raw_disk(path, None, root) {
            Err(ImportError::NotAlone { what, .. }) => what,
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    /// Where a text stands in a file.
    fn find(path: &Path, text: &[u8]) -> u64 {
        let bytes = fs::read(path).unwrap();
        bytes.windows(text.len()).position(|window| window == text).unwrap() as u64
    }

    #[test]
    fn a_header_that_names_another_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let vmdk = made(root, "vmdk", &["vmdk"]);
        let id = find(&vmdk, b"parentCID=ffffffff");
        assert_eq!(refused(&changed(&vmdk, &[(id + 10, b"00000001")]), root), "a parent");
        let hint = b"parentFileNameHint=\"/etc/shadow\"\n";
        assert_eq!(refused(&changed(&vmdk, &[(find(&vmdk, b"ddb."), hint)]), root), "a parent");
        let kind = find(&vmdk, b"monolithicSparse");
        let flat = changed(&vmdk, &[(kind, b"monolithicFlat\"\n")]);
        assert_eq!(refused(&flat, root), "extents in other files");
        // A header without a capacity makes qemu open what the descriptor names.
        assert_eq!(refused(&changed(&vmdk, &[(12, &[0; 8])]), root), "extents in other files");
        fs::write(root.join("text"), "# Disk DescriptorFile\nRW 8 FLAT \"/etc/shadow\" 0\n")
            .unwrap();
        assert_eq!(refused(&root.join("text"), root), "extents in other files");
        fs::write(root.join("old"), [b"COWD".as_slice(), &[0; 2000]].concat()).unwrap();
        assert_eq!(refused(&root.join("old"), root), "extents in other files");

        let vdi = made(root, "vdi", &["vdi"]);
        assert_eq!(refused(&changed(&vdi, &[(76, &[4])]), root), "a parent");
        assert_eq!(refused(&changed(&vdi, &[(430, &[1])]), root), "a parent");
        assert_eq!(refused(&changed(&vdi, &[(450, &[1])]), root), "a parent");

        let vhdx = made(root, "vhdx", &["vhdx"]);
        let table = find(&vhdx, b"metadata");
        let parameters = [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa];
        let entry = find(&vhdx, &parameters);
        let mut offset = [0; 4];
        File::open(&vhdx).unwrap().read_exact_at(&mut offset, entry + 16).unwrap();
        let flags = table + u64::from(u32::from_le_bytes(offset)) + 4;
        assert_eq!(refused(&changed(&vhdx, &[(flags, &[2])]), root), "a parent");
        let locator = [
            0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34,
            0xab, 0x0c,
        ];
        assert_eq!(refused(&changed(&vhdx, &[(entry, &locator)]), root), "a parent");

        let vpc = made(root, "vpc", &["vpc"]);
        let end = fs::metadata(&vpc).unwrap().len() - 512;
        assert_eq!(refused(&changed(&vpc, &[(63, &[4])]), root), "a parent");
        assert_eq!(refused(&changed(&vpc, &[(end + 63, &[4])]), root), "a parent");

        let qed = made(root, "qed", &["qed"]);
        assert_eq!(refused(&changed(&qed, &[(16, &[1])]), root), "a backing file");
        assert_eq!(refused(&changed(&qed, &[(60, &[9])]), root), "a backing file");
    }

    #[test]
    fn a_header_that_is_cut_short_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (number, (arguments, format)) in FORMATS.into_iter().enumerate() {
            let path = made(root, &format!("image{number}"), arguments);
            let bytes = fs::read(&path).unwrap();
            for len in [0, 8, 70] {
                let cut = root.join("cut");
                fs::write(&cut, &bytes[..len]).unwrap();
                for named in [None, Some(format)] {
                    let result = raw_disk(&cut, named, root);
                    assert!(result.is_err(), "{arguments:?} {len}: {result:?}");
                }
            }
        }
    }

    #[test]
    fn what_qemu_says_of_other_files_is_seen() {
        let image = Path::new("/a/image");
        let said = |text: &str| foreign(&serde_json::from_str(text).unwrap(), image);
        assert_eq!(said(r#"{"filename": "/a/image", "format": "vmdk"}"#), None);
        let own = r#"{"format-specific": {"data": {"extents": [{"filename": "/a/image"}]}}}"#;
        assert_eq!(said(own), None);
        assert_eq!(said(&own.replace("/a/", "/b/")), Some("extents in other files"));
        assert_eq!(said(r#"{"backing-filename": "x"}"#), Some("a backing file"));
        assert_eq!(said(r#"{"full-backing-filename": "x"}"#), Some("a backing file"));
        let data = r#"{"format-specific": {"data": {"data-file": "x"}}}"#;
        assert_eq!(said(data), Some("an external data file"));
    }

    #[test]
    fn a_compressed_file_is_named_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.xz");
        fs::write(&path, b"\xfd7zXZ\0 and more").unwrap();
        let result = raw_disk(&path, None, directory.path());
        let Err(ImportError::UnknownFormat { found, .. }) = result else { panic!("{result:?}") };
        assert_eq!(found, "a file compressed by xz");
    }
}
