//! Who gets into a guest, and how: SSH, root, the firewall.

use super::units::{self, Unit, unit};
use super::{Subject, Verdict, cloud, matching, some, text};
use crate::guest::GuestError;
use crate::recipe::KeyWay;

/// The units that start an SSH server.
const SSH_UNITS: [&str; 4] = ["ssh.service", "sshd.service", "ssh.socket", "sshd.socket"];
/// Units that filter packets. Where `ufw` is only installed, its unit does nothing.
pub(super) const FIREWALLS: [&str; 7] = [
    "firewalld.service",
    "nftables.service",
    "iptables.service",
    "ip6tables.service",
    "netfilter-persistent.service",
    "SuSEfirewall2.service",
    "ufw.service",
];
/// Where the metadata service has the key of whoever starts an instance.
const KEY_PATH: &str = "/meta-data/public-keys/";

pub(super) fn server(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let Subject { root, guest, .. } = subject;
    let programs = ["/usr/sbin/sshd", "/usr/sbin/dropbear", "/usr/bin/dropbear"];
    let Some(program) = programs.iter().find(|path| root.is_file(path)) else {
        return Ok(Verdict::Fail("there is no `/usr/sbin/sshd`".to_owned()));
    };
    let mut names = SSH_UNITS.to_vec();
    names.push("dropbear.service");
    if let Some(name) = units::enabled(root, guest, &names)? {
        return Ok(Verdict::Pass(format!("`{program}`, started by `{name}`")));
    }
    for name in names {
        if unit(root, guest, name)? == Unit::Masked {
            return Ok(Verdict::Fail(format!("`{program}` is there, and `{name}` is masked")));
        }
    }
    Ok(Verdict::Fail(format!("`{program}` is there, and nothing starts it")))
}

pub(super) fn firewall(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let Subject { root, guest, .. } = subject;
    let mut found = Vec::new();
    for name in FIREWALLS {
        if unit(root, guest, name)? != Unit::Enabled {
            continue;
        }
        let asleep = name == "ufw.service"
            && !text(root, "/etc/ufw/ufw.conf")?
                .is_some_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
        if !asleep {
            found.push(name.to_owned());
        }
    }
    Ok(match found.as_slice() {
        [] => Verdict::Pass("no firewall starts by itself".to_owned()),
        found => Verdict::Fail(format!("enabled are {}", some(found))),
    })
}

pub(super) fn root_login(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let Some(shadow) = text(subject.root, "/etc/shadow")? else {
        return Ok(Verdict::NotApplicable("there is no `/etc/shadow`".to_owned()));
    };
    let hash = shadow.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("root")).then(|| fields.next().unwrap_or_default().to_owned())
    });
    let config = cloud::config(subject)?;
    let keys = config.get("disable_root").is_some_and(cloud::is_false);
    Ok(match hash {
        None => Verdict::Pass("root has no entry in `/etc/shadow`".to_owned()),
        Some(hash) if hash.is_empty() => Verdict::Fail("root needs no password".to_owned()),
        Some(hash) if !hash.starts_with(['!', '*']) => {
            Verdict::Fail("root has a password that can be guessed at".to_owned())
        }
        Some(_) if keys => {
            Verdict::Fail("root is locked, and cloud-init has `disable_root: false`".to_owned())
        }
        Some(_) => Verdict::Pass("root's password is locked in `/etc/shadow`".to_owned()),
    })
}

/// The first value that sshd's configuration gives, as sshd reads it. Source: `sshd_config(5)`.
pub(super) fn password_login(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    const FILE: &str = "/etc/ssh/sshd_config";
    let Some(main) = text(subject.root, FILE)? else {
        return Ok(Verdict::NotApplicable(format!("there is no `{FILE}`")));
    };
    let value = |text: &str| {
        let lines = text.lines().map(str::trim);
        // What stands behind a `Match` is only for some.
        let lines = lines.take_while(|line| !line.to_ascii_lowercase().starts_with("match "));
        lines
            .filter_map(|line| line.split_once([' ', '\t', '=']))
            .find(|(key, _)| key.eq_ignore_ascii_case("PasswordAuthentication"))
            .map(|(_, value)| value.trim().trim_matches(['=', '"', ' ']).to_ascii_lowercase())
    };
    for line in main.lines().map(str::trim) {
        let Some((key, rest)) = line.split_once([' ', '\t']) else { continue };
        if key.eq_ignore_ascii_case("match") {
            break;
        }
        if key.eq_ignore_ascii_case("include") {
            for pattern in rest.split_whitespace() {
                let pattern = pattern.trim_matches('"');
                let whole = if pattern.starts_with('/') {
                    pattern.to_owned()
                } else {
                    format!("/etc/ssh/{pattern}")
                };
                for path in matching(subject.root, &whole)? {
                    let inner = text(subject.root, &path)?.unwrap_or_default();
                    if let Some(value) = value(&inner) {
                        let seen = format!("`PasswordAuthentication {value}` in `{path}`");
                        return Ok(Verdict::of(value == "no", seen));
                    }
                }
            }
        } else if let Some(value) = value(line) {
            let seen = format!("`PasswordAuthentication {value}` in `{FILE}`");
            return Ok(Verdict::of(value == "no", seen));
        }
    }
    Ok(Verdict::Fail(format!("`{FILE}` says nothing, and sshd's own value is `yes`")))
}

