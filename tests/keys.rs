//! Keys: they do not move by themselves, every field is in them, and nothing else is.
//!
//! Knows actions and manifests, and of recipes only what may not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln::digest::{ActionKey, Digest};
use kiln::explain::{self, Sources};
use kiln::inputs::Input;
use kiln::key::{Action, Generation, Manifest, Operation, Registration, Seal, Value};
use kiln::lock::Lock;
use kiln::name::GuestPath;
use kiln::recipe::{
    Account, Aids, AppendLine, Attached, Attributes, Bootstrap, Check, Checksum, Chmod, Chown,
    CopyIn, Crypto, Delete, DiskFormat, Edit, Fetched, FileBase, Firmware, Firstboot, Layout, Link,
    Mkdir, Move, Origin, Packages, Partition, PartitionUse, Password, PasswordSecret, Paths,
    Profile, Remedied, Requirement, Run, RunCommand, Scratch, Scrub, ScrubItem, SecretUse,
    Severity, SshInject, SshKey, StepKind, SystemKind, TableKind, Write,
};
use proptest::prelude::*;

fn path(text: &str) -> GuestPath {
    text.parse().unwrap()
}

fn paths(texts: &[&str]) -> Vec<GuestPath> {
    texts.iter().map(|text| path(text)).collect()
}

fn file(text: &str) -> Input {
    let content = Digest::of(text.as_bytes());
    Input {
        path: PathBuf::from("/somewhere").join(text),
        name: OsString::from("name"),
        tree: Digest::of(format!("tree of {text}").as_bytes()),
        content: Some(content),
        stamp: None,
    }
}

fn tree(text: &str) -> Input {
    Input { content: None, ..file(text) }
}

/// The same bytes under another name, in another place, and with another mode.
fn elsewhere(input: &Input) -> Input {
    let tree = Digest::of(b"another mode");
    Input { path: "/else".into(), name: "other".into(), tree, content: input.content, stamp: None }
}

fn attributes() -> Attributes {
    Attributes {
        owner: Some("web".parse().unwrap()),
        group: Some("33".parse().unwrap()),
        mode: Some("0640".parse().unwrap()),
    }
}

fn all_attributes() -> Vec<Attributes> {
    let whole = attributes();
    vec![
        Attributes { owner: None, ..whole.clone() },
        Attributes { owner: Some("db".parse().unwrap()), ..whole.clone() },
        Attributes { group: None, ..whole.clone() },
        Attributes { group: Some("34".parse().unwrap()), ..whole.clone() },
        Attributes { mode: None, ..whole.clone() },
        Attributes { mode: Some("0641".parse().unwrap()), ..whole },
        Attributes { owner: Some("33".parse().unwrap()), group: None, mode: None },
        Attributes { owner: None, group: Some("33".parse().unwrap()), mode: None },
        Attributes::default(),
    ]
}

