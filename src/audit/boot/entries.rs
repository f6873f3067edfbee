//! The entries of a guest's boot loaders, as text.
//!
//! Sources: the configuration of GRUB 2 and of GRUB Legacy; the Boot Loader Specification; that of
//! Syslinux for `APPEND`. All of it is the guest's, so its length and its number are bounded.

use crate::audit::files::{Look, Unclear, matching, text, text_within};
use crate::guest::root::GuestRoot;

/// The generated files of GRUB. That of `CentOS` 7 on UEFI is the one with entries in it.
const GRUB: [&str; 3] = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg"];
/// Those of GRUB Legacy, which GRUB 2 may have left behind.
const LEGACY: [&str; 2] = ["/boot/grub/menu.lst", "/boot/grub/grub.conf"];
const LOADER: [&str; 3] = [
    "/boot/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/efi/loader/entries/*.conf",
];
const SYSLINUX: [&str; 3] =
    ["/boot/extlinux.conf", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg"];

/// Most entries of a guest, and most arguments of one.
const MOST_ENTRIES: usize = 512;
const MOST_WORDS: usize = 1024;
/// Largest file of one entry, in bytes.
const LARGEST_ENTRY: u64 = 64 << 10;
/// The size of GRUB's environment, in bytes. Source: `GRUB_ENVBLK_DEFAULT_SIZE`.
const ENVIRONMENT: u64 = 1024;

/// One entry: where it stands, and the arguments of its kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: String,
    pub(super) arguments: Vec<String>,
}

impl Entry {
    pub(super) fn has(&self, argument: &str) -> bool {
        // `console=ttyS0,115200n8` is the console too.
        let with_options = argument.starts_with("console=").then(|| format!("{argument},"));
        self.arguments.iter().any(|found| {
            found == argument || with_options.as_ref().is_some_and(|with| found.starts_with(with))
        })
    }

    /// Whether it is for repairs only.
    pub(super) fn is_of_rescue(&self) -> bool {
        ["single", "recovery", "rescue", "systemd.unit=rescue.target", "1"]
            .iter()
            .any(|word| self.arguments.iter().any(|argument| argument == word))
    }
}

/// Every entry that the guest can be started with.
pub(super) fn entries(root: &GuestRoot) -> Look<Vec<Entry>> {
    let mut entries = Vec::new();
    for pattern in GRUB {
        for path in matching(root, pattern)? {
            let text = text(root, &path)?.unwrap_or_default();
            of_grub(&path, &text, &mut entries)?;
        }
    }
    if entries.is_empty() {
        for path in LEGACY {
            if let Some(text) = text(root, path)?
                && entries.is_empty()
            {
                of_grub(path, &text, &mut entries)?;
            }
        }
    }
    let variables = grub_variables(root)?;
    for pattern in LOADER {
        for path in matching(root, pattern)? {
            let text = text_within(root, &path, LARGEST_ENTRY)?.unwrap_or_default();
            of_loader(&path, &text, &variables, &mut entries)?;
        }
    }
    for path in SYSLINUX {
        if let Some(text) = text(root, path)? {
            of_syslinux(path, &text, &mut entries)?;
        }
    }
    Ok(entries)
}

pub(super) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned())
}

/// Adds an entry, unless there are too many, or too many words in it.
fn add(
    entries: &mut Vec<Entry>,
    place: String,
    arguments: impl Iterator<Item = String>,
) -> Look<()> {
    let arguments: Vec<String> = arguments.take(MOST_WORDS + 1).collect();
    if entries.len() >= MOST_ENTRIES {
        let why = format!("the boot loader has more than {MOST_ENTRIES} entries");
        return Err(Unclear::Meaning(why));
    }
    if arguments.len() > MOST_WORDS {
        return Err(Unclear::Meaning(format!("{place} has more than {MOST_WORDS} words")));
    }
    entries.push(Entry { place, arguments });
    Ok(())
}

/// Whether a file of a boot directory is Linux: no test of memory, and no hypervisor.
fn is_kernel(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    !name.contains("memtest") && !name.starts_with("xen")
}

fn of_grub(path: &str, text: &str, entries: &mut Vec<Entry>) -> Look<()> {
    for (at, line) in text.lines().enumerate() {
        let Some((word, rest)) = line.trim().split_once([' ', '\t']) else { continue };
        // The first word behind it is the file.
        let file = rest.split_whitespace().next().unwrap_or_default();
        let starts = match word {
            "linux" | "linux16" | "linuxefi" | "kernel" => is_kernel(file),
            // Xen loads the kernel of its first guest as a module.
            "module" | "module2" => rest.split_whitespace().any(|word| word.contains("/vmlinu")),
            _ => false,
        };
        if starts {
            add(entries, format!("line {} of {path}", at + 1), words(rest).skip(1))?;
        }
    }
    Ok(())
}

