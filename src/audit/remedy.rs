//! What makes a requirement met: steps of a recipe, as text, chosen by the guest.
//!
//! The text is what a user would write, goes through the same lowering, and is what `--fix` writes
//! and what the step `profile` performs.

use super::Subject;
use super::boot;
use crate::guest::inspect::{Family, Init, PackageManager};
use crate::recipe::{Check, KeyWay};

/// What to do about a requirement that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Steps, one a line or more.
    Steps(String),
    /// No step does it; this says what does.
    Advice(&'static str),
}

/// What to do about a table that does not fit its disk.
pub(super) const TABLE: &str = "give the base a `size` that is larger than the disk: kiln then makes the \
                                table and the last file system fit it";
/// What to do about what every seal removes.
pub const LEFT_TO_SEAL: &str =
    "nothing is to be done in a recipe: the seal of every image removes it";
const DIVIDE: &str =
    "no step divides a disk anew: make the image from `base bootstrap` or another base";

/// Directories that a guest may lack before anything is in them.
const CLOUD: &str = "mkdir \"/etc/cloud/cloud.cfg.d\"\n";
const UDEV: &str = "mkdir \"/etc/udev/rules.d\"\n";

const KEY_SCRIPT: &str = include_str!("fetch-key.sh");
const KEY_UNIT: &str = include_str!("kiln-fetch-key.service");
const GROW_SCRIPT: &str = include_str!("grow-lvm.sh");
const GROW_UNIT: &str = include_str!("kiln-grow-lvm.service");

/// What to do about a requirement that a guest does not meet.
#[must_use]
pub fn remedy(subject: Subject<'_>, check: &Check) -> Remedy {
    let steps = |text: String| Remedy::Steps(text);
    match check {
        Check::CloudInit | Check::SshKey(KeyWay::CloudInit) => steps(cloud_init(subject)),
        Check::Datasources(names) => steps(format!(
            "{CLOUD}write \"/etc/cloud/cloud.cfg.d/99_kiln_datasources.cfg\" {}",
            quoted(&format!("datasource_list: [ {}, None ]", names.join(", ")))
        )),
        Check::DefaultUser(None) => Remedy::Advice(
            "name the user: `default-user \"admin\"` in a profile of your own, or write a file below \
             `/etc/cloud/cloud.cfg.d`",
        ),
        Check::DefaultUser(Some(user)) => steps(format!(
            "{CLOUD}write \"/etc/cloud/cloud.cfg.d/99_kiln_user.cfg\" {}",
            quoted(&format!("system_info:\n  default_user:\n    name: {user}"))
        )),
        Check::Growth => steps(growth(subject)),
        Check::RootLogin => steps(
            "password \"root\" locked=#true\n\
             mkdir \"/etc/cloud/cloud.cfg.d\"\n\
             write \"/etc/cloud/cloud.cfg.d/99_kiln_root.cfg\" \"disable_root: true\""
                .to_owned(),
        ),
        Check::PasswordLogin => steps(
            "mkdir \"/etc/ssh/sshd_config.d\"\n\
             write \"/etc/ssh/sshd_config.d/10-kiln.conf\" \"PasswordAuthentication no\""
                .to_owned(),
        ),
        Check::SshServer => steps(ssh_server(subject)),
        Check::SshKey(KeyWay::Script) => {
            steps(script(subject, "kiln-fetch-key", KEY_SCRIPT, KEY_UNIT))
        }
        Check::Firewall => steps(disabled(&super::access::FIREWALLS)),
        Check::PartitionTable | Check::RootFills => Remedy::Advice(TABLE),
        Check::RootLast | Check::OnePartition => Remedy::Advice(DIVIDE),
        Check::PersistentNet => {
            steps(format!("{UDEV}write \"/etc/udev/rules.d/70-persistent-net.rules\" \"\""))
        }
        Check::NetGenerator => {
            let path = "/etc/udev/rules.d/75-persistent-net-generator.rules";
            steps(format!("{UDEV}write \"{path}\" \"\""))
        }
        Check::Console(device) => steps(kernel_argument(&super::console(device))),
        Check::KernelArgument(argument) => steps(kernel_argument(argument)),
        Check::BootEntries => steps(run(ENTRIES)),
        Check::XenKernel => {
            Remedy::Advice("install a kernel for guests of Xen, such as `kernel-xen`")
        }
        Check::HardwareAddresses | Check::MachineId | Check::HostKeys | Check::Leftovers => {
            Remedy::Advice(LEFT_TO_SEAL)
        }
        Check::Package(name) => steps(format!("install {}", quoted(name))),
        Check::NoPackage(name) => steps(format!("uninstall {}", quoted(name))),
        Check::File { .. } => {
            Remedy::Advice("write the file in a step, or give the requirement a `remedy`")
        }
        Check::NoFile(pattern) => steps(format!("delete {}", quoted(pattern.as_str()))),
        Check::Unit(name) => steps(enabled(&[name.as_str()])),
        Check::NoUnit(name) => steps(disabled(&[name.as_str()])),
    }
}

