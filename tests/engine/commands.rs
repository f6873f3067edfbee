//! `kiln cache` on a store that the fake executor filled: the program itself, with its exit codes.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::space::TestSpace;

const RECIPE: &str = r#"
image "common" { base file "base.img"; run-command "one"; output "raw"; }
image "web" { base image "common"; run-command "two"; output "raw"; }
"#;

/// What a command printed, and its exit code.
fn kiln(space: &TestSpace, arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .arg("-C")
        .arg(space.root())
        .arg("--store")
        .arg(&space.store)
        .arg("cache")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

/// The JSON of a command that must succeed.
fn json(space: &TestSpace, arguments: &[&str]) -> Value {
    let (out, err, code) = kiln(space, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn names(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["names"][0].as_str().unwrap()).collect()
}

#[test]
fn results_are_listed_pinned_collected_and_verified() {
    let space = TestSpace::new(RECIPE);
    space.build();
    let listed = json(&space, &["ls"]);
    let mut steps = names(&listed["results"]);
    steps.sort_unstable();
    let all = ["common/base", "common/run-command", "common/seal", "web/run-command", "web/seal"];
    assert_eq!(steps, all);
    let (table, _, _) = kiln(&space, &["ls"]);
    assert!(table.contains("last build of web") && table.contains("output /"), "{table}");

    // A pin by name, and one by the digits of a state.
    let web = space.results().of_action(space.keys()["web/seal"])[0].state;
    assert_eq!(kiln(&space, &["pin", "release", "web"]).2, 0);
    assert_eq!(kiln(&space, &["pin", "same", &web.to_string()[..8]]).2, 0);
    let pins = json(&space, &["ls"])["pins"].clone();
    assert_eq!(pins[0]["what"], "web/seal");
    assert_eq!((&pins[0]["state"], &pins[1]["name"]), (&pins[1]["state"], &"same".into()));
    for (arguments, code) in [
        (&["pin", "x", "nothing"][..], 2),
        (&["pin", "--remove", "x"], 2),
        (&["pin", "x"], 2),
        (&["pin", "x", "web/nothing"], 2),
        (&["pin", "--remove", "same"], 0),
    ] {
        assert_eq!(kiln(&space, arguments).2, code, "{arguments:?}");
    }

    // What is neither pinned nor of a last build goes by the rules of `kiln.kdl`.
    for step in ["zwei", "three"] {
        space.recipe(&RECIPE.replace("two", step));
        space.build();
    }
    // More than a host of tests ever has.
    fs::write(space.root().join("kiln.kdl"), "cache { free \"16T\"; }").unwrap();
    for image in ["common", "web"] {
        fs::remove_file(space.output(image)).unwrap();
    }
    let would = json(&space, &["gc", "--dry-run"]);
    let rules: Vec<_> =
        would["dropped"].as_array().unwrap().iter().map(|dropped| &dropped["rule"]).collect();
    assert_eq!(rules, ["free", "free"]);
    assert_eq!(json(&space, &["ls"])["results"].as_array().unwrap().len(), 9);
    let did = json(&space, &["gc"]);
    assert_eq!((&did["dropped"], &did["objects"]), (&would["dropped"], &would["objects"]));
    assert_eq!(did["unmet"][0], "free");
    assert_eq!(json(&space, &["ls"])["results"].as_array().unwrap().len(), 7);
    assert_eq!(json(&space, &["du"])["store"]["unreferenced"]["count"], 0);

    // Damage is told, repaired, and built again.
    assert_eq!(json(&space, &["verify"])["good"], true);
    let results = space.results();
    let data = results.placement(web).unwrap().data.unwrap();
    let path = space.open().objects().path(data);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (_, err, code) = kiln(&space, &["verify"]);
    assert!(code == 3 && err.contains("kiln::cli::damaged_store"), "{err}");
    let (out, _, code) = kiln(&space, &["verify", "--repair"]);
    assert!(code == 0 && out.contains("what the pin `release` keeps is not in the store"), "{out}");
    assert_eq!(json(&space, &["verify"])["good"], true);
    space.recipe(RECIPE);
    assert_eq!(space.ran(), ["web/seal"]);
}

#[test]
fn a_store_that_is_not_there_is_told_and_not_made() {
    let space = TestSpace::new(RECIPE);
    for command in ["ls", "du", "verify", "gc"] {
        let (_, err, code) = kiln(&space, &[command]);
        assert!(code == 3 && err.contains("kiln::cli::no_store"), "{err}");
    }
    assert!(!space.store.exists());
}
