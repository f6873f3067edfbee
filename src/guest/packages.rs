//! Which program installs, removes or updates packages, for each of the six package managers.
//!
//! Pure: it does not look at the guest, and does not know which packages there are.
//!
//! Decisions:
//! - Names are checked and come last, after `--` where the tool knows it (dnf 5 before 5.4.3 does not).
//! - A step without network gets no refresh of lists and no scratch directories: it works with what
//!   the guest already has.
//! - apt keeps configuration files that differ from the package's (`confdef`, then `confold`), as a
//!   file that an earlier step wrote was meant. virt-customize takes the package's.
//! - `apt-get update` fails if any list cannot be had (`APT::Update::Error-Mode=any`); by default apt
//!   says nothing of a mirror that was down, and installs from old lists.
//! - pacman installs with `-Syu`: Arch Linux does not support partial upgrades.
//! - zypper updates with `dup`, which is right on Tumbleweed too; exit codes 102 and 103 ask for a
//!   restart and are no failure.
//! - Recommended packages come too, as with virt-customize, unless the step says no. apk and pacman
//!   know none; yum before RHEL 8 neither, and only remarks on the option.
//! - yum fails on a name that it does not know, as all others do.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::error::{GuestError, escaped};
use super::inspect::{Init, PackageManager};
use super::program::{Program, TemporaryFile};
use crate::name::GuestPath;
use crate::recipe::Packages;

/// Where the script stands in the arguments of a program of this file.
const SCRIPT: usize = 3;
/// The environment in which apt and what it runs ask nothing.
const SILENT: &[(&str, &str)] = &[
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("UCF_FORCE_CONFFOLD", "1"),
];
/// The package of the QEMU guest agent, which has the same name everywhere.
const AGENT: &str = "qemu-guest-agent";

/// What to do with packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Install these, with what they depend on, and what they recommend if that is wanted.
    Install(&'a Packages),
    /// Remove these; their configuration and what they depended on stay.
    Uninstall(&'a BTreeSet<String>),
    /// Bring every installed package up to date; none is removed with apt.
    Update,
}

/// apt's options that every call takes.
const APT: &str = "apt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    -o Dpkg::Use-Pty=0 -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Retries=3 \
    -o APT::Update::Error-Mode=any";
/// What dnf calls recommended packages. Source: dnf.conf(5), `install_weak_deps`.
const WITHOUT_WEAK: &str = " --setopt=install_weak_deps=False";
/// Keeps Debian's maintainer scripts from starting daemons. Source: Debian's
/// `/usr/share/doc/init-system-helpers/README.policy-rc.d`: 101 is "action forbidden by policy".
const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// The program for an operation.
///
/// # Errors
/// [`GuestError::PackageName`].
pub fn program(
    manager: PackageManager,
    operation: Operation<'_>,
    network: bool,
) -> Result<Program, GuestError> {
    let (names, script) = match operation {
        Operation::Install(Packages { names, recommends }) => {
            (Some(names), install(manager, network, *recommends))
        }
        Operation::Uninstall(names) => (Some(names), uninstall(manager)),
        Operation::Update => (None, update(manager, network)),
    };
    for name in names.into_iter().flatten() {
        check_name(manager, name)?;
    }
    // The names are arguments of the script, so no shell ever reads them as text.
    // See `SCRIPT`.
    let argv = ["/bin/sh", "-eu", "-c", &script, "sh"].into_iter().map(str::to_owned);
    let mut program = Program::new(argv.chain(names.into_iter().flatten().cloned()));
    let refreshes = network && !matches!(operation, Operation::Uninstall(_));
    program.scratch = scratch(manager, refreshes).iter().map(|path| guest_path(path)).collect();
    prepare(manager, &mut program);
    Ok(program)
}

/// Adds what programs that may call the package manager need, also scripts of a recipe: an
/// environment that asks no questions, and no daemons started.
pub fn prepare(manager: PackageManager, program: &mut Program) {
    if manager != PackageManager::Apt {
        return;
    }
    for (key, value) in SILENT {
        program.env.insert((*key).to_owned(), (*value).to_owned());
    }
    program.temporary.push(TemporaryFile {
        path: guest_path("/usr/sbin/policy-rc.d"),
        content: POLICY.as_bytes().to_vec(),
        mode: 0o755,
    });
}

/// The program that installs the QEMU guest agent and has it started at every boot.
///
/// # Errors
/// [`GuestError::AgentInit`] in a guest with neither systemd nor `OpenRC`.
pub fn agent(manager: PackageManager, init: Init, network: bool) -> Result<Program, GuestError> {
    let enable = match init {
        // Where a rule of udev starts the agent, its unit is `static` and nothing can enable it. One
        // that is masked fails.
        Init::Systemd => {
            "case $(systemctl is-enabled qemu-guest-agent.service 2>/dev/null || :) in\n\
             static|indirect|enabled) ;;\n\
             *) systemctl enable qemu-guest-agent.service ;;\n\
             esac"
        }
        Init::OpenRc => "rc-update add qemu-guest-agent default",
        Init::SysV | Init::Unknown => return Err(GuestError::AgentInit { init: init.name() }),
    };
    let packages = Packages { names: BTreeSet::from([AGENT.to_owned()]), recommends: true };
    let mut program = program(manager, Operation::Install(&packages), network)?;
    let script = &mut program.argv[SCRIPT];
    *script = format!("{script}\n{enable}");
    Ok(program)
}

/// A script that installs packages in the guest at its first boot, with the network.
///
/// # Errors
/// [`GuestError::PackageName`].
pub fn firstboot_script(
    manager: PackageManager,
    packages: &Packages,
) -> Result<String, GuestError> {
    let mut text = "#!/bin/sh\nset -eu\n".to_owned();
    if manager == PackageManager::Apt {
        for (key, value) in SILENT {
            let _ = writeln!(text, "export {key}={value}");
        }
    }
    text.push_str("set --");
    for name in &packages.names {
        check_name(manager, name)?;
        let _ = write!(text, " {}", quoted(name));
    }
    text.push('\n');
    text.push_str(&install(manager, true, packages.recommends));
    text.push('\n');
    Ok(text)
}

/// A text as a shell reads it again. Source: POSIX.1-2017, Shell Command Language, 2.2.2.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn guest_path(path: &str) -> GuestPath {
    path.parse().expect("a path of this file is a guest path")
}

