//! The formats of disk images: how each is told, and how one that needs other files is refused.
//!
//! Headers are read here, from the file itself, before qemu sees it: a reference to another file
//! must be found without following it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::compression::Compression;
use crate::files::{Context, FileError};
use crate::recipe::DiskFormat;

/// Bytes of the start of a file that are read at once; every fixed header fits.
const START: usize = 1024;
/// Bytes of a VHD's footer.
const FOOTER: u64 = 512;
/// Largest VMDK descriptor that qemu reads. Source: `DESC_SIZE` of QEMU's block/vmdk.c.
const DESCRIPTOR: usize = 20 * 512;

/// Why an image is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not of its format, or damaged.
    Wrong,
    /// It needs another file.
    NotAlone(&'static str),
}

/// A file whose parts are read as they are needed.
pub(super) struct Image<'a> {
    path: &'a Path,
    file: File,
    len: u64,
    start: Vec<u8>,
}

impl<'a> Image<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, FileError> {
        let file = File::open(path).context("open", path)?;
        let len = file.metadata().context("look at", path)?.len();
        let mut image = Self { path, file, len, start: Vec::new() };
        image.start = image.read(0, START)?;
        Ok(image)
    }

    /// At most so many bytes; fewer at the end of the file.
    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, FileError> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        self.file.read_exact_at(&mut bytes, at).context("read", self.path)?;
        Ok(bytes)
    }

    /// The format that its magic numbers tell; `Raw` for a file that has none. What is no disk, by
    /// what it looks like.
    pub(super) fn format(&self) -> Result<Result<DiskFormat, &'static str>, FileError> {
        let starts = |magic: &[u8]| self.start.starts_with(magic);
        // Sources: the specifications that the functions below name.
        Ok(if starts(b"QFI\xfb") {
            Ok(DiskFormat::Qcow2)
        } else if starts(b"KDMV") || starts(b"# Disk DescriptorFile") || starts(b"COWD") {
            Ok(DiskFormat::Vmdk)
        } else if starts(b"vhdxfile") {
            Ok(DiskFormat::Vhdx)
        } else if starts(b"QED\0") {
            Ok(DiskFormat::Qed)
        } else if self.start.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe][..]) {
            Ok(DiskFormat::Vdi)
        } else if starts(b"conectix") || self.has_fixed_footer()? {
            Ok(DiskFormat::Vpc)
        } else if let Some(compression) = Compression::of(&self.start) {
            Err(match compression {
                Compression::Gzip => "a file compressed by gzip",
                Compression::Bzip2 => "a file compressed by bzip2",
                Compression::Xz => "a file compressed by xz",
                Compression::Zstd => "a file compressed by zstd",
            })
        } else {
            Ok(DiskFormat::Raw)
        })
    }

    /// Whether the last sector is the footer of a VHD of exactly this size. A raw disk whose guest
    /// wrote such a sector only loses that one by it: a fixed VHD has nothing else to follow.
    fn has_fixed_footer(&self) -> Result<bool, FileError> {
        let Some(end) = self.len.checked_sub(FOOTER) else { return Ok(false) };
        let footer = self.read(end, 512)?;
        let kind = big(&footer, 60, 4);
        Ok(footer.starts_with(b"conectix") && kind == Some(2) && big(&footer, 48, 8) == Some(end))
    }

    /// Refuses an image that is not of this format, or that would make qemu read other files.
    pub(super) fn check(&self, format: DiskFormat) -> Result<Result<(), Refusal>, FileError> {
        if self.format()? != Ok(format) {
            return Ok(Err(Refusal::Wrong));
        }
        match format {
            DiskFormat::Raw => Ok(Ok(())),
            DiskFormat::Qcow2 => Ok(qcow2(&self.start)),
            DiskFormat::Vmdk => self.vmdk(),
            DiskFormat::Vdi => Ok(vdi(&self.start)),
            DiskFormat::Vhdx => self.vhdx(),
            DiskFormat::Vpc => self.vpc(),
            DiskFormat::Qed => Ok(qed(&self.start)),
        }
    }

    /// Sources: `VMware`'s "Virtual Disk Format 5.0", and `vmdk_open` of QEMU's block/vmdk.c: the
    /// descriptor lies at the sector in bytes 28 to 35 and has as many as bytes 36 to 43 say; a
    /// capacity of 0 makes qemu open what the descriptor names; a parent is looked for in the 20
    /// sectors behind the first.
    fn vmdk(&self) -> Result<Result<(), Refusal>, FileError> {
        if !self.start.starts_with(b"KDMV") {
            return Ok(Err(Refusal::NotAlone("extents in other files")));
        }
        let fields =
            [little(&self.start, 12, 8), little(&self.start, 28, 8), little(&self.start, 36, 8)];
        let [Some(capacity), Some(at), Some(sectors)] = fields else {
            return Ok(Err(Refusal::Wrong));
        };
        if capacity == 0 {
            return Ok(Err(Refusal::NotAlone("extents in other files")));
        }
        let size = usize::try_from(sectors.saturating_mul(512)).unwrap_or(usize::MAX);
        let Some(at) = at.checked_mul(512).filter(|_| (1..=DESCRIPTOR).contains(&size)) else {
            return Ok(Err(Refusal::Wrong));
        };
        let descriptor = self.read(at, size)?;
        let text = String::from_utf8_lossy(&descriptor);
        let searched = self.read(512, DESCRIPTOR)?;
        let searched = String::from_utf8_lossy(&searched).into_owned();
        if [&*text, &searched].iter().any(|text| has_parent(text)) {
            return Ok(Err(Refusal::NotAlone("a parent")));
        }
        let kind = text.lines().find_map(|line| line.trim().strip_prefix("createType="));
        let kind = kind.map(|kind| kind.trim().trim_matches('"'));
        if !matches!(kind, Some("monolithicSparse" | "streamOptimized")) {
            return Ok(Err(Refusal::NotAlone("extents in other files")));
        }
        Ok(Ok(()))
    }

    /// Source: [MS-VHDX], sections 2.2.3, 2.6: a table of regions at 192 KiB names the region of
    /// metadata; of that, the file parameters say whether there is a parent, and a parent locator
    /// says which.
    fn vhdx(&self) -> Result<Result<(), Refusal>, FileError> {
        const REGIONS: u64 = 192 << 10;
        const METADATA: [u8; 16] = [
            0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f,
            0x88, 0x6e,
        ];
        const PARAMETERS: [u8; 16] = [
            0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44,
            0xe7, 0x6b,
        ];
        const LOCATOR: [u8; 16] = [
            0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34,
            0xab, 0x0c,
        ];
        const TABLE: usize = 64 << 10;
        let regions = self.read(REGIONS, TABLE)?;
        let Some(count) = little(&regions, 8, 4).filter(|_| regions.starts_with(b"regi")) else {
            return Ok(Err(Refusal::Wrong));
        };
        let region = entries(&regions, 16, count).find(|entry| entry.starts_with(&METADATA));
        let Some(at) = region.and_then(|entry| little(entry, 16, 8)) else {
            return Ok(Err(Refusal::Wrong));
        };
        let table = self.read(at, TABLE)?;
        let Some(count) = little(&table, 10, 2).filter(|_| table.starts_with(b"metadata")) else {
            return Ok(Err(Refusal::Wrong));
        };
        let item = |id: &[u8]| entries(&table, 32, count).find(|entry| entry.starts_with(id));
        if item(&LOCATOR).is_some() {
            return Ok(Err(Refusal::NotAlone("a parent")));
        }
        let Some(offset) = item(&PARAMETERS).and_then(|entry| little(entry, 16, 4)) else {
            return Ok(Err(Refusal::Wrong));
        };
        let parameters = self.read(at.saturating_add(offset), 8)?;
        Ok(match little(&parameters, 4, 4) {
            None => Err(Refusal::Wrong),
            Some(flags) if flags & 0b10 != 0 => Err(Refusal::NotAlone("a parent")),
            Some(_) => Ok(()),
        })
    }

    /// Source: Microsoft's "Virtual Hard Disk Image Format Specification" 1.0: the footer is the
    /// last sector, and the first one too unless the disk is fixed; bytes 60 to 63 are its type, of
    /// which 2 is fixed, 3 dynamic and 4 differencing.
    fn vpc(&self) -> Result<Result<(), Refusal>, FileError> {
        let end = self.read(self.len.saturating_sub(FOOTER), 512)?;
        let mut kinds = [&self.start, &end]
            .into_iter()
            .filter(|footer| footer.starts_with(b"conectix"))
            .map(|footer| big(footer, 60, 4));
        Ok(if kinds.clone().any(|kind| kind == Some(4)) {
            Err(Refusal::NotAlone("a parent"))
        } else if kinds.all(|kind| matches!(kind, Some(2 | 3))) {
            Ok(())
        } else {
            Err(Refusal::Wrong)
        })
    }
}