/// A text as KDL writes it, on one line.
#[must_use]
pub fn quoted(text: &str) -> String {
    let written = kdl::KdlValue::String(text.to_owned()).to_string();
    // A text that could be a bare word is one to the crate, which recipes do not write.
    if written.starts_with(['"', '#']) { written } else { format!("\"{written}\"") }
}

/// A text of several lines as KDL writes it: raw, and as it reads.
fn lines(text: &str) -> String {
    let text = text.trim_end();
    if text.contains('\n') && !text.contains("\"\"\"") {
        return format!("#\"\"\"\n{text}\n\"\"\"#");
    }
    quoted(text)
}

fn run(script: &str) -> String {
    format!("run-command {}", lines(script))
}

/// Enables units with the guest's own program.
fn enabled(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| shell_quoted(name)).collect();
    run(&format!("systemctl enable {}", names.join(" ")))
}

/// Disables those of some units that are there.
fn disabled(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| shell_quoted(name)).collect();
    let names = names.join(" ");
    run(&format!(
        "for unit in {names}; do\n    if systemctl cat \"$unit\" >/dev/null 2>&1; then systemctl \
         disable \"$unit\"; fi\ndone"
    ))
}

fn cloud_init(subject: Subject<'_>) -> String {
    let mut lines = Vec::new();
    if !subject.root.is_file("/usr/bin/cloud-init") {
        lines.push("install \"cloud-init\"".to_owned());
    }
    lines.push("delete \"/etc/cloud/cloud-init.disabled\"".to_owned());
    if matches!(boot::has_anywhere(subject.root, "cloud-init=disabled"), Ok(true)) {
        lines.push(run(&format!(
            "for file in /etc/default/grub /etc/default/grub.d/*.cfg /etc/kernel/cmdline; do\n    \
             if [ -f \"$file\" ]; then sed -i 's/ *cloud-init=disabled//g' \"$file\"; fi\ndone\n\
             if command -v grubby >/dev/null; then\n    \
             grubby --update-kernel=ALL --remove-args=cloud-init=disabled\nfi\n{ENTRIES}"
        )));
    }
    if subject.guest.init == Init::Systemd {
        // Only those that the version has.
        lines.push(run(
            "for unit in cloud-init-local cloud-init cloud-init-network cloud-config cloud-final; do\n    \
             if [ -e \"/lib/systemd/system/$unit.service\" ] || [ -e \"/usr/lib/systemd/system/$unit.service\" ]; then\n        \
             systemctl unmask \"$unit.service\"\n        systemctl enable \"$unit.service\"\n    fi\ndone",
        ));
    }
    lines.join("\n")
}

fn ssh_server(subject: Subject<'_>) -> String {
    let package = match subject.guest.package_manager {
        Some(PackageManager::Zypper | PackageManager::Pacman | PackageManager::Apk) => "openssh",
        _ => "openssh-server",
    };
    let unit = match subject.guest.family {
        Family::Debian => "ssh.service",
        _ => "sshd.service",
    };
    let mut lines = Vec::new();
    if !subject.root.is_file("/usr/sbin/sshd") {
        lines.push(format!("install \"{package}\""));
    }
    if subject.guest.init == Init::Systemd {
        lines.push(run(&format!("systemctl unmask {unit}\nsystemctl enable {unit}")));
    } else if subject.guest.init == Init::OpenRc {
        lines.push(run("rc-update add sshd default"));
    }
    lines.join("\n")
}

