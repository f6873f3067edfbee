//! What one site built, another one takes over and builds nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::digest::{ActionKey, StateId};
use kiln::engine::bundle::{Export, ExportError, Import, ImportError, Imported, Moved, Told};
use kiln::recipe::TrustedKey;
use kiln::remote::backend::Backend;
use kiln::remote::team::Team;
use kiln::remote::trust::Trust;
use kiln::remote::{Bundle, RecordKind};
use kiln::store::verify;

use super::remote::{Call, MemoryRemote};
use super::space::TestSpace;
use super::team::{How, Key, space, team};

pub(crate) const RECIPE: &str = r#"
image "common" { base file "base.img"; run-command "one"; output "raw"; }
image "web" { base image "common"; run-command "two"; run-command "three"; output "raw"; }
image "db" { base file "base.img"; run-command "four"; output "raw"; }
"#;

/// A site that trusts what `how` says, and has no remote.
pub(crate) fn site(how: &How<'_>) -> TestSpace {
    let mut site = space(RECIPE, MemoryRemote::new(), how);
    site.team = Team::default();
    site
}

/// A site that has built everything, and a bundle of some images, all if none is named.
pub(crate) fn built(key: &Key, images: &[&str]) -> (TestSpace, PathBuf) {
    let how = How::with(key);
    let site = site(&how);
    site.build();
    let path = site.root().join("all.kiln");
    export(&site, &team(Vec::new(), &how), &path, images).unwrap();
    (site, path)
}

/// Writes a bundle, and tells what went into it.
pub(crate) fn export(
    site: &TestSpace,
    team: &Team,
    path: &Path,
    images: &[&str],
) -> Result<Vec<Moved>, ExportError> {
    let images: Vec<_> = images.iter().map(|image| image.parse().unwrap()).collect();
    let (store, mut moved) = (site.open(), Vec::new());
    let interrupted = &site.interrupted;
    let export = Export { store: &store, team, interrupted };
    let results = export.write(path, &images, true, &mut |result| moved.push(result.clone()))?;
    assert_eq!(results, moved.len());
    Ok(moved)
}

/// What an import said.
pub(crate) struct Said {
    pub(crate) result: Result<Imported, ImportError>,
    pub(crate) taken: Vec<Moved>,
    pub(crate) warnings: Vec<String>,
}

/// Reads a bundle.
pub(crate) fn import(site: &TestSpace, path: &Path, how: &How<'_>) -> Said {
    import_until(site, path, how, &AtomicBool::new(false))
}

fn import_until(site: &TestSpace, path: &Path, how: &How<'_>, interrupted: &AtomicBool) -> Said {
    let trusted: Vec<TrustedKey> = how.trusts.iter().map(|key| key.trusted(false)).collect();
    let (store, namespace) = (site.open(), how.namespace.parse().unwrap());
    let import = Import { store: &store, namespace, trust: Trust::new(&trusted), interrupted };
    let (mut taken, mut warnings) = (Vec::new(), Vec::new());
    let result = import.read(path, &mut |told| match told {
        Told::Taken(moved) => taken.push(moved),
        Told::Warning(text) => warnings.push(text),
    });
    let left = std::fs::read_dir(site.store.join("work")).unwrap().flatten();
    assert!(!left.into_iter().any(|entry| entry.path().join("lease").exists()));
    Said { result, taken, warnings }
}

/// Everything that a store believes.
pub(crate) fn believed(site: &TestSpace) -> BTreeSet<(ActionKey, StateId)> {
    site.results().iter().map(|result| (result.key, result.state)).collect()
}

/// Every byte of a store is what its name says, and nothing has to be fetched.
pub(crate) fn check_whole(site: &TestSpace) {
    let verified = verify::verify(&site.open(), &|_| {}).unwrap();
    assert!(verified.is_good() && verified.remote == 0, "{verified:?}");
    site.check_states();
}

fn names(moved: &[Moved]) -> BTreeSet<&str> {
    moved.iter().map(|moved| moved.name.as_str()).collect()
}

