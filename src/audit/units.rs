//! Which units of a guest's init system are there, and start by themselves.
//!
//! Links and scripts are read; what a generator would add at boot is not known here.

use std::path::Path;

use crate::guest::inspect::Init;
use crate::guest::root::{GuestRoot, literally};
use crate::guest::{Guest, GuestError};

/// Directories of units, the strongest first. Source: systemd.unit(5), "UNIT FILE LOAD PATH".
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// How a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// There is none.
    Absent,
    /// It is there, and nothing starts it.
    Disabled,
    /// It is hidden by a link to `/dev/null` or an empty file.
    Masked,
    /// Something starts it at boot.
    Enabled,
}

/// How a unit is: `NAME.service`, or the script of that name without its ending.
pub(super) fn unit(root: &GuestRoot, guest: &Guest, name: &str) -> Result<Unit, GuestError> {
    if name.contains('/') {
        return Ok(Unit::Absent);
    }
    match guest.init {
        Init::Systemd => systemd(root, name),
        Init::OpenRc => script(root, name, "/etc/runlevels/*/"),
        Init::SysV | Init::Unknown => script(root, name, "/etc/rc[2-5].d/S[0-9][0-9]"),
    }
}

/// The first of some units that is enabled.
pub(super) fn enabled<'n>(
    root: &GuestRoot,
    guest: &Guest,
    names: &[&'n str],
) -> Result<Option<&'n str>, GuestError> {
    for name in names {
        if unit(root, guest, name)? == Unit::Enabled {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn any(root: &GuestRoot, pattern: &str) -> Result<bool, GuestError> {
    let mut found = false;
    root.glob("look for", pattern, &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

fn systemd(root: &GuestRoot, name: &str) -> Result<Unit, GuestError> {
    let mut there = false;
    for directory in UNITS {
        let path = format!("{directory}/{name}");
        // An instance of a template has the template's file.
        let template = name.split_once('@').and_then(|(start, rest)| {
            let ending = rest.rsplit_once('.')?.1;
            Some(format!("{directory}/{start}@.{ending}"))
        });
        if let Some(meta) = root.lstat(&path)? {
            let null = root.read_link(&path)?.is_some_and(|to| to == Path::new("/dev/null"));
            if null || (meta.kind == rustix::fs::FileType::RegularFile && meta.size == 0) {
                return Ok(Unit::Masked);
            }
            there = true;
            break;
        }
        if let Some(template) = template
            && root.lstat(&template)?.is_some()
        {
            there = true;
            break;
        }
    }
    if !there {
        return Ok(Unit::Absent);
    }
    for directory in UNITS {
        for kind in ["wants", "requires"] {
            if any(root, &format!("{directory}/*.{kind}/{}", literally(name)))? {
                return Ok(Unit::Enabled);
            }
        }
    }
    Ok(Unit::Disabled)
}

fn script(root: &GuestRoot, name: &str, links: &str) -> Result<Unit, GuestError> {
    let name = name.rsplit_once('.').map_or(name, |(name, _)| name);
    if root.lstat(format!("/etc/init.d/{name}"))?.is_none() {
        return Ok(Unit::Absent);
    }
    let linked = any(root, &format!("{links}{}", literally(name)))?;
    Ok(if linked { Unit::Enabled } else { Unit::Disabled })
}
