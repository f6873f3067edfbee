//! Dockerfiles: a container's layers as the steps of a disk.
//!
//! Own parser of lines, as the format is one of lines. Source: the Dockerfile reference.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::budget::Budget;
use super::draft::{Draft, ImageDraft, Item, Node};
use super::traps::{Traps, hard_coded_manager};
use crate::mistake::Mistake;
use crate::source::{FileId, Span};

/// One instruction with its continuation lines and here-documents.
#[derive(Debug)]
struct Instruction {
    word: String,
    /// What stands behind the word, lines joined.
    rest: String,
    /// The texts of its here-documents.
    documents: Vec<String>,
    span: Span,
}

/// What instructions say about those behind them.
#[derive(Default)]
struct State {
    arguments: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
    directory: Option<String>,
    budget: Budget,
}

/// Reads a Dockerfile; its last stage becomes an image.
///
/// # Errors
/// If it has no `FROM`.
pub(super) fn read(
    draft: &mut Draft,
    traps: &mut Traps,
    file: FileId,
    text: &str,
) -> Result<(), Mistake> {
    let instructions = instructions(file, text);
    let Some(last) = instructions.iter().rposition(|one| one.word == "FROM") else {
        let span = Span { file, offset: 0, len: 0 };
        let message = "there is no `FROM` in this Dockerfile";
        return Err(Mistake::at(span, "kiln::import::syntax", message, "this file")
            .help("`--from` says what kind of file it is, if kiln took it for another"));
    };
    let mut state = State::default();
    let from = &instructions[last];
    let mut image = ImageDraft::new(draft.free_name("imported"), from.span);
    for one in &instructions[..last] {
        match one.word.as_str() {
            "FROM" => {
                let message = "kiln makes one disk of the last stage";
                traps.left(one.span, message, "import this stage from a file of its own");
                image.notes.push(format!("not imported: the stage FROM {}", one.rest));
            }
            "ARG" => argument(&mut state, &one.rest),
            _ => {}
        }
    }
    let whole = state.fill(&from.rest);
    let words: Vec<&str> =
        whole.split_whitespace().filter(|word| !word.starts_with("--")).collect();
    let name = words.first().copied().unwrap_or_default();
    if let Some((node, exact)) = base(name) {
        let base = Node { span: from.span, ..node };
        if !exact {
            traps.push(
                from.span,
                "kiln::import::nearest_base",
                format!(
                    "`{}` is a container, which has no kernel and no init",
                    crate::mistake::excerpt(name)
                ),
                "the distribution's cloud image stands in for it",
                "check that it is the release that you want",
            );
        }
        image.base = Some(base);
    } else {
        let message = format!("kiln knows no disk like `{}`", crate::mistake::excerpt(name));
        traps.left(from.span, message, "write the base of the distribution that it is made of");
        image.note(format!("not imported: FROM {whole}"));
    }
    for one in &instructions[last + 1..] {
        instruction(&mut image, traps, &mut state, one);
    }
    draft.images.push(image);
    Ok(())
}

fn instruction(image: &mut ImageDraft, traps: &mut Traps, state: &mut State, one: &Instruction) {
    match one.word.as_str() {
        "ARG" => argument(state, &one.rest),
        "ENV" => {
            for (name, value) in assignments(&state.fill(&one.rest)) {
                if state.arguments.insert(name.clone(), value.clone()).is_some() {
                    state.environment.retain(|(known, _)| *known != name);
                }
                state.environment.push((name, value));
            }
            traps.push(
                one.span,
                "kiln::import::environment",
                "a disk has no environment of its own",
                "set in the commands behind it, not in the running system",
                "write /etc/environment, or the unit of the service, if it needs it",
            );
        }
        "WORKDIR" => {
            let path = state.fill(&one.rest).trim().to_owned();
            let path = match (&state.directory, path.starts_with('/')) {
                (Some(old), false) => format!("{}/{path}", old.trim_end_matches('/')),
                (None, false) => format!("/{path}"),
                _ => path,
            };
            image.items.push(Item::Step(Node::new("mkdir", [&path], one.span)));
            state.directory = Some(path);
        }
        "RUN" => run(image, traps, state, one),
        "COPY" | "ADD" => copy(image, traps, state, one),
        "USER" => {
            traps.push(
                one.span,
                "kiln::import::user",
                "steps of kiln run as root",
                "what follows ran as another user",
                "write `runuser -u USER -- …` in the commands that need it",
            );
            image.note(format!("not imported: USER {}", one.rest));
        }
        "LABEL" | "MAINTAINER" | "SHELL" => image.note(format!("{} {}", one.word, one.rest)),
        "ENTRYPOINT" | "CMD" | "HEALTHCHECK" | "EXPOSE" | "VOLUME" | "STOPSIGNAL" | "ONBUILD" => {
            let help = match one.word.as_str() {
                "ENTRYPOINT" | "CMD" => {
                    "a machine starts services: write a unit below /etc/systemd/system, and enable it"
                }
                _ => "this belongs to where the machine runs",
            };
            traps.left(one.span, format!("a disk has no `{}`", one.word), help);
            image.note(format!("not imported: {} {}\n{help}", one.word, one.rest));
        }
        word => {
            let shown = crate::mistake::excerpt(word);
            traps.left(one.span, format!("there is no instruction `{shown}`"), "remove it");
            image.note(format!("not imported: {shown} {}", one.rest));
        }
    }
}

