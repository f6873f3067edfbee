//! One written value to a checked one.
//!
//! Each [`Kind`] of the table has its check here; which node a value belongs to is not known.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use kdl::KdlValue;

use super::shape::{
    address_fault, archive_fault, hash_fault, hostname_fault, key_fault, link_fault, media_fault,
    mirror_fault, package_fault, password_fault, signing_key_fault, template_fault, timezone_fault,
    url_fault,
};
use super::table::Kind;
use crate::mistake::{excerpt, nearest, quoted};
use crate::name::{
    DocumentName, GuestPath, ImageName, Mode, Namespace, Owner, ProfileName, RemoteName,
    SecretName, StepName,
};
use crate::recipe::LocalFile;
use crate::source::{Span, Spanned};

const MIB: u64 = 1 << 20;
/// So many words are not all shown where one of them is near to what was written.
const MANY: usize = 12;
/// Largest disk: what ext4 and every format here can hold without special options.
const MAX_SIZE: u64 = 16 << 40;
/// Longest period: ten years of 366 days.
const MAX_PERIOD: u64 = 10 * 366 * 86_400;

/// A checked value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    Choice(&'static str),
    Image(ImageName),
    Step(StepName),
    Profile(ProfileName),
    Document(DocumentName),
    Secret(SecretName),
    Remote(RemoteName),
    Namespace(Namespace),
    Guest(GuestPath),
    Local(LocalFile),
    Path(PathBuf),
    Mode(Mode),
    Owner(Owner),
    Owners((Option<Owner>, Option<Owner>)),
    Period(Duration),
}

/// Why a value does not fit.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

fn misfit(code: &'static str, message: String, help: &str) -> Misfit {
    Misfit { code, message, help: Some(help.to_owned()) }
}

/// A value of the table as a Rust type.
pub(super) trait Take: Sized {
    fn take(value: &Spanned<Value>) -> Option<Self>;
}

macro_rules! take {
    ($($variant:ident: $type:ty),* $(,)?) => {
        $(impl Take for $type {
            fn take(value: &Spanned<Value>) -> Option<Self> {
                match &value.value {
                    Value::$variant(inner) => Some(inner.clone()),
                    _ => None,
                }
            }
        })*
    };
}

take! {
    Text: String, Flag: bool, Number: u64, Choice: &'static str, Image: ImageName, Step: StepName, Profile: ProfileName, Document: DocumentName, Secret: SecretName,
    Remote: RemoteName, Namespace: Namespace,
    Guest: GuestPath, Local: LocalFile, Path: PathBuf, Mode: Mode, Owner: Owner,
    Owners: (Option<Owner>, Option<Owner>), Period: Duration,
}

impl<T: Take> Take for Spanned<T> {
    fn take(value: &Spanned<Value>) -> Option<Self> {
        T::take(value).map(|inner| Self { value: inner, span: value.span })
    }
}

/// Where a value stands: the span, and the recipe's directory from the workspace root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) span: Span,
    pub(super) directory: &'a Path,
}

/// Checks one value.
pub(super) fn check(kind: Kind, value: &KdlValue, place: Place<'_>) -> Result<Value, Misfit> {
    match (kind, value) {
        (Kind::Flag, KdlValue::Bool(flag)) => Ok(Value::Flag(*flag)),
        (Kind::Count, KdlValue::Integer(number)) => match u64::try_from(*number) {
            Ok(number @ 1..=4096) => Ok(Value::Number(number)),
            _ => Err(misfit(
                "kiln::lower::bad_value",
                format!("`{number}` is out of range"),
                "write a number from 1 to 4096",
            )),
        },
        (Kind::Flag | Kind::Count, _) | (_, KdlValue::Bool(_) | KdlValue::Null) => {
            Err(wrong_type(kind, value))
        }
        (_, KdlValue::String(text)) => check_text(kind, text, place),
        (_, KdlValue::Integer(_) | KdlValue::Float(_)) => Err(wrong_type(kind, value)),
    }
}

