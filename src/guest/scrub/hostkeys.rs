//! Whether anything that is enabled in a guest makes new SSH host keys.
//!
//! It reads unit files and scripts as text and does not know what else they do. A script of kiln's
//! for the first boot does not count: it runs when the network is up, where sshd may have failed
//! for want of a key before.

use std::io::Read;
use std::path::Path;

use super::SCRUB;
use crate::guest::error::{GuestError, shown};
use crate::guest::inspect::{Guest, Init};
use crate::guest::root::{GuestRoot, literally};

/// How much of a unit or script is looked into, in bytes.
const LIMIT: u64 = 1 << 20;
/// Words that a unit or script holds if it makes host keys: OpenSSH itself, Fedora's and RHEL's
/// helper, SUSE's, Arch Linux's, Debian's, that of RHEL 6.
const MAKES_KEYS: [&str; 7] = [
    "ssh-keygen -A",
    "sshd-keygen",
    "sshd-gen-keys-start",
    "sshdgenkeys",
    "dpkg-reconfigure openssh-server",
    "regenerate_ssh_host_keys",
    "do_rsa_keygen",
];
/// Directories of units, the strongest first. Source: systemd.unit(5), "UNIT FILE LOAD PATH".
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// What makes new keys, for people; `None` where nothing enabled does.
pub(super) fn regenerator(root: &GuestRoot, guest: &Guest) -> Result<Option<String>, GuestError> {
    if cloud_init(root)? {
        return Ok(Some("cloud-init".to_owned()));
    }
    match guest.init {
        Init::Systemd => systemd(root),
        Init::OpenRc => openrc(root),
        Init::SysV | Init::Unknown => sysv(root),
    }
}