fn names(names: &[&str]) -> Packages {
    Packages { names: names.iter().map(ToString::to_string).collect(), recommends: true }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn secret(secret: PasswordSecret<Input>) -> StepKind<Input> {
    StepKind::Password(Password { user: "root".to_owned(), secret, crypto: None })
}

/// One step of each kind.
fn steps() -> Vec<StepKind<Input>> {
    vec![
        StepKind::Install(names(&["curl", "nginx"])),
        StepKind::Uninstall(names(&["curl", "nginx"])),
        StepKind::Update,
        StepKind::Run(Run { script: file("#!/bin/sh"), arguments: strings(&["a", "b c"]) }),
        StepKind::RunCommand(RunCommand { script: "systemctl enable nginx".to_owned() }),
        StepKind::Write(Write {
            path: path("/etc/motd"),
            content: "hello\n".to_owned(),
            attributes: attributes(),
        }),
        StepKind::AppendLine(AppendLine {
            path: path("/etc/hosts"),
            line: "192.0.2.1 a".to_owned(),
        }),
        StepKind::CopyIn(CopyIn {
            source: tree("site"),
            destination: path("/srv"),
            attributes: attributes(),
        }),
        StepKind::Upload(CopyIn {
            source: file("motd"),
            destination: path("/etc/motd"),
            attributes: attributes(),
        }),
        StepKind::Mkdir(Mkdir { path: path("/srv/www"), attributes: attributes() }),
        StepKind::Delete(Delete { patterns: paths(&["/tmp/*", "/var/tmp/*"]) }),
        StepKind::Move(Move { from: path("/a"), to: path("/b") }),
        StepKind::Link(Link { target: "vim".to_owned(), links: paths(&["/usr/bin/vi", "/vi"]) }),
        StepKind::Chmod(Chmod { mode: "0644".parse().unwrap(), paths: paths(&["/a", "/b"]) }),
        StepKind::Chown(Chown {
            owner: Some("web".parse().unwrap()),
            group: Some("33".parse().unwrap()),
            paths: paths(&["/a", "/b"]),
            recursive: false,
        }),
        StepKind::Touch(Paths { paths: paths(&["/a", "/b"]) }),
        StepKind::Truncate(Paths { paths: paths(&["/a", "/b"]) }),
        StepKind::Hostname("web".to_owned()),
        StepKind::Timezone("Europe/Vienna".to_owned()),
        secret(PasswordSecret::Plain("correct horse".to_owned())),
        StepKind::SshInject(SshInject {
            user: "root".to_owned(),
            key: SshKey::Text("k".to_owned()),
        }),
        StepKind::Firstboot(Firstboot { script: file("grow") }),
        StepKind::FirstbootCommand(RunCommand { script: "reboot".to_owned() }),
        StepKind::FirstbootInstall(names(&["curl", "nginx"])),
        StepKind::Edit(Edit {
            path: path("/etc/hosts"),
            expressions: strings(&["s/a/b/", "s/c/d/"]),
            required: false,
        }),
        StepKind::Copy(Move { from: path("/a"), to: path("/b") }),
        StepKind::TarIn(CopyIn {
            source: file("archive"),
            destination: path("/srv"),
            attributes: attributes(),
        }),
        StepKind::TruncateRecursive(Paths { paths: paths(&["/a", "/b"]) }),
        StepKind::ScrubFile(Paths { paths: paths(&["/a", "/b"]) }),
        StepKind::InjectQemuGa,
        StepKind::Profile(profile()),
        StepKind::SelinuxRelabel,
    ]
}

fn profile() -> Profile<Input> {
    let check = Check::Console(Some("ttyS0".to_owned()));
    let requirement = Requirement { name: "console".to_owned(), severity: Severity::Error, check };
    let requirements = vec![Remedied { requirement, remedy: vec![StepKind::Update] }];
    Profile { name: "team".to_owned(), requirements }
}

/// The number of kinds in [`steps`]. A new kind does not compile until it is in [`flips`], and fails
/// `every_kind_is_in_the_table` until it is here, too.
const KINDS: usize = 32;

fn two_paths(of: impl Fn(Vec<GuestPath>) -> StepKind<Input>) -> Vec<StepKind<Input>> {
    [&["/a"][..], &["/b", "/a"], &["/a", "/b", "/c"], &["/a", "/x"], &["/x", "/b"], &["/a/b"]]
        .map(|texts| of(paths(texts)))
        .into()
}

/// For a step of [`steps`], the same with one field after the other changed. The structures are
/// taken apart without `..`, so that a new field does not compile until it is changed here, too.
#[expect(clippy::too_many_lines, reason = "a table with a line for each field")]
fn flips(kind: &StepKind<Input>) -> Vec<StepKind<Input>> {
    let packages = || [&["curl"][..], &["curl", "nginx", "vim"], &["curl nginx"], &["curl", "vim"]];
    match kind {
        StepKind::Install(Packages { names: list, recommends: _ }) => {
            let without = Packages { names: list.clone(), recommends: false };
            let mut flips: Vec<_> = packages().map(|list| StepKind::Install(names(list))).into();
            flips.push(StepKind::Install(without));
            flips
        }
        // What `recommends` says is not asked when packages go.
        StepKind::Uninstall(Packages { names: _, recommends: _ }) => {
            packages().map(|list| StepKind::Uninstall(names(list))).into()
        }
        StepKind::FirstbootInstall(Packages { names: list, recommends: _ }) => {
            let without = Packages { names: list.clone(), recommends: false };
            vec![StepKind::FirstbootInstall(names(&["curl"])), StepKind::FirstbootInstall(without)]
        }
        StepKind::Update | StepKind::InjectQemuGa | StepKind::SelinuxRelabel => Vec::new(),
        StepKind::Profile(Profile { name: _, requirements }) => {
            let Remedied { requirement, remedy } = requirements[0].clone();
            let Requirement { name, severity, check } = requirement.clone();
            let with = |requirement, remedy| {
                let requirements = vec![Remedied { requirement, remedy }];
                StepKind::Profile(Profile { name: "any".to_owned(), requirements })
            };
            let other = |check| Requirement { name: name.clone(), severity, check };
            vec![
                with(requirement.clone(), Vec::new()),
                with(requirement.clone(), vec![StepKind::Update, StepKind::Update]),
                with(
                    Requirement { severity: Severity::Advice, ..requirement.clone() },
                    remedy.clone(),
                ),
                with(Requirement { name: "other".to_owned(), ..requirement }, remedy.clone()),
                with(other(Check::Console(Some("ttyS1".to_owned()))), remedy.clone()),
                with(other(Check::KernelArgument("ttyS0".to_owned())), remedy.clone()),
                with(other(check), [remedy, vec![StepKind::InjectQemuGa]].concat()),
            ]
        }
        StepKind::FirstbootCommand(RunCommand { script }) => {
            vec![StepKind::FirstbootCommand(RunCommand { script: format!("{script} ") })]
        }
        StepKind::Edit(step) => {
            let Edit { path: _, expressions: _, required: _ } = step;
            let with = |list| StepKind::Edit(Edit { expressions: strings(list), ..step.clone() });
            vec![
                StepKind::Edit(Edit { path: path("/etc/host"), ..step.clone() }),
                StepKind::Edit(Edit { required: true, ..step.clone() }),
                with(&["s/c/d/", "s/a/b/"]),
                with(&["s/a/b/"]),
                with(&["s/a/b/s/c/d/"]),
            ]
        }
        StepKind::TarIn(archive) => {
            let CopyIn { source: _, destination: _, attributes: _ } = archive;
            let of = StepKind::TarIn;
            let mut flips = vec![
                of(CopyIn { source: file("other"), ..archive.clone() }),
                of(CopyIn { destination: path("/other"), ..archive.clone() }),
            ];
            flips.extend(
                all_attributes()
                    .into_iter()
                    .map(|attributes| of(CopyIn { attributes, ..archive.clone() })),
            );
            flips
        }
        StepKind::Run(Run { script, arguments }) => {
            let with = |list: &[&str]| {
                StepKind::Run(Run { script: script.clone(), arguments: strings(list) })
            };
            vec![
                StepKind::Run(Run { script: file("#!/bin/bash"), arguments: arguments.clone() }),
                with(&[]),
                with(&["a"]),
                with(&["a", "b", "c"]),
                with(&["a b", "c"]),
                with(&["b c", "a"]),
                with(&["ab c"]),
                with(&["a", "b c", ""]),
            ]
        }
        StepKind::RunCommand(RunCommand { script }) => {
            vec![StepKind::RunCommand(RunCommand { script: format!("{script} ") })]
        }
        StepKind::Write(write) => {
            let Write { path: _, content: _, attributes: _ } = write;
            let mut flips = vec![
                StepKind::Write(Write { path: path("/etc/motd2"), ..write.clone() }),
                StepKind::Write(Write { content: "hello".to_owned(), ..write.clone() }),
            ];
            flips.extend(
                all_attributes()
                    .into_iter()
                    .map(|attributes| StepKind::Write(Write { attributes, ..write.clone() })),
            );
            flips
        }
        StepKind::AppendLine(step) => {
            let AppendLine { path: _, line: _ } = step;
            vec![
                StepKind::AppendLine(AppendLine { path: path("/etc/host"), ..step.clone() }),
                StepKind::AppendLine(AppendLine { line: "192.0.2.1 b".to_owned(), ..step.clone() }),
            ]
        }
        StepKind::CopyIn(copy) => copies(copy, StepKind::CopyIn),
        StepKind::Upload(copy) => copies(copy, StepKind::Upload),
        StepKind::Mkdir(step) => {
            let Mkdir { path: _, attributes: _ } = step;
            let mut flips = vec![StepKind::Mkdir(Mkdir { path: path("/srv"), ..step.clone() })];
            flips.extend(
                all_attributes()
                    .into_iter()
                    .map(|attributes| StepKind::Mkdir(Mkdir { attributes, ..step.clone() })),
            );
            flips
        }
        StepKind::Delete(Delete { patterns: _ }) => {
            two_paths(|patterns| StepKind::Delete(Delete { patterns }))
        }
        StepKind::Move(step) => moves(step, StepKind::Move),
        StepKind::Copy(step) => moves(step, StepKind::Copy),
        StepKind::Link(Link { target, links }) => {
            let mut flips =
                two_paths(|links| StepKind::Link(Link { target: target.clone(), links }));
            flips.push(StepKind::Link(Link { target: "/vim".to_owned(), links: links.clone() }));
            flips
        }
        StepKind::Chmod(Chmod { mode, paths }) => {
            let all = ["/a", "/b", "/c"].map(path).to_vec();
            vec![
                StepKind::Chmod(Chmod { mode: "4644".parse().unwrap(), paths: paths.clone() }),
                StepKind::Chmod(Chmod { mode: *mode, paths: all }),
                StepKind::Chmod(Chmod {
                    mode: *mode,
                    paths: vec![paths[1].clone(), paths[0].clone()],
                }),
            ]
        }
        StepKind::Chown(step) => {
            let Chown { owner: _, group: _, paths: _, recursive: _ } = step;
            vec![
                StepKind::Chown(Chown { owner: None, ..step.clone() }),
                StepKind::Chown(Chown { owner: Some("db".parse().unwrap()), ..step.clone() }),
                StepKind::Chown(Chown { group: None, ..step.clone() }),
                StepKind::Chown(Chown { group: Some("web".parse().unwrap()), ..step.clone() }),
                StepKind::Chown(Chown { paths: paths(&["/a"]), ..step.clone() }),
                StepKind::Chown(Chown { recursive: true, ..step.clone() }),
            ]
        }
        StepKind::Touch(Paths { paths: _ }) => two_paths(|paths| StepKind::Touch(Paths { paths })),
        StepKind::Truncate(Paths { paths: _ }) => {
            two_paths(|paths| StepKind::Truncate(Paths { paths }))
        }
        StepKind::TruncateRecursive(Paths { paths: _ }) => {
            two_paths(|paths| StepKind::TruncateRecursive(Paths { paths }))
        }
        StepKind::ScrubFile(Paths { paths: _ }) => {
            two_paths(|paths| StepKind::ScrubFile(Paths { paths }))
        }
        StepKind::Hostname(name) => vec![StepKind::Hostname(format!("{name}2"))],
        StepKind::Timezone(_) => vec![StepKind::Timezone("UTC".to_owned())],
        StepKind::Password(step @ Password { user: _, secret: _, crypto: _ }) => vec![
            StepKind::Password(Password { user: "admin".to_owned(), ..step.clone() }),
            StepKind::Password(Password { crypto: Some(Crypto::Sha512), ..step.clone() }),
            StepKind::Password(Password { crypto: Some(Crypto::Yescrypt), ..step.clone() }),
            secret(PasswordSecret::Secret),
            secret(PasswordSecret::Random),
            secret(PasswordSecret::Plain("correct horse 2".to_owned())),
            secret(PasswordSecret::Hash("correct horse".to_owned())),
            secret(PasswordSecret::Hash("$6$x".to_owned())),
            secret(PasswordSecret::File(file("correct horse"))),
            secret(PasswordSecret::File(file("password"))),
            secret(PasswordSecret::Locked),
            secret(PasswordSecret::Disabled),
        ],
        StepKind::SshInject(SshInject { user, key }) => {
            let with = |key| StepKind::SshInject(SshInject { user: user.clone(), key });
            vec![
                StepKind::SshInject(SshInject { user: "admin".to_owned(), key: key.clone() }),
                with(SshKey::Text("k2".to_owned())),
                with(SshKey::File(file("k"))),
                with(SshKey::File(file("k2"))),
            ]
        }
        StepKind::Firstboot(Firstboot { script }) => {
            let renamed = Input { name: "other".into(), ..script.clone() };
            [file("other"), renamed].map(|script| StepKind::Firstboot(Firstboot { script })).into()
        }
    }
}

fn moves(step: &Move, of: fn(Move) -> StepKind<Input>) -> Vec<StepKind<Input>> {
    let Move { from, to } = step;
    vec![
        of(Move { from: path("/x"), to: to.clone() }),
        of(Move { from: from.clone(), to: path("/x") }),
        of(Move { from: to.clone(), to: from.clone() }),
    ]
}

fn copies(copy: &CopyIn<Input>, of: fn(CopyIn<Input>) -> StepKind<Input>) -> Vec<StepKind<Input>> {
    let CopyIn { source, destination: _, attributes: _ } = copy;
    let Input { path: _, name: _, tree: _, content: _, stamp: _ } = source;
    let renamed = Input { name: "other".into(), ..source.clone() };
    let other_tree = Input { tree: Digest::of(b"other"), ..source.clone() };
    let mut flips = vec![
        of(CopyIn { source: renamed, ..copy.clone() }),
        of(CopyIn { source: other_tree, ..copy.clone() }),
        of(CopyIn { destination: path("/other"), ..copy.clone() }),
    ];
    flips.extend(
        all_attributes().into_iter().map(|attributes| of(CopyIn { attributes, ..copy.clone() })),
    );
    flips
}

fn action(operation: Operation) -> Action {
    let parent = Some(ActionKey(Digest::of(b"parent")));
    let aids = Aids::default();
    let (network, registration, generation) = (false, None, None);
    Action { parent, operation, network, aids, registration, generation }
}

fn bootstrap() -> Bootstrap {
    Bootstrap {
        suite: "bookworm".to_owned(),
        size: 4 << 30,
        mirrors: strings(&["http://a.example", "http://b.example"]),
        components: strings(&["main", "contrib"]),
        variant: "minbase".to_owned(),
        packages: names(&["curl", "vim"]).names,
        layout: Layout::default(),
        refresh: None,
    }
}

fn bases() -> Vec<(&'static str, Action)> {
    let base = |operation| Action { parent: None, ..action(operation) };
    let disk = |format| Operation::File(FileBase { file: file("disk"), format });
    vec![
        ("base file", base(disk(None))),
        ("base file raw", base(disk(Some(DiskFormat::Raw)))),
        ("base file qcow2", base(disk(Some(DiskFormat::Qcow2)))),
        (
            "base bootstrap",
            Action {
                network: true,
                generation: Some(Generation { number: 0, bucket: None }),
                ..base(Operation::Bootstrap(bootstrap()))
            },
        ),
        ("base fetch", base(Operation::Fetch(fetched()))),
        ("base scratch", base(Operation::Scratch(Scratch { size: 1 << 30, layout: layout() }))),
        ("grow", action(Operation::Grow(20 << 30))),
    ]
}

fn fetched() -> Fetched {
    Fetched {
        origin: Origin::Catalog("debian-12".to_owned()),
        url: "https://images.example/disk".to_owned(),
        checksum: Checksum::Sha256("ab".repeat(32)),
        format: None,
    }
}

fn layout() -> Layout {
    let mount = |target, system| PartitionUse::Mount { target: path(target), system };
    Layout {
        table: TableKind::Gpt,
        firmware: Firmware::Uefi,
        partitions: vec![
            Partition { purpose: mount("/boot", SystemKind::Ext4), size: Some(512 << 20) },
            Partition { purpose: PartitionUse::Swap, size: Some(1 << 30) },
            Partition { purpose: mount("/", SystemKind::Xfs), size: None },
        ],
    }
}

/// Layouts that differ from [`layout`] and from each other in one thing.
fn layouts() -> Vec<Layout> {
    let whole = layout();
    let Layout { table: _, firmware: _, partitions } = &whole;
    let with = |at: usize, partition: Partition| {
        let mut partitions = partitions.clone();
        partitions[at] = partition;
        Layout { partitions, ..whole.clone() }
    };
    let mount = |target, system| PartitionUse::Mount { target: path(target), system };
    let (boot, root) = (&partitions[0], &partitions[2]);
    vec![
        whole.clone(),
        Layout { table: TableKind::Mbr, ..whole.clone() },
        Layout { firmware: Firmware::Bios, ..whole.clone() },
        Layout { firmware: Firmware::Both, ..whole.clone() },
        Layout { partitions: partitions[1..].to_vec(), ..whole.clone() },
        with(0, Partition { size: None, ..boot.clone() }),
        with(0, Partition { size: Some(513 << 20), ..boot.clone() }),
        with(0, Partition { purpose: mount("/srv", SystemKind::Ext4), ..boot.clone() }),
        with(0, Partition { purpose: PartitionUse::Swap, ..boot.clone() }),
        with(2, Partition { purpose: mount("/", SystemKind::Ext4), ..root.clone() }),
        with(2, Partition { purpose: mount("/", SystemKind::Btrfs), ..root.clone() }),
    ]
}

fn seal(items: &[ScrubItem]) -> Action {
    let items = items.iter().copied().collect();
    let scrub = Scrub { items, keep_users: std::collections::BTreeSet::new() };
    action(Operation::Seal(Seal { scrub, requirements: Vec::new() }))
}

/// One action of each kind, by name.
fn actions() -> Vec<(String, Action)> {
    let mut all: Vec<_> =
        bases().into_iter().map(|(name, action)| (name.to_owned(), action)).collect();
    let steps = steps();
    all.extend(
        steps.into_iter().map(|kind| (kind.keyword().to_owned(), action(Operation::Step(kind)))),
    );
    all.push(("seal".to_owned(), seal(&ScrubItem::ALL)));
    all
}

const GOLDEN: &str = "\
# The key of one action of each kind, on x86_64. Whoever finds another key here has changed what
# stores hold: every result of that kind is built again, everywhere. Where that is meant, raise the
# epoch of the operation in `src/key.rs` (or SCHEMA, where all of them move), and write this file
# anew with `KILN_GOLDEN=write cargo test --test keys`. A key may never change without an epoch, and
# an epoch never without a reason in its commit.
";

#[test]
#[cfg(target_arch = "x86_64")]
fn keys_do_not_move() {
    let mut text = GOLDEN.to_owned();
    for (name, action) in actions() {
        writeln!(text, "{} {name}", action.key()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keys.txt");
    if std::env::var_os("KILN_GOLDEN").is_some_and(|how| how == "write") {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    let moved: Vec<_> =
        text.lines().filter(|line| !golden.lines().any(|old| old == *line)).collect();
    assert!(moved.is_empty(), "these keys moved; see the head of the file: {moved:#?}");
    assert_eq!(golden, text);
}

#[test]
fn every_kind_is_in_the_table() {
    let mut keywords: Vec<_> = steps().iter().map(StepKind::keyword).collect();
    assert_eq!(keywords.len(), KINDS);
    keywords.sort_unstable();
    keywords.dedup();
    assert_eq!(keywords.len(), KINDS);
    let words = kiln::lower::table::STEPS.iter().map(|word| word.keyword);
    // What is read from another file becomes the steps that it says.
    for word in words.filter(|word| *word != "commands-from-file") {
        assert!(keywords.contains(&word), "{word} is a step of the language");
    }
}

#[test]
fn every_field_of_every_step_is_in_its_key() {
    for kind in steps() {
        let mut seen =
            BTreeMap::from([(action(Operation::Step(kind.clone())).key(), kind.clone())]);
        for flip in flips(&kind) {
            assert_ne!(flip, kind, "a flip changes something");
            let key = action(Operation::Step(flip.clone())).key();
            let before = seen.insert(key, flip.clone());
            assert!(before.is_none(), "{before:?} and {flip:?} have one key");
        }
    }
}

#[test]
fn steps_that_look_alike_have_their_own_keys() {
    let mut seen = BTreeMap::new();
    for (name, action) in actions() {
        let before = seen.insert(action.key(), name.clone());
        assert!(before.is_none(), "{before:?} and {name} have one key");
    }
}

#[test]
fn what_an_action_stands_on_and_how_it_runs_is_in_its_key() {
    let mut keys = Vec::new();
    let kind = Operation::Step(StepKind::Update);
    let parents = [None, Some(ActionKey(Digest::of(b"a"))), Some(ActionKey(Digest::of(b"b")))];
    let generations = [
        None,
        Some(Generation { number: 0, bucket: None }),
        Some(Generation { number: 1, bucket: None }),
        Some(Generation { number: 0, bucket: Some(0) }),
        Some(Generation { number: 0, bucket: Some(1) }),
        Some(Generation { number: 1, bucket: Some(0) }),
    ];
    for parent in parents {
        for network in [false, true] {
            for generation in generations {
                let action = action(kind.clone());
                keys.push(Action { parent, network, generation, ..action }.key());
            }
        }
    }
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all);
}

#[test]
fn every_field_of_a_base_and_of_a_seal_is_in_its_key() {
    let whole = bootstrap();
    let Bootstrap {
        suite: _,
        size: _,
        mirrors: _,
        components: _,
        variant: _,
        packages: _,
        layout: _,
        refresh: _,
    } = &whole;
    let flips = [
        whole.clone(),
        Bootstrap { suite: "trixie".to_owned(), ..whole.clone() },
        Bootstrap { size: whole.size + (1 << 20), ..whole.clone() },
        Bootstrap { mirrors: strings(&["http://b.example", "http://a.example"]), ..whole.clone() },
        Bootstrap { mirrors: Vec::new(), ..whole.clone() },
        Bootstrap { components: strings(&["main"]), ..whole.clone() },
        Bootstrap { variant: "standard".to_owned(), ..whole.clone() },
        Bootstrap { packages: names(&["curl"]).names, ..whole.clone() },
    ];
    let mut keys: Vec<_> =
        flips.into_iter().map(|flip| action(Operation::Bootstrap(flip)).key()).collect();
    let disk = |text, format| Operation::File(FileBase { file: file(text), format });
    keys.extend(
        [None, Some(DiskFormat::Raw), Some(DiskFormat::Qcow2)].map(|f| action(disk("a", f)).key()),
    );
    keys.push(action(disk("b", None)).key());
    keys.extend(
        layouts().into_iter().skip(1).map(|layout| {
            action(Operation::Bootstrap(Bootstrap { layout, ..whole.clone() })).key()
        }),
    );
    keys.extend(layouts().into_iter().flat_map(|layout| {
        [1 << 30, 2 << 30]
            .map(|size| action(Operation::Scratch(Scratch { size, layout: layout.clone() })).key())
    }));
    keys.extend([1 << 30, 2 << 30].map(|size| action(Operation::Grow(size)).key()));
    let known = fetched();
    for checksum in [
        known.checksum.clone(),
        Checksum::Sha256("cd".repeat(32)),
        Checksum::Sha512("ab".repeat(32)),
        Checksum::Sha512("ab".repeat(64)),
    ] {
        for format in [None, Some(DiskFormat::Raw), Some(DiskFormat::Vmdk)] {
            let fetched = Fetched { checksum: checksum.clone(), format, ..known.clone() };
            keys.push(action(Operation::Fetch(fetched)).key());
        }
    }
    keys.push(seal(&ScrubItem::ALL).key());
    keys.push(seal(&[]).key());
    keys.extend(ScrubItem::ALL.map(|item| seal(&[item]).key()));
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all);
}

#[test]
fn where_a_download_comes_from_is_in_no_key() {
    let elsewhere = Fetched {
        origin: Origin::Url("https://mirror.example/x".to_owned()),
        url: "https://mirror.example/x".to_owned(),
        ..fetched()
    };
    let key = |fetched| action(Operation::Fetch(fetched)).key();
    assert_eq!(key(fetched()), key(elsewhere));
}

#[test]
fn what_a_step_is_given_is_in_its_key() {
    let secret = |name: &str, version: &str| SecretUse {
        name: name.parse().unwrap(),
        version: version.to_owned(),
    };
    let attached = |source, at: Option<&str>, disk| Attached { source, at: at.map(path), disk };
    let with = |attached: Vec<Attached<Input>>, secrets: Vec<SecretUse>, subscription| {
        let aids = Aids { attached, secrets, subscription };
        Action { aids, ..action(Operation::Step(StepKind::Update)) }
    };
    let by_key = |organization: &str, key| Account::ActivationKey {
        organization: organization.to_owned(),
        key,
    };
    let by_user = |user: &str, password| Account::User { user: user.to_owned(), password };
    let registered = |account, pools: &[&str], server: Option<&str>| {
        let server = server.map(str::to_owned);
        let registration = Some(Registration { account, pools: strings(pools), server });
        Action { registration, ..with(Vec::new(), Vec::new(), true) }
    };
    let plain = || by_key("1", secret("k", "1"));
    let renamed = Input { name: "other".into(), ..tree("tools") };
    let actions = [
        with(Vec::new(), Vec::new(), false),
        with(vec![attached(tree("tools"), None, false)], Vec::new(), false),
        with(vec![attached(renamed, None, false)], Vec::new(), false),
        with(vec![attached(tree("other"), None, false)], Vec::new(), false),
        with(vec![attached(tree("tools"), Some("/mnt"), false)], Vec::new(), false),
        with(vec![attached(tree("tools"), None, true)], Vec::new(), false),
        with(Vec::new(), vec![secret("a", "1")], false),
        with(Vec::new(), vec![secret("b", "1")], false),
        with(Vec::new(), vec![secret("a", "2")], false),
        with(Vec::new(), vec![secret("a", "1"), secret("b", "1")], false),
        registered(plain(), &[], None),
        registered(by_key("2", secret("k", "1")), &[], None),
        registered(by_key("1", secret("l", "1")), &[], None),
        registered(by_key("1", secret("k", "2")), &[], None),
        registered(by_user("1", secret("k", "1")), &[], None),
        registered(by_user("2", secret("k", "1")), &[], None),
        registered(plain(), &["auto"], None),
        registered(plain(), &["auto", "b"], None),
        registered(plain(), &[], Some("rhsm.example")),
    ];
    let mut seen = BTreeMap::new();
    for action in actions {
        let before = seen.insert(action.key(), action.clone());
        assert!(before.is_none(), "{before:?} and {action:?} have one key");
    }
}

#[test]
fn where_an_input_lies_is_in_no_key_and_its_name_only_where_the_guest_sees_it() {
    let same = |kind: &dyn Fn(Input) -> StepKind<Input>, other: &dyn Fn(&Input) -> Input| {
        let input = file("x");
        let moved = other(&input);
        let key = |input| action(Operation::Step(kind(input))).key();
        key(input) == key(moved)
    };
    let moved = |input: &Input| Input { path: "/else".into(), ..input.clone() };
    let run = |script| StepKind::Run(Run { script, arguments: Vec::new() });
    let firstboot = |script| StepKind::Firstboot(Firstboot { script });
    let upload = |source| {
        let (destination, attributes) = (path("/x"), attributes());
        StepKind::Upload(CopyIn { source, destination, attributes })
    };
    let password = |file| secret(PasswordSecret::File(file));
    let ssh =
        |file| StepKind::SshInject(SshInject { user: "root".to_owned(), key: SshKey::File(file) });
    let kinds: [&dyn Fn(Input) -> StepKind<Input>; 5] =
        [&run, &firstboot, &upload, &password, &ssh];
    for kind in kinds {
        assert!(same(kind, &moved));
    }
    assert!(same(&run, &elsewhere) && same(&password, &elsewhere) && same(&ssh, &elsewhere));
    assert!(!same(&firstboot, &elsewhere) && !same(&upload, &elsewhere));
    let base = |file| action(Operation::File(FileBase { file, format: None })).key();
    assert_eq!(base(file("disk")), base(elsewhere(&file("disk"))));
}

/// The keys of a recipe's actions, in their order.
fn keys_of(steps: &str, now: u64) -> Vec<ActionKey> {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("recipes")).unwrap();
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join("recipes").join(name), text).unwrap();
    };
    write("base.img", &"\0".repeat(512));
    write("a.kdl", &format!("image \"a\" {{\nbase file \"base.img\"\n{steps}\n}}\n"));
    let workspace = kiln::workspace::load(directory.path()).unwrap();
    let now = Duration::from_secs(now);
    let actions = kiln::plan::actions(&workspace, &[0], |_| true, &Lock::default(), now).unwrap();
    actions.nodes.iter().map(|node| node.key).collect()
}

