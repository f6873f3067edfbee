//! What a guest's kernel is started with: the entries of its boot loaders, and what they are made of.
//!
//! Sources: the configuration of GRUB 2 and grub-mkconfig(8); the Boot Loader Specification; that of
//! Syslinux for `APPEND`.

use super::{Subject, Verdict, matching, some, text};
use crate::guest::GuestError;
use crate::guest::root::GuestRoot;

/// The generated files of GRUB.
const GRUB: [&str; 2] = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"];
const LOADER: &str = "/boot/loader/entries/*.conf";
const SYSLINUX: [&str; 2] = ["/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg"];
const DEFAULTS: &str = "/etc/default/grub";
const MORE_DEFAULTS: &str = "/etc/default/grub.d/*.cfg";
const CMDLINE: &str = "/etc/kernel/cmdline";

/// One entry: where it stands, and the arguments of its kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    place: String,
    arguments: Vec<String>,
}

impl Entry {
    fn has(&self, argument: &str) -> bool {
        // `console=ttyS0,115200n8` is the console too.
        let with_options = argument.starts_with("console=").then(|| format!("{argument},"));
        self.arguments.iter().any(|found| {
            found == argument || with_options.as_ref().is_some_and(|with| found.starts_with(with))
        })
    }

    /// Whether it is for repairs only.
    fn is_of_rescue(&self) -> bool {
        ["single", "recovery", "rescue", "systemd.unit=rescue.target", "1"]
            .iter()
            .any(|word| self.arguments.iter().any(|argument| argument == word))
    }
}

/// Every entry that the guest can be started with.
fn entries(root: &GuestRoot) -> Result<Vec<Entry>, GuestError> {
    let mut entries = Vec::new();
    for path in GRUB {
        if let Some(text) = text(root, path)? {
            entries.extend(of_grub(path, &text));
        }
    }
    let variables = grub_variables(root)?;
    for path in matching(root, LOADER)? {
        let text = text(root, &path)?.unwrap_or_default();
        entries.extend(of_loader(&path, &text, &variables));
    }
    for path in SYSLINUX {
        if let Some(text) = text(root, path)? {
            entries.extend(of_syslinux(path, &text));
        }
    }
    Ok(entries)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned()).collect()
}

fn of_grub(path: &str, text: &str) -> Vec<Entry> {
    let lines = text.lines().enumerate();
    let entry = |(at, line): (usize, &str)| {
        let line = line.trim();
        let (word, rest) = line.split_once([' ', '\t'])?;
        let starts = matches!(word, "linux" | "linux16" | "linuxefi" | "kernel" | "multiboot");
        // The first word behind it is the kernel.
        let arguments = words(rest).into_iter().skip(1).collect();
        starts.then(|| Entry { place: format!("line {} of {path}", at + 1), arguments })
    };
    lines.filter_map(entry).collect()
}

/// The variables of GRUB's environment, which entries of RHEL 8 name.
fn grub_variables(root: &GuestRoot) -> Result<Vec<(String, String)>, GuestError> {
    let mut variables = Vec::new();
    for path in ["/boot/grub2/grubenv", "/boot/grub/grubenv"] {
        let text = text(root, path)?.unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        variables.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(variables)
}

fn of_loader(path: &str, text: &str, variables: &[(String, String)]) -> Option<Entry> {
    let mut arguments = Vec::new();
    for line in text.lines() {
        let Some((key, rest)) = line.trim().split_once([' ', '\t']) else { continue };
        if key != "options" {
            continue;
        }
        for word in words(rest) {
            let name = word.strip_prefix('$').map(|name| name.trim_matches(['{', '}']));
            match name.and_then(|name| variables.iter().find(|(known, _)| known == name)) {
                Some((_, value)) => arguments.extend(words(value)),
                None => arguments.push(word),
            }
        }
    }
    let kernel = text.lines().any(|line| line.trim_start().starts_with("linux"));
    kernel.then(|| Entry { place: path.to_owned(), arguments })
}

fn of_syslinux(path: &str, text: &str) -> Vec<Entry> {
    let lines = text.lines().enumerate();
    let entry = |(at, line): (usize, &str)| {
        let (word, rest) = line.trim().split_once([' ', '\t'])?;
        let place = || format!("line {} of {path}", at + 1);
        word.eq_ignore_ascii_case("append")
            .then(|| Entry { place: place(), arguments: words(rest) })
    };
    lines.filter_map(entry).collect()
}

/// What the entries are made of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Defaults {
    /// What every entry gets.
    all: Vec<String>,
    /// What entries that are not for repairs get too.
    normal: Vec<String>,
    /// Whether something in them only a shell could tell.
    unclear: bool,
    /// The files that they stand in.
    files: Vec<String>,
}

