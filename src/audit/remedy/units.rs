//! How units are enabled and disabled, scripts are started at boot, and packages are installed: what
//! depends on a guest's init system and package manager stands here, and nowhere else.
//!
//! `None` says that kiln knows no way for the guest.

use super::text::{lines, quoted, run, shell_quoted, write};
use crate::audit::Subject;
use crate::audit::units::{Unit, unit};
use crate::guest::inspect::{Family, Init, PackageManager};

/// Shell functions for units of systemd: whether one is there, which must not ask a systemd that does
/// not run; and a preset line, without which the first boot would undo what a step does.
const FUNCTIONS: &str = "\
is_there() {
    for directory in /etc /usr/local/lib /usr/lib /lib; do
        for name in \"$1\" \"${1%%@*}@.${1##*.}\"; do
            if [ -e \"$directory/systemd/system/$name\" ]; then return 0; fi
        done
    done
    return 1
}
preset() {
    presets=/etc/systemd/system-preset/00-kiln.preset
    mkdir -p \"${presets%/*}\"
    touch \"$presets\"
    others=$(grep -vxF -e \"enable $2\" -e \"disable $2\" \"$presets\" || true)
    { [ -z \"$others\" ] || printf '%s\\n' \"$others\"; printf '%s\\n' \"$1 $2\"; } >\"$presets\"
}";

fn words(names: &[&str]) -> String {
    names.iter().map(|name| shell_quoted(name)).collect::<Vec<_>>().join(" ")
}

/// The name of a unit's script: without its ending.
fn script_name<'n>(name: &&'n str) -> &'n str {
    name.rsplit_once('.').map_or(name, |(name, _)| name)
}

/// What enables or disables a script of System V init.
fn sysv(subject: Subject<'_>, names: &[&str], on: bool) -> Option<String> {
    let there = |paths: [&str; 2]| paths.iter().any(|path| subject.root.is_file(path));
    let command = if there(["/sbin/chkconfig", "/usr/sbin/chkconfig"]) {
        format!("chkconfig \"$script\" {}", if on { "on" } else { "off" })
    } else if there(["/usr/sbin/update-rc.d", "/sbin/update-rc.d"]) {
        format!("update-rc.d \"$script\" {}", if on { "defaults" } else { "disable" })
    } else {
        return None;
    };
    let names: Vec<&str> = names.iter().map(script_name).collect();
    Some(run(&format!(
        "for script in {}; do\n    if [ -e \"/etc/init.d/$script\" ]; then {command}; fi\ndone",
        words(&names)
    )))
}

/// Enables those of some units that are there, in a runlevel of `OpenRC`.
fn enabled_in(subject: Subject<'_>, names: &[&str], runlevel: &str) -> Option<String> {
    Some(match subject.guest.init {
        Init::Systemd => run(&format!(
            "{FUNCTIONS}\nfor unit in {}; do\n    if is_there \"$unit\"; then\n        \
             systemctl unmask \"$unit\"\n        systemctl enable \"$unit\"\n        \
             preset enable \"$unit\"\n    fi\ndone",
            words(names)
        )),
        Init::OpenRc => {
            let names: Vec<&str> = names.iter().map(script_name).collect();
            run(&format!(
                "for script in {}; do\n    if [ -e \"/etc/init.d/$script\" ]; then rc-update add \
                 \"$script\" {runlevel}; fi\ndone",
                words(&names)
            ))
        }
        Init::SysV => sysv(subject, names, true)?,
        Init::Unknown => return None,
    })
}

/// Enables those of some units that are there.
pub(super) fn enabled(subject: Subject<'_>, names: &[&str]) -> Option<String> {
    enabled_in(subject, names, "default")
}

/// Enables what is to run before the network is up.
pub(super) fn enabled_early(subject: Subject<'_>, names: &[&str]) -> Option<String> {
    enabled_in(subject, names, "boot")
}

/// Disables those of some units that may start.
pub(super) fn disabled(subject: Subject<'_>, names: &[&str]) -> Option<String> {
    let may_start = |name: &&str| unit(subject, name).is_ok_and(Unit::may_start);
    let names: Vec<&str> = names.iter().copied().filter(may_start).collect();
    Some(match subject.guest.init {
        Init::Systemd => run(&format!(
            "{FUNCTIONS}\nfor unit in {}; do\n    if is_there \"$unit\"; then\n        \
             systemctl disable \"$unit\"\n        preset disable \"$unit\"\n    fi\ndone",
            words(&names)
        )),
        Init::OpenRc => {
            let names: Vec<&str> = names.iter().map(script_name).collect();
            run(&format!(
                "for script in {}; do\n    rc-update --all del \"$script\" || true\ndone",
                words(&names)
            ))
        }
        Init::SysV => sysv(subject, &names, false)?,
        Init::Unknown => return None,
    })
}

/// A program that a script or cloud-init needs, by its package in each family.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tool {
    Growpart,
    Parted,
    Gdisk,
    Curl,
    SshServer,
}

