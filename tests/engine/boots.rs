//! Boot tests as actions: done once, on exactly the state that was sealed, and recorded if passed.

use kiln::engine::{BuildError, Tested};
use kiln::execute::FaultKind;
use kiln::progress::Silent;

use crate::fake::Misdeed;
use crate::space::TestSpace;

const RECIPE: &str = "image \"web\" { base file \"base.img\"; run-command \"one\"; output \"raw\"; \
                      test { expect \"login:\"; expect-command \"echo fine\" output=\"fine\"; }; }";

fn test(space: &TestSpace, again: bool) -> Result<Vec<Tested>, BuildError> {
    space.test_with(again, &mut Silent)
}

fn failed(tested: &[Tested]) -> Vec<&str> {
    tested[0].report.failures().map(|finding| finding.name.as_str()).collect()
}

/// How many machines were booted since it was last asked.
fn booted(space: &TestSpace, before: &mut usize) -> usize {
    let trace = space.executor.trace();
    let count = trace.iter().filter(|task| task.starts_with("BOOT")).count();
    count - std::mem::replace(before, count)
}

#[test]
fn what_passed_is_not_booted_again_until_the_image_or_the_test_changes() {
    let space = TestSpace::new(RECIPE);
    space.build();
    let mut before = 0;
    let tested = test(&space, false).unwrap();
    assert_eq!((failed(&tested), tested[0].cached), (vec![], false));
    assert_eq!(booted(&space, &mut before), 2);
    assert!(std::fs::read_to_string(&tested[0].log).unwrap().contains("clone-2 login:"));

    let tested = test(&space, false).unwrap();
    assert!(tested[0].cached && failed(&tested).is_empty());
    assert_eq!(booted(&space, &mut before), 0);
    assert!(!test(&space, true).unwrap()[0].cached);
    assert_eq!(booted(&space, &mut before), 2);

    // How long it may take decides nothing.
    space.recipe(&RECIPE.replace("test {", "test timeout=\"5m\" {"));
    assert!(test(&space, false).unwrap()[0].cached);
    space.recipe(&RECIPE.replace("\"echo fine\"", "\"echo fine #\""));
    assert!(!test(&space, false).unwrap()[0].cached);
    assert_eq!(booted(&space, &mut before), 2);
    space.recipe(&RECIPE.replace("\"one\"", "\"two\""));
    space.build();
    assert!(!test(&space, false).unwrap()[0].cached);
    assert_eq!(booted(&space, &mut before), 2);
}

#[test]
fn what_failed_is_booted_again() {
    let space = TestSpace::new(RECIPE);
    space.build();
    space.executor.misbehave("BOOT", Misdeed::Twin);
    let tested = test(&space, false).unwrap();
    assert_eq!(failed(&tested), ["clones"]);
    space.executor.behave();
    let tested = test(&space, false).unwrap();
    assert_eq!((failed(&tested), tested[0].cached), (vec![], false));
}

#[test]
fn one_machine_is_enough_where_clones_need_not_be_seen() {
    let recipe = RECIPE.replace("test {", "test { without \"clones\"; metadata \"service\";");
    let space = TestSpace::new(&recipe);
    space.build();
    let tested = test(&space, false).unwrap();
    assert_eq!(failed(&tested), [""; 0]);
    assert_eq!(booted(&space, &mut 0), 1);
}

#[test]
fn an_image_that_was_not_built_is_told() {
    let space = TestSpace::new(RECIPE);
    let error = test(&space, false).unwrap_err();
    assert_eq!(error.kind(), FaultKind::Host);
    assert!(error.to_string().contains("`web` is not built"), "{error}");
}

#[test]
fn a_test_that_panics_is_a_fault() {
    let space = TestSpace::new(RECIPE);
    space.build();
    space.executor.misbehave("BOOT clone-2", Misdeed::Panic);
    let error = test(&space, false).unwrap_err();
    assert_eq!(error.kind(), FaultKind::Host);
    space.executor.behave();
    assert!(failed(&test(&space, false).unwrap()).is_empty());
}
