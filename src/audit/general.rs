//! Requirements that say themselves what they are about.

use super::files::{Look, matching, some, text};
use super::units::{Unit, unit as state_of};
use super::{Subject, Verdict};
use crate::name::GuestPath;

/// Whether a package is installed, and whether that is wanted.
pub(super) fn package(subject: Subject<'_>, name: &str, wanted: bool) -> Verdict {
    let Some(packages) = subject.packages else {
        return Verdict::Unknown(
            "its packages are known to programs of the guest alone".to_owned(),
        );
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
) -> Look<Verdict> {
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

pub(super) fn no_file(subject: Subject<'_>, pattern: &GuestPath) -> Look<Verdict> {
    let found = matching(subject.root, pattern.as_str())?;
    Ok(match found.as_slice() {
        [] => Verdict::Pass(format!("nothing matches `{pattern}`")),
        found => Verdict::Fail(format!("there are {}", some(found))),
    })
}

pub(super) fn unit(subject: Subject<'_>, name: &str, wanted: bool) -> Look<Verdict> {
    let state = state_of(subject, name)?;
    let seen = match state {
        Unit::Absent => format!("there is no `{name}`"),
        Unit::Disabled => format!("nothing starts `{name}`"),
        Unit::Masked => format!("`{name}` is masked"),
        Unit::FirstBoot { named: true } => format!("a preset enables `{name}` at the first boot"),
        Unit::FirstBoot { named: false } => {
            format!("`{name}` is disabled, and no preset keeps the first boot from enabling it")
        }
        Unit::Enabled => format!("`{name}` is enabled"),
    };
    Ok(Verdict::of(if wanted { state.starts() } else { !state.may_start() }, seen))
}
