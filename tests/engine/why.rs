//! Why steps run: every kind of reason in its words, whatever became of names, places and stores.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use kiln::digest::ActionKey;
use kiln::explain::{Before, Built, Head, Reason};
use kiln::key::Value;
use kiln::name::ImageName;
use kiln::plan::history::{Heads, UnknownBuild};
use kiln::plan::why::{Style, Why};
use kiln::plan::{self, History, LastBuild, LastStep};
use kiln::store::results::ActionResult;

use super::fake::Misdeed;
use super::space::TestSpace;

const WEB: &str = r#"
image "web" {
    base file "base.img"
    install "nginx" "vim"
    upload "input" "/etc/input"
    copy-in "site" "/srv"
    run-command "set -e\nsystemctl enable nginx\n" name="setup"
    write "/etc/motd" "hello"
    output "raw"
}
"#;

fn web() -> TestSpace {
    let space = TestSpace::new(WEB);
    space.input("input", "a");
    space.input("site/index.html", "a");
    space
}

fn built() -> TestSpace {
    let space = web();
    space.build();
    space
}

/// What else is asked with.
#[derive(Default)]
struct Asked<'a> {
    trusts: Option<&'a dyn Fn(&str) -> bool>,
    heads: Option<Heads<'a>>,
    against: Option<ActionKey>,
}

/// The answer about an image.
pub(super) fn why(space: &TestSpace, image: &str) -> Why {
    why_asked(space, image, &Asked::default())
}

fn why_asked(space: &TestSpace, image: &str, asked: &Asked<'_>) -> Why {
    let workspace = space.workspace();
    let actions = space.actions(&workspace);
    let store = space.open();
    let results = store.results().unwrap();
    let mut history = History::new(&workspace, Some(&store));
    if let Some(trusts) = asked.trusts {
        history = history.trusting(trusts);
    }
    if let Some(heads) = asked.heads {
        history = history.with_heads(heads);
    }
    let plan = plan::plan(&actions, &results, |_| true, &history, &BTreeMap::new());
    if let Some(key) = asked.against {
        history = history.against(key);
    }
    let image = workspace.graph.find(image).unwrap();
    let chain = actions.chains.iter().find(|chain| chain.image == image).unwrap();
    let why = Why::new(&actions, chain, &plan, &results, &history);
    // The plan and the answer never have two reasons for one step.
    for (&node, step) in chain.all().zip(&why.steps) {
        if let (Some(planned), None) = (plan.reason(node), asked.against)
            && actions.chains.len() == 1
        {
            assert_eq!(Some(planned), step.reason.as_ref());
        }
    }
    why
}

/// The short answer about the image `web`.
fn told(space: &TestSpace) -> String {
    why(space, "web").text(Style::default())
}

/// Notes a last build as if it had been done, without a result.
fn note(space: &TestSpace, change: impl Fn(&str, &str, &mut Value)) {
    let workspace = space.workspace();
    let mut last = LastBuild::default();
    let mut keys = BTreeMap::new();
    for mut node in space.actions(&workspace).nodes {
        for (name, value) in &mut node.manifest.fields {
            if let (Some(key), Value::Digest(parent)) =
                (keys.get(value.to_string().as_str()), &mut *value)
            {
                *parent = *key;
            }
            change(&node.name, name, value);
        }
        let key = node.manifest.key();
        keys.insert(node.key.short(), key.0);
        last.steps.insert(node.name, LastStep { key, state: None, manifest: node.manifest });
    }
    space.open().refs().set_image(&"web".parse().unwrap(), &last).unwrap();
}

#[test]
fn what_changed_in_the_recipe() {
    let mut text = String::new();
    let mut tell = |what: &str, recipe: &str| {
        let space = built();
        space.recipe(recipe);
        writeln!(text, "── {what}\n{}", told(&space)).unwrap();
    };
    tell("nothing", WEB);
    tell("a value", &WEB.replace("hello", "goodbye"));
    tell("a line of a script", &WEB.replace("enable nginx", "disable nginx"));
    tell("a list", &WEB.replace("\"nginx\" \"vim\"", "\"curl\" \"nginx\""));
    tell("a step put in", &WEB.replace("    copy-in", "    mkdir \"/x\"\n    copy-in"));
    tell("a step taken out", &WEB.replace("    upload \"input\" \"/etc/input\"\n", ""));
    tell("the last step taken out", &WEB.replace("    write \"/etc/motd\" \"hello\"\n", ""));
    tell(
        "a step moved",
        &WEB.replace("    upload \"input\" \"/etc/input\"\n", "")
            .replace("    write", "    upload \"input\" \"/etc/input\"\n    write"),
    );
    tell(
        "a step of another kind",
        &WEB.replace(
            "run-command \"set -e\\nsystemctl enable nginx\\n\"",
            "write \"/etc/setup\" \"x\"",
        ),
    );
    tell(
        "a step with another name, and changed",
        &WEB.replace("\"setup\"", "\"enable\"").replace("set -e", "set -u"),
    );
    tell("a base that grows", &WEB.replace("base.img\"", "base.img\" size=\"2M\""));
    tell("another format of the base", &WEB.replace("base.img\"", "base.img\" format=\"raw\""));
    tell(
        "what the seal scrubs",
        &WEB.replace("output", "scrub { keep \"logfiles\"; }\n    output"),
    );
    tell(
        "several things",
        &WEB.replace("hello", "goodbye").replace("\"vim\"", "").replace("/srv", "/var/www"),
    );
    insta::assert_snapshot!(text);
}