#[test]
fn what_is_no_field_changes_no_key() {
    const DAY: u64 = 24 * 3600;
    let plain = "run-command \"one\"\ninstall \"b\" \"a\" refresh=\"24h\"\nwrite \"/a\" \"b\"";
    let keys = keys_of(plain, 10 * DAY);
    for (text, now) in [
        (plain.to_owned(), 11 * DAY - 1),
        (plain.replace("\"one\"", "\"one\" timeout=\"5m\""), 10 * DAY),
        (plain.replace("\"one\"", "\"one\" name=\"x\""), 10 * DAY),
        (
            plain.replace("write", "write after=\"x\"").replace("\"one\"", "\"one\" name=\"x\""),
            10 * DAY,
        ),
        (format!("// so\n{}", plain.replace('\n', "\n\n")), 10 * DAY),
        (plain.replace("\"b\" \"a\"", "\"a\" \"b\""), 10 * DAY),
        (plain.replace("\"/a\"", "\"//a/\""), 10 * DAY),
        (plain.replace("\"one\"", "#\"one\"#"), 10 * DAY),
        (format!("{plain}\noutput \"raw\""), 10 * DAY),
        // The period decides the bucket, and only that is in the key.
        (plain.replace("24h", "1440m"), 10 * DAY),
    ] {
        assert_eq!(keys_of(&text, now), keys, "{text}");
    }
    let next = keys_of(plain, 11 * DAY);
    assert_eq!(next[..2], keys[..2]);
    assert!(next[2..].iter().zip(&keys[2..]).all(|(next, old)| next != old));
}

