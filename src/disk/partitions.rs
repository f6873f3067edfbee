//! Partition tables and file system signatures, read by util-linux's `sfdisk` and `blkid`.
//!
//! Kernels may lack the parsers, so the table is read here and told to the kernel partition by
//! partition. Where a file system is to be mounted is not known here.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// The partition's own id (`PARTUUID`), lower case; the kernel makes one for an MBR.
    pub uuid: Option<String>,
    /// The partition's name (`PARTLABEL`), where the table has such.
    pub name: Option<String>,
}

/// The partition table of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its kind, as `sfdisk` calls it: `gpt`, `dos` for an MBR, or another.
    pub kind: String,
    /// Its partitions, by number, without those that only hold others.
    pub partitions: Vec<Partition>,
    /// First byte behind what partitions may take, where the table itself says so.
    pub end: Option<u64>,
    /// First byte behind the partition that only holds others; 0 where there is none.
    pub extended_end: u64,
}

/// What a block device holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// The kind: `ext4`, `xfs`, `swap`, `LVM2_member`, …
    pub kind: Option<String>,
    /// The file system's id.
    pub uuid: Option<String>,
    /// The file system's label.
    pub label: Option<String>,
}

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PartitionError {
    /// The program could not be started.
    #[error("cannot run `{program}`")]
    #[diagnostic(
        code(kiln::disk::no_program),
        help("`kiln doctor --fix` installs what is missing")
    )]
    Start {
        /// The program.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The program failed.
    #[error("`{program}` failed on `{}`: {message}", path.display())]
    #[diagnostic(code(kiln::disk::program_failed))]
    Failed {
        /// The program.
        program: &'static str,
        /// The device or file.
        path: PathBuf,
        /// The last line that it said.
        message: String,
    },
    /// The table makes no sense.
    #[error("the partition table of `{}` makes no sense: {what}", path.display())]
    #[diagnostic(code(kiln::disk::bad_table), help("check the base with `sfdisk --verify`"))]
    Table {
        /// The device or file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

pub(super) fn output(
    program: &'static str,
    arguments: &[&str],
    path: &Path,
) -> Result<std::process::Output, PartitionError> {
    Command::new(program)
        .args(arguments)
        .arg(path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| PartitionError::Start { program, source })
}

pub(super) fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().lines().last().unwrap_or_default().escape_default().to_string()
}

/// Reads the partition table of a disk of `size` bytes; `None` where it has none.
///
/// # Errors
/// Where `sfdisk` cannot be run, or a partition does not lie on the disk.
pub fn read_table(path: &Path, size: u64) -> Result<Option<Table>, PartitionError> {
    let result = output("sfdisk", &["--json"], path)?;
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        // The only way in which sfdisk tells that there is no table.
        if said.contains("does not contain a recognized partition table") {
            return Ok(None);
        }
        let message = last_line(&result.stderr);
        return Err(PartitionError::Failed { program: "sfdisk", path: path.to_owned(), message });
    }
    parse_table(&result.stdout, size)
        .map(Some)
        .map_err(|what| PartitionError::Table { path: path.to_owned(), what })
}

/// Types of MBR partitions that only hold others.
const EXTENDED: [&str; 3] = ["5", "f", "85"];

fn parse_table(json: &[u8], size: u64) -> Result<Table, &'static str> {
    #[derive(Deserialize)]
    struct Document {
        partitiontable: Written,
    }
    #[derive(Deserialize)]
    struct Written {
        label: String,
        #[serde(default)]
        id: String,
        lastlba: Option<u64>,
        sectorsize: Option<u64>,
        #[serde(default)]
        partitions: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        node: String,
        start: u64,
        size: u64,
        #[serde(rename = "type")]
        kind: String,
        uuid: Option<String>,
        name: Option<String>,
    }
    let document: Document =
        serde_json::from_slice(json).map_err(|_| "sfdisk's answer is not understood")?;
    let Written { label, id, lastlba, sectorsize, partitions: entries } = document.partitiontable;
    let sector = sectorsize.unwrap_or(512);
    let disk = (label == "dos").then(|| id.trim_start_matches("0x").to_lowercase());
    let end = lastlba.and_then(|last| last.checked_add(1)?.checked_mul(sector));
    let mut extended_end = 0;
    let mut partitions = Vec::new();
    for entry in entries {
        if EXTENDED.contains(&entry.kind.as_str()) {
            let end = entry.start.saturating_add(entry.size).saturating_mul(sector);
            extended_end = extended_end.max(end);
            continue;
        }
        let digits =
            entry.node.len() - entry.node.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number = entry.node[entry.node.len() - digits..].parse();
        let number: u32 = number.map_err(|_| "a partition has no number")?;
        let start = entry.start.checked_mul(sector).ok_or("a partition lies behind the disk")?;
        let bytes = entry.size.checked_mul(sector).ok_or("a partition lies behind the disk")?;
        if bytes == 0 || start.checked_add(bytes).is_none_or(|end| end > size) {
            return Err("a partition lies behind the disk");
        }
        let of_mbr = || disk.as_ref().map(|disk| format!("{disk}-{number:02x}"));
        let uuid = entry.uuid.map(|uuid| uuid.to_lowercase()).or_else(of_mbr);
        partitions.push(Partition { number, start, size: bytes, uuid, name: entry.name });
    }
    partitions.sort_by_key(|partition| partition.number);
    if partitions.windows(2).any(|pair| pair[0].number == pair[1].number) {
        return Err("two partitions have one number");
    }
    Ok(Table { kind: label, partitions, end, extended_end })
}

