//! Seed disks: what a small disk holds that tells an instance who it is.
//!
//! cloud-init finds such a disk by its label: `cidata` is a seed of `NoCloud`, `config-2` the config
//! drive of `OpenStack`. The disk has a FAT file system and no partition table, and nothing on it
//! depends on the time or the host: the same input gives the same bytes.
//!
//! Sources: cloud-init, "`NoCloud`" and "`OpenStack`" of its reference of data sources; Microsoft,
//! "FAT: general overview of on-disk format" 1.03.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Write as _};

use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use serde::Serialize;

use crate::digest::Hasher;

/// The label of a `NoCloud` seed.
pub const NO_CLOUD: &str = "cidata";
/// The label of a config drive.
pub const CONFIG_DRIVE: &str = "config-2";

/// Bytes of a cluster: FAT12 up to 8 MiB, FAT16 beyond.
const CLUSTER: usize = 2048;
/// The smallest disk, in bytes.
const SMALLEST: usize = 1 << 20;
/// Most bytes that the files may take, in whole clusters: the size of nova's own config drives.
pub const LIMIT: usize = 64 << 20;
/// Most entries of the root directory; a long name takes several.
const ROOT_ENTRIES: u16 = 512;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The label is none that FAT has room for.
    #[error("`{}` is no label of a FAT file system", label.escape_debug())]
    Label {
        /// The label.
        label: String,
    },
    /// A path is none that every reader of FAT finds again.
    #[error("`{}` cannot be a file of a seed disk: {why}", path.escape_debug())]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The files are too large together.
    #[error("the files of a seed disk may have {LIMIT} bytes together, and these have {bytes}")]
    TooLarge {
        /// What they have, in whole clusters.
        bytes: usize,
    },
    /// The file system did not take something, as its root directory is full.
    #[error("the seed disk could not be written at `{}`", at.escape_debug())]
    Write {
        /// The file, or the label where it was none.
        at: String,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// One moment for every file: the first that FAT knows.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        let time = Time { hour: 0, min: 0, sec: 0, millis: 0 };
        DateTime { date: self.get_current_date(), time }
    }
}