fn growth(subject: Subject<'_>) -> String {
    if subject.disk.partitions.iter().any(|part| part.kind.as_deref() == Some("LVM2_member")) {
        return script(subject, "kiln-grow-lvm", GROW_SCRIPT, GROW_UNIT);
    }
    let mut lines = Vec::new();
    if !["/usr/bin/growpart", "/usr/sbin/growpart"].iter().any(|path| subject.root.is_file(path)) {
        let package = match (subject.guest.family, subject.guest.package_manager) {
            (Family::Debian | Family::Arch, _) | (_, Some(PackageManager::Apt)) => {
                "cloud-guest-utils"
            }
            (Family::Suse, _) => "growpart",
            _ => "cloud-utils-growpart",
        };
        lines.push(format!("install \"{package}\""));
    }
    lines.push(cloud_init(subject));
    lines.push(
        "mkdir \"/etc/cloud/cloud.cfg.d\"\nwrite \"/etc/cloud/cloud.cfg.d/99_kiln_growth.cfg\" \
         \"growpart:\\n  mode: auto\\n  devices: ['/']\\nresize_rootfs: true\""
            .to_owned(),
    );
    lines.join("\n")
}

/// A script of kiln's with the unit that starts it.
fn script(subject: Subject<'_>, name: &str, script: &str, unit: &str) -> String {
    let script = format!(
        "mkdir \"/usr/local/sbin\"\nwrite \"/usr/local/sbin/{name}\" {} mode=\"0755\"",
        lines(script)
    );
    if subject.guest.init == Init::Systemd {
        let unit = format!(
            "mkdir \"/etc/systemd/system\"\nwrite \"/etc/systemd/system/{name}.service\" {}",
            lines(unit)
        );
        return format!("{script}\n{unit}\n{}", enabled(&[&format!("{name}.service")]));
    }
    let line = run(&format!(
        "local=/etc/rc.local\n[ -d /etc/rc.d ] && local=/etc/rc.d/rc.local\n\
         [ -e \"$local\" ] || printf '#!/bin/sh\\n' >\"$local\"\n\
         sed -i '/^exit 0/d' \"$local\"\n\
         echo '/usr/local/sbin/{name} </dev/null >/dev/console 2>&1 &' >>\"$local\"\n\
         chmod +x \"$local\""
    ));
    format!("{script}\n{line}")
}

/// Makes the entries of the boot loader anew, as the `OpenStack` documentation says for each family.
const ENTRIES: &str = "\
if command -v update-grub >/dev/null; then
    update-grub
elif command -v grub2-mkconfig >/dev/null; then
    grub2-mkconfig -o /boot/grub2/grub.cfg
elif command -v grub-mkconfig >/dev/null; then
    grub-mkconfig -o /boot/grub/grub.cfg
else
    echo 'no program of GRUB makes its entries anew here' >&2
    exit 1
fi";

/// `GRUB_CMDLINE_LINUX`, and not its sister for entries that are not for repairs: every entry needs it.
fn kernel_argument(argument: &str) -> String {
    // The defaults are read by a shell.
    let mut inside = argument.to_owned();
    for special in ['\\', '"', '$', '`'] {
        inside = inside.replace(special, &format!("\\{special}"));
    }
    let line = format!("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {inside}\"");
    let grubby = shell_quoted(&format!("--args={argument}"));
    let script = format!(
        "file=/etc/kernel/cmdline\nif [ -f \"$file\" ]; then\n    \
         arguments=\"$(cat \"$file\") \"{argument}\n    \
         printf '%s\\n' \"$arguments\" >\"$file\"\nfi\n\
         if command -v grubby >/dev/null; then\n    grubby --update-kernel=ALL {grubby}\nfi\n{ENTRIES}",
        argument = shell_quoted(argument),
    );
    // What is read last says what is in force.
    let file = "\
mkdir -p /etc/default
if [ -d /etc/default/grub.d ]; then
    file=/etc/default/grub.d/99-kiln.cfg
else
    file=/etc/default/grub
fi";
    run(&format!("{file}\nprintf '%s\\n' {} >>\"$file\"\n{script}", shell_quoted(&line)))
}

/// A text as one word of a shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
