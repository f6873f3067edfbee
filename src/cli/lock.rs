//! `kiln lock`, and the same for what a build is about to need.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use clap::Args;

use super::{CliError, Place, Wanted, build, show};
use crate::fetch::{Client, Downloads, FetchError, Patience, ProxyUse};
use crate::lock::Resolved;
use crate::recipe::{Base, Fetch, Origin};
use crate::resolve::{ResolveError, Resolver, sources};
use crate::store::work;

/// Look up names of bases.
#[derive(Debug, Args)]
pub(super) struct LockCommand {
    /// The images; all of the workspace if none is named.
    images: Vec<String>,
    /// Look up again what is in the lock file already: these names, or all.
    #[arg(long, value_name = "NAME", num_args = 0..)]
    update: Option<Vec<String>>,
}

/// What is looked up although it is in the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Again {
    Nothing,
    Everything,
    /// Bases by these names.
    These(Vec<String>),
}

impl Again {
    fn takes(&self, origin: &Origin) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::These(names) => names.iter().any(|name| is_called(origin, name)),
        }
    }
}

impl LockCommand {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let mut wanted = Wanted::read(place, &self.images)?;
        let again = match self.update {
            None => Again::Nothing,
            Some(names) if names.is_empty() => Again::Everything,
            Some(names) => Again::These(names),
        };
        let interrupted = build::on_interrupt();
        if self.images.is_empty() && again == Again::Everything {
            forget_unused(&mut wanted)?;
        }
        let looked_up = look_up(place, &mut wanted, &again, &interrupted)?;
        if looked_up == 0 {
            println!("nothing to look up");
        }
        Ok(())
    }
}

/// Looks up the bases of the wanted images that are not in the lock file, and some that are; tells
/// each on standard error, and how many there were. The lock file is written behind each, so that
/// what was found stays if the next one fails.
pub(super) fn look_up(
    place: &Place,
    wanted: &mut Wanted,
    again: &Again,
    interrupted: &AtomicBool,
) -> Result<usize, CliError> {
    let origins = origins(wanted)?;
    if let Again::These(names) = again {
        let unknown = |name: &&String| !origins.values().any(|origin| is_called(origin, name));
        if let Some(name) = names.iter().find(unknown) {
            return Err(CliError::UnknownBase { name: name.clone() });
        }
    }
    let todo: Vec<(String, Origin)> = origins
        .into_iter()
        .filter(|(name, origin)| again.takes(origin) || !wanted.lock.resolved.contains_key(name))
        .collect();
    if todo.is_empty() {
        return Ok(0);
    }
    let root = wanted.workspace.root.clone();
    let client = Client::new(&ProxyUse::System, Patience::default(), interrupted);
    let client = client.map_err(ResolveError::from)?;
    let mut resolver = Resolver::new(&root, sources::directories(&root), client);
    // Only an address without a checksum is downloaded, so that only such a one needs the store.
    let directory = if todo.iter().any(|(_, origin)| matches!(origin, Origin::Url(_))) {
        work::downloads(&place.store(&wanted.workspace)?)
    } else {
        root.clone()
    };
    let downloads = Downloads::new(directory);
    let mut failed = None;
    for (name, origin) in &todo {
        let mut tell = |line: &str| eprintln!("{name}: {line}");
        let found = match resolver.resolve(origin, &downloads, &mut tell) {
            Ok(found) => found,
            Err(error @ ResolveError::Fetch(FetchError::Interrupted)) => return Err(error.into()),
            // The others are looked up all the same.
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    show(&earlier);
                }
                continue;
            }
        };
        let before = wanted.lock.resolved.insert(name.clone(), found.clone());
        eprintln!("{}", news(name, before.as_ref(), &found));
        wanted.lock.write(&root)?;
        for other in wanted.lock.resolved.keys().filter(|other| {
            before.is_some() && *other != name && other.starts_with(&format!("{origin} "))
        }) {
            eprintln!("left {other}: it is looked up on a host of that architecture");
        }
    }
    failed.map_or(Ok(todo.len()), |error| Err(error.into()))
}