fn defaults(root: &GuestRoot) -> Result<Defaults, GuestError> {
    let mut all = Defaults::default();
    let mut files = vec![DEFAULTS.to_owned()];
    files.extend(matching(root, MORE_DEFAULTS)?);
    let (mut every, mut normal) = (String::new(), String::new());
    for path in files {
        let Some(text) = text(root, &path)? else { continue };
        for line in text.lines() {
            let line = line.trim().trim_start_matches("export ");
            let Some((name, value)) = line.split_once('=') else { continue };
            if !matches!(name, "GRUB_CMDLINE_LINUX" | "GRUB_CMDLINE_LINUX_DEFAULT") {
                continue;
            }
            let value = unquoted(value);
            let mut full = value;
            for (variable, now) in
                [("GRUB_CMDLINE_LINUX_DEFAULT", &normal), ("GRUB_CMDLINE_LINUX", &every)]
            {
                full = full.replace(&format!("${{{variable}}}"), now);
                full = full.replace(&format!("${variable}"), now);
            }
            all.unclear |= full.contains(['$', '`']);
            match name {
                "GRUB_CMDLINE_LINUX" => every = full,
                _ => normal = full,
            }
        }
        all.files.push(path);
    }
    all.all = words(&every);
    all.normal = words(&normal);
    if let Some(text) = text(root, CMDLINE)? {
        all.all.extend(words(&text));
        all.files.push(CMDLINE.to_owned());
    }
    Ok(all)
}

/// The value of a shell's assignment without its quotes and what follows them.
fn unquoted(value: &str) -> String {
    let value = value.trim_start();
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default().to_owned(),
        _ => value.split([' ', '\t', ';', '#']).next().unwrap_or_default().to_owned(),
    }
}

/// Whether every entry, and what new ones are made of, has an argument.
pub(super) fn argument(subject: Subject<'_>, argument: &str) -> Result<Verdict, GuestError> {
    let entries = entries(subject.root)?;
    if entries.is_empty() {
        return Ok(no_entries(subject));
    }
    let lacking: Vec<String> = entries
        .iter()
        .filter(|entry| !entry.has(argument))
        .map(|entry| entry.place.clone())
        .collect();
    if !lacking.is_empty() {
        let seen = format!("`{argument}` is not in {}", some(&lacking));
        return Ok(Verdict::Fail(seen));
    }
    let defaults = defaults(subject.root)?;
    if defaults.files.is_empty() {
        let seen = format!("all {} boot entries have `{argument}`", entries.len());
        return Ok(Verdict::Pass(seen));
    }
    let arguments = defaults.all.iter().chain(&defaults.normal).cloned().collect();
    let made = Entry { place: String::new(), arguments };
    Ok(if made.has(argument) {
        let seen = format!("all {} boot entries and the defaults have it", entries.len());
        Verdict::Pass(seen)
    } else {
        let seen =
            format!("the entries have it, and {} not: an update loses it", some(&defaults.files));
        Verdict::Fail(seen)
    })
}

fn no_entries(subject: Subject<'_>) -> Verdict {
    let boots = ["/boot", "/usr/lib/modules"]
        .iter()
        .any(|path| subject.root.entries_if_there(path).is_ok_and(|entries| !entries.is_empty()));
    if boots {
        Verdict::Fail("there is a kernel, and no entry of a boot loader that is known".to_owned())
    } else {
        Verdict::NotApplicable("the disk has no kernel: something else starts it".to_owned())
    }
}

