//! `base`: where an image's disk comes from.
//!
//! Turns a checked node into a [`Base`]; whether the file, template or image exists is not known
//! here.

use std::collections::BTreeSet;

use kdl::KdlNode;

use super::fields::{Context, Fields, known_nodes};
use super::table::Word;
use crate::mistake::Mistake;
use crate::name::GuestPath;
use crate::recipe::{
    Base, Bootstrap, Checksum, DiskFormat, Fetch, FileBase, Firmware, Layout, LocalFile, Origin,
    Partition, PartitionUse, Scratch, SystemKind, TableKind,
};
use crate::source::Spanned;

/// Where an EFI system partition is mounted.
const ESP: &str = "/boot/efi";
/// Places that no partition has: the root is known by its `/etc`, and the others are the running
/// system's own.
const NOT_APART: [&str; 6] = ["/etc", "/dev", "/proc", "/run", "/sys", "/tmp"];

/// Size of a disk that kiln makes where none is written.
const DEFAULT_SIZE: u64 = 4 << 30;

/// The base that a node describes; `None` if something about it is wrong.
pub(super) fn lower(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Base<LocalFile>> {
    match fields.word.form {
        Some("bootstrap") => bootstrap(cx, fields).map(Base::Bootstrap),
        Some("scratch") => {
            let nodes = inner_nodes(cx, fields);
            let layout = layout(cx, fields, &nodes)?;
            let size = fields.property("size").unwrap_or(DEFAULT_SIZE);
            Some(Base::Scratch(Scratch { size, layout }))
        }
        Some("file") => {
            Some(Base::File(FileBase { file: fields.one("disk")?, format: format(fields) }))
        }
        Some("url") => {
            let checksum = checksum(cx, fields)?;
            let origin = Origin::Url(fields.one("address")?);
            Some(Base::Fetch(Fetch { origin, checksum, format: format(fields) }))
        }
        Some("template") => {
            let origin =
                Origin::Template { name: fields.one("name")?, arch: fields.property("arch") };
            Some(Base::Fetch(Fetch { origin, checksum: None, format: None }))
        }
        Some("catalog") => {
            let origin = Origin::Catalog(fields.one("name")?);
            Some(Base::Fetch(Fetch { origin, checksum: None, format: None }))
        }
        _ => Some(Base::Image(fields.one::<Spanned<_>>("image")?)),
    }
}

/// What the disk of a base that is taken as it is grows to.
pub(super) fn size(fields: &Fields<'_>) -> Option<Spanned<u64>> {
    // A disk that kiln makes has that size from the start.
    let made = matches!(fields.word.form, Some("bootstrap" | "scratch"));
    if made { None } else { fields.property("size") }
}

/// What stands in for a base that could not be read, so that the rest can be checked too.
pub(super) fn placeholder() -> Base<LocalFile> {
    Base::Scratch(Scratch { size: DEFAULT_SIZE, layout: Layout::default() })
}

fn format(fields: &Fields<'_>) -> Option<DiskFormat> {
    let word = fields.property::<&str>("format")?;
    DiskFormat::ALL.into_iter().find(|format| format.keyword() == word)
}

/// The checksum that is written; `None` where both are.
#[expect(clippy::option_option, reason = "a mistake, or none written, or one")]
fn checksum(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Option<Checksum>> {
    match (fields.written("sha256"), fields.written("sha512")) {
        (None, None) => Some(None),
        (Some(_), None) => Some(Some(Checksum::Sha256(fields.property("sha256")?))),
        (None, Some(_)) => Some(Some(Checksum::Sha512(fields.property("sha512")?))),
        (Some(first), Some(second)) => {
            let message = "`sha256` and `sha512` exclude each other";
            cx.push(
                Mistake::at(second, "kiln::lower::exactly_one", message, "and this one")
                    .and(first, "this one")
                    .help("write only one of them"),
            );
            None
        }
    }
}

type Node<'a> = (&'a KdlNode, &'static Word);

fn inner_nodes<'a>(cx: &mut Context<'_>, fields: &Fields<'a>) -> Vec<Node<'a>> {
    let known: Vec<&'static Word> = fields.word.children().collect();
    let owner = format!("`{}`", fields.word.title());
    fields.node.children().map_or_else(Vec::new, |block| known_nodes(cx, block, &owner, &known))
}

/// The layout that inner nodes describe; those of other words are left alone.
fn layout(cx: &mut Context<'_>, fields: &Fields<'_>, nodes: &[Node<'_>]) -> Option<Layout> {
    let before = cx.mistakes.len();
    let mut layout = Layout { partitions: Vec::new(), ..Layout::default() };
    for (node, word) in nodes {
        match word.keyword {
            "table" => {
                let inner = Fields::read(cx, node, word);
                if inner.one::<&str>("kind") == Some("mbr") {
                    layout.table = TableKind::Mbr;
                }
            }
            "firmware" => {
                let inner = Fields::read(cx, node, word);
                layout.firmware = match inner.one::<&str>("kind") {
                    Some("uefi") => Firmware::Uefi,
                    Some("both") => Firmware::Both,
                    _ => Firmware::Bios,
                };
            }
            "partition" => {
                let inner = Fields::read(cx, node, word);
                layout.partitions.extend(partition(cx, &inner));
            }
            _ => {}
        }
    }
    if layout.partitions.is_empty() {
        layout.partitions = Layout::default().partitions;
    }
    if cx.mistakes.len() > before {
        return None;
    }
    if let Some(why) = layout_fault(&layout) {
        cx.push(
            Mistake::at(fields.span, "kiln::lower::bad_layout", why.to_owned(), "this disk")
                .help("a disk has one `partition \"/\"`, each place once, at most one partition without a `size`, and at most four on an MBR"),
        );
        return None;
    }
    Some(layout)
}

fn partition(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Partition> {
    let place: String = fields.one("place")?;
    let size = fields.property("size");
    if fields.written("size").is_some() && size.is_none() {
        return None;
    }
    if place == "swap" {
        if let Some(span) = fields.written("fs") {
            let message = "swap space has no file system";
            cx.push(
                Mistake::at(span, "kiln::lower::bad_layout", message, "here").help("remove it"),
            );
            return None;
        }
        return Some(Partition { purpose: PartitionUse::Swap, size });
    }
    let Ok(target) = place.parse::<GuestPath>() else {
        let message = format!("a partition has no place `{}`", crate::mistake::excerpt(&place));
        cx.push(
            Mistake::at(fields.span, "kiln::lower::bad_layout", message, "in this partition")
                .help("write where it is mounted, such as \"/\" or \"/boot\", or \"swap\""),
        );
        return None;
    };
    let system = match fields.property::<&str>("fs") {
        Some("xfs") => SystemKind::Xfs,
        Some("btrfs") => SystemKind::Btrfs,
        Some("vfat") => SystemKind::Vfat,
        _ => SystemKind::Ext4,
    };
    Some(Partition { purpose: PartitionUse::Mount { target, system }, size })
}

/// Why a layout makes no disk.
fn layout_fault(layout: &Layout) -> Option<&'static str> {
    let places: Vec<_> = layout
        .partitions
        .iter()
        .filter_map(|partition| match &partition.purpose {
            PartitionUse::Mount { target, system } => Some((target.as_str(), *system)),
            PartitionUse::Swap => None,
        })
        .collect();
    let once: BTreeSet<_> = places.iter().map(|(target, _)| target).collect();
    let own = usize::from(layout.firmware != Firmware::Bios && !once.contains(&ESP));
    let is_fat = |kind: &SystemKind| *kind == SystemKind::Vfat;
    if !once.contains(&"/") {
        Some("no partition holds the root")
    } else if once.len() < places.len() {
        Some("two partitions have one place")
    } else if layout.partitions.iter().filter(|partition| partition.size.is_none()).count() > 1 {
        Some("two partitions want the rest of the disk")
    } else if places.iter().any(|(target, kind)| is_fat(kind) && *target != ESP) {
        Some("FAT is for an EFI system partition, on `/boot/efi`")
    } else if layout.firmware != Firmware::Bios
        && places.iter().any(|(target, kind)| !is_fat(kind) && *target == ESP)
    {
        Some("UEFI reads nothing but FAT on `/boot/efi`")
    } else if once.iter().any(|target| NOT_APART.contains(target)) {
        Some("`/etc`, `/dev`, `/proc`, `/run`, `/sys` and `/tmp` are no partitions of their own")
    } else if layout.table == TableKind::Mbr && layout.partitions.len() + own > 4 {
        Some("an MBR holds four partitions")
    } else {
        None
    }
}

fn bootstrap(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Bootstrap> {
    let (mut mirrors, mut components) = (Vec::new(), Vec::new());
    let mut packages = BTreeSet::new();
    let nodes = inner_nodes(cx, fields);
    for (node, word) in &nodes {
        match word.keyword {
            "package" => {
                let inner = Fields::read(cx, node, word);
                packages.extend(inner.many::<String>("package").unwrap_or_default());
            }
            "mirror" => {
                let inner = Fields::read(cx, node, word);
                mirrors.extend(inner.many::<String>("url").unwrap_or_default());
            }
            "component" => {
                let inner = Fields::read(cx, node, word);
                components.extend(inner.many::<String>("name").unwrap_or_default());
            }
            _ => {}
        }
    }
    if components.is_empty() {
        components.push("main".to_owned());
    }
    let layout = layout(cx, fields, &nodes)?;
    Some(Bootstrap {
        suite: fields.one("suite")?,
        size: fields.property("size").unwrap_or(DEFAULT_SIZE),
        mirrors,
        components,
        variant: fields.property::<&str>("variant").unwrap_or("important").to_owned(),
        packages,
        layout,
        refresh: fields.property("refresh"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(table: TableKind, firmware: Firmware, places: &[(&str, SystemKind)]) -> &'static str {
        let partitions = places.iter().map(|(place, system)| Partition {
            purpose: match *place {
                "swap" => PartitionUse::Swap,
                place => PartitionUse::Mount { target: place.parse().unwrap(), system: *system },
            },
            size: Some(1 << 30),
        });
        let layout = Layout { table, firmware, partitions: partitions.collect() };
        layout_fault(&layout).unwrap_or_default()
    }

    #[test]
    fn layouts_that_make_no_disk_are_refused() {
        use {Firmware::*, SystemKind::*, TableKind::*};
        let (root, swap) = (("/", Ext4), ("swap", Ext4));
        assert_eq!(fault(Gpt, Uefi, &[root, swap, ("/boot/efi", Vfat), ("/srv", Xfs)]), "");
        assert_eq!(fault(Mbr, Bios, &[root, swap, swap, swap]), "");
        let says = |places: &[_], said: &str| {
            let fault = fault(Gpt, Uefi, places);
            assert!(fault.contains(said), "{fault}");
        };
        says(&[swap], "no partition holds the root");
        says(&[root, root], "two partitions have one place");
        says(&[("/", Vfat)], "FAT is for an EFI system partition");
        says(&[root, ("/data", Vfat)], "FAT is for an EFI system partition");
        says(&[root, ("/boot/efi", Ext4)], "UEFI reads nothing but FAT");
        says(&[root, ("/etc", Ext4)], "`/etc`");
        // The EFI system partition counts, whoever writes it.
        assert!(fault(Mbr, Uefi, &[root, swap, swap, swap]).contains("four"));
        assert_eq!(fault(Mbr, Uefi, &[root, swap, swap, ("/boot/efi", Vfat)]), "");
    }
}