fn install(manager: PackageManager, network: bool, recommends: bool) -> String {
    let unless = |option| if recommends { "" } else { option };
    match (manager, network) {
        (PackageManager::Apt, _) => {
            let lists = if network { format!("{APT} update\n") } else { String::new() };
            let option = unless(" --no-install-recommends");
            format!("{lists}{APT}{option} install -- \"$@\"")
        }
        (PackageManager::Dnf, _) => {
            let option = unless(WITHOUT_WEAK);
            format!("dnf -y --setopt=keepcache=0{option} install \"$@\"")
        }
        (PackageManager::Yum, _) => {
            let option = unless(WITHOUT_WEAK);
            format!(
                "yum -y --setopt=keepcache=0 --setopt=skip_missing_names_on_install=0{option} install -- \"$@\""
            )
        }
        (PackageManager::Zypper, _) => {
            let option = unless(" --no-recommends");
            let words = format!("install --auto-agree-with-licenses{option} -- \"$@\"");
            if network {
                format!("zypper --non-interactive refresh\n{}", zypper(&words))
            } else {
                zypper(&format!("--no-refresh {words}"))
            }
        }
        (PackageManager::Apk, true) => "apk --no-cache --no-progress add -- \"$@\"".into(),
        (PackageManager::Apk, false) => "apk --no-network --no-progress add -- \"$@\"".into(),
        (PackageManager::Pacman, true) => {
            "pacman -Syu --noconfirm --noprogressbar --needed -- \"$@\"".into()
        }
        (PackageManager::Pacman, false) => {
            "pacman -S --noconfirm --noprogressbar --needed -- \"$@\"".into()
        }
    }
}

fn uninstall(manager: PackageManager) -> String {
    match manager {
        PackageManager::Apt => format!("{APT} remove -- \"$@\""),
        PackageManager::Dnf => "dnf -y remove \"$@\"".into(),
        PackageManager::Yum => "yum -y remove -- \"$@\"".into(),
        PackageManager::Zypper => zypper("--no-refresh remove -- \"$@\""),
        PackageManager::Apk => "apk --no-network --no-progress del -- \"$@\"".into(),
        PackageManager::Pacman => "pacman -R --noconfirm --noprogressbar -- \"$@\"".into(),
    }
}

fn update(manager: PackageManager, network: bool) -> String {
    match (manager, network) {
        (PackageManager::Apt, true) => format!("{APT} update\n{APT} upgrade --with-new-pkgs"),
        (PackageManager::Apt, false) => format!("{APT} upgrade --with-new-pkgs"),
        (PackageManager::Dnf, _) => "dnf -y --setopt=keepcache=0 --best upgrade".into(),
        (PackageManager::Yum, _) => "yum -y --setopt=keepcache=0 update".into(),
        (PackageManager::Zypper, true) => {
            format!(
                "zypper --non-interactive refresh\n{}",
                zypper("dup --auto-agree-with-licenses")
            )
        }
        (PackageManager::Zypper, false) => zypper("--no-refresh dup --auto-agree-with-licenses"),
        (PackageManager::Apk, true) => "apk --no-cache --no-progress upgrade".into(),
        (PackageManager::Apk, false) => "apk --no-network --no-progress upgrade".into(),
        (PackageManager::Pacman, true) => "pacman -Syu --noconfirm --noprogressbar".into(),
        (PackageManager::Pacman, false) => "pacman -Su --noconfirm --noprogressbar".into(),
    }
}

