//! Who gets into a guest, and how: SSH, root, the firewall.

use super::files::{Look, some, text};
use super::scripts::script;
use super::units::{self, Unit, unit};
use super::{Subject, Verdict, cloud};
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

pub(super) fn server(subject: Subject<'_>) -> Look<Verdict> {
    let programs = ["/usr/sbin/sshd", "/usr/sbin/dropbear", "/usr/bin/dropbear"];
    let Some(program) = programs.iter().find(|path| subject.root.is_file(path)) else {
        return Ok(Verdict::Fail("there is no `/usr/sbin/sshd`".to_owned()));
    };
    let mut names = SSH_UNITS.to_vec();
    names.push("dropbear.service");
    if let Some(name) = units::enabled(subject, &names)? {
        return Ok(Verdict::Pass(format!("`{program}`, started by `{name}`")));
    }
    for name in names {
        if unit(subject, name)? == Unit::Masked {
            return Ok(Verdict::Fail(format!("`{program}` is there, and `{name}` is masked")));
        }
    }
    Ok(Verdict::Fail(format!("`{program}` is there, and nothing starts it")))
}

pub(super) fn firewall(subject: Subject<'_>) -> Look<Verdict> {
    let mut found = Vec::new();
    for name in FIREWALLS {
        let state = unit(subject, name)?;
        if !state.may_start() {
            continue;
        }
        let asleep = name == "ufw.service"
            && !text(subject.root, "/etc/ufw/ufw.conf")?
                .is_some_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
        if !asleep {
            let when = if state == Unit::Enabled { "" } else { " at the first boot" };
            found.push(format!("{name}{when}"));
        }
    }
    Ok(match found.as_slice() {
        [] => Verdict::Pass("no firewall starts by itself".to_owned()),
        found => Verdict::Fail(format!("enabled are {}", some(found))),
    })
}

/// The second field of root's line in a file of accounts.
fn field_of_root(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("root")).then(|| fields.next().unwrap_or_default())
    })
}

/// Whether root can get in: by its password first, as what hides the configuration of cloud-init must
/// not hide that. Source: passwd(5), shadow(5).
pub(super) fn root_login(subject: Subject<'_>) -> Look<Verdict> {
    let passwd = text(subject.root, "/etc/passwd")?.unwrap_or_default();
    let shadow = text(subject.root, "/etc/shadow")?;
    let (file, hash) = match field_of_root(&passwd) {
        // Any other field than this one is the password itself.
        Some("x") | None => {
            let Some(shadow) = &shadow else {
                return Ok(Verdict::NotApplicable("there is no `/etc/shadow`".to_owned()));
            };
            ("/etc/shadow", field_of_root(shadow))
        }
        own => ("/etc/passwd", own),
    };
    match hash {
        Some("") => return Ok(Verdict::Fail(format!("root needs no password in `{file}`"))),
        Some(hash) if !hash.starts_with(['!', '*']) => {
            let seen = format!("root has a password in `{file}` that can be guessed at");
            return Ok(Verdict::Fail(seen));
        }
        _ => {}
    }
    let keys = cloud::config(subject)?.get("disable_root").is_some_and(cloud::is_false);
    Ok(match hash {
        Some(_) if keys => {
            Verdict::Fail("root is locked, and cloud-init has `disable_root: false`".to_owned())
        }
        Some(_) => Verdict::Pass(format!("root's password is locked in `{file}`")),
        None => Verdict::Pass(format!("root has no entry in `{file}`")),
    })
}

pub(super) fn key(subject: Subject<'_>, way: KeyWay) -> Look<Verdict> {
    let found =
        script(subject, |text| text.contains(KEY_PATH) && text.contains("169.254.169.254"))?;
    if let Some(script) = &found {
        // What some VNC clients make of `:` and `_`.
        for typed in ["http;//", "https;//", "authorized-keys"] {
            if script.text.contains(typed) {
                let seen = format!("`{}` fetches the key, and has `{typed}` in it", script.path);
                return Ok(Verdict::Fail(seen));
            }
        }
    }
    let by_script = found.map(|script| {
        let path = &script.path;
        if !script.text.contains("authorized_keys") {
            Verdict::Fail(format!("`{path}` asks for the key and puts it nowhere"))
        } else if script.started {
            Verdict::Pass(format!("`{path}` fetches the key"))
        } else {
            Verdict::Fail(format!("`{path}` fetches the key, and nothing starts it"))
        }
    });
    if let (Some(verdict), KeyWay::Script) = (&by_script, way) {
        return Ok(verdict.clone());
    }
    if way == KeyWay::Script {
        return Ok(Verdict::Fail("no script fetches the key at boot".to_owned()));
    }
    if is_cirros(subject)? {
        return Ok(Verdict::Pass("the program of CirrOS puts it there".to_owned()));
    }
    match (cloud::installed(subject)?, by_script) {
        (Verdict::Pass(_), _) if !cloud::has_module(subject, "ssh")? => {
            Ok(Verdict::Fail("cloud-init's module `ssh` is not in `cloud.cfg`".to_owned()))
        }
        (Verdict::Pass(_), _) => Ok(Verdict::Pass("cloud-init puts it there".to_owned())),
        (_, Some(verdict)) => Ok(verdict),
        (other, None) => Ok(Verdict::Fail(format!("nothing fetches it: {}", other.seen()))),
    }
}

/// Whether `CirrOS` asks the metadata service at boot.
fn is_cirros(subject: Subject<'_>) -> Look<bool> {
    Ok(subject.root.is_file("/etc/cirros-init/ds-ec2")
        && units::is_linked(subject.root, "cirros-net-ds")?)
}
