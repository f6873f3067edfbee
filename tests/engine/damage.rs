//! Damage to what the store holds: noticed and built again, or reported; never used.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use kiln::digest::ObjectId;
use kiln::store::results::Placement;

use super::space::TestSpace;

const RECIPE: &str = r#"image "web" {
    base file "base.img"
    run-command "one"
    run-command "two"
    output "raw"
}"#;

fn built() -> TestSpace {
    let space = TestSpace::new(RECIPE);
    space.build();
    space
}

fn placement(space: &TestSpace, name: &str) -> Placement {
    let results = space.results();
    let state = results.of_action(space.keys()[name])[0].state;
    results.placement(state).unwrap().clone()
}

fn path(space: &TestSpace, id: ObjectId) -> PathBuf {
    space.open().objects().path(id)
}

/// The ways in which an object comes to harm.
fn harms(path: &std::path::Path) -> Vec<(String, Option<Vec<u8>>)> {
    let whole = fs::read(path).unwrap();
    let mut harms = vec![("gone".to_owned(), None), ("empty".to_owned(), Some(Vec::new()))];
    let last = whole.len() - 1;
    for at in [0, whole.len() / 2, last] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        harms.push((format!("byte {at}"), Some(bytes)));
    }
    for len in [whole.len() / 2, last] {
        harms.push((format!("cut to {len}"), Some(whole[..len].to_vec())));
    }
    let longer = whole.iter().copied().chain([0]).collect();
    harms.push(("one byte longer".to_owned(), Some(longer)));
    harms
}

/// Harms every object of the layer that `name` led to, one way after the other, and builds what
/// `change` makes of the recipe each time. Tells for each which steps ran.
fn after_damage(name: &str, kind: fn(&Placement) -> Option<ObjectId>, change: bool) {
    let space = built();
    let first = placement(&space, name);
    let count = harms(&path(&space, kind(&first).unwrap())).len();
    for number in 0..count {
        // A layer that was built again is another one.
        let object = path(&space, kind(&placement(&space, name)).unwrap());
        let whole = fs::read(&object).unwrap();
        let (what, bytes) = harms(&object).swap_remove(number);
        match bytes {
            Some(bytes) => fs::write(&object, bytes).unwrap(),
            None => fs::remove_file(&object).unwrap(),
        }
        if change {
            space.recipe(&RECIPE.replace("\"two\"", &format!("\"two {number}\"")));
        } else {
            fs::remove_file(space.output("web")).unwrap();
        }
        let built = space.try_build();
        assert!(built.is_ok(), "{name} {what}: {:?}", built.unwrap_err());
        space.check_outputs();
        let content = space.content("web");
        assert_eq!(content.mark, 7, "{name} {what}");
        assert_eq!(content.records.len(), 3, "{name} {what}");
        if object.exists() {
            // Nobody read what is damaged, such as a block below a later hole.
            fs::write(&object, whole).unwrap();
        }
        space.recipe(RECIPE);
        space.build();
    }
}

#[test]
fn a_damaged_index_below_a_changed_step_is_built_again() {
    for name in ["web/base", "web/run-command"] {
        after_damage(name, |placement| Some(placement.index), true);
    }
}

#[test]
fn damaged_data_below_a_changed_step_is_built_again() {
    for name in ["web/base", "web/run-command"] {
        after_damage(name, |placement| placement.data, true);
    }
}

#[test]
fn a_damaged_index_below_a_cached_output_is_built_again() {
    for name in ["web/base", "web/run-command", "web/seal"] {
        after_damage(name, |placement| Some(placement.index), false);
    }
}

#[test]
fn damaged_data_below_a_cached_output_is_built_again() {
    for name in ["web/base", "web/run-command#2", "web/seal"] {
        after_damage(name, |placement| placement.data, false);
    }
}

#[test]
fn everything_damaged_at_once_is_built_again() {
    for spoiled in [&b""[..], b"x"] {
        let space = built();
        let objects = walkdir::WalkDir::new(space.store.join("objects"));
        for entry in objects.into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
            fs::write(entry.path(), spoiled).unwrap();
        }
        fs::remove_file(space.output("web")).unwrap();
        space.build();
        assert_eq!(space.content("web").records.len(), 3);
        // And it stays so: nothing damaged was taken for what was written.
        fs::remove_file(space.output("web")).unwrap();
        assert_eq!(space.build().ran, Vec::<String>::new());
        whole(&space);
    }
}

/// Everything that a result names is whole.
fn whole(space: &TestSpace) {
    let (objects, results) = (space.open().objects(), space.results());
    for result in results.iter() {
        let placement = results.placement(result.state).unwrap();
        let named = [Some(placement.index), placement.data, Some(result.manifest), result.report];
        for id in named.into_iter().flatten() {
            assert!(objects.is_whole(id), "{result:?} names {id}");
        }
    }
}

#[test]
fn a_damaged_report_is_made_again() {
    let space = built();
    let result = space.results().of_action(space.keys()["web/seal"])[0].clone();
    let report = path(&space, result.report.unwrap());
    let text = fs::read(&report).unwrap();
    for spoil in [Some(&b"{}"[..]), Some(b""), None] {
        match spoil {
            Some(bytes) => fs::write(&report, bytes).unwrap(),
            None => fs::remove_file(&report).unwrap(),
        }
        fs::remove_file(space.output("web")).unwrap();
        assert_eq!(space.build().ran, ["web/seal"]);
        assert_eq!(fs::read(&report).unwrap(), text, "the same report, whole again");
        fs::remove_file(space.output("web")).unwrap();
        assert_eq!(space.build().ran, Vec::<String>::new());
    }
}

#[test]
fn a_damaged_journal_loses_results_and_invents_none() {
    let space = built();
    let journal = space.store.join("results");
    let whole = fs::read(&journal).unwrap();
    let tasks: BTreeSet<_> = space.executor.trace().into_iter().collect();
    for part in 1..8 {
        let at = whole.len() * part / 8;
        for cut in [false, true] {
            let mut bytes = whole.clone();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1;
            }
            fs::write(&journal, bytes).unwrap();
            fs::remove_file(space.output("web")).unwrap();
            space.build();
            assert_eq!(space.content("web").records.len(), 3);
            assert_eq!(space.build().ran, Vec::<String>::new());
        }
    }
    assert_eq!(space.executor.trace().into_iter().collect::<BTreeSet<_>>(), tasks);
}

#[test]
fn what_is_no_journal_is_reported_and_kept() {
    let space = built();
    let journal = space.store.join("results");
    fs::write(&journal, "something else entirely").unwrap();
    fs::remove_file(space.output("web")).unwrap();
    let error = space.try_build().unwrap_err();
    assert!(error.to_string().contains("is not a journal of results"), "{error}");
    assert_eq!(fs::read(&journal).unwrap(), b"something else entirely");
    fs::remove_file(&journal).unwrap();
    assert_eq!(space.ran().len(), 4);
}

#[test]
fn damaged_refs_are_as_if_there_were_none() {
    let space = built();
    for refs in ["refs/outputs", "refs/images"] {
        for entry in fs::read_dir(space.store.join(refs)).unwrap() {
            fs::write(entry.unwrap().path(), "{").unwrap();
        }
        let written = usize::from(refs == "refs/outputs");
        let summary = space.build();
        assert_eq!((summary.ran.len(), summary.written), (0, written), "{refs}");
        assert_eq!(space.build().written, 0);
    }
}