/// Whether every entry has what the defaults say.
pub(super) fn entries_follow_defaults(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let entries = entries(subject.root)?;
    if entries.is_empty() {
        return Ok(no_entries(subject));
    }
    let defaults = defaults(subject.root)?;
    if defaults.files.is_empty() {
        return Ok(Verdict::NotApplicable("no file says what entries are made of".to_owned()));
    }
    if defaults.unclear {
        let seen = format!("only a shell could tell what {} say", some(&defaults.files));
        return Ok(Verdict::Unknown(seen));
    }
    for entry in &entries {
        let normal = if entry.is_of_rescue() { &[][..] } else { &defaults.normal };
        let missing = defaults.all.iter().chain(normal).find(|argument| !entry.has(argument));
        if let Some(missing) = missing {
            let seen = format!("{} lacks `{missing}` of the defaults", entry.place);
            return Ok(Verdict::Fail(seen));
        }
    }
    Ok(Verdict::Pass(format!("all {} boot entries are as the defaults say", entries.len())))
}

/// Whether the kernels can be paravirtualized guests of Xen.
pub(super) fn xen(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let kernels = matching(subject.root, "/boot/vmlinuz-*")?;
    let versions: Vec<&str> =
        kernels.iter().filter_map(|path| path.strip_prefix("/boot/vmlinuz-")).collect();
    if versions.is_empty() {
        return Ok(Verdict::NotApplicable("there is no `/boot/vmlinuz-*`".to_owned()));
    }
    for version in &versions {
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major >= 3) {
            continue;
        }
        let config = text(subject.root, &format!("/boot/config-{version}"))?;
        let able = config.is_some_and(|text| text.lines().any(|line| line == "CONFIG_XEN=y"));
        if !able && !version.contains("xen") {
            return Ok(Verdict::Fail(format!("the kernel {version} is no guest of Xen")));
        }
    }
    Ok(Verdict::Pass(format!("the kernel {} can be one", versions.join(", "))))
}

/// The arguments that the guest may be started with.
pub(super) fn has_anywhere(root: &GuestRoot, argument: &str) -> Result<bool, GuestError> {
    Ok(entries(root)?.iter().any(|entry| entry.has(argument)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn entries_are_read_of_each_loader() {
        let grub = "menuentry 'a' {\n\tlinux\t/vmlinuz root=UUID=1 ro console=ttyS0,115200n8\n}\n\
            # linux /old\nmenuentry 'b' {\n  linuxefi /vmlinuz \"quiet\"\n}\n";
        let entries = of_grub("g", grub);
        assert_eq!(entries.len(), 2);
        assert!(entries[0].has("console=ttyS0") && !entries[0].has("console=ttyS"));
        assert_eq!(
            entries[1],
            Entry { place: "line 6 of g".into(), arguments: strings(&["quiet"]) }
        );
        let variables = [("kernelopts".to_owned(), "ro console=ttyS0".to_owned())];
        let loader =
            of_loader("l", "title x\nlinux /v\noptions $kernelopts ${tuned} a\n", &variables);
        assert_eq!(loader.unwrap().arguments, strings(&["ro", "console=ttyS0", "${tuned}", "a"]));
        assert_eq!(of_loader("l", "title x\n", &variables), None);
        let syslinux = of_syslinux("s", "LABEL x\n  APPEND ro quiet\n");
        assert_eq!(syslinux[0].arguments, strings(&["ro", "quiet"]));
    }

    #[test]
    fn defaults_stand_on_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::open(directory.path()).unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "etc/default/grub",
            "GRUB_CMDLINE_LINUX=\"a\" # b\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\n",
        );
        write(
            "etc/default/grub.d/10.cfg",
            "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX c\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"${GRUB_CMDLINE_LINUX_DEFAULT} d\"\n",
        );
        let found = defaults(&root).unwrap();
        assert_eq!((found.all, found.normal), (strings(&["a", "c"]), strings(&["quiet", "d"])));
        assert!(!found.unclear);
        write("etc/default/grub.d/20.cfg", "GRUB_CMDLINE_LINUX=\"x=$(hostname)\"\n");
        assert!(defaults(&root).unwrap().unclear);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (of_grub("g", &text), of_loader("l", &text, &[]), of_syslinux("s", &text));
            let _ = unquoted(&text);
        }
    }
}
