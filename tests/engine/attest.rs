//! Lists of packages and provenances: each result names them, and `kiln` shows them.

use std::process::Command;

use kiln::digest::ObjectId;
use kiln::execute::Packages;
use kiln::guest::inspect::PackageManager;
use kiln::guest::installed::{Distribution, Inventory, Package};
use kiln::store::results::ActionResult;
use serde_json::Value;

use super::fake::Misdeed;
use super::space::TestSpace;

const RECIPE: &str = r#"image "web" {
    base file "base.img"
    run-command "nothing yet"
    run-command "install"
    run-command "no change"
    run-command "upgrade"
    run-command "break the list"
    output "raw"
}"#;

fn packages(list: &[(&str, &str)]) -> Misdeed {
    let package = |&(name, version): &(&str, &str)| Package {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: "amd64".to_owned(),
    };
    let (id, version) = ("debian".to_owned(), "12".to_owned());
    let distribution = Distribution { id, version, manager: Some(PackageManager::Apt) };
    let packages = list.iter().map(package).collect();
    Misdeed::Find(Packages::Are(Inventory { distribution, packages }))
}

fn built() -> TestSpace {
    let space = TestSpace::new(RECIPE);
    space.executor.misbehave("install", packages(&[("curl", "7.88")]));
    space.executor.misbehave("upgrade", packages(&[("curl", "8.0"), ("jq", "1.6")]));
    space.executor.misbehave("break", Misdeed::Find(Packages::Unknown));
    space.build();
    space
}

fn result(space: &TestSpace, name: &str) -> ActionResult {
    space.results().of_action(space.keys()[name])[0].clone()
}

fn read(space: &TestSpace, id: ObjectId) -> Value {
    serde_json::from_slice(&space.open().objects().read(id, 1 << 20).unwrap()).unwrap()
}

/// The names and versions in a document.
fn listed(document: &Value) -> Vec<(&str, &str)> {
    let components = document["components"].as_array().unwrap();
    components
        .iter()
        .map(|found| (found["name"].as_str().unwrap(), found["version"].as_str().unwrap()))
        .collect()
}

/// What `kiln` prints, and how it ends.
fn kiln(space: &TestSpace, arguments: &[&str]) -> (i32, Vec<u8>) {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(arguments)
        .arg("--store")
        .arg(&space.store)
        .current_dir(space.root())
        .output()
        .unwrap();
    (output.status.code().unwrap(), output.stdout)
}

#[test]
fn a_state_has_the_packages_that_were_last_found() {
    let space = built();
    let sbom = |name: &str| result(&space, &format!("web/{name}")).sbom;
    assert_eq!(sbom("base"), None);
    assert_eq!(sbom("run-command"), None);
    let installed = sbom("run-command#2").unwrap();
    assert_eq!(listed(&read(&space, installed)), [("curl", "7.88")]);
    assert_eq!(sbom("run-command#3"), Some(installed), "nothing changed");
    let upgraded = read(&space, sbom("run-command#4").unwrap());
    assert_eq!(listed(&upgraded), [("curl", "8.0"), ("jq", "1.6")]);
    assert_eq!(sbom("run-command#5"), None, "an old list is worse than none");
}

#[test]
fn every_state_says_how_it_came_to_be() {
    let space = built();
    for (name, key) in space.keys() {
        let result = result(&space, &name);
        let provenance = read(&space, result.provenance.unwrap());
        assert_eq!(provenance["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(provenance["subject"][0]["name"], name.as_str());
        assert_eq!(provenance["subject"][0]["digest"]["kilnState"], result.state.to_string());
        let predicate = &provenance["predicate"];
        assert_eq!(predicate["runDetails"]["metadata"]["invocationId"], key.to_string());
        let dependencies = predicate["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
        let below = dependencies.iter().find(|found| found["name"] == "parent");
        let below = below.map(|found| found["digest"]["kilnState"].as_str().unwrap().to_owned());
        assert_eq!(below, result.parent.map(|state| state.to_string()));
    }
    let base = read(&space, result(&space, "web/base").provenance.unwrap());
    let inputs = &base["predicate"]["buildDefinition"]["resolvedDependencies"];
    assert!(inputs.as_array().unwrap().iter().any(|found| found["name"] == "file"), "{inputs}");
}

#[test]
fn the_commands_show_what_lies_in_the_store() {
    let space = built();
    let of = |arguments: &[&str]| {
        let (code, out) = kiln(&space, arguments);
        assert_eq!(code, 0, "{arguments:?}");
        serde_json::from_slice::<Value>(&out).unwrap()
    };
    let whole = of(&["sbom", "web/run-command#4"]);
    assert_eq!(listed(&whole), [("curl", "8.0"), ("jq", "1.6")]);
    assert_eq!(whole["metadata"]["component"]["name"], "debian");
    let layer = of(&["sbom", "web/run-command#3", "--layer"]);
    assert_eq!(listed(&layer), []);
    let layer = of(&["sbom", "web/run-command#4", "--layer"]);
    assert_eq!(listed(&layer), [("curl", "8.0"), ("jq", "1.6")]);
    let sealed = of(&["provenance", "web"]);
    assert_eq!(sealed["subject"][0]["name"], "web/seal");
    let file = space.root().join("document");
    let (code, out) = kiln(&space, &["provenance", "web/base", "-o", file.to_str().unwrap()]);
    assert_eq!((code, out.len()), (0, 0));
    let written: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(written["subject"][0]["name"], "web/base");
    for missing in ["web/base", "web/run-command#5"] {
        assert_eq!(kiln(&space, &["sbom", missing]).0, 2, "{missing}");
    }
    assert_eq!(kiln(&space, &["sbom", "web/none"]).0, 2);
}