/// Files that may fetch a key at boot.
const SCRIPTS: [&str; 6] = [
    "/etc/rc.local",
    "/etc/rc.d/rc.local",
    "/etc/rc.d/init.d/*",
    "/etc/init.d/*",
    "/usr/local/sbin/*",
    "/usr/local/bin/*",
];

pub(super) fn key(subject: Subject<'_>, way: KeyWay) -> Result<Verdict, GuestError> {
    let found = script(subject)?;
    if let Some((path, text)) = &found {
        // What some VNC clients make of `:` and `_`.
        for typed in ["http;//", "https;//", "authorized-keys"] {
            if text.contains(typed) {
                let seen = format!("`{path}` fetches the key, and has `{typed}` in it");
                return Ok(Verdict::Fail(seen));
            }
        }
    }
    let by_script = match found {
        Some((path, text)) => {
            if !text.contains("authorized_keys") {
                Some(Verdict::Fail(format!("`{path}` asks for the key and puts it nowhere")))
            } else if path.starts_with("/usr/local/") && !started(subject, &path)? {
                Some(Verdict::Fail(format!("`{path}` fetches the key, and nothing starts it")))
            } else {
                Some(Verdict::Pass(format!("`{path}` fetches the key")))
            }
        }
        None => None,
    };
    match (way, by_script) {
        (KeyWay::Script, Some(verdict)) => Ok(verdict),
        (KeyWay::Script, None) => Ok(Verdict::Fail("no script fetches the key at boot".to_owned())),
        (KeyWay::CloudInit, by_script) => match (cloud::installed(subject)?, by_script) {
            (Verdict::Pass(_), _) if !cloud::has_module(subject, "ssh")? => {
                Ok(Verdict::Fail("cloud-init's module `ssh` is not in `cloud.cfg`".to_owned()))
            }
            (Verdict::Pass(_), _) => Ok(Verdict::Pass("cloud-init puts it there".to_owned())),
            (_, Some(verdict)) => Ok(verdict),
            (other, None) => Ok(Verdict::Fail(format!("nothing fetches it: {}", other.seen()))),
        },
    }
}

/// A script of the guest that asks for the key.
fn script(subject: Subject<'_>) -> Result<Option<(String, String)>, GuestError> {
    for pattern in SCRIPTS {
        for path in matching(subject.root, pattern)? {
            if !subject.root.is_file(&path) {
                continue;
            }
            // A large file there is a program, which is no script.
            let Ok(Some(text)) = text(subject.root, &path) else { continue };
            if text.contains(KEY_PATH) && text.contains("169.254.169.254") {
                return Ok(Some((path, text)));
            }
        }
    }
    Ok(None)
}

/// Whether an enabled unit, or `rc.local`, names a script.
fn started(subject: Subject<'_>, path: &str) -> Result<bool, GuestError> {
    let Subject { root, guest, .. } = subject;
    for local in ["/etc/rc.local", "/etc/rc.d/rc.local"] {
        if text(root, local)?.is_some_and(|text| text.contains(path)) {
            return Ok(true);
        }
    }
    for file in matching(root, "/etc/systemd/system/*.service")? {
        let name = file.rsplit('/').next().unwrap_or_default();
        let names = text(root, &file)?.is_some_and(|text| text.contains(path));
        if names && unit(root, guest, name)? == Unit::Enabled {
            return Ok(true);
        }
    }
    Ok(false)
}
