//! What a guest's boot entries are made of: the shell's variables of grub-mkconfig(8), read without a
//! shell, and `/etc/kernel/cmdline`.

use super::entries::words;
use crate::audit::files::{Look, matching, text};
use crate::guest::root::GuestRoot;

const DEFAULTS: &str = "/etc/default/grub";
const MORE_DEFAULTS: &str = "/etc/default/grub.d/*.cfg";
const CMDLINE: &str = "/etc/kernel/cmdline";
/// Longest value of a variable, in bytes. Linux itself takes 2 KiB on x86 and 64 KiB nowhere.
const LONGEST: usize = 64 << 10;

/// What the entries are made of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    /// What every entry gets.
    pub(super) all: Vec<String>,
    /// What entries that are not for repairs get too.
    pub(super) normal: Vec<String>,
    /// Whether something in them only a shell could tell.
    pub(super) unclear: bool,
    /// The files that they stand in.
    pub(super) files: Vec<String>,
}

pub(super) fn defaults(root: &GuestRoot) -> Look<Defaults> {
    let mut found = Defaults::default();
    let mut files = vec![DEFAULTS.to_owned()];
    files.extend(matching(root, MORE_DEFAULTS)?);
    let (mut every, mut normal) = (String::new(), String::new());
    for path in files {
        let Some(text) = text(root, &path)? else { continue };
        for line in text.lines() {
            let line = line.trim().trim_start_matches("export ");
            let Some((name, value)) = line.split_once('=') else { continue };
            if !matches!(name, "GRUB_CMDLINE_LINUX" | "GRUB_CMDLINE_LINUX_DEFAULT") {
                continue;
            }
            let known = |variable: &str| match variable {
                "GRUB_CMDLINE_LINUX" => Some(every.as_str()),
                "GRUB_CMDLINE_LINUX_DEFAULT" => Some(normal.as_str()),
                _ => None,
            };
            let Some(full) = expanded(unquoted(value), known) else {
                found.unclear = true;
                continue;
            };
            if name == "GRUB_CMDLINE_LINUX" {
                every = full;
            } else {
                normal = full;
            }
        }
        found.files.push(path);
    }
    found.all = words(&every).collect();
    found.normal = words(&normal).collect();
    if let Some(text) = text(root, CMDLINE)? {
        found.all.extend(words(&text));
        found.files.push(CMDLINE.to_owned());
    }
    Ok(found)
}

/// A value with the variables in it replaced; `None` where only a shell could, or it would be too long.
fn expanded<'v>(value: &str, known: impl Fn(&str) -> Option<&'v str>) -> Option<String> {
    let mut full = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(['$', '`']) {
        full.push_str(&rest[..at]);
        let behind = rest[at..].strip_prefix('$')?;
        let (name, after) = if let Some(inside) = behind.strip_prefix('{') {
            inside.split_once('}')?
        } else {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            behind.split_at(behind.find(|c| !is_name(c)).unwrap_or(behind.len()))
        };
        full.push_str(known(name)?);
        if full.len() > LONGEST {
            return None;
        }
        rest = after;
    }
    full.push_str(rest);
    (full.len() <= LONGEST).then_some(full)
}

/// The value of a shell's assignment without its quotes and what follows them.
fn unquoted(value: &str) -> &str {
    let value = value.trim_start();
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
        _ => value.split([' ', '\t', ';', '#']).next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Guest(tempfile::TempDir);

    impl Guest {
        fn new(files: &[(&str, &str)]) -> Self {
            let guest = Self(tempfile::tempdir().unwrap());
            for (path, text) in files {
                let path = guest.0.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            guest
        }

        fn defaults(&self) -> Defaults {
            defaults(&GuestRoot::open(self.0.path()).unwrap()).unwrap()
        }
    }

    #[test]
    fn defaults_stand_on_each_other() {
        let first = (
            "etc/default/grub",
            "GRUB_CMDLINE_LINUX=\"a\" # b\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\n",
        );
        let second = (
            "etc/default/grub.d/10.cfg",
            "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX c\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"${GRUB_CMDLINE_LINUX_DEFAULT} d\"\n",
        );
        let found = Guest::new(&[first, second]).defaults();
        assert_eq!(found.all, ["a", "c"]);
        assert_eq!(found.normal, ["quiet", "d"]);
        assert!(!found.unclear);
        let third = ("etc/default/grub.d/20.cfg", "GRUB_CMDLINE_LINUX=\"x=$(hostname)\"\n");
        assert!(Guest::new(&[first, second, third]).defaults().unclear);
    }

    #[test]
    fn a_variable_that_doubles_itself_is_unclear() {
        let double = "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX$GRUB_CMDLINE_LINUX\"\n";
        let text = format!("GRUB_CMDLINE_LINUX=\"x \"\n{}", double.repeat(40));
        let found = Guest::new(&[("etc/default/grub", &text)]).defaults();
        assert!(found.unclear && found.all.len() <= LONGEST / 2);
        let many = format!("GRUB_CMDLINE_LINUX=\"{}\"\n", "$GRUB_CMDLINE_LINUX ".repeat(1 << 15));
        let text = format!("GRUB_CMDLINE_LINUX=\"{}\"\n{many}", "x ".repeat(1 << 14));
        assert!(Guest::new(&[("etc/default/grub", &text)]).defaults().unclear);
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(text: String) {
            let _ = expanded(unquoted(&text), |_| Some("x"));
        }
    }
}
