//! A look into raw disks: where their partitions lie, and what their file systems hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{kept, run};

/// A file system of a raw disk, mounted read-only without its journal being replayed or needed.
pub struct Mounted {
    pub path: PathBuf,
    device: String,
}

/// Where a partition lies in a raw disk: its first byte and its length.
pub fn partition(raw: &Path, number: u32) -> (u64, u64) {
    let output = run(Command::new("sfdisk").arg("--json").arg(raw));
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    let entries = table["partitiontable"]["partitions"].as_array().unwrap();
    let wanted = format!("{}{number}", raw.display());
    let entry = entries.iter().find(|entry| entry["node"] == *wanted).unwrap();
    (entry["start"].as_u64().unwrap() * 512, entry["size"].as_u64().unwrap() * 512)
}

impl Mounted {
    /// Mounts the root, the second partition of a bootstrapped disk.
    pub fn root_of(raw: &Path) -> Self {
        let (start, size) = partition(raw, 2);
        Self::at(raw, start, size, true)
    }

    /// Mounts what lies in a file from a byte on.
    pub fn at(raw: &Path, start: u64, size: u64, read_only: bool) -> Self {
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--offset", &start.to_string()]);
        attach.args(["--sizelimit", &size.to_string()]);
        if read_only {
            attach.arg("--read-only");
        }
        let output = run(attach.arg(raw));
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let path = tempfile::Builder::new().prefix("mount-").tempdir_in(kept()).unwrap().keep();
        let options = if read_only { "ro,noload" } else { "rw" };
        let mounted = Self { path, device };
        run(Command::new("mount").args(["-o", options]).arg(&mounted.device).arg(&mounted.path));
        mounted
    }

    /// A path of the guest.
    pub fn join(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Reads a file of the guest.
    pub fn read(&self, path: &str) -> String {
        let path = self.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Every name with type, mode, owner, and content or target; no times and no inode numbers.
    pub fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        for entry in walkdir::WalkDir::new(&self.path).sort_by_file_name() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let content = if meta.is_symlink() {
                fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned()
            } else if meta.is_file() {
                kiln::digest::Digest::of(&fs::read(entry.path()).unwrap()).to_string()
            } else {
                format!("{:x}", meta.rdev())
            };
            let name = entry.path().strip_prefix(&self.path).unwrap();
            let what = format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
            tree.insert(name.to_string_lossy().into_owned(), what);
        }
        tree
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
        let _ = fs::remove_dir(&self.path);
    }
}

/// What differs between two trees, shortened.
pub fn differences(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let differ = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    differ.take(20).map(|name| format!("{name}: {:?} / {:?}", a.get(name), b.get(name))).collect()
}