/// Bytes of a small disk with a FAT file system: its label, and files by their path on it, such as
/// `openstack/latest/meta_data.json`. Directories are made as they are needed, and the disk is as
/// large as its files need, in whole MiB.
///
/// # Errors
/// Where the label or a path does not fit, two paths differ in nothing but case, or the files are
/// too large together.
pub fn disk(label: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>, SeedError> {
    let label_bytes = padded(label)?;
    check(files)?;
    let mut bytes = vec![0; size(files)?];
    let failed = |source| SeedError::Write { at: label.to_owned(), source };
    let options = FormatVolumeOptions::new()
        .bytes_per_cluster(u32::try_from(CLUSTER).expect("a small number"))
        .max_root_dir_entries(ROOT_ENTRIES)
        .volume_label(label_bytes)
        .volume_id(volume_id(label, files));
    fatfs::format_volume(Cursor::new(&mut bytes), options).map_err(failed)?;
    for_each(&mut bytes, label, files, make_directories)?;
    mend_directories(&mut bytes);
    for_each(&mut bytes, label, files, make_file)?;
    Ok(bytes)
}

/// The file system on a disk in memory.
type Volume<'a> = FileSystem<Cursor<&'a mut Vec<u8>>>;

/// Does something for each file, with the disk mounted.
fn for_each(
    bytes: &mut Vec<u8>,
    label: &str,
    files: &[(&str, &[u8])],
    what: impl Fn(&Volume<'_>, &str, &[u8]) -> io::Result<()>,
) -> Result<(), SeedError> {
    let failed = |source| SeedError::Write { at: label.to_owned(), source };
    let options = FsOptions::new().time_provider(&Epoch).update_accessed_date(false);
    let volume = FileSystem::new(Cursor::new(bytes), options).map_err(failed)?;
    for (path, content) in files {
        what(&volume, path, content)
            .map_err(|source| SeedError::Write { at: (*path).to_owned(), source })?;
    }
    volume.unmount().map_err(failed)
}

fn make_directories(volume: &Volume<'_>, path: &str, _: &[u8]) -> io::Result<()> {
    for (end, _) in path.match_indices('/') {
        volume.root_dir().create_dir(&path[..end])?;
    }
    Ok(())
}

fn make_file(volume: &Volume<'_>, path: &str, content: &[u8]) -> io::Result<()> {
    let mut file = volume.root_dir().create_file(path)?;
    file.write_all(content)?;
    file.flush()
}

/// Gives each directory its first two entries as FAT wants them: `.` and `..`, without long names.
/// `fatfs` 0.3 writes long names for them too, and `fsck.fat` would remove such directories.
///
/// It looks for them in all sectors, so no file may have a content yet.
fn mend_directories(bytes: &mut [u8]) {
    const ENTRY: usize = 32;
    const LONG_NAME: u8 = 0x0f;
    const REMOVED: u8 = 0xe5;
    for sector in bytes.chunks_exact_mut(512) {
        let is_named = |at: usize, name: &[u8; 11]| sector[at * ENTRY..].starts_with(name);
        let is_long = |at: usize| sector[at * ENTRY + 11] == LONG_NAME;
        if is_long(0) && is_named(1, b".          ") && is_long(2) && is_named(3, b"..         ") {
            sector.copy_within(ENTRY..2 * ENTRY, 0);
            sector.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
            sector[2 * ENTRY..4 * ENTRY].fill(0);
            sector[2 * ENTRY] = REMOVED;
            sector[3 * ENTRY] = REMOVED;
        }
    }
}

/// A label as FAT has it: eleven bytes, the rest spaces. Lower case is kept, as cloud-init asks for
/// `cidata` and `config-2` in the first place.
fn padded(label: &str) -> Result<[u8; 11], SeedError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if label.is_empty() || label.len() > 11 || !label.bytes().all(fits) {
        return Err(SeedError::Label { label: label.to_owned() });
    }
    let mut bytes = [b' '; 11];
    bytes[..label.len()].copy_from_slice(label.as_bytes());
    Ok(bytes)
}

/// Whether every path is found again by its name, whatever system reads the disk.
fn check(files: &[(&str, &[u8])]) -> Result<(), SeedError> {
    let (mut names, mut directories) = (BTreeSet::new(), BTreeSet::new());
    for (path, _) in files {
        let refuse = |why| Err(SeedError::Path { path: (*path).to_owned(), why });
        for name in path.split('/') {
            let fits = |c: char| c.is_ascii_alphanumeric() || " -_.+@~".contains(c);
            if name.is_empty() || name.len() > 255 {
                return refuse("a name in it is empty or longer than 255 characters");
            }
            if !name.chars().all(fits) {
                return refuse("a name has letters and digits of ASCII, spaces, and `-_.+@~`");
            }
            // What FAT's readers drop from the end of a name, and the names of directories.
            if name.ends_with(['.', ' ']) || name.starts_with(' ') {
                return refuse("a name in it starts with a space, or ends with one or with a dot");
            }
        }
        // FAT tells names apart without their case.
        let folded = path.to_ascii_lowercase();
        for (end, _) in folded.match_indices('/') {
            directories.insert(folded[..end].to_owned());
        }
        if !names.insert(folded) {
            return refuse("another file has its name, perhaps in other case");
        }
    }
    match names.intersection(&directories).next() {
        Some(path) => {
            Err(SeedError::Path { path: path.clone(), why: "it is a file and a directory" })
        }
        None => Ok(()),
    }
}

/// How large the disk is: what the files and directories take, the tables, and some room.
fn size(files: &[(&str, &[u8])]) -> Result<usize, SeedError> {
    let entries = |path: &str| 1 + path.len() / 13 + 1;
    let content: usize = files.iter().map(|(_, bytes)| bytes.len().next_multiple_of(CLUSTER)).sum();
    // Each part of a path may be a directory of its own, and an entry in another.
    let directories: usize = files
        .iter()
        .map(|(path, _)| path.matches('/').count() * 2 * CLUSTER + 32 * entries(path))
        .sum();
    let taken = content + directories;
    if taken > LIMIT {
        return Err(SeedError::TooLarge { bytes: taken });
    }
    // Two tables of two bytes a cluster, and the root directory.
    let tables = taken / CLUSTER * 4 + 32 * usize::from(ROOT_ENTRIES) + 64 * 1024;
    Ok((taken + tables).next_multiple_of(SMALLEST))
}

/// The number of the volume, which follows from what is on it: two seeds are two volumes.
fn volume_id(label: &str, files: &[(&str, &[u8])]) -> u32 {
    let mut hasher = Hasher::new("kiln 2026 seed volume v1");
    hasher.bytes(label.as_bytes());
    for (path, content) in files {
        hasher.bytes(path.as_bytes()).bytes(content);
    }
    let [a, b, c, d, ..] = *hasher.finish().as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A seed of `NoCloud`: what an instance gets without a cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoCloud {
    /// The user data, as a cloud would give it.
    pub user_data: Vec<u8>,
    /// The host name; the image's own where there is none.
    pub hostname: Option<String>,
    /// Public keys of whoever may log in as the default user, one each.
    pub keys: Vec<String>,
    /// A configuration of the network, of version 1 or 2; DHCP where there is none.
    pub network_config: Option<Vec<u8>>,
}

/// The file `meta-data`, which is YAML; JSON is YAML too.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MetaData<'a> {
    instance_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    public_keys: &'a [String],
}

impl NoCloud {
    /// What makes cloud-init do its work again: another seed is another instance.
    #[must_use]
    pub fn instance_id(&self) -> String {
        let Self { user_data, hostname, keys, network_config } = self;
        let mut hasher = Hasher::new("kiln 2026 NoCloud instance v1");
        hasher.bytes(user_data);
        for text in [hostname.as_deref().unwrap_or_default()]
            .into_iter()
            .chain(keys.iter().map(String::as_str))
        {
            hasher.bytes(text.as_bytes());
        }
        hasher.bytes(network_config.as_deref().unwrap_or_default());
        format!("kiln-{}", hasher.finish().short())
    }

    /// The content of `meta-data`.
    #[must_use]
    pub fn meta_data(&self) -> String {
        let meta_data = MetaData {
            instance_id: self.instance_id(),
            local_hostname: self.hostname.as_deref(),
            public_keys: &self.keys,
        };
        let text = serde_json::to_string_pretty(&meta_data).expect("texts in a struct");
        format!("{text}\n")
    }

    /// The disk.
    ///
    /// # Errors
    /// As [`disk`].
    pub fn disk(&self) -> Result<Vec<u8>, SeedError> {
        let meta_data = self.meta_data();
        let mut files: Vec<(&str, &[u8])> =
            vec![("meta-data", meta_data.as_bytes()), ("user-data", &self.user_data)];
        if let Some(network_config) = &self.network_config {
            files.push(("network-config", network_config));
        }
        disk(NO_CLOUD, &files)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    /// Every file of a disk, read by the crate that wrote it.
    fn read(bytes: &mut [u8]) -> BTreeMap<String, Vec<u8>> {
        let system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        let (mut found, mut open) = (BTreeMap::new(), vec![String::new()]);
        while let Some(at) = open.pop() {
            let root = system.root_dir();
            let directory =
                if at.is_empty() { root } else { root.open_dir(at.trim_end_matches('/')).unwrap() };
            for entry in directory.iter().map(Result::unwrap) {
                let name = entry.file_name();
                if entry.is_dir() && name != "." && name != ".." {
                    open.push(format!("{at}{name}/"));
                } else if entry.is_file() {
                    let mut content = Vec::new();
                    entry.to_file().read_to_end(&mut content).unwrap();
                    found.insert(format!("{at}{name}"), content);
                }
            }
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_file_is_found_again(
            files in prop::collection::btree_map(
                "([a-z]{1,12}/){0,3}[a-z][a-z0-9_.-]{0,40}[a-z0-9]",
                prop::collection::vec(any::<u8>(), 0..6000),
                0..20,
            ),
        ) {
            let listed: Vec<_> =
                files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
            match disk(CONFIG_DRIVE, &listed) {
                Ok(mut bytes) => {
                    prop_assert_eq!(&bytes, &disk(CONFIG_DRIVE, &listed).unwrap());
                    prop_assert_eq!(read(&mut bytes), files);
                }
                Err(error) => {
                    let clash = matches!(error, SeedError::Path { why, .. } if why.contains("directory"));
                    prop_assert!(clash, "{}", error);
                }
            }
        }
    }

    #[test]
    fn a_disk_grows_with_what_is_on_it() {
        assert_eq!(disk(NO_CLOUD, &[]).unwrap().len(), SMALLEST);
        for megabytes in [1, 7, 9, 40] {
            let content = vec![7; megabytes << 20];
            let mut bytes = disk(NO_CLOUD, &[("a/b/large", &content)]).unwrap();
            assert!(bytes.len() <= content.len() + (2 << 20), "{} for {megabytes}", bytes.len());
            assert_eq!(read(&mut bytes), BTreeMap::from([("a/b/large".to_owned(), content)]));
        }
        let content = vec![7; LIMIT + 1];
        assert!(matches!(disk(NO_CLOUD, &[("x", &content)]), Err(SeedError::TooLarge { .. })));
    }

    #[test]
    fn what_no_reader_would_find_again_is_refused() {
        for label in ["", "a label", "twelve-bytes", "ä"] {
            assert!(matches!(disk(label, &[]), Err(SeedError::Label { .. })), "{label}");
        }
        for path in ["", "/a", "a/", "a//b", ".", "../a", "a.", "a ", "a:b", "ä", "a\0"] {
            let error = disk(NO_CLOUD, &[(path, b"")]).unwrap_err();
            assert!(matches!(error, SeedError::Path { .. }), "{path}");
        }
        for pair in [["user-data", "User-Data"], ["a", "A/b"]] {
            let error = disk(NO_CLOUD, &pair.map(|path| (path, &b"x"[..]))).unwrap_err();
            assert!(matches!(error, SeedError::Path { .. }), "{pair:?}");
        }
    }

    #[test]
    fn another_seed_is_another_instance() {
        let seed = NoCloud { user_data: b"#cloud-config\n".to_vec(), ..NoCloud::default() };
        let named = NoCloud { hostname: Some("web".to_owned()), ..seed.clone() };
        assert_eq!(seed.instance_id(), seed.clone().instance_id());
        assert_ne!(seed.instance_id(), named.instance_id());
        let expected = format!(
            "{{\n  \"instance-id\": \"{}\",\n  \"local-hostname\": \"web\"\n}}\n",
            named.instance_id()
        );
        assert_eq!(named.meta_data(), expected);
    }
}