#[test]
fn an_explanation_names_every_field_that_differs_and_no_other() {
    let named = |before: &Manifest, now: &Manifest| {
        let changes = explain::changes(before, now, &Sources::default());
        let fields = changes.iter().flat_map(|change| &change.fields);
        let names: Vec<String> = fields.map(|field| field.name.clone()).collect();
        assert!(changes.iter().all(|change| !change.to_string().is_empty()));
        names
    };
    for kind in steps() {
        let before = action(Operation::Step(kind.clone())).manifest();
        assert_eq!(named(&before, &before), [""; 0]);
        for flip in flips(&kind) {
            let now = action(Operation::Step(flip)).manifest();
            let mut names = named(&before, &now);
            names.sort_unstable();
            let value = |manifest: &Manifest, name: &str| {
                manifest
                    .fields
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
            };
            let all = before.fields.iter().chain(&now.fields).map(|(name, _)| name.clone());
            let differ = all.filter(|name| match (value(&before, name), value(&now, name)) {
                // Of those nothing is told.
                (Some(Value::Secret(_)), Some(Value::Secret(_))) => false,
                (before, now) => before != now,
            });
            let differ: Vec<String> = differ.collect::<BTreeSet<_>>().into_iter().collect();
            assert_eq!(names, differ, "{kind:?}");
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[a-c=\\[\\]:\0]{0,3}".prop_map(Value::Text),
        (0..3u64).prop_map(Value::Number),
        any::<bool>().prop_map(Value::Flag),
        (0..3u8).prop_map(|n| Value::Digest(Digest::from_bytes([n; 32]))),
        Just(Value::Absent),
    ]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    proptest::collection::vec(("[ab\0]{0,2}", value()), 0..4).prop_map(|fields| Manifest { fields })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn manifests_have_one_key_exactly_if_they_are_equal(one in manifest(), other in manifest()) {
        prop_assert_eq!(one.key() == other.key(), one == other);
    }

    #[test]
    fn nothing_is_explained_exactly_if_keys_agree(
        one in proptest::collection::btree_map("[ab.\\[\\]0]{1,3}", value(), 0..4),
        other in proptest::collection::btree_map("[ab.\\[\\]0]{1,3}", value(), 0..4),
    ) {
        let [one, other] = [one, other].map(|fields| Manifest { fields: fields.into_iter().collect() });
        let changes = explain::changes(&one, &other, &Sources::default());
        prop_assert_eq!(changes.is_empty(), one.key() == other.key());
        let told: usize = changes.iter().map(|change| change.fields.len()).sum();
        prop_assert_eq!(told, explain::differences(&one, &other).len());
    }

    #[test]
    fn text_that_looks_like_fields_is_text(one in manifest(), cut in any::<prop::sample::Index>()) {
        // A field that holds the encoding of others is not those others.
        let text = serde_json::to_string(&one.fields).unwrap();
        let packed = Manifest { fields: vec![("a".to_owned(), Value::Text(text))] };
        prop_assert_ne!(packed.key(), one.key());
        // Moving the border between a name and its text, or between two fields, is another key.
        for at in 0..one.fields.len() {
            if let (name, Value::Text(text)) = &one.fields[at] {
                let whole = format!("{name}{text}");
                let mut cut = cut.index(whole.len() + 1);
                while !whole.is_char_boundary(cut) {
                    cut -= 1;
                }
                let mut moved = one.clone();
                let (name, text) = whole.split_at(cut);
                moved.fields[at] = (name.to_owned(), Value::Text(text.to_owned()));
                prop_assert_eq!(moved.key() == one.key(), moved == one);
            }
        }
    }

    #[test]
    fn lists_of_arguments_never_run_together(
        one in proptest::collection::vec("[ab ]{0,2}", 0..4),
        other in proptest::collection::vec("[ab ]{0,2}", 0..4),
    ) {
        let key = |arguments: &Vec<String>| {
            let arguments = arguments.clone();
            action(Operation::Step(StepKind::Run(Run { script: file("x"), arguments }))).key()
        };
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }
}