/// Source of the codes: zypper(8), "EXIT CODES".
fn zypper(words: &str) -> String {
    format!(
        "zypper --non-interactive {words} || {{ code=$?; case $code in 102|103) ;; *) exit $code ;; esac; }}"
    )
}

/// Directories that hold only what can be downloaded again. Those with lists are used by a step
/// without network, so they are hidden only from one that refreshes them.
fn scratch(manager: PackageManager, refreshes: bool) -> &'static [&'static str] {
    match (manager, refreshes) {
        (PackageManager::Apt, true) => &["/var/cache/apt", "/var/lib/apt/lists"],
        (PackageManager::Dnf, true) => &["/var/cache/dnf", "/var/cache/libdnf5"],
        (PackageManager::Yum, true) => &["/var/cache/yum"],
        (PackageManager::Zypper, true) => &["/var/cache/zypp"],
        (PackageManager::Apk, true) => &["/var/cache/apk"],
        (PackageManager::Pacman, true) => &["/var/cache/pacman/pkg", "/var/lib/pacman/sync"],
        (_, false) => &[],
    }
}

fn check_name(manager: PackageManager, name: &str) -> Result<(), GuestError> {
    let bad = |why| Err(GuestError::PackageName { name: escaped(name), why });
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.starts_with('-') {
        return bad("a package manager would take it for an option");
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return bad("a name holds no blanks");
    }
    if manager == PackageManager::Apt && name.ends_with('-') {
        return bad("apt would remove the package; use `uninstall`");
    }
    if manager == PackageManager::Apk && name.starts_with('!') {
        return bad("apk would forbid the package; use `uninstall`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages<const N: usize>(names: [&str; N]) -> Packages {
        Packages { names: names.map(str::to_owned).into(), recommends: true }
    }

    #[test]
    fn names_are_checked() {
        for name in ["", "-y", "a b", "a\nb", "nginx-"] {
            let packages = packages([name]);
            assert!(
                program(PackageManager::Apt, Operation::Install(&packages), true).is_err(),
                "{name:?}"
            );
        }
        for name in ["g++", "nginx=1.2*", "@development-tools", "libc6:i386", "$(reboot)"] {
            let packages = packages([name]);
            let program =
                program(PackageManager::Dnf, Operation::Install(&packages), true).unwrap();
            assert_eq!(program.argv.last().unwrap(), name);
            assert!(!program.argv[3].contains(name));
        }
    }

    #[test]
    fn a_first_boot_reads_names_as_they_are() {
        let packages = packages(["g++", "a'b$(reboot)", "nginx=1.2*"]);
        let mut text = firstboot_script(PackageManager::Apt, &packages).unwrap();
        text += "---\n";
        text += &firstboot_script(PackageManager::Zypper, &packages).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_agent_is_enabled_where_that_is_known() {
        let script =
            |manager, init| agent(manager, init, true).map(|mut it| it.argv.remove(SCRIPT));
        let systemd = script(PackageManager::Dnf, Init::Systemd).unwrap();
        insta::assert_snapshot!(
            systemd + "\n---\n" + &script(PackageManager::Apk, Init::OpenRc).unwrap()
        );
        assert!(script(PackageManager::Apt, Init::SysV).is_err());
    }

    #[test]
    fn each_manager_has_its_programs() {
        let wanted = packages(["curl", "vim"]);
        let bare = Packages { recommends: false, ..wanted.clone() };
        let mut table = String::new();
        for manager in PackageManager::ALL {
            for (word, operation) in [
                ("install", Operation::Install(&wanted)),
                ("install without recommends", Operation::Install(&bare)),
                ("uninstall", Operation::Uninstall(&wanted.names)),
                ("update", Operation::Update),
            ] {
                for network in [true, false] {
                    let program = program(manager, operation, network).unwrap();
                    let scratch: Vec<_> = program.scratch.iter().map(GuestPath::as_str).collect();
                    writeln!(
                        table,
                        "--- {manager:?} {word}{}\n{}\n$@ = {:?}, scratch = {scratch:?}",
                        if network { "" } else { " without network" },
                        program.argv[3],
                        &program.argv[5..],
                    )
                    .unwrap();
                }
            }
        }
        insta::assert_snapshot!(table);
    }
}