/// The variables of GRUB's environment, which entries of RHEL 8 name.
fn grub_variables(root: &GuestRoot) -> Look<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for path in ["/boot/grub2/grubenv", "/boot/grub/grubenv"] {
        let text = text_within(root, path, ENVIRONMENT)?.unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        variables.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(variables)
}

fn of_loader(
    path: &str,
    text: &str,
    variables: &[(String, String)],
    entries: &mut Vec<Entry>,
) -> Look<()> {
    let value = |key: &str| {
        let key = key.to_owned();
        text.lines().filter_map(move |line| {
            let (found, rest) = line.trim().split_once([' ', '\t'])?;
            (found == key).then(|| rest.trim())
        })
    };
    if !value("linux").any(is_kernel) {
        return Ok(());
    }
    let arguments = value("options").flat_map(words).flat_map(|word| {
        let name = word.strip_prefix('$').map(|name| name.trim_matches(['{', '}']));
        match name.and_then(|name| variables.iter().find(|(known, _)| known == name)) {
            Some((_, value)) => words(value).collect(),
            None => vec![word],
        }
    });
    add(entries, path.to_owned(), arguments)
}

fn of_syslinux(path: &str, text: &str, entries: &mut Vec<Entry>) -> Look<()> {
    for (at, line) in text.lines().enumerate() {
        let Some((word, rest)) = line.trim().split_once([' ', '\t']) else { continue };
        if word.eq_ignore_ascii_case("append") {
            add(entries, format!("line {} of {path}", at + 1), words(rest))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grub(text: &str) -> Vec<Entry> {
        let mut entries = Vec::new();
        of_grub("g", text, &mut entries).unwrap();
        entries
    }

    #[test]
    fn entries_are_read_of_each_loader() {
        let entries = grub(
            "menuentry 'a' {\n\tlinux\t/vmlinuz root=UUID=1 ro console=ttyS0,115200n8\n}\n\
             # linux /old\nmenuentry 'b' {\n  linuxefi /vmlinuz \"quiet\"\n}\n",
        );
        assert_eq!(entries.len(), 2);
        assert!(entries[0].has("console=ttyS0") && !entries[0].has("console=ttyS"));
        assert_eq!(
            entries[1],
            Entry { place: "line 6 of g".into(), arguments: vec!["quiet".into()] }
        );
        let variables = [("kernelopts".to_owned(), "ro console=ttyS0".to_owned())];
        let mut entries = Vec::new();
        let text = "title x\nlinux /v\noptions $kernelopts ${tuned} a\n";
        of_loader("l", text, &variables, &mut entries).unwrap();
        assert_eq!(entries[0].arguments, ["ro", "console=ttyS0", "${tuned}", "a"]);
        of_loader("l", "title x\n", &variables, &mut entries).unwrap();
        assert_eq!(entries.len(), 1);
        of_syslinux("s", "LABEL x\n  APPEND ro quiet\n", &mut entries).unwrap();
        assert_eq!(entries[1].arguments, ["ro", "quiet"]);
    }

    #[test]
    fn what_is_no_linux_is_no_entry() {
        assert_eq!(grub("linux16 /boot/memtest86+.bin console=ttyS0\n"), []);
        let xen =
            grub("multiboot2 /boot/xen-4.17.gz dom0\nmodule2 /vmlinuz-6.1 ro\nmodule2 /initrd\n");
        assert_eq!(xen.len(), 1);
        assert_eq!(xen[0].arguments, ["ro"]);
        let legacy = grub("kernel /xen.gz\nmodule /vmlinuz-2.6 quiet\nmodule /initrd.img\n");
        assert_eq!(legacy[0].arguments, ["quiet"]);
    }

    #[test]
    fn a_hostile_loader_takes_no_memory() {
        let variables = [("a".to_owned(), "x ".repeat(500))];
        let text = format!("linux /v\noptions {}\n", "$a ".repeat(10_000));
        assert!(of_loader("l", &text, &variables, &mut Vec::new()).is_err());
        let text = "linux /v x\n".repeat(MOST_ENTRIES + 1);
        assert!(of_grub("g", &text, &mut Vec::new()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let mut entries = Vec::new();
            let _ = of_grub("g", &text, &mut entries);
            let _ = of_loader("l", &text, &[], &mut entries);
            let _ = of_syslinux("s", &text, &mut entries);
        }
    }
}
