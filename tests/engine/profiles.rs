//! What profiles require of images: told, refused, inherited, and never asked twice.

use kiln::execute::FaultKind;

use crate::space::{TestSpace, Watch};

/// In the fake's guests, packages whose names start with `no-` are never installed.
fn recipe(severity: &str, more: &str) -> String {
    format!(
        "profile \"team\" {{ package \"nginx\"; package \"no-such\" name=\"other\" \
         severity=\"{severity}\"; }}\n\
         image \"web\" {{ base file \"base.img\"; run-command \"one\"; profile \"team\" \
         network=#false; output \"raw\"; }}\n{more}"
    )
}

#[test]
fn a_requirement_that_fails_ends_the_build_and_records_no_seal() {
    let space = TestSpace::new(&recipe("error", ""));
    let error = space.try_build().unwrap_err();
    assert_eq!(error.kind(), FaultKind::Step);
    let said = format!("{error:?}");
    assert!(said.contains("kiln::engine::requirements"), "{said}");
    assert!(said.contains("other: lacking") && !said.contains("nginx:"), "{said}");
    assert!(!space.output("web").exists());
    // Only what the requirement is about has to run again.
    space.recipe(&recipe("warning", ""));
    assert_eq!(space.ran(), ["web/profile", "web/seal"]);
}

#[test]
fn what_is_less_than_an_error_is_told_once() {
    let space = TestSpace::new(&recipe("warning", ""));
    let mut watch = Watch::default();
    space.build_with(&mut watch).unwrap();
    assert_eq!(watch.warnings, ["web: other: lacking"]);
    let mut watch = Watch::default();
    space.build_with(&mut watch).unwrap();
    assert_eq!(watch.warnings, [""; 0]);
}

#[test]
fn an_image_inherits_what_is_required_of_the_one_below() {
    let shop = "image \"shop\" { base image \"web\"; run-command \"two\"; }";
    let space = TestSpace::new(&recipe("warning", shop));
    let mut watch = Watch::default();
    space.build_with(&mut watch).unwrap();
    watch.warnings.sort();
    assert_eq!(watch.warnings, ["shop: other: lacking", "web: other: lacking"]);
    // One that says it again less strictly takes nothing back.
    let own = "profile \"own\" { package \"no-such\" name=\"other\" severity=\"advice\"; package \"nginx\" \
               name=\"more\"; }\nimage \"shop\" { base image \"web\"; run-command \"two\"; profile \
               \"own\" network=#false; }";
    space.recipe(&recipe("warning", own));
    let mut watch = Watch::default();
    space.build_with(&mut watch).unwrap();
    assert_eq!(watch.warnings, ["shop: other: lacking"]);
}