#[test]
fn what_changed_around_the_recipe() {
    let mut text = String::new();
    let mut tell = |what: &str, change: &dyn Fn(&mut TestSpace)| {
        let recipe = WEB.replace("\"vim\"", "\"vim\" refresh=\"24h\"");
        let recipe = recipe.replace("name=\"setup\"", "name=\"setup\" { secret \"token\"; }");
        let mut space = web();
        space.recipe(&recipe);
        let secret = "secret \"token\" file=\"token\"\n";
        fs::write(space.root().join("kiln.kdl"), secret).unwrap();
        fs::write(space.root().join("token"), "correct horse").unwrap();
        space.build();
        change(&mut space);
        writeln!(text, "── {what}\n{}", told(&space)).unwrap();
    };
    tell("a file", &|space| space.input("input", "b"));
    tell("a tree", &|space| space.input("site/index.html", "b"));
    tell("the base", &|space| space.base("base.img", 8));
    tell("a generation", &|space| space.refresh());
    tell("a period", &|space| space.now += Duration::from_hours(24));
    tell("a secret's version", &|space| {
        let raised = "secret \"token\" file=\"token\" version=\"2\"\n";
        fs::write(space.root().join("kiln.kdl"), raised).unwrap();
    });
    tell("a secret's value", &|space| fs::write(space.root().join("token"), "other").unwrap());
    tell("a layer", &|space| {
        let key = space.keys()["web/copy-in"];
        let state = space.results().of_action(key)[0].state;
        space.open().drop_state(state).unwrap();
    });
    tell("the whole store", &|space| fs::remove_dir_all(&space.store).unwrap());
    insta::assert_snapshot!(text);
}

#[test]
fn another_kiln_and_another_host() {
    let mut text = String::new();
    let mut tell = |what: &str, of: &str, field: &str, before: Value| {
        let space = web();
        note(&space, |step, name, value| {
            if (of.is_empty() || of == step) && name == field {
                *value = before.clone();
            }
        });
        writeln!(text, "── {what}\n{}", told(&space)).unwrap();
    };
    tell("schema", "", "schema", Value::Number(0));
    tell("executor", "", "executor.epoch", Value::Number(0));
    tell("operation", "web/write", "operation.epoch", Value::Number(0));
    tell("architecture", "", "architecture", Value::Text("vax".to_owned()));
    insta::assert_snapshot!(text);
}

#[test]
fn a_base_that_the_lock_file_has_another_file_for() {
    let space = web();
    let lock = |digit: &str| {
        let line = format!(
            "resolved \"catalog debian-12 {}\" url=\"https://a.example/d\" sha256=\"{}\"\n",
            std::env::consts::ARCH,
            digit.repeat(64)
        );
        fs::write(space.root().join("kiln.lock"), line).unwrap();
    };
    space.recipe(&WEB.replace("file \"base.img\"", "catalog \"debian-12\""));
    lock("a");
    note(&space, |_, _, _| {});
    lock("b");
    let text = told(&space);
    assert!(
        text.contains(
            "kiln.lock has another file for `catalog debian-12`: \
             sha256 aaaaaaaaaaaa… → sha256 bbbbbbbbbbbb…"
        ),
        "{text}"
    );
}

#[test]
fn a_password_is_another_and_nobody_is_told_which() {
    let recipe = WEB.replace("write \"/etc/motd\" \"hello\"", "password \"root\" plain=\"horse\"");
    let space = web();
    space.recipe(&recipe);
    space.build();
    space.recipe(&recipe.replace("horse", "battery"));
    assert_eq!(space.reason("web/password"), Reason::Secret);
    let why = why(&space, "web");
    let text = why.text(Style { all: true, colours: false });
    assert!(text.contains("cause  web/password: a secret is another"), "{text}");
    let json = serde_json::to_string(&why).unwrap();
    for told in [text, json] {
        assert!(!told.contains("horse") && !told.contains("battery"), "{told}");
    }
}

