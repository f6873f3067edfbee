//! Steps: a checked node to a [`Step`].
//!
//! Adds the checks that need several values of one node. Names of other steps are left as written.

use super::fields::{Context, Fields, known_nodes};
use super::table::{self, Word};
use crate::mistake::Mistake;
use crate::name::{GuestPath, Mode, Owner, ProfileName, SecretName};
use crate::recipe::{
    Aids, AppendLine, Attached, Attributes, Chmod, Chown, CopyIn, Crypto, Delete, Edit, Firstboot,
    Link, LocalFile, Mkdir, Move, Packages, Password, PasswordSecret, Paths, Profile, Run,
    RunCommand, SshInject, SshKey, Step, StepKind, Write,
};
use crate::source::Spanned;

/// The step that a node describes. One that is wrong stands as an `update`, so that its name and
/// its order can be checked too; nobody sees it, as its mistakes end the run.
pub(super) fn lower(cx: &mut Context<'_>, fields: &Fields<'_>) -> Step {
    let mut after: Vec<_> = fields.property("after").into_iter().collect();
    let subscription = fields.property("subscription").unwrap_or(false);
    let mut aids = Aids { attached: Vec::new(), secrets: Vec::new(), subscription };
    if let Some(block) = fields.node.children() {
        let known: Vec<&'static Word> = fields.word.children().collect();
        let owner = format!("`{}`", fields.word.keyword);
        for (node, word) in known_nodes(cx, block, &owner, &known) {
            let inner = Fields::read(cx, node, word);
            match word.keyword {
                "after" => after.extend(inner.many("step").unwrap_or_default()),
                "secret" => aids.secrets.extend(inner.many("name").unwrap_or_default()),
                _ => aids.attached.extend(attached(&inner)),
            }
        }
    }
    if fields.word.keyword == "password" {
        aids.secrets.extend(fields.property::<Spanned<SecretName>>("secret"));
    }
    let by_default =
        matches!(fields.word.keyword, "install" | "update" | "inject-qemu-ga" | "profile");
    let network = fields.property("network").unwrap_or(by_default);
    let refresh = fields.property("refresh");
    if let Some(span) = fields.written("refresh")
        && !network
    {
        let message = "a step without the network is never refreshed";
        let mut mistake =
            Mistake::at(span, "kiln::lower::needs_network", message, "needs the network")
                .help("remove `refresh`, or add `network=#true`");
        if let Some(network) = fields.written("network") {
            mistake = mistake.and(network, "turned off here").help("remove one of them");
        }
        cx.push(mistake);
    }
    if let Some(span) = fields.written("subscription").filter(|_| subscription && !network) {
        let message = "a step without the network cannot register a guest";
        cx.push(
            Mistake::at(span, "kiln::lower::needs_network", message, "needs the network")
                .help("remove `subscription`, or add `network=#true`"),
        );
    }
    let kind = kind(cx, fields);
    assert!(
        kind.is_some() || cx.mistakes.len() > fields.before,
        "kiln bug: `{}` was refused without a mistake",
        fields.word.keyword
    );
    Step {
        name: fields.property("name"),
        after,
        kind: kind.unwrap_or(StepKind::Update),
        network,
        timeout: fields.property("timeout"),
        refresh,
        aids,
        span: cx.whole(fields.node),
    }
}

fn attached(fields: &Fields<'_>) -> Option<Attached<LocalFile>> {
    Some(Attached {
        source: fields.one("source")?,
        at: fields.property("at"),
        disk: fields.property("disk").unwrap_or(false),
    })
}

