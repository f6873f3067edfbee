//! What a guest's kernel is started with, and which kernels it has.

mod defaults;
mod entries;

use defaults::defaults;
use entries::{Entry, entries};

use super::files::{Look, matching, some, text};
use super::{Subject, Verdict};
use crate::guest::root::GuestRoot;

/// Whether every entry, and what new ones are made of, has an argument.
pub(super) fn argument(subject: Subject<'_>, argument: &str) -> Look<Verdict> {
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
    } else if defaults.unclear {
        Verdict::Unknown(unclear(&defaults.files))
    } else {
        let seen =
            format!("the entries have it, and {} not: an update loses it", some(&defaults.files));
        Verdict::Fail(seen)
    })
}

fn unclear(files: &[String]) -> String {
    format!("only a shell could tell what {} say", some(files))
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
pub(super) fn entries_follow_defaults(subject: Subject<'_>) -> Look<Verdict> {
    let entries = entries(subject.root)?;
    if entries.is_empty() {
        return Ok(no_entries(subject));
    }
    let defaults = defaults(subject.root)?;
    if defaults.files.is_empty() {
        return Ok(Verdict::NotApplicable("no file says what entries are made of".to_owned()));
    }
    if defaults.unclear {
        return Ok(Verdict::Unknown(unclear(&defaults.files)));
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

/// The versions of the kernels that are installed: by their modules, which have a version also where
/// the kernel's file has none, as `vmlinuz-virt` of Alpine.
fn kernels(root: &GuestRoot) -> Look<Vec<String>> {
    let mut versions = Vec::new();
    for directory in ["/usr/lib/modules/", "/lib/modules/"] {
        let paths = matching(root, &format!("{directory}*"))?;
        let names = paths.iter().filter_map(|path| path.strip_prefix(directory));
        versions.extend(names.map(str::to_owned));
    }
    if versions.is_empty() {
        let paths = matching(root, "/boot/vmlinuz-*")?;
        let names = paths.iter().filter_map(|path| path.strip_prefix("/boot/vmlinuz-"));
        // One for rescues is a copy of another.
        versions.extend(names.filter(|name| !name.contains("rescue")).map(str::to_owned));
    }
    versions.sort();
    versions.dedup();
    Ok(versions)
}

/// Whether the kernels can be paravirtualized guests of Xen.
pub(super) fn xen(subject: Subject<'_>) -> Look<Verdict> {
    let versions = kernels(subject.root)?;
    if versions.is_empty() {
        return Ok(Verdict::NotApplicable("there is no kernel".to_owned()));
    }
    let mut nameless = None;
    for version in &versions {
        match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
            Some(major) if major >= 3 => continue,
            Some(_) => {}
            None => {
                nameless = Some(version);
                continue;
            }
        }
        let config = text(subject.root, &format!("/boot/config-{version}"))?;
        let able = config.is_some_and(|text| text.lines().any(|line| line == "CONFIG_XEN=y"));
        if !able && !version.contains("xen") {
            return Ok(Verdict::Fail(format!("the kernel {version} is no guest of Xen")));
        }
    }
    Ok(match nameless {
        Some(name) => Verdict::Unknown(format!("the name of the kernel `{name}` has no version")),
        None => Verdict::Pass(format!("the kernel {} can be one", versions.join(", "))),
    })
}

/// Whether the guest may be started with an argument.
pub(super) fn has_anywhere(root: &GuestRoot, argument: &str) -> Look<bool> {
    Ok(entries(root)?.iter().any(|entry| entry.has(argument)))
}