/// The bases of the wanted images that are looked up, by their names in the lock file.
fn origins(wanted: &Wanted) -> Result<BTreeMap<String, Origin>, CliError> {
    let graph = &wanted.workspace.graph;
    let bases = wanted.closure()?.into_iter().map(|image| &graph.images[image].image.base.value);
    Ok(bases
        .filter_map(|base| match base {
            Base::Fetch(Fetch { origin, checksum: None, .. }) => {
                Some((origin.locked_as(), origin.clone()))
            }
            _ => None,
        })
        .collect())
}

/// Takes out of the lock file what no recipe names any more.
fn forget_unused(wanted: &mut Wanted) -> Result<(), CliError> {
    let origins = origins(wanted)?;
    let before = wanted.lock.resolved.len();
    wanted.lock.resolved.retain(|name, _| {
        // What a name means on other architectures is kept with it.
        let of = |origin: &Origin| name.starts_with(&format!("{origin} "));
        let used = origins.contains_key(name) || origins.values().any(of);
        if !used {
            eprintln!("removed {name}: no recipe names it");
        }
        used
    });
    if wanted.lock.resolved.len() < before {
        wanted.lock.write(&wanted.workspace.root)?;
    }
    Ok(())
}

/// Whether a user means a base by a name: as the recipe has it, or as the lock file has it.
fn is_called(origin: &Origin, name: &str) -> bool {
    let own = match origin {
        Origin::Url(url) => url,
        Origin::Template { name, .. } | Origin::Catalog(name) => name,
    };
    own == name || origin.to_string() == name || origin.locked_as() == name
}

/// What is told of a base that was looked up.
fn news(name: &str, before: Option<&Resolved>, now: &Resolved) -> String {
    let version = |resolved: &Resolved| match resolved.revision {
        Some(revision) => format!("revision {revision}, {}", short(resolved)),
        None => short(resolved),
    };
    match before {
        None => format!("locked {name}: {}", version(now)),
        Some(before) if before == now => format!("unchanged {name}: {}", version(now)),
        Some(before) if before.checksum == now.checksum => {
            format!("moved {name}: {} is at {} now", version(now), now.url)
        }
        Some(before) => format!("updated {name}: {} → {}", version(before), version(now)),
    }
}

/// A checksum in short.
fn short(resolved: &Resolved) -> String {
    let text = resolved.checksum.to_string();
    text.split_at_checked(19).map_or(text.clone(), |(start, _)| format!("{start}…"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Checksum;

    #[test]
    fn a_base_goes_by_its_name_and_its_whole_name() {
        let template = Origin::Template { name: "os-1".to_owned(), arch: Some("x".to_owned()) };
        for (name, expected) in
            [("os-1", true), ("template os-1 x", true), ("template os-1", false)]
        {
            assert_eq!(is_called(&template, name), expected, "{name}");
        }
        assert!(Again::These(vec!["os-1".to_owned()]).takes(&template));
        assert!(!Again::These(vec!["os".to_owned()]).takes(&template));
    }

    #[test]
    fn what_moved_is_told() {
        let url = "https://a.example/x".to_owned();
        let checksum = Checksum::Sha512("ab".repeat(64));
        let old = Resolved { url, checksum, format: None, revision: Some(2) };
        let new = Resolved {
            checksum: Checksum::Sha512("cd".repeat(64)),
            revision: Some(3),
            ..old.clone()
        };
        let moved = Resolved { url: "https://b.example/x".to_owned(), ..old.clone() };
        let bare = Resolved { revision: None, ..old.clone() };
        assert_eq!(
            news("template a", None, &old),
            "locked template a: revision 2, sha512:abababababab…"
        );
        assert_eq!(news("url a", None, &bare), "locked url a: sha512:abababababab…");
        assert_eq!(
            news("template a", Some(&old), &old),
            "unchanged template a: revision 2, sha512:abababababab…"
        );
        assert_eq!(
            news("template a", Some(&old), &new),
            "updated template a: revision 2, sha512:abababababab… → revision 3, sha512:cdcdcdcdcdcd…"
        );
        assert_eq!(
            news("template a", Some(&old), &moved),
            "moved template a: revision 2, sha512:abababababab… is at https://b.example/x now"
        );
    }
}
