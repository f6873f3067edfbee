//! When values of secrets are needed, and what becomes of a layer that holds one.

use std::fs;

use kiln::engine::BuildError;
use kiln::execute::FaultKind;

use super::space::TestSpace;

const RECIPE: &str = r#"
image "web" {
    base file "base.img"
    run-command "one" { secret "token"; }
    run-command "two"
    output "raw"
}
"#;

/// A space whose secret lies in a file.
fn space(recipe: &str) -> TestSpace {
    let space = TestSpace::new(recipe);
    fs::write(space.root().join("kiln.kdl"), "secret \"token\" file=\"token\"\n").unwrap();
    fs::write(space.root().join("token"), "correct horse\n").unwrap();
    space
}

fn steps(error: &BuildError) -> Vec<String> {
    let BuildError::Steps { steps, .. } = error else { panic!("{error:?}") };
    steps
        .iter()
        .map(|step| {
            format!("{step}: {:?}", miette::Diagnostic::code(step).map(|it| it.to_string()))
        })
        .collect()
}

#[test]
fn a_value_is_needed_only_by_what_runs() {
    let space = space(RECIPE);
    fs::remove_file(space.root().join("token")).unwrap();
    let error = space.try_build().unwrap_err();
    assert_eq!(error.kind(), FaultKind::Host);
    let steps = steps(&error);
    assert!(steps.len() == 1 && steps[0].contains("kiln::secret::file"), "{steps:?}");
    assert_eq!(space.executor.trace(), [""; 0], "it is missed before anything runs");

    fs::write(space.root().join("token"), "correct horse").unwrap();
    space.build();
    fs::remove_file(space.root().join("token")).unwrap();
    assert_eq!(space.ran(), [""; 0]);
    // What stands on the step can change without it.
    space.recipe(&RECIPE.replace("two", "three"));
    assert_eq!(space.ran(), ["web/run-command#2", "web/seal"]);
}

#[test]
fn the_version_is_in_the_key_and_the_value_is_not() {
    let space = space(RECIPE);
    space.build();
    fs::write(space.root().join("token"), "another value").unwrap();
    assert_eq!(space.ran(), [""; 0]);
    let raised = "secret \"token\" file=\"token\" version=\"2\"\n";
    fs::write(space.root().join("kiln.kdl"), raised).unwrap();
    assert_eq!(space.ran(), ["web/run-command", "web/run-command#2", "web/seal"]);
}

#[test]
fn a_layer_that_holds_a_value_is_not_recorded() {
    // This executor writes a step's text to the disk.
    for (one, two, ran) in [
        ("echo correct horse", "two", 1),
        ("echo 636f727265637420686f727365", "two", 1),
        ("one", "echo correct horse", 2),
    ] {
        let space = space(
            &RECIPE
                .replace("\"one\"", &format!("\"{one}\""))
                .replace("\"two\"", &format!("\"{two}\"")),
        );
        let error = space.try_build().unwrap_err();
        assert_eq!(error.kind(), FaultKind::Step);
        let steps = steps(&error);
        assert!(steps[0].contains("kiln::engine::secret_in_layer"), "{steps:?}");
        assert!(!steps[0].contains("horse"), "{steps:?}");
        let recorded = space.results().iter().count();
        assert_eq!(recorded, ran, "the base, and what came before");
    }
    // A value that the lane was not given is not looked for.
    let space =
        space(&RECIPE.replace(" { secret \"token\"; }", "").replace("one", "correct horse"));
    space.build();
}
