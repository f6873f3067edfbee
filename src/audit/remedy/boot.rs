//! How boot entries are made anew, and get an argument.

use super::text::{run, shell_quoted};
use crate::audit::Subject;

/// Makes the entries of the boot loader anew, as the `OpenStack` documentation says for each family,
/// where the guest has them: the live file of `CentOS` 7 on UEFI is the one with entries in it, and RHEL
/// since 9.3 leaves its entries alone unless it is told.
const ENTRIES: &str = include_str!("entries.sh");
/// The programs that do it.
const MAKERS: [&str; 8] = [
    "/usr/sbin/update-grub",
    "/sbin/update-grub",
    "/usr/sbin/grub2-mkconfig",
    "/sbin/grub2-mkconfig",
    "/usr/bin/grub2-mkconfig",
    "/usr/sbin/grub-mkconfig",
    "/sbin/grub-mkconfig",
    "/usr/bin/grub-mkconfig",
];
const GRUBBY: [&str; 2] = ["/usr/sbin/grubby", "/sbin/grubby"];

fn has(subject: Subject<'_>, programs: &[&str]) -> bool {
    programs.iter().any(|path| subject.root.is_file(path))
}

/// The step that makes the entries anew; `None` where no program does.
pub(super) fn entries(subject: Subject<'_>) -> Option<String> {
    has(subject, &MAKERS).then(|| run(ENTRIES))
}

/// `GRUB_CMDLINE_LINUX`, and not its sister for entries that are not for repairs: every entry needs it.
pub(super) fn kernel_argument(subject: Subject<'_>, argument: &str) -> Option<String> {
    let (makes, edits) = (has(subject, &MAKERS), has(subject, &GRUBBY));
    if !makes && !edits {
        return None;
    }
    // The defaults are read by a shell.
    let mut inside = argument.to_owned();
    for special in ['\\', '"', '$', '`'] {
        inside = inside.replace(special, &format!("\\{special}"));
    }
    let line = shell_quoted(&format!("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {inside}\""));
    let argument_word = shell_quoted(argument);
    let mut parts = Vec::new();
    if makes {
        // What is read last says what is in force.
        parts.push(format!(
            "mkdir -p /etc/default\nif [ -d /etc/default/grub.d ]; then\n    \
             file=/etc/default/grub.d/99-kiln.cfg\nelse\n    file=/etc/default/grub\nfi\n\
             printf '%s\\n' {line} >>\"$file\""
        ));
    }
    parts.push(format!(
        "file=/etc/kernel/cmdline\nif [ -f \"$file\" ]; then\n    \
         arguments=\"$(cat \"$file\") \"{argument_word}\n    \
         printf '%s\\n' \"$arguments\" >\"$file\"\nfi"
    ));
    if edits {
        let grubby = shell_quoted(&format!("--args={argument}"));
        parts.push(format!("grubby --update-kernel=ALL {grubby}"));
    }
    if makes {
        parts.push(ENTRIES.to_owned());
    }
    Some(run(&parts.join("\n")))
}

/// The step that takes `cloud-init=disabled` out of the entries.
pub(super) fn without_switch(subject: Subject<'_>) -> Option<String> {
    let (makes, edits) = (has(subject, &MAKERS), has(subject, &GRUBBY));
    if !makes && !edits {
        return None;
    }
    let mut script = String::from(
        "for file in /etc/default/grub /etc/default/grub.d/*.cfg /etc/kernel/cmdline; do\n    \
         if [ -f \"$file\" ]; then sed -i 's/ *cloud-init=disabled//g' \"$file\"; fi\ndone\n",
    );
    if edits {
        script += "grubby --update-kernel=ALL --remove-args=cloud-init=disabled\n";
    }
    if makes {
        script += ENTRIES;
    }
    Some(run(&script))
}