fn argument(state: &mut State, rest: &str) {
    if let Some((name, value)) = rest.split_once('=') {
        let value = value.trim().trim_matches(['"', '\'']);
        let value = state.fill(value);
        state.arguments.insert(name.trim().to_owned(), value);
    }
}

impl State {
    /// A text with `$NAME` and `${NAME}` replaced where the value is known.
    fn fill(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            filled.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            let (name, skip) = if let Some(inner) = behind.strip_prefix('{') {
                inner.split_once('}').map_or(("", 0), |(name, _)| (name, name.len() + 2))
            } else {
                let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let name = &behind[..end.unwrap_or(behind.len())];
                (name, name.len())
            };
            let known = self.arguments.get(name).map(String::as_str);
            let default = name
                .split_once(":-")
                .map(|(name, default)| self.arguments.get(name).map_or(default, String::as_str));
            match known.or(default).filter(|value| self.budget.spend(value.len() + 1)) {
                Some(value) => filled.push_str(value),
                None => filled.push_str(&rest[at..=at + skip]),
            }
            rest = &behind[skip..];
            // A hostile file may double a value with each line.
            if filled.len() > super::MAX_BYTES {
                return text.to_owned();
            }
        }
        filled.push_str(rest);
        filled
    }
}

/// `A=b C="d e"`, or the old `A b`.
fn assignments(text: &str) -> Vec<(String, String)> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return vec![(name.to_owned(), value.trim().to_owned())];
    }
    let mut found = Vec::new();
    let (mut word, mut quote) = (String::new(), None);
    for c in text.chars().chain([' ']) {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => {
                if let Some((name, value)) = word.split_once('=') {
                    found.push((name.to_owned(), value.to_owned()));
                }
                word.clear();
            }
            (c, _) => word.push(c),
        }
    }
    found
}

fn run(image: &mut ImageDraft, traps: &mut Traps, state: &State, one: &Instruction) {
    let mut rest = one.rest.trim();
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, behind) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        if !flag.starts_with("mount=type=cache") {
            traps.left(
                one.span,
                "kiln has no flags of `RUN`",
                "write an `attach` or a `secret` in the step",
            );
            image.note(format!("not imported: RUN --{flag}"));
        }
        rest = behind.trim_start();
    }
    let script = match exec_form(rest) {
        Some(words) => words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" "),
        None if !one.documents.is_empty() => one.documents.concat().trim_end().to_owned(),
        None => rest.to_owned(),
    };
    if let Some(packages) = plain_install(&script) {
        image.items.push(Item::Step(Node::new("install", packages, one.span)));
        return;
    }
    if let Some(manager) = hard_coded_manager(&script) {
        traps.push(
            one.span,
            "kiln::import::package_manager",
            format!("this command installs packages with `{manager}`"),
            "works with one family of distributions only",
            "name the packages in an `install` step",
        );
    }
    let lengths = state.environment.iter().map(|(name, value)| name.len() + value.len() + 1);
    if !state.budget.spend(lengths.sum::<usize>() + state.arguments.len()) {
        let help = "write the variables that it needs into it";
        traps.left(one.span, "the variables of this command are too long", help);
        image.note(format!("not imported: RUN {script}"));
        return;
    }
    let mut prefix = String::new();
    for (name, value) in &state.environment {
        let _ = writeln!(prefix, "export {name}={}", shell_word(value));
    }
    // What `ARG` sets is a variable of the commands too.
    for (name, value) in &state.arguments {
        let set = state.environment.iter().any(|(known, _)| known == name);
        let used = [format!("${name}"), format!("${{{name}")];
        if !set && used.iter().any(|text| script.contains(text.as_str())) {
            let _ = writeln!(prefix, "{name}={}", shell_word(value));
        }
    }
    if let Some(directory) = &state.directory {
        let _ = writeln!(prefix, "cd {}", shell_word(directory));
    }
    let node = Node::new("run-command", [format!("{prefix}{script}")], one.span);
    image.items.push(Item::Step(node.flag("network", true)));
}