/// Source: docs/interop/qcow2.rst of QEMU: bytes 8 to 15 are the offset of the backing file's name,
/// bytes 72 to 79 the incompatible features, of which bit 2 is an external data file.
fn qcow2(header: &[u8]) -> Result<(), Refusal> {
    let field = |at, len| big(header, at, len).ok_or(Refusal::Wrong);
    let version = field(4, 4)?;
    if !(2..=3).contains(&version) {
        return Err(Refusal::Wrong);
    }
    if field(8, 8)? != 0 {
        return Err(Refusal::NotAlone("a backing file"));
    }
    if version == 3 && field(72, 8)? & 0b100 != 0 {
        return Err(Refusal::NotAlone("an external data file"));
    }
    Ok(())
}

/// Source: `VdiHeader` of QEMU's block/vdi.c: bytes 76 to 79 are the type, of which 1 is dynamic, 2
/// fixed, and others have parents; bytes 424 to 455 the ids of the image linked to and of the
/// parent.
fn vdi(header: &[u8]) -> Result<(), Refusal> {
    let ids = header.get(424..456).ok_or(Refusal::Wrong)?;
    match little(header, 76, 4) {
        Some(1 | 2) if ids.iter().all(|&byte| byte == 0) => Ok(()),
        Some(_) => Err(Refusal::NotAlone("a parent")),
        None => Err(Refusal::Wrong),
    }
}

/// Source: `docs/interop/qed_spec.rst` of QEMU: bytes 16 to 23 are the features, of which bit 0 is a
/// backing file; bytes 60 to 63 the length of its name.
fn qed(header: &[u8]) -> Result<(), Refusal> {
    let field = |at, len| little(header, at, len).ok_or(Refusal::Wrong);
    if field(16, 8)? & 1 != 0 || field(60, 4)? != 0 {
        return Err(Refusal::NotAlone("a backing file"));
    }
    Ok(())
}

/// Whether a VMDK descriptor names a parent.
fn has_parent(descriptor: &str) -> bool {
    let id = |line: &str| line.trim().strip_prefix("parentCID=").map(|id| id.trim().to_owned());
    descriptor.contains("parentFileNameHint")
        || descriptor.lines().filter_map(id).any(|id| !id.eq_ignore_ascii_case("ffffffff"))
}

/// The entries of a VHDX table, 32 bytes each, that start at a place.
fn entries(table: &[u8], at: usize, count: u64) -> impl Iterator<Item = &[u8]> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    table.get(at..).unwrap_or_default().chunks_exact(32).take(count)
}

fn big(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

fn little(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}