fn wrong_type(kind: Kind, value: &KdlValue) -> Misfit {
    let code = "kiln::lower::wrong_type";
    let found = match value {
        KdlValue::String(text) => format!("the text \"{}\"", excerpt(text)),
        KdlValue::Integer(number) => format!("the number {number}"),
        KdlValue::Float(number) => format!("the number {number}"),
        KdlValue::Bool(flag) => format!("`#{flag}`"),
        KdlValue::Null => "`#null`".to_owned(),
    };
    let message = format!("{} is expected, and {found} is written", kind.expected());
    let help = match (kind, value) {
        // The number has lost its leading zeros, and 644 is not what anyone means by it.
        (Kind::Mode, KdlValue::Integer(number @ 0..=7777)) => {
            format!("write the digits in quotes: \"{number:04}\"")
        }
        (Kind::Size, KdlValue::Integer(_)) => "write the unit too: \"4G\" or \"512M\"".to_owned(),
        (Kind::Period, KdlValue::Integer(_)) => "write the unit too: \"24h\" or \"30m\"".to_owned(),
        (Kind::Flag, KdlValue::String(text)) if matches!(text.as_str(), "yes" | "on" | "true") => {
            "write #true".to_owned()
        }
        (Kind::Flag, KdlValue::String(text)) if matches!(text.as_str(), "no" | "off" | "false") => {
            "write #false".to_owned()
        }
        (Kind::Owner, KdlValue::Integer(number)) => format!("write it in quotes: \"{number}\""),
        _ => format!("write it like this: {}", kind.example()),
    };
    misfit(code, message, &help)
}

fn check_text(kind: Kind, text: &str, place: Place<'_>) -> Result<Value, Misfit> {
    if text.contains('\0') && kind != Kind::Content {
        return Err(bad_value(kind, text, "a NUL byte may not stand in it"));
    }
    match kind {
        Kind::Flag | Kind::Count => Err(wrong_type(kind, &KdlValue::String(text.to_owned()))),
        Kind::Script if text.trim().is_empty() => {
            Err(bad_value(kind, text, "there is no command in it"))
        }
        Kind::Text | Kind::Content | Kind::Script => Ok(Value::Text(text.to_owned())),
        Kind::Choice(words) => choice(words, text),
        Kind::ImageName => name(text).map(Value::Image),
        Kind::StepName => name(text).map(Value::Step),
        Kind::ProfileName => name(text).map(Value::Profile),
        Kind::DocumentName => name(text).map(Value::Document),
        Kind::MediaType => shaped(kind, text, media_fault(text)),
        Kind::SecretName => name(text).map(Value::Secret),
        Kind::RemoteName => name(text).map(Value::Remote),
        Kind::Namespace => name(text).map(Value::Namespace),
        Kind::Address => shaped(kind, text, address_fault(text)),
        Kind::SigningKey => shaped(kind, text, signing_key_fault(text)),
        Kind::Url => shaped(kind, text, url_fault(text)),
        Kind::Sha256 => checksum(kind, text, 64),
        Kind::Sha512 => checksum(kind, text, 128),
        Kind::TemplateName => shaped(kind, text, template_fault(text)),
        Kind::Expression => expression(text),
        Kind::GuestPath | Kind::GuestFile | Kind::Pattern => guest_path(kind, text),
        Kind::LocalPath => local_path(text, place),
        Kind::WorkspacePath => workspace_path(text),
        Kind::HostPath if text.is_empty() => Err(bad_value(kind, text, "it is empty")),
        Kind::HostPath => Ok(Value::Path(PathBuf::from(text))),
        Kind::Mode => mode(text),
        Kind::Owner => owner(text).map(Value::Owner),
        Kind::Owners => owners(text),
        Kind::User => match owner(text)? {
            Owner::Name(name) => Ok(Value::Text(name)),
            Owner::Id(_) => Err(bad_value(kind, text, "it is a number")),
        },
        Kind::Package => shaped(kind, text, package_fault(text)),
        Kind::Mirror => shaped(kind, text, mirror_fault(text)),
        Kind::ArchiveWord => shaped(kind, text, archive_fault(text)),
        Kind::Size => size(text).map(Value::Number),
        Kind::Period => period(text).map(Value::Period),
        Kind::Line => {
            let ends = text.contains(['\n', '\r']);
            shaped(kind, text, ends.then_some("a line end may not stand in it"))
        }
        Kind::Hostname => shaped(kind, text, hostname_fault(text)),
        Kind::Timezone => shaped(kind, text, timezone_fault(text)),
        Kind::PasswordHash => shaped(kind, text, hash_fault(text)),
        Kind::Password => shaped(kind, text, password_fault(text)),
        Kind::PublicKey => shaped(kind, text, key_fault(text)),
        Kind::LinkTarget => shaped(kind, text, link_fault(text)),
    }
}