/// `["a", "b"]`.
fn exec_form(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The packages of a command that does nothing but install them, and tidy up behind that.
fn plain_install(script: &str) -> Option<Vec<String>> {
    let mut packages = Vec::new();
    let script = script.replace("\\\n", " ");
    if script.contains([';', '|', '\n', '$', '`', '>', '<', '\'', '"', '(']) {
        return None;
    }
    for command in script.split("&&") {
        let words: Vec<&str> = command.split_whitespace().collect();
        let plain: Vec<&str> =
            words.iter().copied().filter(|word| !word.starts_with('-')).collect();
        let flags = words.iter().filter(|word| word.starts_with('-'));
        match plain.as_slice() {
            ["apt-get" | "apt" | "apk", "update" | "clean" | "autoremove" | "autoclean"]
            | ["yum" | "dnf" | "microdnf", "clean", "all"]
            | ["yum" | "dnf", "makecache"] => {}
            ["rm", paths @ ..]
                if paths.iter().all(|path| {
                    path.starts_with("/var/lib/apt/lists") || path.starts_with("/var/cache/")
                }) => {}
            ["apt-get" | "apt" | "yum" | "dnf" | "microdnf", "install", names @ ..]
            | ["apk", "add", names @ ..] => {
                let known = ["-y", "--yes", "-q", "-qq", "--no-cache", "--assumeyes", "-qy", "-yq"];
                if !flags.clone().all(|flag| known.contains(flag)) {
                    return None;
                }
                packages.extend(names.iter().map(|&name| name.to_owned()));
            }
            _ => return None,
        }
    }
    (!packages.is_empty()).then_some(packages)
}

fn copy(image: &mut ImageDraft, traps: &mut Traps, state: &State, one: &Instruction) {
    let filled = state.fill(&one.rest);
    let mut rest = filled.trim();
    let (mut owner, mut mode) = (None, None);
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, behind) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        match flag.split_once('=') {
            Some(("chown", value)) => owner = Some(value.to_owned()),
            Some(("chmod", value)) => mode = Some(value.to_owned()),
            Some(("from", stage)) => {
                let message = "kiln copies files of the workspace only";
                traps.left(one.span, message, "put the files of that stage beside the recipe");
                image.note(format!("not imported: {} --from={stage} {behind}", one.word));
                return;
            }
            _ => {}
        }
        rest = behind.trim_start();
    }
    let words =
        exec_form(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
    let Some((to, sources)) = words.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        traps.left(one.span, "this copies nothing", "name a source and a destination");
        image.note(format!("not imported: {} {}", one.word, one.rest));
        return;
    };
    let to = match &state.directory {
        _ if to.starts_with('/') => to.clone(),
        Some(directory) => format!("{}/{to}", directory.trim_end_matches('/')),
        None => format!("/{to}"),
    };
    let to = to.replace("/./", "/");
    let to = to.strip_suffix("/.").map_or(to.clone(), |to| format!("{to}/"));
    if !one.documents.is_empty() {
        let document = one.documents.concat();
        let mut node = Node::new("write", [to.as_str(), &document], one.span);
        if let Some(mode) = &mode {
            node = node.text("mode", octal(mode));
        }
        image.items.push(Item::Step(node));
        return;
    }
    for source in sources {
        if source.contains("://") || source.starts_with("git@") {
            traps.left(
                one.span,
                "kiln downloads nothing into an image",
                "download it in a `run-command` with the network, and check its checksum",
            );
            image.note(format!("not imported: {} {source} {to}", one.word));
            continue;
        }
        let source = source.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/');
        let source = if source.is_empty() { "." } else { source };
        let archive = one.word == "ADD"
            && [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst"]
                .iter()
                .any(|end| source.ends_with(end));
        let directory = to.ends_with('/') || sources.len() > 1;
        let target = if to == "/" { "/" } else { to.trim_end_matches('/') };
        let mut node = if archive {
            Node::new("tar-in", [source, target], one.span)
        } else if directory
            || source == "."
            || !source.rsplit('/').next().is_some_and(|name| name.contains('.'))
        {
            // A directory's content goes into the target there, and the directory itself here.
            if target != "/" {
                image.items.push(Item::Step(Node::new("mkdir", [target], one.span)));
            }
            traps.push(
                one.span,
                "kiln::import::directory",
                format!(
                    "whether `{}` is a file or a directory is not known here",
                    crate::mistake::excerpt(source)
                ),
                "of a directory, COPY takes what is in it",
                "for a directory, name the entries below it, each with a `copy-in`",
            );
            Node::new("copy-in", [source, target], one.span)
        } else {
            Node::new("upload", [source, target], one.span)
        };
        if let Some(owner) = &owner {
            let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
            node = node.text("owner", user);
            if !group.is_empty() {
                node = node.text("group", group);
            }
        }
        if let Some(mode) = mode.as_ref().filter(|_| node.word == "upload") {
            node = node.text("mode", octal(mode));
        }
        image.items.push(Item::Step(node));
    }
}