fn kind(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<StepKind<LocalFile>> {
    Some(match fields.word.keyword {
        "install" => StepKind::Install(packages(fields)?),
        "uninstall" => StepKind::Uninstall(packages(fields)?),
        // Never seen of a file of commands: `lower::commands` puts its steps in its place.
        "update" | table::COMMANDS => StepKind::Update,
        "run" => StepKind::Run(Run {
            script: fields.one("script")?,
            arguments: fields.many("argument")?,
        }),
        "run-command" => StepKind::RunCommand(RunCommand { script: fields.one("script")? }),
        "write" => StepKind::Write(write(fields)?),
        "append-line" => StepKind::AppendLine(AppendLine {
            path: fields.one("path")?,
            line: fields.one("line")?,
        }),
        "copy-in" => StepKind::CopyIn(CopyIn {
            source: fields.one("source")?,
            destination: fields.one("directory")?,
            attributes: attributes(fields),
        }),
        "upload" => StepKind::Upload(CopyIn {
            source: fields.one("source")?,
            destination: fields.one("path")?,
            attributes: attributes(fields),
        }),
        "mkdir" => {
            StepKind::Mkdir(Mkdir { path: fields.one("path")?, attributes: attributes(fields) })
        }
        "delete" => StepKind::Delete(Delete { patterns: fields.many("pattern")? }),
        "move" => StepKind::Move(renamed(cx, fields)?),
        "link" => {
            StepKind::Link(Link { target: fields.one("target")?, links: fields.many("link")? })
        }
        "chmod" => {
            StepKind::Chmod(Chmod { mode: fields.one("mode")?, paths: fields.many("path")? })
        }
        "chown" => {
            let (owner, group) = fields.one::<(Option<Owner>, Option<Owner>)>("owners")?;
            let recursive = fields.property("recursive").unwrap_or(false);
            StepKind::Chown(Chown { owner, group, paths: fields.many("path")?, recursive })
        }
        "touch" => StepKind::Touch(Paths { paths: fields.many("path")? }),
        "truncate" => StepKind::Truncate(Paths { paths: fields.many("path")? }),
        "hostname" => StepKind::Hostname(fields.one("name")?),
        "timezone" => StepKind::Timezone(fields.one("zone")?),
        "password" => StepKind::Password(password(cx, fields)?),
        "ssh-inject" => StepKind::SshInject(ssh_inject(cx, fields)?),
        "firstboot" => StepKind::Firstboot(Firstboot { script: fields.one("script")? }),
        "firstboot-command" => {
            StepKind::FirstbootCommand(RunCommand { script: fields.one("script")? })
        }
        "firstboot-install" => StepKind::FirstbootInstall(packages(fields)?),
        "edit" => StepKind::Edit(Edit {
            path: fields.one("path")?,
            expressions: fields.many("expression")?,
            required: fields.property("required").unwrap_or(false),
        }),
        "copy" => StepKind::Copy(renamed(cx, fields)?),
        "tar-in" => StepKind::TarIn(CopyIn {
            source: fields.one("archive")?,
            destination: fields.one("directory")?,
            attributes: attributes(fields),
        }),
        "truncate-recursive" => {
            StepKind::TruncateRecursive(Paths { paths: fields.many("directory")? })
        }
        "scrub-file" => StepKind::ScrubFile(Paths { paths: fields.many("path")? }),
        "inject-qemu-ga" => StepKind::InjectQemuGa,
        "selinux-relabel" => StepKind::SelinuxRelabel,
        "profile" => StepKind::Profile(Profile {
            name: fields.one::<ProfileName>("name")?.into(),
            requirements: Vec::new(),
        }),

        word => unreachable!("kiln bug: the table has a step `{word}` that lowering lacks"),
    })
}

fn packages(fields: &Fields<'_>) -> Option<Packages> {
    let names: Vec<String> = fields.many("package")?;
    // `uninstall` has no such property, so that it is always on there.
    let recommends = fields.property("recommends").unwrap_or(true);
    Some(Packages { names: names.into_iter().collect(), recommends })
}

fn attributes(fields: &Fields<'_>) -> Attributes {
    Attributes {
        owner: fields.property::<Owner>("owner"),
        group: fields.property::<Owner>("group"),
        mode: fields.property::<Mode>("mode"),
    }
}

fn write(fields: &Fields<'_>) -> Option<Write> {
    let mut content: String = fields.one("content")?;
    let newline = fields.property("newline").unwrap_or(true);
    if newline && !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    Some(Write { path: fields.one("path")?, content, attributes: attributes(fields) })
}

fn renamed(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Move> {
    let from: GuestPath = fields.one("from")?;
    let to: GuestPath = fields.one("to")?;
    let inside = to.as_str().strip_prefix(from.as_str());
    if inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        let moved = if fields.word.keyword == "copy" { "copied" } else { "moved" };
        let message = format!("`{from}` cannot be {moved} to `{to}`");
        cx.push(
            Mistake::at(fields.span, "kiln::lower::bad_path", message, "into itself")
                .help(format!("name a path outside of what is {moved}")),
        );
        return None;
    }
    Some(Move { from, to })
}

/// The one property of `names` that is written; anything else is a mistake.
fn exactly_one(
    cx: &mut Context<'_>,
    fields: &Fields<'_>,
    names: &[&'static str],
) -> Option<&'static str> {
    let written: Vec<_> =
        names.iter().filter_map(|&name| Some((name, fields.written(name)?))).collect();
    let all: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match written.as_slice() {
        [(name, _)] => Some(*name),
        [] => {
            let message = format!("`{}` does not say what to set", fields.word.keyword);
            let help = format!("write one of {}", all.join(", "));
            cx.push(
                Mistake::at(fields.span, "kiln::lower::exactly_one", message, "in this step")
                    .help(help),
            );
            None
        }
        [(first, first_span), (second, second_span), ..] => {
            let message = format!("`{first}` and `{second}` exclude each other");
            cx.push(
                Mistake::at(*second_span, "kiln::lower::exactly_one", message, "and this one")
                    .and(*first_span, "this one")
                    .help(format!("write only one of {}", all.join(", "))),
            );
            None
        }
    }
}

/// A flag that only makes sense as `#true`.
fn must_be_true(cx: &mut Context<'_>, fields: &Fields<'_>, name: &str) -> Option<()> {
    if fields.property::<bool>(name)? {
        return Some(());
    }
    let span = fields.written(name).unwrap_or(fields.span);
    let message = format!("`{name}=#false` says nothing");
    cx.push(
        Mistake::at(span, "kiln::lower::bad_value", message, "here")
            .help(format!("write `{name}=#true`, or what the password is to be")),
    );
    None
}

fn password(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Password<LocalFile>> {
    let names = ["locked", "disabled", "hash", "plain", "file", "secret", "random"];
    let secret = match exactly_one(cx, fields, &names)? {
        "locked" => must_be_true(cx, fields, "locked").map(|()| PasswordSecret::Locked)?,
        "disabled" => must_be_true(cx, fields, "disabled").map(|()| PasswordSecret::Disabled)?,
        "hash" => PasswordSecret::Hash(fields.property("hash")?),
        "plain" => PasswordSecret::Plain(fields.property("plain")?),
        "secret" => fields.property::<SecretName>("secret").map(|_| PasswordSecret::Secret)?,
        "random" => must_be_true(cx, fields, "random").map(|()| PasswordSecret::Random)?,
        _ => PasswordSecret::File(fields.property("file")?),
    };
    let crypto = fields.property::<&str>("crypto").map(|word| match word {
        "yescrypt" => Crypto::Yescrypt,
        "sha256" => Crypto::Sha256,
        "md5" => Crypto::Md5,
        _ => Crypto::Sha512,
    });
    let hashed = !matches!(
        secret,
        PasswordSecret::Hash(_) | PasswordSecret::Locked | PasswordSecret::Disabled
    );
    if let Some(span) = fields.written("crypto").filter(|_| !hashed) {
        let message = "nothing is hashed here, so `crypto` says nothing";
        cx.push(Mistake::at(span, "kiln::lower::bad_value", message, "here").help("remove it"));
        return None;
    }
    Some(Password { user: fields.one("user")?, secret, crypto })
}

fn ssh_inject(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<SshInject<LocalFile>> {
    let key = match exactly_one(cx, fields, &["key", "file"])? {
        "key" => SshKey::Text(fields.property("key")?),
        _ => SshKey::File(fields.property("file")?),
    };
    Some(SshInject { user: fields.one("user")?, key })
}
