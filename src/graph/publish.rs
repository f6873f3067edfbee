//! What several images publish, and what their disks are: names that clash, and lints.

use std::collections::BTreeMap;

use crate::mistake::Mistake;
use crate::recipe::{
    Base, Firmware, Image, Layout, NOVA_CACHE, PartitionUse, SystemKind, TableKind,
};
use crate::source::Span;

/// The property by which a Xen host grows the partition itself.
const AUTO_DISK_CONFIG: &str = "auto_disk_config";

/// Two images under one name in one cloud would take it from each other with every publication.
pub(super) fn shared_names(images: &[Image], mistakes: &mut Vec<Mistake>) {
    let mut seen: BTreeMap<_, Span> = BTreeMap::new();
    for publish in images.iter().flat_map(|image| &image.publish) {
        let place = (&publish.cloud, &publish.region, &publish.name.value);
        if let Some(first) = seen.get(&place) {
            let message = format!("`{}` is published twice in one place", publish.name.value);
            mistakes.push(
                Mistake::at(publish.span, "kiln::graph::shared_publish", message, "this one")
                    .and(*first, "the first one")
                    .help("give one of them another `name`, or another `cloud`"),
            );
        } else {
            seen.insert(place, publish.span);
        }
    }
}

/// What is allowed and may not be meant.
pub(super) fn lint(
    images: &[Image],
    bases: &[Option<usize>],
    image: usize,
    lints: &mut Vec<Mistake>,
) {
    for publish in &images[image].publish {
        if publish.keep_old.as_secs() < NOVA_CACHE {
            let message = "superseded images are removed sooner than Nova forgets them";
            lints.push(
                Mistake::at(publish.span, "kiln::lint::short_keep", message, "here")
                    .help(
                        "Nova keeps an unused image for 86,400 s, and needs it again to rebuild or \
                     move an instance: write `keep-old \"24h\"` or more",
                    )
                    .warning(),
            );
        }
        let Some(property) = publish.properties.get(AUTO_DISK_CONFIG) else { continue };
        if !property.value.eq_ignore_ascii_case("true") {
            continue;
        }
        if let Some(why) = layout(images, bases, image).and_then(no_auto_disk) {
            let message = format!("`{AUTO_DISK_CONFIG}` does nothing with this disk: {why}");
            lints.push(
                Mistake::at(property.span, "kiln::lint::auto_disk_config", message, "here")
                    .help(
                        "Xen hosts grow a disk with one ext4 partition and no other: write `table \
                         \"mbr\"` and one `partition` in the block of the base, or leave this out",
                    )
                    .warning(),
            );
        }
    }
}

/// The layout of the disk below an image, where kiln made it.
fn layout<'a>(images: &'a [Image], bases: &[Option<usize>], image: usize) -> Option<&'a Layout> {
    let mut at = image;
    // Images that stand on each other in circles are reported elsewhere.
    for _ in 0..images.len() {
        match &images[at].base.value {
            Base::Bootstrap(base) => return Some(&base.layout),
            Base::Scratch(base) => return Some(&base.layout),
            Base::Image(_) => at = bases[at]?,
            Base::File(_) | Base::Fetch(_) => return None,
        }
    }
    None
}

/// Why a Xen host cannot grow the partition of a disk.
fn no_auto_disk(layout: &Layout) -> Option<String> {
    let own = layout.partitions.len();
    let of_firmware = match (layout.firmware, layout.table) {
        (Firmware::Bios, TableKind::Mbr) => 0,
        (Firmware::Both, TableKind::Gpt) => 2,
        _ => 1,
    };
    if own + of_firmware > 1 {
        return Some(format!("it has {} partitions", own + of_firmware));
    }
    match &layout.partitions.first()?.purpose {
        PartitionUse::Mount { system: SystemKind::Ext4, .. } => None,
        PartitionUse::Mount { system, .. } => {
            Some(format!("its file system is {}", system.keyword()))
        }
        PartitionUse::Swap => Some("its partition is swap".to_owned()),
    }
}
