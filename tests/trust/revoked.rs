//! What a revoked key signed is not used any more, nor what was built on it.

use std::collections::BTreeSet;
use std::fs;

use kiln::plan::Fate;
use kiln::store::results::ActionResult;

use super::records::TestKey;
use super::space::TestSpace;

const RECIPE: &str = r#"image "web" {
    base file "base.img"
    run-command "one"
    run-command "two"
    run-command "three"
    output "raw"
}"#;

/// Writes `kiln.kdl` with a key in it.
fn list(space: &TestSpace, key: &TestKey, more: &str) {
    let key = key.signer.verifying_key();
    fs::write(space.root().join("kiln.kdl"), format!("trust \"{key}\"{more}\n")).unwrap();
}

/// Says of a result that it came from a remote, signed by a key.
fn signed(space: &TestSpace, name: &str, key: &TestKey) {
    let result = space.results().of_action(space.keys()[name])[0].clone();
    let signer = Some(key.signer.id().to_string());
    space.open().record(None, &ActionResult { signer, ..result }).unwrap();
}

/// The names of what is planned to run.
fn runs(space: &TestSpace) -> BTreeSet<String> {
    let runs = space.plan().into_iter().filter(|(_, fate)| matches!(fate, Fate::Run(_)));
    runs.map(|(name, _)| name).collect()
}

#[test]
fn a_build_does_not_stand_on_what_a_revoked_key_signed() {
    let ann = TestKey::new();
    let space = TestSpace::new(RECIPE);
    list(&space, &ann, "");
    space.build();
    let seal = space.keys()["web/seal"];
    let before = space.results().of_action(seal)[0].state;
    // The second step came from a colleague; the rest was built here on top of it.
    signed(&space, "web/run-command#2", &ann);
    fs::remove_file(space.output("web")).unwrap();
    let built = space.build();
    assert!(built.ran.is_empty(), "a trusted key's result serves: {:?}", built.ran);
    assert!(space.build().written == 0);

    list(&space, &ann, " revoked=#true");
    let built = space.build();
    let expected = ["web/run-command#2", "web/run-command#3", "web/seal"];
    assert_eq!(built.ran, expected, "what was built on it runs again, too");
    assert_eq!(built.written, 1, "so does the output that was made from it");
    let now: Vec<_> = space.results().of_action(seal).iter().map(|found| found.state).collect();
    assert_eq!(now.len(), 2);
    assert_ne!(now[0], now[1]);
    assert!(now.contains(&before), "what is not used is still there");
    let again = space.build();
    assert_eq!((again.ran.len(), again.written), (0, 0));
    assert!(runs(&space).is_empty());
}

#[test]
fn a_key_that_is_not_listed_any_more_does_not_count_either() {
    let ann = TestKey::new();
    let mut space = TestSpace::new(RECIPE);
    space.options.verify_layers = false;
    list(&space, &ann, "");
    space.build();
    signed(&space, "web/base", &ann);
    fs::write(space.root().join("kiln.kdl"), "").unwrap();
    assert!(space.build().ran.is_empty(), "nobody signed anything when the output was made");
    fs::remove_file(space.output("web")).unwrap();
    assert_eq!(runs(&space).len(), 5, "all stand on the base");
    // It is the same bytes when it is made here, and what stands on it counts again.
    assert_eq!(space.build().ran, ["web/base"]);
}