#[test]
fn one_step_and_everything() {
    let space = built();
    space.recipe(&WEB.replace("enable nginx", "disable nginx"));
    let why = why(&space, "web");
    let at = |name: &str| why.steps.iter().position(|step| step.step == name).unwrap();
    let style = Style { all: true, colours: false };
    let mut text = String::new();
    for step in ["web/upload", "web/setup", "web/seal"] {
        text.push_str(&why.text_of(at(step), Style::default()));
        text.push('\n');
    }
    text.push_str(&why.text(style));
    // Keys hold the digest of a test's own base, which never changes.
    insta::assert_snapshot!(text);
    let colours = why.text(Style { all: true, colours: true });
    assert!(colours.contains("\u{1b}[33mrun   \u{1b}[0m"), "{colours:?}");
    let seal = serde_json::to_value(&why.steps[at("web/seal")]).unwrap();
    assert_eq!(seal["reason"]["kind"], "below");
    assert_eq!(seal["reason"]["causes"][0]["step"], "web/setup");
    assert_eq!(seal["reason"]["causes"][0]["event"], "changed");
    let setup = serde_json::to_value(&why.steps[at("web/setup")]).unwrap();
    assert_eq!(setup["reason"]["changes"][0]["about"], "value");
    assert_eq!(setup["reason"]["changes"][0]["fields"][0]["name"], "script");
}

#[test]
fn a_renamed_image_is_explained_by_what_it_was() {
    let space = built();
    space.recipe(&WEB.replace("\"web\"", "\"www\"").replace("hello", "goodbye"));
    let text = why(&space, "www").text(Style::default());
    insta::assert_snapshot!(text);
    assert!(space.reason("www/write").to_string().ends_with("(as built for web/write)"));
}

#[test]
fn a_fresh_checkout_beside_a_full_store_is_explained() {
    let space = built();
    space.forget_last_builds();
    space.input("site/index.html", "b");
    let mut fresh = web();
    fresh.input("site/index.html", "b");
    fresh.store.clone_from(&space.store);
    assert_eq!(space.plan(), fresh.plan());
    let Reason::Changed { was: None, changes } = fresh.reason("web/copy-in") else {
        panic!("{:?}", fresh.plan())
    };
    let change = changes[0].to_string();
    assert!(change.starts_with("recipes/site changed: "), "{change}");
    let seal = fresh.reason("web/seal").to_string();
    assert_eq!(seal, "web/copy-in below it changed");
}

#[test]
fn of_several_builds_the_most_alike_is_taken_and_then_the_newest() {
    let space = web();
    for word in ["hello", "help", "goodbye"] {
        space.recipe(&WEB.replace("hello", word));
        space.build();
    }
    space.forget_last_builds();
    // It says what no build says, and is as far from each of them.
    space.recipe(&WEB.replace("hello", "help yourself").replace("/etc/motd", "/etc/issue"));
    let before = |space: &TestSpace| -> Before {
        let workspace = space.workspace();
        let actions = space.actions(&workspace);
        let (store, results) = (space.open(), space.results());
        let history = History::new(&workspace, Some(&store));
        history.before(&actions, &actions.chains[0], &results).unwrap()
    };
    let first = before(&space);
    assert_eq!(first, before(&space), "always the same");
    // Another store has the same results in another order.
    let other = web();
    other.take_over(&space.store);
    other.recipe(&WEB.replace("hello", "help yourself").replace("/etc/motd", "/etc/issue"));
    assert_eq!(first.steps, before(&other).steps);
    // A build that says the same but for one value is nearer, however old.
    space.recipe(&WEB.replace("\"hello\"", "\"help\" mode=\"0600\""));
    let Reason::Changed { changes, .. } = space.reason("web/write") else { panic!() };
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].to_string(), "mode: nothing → \"0600\"");
}

#[test]
fn another_image_with_nothing_in_common_explains_nothing() {
    let space = TestSpace::new("image \"db\" { base scratch size=\"1M\"; output \"raw\"; }");
    space.build();
    space.recipe(WEB);
    space.input("input", "a");
    space.input("site/index.html", "a");
    assert!(why(&space, "web").compared_with.is_none());
    assert_eq!(space.reason("web/base"), Reason::New);
}

#[test]
fn an_image_below_is_the_cause_for_all_that_stand_on_it() {
    let family = "image \"common\" { base file \"base.img\"; run-command \"one\"; output \"raw\"; }\n\
                  image \"web\" { base image \"common\"; run-command \"two\"; output \"raw\"; }\n";
    let space = TestSpace::new(family);
    space.build();
    space.recipe(&family.replace("one", "eins"));
    let text = told(&space);
    insta::assert_snapshot!(text);
}