/// The start of a file; nothing where none is.
fn text(root: &GuestRoot, path: impl AsRef<Path>) -> Result<String, GuestError> {
    const READ: &str = "read";
    let path = path.as_ref();
    if !root.is_file(path) {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    root.open_file(READ, path)?
        .take(LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|error| GuestError::path(READ, path, error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn makes_keys(text: &str) -> bool {
    let said = |line: &str| !line.trim_start().starts_with(['#', ';']);
    text.lines()
        .filter(|line| said(line))
        .any(|line| MAKES_KEYS.iter().any(|word| line.contains(word)))
}

/// cloud-init with its `ssh` module, not switched off. Source: cloud-init's "How to disable
/// cloud-init" and "SSH" module pages.
fn cloud_init(root: &GuestRoot) -> Result<bool, GuestError> {
    if root.lstat("/etc/cloud/cloud-init.disabled")?.is_some() {
        return Ok(false);
    }
    let config = text(root, "/etc/cloud/cloud.cfg")?;
    let module = config.lines().any(|line| {
        matches!(line.trim().trim_start_matches("- ").trim_matches(['"', '\'', '[', ']']), "ssh")
            && line.contains('-')
    });
    let generator = ["/usr/lib/systemd/system-generators", "/lib/systemd/system-generators"]
        .iter()
        .any(|directory| root.is_file(format!("{directory}/cloud-init-generator")));
    if !module {
        return Ok(false);
    }
    if generator {
        return Ok(true);
    }
    let mut wanted = false;
    for pattern in ["/etc/systemd/system/*.wants/cloud-init*", "/etc/runlevels/*/cloud-init*"] {
        root.glob(SCRUB, pattern, &mut |_| {
            wanted = true;
            Ok(())
        })?;
    }
    Ok(wanted)
}

/// An enabled unit, or a drop-in of one, that makes keys or wants a unit that does and is there.
fn systemd(root: &GuestRoot) -> Result<Option<String>, GuestError> {
    let mut enabled = Vec::new();
    for directory in UNITS {
        for kind in ["wants", "requires"] {
            root.glob(SCRUB, &format!("{directory}/*.{kind}/*"), &mut |place| {
                enabled.extend(place.name().to_str().map(str::to_owned));
                Ok(())
            })?;
        }
    }
    // A socket starts its service, and an alias its own unit.
    let services: Vec<String> = enabled
        .iter()
        .filter_map(|name| name.strip_suffix(".socket"))
        .map(|name| format!("{name}.service"))
        .collect();
    enabled.extend(services);
    enabled.sort_unstable();
    enabled.dedup();
    for name in &enabled {
        let Some(unit) = unit(root, name)? else { continue };
        if makes_keys(&unit) && helper_is_there(root, &unit)? {
            return Ok(Some(name.clone()));
        }
        let mut found = None;
        for directory in UNITS {
            root.glob(SCRUB, &format!("{directory}/{}.d/*.conf", literally(name)), &mut |place| {
                if found.is_none() && makes_keys(&text(root, place.path())?) {
                    found = Some(shown(place.path()));
                }
                Ok(())
            })?;
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The text of a unit; `None` where there is none, or it is masked.
fn unit(root: &GuestRoot, name: &str) -> Result<Option<String>, GuestError> {
    for directory in UNITS {
        let path = format!("{directory}/{name}");
        if root.lstat(&path)?.is_some() {
            if root.read_link(&path)?.is_some_and(|target| target == Path::new("/dev/null")) {
                return Ok(None);
            }
            return text(root, &path).map(Some);
        }
    }
    Ok(None)
}

/// Whether what a unit names is in the guest: its `sshd-keygen` unit unmasked, or a program.
fn helper_is_there(root: &GuestRoot, text: &str) -> Result<bool, GuestError> {
    let wants = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(key.trim(), "Wants" | "Requires" | "BindsTo"));
    let mut named = false;
    for (_, names) in wants {
        for name in names
            .split_whitespace()
            .filter(|name| name.starts_with("sshd-keygen") || name.starts_with("sshdgenkeys"))
        {
            named = true;
            if unit(root, name)?.is_some() {
                return Ok(true);
            }
        }
    }
    // Without a `Wants=` line the words stand in a command of the unit itself, or only in `After=`.
    Ok(!named && text.lines().any(|line| line.trim_start().starts_with("Exec") && makes_keys(line)))
}

/// Where it stands how Dropbear is started: by `CirrOS` and by System V init, systemd, `OpenRC`.
const DROPBEAR: [&str; 6] = [
    "/etc/init.d/*dropbear",
    "/etc/systemd/system/dropbear.service",
    "/usr/lib/systemd/system/dropbear.service",
    "/lib/systemd/system/dropbear.service",
    "/etc/default/dropbear",
    "/etc/conf.d/dropbear",
];

/// Whether Dropbear is started with `-R`, by which it makes missing keys, or a script makes them before.
/// Source: dropbear(8).
pub(super) fn dropbear(root: &GuestRoot) -> Result<bool, GuestError> {
    let mut makes = false;
    for pattern in DROPBEAR {
        root.glob(SCRUB, pattern, &mut |place| {
            let text = text(root, place.path())?;
            makes |= text.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| {
                let mut words = line.split([' ', '\t', '"', '\'', '=']);
                line.contains("dropbearkey -t") || words.any(|word| word == "-R")
            });
            Ok(())
        })?;
    }
    Ok(makes)
}

/// A script that a runlevel of System V init starts, as RHEL 6's `sshd`.
fn sysv(root: &GuestRoot) -> Result<Option<String>, GuestError> {
    let mut found = None;
    for pattern in ["/etc/rc[2-5].d/S*", "/etc/rc.d/rc[2-5].d/S*"] {
        root.glob(SCRUB, pattern, &mut |place| {
            if found.is_none() && makes_keys(&text(root, place.path())?) {
                found = Some(shown(place.path()));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// `OpenRC`'s sshd makes missing keys when it starts.
fn openrc(root: &GuestRoot) -> Result<Option<String>, GuestError> {
    let mut enabled = false;
    root.glob(SCRUB, "/etc/runlevels/*/sshd", &mut |_| {
        enabled = true;
        Ok(())
    })?;
    Ok((enabled && makes_keys(&text(root, "/etc/init.d/sshd")?))
        .then(|| "OpenRC's sshd".to_owned()))
}