impl Tool {
    fn package(self, subject: Subject<'_>) -> &'static str {
        let (family, manager) = (subject.guest.family, subject.guest.package_manager);
        match self {
            Self::Growpart => match (family, manager) {
                (Family::Debian | Family::Arch, _) | (_, Some(PackageManager::Apt)) => {
                    "cloud-guest-utils"
                }
                (Family::Suse, _) => "growpart",
                _ => "cloud-utils-growpart",
            },
            Self::Parted => "parted",
            Self::Gdisk => match family {
                Family::Suse | Family::Arch => "gptfdisk",
                Family::Alpine => "sgdisk",
                _ => "gdisk",
            },
            Self::Curl => "curl",
            Self::SshServer => match manager {
                Some(PackageManager::Zypper | PackageManager::Pacman | PackageManager::Apk) => {
                    "openssh"
                }
                _ => "openssh-server",
            },
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Growpart => "growpart",
            Self::Parted => "parted",
            Self::Gdisk => "sgdisk",
            Self::Curl => "curl",
            Self::SshServer => "sshd",
        }
    }

    fn is_there(self, subject: Subject<'_>) -> bool {
        let name = self.program();
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|directory| subject.root.is_file(format!("{directory}/{name}")))
    }
}

/// The step that installs a package.
pub(super) fn installed(subject: Subject<'_>, package: &str) -> Option<String> {
    subject.guest.package_manager.map(|_| format!("install {}", quoted(package)))
}

/// The steps that install those of some programs that are missing.
pub(super) fn with_tools(subject: Subject<'_>, tools: &[Tool]) -> Option<Vec<String>> {
    let missing = tools.iter().filter(|tool| !tool.is_there(subject));
    missing.map(|tool| installed(subject, tool.package(subject))).collect()
}

/// A script of kiln's, the tools that it needs, and what starts it: `unit` where systemd does.
pub(super) fn script(
    subject: Subject<'_>,
    name: &str,
    script: &str,
    unit: &str,
    tools: &[Tool],
) -> Option<String> {
    let mut steps = with_tools(subject, tools)?;
    let path = format!("/usr/local/sbin/{name}");
    steps.push(format!("{} mode=\"0755\"", write(&path, script)));
    match subject.guest.init {
        Init::Systemd => {
            let file = format!("{name}.service");
            steps.push(write(&format!("/etc/systemd/system/{file}"), unit));
            steps.push(enabled(subject, &[&file])?);
        }
        Init::OpenRc => {
            let start = format!("#!/bin/sh\n{path} </dev/null >/dev/console 2>&1 &\n");
            let local = format!("/etc/local.d/{name}.start");
            steps.push(format!("{} mode=\"0755\"", write(&local, &start)));
            steps.push(run("rc-update add local default"));
        }
        Init::SysV => {
            let local = ["/etc/rc.d/rc.local", "/etc/rc.local"]
                .into_iter()
                .find(|local| subject.root.is_file(local))?;
            steps.push(run(&format!(
                "sed -i '/^exit 0/d' {local}\n\
                 echo '{path} </dev/null >/dev/console 2>&1 &' >>{local}\nchmod +x {local}"
            )));
        }
        Init::Unknown => return None,
    }
    Some(steps.join("\n"))
}

/// A unit of systemd that kiln writes and enables; other init systems have none.
pub(super) fn own_unit(subject: Subject<'_>, name: &str, unit: &str) -> Option<String> {
    if subject.guest.init != Init::Systemd {
        return None;
    }
    let path = format!("/etc/systemd/system/{name}");
    Some(format!(
        "mkdir \"/etc/systemd/system\"\nwrite {} {}\n{}",
        quoted(&path),
        lines(unit),
        enabled(subject, &[name])?
    ))
}
