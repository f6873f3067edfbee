//! Which units of a guest's init system are there, and start by themselves.
//!
//! Links, scripts and presets are read; what a generator would add at boot is not known here.

use super::Subject;
use super::files::{Look, is_hidden, matching, text, text_within};
use crate::guest::inspect::Init;
use crate::guest::root::{GuestRoot, literally, matches};

/// Directories of units, the strongest first. Source: systemd.unit(5), "UNIT FILE LOAD PATH".
pub(super) const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Directories of presets, the strongest first. Source: systemd.preset(5).
const PRESETS: [&str; 5] = [
    "/etc/systemd/system-preset",
    "/run/systemd/system-preset",
    "/usr/local/lib/systemd/system-preset",
    "/usr/lib/systemd/system-preset",
    "/lib/systemd/system-preset",
];
/// Largest file of presets, in bytes; Fedora's largest has 9 KiB.
const LARGEST_PRESET: u64 = 64 << 10;
/// systemd's first version that takes `uninitialized` for a first boot (its NEWS, "CHANGES WITH 247").
const UNINITIALIZED_SINCE: u32 = 247;

/// How a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// There is none.
    Absent,
    /// It is there, and nothing starts it.
    Disabled,
    /// It is hidden by a link to `/dev/null` or an empty file.
    Masked,
    /// It is disabled, and the guest's first boot will enable it: presets are applied there.
    FirstBoot {
        /// Whether a preset file names it; systemd's own rule for all others is to enable them.
        named: bool,
    },
    /// Something starts it at boot.
    Enabled,
}

impl Unit {
    /// Whether it is meant to start.
    pub(super) fn starts(self) -> bool {
        matches!(self, Self::Enabled | Self::FirstBoot { named: true })
    }

    /// Whether it may start though nobody asked for it.
    pub(super) fn may_start(self) -> bool {
        matches!(self, Self::Enabled | Self::FirstBoot { .. })
    }
}

/// How a unit is: `NAME.service`, or the script of that name without its ending.
pub(super) fn unit(subject: Subject<'_>, name: &str) -> Look<Unit> {
    if name.contains('/') {
        return Ok(Unit::Absent);
    }
    match subject.guest.init {
        Init::Systemd => systemd(subject, name),
        Init::OpenRc | Init::SysV | Init::Unknown => script(subject, name),
    }
}

