//! Command lines of virt-builder, virt-customize and virt-sysprep.
//!
//! A [`Session`] is one such command at work on one image: it turns options into nodes, in their
//! order. What a single option becomes is `steps`'s.

use super::Files;
use super::draft::{Draft, ImageDraft, Item, Node, Value, disk_name, stem};
use super::options::{self, Written};
use super::sysprep::{self, Selected};
use super::traps::{Traps, is_red_hat};
use crate::source::Span;

/// The three programs; each takes all options of virt-customize that change a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Customize,
    Builder,
    Sysprep,
}

impl Tool {
    /// The program with that name, or with a path that ends in it.
    pub(super) fn of(program: &str) -> Option<Self> {
        match program.rsplit('/').next().unwrap_or(program) {
            "virt-customize" => Some(Self::Customize),
            "virt-builder" => Some(Self::Builder),
            "virt-sysprep" => Some(Self::Sysprep),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Customize => "virt-customize",
            Self::Builder => "virt-builder",
            Self::Sysprep => "virt-sysprep",
        }
    }
}

/// One word of a command line.
#[derive(Debug, Clone)]
pub(super) struct Word {
    /// Without quotes; parts that are only known when the script runs stand as they were written.
    pub(super) text: String,
    pub(super) span: Span,
    /// Whether all of it is known.
    pub(super) known: bool,
}

/// What the steps are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new recipe, which may name secrets and say things in comments.
    Recipe,
    /// The place of a `commands-from-file` in a recipe that there is.
    Step,
}

