//! Scripts for the first boot: a unit of our own that runs each once, in order, and keeps what failed.
//!
//! It does not know what the scripts do, and runs nothing itself.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::GuestError;
use super::files::read_snapshot;
use super::inspect::{Guest, Init};
use super::packages;
use super::program::{LARGEST_SCRIPT, Snapshot, interpreter};
use super::root::{FileAttributes, GuestRoot};
use crate::recipe::{Firstboot, Packages, RunCommand};

/// The unit, in systemd's directory for packages.
const UNIT: &str = "/usr/lib/systemd/system/kiln-firstboot.service";
/// The link that enables it.
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/kiln-firstboot.service";
/// The program that runs the scripts.
const RUNNER: &str = "/usr/lib/kiln/firstboot.sh";
/// The scripts that wait, each `NNNN-name`.
const WAITING: &str = "/usr/lib/kiln/firstboot.d";
/// Longest part of a script's name that is kept, in bytes.
const LONGEST_NAME: usize = 60;

/// `firstboot`: adds a script after those that are there. Each step adds one, also if it is the same.
///
/// # Errors
/// [`GuestError::FirstbootInit`] without systemd; [`GuestError::Shebang`] and
/// [`GuestError::NoProgram`] for a script that could not start; the kernel's.
pub fn add(root: &GuestRoot, guest: &Guest, step: &Firstboot<Snapshot>) -> Result<(), GuestError> {
    let script = read_snapshot(&step.script, LARGEST_SCRIPT)?;
    add_script(root, guest, step.script.name()?.as_bytes(), &script)
}

/// `firstboot-command`: adds a script that is written in the recipe, as [`add`] does.
///
/// # Errors
/// As with [`add`].
pub fn add_command(root: &GuestRoot, guest: &Guest, step: &RunCommand) -> Result<(), GuestError> {
    add_script(root, guest, b"command", step.script.as_bytes())
}

/// `firstboot-install`: adds a script that installs packages, as [`add`] does.
///
/// # Errors
/// As with [`add`]; [`GuestError::NoPackageManager`], [`GuestError::PackageName`].
pub fn add_install(root: &GuestRoot, guest: &Guest, packages: &Packages) -> Result<(), GuestError> {
    let script = packages::firstboot_script(guest.expect_package_manager()?, packages)?;
    add_script(root, guest, b"install", script.as_bytes())
}

fn add_script(
    root: &GuestRoot,
    guest: &Guest,
    name: &[u8],
    script: &[u8],
) -> Result<(), GuestError> {
    if guest.init != Init::Systemd {
        return Err(GuestError::FirstbootInit { init: guest.init.name() });
    }
    // The interpreter itself may come with a later step, so only its line is checked.
    interpreter(script)?;

    root.make_directories(WAITING, FileAttributes::default())?;
    let mut last = 0_u32;
    for place in root.entries(WAITING)? {
        let digits: String =
            place.name().to_string_lossy().chars().take_while(char::is_ascii_digit).collect();
        last = last.max(digits.parse().unwrap_or(0));
    }
    let name = format!("{:04}-{}", last.saturating_add(1), file_name(name));
    root.write_atomic(Path::new(WAITING).join(name), script, FileAttributes::root(0o755))?;

    put(root, RUNNER, include_bytes!("firstboot/firstboot.sh"), 0o755)?;
    put(root, UNIT, include_bytes!("firstboot/kiln-firstboot.service"), 0o644)?;
    let wants = Path::new(WANTED).parent().unwrap_or(Path::new("/"));
    root.make_directories(wants, FileAttributes::default())?;
    root.place("enable", WANTED)?.symlink("enable", Path::new(UNIT)).map(drop)
}

/// Writes a file of ours unless it is there as it should be.
fn put(root: &GuestRoot, path: &str, content: &[u8], mode: u32) -> Result<(), GuestError> {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    root.make_directories(parent, FileAttributes::default())?;
    if root.read_if_there(path, LARGEST_SCRIPT)?.as_deref() == Some(content) {
        return Ok(());
    }
    root.write_atomic(path, content, FileAttributes::root(mode))
}

/// A script's name with nothing in it that a shell or a terminal reads in its own way.
fn file_name(name: &[u8]) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.iter()
        .take(LONGEST_NAME)
        .map(|&byte| if safe(byte) { char::from(byte) } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_safe() {
        assert_eq!(super::file_name(b"grow disk\n\xff.sh"), "grow_disk__.sh");
        assert_eq!(super::file_name(&[b'a'; 300]).len(), 60);
    }
}
