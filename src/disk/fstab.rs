//! What a guest's fstab says, and which of a disk's file systems it means.
//!
//! Pure: it reads no file and mounts nothing.

use super::mounts::FileSystem;

/// One line of an fstab.
pub(super) struct FstabEntry {
    /// What is mounted, such as `UUID=…`.
    pub(super) spec: String,
    /// Where.
    pub(super) target: String,
    kind: String,
    options: Vec<String>,
}

impl FstabEntry {
    /// Whether it has an option.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|other| other == option)
    }

    /// The value of an option, such as `x` of `subvol=x`.
    pub(super) fn option(&self, name: &str) -> Option<String> {
        self.options.iter().find_map(|option| {
            let (key, value) = option.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    }

    /// Whether it is none of the disk's file systems.
    pub(super) fn is_elsewhere(&self) -> bool {
        let on_disk = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID=", "/dev/"];
        matches!(
            self.kind.as_str(),
            "swap"
                | "tmpfs"
                | "proc"
                | "sysfs"
                | "nfs"
                | "nfs4"
                | "cifs"
                | "9p"
                | "virtiofs"
                | "overlay"
        ) || !on_disk.iter().any(|prefix| self.spec.starts_with(prefix))
            || self.has("bind")
    }
}

/// The entries of an fstab; lines that are none are passed over. Source: fstab(5).
pub(super) fn parse(text: &str) -> Vec<FstabEntry> {
    let unescape = |field: &str| {
        let blanks = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
        blanks.replace("\\134", "\\")
    };
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some(FstabEntry {
                spec: unescape(fields.next()?).trim_matches('"').to_owned(),
                target: unescape(fields.next()?),
                kind: fields.next()?.to_owned(),
                options: fields
                    .next()
                    .unwrap_or("defaults")
                    .split(',')
                    .map(str::to_owned)
                    .collect(),
            })
        })
        .collect()
}

/// The file system that a field of an fstab means.
pub(super) fn find<'a>(systems: &'a [FileSystem], spec: &str) -> Option<&'a FileSystem> {
    const LINKS: [(&str, &str); 4] = [
        ("/dev/disk/by-uuid/", "UUID"),
        ("/dev/disk/by-label/", "LABEL"),
        ("/dev/disk/by-partuuid/", "PARTUUID"),
        ("/dev/disk/by-partlabel/", "PARTLABEL"),
    ];
    let link = LINKS.iter().find_map(|(path, key)| Some((*key, spec.strip_prefix(path)?)));
    let (key, value) = link.or_else(|| spec.split_once('=')).unwrap_or(("", spec));
    let value = value.trim_matches('"');
    let lower = value.to_lowercase();
    systems.iter().find(|system| match key {
        "UUID" => system.uuid.as_ref() == Some(&lower),
        "PARTUUID" => system.partition_uuid.as_ref() == Some(&lower),
        "LABEL" => system.label.as_deref() == Some(value),
        "PARTLABEL" => system.partition_label.as_deref() == Some(value),
        "" => disk_partition(value).is_some_and(|number| system.partition == Some(number)),
        _ => false,
    })
}

/// The number in a partition's kernel name, such as 2 in `/dev/vda2` and `/dev/nvme0n1p2`.
fn disk_partition(device: &str) -> Option<u32> {
    let name = device.strip_prefix("/dev/")?;
    let disk = ["sda", "vda", "xvda", "hda", "nvme0n1p", "mmcblk0p"];
    disk.iter().find_map(|disk| name.strip_prefix(disk))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn system(number: u32, uuid: &str) -> FileSystem {
        FileSystem {
            device: PathBuf::from(format!("/dev/loop0p{number}")),
            kind: "ext4".into(),
            uuid: Some(uuid.into()),
            label: Some(format!("label {number}")),
            partition_uuid: Some(format!("part-{number}")),
            partition_label: Some(format!("Part {number}")),
            partition: Some(number),
        }
    }

    #[test]
    fn fstab_names_are_found() {
        let systems = [system(1, "aa-1"), system(2, "bb-2")];
        let number = |spec: &str| find(&systems, spec).and_then(|system| system.partition);
        assert_eq!(number("UUID=BB-2"), Some(2));
        assert_eq!(number("UUID=\"aa-1\""), Some(1));
        assert_eq!(number("PARTUUID=part-2"), Some(2));
        assert_eq!(number("LABEL=label 1"), Some(1));
        assert_eq!(number("PARTLABEL=Part 2"), Some(2));
        assert_eq!(number("/dev/disk/by-label/label 2"), Some(2));
        assert_eq!(number("/dev/disk/by-partuuid/PART-1"), Some(1));
        assert_eq!(number("/dev/disk/by-partlabel/Part 1"), Some(1));
        assert_eq!(number("/dev/sdb1"), None);
        assert_eq!(number("/dev/vda2"), Some(2));
        assert_eq!(number("/dev/nvme0n1p1"), Some(1));
        assert_eq!(number("/dev/disk/by-uuid/aa-1"), Some(1));
        assert_eq!(number("/dev/mapper/vg-root"), None);
        assert_eq!(number("UUID=cc-3"), None);
    }

    #[test]
    fn fstab_lines_are_read() {
        let text = "# a comment\nUUID=aa-1 / ext4 errors=remount-ro 0 1\n\n\
                    LABEL=my\\040data /srv/my\\040data xfs nofail,subvol=x\nproc /proc proc\nbroken\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 3);
        assert_eq!(
            (entries[1].spec.as_str(), entries[1].target.as_str()),
            ("LABEL=my data", "/srv/my data")
        );
        assert!(entries[1].has("nofail"));
        assert_eq!(entries[1].option("subvol").as_deref(), Some("x"));
        assert!(entries[2].is_elsewhere());
    }
}
