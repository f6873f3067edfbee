//! The options of virt-customize, virt-builder and virt-sysprep, and how getopt reads them.
//!
//! Sources: `--long-options` and `--short-options` of guestfs-tools 1.48, the manuals of 1.50 to 1.56
//! for what came later, and `getopt_long(3)` for `--opt=value` and abbreviations.

use super::secrets::hidden;
use super::virt::{Tool, Word};

/// One option.
#[derive(Debug, Clone, Copy)]
struct Known {
    name: &'static str,
    value: bool,
    tools: u8,
}

const CUSTOMIZE: u8 = 1;
const BUILDER: u8 = 2;
const SYSPREP: u8 = 4;
const DISKS: u8 = CUSTOMIZE | SYSPREP;
const ALL: u8 = CUSTOMIZE | BUILDER | SYSPREP;

const fn value(name: &'static str, tools: u8) -> Known {
    Known { name, value: true, tools }
}

const fn flag(name: &'static str, tools: u8) -> Known {
    Known { name, value: false, tools }
}

/// What changes a guest; the only options that a file of commands may hold.
const STEPS: &[Known] = &[
    value("append-line", ALL),
    value("chmod", ALL),
    value("chown", ALL),
    value("commands-from-file", ALL),
    value("copy", ALL),
    value("copy-in", ALL),
    value("delete", ALL),
    value("edit", ALL),
    value("firstboot", ALL),
    value("firstboot-command", ALL),
    value("firstboot-install", ALL),
    value("hostname", ALL),
    value("inject-blnsvr", ALL),
    value("inject-qemu-ga", ALL),
    value("inject-virtio-win", ALL),
    value("install", ALL),
    value("link", ALL),
    value("mkdir", ALL),
    value("move", ALL),
    flag("no-logfile", ALL),
    flag("no-selinux-relabel", ALL),
    value("password", ALL),
    value("password-crypto", ALL),
    value("root-password", ALL),
    value("run", ALL),
    value("run-command", ALL),
    value("scrub", ALL),
    flag("selinux-relabel", ALL),
    value("sm-attach", ALL),
    value("sm-credentials", ALL),
    flag("sm-register", ALL),
    flag("sm-remove", ALL),
    flag("sm-unregister", ALL),
    value("ssh-inject", ALL),
    value("tar-in", ALL),
    value("timezone", ALL),
    value("touch", ALL),
    value("truncate", ALL),
    value("truncate-recursive", ALL),
    value("uninstall", ALL),
    flag("update", ALL),
    value("upload", ALL),
    value("write", ALL),
];

/// What says which disk, and how the old tool goes about it.
const OTHERS: &[Known] = &[
    value("add", DISKS),
    value("arch", BUILDER),
    value("attach", CUSTOMIZE | BUILDER),
    value("attach-format", CUSTOMIZE | BUILDER),
    value("cache", BUILDER),
    flag("cache-all-templates", BUILDER),
    flag("check-signature", BUILDER),
    flag("no-check-signature", BUILDER),
    flag("colors", ALL),
    flag("colours", ALL),
    value("connect", ALL),
    value("curl", BUILDER),
    flag("debug-gc", ALL),
    flag("delete-cache", BUILDER),
    flag("no-cache", BUILDER),
    flag("no-delete-on-failure", BUILDER),
    value("domain", DISKS),
    flag("dry-run", DISKS),
    flag("dryrun", DISKS),
    flag("echo-keys", ALL),
    value("enable", SYSPREP),
    value("fingerprint", BUILDER),
    value("format", ALL),
    flag("get-kernel", BUILDER),
    value("gpg", BUILDER),
    flag("help", ALL),
    value("key", ALL),
    flag("keys-from-stdin", ALL),
    value("keep-user-accounts", SYSPREP),
    flag("list", BUILDER),
    value("list-format", BUILDER),
    flag("list-operations", SYSPREP),
    flag("long", BUILDER),
    flag("long-options", ALL),
    flag("machine-readable", ALL),
    value("memsize", ALL),
    value("mount-options", SYSPREP),
    flag("network", ALL),
    flag("no-network", ALL),
    flag("notes", BUILDER),
    value("operation", SYSPREP),
    value("operations", SYSPREP),
    value("output", BUILDER),
    flag("print-cache", BUILDER),
    flag("quiet", ALL),
    value("remove-user-accounts", SYSPREP),
    value("script", SYSPREP),
    value("scriptdir", SYSPREP),
    flag("short-options", ALL),
    value("size", BUILDER),
    value("smp", ALL),
    value("source", BUILDER),
    flag("sync", BUILDER),
    flag("no-sync", BUILDER),
    flag("verbose", ALL),
    flag("version", ALL),
    flag("warn-if-partition", BUILDER),
    flag("no-warn-if-partition", BUILDER),
    flag("wrap", ALL),
];

/// One-letter options, as the long ones that they stand for.
const SHORT: &[(char, &str)] = &[
    ('a', "add"),
    ('c', "connect"),
    ('d', "domain"),
    ('l', "list"),
    ('m', "memsize"),
    ('n', "dry-run"),
    ('o', "output"),
    ('q', "quiet"),
    ('v', "verbose"),
    ('V', "version"),
    ('x', "trace"),
];

/// `-x` has no long form.
const TRACE: Known = flag("trace", ALL);

/// An option as it was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Its long name, whole.
    pub(super) name: &'static str,
    /// Where it stands, its value included.
    pub(super) option: Word,
    /// Its value; always there for one that has any.
    pub(super) value: Option<Word>,
}

/// What getopt finds wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) word: Word,
    pub(super) message: String,
}