/// Finds out what a device holds, by its own bytes and not by any cache.
///
/// # Errors
/// Where `blkid` cannot be run, or finds two kinds at once.
pub fn probe(path: &Path) -> Result<Signature, PartitionError> {
    let result = output("blkid", &["--probe", "--output", "export"], path)?;
    match result.status.code() {
        Some(0) => Ok(parse_signature(&String::from_utf8_lossy(&result.stdout))),
        // Nothing found.
        Some(2) => Ok(Signature::default()),
        // Several signatures at once: mounting by one of them would be a guess.
        Some(8) => Err(PartitionError::Failed {
            program: "blkid",
            path: path.to_owned(),
            message: "more than one kind of file system is found there".to_owned(),
        }),
        _ => Err(PartitionError::Failed {
            program: "blkid",
            path: path.to_owned(),
            message: last_line(&result.stderr),
        }),
    }
}

fn parse_signature(text: &str) -> Signature {
    let mut signature = Signature::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.replace('\\', "");
        match key {
            "TYPE" => signature.kind = Some(value),
            "UUID" => signature.uuid = Some(value.to_lowercase()),
            "LABEL" => signature.label = Some(value),
            _ => {}
        }
    }
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"{"partitiontable": {"label":"gpt", "id":"C-1", "lastlba":16350,
        "sectorsize":512, "partitions": [
        {"node":"/dev/loop0p1", "start":2048, "size":2048, "type":"21686148", "uuid":"AB-1",
         "name":"of grub"},
        {"node":"/dev/loop0p2", "start":4096, "size":8192, "type":"0FC63DAF"}]}}"#;

    #[test]
    fn a_table_is_read() {
        let table = parse_table(TABLE.as_bytes(), 1 << 30).unwrap();
        assert_eq!((table.kind.as_str(), table.end), ("gpt", Some(16351 * 512)));
        let [first, second] = &table.partitions[..] else { panic!("{table:?}") };
        assert_eq!(first.uuid.as_deref(), Some("ab-1"));
        assert_eq!(first.name.as_deref(), Some("of grub"));
        assert_eq!((second.number, second.start, second.size), (2, 2 << 20, 4 << 20));
    }

    #[test]
    fn an_mbr_is_read() {
        let json = br#"{"partitiontable": {"label":"dos", "id":"0x1234ABCD", "partitions": [
            {"node":"/dev/loop0p1", "start":2048, "size":2048, "type":"83"},
            {"node":"/dev/loop0p2", "start":4096, "size":4096, "type":"5"},
            {"node":"/dev/loop0p5", "start":6144, "size":2048, "type":"83"}]}}"#;
        let table = parse_table(json, 1 << 30).unwrap();
        assert_eq!(table.extended_end, 4 << 20);
        let ids: Vec<_> = table.partitions.iter().map(|part| part.uuid.as_deref()).collect();
        assert_eq!(ids, [Some("1234abcd-01"), Some("1234abcd-05")]);
    }

    #[test]
    fn a_partition_behind_the_disk_is_refused() {
        assert!(parse_table(TABLE.as_bytes(), 5 << 20).is_err());
        let huge = TABLE.replace("8192", &u64::MAX.to_string());
        assert!(parse_table(huge.as_bytes(), 1 << 30).is_err());
    }

    #[test]
    fn a_disk_without_a_table_has_no_partitions() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(read_table(file.path(), 1 << 20).unwrap(), None);
        assert_eq!(probe(file.path()).unwrap(), Signature::default());
    }
}