fn bad_value(kind: Kind, text: &str, why: &str) -> Misfit {
    Misfit {
        code: "kiln::lower::bad_value",
        message: format!("{} is not {}: {why}", quoted(text), kind.expected()),
        help: Some(format!("write it like this: {}", kind.example())),
    }
}

fn shaped(kind: Kind, text: &str, fault: Option<&str>) -> Result<Value, Misfit> {
    match fault {
        None => Ok(Value::Text(text.to_owned())),
        Some(why) => {
            let mut misfit = bad_value(kind, text, why);
            if matches!(kind, Kind::Password | Kind::PasswordHash) {
                // A report may end up in a log, where a password has no business.
                misfit.message = format!("this is not {}: {why}", kind.expected());
            }
            if kind == Kind::Package && text.contains(',') {
                let apart: Vec<_> = text.split(',').map(|name| format!("{name:?}")).collect();
                misfit.help = Some(format!("write each as a text of its own: {}", apart.join(" ")));
            }
            Err(misfit)
        }
    }
}

/// Whether its patterns can be compiled is seen when it is done, as the engine is far from here.
fn expression(text: &str) -> Result<Value, Misfit> {
    match crate::expression::parse(text) {
        Ok(_) => Ok(Value::Text(text.to_owned())),
        Err(error) => {
            let message = format!("{} cannot edit lines: {error}", quoted(text));
            Err(misfit("kiln::lower::bad_expression", message, error.help))
        }
    }
}

fn checksum(kind: Kind, text: &str, digits: usize) -> Result<Value, Misfit> {
    let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fits {
        return Ok(Value::Text(text.to_ascii_lowercase()));
    }
    let mut misfit = bad_value(kind, text, "it has another shape");
    misfit.help = Some(format!("write {digits} hexadecimal digits"));
    Err(misfit)
}

fn choice(words: &'static [&'static str], text: &str) -> Result<Value, Misfit> {
    if let Some(word) = words.iter().find(|word| **word == text) {
        return Ok(Value::Choice(word));
    }
    let all: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    let near = nearest(text, words.iter().copied());
    let help = match near {
        Some(word) if all.len() > MANY => format!("did you mean `{word}`?"),
        Some(word) => format!("did you mean `{word}`? {} can be written", all.join(", ")),
        None => format!("{} can be written", all.join(", ")),
    };
    let message = format!("{} is not known here", quoted(text));
    Err(misfit("kiln::lower::unknown_word", message, &help))
}

fn name<T: std::str::FromStr<Err = crate::name::NameError>>(text: &str) -> Result<T, Misfit> {
    text.parse().map_err(|why| {
        misfit(
            "kiln::lower::bad_name",
            format!("{} is not a name: {why}", quoted(text)),
            "choose a name such as \"debian-web\"",
        )
    })
}

fn guest_path(kind: Kind, text: &str) -> Result<Value, Misfit> {
    let code = "kiln::lower::bad_path";
    let refuse = |why: &str, help: &str| {
        Err(misfit(code, format!("{} is not a path in the guest: {why}", quoted(text)), help))
    };
    let path: GuestPath = match text.parse() {
        Ok(path) => path,
        Err(why) => {
            let relative = why == crate::name::NameError::Relative && !text.is_empty();
            let help = if relative && !text.starts_with('~') {
                format!("write it from the root: \"/{}\"", excerpt(text))
            } else {
                format!("write the whole path, such as {}", kind.example())
            };
            return refuse(&why.to_string(), &help);
        }
    };
    let is_wild = |part: &str| !part.is_empty() && part.bytes().all(|c| matches!(c, b'*' | b'?'));
    if kind == Kind::Pattern && path.components().next().is_none_or(is_wild) {
        return refuse("it would match the whole guest", "name at least the first directory");
    }
    if kind == Kind::GuestFile && path.as_str() == "/" {
        return refuse("it is the root directory", "name what you mean below it");
    }
    Ok(Value::Guest(path))
}