fn octal(mode: &str) -> String {
    if mode.len() == 3 { format!("0{mode}") } else { mode.to_owned() }
}

/// The disk that is nearest to a container image; whether it needs no remark.
fn base(image: &str) -> Option<(Node, bool)> {
    let zero = Span { file: FileId(0), offset: 0, len: 0 };
    if image == "scratch" {
        return Some((Node::new("base", ["scratch"], zero), true));
    }
    let image = image.split('@').next().unwrap_or(image);
    let name = image.rsplit('/').next().unwrap_or(image);
    let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let tag = tag.trim_end_matches("-slim");
    let number = |default: &str| {
        let digits = tag.starts_with(|c: char| c.is_ascii_digit());
        let plain = tag.split('-').next().unwrap_or(tag);
        if digits { plain.to_owned() } else { default.to_owned() }
    };
    let major = |default: &str| {
        let number = number(default);
        number.split('.').next().unwrap_or_default().to_owned()
    };
    let catalog = match name {
        "debian" => match tag {
            "trixie" => "debian-13".to_owned(),
            "bookworm" | "stable" => "debian-12".to_owned(),
            "bullseye" | "oldstable" => "debian-11".to_owned(),
            _ => format!("debian-{}", major("12")),
        },
        "ubuntu" => match tag {
            "noble" => "ubuntu-24.04".to_owned(),
            "jammy" => "ubuntu-22.04".to_owned(),
            "focal" => "ubuntu-20.04".to_owned(),
            _ => format!("ubuntu-{}", number("24.04")),
        },
        "fedora" => format!("fedora-{}", major("42")),
        "rockylinux" | "rocky" => format!("rocky-{}", major("9")),
        "almalinux" => format!("almalinux-{}", major("9")),
        "centos" if tag.starts_with("stream") => {
            format!("centos-stream-{}", tag.trim_start_matches("stream"))
        }
        "centos" => "centos-stream-9".to_owned(),
        "alpine" => {
            let number = number("3.21");
            let short: Vec<&str> = number.split('.').take(2).collect();
            format!("alpine-{}", short.join("."))
        }
        "leap" => format!("opensuse-leap-{}", number("15.6")),
        "archlinux" => "arch".to_owned(),
        _ => return None,
    };
    Some((Node::new("base", ["catalog", &catalog], zero), false))
}

/// The instructions of a file.
fn instructions(file: FileId, text: &str) -> Vec<Instruction> {
    let mut found = Vec::new();
    let escape = if text.starts_with("# escape=`") { '`' } else { '\\' };
    let mut lines = Lines { text, at: 0 };
    while let Some((start, line)) = lines.next() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let mut whole = String::new();
        let mut part = trimmed.to_owned();
        while part.ends_with(escape) {
            part.pop();
            whole.push_str(part.trim_end());
            whole.push_str(" \\\n");
            part.clear();
            for (_, line) in lines.by_ref() {
                // Comments and empty lines between continuation lines say nothing.
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    line.clone_into(&mut part);
                    break;
                }
            }
        }
        whole.push_str(&part);
        let (word, rest) = whole.split_once(char::is_whitespace).unwrap_or((&whole, ""));
        let word = word.to_ascii_uppercase();
        let runs = word == "RUN";
        let documents = if runs || matches!(word.as_str(), "COPY" | "ADD") {
            documents(rest, &mut lines)
        } else {
            Vec::new()
        };
        let rest =
            if runs { rest.trim().to_owned() } else { rest.replace("\\\n", " ").trim().to_owned() };
        let end = lines.at.min(text.len());
        let len = text[start..end].trim_end().len();
        found.push(Instruction { word, rest, documents, span: Span { file, offset: start, len } });
    }
    found
}

/// Here-documents: `<<EOF`, `<<-EOF`, `<<"EOF"`.
fn documents(rest: &str, lines: &mut Lines<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for behind in rest.split("<<").skip(1) {
        let (tabs, behind) = match behind.strip_prefix('-') {
            Some(behind) => (true, behind),
            None => (false, behind),
        };
        let end = behind.split_whitespace().next().unwrap_or_default().trim_matches(['"', '\'']);
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if end.is_empty() || !end.chars().all(word) {
            continue;
        }
        let mut document = String::new();
        for (_, line) in lines.by_ref() {
            let line = if tabs { line.trim_start_matches('\t') } else { line };
            if line == end {
                break;
            }
            document.push_str(line);
            document.push('\n');
        }
        found.push(document);
    }
    found
}

/// Lines with their places, without their ends.
struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        let line = rest.split_inclusive('\n').next()?;
        self.at += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        Some((start, line.strip_suffix('\r').unwrap_or(line)))
    }
}
