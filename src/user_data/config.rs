//! The YAML of a `cloud-config` block.
//!
//! Source of the names: cloud-init, "Module reference" of its documentation; the texts hold for
//! cloud-init 20.3 and later (`defer` for 21.3, and ignored before).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{File, NOTIFY};
use crate::recipe::{Config, ConfigFile, ConfigUser, Text};
use crate::yaml::Yaml;

/// What cloud-init knows the document by.
pub(super) const HEADER: &str = "#cloud-config";

/// The document.
pub(super) fn document(config: &Config<File>) -> String {
    let Config { packages, update, upgrade, users, keys, files, commands, .. } = config;
    let Config { hostname, timezone, reboot, .. } = config;
    let mut pairs = Vec::new();
    let mut push = |name: &str, value: Yaml| pairs.push((name.to_owned(), value));
    if let Some(hostname) = hostname {
        push("hostname", Yaml::text(hostname));
    }
    if let Some(timezone) = timezone {
        push("timezone", Yaml::text(timezone));
    }
    if !users.is_empty() {
        let listed = [Yaml::text("default")].into_iter().chain(users.iter().map(user));
        push("users", Yaml::List(listed.collect()));
    }
    if !keys.is_empty() {
        push("ssh_authorized_keys", Yaml::texts(keys));
    }
    if !files.is_empty() {
        push("write_files", Yaml::List(files.iter().map(file).collect()));
    }
    if *update {
        push("package_update", Yaml::Flag(true));
    }
    if *upgrade {
        push("package_upgrade", Yaml::Flag(true));
    }
    if !packages.is_empty() {
        push("packages", Yaml::texts(packages));
    }
    if !commands.is_empty() {
        push("runcmd", Yaml::List(commands.iter().map(|words| command(words)).collect()));
    }
    if *reboot {
        push("power_state", Yaml::map([("mode", Yaml::text("reboot"))]));
    }
    format!("{HEADER}\n{}", Yaml::Map(pairs).document())
}

fn user(user: &ConfigUser) -> Yaml {
    let ConfigUser { name, groups, shell, sudo, keys } = user;
    let mut pairs = vec![("name".to_owned(), Yaml::text(name))];
    let mut push = |name: &str, value: Yaml| pairs.push((name.to_owned(), value));
    if !groups.is_empty() {
        push("groups", Yaml::texts(groups));
    }
    if let Some(shell) = shell {
        push("shell", Yaml::text(shell.as_str()));
    }
    if *sudo {
        push("sudo", Yaml::text("ALL=(ALL) NOPASSWD:ALL"));
    }
    if !keys.is_empty() {
        push("ssh_authorized_keys", Yaml::texts(keys));
    }
    Yaml::Map(pairs)
}

fn file(file: &ConfigFile<File>) -> Yaml {
    let ConfigFile { path, content, mode, owner } = file;
    let mut pairs = vec![("path".to_owned(), Yaml::text(path.as_str()))];
    let mut push = |name: &str, value: Yaml| pairs.push((name.to_owned(), value));
    if let Some(mode) = mode {
        push("permissions", Yaml::text(format!("{:04o}", mode.bits())));
    }
    if let Some(owner) = owner {
        // Users that cloud-init makes are not there yet when files are written by default.
        let is_root = owner.split(':').all(|name| name == "root");
        push("owner", Yaml::text(owner));
        if !is_root {
            push("defer", Yaml::Flag(true));
        }
    }
    let bytes = match content {
        Text::Written(text) => text.as_bytes(),
        Text::File(file) => &file.bytes,
    };
    if let Some(text) = written(bytes) {
        push("content", spoken(text));
    } else {
        push("encoding", Yaml::text("b64"));
        push("content", Yaml::text(STANDARD.encode(bytes)));
    }
    Yaml::Map(pairs)
}

fn command(words: &[String]) -> Yaml {
    match words {
        [line] => spoken(line),
        words => Yaml::List(words.iter().map(|word| spoken(word)).collect()),
    }
}

/// The content of a file as a text, where it can be one.
pub(super) fn written(bytes: &[u8]) -> Option<&str> {
    let is_text = |text: &&str| text.chars().all(|c| !c.is_control() || "\n\t".contains(c));
    str::from_utf8(bytes).ok().filter(is_text)
}

/// A text in which Heat may put the command that tells it.
fn spoken(text: &str) -> Yaml {
    if text.contains(NOTIFY) { Yaml::Template(text.to_owned()) } else { Yaml::text(text) }
}
