//! Requirements that say themselves what they are about.

use super::units::{Unit, unit as state_of};
use super::{Subject, Verdict, matching, some, text};
use crate::guest::GuestError;
use crate::name::GuestPath;

/// Whether a package is installed, and whether that is wanted.
pub(super) fn package(subject: Subject<'_>, name: &str, wanted: bool) -> Verdict {
    let Some(packages) = subject.packages else {
        return Verdict::Unknown("only the guest's own `rpm` knows its packages".to_owned());
    };
    match packages.iter().find(|package| package.name == name) {
        Some(package) => Verdict::of(wanted, format!("{name} {} is installed", package.version)),
        None => Verdict::of(!wanted, format!("{name} is not installed")),
    }
}

/// Whether a file is there, and one of its lines holds a text.
pub(super) fn file(
    subject: Subject<'_>,
    path: &GuestPath,
    contains: Option<&str>,
) -> Result<Verdict, GuestError> {
    if !subject.root.is_file(path.as_str()) {
        return Ok(Verdict::Fail(format!("there is no file `{path}`")));
    }
    let Some(wanted) = contains else {
        return Ok(Verdict::Pass(format!("`{path}` is there")));
    };
    let text = text(subject.root, path.as_str())?.unwrap_or_default();
    Ok(match text.lines().position(|line| line.contains(wanted)) {
        Some(at) => Verdict::Pass(format!("line {} of `{path}` holds it", at + 1)),
        None => Verdict::Fail(format!("no line of `{path}` holds {wanted:?}")),
    })
}

pub(super) fn no_file(subject: Subject<'_>, pattern: &GuestPath) -> Result<Verdict, GuestError> {
    let found = matching(subject.root, pattern.as_str())?;
    Ok(match found.as_slice() {
        [] => Verdict::Pass(format!("nothing matches `{pattern}`")),
        found => Verdict::Fail(format!("there are {}", some(found))),
    })
}

pub(super) fn unit(subject: Subject<'_>, name: &str, wanted: bool) -> Result<Verdict, GuestError> {
    let state = state_of(subject.root, subject.guest, name)?;
    let seen = match state {
        Unit::Absent => format!("there is no `{name}`"),
        Unit::Disabled => format!("nothing starts `{name}`"),
        Unit::Masked => format!("`{name}` is masked"),
        Unit::Enabled => format!("`{name}` is enabled"),
    };
    Ok(Verdict::of((state == Unit::Enabled) == wanted, seen))
}