#[test]
fn after_a_failed_build_the_last_good_one_counts() {
    let space = built();
    space.recipe(&WEB.replace("nginx\" \"vim", "nginx").replace("hello", "fails"));
    space.executor.misbehave("fails", Misdeed::Fail);
    space.try_build().unwrap_err();
    // What failed says something else, and so did what succeeded below it.
    let Reason::Changed { changes, .. } = space.reason("web/write") else { panic!() };
    assert_eq!(changes[0].to_string(), r#"content: "hello\n" → "fails\n""#);
    space.recipe(&WEB.replace("nginx\" \"vim", "nginx"));
    assert_eq!(space.reason("web/write").to_string(), "web/install below it changed");
}

#[test]
fn a_result_by_a_revoked_key_is_not_used() {
    let space = built();
    let key = space.keys()["web/seal"];
    let results = space.results();
    let result = &results.of_action(key)[0];
    let signed = ActionResult { signer: Some("A1B2C3".to_owned()), ..result.clone() };
    space.open().record(None, &signed).unwrap();
    assert_eq!(why(&space, "web").run, 0);
    let trusts = |signer: &str| signer != "A1B2C3";
    let why = why_asked(&space, "web", &Asked { trusts: Some(&trusts), ..Asked::default() });
    assert_eq!(why.run, 1);
    let text = why.text(Style::default());
    assert!(text.contains("web/seal: the key A1B2C3 that signed its result is revoked"), "{text}");
}

#[test]
fn what_a_remote_tells_is_compared_with_where_the_store_is_empty() {
    let space = built();
    let workspace = space.workspace();
    let steps = space.actions(&workspace).nodes.into_iter();
    let steps = steps.map(|node| Built { name: node.name, key: node.key, manifest: node.manifest });
    let head = Head { image: "web".parse().unwrap(), at: 0, steps: steps.collect() };
    let head = Head::decode(&head.encode().unwrap(), &head.image).unwrap();
    let fresh = web();
    fresh.recipe(&WEB.replace("hello", "goodbye"));
    let heads = |_: &ImageName| Some(head.clone());
    let asked = Asked { heads: Some(&heads), ..Asked::default() };
    let text = |space: &TestSpace| why_asked(space, "web", &asked).text(Style::default());
    insta::assert_snapshot!(text(&fresh));
    // What was built here counts more.
    assert!(text(&space).starts_with("web: nothing runs"));
}

#[test]
fn a_result_can_be_named_and_compared_with() {
    let space = built();
    let old = space.keys()["web/write"];
    space.recipe(&WEB.replace("hello", "goodbye"));
    space.build();
    let results = space.results();
    let workspace = space.workspace();
    let store = space.open();
    let history = History::new(&workspace, Some(&store));
    let state = results.of_action(old)[0].state;
    assert_eq!(history.find(&results, &old.to_string()[..16]).unwrap(), old);
    assert_eq!(history.find(&results, &state.to_string()).unwrap(), old);
    for (start, several) in [("", true), ("zz", false), (&old.to_string()[..3], true)] {
        let found = history.find(&results, start).unwrap_err();
        assert_eq!(matches!(found, UnknownBuild::Several { .. }), several, "{start}");
    }
    let asked = Asked { against: Some(old), ..Asked::default() };
    let text = why_asked(&space, "web", &asked).text(Style::default());
    let text = text.replace(&old.to_string()[..12], "KEY");
    insta::assert_snapshot!(text);
}

#[test]
fn the_command_answers_from_what_the_engine_left() {
    let space = built();
    space.recipe(&WEB.replace("hello", "goodbye"));
    let kiln = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
            .arg("-C")
            .arg(space.root())
            .arg("--store")
            .arg(&space.store)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, text, _) = kiln(&["why", "web"]);
    assert_eq!((code, text), (Some(0), told(&space)));
    let (_, json, _) = kiln(&["why", "web/write", "--json"]);
    let why: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(why["compared_with"]["kind"], "last");
    assert_eq!(why["step"]["reason"]["kind"], "changed");
    // The plan has the same reasons.
    let (_, json, _) = kiln(&["plan", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["images"][0]["steps"][5]["reason"], why["step"]["reason"]);
    for (arguments, help) in [
        (&["why", "web/wrote"][..], "did you mean `write`?"),
        (&["why", "wev"], "did you mean `web`?"),
        (&["why", "web", "--against", "zzzz"], "keys are shown by"),
    ] {
        let (code, _, error) = kiln(arguments);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(help), "{error}");
    }
}
