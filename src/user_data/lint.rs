//! What may be meant otherwise: habits that make user data useless elsewhere, or fail unseen.

use serde_json::Value;

use super::part::{BOOTHOOK, CONFIG};
use super::{File, Piece, names};
use crate::mistake::Mistake;
use crate::recipe::{Part, UserData};
use crate::yaml;

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
        if piece.media_type == CONFIG
            && let Some(found) = manager_of_config(text)
        {
            add("kiln::user_data::package_manager", found);
        }
        if let Some(found) = subscription(text) {
            add("kiln::user_data::subscription", found);
        }
        if let Some(found) = mangled(text) {
            add("kiln::user_data::mangled", found);
        }
        if piece.media_type == CONFIG
            && let Some(found) = names::unknown(text)
        {
            add("kiln::user_data::unknown_name", found);
        }
    }
    lints.extend(nothing_required(user_data, pieces));
    lints.extend(names::lost(pieces));
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

/// A call of one family's package manager in a script.
fn manager(text: &str) -> Option<(String, String)> {
    lines(text).find_map(|(number, line)| Some(told(&format!("line {number}"), called(line)?)))
}

/// The same in the commands of a `cloud-config`.
fn manager_of_config(text: &str) -> Option<(String, String)> {
    let pairs = yaml::pairs(text)?;
    ["bootcmd", "runcmd"].into_iter().find_map(|name| {
        let commands = pairs.get(name)?.as_array()?;
        commands.iter().find_map(|command| {
            let name_of = match command {
                Value::String(text) => lines(text).find_map(|(_, line)| called(line)),
                Value::Array(words) => {
                    let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                    // A word may be a line for a shell.
                    let line = words.join(" ");
                    called(&line).or_else(|| words.iter().find_map(|word| called(word)))
                }
                _ => None,
            };
            Some(told(&format!("`{name}`"), name_of?))
        })
    })
}

fn told(place: &str, name: &str) -> (String, String) {
    (
        format!("{place} calls `{name}`, which is not on every system"),
        "write `packages` in a `cloud-config`: it calls whatever the guest has".to_owned(),
    )
}

/// The package manager that a line of a shell calls to install something.
fn called(line: &str) -> Option<&'static str> {
    line.split(['|', ';', '&', '(', '`']).find_map(|command| {
        let mut words = program(command.split_whitespace());
        let name = words.next()?.rsplit('/').next()?.trim_matches(['"', '\'']);
        let (name, verbs) = MANAGERS.iter().find(|(known, _)| *known == name)?;
        words.any(|word| verbs.contains(&word.trim_matches(['"', '\'', ')']))).then_some(*name)
    })
}

/// The words from the program on: without keywords of the shell, assignments, and programs that run
/// another, with their options.
fn program<'a>(words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let (mut is_wrapped, mut takes_value) = (false, false);
    words.skip_while(move |word| {
        if std::mem::take(&mut takes_value) {
            return true;
        }
        if matches!(*word, "then" | "else" | "do" | "if" | "!" | "exec") {
            return true;
        }
        if matches!(*word, "sudo" | "env" | "timeout" | "nice" | "ionice" | "nohup" | "time") {
            is_wrapped = true;
            return true;
        }
        if is_wrapped && word.starts_with('-') {
            // Of sudo, timeout, nice and env.
            takes_value = matches!(*word, "-u" | "-g" | "-s" | "-C" | "-h");
            return true;
        }
        // How long `timeout` lets it run.
        let is_time = is_wrapped && word.starts_with(|c: char| c.is_ascii_digit());
        is_time || word.contains('=')
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

/// Packages that nothing makes sure of: a boot does not fail where they cannot be installed.
fn nothing_required(user_data: &UserData<File>, pieces: &[Piece]) -> Option<Mistake> {
    let installs = |piece: &&Piece| {
        let text = str::from_utf8(&piece.content).ok();
        piece.media_type == CONFIG
            && text.and_then(yaml::pairs).is_some_and(|pairs| pairs.contains_key("packages"))
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

#[cfg(test)]
mod tests {
    use super::called;

    #[test]
    fn a_package_manager_is_found_behind_other_words() {
        for line in [
            "apt-get install x",
            "sudo -E apt-get -y install x",
            "sudo -n apt-get install x",
            "sudo -u root /usr/bin/apt-get install x",
            "if ! timeout -k 5 60 apt-get update; then",
            "DEBIAN_FRONTEND=x env -i A=b nice -n 10 apt-get install x",
            "true && (apt-get install x)",
            "x=$(apt-get install x)",
        ] {
            assert_eq!(called(line), Some("apt-get"), "{line}");
        }
        for line in ["apt-get clean", "echo apt-get install x", "sudo -u apt-get ls install", ""] {
            assert_eq!(called(line), None, "{line}");
        }
    }
}
