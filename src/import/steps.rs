//! Options of virt-customize to steps, one by one.
//!
//! Values are split exactly as the old tool splits them, and what it did behind its author's back is
//! reported. Source: virt-customize(1).

use super::draft::{Node, SecretDraftPlace};
use super::options::Written;
use super::traps::hard_coded_manager;
use super::virt::{Purpose, Session, Word};
use crate::mistake::excerpt;
use crate::source::Span;

/// Directories that every guest has: an upload to one of them goes into it.
const DIRECTORIES: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/opt",
    "/root",
    "/sbin",
    "/srv",
    "/tmp",
    "/usr/bin",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/tmp",
    "/etc/systemd/system",
    "/etc/sysconfig",
    "/etc/cron.d",
    "/etc/sudoers.d",
    "/etc/yum.repos.d",
    "/etc/profile.d",
];

/// Modes that files and directories have.
const USUAL: &[u32] = &[
    0o400, 0o440, 0o444, 0o500, 0o550, 0o555, 0o600, 0o640, 0o644, 0o660, 0o664, 0o666, 0o700,
    0o750, 0o755, 0o770, 0o775, 0o777, 0o1777, 0o2755, 0o2775, 0o4755,
];

impl Session<'_> {
    /// One option, as steps behind those that there are.
    pub(super) fn step(&mut self, option: &Written) {
        let span = option.option.span;
        let nothing = Word { text: String::new(), span, known: true };
        let value = option.value.as_ref().unwrap_or(&nothing);
        let text = value.text.as_str();
        if !value.known {
            self.traps.push(
                value.span,
                "kiln::import::run_time_value",
                format!("what `--{}` gets is only known when the script runs", option.name),
                "copied as it is written",
                "put the value into the recipe",
            );
        }
        let pair = |separator: char| text.split_once(separator);
        match option.name {
            "install" | "uninstall" | "firstboot-install" if !value.known => {
                let message = "which packages these are is only known when the script runs";
                self.leave(&option.option, message, "name them");
            }
            "install" | "uninstall" | "firstboot-install" => {
                let packages = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                let word = match option.name {
                    "install" => "install",
                    "uninstall" => "uninstall",
                    _ => "firstboot-install",
                };
                self.put(Node::new(word, packages, span));
            }
            "update" => self.update(span),
            "run" | "firstboot" => self.script_file(option.name == "run", value, span),
            "run-command" | "firstboot-command" => {
                self.script_text(option.name == "run-command", text, span);
            }
            "write" => match pair(':') {
                Some((path, content)) => self.write(path, content, span),
                None => self.misfit(option, "FILE:TEXT"),
            },
            "append-line" => self.two("append-line", option, "FILE:LINE"),
            "move" => self.two("move", option, "SOURCE:DEST"),
            "copy" => self.two("copy", option, "SOURCE:DEST"),
            "edit" => self.edit(option),
            "copy-in" | "tar-in" => match pair(':') {
                Some((source, directory)) => {
                    let source = self.local(&Word { text: source.to_owned(), ..value.clone() });
                    let word = if option.name == "copy-in" { "copy-in" } else { "tar-in" };
                    self.put(Node::new(word, [source.as_str(), directory], span));
                    if word == "copy-in" {
                        self.host_owner(span);
                    }
                }
                None => self.misfit(option, "LOCAL:DIRECTORY"),
            },
            "upload" => match pair(':') {
                Some((source, path)) => {
                    let source = Word { text: source.to_owned(), ..value.clone() };
                    self.upload(&source, path, span);
                }
                None => self.misfit(option, "FILE:DEST"),
            },
            "mkdir" => self.put(Node::new("mkdir", [text], span)),
            "delete" => self.delete(text, option),
            "touch" => self.put(Node::new("touch", [text], span)),
            "truncate" => self.put(Node::new("truncate", [text], span)),
            "truncate-recursive" => self.put(Node::new("truncate-recursive", [text], span)),
            "scrub" => self.put(Node::new("scrub-file", [text], span)),
            "link" => self.put(Node::new("link", text.split(':'), span)),
            "chmod" => match pair(':') {
                Some((mode, path)) => self.chmod(mode, path, option),
                None => self.misfit(option, "PERMISSIONS:FILE"),
            },
            "chown" => {
                let mut parts = text.splitn(3, ':');
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(user), Some(group), Some(path)) => {
                        let owners = format!("{user}:{group}");
                        self.put(Node::new("chown", [owners.as_str(), path], span));
                    }
                    _ => self.misfit(option, "UID:GID:PATH"),
                }
            }
            "hostname" => self.put(Node::new("hostname", [text], span)),
            "timezone" => self.put(Node::new("timezone", [text], span)),
            "password" => match pair(':') {
                Some((user, selector)) => self.password(user, selector, option),
                None => self.misfit(option, "USER:SELECTOR"),
            },
            "root-password" => self.password("root", text, option),
            "password-crypto" => self.crypto = Some(text.to_owned()),
            "ssh-inject" => self.ssh_inject(option, value),
            "inject-qemu-ga" => self.put(Node::new("inject-qemu-ga", Vec::<String>::new(), span)),
            "inject-virtio-win" | "inject-blnsvr" => {
                self.leave(&option.option, "kiln builds no Windows images", "leave it out");
            }
            "commands-from-file" => self.commands_file(value, option),
            "selinux-relabel" => self.relabel(span),
            name if name.starts_with("sm-") => self.subscription(option, value),
            "no-selinux-relabel" => self.no_relabel(span),
            // `no-logfile` says nothing about an image without such a log.
            _ => {}
        }
    }

    /// A value that does not have the shape that its option wants.
    fn misfit(&mut self, option: &Written, shape: &str) {
        let message = format!("`--{}` wants {shape}", option.name);
        let help = "write the step by hand";
        self.traps.push(
            option.option.span,
            super::BAD_OPTION,
            message.as_str(),
            "kept as a comment",
            help,
        );
        self.image.note(format!("not imported: {}\n{message}", option.option.text));
    }

    /// A step with two texts, split at the first colon.
    fn two(&mut self, word: &'static str, option: &Written, shape: &str) {
        let value = option.value.as_ref().map_or("", |value| &value.text);
        match value.split_once(':') {
            Some((first, second)) => self.put(Node::new(word, [first, second], option.option.span)),
            None => self.misfit(option, shape),
        }
    }

    fn delete(&mut self, pattern: &str, option: &Written) {
        if let Some(patterns) = alternatives(pattern) {
            self.put(Node::new("delete", patterns, option.option.span));
        } else {
            let message = "kiln's patterns have no braces";
            self.leave(&option.option, message, "write each pattern on its own");
        }
    }

    fn update(&mut self, span: Span) {
        let base = self.image.base.as_ref().and_then(|base| base.arguments.get(1));
        if base.is_some_and(|name| name.to_ascii_lowercase().contains("arch")) {
            self.traps.push(
                span,
                "kiln::import::pacman_confirm",
                "the old tool runs `pacman -Su` without `--noconfirm`",
                "pacman asks here, and nobody answers",
                "nothing to do: kiln answers for you",
            );
        }
        self.put(Node::new("update", Vec::<String>::new(), span));
    }

    fn script_file(&mut self, now: bool, value: &Word, span: Span) {
        let text = (self.files)(&value.text);
        let path = self.local(value);
        if let Some(text) = text {
            let shebang = text.lines().next().and_then(|line| line.strip_prefix("#!"));
            let shell = |line: &str| {
                let mut words = line.split_whitespace();
                let program = words.next().unwrap_or_default();
                program.ends_with("/sh") && words.next().is_none()
            };
            if let Some(line) = shebang.filter(|line| now && !shell(line)) {
                self.traps.push(
                    value.span,
                    "kiln::import::ignored_shebang",
                    format!(
                        "the old tool ignored `#!{}` and ran this script with sh",
                        excerpt(line)
                    ),
                    "kiln runs it with the program that it names",
                    "check that it works with that program: it never ran so far",
                );
            }
            self.failures(&text, shebang.is_some(), span);
            self.lint_manager(&text, span);
        } else {
            let name = self.image.name.clone();
            self.traps.once(&name, span, "kiln::import::failures_ignored", NO_STOP);
        }
        if !now {
            self.first_boot(span);
        }
        self.put(Node::new(if now { "run" } else { "firstboot" }, [path], span));
    }

    pub(super) fn script_text(&mut self, now: bool, text: &str, span: Span) {
        self.failures(text, text.starts_with("#!"), span);
        self.lint_manager(text, span);
        if !now {
            self.first_boot(span);
        }
        self.put(Node::new(if now { "run-command" } else { "firstboot-command" }, [text], span));
    }

    /// Scripts whose failing commands the old tool did not see: the last one alone decided.
    fn failures(&mut self, text: &str, shebang: bool, span: Span) {
        let commands = text.lines().filter(|line| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        });
        let several = commands.count() > 1 || text.contains(';');
        let stops = text.split(['\n', ';']).any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some("set")
                && words.next().is_some_and(|flags| {
                    flags.starts_with('-') && flags.contains('e') || flags == "-o"
                })
        });
        if several && !stops && !shebang {
            let name = self.image.name.clone();
            self.traps.once(&name, span, "kiln::import::failures_ignored", NO_STOP);
        }
    }

    fn lint_manager(&mut self, text: &str, span: Span) {
        if let Some(manager) = hard_coded_manager(text) {
            self.traps.push(
                span,
                "kiln::import::package_manager",
                format!("this script installs packages with `{manager}`"),
                "works with one family of distributions only",
                "name the packages in an `install` step",
            );
        }
    }

    fn first_boot(&mut self, span: Span) {
        let name = self.image.name.clone();
        self.traps.once(
            &name,
            span,
            "kiln::import::firstboot_status",
            (
                "what a script does at the first boot is seen by nobody",
                "the old tool ignores its exit code, and so does the guest",
                "do what can be done now in a `run`: its failure ends the build",
            ),
        );
    }

    fn host_owner(&mut self, span: Span) {
        let name = self.image.name.clone();
        self.traps.once(
            &name,
            span,
            "kiln::import::host_owner",
            (
                "the old tool copied the builder's user and group ids into the image",
                "owned by whoever ran it",
                "kiln's copies are root's; write `owner=` and `group=` where they are not",
            ),
        );
    }

    fn write(&mut self, path: &str, content: &str, span: Span) {
        let mut node = Node::new("write", [path, content], span);
        if !content.is_empty() && !content.ends_with('\n') {
            node = node.flag("newline", false);
            self.traps.push(
                span,
                "kiln::import::no_newline",
                "the old tool wrote this file without a final newline",
                "exactly this text",
                "remove `newline=#false` if a program reads the file by lines",
            );
        }
        self.put(node);
    }

    fn edit(&mut self, option: &Written) {
        let value = option.value.as_ref().map_or("", |value| &value.text);
        let Some((path, expression)) = value.split_once(':') else {
            self.misfit(option, "FILE:EXPRESSION");
            return;
        };
        let expression = expression.trim_start();
        let mut letters = expression.chars();
        let substitutes = letters.next() == Some('s')
            && letters.next().is_some_and(|c| c.is_ascii_punctuation() && c != '_');
        let span = option.option.span;
        if !substitutes {
            self.traps.push(
                span,
                "kiln::import::perl",
                "this is Perl beyond a substitution",
                "may not mean the same",
                "compare it with the section `edit` of the book, or do it in a `run-command`",
            );
        }
        self.put(Node::new("edit", [path, expression], span));
    }

    fn upload(&mut self, source: &Word, path: &str, span: Span) {
        let local = self.local(source);
        let name = source.text.rsplit('/').next().unwrap_or(&source.text);
        self.host_owner(span);
        if DIRECTORIES.contains(&path.trim_end_matches('/')) || path == "/" {
            let directory = if path == "/" { path } else { path.trim_end_matches('/') };
            self.put(Node::new("copy-in", [local.as_str(), directory], span));
        } else if let Some(directory) = path.strip_suffix('/') {
            let path = format!("{directory}/{name}");
            self.put(Node::new("upload", [local, path], span));
        } else {
            self.put(Node::new("upload", [local.as_str(), path], span));
        }
    }

    fn chmod(&mut self, mode: &str, path: &str, option: &Written) {
        let span = option.option.span;
        let digits = |radix: u32, text: &str| u32::from_str_radix(text, radix).ok();
        let octal = digits(8, mode).filter(|_| mode.len() >= 3 && mode.len() <= 5);
        let did = match mode.strip_prefix('0').filter(|rest| !rest.is_empty()) {
            Some(rest) => match rest.strip_prefix(['x', 'X']) {
                Some(hex) => digits(16, hex),
                None => digits(8, rest.trim_start_matches(['o', 'O'])),
            },
            None => digits(10, mode),
        };
        let Some(did) = did.filter(|did| *did <= 0o7777) else {
            self.misfit(option, "PERMISSIONS:FILE");
            return;
        };
        // Who wrote 420 knew that it is decimal: it is 0644.
        let knew = USUAL.contains(&did) && octal.is_none_or(|meant| !USUAL.contains(&meant));
        let meant = octal.filter(|meant| *meant <= 0o7777 && !knew).unwrap_or(did);
        if meant != did {
            self.traps.push(
                span,
                "kiln::import::decimal_mode",
                format!(
                    "the old tool took `{}` for a decimal number: mode {did:04o}",
                    excerpt(mode)
                ),
                format!("kiln sets {meant:04o}"),
                "a mode of the old tool is octal only with a leading 0",
            );
        }
        self.put(Node::new("chmod", [format!("{meant:04o}").as_str(), path], span));
    }

    fn password(&mut self, user: &str, selector: &str, option: &Written) {
        let span = option.option.span;
        if user != "root" {
            self.traps.push(
                span,
                "kiln::import::missing_user",
                format!("the old tool said nothing if there was no user `{}`", excerpt(user)),
                "kiln fails if the user is missing",
                "make the user in a step before this one",
            );
        }
        let node = Node::new("password", [user], span);
        let (kind, value) = selector.split_once(':').unwrap_or((selector, ""));
        let node = match kind {
            "lock" | "locked" if value.is_empty() => {
                self.traps.push(
                    span,
                    "kiln::import::locked",
                    format!(
                        "the old tool locks `{}` and discards the password there was",
                        excerpt(user)
                    ),
                    "kiln locks it too, and keeps the hash behind the lock",
                    "write `disabled=#true` instead if nobody may unlock the old password again",
                );
                node.flag("locked", true)
            }
            "lock" | "locked" => {
                self.password(user, value, option);
                node.flag("locked", true)
            }
            "disable" | "disabled" if value.is_empty() => node.flag("disabled", true),
            "random" => node.flag("random", true),
            "file" => {
                let file = self.local(&Word { text: value.to_owned(), span, known: true });
                node.text("file", file)
            }
            "password" if self.purpose == Purpose::Step => node.text("plain", value),
            "password" => {
                self.traps.push(
                    span,
                    "kiln::import::password_in_arguments",
                    format!("the password of `{}` stands in the command", excerpt(user)),
                    "everyone who sees the script or the process list knows it",
                    "it was not copied: keep it as a secret of `kiln.kdl`, as the recipe's top says",
                );
                let wanted = format!("{user}-password");
                let secret = self.draft.secret(&wanted, SecretDraftPlace::Env(span));
                node.text("secret", secret)
            }
            _ => {
                self.misfit(option, "a selector such as `file:NAME` or `locked`");
                return;
            }
        };
        self.passwords.push(node);
    }

    fn ssh_inject(&mut self, option: &Written, value: &Word) {
        let span = option.option.span;
        let mut parts = value.text.splitn(3, ':');
        let (user, kind, key) =
            (parts.next().unwrap_or_default(), parts.next(), parts.next().unwrap_or_default());
        let node = Node::new("ssh-inject", [user], span);
        let node = match kind {
            Some("file") => {
                let file = self.local(&Word { text: key.to_owned(), ..value.clone() });
                node.text("file", file)
            }
            Some("string") => node.text("key", key.trim()),
            None => {
                self.traps.push(
                    span,
                    "kiln::import::unnamed_key",
                    "the old tool took the newest key of whoever ran it",
                    "another key on each machine",
                    "copy the public key beside the recipe, as `id.pub`",
                );
                node.text("file", "id.pub").noted("the newest ~/.ssh/id*.pub of the builder")
            }
            Some(_) => {
                self.misfit(option, "USER, USER:file:NAME or USER:string:KEY");
                return;
            }
        };
        let twin = self.image.steps().find(|known| {
            known.word == node.word
                && known.arguments == node.arguments
                && known.properties == node.properties
        });
        if twin.is_some() {
            self.traps.push(
                span,
                "kiln::import::duplicate_key",
                "this key is put there twice",
                "the old tool wrote two lines",
                "nothing to do: kiln adds a key that is there only once",
            );
            return;
        }
        self.put(node);
    }

    fn commands_file(&mut self, value: &Word, option: &Written) {
        if self.purpose == Purpose::Step {
            let help = "write its lines into this file";
            self.leave(&option.option, "a file of commands cannot name another one", help);
            return;
        }
        if self.in_file.is_some() {
            let help = "write its lines into the file that names it";
            self.leave(&option.option, "a file of commands cannot name another one", help);
            return;
        }
        let span = option.option.span;
        let path = self.local(value);
        if let Some(text) = (self.files)(&value.text).filter(|_| value.known) {
            self.image.note(format!("the commands of {path}:"));
            self.in_file = Some(span);
            super::commands::include(self, span, &text);
            self.in_file = None;
            return;
        }
        self.traps.push(
            span,
            "kiln::import::commands_file",
            format!(
                "the file `{}` cannot be read here, so its commands stay in it",
                excerpt(&path)
            ),
            "what this command line says about networks, passwords and subscriptions does not \
             reach them",
            "import it again where the file is, or compare the file with the command line",
        );
        self.put(Node::new("commands-from-file", [path], span));
    }

    fn relabel(&mut self, span: Span) {
        let name = self.image.name.clone();
        self.traps.once(&name, span, "kiln::import::relabel_scheduled", (
            "on hosts with Debian or Ubuntu, the old tool did not relabel",
            "only left /.autorelabel, for a slow first boot with a restart",
            "nothing to do: kiln's seal writes the labels itself, behind all steps, and checks them",
        ));
        let written = self.image.steps().any(|node| node.word == "selinux-relabel");
        if !written {
            self.put(Node::new("selinux-relabel", Vec::<String>::new(), span));
        }
    }

    fn no_relabel(&mut self, span: Span) {
        let name = self.image.name.clone();
        self.traps.once(
            &name,
            span,
            "kiln::import::relabelled",
            (
                "the old command asked for no relabel",
                "kiln's seal relabels every guest that has SELinux all the same",
                "nothing to do: the labels are those that the guest's own policy asks for",
            ),
        );
    }

    /// `--sm-…`: a registration that lasts from step to step becomes one of the image.
    fn subscription(&mut self, option: &Written, value: &Word) {
        let span = option.option.span;
        if self.purpose == Purpose::Step {
            let help = "write a `subscription` in the image, and `subscription=#true` at the steps";
            self.leave(&option.option, "a subscription belongs to the image", help);
            return;
        }
        match option.name {
            "sm-credentials" => self.credentials(option, value),
            "sm-register" if self.image.subscription.is_some() => self.registered = true,
            "sm-register" => {
                let help =
                    "write a `subscription` in the image, and `subscription=#true` at the steps";
                self.leave(&option.option, "there are no credentials to register with", help);
            }
            "sm-attach" => {
                let pool = match value.text.split_once(':') {
                    None if value.text == "auto" => Some("auto"),
                    Some(("pool", id)) => Some(id),
                    _ => None,
                };
                if let (Some(pool), Some(node)) = (pool, &mut self.image.subscription) {
                    node.children.push(Node::new("pool", [pool], span));
                } else {
                    let help = "write `subscription { pool \"ID\" }`";
                    self.leave(&option.option, "this pool is not known", help);
                }
            }
            // kiln unregisters behind each step, also behind one that fails.
            _ => self.registered = false,
        }
    }

    fn credentials(&mut self, option: &Written, value: &Word) {
        let span = option.option.span;
        let mut parts = value.text.splitn(3, ':');
        let user = parts.next().unwrap_or_default();
        let place = match (parts.next(), parts.next()) {
            (Some("password"), Some(_)) => {
                self.traps.push(
                    span,
                    "kiln::import::password_in_arguments",
                    "the subscription's password stands in the command",
                    "everyone who sees the script or the process list knows it",
                    "it was not copied: keep it as a secret of `kiln.kdl`, as the recipe's top says",
                );
                SecretDraftPlace::Env(span)
            }
            (Some("file"), Some(file)) => {
                let word = Word { text: file.to_owned(), ..value.clone() };
                SecretDraftPlace::File(self.local(&word))
            }
            _ => {
                self.misfit(option, "USER:password:TEXT or USER:file:NAME");
                return;
            }
        };
        let secret = self.draft.secret("rhsm-password", place);
        let node = Node::new("subscription", Vec::<String>::new(), span)
            .text("user", user)
            .text("password", secret);
        self.image.subscription = Some(node);
    }
}

const NO_STOP: (&str, &str, &str) = (
    "the old tool ran scripts with plain `sh`: a command that failed was passed over",
    "only the last command decided",
    "kiln runs scripts without a shebang with `sh -eu`: write `|| true` behind what may fail",
);

/// `/a/{b,c}` as `/a/b` and `/a/c`: kiln's patterns have no braces. `None` for more than a few of
/// them, or for pairs inside others.
fn alternatives(pattern: &str) -> Option<Vec<String>> {
    const MAX_PAIRS: usize = 4;
    const MAX_COMMAS: usize = 12;
    if !pattern.contains('{') {
        return Some(vec![pattern.to_owned()]);
    }
    let many = |c: char, limit: usize| pattern.matches(c).count() > limit;
    let (head, rest) = pattern.split_once('{')?;
    let (inner, tail) = rest.split_once('}')?;
    if many('{', MAX_PAIRS) || many(',', MAX_COMMAS) || inner.contains('{') {
        return None;
    }
    let whole = inner.split(',').map(|part| alternatives(&format!("{head}{part}{tail}")));
    whole.collect::<Option<Vec<_>>>().map(|lists| lists.concat())
}