/// One command at work on one image.
pub(super) struct Session<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) traps: &'a mut Traps,
    pub(super) purpose: Purpose,
    /// Reads files that commands name, to look into scripts.
    pub(super) files: &'a Files<'a>,
    pub(super) image: ImageDraft,
    /// Where the image goes in the draft; behind the others if it is new.
    place: usize,
    pub(super) tool: Tool,
    pub(super) network: bool,
    pub(super) crypto: Option<String>,
    /// Whether the options stand behind an `--sm-register`.
    pub(super) registered: bool,
    /// Passwords are set behind all other options.
    pub(super) passwords: Vec<Node>,
    pub(super) attached: Vec<String>,
    /// Where the file was named whose lines are the options at the moment.
    pub(super) in_file: Option<Span>,
    /// What the image had before this command.
    before: usize,
    log_removed: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        draft: &'a mut Draft,
        traps: &'a mut Traps,
        purpose: Purpose,
        files: &'a Files<'a>,
    ) -> Self {
        let nowhere = Span { file: crate::source::FileId(0), offset: 0, len: 0 };
        Self {
            draft,
            traps,
            purpose,
            files,
            image: ImageDraft::new(String::new(), nowhere),
            place: 0,
            tool: Tool::Customize,
            network: true,
            crypto: None,
            registered: false,
            passwords: Vec::new(),
            attached: Vec::new(),
            in_file: None,
            before: 0,
            log_removed: false,
        }
    }

    /// Starts a command on a new image.
    pub(super) fn begin(&mut self, image: ImageDraft, tool: Tool) {
        self.place = self.draft.images.len();
        self.start(image, tool);
    }

    fn start(&mut self, image: ImageDraft, tool: Tool) {
        self.before = image.items.len();
        self.image = image;
        self.tool = tool;
        self.network = tool != Tool::Sysprep;
    }

    /// Ends the command: what it does last, and what it leaves behind.
    pub(super) fn end(&mut self) {
        // One method for all of them, wherever its option stands.
        let crypto = self.crypto.take();
        for mut node in std::mem::take(&mut self.passwords) {
            let hashed = node
                .properties
                .first()
                .is_some_and(|(selector, _)| !matches!(*selector, "locked" | "disabled"));
            if let Some(crypto) = crypto.clone().filter(|_| hashed) {
                node = node.text("crypto", crypto);
            }
            self.image.items.push(Item::Step(node));
        }
        if self.purpose == Purpose::Recipe {
            self.leftovers();
        }
        let nothing = ImageDraft::new(String::new(), self.image.span);
        let image = std::mem::replace(&mut self.image, nothing);
        let place = self.place.min(self.draft.images.len());
        self.draft.images.insert(place, image);
    }

    fn leftovers(&mut self) {
        let name = self.image.name.clone();
        let span = self.image.span;
        let new = &self.image.items[self.before.min(self.image.items.len())..];
        let program = new.iter().find_map(|item| match item {
            Item::Step(node) if node.is_program() || node.word == "uninstall" => Some(node.span),
            _ => None,
        });
        if let Some(span) = program.filter(|_| !self.log_removed) {
            self.traps.once(&name, span, "kiln::import::builder_log", (
                "the old command left its log in the image",
                "its output is in /tmp/builder.log of the image",
                "nothing to do: kiln keeps logs outside of the image, and its seal removes this one",
            ));
        }
        let base = self.image.base.as_ref().and_then(|base| base.arguments.get(1)).cloned();
        if self.image.steps().any(|node| node.word == "selinux-relabel") {
            return;
        }
        if let Some(base) = base.filter(|base| is_red_hat(base))
            && self.image.items.len() > self.before
        {
            let message = format!("`{base}` has SELinux, and this command did not relabel it");
            self.traps.once(
                &name,
                span,
                "kiln::import::relabel_missing",
                (
                    &message,
                    "before guestfs-tools 1.50 this left files without labels",
                    "nothing to do: kiln's seal relabels every guest that has SELinux",
                ),
            );
        }
    }

    /// A whole command line, without the program's name. `whole` is its place.
    pub(super) fn command(&mut self, tool: Tool, words: &[Word], whole: Span) {
        let (written, rest, wrong) = options::read(tool, words);
        let value = |name: &str| {
            let found = written.iter().rev().find(|option| option.name == name)?;
            found.value.as_ref()
        };
        let has = |name: &str| written.iter().any(|option| option.name == name);
        let queries = ["list", "help", "version", "list-operations", "notes", "long-options"];
        if queries.iter().any(|name| has(name)) || has("cache-all-templates") || has("delete-cache")
        {
            self.draft.notes.push(format!("not imported, as it makes no image: {}", tool.name()));
            return;
        }
        match tool {
            Tool::Builder => self.builder(&rest, value("output"), value("format"), whole),
            Tool::Customize | Tool::Sysprep => {
                let disk = written.iter().find(|option| option.name == "add");
                let disk = disk.and_then(|option| option.value.as_ref());
                self.existing(tool, disk, value("domain"), value("format"), whole);
                let disks = written.iter().filter(|option| option.name == "add").skip(1);
                let more: Vec<_> = disks.filter_map(|option| option.value.clone()).collect();
                for disk in more {
                    let message = "an image of kiln has one disk";
                    self.leave(&disk, message, "import the others as images of their own");
                }
            }
        }
        for name in ["arch", "size"] {
            if let Some(value) = value(name) {
                self.base_option(name, value);
            }
        }
        if has("network") || has("no-network") {
            let last = written.iter().rev().find(|option| option.name.ends_with("network"));
            self.network = last.is_some_and(|option| option.name == "network");
        }
        self.log_removed |= has("no-logfile");
        for option in written.iter().filter(|option| option.name == "attach") {
            self.attached.extend(option.value.as_ref().map(|value| value.text.clone()));
        }
        for wrong in wrong {
            let help = "see `kiln import --help`, or the old tool's manual";
            let (span, label) = (wrong.word.span, "kept as a comment");
            self.traps.push(span, super::BAD_OPTION, wrong.message.as_str(), label, help);
            let shown = options::without_value(&wrong.word.text);
            self.image.note(format!("not imported: {shown}\n{}", wrong.message));
        }
        if tool != Tool::Builder {
            for word in &rest {
                self.leave(word, "this belongs to no option", "put it behind its option");
            }
        }
        if tool == Tool::Sysprep {
            self.sysprep(&written, whole);
        } else {
            self.steps(&written);
        }
        self.how(&written);
        if tool == Tool::Builder {
            self.image.built = Some(whole);
        }
        self.identity(tool, &written, whole);
        self.end();
    }

    /// `virt-builder NAME`.
    fn builder(
        &mut self,
        rest: &[Word],
        output: Option<&Word>,
        format: Option<&Word>,
        whole: Span,
    ) {
        let template = rest.first();
        let wanted = match (output, template) {
            (Some(output), _) => stem(&output.text),
            (None, Some(template)) => &template.text,
            (None, None) => "imported",
        };
        let mut image = ImageDraft::new(self.draft.free_name(wanted), whole);
        if let Some(template) = template {
            let span = template.span;
            image.base = Some(Node::new("base", ["template", &template.text], span));
        }
        let format = format.map_or("raw", |format| &format.text);
        let file = match (output, template) {
            (Some(output), _) => output.text.clone(),
            (None, Some(template)) if format == "raw" => format!("{}.img", template.text),
            (None, Some(template)) => format!("{}.{format}", template.text),
            (None, None) => String::new(),
        };
        image.add_disk(&file);
        image.outputs.push(Node::new("output", [format], whole));
        self.begin(image, Tool::Builder);
        for word in rest.iter().skip(1) {
            self.leave(word, "virt-builder takes one template", "import the others on their own");
        }
        if let Some(output) = output.filter(|output| output.text.contains('/')) {
            self.image.notes.push(format!("the old command wrote {}", output.text));
        }
    }

    /// A disk that is there: the image that an earlier command made, or a file.
    fn existing(
        &mut self,
        tool: Tool,
        disk: Option<&Word>,
        domain: Option<&Word>,
        format: Option<&Word>,
        whole: Span,
    ) {
        if let Some(disk) = disk {
            let known = |image: &ImageDraft| image.holds(&disk.text);
            if let Some(place) = self.draft.images.iter().position(known) {
                let image = self.draft.images.remove(place);
                self.place = place;
                self.start(image, tool);
                return;
            }
        }
        let wanted = disk.or(domain).map_or("imported", |word| stem(&word.text));
        let mut image = ImageDraft::new(self.draft.free_name(wanted), whole);
        if let Some(disk) = disk {
            image.add_disk(&disk.text);
        }
        self.begin(image, tool);
        if let Some(disk) = disk {
            let path = self.local(disk);
            let mut base = Node::new("base", ["file", &path], disk.span);
            if let Some(format) = format {
                base = base.text("format", &format.text);
            }
            self.image.base = Some(base);
            let raw = format.is_some_and(|format| format.text == "raw");
            let ending = disk.text.rsplit_once('.').map(|(_, ending)| ending);
            let output = if raw || ending == Some("raw") { "raw" } else { "qcow2" };
            self.image.outputs.push(Node::new("output", [output], disk.span));
            let name = self.image.name.clone();
            self.traps.once(
                &name,
                disk.span,
                "kiln::import::in_place",
                (
                    "the old command changed this disk in place",
                    "a failure left it half changed",
                    "keep the disk as it was before the old command ran: kiln starts from it each \
                 time, and writes its result to `out`",
                ),
            );
        } else if let Some(domain) = domain {
            let help = "copy the domain's disk into the workspace, and name it in `base file`";
            self.leave(domain, "kiln does not look into libvirt's domains", help);
        }
    }

    fn base_option(&mut self, name: &'static str, value: &Word) {
        let text = if name == "size" { size(&value.text) } else { Some(value.text.clone()) };
        match text {
            Some(text) => self.image.base_property(name, &text),
            None => self.leave(value, "kiln cannot read this size", "write `size=\"20G\"`"),
        }
    }

    /// What says how the old tool ran, and nothing about the image.
    fn how(&mut self, written: &[Written]) {
        const QUIET: &[&str] = &[
            "memsize",
            "smp",
            "verbose",
            "trace",
            "quiet",
            "colors",
            "colours",
            "wrap",
            "connect",
            "echo-keys",
            "machine-readable",
            "debug-gc",
            "cache",
            "no-cache",
            "curl",
            "gpg",
            "no-delete-on-failure",
            "no-sync",
            "sync",
            "check-signature",
            "warn-if-partition",
            "no-warn-if-partition",
            "attach-format",
            "list-format",
            "long",
            "short-options",
        ];
        let dropped: Vec<&str> =
            written.iter().map(|option| option.name).filter(|name| QUIET.contains(name)).collect();
        if !dropped.is_empty() && self.purpose == Purpose::Recipe {
            let mut names: Vec<_> = dropped.iter().map(|name| format!("--{name}")).collect();
            names.sort();
            names.dedup();
            let line =
                format!("left out, as they say nothing about the image: {}", names.join(" "));
            if !self.image.notes.contains(&line) {
                self.image.notes.push(line);
            }
        }
        for option in written {
            let (message, help) = match option.name {
                "source" | "fingerprint" => (
                    "kiln knows virt-builder's own sources",
                    "download the template, and name it in `base url` or `base file`",
                ),
                "no-check-signature" => (
                    "kiln always checks what it downloads",
                    "the lock file holds the checksum of each base",
                ),
                "key" | "keys-from-stdin" => {
                    ("kiln opens no encrypted disks", "start from a disk without LUKS")
                }
                "dry-run" | "dryrun" => (
                    "the old command threw its result away",
                    "`kiln plan` shows what would be done",
                ),
                "get-kernel" | "print-cache" => ("this makes no image", "leave it out"),
                _ => continue,
            };
            self.leave(&option.option, message, help);
        }
    }

    /// The machine id, which the old tools bake into an image whatever else they do.
    fn identity(&mut self, tool: Tool, written: &[Written], whole: Span) {
        let name = self.image.name.clone();
        let code = "kiln::import::machine_id";
        let cleared = self.image.scrub.is_some() || self.image.notes.iter().any(|n| n == SYSPREP);
        let text = match tool {
            Tool::Sysprep => (
                "virt-sysprep empties /etc/machine-id, and then bakes a new one",
                "every clone of this image shared its id",
                "nothing to do: kiln's seal clears it behind all steps",
            ),
            _ if cleared => (
                "this command runs behind virt-sysprep, and bakes a new machine id",
                "every clone of this image shared its id",
                "nothing to do: kiln's seal clears it behind all steps",
            ),
            _ if written.iter().any(|option| options::is_customize(option.name)) => (
                "the old command bakes a machine id into an image that has none",
                "every clone of this image may share its id",
                "nothing to do: kiln's seal clears it; the seal scrubs more, which \
                 `scrub { keep … }` turns off",
            ),
            _ => return,
        };
        self.traps.once(&name, whole, code, text);
    }

    fn sysprep(&mut self, written: &[Written], whole: Span) {
        let mut selected = Selected::defaults();
        let (mut users, mut named) = (Vec::new(), Vec::new());
        for option in written {
            let Some(value) = &option.value else { continue };
            match option.name {
                "operations" | "operation" => selected.operations(value),
                "enable" => selected.enable(value),
                "keep-user-accounts" => users.extend(sysprep::accounts(value)),
                "remove-user-accounts" => named.push(option),
                "script" | "scriptdir" if selected.has("script") => {
                    let help = "write what it does as steps, or as a `run` in the guest";
                    self.leave(&option.option, "kiln runs no scripts of the host", help);
                }
                "mount-options" => {
                    let help = "kiln mounts by the guest's own fstab";
                    self.leave(&option.option, "kiln takes no mount options", help);
                }
                _ => {}
            }
        }
        for word in &selected.unknown {
            self.leave(
                word,
                "virt-sysprep has no such operation",
                "see `virt-sysprep --list-operations`",
            );
        }
        let mut without = Vec::new();
        if !selected.has("user-account") {
            let accounts = ["keep-user-accounts", "remove-user-accounts"];
            if let Some(first) = written.iter().find(|one| accounts.contains(&one.name)) {
                let help = "add the operation, or remove the option";
                let message = "the operation `user-account` is off, so this did nothing";
                self.leave(&first.option, message, help);
            }
        } else if !named.is_empty() {
            without.push("user-account");
            self.remove_accounts(&named, &std::mem::take(&mut users));
        }
        if selected.has("customize") {
            self.steps(written);
        } else if let Some(first) = written.iter().find(|one| options::is_customize(one.name)) {
            let help = "remove the operation's `-`, or the options";
            self.leave(
                &first.option,
                "the operation `customize` is off, so this did nothing",
                help,
            );
        }
        if selected.has("ssh-userdir")
            && let Some(key) = self.image.steps().find(|node| node.word == "ssh-inject")
        {
            let span = key.span;
            self.traps.push(
                span,
                "kiln::import::scrubbed_again",
                "virt-sysprep removes the directories of SSH keys, and this key is put there",
                "would be gone in the image",
                "kiln scrubs behind all steps, so `ssh-userdir` is left out of `scrub` here",
            );
            without.push("ssh-userdir");
        }
        self.image.scrub = selected.scrub(&without, &users, whole);
        self.image.notes.push(SYSPREP.to_owned());
        self.image.notes.dedup();
    }

    /// `--remove-user-accounts`: these and no others, before the command's own steps, as there. The
    /// seal knows only the accounts that stay.
    fn remove_accounts(&mut self, named: &[&Written], kept: &[String]) {
        for option in named {
            let Some(value) = &option.value else { continue };
            let accounts: Vec<_> =
                sysprep::accounts(value).filter(|account| !kept.contains(account)).collect();
            if !value.known || !accounts.iter().all(|account| sysprep::is_account(account)) {
                let message = "kiln cannot tell which accounts these are";
                self.leave(&option.option, message, "write a step `run-command \"userdel …\"`");
                continue;
            }
            self.traps.push(
                option.option.span,
                "kiln::import::named_accounts",
                "virt-sysprep removed these accounts alone, and passed over those that are missing",
                "removed by steps, which fail if an account is missing",
                "nothing to do: the item `user-account` of `scrub` would remove all others too",
            );
            for account in accounts {
                let script = format!("userdel --remove {account}");
                let node = Node::new("run-command", [script], option.option.span);
                self.image.items.push(Item::Step(node));
            }
        }
    }

    fn steps(&mut self, written: &[Written]) {
        for option in written {
            // More than this is refused as a whole.
            if options::is_customize(option.name) && self.image.items.len() <= super::MAX_STEPS {
                self.step(option);
            }
        }
    }

    /// One line of a file of commands.
    pub(super) fn commands_line(&mut self, option: &Word, value: Option<&Word>) {
        let Some((name, wants)) = options::customize(&option.text) else {
            let word = options::without_value(&option.text);
            let shown = crate::mistake::quoted(&word);
            let dashes = option.text.starts_with("--");
            let help = if dashes { "write it without `--`" } else { "see `virt-customize --help`" };
            let message = format!("there is no command {shown}");
            self.traps.push(option.span, super::BAD_OPTION, message, "kept as a comment", help);
            // What is not known may be a password.
            let value = value.map_or("", |_| " …");
            self.image.note(format!("not imported: {word}{value}"));
            return;
        };
        if wants && value.is_none() {
            let message = format!("`{name}` lacks its value");
            let help = "write it behind the word";
            self.traps.push(option.span, super::BAD_OPTION, message, "kept as a comment", help);
            self.image.note(format!("not imported: {name}"));
            return;
        }
        self.log_removed |= name == "no-logfile";
        let value = value.filter(|_| wants).cloned();
        let shown = match &value {
            Some(_) if options::is_secret(name) => format!("{name} …"),
            Some(value) => format!("{name} {}", value.text),
            None => name.to_owned(),
        };
        self.step(&Written { name, option: Word { text: shown, ..option.clone() }, value });
    }

    /// Adds a step; programs get the network and the subscription that the command had.
    pub(super) fn put(&mut self, mut node: Node) {
        if node.is_program() {
            let by_default = matches!(node.word, "install" | "update");
            if self.network != by_default {
                node.properties.push(("network", Value::Flag(self.network)));
            }
            if self.registered && self.network {
                node.properties.push(("subscription", Value::Flag(true)));
            }
            if node.word.starts_with("run") && !self.attached.is_empty() {
                let name = self.image.name.clone();
                self.traps.once(
                    &name,
                    node.span,
                    "kiln::import::attached",
                    (
                        "the old tool gave this disk to the guest as a device",
                        "the script has to find it elsewhere",
                        "it lies in /run/kiln/attached while the step runs, and needs no `mount`",
                    ),
                );
                for path in &self.attached {
                    let child = Node::new("attach", [path], node.span).flag("disk", true);
                    node.children.push(child);
                }
            }
        }

        self.image.items.push(Item::Step(node));
    }

    /// Keeps something as a comment, and reports it.
    pub(super) fn leave(&mut self, word: &Word, message: &str, help: &str) {
        self.traps.left(word.span, message, help);
        self.image.note(format!("not imported: {}\n{message}: {help}", word.text));
    }

    /// A file of the host as the recipe names it: relative to the recipe.
    pub(super) fn local(&mut self, word: &Word) -> String {
        let path = disk_name(&word.text);
        let outside = path.starts_with(['/', '~']) || path.split('/').any(|part| part == "..");
        if !outside || path.is_empty() {
            return path;
        }
        let name =
            path.rsplit('/').find(|part| !part.is_empty() && *part != "..").unwrap_or("file");
        let message = format!("`{}` lies outside of the workspace", crate::mistake::excerpt(&path));
        let help = format!("copy it beside the recipe, as `{}`", crate::mistake::excerpt(name));
        let label = "a recipe names files relative to itself";
        self.traps.push(word.span, "kiln::import::outside_path", message, label, help);
        name.to_owned()
    }
}

/// Stands above an image that virt-sysprep worked on.
const SYSPREP: &str = "what virt-sysprep removed, kiln's seal removes, behind all steps";

/// A size of virt-builder or qemu-img as kiln writes it; `None` if it is none, or relative.
pub(super) fn size(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let unit = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "b" | "" => 1.0,
        "k" | "K" => 1024.0,
        "m" | "M" => 1_048_576.0,
        "g" | "G" => 1_073_741_824.0,
        "t" | "T" => 1_099_511_627_776.0,
        _ => return None,
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let mib = (number * unit / 1_048_576.0).ceil() as u64;
    Some(if mib == 0 {
        return None;
    } else if mib.is_multiple_of(1024) {
        format!("{}G", mib / 1024)
    } else {
        format!("{mib}M")
    })
}
