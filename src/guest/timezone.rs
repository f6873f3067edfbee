//! The guest's time zone.
//!
//! It does not know which zones there are; the guest's own `tzdata` does.

use std::path::Path;

use super::error::{GuestError, escaped};
use super::inspect::{Family, Guest};
use super::root::{FileAttributes, GuestRoot};

/// Largest file of this module, in bytes.
const LIMIT: u64 = 4 << 20;

/// `timezone`: `/etc/localtime` becomes a link to the zone, relative as `timedatectl` makes it, and
/// `/etc/timezone` its name where the distribution keeps that file.
///
/// # Errors
/// [`GuestError::Timezone`] for a zone that the guest does not have; the kernel's.
pub fn set(root: &GuestRoot, guest: &Guest, zone: &str) -> Result<(), GuestError> {
    let unknown = || GuestError::Timezone { zone: escaped(zone) };
    let part = |part: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-+".contains(c);
        !part.is_empty() && part.chars().all(fits)
    };
    if !zone.split('/').all(part) {
        return Err(unknown());
    }
    let file = format!("/usr/share/zoneinfo/{zone}");
    // tzfile(5): every compiled zone starts with these bytes; `zone.tab` and the like do not.
    if !root.is_file(&file) || !root.read(&file, LIMIT)?.starts_with(b"TZif") {
        return Err(unknown());
    }
    let target = format!("..{file}");
    root.place("link", "/etc/localtime")?.symlink("link", Path::new(&target))?;
    let named = root.read_if_there("/etc/timezone", LIMIT)?;
    let line = format!("{zone}\n").into_bytes();
    if (named.is_some() || guest.family == Family::Debian) && named.as_ref() != Some(&line) {
        root.write_atomic("/etc/timezone", &line, FileAttributes::default())?;
    }
    Ok(())
}