fn local_path(text: &str, place: Place<'_>) -> Result<Value, Misfit> {
    let code = "kiln::lower::bad_path";
    let path = Path::new(text);
    let refuse = |why: &str, help: &str| {
        Err(misfit(code, format!("{} cannot be read: {why}", quoted(text)), help))
    };
    let help = "write a path relative to this recipe's directory, inside the workspace";
    if text.is_empty() {
        return refuse("it names no file", help);
    }
    if path.is_absolute() {
        return refuse("an absolute path is not part of the workspace", help);
    }
    let mut depth = 0_i64;
    for component in place.directory.join(path).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return refuse("it leads out of the workspace", help);
        }
    }
    Ok(Value::Local(LocalFile { path: path.to_owned(), span: place.span }))
}

fn workspace_path(text: &str) -> Result<Value, Misfit> {
    let path = Path::new(text);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    let recipe = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("kdl"));
    let why = if text.is_empty() || text.ends_with('/') {
        "it names no file"
    } else if !inside {
        "it must be relative to the workspace root, without `.` and `..`"
    } else if recipe {
        "it would be taken for a recipe"
    } else {
        return Ok(Value::Path(path.components().collect()));
    };
    let message = format!("{} is no place for an output: {why}", quoted(text));
    Err(misfit("kiln::lower::bad_path", message, "write it like this: \"out/web.qcow2\""))
}

fn mode(text: &str) -> Result<Value, Misfit> {
    text.parse().map(Value::Mode).map_err(|_| {
        misfit(
            "kiln::lower::bad_mode",
            format!("{} is not an octal mode of three or four digits", quoted(text)),
            "write octal digits, as chmod takes them: \"0644\" for rw-r--r--, \"0755\" for rwxr-xr-x",
        )
    })
}

fn owner(text: &str) -> Result<Owner, Misfit> {
    text.parse().map_err(|_| {
        misfit(
            "kiln::lower::bad_owner",
            format!("{} is not a user or group", quoted(text)),
            "write a name or a number of the guest: \"www-data\" or \"33\"",
        )
    })
}

fn owners(text: &str) -> Result<Value, Misfit> {
    let part = |text: &str| if text.is_empty() { Ok(None) } else { owner(text).map(Some) };
    let pair = match text.split_once(':') {
        None => (part(text)?, None),
        Some((user, group)) if !group.is_empty() => (part(user)?, part(group)?),
        Some(_) => (None, None),
    };
    if pair == (None, None) {
        return Err(misfit(
            "kiln::lower::bad_owner",
            format!("{} names no user or no group", quoted(text)),
            "write \"user\", \"user:group\" or \":group\"",
        ));
    }
    Ok(Value::Owners(pair))
}

/// Splits "24h" into 24 and "h".
fn quantity(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit))
}

fn size(text: &str) -> Result<u64, Misfit> {
    let refuse = |why: &str| {
        let message = format!("{} is not a size: {why}", quoted(text));
        misfit(
            "kiln::lower::bad_size",
            message,
            "write a whole number and M, G or T, such as \"512M\" or \"4G\"; units are binary",
        )
    };
    if text.starts_with('-') {
        return Err(refuse("it is negative"));
    }
    let Some((number, unit)) = quantity(text) else {
        return Err(refuse("it does not start with a number"));
    };
    let factor = match unit {
        "M" | "MiB" => MIB,
        "G" | "GiB" => MIB << 10,
        "T" | "TiB" => MIB << 20,
        "" => return Err(refuse("it has no unit")),
        _ => return Err(refuse("its unit is not known")),
    };
    match number.checked_mul(factor) {
        Some(0) => Err(refuse("it is zero")),
        Some(bytes) if bytes <= MAX_SIZE => Ok(bytes),
        _ => Err(refuse("it is larger than 16T")),
    }
}

fn period(text: &str) -> Result<Duration, Misfit> {
    let refuse = |why: &str| {
        let message = format!("{} is not a period: {why}", quoted(text));
        misfit(
            "kiln::lower::bad_period",
            message,
            "write a whole number and s, m, h or d, such as \"90s\", \"30m\", \"24h\" or \"7d\"",
        )
    };
    if text.starts_with('-') {
        return Err(refuse("it is negative"));
    }
    let Some((number, unit)) = quantity(text) else {
        return Err(refuse("it does not start with a number"));
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "" => return Err(refuse("it has no unit")),
        _ => return Err(refuse("its unit is not known")),
    };
    match number.checked_mul(factor) {
        Some(0) => Err(refuse("it is zero")),
        Some(seconds) if seconds <= MAX_PERIOD => Ok(Duration::from_secs(seconds)),
        _ => Err(refuse("it is longer than ten years")),
    }
}