/// The first of some units that starts.
pub(super) fn enabled<'n>(subject: Subject<'_>, names: &[&'n str]) -> Look<Option<&'n str>> {
    for name in names {
        if unit(subject, name)?.starts() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn any(root: &GuestRoot, pattern: &str) -> Look<bool> {
    let mut found = false;
    root.glob("look for", pattern, &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

fn systemd(subject: Subject<'_>, name: &str) -> Look<Unit> {
    let root = subject.root;
    let mut file = None;
    for directory in UNITS {
        let path = format!("{directory}/{name}");
        // An instance of a template has the template's file.
        let template = name.split_once('@').and_then(|(start, rest)| {
            let ending = rest.rsplit_once('.')?.1;
            Some(format!("{directory}/{start}@.{ending}"))
        });
        if let Some(meta) = root.lstat(&path)? {
            let empty = meta.kind == rustix::fs::FileType::RegularFile && meta.size == 0;
            if empty || is_hidden(root, &path)? {
                return Ok(Unit::Masked);
            }
            file = Some(path);
            break;
        }
        if let Some(template) = template
            && root.lstat(&template)?.is_some()
        {
            file = Some(template);
            break;
        }
    }
    let Some(file) = file else { return Ok(Unit::Absent) };
    for directory in UNITS {
        for kind in ["wants", "requires"] {
            if any(root, &format!("{directory}/*.{kind}/{}", literally(name)))? {
                return Ok(Unit::Enabled);
            }
        }
    }
    // A preset can only do what `systemctl enable` does.
    let unit_text = text(root, &file)?.unwrap_or_default();
    if !name.contains('@') && is_installable(&unit_text) && is_first_boot(subject)? {
        return preset(root, name);
    }
    Ok(Unit::Disabled)
}

/// Whether a unit's file says how it is enabled. Source: systemd.unit(5), "[INSTALL] SECTION OPTIONS".
fn is_installable(text: &str) -> bool {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != "[Install]").skip(1);
    lines.take_while(|line| !line.starts_with('[')).any(|line| {
        let (key, value) = line.split_once('=').unwrap_or_default();
        matches!(key.trim_end(), "WantedBy" | "RequiredBy" | "UpheldBy" | "Alias")
            && !value.trim().is_empty()
    })
}

/// Whether the next boot is the guest's first one, at which systemd applies presets. Source:
/// machine-id(5), "FIRST BOOT SEMANTICS".
fn is_first_boot(subject: Subject<'_>) -> Look<bool> {
    let Some(id) = text(subject.root, "/etc/machine-id")? else { return Ok(true) };
    // The seal gives systems since that version such an id.
    let will_be = subject.to_be_sealed
        && subject.guest.systemd.is_some_and(|version| version >= UNINITIALIZED_SINCE);
    Ok(will_be || id.trim() == "uninitialized")
}

/// What the presets of a guest do to a unit that is disabled: the first line that matches says it, in
/// files sorted by their names. Source: systemd.preset(5).
fn preset(root: &GuestRoot, name: &str) -> Look<Unit> {
    let mut files: Vec<(String, String)> = Vec::new();
    for directory in PRESETS {
        for path in matching(root, &format!("{directory}/*.preset"))? {
            let file = path.rsplit('/').next().unwrap_or_default().to_owned();
            // A file of an earlier directory hides those of its name.
            if files.iter().all(|(known, _)| *known != file) {
                files.push((file, path));
            }
        }
    }
    files.sort();
    for (_, path) in files {
        if is_hidden(root, &path)? {
            continue;
        }
        let text = text_within(root, &path, LARGEST_PRESET)?.unwrap_or_default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            let (Some(word), Some(pattern)) = (words.next(), words.next()) else { continue };
            if matches(pattern.as_bytes(), name.as_bytes()) {
                let enables = word == "enable";
                return Ok(if enables { Unit::FirstBoot { named: true } } else { Unit::Disabled });
            }
        }
    }
    Ok(Unit::FirstBoot { named: false })
}

/// A script of `OpenRC` or System V init: `S50ssh`, or `S50-ssh` as in `CirrOS`.
fn script(subject: Subject<'_>, name: &str) -> Look<Unit> {
    let root = subject.root;
    let name = name.rsplit_once('.').map_or(name, |(name, _)| name);
    if is_linked(root, name)? {
        return Ok(Unit::Enabled);
    }
    let there = root.lstat(format!("/etc/init.d/{name}"))?.is_some();
    Ok(if there { Unit::Disabled } else { Unit::Absent })
}

/// Whether a runlevel has a script that is there.
pub(super) fn is_linked(root: &GuestRoot, name: &str) -> Look<bool> {
    let name = literally(name);
    for pattern in [
        format!("/etc/runlevels/*/{name}"),
        format!("/etc/rc[2-5].d/S[0-9][0-9]{name}"),
        format!("/etc/rc[2-5].d/S[0-9][0-9]-{name}"),
        format!("/etc/rc.d/rc[2-5].d/S[0-9][0-9]{name}"),
    ] {
        if matching(root, &pattern)?.iter().any(|link| root.is_file(link)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_says_how_it_is_enabled() {
        assert!(is_installable("[Service]\n[Install]\nWantedBy = multi-user.target\n"));
        for text in ["", "WantedBy=x", "[Install]\n[Unit]\nWantedBy=x", "[Install]\nWantedBy=\n"] {
            assert!(!is_installable(text), "{text}");
        }
    }
}