#[test]
fn the_other_site_builds_nothing_and_has_the_same_images() {
    let key = Key::new();
    let (here, path) = built(&key, &["web", "db", "common"]);
    let there = site(&How::with(&key));
    let said = import(&there, &path, &How::with(&key));
    assert_eq!(said.warnings, [""; 0]);
    assert_eq!(believed(&there), believed(&here));
    assert_eq!(said.result.unwrap(), Imported { new: believed(&here).len(), known: 0, refused: 0 });
    // The file is not needed any more.
    std::fs::remove_file(path).unwrap();
    check_whole(&there);
    assert!(there.ran().is_empty());
    for image in ["common", "web", "db"] {
        assert_eq!(there.content(image), here.content(image));
    }
}

#[test]
fn everything_is_exported_where_no_image_is_named() {
    let key = Key::new();
    let (here, _) = built(&key, &["db"]);
    // What no image consists of any more is there as well.
    here.recipe(&RECIPE.replace("three", "five"));
    here.build();
    let path = here.root().join("all.kiln");
    let moved = export(&here, &team(Vec::new(), &How::with(&key)), &path, &[]).unwrap();
    assert_eq!(moved.len(), believed(&here).len());
    let there = site(&How::with(&key));
    import(&there, &path, &How::with(&key)).result.unwrap();
    assert_eq!(believed(&there), believed(&here));
    check_whole(&there);
}

#[test]
fn a_build_goes_on_from_any_step_of_a_bundle() {
    let key = Key::new();
    let (_here, path) = built(&key, &["web"]);
    let there = site(&How::with(&key));
    import(&there, &path, &How::with(&key)).result.unwrap();
    there.recipe(&RECIPE.replace("three", "five"));
    let mut ran = there.ran();
    ran.sort_unstable();
    let elsewhere = ["common/seal", "db/run-command", "db/seal"];
    assert_eq!(ran, [&elsewhere[..], &["web/run-command#2", "web/seal"]].concat());
}

#[test]
fn a_bundle_of_one_image_has_nothing_of_another() {
    let key = Key::new();
    let how = How::with(&key);
    let here = site(&how);
    here.build();
    let path = here.root().join("db.kiln");
    let moved = export(&here, &team(Vec::new(), &how), &path, &["db"]).unwrap();
    assert_eq!(names(&moved), BTreeSet::from(["common/base", "db/run-command", "db/seal"]));
    let bundle = Bundle::open(&path).unwrap();
    let images: Vec<_> =
        bundle.records().filter(|record| record.kind == RecordKind::Image).collect();
    assert_eq!(images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), ["db"]);
    // Its blobs are those of its results, and no others.
    let there = site(&how);
    let said = import(&there, &path, &how);
    assert_eq!(names(&said.taken), names(&moved));
    let of_image = |site: &TestSpace, step: &str| {
        let results = site.results();
        let result = results.of_action(site.keys()[step]).first().cloned();
        result.map(|result| results.ancestry(result.state).count())
    };
    assert_eq!(of_image(&there, "web/seal"), None);
    assert_eq!(of_image(&there, "db/seal"), of_image(&here, "db/seal"));
    let exported: u64 = moved.iter().map(|moved| moved.bytes).sum();
    assert_eq!(bundle.blobs().map(|blob| blob.len).sum::<u64>(), exported);
}

#[test]
fn an_import_may_be_done_again() {
    let key = Key::new();
    let (here, path) = built(&key, &[]);
    let (there, how) = (site(&How::with(&key)), How::with(&key));
    let first = import(&there, &path, &how).result.unwrap();
    let before = std::fs::read(there.store.join("results")).unwrap();
    let again = import(&there, &path, &how);
    assert!(again.taken.is_empty() && again.warnings.is_empty());
    assert_eq!(again.result.unwrap(), Imported { new: 0, known: first.new, refused: 0 });
    assert_eq!(std::fs::read(there.store.join("results")).unwrap(), before);
    // And over what was built here.
    let own = import(&here, &path, &how).result.unwrap();
    assert_eq!((own.new, own.known), (0, first.new));
}

