//! Which scripts of a guest run at boot: those of its init system, of `rc.local`, and of units.

use super::Subject;
use super::files::{Look, matching, text};
use super::units::{UNITS, is_linked, unit};
use crate::guest::inspect::Init;
use crate::guest::root::GuestRoot;

/// Where a script may stand that does something at boot.
const PLACES: [&str; 7] = [
    "/etc/rc.local",
    "/etc/rc.d/rc.local",
    "/etc/rc.d/init.d/*",
    "/etc/init.d/*",
    "/etc/local.d/*.start",
    "/usr/local/sbin/*",
    "/usr/local/bin/*",
];
const LOCAL: [&str; 2] = ["/etc/rc.local", "/etc/rc.d/rc.local"];

/// A script, and whether anything starts it.
#[derive(Debug)]
pub(super) struct Script {
    /// Where it is.
    pub(super) path: String,
    /// What it says.
    pub(super) text: String,
    /// Whether it runs at boot.
    pub(super) started: bool,
}

/// A script that does something, one that is started if there is any.
pub(super) fn script(subject: Subject<'_>, does: impl Fn(&str) -> bool) -> Look<Option<Script>> {
    let mut idle = None;
    for pattern in PLACES {
        for path in matching(subject.root, pattern)? {
            if !subject.root.is_file(&path) {
                continue;
            }
            // A large file there is a program, which is no script.
            let Ok(Some(text)) = text(subject.root, &path) else { continue };
            if !does(&text) {
                continue;
            }
            let started = is_started(subject, &path)?;
            let found = Script { path, text, started };
            if started {
                return Ok(Some(found));
            }
            idle.get_or_insert(found);
        }
    }
    Ok(idle)
}

fn is_executable(root: &GuestRoot, path: &str) -> Look<bool> {
    Ok(root.stat(path)?.is_some_and(|meta| meta.mode & 0o111 != 0))
}

/// Whether something runs a script at boot.
fn is_started(subject: Subject<'_>, path: &str) -> Look<bool> {
    let root = subject.root;
    let name = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/init.d/") {
        return is_linked(root, name);
    }
    // Without its mode it is nobody's: systemd's generator and the init scripts look at that.
    for local in LOCAL {
        let names_it = || {
            Ok::<_, super::files::Unclear>(
                path == local || text(root, local)?.is_some_and(|text| runs(&text, path)),
            )
        };
        if is_executable(root, local)? && names_it()? {
            return Ok(true);
        }
    }
    if subject.guest.init == Init::OpenRc && is_linked(root, "local")? {
        for local in matching(root, "/etc/local.d/*.start")? {
            let names_it =
                local == path || text(root, &local)?.is_some_and(|text| runs(&text, path));
            if names_it && is_executable(root, &local)? {
                return Ok(true);
            }
        }
    }
    for directory in UNITS {
        for file in matching(root, &format!("{directory}/*.service"))? {
            let unit_name = file.rsplit('/').next().unwrap_or_default();
            let names_it = || {
                // A unit that leads nowhere starts nothing.
                let text = if root.is_file(&file) { text(root, &file)? } else { None };
                Ok::<_, super::files::Unclear>(text.is_some_and(|text| runs(&text, path)))
            };
            if names_it()? && unit(subject, unit_name)?.starts() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a text names a script in a line that is no comment.
fn runs(text: &str, path: &str) -> bool {
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(path))
}
