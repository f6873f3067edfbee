//! What may be meant otherwise: habits that make user data useless elsewhere, or fail unseen.

use super::part::{BOOTHOOK, CONFIG};
use super::{File, Piece};
use crate::mistake::{Mistake, nearest};
use crate::recipe::{Part, UserData};
use crate::source::Span;

/// Programs that install packages on one family of systems only, and the words that do it.
const MANAGERS: [(&str, &[&str]); 9] = [
    ("apt-get", &["install", "update", "upgrade", "dist-upgrade"]),
    ("apt", &["install", "update", "upgrade", "full-upgrade"]),
    ("dnf", &["install", "update", "upgrade"]),
    ("yum", &["install", "update", "upgrade"]),
    ("microdnf", &["install", "update", "upgrade"]),
    ("zypper", &["install", "in", "update", "up"]),
    ("apk", &["add", "upgrade"]),
    ("pacman", &["-S", "-Sy", "-Syu"]),
    ("rpm", &["-i", "-U", "-ivh", "-Uvh"]),
];
/// What VNC clients make of `:` and `_`, and what was meant.
const MANGLED: [(&str, &str); 3] =
    [("http;//", "http://"), ("https;//", "https://"), ("authorized-keys", "authorized_keys")];
/// Outermost names of cloud-config, for those that are nearly one. cloud-init takes any name, and
/// does nothing about those that it does not know. Source: its "Module reference".
const NAMES: [&str; 47] = [
    "apk_repos",
    "apt",
    "apt_pipelining",
    "bootcmd",
    "ca_certs",
    "chef",
    "chpasswd",
    "cloud_config_modules",
    "cloud_final_modules",
    "cloud_init_modules",
    "datasource",
    "disable_ec2_metadata",
    "disable_root",
    "disk_setup",
    "final_message",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "hostname",
    "keyboard",
    "locale",
    "manage_etc_hosts",
    "manage_resolv_conf",
    "mounts",
    "ntp",
    "output",
    "package_reboot_if_required",
    "package_update",
    "package_upgrade",
    "packages",
    "password",
    "phone_home",
    "power_state",
    "preserve_hostname",
    "puppet",
    "resize_rootfs",
    "rsyslog",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_pwauth",
    "swap",
    "timezone",
    "user",
    "users",
    "write_files",
];

/// Everything that stands out in user data, as warnings.
#[must_use]
pub fn lint(user_data: &UserData<File>, pieces: &[Piece]) -> Vec<Mistake> {
    let mut lints = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.is_own) {
        let Ok(text) = str::from_utf8(&piece.content) else { continue };
        let mut add = |code, (message, help): (String, String)| {
            let lint = Mistake::at(piece.span, code, message, "in this part").help(help);
            lints.push(lint.warning());
        };
        if is_script(piece) {
            if let Some(found) = flags(text) {
                add("kiln::user_data::shell_flags", found);
            }
            if let Some(found) = manager(text) {
                add("kiln::user_data::package_manager", found);
            }
        }
        if let Some(found) = subscription(text) {
            add("kiln::user_data::subscription", found);
        }
        if let Some(found) = mangled(text) {
            add("kiln::user_data::mangled", found);
        }
        if piece.media_type == CONFIG
            && let Some(found) = unknown_name(text)
        {
            add("kiln::user_data::unknown_name", found);
        }
    }
    lints.extend(nothing_required(user_data, pieces));
    lints.extend(lost_names(pieces));
    lints
}

fn is_script(piece: &Piece) -> bool {
    piece.media_type.starts_with("text/x-shellscript") || piece.media_type == BOOTHOOK
}

/// The lines of a script that are no comments, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    numbered.filter(|(_, line)| !line.starts_with('#'))
}

/// Whether a shell goes on after a failure, or leaves no trace of what it did.
fn flags(text: &str) -> Option<(String, String)> {
    let start = text.lines().find(|line| line.starts_with("#!"))?;
    let mut words = start[2..].split_whitespace();
    let mut program = words.next()?.rsplit('/').next()?;
    if program == "env" {
        program = words.next()?;
    }
    if !matches!(program, "sh" | "bash" | "dash" | "ksh" | "zsh") {
        return None;
    }
    // `set -ex`, `set -eux`, `set -o errexit`: wherever it stands.
    let sets = lines(text).filter(|(_, line)| line.starts_with("set ")).map(|(_, line)| line);
    let said: Vec<&str> = words.chain(sets.flat_map(str::split_whitespace)).collect();
    let has = |letter: char, long: &str| {
        let short = |word: &&str| word.starts_with('-') && !word.starts_with("--");
        said.contains(&long) || said.iter().any(|word| short(word) && word.contains(letter))
    };
    let (fails, shows) = (has('e', "errexit"), has('x', "xtrace"));
    let message = match (fails, shows) {
        (true, true) => return None,
        (false, false) => "this script goes on after a failure, and shows nothing of what it does",
        (false, true) => "this script goes on after a failure",
        (true, false) => "this script shows nothing of what it does",
    };
    let help = format!(
        "let its first line be `#!/bin/{program} -ex`: `e` ends it at the first failure, `x` shows \
         each command in the console's log"
    );
    Some((message.to_owned(), help))
}