fn of_tool(tool: Tool) -> impl Iterator<Item = &'static Known> {
    let bit = match tool {
        Tool::Customize => CUSTOMIZE,
        Tool::Builder => BUILDER,
        Tool::Sysprep => SYSPREP,
    };
    STEPS.iter().chain(OTHERS).filter(move |known| known.tools & bit != 0)
}

/// Whether a word is an option that a file of commands may hold, and whether it takes a value.
pub(super) fn customize(name: &str) -> Option<(&'static str, bool)> {
    STEPS.iter().find(|known| known.name == name).map(|known| (known.name, known.value))
}

/// Whether a word is an option that a file of commands may hold.
pub(super) fn is_customize(name: &str) -> bool {
    customize(name).is_some()
}

/// Finds a long option by its name or by the start of it that fits no other, as `getopt_long` does.
fn long(tool: Tool, written: &str) -> Result<&'static Known, String> {
    if let Some(known) = of_tool(tool).find(|known| known.name == written) {
        return Ok(known);
    }
    let mut near = of_tool(tool).filter(|known| known.name.starts_with(written));
    match (near.next(), near.next()) {
        (Some(known), None) if !written.is_empty() => Ok(known),
        (Some(first), Some(second)) if !written.is_empty() => Err(format!(
            "`--{}` may be `--{}` or `--{}`",
            crate::mistake::excerpt(written),
            first.name,
            second.name
        )),
        _ => {
            let shown = without_value(&format!("--{written}"));
            Err(format!("there is no option `{}`", crate::mistake::excerpt(&shown)))
        }
    }
}

/// An option as it was written, without the value that may follow its name: that of a name that is
/// not known may be a password.
pub(super) fn without_value(text: &str) -> String {
    let dashes = text.len() - text.trim_start_matches('-').len();
    // Behind one dash, each letter is a name.
    let end = if dashes == 1 {
        dashes + text[1..].chars().next().map_or(0, char::len_utf8)
    } else {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        text.find(|c| !letter(c)).unwrap_or(text.len())
    };
    let rest = if end < text.len() { "…" } else { "" };
    format!("{}{rest}", &text[..end])
}

/// Whether the value of an option may hold a password.
pub(super) fn is_secret(name: &str) -> bool {
    matches!(name, "password" | "root-password" | "sm-credentials" | "key")
}

/// Splits a command line into options and what is none.
pub(super) fn read(tool: Tool, words: &[Word]) -> (Vec<Written>, Vec<Word>, Vec<Wrong>) {
    let (mut options, mut rest, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        if word.text == "--" {
            rest.extend(words.by_ref().cloned());
        } else if let Some(text) = word.text.strip_prefix("--") {
            let (name, inline) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            match long(tool, name) {
                Ok(known) => {
                    let inline = inline.map(|text| Word { text: text.to_owned(), ..word.clone() });
                    take(known, word, inline, &mut words, &mut options, &mut wrong);
                }
                Err(message) => {
                    // What looks like its value is no template and no disk.
                    words.next_if(|next| inline.is_none() && hidden(&next.text) != next.text);
                    wrong.push(Wrong { word: word.clone(), message });
                }
            }
        } else if word.text.starts_with('-') && word.text.len() > 1 {
            shorts(tool, word, &mut words, &mut options, &mut wrong);
        } else {
            rest.push(word.clone());
        }
    }
    (options, rest, wrong)
}

fn take<'a>(
    known: &'static Known,
    word: &Word,
    inline: Option<Word>,
    words: &mut impl Iterator<Item = &'a Word>,
    options: &mut Vec<Written>,
    wrong: &mut Vec<Wrong>,
) {
    let value = match (known.value, inline) {
        (false, None) => None,
        (false, Some(_)) => {
            let message = format!("`--{}` takes no value", known.name);
            wrong.push(Wrong { word: word.clone(), message });
            return;
        }
        (true, Some(value)) => Some(value),
        (true, None) => {
            let Some(value) = words.next() else {
                let message = format!("`--{}` lacks its value", known.name);
                wrong.push(Wrong { word: word.clone(), message });
                return;
            };
            Some(value.clone())
        }
    };
    let option = match &value {
        // A password is not repeated, wherever the option is shown.
        Some(_) if is_secret(known.name) => {
            Word { text: format!("--{} …", known.name), ..word.clone() }
        }
        Some(value) => Word {
            text: format!("--{} {}", known.name, value.text),
            span: word.span.to(value.span),
            known: word.known && value.known,
        },
        None => word.clone(),
    };
    options.push(Written { name: known.name, option, value });
}

fn shorts<'a>(
    tool: Tool,
    word: &Word,
    words: &mut impl Iterator<Item = &'a Word>,
    options: &mut Vec<Written>,
    wrong: &mut Vec<Wrong>,
) {
    let mut letters = word.text.chars();
    letters.next();
    while let Some(letter) = letters.next() {
        let name = SHORT.iter().find(|(known, _)| *known == letter).map(|(_, name)| *name);
        let known = match name {
            Some("trace") => Some(&TRACE),
            Some(name) => of_tool(tool).find(|known| known.name == name),
            None => None,
        };
        let Some(known) = known else {
            let message = format!("there is no option `-{}`", letter.escape_debug());
            wrong.push(Wrong { word: word.clone(), message });
            return;
        };
        let text = letters.as_str();
        if known.value && !text.is_empty() {
            let inline = Word { text: text.to_owned(), ..word.clone() };
            take(known, word, Some(inline), words, options, wrong);
            return;
        }
        take(known, word, None, words, options, wrong);
    }
}
