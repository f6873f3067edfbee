//! How an SSH server is installed, its keys are made, and it stops to take passwords.

use super::text::{run, write};
use super::units::{self, Tool};
use crate::audit::{Subject, sshd};
use crate::guest::inspect::Family;

const KEY_SCRIPT: &str = include_str!("fetch-key.sh");
const KEY_UNIT: &str = include_str!("kiln-fetch-key.service");
const HOST_KEYS_UNIT: &str = include_str!("kiln-host-keys.service");
/// The second line is what the third one was called before OpenSSH 8.7.
const NO_PASSWORDS: &str = "PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                            ChallengeResponseAuthentication no";

/// The steps that install and enable an SSH server; `None` where kiln knows no way.
pub(super) fn server(subject: Subject<'_>) -> Option<String> {
    let unit = match subject.guest.family {
        Family::Debian => "ssh.service",
        _ => "sshd.service",
    };
    let mut steps = units::with_tools(subject, &[Tool::SshServer])?;
    steps.push(units::enabled(subject, &[unit])?);
    Some(steps.join("\n"))
}

/// The steps that install a script which fetches the key of whoever starts an instance.
pub(super) fn key_script(subject: Subject<'_>) -> Option<String> {
    units::script(subject, "kiln-fetch-key", KEY_SCRIPT, KEY_UNIT, &[Tool::Curl])
}

/// The steps for new host keys at boot. Not a drop-in of sshd's own unit: Debian's tests its
/// configuration first, which fails without keys.
pub(super) fn host_keys(subject: Subject<'_>) -> Option<String> {
    if !subject.root.is_file("/usr/bin/ssh-keygen") {
        return None;
    }
    units::own_unit(subject, "kiln-host-keys.service", HOST_KEYS_UNIT)
}

/// The steps after which sshd takes no passwords; `None` where some may use them behind a `Match`.
pub(super) fn no_passwords(subject: Subject<'_>) -> Option<String> {
    let (_, main) = sshd::main_file(subject.root).ok()??;
    if sshd::has_exception(subject.root).unwrap_or(true) {
        return None;
    }
    if sshd::takes_drop_ins(&main) {
        return Some(write("/etc/ssh/sshd_config.d/00-kiln.conf", NO_PASSWORDS));
    }
    // The first value holds.
    let lines: Vec<&str> = NO_PASSWORDS.lines().collect();
    Some(run(&format!(
        "file={}\n[ -e \"$file\" ] || cp {} \"$file\"\nrest=$(cat \"$file\")\n\
         {{ printf '%s\\n' '{}'; printf '%s\\n' \"$rest\"; }} >\"$file\"",
        sshd::FILES[0],
        sshd::FILES[1],
        lines.join("' '"),
    )))
}