/// A call of one family's package manager.
fn manager(text: &str) -> Option<(String, String)> {
    lines(text).find_map(|(number, line)| {
        let commands = line.split(['|', ';', '&', '(', '`']);
        let found = commands.filter_map(|command| {
            let mut words = command.split_whitespace().skip_while(|word| {
                matches!(*word, "sudo" | "then" | "else" | "do" | "if" | "!" | "exec" | "env")
                    || (word.contains('=') && !word.starts_with('-'))
            });
            let program = words.next()?.rsplit('/').next()?;
            let (name, verbs) = MANAGERS.iter().find(|(name, _)| *name == program)?;
            words.any(|word| verbs.contains(&word)).then_some(*name)
        });
        let name = { found }.next()?;
        Some((
            format!("line {number} calls `{name}`, which is not on every system"),
            "write `packages` in a `cloud-config`: it calls whatever the guest has".to_owned(),
        ))
    })
}

/// Something that registers the guest.
fn subscription(text: &str) -> Option<(String, String)> {
    let words = ["subscription-manager", "rhn_register", "rhnreg_ks", "rh_subscription:"];
    lines(text).find_map(|(number, line)| {
        let word = words.into_iter().find(|word| line.contains(word))?;
        Some((
            format!("line {number} registers the instance: `{}`", word.trim_end_matches(':')),
            "install what needs a subscription into the image: `subscription` there registers for \
             the build only"
                .to_owned(),
        ))
    })
}

/// Characters that went through a VNC client.
fn mangled(text: &str) -> Option<(String, String)> {
    text.lines().enumerate().find_map(|(number, line)| {
        let (wrong, right) = MANGLED.into_iter().find(|(wrong, _)| line.contains(wrong))?;
        Some((
            format!("line {} has `{wrong}`", number + 1),
            format!("`{right}` is meant: some VNC clients put `;` for `:` and `-` for `_`"),
        ))
    })
}

/// A name that cloud-init does not know, and nearly does.
fn unknown_name(text: &str) -> Option<(String, String)> {
    let names = crate::yaml::names(text)?;
    names.iter().filter(|name| !NAMES.contains(&name.as_str())).find_map(|name| {
        let near = nearest(name, NAMES.iter().copied())?;
        Some((
            format!("cloud-init knows no `{}`, and says nothing about that", name.escape_debug()),
            format!("did you mean `{near}`?"),
        ))
    })
}

/// Packages that nothing makes sure of: a boot does not fail where they cannot be installed.
fn nothing_required(user_data: &UserData<File>, pieces: &[Piece]) -> Option<Mistake> {
    let installs = |piece: &&Piece| {
        let text = str::from_utf8(&piece.content).ok();
        piece.media_type == CONFIG
            && text
                .and_then(crate::yaml::names)
                .is_some_and(|names| names.iter().any(|name| name == "packages"))
    };
    let piece = pieces.iter().find(installs)?;
    let requires = user_data.parts.iter().any(|part| matches!(part.value, Part::Require(_)));
    let looks = |piece: &Piece| {
        let text = str::from_utf8(&piece.content).unwrap_or_default();
        let tests = ["command -v ", "test -", "[ -", "[[ -", "type ", "which ", "hash "];
        is_script(piece)
            && lines(text).any(|(_, line)| tests.iter().any(|test| line.contains(test)))
    };
    if requires || pieces.iter().any(looks) {
        return None;
    }
    let message = "nothing makes sure that these packages are there";
    let help = "an instance starts also where a package cannot be installed: write `require` with a \
                file of each, such as \"/usr/bin/wget\"";
    Some(
        Mistake::at(piece.span, "kiln::user_data::nothing_required", message, "installed here")
            .help(help)
            .warning(),
    )
}

/// Names that two parts give: cloud-init keeps the first unless it is told how to merge.
fn lost_names(pieces: &[Piece]) -> Vec<Mistake> {
    let mut seen: Vec<(String, Span)> = Vec::new();
    let mut lints = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.media_type == CONFIG) {
        let text = str::from_utf8(&piece.content).unwrap_or_default();
        let names = crate::yaml::names(text).unwrap_or_default();
        if names.iter().any(|name| matches!(name.as_str(), "merge_how" | "merge_type")) {
            continue;
        }
        for name in names {
            let Some((_, first)) = seen.iter().find(|(known, _)| *known == name) else {
                seen.push((name, piece.span));
                continue;
            };
            let message =
                format!("two parts have `{}`: cloud-init keeps the first", name.escape_debug());
            lints.push(
                Mistake::at(piece.span, "kiln::user_data::lost_name", message, "the second")
                    .and(*first, "the first")
                    .help("write them in one part, or add `merge_how` to the second")
                    .warning(),
            );
        }
    }
    lints
}
