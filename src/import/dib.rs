//! diskimage-builder: `disk-image-create` command lines, and lists of elements.
//!
//! An element is a directory of scripts, and only the well-known ones have a meaning here. Source:
//! the README files of diskimage-builder's elements.

use std::collections::BTreeMap;

use super::draft::{Draft, ImageDraft, Item, Node, stem};
use super::traps::Traps;
use super::virt::{Word, size};
use crate::source::{FileId, Span};

/// What an element becomes.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// The base: a suite for `base bootstrap`, unless `DIB_RELEASE` says another.
    Suite(&'static str),
    /// The base: a name of the catalogue, with its release unless `DIB_RELEASE` says another.
    Catalog(&'static str, &'static str),
    /// Packages.
    Install(&'static [&'static str]),
    /// A script.
    Run(&'static str),
    /// kiln does so anyway; why.
    Already(&'static str),
    /// What is missing, and what to do instead.
    Missing(&'static str),
}

const ELEMENTS: &[(&str, Meaning)] = &[
    ("debian", Meaning::Suite("bookworm")),
    ("debian-minimal", Meaning::Suite("bookworm")),
    ("ubuntu", Meaning::Suite("jammy")),
    ("ubuntu-minimal", Meaning::Suite("jammy")),
    ("fedora", Meaning::Catalog("fedora", "42")),
    ("fedora-container", Meaning::Catalog("fedora", "42")),
    ("centos", Meaning::Catalog("centos-stream", "9")),
    ("centos-minimal", Meaning::Catalog("centos-stream", "9")),
    ("rocky", Meaning::Catalog("rocky", "9")),
    ("rocky-container", Meaning::Catalog("rocky", "9")),
    ("almalinux", Meaning::Catalog("almalinux", "9")),
    ("almalinux-container", Meaning::Catalog("almalinux", "9")),
    ("opensuse", Meaning::Catalog("opensuse-leap", "15.6")),
    ("opensuse-minimal", Meaning::Catalog("opensuse-leap", "15.6")),
    ("rhel", Meaning::Missing("download the image of Red Hat, and name it in `base file`")),
    ("vm", Meaning::Already("every image of kiln is a bootable disk")),
    ("block-device-efi", Meaning::Missing("write `firmware \"uefi\"` in the block of the base")),
    ("block-device-gpt", Meaning::Already("disks that kiln divides have a GPT")),
    ("block-device-mbr", Meaning::Missing("write `table \"mbr\"` in the block of the base")),
    ("bootloader", Meaning::Already("every image of kiln is a bootable disk")),
    ("grub2", Meaning::Already("every image of kiln is a bootable disk")),
    ("base", Meaning::Install(&["cloud-init"])),
    ("cloud-init", Meaning::Install(&["cloud-init"])),
    ("growroot", Meaning::Install(&["cloud-guest-utils"])),
    ("openssh-server", Meaning::Install(&["openssh-server"])),
    ("simple-init", Meaning::Missing("install `cloud-init`, or glean by a `run-command`")),
    ("dhcp-all-interfaces", Meaning::Missing("cloud-init sets up the interfaces of an instance")),
    ("enable-serial-console", Meaning::Run("systemctl enable serial-getty@ttyS0.service")),
    (
        "selinux-permissive",
        Meaning::Run("sed -i 's/^SELINUX=.*/SELINUX=permissive/' /etc/selinux/config"),
    ),
    (
        "disable-selinux",
        Meaning::Run("sed -i 's/^SELINUX=.*/SELINUX=disabled/' /etc/selinux/config"),
    ),
    ("pip-and-virtualenv", Meaning::Install(&["python3-pip", "python3-venv"])),
    ("pip", Meaning::Install(&["python3-pip"])),
    (
        "package-installs",
        Meaning::Missing("name the packages of `package-installs.yaml` in `install`"),
    ),
    ("install-static", Meaning::Missing("copy the tree with `copy-in`")),
    ("epel", Meaning::Install(&["epel-release"])),
    ("baremetal", Meaning::Missing("kiln writes whole disks only")),
    ("ironic-agent", Meaning::Missing("kiln makes no ramdisks")),
    ("ramdisk", Meaning::Missing("kiln makes no ramdisks")),
    ("dracut-regenerate", Meaning::Run("dracut --force --regenerate-all")),
    ("devuser", Meaning::Missing("its variables DIB_DEV_USER_… name the user")),
    ("source-repositories", Meaning::Missing("copy the source with `copy-in`")),
    ("dpkg", Meaning::Already("kiln finds the guest's package manager")),
    ("yum", Meaning::Already("kiln finds the guest's package manager")),
    ("sysprep", Meaning::Already("kiln's seal does so")),
    ("manifests", Meaning::Already("`kiln log` and the layers hold what was done")),
    ("cache-url", Meaning::Already("kiln caches what it downloads")),
    ("local-config", Meaning::Missing("it copies the builder's own keys: use `ssh-inject`")),
];

/// Whether a text is a list of elements: words of their shape, one of which is well known.
pub(super) fn looks_like(text: &str) -> bool {
    let words =
        || text.lines().filter_map(|line| line.split('#').next()).flat_map(str::split_whitespace);
    let shaped = |word: &str| {
        word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
    };
    words().all(shaped) && words().any(|word| ELEMENTS.iter().any(|(known, _)| *known == word))
}

/// A list of elements, with comments behind `#`.
pub(super) fn elements(draft: &mut Draft, traps: &mut Traps, file: FileId, text: &str) {
    let mut words = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let said = line.split('#').next().unwrap_or_default();
        for word in said.split_whitespace() {
            let offset = start + (word.as_ptr() as usize - line.as_ptr() as usize);
            let span = Span { file, offset, len: word.len() };
            words.push(Word { text: word.to_owned(), span, known: true });
        }
        start += line.len();
    }
    let Some(first) = words.first() else { return };
    let whole = words.last().map_or(first.span, |last| first.span.to(last.span));
    command(draft, traps, &words, &BTreeMap::new(), whole);
}

/// `disk-image-create` with its options and variables.
pub(super) fn command(
    draft: &mut Draft,
    traps: &mut Traps,
    words: &[Word],
    variables: &BTreeMap<String, String>,
    whole: Span,
) {
    let (mut elements, mut packages, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let (mut formats, mut output, mut wanted_size) = (Vec::new(), None, None);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (option, inline) = match word.text.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
            _ => (word.text.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().map(|word| word.text.clone()));
        match option {
            "-o" => output = value(),
            "-p" => packages.push((value().unwrap_or_default(), word.span)),
            "-t" => formats = value().unwrap_or_default().split(',').map(str::to_owned).collect(),
            "--image-size" => wanted_size = value(),
            "-a"
            | "--image-cache"
            | "--max-online-resize"
            | "--qemu-img-options"
            | "--mkfs-options"
            | "--root-label"
            | "--ramdisk-element"
            | "--install-type"
            | "--logfile"
            | "--checksum-format"
            | "--mkfs-journal-size"
            | "--image-extra-size"
            | "--docker-target" => {
                let value = value().unwrap_or_default();
                kept.push((format!("{} {value}", word.text), word.span));
            }
            "-x" | "-u" | "-c" | "-n" | "--no-tmpfs" | "--offline" | "--checksum" => {}
            flag if flag.starts_with('-') => kept.push((word.text.clone(), word.span)),
            _ => elements.push(word.clone()),
        }
    }
    let wanted = output.as_deref().map_or("image", stem);
    let mut image = ImageDraft::new(draft.free_name(wanted), whole);
    image.add_disk(output.as_deref().unwrap_or("image"));
    for format in &formats {
        image.add_disk(&format!("{}.{format}", output.as_deref().unwrap_or("image")));
    }
    for element in &elements {
        self::element(&mut image, traps, element, variables);
    }
    for (list, span) in packages {
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        image.items.push(Item::Step(Node::new("install", names, span)));
    }
    if let Some(text) = wanted_size.or_else(|| variables.get("DIB_IMAGE_SIZE").cloned()) {
        // A number alone is in GiB there.
        let text = if text.bytes().all(|c| c.is_ascii_digit()) { format!("{text}G") } else { text };
        if let Some(text) = size(&text) {
            image.base_property("size", &text);
        }
    }
    for format in if formats.is_empty() { vec!["qcow2".to_owned()] } else { formats } {
        if matches!(format.as_str(), "qcow2" | "raw") {
            image.outputs.push(Node::new("output", [format], whole));
        } else {
            kept.push((format!("-t {format}"), whole));
        }
    }
    for (text, span) in kept {
        traps.left(
            span,
            format!("kiln has nothing for `{}`", crate::mistake::excerpt(&text)),
            "leave it out, or write it as steps",
        );
        image.note(format!("not imported: {text}"));
    }
    for (name, value) in variables {
        let used = ["DIB_RELEASE", "DIB_IMAGE_SIZE", "DIB_DISTRIBUTION_MIRROR"];
        if name.starts_with("DIB_") && !used.contains(&name.as_str()) {
            let secret = name.contains("PASSWORD") || name.contains("PWD");
            let shown = if secret { "…" } else { value };
            traps.left(
                whole,
                format!("kiln does not know `{name}`"),
                "write what it asks for as a step",
            );
            image.note(format!("not imported: {name}={shown}"));
        }
    }
    if let Some(mirror) = variables.get("DIB_DISTRIBUTION_MIRROR")
        && let Some(base) = &mut image.base
        && base.arguments.first().is_some_and(|form| form == "bootstrap")
    {
        base.children.push(Node::new("mirror", [mirror], whole));
    }
    traps.push(
        whole,
        "kiln::import::order",
        "elements run their scripts by number, and equal numbers in no order at all",
        "seven scripts are called 99-…, the one that relabels among them",
        "nothing to do: kiln runs steps as they are written, and relabels last",
    );
    draft.images.push(image);
}

fn element(
    image: &mut ImageDraft,
    traps: &mut Traps,
    word: &Word,
    variables: &BTreeMap<String, String>,
) {
    let name = word.text.as_str();
    let meaning = ELEMENTS.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning);
    let release = variables.get("DIB_RELEASE").map(String::as_str);
    match meaning {
        Some(Meaning::Suite(suite)) => {
            let suite = release.unwrap_or(suite);
            image.base = Some(Node::new("base", ["bootstrap", suite], word.span));
        }
        Some(Meaning::Catalog(name, version)) => {
            let name = format!(
                "{name}-{}",
                release.map_or(version, |text| text.trim_end_matches("-stream"))
            );
            image.base = Some(Node::new("base", ["catalog", &name], word.span));
        }
        Some(Meaning::Install(packages)) => {
            image.items.push(Item::Step(Node::new("install", packages.iter().copied(), word.span)));
        }
        Some(Meaning::Run(script)) => {
            image.items.push(Item::Step(Node::new("run-command", [script], word.span)));
        }
        Some(Meaning::Already(why)) => {
            image.note(format!("the element {name} needs nothing: {why}"));
        }
        Some(Meaning::Missing(help)) => {
            traps.left(word.span, format!("kiln has nothing for the element `{name}`"), help);
            image.note(format!("not imported: the element {name}\n{help}"));
        }
        None => {
            let shown = crate::mistake::excerpt(name);
            let help = "write what its scripts do as steps: `install.d` and `post-install.d` as \
                        `run`, `package-installs.yaml` as `install`";
            traps.left(word.span, format!("the element `{shown}` is not known"), help);
            image.note(format!("not imported: the element {shown}"));
        }
    }
}