#[test]
fn an_export_is_the_same_but_for_its_signatures() {
    let key = Key::new();
    let (here, path) = built(&key, &[]);
    let again = here.root().join("again.kiln");
    let before = std::fs::read(here.store.join("results")).unwrap();
    export(&here, &team(Vec::new(), &How::with(&key)), &again, &[]).unwrap();
    let (one, two) = (Bundle::open(&path).unwrap(), Bundle::open(&again).unwrap());
    assert!(one.blobs().eq(two.blobs()) && one.records().eq(two.records()));
    assert_eq!(std::fs::read(here.store.join("results")).unwrap(), before, "it changes nothing");
}

/// A site that has built everything, and one that has taken it from a remote, and no data yet.
fn in_part(remote: &MemoryRemote, how: &How<'_>) -> (TestSpace, TestSpace) {
    let giver = space(RECIPE, remote.clone(), how);
    giver.build();
    let site = space(RECIPE, remote.clone(), how);
    site.build();
    let objects = site.open().objects();
    for placement in site.results().placements().filter(|placement| placement.pack.is_some()) {
        let gone = placement.data.map(|data| std::fs::remove_file(objects.path(data)));
        assert!(gone.is_none_or(|gone| gone.is_ok()));
    }
    assert!(verify::verify(&site.open(), &|_| {}).unwrap().remote > 0);
    (giver, site)
}

#[test]
fn layers_that_are_here_in_part_are_fetched_first() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    let (_, here) = in_part(&remote, &how);
    let path = here.root().join("web.kiln");
    // Without a remote a layer is named, and no file is there.
    let alone = export(&here, &team(Vec::new(), &how), &path, &["web"]);
    let Err(ExportError::Layer { name, .. }) = alone else { panic!("{alone:?}") };
    assert!(name.starts_with("web/") || name.starts_with("common/"), "{name}");
    assert!(!path.exists());
    let remotes: Vec<Box<dyn Backend>> = vec![Box::new(remote.clone())];
    remote.counts();
    export(&here, &team(remotes, &how), &path, &["web"]).unwrap();
    let counts = remote.counts();
    assert_eq!((counts.of(Call::PutBlob), counts.of(Call::PutRecord)), (0, 0), "nothing is given");
    let there = site(&how);
    import(&there, &path, &how).result.unwrap();
    check_whole(&there);
    let mut ran = there.ran();
    ran.sort_unstable();
    // Of what only the deepest was taken, only the deepest is given.
    let all = ["common/base", "common/run-command", "common/seal", "db/run-command", "db/seal"];
    assert_eq!(ran, all);
}

#[test]
fn an_import_makes_layers_whole_that_were_here_in_part() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    let (here, there) = in_part(&remote, &how);
    let packs = |site: &TestSpace| site.results().placements().filter(|p| p.pack.is_some()).count();
    let before = packs(&there);
    let path = here.root().join("all.kiln");
    export(&here, &team(Vec::new(), &how), &path, &[]).unwrap();
    import(&there, &path, &how).result.unwrap();
    check_whole(&there);
    assert_eq!(packs(&there), before, "where they lie on the remote is known still");
}

#[test]
fn what_was_not_built_is_not_exported() {
    let key = Key::new();
    let how = How::with(&key);
    let here = site(&how);
    let path = here.root().join("web.kiln");
    let team = team(Vec::new(), &how);
    let nothing = export(&here, &team, &path, &[]);
    assert!(matches!(nothing, Err(ExportError::Empty)), "{nothing:?}");
    let error = export(&here, &team, &path, &["web"]);
    assert!(matches!(error, Err(ExportError::NotBuilt { .. })), "{error:?}");
    assert!(!path.exists());
}

#[test]
fn who_interrupts_finds_whole_results_or_none() {
    let key = Key::new();
    let how = How::with(&key);
    let (here, path) = built(&key, &[]);
    let other = here.root().join("other.kiln");
    here.interrupted.store(true, Ordering::SeqCst);
    let exported = export(&here, &team(Vec::new(), &how), &other, &[]);
    assert!(matches!(exported, Err(ExportError::Interrupted)), "{exported:?}");
    let left = std::fs::read_dir(here.root()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("other.kiln")), "{left:?}");
    let there = site(&how);
    let said = import_until(&there, &path, &how, &AtomicBool::new(true));
    assert!(matches!(said.result, Err(ImportError::Interrupted)));
    assert!(believed(&there).is_empty());
    import(&there, &path, &how).result.unwrap();
    check_whole(&there);
}
